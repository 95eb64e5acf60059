/* SPDX-License-Identifier: Apache-2.0 */
#include "common/shm/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* "PID (comm) S ppid ...": comm may hold spaces and parentheses, so fields are counted behind the last ')'.
 * -ENOENT for a zombie. */
static int parse_stat(const char *text, int wanted, uint64_t *ret_value)
{
    const char *p = strrchr(text, ')');
    if (!p || p[1] != ' ') return -EIO;
    p += 2;
    if (*p == 'Z' || *p == 'X') return -ENOENT;
    for (int field = 3; field < wanted; field++) {
        p = strchr(p, ' ');
        if (!p) return -EIO;
        p++;
    }
    char *end;
    errno = 0;
    uint64_t value = strtoull(p, &end, 10);
    if (end == p || errno) return -EIO;
    *ret_value = value;
    return 0;
}

/* A number of /proc/PID/stat by its field in proc(5). */
static int stat_field(int64_t pid, int field, uint64_t *ret_value)
{
    char path[64], text[1024];
    if (pid <= 0) return -ENOENT;
    (void)snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid); // fits
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? -ENOENT : -EIO;
    ssize_t len = read(fd, text, sizeof text - 1);
    int errno_read = errno;
    (void)close(fd); // read only
    if (len <= 0) return len < 0 && errno_read == ESRCH ? -ENOENT : -EIO;
    text[len] = '\0';
    return parse_stat(text, field, ret_value);
}

int owner_start(int64_t pid, uint64_t *ret_start)
{
    return stat_field(pid, 22, ret_start);
}

bool owner_is_ending(int64_t pid)
{
    enum { PF_EXITING = 4 }; // of the kernel's flags, field 9
    uint64_t flags;
    int r = stat_field(pid, 9, &flags);
    return r == -ENOENT || (r == 0 && flags & PF_EXITING);
}

bool owner_is_alive(int64_t pid, uint64_t start)
{
    uint64_t now;
    return owner_start(pid, &now) == 0 && now == start;
}

bool owner_kill(int64_t pid, uint64_t start)
{
    if (pid <= 0 || pid > INT32_MAX || start == 0) return false;
    // The descriptor first, then the look: what it refers to is then the process that was looked at.
    int pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (pidfd < 0) return false; // gone
    bool killed = owner_is_alive(pid, start) && syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0;
    (void)close(pidfd); // never written
    return killed;
}
