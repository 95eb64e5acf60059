/* SPDX-License-Identifier: Apache-2.0 */
/* sched_done - one step's answer: tokens into sequences, full pages into the cache, events out. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

/* The checksums of one page, (rank_count), or NULL when a rank's is missing. */
static bool seal_find(const struct done_view *done, uint32_t page_idx, uint32_t rank_count, uint64_t *sums)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < done->header->seal_count && found < rank_count; i++) {
        const struct done_seal *seal = &done->seals[i];
        if (seal->page_idx != page_idx || seal->rank >= rank_count) continue;
        sums[seal->rank] = seal->checksum;
        found++;
    }
    return found == rank_count;
}

/* Nothing is changed before the whole answer is known to hold what was asked for. */
static int answer_verify(const struct sched *sched, const struct done_view *done)
{
    uint64_t sums[RANKS_MAX];
    uint32_t rank_count = pool_geometry(sched->pool)->rank_count;
    for (uint32_t i = 0; i < done->header->seq_count; i++) {
        const struct seq *seq = sched_seq_find(sched, done->seqs[i].seq_id);
        if (!seq || seq->rows_in_flight == 0) return ERR_PEER;
        uint32_t end = seq->computed + seq->rows_in_flight;
        for (uint32_t page = seq->computed / PAGE_TOKENS; page < end / PAGE_TOKENS; page++)
            if (!seal_find(done, seq->pages[page], rank_count, sums)) return ERR_PEER;
    }
    return 0;
}

/* Seals page number `page` of a sequence, or takes the equal one that another sequence sealed first. */
static void page_seal(struct sched *sched, struct seq *seq, uint32_t page, const struct done_view *done,
                      uint64_t now_ns)
{
    uint64_t sums[RANKS_MAX];
    uint32_t page_idx = seq->pages[page], parent = page ? seq->pages[page - 1] : PAGE_NONE;
    const uint32_t *tokens = seq->tokens + page * PAGE_TOKENS;
    struct hash128 key = prefix_key(seq->key, tokens);
    seq->key = key;
    uint32_t twin = prefix_find(sched->prefix, key, parent, tokens);
    if (twin != PAGE_NONE) { // same tokens, same bits: one copy is enough
        prefix_hold(sched->prefix, twin, now_ns);
        pool_drop(sched->pool, page_idx);
        seq->pages[page] = twin;
        return;
    }
    bool found = seal_find(done, page_idx, pool_geometry(sched->pool)->rank_count, sums);
    CHECK(found); // answer_verify
    prefix_seal(sched->prefix, page_idx, key, parent, sums);
}

/* The copied tokens of the page that a cached prefix ended in. */
static void tail_book(struct sched *sched, struct seq *seq, uint64_t now_ns)
{
    if (seq->tail_page == PAGE_NONE) return;
    uint32_t page = seq->computed / PAGE_TOKENS;
    pool_fill(sched->pool, seq->pages[page], seq->tokens + page * PAGE_TOKENS, seq->computed % PAGE_TOKENS);
    sched_seq_release_tail(sched, seq, now_ns);
}

/* Books the rows of the step in flight: fills pages, seals the full ones. */
static void rows_book(struct sched *sched, struct seq *seq, const struct done_view *done, uint64_t now_ns)
{
    uint32_t end = seq->computed + seq->rows_in_flight;
    if (seq->computed < seq->prompt_count)
        sched->prompt_tokens_computed += (end < seq->prompt_count ? end : seq->prompt_count) - seq->computed;
    tail_book(sched, seq, now_ns);
    while (seq->computed < end) {
        uint32_t page = seq->computed / PAGE_TOKENS, page_end = (page + 1) * PAGE_TOKENS;
        uint32_t stop = page_end < end ? page_end : end;
        pool_fill(sched->pool, seq->pages[page], seq->tokens + seq->computed, stop - seq->computed);
        seq->computed = stop;
        if (stop == page_end) page_seal(sched, seq, page, done, now_ns);
    }
    seq->rows_in_flight = 0;
    seq->losses = 0;
}

/* Scores that were not given out before (a preempted sequence scores its prompt again). */
static bool scores_event(struct seq *seq, const struct done_seq *answer, const struct done_view *done,
                         uint32_t row_first, struct sched_event *event)
{
    if (answer->score_count == 0) return false;
    uint32_t end = row_first + answer->score_count;
    uint32_t first = row_first > seq->scored ? row_first : seq->scored;
    if (first >= end) return false;
    event->kind = SCHED_SCORES;
    event->scores = done->scores + answer->score_first + (first - row_first);
    event->score_position = first;
    event->score_count = end - first;
    seq->scored = end;
    return true;
}

static uint32_t seq_answer(struct sched *sched, uint32_t slot, const struct done_seq *answer,
                           const struct done_view *done, uint64_t now_ns, struct sched_event *events)
{
    struct seq *seq = &sched->seqs[slot];
    uint32_t row_first = seq->computed, count = 0;
    bool sampled = seq->computed + seq->rows_in_flight == seq->token_count;
    rows_book(sched, seq, done, now_ns);
    if (seq->removed) {
        sched_seq_end(sched, slot, now_ns);
        return 0;
    }
    struct sched_event event = {.seq_id = answer->seq_id, .owner = seq->owner, .seq = answer};
    if (scores_event(seq, answer, done, row_first, &event)) events[count++] = event;
    if (!sampled) return count;
    event.kind = answer->flags & DONE_SAMPLED ? SCHED_TOKEN : SCHED_FAILED;
    event.score_count = 0;
    events[count++] = event;
    if (event.kind == SCHED_TOKEN && seq->token_count < seq->token_cap)
        seq->tokens[seq->token_count++] = answer->token;
    else seq->paused = true; // failed or full: its owner removes it; nothing is left to compute
    return count;
}

int sched_complete(struct sched *sched, uint64_t now_ns, const struct done_view *done,
                   struct sched_event *events)
{
    CHECK(sched->in_flight);
    int r = answer_verify(sched, done);
    if (r < 0) return r;
    sched->in_flight = false;
    step_cost_learn(&sched->cost, &sched->load, done->header->step_ns);
    uint32_t event_count = 0;
    for (uint32_t i = 0; i < done->header->seq_count; i++) {
        const struct done_seq *answer = &done->seqs[i];
        event_count += seq_answer(sched, (uint32_t)answer->seq_id, answer, done, now_ns,
                                  events + event_count);
    }
    return (int)event_count;
}

/* Rows below `computed` were finished by earlier steps and the lost step wrote only rows past them, so
 * the pages stay and the same rows are planned again, and so is the copy they may begin with. */
int sched_lost(struct sched *sched, uint64_t now_ns, struct sched_event *events)
{
    int event_count = 0;
    sched->in_flight = false;
    for (uint32_t slot = sched->running.first, next; slot != SEQ_NONE; slot = next) {
        struct seq *seq = &sched->seqs[slot];
        next = seq->next;
        seq->losses += seq->rows_in_flight > 0;
        seq->rows_in_flight = 0;
        if (seq->removed) {
            sched_seq_end(sched, slot, now_ns);
        } else if (seq->losses >= SCHED_LOSSES_MAX) {
            seq->paused = true; // until its owner removes it
            events[event_count++] = (struct sched_event){
                .kind = SCHED_FAILED, .seq_id = sched_seq_id(sched, slot), .owner = seq->owner};
        }
    }
    return event_count;
}
