/* SPDX-License-Identifier: Apache-2.0 */
/* params_state - what params.c and params_retention.c share. Nobody else includes this. */
#ifndef KVASIR_DAEMON_PARAMS_STATE_H
#define KVASIR_DAEMON_PARAMS_STATE_H

#include <cjson/cJSON.h>

#include "daemon/params.h"

/* Fills *error. -> ERR_INPUT. */
int params_refuse(struct params_error *error, int status, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
const cJSON *params_field(const cJSON *json, const char *field); // NULL: absent or null
bool params_is_integer(const cJSON *item);

/* params_retention.c: the hints of a body. 0, or ERR_INPUT with *error filled. */
int params_retention_read(const cJSON *json, struct params *params, struct params_error *error);

#endif
