/* SPDX-License-Identifier: Apache-2.0 */
/* metrics - counters, gauges and histograms under vLLM's names, so that routers, autoscalers and dashboards
 * that read vLLM read kvasird. Loop thread only; no locks, no clock of its own. */
#ifndef KVASIR_DAEMON_METRICS_H
#define KVASIR_DAEMON_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"

struct metrics; // opaque

enum metrics_finish { METRICS_STOP, METRICS_LENGTH, METRICS_ABORT, METRICS_ERROR };

struct metrics_request { // one finished choice
    enum metrics_finish finish;
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    uint32_t max_tokens; // 0: not given
    uint32_t n;
    uint64_t queue_ns, e2e_ns, prefill_ns, decode_ns;
};

struct metrics_engine { // a group of workers, which vLLM calls an engine
    bool is_ready;
    uint32_t running; // sequences that are its
    uint64_t steps, restarts;
};

struct metrics_gauges {                   // read at the time of rendering
    const struct metrics_engine *engines; // (engine_count), at least 1
    uint32_t engine_count;
    uint32_t waiting;                             // for any of them
    uint32_t page_tokens, page_count, pages_used; // used: held by running sequences
    uint32_t pages_retained, pages_pinned;        // by hints of requests, by the operator
    uint64_t prefix_queries, prefix_hits;         // tokens, since start
    uint64_t preemptions, evictions;
    uint64_t expired;                      // sequences whose deadline came
    uint32_t held;                         // of waiting: wait for pages that another computes
    uint64_t pages_checked, pages_corrupt; // hashed before they were read again; of which bad
    bool has_tier;                         // without one the next six are not told
    uint32_t tier_places, tier_pages;
    uint64_t tier_evictions, tier_pages_written, tier_pages_read, tier_pages_failed;
    uint64_t page_bytes;
    uint64_t http_requests, http_conns;
    const char *cache_dtype; // "f16"
};

/* model_name is copied. Buckets that follow the context end at model_len_max. */
int metrics_new(const char *model_name, uint32_t model_len_max, struct metrics **ret_metrics);
void metrics_free(struct metrics *metrics); // NULL is fine

void metrics_first_token(struct metrics *metrics, uint64_t since_arrival_ns); // time to first token
void metrics_next_token(struct metrics *metrics, uint64_t since_last_ns);     // inter-token latency
void metrics_request_done(struct metrics *metrics, const struct metrics_request *request);
void metrics_request_aborted(struct metrics *metrics); // the client went away
void metrics_request_failed(struct metrics *metrics);  // answered with an error
/* turn_ns: from its answer to the next plan; 0 when none followed. */
void metrics_step(struct metrics *metrics, uint32_t token_count, uint64_t step_ns, uint64_t turn_ns);
/* predicted_ns: what the step was expected to take; 0: nothing was known. prefill_count: its rows of prompts. */
void metrics_step_cost(struct metrics *metrics, uint32_t prefill_count, uint64_t predicted_ns,
                       uint64_t step_ns);
void metrics_worker_lost(struct metrics *metrics);

/* Prometheus text format 0.0.4. */
void metrics_render(const struct metrics *metrics, const struct metrics_gauges *gauges, struct buf *out);

#endif
