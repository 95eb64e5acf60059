/* SPDX-License-Identifier: Apache-2.0 */
/* The link between a daemon (this process) and workers (children): plans there, completions back, waking,
 * stopping, dying. A failure of the kill test reruns with KVASIR_SEED=<printed seed>. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/ipc/link.h"
#include "common/ipc/ring.h"
#include "tests/unit/plan_sample.h"
#include "tests/unit/shm_guard.h"

enum { EPOCH = 44, WAIT_NS = 1000000000 };

static struct link *daemon_link(void)
{
    struct link *link;
    struct err err = {0};
    if (link_create(shm_instance, 0, 2, EPOCH, &sample_limits, &link, &err) < 0) fail_msg("%s", err.text);
    return link;
}

static struct link *worker_link(uint32_t rank)
{
    struct link *link;
    struct err err = {0};
    if (link_attach(shm_instance, 0, rank, &link, &err) < 0) fail_msg("%s", err.text);
    return link;
}

static void close_all(struct link *daemon, struct link *worker)
{
    link_close(worker);
    link_close(daemon);
    assert_int_equal(link_unlink(shm_instance, 0), 0);
}

/* Pushes 8 bytes as a plan; the link does not look into plans. */
static int push_number(struct link *link, uint64_t number)
{
    size_t bytes;
    void *slot = link_plan_slot(link, &bytes);
    if (!slot) return -EAGAIN;
    memcpy(slot, &number, sizeof number);
    link_plan_push(link, sizeof number);
    return 0;
}

static uint64_t take_number(struct link *link)
{
    static uint8_t out[SAMPLE_BYTES];
    size_t bytes;
    uint64_t number;
    assert_int_equal(link_plan_wait(link, out, sizeof out, 0, WAIT_NS, &bytes), 0);
    assert_int_equal(bytes, sizeof number);
    memcpy(&number, out, sizeof number);
    return number;
}

static void answer_number(struct link *link, uint64_t number)
{
    size_t bytes;
    void *slot = link_done_slot(link, &bytes);
    if (!slot) abort();
    memcpy(slot, &number, sizeof number);
    link_done_push(link, sizeof number);
}

static int pop_number(struct link *link, uint64_t *ret_number)
{
    static uint8_t out[1 << 20];
    size_t bytes;
    int r = link_done_pop(link, out, sizeof out, &bytes);
    if (r == 0) memcpy(ret_number, out, sizeof *ret_number);
    return r;
}

static void test_link_carries_plans_and_completions(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *worker = worker_link(0);
    assert_int_equal(link_epoch(worker), EPOCH);
    assert_memory_equal(link_limits(worker), link_limits(daemon), sizeof(struct plan_limits));
    assert_int_equal(link_limits(worker)->rank_count, 2);
    uint64_t number = 0;
    for (uint64_t round = 0; round < 20; round++) {
        assert_int_equal(pop_number(daemon, &number), -EAGAIN);
        for (uint64_t i = 0; i < LINK_SLOTS; i++) assert_int_equal(push_number(daemon, round * 10 + i), 0);
        assert_int_equal(push_number(daemon, 99), -EAGAIN);
        for (uint64_t i = 0; i < LINK_SLOTS; i++) assert_int_equal(take_number(worker), round * 10 + i);
        // All slots are free again, but four completions are due: no fifth plan.
        assert_int_equal(push_number(daemon, 99), -EAGAIN);
        for (uint64_t i = 0; i < LINK_SLOTS; i++) answer_number(worker, round * 100 + i);
        for (uint64_t i = 0; i < LINK_SLOTS; i++) {
            assert_int_equal(pop_number(daemon, &number), 0);
            assert_int_equal(number, round * 100 + i);
        }
    }
    struct rank_status status;
    link_rank_status(daemon, 0, &status);
    assert_int_equal(status.steps, 20 * LINK_SLOTS);
    close_all(daemon, worker);
}

static void test_link_refuses_a_segment_that_is_not_one(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *worker;
    struct segment segment;
    struct err err = {0};
    assert_int_equal(link_attach(shm_instance, 1, 0, &worker, &err), -ENOENT);
    assert_int_equal(link_attach(shm_instance, 0, 2, &worker, &err), ERR_USAGE);
    assert_int_equal(link_attach(shm_instance, GROUPS_MAX, 0, &worker, &err), ERR_USAGE);
    assert_int_equal(segment_open_write(shm_instance, "link.0", &segment, &err), 0);
    uint8_t *bytes = segment.base;
    unsigned refused = 0;
    for (size_t i = 0; i < 192; i++) { // the header, byte by byte
        uint8_t was = bytes[i];
        bytes[i] ^= 0x41;
        int r = link_attach(shm_instance, 0, 0, &worker, &err);
        bytes[i] = was;
        if (r == 0) link_close(worker);
        else refused++;
    }
    assert_true(refused > 100);
    segment_close(&segment);
    close_all(daemon, NULL);
}

static void test_link_broken_counters_are_told_not_followed(void **state)
{
    (void)state;
    struct segment segment;
    struct err err = {0};
    uint64_t number;
    for (int which = 0; which < 2; which++) {
        struct link *daemon = daemon_link(), *worker = worker_link(0);
        assert_int_equal(push_number(daemon, 1), 0);
        assert_int_equal(take_number(worker), 1);
        answer_number(worker, 2);
        assert_int_equal(segment_open_write(shm_instance, "link.0", &segment, &err), 0);
        // Find the rings from behind: the done ring is last, the plan ring before it.
        size_t done_size = ring_bytes(LINK_SLOTS, (uint32_t)done_bytes_max(link_limits(daemon)));
        size_t plan_size = ring_bytes(LINK_SLOTS, (uint32_t)plan_bytes_max(link_limits(daemon)));
        struct ring *done = (struct ring *)((uint8_t *)segment.base + segment.bytes - done_size);
        struct ring *plan = (struct ring *)((uint8_t *)done - plan_size);
        if (which == 0) {
            atomic_store(&done->tail, UINT64_C(1) << 40);
            assert_int_equal(pop_number(daemon, &number), ERR_PEER);
        } else {
            atomic_store(&plan->head, 77);
            assert_int_equal(push_number(daemon, 3), -EAGAIN);
            assert_int_equal(pop_number(daemon, &number), ERR_PEER);
        }
        link_close(worker);
        link_reset(daemon); // and a new life heals it
        worker = worker_link(0);
        assert_int_equal(push_number(daemon, 5), 0);
        assert_int_equal(take_number(worker), 5);
        answer_number(worker, 6);
        assert_int_equal(pop_number(daemon, &number), 0);
        assert_int_equal(number, 6);
        answer_number(worker, 7); // a completion of nothing
        assert_int_equal(pop_number(daemon, &number), ERR_PEER);
        segment_close(&segment);
        close_all(daemon, worker);
    }
}

static void test_link_worker_waits_times_out_and_is_stopped(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *worker = worker_link(0);
    uint8_t out[64];
    size_t bytes;
    assert_int_equal(link_plan_wait(worker, out, sizeof out, 0, 1000, &bytes), -ETIMEDOUT);
    assert_int_equal(link_plan_wait(worker, out, sizeof out, 5000, 1000, &bytes), -ETIMEDOUT);
    assert_int_equal(push_number(daemon, 1), 0);
    link_stop(daemon);
    assert_int_equal(link_plan_wait(worker, out, sizeof out, 0, WAIT_NS, &bytes),
                     0); // pushed before the stop
    assert_int_equal(link_plan_wait(worker, out, sizeof out, 0, WAIT_NS, &bytes), -ECANCELED);
    link_reset(daemon);
    assert_int_equal(link_plan_wait(worker, out, sizeof out, 0, 1000, &bytes), -ETIMEDOUT);
    assert_int_equal(push_number(daemon, 1), 0);
    assert_int_equal(link_plan_wait(worker, out, 7, 0, 1000, &bytes), ERR_PEER); // longer than agreed
    close_all(daemon, worker);
}

static void *interrupt_thread(void *arg)
{
    link_interrupt(arg);
    return NULL;
}

static void test_link_daemon_wait_returns_for_each_reason_once(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *worker = worker_link(1);
    (void)link_daemon_wait(daemon, 0); // whatever the start published
    assert_int_equal(link_daemon_wait(daemon, 1000), -ETIMEDOUT);
    link_rank_set(worker, RANK_LOADING, 250);
    assert_int_equal(link_daemon_wait(daemon, WAIT_NS), 0);
    assert_int_equal(link_daemon_wait(daemon, 1000), -ETIMEDOUT);
    link_rank_beat(worker, 5); // beats wake nobody
    assert_int_equal(link_daemon_wait(daemon, 1000), -ETIMEDOUT);
    link_interrupt(daemon);
    assert_int_equal(link_daemon_wait(daemon, WAIT_NS), -EINTR);
    assert_int_equal(link_daemon_wait(daemon, 1000), -ETIMEDOUT);
    pthread_t thread; // whether it comes before or during the sleep
    assert_int_equal(pthread_create(&thread, NULL, interrupt_thread, daemon), 0);
    assert_int_equal(link_daemon_wait(daemon, 10 * (uint64_t)WAIT_NS), -EINTR);
    assert_int_equal(pthread_join(thread, NULL), 0);
    close_all(daemon, worker);
}

static void test_link_shows_the_state_of_a_rank(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *worker = worker_link(1);
    struct rank_status status;
    link_rank_status(daemon, 0, &status);
    assert_int_equal(status.state, RANK_NONE);
    assert_int_equal(status.pid, 0);
    link_rank_set(worker, RANK_LOADING, 250);
    link_rank_beat(worker, 777);
    link_rank_status(daemon, 1, &status);
    assert_int_equal(status.state, RANK_LOADING);
    assert_int_equal(status.progress_permille, 250);
    assert_int_equal(status.heartbeat_ns, 777);
    assert_int_equal(status.pid, getpid());
    assert_string_equal(status.panic, "");
    link_rank_note(worker, "step refused");
    link_rank_status(daemon, 1, &status);
    assert_int_equal(status.state, RANK_LOADING);
    assert_string_equal(status.panic, "step refused");
    char text[2 * LINK_PANIC_BYTES];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    text[0] = '\n';
    link_rank_panic(worker, text);
    link_rank_status(daemon, 1, &status);
    assert_int_equal(status.state, RANK_FAILED);
    assert_int_equal(strlen(status.panic), LINK_PANIC_BYTES - 1);
    assert_int_equal(status.panic[0], '?');
    link_reset(daemon);
    link_rank_status(daemon, 1, &status);
    assert_int_equal(status.state, RANK_NONE);
    assert_string_equal(status.panic, "");
    close_all(daemon, worker);
}

/* A worker that answers number n with 3 n, for ever. */
static void echo_worker(void)
{
    struct link *link = worker_link(0);
    uint8_t out[SAMPLE_BYTES];
    link_rank_set(link, RANK_READY, 1000);
    for (;;) {
        size_t bytes;
        uint64_t number;
        int r = link_plan_wait(link, out, sizeof out, 2000, WAIT_NS, &bytes);
        if (r == -ECANCELED) _exit(0);
        if (r == -ETIMEDOUT) continue;
        if (r < 0) _exit(1);
        memcpy(&number, out, sizeof number);
        answer_number(link, 3 * number);
    }
}

static pid_t echo_spawn(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) echo_worker();
    return pid;
}

/* Kills the worker at random moments; what was answered is right and in order, what was not is asked again. */
static void test_link_survives_kills_of_the_worker(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    struct rng rng = {text ? strtoull(text, NULL, 0) : clock_wall_ns()};
    printf("KVASIR_SEED=%llu\n", (unsigned long long)rng.state);
    enum { KILLS = 500 };
    struct link *daemon = daemon_link();
    uint64_t answered = 0, asked = 0, number;
    pid_t pid = echo_spawn();
    for (int i = 0; i < KILLS; i++) {
        uint64_t goal = answered + rng_below(&rng, 20);
        while (answered < goal) {
            while (asked - answered < LINK_SLOTS && push_number(daemon, asked) == 0) asked++;
            int r = pop_number(daemon, &number);
            if (r == -EAGAIN) {
                assert_int_not_equal(link_daemon_wait(daemon, 20 * (uint64_t)WAIT_NS), -ETIMEDOUT);
                continue;
            }
            assert_int_equal(r, 0);
            assert_int_equal(number, 3 * answered);
            answered++;
        }
        uint64_t until = clock_mono_ns() + rng_below(&rng, 20 * NS_PER_US);
        while (clock_mono_ns() < until) continue;
        int status;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        while (pop_number(daemon, &number) == 0) { // what it published before it died counts
            assert_int_equal(number, 3 * answered);
            answered++;
        }
        asked = answered; // the rest is asked again
        link_reset(daemon);
        pid = echo_spawn();
    }
    link_stop(daemon);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close_all(daemon, NULL);
}

/* A process that has attached as rank 1 and waits to be killed. */
static pid_t fork_rank(void)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)worker_link(1);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        for (;;) (void)pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

/* The ranks of a link whose daemon is gone, and nobody else. */
static void test_link_kills_its_own_ranks_only(void **state)
{
    (void)state;
    struct link *daemon = daemon_link(), *us = worker_link(0);
    int status;
    pid_t pid = fork_rank();
    link_close(us);
    us = NULL;
    link_reset(daemon); // nobody is named any more
    assert_int_equal(link_kill_ranks(shm_instance, 0), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    pid = fork_rank();
    assert_int_equal(link_kill_ranks(shm_instance, 0), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(link_kill_ranks(shm_instance, 0), 0); // gone, and the pid is perhaps another's
    close_all(daemon, NULL);
    assert_int_equal(link_kill_ranks(shm_instance, 0), 0); // no such link
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_link_kills_its_own_ranks_only),
        cmocka_unit_test(test_link_carries_plans_and_completions),
        cmocka_unit_test(test_link_refuses_a_segment_that_is_not_one),
        cmocka_unit_test(test_link_broken_counters_are_told_not_followed),
        cmocka_unit_test(test_link_worker_waits_times_out_and_is_stopped),
        cmocka_unit_test(test_link_daemon_wait_returns_for_each_reason_once),
        cmocka_unit_test(test_link_shows_the_state_of_a_rank),
        cmocka_unit_test(test_link_survives_kills_of_the_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return shm_guard_run(run);
}
