/* SPDX-License-Identifier: Apache-2.0 */
/* kern_rig - see kern_rig.h. */
#include "tests/unit/kern_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/ref/ref.h"

const struct kern_rig_shape kern_rig_shapes[KERN_RIG_SHAPES] = {{3, 1, 64, 64, true, KERN_RIG_PAGE},
                                                                {4, 4, 32, 32, false, KERN_RIG_PAGE},
                                                                {8, 2, 16, 8, false, 32},
                                                                {6, 2, 80, 80, true, KERN_RIG_PAGE},
                                                                {2, 1, 128, 64, true, 48}};

const struct kern_ops *kern_rig_machines[KERN_RIG_MACHINES_MAX];
size_t kern_rig_machine_count;

bool kern_rig_wants(const struct kern_ops *ops)
{
    const char *only = getenv("KVASIR_KERNELS");
    return only == NULL || strcmp(only, "auto") == 0 || strcmp(ops->name, only) == 0;
}

void kern_rig_find_machines(void)
{
    uint32_t count;
    const struct kern_ops *const *found = kern_levels(&count);
    kern_rig_machine_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (found[i] == &kern_ref_ops || !kern_rig_wants(found[i])) continue;
        CHECK(kern_rig_machine_count < KERN_RIG_MACHINES_MAX);
        kern_rig_machines[kern_rig_machine_count++] = found[i];
    }
    CHECK(kern_rig_machine_count > 0);
}

void kern_rig_open(struct kern_rig *rig, const struct kern_ops *ops, const struct kern_rig_shape *shape,
                   uint32_t threads, uint32_t rows_max, uint32_t page_count)
{
    *rig = (struct kern_rig){.ops = ops};
    for (uint32_t i = 0; i < shape->rope_dims / 2; i++)
        rig->angles[i] = powf(10000.0f, -2.0f * (float)i / (float)shape->rope_dims);
    uint64_t page_bytes = 2 * shape->heads_kv *
                          kern_kv_head_bytes(shape->kv_type, shape->dims, shape->page_tokens);
    rig->conf = (struct kern_conf){.threads = threads,
                                   .rows_max = rows_max,
                                   .cache = {.page_bytes = page_bytes,
                                             .page_count = page_count,
                                             .page_tokens = shape->page_tokens,
                                             .layer_count = 2,
                                             .head_count_kv = shape->heads_kv,
                                             .head_dims = shape->dims,
                                             .kv_type = shape->kv_type},
                                   .rope = {.adjacent = shape->adjacent,
                                            .dims = shape->rope_dims,
                                            .angles = rig->angles,
                                            .position_max = page_count * shape->page_tokens},
                                   .head_count = shape->heads,
                                   .head_count_kv = shape->heads_kv,
                                   .head_dims = shape->dims,
                                   .attention_scale = 1.0f / sqrtf((float)shape->dims),
                                   .rms_epsilon = 1e-5f};
    rig->conf.cache.base = malloc(page_bytes * page_count);
    CHECK(rig->conf.cache.base != NULL);
    memset(rig->conf.cache.base, 0xFF, page_bytes * page_count);
    struct err err = {0};
    int r = ops->open(&rig->conf, &rig->kern, &err);
    if (r < 0) fprintf(stderr, "kern_rig: %s: %s\n", ops->name, err.text);
    CHECK(r >= 0);
}

void kern_rig_close(struct kern_rig *rig)
{
    rig->ops->close(rig->kern);
    free(rig->conf.cache.base);
}

struct kern_rows *kern_rig_rows(struct kern_rig *rig, uint32_t count, uint32_t cols)
{
    struct kern_rows *rows = NULL;
    CHECK(rig->ops->rows_new(rig->kern, count, cols, &rows, NULL) == 0);
    return rows;
}

struct kern_rows *kern_rig_rows_with(struct kern_rig *rig, const float *values, uint32_t row_count,
                                     uint32_t cols)
{
    struct kern_rows *rows = kern_rig_rows(rig, row_count, cols);
    struct kern_matrix table = {.data = values, .type = 0, .rows = row_count, .cols = cols};
    struct kern_weight *weight = kern_rig_weight(rig, &table, 1, KERN_CONCAT);
    uint32_t *tokens = calloc(row_count, sizeof(*tokens));
    CHECK(tokens != NULL);
    for (uint32_t i = 0; i < row_count; i++) tokens[i] = i;
    rig->ops->embed(rig->kern, weight, &(struct kern_batch){.row_count = row_count, .tokens = tokens}, rows);
    free(tokens);
    return rows;
}

struct kern_vector *kern_rig_vector(struct kern_rig *rig, const float *values, uint32_t count)
{
    struct kern_vector *vector = NULL;
    CHECK(rig->ops->vector_new(rig->kern, values, count, &vector, NULL) == 0);
    return vector;
}

struct kern_weight *kern_rig_weight(struct kern_rig *rig, const struct kern_matrix *parts, uint32_t count,
                                    enum kern_pack pack)
{
    struct kern_weight *weight = NULL;
    CHECK(rig->ops->weight_new(rig->kern, parts, count, pack, &weight, NULL) == 0);
    return weight;
}
