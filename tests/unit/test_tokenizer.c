/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/tokenizer on a vocabulary small enough to tokenize by hand; the expected ids are.
 * Real vocabularies: test_tokenizer_vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/text/tokenizer.h"
#include "tests/data/sample_vocab.h"
#include "tests/unit/guard.h"

static struct guard guard;
static struct tokenizer *sample; // the unedited vocabulary

/* ---- helpers ---- */

static int encode_bytes(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                        size_t ids_max, struct token_list *list)
{
    struct err err = {0};
    int r = tokenizer_encode(tokenizer, (const char *)guard_copy(&guard, text, len), len, flags, ids_max,
                             list, &err);
    if (r < 0) assert_int_equal(err.code, r);
    return r;
}

/* Wants exactly these ids; the list ends with -1. */
static void check_ids(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                      const int *ids)
{
    struct token_list list = {0};
    size_t count = 0;
    assert_int_equal(encode_bytes(tokenizer, text, len, flags, SIZE_MAX, &list), 0);
    for (; ids[count] >= 0; count++) {
        assert_true(count < list.count);
        assert_int_equal(list.ids[count], ids[count]);
    }
    assert_int_equal(list.count, count);
    token_list_done(&list);
}

#define CHECK_IDS(tokenizer, text, flags, ...) \
    check_ids(tokenizer, text, sizeof(text) - 1, flags, (const int[]){__VA_ARGS__, -1})

/* The sample as a writer, to be edited; edit_open and edit_refused take it. */
static struct gguf_writer *edit_start(void)
{
    struct gguf_writer *writer = malloc(sizeof *writer);
    assert_non_null(writer);
    writer_init(writer);
    sample_vocab_write(writer);
    return writer;
}

static void edit_done(struct gguf_writer *writer)
{
    writer_done(writer);
    free(writer);
}

/* Opens an edited vocabulary that must be good; frees the writer. */
static struct tokenizer *edit_open(struct gguf_writer *writer)
{
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    if (sample_vocab_open(writer, &tokenizer, &err) < 0) fail_msg("%s", err.text);
    edit_done(writer);
    return tokenizer;
}

/* Wants it refused with the code, and a message that holds the text; frees the writer. */
static void edit_refused(struct gguf_writer *writer, int code, const char *text)
{
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    assert_int_equal(sample_vocab_open(writer, &tokenizer, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, text)) fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    assert_null(tokenizer);
    edit_done(writer);
}

/* ---- merging ---- */

static void test_tokenizer_merges_by_rank(void **state)
{
    (void)state;
    CHECK_IDS(sample, "the", 0, SAMPLE_THE);
    CHECK_IDS(sample, " the", 0, SAMPLE_SP_THE);
    CHECK_IDS(sample, "in the", 0, SAMPLE_IN, SAMPLE_SP_THE);
    CHECK_IDS(sample, "hello", 0, SAMPLE_HELLO);
    CHECK_IDS(sample, "hell", 0, SAMPLE_HELL);
    CHECK_IDS(sample, "xthey", 0, 'x', SAMPLE_THE, 'y'); // th (0) goes before he (6)
}

static void test_tokenizer_merges_leftmost_of_equals(void **state)
{
    (void)state;
    CHECK_IDS(sample, "aaa", 0, SAMPLE_AA, 'a');
    CHECK_IDS(sample, "aaaaaaa", 0, SAMPLE_AAAA, SAMPLE_AA, 'a');
}

static void test_tokenizer_makes_no_token_without_its_merge(void **state)
{
    (void)state;
    CHECK_IDS(sample, "hey", 0, SAMPLE_HE, 'y');
    CHECK_IDS(sample, "hey", 0, SAMPLE_HE, 'y'); // the second time from the cache
}

static void test_tokenizer_ignores_merges_where_the_model_does(void **state)
{
    (void)state;
    struct gguf_writer *writer = edit_start();
    writer_set_string(writer, "tokenizer.ggml.pre", "llama-bpe");
    struct tokenizer *tokenizer = edit_open(writer);
    CHECK_IDS(tokenizer, "hey", 0, SAMPLE_HEY); // of two with this text the lowest id
    CHECK_IDS(tokenizer, "heya", 0, SAMPLE_HE, 'y', 'a');
    CHECK_IDS(tokenizer, "sys", 0, SAMPLE_SY, 's'); // still not the CONTROL token
    tokenizer_close(tokenizer);
}

/* One letter 10,000 times takes the heap; by hand: pairs from the left, then pairs of pairs. */
static void test_tokenizer_merges_long_pieces(void **state)
{
    (void)state;
    enum { LETTERS = 10003 };
    char *text = malloc(LETTERS);
    struct token_list list = {0};
    assert_non_null(text);
    memset(text, 'a', LETTERS);
    assert_int_equal(encode_bytes(sample, text, LETTERS, 0, SIZE_MAX, &list), 0);
    assert_int_equal(list.count, LETTERS / 4 + 2);
    for (size_t i = 0; i < LETTERS / 4; i++) assert_int_equal(list.ids[i], SAMPLE_AAAA);
    assert_int_equal(list.ids[LETTERS / 4], SAMPLE_AA);
    assert_int_equal(list.ids[LETTERS / 4 + 1], 'a');
    token_list_done(&list);
    free(text);
}

static void test_tokenizer_leaves_out_bytes_without_a_token(void **state)
{
    (void)state;
    const char *texts[SAMPLE_COUNT];
    memcpy(texts, sample_vocab_texts(), sizeof texts);
    texts[1] = "unrelated";
    struct gguf_writer *writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", SAMPLE_COUNT, texts);
    struct tokenizer *tokenizer = edit_open(writer);
    CHECK_IDS(tokenizer, "a\1a", 0, 'a', 'a');
    CHECK_IDS(tokenizer, "(\1)", 0, '(', ')');
    tokenizer_close(tokenizer);
}

/* ---- special tokens ---- */

static void test_tokenizer_parses_special_only_when_told(void **state)
{
    (void)state;
    CHECK_IDS(sample, "a<|im_end|>a", TOKENIZER_PARSE_SPECIAL, 'a', SAMPLE_IM_END, 'a');
    CHECK_IDS(sample, "<|im_end|>", 0, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    CHECK_IDS(sample, "<unk>", TOKENIZER_PARSE_SPECIAL, SAMPLE_UNK);
    CHECK_IDS(sample, "<unk>", 0, '<', 'u', 'n', 'k', '>');
    CHECK_IDS(sample, "<|im_end", TOKENIZER_PARSE_SPECIAL, '<', '|', 'i', 'm', '_', 'e', 'n', 'd');
    CHECK_IDS(sample, "<<|bos|>", TOKENIZER_PARSE_SPECIAL, '<', SAMPLE_BOS);
}

/* A word that is a CONTROL token, and merges that would make it. */
static void test_tokenizer_never_merges_into_a_special_token(void **state)
{
    (void)state;
    CHECK_IDS(sample, "sys", 0, SAMPLE_SY, 's');
    CHECK_IDS(sample, "sys", TOKENIZER_PARSE_SPECIAL, SAMPLE_SYS);
}

static void test_tokenizer_matches_user_defined_in_any_text(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags <= TOKENIZER_PARSE_SPECIAL; flags += TOKENIZER_PARSE_SPECIAL) {
        CHECK_IDS(sample, "the<tool>the", flags, SAMPLE_THE, SAMPLE_TOOL, SAMPLE_THE);
        CHECK_IDS(sample, "<tool><tool><tool>", flags, SAMPLE_TOOLS, SAMPLE_TOOL); // the longest
        CHECK_IDS(sample, "<tool<tool>", flags, '<', 't', 'o', 'o', 'l', SAMPLE_TOOL);
        CHECK_IDS(sample, "h\u00E9", flags, 'h', SAMPLE_ACCENT);
    }
}

static void test_tokenizer_does_not_match_unused_tokens(void **state)
{
    (void)state;
    CHECK_IDS(sample, "<pad>", TOKENIZER_PARSE_SPECIAL, '<', 'p', 'a', 'd', '>');
}

static void test_tokenizer_adds_bos_when_file_and_caller_want_it(void **state)
{
    (void)state;
    CHECK_IDS(sample, "a", TOKENIZER_ADD_BOS, 'a'); // the file does not say so
    struct gguf_writer *writer = edit_start();
    writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 1);
    struct tokenizer *tokenizer = edit_open(writer);
    CHECK_IDS(tokenizer, "a", TOKENIZER_ADD_BOS, SAMPLE_BOS, 'a');
    CHECK_IDS(tokenizer, "", TOKENIZER_ADD_BOS, SAMPLE_BOS);
    CHECK_IDS(tokenizer, "a", 0, 'a');
    tokenizer_close(tokenizer);

    writer = edit_start();
    writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 1);
    writer_remove_key(writer, "tokenizer.ggml.bos_token_id");
    tokenizer = edit_open(writer);
    assert_int_equal(tokenizer_bos(tokenizer), TOKEN_NONE);
    CHECK_IDS(tokenizer, "a", TOKENIZER_ADD_BOS, 'a');
    tokenizer_close(tokenizer);
}

/* ---- runs of template and user ---- */

/* Parts of a text in turn: the template's (even) and the user's (odd). Ids end with -1. */
static void check_spans(const struct tokenizer *tokenizer, const char *const *parts, size_t part_count,
                        unsigned flags, const int *ids)
{
    struct text_span spans[8];
    struct buf text;
    struct token_list list = {0};
    size_t count = 0;
    buf_init(&text, KIB(1));
    for (size_t i = 0; i < part_count; i++) {
        spans[i] = (struct text_span){text.len, strlen(parts[i]), i % 2};
        assert_int_equal(buf_puts(&text, parts[i]), 0);
    }
    const char *copy = (const char *)guard_copy(&guard, buf_text(&text), text.len);
    assert_int_equal(
        tokenizer_encode_spans(tokenizer, copy, text.len, spans, part_count, flags, SIZE_MAX, &list, NULL),
        0);
    for (; ids[count] >= 0; count++) {
        assert_true(count < list.count);
        assert_int_equal(list.ids[count], ids[count]);
    }
    assert_int_equal(list.count, count);
    token_list_done(&list);
    buf_done(&text);
}

#define PARTS(...) ((const char *const[]){__VA_ARGS__}), COUNT_OF(((const char *const[]){__VA_ARGS__}))
#define IDS(...) ((const int[]){__VA_ARGS__, -1})

static void test_tokenizer_finds_special_only_in_the_templates_runs(void **state)
{
    (void)state;
    check_spans(sample, PARTS("<|bos|>", "hello", "<|im_end|>"), 0,
                IDS(SAMPLE_BOS, SAMPLE_HELLO, SAMPLE_IM_END));
    check_spans(sample, PARTS("<|bos|>", "<unk>", "<|im_end|>"), 0,
                IDS(SAMPLE_BOS, '<', 'u', 'n', 'k', '>', SAMPLE_IM_END));
    /* Not even in part: neither side may complete the other. */
    check_spans(sample, PARTS("<un", "k>"), 0, IDS('<', 'u', 'n', 'k', '>'));
    check_spans(sample, PARTS("", "<un", "k>"), 0, IDS('<', 'u', 'n', 'k', '>'));
    check_spans(sample, PARTS("<u", "n", "k>"), 0, IDS('<', 'u', 'n', 'k', '>'));
    /* An empty run of the user's divides nothing. */
    check_spans(sample, PARTS("<un", "", "k>"), 0, IDS(SAMPLE_UNK));
    /* USER_DEFINED tokens are found anywhere, across runs as well. */
    check_spans(sample, PARTS("<to", "ol>", "a"), 0, IDS(SAMPLE_TOOL, 'a'));
}

static void test_tokenizer_merges_across_runs(void **state)
{
    (void)state;
    check_spans(sample, PARTS("he", "llo t", "he"), 0, IDS(SAMPLE_HELLO, SAMPLE_SP_THE));
    check_spans(sample, PARTS("in ", "the"), 0, IDS(SAMPLE_IN, SAMPLE_SP_THE));
}

static void test_tokenizer_treats_uncovered_text_as_the_users(void **state)
{
    (void)state;
    static const char text[] = "<unk><unk><unk>";
    const struct text_span spans[] = {{5, 5, false}};
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode_spans(sample, text, strlen(text), spans, 1, 0, 100, &list, NULL), 0);
    assert_int_equal(list.count, 11);
    assert_int_equal(list.ids[5], SAMPLE_UNK);
    list.count = 0;
    assert_int_equal(tokenizer_encode_spans(sample, text, strlen(text), NULL, 0, 0, 100, &list, NULL), 0);
    assert_int_equal(list.count, 15);
    token_list_done(&list);
}

static void test_tokenizer_adds_no_second_bos(void **state)
{
    (void)state;
    struct gguf_writer *writer = edit_start();
    writer_set_bool(writer, "tokenizer.ggml.add_bos_token", 1);
    struct tokenizer *tokenizer = edit_open(writer);
    check_spans(tokenizer, PARTS("<|bos|>", "a"), TOKENIZER_ADD_BOS, IDS(SAMPLE_BOS, 'a'));
    check_spans(tokenizer, PARTS("a", "a"), TOKENIZER_ADD_BOS, IDS(SAMPLE_BOS, SAMPLE_AA));
    check_spans(tokenizer, PARTS("", "<|bos|>"), TOKENIZER_ADD_BOS,
                IDS(SAMPLE_BOS, '<', '|', 'b', 'o', 's', '|', '>'));
    check_spans(tokenizer, PARTS(""), TOKENIZER_ADD_BOS, IDS(SAMPLE_BOS));
    tokenizer_close(tokenizer);
}

/* A user who fills a prompt with texts of special tokens, in many messages: linear, not quadratic. */
static void test_tokenizer_takes_many_runs_of_forbidden_texts(void **state)
{
    (void)state;
    enum { RUNS = 100000 };
    static const char unit[] = "<unk><unk>"; // the template's, then the user's
    struct text_span *spans = malloc(2 * RUNS * sizeof *spans);
    char *text = malloc(RUNS * strlen(unit));
    struct token_list list = {0};
    assert_non_null(spans);
    assert_non_null(text);
    for (size_t i = 0; i < RUNS; i++) memcpy(text + i * strlen(unit), unit, strlen(unit));
    for (size_t i = 0; i < 2 * RUNS; i++) spans[i] = (struct text_span){i * 5, 5, i % 2};
    assert_int_equal(
        tokenizer_encode_spans(sample, text, RUNS * strlen(unit), spans, 2 * RUNS, 0, SIZE_MAX, &list, NULL),
        0);
    assert_int_equal(list.count, RUNS * 6);
    token_list_done(&list);
    free(spans);
    free(text);
}

/* ---- input and bounds ---- */

static void test_tokenizer_takes_empty_text_and_nul(void **state)
{
    (void)state;
    struct token_list list = {0};
    assert_int_equal(encode_bytes(sample, "", 0, 0, 0, &list), 0);
    assert_int_equal(list.count, 0);
    token_list_done(&list);
    CHECK_IDS(sample, "a\0a", 0, 'a', 0, 'a');
}

static void test_tokenizer_appends(void **state)
{
    (void)state;
    struct token_list list = {0};
    assert_int_equal(encode_bytes(sample, "the", 3, 0, 3, &list), 0);
    assert_int_equal(encode_bytes(sample, "hello", 5, 0, 3, &list), 0);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.ids[0], SAMPLE_THE);
    assert_int_equal(list.ids[1], SAMPLE_HELLO);
    token_list_done(&list);
}

static void test_tokenizer_refuses_malformed_utf8(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\x80",         "a\xC3",        "\xC0\xAF",    "\xED\xA0\x80", "\xF4\x90\x80\x80",
        "\xF0\x9F\x98", "abcdefgh\xFF", "\xE2\x28\xA1"};
    struct token_list list = {0};
    assert_int_equal(token_list_push(&list, 7), 0);
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        assert_int_equal(encode_bytes(sample, texts[i], strlen(texts[i]), 0, SIZE_MAX, &list), ERR_INPUT);
        assert_int_equal(list.count, 1); // as it was
    }
    token_list_done(&list);
}

static void test_tokenizer_stops_at_ids_max(void **state)
{
    (void)state;
    struct token_list list = {0};
    static const char text[] = "the<tool>hello xyz";
    assert_int_equal(encode_bytes(sample, text, strlen(text), 0, SIZE_MAX, &list), 0);
    size_t count = list.count;
    for (size_t ids_max = 0; ids_max < count; ids_max++) {
        list.count = 0;
        assert_int_equal(encode_bytes(sample, text, strlen(text), 0, ids_max, &list), -EMSGSIZE);
        assert_int_equal(list.count, 0);
    }
    assert_int_equal(encode_bytes(sample, text, strlen(text), 0, count, &list), 0);
    assert_int_equal(encode_bytes(sample, "x", 1, 0, count, &list), -EMSGSIZE); // counts what was there
    assert_int_equal(list.count, count);
    token_list_done(&list);
}

/* The end of the text is malformed, which only a reader of all of it would say. */
static void test_tokenizer_refuses_a_huge_text_unread(void **state)
{
    (void)state;
    struct token_list list = {0};
    size_t len = KIB(64);
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, 'a', len);
    text[len - 1] = '\xFF';
    assert_int_equal(encode_bytes(sample, text, len, 0, 100, &list), -EMSGSIZE);
    free(text);
    token_list_done(&list);
}

/* ---- decoding and facts ---- */

static void test_tokenizer_decodes(void **state)
{
    (void)state;
    const uint32_t ids[] = {SAMPLE_BOS, SAMPLE_HELLO, SAMPLE_SP_THE, SAMPLE_TOOL, SAMPLE_ACCENT,
                            SAMPLE_PAD, 0xFF,         SAMPLE_IM_END, SAMPLE_COUNT};
    struct buf out;
    buf_init(&out, 100);
    assert_int_equal(tokenizer_decode(sample, ids, COUNT_OF(ids), false, &out), 0);
    assert_string_equal(buf_text(&out), "<|bos|>hello the<tool>\u00E9<pad>\xFF<|im_end|>");
    buf_clear(&out);
    assert_int_equal(tokenizer_decode(sample, ids, COUNT_OF(ids), true, &out), 0);
    assert_string_equal(buf_text(&out), "hello the<tool>\u00E9<pad>\xFF");
    buf_done(&out);

    buf_init(&out, 8);
    assert_int_equal(tokenizer_decode(sample, ids, COUNT_OF(ids), false, &out), -EMSGSIZE);
    buf_done(&out);
}

static void test_tokenizer_gives_the_bytes_of_each_byte_token(void **state)
{
    (void)state;
    size_t len;
    for (uint32_t id = 0; id < 256; id++) {
        const uint8_t *bytes = tokenizer_token_bytes(sample, id, &len);
        assert_int_equal(len, 1);
        assert_int_equal(bytes[0], id);
    }
    (void)tokenizer_token_bytes(sample, SAMPLE_COUNT, &len); // only the length counts
    assert_int_equal(len, 0);
    (void)tokenizer_token_bytes(sample, TOKEN_NONE, &len);
    assert_int_equal(len, 0);
}

static void test_tokenizer_finds_tokens_by_text(void **state)
{
    (void)state;
    assert_int_equal(tokenizer_find(sample, " the", 4), SAMPLE_SP_THE);
    assert_int_equal(tokenizer_find(sample, "<|im_end|>", 10), SAMPLE_IM_END);
    assert_int_equal(tokenizer_find(sample, "hey", 3), SAMPLE_HEY);
    assert_int_equal(tokenizer_find(sample, "\xFF", 1), 0xFF);
    assert_int_equal(tokenizer_find(sample, "the ", 4), TOKEN_NONE);
    assert_int_equal(tokenizer_find(sample, "<|im_end", 8), TOKEN_NONE);
    assert_int_equal(tokenizer_find(sample, "", 0), TOKEN_NONE);
}

static void test_tokenizer_knows_special_and_end_ids(void **state)
{
    (void)state;
    size_t count;
    const uint32_t *ends = tokenizer_ends(sample, &count);
    assert_int_equal(count, 1);
    assert_int_equal(ends[0], SAMPLE_IM_END);
    assert_true(tokenizer_is_end(sample, SAMPLE_IM_END));
    assert_false(tokenizer_is_end(sample, SAMPLE_BOS));
    assert_false(tokenizer_is_end(sample, TOKEN_NONE));
    assert_true(tokenizer_is_special(sample, SAMPLE_BOS));
    assert_true(tokenizer_is_special(sample, SAMPLE_UNK));
    assert_false(tokenizer_is_special(sample, SAMPLE_TOOL));
    assert_false(tokenizer_is_special(sample, SAMPLE_COUNT));
    assert_int_equal(tokenizer_vocab_count(sample), SAMPLE_COUNT);
}

/* Ends come from three keys and from known texts, the texts only of CONTROL tokens. */
static void test_tokenizer_collects_ends(void **state)
{
    (void)state;
    const char *texts[SAMPLE_COUNT];
    memcpy(texts, sample_vocab_texts(), sizeof texts);
    texts[SAMPLE_TOOL] = "<|eot_id|>"; // USER_DEFINED: not an end
    texts[SAMPLE_BOS] = "<|end|>";
    struct gguf_writer *writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", SAMPLE_COUNT, texts);
    writer_set_u32(writer, "tokenizer.ggml.eos_token_id", 5);
    writer_set_u32(writer, "tokenizer.ggml.eot_token_id", SAMPLE_UNK);
    writer_set_u32(writer, "tokenizer.ggml.eom_token_id", 5);
    struct tokenizer *tokenizer = edit_open(writer);
    size_t count;
    const uint32_t *ends = tokenizer_ends(tokenizer, &count);
    assert_int_equal(count, 4);
    assert_int_equal(ends[0], 5);
    assert_int_equal(ends[1], SAMPLE_BOS);
    assert_int_equal(ends[2], SAMPLE_IM_END);
    assert_int_equal(ends[3], SAMPLE_UNK);
    tokenizer_close(tokenizer);
}

static void test_tokenizer_goes_on_after_end_in_harmony(void **state)
{
    (void)state;
    const char *texts[SAMPLE_COUNT];
    memcpy(texts, sample_vocab_texts(), sizeof texts);
    texts[SAMPLE_BOS] = "<|end|>";
    texts[SAMPLE_IM_END] = "<|return|>";
    texts[SAMPLE_SYS] = "<|call|>";
    struct gguf_writer *writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", SAMPLE_COUNT, texts);
    writer_set_strings(writer, "tokenizer.ggml.merges", 0, NULL);
    struct tokenizer *tokenizer = edit_open(writer);
    assert_false(tokenizer_is_end(tokenizer, SAMPLE_BOS));
    assert_true(tokenizer_is_end(tokenizer, SAMPLE_IM_END));
    assert_true(tokenizer_is_end(tokenizer, SAMPLE_SYS));
    tokenizer_close(tokenizer);
}

/* ---- damaged vocabularies ---- */

static void test_tokenizer_refuses_other_models_by_name(void **state)
{
    (void)state;
    struct gguf_writer *writer = edit_start();
    writer_set_string(writer, "tokenizer.ggml.model", "bert");
    edit_refused(writer, ERR_UNSUPPORTED, "\"bert\"");
    writer = edit_start();
    writer_set_string(writer, "tokenizer.ggml.pre", "no-such-thing");
    edit_refused(writer, ERR_UNSUPPORTED, "\"no-such-thing\"");
    writer = edit_start();
    writer_remove_key(writer, "tokenizer.ggml.pre");
    edit_refused(writer, ERR_UNSUPPORTED, "tokenizer.ggml.pre");
    writer = edit_start();
    writer_set_u32(writer, "tokenizer.ggml.pre", 1);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.pre");
    writer = edit_start();
    writer_remove_key(writer, "tokenizer.ggml.model");
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.model");
}

static void test_tokenizer_refuses_arrays_of_wrong_type_or_length(void **state)
{
    (void)state;
    const int32_t *types = sample_vocab_types();
    float scores[SAMPLE_COUNT] = {0};
    struct gguf_writer *writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_I32, SAMPLE_COUNT - 1, types,
                     (SAMPLE_COUNT - 1) * sizeof *types);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.token_type");
    writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_U8, SAMPLE_COUNT, types, SAMPLE_COUNT);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.token_type");
    writer = edit_start();
    writer_set_u32(writer, "tokenizer.ggml.token_type", 1);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.token_type");
    writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.scores", GGUF_F32, 3, scores, 3 * sizeof *scores);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.scores");
    writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.scores", GGUF_I8, SAMPLE_COUNT, scores, SAMPLE_COUNT);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.scores");
    writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.tokens", GGUF_I32, SAMPLE_COUNT, types,
                     SAMPLE_COUNT * sizeof *types);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.tokens");
    writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", 0, NULL);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.tokens");
    writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.merges", GGUF_I32, 4, types, 4 * sizeof *types);
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.merges");
    writer = edit_start();
    writer_remove_key(writer, "tokenizer.ggml.merges");
    edit_refused(writer, ERR_FORMAT, "tokenizer.ggml.merges");
}

static void test_tokenizer_refuses_unknown_types_and_texts(void **state)
{
    (void)state;
    int32_t types[SAMPLE_COUNT];
    const char *texts[SAMPLE_COUNT];
    memcpy(types, sample_vocab_types(), sizeof types);
    types[3] = -1;
    struct gguf_writer *writer = edit_start();
    writer_set_array(writer, "tokenizer.ggml.token_type", GGUF_I32, SAMPLE_COUNT, types, sizeof types);
    edit_refused(writer, ERR_FORMAT, "token 3");
    memcpy(texts, sample_vocab_texts(), sizeof texts);
    texts[9] = "\xC0\x80";
    writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", SAMPLE_COUNT, texts);
    edit_refused(writer, ERR_FORMAT, "token 9");
}

static void test_tokenizer_refuses_ids_out_of_range(void **state)
{
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        struct gguf_writer *writer = edit_start();
        writer_set_u32(writer, keys[i], SAMPLE_COUNT);
        edit_refused(writer, ERR_FORMAT, keys[i]);
        writer = edit_start();
        writer_set_u32(writer, keys[i], UINT32_MAX);
        edit_refused(writer, ERR_FORMAT, keys[i]);
        writer = edit_start();
        writer_set_i32(writer, keys[i], -1);
        edit_refused(writer, ERR_FORMAT, keys[i]);
        writer = edit_start();
        writer_set_string(writer, keys[i], "2");
        edit_refused(writer, ERR_FORMAT, keys[i]);
    }
}

static void test_tokenizer_refuses_merges_of_no_tokens(void **state)
{
    (void)state;
    static const char *const merges[] = {"nosuch token", "t",     "",    " h",    "t ",
                                         "t  h",         "t h e", "a b", "\xFF a"};
    for (size_t i = 0; i < COUNT_OF(merges); i++) {
        const char *list[] = {"t h", merges[i]};
        struct gguf_writer *writer = edit_start();
        writer_set_strings(writer, "tokenizer.ggml.merges", 2, list);
        edit_refused(writer, ERR_FORMAT, "merge 1");
    }
}

static void test_tokenizer_bounds_the_vocabulary(void **state)
{
    (void)state;
    size_t count = MODEL_VOCAB_MAX + 1;
    const char **texts = malloc(count * sizeof *texts);
    assert_non_null(texts);
    for (size_t i = 0; i < count; i++) texts[i] = "";
    struct gguf_writer *writer = edit_start();
    writer_set_strings(writer, "tokenizer.ggml.tokens", count, texts);
    edit_refused(writer, ERR_LIMIT, "tokenizer.ggml.tokens");
    free(texts);
}

static int open_sample(void **state)
{
    (void)state;
    sample = sample_vocab_new();
    return 0;
}

static int close_sample(void **state)
{
    (void)state;
    tokenizer_close(sample);
    guard_done(&guard);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_merges_by_rank),
        cmocka_unit_test(test_tokenizer_merges_leftmost_of_equals),
        cmocka_unit_test(test_tokenizer_makes_no_token_without_its_merge),
        cmocka_unit_test(test_tokenizer_ignores_merges_where_the_model_does),
        cmocka_unit_test(test_tokenizer_merges_long_pieces),
        cmocka_unit_test(test_tokenizer_leaves_out_bytes_without_a_token),
        cmocka_unit_test(test_tokenizer_parses_special_only_when_told),
        cmocka_unit_test(test_tokenizer_never_merges_into_a_special_token),
        cmocka_unit_test(test_tokenizer_matches_user_defined_in_any_text),
        cmocka_unit_test(test_tokenizer_does_not_match_unused_tokens),
        cmocka_unit_test(test_tokenizer_adds_bos_when_file_and_caller_want_it),
        cmocka_unit_test(test_tokenizer_finds_special_only_in_the_templates_runs),
        cmocka_unit_test(test_tokenizer_merges_across_runs),
        cmocka_unit_test(test_tokenizer_treats_uncovered_text_as_the_users),
        cmocka_unit_test(test_tokenizer_adds_no_second_bos),
        cmocka_unit_test(test_tokenizer_takes_many_runs_of_forbidden_texts),
        cmocka_unit_test(test_tokenizer_takes_empty_text_and_nul),
        cmocka_unit_test(test_tokenizer_appends),
        cmocka_unit_test(test_tokenizer_refuses_malformed_utf8),
        cmocka_unit_test(test_tokenizer_stops_at_ids_max),
        cmocka_unit_test(test_tokenizer_refuses_a_huge_text_unread),
        cmocka_unit_test(test_tokenizer_decodes),
        cmocka_unit_test(test_tokenizer_gives_the_bytes_of_each_byte_token),
        cmocka_unit_test(test_tokenizer_finds_tokens_by_text),
        cmocka_unit_test(test_tokenizer_knows_special_and_end_ids),
        cmocka_unit_test(test_tokenizer_collects_ends),
        cmocka_unit_test(test_tokenizer_goes_on_after_end_in_harmony),
        cmocka_unit_test(test_tokenizer_refuses_other_models_by_name),
        cmocka_unit_test(test_tokenizer_refuses_arrays_of_wrong_type_or_length),
        cmocka_unit_test(test_tokenizer_refuses_unknown_types_and_texts),
        cmocka_unit_test(test_tokenizer_refuses_ids_out_of_range),
        cmocka_unit_test(test_tokenizer_refuses_merges_of_no_tokens),
        cmocka_unit_test(test_tokenizer_bounds_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, open_sample, close_sample);
}
