/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/detok, by hand. Against decoding as a whole, at random: tests/prop/test_detok. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "common/text/detok.h"
#include "tests/data/sample_vocab.h"

static struct tokenizer *sample;

/* Pushes one id and wants exactly this text out. */
static void push(struct detok *detok, uint32_t id, const char *want)
{
    struct buf out;
    buf_init(&out, 100);
    assert_int_equal(detok_push(detok, id, &out), 0);
    assert_string_equal(buf_text(&out), want);
    buf_done(&out);
}

static void flush(struct detok *detok, const char *want)
{
    struct buf out;
    buf_init(&out, 100);
    assert_int_equal(detok_flush(detok, &out), 0);
    assert_string_equal(buf_text(&out), want);
    assert_int_equal(detok->held_count, 0);
    buf_done(&out);
}

static void test_detok_passes_whole_characters(void **state)
{
    (void)state;
    struct detok detok;
    detok_init(&detok, sample, false);
    push(&detok, SAMPLE_HELLO, "hello");
    push(&detok, SAMPLE_ACCENT, "\u00E9");
    push(&detok, SAMPLE_COUNT, ""); // no such token
    flush(&detok, "");
}

static void test_detok_holds_a_character_until_it_is_whole(void **state)
{
    (void)state;
    struct detok detok;
    detok_init(&detok, sample, false);
    push(&detok, 0xF0, "");
    push(&detok, 0x9F, "");
    push(&detok, 0x98, "");
    assert_int_equal(detok.held_count, 3);
    push(&detok, 0x80, "\U0001F600");
    push(&detok, 0xC3, "");
    push(&detok, 0xA9, "\u00E9");
    flush(&detok, "");
}

static void test_detok_replaces_what_cannot_complete(void **state)
{
    (void)state;
    struct detok detok;
    detok_init(&detok, sample, false);
    push(&detok, 0x80, "\uFFFD"); // never a first byte
    push(&detok, 0xFF, "\uFFFD");
    push(&detok, 0xE2, "");
    push(&detok, 0x82, "");
    push(&detok, 'a', "\uFFFDa"); // two held bytes are one subpart
    push(&detok, 0xED, "");
    push(&detok, 0xA0, "\uFFFD\uFFFD"); // a surrogate: no prefix of anything
    push(&detok, 0xC3, "");
    push(&detok, 0xC3, "\uFFFD"); // the second one starts anew
    push(&detok, 0xA9, "\u00E9");
    push(&detok, 0xE2, "");
    push(&detok, SAMPLE_HELLO, "\uFFFDhello");
    flush(&detok, "");
}

static void test_detok_flush_replaces_the_held_tail_once(void **state)
{
    (void)state;
    struct detok detok;
    detok_init(&detok, sample, false);
    push(&detok, 0xF0, "");
    push(&detok, 0x9F, "");
    flush(&detok, "\uFFFD");
    flush(&detok, "");
    push(&detok, 'a', "a"); // usable afterwards
}

static void test_detok_skips_special_tokens_when_told(void **state)
{
    (void)state;
    struct detok detok;
    detok_init(&detok, sample, true);
    push(&detok, 0xC3, "");
    push(&detok, SAMPLE_IM_END, ""); // is not there, so the character goes on
    push(&detok, 0xA9, "\u00E9");
    push(&detok, SAMPLE_TOOL, "<tool>");
    detok_init(&detok, sample, false);
    push(&detok, 0xC3, "");
    push(&detok, SAMPLE_IM_END, "\uFFFD<|im_end|>");
}

static void test_detok_reports_a_full_buf(void **state)
{
    (void)state;
    struct detok detok;
    struct buf out;
    detok_init(&detok, sample, false);
    buf_init(&out, 4);
    assert_int_equal(detok_push(&detok, SAMPLE_HELLO, &out), -EMSGSIZE);
    buf_done(&out);
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
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_detok_passes_whole_characters),
        cmocka_unit_test(test_detok_holds_a_character_until_it_is_whole),
        cmocka_unit_test(test_detok_replaces_what_cannot_complete),
        cmocka_unit_test(test_detok_flush_replaces_the_held_tail_once),
        cmocka_unit_test(test_detok_skips_special_tokens_when_told),
        cmocka_unit_test(test_detok_reports_a_full_buf),
    };
    return cmocka_run_group_tests(tests, open_sample, close_sample);
}
