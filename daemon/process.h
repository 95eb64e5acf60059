/* SPDX-License-Identifier: Apache-2.0 */
/* process - a child process watched by pidfd on the loop: no SIGCHLD, no race with a re-used pid. */
#ifndef KVASIR_DAEMON_PROCESS_H
#define KVASIR_DAEMON_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include <uv.h>

#include "common/base/err.h"

struct process {
    uv_poll_t poll; // on pidfd; readable when the child is dead
    pid_t pid;      // 0: none
    int pidfd;
    bool closing;
    void (*on_exit)(struct process *process, int status, int signal); // status valid when signal is 0
    void (*on_closed)(struct process *process);
    void *owner;
};

/* Starts argv[0] with exactly this environment; stdin is /dev/null, stdout and stderr are inherited, no other
 * descriptor is. on_exit fires once, after the child was reaped. If this fails, on_exit never fires. */
int process_start(uv_loop_t *loop, struct process *process, const char *const argv[], char *const envp[],
                  struct err *err);
int process_signal(struct process *process, int signal); // by pidfd; -ESRCH when it is gone
bool process_running(const struct process *process);

#endif
