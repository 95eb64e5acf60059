/* SPDX-License-Identifier: Apache-2.0 */
/* kv_write - the first half of attention: rotates queries and keys, and writes keys and values into the pages. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"
#include "worker/kern/ref/half.h"

enum {
    STORE_ROWS = 16, // rows of one piece, at most
    LINE_BYTES = 64,
};

#define HALF_MAX 65504.0f
#define Q4_RANGE 0.92f // of the range of a vector is covered by codes

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
    size_t head_bytes = kern_kv_head_bytes(conf->cache.kv_type, conf->head_dims, conf->cache.page_tokens);
    for (uint32_t h = 0; h < conf->head_count_kv; h++) {
        const uint8_t *payload = machine_payload(job->kern, page, job->layer, h);
        for (size_t i = 0; i < head_bytes / 2; i += LINE_BYTES) __builtin_prefetch(payload + i, 1);
        size_t row_bytes = head_bytes / 2 / conf->cache.page_tokens;
        payload += head_bytes / 2 + slot * row_bytes;
        for (size_t i = 0; i < row_bytes; i += LINE_BYTES) __builtin_prefetch(payload + i, 1);
    }
}

/* Where a token of one layer and KV head goes. */
struct token_place {
    uint8_t *base; // of the head's payload
    uint32_t dims, tokens, slot;
};

static void put_halves(const struct cpu_level *level, enum kern_kv type, const struct token_place *at,
                       const float *k, const float *v)
{
    uint16_t halves[HEAD_DIMS_MAX], *keys = (uint16_t *)(void *)at->base;
    uint16_t *values = keys + (size_t)at->dims * at->tokens + (size_t)at->slot * at->dims;
    if (type == KERN_KV_BF16) {
        for (uint32_t d = 0; d < at->dims; d++) halves[d] = half_bf16_of_f32(k[d]);
        for (uint32_t d = 0; d < at->dims; d++) values[d] = half_bf16_of_f32(v[d]);
    } else {
        level->to_f16(k, at->dims, halves);
        level->to_f16(v, at->dims, values);
    }
    for (uint32_t d = 0; d < at->dims; d++) keys[(size_t)d * at->tokens + at->slot] = halves[d];
}

/* Rounds a scale or minimum as the page keeps it. Never infinite: codes times infinity would be no numbers. */
static float keep_factor(uint8_t *factors, uint32_t slot, float value)
{
    uint16_t half = half_f16_of_f32(value > HALF_MAX ? HALF_MAX : value < -HALF_MAX ? -HALF_MAX : value);
    ((uint16_t *)(void *)factors)[slot] = half;
    return half_f32_of_f16(half);
}

/* To the nearest, ties to even, by adding 1.5 * 2^23. The limits come first: what is no number becomes `low`. */
static int code_of(float x, float low, float high)
{
    x = x > low ? x : low;
    x = x < high ? x : high;
    return (int)(x + 12582912.0f - 12582912.0f);
}

static void put_q8(const struct token_place *at, int plane, const float *x)
{
    const size_t plane_bytes = (size_t)at->dims * at->tokens;
    const size_t step = plane == 0 ? at->tokens : 1;
    uint8_t *to = at->base + (plane == 0 ? at->slot : plane_bytes + (size_t)at->slot * at->dims);
    float most = 0;
    for (uint32_t d = 0; d < at->dims; d++) most = fabsf(x[d]) > most ? fabsf(x[d]) : most;
    uint8_t *scales = at->base + 2 * plane_bytes + (size_t)plane * at->tokens * sizeof(uint16_t);
    const float scale = keep_factor(scales, at->slot, most / 127);
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (uint32_t d = 0; d < at->dims; d++) to[d * step] = (uint8_t)code_of(x[d] * inverse, -127, 127);
}

/* See fit_q4 of kern/ref: a range cut by a little. */
static void fit_q4(const float *x, uint32_t dims, float *ret_scale, float *ret_minimum)
{
    float low = x[0], high = x[0];
    for (uint32_t d = 1; d < dims; d++) {
        low = x[d] < low ? x[d] : low;
        high = x[d] > high ? x[d] : high;
    }
    *ret_scale = (high - low) * Q4_RANGE / 15;
    *ret_minimum = 0.5f * (low + high) - 7.5f * *ret_scale;
}

/* x: turned already (machine_turn). */
static void put_q4(const struct token_place *at, int plane, const float *x)
{
    const size_t key_bytes = (size_t)at->dims / 2 * at->tokens, vector_bytes = (at->dims + 31) / 32 * 16;
    uint8_t *factors = at->base + key_bytes + at->tokens * vector_bytes;
    uint8_t codes[HEAD_DIMS_MAX + 16] = {0};
    float scale, low;
    fit_q4(x, at->dims, &scale, &low);
    factors += (size_t)plane * at->tokens * sizeof(uint16_t);
    low = keep_factor(factors + 2 * at->tokens * sizeof(uint16_t), at->slot, low);
    scale = keep_factor(factors, at->slot, scale);
    const float inverse = scale > 0 ? 1 / scale : 0;
    for (uint32_t d = 0; d < at->dims; d++) codes[d] = (uint8_t)code_of((x[d] - low) * inverse, 0, 15);
    if (plane == 0) {
        uint8_t *to = at->base + at->slot;
        for (uint32_t d = 0; d < at->dims; d += 2)
            to[d / 2 * (size_t)at->tokens] = (uint8_t)(codes[d] | codes[d + 1] << 4);
        return;
    }
    uint8_t *to = at->base + key_bytes + at->slot * vector_bytes;
    for (uint32_t d = 0; d < at->dims; d += 32, to += 16) {
        for (uint32_t i = 0; i < 16; i++) to[i] = (uint8_t)(codes[d + i] | codes[d + 16 + i] << 4);
    }
}

void machine_turn(float *restrict x, uint32_t dims)
{
    const uint32_t run = dims & -dims; // the largest power of 2 that divides dims
    for (uint32_t first = 0; first < dims; first += run) {
        for (uint32_t half = 1; half < run; half *= 2) {
            for (uint32_t i = first; i < first + run; i += 2 * half) {
                for (uint32_t d = i; d < i + half; d++) {
                    float a = x[d], b = x[d + half];
                    x[d] = a + b;
                    x[d + half] = a - b;
                }
            }
        }
    }
    const float factor = 1 / sqrtf((float)run);
    for (uint32_t d = 0; d < dims; d++) x[d] *= factor;
}

/* Rotates q and k of one row, scales q, and writes k and v into the row's page. */
static void store_row(const struct store_job *job, const struct kern_seq *seq, uint32_t row)
{
    struct kern *kern = job->kern;
    const struct kern_conf *conf = &kern->conf;
    const struct cpu_level *level = kern->level;
    const enum kern_kv type = (enum kern_kv)conf->cache.kv_type;
    struct token_place at = {.dims = conf->head_dims, .tokens = conf->cache.page_tokens};
    uint32_t dims = conf->head_dims, page = page_of(conf, seq, row, &at.slot);
    const float *cosines = rotation_of(kern, row, seq->pos_first + (row - seq->row_first));
    const float *sines = cosines + conf->rope.dims, scale = conf->attention_scale * LOG2_E;
    float *q = job->qkv->values + (size_t)row * job->qkv->cols;
    float *k = q + (size_t)conf->head_count * dims, *v = k + (size_t)conf->head_count_kv * dims;
    for (uint32_t h = 0; h < conf->head_count; h++) {
        level->rotate(q + (size_t)h * dims, conf->rope.dims, conf->rope.adjacent, cosines, sines);
        if (type == KERN_KV_Q4) machine_turn(q + (size_t)h * dims, dims);
    }
    for (uint32_t i = 0; i < conf->head_count * dims; i++) q[i] *= scale;
    for (uint32_t h = 0; h < conf->head_count_kv; h++, k += dims, v += dims) {
        at.base = machine_payload(kern, page, job->layer, h);
        level->rotate(k, conf->rope.dims, conf->rope.adjacent, cosines, sines);
        if (type == KERN_KV_Q8) {
            put_q8(&at, 0, k);
            put_q8(&at, 1, v);
        } else if (type == KERN_KV_Q4) {
            machine_turn(k, dims);
            machine_turn(v, dims);
            put_q4(&at, 0, k);
            put_q4(&at, 1, v);
        } else put_halves(level, type, &at, k, v);
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
