/* SPDX-License-Identifier: Apache-2.0 */
/* bench_report - the numbers of a run, as a table for people and as JSON for programs. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

#include "client/bench.h"
#include "common/base/check.h"

int bench_values_push(struct bench_values *values, double value)
{
    if (values->count == values->cap) {
        size_t cap = values->cap > 0 ? 2 * values->cap : 256;
        double *more = realloc(values->values, cap * sizeof(*more));
        if (more == NULL) return -ENOMEM;
        values->values = more;
        values->cap = cap;
    }
    values->values[values->count++] = value;
    return 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_values_sort(struct bench_values *values)
{
    if (values->count > 1) qsort(values->values, values->count, sizeof(*values->values), compare);
}

double bench_values_percentile(const struct bench_values *values, double percent)
{
    CHECK(values->count > 0);
    double rank = ceil(percent / 100 * (double)values->count);
    size_t idx = rank < 1 ? 0 : (size_t)rank - 1;
    return values->values[idx < values->count ? idx : values->count - 1];
}

double bench_values_mean(const struct bench_values *values)
{
    CHECK(values->count > 0);
    double sum = 0;
    for (size_t i = 0; i < values->count; i++) sum += values->values[i];
    return sum / (double)values->count;
}

static void print_row(const char *name, const char *about, struct bench_values *values)
{
    if (values->count == 0) return;
    bench_values_sort(values);
    printf("%-6s %10.2f %10.2f %10.2f %10.2f %10.2f   %s\n", name, 1e3 * bench_values_mean(values),
           1e3 * bench_values_percentile(values, 50), 1e3 * bench_values_percentile(values, 90),
           1e3 * bench_values_percentile(values, 99), 1e3 * bench_values_percentile(values, 100), about);
}

static double rate(int64_t count, double seconds)
{
    return seconds > 0 ? (double)count / seconds : 0;
}

void bench_print_table(const struct bench_config *config, struct bench_result *result)
{
    printf("requests   %lld good, %lld failed, %lld at once, %.2f s\n", (long long)result->ok_count,
           (long long)result->failed_count, (long long)config->concurrency, result->wall_s);
    if (result->cut_count > 0)
        printf("           %lld stopped midway are not counted\n", (long long)result->cut_count);
    if (result->failed_count > 0) printf("           first failure: %s\n", result->first_error.text);
    if (result->ok_count == 0) return;
    printf("tokens     %lld in, %lld out", (long long)result->prompt_tokens,
           (long long)result->output_tokens);
    if (result->is_cached_told && result->prompt_tokens > 0)
        printf(", %.1f %% of the input from the cache",
               100.0 * (double)result->cached_tokens / (double)result->prompt_tokens);
    printf("\nthroughput %.2f requests/s, %.1f tokens/s in, %.1f tokens/s out\n",
           rate(result->ok_count, result->wall_s), rate(result->prompt_tokens, result->wall_s),
           rate(result->output_tokens, result->wall_s));
    printf("\n%-6s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99", "max");
    print_row("TTFT", "to the first token", &result->first_s);
    print_row("ITL", "between two events", &result->gap_s);
    print_row("TPOT", "a token, after the first", &result->token_s);
    print_row("E2E", "whole request", &result->whole_s);
}

/* Thousandths: finer digits are noise and make the output hard to read. */
static void add(cJSON *json, const char *key, double value)
{
    cJSON_AddNumberToObject(json, key, round(1000 * value) / 1000); // out of memory shows when it is printed
}

static void add_times(cJSON *json, const char *key, struct bench_values *values)
{
    if (values->count == 0) return;
    cJSON *item = cJSON_AddObjectToObject(json, key);
    bench_values_sort(values);
    add(item, "mean", 1e3 * bench_values_mean(values));
    add(item, "p50", 1e3 * bench_values_percentile(values, 50));
    add(item, "p90", 1e3 * bench_values_percentile(values, 90));
    add(item, "p99", 1e3 * bench_values_percentile(values, 99));
    add(item, "max", 1e3 * bench_values_percentile(values, 100));
}

static void add_config(cJSON *json, const struct bench_config *config)
{
    cJSON *item = cJSON_AddObjectToObject(json, "config");
    if (config->model != NULL) cJSON_AddStringToObject(item, "model", config->model);
    cJSON_AddStringToObject(item, "endpoint", config->is_chat ? "chat" : "completions");
    cJSON_AddStringToObject(item, "prompts", config->is_token_ids ? "token ids" : "words");
    cJSON_AddBoolToObject(item, "stream", config->is_stream);
    cJSON_AddBoolToObject(item, "ignore_eos", config->is_ignore_eos);
    add(item, "concurrency", (double)config->concurrency);
    add(item, "requests", (double)config->requests);
    add(item, "prompt_tokens", (double)config->prompt_tokens);
    add(item, "shared_tokens", (double)config->shared_tokens);
    add(item, "output_tokens", (double)config->output_tokens);
    add(item, "temperature", config->temperature);
    add(item, "seed", (double)config->seed);
}

int bench_print_json(const struct bench_config *config, const char *where, struct bench_result *result)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "server", where);
    add_config(json, config);
    add(json, "requests_ok", (double)result->ok_count);
    add(json, "requests_failed", (double)result->failed_count);
    add(json, "requests_cut", (double)result->cut_count);
    if (result->failed_count > 0) cJSON_AddStringToObject(json, "first_failure", result->first_error.text);
    add(json, "wall_s", result->wall_s);
    add(json, "input_tokens", (double)result->prompt_tokens);
    if (result->is_cached_told) add(json, "cached_tokens", (double)result->cached_tokens);
    add(json, "output_tokens", (double)result->output_tokens);
    add(json, "requests_per_s", rate(result->ok_count, result->wall_s));
    add(json, "input_tokens_per_s", rate(result->prompt_tokens, result->wall_s));
    add(json, "output_tokens_per_s", rate(result->output_tokens, result->wall_s));
    add_times(json, "ttft_ms", &result->first_s);
    add_times(json, "itl_ms", &result->gap_s);
    add_times(json, "tpot_ms", &result->token_s);
    add_times(json, "e2e_ms", &result->whole_s);
    char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (text == NULL) return -ENOMEM;
    printf("%s\n", text);
    cJSON_free(text);
    return 0;
}

void bench_result_done(struct bench_result *result)
{
    free(result->first_s.values);
    free(result->gap_s.values);
    free(result->token_s.values);
    free(result->whole_s.values);
    *result = (struct bench_result){0};
}
