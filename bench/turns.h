/* SPDX-License-Identifier: Apache-2.0 */
/* turns - two processes that take turns round by round, so that what else the machine does strikes both alike, and
 * tell each other how long theirs took. Made before the fork; a NULL turns is a process alone, which never waits. */
#ifndef KVASIR_BENCH_TURNS_H
#define KVASIR_BENCH_TURNS_H

#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "bench/machine.h"
#include "common/base/check.h"

enum { TURNS_ROUNDS_MAX = 128 };

enum turns_side { TURNS_FIRST, TURNS_SECOND };

struct turns {
    sem_t turn[2];                       // of a side: it may go on
    double seconds[2][TURNS_ROUNDS_MAX]; // of a side's rounds; its own until it passes the turn
    pid_t other;                         // the second side, a child of the first
};

/* Shared with children; lives until the process ends. */
static inline struct turns *turns_new(void)
{
    void *shared = mmap(NULL, sizeof(struct turns), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                        0);
    struct turns *turns = shared;
    CHECK(shared != MAP_FAILED);
    CHECK(sem_init(&turns->turn[TURNS_FIRST], 1, 1) == 0);
    CHECK(sem_init(&turns->turn[TURNS_SECOND], 1, 0) == 0);
    return turns;
}

static inline void turns_take(struct turns *turns, enum turns_side side)
{
    if (!turns) return;
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        if (sem_timedwait(&turns->turn[side], &until) == 0) return;
        // The second side dies with the first; the first has to look.
        siginfo_t info = {.si_pid = 0};
        if (side == TURNS_SECOND || waitid(P_PID, (id_t)turns->other, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
            continue;
        if (info.si_pid == 0) continue;
        fprintf(stderr, "the ranks failed\n");
        exit(70);
    }
}

/* How long the round of this turn took. */
static inline void turns_note(struct turns *turns, enum turns_side side, uint32_t round, double seconds)
{
    if (!turns) return;
    CHECK(round < TURNS_ROUNDS_MAX);
    turns->seconds[side][round] = seconds;
}

static inline void turns_pass(struct turns *turns, enum turns_side side)
{
    if (turns) CHECK(sem_post(&turns->turn[1 - side]) == 0);
}

/* Of rounds [0, count): the first's time / the second's. The second asks, in its turn. */
static inline double turns_median_ratio(const struct turns *turns, uint32_t count)
{
    double ratios[TURNS_ROUNDS_MAX];
    for (uint32_t i = 0; i < count; i++)
        ratios[i] = turns->seconds[TURNS_FIRST][i] / turns->seconds[TURNS_SECOND][i];
    return machine_median(ratios, count);
}

#endif
