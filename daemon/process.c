/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static void poll_closed(uv_handle_t *handle)
{
    struct process *process = handle->data;
    process->closing = false;
    if (process->on_closed) process->on_closed(process);
}

static void child_died(uv_poll_t *poll, int poll_status, int events)
{
    (void)poll_status; // whatever poll says, waitid knows
    (void)events;
    struct process *process = poll->data;
    siginfo_t info = {0};
    int r = waitid((idtype_t)P_PIDFD, (id_t)process->pidfd, &info, WEXITED | WNOHANG);
    if (r < 0 && errno != ECHILD) return;   // ECHILD: somebody else reaped it; gone all the same
    if (r == 0 && info.si_pid == 0) return; // a spurious wake
    bool exited = info.si_code == CLD_EXITED;
    process->pid = 0;
    process->closing = true;
    uv_close((uv_handle_t *)&process->poll, poll_closed);
    close(process->pidfd);
    process->pidfd = -1;
    process->on_exit(process, exited ? info.si_status : 0, exited ? 0 : info.si_status);
}

/* Spawns with every signal at its default and unblocked: the daemon's own settings must not leak. */
static int spawn(pid_t *ret_pid, const char *const argv[], char *const envp[])
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int r = posix_spawn_file_actions_init(&actions);
    if (r) return -r;
    r = posix_spawnattr_init(&attributes);
    if (r) {
        posix_spawn_file_actions_destroy(&actions);
        return -r;
    }
    r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!r) r = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
    if (!r) r = posix_spawnattr_setsigmask(&attributes, &none);
    if (!r) r = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!r) r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (!r)
        r = posix_spawn(ret_pid, argv[0], &actions, &attributes, (char *const *)(uintptr_t)argv,
                        envp) /* writes none of them */;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return -r;
}

int process_start(uv_loop_t *loop, struct process *process, const char *const argv[], char *const envp[],
                  struct err *err)
{
    CHECK(!process_running(process));
    CHECK(!process->closing);
    pid_t pid = 0;
    int r = spawn(&pid, argv, envp);
    if (r < 0) return err_sys(err, -r, "cannot start %s", argv[0]);
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        r = err_sys(err, errno, "pidfd_open");
        goto kill;
    }
    r = uv_poll_init(loop, &process->poll, pidfd);
    if (r < 0) {
        r = ERR(err, r, "watching %s: %s", argv[0], uv_strerror(r));
        close(pidfd);
        goto kill;
    }
    process->poll.data = process;
    process->pid = pid;
    process->pidfd = pidfd;
    r = uv_poll_start(&process->poll, UV_READABLE, child_died);
    CHECK(r == 0); // a fresh handle on a good descriptor
    return 0;
kill:
    (void)kill(pid, SIGKILL); // our own unreaped child: the pid is still ours
    (void)waitpid(pid, NULL, 0);
    return r;
}

int process_signal(struct process *process, int signal)
{
    if (!process_running(process)) return -ESRCH;
    return syscall(SYS_pidfd_send_signal, process->pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

bool process_running(const struct process *process)
{
    return process->pid != 0;
}
