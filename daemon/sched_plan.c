/* SPDX-License-Identifier: Apache-2.0 */
/* sched_plan - one step's order: decodes, then prefills, with those that came in. Where there are several groups of
 * workers it is the order of one of them: sequences of others are stepped over, and those that are in a step now are
 * neither planned nor preempted.
 *
 * 0. A sequence that the worker may have died of is planned alone, before any other.
 * 1. If the first of those that wait has a higher priority and does not fit, others make way (sched_admit.c).
 * 2. The most urgent that is neither paused nor in a step gets a place for a row, whoever has to go for it, and then
 * the
 *    most urgent of this group.
 * 3. Each running sequence with one row left gets it (decode), most urgent first.
 * 4. If nobody was preempted, waiting sequences are admitted while they fit (sched_admit.c). Paused ones give way.
 * 5. Prefills, in chunks: how many rows, and who gets them, is for pace.h. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/pace.h"
#include "daemon/sched_state.h"

uint32_t sched_victim_paused(const struct sched *sched)
{
    if (sched->running_paused == 0) return SEQ_NONE;
    uint32_t slot = sched->running.last;
    while (slot != SEQ_NONE && (!sched->seqs[slot].paused || sched->seqs[slot].rows_in_flight > 0))
        slot = sched->seqs[slot].previous;
    return slot;
}

/* Who gives its pages to slot: a paused one, else the last in the order that is not in the plan, nor in another group's
 * step. Those before slot are spared, so that the first always gets on. */
static uint32_t victim_for(const struct step *step, uint32_t slot)
{
    const struct sched *sched = step->sched;
    uint32_t paused = sched_victim_paused(sched);
    if (paused != SEQ_NONE) return paused;
    for (uint32_t i = sched->running.last; i != SEQ_NONE && i != slot; i = sched->seqs[i].previous)
        if (sched->seqs[i].rows_in_flight == 0) return i;
    return SEQ_NONE;
}

void sched_preempt(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    sched_seq_release_pages(sched, seq, step->now_ns);
    sched_seq_move(sched, slot, SEQ_WAITING);
    seq->look_step = 0;
    sched->preemptions++;
}

/* Computes what was to be copied: the page it would come from is needed, and nobody else has one to give. */
static void tail_forget(struct step *step, struct seq *seq)
{
    uint32_t tokens = seq->computed % PAGE_TOKENS;
    if (seq->place_lost_count == 0) seq->cached_count -= tokens; // it counts the first time that it came in
    step->sched->prefix_hits -= tokens;
    seq->computed -= tokens;
    sched_seq_release_tail(step->sched, seq, step->now_ns);
}

/* One more page for a sequence: free, evicted, or taken from a younger one. */
int sched_page_add(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    CHECK(seq->page_count < seq->page_cap);
    for (;;) {
        uint32_t page_idx;
        int r = pool_grant(sched->pool, step->now_ns, &page_idx);
        if (r == 0) {
            seq->pages[seq->page_count++] = (struct plan_page){page_idx,
                                                               pool_desc(sched->pool, page_idx)->generation};
            sched_seq_owe(sched, seq);
            sched->pages_taken++;
            return 0;
        }
        if (prefix_evict_for(sched->prefix, seq->tenant) == 0) continue;
        /* What is left is others' by their shares. Those that came in in this step were counted against all pages. */
        if (step->admitted_count > 0 && prefix_evict(sched->prefix) == 0) continue;
        uint32_t victim = victim_for(step, slot);
        if (victim == SEQ_NONE) {
            if (prefix_evict(sched->prefix) == 0) continue; // somebody has to get on
            if (seq->tail_page == PAGE_NONE) return -ENOSPC;
            tail_forget(step, seq);
            continue;
        }
        sched_preempt(step, victim);
        step->preempted = true;
    }
}

/* Takes pages so that positions [0, computed + rows) have a place; fewer rows when pages run out. */
static uint32_t pages_ensure(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    while (seq->page_count < sched_pages_for(seq->computed + rows)) {
        if (sched_page_add(step, slot) < 0) {
            uint32_t places = seq->page_count * PAGE_TOKENS;
            uint32_t fit = places > seq->computed ? places - seq->computed : 0;
            return fit < rows ? fit : rows; // a tail that was forgotten makes places of what was computed
        }
    }
    return rows;
}

/* Whether the plan has room for what few sequences push; plan_writer_add finds out for what all do. */
static bool plan_has_room(const struct step *step, const struct seq *seq)
{
    struct plan_limits room;
    if (!seq->use_history && seq->bias_count == 0) return true;
    plan_writer_room(step->writer, &room);
    return room.history_max >= (seq->use_history ? seq->token_count : 0) &&
           room.biases_max >= seq->bias_count;
}

/* A page that the step reads and that nobody has looked at since it may have been written to. */
static void plan_push_check(const struct step *step, struct plan_page page)
{
    if (!checks_ask(step->sched->checks, step->group_idx, page.page_idx)) return;
    int pushed = plan_writer_check(step->writer, page);
    CHECK(pushed >= 0); // room for every page once
}

/* The sealed pages of a sequence; most were looked at in an earlier step. */
static void plan_push_checks(const struct step *step, struct seq *seq)
{
    uint32_t sealed_count = seq->computed / PAGE_TOKENS;
    if (!step->checks) return;
    uint64_t era = checks_era(step->sched->checks);
    uint32_t first = seq->checked_era == era ? seq->checked_count : 0;
    for (uint32_t i = first; i < sealed_count; i++) plan_push_check(step, seq->pages[i]);
    seq->checked_era = era;
    seq->checked_count = sealed_count;
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
    plan_push_check(step, (struct plan_page){copy.page_idx, copy.generation});
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
    struct sched_group *group = step->group;
    bool samples = seq->computed + rows == seq->token_count;
    step_load_add(&group->load, rows, seq->computed, scores ? rows : samples);
    *(sched_rows_wanted(seq) == 1 ? &group->last_step.decode_rows : &group->last_step.prefill_rows) += rows;
}

/* What a sequence has from its request; field by field, since clearing the whole first costs as much again. */
static inline void seq_write(struct plan_seq *out, const struct seq *seq, uint64_t seq_id)
{
    const struct seq_params *params = &seq->params;
    out->seq_id = seq_id;
    out->seed = params->seed;
    out->history_first = out->history_count = out->history_prompt = out->bias_first = 0;
    out->logprobs = params->logprobs;
    out->top_k = params->top_k;
    out->temperature = params->temperature;
    out->top_p = params->top_p;
    out->min_p = params->min_p;
    out->repetition_penalty = params->repetition_penalty;
    out->presence_penalty = params->presence_penalty;
    out->frequency_penalty = params->frequency_penalty;
    out->adapter_id = out->mask_first = out->mask_words = out->draft_count = 0;
}

/* Nothing happens where the plan is full. */
static void plan_push(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    uint32_t end = seq->computed + rows;
    bool scores = sched_is_scoring(seq) && end > seq->scored;
    const uint32_t *tokens = sched_rows_wanted(seq) == 1 ? &seq->last_token
                                                         : sched_seq_tokens(seq) + seq->computed;
    struct plan_seq *out = plan_writer_add(step->writer, tokens, rows, seq->pages, sched_pages_for(end));
    if (!out) return;
    uint32_t seq_idx = plan_writer_seq_count(step->writer) - 1;
    seq_write(out, seq, sched_seq_id(step->sched, slot));
    out->flags = (end == seq->token_count ? PLAN_SAMPLE : 0) | (scores ? PLAN_SCORE : 0);
    out->pos_first = seq->computed;
    out->bias_count = biases_held(seq);
    out->score_target = scores && end < seq->prompt_count ? seq->tokens[end] : PLAN_TOKEN_NONE;
    plan_push_checks(step, seq);
    if (seq->use_history) {
        out->history_first = (uint32_t)plan_writer_history(step->writer, sched_seq_tokens(seq),
                                                           seq->token_count);
        out->history_count = seq->token_count;
        out->history_prompt = seq->prompt_count;
    }
    if (out->bias_count)
        out->bias_first = (uint32_t)plan_writer_biases(step->writer, seq->biases, out->bias_count);
    if (seq->has_ties && seq->tail_page != PAGE_NONE) plan_push_tail(step, seq, seq_idx);
    seq->rows_in_flight = (uint16_t)rows;
    seq->served_step = (uint32_t)(step->sched->step + 1);
    load_add(step, seq, rows, scores);
    step->rows_left -= rows;
    if (scores) step->score_rows_left -= rows;
    step->seq_count++;
}

/* Plans up to `rows` rows of a running sequence; nothing when no page or no room is left. */
static void seq_plan(struct step *step, uint32_t slot, uint32_t rows)
{
    struct seq *seq = &step->sched->seqs[slot];
    if (sched_is_scoring(seq) && rows > step->score_rows_left) rows = step->score_rows_left;
    if (rows > step->rows_left) rows = step->rows_left;
    if (rows == 0) return;
    rows = pages_ensure(step, slot, rows);
    if (rows == 0 || !plan_has_room(step, seq)) return;
    plan_push(step, slot, rows);
}

/* Step 2. Later the pages may all be with planned ones, which keep them. The first of all goes before the first of this
 * group: the sequences of this group are in no step now, but may be in one whenever the other is planned. */
static void first_secure(struct step *step)
{
    const struct sched *sched = step->sched;
    bool is_first = true;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        bool is_ours = seq->group == step->group_idx;
        if (seq->paused || seq->rows_in_flight > 0 || (!is_first && !is_ours)) continue;
        is_first = false;
        /* Can always where no other step is in flight. */
        if (sched_rows_wanted(seq) > 0) (void)pages_ensure(step, slot, 1);
        if (is_ours) return;
    }
}

static bool list_has_suspect(const struct sched *sched, const struct seq_list *list)
{
    uint32_t slot = list->first;
    while (slot != SEQ_NONE && !sched_is_suspect(&sched->seqs[slot])) slot = sched->seqs[slot].next;
    return slot != SEQ_NONE;
}

/* Step 0: the most urgent suspect, and nobody beside it. */
static void plan_suspect(struct step *step)
{
    struct sched *sched = step->sched;
    if (!sched->has_suspects) return;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        if (!sched_is_suspect(seq) || seq->paused || seq->group != step->group_idx) continue;
        seq_plan(step, slot, sched_rows_wanted(seq));
        return;
    }
    sched->has_suspects = list_has_suspect(sched, &sched->running) ||
                          list_has_suspect(sched, &sched->waiting);
}

/* See sched_seq_prefetch: one that comes after number `at` of the walk. */
static const struct seq *walk_prefetch(const struct sched *sched, uint32_t at)
{
    enum { AHEAD = 16 };
    if (at + AHEAD >= sched->walk_count) return NULL;
    const struct seq *seq = &sched->seqs[sched->walk[at + AHEAD]];
    sched_seq_prefetch(seq);
    return seq;
}

/* Step 3. A preemption takes others out of the list, never the sequence that asked for it. */
static void plan_decodes(struct step *step)
{
    struct sched *sched = step->sched;
    uint32_t at = 0;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next, at++) {
        const struct seq *seq = &sched->seqs[slot];
        const struct seq *ahead = walk_prefetch(sched, at);
        if (ahead) __builtin_prefetch(&ahead->params);
        sched->walk[at] = slot;
        if (seq->paused || sched_is_suspect(seq)) continue;
        if (seq->has_ties) sched_share_stuck(sched, slot);
        if (seq->group != step->group_idx) continue;
        if (sched_rows_wanted(seq) == 1) seq_plan(step, slot, 1);
        else step->prefill_count++;
        if (!seq->rows_in_flight) sched->wanting[step->wanting_count++] = slot;
    }
    sched->walk_count = at;
}

/* Whether a sequence may get rows of step 5. */
static bool is_prefilling(const struct step *step, const struct seq *seq)
{
    return seq->state == SEQ_RUNNING && !seq->rows_in_flight && !seq->paused &&
           seq->group == step->group_idx && !sched_is_suspect(seq) && sched_rows_wanted(seq) > 0;
}

/* As long as the list, which is of those that run: nobody comes in twice. One that made way and came in again may be
 * there already. */
void sched_want(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    uint32_t *wanting = sched->wanting, at = step->wanting_count;
    while (at > 0 && sched_seq_before(&sched->seqs[slot], &sched->seqs[wanting[at - 1]])) at--;
    if (at > 0 && wanting[at - 1] == slot) return;
    CHECK(step->wanting_count < 2 * sched->conf.seqs_max);
    for (uint32_t i = step->wanting_count++; i > at; i--) wanting[i] = wanting[i - 1];
    wanting[at] = slot;
}

/* Who wants rows, the most urgent first; also those that came in with all but one row cached. -> their number. */
static uint32_t prompts_list(const struct step *step, struct pace_prompt *prompts)
{
    const struct sched *sched = step->sched;
    uint32_t count = 0;
    for (uint32_t i = 0; i < step->wanting_count; i++) {
        uint32_t slot = sched->wanting[i];
        const struct seq *seq = &sched->seqs[slot];
        if (!is_prefilling(step, seq)) continue;
        uint32_t wanted = sched_rows_wanted(seq);
        if (sched_is_scoring(seq) && wanted > step->score_rows_left) wanted = step->score_rows_left;
        if (wanted == 0) continue;
        prompts[count++] = (struct pace_prompt){.slot = slot,
                                                .rows_wanted = wanted,
                                                .pos_first = seq->computed,
                                                .served_step = sched_seq_served(sched, seq)};
    }
    return count;
}

/* Step 5. */
static void plan_prefills(struct step *step)
{
    struct sched *sched = step->sched;
    struct sched_group *group = step->group;
    struct pace_prompt prompts[PLAN_SEQS_MAX];
    if (step->prefill_count + step->admitted_count == 0) return;
    uint32_t places = sched->conf.seqs_max - sched->running.count;
    uint32_t waiting = sched->ready.count < places ? sched->ready.count : places;
    struct pace pace = {
        .cost = &group->cost,
        .decodes = group->load,
        .waiting = waiting / sched_groups_up(sched), // its part of them
        .target_ns = sched->conf.itl_target_ns,
        .rows_max = step->rows_left,
        .may_burst = group->step_count + PACE_BURST_STEPS >= group->burst_step,
    };
    bool burst;
    uint32_t count = prompts_list(step, prompts);
    if (count == 0) return; // the rows are for a suspect that came in alone
    step->rows_left = pace_share(&pace, prompts, count, &burst);
    if (burst)
        group->burst_step = (group->burst_step > group->step_count ? group->burst_step : group->step_count) +
                            PACE_BURST_STEPS;
    for (uint32_t i = 0; i < count; i++)
        if (prompts[i].rows > 0 && is_prefilling(step, &sched->seqs[prompts[i].slot]))
            seq_plan(step, prompts[i].slot, prompts[i].rows);
    /* What some could not take, for want of pages, is for those that got none. */
    for (uint32_t i = 0; i < count && step->rows_left > 0; i++)
        if (is_prefilling(step, &sched->seqs[prompts[i].slot]))
            seq_plan(step, prompts[i].slot, prompts[i].rows_wanted);
}

/* Whom the pages are for is not known yet: nobody's share is touched. */
void sched_reserve(struct sched *sched, uint32_t pages_max)
{
    uint32_t reserve = sched->pages_reserved - sched->pages_reserved / 8; // prompts come in bursts
    if (reserve < sched->pages_taken) reserve = sched->pages_taken;
    sched->pages_taken = 0;
    sched->pages_reserved = reserve;
    if (reserve > pages_max) reserve = pages_max;
    while (pool_free_count(sched->pool) < reserve && prefix_evict_for(sched->prefix, 0) == 0) continue;
}

int sched_plan(struct sched *sched, uint32_t group_idx, uint64_t now_ns, struct plan_writer *writer)
{
    CHECK(group_idx < sched->conf.group_count);
    struct sched_group *group = &sched->groups[group_idx];
    group->is_up = true;
    if (group->in_flight || sched->has_bads) return 0;
    if (sched->running.count == 0 && sched->waiting.count == 0) return 0;
    struct step step = {
        .sched = sched,
        .group = group,
        .group_idx = group_idx,
        .writer = writer,
        .now_ns = now_ns,
        .rows_left = sched->conf.tokens_max,
        .score_rows_left = PLAN_SCORE_ROWS_MAX,
        .checks = checks_unknown_count(sched->checks) > 0,
    };
    prefix_expire(sched->prefix, now_ns);
    group->load = (struct step_load){0};
    group->last_step = (struct sched_step){0};
    sched_groups_balance(sched);
    plan_writer_begin(writer, sched->step + 1, sched->conf.epoch);
    plan_suspect(&step);
    if (step.seq_count == 0) {
        sched_make_way(&step);
        first_secure(&step);
        plan_decodes(&step);
        sched_admit(&step);
        plan_prefills(&step);
    }
    if (step.seq_count == 0) { // whoever made way left nobody; or a suspect came in that nobody runs beside
        step.preempted = false;
        sched_admit(&step);
        plan_suspect(&step);
        if (step.seq_count == 0) plan_prefills(&step);
    }
    if (step.seq_count == 0) return 0;
    group->last_step.predicted_ns = (uint64_t)step_cost_predict(&group->cost, &group->load);
    group->step_count++;
    group->in_flight = true;
    sched->step++;
    return (int)step.seq_count;
}
