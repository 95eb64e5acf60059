/* SPDX-License-Identifier: Apache-2.0 */
/* check_logits - how far a machine's arithmetic is from the float reference, on a real model.
 *
 *   check_logits MODEL.gguf VECTORS.json [--level NAME] [--threads N] [--kv f16|bf16|q8|q4]
 *                [--no-nll] [--no-greedy] [--text FILE]
 *
 * VECTORS.json and the nll.json beside it are described in the vectors' README. Prints for every case the mean
 * absolute difference of the 20 likeliest log-probabilities and the first greedy token that differs with
 * the reference's gap there; then the mean over the cases and the mean negative log-likelihood of the
 * text. A greedy run goes on with its own tokens, so only its first difference says anything.
 * Exit status: 0 within the limits of the level, 1 past one of them, 2 when it could not run. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"
#include "tests/unit/model_rig.h"

enum {
    ROWS_MAX = 128, // a prompt runs in chunks of this many rows, with logits for each
    POSITION_MAX = 2048,
    TOP = 20,
    WINDOW_TOKENS_MAX = 1024,
};

struct limits {
    double case_delta, mean_delta; // mean |delta log-prob| of the top 20
    double gap;                    // a greedy token may differ where the reference's gap is below
    double nll;                    // relative
};

/* ref: float activations, f16 pages; fast: 8-bit activations. */
static const struct limits limits_ref = {.case_delta = 0.005, .mean_delta = 0.005, .gap = 0.03, .nll = 0.001};
/* Pages of few bits: q8 may add 0.3 % to the NLL of f16, q4 2 %. */
static const struct limits limits_q8 = {.case_delta = 0.2, .mean_delta = 0.1, .gap = 0.35, .nll = 0.010};
static const struct limits limits_q4 = {.case_delta = 0.4, .mean_delta = 0.3, .gap = 1.5, .nll = 0.027};
static const struct limits limits_fast = {.case_delta = 0.2, .mean_delta = 0.09, .gap = 0.35, .nll = 0.007};

struct options {
    const char *model, *vectors, *level, *text;
    uint32_t threads;
    enum kern_kv kv_type;
    bool nll, greedy;
};

struct run {
    struct model_rig rig;
    const struct limits *limits;
    uint32_t pages[POSITION_MAX / 16];
    uint32_t failures;
    uint64_t prefill_ns, decode_ns;
    uint32_t prefill_tokens, decode_tokens;
};

static void die(const struct err *err)
{
    fprintf(stderr, "check_logits: %s\n", err->text);
    exit(2);
}

static void verdict(struct run *run, bool good)
{
    if (!good) run->failures++;
    printf("%s\n", good ? "" : "   PAST THE LIMIT");
}

static const float *step(struct run *run, const uint32_t *tokens, uint32_t count, uint32_t pos_first,
                         uint32_t logit_count)
{
    struct err err = {0};
    const float *logits;
    if (model_rig_step(&run->rig, tokens, count, pos_first, run->pages, COUNT_OF(run->pages), logit_count,
                       &logits, &err) < 0) {
        die(&err);
    }
    return logits;
}

/* Runs a prompt in chunks. Returns the logits of its last row; adds up the negative log-likelihood of its
 * tokens from the second on. */
static const float *prefill(struct run *run, const uint32_t *ids, uint32_t count, double *ret_nll_sum)
{
    const uint32_t vocab_count = run->rig.facts.vocab_count;
    const float *last = NULL;
    double nll_sum = 0;
    for (uint32_t first = 0; first < count; first += ROWS_MAX) {
        uint32_t rows = count - first < ROWS_MAX ? count - first : ROWS_MAX;
        uint64_t start_ns = clock_mono_ns();
        const float *logits = step(run, ids + first, rows, first, rows);
        run->prefill_ns += clock_mono_ns() - start_ns;
        run->prefill_tokens += rows;
        for (uint32_t i = 0; i < rows; i++) {
            last = logits + (size_t)i * vocab_count;
            if (first + i + 1 < count) {
                nll_sum += model_rig_log_sum(last, vocab_count) - last[ids[first + i + 1]];
            }
        }
    }
    *ret_nll_sum = nll_sum;
    return last;
}

static uint32_t read_ids(const cJSON *array, uint32_t max, uint32_t *out)
{
    uint32_t count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (count < max) out[count++] = (uint32_t)item->valuedouble;
    }
    return count;
}

static double number_at(const cJSON *array, uint32_t index)
{
    const cJSON *item = cJSON_GetArrayItem(array, (int)index);
    return item ? item->valuedouble : NAN;
}

/* Continues greedily after `logits` of the prompt's last row. Returns the first step that differs from the
 * reference, or the count of steps. */
static uint32_t greedy_run(struct run *run, const float *logits, uint32_t position, const cJSON *greedy)
{
    uint32_t steps = (uint32_t)cJSON_GetArraySize(greedy);
    for (uint32_t i = 0; i < steps; i++) {
        uint32_t token = model_rig_argmax(logits, run->rig.facts.vocab_count);
        if (token != (uint32_t)number_at(greedy, i)) return i;
        uint64_t start_ns = clock_mono_ns();
        logits = step(run, &token, 1, position + i, 1);
        run->decode_ns += clock_mono_ns() - start_ns;
        run->decode_tokens++;
    }
    return steps;
}

/* Returns the mean |delta log-prob| of the case. */
static double check_case(struct run *run, const cJSON *item, uint32_t case_idx, bool with_greedy)
{
    static uint32_t ids[POSITION_MAX];
    const cJSON *top = cJSON_GetObjectItem(item, "top20");
    const cJSON *greedy = cJSON_GetObjectItem(item, "greedy");
    const cJSON *gaps = cJSON_GetObjectItem(item, "greedy_gap");
    uint32_t count = read_ids(cJSON_GetObjectItem(item, "ids"), POSITION_MAX, ids);
    double nll_sum, delta_sum = 0, delta_max = 0;
    const float *logits = prefill(run, ids, count, &nll_sum);
    double log_sum = model_rig_log_sum(logits, run->rig.facts.vocab_count);
    const cJSON *pair;
    cJSON_ArrayForEach(pair, top)
    {
        double delta = fabs(logits[(uint32_t)number_at(pair, 0)] - log_sum - number_at(pair, 1));
        delta_sum += delta;
        delta_max = fmax(delta_max, delta);
    }
    double delta = delta_sum / TOP;
    double nll = nll_sum / (count - 1), nll_reference = cJSON_GetObjectItem(item, "mean_nll")->valuedouble;
    printf("case %u: %4u tokens, mean |delta| %.5f, max %.5f, nll %+.4f %%", case_idx, count, delta,
           delta_max, 100 * (nll / nll_reference - 1));
    bool good = delta <= run->limits->case_delta;
    if (with_greedy) {
        uint32_t same = greedy_run(run, logits, count, greedy);
        uint32_t steps = (uint32_t)cJSON_GetArraySize(greedy);
        printf(", greedy %u/%u", same, steps);
        if (same < steps) {
            double gap = number_at(gaps, same);
            printf(" (gap %.4f)", gap);
            if (gap >= run->limits->gap) good = false;
        }
    }
    verdict(run, good);
    return delta;
}

/* Mean negative log-likelihood over the windows of the text; false when nll.json does not know the model. */
static void check_nll(struct run *run, const struct options *options, const char *model_name)
{
    char path[4096], key[256];
    const char *slash = strrchr(options->vectors, '/');
    int dir_len = slash ? (int)(slash - options->vectors) + 1 : 0;
    (void)snprintf(path, sizeof(path), "%.*snll.json", dir_len, options->vectors);
    (void)snprintf(key, sizeof(key), "%s/GPL-3", model_name);
    struct err err = {0};
    size_t json_len, text_len;
    char *json = model_rig_read_text(path, &json_len);
    char *text = model_rig_read_text(options->text, &text_len);
    cJSON *root = NULL;
    if (!json || !text || json_parse(json, json_len, 64, &root, &err) < 0) {
        printf("nll: skipped, no %s or %s\n", path, options->text);
        goto out;
    }
    const cJSON *facts = cJSON_GetObjectItem(root, key);
    if (!facts) {
        printf("nll: skipped, nll.json has no %s\n", key);
        goto out;
    }
    uint32_t windows = (uint32_t)cJSON_GetObjectItem(facts, "windows")->valuedouble;
    uint32_t window = (uint32_t)cJSON_GetObjectItem(facts, "window")->valuedouble;
    bool bos = cJSON_IsTrue(cJSON_GetObjectItem(facts, "bos"));
    double reference = cJSON_GetObjectItem(facts, "mean_nll")->valuedouble;

    struct tokenizer *tokenizer = NULL;
    struct token_list list = {0};
    uint32_t ids[WINDOW_TOKENS_MAX + 1];
    if (tokenizer_open(run->rig.file.gguf, &tokenizer, &err) < 0) die(&err);
    if (tokenizer_encode(tokenizer, text, text_len, 0, text_len, &list, &err) < 0) die(&err);
    printf("nll: %zu tokens (reference %.0f)", list.count,
           cJSON_GetObjectItem(facts, "tokens_total")->valuedouble);
    CHECK(window <= WINDOW_TOKENS_MAX && (size_t)windows * window <= list.count);
    double sum = 0;
    for (uint32_t i = 0; i < windows; i++) {
        double window_sum;
        if (bos) ids[0] = tokenizer_bos(tokenizer);
        memcpy(ids + bos, list.ids + (size_t)i * window, window * sizeof(*ids));
        (void)prefill(run, ids, window + bos, &window_sum); // only the sum is wanted
        sum += window_sum;
    }
    double nll = sum / cJSON_GetObjectItem(facts, "positions")->valuedouble;
    printf(", mean nll %.5f, reference %.5f, %+.4f %%", nll, reference, 100 * (nll / reference - 1));
    verdict(run, fabs(nll / reference - 1) <= run->limits->nll);
    token_list_done(&list);
    tokenizer_close(tokenizer);
out:
    cJSON_Delete(root);
    free(json);
    free(text);
}

static bool parse_kv(const char *name, enum kern_kv *ret_type)
{
    static const char *const names[] = {"f16", "bf16", "q8", "q4"}; // in the order of enum kern_kv
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(names[i], name) != 0) continue;
        *ret_type = (enum kern_kv)i;
        return true;
    }
    return false;
}

static int parse_options(int argc, char **argv, struct options *ret_options)
{
    struct options options = {
        .threads = 2, .nll = true, .greedy = true, .text = "/usr/share/common-licenses/GPL-3"};
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--no-nll") == 0) options.nll = false;
        else if (strcmp(argv[i], "--no-greedy") == 0) options.greedy = false;
        else if (strcmp(argv[i], "--level") == 0 && next) options.level = argv[++i];
        else if (strcmp(argv[i], "--text") == 0 && next) options.text = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && next) options.threads = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--kv") == 0 && next) {
            if (!parse_kv(argv[++i], &options.kv_type)) return -1;
        } else if (argv[i][0] == '-') return -1;
        else if (!options.model) options.model = argv[i];
        else if (!options.vectors) options.vectors = argv[i];
        else return -1;
    }
    if (!options.vectors || options.threads == 0) return -1;
    *ret_options = options;
    return 0;
}

static void open_model(const struct options *options, struct run *run)
{
    struct err err = {0};
    const struct kern_ops *ops;
    if (kern_select(options->level, &ops, &err) < 0) die(&err);
    const struct model_rig_conf conf = {.ops = ops,
                                        .threads = options->threads,
                                        .rows_max = ROWS_MAX,
                                        .logits_max = ROWS_MAX,
                                        .position_max = POSITION_MAX,
                                        .kv_type = options->kv_type,
                                        .page_count = COUNT_OF(run->pages)};
    uint64_t start_ns = clock_mono_ns();
    if (model_rig_open(options->model, &conf, &run->rig, &err) < 0) die(&err);
    /* Pages in an order of no meaning: nothing may depend on it. */
    for (uint32_t i = 0; i < COUNT_OF(run->pages); i++) run->pages[i] = i * 37 % COUNT_OF(run->pages);
    run->limits = strcmp(ops->name, "ref") == 0 ? &limits_ref : &limits_fast;
    if (options->kv_type == KERN_KV_Q8) run->limits = &limits_q8;
    if (options->kv_type == KERN_KV_Q4) run->limits = &limits_q4;
    printf("level %s, %u threads, opened in %.2f s, weights %.1f MB\n", ops->name, options->threads,
           (double)(clock_mono_ns() - start_ns) / NS_PER_S, (double)model_weight_bytes(run->rig.model) / 1e6);
}

int main(int argc, char **argv)
{
    struct options options;
    static struct run run;
    struct err err = {0};
    if (parse_options(argc, argv, &options) < 0) {
        fprintf(stderr, "usage: check_logits MODEL.gguf VECTORS.json [--level NAME] [--threads N] "
                        "[--kv f16|bf16|q8|q4] [--no-nll] [--no-greedy] [--text FILE]\n");
        return 2;
    }
    size_t len = 0;
    char *text = model_rig_read_text(options.vectors, &len);
    cJSON *root;
    if (!text || json_parse(text, len, 64, &root, &err) < 0) {
        fprintf(stderr, "check_logits: %s: cannot be read\n", options.vectors);
        return 2;
    }
    open_model(&options, &run);
    double delta_sum = 0;
    uint32_t case_count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(root, "cases"))
    {
        delta_sum += check_case(&run, item, case_count++, options.greedy);
    }
    printf("all %u cases: mean |delta| %.5f", case_count, delta_sum / case_count);
    verdict(&run, delta_sum / case_count <= run.limits->mean_delta);
    if (options.nll) check_nll(&run, &options, cJSON_GetObjectItem(root, "model")->valuestring);
    printf("prefill %.1f tok/s (%u rows a step, logits of every row)",
           run.prefill_tokens * 1e9 / (double)run.prefill_ns, ROWS_MAX);
    if (run.decode_tokens > 0) printf(", decode %.1f tok/s", run.decode_tokens * 1e9 / (double)run.decode_ns);
    printf("\n%s\n", run.failures == 0 ? "within the limits" : "PAST THE LIMITS");
    model_rig_close(&run.rig);
    cJSON_Delete(root);
    free(text);
    return run.failures == 0 ? 0 : 1;
}
