/* SPDX-License-Identifier: Apache-2.0 */
/* The file tier: what was written is found after a restart, what is damaged is not, another's file is left alone, and
 * a writer killed at any instant leaves no wrong page. KVASIR_KILLS sets how many times one is killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "daemon/tier_file.h"

enum { PAGE_BYTES = 10000, PLACES = 20, FILE_BYTES = 2 * 4096 + PLACES * (12288 + 128) };

static struct pool_geometry geometry;
static char path[64];
static char note[256];
static struct err err;

static int setup(void **state)
{
    (void)state;
    geometry = (struct pool_geometry){
        .page_count = 7, .page_tokens = PAGE_TOKENS, .rank_count = 1, .page_bytes = PAGE_BYTES};
    geometry.model_digest = (struct hash128){1, 2};
    (void)snprintf(path, sizeof path, "/tmp/kvasir-test-tier.XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static int open_as(uint64_t bytes, struct tier **ret_tier)
{
    struct tier_file_conf conf = {.path = path, .bytes = bytes, .geometry = &geometry};
    err = (struct err){0};
    return tier_file_open(&conf, ret_tier, note, sizeof note, &err);
}

static struct tier *open_tier(void)
{
    struct tier *tier;
    int r = open_as(FILE_BYTES, &tier);
    if (r < 0) fail_msg("%s", err.text);
    return tier;
}

/* Page number n: all of it follows from n. */
static void page_of(uint64_t n, struct tier_page *ret_page, uint8_t *payload)
{
    struct rng rng = {n};
    for (size_t i = 0; i < PAGE_BYTES; i += 8) {
        uint64_t word = rng_next(&rng);
        memcpy(payload + i, &word, 8);
    }
    *ret_page = (struct tier_page){.key = {n, ~n}, .parent_key = {n - 1, n}, .producer = 5};
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) ret_page->tokens[i] = (uint32_t)n + i;
    ret_page->sum = hash64(payload, PAGE_BYTES);
}

static void put(struct tier *tier, uint64_t n)
{
    uint8_t payload[PAGE_BYTES];
    struct tier_page page;
    uint32_t place;
    page_of(n, &page, payload);
    assert_int_equal(tier->ops->reserve(tier, &place), 0);
    assert_int_equal(tier->ops->write(tier, place, &page, payload), 0);
    tier->ops->commit(tier, place, &page);
}

/* 1: found and right; 0: not found; ERR_FORMAT: found, and refused when read. */
static int get(struct tier *tier, uint64_t n)
{
    uint8_t payload[PAGE_BYTES], wanted[PAGE_BYTES];
    struct tier_page page;
    page_of(n, &page, wanted);
    page.sum = 0;
    uint32_t place = tier->ops->find(tier, &page);
    if (place == TIER_NONE) return 0;
    int r = tier->ops->read(tier, place, &page, payload);
    if (r < 0) {
        tier->ops->drop(tier, place, &page);
        assert_int_equal(tier->ops->find(tier, &page), TIER_NONE);
        return r;
    }
    assert_memory_equal(payload, wanted, PAGE_BYTES);
    return 1;
}

static uint32_t count_of(struct tier *tier)
{
    struct tier_stats stats;
    tier->ops->stats(tier, &stats);
    return stats.page_count;
}

static void test_tier_file_keeps_pages_over_a_restart(void **state)
{
    (void)state;
    struct tier *tier = open_tier();
    for (uint64_t n = 1; n <= 9; n++) put(tier, n);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(count_of(tier), 9);
        for (uint64_t n = 1; n <= 9; n++) assert_int_equal(get(tier, n), 1);
        assert_int_equal(get(tier, 10), 0);
        uint8_t payload[PAGE_BYTES];
        struct tier_page page;
        page_of(3, &page, payload);
        page.tokens[15]++; // an equal key does not make an equal page
        assert_int_equal(tier->ops->find(tier, &page), TIER_NONE);
        page.tokens[15]--;
        page.parent_key.high++;
        assert_int_equal(tier->ops->find(tier, &page), TIER_NONE);
        tier->ops->close(tier);
        tier = open_tier();
    }
    tier->ops->close(tier);
}

static void test_tier_file_evicts_what_nobody_asked_for(void **state)
{
    (void)state;
    struct tier *tier = open_tier();
    struct tier_stats stats;
    uint32_t places[PLACES], place;
    for (uint64_t n = 0; n < PLACES; n++) put(tier, n);
    assert_int_equal(count_of(tier), PLACES);
    for (uint64_t n = 0; n < PLACES; n += 2) assert_int_equal(get(tier, n), 1);
    for (uint64_t n = 0; n < PLACES / 2; n++) put(tier, 100 + n);
    for (uint64_t n = 0; n < PLACES; n++) assert_int_equal(get(tier, n), n % 2 == 0);
    tier->ops->stats(tier, &stats);
    assert_int_equal(stats.evictions, PLACES / 2);
    for (int i = 0; i < PLACES; i++) assert_int_equal(tier->ops->reserve(tier, &places[i]), 0);
    assert_int_equal(tier->ops->reserve(tier, &place), -ENOSPC);
    tier->ops->drop(tier, places[7], NULL); // its write failed
    assert_int_equal(tier->ops->reserve(tier, &place), 0);
    assert_int_equal(place, places[7]);
    tier->ops->close(tier);
}

static void test_tier_file_detects_every_damaged_byte(void **state)
{
    (void)state;
    struct tier *tier = open_tier();
    put(tier, 1);
    tier->ops->close(tier);
    struct rng rng = {1};
    for (int i = 0; i < 300; i++) {
        int fd = open(path, O_RDWR);
        bool in_record = rng_below(&rng, 2) == 0;
        off_t at = (off_t)(in_record ? 4096 + rng_below(&rng, 128) : 8192 + rng_below(&rng, PAGE_BYTES));
        uint8_t was, is;
        assert_int_equal(pread(fd, &was, 1, at), 1);
        is = (uint8_t)(was ^ 1U << rng_below(&rng, 8));
        assert_int_equal(pwrite(fd, &is, 1, at), 1);
        tier = open_tier();
        assert_int_equal(get(tier, 1), in_record ? 0 : ERR_FORMAT);
        tier->ops->close(tier);
        assert_int_equal(pwrite(fd, &was, 1, at), 1);
        close(fd);
    }
    tier = open_tier();
    assert_int_equal(get(tier, 1), 1);
    tier->ops->close(tier);
}

static void refuse(int code)
{
    struct tier *tier;
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(open_as(FILE_BYTES, &tier), code);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    assert_true(err.text[0] != 0);
}

static void test_tier_file_leaves_what_is_not_its_own(void **state)
{
    (void)state;
    struct tier *tier = open_tier(), *other;
    put(tier, 1);
    assert_int_equal(open_as(FILE_BYTES, &other), ERR_BUSY); // one daemon a file
    tier->ops->close(tier);
    geometry.model_digest.low++;
    refuse(ERR_CONFIG); // another model
    geometry.model_digest.low--;
    geometry.kv_type++;
    refuse(ERR_CONFIG);
    geometry.kv_type--;
    assert_int_equal(chmod(path, 0644), 0);
    refuse(ERR_CONFIG); // prompts of users are in it
    assert_int_equal(chmod(path, 0600), 0);
    tier = open_tier();
    assert_int_equal(get(tier, 1), 1); // still there
    tier->ops->close(tier);
    assert_int_equal(open_as(8192, &tier), ERR_CONFIG);  // no room for a page
    assert_int_equal(open_as(FILE_BYTES / 2, &tier), 0); // another size: begun anew
    assert_int_equal(count_of(tier), 0);
    assert_non_null(strstr(note, "anew"));
    tier->ops->close(tier);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "diary", 5), 5);
    close(fd);
    refuse(ERR_CONFIG);
}

static void test_tier_file_keeps_producers_apart(void **state)
{
    (void)state;
    struct tier *tier = open_tier();
    uint8_t payload[PAGE_BYTES];
    struct tier_page page;
    uint32_t place, other_place;
    put(tier, 1);
    page_of(1, &page, payload);
    page.producer = 6;
    assert_int_equal(tier->ops->find(tier, &page), TIER_NONE);
    memset(payload, 6, sizeof payload);
    page.sum = hash64(payload, sizeof payload);
    assert_int_equal(tier->ops->reserve(tier, &place), 0);
    assert_int_equal(tier->ops->write(tier, place, &page, payload), 0);
    tier->ops->commit(tier, place, &page);
    tier->ops->close(tier);
    tier = open_tier();
    assert_int_equal(get(tier, 1), 1);
    other_place = tier->ops->find(tier, &page);
    assert_int_equal(other_place, place);
    assert_int_equal(tier->ops->read(tier, place, &page, payload), 0);
    assert_int_equal(tier->ops->count(tier, 5), 1);
    assert_int_equal(tier->ops->count(tier, 6), 1);
    assert_int_equal(tier->ops->count(tier, 7), 0);
    page.producer = 5;
    tier->ops->drop(tier, place, &page); // it lies elsewhere
    assert_int_equal(count_of(tier), 2);
    tier->ops->close(tier);
}

static void test_tier_file_cut_short_or_failing_is_no_page(void **state)
{
    (void)state;
    struct tier *tier = open_tier();
    for (uint64_t n = 0; n < PLACES; n++) put(tier, n);
    assert_int_equal(truncate(path, 4096 * 10), 0);
    int right = 0;
    for (uint64_t n = 0; n < PLACES; n++) right += get(tier, n) == 1;
    assert_in_range(right, 1, 3);
    tier->ops->close(tier);
}

/* A child writes pages one after the other until it is killed; what is found afterwards is right. */
static void kill_once(struct rng *rng, uint64_t first, uint64_t *ret_found)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct tier *tier = open_tier();
        for (uint64_t n = first;; n++) put(tier, n % 64);
    }
    struct timespec wait = {.tv_nsec = (long)rng_below(rng, 3000000)};
    (void)nanosleep(&wait, NULL); // when it is killed, not a wait for something
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    struct tier *tier = open_tier();
    uint64_t found = 0;
    for (uint64_t n = 0; n < 64; n++) { // never ERR_FORMAT: the process died, not the machine
        int r = get(tier, n);
        assert_true(r == 0 || r == 1);
        found += (uint64_t)r;
    }
    assert_int_equal(count_of(tier), found);
    assert_in_range(found, 0, PLACES);
    *ret_found += found;
    tier->ops->close(tier);
}

static void test_tier_file_survives_kills(void **state)
{
    (void)state;
    const char *kills_text = getenv("KVASIR_KILLS"), *seed_text = getenv("KVASIR_SEED");
    uint64_t kills = kills_text ? strtoull(kills_text, NULL, 0) : 100, found = 0;
    struct rng rng = {seed_text ? strtoull(seed_text, NULL, 0) : 1};
    for (uint64_t i = 0; i < kills; i++) kill_once(&rng, rng_below(&rng, 64), &found);
    print_message("%llu kills, %llu pages found, none wrong\n", (unsigned long long)kills,
                  (unsigned long long)found);
    assert_true(found > 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_tier_file_keeps_pages_over_a_restart),
        CASE(test_tier_file_evicts_what_nobody_asked_for),
        CASE(test_tier_file_detects_every_damaged_byte),
        CASE(test_tier_file_leaves_what_is_not_its_own),
        CASE(test_tier_file_keeps_producers_apart),
        CASE(test_tier_file_cut_short_or_failing_is_no_page),
        CASE(test_tier_file_survives_kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
