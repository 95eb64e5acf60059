/* SPDX-License-Identifier: Apache-2.0 */
/* Pages between the pool and a tier that fails, waits and lies: whatever it does, a page counts only with the bytes
 * that were sealed, and every page, hold and callback is accounted for. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/offload.h"

enum { PAGES = 12, PAGE_BYTES = 512, PLACES = 16, CHAIN = 4, PRODUCER = 7 };

/* A tier in memory. What it does wrong is set by the test, before it is called. */
struct bad_tier {
    struct tier tier; // first
    struct tier_page pages[PLACES];
    uint8_t payloads[PLACES][PAGE_BYTES];
    bool is_filled[PLACES], is_reserved[PLACES];
    int write_fails;    // this code, by write
    int read_fails;     // by read, from page number read_good on
    uint32_t read_good; // reads that are still good
    bool lies_of_bytes; // what it gives back is not what it compared
    bool lies_of_sum;   // find answers with another checksum
    bool is_full;       // reserve finds no place
    uv_sem_t gate;      // read and write wait here,
    bool has_gate;      // if this is set
    uint32_t writes, drops;
    bool is_closed;
};

static struct bad_tier bad;
static struct pool *pool;
static struct prefix *prefix;
static struct offload *offload;
static void *meta;
static uint8_t payload[PAGES * PAGE_BYTES];
static uv_loop_t loop;
static uint64_t fetched_id;
static int fetched_count;
static bool is_waiting, is_freed;
static const struct hash128 root = {1, 2};
static uint32_t tokens[CHAIN * PAGE_TOKENS + 1];

static uint32_t bad_find(struct tier *tier, struct tier_page *page)
{
    (void)tier;
    for (uint32_t i = 0; i < PLACES; i++) {
        const struct tier_page *its = &bad.pages[i];
        if (!bad.is_filled[i] || !hash128_equal(its->key, page->key) || its->producer != page->producer)
            continue;
        page->sum = its->sum ^ bad.lies_of_sum;
        return i;
    }
    return TIER_NONE;
}

static int bad_reserve(struct tier *tier, uint32_t *ret_place)
{
    (void)tier;
    for (uint32_t i = 0; i < PLACES && !bad.is_full; i++) {
        if (bad.is_filled[i] || bad.is_reserved[i]) continue;
        bad.is_reserved[i] = true;
        *ret_place = i;
        return 0;
    }
    return -ENOSPC;
}

static int bad_write(struct tier *tier, uint32_t place, const struct tier_page *page, const void *bytes)
{
    (void)tier;
    if (bad.has_gate) uv_sem_wait(&bad.gate);
    bad.writes++;
    assert_int_equal(hash64(bytes, PAGE_BYTES), page->sum); // never other bytes than were sealed
    memcpy(bad.payloads[place], bytes, PAGE_BYTES);
    return bad.write_fails;
}

static void bad_commit(struct tier *tier, uint32_t place, const struct tier_page *page)
{
    (void)tier;
    assert_true(bad.is_reserved[place]);
    bad.is_reserved[place] = false;
    bad.is_filled[place] = true;
    bad.pages[place] = *page;
}

static int bad_read(struct tier *tier, uint32_t place, const struct tier_page *page, void *bytes)
{
    (void)tier;
    if (bad.has_gate) uv_sem_wait(&bad.gate);
    if (bad.read_fails && bad.read_good == 0) {
        memset(bytes, 0xEE, PAGE_BYTES / 2); // short
        return bad.read_fails;
    }
    bad.read_good -= bad.read_good > 0;
    memcpy(bytes, bad.payloads[place], PAGE_BYTES);
    if (hash64(bytes, PAGE_BYTES) != page->sum) return ERR_FORMAT;
    if (bad.lies_of_bytes) ((uint8_t *)bytes)[100] ^= 1;
    return 0;
}

static void bad_drop(struct tier *tier, uint32_t place, const struct tier_page *page)
{
    (void)tier;
    assert_true(page ? bad.is_filled[place] : bad.is_reserved[place]);
    bad.is_filled[place] = bad.is_reserved[place] = false;
    bad.drops++;
}

static uint32_t bad_count(const struct tier *tier, uint64_t producer)
{
    (void)tier;
    uint32_t count = 0;
    for (uint32_t i = 0; i < PLACES; i++) count += bad.is_filled[i] && bad.pages[i].producer == producer;
    return count;
}

static void bad_stats(const struct tier *tier, struct tier_stats *ret_stats)
{
    (void)tier;
    *ret_stats = (struct tier_stats){.place_count = PLACES};
    for (uint32_t i = 0; i < PLACES; i++) ret_stats->page_count += bad.is_filled[i];
}

static void bad_close(struct tier *tier)
{
    (void)tier;
    bad.is_closed = true;
}

static const struct tier_ops bad_ops = {bad_find, bad_reserve, bad_write, bad_commit, bad_read,
                                        bad_drop, bad_count,   bad_stats, bad_close};

static void fetched(void *owner, uint64_t seq_id)
{
    (void)owner;
    fetched_id = seq_id;
    fetched_count++;
}

static bool waits(void *owner, uint64_t seq_id)
{
    (void)owner;
    (void)seq_id;
    return is_waiting;
}

static void freed(void *arg)
{
    (void)arg;
    is_freed = true;
}

/* A pool, and the offload over it; the tier stays what it is. */
static void open_pool(void)
{
    const struct pool_geometry geometry = {.page_count = PAGES,
                                           .page_tokens = PAGE_TOKENS,
                                           .rank_count = 1,
                                           .kv_type = KV_F16,
                                           .layer_count = 1,
                                           .head_count_kv = 1,
                                           .head_dims = PAGE_BYTES / PAGE_TOKENS / 4,
                                           .page_bytes = PAGE_BYTES};
    const struct pool_owner owner = {1, 2, 3};
    size_t bytes = (pool_meta_bytes(&geometry) + 63) / 64 * 64;
    struct err err = {0};
    meta = aligned_alloc(64, bytes);
    assert_non_null(meta);
    memset(meta, 0, bytes);
    if (pool_format(meta, bytes, &geometry, &owner, &pool, &err) < 0) fail_msg("%s", err.text);
    assert_int_equal(prefix_new(pool, &prefix), 0);
}

static void open_offload(void)
{
    bad.tier.ops = &bad_ops;
    bad.is_closed = is_freed = false;
    const struct offload_conf conf = {.loop = &loop,
                                      .tier = &bad.tier,
                                      .pool = pool,
                                      .prefix = prefix,
                                      .payload = payload,
                                      .on_fetched = fetched,
                                      .is_waiting = waits};
    assert_int_equal(offload_new(&conf, &offload), 0);
}

static int setup(void **state)
{
    (void)state;
    memset(&bad, 0, sizeof bad);
    fetched_count = 0;
    fetched_id = 0;
    is_waiting = true;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(uv_sem_init(&bad.gate, 0), 0);
    for (uint32_t i = 0; i < CHAIN * PAGE_TOKENS + 1; i++) tokens[i] = i * 3;
    open_pool();
    open_offload();
    return 0;
}

static void close_all(void)
{
    offload_free(offload, freed, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(is_freed && bad.is_closed);
    assert_int_equal(pool_filling_count(pool), 0);
    for (uint32_t i = 0; i < PAGES; i++) assert_int_equal(pool_desc(pool, i)->refcount, 0);
    for (uint32_t i = 0; i < PLACES; i++) assert_false(bad.is_reserved[i]);
    struct err err = {0};
    if (pool_check(pool, &err) < 0 || prefix_check(prefix, &err) < 0) fail_msg("%s", err.text);
    prefix_free(prefix);
    pool_free(pool);
    free(meta);
}

static int teardown(void **state)
{
    (void)state;
    close_all();
    uv_sem_destroy(&bad.gate);
    return uv_loop_close(&loop);
}

static uint8_t byte_of(uint32_t page, uint32_t at)
{
    return (uint8_t)(page * 37 + at * 11);
}

/* Seals the chain as if it had been computed. */
static void seal_chain(uint32_t count)
{
    struct hash128 key = root;
    uint32_t parent = PAGE_NONE, pages[CHAIN];
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *bytes;
        assert_int_equal(pool_grant(pool, 1, &pages[i]), 0);
        bytes = payload + pages[i] * PAGE_BYTES;
        for (uint32_t k = 0; k < PAGE_BYTES; k++) bytes[k] = byte_of(i, k);
        uint64_t sum = hash64(bytes, PAGE_BYTES);
        key = prefix_key(key, tokens + i * PAGE_TOKENS);
        pool_fill(pool, pages[i], tokens + i * PAGE_TOKENS, PAGE_TOKENS);
        prefix_seal(prefix, pages[i], key, parent, &sum);
        parent = pages[i];
    }
    for (uint32_t i = count; i-- > 0;) prefix_release(prefix, pages[i], 1);
}

static void run_loop(void)
{
    (void)uv_run(&loop, UV_RUN_DEFAULT); // until no thread works
}

/* The chain is in the tier and no more in the pool. */
static void fill_tier(void)
{
    seal_chain(CHAIN);
    assert_int_equal(offload_begin(offload, PRODUCER), 0);
    for (uint32_t i = 0; i < PAGES; i++)
        if (pool_desc(pool, i)->state == PAGE_SEALED) offload_sealed(offload, i);
    run_loop();
    assert_int_equal(bad_count(&bad.tier, PRODUCER), CHAIN);
    assert_int_equal(prefix_clear(prefix), CHAIN);
    memset(payload, 0, sizeof payload);
}

static bool fetch(void)
{
    return offload_fetch(offload, 5, root, tokens, CHAIN * PAGE_TOKENS + 1);
}

/* Pages of the chain that are in the pool, from the first on; all that are there have the bytes that were sealed. */
static uint32_t found(void)
{
    struct hash128 key = root;
    uint32_t parent = PAGE_NONE, count = 0;
    for (; count < CHAIN; count++) {
        key = prefix_key(key, tokens + count * PAGE_TOKENS);
        uint32_t at = prefix_find(prefix, key, parent, tokens + count * PAGE_TOKENS);
        if (at == PAGE_NONE) break;
        for (uint32_t k = 0; k < PAGE_BYTES; k++)
            assert_int_equal(payload[at * PAGE_BYTES + k], byte_of(count, k));
        parent = at;
    }
    return count;
}

static void test_offload_queues_what_was_sealed_before_it(void **state)
{
    (void)state;
    seal_chain(CHAIN);
    assert_false(fetch()); // of no producer yet
    assert_int_equal(offload_begin(offload, PRODUCER), 0);
    run_loop();
    assert_int_equal(bad.writes, CHAIN);
    assert_int_equal(offload_begin(offload, PRODUCER), 0); // a worker came back: nothing is queued again
    run_loop();
    assert_int_equal(bad.writes, CHAIN);
    close_all(); // another daemon over the same pages
    open_pool();
    seal_chain(CHAIN);
    open_offload();
    assert_int_equal(offload_begin(offload, PRODUCER), 0);
    run_loop();
    assert_int_equal(bad.writes, CHAIN); // the tier has them
}

static void test_offload_brings_a_prefix_back(void **state)
{
    (void)state;
    fill_tier();
    assert_true(fetch());
    assert_int_equal(fetched_count, 0); // not inside
    run_loop();
    assert_int_equal(fetched_count, 1);
    assert_int_equal(fetched_id, 5);
    assert_int_equal(found(), CHAIN);
    assert_int_equal(prefix_idle_count(prefix), 0); // held until it is admitted
    is_waiting = false;
    offload_turn(offload);
    assert_int_equal(prefix_idle_count(prefix), CHAIN);
    assert_false(fetch()); // all of it is there
}

static void test_offload_takes_nothing_of_another_producer(void **state)
{
    (void)state;
    fill_tier();
    assert_int_equal(offload_begin(offload, PRODUCER + 1), CHAIN);
    assert_false(fetch());
    assert_int_equal(offload_begin(offload, PRODUCER), 0);
    assert_true(fetch());
    run_loop();
    assert_int_equal(found(), CHAIN);
}

static void test_offload_keeps_the_front_of_a_chain_whose_read_fails(void **state)
{
    (void)state;
    const int codes[] = {-EIO, ERR_FORMAT, -EINTR};
    for (uint32_t good = 0; good < CHAIN; good++) {
        bad.read_fails = 0;
        fill_tier();
        bad.read_fails = codes[good % 3];
        bad.read_good = good;
        assert_true(fetch());
        run_loop();
        assert_int_equal(found(), good);
        assert_int_equal(fetched_count, good + 1); // it computes the rest
        assert_int_equal(bad.drops, good + 1);     // and nobody asks for that page again
        assert_int_equal(pool_filling_count(pool), 0);
        assert_true(offload_yield(offload));
        (void)prefix_clear(prefix);
    }
}

static void test_offload_believes_no_other_checksum(void **state)
{
    (void)state;
    fill_tier();
    bad.lies_of_sum = true; // its own, of bytes that it does not have
    assert_true(fetch());
    run_loop();
    assert_int_equal(found(), 0);
    assert_int_equal(fetched_count, 1);
}

/* A tier that hands out other bytes than it compared: the page's checksum still is what was sealed, so the next look
 * at it finds out. What offload promises is that it is sealed under the sum of the bytes that were asked for. */
static void test_offload_seals_under_the_sum_that_was_sealed(void **state)
{
    (void)state;
    fill_tier();
    uint64_t sum = bad.pages[0].sum;
    bad.lies_of_bytes = true;
    assert_true(fetch());
    run_loop();
    struct hash128 key = prefix_key(root, tokens);
    uint32_t at = prefix_find(prefix, key, PAGE_NONE, tokens);
    if (at == PAGE_NONE) return; // it may compare by itself
    assert_int_equal(pool_sums(pool, at)[0], sum);
    assert_int_not_equal(hash64(payload + at * PAGE_BYTES, PAGE_BYTES), sum);
}

static void test_offload_gives_back_a_place_whose_write_fails(void **state)
{
    (void)state;
    bad.write_fails = -ENOSPC;
    seal_chain(CHAIN);
    (void)offload_begin(offload, PRODUCER);
    run_loop();
    assert_int_equal(bad.writes, CHAIN);
    assert_int_equal(bad.drops, CHAIN);
    assert_int_equal(bad_count(&bad.tier, PRODUCER), 0);
    bad.is_full = true;
    assert_int_equal(prefix_clear(prefix), CHAIN); // nothing is held for it
}

/* Its source is evicted, and granted to somebody else, while the thread has not come to it. */
static void test_offload_does_not_write_a_page_that_died_meanwhile(void **state)
{
    (void)state;
    bad.has_gate = true;
    seal_chain(CHAIN);
    (void)offload_begin(offload, PRODUCER); // the thread waits with the first one in its hands
    assert_int_equal(prefix_clear(prefix), CHAIN);
    memset(payload, 0xAB, sizeof payload);
    for (int i = 0; i < CHAIN; i++) uv_sem_post(&bad.gate);
    run_loop();
    assert_true(bad.writes <= 1); // bad_write compares what it is given
    assert_int_equal(bad.drops + bad_count(&bad.tier, PRODUCER), CHAIN);
    bad.has_gate = false;
}

/* The same of pages that are being read. */
static void test_offload_enters_nothing_that_was_abandoned(void **state)
{
    (void)state;
    fill_tier();
    bad.has_gate = true;
    assert_true(fetch());
    offload_abandon(offload);
    for (int i = 0; i < CHAIN; i++) uv_sem_post(&bad.gate);
    run_loop();
    assert_int_equal(found(), 0);
    assert_int_equal(fetched_count, 1);
    assert_int_equal(pool_filling_count(pool), 0);
    bad.has_gate = false;
    (void)offload_yield(offload);
    assert_true(fetch()); // it is still in the tier
    run_loop();
    assert_int_equal(found(), CHAIN);
}

/* Somebody computed the same pages while they were read: one copy stays. */
static void test_offload_takes_the_copy_that_was_first(void **state)
{
    (void)state;
    fill_tier();
    bad.has_gate = true;
    assert_true(fetch());
    seal_chain(CHAIN);
    for (int i = 0; i < CHAIN; i++) uv_sem_post(&bad.gate);
    run_loop();
    bad.has_gate = false;
    assert_int_equal(found(), CHAIN);
    assert_int_equal(pool_sealed_count(pool), CHAIN);
}

static void test_offload_ends_while_it_waits(void **state)
{
    (void)state;
    fill_tier();
    bad.has_gate = true;
    assert_true(fetch());
    offload_free(offload, freed, NULL);
    assert_false(is_freed);
    for (int i = 0; i < CHAIN; i++) uv_sem_post(&bad.gate);
    run_loop();
    assert_true(is_freed);
    bad.has_gate = false;
    assert_int_equal(fetched_count, 0);
    open_offload(); // for teardown
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_offload_queues_what_was_sealed_before_it),
        CASE(test_offload_brings_a_prefix_back),
        CASE(test_offload_takes_nothing_of_another_producer),
        CASE(test_offload_keeps_the_front_of_a_chain_whose_read_fails),
        CASE(test_offload_believes_no_other_checksum),
        CASE(test_offload_seals_under_the_sum_that_was_sealed),
        CASE(test_offload_gives_back_a_place_whose_write_fails),
        CASE(test_offload_does_not_write_a_page_that_died_meanwhile),
        CASE(test_offload_enters_nothing_that_was_abandoned),
        CASE(test_offload_takes_the_copy_that_was_first),
        CASE(test_offload_ends_while_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
