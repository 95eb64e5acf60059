/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon says of ranks that are gone, stopped or stuck, and whom it ends. Ranks and mpirun are children that
 * only wait; the link, the exchange and the loop are real. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/ipc/link.h"
#include "daemon/ranks.h"
#include "tests/unit/plan_sample.h"
#include "tests/unit/shm_guard.h"

enum { RANKS = 2, MPIRUN = RANKS, EPOCH = 7 };

struct world {
    uv_loop_t loop;
    struct link *link;
    struct ranks *ranks;
    struct exchange_shape shape;
    pid_t pids[RANKS + 1]; // the last: mpirun; 0: reaped
    char what[128];        // of on_trouble
    uint64_t trouble_ns;
    int troubles, gones;
    bool freed;
};

static void on_trouble(void *owner, const char *what)
{
    struct world *world = owner;
    (void)snprintf(world->what, sizeof world->what, "%s", what);
    world->trouble_ns = clock_mono_ns();
    world->troubles++;
    uv_stop(&world->loop);
}

static void on_gone(void *owner)
{
    struct world *world = owner;
    world->gones++;
    uv_stop(&world->loop);
}

static void on_freed(void *owner)
{
    ((struct world *)owner)->freed = true;
}

/* A child that waits for a signal; a rank (mpirun is none) has told the link who it is. */
static pid_t child_start(uint32_t rank)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct link *link;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (rank < RANKS && link_attach(shm_instance, 0, rank, &link, NULL) < 0) _exit(1);
        if (write(ready[1], "r", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void child_reap(struct world *world, uint32_t i)
{
    assert_int_equal(waitpid(world->pids[i], NULL, 0), world->pids[i]);
    world->pids[i] = 0;
}

static void world_open(struct world *world)
{
    struct err err = {0};
    memset(world, 0, sizeof *world);
    assert_int_equal(uv_loop_init(&world->loop), 0);
    if (link_create(shm_instance, 0, RANKS, EPOCH, &sample_limits, &world->link, &err) < 0)
        fail_msg("%s", err.text);
    world->shape = exchange_shape_of(&sample_limits, RANKS);
    world->shape.embedding_dims = world->shape.attention_dims = world->shape.feed_forward_dims = 64;
    const struct ranks_conf conf = {.loop = &world->loop,
                                    .instance = shm_instance,
                                    .rank_count = RANKS,
                                    .epoch = EPOCH,
                                    .shape = world->shape,
                                    .link = world->link,
                                    .on_trouble = on_trouble,
                                    .on_gone = on_gone,
                                    .owner = world};
    if (ranks_new(&conf, &world->ranks, &err) < 0) fail_msg("%s", err.text);
    if (ranks_begin(world->ranks, &err) < 0) fail_msg("%s", err.text);
    for (uint32_t i = 0; i <= RANKS; i++) world->pids[i] = child_start(i);
    ranks_launched(world->ranks, world->pids[MPIRUN]);
}

/* Ends the life as a group does: mpirun first, then whoever is left, then the watch. */
static void life_end(struct world *world)
{
    assert_int_equal(kill(world->pids[MPIRUN], SIGKILL), 0);
    child_reap(world, MPIRUN);
    ranks_end(world->ranks);
    while (world->gones == 0) (void)uv_run(&world->loop, UV_RUN_DEFAULT);
    assert_int_equal(world->gones, 1);
    ranks_rest(world->ranks);
}

static void world_close(struct world *world)
{
    for (uint32_t i = 0; i < RANKS; i++) {
        if (world->pids[i] > 0) child_reap(world, i); // what ranks_end killed
    }
    ranks_free(world->ranks, on_freed);
    while (uv_run(&world->loop, UV_RUN_DEFAULT) != 0) continue;
    assert_true(world->freed);
    assert_int_equal(uv_loop_close(&world->loop), 0);
    assert_false(segment_exists(shm_instance, "exchange.0"));
    link_close(world->link);
    assert_int_equal(link_unlink(shm_instance, 0), 0);
}

/* Runs until there is trouble. -> what it is. */
static const char *trouble_of(struct world *world)
{
    while (world->troubles == 0) (void)uv_run(&world->loop, UV_RUN_DEFAULT);
    return world->what;
}

static void test_ranks_tell_which_rank_is_gone(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    ranks_look(world.ranks);
    assert_int_equal(kill(world.pids[1], SIGKILL), 0);
    assert_string_equal(trouble_of(&world), "rank 1 is gone");
    life_end(&world);
    assert_int_equal(world.troubles, 1); // that the others then go is none
    world_close(&world);
}

static void expect_stopped(uint32_t who, const char *name)
{
    struct world world;
    char wanted[128];
    world_open(&world);
    ranks_look(world.ranks);
    assert_int_equal(kill(world.pids[who], SIGSTOP), 0);
    (void)snprintf(wanted, sizeof wanted, "process %ld (%s) was stopped", (long)world.pids[who], name);
    assert_string_equal(trouble_of(&world), wanted);
    life_end(&world); // SIGKILL ends a stopped process too
    world_close(&world);
}

static void test_ranks_tell_of_a_stopped_rank(void **state)
{
    (void)state;
    expect_stopped(0, "a rank");
}

static void test_ranks_tell_of_a_stopped_mpirun(void **state)
{
    (void)state;
    expect_stopped(MPIRUN, "mpirun");
}

static void come_to_a_barrier(uv_timer_t *timer)
{
    struct world *world = timer->data;
    char part[] = "exchange.0";
    struct segment exchange;
    assert_int_equal(segment_open_write(shm_instance, part, &exchange, NULL), 0);
    assert_int_equal(exchange_verify(exchange.base, exchange.bytes, &world->shape, EPOCH, NULL), 0);
    atomic_fetch_add_explicit(&exchange_cells(exchange.base)[1].arrived, 1, memory_order_seq_cst);
    segment_close(&exchange);
    assert_int_equal(kill(world->pids[0], SIGCONT), 0);
    uv_close((uv_handle_t *)timer, NULL);
}

/* One look meets a stop that passes; the barrier that a rank comes to then counts from the look that sees it. */
static void test_ranks_tell_of_a_step_without_barriers(void **state)
{
    (void)state;
    enum { BARRIER_MS = 500, STUCK_MS = 1800 };
    struct world world;
    uv_timer_t timer = {.data = &world};
    world_open(&world);
    ranks_look(world.ranks);
    uv_timer_init(&world.loop, &timer);
    uv_timer_start(&timer, come_to_a_barrier, BARRIER_MS, 0);
    assert_int_equal(kill(world.pids[0], SIGSTOP), 0);
    const uint64_t start_ns = clock_mono_ns();
    ranks_step(world.ranks, true);
    assert_non_null(strstr(trouble_of(&world), "no rank came to a barrier for "));
    const uint64_t waited_ms = (world.trouble_ns - start_ns) / NS_PER_MS;
    assert_true(waited_ms >= BARRIER_MS + STUCK_MS);
    life_end(&world);
    world_close(&world);
}

static uint8_t *next_of(uint8_t *at, const struct segment *segment, uint64_t value)
{
    const uint8_t *end = (const uint8_t *)segment->base + segment->bytes;
    return memmem(at + 1, (size_t)(end - at - 1), &value, sizeof value);
}

/* Changes the start time in the cell of a rank: its pid is then that of another process. */
static void forge_start(struct world *world, uint32_t rank)
{
    struct rank_status status;
    struct segment segment;
    link_rank_status(world->link, rank, &status);
    assert_int_equal(status.pid, world->pids[rank]);
    assert_int_equal(segment_open_write(shm_instance, "link.0", &segment, NULL), 0);
    uint8_t *found = memmem(segment.base, segment.bytes, &status.start, sizeof status.start);
    // Both ranks may have begun in one tick of that clock: it is the cell behind this pid that counts.
    uint8_t *pid = memmem(segment.base, segment.bytes, &status.pid, sizeof status.pid);
    while (found && pid && found < pid) found = next_of(found, &segment, status.start);
    assert_non_null(found);
    *found += 1;
    segment_close(&segment);
}

static void test_ranks_leave_alone_who_only_has_the_pid(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    forge_start(&world, 1);
    life_end(&world);
    assert_int_equal(waitpid(world.pids[1], NULL, WNOHANG), 0); // lives
    assert_int_equal(kill(world.pids[1], SIGKILL), 0);
    world_close(&world);
}

/* A rank that came and went before anyone looked is not waited for. */
static void test_ranks_that_were_never_seen_are_gone(void **state)
{
    (void)state;
    struct world world;
    world_open(&world);
    for (uint32_t i = 0; i < RANKS; i++) {
        assert_int_equal(kill(world.pids[i], SIGKILL), 0);
        child_reap(&world, i);
    }
    ranks_look(world.ranks);
    life_end(&world);
    assert_int_equal(world.troubles, 0);
    world_close(&world);
}

static void test_ranks_keep_the_directory_to_a_life(void **state)
{
    (void)state;
    struct world world;
    struct stat st;
    char path[512], left[600];
    struct err err = {0};
    world_open(&world);
    (void)snprintf(path, sizeof path, "%s", ranks_directory(world.ranks));
    (void)snprintf(left, sizeof left, "%s/left", path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(mkdir(left, 0700), 0);
    life_end(&world);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(mkdir(path, 0700), 0); // what a killed daemon left
    assert_int_equal(mkdir(left, 0700), 0);
    assert_int_equal(ranks_begin(world.ranks, &err), 0);
    assert_int_equal(stat(left, &st), -1);
    ranks_rest(world.ranks);
    world_close(&world);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(mkdir(path, 0700), 0); // of a group that its successor does not have
    assert_int_equal(mkdir(left, 0700), 0);
    ranks_sweep(shm_instance, 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(symlink("/", path), 0); // not ours to walk
    ranks_sweep(shm_instance, 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(unlink(path), 0);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_tell_which_rank_is_gone),
        cmocka_unit_test(test_ranks_tell_of_a_stopped_rank),
        cmocka_unit_test(test_ranks_tell_of_a_stopped_mpirun),
        cmocka_unit_test(test_ranks_tell_of_a_step_without_barriers),
        cmocka_unit_test(test_ranks_leave_alone_who_only_has_the_pid),
        cmocka_unit_test(test_ranks_that_were_never_seen_are_gone),
        cmocka_unit_test(test_ranks_keep_the_directory_to_a_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return shm_guard_run(run);
}
