/* SPDX-License-Identifier: Apache-2.0 */
/* See gguf.h. What is read from a parsed file: values by key, tensors by name, the digest. Look-ups are
 * binary searches in the two lists that parse.c sorted. */
#include "common/gguf/gguf.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/gguf/gguf_impl.h"

enum { DIGEST_EDGE_BYTES = 4096 };

int gguf_string_compare(struct gguf_string a, struct gguf_string b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = memcmp(a.bytes, b.bytes, len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

int gguf_entry_compare(const void *a, const void *b)
{
    return gguf_string_compare((*(const struct gguf_entry *const *)a)->key,
                               (*(const struct gguf_entry *const *)b)->key);
}

int gguf_tensor_compare(const void *a, const void *b)
{
    return gguf_string_compare((*(const struct gguf_tensor *const *)a)->name,
                               (*(const struct gguf_tensor *const *)b)->name);
}

size_t gguf_value_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return type < COUNT_OF(bytes) ? bytes[type] : 0;
}

const struct gguf_entry *gguf_entry_find(const struct gguf *gguf, const char *key)
{
    const struct gguf_entry wanted = {.key = {.bytes = key, .len = strlen(key)}};
    const struct gguf_entry *wanted_ptr = &wanted;
    const struct gguf_entry **found = bsearch(&wanted_ptr, gguf->by_key, gguf->entry_count,
                                              sizeof *gguf->by_key, gguf_entry_compare);
    return found ? *found : NULL;
}

void gguf_free(struct gguf *gguf)
{
    if (!gguf) return;
    for (size_t i = 0; i < gguf->entry_count; i++) free(gguf->entries[i].strings);
    free(gguf->entries);
    free(gguf->by_key);
    free(gguf->tensors);
    free(gguf->by_name);
    free(gguf);
}

uint32_t gguf_version(const struct gguf *gguf)
{
    return gguf->version;
}

/* ---- values ---- */

/* The integer of a scalar entry as magnitude and sign. ERR_FORMAT when it is no integer. */
static int entry_integer(const struct gguf_entry *entry, uint64_t *ret_value, bool *ret_negative)
{
    int64_t value = 0;
    switch (entry->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64:
        *ret_value = 0;
        memcpy(ret_value, entry->value, gguf_value_bytes(entry->type)); // little-endian: the low bytes
        *ret_negative = false;
        return 0;
    case GGUF_I8: value = (int8_t)*entry->value; break;
    case GGUF_I16: {
        int16_t narrow;
        memcpy(&narrow, entry->value, sizeof narrow);
        value = narrow;
        break;
    }
    case GGUF_I32: {
        int32_t narrow;
        memcpy(&narrow, entry->value, sizeof narrow);
        value = narrow;
        break;
    }
    case GGUF_I64: memcpy(&value, entry->value, sizeof value); break;
    default: return ERR_FORMAT;
    }
    *ret_negative = value < 0;
    *ret_value = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    return 0;
}

int gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *ret_value)
{
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    uint64_t value;
    bool negative;
    int r = entry_integer(entry, &value, &negative);
    if (r < 0) return r;
    if (negative) return ERR_FORMAT;
    *ret_value = value;
    return 0;
}

int gguf_get_u32(const struct gguf *gguf, const char *key, uint32_t *ret_value)
{
    uint64_t value;
    int r = gguf_get_u64(gguf, key, &value);
    if (r < 0) return r;
    if (value > UINT32_MAX) return ERR_FORMAT;
    *ret_value = (uint32_t)value;
    return 0;
}

int gguf_get_f32(const struct gguf *gguf, const char *key, float *ret_value)
{
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    float value;
    if (entry->type == GGUF_F32) {
        memcpy(&value, entry->value, sizeof value);
    } else if (entry->type == GGUF_F64) {
        double wide;
        memcpy(&wide, entry->value, sizeof wide);
        if (!(fabs(wide) <= (double)__FLT_MAX__)) return ERR_FORMAT; // also NaN
        value = (float)wide;
    } else {
        uint64_t magnitude;
        bool negative;
        int r = entry_integer(entry, &magnitude, &negative);
        if (r < 0) return r;
        value = negative ? -(float)magnitude : (float)magnitude;
    }
    if (!isfinite(value)) return ERR_FORMAT;
    *ret_value = value;
    return 0;
}

int gguf_get_bool(const struct gguf *gguf, const char *key, bool *ret_value)
{
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    if (entry->type != GGUF_BOOL) return ERR_FORMAT;
    *ret_value = *entry->value != 0;
    return 0;
}

int gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *ret_value)
{
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    if (entry->type != GGUF_STRING) return ERR_FORMAT;
    *ret_value = entry->string;
    return 0;
}

int gguf_get_array(const struct gguf *gguf, const char *key, enum gguf_value_type type, size_t *ret_count,
                   const void **ret_data)
{
    CHECK(gguf_value_bytes(type) > 0); // strings have their own getter
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    if (entry->type != GGUF_ARRAY || entry->element_type != type) return ERR_FORMAT;
    *ret_count = entry->count;
    *ret_data = entry->value;
    return 0;
}

int gguf_get_string_array(const struct gguf *gguf, const char *key, size_t *ret_count,
                          const struct gguf_string **ret_strings)
{
    const struct gguf_entry *entry = gguf_entry_find(gguf, key);
    if (!entry) return -ENOENT;
    if (entry->type != GGUF_ARRAY || entry->element_type != GGUF_STRING) return ERR_FORMAT;
    *ret_count = entry->count;
    *ret_strings = entry->strings;
    return 0;
}

/* ---- tensors and identity ---- */

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t tensor_idx)
{
    CHECK(tensor_idx < gguf->tensor_count);
    return &gguf->tensors[tensor_idx];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    const struct gguf_tensor wanted = {.name = {.bytes = name, .len = strlen(name)}};
    const struct gguf_tensor *wanted_ptr = &wanted;
    const struct gguf_tensor **found = bsearch(&wanted_ptr, gguf->by_name, gguf->tensor_count,
                                               sizeof *gguf->by_name, gguf_tensor_compare);
    return found ? *found : NULL;
}

struct hash128 gguf_digest(const struct gguf *gguf)
{
    struct hash128 digest = hash128(gguf->bytes, gguf->header_bytes);
    uint64_t size = gguf->size;
    digest = hash128_chain(digest, &size, sizeof size);
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        const struct gguf_tensor *tensor = &gguf->tensors[i];
        size_t edge = tensor->data_bytes < DIGEST_EDGE_BYTES ? tensor->data_bytes : DIGEST_EDGE_BYTES;
        digest = hash128_chain(digest, tensor->data, edge);
        digest = hash128_chain(digest, tensor->data + tensor->data_bytes - edge, edge);
    }
    return digest;
}
