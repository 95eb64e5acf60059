/* SPDX-License-Identifier: Apache-2.0 */
/* json - the strict gate before cJSON.
 *
 * One pass, one state, and one bit a level (object or array) instead of a call stack: ten million
 * brackets cost one comparison each up to depth_max and an error then. Grammar: RFC 8259. Three things
 * the grammar allows are refused by json_parse alone, because cJSON would silently change them:
 *   - an escaped NUL, since cJSON strings end at the first NUL;
 *   - a number token longer than 63 bytes, which cJSON (1.7.15) cuts at its 64-byte buffer;
 *   - a repeated key of the top object, of which cJSON_GetObjectItem sees only the first.
 * Numbers become doubles: 1e400 is +inf and integers beyond 2^53 are rounded. The range table of the
 * request decides about those, not this file. */
#include "common/base/json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"

enum {
    DEPTH_LIMIT = 512, // bits of the stack; below cJSON's own limit (CJSON_NESTING_LIMIT)
};
_Static_assert(DEPTH_LIMIT < CJSON_NESTING_LIMIT, "cJSON must not refuse by depth what the gate let pass");

/* What may come next. The names say what is wanted, not what was read. */
enum want {
    WANT_VALUE,
    WANT_VALUE_OR_END,
    WANT_KEY,
    WANT_KEY_OR_END,
    WANT_COLON,
    WANT_COMMA_OR_END,
    WANT_NOTHING
};

struct scan {
    const uint8_t *text;
    size_t len;
    size_t at; // offset of the next byte
    size_t values, values_max;
    size_t top_keys, top_keys_max;
    unsigned depth, depth_max;
    uint64_t is_object[DEPTH_LIMIT / 64]; // bit d: the level d is an object
    bool for_cjson;                       // also refuse what cJSON would change
    struct err *err;
};

static int refuse(struct scan *scan, size_t offset, const char *why)
{
    return ERR(scan->err, ERR_INPUT, "json: offset %zu: %s", offset, why);
}

/* The byte at offset, or -1 past the end: so that every look-ahead is bounded by construction. */
static int peek(const struct scan *scan, size_t offset)
{
    return offset < scan->len ? scan->text[offset] : -1;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* True when all eight bytes are ASCII, at least 0x20, and neither '"' nor '\'. The zero-byte test is
 * the classic (x - 0x01..) & ~x & 0x80.. (Mycroft 1987); exact as a yes/no over the whole word. */
static bool is_plain8(const uint8_t *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    uint64_t w;
    memcpy(&w, p, sizeof(w));
    uint64_t quote = w ^ (ones * '"'), backslash = w ^ (ones * '\\');
    uint64_t control = (w - ones * 0x20) & ~w;
    return !((w | control | ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash)) & tops);
}

/* Value of four hex digits at offset, or -1. */
static int hex4(const struct scan *scan, size_t offset)
{
    int value = 0;
    for (size_t i = 0; i < 4; i++) {
        int c = peek(scan, offset + i);
        int digit = is_digit(c)            ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* scan->at is at the backslash; moves behind the escape. */
static int scan_escape(struct scan *scan)
{
    size_t start = scan->at;
    int c = peek(scan, start + 1);
    if (c < 0) return refuse(scan, scan->len, "the text ends inside a string");
    if (c != 'u') {
        if (!strchr("\"\\/bfnrt", c) || c == 0) return refuse(scan, start, "unknown escape");
        scan->at = start + 2;
        return 0;
    }
    int unit = hex4(scan, start + 2);
    if (unit < 0) return refuse(scan, start, "\\u needs four hex digits");
    if (unit == 0 && scan->for_cjson) return refuse(scan, start, "NUL in a string");
    if (unit >= 0xDC00 && unit <= 0xDFFF) return refuse(scan, start, "lone low surrogate");
    scan->at = start + 6;
    if (unit < 0xD800 || unit > 0xDBFF) return 0;
    int low = -1;
    if (peek(scan, start + 6) == '\\' && peek(scan, start + 7) == 'u') low = hex4(scan, start + 8);
    if (low < 0xDC00 || low > 0xDFFF) return refuse(scan, start, "lone high surrogate");
    scan->at = start + 12;
    return 0;
}

/* scan->at is at the opening quote; moves behind the closing one. */
static int scan_string(struct scan *scan)
{
    scan->at++;
    for (;;) {
        while (scan->len - scan->at >= 8 && is_plain8(scan->text + scan->at)) scan->at += 8;
        int c = peek(scan, scan->at);
        if (c < 0) return refuse(scan, scan->len, "the text ends inside a string");
        if (c == '"') {
            scan->at++;
            return 0;
        }
        if (c == '\\') {
            int r = scan_escape(scan);
            if (r < 0) return r;
        } else if (c < 0x20) {
            return refuse(scan, scan->at, "control character in a string");
        } else if (c < 0x80) {
            scan->at++;
        } else {
            size_t bytes = utf8_sequence_bytes(scan->text + scan->at, scan->len - scan->at);
            if (bytes == 0) return refuse(scan, scan->at, "malformed UTF-8");
            scan->at += bytes;
        }
    }
}

static bool skip_digits(struct scan *scan)
{
    size_t start = scan->at;
    while (is_digit(peek(scan, scan->at))) scan->at++;
    return scan->at > start;
}

/* number = [ minus ] int [ frac ] [ exp ]; scan->at is at its first byte. */
static int scan_number(struct scan *scan)
{
    size_t start = scan->at;
    if (peek(scan, scan->at) == '-') scan->at++;
    if (peek(scan, scan->at) == '0') {
        scan->at++;
        if (is_digit(peek(scan, scan->at))) return refuse(scan, start, "number with a leading zero");
    } else if (!skip_digits(scan)) {
        return refuse(scan, scan->at, "digit expected");
    }
    if (peek(scan, scan->at) == '.') {
        scan->at++;
        if (!skip_digits(scan)) return refuse(scan, scan->at, "digit expected");
    }
    int c = peek(scan, scan->at);
    if (c == 'e' || c == 'E') {
        scan->at++;
        c = peek(scan, scan->at);
        if (c == '+' || c == '-') scan->at++;
        if (!skip_digits(scan)) return refuse(scan, scan->at, "digit expected");
    }
    if (scan->for_cjson && scan->at - start > JSON_NUMBER_BYTES_MAX)
        return refuse(scan, start, "number longer than 63 bytes");
    return 0;
}

static int scan_word(struct scan *scan, const char *word)
{
    size_t len = strlen(word);
    if (scan->len - scan->at < len || memcmp(scan->text + scan->at, word, len) != 0)
        return refuse(scan, scan->at, "value expected");
    scan->at += len;
    return 0;
}

/* What follows a complete value at the current depth. */
static enum want want_after_value(const struct scan *scan)
{
    return scan->depth ? WANT_COMMA_OR_END : WANT_NOTHING;
}

static bool in_object(const struct scan *scan)
{
    CHECK(scan->depth > 0);
    unsigned level = scan->depth - 1;
    return scan->is_object[level / 64] >> (level % 64) & 1;
}

static int push(struct scan *scan, bool is_object)
{
    if (scan->depth >= scan->depth_max) return refuse(scan, scan->at, "nested too deep");
    uint64_t bit = UINT64_C(1) << (scan->depth % 64);
    uint64_t *word = &scan->is_object[scan->depth / 64];
    *word = is_object ? *word | bit : *word & ~bit;
    scan->depth++;
    scan->at++;
    return 0;
}

static int scan_value(struct scan *scan, int c, enum want *want)
{
    int r;
    if (scan->values++ >= scan->values_max)
        return ERR(scan->err, ERR_LIMIT, "json: more than %zu values", scan->values_max);
    if (c == '{' || c == '[') {
        r = push(scan, c == '{');
        *want = c == '{' ? WANT_KEY_OR_END : WANT_VALUE_OR_END;
        return r;
    }
    if (c == '"') r = scan_string(scan);
    else if (c == '-' || is_digit(c)) r = scan_number(scan);
    else if (c == 't') r = scan_word(scan, "true");
    else if (c == 'f') r = scan_word(scan, "false");
    else r = scan_word(scan, "null");
    *want = want_after_value(scan);
    return r;
}

/* One token that is not white space. */
static int scan_token(struct scan *scan, int c, enum want *want)
{
    bool may_end = *want == WANT_COMMA_OR_END || *want == (c == '}' ? WANT_KEY_OR_END : WANT_VALUE_OR_END);
    if ((c == '}' || c == ']') && may_end) {
        if (in_object(scan) != (c == '}')) return refuse(scan, scan->at, "bracket does not match");
        scan->depth--;
        scan->at++;
        *want = want_after_value(scan);
        return 0;
    }
    switch (*want) {
    case WANT_VALUE:
    case WANT_VALUE_OR_END: return scan_value(scan, c, want);
    case WANT_KEY:
    case WANT_KEY_OR_END:
        if (c != '"') return refuse(scan, scan->at, "key expected");
        if (scan->depth == 1 && scan->top_keys++ >= scan->top_keys_max)
            return ERR(scan->err, ERR_LIMIT, "json: more than %zu keys in the top object",
                       scan->top_keys_max);
        *want = WANT_COLON;
        return scan_string(scan);
    case WANT_COLON:
        if (c != ':') return refuse(scan, scan->at, "':' expected");
        *want = WANT_VALUE;
        break;
    case WANT_COMMA_OR_END:
        if (c != ',') return refuse(scan, scan->at, "',' or a closing bracket expected");
        *want = in_object(scan) ? WANT_KEY : WANT_VALUE;
        break;
    case WANT_NOTHING: return refuse(scan, scan->at, "bytes behind the value");
    }
    scan->at++;
    return 0;
}

static int scan_text(struct scan *scan)
{
    enum want want = WANT_VALUE;
    CHECK(scan->depth_max <= DEPTH_LIMIT);
    while (scan->at < scan->len) {
        int c = scan->text[scan->at];
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            scan->at++;
            continue;
        }
        int r = scan_token(scan, c, &want);
        if (r < 0) return r;
        CHECK(scan->at <= scan->len);
    }
    if (want != WANT_NOTHING) return refuse(scan, scan->len, "the text ends too early");
    CHECK(scan->depth == 0);
    return 0;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted, not compared pairwise: a body of a million keys must not cost 10^12 steps. Decoded keys are
 * compared, so that "a" and "\u0061" are the same. */
static int check_unique_keys(const struct cJSON *object, struct err *err)
{
    size_t count = 0;
    for (const struct cJSON *item = object->child; item; item = item->next) count++;
    if (count < 2) return 0;
    const char **keys = malloc(count * sizeof(*keys));
    if (!keys) return ERR(err, -ENOMEM, "json: no memory for %zu keys", count);
    size_t i = 0;
    for (const struct cJSON *item = object->child; item; item = item->next) keys[i++] = item->string;
    qsort(keys, count, sizeof(*keys), compare_keys);
    int r = 0;
    for (i = 1; i < count && r == 0; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            r = ERR(err, ERR_INPUT, "json: repeated key in the top object");
    free(keys);
    return r;
}

int json_check(const char *text, size_t len, unsigned depth_max, struct err *err)
{
    struct scan scan = {.text = (const uint8_t *)text,
                        .len = len,
                        .values_max = SIZE_MAX,
                        .top_keys_max = SIZE_MAX,
                        .depth_max = depth_max,
                        .err = err};
    return scan_text(&scan);
}

static int parse(struct scan *scan, struct cJSON **ret_json)
{
    int r = scan_text(scan);
    if (r < 0) return r;
    struct cJSON *json = cJSON_ParseWithLength((const char *)scan->text, scan->len);
    if (!json)
        return ERR(scan->err, -ENOMEM, "json: no memory for a text of %zu bytes",
                   scan->len); // the grammar was right
    if (cJSON_IsObject(json)) r = check_unique_keys(json, scan->err);
    if (r < 0) {
        cJSON_Delete(json);
        return r;
    }
    *ret_json = json;
    return 0;
}

int json_parse(const char *text, size_t len, unsigned depth_max, struct cJSON **ret_json, struct err *err)
{
    struct scan scan = {.text = (const uint8_t *)text,
                        .len = len,
                        .values_max = SIZE_MAX,
                        .top_keys_max = SIZE_MAX,
                        .depth_max = depth_max,
                        .for_cjson = true,
                        .err = err};
    return parse(&scan, ret_json);
}

int json_parse_bounded(const char *text, size_t len, unsigned depth_max, size_t values_max,
                       struct cJSON **ret_json, size_t *ret_values, struct err *err)
{
    struct scan scan = {.text = (const uint8_t *)text,
                        .len = len,
                        .values_max = values_max,
                        .top_keys_max = JSON_TOP_KEYS_MAX,
                        .depth_max = depth_max,
                        .for_cjson = true,
                        .err = err};
    int r = parse(&scan, ret_json);
    if (r == 0) *ret_values = scan.values;
    return r;
}

static int skip_space(struct scan *scan)
{
    int c = peek(scan, scan->at);
    while (c == ' ' || c == '\t' || c == '\n' || c == '\r') c = peek(scan, ++scan->at);
    return c;
}

/* Moves behind the value at scan->at, whose text is known to be good. */
static void skip_value(struct scan *scan)
{
    unsigned depth = 0;
    for (;;) {
        int c = peek(scan, scan->at);
        if (c < 0) return;
        if (c == '"') (void)scan_string(scan); // a good one
        else if (c == '{' || c == '[') depth++, scan->at++;
        else if (depth == 0 && (c == ',' || c == '}')) return; // behind a number or word
        else if (c == '}' || c == ']') depth--, scan->at++;
        else scan->at++;
        if (depth == 0 && (c == '"' || c == '}' || c == ']')) return;
    }
}

const char *json_top_value(const char *text, size_t len, const char *key, size_t *ret_len)
{
    struct scan scan = {.text = (const uint8_t *)text, .len = len};
    size_t key_len = strlen(key);
    if (skip_space(&scan) != '{') return NULL;
    do {
        scan.at++; // the brace or the comma
        if (skip_space(&scan) != '"') return NULL;
        size_t start = scan.at + 1;
        if (scan_string(&scan) < 0) return NULL;
        bool is_it = scan.at - 1 - start == key_len && memcmp(text + start, key, key_len) == 0;
        if (skip_space(&scan) != ':') return NULL;
        scan.at++;
        (void)skip_space(&scan); // the value is next
        start = scan.at;
        skip_value(&scan);
        if (is_it) {
            *ret_len = scan.at - start;
            return text + start;
        }
    } while (skip_space(&scan) == ',');
    return NULL;
}
