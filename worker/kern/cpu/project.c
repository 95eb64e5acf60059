/* SPDX-License-Identifier: Apache-2.0 */
/* project - embedding and the products. Each op is at most two jobs of the team: rows are normed and quantized
 * once, then pieces of GROUP_ROWS outputs x rows_a_piece rows are computed and finished while they are in the
 * cache. Pieces go through all outputs for one block of rows, then the next: weights are read once for
 * each PIECE_ROWS_MAX rows (once a step when decoding), which costs less than re-reading rows did. */
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"

enum {
    INPUT_ROWS = 8,           // rows of one piece of norm or quantize
    INLINE_FLOATS = 4 * 1024, // less work than this is not worth waking the team for
    /* Rows of a piece: their codes stay in a second-level cache of 512 KiB while the weight groups pass by. */
    PIECE_INPUT_BYTES = 192 * 1024,
    PIECE_ROWS_MIN = 32,
    PIECE_ROWS_MAX = 128,
    STREAM_STRIDE = 4096, // bytes; the sets of a first-level cache repeat at it
    STREAM_ROWS_MIN = 16, // fewer rows fit the ways of a set
};

/* Whether an input keeps its outliers apart, at 8 % of its product's time. Measured on SmolLM2-135M Q4_1 (mean
 * |difference| of the top 20 log-probabilities from float32, 960 positions): with plain inputs everywhere 0.088,
 * with fine ones for q, k, v and the head 0.062 to 0.068, for gate and up too 0.051. Inputs of 16 bits for q, k, v and
 * the head, at twice their products' time, gave 0.058. */
enum precision { PLAIN, FINE };

/* rows -> input, one row after another */
struct input_job {
    struct kern *kern;
    const struct kern_rows *x;
    const uint32_t *rows;           // (row_count) rows of x, or NULL for 0 .. row_count - 1
    const struct kern_vector *norm; // NULL: rows as they are
    uint32_t row_count;
    enum precision precision;
    bool wants_blocks;
};

static void input_row(const struct input_job *job, uint32_t i)
{
    struct kern *kern = job->kern;
    const struct kern_rows *x = job->x;
    uint32_t row = job->rows != NULL ? job->rows[i] : i;
    CHECK(row < x->row_count);
    uint32_t padded = x->block_count * BLOCK_COLS;
    const float *from = x->values + (size_t)row * x->cols;
    float *values = kern->input_values + (size_t)i * padded;
    if (job->norm != NULL)
        kern->level->norm(from, job->norm->values, x->cols, kern->conf.rms_epsilon, values);
    else memcpy(values, from, x->cols * sizeof(float));
    for (uint32_t k = x->cols; k < padded; k++) values[k] = 0;
    size_t block = (size_t)i * x->block_count;
    if (!job->wants_blocks) return;
    if (job->precision == FINE)
        kern->level->quantize_fine(values, x->block_count, kern->input_blocks + block,
                                   kern->input_outliers + (size_t)i * cpu_outlier_count(x->block_count));
    else kern->level->quantize(values, x->block_count, kern->input_blocks + block);
}

static void input_piece(void *arg, uint32_t piece)
{
    const struct input_job *job = arg;
    for (uint32_t i = piece * INPUT_ROWS; i < (piece + 1) * INPUT_ROWS && i < job->row_count; i++)
        input_row(job, i);
}

static struct cpu_input make_input(struct kern *kern, const struct kern_rows *x, const uint32_t *rows,
                                   uint32_t row_count, const struct kern_vector *norm,
                                   const struct kern_weight *weight, enum precision precision)
{
    CHECK(x->has_values);
    CHECK(weight->cols == x->cols && x->block_count <= kern->input_blocks_max);
    CHECK(row_count <= kern->conf.rows_max);
    if (norm != NULL) CHECK(norm->count == x->cols);
    struct input_job job = {.kern = kern,
                            .x = x,
                            .rows = rows,
                            .norm = norm,
                            .row_count = row_count,
                            .precision = precision,
                            .wants_blocks = weight->reads_blocks};
    uint32_t pieces = (row_count + INPUT_ROWS - 1) / INPUT_ROWS;
    if ((size_t)row_count * x->cols > INLINE_FLOATS) team_run(kern->team, input_piece, &job, pieces);
    else
        for (uint32_t piece = 0; piece < pieces; piece++) input_piece(&job, piece);
    return (struct cpu_input){.blocks = kern->input_blocks,
                              .outliers = precision == FINE ? kern->input_outliers : NULL,
                              .values = kern->input_values,
                              .block_count = x->block_count};
}

/* One product over all parts of a weight, cut into pieces. */
struct project_job {
    struct kern *kern;
    struct outputs own;
    struct cpu_input input;
    uint32_t row_count;
    struct kern_rows *out;
    void (*finish)(const struct project_job *job, const struct outputs *outputs, uint32_t group,
                   uint32_t row_first, uint32_t row_count);
    uint32_t rows_a_piece; // at most PIECE_ROWS_MAX
};

static void run_piece(const struct project_job *job, const struct outputs *outputs, uint32_t piece)
{
    uint32_t groups = outputs->weight->group_count;
    uint32_t row_first = piece / groups * job->rows_a_piece;
    uint32_t left = job->row_count - row_first;
    job->finish(job, outputs, piece % groups, row_first, left < job->rows_a_piece ? left : job->rows_a_piece);
}

static void project_piece(void *arg, uint32_t piece)
{
    const struct project_job *job = arg;
    run_piece(job, &job->own, piece);
}

static uint32_t piece_count_of(const struct project_job *job, const struct kern_weight *weight)
{
    return weight->group_count * ((job->row_count + job->rows_a_piece - 1) / job->rows_a_piece);
}

/* One of our threads: its share of our pieces, the rest of them, then what mates have left. Of theirs it begins at
 * the far end, where they come last. */
static void steal_pieces(void *arg, uint32_t thread)
{
    const struct project_job *job = arg;
    const struct kern_steal *steal = job->kern->conf.steal;
    const uint32_t lane_first = thread * KERN_LANES / team_threads(job->kern->team);
    for (uint32_t i = 0; i < steal->mate_count; i++) {
        const uint32_t mate = (steal->mate + i) % steal->mate_count;
        const struct outputs *outputs = i == 0 ? &job->own : &job->own.weight->mates[mate];
        if (outputs->weight->parts[0].data == NULL) continue; // of a mate that computes them alone
        const uint32_t count = piece_count_of(job, outputs->weight);
        for (uint32_t l = 0; l < KERN_LANES; l++) {
            const uint32_t lane = i == 0 ? (lane_first + l) % KERN_LANES : KERN_LANES - 1 - l;
            uint32_t piece;
            while (steal->take(steal->arg, mate, lane, count, &piece)) run_piece(job, outputs, piece);
        }
    }
}

static void project(struct project_job *job)
{
    const struct kern_weight *weight = job->own.weight;
    const struct kern_steal *steal = job->kern->conf.steal;
    if (job->row_count == 0) return;
    uint32_t row_bytes = job->input.block_count * BLOCK_COLS;
    uint32_t rows = PIECE_INPUT_BYTES / row_bytes / 4 * 4;
    job->rows_a_piece = rows < PIECE_ROWS_MIN   ? PIECE_ROWS_MIN
                        : rows > PIECE_ROWS_MAX ? PIECE_ROWS_MAX
                                                : rows;
    if (weight->mates) {
        steal->begin(steal->arg);
        team_run(job->kern->team, steal_pieces, job, team_threads(job->kern->team));
    } else team_run(job->kern->team, project_piece, job, piece_count_of(job, weight));
}

/* Group `group` of one part for some rows. out: (row_count, GROUP_ROWS); returns the outputs that exist. */
static uint32_t group_product(const struct project_job *job, const struct cpu_packed *part, uint32_t group,
                              uint32_t row_first, uint32_t row_count, float *out)
{
    uint32_t tiles = GROUP_ROWS / part->tile_rows;
    uint32_t first = group * tiles;
    uint32_t count = part->tile_count - first < tiles ? part->tile_count - first : tiles;
    job->kern->level->product(part, first, count, &job->input, row_first, row_count, out);
    uint32_t width = part->rows - group * GROUP_ROWS;
    return width < GROUP_ROWS ? width : GROUP_ROWS;
}

static uint32_t groups_of(const struct cpu_packed *packed)
{
    return (packed->rows + GROUP_ROWS - 1) / GROUP_ROWS;
}

/* Part and group of the group-th group over all parts; ret_col: the column of its first output. */
static const struct cpu_packed *find_group(const struct kern_weight *weight, uint32_t *group,
                                           uint32_t *ret_col)
{
    uint32_t col = 0, i = 0;
    while (*group >= groups_of(&weight->parts[i])) {
        *group -= groups_of(&weight->parts[i]);
        col += weight->parts[i].rows;
        i++;
        CHECK(i < weight->part_count);
    }
    *ret_col = col + *group * GROUP_ROWS;
    return &weight->parts[i];
}

static float *out_at(const struct kern_rows *out, uint32_t row, uint32_t col)
{
    return out->values + (size_t)row * out->cols + col;
}

/* The GROUP_ROWS outputs of rows that a piece will write, asked for before the product, there after it. */
static void expect_rows(const struct kern_rows *out, uint32_t col, uint32_t row_first, uint32_t row_count)
{
    machine_expect(out_at(out, row_first, col), out->cols * sizeof(float), GROUP_ROWS * sizeof(float),
                   row_count);
}

/* Whether a piece's output should go around the caches: rows whose distance is a multiple of STREAM_STRIDE share
 * a few sets of them, so that lines would come in only to be thrown out again. The vocabulary of a head is often
 * such a number. */
static bool streams(const struct kern_rows *out, uint32_t row_count)
{
#if defined(__SSE2__)
    return row_count >= STREAM_ROWS_MIN && out->cols * sizeof(float) % STREAM_STRIDE == 0;
#else
    (void)out;
    (void)row_count;
    return false;
#endif
}

/* One row of GROUP_ROWS outputs; both 16-byte aligned. Followed by stream_end before others read. */
static void stream_row(const float *sum, float *out)
{
#if defined(__SSE2__)
    for (uint32_t i = 0; i < GROUP_ROWS; i += 4) _mm_stream_ps(out + i, _mm_load_ps(sum + i));
#else
    (void)sum;
    (void)out;
#endif
}

static void stream_end(void)
{
#if defined(__SSE2__)
    _mm_sfence(); // the team's atomics do not order such stores
#endif
}

static void finish_store(const struct project_job *job, const struct outputs *outputs, uint32_t group,
                         uint32_t row_first, uint32_t row_count)
{
    _Alignas(64) float sums[PIECE_ROWS_MAX * GROUP_ROWS];
    uint32_t col;
    const struct cpu_packed *part = find_group(outputs->weight, &group, &col);
    const float *bias = outputs->bias != NULL ? outputs->bias + col : NULL;
    col += outputs->col_first;
    const bool stream = bias == NULL && col % 4 == 0 && streams(job->out, row_count);
    if (!stream) expect_rows(job->out, col, row_first, row_count);
    uint32_t width = group_product(job, part, group, row_first, row_count, sums);
    for (uint32_t r = 0; r < row_count; r++) {
        float *out = out_at(job->out, row_first + r, col);
        const float *sum = sums + (size_t)r * GROUP_ROWS;
        if (stream && width == GROUP_ROWS) stream_row(sum, out);
        else if (bias == NULL) memcpy(out, sum, width * sizeof(float));
        else
            for (uint32_t i = 0; i < width; i++) out[i] = sum[i] + bias[i];
    }
    if (stream) stream_end();
}

static void finish_add(const struct project_job *job, const struct outputs *outputs, uint32_t group,
                       uint32_t row_first, uint32_t row_count)
{
    _Alignas(64) float sums[PIECE_ROWS_MAX * GROUP_ROWS];
    uint32_t col;
    const struct cpu_packed *part = find_group(outputs->weight, &group, &col);
    const float *bias = outputs->bias != NULL ? outputs->bias + col : NULL;
    col += outputs->col_first;
    expect_rows(job->out, col, row_first, row_count);
    uint32_t width = group_product(job, part, group, row_first, row_count, sums);
    for (uint32_t r = 0; r < row_count; r++) {
        float *restrict out = out_at(job->out, row_first + r, col);
        const float *restrict sum = sums + (size_t)r * GROUP_ROWS;
        if (bias == NULL)
            for (uint32_t i = 0; i < width; i++) out[i] += sum[i];
        else
            for (uint32_t i = 0; i < width; i++) out[i] += sum[i] + bias[i];
    }
}

static void add_bias(const float *bias, uint32_t width, uint32_t row_count, float *sums)
{
    for (uint32_t r = 0; bias != NULL && r < row_count; r++) {
        for (uint32_t i = 0; i < width; i++) sums[(size_t)r * GROUP_ROWS + i] += bias[i];
    }
}

static void finish_gate_up(const struct project_job *job, const struct outputs *outputs, uint32_t group,
                           uint32_t row_first, uint32_t row_count)
{
    _Alignas(64) float gate[PIECE_ROWS_MAX * GROUP_ROWS], up[PIECE_ROWS_MAX * GROUP_ROWS];
    const struct cpu_level *level = job->kern->level;
    const struct cpu_packed *parts = outputs->weight->parts;
    struct kern_rows *out = job->out;
    struct cpu_block *blocks = out->blocks + (size_t)row_first * out->block_count +
                               outputs->col_first / BLOCK_COLS + group;
    uint32_t col = group * GROUP_ROWS;
    if (out->has_blocks)
        machine_expect(blocks, out->block_count * sizeof(*blocks), sizeof(*blocks), row_count);
    uint32_t width = group_product(job, &parts[0], group, row_first, row_count, gate);
    (void)group_product(job, &parts[1], group, row_first, row_count, up); // as wide as the gate
    add_bias(outputs->bias != NULL ? outputs->bias + col : NULL, width, row_count, gate);
    add_bias(outputs->up_bias != NULL ? outputs->up_bias + col : NULL, width, row_count, up);
    if (!out->has_values) {
        level->swiglu_blocks(gate, up, row_count, blocks, out->block_count);
        return;
    }
    for (uint32_t r = 0; r < row_count; r++) {
        float *sum = gate + (size_t)r * GROUP_ROWS;
        level->swiglu(sum, up + (size_t)r * GROUP_ROWS, GROUP_ROWS, sum);
        if (out->has_blocks) level->quantize(sum, 1, blocks + (size_t)r * out->block_count);
        memcpy(out_at(out, row_first + r, outputs->col_first + col), sum, width * sizeof(float));
    }
}

struct embed_job {
    const struct kern *kern;
    const struct cpu_packed *table;
    const struct kern_batch *batch;
    struct kern_rows *x;
};

static void embed_piece(void *arg, uint32_t piece)
{
    const struct embed_job *job = arg;
    uint32_t end = (piece + 1) * INPUT_ROWS;
    for (uint32_t r = piece * INPUT_ROWS; r < end && r < job->batch->row_count; r++) {
        if (job->batch->tokens[r] >= job->table->rows) continue; // another rank's
        cpu_unpack_row(job->table, job->kern->level, job->batch->tokens[r],
                       job->x->values + (size_t)r * job->x->cols);
    }
}

void machine_embed(struct kern *kern, const struct kern_weight *embedding, const struct kern_batch *batch,
                   struct kern_rows *x)
{
    CHECK(embedding->part_count == 1 && embedding->cols == x->cols);
    CHECK(batch->row_count <= x->row_count);
    struct embed_job job = {.kern = kern, .table = &embedding->parts[0], .batch = batch, .x = x};
    x->has_values = true;
    x->has_blocks = false;
    team_run(kern->team, embed_piece, &job, (batch->row_count + INPUT_ROWS - 1) / INPUT_ROWS);
}

static const float *bias_values(const struct kern_vector *bias, uint32_t count)
{
    if (bias == NULL) return NULL;
    CHECK(bias->count == count);
    return bias->values;
}

void machine_norm_project(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                          const struct kern_weight *weight, const struct kern_vector *bias,
                          uint32_t row_count, struct kern_rows *out)
{
    CHECK(weight->rows == out->col_count && row_count <= out->row_count);
    out->has_values = true;
    out->has_blocks = false;
    project(&(struct project_job){
        .kern = kern,
        .own = {.weight = weight, .bias = bias_values(bias, weight->rows), .col_first = out->col_first},
        .input = make_input(kern, x, NULL, row_count, norm, weight, FINE),
        .row_count = row_count,
        .out = out,
        .finish = finish_store});
}

void machine_norm_head(struct kern *kern, const struct kern_rows *x, const uint32_t *rows, uint32_t row_count,
                       const struct kern_vector *norm, const struct kern_weight *weight,
                       struct kern_rows *logits)
{
    CHECK(weight->rows == logits->col_count && row_count <= logits->row_count);
    logits->has_values = true;
    logits->has_blocks = false;
    project(&(struct project_job){.kern = kern,
                                  .own = {.weight = weight, .col_first = logits->col_first},
                                  .input = make_input(kern, x, rows, row_count, norm, weight, FINE),
                                  .row_count = row_count,
                                  .out = logits,
                                  .finish = finish_store});
}

void machine_project_add(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                         const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x)
{
    CHECK(weight->rows == x->col_count && weight->cols == in->cols);
    CHECK(row_count <= x->row_count && row_count <= in->row_count);
    bool ready = (!weight->reads_blocks || in->has_blocks) &&
                 (!weight->reads_values || (in->has_values && in->cols % BLOCK_COLS == 0));
    struct cpu_input input = {.blocks = in->blocks, .values = in->values, .block_count = in->block_count};
    if (!ready) input = make_input(kern, in, NULL, row_count, NULL, weight, PLAIN);
    CHECK(x->has_values);
    project(&(struct project_job){
        .kern = kern,
        .own = {.weight = weight, .bias = bias_values(bias, weight->rows), .col_first = x->col_first},
        .input = input,
        .row_count = row_count,
        .out = x,
        .finish = finish_add});
}

void machine_norm_gate_up(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                          const struct kern_weight *gate_up, const struct kern_vector *gate_bias,
                          const struct kern_vector *up_bias, uint32_t row_count, struct kern_rows *out)
{
    CHECK(gate_up->pack == KERN_GATE_UP && gate_up->rows == 2 * out->col_count);
    CHECK(row_count <= out->row_count);
    out->has_blocks = out->whole_blocks;
    out->has_values = kern->has_float_weights || !out->has_blocks;
    project(&(struct project_job){.kern = kern,
                                  .own = {.weight = gate_up,
                                          .bias = bias_values(gate_bias, out->col_count),
                                          .up_bias = bias_values(up_bias, out->col_count),
                                          .col_first = out->col_first},
                                  .input = make_input(kern, x, NULL, row_count, norm, gate_up, PLAIN),
                                  .row_count = row_count,
                                  .out = out,
                                  .finish = finish_gate_up});
}
