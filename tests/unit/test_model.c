/* SPDX-License-Identifier: Apache-2.0 */
/* The llama architecture against the logits of another implementation (vectors/tiny), at every level of
 * kernels this machine has; what opening and a step refuse. Vectors: $KVASIR_VECTORS, default
 * ../shared/vectors, skipped where absent. */
#include <cjson/cJSON.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "tests/data/gguf_writer.h"
#include "tests/unit/model_rig.h"

enum { TOKENS_MAX = 256, PAGES = 16, VOCAB = 512, ROWS_MAX = 160 };

/* What a level may deviate by. The vectors' README suggests 1e-3 for F32 files, 2e-3 for quantized ones
 * (float activations) and KL 0.06 (8-bit activations), all with keys and values in float. Measured with
 * f16 pages and float activations: 0.0154 at most, on llama3_ropefreqs. */
struct limits {
    double delta;      // of any log-probability after the prompt; 0: not looked at
    double divergence; // KL
    double lead;       // a likeliest token must agree where the reference's lead is at least this
};

static const struct limits limits_f32 = {.delta = 1e-3, .divergence = 1e-6, .lead = 2e-3};
static const struct limits limits_quant = {.delta = 2e-3, .divergence = 1e-6, .lead = 4e-3};
static const struct limits limits_f16_pages = {.delta = 0.03, .divergence = 1e-4, .lead = 0.06};
static const struct limits limits_fast = {.divergence = 0.06, .lead = 0.7};

static const char *const names[] = {"llama_tied",       "llama_untied", "llama_bias",
                                    "llama3_ropefreqs", "llama_linear", "mistral_headdim"};
static const char *const quant_names[] = {"quant/f16",    "quant/bf16",   "quant/q4_0",   "quant/q4_1",
                                          "quant/q5_0",   "quant/q5_1",   "quant/q8_0",   "quant/q2_k",
                                          "quant/q3_k_s", "quant/q4_k_s", "quant/q5_k_s", "quant/q6_k",
                                          "quant/iq4_nl", "quant/iq4_xs"};

struct run {
    const char *name;
    const char *level;
    struct limits limits;
    struct model_rig rig;
    uint32_t pages[PAGES];
    double delta, divergence; // worst so far
};

static double number_at(const cJSON *array, uint32_t index)
{
    const cJSON *item = cJSON_GetArrayItem(array, (int)index);
    if (!item) fail_msg("vector file is incomplete");
    return item->valuedouble;
}

static const float *step(struct run *run, const uint32_t *tokens, uint32_t count, uint32_t pos_first,
                         uint32_t logit_count)
{
    struct err err = {0};
    const float *logits;
    int r = model_rig_step(&run->rig, tokens, count, pos_first, run->pages, PAGES, logit_count, &logits,
                           &err);
    if (r < 0) fail_msg("%s: %s", run->name, err.text);
    return logits;
}

static void check_likeliest(const struct run *run, const char *what, uint32_t index, uint32_t got,
                            uint32_t expected, double lead)
{
    if (got == expected || lead < run->limits.lead) return;
    fail_msg("%s at %s: %s %u is %u, expected %u (lead %.4f)", run->name, run->level, what, index, got,
             expected, lead);
}

static void check_last(struct run *run, const float *logits, const cJSON *reference_json)
{
    float reference[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++) reference[i] = (float)number_at(reference_json, i);
    double log_sum = model_rig_log_sum(logits, VOCAB),
           reference_log_sum = model_rig_log_sum(reference, VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++) {
        run->delta = fmax(run->delta, fabs((logits[i] - log_sum) - (reference[i] - reference_log_sum)));
    }
    run->divergence = fmax(run->divergence, model_rig_divergence(reference, logits, VOCAB));
}

static void check_prompt(struct run *run, const cJSON *prompt)
{
    uint32_t ids[TOKENS_MAX], count = (uint32_t)cJSON_GetArraySize(cJSON_GetObjectItem(prompt, "ids"));
    assert_in_range(count, 1, ROWS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = (uint32_t)number_at(cJSON_GetObjectItem(prompt, "ids"), i);
    }
    const float *logits = step(run, ids, count, 0, count);
    for (uint32_t i = 0; i < count; i++) {
        check_likeliest(run, "position", i, model_rig_argmax(logits + i * VOCAB, VOCAB),
                        (uint32_t)number_at(cJSON_GetObjectItem(prompt, "argmax_all"), i),
                        number_at(cJSON_GetObjectItem(prompt, "argmax_all_gap"), i));
    }
    logits += (size_t)(count - 1) * VOCAB;
    check_last(run, logits, cJSON_GetObjectItem(prompt, "logits_last"));

    const cJSON *greedy = cJSON_GetObjectItem(prompt, "greedy"),
                *gaps = cJSON_GetObjectItem(prompt, "greedy_gap");
    for (uint32_t i = 0; i < (uint32_t)cJSON_GetArraySize(greedy); i++) {
        uint32_t token = model_rig_argmax(logits, VOCAB), expected = (uint32_t)number_at(greedy, i);
        check_likeliest(run, "greedy step", i, token, expected, number_at(gaps, i));
        logits = step(run, &expected, 1, count + i, 1); // the reference's path, so that every step counts
    }
}

static void check_file(const struct kern_ops *ops, enum kern_kv kv_type, const char *name,
                       const struct limits *limits)
{
    char path[4096], file_name[256];
    struct err err = {0};
    struct run run = {.name = name, .level = ops->name, .limits = *limits};
    (void)snprintf(file_name, sizeof(file_name), "tiny/%s.json", name);
    if (model_rig_vector_path(file_name, sizeof(path), path) < 0) {
        print_message("no %s: set KVASIR_VECTORS\n", path);
        skip();
    }
    size_t len = 0;
    char *text = model_rig_read_text(path, &len);
    cJSON *root;
    if (json_parse(text, len, 64, &root, &err) < 0) fail_msg("%s: %s", path, err.text);
    free(text);

    const struct model_rig_conf conf = {.ops = ops,
                                        .threads = 1,
                                        .rows_max = ROWS_MAX,
                                        .logits_max = ROWS_MAX,
                                        .position_max = TOKENS_MAX,
                                        .page_count = PAGES,
                                        .kv_type = kv_type};
    (void)snprintf(file_name, sizeof(file_name), "tiny/%s.gguf", name);
    assert_int_equal(model_rig_vector_path(file_name, sizeof(path), path), 0);
    if (model_rig_open(path, &conf, &run.rig, &err) < 0) fail_msg("%s: %s", path, err.text);
    for (uint32_t i = 0; i < PAGES; i++) run.pages[i] = (i * 5 + 3) % PAGES;

    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(root, "prompts")) check_prompt(&run, prompt);
    printf("%-9s %-4s %-18s |delta| %.6f  KL %.2e\n", ops->name, kv_type == KERN_KV_F32 ? "f32" : "f16", name,
           run.delta, run.divergence);
    if (limits->delta > 0) assert_true(run.delta <= limits->delta);
    assert_true(run.divergence <= limits->divergence);
    model_rig_close(&run.rig);
    cJSON_Delete(root);
}

static const struct kern_ops *find_level(const char *name)
{
    uint32_t count;
    const struct kern_ops *const *levels = kern_levels(&count);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(levels[i]->name, name) == 0) return levels[i];
    }
    return NULL;
}

static void test_model_llama_equals_the_reference(void **state)
{
    (void)state;
    const struct kern_ops *ref = find_level("ref");
    assert_non_null(ref);
    for (size_t i = 0; i < COUNT_OF(names); i++) check_file(ref, KERN_KV_F32, names[i], &limits_f32);
    for (size_t i = 0; i < COUNT_OF(quant_names); i++) {
        check_file(ref, KERN_KV_F32, quant_names[i], &limits_quant);
    }
}

static void test_model_f16_pages_stay_close(void **state)
{
    (void)state;
    const struct kern_ops *ref = find_level("ref");
    for (size_t i = 0; i < COUNT_OF(names); i++) check_file(ref, KERN_KV_F16, names[i], &limits_f16_pages);
    for (size_t i = 0; i < COUNT_OF(quant_names); i++) {
        check_file(ref, KERN_KV_F16, quant_names[i], &limits_f16_pages);
    }
}

static void test_model_fast_levels_stay_close(void **state)
{
    (void)state;
    uint32_t count;
    const struct kern_ops *const *levels = kern_levels(&count);
    for (uint32_t level = 0; level < count; level++) {
        if (strcmp(levels[level]->name, "ref") == 0) continue;
        for (size_t i = 0; i < COUNT_OF(names); i++) {
            check_file(levels[level], KERN_KV_F16, names[i],
                       &limits_f16_pages); // F32 weights: float arithmetic
        }
        for (size_t i = 0; i < COUNT_OF(quant_names); i++) {
            check_file(levels[level], KERN_KV_F16, quant_names[i], &limits_fast);
        }
    }
}

/* ---- refusals ---- */

/* Opens bytes at the reference level. */
static int open_bytes(const struct buf *bytes, struct model_rig *ret_rig, struct err *err)
{
    const struct model_rig_conf conf = {.ops = find_level("ref"),
                                        .threads = 1,
                                        .rows_max = 8,
                                        .logits_max = 4,
                                        .position_max = 40,
                                        .page_count = 3};
    return model_rig_open_bytes(bytes->bytes, bytes->len, &conf, ret_rig, err);
}

static void expect_refusal_of_bytes(const struct buf *bytes, int code, const char *text)
{
    struct model_rig rig;
    struct err err = {0};
    assert_int_equal(open_bytes(bytes, &rig, &err), code);
    if (!strstr(err.text, text)) fail_msg("'%s' does not name '%s'", err.text, text);
}

static void expect_refusal(const struct gguf_writer *writer, int code, const char *text)
{
    struct buf bytes;
    writer_finish(writer, &bytes);
    expect_refusal_of_bytes(&bytes, code, text);
    buf_done(&bytes);
}

static void test_model_open_names_the_missing_tensor(void **state)
{
    static const char *const needed[] = {
        "token_embd.weight",     "output_norm.weight",  "blk.0.attn_norm.weight",   "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",   "blk.0.attn_v.weight", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
        "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(needed); i++) {
        struct gguf_writer writer;
        writer_init_llama(&writer);
        writer_remove_tensor(&writer, needed[i]);
        expect_refusal(&writer, ERR_FORMAT, needed[i]);
        writer_done(&writer);
    }
}

static void test_model_open_names_the_tensor_of_a_wrong_shape(void **state)
{
    static const struct {
        const char *name;
        uint64_t dims[2];
    } wrong[] = {{"blk.0.attn_q.weight", {16, 64}},
                 {"blk.0.attn_k.weight", {32, 32}},
                 {"blk.0.ffn_down.weight", {32, 48}},
                 {"blk.0.ffn_norm.weight", {33, 1}}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct gguf_writer writer;
        writer_init_llama(&writer);
        writer_remove_tensor(&writer, wrong[i].name);
        (void)writer_add_tensor(&writer, wrong[i].name, TENSOR_F32, wrong[i].dims[1] > 1 ? 2 : 1,
                                wrong[i].dims);
        expect_refusal(&writer, ERR_FORMAT, wrong[i].name);
        writer_done(&writer);
    }
}

/* A tensor nobody asked for is arithmetic that would be left out. */
static void test_model_open_refuses_an_unknown_tensor(void **state)
{
    (void)state;
    struct gguf_writer writer;
    const uint64_t dims[1] = {8};
    writer_init_llama(&writer);
    (void)writer_add_tensor(&writer, "blk.0.attn_q_norm.weight", TENSOR_F32, 1, dims);
    expect_refusal(&writer, ERR_UNSUPPORTED, "blk.0.attn_q_norm.weight");
    writer_done(&writer);
}

static void test_model_open_refuses_rope_divisors_that_are_not_positive(void **state)
{
    (void)state;
    struct gguf_writer writer;
    struct buf bytes;
    const uint64_t dims[1] = {4}; // rope_dims / 2
    const float bad[] = {-1, 0, NAN, INFINITY};
    writer_init_llama(&writer);
    (void)writer_add_tensor(&writer, "rope_freqs.weight", TENSOR_F32, 1, dims);
    writer_finish(&writer, &bytes);
    for (size_t i = 0; i < COUNT_OF(bad); i++) { // the tensor's data end the file
        const float divisors[4] = {1, 1, 2, bad[i]};
        memcpy(bytes.bytes + bytes.len - sizeof(divisors), divisors, sizeof(divisors));
        expect_refusal_of_bytes(&bytes, ERR_FORMAT, "rope_freqs.weight");
    }
    buf_done(&bytes);
    writer_done(&writer);
}

static void test_model_forward_verifies_the_batch(void **state)
{
    (void)state;
    struct gguf_writer writer;
    struct model_rig rig;
    struct buf bytes;
    struct err err = {0};
    writer_init_llama(&writer);
    writer_finish(&writer, &bytes);
    writer_done(&writer);
    assert_int_equal(open_bytes(&bytes, &rig, &err), 0);

    const uint32_t tokens[4] = {1, 2, 3, 7}, bad_tokens[4] = {1, 2, 8, 3}, positions[4] = {0, 1, 2, 3},
                   late[4] = {1, 2, 3, 4}, pages[3] = {2, 0, 1}, bad_pages[3] = {2, 3, 1};
    const uint32_t rows[2] = {0, 3}, far_rows[1] = {4}, unordered[2] = {3, 0}, many[5] = {0, 1, 2, 3, 3};
    const struct kern_seq good_seq = {.row_count = 4, .pages = pages, .page_count = 3};
    const struct kern_batch good = {
        .row_count = 4, .tokens = tokens, .positions = positions, .seq_count = 1, .seqs = &good_seq};
    const float *logits;
#define EXPECT_BAD_BATCH(...) \
    do { \
        struct kern_batch batch = good; \
        struct kern_seq seq = good_seq; \
        batch.seqs = &seq; \
        __VA_ARGS__; \
        assert_int_equal(model_forward(rig.model, &batch, rows, 2, &logits, &err), ERR_INPUT); \
    } while (0)
    EXPECT_BAD_BATCH(batch.row_count = 0);
    EXPECT_BAD_BATCH(batch.row_count = 9);
    EXPECT_BAD_BATCH(batch.row_count = 5);
    EXPECT_BAD_BATCH(batch.seq_count = 0);
    EXPECT_BAD_BATCH(batch.tokens = bad_tokens);
    EXPECT_BAD_BATCH(batch.positions = late);
    EXPECT_BAD_BATCH(seq.row_first = 1);
    EXPECT_BAD_BATCH(seq.row_count = 0);
    EXPECT_BAD_BATCH(seq.row_count = 5);
    EXPECT_BAD_BATCH(seq.row_count = UINT32_MAX);
    EXPECT_BAD_BATCH(seq.page_count = 0);
    EXPECT_BAD_BATCH(seq.pages = bad_pages);
    EXPECT_BAD_BATCH(seq.pos_first = 37);
    EXPECT_BAD_BATCH(seq.pos_first = UINT32_MAX - 1);
#undef EXPECT_BAD_BATCH
    assert_int_equal(model_forward(rig.model, &good, far_rows, 1, &logits, &err), ERR_INPUT);
    assert_int_equal(model_forward(rig.model, &good, unordered, 2, &logits, &err), ERR_INPUT);
    assert_int_equal(model_forward(rig.model, &good, many, 5, &logits, &err), ERR_INPUT);
    assert_int_equal(model_forward(rig.model, &good, rows, 2, &logits, &err), 0);
    model_rig_close(&rig);
    buf_done(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_llama_equals_the_reference),
        cmocka_unit_test(test_model_f16_pages_stay_close),
        cmocka_unit_test(test_model_fast_levels_stay_close),
        cmocka_unit_test(test_model_open_names_the_missing_tensor),
        cmocka_unit_test(test_model_open_names_the_tensor_of_a_wrong_shape),
        cmocka_unit_test(test_model_open_refuses_an_unknown_tensor),
        cmocka_unit_test(test_model_open_refuses_rope_divisors_that_are_not_positive),
        cmocka_unit_test(test_model_forward_verifies_the_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
