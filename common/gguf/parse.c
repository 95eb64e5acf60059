/* SPDX-License-Identifier: Apache-2.0 */
/* parse - gguf_parse(). One pass over the input, in file order:
 *
 *   "GGUF" | u32 version | u64 tensors | u64 keys | keys ... | tensor infos ... | pad | tensor data
 *   key:    string key, u32 type, value        string: u64 bytes, bytes
 *   array:  u32 element type, u64 count, elements
 *   tensor: string name, u32 dim_count, u64 dims[dim_count], u32 type, u64 offset into tensor data
 *
 * then both name lists are sorted (duplicates fall out side by side, look-ups are binary searches)
 * and the tensors are walked in order of offset, where overlaps fall out.
 * What the input can make us allocate: 80 bytes for each key (>= 14 bytes of input), 88 for each
 * tensor (>= 33), 16 for each string of an array (>= 8), all below the *_MAX here. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/gguf/gguf_impl.h"
#include "common/gguf/reader.h"

enum {
    VERSION_MIN = 2, // version 1 had 32-bit lengths
    VERSION_MAX = 3,
    KEYS_MAX = 1 << 16,
    KEY_BYTES_MAX = 65535, // as the specification
    TENSORS_MAX = 1 << 17,
    TENSOR_NAME_BYTES_MAX = 64, // as the specification
    STRINGS_MAX = 1 << 24,      // of all string arrays together
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8, // as the specification; data is read as float and uint64_t in place
    ALIGNMENT_MAX = 1 << 20,
    KEY_INPUT_BYTES_MIN = 8 + 1 + 4 + 1,
    TENSOR_INPUT_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
};

/* A name of the file made safe for one line of text: printable ASCII, cut short. */
struct shown {
    char text[TENSOR_NAME_BYTES_MAX + 4];
};

static struct shown show(struct gguf_string name)
{
    struct shown shown;
    size_t len = name.len < TENSOR_NAME_BYTES_MAX ? name.len : TENSOR_NAME_BYTES_MAX;
    for (size_t i = 0; i < len; i++) {
        char c = name.bytes[i];
        shown.text[i] = c >= 0x20 && c < 0x7f && c != '\'' ? c : '?';
    }
    memcpy(shown.text + len, name.len > len ? "..." : "", name.len > len ? 4 : 1);
    return shown;
}

static int tensor_compare_data(const void *a, const void *b)
{
    const uint8_t *data_a = (*(const struct gguf_tensor *const *)a)->data;
    const uint8_t *data_b = (*(const struct gguf_tensor *const *)b)->data;
    return (data_a > data_b) - (data_a < data_b);
}

/* ---- parsing: keys ---- */

static int parse_string_array(struct gguf *gguf, struct reader *reader, struct gguf_entry *entry,
                              uint64_t count)
{
    if (count > STRINGS_MAX - gguf->string_count) {
        return reader_fail(reader, ERR_LIMIT, entry->offset, "key '%s': more than %d strings in arrays",
                           show(entry->key).text, STRINGS_MAX);
    }
    if (count == 0) return 0;
    entry->strings = calloc((size_t)count, sizeof *entry->strings);
    if (!entry->strings) return reader_fail(reader, -ENOMEM, entry->offset, "out of memory");
    for (size_t i = 0; i < count; i++) {
        int r = reader_string(reader, "string of an array", &entry->strings[i]);
        if (r < 0) return r;
    }
    gguf->string_count += (size_t)count;
    return 0;
}

static int parse_array(struct gguf *gguf, struct reader *reader, struct gguf_entry *entry)
{
    uint32_t element_type;
    uint64_t count;
    int r = reader_u32(reader, "array element type", &element_type);
    if (r < 0) return r;
    size_t bytes = gguf_value_bytes(element_type);
    if (bytes == 0 && element_type != GGUF_STRING) {
        return reader_fail(reader, ERR_FORMAT, reader->at - sizeof element_type,
                           "key '%s': array of elements of type %" PRIu32, show(entry->key).text,
                           element_type);
    }
    r = reader_u64(reader, "array count", &count);
    if (r < 0) return r;
    size_t least = bytes ? bytes : sizeof(uint64_t); // a string has at least its length
    if (count > reader_left(reader) / least) {
        return reader_fail(reader, ERR_FORMAT, reader->at - sizeof count,
                           "truncated: key '%s': array of %" PRIu64 " elements, %zu bytes are left",
                           show(entry->key).text, count, reader_left(reader));
    }
    entry->element_type = (enum gguf_value_type)element_type;
    entry->value = reader->bytes + reader->at;
    entry->count = (size_t)count;
    if (element_type == GGUF_STRING) return parse_string_array(gguf, reader, entry, count);
    return reader_take(reader, count * bytes, "array", &entry->value);
}

/* Reads the value of entry, whose key is read. On failure entry->strings may be set: gguf_free. */
static int parse_value(struct gguf *gguf, struct reader *reader, struct gguf_entry *entry)
{
    uint32_t type;
    int r = reader_u32(reader, "value type", &type);
    if (r < 0) return r;
    entry->type = (enum gguf_value_type)type;
    entry->count = 1;
    if (type == GGUF_ARRAY) return parse_array(gguf, reader, entry);
    if (type == GGUF_STRING) return reader_string(reader, "string value", &entry->string);
    size_t bytes = gguf_value_bytes(type);
    if (bytes == 0) {
        return reader_fail(reader, ERR_FORMAT, reader->at - sizeof type,
                           "key '%s': unknown value type %" PRIu32, show(entry->key).text, type);
    }
    r = reader_take(reader, bytes, "value", &entry->value);
    if (r < 0) return r;
    if (type == GGUF_BOOL && *entry->value > 1) {
        return reader_fail(reader, ERR_FORMAT, reader->at - 1, "key '%s': bool of value %u",
                           show(entry->key).text, *entry->value);
    }
    return 0;
}

static int parse_entries(struct gguf *gguf, struct reader *reader, size_t count)
{
    gguf->entries = calloc(count + 1, sizeof *gguf->entries); // + 1: never an empty allocation
    gguf->by_key = calloc(count + 1, sizeof *gguf->by_key);
    if (!gguf->entries || !gguf->by_key) return reader_fail(reader, -ENOMEM, reader->at, "out of memory");
    for (size_t i = 0; i < count; i++) {
        struct gguf_entry *entry = &gguf->entries[i];
        entry->offset = reader->at;
        int r = reader_string(reader, "key", &entry->key);
        if (r < 0) return r;
        if (entry->key.len == 0 || entry->key.len > KEY_BYTES_MAX) {
            return reader_fail(reader, ERR_FORMAT, entry->offset, "key of %zu bytes, not 1..%d",
                               entry->key.len, KEY_BYTES_MAX);
        }
        gguf->entry_count = i + 1; // from here gguf_free() looks at it
        r = parse_value(gguf, reader, entry);
        if (r < 0) return r;
        gguf->by_key[i] = entry;
    }
    qsort(gguf->by_key, count, sizeof *gguf->by_key, gguf_entry_compare);
    for (size_t i = 1; i < count; i++) {
        if (gguf_string_compare(gguf->by_key[i - 1]->key, gguf->by_key[i]->key) != 0) continue;
        return reader_fail(reader, ERR_FORMAT, gguf->by_key[i]->offset, "duplicate key '%s'",
                           show(gguf->by_key[i]->key).text);
    }
    return 0;
}

static int parse_alignment(struct gguf *gguf, const struct reader *reader)
{
    gguf->alignment = ALIGNMENT_DEFAULT;
    const struct gguf_entry *entry = gguf_entry_find(gguf, "general.alignment");
    if (!entry) return 0;
    if (entry->type != GGUF_U32) {
        return reader_fail(reader, ERR_FORMAT, entry->offset, "general.alignment is not a u32");
    }
    uint32_t alignment;
    memcpy(&alignment, entry->value, sizeof alignment);
    bool power_of_two = (alignment & (alignment - 1)) == 0;
    if (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX || !power_of_two) {
        return reader_fail(reader, ERR_FORMAT, entry->offset,
                           "general.alignment %" PRIu32 " is not a power of two in %d..%d", alignment,
                           ALIGNMENT_MIN, ALIGNMENT_MAX);
    }
    gguf->alignment = alignment;
    return 0;
}

/* ---- parsing: tensors ---- */

/* Reads dim_count and dims, and computes data_bytes once the type is known. */
static int parse_shape(struct reader *reader, size_t start, struct gguf_tensor *tensor)
{
    int r = reader_u32(reader, "tensor dimension count", &tensor->dim_count);
    if (r < 0) return r;
    if (tensor->dim_count < 1 || tensor->dim_count > COUNT_OF(tensor->dims)) {
        return reader_fail(reader, ERR_FORMAT, start, "tensor '%s': %" PRIu32 " dimensions, not 1..%zu",
                           show(tensor->name).text, tensor->dim_count, COUNT_OF(tensor->dims));
    }
    uint64_t elements = 1;
    for (size_t i = 0; i < COUNT_OF(tensor->dims); i++) {
        tensor->dims[i] = 1;
        if (i >= tensor->dim_count) continue;
        r = reader_u64(reader, "tensor dimension", &tensor->dims[i]);
        if (r < 0) return r;
        if (tensor->dims[i] == 0) {
            return reader_fail(reader, ERR_FORMAT, start, "tensor '%s': dimension %zu is zero",
                               show(tensor->name).text, i);
        }
        if (__builtin_mul_overflow(elements, tensor->dims[i], &elements) || elements > INT64_MAX) {
            return reader_fail(reader, ERR_FORMAT, start, "tensor '%s': dimensions overflow",
                               show(tensor->name).text);
        }
    }
    uint32_t type_id;
    r = reader_u32(reader, "tensor type", &type_id);
    if (r < 0) return r;
    const struct tensor_type_info *info = tensor_type_info(type_id);
    if (!info) {
        return reader_fail(reader, ERR_UNSUPPORTED, start,
                           "tensor '%s': element type %" PRIu32 " is not known to this build",
                           show(tensor->name).text, type_id);
    }
    if (tensor->dims[0] % info->block_elements != 0) {
        return reader_fail(reader, ERR_FORMAT, start,
                           "tensor '%s': rows of %" PRIu64 " elements are not whole blocks of %s (%" PRIu32
                           ")",
                           show(tensor->name).text, tensor->dims[0], info->name, info->block_elements);
    }
    uint64_t bytes;
    if (__builtin_mul_overflow(elements / info->block_elements, (uint64_t)info->block_bytes, &bytes)) {
        return reader_fail(reader, ERR_FORMAT, start, "tensor '%s': size overflows", show(tensor->name).text);
    }
    tensor->type = (enum tensor_type)type_id;
    tensor->data_bytes = bytes;
    return 0;
}

/* Reads one tensor info; its offset into the data goes to *ret_offset, since where the data begins
 * is known only after the last info. */
static int parse_tensor(struct reader *reader, struct gguf_tensor *tensor, uint64_t *ret_offset)
{
    size_t start = reader->at;
    int r = reader_string(reader, "tensor name", &tensor->name);
    if (r < 0) return r;
    if (tensor->name.len == 0 || tensor->name.len > TENSOR_NAME_BYTES_MAX) {
        return reader_fail(reader, ERR_FORMAT, start, "tensor name of %zu bytes, not 1..%d", tensor->name.len,
                           TENSOR_NAME_BYTES_MAX);
    }
    r = parse_shape(reader, start, tensor);
    if (r < 0) return r;
    return reader_u64(reader, "tensor offset", ret_offset);
}

/* Points tensor->data at its bytes. `start` is the offset of the tensor's info, for errors. */
static int place_tensor(const struct gguf *gguf, const struct reader *reader, size_t start, uint64_t offset,
                        struct gguf_tensor *tensor)
{
    if (offset % gguf->alignment != 0) {
        return reader_fail(reader, ERR_FORMAT, start,
                           "tensor '%s': data offset %" PRIu64 " is not aligned to %u",
                           show(tensor->name).text, offset, gguf->alignment);
    }
    size_t data_size = gguf->data_offset < gguf->size ? gguf->size - gguf->data_offset : 0;
    if (offset > data_size || tensor->data_bytes > data_size - offset) {
        return reader_fail(reader, ERR_FORMAT, start,
                           "tensor '%s': data [%" PRIu64 ", +%zu) is outside the file's %zu bytes of data",
                           show(tensor->name).text, offset, tensor->data_bytes, data_size);
    }
    tensor->data = gguf->bytes + gguf->data_offset + (size_t)offset;
    return 0;
}

/* Refuses two tensors of one name, or with a common byte. Leaves by_name sorted by name. */
static int verify_tensors_apart(const struct gguf *gguf, const struct reader *reader)
{
    size_t count = gguf->tensor_count;
    qsort(gguf->by_name, count, sizeof *gguf->by_name, tensor_compare_data);
    for (size_t i = 1; i < count; i++) {
        const struct gguf_tensor *a = gguf->by_name[i - 1], *b = gguf->by_name[i];
        if (a->data_bytes <= (size_t)(b->data - a->data)) continue;
        return reader_fail(reader, ERR_FORMAT, (size_t)(b->data - gguf->bytes),
                           "tensors '%s' and '%s' overlap", show(a->name).text, show(b->name).text);
    }
    qsort(gguf->by_name, count, sizeof *gguf->by_name, gguf_tensor_compare);
    for (size_t i = 1; i < count; i++) {
        const struct gguf_tensor *a = gguf->by_name[i - 1], *b = gguf->by_name[i];
        if (gguf_string_compare(a->name, b->name) != 0) continue;
        size_t offset = (size_t)((const uint8_t *)b->name.bytes - gguf->bytes);
        return reader_fail(reader, ERR_FORMAT, offset, "duplicate tensor '%s'", show(b->name).text);
    }
    return 0;
}

static int parse_tensors(struct gguf *gguf, struct reader *reader, size_t count)
{
    int r;
    uint64_t *offsets = calloc(count + 1, sizeof *offsets);
    gguf->tensors = calloc(count + 1, sizeof *gguf->tensors);
    gguf->by_name = calloc(count + 1, sizeof *gguf->by_name);
    if (!offsets || !gguf->tensors || !gguf->by_name) {
        r = reader_fail(reader, -ENOMEM, reader->at, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        r = parse_tensor(reader, &gguf->tensors[i], &offsets[i]);
        if (r < 0) goto out;
        gguf->by_name[i] = &gguf->tensors[i];
    }
    gguf->tensor_count = count;
    gguf->header_bytes = reader->at;
    gguf->data_offset = (gguf->header_bytes + gguf->alignment - 1) & ~((size_t)gguf->alignment - 1);
    for (size_t i = 0; i < count; i++) {
        size_t start = (size_t)((const uint8_t *)gguf->tensors[i].name.bytes - gguf->bytes) -
                       sizeof(uint64_t);
        r = place_tensor(gguf, reader, start, offsets[i], &gguf->tensors[i]);
        if (r < 0) goto out;
    }
    r = verify_tensors_apart(gguf, reader);
out:
    free(offsets);
    return r;
}

/* ---- parsing: the whole ---- */

static int parse_preamble(struct reader *reader, uint32_t *ret_version, size_t *ret_tensors, size_t *ret_keys)
{
    const uint8_t *magic;
    uint32_t version;
    uint64_t tensors, keys;
    int r = reader_take(reader, 4, "magic", &magic);
    if (r < 0) return r;
    if (memcmp(magic, "GGUF", 4) != 0) return reader_fail(reader, ERR_FORMAT, 0, "not a GGUF file");
    r = reader_u32(reader, "version", &version);
    if (r < 0) return r;
    if (version < VERSION_MIN || version > VERSION_MAX) {
        const char *hint = version && (version & 0xffff) == 0 ? " (a big-endian file?)" : "";
        return reader_fail(reader, ERR_VERSION, 4, "version %" PRIu32 ", known are %d..%d%s", version,
                           VERSION_MIN, VERSION_MAX, hint);
    }
    r = reader_u64(reader, "tensor count", &tensors);
    if (r < 0) return r;
    r = reader_u64(reader, "key count", &keys);
    if (r < 0) return r;

    /* Each count against the input first: that is the lie; the bound is only our choice. */
    size_t left = reader_left(reader);
    if (tensors > left / TENSOR_INPUT_BYTES_MIN || keys > left / KEY_INPUT_BYTES_MIN) {
        return reader_fail(reader, ERR_FORMAT, 8,
                           "truncated: %" PRIu64 " tensors and %" PRIu64 " keys do not fit into %zu bytes",
                           tensors, keys, left);
    }
    if (tensors > TENSORS_MAX || keys > KEYS_MAX) {
        return reader_fail(reader, ERR_LIMIT, 8,
                           "%" PRIu64 " tensors and %" PRIu64 " keys, at most %d and %d", tensors, keys,
                           TENSORS_MAX, KEYS_MAX);
    }
    *ret_version = version;
    *ret_tensors = (size_t)tensors;
    *ret_keys = (size_t)keys;
    return 0;
}

int gguf_parse(const uint8_t *bytes, size_t size, struct gguf **ret_gguf, struct err *err)
{
    struct reader reader = {.bytes = bytes, .size = size, .err = err};
    size_t tensors = 0, keys = 0; // set when the preamble is good; gcc 12 cannot see that
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf) return ERR(err, -ENOMEM, "gguf: out of memory");
    gguf->bytes = bytes;
    gguf->size = size;
    int r = parse_preamble(&reader, &gguf->version, &tensors, &keys);
    if (r < 0) goto out;
    r = parse_entries(gguf, &reader, keys);
    if (r < 0) goto out;
    r = parse_alignment(gguf, &reader);
    if (r < 0) goto out;
    r = parse_tensors(gguf, &reader, tensors);
    if (r < 0) goto out;
    *ret_gguf = gguf;
    gguf = NULL;
    r = 0;
out:
    gguf_free(gguf);
    return r;
}
