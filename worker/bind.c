/* SPDX-License-Identifier: Apache-2.0 */
/* bind - see bind.h. */
#include "worker/bind.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "worker/kern/ref/dequant.h"

enum {
    PARTS_MAX = 4,
    NAME_BYTES = 64,               // GGUF keeps tensor names below 64 bytes
    NAME_SHOWN_BYTES = 48,         // of an unknown tensor, in an error
    VECTOR_ELEMENTS_MAX = 1 << 22, // of a norm or bias: far above any model's width
};

struct bind {
    const struct gguf *gguf;
    void (*progress)(void *arg, uint32_t permille); // may be NULL
    void *progress_arg;
    const struct kern_ops *ops;
    struct kern *kern;
    const struct gguf_tensor **taken; // (taken_count), room for every tensor of the file
    size_t taken_count;
    uint64_t bytes_taken, bytes_total; // of tensor data
    bool measures;                     // bind_measure: the two below grow, nothing is made
    uint64_t store_bytes;
    struct hash128 content;
    bool is_mates; // bind_mate
    uint32_t mate;
};

struct name {
    char text[NAME_BYTES];
};

static struct name name_of(uint32_t layer, const char *stem, const char *suffix)
{
    struct name name;
    int len = layer == BIND_GLOBAL
                  ? snprintf(name.text, sizeof(name.text), "%s.%s", stem, suffix)
                  : snprintf(name.text, sizeof(name.text), "blk.%" PRIu32 ".%s.%s", layer, stem, suffix);
    CHECK(len > 0 && len < NAME_BYTES);
    return name;
}

int bind_new(const struct gguf *gguf, void (*progress)(void *arg, uint32_t permille), void *progress_arg,
             struct bind **ret_bind, struct err *err)
{
    size_t tensor_count = gguf_tensor_count(gguf);
    struct bind *bind = calloc(1, sizeof(*bind));
    if (bind) bind->taken = calloc(tensor_count + 1, sizeof(*bind->taken));
    if (!bind || !bind->taken) {
        bind_free(bind);
        return err_sys(err, ENOMEM, "binder of %zu tensors", tensor_count);
    }
    bind->gguf = gguf;
    bind->progress = progress;
    bind->progress_arg = progress_arg;
    for (size_t i = 0; i < tensor_count; i++) bind->bytes_total += gguf_tensor_at(gguf, i)->data_bytes;
    *ret_bind = bind;
    return 0;
}

void bind_free(struct bind *bind)
{
    if (!bind) return;
    free(bind->taken);
    free(bind);
}

void bind_target(struct bind *bind, const struct kern_ops *ops, struct kern *kern)
{
    bind->ops = ops;
    bind->kern = kern;
}

void bind_mate(struct bind *bind, const struct kern_ops *ops, struct kern *kern, uint32_t mate)
{
    bind_target(bind, ops, kern);
    bind->is_mates = true;
    bind->mate = mate;
}

void bind_measure(struct bind *bind, const struct kern_ops *ops)
{
    CHECK(ops->weight_measure);
    bind->ops = ops;
    bind->measures = true;
}

void bind_measured(const struct bind *bind, uint64_t *ret_bytes, struct hash128 *ret_content)
{
    *ret_bytes = bind->store_bytes;
    *ret_content = bind->content;
}

bool bind_has(const struct bind *bind, uint32_t layer, const char *stem, const char *suffix)
{
    return gguf_tensor_find(bind->gguf, name_of(layer, stem, suffix).text) != NULL;
}

/* Of a part: what is taken of its tensor. */
static uint32_t rows_taken(const struct bind_part *part)
{
    return part->count > 0 ? part->count : part->rows;
}

/* Only those rows of a tensor's. */
static void slice(const struct bind_part *part, struct kern_matrix *matrix)
{
    CHECK(part->first <= matrix->rows && rows_taken(part) <= matrix->rows - part->first);
    const size_t row_bytes = dequant_row_bytes(dequant_find(matrix->type), matrix->cols);
    matrix->data = (const uint8_t *)matrix->data + part->first * row_bytes;
    matrix->rows = rows_taken(part);
}

/* Finds a tensor of exactly (rows, cols), rows 1 for a vector, and marks it taken. -ENOENT when absent. */
static int take(struct bind *bind, const struct name *name, uint32_t rows, uint32_t cols,
                struct kern_matrix *ret_matrix, struct err *err)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(bind->gguf, name->text);
    if (!tensor) return -ENOENT;
    if (tensor->dims[0] != cols || tensor->dims[1] != rows || tensor->dims[2] != 1 || tensor->dims[3] != 1) {
        return ERR(err, ERR_FORMAT,
                   "tensor %s is %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
                   ", the model needs %" PRIu32 " x %" PRIu32,
                   name->text, tensor->dims[0], tensor->dims[1], tensor->dims[2], tensor->dims[3], cols,
                   rows);
    }
    const struct dequant_type *type = dequant_find(tensor->type);
    if (!type) return ERR(err, ERR_UNSUPPORTED, "tensor %s has type %u", name->text, tensor->type);
    CHECK(cols % type->block_elements == 0); // the parser verified both
    CHECK(tensor->data_bytes == (size_t)rows * dequant_row_bytes(type, cols));
    CHECK(bind->taken_count < gguf_tensor_count(bind->gguf));
    bind->taken[bind->taken_count++] = tensor;
    bind->bytes_taken += tensor->data_bytes;
    *ret_matrix = (struct kern_matrix){
        .data = tensor->data, .type = tensor->type, .rows = rows, .cols = cols};
    return 0;
}

/* -ENOENT of a tensor that must be there becomes an error with its name. */
static int require(int r, const struct name *name, struct err *err)
{
    return r == -ENOENT ? ERR(err, ERR_FORMAT, "tensor %s is missing", name->text) : r;
}

static void report_progress(const struct bind *bind)
{
    if (!bind->progress || bind->bytes_total == 0) return;
    bind->progress(bind->progress_arg, (uint32_t)(bind->bytes_taken * 1000 / bind->bytes_total));
}

static int measure(struct bind *bind, const struct kern_matrix *matrices, uint32_t part_count,
                   struct kern_weight **ret_weight, struct err *err)
{
    uint64_t bytes;
    int r = bind->ops->weight_measure(matrices, part_count, &bytes, err);
    if (r < 0) return r;
    bind->store_bytes += bytes;
    *ret_weight = NULL;
    return 0;
}

int bind_weight(struct bind *bind, uint32_t layer, const struct bind_part *parts, uint32_t part_count,
                uint32_t cols, enum kern_pack pack, struct kern_weight **ret_weight, struct err *err)
{
    struct kern_matrix matrices[PARTS_MAX];
    CHECK(part_count > 0 && part_count <= PARTS_MAX);
    for (uint32_t i = 0; i < part_count; i++) {
        struct name name = name_of(layer, parts[i].stem, "weight");
        int r = require(take(bind, &name, parts[i].rows, cols, &matrices[i], err), &name, err);
        if (r < 0) return r;
        slice(&parts[i], &matrices[i]);
        const uint32_t facts[] = {
            pack, part_count, i, matrices[i].type, matrices[i].rows, matrices[i].cols, parts[i].first};
        bind->content = hash128_chain(bind->content, name.text, strlen(name.text));
        bind->content = hash128_chain(bind->content, facts, sizeof facts);
    }
    if (bind->measures) return measure(bind, matrices, part_count, ret_weight, err);
    if (bind->is_mates)
        return bind->ops->mate_weight(bind->kern, bind->mate, matrices, part_count, pack, ret_weight, err);
    int r = bind->ops->weight_new(bind->kern, matrices, part_count, pack, ret_weight, err);
    if (r == 0) report_progress(bind);
    return r;
}

static int take_floats(struct bind *bind, const struct name *name, uint32_t count, float *out,
                       struct err *err)
{
    struct kern_matrix matrix;
    int r = take(bind, name, 1, count, &matrix, err);
    if (r < 0) return r;
    dequant_row(dequant_find(matrix.type), matrix.data, count, out);
    return 0;
}

int bind_floats(struct bind *bind, uint32_t layer, const char *stem, uint32_t count, float *out,
                struct err *err)
{
    struct name name = name_of(layer, stem, "weight");
    return take_floats(bind, &name, count, out, err);
}

static int make_vector(struct bind *bind, const float *values, uint32_t count,
                       struct kern_vector **ret_vector, struct err *err)
{
    *ret_vector = NULL;
    return bind->measures ? 0 : bind->ops->vector_new(bind->kern, values, count, ret_vector, err);
}

int bind_vector(struct bind *bind, uint32_t layer, const char *stem, uint32_t count,
                struct kern_vector **ret_vector, struct err *err)
{
    struct name name = name_of(layer, stem, "weight");
    CHECK(count > 0 && count <= VECTOR_ELEMENTS_MAX);
    float *values = malloc(count * sizeof(*values));
    if (!values) return err_sys(err, ENOMEM, "tensor %s", name.text);
    int r = require(take_floats(bind, &name, count, values, err), &name, err);
    *ret_vector = NULL;
    if (r == 0 && !bind->is_mates) r = make_vector(bind, values, count, ret_vector, err);
    free(values);
    return r;
}

int bind_bias(struct bind *bind, uint32_t layer, const struct bind_part *parts, uint32_t part_count,
              struct kern_vector **ret_vector, struct err *err)
{
    uint64_t count = 0,
             all = 0; // of a part's elements, the others lie behind those that are taken for a while
    bool present = false;
    for (uint32_t i = 0; i < part_count; i++) {
        if (count + parts[i].rows > all) all = count + parts[i].rows;
        count += rows_taken(&parts[i]);
        if (bind_has(bind, layer, parts[i].stem, "bias")) present = true;
    }
    if (!present) {
        *ret_vector = NULL;
        return 0;
    }
    CHECK(all <= VECTOR_ELEMENTS_MAX);
    float *values = calloc(all, sizeof(*values));
    if (!values) return err_sys(err, ENOMEM, "bias of %s", parts[0].stem);
    float *out = values;
    int r = 0;
    for (uint32_t i = 0; i < part_count && r == 0; i++) {
        struct name name = name_of(layer, parts[i].stem, "bias");
        r = take_floats(bind, &name, parts[i].rows, out, err);
        if (r == -ENOENT) { // zeros
            memset(out, 0, parts[i].rows * sizeof(*out));
            r = 0;
        }
        memmove(out, out + parts[i].first, rows_taken(&parts[i]) * sizeof(*out));
        out += rows_taken(&parts[i]);
    }
    if (r == 0) r = make_vector(bind, values, (uint32_t)count, ret_vector, err);
    free(values);
    return r;
}

static bool is_taken(const struct bind *bind, const struct gguf_tensor *tensor)
{
    for (size_t i = 0; i < bind->taken_count; i++) {
        if (bind->taken[i] == tensor) return true;
    }
    return false;
}

int bind_finish(const struct bind *bind, struct err *err)
{
    size_t tensor_count = gguf_tensor_count(bind->gguf);
    if (bind->taken_count == tensor_count) return 0;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(bind->gguf, i);
        if (is_taken(bind, tensor)) continue;
        char shown[NAME_SHOWN_BYTES + 1];
        size_t len = tensor->name.len < NAME_SHOWN_BYTES ? tensor->name.len : NAME_SHOWN_BYTES;
        for (size_t k = 0; k < len; k++) { // the name may be anything: keep a log line printable
            char c = tensor->name.bytes[k];
            shown[k] = c >= 0x20 && c < 0x7F ? c : '?';
        }
        shown[len] = '\0';
        return ERR(err, ERR_UNSUPPORTED, "tensor %s has no place in this architecture", shown);
    }
    CHECK(!"a tensor was taken twice");
    return 0;
}
