/* SPDX-License-Identifier: Apache-2.0 */
/* ranks_rig - a group of ranks as forked processes over one exchange, for tests and benchmarks. A case runs in every
 * rank; its asserts end that rank only, and the parent, which waits for all, ends the others then: look() says so to
 * whoever waits. */
#ifndef KVASIR_TESTS_UNIT_RANKS_RIG_H
#define KVASIR_TESTS_UNIT_RANKS_RIG_H

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"
#include "worker/dist.h"

struct ranks_rig {
    struct exchange_shape shape;
    void *segment; // shared by the ranks
    size_t segment_bytes;
    _Atomic uint32_t *stopped; // shared: a rank died
    uint32_t threads;          // of a rank; 0 counts as 1
    void *memory;              // the case's own, shared, zeroed
    size_t memory_bytes;
    pid_t pids[RANKS_MAX];
};

static inline void *ranks_rig_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    return memory;
}

static inline int ranks_rig_look(void *arg)
{
    const struct ranks_rig *rig = arg;
    return atomic_load(rig->stopped) ? -ECANCELED : 0;
}

/* The parent's: before any rank. */
static inline void ranks_rig_open(const struct exchange_shape *shape, size_t memory_bytes,
                                  struct ranks_rig *ret_rig)
{
    *ret_rig = (struct ranks_rig){.shape = *shape, .memory_bytes = memory_bytes};
    ret_rig->segment_bytes = exchange_bytes(shape);
    ret_rig->segment = ranks_rig_memory(ret_rig->segment_bytes);
    ret_rig->stopped = ranks_rig_memory(sizeof *ret_rig->stopped);
    if (memory_bytes > 0) ret_rig->memory = ranks_rig_memory(memory_bytes);
    exchange_init(ret_rig->segment, shape, 1);
}

static inline void ranks_rig_close(struct ranks_rig *rig)
{
    (void)munmap(rig->segment, rig->segment_bytes); // our own mappings
    (void)munmap(rig->stopped, sizeof *rig->stopped);
    if (rig->memory) (void)munmap(rig->memory, rig->memory_bytes);
}

/* A rank's: its dist. */
static inline struct dist *ranks_rig_dist(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = NULL;
    struct err err = {0};
    if (exchange_verify(rig->segment, rig->segment_bytes, &rig->shape, 1, &err) < 0) abort();
    const struct dist_conf conf = {
        .rank = rank,
        .rank_count = rig->shape.rank_count,
        .shape = rig->shape,
        .segment = rig->segment,
        .spin_ns_max = dist_spin_ns(rig->shape.rank_count, rig->threads ? rig->threads : 1),
        .look = ranks_rig_look,
        .look_arg = rig};
    if (dist_open(&conf, &dist, &err) < 0) abort();
    return dist;
}

/* Runs fn in every rank, each a process that ends with what it returns, and waits for all. -> how many did not end
 * with 0. */
static inline int ranks_rig_run(struct ranks_rig *rig, int (*fn)(struct ranks_rig *rig, uint32_t rank))
{
    int failed_count = 0;
    (void)fflush(NULL); // nothing of ours is printed twice
    for (uint32_t rank = 0; rank < rig->shape.rank_count; rank++) {
        rig->pids[rank] = fork();
        if (rig->pids[rank] < 0) abort();
        if (rig->pids[rank] > 0) continue;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); // no rank outlives a killed test
        int status = fn(rig, rank);
        (void)fflush(NULL);
        _exit(status);
    }
    for (uint32_t left = rig->shape.rank_count; left > 0; left--) {
        int status = 0;
        while (waitpid(-1, &status, 0) < 0) continue;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
        failed_count++;
        atomic_store(rig->stopped, 1);
    }
    return failed_count;
}

#endif
