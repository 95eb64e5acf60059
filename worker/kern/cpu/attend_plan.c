/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/kern/cpu/attend_plan.h"

#include <string.h>

#include "common/base/check.h"

enum {
    PIECES_A_THREAD = 8,
    QUERY_COST = 8,            // reading keys costs about as much as this many queries on them
    PARTIALS_BYTES = 64 << 20, // bound on what cut tiles leave; beyond it tiles stay whole
    KEY_ALIGN = 16,            // of the first key that is read: pages and chunks of the kernels are multiples
    SHARED_BLOCKS_MIN = 1,
    SHARED_BLOCKS_MAX = 1024, // of the longest prefix that is shared
};

int machine_attend_init(struct kern *kern, struct err *err)
{
    const struct kern_conf *conf = &kern->conf;
    const size_t share = PIECES_A_THREAD * team_threads(kern->team), rows = conf->rows_max;
    const size_t tiles = rows + rows / 2, spans = tiles + 2 * share, pieces = share + 1, cuts = share + tiles;
    struct attend_plan *plan;
    void *memory;
    int r = machine_memory(kern, sizeof(*plan), &memory, err);
    if (r < 0) return r;
    plan = memory;
    kern->plan = plan;
    plan->heads_count = 16;
    while (plan->heads_count < rows) plan->heads_count *= 2;
    const struct {
        void *at; // of a pointer in plan
        size_t bytes;
    } parts[] = {
        {&plan->tiles, tiles * sizeof(*plan->tiles)},
        {&plan->spans, spans * sizeof(*plan->spans)},
        {&plan->pieces, (pieces + 1) * sizeof(*plan->pieces)},
        {&plan->left, cuts * conf->head_count_kv * sizeof(*plan->left)},
        {&plan->members, rows * sizeof(*plan->members)},
        {&plan->rows, rows * sizeof(*plan->rows)},
        {&plan->next, rows * sizeof(*plan->next)},
        {&plan->heads, plan->heads_count * sizeof(*plan->heads)},
        {&plan->partials, PARTIALS_BYTES},
    };
    for (size_t i = 0; i < COUNT_OF(parts) && r >= 0; i++) {
        r = machine_memory(kern, parts[i].bytes, &memory, err);
        if (r >= 0) memcpy(parts[i].at, &memory, sizeof(memory));
    }
    plan->tiles_max = (uint32_t)tiles;
    plan->spans_max = (uint32_t)spans;
    plan->pieces_max = (uint32_t)pieces;
    plan->cuts_max = (uint32_t)cuts;
    return r;
}

/* ---- tiles */

/* The first key to be read for queries from `position` on. */
static uint32_t first_key(const struct attend_job *job, uint32_t position)
{
    const uint32_t window = job->options.window;
    if (window == 0 || position < window) return 0;
    return (position - window + 1) / KEY_ALIGN * KEY_ALIGN;
}

static struct attend_tile *add_tile(struct attend_plan *plan)
{
    CHECK(plan->tile_count < plan->tiles_max);
    struct attend_tile *tile = &plan->tiles[plan->tile_count++];
    *tile = (struct attend_tile){.cut = UNCUT, .shared = TILE_NONE};
    return tile;
}

static void plan_tiles(const struct attend_job *job, struct attend_plan *plan)
{
    const struct kern_batch *batch = job->batch;
    const uint32_t rows_a_tile = QUERIES_MAX / job->group;
    plan->tile_count = 0;
    for (uint32_t s = 0; s < batch->seq_count; s++) {
        const struct kern_seq *seq = &batch->seqs[s];
        CHECK(seq->row_first + seq->row_count <= batch->row_count);
        for (uint32_t r = 0; r < seq->row_count; r += rows_a_tile) {
            uint32_t left = seq->row_count - r;
            struct attend_tile *tile = add_tile(plan);
            tile->seq = s;
            tile->row_first = seq->row_first + r;
            tile->row_count = left < rows_a_tile ? left : rows_a_tile;
            tile->key_first = first_key(job, seq->pos_first + r);
            tile->key_end = seq->pos_first + r + tile->row_count;
        }
    }
}

/* ---- sharing */

static const struct kern_seq *seq_of(const struct attend_job *job, const struct attend_tile *tile)
{
    return &job->batch->seqs[tile->seq];
}

/* Whether a shared tile may take a tile's keys: all of them are seen by all of its rows. */
static bool may_share(const struct attend_job *job, const struct attend_tile *tile)
{
    const struct kern_seq *seq = seq_of(job, tile);
    return seq->row_count == 1 && tile->shared == TILE_NONE &&
           seq->pos_first >= SHARED_BLOCKS_MIN * KEY_BLOCK;
}

/* Whole blocks of keys at the front of both that lie in the same pages. */
static uint32_t blocks_in_common(const struct attend_job *job, const struct attend_tile *a,
                                 const struct attend_tile *b)
{
    const struct kern_seq *one = seq_of(job, a), *other = seq_of(job, b);
    const uint32_t page_tokens = job->kern->conf.cache.page_tokens;
    uint32_t keys = one->pos_first < other->pos_first ? one->pos_first : other->pos_first, pages = 0;
    while (pages < keys / page_tokens && one->pages[pages] == other->pages[pages]) pages++;
    uint32_t blocks = pages * page_tokens / KEY_BLOCK;
    return blocks < SHARED_BLOCKS_MAX ? blocks : SHARED_BLOCKS_MAX;
}

/* Chains the tiles that may share by their first page, in order. */
static void chain_tiles(const struct attend_job *job, struct attend_plan *plan)
{
    memset(plan->heads, 0xFF, plan->heads_count * sizeof(*plan->heads));
    for (uint32_t t = plan->tile_count; t-- > 0;) {
        if (!may_share(job, &plan->tiles[t])) continue;
        uint32_t *head = &plan->heads[seq_of(job, &plan->tiles[t])->pages[0] & (plan->heads_count - 1)];
        plan->next[t] = *head;
        *head = t;
    }
}

/* Of a leader and its chain: how many blocks to share, so that most reads are saved. 0: none. */
static uint32_t best_share(const struct attend_job *job, const struct attend_plan *plan, uint32_t leader)
{
    uint32_t with[SHARED_BLOCKS_MAX + 1] = {0}; // others that have so many blocks in common with it
    uint32_t most = 0;
    for (uint32_t t = plan->next[leader]; t != UINT32_MAX; t = plan->next[t]) {
        if (!may_share(job, &plan->tiles[t])) continue;
        uint32_t blocks = blocks_in_common(job, &plan->tiles[leader], &plan->tiles[t]);
        with[blocks]++;
        if (blocks > most) most = blocks;
    }
    uint64_t saved = 0;
    uint32_t others = 0, best = 0;
    for (uint32_t blocks = most; blocks >= SHARED_BLOCKS_MIN; blocks--) {
        others += with[blocks];
        if ((uint64_t)others * blocks <= saved) continue;
        saved = (uint64_t)others * blocks;
        best = blocks;
    }
    return best;
}

/* Floats that a tile leaves when it is cut. */
static size_t cut_floats(const struct attend_job *job, const struct attend_tile *tile)
{
    return job->kern->conf.head_count_kv * attend_blocks_of(tile) * attend_block_floats(job, tile);
}

/* Makes a cut tile: room for what its blocks leave, and a place in `left`. false: there is none. */
static bool reserve_cut(const struct attend_job *job, struct attend_plan *plan, struct attend_tile *tile)
{
    const size_t floats = cut_floats(job, tile);
    if (plan->cut_count == plan->cuts_max) return false;
    if (floats > PARTIALS_BYTES / sizeof(float) - plan->partial_floats) return false;
    tile->cut = (int32_t)plan->cut_count++;
    tile->partials = plan->partial_floats;
    plan->partial_floats += floats;
    return true;
}

/* One shared tile of plan->members[first, first + count), which all begin with `blocks` blocks in common. false:
 * there is no room for what they leave. */
static bool add_shared(const struct attend_job *job, struct attend_plan *plan, uint32_t first, uint32_t count,
                       uint32_t blocks)
{
    struct attend_tile shared = {.seq = plan->tiles[plan->members[first]].seq,
                                 .row_count = count,
                                 .key_end = blocks * KEY_BLOCK,
                                 .is_shared = true,
                                 .member_first = first,
                                 .shared = TILE_NONE};
    size_t floats = cut_floats(job, &shared);
    for (uint32_t i = 0; i < count; i++) {
        struct attend_tile rest = plan->tiles[plan->members[first + i]];
        rest.key_first = shared.key_end;
        floats += cut_floats(job, &rest);
    }
    if (floats > PARTIALS_BYTES / sizeof(float) - plan->partial_floats) return false;
    CHECK(reserve_cut(job, plan, &shared));
    for (uint32_t i = 0; i < count; i++) {
        struct attend_tile *member = &plan->tiles[plan->members[first + i]];
        member->key_first = shared.key_end;
        member->shared = (int32_t)plan->tile_count;
        member->shared_row = i;
        CHECK(reserve_cut(job, plan, member));
    }
    *add_tile(plan) = shared;
    return true;
}

/* Takes those of a leader's chain that share `blocks` blocks with it into shared tiles. */
static bool gather(const struct attend_job *job, struct attend_plan *plan, uint32_t leader, uint32_t blocks)
{
    const uint32_t first = plan->member_count, rows_max = QUERIES_MAX / job->group;
    for (uint32_t t = leader; t != UINT32_MAX; t = plan->next[t]) {
        const struct attend_tile *tile = &plan->tiles[t];
        if (!may_share(job, tile)) continue;
        if (t != leader && blocks_in_common(job, &plan->tiles[leader], tile) < blocks) continue;
        plan->rows[plan->member_count] = tile->row_first;
        plan->members[plan->member_count++] = t;
    }
    uint32_t left = plan->member_count - first;
    for (uint32_t at = first, tiles = (left + rows_max - 1) / rows_max; tiles > 0; tiles--) {
        uint32_t count = (left + tiles - 1) / tiles;
        if (!add_shared(job, plan, at, count, blocks)) return false;
        at += count;
        left -= count;
    }
    return true;
}

/* Shared tiles come behind the others. Not with a window: then blocks are not seen whole. */
static void share_prefixes(const struct attend_job *job, struct attend_plan *plan)
{
    const uint32_t tile_count = plan->tile_count;
    plan->member_count = 0;
    if (job->options.window > 0 || tile_count < 2 || QUERIES_MAX / job->group < 2) return;
    chain_tiles(job, plan);
    for (uint32_t t = 0; t < tile_count; t++) {
        if (!may_share(job, &plan->tiles[t]) || plan->next[t] == UINT32_MAX) continue;
        uint32_t blocks = best_share(job, plan, t);
        if (blocks > 0 && !gather(job, plan, t, blocks)) return;
    }
}

/* ---- spans and pieces */

/* Of one unit, in keys of one query. */
static uint64_t cost_of(const struct attend_job *job, const struct attend_tile *tile, uint32_t keys)
{
    return (uint64_t)keys * (QUERY_COST + attend_query_count(job, tile));
}

static void add_span(struct attend_plan *plan, uint32_t t, uint32_t key_first, uint32_t key_end)
{
    CHECK(plan->span_count < plan->spans_max);
    plan->spans[plan->span_count++] = (struct attend_span){t, key_first, key_end};
    plan->tiles[t].span_count++;
}

/* Adds the spans of a tile: one, or several of about `share` each. */
static void cut_tile(const struct attend_job *job, struct attend_plan *plan, uint32_t t, uint64_t share)
{
    struct attend_tile *tile = &plan->tiles[t];
    const uint32_t kv_count = job->kern->conf.head_count_kv;
    /* Down to one block: three KV heads of 256 keys then suit two threads. */
    const uint64_t blocks = share / cost_of(job, tile, KEY_BLOCK) + 1;
    const uint32_t base = tile->key_first / KEY_BLOCK * KEY_BLOCK; // spans are cut at blocks
    uint32_t keys = tile->key_end - base;
    if (blocks < attend_blocks_of(tile)) keys = (uint32_t)blocks * KEY_BLOCK;
    const bool whole = team_threads(job->kern->team) == 1 || keys >= tile->key_end - tile->key_first;
    if (tile->cut == UNCUT && (whole || !reserve_cut(job, plan, tile))) {
        add_span(plan, t, tile->key_first, tile->key_end);
        return;
    }
    for (uint32_t key = base; key < tile->key_end; key += keys)
        add_span(plan, t, key > tile->key_first ? key : tile->key_first,
                 tile->key_end - key < keys ? tile->key_end : key + keys);
    uint32_t units = tile->span_count;
    if (tile->shared != TILE_NONE)
        units += plan->tiles[tile->shared].span_count; // cut before: it lies behind
    for (uint32_t h = 0; h < kv_count; h++)
        atomic_store_explicit(&plan->left[(uint32_t)tile->cut * kv_count + h], units,
                              memory_order_relaxed); // team_run orders it before the pieces
}

/* Shared tiles first, then the last tiles of a prompt, which see the most keys: so no thread is left with a long piece
 * at the end. */
void attend_plan_make(const struct attend_job *job)
{
    struct attend_plan *plan = job->kern->plan;
    const uint32_t kv_count = job->kern->conf.head_count_kv;
    plan->span_count = plan->cut_count = plan->piece_count = 0;
    plan->partial_floats = 0;
    plan_tiles(job, plan);
    share_prefixes(job, plan);
    uint64_t all = 0;
    for (uint32_t t = 0; t < plan->tile_count; t++)
        all += cost_of(job, &plan->tiles[t], plan->tiles[t].key_end - plan->tiles[t].key_first) * kv_count;
    const uint64_t share = all / (PIECES_A_THREAD * team_threads(job->kern->team)) + 1;
    uint64_t cost = share; // of the open piece: full
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
