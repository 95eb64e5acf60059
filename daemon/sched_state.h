/* SPDX-License-Identifier: Apache-2.0 */
/* sched_state - the insides that sched.c (life of a sequence), sched_plan.c (a step's order),
 * sched_done.c (a step's answer) and sched_check.c (audit) share. Nobody else but the simulation includes this. */
#ifndef KVASIR_DAEMON_SCHED_STATE_H
#define KVASIR_DAEMON_SCHED_STATE_H

#include "daemon/sched.h"
#include "daemon/step_cost.h"

/* States of a sequence; sched_seq_move is the one function that changes it. */
#define SEQ_EDGES(X) \
    X(UNUSED, WAITING, "submitted") \
    X(WAITING, RUNNING, "admitted: its prompt fits") \
    X(RUNNING, WAITING, "preempted, at the front") \
    X(WAITING, UNUSED, "removed") \
    X(RUNNING, UNUSED, "removed")

enum seq_state { SEQ_UNUSED, SEQ_WAITING, SEQ_RUNNING };

#define SEQ_NONE UINT32_MAX

struct seq {
    enum seq_state state;
    uint32_t generation;     // high half of the id; grows when the slot is used again
    uint32_t previous, next; // in the waiting or running list, or next in the free list

    void *owner;
    struct plan_seq params;
    struct plan_bias *biases; // owned, (bias_count)
    uint32_t bias_count, min_output, min_bias_count;
    bool use_history, score_prompt;
    bool paused;
    bool removed;         // by its owner while in flight; released when the step ends
    bool admitted;        // has been RUNNING once
    uint64_t admitted_ns; // the first time; valid when admitted

    uint32_t *tokens; // owned, (token_cap): prompt, then output
    uint32_t token_count, prompt_count, token_cap;
    uint32_t computed; // positions whose keys and values are in pages; < token_count
    uint32_t scored;   // prompt positions whose scores were given out
    uint32_t cached_count;

    uint32_t *pages; // owned, (page_cap): only page_count in use
    uint32_t page_count, page_cap;
    struct hash128 root_key, key; // key of the last sealed page, or root_key
    /* Held: the next step with rows of this sequence copies its first computed % PAGE_TOKENS tokens to the page of
     * `computed`. PAGE_NONE: nothing is to be copied, or the step that did was answered. */
    uint32_t tail_page;

    uint32_t rows_in_flight; // 0: not in the step in flight
    uint32_t losses;         // steps with it that were lost, since one was answered
};

struct seq_list {
    uint32_t first, last, count;
};

struct sched {
    struct sched_conf conf;
    struct pool *pool;     // borrowed
    struct prefix *prefix; // borrowed
    struct seq *seqs;      // (slot_count)
    uint32_t slot_count;
    uint32_t free_first;
    struct seq_list waiting; // front is next
    struct seq_list running; // oldest admitted first
    bool in_flight;
    uint64_t step;
    uint64_t prefix_queries, prefix_hits, preemptions, prompt_tokens_computed;
    struct step_cost cost;       // learns from every answer
    struct step_load load;       // of the last step planned
    struct sched_step last_step; // likewise
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
struct seq *sched_seq_find(const struct sched *sched, uint64_t seq_id);

/* Moves a sequence between lists and states along SEQ_EDGES; front: at the list's front. */
void sched_seq_move(struct sched *sched, uint32_t slot, enum seq_state to, bool front);

/* The page that its tail is copied from is needed no more. */
void sched_seq_release_tail(struct sched *sched, struct seq *seq, uint64_t now_ns);

/* Gives back every page: sealed ones stay cached, FILLING ones are dropped; computed becomes 0. */
void sched_seq_release_pages(struct sched *sched, struct seq *seq, uint64_t now_ns);

/* Ends a sequence that is in no step. */
void sched_seq_end(struct sched *sched, uint32_t slot, uint64_t now_ns);

#endif
