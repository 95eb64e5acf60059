/* SPDX-License-Identifier: Apache-2.0 */
/* engine_state - what the files of the engine share: engine.c makes it, frees it and takes requests; engine_step.c
 * plans steps, takes their answers and hears of the groups. Nobody else includes this. */
#ifndef KVASIR_DAEMON_ENGINE_STATE_H
#define KVASIR_DAEMON_ENGINE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "daemon/engine.h"
#include "daemon/group.h"
#include "daemon/pool_home.h"

struct engine_group { // a group and its step
    struct engine *engine;
    uint32_t idx;
    struct group *group;
    bool serves;                // its worker is ready and gives the bits that the pool's pages have
    struct plan_writer *writer; // owned
    struct plan_view plan;      // the plan in flight, in the writer
    uint64_t done_ns;           // arrival of the completion whose successor is not planned yet; 0: none
    struct engine_step step;    // of that completion
};

struct engine {
    struct engine_conf conf;
    char *instance; // owned
    int lock_fd;
    struct pool_home home;
    struct pool_geometry geometry;
    struct pool *pool; // home's
    bool ever_ready;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_limits limits;
    struct engine_group *groups; // owned, (conf.group_count); of those that could not be made group is NULL
    uint32_t groups_left;        // to stop, or to free
    bool is_failing;             // one could not start: the others are stopped
    int failed_status;
    char failed_reason[1024];
    struct hash128 root_key;
    struct offload *offload; // NULL: no cache file, or closed
    char tier_note[256];

    void *done_bytes; // private copy of a completion
    size_t done_bytes_max;
    struct sched_event *events; // (2 * seqs_max)

    uv_prepare_t prepare;  // active while dirty: plans before the loop sleeps
    uv_timer_t deadline;   // active until the next deadline of a sequence
    uint64_t deadline_ns;  // that one; UINT64_MAX: none
    uint32_t handles_open; // of these two, while closing
    void (*on_freed)(void *owner);
};

/* engine_step.c */
extern const struct group_callbacks engine_group_callbacks; // their owner: a struct engine_group
void engine_step_init(struct engine *engine);               // its handles of libuv
void engine_dirty(struct engine *engine);        // something may be planned: before the loop sleeps
void engine_deadline_arm(struct engine *engine); // a sequence came
bool engine_can_compute(const struct engine_group *at);
void engine_groups_stop(struct engine *engine);
/* One cannot start: on_failed follows when no worker is left. */
void engine_group_failed(void *owner, int exit_status, const char *reason);

#endif
