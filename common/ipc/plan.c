/* SPDX-License-Identifier: Apache-2.0 */
/* plan - verification of what came over the process line. Pure functions over a private copy; the first
 * fault found is told, with the sequence it was found in. Order matters: counts before sums, sums before
 * sections, sections before what points into them. */
#include "common/ipc/plan.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/check.h"
#include "common/ipc/plan_shape.h"

enum {
    PAGE_TABLE_MAX = 1 << 24, // entries a plan
    HISTORY_MAX = 1 << 28,    // tokens a plan
    BIASES_MAX = PLAN_SEQS_MAX * LOGIT_BIAS_MAX,
};

static int limit_verify(const char *name, uint32_t value, uint32_t min, uint32_t max, struct err *err)
{
    if (value >= min && value <= max) return 0;
    return ERR(err, ERR_LIMIT, "plan limits: %s is %u, wanted %u to %u", name, value, min, max);
}

int plan_limits_verify(const struct plan_limits *limits, struct err *err)
{
    const struct {
        const char *name;
        uint32_t value, min, max;
    } rows[] = {
        {"sequences", limits->seqs_max, 1, PLAN_SEQS_MAX},
        {"rows", limits->tokens_max, 1, PLAN_TOKENS_MAX},
        {"page table entries", limits->pages_max, 1, PAGE_TABLE_MAX},
        {"history tokens", limits->history_max, 0, HISTORY_MAX},
        {"biases", limits->biases_max, 0, BIASES_MAX},
        {"pool pages", limits->pool_pages, 1, PAGES_MAX},
        {"vocabulary", limits->vocab_count, 1, MODEL_VOCAB_MAX},
        {"tokens a page", limits->page_tokens, 1, 1 << 10},
        {"ranks", limits->rank_count, 0, RANKS_MAX},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int r = limit_verify(rows[i].name, rows[i].value, rows[i].min, rows[i].max, err);
        if (r < 0) return r;
    }
    if (plan_bytes_max(limits) > UINT32_MAX || done_bytes_max(limits) > UINT32_MAX)
        return ERR(err, ERR_LIMIT, "plan limits: a slot of 4 GiB or more");
    return 0;
}

size_t plan_bytes_max(const struct plan_limits *limits)
{
    struct plan_counts max = {
        .seqs = limits->seqs_max,
        .tokens = limits->tokens_max,
        .pages = limits->pages_max,
        .history = limits->history_max,
        .biases = limits->biases_max,
        .copies = limits->seqs_max,
        .checks = plan_checks_max(limits),
    };
    return plan_shape_of(&max).end;
}

size_t done_bytes_max(const struct plan_limits *limits)
{
    struct done_counts max = done_counts_max(limits);
    return done_shape_of(&max).end;
}

uint32_t plan_seq_filled(const struct plan_seq *seq, uint32_t page_tokens, uint32_t *ret_first)
{
    return plan_filled(seq, page_tokens, ret_first);
}

/* [first, first + count) lies in [0, total). No overflow: the sum is 64-bit. */
static bool range_is_inside(uint32_t first, uint32_t count, uint32_t total)
{
    return (uint64_t)first + count <= total;
}

static bool in_range(float value, float min, float max)
{
    return value >= min && value <= max; // false for NaN
}

/* Bytes between a section's end and the next one's start. */
static bool padding_is_zero(const uint8_t *bytes, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (bytes[i] != 0) return false;
    return true;
}

static int header_verify(const struct plan_header *header, size_t len, const struct plan_limits *limits,
                         struct err *err)
{
    if (header->magic != PLAN_MAGIC) return ERR(err, ERR_PEER, "plan: wrong magic %08x", header->magic);
    if (header->bytes != len)
        return ERR(err, ERR_PEER, "plan: %u bytes in a slot of %zu", header->bytes, len);
    if (header->step == 0) return ERR(err, ERR_PEER, "plan: step 0");
    uint32_t reserved = 0;
    for (size_t i = 0; i < COUNT_OF(header->reserved); i++) reserved |= header->reserved[i];
    if (reserved != 0) return ERR(err, ERR_PEER, "plan: a reserved header field is set");
    if (header->seq_count == 0 || header->seq_count > limits->seqs_max)
        return ERR(err, ERR_PEER, "plan: %u sequences, wanted 1 to %u", header->seq_count, limits->seqs_max);
    const struct {
        const char *name;
        uint32_t value, max;
    } rows[] = {
        {"rows", header->token_count, limits->tokens_max},
        {"page table entries", header->page_count, limits->pages_max},
        {"history tokens", header->history_count, limits->history_max},
        {"biases", header->bias_count, limits->biases_max},
        {"copies", header->copy_count, header->seq_count},
        {"checks", header->check_count, plan_checks_max(limits)},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (rows[i].value > rows[i].max)
            return ERR(err, ERR_PEER, "plan: %u %s, at most %u", rows[i].value, rows[i].name, rows[i].max);
    return 0;
}

static int tokens_verify(const uint32_t *tokens, uint32_t count, uint32_t vocab_count, const char *what,
                         struct err *err)
{
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] >= vocab_count)
            return ERR(err, ERR_PEER, "plan: %s %u is token %u of %u", what, i, tokens[i], vocab_count);
    return 0;
}

static int pages_verify(const struct plan_page *pages, uint32_t count, uint32_t pool_pages, const char *what,
                        struct err *err)
{
    for (uint32_t i = 0; i < count; i++)
        if (pages[i].page_idx >= pool_pages || pages[i].generation == 0)
            return ERR(err, ERR_PEER, "plan: %s %u is page %u of %u, generation %u", what, i,
                       pages[i].page_idx, pool_pages, pages[i].generation);
    return 0;
}

static int sections_verify(const struct plan_view *view, const struct plan_limits *limits, struct err *err)
{
    const struct plan_header *header = view->header;
    int r = tokens_verify(view->tokens, header->token_count, limits->vocab_count, "row", err);
    if (r == 0)
        r = tokens_verify(view->history, header->history_count, limits->vocab_count, "history entry", err);
    if (r < 0) return r;
    r = pages_verify(view->pages, header->page_count, limits->pool_pages, "entry", err);
    if (r == 0) r = pages_verify(view->checks, header->check_count, limits->pool_pages, "check", err);
    if (r < 0) return r;
    for (uint32_t i = 0; i < header->bias_count; i++) {
        const struct plan_bias *bias = &view->biases[i];
        if (bias->token >= limits->vocab_count || !(bias->bias < INFINITY))
            return ERR(err, ERR_PEER, "plan: bias %u is %g on token %u of %u", i, (double)bias->bias,
                       bias->token, limits->vocab_count);
    }
    return 0;
}

/* Sampling parameters. ERR_PEER names the first that is out of range. */
static int sampling_verify(const struct plan_seq *seq, uint32_t seq_idx, const struct plan_limits *limits,
                           struct err *err)
{
    const char *name = NULL;
    if (!isfinite(seq->temperature) || seq->temperature < 0) name = "temperature";
    if (!(seq->top_p > 0 && seq->top_p <= 1)) name = "top_p";
    if (!in_range(seq->min_p, 0, 1)) name = "min_p";
    if (!isfinite(seq->repetition_penalty) || seq->repetition_penalty <= 0) name = "repetition_penalty";
    if (!isfinite(seq->presence_penalty)) name = "presence_penalty";
    if (!isfinite(seq->frequency_penalty)) name = "frequency_penalty";
    if (seq->top_k < 0) name = "top_k";
    if (seq->logprobs > LOGPROBS_MAX) name = "logprobs";
    if (seq->flags & ~(uint32_t)(PLAN_SAMPLE | PLAN_SCORE)) name = "flags";
    if (seq->adapter_id || seq->mask_first || seq->mask_words || seq->draft_count) name = "a reserved field";
    if (seq->score_target != PLAN_TOKEN_NONE && seq->score_target >= limits->vocab_count)
        name = "score_target";
    if (name) return ERR(err, ERR_PEER, "plan: sequence %u: %s is out of range", seq_idx, name);
    return 0;
}

static int seq_verify(const struct plan_view *view, uint32_t seq_idx, uint32_t row_next,
                      const struct plan_limits *limits, struct err *err)
{
    const struct plan_header *header = view->header;
    const struct plan_seq *seq = &view->seqs[seq_idx];
    if (seq->token_first != row_next || seq->token_count == 0 ||
        !range_is_inside(seq->token_first, seq->token_count, header->token_count))
        return ERR(err, ERR_PEER, "plan: sequence %u: rows %u + %u, wanted from %u within %u", seq_idx,
                   seq->token_first, seq->token_count, row_next, header->token_count);
    uint64_t pos_end = (uint64_t)seq->pos_first + seq->token_count;
    if (pos_end > MODEL_CONTEXT_MAX)
        return ERR(err, ERR_PEER, "plan: sequence %u: positions up to %llu", seq_idx,
                   (unsigned long long)pos_end);
    uint64_t pages = (pos_end + limits->page_tokens - 1) / limits->page_tokens;
    if (seq->page_count != pages || !range_is_inside(seq->page_first, seq->page_count, header->page_count))
        return ERR(err, ERR_PEER, "plan: sequence %u: page table %u + %u, wanted %llu entries within %u",
                   seq_idx, seq->page_first, seq->page_count, (unsigned long long)pages, header->page_count);
    if (!range_is_inside(seq->history_first, seq->history_count, header->history_count) ||
        seq->history_prompt > seq->history_count)
        return ERR(err, ERR_PEER, "plan: sequence %u: history %u + %u (%u prompt) within %u", seq_idx,
                   seq->history_first, seq->history_count, seq->history_prompt, header->history_count);
    if (!range_is_inside(seq->bias_first, seq->bias_count, header->bias_count) ||
        seq->bias_count > LOGIT_BIAS_MAX)
        return ERR(err, ERR_PEER, "plan: sequence %u: biases %u + %u within %u", seq_idx, seq->bias_first,
                   seq->bias_count, header->bias_count);
    return sampling_verify(seq, seq_idx, limits, err);
}

static int copies_verify(const struct plan_view *view, const struct plan_limits *limits, struct err *err)
{
    for (uint32_t i = 0; i < view->header->copy_count; i++) {
        const struct plan_copy *copy = &view->copies[i];
        if (copy->seq_idx >= view->header->seq_count || (i > 0 && copy->seq_idx <= copy[-1].seq_idx))
            return ERR(err, ERR_PEER, "plan: copy %u is of sequence %u", i, copy->seq_idx);
        const struct plan_seq *seq = &view->seqs[copy->seq_idx];
        uint32_t wanted = seq->pos_first % limits->page_tokens;
        if (copy->token_count == 0 || copy->token_count != wanted)
            return ERR(err, ERR_PEER, "plan: copy %u: %u tokens, wanted %u", i, copy->token_count, wanted);
        uint32_t to = view->pages[seq->page_first + seq->pos_first / limits->page_tokens].page_idx;
        if (copy->page_idx >= limits->pool_pages || copy->page_idx == to || copy->generation == 0)
            return ERR(err, ERR_PEER, "plan: copy %u is of page %u of %u, generation %u, to page %u", i,
                       copy->page_idx, limits->pool_pages, copy->generation, to);
    }
    return 0;
}

static struct plan_counts counts_of(const struct plan_header *header)
{
    return (struct plan_counts){
        .seqs = header->seq_count,
        .tokens = header->token_count,
        .pages = header->page_count,
        .history = header->history_count,
        .biases = header->bias_count,
        .copies = header->copy_count,
        .checks = header->check_count,
    };
}

static struct plan_view view_of(const uint8_t *base, const struct plan_shape *at)
{
    return (struct plan_view){
        .header = (const struct plan_header *)base,
        .seqs = (const struct plan_seq *)(base + at->seqs),
        .tokens = (const uint32_t *)(base + at->tokens),
        .pages = (const struct plan_page *)(base + at->pages),
        .history = (const uint32_t *)(base + at->history),
        .biases = (const struct plan_bias *)(base + at->biases),
        .copies = (const struct plan_copy *)(base + at->copies),
        .checks = (const struct plan_page *)(base + at->checks),
    };
}

int plan_verify(const void *bytes, size_t len, const struct plan_limits *limits, struct plan_view *ret_view,
                struct err *err)
{
    CHECK((uintptr_t)bytes % 8 == 0); // the caller's own buffer
    const uint8_t *base = bytes;
    const struct plan_header *header = bytes;
    if (len < sizeof *header) return ERR(err, ERR_PEER, "plan: %zu bytes hold no header", len);
    int r = header_verify(header, len, limits, err);
    if (r < 0) return r;
    struct plan_counts counts = counts_of(header);
    struct plan_shape at = plan_shape_of(&counts);
    if (at.end != len) return ERR(err, ERR_PEER, "plan: %zu bytes, its counts need %zu", len, at.end);
    struct plan_view view = view_of(base, &at);
    if (!padding_is_zero(base, at.tokens + counts.tokens * sizeof(uint32_t), at.pages) ||
        !padding_is_zero(base, at.history + counts.history * sizeof(uint32_t), at.biases))
        return ERR(err, ERR_PEER, "plan: padding is not zero");
    r = sections_verify(&view, limits, err);
    if (r < 0) return r;
    uint32_t row_next = 0;
    for (uint32_t i = 0; i < header->seq_count; i++) {
        r = seq_verify(&view, i, row_next, limits, err);
        if (r < 0) return r;
        row_next += view.seqs[i].token_count; // within token_count: seq_verify
    }
    if (row_next != header->token_count)
        return ERR(err, ERR_PEER, "plan: %u rows, sequences have %u", header->token_count, row_next);
    r = copies_verify(&view, limits, err);
    if (r < 0) return r;
    *ret_view = view;
    return 0;
}

/* A log-probability: not above 0, not NaN. */
static bool logprob_is_valid(float logprob)
{
    return logprob <= 0;
}

static int tops_verify(const struct done_view *view, uint32_t first, uint32_t count, uint32_t wanted_max,
                       uint32_t vocab_count, struct err *err)
{
    if (count > wanted_max || !range_is_inside(first, count, view->header->top_count))
        return ERR(err, ERR_PEER, "completion: alternatives %u + %u within %u, at most %u wanted", first,
                   count, view->header->top_count, wanted_max);
    for (uint32_t i = 0; i < count; i++) {
        const struct done_top *top = &view->tops[first + i];
        bool in_order = i == 0 || top->logprob <= top[-1].logprob;
        if (top->token >= vocab_count || !logprob_is_valid(top->logprob) || !in_order)
            return ERR(err, ERR_PEER, "completion: alternative %u is token %u with %g", first + i, top->token,
                       (double)top->logprob);
    }
    return 0;
}

static int scores_verify(const struct done_view *view, const struct plan_view *plan, uint32_t seq_idx,
                         const struct plan_limits *limits, struct err *err)
{
    const struct plan_seq *asked = &plan->seqs[seq_idx];
    const struct done_seq *seq = &view->seqs[seq_idx];
    uint32_t wanted = asked->flags & PLAN_SCORE ? asked->token_count : 0;
    if (seq->score_count != wanted || !range_is_inside(seq->score_first, wanted, view->header->score_count))
        return ERR(err, ERR_PEER, "completion: sequence %u: scores %u + %u, wanted %u within %u", seq_idx,
                   seq->score_first, seq->score_count, wanted, view->header->score_count);
    for (uint32_t i = 0; i < wanted; i++) {
        const struct done_score *score = &view->scores[seq->score_first + i];
        uint32_t target = i + 1 < wanted ? plan->tokens[asked->token_first + i + 1] : asked->score_target;
        bool none = target == PLAN_TOKEN_NONE;
        if (score->token != target || score->reserved != 0 || !logprob_is_valid(score->logprob) ||
            score->rank > limits->vocab_count || (score->rank == 0) != none)
            return ERR(err, ERR_PEER, "completion: sequence %u: score %u is of token %u, wanted %u", seq_idx,
                       i, score->token, target);
        int r = tops_verify(view, score->top_first, score->top_count, none ? 0 : asked->logprobs,
                            limits->vocab_count, err);
        if (r < 0) return r;
    }
    return 0;
}

static int done_seq_verify(const struct done_view *view, const struct plan_view *plan, uint32_t seq_idx,
                           const struct plan_limits *limits, struct err *err)
{
    const struct plan_seq *asked = &plan->seqs[seq_idx];
    const struct done_seq *seq = &view->seqs[seq_idx];
    uint32_t flags = asked->flags & PLAN_SAMPLE ? DONE_SAMPLED : 0;
    if (seq->seq_id != asked->seq_id || seq->flags != flags)
        return ERR(err, ERR_PEER, "completion: sequence %u is not the one that was planned", seq_idx);
    if (flags & DONE_SAMPLED) {
        if (seq->token >= limits->vocab_count || !logprob_is_valid(seq->logprob) || seq->rank == 0 ||
            seq->rank > limits->vocab_count)
            return ERR(err, ERR_PEER, "completion: sequence %u: token %u, logprob %g, rank %u", seq_idx,
                       seq->token, (double)seq->logprob, seq->rank);
    }
    int r = tops_verify(view, seq->top_first, seq->top_count, flags & DONE_SAMPLED ? asked->logprobs : 0,
                        limits->vocab_count, err);
    if (r < 0) return r;
    return scores_verify(view, plan, seq_idx, limits, err);
}

/* The seals are implied by the plan, all of them, in order. */
static int seals_verify(const struct done_view *view, const struct plan_view *plan,
                        const struct plan_limits *limits, struct err *err)
{
    uint32_t next = 0, seal_count = view->header->seal_count;
    for (uint32_t s = 0; s < plan->header->seq_count; s++) {
        const struct plan_seq *asked = &plan->seqs[s];
        uint32_t first, count = plan_filled(asked, limits->page_tokens, &first);
        for (uint32_t i = 0; i < count * plan_rank_count(limits); i++, next++) {
            const struct plan_page *page =
                &plan->pages[asked->page_first + first + i / plan_rank_count(limits)];
            if (next >= seal_count) return ERR(err, ERR_PEER, "completion: %u seals are too few", seal_count);
            const struct done_seal *seal = &view->seals[next];
            if (seal->page_idx != page->page_idx || seal->generation != page->generation ||
                seal->rank != i % plan_rank_count(limits) || seal->reserved != 0)
                return ERR(err, ERR_PEER, "completion: seal %u is of page %u, wanted %u", next,
                           seal->page_idx, page->page_idx);
        }
    }
    if (next != seal_count) return ERR(err, ERR_PEER, "completion: %u seals, wanted %u", seal_count, next);
    return 0;
}

/* Bad pages are some of those that were to be checked, in the same order. */
static int bads_verify(const struct done_view *view, const struct plan_view *plan, struct err *err)
{
    uint32_t check = 0;
    for (uint32_t i = 0; i < view->header->bad_count; i++, check++) {
        const struct plan_page *bad = &view->bads[i];
        while (check < plan->header->check_count && (plan->checks[check].page_idx != bad->page_idx ||
                                                     plan->checks[check].generation != bad->generation))
            check++;
        if (check == plan->header->check_count)
            return ERR(err, ERR_PEER, "completion: bad page %u was not to be checked", bad->page_idx);
    }
    return 0;
}

static int done_header_verify(const struct done_header *header, size_t len, const struct plan_limits *limits,
                              const struct plan_view *plan, struct err *err)
{
    if (header->magic != DONE_MAGIC) return ERR(err, ERR_PEER, "completion: wrong magic %08x", header->magic);
    if (header->bytes != len)
        return ERR(err, ERR_PEER, "completion: %u bytes in a slot of %zu", header->bytes, len);
    if (header->step != plan->header->step || header->epoch != plan->header->epoch)
        return ERR(err, ERR_PEER, "completion: of step %llu, wanted %llu", (unsigned long long)header->step,
                   (unsigned long long)plan->header->step);
    if (header->status > 0 || (header->status == -EBADMSG) != (header->bad_count > 0))
        return ERR(err, ERR_PEER, "completion: status %d with %u bad pages", header->status,
                   header->bad_count);
    struct done_counts max = done_counts_max(limits);
    uint32_t seqs = plan->header->seq_count;
    if (header->status < 0) {
        max = (struct done_counts){.bads = max.bads};
        seqs = 0;
    }
    if (header->seq_count != seqs || header->score_count > max.scores || header->top_count > max.tops ||
        header->seal_count > max.seals || header->bad_count > max.bads)
        return ERR(
            err, ERR_PEER, "completion: %u sequences, %u scores, %u alternatives, %u seals, %u bad pages",
            header->seq_count, header->score_count, header->top_count, header->seal_count, header->bad_count);
    return 0;
}

int done_verify(const void *bytes, size_t len, const struct plan_limits *limits, const struct plan_view *plan,
                struct done_view *ret_view, struct err *err)
{
    CHECK((uintptr_t)bytes % 8 == 0); // the caller's own buffer
    const uint8_t *base = bytes;
    const struct done_header *header = bytes;
    if (len < sizeof *header) return ERR(err, ERR_PEER, "completion: %zu bytes hold no header", len);
    int r = done_header_verify(header, len, limits, plan, err);
    if (r < 0) return r;
    struct done_counts counts = {
        .seqs = header->seq_count,
        .scores = header->score_count,
        .tops = header->top_count,
        .seals = header->seal_count,
        .bads = header->bad_count,
    };
    struct done_shape at = done_shape_of(&counts);
    if (at.end != len) return ERR(err, ERR_PEER, "completion: %zu bytes, its counts need %zu", len, at.end);
    struct done_view view = {
        .header = header,
        .seqs = (const struct done_seq *)(base + at.seqs),
        .scores = (const struct done_score *)(base + at.scores),
        .tops = (const struct done_top *)(base + at.tops),
        .seals = (const struct done_seal *)(base + at.seals),
        .bads = (const struct plan_page *)(base + at.bads),
    };
    for (uint32_t i = 0; i < header->seq_count; i++) {
        r = done_seq_verify(&view, plan, i, limits, err);
        if (r < 0) return r;
    }
    r = header->status == 0 ? seals_verify(&view, plan, limits, err) : bads_verify(&view, plan, err);
    if (r == 0) *ret_view = view;
    return r;
}
