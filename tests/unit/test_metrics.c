/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of daemon/metrics. The text is read back by a small parser of Prometheus text format 0.0.4 that
 * also checks the format's rules; expected names are those that routers and dashboards read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/metrics.h"

static const struct metrics_engine engines[] = {{.is_ready = true, .running = 2, .steps = 40, .restarts = 1},
                                                {.running = 1, .steps = 2}};

static const struct metrics_gauges gauges = {
    .engines = engines,
    .engine_count = 1,
    .waiting = 2,
    .page_tokens = 16,
    .page_count = 1000,
    .pages_used = 250,
    .prefix_queries = 4000,
    .prefix_hits = 1000,
    .preemptions = 7,
    .expired = 12,
    .held = 13,
    .evictions = 8,
    .pages_checked = 12,
    .pages_corrupt = 2,
    .http_requests = 99,
    .http_conns = 5,
    .cache_dtype = "f16",
};

struct rendered {
    struct metrics *metrics;
    struct buf out;
};

static void render(struct rendered *rendered)
{
    buf_init(&rendered->out, MIB(1));
    metrics_render(rendered->metrics, &gauges, &rendered->out);
    assert_int_equal(rendered->out.error, 0);
}

static void rendered_done(struct rendered *rendered)
{
    buf_done(&rendered->out);
    metrics_free(rendered->metrics);
}

/* Value of the series `name` that has the label text; fails when it is absent or there twice. */
static double value_of(const struct rendered *rendered, const char *name, const char *label)
{
    double value = NAN;
    int found = 0;
    const char *text = buf_text(&rendered->out);
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
        size_t name_len = strlen(name), len = strcspn(line, "\n");
        if (strncmp(line, name, name_len) != 0 || line[name_len] != '{') continue;
        const char *labels = line + name_len, *end = memchr(labels, '}', len - name_len),
                   *at = strstr(labels, label);
        assert_non_null(end);
        if (!at || at > end) continue;
        value = strtod(end + 1, NULL);
        found++;
    }
    if (found != 1) fail_msg("%s{%s} is there %d times", name, label, found);
    return value;
}

static void test_metrics_follows_the_text_format(void **state)
{
    (void)state;
    struct rendered rendered;
    assert_int_equal(metrics_new("org/Model-1", 4096, &rendered.metrics), 0);
    metrics_first_token(rendered.metrics, 1500000);
    render(&rendered);
    char family[256] = "", type[32] = "";
    int families = 0;
    for (char *line = strtok((char *)rendered.out.bytes, "\n"); line; line = strtok(NULL, "\n")) {
        char name[256], rest[256];
        if (sscanf(line, "# HELP %255s %255s", name, rest) == 2) {
            assert_string_not_equal(name, family); // a family in one piece
            snprintf(family, sizeof(family), "%s", name);
            families++;
            continue;
        }
        if (sscanf(line, "# TYPE %255s %31s", name, type) == 2) {
            assert_string_equal(name, family);
            continue;
        }
        size_t len = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_:");
        assert_int_equal(line[len], '{');
        assert_memory_equal(line, family, strlen(family));
        if (strcmp(type, "histogram") != 0) assert_int_equal(len, strlen(family));
        if (strcmp(type, "counter") == 0) assert_memory_equal(line + len - 6, "_total", 6);
        assert_non_null(strstr(line, "{model_name=\"org/Model-1\",engine=\"0\""));
        char *end = NULL;
        double value = strtod(strchr(line, '}') + 1, &end);
        assert_int_equal(*end, 0);
        assert_true(value >= 0);
    }
    assert_true(families > 30);
    rendered_done(&rendered);
}

static void test_metrics_names_that_others_read(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double value;
    } wanted[] = {
        {"vllm:num_requests_running", 2},
        {"vllm:num_requests_waiting", 2},
        {"vllm:kv_cache_usage_perc", 0.25},
        {"vllm:gpu_cache_usage_perc", 0.25},
        {"vllm:cpu_cache_usage_perc", 0},
        {"vllm:num_requests_swapped", 0},
        {"vllm:gpu_prefix_cache_hit_rate", 0.25},
        {"vllm:prefix_cache_queries_total", 4000},
        {"vllm:prefix_cache_hits_total", 1000},
        {"vllm:gpu_prefix_cache_queries_total", 4000},
        {"vllm:gpu_prefix_cache_hits_total", 1000},
        {"vllm:num_preemptions_total", 7},
        {"kvasir:requests_expired_total", 12},
        {"kvasir:num_requests_held", 13},
        {"vllm:cache_config_info", 1},
        {"kvasir:page_evictions_total", 8},
        {"kvasir:pages_checked_total", 12},
        {"kvasir:pages_corrupt_total", 2},
        {"kvasir:worker_restarts_total", 1},
        {"kvasir:http_requests_total", 99},
        {"kvasir:http_connections", 5},
    };
    struct rendered rendered;
    assert_int_equal(metrics_new("m", 4096, &rendered.metrics), 0);
    render(&rendered);
    for (size_t i = 0; i < COUNT_OF(wanted); i++)
        assert_true(value_of(&rendered, wanted[i].name, "model_name=\"m\"") == wanted[i].value);
    assert_non_null(
        strstr(buf_text(&rendered.out), "block_size=\"16\",num_gpu_blocks=\"1000\",cache_dtype=\"f16\""));
    rendered_done(&rendered);
}

static void test_metrics_counts_a_request(void **state)
{
    (void)state;
    struct rendered rendered;
    assert_int_equal(metrics_new("m", 4096, &rendered.metrics), 0);
    const struct metrics_request request = {
        .finish = METRICS_LENGTH,
        .prompt_tokens = 100,
        .cached_tokens = 64,
        .output_tokens = 11,
        .max_tokens = 11,
        .n = 1,
        .queue_ns = 100000000,   // 0.1 s
        .e2e_ns = 2100000000,    // 2.1 s
        .prefill_ns = 500000000, // 0.5 s
        .decode_ns = 1500000000, // 1.5 s: 0.15 s a token after the first
    };
    metrics_request_done(rendered.metrics, &request);
    metrics_request_aborted(rendered.metrics);
    metrics_request_failed(rendered.metrics);
    metrics_worker_lost(rendered.metrics);
    render(&rendered);
    static const struct {
        const char *name, *label;
        double value;
    } wanted[] = {
        {"vllm:request_success_total", "finished_reason=\"length\"", 1},
        {"vllm:request_success_total", "finished_reason=\"stop\"", 0},
        {"vllm:request_success_total", "finished_reason=\"abort\"", 1},
        {"vllm:request_success_total", "finished_reason=\"error\"", 1},
        {"vllm:prompt_tokens_total", "", 100},
        {"vllm:prompt_tokens_cached_total", "", 64},
        {"vllm:prompt_tokens_by_source_total", "source=\"local_compute\"", 36},
        {"vllm:prompt_tokens_by_source_total", "source=\"local_cache_hit\"", 64},
        {"kvasir:worker_deaths_total", "", 1},
        {"vllm:e2e_request_latency_seconds_bucket", "le=\"2.0\"", 0},
        {"vllm:e2e_request_latency_seconds_bucket", "le=\"2.5\"", 1},
        {"vllm:request_queue_time_seconds_sum", "", 0.1},
        {"vllm:request_inference_time_seconds_sum", "", 2},
        {"vllm:request_prefill_time_seconds_sum", "", 0.5},
        {"vllm:request_decode_time_seconds_bucket", "le=\"1.5\"", 1}, // a bound belongs to its bucket
        {"vllm:request_decode_time_seconds_bucket", "le=\"1.0\"", 0},
        {"vllm:request_time_per_output_token_seconds_sum", "", 0.15},
        {"vllm:request_prompt_tokens_bucket", "le=\"100.0\"", 1},
        {"vllm:request_prompt_tokens_bucket", "le=\"50.0\"", 0},
        {"vllm:request_generation_tokens_sum", "", 11},
        {"vllm:request_params_max_tokens_count", "", 1},
        {"vllm:request_params_n_bucket", "le=\"1.0\"", 1},
        {"vllm:request_prefill_kv_computed_tokens_sum", "", 36},
    };
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        double value = value_of(&rendered, wanted[i].name, wanted[i].label);
        if (fabs(value - wanted[i].value) > 1e-12)
            fail_msg("%s{%s}: %g", wanted[i].name, wanted[i].label, value);
    }
    rendered_done(&rendered);
}

/* Buckets are cumulative, end in +Inf, and agree with the count and the sum. */
static void test_metrics_histograms_are_cumulative(void **state)
{
    (void)state;
    struct rendered rendered;
    assert_int_equal(metrics_new("m", 2048, &rendered.metrics), 0);
    metrics_first_token(rendered.metrics, 500000);          // 0.0005 s
    metrics_next_token(rendered.metrics, 10000000);         // 0.01 s, a bound
    metrics_next_token(rendered.metrics, 10000001);         // just above it
    metrics_next_token(rendered.metrics, 3600000000000ull); // above all bounds
    metrics_step(rendered.metrics, 20, 2000000, 150000);
    metrics_step(rendered.metrics, 40, 3000000, 0);
    metrics_step_cost(rendered.metrics, 0, 0, 2000000); // the first one: nothing was expected
    metrics_step_cost(rendered.metrics, 32, 2000000, 3000000);
    render(&rendered);
    const char *name = "vllm:inter_token_latency_seconds_bucket";
    assert_true(value_of(&rendered, name, "le=\"0.01\"") == 1);
    assert_true(value_of(&rendered, name, "le=\"0.025\"") == 2);
    assert_true(value_of(&rendered, name, "le=\"80.0\"") == 2);
    assert_true(value_of(&rendered, name, "le=\"+Inf\"") == 3);
    assert_true(value_of(&rendered, "vllm:inter_token_latency_seconds_count", "") == 3);
    assert_true(fabs(value_of(&rendered, "vllm:inter_token_latency_seconds_sum", "") - 3600.020000001) <
                1e-9);
    assert_true(value_of(&rendered, "vllm:time_per_output_token_seconds_count", "") ==
                3); // the deprecated name
    assert_true(value_of(&rendered, "vllm:time_to_first_token_seconds_bucket", "le=\"0.001\"") == 1);
    assert_true(value_of(&rendered, "vllm:generation_tokens_total", "") == 4);
    assert_true(value_of(&rendered, "vllm:iteration_tokens_total_bucket", "le=\"16.0\"") == 0);
    assert_true(value_of(&rendered, "vllm:iteration_tokens_total_bucket", "le=\"32.0\"") == 1);
    assert_true(value_of(&rendered, "kvasir:step_seconds_bucket", "le=\"0.0025\"") == 1);
    assert_true(value_of(&rendered, "kvasir:step_seconds_count", "") == 2);
    assert_true(value_of(&rendered, "kvasir:step_prefill_tokens_bucket", "le=\"0.0\"") == 1);
    assert_true(value_of(&rendered, "kvasir:step_prefill_tokens_bucket", "le=\"32.0\"") == 2);
    assert_true(value_of(&rendered, "kvasir:step_cost_ratio_bucket", "le=\"1.3\"") == 0);
    assert_true(value_of(&rendered, "kvasir:step_cost_ratio_bucket", "le=\"1.5\"") == 1);
    assert_true(value_of(&rendered, "kvasir:step_cost_ratio_count", "") == 1);
    assert_true(value_of(&rendered, "kvasir:turn_seconds_bucket", "le=\"0.0001\"") == 0);
    assert_true(value_of(&rendered, "kvasir:turn_seconds_bucket", "le=\"0.0002\"") == 1);
    assert_true(value_of(&rendered, "kvasir:turn_seconds_count", "") == 1); // no turn, no time of it
    rendered_done(&rendered);
}

static void test_metrics_token_buckets_end_at_the_context(void **state)
{
    (void)state;
    static const struct {
        uint32_t model_len_max;
        const char *last, *absent;
    } cases[] = {
        {2048, "le=\"2000.0\"", "le=\"5000.0\""},
        {1, "le=\"1.0\"", "le=\"2.0\""},
        {1 << 20, "le=\"1000000.0\"", "le=\"2000000.0\""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct rendered rendered;
        char series[256];
        assert_int_equal(metrics_new("m", cases[i].model_len_max, &rendered.metrics), 0);
        render(&rendered);
        assert_true(value_of(&rendered, "vllm:request_prompt_tokens_bucket", cases[i].last) == 0);
        snprintf(series, sizeof(series),
                 "vllm:request_prompt_tokens_bucket{model_name=\"m\",engine=\"0\",%s}", cases[i].absent);
        assert_null(strstr(buf_text(&rendered.out), series));
        rendered_done(&rendered);
    }
}

static void test_metrics_escapes_the_model_name(void **state)
{
    (void)state;
    struct rendered rendered;
    assert_int_equal(metrics_new("a\"b\\c\nd", 4096, &rendered.metrics), 0);
    render(&rendered);
    assert_non_null(strstr(buf_text(&rendered.out),
                           "vllm:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\",engine=\"0\"} 2\n"));
    rendered_done(&rendered);

    char long_name[5000];
    memset(long_name, '"', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = 0;
    assert_int_equal(metrics_new(long_name, 4096, &rendered.metrics), 0);
    render(&rendered);
    assert_non_null(strstr(buf_text(&rendered.out), "\\\"\",engine=\"0\"} 2\n")); // cut, and well-formed
    rendered_done(&rendered);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_follows_the_text_format),
        cmocka_unit_test(test_metrics_names_that_others_read),
        cmocka_unit_test(test_metrics_counts_a_request),
        cmocka_unit_test(test_metrics_histograms_are_cumulative),
        cmocka_unit_test(test_metrics_token_buckets_end_at_the_context),
        cmocka_unit_test(test_metrics_escapes_the_model_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
