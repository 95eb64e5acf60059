/* SPDX-License-Identifier: Apache-2.0 */
#include "common/shm/owner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "PID (comm) S ppid ...": comm may hold spaces and parentheses, so fields are counted behind the last ')'. */
static int parse_stat(const char *text, uint64_t *ret_start)
{
    const char *p = strrchr(text, ')');
    if (!p || p[1] != ' ') return -EIO;
    p += 2;
    if (*p == 'Z' || *p == 'X') return -ENOENT;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p) return -EIO;
        p++;
    }
    char *end;
    errno = 0;
    uint64_t start = strtoull(p, &end, 10);
    if (end == p || errno) return -EIO;
    *ret_start = start;
    return 0;
}

int owner_start(int64_t pid, uint64_t *ret_start)
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
    return parse_stat(text, ret_start);
}

bool owner_is_alive(int64_t pid, uint64_t start)
{
    uint64_t now;
    return owner_start(pid, &now) == 0 && now == start;
}
