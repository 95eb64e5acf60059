/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 1024 };

static const char *log_name = "kvasir";
static enum log_level log_level_max = LOG_LEVEL_INFO;
static bool log_journal;

void log_init(const char *name, enum log_level level)
{
    log_name = name;
    log_level_max = level;
    log_journal = getenv("JOURNAL_STREAM") != NULL;
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *ret_level = (enum log_level)i;
        return 0;
    }
    return -EINVAL;
}

/* One write(2) per line, so that lines of several processes on one stderr do not interleave. */
void log_line(enum log_level level, const char *format, ...)
{
    static const char *const words[] = {"error", "warn", "info", "debug"};
    static const int priorities[] = {3, 4, 6, 7}; // syslog(3)
    if (level > log_level_max) return;
    char line[LINE_BYTES_MAX];
    size_t used;
    if (log_journal) {
        used = (size_t)snprintf(line, sizeof line, "<%d>", priorities[level]);
    } else {
        struct timespec now;
        struct tm utc;
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &utc);
        used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
        used += (size_t)snprintf(line + used, sizeof line - used,
                                 ".%03ldZ %s[%d] %s: ", now.tv_nsec / 1000000, log_name, (int)getpid(),
                                 words[level]);
    }
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n < 0) return;
    used += (size_t)n;
    if (used > sizeof line - 2) used = sizeof line - 2;
    line[used++] = '\n';
    (void)!write(STDERR_FILENO, line, used); // nowhere left to report a failing log
}
