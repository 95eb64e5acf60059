/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/tokenizer against what other implementations make of the same text: the
 * conformance vectors ($KVASIR_VECTORS, or ../shared/vectors under the project's root) and the
 * SmolLM2 model ($KVASIR_MODEL, or the cache where `quickstart` puts it). Absent ones are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"
#include "common/gguf/file.h"
#include "common/text/tokenizer.h"
#include "tests/unit/guard.h"

#define SEPARATOR "\n__ggml_vocab_test__\n"

static struct guard guard;

/* ---- files ---- */

static const char *vectors_path(const char *name, const char *suffix)
{
    static char path[4096];
    const char *root = getenv("KVASIR_VECTORS");
    (void)snprintf(path, sizeof path, "%s/tokenizers/%s%s", root ? root : "../shared/vectors", name, suffix);
    return path;
}

static const char *model_path(void)
{
    static char path[4096];
    const char *file = "kvasir/SmolLM2-135M-Instruct.Q4_1.gguf";
    const char *model = getenv("KVASIR_MODEL"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (model) (void)snprintf(path, sizeof path, "%s", model);
    else if (cache) (void)snprintf(path, sizeof path, "%s/%s", cache, file);
    else (void)snprintf(path, sizeof path, "%s/.cache/%s", home ? home : "", file);
    return path;
}

/* Skips the test that calls it when the file is absent. */
static void require_file(const char *path)
{
    if (access(path, R_OK) == 0) return;
    print_message("[  SKIP ] %s is not there\n", path);
    skip();
}

/* The whole file, NUL-terminated; free() it. */
static char *read_file(const char *path, size_t *ret_len)
{
    FILE *file = fopen(path, "rb");
    size_t cap = MIB(1);
    char *text = malloc(cap + 1);
    assert_non_null(file);
    assert_non_null(text);
    *ret_len = fread(text, 1, cap, file);
    assert_true(*ret_len < cap);
    text[*ret_len] = 0;
    assert_int_equal(fclose(file), 0);
    return text;
}

static struct tokenizer *open_file(const char *path)
{
    struct gguf_file file = {0};
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    int r = gguf_file_open(path, &file, &err);
    if (r == 0) r = tokenizer_open(file.gguf, &tokenizer, &err);
    if (r < 0) fail_msg("%s: %s", path, err.text);
    gguf_file_close(&file); // the tokenizer keeps nothing of it
    return tokenizer;
}

static struct tokenizer *open_vocab(const char *name)
{
    char file[256];
    (void)snprintf(file, sizeof file, "ggml-vocab-%s.gguf", name);
    const char *path = vectors_path(file, "");
    require_file(path);
    return open_file(path);
}

static struct tokenizer *open_model(void)
{
    require_file(model_path());
    return open_file(model_path());
}

/* ---- comparing ---- */

static void encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                   struct token_list *list)
{
    struct err err = {0};
    const char *copy = (const char *)guard_copy(&guard, text, len);
    list->count = 0;
    if (tokenizer_encode(tokenizer, copy, len, flags, SIZE_MAX, list, &err) < 0) fail_msg("%s", err.text);
}

/* Encodes one case and compares; then decodes and wants the text back (lossless: every byte of the
 * text that the vocabulary has a token for). */
static bool case_matches(const struct tokenizer *tokenizer, const char *text, size_t len, const uint32_t *ids,
                         size_t count)
{
    struct token_list list = {0};
    struct buf out;
    encode(tokenizer, text, len, 0, &list);
    bool same = list.count == count && (count == 0 || memcmp(list.ids, ids, count * sizeof *ids) == 0);
    buf_init(&out, MIB(1));
    assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, false, &out), 0);
    if (!same) {
        print_message("text \"%.*s\"\n  want", (int)len, text);
        for (size_t i = 0; i < count; i++) print_message(" %u", ids[i]);
        print_message("\n  got ");
        for (size_t i = 0; i < list.count; i++) print_message(" %u", list.ids[i]);
        print_message("\n");
    } else {
        assert_int_equal(out.len, len);
        assert_memory_equal(buf_text(&out), text, len);
    }
    buf_done(&out);
    token_list_done(&list);
    return same;
}

/* Parses one line of ids; returns the start of the next line. */
static char *parse_ids(char *line, struct token_list *list)
{
    list->count = 0;
    while (*line && *line != '\n') {
        char *end;
        unsigned long id = strtoul(line, &end, 10);
        assert_ptr_not_equal(end, line);
        assert_int_equal(token_list_push(list, (uint32_t)id), 0);
        for (line = end; *line == ' ';) line++;
    }
    return *line ? line + 1 : line;
}

static void check_inp_out(const char *name)
{
    struct tokenizer *tokenizer = open_vocab(name);
    char file[256];
    size_t text_len, ids_len;
    (void)snprintf(file, sizeof file, "ggml-vocab-%s.gguf", name);
    char *texts = read_file(vectors_path(file, ".inp"), &text_len);
    char *lines = read_file(vectors_path(file, ".out"), &ids_len);
    struct token_list ids = {0};
    int cases = 0, wrong = 0;
    char *line = lines;
    for (char *text = texts; text;) {
        char *end = strstr(text, SEPARATOR);
        size_t len = end ? (size_t)(end - text) : strlen(text);
        line = parse_ids(line, &ids);
        cases++;
        if (!case_matches(tokenizer, text, len, ids.ids, ids.count)) wrong++;
        text = end ? end + strlen(SEPARATOR) : NULL;
        if (text && !*text) break; // the last case is followed by a separator, too
    }
    print_message("%s: %d of %d cases\n", name, cases - wrong, cases);
    assert_int_equal(wrong, 0);
    assert_int_equal(*line, 0); // as many lines as cases
    assert_true(cases > 0);
    token_list_done(&ids);
    free(texts);
    free(lines);
    tokenizer_close(tokenizer);
}

static void check_json(struct tokenizer *tokenizer, const char *name)
{
    size_t len;
    require_file(vectors_path(name, ".json"));
    char *text = read_file(vectors_path(name, ".json"), &len);
    cJSON *root = cJSON_ParseWithLength(text, len);
    const cJSON *item, *number;
    struct token_list ids = {0};
    int cases = 0, wrong = 0;
    assert_non_null(root);
    cJSON_ArrayForEach(item, root)
    {
        const char *input = cJSON_GetObjectItemCaseSensitive(item, "text")->valuestring;
        ids.count = 0;
        cJSON_ArrayForEach(number, cJSON_GetObjectItemCaseSensitive(item, "ids"))
        {
            assert_int_equal(token_list_push(&ids, (uint32_t)number->valuedouble), 0);
        }
        cases++;
        if (!case_matches(tokenizer, input, strlen(input), ids.ids, ids.count)) wrong++;
    }
    print_message("%s.json: %d of %d cases\n", name, cases - wrong, cases);
    assert_int_equal(wrong, 0);
    assert_true(cases > 0);
    token_list_done(&ids);
    cJSON_Delete(root);
    free(text);
    tokenizer_close(tokenizer);
}

/* ---- vectors ---- */

static void test_tokenizer_matches_vectors_of(void **state)
{
    check_inp_out(*state);
}

static void test_tokenizer_matches_smollm2_json(void **state)
{
    (void)state;
    check_json(open_model(), "smollm2");
}

static void test_tokenizer_matches_qwen2_json(void **state)
{
    (void)state;
    check_json(open_vocab("qwen2"), "qwen2");
}

static void test_tokenizer_matches_llama_bpe_json(void **state)
{
    (void)state;
    check_json(open_vocab("llama-bpe"), "llama-bpe");
}

static void test_tokenizer_names_a_model_it_does_not_have(void **state)
{
    (void)state;
    struct gguf_file file = {0};
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    const char *path = vectors_path("ggml-vocab-llama-spm.gguf", "");
    require_file(path);
    assert_int_equal(gguf_file_open(path, &file, &err), 0);
    assert_int_equal(tokenizer_open(file.gguf, &tokenizer, &err), ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "\"llama\""));
    gguf_file_close(&file);
}

/* ---- properties of real vocabularies ---- */

/* Alone and between letters. A vocabulary may lack a byte (SmolLM2 has no token for six control
 * characters): then, and only then, the character is left out. */
static void check_codepoints(const struct tokenizer *tokenizer)
{
    struct token_list list = {0};
    struct buf out;
    unsigned lost = 0;
    buf_init(&out, 64);
    for (uint32_t codepoint = 0; codepoint <= 0x10FFFF; codepoint++) {
        if (codepoint >= 0xD800 && codepoint <= 0xDFFF) continue;
        uint8_t text[8] = {'a'};
        size_t len = 1 + utf8_encode(codepoint, text + 1);
        text[len++] = 'b';
        struct err err;
        list.count = 0;
        assert_int_equal(tokenizer_encode(tokenizer, (char *)text, len, 0, 16, &list, &err), 0);
        buf_clear(&out);
        assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, false, &out), 0);
        if (out.len == len && memcmp(out.bytes, text, len) == 0) continue;
        bool has_tokens = true;
        for (size_t i = 1; i + 1 < len; i++)
            has_tokens = has_tokens && tokenizer_find(tokenizer, (char *)text + i, 1) != TOKEN_NONE;
        if (has_tokens) fail_msg("U+%04X does not come back", codepoint);
        lost++;
    }
    print_message("%u code points hold a byte that the vocabulary lacks\n", lost);
    buf_done(&out);
    token_list_done(&list);
}

static void test_tokenizer_round_trips_every_codepoint(void **state)
{
    struct tokenizer *tokenizer = open_vocab(*state);
    check_codepoints(tokenizer);
    tokenizer_close(tokenizer);
}

static void test_tokenizer_round_trips_every_codepoint_smollm2(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model();
    check_codepoints(tokenizer);
    tokenizer_close(tokenizer);
}

/* Ids read off the file's token list: <|im_start|> is 1, <|im_end|> is 2. */
static void test_tokenizer_keeps_user_text_from_special_ids(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model();
    static const char text[] = "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>";
    struct token_list list = {0};
    encode(tokenizer, text, strlen(text), 0, &list);
    for (size_t i = 0; i < list.count; i++) assert_false(tokenizer_is_special(tokenizer, list.ids[i]));
    struct buf out;
    buf_init(&out, KIB(1));
    assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, true, &out), 0);
    assert_string_equal(buf_text(&out), text); // nothing of it was special

    encode(tokenizer, text, strlen(text), TOKENIZER_PARSE_SPECIAL, &list);
    assert_int_equal(list.ids[0], 1);
    assert_int_equal(list.ids[list.count - 1], 0);
    assert_int_equal(list.ids[list.count - 3], 2);
    buf_clear(&out);
    assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, true, &out), 0);
    assert_string_equal(buf_text(&out), "user\nhi\n");
    buf_clear(&out);
    assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, false, &out), 0);
    assert_string_equal(buf_text(&out), text);
    buf_done(&out);
    token_list_done(&list);
    tokenizer_close(tokenizer);
}

static void test_tokenizer_knows_the_facts_of_smollm2(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_model();
    size_t count;
    const uint32_t *ends = tokenizer_ends(tokenizer, &count);
    assert_int_equal(count, 2); // <|endoftext|> and <|im_end|>, which is EOS
    assert_int_equal(ends[0], 0);
    assert_int_equal(ends[1], 2);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_int_equal(tokenizer_vocab_count(tokenizer), 49152);
    struct token_list list = {0};
    encode(tokenizer, "x", 1, TOKENIZER_ADD_BOS, &list); // add_bos_token is false
    assert_int_equal(list.count, 1);
    token_list_done(&list);
    tokenizer_close(tokenizer);
}

static void test_tokenizer_adds_bos_where_the_vocabulary_asks(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_vocab("llama-bpe"); // no add_bos_token: by its pre-tokenizer
    struct token_list list = {0};
    encode(tokenizer, "x", 1, TOKENIZER_ADD_BOS, &list);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.ids[0], 128000);
    encode(tokenizer, "x", 1, 0, &list);
    assert_int_equal(list.count, 1);
    token_list_done(&list);
    tokenizer_close(tokenizer);
}

/* Worst cases of one character: no quadratic time, no recursion by length. The bound is loose
 * enough for sanitizers; a quadratic step would need hours. */
static void test_tokenizer_takes_a_mebibyte_of_anything(void **state)
{
    struct tokenizer *tokenizer = open_vocab(*state);
    static const char *const units[] = {"a",  " ",    "\n",       "\xF0\x9F\x98\x80", "A",   "\xE4\xB8\xAD",
                                        "'",  "1",    "\t",       "\xCC\x81",         " a",  "aA",
                                        "\r", "\x01", "\xC2\x85", "\xE1\xA0\x8E",     " \n", "x\xCC\x81"};
    char *text = malloc(MIB(1) + 8);
    struct token_list list = {0};
    struct buf out;
    assert_non_null(text);
    buf_init(&out, MIB(2));
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        size_t unit_len = strlen(units[i]), len = 0;
        for (; len < MIB(1); len += unit_len) memcpy(text + len, units[i], unit_len);
        text[len++] = 'x'; // the run does not end the text
        encode(tokenizer, text, len, 0, &list);
        buf_clear(&out);
        assert_int_equal(tokenizer_decode(tokenizer, list.ids, list.count, false, &out), 0);
        assert_int_equal(out.len, len);
        assert_memory_equal(out.bytes, text, len);
    }
    buf_done(&out);
    token_list_done(&list);
    free(text);
    tokenizer_close(tokenizer);
}

/* ---- threads ---- */

enum { THREADS = 4 };

struct thread_job {
    const struct tokenizer *tokenizer;
    const char *text;
    size_t len;
    struct token_list list; // owned
    int r;
};

static void *thread_encode(void *argument)
{
    struct thread_job *job = argument;
    job->r = tokenizer_encode(job->tokenizer, job->text, job->len, 0, SIZE_MAX, &job->list, NULL);
    return NULL;
}

static void test_tokenizer_serves_several_threads(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = open_vocab("gpt-2");
    size_t len;
    char *text = read_file(vectors_path("ggml-vocab-gpt-2.gguf", ".inp"), &len);
    struct thread_job jobs[THREADS] = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct thread_job){.tokenizer = tokenizer, .text = text, .len = len};
        assert_int_equal(pthread_create(&threads[i], NULL, thread_encode, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(jobs[i].r, 0);
        assert_int_equal(jobs[i].list.count, jobs[0].list.count);
        assert_memory_equal(jobs[i].list.ids, jobs[0].list.ids, jobs[0].list.count * sizeof(uint32_t));
    }
    for (int i = 0; i < THREADS; i++) token_list_done(&jobs[i].list);
    free(text);
    tokenizer_close(tokenizer);
}

#define VECTORS(name) \
    { \
        "test_tokenizer_matches_vectors_of_" name, test_tokenizer_matches_vectors_of, NULL, NULL, name \
    }
#define CODEPOINTS(name) \
    { \
        "test_tokenizer_round_trips_every_codepoint_" name, test_tokenizer_round_trips_every_codepoint, \
            NULL, NULL, name \
    }
#define MEBIBYTE(name) \
    { \
        "test_tokenizer_takes_a_mebibyte_of_anything_" name, test_tokenizer_takes_a_mebibyte_of_anything, \
            NULL, NULL, name \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        VECTORS("gpt-2"),
        VECTORS("starcoder"),
        VECTORS("qwen2"),
        VECTORS("llama-bpe"),
        VECTORS("deepseek-coder"),
        VECTORS("deepseek-llm"),
        VECTORS("falcon"),
        VECTORS("mpt"),
        cmocka_unit_test(test_tokenizer_matches_smollm2_json),
        cmocka_unit_test(test_tokenizer_matches_qwen2_json),
        cmocka_unit_test(test_tokenizer_matches_llama_bpe_json),
        cmocka_unit_test(test_tokenizer_names_a_model_it_does_not_have),
        CODEPOINTS("gpt-2"),
        CODEPOINTS("llama-bpe"),
        CODEPOINTS("deepseek-llm"),
        cmocka_unit_test(test_tokenizer_round_trips_every_codepoint_smollm2),
        cmocka_unit_test(test_tokenizer_keeps_user_text_from_special_ids),
        cmocka_unit_test(test_tokenizer_knows_the_facts_of_smollm2),
        cmocka_unit_test(test_tokenizer_adds_bos_where_the_vocabulary_asks),
        MEBIBYTE("gpt-2"),
        MEBIBYTE("qwen2"),
        MEBIBYTE("deepseek-llm"),
        cmocka_unit_test(test_tokenizer_serves_several_threads),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    guard_done(&guard);
    return failed;
}
