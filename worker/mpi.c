/* SPDX-License-Identifier: Apache-2.0 */
/* See mpi.h. Open MPI 4.1's mpirun starts the ranks of this host itself, from its main thread, so that they may ask the
 * kernel to die with it. What it is told:
 *
 *   --bind-to none, --oversubscribe  CPUs are shared out by the ranks themselves; how many ranks there are is the user's
 *   plm isolated, oob tcp on lo      of one host: no other is asked for anything
 *   -H with counts, --map-by slot    of several: ranks follow each other by host. How they are reached is Open MPI's to choose
 *                                    (ssh, Slurm), and its user's: OMPI_MCA_plm_rsh_agent, btl_tcp_if_include, ...
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
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/limits.h"

enum { ARGV_COUNT_MAX = 160, NUMBER_BYTES = 24, MESSAGE_TAG = 1, NAP_NS = 1000000 };

/* A host that is silent for the sum of these is lost: mpirun ends the group then, and on that host Open MPI's daemon
 * the ranks. A connection of theirs is idle nearly always, so that this is the kernels' to find out. */
#define KEEPALIVE_S "3"
#define KEEPALIVE_EACH_S "1"
#define KEEPALIVE_COUNT "4"

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

/* What of our environment the ranks of other hosts get as well; OMPI_MCA_* travel by themselves. */
static const char *const exported[] = {"KVASIR_KERNELS", "KVASIR_DIST", "LD_LIBRARY_PATH", "ASAN_OPTIONS",
                                       "UBSAN_OPTIONS"};

struct command {
    const char *argv[ARGV_COUNT_MAX];
    size_t used;
};

static void add(struct command *command, const char *word)
{
    if (command->used < ARGV_COUNT_MAX)
        command->argv[command->used++] = word; // mpi_launch looks whether it is full
}

static void add_mca(struct command *command, const char *name, const char *value)
{
    add(command, "--mca");
    add(command, name);
    add(command, value);
}

static void add_places(struct command *command, const char *hosts)
{
    if (!hosts[0]) {
        add_mca(command, "plm", "isolated");
        add_mca(command, "oob_tcp_if_include", "lo");
        add_mca(command, "btl", "vader,self");
        return;
    }
    add(command, "-H");
    add(command, hosts);
    add(command, "--map-by");
    add(command, "slot");
    add(command, "--wdir"); // one that is on every host
    add(command, "/");
    for (size_t i = 0; i < COUNT_OF(exported); i++) {
        if (!getenv(exported[i])) continue;
        add(command, "-x");
        add(command, exported[i]);
    }
    add_mca(command, "btl", "tcp,vader,self");
    add_mca(command, "oob_tcp_keepalive_time", KEEPALIVE_S);
    add_mca(command, "oob_tcp_keepalive_intvl", KEEPALIVE_EACH_S);
    add_mca(command, "oob_tcp_keepalive_probes", KEEPALIVE_COUNT);
}

int mpi_launch(uint32_t rank_count, const char *hosts, const char *session_dir, char **argv, struct err *err)
{
    char ranks[NUMBER_BYTES], pid[NUMBER_BYTES];
    struct command command = {.used = 0};
    int r = consent_verify(err);
    if (r < 0) return r;
    (void)snprintf(ranks, sizeof ranks, "%" PRIu32, rank_count); // both fit
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    const char *const front[] = {MPIRUN, "--quiet", "-n", ranks, "--oversubscribe", "--bind-to", "none"};
    for (size_t i = 0; i < COUNT_OF(front); i++) add(&command, front[i]);
    add_places(&command, hosts);
    add_mca(&command, "btl_vader_single_copy_mechanism", "none");
    add_mca(&command, "btl_vader_backing_directory", session_dir);
    add_mca(&command, "orte_tmpdir_base", session_dir);
    add_mca(&command, "pml", "ob1");
    add_mca(&command, "osc", "^ucx");
    add_mca(&command, "coll", "basic,libnbc,self");
    for (size_t i = 0; argv[i]; i++) add(&command, argv[i]);
    add(&command, "--parent-pid");
    add(&command, pid);
    if (command.used == ARGV_COUNT_MAX) return ERR(err, ERR_USAGE, "too many arguments");
    command.argv[command.used] = NULL;
    (void)execv(MPIRUN,
                (char *const *)(uintptr_t)command.argv); // writes none of them; returns with an error only
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

/* MPI's own waits spin; what we wait for here is another rank's loading of the model. */
static int nap_until(MPI_Request *request, int r, struct err *err)
{
    int done = 0;
    while (r == MPI_SUCCESS && !done) {
        r = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (r == MPI_SUCCESS && !done)
            (void)nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL); // shorter is fine
    }
    return r == MPI_SUCCESS ? 0 : ERR(err, -EIO, "MPI has lost a rank");
}

int mpi_gather(const void *own, size_t bytes, void *all, struct err *err)
{
    MPI_Request request;
    CHECK(bytes <= INT32_MAX);
    int r = MPI_Iallgather(own, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &request);
    return nap_until(&request, r, err);
}

int mpi_hand(void *inout, size_t bytes, struct err *err)
{
    MPI_Request request;
    CHECK(bytes <= INT32_MAX);
    int r = MPI_Ibcast(inout, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD, &request);
    return nap_until(&request, r, err);
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
