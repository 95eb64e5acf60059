/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_status - one look at a server: does it live, does it take work, how much of it. Reads vLLM's
 * metric names, which kvasird has, and llama-server's where those are missing. A number that a server
 * does not tell is left out. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/cmd.h"
#include "client/fail.h"
#include "client/metrics_text.h"
#include "client/target.h"
#include "common/base/check.h"

struct status {
    bool is_healthy, is_ready;
    char not_ready_text[512]; // why not, as the server said it
    char version[64], model[256];
    int64_t context_tokens;              // 0: not told
    double running, waiting;             // requests; NAN: not told, so in all below
    double cache_share;                  // of pages in use, 0..1
    double pages, page_tokens;           //
    double prompt_tokens, cached_tokens; // since start
    double generated_tokens;             // since start
};

static double metric(const char *text, const char *name, const char *other_name)
{
    double sum = NAN;
    if (metrics_text_sum(text, name, &sum) == 0 && other_name != NULL)
        (void)metrics_text_sum(text, other_name, &sum);
    return sum; // NAN when neither is there
}

static double metric_label(const char *text, const char *name, const char *label)
{
    char value[32];
    return metrics_text_label(text, name, label, value, sizeof(value)) > 0 ? strtod(value, NULL) : NAN;
}

static void read_metrics(struct status *status, const char *text)
{
    status->running = metric(text, "vllm:num_requests_running", "llamacpp:requests_processing");
    status->waiting = metric(text, "vllm:num_requests_waiting", "llamacpp:requests_deferred");
    status->cache_share = metric(text, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc");
    status->pages = metric_label(text, "vllm:cache_config_info", "num_gpu_blocks");
    status->page_tokens = metric_label(text, "vllm:cache_config_info", "block_size");
    status->prompt_tokens = metric(text, "vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total");
    status->cached_tokens = metric(text, "vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total");
    status->generated_tokens = metric(text, "vllm:generation_tokens_total",
                                      "llamacpp:tokens_predicted_total");
}

/* Asks everything. 0, or the negative code of the first question: is anyone there. What a living server
 * does not answer is left unknown: other servers lack some of these. */
static int ask(struct kvasir_client *client, struct status *status, struct kvasir_error *error)
{
    struct kvasir_models *models = NULL;
    char *text = NULL;
    int r = kvasir_health(client, error);
    if (r < 0 && r != KVASIR_ERR_HTTP) return r;
    status->is_healthy = r == 0;
    status->is_ready = kvasir_ready(client, error) == 0;
    if (!status->is_ready) memcpy(status->not_ready_text, error->text, sizeof(status->not_ready_text));
    if (kvasir_server_version(client, &text, NULL) == 0) {
        text_clean(status->version, sizeof(status->version), text, strlen(text));
        kvasir_memory_free(text);
    }
    if (kvasir_models_get(client, &models, NULL) == 0 && kvasir_models_count(models) > 0) {
        const char *id = kvasir_models_id(models, 0);
        text_clean(status->model, sizeof(status->model), id, strlen(id));
        status->context_tokens = kvasir_models_context_tokens(models, 0);
    }
    kvasir_models_free(models);
    if (kvasir_metrics(client, &text, NULL) == 0) {
        read_metrics(status, text);
        kvasir_memory_free(text);
    } else {
        read_metrics(status, "");
    }
    return 0;
}

static void print_table(const struct status *status, const char *where)
{
    printf("server     %s%s%s\n", where, status->version[0] ? ", version " : "", status->version);
    printf("health     %s\n", status->is_healthy ? "ok" : "failing");
    printf("ready      %s%s%s\n", status->is_ready ? "yes" : "no", status->is_ready ? "" : ": ",
           status->not_ready_text);
    if (status->model[0] != '\0') printf("model      %s", status->model);
    if (status->model[0] != '\0' && status->context_tokens > 0)
        printf(", %lld tokens of context", (long long)status->context_tokens);
    if (status->model[0] != '\0') printf("\n");
    if (!isnan(status->running)) printf("requests   %.0f running", status->running);
    if (!isnan(status->running)) printf(isnan(status->waiting) ? "\n" : ", %.0f waiting\n", status->waiting);
    if (!isnan(status->cache_share)) {
        printf("cache      %.1f %% in use", 100 * status->cache_share);
        if (!isnan(status->pages)) printf(" of %.0f pages", status->pages);
        if (!isnan(status->page_tokens)) printf(" of %.0f tokens", status->page_tokens);
        printf("\n");
    }
    if (!isnan(status->prompt_tokens)) {
        printf("prompts    %.0f tokens", status->prompt_tokens);
        if (status->cached_tokens > 0 && status->prompt_tokens > 0)
            printf(", %.1f %% of them from the cache", 100 * status->cached_tokens / status->prompt_tokens);
        printf("\n");
    }
    if (!isnan(status->generated_tokens)) printf("generated  %.0f tokens\n", status->generated_tokens);
}

static void add_number(cJSON *json, const char *key, double value)
{
    if (!isnan(value)) cJSON_AddNumberToObject(json, key, value); // out of memory shows when it is printed
}

static int print_json(const struct status *status, const char *where)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "server", where);
    cJSON_AddBoolToObject(json, "healthy", status->is_healthy);
    cJSON_AddBoolToObject(json, "ready", status->is_ready);
    if (status->version[0] != '\0') cJSON_AddStringToObject(json, "version", status->version);
    if (status->model[0] != '\0') cJSON_AddStringToObject(json, "model", status->model);
    if (status->context_tokens > 0) add_number(json, "context_tokens", (double)status->context_tokens);
    add_number(json, "requests_running", status->running);
    add_number(json, "requests_waiting", status->waiting);
    add_number(json, "cache_share", status->cache_share);
    add_number(json, "cache_pages", status->pages);
    add_number(json, "page_tokens", status->page_tokens);
    add_number(json, "prompt_tokens", status->prompt_tokens);
    add_number(json, "cached_tokens", status->cached_tokens);
    add_number(json, "generated_tokens", status->generated_tokens);
    char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (text == NULL) return EXIT_FAILED;
    printf("%s\n", text);
    cJSON_free(text);
    return 0;
}

int cmd_status(int argc, char **argv)
{
    struct target target = {0};
    bool is_json = false;
    const struct opt table[] = {
        {"json", OPT_FLAG, NULL, &is_json, "one JSON object instead of a table", 0, 0},
        TARGET_OPTS(&target),
    };
    const struct opts opts = {
        "status [OPTION]...",
        "Shows the state of a server. Exit status: 0 it takes requests, 1 it does not (yet),\n"
        "69 nobody is there.\n\n",
        table, COUNT_OF(table)};
    struct kvasir_client *client = NULL;
    struct kvasir_error error;
    struct status status = {0};
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    r = target_open(&target, &client);
    if (r != 0) return r;
    if (ask(client, &status, &error) < 0) {
        r = target_complain(&target, &error);
    } else {
        if (is_json) r = print_json(&status, target_text(&target));
        else print_table(&status, target_text(&target));
        if (!status.is_healthy || !status.is_ready) r = EXIT_FAILED;
    }
    kvasir_close(client);
    return r;
}
