/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/base/json. Every text is checked at a PROT_NONE page. Expected values: RFC 8259 read
 * by hand, and JSONTestSuite (read in place, skipped where absent). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/json.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/unit/guard.h"

static struct guard guard;

static int check(const void *text, size_t len, struct err *err)
{
    return json_check((const char *)guard_copy(&guard, text, len), len, JSON_DEPTH_MAX, err);
}

static int parse(const char *text, struct cJSON **ret_json, struct err *err)
{
    size_t len = strlen(text);
    return json_parse((const char *)guard_copy(&guard, text, len), len, JSON_DEPTH_MAX, ret_json, err);
}

static void test_json_accepts_the_grammar(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "1",
        "-1.5e+10",
        "0.0",
        "1E-2",
        "\"\"",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        " [ ] ",
        "\t\r\n{ \"a\" : [ 1 , 2 , { } ] , \"b\" : \"\\u00e9\\ud83d\\ude00\\n\" }\n",
        "[[[],[]],{}]",
        "\"\xc3\xa9\xf0\x9f\x98\x80\"",
        "\"a long enough run of plain bytes, then \\\" and \\\\ in it\"",
        "\"\x7f\"",
        "\"\\u0000\"",
        "{\"a\":1,\"a\":2}",
        "{\"\":{\"\":[]}}",
        "\"\\/\\b\\f\\r\\t\"",
    };
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct err err = {0};
        if (check(texts[i], strlen(texts[i]), &err) != 0) fail_msg("%s: %s", texts[i], err.text);
    }
}

static void test_json_refuses_with_the_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t offset;
    } cases[] = {
        {"", 0},
        {" ", 1},
        {"[", 1},
        {"]", 0},
        {"{", 1},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[1 2]", 3},
        {"{\"a\"}", 4},
        {"{\"a\":}", 5},
        {"{\"a\":1,}", 7},
        {"{1:2}", 1},
        {"{\"a\" 1}", 5},
        {"[1}", 2},
        {"{\"a\":1]", 6},
        {"01", 0},
        {"-", 1},
        {"-a", 1},
        {"1.", 2},
        {".5", 0},
        {"1.e1", 2},
        {"1e", 2},
        {"1e+", 3},
        {"+1", 0},
        {"0x10", 1},
        {"NaN", 0},
        {"Infinity", 0},
        {"nul", 0},
        {"nulll", 4},
        {"True", 0},
        {"'a'", 0},
        {"\"a", 2},
        {"\"\\", 2},
        {"\"\\q\"", 1},
        {"\"\\u12\"", 1},
        {"\"\\u12g4\"", 1},
        {"\"\n\"", 1},
        {"\"\x1f\"", 1},
        {"1 2", 2},
        {"{} x", 3},
        {"\"\\ud800\"", 1},
        {"\"\\udc00\"", 1},
        {"\"\\ud800\\u0041\"", 1},
        {"\xef\xbb\xbf{}", 0},
        {"\"\xff\"", 1},
        {"\"\xc0\x80\"", 1},
        {"\"\xed\xa0\x80\"", 1},
        {"\"\xf4\x90\x80\x80\"", 1},
        {"[1]//x", 3},
        {"/**/1", 0},
        {"[1]\f", 3},
        {"\"12345678\xc3\"", 9},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct err err = {0};
        char start[64];
        snprintf(start, sizeof(start), "json: offset %zu: ", cases[i].offset);
        assert_int_equal(check(cases[i].text, strlen(cases[i].text), &err), ERR_INPUT);
        if (strncmp(err.text, start, strlen(start)) != 0)
            fail_msg("%s: wanted offset %zu, got: %s", cases[i].text, cases[i].offset, err.text);
    }
    struct err err = {0};
    assert_int_equal(check("\"a\0b\"", 5, &err), ERR_INPUT);
    assert_int_equal(check("1\0", 2, &err), ERR_INPUT);
}

/* A proper prefix of an object is never a JSON text itself. */
static void test_json_refuses_every_prefix(void **state)
{
    (void)state;
    static const char text[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\xc3\xa9llo \\ud83d\\ude00 w\\n\"}],"
        "\"t\":-0.5e-3,\"s\":true,\"n\":null,\"f\":[false,[],{}]}";
    for (size_t len = 0; len < sizeof(text) - 1; len++) assert_int_equal(check(text, len, NULL), ERR_INPUT);
    assert_int_equal(check(text, sizeof(text) - 1, NULL), 0);
}

static void test_json_bounds_depth(void **state)
{
    (void)state;
    enum { DEPTH = 10 * 1000 * 1000 };
    char *text = malloc(DEPTH);
    assert_non_null(text);
    struct err err = {0};
    memset(text, '[', DEPTH);
    assert_int_equal(check(text, DEPTH, &err), ERR_INPUT);
    assert_string_equal(err.text, "json: offset 64: nested too deep");
    for (unsigned depth = 1; depth <= 512; depth *= 2) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(json_check(text, 2 * depth, depth, NULL), 0);
        assert_int_equal(json_check(text, 2 * depth, depth - 1, NULL), ERR_INPUT);
        struct cJSON *json = NULL;
        assert_int_equal(json_parse(text, 2 * depth, depth, &json, NULL), 0);
        cJSON_Delete(json);
    }
    assert_int_equal(json_check("1", 1, 0, NULL), 0);
    assert_int_equal(json_check("[]", 2, 0, NULL), ERR_INPUT);
    free(text);
}

static void test_json_parse_gives_values(void **state)
{
    (void)state;
    struct cJSON *json = NULL;
    assert_int_equal(parse("{\"a\":[1,\"x\\u00e9\"],\"b\":true,\"big\":1e400}", &json, NULL), 0);
    const struct cJSON *a = cJSON_GetObjectItemCaseSensitive(json, "a");
    assert_int_equal(cJSON_GetArraySize(a), 2);
    assert_string_equal(cJSON_GetArrayItem(a, 1)->valuestring, "x\xc3\xa9");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "b")));
    assert_true(cJSON_GetObjectItemCaseSensitive(json, "big")->valuedouble > 1e308); // documented: infinity
    cJSON_Delete(json);
    assert_int_equal(parse("12", &json, NULL), 0); // a number at the guard page
    assert_int_equal(json->valueint, 12);
    cJSON_Delete(json);
}

static void test_json_parse_refuses_what_cjson_changes(void **state)
{
    (void)state;
    struct cJSON *json = NULL;
    struct err err = {0};
    assert_int_equal(parse("[\"a\\u0000b\"]", &json, &err), ERR_INPUT);
    assert_string_equal(err.text, "json: offset 3: NUL in a string");
    assert_int_equal(parse("{\"a\":1,\"b\":2,\"\\u0061\":3}", &json, &err), ERR_INPUT);
    assert_string_equal(err.text, "json: repeated key in the top object");
    assert_int_equal(
        parse("[1,0.0000000000000000000000000000000000000000000000000000000000001]", &json, &err), 0);
    cJSON_Delete(json); // 63 bytes are fine
    json = NULL;
    assert_int_equal(
        parse("[1,0.00000000000000000000000000000000000000000000000000000000000001]", &json, &err),
        ERR_INPUT);
    assert_string_equal(err.text, "json: offset 3: number longer than 63 bytes");
    assert_null(json);                                                    // written only on success
    assert_int_equal(parse("{\"a\":{\"b\":1,\"b\":2}}", &json, &err), 0); // only the top object is checked
    cJSON_Delete(json);
}

/* 200 000 distinct keys, in the order worst for pairwise comparison, stay well under a second. */
static void test_json_parse_many_keys(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, MIB(8));
    buf_putc(&buf, '{');
    for (int i = 0; i < 200000; i++) buf_printf(&buf, "%s\"k%d\":0", i ? "," : "", i);
    buf_putc(&buf, '}');
    assert_int_equal(buf.error, 0);
    struct cJSON *json = NULL;
    assert_int_equal(json_parse(buf_text(&buf), buf.len, JSON_DEPTH_MAX, &json, NULL), 0);
    cJSON_Delete(json);
    buf_done(&buf);
}

static void test_json_parse_bounded_refuses_before_it_allocates(void **state)
{
    (void)state;
    struct cJSON *json = NULL;
    struct err err = {0};
    size_t values = 0;
    const char *text = "{\"a\":[1,true,\"x\",{}],\"b\":null}"; // 7 values
    assert_int_equal(json_parse_bounded(text, strlen(text), 64, 7, &json, &values, &err), 0);
    assert_int_equal(values, 7);
    cJSON_Delete(json);
    json = NULL;
    assert_int_equal(json_parse_bounded(text, strlen(text), 64, 6, &json, &values, &err), ERR_LIMIT);
    assert_string_equal(err.text, "json: more than 6 values");
    assert_null(json);
    struct buf buf;
    buf_init(&buf, MIB(1));
    for (int count = JSON_TOP_KEYS_MAX; count <= JSON_TOP_KEYS_MAX + 1; count++) {
        buf_clear(&buf);
        buf_putc(&buf, '{');
        for (int i = 0; i < count; i++) buf_printf(&buf, "%s\"%d\":{\"%d\":0}", i ? "," : "", i, i);
        buf_putc(&buf, '}');
        int r = json_parse_bounded(buf_text(&buf), buf.len, 64, 1 << 20, &json, &values, &err);
        assert_int_equal(r, count == JSON_TOP_KEYS_MAX ? 0 : ERR_LIMIT);
        if (r == 0) cJSON_Delete(json);
    }
    buf_done(&buf);
}

static void expect_top(const char *text, const char *key, const char *want)
{
    size_t len = strlen(text), value_len = 0;
    const char *value = json_top_value((const char *)guard_copy(&guard, text, len), len, key, &value_len);
    if (!want) {
        assert_null(value);
        return;
    }
    assert_non_null(value);
    assert_int_equal(value_len, strlen(want));
    assert_memory_equal(value, want, value_len);
}

static void test_json_top_value_gives_the_text(void **state)
{
    (void)state;
    const char *text =
        " { \"a\" : 9007199254740993 , \"b\":[{\"c\":1},\"]\\\"\"] ,\"c\":{\"seed\":7}, \"s\":\"}\", "
        "\"\\u0065\":3,\"w\":true}";
    expect_top(text, "a", "9007199254740993 ");
    expect_top(text, "b", "[{\"c\":1},\"]\\\"\"]");
    expect_top(text, "c", "{\"seed\":7}");
    expect_top(text, "seed", NULL); // not of the top object
    expect_top(text, "s", "\"}\"");
    expect_top(text, "e", NULL); // written with an escape
    expect_top(text, "w", "true");
    expect_top(text, "", NULL);
    expect_top("{}", "a", NULL);
    expect_top("[1]", "a", NULL);
    expect_top("", "a", NULL);
    expect_top("{\"a\":1}", "a", "1");
}

/* The plain-run shortcut must agree with the slow path: one odd byte at each place of a long string. A
 * backslash is refused too, since "\a" is no escape and the last one hides the closing quote. */
static void test_json_string_bytes_at_every_place(void **state)
{
    (void)state;
    uint8_t text[26];
    for (size_t place = 1; place < sizeof(text) - 1; place++) {
        for (unsigned byte = 0; byte < 256; byte++) {
            memset(text, 'a', sizeof(text));
            text[0] = text[sizeof(text) - 1] = '"';
            text[place] = (uint8_t)byte;
            bool want = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
            assert_int_equal(check(text, sizeof(text), NULL) == 0, want);
        }
    }
}

static void test_json_suite(void **state)
{
    (void)state;
    const char *root = getenv("KVASIR_VECTORS");
    char folder[512];
    snprintf(folder, sizeof(folder), "%s/json", root ? root : "../shared/vectors");
    DIR *dir = opendir(folder);
    if (!dir) {
        print_message("%s is absent: JSONTestSuite not run\n", folder);
        skip();
    }
    int accepted = 0, refused = 0, either = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (strlen(name) < 3 || name[1] != '_') continue;
        char path[1024];
        snprintf(path, sizeof(path), "%s/%s", folder, name);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        static char text[1 << 20];
        size_t len = fread(text, 1, sizeof(text), file);
        fclose(file);
        struct err err = {0};
        int r = check(text, len, &err);
        if (name[0] == 'y' && r != 0) fail_msg("%s must be accepted: %s", name, err.text);
        if (name[0] == 'n' && r != ERR_INPUT) fail_msg("%s must be refused, got %d", name, r);
        accepted += name[0] == 'y';
        refused += name[0] == 'n';
        either += name[0] == 'i';
        struct cJSON *json = NULL;
        int p = json_parse((const char *)guard_copy(&guard, text, len), len, JSON_DEPTH_MAX, &json, NULL);
        if (r != 0) assert_int_not_equal(p, 0); // the gate is never wider than the check
        if (p == 0) cJSON_Delete(json);
    }
    closedir(dir);
    print_message("JSONTestSuite: %d accepted, %d refused, %d either way\n", accepted, refused, either);
    assert_true(accepted > 0);
    assert_true(refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_accepts_the_grammar),
        cmocka_unit_test(test_json_refuses_with_the_offset),
        cmocka_unit_test(test_json_refuses_every_prefix),
        cmocka_unit_test(test_json_bounds_depth),
        cmocka_unit_test(test_json_parse_gives_values),
        cmocka_unit_test(test_json_parse_refuses_what_cjson_changes),
        cmocka_unit_test(test_json_parse_many_keys),
        cmocka_unit_test(test_json_parse_bounded_refuses_before_it_allocates),
        cmocka_unit_test(test_json_top_value_gives_the_text),
        cmocka_unit_test(test_json_string_bytes_at_every_place),
        cmocka_unit_test(test_json_suite),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    guard_done(&guard);
    return r;
}
