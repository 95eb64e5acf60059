/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_writer - builds GGUF files in memory for tests, valid ones and deliberately broken ones.
 *
 * A writer holds the file as lists of keys and tensors that a test may edit before writer_finish()
 * serializes them; nothing is verified. Keys and tensors own their bytes until writer_done(). Runs out
 * of memory or room by abort(): a test cannot go on. */
#ifndef KVASIR_TESTS_DATA_GGUF_WRITER_H
#define KVASIR_TESTS_DATA_GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/gguf/gguf.h"

enum { WRITER_KEYS_MAX = 64, WRITER_TENSORS_MAX = 320, WRITER_DIMS_MAX = 8 };

struct writer_key {
    struct buf name;
    uint32_t type;
    struct buf payload; // the value's bytes after its type
};

struct writer_tensor {
    struct buf name;
    uint32_t type_id;
    uint32_t dim_count;
    uint64_t dims[WRITER_DIMS_MAX]; // dim_count of them are written
    uint64_t offset;                // into the data; set by writer_add_tensor, free to edit
    uint64_t data_bytes;            // room the tensor got in the data
};

struct gguf_writer {
    char magic[4];
    uint32_t version;
    uint32_t alignment;     // of tensor data; does not write general.alignment
    uint64_t key_count_lie; // added to the true counts, modulo 2^64
    uint64_t tensor_count_lie;
    uint64_t data_bytes; // of all tensors so far
    size_t key_count;
    struct writer_key keys[WRITER_KEYS_MAX];
    size_t tensor_count;
    struct writer_tensor tensors[WRITER_TENSORS_MAX];
};

void writer_init(struct gguf_writer *writer); // version 3, alignment 32, empty
void writer_done(struct gguf_writer *writer);

/* A complete small model of architecture llama: 1 layer, 32 wide, 4 heads of 8 over 2 kv heads, 48
 * feed-forward, context 64, 8 tokens of vocabulary, all tensors F32, output tied. */
void writer_init_llama(struct gguf_writer *writer);

/* writer_set_*: replace the key of that name, or append it. writer_add_key always appends. */
struct writer_key *writer_find_key(struct gguf_writer *writer, const char *name); // NULL when absent
struct writer_key *writer_add_key(struct gguf_writer *writer, const char *name, uint32_t type,
                                  const void *payload, size_t payload_bytes);
void writer_set_raw(struct gguf_writer *writer, const char *name, uint32_t type, const void *payload,
                    size_t payload_bytes);
void writer_set_u32(struct gguf_writer *writer, const char *name, uint32_t value);
void writer_set_i32(struct gguf_writer *writer, const char *name, int32_t value);
void writer_set_u64(struct gguf_writer *writer, const char *name, uint64_t value);
void writer_set_f32(struct gguf_writer *writer, const char *name, float value);
void writer_set_bool(struct gguf_writer *writer, const char *name, uint8_t value);
void writer_set_string(struct gguf_writer *writer, const char *name, const char *value);
void writer_set_array(struct gguf_writer *writer, const char *name, uint32_t element_type, uint64_t count,
                      const void *elements, size_t bytes);
void writer_set_strings(struct gguf_writer *writer, const char *name, size_t count,
                        const char *const *strings);
void writer_remove_key(struct gguf_writer *writer, const char *name);

/* dims[0] is the contiguous dimension. Data follow the tensor before, aligned. */
struct writer_tensor *writer_add_tensor(struct gguf_writer *writer, const char *name, enum tensor_type type,
                                        uint32_t dim_count, const uint64_t *dims);
struct writer_tensor *writer_find_tensor(struct gguf_writer *writer, const char *name); // NULL when absent
void writer_remove_tensor(struct gguf_writer *writer, const char *name);

/* Serializes into out (initialized here, buf_done frees). The file ends with the last tensor byte. */
void writer_finish(const struct gguf_writer *writer, struct buf *out);

#endif
