/* SPDX-License-Identifier: Apache-2.0 */
/* mpi - a group of ranks as Open MPI starts it: who we are in it, and that all of us are of one kind.
 *
 * mpi.c is the one file that knows MPI, mpi_none.c stands for it in a build without. MPI starts the ranks and tells
 * them apart; steps are computed through memory that they share (dist.h), and between hosts by messages (dist_hosts.h).
 * MPI spins where it waits: it is never told to wait once the ranks are ready, only asked whether a message has
 * come. Called by the worker's main thread only. */
#ifndef KVASIR_WORKER_MPI_H
#define KVASIR_WORKER_MPI_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "worker/dist_hosts.h"

/* Becomes mpirun, which starts rank_count times argv, with "--parent-pid" and its process added. session_dir: ours
 * alone, for all files of MPI; whoever ends the group removes it. hosts: hosts_print's, where which ranks run; on all
 * of them session_dir and argv's paths mean the same; "" is this one. Returns with an error only: ERR_CONFIG where no
 * mpirun is there or root has not consented (OMPI_ALLOW_RUN_AS_ROOT), ERR_UNSUPPORTED without MPI. */
int mpi_launch(uint32_t rank_count, const char *hosts, const char *session_dir, char **argv, struct err *err);

/* In a process that mpirun started. ERR_PEER when the group has not rank_count ranks. */
int mpi_join(uint32_t rank_count, uint32_t *ret_rank, struct err *err);
/* All ranks give their kind: 0, or ERR_VERSION when one differs. Waits for all. */
int mpi_agree(uint64_t kind, struct err *err);
/* All ranks: own, of bytes, of everybody into all (rank_count, bytes); rank 0's bytes into everybody's. They nap
 * while they wait. -EIO once MPI has failed. */
int mpi_gather(const void *own, size_t bytes, void *all, struct err *err);
int mpi_hand(void *inout, size_t bytes, struct err *err);
/* Messages between ranks, for dist_hosts_open. After mpi_agree, and nothing but these three and mpi_leave from here
 * on: what goes wrong with MPI is then told, and ends nobody. ERR_UNSUPPORTED without MPI. */
int mpi_messages(struct dist_messages *ret_messages, struct err *err);
void mpi_leave(void); // at a clean end; waits for all. Nothing where mpi_join was not called

#endif
