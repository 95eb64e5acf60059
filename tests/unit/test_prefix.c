/* SPDX-License-Identifier: Apache-2.0 */
/* prefix - find, seal, hold, release, evict over a pool in plain memory; keys made to collide; a table that wraps.
 * At random: against a list that is searched from end to end, with the audit after every operation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "daemon/prefix.h"
#include "tests/data/pool_rig.h"

enum { PAGES_MOST = 64 };

struct world {
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    uint64_t now_ns;
};

static void world_open_ordered(struct world *world, uint32_t pages, enum leaves_order order)
{
    *world = (struct world){.now_ns = 0};
    assert_int_equal(pool_rig_open(pages, &world->meta, &world->pool), 0);
    assert_int_equal(prefix_new_ordered(world->pool, order, &world->prefix), 0);
}

static void world_open(struct world *world, uint32_t pages)
{
    world_open_ordered(world, pages, LEAVES_BY_REUSE);
}

static void world_done(struct world *world)
{
    prefix_free(world->prefix);
    prefix_free(NULL);
    pool_free(world->pool);
    free(world->meta);
}

static void audit(const struct world *world)
{
    struct err err = {0};
    int r = pool_check(world->pool, &err);
    if (r == 0) r = prefix_check(world->prefix, &err);
    if (r < 0) fail_msg("%s", err.text);
}

/* Sixteen tokens that say `value`. */
static const uint32_t *tokens_of(uint32_t value)
{
    static uint32_t tokens[PAGE_TOKENS];
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) tokens[i] = value + i;
    return tokens;
}

/* A sealed page under a key; held once. */
static uint32_t seal_under(struct world *world, struct hash128 key, uint32_t parent, uint32_t value)
{
    uint32_t page_idx;
    uint64_t sum = value;
    assert_int_equal(pool_grant(world->pool, ++world->now_ns, &page_idx), 0);
    pool_fill(world->pool, page_idx, tokens_of(value), PAGE_TOKENS);
    prefix_seal(world->prefix, page_idx, key, parent, &sum);
    return page_idx;
}

static struct hash128 key_under(const struct world *world, uint32_t parent, uint32_t value)
{
    struct hash128 root = {9, 9};
    return prefix_key(parent == PAGE_NONE ? root : pool_desc(world->pool, parent)->key, tokens_of(value));
}

static uint32_t seal(struct world *world, uint32_t parent, uint32_t value)
{
    return seal_under(world, key_under(world, parent, value), parent, value);
}

static uint32_t find(const struct world *world, uint32_t parent, uint32_t value)
{
    return prefix_find(world->prefix, key_under(world, parent, value), parent, tokens_of(value));
}

static void release(struct world *world, uint32_t page_idx)
{
    prefix_release(world->prefix, page_idx, ++world->now_ns);
}

static void test_prefix_finds_what_was_sealed(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8);
    uint32_t a = seal(&world, PAGE_NONE, 100), b = seal(&world, a, 200);
    audit(&world);
    assert_int_equal(find(&world, PAGE_NONE, 100), a);
    assert_int_equal(find(&world, a, 200), b);
    assert_int_equal(find(&world, PAGE_NONE, 200), PAGE_NONE); // other parent, other key
    assert_int_equal(find(&world, PAGE_NONE, 101), PAGE_NONE);
    assert_int_equal(find(&world, b, 100), PAGE_NONE);
    release(&world, b);
    release(&world, a);
    assert_int_equal(find(&world, a, 200), b); // cached
    assert_int_equal(prefix_idle_count(world.prefix), 2);
    audit(&world);
    world_done(&world);
}

/* The key of a page is a hash of all tokens before it, so that one sum means one history. */
static void test_prefix_keys_are_chains(void **state)
{
    (void)state;
    struct hash128 a = {1, 2}, b = {1, 3};
    assert_true(hash128_equal(prefix_key(a, tokens_of(5)), prefix_key(a, tokens_of(5))));
    assert_false(hash128_equal(prefix_key(a, tokens_of(5)), prefix_key(b, tokens_of(5))));
    assert_false(hash128_equal(prefix_key(a, tokens_of(5)), prefix_key(a, tokens_of(6))));
}

/* Pages under one and the same key: tokens and parent tell them apart. (The pool's own audit knows that such keys
 * are made up, so only the index is audited.) */
static void test_prefix_tells_colliding_keys_apart(void **state)
{
    (void)state;
    struct world world;
    struct hash128 key = {42, 42};
    world_open(&world, 8);
    uint32_t pages[4];
    for (uint32_t i = 0; i < 4; i++) pages[i] = seal_under(&world, key, PAGE_NONE, 10 * i);
    assert_int_equal(prefix_check(world.prefix, NULL), 0);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(prefix_find(world.prefix, key, PAGE_NONE, tokens_of(10 * i)), pages[i]);
    assert_int_equal(prefix_find(world.prefix, key, PAGE_NONE, tokens_of(77)), PAGE_NONE);
    assert_int_equal(prefix_find(world.prefix, key, pages[0], tokens_of(10)), PAGE_NONE); // another parent's
    uint32_t last = tokens_of(0)[PAGE_TOKENS - 1];
    uint32_t almost[PAGE_TOKENS];
    memcpy(almost, tokens_of(0), sizeof almost);
    almost[PAGE_TOKENS - 1] = last + 1;
    assert_int_equal(prefix_find(world.prefix, key, PAGE_NONE, almost), PAGE_NONE);
    release(&world, pages[1]);
    assert_int_equal(prefix_evict(world.prefix), 0); // one out of the middle of the run
    assert_int_equal(prefix_find(world.prefix, key, PAGE_NONE, tokens_of(10)), PAGE_NONE);
    for (uint32_t i = 0; i < 4; i++)
        if (i != 1) assert_int_equal(prefix_find(world.prefix, key, PAGE_NONE, tokens_of(10 * i)), pages[i]);
    assert_int_equal(prefix_check(world.prefix, NULL), 0);
    world_done(&world);
}

/* Runs of the table that begin near its end go on at its beginning; whatever leaves, the rest is found. */
static void test_prefix_deletes_in_runs_that_wrap(void **state)
{
    (void)state;
    enum { COUNT = 8, PLACES = 16 }; // places: at least twice the pages, as prefix_new chooses
    for (uint32_t order = 0; order < 40320; order += 7) { // permutations of eight, by number
        struct world world;
        uint32_t pages[COUNT], left[COUNT], n = order;
        world_open(&world, COUNT);
        for (uint32_t i = 0; i < COUNT; i++) { // homes 13, 14, 15, 13, 14, 15, 0, 1
            uint32_t home = i < 6 ? 13 + i % 3 : i - 6;
            pages[i] = seal_under(&world, (struct hash128){home + PLACES * i, i}, PAGE_NONE, 1000 * i);
            left[i] = i;
        }
        for (uint32_t i = 0; i < COUNT; i++) { // release in that order, and evict in the same
            uint32_t pick = n % (COUNT - i);
            n /= COUNT - i;
            release(&world, pages[left[pick]]);
            memmove(left + pick, left + pick + 1, (COUNT - 1 - pick) * sizeof *left);
            assert_int_equal(prefix_evict(world.prefix), 0);
            assert_int_equal(prefix_check(world.prefix, NULL), 0); // every one that is left is found
        }
        assert_int_equal(pool_free_count(world.pool), COUNT);
        world_done(&world);
    }
}

static void test_prefix_evicts_the_leaf_used_longest_ago(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8);
    uint32_t a = seal(&world, PAGE_NONE, 1), b = seal(&world, a, 2), c = seal(&world, b, 3);
    uint32_t d = seal(&world, PAGE_NONE, 4);
    release(&world, a); // oldest use, but its children are there
    release(&world, d);
    release(&world, c);
    assert_int_equal(prefix_idle_count(world.prefix), 3); // b is held
    audit(&world);
    assert_int_equal(prefix_evict(world.prefix), 0);
    assert_int_equal(find(&world, PAGE_NONE, 4), PAGE_NONE); // d before c
    prefix_hold(world.prefix, c, ++world.now_ns);            // c is used again
    assert_int_equal(prefix_evict(world.prefix), -ENOSPC);   // a is idle, but no leaf
    release(&world, c);
    release(&world, b);
    assert_int_equal(prefix_evict(world.prefix), 0);
    assert_int_equal(pool_desc(world.pool, c)->state, PAGE_FREE);
    assert_int_equal(prefix_evict(world.prefix), 0);
    assert_int_equal(pool_desc(world.pool, a)->state, PAGE_SEALED); // b had to go first, though a is older
    assert_int_equal(prefix_evict(world.prefix), 0);
    assert_int_equal(prefix_evict(world.prefix), -ENOSPC);
    assert_int_equal(prefix_evictions(world.prefix), 4);
    assert_int_equal(pool_free_count(world.pool), 8);
    audit(&world);
    world_done(&world);
}

/* One request after the other, each of one page that was let go of before the next is computed. */
static void use_once(struct world *world, uint32_t value)
{
    uint32_t page_idx = find(world, PAGE_NONE, value);
    if (page_idx != PAGE_NONE) {
        prefix_hold(world->prefix, page_idx, ++world->now_ns);
    } else {
        if (pool_free_count(world->pool) == 0) assert_int_equal(prefix_evict(world->prefix), 0);
        page_idx = seal(world, PAGE_NONE, value);
    }
    release(world, page_idx);
}

static void test_prefix_keeps_what_comes_back_from_a_flood_of_what_does_not(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 32);
    uint32_t hits = 0, flood = 1000000;
    for (int round = 0; round < 400; round++) {
        for (uint32_t value = 0; value < 8;
             value++) { // each comes back after 48 others: by last use, never a hit
            hits += round >= 200 && find(&world, PAGE_NONE, 100 * value) != PAGE_NONE;
            use_once(&world, 100 * value);
            for (int i = 0; i < 5; i++) use_once(&world, flood += 100);
        }
        audit(&world);
    }
    assert_true(hits >= 200 * 8 * 9 / 10);
    world_done(&world);
}

/* A page of a tenant, computed and let go of; what it takes is evicted for that tenant. */
static int use_for(struct world *world, uint32_t tenant, uint32_t value)
{
    if (pool_free_count(world->pool) == 0) {
        int r = prefix_evict_for(world->prefix, tenant);
        if (r < 0) return r;
    }
    uint32_t page_idx = seal(world, PAGE_NONE, value);
    prefix_give(world->prefix, page_idx, tenant);
    release(world, page_idx);
    return 0;
}

static void test_prefix_keeps_the_shares_of_tenants_from_a_flood(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 32);
    assert_int_equal(prefix_share(world.prefix, 3, 8), 0);
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(use_for(&world, 1, 100 * i), 0);
    for (uint32_t i = 0; i < 12; i++) assert_int_equal(use_for(&world, 2, 100000 + 100 * i), 0); // 4 too many
    for (uint32_t i = 0; i < 500; i++) {
        assert_int_equal(use_for(&world, i % 2 ? 3 : 0, 1000000 + 100 * i), 0); // tenant 0 has no share
        audit(&world);
    }
    uint32_t left = 0;
    for (uint32_t i = 0; i < 6; i++) assert_int_not_equal(find(&world, PAGE_NONE, 100 * i), PAGE_NONE);
    for (uint32_t i = 0; i < 12; i++) left += find(&world, PAGE_NONE, 100000 + 100 * i) != PAGE_NONE;
    assert_int_equal(left, 8);
    assert_int_equal(prefix_idle_count_for(world.prefix, 3), 32 - 6 - 8);
    assert_int_equal(prefix_idle_count_for(world.prefix, 1), 32 - 8 - 8);
    assert_int_equal(prefix_idle_count(world.prefix), 32);
    world_done(&world);
}

static void test_prefix_gives_up_shares_only_when_told_to(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 8);
    assert_int_equal(prefix_share(world.prefix, 9, 1), ERR_LIMIT);
    assert_int_equal(prefix_share(world.prefix, 2, 4), 0);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(use_for(&world, 1, 100 * i), 0);
    uint32_t held[4];
    for (uint32_t i = 0; i < 4; i++) held[i] = seal(&world, PAGE_NONE, 100000 + 100 * i); // all of the rest
    assert_int_equal(prefix_evict_for(world.prefix, 2), -ENOSPC);
    assert_int_equal(prefix_idle_count_for(world.prefix, 2), 0);
    assert_int_equal(prefix_evict_for(world.prefix, 1), 0); // its own
    assert_int_equal(prefix_evict(world.prefix), 0);
    for (uint32_t i = 0; i < 4; i++) release(&world, held[i]); // given to nobody: no share
    assert_int_equal(prefix_idle_count_for(world.prefix, 2), 4);
    audit(&world);
    world_done(&world);
}

static void test_prefix_holds_count(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 2);
    uint32_t a = seal(&world, PAGE_NONE, 1);
    prefix_hold(world.prefix, a, ++world.now_ns);
    assert_int_equal(pool_desc(world.pool, a)->refcount, 2);
    release(&world, a);
    assert_int_equal(prefix_evict(world.prefix), -ENOSPC);
    assert_int_equal(prefix_idle_count(world.prefix), 0);
    release(&world, a);
    assert_int_equal(prefix_idle_count(world.prefix), 1);
    prefix_hold(world.prefix, a, ++world.now_ns); // out of the heap again
    assert_int_equal(prefix_evict(world.prefix), -ENOSPC);
    audit(&world);
    world_done(&world);
}

static void test_prefix_lives_with_one_page(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 1);
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t page_idx = seal(&world, PAGE_NONE, i);
        assert_int_equal(find(&world, PAGE_NONE, i), page_idx);
        release(&world, page_idx);
        assert_int_equal(prefix_evict(world.prefix), 0);
        assert_int_equal(find(&world, PAGE_NONE, i), PAGE_NONE);
    }
    world_done(&world);
}

/* ---- the page that a hit ends in ---- */

static uint32_t find_tail(const struct world *world, uint64_t root, uint32_t parent, const uint32_t *tokens,
                          uint32_t count)
{
    uint32_t shared = 0;
    uint32_t page_idx = prefix_find_tail(world->prefix, (struct hash128){root, root}, parent, tokens, count,
                                         &shared);
    return page_idx == PAGE_NONE ? 0 : page_idx * 100 + shared;
}

/* A page of tokens that share their first `shared` with tokens_of(value). */
static uint32_t seal_branch(struct world *world, uint32_t parent, uint32_t value, uint32_t shared)
{
    uint32_t tokens[PAGE_TOKENS], page_idx;
    uint64_t sum = 0;
    struct hash128 root = {9, 9};
    memcpy(tokens, tokens_of(value), sizeof tokens);
    for (uint32_t i = shared; i < PAGE_TOKENS; i++) tokens[i] += 5000 + shared;
    assert_int_equal(pool_grant(world->pool, ++world->now_ns, &page_idx), 0);
    pool_fill(world->pool, page_idx, tokens, PAGE_TOKENS);
    prefix_seal(world->prefix, page_idx,
                prefix_key(parent == PAGE_NONE ? root : pool_desc(world->pool, parent)->key, tokens), parent,
                &sum);
    return page_idx;
}

static void test_prefix_finds_the_longest_tail(void **state)
{
    (void)state;
    struct world world;
    uint32_t parents[2] = {PAGE_NONE, PAGE_NONE};
    world_open(&world, 40);
    (void)seal(&world, PAGE_NONE, 7777); // page 0, which find_tail does not tell from none
    parents[1] = seal(&world, PAGE_NONE, 300);
    for (int p = 0; p < 2; p++) {
        uint32_t at[PAGE_TOKENS] = {0};
        assert_int_equal(find_tail(&world, 9, parents[p], tokens_of(50), 16), 0);
        for (uint32_t shared = 1; shared < PAGE_TOKENS; shared += 2)
            at[shared] = seal_branch(&world, parents[p], 50, shared);
        audit(&world);
        for (uint32_t count = 1; count < PAGE_TOKENS; count += 2) { // the whole of what is asked for
            uint32_t found = find_tail(&world, 9, parents[p], tokens_of(50), count);
            assert_int_equal(found % 100, count);
        }
        assert_int_equal(find_tail(&world, 9, parents[p], tokens_of(50), 16), at[15] * 100 + 15);
        assert_int_equal(find_tail(&world, 9, parents[p], tokens_of(50), 0), 0);
        assert_int_equal(find_tail(&world, 9, parents[p], tokens_of(51), 16), 0);
        release(&world, at[15]);
        assert_int_equal(prefix_evict(world.prefix), 0);
        audit(&world);
        assert_int_equal(find_tail(&world, 9, parents[p], tokens_of(50), 16), at[13] * 100 + 13);
    }
    assert_int_equal(find_tail(&world, 8, PAGE_NONE, tokens_of(50), 16), 0); // another root
    assert_int_equal(find_tail(&world, 9, 0, tokens_of(50), 16), 0);         // another parent
    world_done(&world);
}

/* Of thousands that begin alike only those used last are looked at. */
static void test_prefix_search_for_a_tail_is_bounded(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 200);
    uint32_t best = seal_branch(&world, PAGE_NONE, 50, 15);
    for (uint32_t i = 1; i < 200; i++) (void)seal_branch(&world, PAGE_NONE, 50 - i, i % 3 ? 1 : 0);
    for (uint32_t i = 0; i < 100; i++) { // the same first token under other tokens
        uint32_t tokens[PAGE_TOKENS] = {50};
        uint64_t sum = 0;
        uint32_t page_idx;
        release(&world, 100 + i);
        assert_int_equal(prefix_evict(world.prefix), 0);
        assert_int_equal(pool_grant(world.pool, ++world.now_ns, &page_idx), 0);
        tokens[1] = 9000 + i;
        pool_fill(world.pool, page_idx, tokens, PAGE_TOKENS);
        prefix_seal(world.prefix, page_idx, prefix_key((struct hash128){9, 9}, tokens), PAGE_NONE, &sum);
    }
    audit(&world);
    assert_int_equal(find_tail(&world, 9, PAGE_NONE, tokens_of(50), 16) % 100, 1); // too far down
    prefix_hold(world.prefix, best, ++world.now_ns);
    assert_int_equal(find_tail(&world, 9, PAGE_NONE, tokens_of(50), 16), best * 100 + 15);
    world_done(&world);
}

/* ---- at random ---- */

struct model_page {
    bool sealed;
    uint32_t parent, value, holds, children;
    uint64_t last_use_ns;
};

struct model {
    struct world world;
    struct model_page pages[PAGES_MOST];
    uint32_t page_count;
    enum leaves_order order;
};

/* The leaf used longest ago; of equals the lowest index. */
static uint32_t model_victim(const struct model *model)
{
    uint32_t best = PAGE_NONE;
    for (uint32_t i = 0; i < model->page_count; i++) {
        const struct model_page *page = &model->pages[i];
        if (!page->sealed || page->holds || page->children) continue;
        if (best == PAGE_NONE || page->last_use_ns < model->pages[best].last_use_ns) best = i;
    }
    return best;
}

static uint32_t model_find(const struct model *model, uint32_t parent, uint32_t value)
{
    for (uint32_t i = 0; i < model->page_count; i++)
        if (model->pages[i].sealed && model->pages[i].parent == parent && model->pages[i].value == value)
            return i;
    return PAGE_NONE;
}

/* What the index evicted: by last use, the model knows which; else it is some leaf that nobody holds. */
static uint32_t model_evicted(const struct model *model)
{
    if (model->order == LEAVES_BY_LAST_USE) return model_victim(model);
    for (uint32_t i = 0; i < model->page_count; i++) {
        const struct model_page *page = &model->pages[i];
        if (page->sealed && pool_desc(model->world.pool, i)->state == PAGE_FREE) {
            assert_int_equal(page->holds, 0);
            assert_int_equal(page->children, 0);
            return i;
        }
    }
    return PAGE_NONE;
}

static void model_evict(struct model *model)
{
    bool has_leaf = model_victim(model) != PAGE_NONE;
    int r = prefix_evict(model->world.prefix);
    assert_int_equal(r, has_leaf ? 0 : -ENOSPC);
    if (!has_leaf) return;
    uint32_t victim = model_evicted(model);
    assert_int_not_equal(victim, PAGE_NONE);
    assert_int_equal(pool_desc(model->world.pool, victim)->state, PAGE_FREE);
    if (model->pages[victim].parent != PAGE_NONE) model->pages[model->pages[victim].parent].children--;
    model->pages[victim] = (struct model_page){0};
}

static uint32_t model_pick(const struct model *model, struct rng *rng)
{
    uint32_t page_idx = (uint32_t)rng_below(rng, model->page_count);
    return model->pages[page_idx].sealed ? page_idx : PAGE_NONE;
}

/* Seals a page, held once as by the sequence that computed it. Its parent is held at that time, as in life. */
static void model_seal(struct model *model, struct rng *rng)
{
    uint32_t parent = model_pick(model, rng), value = (uint32_t)rng_below(rng, 6) * 100;
    if (parent != PAGE_NONE && model->pages[parent].holds == 0) parent = PAGE_NONE;
    if (model_find(model, parent, value) != PAGE_NONE) return; // would be merged
    while (pool_free_count(model->world.pool) == 0) {
        if (model_victim(model) == PAGE_NONE) return;
        model_evict(model);
    }
    uint32_t page_idx = seal(&model->world, parent, value);
    assert_false(model->pages[page_idx].sealed);
    model->pages[page_idx] = (struct model_page){
        .sealed = true, .parent = parent, .value = value, .holds = 1, .last_use_ns = model->world.now_ns};
    if (parent != PAGE_NONE) model->pages[parent].children++;
}

static void model_step(struct model *model, struct rng *rng)
{
    uint32_t page_idx = model_pick(model, rng);
    uint64_t now_ns = model->world.now_ns += rng_below(rng, 2); // equal times happen
    switch (rng_below(rng, 6)) {
    case 0:
    case 1: model_seal(model, rng); break;
    case 2:
        if (page_idx == PAGE_NONE) break;
        prefix_hold(model->world.prefix, page_idx, now_ns);
        model->pages[page_idx].holds++;
        model->pages[page_idx].last_use_ns = now_ns;
        break;
    case 3:
    case 4:
        if (page_idx == PAGE_NONE || model->pages[page_idx].holds == 0) break;
        prefix_release(model->world.prefix, page_idx, now_ns);
        model->pages[page_idx].holds--;
        model->pages[page_idx].last_use_ns = now_ns;
        break;
    default:
        if (rng_below(rng, 3) == 0) model_evict(model);
        else if (page_idx != PAGE_NONE)
            prefix_give(model->world.prefix, page_idx, (uint32_t)rng_below(rng, 4));
        break;
    }
}

static void model_compare(const struct model *model)
{
    uint32_t idle = 0;
    for (uint32_t i = 0; i < model->page_count; i++) {
        const struct model_page *page = &model->pages[i];
        const struct page_desc *desc = pool_desc(model->world.pool, i);
        assert_int_equal(desc->state == PAGE_SEALED, page->sealed);
        if (!page->sealed) continue;
        assert_int_equal(desc->refcount, page->holds);
        assert_int_equal(desc->child_count, page->children);
        assert_int_equal(find(&model->world, page->parent, page->value), i);
        idle += page->holds == 0;
    }
    assert_int_equal(prefix_idle_count(model->world.prefix), idle);
}

static void test_prefix_agrees_with_a_list(void **state)
{
    (void)state;
    const char *seed_text = getenv("KVASIR_SEED");
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : 1;
    for (uint64_t round = 0; round < 30; round++) {
        struct rng rng = {seed + round};
        struct model model = {.page_count = 1 + (uint32_t)rng_below(&rng, PAGES_MOST),
                              .order = round & 1 ? LEAVES_BY_REUSE : LEAVES_BY_LAST_USE};
        print_message("seed %llu: %u pages\n", (unsigned long long)(seed + round), model.page_count);
        world_open_ordered(&model.world, model.page_count, model.order);
        assert_int_equal(prefix_share(model.world.prefix, 3, model.page_count / 3), 0);
        for (int step = 0; step < 1000; step++) {
            model_step(&model, &rng);
            model_compare(&model);
            audit(&model.world);
        }
        world_done(&model.world);
    }
}

/* An index over pages that are there already finds them all, and evicts by their order. */
static void test_prefix_enters_an_adopted_pool(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 16);
    uint32_t root = seal(&world, PAGE_NONE, 100), left = seal(&world, root, 200),
             right = seal(&world, root, 300);
    uint32_t other = seal(&world, PAGE_NONE, 400);
    release(&world, right);
    release(&world, left);
    release(&world, root);
    prefix_free(world.prefix);
    assert_int_equal(prefix_new(world.pool, &world.prefix), 0);
    audit(&world);
    assert_int_equal(find(&world, PAGE_NONE, 100), root);
    assert_int_equal(find(&world, root, 300), right);
    assert_int_equal(find(&world, PAGE_NONE, 400), other); // held still: not idle
    assert_int_equal(prefix_idle_count(world.prefix), 3);
    assert_int_equal(prefix_evict(world.prefix), 0);
    assert_int_equal(find(&world, root, 300), PAGE_NONE);
    audit(&world);
    world_done(&world);
}

/* What descends from a bad page goes with it, in whatever order the pages lie; all else stays. */
static void test_prefix_drops_bad_pages_with_descendants(void **state)
{
    (void)state;
    for (uint32_t bad = 0; bad < 6; bad++) {
        struct world world;
        uint8_t marks[8] = {0};
        uint32_t pages[6];
        world_open(&world, 8);
        static const uint32_t parents[] = {PAGE_NONE, 0, 1, 1, PAGE_NONE, 4};
        static const uint8_t gone[] = {0x0F, 0x0E, 0x04, 0x08, 0x30, 0x20}; // by bad page, bits of pages
        for (uint32_t i = 0; i < 6; i++)
            pages[i] = seal(&world, parents[i] == PAGE_NONE ? PAGE_NONE : pages[parents[i]], i * 50);
        for (uint32_t i = 6; i-- > 0;) release(&world, pages[i]);
        marks[pages[bad]] = 1;
        prefix_mark_descendants(world.prefix, marks);
        for (uint32_t i = 0; i < 6; i++) assert_int_equal(marks[pages[i]], gone[bad] >> i & 1);
        assert_int_equal(prefix_drop_marked(world.prefix, marks), __builtin_popcount(gone[bad]));
        audit(&world);
        for (uint32_t i = 0; i < 6; i++)
            assert_int_equal(pool_desc(world.pool, pages[i])->state,
                             gone[bad] >> i & 1 ? PAGE_FREE : PAGE_SEALED);
        assert_int_equal(prefix_evictions(world.prefix), 0);
        world_done(&world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_enters_an_adopted_pool),
        cmocka_unit_test(test_prefix_drops_bad_pages_with_descendants),
        cmocka_unit_test(test_prefix_finds_what_was_sealed),
        cmocka_unit_test(test_prefix_keys_are_chains),
        cmocka_unit_test(test_prefix_tells_colliding_keys_apart),
        cmocka_unit_test(test_prefix_deletes_in_runs_that_wrap),
        cmocka_unit_test(test_prefix_evicts_the_leaf_used_longest_ago),
        cmocka_unit_test(test_prefix_keeps_what_comes_back_from_a_flood_of_what_does_not),
        cmocka_unit_test(test_prefix_keeps_the_shares_of_tenants_from_a_flood),
        cmocka_unit_test(test_prefix_gives_up_shares_only_when_told_to),
        cmocka_unit_test(test_prefix_holds_count),
        cmocka_unit_test(test_prefix_lives_with_one_page),
        cmocka_unit_test(test_prefix_finds_the_longest_tail),
        cmocka_unit_test(test_prefix_search_for_a_tail_is_bounded),
        cmocka_unit_test(test_prefix_agrees_with_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
