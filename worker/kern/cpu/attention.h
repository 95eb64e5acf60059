/* SPDX-License-Identifier: Apache-2.0 */
/* attention - template of paged causal attention for one KV head and the query heads that share it.
 *
 * 1. Keys are taken in partitions of PARTITION, in order; each partition has its own softmax state, and states
 *    are merged in order. So a long sequence may be cut at partitions over threads without changing a bit.
 * 2. Inside a partition, blocks of KEY_BLOCK keys at fixed positions: scores = queries . K, running maximum,
 *    exponentials, values += weights . V. (Online softmax: Milakov and Gimelshein 2018; FlashAttention, Dao 2022.)
 * 3. Keys past a query's position get weight 0 and change nothing, so a row's result does not depend on the
 *    rows it shares a tile with. Every sum is one chain in the order of dimensions or keys.
 * 4. Few queries read K and V as f16 straight from the page; many convert a block to f32 once. Same values,
 *    same order, same bits. */
#ifndef KVASIR_KERN_CPU_ATTENTION_H
#define KVASIR_KERN_CPU_ATTENTION_H

#include <math.h>

#include "common/base/check.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/cpu/rows.h"

enum {
    GEMM_COLS = 16, // columns of a register tile: keys of a K row, or dimensions of V
    GEMM_VECTORS = GEMM_COLS / LANES,
    KEY_TILES = KEY_BLOCK / GEMM_COLS,
};

struct block_f32 {                                 // K and V of a key block in f32
    float k[KEY_TILES][HEAD_DIMS_MAX * GEMM_COLS]; // (key tile; head_dims, 16)
    float v[KEY_BLOCK * HEAD_DIMS_MAX];            // (keys, head_dims)
};

struct attend_scratch {
    _Alignas(64) float queries[QUERIES_MAX * HEAD_DIMS_MAX]; // (queries, head_dims)
    _Alignas(64) float scores[QUERIES_MAX * KEY_BLOCK];      // (queries, KEY_BLOCK); then the weights
    _Alignas(64) struct block_f32 f32;
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX]; // of a partition after the first
    struct cpu_softmax states[QUERIES_MAX];
};

/* c (rows, 16) = or += a (rows, count) . b (count, 16); b is f16 or f32, as `half` says. */
INLINE void gemm_tile(int rows, bool half, bool add, const float *a, size_t a_stride, const void *b,
                      size_t b_stride, uint32_t count, float *c, size_t c_stride)
{
    vf sums[GEMM_ROWS][GEMM_VECTORS];
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < GEMM_VECTORS; v++)
            sums[r][v] = add ? vf_load(c + (size_t)r * c_stride + v * LANES) : vf_zero();
    }
    for (uint32_t k = 0; k < count; k++) {
        vf x[GEMM_VECTORS];
        UNROLL for (int v = 0; v < GEMM_VECTORS; v++)
        {
            if (half) x[v] = vf_load_f16((const uint16_t *)b + k * b_stride + v * LANES);
            else x[v] = vf_load((const float *)b + k * b_stride + v * LANES);
        }
        UNROLL for (int r = 0; r < rows; r++)
        {
            vf s = vf_set1(a[(size_t)r * a_stride + k]);
            UNROLL for (int v = 0; v < GEMM_VECTORS; v++) sums[r][v] = vf_fma(s, x[v], sums[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int v = 0; v < GEMM_VECTORS; v++)
            vf_store(c + (size_t)r * c_stride + v * LANES, sums[r][v]);
    }
}

INLINE void gemm(bool half, bool add, uint32_t rows, const float *a, size_t a_stride, const void *b,
                 size_t b_stride, uint32_t count, float *c, size_t c_stride)
{
    uint32_t r = 0;
    for (; r + GEMM_ROWS <= rows; r += GEMM_ROWS)
        gemm_tile(GEMM_ROWS, half, add, a + r * a_stride, a_stride, b, b_stride, count, c + r * c_stride,
                  c_stride);
    for (; GEMM_ROWS > 4 && r + 4 <= rows; r += 4)
        gemm_tile(4, half, add, a + r * a_stride, a_stride, b, b_stride, count, c + r * c_stride, c_stride);
    for (; GEMM_ROWS > 3 && r + 3 <= rows; r += 3)
        gemm_tile(3, half, add, a + r * a_stride, a_stride, b, b_stride, count, c + r * c_stride, c_stride);
    for (; r + 2 <= rows; r += 2)
        gemm_tile(2, half, add, a + r * a_stride, a_stride, b, b_stride, count, c + r * c_stride, c_stride);
    if (r < rows)
        gemm_tile(1, half, add, a + r * a_stride, a_stride, b, b_stride, count, c + r * c_stride, c_stride);
}

static void gemm_f32(uint32_t rows, const float *a, size_t a_stride, const float *b, size_t b_stride,
                     uint32_t count, float *c, size_t c_stride, bool add)
{
    if (add) gemm(false, true, rows, a, a_stride, b, b_stride, count, c, c_stride);
    else gemm(false, false, rows, a, a_stride, b, b_stride, count, c, c_stride);
}

static void gemm_f16(uint32_t rows, const float *a, size_t a_stride, const uint16_t *b, size_t b_stride,
                     uint32_t count, float *c, size_t c_stride, bool add)
{
    if (add) gemm(true, true, rows, a, a_stride, b, b_stride, count, c, c_stride);
    else gemm(true, false, rows, a, a_stride, b, b_stride, count, c, c_stride);
}

/* K of 16 keys starting at `key`: element (dim, key) at dim * page_tokens + key. */
INLINE const uint16_t *page_keys(const struct cpu_attend *p, uint32_t key)
{
    const uint8_t *page = p->payload + p->pages[key / p->page_tokens] * p->page_bytes;
    return (const uint16_t *)(const void *)page + key % p->page_tokens;
}

/* V of keys from `key` on: element (key, dim) at key * head_dims + dim. */
INLINE const uint16_t *page_values(const struct cpu_attend *p, uint32_t key)
{
    const uint8_t *page = p->payload + p->pages[key / p->page_tokens] * p->page_bytes;
    return (const uint16_t *)(const void *)page + (size_t)p->head_dims * p->page_tokens +
           (size_t)(key % p->page_tokens) * p->head_dims;
}

static void prefetch_tile(const struct cpu_attend *p, uint32_t key)
{
    if (key >= p->key_end || p->page_tokens != GEMM_COLS) return;
    const uint8_t *page = p->payload + p->pages[key / GEMM_COLS] * p->page_bytes;
    for (uint32_t i = 0; i < p->head_dims * GEMM_COLS * 2 * 2; i += 64) prefetch(page + i);
}

static void widen_block(const struct cpu_attend *p, uint32_t key_first, uint32_t key_count,
                        struct block_f32 *out)
{
    for (uint32_t t = 0; t * GEMM_COLS < key_count; t++) {
        const uint16_t *k = page_keys(p, key_first + t * GEMM_COLS);
        for (uint32_t d = 0; d < p->head_dims; d++) {
            UNROLL for (int v = 0; v < GEMM_VECTORS; v++) vf_store(
                out->k[t] + d * GEMM_COLS + v * LANES, vf_load_f16(k + d * p->page_tokens + v * LANES));
        }
        const uint16_t *values = page_values(p, key_first + t * GEMM_COLS);
        float *to = out->v + (size_t)t * GEMM_COLS * p->head_dims;
        uint32_t keys = key_count - t * GEMM_COLS < GEMM_COLS ? key_count - t * GEMM_COLS : GEMM_COLS;
        for (uint32_t i = 0; i < keys * p->head_dims; i += LANES) vf_store(to + i, vf_load_f16(values + i));
    }
}

/* Scores of one query over `visible` keys of a block become weights; the state and the values so far move
 * to the new maximum. Lanes past `visible`, up to `width`, become 0. */
static void softmax_step(float *scores, uint32_t visible, uint32_t width, uint32_t head_dims,
                         struct cpu_softmax *state, float *values)
{
    const vf lowest = vf_set1(-INFINITY);
    vf most = lowest;
    for (uint32_t k = 0; k < visible; k += LANES)
        most = vf_max(most, vf_first((int)(visible - k), vf_load(scores + k), lowest));
    float max = vf_reduce_max(most);
    if (visible > 0 && max > state->max) {
        if (state->sum > 0) {
            vf move = vf_exp(vf_set1(state->max - max));
            state->sum = vf_reduce_max(vf_mul(vf_set1(state->sum), move));
            for (uint32_t d = 0; d < head_dims; d += LANES)
                vf_store(values + d, vf_mul(vf_load(values + d), move));
        }
        state->max = max;
    }
    vf base = vf_set1(state->max);
    vf sum = vf_zero();
    uint32_t k = 0;
    for (; k < visible; k += LANES) {
        vf e = vf_exp(vf_sub(vf_load(scores + k), base));
        e = vf_first((int)(visible - k), e, vf_zero());
        sum = vf_add(sum, e);
        vf_store(scores + k, e);
    }
    for (; k < width; k += LANES) vf_store(scores + k, vf_zero());
    if (visible > 0) state->sum += vf_reduce_add(sum);
}

/* One block of keys for all queries of the piece. */
static void attend_block(const struct cpu_attend *p, uint32_t key_first, uint32_t key_count,
                         struct attend_scratch *s, struct cpu_softmax *states, float *values)
{
    const uint32_t dims = p->head_dims;
    const uint32_t query_count = p->row_count * p->group;
    const bool direct = query_count <= GEMM_ROWS; // rule 4
    if (!direct) widen_block(p, key_first, key_count, &s->f32);
    for (uint32_t t = 0; t * GEMM_COLS < key_count; t++) {
        float *scores = s->scores + t * GEMM_COLS;
        uint32_t key = key_first + t * GEMM_COLS;
        if (direct) {
            prefetch_tile(p, key + KEY_BLOCK);
            gemm_f16(query_count, s->queries, dims, page_keys(p, key), p->page_tokens, dims, scores,
                     KEY_BLOCK, false);
        } else
            gemm_f32(query_count, s->queries, dims, s->f32.k[t], GEMM_COLS, dims, scores, KEY_BLOCK, false);
    }
    for (uint32_t i = 0; i < query_count; i++) {
        uint32_t end = p->pos_first + i / p->group + 1; // keys this row sees
        uint32_t visible = end <= key_first ? 0 : end - key_first < key_count ? end - key_first : key_count;
        softmax_step(s->scores + (size_t)i * KEY_BLOCK, visible, key_count, dims, &states[i],
                     values + (size_t)i * dims);
    }
    for (uint32_t t = 0; t * GEMM_COLS < key_count && direct; t++) {
        uint32_t keys = key_count - t * GEMM_COLS < GEMM_COLS ? key_count - t * GEMM_COLS : GEMM_COLS;
        const uint16_t *v = page_values(p, key_first + t * GEMM_COLS);
        for (uint32_t d = 0; d < dims; d += GEMM_COLS)
            gemm_f16(query_count, s->scores + t * GEMM_COLS, KEY_BLOCK, v + d, dims, keys, values + d, dims,
                     true);
    }
    for (uint32_t d = 0; d < dims && !direct; d += GEMM_COLS)
        gemm_f32(query_count, s->scores, KEY_BLOCK, s->f32.v + d, dims, key_count, values + d, dims, true);
}

static void merge(struct cpu_softmax *state, float *values, const struct cpu_softmax *more,
                  const float *more_values, uint32_t head_dims)
{
    if (more->sum == 0) return; // it saw no key
    if (state->sum == 0) {
        *state = *more;
        memcpy(values, more_values, head_dims * sizeof(*values));
        return;
    }
    float max = state->max > more->max ? state->max : more->max;
    vf a = vf_exp(vf_set1(state->max - max)), b = vf_exp(vf_set1(more->max - max));
    for (uint32_t d = 0; d < head_dims; d += LANES)
        vf_store(values + d, vf_fma(vf_load(values + d), a, vf_mul(vf_load(more_values + d), b)));
    state->sum = vf_reduce_max(vf_fma(vf_set1(state->sum), a, vf_mul(vf_set1(more->sum), b)));
    state->max = max;
}

static void attend(const struct cpu_attend *p, struct cpu_softmax *states, float *values)
{
    struct attend_scratch s; // some 350 KiB, of which head_dims / HEAD_DIMS_MAX are touched
    const uint32_t dims = p->head_dims;
    const uint32_t query_count = p->row_count * p->group;
    CHECK(query_count <= QUERIES_MAX);
    CHECK(dims <= HEAD_DIMS_MAX && dims % GEMM_COLS == 0);
    CHECK(p->page_tokens % GEMM_COLS == 0 && p->key_first % PARTITION == 0);
    for (uint32_t i = 0; i < query_count; i++) {
        const float *query = p->queries + i / p->group * p->query_stride + (size_t)(i % p->group) * dims;
        for (uint32_t d = 0; d < dims; d += LANES)
            vf_store(s.queries + (size_t)i * dims + d, vf_load(query + d));
    }
    for (uint32_t first = p->key_first; first < p->key_end || first == p->key_first; first += PARTITION) {
        struct cpu_softmax *part_states = first == p->key_first ? states : s.states;
        float *part_values = first == p->key_first ? values : s.values;
        uint32_t end = p->key_end - first < PARTITION ? p->key_end : first + PARTITION;
        for (uint32_t i = 0; i < query_count; i++) part_states[i] = (struct cpu_softmax){.max = -INFINITY};
        memset(part_values, 0, (size_t)query_count * dims * sizeof(float));
        for (uint32_t key = first; key < end; key += KEY_BLOCK)
            attend_block(p, key, end - key < KEY_BLOCK ? end - key : KEY_BLOCK, &s, part_states, part_values);
        if (first == p->key_first) continue;
        for (uint32_t i = 0; i < query_count; i++)
            merge(&states[i], values + (size_t)i * dims, &part_states[i], part_values + (size_t)i * dims,
                  dims);
    }
}

static void divide(const float *values, float sum, uint32_t head_dims, float *out)
{
    vf inverse = vf_set1(1.0f / sum);
    for (uint32_t d = 0; d < head_dims; d += LANES) vf_store(out + d, vf_mul(vf_load(values + d), inverse));
}

#endif
