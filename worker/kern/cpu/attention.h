/* SPDX-License-Identifier: Apache-2.0 */
/* attention - template of paged causal attention for one KV head and the query heads that share it.
 *
 * 1. Keys are taken in blocks of KEY_BLOCK at fixed positions: scores = queries . K, their maximum,
 *    exponentials, values = weights . V. Each block has its own softmax state, and states are merged in the
 *    order of keys. So a long sequence may be cut at blocks over threads without changing a bit. (Online
 *    softmax: Milakov and Gimelshein 2018; FlashAttention, Dao 2022.)
 * 2. Exponentials are to the base 2: queries come scaled by log2(e) as well.
 * 3. Keys past a query's position get weight 0 and change nothing, so a row's result does not depend on the
 *    rows it shares a tile with. Every sum is one chain in the order of dimensions or keys.
 * 4. K and V are converted as they are read, by every tile of queries anew: that hides behind the multiply-adds,
 *    and a block of pages is half as large as it would be in f32. */
#ifndef KVASIR_KERN_CPU_ATTENTION_H
#define KVASIR_KERN_CPU_ATTENTION_H

#include <math.h>

#include "common/base/check.h"
#include "worker/kern/cpu/attention_tile.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/cpu/rows.h"

struct attend_scratch {
    _Alignas(64) float queries[QUERIES_MAX * QUERY_STRIDE]; // (queries, head_dims)
    _Alignas(64) float scores[QUERIES_MAX * KEY_BLOCK];     // (queries, KEY_BLOCK); then the weights
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX]; // of a block after the first
    struct cpu_softmax states[QUERIES_MAX];
};

/* Where K (plane 0) or V (plane 1) of the keys from `key` on lies. */
INLINE const uint8_t *page_keys(const struct cpu_attend *p, int plane, uint32_t key)
{
    const uint8_t *page = p->payload + p->pages[key / p->page_tokens] * p->page_bytes;
    size_t slot = key % p->page_tokens;
    if (plane == 0) return page + slot * sizeof(uint16_t);
    return page + (size_t)p->head_dims * (p->page_tokens + slot) * sizeof(uint16_t);
}

/* K or V of a block of keys; `ahead` looks one block on, at the end into the piece that comes next. */
static void find_keys(const struct cpu_attend *p, int plane, uint32_t key_first, uint32_t key_count,
                      struct tile_keys *out)
{
    for (uint32_t c = 0; c * CHUNK < key_count; c++) {
        const struct cpu_attend *after = p;
        uint32_t key = key_first + c * CHUNK, key_after = key + KEY_BLOCK;
        if (key_after >= p->key_end && p->then != NULL) {
            after = p->then;
            key_after = after->key_first + c * CHUNK;
        }
        out->at[c] = page_keys(p, plane, key);
        out->ahead[c] = key_after < after->key_end ? page_keys(after, plane, key_after) : out->at[c];
    }
    out->stride = (plane == 0 ? p->page_tokens : p->head_dims) * sizeof(uint16_t);
}

/* Scores of one query over `visible` keys of a block become weights; those past `visible`, up to `width`, become
 * 0. Returns the state of the block. */
static struct cpu_softmax softmax_block(float *scores, uint32_t visible, uint32_t width)
{
    const uint32_t whole = visible / LANES * LANES;
    const int rest = (int)(visible - whole);
    const vf lowest = vf_set1(-INFINITY);
    vf most = lowest, sum = vf_zero();
    uint32_t k = 0;
    for (; k < whole; k += LANES) most = vf_max(most, vf_load(scores + k));
    if (rest > 0) most = vf_max(most, vf_first(rest, vf_load(scores + k), lowest));
    const float max = vf_reduce_max(most);
    const vf base = vf_set1(max);
    for (k = 0; k < whole; k += LANES) {
        vf e = vf_exp2(vf_sub(vf_load(scores + k), base));
        sum = vf_add(sum, e);
        vf_store(scores + k, e);
    }
    if (rest > 0) {
        vf e = vf_first(rest, vf_exp2(vf_sub(vf_load(scores + k), base)), vf_zero());
        sum = vf_add(sum, e);
        vf_store(scores + k, e);
        k += LANES;
    }
    for (; k < width; k += LANES) vf_store(scores + k, vf_zero());
    return (struct cpu_softmax){.max = max, .sum = vf_reduce_add(sum)};
}

/* Keys of a block that query i sees. */
INLINE uint32_t visible_to(const struct cpu_attend *p, uint32_t i, uint32_t key_first, uint32_t key_count)
{
    uint32_t end = p->pos_first + i / p->group + 1;
    if (end <= key_first) return 0;
    return end - key_first < key_count ? end - key_first : key_count;
}

/* Rows of the next tile: as even as can be, since small tiles wait for their own sums. */
INLINE uint32_t tile_rows(uint32_t left)
{
    uint32_t tiles = (left + GEMM_ROWS - 1) / GEMM_ROWS;
    return (left + tiles - 1) / tiles;
}

/* One block of keys for all queries of the piece. states, values: of this block alone. */
INLINE void attend_block(const struct cpu_attend *p, enum kern_kv type, uint32_t key_first,
                         uint32_t key_count, struct attend_scratch *s, struct cpu_softmax *states,
                         float *values)
{
    const uint32_t dims = p->head_dims, query_count = p->row_count * p->group;
    const uint32_t chunks = (key_count + CHUNK - 1) / CHUNK, dim_chunks = dims / CHUNK;
    struct tile_keys keys, vectors;
    find_keys(p, 0, key_first, key_count, &keys);
    find_keys(p, 1, key_first, key_count, &vectors);
    /* A few chunks stay in the first cache while many queries pass; few queries pass once. */
    const uint32_t step = query_count > GEMM_ROWS ? CHUNKS_MANY : BLOCK_CHUNKS;
    for (uint32_t c = 0; c < chunks; c += step) {
        uint32_t end = chunks - c < step ? chunks : c + step;
        uint32_t key = key_first + c * CHUNK;
        uint32_t i = key > p->pos_first ? (key - p->pos_first) * p->group
                                        : 0; // the first that sees one of them
        for (uint32_t rows; i < query_count; i += rows) {
            rows = tile_rows(query_count - i);
            score_any(type, rows, s->queries + (size_t)i * QUERY_STRIDE, dims, &keys, c, end,
                      s->scores + (size_t)i * KEY_BLOCK);
        }
    }
    for (uint32_t i = 0; i < query_count; i++)
        states[i] = softmax_block(s->scores + (size_t)i * KEY_BLOCK, visible_to(p, i, key_first, key_count),
                                  chunks * CHUNK);
    const uint32_t dim_step = query_count > GEMM_ROWS ? CHUNKS_MANY : dim_chunks;
    for (uint32_t c = 0; c < dim_chunks; c += dim_step) {
        uint32_t end = dim_chunks - c < dim_step ? dim_chunks : c + dim_step;
        for (uint32_t i = 0, rows; i < query_count; i += rows) {
            rows = tile_rows(query_count - i);
            value_any(type, rows, s->scores + (size_t)i * KEY_BLOCK,
                      visible_to(p, i + rows - 1, key_first, key_count), &vectors, c, end,
                      values + (size_t)i * dims, dims);
        }
    }
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
    vf a = vf_exp2(vf_set1(state->max - max)), b = vf_exp2(vf_set1(more->max - max));
    for (uint32_t d = 0; d < head_dims; d += LANES)
        vf_store(values + d, vf_fma(vf_load(values + d), a, vf_mul(vf_load(more_values + d), b)));
    state->sum = vf_reduce_max(vf_fma(vf_set1(state->sum), a, vf_mul(vf_set1(more->sum), b)));
    state->max = max;
}

static void attend(const struct cpu_attend *p, struct cpu_softmax *states, float *values)
{
    struct attend_scratch s; // some 120 KiB, of which head_dims / HEAD_DIMS_MAX are touched
    const uint32_t dims = p->head_dims;
    const uint32_t query_count = p->row_count * p->group;
    CHECK(query_count <= QUERIES_MAX);
    CHECK(dims <= HEAD_DIMS_MAX && dims % CHUNK == 0);
    CHECK(p->page_tokens % CHUNK == 0 && p->key_first % KEY_BLOCK == 0 && p->key_first < p->key_end);
    for (uint32_t i = 0; i < query_count; i++) {
        const float *query = p->queries + i / p->group * p->query_stride + (size_t)(i % p->group) * dims;
        for (uint32_t d = 0; d < dims; d += LANES)
            vf_store(s.queries + (size_t)i * QUERY_STRIDE + d, vf_load(query + d));
    }
    for (uint32_t first = p->key_first; first < p->key_end; first += KEY_BLOCK) {
        uint32_t count = p->key_end - first < KEY_BLOCK ? p->key_end - first : KEY_BLOCK;
        if (first == p->key_first) {
            attend_block(p, KERN_KV_F16, first, count, &s, states, values);
            continue;
        }
        attend_block(p, KERN_KV_F16, first, count, &s, s.states, s.values);
        for (uint32_t i = 0; i < query_count; i++)
            merge(&states[i], values + (size_t)i * dims, &s.states[i], s.values + (size_t)i * dims, dims);
    }
}

static void divide(const float *values, float sum, uint32_t head_dims, float *out)
{
    vf inverse = vf_set1(1.0f / sum);
    for (uint32_t d = 0; d < head_dims; d += LANES) vf_store(out + d, vf_mul(vf_load(values + d), inverse));
}

#endif
