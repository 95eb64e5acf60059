/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of daemon/http and daemon/http_gate. Every case is fed whole, byte by byte, and split at every
 * place, always at a PROT_NONE page, and must end the same way. Expected values: RFC 9110 and RFC 9112,
 * and the statuses that uNetworking/h1spec and the Http11Probe catalogue ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/http.h"
#include "tests/unit/guard.h"

enum { BODY_BYTES_MAX = 1000, WHOLE = 1 << 30 };

static struct guard guard;

/* How reading ended: status 200 stands for a whole request, 0 for one that goes on. */
struct outcome {
    int status;
    bool asked_continue;
    size_t used;
    struct http_reader *reader;
    char why[ERR_TEXT_BYTES];
};

/* Feeds text: first bytes first, then pieces of `piece` bytes. The caller frees the reader. */
static struct outcome feed(const char *text, size_t len, size_t first, size_t piece)
{
    struct outcome outcome = {.reader = http_reader_new(BODY_BYTES_MAX)};
    assert_non_null(outcome.reader);
    size_t at = 0, take = first;
    while (at < len) {
        if (take > len - at) take = len - at;
        size_t used = 0;
        struct err err = {0};
        int r = http_reader_feed(outcome.reader, guard_copy(&guard, text + at, take), take, &used, &err);
        if (r < 0) {
            outcome.status = http_reader_status(outcome.reader);
            snprintf(outcome.why, sizeof(outcome.why), "%s", err.text);
            assert_true(err.text[0] != 0);
            return outcome;
        }
        assert_true(used <= take);
        at += used;
        outcome.used = at;
        if (r == HTTP_FEED_CONTINUE) outcome.asked_continue = true;
        if (r == HTTP_FEED_COMPLETE) {
            outcome.status = 200;
            return outcome;
        }
        assert_int_equal(used, take);
        take = piece;
    }
    return outcome;
}

static struct outcome feed_whole(const char *text)
{
    return feed(text, strlen(text), WHOLE, WHOLE);
}

/* The status however the bytes are cut. */
static void expect_status(const char *text, size_t len, int status)
{
    for (size_t first = 0; first <= len; first++) {
        struct outcome outcome = feed(text, len, first ? first : 1, first ? WHOLE : 1); // 0: byte by byte
        if (outcome.status != status)
            fail_msg("cut at %zu: wanted %d, got %d (%s) for:\n%.*s", first, status, outcome.status,
                     outcome.why, (int)(len < 200 ? len : 200), text);
        http_reader_free(outcome.reader);
    }
}

#define HOST "Host: a\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST
#define POST "POST /v1 HTTP/1.1\r\n" HOST
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static void test_http_reads_a_request(void **state)
{
    (void)state;
    static const char text[] = "POST /v1/chat/completions?a=b&c=%20?d HTTP/1.1\r\n"
                               "hOST:\tlocalhost:8000\r\n"
                               "Empty:\r\n"
                               "Empty-too:   \r\n"
                               "X-Blank:  two words \t\r\n"
                               "X-Request-Id: req-0123.abc\r\n"
                               "X-High: \xc3\xa9\r\n"
                               "Content-Length: 7\r\n"
                               "X-Last:z\r\n"
                               "\r\n"
                               "{\"a\":1}GET /next";
    size_t len = sizeof(text) - 1;
    for (size_t first = 0; first < len; first++) {
        struct outcome outcome = feed(text, len, first ? first : 1, first ? WHOLE : 1);
        assert_int_equal(outcome.status, 200);
        assert_int_equal(outcome.used, len - strlen("GET /next"));
        const struct http_request *request = http_reader_request(outcome.reader);
        assert_string_equal(request->method, "POST");
        assert_string_equal(request->path, "/v1/chat/completions");
        assert_string_equal(request->query, "a=b&c=%20?d");
        assert_string_equal(request->body, "{\"a\":1}");
        assert_int_equal(request->body_bytes, 7);
        assert_string_equal(request->request_id, "req-0123.abc");
        assert_int_equal(request->version_minor, 1);
        assert_true(request->keep_alive);
        assert_false(request->is_head);
        assert_string_equal(http_request_header(request, "host"), "localhost:8000");
        assert_string_equal(http_request_header(request, "EMPTY"), "");
        assert_string_equal(http_request_header(request, "empty-too"), "");
        assert_string_equal(http_request_header(request, "x-blank"), "two words");
        assert_string_equal(http_request_header(request, "x-high"), "\xc3\xa9");
        assert_string_equal(http_request_header(request, "x-last"), "z");
        assert_null(http_request_header(request, "x-none"));
        http_reader_drop_body(outcome.reader);
        assert_string_equal(request->body, "");
        assert_string_equal(http_request_header(request, "x-last"), "z");
        http_reader_free(outcome.reader);
    }
}

static void test_http_reads_chunked_bodies(void **state)
{
    (void)state;
    static const char text[] = CHUNKED "5\r\nhello\r\n00001;name=\"va lue\"\r\n \r\nA\r\n0123456789\r\n0\r\n"
                                       "Trailer: x\r\nOther:\r\n\r\nGET";
    size_t len = sizeof(text) - 1;
    for (size_t first = 0; first < len; first++) {
        struct outcome outcome = feed(text, len, first ? first : 1, first ? WHOLE : 1);
        assert_int_equal(outcome.status, 200);
        assert_int_equal(outcome.used, len - 3);
        const struct http_request *request = http_reader_request(outcome.reader);
        assert_int_equal(request->body_bytes, 16);
        assert_string_equal(request->body, "hello 0123456789");
        assert_null(http_request_header(request, "Trailer"));
        http_reader_free(outcome.reader);
    }
    expect_status(CHUNKED "0\r\n\r\n", strlen(CHUNKED "0\r\n\r\n"), 200);
}

/* Every proper prefix of a request goes on: it is neither whole nor refused (h1spec "fragmented"). */
static void test_http_waits_at_every_prefix(void **state)
{
    (void)state;
    static const char *const texts[] = {
        GET "\r\n",
        POST "Content-Length: 3\r\n\r\nabc",
        CHUNKED "3\r\nabc\r\n0\r\nA: b\r\n\r\n",
        "\r\n" GET "\r\n",
    };
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        for (size_t len = 0; len < strlen(texts[i]); len++) {
            struct outcome outcome = feed(texts[i], len, WHOLE, WHOLE);
            assert_int_equal(outcome.status, 0);
            assert_int_equal(outcome.used, len);
            http_reader_free(outcome.reader);
        }
    }
}

static const struct {
    int status;
    const char *text;
} status_cases[] = {
    /* fit */
    {200, GET "\r\n"},
    {200, "\r\n" GET "\r\n"},
    {200, "GET / HTTP/1.0\r\n\r\n"},
    {200, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n"},
    {200, "GET http://a/x?y HTTP/1.1\r\n" HOST "\r\n"},
    {200, "GET HTTP://A HTTP/1.1\r\n" HOST "\r\n"},
    {200, "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
    {200, "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n"},
    {200, "GET / HTTP/1.1\r\nHost: a.b-c_d:65535\r\n\r\n"},
    {200, "GET /%7Euser/a;b=c?[1] HTTP/1.1\r\n" HOST "\r\n"},
    {200, POST "Content-Length: 0\r\n\r\n"},
    {200, POST "Content-Length: 000003\r\n\r\nabc"},
    {200, POST "Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n"},
    {200, GET "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n"},
    {200, POST "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\na"},
    {200, "M-SEARCH / HTTP/1.1\r\n" HOST "\r\n"},
    /* request line */
    {400, "GET /\r\n\r\n"}, // HTTP/0.9
    {400, "GET / \r\n\r\n"},
    {400, "GET  / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /  HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET / HTTP/1.1 \r\n" HOST "\r\n"},
    {400, "GET\t/ HTTP/1.1\r\n" HOST "\r\n"},
    {400, " GET / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "\nGET / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET / HTTP/1.1\n" HOST "\r\n"},
    {400, "GET / HTTP/1.1\rX" HOST "\r\n"},
    {400, "GET / http/1.1\r\n" HOST "\r\n"},
    {400, "GET / HTTP/11\r\n" HOST "\r\n"},
    {400, "GET / HTTP/1.10\r\n" HOST "\r\n"},
    {400, "GET / HTTPS/1.1\r\n" HOST "\r\n"},
    {400, "GET / ICE/1.0\r\n" HOST "\r\n"},
    {400, "Extra lineGET / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "G(T / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "\x16\x03\x01\x02\x00\x01"}, // a TLS client
    {505, "GET / HTTP/9.9\r\n" HOST "\r\n"},
    {505, "GET / HTTP/2.0\r\n" HOST "\r\n"},
    {505, "GET / HTTP/1.2\r\n" HOST "\r\n"},
    {505, "GET / HTTP/0.9\r\n" HOST "\r\n"},
    {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
    {501, "get / HTTP/1.1\r\n" HOST "\r\n"},
    {501, "BREW / HTTP/1.1\r\n" HOST "\r\n"},
    {501, "CONNECT a:80 HTTP/1.1\r\n" HOST "\r\n"},
    {501, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET v1 HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET * HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /a#b HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /a%2 HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /a%zz HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /a\"b HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET /a\x7f HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET http://b/ HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET http://u@a/ HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET http:///x HTTP/1.1\r\n" HOST "\r\n"},
    {400, "GET ftp://a/x HTTP/1.1\r\n" HOST "\r\n"},
    /* fields */
    {400, "GET / HTTP/1.1\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"},
    {400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a%4\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"},
    {400, GET "X-Bad[]: a\r\n\r\n"},
    {400, GET "X Bad: a\r\n\r\n"},
    {400, GET "X-Bad\r\n\r\n"},
    {400, GET ": a\r\n\r\n"},
    {400, GET "X: a\r\n folded\r\n\r\n"},
    {400, GET "X: a\r\n\tfolded\r\n\r\n"},
    {400, GET "X: a\nY: b\r\n\r\n"},
    {400, GET "X: a\rY: b\r\n\r\n"},
    {400, GET "X: a\x07\r\n\r\n"},
    {400, GET "X: a\x7f\r\n\r\n"},
    {400, GET "\rX: a\r\n\r\n"},
    {400, GET "X: a\r\r\n\r\n"},
    {400, GET "Authorization: a\r\nAuthorization: b\r\n\r\n"},
    /* framing */
    {400, POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
    {400, POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"},
    {400, POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"},
    {400, POST "Content-Length: 5, 5\r\n\r\nhello"},
    {400, POST "Content-Length: -5\r\n\r\n"},
    {400, POST "Content-Length: +5\r\n\r\n"},
    {400, POST "Content-Length: 0x5\r\n\r\n"},
    {400, POST "Content-Length: 5 5\r\n\r\n"},
    {400, POST "Content-Length:\r\n\r\n"},
    {400, POST "Content-Length: abc\r\n\r\n"},
    {400, POST "Content-Length: 123456789123456789123456789\r\n\r\n"},
    {413, POST "Content-Length: 1234567891234567890\r\n\r\n"},
    {413, POST "Content-Length: 1001\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
    {501, POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: identity\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding: \x0b"
               "chunked\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding:\r\n\r\n0\r\n\r\n"},
    {400, POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
    {400, "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {417, POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\na"},
    {200, "POST / HTTP/1.0\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\na"},
    /* chunks */
    {400, CHUNKED "\r\n"},
    {400, CHUNKED "g\r\n"},
    {400, CHUNKED "-1\r\n"},
    {400, CHUNKED "0x1\r\na\r\n0\r\n\r\n"},
    {400, CHUNKED " 1\r\na\r\n0\r\n\r\n"},
    {400, CHUNKED "1 \r\na\r\n0\r\n\r\n"},
    {400, CHUNKED "1 ;x\r\na\r\n0\r\n\r\n"},
    {400, CHUNKED "1\na\r\n0\r\n\r\n"},
    {400, CHUNKED "1\rXa\r\n0\r\n\r\n"},
    {400, CHUNKED "1\r\naXX0\r\n\r\n"},
    {400, CHUNKED "1\r\na\rX0\r\n\r\n"},
    {400, CHUNKED "1\r\nab\r\n0\r\n\r\n"},
    {400, CHUNKED "1\r\na\n0\r\n\r\n"},
    {400, CHUNKED "1;a\nb\r\na\r\n0\r\n\r\n"},
    {400, CHUNKED "00000000000000001\r\na\r\n0\r\n\r\n"},
    {413, CHUNKED "ffffffffffffffff\r\na"},
    {413, CHUNKED "3e9\r\n"},
    {413, CHUNKED "1\r\na\r\n3e8\r\n"},
    {400, CHUNKED "0\r\nA : b\r\n\r\n"},
    {400, CHUNKED "0\r\n A: b\r\n\r\n"},
    {400, CHUNKED "0\r\nA: b\n\r\n"},
};

static void test_http_answers_with_the_status(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(status_cases); i++)
        expect_status(status_cases[i].text, strlen(status_cases[i].text), status_cases[i].status);
    static const char nul_in_value[] = GET "X: a\0b\r\n\r\n", nul_in_name[] = GET "X\0Y: a\r\n\r\n",
                      nul_in_target[] = "GET /\0 HTTP/1.1\r\n" HOST "\r\n";
    expect_status(nul_in_value, sizeof(nul_in_value) - 1, 400);
    expect_status(nul_in_name, sizeof(nul_in_name) - 1, 400);
    expect_status(nul_in_target, sizeof(nul_in_target) - 1, 400);
}

/* Every byte value at each kind of place: exactly RFC 9110's sets pass. */
static void test_http_byte_classes(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool token = alnum || (c && strchr("!#$%&'*+-.^_`|~", (int)c));
        char text[128];
        int len = snprintf(text, sizeof(text), GET "N@: v\r\n\r\n");
        *strchr(text, '@') = (char)c;
        struct outcome outcome = feed(text, (size_t)len, WHOLE, WHOLE);
        assert_int_equal(outcome.status, token || c == ':' ? 200 : 400);
        http_reader_free(outcome.reader);
        len = snprintf(text, sizeof(text), GET "N: v@w\r\n\r\n");
        *strchr(text, '@') = (char)c;
        outcome = feed(text, (size_t)len, WHOLE, WHOLE);
        assert_int_equal(outcome.status, (c >= 0x20 && c != 0x7f) || c == '\t' ? 200 : 400);
        http_reader_free(outcome.reader);
        len = snprintf(text, sizeof(text), "GET /a^b HTTP/1.1\r\n" HOST "\r\n");
        *strchr(text, '^') = (char)c;
        outcome = feed(text, (size_t)len, WHOLE, WHOLE);
        bool uri = alnum || (c && strchr("-._~:/?[]@!$&'()*+,;=", (int)c));
        assert_int_equal(outcome.status, uri ? 200 : 400); // "%b " is no percent-encoding
        http_reader_free(outcome.reader);
    }
}

/* A text of `prefix`, then `count` times `unit`, then `suffix`; gives the status when fed whole. */
static int status_of_repeat(const char *prefix, const char *unit, size_t count, const char *suffix)
{
    struct buf buf;
    buf_init(&buf, MIB(4));
    buf_puts(&buf, prefix);
    for (size_t i = 0; i < count; i++) buf_puts(&buf, unit);
    buf_puts(&buf, suffix);
    assert_int_equal(buf.error, 0);
    struct outcome whole = feed(buf_text(&buf), buf.len, WHOLE, WHOLE);
    struct outcome bytewise = feed(buf_text(&buf), buf.len, 1, 1);
    assert_int_equal(whole.status, bytewise.status);
    assert_true(http_reader_bytes(bytewise.reader) <= KIB(64)); // an offender costs at most this
    http_reader_free(bytewise.reader);
    http_reader_free(whole.reader);
    buf_done(&buf);
    return whole.status;
}

static void test_http_limits_to_the_byte(void **state)
{
    (void)state;
    const char *rest = " HTTP/1.1\r\n" HOST "\r\n";
    assert_int_equal(status_of_repeat("GET /", "a", HTTP_URL_BYTES_MAX - 1, rest), 200);
    assert_int_equal(status_of_repeat("GET /", "a", HTTP_URL_BYTES_MAX, rest), 414);
    assert_int_equal(status_of_repeat("GET /", "a", MIB(1), ""), 414);

    size_t block = strlen(HOST "X: \r\n\r\n");
    assert_int_equal(status_of_repeat(GET "X: ", "a", HTTP_HEADER_BYTES_MAX - block, "\r\n\r\n"), 200);
    assert_int_equal(status_of_repeat(GET "X: ", "a", HTTP_HEADER_BYTES_MAX - block + 1, "\r\n\r\n"), 431);
    assert_int_equal(status_of_repeat(GET "X: ", "a", MIB(1), ""), 431);
    assert_int_equal(status_of_repeat(GET, "X", MIB(1), ""), 431);
    assert_int_equal(status_of_repeat(GET, "X:\r\n", HTTP_HEADERS_MAX - 1, "\r\n"), 200);
    assert_int_equal(status_of_repeat(GET, "X:\r\n", HTTP_HEADERS_MAX, "\r\n"), 431);

    assert_int_equal(status_of_repeat(POST "Content-Length: 1000\r\n\r\n", "a", BODY_BYTES_MAX, ""), 200);
    assert_int_equal(status_of_repeat(CHUNKED, "1\r\na\r\n", BODY_BYTES_MAX, "0\r\n\r\n"), 200);
    assert_int_equal(status_of_repeat(CHUNKED, "1\r\na\r\n", BODY_BYTES_MAX + 1, "0\r\n\r\n"), 413);
    assert_int_equal(status_of_repeat(CHUNKED "1;", "a", HTTP_CHUNK_EXT_BYTES_MAX, "\r\na\r\n0\r\n\r\n"),
                     200);
    assert_int_equal(status_of_repeat(CHUNKED "1;", "a", HTTP_CHUNK_EXT_BYTES_MAX + 1, "\r\na\r\n0\r\n\r\n"),
                     400);
    /* of the whole message, not of one chunk */
    assert_int_equal(status_of_repeat(CHUNKED, "1;a\r\na\r\n", HTTP_CHUNK_EXT_BYTES_MAX + 1, "0\r\n\r\n"),
                     400);
    /* trailers share the budget of the head */
    assert_int_equal(status_of_repeat(CHUNKED "0\r\n", "X:\r\n", HTTP_HEADERS_MAX - 2, "\r\n"), 200);
    assert_int_equal(status_of_repeat(CHUNKED "0\r\n", "X:\r\n", HTTP_HEADERS_MAX - 1, "\r\n"), 431);
    assert_int_equal(status_of_repeat(CHUNKED "0\r\nX:", "a", HTTP_HEADER_BYTES_MAX, "\r\n\r\n"), 431);
}

static void test_http_asks_to_continue(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool asks;
    } cases[] = {
        {POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", true},
        {POST "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", true},
        {POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\na", false}, // it does not wait
        {POST "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", false},
        {GET "Expect: 100-continue\r\n\r\n", false}, // nothing to continue with
        {"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", false},
        {POST "Content-Length: 3\r\n\r\n", false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct outcome outcome = feed_whole(cases[i].text);
        assert_int_equal(outcome.asked_continue, cases[i].asks);
        http_reader_free(outcome.reader);
    }
    struct outcome outcome = feed_whole(POST "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n");
    assert_int_equal(outcome.status, 413); // instead of the 100
    http_reader_free(outcome.reader);
}

static void test_http_keep_alive_rules(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool keeps;
    } cases[] = {
        {GET "\r\n", true},
        {GET "Connection: close\r\n\r\n", false},
        {GET "Connection: Close\r\n\r\n", false},
        {GET "Connection: keep-alive, close\r\n\r\n", false},
        {GET "Connection: foo\r\n\r\n", true},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive, close\r\n\r\n", false},
        {POST "Connection: close\r\nContent-Length: 1\r\n\r\na", false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct outcome outcome = feed_whole(cases[i].text);
        assert_int_equal(outcome.status, 200);
        assert_int_equal(http_reader_request(outcome.reader)->keep_alive, cases[i].keeps);
        http_reader_free(outcome.reader);
    }
}

static void test_http_request_id_is_sane_or_absent(void **state)
{
    (void)state;
    char id[200];
    for (size_t len = 0; len <= 130; len++) {
        char text[512];
        memset(id, 'x', len);
        id[len] = 0;
        snprintf(text, sizeof(text), GET "X-Request-ID: %s\r\n\r\n", id);
        struct outcome outcome = feed_whole(text);
        const char *got = http_reader_request(outcome.reader)->request_id;
        if (len >= 1 && len <= 128) assert_string_equal(got, id);
        else assert_null(got);
        http_reader_free(outcome.reader);
    }
    struct outcome outcome = feed_whole(GET "X-Request-ID: a b\r\n\r\n");
    assert_null(http_reader_request(outcome.reader)->request_id);
    http_reader_free(outcome.reader);
}

static void test_http_forms_of_the_target(void **state)
{
    (void)state;
    static const struct {
        const char *target, *path, *query;
    } cases[] = {
        {"/", "/", NULL},         {"/a?", "/a", ""},        {"/a/../%2e", "/a/../%2e", NULL},
        {"//a", "//a", NULL},     {"/?a?b", "/", "a?b"},    {"http://a", "/", NULL},
        {"http://a/", "/", NULL}, {"http://a?x", "/", "x"}, {"https://a/b?c", "/b", "c"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char text[256];
        snprintf(text, sizeof(text), "HEAD %s HTTP/1.1\r\n" HOST "\r\n", cases[i].target);
        struct outcome outcome = feed_whole(text);
        assert_int_equal(outcome.status, 200);
        const struct http_request *request = http_reader_request(outcome.reader);
        assert_true(request->is_head);
        assert_string_equal(request->path, cases[i].path);
        if (cases[i].query) assert_string_equal(request->query, cases[i].query);
        else assert_null(request->query);
        http_reader_free(outcome.reader);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_reads_a_request),
        cmocka_unit_test(test_http_reads_chunked_bodies),
        cmocka_unit_test(test_http_waits_at_every_prefix),
        cmocka_unit_test(test_http_answers_with_the_status),
        cmocka_unit_test(test_http_byte_classes),
        cmocka_unit_test(test_http_limits_to_the_byte),
        cmocka_unit_test(test_http_asks_to_continue),
        cmocka_unit_test(test_http_keep_alive_rules),
        cmocka_unit_test(test_http_request_id_is_sane_or_absent),
        cmocka_unit_test(test_http_forms_of_the_target),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    guard_done(&guard);
    return r;
}
