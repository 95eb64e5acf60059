/* SPDX-License-Identifier: Apache-2.0 */
/* Random operations on a pool beside a model that is a plain table; pool_check() and the model's counts
 * after every operation. Rerun a failure with KVASIR_SEED=<printed seed>. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/shm/audit.h"
#include "common/shm/pool.h"

enum { PAGES = 24, OPERATIONS = 20000 };

struct model_page {
    enum page_state state;
    uint32_t generation, refs, filled, parent, children;
    uint32_t tokens[PAGE_TOKENS];
    struct hash128 key;
};

struct bench {
    struct pool *pool;
    struct rng rng;
    struct model_page pages[PAGES];
};

/* A random page in a state, with at most refs_max holders and children_max children; PAGE_NONE when none. */
static uint32_t pick(struct bench *b, enum page_state state, uint32_t refs_max, uint32_t children_max)
{
    uint32_t start = (uint32_t)rng_below(&b->rng, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        uint32_t page = (start + i) % PAGES;
        const struct model_page *m = &b->pages[page];
        if (m->state == state && m->refs <= refs_max && m->children <= children_max) return page;
    }
    return PAGE_NONE;
}

static uint32_t count(const struct bench *b, enum page_state state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < PAGES; i++) n += b->pages[i].state == state;
    return n;
}

static void do_grant(struct bench *b)
{
    uint32_t page = PAGE_NONE;
    int r = pool_grant(b->pool, 1, &page);
    if (count(b, PAGE_FREE) == 0) {
        assert_int_equal(r, -ENOSPC);
        return;
    }
    assert_int_equal(r, 0);
    assert_int_equal(b->pages[page].state, PAGE_FREE);
    b->pages[page].state = PAGE_FILLING;
    b->pages[page].generation++;
    b->pages[page].refs = 1;
    b->pages[page].filled = 0;
    b->pages[page].parent = PAGE_NONE;
}

static void do_fill(struct bench *b)
{
    uint32_t page = pick(b, PAGE_FILLING, 1, 0);
    if (page == PAGE_NONE) return;
    struct model_page *m = &b->pages[page];
    uint32_t n = (uint32_t)rng_below(&b->rng, PAGE_TOKENS - m->filled + 1);
    for (uint32_t i = 0; i < n; i++) m->tokens[m->filled + i] = (uint32_t)rng_next(&b->rng);
    pool_fill(b->pool, page, m->tokens + m->filled, n);
    m->filled += n;
}

static void do_seal(struct bench *b)
{
    uint32_t page = pick(b, PAGE_FILLING, 1, 0);
    if (page == PAGE_NONE || b->pages[page].filled < PAGE_TOKENS) return;
    struct model_page *m = &b->pages[page];
    uint32_t parent = rng_below(&b->rng, 3) ? pick(b, PAGE_SEALED, UINT32_MAX, UINT32_MAX) : PAGE_NONE;
    struct hash128 above = {7, 7};
    uint64_t sum = rng_next(&b->rng);
    if (parent != PAGE_NONE) above = b->pages[parent].key;
    m->key = hash128_chain(above, m->tokens, sizeof m->tokens);
    pool_seal(b->pool, page, m->key, parent, &sum);
    m->state = PAGE_SEALED;
    m->parent = parent;
    m->children = 0;
    if (parent != PAGE_NONE) b->pages[parent].children++;
}

static void free_page(struct bench *b, uint32_t page)
{
    struct model_page *m = &b->pages[page];
    if (m->parent != PAGE_NONE) b->pages[m->parent].children--;
    m->state = PAGE_FREE;
    m->refs = 0;
    m->parent = PAGE_NONE;
}

static void do_one(struct bench *b)
{
    uint32_t page;
    switch (rng_below(&b->rng, 10)) {
    case 0:
    case 1: do_grant(b); break;
    case 2:
    case 3:
    case 4: do_fill(b); break;
    case 5: do_seal(b); break;
    case 6:
        page = pick(b, PAGE_SEALED, 5, UINT32_MAX);
        if (page == PAGE_NONE) break;
        pool_pin(b->pool, page, 2);
        b->pages[page].refs++;
        break;
    case 7:
        page = pick(b, PAGE_SEALED, UINT32_MAX, UINT32_MAX);
        if (page == PAGE_NONE || b->pages[page].refs == 0) break;
        pool_unpin(b->pool, page, 3);
        b->pages[page].refs--;
        break;
    case 8:
        page = pick(b, PAGE_SEALED, 0, 0);
        if (page == PAGE_NONE) break;
        pool_evict(b->pool, page);
        free_page(b, page);
        break;
    default:
        page = pick(b, PAGE_FILLING, 1, 0);
        if (page == PAGE_NONE || rng_below(&b->rng, 4)) break;
        pool_drop(b->pool, page);
        free_page(b, page);
    }
}

/* The daemon dies and the next one adopts: sealed pages stay, without holders; the rest is free. */
static void die_and_adopt(struct bench *b, void *meta, size_t meta_bytes)
{
    struct pool_geometry geometry = *pool_geometry(b->pool);
    struct pool_owner owner = {.pid = 1};
    struct pool_adoption adoption;
    struct err err = {0};
    pool_free(b->pool);
    if (pool_adopt(meta, meta_bytes, &geometry, &owner, &b->pool, &adoption, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(adoption.filling_count, count(b, PAGE_FILLING));
    assert_int_equal(adoption.kept_count, count(b, PAGE_SEALED));
    for (uint32_t i = 0; i < PAGES; i++) {
        if (b->pages[i].state == PAGE_FILLING) free_page(b, i);
        b->pages[i].refs = 0;
    }
}

static void compare(const struct bench *b)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        const struct page_desc *desc = pool_desc(b->pool, i);
        const struct model_page *m = &b->pages[i];
        assert_int_equal(desc->state, m->state);
        assert_int_equal(desc->generation, m->generation);
        assert_int_equal(desc->refcount, m->refs);
        if (m->state == PAGE_FREE) continue;
        assert_int_equal(desc->filled, m->filled);
        assert_int_equal(desc->parent, m->parent);
        assert_memory_equal(pool_tokens(b->pool, i), m->tokens, m->filled * sizeof(uint32_t));
        if (m->state != PAGE_SEALED) continue;
        assert_int_equal(desc->child_count, m->children);
        assert_true(hash128_equal(desc->key, m->key));
    }
    assert_int_equal(pool_free_count(b->pool), count(b, PAGE_FREE));
    assert_int_equal(pool_filling_count(b->pool), count(b, PAGE_FILLING));
    assert_int_equal(pool_sealed_count(b->pool), count(b, PAGE_SEALED));
}

static void test_pool_behaves_like_the_table(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : clock_wall_ns();
    printf("KVASIR_SEED=%llu\n", (unsigned long long)seed);
    static struct bench b;
    b.rng.state = seed;
    for (uint32_t i = 0; i < PAGES; i++) b.pages[i].parent = PAGE_NONE;
    struct pool_geometry geometry = {.page_count = PAGES, .page_tokens = PAGE_TOKENS, .rank_count = 1};
    struct pool_owner owner = {.pid = 1};
    struct err err = {0};
    size_t meta_bytes = pool_meta_bytes(&geometry);
    void *meta = aligned_alloc(4096, meta_bytes);
    memset(meta, 0, meta_bytes);
    assert_int_equal(pool_format(meta, meta_bytes, &geometry, &owner, &b.pool, &err), 0);
    for (int i = 0; i < OPERATIONS; i++) {
        if (rng_below(&b.rng, 50) == 0) die_and_adopt(&b, meta, meta_bytes);
        else do_one(&b);
        if (pool_check(b.pool, &err) < 0) fail_msg("operation %d: %s", i, err.text);
        compare(&b);
        struct audit_report report = {0};
        struct audit_input input = {.meta = meta, .meta_bytes = meta_bytes};
        assert_int_equal(audit_memory(&input, 0, &report), 0);
        if (report.fault_count > 0) fail_msg("operation %d: %s", i, report.faults[0]);
    }
    pool_free(b.pool);
    free(meta);
}

enum { LIVE_PAGES = 16, LIVE_CHANGES = 500, LIVE_PAGE_BYTES = 2 * 64 * PAGE_TOKENS * 2 };

/* A daemon and its worker in one: grants, writes payload, seals in chains of two, evicts, for ever. */
static void live_daemon(struct pool *pool, uint8_t *payload)
{
    uint64_t sum, round = 0;
    for (;; round++) {
        uint32_t pages[LIVE_PAGES], tokens[PAGE_TOKENS];
        for (uint32_t i = 0; i < LIVE_PAGES; i++) {
            if (pool_grant(pool, round, &pages[i]) < 0) abort();
            memset(payload + pages[i] * LIVE_PAGE_BYTES, (int)(round + i), LIVE_PAGE_BYTES);
            for (uint32_t k = 0; k < PAGE_TOKENS; k++) tokens[k] = (uint32_t)(round + i + k);
            pool_fill(pool, pages[i], tokens, PAGE_TOKENS);
            uint32_t parent = i % 2 ? pages[i - 1] : PAGE_NONE;
            struct hash128 above = {round, i};
            if (parent != PAGE_NONE) above = pool_desc(pool, parent)->key;
            sum = hash64(payload + pages[i] * LIVE_PAGE_BYTES, LIVE_PAGE_BYTES);
            pool_seal(pool, pages[i], hash128_chain(above, tokens, sizeof tokens), parent, &sum);
            pool_unpin(pool, pages[i], round);
        }
        for (uint32_t i = LIVE_PAGES; i-- > 0;) pool_evict(pool, pages[i]);
    }
}

/* Audits a pool while another process works on it, then kills that and audits what it left. */
static void test_audit_of_a_pool_at_work_finds_nothing(void **state)
{
    (void)state;
    struct pool_geometry geometry = {
        .page_count = LIVE_PAGES,
        .page_tokens = PAGE_TOKENS,
        .rank_count = 1,
        .kv_type = KV_F16,
        .layer_count = 1,
        .head_count_kv = 1,
        .head_dims = 64,
        .page_bytes = LIVE_PAGE_BYTES,
    };
    struct pool_owner owner = {.pid = 1};
    struct err err = {0};
    struct pool *pool;
    size_t meta_bytes = pool_meta_bytes(&geometry), bytes = LIVE_PAGES * LIVE_PAGE_BYTES;
    uint8_t *meta = mmap(NULL, meta_bytes + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(meta != MAP_FAILED);
    const void *payloads[] = {meta + meta_bytes};
    assert_int_equal(pool_format(meta, meta_bytes, &geometry, &owner, &pool, &err), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); // it runs for ever, should this process fail
        live_daemon(pool, meta + meta_bytes);
    }
    struct audit_input input = {.meta = meta,
                                .meta_bytes = meta_bytes,
                                .payloads = payloads,
                                .payload_bytes = &bytes,
                                .payload_count = 1,
                                .live = true};
    uint64_t sums = 0, chains = 0, changed = 0;
    uint64_t end_ns = clock_mono_ns() + NS_PER_S; // or until enough was seen to change
    for (int i = 0; input.live; i++) {
        struct audit_report report = {0};
        input.live = changed < LIVE_CHANGES && clock_mono_ns() < end_ns;
        if (!input.live) {
            assert_int_equal(kill(pid, SIGKILL), 0);
            assert_int_equal(waitpid(pid, NULL, 0), pid);
        }
        assert_int_equal(audit_memory(&input, AUDIT_PAYLOAD, &report), 0);
        if (report.fault_count > 0) fail_msg("audit %d: %s", i, report.faults[0]);
        sums += report.sum_count;
        chains += report.chain_count;
        changed += report.changed_count;
    }
    printf("%llu payloads, %llu chains checked; %llu pages changed meanwhile\n", (unsigned long long)sums,
           (unsigned long long)chains, (unsigned long long)changed);
    assert_true(sums > 0);
    assert_true(chains > 0);
    pool_free(pool);
    assert_int_equal(munmap(meta, meta_bytes + bytes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_behaves_like_the_table),
        cmocka_unit_test(test_audit_of_a_pool_at_work_finds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
