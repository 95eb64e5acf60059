/* SPDX-License-Identifier: Apache-2.0 */
/* replay - bench/trace's replay of a trace through the real index, against references that search everything: least
 * recently used, and the order that knows the future. On made-up traffic: Kvasir's order beside least recently used. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/replay.h"
#include "common/base/rng.h"

enum { IDS_MAX = 1 << 16, NEVER = 1 << 30 };

static void add(struct trace *trace, const uint32_t *blocks, uint32_t count, uint64_t arrival_ms)
{
    char line[1 << 13];
    int at = snprintf(line, sizeof line,
                      "{\"timestamp\": %llu, \"input_length\": %u, \"output_length\": 100, \"hash_ids\": [",
                      (unsigned long long)arrival_ms, count * 512);
    for (uint32_t i = 0; i < count; i++)
        at += snprintf(line + at, sizeof line - (size_t)at, "%s%u", i ? ", " : "", blocks[i]);
    (void)snprintf(line + at, sizeof line - (size_t)at, "]}\n"); // room for 500 blocks
    struct err err = {0};
    if (trace_line(trace, line, &err) < 0) fail_msg("%s", err.text);
}

/* Conversations that start at one of a few prompts, grow, fork and end. */
static void trace_make(struct trace *trace, uint64_t seed, uint32_t requests)
{
    enum { CHATS = 6, LENGTH = 12 };
    struct rng rng = {seed};
    uint32_t chats[CHATS][LENGTH], lengths[CHATS] = {0}, ids = 3;
    *trace = (struct trace){0};
    for (uint32_t i = 0; i < requests; i++) {
        uint32_t c = (uint32_t)rng_below(&rng, CHATS);
        uint32_t keep = lengths[c] > 1 ? 1 + (uint32_t)rng_below(&rng, lengths[c]) : lengths[c];
        if (keep == 0 || keep > LENGTH - 3 || rng_below(&rng, 5) == 0) {
            keep = 1;
            chats[c][0] = (uint32_t)rng_below(&rng, 3);
        }
        lengths[c] = keep + (uint32_t)rng_below(&rng, 3);
        for (uint32_t b = keep; b < lengths[c]; b++) chats[c][b] = ids++;
        add(trace, chats[c], lengths[c], i * 1000);
    }
}

struct block { // of the reference: searched from end to end
    bool cached, held;
    uint32_t parent, used, next; // request that used it last; that wants it next
};

static bool has_child(const struct block *blocks, uint32_t id_count, uint32_t id)
{
    for (uint32_t i = 0; i < id_count; i++)
        if (blocks[i].cached && blocks[i].parent == id) return true;
    return false;
}

/* The leaf that nobody holds and that was used longest ago, or is wanted last; NEVER when there is none. */
static uint32_t reference_victim(const struct block *blocks, uint32_t id_count, bool knows)
{
    uint32_t best = NEVER;
    for (uint32_t i = 0; i < id_count; i++) {
        if (!blocks[i].cached || blocks[i].held || has_child(blocks, id_count, i)) continue;
        if (best == NEVER ||
            (knows ? blocks[i].next > blocks[best].next : blocks[i].used < blocks[best].used))
            best = i;
    }
    return best;
}

static uint32_t next_use(const struct trace *trace, uint32_t after, uint32_t id)
{
    for (uint32_t i = after + 1; i < trace->request_count; i++)
        for (uint32_t b = 0; b < trace->requests[i].block_count; b++)
            if (trace->blocks[trace->requests[i].block_first + b] == id) return i;
    return NEVER;
}

static uint64_t reference(const struct trace *trace, uint32_t capacity, bool knows)
{
    struct block *blocks = calloc(trace->id_count, sizeof *blocks);
    uint64_t hits = 0;
    uint32_t used = 0;
    for (uint32_t i = 0; i < trace->request_count; i++) {
        const uint32_t *ids = trace->blocks + trace->requests[i].block_first;
        uint32_t count = trace->requests[i].block_count, kept = 0;
        while (kept < count && blocks[ids[kept]].cached) blocks[ids[kept++]].held = true;
        hits += kept;
        for (; kept < count; kept++) {
            uint32_t next = knows ? next_use(trace, i, ids[kept]) : 0;
            if (next == NEVER) break;
            if (used == capacity) {
                uint32_t victim = reference_victim(blocks, trace->id_count, knows);
                if (victim == NEVER || (knows && blocks[victim].next < next)) break;
                blocks[victim].cached = false;
                used--;
            }
            blocks[ids[kept]] = (struct block){true, true, kept ? ids[kept - 1] : NEVER, i, next};
            used++;
        }
        for (uint32_t b = 0; b < kept; b++) {
            blocks[ids[b]].held = false;
            blocks[ids[b]].used = i;
            blocks[ids[b]].next = knows ? next_use(trace, i, ids[b]) : 0;
        }
    }
    free(blocks);
    return hits;
}

static uint64_t hits_of(const struct trace *trace, uint32_t pages, enum leaves_order order)
{
    struct replay_conf conf = {.page_count = pages, .order = order};
    struct replay_result result;
    struct err err = {0};
    if (replay_run(trace, &conf, &result, &err) < 0) fail_msg("%s", err.text);
    return result.hits;
}

static void test_replay_agrees_with_references(void **state)
{
    (void)state;
    const char *seed_text = getenv("KVASIR_SEED");
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : 1;
    for (uint64_t round = 0; round < 6; round++) {
        struct trace trace;
        trace_make(&trace, seed + round, 200);
        print_message("seed %llu: %u blocks, %u different\n", (unsigned long long)(seed + round),
                      trace.block_count, trace.id_count);
        for (uint32_t pages = 12; pages < 100; pages += 29) {
            uint64_t best;
            assert_int_equal(hits_of(&trace, pages, LEAVES_BY_LAST_USE), reference(&trace, pages, false));
            assert_int_equal(replay_bound(&trace, pages, &best), 0);
            assert_int_equal(best, reference(&trace, pages, true));
            assert_true(hits_of(&trace, pages, LEAVES_BY_REUSE) <= best);
        }
        trace_free(&trace);
    }
}

static void test_replay_waits_while_running_requests_hold_the_pool(void **state)
{
    (void)state;
    struct trace trace = {0};
    const uint32_t one[] = {0, 1, 2}, two[] = {3, 4, 5};
    add(&trace, one, 3, 0);
    add(&trace, two, 3, 1); // room for it only when the first has ended
    add(&trace, one, 3, 2);
    struct replay_conf conf = {.page_count = 4, .order = LEAVES_BY_REUSE, .output_token_ns = 1000000};
    struct replay_result result;
    struct err err = {0};
    assert_int_equal(replay_run(&trace, &conf, &result, &err), 0);
    assert_int_equal(result.late, 2);
    assert_int_equal(result.hits, 1); // of the first's pages the root is still there
    trace_free(&trace);
}

/* Prompts by Zipf's law, chats of several turns under them, and single requests that never come back. */
static void traffic_make(struct trace *trace, uint64_t seed, uint32_t prompts, uint32_t chats,
                         uint32_t flood_percent)
{
    enum { LENGTH = 24, PROMPT = 4, REQUESTS = 4000 };
    struct rng rng = {seed};
    uint32_t(*chat)[LENGTH] = calloc(chats, sizeof *chat), *lengths = calloc(chats, sizeof *lengths);
    uint32_t ids = prompts * PROMPT, blocks[LENGTH];
    *trace = (struct trace){0};
    for (uint32_t i = 0; i < REQUESTS; i++) {
        if (rng_below(&rng, 100) < flood_percent) {
            for (uint32_t b = 0; b < 10; b++) blocks[b] = ids++;
            add(trace, blocks, 10, i * 100);
            continue;
        }
        uint32_t c = (uint32_t)rng_below(&rng, chats);
        if (lengths[c] == 0 || lengths[c] + 3 > LENGTH || rng_below(&rng, 6) == 0) {
            uint32_t prompt = (uint32_t)rng_below(&rng, 1 + rng_below(&rng, 1 + rng_below(&rng, prompts)));
            for (uint32_t b = 0; b < PROMPT; b++) chat[c][b] = prompt * PROMPT + b;
            lengths[c] = PROMPT;
        }
        for (uint32_t more = 1 + (uint32_t)rng_below(&rng, 3); more > 0; more--)
            chat[c][lengths[c]++] = ids++;
        add(trace, chat[c], lengths[c], i * 100);
    }
    free(chat);
    free(lengths);
}

static void test_replay_is_never_much_worse_than_least_recently_used(void **state)
{
    (void)state;
    static const struct {
        uint32_t prompts, chats, flood_percent;
    } kinds[] = {{1, 5, 0}, {20, 40, 0}, {200, 400, 0}, {20, 40, 50}, {200, 100, 80}, {1000, 2000, 20}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        struct trace trace;
        traffic_make(&trace, kind + 1, kinds[kind].prompts, kinds[kind].chats, kinds[kind].flood_percent);
        for (uint32_t pages = 100; pages <= 3200; pages *= 2) {
            double percent = 100.0 / trace.block_count;
            double lru = percent * (double)hits_of(&trace, pages, LEAVES_BY_LAST_USE);
            double ours = percent * (double)hits_of(&trace, pages, LEAVES_BY_REUSE);
            print_message("%u prompts, %u chats, %u %% flood, %u pages: %.1f %%, %.1f %%\n",
                          kinds[kind].prompts, kinds[kind].chats, kinds[kind].flood_percent, pages, lru,
                          ours);
            assert_true(ours > lru - 2);
        }
        trace_free(&trace);
    }
}

static void test_trace_refuses_what_it_cannot_read(void **state)
{
    (void)state;
    const char *const lines[] = {
        "",
        "[]",
        "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}",
        "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": []}",
        "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1]}",
        "{\"timestamp\": 0, \"input_length\": 1e99, \"output_length\": 1, \"hash_ids\": [1]}",
        "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1e9]}",
        "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [\"1\"]}",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct trace trace = {0};
        struct err err = {0};
        assert_true(trace_line(&trace, lines[i], &err) < 0);
        assert_true(err.text[0] != 0);
        trace_free(&trace);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay_agrees_with_references),
        cmocka_unit_test(test_replay_waits_while_running_requests_hold_the_pool),
        cmocka_unit_test(test_replay_is_never_much_worse_than_least_recently_used),
        cmocka_unit_test(test_trace_refuses_what_it_cannot_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
