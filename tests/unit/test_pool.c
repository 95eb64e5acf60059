/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/shm/audit.h"
#include "common/shm/pool.h"

static const struct pool_geometry geometry = {
    .page_count = 6,
    .page_tokens = PAGE_TOKENS,
    .rank_count = 2,
    .kv_type = KV_F16,
    .layer_count = 1,
    .head_count_kv = 1,
    .head_dims = 4,
    .page_bytes = 1 * 1 * 2 * 4 * PAGE_TOKENS * 2,
};
static const struct pool_owner owner = {.pid = 77, .start = 88, .epoch = 99};

struct fixture {
    void *meta;
    size_t meta_bytes;
    uint8_t *payloads[2];
    struct pool *pool;
    uint32_t tokens[PAGE_TOKENS];
};

static int setup(void **state)
{
    static struct fixture f;
    f.meta_bytes = pool_meta_bytes(&geometry);
    f.meta = aligned_alloc(4096, f.meta_bytes);
    memset(f.meta, 0, f.meta_bytes);
    for (int i = 0; i < 2; i++) f.payloads[i] = calloc(geometry.page_count, geometry.page_bytes);
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) f.tokens[i] = 1000 + i;
    struct err err;
    if (pool_format(f.meta, f.meta_bytes, &geometry, &owner, &f.pool, &err) < 0) return -1;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    pool_free(f->pool);
    free(f->meta);
    for (int i = 0; i < 2; i++) free(f->payloads[i]);
    return 0;
}

static uint32_t grant(struct fixture *f)
{
    uint32_t page;
    assert_int_equal(pool_grant(f->pool, 5, &page), 0);
    return page;
}

static void seal(struct fixture *f, uint32_t page, uint32_t parent)
{
    struct hash128 root = {1, 2};
    uint64_t sums[2];
    if (parent != PAGE_NONE) root = pool_desc(f->pool, parent)->key;
    pool_fill(f->pool, page, f->tokens, PAGE_TOKENS);
    for (int rank = 0; rank < 2; rank++) {
        uint8_t *payload = f->payloads[rank] + page * geometry.page_bytes;
        memset(payload, (int)(page + 10 * rank), geometry.page_bytes);
        sums[rank] = hash64(payload, geometry.page_bytes);
    }
    pool_seal(f->pool, page, hash128_chain(root, f->tokens, sizeof f->tokens), parent, sums);
}

static struct audit_report audit(struct fixture *f, bool live)
{
    struct audit_report report = {0};
    size_t bytes[2] = {geometry.page_count * geometry.page_bytes, geometry.page_count * geometry.page_bytes};
    struct audit_input input = {.meta = f->meta,
                                .meta_bytes = f->meta_bytes,
                                .payloads = (const void *const *)f->payloads,
                                .payload_bytes = bytes,
                                .payload_count = 2,
                                .live = live};
    assert_int_equal(audit_memory(&input, AUDIT_PAYLOAD, &report), 0);
    return report;
}

static void test_pool_page_bytes_counts_elements(void **state)
{
    (void)state;
    assert_int_equal(pool_page_bytes(KV_F16, 30, 3, 64), 30 * 3 * 2 * 64 * 16 * 2); // SmolLM2-135M
    assert_int_equal(pool_page_bytes(KV_BF16, 30, 3, 64), 30 * 3 * 2 * 64 * 16 * 2);
    assert_int_equal(pool_page_bytes(KV_Q8, 30, 3, 64), 30 * 3 * 16 * 2 * (64 + 2));
    assert_int_equal(pool_page_bytes(KV_Q4, 30, 3, 64), 30 * 3 * 16 * 2 * (64 / 2 + 4));
    assert_int_equal(pool_page_bytes(KV_Q4, 1, 1, 80), 16 * (80 / 2 + 96 / 2 + 2 * 4)); // V in whole 32s
    assert_int_equal(pool_page_bytes((enum kv_type)5, 1, 1, 64), 0);
    assert_int_equal(pool_page_bytes(KV_F16, UINT32_MAX, UINT32_MAX, UINT32_MAX), 0);
}

static void test_pool_grants_in_order_and_last_freed_first(void **state)
{
    struct fixture *f = *state;
    for (uint32_t i = 0; i < geometry.page_count; i++) assert_int_equal(grant(f), i);
    uint32_t page = 123;
    assert_int_equal(pool_grant(f->pool, 5, &page), -ENOSPC);
    assert_int_equal(page, 123);
    pool_drop(f->pool, 1);
    pool_drop(f->pool, 4);
    assert_int_equal(grant(f), 4);
    assert_int_equal(grant(f), 1);
    assert_int_equal(pool_desc(f->pool, 4)->generation, 2);
    assert_int_equal(pool_desc(f->pool, 0)->generation, 1);
    assert_int_equal(pool_check(f->pool, NULL), 0);
}

static void test_pool_page_lives_and_is_evicted(void **state)
{
    struct fixture *f = *state;
    uint32_t a = grant(f), b = grant(f);
    seal(f, a, PAGE_NONE);
    seal(f, b, a);
    assert_int_equal(pool_desc(f->pool, a)->child_count, 1);
    assert_int_equal(pool_desc(f->pool, b)->parent_generation, pool_desc(f->pool, a)->generation);
    pool_pin(f->pool, a, 9);
    assert_int_equal(pool_desc(f->pool, a)->refcount, 2);
    pool_unpin(f->pool, a, 10);
    pool_unpin(f->pool, a, 11);
    pool_unpin(f->pool, b, 12);
    assert_int_equal(pool_desc(f->pool, a)->last_use_ns, 11);
    assert_int_equal(pool_sealed_count(f->pool), 2);
    pool_evict(f->pool, b);
    assert_int_equal(pool_desc(f->pool, a)->child_count, 0);
    pool_evict(f->pool, a);
    assert_int_equal(pool_free_count(f->pool), geometry.page_count);
    assert_int_equal(pool_check(f->pool, NULL), 0);
}

static void test_pool_header_refuses_what_it_is_not(void **state)
{
    struct fixture *f = *state;
    struct pool_header *header = f->meta, good = {0};
    struct err err = {0};
    memcpy((void *)&good, header, sizeof good);
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), 0);
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes - 1, &err), ERR_FORMAT);
    assert_int_equal(pool_header_verify(f->meta, 8, &err), ERR_FORMAT);
    atomic_store(&header->magic, 0);
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), -EAGAIN);
    atomic_store(&header->magic, 1);
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_FORMAT);
    atomic_store(&header->magic, POOL_MAGIC);
    header->layout_version++;
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_VERSION);
    header->layout_version--;
    header->layout_sum++;
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_VERSION);
    header->layout_sum--;
    header->desc_offset = UINT64_MAX - 8;
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_FORMAT);
    header->desc_offset = good.desc_offset;
    header->geometry.page_count = 1u << 23;
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_FORMAT);
    header->geometry.page_count = UINT32_MAX;
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), ERR_LIMIT);
    memcpy((void *)header, &good, sizeof good);
    assert_int_equal(pool_header_verify(f->meta, f->meta_bytes, &err), 0);
}

static void test_pool_check_finds_each_broken_invariant(void **state)
{
    struct fixture *f = *state;
    uint32_t a = grant(f), b = grant(f), c = grant(f);
    seal(f, a, PAGE_NONE);
    seal(f, b, a);
    assert_int_equal(pool_check(f->pool, NULL), 0);
    struct page_desc *descs = (struct page_desc *)((uint8_t *)f->meta +
                                                   ((struct pool_header *)f->meta)->desc_offset);
    struct {
        uint32_t *field, value;
    } breaks[] = {
        {&descs[a].state, 3},
        {&descs[a].state, PAGE_FREE},
        {&descs[5].state, PAGE_FILLING},
        {&descs[5].refcount, 1},
        {&descs[c].refcount, 2},
        {&descs[a].filled, 15},
        {&descs[b].parent, b},
        {&descs[b].parent, 4},
        {&descs[b].parent, 1u << 30},
        {&descs[b].parent, PAGE_NONE},
        {&descs[b].parent_generation, 7},
        {&descs[a].child_count, 2},
        {&descs[c].child_count, 1},
        {&descs[c].filled, 17},
        {(uint32_t *)&descs[a].key, 5},
    };
    for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
        uint32_t was = *breaks[i].field;
        *breaks[i].field = breaks[i].value;
        assert_int_equal(pool_check(f->pool, NULL), ERR_FORMAT);
        *breaks[i].field = was;
        assert_int_equal(pool_check(f->pool, NULL), 0);
    }
}

static void test_audit_counts_a_clean_pool(void **state)
{
    struct fixture *f = *state;
    uint32_t a = grant(f), b = grant(f);
    (void)grant(f); // stays filling
    seal(f, a, PAGE_NONE);
    seal(f, b, a);
    pool_unpin(f->pool, b, 6);
    for (int live = 0; live < 2; live++) {
        struct audit_report report = audit(f, live);
        assert_int_equal(report.fault_count, 0);
        assert_int_equal(report.free_count, 3);
        assert_int_equal(report.filling_count, 1);
        assert_int_equal(report.sealed_count, 2);
        assert_int_equal(report.pinned_count, 1);
        assert_int_equal(report.root_count, 1);
        assert_int_equal(report.chain_count, 1);
        assert_int_equal(report.sum_count, 4);
        assert_int_equal(report.daemon_pid, 77);
    }
}

static void test_audit_names_the_page_of_each_fault(void **state)
{
    struct fixture *f = *state;
    uint32_t a = grant(f), b = grant(f);
    seal(f, a, PAGE_NONE);
    seal(f, b, a);
    struct page_desc *descs = (struct page_desc *)((uint8_t *)f->meta +
                                                   ((struct pool_header *)f->meta)->desc_offset);
    f->payloads[1][b * geometry.page_bytes + 3] ^= 1; // a stray write
    struct audit_report report = audit(f, true);
    assert_int_equal(report.fault_count, 1);
    assert_non_null(strstr(report.faults[0], "page 1: rank 1 payload"));
    f->payloads[1][b * geometry.page_bytes + 3] ^= 1;
    struct {
        uint32_t *field, value;
    } breaks[] = {
        {&descs[a].state, 9},          {&descs[a].state, PAGE_FREE}, {&descs[a].generation, 2},
        {&descs[b].filled, 3},         {&descs[b].parent, 1u << 30}, {(uint32_t *)&descs[b].key, 5},
        {&descs[a].child_count, 1000},
    };
    for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
        uint32_t was = *breaks[i].field;
        *breaks[i].field = breaks[i].value;
        report = audit(f, false);
        assert_true(report.fault_count > 0);
        *breaks[i].field = was;
    }
    assert_int_equal(audit(f, false).fault_count, 0);
}

/* Every byte of meta, changed in turn: the audit may find nothing, it may not crash (run under ASan). */
static void test_audit_survives_every_changed_byte(void **state)
{
    struct fixture *f = *state;
    uint32_t a = grant(f), b = grant(f);
    seal(f, a, PAGE_NONE);
    seal(f, b, a);
    uint8_t *meta = f->meta;
    for (size_t i = 0; i < f->meta_bytes; i++) {
        const uint8_t values[] = {0, 0xff, (uint8_t)(meta[i] + 1), (uint8_t)(meta[i] ^ 0x80)};
        uint8_t was = meta[i];
        for (size_t v = 0; v < sizeof values; v++) {
            meta[i] = values[v];
            (void)audit(f, v & 1);
        }
        meta[i] = was;
    }
}

/* Every head is kept, in order, by ranks that differ by at most one; with too few heads every rank has one. */
static void test_pool_ranks_share_heads_as_even_as_can_be(void **state)
{
    (void)state;
    for (uint32_t heads = 1; heads <= 17; heads++)
        for (uint32_t ranks = 1; ranks <= 20; ranks++) {
            uint32_t next = 0;
            uint64_t bytes = 0;
            struct pool_geometry g = geometry;
            g.head_count_kv = heads;
            g.rank_count = ranks;
            g.page_bytes = pool_page_bytes(g.kv_type, g.layer_count, heads, g.head_dims);
            for (uint32_t rank = 0; rank < ranks; rank++) {
                uint32_t first, count;
                pool_rank_heads(heads, ranks, rank, &first, &count);
                assert_true(count == (heads + ranks - 1) / ranks || (count > 0 && count == heads / ranks));
                if (heads >= ranks) assert_int_equal(first, next);
                else assert_true(first == next || first + 1 == next);
                next = first + count;
                bytes += pool_page_bytes(g.kv_type, g.layer_count, count, g.head_dims);
                assert_int_equal(pool_rank_page_bytes(&g, rank),
                                 pool_page_bytes(g.kv_type, g.layer_count, count, g.head_dims));
            }
            assert_int_equal(next, heads);
            assert_int_equal(pool_all_page_bytes(&g), bytes);
        }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_pool_page_bytes_counts_elements),
        CASE(test_pool_grants_in_order_and_last_freed_first),
        CASE(test_pool_page_lives_and_is_evicted),
        CASE(test_pool_header_refuses_what_it_is_not),
        CASE(test_pool_check_finds_each_broken_invariant),
        CASE(test_audit_counts_a_clean_pool),
        CASE(test_audit_names_the_page_of_each_fault),
        CASE(test_audit_survives_every_changed_byte),
        CASE(test_pool_ranks_share_heads_as_even_as_can_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
