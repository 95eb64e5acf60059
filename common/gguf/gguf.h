/* SPDX-License-Identifier: Apache-2.0 */
/* gguf - bounded parser of GGUF v2/v3 over (bytes, size). No I/O here: file.h maps files.
 *
 * A `struct gguf` borrows the bytes it was parsed from until gguf_free(); keys, strings, arrays and
 * tensor data are pointers into them. Everything is verified at parse: each length against what is
 * left of the input before anything is allocated, counts against the bytes they need at least,
 * duplicate keys and tensor names, dimensions (1..4, none zero, products without overflow), block
 * sizes, alignment (a power of two), tensor ranges inside the input and not overlapping. Errors name
 * the byte offset: "gguf: offset 1234: ...". Nothing is allocated larger than the input justifies.
 * Format: the GGUF specification of the ggml project. */
#ifndef KVASIR_GGUF_GGUF_H
#define KVASIR_GGUF_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/gguf/types.h"

struct gguf; // opaque, immutable after parse

enum gguf_value_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};

/* A string of the file: not NUL-terminated, may hold any bytes. */
struct gguf_string {
    const char *bytes;
    size_t len;
};

struct gguf_tensor {
    struct gguf_string name;
    enum tensor_type type;
    uint32_t dim_count;
    uint64_t dims[4];    // dims[0] is the contiguous (input) dimension; unused ones are 1
    const uint8_t *data; // inside the parsed bytes
    size_t data_bytes;   // exact
};

/* Parses [bytes, bytes+size). -> 0, ERR_FORMAT, ERR_VERSION, ERR_LIMIT, ERR_UNSUPPORTED (an element type
 * that this build does not know), -ENOMEM. */
int gguf_parse(const uint8_t *bytes, size_t size, struct gguf **ret_gguf, struct err *err);
void gguf_free(struct gguf *gguf); // NULL is fine

uint32_t gguf_version(const struct gguf *gguf);

/* Getters: 0 and *ret set, -ENOENT when the key is absent, ERR_FORMAT when its type does not fit
 * (integers of any width convert when the value fits; f32/f64 convert). */
int gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *ret_value);
int gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *ret_value);
int gguf_get_f32(const struct gguf *gguf, const char *key,
                 float *ret_value); // also from integers; finite only
int gguf_get_bool(const struct gguf *gguf, const char *key, bool *ret_value);
int gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *ret_value);

/* Arrays. ret_count: elements. Strings of an array are walked with gguf_array_string in O(1) (an
 * index is built at parse). */
int gguf_get_array(const struct gguf *gguf, const char *key, enum gguf_value_type type, size_t *ret_count,
                   const void **ret_data); // fixed-size types; data may be unaligned: memcpy out
int gguf_get_string_array(const struct gguf *gguf, const char *key, size_t *ret_count,
                          const struct gguf_string **ret_strings); // owned by gguf

size_t gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t tensor_idx);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name); // NULL when absent

/* Identity of the model: XXH3-128 over the header bytes, the input's size, and the first and last
 * 4 KiB of every tensor. Two files that differ only deep inside a tensor may share it; see
 * docs/ARCHITECTURE.md. */
struct hash128 gguf_digest(const struct gguf *gguf);

#endif
