/* SPDX-License-Identifier: Apache-2.0 */
/* sched - the price of scheduling: a step's order and the booking of its answer, and of looking prompts up.
 *
 *   sched [--cpu] [--steps N] [--context N] [--us-per-token N] [--load N]
 *
 * A step is all that the daemon does for it between one answer and the next order, but the rings' counters: sched_plan,
 * writing the order into its slot, copying the answer out of its own, verifying it, sched_complete.
 * Verifying the order and making the answer up is the worker's part. What is done once a sequence and not once a step,
 * sched_submit and sched_remove, is told beside it, and so is sched_reserve, which runs while the workers do. Every
 * sequence that ends is followed by a new one, so that as many run and wait all the time, with prompts of --context
 * tokens on average, a quarter of which begin with one of eight shared prefixes. Two kinds of load: places are what
 * is scarce, or pages, where in every step the first that waits is looked at and some more after it.
 *
 * Lookup: chain keys and index, a token, over prompts of 4,000 tokens that are all in the cache. Zero hits: what the
 * cache costs for a token of prompts that nobody shares - its part of a key, a lookup in vain, a seal, and later an
 * eviction - as a share of what the model takes for the token: --us-per-token, by default 100 us, that is 10,000 prompt
 * tokens a second. --cpu counts the thread's CPU time instead of the clock, for a machine that others use too.
 *
 * Prints a line of CSV each: name, value, unit, target, share of the target. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/machine.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "tests/data/sched_rig.h"

enum { PREFIXES = 8, PREFIX_TOKENS = 128, LOOKUP_TOKENS = 4000, LOOKUP_PROMPTS = 64, OUTPUT_MAX = 1024 };

struct options {
    uint32_t steps, context, us_per_token;
    uint32_t load; // 1 to 4: that one alone; 0: all, and the prompts
};

struct load {
    const char *name;
    uint32_t running, waiting;
    bool short_of_pages;
    double target_us;
};

static clockid_t clock_id = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void line(const char *name, double value, const char *unit, double target)
{
    printf("%s,%.4g,%s,%.4g,%.2f\n", name, value, unit, target, value / target);
    fflush(stdout);
}

/* ---- steps ---- */

struct part_times { // of a step, seconds
    double plan, write, check, book;
    double reserve;     // beside it: while the workers compute
    double end, submit; // likewise: those that ended after it, and those that came in before it
};

struct bench {
    struct sched_rig rig;
    struct options options;
    struct rng rng;
    uint32_t *tokens; // (2 * context)
    void *plan_slot, *done_copy;
    double submit; // seconds, since the last step
};

/* A prompt of half to one and a half times the context. */
static void submit(struct bench *bench)
{
    uint32_t context = bench->options.context,
             count = context / 2 + (uint32_t)rng_below(&bench->rng, context);
    uint32_t shared = rng_below(&bench->rng, 4) == 0 ? 1 + (uint32_t)rng_below(&bench->rng, PREFIXES) : 0;
    for (uint32_t i = 0; i < count; i++)
        bench->tokens[i] = shared && i < PREFIX_TOKENS ? shared * 1000 + i
                                                       : (uint32_t)rng_below(&bench->rng, 1 << 15);
    struct sched_request request = {.prompt = bench->tokens,
                                    .prompt_count = count,
                                    .output_max = OUTPUT_MAX,
                                    .priority = (int32_t)rng_below(&bench->rng, 3),
                                    .owner = bench};
    uint64_t seq_id;
    double start = now();
    int r = sched_rig_submit(&bench->rig, &request, &seq_id);
    bench->submit += now() - start;
    CHECK(r == 0);
}

/* Ends those that have their tokens. -> seconds of ending them. */
static double finish(struct bench *bench, int events)
{
    struct sched_rig *rig = &bench->rig;
    double seconds = 0;
    for (int i = 0; i < events; i++) {
        struct sched_seq_info info;
        if (!sched_has(rig->sched, rig->events[i].seq_id)) continue;
        sched_seq_info(rig->sched, rig->events[i].seq_id, &info);
        if (info.output_count < OUTPUT_MAX && rng_below(&bench->rng, OUTPUT_MAX / 2) != 0) continue;
        double start = now();
        sched_remove(rig->sched, rig->events[i].seq_id, rig->now_ns);
        seconds += now() - start;
    }
    return seconds;
}

/* One step: seconds of its parts. */
static struct part_times step(struct bench *bench)
{
    struct sched_rig *rig = &bench->rig;
    struct plan_view workers;
    struct done_view done;
    rig->now_ns += 20 * NS_PER_MS;
    double start = now();
    int seqs = sched_plan(rig->sched, 0, rig->now_ns, rig->writer);
    double planned = now();
    CHECK(seqs > 0);
    size_t bytes = plan_writer_finish(rig->writer, bench->plan_slot, rig->plan_size);
    plan_writer_view(rig->writer, &rig->plan);
    double written = now();
    sched_reserve(rig->sched, pool_geometry(rig->pool)->page_count / SCHED_RESERVE_SHARE);
    double reserved = now();
    int r = plan_verify(bench->plan_slot, bytes, &rig->limits, &workers, NULL);
    CHECK(r == 0);
    bytes = sched_rig_answer_write(rig);
    double answered = now();
    memcpy(bench->done_copy, rig->done_bytes, bytes);
    r = done_verify(bench->done_copy, bytes, &rig->limits, &rig->plan, &done, NULL);
    CHECK(r == 0);
    double checked = now();
    int events = sched_complete(rig->sched, 0, rig->now_ns, &done, rig->events);
    double booked = now();
    CHECK(events >= 0);
    struct part_times times = {.plan = planned - start,
                               .write = written - planned,
                               .check = checked - answered,
                               .book = booked - checked,
                               .reserve = reserved - written,
                               .end = finish(bench, events),
                               .submit = bench->submit};
    bench->submit = 0;
    return times;
}

static void fill(struct bench *bench, const struct load *load)
{
    struct sched_stats stats;
    for (;;) {
        sched_stats(bench->rig.sched, &stats);
        uint32_t wanted = load->running + load->waiting;
        if (load->short_of_pages && stats.running_count >= load->running)
            wanted = stats.running_count + load->waiting;
        if (stats.running_count + stats.waiting_count >= wanted) return;
        submit(bench);
    }
}

static void times_print(const struct load *load, const struct part_times *times, uint32_t count)
{
    static const char *const names[] = {"planning", "writing", "verifying",  "booking",
                                        "reserve",  "ends",    "submissions"};
    double *seconds = calloc(count, sizeof *seconds), *sums = calloc(count, sizeof *sums), worst = 0;
    CHECK(seconds && sums);
    printf("# medians, us:");
    for (size_t part = 0; part < COUNT_OF(names); part++) {
        for (uint32_t i = 0; i < count; i++) {
            const double parts[] = {times[i].plan,    times[i].write, times[i].check, times[i].book,
                                    times[i].reserve, times[i].end,   times[i].submit};
            seconds[i] = parts[part];
            if (part < 4) sums[i] += parts[part];
            if (sums[i] > worst) worst = sums[i];
        }
        printf(" %s %.1f,", names[part], machine_median(seconds, count) * 1e6);
    }
    printf(" slowest step %.0f\n", worst * 1e6);
    line(load->name, machine_median(sums, count) * 1e6, "us/step", load->target_us);
    free(seconds);
    free(sums);
}

static int steps_run(const struct options *options, const struct load *load)
{
    struct bench bench = {.options = *options, .rng = {.state = 1}};
    uint32_t seq_pages = (options->context + OUTPUT_MAX / 4) / PAGE_TOKENS + 1;
    uint32_t places = load->short_of_pages ? load->running + load->running / 2 : load->running;
    if (places > PLAN_SEQS_MAX) places = PLAN_SEQS_MAX;
    struct sched_conf conf = {.seqs_max = places,
                              .tokens_max = PLAN_TOKENS_MAX,
                              .queue_max = 2 * load->waiting + 2 * places,
                              .model_len_max = 2 * options->context + OUTPUT_MAX,
                              .epoch = 7};
    uint32_t pages = load->running * seq_pages + (load->short_of_pages ? 0 : load->running * seq_pages / 2);
    if (sched_rig_open(&bench.rig, pages, &conf) < 0) return 1;
    bench.tokens = malloc(2 * options->context * sizeof *bench.tokens);
    bench.plan_slot = malloc(bench.rig.plan_size);
    bench.done_copy = malloc(bench.rig.done_size);
    struct part_times *times = malloc(options->steps * sizeof *times);
    CHECK(bench.tokens && bench.plan_slot && bench.done_copy && times);
    struct sched_stats stats = {0};
    for (uint32_t i = 0; i < 4 * load->running; i++) { // until as many run as can
        fill(&bench, load);
        (void)step(&bench);
    }
    double running = 0, waiting = 0;
    for (uint32_t i = 0; i < options->steps; i++) {
        fill(&bench, load);
        sched_stats(bench.rig.sched, &stats);
        running += stats.running_count;
        waiting += stats.waiting_count;
        times[i] = step(&bench);
    }
    printf("# %s: %.0f ran and %.0f waited on average, %u preempted\n", load->name, running / options->steps,
           waiting / options->steps, (uint32_t)stats.preemptions);
    times_print(load, times, options->steps);
    free(bench.tokens);
    free(bench.plan_slot);
    free(bench.done_copy);
    free(times);
    sched_rig_close(&bench.rig);
    return 0;
}

/* ---- prompts ---- */

static void prompt_make(uint32_t *tokens, uint32_t number)
{
    struct rng rng = {.state = number};
    for (uint32_t i = 0; i < LOOKUP_TOKENS; i++) tokens[i] = (uint32_t)rng_below(&rng, 1 << 15);
}

/* Takes, fills, seals and lets go all pages of a prompt, as the steps that compute it do. -> seconds. */
static double prompt_seal(struct sched_rig *rig, const uint32_t *tokens, uint64_t now_ns)
{
    struct hash128 key = {0};
    uint32_t parent = PAGE_NONE, pages[LOOKUP_TOKENS / PAGE_TOKENS];
    uint64_t sum = 1;
    double start = now();
    for (uint32_t i = 0; i < LOOKUP_TOKENS / PAGE_TOKENS; i++) {
        const uint32_t *page_tokens = tokens + i * PAGE_TOKENS;
        if (pool_free_count(rig->pool) == 0) (void)prefix_evict(rig->prefix); // there is always one
        int r = pool_grant(rig->pool, now_ns, &pages[i]);
        CHECK(r == 0);
        pool_fill(rig->pool, pages[i], page_tokens, PAGE_TOKENS);
        key = prefix_key(key, page_tokens);
        CHECK(prefix_find(rig->prefix, key, parent, page_tokens) == PAGE_NONE);
        prefix_seal(rig->prefix, pages[i], key, parent, &sum);
        parent = pages[i];
    }
    for (uint32_t i = LOOKUP_TOKENS / PAGE_TOKENS; i-- > 0;) prefix_release(rig->prefix, pages[i], now_ns);
    return now() - start;
}

static double prompt_look(const struct sched_rig *rig, const uint32_t *tokens)
{
    struct hash128 key = {0};
    uint32_t parent = PAGE_NONE;
    double start = now();
    for (uint32_t i = 0; i < LOOKUP_TOKENS / PAGE_TOKENS; i++) {
        key = prefix_key(key, tokens + i * PAGE_TOKENS);
        parent = prefix_find(rig->prefix, key, parent, tokens + i * PAGE_TOKENS);
        CHECK(parent != PAGE_NONE);
    }
    return now() - start;
}

static int prompts_run(const struct options *options)
{
    struct sched_rig rig;
    struct sched_conf conf = {
        .seqs_max = 8, .tokens_max = 512, .queue_max = 8, .model_len_max = 8192, .epoch = 7};
    if (sched_rig_open(&rig, LOOKUP_PROMPTS * LOOKUP_TOKENS / PAGE_TOKENS, &conf) < 0) return 1;
    uint32_t tokens[LOOKUP_TOKENS];
    double look[4 * LOOKUP_PROMPTS], sealed[4 * LOOKUP_PROMPTS];
    for (uint32_t i = 0; i < COUNT_OF(sealed);
         i++) { // past the first LOOKUP_PROMPTS each page wants an eviction
        prompt_make(tokens, i);
        sealed[i] = prompt_seal(&rig, tokens, i + 1);
        for (uint32_t k = 0; i == LOOKUP_PROMPTS - 1 && k < COUNT_OF(look);
             k++) { // all fit, none was evicted
            prompt_make(tokens, k % LOOKUP_PROMPTS);
            look[k] = prompt_look(&rig, tokens);
        }
    }
    line("prefix lookup", machine_median(look, COUNT_OF(look)) / LOOKUP_TOKENS * 1e9, "ns/token", 10);
    double zero_ns = machine_median(sealed + LOOKUP_PROMPTS, COUNT_OF(sealed) - LOOKUP_PROMPTS) /
                     LOOKUP_TOKENS * 1e9;
    printf("# keys, a lookup, sealing and eviction of prompts without a hit: %.2f ns a token\n", zero_ns);
    line("zero hits", zero_ns / (options->us_per_token * 1e3) * 100, "% of throughput", 0.5);
    sched_rig_close(&rig);
    return 0;
}

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
    struct options options = {.steps = 1000, .context = 512, .us_per_token = 100};
    if (argc > 1 && strcmp(argv[1], "--cpu") == 0) {
        clock_id = CLOCK_THREAD_CPUTIME_ID;
        argc--;
        argv++;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--steps") == 0) options.steps = number(argv[i + 1]);
        else if (strcmp(argv[i], "--context") == 0) options.context = number(argv[i + 1]);
        else if (strcmp(argv[i], "--us-per-token") == 0) options.us_per_token = number(argv[i + 1]);
        else if (strcmp(argv[i], "--load") == 0) options.load = number(argv[i + 1]);
        else argc = 0;
    }
    if (argc % 2 == 0 || options.steps == 0 || options.context < 256 || options.us_per_token == 0) {
        fprintf(stderr, "usage: sched [--cpu] [--steps N] [--context N] [--us-per-token N] [--load N]\n");
        return 64;
    }
    static const struct load loads[] = {
        {"256 running 1000 waiting", 256, 1000, false, 50},
        {"the same short of pages", 170, 1000, true, 50},
        {"2048 running 10000 waiting", 2048, 10000, false, 400},
        {"the same short of pages", 1365, 10000, true, 400},
    };
    machine_print_header(stdout);
    puts("name,value,unit,target,share of target");
    int r = 0;
    for (size_t i = 0; i < COUNT_OF(loads) && r == 0; i++)
        if (options.load == 0 || options.load == i + 1) r = steps_run(&options, &loads[i]);
    return r || options.load ? r : prompts_run(&options);
}
