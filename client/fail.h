/* SPDX-License-Identifier: Apache-2.0 */
/* fail - fills struct kvasir_error. Whatever a server says passes through text_clean, so that no
 * control character or half a UTF-8 sequence of it reaches a terminal or a log. */
#ifndef KVASIR_CLIENT_FAIL_H
#define KVASIR_CLIENT_FAIL_H

#include <stddef.h>

#include "client/kvasir.h"

struct cJSON;

/* Copies at most cap - 1 bytes of [bytes, bytes + len) and a NUL: control characters (C0, DEL, C1)
 * become spaces, malformed UTF-8 becomes '?', a sequence that does not fit and spaces at the end are left out. */
void text_clean(char *out, size_t cap, const char *bytes, size_t len);

/* Empties *error (NULL is fine). Every public call starts with it. */
void fail_clear(struct kvasir_error *error);

/* Sets code and text, keeps the other fields, returns code. error may be NULL. */
int fail(struct kvasir_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* KVASIR_ERR_LIMIT for -EMSGSIZE, KVASIR_ERR_MEMORY for anything else, with what in the text. */
int fail_buf(struct kvasir_error *error, int buf_error, const char *what);

/* Reads the error object of an answer into *error: OpenAI's and vLLM's {"error":{...}}, {"error":"..."},
 * SGLang's flat {"object":"error"}, FastAPI's {"detail":...}. Returns whether there was one. */
int fail_read_json(struct kvasir_error *error, const struct cJSON *json);

/* A reply whose status is not 2xx: KVASIR_ERR_HTTP with what the body says, JSON or not. */
int fail_http(struct kvasir_error *error, long status, const char *path, const char *body, size_t body_bytes);

/* An error object in a running stream: KVASIR_ERR_SERVER. */
int fail_stream(struct kvasir_error *error, const struct cJSON *json);

#endif
