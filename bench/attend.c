/* SPDX-License-Identifier: Apache-2.0 */
/* attend - the speed of attention alone, on pages that lie in memory as a server's do.
 *
 *   attend [--level NAME] [--threads N] [--rounds N] [--heads N] [--heads-kv N] [--dims N] [--layers N]
 *          [--context N] [--seqs N] [--rows N] [--kv f16|bf16|q8|q4] [--window N] [--softcap N] [--sinks]
 *          [--shared N] [--huge] [--cpu] [--pin]
 *
 * A round attends once in every layer: --rows new rows of each of --seqs sequences that end at --context. Pages
 * are dealt out in a random order; the first --shared tokens of all sequences lie in the same ones. Prints one line
 * of CSV: microseconds of a round (median, best), GB/s of pages read (each key and value once a round), GMAC/s of the
 * products that causality asks for - both as if there was no --window -, and a hash of the results, which two builds
 * with the same order of sums share. --huge asks for huge pages; --cpu counts the process's CPU time instead of the
 * clock; --pin gives each thread a core. */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/machine.h"
#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "worker/kern/kern.h"

enum { ROUNDS_MAX = 1001, DIMS_MAX = 256 };

struct options {
    const char *level;
    uint32_t threads, rounds, heads, heads_kv, dims, layers, context, seqs, rows, kv_type;
    uint32_t window, softcap, shared;
    bool sinks, huge, cpu, pin;
};

struct rig {
    struct options options;
    const struct kern_ops *ops;
    struct kern_conf conf;
    struct kern *kern;
    struct kern_attend_options attend;
    struct kern_rows *qkv, *out;
    struct kern_weight *table; // rows to start from: attend rotates its own in place
    uint32_t *tokens;          // (seqs * rows)
    float angles[DIMS_MAX / 2];
    uint32_t page_count; // of each sequence
    uint32_t *pages;     // (seqs, page_count)
    uint32_t *positions; // (seqs * rows)
    struct kern_seq *seqs;
    struct kern_batch batch;
};

static void stop(const struct err *err)
{
    fprintf(stderr, "attend: %s\n", err->text);
    exit(err_exit_status(err->code));
}

static void make_table(struct rig *rig)
{
    enum { TABLE = 61 };
    uint32_t cols = rig->conf.head_dims * (rig->conf.head_count + 2 * rig->conf.head_count_kv);
    float *table = malloc((size_t)TABLE * cols * sizeof(*table));
    struct rng rng = {5};
    struct err err = {0};
    rig->tokens = malloc(rig->conf.rows_max * sizeof(*rig->tokens));
    CHECK(table != NULL);
    CHECK(rig->tokens != NULL);
    for (size_t i = 0; i < (size_t)TABLE * cols; i++) table[i] = (float)rng_below(&rng, 2001) * 0.002f - 2.0f;
    for (uint32_t i = 0; i < rig->conf.rows_max; i++) rig->tokens[i] = i % TABLE;
    struct kern_matrix matrix = {.data = table, .type = 0, .rows = TABLE, .cols = cols};
    if (rig->ops->weight_new(rig->kern, &matrix, 1, KERN_CONCAT, &rig->table, &err) < 0) stop(&err);
    free(table);
}

static void open_rig(struct rig *rig)
{
    const struct options *o = &rig->options;
    struct err err = {0};
    if (kern_select(o->level, &rig->ops, &err) < 0) stop(&err);
    for (uint32_t i = 0; i < o->dims / 2; i++)
        rig->angles[i] = powf(10000.0f, -2.0f * (float)i / (float)o->dims);
    rig->page_count = (o->context + PAGE_TOKENS - 1) / PAGE_TOKENS;
    uint32_t all = rig->page_count * o->seqs, rows = o->seqs * o->rows;
    rig->conf = (struct kern_conf){
        .threads = o->threads,
        .pin_threads = o->pin,
        .rows_max = rows,
        .cache = {.page_bytes = (uint64_t)o->layers * o->heads_kv *
                                kern_kv_head_bytes(o->kv_type, o->dims, PAGE_TOKENS),
                  .page_count = all,
                  .page_tokens = PAGE_TOKENS,
                  .layer_count = o->layers,
                  .head_count_kv = o->heads_kv,
                  .head_dims = o->dims,
                  .kv_type = o->kv_type},
        .rope = {.dims = o->dims, .angles = rig->angles, .position_max = o->context},
        .head_count = o->heads,
        .head_count_kv = o->heads_kv,
        .head_dims = o->dims,
        .attention_scale = 1.0f / sqrtf((float)o->dims),
        .rms_epsilon = 1e-5f};
    size_t bytes = rig->conf.cache.page_bytes * all;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                      0);
    CHECK(base != MAP_FAILED);
    (void)madvise(base, bytes, o->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); // what the option asks for
    for (size_t i = 0; i < bytes / 2; i++)
        ((uint16_t *)base)[i] = (uint16_t)(0x2C00 + i % 1021); // 0.06 to 0.12
    rig->conf.cache.base = base;
    if (rig->ops->open(&rig->conf, &rig->kern, &err) < 0) stop(&err);
    uint32_t cols = o->dims * (o->heads + 2 * o->heads_kv);
    if (rig->ops->rows_new(rig->kern, rows, cols, &rig->qkv, &err) < 0) stop(&err);
    if (rig->ops->rows_new(rig->kern, rows, o->dims * o->heads, &rig->out, &err) < 0) stop(&err);
    rig->attend = (struct kern_attend_options){.window = o->window, .softcap = (float)o->softcap};
    if (!o->sinks) return;
    float *logits = calloc(o->heads, sizeof(*logits));
    struct kern_vector *sinks;
    CHECK(logits != NULL);
    if (rig->ops->vector_new(rig->kern, logits, o->heads, &sinks, &err) < 0) stop(&err);
    rig->attend.sinks = sinks;
    free(logits);
}

static void deal(struct rig *rig)
{
    const struct options *o = &rig->options;
    uint32_t all = rig->page_count * o->seqs;
    struct rng rng = {7};
    rig->pages = malloc(all * sizeof(*rig->pages));
    rig->positions = malloc((size_t)o->seqs * o->rows * sizeof(*rig->positions));
    rig->seqs = calloc(o->seqs, sizeof(*rig->seqs));
    CHECK(rig->pages != NULL);
    CHECK(rig->positions != NULL);
    CHECK(rig->seqs != NULL);
    for (uint32_t i = 0; i < all; i++) rig->pages[i] = i;
    for (uint32_t i = all; i > 1; i--) {
        uint32_t other = (uint32_t)rng_below(&rng, i), page = rig->pages[i - 1];
        rig->pages[i - 1] = rig->pages[other];
        rig->pages[other] = page;
    }
    for (uint32_t s = 1; s < o->seqs; s++)
        memcpy(rig->pages + (size_t)s * rig->page_count, rig->pages,
               o->shared / PAGE_TOKENS * sizeof(*rig->pages));
    for (uint32_t s = 0; s < o->seqs; s++) {
        rig->seqs[s] = (struct kern_seq){.row_first = s * o->rows,
                                         .row_count = o->rows,
                                         .pos_first = o->context - o->rows,
                                         .pages = rig->pages + (size_t)s * rig->page_count,
                                         .page_count = rig->page_count};
        for (uint32_t i = 0; i < o->rows; i++) rig->positions[s * o->rows + i] = o->context - o->rows + i;
    }
    rig->batch = (struct kern_batch){.row_count = o->seqs * o->rows,
                                     .tokens = rig->tokens,
                                     .positions = rig->positions,
                                     .seq_count = o->seqs,
                                     .seqs = rig->seqs};
}

static void measure(struct rig *rig)
{
    static double seconds[ROUNDS_MAX];
    const struct options *o = &rig->options;
    uint64_t hash = 0;
    for (uint32_t round = 0; round <= o->rounds; round++) {
        rig->ops->embed(rig->kern, rig->table, &rig->batch, rig->qkv);
        double time = 0;
        for (uint32_t layer = 0; layer < o->layers; layer++) {
            struct timespec a, b;
            clock_gettime(o->cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &a);
            rig->ops->attend(rig->kern, layer, &rig->attend, rig->qkv, &rig->batch, rig->out);
            clock_gettime(o->cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &b);
            time += (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
            if (round == 0)
                hash ^= hash64(rig->ops->fetch(rig->kern, rig->out, o->seqs * o->rows),
                               (size_t)o->seqs * o->rows * o->heads * o->dims * sizeof(float)) *
                        (2 * layer + 1);
        }
        if (round > 0) seconds[round - 1] = time; // the first touches every page once
    }
    double median = machine_median(seconds, o->rounds);
    double bytes = (double)rig->conf.cache.page_bytes / PAGE_TOKENS * o->context * o->seqs;
    double pairs = ((double)o->context - 0.5 * (o->rows - 1)) * o->rows * o->seqs;
    double macs = pairs * o->heads * o->dims * 2 * o->layers;
    printf("%s,%u,%u,%u,%u,%u,%u,%u,%.1f,%.1f,%.2f,%.2f,%016lx\n", rig->ops->name, o->threads, o->heads,
           o->heads_kv, o->dims, o->context, o->seqs, o->rows, median * 1e6, seconds[0] * 1e6,
           bytes / median * 1e-9, macs / median * 1e-9, (unsigned long)hash);
}

static int usage(void)
{
    fprintf(stderr, "usage: attend [--level NAME] [--threads N] [--rounds N] [--heads N] [--heads-kv N] "
                    "[--dims N] [--layers N] [--context N] [--seqs N] [--rows N] [--kv f16|bf16|q8|q4] "
                    "[--window N] [--softcap N] [--sinks] [--shared N] [--huge] [--cpu]\n");
    return 64;
}

static bool parse_kv(const char *name, uint32_t *ret_type)
{
    static const char *const names[] = {"f16", "bf16", "q8", "q4"}; // in the order of enum kern_kv
    for (uint32_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *ret_type = i;
        return true;
    }
    return false;
}

static bool parse(int argc, char **argv, struct options *ret)
{
    struct options o = {.threads = machine_cores(),
                        .rounds = 15,
                        .heads = 9,
                        .heads_kv = 3,
                        .dims = 64,
                        .layers = 30,
                        .context = 256,
                        .seqs = 1,
                        .rows = 1,
                        .level = getenv("KVASIR_KERNELS")};
    const struct {
        const char *name;
        uint32_t *value;
    } numbers[] = {{"--threads", &o.threads},   {"--rounds", &o.rounds},   {"--heads", &o.heads},
                   {"--heads-kv", &o.heads_kv}, {"--dims", &o.dims},       {"--layers", &o.layers},
                   {"--context", &o.context},   {"--seqs", &o.seqs},       {"--rows", &o.rows},
                   {"--window", &o.window},     {"--softcap", &o.softcap}, {"--shared", &o.shared}};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc, found = true;
        if (strcmp(argv[i], "--huge") == 0) o.huge = true;
        else if (strcmp(argv[i], "--cpu") == 0) o.cpu = true;
        else if (strcmp(argv[i], "--pin") == 0) o.pin = true;
        else if (strcmp(argv[i], "--sinks") == 0) o.sinks = true;
        else if (strcmp(argv[i], "--level") == 0 && has_value) o.level = argv[++i];
        else if (strcmp(argv[i], "--kv") == 0 && has_value) found = parse_kv(argv[++i], &o.kv_type);
        else found = false;
        for (size_t n = 0; n < COUNT_OF(numbers) && !found && has_value; n++) {
            if (strcmp(argv[i], numbers[n].name) != 0) continue;
            *numbers[n].value = (uint32_t)atoi(argv[++i]);
            found = *numbers[n].value > 0;
        }
        if (!found) return false;
    }
    *ret = o;
    return o.rounds <= ROUNDS_MAX && o.rows + o.shared <= o.context && o.dims <= DIMS_MAX &&
           o.heads % o.heads_kv == 0;
}

int main(int argc, char **argv)
{
    struct rig rig = {0};
    if (!parse(argc, argv, &rig.options)) return usage();
    open_rig(&rig);
    make_table(&rig);
    deal(&rig);
    measure(&rig);
    rig.ops->close(rig.kern);
    (void)munmap(rig.conf.cache.base, rig.conf.cache.page_bytes * rig.conf.cache.page_count); // our own
    free(rig.tokens);
    free(rig.pages);
    free(rig.positions);
    free(rig.seqs);
    return 0;
}
