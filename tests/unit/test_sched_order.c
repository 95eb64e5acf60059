/* SPDX-License-Identifier: Apache-2.0 */
/* The order of sched.h: priorities and ageing, who goes for whom, overtaking and its bounds, deadlines, and waiting for
 * a prefix that another computes. The audit of the scheduler runs after every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "tests/data/sched_rig.h"

enum { CLIENTS = 20000, TOKENS_MAX = 512, SLOTS = 1024 };

struct client {
    uint64_t seq_id;
    uint32_t output_max, output_count;
    uint64_t submitted_ns, started_ns, finished_ns; // 0: not yet; started: its first row was planned
    uint32_t started_step;
    uint32_t rows; // computed for it, ever
    bool expired;
};

struct world {
    struct sched_rig rig;
    struct client *clients; // (CLIENTS)
    struct client *by_slot[SLOTS];
    uint32_t client_count, step;
    uint32_t audit_steps; // between audits
    uint64_t step_ns;
};

static void world_open(struct world *world, uint32_t pages, uint32_t seqs_max, uint32_t tokens_max)
{
    struct sched_conf conf = {.seqs_max = seqs_max,
                              .tokens_max = tokens_max,
                              .queue_max = 512,
                              .model_len_max = TOKENS_MAX,
                              .epoch = 7,
                              .ageing_ns = 10 * NS_PER_S};
    *world = (struct world){.step_ns = 10 * NS_PER_MS, .audit_steps = 1};
    assert_int_equal(sched_rig_open(&world->rig, pages, &conf), 0);
    world->clients = calloc(CLIENTS, sizeof *world->clients);
}

static void world_close(struct world *world)
{
    sched_rig_close(&world->rig);
    free(world->clients);
}

struct wish {
    uint32_t family; // prompts of one family begin with the same tokens
    uint32_t prompt_count, output_max;
    int32_t priority;
    uint64_t deadline_ns;
};

static struct client *submit(struct world *world, struct wish wish)
{
    uint32_t tokens[TOKENS_MAX];
    assert_true(world->client_count < CLIENTS);
    struct client *client = &world->clients[world->client_count++];
    for (uint32_t i = 0; i < wish.prompt_count; i++) tokens[i] = (wish.family * 7919 + i % 3) % 32768;
    *client = (struct client){.output_max = wish.output_max, .submitted_ns = world->rig.now_ns};
    struct sched_request request = {.prompt = tokens,
                                    .prompt_count = wish.prompt_count,
                                    .output_max = wish.output_max,
                                    .priority = wish.priority,
                                    .deadline_ns = wish.deadline_ns,
                                    .owner = client};
    assert_int_equal(sched_rig_submit(&world->rig, &request, &client->seq_id), 0);
    assert_true((uint32_t)client->seq_id < SLOTS);
    world->by_slot[(uint32_t)client->seq_id] = client;
    return client;
}

static void audit(const struct world *world)
{
    struct err err = {0};
    if (world->step % world->audit_steps != 0 || sched_check(world->rig.sched, &err) == 0) return;
    print_error("step %u: %s\n", world->step, err.text);
    fail();
}

static void expire(struct world *world)
{
    struct sched_rig *rig = &world->rig;
    int count = sched_expire(rig->sched, rig->now_ns, rig->events);
    for (int i = 0; i < count; i++) {
        struct client *client = rig->events[i].owner;
        assert_int_equal(rig->events[i].kind, SCHED_EXPIRED);
        client->expired = true;
        sched_remove(rig->sched, client->seq_id, rig->now_ns);
    }
}

/* -> sequences planned */
static int step(struct world *world)
{
    struct sched_rig *rig = &world->rig;
    struct done_view done;
    rig->now_ns += world->step_ns;
    world->step++;
    expire(world);
    int seqs = sched_rig_plan(rig);
    audit(world);
    if (seqs == 0) return 0;
    for (int i = 0; i < seqs; i++) {
        struct client *client = world->by_slot[(uint32_t)rig->plan.seqs[i].seq_id];
        assert_true(client->seq_id == rig->plan.seqs[i].seq_id && !client->expired);
        client->rows += rig->plan.seqs[i].token_count;
        if (client->started_ns) continue;
        client->started_ns = rig->now_ns;
        client->started_step = world->step;
    }
    sched_rig_answer(rig, &done);
    int events = sched_rig_complete(rig, &done);
    assert_true(events >= 0);
    for (int i = 0; i < events; i++) {
        struct client *client = rig->events[i].owner;
        if (rig->events[i].kind != SCHED_TOKEN || ++client->output_count < client->output_max) continue;
        client->finished_ns = rig->now_ns;
        sched_remove(rig->sched, client->seq_id, rig->now_ns);
    }
    audit(world);
    return seqs;
}

static void steps(struct world *world, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) (void)step(world);
}

static uint64_t preemptions(const struct world *world)
{
    struct sched_stats stats;
    sched_stats(world->rig.sched, &stats);
    return stats.preemptions;
}

/* ---- priorities ---- */

static void test_high_priority_starts_within_two_steps(void **state)
{
    (void)state;
    for (uint32_t pages = 32; pages <= 128; pages += 32) { // pages or places are what is scarce
        struct world world;
        world_open(&world, pages, 8, 64);
        for (uint32_t i = 0; i < 24; i++)
            (void)submit(
                &world, (struct wish){.family = i + 1, .prompt_count = 40, .output_max = 300, .priority = 3});
        steps(&world, 60);
        struct client *high = submit(&world,
                                     (struct wish){.family = 99, .prompt_count = 200, .output_max = 20});
        uint64_t before = preemptions(&world);
        uint32_t at = world.step;
        steps(&world, 2);
        assert_true(preemptions(&world) > before);
        assert_in_range(high->started_step, at + 1, at + 2);
        steps(&world, 30);
        assert_int_not_equal(high->finished_ns, 0); // nobody takes its place or its pages
        assert_int_equal(high->rows, 200 + 20 - 1);
        world_close(&world);
    }
}

static void test_nobody_goes_for_its_equal(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 64, 4, 64);
    for (uint32_t i = 0; i < 4; i++)
        (void)submit(&world, (struct wish){.family = i + 1, .prompt_count = 40, .output_max = 150});
    steps(&world, 10);
    struct client *equal = submit(&world, (struct wish){.family = 9, .prompt_count = 40, .output_max = 5});
    struct client *lower = submit(
        &world, (struct wish){.family = 8, .prompt_count = 40, .output_max = 5, .priority = 1});
    steps(&world, 40);
    assert_int_equal(preemptions(&world), 0);
    assert_int_equal(equal->started_ns, 0);
    steps(&world, 200);
    assert_true(equal->finished_ns && lower->finished_ns && equal->started_ns <= lower->started_ns);
    world_close(&world);
}

/* What was preempted computes again the page that was not full, and no more, while its pages are still there. */
static void test_preempted_computes_little_again(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 128, 2, 64);
    struct client *low[2];
    for (uint32_t i = 0; i < 2; i++)
        low[i] = submit(
            &world, (struct wish){.family = i + 1, .prompt_count = 100, .output_max = 100, .priority = 2});
    steps(&world, 50);
    struct client *high = submit(&world, (struct wish){.family = 9, .prompt_count = 100, .output_max = 20});
    while (!low[0]->finished_ns || !low[1]->finished_ns) assert_true(step(&world) > 0);
    assert_int_not_equal(high->finished_ns, 0);
    assert_int_equal(preemptions(&world), 1);
    assert_int_equal(low[0]->rows, 199); // the last in the order goes
    assert_in_range(low[1]->rows, 199, 199 + PAGE_TOKENS - 1);
    world_close(&world);
}

/* Ten minutes in which high priorities alone would fill one and a half such servers: the lowest is served when its
 * ageing is over and those before it in the order have gone, as sched.h promises. */
static void test_ageing_bounds_every_wait(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 256, 4, 64);
    struct rng rng = {.state = 1};
    struct client *low = NULL;
    struct sched_stats stats;
    uint32_t low_count = 0, shed = 0;
    double arrivals = 0;
    uint64_t ageing_ns = world.rig.conf.ageing_ns, longest_ns = 0, shortest_ns = UINT64_MAX;
    world.audit_steps = 64;
    for (; world.rig.now_ns < 600 * NS_PER_S; (void)step(&world)) {
        for (arrivals += 0.3; arrivals >= 1; arrivals -= 1) { // 4 places and 20 steps each make 0.2 a step
            struct wish wish = {
                .family = 1 + (uint32_t)rng_below(&rng, 30000), .prompt_count = 20, .output_max = 19};
            sched_stats(world.rig.sched, &stats);
            if (stats.waiting_count >= 100) shed++;
            else (void)submit(&world, wish);
        }
        if (low && !low->finished_ns) continue;
        if (low && low_count > 1) { // the first came to an idle server
            uint64_t wait_ns = low->started_ns - low->submitted_ns;
            longest_ns = wait_ns > longest_ns ? wait_ns : longest_ns;
            shortest_ns = wait_ns < shortest_ns ? wait_ns : shortest_ns;
        }
        low = submit(&world,
                     (struct wish){
                         .family = 30001 + low_count++, .prompt_count = 20, .output_max = 19, .priority = 2});
    }
    /* 100 waiting ones take 100 / 0.2 steps of 10 ms: 5 s; twice that for what is slow about it. */
    print_message("%u of the lowest priority served after %.1f to %.1f s, %u others shed\n", low_count - 1,
                  (double)shortest_ns / 1e9, (double)longest_ns / 1e9, shed);
    assert_true(low_count > 10 && shed > 0);
    assert_true(longest_ns <= 2 * ageing_ns + 10 * NS_PER_S);
    assert_true(shortest_ns >= 2 * ageing_ns - NS_PER_S); // and it is a lower priority
    world_close(&world);
}

static void test_priorities_are_clamped(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 64, 1, 64);
    (void)submit(&world,
                 (struct wish){.family = 1, .prompt_count = 20, .output_max = 30, .priority = INT32_MIN});
    (void)step(&world);
    struct client *a = submit(
        &world, (struct wish){.family = 2, .prompt_count = 20, .output_max = 2, .priority = INT32_MAX});
    struct client *b = submit(
        &world, (struct wish){.family = 3, .prompt_count = 20, .output_max = 2, .priority = 101});
    struct client *c = submit(
        &world, (struct wish){.family = 4, .prompt_count = 20, .output_max = 2, .priority = 99});
    steps(&world, 60);
    assert_true(c->started_ns && c->started_ns < a->started_ns && a->started_ns < b->started_ns);
    world_close(&world);
}

/* ---- overtaking ---- */

static void test_small_ones_overtake_within_bounds(void **state)
{
    (void)state;
    struct world world;
    uint32_t overtook = 0, family = 100;
    world_open(&world, 32, 16, 64);
    world.step_ns = NS_PER_MS; // the count is reached before the time
    (void)submit(&world, (struct wish){.family = 1, .prompt_count = 300, .output_max = 100});
    steps(&world, 10);
    struct client *big = submit(
        &world, (struct wish){.family = 2, .prompt_count = 400, .output_max = 5}); // 26 of 32 pages
    while (!big->started_ns) {
        struct sched_stats stats;
        sched_stats(world.rig.sched, &stats);
        if (stats.waiting_count < 4)
            (void)submit(&world, (struct wish){.family = family++, .prompt_count = 20, .output_max = 10});
        assert_true(step(&world) > 0);
        assert_true(world.step < 1000);
    }
    for (uint32_t i = 2; i < world.client_count; i++)
        overtook += world.clients[i].started_ns && world.clients[i].started_ns < big->started_ns;
    assert_in_range(overtook, 4, SCHED_OVERTAKES_MAX);
    world_close(&world);
}

static void test_overtaking_ends_with_time(void **state)
{
    (void)state;
    struct world world;
    uint32_t family = 100;
    world_open(&world, 32, 16, 64);
    world.step_ns = 100 * NS_PER_MS;
    (void)submit(&world, (struct wish){.family = 1, .prompt_count = 200, .output_max = 200});
    steps(&world, 10);
    struct client *big = submit(&world, (struct wish){.family = 2, .prompt_count = 400, .output_max = 5});
    (void)step(&world);
    uint64_t over_ns = world.rig.now_ns + SCHED_OVERTAKE_NS;
    while (!big->started_ns) {
        struct client *small = submit(&world,
                                      (struct wish){.family = family++, .prompt_count = 20, .output_max = 2});
        steps(&world, 5); // one in 0.5 s: the time is over before the count
        if (small->submitted_ns >= over_ns) assert_true(!small->started_ns || big->started_ns);
        assert_true(world.step < 1000);
    }
    world_close(&world);
}

/* ---- deadlines ---- */

static void test_expired_is_never_computed(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 64, 1, 64);
    struct client *first = submit(&world, (struct wish){.family = 1, .prompt_count = 50, .output_max = 100});
    (void)step(&world);
    uint64_t now_ns = world.rig.now_ns;
    struct client *late = submit(&world, (struct wish){.family = 2,
                                                       .prompt_count = 50,
                                                       .output_max = 2,
                                                       .deadline_ns = now_ns + 500 * NS_PER_MS});
    struct client *later = submit(
        &world, (struct wish){
                    .family = 3, .prompt_count = 50, .output_max = 2, .deadline_ns = now_ns + 60 * NS_PER_S});
    struct client *past = submit(
        &world, (struct wish){.family = 4, .prompt_count = 50, .output_max = 2, .deadline_ns = now_ns});
    assert_true(sched_deadline_next(world.rig.sched) == now_ns);
    steps(&world, 60);
    assert_true(past->expired && late->expired);
    assert_int_equal(late->rows + past->rows, 0);
    steps(&world, 100);
    assert_true(first->finished_ns && later->finished_ns && !later->expired);
    assert_true(sched_deadline_next(world.rig.sched) == UINT64_MAX); // who finished has none
    world_close(&world);
}

static void test_expired_leaves_its_pages(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 64, 1, 64);
    uint64_t deadline_ns = world.rig.now_ns + 105 * NS_PER_MS; // in the middle of its prefill
    struct client *first = submit(
        &world, (struct wish){.family = 1, .prompt_count = 500, .output_max = 2, .deadline_ns = deadline_ns});
    world.rig.now_ns += 70 * NS_PER_MS;
    steps(&world, 10);
    assert_true(first->expired && first->rows >= 64 && first->rows < 500);
    struct client *again = submit(&world, (struct wish){.family = 1, .prompt_count = 500, .output_max = 2});
    steps(&world, 20);
    assert_int_not_equal(again->finished_ns, 0);
    assert_int_equal(again->rows + first->rows, 501 + first->rows % PAGE_TOKENS);
    world_close(&world);
}

/* ---- waiting for a prefix ---- */

static uint32_t held(const struct world *world)
{
    struct sched_stats stats;
    sched_stats(world->rig.sched, &stats);
    return stats.held_count;
}

static void test_a_prefix_is_computed_once(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 256, 16, 64);
    struct client *same[5];
    for (uint32_t i = 0; i < 5; i++)
        same[i] = submit(&world, (struct wish){.family = 1, .prompt_count = 400, .output_max = 4});
    (void)step(&world);
    assert_int_equal(held(&world), 4);
    struct client *other = submit(&world, (struct wish){.family = 2, .prompt_count = 10, .output_max = 2});
    (void)step(&world);
    struct sched_seq_info info;
    sched_seq_info(world.rig.sched, other->seq_id, &info);
    assert_true(info.running); // nobody is held up by those that wait
    assert_int_equal(held(&world), 4);
    steps(&world, 30);
    assert_int_equal(held(&world), 0);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_not_equal(same[i]->finished_ns, 0);
        if (i == 0) assert_int_equal(same[i]->rows, 403);
        else
            assert_in_range(same[i]->rows, 4,
                            PAGE_TOKENS + 3); // the tail of the last page may be there to copy
    }
    world_close(&world);
}

/* Whoever waited goes on when the one that computed goes, pauses, or has a lower priority. */
static void test_a_broken_promise_holds_nobody(void **state)
{
    (void)state;
    for (int how = 0; how < 4; how++) {
        struct world world;
        world_open(&world, 256, 16, 64);
        struct client *first = submit(
            &world, (struct wish){.family = 1, .prompt_count = 400, .output_max = 4, .priority = how == 3});
        struct client *second = submit(
            &world, (struct wish){.family = 1, .prompt_count = 400, .output_max = 4, .priority = how == 3});
        (void)step(&world);
        assert_int_equal(held(&world), 1);
        struct client *third = submit(&world,
                                      (struct wish){.family = 1, .prompt_count = 400, .output_max = 4});
        if (how == 0) sched_remove(world.rig.sched, first->seq_id, world.rig.now_ns);
        if (how == 1) sched_pause(world.rig.sched, first->seq_id, true);
        if (how == 2)
            sched_remove(world.rig.sched, second->seq_id, world.rig.now_ns); // one that waits may go
        steps(&world, 1);
        if (how == 3)
            assert_int_not_equal(third->started_ns, 0); // it does not wait for one of lower priority
        steps(&world, 40);
        assert_int_not_equal(third->finished_ns, 0);
        assert_true(how == 2 || second->finished_ns);
        assert_int_equal(held(&world), 0);
        world_close(&world);
    }
}

/* ---- what is refused ---- */

/* One token more than the pool has room for can never run, and is refused at once. */
static void test_what_never_fits_is_refused(void **state)
{
    (void)state;
    struct world world;
    uint64_t seq_id;
    uint32_t prompt[TOKENS_MAX] = {0};
    world_open(&world, 4, 1, 64);
    struct sched *sched = world.rig.sched;
    struct sched_request request = {.prompt = prompt, .prompt_count = 60, .output_max = 4};
    assert_int_equal(sched_submit(sched, &request, &seq_id), 0);
    request.output_max = 5;
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_LIMIT);
    request.output_max = UINT32_MAX;
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_LIMIT);
    request.output_max = 0;
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_INPUT);
    request = (struct sched_request){.prompt = prompt, .output_max = 4};
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_INPUT);
    request = (struct sched_request){
        .prompt = prompt, .prompt_count = 1, .output_max = 1, .min_bias_count = 1};
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_LIMIT);
    world_close(&world);
}

static void test_past_the_queue_is_refused(void **state)
{
    (void)state;
    struct world world;
    uint64_t seq_id;
    uint32_t prompt[1] = {0};
    world_open(&world, 64, 1, 64);
    struct sched *sched = world.rig.sched;
    struct sched_request request = {.prompt = prompt, .prompt_count = 1, .output_max = 1};
    for (uint32_t i = 0; i < world.rig.conf.queue_max; i++) {
        assert_false(sched_queue_full(sched));
        assert_int_equal(sched_submit(sched, &request, &seq_id), 0);
    }
    assert_true(sched_queue_full(sched));
    assert_int_equal(sched_submit(sched, &request, &seq_id), ERR_FULL);
    sched_remove(sched, seq_id, 1); // the last that got in
    assert_int_equal(sched_submit(sched, &request, &seq_id), 0);
    world_close(&world);
}

/* One that may have killed the worker, preempted meanwhile, gets its rows in the plan that lets it in: nothing would
 * call for another one. */
static void test_a_suspect_that_comes_back_is_planned(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 64, 1, 64);
    struct sched_rig *rig = &world.rig;
    const struct client *suspect = submit(&world,
                                          (struct wish){.family = 1, .prompt_count = 40, .output_max = 4});
    for (int i = 0; i < SCHED_LOSSES_ALONE; i++) {
        assert_int_equal(sched_rig_plan(rig), 1);
        assert_int_equal(sched_lost(rig->sched, 0, rig->now_ns, rig->events), 0);
    }
    sched_pause(rig->sched, suspect->seq_id, true);
    const struct client *other = submit(&world,
                                        (struct wish){.family = 2, .prompt_count = 4, .output_max = 4});
    assert_int_equal(step(&world), 1); // it took the paused one's place
    sched_remove(rig->sched, other->seq_id, rig->now_ns);
    sched_pause(rig->sched, suspect->seq_id, false);
    assert_int_equal(step(&world), 1);
    assert_int_equal(suspect->output_count, 1);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_high_priority_starts_within_two_steps),
        cmocka_unit_test(test_nobody_goes_for_its_equal),
        cmocka_unit_test(test_preempted_computes_little_again),
        cmocka_unit_test(test_ageing_bounds_every_wait),
        cmocka_unit_test(test_priorities_are_clamped),
        cmocka_unit_test(test_small_ones_overtake_within_bounds),
        cmocka_unit_test(test_overtaking_ends_with_time),
        cmocka_unit_test(test_expired_is_never_computed),
        cmocka_unit_test(test_expired_leaves_its_pages),
        cmocka_unit_test(test_a_prefix_is_computed_once),
        cmocka_unit_test(test_a_broken_promise_holds_nobody),
        cmocka_unit_test(test_a_suspect_that_comes_back_is_planned),
        cmocka_unit_test(test_what_never_fits_is_refused),
        cmocka_unit_test(test_past_the_queue_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
