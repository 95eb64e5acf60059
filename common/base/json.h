/* SPDX-License-Identifier: Apache-2.0 */
/* json - the strict gate before cJSON: RFC 8259 grammar, UTF-8, depth, checked in one pass over the
 * bytes without recursion or allocation. cJSON alone accepts what the RFC does not. */
#ifndef KVASIR_BASE_JSON_H
#define KVASIR_BASE_JSON_H

#include <stddef.h>

#include "common/base/err.h"

struct cJSON;

/* 0 when [text, text+len) is exactly one JSON text with nesting at most depth_max. ERR_INPUT:
 * "json: offset N: why". Lone surrogate escapes are refused; "\u0000" is accepted by the grammar. A BOM is refused. */
int json_check(const char *text, size_t len, unsigned depth_max, struct err *err);

/* json_check, then cJSON_ParseWithLength. The caller owns *ret_json (cJSON_Delete). Refused here on top of
 * the grammar, ERR_INPUT, because cJSON would silently change it: an escaped NUL inside a string (with
 * its offset), a number token longer than JSON_NUMBER_BYTES_MAX, a repeated key of the top object. -ENOMEM as such.
 * Range checks are the caller's: cJSON makes 1e400 an infinity and rounds integers beyond 2^53. */
int json_parse(const char *text, size_t len, unsigned depth_max, struct cJSON **ret_json, struct err *err);

/* json_parse for bytes of strangers: a text of more than values_max values (all but keys) or JSON_TOP_KEYS_MAX keys
 * of the top object is refused with ERR_LIMIT before anything is allocated, because "[1,1,1,..." grows about
 * fortyfold in cJSON: JSON_VALUE_BYTES a value. *ret_values is how many there are. */
enum { JSON_VALUE_BYTES = 80, JSON_NUMBER_BYTES_MAX = 63 };
int json_parse_bounded(const char *text, size_t len, unsigned depth_max, size_t values_max,
                       struct cJSON **ret_json, size_t *ret_values, struct err *err);

/* The bytes of the value of a key of the top object, for what cJSON rounds (integers beyond 2^53). Only for a text
 * that was parsed well; a key written with escapes is not found. NULL when there is none. */
const char *json_top_value(const char *text, size_t len, const char *key, size_t *ret_len);

#endif
