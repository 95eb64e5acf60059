/* SPDX-License-Identifier: Apache-2.0 */
/* sched_plan - one step's order: decodes, then prefills, then admissions.
 *
 * 0. A sequence that the worker may have died of is planned alone, before any other.
 * 1. The oldest that is not paused gets a place for a row, whoever has to go for it.
 * 2. Each running sequence with one row left gets it (decode), oldest first.
 * 3. What is left of the token budget goes to prefills, oldest first, in chunks.
 * 4. If nobody was preempted for want of pages, waiting sequences are admitted in order while they fit, and
 *    get their first chunk at once. Paused ones give way to them. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

struct step { // one call of sched_plan
    struct sched *sched;
    struct plan_writer *writer;
    uint64_t now_ns;
    uint32_t rows_left;
    uint32_t score_rows_left;
    uint32_t seq_count;
    bool preempted; // somebody lost its pages to another's rows: nobody is admitted
};

static uint32_t rows_wanted(const struct seq *seq)
{
    return seq->token_count - seq->computed;
}

/* Prompt positions are still to be scored. Until they all were there is no output, so that no row scored is past
 * the prompt. */
static bool is_scoring(const struct seq *seq)
{
    return seq->score_prompt && seq->scored < seq->prompt_count;
}

/* The youngest paused sequence: it computes nothing, and its client may take long. */
static uint32_t victim_paused(const struct sched *sched)
{
    uint32_t slot = sched->running.last;
    while (slot != SEQ_NONE && !sched->seqs[slot].paused) slot = sched->seqs[slot].previous;
    return slot;
}

/* Who gives its pages to slot: a paused one, else the youngest that is not in the plan. Older ones than slot are
 * spared, so that the oldest always gets on. */
static uint32_t victim_for(const struct step *step, uint32_t slot)
{
    const struct sched *sched = step->sched;
    uint32_t paused = victim_paused(sched);
    if (paused != SEQ_NONE) return paused;
    for (uint32_t i = sched->running.last; i != SEQ_NONE && i != slot; i = sched->seqs[i].previous)
        if (sched->seqs[i].rows_in_flight == 0) return i;
    return SEQ_NONE;
}

static void preempt(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    sched_seq_release_pages(sched, &sched->seqs[slot], step->now_ns);
    sched_seq_move(sched, slot, SEQ_WAITING, true);
    sched->preemptions++;
}

/* Computes what was to be copied: the page it would come from is needed, and nobody else has one to give. */
static void tail_forget(struct step *step, struct seq *seq)
{
    uint32_t tokens = seq->computed % PAGE_TOKENS;
    if (seq->cached_count == seq->computed) seq->cached_count -= tokens;
    step->sched->prefix_hits -= tokens;
    seq->computed -= tokens;
    sched_seq_release_tail(step->sched, seq, step->now_ns);
}

/* One more page for a sequence: free, evicted, or taken from a younger one. */
static int page_add(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    CHECK(seq->page_count < seq->page_cap);
    for (;;) {
        int r = pool_grant(sched->pool, step->now_ns, &seq->pages[seq->page_count]);
        if (r == 0) {
            seq->page_count++;
            return 0;
        }
        if (prefix_evict(sched->prefix) == 0) continue;
        uint32_t victim = victim_for(step, slot);
        if (victim == SEQ_NONE) {
            if (seq->tail_page == PAGE_NONE) return -ENOSPC;
            tail_forget(step, seq);
            continue;
        }
        preempt(step, victim);
        step->preempted = true;
    }
}

/* Takes pages so that positions [0, computed + rows) have a place; fewer rows when pages run out. */
static uint32_t pages_ensure(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    while (seq->page_count < sched_pages_for(seq->computed + rows)) {
        if (page_add(step, slot) < 0) {
            uint32_t places = seq->page_count * PAGE_TOKENS;
            return places > seq->computed ? places - seq->computed : 0;
        }
    }
    return rows;
}

/* Whether the plan has room for everything this sequence would push. */
static bool plan_has_room(const struct step *step, const struct seq *seq, uint32_t rows)
{
    struct plan_limits room;
    plan_writer_room(step->writer, &room);
    return room.seqs_max >= 1 && room.tokens_max >= rows &&
           room.pages_max >= sched_pages_for(seq->computed + rows) &&
           room.history_max >= (seq->use_history ? seq->token_count : 0) &&
           room.biases_max >= seq->bias_count;
}

static void plan_push_pages(const struct step *step, const struct seq *seq, struct plan_seq *out)
{
    struct sched *sched = step->sched;
    enum { BATCH = 64 };
    struct plan_page pages[BATCH];
    uint32_t total = sched_pages_for(seq->computed + out->token_count);
    out->page_count = total;
    for (uint32_t done = 0; done < total;) {
        uint32_t n = total - done < BATCH ? total - done : BATCH;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t page_idx = seq->pages[done + i];
            pages[i] = (struct plan_page){page_idx, pool_desc(sched->pool, page_idx)->generation};
        }
        int first = plan_writer_pages(step->writer, pages, n);
        CHECK(first >= 0);
        if (done == 0) out->page_first = (uint32_t)first;
        done += n;
    }
}

static void plan_push_tail(const struct step *step, const struct seq *seq, uint32_t seq_idx)
{
    const struct plan_copy copy = {
        .seq_idx = seq_idx,
        .token_count = seq->computed % PAGE_TOKENS,
        .page_idx = seq->tail_page,
        .generation = pool_desc(step->sched->pool, seq->tail_page)->generation,
    };
    int pushed = plan_writer_copy(step->writer, &copy);
    CHECK(pushed >= 0); // room for one a sequence
}

/* Biases that hold for the token sampled now: the last min_bias_count come off once min_output is reached. */
static uint32_t biases_held(const struct seq *seq)
{
    bool is_short = seq->token_count - seq->prompt_count < seq->min_output;
    return seq->bias_count - (is_short ? 0 : seq->min_bias_count);
}

/* What the rows add to the step, for its cost. Called once they are in flight. */
static void load_add(struct step *step, const struct seq *seq, uint32_t rows, bool scores)
{
    struct sched *sched = step->sched;
    bool samples = seq->computed + rows == seq->token_count;
    step_load_add(&sched->load, rows, seq->computed, scores ? rows : samples);
    *(rows_wanted(seq) == 1 ? &sched->last_step.decode_rows : &sched->last_step.prefill_rows) += rows;
}

static void plan_push(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    struct plan_seq out = seq->params;
    uint32_t end = seq->computed + rows;
    bool scores = is_scoring(seq) && end > seq->scored;
    out.seq_id = sched_seq_id(step->sched, slot);
    out.flags = (end == seq->token_count ? PLAN_SAMPLE : 0) | (scores ? PLAN_SCORE : 0);
    out.token_count = rows;
    out.pos_first = seq->computed;
    out.score_target = scores && end < seq->prompt_count ? seq->tokens[end] : PLAN_TOKEN_NONE;
    out.token_first = (uint32_t)plan_writer_tokens(step->writer, seq->tokens + seq->computed, rows);
    plan_push_pages(step, seq, &out);
    out.history_first = out.history_count = out.history_prompt = 0;
    if (seq->use_history) {
        out.history_first = (uint32_t)plan_writer_history(step->writer, seq->tokens, seq->token_count);
        out.history_count = seq->token_count;
        out.history_prompt = seq->prompt_count;
    }
    out.bias_first = 0;
    out.bias_count = biases_held(seq);
    if (out.bias_count)
        out.bias_first = (uint32_t)plan_writer_biases(step->writer, seq->biases, out.bias_count);
    int pushed = plan_writer_seq(step->writer, &out);
    CHECK(pushed >= 0);
    if (seq->tail_page != PAGE_NONE) plan_push_tail(step, seq, (uint32_t)pushed);
    seq->rows_in_flight = rows;
    load_add(step, seq, rows, scores);
    step->rows_left -= rows;
    if (scores) step->score_rows_left -= rows;
    step->seq_count++;
}

/* Plans up to `rows` rows of a running sequence; nothing when no page or no room is left. */
static void seq_plan(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    if (is_scoring(seq) && rows > step->score_rows_left) rows = step->score_rows_left;
    if (rows > step->rows_left) rows = step->rows_left;
    if (rows == 0) return;
    rows = pages_ensure(step, slot, rows);
    if (rows == 0 || !plan_has_room(step, seq, rows)) return;
    plan_push(step, slot, rows);
}

/* Step 1. Later the pages may all be with planned ones, which keep them. */
static void oldest_secure(struct step *step)
{
    const struct sched *sched = step->sched;
    uint32_t slot = sched->running.first;
    while (slot != SEQ_NONE && sched->seqs[slot].paused) slot = sched->seqs[slot].next;
    if (slot != SEQ_NONE && rows_wanted(&sched->seqs[slot]) > 0)
        (void)pages_ensure(step, slot, 1); // always can
}

/* Its rows may be what kills the worker. */
static bool is_suspect(const struct seq *seq)
{
    return seq->losses >= SCHED_LOSSES_ALONE;
}

/* Step 0: the oldest suspect, and nobody beside it. */
static void plan_suspect(struct step *step)
{
    const struct sched *sched = step->sched;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        if (!is_suspect(seq) || seq->paused) continue;
        seq_plan(step, slot, rows_wanted(seq));
        return;
    }
}

/* Steps 2 and 3: the running sequences with exactly one row left, or with more. */
static void plan_running(struct step *step, bool decodes)
{
    struct sched *sched = step->sched;
    /* A preemption takes others out of the list, never the sequence that asked for it. */
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        uint32_t wanted = rows_wanted(seq);
        if (seq->paused || seq->rows_in_flight || is_suspect(seq) || (wanted == 1) != decodes) continue;
        seq_plan(step, slot, wanted);
    }
}

/* ---- admission ---- */

/* What the cache has of a sequence's tokens. */
struct match {
    uint32_t page_count;  // whole pages at the front
    uint32_t idle_count;  // of them those that nobody holds
    uint32_t tail_page;   // whose first tail_tokens tokens come next, or PAGE_NONE
    uint32_t tail_tokens; // below PAGE_TOKENS
};

/* At least one token is left to compute. */
static struct match prefix_match(const struct sched *sched, const struct seq *seq)
{
    struct match match = {.tail_page = PAGE_NONE};
    uint32_t parent = PAGE_NONE;
    struct hash128 key = seq->root_key;
    if (is_scoring(seq)) return match;
    while ((match.page_count + 1) * PAGE_TOKENS < seq->token_count) {
        const uint32_t *tokens = seq->tokens + match.page_count * PAGE_TOKENS;
        key = prefix_key(key, tokens);
        uint32_t page_idx = prefix_find(sched->prefix, key, parent, tokens);
        if (page_idx == PAGE_NONE) break;
        match.idle_count += pool_desc(sched->pool, page_idx)->refcount == 0;
        parent = page_idx;
        match.page_count++;
    }
    uint32_t first = match.page_count * PAGE_TOKENS;
    match.tail_page = prefix_find_tail(sched->prefix, seq->root_key, parent, seq->tokens + first,
                                       seq->token_count - 1 - first, &match.tail_tokens);
    return match;
}

static void prefix_take(struct step *step, uint32_t slot, const struct match *match)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    uint32_t parent = PAGE_NONE;
    for (uint32_t i = 0; i < match->page_count; i++) {
        const uint32_t *tokens = seq->tokens + i * PAGE_TOKENS;
        seq->key = prefix_key(seq->key, tokens);
        parent = prefix_find(sched->prefix, seq->key, parent, tokens);
        CHECK(parent != PAGE_NONE);
        prefix_hold(sched->prefix, parent, step->now_ns);
        seq->pages[i] = parent;
    }
    seq->page_count = match->page_count;
    seq->computed = match->page_count * PAGE_TOKENS;
    if (match->tail_page == PAGE_NONE) return;
    prefix_hold(sched->prefix, match->tail_page, step->now_ns); // first: page_add may evict
    int r = page_add(step, slot);
    CHECK(r == 0); // admit counted it
    seq->tail_page = match->tail_page;
    seq->computed += match->tail_tokens;
}

/* Whether all tokens of a sequence fit beside one more page for each running one: their prompts come first. A tail
 * that would keep it out, because its page could be evicted otherwise, is taken out of the match. */
static bool fits(const struct sched *sched, const struct seq *seq, struct match *match)
{
    uint64_t need = sched_pages_for(seq->token_count) - match->page_count;
    uint64_t have = pool_free_count(sched->pool) + (uint64_t)prefix_idle_count(sched->prefix) -
                    match->idle_count;
    for (uint32_t i = sched->running.first; i != SEQ_NONE; i = sched->seqs[i].next) {
        const struct seq *other = &sched->seqs[i];
        uint32_t pages = sched_pages_for(other->token_count + 1);
        need += pages > other->page_count ? pages - other->page_count : 0;
    }
    bool is_idle = match->tail_page != PAGE_NONE && pool_desc(sched->pool, match->tail_page)->refcount == 0;
    if (need + is_idle > have) match->tail_page = PAGE_NONE;
    return need <= have;
}

/* Admits the sequence at the front if it fits. */
static bool admit(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    if (sched->running.count == sched->conf.seqs_max) return false;
    struct match match = prefix_match(sched, seq);
    if (!fits(sched, seq, &match)) return false;
    sched_seq_move(sched, slot, SEQ_RUNNING, false);
    prefix_take(step, slot, &match);
    sched->prefix_queries += seq->token_count;
    sched->prefix_hits += seq->computed;
    if (!seq->admitted) {
        seq->cached_count = seq->computed;
        seq->admitted_ns = step->now_ns;
    }
    seq->admitted = true;
    return true;
}

/* Step 4. */
static void plan_waiting(struct step *step)
{
    struct sched *sched = step->sched;
    uint32_t slot = sched->waiting.first;
    while (slot != SEQ_NONE && step->rows_left > 0 && !step->preempted) {
        const struct seq *seq = &sched->seqs[slot];
        uint32_t next = seq->next;
        if (is_scoring(seq) && step->score_rows_left == 0) break;
        if (is_suspect(seq) && step->seq_count > 0) break; // it wants a step of its own
        if (!plan_has_room(step, seq, 1)) break;
        if (!seq->paused) {
            if (!admit(step, slot)) { // in order: nobody overtakes one that does not fit yet
                uint32_t victim = victim_paused(sched);
                if (victim == SEQ_NONE) break;
                preempt(step, victim);
                continue;
            }
            seq_plan(step, slot, rows_wanted(seq));
            if (is_suspect(seq)) break;
        }
        slot = next;
    }
}

int sched_plan(struct sched *sched, uint64_t now_ns, struct plan_writer *writer)
{
    if (sched->in_flight) return 0;
    if (sched->running.count == 0 && sched->waiting.count == 0) return 0;
    struct step step = {
        .sched = sched,
        .writer = writer,
        .now_ns = now_ns,
        .rows_left = sched->conf.tokens_max,
        .score_rows_left = PLAN_SCORE_ROWS_MAX,
    };
    sched->load = (struct step_load){0};
    sched->last_step = (struct sched_step){0};
    plan_writer_begin(writer, sched->step + 1, sched->conf.epoch);
    plan_suspect(&step);
    if (step.seq_count == 0) {
        oldest_secure(&step);
        plan_running(&step, true);
        plan_running(&step, false);
        plan_waiting(&step);
    }
    if (step.seq_count == 0) return 0;
    sched->last_step.predicted_ns = (uint64_t)step_cost_predict(&sched->cost, &sched->load);
    sched->step++;
    sched->in_flight = true;
    return (int)step.seq_count;
}
