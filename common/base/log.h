/* SPDX-License-Identifier: Apache-2.0 */
/* log - one line per event on stderr, for the process that decides what happens next. Libraries do
 * not log. A line never holds user text. Under the journal ($JOURNAL_STREAM) lines carry the
 * "<N>" priority prefix of sd-daemon(3) and no time; elsewhere they carry a UTC time. */
#ifndef KVASIR_BASE_LOG_H
#define KVASIR_BASE_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Name is borrowed for ever (a string literal), e.g. "kvasird". Level: lines above it are dropped. */
void log_init(const char *name, enum log_level level);
int log_level_parse(const char *text, enum log_level *ret_level); // error|warn|info|debug; -EINVAL

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
