/* SPDX-License-Identifier: Apache-2.0 */
/* attend - rotation, the write into the pages, and the cutting of attention into pieces.
 *
 * A tile is up to QUERIES_MAX query rows of one sequence that share a KV head (rows x heads of the group). A
 * piece is one tile and KV head. When there are fewer pieces than the team could share well, tiles are cut at
 * partitions of PARTITION keys too: each piece leaves its softmax states, and a second job merges them in
 * order, which is what an uncut piece does inside, bit for bit. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"

enum {
    STORE_ROWS = 16,     // rows of one piece of rotation
    PIECES_A_THREAD = 4, // fewer pieces than this a thread: cut at partitions
    PARTIALS_MIB = 64,   // bound on what cut tiles leave; beyond it tiles stay whole
};

struct attend_job {
    struct kern *kern;
    const struct kern_batch *batch;
    struct kern_rows *qkv, *out;
    uint32_t layer;
    uint32_t group; // query heads of a KV head
    uint32_t tile_count;
    uint32_t partition_count; // of the longest sequence; 0: whole tiles
};

int machine_attend_init(struct kern *kern, struct err *err)
{
    const struct kern_conf *conf = &kern->conf;
    void *positions, *rotations, *tiles, *partials;
    size_t rows = conf->rows_max;
    int r = machine_memory(kern, rows * sizeof(uint32_t), &positions, err);
    if (r >= 0) r = machine_memory(kern, rows * 2 * conf->rope.dims * sizeof(float), &rotations, err);
    if (r >= 0) r = machine_memory(kern, rows * sizeof(struct attend_tile), &tiles, err);
    if (r >= 0) r = machine_memory(kern, (size_t)PARTIALS_MIB << 20, &partials, err);
    if (r < 0) return r;
    memset(positions, 0xFF, rows * sizeof(uint32_t));
    kern->rotation_positions = positions;
    kern->rotations = rotations;
    kern->tiles = tiles;
    kern->partials = partials;
    return 0;
}

static float *row_of(const struct kern_rows *rows, uint32_t row)
{
    return rows->values + (size_t)row * rows->cols;
}

static uint8_t *head_payload(const struct kern *kern, uint32_t page, uint32_t layer, uint32_t kv_head)
{
    const struct kern_cache *cache = &kern->conf.cache;
    size_t head_bytes = (size_t)2 * cache->head_dims * cache->page_tokens * sizeof(uint16_t);
    return (uint8_t *)cache->base + page * cache->page_bytes +
           ((size_t)layer * cache->head_count_kv + kv_head) * head_bytes;
}

/* Cosines and signed sines of a row's position, one of each per dimension. */
static const float *rotation_of(struct kern *kern, uint32_t row, uint32_t position)
{
    const struct kern_rope *rope = &kern->conf.rope;
    float *cosines = kern->rotations + (size_t)row * 2 * rope->dims, *sines = cosines + rope->dims;
    if (kern->rotation_positions[row] == position) return cosines;
    uint32_t pairs = rope->dims / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        float angle = (float)position * rope->angles[i];
        uint32_t a = rope->adjacent ? 2 * i : i, b = rope->adjacent ? a + 1 : a + pairs;
        cosines[a] = cosines[b] = cosf(angle);
        sines[b] = sinf(angle);
        sines[a] = -sines[b];
    }
    kern->rotation_positions[row] = position;
    return cosines;
}

/* Rotates q and k of one row, scales q, and writes k and v into the row's page. */
static void store_row(const struct attend_job *job, const struct kern_seq *seq, uint32_t row)
{
    struct kern *kern = job->kern;
    const struct kern_conf *conf = &kern->conf;
    const struct cpu_level *level = kern->level;
    uint32_t dims = conf->head_dims, tokens = conf->cache.page_tokens;
    uint32_t position = seq->pos_first + (row - seq->row_first);
    CHECK(position / tokens < seq->page_count);
    uint32_t page = seq->pages[position / tokens], slot = position % tokens;
    CHECK(page < conf->cache.page_count);
    const float *cosines = rotation_of(kern, row, position), *sines = cosines + conf->rope.dims;
    float *q = row_of(job->qkv, row);
    float *k = q + (size_t)conf->head_count * dims, *v = k + (size_t)conf->head_count_kv * dims;
    for (uint32_t h = 0; h < conf->head_count; h++)
        level->rotate(q + (size_t)h * dims, conf->rope.dims, conf->rope.adjacent, cosines, sines);
    for (uint32_t i = 0; i < conf->head_count * dims; i++) q[i] *= conf->attention_scale;
    for (uint32_t h = 0; h < conf->head_count_kv; h++) {
        uint16_t *payload = (uint16_t *)(void *)head_payload(kern, page, job->layer, h);
        uint16_t halves[HEAD_DIMS_MAX];
        level->rotate(k + (size_t)h * dims, conf->rope.dims, conf->rope.adjacent, cosines, sines);
        level->to_f16(k + (size_t)h * dims, dims, halves);
        for (uint32_t d = 0; d < dims; d++) payload[(size_t)d * tokens + slot] = halves[d];
        level->to_f16(v + (size_t)h * dims, dims, payload + (size_t)dims * tokens + (size_t)slot * dims);
    }
}

/* The sequence that holds `row`; sequences are in row order. */
static uint32_t find_seq(const struct kern_batch *batch, uint32_t row)
{
    uint32_t low = 0, high = batch->seq_count - 1;
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (batch->seqs[middle].row_first <= row) low = middle;
        else high = middle - 1;
    }
    return low;
}

static void store_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    const struct kern_batch *batch = job->batch;
    uint32_t row = piece * STORE_ROWS;
    uint32_t end = row + STORE_ROWS < batch->row_count ? row + STORE_ROWS : batch->row_count;
    uint32_t s = find_seq(batch, row);
    for (; row < end; row++) {
        while (row >= batch->seqs[s].row_first + batch->seqs[s].row_count) s++;
        CHECK(s < batch->seq_count);
        store_row(job, &batch->seqs[s], row);
    }
}

static struct cpu_attend piece_of(const struct attend_job *job, const struct attend_tile *tile,
                                  uint32_t kv_head)
{
    const struct kern_conf *conf = &job->kern->conf;
    const struct kern_seq *seq = &job->batch->seqs[tile->seq];
    uint32_t pos_first = seq->pos_first + (tile->row_first - seq->row_first);
    return (struct cpu_attend){
        .queries = row_of(job->qkv, tile->row_first) + (size_t)kv_head * job->group * conf->head_dims,
        .query_stride = job->qkv->cols,
        .row_count = tile->row_count,
        .group = job->group,
        .head_dims = conf->head_dims,
        .pos_first = pos_first,
        .key_end = pos_first + tile->row_count,
        .pages = seq->pages,
        .payload = head_payload(job->kern, 0, job->layer, kv_head),
        .page_bytes = conf->cache.page_bytes,
        .page_tokens = conf->cache.page_tokens,
    };
}

/* Query i of a tile is done: values / sum to the output row, in the shapes its reader wants. */
static void finish_query(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head,
                         uint32_t i, const struct cpu_softmax *state, const float *values)
{
    struct kern *kern = job->kern;
    struct kern_rows *out = job->out;
    uint32_t dims = kern->conf.head_dims;
    uint32_t row = tile->row_first + i / job->group;
    uint32_t col = (kv_head * job->group + i % job->group) * dims;
    float head[HEAD_DIMS_MAX];
    float *to = out->has_values ? row_of(out, row) + col : head;
    kern->level->divide(values, state->sum, dims, to);
    if (out->has_blocks)
        kern->level->quantize(to, dims / BLOCK_COLS,
                              out->blocks + (size_t)row * out->block_count + col / BLOCK_COLS);
}

static void attend_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    uint32_t kv_count = job->kern->conf.head_count_kv, dims = job->kern->conf.head_dims;
    /* The last tiles see the most keys: they go first, so that no thread is left with a long one. */
    const struct attend_tile *tile = &job->kern->tiles[job->tile_count - 1 - piece / kv_count];
    uint32_t kv_head = piece % kv_count;
    struct cpu_softmax states[QUERIES_MAX];
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX];
    struct cpu_attend attend = piece_of(job, tile, kv_head);
    job->kern->level->attend(&attend, states, values);
    for (uint32_t i = 0; i < tile->row_count * job->group; i++)
        finish_query(job, tile, kv_head, i, &states[i], values + (size_t)i * dims);
}

/* What a cut tile leaves: for each (tile, KV head, partition) the states, then the values, of its queries. */
static size_t partial_floats(const struct attend_job *job)
{
    return (size_t)QUERIES_MAX * (2 + job->kern->conf.head_dims);
}

static float *partial_of(const struct attend_job *job, uint32_t tile, uint32_t kv_head, uint32_t partition)
{
    size_t index = ((size_t)tile * job->kern->conf.head_count_kv + kv_head) * job->partition_count +
                   partition;
    return job->kern->partials + index * partial_floats(job);
}

static void cut_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    uint32_t kv_count = job->kern->conf.head_count_kv;
    uint32_t partition = piece % job->partition_count;
    uint32_t kv_head = piece / job->partition_count % kv_count;
    uint32_t t = piece / job->partition_count / kv_count;
    struct cpu_attend attend = piece_of(job, &job->kern->tiles[t], kv_head);
    attend.key_first = partition * PARTITION;
    if (attend.key_first >= attend.key_end) return;
    if (attend.key_end > attend.key_first + PARTITION) attend.key_end = attend.key_first + PARTITION;
    float *partial = partial_of(job, t, kv_head, partition);
    job->kern->level->attend(&attend, (struct cpu_softmax *)(void *)partial, partial + 2 * QUERIES_MAX);
}

static void merge_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    uint32_t kv_count = job->kern->conf.head_count_kv, dims = job->kern->conf.head_dims;
    uint32_t t = piece / kv_count, kv_head = piece % kv_count;
    const struct attend_tile *tile = &job->kern->tiles[t];
    uint32_t key_end = piece_of(job, tile, kv_head).key_end;
    float *first = partial_of(job, t, kv_head, 0);
    struct cpu_softmax *states = (struct cpu_softmax *)(void *)first;
    for (uint32_t i = 0; i < tile->row_count * job->group; i++) {
        float *values = first + 2 * QUERIES_MAX + (size_t)i * dims;
        for (uint32_t p = 1; p * PARTITION < key_end; p++) {
            const float *more = partial_of(job, t, kv_head, p);
            job->kern->level->merge(&states[i], values, (const struct cpu_softmax *)(const void *)more + i,
                                    more + 2 * QUERIES_MAX + (size_t)i * dims, dims);
        }
        finish_query(job, tile, kv_head, i, &states[i], values);
    }
}

/* Fills kern->tiles; sets tile_count and, when cutting at partitions pays and fits, partition_count. */
static void plan_tiles(struct attend_job *job)
{
    struct kern *kern = job->kern;
    const struct kern_batch *batch = job->batch;
    uint32_t rows_a_tile = QUERIES_MAX / job->group;
    uint32_t key_end = 0;
    for (uint32_t s = 0; s < batch->seq_count; s++) {
        const struct kern_seq *seq = &batch->seqs[s];
        CHECK(seq->row_first + seq->row_count <= batch->row_count);
        if (seq->row_count > 0 && seq->pos_first + seq->row_count > key_end)
            key_end = seq->pos_first + seq->row_count;
        for (uint32_t r = 0; r < seq->row_count; r += rows_a_tile) {
            uint32_t left = seq->row_count - r;
            CHECK(job->tile_count < kern->conf.rows_max);
            kern->tiles[job->tile_count++] = (struct attend_tile){
                .seq = s,
                .row_first = seq->row_first + r,
                .row_count = left < rows_a_tile ? left : rows_a_tile};
        }
    }
    uint32_t partitions = (key_end + PARTITION - 1) / PARTITION;
    uint32_t pieces = job->tile_count * kern->conf.head_count_kv;
    if (partitions < 2 || team_threads(kern->team) == 1) return;
    if (pieces >= PIECES_A_THREAD * team_threads(kern->team)) return;
    size_t bytes = (size_t)pieces * partitions * partial_floats(job) * sizeof(float);
    if (bytes <= (size_t)PARTIALS_MIB << 20) job->partition_count = partitions;
}

void machine_attend(struct kern *kern, uint32_t layer, struct kern_rows *qkv, const struct kern_batch *batch,
                    struct kern_rows *out)
{
    const struct kern_conf *conf = &kern->conf;
    CHECK(layer < conf->cache.layer_count);
    CHECK(qkv->has_values && qkv->cols == (conf->head_count + 2 * conf->head_count_kv) * conf->head_dims);
    CHECK(out->cols == conf->head_count * conf->head_dims);
    CHECK(batch->row_count <= conf->rows_max && batch->row_count <= qkv->row_count &&
          batch->row_count <= out->row_count);
    if (batch->row_count == 0) return;
    struct attend_job job = {.kern = kern,
                             .batch = batch,
                             .qkv = qkv,
                             .out = out,
                             .layer = layer,
                             .group = conf->head_count / conf->head_count_kv};
    out->has_blocks = conf->head_dims % BLOCK_COLS == 0;
    out->has_values = kern->has_float_weights || !out->has_blocks;
    team_run(kern->team, store_piece, &job, (batch->row_count + STORE_ROWS - 1) / STORE_ROWS);
    plan_tiles(&job);
    uint32_t pieces = job.tile_count * conf->head_count_kv;
    if (job.partition_count == 0) {
        team_run(kern->team, attend_piece, &job, pieces);
        return;
    }
    team_run(kern->team, cut_piece, &job, pieces * job.partition_count);
    team_run(kern->team, merge_piece, &job, pieces);
}
