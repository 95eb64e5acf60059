/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of GGUF over bytes: what it reads, every way it refuses, and that it never reads past its
 * input (which ends at a page without access). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/gguf/file.h"
#include "common/gguf/gguf.h"
#include "tests/data/gguf_hostile.h"
#include "tests/data/gguf_writer.h"
#include "tests/unit/guard.h"

static struct gguf_writer writer;
static struct guard guard;

/* Serializes the writer and parses the result at the guard page. */
static int parse_writer(struct gguf **ret_gguf, struct err *err)
{
    struct buf bytes;
    writer_finish(&writer, &bytes);
    int r = gguf_parse(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len, ret_gguf, err);
    buf_done(&bytes);
    return r;
}

static struct gguf *parse_good(void)
{
    struct gguf *gguf = NULL;
    struct err err = {0};
    int r = parse_writer(&gguf, &err);
    if (r < 0) fail_msg("%s", err.text);
    return gguf;
}

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

/* ---- reading ---- */

static void test_gguf_reads_versions_2_and_3(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        writer.version = version;
        struct gguf *gguf = parse_good();
        assert_int_equal(gguf_version(gguf), version);
        gguf_free(gguf);
    }
}

static void test_gguf_reads_an_empty_file(void **state)
{
    (void)state;
    writer_done(&writer);
    writer_init(&writer);
    struct gguf *gguf = parse_good();
    uint32_t value;
    assert_int_equal(gguf_tensor_count(gguf), 0);
    assert_null(gguf_tensor_find(gguf, "x"));
    assert_int_equal(gguf_get_u32(gguf, "x", &value), -ENOENT);
    gguf_free(gguf);
}

static void test_gguf_converts_integers_of_every_width(void **state)
{
    (void)state;
    static const struct {
        enum gguf_value_type type;
        uint64_t bits;
        size_t bytes;
        int r; // of gguf_get_u64
        uint64_t value;
    } cases[] = {
        {GGUF_U8, 0xff, 1, 0, 255},
        {GGUF_I8, 0x7f, 1, 0, 127},
        {GGUF_I8, 0xff, 1, ERR_FORMAT, 0},
        {GGUF_U16, 0xffff, 2, 0, 65535},
        {GGUF_I16, 0x8000, 2, ERR_FORMAT, 0},
        {GGUF_I16, 0x7fff, 2, 0, 32767},
        {GGUF_U32, 0xffffffff, 4, 0, 4294967295},
        {GGUF_I32, 0xffffffff, 4, ERR_FORMAT, 0},
        {GGUF_I32, 0x7fffffff, 4, 0, 2147483647},
        {GGUF_U64, UINT64_MAX, 8, 0, UINT64_MAX},
        {GGUF_I64, INT64_MAX, 8, 0, INT64_MAX},
        {GGUF_I64, UINT64_C(1) << 63, 8, ERR_FORMAT, 0},
        {GGUF_F32, 0, 4, ERR_FORMAT, 0},
        {GGUF_BOOL, 1, 1, ERR_FORMAT, 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        writer_set_raw(&writer, "x", cases[i].type, &cases[i].bits, cases[i].bytes);
        struct gguf *gguf = parse_good();
        uint64_t value = 0;
        uint32_t narrow = 0;
        assert_int_equal(gguf_get_u64(gguf, "x", &value), cases[i].r);
        assert_true(value == cases[i].value);
        bool fits = cases[i].r == 0 && cases[i].value <= UINT32_MAX;
        assert_int_equal(gguf_get_u32(gguf, "x", &narrow), fits ? 0 : ERR_FORMAT);
        assert_true(narrow == (fits ? cases[i].value : 0));
        gguf_free(gguf);
    }
}

static void test_gguf_converts_floats_and_refuses_what_is_not_finite(void **state)
{
    (void)state;
    float value = 0;
    double wide = -2.5;
    writer_set_f32(&writer, "f32", 1.5f);
    writer_set_raw(&writer, "f64", GGUF_F64, &wide, sizeof wide);
    writer_set_i32(&writer, "int", -3);
    writer_set_f32(&writer, "nan", __builtin_nanf(""));
    wide = 1e300;
    writer_set_raw(&writer, "big", GGUF_F64, &wide, sizeof wide);
    wide = __builtin_nan("");
    writer_set_raw(&writer, "nan64", GGUF_F64, &wide, sizeof wide);
    writer_set_string(&writer, "text", "1.5");
    struct gguf *gguf = parse_good();
    assert_int_equal(gguf_get_f32(gguf, "f32", &value), 0);
    assert_true(value == 1.5f);
    assert_int_equal(gguf_get_f32(gguf, "f64", &value), 0);
    assert_true(value == -2.5f);
    assert_int_equal(gguf_get_f32(gguf, "int", &value), 0);
    assert_true(value == -3.0f);
    assert_int_equal(gguf_get_f32(gguf, "nan", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_f32(gguf, "nan64", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_f32(gguf, "big", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_f32(gguf, "text", &value), ERR_FORMAT);
    assert_int_equal(gguf_get_f32(gguf, "none", &value), -ENOENT);
    gguf_free(gguf);
}

static void test_gguf_reads_bools_strings_and_arrays(void **state)
{
    (void)state;
    bool flag = false;
    size_t count = 0;
    const void *data = NULL;
    struct gguf_string string;
    const struct gguf_string *strings;
    static const uint16_t elements[] = {1, 500, 65535};
    writer_set_bool(&writer, "flag", 1);
    writer_set_string(&writer, "empty", "");
    writer_set_array(&writer, "u16", GGUF_U16, COUNT_OF(elements), elements, sizeof elements);
    writer_set_array(&writer, "none", GGUF_STRING, 0, "", 0);
    struct gguf *gguf = parse_good();

    assert_int_equal(gguf_get_bool(gguf, "flag", &flag), 0);
    assert_true(flag);
    assert_int_equal(gguf_get_bool(gguf, "empty", &flag), ERR_FORMAT);
    assert_int_equal(gguf_get_string(gguf, "empty", &string), 0);
    assert_int_equal(string.len, 0);
    assert_int_equal(gguf_get_string(gguf, "general.architecture", &string), 0);
    assert_memory_equal(string.bytes, "llama", 5);
    assert_int_equal(gguf_get_array(gguf, "u16", GGUF_U16, &count, &data), 0);
    assert_int_equal(count, COUNT_OF(elements));
    assert_memory_equal(data, elements, sizeof elements);
    assert_int_equal(gguf_get_array(gguf, "u16", GGUF_I16, &count, &data), ERR_FORMAT);
    assert_int_equal(gguf_get_array(gguf, "flag", GGUF_BOOL, &count, &data), ERR_FORMAT);
    assert_int_equal(gguf_get_string_array(gguf, "none", &count, &strings), 0);
    assert_int_equal(count, 0);
    assert_int_equal(gguf_get_string_array(gguf, "tokenizer.ggml.tokens", &count, &strings), 0);
    assert_int_equal(count, 8);
    assert_int_equal(strings[4].len, 3);
    assert_memory_equal(strings[4].bytes, "abc", 3);
    assert_int_equal(gguf_get_string_array(gguf, "u16", &count, &strings), ERR_FORMAT);
    gguf_free(gguf);
}

static void test_gguf_finds_tensors_and_their_bytes(void **state)
{
    (void)state;
    static const uint64_t dims[] = {512, 3, 2};
    (void)writer_add_tensor(&writer, "quantized", TENSOR_Q4_K, 3, dims);
    struct gguf *gguf = parse_good();
    assert_int_equal(gguf_tensor_count(gguf), writer.tensor_count);
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, "quantized");
    assert_non_null(tensor);
    assert_int_equal(tensor->type, TENSOR_Q4_K);
    assert_int_equal(tensor->dim_count, 3);
    assert_int_equal(tensor->dims[0], 512);
    assert_int_equal(tensor->dims[2], 2);
    assert_int_equal(tensor->dims[3], 1);
    assert_int_equal(tensor->data_bytes, 512 * 3 * 2 / 256 * 144); // 144 bytes hold 256 elements
    assert_true(tensor == gguf_tensor_at(gguf, gguf_tensor_count(gguf) - 1));

    const struct gguf_tensor *second = gguf_tensor_find(gguf, "blk.0.attn_norm.weight");
    float element; // the 256 of token_embd come before: see put_data of the writer
    memcpy(&element, second->data, sizeof element);
    assert_true(element == (256 * 7 % 64 - 31.5f) / 64);
    assert_null(gguf_tensor_find(gguf, "blk.0.attn_norm"));
    assert_null(gguf_tensor_find(gguf, ""));
    gguf_free(gguf);
}

static void test_gguf_follows_the_alignment_of_the_file(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {8, 64, 4096};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) {
        writer_done(&writer);
        writer_init(&writer);
        writer.alignment = alignments[i];
        writer_set_u32(&writer, "general.alignment", alignments[i]);
        (void)writer_add_tensor(&writer, "a", TENSOR_F32, 1, &(uint64_t){3});
        (void)writer_add_tensor(&writer, "b", TENSOR_F32, 1, &(uint64_t){1});
        struct gguf *gguf = parse_good();
        ptrdiff_t apart = gguf_tensor_find(gguf, "b")->data - gguf_tensor_find(gguf, "a")->data;
        assert_int_equal(apart, alignments[i] < 12 ? 16 : alignments[i]);
        gguf_free(gguf);
    }
}

static void test_gguf_tensors_may_lie_in_any_order(void **state)
{
    (void)state;
    struct writer_tensor *a = writer_find_tensor(&writer, "blk.0.attn_norm.weight");
    struct writer_tensor *b = writer_find_tensor(&writer, "output_norm.weight"); // as long as a
    uint64_t offset = a->offset;
    a->offset = b->offset;
    b->offset = offset;
    struct gguf *gguf = parse_good();
    assert_true(gguf_tensor_find(gguf, "output_norm.weight")->data <
                gguf_tensor_find(gguf, "blk.0.attn_norm.weight")->data);
    gguf_free(gguf);
}

/* Sizes of the blocks: from the layout tables of the ggml project, typed in here a second time. */
static void test_types_know_the_blocks_of_every_type(void **state)
{
    (void)state;
    static const struct {
        uint32_t id, elements, bytes;
    } known[] = {
        {0, 1, 4},    {1, 1, 2},      {2, 32, 18},    {3, 32, 20},    {6, 32, 22},    {7, 32, 24},
        {8, 32, 34},  {10, 256, 84},  {11, 256, 110}, {12, 256, 144}, {13, 256, 176}, {14, 256, 210},
        {20, 32, 18}, {23, 256, 136}, {30, 1, 2},     {39, 32, 17},
    };
    size_t found = 0;
    for (uint32_t id = 0; id < 100; id++) found += tensor_type_info(id) != NULL;
    assert_int_equal(found, COUNT_OF(known));
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        const struct tensor_type_info *info = tensor_type_info(known[i].id);
        assert_non_null(info);
        assert_int_equal(info->block_elements, known[i].elements);
        assert_int_equal(info->block_bytes, known[i].bytes);
    }
    assert_null(tensor_type_info(UINT32_MAX));
}

/* ---- identity ---- */

static struct hash128 digest_of(const uint8_t *bytes, size_t len)
{
    struct gguf *gguf = NULL;
    assert_int_equal(gguf_parse(bytes, len, &gguf, NULL), 0);
    struct hash128 digest = gguf_digest(gguf);
    gguf_free(gguf);
    return digest;
}

static void test_gguf_digest_changes_with_header_size_and_data(void **state)
{
    (void)state;
    struct buf bytes;
    writer_finish(&writer, &bytes);
    struct hash128 digest = digest_of(bytes.bytes, bytes.len);
    assert_true(hash128_equal(digest, digest_of(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len)));

    bytes.bytes[bytes.len - 1] ^= 1; // last byte of the last tensor
    assert_false(hash128_equal(digest, digest_of(bytes.bytes, bytes.len)));
    bytes.bytes[bytes.len - 1] ^= 1;
    assert_int_equal(buf_putc(&bytes, '\0'), 0); // a byte behind the last tensor
    assert_false(hash128_equal(digest, digest_of(bytes.bytes, bytes.len)));
    buf_done(&bytes);

    writer_set_string(&writer, "general.name", "small test model");
    writer_finish(&writer, &bytes);
    assert_false(hash128_equal(digest, digest_of(bytes.bytes, bytes.len)));
    buf_done(&bytes);
}

/* ---- refusing ---- */

static void test_gguf_refuses_every_hostile_file_with_its_reason(void **state)
{
    (void)state;
    size_t refused = 0;
    for (size_t i = 0; i < hostile_count(); i++) {
        struct buf bytes;
        struct gguf *gguf = NULL;
        struct err err = {0};
        struct hostile hostile = hostile_build(i, &bytes);
        int r = gguf_parse(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len, &gguf, &err);
        buf_done(&bytes);
        if (hostile.stage != HOSTILE_PARSE) {
            if (r < 0) fail_msg("%s: %s", hostile.name, err.text); // later stages refuse it
            gguf_free(gguf);
            continue;
        }
        bool as_expected = r == hostile.code && err.code == r && strstr(err.text, hostile.why) != NULL;
        if (!as_expected) fail_msg("%s: %d '%s', expected '%s'", hostile.name, r, err.text, hostile.why);
        assert_memory_equal(err.text, "gguf: offset ", 13);
        assert_null(gguf);
        refused++;
    }
    assert_true(refused >= 60);
}

static void test_gguf_refuses_every_prefix_of_a_valid_file(void **state)
{
    (void)state;
    struct buf bytes;
    struct gguf *gguf = NULL;
    writer_finish(&writer, &bytes);
    for (size_t len = 0; len < bytes.len; len++) {
        assert_int_equal(gguf_parse(guard_copy(&guard, bytes.bytes, len), len, &gguf, NULL), ERR_FORMAT);
    }
    assert_int_equal(gguf_parse(guard_copy(&guard, bytes.bytes, bytes.len), bytes.len, &gguf, NULL), 0);
    gguf_free(gguf);
    buf_done(&bytes);
}

/* Names of the file go into errors as printable text only, and cut. */
static void test_gguf_errors_hold_no_raw_bytes_of_the_file(void **state)
{
    (void)state;
    struct gguf *gguf = NULL;
    struct err err = {0};
    (void)writer_add_key(&writer, "x\n\x1b[2J\xff'", 13, "\0\0\0\0\0\0\0", 8);
    assert_int_equal(parse_writer(&gguf, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "key 'x?"
                                     "?[2J?"
                                     "?'"));
    char name[300];
    memset(name, 'k', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    writer_remove_key(&writer, "x\n\x1b[2J\xff'");
    (void)writer_add_key(&writer, name, 13, "\0\0\0\0\0\0\0", 8);
    assert_int_equal(parse_writer(&gguf, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "kkk...'"));
    assert_true(strlen(err.text) < 200);
}

static void test_gguf_refuses_more_keys_than_its_bound(void **state)
{
    (void)state;
    enum { KEYS = (1 << 16) + 1, KEY_BYTES = 8 + 1 + 4 + 1 };
    size_t len = 24 + (size_t)KEYS * KEY_BYTES;
    uint8_t *bytes = calloc(1, len);
    assert_non_null(bytes);
    memcpy(bytes, "GGUF\3\0\0\0", 8);
    memcpy(bytes + 16, &(uint64_t){KEYS}, 8);
    struct gguf *gguf = NULL;
    struct err err = {0};
    assert_int_equal(gguf_parse(bytes, len, &gguf, &err), ERR_LIMIT);
    free(bytes);
}

/* ---- files ---- */

static void write_temporary(const struct buf *bytes, char *path)
{
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, buf_text(bytes), bytes->len), bytes->len);
    assert_int_equal(close(fd), 0);
}

static void test_file_opens_and_closes(void **state)
{
    (void)state;
    char path[] = "test_gguf.XXXXXX";
    struct buf bytes;
    struct gguf_file file;
    struct err err = {0};
    writer_finish(&writer, &bytes);
    write_temporary(&bytes, path);
    assert_int_equal(gguf_file_open(path, &file, &err), 0);
    assert_int_equal(file.size, bytes.len);
    assert_memory_equal(file.bytes, bytes.bytes, bytes.len);
    assert_non_null(gguf_tensor_find(file.gguf, "token_embd.weight"));
    gguf_file_close(&file);
    gguf_file_close(&file); // now zeroed: fine
    assert_int_equal(unlink(path), 0);
    buf_done(&bytes);
}

static void test_file_errors_begin_with_the_path(void **state)
{
    (void)state;
    char path[] = "test_gguf.XXXXXX", expected[64];
    struct buf bytes;
    struct gguf_file file = {0};
    struct err err = {0};
    assert_int_equal(gguf_file_open("no/such.gguf", &file, &err), -ENOENT);
    assert_memory_equal(err.text, "no/such.gguf: ", 14);
    assert_int_equal(gguf_file_open("/", &file, &err), ERR_FORMAT);
    assert_string_equal(err.text, "/: not a regular file");

    buf_init(&bytes, 64);
    write_temporary(&bytes, path);
    assert_int_equal(gguf_file_open(path, &file, &err), ERR_FORMAT);
    assert_non_null(strstr(err.text, "the file is empty"));
    assert_int_equal(unlink(path), 0);
    memcpy(path, "test_gguf.XXXXXX", sizeof path);
    assert_int_equal(buf_puts(&bytes, "GGUX"), 0);
    write_temporary(&bytes, path);
    assert_int_equal(gguf_file_open(path, &file, &err), ERR_FORMAT);
    (void)snprintf(expected, sizeof expected, "%s: offset 0: not a GGUF file", path);
    assert_string_equal(err.text, expected);
    assert_null(file.gguf);
    assert_int_equal(unlink(path), 0);
    buf_done(&bytes);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gguf_reads_versions_2_and_3, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_reads_an_empty_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_converts_integers_of_every_width, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_converts_floats_and_refuses_what_is_not_finite, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_gguf_reads_bools_strings_and_arrays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_finds_tensors_and_their_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_follows_the_alignment_of_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_tensors_may_lie_in_any_order, setup, teardown),
        cmocka_unit_test(test_types_know_the_blocks_of_every_type),
        cmocka_unit_test_setup_teardown(test_gguf_digest_changes_with_header_size_and_data, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_refuses_every_hostile_file_with_its_reason, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_gguf_refuses_every_prefix_of_a_valid_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf_errors_hold_no_raw_bytes_of_the_file, setup, teardown),
        cmocka_unit_test(test_gguf_refuses_more_keys_than_its_bound),
        cmocka_unit_test_setup_teardown(test_file_opens_and_closes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_errors_begin_with_the_path, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
