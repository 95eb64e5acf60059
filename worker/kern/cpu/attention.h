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
 * 4. Types with a scale a token: the products run over codes. The scale of K (and the minimum, times the sum of the
 *    query) goes into the score, that of V into the weight; minimums of V add up to one number for all
 *    dimensions, where the sums of values start.
 * 5. A row's window begins inside a block: keys before it get weight 0 as well. Blocks before the window of the
 *    first row are not read, nor the first chunks of its block; the lanes and the order of all sums stay.
 * 6. K and V are converted as they are read, by every tile of queries anew: that hides behind the multiply-adds,
 *    and a block of pages is half as large as it would be in f32. */
#ifndef KVASIR_KERN_CPU_ATTENTION_H
#define KVASIR_KERN_CPU_ATTENTION_H

#include <math.h>

#include "common/base/check.h"
#include "worker/kern/cpu/attention_tile.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/cpu/rows.h"

/* Scales and minimums of a block of keys. */
struct key_factors {
    _Alignas(64) float scale[KEY_BLOCK];
    _Alignas(64) float minimum[KEY_BLOCK];
};

struct attend_scratch {
    _Alignas(64) float queries[QUERIES_MAX * QUERY_STRIDE]; // (queries, head_dims)
    _Alignas(64) float scores[QUERIES_MAX * KEY_BLOCK];     // (queries, KEY_BLOCK); then the weights
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX]; // of a block after the first
    struct cpu_softmax states[QUERIES_MAX];
    struct key_factors of_keys, of_values; // q8, q4
    float query_sums[QUERIES_MAX];         // q4: sum of a query
    float starts[QUERIES_MAX];             // q4: what minimums of V add to every dimension
};

INLINE bool has_factors(enum kern_kv type)
{
    return type == KERN_KV_Q8 || type == KERN_KV_Q4;
}

INLINE const uint8_t *page_of(const struct cpu_attend *p, uint32_t key)
{
    return p->payload + p->pages[key / p->page_tokens] * p->page_bytes;
}

/* Bytes of K in a page, and of one key's V. */
INLINE size_t plane_bytes(const struct cpu_attend *p, enum kern_kv type)
{
    const size_t dims = p->head_dims, tokens = p->page_tokens;
    return type == KERN_KV_Q4 ? dims / 2 * tokens : dims * tokens * (type == KERN_KV_Q8 ? 1 : 2);
}

INLINE size_t vector_bytes(const struct cpu_attend *p, enum kern_kv type)
{
    const size_t dims = p->head_dims;
    return type == KERN_KV_Q4 ? (dims + 31) / 32 * 16 : dims * (type == KERN_KV_Q8 ? 1 : 2);
}

/* Where K (plane 0) or V (plane 1) of the keys from `key` on lies. */
INLINE const uint8_t *page_keys(const struct cpu_attend *p, enum kern_kv type, int plane, uint32_t key)
{
    size_t slot = key % p->page_tokens;
    if (plane == 0) return page_of(p, key) + (has_factors(type) ? slot : slot * sizeof(uint16_t));
    return page_of(p, key) + plane_bytes(p, type) + slot * vector_bytes(p, type);
}

/* Scales and minimums of K or V. */
INLINE void load_factors(const struct cpu_attend *p, enum kern_kv type, int plane, uint32_t key_first,
                         uint32_t key_count, struct key_factors *out)
{
    const size_t tokens = p->page_tokens;
    const size_t first = plane_bytes(p, type) + tokens * vector_bytes(p, type) +
                         (size_t)plane * tokens * sizeof(uint16_t);
    for (uint32_t k = 0; k < key_count; k += CHUNK) {
        size_t slot = (key_first + k) % p->page_tokens;
        const uint8_t *at = page_of(p, key_first + k) + first + slot * sizeof(uint16_t);
        for (uint32_t i = 0; i < CHUNK; i += LANES) {
            vf_store(out->scale + k + i, vf_load_f16((const uint16_t *)(const void *)at + i));
            if (type == KERN_KV_Q4)
                vf_store(out->minimum + k + i,
                         vf_load_f16((const uint16_t *)(const void *)at + 2 * tokens + i));
        }
    }
}

/* K or V of a block of keys; `ahead` looks one block on, at the end into the piece that comes next. */
INLINE void find_keys(const struct cpu_attend *p, enum kern_kv type, int plane, uint32_t key_first,
                      uint32_t key_count, struct tile_keys *out)
{
    for (uint32_t c = 0; c * CHUNK < key_count; c++) {
        const struct cpu_attend *after = p;
        uint32_t key = key_first + c * CHUNK, key_after = key + KEY_BLOCK;
        if (key_after >= p->key_end && p->then != NULL) {
            after = p->then;
            key_after = after->key_first + c * CHUNK;
        }
        out->at[c] = page_keys(p, type, plane, key);
        out->ahead[c] = key_after < after->key_end ? page_keys(after, type, plane, key_after) : out->at[c];
    }
    if (plane == 0) out->stride = has_factors(type) ? p->page_tokens : p->page_tokens * sizeof(uint16_t);
    else out->stride = vector_bytes(p, type);
}

/* Scores of codes become scores. */
INLINE void scale_scores(enum kern_kv type, float *scores, uint32_t visible, const struct key_factors *keys,
                         float query_sum)
{
    const vf sum = vf_set1(query_sum);
    for (uint32_t k = 0; k < visible; k += LANES) {
        vf score = vf_mul(vf_load(scores + k), vf_load(keys->scale + k));
        if (type == KERN_KV_Q4) score = vf_fma(sum, vf_load(keys->minimum + k), score);
        vf_store(scores + k, score);
    }
}

/* Weights become those of codes. Lanes past `visible` are 0 before and after; returns the sum of minimums. */
INLINE float scale_weights(enum kern_kv type, float *weights, uint32_t visible,
                           const struct key_factors *values)
{
    vf sum = vf_zero();
    for (uint32_t k = 0; k < visible; k += LANES) {
        const int count = (int)(visible - k);
        vf weight = vf_load(weights + k);
        if (type == KERN_KV_Q4)
            sum = vf_fma(weight, vf_first(count, vf_load(values->minimum + k), vf_zero()), sum);
        vf_store(weights + k, vf_mul(weight, vf_first(count, vf_load(values->scale + k), vf_zero())));
    }
    return type == KERN_KV_Q4 ? vf_reduce_add(sum) : 0;
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

/* softmax_block where keys below `first` are not seen either. Every vector is masked: windows cut few blocks. */
static struct cpu_softmax softmax_window(float *scores, uint32_t first, uint32_t visible, uint32_t width)
{
    const uint32_t start = first / LANES * LANES;
    const vf lowest = vf_set1(-INFINITY), zero = vf_zero();
    vf most = lowest, sum = zero;
    uint32_t k = 0;
    for (; k < start && k < width; k += LANES) vf_store(scores + k, zero);
    for (k = start; k < visible; k += LANES) {
        vf score = vf_first((int)(visible - k), vf_load(scores + k), lowest);
        score = vf_first(first > k ? (int)(first - k) : 0, lowest, score);
        vf_store(scores + k, score);
        most = vf_max(most, score);
    }
    const float max = vf_reduce_max(most);
    const vf base = vf_set1(max);
    for (k = start; k < visible; k += LANES) {
        vf e = vf_first((int)(visible - k), vf_exp2(vf_sub(vf_load(scores + k), base)), zero);
        e = vf_first(first > k ? (int)(first - k) : 0, zero, e);
        sum = vf_add(sum, e);
        vf_store(scores + k, e);
    }
    for (; k < width; k += LANES) vf_store(scores + k, zero);
    return (struct cpu_softmax){.max = max, .sum = vf_reduce_add(sum)};
}

/* Scores s become cap * tanh(s / cap), both times log2(e). */
INLINE void cap_scores(float *scores, uint32_t visible, float cap)
{
    const vf inward = vf_set1(2.0f / cap), outward = vf_set1(cap * LOG2_E);
    for (uint32_t k = 0; k < visible; k += LANES)
        vf_store(scores + k, vf_mul(vf_tanh2(vf_mul(vf_load(scores + k), inward)), outward));
}

/* softmax_block of query i where p has options. */
static __attribute__((noinline)) struct cpu_softmax softmax_options(const struct cpu_attend *p, uint32_t i,
                                                                    uint32_t key_first, float *scores,
                                                                    uint32_t visible, uint32_t width)
{
    const uint32_t end = p->pos_first + i / p->group + 1; // of the keys that it sees
    if (p->softcap > 0) cap_scores(scores, visible, p->softcap);
    if (p->window == 0 || end <= p->window || end - p->window <= key_first)
        return softmax_block(scores, visible, width);
    return softmax_window(scores, end - p->window - key_first, visible, width);
}

/* Keys of a block that query i sees, those before its window included. */
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

/* Scores of a block become weights, for all queries of the piece. */
INLINE void weigh_block(const struct cpu_attend *p, enum kern_kv type, uint32_t key_first, uint32_t key_count,
                        struct attend_scratch *s, struct cpu_softmax *states)
{
    const bool plain = p->window == 0 && p->softcap == 0;
    const uint32_t query_count = p->row_count * p->group, width = (key_count + CHUNK - 1) / CHUNK * CHUNK;
    for (uint32_t i = 0; i < query_count; i++) {
        float *scores = s->scores + (size_t)i * KEY_BLOCK;
        uint32_t visible = visible_to(p, i, key_first, key_count);
        if (has_factors(type)) scale_scores(type, scores, visible, &s->of_keys, s->query_sums[i]);
        states[i] = plain ? softmax_block(scores, visible, width)
                          : softmax_options(p, i, key_first, scores, visible, width);
        if (has_factors(type)) s->starts[i] = scale_weights(type, scores, visible, &s->of_values);
    }
}

/* One block of keys for all queries of the piece. states, values: of this block alone. */
INLINE void attend_block(const struct cpu_attend *p, enum kern_kv type, uint32_t key_first,
                         uint32_t key_count, struct attend_scratch *s, struct cpu_softmax *states,
                         float *values)
{
    const uint32_t dims = p->head_dims, query_count = p->row_count * p->group;
    const uint32_t chunks = (key_count + CHUNK - 1) / CHUNK, dim_chunks = dims / CHUNK;
    struct tile_keys keys, vectors;
    find_keys(p, type, 0, key_first, key_count, &keys);
    find_keys(p, type, 1, key_first, key_count, &vectors);
    if (has_factors(type)) load_factors(p, type, 0, key_first, key_count, &s->of_keys);
    if (has_factors(type)) load_factors(p, type, 1, key_first, key_count, &s->of_values);
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
    weigh_block(p, type, key_first, key_count, s, states);
    const uint32_t dim_step = query_count > GEMM_ROWS ? CHUNKS_MANY : dim_chunks;
    for (uint32_t c = 0; c < dim_chunks; c += dim_step) {
        uint32_t end = dim_chunks - c < dim_step ? dim_chunks : c + dim_step;
        for (uint32_t i = 0, rows; i < query_count; i += rows) {
            rows = tile_rows(query_count - i);
            value_any(type, rows, s->scores + (size_t)i * KEY_BLOCK, s->starts + i,
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

INLINE void attend_type(const struct cpu_attend *p, enum kern_kv type, struct cpu_softmax *states,
                        float *values)
{
    struct attend_scratch s; // some 130 KiB, of which head_dims / HEAD_DIMS_MAX are touched
    const uint32_t dims = p->head_dims;
    const uint32_t query_count = p->row_count * p->group;
    for (uint32_t i = 0; i < query_count; i++) {
        const uint32_t row = p->query_rows != NULL ? p->query_rows[i / p->group] : i / p->group;
        const float *query = p->queries + row * p->query_stride + (size_t)(i % p->group) * dims;
        vf sum = vf_zero();
        for (uint32_t d = 0; d < dims; d += LANES) {
            vf q = vf_load(query + d);
            sum = vf_add(sum, q);
            vf_store(s.queries + (size_t)i * QUERY_STRIDE + d, q);
        }
        s.query_sums[i] = type == KERN_KV_Q4 ? vf_reduce_add(sum) : 0;
    }
    for (uint32_t first = p->key_first, count; first < p->key_end; first += count) {
        count = KEY_BLOCK - first % KEY_BLOCK;
        if (p->key_end - first < count) count = p->key_end - first;
        if (first == p->key_first) {
            attend_block(p, type, first, count, &s, states, values);
            continue;
        }
        attend_block(p, type, first, count, &s, s.states, s.values);
        for (uint32_t i = 0; i < query_count; i++)
            merge(&states[i], values + (size_t)i * dims, &s.states[i], s.values + (size_t)i * dims, dims);
    }
}

static __attribute__((noinline)) void attend_f16(const struct cpu_attend *p, struct cpu_softmax *states,
                                                 float *values)
{
    attend_type(p, KERN_KV_F16, states, values);
}
static __attribute__((noinline)) void attend_bf16(const struct cpu_attend *p, struct cpu_softmax *states,
                                                  float *values)
{
    attend_type(p, KERN_KV_BF16, states, values);
}
static __attribute__((noinline)) void attend_q8(const struct cpu_attend *p, struct cpu_softmax *states,
                                                float *values)
{
    attend_type(p, KERN_KV_Q8, states, values);
}
static __attribute__((noinline)) void attend_q4(const struct cpu_attend *p, struct cpu_softmax *states,
                                                float *values)
{
    attend_type(p, KERN_KV_Q4, states, values);
}

static void attend(const struct cpu_attend *p, struct cpu_softmax *states, float *values)
{
    CHECK(p->row_count * p->group <= QUERIES_MAX);
    CHECK(p->head_dims <= HEAD_DIMS_MAX && p->head_dims % CHUNK == 0);
    CHECK(p->page_tokens % CHUNK == 0 && p->key_first % CHUNK == 0 && p->key_first < p->key_end);
    switch (p->kv_type) {
    case KERN_KV_BF16: attend_bf16(p, states, values); break;
    case KERN_KV_Q8: attend_q8(p, states, values); break;
    case KERN_KV_Q4: attend_q4(p, states, values); break;
    default: attend_f16(p, states, values); break;
    }
}

static void divide(const float *values, float sum, uint32_t head_dims, float *out)
{
    vf inverse = vf_set1(1.0f / sum);
    for (uint32_t d = 0; d < head_dims; d += LANES) vf_store(out + d, vf_mul(vf_load(values + d), inverse));
}

#endif
