/* SPDX-License-Identifier: Apache-2.0 */
/* sim_worker - see sim.h. It knows a plan and its payload, nothing else. */
#include "tests/sim/sim.h"

#include <string.h>

#include "common/base/hash.h"

uint32_t sim_token_after(uint64_t history)
{
    return (uint32_t)(((unsigned __int128)(history * UINT64_C(0x9E3779B97F4A7C15)) * SIM_VOCAB) >> 64);
}

/* Any mixing will do in which no order and no token can be changed without a trace. */
uint64_t sim_history_step(uint64_t history, uint32_t token)
{
    struct rng mix = {history ^ (token + 1) * UINT64_C(0xD6E8FEB86659FD93)};
    return rng_next(&mix);
}

static uint64_t *slot_of(const struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq,
                         uint32_t position)
{
    uint32_t page_idx = plan->pages[seq->page_first + position / PAGE_TOKENS].page_idx;
    return &sim->payload[(size_t)page_idx * PAGE_TOKENS + position % PAGE_TOKENS];
}

static void answer_seals(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq)
{
    uint32_t end = seq->pos_first + seq->token_count;
    for (uint32_t page = seq->pos_first / PAGE_TOKENS; page < end / PAGE_TOKENS; page++) {
        struct plan_page at = plan->pages[seq->page_first + page];
        for (uint32_t rank = 0; rank < sim->rank_count; rank++) {
            struct done_seal seal = {
                .page_idx = at.page_idx,
                .generation = at.generation,
                .rank = rank,
                .checksum = hash64(&sim->payload[(size_t)at.page_idx * PAGE_TOKENS], PAGE_TOKENS * 8)};
            LAW(done_writer_seal(sim->answer, &seal) >= 0);
        }
    }
}

static void answer_scores(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq,
                          struct done_seq *out)
{
    for (uint32_t i = 0; i < seq->token_count; i++) {
        uint32_t target = i + 1 < seq->token_count ? plan->tokens[seq->token_first + i + 1]
                                                   : seq->score_target;
        struct done_score score = {.token = target};
        if (target != PLAN_TOKEN_NONE) {
            score.logprob = -1.0F;
            score.rank = 1;
        }
        int at = done_writer_score(sim->answer, &score);
        LAW(at >= 0);
        if (i == 0) out->score_first = (uint32_t)at;
    }
    out->score_count = seq->token_count;
}

/* -> rows done */
static uint64_t run_seq(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq,
                        uint64_t rows_max)
{
    uint64_t history = seq->pos_first ? *slot_of(sim, plan, seq, seq->pos_first - 1) : 0;
    for (uint32_t i = 0; i < seq->token_count; i++) {
        if (i == rows_max) return i;
        uint32_t position = seq->pos_first + i;
        uint32_t page_idx = plan->pages[seq->page_first + position / PAGE_TOKENS].page_idx;
        LAW(pool_desc(sim->pool, page_idx)->state == PAGE_FILLING); // rule 5: sealed pages never change
        history = sim_history_step(history, plan->tokens[seq->token_first + i]);
        *slot_of(sim, plan, seq, position) = history;
    }
    struct done_seq out = {.seq_id = seq->seq_id};
    if (seq->flags & PLAN_SCORE) answer_scores(sim, plan, seq, &out);
    answer_seals(sim, plan, seq);
    if (seq->flags & PLAN_SAMPLE) {
        out.flags = DONE_SAMPLED;
        out.token = sim_token_after(history);
        out.logprob = -0.5F;
        out.rank = 1;
    }
    LAW(done_writer_seq(sim->answer, &out) >= 0);
    return seq->token_count;
}

static bool page_is_good(const struct sim *sim, uint32_t page_idx)
{
    uint64_t sum = hash64(&sim->payload[(size_t)page_idx * PAGE_TOKENS], PAGE_TOKENS * 8);
    return pool_sums(sim->pool, page_idx)[0] == sum;
}

bool sim_worker_checks(struct sim *sim, const struct plan_view *plan)
{
    bool good = true;
    done_writer_begin(sim->answer, plan->header->step, plan->header->epoch);
    for (uint32_t i = 0; i < plan->header->check_count; i++) {
        if (page_is_good(sim, plan->checks[i].page_idx)) continue;
        LAW(done_writer_bad(sim->answer, plan->checks[i]) >= 0);
        good = false;
    }
    return good;
}

bool sim_worker_run(struct sim *sim, const struct plan_view *plan, uint64_t rows_max)
{
    for (uint32_t i = 0; i < plan->header->copy_count; i++) { // whole pages, as the worker does
        if (rows_max-- == 0) return false;
        const struct plan_seq *seq = &plan->seqs[plan->copies[i].seq_idx];
        const uint64_t *from = &sim->payload[(size_t)plan->copies[i].page_idx * PAGE_TOKENS];
        memcpy(slot_of(sim, plan, seq, seq->pos_first / PAGE_TOKENS * PAGE_TOKENS), from,
               PAGE_TOKENS * sizeof *from);
        sim->counts.copies++;
    }
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        uint64_t done = run_seq(sim, plan, &plan->seqs[i], rows_max);
        if (done < plan->seqs[i].token_count) return false;
        rows_max -= done;
    }
    return true;
}
