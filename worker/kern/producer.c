/* SPDX-License-Identifier: Apache-2.0 */
/* See producer.h. Levels agree within tolerances, not in every bit, and the next build may differ from this one; cached
 * pages of one must not be read by another. A number to be raised by hand would be forgotten once, so the hash is taken
 * of what the code does: every op, computed on small made-up tensors.
 *
 *   1 one layer on float weights, in the order of a model: two sequences, one that crosses into its second page, one
 *     whose keys fill several of the blocks that attention takes at a time; the pages that it wrote
 *   2 for every type of weights: each product on its own, of inputs that another op left
 *
 * One thread and few rows: a row's bits depend on neither. Values are small whole multiples of powers of two, and bytes
 * of blocks have bit 6 clear, so that no float of 16 or 32 bits in them is infinite or no number. */
#include "worker/kern/producer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/rng.h"
#include "worker/kern/ref/dequant.h"

enum {
    WIDE = 512,  // inputs: two blocks of the widest type
    WIDTH = 128, // of the layer
    INNER = 64,  // > OUTS
    OUTS = 40,   // no multiple of a tile
    HEADS = 4,   // of one KV head
    ROWS = 5,
    LONG = 533, // keys before the second sequence's rows
    PAGE = 16,
    PAGES = 5, // of which the last two are only read
    TABLE = LONG / PAGE + 1,
};

struct probe {
    const struct kern_ops *ops;
    struct kern *kern; // owned, with all that it made
    uint32_t head_dims;
    uint8_t *pages; // owned, (PAGES, page_bytes)
    uint64_t page_bytes;
    float *floats;  // owned, (float_count): stands for every float tensor
    uint8_t *bytes; // owned, (byte_count): for every other matrix
    size_t byte_count;
    struct kern_vector *norm, *norm_wide, *bias, *bias_qkv, *bias_inner, *bias_outs;
    struct kern_weight *wide_table; // embedding in floats, (OUTS, WIDE)
    struct kern_rows *x, *wide, *outs, *qkv, *attention, *inner, *logits;
    struct kern_batch batch;
    struct kern_seq seqs[2];
    uint32_t tokens[ROWS], positions[ROWS], table_near[2], table_long[TABLE];
    struct hash128 hash;
};

static size_t max_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int memory_make(struct probe *probe)
{
    struct rng rng = {1};
    size_t qkv_cols = (size_t)(HEADS + 2) * probe->head_dims,
           attention_cols = (size_t)HEADS * probe->head_dims;
    size_t float_count = max_of(max_of(qkv_cols, attention_cols) * WIDTH, INNER * WIDE);
    size_t byte_count = max_of(INNER * WIDE, OUTS * attention_cols) * sizeof(float);
    probe->byte_count = byte_count;
    probe->floats = malloc(float_count * sizeof *probe->floats);
    probe->bytes = malloc(byte_count);
    probe->pages = aligned_alloc(64, (PAGES * probe->page_bytes + 63) / 64 * 64);
    if (!probe->floats || !probe->bytes || !probe->pages) return -ENOMEM;
    for (size_t i = 0; i < float_count; i++) // in [-1/16, 1/16)
        probe->floats[i] = (float)((int64_t)(rng_next(&rng) >> 40) - (1 << 23)) * 0x1p-27f;
    for (size_t i = 0; i < byte_count; i += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng) & UINT64_C(0xBFBFBFBFBFBFBFBF);
        memcpy(probe->bytes + i, &word, sizeof word); // byte_count is a multiple
    }
    for (size_t i = 0; i < PAGES * probe->page_bytes; i++) probe->pages[i] = probe->bytes[i % byte_count];
    return 0;
}

static void batch_make(struct probe *probe)
{
    for (uint32_t i = 0; i < ROWS; i++) probe->tokens[i] = i * 7;
    for (uint32_t i = 0; i < TABLE; i++) probe->table_long[i] = 3 + i % 2;
    probe->table_long[TABLE - 1] = 2;
    probe->table_near[1] = 1;
    probe->seqs[0] = (struct kern_seq){
        .row_count = 3, .pos_first = PAGE - 2, .pages = probe->table_near, .page_count = 2};
    probe->seqs[1] = (struct kern_seq){
        .row_first = 3, .row_count = 2, .pos_first = LONG, .pages = probe->table_long, .page_count = TABLE};
    for (uint32_t i = 0; i < 3; i++) probe->positions[i] = PAGE - 2 + i;
    for (uint32_t i = 3; i < ROWS; i++) probe->positions[i] = LONG + i - 3;
    probe->batch = (struct kern_batch){.row_count = ROWS,
                                       .tokens = probe->tokens,
                                       .positions = probe->positions,
                                       .seq_count = COUNT_OF(probe->seqs),
                                       .seqs = probe->seqs};
}

static int machine_make(struct probe *probe, const struct kern_probe *like, struct err *err)
{
    const struct kern_conf conf = {
        .threads = 1,
        .rows_max = ROWS,
        .cache = {.base = probe->pages,
                  .page_bytes = probe->page_bytes,
                  .page_count = PAGES,
                  .page_tokens = PAGE,
                  .layer_count = 1,
                  .head_count_kv = 1,
                  .head_dims = like->head_dims,
                  .kv_type = like->kv_type},
        .rope = {.adjacent = like->rope.adjacent,
                 .dims = like->rope.dims,
                 .angles = like->rope.angles,
                 .position_max = TABLE * PAGE},
        .head_count = HEADS,
        .head_count_kv = 1,
        .head_dims = like->head_dims,
        .attention_scale = like->attention_scale,
        .rms_epsilon = like->rms_epsilon,
    };
    const struct {
        uint32_t row_count, cols;
        struct kern_rows **ret_rows;
    } rows[] = {
        {ROWS, WIDTH, &probe->x},
        {ROWS, WIDE, &probe->wide},
        {ROWS, OUTS, &probe->outs},
        {ROWS, (HEADS + 2) * like->head_dims, &probe->qkv},
        {ROWS, HEADS * like->head_dims, &probe->attention},
        {ROWS, INNER, &probe->inner},
        {2, OUTS, &probe->logits},
    };
    int r = probe->ops->open(&conf, &probe->kern, err);
    for (size_t i = 0; r == 0 && i < COUNT_OF(rows); i++)
        r = probe->ops->rows_new(probe->kern, rows[i].row_count, rows[i].cols, rows[i].ret_rows, err);
    return r;
}

/* A weight of (rows, cols), or of two such parts; type 0 has the floats. */
static int weight_make(struct probe *probe, uint32_t type, uint32_t rows, uint32_t cols, enum kern_pack pack,
                       struct kern_weight **ret_weight, struct err *err)
{
    const struct kern_matrix part = {.data = type == 0 ? (const void *)probe->floats : probe->bytes,
                                     .type = type,
                                     .rows = rows,
                                     .cols = cols},
                             parts[2] = {part, part};
    return probe->ops->weight_new(probe->kern, parts, pack == KERN_GATE_UP ? 2 : 1, pack, ret_weight, err);
}

/* What an op left goes into the hash. */
static void rows_take(struct probe *probe, const struct kern_rows *rows, uint32_t row_count, uint32_t cols)
{
    CHECK(probe->ops->sync(probe->kern, NULL) == 0);
    const float *values = probe->ops->fetch(probe->kern, rows, row_count);
    probe->hash = hash128_chain(probe->hash, values, (size_t)row_count * cols * sizeof *values);
}

static int vectors_make(struct probe *probe, struct err *err)
{
    const struct {
        uint32_t first, count;
        struct kern_vector **ret_vector;
    } vectors[] = {
        {WIDE, WIDTH, &probe->norm},    {WIDE, WIDE, &probe->norm_wide},
        {0, WIDTH, &probe->bias},       {0, (HEADS + 2) * probe->head_dims, &probe->bias_qkv},
        {0, INNER, &probe->bias_inner}, {0, OUTS, &probe->bias_outs},
    };
    int r = 0;
    for (size_t i = 0; r == 0 && i < COUNT_OF(vectors); i++)
        r = probe->ops->vector_new(probe->kern, probe->floats + vectors[i].first, vectors[i].count,
                                   vectors[i].ret_vector, err);
    return r;
}

/* Step 1. */
static int layer_run(struct probe *probe, struct err *err)
{
    const struct kern_ops *ops = probe->ops;
    struct kern *kern = probe->kern;
    struct kern_weight *table, *qkv, *out, *gate_up, *down;
    static const uint32_t heads_at[] = {2, 4};
    uint32_t qkv_cols = (HEADS + 2) * probe->head_dims, attention_cols = HEADS * probe->head_dims;
    int r = vectors_make(probe, err);
    if (r == 0) r = weight_make(probe, 0, OUTS, WIDE, KERN_CONCAT, &probe->wide_table, err);
    if (r == 0) r = weight_make(probe, 0, OUTS, WIDTH, KERN_CONCAT, &table, err);
    if (r == 0) r = weight_make(probe, 0, qkv_cols, WIDTH, KERN_CONCAT, &qkv, err);
    if (r == 0) r = weight_make(probe, 0, WIDTH, attention_cols, KERN_CONCAT, &out, err);
    if (r == 0) r = weight_make(probe, 0, INNER, WIDTH, KERN_GATE_UP, &gate_up, err);
    if (r == 0) r = weight_make(probe, 0, WIDTH, INNER, KERN_CONCAT, &down, err);
    if (r < 0) return r;
    ops->embed(kern, table, &probe->batch, probe->x);
    rows_take(probe, probe->x, ROWS, WIDTH);
    ops->norm_project(kern, probe->x, probe->norm, qkv, probe->bias_qkv, ROWS, probe->qkv);
    rows_take(probe, probe->qkv, ROWS, qkv_cols);
    ops->attend(kern, 0, NULL, probe->qkv, &probe->batch, probe->attention);
    rows_take(probe, probe->attention, ROWS, attention_cols);
    probe->hash = hash128_chain(probe->hash, probe->pages, PAGES * probe->page_bytes);
    ops->project_add(kern, probe->attention, out, probe->bias, ROWS, probe->x);
    rows_take(probe, probe->x, ROWS, WIDTH);
    ops->norm_gate_up(kern, probe->x, probe->norm, gate_up, probe->bias_inner, probe->bias_inner, ROWS,
                      probe->inner);
    rows_take(probe, probe->inner, ROWS, INNER);
    ops->project_add(kern, probe->inner, down, NULL, ROWS, probe->x);
    rows_take(probe, probe->x, ROWS, WIDTH);
    ops->norm_head(kern, probe->x, heads_at, COUNT_OF(heads_at), probe->norm, table, probe->logits);
    rows_take(probe, probe->logits, COUNT_OF(heads_at), OUTS);
    return 0;
}

/* A block of MXFP4 begins with an exponent of 8 bits. */
static void exponents_tame(struct probe *probe)
{
    for (size_t i = 0; i < probe->byte_count; i += 17) probe->bytes[i] = 112 + probe->bytes[i] % 16;
}

/* Step 2. */
static int type_run(struct probe *probe, uint32_t type, struct err *err)
{
    const struct kern_ops *ops = probe->ops;
    struct kern *kern = probe->kern;
    struct kern_weight *weight, *gate_up, *out;
    static const uint32_t heads_at[] = {0, 3};
    uint32_t attention_cols = HEADS * probe->head_dims;
    if (type == 39) exponents_tame(probe);
    int r = weight_make(probe, type, OUTS, WIDE, KERN_CONCAT, &weight, err);
    if (r == 0) r = weight_make(probe, type, INNER, WIDE, KERN_GATE_UP, &gate_up, err);
    if (r < 0) return r;
    ops->embed(kern, weight, &probe->batch, probe->wide);
    rows_take(probe, probe->wide, ROWS, WIDE);
    ops->embed(kern, probe->wide_table, &probe->batch, probe->wide);
    ops->norm_project(kern, probe->wide, probe->norm_wide, weight, probe->bias_outs, ROWS, probe->outs);
    rows_take(probe, probe->outs, ROWS, OUTS);
    ops->norm_head(kern, probe->wide, heads_at, COUNT_OF(heads_at), probe->norm_wide, weight, probe->logits);
    rows_take(probe, probe->logits, COUNT_OF(heads_at), OUTS);
    ops->norm_gate_up(kern, probe->wide, probe->norm_wide, gate_up, NULL, NULL, ROWS, probe->inner);
    rows_take(probe, probe->inner, ROWS, INNER);
    if (attention_cols % dequant_find(type)->block_elements != 0)
        return 0; // norm_project was the same product
    r = weight_make(probe, type, OUTS, attention_cols, KERN_CONCAT, &out, err);
    if (r < 0) return r;
    ops->attend(kern, 0, NULL, probe->qkv, &probe->batch, probe->attention);
    ops->project_add(kern, probe->attention, out, NULL, ROWS, probe->outs);
    rows_take(probe, probe->outs, ROWS, OUTS);
    return 0;
}

int kern_producer(const struct kern_ops *ops, const struct kern_probe *like, uint64_t *ret_producer,
                  struct err *err)
{
    struct probe *probe = calloc(1, sizeof *probe);
    if (!probe) return ERR(err, -ENOMEM, "out of memory");
    probe->ops = ops;
    probe->head_dims = like->head_dims;
    probe->page_bytes = kern_kv_head_bytes(like->kv_type, like->head_dims, PAGE);
    int r = memory_make(probe) < 0 ? ERR(err, -ENOMEM, "out of memory") : 0;
    batch_make(probe);
    if (r == 0) r = machine_make(probe, like, err);
    if (r == 0) r = layer_run(probe, err);
    for (uint32_t i = 0; r == 0 && i < like->type_count; i++) r = type_run(probe, like->types[i], err);
    if (r == 0) {
        const float floats[] = {like->attention_scale, like->rms_epsilon};
        probe->hash = hash128_chain(probe->hash, floats, sizeof floats);
        probe->hash = hash128_chain(probe->hash, like->rope.angles,
                                    like->rope.dims / 2 * sizeof *like->rope.angles);
        *ret_producer = probe->hash.low ? probe->hash.low : 1;
    }
    ops->close(probe->kern);
    free(probe->floats);
    free(probe->bytes);
    free(probe->pages);
    free(probe);
    return r;
}
