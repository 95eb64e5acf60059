/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_impl - the inside of `struct gguf`, for parse.c, which fills it, and gguf.c, which reads it. */
#ifndef KVASIR_GGUF_GGUF_IMPL_H
#define KVASIR_GGUF_GGUF_IMPL_H

#include "common/gguf/gguf.h"

/* One key and its value. */
struct gguf_entry {
    struct gguf_string key;
    enum gguf_value_type type;
    enum gguf_value_type element_type; // type == GGUF_ARRAY only
    size_t offset;                     // of the entry, for errors
    size_t count;                      // elements of an array, else 1
    const uint8_t *value;              // first byte of the scalar or of the first element
    struct gguf_string string;         // type == GGUF_STRING
    struct gguf_string *strings;       // owned; count of them; arrays of strings only
};

struct gguf {
    const uint8_t *bytes; // borrowed until gguf_free
    size_t size;
    uint32_t version;
    uint32_t alignment;
    size_t header_bytes; // up to the end of the last tensor info
    size_t data_offset;  // header_bytes rounded up to alignment
    size_t entry_count;
    struct gguf_entry *entries;       // owned, in file order
    const struct gguf_entry **by_key; // owned, sorted by key
    size_t tensor_count;
    struct gguf_tensor *tensors;        // owned, in file order
    const struct gguf_tensor **by_name; // owned, sorted by name
    size_t string_count;                // strings of all arrays so far
};

/* Orders for qsort and bsearch over arrays of pointers. */
int gguf_string_compare(struct gguf_string a, struct gguf_string b);
int gguf_entry_compare(const void *a, const void *b);
int gguf_tensor_compare(const void *a, const void *b);

/* Bytes of one element; 0 for strings, arrays and unknown types, which have no fixed size. */
size_t gguf_value_bytes(uint32_t type);

/* NULL when absent. by_key must be sorted. */
const struct gguf_entry *gguf_entry_find(const struct gguf *gguf, const char *key);

#endif
