/* SPDX-License-Identifier: Apache-2.0 */
/* team - see team.h.
 *
 * The pieces of a job are cut into ranges of neighbours, one a lane. A thread takes those of its own lane in
 * turn, then what others left of theirs: so what a piece asks the memory for ahead is what its thread reads next.
 * (Handed out from one counter, two threads that began within a microsecond soon swapped their turns.)
 *
 * The word of a lane holds both the end of its pieces and the next one, so that one fetch-add gives a
 * consistent answer: a late thread that adds to the word of a job it never saw either gets a real piece of
 * that job or learns that there is none. Having found nothing in some lanes it comes back for them: `job` changes
 * after all lanes did.
 *
 *   63            32 31             0
 *   | end of pieces | next piece    |
 *
 * `next` runs at most one past the end per thread and job, and the caller rewrites the word at each
 * job, so it cannot carry into the end.
 *
 *   R1  fn and arg are written before any lane is (release) and read after a piece was taken from one
 *       (acquire). They cannot change while a piece of their job is unfinished.
 *   R2  the caller leaves team_run when `finished` (release adds of the threads, acquire load of the
 *       caller) reaches the count. Threads that took nothing are not waited for.
 *   R3  sleeping is Dekker's pattern: the sleeper announces itself, then looks again; the waker changes
 *       the state, then looks for sleepers. All four are seq_cst. */
#define _GNU_SOURCE
#include "worker/team.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/base/limits.h"
#include "worker/relax.h"

enum {
    SPIN_NS_MAX = 50000, // about the price of a sleep and a wake
    SPIN_NS_MIN = 2000,
    SPIN_LOOKS = 32,              // looks between two readings of the clock
    TEAM_LANES_MAX = 16,          // a thread looks at all of them before it stops
    STACK_BYTES = 2 * 1024 * 1024 // kernels keep tiles of a few hundred KiB on the stack
};

struct lane {
    _Alignas(CACHELINE_BYTES) _Atomic uint64_t word;
};

struct helper { // one thread of the team, but for the caller
    struct team *team;
    uint32_t index; // 1..; the caller is 0
    pthread_t thread;
};

struct team {
    struct lane lanes[TEAM_LANES_MAX];                   // thread i begins with lane i % lane_count
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t finished; // pieces done of the current job
    _Atomic uint32_t caller_sleeps;                      // 0 or 1
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t job;      // futex word: changes with every job and at stop
    _Atomic uint32_t sleepers;                           // threads asleep on `job`, or about to be
    _Atomic bool stop;

    _Alignas(CACHELINE_BYTES) void (*fn)(void *arg, uint32_t piece); // R1
    void *arg;                                                       // R1
    uint32_t piece_count;                                            // R1
    uint32_t caller_spin_ns;                                         // the caller's budget
    uint32_t spin_ns_max;                                            // 0: never spin
    uint32_t threads, lane_count;
    struct helper *helpers; // (threads - 1), owned
    uint32_t helper_count;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0); // a wake means: look again
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0); // count woken: no use
}

/* Spins until ready(team, value) or the budget is gone, and moves the budget: doubled when it paid, halved
 * when it did not. A gap in the clock far longer than the looks need means that the core was taken away:
 * others need it, so the spin ends. */
static bool spin(struct team *team, bool (*ready)(struct team *, uint32_t), uint32_t value,
                 uint32_t *budget_ns)
{
    if (ready(team, value)) return true;
    if (team->spin_ns_max == 0) return false;
    uint64_t start = clock_mono_ns();
    uint64_t now = start;
    while (now - start < *budget_ns) {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (ready(team, value)) {
                *budget_ns = *budget_ns * 2 < team->spin_ns_max ? *budget_ns * 2 : team->spin_ns_max;
                return true;
            }
            relax();
        }
        now = clock_mono_ns();
    }
    *budget_ns = *budget_ns / 2 > SPIN_NS_MIN ? *budget_ns / 2 : SPIN_NS_MIN;
    return ready(team, value);
}

/* Takes and runs pieces of a lane until there are none. */
static void work_lane(struct team *team, struct lane *lane)
{
    for (;;) {
        /* Look before adding, so that spinning threads do not fight for the line. Partner: team_run. */
        uint64_t word = atomic_load_explicit(&lane->word, memory_order_relaxed);
        if ((uint32_t)word >= word >> 32) return;
        word = atomic_fetch_add_explicit(&lane->word, 1, memory_order_acquire); // R1
        uint32_t piece = (uint32_t)word;
        if (piece >= word >> 32) return;
        const uint32_t count = team->piece_count; // the caller may be gone once all are finished
        team->fn(team->arg, piece);
        uint32_t done = atomic_fetch_add_explicit(&team->finished, 1, memory_order_seq_cst) + 1; // R2, R3
        if (done == count && atomic_load_explicit(&team->caller_sleeps, memory_order_seq_cst))   // R3
            futex_wake_all(&team->finished);
    }
}

static void work(struct team *team, uint32_t thread)
{
    for (uint32_t i = 0; i < team->lane_count; i++)
        work_lane(team, &team->lanes[(thread + i) % team->lane_count]);
}

static bool job_changed(struct team *team, uint32_t seen)
{
    return atomic_load_explicit(&team->job, memory_order_acquire) != seen; // partner: team_run
}

static bool job_finished(struct team *team, uint32_t count)
{
    return atomic_load_explicit(&team->finished, memory_order_acquire) == count; // R2
}

static void *helper(void *arg)
{
    const struct helper *self = arg;
    struct team *team = self->team;
    uint32_t budget_ns = SPIN_NS_MIN;
    uint32_t seen = 0;
    for (;;) {
        if (!spin(team, job_changed, seen, &budget_ns)) {
            atomic_fetch_add_explicit(&team->sleepers, 1, memory_order_seq_cst); // R3
            while (atomic_load_explicit(&team->job, memory_order_seq_cst) == seen)
                futex_wait(&team->job, seen);
            atomic_fetch_sub_explicit(&team->sleepers, 1, memory_order_seq_cst);
        }
        seen = atomic_load_explicit(&team->job, memory_order_acquire); // partner: team_run
        if (atomic_load_explicit(&team->stop, memory_order_relaxed)) return NULL;
        work(team, self->index);
    }
}

static void announce(struct team *team)
{
    atomic_fetch_add_explicit(&team->job, 1, memory_order_seq_cst);                                  // R3
    if (atomic_load_explicit(&team->sleepers, memory_order_seq_cst) > 0) futex_wake_all(&team->job); // R3
}

void team_run(struct team *team, void (*fn)(void *arg, uint32_t piece), void *arg, uint32_t piece_count)
{
    CHECK(piece_count <= TEAM_PIECES_MAX);
    if (piece_count == 0) return;
    if (piece_count == 1 || team->helper_count == 0) {
        for (uint32_t piece = 0; piece < piece_count; piece++) fn(arg, piece);
        return;
    }
    team->fn = fn;
    team->arg = arg;
    team->piece_count = piece_count;
    atomic_store_explicit(&team->finished, 0, memory_order_relaxed); // by R1's stores
    uint64_t first = 0;
    for (uint32_t i = 0; i < team->lane_count; i++) {
        uint64_t end = (uint64_t)piece_count * (i + 1) / team->lane_count;
        atomic_store_explicit(&team->lanes[i].word, end << 32 | first, memory_order_release); // R1
        first = end;
    }
    announce(team);
    work(team, 0);
    if (spin(team, job_finished, piece_count, &team->caller_spin_ns)) return;
    atomic_store_explicit(&team->caller_sleeps, 1, memory_order_seq_cst); // R3
    for (;;) {
        uint32_t done = atomic_load_explicit(&team->finished, memory_order_seq_cst);
        if (done == piece_count) break;
        futex_wait(&team->finished, done);
    }
    atomic_store_explicit(&team->caller_sleeps, 0, memory_order_relaxed);
}

/* Pins `thread` to the index-th of the CPUs, of which those of different cores come first. Not being able to is
 * no fault: it stays where the kernel puts it. */
static void pin(pthread_t thread, const struct cpus *allowed, uint32_t index)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(allowed->ids[index % allowed->count], &one);
    (void)pthread_setaffinity_np(thread, sizeof(one), &one);
}

static int start_helpers(struct team *team, bool pinned, const struct cpus *allowed, struct err *err)
{
    pthread_attr_t attr;
    int r = pthread_attr_init(&attr);
    if (r != 0) return err_sys(err, r, "thread team");
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES); // fails only for sizes below the minimum
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); // helpers take no signals: the main thread does
    for (uint32_t i = 0; i + 1 < team->threads && r == 0; i++) {
        struct helper *next = &team->helpers[i];
        *next = (struct helper){.team = team, .index = i + 1};
        r = pthread_create(&next->thread, &attr, helper, next);
        if (r != 0) break;
        team->helper_count++;
        if (pinned) pin(next->thread, allowed, i + 1);
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL); // cannot fail with a valid how
    (void)pthread_attr_destroy(&attr);
    if (r != 0) return err_sys(err, r, "thread %u of the team", team->helper_count + 1);
    if (pinned) pin(pthread_self(), allowed, 0);
    return 0;
}

int team_new(const struct team_conf *conf, struct team **ret_team, struct err *err)
{
    if (conf->threads == 0 || conf->threads > TEAM_THREADS_MAX)
        return ERR(err, ERR_CONFIG, "threads must be 1..%d, is %u", TEAM_THREADS_MAX, conf->threads);
    struct team *team = aligned_alloc(CACHELINE_BYTES, sizeof(*team));
    if (team == NULL) return err_sys(err, ENOMEM, "thread team");
    *team = (struct team){.threads = conf->threads,
                          .lane_count = conf->threads < TEAM_LANES_MAX ? conf->threads : TEAM_LANES_MAX,
                          .caller_spin_ns = SPIN_NS_MIN};
    team->helpers = calloc(conf->threads, sizeof(*team->helpers));
    if (team->helpers == NULL) {
        free(team);
        return err_sys(err, ENOMEM, "thread team");
    }
    struct cpus allowed;
    cpus_allowed(&allowed);
    /* A spin takes from who could work: a thread of ours without a core, or what is left of a quota. */
    bool has_cores = allowed.count >= conf->threads && cpus_quota_milli("") / 1000 >= conf->threads;
    if (has_cores) team->spin_ns_max = SPIN_NS_MAX;
    int r = start_helpers(team, conf->pin, &allowed, err);
    if (r < 0) {
        team_free(team);
        return r;
    }
    *ret_team = team;
    return 0;
}

void team_free(struct team *team)
{
    if (team == NULL) return;
    atomic_store_explicit(&team->stop, true, memory_order_relaxed); // ordered by announce
    announce(team);
    for (uint32_t i = 0; i < team->helper_count; i++)
        (void)pthread_join(team->helpers[i].thread, NULL); // ours
    free(team->helpers);
    free(team);
}

uint32_t team_threads(const struct team *team)
{
    return team->threads;
}
