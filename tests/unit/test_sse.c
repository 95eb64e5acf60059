/* SPDX-License-Identifier: Apache-2.0 */
/* test_sse - event streams cut at every place. Expected events follow WHATWG HTML 9.2.6. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/sse.h"
#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "tests/unit/guard.h"

enum { EVENT_BYTES_MAX = 1 << 16 };

struct seen {
    struct buf text; // "name=data;" of each event
    int answer;      // what the callback returns
    int answer_after;
    unsigned count;
};

static int on_event(void *user, const char *name, const char *data, size_t data_bytes)
{
    struct seen *seen = user;
    assert_int_equal(data[data_bytes], '\0');
    (void)buf_printf(&seen->text, "%s=", name); // errors are sticky and would show in the comparison
    (void)buf_append(&seen->text, data, data_bytes);
    (void)buf_putc(&seen->text, ';');
    seen->count++;
    return (int)seen->count > seen->answer_after ? seen->answer : 0;
}

static void seen_init(struct seen *seen)
{
    *seen = (struct seen){0};
    buf_init(&seen->text, 1 << 20);
}

/* Feeds text in chunks of chunk_bytes, each ending at a page without access. */
static int feed_in_chunks(struct seen *seen, const char *text, size_t len, size_t chunk_bytes)
{
    struct guard guard = {0};
    struct sse sse;
    int r = 0;
    sse_init(&sse, EVENT_BYTES_MAX, on_event, seen);
    for (size_t at = 0; at < len && r == 0; at += chunk_bytes) {
        size_t n = len - at < chunk_bytes ? len - at : chunk_bytes;
        r = sse_feed(&sse, guard_copy(&guard, text + at, n), n);
    }
    sse_done(&sse);
    guard_done(&guard);
    return r;
}

static void expect_events(const char *text, size_t len, const char *events)
{
    for (size_t chunk_bytes = 1; chunk_bytes <= len; chunk_bytes++) {
        struct seen seen;
        seen_init(&seen);
        assert_int_equal(feed_in_chunks(&seen, text, len, chunk_bytes), 0);
        assert_string_equal(buf_text(&seen.text), events);
        buf_done(&seen.text);
    }
}

#define EXPECT_EVENTS(text, events) expect_events((text), sizeof(text) - 1, (events))

static void test_sse_hands_on_events_at_blank_lines(void **state)
{
    (void)state;
    EXPECT_EVENTS("data: one\n\ndata: two\n\n", "message=one;message=two;");
    EXPECT_EVENTS("data: {\"a\":1}\n\ndata: [DONE]\n\n", "message={\"a\":1};message=[DONE];");
}

static void test_sse_takes_all_three_line_ends(void **state)
{
    (void)state;
    EXPECT_EVENTS("data: a\r\n\r\ndata: b\r\rdata: c\n\n", "message=a;message=b;message=c;");
    EXPECT_EVENTS("data: a\r\n\ndata: b\n\r\ndata: c\r\n\r", "message=a;message=b;message=c;");
}

static void test_sse_joins_data_lines(void **state)
{
    (void)state;
    EXPECT_EVENTS("data: YHOO\ndata: +2\ndata: 10\n\n", "message=YHOO\n+2\n10;"); // the standard's example
    EXPECT_EVENTS("data\n\ndata\ndata\n\ndata:", "message=;message=\n;");         // the standard's example
}

static void test_sse_strips_one_space(void **state)
{
    (void)state;
    EXPECT_EVENTS("data:test\n\ndata: test\n\ndata:  test\n\n", "message=test;message=test;message= test;");
}

static void test_sse_reads_over_comments_and_unknown_fields(void **state)
{
    (void)state;
    EXPECT_EVENTS(": ping\n\nid: 7\nretry: 10\nfoo: bar\ndatax: no\nDATA: no\n\ndata: a\n: c\n\n",
                  "message=a;");
}

static void test_sse_names_events_once(void **state)
{
    (void)state;
    EXPECT_EVENTS("event: add\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\n",
                  "add=1;message=2;message=3;");
}

static void test_sse_cuts_a_long_name(void **state)
{
    (void)state;
    char text[256] = "event:", expected[256];
    memset(text + 6, 'n', 100);
    memcpy(text + 106, "\ndata:x\n\n", sizeof("\ndata:x\n\n"));
    memset(expected, 'n', SSE_NAME_BYTES - 1);
    memcpy(expected + SSE_NAME_BYTES - 1, "=x;", sizeof("=x;"));
    expect_events(text, strlen(text), expected);
}

static void test_sse_drops_a_byte_order_mark_once(void **state)
{
    (void)state;
    EXPECT_EVENTS("\xEF\xBB\xBF"
                  "data: a\n\n",
                  "message=a;");
    EXPECT_EVENTS("\xEF\xBB\xBF\xEF\xBB\xBF"
                  "data: a\n\n",
                  "");
    EXPECT_EVENTS("\xEF\xBB"
                  "data: a\n\ndata: b\n\n",
                  "message=b;");
    EXPECT_EVENTS("\ndata: a\n\n", "message=a;");
}

static void test_sse_drops_an_unfinished_event(void **state)
{
    (void)state;
    EXPECT_EVENTS("data: a\n\ndata: b\n", "message=a;");
    EXPECT_EVENTS("data: a\n\ndata: b", "message=a;");
}

static void test_sse_passes_zero_bytes_and_malformed_utf8(void **state)
{
    (void)state;
    struct seen seen;
    seen_init(&seen);
    assert_int_equal(feed_in_chunks(&seen, "data: a\0b\xFF\n\n", 12, 1), 0);
    assert_int_equal(seen.text.len, strlen("message=") + 5);
    assert_memory_equal(seen.text.bytes, "message=a\0b\xFF;", 13);
    buf_done(&seen.text);
}

static void test_sse_bounds_a_line(void **state)
{
    (void)state;
    static char line[EVENT_BYTES_MAX + 1];
    memset(line, 'x', sizeof(line));
    for (size_t chunk_bytes = 1000; chunk_bytes <= sizeof(line); chunk_bytes += 9999) {
        struct seen seen;
        seen_init(&seen);
        assert_int_equal(feed_in_chunks(&seen, line, EVENT_BYTES_MAX, chunk_bytes), 0);
        assert_int_equal(feed_in_chunks(&seen, line, sizeof(line), chunk_bytes), -EMSGSIZE);
        buf_done(&seen.text);
    }
}

static void test_sse_bounds_an_event_of_many_lines(void **state)
{
    (void)state;
    struct seen seen;
    struct sse sse;
    seen_init(&seen);
    sse_init(&sse, EVENT_BYTES_MAX, on_event, &seen);
    size_t fed = 0;
    int r = 0;
    while (r == 0) {
        r = sse_feed(&sse, "data: 0123456789\n", 17);
        fed += 11; // ten digits and the joining LF
    }
    assert_int_equal(r, -EMSGSIZE);
    assert_true(fed > EVENT_BYTES_MAX && fed <= EVENT_BYTES_MAX + 11);
    assert_true(sse.line.cap + sse.data.cap <= 4 * EVENT_BYTES_MAX);
    assert_int_equal(sse_feed(&sse, "\n\n", 2), -EMSGSIZE); // sticky
    assert_int_equal(seen.count, 0);
    sse_done(&sse);
    buf_done(&seen.text);
}

static void test_sse_stops_when_the_callback_says_so(void **state)
{
    (void)state;
    struct seen seen;
    seen_init(&seen);
    seen.answer = 7;
    seen.answer_after = 1;
    const char text[] = "data: a\n\ndata: b\n\ndata: c\n\n";
    assert_int_equal(feed_in_chunks(&seen, text, sizeof(text) - 1, sizeof(text) - 1), 7);
    assert_string_equal(buf_text(&seen.text), "message=a;message=b;");
    buf_done(&seen.text);
}

/* Random streams of the bytes that matter: any cutting gives the same events. */
static void test_sse_does_not_depend_on_the_cutting(void **state)
{
    (void)state;
    static const char *const PIECES[] = {"data:", "data: ",   "\n", "\r",           "\r\n",
                                         ":",     "event: e", "x",  "\xEF\xBB\xBF", " "};
    const char *seed_text = getenv("KVASIR_SEED");
    struct rng rng = {.state = seed_text != NULL ? strtoull(seed_text, NULL, 0) : 20240607};
    printf("seed %llu\n", (unsigned long long)rng.state);
    for (int round = 0; round < 2000; round++) {
        struct buf text;
        struct seen whole, parts;
        struct sse sse;
        buf_init(&text, 1 << 12);
        for (uint64_t n = rng_below(&rng, 40); n > 0; n--)
            (void)buf_puts(&text, PIECES[rng_below(&rng, COUNT_OF(PIECES))]);
        seen_init(&whole);
        seen_init(&parts);
        assert_int_equal(feed_in_chunks(&whole, buf_text(&text), text.len, text.len + 1), 0);
        sse_init(&sse, EVENT_BYTES_MAX, on_event, &parts);
        for (size_t at = 0; at < text.len;) {
            size_t n = 1 + rng_below(&rng, text.len - at);
            assert_int_equal(sse_feed(&sse, text.bytes + at, n), 0);
            at += n;
        }
        sse_done(&sse);
        assert_string_equal(buf_text(&whole.text), buf_text(&parts.text));
        buf_done(&whole.text);
        buf_done(&parts.text);
        buf_done(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sse_hands_on_events_at_blank_lines),
        cmocka_unit_test(test_sse_takes_all_three_line_ends),
        cmocka_unit_test(test_sse_joins_data_lines),
        cmocka_unit_test(test_sse_strips_one_space),
        cmocka_unit_test(test_sse_reads_over_comments_and_unknown_fields),
        cmocka_unit_test(test_sse_names_events_once),
        cmocka_unit_test(test_sse_cuts_a_long_name),
        cmocka_unit_test(test_sse_drops_a_byte_order_mark_once),
        cmocka_unit_test(test_sse_drops_an_unfinished_event),
        cmocka_unit_test(test_sse_passes_zero_bytes_and_malformed_utf8),
        cmocka_unit_test(test_sse_bounds_a_line),
        cmocka_unit_test(test_sse_bounds_an_event_of_many_lines),
        cmocka_unit_test(test_sse_stops_when_the_callback_says_so),
        cmocka_unit_test(test_sse_does_not_depend_on_the_cutting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
