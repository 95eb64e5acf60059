/* SPDX-License-Identifier: Apache-2.0 */
/* plan_shape - where the sections of a plan and of a completion lie, from their counts. Shared by the
 * verifier and the writers; private to common/ipc. Offsets are 64-bit sums of 32-bit counts times small
 * sizes: they cannot overflow. */
#ifndef KVASIR_IPC_PLAN_SHAPE_H
#define KVASIR_IPC_PLAN_SHAPE_H

#include "common/ipc/plan.h"

static_assert(sizeof(size_t) == 8, "section offsets are 64-bit");

struct plan_counts {
    uint32_t seqs, tokens, pages, history, biases, copies, checks;
};

struct plan_shape { // byte offsets; end is the size
    size_t seqs, tokens, pages, history, biases, copies, checks, end;
};

struct done_counts {
    uint32_t seqs, scores, tops, seals, bads;
};

struct done_shape {
    size_t seqs, scores, tops, seals, bads, end;
};

static inline size_t plan_pad(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

static inline struct plan_shape plan_shape_of(const struct plan_counts *counts)
{
    struct plan_shape at;
    at.seqs = sizeof(struct plan_header);
    at.tokens = at.seqs + counts->seqs * sizeof(struct plan_seq);
    at.pages = at.tokens + plan_pad(counts->tokens * sizeof(uint32_t));
    at.history = at.pages + counts->pages * sizeof(struct plan_page);
    at.biases = at.history + plan_pad(counts->history * sizeof(uint32_t));
    at.copies = at.biases + counts->biases * sizeof(struct plan_bias);
    at.checks = at.copies + counts->copies * sizeof(struct plan_copy);
    at.end = at.checks + counts->checks * sizeof(struct plan_page);
    return at;
}

static inline struct done_shape done_shape_of(const struct done_counts *counts)
{
    struct done_shape at;
    at.seqs = sizeof(struct done_header);
    at.scores = at.seqs + counts->seqs * sizeof(struct done_seq);
    at.tops = at.scores + counts->scores * sizeof(struct done_score);
    at.seals = at.tops + counts->tops * sizeof(struct done_top);
    at.bads = at.seals + counts->seals * sizeof(struct done_seal);
    at.end = at.bads + counts->bads * sizeof(struct plan_page);
    return at;
}

/* plan_seq_filled, for loops over all sequences: a division costs as much as the rest, and pages are of a power of
 * two. */
static inline uint32_t plan_filled(const struct plan_seq *seq, uint32_t page_tokens, uint32_t *ret_first)
{
    uint32_t end = seq->pos_first + seq->token_count;
    if ((page_tokens & (page_tokens - 1)) != 0) {
        *ret_first = seq->pos_first / page_tokens;
        return end / page_tokens - *ret_first;
    }
    uint32_t shift = (uint32_t)__builtin_ctz(page_tokens);
    *ret_first = seq->pos_first >> shift;
    return (end >> shift) - *ret_first;
}

/* The most of each section that a completion can hold under the limits. */
static inline struct done_counts done_counts_max(const struct plan_limits *limits)
{
    struct done_counts max = {.seqs = limits->seqs_max, .scores = limits->tokens_max};
    max.tops = (limits->seqs_max + limits->tokens_max) * LOGPROBS_MAX;
    // A sequence fills one page more than its rows alone would: the one they found begun.
    uint32_t filled = limits->tokens_max / limits->page_tokens + limits->seqs_max;
    if (filled > limits->pages_max) filled = limits->pages_max;
    max.seals = filled * plan_rank_count(limits);
    max.bads = plan_checks_max(limits);
    return max;
}

#endif
