/* SPDX-License-Identifier: Apache-2.0 */
/* kern - the seam between models and machines: one signature per op, one folder per machine.
 *
 * A model is a list of these ops over one step's rows. `kern/ref` defines each op in plain C with float
 * activations; `kern/cpu` must match it within the tolerance stated there; `kern/cuda` will. Ops are
 * called by one host thread in order; a machine may run them later (a stream) until `sync` returns, so
 * every host array in a kern_batch stays valid and unchanged until then. Inside, a CPU backend spreads
 * an op over its team of threads; nothing outside knows.
 *
 * Determinism: the value of an output row depends only on that row's inputs, the weights and the keys of
 * its own sequence, never on other rows, on how rows are grouped, or on the number of threads: one
 * reduction order per shape.
 *
 * Only worker/kern/kern.h and common/base are visible inside kern/. */
#ifndef KVASIR_KERN_KERN_H
#define KVASIR_KERN_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

/* Element types as in the file (ids of GGUF; common/gguf/types.h names them). */
struct kern_matrix {  // a weight as it lies in the file: (rows, cols) row-major, cols contiguous
    const void *data; // borrowed until weight_new returns
    uint32_t type;    // enum tensor_type
    uint32_t rows;    // outputs
    uint32_t cols;    // inputs; a multiple of the type's block
};

struct kern;        // an opened machine
struct kern_weight; // one packed matrix (or several with a common input), owned by the kern
struct kern_vector; // float vector on the machine (norm weights, biases)
struct kern_rows;   // (row_count, cols) float activations on the machine

/* One sequence's share of a step. */
struct kern_seq {
    uint32_t row_first, row_count; // its rows of the batch
    uint32_t pos_first;            // position of row_first; keys [0, pos_first) are in the pages
    const uint32_t *pages;         // (page_count) page indices: position p lies in pages[p / page_tokens]
    uint32_t page_count;
};

struct kern_batch {
    uint32_t row_count;
    const uint32_t *tokens;    // (row_count)
    const uint32_t *positions; // (row_count)
    uint32_t seq_count;
    const struct kern_seq *seqs; // rows in order, without gaps
};

enum kern_kv { // the numbers of enum kv_type in common/shm/layout.h; model.c holds them together
    KERN_KV_F16 = 0,
    KERN_KV_BF16 = 1,
    KERN_KV_Q8 = 2,  // signed bytes, a scale a token
    KERN_KV_Q4 = 3,  // 4 bits, a scale and a minimum a token
    KERN_KV_F32 = 4, // ref only: conformance without the rounding of pages
};

/* The page payload. Inside a page: [layer][kv head]{ K (head_dims, page_tokens); V (page_tokens, head_dims) },
 * elements of kv_type. K is stored dimension-major so that one load holds one dimension of 16 keys.
 *
 * q8: value = scale * code. Behind V lie the scales of K (page_tokens), then of V, in f16.
 * q4: value = minimum + scale * code, code in [0, 15]. A byte of K holds dimensions 2i (low half) and 2i + 1 of one
 * token, K (head_dims / 2, page_tokens); a byte of V dimensions 32i + j (low half) and 32i + 16 + j, j < 16,
 * V (page_tokens, head_dims rounded up to 32, / 2). Behind V lie the scales of K and of V, then the minimums of K
 * and of V (page_tokens each), in f16. What is stored is not the vector but its rotation by kern/ref's
 * kv_hadamard, which spreads outliers over all dimensions. Each token has bytes of its own: tokens of a page may
 * be written at the same time. */
struct kern_cache {
    void *base; // (page_count, page_bytes), host mapping of kv.<rank>
    uint64_t page_bytes;
    uint32_t page_count, page_tokens;
    uint32_t layer_count, head_count_kv, head_dims;
    uint32_t kv_type; // enum kern_kv
};

/* Bytes of one layer and KV head of a page; 0 for no type. No overflow for head_dims and page_tokens below 2^16. */
static inline uint64_t kern_kv_head_bytes(uint32_t kv_type, uint32_t head_dims, uint32_t page_tokens)
{
    const uint64_t dims = head_dims, tokens = page_tokens;
    switch (kv_type) {
    case KERN_KV_F16:
    case KERN_KV_BF16: return tokens * 2 * dims * 2;
    case KERN_KV_Q8: return tokens * (2 * dims + 2 * 2);
    case KERN_KV_Q4: return tokens * (dims / 2 + (dims + 31) / 32 * 16 + 4 * 2);
    case KERN_KV_F32: return tokens * 2 * dims * 4;
    default: return 0;
    }
}

struct kern_rope {
    bool adjacent;         // pairs (2i, 2i+1), else (i, i + dims/2)
    uint32_t dims;         // rotated dimensions; the rest is copied
    const float *angles;   // (dims/2) angle of pair i at position 1; borrowed for the kern's life
    uint32_t position_max; // positions are below it: tables may be built at open
};

/* Memory for packed weights that outlives this kern and that others may hold. weight_new takes from it in the
 * order of its calls, each time what weight_measure says. */
struct kern_store {
    void *base;     // 64-byte aligned, borrowed until close; NULL: the machine's own memory
    uint64_t bytes; // sum of what weight_measure says of all weights
    bool filled;    // the same weights lie in it, packed in the same order by equal weight_layout: only read
};

/* Work stealing between the ranks of one host, its mates: what an op adds to shared rows (kern_share) is cut into
 * pieces, and who has run its own takes what others left. A piece has the same bits whoever runs it. */
struct kern_steal {
    void *arg;                 // lent until close
    uint32_t mate, mate_count; // which of them we are
    /* An op begins. All mates call it for the same ops, and gather between two. */
    void (*begin)(void *arg);
    /* -> whether a piece was left in this lane of a mate, which has piece_count pieces in KERN_LANES ranges of
     * neighbours. Any thread's. */
    bool (*take)(void *arg, uint32_t mate, uint32_t lane, uint32_t piece_count, uint32_t *ret_piece);
};
enum { KERN_LANES = 8 };

/* What a mate computes of an op's outputs. */
struct kern_outputs {
    const struct kern_weight *weight;         // of mate_weight
    const struct kern_vector *bias, *up_bias; // as the op takes them; of norm_gate_up bias is the gate's
    uint32_t col_first;                       // of the shared rows
};

struct kern_conf {
    uint32_t threads; // > 0
    bool pin_threads;
    uint32_t rows_max; // rows of a step
    struct kern_cache cache;
    struct kern_rope rope;
    uint32_t head_count, head_count_kv, head_dims;
    float attention_scale;
    float rms_epsilon;
    struct kern_store store;        // {NULL}: none
    const struct kern_steal *steal; // borrowed until close; NULL: none
};

/* Activations that the ranks of a group fill together, each its own columns, in memory that all of them map. Ops write
 * only ours: col_count is what their weight has outputs, or their heads dimensions. They read all columns. */
struct kern_share {
    void *base; // 64-byte aligned, borrowed until close
    uint64_t bytes;
    uint32_t col_first, col_count; // ours
    uint32_t unit;                 // every rank's first column is a multiple of it
    bool values_only;              // never anything but floats: the residual stream, logits
};

/* One array of such rows, as far as it is filled: columns [c, c + unit_cols) of a row are the unit_bytes at
 * c / unit_cols * unit_bytes. */
struct kern_plane {
    void *base;
    uint64_t row_bytes;
    uint32_t unit_cols, unit_bytes;
};
enum { KERN_PLANES_MAX = 2 };

/* What a layer's attention has besides the plain form; all zero: nothing. Scores are natural logits, after
 * attention_scale. */
struct kern_attend_options {
    uint32_t window; // the query at position p sees keys p - window + 1 .. p; 0: all up to p
    float softcap;   // > 0: a score s counts as softcap * tanh(s / softcap), as in Gemma 2; 0: as it is
    /* (head_count) One more logit a query head, which takes its share of the softmax and gives no value, as in
     * gpt-oss; NULL: none. */
    const struct kern_vector *sinks;
};

enum kern_pack {
    KERN_CONCAT,  // outputs of the parts one after the other (q, k, v)
    KERN_GATE_UP, // two parts of equal shape, used together by norm_gate_up
};

struct kern_ops {
    const char *name; // "ref", or of CPU_LEVELS in cpu/cpu.h; later "cuda"

    int (*open)(const struct kern_conf *conf, struct kern **ret_kern, struct err *err);
    void (*close)(struct kern *kern); // frees everything made with it; NULL is fine

    /* Bytes of a kern_store that weight_new will take for these parts. NULL where weights never lie in one (ref,
     * a device with memory of its own): kern_conf.store is ignored there. */
    int (*weight_measure)(const struct kern_matrix *parts, uint32_t part_count, uint64_t *ret_bytes,
                          struct err *err);
    /* Hash of how this build packs: equal hashes mean that equal weights become equal bytes. NULL as above. */
    uint64_t (*weight_layout)(void);

    /* Repacks once. Parts share cols. ERR_UNSUPPORTED names a type without a kernel. */
    int (*weight_new)(struct kern *kern, const struct kern_matrix *parts, uint32_t part_count,
                      enum kern_pack pack, struct kern_weight **ret_weight, struct err *err);
    int (*vector_new)(struct kern *kern, const float *values, uint32_t count, struct kern_vector **ret_vector,
                      struct err *err);
    /* row_count: rows_max for activations, fewer for logits. */
    int (*rows_new)(struct kern *kern, uint32_t row_count, uint32_t cols, struct kern_rows **ret_rows,
                    struct err *err);

    /* The same in the memory of a share. ERR_LIMIT when it is too small. */
    int (*rows_shared)(struct kern *kern, uint32_t row_count, uint32_t cols, const struct kern_share *share,
                       struct kern_rows **ret_rows, struct err *err);
    /* What the last op that wrote to shared rows left for the other ranks. -> their number. */
    uint32_t (*planes)(const struct kern_rows *rows, struct kern_plane ret_planes[KERN_PLANES_MAX]);

    /* Work stealing (kern_conf.steal): NULL in a machine that cannot. mate_weight is weight_new for what a mate packs
     * into its store, in the same order; nothing is packed. mate_join says whose outputs stand beside ours in what an
     * op with `weight` writes: for all mates but ourselves, before the first op. mate_attach: here lies the mate's
     * store (mate_bytes of it, filled, borrowed until close); until then only it computes its outputs. */
    int (*mate_weight)(struct kern *kern, uint32_t mate, const struct kern_matrix *parts, uint32_t part_count,
                       enum kern_pack pack, struct kern_weight **ret_weight, struct err *err);
    int (*mate_join)(struct kern *kern, struct kern_weight *weight, uint32_t mate,
                     const struct kern_outputs *outputs, struct err *err);
    uint64_t (*mate_bytes)(const struct kern *kern, uint32_t mate);
    void (*mate_attach)(struct kern *kern, uint32_t mate, const void *base);

    /* x[r] = row tokens[r] of the embedding (the matrix given to weight_new with KERN_CONCAT); a row whose token is not
     * in it stays as it is: another rank's. */
    void (*embed)(struct kern *kern, const struct kern_weight *embedding, const struct kern_batch *batch,
                  struct kern_rows *x);
    /* out = W . (rmsnorm(x) * norm) + bias (bias may be NULL). */
    void (*norm_project)(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                         const struct kern_weight *weight, const struct kern_vector *bias, uint32_t row_count,
                         struct kern_rows *out);
    /* qkv rows are q (head_count * head_dims), k, v (head_count_kv * head_dims each). Rotates q and k, writes
     * k and v of every row into its page, then out = causal attention of each row over its sequence. options: NULL
     * for none. A page all of whose keys lie before the windows of all rows is not read, nor need its index be valid.
     */
    void (*attend)(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                   struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out);
    /* x += W . in + bias */
    void (*project_add)(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                        const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x);
    /* out = silu(G . n + gate_bias) * (U . n + up_bias), n = rmsnorm(x) * norm; biases may be NULL. */
    void (*norm_gate_up)(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                         const struct kern_weight *gate_up, const struct kern_vector *gate_bias,
                         const struct kern_vector *up_bias, uint32_t row_count, struct kern_rows *out);
    /* logits[i] = W . (rmsnorm(x[rows[i]]) * norm), only for the rows that need them. */
    void (*norm_head)(struct kern *kern, const struct kern_rows *x, const uint32_t *rows, uint32_t row_count,
                      const struct kern_vector *norm, const struct kern_weight *weight,
                      struct kern_rows *logits);

    /* Waits for everything called so far. 0, or the negative code of a machine fault. */
    int (*sync)(struct kern *kern, struct err *err);
    /* After sync: host floats (row_count, cols) of rows; valid until the next op on them. */
    const float *(*fetch)(struct kern *kern, const struct kern_rows *rows, uint32_t row_count);

    /* Runs fn(arg, piece) for piece in [0, piece_count) over the machine's host threads (sampling, checksums);
     * pieces are handed out one by one. Returns when all are done. */
    void (*parallel)(struct kern *kern, void (*fn)(void *arg, uint32_t piece), void *arg,
                     uint32_t piece_count);
    /* Bytes of memory that packed weights take. */
    uint64_t (*weight_bytes)(const struct kern *kern);
};

/* The level that $KVASIR_KERNELS names (the name of its ops, or "auto"), or the best that this
 * machine has when it is unset or auto. ERR_CONFIG for an unknown name or one the machine cannot run. */
int kern_select(const char *name, const struct kern_ops **ret_ops, struct err *err);
/* All levels this build has and this machine can run, best first; for tests. */
const struct kern_ops *const *kern_levels(uint32_t *ret_count);

#endif
