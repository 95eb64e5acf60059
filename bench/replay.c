/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "daemon/prefix.h"

enum { RUNNING_MAX = 4096, LOOKUP_ROUNDS = 4 };

struct running {
    uint64_t end_ns;
    uint32_t *pages; // owned, (page_count)
    uint32_t page_count;
};

struct replay {
    const struct trace *trace;
    struct replay_conf conf;
    void *meta; // owned
    struct pool *pool;
    struct prefix *prefix;
    struct running running[RUNNING_MAX];
    uint32_t running_count;
    uint64_t now_ns;
    struct replay_result result;
};

static void block_tokens(uint32_t id, uint32_t tokens[PAGE_TOKENS])
{
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) tokens[i] = id * 31 + i;
}

static void replay_done(struct replay *replay)
{
    for (uint32_t i = 0; i < replay->running_count; i++) free(replay->running[i].pages);
    prefix_free(replay->prefix);
    pool_free(replay->pool);
    free(replay->meta);
}

/* Pool and index on plain memory, without payload. */
static int replay_init(struct replay *replay, const struct trace *trace, const struct replay_conf *conf,
                       struct err *err)
{
    struct pool_geometry geometry = {
        .page_count = conf->page_count, .page_tokens = PAGE_TOKENS, .rank_count = 1};
    struct pool_owner owner = {.pid = 1, .start = 1, .epoch = 1};
    int r = pool_geometry_verify(&geometry, err);
    if (r < 0) return r;
    memset(replay, 0, sizeof *replay);
    replay->trace = trace;
    replay->conf = *conf;
    size_t bytes = pool_meta_bytes(&geometry);
    if (posix_memalign(&replay->meta, 4096, bytes) != 0) return ERR(err, -ENOMEM, "out of memory");
    memset(replay->meta, 0, bytes);
    r = pool_format(replay->meta, bytes, &geometry, &owner, &replay->pool, err);
    if (r == 0) r = prefix_new_ordered(replay->pool, conf->order, &replay->prefix);
    if (r < 0) replay_done(replay);
    return r;
}

/* Ends the one that ends first. */
static void running_end(struct replay *replay)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < replay->running_count; i++)
        if (replay->running[i].end_ns < replay->running[first].end_ns) first = i;
    struct running *running = &replay->running[first];
    if (running->end_ns > replay->now_ns) replay->now_ns = running->end_ns;
    for (uint32_t i = running->page_count; i-- > 0;) // last first, as the scheduler does
        prefix_release(replay->prefix, running->pages[i], running->end_ns);
    free(running->pages);
    *running = replay->running[--replay->running_count];
}

static uint64_t running_end_next(const struct replay *replay)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < replay->running_count; i++)
        if (replay->running[i].end_ns < next) next = replay->running[i].end_ns;
    return next;
}

/* A page for a block that is not cached, or PAGE_NONE when the request has all there are. */
static uint32_t page_add(struct replay *replay, const uint32_t *tokens, struct hash128 key, uint32_t parent)
{
    uint32_t page_idx;
    uint64_t sum = 0;
    while (pool_grant(replay->pool, replay->now_ns, &page_idx) < 0) {
        if (prefix_evict(replay->prefix) == 0) continue;
        if (replay->running_count == 0) return PAGE_NONE;
        running_end(replay);
        replay->result.late++;
    }
    pool_fill(replay->pool, page_idx, tokens, PAGE_TOKENS);
    prefix_seal(replay->prefix, page_idx, key, parent, &sum);
    return page_idx;
}

static int request_run(struct replay *replay, const struct trace_request *request)
{
    struct running *running = &replay->running[replay->running_count];
    const uint32_t *blocks = replay->trace->blocks + request->block_first;
    struct hash128 key = {0, 0};
    uint32_t parent = PAGE_NONE, tokens[PAGE_TOKENS], hits = 0, count = 0;
    uint32_t *pages = malloc((request->block_count + 1) * sizeof *pages);
    if (!pages) return -ENOMEM;
    for (uint32_t i = 0; i < request->block_count; i++) {
        block_tokens(blocks[i], tokens);
        key = prefix_key(key, tokens);
        uint32_t page_idx = hits == i ? prefix_find(replay->prefix, key, parent, tokens) : PAGE_NONE;
        if (page_idx != PAGE_NONE) {
            prefix_hold(replay->prefix, page_idx, replay->now_ns);
            hits++;
        } else {
            page_idx = page_add(replay, tokens, key, parent);
        }
        if (page_idx == PAGE_NONE) break;
        pages[count++] = parent = page_idx;
    }
    running = &replay->running[replay->running_count++]; // others may have ended meanwhile
    uint64_t computed = request->prompt_tokens -
                        (uint64_t)request->prompt_tokens * hits / request->block_count;
    *running = (struct running){
        .end_ns = replay->now_ns + computed * replay->conf.prompt_token_ns +
                  request->output_tokens * replay->conf.output_token_ns,
        .pages = pages,
        .page_count = count,
    };
    replay->result.hits += hits;
    return 0;
}

int replay_run(const struct trace *trace, const struct replay_conf *conf, struct replay_result *ret_result,
               struct err *err)
{
    struct replay *replay = malloc(sizeof *replay);
    if (!replay) return ERR(err, -ENOMEM, "out of memory");
    int r = replay_init(replay, trace, conf, err);
    if (r < 0) {
        free(replay);
        return r;
    }
    uint64_t start_ns = clock_mono_ns();
    for (uint32_t i = 0; r == 0 && i < trace->request_count; i++) {
        const struct trace_request *request = &trace->requests[i];
        while (running_end_next(replay) <= request->arrival_ns || replay->running_count == RUNNING_MAX)
            running_end(replay);
        if (request->arrival_ns > replay->now_ns) replay->now_ns = request->arrival_ns;
        r = request_run(replay, request);
        if (r < 0) (void)ERR(err, r, "out of memory");
        if (conf->prompt_token_ns == 0 && conf->output_token_ns == 0) running_end(replay);
    }
    while (r == 0 && replay->running_count > 0) running_end(replay);
    replay->result.wall_ns = clock_mono_ns() - start_ns;
    replay->result.evictions = prefix_evictions(replay->prefix);
    if (r == 0) r = prefix_check(replay->prefix, err);
    if (r == 0) *ret_result = replay->result;
    replay_done(replay);
    free(replay);
    return r;
}

/* ---- lookup ---- */

static uint64_t lookup_all(const struct replay *replay, const uint32_t *tokens)
{
    uint64_t hits = 0;
    for (uint32_t i = 0; i < replay->trace->request_count; i++) {
        const struct trace_request *request = &replay->trace->requests[i];
        struct hash128 key = {0, 0};
        uint32_t parent = PAGE_NONE;
        for (uint32_t b = 0; b < request->block_count; b++) {
            const uint32_t *page = tokens + (size_t)(request->block_first + b) * PAGE_TOKENS;
            key = prefix_key(key, page);
            parent = prefix_find(replay->prefix, key, parent, page);
            hits += parent != PAGE_NONE;
        }
    }
    return hits;
}

int replay_lookup(const struct trace *trace, uint32_t page_count, double *ret_token_ns, struct err *err)
{
    struct replay_conf conf = {.page_count = page_count};
    struct replay *replay = malloc(sizeof *replay);
    uint32_t *tokens = malloc((size_t)trace->block_count * PAGE_TOKENS * sizeof *tokens);
    int r = replay && tokens ? replay_init(replay, trace, &conf, err) : -ENOMEM;
    if (r < 0) {
        free(replay);
        free(tokens);
        return r;
    }
    for (uint32_t i = 0; i < trace->block_count; i++)
        block_tokens(trace->blocks[i], tokens + (size_t)i * PAGE_TOKENS);
    for (uint32_t i = 0; r == 0 && i < trace->request_count; i++) {
        r = request_run(replay, &trace->requests[i]);
        if (r == 0) running_end(replay);
    }
    double best = 0;
    uint64_t hits = 0;
    for (int round = 0; r == 0 && round < LOOKUP_ROUNDS; round++) {
        uint64_t start_ns = clock_mono_ns();
        hits += lookup_all(replay, tokens);
        double token_ns = (double)(clock_mono_ns() - start_ns) / ((double)trace->block_count * PAGE_TOKENS);
        if (round == 0 || token_ns < best) best = token_ns;
    }
    if (r == 0 && hits == 0) r = ERR(err, ERR_FORMAT, "no block of the trace is in the index");
    if (r == 0) *ret_token_ns = best;
    replay_done(replay);
    free(replay);
    free(tokens);
    return r;
}
