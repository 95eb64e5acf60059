/* SPDX-License-Identifier: Apache-2.0 */
/* model - the speed of a model's forward pass, without server or sampling.
 *
 *   model MODEL.gguf [--level NAME] [--threads N] [--rounds N] [--context N] [--pin] [--profile] [--quick] [--cpu]
 *         [--shm]
 *
 * Prints lines of CSV below a header on the machine: a prompt of 512 tokens, then one decode step of 1 to 64
 * sequences that have --context tokens each; medians over the rounds. "share" is of the int8 dot peak
 * (see peaks.c), counting every weight once a row; "gbs" counts weights once and keys and values read a
 * step. --profile adds the median milliseconds of each op. --cpu counts the process's CPU time instead of
 * the clock, and the best round instead of the median: with one thread, what the code costs on a machine
 * that others use too. --shm: weights and pages in shared memory, as the server has them. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/machine.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/gguf/facts.h"
#include "common/gguf/file.h"
#include "common/shm/segment.h"
#include "worker/model.h"

enum { PROMPT = 512, BATCH_MAX = 64, ROUNDS_MAX = 101, OPS_COUNT = 6 };

struct options {
    const char *path, *level;
    uint32_t threads, rounds, context;
    bool pin, profile, quick, cpu, shm;
};

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- the profile: ops that measure themselves */

enum { OP_EMBED, OP_QKV, OP_ATTEND, OP_ADD, OP_GATE_UP, OP_HEAD };
static const char *const op_names[OPS_COUNT] = {"embed", "qkv", "attend", "o+down", "gate_up", "head"};
static const struct kern_ops *timed_ops; // the ops that are measured
static double op_seconds[OPS_COUNT];     // of the current step

static void timed_embed(struct kern *kern, const struct kern_weight *embedding,
                        const struct kern_batch *batch, struct kern_rows *x)
{
    double start = now();
    timed_ops->embed(kern, embedding, batch, x);
    op_seconds[OP_EMBED] += now() - start;
}

static void timed_norm_project(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                               const struct kern_weight *weight, const struct kern_vector *bias,
                               uint32_t row_count, struct kern_rows *out)
{
    double start = now();
    timed_ops->norm_project(kern, x, norm, weight, bias, row_count, out);
    op_seconds[OP_QKV] += now() - start;
}

static void timed_attend(struct kern *kern, uint32_t layer, struct kern_rows *qkv,
                         const struct kern_batch *batch, struct kern_rows *out)
{
    double start = now();
    timed_ops->attend(kern, layer, qkv, batch, out);
    op_seconds[OP_ATTEND] += now() - start;
}

static void timed_project_add(struct kern *kern, const struct kern_rows *in, const struct kern_weight *weight,
                              const struct kern_vector *bias, uint32_t row_count, struct kern_rows *x)
{
    double start = now();
    timed_ops->project_add(kern, in, weight, bias, row_count, x);
    op_seconds[OP_ADD] += now() - start;
}

static void timed_norm_gate_up(struct kern *kern, const struct kern_rows *x, const struct kern_vector *norm,
                               const struct kern_weight *gate_up, const struct kern_vector *gate_bias,
                               const struct kern_vector *up_bias, uint32_t row_count, struct kern_rows *out)
{
    double start = now();
    timed_ops->norm_gate_up(kern, x, norm, gate_up, gate_bias, up_bias, row_count, out);
    op_seconds[OP_GATE_UP] += now() - start;
}

static void timed_norm_head(struct kern *kern, const struct kern_rows *x, const uint32_t *rows,
                            uint32_t row_count, const struct kern_vector *norm,
                            const struct kern_weight *weight, struct kern_rows *logits)
{
    double start = now();
    timed_ops->norm_head(kern, x, rows, row_count, norm, weight, logits);
    op_seconds[OP_HEAD] += now() - start;
}

static const struct kern_ops *timed(const struct kern_ops *ops)
{
    static struct kern_ops copy;
    timed_ops = ops;
    copy = *ops;
    copy.embed = timed_embed;
    copy.norm_project = timed_norm_project;
    copy.attend = timed_attend;
    copy.project_add = timed_project_add;
    copy.norm_gate_up = timed_norm_gate_up;
    copy.norm_head = timed_norm_head;
    return &copy;
}

/* ---- the model and its pages */

struct rig {
    struct options options;
    struct gguf_file file;
    struct model_facts facts;
    struct kern_cache cache;
    struct model *model;
    struct machine_peaks peaks;
    uint64_t macs;         // of one row, without the head
    uint64_t macs_head;    // of one row of logits
    uint32_t pages_a_seq;  // pages of each sequence: page i of sequence s is i * BATCH_MAX + s
    uint32_t *pages;       // (BATCH_MAX, pages_a_seq)
    uint64_t kv_row_bytes; // keys and values of one position, all layers
};

static void stop(const struct err *err)
{
    fprintf(stderr, "model: %s\n", err->text);
    exit(err_exit_status(err->code));
}

/* Zeroed memory for the process's life, made and reserved as the server's. */
static void *shared_memory(const char *part, size_t bytes)
{
    char instance[32];
    struct segment segment;
    struct err err = {0};
    (void)snprintf(instance, sizeof instance, "bench-%ld", (long)getpid()); // fits
    if (segment_create(instance, part, bytes, &segment, &err) < 0) stop(&err);
    (void)segment_unlink(instance, part); // the mapping holds the memory
    return segment.base;
}

static void *pages_memory(const struct rig *rig)
{
    size_t bytes = rig->cache.page_count * rig->cache.page_bytes;
    return rig->options.shm ? shared_memory("kv", bytes) : calloc(1, bytes);
}

static struct kern_store store_memory(const struct rig *rig, const struct kern_ops *ops)
{
    struct kern_store store = {.base = NULL};
    struct hash128 content;
    struct err err = {0};
    if (!rig->options.shm) return store;
    if (model_measure(rig->file.gguf, &rig->facts, ops, &store.bytes, &content, &err) < 0) stop(&err);
    if (store.bytes > 0) store.base = shared_memory("weights", store.bytes);
    return store;
}

static void open_rig(struct rig *rig)
{
    const struct options *options = &rig->options;
    const struct kern_ops *ops;
    struct err err = {0};
    if (kern_select(options->level, &ops, &err) < 0) stop(&err);
    if (gguf_file_open(options->path, &rig->file, &err) < 0) stop(&err);
    if (model_facts_read(rig->file.gguf, &rig->facts, &err) < 0) stop(&err);
    const struct model_facts *f = &rig->facts;
    uint32_t longest = PROMPT > options->context + ROUNDS_MAX ? PROMPT : options->context + ROUNDS_MAX;
    rig->pages_a_seq = (longest + PAGE_TOKENS - 1) / PAGE_TOKENS;
    rig->kv_row_bytes = (uint64_t)f->layer_count * f->head_count_kv * 2 * f->head_dims * 2;
    rig->cache = (struct kern_cache){.page_bytes = rig->kv_row_bytes * PAGE_TOKENS,
                                     .page_count = rig->pages_a_seq * BATCH_MAX,
                                     .page_tokens = PAGE_TOKENS,
                                     .layer_count = f->layer_count,
                                     .head_count_kv = f->head_count_kv,
                                     .head_dims = f->head_dims,
                                     .kv_type = KERN_KV_F16};
    rig->cache.base = pages_memory(rig);
    rig->pages = calloc((size_t)BATCH_MAX * rig->pages_a_seq, sizeof(*rig->pages));
    CHECK(rig->cache.base != NULL);
    CHECK(rig->pages != NULL);
    for (uint32_t s = 0; s < BATCH_MAX; s++) {
        for (uint32_t i = 0; i < rig->pages_a_seq; i++)
            rig->pages[s * rig->pages_a_seq + i] = i * BATCH_MAX + s;
    }
    uint64_t qkv = (uint64_t)(f->head_count + 2 * f->head_count_kv) * f->head_dims;
    uint64_t a_layer = (qkv + (uint64_t)f->head_count * f->head_dims + 3ull * f->feed_forward_dims) *
                       f->embedding_dims;
    rig->macs = a_layer * f->layer_count;
    rig->macs_head = (uint64_t)f->vocab_count * f->embedding_dims;
    struct model_conf conf = {.ops = options->profile ? timed(ops) : ops,
                              .threads = options->threads,
                              .pin_threads = options->pin,
                              .rows_max = PROMPT,
                              .logits_max = BATCH_MAX,
                              .position_max = longest,
                              .cache = rig->cache,
                              .store = store_memory(rig, ops)};
    double start = now();
    if (model_open(rig->file.gguf, f, &conf, &rig->model, &err) < 0) stop(&err);
    printf("# model: %s, level %s, %u threads%s, opened in %.2f s, weights %.1f MB\n", f->name, ops->name,
           options->threads, options->pin ? " pinned" : "", now() - start,
           (double)model_weight_bytes(rig->model) * 1e-6);
}

static void forward(struct rig *rig, uint32_t seq_count, uint32_t rows_a_seq, uint32_t pos_first)
{
    static uint32_t tokens[PROMPT], positions[PROMPT], logit_rows[BATCH_MAX];
    static struct kern_seq seqs[BATCH_MAX];
    struct err err = {0};
    const float *logits;
    for (uint32_t s = 0; s < seq_count; s++) {
        seqs[s] = (struct kern_seq){.row_first = s * rows_a_seq,
                                    .row_count = rows_a_seq,
                                    .pos_first = pos_first,
                                    .pages = rig->pages + (size_t)s * rig->pages_a_seq,
                                    .page_count = rig->pages_a_seq};
        logit_rows[s] = (s + 1) * rows_a_seq - 1;
        for (uint32_t i = 0; i < rows_a_seq; i++) {
            positions[s * rows_a_seq + i] = pos_first + i;
            tokens[s * rows_a_seq + i] = (s * 7919 + i * 104729 + 13) % rig->facts.vocab_count;
        }
    }
    struct kern_batch batch = {.row_count = seq_count * rows_a_seq,
                               .tokens = tokens,
                               .positions = positions,
                               .seq_count = seq_count,
                               .seqs = seqs};
    if (model_forward(rig->model, &batch, logit_rows, seq_count, &logits, &err) < 0) stop(&err);
}

static double typical(const struct rig *rig, double *rounds)
{
    double median = machine_median(rounds, rig->options.rounds); // sorts
    return rig->options.cpu ? rounds[0] : median;
}

/* Rounds of one case: a decode step moves on by one position each round, a prompt starts again. */
static void run_case(struct rig *rig, const char *name, uint32_t seq_count, uint32_t rows_a_seq,
                     uint32_t pos_first)
{
    static double seconds[ROUNDS_MAX], ops[OPS_COUNT][ROUNDS_MAX];
    uint32_t rounds = rig->options.rounds;
    for (uint32_t i = 0; i < rounds; i++) {
        memset(op_seconds, 0, sizeof(op_seconds));
        double start = now();
        forward(rig, seq_count, rows_a_seq, rows_a_seq > 1 ? pos_first : pos_first + i);
        seconds[i] = now() - start;
        for (int op = 0; op < OPS_COUNT; op++) ops[op][i] = op_seconds[op];
    }
    double time = typical(rig, seconds);
    uint32_t rows = seq_count * rows_a_seq;
    double macs = (double)rig->macs * rows + (double)rig->macs_head * seq_count;
    double bytes = (double)model_weight_bytes(rig->model) +
                   (rows_a_seq > 1 ? 0 : (double)rig->kv_row_bytes * (pos_first + rounds / 2) * seq_count);
    printf("%s,%u,%u,%.3f,%.3f,%.1f,%.1f,%.3f,%.1f", name, seq_count, pos_first, time * 1e3,
           seconds[0] * 1e3 /* sorted */, rows / time, macs / time * 1e-9,
           rig->peaks.int8_dot > 0 ? macs / time * 1e-9 / rig->peaks.int8_dot : 0.0, bytes / time * 1e-9);
    for (int op = 0; rig->options.profile && op < OPS_COUNT; op++)
        printf(",%.3f", typical(rig, ops[op]) * 1e3);
    printf("\n");
    (void)fflush(stdout); // progress
}

/* Gives every sequence the pages of the first, as if all had the same context. */
static void copy_context(struct rig *rig)
{
    uint8_t *base = rig->cache.base;
    uint64_t bytes = rig->cache.page_bytes;
    for (uint32_t i = 0; i < rig->pages_a_seq; i++) {
        for (uint32_t s = 1; s < BATCH_MAX; s++)
            memcpy(base + ((size_t)i * BATCH_MAX + s) * bytes, base + (size_t)i * BATCH_MAX * bytes, bytes);
    }
}

static int usage(void)
{
    fprintf(stderr, "usage: model MODEL.gguf [--level NAME] [--threads N] [--rounds N] [--context N] [--pin] "
                    "[--profile] [--quick] [--cpu] [--shm]\n");
    return 64;
}

static bool parse(int argc, char **argv, struct options *ret)
{
    struct options o = {
        .threads = machine_cores(), .rounds = 9, .context = 256, .level = getenv("KVASIR_KERNELS")};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--pin") == 0) o.pin = true;
        else if (strcmp(argv[i], "--profile") == 0) o.profile = true;
        else if (strcmp(argv[i], "--quick") == 0) o.quick = true;
        else if (strcmp(argv[i], "--cpu") == 0) o.cpu = true;
        else if (strcmp(argv[i], "--shm") == 0) o.shm = true;
        else if (strcmp(argv[i], "--level") == 0 && has_value) o.level = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && has_value) o.threads = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--rounds") == 0 && has_value) o.rounds = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--context") == 0 && has_value) o.context = (uint32_t)atoi(argv[++i]);
        else if (argv[i][0] != '-' && o.path == NULL) o.path = argv[i];
        else return false;
    }
    *ret = o;
    return o.path != NULL && o.threads > 0 && o.rounds > 0 && o.rounds <= ROUNDS_MAX && o.context > 0 &&
           o.context <= MODEL_CONTEXT_MAX / 2;
}

int main(int argc, char **argv)
{
    struct rig rig = {0};
    if (!parse(argc, argv, &rig.options)) return usage();
    if (rig.options.cpu) clock_used = CLOCK_PROCESS_CPUTIME_ID;
    machine_print_header(stdout);
    rig.peaks = machine_peaks(rig.options.threads, 0.2);
    printf("# int8 dot peak: %.1f GMAC/s (%s), memory: %.1f GB/s\n", rig.peaks.int8_dot, machine_int8_name(),
           machine_read_gbs(rig.options.threads, MIB(256), 0.2));
    open_rig(&rig);
    printf("case,seqs,context,ms,best_ms,tok_s,gmac_s,share,gbs");
    for (int op = 0; rig.options.profile && op < OPS_COUNT; op++) printf(",%s_ms", op_names[op]);
    printf("\n");
    forward(&rig, 1, PROMPT, 0); // touches every page of memory once
    run_case(&rig, "prompt", 1, PROMPT, 0);
    for (uint32_t done = PROMPT; done < rig.options.context; done += PROMPT) forward(&rig, 1, PROMPT, done);
    copy_context(&rig);
    for (uint32_t batch = 1; batch <= BATCH_MAX; batch *= rig.options.quick ? 8 : 2)
        run_case(&rig, "decode", batch, 1, rig.options.context);
    model_close(rig.model);
    gguf_file_close(&rig.file);
    if (!rig.options.shm) free(rig.cache.base);
    free(rig.pages);
    return 0;
}
