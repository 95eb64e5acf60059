/* SPDX-License-Identifier: Apache-2.0 */
/* attend - attention of a step, cut into pieces for the team.
 *
 * A tile is up to QUERIES_MAX query rows of one sequence that share a KV head (rows x heads of the group). A
 * span is a tile and a range of its keys, a unit a span and KV head, a piece a run of units that one thread
 * takes: pieces cost about the same, and within one the next unit's pages are asked for early.
 *
 * A tile that is worth more than a thread's share is cut into spans at blocks of KEY_BLOCK keys. Each unit then
 * leaves the softmax states of its blocks, and whoever finishes the last unit of (tile, KV head) merges them in
 * the order of keys, which is what an uncut unit does inside, bit for bit. */
#include <stdatomic.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/cpu/machine.h"

enum {
    PIECES_A_THREAD = 8,
    SPAN_KEYS_MIN = 2 * KEY_BLOCK, // shorter is not worth the merging
    QUERY_COST = 8,                // reading keys costs about as much as this many queries on them
    PARTIALS_BYTES = 64 << 20,     // bound on what cut tiles leave; beyond it tiles stay whole
    KEY_ALIGN = 16, // of the first key that is read: pages and chunks of the kernels are multiples
    UNCUT = -1,
};

struct attend_tile {
    uint32_t seq, row_first, row_count;
    uint32_t key_first, key_end; // what its rows see; the first rounded down to KEY_ALIGN
    int32_t cut;                 // which of the cut tiles, or UNCUT
    size_t partials; // a cut tile's first float in plan->partials: (kv heads, blocks, see partial_of)
};

struct attend_span {
    uint32_t tile, key_first, key_end;
};

struct attend_plan {
    uint32_t tile_count, span_count, piece_count, cut_count;
    uint32_t spans_max, pieces_max, cuts_max;
    struct attend_tile *tiles; // (rows_max)
    struct attend_span *spans; // (spans_max)
    uint32_t *pieces;          // (pieces_max + 1): first unit of each
    float *partials;           // (PARTIALS_BYTES)
    size_t partial_floats;     // of them in use
    /* (cuts_max, kv heads): units still to be done. A finisher subtracts with acq_rel: whoever takes the last
     * sees what all have written. */
    _Atomic uint32_t *left;
};

struct attend_job {
    struct kern *kern;
    const struct kern_batch *batch;
    struct kern_rows *qkv, *out;
    struct kern_attend_options options;
    uint32_t layer;
    uint32_t group; // query heads of a KV head
};

int machine_attend_init(struct kern *kern, struct err *err)
{
    const struct kern_conf *conf = &kern->conf;
    const uint32_t share = PIECES_A_THREAD * team_threads(kern->team);
    const size_t heads = conf->head_count_kv;
    struct attend_plan *plan;
    void *memory, *tiles, *spans, *pieces, *left, *partials;
    size_t rows = conf->rows_max, spans_max = rows + 2 * share, pieces_max = share + 1;
    int r = machine_memory(kern, sizeof(*plan), &memory, err);
    if (r >= 0) r = machine_memory(kern, rows * sizeof(*plan->tiles), &tiles, err);
    if (r >= 0) r = machine_memory(kern, spans_max * sizeof(*plan->spans), &spans, err);
    if (r >= 0) r = machine_memory(kern, (pieces_max + 1) * sizeof(*plan->pieces), &pieces, err);
    if (r >= 0) r = machine_memory(kern, share * heads * sizeof(*plan->left), &left, err);
    if (r >= 0) r = machine_memory(kern, PARTIALS_BYTES, &partials, err);
    if (r < 0) return r;
    plan = memory;
    *plan = (struct attend_plan){.spans_max = (uint32_t)spans_max,
                                 .pieces_max = (uint32_t)pieces_max,
                                 .cuts_max = share,
                                 .tiles = tiles,
                                 .spans = spans,
                                 .pieces = pieces,
                                 .partials = partials,
                                 .left = left};
    kern->plan = plan;
    return 0;
}

/* ---- the plan */

/* The first key to be read for queries from `position` on. */
static uint32_t first_key(const struct attend_job *job, uint32_t position)
{
    const uint32_t window = job->options.window;
    if (window == 0 || position < window) return 0;
    return (position - window + 1) / KEY_ALIGN * KEY_ALIGN;
}

static uint32_t query_count(const struct attend_job *job, const struct attend_tile *tile)
{
    return tile->row_count * job->group;
}

/* Of one unit, in keys of one query. */
static uint64_t cost_of(const struct attend_job *job, const struct attend_tile *tile, uint32_t keys)
{
    return (uint64_t)keys * (QUERY_COST + query_count(job, tile));
}

/* Fills the tiles; returns the cost of all units. */
static uint64_t plan_tiles(const struct attend_job *job, struct attend_plan *plan)
{
    const struct kern_batch *batch = job->batch;
    const uint32_t rows_a_tile = QUERIES_MAX / job->group;
    uint64_t cost = 0;
    plan->tile_count = 0;
    for (uint32_t s = 0; s < batch->seq_count; s++) {
        const struct kern_seq *seq = &batch->seqs[s];
        CHECK(seq->row_first + seq->row_count <= batch->row_count);
        for (uint32_t r = 0; r < seq->row_count; r += rows_a_tile) {
            uint32_t left = seq->row_count - r, rows = left < rows_a_tile ? left : rows_a_tile;
            CHECK(plan->tile_count < job->kern->conf.rows_max);
            struct attend_tile *tile = &plan->tiles[plan->tile_count++];
            *tile = (struct attend_tile){.seq = s,
                                         .row_first = seq->row_first + r,
                                         .row_count = rows,
                                         .key_first = first_key(job, seq->pos_first + r),
                                         .key_end = seq->pos_first + r + rows,
                                         .cut = UNCUT};
            cost += cost_of(job, tile, tile->key_end - tile->key_first) * job->kern->conf.head_count_kv;
        }
    }
    return cost;
}

/* Floats that a block of a cut tile leaves for one KV head: states, then values, of its queries. */
static size_t block_floats(const struct attend_job *job, const struct attend_tile *tile)
{
    return (size_t)query_count(job, tile) * (2 + job->kern->conf.head_dims);
}

/* Blocks that the keys [key_first, key_end) lie in. */
static size_t blocks_between(uint32_t key_first, uint32_t key_end)
{
    return (key_end + KEY_BLOCK - 1) / KEY_BLOCK - key_first / KEY_BLOCK;
}

static size_t blocks_of(const struct attend_tile *tile)
{
    return blocks_between(tile->key_first, tile->key_end);
}

static void add_span(struct attend_plan *plan, uint32_t tile, uint32_t key_first, uint32_t key_end)
{
    CHECK(plan->span_count < plan->spans_max);
    plan->spans[plan->span_count++] = (struct attend_span){tile, key_first, key_end};
}

/* Adds the spans of a tile: one, or several of about `share` each. */
static void cut_tile(const struct attend_job *job, struct attend_plan *plan, uint32_t t, uint64_t share)
{
    struct attend_tile *tile = &plan->tiles[t];
    const uint32_t kv_count = job->kern->conf.head_count_kv;
    const size_t floats = kv_count * blocks_of(tile) * block_floats(job, tile);
    const size_t floats_max = PARTIALS_BYTES / sizeof(float);
    const uint64_t blocks = share / cost_of(job, tile, KEY_BLOCK) + 1;
    const uint32_t base = tile->key_first / KEY_BLOCK * KEY_BLOCK; // spans are cut at blocks
    uint32_t keys = tile->key_end - base;
    if (blocks < blocks_of(tile)) keys = (uint32_t)blocks * KEY_BLOCK;
    if (keys < SPAN_KEYS_MIN) keys = SPAN_KEYS_MIN;
    if (team_threads(job->kern->team) == 1 || keys >= tile->key_end - tile->key_first ||
        plan->cut_count == plan->cuts_max || floats > floats_max - plan->partial_floats) {
        add_span(plan, t, tile->key_first, tile->key_end);
        return;
    }
    uint32_t spans = 0;
    for (uint32_t key = base; key < tile->key_end; key += keys, spans++)
        add_span(plan, t, key > tile->key_first ? key : tile->key_first,
                 tile->key_end - key < keys ? tile->key_end : key + keys);
    tile->cut = (int32_t)plan->cut_count++;
    tile->partials = plan->partial_floats;
    plan->partial_floats += floats;
    for (uint32_t h = 0; h < kv_count; h++)
        atomic_store_explicit(&plan->left[(uint32_t)tile->cut * kv_count + h], spans,
                              memory_order_relaxed); // team_run orders it before the pieces
}

/* Tiles, spans, and pieces of about equal cost. The last tiles of a prompt see the most keys: they go first, so
 * that no thread is left with a long piece at the end. */
static void make_plan(const struct attend_job *job, struct attend_plan *plan)
{
    const uint32_t kv_count = job->kern->conf.head_count_kv;
    const uint64_t share = plan_tiles(job, plan) / (PIECES_A_THREAD * team_threads(job->kern->team)) + 1;
    uint64_t cost = share; // of the open piece: full
    plan->span_count = plan->cut_count = plan->piece_count = 0;
    plan->partial_floats = 0;
    for (uint32_t t = plan->tile_count; t-- > 0;) cut_tile(job, plan, t, share);
    for (uint32_t u = 0; u < plan->span_count * kv_count; u++) {
        const struct attend_span *span = &plan->spans[u / kv_count];
        if (cost >= share) {
            CHECK(plan->piece_count < plan->pieces_max);
            plan->pieces[plan->piece_count++] = u;
            cost = 0;
        }
        cost += cost_of(job, &plan->tiles[span->tile], span->key_end - span->key_first);
    }
    plan->pieces[plan->piece_count] = plan->span_count * kv_count;
}

/* ---- the pieces */

static struct cpu_attend describe(const struct attend_job *job, uint32_t unit)
{
    const struct kern_conf *conf = &job->kern->conf;
    const struct attend_plan *plan = job->kern->plan;
    const struct attend_span *span = &plan->spans[unit / conf->head_count_kv];
    const struct attend_tile *tile = &plan->tiles[span->tile];
    const struct kern_seq *seq = &job->batch->seqs[tile->seq];
    const uint32_t kv_head = unit % conf->head_count_kv;
    return (struct cpu_attend){
        .queries = job->qkv->values + (size_t)tile->row_first * job->qkv->cols +
                   (size_t)kv_head * job->group * conf->head_dims,
        .query_stride = job->qkv->cols,
        .row_count = tile->row_count,
        .group = job->group,
        .head_dims = conf->head_dims,
        .pos_first = seq->pos_first + (tile->row_first - seq->row_first),
        .window = job->options.window,
        .softcap = job->options.softcap,
        .key_first = span->key_first,
        .key_end = span->key_end,
        .pages = seq->pages,
        .payload = machine_payload(job->kern, 0, job->layer, kv_head),
        .page_bytes = conf->cache.page_bytes,
        .page_tokens = conf->cache.page_tokens,
        .kv_type = (enum kern_kv)conf->cache.kv_type,
    };
}

/* Query i of a tile is done: its sink, then values / sum to the output row, in the shapes its reader wants. A sink is
 * the last key, with a value of zeros. */
static void finish_query(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head,
                         uint32_t i, struct cpu_softmax *state, float *values)
{
    static const float zeros[HEAD_DIMS_MAX];
    struct kern *kern = job->kern;
    struct kern_rows *out = job->out;
    uint32_t dims = kern->conf.head_dims;
    uint32_t row = tile->row_first + i / job->group;
    uint32_t col = (kv_head * job->group + i % job->group) * dims;
    float head[HEAD_DIMS_MAX];
    float *to = out->has_values ? out->values + (size_t)row * out->cols + col : head;
    if (job->options.sinks != NULL) {
        float sink = job->options.sinks->values[kv_head * job->group + i % job->group];
        kern->level->merge(state, values, &(struct cpu_softmax){.max = sink * LOG2_E, .sum = 1}, zeros, dims);
    }
    kern->level->divide(values, state->sum, dims, to);
    if (kern->conf.cache.kv_type == KERN_KV_Q4) machine_turn(to, dims);
    if (out->has_blocks)
        kern->level->quantize(to, dims / BLOCK_COLS,
                              out->blocks + (size_t)row * out->block_count + col / BLOCK_COLS);
}

/* What block `block` of a cut tile left, or will: the states, then the values, of its queries. */
static struct cpu_softmax *partial_of(const struct attend_job *job, const struct attend_tile *tile,
                                      uint32_t kv_head, size_t block)
{
    size_t index = kv_head * blocks_of(tile) + block;
    float *partial = job->kern->plan->partials + tile->partials + index * block_floats(job, tile);
    return (struct cpu_softmax *)(void *)partial;
}

static void merge_tile(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head)
{
    const uint32_t queries = query_count(job, tile), dims = job->kern->conf.head_dims;
    struct cpu_softmax *states = partial_of(job, tile, kv_head, 0);
    float *values = (float *)(void *)(states + queries);
    for (size_t b = 1; b < blocks_of(tile); b++) {
        const struct cpu_softmax *more = partial_of(job, tile, kv_head, b);
        const float *more_values = (const float *)(const void *)(more + queries);
        for (uint32_t i = 0; i < queries; i++)
            job->kern->level->merge(&states[i], values + (size_t)i * dims, &more[i],
                                    more_values + (size_t)i * dims, dims);
    }
    for (uint32_t i = 0; i < queries; i++)
        finish_query(job, tile, kv_head, i, &states[i], values + (size_t)i * dims);
}

/* A unit of a cut tile: a state for each block. */
static void attend_part(const struct attend_job *job, struct cpu_attend *attend,
                        const struct attend_tile *tile, uint32_t kv_head)
{
    struct attend_plan *plan = job->kern->plan;
    const struct cpu_attend *then = attend->then;
    const uint32_t key_end = attend->key_end;
    while (attend->key_first < key_end) {
        size_t block = blocks_between(tile->key_first, attend->key_first + 1) - 1;
        struct cpu_softmax *states = partial_of(job, tile, kv_head, block);
        struct cpu_attend rest = *attend;
        rest.key_first = (attend->key_first / KEY_BLOCK + 1) * KEY_BLOCK;
        rest.key_end = key_end;
        bool last = rest.key_first >= key_end;
        attend->key_end = last ? key_end : rest.key_first;
        attend->then = last ? then : &rest;
        job->kern->level->attend(attend, states, (float *)(void *)(states + query_count(job, tile)));
        attend->key_first = rest.key_first;
    }
    _Atomic uint32_t *left = &plan->left[(uint32_t)tile->cut * job->kern->conf.head_count_kv + kv_head];
    if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) == 1) merge_tile(job, tile, kv_head);
}

/* What finish_query will write of a tile. */
static void expect_tile(const struct attend_job *job, const struct attend_tile *tile, uint32_t kv_head)
{
    const struct kern_rows *out = job->out;
    if (!out->has_blocks) return;
    const size_t blocks = job->group * job->kern->conf.head_dims / BLOCK_COLS;
    machine_expect(out->blocks + (size_t)tile->row_first * out->block_count + kv_head * blocks,
                   out->block_count * sizeof(*out->blocks), blocks * sizeof(*out->blocks), tile->row_count);
}

static void attend_piece(void *arg, uint32_t piece)
{
    const struct attend_job *job = arg;
    const struct attend_plan *plan = job->kern->plan;
    const uint32_t kv_count = job->kern->conf.head_count_kv, dims = job->kern->conf.head_dims;
    const uint32_t unit_count = plan->span_count * kv_count;
    struct cpu_softmax states[QUERIES_MAX];
    _Alignas(64) float values[QUERIES_MAX * HEAD_DIMS_MAX];
    struct cpu_attend next = describe(job, plan->pieces[piece]);
    for (uint32_t unit = plan->pieces[piece]; unit < plan->pieces[piece + 1]; unit++) {
        const struct attend_tile *tile = &plan->tiles[plan->spans[unit / kv_count].tile];
        struct cpu_attend attend = next;
        /* Past the piece's end this is a guess: pieces are handed out in order. */
        if (unit + 1 < unit_count) next = describe(job, unit + 1);
        attend.then = unit + 1 < unit_count ? &next : NULL;
        expect_tile(job, tile, unit % kv_count);
        if (tile->cut != UNCUT) {
            attend_part(job, &attend, tile, unit % kv_count);
            continue;
        }
        job->kern->level->attend(&attend, states, values);
        for (uint32_t i = 0; i < query_count(job, tile); i++)
            finish_query(job, tile, unit % kv_count, i, &states[i], values + (size_t)i * dims);
    }
}

void machine_attend(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                    struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out)
{
    const struct kern_conf *conf = &kern->conf;
    const struct kern_attend_options plain = {0};
    if (options == NULL) options = &plain;
    CHECK(options->softcap >= 0);
    if (options->sinks != NULL) CHECK(options->sinks->count == conf->head_count);
    CHECK(layer < conf->cache.layer_count);
    CHECK(qkv->has_values && qkv->cols == (conf->head_count + 2 * conf->head_count_kv) * conf->head_dims);
    CHECK(out->cols == conf->head_count * conf->head_dims);
    CHECK(batch->row_count <= conf->rows_max && batch->row_count <= qkv->row_count &&
          batch->row_count <= out->row_count);
    if (batch->row_count == 0) return;
    struct attend_job job = {.kern = kern,
                             .batch = batch,
                             .qkv = qkv,
                             .out = out,
                             .options = *options,
                             .layer = layer,
                             .group = conf->head_count / conf->head_count_kv};
    out->has_blocks = conf->head_dims % BLOCK_COLS == 0;
    out->has_values = kern->has_float_weights || !out->has_blocks;
    machine_kv_write(kern, layer, qkv, batch);
    make_plan(&job, kern->plan);
    team_run(kern->team, attend_piece, &job, kern->plan->piece_count);
}
