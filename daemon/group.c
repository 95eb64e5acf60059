/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/group.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/shm/weights.h"
#include "daemon/process.h"
#include "daemon/ranks.h"

enum {
    BACKOFF_MS_FIRST = 0, // a first death is answered at once
    BACKOFF_MS_MIN = 100,
    BACKOFF_MS_MAX = 10000,
    STABLE_MS = 10000,  // ready for so long: the next back-off starts anew
    STOP_MS_MAX = 5000, // then SIGKILL
    STALL_CHECK_MS = 1000,
    ARGV_TEXT_BYTES = 32,
    ARGV_COUNT_MAX = 28,
    ENVP_COUNT_MAX = 128,
};

struct group {
    struct group_conf conf;
    char *instance, *worker_path, *model_path, *cpus, *hosts; // owned copies
    enum group_state state;
    struct link *link;
    struct process process;
    struct ranks *ranks;          // NULL: one rank
    int exit_status, exit_signal; // of the process, while its ranks are still to go
    uv_async_t wake;              // from the waiter thread
    uv_timer_t timer;             // back-off, or the limit of stopping
    uv_timer_t stall;             // runs only while a step is in flight
    uv_thread_t waiter;
    _Atomic bool waiter_stop; // set (release) by the loop, read (acquire) by the waiter
    uint32_t backoff_ms;
    uint64_t ready_ns; // of the last READY
    uint64_t step_ns;  // when the plan in flight was pushed; 0: none
    uint64_t restarts;
    /* (rank_count). Weights that nobody uses are removed by whoever starts next; between two lives of our workers we
     * use them. */
    struct weights_hold weights[RANKS_MAX];
    bool ever_ready;
    bool wild;   // how the last life ended: group_is_wild
    bool useful; // this life has answered a step
    uint32_t progress;
    char killed_for[256];  // why we killed it ourselves, "" otherwise
    uint32_t handles_open; // of wake, timer, stall, and the process's while it is closing
    bool freeing;
    void (*on_freed)(void *owner);
};

static bool edge_exists(enum group_state from, enum group_state to)
{
#define X(a, b, why) \
    if (from == GROUP_##a && to == GROUP_##b) return true;
    GROUP_EDGES(X)
#undef X
    return false;
}

static void group_move(struct group *group, enum group_state to)
{
    CHECK(edge_exists(group->state, to));
    group->state = to;
}

/* ---- the waiter thread ---- */

static void waiter_main(void *arg)
{
    struct group *group = arg;
    while (!atomic_load_explicit(&group->waiter_stop, memory_order_acquire)) {
        (void)link_daemon_wait(group->link, UINT64_MAX); // whatever woke it: look again
        uv_async_send(&group->wake);
    }
}

/* ---- start, ready, death ---- */

static void process_exited(struct process *process, int status, int signal);
static void backoff_over(uv_timer_t *timer);

/* What a worker may see of our environment: nothing but what it is documented to read. Nothing of a batch system
 * (SLURM_*, PMI_*) on one host: mpirun would take its hosts and slots from there, and srun to start ranks. On several
 * it shall. */
static void environment_fill(bool is_spread, char **envp, size_t count)
{
    static const char *const names[] = {
        "KVASIR_KERNELS=", "KVASIR_DIST=",  "ASAN_OPTIONS=", "UBSAN_OPTIONS=",
        "TSAN_OPTIONS=",   "LSAN_OPTIONS=", "LANG=",         "LD_LIBRARY_PATH=",
        "JOURNAL_STREAM=", "OMPI_",         "PATH=",         "HOME=", // with the two before: Open MPI's
        "SLURM_",          "SSH_AUTH_SOCK="};                         // of several hosts
    const size_t name_count = COUNT_OF(names) - (is_spread ? 0 : 2);
    extern char **environ;
    size_t used = 0;
    for (char **entry = environ; *entry && used + 1 < count; entry++)
        for (size_t i = 0; i < name_count; i++)
            if (strncmp(*entry, names[i], strlen(names[i])) == 0) envp[used++] = *entry;
    envp[used] = NULL;
}

static int worker_start(struct group *group, struct err *err)
{
    char group_text[ARGV_TEXT_BYTES], threads[ARGV_TEXT_BYTES], pid[ARGV_TEXT_BYTES], ranks[ARGV_TEXT_BYTES];
    char *envp[ENVP_COUNT_MAX];
    (void)snprintf(ranks, sizeof ranks, "%" PRIu32, group->conf.rank_count);
    (void)snprintf(group_text, sizeof group_text, "%" PRIu32, group->conf.group_idx); // all fit
    (void)snprintf(threads, sizeof threads, "%" PRIu32, group->conf.threads);
    (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
    const char *argv[ARGV_COUNT_MAX] = {
        group->worker_path, "--instance",      group->instance, "--group", group_text,     "--ranks", ranks,
        "--model",          group->model_path, "--threads",     threads,   "--daemon-pid", pid};
    size_t used = 13; // of those above
    if (group->conf.pin_threads) argv[used++] = "--pin";
    if (group->conf.private_weights) argv[used++] = "--private-weights";
    if (group->ranks) {
        argv[used++] = "--launch";
        argv[used++] = "--session-dir";
        argv[used++] = ranks_directory(group->ranks);
        if (group->hosts[0]) {
            argv[used++] = "--hosts";
            argv[used++] = group->hosts;
        }
    }
    if (group->cpus[0]) {
        argv[used++] = "--cpus";
        argv[used++] = group->cpus;
    }
    CHECK(used < ARGV_COUNT_MAX && argv[used] == NULL);
    environment_fill(group->hosts[0] != '\0', envp, COUNT_OF(envp));
    group->progress = 0;
    group->killed_for[0] = 0;
    group->useful = false;
    int r = group->ranks ? ranks_begin(group->ranks, err) : 0;
    if (r == 0) r = process_start(group->conf.loop, &group->process, argv, envp, err);
    if (group->ranks && r == 0) ranks_launched(group->ranks, group->process.pid);
    else if (group->ranks) ranks_rest(group->ranks);
    return r;
}

/* All that is there of the process and its ranks. */
static void processes_kill(struct group *group)
{
    (void)process_signal(&group->process, SIGKILL); // gone already is fine too
    if (group->ranks) ranks_kill(group->ranks);
}

static void backoff_start(struct group *group)
{
    uint64_t now_ns = clock_mono_ns();
    bool stable = group->ready_ns && now_ns - group->ready_ns > STABLE_MS * NS_PER_MS;
    if (stable || group->useful) group->backoff_ms = BACKOFF_MS_FIRST;
    uv_timer_start(&group->timer, backoff_over, group->backoff_ms, 0);
    group->backoff_ms = group->backoff_ms * 2 < BACKOFF_MS_MIN ? BACKOFF_MS_MIN : group->backoff_ms * 2;
    if (group->backoff_ms > BACKOFF_MS_MAX) group->backoff_ms = BACKOFF_MS_MAX;
}

static void backoff_over(uv_timer_t *timer)
{
    struct group *group = timer->data;
    struct err err = {0};
    if (group->process.closing) { // the old handle is not closed yet: next turn of the loop
        uv_timer_start(&group->timer, backoff_over, 1, 0);
        return;
    }
    group_move(group, GROUP_STARTING);
    group->restarts++;
    if (worker_start(group, &err) == 0) return;
    group->wild = false; // there was nobody
    group_move(group, GROUP_WAITING);
    group->conf.callbacks->on_lost(group->conf.owner, err.text);
    backoff_start(group);
}

/* Of several hosts: mpirun ended before it had started any rank, so that none could say why. */
static bool launch_failed(const struct group *group)
{
    struct rank_status rank;
    link_rank_status(group->link, 0, &rank);
    return group->hosts[0] && !group->killed_for[0] && rank.pid == 0;
}

static void death_describe(struct group *group, int status, int signal, char *text, size_t text_bytes)
{
    struct rank_status rank;
    uint32_t failed = 0;
    do link_rank_status(group->link, failed++, &rank);
    while (rank.state != RANK_FAILED && failed < group->conf.rank_count);
    if (rank.state == RANK_FAILED && rank.panic[0])
        (void)snprintf(text, text_bytes, "%s", rank.panic); // may be cut
    else if (group->killed_for[0]) (void)snprintf(text, text_bytes, "killed: %s", group->killed_for);
    else if (launch_failed(group))
        (void)snprintf(text, text_bytes, "mpirun started no rank (status %d): can it reach every host of %s?",
                       status, group->hosts);
    else if (signal) (void)snprintf(text, text_bytes, "killed by signal %d (%s)", signal, strsignal(signal));
    else (void)snprintf(text, text_bytes, "exited with status %d", status);
}

/* The process is gone, and of several ranks all. */
static void group_died(struct group *group, int status, int signal)
{
    char text[LINK_PANIC_BYTES];
    death_describe(group, status, signal, text, sizeof text);
    /* Of another host nobody knows what is left: its memory may be new. */
    group->wild = group->hosts[0] || group->killed_for[0] || (signal != SIGKILL && signal != SIGTERM);
    group_step_end(group);
    if (group->ranks) ranks_rest(group->ranks);
    if (group->state == GROUP_STOPPING) {
        uv_timer_stop(&group->timer);
        group_move(group, GROUP_STOPPED);
        group->conf.callbacks->on_stopped(group->conf.owner);
        return;
    }
    if (!group->ever_ready) {
        if (launch_failed(group)) status = err_exit_status(ERR_CONFIG);
        group_move(group, GROUP_FAILED);
        group->conf.callbacks->on_failed(group->conf.owner, signal || status == 0 ? 70 : status, text);
        return;
    }
    group_move(group, GROUP_WAITING);
    group->conf.callbacks->on_lost(group->conf.owner, text);
    link_reset(group->link);
    if (group->state == GROUP_WAITING) backoff_start(group);
}

static void process_exited(struct process *process, int status, int signal)
{
    struct group *group = process->owner;
    group->exit_status = status;
    group->exit_signal = signal;
    if (group->ranks) ranks_end(group->ranks); // group_died follows
    else group_died(group, status, signal);
}

static void ranks_gone(void *owner)
{
    struct group *group = owner;
    group_died(group, group->exit_status, group->exit_signal);
}

/* One that failed before it was ever ready has said why: its exit status is to come through mpirun. */
static void ranks_trouble(void *owner, const char *what)
{
    struct group *group = owner;
    struct rank_status rank;
    if (group->state == GROUP_STOPPING) return;
    for (uint32_t i = 0; i < group->conf.rank_count; i++) {
        link_rank_status(group->link, i, &rank);
        if (rank.state == RANK_FAILED && !group->ever_ready) return;
    }
    if (!group->killed_for[0]) (void)snprintf(group->killed_for, sizeof group->killed_for, "%s", what);
    processes_kill(group);
}

static void ready_look(struct group *group)
{
    struct rank_status rank;
    uint32_t ready_count = 0, progress = 1000; // of the slowest
    if (group->ranks) ranks_look(group->ranks);
    if (group->state != GROUP_STARTING) return;
    for (uint32_t i = 0; i < group->conf.rank_count; i++) {
        link_rank_status(group->link, i, &rank);
        ready_count += rank.state == RANK_READY;
        if (i < group->conf.local_count && rank.progress_permille < progress)
            progress = rank.progress_permille;
    }
    if (ready_count < group->conf.rank_count) {
        if (progress == group->progress) return;
        group->progress = progress;
        group->conf.callbacks->on_progress(group->conf.owner, progress);
        return;
    }
    group_move(group, GROUP_READY);
    group->ever_ready = true;
    for (uint32_t i = 0; i < group->conf.local_count; i++) {
        link_rank_status(group->link, i, &rank);
        weights_hold(&group->weights[i], rank.weights, i);
    }
    group->ready_ns = clock_mono_ns();
    group->conf.callbacks->on_ready(group->conf.owner);
}

static void woken(uv_async_t *wake)
{
    struct group *group = wake->data;
    ready_look(group);
    if (group->state == GROUP_READY) group->conf.callbacks->on_done(group->conf.owner);
}

/* ---- stalls: a step without a sign of life ---- */

static void stall_look(uv_timer_t *timer)
{
    struct group *group = timer->data;
    struct rank_status rank;
    link_rank_status(group->link, 0, &rank);
    uint64_t sign_ns = rank.heartbeat_ns > group->step_ns ? rank.heartbeat_ns : group->step_ns;
    uint64_t now_ns = clock_mono_ns();
    if (group->step_ns == 0 || now_ns < sign_ns || now_ns - sign_ns < group->conf.stall_ns_max) return;
    (void)snprintf(group->killed_for, sizeof group->killed_for, "no heartbeat for %" PRIu64 " s",
                   (now_ns - sign_ns) / NS_PER_S);
    processes_kill(group);
}

void group_step_begin(struct group *group)
{
    group->step_ns = clock_mono_ns();
    if (group->ranks) ranks_step(group->ranks, true);
    if (group->conf.stall_ns_max && !uv_is_active((uv_handle_t *)&group->stall))
        uv_timer_start(&group->stall, stall_look, STALL_CHECK_MS, STALL_CHECK_MS);
}

void group_step_done(struct group *group)
{
    group->useful = true;
    if (group->ranks) ranks_step_good(group->ranks);
    group_step_end(group);
}

void group_step_end(struct group *group)
{
    group->step_ns = 0;
    if (group->ranks) ranks_step(group->ranks, false);
    uv_timer_stop(&group->stall);
}

/* ---- life of the group itself ---- */

static void handle_gone(struct group *group)
{
    if (--group->handles_open > 0) return;
    for (uint32_t i = 0; i < RANKS_MAX; i++) weights_release(&group->weights[i]);
    void (*on_freed)(void *) = group->on_freed;
    void *owner = group->conf.owner;
    free(group->instance);
    free(group->worker_path);
    free(group->model_path);
    free(group->cpus);
    free(group->hosts);
    free(group);
    if (on_freed) on_freed(owner);
}

static void ranks_freed(void *owner)
{
    handle_gone(owner);
}

static void handle_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

static void process_closed(struct process *process)
{
    struct group *group = process->owner;
    if (group->freeing) handle_gone(group);
}

static int handles_init(struct group *group)
{
    int r = uv_async_init(group->conf.loop, &group->wake, woken);
    if (r < 0) return r;
    (void)uv_timer_init(group->conf.loop, &group->timer); // cannot fail
    (void)uv_timer_init(group->conf.loop, &group->stall); // cannot fail
    group->wake.data = group->timer.data = group->stall.data = group;
    group->handles_open = 3;
    return 0;
}

static int ranks_make(struct group *group, struct err *err)
{
    const struct ranks_conf conf = {
        .loop = group->conf.loop,
        .instance = group->instance,
        .group_idx = group->conf.group_idx,
        .rank_count = group->conf.local_count,
        .is_spread = group->hosts[0] != '\0',
        .epoch = group->conf.epoch,
        .shape = group->conf.shape,
        .link = group->link,
        .on_trouble = ranks_trouble,
        .on_gone = ranks_gone,
        .owner = group,
    };
    return ranks_new(&conf, &group->ranks, err);
}

int group_new(const struct group_conf *conf, struct group **ret_group, struct err *err)
{
    struct group *group = calloc(1, sizeof *group);
    if (!group) return ERR(err, -ENOMEM, "out of memory");
    group->conf = *conf;
    for (uint32_t i = 0; i < RANKS_MAX; i++) group->weights[i].fd = -1;
    group->instance = strdup(conf->instance);
    group->worker_path = strdup(conf->worker_path);
    group->model_path = strdup(conf->model_path);
    group->cpus = strdup(conf->cpus);
    group->hosts = strdup(conf->hosts);
    group->process = (struct process){
        .pidfd = -1, .on_exit = process_exited, .on_closed = process_closed, .owner = group};
    bool has_texts = group->instance && group->worker_path && group->model_path && group->cpus &&
                     group->hosts;
    int r = has_texts ? 0 : ERR(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = link_create(conf->instance, conf->group_idx, conf->rank_count, conf->epoch, &conf->limits,
                        &group->link, err);
    if (r == 0 && conf->rank_count > 1) r = ranks_make(group, err);
    if (r == 0 && (r = handles_init(group)) < 0) ERR(err, r, "event loop: %s", uv_strerror(r));
    if (r < 0) {
        if (group->ranks) ranks_free(group->ranks, NULL);
        link_close(group->link);
        free(group->instance);
        free(group->worker_path);
        free(group->model_path);
        free(group->cpus);
        free(group->hosts);
        free(group);
        return r;
    }
    r = uv_thread_create(&group->waiter, waiter_main, group);
    CHECK(r == 0); // at start, with nothing else running: not a state to go on from
    *ret_group = group;
    return 0;
}

int group_start(struct group *group, struct err *err)
{
    int r = worker_start(group, err);
    if (r == 0) group_move(group, GROUP_STARTING);
    return r;
}

static void stop_overdue(uv_timer_t *timer)
{
    struct group *group = timer->data;
    processes_kill(group);
}

static void stopped_later(uv_timer_t *timer)
{
    struct group *group = timer->data;
    group->conf.callbacks->on_stopped(group->conf.owner);
}

void group_stop(struct group *group)
{
    if (group->state == GROUP_STOPPING) return;
    if (group->state == GROUP_STARTING || group->state == GROUP_READY) {
        group_move(group, GROUP_STOPPING);
        link_stop(group->link);
        uv_timer_start(&group->timer, stop_overdue, STOP_MS_MAX, 0);
        return;
    }
    if (group->state == GROUP_WAITING) group_move(group, GROUP_STOPPED);
    uv_timer_start(&group->timer, stopped_later, 0, 0);
}

void group_kill(struct group *group, const char *why)
{
    (void)snprintf(group->killed_for, sizeof group->killed_for, "it answered with invalid data: %s",
                   why); // may be cut
    processes_kill(group);
}

void group_replace(struct group *group, const char *why)
{
    (void)snprintf(group->killed_for, sizeof group->killed_for, "%s", why); // may be cut
    processes_kill(group);
}

void group_free(struct group *group, void (*on_freed)(void *owner))
{
    CHECK(group->state == GROUP_STOPPED || group->state == GROUP_FAILED);
    CHECK(!process_running(&group->process));
    atomic_store_explicit(&group->waiter_stop, true, memory_order_release);
    link_interrupt(group->link);
    (void)uv_thread_join(&group->waiter); // it is ours and joined once
    link_close(group->link);
    (void)link_unlink(group->instance, group->conf.group_idx); // a name that is gone is what we want
    group->on_freed = on_freed;
    group->freeing = true;
    group->handles_open += group->process.closing;
    if (group->ranks) {
        group->handles_open++;
        ranks_free(group->ranks, ranks_freed);
    }
    uv_close((uv_handle_t *)&group->wake, handle_closed);
    uv_close((uv_handle_t *)&group->timer, handle_closed);
    uv_close((uv_handle_t *)&group->stall, handle_closed);
}

enum group_state group_state(const struct group *group)
{
    return group->state;
}

struct link *group_link(struct group *group)
{
    return group->link;
}

void group_note(const struct group *group, char *text, size_t text_bytes)
{
    struct rank_status rank;
    link_rank_status(group->link, 0, &rank);
    (void)snprintf(text, text_bytes, "%s", rank.panic); // may be cut
}

int64_t group_pid(const struct group *group)
{
    return group->process.pid;
}

bool group_is_wild(const struct group *group)
{
    return group->wild;
}

uint64_t group_producer(const struct group *group)
{
    struct rank_status rank;
    link_rank_status(group->link, 0, &rank);
    return rank.producer;
}

uint64_t group_restarts(const struct group *group)
{
    return group->restarts;
}
