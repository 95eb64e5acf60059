/* SPDX-License-Identifier: Apache-2.0 */
/* See mpi.h. Open MPI 4.1's mpirun starts the ranks of this host itself, from its main thread, so that they may ask the
 * kernel to die with it. What it is told:
 *
 *   --bind-to none, --oversubscribe  CPUs are shared out by the ranks themselves; how many ranks there are is the user's
 *   plm isolated, oob tcp on lo      no other host is asked for anything
 *   btl vader,self; pml ob1; coll basic  the least that two ranks need to exchange a few bytes: half the start's time
 *   orte_tmpdir_base, vader's backing directory  every file that it makes lies in the session directory */
#include "worker/mpi.h"

#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/limits.h"

enum { ARGV_COUNT_MAX = 96, NUMBER_BYTES = 24, MESSAGE_TAG = 1 };

static bool joined;

/* The one exchange of messages that may be under way. */
static struct {
    struct dist_message *receives; // the caller's
    uint32_t receive_count;
    MPI_Request requests[2 * RANKS_MAX]; // receives first
    uint32_t request_count;
} exchange;

static bool is_one(const char *name)
{
    const char *value = getenv(name);
    return value && strcmp(value, "1") == 0;
}

static int consent_verify(struct err *err)
{
    if (geteuid() != 0) return 0;
    if (is_one("OMPI_ALLOW_RUN_AS_ROOT") && is_one("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")) return 0;
    return ERR(err, ERR_CONFIG,
               "Open MPI does not run ranks as root unless the environment says OMPI_ALLOW_RUN_AS_ROOT=1 and "
               "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; better use another user");
}

int mpi_launch(uint32_t rank_count, const char *session_dir, char **argv, struct err *err)
{
    char ranks[NUMBER_BYTES], pid[NUMBER_BYTES];
    (void)snprintf(ranks, sizeof ranks, "%" PRIu32, rank_count); // both fit
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    const char *const front[] = {MPIRUN,
                                 "--quiet",
                                 "-n",
                                 ranks,
                                 "--oversubscribe",
                                 "--bind-to",
                                 "none",
                                 "--mca",
                                 "plm",
                                 "isolated",
                                 "--mca",
                                 "oob_tcp_if_include",
                                 "lo",
                                 "--mca",
                                 "btl",
                                 "vader,self",
                                 "--mca",
                                 "btl_vader_single_copy_mechanism",
                                 "none",
                                 "--mca",
                                 "btl_vader_backing_directory",
                                 session_dir,
                                 "--mca",
                                 "orte_tmpdir_base",
                                 session_dir,
                                 "--mca",
                                 "pml",
                                 "ob1",
                                 "--mca",
                                 "osc",
                                 "^ucx",
                                 "--mca",
                                 "coll",
                                 "basic,libnbc,self"};
    const char *all[ARGV_COUNT_MAX];
    size_t used = 0;
    int r = consent_verify(err);
    if (r < 0) return r;
    for (size_t i = 0; i < COUNT_OF(front); i++) all[used++] = front[i];
    for (size_t i = 0; argv[i]; i++) {
        if (used + 3 >= ARGV_COUNT_MAX) return ERR(err, ERR_USAGE, "too many arguments");
        all[used++] = argv[i];
    }
    all[used++] = "--parent-pid";
    all[used++] = pid;
    all[used] = NULL;
    (void)execv(MPIRUN, (char *const *)(uintptr_t)all); // writes none of them; returns with an error only
    return ERR(err, ERR_CONFIG, "cannot start %s: %s (Debian: openmpi-bin)", MPIRUN, strerror(errno));
}

int mpi_join(uint32_t rank_count, uint32_t *ret_rank, struct err *err)
{
    int provided, rank, size;
    // What goes wrong in here ends the process with MPI's own words: mpirun then ends the group.
    (void)MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    joined = true;
    (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size);
    if ((uint32_t)size != rank_count)
        return ERR(err, ERR_PEER, "MPI started %d ranks, wanted %" PRIu32, size, rank_count);
    *ret_rank = (uint32_t)rank;
    return 0;
}

int mpi_agree(uint64_t kind, struct err *err)
{
    uint64_t kinds[RANKS_MAX];
    int size;
    (void)MPI_Comm_size(MPI_COMM_WORLD, &size); // mpi_join: rank_count
    (void)MPI_Allgather(&kind, 1, MPI_UINT64_T, kinds, 1, MPI_UINT64_T, MPI_COMM_WORLD);
    for (int i = 0; i < size; i++)
        if (kinds[i] != kind)
            return ERR(err, ERR_VERSION, "rank %d is of another build, or has another model file", i);
    return 0;
}

static int post(void *arg, const struct dist_message *sends, uint32_t send_count,
                struct dist_message *receives, uint32_t receive_count)
{
    (void)arg;
    int r = MPI_SUCCESS;
    CHECK(send_count <= RANKS_MAX && receive_count <= RANKS_MAX);
    exchange.receives = receives;
    exchange.receive_count = receive_count;
    exchange.request_count = send_count + receive_count;
    for (uint32_t i = 0; r == MPI_SUCCESS && i < receive_count; i++) {
        CHECK(receives[i].len <= INT32_MAX);
        r = MPI_Irecv(receives[i].bytes, (int)receives[i].len, MPI_BYTE, (int)receives[i].rank, MESSAGE_TAG,
                      MPI_COMM_WORLD, &exchange.requests[i]);
    }
    for (uint32_t i = 0; r == MPI_SUCCESS && i < send_count; i++) {
        CHECK(sends[i].len <= INT32_MAX);
        r = MPI_Isend(sends[i].bytes, (int)sends[i].len, MPI_BYTE, (int)sends[i].rank, MESSAGE_TAG,
                      MPI_COMM_WORLD, &exchange.requests[receive_count + i]);
    }
    return r == MPI_SUCCESS ? 0 : -EIO;
}

static int poll_done(void *arg)
{
    (void)arg;
    int done = 0;
    MPI_Status statuses[2 * RANKS_MAX];
    int r = MPI_Testall((int)exchange.request_count, exchange.requests, &done, statuses);
    for (uint32_t i = 0; r == MPI_ERR_IN_STATUS && i < exchange.receive_count; i++)
        if (statuses[i].MPI_ERROR == MPI_ERR_TRUNCATE) return ERR_PEER;
    if (r != MPI_SUCCESS) return -EIO;
    for (uint32_t i = 0; done && i < exchange.receive_count; i++) {
        int len;
        (void)MPI_Get_count(&statuses[i], MPI_BYTE, &len); // of bytes: always whole
        exchange.receives[i].len = (size_t)len;
    }
    return done ? 1 : 0;
}

int mpi_messages(struct dist_messages *ret_messages, struct err *err)
{
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS)
        return ERR(err, ERR_CONFIG, "MPI does not return errors");
    *ret_messages = (struct dist_messages){.post = post, .poll = poll_done};
    return 0;
}

void mpi_leave(void)
{
    if (joined) (void)MPI_Finalize();
}
