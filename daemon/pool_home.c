/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pool_home.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/shm/audit.h"
#include "daemon/ranks.h"

#define WORKER_GONE_NS_MAX (10 * NS_PER_S) // to unmap all that it had

static void home_close(struct pool_home *home)
{
    pool_free(home->pool);
    segment_close(&home->meta);
    for (uint32_t rank = 0; rank < RANKS_MAX; rank++) segment_close(&home->kv[rank]);
    *home = (struct pool_home){.pool = NULL};
}

/* One rank's payload, once nobody else writes to it. *ret_lock_fd: ours until segment_share. */
static int rank_take(const char *instance, const struct pool_geometry *geometry, uint32_t rank,
                     struct segment *ret_kv, int *ret_lock_fd, struct err *err)
{
    char part[POOL_PART_BYTES];
    uint64_t wanted = pool_rank_page_bytes(geometry, rank) * geometry->page_count; // verified: below 2^63
    pool_payload_part(rank, part);
    int r = segment_open_alone(instance, part, WORKER_GONE_NS_MAX, ret_kv, ret_lock_fd, err);
    if (r == 0 && ret_kv->bytes != wanted) {
        r = ERR(err, ERR_FORMAT, "%s has %zu bytes, wanted %" PRIu64, ret_kv->name, ret_kv->bytes, wanted);
        segment_share(*ret_lock_fd);
    }
    return r;
}

static void payload_share(const int *lock_fds, uint32_t rank_count)
{
    for (uint32_t rank = 0; rank < rank_count; rank++) segment_share(lock_fds[rank]);
}

/* Of all ranks of this host, or of none. lock_fds: (pool_local_count) */
static int payload_take(const char *instance, const struct pool_geometry *geometry, struct segment *kv,
                        int *lock_fds, struct err *err)
{
    // Of as many groups as the dead daemon had, not as we shall have.
    for (uint32_t group = 0; group < GROUPS_MAX; group++) ranks_sweep(instance, group);
    for (uint32_t rank = 0; rank < pool_local_count(geometry); rank++) {
        int r = rank_take(instance, geometry, rank, &kv[rank], &lock_fds[rank], err);
        if (r == 0) continue;
        payload_share(lock_fds, rank);
        return r;
    }
    return 0;
}

static int home_adopt(const char *instance, const struct pool_geometry *geometry,
                      const struct pool_owner *owner, struct pool_home *home,
                      struct pool_adoption *ret_adoption, struct err *err)
{
    int lock_fds[RANKS_MAX];
    int r = segment_open_write(instance, "meta", &home->meta, err);
    if (r == 0) r = pool_adoptable(home->meta.base, home->meta.bytes, geometry, err);
    if (r == 0) r = payload_take(instance, geometry, home->kv, lock_fds, err);
    if (r < 0) return r;
    r = pool_adopt(home->meta.base, home->meta.bytes, geometry, owner, &home->pool, ret_adoption, err);
    payload_share(lock_fds,
                  pool_local_count(geometry)); // from here on whoever comes finds our name in the header
    home->adopted = r == 0;
    return r;
}

static int home_make(const char *instance, const struct pool_geometry *geometry,
                     const struct pool_owner *owner, struct pool_home *home, struct err *err)
{
    char part[POOL_PART_BYTES];
    int r = 0;
    for (uint32_t rank = 0; r == 0 && rank < pool_local_count(geometry); rank++) {
        pool_payload_part(rank, part);
        uint64_t bytes = pool_rank_page_bytes(geometry, rank) * geometry->page_count;
        r = segment_create(instance, part, bytes, &home->kv[rank], err);
    }
    if (r == 0) r = segment_create(instance, "meta", pool_meta_bytes(geometry), &home->meta, err);
    if (r == 0) r = pool_format(home->meta.base, home->meta.bytes, geometry, owner, &home->pool, err);
    return r;
}

static void note_adopted(const struct pool_adoption *adoption, uint64_t start_ns, char *note,
                         size_t note_bytes)
{
    char whose[64] = "an ended daemon";
    if (adoption->daemon_pid)
        (void)snprintf(whose, sizeof whose, "dead process %" PRId64, adoption->daemon_pid); // fits
    (void)snprintf(note, note_bytes,
                   "adopted the pool of %s in %.1f ms: %" PRIu32 " of %" PRIu32 " cached pages (%" PRIu64
                   " tokens), %" PRIu32 " unfinished ones dropped",
                   whose, (double)(clock_mono_ns() - start_ns) / 1e6, adoption->kept_count,
                   adoption->sealed_count, (uint64_t)adoption->kept_count * PAGE_TOKENS,
                   adoption->filling_count); // fits
}

int pool_home_open(const char *instance, const struct pool_geometry *geometry, const struct pool_owner *owner,
                   struct pool_home *ret_home, char *ret_note, size_t note_bytes, bool *ret_is_loss,
                   struct err *err)
{
    struct pool_home home = {.pool = NULL};
    struct pool_adoption adoption;
    struct err reason = {0};
    uint64_t start_ns = clock_mono_ns();
    *ret_is_loss = false;
    ret_note[0] = '\0';
    int r = home_adopt(instance, geometry, owner, &home, &adoption, &reason);
    if (r == 0) {
        note_adopted(&adoption, start_ns, ret_note, note_bytes);
    } else {
        struct pool_leftover leftover;
        home_close(&home);
        if (pool_leftover(instance, &leftover) == 0 && leftover.segment_count > 0) {
            *ret_is_loss = true;
            (void)snprintf(ret_note, note_bytes,
                           "starting with an empty cache; the one found is not used: %s",
                           reason.text); // may be cut
        }
        (void)segment_unlink_all(instance); // what cannot be removed fails below, with its reason
        r = home_make(instance, geometry, owner, &home, err);
    }
    if (r < 0) home_close(&home);
    else *ret_home = home;
    return r;
}

void pool_home_keep(struct pool_home *home, const char *instance)
{
    if (!home->pool) {
        pool_home_remove(home, instance);
        return;
    }
    pool_close(home->pool);
    home_close(home);
}

void pool_home_remove(struct pool_home *home, const char *instance)
{
    home_close(home);
    (void)segment_unlink_all(instance); // a name that is gone is what we want
}
