/* SPDX-License-Identifier: Apache-2.0 */
/* model_ranks - what of a model's pass is the ranks': the rows that they fill together, and the gathers between ops.
 *
 * Every op writes this rank's columns of x, attention, ffn or logits and reads all columns of another of them. No
 * area needs a second copy: between the last read of a column and its next write lies a gather of another area (rule
 * E2). x is read by both norms of a layer, and written behind the gather that follows each; attention is read by
 * project_add and written again after two more gathers, ffn likewise; logits are read by rank 0 until it comes to
 * the first gather of the next pass. */
#include "common/base/check.h"
#include "worker/model_arch.h"

static int rows_make(struct model *model, enum exchange_area area, uint32_t row_count, uint32_t cols,
                     const struct shard_cut *cut, struct kern_rows **ret_rows, struct err *err)
{
    if (!model->dist) return model->ops->rows_new(model->kern, row_count, cols, ret_rows, err);
    const uint32_t rank = model->shard.rank;
    struct kern_share share = {.col_first = shard_first(cut, rank),
                               .col_count = shard_count(cut, rank),
                               .unit = cut->unit,
                               .values_only = area == EXCHANGE_X || area == EXCHANGE_LOGITS};
    share.base = dist_area(model->dist, area, &share.bytes);
    return model->ops->rows_shared(model->kern, row_count, cols, &share, ret_rows, err);
}

int model_make_rows(struct model *model, struct err *err)
{
    const struct model_facts *facts = &model->facts;
    const struct shard *shard = &model->shard;
    const uint32_t rows = model->rows_max, qkv_heads = shard->head_count + 2 * shard->kv_count;
    int r = model->ops->rows_new(model->kern, rows, qkv_heads * facts->head_dims, &model->qkv, err);
    if (r == 0) r = rows_make(model, EXCHANGE_X, rows, facts->embedding_dims, &shard->stream, &model->x, err);
    if (r == 0)
        r = rows_make(model, EXCHANGE_ATTENTION, rows, facts->head_count * facts->head_dims,
                      &shard->attention, &model->attention, err);
    if (r == 0)
        r = rows_make(model, EXCHANGE_FEED_FORWARD, rows, facts->feed_forward_dims, &shard->feed_forward,
                      &model->ffn, err);
    if (r == 0)
        r = rows_make(model, EXCHANGE_LOGITS, model->logits_max, facts->vocab_count, &shard->vocab,
                      &model->logits, err);
    return r;
}

/* What rows have for other ranks, once all ops are done. -> how many planes, or a negative code. */
static int planes_of(struct model *model, const struct kern_rows *rows,
                     struct dist_plane ret_planes[KERN_PLANES_MAX])
{
    struct kern_plane planes[KERN_PLANES_MAX];
    int r = model->ops->sync(model->kern, NULL);
    if (r < 0) return r;
    uint32_t count = model->ops->planes(rows, planes);
    for (uint32_t i = 0; i < count; i++)
        ret_planes[i] = (struct dist_plane){.base = planes[i].base,
                                            .row_bytes = planes[i].row_bytes,
                                            .unit_cols = planes[i].unit_cols,
                                            .unit_bytes = planes[i].unit_bytes};
    return (int)count;
}

int model_gather(struct model *model, const struct kern_rows *rows, const struct shard_cut *cut,
                 uint32_t row_count)
{
    if (!model->dist) return 0;
    struct dist_plane planes[KERN_PLANES_MAX];
    int r = planes_of(model, rows, planes);
    return r < 0 ? r : dist_gather(model->dist, planes, (uint32_t)r, row_count, cut->bounds);
}

int model_embed(struct model *model, const struct kern_batch *batch)
{
    const struct shard_cut *cut = &model->shard.vocab;
    if (!model->dist) {
        model->ops->embed(model->kern, model->embedding, batch, model->x);
        return 0;
    }
    struct kern_batch own = *batch;
    own.tokens = model->own_tokens;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        model->owners[i] = (uint16_t)shard_owner(cut, model->shard.rank_count, batch->tokens[i]);
        // A token of another rank becomes one that is in no matrix.
        model->own_tokens[i] = model->owners[i] == model->shard.rank
                                   ? batch->tokens[i] - shard_first(cut, model->shard.rank)
                                   : UINT32_MAX;
    }
    model->ops->embed(model->kern, model->embedding, &own, model->x);
    struct dist_plane planes[KERN_PLANES_MAX];
    int r = planes_of(model, model->x, planes);
    if (r < 0) return r;
    CHECK(r == 1);
    return dist_gather_rows(model->dist, planes, batch->row_count, model->owners);
}
