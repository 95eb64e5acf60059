/* SPDX-License-Identifier: Apache-2.0 */
/* The ring and its wake: in one thread, between two threads (run it under ThreadSanitizer too), between two
 * processes of which either is killed at random, and at every single instruction of a publish and of a
 * release. Rerun a failure with KVASIR_SEED=<printed seed>. */
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
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/rng.h"
#include "common/base/sanitizer.h"
#include "common/ipc/ring.h"
#include "common/ipc/wake.h"

enum { SLOTS = 4, PAYLOAD = 200, WORDS = PAYLOAD / 8 };

/* What two sides share; the test's own counters beside the ring. */
struct shared {
    struct wake wake;
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t consumed; // messages the consumer has checked, in order
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t fault;    // 1 + number of the first wrong message
    struct ring ring;
};

static struct shared *shared_new(void)
{
    size_t bytes = sizeof(struct shared) + ring_bytes(SLOTS, PAYLOAD);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED);
    struct shared *shared = base;
    ring_format(&shared->ring, SLOTS, PAYLOAD);
    return shared;
}

static void shared_free(struct shared *shared)
{
    assert_int_equal(munmap(shared, sizeof(struct shared) + ring_bytes(SLOTS, PAYLOAD)), 0);
}

/* Message number n: its length and every word follow from n. */
static uint32_t message_fill(uint64_t n, uint64_t *words)
{
    uint32_t count = 1 + (uint32_t)(n % WORDS);
    for (uint32_t i = 0; i < count; i++) words[i] = n * UINT64_C(0x9E3779B97F4A7C15) + i;
    return count * 8;
}

static int message_is(uint64_t n, const void *payload, uint32_t bytes)
{
    uint64_t wanted[WORDS], found[WORDS];
    if (bytes != message_fill(n, wanted)) return 0;
    memcpy(found, payload, bytes);
    return memcmp(wanted, found, bytes) == 0;
}

static void test_ring_gives_slots_in_order_and_no_more_than_it_has(void **state)
{
    (void)state;
    struct shared *shared = shared_new();
    struct ring_end producer, consumer;
    assert_int_equal(ring_attach_producer(&shared->ring, SLOTS, PAYLOAD, &producer), 0);
    assert_int_equal(ring_attach_consumer(&shared->ring, SLOTS, PAYLOAD, &consumer), 0);
    const void *got;
    void *slot, *again;
    uint32_t bytes;
    assert_int_equal(ring_peek(&consumer, &got, &bytes), -EAGAIN);
    for (uint64_t n = 0; n < 10 * SLOTS; n++) {
        if (n >= SLOTS) {
            assert_int_equal(ring_next(&producer, &slot), -EAGAIN);
            assert_int_equal(ring_peek(&consumer, &got, &bytes), 0);
            assert_true(message_is(n - SLOTS, got, bytes));
            ring_release(&consumer);
        }
        assert_int_equal(ring_next(&producer, &slot), 0);
        assert_int_equal(ring_next(&producer, &again), 0);
        assert_ptr_equal(slot, again);
        assert_int_equal((uintptr_t)slot % CACHELINE_BYTES, 0);
        ring_publish(&producer, message_fill(n, slot));
    }
    assert_int_equal(ring_published(&shared->ring), 10 * SLOTS);
    shared_free(shared);
}

static void test_ring_refuses_impossible_counters(void **state)
{
    (void)state;
    struct shared *shared = shared_new();
    struct ring *ring = &shared->ring;
    struct ring_end producer, consumer, other;
    assert_int_equal(ring_attach_producer(ring, SLOTS, PAYLOAD, &producer), 0);
    assert_int_equal(ring_attach_consumer(ring, SLOTS, PAYLOAD, &consumer), 0);
    assert_int_equal(ring_attach_consumer(ring, SLOTS, PAYLOAD - 1, &other), ERR_PEER);
    assert_int_equal(ring_attach_consumer(ring, SLOTS * 2, PAYLOAD, &other), ERR_PEER);
    void *slot;
    const void *got;
    uint32_t bytes;
    const uint64_t heads[] = {1, 5, UINT64_MAX, UINT64_MAX - SLOTS, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) { // nothing was published: head is 0
        int want = heads[i] == UINT64_MAX ? 0
                                          : ERR_PEER; // one slot in use is possible, as far as we can tell
        atomic_store(&ring->head, heads[i]);
        assert_int_equal(ring_next(&producer, &slot), want);
        assert_int_equal(ring_attach_producer(ring, SLOTS, PAYLOAD, &other), want);
    }
    atomic_store(&ring->head, 0);
    const uint64_t tails[] = {SLOTS + 1, UINT64_MAX, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        atomic_store(&ring->tail, tails[i]);
        assert_int_equal(ring_peek(&consumer, &got, &bytes), ERR_PEER);
        assert_int_equal(ring_attach_consumer(ring, SLOTS, PAYLOAD, &other), ERR_PEER);
    }
    atomic_store(&ring->tail, 0);
    assert_int_equal(ring_next(&producer, &slot), 0);
    ring_publish(&producer, 8);
    *(uint32_t *)((uint8_t *)slot - CACHELINE_BYTES) = PAYLOAD + 1; // the slot's length
    assert_int_equal(ring_peek(&consumer, &got, &bytes), ERR_PEER);
    // The shared sizes are not looked at again.
    ring->slots_total = 1u << 31;
    ring->payload_bytes = 0;
    *(uint32_t *)((uint8_t *)slot - CACHELINE_BYTES) = 8;
    assert_int_equal(ring_peek(&consumer, &got, &bytes), 0);
    shared_free(shared);
}

static void test_ring_counters_wrap(void **state)
{
    (void)state;
    struct shared *shared = shared_new();
    atomic_store(&shared->ring.head, UINT64_MAX - 1);
    atomic_store(&shared->ring.tail, UINT64_MAX - 1);
    struct ring_end producer, consumer;
    assert_int_equal(ring_attach_producer(&shared->ring, SLOTS, PAYLOAD, &producer), 0);
    assert_int_equal(ring_attach_consumer(&shared->ring, SLOTS, PAYLOAD, &consumer), 0);
    for (uint64_t n = 0; n < 3 * SLOTS; n++) {
        void *slot;
        const void *got;
        uint32_t bytes;
        assert_int_equal(ring_next(&producer, &slot), 0);
        ring_publish(&producer, message_fill(n, slot));
        assert_int_equal(ring_peek(&consumer, &got, &bytes), 0);
        assert_true(message_is(n, got, bytes));
        ring_release(&consumer);
    }
    shared_free(shared);
}

/* Producer and consumer as they run anywhere: until `last`, or for ever. Both go on where the counters say. */
static void produce(struct shared *shared, uint64_t last)
{
    struct ring_end end;
    if (ring_attach_producer(&shared->ring, SLOTS, PAYLOAD, &end) < 0) abort();
    wake_notify(&shared->wake); // the last life may have ended between a publish and this
    while (end.own < last) {
        void *slot;
        int r = ring_next(&end, &slot);
        if (r == ERR_PEER) abort();
        if (r < 0) {
            sched_yield();
            continue;
        }
        ring_publish(&end, message_fill(end.own, slot));
        wake_notify(&shared->wake);
    }
}

static int consume_one(struct shared *shared, struct ring_end *end)
{
    const void *got;
    uint32_t bytes;
    int r = ring_peek(end, &got, &bytes);
    if (r < 0) return r;
    if (!message_is(end->own, got, bytes)) atomic_store(&shared->fault, end->own + 1);
    atomic_store(&shared->consumed, end->own + 1);
    ring_release(end);
    return 0;
}

static void consume(struct shared *shared, uint64_t last)
{
    struct ring_end end;
    if (ring_attach_consumer(&shared->ring, SLOTS, PAYLOAD, &end) < 0) abort();
    while (end.own < last) {
        int r = consume_one(shared, &end);
        if (r == ERR_PEER) abort();
        if (r == 0) continue;
        uint32_t ticket = wake_prepare(&shared->wake);
        // A lost wake: a message lies there and nobody said so. A timeout alone may be a producer without a core.
        if (consume_one(shared, &end) == -EAGAIN &&
            wake_sleep(&shared->wake, ticket, NS_PER_S) == -ETIMEDOUT && consume_one(shared, &end) == 0) {
            atomic_store(&shared->fault, UINT64_MAX);
        }
        wake_finish(&shared->wake);
    }
}

enum { THREAD_MESSAGES = 100000 };

static void *produce_thread(void *arg)
{
    produce(arg, THREAD_MESSAGES);
    return NULL;
}

static void test_ring_carries_everything_between_threads(void **state)
{
    (void)state;
    struct shared *shared = shared_new();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, produce_thread, shared), 0);
    consume(shared, THREAD_MESSAGES);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(atomic_load(&shared->fault), 0);
    assert_int_equal(atomic_load(&shared->consumed), THREAD_MESSAGES);
    shared_free(shared);
}

static void test_wake_times_out_and_needs_no_syscall_to_notify_nobody(void **state)
{
    (void)state;
    struct shared *shared = shared_new();
    uint32_t ticket = wake_prepare(&shared->wake);
    assert_int_equal(wake_sleep(&shared->wake, ticket, 1000), -ETIMEDOUT);
    wake_notify(&shared->wake); // announced: counted
    assert_int_equal(wake_sleep(&shared->wake, ticket, NS_PER_S), 0);
    wake_finish(&shared->wake);
    uint32_t before = atomic_load(&shared->wake.sequence);
    wake_notify(&shared->wake);
    assert_int_equal(atomic_load(&shared->wake.sequence), before);
    shared_free(shared);
}

static pid_t spawn(void (*side)(struct shared *, uint64_t), struct shared *shared)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        side(shared, UINT64_MAX);
        _exit(0);
    }
    return pid;
}

/* Kills one side at a random moment, looks at the ring, starts that side again; the stream must go on without
 * a gap, a repeat or a torn message. */
static void test_ring_survives_kills_of_either_side(void **state)
{
    (void)state;
    if (SANITIZES_THREAD) skip(); // fork without exec
    const char *text = getenv("KVASIR_SEED");
    struct rng rng = {text ? strtoull(text, NULL, 0) : clock_wall_ns()};
    printf("KVASIR_SEED=%llu\n", (unsigned long long)rng.state);
    enum { KILLS = 2000 };
    struct shared *shared = shared_new();
    void (*const sides[2])(struct shared *, uint64_t) = {produce, consume};
    pid_t pids[2] = {spawn(produce, shared), spawn(consume, shared)};
    uint64_t consumed_before = 0, progress_count = 0;
    for (int i = 0; i < KILLS; i++) {
        // After some messages, or soon when there are none, and then a moment more.
        uint64_t until = clock_mono_ns() + 2 * NS_PER_MS, wanted = consumed_before + rng_below(&rng, 100);
        while (atomic_load(&shared->consumed) < wanted && clock_mono_ns() < until) sched_yield();
        until = clock_mono_ns() + rng_below(&rng, 20 * NS_PER_US);
        while (clock_mono_ns() < until) continue;
        int side = (int)rng_below(&rng, 2);
        assert_int_equal(kill(pids[side], SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pids[side], &status, 0), pids[side]);
        assert_true(WIFSIGNALED(status)); // and not by an abort of its own
        assert_int_equal(WTERMSIG(status), SIGKILL);
        assert_int_equal(atomic_load(&shared->fault), 0);
        uint64_t head = atomic_load(&shared->ring.head), consumed = atomic_load(&shared->consumed);
        assert_true(atomic_load(&shared->ring.tail) - head <= SLOTS + 1); // + 1: read one after the other
        progress_count += consumed > consumed_before;
        consumed_before = consumed;
        pids[side] = spawn(sides[side], shared);
    }
    for (int side = 0; side < 2; side++) {
        assert_int_equal(kill(pids[side], SIGKILL), 0);
        assert_int_equal(waitpid(pids[side], NULL, 0), pids[side]);
    }
    printf("%llu messages, progress between %llu of %d kills\n", (unsigned long long)consumed_before,
           (unsigned long long)progress_count, KILLS);
    assert_true(consumed_before > 0);
    assert_int_equal(atomic_load(&shared->fault), 0);
    shared_free(shared);
}

static struct ring_end traced_producer, traced_consumer;

static void traced_publish(struct shared *shared)
{
    (void)shared;
    void *slot;
    if (ring_next(&traced_producer, &slot) < 0) abort();
    ring_publish(&traced_producer, message_fill(traced_producer.own, slot));
}

static void traced_release(struct shared *shared)
{
    if (consume_one(shared, &traced_consumer) < 0) abort();
}

/* What a survivor would find if the other side died here: counters in I1, every published slot whole. */
static void check_ring(struct shared *shared)
{
    struct ring_end end;
    assert_int_equal(ring_attach_consumer(&shared->ring, SLOTS, PAYLOAD, &end), 0);
    const void *got;
    uint32_t bytes;
    uint64_t head = end.own, tail = ring_published(&shared->ring);
    for (; end.own < tail; end.own++) {
        assert_int_equal(ring_peek(&end, &got, &bytes), 0);
        assert_true(message_is(end.own, got, bytes));
    }
    assert_true(tail - head <= SLOTS);
}

/* Runs fn in a child, one instruction at a time, and checks the ring after each. -> instructions, 0 when this
 * system has no ptrace. */
static unsigned step_through(struct shared *shared, void (*fn)(struct shared *))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) _exit(77);
        raise(SIGSTOP);
        fn(shared);
        raise(SIGSTOP);
        _exit(0);
    }
    unsigned steps = 0;
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) return 0;
    for (;;) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0) break;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) break; // the second SIGSTOP
        check_ring(shared);
        steps++;
    }
    (void)kill(pid, SIGKILL); // it may be gone
    if (WIFSTOPPED(status)) assert_int_equal(waitpid(pid, &status, 0), pid);
    return steps;
}

static void test_ring_is_whole_after_every_instruction(void **state)
{
    (void)state;
    if (SANITIZES_THREAD) skip(); // its runtime is in between
    struct shared *shared = shared_new();
    assert_int_equal(ring_attach_producer(&shared->ring, SLOTS, PAYLOAD, &traced_producer), 0);
    assert_int_equal(ring_attach_consumer(&shared->ring, SLOTS, PAYLOAD, &traced_consumer), 0);
    for (int i = 0; i < 3 * SLOTS; i++) {
        unsigned steps = step_through(shared, traced_publish);
        if (steps == 0) {
            print_message("no ptrace on this system\n");
            skip();
        }
        traced_producer.own++; // the child's copy moved, ours did not
        assert_int_equal(ring_published(&shared->ring), traced_producer.own);
        assert_true(step_through(shared, traced_release) > 0);
        traced_consumer.own++;
        assert_int_equal(atomic_load(&shared->ring.head), traced_consumer.own);
        if (i == 0) printf("%u instructions of a publish\n", steps);
    }
    shared_free(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_gives_slots_in_order_and_no_more_than_it_has),
        cmocka_unit_test(test_ring_refuses_impossible_counters),
        cmocka_unit_test(test_ring_counters_wrap),
        cmocka_unit_test(test_ring_carries_everything_between_threads),
        cmocka_unit_test(test_wake_times_out_and_needs_no_syscall_to_notify_nobody),
        cmocka_unit_test(test_ring_survives_kills_of_either_side),
        cmocka_unit_test(test_ring_is_whole_after_every_instruction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
