/* SPDX-License-Identifier: Apache-2.0 */
/* calls - the short calls: models, tokenize, detokenize, health, ready, metrics, version. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "client/answer.h"
#include "client/client.h"
#include "client/fail.h"
#include "client/http.h"
#include "common/base/utf8.h"

struct kvasir_models {
    cJSON *tree;          // owned
    char *json;           // the body; owned
    const cJSON **models; // (count) into tree, each with a string id; owned
    size_t count;
};

static int no_memory(struct kvasir_error *error)
{
    return fail(error, KVASIR_ERR_MEMORY, "out of memory");
}

/* GET, or POST where there is a body. *ret_body is never NULL; free() it. */
static int fetch(struct kvasir_client *client, const char *path, const char *body, char **ret_body,
                 size_t *ret_bytes, struct kvasir_error *error)
{
    fail_clear(error);
    if (client == NULL) return fail(error, KVASIR_ERR_ARGUMENT, "client: NULL");
    struct http_reply reply;
    struct http_order order = {
        .path = path,
        .body = body,
        .body_bytes = body != NULL ? strlen(body) : 0,
        .total_timeout_ms = client->short_timeout_ms,
    };
    int r = http_run(client, &order, &reply, error);
    if (r < 0) return r;
    if (buf_reserve(&reply.body, 0) < 0) return no_memory(error); // an empty body is a string too
    if (reply.body.len == 0) reply.body.bytes[0] = '\0';
    *ret_body = buf_take(&reply.body, ret_bytes);
    return 0;
}

/* The same, and the body parsed. cJSON_Delete *ret_json; ret_body may be NULL. */
static int fetch_json(struct kvasir_client *client, const char *path, const char *body, char **ret_body,
                      cJSON **ret_json, struct kvasir_error *error)
{
    char *text = NULL;
    size_t len = 0;
    int r = fetch(client, path, body, &text, &len, error);
    if (r < 0) return r;
    r = answer_parse(text, len, path, ret_json, error);
    if (r == 0 && ret_body != NULL) {
        *ret_body = text;
        text = NULL;
    }
    free(text);
    return r;
}

/* ---- models ---- */

static int index_models(struct kvasir_models *models, struct kvasir_error *error)
{
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(models->tree, "data");
    if (!cJSON_IsArray(data)) return fail(error, KVASIR_ERR_PROTOCOL, "/v1/models: no list \"data\"");
    // A list of pointers. NOLINTNEXTLINE(bugprone-sizeof-expression)
    models->models = calloc((size_t)cJSON_GetArraySize(data) + 1, sizeof(*models->models));
    if (models->models == NULL) return no_memory(error);
    const cJSON *item;
    cJSON_ArrayForEach(item, data)
    {
        if (!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(item, "id")))
            return fail(error, KVASIR_ERR_PROTOCOL, "/v1/models: a model without an id");
        models->models[models->count++] = item;
    }
    return 0;
}

int kvasir_models_get(struct kvasir_client *client, struct kvasir_models **ret_models,
                      struct kvasir_error *error)
{
    fail_clear(error);
    struct kvasir_models *models = calloc(1, sizeof(*models));
    if (models == NULL) return no_memory(error);
    int r = fetch_json(client, "/v1/models", NULL, &models->json, &models->tree, error);
    if (r == 0) r = index_models(models, error);
    if (r < 0) {
        kvasir_models_free(models);
        return r;
    }
    *ret_models = models;
    return 0;
}

void kvasir_models_free(struct kvasir_models *models)
{
    if (models == NULL) return;
    cJSON_Delete(models->tree);
    free(models->json);
    free(models->models);
    free(models);
}

size_t kvasir_models_count(const struct kvasir_models *models)
{
    return models->count;
}

const char *kvasir_models_id(const struct kvasir_models *models, size_t model_idx)
{
    if (model_idx >= models->count) return "";
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(models->models[model_idx], "id"));
}

int64_t kvasir_models_context_tokens(const struct kvasir_models *models, size_t model_idx)
{
    if (model_idx >= models->count) return 0;
    const cJSON *model = models->models[model_idx];
    int64_t tokens = answer_count(cJSON_GetObjectItemCaseSensitive(model, "max_model_len"),
                                  0);                                    // vLLM, kvasird
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(model, "meta"); // llama-server
    return tokens > 0 ? tokens : answer_count(cJSON_GetObjectItemCaseSensitive(meta, "n_ctx"), 0);
}

const char *kvasir_models_json(const struct kvasir_models *models)
{
    return models->json;
}

/* ---- tokens ---- */

static int print_body(cJSON *json, bool is_whole, char **ret_body, struct kvasir_error *error)
{
    *ret_body = is_whole ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(json);
    return *ret_body != NULL ? 0 : no_memory(error);
}

static int read_tokens(const cJSON *json, int32_t **ret_tokens, size_t *ret_token_count,
                       struct kvasir_error *error)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "tokens");
    if (!cJSON_IsArray(list)) return fail(error, KVASIR_ERR_PROTOCOL, "/tokenize: no list \"tokens\"");
    int32_t *tokens = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof(*tokens));
    if (tokens == NULL) return no_memory(error);
    size_t count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        int64_t token = answer_count(item, -1);
        if (token < 0 || token > INT32_MAX) {
            free(tokens);
            return fail(error, KVASIR_ERR_PROTOCOL, "/tokenize: token %zu is no token id", count);
        }
        tokens[count++] = (int32_t)token;
    }
    *ret_tokens = tokens;
    *ret_token_count = count;
    return 0;
}

int kvasir_tokenize(struct kvasir_client *client, const char *model, const char *text, unsigned flags,
                    int32_t **ret_tokens, size_t *ret_token_count, struct kvasir_error *error)
{
    fail_clear(error);
    if (text == NULL || !utf8_is_valid((const uint8_t *)text, strlen(text)))
        return fail(error, KVASIR_ERR_ARGUMENT, "text: not UTF-8");
    cJSON *json = cJSON_CreateObject();
    char *body = NULL;
    bool ok = model == NULL || cJSON_AddStringToObject(json, "model", model) != NULL;
    ok = ok && cJSON_AddStringToObject(json, "prompt", text) != NULL;
    ok = ok &&
         cJSON_AddBoolToObject(json, "add_special_tokens", !(flags & KVASIR_TOKENIZE_NO_SPECIAL)) != NULL;
    int r = print_body(json, ok, &body, error);
    if (r < 0) return r;
    cJSON *answer = NULL;
    r = fetch_json(client, "/tokenize", body, NULL, &answer, error);
    cJSON_free(body);
    if (r < 0) return r;
    r = read_tokens(answer, ret_tokens, ret_token_count, error);
    cJSON_Delete(answer);
    return r;
}

int kvasir_detokenize(struct kvasir_client *client, const char *model, const int32_t *tokens,
                      size_t token_count, char **ret_text, struct kvasir_error *error)
{
    fail_clear(error);
    if ((tokens == NULL && token_count > 0) || token_count > INT32_MAX)
        return fail(error, KVASIR_ERR_ARGUMENT, "tokens: no list of at most 2^31 - 1");
    cJSON *json = cJSON_CreateObject(), *list = cJSON_CreateIntArray(tokens, (int)token_count);
    char *body = NULL;
    if (tokens == NULL) list = cJSON_CreateArray(); // the function above takes no NULL
    bool ok = list != NULL && cJSON_AddItemToObject(json, "tokens", list);
    if (!ok) cJSON_Delete(list);
    ok = ok && (model == NULL || cJSON_AddStringToObject(json, "model", model) != NULL);
    int r = print_body(json, ok, &body, error);
    if (r < 0) return r;
    cJSON *answer = NULL;
    r = fetch_json(client, "/detokenize", body, NULL, &answer, error);
    cJSON_free(body);
    if (r < 0) return r;
    const char *text = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(answer, "prompt")); // vLLM, kvasird
    if (text == NULL) text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, "content"));
    if (text == NULL) {
        r = fail(error, KVASIR_ERR_PROTOCOL, "/detokenize: no string \"prompt\"");
    } else if ((*ret_text = strdup(text)) == NULL) {
        r = no_memory(error);
    }
    cJSON_Delete(answer);
    return r;
}

/* ---- state ---- */

int kvasir_health(struct kvasir_client *client, struct kvasir_error *error)
{
    char *body = NULL;
    size_t len;
    int r = fetch(client, "/health", NULL, &body, &len, error);
    free(body);
    return r;
}

int kvasir_ready(struct kvasir_client *client, struct kvasir_error *error)
{
    struct kvasir_error local;
    struct kvasir_error *seen = error != NULL ? error : &local;
    char *body = NULL;
    size_t len;
    int r = fetch(client, "/ready", NULL, &body, &len, seen);
    free(body);
    if (r == KVASIR_ERR_HTTP && seen->http_status == 404) return kvasir_health(client, error);
    return r;
}

int kvasir_metrics(struct kvasir_client *client, char **ret_text, struct kvasir_error *error)
{
    size_t len;
    return fetch(client, "/metrics", NULL, ret_text, &len, error);
}

int kvasir_server_version(struct kvasir_client *client, char **ret_version, struct kvasir_error *error)
{
    cJSON *json = NULL;
    int r = fetch_json(client, "/version", NULL, NULL, &json, error);
    if (r < 0) return r;
    const char *version = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "version"));
    if (version == NULL) {
        r = fail(error, KVASIR_ERR_PROTOCOL, "/version: no string \"version\"");
    } else if ((*ret_version = strdup(version)) == NULL) {
        r = no_memory(error);
    }
    cJSON_Delete(json);
    return r;
}
