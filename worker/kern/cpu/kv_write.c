/* SPDX-License-Identifier: Apache-2.0 */
/* kv_write - the first half of attention: rotates queries and keys, and writes keys and values into the pages. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"

enum {
    STORE_ROWS = 16, // rows of one piece, at most
    LINE_BYTES = 64,
};

#define LOG2_E 1.44269504088896340736f

struct store_job {
    struct kern *kern;
    const struct kern_batch *batch;
    struct kern_rows *qkv;
    uint32_t layer, piece_rows;
};

int machine_kv_init(struct kern *kern, struct err *err)
{
    const struct kern_conf *conf = &kern->conf;
    void *positions, *rotations;
    size_t rows = conf->rows_max;
    int r = machine_memory(kern, rows * sizeof(uint32_t), &positions, err);
    if (r >= 0) r = machine_memory(kern, rows * 2 * conf->rope.dims * sizeof(float), &rotations, err);
    if (r < 0) return r;
    memset(positions, 0xFF, rows * sizeof(uint32_t));
    kern->rotation_positions = positions;
    kern->rotations = rotations;
    return 0;
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

/* The page of a row, and the row's place in it. */
static uint32_t page_of(const struct kern_conf *conf, const struct kern_seq *seq, uint32_t row,
                        uint32_t *ret_slot)
{
    uint32_t position = seq->pos_first + (row - seq->row_first), tokens = conf->cache.page_tokens;
    CHECK(position / tokens < seq->page_count);
    uint32_t page = seq->pages[position / tokens];
    CHECK(page < conf->cache.page_count);
    *ret_slot = position % tokens;
    return page;
}

/* A column of K touches as many lines of memory as the whole page has: all are asked for at once, before the
 * rotation, when this is the first row that a step writes there. */
static void prefetch_page(const struct store_job *job, const struct kern_seq *seq, uint32_t row)
{
    const struct kern_conf *conf = &job->kern->conf;
    uint32_t slot;
    uint32_t page = page_of(conf, seq, row, &slot);
    if (row > seq->row_first && slot > 0) return;
    size_t plane_bytes = (size_t)conf->head_dims * conf->cache.page_tokens * sizeof(uint16_t);
    for (uint32_t h = 0; h < conf->head_count_kv; h++) {
        const uint8_t *payload = machine_payload(job->kern, page, job->layer, h);
        for (size_t i = 0; i < plane_bytes; i += LINE_BYTES) __builtin_prefetch(payload + i, 1);
        size_t row_bytes = conf->head_dims * sizeof(uint16_t);
        payload += plane_bytes + slot * row_bytes;
        for (size_t i = 0; i < row_bytes; i += LINE_BYTES) __builtin_prefetch(payload + i, 1);
    }
}

/* Rotates q and k of one row, scales q, and writes k and v into the row's page. */
static void store_row(const struct store_job *job, const struct kern_seq *seq, uint32_t row)
{
    struct kern *kern = job->kern;
    const struct kern_conf *conf = &kern->conf;
    const struct cpu_level *level = kern->level;
    uint32_t dims = conf->head_dims, tokens = conf->cache.page_tokens, slot;
    uint32_t page = page_of(conf, seq, row, &slot);
    const float *cosines = rotation_of(kern, row, seq->pos_first + (row - seq->row_first));
    const float *sines = cosines + conf->rope.dims, scale = conf->attention_scale * LOG2_E;
    float *q = job->qkv->values + (size_t)row * job->qkv->cols;
    float *k = q + (size_t)conf->head_count * dims, *v = k + (size_t)conf->head_count_kv * dims;
    for (uint32_t h = 0; h < conf->head_count; h++)
        level->rotate(q + (size_t)h * dims, conf->rope.dims, conf->rope.adjacent, cosines, sines);
    for (uint32_t i = 0; i < conf->head_count * dims; i++) q[i] *= scale;
    for (uint32_t h = 0; h < conf->head_count_kv; h++) {
        uint16_t *payload = (uint16_t *)(void *)machine_payload(kern, page, job->layer, h);
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

/* The sequence of `row`, which is that of the row before or a later one. */
static const struct kern_seq *next_seq(const struct kern_batch *batch, uint32_t row, uint32_t *inout_seq)
{
    while (row >= batch->seqs[*inout_seq].row_first + batch->seqs[*inout_seq].row_count) {
        ++*inout_seq;
        CHECK(*inout_seq < batch->seq_count);
    }
    return &batch->seqs[*inout_seq];
}

static void store_piece(void *arg, uint32_t piece)
{
    const struct store_job *job = arg;
    const struct kern_batch *batch = job->batch;
    uint32_t row = piece * job->piece_rows;
    uint32_t end = batch->row_count - row < job->piece_rows ? batch->row_count : row + job->piece_rows;
    uint32_t s = find_seq(batch, row), ahead = s;
    prefetch_page(job, next_seq(batch, row, &ahead), row);
    for (; row < end; row++) {
        if (row + 1 < end) prefetch_page(job, next_seq(batch, row + 1, &ahead), row + 1);
        store_row(job, next_seq(batch, row, &s), row);
    }
}

void machine_kv_write(struct kern *kern, uint32_t layer, struct kern_rows *qkv,
                      const struct kern_batch *batch)
{
    struct store_job job = {
        .kern = kern, .batch = batch, .qkv = qkv, .layer = layer, .piece_rows = STORE_ROWS};
    /* Rows of one page share its lines and stay together; those of a decode step have a page each. */
    uint32_t share = batch->row_count / (4 * team_threads(kern->team));
    if (batch->row_count == batch->seq_count && share < STORE_ROWS) job.piece_rows = share < 1 ? 1 : share;
    team_run(kern->team, store_piece, &job, (batch->row_count + job.piece_rows - 1) / job.piece_rows);
}
