/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_cache - what is cached in shared memory, and the end of a cache that nobody serves. ls and stat only read, also
 * beside a live daemon; drop takes the instance's lock, so that it never takes memory from under one. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/cmd.h"
#include "client/kvasir.h"
#include "client/opts.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"
#include "common/shm/survey.h"
#include "common/shm/weights.h"

enum { LINES_DEFAULT = 40 };
#define WORKER_GONE_NS_MAX (10 * NS_PER_S)

struct cache {
    const char *instance;
    bool is_json;
    struct kvasir_maybe_int lines;
};

static int complain(int r, const char *text)
{
    fprintf(stderr, "kvasir cache: %s\n", text);
    return r == -ENOENT ? EX_UNAVAILABLE : err_exit_status(r);
}

static int read_pool(const struct cache *cache, struct survey *ret_survey)
{
    struct err err = {0};
    int r = survey_read(cache->instance, ret_survey, &err);
    if (r == -ENOENT) (void)err_set(&err, r, "instance %s has no cache", cache->instance);
    return r < 0 ? complain(r, err.text) : 0;
}

/* "12 s", "5 min", "3 h" ago. */
static void put_age(char text[static 32], uint64_t last_use_ns)
{
    uint64_t now_ns = clock_mono_ns(), age_s = now_ns > last_use_ns ? (now_ns - last_use_ns) / NS_PER_S : 0;
    if (age_s < 120) (void)snprintf(text, 32, "%" PRIu64 " s", age_s); // all fit
    else if (age_s < 7200) (void)snprintf(text, 32, "%" PRIu64 " min", age_s / 60);
    else (void)snprintf(text, 32, "%" PRIu64 " h", age_s / 3600);
}

static void print_tree(const struct survey *survey, const struct survey_tree *tree)
{
    char age[32];
    put_age(age, tree->last_use_ns);
    printf("%016" PRIx64 " %8" PRIu32 " %9" PRIu64 " %7" PRIu32 " %9" PRIu64 " %7" PRIu32 " %10s\n",
           tree->key.high, tree->page_count, (uint64_t)tree->page_count * survey->geometry.page_tokens,
           tree->leaf_count, (uint64_t)tree->depth * survey->geometry.page_tokens, tree->held_count, age);
}

static void print_tree_json(const struct survey *survey, const struct survey_tree *tree, bool is_first)
{
    printf("%s{\"key\":\"%016" PRIx64 "%016" PRIx64 "\",\"root_page\":%" PRIu32 ",\"pages\":%" PRIu32
           ",\"tokens\":%" PRIu64 ",\"ends\":%" PRIu32 ",\"longest_tokens\":%" PRIu64
           ",\"held_pages\":%" PRIu32 ",\"last_use_ns\":%" PRIu64 "}",
           is_first ? "" : ",", tree->key.high, tree->key.low, tree->root_idx, tree->page_count,
           (uint64_t)tree->page_count * survey->geometry.page_tokens, tree->leaf_count,
           (uint64_t)tree->depth * survey->geometry.page_tokens, tree->held_count, tree->last_use_ns);
}

static int run_ls(const struct cache *cache)
{
    struct survey survey;
    int r = read_pool(cache, &survey);
    if (r != 0) return r;
    if (cache->is_json) {
        printf("[");
        for (uint32_t i = 0; i < survey.tree_count; i++) print_tree_json(&survey, &survey.trees[i], i == 0);
        printf("]\n");
    } else if (survey.tree_count > 0) {
        printf("%-16s %8s %9s %7s %9s %7s %10s\n", "PREFIX", "PAGES", "TOKENS", "ENDS", "LONGEST", "HELD",
               "LAST USE");
        uint32_t shown = 0;
        for (; shown < survey.tree_count && shown < cache->lines.value; shown++)
            print_tree(&survey, &survey.trees[shown]);
        if (shown < survey.tree_count) printf("... and %" PRIu32 " more\n", survey.tree_count - shown);
    }
    survey_done(&survey);
    return 0;
}

static const char *owner_text(const struct survey *survey)
{
    if (survey->owner_alive) return "serving";
    return survey->daemon_pid == 0 ? "kept by a daemon that ended" : "left by a daemon that died";
}

static int run_stat(const struct cache *cache)
{
    struct survey survey;
    int r = read_pool(cache, &survey);
    if (r != 0) return r;
    const struct pool_geometry *g = &survey.geometry;
    uint64_t tokens = (uint64_t)survey.sealed_count * g->page_tokens;
    double mib = (double)pool_all_page_bytes(g) / (double)MIB(1);
    if (cache->is_json) {
        printf("{\"instance\":\"%s\",\"owner_pid\":%" PRId64 ",\"owner_alive\":%s,\"pages\":%" PRIu32
               ",\"free\":%" PRIu32 ",\"filling\":%" PRIu32 ",\"cached\":%" PRIu32 ",\"held\":%" PRIu32
               ",\"lost\":%" PRIu32 ",\"cached_tokens\":%" PRIu64 ",\"prefixes\":%" PRIu32
               ",\"page_bytes\":%" PRIu64 "}\n",
               cache->instance, survey.daemon_pid, survey.owner_alive ? "true" : "false", g->page_count,
               survey.free_count, survey.filling_count, survey.sealed_count, survey.held_count,
               survey.lost_count, tokens, survey.tree_count, g->page_bytes);
    } else {
        printf("cache      %s, %s", cache->instance, owner_text(&survey));
        if (survey.daemon_pid) printf(" (process %" PRId64 ")", survey.daemon_pid);
        printf("\npages      %" PRIu32 " of %.0f KiB, %.0f MiB in all\n", g->page_count, mib * 1024,
               mib * g->page_count);
        printf("cached     %" PRIu32 " pages, %" PRIu64 " tokens, %.0f MiB, in %" PRIu32 " prefix trees\n",
               survey.sealed_count, tokens, mib * survey.sealed_count, survey.tree_count);
        printf("in use     %" PRIu32 " cached and %" PRIu32 " unfinished pages\n", survey.held_count,
               survey.filling_count);
        if (survey.lost_count)
            printf("faulty     %" PRIu32 " pages; kvasir fsck tells more\n", survey.lost_count);
    }
    survey_done(&survey);
    return 0;
}

/* The worker of a daemon that died just now may not be gone yet. Its weights count as used until it is, a moment longer
 * than its pages. */
static void worker_wait(const struct cache *cache)
{
    struct segment payload = {.base = NULL};
    int lock_fd;
    if (segment_open_alone(cache->instance, "kv.0", WORKER_GONE_NS_MAX, &payload, &lock_fd, NULL) < 0)
        return; // there is none; or it hangs, and what it uses stays
    segment_share(lock_fd);
    segment_close(&payload);
}

/* Packed weights that nobody uses, of whatever model: whoever starts next would remove them, if anybody did. */
static int weights_drop(void)
{
    const struct timespec wait = {.tv_nsec = 10 * NS_PER_MS};
    int count = 0;
    for (int i = 0; i < 5 && count == 0; i++) {
        if (i > 0) (void)nanosleep(&wait, NULL); // shorter is fine too
        count = weights_sweep((struct hash128){0}, NULL, NULL);
    }
    return count < 0 ? 0 : count; // they stay
}

static int run_drop(const struct cache *cache)
{
    struct err err = {0};
    int lock_fd;
    bool is_there = segment_exists(cache->instance, "meta") || segment_exists(cache->instance, "kv.0");
    int r = segment_lock(cache->instance, &lock_fd, &err);
    if (r == ERR_BUSY) {
        fprintf(stderr,
                "kvasir cache: %s, which serves from this cache. To empty it without a stop:\n"
                "  curl -X POST http://127.0.0.1:8000/reset_prefix_cache\n",
                err.text);
        return err_exit_status(r);
    }
    if (r < 0) return complain(r, err.text);
    if (is_there) worker_wait(cache);
    int count = segment_unlink_all(cache->instance), weights_count = weights_drop();
    segment_unlock(cache->instance, lock_fd);
    if (count < 0) return complain(count, err_name(count));
    if (!is_there && weights_count == 0) {
        (void)err_set(&err, -ENOENT, "instance %s has no cache", cache->instance);
        return complain(-ENOENT, err.text);
    }
    printf("removed %d segments of %s, and packed weights that nobody used: %d\n", count, cache->instance,
           weights_count);
    return 0;
}

int cmd_cache(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct cache *cache);
    } verbs[] = {{"ls", run_ls}, {"stat", run_stat}, {"drop", run_drop}};
    struct cache cache = {.instance = "default", .lines = {.value = LINES_DEFAULT}};
    const struct opt table[] = {
        {"instance", OPT_TEXT, "NAME", &cache.instance, "whose cache (default: default)", 0, 0},
        {"lines", OPT_INT, "COUNT", &cache.lines, "prefix trees that ls shows (default: 40)", 1, UINT32_MAX},
        {"json", OPT_FLAG, NULL, &cache.is_json, "for programs; everything", 0, 0},
    };
    const struct opts opts = {
        "cache ls|stat|drop [OPTION]...",
        "The cache of an instance in shared memory, of a live daemon or of none.\n"
        "  ls    its prefix trees, last used first: a root page and all that hangs on it\n"
        "  stat  totals\n"
        "  drop  frees the memory of a cache that no daemon serves from, and of packed weights that nobody "
        "uses\n\n",
        table, COUNT_OF(table)};
    struct err err;
    int count = 0, r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    if (segment_instance_check(cache.instance, &err) < 0) {
        fprintf(stderr, "kvasir cache: %s\n", err.text);
        return EX_USAGE;
    }
    for (size_t i = 0; count == 1 && i < COUNT_OF(verbs); i++)
        if (strcmp(argv[0], verbs[i].name) == 0) return verbs[i].run(&cache);
    fprintf(stderr, "kvasir cache: ls, stat or drop? (`kvasir help cache`)\n");
    return EX_USAGE;
}
