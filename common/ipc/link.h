/* SPDX-License-Identifier: Apache-2.0 */
/* link - the shared segment between the daemon and one worker group: plan ring, completion ring, one
 * cell per rank (state, heartbeat, progress, panic text).
 *
 * Named /kvasir-<instance>-link.<group>, made by the daemon, mapped by the ranks. Both rings are one
 * producer, one consumer, fixed slots (ring.h). Waking is by futex in the segment (wake.h), so that
 * ranks under mpirun need no inherited descriptor; the daemon waits on a thread of its own and turns
 * a wake into uv_async_send. A wake means look again: both sides re-check the ring after it. */
#ifndef KVASIR_IPC_LINK_H
#define KVASIR_IPC_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/ipc/plan.h"

enum { LINK_SLOTS = 4, LINK_PANIC_BYTES = 1024 };

enum rank_state {
    RANK_NONE = 0,    // nobody attached yet
    RANK_LOADING = 1, // progress counts
    RANK_READY = 2,   // takes plans
    RANK_FAILED = 3,  // panic text says why; the process is about to exit
};

struct rank_status { // a copy, taken field by field
    enum rank_state state;
    int64_t pid;
    uint64_t start;             // of that process (owner.h); 0: unknown
    uint32_t progress_permille; // of loading
    uint64_t heartbeat_ns;      // monotonic; the rank renews it at least every step and every second of work
    uint64_t steps;             // steps done in this life
    struct hash128 weights;     // key of its shared weights, valid when READY; zeros: they are its own
    uint64_t producer;          // kern_producer of its kernels, valid when READY; 0: it did not say
    char panic[LINK_PANIC_BYTES]; // NUL-terminated, printable; why it failed, or its last note
};

struct link; // opaque, private memory of one process over the mapped segment

/* Daemon side. Creates, reserves and maps the segment; removes a stale one of the same name. The link's limits
 * are *limits with rank_count filled in. */
int link_create(const char *instance, uint32_t group, uint32_t rank_count, uint64_t epoch,
                const struct plan_limits *limits, struct link **ret_link, struct err *err);
int link_unlink(const char *instance, uint32_t group); // removes the name; mappings live on
/* For the next daemon, which holds the instance's lock: SIGKILL for ranks of a dead daemon's link that live still. The
 * kernel does the same when their daemon dies, but in its own time. -> their number; 0 also when there is no such link,
 * or it is another build's. */
int link_kill_ranks(const char *instance, uint32_t group);
/* Before a group is started again: empties both rings and the rank cells, withdraws a stop. No rank may be
 * alive. */
void link_reset(struct link *link);

/* Worker side. Verifies version, sum, sizes and offsets of the segment; compare link_epoch() with the pool's. */
int link_attach(const char *instance, uint32_t group, uint32_t rank, struct link **ret_link, struct err *err);

void link_close(struct link *link); // unmaps; NULL is fine
const struct plan_limits *link_limits(const struct link *link);
uint64_t link_epoch(const struct link *link);

/* Daemon: the next free plan slot, then push `bytes` of it. NULL while LINK_SLOTS plans wait for their
 * completion to be popped (so that a completion always finds a slot), or when the group broke the ring, which
 * link_done_pop then tells. */
void *link_plan_slot(struct link *link, size_t *ret_bytes);
void link_plan_push(struct link *link, size_t bytes);
/* Daemon: copies the oldest completion to out (done_bytes_max long) and releases its slot; verify the copy.
 * -> 0, -EAGAIN when none, ERR_PEER when the ring's counters or the length are impossible, or no plan is
 * out. */
int link_done_pop(struct link *link, void *out, size_t out_bytes, size_t *ret_bytes);
/* Daemon, on the waiter thread: sleeps until a completion or a change of a rank's cell was published
 * since the last return, link_interrupt() was called, or the timeout passed. -> 0, -ETIMEDOUT, -EINTR. */
int link_daemon_wait(struct link *link, uint64_t timeout_ns);
void link_interrupt(struct link *link); // any thread: wakes this process's own waiter
void link_rank_status(const struct link *link, uint32_t rank, struct rank_status *ret_status);

/* Rank 0: waits for a plan and copies it to out (plan_bytes_max long). -> 0, -ETIMEDOUT, ERR_PEER (impossible
 * counters or length), -ECANCELED when the daemon asked the group to stop and no plan is left. Spins spin_ns
 * before it sleeps. */
int link_plan_wait(struct link *link, void *out, size_t out_bytes, uint64_t spin_ns, uint64_t timeout_ns,
                   size_t *ret_bytes);
void *link_done_slot(struct link *link, size_t *ret_bytes); // NULL only when the daemon broke the ring
void link_done_push(struct link *link, size_t bytes);
void link_rank_set(struct link *link, enum rank_state state, uint32_t progress_permille);
void link_rank_beat(struct link *link, uint64_t now_ns);
void link_rank_panic(struct link *link, const char *text); // state FAILED and the text
void link_rank_note(struct link *link,
                    const char *text); // the text alone: memory in use, why a step was refused
/* Rank 0, of a rank on another host, which has its own link there: that it is ready. */
void link_rank_relay(struct link *link, uint32_t rank);
void link_rank_weights(struct link *link, struct hash128 key); // before READY
void link_rank_producer(struct link *link, uint64_t producer); // likewise

/* Daemon: asks the ranks to leave after the plans already pushed. */
void link_stop(struct link *link);

#endif
