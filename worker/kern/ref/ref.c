/* SPDX-License-Identifier: Apache-2.0 */
/* ref - the reference machine: every op of kern.h in plain C with float activations and keys and values as
 * the type of the pages keeps them (kv.h). It is the definition that other machines are tested against, and fast
 * enough to run a small model in tests: 4 bytes a weight (dequantized when packed), no machine code.
 *
 * Owns: weights, vectors, rows and scratch, on one list freed by close. Threads: outputs of a product are
 * handed out in pieces of PIECE_OUTPUTS, rows of the other ops one by one; a piece never shares a sum with
 * another, so the team's size cannot change a bit. */
#include "worker/kern/ref/ref.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/ref/dequant.h"
#include "worker/kern/ref/kv.h"
#include "worker/kern/ref/ops.h"
#include "worker/team.h"

enum { PIECE_OUTPUTS = 16 };

struct block { // one allocation of the kern
    struct block *next;
    _Alignas(64) unsigned char bytes[];
};

struct kern_weight {
    uint32_t rows, cols;
    enum kern_pack pack;
    const float *values; // (rows, cols); GATE_UP: the gate's rows, then the up's
};

struct kern_vector {
    uint32_t count;
    const float *values;
};

struct kern_rows {
    uint32_t row_count, cols;
    uint32_t col_first, col_count; // what ops write: all, unless ranks fill them together
    float *values;                 // (row_count, cols)
};

struct kern {
    struct kern_conf conf;
    struct team *team;    // owned
    struct block *blocks; // everything else owned
    uint64_t weight_bytes;
    uint32_t normed_cols, gate_up_cols; // of the scratch below
    float *normed;                      // (rows_max, normed_cols)
    float *gate_up;                     // (rows_max, gate_up_cols)
    float *keys, *values;               // (pages of position_max * page_tokens, head_dims), one kv head's
};

/* Zeroed floats, 64-byte aligned; NULL when memory or size_t runs out. Freed by close. */
static void *keep(struct kern *kern, size_t count, size_t element_bytes)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, element_bytes, &bytes)) return NULL;
    if (bytes > SIZE_MAX / 2) return NULL;
    struct block *block = aligned_alloc(64, (sizeof(*block) + bytes + 63) & ~(size_t)63);
    if (!block) return NULL;
    memset(block->bytes, 0, bytes);
    block->next = kern->blocks;
    kern->blocks = block;
    return block->bytes;
}

static void ref_close(struct kern *kern)
{
    if (!kern) return;
    while (kern->blocks) {
        struct block *block = kern->blocks;
        kern->blocks = block->next;
        free(block);
    }
    team_free(kern->team);
    free(kern);
}

static int ref_open(const struct kern_conf *conf, struct kern **ret_kern, struct err *err)
{
    const struct kern_cache *cache = &conf->cache;
    CHECK(conf->rows_max > 0);
    CHECK(conf->head_count % conf->head_count_kv == 0);
    CHECK(cache->head_count_kv == conf->head_count_kv);
    CHECK(cache->head_dims == conf->head_dims);
    if (kern_kv_head_bytes(cache->kv_type, cache->head_dims, cache->page_tokens) == 0) {
        return ERR(err, ERR_UNSUPPORTED, "no kernels for type %u of keys and values", cache->kv_type);
    }
    if (conf->head_dims > OPS_HEAD_DIMS_MAX) {
        return ERR(err, ERR_UNSUPPORTED, "head size %u, reference kernels have at most %d", conf->head_dims,
                   OPS_HEAD_DIMS_MAX);
    }
    struct kern *kern = calloc(1, sizeof(*kern));
    if (!kern) return err_sys(err, ENOMEM, "kernels");
    kern->conf = *conf;
    size_t positions = (size_t)conf->rope.position_max + cache->page_tokens; // the last page may be partial
    kern->keys = keep(kern, positions * conf->head_dims, sizeof(float));
    kern->values = keep(kern, positions * conf->head_dims, sizeof(float));
    int r = kern->keys && kern->values ? 0 : err_sys(err, ENOMEM, "scratch of %zu positions", positions);
    if (r == 0) {
        const struct team_conf team_conf = {.threads = conf->threads, .pin = conf->pin_threads};
        r = team_new(&team_conf, &kern->team, err);
    }
    if (r < 0) {
        ref_close(kern);
        return r;
    }
    *ret_kern = kern;
    return 0;
}

static void ref_parallel(struct kern *kern, void (*fn)(void *arg, uint32_t piece), void *arg,
                         uint32_t piece_count)
{
    team_run(kern->team, fn, arg, piece_count);
}

/* Makes sure that a scratch of rows_max rows has at least cols columns. The outgrown one stays on the list
 * until close: weights come in few widths. */
static int scratch_widen(struct kern *kern, uint32_t cols, uint32_t *inout_cols, float **inout_scratch)
{
    if (cols <= *inout_cols) return 0;
    float *scratch = keep(kern, (size_t)kern->conf.rows_max * cols, sizeof(float));
    if (!scratch) return -ENOMEM;
    *inout_cols = cols;
    *inout_scratch = scratch;
    return 0;
}

struct unpack {
    const struct kern_matrix *matrix;
    const struct dequant_type *type;
    float *out; // (rows, cols)
};

static void unpack_piece(void *arg, uint32_t piece)
{
    const struct unpack *unpack = arg;
    uint32_t cols = unpack->matrix->cols;
    size_t row_bytes = dequant_row_bytes(unpack->type, cols);
    uint32_t first = piece * PIECE_OUTPUTS, rows = unpack->matrix->rows - first;
    if (rows > PIECE_OUTPUTS) rows = PIECE_OUTPUTS;
    for (uint32_t row = first; row < first + rows; row++) {
        dequant_row(unpack->type, (const uint8_t *)unpack->matrix->data + row * row_bytes, cols,
                    unpack->out + (size_t)row * cols);
    }
}

static uint32_t pieces_of(uint32_t outputs)
{
    return outputs / PIECE_OUTPUTS + (outputs % PIECE_OUTPUTS != 0);
}

static int ref_weight_new(struct kern *kern, const struct kern_matrix *parts, uint32_t part_count,
                          enum kern_pack pack, struct kern_weight **ret_weight, struct err *err)
{
    uint64_t rows = 0;
    uint32_t cols = parts[0].cols;
    CHECK(part_count > 0);
    if (pack == KERN_GATE_UP) CHECK(part_count == 2 && parts[0].rows == parts[1].rows);
    for (uint32_t i = 0; i < part_count; i++) {
        CHECK(parts[i].cols == cols);
        if (!dequant_find(parts[i].type)) {
            return ERR(err, ERR_UNSUPPORTED, "tensor type %u has no kernel", parts[i].type);
        }
        rows += parts[i].rows;
    }
    struct kern_weight *weight = keep(kern, 1, sizeof(*weight));
    float *values = rows <= UINT32_MAX ? keep(kern, rows * cols, sizeof(float)) : NULL;
    if (!weight || !values) return err_sys(err, ENOMEM, "weight of %" PRIu64 " x %u", rows, cols);
    int r = scratch_widen(kern, cols, &kern->normed_cols, &kern->normed);
    if (r == 0 && pack == KERN_GATE_UP) {
        r = scratch_widen(kern, (uint32_t)rows, &kern->gate_up_cols, &kern->gate_up);
    }
    if (r < 0) return err_sys(err, -r, "scratch of %u rows", kern->conf.rows_max);

    float *out = values;
    for (uint32_t i = 0; i < part_count; i++) {
        struct unpack unpack = {.matrix = &parts[i], .type = dequant_find(parts[i].type), .out = out};
        ref_parallel(kern, unpack_piece, &unpack, pieces_of(parts[i].rows));
        out += (size_t)parts[i].rows * cols;
    }
    *weight = (struct kern_weight){.rows = (uint32_t)rows, .cols = cols, .pack = pack, .values = values};
    kern->weight_bytes += rows * cols * sizeof(float);
    *ret_weight = weight;
    return 0;
}

static int ref_vector_new(struct kern *kern, const float *values, uint32_t count,
                          struct kern_vector **ret_vector, struct err *err)
{
    struct kern_vector *vector = keep(kern, 1, sizeof(*vector));
    float *copy = keep(kern, count, sizeof(float));
    if (!vector || !copy) return err_sys(err, ENOMEM, "vector of %u", count);
    memcpy(copy, values, count * sizeof(float));
    *vector = (struct kern_vector){.count = count, .values = copy};
    *ret_vector = vector;
    return 0;
}

static int ref_rows_new(struct kern *kern, uint32_t row_count, uint32_t cols, struct kern_rows **ret_rows,
                        struct err *err)
{
    struct kern_rows *rows = keep(kern, 1, sizeof(*rows));
    float *values = keep(kern, (size_t)row_count * cols, sizeof(float));
    if (!rows || !values) return err_sys(err, ENOMEM, "rows of %u x %u", row_count, cols);
    *rows = (struct kern_rows){.row_count = row_count, .cols = cols, .col_count = cols, .values = values};
    *ret_rows = rows;
    return 0;
}

static int ref_rows_shared(struct kern *kern, uint32_t row_count, uint32_t cols,
                           const struct kern_share *share, struct kern_rows **ret_rows, struct err *err)
{
    CHECK(share->col_first <= cols && share->col_count <= cols - share->col_first);
    if ((uint64_t)row_count * cols * sizeof(float) > share->bytes)
        return ERR(err, ERR_LIMIT, "shared rows of %u x %u, have %" PRIu64 " bytes", row_count, cols,
                   share->bytes);
    struct kern_rows *rows = keep(kern, 1, sizeof(*rows));
    if (!rows) return err_sys(err, ENOMEM, "shared rows");
    *rows = (struct kern_rows){.row_count = row_count,
                               .cols = cols,
                               .col_first = share->col_first,
                               .col_count = share->col_count,
                               .values = share->base};
    *ret_rows = rows;
    return 0;
}

static uint32_t ref_planes(const struct kern_rows *rows, struct kern_plane ret_planes[KERN_PLANES_MAX])
{
    ret_planes[0] = (struct kern_plane){.base = rows->values,
                                        .row_bytes = rows->cols * sizeof(float),
                                        .unit_cols = 1,
                                        .unit_bytes = sizeof(float)};
    return 1;
}

static void ref_embed(struct kern *kern, const struct kern_weight *embedding, const struct kern_batch *batch,
                      struct kern_rows *x)
{
    (void)kern;
    CHECK(x->cols == embedding->cols);
    CHECK(batch->row_count <= x->row_count);
    for (uint32_t row = 0; row < batch->row_count; row++) {
        if (batch->tokens[row] >= embedding->rows) continue; // another rank's
        memcpy(x->values + (size_t)row * x->cols,
               embedding->values + (size_t)batch->tokens[row] * embedding->cols, x->cols * sizeof(float));
    }
}

static void project_piece(void *arg, uint32_t piece)
{
    struct ops_product product = *(const struct ops_product *)arg;
    uint32_t first = piece * PIECE_OUTPUTS;
    product.w += (size_t)first * product.cols;
    product.out += first;
    if (product.bias) product.bias += first;
    product.w_rows -= first;
    if (product.w_rows > PIECE_OUTPUTS) product.w_rows = PIECE_OUTPUTS;
    ops_project(&product);
}

static void project(struct kern *kern, struct ops_product *product)
{
    ref_parallel(kern, project_piece, product, pieces_of(product->w_rows));
}

/* Norms of rows (or of rows[i] of x where rows is given) into the scratch, dense. */
static void norm_rows(struct kern *kern, const struct kern_rows *x, const uint32_t *rows, uint32_t row_count,
                      const struct kern_vector *norm)
{
    CHECK(norm->count == x->cols);
    CHECK(x->cols <= kern->normed_cols);
    CHECK(row_count <= kern->conf.rows_max);
    for (uint32_t i = 0; i < row_count; i++) {
        uint32_t row = rows ? rows[i] : i;
        CHECK(row < x->row_count);
        ops_norm(x->values + (size_t)row * x->cols, norm->values, x->cols, kern->conf.rms_epsilon,
                 kern->normed + (size_t)i * x->cols);
    }
}

static void ref_norm_project(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                             const struct kern_weight *weight, const struct kern_vector *bias,
                             uint32_t row_count, struct kern_rows *out)
{
    CHECK(weight->cols == x->cols);
    CHECK(weight->rows == out->col_count);
    if (bias) CHECK(bias->count == weight->rows);
    norm_rows(kern, x, NULL, row_count, norm);
    project(kern, &(struct ops_product){.x = kern->normed,
                                        .w = weight->values,
                                        .bias = bias ? bias->values : NULL,
                                        .x_stride = x->cols,
                                        .out_stride = out->cols,
                                        .x_rows = row_count,
                                        .w_rows = weight->rows,
                                        .cols = weight->cols,
                                        .out = out->values + out->col_first});
}

static void ref_project_add(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                            const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x)
{
    CHECK(weight->cols == in->cols);
    CHECK(weight->rows == x->col_count);
    CHECK(row_count <= in->row_count && row_count <= x->row_count);
    if (bias) CHECK(bias->count == weight->rows);
    project(kern, &(struct ops_product){.x = in->values,
                                        .w = weight->values,
                                        .bias = bias ? bias->values : NULL,
                                        .x_stride = in->cols,
                                        .out_stride = x->cols,
                                        .x_rows = row_count,
                                        .w_rows = weight->rows,
                                        .cols = weight->cols,
                                        .add = true,
                                        .out = x->values + x->col_first});
}

struct silu {
    struct kern *kern;
    const struct kern_vector *gate_bias, *up_bias;
    struct kern_rows *out;
};

static void silu_piece(void *arg, uint32_t piece)
{
    const struct silu *silu = arg;
    uint32_t cols = silu->out->col_count;
    float *gate = silu->kern->gate_up + (size_t)piece * 2 * cols, *up = gate + cols;
    for (uint32_t k = 0; silu->gate_bias && k < cols; k++) gate[k] += silu->gate_bias->values[k];
    for (uint32_t k = 0; silu->up_bias && k < cols; k++) up[k] += silu->up_bias->values[k];
    ops_silu_times(gate, up, cols,
                   silu->out->values + (size_t)piece * silu->out->cols + silu->out->col_first);
}

static void ref_norm_gate_up(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                             const struct kern_weight *gate_up, const struct kern_vector *gate_bias,
                             const struct kern_vector *up_bias, uint32_t row_count, struct kern_rows *out)
{
    CHECK(gate_up->pack == KERN_GATE_UP);
    CHECK(gate_up->cols == x->cols);
    CHECK(gate_up->rows == 2 * out->col_count);
    CHECK(row_count <= out->row_count);
    if (gate_bias) CHECK(gate_bias->count == out->col_count);
    if (up_bias) CHECK(up_bias->count == out->col_count);
    norm_rows(kern, x, NULL, row_count, norm);
    project(kern, &(struct ops_product){.x = kern->normed,
                                        .w = gate_up->values,
                                        .x_stride = x->cols,
                                        .out_stride = gate_up->rows,
                                        .x_rows = row_count,
                                        .w_rows = gate_up->rows,
                                        .cols = gate_up->cols,
                                        .out = kern->gate_up});
    struct silu silu = {.kern = kern, .gate_bias = gate_bias, .up_bias = up_bias, .out = out};
    ref_parallel(kern, silu_piece, &silu, row_count);
}

static void ref_norm_head(struct kern *kern, const struct kern_rows *x, const uint32_t *rows,
                          uint32_t row_count, const struct kern_vector *norm,
                          const struct kern_weight *weight, struct kern_rows *logits)
{
    CHECK(weight->cols == x->cols);
    CHECK(weight->rows == logits->col_count);
    CHECK(row_count <= logits->row_count);
    norm_rows(kern, x, rows, row_count, norm);
    project(kern, &(struct ops_product){.x = kern->normed,
                                        .w = weight->values,
                                        .x_stride = x->cols,
                                        .out_stride = logits->cols,
                                        .x_rows = row_count,
                                        .w_rows = weight->rows,
                                        .cols = weight->cols,
                                        .out = logits->values + logits->col_first});
}

struct attend {
    struct kern *kern;
    uint32_t layer, kv_head;
    struct kern_attend_options options;
    uint32_t page_first; // of the sequence: the first one that a row sees
    struct kern_rows *qkv, *out;
    const struct kern_batch *batch;
    const struct kern_seq *seq;
};

/* The first key that the query at `position` sees. */
static uint32_t first_key(const struct attend *attend, uint32_t position)
{
    const uint32_t window = attend->options.window;
    return window > 0 && position >= window ? position - window + 1 : 0;
}

static struct kv_head page_head(const struct kern *kern, uint32_t page, uint32_t layer, uint32_t kv_head)
{
    const struct kern_cache *cache = &kern->conf.cache;
    CHECK(page < cache->page_count);
    size_t offset = (size_t)page * cache->page_bytes;
    offset += ((size_t)layer * cache->head_count_kv + kv_head) *
              kern_kv_head_bytes(cache->kv_type, cache->head_dims, cache->page_tokens);
    return (struct kv_head){.base = (uint8_t *)cache->base + offset,
                            .type = (enum kern_kv)cache->kv_type,
                            .dims = cache->head_dims,
                            .tokens = cache->page_tokens};
}

/* Rotates q and k of one row of a sequence and stores its k and v. */
static void store_piece(void *arg, uint32_t piece)
{
    const struct attend *attend = arg;
    struct kern *kern = attend->kern;
    const struct kern_conf *conf = &kern->conf;
    const uint32_t head_dims = conf->head_dims, page_tokens = conf->cache.page_tokens;
    const uint32_t row = attend->seq->row_first + piece, position = attend->seq->pos_first + piece;
    CHECK(attend->batch->positions[row] == position);
    CHECK(position / page_tokens < attend->seq->page_count);

    struct ops_rotation rotation;
    ops_rotation_at(conf->rope.angles, conf->rope.dims, conf->rope.adjacent, position, &rotation);
    float *q = attend->qkv->values + (size_t)row * attend->qkv->cols;
    float *k = q + (size_t)conf->head_count * head_dims, *v = k + (size_t)conf->head_count_kv * head_dims;
    for (uint32_t head = 0; head < conf->head_count; head++) ops_rotate(&rotation, q + head * head_dims);

    uint32_t page = attend->seq->pages[position / page_tokens];
    for (uint32_t head = 0; head < conf->head_count_kv; head++) {
        struct kv_head to = page_head(kern, page, attend->layer, head);
        ops_rotate(&rotation, k + head * head_dims);
        kv_put(&to, KV_K, position % page_tokens, k + head * head_dims);
        kv_put(&to, KV_V, position % page_tokens, v + head * head_dims);
    }
}

/* Brings one page of one kv head into the scratch as floats, keys token-major. */
static void load_piece(void *arg, uint32_t piece)
{
    const struct attend *attend = arg;
    const struct kern *kern = attend->kern;
    piece += attend->page_first;
    const uint32_t head_dims = kern->conf.head_dims, page_tokens = kern->conf.cache.page_tokens;
    const struct kv_head from = page_head(kern, attend->seq->pages[piece], attend->layer, attend->kv_head);
    const size_t elements = (size_t)head_dims * page_tokens;
    for (uint32_t slot = 0; slot < page_tokens; slot++) {
        kv_get(&from, KV_K, slot, kern->keys + piece * elements + (size_t)slot * head_dims);
        kv_get(&from, KV_V, slot, kern->values + piece * elements + (size_t)slot * head_dims);
    }
}

/* Attention of one row, for the query heads that share kv_head. */
static void attend_piece(void *arg, uint32_t piece)
{
    const struct attend *attend = arg;
    const struct kern *kern = attend->kern;
    const struct kern_conf *conf = &kern->conf;
    const uint32_t group = conf->head_count / conf->head_count_kv, first = attend->kv_head * group;
    const size_t row = attend->seq->row_first + piece;
    const uint32_t position = attend->seq->pos_first + piece, key = first_key(attend, position);
    const struct kern_vector *sinks = attend->options.sinks;
    for (uint32_t head = first; head < first + group; head++) {
        const float *query = attend->qkv->values + row * attend->qkv->cols + (size_t)head * conf->head_dims;
        float *out = attend->out->values + row * attend->out->cols + attend->out->col_first +
                     (size_t)head * conf->head_dims;
        ops_attend(&(struct ops_attention){.query = query,
                                           .keys = kern->keys + (size_t)key * conf->head_dims,
                                           .values = kern->values + (size_t)key * conf->head_dims,
                                           .key_count = position + 1 - key,
                                           .head_dims = conf->head_dims,
                                           .scale = conf->attention_scale,
                                           .softcap = attend->options.softcap,
                                           .sink = sinks ? &sinks->values[head] : NULL,
                                           .out = out});
    }
}

static void ref_attend(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                       struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out)
{
    const struct kern_conf *conf = &kern->conf;
    const struct kern_attend_options plain = {0};
    if (!options) options = &plain;
    CHECK(options->softcap >= 0);
    if (options->sinks) CHECK(options->sinks->count == conf->head_count);
    CHECK(layer < conf->cache.layer_count);
    CHECK(qkv->cols == (conf->head_count + 2 * conf->head_count_kv) * conf->head_dims);
    CHECK(out->col_count == conf->head_count * conf->head_dims);
    for (uint32_t i = 0; i < batch->seq_count; i++) {
        const struct kern_seq *seq = &batch->seqs[i];
        struct attend attend = {.kern = kern,
                                .layer = layer,
                                .qkv = qkv,
                                .out = out,
                                .batch = batch,
                                .seq = seq,
                                .options = *options};
        attend.page_first = first_key(&attend, seq->pos_first) / conf->cache.page_tokens;
        uint32_t positions = seq->pos_first + seq->row_count;
        CHECK(positions <= conf->rope.position_max);
        ref_parallel(kern, store_piece, &attend, seq->row_count);
        for (attend.kv_head = 0; attend.kv_head < conf->head_count_kv; attend.kv_head++) {
            uint32_t page_tokens = conf->cache.page_tokens;
            ref_parallel(kern, load_piece, &attend,
                         (positions + page_tokens - 1) / page_tokens - attend.page_first);
            ref_parallel(kern, attend_piece, &attend, seq->row_count);
        }
    }
}

static int ref_sync(struct kern *kern, struct err *err)
{
    (void)kern;
    (void)err;
    return 0; // every op has finished when it returns
}

static const float *ref_fetch(struct kern *kern, const struct kern_rows *rows, uint32_t row_count)
{
    (void)kern;
    CHECK(row_count <= rows->row_count);
    return rows->values;
}

static uint64_t ref_weight_bytes(const struct kern *kern)
{
    return kern->weight_bytes;
}

const struct kern_ops kern_ref_ops = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .weight_new = ref_weight_new,
    .vector_new = ref_vector_new,
    .rows_new = ref_rows_new,
    .rows_shared = ref_rows_shared,
    .planes = ref_planes,
    .embed = ref_embed,
    .norm_project = ref_norm_project,
    .attend = ref_attend,
    .project_add = ref_project_add,
    .norm_gate_up = ref_norm_gate_up,
    .norm_head = ref_norm_head,
    .sync = ref_sync,
    .fetch = ref_fetch,
    .parallel = ref_parallel,
    .weight_bytes = ref_weight_bytes,
};
