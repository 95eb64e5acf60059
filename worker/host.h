/* SPDX-License-Identifier: Apache-2.0 */
/* host - where a rank of a group runs, and how the ranks of several hosts come together.
 *
 * What happens before any of them takes a plan, by all ranks in this order (nothing of it with one host):
 *   1 host_place    who runs where: as --hosts says, or nobody goes on
 *   2 host_charter  rank 0 hands out what it found on the daemon's host; on the others the first rank brings it to the
 *                   agent, which makes what the ranks of that host attach to
 *   3 host_meet     behind the loading: all are ready, or nobody is
 * In each, what one rank fails with is every rank's result and reason, so that it reaches the daemon through rank 0. */
#ifndef KVASIR_WORKER_HOST_H
#define KVASIR_WORKER_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hosts.h"
#include "common/ipc/charter.h"

struct host {
    struct hosts hosts;         // count 0: one, and no more is known of it
    uint32_t rank, rank_first;  // we, and the first rank of our host, its leader
    uint32_t rank_count;        // of our host
    bool is_far;                // it is not the daemon's
    bool is_told;               // every rank knows of the failure: rank 0 says it
    struct exchange_shape dims; // what of a shape is the model's: set before host_charter
    struct charter charter;     // of several hosts, after host_charter
    int agent_fd;               // of a leader: open for as long as we live; -1: none
};

/* hosts_text: hosts_print's; "" is one host. parent_pid: mpirun, the parent of the ranks of the daemon's host. */
int host_place(const char *hosts_text, uint32_t rank, uint32_t rank_count, int64_t parent_pid,
               struct host *ret_host, struct err *err);
/* status: what came before, with its reason in err. charter: rank 0's, without what is a host's own; not looked at
 * elsewhere. */
int host_charter(struct host *host, int status, const struct charter *charter, struct err *err);
/* status as above. producer: of our kernels' bits; *ret_producer: of all ranks' together, the same for all. */
int host_meet(struct host *host, int status, uint64_t producer, uint64_t *ret_producer, struct err *err);

static inline bool host_is_spread(const struct host *host)
{
    return host->hosts.count > 1;
}
static inline bool host_is_leader(const struct host *host)
{
    return host->is_far && host->rank == host->rank_first;
}

#endif
