/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a cached prefix inside a page: what the plan has copied, from which page, until when that page is held.
 * That the copied bits are the right ones is shown by tests/prop (a worker of history hashes, and real kernels). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/sched.h"
#include "tests/data/pool_rig.h"

enum { VOCAB = 100, LEN_MAX = 128, SEQS_MAX = 4, PROMPT = 48 };

struct world {
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_limits limits;
    struct plan_writer *writer;
    struct done_writer *answer;
    void *plan_bytes, *done_bytes;
    struct plan_view plan;
    struct sched_event events[2 * SEQS_MAX];
    uint32_t prompt[LEN_MAX];
    uint64_t now_ns;
};

static void world_open(struct world *world, uint32_t pages)
{
    struct sched_conf conf = {
        .seqs_max = SEQS_MAX, .tokens_max = LEN_MAX, .queue_max = 4, .model_len_max = LEN_MAX, .epoch = 7};
    *world = (struct world){.now_ns = 0};
    assert_int_equal(pool_rig_open(pages, &world->meta, &world->pool), 0);
    assert_int_equal(prefix_new(world->pool, &world->prefix), 0);
    assert_int_equal(sched_new(&conf, world->pool, world->prefix, &world->sched), 0);
    sched_plan_limits(&conf, pool_geometry(world->pool), VOCAB, &world->limits);
    assert_int_equal(plan_writer_new(&world->limits, &world->writer), 0);
    assert_int_equal(done_writer_new(&world->limits, &world->answer), 0);
    world->plan_bytes = malloc(plan_bytes_max(&world->limits));
    world->done_bytes = malloc(done_bytes_max(&world->limits));
    for (uint32_t i = 0; i < LEN_MAX; i++) world->prompt[i] = i % VOCAB;
}

static void world_done(struct world *world)
{
    plan_writer_free(world->writer);
    done_writer_free(world->answer);
    sched_free(world->sched);
    prefix_free(world->prefix);
    pool_free(world->pool);
    free(world->meta);
    free(world->plan_bytes);
    free(world->done_bytes);
}

static void audit(const struct world *world)
{
    struct err err = {0};
    if (sched_check(world->sched, &err) < 0) fail_msg("%s", err.text);
}

static uint64_t submit(struct world *world, const uint32_t *prompt, uint32_t count, uint32_t output_max,
                       uint64_t root)
{
    struct sched_request request = {.prompt = prompt,
                                    .prompt_count = count,
                                    .output_max = output_max,
                                    .root_key = {root, root},
                                    .params = {.top_p = 1, .repetition_penalty = 1}};
    uint64_t seq_id;
    assert_int_equal(sched_submit(world->sched, &request, &seq_id), 0);
    return seq_id;
}

static int plan(struct world *world)
{
    int seqs = sched_plan(world->sched, 0, ++world->now_ns, world->writer);
    audit(world);
    if (seqs == 0) return 0;
    size_t bytes = plan_writer_finish(world->writer, world->plan_bytes, plan_bytes_max(&world->limits));
    assert_int_equal(plan_verify(world->plan_bytes, bytes, &world->limits, &world->plan, NULL), 0);
    return seqs;
}

/* Answers the plan in hand with token 99 and any checksums. */
static void answer(struct world *world)
{
    struct done_view done;
    done_writer_begin(world->answer, world->plan.header->step, 7);
    for (uint32_t i = 0; i < world->plan.header->seq_count; i++) {
        const struct plan_seq *seq = &world->plan.seqs[i];
        struct done_seq out = {.seq_id = seq->seq_id};
        if (seq->flags & PLAN_SAMPLE)
            out = (struct done_seq){.seq_id = seq->seq_id, .flags = DONE_SAMPLED, .token = 99, .rank = 1};
        assert_true(done_writer_seq(world->answer, &out) >= 0);
        uint32_t first, count = plan_seq_filled(seq, PAGE_TOKENS, &first);
        for (uint32_t k = 0; k < count; k++) {
            const struct plan_page *page = &world->plan.pages[seq->page_first + first + k];
            struct done_seal seal = {.page_idx = page->page_idx, .generation = page->generation};
            assert_true(done_writer_seal(world->answer, &seal) >= 0);
        }
    }
    size_t bytes = done_writer_finish(world->answer, 0, 1, 1, 1, world->done_bytes,
                                      done_bytes_max(&world->limits));
    assert_int_equal(done_verify(world->done_bytes, bytes, &world->limits, &world->plan, &done, NULL), 0);
    assert_true(sched_complete(world->sched, 0, world->now_ns, &done, world->events) >= 0);
    audit(world);
}

/* Caches the first `count` tokens of the prompt, whole pages. */
static void warm(struct world *world, uint32_t count)
{
    uint64_t seq_id = submit(world, world->prompt, count, 1, 1);
    assert_int_equal(plan(world), 1);
    answer(world);
    sched_remove(world->sched, seq_id, world->now_ns);
    assert_int_equal(pool_sealed_count(world->pool), count / PAGE_TOKENS);
}

static uint32_t cached_of(const struct world *world, uint64_t seq_id)
{
    struct sched_seq_info info;
    sched_seq_info(world->sched, seq_id, &info);
    return info.cached_count;
}

/* A prompt that parts from a cached one inside a page computes from there on, and says so. */
static void test_sched_copies_the_tail_of_a_hit(void **state)
{
    (void)state;
    for (uint32_t common = 0; common <= PROMPT; common++) {
        struct world world;
        world_open(&world, 20);
        warm(&world, PROMPT);
        uint32_t tail = common % PAGE_TOKENS;
        for (uint32_t i = common; i < LEN_MAX; i++) world.prompt[i] = 50;
        uint64_t seq_id = submit(&world, world.prompt, PROMPT + 2, 1, 1);
        assert_int_equal(plan(&world), 1);
        assert_int_equal(cached_of(&world, seq_id), common);
        assert_int_equal(world.plan.seqs[0].pos_first, common);
        assert_int_equal(world.plan.header->token_count, PROMPT + 2 - common);
        assert_int_equal(world.plan.header->copy_count, tail != 0);
        const struct plan_copy copy = tail ? world.plan.copies[0] : (struct plan_copy){0};
        if (tail) {
            assert_int_equal(copy.token_count, tail);
            assert_int_equal(copy.generation, pool_desc(world.pool, copy.page_idx)->generation);
            assert_int_equal(pool_desc(world.pool, copy.page_idx)->state, PAGE_SEALED);
            assert_int_equal(pool_desc(world.pool, copy.page_idx)->refcount, 1);
            assert_memory_equal(pool_tokens(world.pool, copy.page_idx), world.prompt + common - tail,
                                tail * sizeof(uint32_t));
        }
        answer(&world);
        if (tail) assert_int_equal(pool_desc(world.pool, copy.page_idx)->refcount, 0); // given back
        sched_remove(world.sched, seq_id, world.now_ns);
        seq_id = submit(&world, world.prompt, PROMPT + 2, 1, 2); // another root has nothing in common
        assert_int_equal(plan(&world), 1);
        assert_int_equal(cached_of(&world, seq_id), 0);
        world_done(&world);
    }
}

static void test_sched_computes_one_token_of_a_cached_prompt(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 20);
    warm(&world, PROMPT);
    for (uint32_t count = 2; count <= PROMPT; count++) {
        uint64_t seq_id = submit(&world, world.prompt, count, 1, 1);
        assert_int_equal(plan(&world), 1);
        assert_int_equal(world.plan.header->token_count, 1);
        answer(&world);
        sched_remove(world.sched, seq_id, world.now_ns);
        assert_int_equal(pool_sealed_count(world.pool), PROMPT / PAGE_TOKENS); // no page twice
    }
    world_done(&world);
}

/* A copy whose step is lost is made again, from a page that nobody could evict meanwhile. */
static void test_sched_copies_again_when_a_step_is_lost(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 20);
    warm(&world, PROMPT);
    uint64_t seq_id = submit(&world, world.prompt, PROMPT, 1, 1);
    for (int i = 1; i < SCHED_LOSSES_MAX; i++) {
        assert_int_equal(plan(&world), 1);
        assert_int_equal(world.plan.header->copy_count, 1);
        assert_int_equal(pool_desc(world.pool, world.plan.copies[0].page_idx)->refcount, 1);
        assert_int_equal(sched_lost(world.sched, 0, world.now_ns, world.events), 0);
        audit(&world);
    }
    assert_int_equal(plan(&world), 1);
    sched_remove(world.sched, seq_id, world.now_ns); // while its copy is in flight
    answer(&world);
    assert_int_equal(prefix_idle_count(world.prefix), PROMPT / PAGE_TOKENS);
    assert_int_equal(pool_filling_count(world.pool), 0);
    world_done(&world);
}

/* Where the pool has no room for a copy beside its source, the tail is computed. */
static void test_sched_copies_no_tail_into_a_full_pool(void **state)
{
    (void)state;
    for (uint32_t pages = 2; pages <= 3; pages++) {
        struct world world;
        world_open(&world, pages);
        warm(&world, 16);
        for (uint32_t i = 10; i < LEN_MAX; i++) world.prompt[i] = 50;
        uint64_t seq_id = submit(&world, world.prompt, 31, 1, 1); // two pages
        assert_int_equal(plan(&world), 1);
        assert_int_equal(cached_of(&world, seq_id), pages > 2 ? 10 : 0);
        assert_int_equal(world.plan.header->copy_count, pages > 2);
        answer(&world);
        world_done(&world);
    }
}

/* One sequence: two full pages, and eight rows of a third. */
static void world_open_running(struct world *world)
{
    world_open(world, 20);
    (void)submit(world, world->prompt, 40, 4, 1);
    assert_int_equal(plan(world), 1);
    answer(world);
}

/* What a worker that wrote anywhere may have damaged: the page that is not sealed yet. */
static void test_sched_fills_anew_what_has_no_checksum(void **state)
{
    (void)state;
    struct world world;
    world_open_running(&world);
    sched_distrust(world.sched, 0);
    sched_refill(world.sched);
    audit(&world);
    assert_int_equal(plan(&world), 1);
    assert_int_equal(world.plan.seqs[0].pos_first, 32);
    assert_int_equal(world.plan.header->token_count, 8 + 1);
    answer(&world);
    audit(&world);
    assert_int_equal(plan(&world), 1);
    assert_int_equal(world.plan.header->token_count, 1);
    answer(&world);
    world_done(&world);
}

/* A tail that was not copied yet is not in that page. */
static void test_sched_fills_no_tail_anew_that_is_still_to_be_copied(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 20);
    warm(&world, PROMPT);
    (void)submit(&world, world.prompt, PROMPT, 1, 1);
    assert_int_equal(plan(&world), 1);
    assert_int_equal(sched_lost(world.sched, 0, world.now_ns, world.events), 0);
    sched_distrust(world.sched, 0);
    sched_refill(world.sched);
    audit(&world);
    assert_int_equal(plan(&world), 1);
    assert_int_equal(world.plan.header->copy_count, 1);
    assert_int_equal(world.plan.header->token_count, 1);
    answer(&world);
    world_done(&world);
}

/* Kernels that give other bits: nothing that was computed is read again. */
static void test_sched_forgets_all_that_was_computed(void **state)
{
    (void)state;
    struct world world;
    world_open_running(&world);
    assert_int_equal(pool_sealed_count(world.pool), 2);
    sched_distrust(world.sched, 0);
    assert_int_equal(sched_forget(world.sched, world.now_ns), 2);
    audit(&world);
    assert_int_equal(pool_free_count(world.pool), 20);
    assert_int_equal(plan(&world), 1);
    assert_int_equal(world.plan.seqs[0].pos_first, 0);
    assert_int_equal(world.plan.header->token_count, 41);
    answer(&world);
    audit(&world);
    world_done(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sched_copies_the_tail_of_a_hit),
        cmocka_unit_test(test_sched_computes_one_token_of_a_cached_prompt),
        cmocka_unit_test(test_sched_copies_again_when_a_step_is_lost),
        cmocka_unit_test(test_sched_copies_no_tail_into_a_full_pool),
        cmocka_unit_test(test_sched_fills_anew_what_has_no_checksum),
        cmocka_unit_test(test_sched_fills_no_tail_anew_that_is_still_to_be_copied),
        cmocka_unit_test(test_sched_forgets_all_that_was_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
