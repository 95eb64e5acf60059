/* SPDX-License-Identifier: Apache-2.0 */
/* Packed weights outside the kern: whoever packs them, at every level of kernels, a model over them computes the
 * same bits, and one that maps them filled does not write. And what decides who may share them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/shm/weights.h"
#include "tests/data/random_model.h"
#include "tests/unit/model_rig.h"
#include "worker/store.h"

enum { ROWS = 9, VOCAB = RANDOM_MODEL_VOCAB };

static uint64_t seed;

static void open_rig(const struct buf *file, const struct kern_ops *ops, struct kern_store store,
                     struct model_rig *rig)
{
    struct err err = {0};
    const struct model_rig_conf conf = {.ops = ops,
                                        .threads = 2,
                                        .rows_max = ROWS,
                                        .logits_max = ROWS,
                                        .position_max = 64,
                                        .page_count = 2,
                                        .store = store};
    if (model_rig_open_bytes(file->bytes, file->len, &conf, rig, &err) < 0) fail_msg("%s", err.text);
}

static void logits_of(const struct buf *file, const struct kern_ops *ops, struct kern_store store, float *out)
{
    static const uint32_t tokens[ROWS] = {1, 2, 3, 50, 60, 70, 80, 90, 95}, pages[] = {1, 0};
    struct model_rig rig;
    struct err err = {0};
    const float *logits;
    open_rig(file, ops, store, &rig);
    if (model_rig_step(&rig, tokens, ROWS, 0, pages, 2, ROWS, &logits, &err) < 0) fail_msg("%s", err.text);
    memcpy(out, logits, sizeof(float) * ROWS * VOCAB);
    model_rig_close(&rig);
}

static void measure(const struct buf *file, const struct kern_ops *ops, uint64_t *ret_bytes,
                    struct hash128 *ret_content)
{
    struct err err = {0};
    struct gguf *gguf;
    struct model_facts facts;
    assert_int_equal(gguf_parse(file->bytes, file->len, &gguf, &err), 0);
    assert_int_equal(model_facts_read(gguf, &facts, &err), 0);
    if (model_measure(gguf, &facts, NULL, ops, ret_bytes, ret_content, &err) < 0) fail_msg("%s", err.text);
    gguf_free(gguf);
}

static void check_level(const struct buf *file, const struct kern_ops *ops)
{
    static float own[ROWS * VOCAB], packed[ROWS * VOCAB], mapped[ROWS * VOCAB];
    struct kern_store store = {.base = NULL};
    struct hash128 content;
    measure(file, ops, &store.bytes, &content);
    logits_of(file, ops, store, own); // base is NULL: memory of the kern's own
    if (store.bytes == 0) return;     // ref
    store.base = mmap(NULL, store.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(store.base, MAP_FAILED);
    logits_of(file, ops, store, packed);
    assert_memory_equal(packed, own, sizeof own);
    assert_int_equal(mprotect(store.base, store.bytes, PROT_READ), 0); // a write would be the end
    store.filled = true;
    logits_of(file, ops, store, mapped);
    assert_memory_equal(mapped, own, sizeof own);
    assert_int_equal(munmap(store.base, store.bytes), 0);
}

static void test_store_weights_packed_by_another_give_the_same_bits(void **state)
{
    (void)state;
    uint32_t count;
    const struct kern_ops *const *levels = kern_levels(&count);
    static const enum tensor_type types[] = {
#define X(type) type,
        RANDOM_MODEL_TYPES(X)
#undef X
    };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct buf file;
        random_model_make(types[t], seed, &file);
        for (uint32_t i = 0; i < count; i++) check_level(&file, levels[i]);
        buf_done(&file);
    }
}

static void test_store_content_tells_kernels_types_and_tensors_apart(void **state)
{
    (void)state;
    static const enum tensor_type types[] = {TENSOR_Q4_0, TENSOR_Q8_0, TENSOR_F16};
    struct hash128 seen[32];
    uint32_t seen_count = 0, count;
    const struct kern_ops *const *levels = kern_levels(&count);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct buf file;
        random_model_make(types[t], seed, &file);
        for (uint32_t i = 0; i < count; i++) {
            uint64_t bytes, bytes_again;
            struct hash128 again;
            if (!levels[i]->weight_measure) continue;
            measure(&file, levels[i], &bytes, &seen[seen_count]);
            measure(&file, levels[i], &bytes_again, &again);
            assert_true(hash128_equal(again, seen[seen_count]));
            assert_int_equal(bytes, bytes_again);
            assert_true(bytes > 0);
            for (uint32_t k = 0; k < seen_count; k++) assert_false(hash128_equal(seen[k], seen[seen_count]));
            seen_count++;
        }
        buf_done(&file);
    }
    assert_true(seen_count >= 3);
}

/* ---- the key: from a file on disk ---- */

static char path[64];

static void write_file(const struct buf *file)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(file->bytes, 1, file->len, out), file->len);
    assert_int_equal(fclose(out), 0);
}

/* Opens the store of the file at path; fills it when it is not. -> whether it was filled */
static bool open_store(struct store_conf conf, struct store **ret_store)
{
    struct err err = {0};
    struct gguf_file file;
    if (gguf_file_open(path, &file, &err) < 0) fail_msg("%s", err.text);
    conf.file = &file;
    if (store_open(&conf, ret_store, &err) < 0) fail_msg("%s", err.text);
    gguf_file_close(&file);
    struct kern_store memory = store_memory(*ret_store);
    if (!memory.base) return false;
    if (!memory.filled) memset(memory.base, 1, memory.bytes);
    assert_int_equal(store_publish(*ret_store, &err), 0);
    return memory.filled;
}

static void test_store_is_shared_for_the_same_file_and_packing_only(void **state)
{
    (void)state;
    struct buf file;
    random_model_make(TENSOR_Q4_0, seed, &file);
    write_file(&file);
    const struct store_conf conf = {.level = "test", .bytes = 100000, .content = {1, 2}, .rank_count = 1};
    struct store *first, *other;
    assert_false(open_store(conf, &first));
    assert_true(open_store(conf, &other));
    assert_true(hash128_equal(store_key(first), store_key(other)));
    store_close(other);
    struct store_conf confs[] = {conf, conf, conf, conf};
    confs[0].content.low++;
    confs[1].rank_count++;
    confs[2].rank++;
    confs[3].private = true;
    for (size_t i = 0; i < 4; i++) {
        assert_false(open_store(confs[i], &other));
        store_close(other);
    }
    write_file(&file); // the same bytes again, at another time: nobody can know that they are the same
    assert_false(open_store(conf, &other));
    store_close(other);
    store_close(first);
    buf_done(&file);
}

static void test_store_of_its_own_has_no_key_and_says_so(void **state)
{
    (void)state;
    struct buf file;
    char text[256];
    random_model_make(TENSOR_Q4_0, seed, &file);
    write_file(&file);
    struct store *store;
    assert_false(open_store((struct store_conf){.level = "ref", .rank_count = 1}, &store)); // 0 bytes
    assert_null(store_memory(store).base);
    assert_true(hash128_equal(store_key(store), (struct hash128){0}));
    store_describe(store, text, sizeof text);
    assert_string_equal(text, "weights in memory of its own");
    store_close(store);
    buf_done(&file);
}

static void test_store_goes_on_alone_where_shared_memory_is_too_small(void **state)
{
    (void)state;
    struct buf file;
    struct store *store;
    random_model_make(TENSOR_Q4_0, seed, &file);
    write_file(&file);
    struct store_conf conf = {.level = "test", .bytes = (uint64_t)1 << 60, .rank_count = 1};
    assert_false(open_store(conf, &store));
    assert_null(store_memory(store).base);
    store_close(store);
    buf_done(&file);
}

static void test_store_sees_a_file_that_is_written_while_it_is_read(void **state)
{
    (void)state;
    struct buf file;
    struct gguf_file opened;
    struct err err = {0};
    random_model_make(TENSOR_Q4_0, seed, &file);
    write_file(&file);
    assert_int_equal(gguf_file_open(path, &opened, &err), 0);
    assert_int_equal(gguf_file_unchanged(&opened, path, &err), 0);
    assert_int_equal(chmod(path, 0400), 0); // moves ctime, not the bytes
    assert_int_equal(gguf_file_unchanged(&opened, path, &err), 0);
    assert_int_equal(chmod(path, 0600), 0);
    FILE *out = fopen(path, "ab");
    assert_non_null(out);
    assert_int_equal(fputc(0, out), 0);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(gguf_file_unchanged(&opened, path, &err), ERR_FORMAT);
    gguf_file_close(&opened);
    buf_done(&file);
}

int main(void)
{
    const char *text = getenv("KVASIR_SEED");
    seed = text ? strtoull(text, NULL, 0) : clock_wall_ns();
    printf("KVASIR_SEED=%llu\n", (unsigned long long)seed);
    char prefix[24];
    (void)snprintf(prefix, sizeof prefix, "test-s%d", (int)getpid()); // fits
    weights_prefix_set(prefix);
    (void)snprintf(path, sizeof path, "/tmp/kvasir-%s.gguf", prefix); // fits
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_weights_packed_by_another_give_the_same_bits),
        cmocka_unit_test(test_store_content_tells_kernels_types_and_tensors_apart),
        cmocka_unit_test(test_store_is_shared_for_the_same_file_and_packing_only),
        cmocka_unit_test(test_store_of_its_own_has_no_key_and_says_so),
        cmocka_unit_test(test_store_goes_on_alone_where_shared_memory_is_too_small),
        cmocka_unit_test(test_store_sees_a_file_that_is_written_while_it_is_read),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)weights_sweep((struct hash128){0}, NULL, NULL); // what a failed case left
    (void)unlink(path);
    return failed;
}
