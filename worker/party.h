/* SPDX-License-Identifier: Apache-2.0 */
/* party - a rank among the ranks of its group: which of them are on its host, the exchange that these share, and the
 * messages to other hosts. Owns all of it; worker/dist.h is what steps see. */
#ifndef KVASIR_WORKER_PARTY_H
#define KVASIR_WORKER_PARTY_H

#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/facts.h"
#include "common/ipc/plan.h"
#include "worker/dist.h"
#include "worker/host.h"

struct party; // opaque

struct party_conf {
    const char *instance;
    uint32_t group, rank, rank_count; // more than one rank, mpi_join has told which
    const struct host *host;          // where it runs (host_place)
    uint64_t epoch;                   // of the link
    const struct plan_limits *limits;
    const struct model_facts *facts;
    uint64_t spin_ns_max; // of dist_conf
};

/* Before ranks are started: whether the environment says what party_join knows. ERR_CONFIG. */
int party_verify(struct err *err);
/* Ranks of one host meet in its exchange; the first of each speaks for it to other hosts, by messages of MPI. With
 * KVASIR_DIST=mpi in the environment each is as if on a host of its own: its exchange is private, and all goes
 * through such messages - the portable path, and what the shared one is compared with. All ranks call it. */
int party_join(const struct party_conf *conf, struct party **ret_party, struct err *err);
void party_leave(struct party *party); // NULL is fine

struct dist *party_dist(const struct party *party); // NULL of NULL: one rank alone
/* After dist_failed: why, "" if it was no message between hosts. NULL: "". */
const char *party_reason(const struct party *party);

#endif
