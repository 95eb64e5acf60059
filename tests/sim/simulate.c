/* SPDX-License-Identifier: Apache-2.0 */
/* simulate - runs the simulator of sim.h over seeds, and tells what happened.
 *
 * A seed's steps are spent in worlds of WORLD_STEPS each, so that one seed sees many sizes of pool, batch and queue.
 * KVASIR_SEED or --first-seed names the first seed; a failure tells how to run its world alone. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "tests/sim/sim.h"

enum { WORLD_STEPS = 5000 };

uint64_t sim_seed, sim_world, sim_step_number;

static const char usage[] = "usage: simulate [--first-seed N] [--seeds N] [--steps N] [--first-world N]\n"
                            "defaults: seed 1, 20 seeds, 10000 steps a seed, world 0\n";

static void where(char *text, size_t text_bytes)
{
    (void)snprintf(text, text_bytes,
                   "at seed %" PRIu64 ", world %" PRIu64 ", step %" PRIu64
                   "; again: simulate --first-seed %" PRIu64 " --seeds 1 --first-world %" PRIu64
                   " --steps %d\n",
                   sim_seed, sim_world, sim_step_number, sim_seed, sim_world, WORLD_STEPS); // fits
}

_Noreturn void sim_broken(const char *file, int line, const char *law, const char *detail)
{
    char text[256];
    where(text, sizeof text);
    (void)fflush(stdout);
    (void)fprintf(stderr, "%s:%d: broken: %s%s%s\n%s", file, line, law, detail ? ": " : "",
                  detail ? detail : "", text);
    _exit(1);
}

/* A CHECK of the code under test, or worse. */
static void crashed(int signal)
{
    char text[256];
    where(text, sizeof text);
    (void)!write(STDERR_FILENO, text, strlen(text)); // nothing else can be done about it here
    _exit(128 + signal);
}

static void counts_add(struct sim_counts *sum, const struct sim_counts *counts)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)counts;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) to[i] += from[i];
}

static void seed_run(uint64_t seed, uint64_t world_first, uint64_t steps, struct sim_counts *sum)
{
    static struct sim sim;
    sim_seed = seed;
    sim_world = world_first;
    for (uint64_t done = 0; done < steps; sim_world++) {
        sim_open(&sim, rng_at(seed, sim_world, 0));
        for (sim_step_number = 0; sim_step_number < WORLD_STEPS; sim_step_number++) sim_step(&sim);
        sim_drain(&sim);
        counts_add(sum, &sim.counts);
        done += sim.counts.steps;
        sim_close(&sim);
    }
}

static void report(const struct sim_counts *sum, uint64_t seeds, double seconds)
{
    printf("%" PRIu64 " seeds, %" PRIu64 " steps clean in %.1f s: %.0f steps/s\n", seeds, sum->steps, seconds,
           (double)sum->steps / seconds);
    printf("%" PRIu64 " tokens, %" PRIu64 " finished, %" PRIu64 " cancelled, %" PRIu64 " failed, %" PRIu64
           " expired, %" PRIu64 " preempted, %" PRIu64 " evicted, %" PRIu64 " of %" PRIu64
           " prefix tokens hit, %" PRIu64 " copies\n",
           sum->tokens, sum->finished, sum->cancelled, sum->failed, sum->expired, sum->preempted,
           sum->evicted, sum->hits, sum->queries, sum->copies);
    printf("workers died before %" PRIu64 ", taken %" PRIu64 ", amidst %" PRIu64 ", untold %" PRIu64
           ", told %" PRIu64 "; refused %" PRIu64 ", lied %" PRIu64 "\n%" PRIu64 " daemons died, %" PRIu64
           " pages adopted; %" PRIu64 " pages damaged, %" PRIu64 " met and found\n%" PRIu64
           " plans beside another group's step, %" PRIu64 " changes of group, %" PRIu64 " answers in doubt\n",
           sum->faults[SIM_DIES_BEFORE], sum->faults[SIM_DIES_TAKEN], sum->faults[SIM_DIES_AMIDST],
           sum->faults[SIM_DIES_UNTOLD], sum->faults[SIM_DIES_TOLD], sum->faults[SIM_REFUSES],
           sum->faults[SIM_LIES], sum->faults[SIM_DAEMON_DIES], sum->adopted, sum->damaged, sum->found,
           sum->overlaps, sum->moves, sum->voids);
}

int main(int argc, char **argv)
{
    enum { FIRST_SEED, SEEDS, STEPS, FIRST_WORLD, OPTION_COUNT };
    static const struct option options[] = {[FIRST_SEED] = {"first-seed", required_argument, NULL, 0},
                                            [SEEDS] = {"seeds", required_argument, NULL, 0},
                                            [STEPS] = {"steps", required_argument, NULL, 0},
                                            [FIRST_WORLD] = {"first-world", required_argument, NULL, 0},
                                            [OPTION_COUNT] = {NULL, 0, NULL, 0}};
    uint64_t values[OPTION_COUNT] = {1, 20, 10000, 0};
    const char *seed_text = getenv("KVASIR_SEED");
    if (seed_text) values[FIRST_SEED] = strtoull(seed_text, NULL, 0);
    int at = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, &at)) != -1;) {
        if (c != 0) {
            (void)fputs(usage, stderr);
            return 64;
        }
        values[at] = strtoull(optarg, NULL, 0);
    }
    (void)signal(SIGABRT, crashed);
    (void)signal(SIGSEGV, crashed);
    struct sim_counts sum = {0};
    uint64_t begin_ns = clock_mono_ns();
    for (uint64_t i = 0; i < values[SEEDS]; i++)
        seed_run(values[FIRST_SEED] + i, values[FIRST_WORLD], values[STEPS], &sum);
    report(&sum, values[SEEDS], (double)(clock_mono_ns() - begin_ns) / 1e9);
    return 0;
}
