/* SPDX-License-Identifier: Apache-2.0 */
/* kvasir cache and kvasir fsck --repair on pools made by hand: what is listed, what is mended, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cJSON.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "common/shm/audit.h"
#include "common/shm/pool.h"
#include "common/shm/repair.h"
#include "common/shm/survey.h"
#include "tests/unit/capture.h"
#include "tests/unit/shm_guard.h"

enum { PAGES = 12 };

static char output[8192];
static struct pool_geometry geometry;
static struct segment meta, payload;
static struct pool *pool;

/* Runs a command with stdout in a file; -> its exit status, output holds what it wrote. */
static int run(int (*command)(int, char **), const char *const *words, int count)
{
    char texts[6][32], *argv[7] = {NULL};
    for (int i = 0; i < count; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%s", words[i]); // fits
        argv[i] = texts[i];
    }
    FILE *file = tmpfile();
    assert_non_null(file);
    int kept = capture_begin(STDOUT_FILENO, file), status = command(count, argv);
    capture_end(STDOUT_FILENO, kept, file, output, sizeof output);
    return status;
}

#define CACHE(...) \
    run(cmd_cache, (const char *const[]){"cache", "--instance", shm_instance, __VA_ARGS__}, \
        3 + (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)))
#define FSCK(...) \
    run(cmd_fsck, (const char *const[]){"fsck", "--instance", shm_instance, __VA_ARGS__}, \
        3 + (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)))

static uint32_t add(uint32_t parent, uint32_t number)
{
    uint32_t page, tokens[PAGE_TOKENS] = {number};
    assert_int_equal(pool_grant(pool, 1, &page), 0);
    pool_fill(pool, page, tokens, PAGE_TOKENS);
    struct hash128 above = {5, 5};
    if (parent != PAGE_NONE) above = pool_desc(pool, parent)->key;
    uint64_t sum = hash64((uint8_t *)payload.base + page * geometry.page_bytes, geometry.page_bytes);
    pool_seal(pool, page, hash128_chain(above, tokens, sizeof tokens), parent, &sum);
    pool_unpin(pool, page, 1000 + number);
    return page;
}

/* A tree 0 - 1 - 2 with a branch 1 - 3, a tree 4 used last, a page being filled. The owner is dead. */
static int setup(void **state)
{
    (void)state;
    struct err err;
    geometry = (struct pool_geometry){.page_count = PAGES,
                                      .page_tokens = PAGE_TOKENS,
                                      .rank_count = 1,
                                      .layer_count = 1,
                                      .head_count_kv = 1,
                                      .head_dims = 4,
                                      .page_bytes = pool_page_bytes(KV_F16, 1, 1, 4)};
    struct pool_owner owner = {.pid = getpid(), .start = 1, .epoch = 9}; // nobody: our pid at another time
    uint32_t page;
    assert_int_equal(segment_create(shm_instance, "meta", pool_meta_bytes(&geometry), &meta, &err), 0);
    assert_int_equal(segment_create(shm_instance, "kv.0", PAGES * geometry.page_bytes, &payload, &err), 0);
    for (size_t i = 0; i < payload.bytes; i++) ((uint8_t *)payload.base)[i] = (uint8_t)(i * 7);
    assert_int_equal(pool_format(meta.base, meta.bytes, &geometry, &owner, &pool, &err), 0);
    (void)add(PAGE_NONE, 10);
    (void)add(0, 11);
    (void)add(1, 12);
    (void)add(1, 13);
    (void)add(PAGE_NONE, 20);
    assert_int_equal(pool_grant(pool, 1, &page), 0);
    pool_pin(pool, 4, 3000);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pool_free(pool);
    segment_close(&meta);
    segment_close(&payload);
    return segment_unlink_all(shm_instance) < 0;
}

static double number_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    assert_true(cJSON_IsNumber(item));
    return item->valuedouble;
}

static void test_cache_ls_lists_trees_last_used_first(void **state)
{
    (void)state;
    assert_int_equal(CACHE("ls", "--json"), 0);
    cJSON *list = cJSON_Parse(output);
    assert_int_equal(cJSON_GetArraySize(list), 2);
    const cJSON *late = cJSON_GetArrayItem(list, 0), *tree = cJSON_GetArrayItem(list, 1);
    assert_int_equal(number_of(late, "root_page"), 4);
    assert_int_equal(number_of(late, "held_pages"), 1);
    assert_int_equal(number_of(late, "last_use_ns"), 3000);
    assert_int_equal(number_of(tree, "root_page"), 0);
    assert_int_equal(number_of(tree, "pages"), 4);
    assert_int_equal(number_of(tree, "tokens"), 64);
    assert_int_equal(number_of(tree, "ends"), 2);
    assert_int_equal(number_of(tree, "longest_tokens"), 48);
    assert_int_equal(number_of(tree, "held_pages"), 0);
    cJSON_Delete(list);
    assert_int_equal(CACHE("ls"), 0);
    assert_non_null(strstr(output, "LAST USE"));
    assert_int_equal(CACHE("ls", "--lines=1"), 0);
    assert_non_null(strstr(output, "and 1 more"));
}

static void test_cache_stat_counts(void **state)
{
    (void)state;
    assert_int_equal(CACHE("stat", "--json"), 0);
    cJSON *json = cJSON_Parse(output);
    assert_int_equal(number_of(json, "pages"), PAGES);
    assert_int_equal(number_of(json, "cached"), 5);
    assert_int_equal(number_of(json, "cached_tokens"), 80);
    assert_int_equal(number_of(json, "filling"), 1);
    assert_int_equal(number_of(json, "free"), PAGES - 6);
    assert_int_equal(number_of(json, "held"), 1);
    assert_int_equal(number_of(json, "prefixes"), 2);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(json, "owner_alive")));
    cJSON_Delete(json);
    assert_int_equal(CACHE("stat"), 0);
    assert_non_null(strstr(output, "daemon that died"));
    pool_close(pool);
    assert_int_equal(CACHE("stat"), 0);
    assert_non_null(strstr(output, "daemon that ended"));
}

/* Rings, strange parents: told as faulty, and no end of walking. */
static void test_cache_of_nonsense_is_safe(void **state)
{
    (void)state;
    struct page_desc *descs = (struct page_desc *)(uintptr_t)pool_desc(pool, 0);
    const uint32_t parents[] = {2, 1, 0, PAGES, 5, 11, PAGE_NONE - 1};
    for (size_t i = 0; i < sizeof parents / sizeof *parents; i++) {
        struct survey survey;
        descs[0].parent = parents[i];
        descs[4].parent = parents[i];
        assert_int_equal(survey_read(shm_instance, &survey, NULL), 0);
        assert_int_equal(survey.sealed_count, 5);
        assert_true(survey.lost_count >= 4 || parents[i] == 0);
        survey_done(&survey);
    }
}

static void test_cache_drop_is_for_the_dead(void **state)
{
    (void)state;
    struct err err;
    int lock_fd;
    assert_int_equal(segment_lock(shm_instance, &lock_fd, &err), 0); // a daemon
    assert_int_equal(CACHE("drop"), 75);
    assert_true(segment_exists(shm_instance, "meta"));
    segment_unlock(shm_instance, lock_fd);
    assert_int_equal(CACHE("drop"), 0);
    assert_non_null(strstr(output, "removed 2 segments"));
    assert_false(segment_exists(shm_instance, "meta"));
    assert_false(segment_exists(shm_instance, "lock"));
    assert_int_equal(CACHE("drop"), EX_UNAVAILABLE);
    assert_int_equal(CACHE("stat"), EX_UNAVAILABLE);
    assert_int_equal(CACHE("what"), EX_USAGE);
}

static void test_fsck_repairs_a_dead_pool_only(void **state)
{
    (void)state;
    struct err err;
    int lock_fd;
    ((uint8_t *)payload.base)[1 * geometry.page_bytes + 3] ^= 4; // a page with two children
    ((struct page_desc *)(uintptr_t)pool_desc(pool, 4))->filled = 3;
    segment_close(&payload); // a writer would be waited for
    assert_int_equal(FSCK("--no-payload"), 1);
    assert_int_equal(segment_lock(shm_instance, &lock_fd, &err), 0); // a daemon
    assert_int_equal(FSCK("--repair"), 75);
    segment_unlock(shm_instance, lock_fd);
    assert_int_equal(FSCK("--repair"), 0);
    assert_non_null(strstr(output, "faults   0"));
    assert_non_null(strstr(output, "11 free, 0 filling, 1 sealed"));
    assert_non_null(strstr(output, "kept by a daemon that ended"));
    struct pool_repair again;
    assert_int_equal(pool_repair(shm_instance, &again, &err), 0);
    assert_int_equal(again.sealed_count, 1);
    assert_int_equal(again.kept_count, 1);
    ((struct pool_header *)meta.base)->layout_version++;
    assert_int_equal(FSCK("--repair"), 65);
}

static int all(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_cache_ls_lists_trees_last_used_first),
        CASE(test_cache_stat_counts),
        CASE(test_cache_of_nonsense_is_safe),
        CASE(test_cache_drop_is_for_the_dead),
        CASE(test_fsck_repairs_a_dead_pool_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return shm_guard_run(all);
}
