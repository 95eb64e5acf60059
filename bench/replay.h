/* SPDX-License-Identifier: Apache-2.0 */
/* replay - a trace of requests against the prefix index, and what the best of all orders would have kept.
 *
 * A trace is a file of lines {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]} (the
 * form of Mooncake's): each id names a block of the prompt together with all before it. Here a block is one page, whose
 * PAGE_TOKENS ids follow from the block's, so that pool, index and order of eviction are those of the daemon. */
#ifndef KVASIR_BENCH_REPLAY_H
#define KVASIR_BENCH_REPLAY_H

#include <stdint.h>

#include "common/base/err.h"
#include "daemon/leaves.h"

struct trace_request {
    uint64_t arrival_ns;
    uint32_t prompt_tokens, output_tokens;
    uint32_t block_first, block_count; // in the trace's blocks
};

struct trace {
    struct trace_request *requests;                // owned, (request_count), by arrival
    uint32_t *blocks;                              // owned, (block_count)
    uint32_t request_count, block_count, id_count; // ids are below id_count
};

/* Adds one line. ERR_FORMAT, ERR_LIMIT, -ENOMEM. */
int trace_line(struct trace *trace, const char *line, struct err *err);
int trace_open(const char *path, struct trace *ret_trace, struct err *err); // reads the file whole
void trace_free(struct trace *trace);                                       // a zeroed one is fine

struct replay_conf {
    uint32_t page_count; // of the pool
    enum leaves_order order;
    /* How long a request holds its pages: its prompt's tokens that were not cached, and its output's. Both 0: it is
     * over before the next arrives. */
    uint64_t prompt_token_ns, output_token_ns;
};

struct replay_result {
    uint64_t hits;      // blocks found
    uint64_t evictions; // pages
    uint64_t wall_ns;   // of the whole replay
    uint64_t late;      // requests that waited for pages of others
};

/* A request takes the pages that are cached from its first block on, and computes all others. It waits, and with it
 * all later ones, while the pool has no room; blocks past the whole pool are not kept. */
int replay_run(const struct trace *trace, const struct replay_conf *conf, struct replay_result *ret_result,
               struct err *err);

/* Nanoseconds of prefix_key and prefix_find for a token, all of the trace's prompts looked up in an index of
 * page_count pages. */
int replay_lookup(const struct trace *trace, uint32_t page_count, double *ret_token_ns, struct err *err);

/* Blocks found by an order that knows the future, only prefixes counting and only leaves leaving: the page that is
 * wanted last goes first, and one that would be wanted later than all others is not kept. No time: as replay_run with
 * both times 0. */
int replay_bound(const struct trace *trace, uint32_t page_count, uint64_t *ret_hits);

#endif
