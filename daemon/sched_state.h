/* SPDX-License-Identifier: Apache-2.0 */
/* sched_state - the insides that sched.c (life of a sequence), sched_plan.c (a step's order), sched_admit.c (who
 * comes in and who has to go for it), sched_group.c (whose steps a sequence is in), sched_share.c (who waits for
 * another's pages), sched_expire.c (deadlines),
 * sched_done.c (a step's answer) and sched_check.c (audit) share. Nobody else but the simulation includes this.
 *
 * Cost: a step looks at every running sequence, and at no waiting one but those that come in and at most
 * SCHED_CANDIDATES that do not fit. */
#ifndef KVASIR_DAEMON_SCHED_STATE_H
#define KVASIR_DAEMON_SCHED_STATE_H

#include <stddef.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/checks.h"
#include "daemon/sched.h"
#include "daemon/slot_heap.h"
#include "daemon/step_cost.h"

/* States of a sequence; sched_seq_move is the one function that changes it. */
#define SEQ_EDGES(X) \
    X(UNUSED, WAITING, "submitted") \
    X(WAITING, RUNNING, "admitted: its prompt fits") \
    X(RUNNING, WAITING, "preempted; keeps its place in the order") \
    X(WAITING, UNUSED, "removed") \
    X(RUNNING, UNUSED, "removed")

enum seq_state { SEQ_UNUSED, SEQ_WAITING, SEQ_RUNNING };

#define SEQ_NONE SLOT_NONE

enum {
    SCHED_CANDIDATES = 16,         // waiting ones looked at in a step that do not fit
    SCHED_LOOK_STEPS = 16,         // a prompt that does not fit is looked up again after so many steps
    SCHED_PREFILLS = 8,            // so many at once; only short prompts and higher priorities come on top
    TAIL_TOKENS = 4 * PAGE_TOKENS, // of a sequence
};

/* Of plan_seq what a request says. */
struct seq_params {
    uint64_t seed;
    uint32_t logprobs;
    int32_t top_k;
    float temperature, top_p, min_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
};

/* Initializers of either from the other. */
#define SEQ_PARAMS_FROM(from) \
    .seed = (from)->seed, .logprobs = (from)->logprobs, .top_k = (from)->top_k, \
    .temperature = (from)->temperature, .top_p = (from)->top_p, .min_p = (from)->min_p, \
    .repetition_penalty = (from)->repetition_penalty, .presence_penalty = (from)->presence_penalty, \
    .frequency_penalty = (from)->frequency_penalty

/* A step's time is that of cache misses, so what it looks at of a sequence that goes on by a row within a page is three
 * lines: the first, when it is planned the parameters, when it is answered the tail. See sched_seq_prefetch. */
struct seq {
    _Alignas(CACHELINE_BYTES) uint32_t generation; // high half of the id; grows when the slot is used again
    uint32_t next;                                 // in the waiting, running or free list
    uint32_t token_count, prompt_count, token_cap;
    uint32_t computed;       // positions whose keys and values are in pages; < token_count
    uint32_t page_count;     // of pages, in use
    uint32_t owed;           // when running: pages that its tokens and one more want beyond those that it has
    uint32_t last_token;     // the one at token_count - 1
    uint32_t served_step;    // low half of the last one planned with rows of it: sched_seq_served
    struct plan_page *pages; // running: its table, of which page_count are in use
    void *owner;
    uint16_t rows_in_flight; // 0: not in the step in flight of its group
    uint8_t state;           // enum seq_state
    uint8_t group;           // running: in whose steps it is
    uint8_t losses;    // steps with it that were lost, since one was answered; SCHED_LOSSES_MAX: or more
    bool paused : 1;   // by sched_seq_pause only
    bool removed : 1;  // by its owner while in flight; released when the step ends
    bool admitted : 1; // has been RUNNING once
    bool expired : 1;  // its deadline has come: paused for good
    bool use_history : 1, score_prompt : 1;
    bool
        has_ties : 1; // there may be a tail_page, promises or others that it holds; never false where there are

    /* Owned, (token_cap): prompt, then output. Of the output only whole tails: see there. */
    _Alignas(CACHELINE_BYTES) uint32_t *tokens;
    struct hash128 *keys; // owned, (page_cap): of its first key_count pages, or fewer: see sched_seq_key
    uint32_t key_count;
    uint32_t tenant;
    uint32_t previous;   // in the waiting or running list
    uint32_t scored;     // prompt positions whose scores were given out
    uint64_t moved_step; // sched_share.c: running, while it holds others: the last step that brought it on
    uint32_t held_first; // sched_share.c: running: those that it holds, or SEQ_NONE
    uint32_t promised_first, promised_end; // sched_share.c: running: pages that it will seal
    /* Held: the next step with rows of this sequence copies its first computed % PAGE_TOKENS tokens to the page of
     * `computed`. PAGE_NONE: nothing is to be copied, or the step that did was answered. */
    uint32_t tail_page;
    uint32_t checked_count; // in checked_era, the first so many pages need no check any more

    /* The last tokens, number n at n % TAIL_TOKENS. They go to `tokens` when it is full, which is memory that is seldom
     * in a cache, nor is the way to it in a TLB: sched_seq_tokens. A page of output is sealed from here. */
    _Alignas(CACHELINE_BYTES) uint32_t tail[TAIL_TOKENS];

    _Alignas(CACHELINE_BYTES) struct seq_params params;
    uint32_t bias_count, min_output, min_bias_count;
    uint32_t page_cap;
    struct plan_bias *biases; // owned, (bias_count)

    struct hash128 root_key;
    uint64_t checked_era; // checks_era
    uint32_t cached_count;
    uint32_t retain_count;
    struct retain_range *retains; // owned, (retain_count)

    /* sched_share.c */
    uint32_t held_by; // waiting: until this running one has sealed pages below held_until; or SEQ_NONE
    uint32_t held_until, holds;        // holds: how often it was
    uint32_t held_previous, held_next; // among those that the same one holds

    uint64_t admitted_ns; // the first time; valid when admitted

    /* Its place in the order, of waiting and running ones alike: due_ns = arrival + priority * ageing. Waiting makes
     * everybody more urgent at the same pace, so the order never changes, and there is nothing to update. */
    int64_t due_ns;
    uint64_t order;            // number of its submission: what counts when due_ns is the same
    int32_t priority;          // -SCHED_PRIORITY_MAX .. SCHED_PRIORITY_MAX
    uint32_t overtaken;        // times that another came in which is behind it in the order
    uint64_t blocked_ns;       // since when it might have come in but for its pages; 0: it was not looked at
    uint64_t look_step;        // before this step hits is taken as known
    uint32_t hits;             // pages found in the cache when it was last looked up
    uint32_t place_lost_count; // times that it went from RUNNING to WAITING, whatever for
    uint64_t deadline_ns;      // 0: none
};
static_assert(offsetof(struct seq, tokens) == CACHELINE_BYTES, "a line");
static_assert(offsetof(struct seq, tail) == 2 * CACHELINE_BYTES, "a line");
static_assert(offsetof(struct seq, root_key) == 7 * CACHELINE_BYTES, "a line of parameters");
static_assert(GROUPS_MAX <= UINT8_MAX && PLAN_TOKENS_MAX <= UINT16_MAX, "group, rows_in_flight");
/* Else the fronts of all would be in some of the sets of a cache only. */
static_assert(sizeof(struct seq) / CACHELINE_BYTES % 2 == 1, "an odd number of lines");

struct seq_list {
    uint32_t first, last, count;
};

struct sched_group {
    bool is_up;     // planned since its worker last died
    bool in_flight; // its step
    bool is_void;   // in flight: what it read is in doubt, nothing is taken of its answer
    uint32_t running_count;
    uint64_t step_count, burst_step; // own steps; when those longer than the target are paid for (pace.h)
    struct step_cost cost;           // learns from every answer: other groups' CPUs and loads are others
    struct step_load load;           // of the last step planned
    struct sched_step last_step;     // likewise
};

struct sched {
    struct sched_conf conf;
    struct sched_group *groups; // owned, (conf.group_count)
    struct pool *pool;          // borrowed
    struct prefix *prefix;      // borrowed
    struct checks *checks;      // owned
    struct seq *seqs;           // (slot_count)
    uint32_t slot_count;
    uint32_t free_first;
    struct seq_list waiting; // in no order
    struct slot_heap
        ready; // those of waiting that may come in, most urgent first: not the paused, not the held
    struct slot_heap deadlines; // of all that have one and did not meet it yet, the next first
    struct seq_list running;    // most urgent first
    uint32_t running_paused;    // how many of running are paused
    uint64_t pages_owed;        // sum over running
    uint32_t pages_taken;       // by plans since the last sched_reserve
    uint32_t pages_reserved;    // what it wanted free then
    struct plan_page *tables;   // owned, (seqs_max, table_pages): of those that run
    uint32_t *tables_free;      // owned, (seqs_max): from number running.count on, those that nobody has
    uint32_t table_pages;
    struct plan_page *found;  // owned, (table_pages): hits of the one that was looked up last
    uint32_t *walk;           // owned, (seqs_max): slots as the last walk over running met them, a hint what
    uint32_t walk_count;      // the next one will meet: a list cannot be prefetched
    uint32_t *wanting;        // owned, (2 * seqs_max): scratch of one plan, see struct step
    uint32_t *stirs;          // owned, (seqs_max): scratch of sched_done.c
    uint64_t submitted;       // ever
    uint32_t way_slot;        // the waiting one that nobody's going would have helped
    uint64_t way_step;        // from this step on it is asked again
    uint32_t *page_marks;     // owned, (page_count), all 0: scratch of sched_admit.c
    struct promise *promises; // owned, (promise_mask + 1)
    uint32_t promise_mask, promise_count;
    uint32_t held_count; // of waiting
    uint64_t expired;    // ever
    bool has_suspects;   // none is there when it is false
    bool has_bads;       // bads is to be done with when no step is in flight
    uint32_t *bads;      // owned, (page_count): generation of the page that was found bad, 0: was not
    uint8_t *bad_marks;  // owned, (page_count): scratch of sched_corrupt.c
    uint64_t step;       // of all groups
    uint64_t prefix_queries, prefix_hits, preemptions, prompt_tokens_computed, pages_corrupt, moves;
};

static inline uint32_t sched_pages_for(uint32_t tokens)
{
    return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
}

static inline uint64_t sched_seq_id(const struct sched *sched, uint32_t slot)
{
    return (uint64_t)sched->seqs[slot].generation << 32 | slot;
}

/* The sequence of an id, or NULL when it is gone. */
static inline struct seq *sched_seq_find(const struct sched *sched, uint64_t seq_id)
{
    uint32_t slot = (uint32_t)seq_id;
    if (slot >= sched->slot_count) return NULL;
    struct seq *seq = &sched->seqs[slot];
    return seq->state != SEQ_UNUSED && seq->generation == seq_id >> 32 ? seq : NULL;
}

/* Most cache misses are on the way to the next sequence: asks for its first line ahead of its use. */
static inline void sched_seq_prefetch(const struct seq *seq)
{
    __builtin_prefetch(seq, 1);
}

/* The last step planned with rows of it, 0: none was. */
static inline uint64_t sched_seq_served(const struct sched *sched, const struct seq *seq)
{
    uint64_t next = sched->step + 1; // of one in the plan in hand
    return seq->served_step ? next - (uint32_t)(next - seq->served_step) : 0;
}

/* Moves a sequence between lists and states along SEQ_EDGES. One that is to run has a table already. */
void sched_seq_move(struct sched *sched, uint32_t slot, enum seq_state to);
/* As many tables as places: there is one for whoever comes in next. Who stops running gives it back without pages. */
void sched_table_take(struct sched *sched, struct seq *seq);

/* Whether a comes before b. No two are equal. */
static inline bool sched_seq_before(const struct seq *a, const struct seq *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

void sched_seq_pause(struct sched *sched, uint32_t slot, bool paused);

/* Its tokens, all of them in `tokens` now. */
static inline const uint32_t *sched_seq_tokens(const struct seq *seq)
{
    uint32_t first = seq->token_count / TAIL_TOKENS * TAIL_TOKENS;
    memcpy(seq->tokens + first, seq->tail, (seq->token_count - first) * sizeof *seq->tail);
    return seq->tokens;
}

/* Those of its page number `page`, all of which are known. */
static inline const uint32_t *sched_seq_page(const struct seq *seq, uint32_t page)
{
    uint32_t first = page * PAGE_TOKENS, end = first + PAGE_TOKENS;
    if (end == seq->token_count)
        return seq->tail + first % TAIL_TOKENS; // they are its last, so all are there
    if (end > seq->token_count / TAIL_TOKENS * TAIL_TOKENS) (void)sched_seq_tokens(seq);
    return seq->tokens + first;
}

static inline void sched_seq_append(struct seq *seq, uint32_t token)
{
    seq->last_token = seq->tail[seq->token_count++ % TAIL_TOKENS] = token;
    if (seq->token_count % TAIL_TOKENS == 0)
        memcpy(seq->tokens + seq->token_count - TAIL_TOKENS, seq->tail, sizeof seq->tail);
}

/* Key of its page number `page`; all its tokens are known. Computed once. A page that is sealed after the one before it
 * needs none of this: see page_key in sched_done.c. */
struct hash128 sched_seq_key(struct seq *seq, uint32_t page);

/* Books what a running sequence is owed, after its tokens or pages changed. */
static inline void sched_seq_owe(struct sched *sched, struct seq *seq)
{
    CHECK(seq->state == SEQ_RUNNING);
    uint32_t pages = sched_pages_for(seq->token_count + 1);
    uint32_t owed = pages > seq->page_count ? pages - seq->page_count : 0;
    sched->pages_owed += owed;
    sched->pages_owed -= seq->owed;
    seq->owed = owed;
}

/* The page that its tail is copied from is needed no more. */
void sched_seq_release_tail(struct sched *sched, struct seq *seq, uint64_t now_ns);

/* Gives back every page: sealed ones stay cached, FILLING ones are dropped; computed becomes 0. */
void sched_seq_release_pages(struct sched *sched, struct seq *seq, uint64_t now_ns);

/* Ends a sequence that is in no step. */
void sched_seq_end(struct sched *sched, uint32_t slot, uint64_t now_ns);

/* ---- sched_group.c ---- */

int sched_groups_init(struct sched *sched);          // 0 or -ENOMEM
uint32_t sched_groups_up(const struct sched *sched); // how many compute
/* The group of one that comes in, in a plan of group `group`. */
uint32_t sched_group_pick(const struct sched *sched, uint32_t group);
/* Before a plan: evens them out, as far as sequences are in no step. */
void sched_groups_balance(struct sched *sched);
void sched_groups_doubt(struct sched *sched); // the steps in flight are void
/* The group's step has ended, and nothing of it is taken. -> bad pages that were dropped now */
uint32_t sched_step_drop(struct sched *sched, uint32_t group, uint64_t now_ns);
/* sched_corrupt.c: drops bad pages that were waiting for the last step in flight. -> how many */
uint32_t sched_bads_drop(struct sched *sched, uint64_t now_ns);

/* ---- one step ---- */

struct step { // one call of sched_plan
    struct sched *sched;
    struct sched_group *group; // whose
    uint32_t group_idx;
    struct plan_writer *writer;
    uint64_t now_ns;
    uint32_t rows_left;
    uint32_t score_rows_left;
    uint32_t seq_count;
    uint32_t prefill_count; // running ones that want more than one row
    uint32_t wanting_count; // of sched.wanting: whoever may get rows of a prefill, the most urgent first
    uint32_t admitted_count;
    bool checks;    // pages are unknown (checks.h)
    bool preempted; // somebody lost its pages or place to another: nobody is admitted
};

static inline uint32_t sched_rows_wanted(const struct seq *seq)
{
    return seq->token_count - seq->computed;
}

/* Prompt positions are still to be scored. Until they all were there is no output, so that no row scored is past
 * the prompt. */
static inline bool sched_is_scoring(const struct seq *seq)
{
    return seq->score_prompt && seq->scored < seq->prompt_count;
}

/* Its rows may be what kills the worker. */
static inline bool sched_is_suspect(const struct seq *seq)
{
    return seq->losses >= SCHED_LOSSES_ALONE;
}

/* It came in: see wanting_count. */
void sched_want(struct step *step, uint32_t slot);

/* The last in the order that is paused and in no step: it computes nothing, and its client may take long. */
uint32_t sched_victim_paused(const struct sched *sched);
void sched_preempt(struct step *step, uint32_t slot);
/* One more page for a sequence: free, evicted, or of one that is preempted for it. 0 or -ENOSPC. */
int sched_page_add(struct step *step, uint32_t slot);

/* sched_admit.c: makes way for the first of those that wait, if it has the right to; admits. */
void sched_make_way(struct step *step);
void sched_admit(struct step *step);

/* sched_share.c. hold: takes a candidate, whose hits were just looked up, out of the order if another computes its next
 * page. leave: undoes that, and does not put it back. begin: a sequence came in; sealed: it got on; break: it goes, or
 * pauses; stuck: is asked of each running one in each step. */
int sched_share_init(struct sched *sched); // 0 or -ENOMEM
bool sched_share_hold(struct step *step, uint32_t slot);
void sched_share_leave(struct sched *sched, uint32_t slot);
void sched_share_begin(struct sched *sched, uint32_t slot);
void sched_share_sealed(struct sched *sched, uint32_t slot);
void sched_share_break(struct sched *sched, uint32_t slot);
void sched_share_stuck(struct sched *sched, uint32_t slot);
int sched_share_check(const struct sched *sched, struct err *err); // 0 or ERR_FORMAT

#endif
