/* SPDX-License-Identifier: Apache-2.0 */
/* request - struct kvasir_request to the JSON body of a chat or a completion. Pure: no I/O. */
#ifndef KVASIR_CLIENT_REQUEST_H
#define KVASIR_CLIENT_REQUEST_H

#include <stdbool.h>
#include <stddef.h>

#include "client/kvasir.h"

enum request_kind { REQUEST_CHAT, REQUEST_COMPLETE };

/* Copies a caller's struct of whatever age to the newest shape. KVASIR_ERR_ARGUMENT when its size is none. */
int request_copy(const struct kvasir_request *given, struct kvasir_request *ret_request,
                 struct kvasir_error *error);

/* The body as NUL-terminated JSON; cJSON_free() it. KVASIR_ERR_ARGUMENT names the field at fault. A stream asks
 * for usage too (stream_options.include_usage). */
int request_body(const struct kvasir_request *request, enum request_kind kind, bool is_stream,
                 char **ret_body, struct kvasir_error *error);

#endif
