/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/pretokenizer: pieces worked out by hand from the published expressions, for the
 * families that no vector file covers; and worst cases, with and without the just-in-time compiler. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/text/pretokenizer.h"
#include "tests/unit/guard.h"

static struct guard guard;

static struct pretokenizer *open_name(const char *name, unsigned flags)
{
    struct pretokenizer *pretokenizer = NULL;
    struct err err = {0};
    if (pretokenizer_open(name, strlen(name), flags, &pretokenizer, &err) < 0) fail_msg("%s", err.text);
    return pretokenizer;
}

static int join_piece(void *context, const uint8_t *piece, size_t len)
{
    struct buf *out = context;
    if (out->len) (void)buf_putc(out, '|'); // buf errors are sticky
    return buf_append(out, piece, len);
}

/* Wants the pieces joined by a bar. */
static void check_pieces(const char *name, const char *text, const char *want)
{
    struct pretokenizer *pretokenizer = open_name(name, 0);
    struct pretokenizer_split *split = pretokenizer_split_new();
    struct buf out;
    assert_non_null(split);
    buf_init(&out, KIB(1));
    const uint8_t *copy = guard_copy(&guard, text, strlen(text));
    assert_int_equal(pretokenizer_run(pretokenizer, split, copy, strlen(text), join_piece, &out), 0);
    assert_string_equal(buf_text(&out), want);
    buf_done(&out);
    pretokenizer_split_free(split);
    pretokenizer_close(pretokenizer);
}

static void test_pretokenizer_gpt2_keeps_numbers_and_smollm_cuts_digits(void **state)
{
    (void)state;
    check_pieces("gpt-2", "in 2026, it's  x", "in| 2026|,| it|'s| | x");
    check_pieces("smollm", "in 2026, it's  x", "in| |2|0|2|6|,| it|'s| | x");
}

static void test_pretokenizer_llama_groups_three_digits(void **state)
{
    (void)state;
    check_pieces("llama-bpe", "12345 I'LL\n\n x", "123|45| I|'LL|\n\n| x");
    check_pieces("qwen2", "12345 I'LL\n\n x", "1|2|3|4|5| I|'LL|\n\n| x");
}

static void test_pretokenizer_qwen35_keeps_marks_with_letters(void **state)
{
    (void)state;
    check_pieces("qwen2", "e\u0301a", "e|\u0301a");
    check_pieces("qwen35", "e\u0301a", "e\u0301a");
}

static void test_pretokenizer_tekken_cuts_between_cases(void **state)
{
    (void)state;
    check_pieces("tekken", "helloWorld HTTPServer \u00C9COLE\u00E9",
                 "hello|World| HTTPServer| \u00C9COLE\u00E9");
    check_pieces("tekken", "aB1 2//\nx", "a|B|1| |2|//\n|x");
}

static void test_pretokenizer_gpt4o_keeps_contractions_with_words(void **state)
{
    (void)state;
    check_pieces("gpt-4o", "I'm DON'T 12345", "I'm| DON'T| |123|45");
}

static void test_pretokenizer_deepseek_v3_cuts_cjk_and_marks(void **state)
{
    (void)state;
    check_pieces("deepseek-v3", "\u4E2D\u6587ab 1234 #tag a#tag !!",
                 "\u4E2D\u6587|ab| |123|4| #|tag| a|#tag| !!");
}

static void test_pretokenizer_takes_no_space_for_mongolian_separator(void **state)
{
    (void)state;
    /* U+180E is a format character: with U+2028 it would be a run of white space. */
    check_pieces("gpt-2", "a\u180E b", "a|\u180E| b");
    check_pieces("gpt-2", "a\u2028 b", "a|\u2028| b");
    check_pieces("llama-bpe", "\u180Ea", "\u180Ea");
    check_pieces("gpt-2", "\u180E!", "\u180E!");
}

static void test_pretokenizer_refuses_unknown_names(void **state)
{
    (void)state;
    static const char *const names[] = {"", "gpt", "gpt-22", "GPT-2"};
    struct pretokenizer *pretokenizer = NULL;
    struct err err = {0};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *copy = (const char *)guard_copy(&guard, names[i], strlen(names[i]));
        assert_int_equal(pretokenizer_open(copy, strlen(names[i]), 0, &pretokenizer, &err), ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, names[i]));
    }
}

static int refuse_second(void *context, const uint8_t *piece, size_t len)
{
    int *count = context;
    (void)piece;
    (void)len;
    return ++*count == 2 ? -ECANCELED : 0;
}

static void test_pretokenizer_stops_where_the_piece_function_says(void **state)
{
    (void)state;
    struct pretokenizer *pretokenizer = open_name("smollm", 0);
    struct pretokenizer_split *split = pretokenizer_split_new();
    int count = 0;
    assert_non_null(split);
    assert_int_equal(
        pretokenizer_run(pretokenizer, split, (const uint8_t *)"a b c d", 7, refuse_second, &count),
        -ECANCELED);
    assert_int_equal(count, 2);
    pretokenizer_split_free(split);
    pretokenizer_close(pretokenizer);
}

static int sum_piece(void *context, const uint8_t *piece, size_t len)
{
    size_t *sum = context;
    (void)piece;
    *sum += len;
    return 0;
}

/* A quadratic expression would take minutes here, a recursive one would end the process. */
static void check_worst_cases(const char *name, unsigned flags)
{
    static const char *const units[] = {" ",      "a",      "A",      "\n",  "1", "!",
                                        "\u00E9", "\u4E2D", "\u0301", " \n", "'", "\t"};
    struct pretokenizer *pretokenizer = open_name(name, flags);
    struct pretokenizer_split *split = pretokenizer_split_new();
    uint8_t *text = malloc(KIB(256) + 8);
    assert_non_null(split);
    assert_non_null(text);
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        size_t len = 0, sum = 0, unit_len = strlen(units[i]);
        for (; len < KIB(256); len += unit_len) memcpy(text + len, units[i], unit_len);
        text[len++] = 'x'; // the run does not end the text
        assert_int_equal(pretokenizer_run(pretokenizer, split, text, len, sum_piece, &sum), 0);
        assert_int_equal(sum, len);
    }
    free(text);
    pretokenizer_split_free(split);
    pretokenizer_close(pretokenizer);
}

static void test_pretokenizer_is_linear(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2",        "smollm",         "qwen2",       "llama-bpe",
                                        "tekken",       "gpt-4o",         "falcon",      "default",
                                        "deepseek-llm", "deepseek-coder", "deepseek-v3", "qwen35"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        check_worst_cases(names[i], 0);
        check_worst_cases(names[i], PRETOKENIZER_NO_JIT);
    }
}

static int guard_teardown(void **state)
{
    (void)state;
    guard_done(&guard);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pretokenizer_gpt2_keeps_numbers_and_smollm_cuts_digits),
        cmocka_unit_test(test_pretokenizer_llama_groups_three_digits),
        cmocka_unit_test(test_pretokenizer_qwen35_keeps_marks_with_letters),
        cmocka_unit_test(test_pretokenizer_tekken_cuts_between_cases),
        cmocka_unit_test(test_pretokenizer_gpt4o_keeps_contractions_with_words),
        cmocka_unit_test(test_pretokenizer_deepseek_v3_cuts_cjk_and_marks),
        cmocka_unit_test(test_pretokenizer_takes_no_space_for_mongolian_separator),
        cmocka_unit_test(test_pretokenizer_refuses_unknown_names),
        cmocka_unit_test(test_pretokenizer_stops_where_the_piece_function_says),
        cmocka_unit_test(test_pretokenizer_is_linear),
    };
    return cmocka_run_group_tests(tests, NULL, guard_teardown);
}
