/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of worker/team: every piece runs exactly once, whatever the timing; nothing is lost between jobs;
 * an idle team uses no CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "worker/team.h"

enum { PIECES_MAX = 4096 };

struct tally {
    _Atomic uint32_t runs[PIECES_MAX];
    uint32_t plain[PIECES_MAX]; // written without atomics: the team must make it visible
    uint32_t round;
};

static void count(void *arg, uint32_t piece)
{
    struct tally *tally = arg;
    atomic_fetch_add(&tally->runs[piece], 1);
    tally->plain[piece] = tally->round + piece;
}

static struct team *team_of(uint32_t threads)
{
    struct team *team = NULL;
    struct err err = {0};
    assert_int_equal(team_new(&(struct team_conf){.threads = threads}, &team, &err), 0);
    assert_non_null(team);
    assert_int_equal(team_threads(team), threads);
    return team;
}

static void test_team_runs_each_piece_once(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 3, 8};
    struct tally *tally = calloc(1, sizeof(*tally));
    assert_non_null(tally);
    for (size_t t = 0; t < COUNT_OF(threads); t++) {
        struct team *team = team_of(threads[t]);
        struct rng rng = {threads[t]};
        for (uint32_t round = 0; round < 2000; round++) {
            uint32_t pieces = (uint32_t)rng_below(&rng, round % 100 == 0 ? PIECES_MAX : 20);
            memset(tally->runs, 0, sizeof(tally->runs));
            tally->round = round;
            team_run(team, count, tally, pieces);
            for (uint32_t i = 0; i < pieces; i++) {
                assert_int_equal(atomic_load(&tally->runs[i]), 1);
                assert_int_equal(tally->plain[i], round + i);
            }
            if (pieces < PIECES_MAX) assert_int_equal(atomic_load(&tally->runs[pieces]), 0);
        }
        team_free(team);
    }
    free(tally);
}

struct chain {
    uint64_t values[64];
    uint64_t next[64];
};

static void chain_step(void *arg, uint32_t piece)
{
    struct chain *chain = arg;
    chain->next[piece] = chain->values[(piece + 1) % 64] * 3 + piece;
}

/* Each job reads what the job before wrote: a lost or late piece changes the end. */
static void test_team_jobs_are_ordered(void **state)
{
    (void)state;
    struct chain chain = {{0}, {0}}, plain = {{0}, {0}};
    struct team *team = team_of(4);
    for (int round = 0; round < 5000; round++) {
        team_run(team, chain_step, &chain, 64);
        memcpy(chain.values, chain.next, sizeof(chain.values));
        for (uint32_t i = 0; i < 64; i++) chain_step(&plain, i);
        memcpy(plain.values, plain.next, sizeof(plain.values));
    }
    assert_memory_equal(chain.values, plain.values, sizeof(plain.values));
    team_free(team);
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void test_team_idle_uses_no_cpu(void **state)
{
    (void)state;
    struct tally *tally = calloc(1, sizeof(*tally));
    assert_non_null(tally);
    struct team *team = team_of(2);
    team_run(team, count, tally, 100);
    struct timespec idle = {.tv_nsec = 100 * 1000 * 1000};
    uint64_t before = cpu_ns();
    (void)nanosleep(&idle, NULL); // the idle time is what is tested, not a wait for something
    assert_true(cpu_ns() - before < 2 * 1000 * 1000);
    team_free(team);
    free(tally);
}

static void test_team_refuses_bad_counts(void **state)
{
    (void)state;
    struct team *team = NULL;
    struct err err = {0};
    assert_int_equal(team_new(&(struct team_conf){.threads = 0}, &team, &err), ERR_CONFIG);
    assert_int_equal(team_new(&(struct team_conf){.threads = TEAM_THREADS_MAX + 1}, &team, &err), ERR_CONFIG);
    assert_null(team);
    team_free(NULL);
}

static void test_team_pinned_works(void **state)
{
    (void)state;
    struct tally *tally = calloc(1, sizeof(*tally));
    assert_non_null(tally);
    struct team *team = NULL;
    struct err err = {0};
    assert_int_equal(team_new(&(struct team_conf){.threads = 2, .pin = true}, &team, &err), 0);
    team_run(team, count, tally, 1000);
    for (uint32_t i = 0; i < 1000; i++) assert_int_equal(atomic_load(&tally->runs[i]), 1);
    team_free(team);
    free(tally);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_team_runs_each_piece_once), cmocka_unit_test(test_team_jobs_are_ordered),
        cmocka_unit_test(test_team_idle_uses_no_cpu),     cmocka_unit_test(test_team_refuses_bad_counts),
        cmocka_unit_test(test_team_pinned_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
