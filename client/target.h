/* SPDX-License-Identifier: Apache-2.0 */
/* target - which server a command means, and how its failures are told to people. */
#ifndef KVASIR_CLIENT_TARGET_H
#define KVASIR_CLIENT_TARGET_H

#include "client/kvasir.h"
#include "client/opts.h"

struct target {
    const char *url, *uds, *api_key; // as given; NULL: from the environment or the default
};

#define TARGET_OPTS(target) \
    {NULL, OPT_FLAG, NULL, NULL, "Server:", 0, 0}, \
        {"url", OPT_TEXT, "URL", &(target)->url, "address; KVASIR_URL, else http://127.0.0.1:8000", 0, 0}, \
        {"uds", OPT_TEXT, "PATH", &(target)->uds, "unix socket instead; KVASIR_UDS", 0, 0}, \
    { \
        "api-key", OPT_TEXT, "KEY", &(target)->api_key, "KVASIR_API_KEY (a key given here shows in ps)", 0, \
            0 \
    }

/* Fills from the environment what was not given: a --url beats KVASIR_UDS. Then opens. Exit status:
 * 0, or EX_USAGE after a line on stderr. */
int target_open(struct target *target, struct kvasir_client **ret_client);

/* "http://127.0.0.1:8000" or "unix:/path"; after target_open. Borrowed from target or static. */
const char *target_text(const struct target *target);

/* Tells an error of a call on stderr, with what to do next. Returns the exit status for it. */
int target_complain(const struct target *target, const struct kvasir_error *error);

#endif
