/* SPDX-License-Identifier: Apache-2.0 */
/* What model_facts_read() makes of the small test model, of broken ones, and of the reference models
 * under $KVASIR_VECTORS (default ../shared/vectors), whose README gives the expected values. */
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
#include "common/gguf/facts.h"
#include "common/gguf/file.h"
#include "tests/data/gguf_hostile.h"
#include "tests/data/gguf_writer.h"
#include "tests/unit/guard.h"

static struct gguf_writer writer;
static struct guard guard;

static int setup(void **state)
{
    (void)state;
    writer_init_llama(&writer);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    writer_done(&writer);
    guard_done(&guard);
    return 0;
}

/* Facts of what the writer holds. The file must parse. */
static int read_writer(struct model_facts *ret_facts, struct err *err)
{
    struct buf bytes;
    struct gguf *gguf = NULL;
    writer_finish(&writer, &bytes);
    assert_int_equal(gguf_parse(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len, &gguf, err), 0);
    int r = model_facts_read(gguf, ret_facts, err);
    gguf_free(gguf);
    buf_done(&bytes);
    return r;
}

static struct model_facts read_good(void)
{
    struct model_facts facts;
    struct err err = {0};
    int r = read_writer(&facts, &err);
    if (r < 0) fail_msg("%s", err.text);
    return facts;
}

static void test_facts_reads_every_field(void **state)
{
    (void)state;
    struct model_facts facts = read_good();
    assert_string_equal(facts.architecture, "llama");
    assert_string_equal(facts.name, "Small test model");
    assert_int_equal(facts.vocab_count, 8);
    assert_int_equal(facts.context_length, 64);
    assert_int_equal(facts.layer_count, 1);
    assert_int_equal(facts.embedding_dims, 32);
    assert_int_equal(facts.feed_forward_dims, 48);
    assert_int_equal(facts.head_count, 4);
    assert_int_equal(facts.head_count_kv, 2);
    assert_int_equal(facts.head_dims, 8);
    assert_true(facts.rms_epsilon == 1e-5f);
    assert_true(fabsf(facts.attention_scale - 0.35355339f) < 1e-7f); // 1/sqrt(8)
    assert_int_equal(facts.rope_order, ROPE_ADJACENT);
    assert_int_equal(facts.rope_dims, 8);
    assert_true(facts.rope_base == 10000.0f);
    assert_true(facts.rope_scale == 1.0f);
    uint64_t elements = 32 * 8 + 3 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48;
    assert_int_equal(facts.parameter_count, elements);
    assert_int_equal(facts.weight_bytes, elements * 4);
}

static void test_facts_fills_in_defaults(void **state)
{
    (void)state;
    writer_remove_key(&writer, "general.name");
    writer_remove_key(&writer, "llama.attention.head_count_kv");
    writer_remove_key(&writer, "llama.rope.dimension_count");
    writer_remove_key(&writer, "llama.rope.freq_base");
    struct model_facts facts = read_good();
    assert_string_equal(facts.name, "");
    assert_int_equal(facts.head_count_kv, facts.head_count);
    assert_int_equal(facts.rope_dims, facts.head_dims);
    assert_true(facts.rope_base == 10000.0f);
}

static void test_facts_takes_what_the_file_says(void **state)
{
    (void)state;
    writer_set_u32(&writer, "llama.attention.key_length", 16);
    writer_set_u32(&writer, "llama.attention.value_length", 16);
    writer_set_u32(&writer, "llama.rope.dimension_count", 16);
    writer_set_f32(&writer, "llama.attention.scale", 0.5f);
    writer_set_string(&writer, "llama.rope.scaling.type", "linear");
    writer_set_f32(&writer, "llama.rope.scaling.factor", 4);
    writer_set_raw(&writer, "llama.block_count", GGUF_U64, &(uint64_t){7}, 8);
    writer_set_u32(&writer, "llama.attention.sliding_window", 4096); // ignored, as every engine does
    writer_set_u32(&writer, "llama.expert_count", 0);
    struct model_facts facts = read_good();
    assert_int_equal(facts.head_dims, 16);
    assert_true(facts.attention_scale == 0.5f);
    assert_true(facts.rope_scale == 0.25f);
    assert_int_equal(facts.layer_count, 7);
}

static void test_facts_rope_scaling_none_and_no_factor_mean_one(void **state)
{
    (void)state;
    writer_set_string(&writer, "llama.rope.scaling.type", "none");
    writer_set_f32(&writer, "llama.rope.scaling.factor", 4);
    assert_true(read_good().rope_scale == 1.0f);
    writer_set_string(&writer, "llama.rope.scaling.type", "linear");
    writer_set_f32(&writer, "llama.rope.scaling.factor", 0);
    assert_true(read_good().rope_scale == 1.0f);
    writer_remove_key(&writer, "llama.rope.scaling.factor");
    writer_remove_key(&writer, "llama.rope.scaling.type");
    writer_set_f32(&writer, "llama.rope.scale_linear", 8); // the old name
    assert_true(read_good().rope_scale == 0.125f);
}

static void test_facts_name_is_printable_and_cut_at_a_character(void **state)
{
    (void)state;
    writer_set_string(&writer, "general.name", "A\n\x1b[31mB\xff\xe2\x80\xaeZ\xc3\xa9");
    assert_string_equal(read_good().name, "A[31mBZ\xc3\xa9");
    char name[80];
    memset(name, 'n', sizeof name);
    memcpy(name + 62, "\xc3\xa9", 3); // two bytes where one is left
    writer_set_string(&writer, "general.name", name);
    assert_int_equal(strlen(read_good().name), 62);
}

static void test_facts_refuses_every_hostile_file_with_its_reason(void **state)
{
    (void)state;
    size_t refused = 0;
    for (size_t i = 0; i < hostile_count(); i++) {
        struct buf bytes;
        struct gguf *gguf = NULL;
        struct err err = {0};
        struct model_facts facts;
        struct hostile hostile = hostile_build(i, &bytes);
        if (hostile.stage != HOSTILE_PARSE) {
            int r = gguf_parse(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len, &gguf, &err);
            if (r < 0) fail_msg("%s: %s", hostile.name, err.text);
            r = model_facts_read(gguf, &facts, &err);
            bool as_expected = hostile.stage == HOSTILE_FACTS ? r == hostile.code && err.code == r : r == 0;
            if (hostile.stage == HOSTILE_FACTS && !strstr(err.text, hostile.why)) as_expected = false;
            if (!as_expected) fail_msg("%s: %d '%s', expected '%s'", hostile.name, r, err.text, hostile.why);
            assert_null(strpbrk(err.text, "\n\x1b"));
            gguf_free(gguf);
            refused += hostile.stage == HOSTILE_FACTS;
        }
        buf_done(&bytes);
    }
    assert_true(refused >= 120);
}

/* ---- reference models ---- */

struct reference {
    const char *file;
    int code;
    const char *why; // part of the error, or NULL
    uint32_t embedding_dims, head_count_kv, head_dims;
    float rope_base, rope_scale;
};

/* Expected values: the notes in the models' JSON files and the README beside them. 0: not stated there. */
static const struct reference references[] = {
    {"tiny/llama_tied", 0, NULL, 0, 0, 0, 10000, 1},
    {"tiny/llama_untied", 0, NULL, 0, 1, 0, 10000, 1},
    {"tiny/llama_bias", 0, NULL, 0, 0, 0, 0, 1},
    {"tiny/llama_linear", 0, NULL, 0, 0, 0, 0, 0.25f},
    {"tiny/llama3_ropefreqs", 0, NULL, 0, 0, 0, 500000, 1},
    {"tiny/mistral_headdim", 0, NULL, 0, 0, 0, 1000000, 1},
    {"tiny/llama_yarn", ERR_UNSUPPORTED, "llama.rope.scaling.type 'yarn'", 0, 0, 0, 0, 0},
    {"tiny/mixtral", ERR_UNSUPPORTED, "llama.expert_count: mixture of experts", 0, 0, 0, 0, 0},
    {"tiny/qwen2", ERR_UNSUPPORTED, "general.architecture 'qwen2'", 0, 0, 0, 0, 0},
    {"tiny/qwen3", ERR_UNSUPPORTED, "general.architecture 'qwen3'", 0, 0, 0, 0, 0},
    {"tiny/qwen3moe", ERR_UNSUPPORTED, "general.architecture 'qwen3moe'", 0, 0, 0, 0, 0},
    {"tiny/gemma2", ERR_UNSUPPORTED, "general.architecture 'gemma2'", 0, 0, 0, 0, 0},
    {"tiny/gemma3", ERR_UNSUPPORTED, "general.architecture 'gemma3'", 0, 0, 0, 0, 0},
    {"tiny/phi3", ERR_UNSUPPORTED, "general.architecture 'phi3'", 0, 0, 0, 0, 0},
    {"tiny/smollm3", ERR_UNSUPPORTED, "general.architecture 'smollm3'", 0, 0, 0, 0, 0},
    {"tiny/olmo2", ERR_UNSUPPORTED, "general.architecture 'olmo2'", 0, 0, 0, 0, 0},
    {"tiny/granite", ERR_UNSUPPORTED, "general.architecture 'granite'", 0, 0, 0, 0, 0},
    {"tiny/gptoss_mxfp4", ERR_UNSUPPORTED, "general.architecture 'gpt-oss'", 0, 0, 0, 0, 0},
    {"tiny/starcoder2", ERR_UNSUPPORTED, "general.architecture 'starcoder2'", 0, 0, 0, 0, 0},
    {"tiny/gpt2", ERR_UNSUPPORTED, "general.architecture 'gpt2'", 0, 0, 0, 0, 0},
    {"tiny/quant/f16", 0, NULL, 64, 0, 0, 0, 1},
    {"tiny/quant/bf16", 0, NULL, 64, 0, 0, 0, 1},
    {"tiny/quant/q4_0", 0, NULL, 256, 0, 0, 0, 1},
    {"tiny/quant/q4_k_s", 0, NULL, 256, 0, 0, 0, 1},
    {"tiny/quant/q6_k", 0, NULL, 256, 0, 0, 0, 1},
    {"tiny/quant/q8_0", 0, NULL, 256, 0, 0, 0, 1},
    {"tiny/quant/iq4_xs", 0, NULL, 256, 0, 0, 0, 1},
};

static void verify_reference(const struct reference *reference, const char *path)
{
    struct gguf_file file;
    struct model_facts facts;
    struct err err = {0};
    if (gguf_file_open(path, &file, &err) < 0) fail_msg("%s", err.text);
    int r = model_facts_read(file.gguf, &facts, &err);
    if (r != reference->code) fail_msg("%s: %d '%s'", path, r, err.text);
    if (reference->why) {
        if (!strstr(err.text, reference->why)) fail_msg("%s: '%s'", path, err.text);
    } else {
        assert_int_equal(facts.vocab_count, 512);
        assert_true(facts.embedding_dims == 64 || facts.embedding_dims == 96 || facts.embedding_dims == 256);
        assert_true(facts.head_dims == 32 || facts.head_dims == 64);
        if (reference->embedding_dims) assert_int_equal(facts.embedding_dims, reference->embedding_dims);
        if (reference->head_count_kv) assert_int_equal(facts.head_count_kv, reference->head_count_kv);
        if (reference->rope_base > 0) assert_true(facts.rope_base == reference->rope_base);
        assert_true(facts.rope_scale == reference->rope_scale);
    }
    gguf_file_close(&file);
}

static void test_facts_agree_with_the_notes_of_the_reference_models(void **state)
{
    (void)state;
    char path[4096];
    const char *root = getenv("KVASIR_VECTORS");
    if (!root) root = "../shared/vectors";
    (void)snprintf(path, sizeof path, "%s/tiny/README.md", root);
    if (access(path, R_OK) < 0) {
        print_message("no reference models at %s: skipped\n", root);
        skip();
    }
    for (size_t i = 0; i < COUNT_OF(references); i++) {
        (void)snprintf(path, sizeof path, "%s/%s.gguf", root, references[i].file);
        verify_reference(&references[i], path);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_facts_reads_every_field, setup, teardown),
        cmocka_unit_test_setup_teardown(test_facts_fills_in_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_facts_takes_what_the_file_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_facts_rope_scaling_none_and_no_factor_mean_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_facts_name_is_printable_and_cut_at_a_character, setup, teardown),
        cmocka_unit_test_setup_teardown(test_facts_refuses_every_hostile_file_with_its_reason, setup,
                                        teardown),
        cmocka_unit_test(test_facts_agree_with_the_notes_of_the_reference_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
