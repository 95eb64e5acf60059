/* SPDX-License-Identifier: Apache-2.0 */
/* sim - the daemon's heart in one thread: the real scheduler, prefix index, pool, plan and completion writers,
 * verifiers and rings, against a virtual clock, simulated clients and a simulated worker that dies, refuses,
 * lies and takes its time; in half of the worlds two or three of them, groups on one pool whose steps overlap.
 * Everything that happens is drawn from one seed, so that a seed is a run.
 *
 * The simulated worker keeps, as payload of each position of a page, the hash of all tokens up to there, and computes
 * a row only from the position before it; a client's tokens are a function of its own history. So what must lie in
 * every page and what must come out is known in advance whatever the schedule was.
 *
 *   sim.c         one world: its making, its steps, its drain
 *   sim_group.c   a group: its rings, its step in flight, its faults
 *   sim_client.c  requests and what they expect
 *   sim_worker.c  what a worker does with a plan, as far as it gets
 *   sim_check.c   what must hold of a plan, and of the pool after every step
 *   simulate.c    the program: seeds, steps, one world after another
 *
 * A broken law prints seed, world and step and ends the process with status 1. */
#ifndef KVASIR_TESTS_SIM_H
#define KVASIR_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/rng.h"
#include "common/ipc/plan.h"
#include "common/ipc/ring.h"
#include "common/shm/pool.h"
#include "daemon/prefix.h"
#include "daemon/sched.h"

enum { SIM_VOCAB = 64, SIM_CLIENTS = 96, SIM_LEN_MAX = 200, SIM_SLOTS = 4, SIM_GROUPS = 3 };
enum { SIM_DOWN_MAX = 30 }; // turns until a worker is there again

struct sim_client {
    bool live, paused;
    uint64_t seq_id, seed;
    uint32_t prompt_count, output_max, output_count;
    bool scores, uses_history;
    bool poison; // a step that samples its first token kills the worker
    uint32_t scored;
    uint32_t bias_count, min_output, min_bias_count;
    int32_t priority;
    uint64_t arrival_ns, deadline_ns; // 0: none
    uint64_t order;                   // of submission
    uint32_t losses;                  // lost steps with it since an answered one
    uint32_t passed;                 // plans of its group in a row without it although it is the first of all
    uint64_t token_step;             // the plan that gave the last token
    uint64_t salt;                   // of its root key
    uint32_t tokens[SIM_LEN_MAX];    // prompt, then what came out
    uint64_t histories[SIM_LEN_MAX]; // hash of tokens[0 .. i]
};

enum sim_fault {
    SIM_FINE,
    SIM_DIES_BEFORE, // the plan lies in the ring
    SIM_DIES_TAKEN,  // taken, nothing done
    SIM_DIES_AMIDST, // some copies, some rows
    SIM_DIES_UNTOLD, // all rows, the completion not published
    SIM_DIES_TOLD,   // published, then dead: it counts
    SIM_REFUSES,     // a negative status
    SIM_LIES,        // bytes of the completion are wrong
    SIM_DAEMON_DIES, // and its workers with it, anywhere in their steps; the next one adopts the pool
    SIM_FAULTS,
};

struct sim_counts {
    uint64_t steps, tokens, finished, cancelled, failed, expired, preempted, evicted, damaged, found, adopted,
        hits, queries, copies, overlaps, moves, voids;
    uint64_t faults[SIM_FAULTS];
};

struct sim_group {
    struct ring *plan_ring, *done_ring;
    struct ring_end plan_out, done_in; // the daemon's
    struct ring_end plan_in, done_out; // the worker's
    void *plan_bytes;                  // the daemon's copy of the plan in flight
    struct plan_view plan;             // into plan_bytes
    bool flies, ran;                   // ran: the worker is done with it, as far as it got
    enum sim_fault fault;              // of the step that ran
    uint32_t down;                     // turns until its worker is there again
};

struct sim {
    struct rng rng;
    struct sched_conf conf;
    uint32_t reserve_max; // of sched_reserve
    struct plan_limits limits;
    uint32_t page_count, rank_count, group_count;
    uint32_t prompt_max;  // of this world: short prompts with long outputs make for preemptions
    uint32_t fault_every; // a step in so many meets a fault; 0: none
    bool quiet;           // nobody cancels, stops or dies by chance: for tests by hand
    bool has_poison;      // then no other faults
    bool has_priorities;
    struct pool_geometry geometry;
    void *meta;
    struct pool *pool;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_writer *writer;
    struct done_writer *answer;
    uint64_t *payload;          // (page_count, PAGE_TOKENS) histories
    uint64_t *seals;            // (page_count) hash of the payload when it was sealed
    uint64_t *salts;            // (page_count) of whom it was last granted to
    uint32_t *damages;          // (page_count) life of the page whose payload was damaged; 0: none
    uint32_t *seal_generations; // (page_count) of which life of the page; 0: never
    struct sim_group groups[SIM_GROUPS];
    void *worker_plan, *done_bytes;
    size_t plan_size, done_size;
    struct sched_event *events;
    struct sim_client clients[SIM_CLIENTS];
    uint64_t seq_id_last[SIM_CLIENTS * 2];
    struct sim_client *by_slot[SIM_CLIENTS * 2]; // who was given the slot last
    uint64_t now_ns, submissions;
    bool was_running[SIM_CLIENTS];  // before the plan
    uint32_t preempts[SIM_CLIENTS]; // likewise
    uint64_t preempted_before;      // the plan
    struct sim_counts counts;
};

/* Where a broken law is told from. */
extern uint64_t sim_seed, sim_world, sim_step_number;
_Noreturn void sim_broken(const char *file, int line, const char *law, const char *detail);
void *sim_must(void *memory); // broken when it is NULL
#define LAW(condition) ((condition) ? (void)0 : sim_broken(__FILE__, __LINE__, #condition, NULL))

void sim_open(struct sim *sim, uint64_t seed); // draws the world's sizes
void sim_step(struct sim *sim);
/* For tests by hand: a world in which nothing happens by chance, of 8 sequences and 64 rows; a request in a client's
 * place, prompt tokens family, family + 1, ...; a step in which nobody acts. -> sequences planned. */
void sim_open_quiet(struct sim *sim, uint32_t pages);
void sim_open_quiet_groups(struct sim *sim, uint32_t pages, uint32_t groups);
struct sim_client *sim_submit(struct sim *sim, int place, uint32_t family, uint32_t prompt_count,
                              uint32_t output_max);
int sim_step_quiet(struct sim *sim);
/* The halves of it for one group. -> sequences planned; the answer to that; the worker dies instead of answering. */
int sim_plan_quiet(struct sim *sim, uint32_t group);
void sim_answer_quiet(struct sim *sim, uint32_t group);
void sim_kill_quiet(struct sim *sim, uint32_t group);
/* Nobody new, nobody paused: all must finish within so many steps as they have tokens, and leave nothing behind. */
void sim_drain(struct sim *sim);
void sim_close(struct sim *sim);

uint32_t sim_token_after(uint64_t history);
uint64_t sim_history_step(uint64_t history, uint32_t token);

/* sim_group.c */
void sim_groups_open(struct sim *sim); // makes the rings, anew when there are some
void sim_groups_close(struct sim *sim);
int sim_group_plan(struct sim *sim, uint32_t group); // -> sequences planned, and the plan is in the ring
void sim_group_run(struct sim *sim, uint32_t group, enum sim_fault fault); // the worker's turn
enum sim_fault sim_fault_draw(struct sim *sim, uint32_t group);
void sim_group_end(struct sim *sim, uint32_t group); // the daemon takes the answer, or finds the worker dead
void sim_damage(struct sim *sim);                    // what a dying writer may do
bool sim_flies_any(const struct sim *sim);

void sim_clients_act(struct sim *sim);
void sim_clients_expire(struct sim *sim); // the deadlines that have come
void sim_client_event(struct sim *sim, const struct sched_event *event, uint64_t step);
struct sim_client *sim_client_of(struct sim *sim, uint64_t seq_id); // NULL: nobody waits for it

/* Hashes the pages that the plan wants checked. -> whether all are good; the others stand in the answer. */
bool sim_worker_checks(struct sim *sim, const struct plan_view *plan);
/* Does what a plan says, up to `rows_max` rows and copies, and answers when it was all. -> whether it was. */
bool sim_worker_run(struct sim *sim, const struct plan_view *plan, uint64_t rows_max);

void sim_note_running(struct sim *sim); // before a plan
void sim_check_plan(struct sim *sim, uint32_t group);
/* Whether somebody whose rows may kill workers waits for its own group's worker to come back, as it is to. */
bool sim_suspect_waits(const struct sim *sim);
void sim_check_idle(struct sim *sim); // nobody could be planned, and no step is in flight
void sim_check_pool(struct sim *sim);

#endif
