/* SPDX-License-Identifier: Apache-2.0 */
/* attention_tile - template of attention's two products on register tiles: scores = queries . K and
 * values = weights . V, for keys and values as they lie in pages.
 *
 * A chunk is CHUNK elements side by side: 16 keys of one dimension of K, or 16 dimensions of one key of V. Every
 * result is one chain of multiply-adds, over the dimensions or over the keys in order, whatever the tile's
 * shape: so tiles may be cut in any way without changing a bit.
 *
 * What the next block will need is asked for while this one is computed, one line of memory for each one that is
 * read: pages are too short (2 KiB) and too far apart for the prefetchers of the machine. */
#ifndef KVASIR_KERN_CPU_ATTENTION_TILE_H
#define KVASIR_KERN_CPU_ATTENTION_TILE_H

#include "worker/kern/cpu/cpu.h"

enum {
    CHUNK = 16,
    CHUNK_VECTORS = CHUNK / LANES,
    CHUNKS_FEW = 4 / CHUNK_VECTORS, // of a tile of up to 3 rows: some 12 sums hide the latency of an addition
    CHUNKS_MANY = CHUNK_VECTORS < 2 ? 2 : 1, // of a tile of 4 to 6 rows
    ROWS_FEW = 3,
    BLOCK_CHUNKS = KEY_BLOCK / CHUNK,
    QUERY_STRIDE = HEAD_DIMS_MAX + CHUNK, // floats; a constant, and no power of 2: rows share no cache sets
};

/* Pages of 4 bits hold two dimensions (K) or two chunks (V) in a byte: the even one in the low half. */
INLINE int nibble_shift(enum kern_kv type, uint32_t index)
{
    return type == KERN_KV_Q4 ? (int)(index % 2) * 4 : 0;
}

/* V: where chunk `chunk` of dimensions lies behind the first. */
INLINE size_t chunk_offset(enum kern_kv type, uint32_t chunk)
{
    switch (type) {
    case KERN_KV_Q8: return (size_t)chunk * CHUNK;
    case KERN_KV_Q4: return (size_t)(chunk / 2) * CHUNK;
    default: return (size_t)chunk * CHUNK * sizeof(uint16_t);
    }
}

/* Vector v of a chunk; codes come without their scale. */
INLINE vf chunk_load(enum kern_kv type, const uint8_t *p, int v, int shift)
{
    switch (type) {
    case KERN_KV_BF16: return vf_load_bf16((const uint16_t *)(const void *)p + v * LANES);
    case KERN_KV_Q8: return vf_load_i8(p + v * LANES);
    case KERN_KV_Q4: return vf_load_nibbles(p + v * LANES, shift);
    default: return vf_load_f16((const uint16_t *)(const void *)p + v * LANES);
    }
}

/* One row (of dimension or key) of a tile: sums += a[r] * x for all chunks. Written so that sums, and of factors and
 * elements the fewer, fit in 16 registers. */
INLINE void tile_step(enum kern_kv type, int rows, int chunks, const float *a, size_t a_stride,
                      const uint8_t *const p[], const int shifts[], vf sums[][CHUNKS_FEW][CHUNK_VECTORS])
{
    if (rows <= ROWS_FEW) {
        vf factors[ROWS_FEW];
        UNROLL for (int r = 0; r < rows; r++) factors[r] = vf_set1(a[(size_t)r * a_stride]);
        UNROLL for (int c = 0; c < chunks; c++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++)
            {
                vf x = chunk_load(type, p[c], v, shifts[c]);
                UNROLL for (int r = 0; r < rows; r++) sums[r][c][v] = vf_fma(factors[r], x, sums[r][c][v]);
            }
        }
        return;
    }
    vf x[CHUNKS_MANY][CHUNK_VECTORS];
    UNROLL for (int c = 0; c < chunks; c++)
    {
        UNROLL for (int v = 0; v < CHUNK_VECTORS; v++) x[c][v] = chunk_load(type, p[c], v, shifts[c]);
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        vf factor = vf_set1(a[(size_t)r * a_stride]);
        UNROLL for (int c = 0; c < chunks; c++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++)
                sums[r][c][v] = vf_fma(factor, x[c][v], sums[r][c][v]);
        }
    }
}

/* Where the operands of a product lie; chunk pointers of a block of keys. `ahead` is as `at`, a block later, or
 * the same where there is none. */
struct tile_keys {
    const uint8_t
        *at[BLOCK_CHUNKS]; // element (dim 0, first key of the chunk) of K, or (first key, dim 0) of V
    const uint8_t *ahead[BLOCK_CHUNKS];
    size_t stride; // bytes from a dimension (K; with 4 bits a pair of them) or a key (V) to the next
};

/* scores (rows, chunks * 16; KEY_BLOCK) = queries (rows, dims; QUERY_STRIDE) . K, for chunks from `chunk` on. */
INLINE void score_tile(enum kern_kv type, int rows, int chunks, const float *queries, uint32_t dims,
                       const struct tile_keys *keys, uint32_t chunk, float *scores)
{
    vf sums[GEMM_ROWS][CHUNKS_FEW][CHUNK_VECTORS];
    const uint8_t *p[CHUNKS_FEW], *ahead[CHUNKS_FEW];
    const size_t stride = keys->stride;
    UNROLL for (int c = 0; c < chunks; c++)
    {
        p[c] = keys->at[chunk + (uint32_t)c];
        ahead[c] = keys->ahead[chunk + (uint32_t)c];
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++) sums[r][c][v] = vf_zero();
        }
    }
    for (uint32_t d = 0; d < dims; d++) {
        int shifts[CHUNKS_FEW];
        UNROLL for (int c = 0; c < chunks; c++) shifts[c] = nibble_shift(type, d);
        tile_step(type, rows, chunks, queries + d, QUERY_STRIDE, p, shifts, sums);
        if (type == KERN_KV_Q4 && d % 2 == 0) continue;
        UNROLL for (int c = 0; c < chunks; c++)
        {
            prefetch(ahead[c]);
            p[c] += stride;
            ahead[c] += stride;
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int c = 0; c < chunks; c++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++)
                vf_store(scores + r * KEY_BLOCK + c * CHUNK + v * LANES, sums[r][c][v]);
        }
    }
}

/* values (rows, chunks * 16; dims) = start (rows) + weights (rows, key_count; KEY_BLOCK) . V, for chunks of
 * dimensions from `chunk` on. */
INLINE void value_tile(enum kern_kv type, int rows, int chunks, const float *weights, const float *start,
                       uint32_t key_count, const struct tile_keys *keys, uint32_t chunk, float *values,
                       uint32_t dims)
{
    vf sums[GEMM_ROWS][CHUNKS_FEW][CHUNK_VECTORS];
    int shifts[CHUNKS_FEW];
    UNROLL for (int c = 0; c < chunks; c++)
    {
        shifts[c] = nibble_shift(type, chunk + (uint32_t)c);
        UNROLL for (int r = 0; r < rows; r++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++)
                sums[r][c][v] = type == KERN_KV_Q4 ? vf_set1(start[r]) : vf_zero();
        }
    }
    for (uint32_t first = 0; first < key_count; first += CHUNK) {
        const uint8_t *p[CHUNKS_FEW], *ahead = keys->ahead[first / CHUNK] + chunk_offset(type, chunk);
        uint32_t end = key_count - first < CHUNK ? key_count : first + CHUNK;
        UNROLL for (int c = 0; c < chunks; c++)
            p[c] = keys->at[first / CHUNK] + chunk_offset(type, chunk + (uint32_t)c);
        for (uint32_t k = first; k < end; k++) {
            tile_step(type, rows, chunks, weights + k, KEY_BLOCK, p, shifts, sums);
            UNROLL for (int c = 0; c < chunks; c++) p[c] += keys->stride;
            prefetch(ahead);
            ahead += keys->stride;
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        UNROLL for (int c = 0; c < chunks; c++)
        {
            UNROLL for (int v = 0; v < CHUNK_VECTORS; v++)
                vf_store(values + (size_t)r * dims + c * CHUNK + v * LANES, sums[r][c][v]);
        }
    }
}

/* Scores of `rows` queries over chunks [chunk, chunk_end) of keys. */
INLINE void score_rows(enum kern_kv type, int rows, const float *queries, uint32_t dims,
                       const struct tile_keys *keys, uint32_t chunk, uint32_t chunk_end, float *scores)
{
    const int most = rows <= ROWS_FEW ? CHUNKS_FEW : CHUNKS_MANY;
    for (; chunk + (uint32_t)most <= chunk_end; chunk += (uint32_t)most)
        score_tile(type, rows, most, queries, dims, keys, chunk, scores + chunk * CHUNK);
    for (; most > 1 && chunk < chunk_end; chunk++)
        score_tile(type, rows, 1, queries, dims, keys, chunk, scores + chunk * CHUNK);
}

/* Weighted values of `rows` queries, chunks [chunk, chunk_end) of dimensions. */
INLINE void value_rows(enum kern_kv type, int rows, const float *weights, const float *start,
                       uint32_t key_count, const struct tile_keys *keys, uint32_t chunk, uint32_t chunk_end,
                       float *values, uint32_t dims)
{
    const int most = rows <= ROWS_FEW ? CHUNKS_FEW : CHUNKS_MANY;
    for (; chunk + (uint32_t)most <= chunk_end; chunk += (uint32_t)most)
        value_tile(type, rows, most, weights, start, key_count, keys, chunk, values + chunk * CHUNK, dims);
    for (; most > 1 && chunk < chunk_end; chunk++)
        value_tile(type, rows, 1, weights, start, key_count, keys, chunk, values + chunk * CHUNK, dims);
}

/* The same with the count of rows, up to GEMM_ROWS, as a variable. */
#define ROWS_SWITCH(rows, CALL) \
    switch (rows) { \
    case 1: CALL(1); break; \
    case 2: CALL(2); break; \
    case 3: CALL(3); break; \
    case 4: CALL(GEMM_ROWS < 4 ? 1 : 4); break; \
    case 5: CALL(GEMM_ROWS < 5 ? 1 : 5); break; \
    default: CALL(GEMM_ROWS); break; \
    }

INLINE void score_any(enum kern_kv type, uint32_t rows, const float *queries, uint32_t dims,
                      const struct tile_keys *keys, uint32_t chunk, uint32_t chunk_end, float *scores){
#define CALL(n) score_rows(type, n, queries, dims, keys, chunk, chunk_end, scores)
    ROWS_SWITCH(rows, CALL)
#undef CALL
}

INLINE void value_any(enum kern_kv type, uint32_t rows, const float *weights, const float *start,
                      uint32_t key_count, const struct tile_keys *keys, uint32_t chunk, uint32_t chunk_end,
                      float *values, uint32_t dims)
{
#define CALL(n) value_rows(type, n, weights, start, key_count, keys, chunk, chunk_end, values, dims)
    ROWS_SWITCH(rows, CALL)
#undef CALL
}

#endif
