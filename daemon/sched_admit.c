/* SPDX-License-Identifier: Apache-2.0 */
/* sched_admit - who of those that wait comes in, and who has to go for it.
 *
 * Candidates are looked at in the order of sched_state.h. One fits when a place is free and all its tokens fit beside
 * what the running ones are owed. One that does not fit yet is stepped over, so that it does not hold up smaller ones
 * behind it: at most SCHED_OVERTAKES_MAX times and for SCHED_OVERTAKE_NS; after that nobody comes in before it, and the
 * pages that come free are its own.
 *
 * Two things make room. Paused sequences go for anybody, in the same step. Running ones go for the first candidate when
 * its priority is higher and they come after it in the order - the last in the order first, and only if that is enough:
 * it then comes in with the next step. What ageing made as urgent as the candidate stays, and so nobody goes for one
 * that would have to go for it in turn. */
#include "common/base/check.h"
#include "daemon/sched_state.h"

enum { WAY_STEPS = 8 }; // before it is asked again whether others' pages are enough

/* page_marks: how many of those that would go hold the page, and whether the candidate wants it itself. */
#define MARK_HIT (1u << 31)

/* ---- what a candidate finds in the cache ---- */

/* Cached pages at the front of its tokens, into found[]; at least one token is left to compute. *ret_idle: how many of
 * them nobody holds, so that they stop being free for others. */
static uint32_t prefix_match(const struct sched *sched, struct seq *seq, uint32_t *ret_idle)
{
    uint32_t parent = PAGE_NONE, count = 0;
    *ret_idle = 0;
    if (sched_is_scoring(seq)) return 0;
    while ((count + 1) * PAGE_TOKENS < seq->token_count) {
        uint32_t page_idx = prefix_find(sched->prefix, sched_seq_key(seq, count), parent,
                                        seq->tokens + count * PAGE_TOKENS);
        if (page_idx == PAGE_NONE) break;
        const struct page_desc *desc = pool_desc(sched->pool, page_idx);
        *ret_idle += desc->refcount == 0;
        sched->found[count++] = (struct plan_page){page_idx, desc->generation};
        parent = page_idx;
    }
    return count;
}

/* Holds the pages that prefix_match just found. */
static void prefix_take(struct sched *sched, struct seq *seq, uint32_t count, uint64_t now_ns)
{
    memcpy(seq->pages, sched->found, count * sizeof *seq->pages);
    for (uint32_t i = 0; i < count; i++) {
        prefix_hold(sched->prefix, seq->pages[i].page_idx, now_ns);
        prefix_give(sched->prefix, seq->pages[i].page_idx,
                    seq->tenant); // adopted ones are nobody's until now
    }
    seq->page_count = count;
    seq->computed = count * PAGE_TOKENS;
}

/* The front of its next page from another's, whose page may not be needed for something else: spare counts pages that
 * are. The sequence runs and holds what prefix_take took. */
static void tail_take(struct step *step, uint32_t slot, uint64_t spare)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    uint32_t parent = seq->page_count ? seq->pages[seq->page_count - 1].page_idx : PAGE_NONE, count;
    if (sched_is_scoring(seq)) return;
    uint32_t page_idx = prefix_find_tail(sched->prefix, seq->root_key, parent,
                                         sched_seq_tokens(seq) + seq->computed,
                                         seq->token_count - 1 - seq->computed, &count);
    if (page_idx == PAGE_NONE || (spare == 0 && pool_desc(sched->pool, page_idx)->refcount == 0)) return;
    prefix_hold(sched->prefix, page_idx, step->now_ns); // first: a page may be evicted for the copy
    int r = sched_page_add(step, slot);
    CHECK(r == 0); // pages_look counted it
    seq->tail_page = page_idx;
    seq->has_ties = true;
    seq->computed += count;
}

/* Without what others' shares keep from it, unless it is alone: nobody is to wait for ever. */
static uint64_t pages_available(const struct sched *sched, const struct seq *seq)
{
    uint64_t idle = sched->running.count > 0 ? prefix_idle_count_for(sched->prefix, seq->tenant)
                                             : prefix_idle_count(sched->prefix);
    return pool_free_count(sched->pool) + idle;
}

enum look { LOOK_FITS, LOOK_SHORT, LOOK_HELD };

/* Whether pages for all its tokens are there, beside those owed to the running ones; or whether it waits for pages that
 * another computes, and has left the order. As long as hits is not asked for again (look_step) a prompt is not looked
 * up that would not fit with the pages it had in the cache last time. */
static enum look pages_look(struct step *step, uint32_t slot, uint64_t *ret_spare)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    uint64_t pages = sched_pages_for(seq->token_count), have = pages_available(sched, seq);
    if (sched->step < seq->look_step && pages - seq->hits + sched->pages_owed > have) return LOOK_SHORT;
    uint32_t idle_hits;
    seq->hits = prefix_match(sched, seq, &idle_hits);
    seq->look_step = sched->step + SCHED_LOOK_STEPS;
    if (sched_share_hold(step, slot)) return LOOK_HELD;
    uint64_t need = pages - seq->hits + sched->pages_owed + idle_hits;
    if (need > have) return LOOK_SHORT;
    *ret_spare = have - need;
    return LOOK_FITS;
}

/* ---- higher priorities ---- */

static bool outranks(const struct seq *seq, const struct seq *running)
{
    return seq->priority < running->priority && sched_seq_before(seq, running);
}

/* Not in the middle of another group's step. */
static bool may_go_for(const struct seq *seq, const struct seq *victim)
{
    return victim->rows_in_flight == 0 && (victim->paused || outranks(seq, victim));
}

/* Marks one more holder of a page as one that would go. -> whether that makes the page free for the candidate. */
static bool mark(struct sched *sched, uint32_t page_idx)
{
    return ++sched->page_marks[page_idx] == pool_desc(sched->pool, page_idx)->refcount;
}

static uint32_t mark_pages(struct sched *sched, const struct seq *victim)
{
    uint32_t freed = 0;
    for (uint32_t i = 0; i < victim->page_count; i++) freed += mark(sched, victim->pages[i].page_idx);
    if (victim->tail_page != PAGE_NONE) freed += mark(sched, victim->tail_page);
    return freed;
}

static void unmark_pages(struct sched *sched, const struct seq *seq)
{
    for (uint32_t i = 0; i < seq->page_count; i++) sched->page_marks[seq->pages[i].page_idx] = 0;
    if (seq->tail_page != PAGE_NONE) sched->page_marks[seq->tail_page] = 0;
}

/* Counts how many running ones, the last first, have to go so that seq fits; 0: all that may go are not enough. */
static uint32_t way_count(struct sched *sched, const struct seq *seq)
{
    uint64_t have = pages_available(sched, seq);
    uint64_t need = sched_pages_for(seq->token_count) - seq->hits + sched->pages_owed;
    uint32_t count = 0, slot;
    bool enough = false;
    for (uint32_t i = 0; i < seq->hits; i++) {
        sched->page_marks[sched->found[i].page_idx] = MARK_HIT;
        need += pool_desc(sched->pool, sched->found[i].page_idx)->refcount == 0;
    }
    for (slot = sched->running.last; slot != SEQ_NONE && !enough; slot = sched->seqs[slot].previous) {
        const struct seq *victim = &sched->seqs[slot];
        if (!sched_seq_before(seq, victim)) break;
        if (!may_go_for(seq, victim)) continue;
        have += mark_pages(sched, victim);
        need -= victim->owed;
        count++;
        enough = need <= have;
    }
    for (slot = sched->running.last; slot != SEQ_NONE; slot = sched->seqs[slot].previous) {
        const struct seq *victim = &sched->seqs[slot];
        if (!sched_seq_before(seq, victim)) break;
        unmark_pages(sched, victim);
    }
    for (uint32_t i = 0; i < seq->hits; i++) sched->page_marks[sched->found[i].page_idx] = 0;
    return enough ? count : 0;
}

static bool outranks_any(const struct sched *sched, const struct seq *seq)
{
    for (uint32_t slot = sched->running.last; slot != SEQ_NONE; slot = sched->seqs[slot].previous) {
        if (!sched_seq_before(seq, &sched->seqs[slot])) return false;
        if (outranks(seq, &sched->seqs[slot])) return true;
    }
    return false;
}

/* Before anybody is planned, so that those who go have no rows in the plan. */
void sched_make_way(struct step *step)
{
    struct sched *sched = step->sched;
    uint32_t first = slot_heap_first(&sched->ready);
    if (first == SEQ_NONE) return;
    struct seq *seq = &sched->seqs[first];
    if (sched->way_slot == first && sched->step < sched->way_step) return;
    if (!outranks_any(sched, seq)) return;
    seq->look_step = 0;
    uint64_t spare;
    enum look look = pages_look(step, first, &spare);
    if (look == LOOK_HELD || (look == LOOK_FITS && sched->running.count < sched->conf.seqs_max)) return;
    uint32_t count = way_count(sched, seq);
    sched->way_slot = first;
    sched->way_step = sched->step + WAY_STEPS;
    for (uint32_t slot = sched->running.last, previous; count > 0; slot = previous) {
        previous = sched->seqs[slot].previous;
        if (!may_go_for(seq, &sched->seqs[slot])) continue;
        sched_preempt(step, slot);
        sched->way_step = 0;
        step->preempted = true;
        count--;
    }
}

/* ---- coming in ---- */

/* Long prompts come in a few at a time: more at once would only hold pages longer. */
static bool prefill_may_begin(const struct step *step, const struct seq *seq)
{
    const struct sched *sched = step->sched;
    if (step->prefill_count < SCHED_PREFILLS ||
        sched_rows_wanted(seq) - seq->hits * PAGE_TOKENS <= step->rows_left)
        return true;
    return outranks(seq, &sched->seqs[sched->running.last]);
}

/* Admits a waiting sequence if it may and fits, after those that do not read their answers have gone. */
static enum look admit(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    uint64_t spare = 0;
    if (sched_is_scoring(seq) && step->score_rows_left == 0) return LOOK_SHORT;
    for (;;) {
        bool has_place = sched->running.count < sched->conf.seqs_max;
        enum look look = has_place ? pages_look(step, slot, &spare) : LOOK_SHORT;
        if (look == LOOK_HELD) return LOOK_HELD;
        if (look == LOOK_FITS) break;
        uint32_t victim = sched_victim_paused(sched);
        if (victim == SEQ_NONE) return LOOK_SHORT;
        sched_preempt(step, victim);
        seq->look_step = 0;
    }
    if (!prefill_may_begin(step, seq)) return LOOK_SHORT;
    sched_table_take(sched, seq);
    prefix_take(sched, seq, seq->hits, step->now_ns);
    seq->group = (uint8_t)sched_group_pick(sched, step->group_idx);
    sched_seq_move(sched, slot, SEQ_RUNNING);
    sched->prefix_queries += seq->token_count;
    step->admitted_count++; // nobody is to go for its tail's copy: see sched_page_add
    tail_take(step, slot, spare);
    sched->prefix_hits += seq->computed;
    step->prefill_count += sched_rows_wanted(seq) > 1;
    seq->overtaken = 0;
    seq->blocked_ns = 0;
    if (!seq->admitted) {
        seq->cached_count = seq->computed;
        seq->admitted_ns = step->now_ns;
    }
    seq->admitted = true;
    sched_want(step, slot);
    return LOOK_FITS;
}

/* Whether others may come in before it once more. */
static bool step_over(const struct step *step, struct seq *seq)
{
    if (seq->blocked_ns == 0) seq->blocked_ns = step->now_ns;
    return seq->overtaken < SCHED_OVERTAKES_MAX && step->now_ns - seq->blocked_ns < SCHED_OVERTAKE_NS;
}

/* Counts that one came in before those that were stepped over. -> whether another may. */
static bool overtake(struct step *step, const uint32_t *skipped, uint32_t count)
{
    bool may = true;
    for (uint32_t i = 0; i < count; i++) {
        struct seq *seq = &step->sched->seqs[skipped[i]];
        seq->overtaken++;
        may = step_over(step, seq) && may;
    }
    return may;
}

void sched_admit(struct step *step)
{
    struct sched *sched = step->sched;
    uint32_t skipped[SCHED_CANDIDATES], skipped_count = 0;
    while (step->rows_left > 0 && !step->preempted && skipped_count < SCHED_CANDIDATES) {
        uint32_t slot = slot_heap_first(&sched->ready);
        if (slot == SEQ_NONE) break;
        enum look look = admit(step, slot);
        if (look == LOOK_HELD) continue;
        if (look == LOOK_FITS) {
            if (!overtake(step, skipped, skipped_count)) break;
            continue;
        }
        if (sched->running.count == sched->conf.seqs_max) break; // nobody behind it fits either
        if (!step_over(step, &sched->seqs[slot])) break;
        slot_heap_remove(&sched->ready, slot);
        skipped[skipped_count++] = slot;
    }
    for (uint32_t i = 0; i < skipped_count; i++) {
        const struct seq *seq = &sched->seqs[skipped[i]];
        slot_heap_push(&sched->ready, skipped[i], seq->due_ns, seq->order);
    }
}
