/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler by hand, in the worlds of tests/sim, whose laws hold after every step here as well: what comes back
 * from the cache, one copy of duplicates, pools exactly full, and who takes pages from whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/sim/sim.h"

_Noreturn void sim_broken(const char *file, int line, const char *law, const char *detail)
{
    print_error("%s:%d: broken: %s%s%s\n", file, line, law, detail ? ": " : "", detail ? detail : "");
    fail();
    __builtin_unreachable();
}

static uint32_t cached_of(const struct sim *sim, const struct sim_client *client)
{
    struct sched_seq_info info;
    sched_seq_info(sim->sched, client->seq_id, &info);
    return info.cached_count;
}

/* All that is in full pages comes back from the cache, but never the last token: its logits are needed. */
static void test_sched_finds_what_it_computed(void **state)
{
    (void)state;
    for (uint32_t count = 15; count <= 50; count++) {
        static struct sim sim;
        sim_open_quiet(&sim, 20);
        struct sim_client *first = sim_submit(&sim, 0, 3, count, 1);
        while (first->live) assert_true(sim_step_quiet(&sim) > 0);
        assert_int_equal(pool_sealed_count(sim.pool), count / PAGE_TOKENS);
        struct sim_client *again = sim_submit(&sim, 1, 3, count, 2);
        assert_int_equal(sim_step_quiet(&sim), 1);
        assert_int_equal(cached_of(&sim, again), count % PAGE_TOKENS ? count / PAGE_TOKENS * 16 : count - 1);
        struct sim_client *other = sim_submit(&sim, 2, 4, count, 2);
        assert_true(sim_step_quiet(&sim) > 0);
        assert_int_equal(cached_of(&sim, other), 0);
        sim_close(&sim);
    }
}

static void test_sched_keeps_one_copy_of_duplicates(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet(&sim, 40);
    for (int i = 0; i < 4; i++) (void)sim_submit(&sim, i, 5, 50, 14); // the same request four times at once
    while (sim_step_quiet(&sim) > 0) continue;
    for (int i = 1; i < 4; i++) {
        assert_false(sim.clients[i].live);
        assert_memory_equal(sim.clients[i].tokens, sim.clients[0].tokens, sizeof sim.clients[0].tokens);
    }
    assert_int_equal(pool_sealed_count(sim.pool),
                     63 / PAGE_TOKENS); // the last token's keys are never computed
    sim_close(&sim);
}

/* Pages for exactly one sequence of full length: two of them go one after the other, none is lost. */
static void test_sched_lives_with_a_pool_exactly_full(void **state)
{
    (void)state;
    for (uint32_t prompt = 1; prompt < SIM_LEN_MAX; prompt += 7) {
        static struct sim sim;
        sim_open_quiet(&sim, (SIM_LEN_MAX + PAGE_TOKENS - 1) / PAGE_TOKENS);
        for (int i = 0; i < 3; i++) (void)sim_submit(&sim, i, 10 * (uint32_t)i, prompt, SIM_LEN_MAX - prompt);
        uint64_t steps = 0;
        while (sim_step_quiet(&sim) > 0) assert_true(++steps < 3 * SIM_LEN_MAX);
        for (int i = 0; i < 3; i++) {
            assert_false(sim.clients[i].live);
            assert_int_equal(sim.clients[i].output_count, SIM_LEN_MAX - prompt);
        }
        sim_close(&sim);
    }
}

/* Cached pages are evicted after a plan as many as it took, within what may lie free, and never more. */
static void test_sched_reserves_what_a_step_takes(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet(&sim, 40);
    for (int i = 0; i < 4; i++) { // nine pages of each stay cached
        (void)sim_submit(&sim, i, 20 * (uint32_t)i, 150, 1);
        while (sim_step_quiet(&sim) > 0) continue;
    }
    assert_int_equal(prefix_idle_count(sim.prefix), 36);
    sim.reserve_max = 3;
    struct sim_client *client = sim_submit(&sim, 4, 90, 100, 1);
    assert_int_equal(sim_step_quiet(&sim), 1); // 64 rows, the four pages that were free
    assert_int_equal(prefix_evictions(sim.prefix), 3);
    assert_int_equal(pool_free_count(sim.pool), 3);
    sim.reserve_max = 0;
    assert_int_equal(sim_step_quiet(&sim), 1); // the three
    assert_false(client->live);
    assert_int_equal(prefix_evictions(sim.prefix), 3);
    assert_int_equal(pool_free_count(sim.pool), 1); // its last was not full
    sim_close(&sim);
}

static void pause_client(struct sim *sim, struct sim_client *client, bool paused)
{
    client->paused = paused;
    sched_pause(sim->sched, client->seq_id, paused);
}

/* An older sequence that wants pages gets those that are left, none of one whose rows are in the plan already. */
static void test_sched_takes_no_page_from_the_planned(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet(&sim, 13);
    struct sim_client *older = sim_submit(&sim, 0, 1, 150, 1);
    assert_int_equal(sim_step_quiet(&sim), 1); // 64 rows of it
    pause_client(&sim, older, true);
    struct sim_client *younger = sim_submit(&sim, 1, 30, 1, 150);
    while (younger->output_count < 100) assert_int_equal(sim_step_quiet(&sim), 1);
    assert_int_equal(pool_free_count(sim.pool), 13 - 4 - 7);
    pause_client(&sim, older, false);
    assert_int_equal(sim_step_quiet(&sim),
                     2); // both get on: the younger's row, the older's as far as pages go
    assert_int_equal(younger->output_count, 101);
    assert_int_equal(pool_free_count(sim.pool), 0);
    assert_int_equal(sim_step_quiet(&sim), 1); // now the older takes all, before the younger is planned
    sim_close(&sim);
}

/* Clients that do not read give their place and pages to one that waits, and get on when they read again. */
static void test_sched_paused_give_way(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet(&sim, 26);
    for (int i = 0; i < 8; i++) (void)sim_submit(&sim, i, 5 * (uint32_t)i, 20, 30);
    while (sim.clients[7].output_count == 0) assert_true(sim_step_quiet(&sim) > 0);
    for (int i = 0; i < 8; i++) pause_client(&sim, &sim.clients[i], true);
    assert_int_equal(sim_step_quiet(&sim), 0);
    struct sim_client *reader = sim_submit(&sim, 8, 50, 150,
                                           20); // eight run already, and most pages are theirs
    while (reader->live) assert_int_equal(sim_step_quiet(&sim), 1);
    for (int i = 0; i < 8; i++) pause_client(&sim, &sim.clients[i], false);
    while (sim_step_quiet(&sim) > 0) continue;
    for (int i = 0; i < 9; i++) assert_false(sim.clients[i].live);
    sim_close(&sim);
}

/* The first of two groups is at work: who comes then is the other's, and neither takes a page from the other's step. */
static void test_sched_groups_work_beside_each_other(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet_groups(&sim, 20, 2);
    struct sim_client *first = sim_submit(&sim, 0, 1, 20, 10);
    assert_int_equal(sim_plan_quiet(&sim, 0), 1);
    assert_int_equal(sim_plan_quiet(&sim, 1), 0);
    struct sim_client *second = sim_submit(&sim, 1, 30, 20, 10);
    assert_int_equal(sim_plan_quiet(&sim, 1), 1);
    assert_int_equal(sched_group_running(sim.sched, 1), 1);
    sim_answer_quiet(&sim, 1); // overtakes
    sim_answer_quiet(&sim, 0);
    assert_int_equal(first->output_count, 1);
    assert_int_equal(second->output_count, 1);
    while (sim_step_quiet(&sim) > 0) continue;
    assert_false(first->live || second->live);
    sim_close(&sim);
}

/* A prompt whose front another group computes waits for it, and then finds it. */
static void test_sched_groups_share_what_they_compute(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet_groups(&sim, 20, 2);
    (void)sim_submit(&sim, 0, 1, 60, 10);
    assert_int_equal(sim_plan_quiet(&sim, 0), 1);
    assert_int_equal(sim_plan_quiet(&sim, 1), 0);
    struct sim_client *again = sim_submit(&sim, 1, 1, 60, 10);
    assert_int_equal(sim_plan_quiet(&sim, 1), 0); // held, not computed again
    sim_answer_quiet(&sim, 0);
    assert_int_equal(sim_plan_quiet(&sim, 0), 1); // a decode; the other has fewer
    assert_int_equal(sim_plan_quiet(&sim, 1), 1);
    assert_int_equal(cached_of(&sim, again), 48); // what is in full pages by then
    sim_answer_quiet(&sim, 0);
    sim_answer_quiet(&sim, 1);
    while (sim_step_quiet(&sim) > 0) continue;
    assert_memory_equal(again->tokens, sim.clients[0].tokens, sizeof again->tokens);
    sim_close(&sim);
}

/* What the dead one had goes on in the other; the other's step, which may have read what the dead one wrote, is planned
 * again. */
static void test_sched_groups_outlive_one_worker(void **state)
{
    (void)state;
    static struct sim sim;
    sim_open_quiet_groups(&sim, 40, 2);
    for (uint32_t group = 0; group < 2; group++)
        assert_int_equal(sim_plan_quiet(&sim, group), 0); // both are there
    for (int i = 0; i < 4; i++) (void)sim_submit(&sim, i, 10 * (uint32_t)i, 20, 10);
    assert_true(sim_plan_quiet(&sim, 0) > 0);
    assert_true(sim_plan_quiet(&sim, 1) > 0);
    sim_kill_quiet(&sim, 0);
    sim_answer_quiet(&sim, 1);
    for (int i = 0; i < 4; i++) assert_int_equal(sim.clients[i].output_count, 0);
    while (sim_plan_quiet(&sim, 1) > 0) sim_answer_quiet(&sim, 1); // the first does not come back
    for (int i = 0; i < 4; i++) assert_int_equal(sim.clients[i].output_count, 10);
    sim_close(&sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sched_finds_what_it_computed),
        cmocka_unit_test(test_sched_keeps_one_copy_of_duplicates),
        cmocka_unit_test(test_sched_lives_with_a_pool_exactly_full),
        cmocka_unit_test(test_sched_takes_no_page_from_the_planned),
        cmocka_unit_test(test_sched_reserves_what_a_step_takes),
        cmocka_unit_test(test_sched_paused_give_way),
        cmocka_unit_test(test_sched_groups_work_beside_each_other),
        cmocka_unit_test(test_sched_groups_share_what_they_compute),
        cmocka_unit_test(test_sched_groups_outlive_one_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
