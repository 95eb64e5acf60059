/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/err.h"

#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int code, const char *format, ...)
{
    if (!err) return code;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args); // a cut text is still a text
    va_end(args);
    err->code = code;
    return code;
}

int err_sys(struct err *err, int errno_value, const char *format, ...)
{
    if (!err) return -errno_value;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args); // a cut text is still a text
    va_end(args);
    size_t used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof err->text - used, ": %s", strerror(errno_value));
    err->code = -errno_value;
    return -errno_value;
}

const char *err_name(int code)
{
    switch (code) {
#define X(name, value, exit_status, text) \
    case name: return text;
        ERR_CODES(X)
#undef X
    default: break;
    }
    if (code >= 0) return "success";
    return strerror(-code);
}

int err_exit_status(int code)
{
    switch (code) {
#define X(name, value, exit_status, text) \
    case name: return exit_status;
        ERR_CODES(X)
#undef X
    default: break;
    }
    return code >= 0 ? 0 : 71;
}
