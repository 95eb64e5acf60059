/* SPDX-License-Identifier: Apache-2.0 */
/* charter - what a further host of a group needs to know before its ranks can attach: flat, bounded, of one build.
 *
 * Rank 0 makes it from the pool and the link of the daemon's host and hands it to all ranks over MPI. The first rank of
 * each further host (its leader) adds what is its host's, and brings it to that host's agent (kvasird --agent, agent.h)
 * over a socket; the agent makes the host's segments and answers. The connection then stays open for as long as the
 * leader lives: its end is the end of that life of the ranks, whoever of them is left.
 *
 * The socket has an abstract name of the instance and the user, so that it is nobody's file, and each side asks the
 * kernel who the other one is: another user's is refused. What comes is a peer's and verified whole before any use. */
#ifndef KVASIR_IPC_CHARTER_H
#define KVASIR_IPC_CHARTER_H

#include <assert.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hosts.h"
#include "common/ipc/exchange.h"
#include "common/ipc/plan.h"
#include "common/shm/layout.h"

struct charter {
    uint64_t build; // charter_build() of whoever made it
    uint64_t epoch; // of pool and link
    struct pool_geometry geometry;
    struct plan_limits limits;
    uint32_t group;
    char instance[INSTANCE_BYTES_MAX + 4]; // NUL-terminated, as all texts
    char head[HOST_NAME_BYTES];            // the daemon's host, as it calls itself
    /* of the further host, by its leader */
    uint32_t rank_first, rank_count; // its ranks
    struct exchange_shape shape;     // of its exchange
    int64_t launcher_pid;            // MPI's daemon, which started its ranks
    uint64_t launcher_start;
};

struct charter_answer {
    int32_t status; // 0, or negative with the reason
    char text[ERR_TEXT_BYTES];
};

/* Whoever differs in this reads other bytes into it. */
uint64_t charter_build(void);
/* Every field: ranges, sizes, texts, and that they go together. With shape: as an agent needs it; without, as every
 * rank that was handed one. ERR_VERSION for another build's, ERR_PEER. */
int charter_verify(const struct charter *charter, struct err *err);
int charter_verify_host(const struct charter *charter, struct err *err);

/* The leader: connects, brings it, waits for the answer. 0 with the open connection, ERR_CONFIG where no agent is, the
 * answer's status with its text, -ETIMEDOUT. */
int charter_bring(const struct charter *charter, int *ret_fd, struct err *err);

/* The agent. *ret_fd: does not block, is closed by the caller. ERR_BUSY where one listens already. */
int charter_listen(const char *instance, int *ret_fd, struct err *err);
/* The next leader that has come: its connection and process. -EAGAIN when there is none, -EPERM for another user's. */
int charter_accept(int listen_fd, int *ret_fd, int64_t *ret_pid);
/* What it has brought, verified for this instance. -EAGAIN until it is there; ERR_PEER_DEAD when it has gone. */
int charter_receive(int fd, const char *instance, struct charter *ret_charter, struct err *err);
void charter_answer(int fd, int status, const char *text); // whoever has gone hears nothing

#endif
