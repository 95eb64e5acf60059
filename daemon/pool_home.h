/* SPDX-License-Identifier: Apache-2.0 */
/* pool_home - where the daemon's pool lies: adopts what a dead or ended daemon left, or makes a new one; at the
 * end leaves it for the next or removes it. The caller holds the instance's lock (segment_lock).
 *
 * A pool is adopted only when nobody can write to it any more: the old worker is killed, and waited for until it has
 * let go of the payload (segment_open_alone). It would have died with its daemon anyhow, but the lock of the
 * instance is free a moment before that. */
#ifndef KVASIR_DAEMON_POOL_HOME_H
#define KVASIR_DAEMON_POOL_HOME_H

#include <stdbool.h>

#include "common/shm/pool.h"
#include "common/shm/segment.h"

struct pool_home {
    struct segment meta;
    struct segment kv[RANKS_MAX]; // payload by rank, mapped for as long as we live
    struct pool *pool;            // NULL: not open
    bool adopted;
};

/* ret_note (note_bytes): one line for the log about what was found, "" when there was nothing; *ret_is_loss: a
 * cache was found and is not used. */
int pool_home_open(const char *instance, const struct pool_geometry *geometry, const struct pool_owner *owner,
                   struct pool_home *ret_home, char *ret_note, size_t note_bytes, bool *ret_is_loss,
                   struct err *err);
/* Unmaps. keep: the pool is left in order for the next daemon; otherwise every name of the instance but the lock is
 * removed. The worker is gone. A zeroed home is fine. */
void pool_home_keep(struct pool_home *home, const char *instance);
void pool_home_remove(struct pool_home *home, const char *instance);

#endif
