/* SPDX-License-Identifier: Apache-2.0 */
/* plan_sample - one plan and its completion that use every section, for the tests of both. Three sequences:
 * a decode with penalties and alternatives, a prefill chunk with scores that begins with the copied end of a cached
 * prefix and fills two pages, and the last
 * chunk of a prompt with biases. */
#ifndef KVASIR_TESTS_UNIT_PLAN_SAMPLE_H
#define KVASIR_TESTS_UNIT_PLAN_SAMPLE_H

#include <string.h>

#include "common/ipc/plan.h"

static const struct plan_limits sample_limits = {
    .seqs_max = 4,
    .tokens_max = 64,
    .pages_max = 16,
    .history_max = 16,
    .biases_max = 8,
    .pool_pages = 32,
    .vocab_count = 1000,
    .page_tokens = 16,
    .rank_count = 2,
};

enum { SAMPLE_BYTES = 8192 };

static inline struct plan_seq sample_seq(uint64_t seq_id)
{
    return (struct plan_seq){
        .seq_id = seq_id,
        .score_target = PLAN_TOKEN_NONE,
        .top_p = 1,
        .repetition_penalty = 1,
    };
}

static inline size_t sample_plan(struct plan_writer *writer, void *slot)
{
    uint32_t tokens[64];
    struct plan_page pages[16];
    for (uint32_t i = 0; i < 64; i++) tokens[i] = 100 + i;
    for (uint32_t i = 0; i < 16; i++) pages[i] = (struct plan_page){.page_idx = i, .generation = i + 1};
    const struct plan_bias biases[] = {{7, -1e30f}, {8, 2.5f}};
    plan_writer_begin(writer, 3, 44);

    struct plan_seq decode = sample_seq(11); // position 20, two pages
    decode.flags = PLAN_SAMPLE;
    decode.token_first = (uint32_t)plan_writer_tokens(writer, tokens, 1);
    decode.token_count = 1;
    decode.pos_first = 20;
    decode.page_first = (uint32_t)plan_writer_pages(writer, pages, 2);
    decode.page_count = 2;
    decode.history_first = (uint32_t)plan_writer_history(writer, tokens, 5);
    decode.history_count = 5;
    decode.history_prompt = 3;
    decode.logprobs = 3;
    decode.temperature = 0.7f;
    decode.presence_penalty = 0.5f;
    (void)plan_writer_seq(writer, &decode);

    struct plan_seq prefill = sample_seq(12); // positions 10 to 36, three pages of which two fill
    prefill.flags = PLAN_SCORE;
    prefill.token_first = (uint32_t)plan_writer_tokens(writer, tokens + 1, 27);
    prefill.token_count = 27;
    prefill.pos_first = 10;
    prefill.page_first = (uint32_t)plan_writer_pages(writer, pages + 2, 3);
    prefill.page_count = 3;
    prefill.score_target = 999;
    prefill.logprobs = 1;
    struct plan_copy copy = {.token_count = 10, .page_idx = 20, .generation = 9}; // its first ten positions
    copy.seq_idx = (uint32_t)plan_writer_seq(writer, &prefill);
    (void)plan_writer_copy(writer, &copy);

    struct plan_seq last = sample_seq(13); // positions 0 to 15: one page, filled
    last.flags = PLAN_SAMPLE | PLAN_SCORE;
    last.token_first = (uint32_t)plan_writer_tokens(writer, tokens + 28, 16);
    last.token_count = 16;
    last.page_first = (uint32_t)plan_writer_pages(writer, pages + 5, 1);
    last.page_count = 1;
    last.bias_first = (uint32_t)plan_writer_biases(writer, biases, 2);
    last.bias_count = 2;
    (void)plan_writer_seq(writer, &last);
    (void)plan_writer_check(writer, pages[0]); // the first of the decode's
    (void)plan_writer_check(writer, pages[9]); // of no table here: a reader need not care
    (void)plan_writer_check(writer, pages[4]);
    return plan_writer_finish(writer, slot, SAMPLE_BYTES);
}

static inline size_t sample_done(struct done_writer *writer, const struct plan_view *plan, void *slot)
{
    const struct done_top tops[] = {{5, -0.5f}, {6, -1.5f}, {7, -2}};
    done_writer_begin(writer, plan->header->step, plan->header->epoch);
    for (uint32_t s = 0; s < plan->header->seq_count; s++) {
        const struct plan_seq *asked = &plan->seqs[s];
        struct done_seq seq = {.seq_id = asked->seq_id};
        if (asked->flags & PLAN_SAMPLE) {
            seq.flags = DONE_SAMPLED;
            seq.token = 5;
            seq.logprob = -0.5f;
            seq.rank = 1;
            seq.top_first = (uint32_t)done_writer_tops(writer, tops, asked->logprobs);
            seq.top_count = asked->logprobs;
        }
        for (uint32_t i = 0; (asked->flags & PLAN_SCORE) && i < asked->token_count; i++) {
            struct done_score score = {.token = asked->score_target};
            if (i + 1 < asked->token_count) score.token = plan->tokens[asked->token_first + i + 1];
            if (score.token != PLAN_TOKEN_NONE) {
                score.logprob = -3;
                score.rank = 9;
                score.top_first = (uint32_t)done_writer_tops(writer, tops, asked->logprobs);
                score.top_count = asked->logprobs;
            }
            int first = done_writer_score(writer, &score);
            if (i == 0) seq.score_first = (uint32_t)first;
            seq.score_count++;
        }
        (void)done_writer_seq(writer, &seq);
        uint32_t first, count = plan_seq_filled(asked, sample_limits.page_tokens, &first);
        for (uint32_t i = 0; i < count * 2; i++) {
            const struct plan_page *page = &plan->pages[asked->page_first + first + i / 2];
            struct done_seal seal = {
                .page_idx = page->page_idx, .generation = page->generation, .rank = i % 2};
            seal.checksum = 1234 + i;
            (void)done_writer_seal(writer, &seal);
        }
    }
    return done_writer_finish(writer, 0, 10, 8, 1, slot, SAMPLE_BYTES);
}

#endif
