/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/gguf/shard: every head, column and token has exactly one rank, whatever the numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/gguf/shard.h"

static struct model_facts facts_of(uint32_t heads_kv, uint32_t group)
{
    return (struct model_facts){.embedding_dims = 576,
                                .feed_forward_dims = 1536 + 8,
                                .head_count = heads_kv * group,
                                .head_count_kv = heads_kv,
                                .head_dims = 64,
                                .vocab_count = 49152 + 3};
}

static void expect_covered(const struct shard_cut *cut, uint32_t ranks, uint32_t count, uint32_t unit)
{
    assert_int_equal(cut->bounds[0], 0);
    assert_int_equal(cut->bounds[ranks], count);
    for (uint32_t r = 0; r < ranks; r++) {
        assert_true(cut->bounds[r] < cut->bounds[r + 1]);
        assert_int_equal(cut->bounds[r] % unit, 0);
        assert_int_equal(shard_owner(cut, ranks, cut->bounds[r]), r);
        assert_int_equal(shard_owner(cut, ranks, cut->bounds[r + 1] - 1), r);
    }
}

static void test_shard_every_head_has_one_rank(void **state)
{
    (void)state;
    struct err err = {0};
    for (uint32_t kv = 1; kv <= 9; kv++) {
        for (uint32_t group = 1; group <= 8; group++) {
            const struct model_facts facts = facts_of(kv, group);
            for (uint32_t ranks = 1; ranks <= facts.head_count && ranks <= 18; ranks++) {
                uint32_t next_head = 0, kv_most = 0;
                struct shard shard;
                for (uint32_t rank = 0; rank < ranks; rank++) {
                    assert_int_equal(shard_make(&facts, ranks, rank, &shard, &err), 0);
                    assert_int_equal(shard.head_first, next_head);
                    next_head += shard.head_count;
                    // Each query head's KV head is here, and each KV head here has as many query heads.
                    assert_int_equal(shard.head_count % shard.kv_count, 0);
                    assert_int_equal(shard.head_first / group, shard.kv_first);
                    assert_int_equal((next_head - 1) / group, shard.kv_first + shard.kv_count - 1);
                    if (shard.kv_count > kv_most) kv_most = shard.kv_count;
                    assert_int_equal(shard_first(&shard.attention, rank), shard.head_first * 64);
                    assert_int_equal(shard_count(&shard.attention, rank), shard.head_count * 64);
                }
                assert_int_equal(next_head, facts.head_count);
                assert_int_equal(shard_kv_heads_max(&facts, ranks), kv_most);
                expect_covered(&shard.attention, ranks, facts.head_count * 64, 64);
            }
        }
    }
}

static void test_shard_every_column_and_token_has_one_rank(void **state)
{
    (void)state;
    struct err err = {0};
    for (uint32_t ranks = 1; ranks <= 64; ranks++) {
        const struct model_facts facts = facts_of(32, 2);
        struct shard shard;
        assert_int_equal(shard_make(&facts, ranks, ranks - 1, &shard, &err), 0);
        expect_covered(&shard.stream, ranks, 576, ranks <= 18 ? 32 : shard.stream.unit);
        expect_covered(&shard.feed_forward, ranks, 1544, ranks <= 48 ? 32 : shard.feed_forward.unit);
        expect_covered(&shard.vocab, ranks, 49155, 32);
        assert_int_equal(shard.stream.unit, ranks <= 18 ? 32 : ranks <= 36 ? 16 : 8);
    }
}

static void test_shard_of_three_kv_heads_is_uneven(void **state)
{
    (void)state;
    struct err err = {0};
    const struct model_facts facts = facts_of(3, 3); // SmolLM2-135M
    struct shard shard;
    assert_int_equal(shard_make(&facts, 2, 0, &shard, &err), 0);
    assert_int_equal(shard.kv_count, 1);
    assert_int_equal(shard_make(&facts, 2, 1, &shard, &err), 0);
    assert_int_equal(shard.kv_first, 1);
    assert_int_equal(shard.kv_count, 2);
    assert_int_equal(shard.head_count, 6);
}

static void test_shard_of_more_ranks_than_heads_is_refused(void **state)
{
    (void)state;
    struct err err = {0};
    const struct model_facts facts = facts_of(1, 4);
    struct shard shard;
    assert_int_equal(shard_make(&facts, 5, 0, &shard, &err), ERR_CONFIG);
    assert_string_equal(err.text, "5 ranks: this model has 4 query heads, so 1 to 4");
    assert_int_equal(shard_make(&facts, 0, 0, &shard, &err), ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shard_every_head_has_one_rank),
        cmocka_unit_test(test_shard_every_column_and_token_has_one_rank),
        cmocka_unit_test(test_shard_of_three_kv_heads_is_uneven),
        cmocka_unit_test(test_shard_of_more_ranks_than_heads_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
