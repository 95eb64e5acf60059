/* SPDX-License-Identifier: Apache-2.0 */
/* retain - levels, times and bounds of retained pages through the prefix index, and at random against a plain list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "daemon/prefix.h"
#include "tests/data/pool_rig.h"

#define SECONDS(n) ((n)*NS_PER_S)

struct world {
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    uint64_t now_ns;
};

static void world_open(struct world *world, uint32_t pages, uint32_t tenants, uint32_t limit)
{
    *world = (struct world){.now_ns = SECONDS(1000)};
    assert_int_equal(pool_rig_open(pages, &world->meta, &world->pool), 0);
    assert_int_equal(prefix_new(world->pool, &world->prefix), 0);
    assert_int_equal(prefix_retain(world->prefix, tenants, limit), 0);
}

static void world_done(struct world *world)
{
    struct err err = {0};
    if (prefix_check(world->prefix, &err) < 0) fail_msg("%s", err.text);
    prefix_free(world->prefix);
    pool_free(world->pool);
    free(world->meta);
}

static struct hash128 key_of(uint32_t value, uint32_t tokens[PAGE_TOKENS])
{
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) tokens[i] = value + i;
    return prefix_key((struct hash128){0, 0}, tokens);
}

static uint32_t find(const struct world *world, uint32_t value)
{
    uint32_t tokens[PAGE_TOKENS];
    struct hash128 key = key_of(value, tokens);
    return prefix_find(world->prefix, key, PAGE_NONE, tokens);
}

/* A request of one page, from its beginning to its end. */
static void use(struct world *world, uint32_t value, uint32_t tenant, struct retain_hint hint)
{
    uint32_t tokens[PAGE_TOKENS], page_idx = find(world, value);
    struct hash128 key = key_of(value, tokens);
    uint64_t sum = 0;
    prefix_expire(world->prefix, ++world->now_ns);
    if (page_idx == PAGE_NONE) {
        while (pool_grant(world->pool, world->now_ns, &page_idx) < 0)
            assert_int_equal(prefix_evict(world->prefix), 0);
        pool_fill(world->pool, page_idx, tokens, PAGE_TOKENS);
        prefix_seal(world->prefix, page_idx, key, PAGE_NONE, &sum);
    } else {
        prefix_hold(world->prefix, page_idx, world->now_ns);
    }
    prefix_release_as(world->prefix, page_idx, world->now_ns, tenant, hint);
}

static void flood(struct world *world, uint32_t count)
{
    static uint32_t value = 1000000;
    for (uint32_t i = 0; i < count; i++, value += 100) use(world, value, 0, retain_plain);
}

static const struct retain_hint minute = {.level = 60, .duration_s = 60};
static const struct retain_hint always = {.level = 80, .duration_s = RETAIN_FOREVER};
static const struct retain_hint worthless = {.level = 0};

static void test_retain_outlives_a_flood_until_its_time_is_over(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8, 0, 4);
    use(&world, 0, 0, minute);
    use(&world, 100, 0, always);
    flood(&world, 100);
    assert_int_not_equal(find(&world, 0), PAGE_NONE);
    assert_int_not_equal(find(&world, 100), PAGE_NONE);
    assert_int_equal(prefix_retained_count(world.prefix), 2);
    world.now_ns += SECONDS(50);
    use(&world, 0, 0, retain_plain); // the time counts from here, also without a hint
    world.now_ns += SECONDS(50);
    flood(&world, 100);
    assert_int_not_equal(find(&world, 0), PAGE_NONE);
    world.now_ns += SECONDS(11);
    flood(&world, 100);
    assert_int_equal(find(&world, 0), PAGE_NONE);
    assert_int_not_equal(find(&world, 100), PAGE_NONE);
    assert_int_equal(prefix_retained_count(world.prefix), 1);
    world_done(&world);
}

static void test_retain_time_stands_still_while_a_page_is_used(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8, 0, 4);
    use(&world, 0, 0, minute);
    uint32_t page_idx = find(&world, 0);
    prefix_hold(world.prefix, page_idx, world.now_ns);
    world.now_ns += SECONDS(1000);
    prefix_expire(world.prefix, world.now_ns);
    prefix_release(world.prefix, page_idx, world.now_ns);
    flood(&world, 100);
    assert_int_not_equal(find(&world, 0), PAGE_NONE);
    world_done(&world);
}

static void test_retain_low_levels_leave_first(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 4, 0, 4);
    flood(&world, 2);
    use(&world, 0, 0, retain_plain);
    use(&world, 100, 0, worthless); // the last one used
    flood(&world, 1);
    assert_int_equal(find(&world, 100), PAGE_NONE);
    assert_int_not_equal(find(&world, 0), PAGE_NONE);
    use(&world, 200, 0, worthless);
    use(&world, 200, 0, retain_plain); // somebody else found it worth as much as all
    use(&world, 300, 0, worthless);
    flood(&world, 1);
    assert_int_not_equal(find(&world, 200), PAGE_NONE);
    assert_int_equal(find(&world, 300), PAGE_NONE);
    world_done(&world);
}

static void test_retain_gives_way_where_nothing_else_can_leave(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 4, 0, 4);
    for (uint32_t i = 0; i < 4; i++) use(&world, 100 * i, 0, i == 2 ? minute : always);
    flood(&world, 1);
    assert_int_equal(find(&world, 200), PAGE_NONE); // of the lowest level
    assert_int_equal(prefix_retained_count(world.prefix), 3);
    world_done(&world);
}

static void test_retain_bounds_each_tenant(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 16, 2, 3);
    use(&world, 50000, 2, minute);
    for (uint32_t i = 0; i < 5; i++) use(&world, 100 * i, 1, i == 1 ? minute : always);
    assert_int_equal(prefix_retained_count(world.prefix), 4);
    flood(&world, 200);
    assert_int_not_equal(find(&world, 50000), PAGE_NONE); // the other tenant's
    assert_int_equal(find(&world, 100), PAGE_NONE);       // the first to end went first,
    assert_int_equal(find(&world, 0), PAGE_NONE);         // then the first that never would
    for (uint32_t i = 2; i < 5; i++) assert_int_not_equal(find(&world, 100 * i), PAGE_NONE);
    world_done(&world);
    world_open(&world, 16, 2, 0);
    use(&world, 0, 1, always);
    assert_int_equal(prefix_retained_count(world.prefix), 0);
    world_done(&world);
}

static void test_retain_hints_join_over_ranges(void **state)
{
    (void)state;
    const struct retain_range ranges[] = {
        {16, 40, {60, 10}}, {32, 36, {50, 100}}, {64, 100, {10, 0}}, {80, 84, {35, 0}}};
    struct retain_hint hint = retain_hint_at(ranges, 4, 0, 16);
    assert_int_equal(hint.level, RETAIN_NORMAL);
    hint = retain_hint_at(ranges, 4, 16, 32);
    assert_int_equal(hint.level, 60);
    assert_int_equal(hint.duration_s, 10);
    hint = retain_hint_at(ranges, 4, 32, 48);
    assert_int_equal(hint.level, 60);
    assert_int_equal(hint.duration_s, 100);
    assert_int_equal(retain_hint_at(ranges, 4, 64, 80).level, 10);
    assert_int_equal(retain_hint_at(ranges, 4, 80, 96).level, RETAIN_NORMAL);
    assert_int_equal(retain_hint_at(ranges, 4, 96, 112).level, RETAIN_NORMAL);
    assert_int_equal(retain_hint_at(NULL, 0, 0, 16).level, RETAIN_NORMAL);
}

/* ---- at random ---- */

enum { PAGES = 40, TENANTS = 3, LIMIT = 5 };

struct page {
    bool is_cached, is_held;
    uint8_t level;
    uint32_t duration_s, tenant;
    uint64_t end_ns, order;
};

struct list {
    struct page pages[PAGES];
    uint64_t order, now_ns;
};

/* The page that ends first of those idle and retained: of a tenant, or TENANTS for all; PAGE_NONE. */
static uint32_t list_first(const struct list *list, uint32_t tenant)
{
    uint32_t best = PAGE_NONE;
    for (uint32_t i = 0; i < PAGES; i++) {
        const struct page *page = &list->pages[i], *first = &list->pages[best == PAGE_NONE ? i : best];
        if (page->level <= RETAIN_NORMAL || page->is_held || (tenant < TENANTS && page->tenant != tenant))
            continue;
        if (best == PAGE_NONE || page->end_ns < first->end_ns ||
            (page->end_ns == first->end_ns && page->order < first->order))
            best = i;
    }
    return best;
}

static uint32_t list_count(const struct list *list, uint32_t tenant)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < PAGES; i++)
        count += list->pages[i].level > RETAIN_NORMAL && list->pages[i].tenant == tenant;
    return count;
}

static void list_let_go(struct list *list, struct page *page, uint32_t tenant, struct retain_hint hint,
                        uint32_t *ret_displaced)
{
    *ret_displaced = PAGE_NONE;
    page->is_held = false;
    if (page->level > RETAIN_NORMAL && hint.level > RETAIN_NORMAL) {
        if (hint.level > page->level) page->level = hint.level;
        if (hint.duration_s > page->duration_s) page->duration_s = hint.duration_s;
    } else if (page->level <= RETAIN_NORMAL && hint.level > RETAIN_NORMAL) {
        if (list_count(list, tenant) == LIMIT) {
            *ret_displaced = list_first(list, tenant);
            if (*ret_displaced == PAGE_NONE) hint.level = RETAIN_NORMAL;
            else list->pages[*ret_displaced].level = RETAIN_NORMAL;
        }
        page->level = hint.level;
        page->duration_s = hint.duration_s;
        page->tenant = tenant;
    } else if (hint.level > page->level) {
        page->level = hint.level;
    }
    page->end_ns = page->duration_s == RETAIN_FOREVER ? UINT64_MAX : list->now_ns + SECONDS(page->duration_s);
    page->order = list->order++;
}

static void page_step(struct rng *rng, struct list *list, struct retain *retain)
{
    static const uint32_t durations[] = {0, 1, 5, 60, RETAIN_FOREVER};
    uint32_t at = (uint32_t)rng_below(rng, PAGES), expected;
    struct page *page = &list->pages[at];
    if (!page->is_cached) {
        page->is_cached = page->is_held = true;
    } else if (page->is_held) {
        struct retain_hint hint = {(uint8_t)rng_below(rng, 101), durations[rng_below(rng, 5)]};
        uint32_t tenant = (uint32_t)rng_below(rng, TENANTS);
        list_let_go(list, page, tenant, hint, &expected);
        assert_int_equal(retain_let_go(retain, at, tenant, hint, true, list->now_ns), expected);
    } else if (rng_below(rng, 3) == 0) {
        retain_forget(retain, at);
        *page = (struct page){.is_cached = false};
    } else {
        retain_taken(retain, at);
        page->is_held = true;
    }
}

static void test_retain_agrees_with_a_list(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng = {seed};
    struct list list = {.now_ns = 1};
    struct retain *retain;
    assert_int_equal(retain_new(PAGES, &retain), 0);
    assert_int_equal(retain_limit(retain, TENANTS - 1, LIMIT), 0);
    for (int step = 0; step < 30000; step++) {
        struct err err = {0};
        list.now_ns += rng_below(&rng, NS_PER_S / 4);
        for (uint32_t first;
             (first = list_first(&list, TENANTS)) != PAGE_NONE && list.pages[first].end_ns <= list.now_ns;) {
            uint32_t at = retain_expired(retain, list.now_ns);
            assert_int_not_equal(at, PAGE_NONE);
            assert_true(list.pages[at].end_ns <= list.now_ns);
            list.pages[at].level = RETAIN_NORMAL;
        }
        assert_int_equal(retain_expired(retain, list.now_ns), PAGE_NONE);
        page_step(&rng, &list, retain);
        for (uint32_t i = 0; i < PAGES; i++) assert_int_equal(retain_level(retain, i), list.pages[i].level);
        if (retain_check(retain, &err) < 0) fail_msg("%s", err.text);
    }
    retain_free(retain);
    retain_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retain_outlives_a_flood_until_its_time_is_over),
        cmocka_unit_test(test_retain_time_stands_still_while_a_page_is_used),
        cmocka_unit_test(test_retain_low_levels_leave_first),
        cmocka_unit_test(test_retain_gives_way_where_nothing_else_can_leave),
        cmocka_unit_test(test_retain_bounds_each_tenant),
        cmocka_unit_test(test_retain_hints_join_over_ranges),
        cmocka_unit_test(test_retain_agrees_with_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
