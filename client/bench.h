/* SPDX-License-Identifier: Apache-2.0 */
/* bench - the load generator of `kvasir bench`: what to send (bench_prompt.c), sending it
 * (bench_load.c), what came of it (bench_report.c).
 *
 * Closed loop: `concurrency` requests are under way at any time until `requests` were started or
 * `duration_s` is over. One thread on curl's multi interface; reading an event costs some microseconds,
 * far below what any model needs for a token. Times are taken on this side:
 *     TTFT  from starting a request to the first event with text       (streams only)
 *     ITL   between two events with text of one stream                 (streams only)
 *     TPOT  (E2E - TTFT) / (tokens - 1), one value a request           (streams only)
 *     E2E   from starting a request to its last byte */
#ifndef KVASIR_CLIENT_BENCH_H
#define KVASIR_CLIENT_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "client/kvasir.h"
#include "common/base/buf.h"

enum { BENCH_REQUESTS_MAX = 1000000, BENCH_CONCURRENCY_MAX = 1024, BENCH_TOKENS_MAX = 1 << 20 };

struct bench_config {
    const char *model; // NULL: not sent
    int64_t requests, concurrency, warmup;
    int64_t prompt_tokens; // the shared ones included
    int64_t shared_tokens; // <= prompt_tokens; the same in all requests of a seed
    int64_t output_tokens;
    int64_t vocab;      // token ids are drawn below it
    int64_t duration_s; // no request starts after it; 0: no bound
    int64_t timeout_s;  // of one request
    int64_t seed;
    double temperature;
    bool is_stream, is_chat, is_token_ids, is_ignore_eos;
};

/* A growing list of numbers; owns values. */
struct bench_values {
    double *values; // (count of cap)
    size_t count, cap;
};

struct bench_result {
    struct bench_values first_s, gap_s, token_s, whole_s; // TTFT, ITL, TPOT, E2E
    int64_t ok_count, failed_count, cut_count;            // cut: under way when Ctrl-C came
    int64_t prompt_tokens, cached_tokens, output_tokens;  // of the good ones, as the server counted
    bool is_cached_told;                                  //
    double wall_s;                                        // first start to last end of a good one
    struct kvasir_error first_error;                      // code 0: none
};

/* The JSON body of request `idx`, cJSON_free() it. Depends on (config, idx) only. 0 or a negative code of
 * the library. Negative idx: the warm-up's, with the same shared part and other private ones. */
int bench_prompt(const struct bench_config *config, int64_t idx, char **ret_body, struct kvasir_error *error);

/* Sends requests [first_idx, first_idx + count); progress, a line that is written over, goes there when not
 * NULL. 0, also when requests failed; a negative code when nothing could be measured. */
int bench_load(struct kvasir_client *client, const struct bench_config *config, int64_t first_idx,
               int64_t count, struct kvasir_cancel *cancel, FILE *progress, struct bench_result *result,
               struct kvasir_error *error);

int bench_values_push(struct bench_values *values, double value); // 0 or -ENOMEM
void bench_values_sort(struct bench_values *values);

/* Nearest rank: the smallest value with at least `percent` of all at or below it. Sorted, count > 0. */
double bench_values_percentile(const struct bench_values *values, double percent);
double bench_values_mean(const struct bench_values *values); // count > 0

/* Both sort the values. */
void bench_print_table(const struct bench_config *config, struct bench_result *result);
int bench_print_json(const struct bench_config *config, const char *where, struct bench_result *result);
void bench_result_done(struct bench_result *result);

#endif
