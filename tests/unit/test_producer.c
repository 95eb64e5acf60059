/* SPDX-License-Identifier: Apache-2.0 */
/* The producer of pages: the same for the same computing, another for anything that changes a bit of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "tests/unit/kern_data.h"
#include "worker/kern/producer.h"
#include "worker/kern/ref/ref.h"

static float angles[128];
static const uint32_t types[] = {0, 3, 8, 14}; // F32, Q4_1, Q8_0, Q6_K
static const struct kern_probe model = {.kv_type = KERN_KV_F16,
                                        .head_dims = 64,
                                        .rope = {.dims = 64, .angles = angles},
                                        .attention_scale = 0.125f,
                                        .rms_epsilon = 1e-5f,
                                        .types = types,
                                        .type_count = COUNT_OF(types)};

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(angles); i++) angles[i] = 1.0f / (float)(1 + i * i);
    return 0;
}

static uint64_t producer_of(const struct kern_ops *ops, const struct kern_probe *like)
{
    struct err err = {0};
    uint64_t producer = 0;
    if (kern_producer(ops, like, &producer, &err) < 0) fail_msg("%s", err.text);
    assert_int_not_equal(producer, 0);
    return producer;
}

/* The machine of a test: the first, which is what a worker takes. */
static const struct kern_ops *best(void)
{
    uint32_t count;
    return kern_levels(&count)[0];
}

static void test_producer_is_the_same_each_time(void **state)
{
    (void)state;
    uint32_t count;
    const struct kern_ops *const *levels = kern_levels(&count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t start_ns = clock_mono_ns(), first = producer_of(levels[i], &model);
        print_message("# %s: %016llx in %.2f ms\n", levels[i]->name, (unsigned long long)first,
                      (double)(clock_mono_ns() - start_ns) / 1e6);
        assert_int_equal(producer_of(levels[i], &model), first);
    }
}

/* The reference computes with float activations: nothing else gives its bits. */
static void test_producer_tells_levels_apart(void **state)
{
    (void)state;
    uint32_t count;
    const struct kern_ops *const *levels = kern_levels(&count);
    uint64_t reference = producer_of(&kern_ref_ops, &model);
    for (uint32_t i = 0; i < count; i++)
        if (levels[i] != &kern_ref_ops) assert_int_not_equal(producer_of(levels[i], &model), reference);
}

static void test_producer_of_every_type_of_weights_and_pages(void **state)
{
    (void)state;
    uint64_t seen[KERN_DATA_TYPES + KERN_KV_Q4];
    size_t count = 0;
    for (size_t i = 0; i < KERN_DATA_TYPES; i++) {
        struct kern_probe one = model;
        one.types = &kern_data_types[i];
        one.type_count = 1;
        seen[count++] = producer_of(best(), &one);
    }
    for (uint32_t type = KERN_KV_BF16; type <= KERN_KV_Q4; type++) {
        struct kern_probe one = model;
        one.kv_type = type;
        seen[count++] = producer_of(best(), &one);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < i; k++) assert_int_not_equal(seen[i], seen[k]);
}

static void test_producer_of_other_shapes_and_numbers(void **state)
{
    (void)state;
    struct kern_probe other = model;
    float angles_other[128];
    memcpy(angles_other, angles, sizeof angles);
    angles_other[3] *= 1.0f + 0x1p-23f;
    uint64_t first = producer_of(best(), &model);
    other.rope.adjacent = true;
    assert_int_not_equal(producer_of(best(), &other), first);
    other = model;
    other.rope.angles = angles_other;
    assert_int_not_equal(producer_of(best(), &other), first);
    other = model;
    other.rms_epsilon = 1e-6f;
    assert_int_not_equal(producer_of(best(), &other), first);
    static const uint32_t dims[] = {16, 80, 96, 128, 256};
    for (size_t i = 0; i < COUNT_OF(dims); i++) {
        other = model;
        other.head_dims = other.rope.dims = dims[i];
        assert_int_not_equal(producer_of(best(), &other), first);
    }
}

/* A machine that computes as another but for one place of one op. */
static struct kern_ops bent;
static void (*straight)(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                        const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x);
static uint32_t calls, bent_call;

static void project_add_bent(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                             const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x)
{
    straight(kern, in, weight, bias, row_count, x);
    if (calls++ != bent_call) return;
    float *value = (float *)bent.fetch(kern, x, row_count) + 7; // memory of the machine
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    bits ^= 1;
    memcpy(value, &bits, sizeof bits);
}

static void test_producer_sees_one_bit_of_any_call(void **state)
{
    (void)state;
    bent = *best();
    straight = bent.project_add;
    bent.project_add = project_add_bent;
    bent_call = UINT32_MAX;
    calls = 0;
    uint64_t first = producer_of(&bent, &model);
    uint32_t call_count = calls;
    assert_int_equal(first, producer_of(best(), &model));
    assert_true(call_count >= 2 + COUNT_OF(types));
    for (bent_call = 0; bent_call < call_count; bent_call++) {
        calls = 0;
        assert_int_not_equal(producer_of(&bent, &model), first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_producer_is_the_same_each_time),
        cmocka_unit_test(test_producer_tells_levels_apart),
        cmocka_unit_test(test_producer_of_every_type_of_weights_and_pages),
        cmocka_unit_test(test_producer_of_other_shapes_and_numbers),
        cmocka_unit_test(test_producer_sees_one_bit_of_any_call),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
