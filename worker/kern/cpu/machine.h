/* SPDX-License-Identifier: Apache-2.0 */
/* machine - the CPU as a kern: what it owns, shared by machine.c (lifetime, memory), project.c (products),
 * kv_write.c and attend.c. Outside kern/cpu nobody includes this. */
#ifndef KVASIR_KERN_CPU_MACHINE_H
#define KVASIR_KERN_CPU_MACHINE_H

#include "common/base/limits.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/team.h"

enum { PARTS_MAX = 8 };

struct kern_weight {
    enum kern_pack pack;
    uint32_t part_count;
    uint32_t rows, cols;  // rows of all parts
    bool reads_blocks;    // some part has an integer form
    bool reads_values;    // some part has a float form
    uint32_t group_count; // of GROUP_ROWS outputs, that an op computes at once
    struct cpu_packed parts[PARTS_MAX];

    struct outputs *mates;            // (mate_count) beside ours in an op's rows; NULL: we alone compute them
    struct kern_weight *next_of_mate; // of a mate's
    uint64_t store_offset;            // of a mate's: in its store
};

/* What one rank computes in an op. */
struct outputs {
    const struct kern_weight *weight; // of a mate that is not attached yet, without data
    const float *bias, *up_bias;      // NULL for none
    uint32_t col_first;               // of the rows
};

struct kern_vector {
    uint32_t count;
    const float *values; // (count)
};

/* Activations. Producers whose readers are integer products write blocks only; fetch brings floats back. */
struct kern_rows {
    uint32_t row_count, cols;
    uint32_t block_count;          // of a row
    uint32_t col_first, col_count; // what ops write: all, unless ranks fill them together
    bool whole_blocks;             // that begins and ends, for each rank, with a block
    float *values;                 // (row_count, cols)
    struct cpu_block *blocks;      // (row_count, block_count)
    bool has_values, has_blocks;
};

struct arena; // mapped memory, freed by close

struct attend_plan; // how an attend is cut: see attend.c
struct mate;        // mates.c

struct kern {
    const struct cpu_level *level;
    struct kern_conf conf;
    struct team *team;      // owned
    struct arena *arenas;   // own everything below
    uint64_t weight_bytes;  // of packed weights
    uint64_t store_used;    // of conf.store
    struct mate *mates;     // (conf.steal->mate_count)
    bool has_float_weights; // then producers write values as well as blocks

    /* Input of the product that runs, when it is not an op's own rows. */
    uint32_t input_blocks_max;          // columns of the widest weight, in blocks
    struct cpu_block *input_blocks;     // (rows_max, input_blocks_max)
    struct cpu_outlier *input_outliers; // (rows_max, cpu_outlier_count(input_blocks_max))
    float *input_values;                // (rows_max, input_blocks_max * 32)

    /* Rotation of each row of the step, kept while positions stay the same (one step, all layers). */
    uint32_t *rotation_positions; // (rows_max), UINT32_MAX when unset
    float *rotations;             // (rows_max; cosines (dims), sines (dims))

    struct attend_plan *plan;
};

/* Keys and values of one layer and KV head of a page. */
static inline uint8_t *machine_payload(const struct kern *kern, uint32_t page, uint32_t layer,
                                       uint32_t kv_head)
{
    const struct kern_cache *cache = &kern->conf.cache;
    size_t head_bytes = kern_kv_head_bytes(cache->kv_type, cache->head_dims, cache->page_tokens);
    return (uint8_t *)cache->base + page * cache->page_bytes +
           ((size_t)layer * cache->head_count_kv + kv_head) * head_bytes;
}

/* Asks for the lines of `rows` pieces of `bytes`, `stride` bytes apart, that are about to be written: no hardware
 * prefetch finds what lies a row apart. */
static inline void machine_expect(const void *first, size_t stride, size_t bytes, uint32_t rows)
{
    const char *at = first;
    for (uint32_t r = 0; r < rows; r++, at += stride) {
        for (size_t i = 0; i < bytes; i += CACHELINE_BYTES) __builtin_prefetch(at + i, 1, 2);
        __builtin_prefetch(at + bytes - 1, 1, 2); // a piece need not begin with a line
    }
}

/* Zeroed memory, 64-byte aligned, in huge pages where it is large; lives until close. */
int machine_memory(struct kern *kern, size_t bytes, void **ret_memory, struct err *err);

/* A weight without data. */
int machine_weight_plan(struct kern *kern, const struct kern_matrix *parts, uint32_t part_count,
                        enum kern_pack pack, struct kern_weight **ret_weight, struct err *err);

/* mates.c */
int machine_mates_init(struct kern *kern, struct err *err);
int machine_mate_weight(struct kern *kern, uint32_t mate, const struct kern_matrix *parts,
                        uint32_t part_count, enum kern_pack pack, struct kern_weight **ret_weight,
                        struct err *err);
int machine_mate_join(struct kern *kern, struct kern_weight *weight, uint32_t mate,
                      const struct kern_outputs *outputs, struct err *err);
uint64_t machine_mate_bytes(const struct kern *kern, uint32_t mate);
void machine_mate_attach(struct kern *kern, uint32_t mate, const void *base);

/* project.c */
void machine_embed(struct kern *kern, const struct kern_weight *embedding, const struct kern_batch *batch,
                   struct kern_rows *x);
void machine_norm_project(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                          const struct kern_weight *weight, const struct kern_vector *bias,
                          uint32_t row_count, struct kern_rows *out);
void machine_project_add(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                         const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x);
void machine_norm_gate_up(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                          const struct kern_weight *gate_up, const struct kern_vector *gate_bias,
                          const struct kern_vector *up_bias, uint32_t row_count, struct kern_rows *out);
void machine_norm_head(struct kern *kern, const struct kern_rows *x, const uint32_t *rows, uint32_t row_count,
                       const struct kern_vector *norm, const struct kern_weight *weight,
                       struct kern_rows *logits);

/* kv_write.c: rotates q and k of all rows, scales q, writes k and v. */
int machine_kv_init(struct kern *kern, struct err *err);
void machine_kv_write(struct kern *kern, uint32_t layer, struct kern_rows *qkv,
                      const struct kern_batch *batch);

/* The rotation of q4 pages (kern/ref's kv_hadamard): of keys and values as they are written, of queries, and, being its
 * own inverse, of what attention gives. */
void machine_turn(float *x, uint32_t dims);

/* attend.c */
int machine_attend_init(struct kern *kern, struct err *err);
void machine_attend(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                    struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out);

#endif
