/* SPDX-License-Identifier: Apache-2.0 */
/* See ranks.h. One epoll descriptor holds all pidfds, and is what the loop polls: one handle for any number of ranks.
 *
 * A step counts as stuck after STUCK_NS_MIN without progress; a machine that is merely slow would be killed for ever,
 * so that each such end doubles the time for the next, until a step is answered. */
#include "daemon/ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/shm/owner.h"
#include "common/shm/segment.h"

enum {
    LOOK_MS = 400,
    STOPPED_LOOKS = 2, // one may have met a debugger's or a shell's passing stop
    DIRECTORY_BYTES = 256,
    WHAT_BYTES = 96,
};
#define STUCK_NS_MIN (1800 * NS_PER_MS)
#define STUCK_NS_MAX (60 * NS_PER_S)
#define START_NS_MAX (60 * NS_PER_S) // for other hosts to take up the launch, ssh and all

struct rank_watch {
    int64_t pid; // 0: none
    int pidfd;   // -1: none, or gone
    uint32_t stopped_looks;
};

struct ranks {
    struct ranks_conf conf;
    struct segment exchange; // owned
    char directory[DIRECTORY_BYTES];
    struct rank_watch watches[RANKS_MAX + 1]; // the last: mpirun, without a pidfd of ours
    uint32_t alive_count;                     // ranks with a pidfd
    int epoll_fd;
    uv_poll_t poll; // of epoll_fd
    uv_timer_t look;
    uint32_t handles_open;
    uint64_t progress, progress_ns; // barriers of all ranks, and when they last grew
    uint64_t stuck_ns;
    uint64_t begin_ns; // of a life of which no rank has come yet; 0: one has
    bool stepping, ending, troubled;
    void (*on_freed)(void *owner);
};

static struct rank_watch *launcher(struct ranks *ranks)
{
    return &ranks->watches[ranks->conf.rank_count];
}

/* ---- the directory ---- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)st;
    (void)kind;
    (void)walk;
    (void)remove(path); // what stays is removed next time
    return 0;
}

static void directory_remove(const char *path)
{
    enum { FILES_OPEN = 8 };
    (void)nftw(path, remove_one, FILES_OPEN, FTW_DEPTH | FTW_PHYS); // there may be none
}

static int directory_make(const char *path, struct err *err)
{
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (st.st_uid != geteuid() || !S_ISDIR(st.st_mode)) return ERR(err, -EPERM, "%s is not ours", path);
        directory_remove(path);
    }
    return mkdir(path, 0700) < 0 ? err_sys(err, errno, "%s", path) : 0;
}

/* Where systemd or a login gave us room that goes with us; else, and for a group that is spread, /tmp.
 * out: (DIRECTORY_BYTES) */
static void directory_name(const char *instance, uint32_t group_idx, bool is_spread, char *out)
{
    static const char *const variables[] = {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"};
    const char *base = "/tmp";
    for (size_t i = is_spread ? 0 : COUNT_OF(variables); i-- > 0;) {
        const char *value = getenv(variables[i]);
        if (value && value[0] == '/' && strlen(value) < DIRECTORY_BYTES / 2 && access(value, W_OK) == 0)
            base = value;
    }
    (void)snprintf(out, DIRECTORY_BYTES, "%s/kvasir-%s-ranks.%" PRIu32, base, instance, group_idx); // fits
}

static void exchange_part(uint32_t group_idx, char part[static 32])
{
    (void)snprintf(part, 32, "exchange.%" PRIu32, group_idx); // fits
}

void ranks_sweep(const char *instance, uint32_t group_idx)
{
    char path[DIRECTORY_BYTES], part[32];
    struct stat st;
    exchange_part(group_idx, part);
    (void)link_kill_ranks(instance, group_idx);
    (void)link_unlink(instance, group_idx);
    (void)segment_unlink(instance, part);
    for (int is_spread = 0; is_spread <= 1; is_spread++) {
        directory_name(instance, group_idx, is_spread, path);
        if (lstat(path, &st) == 0 && st.st_uid == geteuid() && S_ISDIR(st.st_mode)) directory_remove(path);
    }
}

int ranks_directory_make(const char *instance, uint32_t group_idx, struct err *err)
{
    char path[DIRECTORY_BYTES];
    directory_name(instance, group_idx, true, path);
    return directory_make(path, err);
}

const char *ranks_directory(const struct ranks *ranks)
{
    return ranks->directory;
}

/* ---- who is there ---- */

static void trouble(struct ranks *ranks, const char *what)
{
    if (ranks->ending || ranks->troubled) return;
    ranks->troubled = true;
    ranks->conf.on_trouble(ranks->conf.owner, what);
}

static void watch_close(struct ranks *ranks, struct rank_watch *watch)
{
    if (watch->pidfd < 0) return;
    (void)epoll_ctl(ranks->epoll_fd, EPOLL_CTL_DEL, watch->pidfd, NULL); // it goes with the descriptor too
    (void)close(watch->pidfd);
    watch->pidfd = -1;
    ranks->alive_count--;
}

/* rank: of this host's, as in watches. */
static void watch_open(struct ranks *ranks, uint32_t rank)
{
    struct rank_status status;
    struct rank_watch *watch = &ranks->watches[rank];
    link_rank_status(ranks->conf.link, ranks->conf.rank_first + rank, &status);
    if (status.pid <= 0 || status.pid > INT32_MAX || status.pid == watch->pid) return;
    watch_close(ranks, watch);
    watch->pid = status.pid;
    watch->stopped_looks = 0;
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)status.pid, 0);
    if (pidfd < 0) return; // gone: mpirun will tell
    // The descriptor first, then the look: what it refers to is then the process that was looked at.
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = rank};
    if (!owner_is_alive(status.pid, status.start) ||
        epoll_ctl(ranks->epoll_fd, EPOLL_CTL_ADD, pidfd, &event) < 0) {
        (void)close(pidfd); // never written
        return;
    }
    watch->pidfd = pidfd;
    ranks->alive_count++;
}

void ranks_look(struct ranks *ranks)
{
    for (uint32_t rank = 0; rank < ranks->conf.rank_count; rank++) watch_open(ranks, rank);
}

static void some_gone(uv_poll_t *poll, int poll_status, int events)
{
    (void)poll_status; // whatever poll says, epoll_wait knows
    (void)events;
    struct ranks *ranks = poll->data;
    struct epoll_event event;
    char what[WHAT_BYTES];
    while (epoll_wait(ranks->epoll_fd, &event, 1, 0) == 1) {
        watch_close(ranks, &ranks->watches[event.data.u32]);
        (void)snprintf(what, sizeof what, "rank %" PRIu32 " is gone",
                       ranks->conf.rank_first + event.data.u32); // fits
        trouble(ranks, what);
    }
    if (ranks->alive_count > 0 || !ranks->ending) return;
    ranks->ending = false;
    ranks->conf.on_gone(ranks->conf.owner);
}

/* ---- stopped, stuck ---- */

static bool is_stopped(int64_t pid)
{
    char path[64], text[512];
    (void)snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid); // fits
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t len = read(fd, text, sizeof text - 1);
    (void)close(fd); // opened for reading
    text[len > 0 ? len : 0] = '\0';
    const char *state = strrchr(text, ')'); // "PID (comm) S ...": comm may hold anything
    return state && state[1] == ' ' && state[2] == 'T';
}

static void stopped_look(struct ranks *ranks)
{
    char what[WHAT_BYTES];
    for (uint32_t i = 0; i <= ranks->conf.rank_count; i++) {
        struct rank_watch *watch = &ranks->watches[i];
        if (watch->pidfd < 0 && watch != launcher(ranks)) continue;
        if (watch->pid == 0) continue;
        watch->stopped_looks = is_stopped(watch->pid) ? watch->stopped_looks + 1 : 0;
        if (watch->stopped_looks < STOPPED_LOOKS) continue;
        (void)snprintf(what, sizeof what, "process %" PRId64 " (%s) was stopped", watch->pid,
                       watch == launcher(ranks) ? "mpirun" : "a rank"); // fits
        trouble(ranks, what);
    }
}

static void stuck_look(struct ranks *ranks)
{
    char what[WHAT_BYTES];
    uint64_t now_ns = clock_mono_ns(),
             progress = exchange_progress(ranks->exchange.base, ranks->conf.rank_count);
    if (!ranks->stepping || progress != ranks->progress) {
        ranks->progress = progress;
        ranks->progress_ns = now_ns;
    }
    if (now_ns - ranks->progress_ns < ranks->stuck_ns) return;
    (void)snprintf(what, sizeof what, "no rank came to a barrier for %.1f s",
                   (double)(now_ns - ranks->progress_ns) / 1e9); // fits
    if (ranks->stuck_ns < STUCK_NS_MAX) ranks->stuck_ns *= 2;
    trouble(ranks, what);
}

/* mpirun waits for a host that does not answer for ever (its orte_startup_timeout does nothing in 4.1). */
static void start_look(struct ranks *ranks)
{
    char what[WHAT_BYTES];
    if (ranks->alive_count > 0) ranks->begin_ns = 0;
    if (!ranks->conf.is_spread || ranks->begin_ns == 0 || clock_mono_ns() - ranks->begin_ns < START_NS_MAX)
        return;
    (void)snprintf(what, sizeof what, "no rank came within %d s: can every host be reached?",
                   (int)(START_NS_MAX / NS_PER_S)); // fits
    trouble(ranks, what);
}

static void look(uv_timer_t *timer)
{
    struct ranks *ranks = timer->data;
    start_look(ranks);
    stopped_look(ranks);
    stuck_look(ranks);
}

void ranks_step(struct ranks *ranks, bool runs)
{
    ranks->stepping = runs;
    ranks->progress_ns = clock_mono_ns();
}

void ranks_step_good(struct ranks *ranks)
{
    ranks->stuck_ns = STUCK_NS_MIN;
}

/* ---- a life ---- */

int ranks_begin(struct ranks *ranks, struct err *err)
{
    int r = ranks->conf.is_far ? 0 : directory_make(ranks->directory, err);
    if (r < 0) return r;
    exchange_init(ranks->exchange.base, &ranks->conf.shape, ranks->conf.epoch);
    ranks->ending = ranks->troubled = ranks->stepping = false;
    ranks->begin_ns = clock_mono_ns();
    uv_timer_start(&ranks->look, look, LOOK_MS, LOOK_MS);
    return 0;
}

void ranks_launched(struct ranks *ranks, int64_t mpirun_pid)
{
    *launcher(ranks) = (struct rank_watch){.pid = mpirun_pid, .pidfd = -1};
}

void ranks_kill(struct ranks *ranks)
{
    ranks_look(ranks); // one that came just now
    for (uint32_t rank = 0; rank < ranks->conf.rank_count; rank++)
        if (ranks->watches[rank].pidfd >= 0) // gone already is fine too
            (void)syscall(SYS_pidfd_send_signal, ranks->watches[rank].pidfd, SIGKILL, NULL, 0);
}

void ranks_end(struct ranks *ranks)
{
    ranks_kill(ranks);
    ranks->ending = true;
    some_gone(&ranks->poll, 0, 0);
}

void ranks_rest(struct ranks *ranks)
{
    CHECK(ranks->alive_count == 0);
    for (uint32_t i = 0; i <= ranks->conf.rank_count; i++)
        ranks->watches[i] = (struct rank_watch){.pidfd = -1};
    uv_timer_stop(&ranks->look);
    if (!ranks->conf.is_far) directory_remove(ranks->directory); // MPI's daemon may use it yet
}

/* ---- making and freeing ---- */

static void release(struct ranks *ranks)
{
    char part[32];
    void (*on_freed)(void *) = ranks->on_freed;
    void *owner = ranks->conf.owner;
    exchange_part(ranks->conf.group_idx, part);
    segment_close(&ranks->exchange);
    (void)segment_unlink(ranks->conf.instance, part); // a name that is gone is what we want
    if (ranks->epoll_fd >= 0) (void)close(ranks->epoll_fd);
    free(ranks);
    if (on_freed) on_freed(owner);
}

static void handle_closed(uv_handle_t *handle)
{
    struct ranks *ranks = handle->data;
    if (--ranks->handles_open == 0) release(ranks);
}

int ranks_new(const struct ranks_conf *conf, struct ranks **ret_ranks, struct err *err)
{
    char part[32];
    CHECK(conf->rank_count > 0 && conf->rank_count <= RANKS_MAX);
    struct ranks *ranks = calloc(1, sizeof *ranks);
    if (!ranks) return ERR(err, -ENOMEM, "out of memory");
    ranks->conf = *conf;
    ranks->stuck_ns = STUCK_NS_MIN;
    for (uint32_t i = 0; i <= RANKS_MAX; i++) ranks->watches[i].pidfd = -1;
    exchange_part(conf->group_idx, part);
    directory_name(conf->instance, conf->group_idx, conf->is_spread, ranks->directory);
    ranks->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int r = ranks->epoll_fd < 0 ? err_sys(err, errno, "epoll") : 0;
    if (r == 0 && (r = segment_unlink(conf->instance, part)) < 0) err_sys(err, -r, "segment %s", part);
    if (r == 0) r = segment_create(conf->instance, part, exchange_bytes(&conf->shape), &ranks->exchange, err);
    if (r == 0 && (r = uv_poll_init(conf->loop, &ranks->poll, ranks->epoll_fd)) < 0)
        ERR(err, r, "event loop: %s", uv_strerror(r));
    if (r < 0) {
        release(ranks);
        return r;
    }
    (void)uv_timer_init(conf->loop, &ranks->look); // cannot fail
    ranks->poll.data = ranks->look.data = ranks;
    ranks->handles_open = 2;
    r = uv_poll_start(&ranks->poll, UV_READABLE, some_gone);
    CHECK(r == 0); // a fresh handle on a good descriptor
    *ret_ranks = ranks;
    return 0;
}

void ranks_free(struct ranks *ranks, void (*on_freed)(void *owner))
{
    if (!ranks->conf.is_far) directory_remove(ranks->directory);
    ranks->on_freed = on_freed;
    uv_close((uv_handle_t *)&ranks->poll, handle_closed);
    uv_close((uv_handle_t *)&ranks->look, handle_closed);
}
