/* SPDX-License-Identifier: Apache-2.0 */
/* trace - what the order of eviction is worth on recorded traffic.
 *
 *   trace --trace FILE [--capacity LIST] [--prompt-rate TOKENS_S] [--output-ms MS]
 *
 * For each capacity, in blocks of the trace: blocks found by least recently used, by Kvasir's order, and by an order
 * that knows the future, all with a request over before the next arrives; the share of the gap closed; then the first
 * two with a model of time, in which running requests hold their pages. Nanoseconds are of the whole replay for a
 * block. */
#include <stdlib.h>
#include <string.h>

#include "bench/machine.h"
#include "bench/replay.h"
#include "common/base/check.h"

enum { CAPACITIES_MAX = 16 };

struct options {
    const char *path;
    uint32_t capacities[CAPACITIES_MAX], capacity_count;
    double prompt_rate, output_ms;
};

static int usage(void)
{
    fprintf(stderr,
            "usage: trace --trace FILE [--capacity LIST] [--prompt-rate TOKENS_S] [--output-ms MS]\n");
    return 64;
}

static bool capacities_parse(struct options *options, const char *list)
{
    for (options->capacity_count = 0; options->capacity_count < CAPACITIES_MAX;) {
        char *end;
        unsigned long value = strtoul(list, &end, 10);
        if (end == list || value == 0 || value > PAGES_MAX) return false;
        options->capacities[options->capacity_count++] = (uint32_t)value;
        if (*end == 0) return true;
        if (*end != ',') return false;
        list = end + 1;
    }
    return false;
}

static bool options_parse(int argc, char **argv, struct options *options)
{
    *options = (struct options){.capacities = {2000, 5000, 10000, 20000},
                                .capacity_count = 4,
                                .prompt_rate = 100000,
                                .output_ms = 10};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) return false;
        if (strcmp(argv[i], "--trace") == 0) options->path = value;
        else if (strcmp(argv[i], "--prompt-rate") == 0) options->prompt_rate = atof(value);
        else if (strcmp(argv[i], "--output-ms") == 0) options->output_ms = atof(value);
        else if (strcmp(argv[i], "--capacity") != 0 || !capacities_parse(options, value)) return false;
    }
    return options->path && options->prompt_rate > 0 && options->output_ms >= 0;
}

static int print_row(const struct trace *trace, const struct options *options, uint32_t capacity,
                     struct err *err)
{
    struct replay_result results[2][2]; // without and with time, by order
    for (int timed = 0; timed < 2; timed++) {
        struct replay_conf conf = {.page_count = capacity};
        if (timed) {
            conf.prompt_token_ns = (uint64_t)(1e9 / options->prompt_rate);
            conf.output_token_ns = (uint64_t)(1e6 * options->output_ms);
        }
        for (int i = 0; i < 2; i++) {
            conf.order = i ? LEAVES_BY_REUSE : LEAVES_BY_LAST_USE;
            int r = replay_run(trace, &conf, &results[timed][i], err);
            if (r < 0) return r;
        }
    }
    uint64_t bound;
    int r = replay_bound(trace, capacity, &bound);
    if (r < 0) return ERR(err, r, "out of memory");
    double percent = 100.0 / trace->block_count, lru = percent * (double)results[0][0].hits,
           ours = percent * (double)results[0][1].hits, best = percent * (double)bound;
    double gap = best > lru ? 100 * (ours - lru) / (best - lru) : 0;
    printf("%-9u %6.2f %7.2f %7.2f %7.1f  %9.2f %7.2f %6llu  %7.0f %7.0f\n", capacity, lru, ours, best, gap,
           percent * (double)results[1][0].hits, percent * (double)results[1][1].hits,
           (unsigned long long)results[1][1].late, (double)results[0][0].wall_ns / trace->block_count,
           (double)results[0][1].wall_ns / trace->block_count);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options;
    struct trace trace;
    struct err err = {0};
    double token_ns = 0;
    if (!options_parse(argc, argv, &options)) return usage();
    int r = trace_open(options.path, &trace, &err);
    if (r < 0) goto out;
    machine_print_header(stdout);
    printf("# trace: %u requests, %u blocks, %u different\n", trace.request_count, trace.block_count,
           trace.id_count);
    printf("%-9s %6s %7s %7s %7s  %9s %7s %6s  %15s\n", "", "found, of all blocks", "", "", "gap",
           "with time", "", "waits", "ns for a block");
    printf("%-9s %6s %7s %7s %7s  %9s %7s %6s  %7s %7s\n", "capacity", "LRU %", "ours %", "best %", "%",
           "LRU %", "ours %", "", "LRU", "ours");
    for (uint32_t i = 0; r == 0 && i < options.capacity_count; i++)
        r = print_row(&trace, &options, options.capacities[i], &err);
    if (r == 0) r = replay_lookup(&trace, options.capacities[options.capacity_count - 1], &token_ns, &err);
    if (r == 0) printf("lookup: %.2f ns for a token\n", token_ns);
    trace_free(&trace);
out:
    if (r < 0) fprintf(stderr, "trace: %s\n", err.text);
    return r < 0;
}
