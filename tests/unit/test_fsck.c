/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cJSON.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "client/cmd_fsck.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "common/shm/weights.h"
#include "tests/unit/capture.h"
#include "tests/unit/shm_guard.h"

static char output[8192];

/* Runs the command with stdout in a file; -> its exit status, output holds what it wrote. */
static int fsck(char *option_a, char *option_b)
{
    char *argv[] = {(char *)"fsck", (char *)"--instance", shm_instance, option_a, option_b, NULL};
    FILE *file = tmpfile();
    assert_non_null(file);
    int kept = capture_begin(STDOUT_FILENO, file), status = cmd_fsck(option_b ? 5 : option_a ? 4 : 3, argv);
    capture_end(STDOUT_FILENO, kept, file, output, sizeof output);
    return status;
}

static char json_option[] = "--json", payload_option[] = "--no-payload", wrong_option[] = "--wrong";

static void test_fsck_without_a_pool_is_69(void **state)
{
    (void)state;
    assert_int_equal(fsck(NULL, NULL), 69);
    assert_string_equal(output, "");
    assert_int_equal(fsck(wrong_option, NULL), 64);
    assert_int_equal(fsck(payload_option, wrong_option), 64);
}

static void test_fsck_tells_a_clean_pool_from_a_broken_one(void **state)
{
    (void)state;
    struct pool_geometry geometry = {.page_count = 8, .page_tokens = PAGE_TOKENS, .rank_count = 1};
    geometry.layer_count = geometry.head_count_kv = 1;
    geometry.head_dims = 4;
    geometry.page_bytes = pool_page_bytes(KV_F16, 1, 1, 4);
    struct pool_owner owner = {.pid = getpid()};
    struct segment meta, payload;
    struct pool *pool;
    struct err err = {0};
    assert_int_equal(owner_start(getpid(), &owner.start), 0);
    assert_int_equal(segment_create(shm_instance, "meta", pool_meta_bytes(&geometry), &meta, &err), 0);
    assert_int_equal(segment_create(shm_instance, "kv.0", 8 * geometry.page_bytes, &payload, &err), 0);
    assert_int_equal(pool_format(meta.base, meta.bytes, &geometry, &owner, &pool, &err), 0);
    uint32_t page, tokens[PAGE_TOKENS] = {1};
    uint64_t sum = hash64(payload.base, geometry.page_bytes);
    assert_int_equal(pool_grant(pool, 0, &page), 0);
    pool_fill(pool, page, tokens, PAGE_TOKENS);
    pool_seal(pool, page, (struct hash128){1, 1}, PAGE_NONE, &sum);

    assert_int_equal(fsck(NULL, NULL), 0);
    assert_non_null(strstr(output, "alive"));
    assert_non_null(strstr(output, "7 free, 0 filling, 1 sealed"));
    assert_non_null(strstr(output, "faults   0"));

    ((uint8_t *)payload.base)[page * geometry.page_bytes] ^= 1;
    assert_int_equal(fsck(payload_option, NULL), 0);
    assert_int_equal(fsck(NULL, NULL), 1);
    assert_non_null(strstr(output, "page 0: rank 0 payload"));
    assert_int_equal(fsck(json_option, NULL), 1);
    cJSON *json = cJSON_Parse(output);
    assert_non_null(json);
    assert_int_equal(cJSON_GetObjectItem(json, "fault_count")->valueint, 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "faults")), 1);
    assert_int_equal(cJSON_GetObjectItem(json, "sealed")->valueint, 1);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "owner_alive")));
    cJSON_Delete(json);

    pool_free(pool);
    segment_close(&meta);
    segment_close(&payload);
    assert_int_equal(segment_unlink_all(shm_instance), 2);
}

static void test_fsck_lists_weights_and_finds_changed_ones(void **state)
{
    (void)state;
    const struct weights_conf conf = {.key = {1, 2}, .bytes = 5000, .level = "test"};
    struct weights *weights;
    struct err err = {0};
    assert_int_equal(weights_open(&conf, &weights, &err), 0);
    char prefix[WEIGHTS_NAME_BYTES + 16];
    (void)snprintf(prefix, sizeof prefix, "weights  %s: 0.0 MiB, ", weights_name(weights)); // fits
    assert_int_equal(fsck(NULL, NULL), 69); // no pool, but this
    assert_memory_equal(output, prefix, strlen(prefix));
    assert_non_null(strstr(output, "packs them"));
    assert_int_equal(weights_publish(weights, &err), 0);
    assert_int_equal(fsck(NULL, NULL), 69);
    assert_non_null(strstr(output, "test, in use"));
    assert_null(strstr(output, "hash to"));
    int fd = shm_open(weights_name(weights), O_RDWR, 0);
    assert_int_equal(pwrite(fd, "x", 1, 4096 + 4999), 1);
    close(fd);
    assert_int_equal(fsck(NULL, NULL), 1);
    assert_non_null(strstr(output, "hash to"));
    assert_int_equal(fsck(payload_option, NULL), 69);
    assert_null(strstr(output, "hash to"));
    weights_close(weights);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fsck_without_a_pool_is_69),
        cmocka_unit_test(test_fsck_tells_a_clean_pool_from_a_broken_one),
        cmocka_unit_test(test_fsck_lists_weights_and_finds_changed_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    char prefix[24];
    (void)snprintf(prefix, sizeof prefix, "test-f%d", (int)getpid()); // fits
    weights_prefix_set(prefix);                                       // others' are not looked at
    return shm_guard_run(run);
}
