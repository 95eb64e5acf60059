/* SPDX-License-Identifier: Apache-2.0 */
/* sched_done - one step's answer: tokens into sequences, full pages into the cache, events out. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

/* The checksums of the page at *at, rank by rank: a completion carries them in the order of its sequences and their
 * pages (plan.h). NULL when the next ones are another page's. */
static const struct done_seal *seals_next(const struct done_view *done, uint32_t page_idx,
                                          uint32_t rank_count, uint32_t *at)
{
    const struct done_seal *seals = &done->seals[*at];
    if (done->header->seal_count - *at < rank_count) return NULL;
    for (uint32_t rank = 0; rank < rank_count; rank++)
        if (seals[rank].page_idx != page_idx || seals[rank].rank != rank) return NULL;
    *at += rank_count;
    return seals;
}

/* Whether the step in flight fills a page of it. */
static bool fills(const struct seq *seq)
{
    return (seq->computed + seq->rows_in_flight) / PAGE_TOKENS > seq->computed / PAGE_TOKENS;
}

/* Key of its page number `page`, whose parent is sealed. The parent's descriptor is looked at anyway, and a
 * sequence's own keys are memory that nothing else of a page of output leads to. */
static struct hash128 page_key(const struct sched *sched, const struct seq *seq, uint32_t page)
{
    if (page < seq->key_count) return seq->keys[page];
    struct hash128 parent = page ? pool_desc(sched->pool, seq->pages[page - 1].page_idx)->key : seq->root_key;
    return prefix_key(parent, sched_seq_page(seq, page));
}

/* See sched_seq_prefetch: one that comes after number i of the answer. */
static struct seq *verify_prefetch(const struct sched *sched, const struct done_view *done, uint32_t i)
{
    enum { AHEAD = 24 };
    if (i + AHEAD >= done->header->seq_count) return NULL;
    uint32_t slot = (uint32_t)done->seqs[i + AHEAD].seq_id; // not looked at: that would be the miss
    if (slot >= sched->slot_count) return NULL;
    sched_seq_prefetch(&sched->seqs[slot]);
    return &sched->seqs[slot];
}

/* What sealing a page of a sequence will touch, in four turns: the line and then the arrays that lead to it, the
 * page, and what is found by its key. */
enum seal_turn { SEAL_LINE, SEAL_ARRAYS, SEAL_PAGE, SEAL_KEY };

static void seal_prefetch(const struct sched *sched, struct seq *seq, uint32_t page, enum seal_turn turn)
{
    if (turn == SEAL_LINE) {
        __builtin_prefetch(&seq->tokens);
        return;
    }
    bool is_last = (page + 1) * PAGE_TOKENS == seq->token_count; // its tokens are in the tail: sched_seq_page
    if (turn == SEAL_ARRAYS) {
        __builtin_prefetch(seq->pages + page, 1);
        if (is_last) {
            __builtin_prefetch(sched_seq_page(seq, page));
            return;
        }
        __builtin_prefetch(seq->tokens + page * PAGE_TOKENS);
        __builtin_prefetch(seq->tokens + page * PAGE_TOKENS + PAGE_TOKENS - 1);
        return;
    }
    uint32_t page_idx = seq->pages[page].page_idx;
    if (turn == SEAL_PAGE) {
        __builtin_prefetch(pool_desc(sched->pool, page_idx), 1);
        __builtin_prefetch(pool_tokens(sched->pool, page_idx), 1);
        if (page < seq->key_count) __builtin_prefetch(seq->keys + page);
        if (page > 0) __builtin_prefetch(pool_desc(sched->pool, seq->pages[page - 1].page_idx), 1);
    } else {
        bool is_next = page == seq->computed / PAGE_TOKENS;
        prefix_seal_prefetch(
            sched->prefix, page_idx, is_next ? page_key(sched, seq, page) : sched_seq_key(seq, page),
            page > 0 ? seq->pages[page - 1].page_idx : PAGE_NONE, sched_seq_page(seq, page)[0]);
    }
}

/* Of the first page that the step fills of a sequence. */
static void first_prefetch(const struct sched *sched, const struct done_view *done, uint32_t i,
                           enum seal_turn turn)
{
    struct seq *seq = &sched->seqs[(uint32_t)done->seqs[i].seq_id];
    seal_prefetch(sched, seq, seq->computed / PAGE_TOKENS, turn);
}

/* The same, once the whole answer is known to be of sequences that are there; for each turn another of those that stir
 * more than their own lines. */
static void stirs_prefetch(const struct sched *sched, const struct done_view *done, uint32_t at,
                           uint32_t count)
{
    static const uint8_t ahead[] = {[SEAL_LINE] = 5, [SEAL_ARRAYS] = 4, [SEAL_PAGE] = 2, [SEAL_KEY] = 1};
    for (enum seal_turn turn = SEAL_LINE; turn <= SEAL_KEY; turn++)
        if (at + ahead[turn] < count) first_prefetch(sched, done, sched->stirs[at + ahead[turn]], turn);
}

/* Nothing is changed before the whole answer is known to hold what was asked for. *ret_stir_count: of sched.stirs, the
 * numbers of those in the answer that fill a page. */
static int answer_verify(const struct sched *sched, uint32_t group, const struct done_view *done,
                         uint32_t *ret_stir_count)
{
    uint32_t rank_count = pool_geometry(sched->pool)->rank_count, at = 0, stirs = 0;
    for (uint32_t i = 0; i < done->header->seq_count; i++) {
        (void)verify_prefetch(sched, done, i);
        const struct seq *seq = sched_seq_find(sched, done->seqs[i].seq_id);
        if (!seq || seq->rows_in_flight == 0 || seq->group != group) return ERR_PEER;
        uint32_t rows_end = seq->computed + seq->rows_in_flight;
        sched->stirs[stirs] = i;
        stirs += fills(seq);
        for (uint32_t page = seq->computed / PAGE_TOKENS; page < rows_end / PAGE_TOKENS; page++)
            if (!seals_next(done, seq->pages[page].page_idx, rank_count, &at)) return ERR_PEER;
    }
    *ret_stir_count = stirs;
    return 0;
}

struct answer { // one call of sched_complete
    struct sched *sched;
    const struct done_view *done;
    uint64_t now_ns;
    uint32_t seal_at; // seals before it are taken
};

/* Seals page number `page` of a sequence, or takes the equal one that another sequence sealed first. */
static void page_seal(struct answer *answer, struct seq *seq, uint32_t page)
{
    struct sched *sched = answer->sched;
    uint64_t sums[RANKS_MAX];
    uint32_t rank_count = pool_geometry(sched->pool)->rank_count;
    uint32_t page_idx = seq->pages[page].page_idx;
    uint32_t parent = page ? seq->pages[page - 1].page_idx : PAGE_NONE;
    const uint32_t *tokens = sched_seq_page(seq, page);
    struct hash128 key = page_key(sched, seq, page);
    const struct done_seal *seals = seals_next(answer->done, page_idx, rank_count, &answer->seal_at);
    CHECK(seals); // answer_verify
    uint32_t twin = prefix_find(sched->prefix, key, parent, tokens);
    if (twin != PAGE_NONE) { // same tokens, same bits: one copy is enough
        prefix_hold(sched->prefix, twin, answer->now_ns);
        pool_drop(sched->pool, page_idx);
        seq->pages[page] = (struct plan_page){twin, pool_desc(sched->pool, twin)->generation};
        return;
    }
    for (uint32_t rank = 0; rank < rank_count; rank++) sums[rank] = seals[rank].checksum;
    pool_fill(sched->pool, page_idx, tokens, PAGE_TOKENS);
    prefix_seal(sched->prefix, page_idx, key, parent, sums);
    prefix_give(sched->prefix, page_idx, seq->tenant);
}

/* Books the rows of the step in flight and seals the pages that they filled. A page learns its tokens when it is full:
 * nobody asks before, and a row then touches neither the page nor its descriptor. */
static void rows_book(struct answer *answer, struct seq *seq)
{
    enum { AHEAD_KEY = 2, AHEAD_PAGE = 5 }; // pages of a prompt
    struct sched *sched = answer->sched;
    uint32_t end = seq->computed + seq->rows_in_flight;
    if (seq->computed < seq->prompt_count)
        sched->prompt_tokens_computed += (end < seq->prompt_count ? end : seq->prompt_count) - seq->computed;
    if (seq->has_ties) sched_seq_release_tail(sched, seq, answer->now_ns);
    while (end / PAGE_TOKENS > seq->computed / PAGE_TOKENS) {
        uint32_t page = seq->computed / PAGE_TOKENS, last = end / PAGE_TOKENS - 1;
        if (page + AHEAD_PAGE <= last) seal_prefetch(sched, seq, page + AHEAD_PAGE, SEAL_PAGE);
        if (page + AHEAD_KEY <= last) seal_prefetch(sched, seq, page + AHEAD_KEY, SEAL_KEY);
        seq->computed = (page + 1) * PAGE_TOKENS;
        page_seal(answer, seq, page);
    }
    seq->computed = end;
    seq->rows_in_flight = 0;
    seq->losses = 0;
    if (seq->has_ties) sched_share_sealed(sched, (uint32_t)(seq - sched->seqs));
}

/* Scores that were not given out before (a preempted sequence scores its prompt again). */
static bool scores_event(struct seq *seq, const struct done_seq *answer, const struct done_view *done,
                         uint32_t row_first, struct sched_event *event)
{
    if (answer->score_count == 0) return false;
    uint32_t end = row_first + answer->score_count;
    uint32_t first = row_first > seq->scored ? row_first : seq->scored;
    if (first >= end) return false;
    *event = (struct sched_event){.kind = SCHED_SCORES,
                                  .seq_id = answer->seq_id,
                                  .owner = seq->owner,
                                  .seq = answer,
                                  .scores = done->scores + answer->score_first + (first - row_first),
                                  .score_position = first,
                                  .score_count = end - first};
    seq->scored = end;
    return true;
}

static uint32_t seq_answer(struct answer *answer, const struct done_seq *done_seq, struct sched_event *events)
{
    struct sched *sched = answer->sched;
    uint32_t slot = (uint32_t)done_seq->seq_id;
    struct seq *seq = &sched->seqs[slot];
    uint32_t row_first = seq->computed, count = 0;
    bool sampled = seq->computed + seq->rows_in_flight == seq->token_count;
    rows_book(answer, seq);
    if (seq->removed) {
        sched_seq_end(sched, slot, answer->now_ns);
        return 0;
    }
    count += scores_event(seq, done_seq, answer->done, row_first, events);
    if (!sampled) return count;
    bool has_token = done_seq->flags & DONE_SAMPLED;
    events[count++] = (struct sched_event){.kind = has_token ? SCHED_TOKEN : SCHED_FAILED,
                                           .seq_id = done_seq->seq_id,
                                           .owner = seq->owner,
                                           .seq = done_seq};
    if (has_token && seq->token_count < seq->token_cap) {
        sched_seq_append(seq, done_seq->token);
        sched_seq_owe(sched, seq);
    } else {
        sched_seq_pause(sched, slot,
                        true); // failed or full: its owner removes it; nothing is left to compute
    }
    return count;
}

int sched_complete(struct sched *sched, uint32_t group_idx, uint64_t now_ns, const struct done_view *done,
                   struct sched_event *events)
{
    enum { AHEAD_TAIL = 12 };
    struct sched_group *group = &sched->groups[group_idx];
    CHECK(group->in_flight);
    if (group->is_void) { // it may begin at rows that are to be computed again by now (sched_refill)
        (void)sched_step_drop(sched, group_idx, now_ns); // of the pages somebody else has told
        return 0;
    }
    uint32_t stir_count, stir = 0;
    int r = answer_verify(sched, group_idx, done, &stir_count);
    if (r < 0) return r;
    group->in_flight = false;
    if (checks_passed(sched->checks, group_idx) == 0) // else hashing is in its time
        step_cost_learn(&group->cost, &group->load, done->header->step_ns);
    struct answer answer = {.sched = sched, .done = done, .now_ns = now_ns};
    uint32_t event_count = 0;
    for (uint32_t i = 0; i < done->header->seq_count; i++) {
        (void)verify_prefetch(sched, done, i);
        if (i + AHEAD_TAIL < done->header->seq_count) {
            struct seq *ahead = &sched->seqs[(uint32_t)done->seqs[i + AHEAD_TAIL].seq_id];
            __builtin_prefetch(&ahead->tail[ahead->token_count % TAIL_TOKENS], 1);
        }
        if (stir < stir_count && sched->stirs[stir] == i) stirs_prefetch(sched, done, stir++, stir_count);
        event_count += seq_answer(&answer, &done->seqs[i], events + event_count);
    }
    return (int)event_count;
}

/* Rows below `computed` were finished by earlier steps and the lost step wrote only rows past them, so
 * the pages stay and the same rows are planned again, and so is the copy they may begin with. */
int sched_lost(struct sched *sched, uint32_t group, uint64_t now_ns, struct sched_event *events)
{
    int event_count = 0;
    CHECK(sched->groups[group].in_flight);
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        struct seq *seq = &sched->seqs[slot];
        if (seq->group != group || seq->rows_in_flight == 0) continue;
        if (seq->losses < SCHED_LOSSES_MAX) seq->losses++;
        sched->has_suspects |= sched_is_suspect(seq);
        if (seq->removed || seq->losses < SCHED_LOSSES_MAX) continue;
        sched_seq_pause(sched, slot, true); // until its owner removes it
        events[event_count++] = (struct sched_event){
            .kind = SCHED_FAILED, .seq_id = sched_seq_id(sched, slot), .owner = seq->owner};
    }
    (void)sched_step_drop(sched, group, now_ns); // as in sched_complete
    return event_count;
}
