/* SPDX-License-Identifier: Apache-2.0 */
/* Cached pages that go bad under the scheduler: a simulated worker keeps as payload of each slot the hash of all
 * tokens up to it, dies now and then, and scribbles over pages on its way; at times the whole daemon goes and the next
 * one adopts the pool. Whatever it was, every sequence's tokens are those of its own history, nobody waits for
 * ever, and the audits of scheduler, index and pool hold after every step. KVASIR_SEED reruns a seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "daemon/sched.h"

enum { VOCAB = 50, CLIENTS = 12, LEN_MAX = 120, PAGES = 48, STEPS = 3000, ROUNDS = 10 };

struct client {
    bool live;
    uint64_t seq_id;
    uint32_t prompt_count, count, output_max; // count: tokens there are
    uint32_t tokens[LEN_MAX];
};

struct world {
    struct rng rng;
    struct pool_geometry geometry;
    struct sched_conf conf;
    struct plan_limits limits;
    size_t meta_bytes;
    void *meta, *plan_bytes, *done_bytes;
    struct pool *pool;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_writer *writer;
    struct done_writer *answer;
    struct sched_event events[2 * CLIENTS];
    struct client clients[CLIENTS];
    uint64_t payload[PAGES][PAGE_TOKENS];
    uint64_t now_ns, bad, checked, dropped, finished, deaths, adopted;
};

static uint64_t history_after(uint64_t history, uint32_t token)
{
    const uint64_t pair[2] = {history, token};
    return hash64(pair, sizeof pair);
}

/* ---- one life of the daemon ---- */

static void life_begin(struct world *w)
{
    struct pool_owner owner = {1, 2, 7};
    struct pool_adoption adoption;
    struct err err = {0};
    int r = w->adopted == 0
                ? pool_format(w->meta, w->meta_bytes, &w->geometry, &owner, &w->pool, &err)
                : pool_adopt(w->meta, w->meta_bytes, &w->geometry, &owner, &w->pool, &adoption, &err);
    if (r < 0) fail_msg("%s", err.text);
    w->adopted++;
    assert_int_equal(prefix_new(w->pool, &w->prefix), 0);
    assert_int_equal(sched_new(&w->conf, w->pool, w->prefix, &w->sched), 0);
    for (int i = 0; i < CLIENTS; i++) w->clients[i].live = false; // their requests died with the daemon
}

static void life_end(struct world *w)
{
    struct sched_stats stats;
    sched_stats(w->sched, &stats);
    w->checked += stats.pages_checked;
    w->bad += stats.pages_corrupt;
    sched_free(w->sched);
    prefix_free(w->prefix);
    pool_free(w->pool);
}

static void world_open(struct world *w, uint64_t seed)
{
    *w = (struct world){.rng.state = seed};
    w->geometry = (struct pool_geometry){.page_count = 12 + (uint32_t)rng_below(&w->rng, PAGES - 12),
                                         .page_tokens = PAGE_TOKENS,
                                         .rank_count = 1};
    w->conf = (struct sched_conf){.seqs_max = CLIENTS,
                                  .tokens_max = 16 + (uint32_t)rng_below(&w->rng, 60),
                                  .queue_max = CLIENTS,
                                  .model_len_max = LEN_MAX,
                                  .epoch = 7};
    w->meta_bytes = pool_meta_bytes(&w->geometry);
    w->meta = aligned_alloc(4096, w->meta_bytes);
    memset(w->meta, 0, w->meta_bytes);
    sched_plan_limits(&w->conf, &w->geometry, VOCAB, &w->limits);
    assert_int_equal(plan_writer_new(&w->limits, &w->writer), 0);
    assert_int_equal(done_writer_new(&w->limits, &w->answer), 0);
    w->plan_bytes = malloc(plan_bytes_max(&w->limits));
    w->done_bytes = malloc(done_bytes_max(&w->limits));
    life_begin(w);
}

static void world_done(struct world *w)
{
    life_end(w);
    plan_writer_free(w->writer);
    done_writer_free(w->answer);
    free(w->meta);
    free(w->plan_bytes);
    free(w->done_bytes);
}

/* ---- clients and worker ---- */

static uint32_t token_after(const struct client *client, uint32_t count)
{
    uint64_t history = 0;
    for (uint32_t i = 0; i < count; i++) history = history_after(history, client->tokens[i]);
    return (uint32_t)(history % VOCAB);
}

static void submit(struct world *w, struct client *client)
{
    *client = (struct client){.live = true};
    client->prompt_count = 1 + (uint32_t)rng_below(&w->rng, LEN_MAX - 20);
    client->output_max = 1 + (uint32_t)rng_below(&w->rng, 19);
    uint32_t family = (uint32_t)rng_below(&w->rng, 3),
             own = (uint32_t)rng_below(&w->rng, client->prompt_count);
    for (uint32_t i = 0; i < client->prompt_count; i++)
        client->tokens[i] = i < own ? (family + i) % VOCAB : (uint32_t)rng_below(&w->rng, VOCAB);
    client->count = client->prompt_count;
    struct sched_request request = {.prompt = client->tokens,
                                    .prompt_count = client->prompt_count,
                                    .output_max = client->output_max,
                                    .params = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
                                    .owner = client};
    assert_int_equal(sched_submit(w->sched, &request, &client->seq_id), 0);
}

static uint64_t *slot_of(struct world *w, const struct plan_view *plan, const struct plan_seq *seq,
                         uint32_t at)
{
    return &w->payload[plan->pages[seq->page_first + at / PAGE_TOKENS].page_idx][at % PAGE_TOKENS];
}

static void compute(struct world *w, const struct plan_view *plan, const struct plan_seq *seq)
{
    uint64_t history = seq->pos_first ? *slot_of(w, plan, seq, seq->pos_first - 1) : 0;
    for (uint32_t i = 0; i < seq->token_count; i++) {
        history = history_after(history, plan->tokens[seq->token_first + i]);
        *slot_of(w, plan, seq, seq->pos_first + i) = history;
    }
    struct done_seq out = {.seq_id = seq->seq_id};
    if (seq->flags & PLAN_SAMPLE) {
        out.flags = DONE_SAMPLED;
        out.token = (uint32_t)(history % VOCAB);
        out.rank = 1;
    }
    assert_true(done_writer_seq(w->answer, &out) >= 0);
    uint32_t first, count = plan_seq_filled(seq, PAGE_TOKENS, &first);
    for (uint32_t i = 0; i < count; i++) {
        struct plan_page page = plan->pages[seq->page_first + first + i];
        struct done_seal seal = {.page_idx = page.page_idx, .generation = page.generation};
        seal.checksum = hash64(w->payload[page.page_idx], sizeof *w->payload);
        assert_true(done_writer_seal(w->answer, &seal) >= 0);
    }
}

/* -> how many of the pages to be checked are bad. */
static uint32_t check(struct world *w, const struct plan_view *plan)
{
    uint32_t bad = 0;
    for (uint32_t i = 0; i < plan->header->check_count; i++) {
        uint32_t page_idx = plan->checks[i].page_idx;
        assert_int_equal(pool_desc(w->pool, page_idx)->state, PAGE_SEALED);
        for (uint32_t k = 0; k < i; k++) assert_int_not_equal(plan->checks[k].page_idx, page_idx);
        if (hash64(w->payload[page_idx], sizeof *w->payload) == *pool_sums(w->pool, page_idx)) continue;
        assert_true(done_writer_bad(w->answer, plan->checks[i]) >= 0);
        bad++;
    }
    return bad;
}

/* Where a cached prefix ends inside a page: its first slots, into the sequence's own. */
static void copy_tails(struct world *w, const struct plan_view *plan)
{
    for (uint32_t i = 0; i < plan->header->copy_count; i++) {
        const struct plan_copy *copy = &plan->copies[i];
        const struct plan_seq *seq = &plan->seqs[copy->seq_idx];
        assert_int_equal(pool_desc(w->pool, copy->page_idx)->state, PAGE_SEALED);
        memcpy(slot_of(w, plan, seq, seq->pos_first - copy->token_count), w->payload[copy->page_idx],
               copy->token_count * sizeof **w->payload);
    }
}

static void scribble(struct world *w)
{
    for (uint64_t i = rng_below(&w->rng, 6); i > 0; i--) {
        uint32_t page_idx = (uint32_t)rng_below(&w->rng, w->geometry.page_count);
        if (pool_desc(w->pool, page_idx)->state != PAGE_SEALED) continue;
        for (uint32_t k = 0; k < PAGE_TOKENS; k++)
            w->payload[page_idx][k] ^= UINT64_C(1) << rng_below(&w->rng, 64);
    }
}

static void answer(struct world *w, const struct plan_view *plan)
{
    struct done_view done;
    done_writer_begin(w->answer, plan->header->step, plan->header->epoch);
    uint32_t bad = check(w, plan);
    if (bad == 0) copy_tails(w, plan);
    for (uint32_t i = 0; bad == 0 && i < plan->header->seq_count; i++) compute(w, plan, &plan->seqs[i]);
    size_t bytes = done_writer_finish(w->answer, bad ? -EBADMSG : 0, 1, 1, 1, w->done_bytes,
                                      done_bytes_max(&w->limits));
    assert_int_equal(done_verify(w->done_bytes, bytes, &w->limits, plan, &done, NULL), 0);
    if (bad) {
        uint32_t sealed = pool_sealed_count(w->pool);
        int dropped = sched_corrupt(w->sched, 0, w->now_ns, done.bads, done.header->bad_count);
        assert_true(dropped >= (int)bad);
        assert_int_equal(pool_sealed_count(w->pool), sealed - (uint32_t)dropped);
        w->dropped += (uint64_t)dropped;
        return;
    }
    int events = sched_complete(w->sched, 0, w->now_ns, &done, w->events);
    for (int i = 0; i < events; i++) {
        struct client *client = w->events[i].owner;
        assert_int_equal(w->events[i].kind, SCHED_TOKEN);
        assert_int_equal(w->events[i].seq->token,
                         token_after(client, client->count)); // whatever became of its pages
        client->tokens[client->count++] = w->events[i].seq->token;
        if (client->count < client->prompt_count + client->output_max) continue;
        sched_remove(w->sched, client->seq_id, w->now_ns);
        client->live = false;
        w->finished++;
    }
}

static void die(struct world *w)
{
    w->deaths++;
    if (rng_below(&w->rng, 4) == 0) { // daemon and worker
        scribble(w);
        life_end(w);
        life_begin(w);
        return;
    }
    if (sched_in_flight(w->sched, 0)) {
        for (int i = sched_lost(w->sched, 0, w->now_ns, w->events); i-- > 0;) {
            struct client *client = w->events[i].owner; // it was there each time
            sched_remove(w->sched, client->seq_id, w->now_ns);
            client->live = false;
        }
    }
    scribble(w);
    sched_distrust(w->sched, 0);
}

static void step(struct world *w)
{
    struct err err = {0};
    w->now_ns++;
    struct client *client = &w->clients[rng_below(&w->rng, CLIENTS)];
    if (!client->live) submit(w, client);
    int seqs = sched_plan(w->sched, 0, w->now_ns, w->writer);
    if (seqs > 0) {
        struct plan_view plan;
        size_t bytes = plan_writer_finish(w->writer, w->plan_bytes, plan_bytes_max(&w->limits));
        assert_int_equal(plan_verify(w->plan_bytes, bytes, &w->limits, &plan, NULL), 0);
        client = &w->clients[rng_below(&w->rng, CLIENTS)];
        if (client->live && rng_below(&w->rng, 30) == 0) { // it leaves in the middle of a step
            sched_remove(w->sched, client->seq_id, w->now_ns);
            client->live = false;
        }
        if (rng_below(&w->rng, 15) == 0) die(w);
        else answer(w, &plan);
    } else if (rng_below(&w->rng, 15) == 0) {
        die(w);
    }
    int r = sched_check(w->sched, &err);
    if (r < 0) fail_msg("%s", err.text);
}

static void test_bad_pages_change_no_token(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    for (uint64_t round = 0; round < (text ? 1 : ROUNDS); round++) {
        static struct world w;
        world_open(&w, seed + round);
        for (int i = 0; i < STEPS; i++) step(&w);
        world_done(&w);
        print_message("seed %llu: %llu finished, %llu deaths, %llu daemons, %llu pages checked, %llu bad, "
                      "%llu dropped\n",
                      (unsigned long long)(seed + round), (unsigned long long)w.finished,
                      (unsigned long long)w.deaths, (unsigned long long)w.adopted,
                      (unsigned long long)w.checked, (unsigned long long)w.bad,
                      (unsigned long long)w.dropped);
        assert_true(w.finished > 0);
        assert_true(w.bad > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_pages_change_no_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
