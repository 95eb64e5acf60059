/* SPDX-License-Identifier: Apache-2.0 */
/* Block types: whole numbers and scales are packed here by the layout's description, one element at a time,
 * and must come back as the formula of the type gives them, bit for bit. Half floats against their
 * definition with ldexp. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/gguf/types.h"
#include "tests/unit/guard.h"
#include "tests/unit/model_rig.h"
#include "worker/kern/ref/dequant.h"
#include "worker/kern/ref/half.h"

enum { BLOCK_BYTES_MAX = 256, BLOCK_ELEMENTS_MAX = 256, ROUNDS = 200 };

/* One block in the making and what it must decode to. */
struct sample {
    uint8_t bytes[BLOCK_BYTES_MAX];
    float expected[BLOCK_ELEMENTS_MAX];
};

static struct rng rng;

static uint32_t draw(uint32_t bound)
{
    return (uint32_t)rng_below(&rng, bound);
}

/* A random positive or negative scale that binary16 holds exactly, with its bytes. */
static float put_scale(uint8_t *bytes)
{
    uint16_t half = (uint16_t)(draw(2) << 15 | (1 + draw(29)) << 10 | draw(1024));
    bytes[0] = (uint8_t)half;
    bytes[1] = (uint8_t)(half >> 8);
    int exponent = (half >> 10 & 31) - 15;
    float magnitude = ldexpf(1.0f + (float)(half & 1023) / 1024.0f, exponent);
    return half >> 15 ? -magnitude : magnitude;
}

/* Puts `width` low bits of value at bit `shift` of *byte. */
static void put_bits(uint8_t *byte, uint32_t value, uint32_t shift, uint32_t width)
{
    CHECK(value < 1u << width);
    *byte = (uint8_t)(*byte | value << shift);
}

/* Element j of a 32-block: low nibble of byte j, or high nibble of byte j - 16. */
static void put_nibble(uint8_t *qs, uint32_t j, uint32_t value)
{
    put_bits(&qs[j & 15], value, j < 16 ? 0 : 4, 4);
}

static void make_q4_0(struct sample *s)
{
    float d = put_scale(s->bytes);
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(16);
        put_nibble(s->bytes + 2, j, q);
        s->expected[j] = d * ((float)q - 8);
    }
}

static void make_q4_1(struct sample *s)
{
    float d = put_scale(s->bytes), m = put_scale(s->bytes + 2);
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(16);
        put_nibble(s->bytes + 4, j, q);
        s->expected[j] = d * (float)q + m;
    }
}

static void put_fifth(uint8_t *qh, uint32_t j, uint32_t q)
{
    put_bits(&qh[j / 8], q >> 4, j % 8, 1);
}

static void make_q5_0(struct sample *s)
{
    float d = put_scale(s->bytes);
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(32);
        put_fifth(s->bytes + 2, j, q);
        put_nibble(s->bytes + 6, j, q & 15);
        s->expected[j] = d * ((float)q - 16);
    }
}

static void make_q5_1(struct sample *s)
{
    float d = put_scale(s->bytes), m = put_scale(s->bytes + 2);
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(32);
        put_fifth(s->bytes + 4, j, q);
        put_nibble(s->bytes + 8, j, q & 15);
        s->expected[j] = d * (float)q + m;
    }
}

static void make_q8_0(struct sample *s)
{
    float d = put_scale(s->bytes);
    for (uint32_t j = 0; j < 32; j++) {
        int q = (int)draw(256) - 128;
        s->bytes[2 + j] = (uint8_t)q;
        s->expected[j] = d * (float)q;
    }
}

static void make_iq4_nl(struct sample *s)
{
    static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    float d = put_scale(s->bytes);
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(16);
        put_nibble(s->bytes + 2, j, q);
        s->expected[j] = d * values[q];
    }
}

static void make_mxfp4(struct sample *s)
{
    static const float values[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    uint32_t e = draw(250); // 2^(e - 127) times at most 6 stays finite
    s->bytes[0] = (uint8_t)e;
    for (uint32_t j = 0; j < 32; j++) {
        uint32_t q = draw(16);
        put_nibble(s->bytes + 1, j, q);
        s->expected[j] = ldexpf(q < 8 ? values[q] : -values[q - 8], (int)e - 127);
    }
}

/* Two bits of element e of a Q2_K or Q3_K block: halves of 128 elements in 32 bytes, 32 elements a shift. */
static void put_two_bits(uint8_t *qs, uint32_t e, uint32_t q)
{
    uint32_t half = e / 128, row = e % 128 / 32, column = e % 32;
    put_bits(&qs[half * 32 + column], q, row * 2, 2);
}

static void make_q2_k(struct sample *s)
{
    float d = put_scale(s->bytes + 80), dmin = put_scale(s->bytes + 82);
    uint32_t scale = 0, min = 0;
    for (uint32_t e = 0; e < 256; e++) {
        if (e % 16 == 0) {
            scale = draw(16), min = draw(16);
            s->bytes[e / 16] = (uint8_t)(scale | min << 4);
        }
        uint32_t q = draw(4);
        put_two_bits(s->bytes + 16, e, q);
        s->expected[e] = d * (float)scale * (float)q - dmin * (float)min;
    }
}

static void make_q3_k(struct sample *s)
{
    float d = put_scale(s->bytes + 108);
    uint32_t scale = 0;
    uint8_t *scales = s->bytes + 96;
    for (uint32_t e = 0; e < 256; e++) {
        uint32_t i = e / 16;
        if (e % 16 == 0) {
            scale = draw(64);
            put_bits(&scales[i % 8], scale & 15, i < 8 ? 0 : 4, 4);
            put_bits(&scales[8 + i % 4], scale >> 4, i / 4 * 2, 2);
        }
        int q = (int)draw(8) - 4; // three bits, the upper one kept apart and inverted in meaning
        put_two_bits(s->bytes + 32, e, (uint32_t)(q + 4) & 3);
        put_bits(&s->bytes[e % 32], q >= 0 ? 1 : 0, e / 32, 1);
        s->expected[e] = d * ((float)scale - 32) * (float)q;
    }
}

/* Scale and min j of Q4_K and Q5_K into 12 bytes. */
static void put_k_scale(uint8_t *packed, uint32_t j, uint32_t scale, uint32_t min)
{
    if (j < 4) {
        put_bits(&packed[j], scale, 0, 6);
        put_bits(&packed[j + 4], min, 0, 6);
    } else {
        put_bits(&packed[j + 4], scale & 15, 0, 4);
        put_bits(&packed[j + 4], min & 15, 4, 4);
        put_bits(&packed[j - 4], scale >> 4, 6, 2);
        put_bits(&packed[j], min >> 4, 6, 2);
    }
}

/* Q4_K (bits 4) and Q5_K (bits 5). */
static void make_k(struct sample *s, uint32_t bits)
{
    float d = put_scale(s->bytes), dmin = put_scale(s->bytes + 2);
    uint8_t *qh = s->bytes + 16, *qs = bits == 5 ? s->bytes + 48 : s->bytes + 16;
    for (uint32_t sub = 0; sub < 8; sub++) {
        uint32_t scale = draw(64), min = draw(64);
        put_k_scale(s->bytes + 4, sub, scale, min);
        for (uint32_t j = 0; j < 32; j++) {
            uint32_t q = draw(1u << bits);
            put_bits(&qs[sub / 2 * 32 + j], q & 15, sub & 1 ? 4 : 0, 4);
            if (bits == 5) put_bits(&qh[j], q >> 4, sub, 1);
            s->expected[sub * 32 + j] = d * (float)scale * (float)q - dmin * (float)min;
        }
    }
}

static void make_q4_k(struct sample *s)
{
    make_k(s, 4);
}

static void make_q5_k(struct sample *s)
{
    make_k(s, 5);
}

static void make_q6_k(struct sample *s)
{
    uint8_t *ql = s->bytes, *qh = s->bytes + 128, *scales = s->bytes + 192;
    float d = put_scale(s->bytes + 208);
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t i = 0; i < 128; i++) {
            uint32_t e = half * 128 + i;
            if (e % 16 == 0) scales[e / 16] = (uint8_t)draw(256);
            int scale = (int8_t)scales[e / 16];
            uint32_t q = draw(64);
            put_bits(&ql[half * 64 + (i & 63)], q & 15, i < 64 ? 0 : 4, 4);
            put_bits(&qh[half * 32 + (i & 31)], q >> 4, i / 32 * 2, 2);
            s->expected[e] = d * (float)scale * ((float)q - 32);
        }
    }
}

static void make_iq4_xs(struct sample *s)
{
    static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    float d = put_scale(s->bytes);
    for (uint32_t sub = 0; sub < 8; sub++) {
        uint32_t scale = draw(64);
        put_bits(&s->bytes[2 + sub / 4], scale >> 4, sub % 4 * 2, 2);
        put_bits(&s->bytes[4 + sub / 2], scale & 15, sub % 2 * 4, 4);
        for (uint32_t j = 0; j < 32; j++) {
            uint32_t q = draw(16);
            put_nibble(s->bytes + 8 + sub * 16, j, q);
            s->expected[sub * 32 + j] = d * ((float)scale - 32) * values[q];
        }
    }
}

static void check_type(uint32_t type_id, void (*make)(struct sample *s))
{
    const struct dequant_type *type = dequant_find(type_id);
    assert_non_null(type);
    struct guard guard = {0};
    for (int round = 0; round < ROUNDS; round++) {
        struct sample s = {0};
        float out[BLOCK_ELEMENTS_MAX];
        make(&s);
        const uint8_t *bytes = guard_copy(&guard, s.bytes, type->block_bytes);
        dequant_row(type, bytes, type->block_elements, out);
        for (uint32_t e = 0; e < type->block_elements; e++) {
            if (out[e] != s.expected[e]) {
                fail_msg("%s element %u: %.9g, expected %.9g", type->name, e, out[e], s.expected[e]);
            }
        }
    }
    guard_done(&guard);
}

static void test_dequant_blocks_of_32(void **state)
{
    (void)state;
    check_type(TENSOR_Q4_0, make_q4_0);
    check_type(TENSOR_Q4_1, make_q4_1);
    check_type(TENSOR_Q5_0, make_q5_0);
    check_type(TENSOR_Q5_1, make_q5_1);
    check_type(TENSOR_Q8_0, make_q8_0);
    check_type(TENSOR_IQ4_NL, make_iq4_nl);
    check_type(TENSOR_MXFP4, make_mxfp4);
}

static void test_dequant_blocks_of_256(void **state)
{
    (void)state;
    check_type(TENSOR_Q2_K, make_q2_k);
    check_type(TENSOR_Q3_K, make_q3_k);
    check_type(TENSOR_Q4_K, make_q4_k);
    check_type(TENSOR_Q5_K, make_q5_k);
    check_type(TENSOR_Q6_K, make_q6_k);
    check_type(TENSOR_IQ4_XS, make_iq4_xs);
}

/* The same experts stored as MXFP4 and as F32 by another writer (vectors/tiny). */
static void test_dequant_mxfp4_equals_the_weights_in_f32(void **state)
{
    (void)state;
    char path[4096];
    struct gguf_file packed, plain;
    struct err err = {0};
    uint32_t compared = 0;
    if (model_rig_vector_path("tiny/gptoss_mxfp4.gguf", sizeof(path), path) < 0) {
        print_message("no %s: set KVASIR_VECTORS\n", path);
        skip();
    }
    assert_int_equal(gguf_file_open(path, &packed, &err), 0);
    assert_int_equal(model_rig_vector_path("tiny/gptoss_f32.gguf", sizeof(path), path), 0);
    assert_int_equal(gguf_file_open(path, &plain, &err), 0);
    for (size_t i = 0; i < gguf_tensor_count(packed.gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(packed.gguf, i);
        char name[64] = "";
        if (tensor->type != TENSOR_MXFP4) continue;
        memcpy(name, tensor->name.bytes, tensor->name.len);
        const struct gguf_tensor *other = gguf_tensor_find(plain.gguf, name);
        assert_non_null(other);
        assert_int_equal(other->type, TENSOR_F32);
        for (size_t block = 0; block < tensor->data_bytes / 17; block++) {
            float out[32], expected[32];
            dequant_row(dequant_find(TENSOR_MXFP4), tensor->data + block * 17, 32, out);
            memcpy(expected, other->data + block * sizeof(expected), sizeof(expected));
            for (int j = 0; j < 32; j++) assert_true(out[j] == expected[j]);
        }
        compared++;
    }
    assert_true(compared > 0);
    gguf_file_close(&packed);
    gguf_file_close(&plain);
}

/* A block written out by hand: d = 0.5, m = -2, nibbles 0x10, 0x32, ... */
static void test_dequant_known_q4_1_block(void **state)
{
    (void)state;
    uint8_t block[20] = {0x00, 0x38, 0x00, 0xC0};
    float out[32];
    for (int j = 0; j < 16; j++) block[4 + j] = (uint8_t)(j | (15 - j) << 4);
    dequant_row(dequant_find(TENSOR_Q4_1), block, 32, out);
    for (int j = 0; j < 16; j++) {
        assert_true(out[j] == 0.5f * (float)j - 2);
        assert_true(out[j + 16] == 0.5f * (float)(15 - j) - 2);
    }
}

static void test_dequant_plain_types(void **state)
{
    (void)state;
    const float values[4] = {1.5f, -0.25f, 1024, -3};
    uint16_t f16[4], bf16[4];
    float out[4];
    for (int i = 0; i < 4; i++) {
        f16[i] = half_f16_of_f32(values[i]);
        bf16[i] = half_bf16_of_f32(values[i]);
    }
    dequant_row(dequant_find(TENSOR_F32), values, 4, out);
    assert_memory_equal(out, values, sizeof(out));
    dequant_row(dequant_find(TENSOR_F16), f16, 4, out);
    assert_memory_equal(out, values, sizeof(out));
    dequant_row(dequant_find(TENSOR_BF16), bf16, 4, out);
    assert_memory_equal(out, values, sizeof(out));
}

static void test_dequant_types_are_those_of_gguf(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < 64; id++) {
        const struct tensor_type_info *info = tensor_type_info(id);
        const struct dequant_type *type = dequant_find(id);
        assert_int_equal(info == NULL, type == NULL);
        if (!type) continue;
        assert_int_equal(type->block_elements, info->block_elements);
        assert_int_equal(type->block_bytes, info->block_bytes);
        assert_string_equal(type->name, info->name);
        assert_int_equal(dequant_row_bytes(type, 512), 512 / info->block_elements * info->block_bytes);
    }
}

/* The value of a binary16 by its definition. */
static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return half >> 15 ? -magnitude : magnitude;
}

static void test_half_every_f16_to_f32(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) {
        float value = half_f32_of_f16((uint16_t)half);
        if ((half & 0x7FFF) < 0x7C00) {
            assert_true((double)value == half_value((uint16_t)half));
            assert_int_equal(signbit(value) != 0, half >> 15);
            assert_int_equal(half_f16_of_f32(value), half);
        } else if ((half & 0x03FF) == 0) {
            assert_true(isinf(value) && (signbit(value) != 0) == half >> 15);
            assert_int_equal(half_f16_of_f32(value), half);
        } else {
            assert_true(isnan(value) && isnan(half_f32_of_f16(half_f16_of_f32(value))));
        }
    }
}

/* Between two neighbours: the middle goes to the even one, anything beside it to the nearer one. */
static void test_half_f32_to_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7C00; half++) {
        float low = half_f32_of_f16((uint16_t)half);
        float high = half == 0x7BFF ? 65536.0f : half_f32_of_f16((uint16_t)(half + 1));
        float middle = low + (high - low) / 2; // exact: one bit more than a half has
        assert_int_equal(half_f16_of_f32(middle), half + half % 2);
        assert_int_equal(half_f16_of_f32(nextafterf(middle, low)), half);
        assert_int_equal(half_f16_of_f32(nextafterf(middle, high)), half + 1);
        assert_int_equal(half_f16_of_f32(-middle), 0x8000 | (half + half % 2));
    }
    assert_int_equal(half_f16_of_f32(1e30f), 0x7C00);
    assert_int_equal(half_f16_of_f32(-1e-30f), 0x8000);
}

static void test_half_bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7F80; half++) {
        uint32_t middle = half << 16 | 0x8000;
        assert_int_equal(half_bits_of_f32(half_f32_of_bf16((uint16_t)half)), half << 16);
        assert_int_equal(half_bf16_of_f32(half_f32_of_bits(half << 16)), half);
        assert_int_equal(half_bf16_of_f32(half_f32_of_bits(middle)), half + half % 2);
        assert_int_equal(half_bf16_of_f32(half_f32_of_bits(middle - 1)), half);
        assert_int_equal(half_bf16_of_f32(half_f32_of_bits(middle + 1)), half + 1);
    }
    assert_true(isnan(half_f32_of_bf16(half_bf16_of_f32(half_f32_of_bits(0x7F800001)))));
}

int main(void)
{
    const char *seed = getenv("KVASIR_SEED");
    rng.state = seed ? strtoull(seed, NULL, 0) : 20250101;
    printf("seed %llu\n", (unsigned long long)rng.state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequant_blocks_of_32),
        cmocka_unit_test(test_dequant_blocks_of_256),
        cmocka_unit_test(test_dequant_mxfp4_equals_the_weights_in_f32),
        cmocka_unit_test(test_dequant_known_q4_1_block),
        cmocka_unit_test(test_dequant_plain_types),
        cmocka_unit_test(test_dequant_types_are_those_of_gguf),
        cmocka_unit_test(test_half_every_f16_to_f32),
        cmocka_unit_test(test_half_f32_to_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_half_bf16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
