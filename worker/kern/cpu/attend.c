/* SPDX-License-Identifier: Apache-2.0 */
/* attend - attention of a step: the pieces of its plan (attend_plan.h), run by the team. */
#include <stdatomic.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/cpu/attend_plan.h"

static struct cpu_attend describe(const struct attend_job *job, uint32_t unit)
{
    const struct kern_conf *conf = &job->kern->conf;
    const struct attend_plan *plan = job->kern->plan;
    const struct attend_span *span = &plan->spans[unit / conf->head_count_kv];
    const struct attend_tile *tile = &plan->tiles[span->tile];
    const struct kern_seq *seq = &job->batch->seqs[tile->seq];
    const uint32_t kv_head = unit % conf->head_count_kv;
    return (struct cpu_attend){
        .queries = job->qkv->values + (size_t)tile->row_first * job->qkv->cols +
                   (size_t)kv_head * job->group * conf->head_dims,
        .query_stride = job->qkv->cols,
        .query_rows = tile->is_shared ? plan->rows + tile->member_first : NULL,
        .row_count = tile->row_count,
        .group = job->group,
        .head_dims = conf->head_dims,
        .pos_first = tile->is_shared ? tile->key_end : seq->pos_first + (tile->row_first - seq->row_first),
        .window = job->options.window,
        .softcap = job->options.softcap,
        .key_first = span->key_first,
        .key_end = span->key_end,
        .pages = seq->pages,
        .payload = machine_payload(job->kern, 0, job->layer, kv_head),
        .page_bytes = conf->cache.page_bytes,
        .page_tokens = conf->cache.page_tokens,
        .kv_type = (enum kern_kv)conf->cache.kv_type,
    };
}

/* Query i of a tile is done: its sink, then values / sum to the output row, in the shapes its reader wants. A sink is
 * the last key, with a value of zeros. */
static void finish_query(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head,
                         uint32_t i, struct cpu_softmax *state, float *values)
{
    static const float zeros[HEAD_DIMS_MAX];
    struct kern *kern = job->kern;
    struct kern_rows *out = job->out;
    uint32_t dims = kern->conf.head_dims;
    uint32_t row = tile->row_first + i / job->group;
    uint32_t col = out->col_first + (kv_head * job->group + i % job->group) * dims;
    float head[HEAD_DIMS_MAX];
    float *to = out->has_values ? out->values + (size_t)row * out->cols + col : head;
    if (job->options.sinks != NULL) {
        float sink = job->options.sinks->values[kv_head * job->group + i % job->group];
        kern->level->merge(state, values, &(struct cpu_softmax){.max = sink * LOG2_E, .sum = 1}, zeros, dims);
    }
    kern->level->divide(values, state->sum, dims, to);
    if (kern->conf.cache.kv_type == KERN_KV_Q4) machine_turn(to, dims);
    if (out->has_blocks)
        kern->level->quantize(to, dims / BLOCK_COLS,
                              out->blocks + (size_t)row * out->block_count + col / BLOCK_COLS);
}

/* What block `block` of a cut tile left, or will: the states, then the values, of its queries. */
static struct cpu_softmax *partial_of(const struct attend_job *job, const struct attend_tile *tile,
                                      uint32_t kv_head, size_t block)
{
    size_t index = kv_head * attend_blocks_of(tile) + block;
    float *partial = job->kern->plan->partials + tile->partials + index * attend_block_floats(job, tile);
    return (struct cpu_softmax *)(void *)partial;
}

struct partial { // of one query and one block
    struct cpu_softmax *state;
    float *values; // (head_dims)
};

/* Of query i of a cut tile: block by block from the first key on, those of its shared tile before its own. */
static struct partial query_partial(const struct attend_job *job, const struct attend_tile *tile,
                                    uint32_t kv_head, size_t block, uint32_t i)
{
    if (tile->shared != TILE_NONE) {
        const struct attend_tile *shared = &job->kern->plan->tiles[tile->shared];
        const size_t shared_blocks = attend_blocks_of(shared);
        if (block < shared_blocks) {
            i += tile->shared_row * job->group;
            tile = shared;
        } else {
            block -= shared_blocks;
        }
    }
    struct cpu_softmax *states = partial_of(job, tile, kv_head, block);
    float *values = (float *)(void *)(states + attend_query_count(job, tile));
    return (struct partial){states + i, values + (size_t)i * job->kern->conf.head_dims};
}

static void merge_tile(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head)
{
    const uint32_t dims = job->kern->conf.head_dims;
    size_t blocks = attend_blocks_of(tile);
    if (tile->shared != TILE_NONE) blocks += attend_blocks_of(&job->kern->plan->tiles[tile->shared]);
    for (uint32_t i = 0; i < attend_query_count(job, tile); i++) {
        struct partial all = query_partial(job, tile, kv_head, 0, i);
        for (size_t b = 1; b < blocks; b++) {
            struct partial more = query_partial(job, tile, kv_head, b, i);
            job->kern->level->merge(all.state, all.values, more.state, more.values, dims);
        }
        finish_query(job, tile, kv_head, i, all.state, all.values);
    }
}

/* One more unit that the merging of (tile, KV head) waited for is done. */
static void unit_done(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head)
{
    struct attend_plan *plan = job->kern->plan;
    _Atomic uint32_t *left = &plan->left[(uint32_t)tile->cut * job->kern->conf.head_count_kv + kv_head];
    if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) == 1) merge_tile(job, tile, kv_head);
}

/* A unit of a cut tile: a state for each block. */
static void attend_part(const struct attend_job *job, struct cpu_attend *attend,
                        const struct attend_tile *tile, uint32_t kv_head)
{
    const struct attend_plan *plan = job->kern->plan;
    const struct cpu_attend *then = attend->then;
    const uint32_t key_end = attend->key_end;
    while (attend->key_first < key_end) {
        size_t block = attend_blocks_between(tile->key_first, attend->key_first + 1) - 1;
        struct cpu_softmax *states = partial_of(job, tile, kv_head, block);
        struct cpu_attend rest = *attend;
        rest.key_first = (attend->key_first / KEY_BLOCK + 1) * KEY_BLOCK;
        rest.key_end = key_end;
        bool last = rest.key_first >= key_end;
        attend->key_end = last ? key_end : rest.key_first;
        attend->then = last ? then : &rest;
        job->kern->level->attend(attend, states, (float *)(void *)(states + attend_query_count(job, tile)));
        attend->key_first = rest.key_first;
    }
    if (!tile->is_shared) {
        unit_done(job, tile, kv_head);
        return;
    }
    for (uint32_t i = 0; i < tile->row_count; i++)
        unit_done(job, &plan->tiles[plan->members[tile->member_first + i]], kv_head);
}

/* What finish_query will write of a tile. */
static void expect_tile(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head)
{
    const struct kern_rows *out = job->out;
    if (!out->has_blocks || tile->is_shared) return;
    const size_t blocks = job->group * job->kern->conf.head_dims / BLOCK_COLS;
    machine_expect(out->blocks + (size_t)tile->row_first * out->block_count + out->col_first / BLOCK_COLS +
                       kv_head * blocks,
                   out->block_count * sizeof(*out->blocks), blocks * sizeof(*out->blocks), tile->row_count);
}

static void attend_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    const struct attend_plan *plan = job->kern->plan;
    const uint32_t kv_count = job->kern->conf.head_count_kv, dims = job->kern->conf.head_dims;
    const uint32_t unit_count = plan->span_count * kv_count;
    struct cpu_softmax states[QUERIES_MAX];
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX];
    struct cpu_attend next = describe(job, plan->pieces[piece]);
    for (uint32_t unit = plan->pieces[piece]; unit < plan->pieces[piece + 1]; unit++) {
        const struct attend_tile *tile = &plan->tiles[plan->spans[unit / kv_count].tile];
        struct cpu_attend attend = next;
        /* Past the piece's end this is a guess: pieces are handed out in order. */
        if (unit + 1 < unit_count) next = describe(job, unit + 1);
        attend.then = unit + 1 < unit_count ? &next : NULL;
        expect_tile(job, tile, unit % kv_count);
        if (tile->cut != UNCUT) {
            attend_part(job, &attend, tile, unit % kv_count);
            continue;
        }
        job->kern->level->attend(&attend, states, values);
        for (uint32_t i = 0; i < attend_query_count(job, tile); i++)
            finish_query(job, tile, unit % kv_count, i, &states[i], values + (size_t)i * dims);
    }
}

void machine_attend(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                    struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out)
{
    const struct kern_conf *conf = &kern->conf;
    const struct kern_attend_options plain = {0};
    if (options == NULL) options = &plain;
    CHECK(options->softcap >= 0);
    if (options->sinks != NULL) CHECK(options->sinks->count == conf->head_count);
    CHECK(layer < conf->cache.layer_count);
    CHECK(qkv->has_values && qkv->cols == (conf->head_count + 2 * conf->head_count_kv) * conf->head_dims);
    CHECK(out->col_count == conf->head_count * conf->head_dims);
    CHECK(batch->row_count <= conf->rows_max && batch->row_count <= qkv->row_count &&
          batch->row_count <= out->row_count);
    if (batch->row_count == 0) return;
    struct attend_job job = {.kern = kern,
                             .batch = batch,
                             .qkv = qkv,
                             .out = out,
                             .options = *options,
                             .layer = layer,
                             .group = conf->head_count / conf->head_count_kv};
    out->has_blocks = conf->head_dims % BLOCK_COLS == 0;
    out->has_values = kern->has_float_weights || !out->has_blocks;
    machine_kv_write(kern, layer, qkv, batch);
    attend_plan_make(&job);
    team_run(kern->team, attend_piece, &job, kern->plan->piece_count);
}
