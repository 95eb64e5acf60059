/* SPDX-License-Identifier: Apache-2.0 */
/* ranks - what the daemon holds of a group of several ranks besides its link: the segment in which they compute
 * together, the directory for MPI's files, and the ranks themselves.
 *
 * Ranks are mpirun's children, not ours: each is known by its cell of the link, and watched and killed by a pidfd that
 * is opened for it, so that a pid which went to another process harms nobody. Several signs tell that a group no longer
 * works, and on_trouble comes with the first: a rank is gone; a rank or mpirun is stopped (job control, by two looks at
 * /proc); a step is under way and none of its ranks came to a barrier for as long as stuck_ns. The owner then ends all
 * of them, and no life begins before on_gone. All on the loop; nothing happens between ranks_rest and ranks_begin. */
#ifndef KVASIR_DAEMON_RANKS_H
#define KVASIR_DAEMON_RANKS_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/err.h"
#include "common/ipc/exchange.h"
#include "common/ipc/link.h"

struct ranks; // opaque

struct ranks_conf {
    uv_loop_t *loop;
    const char *instance; // borrowed until ranks_free
    uint32_t group_idx;
    uint32_t rank_first, rank_count; // of this host; others are watched by their hosts' agents (agent.h)
    bool is_spread; // over several hosts: the directory is in /tmp, so that it has one name on all of them
    bool is_far;    // of an agent: the ranks run already, and the directory stays
    uint64_t epoch;
    struct exchange_shape shape;
    struct link *link; // borrowed until ranks_free
    void (*on_trouble)(void *owner, const char *what);
    void (*on_gone)(void *owner); // after ranks_end: the last of them is gone
    void *owner;
};

int ranks_new(const struct ranks_conf *conf, struct ranks **ret_ranks, struct err *err);
/* No rank is alive and ranks_rest was called, or it never began. Frees when the loop has closed its handles. Removes
 * the segment's name and the directory. */
void ranks_free(struct ranks *ranks, void (*on_freed)(void *owner));

/* Before a life: a fresh exchange, an empty directory, and the watch from here on. mpirun_pid follows when it runs. */
int ranks_begin(struct ranks *ranks, struct err *err);
void ranks_launched(struct ranks *ranks, int64_t mpirun_pid);
void ranks_look(struct ranks *ranks);            // cells changed: whoever is new is watched
void ranks_step(struct ranks *ranks, bool runs); // a step begins, or none is under way
void ranks_step_good(struct ranks *ranks);       // it was answered

/* SIGKILL for all that are there; on_gone follows, at once or later. mpirun is the owner's, and dead. */
void ranks_end(struct ranks *ranks);
void ranks_kill(struct ranks *ranks); // the signal alone
void ranks_rest(struct ranks *ranks); // the life is over: nothing is watched, the directory is emptied

const char *ranks_directory(const struct ranks *ranks);
/* Of a group that is spread, empty. -EPERM where another user has it. */
int ranks_directory_make(const char *instance, uint32_t group_idx, struct err *err);
/* What a daemon or agent of this instance that died left of a group: its ranks are killed, what they spoke through is
 * removed, and MPI's directory where it is ours. Any of it may be gone already. */
void ranks_sweep(const char *instance, uint32_t group_idx);

#endif
