/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pinned.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "daemon/conf_file.h"
#include "daemon/generation.h"
#include "daemon/tenant.h"

enum { FILES_MAX = 1024 };

struct prefix_wanted { // of one file and one key
    char *name;        // owned
    struct token_list tokens;
    struct hash128 salt;
    uint32_t tenant;
};

struct pinned {
    struct pinned_conf conf;
    struct prefix_wanted *wanted; // owned, (count)
    uint32_t count, cap;
    uint32_t next;                 // the first that is not looked at in this round
    struct generation *generation; // of wanted[next], or NULL
    bool again;                    // something may have been lost while this round went on
};

/* ---- files ---- */

static int wanted_add(struct pinned *pinned, const char *name, const struct token_list *tokens,
                      const char *salt, uint32_t tenant)
{
    if (pinned->count == pinned->cap) {
        uint32_t cap = pinned->cap ? 2 * pinned->cap : 16;
        struct prefix_wanted *wanted = realloc(pinned->wanted, cap * sizeof *wanted);
        if (!wanted) return -ENOMEM;
        pinned->wanted = wanted;
        pinned->cap = cap;
    }
    const char *key = tenant ? pinned->conf.keys[tenant - 1] : NULL;
    struct prefix_wanted wanted = {.name = strdup(name), .salt = tenant_salt(key, salt), .tenant = tenant};
    int r = wanted.name ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < tokens->count; i++) r = token_list_push(&wanted.tokens, tokens->ids[i]);
    if (r < 0) {
        free(wanted.name);
        token_list_done(&wanted.tokens);
        return r;
    }
    pinned->wanted[pinned->count++] = wanted;
    return 0;
}

/* The body of a request that a file stands for. */
static int body_make(const char *path, const struct buf *text, struct buf *body)
{
    size_t len = strlen(path);
    if (len > 5 && strcmp(path + len - 5, ".json") == 0) return buf_append(body, text->bytes, text->len);
    buf_puts(body, "{\"prompt\":");
    buf_put_json_string(body, text->bytes, text->len);
    buf_putc(body, '}');
    return body->error;
}

static int prompts_add(struct pinned *pinned, const char *path, const struct params *params,
                       struct params_error *error)
{
    struct prompt_result result;
    int64_t now_s = (int64_t)(clock_wall_ns() / NS_PER_S);
    int r = prompt_build(pinned->conf.source, params, now_s, &result);
    if (r < 0) *error = result.error;
    for (uint32_t i = 0; r == 0 && i < result.prompt_count; i++) {
        const struct token_list *tokens = &result.prompts[i];
        if (tokens->count < PAGE_TOKENS) {
            r = ERR(&error->err, ERR_CONFIG, "%zu tokens do not fill a page of %d", tokens->count,
                    PAGE_TOKENS);
            break;
        }
        uint32_t tenants = (uint32_t)pinned->conf.key_count;
        for (uint32_t tenant = tenants ? 1 : 0; r == 0 && tenant <= tenants; tenant++)
            r = wanted_add(pinned, path, tokens, params->cache_salt, tenant);
    }
    prompt_result_done(&result);
    return r;
}

static int body_add(struct pinned *pinned, const char *path, const struct buf *body,
                    struct params_error *error)
{
    struct params params;
    bool is_chat = false, asks = false;
    cJSON *json = cJSON_ParseWithLength(buf_text(body), body->len);
    if (json) {
        is_chat = cJSON_GetObjectItemCaseSensitive(json, "messages") != NULL;
        asks = cJSON_GetObjectItemCaseSensitive(json, "add_generation_prompt") != NULL;
    }
    cJSON_Delete(json);
    int r = params_parse(is_chat ? PARAMS_CHAT : PARAMS_COMPLETION, buf_text(body), body->len,
                         tokenizer_vocab_count(pinned->conf.source->tokenizer), &params, error);
    if (r < 0) return r;
    if (!asks) params.add_generation_prompt = false;
    r = prompts_add(pinned, path, &params, error);
    params_done(&params);
    return r;
}

static int file_add(struct pinned *pinned, const char *path, struct err *err)
{
    struct buf text, body;
    struct params_error error = {.status = 400};
    int r = conf_file_read(path, &text, err);
    buf_init(&body, SIZE_MAX / 2);
    if (r < 0) goto out;
    r = body_make(path, &text, &body);
    if (r == 0) r = body_add(pinned, path, &body, &error);
    if (r == -ENOMEM) (void)ERR(err, r, "out of memory");
    else if (r < 0) r = ERR(err, ERR_CONFIG, "cache-pin: %s: %s", path, error.err.text);
out:
    buf_done(&text);
    buf_done(&body);
    return r;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int folder_add(struct pinned *pinned, DIR *folder, const char *path, struct err *err)
{
    char *names[FILES_MAX], file[4096];
    size_t count = 0;
    int r = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) && r == 0;) {
        if (entry->d_name[0] == '.') continue;
        if (count == FILES_MAX)
            r = ERR(err, ERR_CONFIG, "cache-pin: %s holds more than %d files", path, FILES_MAX);
        else if (!(names[count++] = strdup(entry->d_name))) r = ERR(err, -ENOMEM, "out of memory");
    }
    if (r == 0) qsort(names, count, sizeof *names, name_compare); // the same order at each start
    for (size_t i = 0; i < count; i++) {
        if (r == 0 && snprintf(file, sizeof file, "%s/%s", path, names[i]) >= (int)sizeof file)
            r = ERR(err, ERR_CONFIG, "cache-pin: %s: the path is too long", names[i]);
        if (r == 0) r = file_add(pinned, file, err);
        free(names[i]);
    }
    return r;
}

/* Pages of all, those that several share counted for each: no more than this will be pinned. */
static int bound_check(const struct pinned *pinned, const char *path, struct err *err)
{
    uint64_t pages = 0;
    uint32_t limit = engine_pin_limit(pinned->conf.engine);
    for (uint32_t i = 0; i < pinned->count; i++) pages += pinned->wanted[i].tokens.count / PAGE_TOKENS;
    if (pages <= limit && pinned->count <= PINS_MAX) return 0;
    return ERR(err, ERR_CONFIG,
               "cache-pin: %s: %" PRIu32 " prefixes%s take %" PRIu64 " pages of %d tokens, and %" PRIu32
               " may be pinned (--cache-pin-share, and room for one sequence of --max-model-len)",
               path, pinned->count, pinned->conf.key_count > 1 ? ", one for each API key," : "", pages,
               PAGE_TOKENS, limit);
}

int pinned_open(const char *path, const struct pinned_conf *conf, struct pinned **ret_pinned, struct err *err)
{
    struct pinned *pinned = calloc(1, sizeof *pinned);
    if (!pinned) return ERR(err, -ENOMEM, "out of memory");
    pinned->conf = *conf;
    DIR *folder = opendir(path);
    int r = folder ? folder_add(pinned, folder, path, err) : file_add(pinned, path, err);
    if (folder) closedir(folder);
    if (r == 0) r = bound_check(pinned, path, err);
    if (r < 0) {
        pinned_free(pinned);
        return r;
    }
    pinned->next = pinned->count;
    *ret_pinned = pinned;
    return 0;
}

void pinned_free(struct pinned *pinned)
{
    if (!pinned) return;
    generation_free(pinned->generation);
    for (uint32_t i = 0; i < pinned->count; i++) {
        free(pinned->wanted[i].name);
        token_list_done(&pinned->wanted[i].tokens);
    }
    free(pinned->wanted);
    free(pinned);
}

/* ---- computing and pinning ---- */

static int wanted_pin(const struct pinned *pinned, const struct prefix_wanted *wanted)
{
    return engine_pin(pinned->conf.engine, wanted->salt, wanted->tokens.ids, (uint32_t)wanted->tokens.count);
}

static void pin_next(struct pinned *pinned);

static void computed(void *owner, const struct generation_update *update)
{
    struct pinned *pinned = owner;
    if (update->finish == FINISH_NONE) return;
    generation_free(pinned->generation);
    pinned->generation = NULL;
    const struct prefix_wanted *wanted = &pinned->wanted[pinned->next++];
    int r = update->finish == FINISH_ERROR ? ERR_PEER : wanted_pin(pinned, wanted);
    if (r < 0) log_warn("%s could not be pinned: %s; requests compute it", wanted->name, err_name(r));
    pin_next(pinned);
}

static int compute(struct pinned *pinned, const struct prefix_wanted *wanted)
{
    struct generation_params params = {
        .prompt = wanted->tokens.ids,
        .prompt_count = (uint32_t)wanted->tokens.count,
        .output_max = 1,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .ignore_end = true,
        .priority = SCHED_PRIORITY_MAX,
        .arrival_ns = clock_mono_ns(),
        .salt = wanted->salt,
        .tenant = wanted->tenant,
    };
    return generation_start(pinned->conf.engine, pinned->conf.source->tokenizer, &params, computed, pinned,
                            &pinned->generation);
}

/* Goes on until one has to be computed. */
static void pin_next(struct pinned *pinned)
{
    for (; pinned->next < pinned->count; pinned->next++) {
        const struct prefix_wanted *wanted = &pinned->wanted[pinned->next];
        int r = wanted_pin(pinned, wanted);
        if (r == -ENOENT) r = compute(pinned, wanted);
        if (pinned->generation) return;
        if (r < 0) log_warn("%s could not be pinned: %s; requests compute it", wanted->name, err_name(r));
    }
    if (pinned->again) {
        pinned_refresh(pinned);
        return;
    }
    log_info("%" PRIu32 " prefixes are pinned, %" PRIu32 " pages", pinned->count,
             engine_pinned_count(pinned->conf.engine));
}

void pinned_refresh(struct pinned *pinned)
{
    pinned->again = pinned->generation != NULL;
    if (pinned->count == 0 || pinned->again) return;
    pinned->next = 0;
    pin_next(pinned);
}
