/* SPDX-License-Identifier: Apache-2.0 */
/* ranks_rig - a group of ranks as forked processes over one exchange, for tests and benchmarks; or over one exchange
 * for each "host" of them, with messages between these (hosts_rig.h). A case runs in every rank; its asserts end that
 * rank only, and the parent, which waits for all, ends the others then: look() says so to whoever waits. */
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
#include "tests/unit/hosts_rig.h"
#include "worker/dist.h"
#include "worker/dist_hosts.h"

struct ranks_rig {
    struct exchange_shape shape; // of all ranks on one host
    void *segment;               // shared by the ranks; of several hosts NULL
    size_t segment_bytes;
    struct hosts_rig hosts;             // host_count 1: one
    void *host_segments[HOSTS_RIG_MAX]; // of several, shared by the ranks of each
    struct dist_hosts dist_hosts;       // of this process, if it leads a host of several
    _Atomic uint32_t *stopped;          // shared: a rank died
    uint32_t threads;                   // of a rank; 0 counts as 1
    void *memory;                       // the case's own, shared, zeroed
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

static inline struct exchange_shape ranks_rig_host_shape(const struct ranks_rig *rig, uint32_t host)
{
    struct exchange_shape shape = rig->shape;
    if (rig->hosts.host_count > 1)
        shape.rank_count = rig->hosts.host_first[host + 1] - rig->hosts.host_first[host];
    return shape;
}

/* The parent's: before any rank. */
static inline void ranks_rig_open(const struct exchange_shape *shape, size_t memory_bytes,
                                  struct ranks_rig *ret_rig)
{
    *ret_rig = (struct ranks_rig){.shape = *shape, .memory_bytes = memory_bytes, .hosts.host_count = 1};
    ret_rig->segment_bytes = exchange_bytes(shape);
    ret_rig->segment = ranks_rig_memory(ret_rig->segment_bytes);
    ret_rig->stopped = ranks_rig_memory(sizeof *ret_rig->stopped);
    if (memory_bytes > 0) ret_rig->memory = ranks_rig_memory(memory_bytes);
    exchange_init(ret_rig->segment, shape, 1);
}

/* The same on several hosts. host_first: (host_count + 1), as dist_hosts_conf has it. */
static inline void ranks_rig_open_hosts(const struct exchange_shape *shape, const uint32_t *host_first,
                                        uint32_t host_count, size_t memory_bytes, struct ranks_rig *ret_rig)
{
    struct ranks_rig *rig = ret_rig;
    ranks_rig_open(shape, memory_bytes, rig);
    if (host_count == 1) return;
    hosts_rig_open(host_first, host_count, &rig->hosts);
    for (uint32_t host = 0; host < host_count; host++) {
        const struct exchange_shape own = ranks_rig_host_shape(rig, host);
        rig->host_segments[host] = ranks_rig_memory(exchange_bytes(&own));
        exchange_init(rig->host_segments[host], &own, 1);
    }
    (void)munmap(rig->segment, rig->segment_bytes); // our own
    rig->segment = NULL;
}

static inline void ranks_rig_close(struct ranks_rig *rig)
{
    for (uint32_t host = 0; rig->hosts.host_count > 1 && host < rig->hosts.host_count; host++) {
        const struct exchange_shape own = ranks_rig_host_shape(rig, host);
        (void)munmap(rig->host_segments[host], exchange_bytes(&own)); // our own
    }
    if (rig->hosts.host_count > 1) hosts_rig_close(&rig->hosts);
    if (rig->segment) (void)munmap(rig->segment, rig->segment_bytes); // our own mappings
    (void)munmap(rig->stopped, sizeof *rig->stopped);
    if (rig->memory) (void)munmap(rig->memory, rig->memory_bytes);
}

/* What the leader of a host does for its others. */
static inline const struct dist_hosts *ranks_rig_lead(struct ranks_rig *rig, uint32_t host,
                                                      uint64_t spin_ns_max)
{
    struct err err = {0};
    const struct dist_hosts_conf conf = {.rank = rig->hosts.host_first[host],
                                         .rank_count = rig->shape.rank_count,
                                         .host_count = rig->hosts.host_count,
                                         .host_first = rig->hosts.host_first,
                                         .shape = ranks_rig_host_shape(rig, host),
                                         .spin_ns_max = spin_ns_max,
                                         .messages = hosts_rig_messages(&rig->hosts, host),
                                         .look = ranks_rig_look,
                                         .look_arg = rig};
    if (dist_hosts_open(&conf, &rig->dist_hosts, &err) < 0) abort();
    return &rig->dist_hosts;
}

/* A rank's: its dist. */
static inline struct dist *ranks_rig_dist(struct ranks_rig *rig, uint32_t rank)
{
    static const struct dist_hosts not_ours; // only the leader calls
    struct dist *dist = NULL;
    struct err err = {0};
    const bool is_split = rig->hosts.host_count > 1;
    const uint32_t host = is_split ? hosts_rig_host_of(&rig->hosts, rank) : 0;
    struct dist_conf conf = {
        .rank = rank,
        .rank_count = rig->shape.rank_count,
        .local_first = rig->hosts.host_first[host],
        .shape = ranks_rig_host_shape(rig, host),
        .segment = is_split ? rig->host_segments[host] : rig->segment,
        .spin_ns_max = dist_spin_ns(rig->shape.rank_count, rig->threads ? rig->threads : 1),
        .look = ranks_rig_look,
        .look_arg = rig};
    if (exchange_verify(conf.segment, exchange_bytes(&conf.shape), &conf.shape, 1, &err) < 0) abort();
    if (is_split)
        conf.hosts = rank == conf.local_first ? ranks_rig_lead(rig, host, conf.spin_ns_max) : &not_ours;
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
