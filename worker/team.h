/* SPDX-License-Identifier: Apache-2.0 */
/* team - a fixed set of threads that run the pieces of one job at a time.
 *
 * Pieces are handed out one by one; the caller takes part. Each thread begins in a range of neighbours of its
 * own and takes them in order, then what others left of theirs. A thread that loses its core to another process
 * delays only the piece it holds, so pieces should be small (some ten microseconds). Waiting threads spin for a
 * bounded time that adapts to what spinning gained lately, then sleep on a futex: an idle team uses no CPU. Where the
 * process may use fewer cores than the team has threads, nobody spins.
 *
 * One caller at a time; a piece must not call team_run. */
#ifndef KVASIR_WORKER_TEAM_H
#define KVASIR_WORKER_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

struct team;

enum {
    TEAM_THREADS_MAX = 1024,
    TEAM_PIECES_MAX = 1 << 28, // pieces of one job
};

struct team_conf {
    uint32_t threads; // 1..TEAM_THREADS_MAX, the caller counted in
    bool pin;         // thread i, the calling one too, stays on the i-th CPU of cpus_allowed: cores first
};

/* Starts threads - 1 threads. Errors: ERR_CONFIG, -EAGAIN, -ENOMEM. */
int team_new(const struct team_conf *conf, struct team **ret_team, struct err *err);
void team_free(struct team *team); // NULL is fine; not while a job runs

/* Runs fn(arg, piece) once for every piece in [0, piece_count). Everything the pieces wrote is visible to
 * the caller at return. */
void team_run(struct team *team, void (*fn)(void *arg, uint32_t piece), void *arg, uint32_t piece_count);

uint32_t team_threads(const struct team *team);

#endif
