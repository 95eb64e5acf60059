/* SPDX-License-Identifier: Apache-2.0 */
/* shm_guard - runs a test program's cases in a child and removes its shared memory afterwards, however the
 * child ended. The instance name carries the parent's pid, so that parallel runs do not meet. */
#ifndef KVASIR_TESTS_UNIT_SHM_GUARD_H
#define KVASIR_TESTS_UNIT_SHM_GUARD_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/limits.h"
#include "common/shm/segment.h"

static char shm_instance[INSTANCE_BYTES_MAX + 1]; // of this run

/* Exit status of run() in a child, as a shell tells it. */
static inline int run_in_child(int (*run)(void))
{
    (void)fflush(NULL); // nothing of ours is printed twice
    pid_t pid = fork();
    if (pid < 0) abort();
    if (pid == 0) exit(run());
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline int shm_guard_run(int (*run)(void))
{
    (void)snprintf(shm_instance, sizeof shm_instance, "test-%ld", (long)getpid());
    int status = run_in_child(run);
    (void)segment_unlink_all(shm_instance); // what a failed case left
    (void)segment_unlink(shm_instance, "lock");
    return status;
}

#endif
