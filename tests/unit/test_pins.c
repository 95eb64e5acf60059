/* SPDX-License-Identifier: Apache-2.0 */
/* prefix_pins - pinned chains stay through evictions and a clear, once however often they are asked for, within their
 * bound; what they share is held until the last of them goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/prefix.h"
#include "tests/data/pool_rig.h"

enum { PAGES = 16 };

struct world {
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    struct pins *pins;
    uint64_t now_ns;
};

static void world_open(struct world *world, uint32_t limit)
{
    *world = (struct world){.now_ns = 0};
    assert_int_equal(pool_rig_open(PAGES, &world->meta, &world->pool), 0);
    assert_int_equal(prefix_new(world->pool, &world->prefix), 0);
    world->pins = prefix_pins(world->prefix);
    pins_limit(world->pins, limit);
}

static void audit(const struct world *world)
{
    struct err err = {0};
    int r = pool_check(world->pool, &err);
    if (r == 0) r = prefix_check(world->prefix, &err);
    if (r < 0) fail_msg("%s", err.text);
}

static void world_done(struct world *world)
{
    audit(world);
    prefix_free(world->prefix);
    pool_free(world->pool);
    free(world->meta);
}

/* A cached page under parent that says `value`, held by nobody. */
static uint32_t cache(struct world *world, uint32_t parent, uint32_t value)
{
    uint32_t page_idx, tokens[PAGE_TOKENS];
    uint64_t sum = value;
    struct hash128 key = parent == PAGE_NONE ? (struct hash128){0, 0} : pool_desc(world->pool, parent)->key;
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) tokens[i] = value + i;
    while (pool_grant(world->pool, ++world->now_ns, &page_idx) < 0)
        assert_int_equal(prefix_evict(world->prefix), 0);
    pool_fill(world->pool, page_idx, tokens, PAGE_TOKENS);
    prefix_seal(world->prefix, page_idx, prefix_key(key, tokens), parent, &sum);
    prefix_release(world->prefix, page_idx, world->now_ns);
    return page_idx;
}

static bool is_cached(const struct world *world, uint32_t page_idx, uint32_t value)
{
    return pool_desc(world->pool, page_idx)->state == PAGE_SEALED &&
           pool_tokens(world->pool, page_idx)[0] == value;
}

static void flood(struct world *world)
{
    for (uint32_t i = 0; i < 10 * PAGES; i++) (void)cache(world, PAGE_NONE, 1000000 + 100 * i);
}

static void test_pins_stay_through_a_flood_and_a_clear(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 4);
    uint32_t a = cache(&world, PAGE_NONE, 0), b = cache(&world, a, 100), c = cache(&world, b, 200);
    assert_int_equal(pins_add(world.pins, b, ++world.now_ns), 0);
    assert_int_equal(pins_add(world.pins, b, ++world.now_ns), 0); // once
    assert_true(pins_has(world.pins, b));
    assert_false(pins_has(world.pins, a));
    assert_int_equal(pins_page_count(world.pins), 2);
    assert_int_equal(pool_desc(world.pool, a)->refcount, 1);
    flood(&world);
    assert_true(is_cached(&world, a, 0) && is_cached(&world, b, 100));
    assert_false(is_cached(&world, c, 200)); // what hangs on it may go
    assert_int_equal(prefix_clear(world.prefix), PAGES - 2);
    audit(&world);
    pins_remove(world.pins, a, ++world.now_ns); // no end
    assert_int_equal(pins_page_count(world.pins), 2);
    pins_remove(world.pins, b, ++world.now_ns);
    assert_int_equal(pins_page_count(world.pins), 0);
    assert_int_equal(prefix_clear(world.prefix), 2);
    world_done(&world);
}

static void test_pins_share_pages_within_the_bound(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 3);
    uint32_t a = cache(&world, PAGE_NONE, 0), b = cache(&world, a, 100), c = cache(&world, a, 200);
    uint32_t d = cache(&world, PAGE_NONE, 300);
    assert_int_equal(pins_add(world.pins, b, ++world.now_ns), 0);
    assert_int_equal(pins_add(world.pins, c, ++world.now_ns), 0);
    assert_int_equal(pins_page_count(world.pins), 3);
    assert_int_equal(pins_of(world.pins, a), 2);
    assert_int_equal(pins_add(world.pins, d, ++world.now_ns), ERR_LIMIT);
    assert_int_equal(pool_desc(world.pool, d)->refcount, 0);
    assert_int_equal(pins_add(world.pins, a, ++world.now_ns), 0); // takes no page more
    audit(&world);
    pins_remove(world.pins, b, ++world.now_ns);
    pins_remove(world.pins, a, ++world.now_ns);
    assert_int_equal(pins_page_count(world.pins), 2); // a and c
    assert_int_equal(pins_add(world.pins, d, ++world.now_ns), 0);
    world_done(&world);
}

static void test_pins_go_with_bad_pages(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8);
    uint32_t a = cache(&world, PAGE_NONE, 0), b = cache(&world, a, 100), c = cache(&world, b, 200);
    uint32_t d = cache(&world, PAGE_NONE, 300);
    uint8_t marks[PAGES] = {0};
    assert_int_equal(pins_add(world.pins, c, ++world.now_ns), 0);
    assert_int_equal(pins_add(world.pins, d, ++world.now_ns), 0);
    assert_int_equal(pins_add(world.pins, a, ++world.now_ns), 0);
    assert_false(pins_lost(world.pins));
    marks[b] = 1;
    prefix_mark_descendants(world.prefix, marks);
    assert_int_equal(pins_remove_marked(world.pins, marks, ++world.now_ns), 1);
    assert_int_equal(prefix_drop_marked(world.prefix, marks), 2);
    assert_true(pins_lost(world.pins));
    assert_false(pins_lost(world.pins)); // told once
    assert_int_equal(pins_page_count(world.pins), 2);
    assert_true(pins_has(world.pins, a) && pins_has(world.pins, d));
    world_done(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pins_stay_through_a_flood_and_a_clear),
        cmocka_unit_test(test_pins_share_pages_within_the_bound),
        cmocka_unit_test(test_pins_go_with_bad_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
