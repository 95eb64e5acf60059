/* SPDX-License-Identifier: Apache-2.0 */
/* sched - continuous batching: which sequences compute which tokens in the next step.
 *
 * A pure function of (sequences, pool, clock, limits): no I/O, no clock of its own, so that a seeded
 * simulation runs it for millions of steps. One step is in flight at a time for each group of workers:
 *
 *      sched_submit ...  ->  sched_plan  -> [worker] ->  sched_complete -> events  -> (sched_remove) -> sched_plan ...
 *                                            dies:      sched_lost
 *
 * There are no phases: every sequence has `computed` positions whose keys and values are in pages, and a
 * step tries to catch up with its tokens. One row left is a decode; more is a prefill, done in chunks.
 *
 * Order. One order holds for everything: who comes in, who gets pages and rows first, who goes last. A sequence's place
 * in it is
 *      due = arrival + priority * ageing           (priority: lower is more urgent; ageing: time that makes up for 1)
 * which never changes: waiting makes all of them more urgent at the same pace, and one that was preempted or runs keeps
 * what it earned. So a sequence of priority p that arrived at a comes in no later than one of the most urgent
 * priority in use, q, would that arrived at a + (p - q) * ageing: the bound of what priorities can cost it, at most 2
 * * SCHED_PRIORITY_MAX * ageing.
 *
 * When a page is needed and none can be evicted, a paused sequence or else the last in the order that is not in the
 * plan is preempted; no sequence is admitted in that step. A waiting sequence that is first and does not fit has
 * those preempted that have a lower priority and come after it, when their going is enough, and comes in with the
 * next step: it starts within two steps. Preempted ones leave their sealed pages in the cache, used last of all, and
 * resume by a prefix hit: they compute again what was evicted meanwhile and the page that was not full. One that does
 * not fit yet is overtaken by smaller ones at most SCHED_OVERTAKES_MAX times, and not for longer than
 * SCHED_OVERTAKE_NS. A waiting sequence whose next page another is just computing waits for it rather than compute it
 * too, and holds up nobody meanwhile (sched_share.c). Paused sequences give way to all that wait, so that clients
 * that do not read cannot hold up those that do. The first in the order always gets on.
 *
 * Groups. Pages, order and everything above are one for all groups. A sequence that runs is a group's, and is planned
 * in that group's steps only; between two of them it may become another's (sched_group.c). What a step in flight
 * reads or writes is nobody else's meanwhile: its sequences are not preempted, and every page of theirs is held.
 *
 *   I1: a running sequence holds ceil(k / PAGE_TOKENS) pages for some k >= computed; its first
 *       computed / PAGE_TOKENS pages are SEALED and held once by it, the others FILLING.
 *   I2: refcount of every page == number of running sequences that hold it, as one of their pages or until the end
 *       of a page of theirs is copied from it, and of pins that do.
 *   I3: a waiting sequence holds no page.
 *   I4: running is sorted by (due, number of submission).
 *   I5: a sequence has rows in flight only in the step in flight of its group, and runs.
 *
 * Later: draft tokens. */
#ifndef KVASIR_DAEMON_SCHED_H
#define KVASIR_DAEMON_SCHED_H

#include <stdbool.h>

#include "common/base/clock.h"
#include "common/ipc/plan.h"
#include "common/shm/pool.h"
#include "daemon/prefix.h"

struct sched; // opaque

enum { SCHED_LOSSES_ALONE = 3, SCHED_LOSSES_MAX = 6 };
enum { SCHED_PRIORITY_MAX = 100 }; // priorities beyond it, up or down, count as this
enum { SCHED_OVERTAKES_MAX = 16 };
enum { SCHED_RESERVE_SHARE = 256 }; // of the cache, one page in so many may lie free for the next step
#define SCHED_OVERTAKE_NS (2 * NS_PER_S)
#define SCHED_AGEING_NS (30 * NS_PER_S)

struct sched_conf {
    uint32_t group_count;   // 0 counts as 1
    uint32_t seqs_max;      // running at once, in all groups together
    uint32_t tokens_max;    // rows of a step
    uint32_t queue_max;     // waiting at once; past it sched_submit answers ERR_FULL
    uint32_t model_len_max; // prompt + output tokens of a sequence
    uint64_t epoch;
    uint64_t
        itl_target_ns;  // time of a step in which sequences decode; 0: automatic (pace.h); UINT64_MAX: none
    uint64_t ageing_ns; // waiting for so long makes up for a priority lower by 1; 0: SCHED_AGEING_NS
};

/* Copied by sched_submit, except owner. */
struct sched_request {
    const uint32_t *prompt; // (prompt_count), at least 1
    uint32_t prompt_count;
    uint32_t output_max; // room for output tokens; prompt_count + output_max <= model_len_max
    struct hash128 root_key;
    uint32_t tenant;                    // whose share of the cache its pages count in; 0: nobody's
    const struct retain_range *retains; // what its pages are worth once it is done; at most RETAIN_RANGES_MAX
    uint32_t retain_count;
    struct plan_seq params; // seed, sampling parameters, logprobs; the rest is ignored
    const struct plan_bias *biases;
    uint32_t bias_count;
    uint32_t min_output;     // until so many output tokens are there, the last min_bias_count biases hold;
    uint32_t min_bias_count; // afterwards they do not (they ban the end tokens)
    bool use_history;        // a penalty is on: the plan carries the tokens
    bool score_prompt;       // log-probabilities of the prompt's tokens; reads no cached prefix
    int32_t priority;        // lower is more urgent
    uint64_t arrival_ns;     // by the clock of sched_plan
    uint64_t deadline_ns;    // by the same; 0: none
    void *owner;             // handed back with every event
};

enum sched_event_kind {
    SCHED_TOKEN,   // one output token: seq->token
    SCHED_SCORES,  // score_count prompt tokens were scored, the first at position score_position
    SCHED_FAILED,  // the worker died of it again and again, or could not sample
    SCHED_EXPIRED, // its deadline has come: nothing more is computed of it
};

struct sched_event {
    enum sched_event_kind kind;
    uint64_t seq_id;
    void *owner;
    const struct done_seq *seq; // borrowed from the completion
    const struct done_score *scores;
    uint32_t score_position, score_count;
};

struct sched_stats {
    uint32_t running_count, waiting_count;
    uint64_t prefix_queries, prefix_hits; // tokens
    uint64_t preemptions, expired;
    uint32_t held_count; // of waiting: wait for pages that another computes
    uint64_t prompt_tokens_computed;
    uint64_t steps;
    uint64_t pages_checked, pages_corrupt; // sealed pages hashed before they were read again, and found bad
    uint64_t moves;                        // sequences that changed over to another group
};

struct sched_step { // the last step planned of a group
    uint32_t decode_rows, prefill_rows;
    uint64_t predicted_ns; // what it was expected to take in the worker; 0: nothing was measured yet
};

struct sched_seq_info {
    uint32_t prompt_count, output_count;
    uint32_t cached_count;  // prompt tokens taken from the cache at first admission
    bool running, admitted; // admitted: has been running at some time
    uint64_t admitted_ns;   // since when, by the clock of sched_plan; valid when admitted
};

/* Borrows pool and prefix until sched_free. Everything is allocated here but the tokens of requests. */
int sched_new(const struct sched_conf *conf, struct pool *pool, struct prefix *prefix,
              struct sched **ret_sched);
void sched_free(struct sched *sched); // NULL is fine

/* The bounds of plans that sched writes, for link_create and plan_writer_new. */
void sched_plan_limits(const struct sched_conf *conf, const struct pool_geometry *geometry,
                       uint32_t vocab_count, struct plan_limits *ret_limits);

/* Queues a sequence. ERR_FULL: the queue is full. ERR_LIMIT: it can never fit the pool or the context.
 * ERR_INPUT: empty prompt. -ENOMEM. */
int sched_submit(struct sched *sched, const struct sched_request *request, uint64_t *ret_seq_id);
bool sched_queue_full(const struct sched *sched); // asked before tokenizing

/* Ends a sequence (finished, cancelled): its sealed pages stay cached. May be called while a step is in
 * flight; then its pages are released when the step ends. Its owner gets no event after this. */
void sched_remove(struct sched *sched, uint64_t seq_id, uint64_t now_ns);
/* A paused sequence (slow reader) computes nothing, and is the first to give its place and pages to others. */
void sched_pause(struct sched *sched, uint64_t seq_id, bool paused);

/* Writes the next plan of a group, whose worker is there: from now on it counts as one that computes, until
 * sched_distrust. -> sequences planned; 0: nothing to do, or its step is in flight. A plan may give sequences to groups
 * that have no step in flight: plan those too. */
int sched_plan(struct sched *sched, uint32_t group, uint64_t now_ns, struct plan_writer *writer);
/* Evicts until as many pages are free as the last plans took, or pages_max: what the next plan would do otherwise
 * while its worker waits for it. Called once a plan is sent. */
void sched_reserve(struct sched *sched, uint32_t pages_max);
bool sched_in_flight(const struct sched *sched, uint32_t group);
bool sched_flies_any(const struct sched *sched); // a step of some group is in flight

/* Takes the completion of the group's step in flight (already verified against its plan). Events are written to
 * events (at least 2 * seqs_max) and valid until the next call. -> their number; ERR_PEER when the
 * completion lacks what the plan asked for: then nothing has changed and the step counts as lost. Where what the step
 * read is in doubt (sched_distrust, sched_corrupt of another group) nothing is taken and it is planned again. */
int sched_complete(struct sched *sched, uint32_t group, uint64_t now_ns, const struct done_view *done,
                   struct sched_event *events);
/* The group's step in flight will not be answered: its rows will be planned again. A sequence that was in
 * SCHED_LOSSES_ALONE lost steps in a row is planned alone from then on, so that one whose rows kill the worker takes
 * nobody along; after SCHED_LOSSES_MAX it fails. -> that many SCHED_FAILED events, at most seqs_max; valid until
 * the next call. */
int sched_lost(struct sched *sched, uint32_t group, uint64_t now_ns, struct sched_event *events);

/* The next deadline, UINT64_MAX when there is none. */
uint64_t sched_deadline_next(const struct sched *sched);
/* Those whose deadline has come, each once, also while a step is in flight: nothing more is planned of them, and their
 * owner removes them. -> that many SCHED_EXPIRED events, at most 2 * seqs_max: call again until there are none. */
int sched_expire(struct sched *sched, uint64_t now_ns, struct sched_event *events);
/* The worker refused the group's step in flight because these sealed pages (page_count of the plan's checks) are not
 * what was sealed: they and what descends from them are dropped, sequences that held any wait in their place of the
 * order and compute them anew. Other groups may be reading them: then nothing is planned until their steps have
 * ended, of which nothing is taken, and the pages are dropped after the last (sched_is_barred). No event, no loss. ->
 * pages dropped now. */
int sched_corrupt(struct sched *sched, uint32_t group, uint64_t now_ns, const struct plan_page *pages,
                  uint32_t page_count);
/* Bad pages are to be dropped once no step is in flight: nobody else may hold them then. */
bool sched_is_barred(const struct sched *sched);
/* The group's worker died, and may have written anywhere: every sealed page is checked before it is read again, what
 * other groups' steps have just read counts as not read, and what the group had goes to those that live. Its step is
 * not in flight any more. */
void sched_distrust(struct sched *sched, uint32_t group);
/* After sched_distrust: part-filled pages, which have no checksum, may be damaged. What is in them is computed again.
 */
void sched_refill(struct sched *sched);
/* What is cached counts no more: every running sequence waits in its place of the order and computes all of it anew.
 * No step of any group is in flight. -> pages dropped. */
uint32_t sched_forget(struct sched *sched, uint64_t now_ns);

/* Whether the sequence is there still: an owner told of one event may remove the sequence of a later one. */
bool sched_has(const struct sched *sched, uint64_t seq_id);
void sched_seq_info(const struct sched *sched, uint64_t seq_id, struct sched_seq_info *ret_info);
void sched_stats(const struct sched *sched, struct sched_stats *ret_stats);
void sched_last_step(const struct sched *sched, uint32_t group, struct sched_step *ret_step);
uint32_t sched_group_running(const struct sched *sched, uint32_t group); // sequences that are its
uint64_t sched_group_steps(const struct sched *sched, uint32_t group);   // planned so far

/* Audits I1..I5 and, through them, pool and prefix. 0 or ERR_FORMAT with the first fault. */
int sched_check(const struct sched *sched, struct err *err);

#endif
