/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_none - a build without MPI; see mpi.h. The daemon refuses more than one rank before it comes to this. */
#include "worker/mpi.h"

int mpi_launch(uint32_t rank_count, const char *hosts, const char *session_dir, char **argv, struct err *err)
{
    (void)hosts;
    (void)session_dir;
    (void)argv;
    return ERR(err, ERR_UNSUPPORTED, "%u ranks: this build has no MPI", rank_count);
}

int mpi_join(uint32_t rank_count, uint32_t *ret_rank, struct err *err)
{
    (void)ret_rank;
    return ERR(err, ERR_UNSUPPORTED, "%u ranks: this build has no MPI", rank_count);
}

int mpi_agree(uint64_t kind, struct err *err)
{
    (void)kind;
    return ERR(err, ERR_UNSUPPORTED, "this build has no MPI");
}

int mpi_messages(struct dist_messages *ret_messages, struct err *err)
{
    (void)ret_messages;
    return ERR(err, ERR_UNSUPPORTED, "this build has no MPI");
}

int mpi_gather(const void *own, size_t bytes, void *all, struct err *err)
{
    (void)own;
    (void)bytes;
    (void)all;
    return ERR(err, ERR_UNSUPPORTED, "this build has no MPI");
}

int mpi_hand(void *inout, size_t bytes, struct err *err)
{
    (void)inout;
    (void)bytes;
    return ERR(err, ERR_UNSUPPORTED, "this build has no MPI");
}

void mpi_leave(void)
{
}
