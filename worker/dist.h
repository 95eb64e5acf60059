/* SPDX-License-Identifier: Apache-2.0 */
/* dist - how the ranks of a group compute one step together.
 *
 * Nothing is ever summed over ranks. Every matrix is cut by its outputs, so each rank computes some columns of a
 * result, whole: in the one order of additions that it has without ranks. What the next op reads whole is then
 * gathered. On one host that is a barrier: the result lies in memory that all ranks map (common/ipc/exchange.h),
 * each has written its columns there, and after the barrier each reads all of them. Between hosts the columns also
 * travel (dist_hosts.h). KVASIR_DIST=mpi makes of each rank a host of its own (party.h).
 *
 * One thread of a rank calls, all ranks call the same in the same order. A rank that waits spins shortly, then
 * sleeps on a futex, and looks every DIST_LOOK_NS whether to go on: when that says no, it and every later call fail.
 * Whatever else goes wrong with a rank leaves the others waiting until then; a group is ended as a whole.
 *
 * A NULL dist is one rank alone, in all functions here: nothing to wait for. */
#ifndef KVASIR_WORKER_DIST_H
#define KVASIR_WORKER_DIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/ipc/exchange.h"

#define DIST_LOOK_NS UINT64_C(100000000)

struct dist;

/* One array of a gathered result: rows of row_bytes, in which columns [c, c + unit_cols) are the unit_bytes at
 * c / unit_cols * unit_bytes. Ranks' borders are multiples of unit_cols. */
struct dist_plane {
    void *base;
    uint64_t row_bytes;
    uint32_t unit_cols, unit_bytes;
};

/* What hosts do for each other (dist_hosts.h). Called by the first rank of each host while its other ranks wait; what
 * it brings must lie in this host's segment at return. Each: 0 or a negative code, with which all calls of the host's
 * ranks fail then, for ever. */
struct dist_hosts {
    void *arg; // lent until dist_close
    /* Of every row the columns [bounds[r], bounds[r + 1]) of each rank r of another host. */
    int (*gather)(void *arg, const struct dist_plane *planes, uint32_t plane_count, uint32_t row_count,
                  const uint32_t *bounds);
    /* The rows whose owner is of another host. */
    int (*gather_rows)(void *arg, const struct dist_plane *plane, uint32_t row_count, const uint16_t *owners);
    /* Rank 0's bytes to all hosts; *inout_bytes: what is sent, what came. Without rank 0, room is what fits. */
    int (*share)(void *arg, void *bytes, uint64_t room, uint64_t *inout_bytes);
    /* The least of all hosts' statuses; every rank's note (note_bytes each) to rank 0's host if notes is not NULL. */
    int (*agree)(void *arg, int32_t *inout_status, uint8_t *notes, uint32_t note_bytes);
};

struct dist_conf {
    uint32_t rank, rank_count; // of the group
    uint32_t local_first;      // rank of this host's first; ranks of a host follow each other
    struct exchange_shape shape;
    void *segment; // verified; borrowed until dist_close
    uint64_t spin_ns_max;
    const struct dist_hosts *hosts; // borrowed until dist_close; NULL: one host
    /* Counted up at every barrier that we come to, for whoever watches and does not map the segment. May be NULL. */
    _Atomic uint32_t *progress;
    /* Whether to wait on: 0, or a negative code, -ECANCELED for a stop. May be NULL. */
    int (*look)(void *arg);
    void *look_arg;
};

/* Spinning pays where each thread of each rank has a core: what is left of a wait then is short. -> ns for
 * dist_conf. */
uint64_t dist_spin_ns(uint32_t local_count, uint32_t threads);

int dist_open(const struct dist_conf *conf, struct dist **ret_dist, struct err *err);
void dist_close(struct dist *dist); // NULL is fine

uint32_t dist_rank(const struct dist *dist);
uint32_t dist_rank_count(const struct dist *dist);
/* The ranks of this host: those from the first on. We are one of them. */
uint32_t dist_local_first(const struct dist *dist);
uint32_t dist_local_count(const struct dist *dist);
/* Memory of an area in the segment of this host. dist: not NULL. */
void *dist_area(const struct dist *dist, enum exchange_area area, uint64_t *ret_bytes);

/* 0, or the negative code with which all calls fail from now on: look's, or that of the hosts. It tells a group that is
 * broken from ranks that agree on a refusal. */
int dist_failed(const struct dist *dist);

/* Returns when all ranks have called it. All functions below: 0, or the code of dist_failed. */
int dist_barrier(struct dist *dist);
/* All ranks have written their columns [bounds[rank], bounds[rank + 1]) of rows [0, row_count). */
int dist_gather(struct dist *dist, const struct dist_plane *planes, uint32_t plane_count, uint32_t row_count,
                const uint32_t *bounds);
/* Each has written the rows that it owns. owners: (row_count) ranks. */
int dist_gather_rows(struct dist *dist, const struct dist_plane *plane, uint32_t row_count,
                     const uint16_t *owners);
/* A barrier to which each brings a status, 0 or negative. -> the least of them: the same for all. With it the first
 * note_bytes of the ranks' notes come to rank 0; all bring the same number. */
int dist_agree(struct dist *dist, int status, uint32_t note_bytes);
/* Memory of a rank's note, note_bytes of the shape: written by it, read by rank 0 after dist_agree, and free to be
 * written again after the next barrier. dist: not NULL. */
void *dist_note(struct dist *dist, uint32_t rank);

/* An op whose outputs this host's ranks compute together, whoever of them has time: all of them begin it, in the same
 * order, and meet at a barrier before the next; each leaves with no piece untaken. What a rank would compute alone is
 * cut into piece_count pieces, the same number in every call, in DIST_LANES ranges of neighbours. -> whether there
 * was one left in this lane of the local-th rank; then it is the caller's, any thread's. dist: not NULL. */
enum { DIST_LANES = EXCHANGE_LANES };
void dist_op_begin(struct dist *dist);
bool dist_piece_take(struct dist *dist, uint32_t local, uint32_t lane, uint32_t piece_count,
                     uint32_t *ret_piece);

/* Where others find a rank's packed weights: told before the first barrier, asked for behind it. dist: not NULL. */
void dist_weights_tell(struct dist *dist, struct hash128 key);
struct hash128 dist_weights_of(const struct dist *dist, uint32_t local);

/* Rank 0: hands bytes (of at most plan_bytes of the shape) to all. Others: wait for them, spinning spin_ns before they
 * sleep, and copy them to out. dist: not NULL. */
int dist_share(struct dist *dist, const void *bytes, size_t len);
int dist_receive(struct dist *dist, uint64_t spin_ns, void *out, size_t out_bytes, size_t *ret_len);

#endif
