/* SPDX-License-Identifier: Apache-2.0 */
/* Names, labels and bucket lists are vLLM's (its metrics documentation and /metrics output), the deprecated
 * ones that routers still read included; what vLLM has no name for is under "kvasir:". Every series carries
 * model_name and engine, since selectors of dashboards and autoscalers name them: what is a group's own has a series
 * for each, and all that the groups share is engine="0"'s, so that sums over engines are what they are with one. */
#include "daemon/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"

enum { BOUNDS_MAX = 24, LABEL_BYTES_MAX = 1024 };

static const double first_token_s[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                       1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double token_s[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                 0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double request_s[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                   30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double step_s[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                0.1,    0.25,  0.5,    1,     2.5,  5,     10};
static const double turn_s[] = {0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005,
                                0.001,   0.002,   0.005,   0.01,   0.1};
static const double step_tokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double step_prefill[] = {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
static const double cost_ratio[] = {0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 2, 4, 10};
static const double choices[] = {1, 2, 5, 10, 20};

/* X(id, name, bounds, help); the bounds are evaluated in metrics_new. */
#define BOUNDS(array) bounds_of((array), sizeof(array))
#define HISTOGRAMS(X) \
    X(FIRST_TOKEN, "vllm:time_to_first_token_seconds", BOUNDS(first_token_s), \
      "Time from arrival to the first token.") \
    X(NEXT_TOKEN, "vllm:inter_token_latency_seconds", BOUNDS(token_s), "Time between two tokens.") \
    X(PER_TOKEN, "vllm:request_time_per_output_token_seconds", BOUNDS(token_s), \
      "Decode time of a request divided by its tokens after the first.") \
    X(E2E, "vllm:e2e_request_latency_seconds", BOUNDS(request_s), "Time from arrival to the end.") \
    X(QUEUE, "vllm:request_queue_time_seconds", BOUNDS(request_s), \
      "Time of a request before its first step.") \
    X(INFERENCE, "vllm:request_inference_time_seconds", BOUNDS(request_s), \
      "Time of a request in prefill and decode.") \
    X(PREFILL, "vllm:request_prefill_time_seconds", BOUNDS(request_s), "Time of a request in prefill.") \
    X(DECODE, "vllm:request_decode_time_seconds", BOUNDS(request_s), "Time of a request in decode.") \
    X(PROMPT_TOKENS, "vllm:request_prompt_tokens", bounds_1_2_5(model_len_max), \
      "Prompt tokens of a request.") \
    X(OUTPUT_TOKENS, "vllm:request_generation_tokens", bounds_1_2_5(model_len_max), \
      "Generated tokens of a request.") \
    X(OUTPUT_TOKENS_MAX, "vllm:request_max_num_generation_tokens", bounds_1_2_5(model_len_max), \
      "Generated tokens of a request, the most of its choices.") \
    X(PARAMS_MAX_TOKENS, "vllm:request_params_max_tokens", bounds_1_2_5(model_len_max), \
      "max_tokens of a request that gave it.") \
    X(PARAMS_N, "vllm:request_params_n", BOUNDS(choices), "n of a request.") \
    X(COMPUTED_TOKENS, "vllm:request_prefill_kv_computed_tokens", bounds_1_2_5(model_len_max), \
      "Prompt tokens of a request that were computed, not cached.") \
    X(STEP_TOKENS, "vllm:iteration_tokens_total", BOUNDS(step_tokens), "Tokens of a step.") \
    X(STEP, "kvasir:step_seconds", BOUNDS(step_s), "Time of a step in the worker.") \
    X(TURN, "kvasir:turn_seconds", BOUNDS(turn_s), \
      "Time from a step's answer to the next plan, when the worker waits for the daemon.") \
    X(STEP_PREFILL, "kvasir:step_prefill_tokens", BOUNDS(step_prefill), "Prompt tokens of a step.") \
    X(STEP_COST, "kvasir:step_cost_ratio", BOUNDS(cost_ratio), \
      "Time of a step in the worker by what it was expected to take.")

enum histogram_id {
#define X(id, name, bounds, help) HISTOGRAM_##id,
    HISTOGRAMS(X)
#undef X
        HISTOGRAM_COUNT
};

struct bounds {
    double at[BOUNDS_MAX]; // ascending
    unsigned count;
};

struct histogram {
    const char *name, *help;
    struct bounds bounds;
    uint64_t counts[BOUNDS_MAX + 1]; // [i]: in (bounds[i-1], bounds[i]]; the last one: above all bounds
    double sum;                      // seconds or tokens
};

enum { FINISH_COUNT = METRICS_ERROR + 1 };

struct metrics {
    char labels[LABEL_BYTES_MAX]; // model_name="...",engine="0", escaped
    uint64_t finished[FINISH_COUNT];
    uint64_t prompt_total, cached_total, output_total; // tokens
    uint64_t worker_deaths;
    struct histogram histograms[HISTOGRAM_COUNT];
};

/* ---- lifetime ---- */

static struct bounds bounds_1_2_5(double max)
{
    static const int digits[] = {1, 2, 5};
    struct bounds bounds = {.count = 0};
    double power = 1;
    for (unsigned i = 0; i < BOUNDS_MAX && digits[i % 3] * power <= max; i++) {
        bounds.at[bounds.count++] = digits[i % 3] * power;
        if (i % 3 == 2) power *= 10;
    }
    return bounds;
}

static struct bounds bounds_of(const double *at, size_t bytes)
{
    struct bounds bounds = {.count = (unsigned)(bytes / sizeof(*at))};
    CHECK(bytes <= sizeof(bounds.at));
    memcpy(bounds.at, at, bytes);
    return bounds;
}

/* Backslash, quote and newline are escaped in a label value; a name that does not fit is cut. */
static void put_labels(struct metrics *metrics, const char *model_name)
{
    static const char start[] = "model_name=\"", end[] = "\",engine=\"0\"";
    size_t at = sizeof(start) - 1, room = sizeof(metrics->labels) - sizeof(end);
    memcpy(metrics->labels, start, at);
    for (const char *c = model_name; *c && at + 2 <= room; c++) {
        if (*c == '\\' || *c == '"' || *c == '\n') metrics->labels[at++] = '\\';
        metrics->labels[at++] = *c == '\n' ? 'n' : *c;
    }
    memcpy(metrics->labels + at, end, sizeof(end));
}

int metrics_new(const char *model_name, uint32_t model_len_max, struct metrics **ret_metrics)
{
    struct metrics *metrics = calloc(1, sizeof(*metrics));
    if (!metrics) return -ENOMEM;
    put_labels(metrics, model_name);
#define X(id, metric_name, metric_bounds, metric_help) \
    metrics->histograms[HISTOGRAM_##id] = (struct histogram){ \
        .name = (metric_name), \
        .help = (metric_help), \
        .bounds = (metric_bounds), \
    };
    HISTOGRAMS(X)
#undef X
    *ret_metrics = metrics;
    return 0;
}

void metrics_free(struct metrics *metrics)
{
    free(metrics);
}

/* ---- collecting ---- */

static void observe(struct metrics *metrics, enum histogram_id id, double value)
{
    struct histogram *histogram = &metrics->histograms[id];
    unsigned i = 0;
    while (i < histogram->bounds.count && value > histogram->bounds.at[i]) i++;
    histogram->counts[i]++;
    histogram->sum += value;
}

static void observe_ns(struct metrics *metrics, enum histogram_id id, uint64_t ns)
{
    observe(metrics, id, (double)ns / (double)NS_PER_S);
}

void metrics_first_token(struct metrics *metrics, uint64_t since_arrival_ns)
{
    metrics->output_total++;
    observe_ns(metrics, HISTOGRAM_FIRST_TOKEN, since_arrival_ns);
}

void metrics_next_token(struct metrics *metrics, uint64_t since_last_ns)
{
    metrics->output_total++;
    observe_ns(metrics, HISTOGRAM_NEXT_TOKEN, since_last_ns);
}

void metrics_request_done(struct metrics *metrics, const struct metrics_request *request)
{
    CHECK(request->finish <= METRICS_ERROR);
    /* The hit of a request that came back from a preemption may cover generated tokens too. */
    uint32_t cached = request->cached_tokens < request->prompt_tokens ? request->cached_tokens
                                                                      : request->prompt_tokens;
    metrics->finished[request->finish]++;
    metrics->prompt_total += request->prompt_tokens;
    metrics->cached_total += cached;
    observe(metrics, HISTOGRAM_PROMPT_TOKENS, request->prompt_tokens);
    observe(metrics, HISTOGRAM_OUTPUT_TOKENS, request->output_tokens);
    observe(metrics, HISTOGRAM_OUTPUT_TOKENS_MAX, request->output_tokens);
    observe(metrics, HISTOGRAM_COMPUTED_TOKENS, request->prompt_tokens - cached);
    observe(metrics, HISTOGRAM_PARAMS_N, request->n);
    if (request->max_tokens) observe(metrics, HISTOGRAM_PARAMS_MAX_TOKENS, request->max_tokens);
    observe_ns(metrics, HISTOGRAM_E2E, request->e2e_ns);
    observe_ns(metrics, HISTOGRAM_QUEUE, request->queue_ns);
    observe_ns(metrics, HISTOGRAM_INFERENCE, request->prefill_ns + request->decode_ns);
    observe_ns(metrics, HISTOGRAM_PREFILL, request->prefill_ns);
    observe_ns(metrics, HISTOGRAM_DECODE, request->decode_ns);
    if (request->output_tokens > 1)
        observe_ns(metrics, HISTOGRAM_PER_TOKEN, request->decode_ns / (request->output_tokens - 1));
}

void metrics_request_aborted(struct metrics *metrics)
{
    metrics->finished[METRICS_ABORT]++;
}

void metrics_request_failed(struct metrics *metrics)
{
    metrics->finished[METRICS_ERROR]++;
}

void metrics_step(struct metrics *metrics, uint32_t token_count, uint64_t step_ns, uint64_t turn_ns)
{
    observe(metrics, HISTOGRAM_STEP_TOKENS, token_count);
    observe_ns(metrics, HISTOGRAM_STEP, step_ns);
    if (turn_ns > 0) observe_ns(metrics, HISTOGRAM_TURN, turn_ns);
}

void metrics_step_cost(struct metrics *metrics, uint32_t prefill_count, uint64_t predicted_ns,
                       uint64_t step_ns)
{
    observe(metrics, HISTOGRAM_STEP_PREFILL, prefill_count);
    if (predicted_ns > 0) observe(metrics, HISTOGRAM_STEP_COST, (double)step_ns / (double)predicted_ns);
}

void metrics_worker_lost(struct metrics *metrics)
{
    metrics->worker_deaths++;
}

/* ---- rendering, text format 0.0.4 ---- */

struct page {
    struct buf *out;
    const char *labels;
};

static void put_type(const struct page *page, const char *name, const char *type, const char *help)
{
    buf_printf(page->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* Values are counts (exact below 2^53) or shares: 17 digits give every double back. */
static void put_value(const struct page *page, const char *name, const char *more_labels, double value)
{
    buf_printf(page->out, "%s{%s%s%s} %.17g\n", name, page->labels, more_labels ? "," : "",
               more_labels ? more_labels : "", value);
}

enum engine_value { ENGINE_READY, ENGINE_RUNNING, ENGINE_STEPS, ENGINE_RESTARTS };

static double engine_value(const struct metrics_engine *engine, enum engine_value value)
{
    switch (value) {
    case ENGINE_READY: return engine->is_ready;
    case ENGINE_RUNNING: return engine->running;
    case ENGINE_STEPS: return (double)engine->steps;
    default: return (double)engine->restarts;
    }
}

/* A series for each group: the labels end in the number of the first. */
static void put_engines(const struct page *page, const struct metrics_gauges *gauges, const char *name,
                        const char *type, const char *help, enum engine_value value)
{
    int shared = (int)strlen(page->labels) - 2; // without 0"
    put_type(page, name, type, help);
    for (uint32_t i = 0; i < gauges->engine_count; i++)
        buf_printf(page->out, "%s{%.*s%u\"} %.17g\n", name, shared, page->labels, i,
                   engine_value(&gauges->engines[i], value));
}

static void put_counter(const struct page *page, const char *name, const char *help, uint64_t value)
{
    put_type(page, name, "counter", help);
    put_value(page, name, NULL, (double)value);
}

static void put_gauge(const struct page *page, const char *name, const char *help, double value)
{
    put_type(page, name, "gauge", help);
    put_value(page, name, NULL, value);
}

static void put_histogram(const struct page *page, const struct histogram *histogram, const char *name,
                          const char *help)
{
    uint64_t below = 0;
    put_type(page, name, "histogram", help);
    for (unsigned i = 0; i <= histogram->bounds.count; i++) {
        below += histogram->counts[i];
        buf_printf(page->out, "%s_bucket{%s,le=\"", name, page->labels);
        /* Prometheus clients write bounds as Python or Go would: 1.0, 0.005, +Inf. */
        if (i == histogram->bounds.count) buf_puts(page->out, "+Inf");
        else if (histogram->bounds.at[i] == (double)(uint64_t)histogram->bounds.at[i])
            buf_printf(page->out, "%.1f", histogram->bounds.at[i]);
        else buf_printf(page->out, "%g", histogram->bounds.at[i]);
        buf_printf(page->out, "\"} %llu\n", (unsigned long long)below);
    }
    buf_printf(page->out, "%s_sum{%s} %.17g\n%s_count{%s} %llu\n", name, page->labels, histogram->sum, name,
               page->labels, (unsigned long long)below);
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static void put_cache_config(const struct page *page, const struct metrics_gauges *gauges)
{
    put_type(page, "vllm:cache_config_info", "gauge", "Geometry of the page pool.");
    buf_printf(page->out,
               "vllm:cache_config_info{%s,block_size=\"%u\",num_gpu_blocks=\"%u\",cache_dtype=\"%s\","
               "enable_prefix_caching=\"True\"} 1\n",
               page->labels, gauges->page_tokens, gauges->page_count, gauges->cache_dtype);
}

static void put_gauges(const struct page *page, const struct metrics_gauges *gauges)
{
    double usage = share(gauges->pages_used, gauges->page_count);
    put_engines(page, gauges, "vllm:num_requests_running", "gauge", "Sequences in the batch.",
                ENGINE_RUNNING);
    put_engines(page, gauges, "kvasir:engine_ready", "gauge", "1 where the group's worker is there.",
                ENGINE_READY);
    put_gauge(page, "vllm:num_requests_waiting", "Sequences waiting for the batch.", gauges->waiting);
    put_gauge(page, "vllm:kv_cache_usage_perc", "Share of pages that sequences hold, 0 to 1.", usage);
    put_cache_config(page, gauges);
    put_gauge(page, "kvasir:kv_pages", "Pages of the pool.", gauges->page_count);
    put_gauge(page, "kvasir:kv_pages_used", "Pages that sequences hold.", gauges->pages_used);
    put_gauge(page, "kvasir:kv_pages_retained", "Pages kept before others by hints of requests.",
              gauges->pages_retained);
    put_gauge(page, "kvasir:kv_pages_pinned", "Pages of prefixes that the operator pinned.",
              gauges->pages_pinned);
    put_gauge(page, "kvasir:num_requests_held", "Of those waiting: for a prefix that another computes.",
              gauges->held);
    put_gauge(page, "kvasir:http_connections", "Open connections.", gauges->http_conns);
    /* Deprecated in vLLM and still read by routers. */
    put_gauge(page, "vllm:num_requests_swapped", "Always 0.", 0);
    put_gauge(page, "vllm:gpu_cache_usage_perc", "As vllm:kv_cache_usage_perc.", usage);
    put_gauge(page, "vllm:cpu_cache_usage_perc", "Always 0.", 0);
    put_gauge(page, "vllm:gpu_prefix_cache_hit_rate", "Prefix cache hits by queries since start.",
              share(gauges->prefix_hits, gauges->prefix_queries));
}

static void put_finished(const struct page *page, const struct metrics *metrics)
{
    static const char *const reasons[FINISH_COUNT] = {
        [METRICS_STOP] = "finished_reason=\"stop\"",
        [METRICS_LENGTH] = "finished_reason=\"length\"",
        [METRICS_ABORT] = "finished_reason=\"abort\"",
        [METRICS_ERROR] = "finished_reason=\"error\"",
    };
    put_type(page, "vllm:request_success_total", "counter", "Ended requests by the reason of their end.");
    for (int i = 0; i < FINISH_COUNT; i++)
        put_value(page, "vllm:request_success_total", reasons[i], (double)metrics->finished[i]);
}

static void put_tier(struct page *page, const struct metrics_gauges *gauges)
{
    put_gauge(page, "kvasir:tier_usage_perc", "Part of the cache file that holds pages, 1 is all.",
              (double)gauges->tier_pages / (double)gauges->tier_places);
    put_counter(page, "kvasir:tier_hits_total", "Prompt tokens fetched from the cache file.",
                gauges->tier_pages_read * gauges->page_tokens);
    put_counter(page, "kvasir:tier_read_bytes_total", "Bytes read from the cache file.",
                gauges->tier_pages_read * gauges->page_bytes);
    put_counter(page, "kvasir:tier_written_bytes_total", "Bytes written to the cache file.",
                gauges->tier_pages_written * gauges->page_bytes);
    put_counter(page, "kvasir:tier_evictions_total", "Pages evicted from the cache file.",
                gauges->tier_evictions);
    put_counter(page, "kvasir:tier_failures_total",
                "Pages of the cache file that could not be read or were damaged.", gauges->tier_pages_failed);
}

static void put_counters(const struct page *page, const struct metrics *metrics,
                         const struct metrics_gauges *gauges)
{
    put_counter(page, "vllm:prompt_tokens_total", "Prompt tokens of finished requests.",
                metrics->prompt_total);
    put_type(page, "vllm:prompt_tokens_by_source_total", "counter",
             "Prompt tokens by where their keys came from.");
    put_value(page, "vllm:prompt_tokens_by_source_total", "source=\"local_compute\"",
              (double)(metrics->prompt_total - metrics->cached_total));
    put_value(page, "vllm:prompt_tokens_by_source_total", "source=\"local_cache_hit\"",
              (double)metrics->cached_total);
    put_counter(page, "vllm:prompt_tokens_cached_total", "Prompt tokens found in the cache.",
                metrics->cached_total);
    put_counter(page, "vllm:generation_tokens_total", "Generated tokens.", metrics->output_total);
    put_finished(page, metrics);
    put_counter(page, "vllm:num_preemptions_total", "Preempted sequences.", gauges->preemptions);
    put_counter(page, "vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.",
                gauges->prefix_queries);
    put_counter(page, "vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.",
                gauges->prefix_hits);
    put_counter(page, "vllm:gpu_prefix_cache_queries_total", "As vllm:prefix_cache_queries_total.",
                gauges->prefix_queries);
    put_counter(page, "vllm:gpu_prefix_cache_hits_total", "As vllm:prefix_cache_hits_total.",
                gauges->prefix_hits);
    put_counter(page, "kvasir:page_evictions_total", "Pages evicted from the cache.", gauges->evictions);
    put_counter(page, "kvasir:requests_expired_total", "Sequences that did not finish before their deadline.",
                gauges->expired);
    put_counter(page, "kvasir:pages_checked_total",
                "Cached pages hashed at their first use after a restart of daemon or worker.",
                gauges->pages_checked);
    put_counter(page, "kvasir:pages_corrupt_total",
                "Cached pages whose checksum did not match; computed anew.", gauges->pages_corrupt);
    put_counter(page, "kvasir:worker_deaths_total", "Workers that died.", metrics->worker_deaths);
    put_engines(page, gauges, "kvasir:worker_restarts_total", "counter", "Workers started again.",
                ENGINE_RESTARTS);
    put_engines(page, gauges, "kvasir:engine_steps_total", "counter", "Steps planned.", ENGINE_STEPS);
    put_counter(page, "kvasir:http_requests_total", "HTTP requests.", gauges->http_requests);
}

void metrics_render(const struct metrics *metrics, const struct metrics_gauges *gauges, struct buf *out)
{
    struct page page = {.out = out, .labels = metrics->labels};
    put_gauges(&page, gauges);
    put_counters(&page, metrics, gauges);
    if (gauges->has_tier) put_tier(&page, gauges);
    for (int id = 0; id < HISTOGRAM_COUNT; id++) {
        const struct histogram *histogram = &metrics->histograms[id];
        put_histogram(&page, histogram, histogram->name, histogram->help);
    }
    put_histogram(&page, &metrics->histograms[HISTOGRAM_NEXT_TOKEN], "vllm:time_per_output_token_seconds",
                  "As vllm:inter_token_latency_seconds.");
}
