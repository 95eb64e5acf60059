/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_perplexity - how well the served model predicts a text: one request a window (perplexity.h), so that the
 * server's whole path is measured, and two quantizations can be compared by serving one after the other. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "client/cmd.h"
#include "client/perplexity.h"
#include "client/target.h"
#include "client/term.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"

enum { CONTEXT_DEFAULT = 512, FILE_BYTES_MAX = 64 << 20 };

struct options {
    struct kvasir_maybe_int context, stride, skip, windows;
    const char *model;
    bool is_json;
};

struct text {
    const char *path; // "-": stdin
    struct buf bytes; // owned
    int32_t *tokens;  // owned; (token_count)
    size_t token_count;
    int32_t bos; // what the model wants before a text; -1: nothing
};

static int complain(const char *path, const char *why)
{
    fprintf(stderr, "kvasir perplexity: %s: %s\n", path, why);
    return EXIT_FAILED;
}

static int read_file(struct text *text)
{
    bool is_stdin = strcmp(text->path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(text->path, "rb");
    if (file == NULL) return complain(text->path, strerror(errno));
    int r = term_read_all(file, &text->bytes);
    if (!is_stdin) (void)fclose(file); // read only
    if (r == -EMSGSIZE) return complain(text->path, "larger than 64 MiB");
    if (r < 0) return complain(text->path, strerror(-r));
    if (text->bytes.len == 0) return complain(text->path, "empty");
    if (memchr(buf_text(&text->bytes), '\0', text->bytes.len) != NULL)
        return complain(text->path, "not a text");
    return 0;
}

/* The whole text's tokens, and what the model wants before it: told by tokenizing with and without. */
static int tokenize(struct text *text, struct kvasir_client *client, const char *model,
                    const struct target *target)
{
    struct kvasir_error error;
    int32_t *plain = NULL, *special = NULL;
    size_t plain_count = 0, special_count = 0;
    int r = kvasir_tokenize(client, model, buf_text(&text->bytes), KVASIR_TOKENIZE_NO_SPECIAL, &text->tokens,
                            &text->token_count, &error);
    if (r == 0)
        r = kvasir_tokenize(client, model, "a", KVASIR_TOKENIZE_NO_SPECIAL, &plain, &plain_count, &error);
    if (r == 0) r = kvasir_tokenize(client, model, "a", 0, &special, &special_count, &error);
    if (r < 0) r = target_complain(target, &error);
    bool has_bos = r == 0 && plain_count > 0 && special_count > plain_count && special[0] != plain[0];
    text->bos = has_bos ? special[0] : -1;
    kvasir_memory_free(plain);
    kvasir_memory_free(special);
    return r;
}

/* Scores windows [0, window_count). */
static int score(struct perplexity *perplexity, const struct text *text, size_t window_count,
                 struct kvasir_client *client, const char *model, struct kvasir_cancel *cancel,
                 struct kvasir_error *error)
{
    int32_t *window = calloc(perplexity->context, sizeof(*window));
    bool is_terminal = isatty(STDERR_FILENO);
    int r = window != NULL ? 0 : KVASIR_ERR_MEMORY;
    for (size_t w = 0; w < window_count && r == 0; w++) {
        struct kvasir_answer *answer = NULL;
        memcpy(window, text->tokens + w * perplexity->stride, perplexity->context * sizeof(*window));
        if (text->bos >= 0) window[0] = text->bos;
        r = kvasir_complete(client,
                            KVASIR_REQUEST(.model = model, .prompt_tokens = window,
                                           .prompt_token_count = perplexity->context,
                                           .max_tokens = KVASIR_SOME(1), .temperature = KVASIR_SOME(0),
                                           .extra_json = "{\"prompt_logprobs\":0}", .cancel = cancel),
                            &answer, error);
        if (r == 0) r = perplexity_add(perplexity, window, kvasir_answer_json(answer), error);
        kvasir_answer_free(answer);
        if (r == 0 && is_terminal)
            fprintf(stderr, "\rwindow %zu of %zu: perplexity %.4f ", w + 1, window_count,
                    exp(perplexity_mean(perplexity)));
    }
    if (is_terminal) fprintf(stderr, "\r\033[K");
    free(window);
    return r;
}

static int print(const struct perplexity *p, const struct text *text, size_t window_count, double seconds,
                 bool is_json)
{
    double mean = perplexity_mean(p), error = perplexity_mean_error(p);
    double rate = (double)(window_count * p->context) / seconds;
    if (!is_json) {
        printf("%zu tokens, %zu windows of %zu, %zu apart, %zu of each for context only\n", text->token_count,
               window_count, p->context, p->stride, p->skip);
        printf("mean NLL    %.5f +/- %.5f nats a token, over %" PRIu64 " tokens\n", mean, error, p->scored);
        printf("perplexity  %.4f +/- %.4f\n", exp(mean), exp(mean) * error);
        printf("%.1f s, %.0f tokens/s\n", seconds, rate);
        return 0;
    }
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"tokens", (double)text->token_count},
        {"context", (double)p->context},
        {"stride", (double)p->stride},
        {"skip", (double)p->skip},
        {"windows", (double)window_count},
        {"scored_tokens", (double)p->scored},
        {"mean_nll", mean},
        {"mean_nll_error", error},
        {"perplexity", exp(mean)},
        {"perplexity_error", exp(mean) * error},
        {"seconds", seconds},
        {"tokens_per_s", rate},
    };
    cJSON *json = cJSON_CreateObject();
    bool ok = cJSON_AddStringToObject(json, "file", text->path) != NULL;
    for (size_t i = 0; i < COUNT_OF(numbers); i++)
        ok = ok && cJSON_AddNumberToObject(json, numbers[i].name, numbers[i].value) != NULL;
    char *line = ok ? cJSON_Print(json) : NULL;
    if (line != NULL) printf("%s\n", line);
    else fprintf(stderr, "kvasir perplexity: out of memory\n");
    cJSON_free(line);
    cJSON_Delete(json);
    return line != NULL ? 0 : EXIT_FAILED;
}

/* The windows that the options ask for, in a text of so many tokens. Exit status. */
static int lay_windows(const struct options *o, const struct text *text, struct perplexity *ret_perplexity,
                       size_t *ret_count)
{
    struct perplexity p = {.context = (size_t)o->context.value};
    p.stride = o->stride.is_set ? (size_t)o->stride.value : p.context;
    p.skip = o->skip.is_set ? (size_t)o->skip.value : p.context / 2 + 1;
    if (p.skip >= p.context) {
        fprintf(stderr, "kvasir perplexity: --skip %zu leaves nothing of a window of %zu to score\n", p.skip,
                p.context);
        return EX_USAGE;
    }
    *ret_perplexity = p;
    *ret_count = perplexity_windows(&p, text->token_count);
    if (o->windows.is_set && *ret_count > (size_t)o->windows.value) *ret_count = (size_t)o->windows.value;
    if (*ret_count > 0) return 0;
    fprintf(stderr, "kvasir perplexity: %s: %zu tokens, a window takes %zu (--context)\n", text->path,
            text->token_count, p.context);
    return EXIT_FAILED;
}

static int measure(const struct options *o, struct text *text, struct kvasir_client *client,
                   const struct target *target)
{
    struct perplexity perplexity;
    struct kvasir_cancel *cancel = NULL;
    struct kvasir_error error;
    size_t window_count;
    int r = tokenize(text, client, o->model, target);
    if (r == 0) r = lay_windows(o, text, &perplexity, &window_count);
    if (r != 0) return r;
    if (kvasir_cancel_new(&cancel) < 0) return complain(text->path, "out of memory");
    uint64_t start_ns = clock_mono_ns();
    term_catch_interrupt(cancel);
    r = score(&perplexity, text, window_count, client, o->model, cancel, &error);
    term_catch_interrupt(NULL);
    kvasir_cancel_free(cancel);
    if (r == KVASIR_ERR_CANCELLED) return complain(text->path, "stopped");
    if (r == KVASIR_ERR_MEMORY) return complain(text->path, "out of memory");
    if (r < 0) return target_complain(target, &error);
    return print(&perplexity, text, window_count, (double)(clock_mono_ns() - start_ns) * 1e-9, o->is_json);
}

int cmd_perplexity(int argc, char **argv)
{
    struct target target = {0};
    struct options o = {.context = {0, CONTEXT_DEFAULT}};
    const struct opt table[] = {
        {NULL, OPT_FLAG, NULL, NULL, "Windows:", 0, 0},
        {"context", OPT_INT, "N", &o.context, "tokens of a window (512)", 2, MODEL_CONTEXT_MAX},
        {"stride", OPT_INT, "N", &o.stride, "tokens from a window to the next (that of --context)", 1,
         MODEL_CONTEXT_MAX},
        {"skip", OPT_INT, "N", &o.skip, "first tokens of each that are not scored (half, and one)", 1,
         MODEL_CONTEXT_MAX},
        {"windows", OPT_INT, "N", &o.windows, "at most so many (all)", 1, INT32_MAX},
        {"model", OPT_TEXT, "NAME", &o.model, "(the server's own)", 0, 0},
        {NULL, OPT_FLAG, NULL, NULL, "Output:", 0, 0},
        {"json", OPT_FLAG, NULL, &o.is_json, "one JSON object", 0, 0},
        TARGET_OPTS(&target),
    };
    const struct opts opts = {
        "perplexity [OPTION]... FILE",
        "How well the served model predicts the text in FILE (\"-\": stdin): the mean negative\n"
        "log-likelihood of a token, in nats, and its exponential. The text is cut into windows that\n"
        "are scored alone; by default as llama-perplexity does.\n",
        table, COUNT_OF(table)};
    struct kvasir_client *client = NULL;
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    if (count != 1) {
        fprintf(stderr, "kvasir perplexity: takes one file (`kvasir perplexity --help`)\n");
        return EX_USAGE;
    }
    struct text text = {.path = argv[0]};
    buf_init(&text.bytes, FILE_BYTES_MAX);
    r = read_file(&text);
    if (r == 0) r = target_open(&target, &client);
    if (r == 0) r = measure(&o, &text, client, &target);
    kvasir_close(client);
    kvasir_memory_free(text.tokens);
    buf_done(&text.bytes);
    return r;
}
