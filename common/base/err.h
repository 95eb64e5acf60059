/* SPDX-License-Identifier: Apache-2.0 */
/* err - one error convention for the whole house.
 *
 * Functions return an int: >= 0 is good, negative is -errno or one of ERR_CODES below. Functions
 * whose failure a person will read also take a `struct err *` (last argument, may be NULL) and fill
 * it with one line of text, no newline, no user text. The lowest layer that knows the reason sets
 * it; layers above pass it on. */
#ifndef KVASIR_BASE_ERR_H
#define KVASIR_BASE_ERR_H

#include <stdarg.h>

enum { ERR_TEXT_BYTES = 512 };

/* Codes start below every errno. Third column: exit status of a process that ends with it
 * (sysexits.h: 64 usage, 65 data, 70 software, 71 OS, 75 temporary failure, 78 configuration). */
#define ERR_CODES(X) \
    X(ERR_FORMAT, -1001, 65, "malformed data") \
    X(ERR_VERSION, -1002, 65, "unsupported version") \
    X(ERR_UNSUPPORTED, -1003, 65, "not supported by this build") \
    X(ERR_LIMIT, -1004, 65, "limit exceeded") \
    X(ERR_CONFIG, -1005, 78, "configuration") \
    X(ERR_USAGE, -1006, 64, "usage") \
    X(ERR_BUSY, -1007, 75, "in use by another process") \
    X(ERR_PEER, -1008, 70, "peer process wrote invalid data") \
    X(ERR_PEER_DEAD, -1009, 70, "peer process died") \
    X(ERR_INPUT, -1010, 65, "invalid request") \
    X(ERR_FULL, -1011, 75, "queue or pool is full")

enum err_code {
#define X(name, value, exit_status, text) name = value,
    ERR_CODES(X)
#undef X
};

struct err {
    int code; // 0 while unset
    char text[ERR_TEXT_BYTES];
};

/* Sets code and text (err may be NULL) and returns code, so that `return ERR(...)` reads well. */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
#define ERR(err, code, ...) err_set((err), (code), __VA_ARGS__)

/* Like ERR, and appends ": " and the text of errno_value. Returns -errno_value. */
int err_sys(struct err *err, int errno_value, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Static text of a code (-errno or ERR_CODES). Never NULL. */
const char *err_name(int code);

/* Exit status for a process that ends with this code: the table above, 71 for -errno, 0 for >= 0. */
int err_exit_status(int code);

#endif
