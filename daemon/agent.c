/* SPDX-License-Identifier: Apache-2.0 */
/* See agent.h. Events only record; turn() decides what follows. */
#include "daemon/agent.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uv.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/ipc/charter.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"
#include "common/shm/weights.h"
#include "daemon/notify.h"
#include "daemon/ranks.h"

enum {
    PEERS_MAX = 8, // connections at once; a leader's lasts as long as it lives
    LOOK_MS = 300,
};
#define RANK_GONE_NS_MAX (10 * NS_PER_S) // to unmap all that it had

struct agent;

/* A connection. */
struct peer {
    struct agent *agent;
    uv_poll_t poll;
    int fd;
    int64_t pid;
    bool has_charter;
    struct charter charter;
};

struct agent {
    uv_loop_t loop;
    const struct conf *conf; // borrowed
    int lock_fd, listen_fd;  // -1: none
    uv_poll_t listen;
    uv_signal_t sigterm, sigint;
    uv_timer_t look;
    uint32_t peer_count;
    struct peer *next;   // its life is to begin; NULL: none
    struct peer *leader; // of the life there is; NULL: it has gone
    struct charter life; // of that life
    struct link *link;   // NULL: there is none
    struct ranks *ranks; // NULL: likewise, or on its way out
    struct weights_hold
        weights[RANKS_MAX];               // of the life, by its ranks: between two lives of them we use them
    bool is_told, is_ending, is_stopping; // told that they are ready
};

static void turn(struct agent *agent);

/* ---- connections ---- */

static void peer_closed(uv_handle_t *handle)
{
    struct peer *peer = handle->data;
    (void)close(peer->fd); // nothing of ours is under way
    peer->agent->peer_count--;
    free(peer);
}

static void peer_close(struct peer *peer)
{
    uv_close((uv_handle_t *)&peer->poll, peer_closed);
}

static void peer_refuse(struct peer *peer, int status, const char *text)
{
    charter_answer(peer->fd, status, text);
    peer_close(peer);
}

/* A whole charter. Another daemon's is not served as long as the one there is has a leader. */
static void peer_arrived(struct peer *peer)
{
    struct agent *agent = peer->agent;
    char text[ERR_TEXT_BYTES];
    if (agent->leader && strcmp(agent->life.head, peer->charter.head) != 0) {
        (void)snprintf(text, sizeof text, "it serves the daemon of %s", agent->life.head); // fits
        peer_refuse(peer, ERR_BUSY, text);
        return;
    }
    if (agent->next) peer_refuse(agent->next, ERR_BUSY, "another life of the ranks has come");
    agent->next = peer;
    turn(agent);
}

static void peer_readable(uv_poll_t *poll, int poll_status, int events)
{
    struct peer *peer = poll->data;
    struct agent *agent = peer->agent;
    struct err err = {0};
    (void)poll_status; // whatever poll says, the socket knows
    (void)events;
    struct charter charter;
    int r = charter_receive(peer->fd, agent->conf->instance, &charter, &err);
    if (r == -EAGAIN) return;
    if (r == 0 && !peer->has_charter) {
        peer->charter = charter;
        peer->has_charter = true;
        peer_arrived(peer);
        return;
    }
    /* A second charter is as good as an end. */
    if (peer == agent->next) agent->next = NULL;
    if (peer == agent->leader) agent->leader = NULL;
    if (!peer->has_charter && r != ERR_PEER_DEAD) {
        log_warn("refused: %s", err.text);
        charter_answer(peer->fd, r, err.text);
    }
    peer_close(peer);
    turn(agent);
}

static void peer_came(uv_poll_t *poll, int poll_status, int events)
{
    struct agent *agent = poll->data;
    int64_t pid;
    int fd;
    (void)poll_status; // as in peer_readable
    (void)events;
    if (charter_accept(agent->listen_fd, &fd, &pid) < 0) return; // nobody, or nobody of ours
    struct peer *peer = agent->peer_count < PEERS_MAX ? calloc(1, sizeof *peer) : NULL;
    if (!peer || uv_poll_init(&agent->loop, &peer->poll, fd) < 0) {
        charter_answer(fd, ERR_FULL, "too many connections");
        (void)close(fd);
        free(peer);
        return;
    }
    agent->peer_count++;
    peer->agent = agent;
    peer->fd = fd;
    peer->pid = pid;
    peer->poll.data = peer;
    int r = uv_poll_start(&peer->poll, UV_READABLE, peer_readable);
    CHECK(r == 0); // a fresh handle on a good descriptor
}

/* ---- segments ---- */

/* One rank's payload, which nobody writes to any more: what there is if it has the size, else made. -> whether it was
 * there. The name keeps it, nothing of ours. */
static int kv_take(const char *instance, const struct pool_geometry *geometry, uint32_t rank, struct err *err)
{
    char part[POOL_PART_BYTES];
    struct segment kv = {.base = NULL};
    int lock_fd;
    uint64_t wanted = pool_rank_page_bytes(geometry, rank) * geometry->page_count; // verified: below 2^63
    pool_payload_part(rank, part);
    int r = segment_open_alone(instance, part, RANK_GONE_NS_MAX, &kv, &lock_fd, err);
    if (r == 0) {
        bool fits = kv.bytes == wanted;
        segment_share(lock_fd);
        segment_close(&kv);
        if (fits) return 1;
        r = segment_unlink(instance, part);
        if (r < 0) return err_sys(err, -r, "%s", part);
    } else if (r != -ENOENT) {
        return r;
    }
    r = segment_create(instance, part, wanted, &kv, err);
    segment_close(&kv);
    return r;
}

/* Payload of ranks that run elsewhere now would lie there for ever. */
static int kv_is_foreign(void *arg, const char *part, size_t bytes)
{
    const struct charter *charter = arg;
    char own[POOL_PART_BYTES];
    (void)bytes;
    if (strncmp(part, "kv.", 3) != 0) return 0;
    for (uint32_t i = 0; i < charter->rank_count; i++) {
        pool_payload_part(charter->rank_first + i, own);
        if (strcmp(part, own) == 0) return 0;
    }
    (void)segment_unlink(charter->instance, part); // what stays is met again
    return 0;
}

/* -> how many ranks' pages were there. */
static int segments_make(struct agent *agent, struct err *err)
{
    struct charter *charter = &agent->life;
    int kept = 0;
    (void)segment_each(charter->instance, kv_is_foreign, charter);
    for (uint32_t i = 0; i < charter->rank_count; i++) {
        int r = kv_take(charter->instance, &charter->geometry, charter->rank_first + i, err);
        if (r < 0) return r;
        kept += r;
    }
    int r = link_create(charter->instance, charter->group, charter->geometry.rank_count, charter->epoch,
                        &charter->limits, &agent->link, err);
    return r < 0 ? r : kept;
}

/* ---- a life ---- */

static void life_end(struct agent *agent, const char *why)
{
    if (!agent->ranks || agent->is_ending) return;
    if (why) log_info("the ranks are ended: %s", why);
    agent->is_ending = true;
    ranks_end(agent->ranks); // ranks_gone follows
}

static void ranks_trouble(void *owner, const char *what)
{
    life_end(owner, what);
}

/* MPI's daemon of a life that is over should have gone with it. One that was stopped, or lost its mpirun behind a cut
 * link, has not yet; the ranks that it started go with it. */
static void launcher_end(const struct charter *life)
{
    if (life->launcher_pid > 1)
        (void)owner_kill(life->launcher_pid, life->launcher_start); // gone is fine too
}

static void life_over(void *owner)
{
    struct agent *agent = owner;
    struct rank_status rank;
    for (uint32_t i = 0; i < agent->life.rank_count; i++) {
        link_rank_status(agent->link, agent->life.rank_first + i, &rank);
        if (rank.state == RANK_FAILED)
            log_warn("rank %" PRIu32 ": %s", agent->life.rank_first + i, rank.panic);
    }
    link_close(agent->link);
    (void)link_unlink(agent->life.instance, agent->life.group); // a name that is gone is what we want
    agent->link = NULL;
    agent->is_ending = agent->is_told = false;
    uv_timer_stop(&agent->look);
    turn(agent);
}

static void ranks_gone(void *owner)
{
    struct agent *agent = owner;
    struct ranks *ranks = agent->ranks;
    if (agent->leader) peer_close(agent->leader);
    agent->leader = NULL;
    agent->ranks = NULL;
    ranks_rest(ranks);
    ranks_free(ranks, life_over);
}

static int ranks_make(struct agent *agent, struct err *err)
{
    const struct ranks_conf conf = {
        .loop = &agent->loop,
        .instance = agent->conf->instance,
        .group_idx = agent->life.group,
        .rank_first = agent->life.rank_first,
        .rank_count = agent->life.rank_count,
        .is_far = true,
        .is_spread = true,
        .epoch = agent->life.epoch,
        .shape = agent->life.shape,
        .link = agent->link,
        .on_trouble = ranks_trouble,
        .on_gone = ranks_gone,
        .owner = agent,
    };
    int r = ranks_new(&conf, &agent->ranks, err);
    return r < 0 ? r : ranks_begin(agent->ranks, err);
}

static void look(uv_timer_t *timer)
{
    struct agent *agent = timer->data;
    struct rank_status rank;
    uint32_t ready_count = 0;
    if (!agent->ranks || agent->is_ending) return;
    ranks_look(agent->ranks);
    for (uint32_t i = 0; !agent->is_told && i < agent->life.rank_count; i++) {
        link_rank_status(agent->link, agent->life.rank_first + i, &rank);
        if (rank.state != RANK_READY) continue;
        ready_count++;
        weights_hold(&agent->weights[i], rank.weights, agent->life.rank_first + i);
    }
    if (agent->is_told || ready_count < agent->life.rank_count) return;
    agent->is_told = true;
    log_info("the ranks are ready");
    notify_status("serving");
}

static void life_begin(struct agent *agent)
{
    struct peer *peer = agent->next;
    struct err err = {0};
    agent->next = NULL;
    if (agent->life.launcher_pid != peer->charter.launcher_pid ||
        agent->life.launcher_start != peer->charter.launcher_start)
        launcher_end(&agent->life);
    for (uint32_t i = 0; i < RANKS_MAX; i++)
        if (agent->life.rank_first != peer->charter.rank_first || i >= peer->charter.rank_count)
            weights_release(&agent->weights[i]);
    agent->life = peer->charter;
    int kept = segments_make(agent, &err), r = kept < 0 ? kept : ranks_make(agent, &err);
    if (r < 0) {
        log_error("%s", err.text);
        peer_refuse(peer, r, err.text);
        if (agent->ranks) ranks_gone(agent);
        else if (agent->link) life_over(agent);
        return;
    }
    agent->leader = peer;
    uv_timer_start(&agent->look, look, LOOK_MS, LOOK_MS);
    charter_answer(peer->fd, 0, "");
    log_info("ranks %" PRIu32 " to %" PRIu32 " of %" PRIu32 ", daemon on %s: %" PRIu32 " pages of %" PRIu64
             " KiB%s",
             agent->life.rank_first, agent->life.rank_first + agent->life.rank_count - 1,
             agent->life.geometry.rank_count, agent->life.head, agent->life.geometry.page_count,
             pool_rank_page_bytes(&agent->life.geometry, agent->life.rank_first) >> 10,
             kept == (int)agent->life.rank_count ? ", those of the life before" : "");
}

/* ---- start and end ---- */

static void handle_close(uv_handle_t *handle, void *arg)
{
    struct agent *agent = arg;
    bool is_peer = handle->type == UV_POLL && handle != (uv_handle_t *)&agent->listen;
    if (!uv_is_closing(handle)) uv_close(handle, is_peer ? peer_closed : NULL);
}

static void handles_close(struct agent *agent)
{
    uv_walk(&agent->loop, handle_close, agent); // with whoever came and brought nothing
}

/* What is to be done after anything has happened. */
static void turn(struct agent *agent)
{
    if (agent->is_stopping && agent->next) {
        peer_refuse(agent->next, ERR_PEER_DEAD, "it is stopping");
        agent->next = NULL;
    }
    if (agent->ranks && agent->next) life_end(agent, NULL);
    else if (agent->ranks && !agent->leader) life_end(agent, NULL);
    else if (agent->ranks && agent->is_stopping) life_end(agent, "told to stop");
    else if (!agent->ranks && !agent->link && agent->next) life_begin(agent);
    if (agent->is_stopping && !agent->ranks && !agent->link && !uv_is_closing((uv_handle_t *)&agent->look))
        handles_close(agent);
}

static void signalled(uv_signal_t *handle, int signum)
{
    struct agent *agent = handle->data;
    if (agent->is_stopping) return;
    log_info("%s: ending", signum == SIGINT ? "SIGINT" : "SIGTERM");
    notify_stopping();
    agent->is_stopping = true;
    turn(agent);
}

static void handles_init(struct agent *agent)
{
    (void)uv_signal_init(&agent->loop, &agent->sigterm); // these three cannot fail on a fresh loop
    (void)uv_signal_init(&agent->loop, &agent->sigint);
    (void)uv_timer_init(&agent->loop, &agent->look);
    agent->sigterm.data = agent->sigint.data = agent->look.data = agent;
    (void)uv_signal_start(&agent->sigterm, signalled, SIGTERM); // valid signals: cannot fail
    (void)uv_signal_start(&agent->sigint, signalled, SIGINT);
}

/* What a dead agent left: its ranks, and what they spoke through. Pages stay. */
static int leftovers_end(const char *instance, struct err *err)
{
    if (segment_exists(instance, "meta"))
        return ERR(err, ERR_CONFIG,
                   "instance %s has the cache of a daemon on this host (kvasir cache drop removes it): an "
                   "agent needs an "
                   "instance, or a host, of its own",
                   instance);
    ranks_sweep(instance, 0);
    return ranks_directory_make(instance, 0, err);
}

static int start(struct agent *agent, struct err *err)
{
    const char *instance = agent->conf->instance;
    int r = segment_lock(instance, &agent->lock_fd, err);
    if (r == 0) r = leftovers_end(instance, err);
    if (r == 0) r = charter_listen(instance, &agent->listen_fd, err);
    if (r < 0) return r;
    agent->listen.data = agent;
    r = uv_poll_init(&agent->loop, &agent->listen, agent->listen_fd);
    if (r == 0) r = uv_poll_start(&agent->listen, UV_READABLE, peer_came);
    CHECK(r == 0); // at start, on a good descriptor
    return 0;
}

static void finish(struct agent *agent)
{
    const char *instance = agent->conf->instance;
    for (uint32_t i = 0; i < RANKS_MAX; i++) weights_release(&agent->weights[i]);
    if (agent->listen_fd >= 0) (void)close(agent->listen_fd); // nobody comes any more
    if (agent->lock_fd < 0) return;
    ranks_sweep(instance, 0);
    if (!agent->conf->cache_keep) (void)segment_unlink_all(instance); // a name that is gone is what we want
    segment_unlock(instance, agent->lock_fd);
}

int agent_run(const struct conf *conf)
{
    static struct agent agent; // large
    struct err err = {0};
    agent = (struct agent){.conf = conf, .lock_fd = -1, .listen_fd = -1};
    for (uint32_t i = 0; i < RANKS_MAX; i++) agent.weights[i].fd = -1;
    (void)signal(SIGPIPE, SIG_IGN); // a leader that has gone answers EPIPE
    int r = uv_loop_init(&agent.loop);
    if (r < 0) {
        log_error("event loop: %s", uv_strerror(r));
        return err_exit_status(r);
    }
    handles_init(&agent);
    r = start(&agent, &err);
    if (r < 0) {
        log_error("%s", err.text);
        handles_close(&agent);
    } else {
        log_info("agent of instance %s: waiting for ranks", conf->instance);
        notify_ready("waiting for ranks");
    }
    (void)uv_run(&agent.loop, UV_RUN_DEFAULT); // returns when every handle is closed
    finish(&agent);
    (void)uv_loop_close(&agent.loop); // nothing is left in it
    return err_exit_status(r);
}
