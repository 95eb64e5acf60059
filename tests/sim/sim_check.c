/* SPDX-License-Identifier: Apache-2.0 */
/* sim_check - see sim.h. Looks at plans, pool and payload from outside; the scheduler's own audit of its insides is
 * sched_check. */
#include "tests/sim/sim.h"

#include <string.h>

#include "common/base/hash.h"
#include "daemon/sched_state.h"

static uint64_t payload_at(const struct sim *sim, uint32_t page_idx, uint32_t offset)
{
    return sim->payload[(size_t)page_idx * PAGE_TOKENS + offset];
}

/* Everything that attention will read: the positions before the first row, of which those of whole pages are vouched
 * for by their last and by the seal. copy: the step itself will put the last page's there. NULL: it lies there. */
static void check_past(const struct sim *sim, const struct sim_client *client, const struct plan_view *plan,
                       const struct plan_seq *seq, const struct plan_copy *copy)
{
    uint32_t whole = seq->pos_first / PAGE_TOKENS, first = whole * PAGE_TOKENS;
    for (uint32_t i = 0; i < whole; i++) {
        uint32_t page_idx = plan->pages[seq->page_first + i].page_idx;
        LAW(pool_desc(sim->pool, page_idx)->state == PAGE_SEALED);
        LAW(payload_at(sim, page_idx, PAGE_TOKENS - 1) == client->histories[(i + 1) * PAGE_TOKENS - 1]);
        LAW(sim->salts[page_idx] == client->salt);
    }
    if (first == seq->pos_first) return;
    uint32_t page_idx = copy ? copy->page_idx : plan->pages[seq->page_first + whole].page_idx;
    if (copy) {
        LAW(copy->token_count == seq->pos_first - first);
        LAW(pool_desc(sim->pool, page_idx)->state == PAGE_SEALED);
        LAW(pool_desc(sim->pool, page_idx)->generation == copy->generation);
        LAW(pool_desc(sim->pool, page_idx)->refcount > 0);
    }
    LAW(sim->salts[page_idx] == client->salt);
    for (uint32_t position = first; position < seq->pos_first; position++)
        LAW(payload_at(sim, page_idx, position - first) == client->histories[position]);
}

static void check_seq(struct sim *sim, const struct plan_view *plan, const struct plan_seq *seq,
                      const struct plan_copy *copy, bool refused)
{
    const struct sim_client *client = sim_client_of(sim, seq->seq_id);
    LAW(client != NULL);
    uint32_t known = client->prompt_count + client->output_count, end = seq->pos_first + seq->token_count;
    LAW(!client->paused);
    LAW(end <= known);
    for (uint32_t i = 0; i < seq->page_count; i++) {
        struct plan_page page = plan->pages[seq->page_first + i];
        LAW(page.generation == pool_desc(sim->pool, page.page_idx)->generation);
    }
    LAW(memcmp(plan->tokens + seq->token_first, client->tokens + seq->pos_first,
               seq->token_count * sizeof(uint32_t)) == 0);
    if (!refused) check_past(sim, client, plan, seq, copy);
    for (uint32_t i = seq->pos_first / PAGE_TOKENS; i < seq->page_count; i++)
        sim->salts[plan->pages[seq->page_first + i].page_idx] = client->salt;
    LAW(!!(seq->flags & PLAN_SAMPLE) == (end == known));
    LAW(seq->seed == client->seed);
    LAW(seq->history_count == (client->uses_history ? known : 0));
    if (client->uses_history) {
        LAW(seq->history_prompt == client->prompt_count);
        LAW(memcmp(plan->history + seq->history_first, client->tokens, known * sizeof(uint32_t)) == 0);
    }
    bool is_short = client->output_count < client->min_output;
    LAW(seq->bias_count == client->bias_count - (is_short ? 0 : client->min_bias_count));
    LAW(!!(seq->flags & PLAN_SCORE) ==
        (client->scores && client->scored < client->prompt_count && end > client->scored));
    if (seq->flags & PLAN_SCORE)
        LAW(seq->score_target == (end < client->prompt_count ? client->tokens[end] : PLAN_TOKEN_NONE));
}

/* Whether a comes before b in the scheduler's one order. */
static bool comes_before(const struct sim *sim, const struct sim_client *a, const struct sim_client *b)
{
    int64_t ageing = (int64_t)sim->conf.ageing_ns;
    int64_t due_a = (int64_t)a->arrival_ns + a->priority * ageing;
    int64_t due_b = (int64_t)b->arrival_ns + b->priority * ageing;
    return due_a != due_b ? due_a < due_b : a->order < b->order;
}

static bool has_place(const struct seq *seq)
{
    return seq->page_count * PAGE_TOKENS > seq->computed;
}

/* Where no target bounds a step: whoever of the group has a place for a row gets one, or all rows are given. A
 * suspect is planned alone. */
static void check_rows(const struct sim *sim, uint32_t group, const struct plan_view *plan)
{
    const struct sched *sched = sim->sched;
    if (sim->conf.itl_target_ns != UINT64_MAX) return;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        if (seq->group == group && seq->losses >= SCHED_LOSSES_ALONE && seq->rows_in_flight) return;
    }
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        if (seq->group != group) continue;
        if (seq->rows_in_flight || !has_place(seq) || seq->paused || seq->score_prompt) continue;
        LAW(seq->losses >= SCHED_LOSSES_ALONE || plan->header->token_count == sim->conf.tokens_max);
    }
}

/* The first in the order of those that run, of one group or (GROUPS_MAX) of all. */
static struct sim_client *first_of(struct sim *sim, uint32_t group)
{
    struct sim_client *first = NULL;
    for (int i = 0; i < SIM_CLIENTS; i++) {
        struct sim_client *client = &sim->clients[i];
        if (!client->live || client->paused || (first && comes_before(sim, first, client))) continue;
        const struct seq *seq = sched_seq_find(sim->sched, client->seq_id);
        if (seq->state == SEQ_RUNNING && (group == GROUPS_MAX || seq->group == group)) first = client;
    }
    return first;
}

static bool others_fly(const struct sim *sim, uint32_t group)
{
    bool flies = false;
    for (uint32_t i = 0; i < sim->group_count; i++) flies |= i != group && sim->groups[i].flies;
    return flies;
}

enum { PASSED_MAX = 2 * SIM_GROUPS };

/* Nobody starves: the first in the order of those that run gets on in every step of its group, unless one that may have
 * killed the worker is tried alone, or is what came in first in this very step: the next one is its own. What steps of
 * other groups hold it may have to wait for, the first of all not for long. */
static void check_first(struct sim *sim, uint32_t group, const struct plan_view *plan)
{
    struct sim_client *first = first_of(sim, group), *first_of_all = first_of(sim, GROUPS_MAX);
    LAW(first != NULL);
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        struct sim_client *client = sim_client_of(sim, plan->seqs[i].seq_id);
        client->passed = 0;
        if (client == first) return;
        if (client->losses >= SCHED_LOSSES_ALONE && plan->header->seq_count == 1) return;
    }
    if (others_fly(sim, group) && !has_place(sched_seq_find(sim->sched, first->seq_id))) {
        first->passed += first == first_of_all;
        LAW(first->passed <= PASSED_MAX);
        return;
    }
    LAW(first->losses >= SCHED_LOSSES_ALONE && !sim->was_running[first - sim->clients]);
}

void sim_note_running(struct sim *sim)
{
    for (int i = 0; i < SIM_CLIENTS; i++) {
        const struct seq *seq = sim->clients[i].live ? sched_seq_find(sim->sched, sim->clients[i].seq_id)
                                                     : NULL;
        sim->was_running[i] = seq && seq->state == SEQ_RUNNING;
        sim->preempts[i] = seq ? seq->place_lost_count : 0;
    }
    sim->preempted_before = sim->sched->preemptions;
}

/* Whoever comes in leaves pages enough for all the tokens of those that run, itself among them; and nobody comes in
 * where somebody who was not paused had to go, unless that left nobody to get on in this group's step. */
static void check_admission(const struct sim *sim, uint32_t group)
{
    const struct sched *sched = sim->sched;
    uint64_t need = 0, preempted = sched->preemptions - sim->preempted_before, gave_way = 0;
    bool admitted = false, stayed = false;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        uint32_t pages = sched_pages_for(seq->token_count);
        need += pages > seq->page_count ? pages - seq->page_count : 0;
    }
    for (int i = 0; i < SIM_CLIENTS; i++) {
        const struct seq *seq = sim->clients[i].live ? sched_seq_find(sched, sim->clients[i].seq_id) : NULL;
        if (!seq) continue;
        admitted |= seq->state == SEQ_RUNNING && !sim->was_running[i];
        stayed |= seq->state == SEQ_RUNNING && seq->group == group && sim->was_running[i] &&
                  !sim->clients[i].paused && seq->place_lost_count == sim->preempts[i] &&
                  (sim->group_count == 1 || has_place(seq)); // others' pages may be all there are
        gave_way += seq->state == SEQ_WAITING && sim->was_running[i] && sim->clients[i].paused;
    }
    if (!admitted) return;
    LAW(need <= pool_free_count(sim->pool) + (uint64_t)prefix_idle_count(sim->prefix));
    LAW(preempted <= gave_way || !stayed || others_fly(sim, group));
}

bool sim_suspect_waits(const struct sim *sim)
{
    for (int i = 0; i < SIM_CLIENTS; i++) {
        const struct seq *seq = sim->clients[i].live ? sched_seq_find(sim->sched, sim->clients[i].seq_id)
                                                     : NULL;
        if (seq && seq->state == SEQ_RUNNING && sched_is_suspect(seq) && sim->groups[seq->group].down > 0)
            return true;
    }
    return false;
}

void sim_check_idle(struct sim *sim)
{
    uint32_t waits = 0, runs = 0;
    LAW(!sched_is_barred(sim->sched));
    for (int i = 0; i < SIM_CLIENTS; i++) {
        const struct seq *seq = sim->clients[i].live ? sched_seq_find(sim->sched, sim->clients[i].seq_id)
                                                     : NULL;
        if (!seq || seq->state != SEQ_RUNNING || sim->clients[i].paused) continue;
        runs++;
        waits += sim->groups[seq->group].down > 0 && seq->losses >= SCHED_LOSSES_ALONE;
    }
    /* Nobody who runs could get on, unless all pages are with one that may have killed the worker that it waits for. */
    LAW(runs == 0 || waits > 0);
}

/* The worker will find a damaged page and compute nothing. */
static bool will_be_refused(const struct sim *sim, const struct plan_view *plan)
{
    for (uint32_t i = 0; i < plan->header->check_count; i++) {
        uint32_t page_idx = plan->checks[i].page_idx;
        LAW(pool_desc(sim->pool, page_idx)->state == PAGE_SEALED);
        if (sim->damages[page_idx] == pool_desc(sim->pool, page_idx)->generation) return true;
    }
    return false;
}

void sim_check_plan(struct sim *sim, uint32_t group)
{
    const struct plan_view *plan = &sim->groups[group].plan;
    uint32_t rows = 0, score_rows = 0, copies = 0;
    bool refused = will_be_refused(sim, plan);
    for (uint32_t i = 0; i < plan->header->seq_count; i++) {
        const struct plan_seq *seq = &plan->seqs[i];
        const struct plan_copy *copy = NULL;
        if (copies < plan->header->copy_count && plan->copies[copies].seq_idx == i)
            copy = &plan->copies[copies++];
        check_seq(sim, plan, seq, copy, refused);
        rows += seq->token_count;
        if (seq->flags & PLAN_SCORE) score_rows += seq->token_count;
        for (uint32_t k = 0; k < i; k++) LAW(plan->seqs[k].seq_id != seq->seq_id);
    }
    LAW(copies == plan->header->copy_count);
    LAW(rows == plan->header->token_count);
    LAW(rows <= sim->conf.tokens_max);
    LAW(plan->header->seq_count <= sim->conf.seqs_max);
    LAW(score_rows <= PLAN_SCORE_ROWS_MAX);
    check_first(sim, group, plan);
    check_rows(sim, group, plan);
    check_admission(sim, group);
}

enum { SEEN_PLACES = 512 }; // more than twice the pages of the largest world

/* No two sealed pages hold the same tokens behind the same past: then so do their payloads' last positions. */
static void check_single(const struct sim *sim, uint32_t page_idx, uint32_t *seen)
{
    uint64_t last = payload_at(sim, page_idx, PAGE_TOKENS - 1), salt = sim->salts[page_idx];
    for (uint32_t i = (uint32_t)(last + salt) % SEEN_PLACES;; i = (i + 1) % SEEN_PLACES) {
        if (seen[i] == 0) {
            seen[i] = page_idx + 1;
            return;
        }
        LAW(payload_at(sim, seen[i] - 1, PAGE_TOKENS - 1) != last || sim->salts[seen[i] - 1] != salt);
    }
}

/* A sealed page's payload is what its checksum says, and what it was when it was sealed. */
static void check_seals(struct sim *sim)
{
    uint32_t seen[SEEN_PLACES] = {0};
    LAW(sim->page_count * 2 < SEEN_PLACES);
    for (uint32_t page_idx = 0; page_idx < sim->page_count; page_idx++) {
        const struct page_desc *desc = pool_desc(sim->pool, page_idx);
        if (desc->state != PAGE_SEALED || sim->damages[page_idx] == desc->generation) continue;
        uint64_t sum = hash64(&sim->payload[(size_t)page_idx * PAGE_TOKENS], PAGE_TOKENS * 8);
        for (uint32_t rank = 0; rank < sim->rank_count; rank++)
            LAW(pool_sums(sim->pool, page_idx)[rank] == sum);
        if (sim->seal_generations[page_idx] != desc->generation) {
            sim->seal_generations[page_idx] = desc->generation;
            sim->seals[page_idx] = sum;
        }
        LAW(sim->seals[page_idx] == sum);
        check_single(sim, page_idx, seen);
    }
}

static bool page_is_there(const struct sim *sim, uint32_t page_idx, uint32_t generation)
{
    const struct page_desc *desc = pool_desc(sim->pool, page_idx);
    return desc->state != PAGE_FREE && desc->generation == generation && desc->refcount > 0;
}

/* What a step in flight reads or writes is there, and stays what it was, whatever became of other groups' steps; what
 * it writes is in no other step. */
static void check_flights(const struct sim *sim)
{
    uint32_t writers[SEEN_PLACES] = {0};
    for (uint32_t at = 0; at < sim->group_count; at++) {
        const struct plan_view *plan = &sim->groups[at].plan;
        LAW(sim->groups[at].flies == sched_in_flight(sim->sched, at));
        for (uint32_t i = 0; sim->groups[at].flies && i < plan->header->seq_count; i++) {
            const struct plan_seq *seq = &plan->seqs[i];
            for (uint32_t k = 0; k < seq->page_count; k++) {
                struct plan_page page = plan->pages[seq->page_first + k];
                LAW(page_is_there(sim, page.page_idx, page.generation));
                if (k >= seq->pos_first / PAGE_TOKENS) LAW(writers[page.page_idx]++ == 0);
            }
        }
        for (uint32_t i = 0; sim->groups[at].flies && i < plan->header->copy_count; i++)
            LAW(page_is_there(sim, plan->copies[i].page_idx, plan->copies[i].generation));
    }
}

void sim_check_pool(struct sim *sim)
{
    check_flights(sim);
    struct err err = {0};
    LAW(pool_free_count(sim->pool) + pool_filling_count(sim->pool) + pool_sealed_count(sim->pool) ==
        sim->page_count);
    int r = sched_check(sim->sched, &err);
    if (r < 0) sim_broken(__FILE__, __LINE__, "sched_check", err.text);
    check_seals(sim);
}
