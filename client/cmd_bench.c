/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_bench - options and order of a measurement; the work is in bench_*.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <curl/curl.h>

#include "client/bench.h"
#include "client/cmd.h"
#include "client/target.h"
#include "client/term.h"
#include "common/base/check.h"

struct options {
    struct kvasir_maybe_int requests, concurrency, warmup, prompt_tokens, shared_tokens, output_tokens, vocab,
        duration;
    struct kvasir_maybe_int timeout, seed;
    struct kvasir_maybe_double temperature;
    const char *model;
    bool is_stream, is_whole, is_chat, is_token_ids, is_ignore_eos, is_json, is_remote_allowed;
};

/* Whether the host of the URL is this machine: 127.0.0.0/8, ::1 or localhost. */
static bool is_loopback(const char *url)
{
    CURLU *parts = curl_url();
    char *host = NULL;
    bool is_local = false;
    if (parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl_url_get(parts, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
        bool is_v4 = strncmp(host, "127.", 4) == 0 && host[strspn(host, "0123456789.")] == '\0';
        is_local = is_v4 || strcmp(host, "[::1]") == 0 || strcmp(host, "localhost") == 0;
    }
    curl_free(host);
    curl_url_cleanup(parts);
    return is_local;
}

static int check(const struct options *o, const struct target *target)
{
    const char *why = NULL;
    if (o->shared_tokens.value > o->prompt_tokens.value) why = "--shared-tokens is a part of --prompt-tokens";
    if (o->is_chat && o->is_token_ids) why = "--token-ids goes with /v1/completions, not with --chat";
    if (o->is_stream && o->is_whole) why = "--stream and --no-stream exclude each other";
    if (target->uds == NULL && !is_loopback(target->url) && !o->is_remote_allowed)
        why = "the server is on another machine; load it only if it is yours, with --allow-remote";
    if (why == NULL) return 0;
    fprintf(stderr, "kvasir bench: %s\n", why);
    return EX_USAGE;
}

/* The name of the model, and the first look at the server. NULL model: not told, so not sent. */
static int ask_model(struct kvasir_client *client, const struct target *target, char **ret_model)
{
    struct kvasir_models *models = NULL;
    struct kvasir_error error;
    int r = kvasir_models_get(client, &models, &error);
    if (r == KVASIR_ERR_CONNECT || (r == KVASIR_ERR_HTTP && error.http_status == 401))
        return target_complain(target, &error);
    *ret_model = NULL;
    if (r == 0 && kvasir_models_count(models) > 0) *ret_model = strdup(kvasir_models_id(models, 0));
    kvasir_models_free(models);
    return 0;
}

static int measure(struct kvasir_client *client, const struct bench_config *config, bool is_json,
                   const struct target *target, struct kvasir_cancel *cancel)
{
    struct bench_result result = {0};
    struct kvasir_error error;
    int r = 0;
    if (config->warmup > 0) {
        r = bench_load(client, config, -config->warmup, config->warmup, cancel, NULL, &result, &error);
        bench_result_done(&result);
    }
    if (r == 0)
        r = bench_load(client, config, 0, config->requests, cancel, isatty(STDERR_FILENO) ? stderr : NULL,
                       &result, &error);
    if (r < 0) {
        r = target_complain(target, &error);
    } else {
        if (is_json) r = bench_print_json(config, target_text(target), &result) < 0 ? EXIT_FAILED : 0;
        else bench_print_table(config, &result);
        if (result.failed_count > 0 || result.ok_count == 0) r = EXIT_FAILED;
        if (result.ok_count == 0 && result.first_error.code < 0)
            r = target_complain(target, &result.first_error);
    }
    bench_result_done(&result);
    return r;
}

static int run(struct options *o, struct target *target)
{
    struct kvasir_client *client = NULL;
    struct kvasir_cancel *cancel = NULL;
    char *model = NULL;
    int r = target_open(target, &client);
    if (r == 0) r = check(o, target);
    if (r == 0 && o->model == NULL) r = ask_model(client, target, &model);
    if (r == 0 && kvasir_cancel_new(&cancel) < 0) r = EXIT_FAILED;
    if (r == 0) {
        const struct bench_config config = {
            .model = o->model != NULL ? o->model : model,
            .requests = o->requests.value,
            .concurrency = o->concurrency.value,
            .warmup = o->warmup.value,
            .prompt_tokens = o->prompt_tokens.value,
            .shared_tokens = o->shared_tokens.value,
            .output_tokens = o->output_tokens.value,
            .vocab = o->vocab.value,
            .duration_s = o->duration.value,
            .timeout_s = o->timeout.value,
            .seed = o->seed.value,
            .temperature = o->temperature.value,
            .is_stream = !o->is_whole,
            .is_chat = o->is_chat,
            .is_token_ids = o->is_token_ids,
            .is_ignore_eos = o->is_ignore_eos,
        };
        term_catch_interrupt(cancel); // Ctrl-C ends the run and shows what was measured
        r = measure(client, &config, o->is_json, target, cancel);
        term_catch_interrupt(NULL);
    }
    kvasir_cancel_free(cancel);
    kvasir_close(client);
    free(model);
    return r;
}

int cmd_bench(int argc, char **argv)
{
    struct target target = {0};
    struct options o = {
        .requests = {0, 64},
        .concurrency = {0, 8},
        .prompt_tokens = {0, 256},
        .output_tokens = {0, 64},
        .vocab = {0, 32000},
        .timeout = {0, 600},
        .seed = {0, 1},
        .temperature = {0, 0},
        .shared_tokens = {0, 0},
        .warmup = {0, 0},
        .duration = {0, 0},
    };
    const struct opt table[] = {
        {NULL, OPT_FLAG, NULL, NULL, "Load:", 0, 0},
        {"requests", OPT_INT, "N", &o.requests, "how many (64)", 1, BENCH_REQUESTS_MAX},
        {"concurrency", OPT_INT, "N", &o.concurrency, "how many at once (8)", 1, BENCH_CONCURRENCY_MAX},
        {"duration", OPT_INT, "S", &o.duration, "start none after S seconds", 1, 86400},
        {"warmup", OPT_INT, "N", &o.warmup, "requests before those that count (0)", 0, 10000},
        {"timeout", OPT_INT, "S", &o.timeout, "longest time of one request (600)", 1, 86400},
        {NULL, OPT_FLAG, NULL, NULL, "Request:", 0, 0},
        {"prompt-tokens", OPT_INT, "N", &o.prompt_tokens, "words or token ids of a prompt (256)", 1,
         BENCH_TOKENS_MAX},
        {"shared-tokens", OPT_INT, "N", &o.shared_tokens, "of these at the start, the same in all (0)", 0,
         BENCH_TOKENS_MAX},
        {"output-tokens", OPT_INT, "N", &o.output_tokens, "max_tokens (64)", 1, BENCH_TOKENS_MAX},
        {"ignore-eos", OPT_FLAG, NULL, &o.is_ignore_eos, "always run to --output-tokens", 0, 0},
        {"token-ids", OPT_FLAG, NULL, &o.is_token_ids, "prompts of random token ids, exact in length", 0, 0},
        {"vocab", OPT_INT, "N", &o.vocab, "ids are in 300..N-1 (32000)", 301, INT32_MAX},
        {"chat", OPT_FLAG, NULL, &o.is_chat, "/v1/chat/completions instead of /v1/completions", 0, 0},
        {"stream", OPT_FLAG, NULL, &o.is_stream, "stream; this is the default", 0, 0},
        {"no-stream", OPT_FLAG, NULL, &o.is_whole, "answers in one piece: no TTFT, no ITL", 0, 0},
        {"temperature", OPT_REAL, "T", &o.temperature, "(0)", 0, 0},
        {"seed", OPT_INT, "N", &o.seed, "same prompts for the same seed (1)", 0, INT32_MAX},
        {"model", OPT_TEXT, "NAME", &o.model, "(the server's first)", 0, 0},
        {NULL, OPT_FLAG, NULL, NULL, "Output:", 0, 0},
        {"json", OPT_FLAG, NULL, &o.is_json, "one JSON object instead of a table", 0, 0},
        TARGET_OPTS(&target),
        {"allow-remote", OPT_FLAG, NULL, &o.is_remote_allowed, "the server may be on another machine", 0, 0},
    };
    const struct opts opts = {
        "bench [OPTION]...",
        "Loads an OpenAI-compatible server and measures it: time to first token (TTFT), between\n"
        "tokens (ITL, TPOT), of whole requests (E2E), and throughput. Exit status 1 when any\n"
        "request failed. Ctrl-C ends early and shows what was measured.\n",
        table, COUNT_OF(table)};
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    if (count > 0) {
        fprintf(stderr, "kvasir bench: takes no argument \"%s\"\n", argv[0]);
        return EX_USAGE;
    }
    return run(&o, &target);
}
