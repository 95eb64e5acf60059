/* SPDX-License-Identifier: Apache-2.0 */
/* Random damage to a valid file: each round flips, overwrites or cuts a few bytes, biased towards the
 * header, and parses at the guard page. Nothing may fault, and what parses must keep its promises. */
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
#include "common/base/rng.h"
#include "common/gguf/facts.h"
#include "tests/data/gguf_writer.h"
#include "tests/unit/guard.h"

enum { ROUNDS = 30000, HEADER_SHARE = 8 }; // 7 of 8 changes hit the header

static uint64_t seed_from_environment(void)
{
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : clock_mono_ns();
    print_message("KVASIR_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

static void damage(struct rng *rng, uint8_t *bytes, size_t len, size_t header_bytes)
{
    static const uint64_t interesting[] = {0, 1, 255, INT32_MAX, UINT32_MAX, UINT64_MAX, UINT64_C(1) << 63};
    for (uint64_t changes = 1 + rng_below(rng, 4); changes > 0; changes--) {
        size_t at = (size_t)rng_below(rng, rng_below(rng, HEADER_SHARE) ? header_bytes : len);
        if (rng_below(rng, 2)) {
            bytes[at] ^= (uint8_t)(1u << rng_below(rng, 8));
            continue;
        }
        uint64_t value = interesting[rng_below(rng, COUNT_OF(interesting))];
        size_t width = rng_below(rng, 2) ? 4 : 8;
        memcpy(bytes + at, &value, at + width <= len ? width : len - at);
    }
}

static void verify(const struct gguf *gguf, const uint8_t *bytes, size_t len)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        assert_true(tensor->data_bytes <= (size_t)(bytes + len - tensor->data));
        sum += tensor->data_bytes;
    }
    assert_true(sum < len);
    (void)gguf_digest(gguf); // must not fault
    struct model_facts facts;
    if (model_facts_read(gguf, &facts, NULL) < 0) return;
    assert_true(facts.head_count_kv > 0 && facts.head_count % facts.head_count_kv == 0);
}

static void test_gguf_bytes_random_damage_never_faults(void **state)
{
    (void)state;
    struct rng rng = {.state = seed_from_environment()};
    struct guard guard = {0};
    struct buf bytes;
    size_t parsed = 0;
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    assert_non_null(writer);
    writer_init_llama(writer);
    writer_finish(writer, &bytes);
    size_t header_bytes = bytes.len - (size_t)writer->data_bytes;
    uint8_t *work = malloc(bytes.len);
    assert_non_null(work);
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(work, bytes.bytes, bytes.len);
        damage(&rng, work, bytes.len, header_bytes);
        size_t len = rng_below(&rng, 16) ? bytes.len : (size_t)rng_below(&rng, bytes.len);
        const uint8_t *input = guard_copy(&guard, work, len);
        struct gguf *gguf = NULL;
        if (gguf_parse(input, len, &gguf, NULL) < 0) continue;
        verify(gguf, input, len);
        gguf_free(gguf);
        parsed++;
    }
    assert_in_range(parsed, ROUNDS / 100, ROUNDS - ROUNDS / 100); // both sides were tried
    free(work);
    buf_done(&bytes);
    writer_done(writer);
    free(writer);
    guard_done(&guard);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf_bytes_random_damage_never_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
