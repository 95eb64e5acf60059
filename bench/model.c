/* SPDX-License-Identifier: Apache-2.0 */
/* model - the speed of a model's forward pass, without server or sampling.
 *
 *   model MODEL.gguf [--level NAME] [--threads N] [--pin] [--kv f16|bf16|q8|q4|f32] [--rounds N] [--memory MIB]
 *         [--prompts LIST] [--batches LIST] [--contexts LIST] [--quick] [--profile] [--cpu] [--shm] [--ranks N]
 *         [--versus] [--beside]
 *
 * Prints lines of CSV below a header on the machine. Cases: chunks of --prompts tokens (512) of one sequence with
 * nothing before them and with each of --contexts (256) tokens, then one decode step of --batches sequences (1 to
 * 64) that have that many tokens each. Batches whose pages would take more than --memory (2048) are left out.
 * Times are medians over the rounds, and the best. Of each case:
 *
 *   gmac_s    multiply-adds with weights a second, every weight once a row
 *   share     of the int8 dot peak (see peaks.c)
 *   gbs       bytes that a step must read a second: the weights once, and the keys and values
 *   bound_ms  no machine with these peaks is faster: the larger of the reads at the measured bandwidth and of the
 *             products at the int8 peak with attention at the f32 peak
 *   of_bound  bound_ms / ms
 *
 * --profile adds the median milliseconds of each op. --cpu counts the process's CPU time instead of the clock, and
 * the best round instead of the median: with one thread, what the code costs on a machine that others use too.
 * --shm: weights and pages in shared memory, as the server has them. --ranks: so many processes compute it together,
 * --threads each; with --pin each has CPUs of its own. --versus (with --ranks): one process with the threads of all of
 * them computes the same, in turns with the ranks, round by round, so that what else the machine does strikes both
 * alike. Each case is then two lines, the one process's first, with a column `ranks`; the ranks' line ends with
 * `of_one`, the median over the rounds of the one's time / theirs. --beside (of one process): after each round the same
 * threads read READ_MIB of memory with plain loads, and repeat the instructions of the int8 and of the f32 peak, some
 * 10 ms each. Columns: these paces (medians), and `share_now` and `of_now`: share and of_bound by the paces of a round
 * (medians of the rounds). Other users of the machine slow both; share and of_bound are by what it gives at its best.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench/machine.h"
#include "bench/turns.h"
#include "common/base/check.h"
#include "common/base/cpus.h"
#include "common/base/limits.h"
#include "common/gguf/facts.h"
#include "common/gguf/file.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"
#include "tests/unit/mates_rig.h"
#include "worker/model.h"

enum { BATCH_MAX = 256, ROUNDS_MAX = 101, OPS_COUNT = 6, LIST_MAX = 32, CHUNK = 512 };
enum { READ_MIB = 128, READ_PIECE_KIB = 256 };
enum { PEAK_PIECES = 512 }; // some 10 ms of two threads

struct list {
    uint32_t count, values[LIST_MAX]; // each > 0
};

struct paces {        // a second, of all threads
    double read;      // bytes
    double int8, f32; // multiply-adds; 0: no such instructions
};

struct need {        // of a step
    double bytes;    // read: the weights once, and the keys and values before its rows
    double macs;     // with weights
    double key_macs; // of attention
};

struct options {
    const char *path, *level;
    uint32_t threads, ranks, rounds, memory_mib, kv_type;
    struct list prompts, batches, contexts;
    bool pin, profile, cpu, shm, versus, beside;
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

static void timed_attend(struct kern *kern, uint32_t layer, const struct kern_attend_options *options,
                         struct kern_rows *qkv, const struct kern_batch *batch, struct kern_rows *out)
{
    double start = now();
    timed_ops->attend(kern, layer, options, qkv, batch, out);
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
    const struct kern_ops *ops;
    struct mates_rig mates; // with --shm
    struct dist *dist;      // NULL: alone
    struct turns *turns;    // NULL without --versus, and in ranks but the first
    enum turns_side side;
    struct shard shard;
    struct model *model;
    struct paces peaks;
    uint8_t *read_bytes; // (READ_MIB), owned; NULL without --beside
    uint32_t rows_max;
    uint64_t macs;         // with weights, of one row, without the head
    uint64_t macs_head;    // of one row of logits
    uint64_t macs_key;     // of one row with one key and its value, all layers
    uint64_t kv_row_bytes; // keys and values of one position, all layers
    uint32_t seq_count;    // that have pages at the context in hand,
    uint32_t pages_a_seq;  // so many each: page i of sequence s is i * seq_count + s
    uint32_t *pages;       // (seq_count, pages_a_seq) of (page_count)
    uint32_t *tokens, *positions;
};

static void stop(const struct err *err)
{
    fprintf(stderr, "model: %s\n", err->text);
    exit(err_exit_status(err->code));
}

static uint32_t list_max(const struct list *list)
{
    uint32_t max = 0;
    for (uint32_t i = 0; i < list->count; i++) max = list->values[i] > max ? list->values[i] : max;
    return max;
}

static uint32_t pages_for(const struct rig *rig, uint32_t context)
{
    uint32_t more = rig->rows_max > rig->options.rounds ? rig->rows_max : rig->options.rounds;
    return (context + more + PAGE_TOKENS - 1) / PAGE_TOKENS;
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

static void *shared_weights(size_t bytes)
{
    return shared_memory("weights", bytes);
}

/* Memory of the weights, if it is to be shared: before any rank is made. */
static void make_stores(struct rig *rig)
{
    if (!rig->options.shm) return;
    mates_rig_open(rig->file.gguf, &rig->facts, rig->ops, rig->options.ranks, shared_weights, &rig->mates);
}

/* As many pages as the largest case takes, within the bound; at least one sequence's. */
static void make_pages(struct rig *rig)
{
    const struct options *options = &rig->options;
    const struct model_facts *f = &rig->facts;
    uint32_t a_seq = pages_for(rig, list_max(&options->contexts));
    const uint64_t all_bytes = pool_page_bytes((enum kv_type)options->kv_type, f->layer_count,
                                               f->head_count_kv, f->head_dims);
    const uint64_t page_bytes = all_bytes / f->head_count_kv * rig->shard.kv_count;
    struct err err = {0};
    if (page_bytes == 0) {
        (void)ERR(&err, ERR_UNSUPPORTED, "no such pages");
        stop(&err);
    }
    uint64_t wanted = (uint64_t)a_seq * list_max(&options->batches),
             most = MIB(options->memory_mib) / page_bytes;
    if (wanted > most) wanted = most > a_seq ? most : a_seq;
    rig->kv_row_bytes = all_bytes / PAGE_TOKENS;
    rig->cache = (struct kern_cache){.page_bytes = page_bytes,
                                     .page_count = (uint32_t)wanted,
                                     .page_tokens = PAGE_TOKENS,
                                     .layer_count = f->layer_count,
                                     .head_count_kv = rig->shard.kv_count,
                                     .head_dims = f->head_dims,
                                     .kv_type = options->kv_type};
    size_t bytes = (size_t)(wanted * page_bytes + 63) & ~(size_t)63;
    rig->cache.base = options->shm ? shared_memory("kv", bytes) : aligned_alloc(64, bytes);
    rig->pages = calloc(rig->cache.page_count, sizeof(*rig->pages));
    rig->tokens = calloc(rig->rows_max, sizeof(*rig->tokens));
    rig->positions = calloc(rig->rows_max, sizeof(*rig->positions));
    CHECK(rig->cache.base != NULL && rig->pages != NULL);
    CHECK(rig->tokens != NULL && rig->positions != NULL);
    memset(rig->cache.base, 0, wanted * page_bytes); // in memory before anything is measured
}

static void open_rig(struct rig *rig)
{
    const struct options *options = &rig->options;
    struct err err = {0};
    const struct model_facts *f = &rig->facts;
    if (shard_make(f, options->ranks, dist_rank(rig->dist), &rig->shard, &err) < 0) stop(&err);
    make_pages(rig);
    uint64_t qkv = (uint64_t)(f->head_count + 2 * f->head_count_kv) * f->head_dims;
    uint64_t a_layer = (qkv + (uint64_t)f->head_count * f->head_dims + 3ull * f->feed_forward_dims) *
                       f->embedding_dims;
    rig->macs = a_layer * f->layer_count;
    rig->macs_head = (uint64_t)f->vocab_count * f->embedding_dims;
    rig->macs_key = 2ull * f->head_count * f->head_dims * f->layer_count;
    struct model_conf conf = {.ops = options->profile ? timed(rig->ops) : rig->ops,
                              .threads = options->threads,
                              .pin_threads = options->pin,
                              .rows_max = rig->rows_max,
                              .logits_max = list_max(&options->batches),
                              .position_max = pages_for(rig, list_max(&options->contexts)) * PAGE_TOKENS,
                              .cache = rig->cache,
                              .dist = rig->dist,
                              .store = rig->mates.stores[rig->shard.rank]};
    double start = now();
    if (model_open(rig->file.gguf, f, &conf, &rig->model, &err) < 0) stop(&err);
    if (rig->dist && dist_barrier(rig->dist) < 0) exit(70);
    for (uint32_t i = 0; rig->dist && i < options->ranks; i++)
        mates_rig_attach(&rig->mates, rig->dist, rig->model, i);
    if (rig->shard.rank > 0) return;
    printf("# model: %s, level %s, %u ranks of %u threads%s, opened in %.2f s, weights %.1f MB, %llu bytes "
           "of keys and "
           "values a "
           "token\n",
           f->name, rig->ops->name, options->ranks, options->threads, options->pin ? " pinned" : "",
           now() - start, (double)model_weight_bytes(rig->model) * 1e-6 * options->ranks,
           (unsigned long long)rig->kv_row_bytes);
}

static void forward(struct rig *rig, uint32_t seq_count, uint32_t rows_a_seq, uint32_t pos_first)
{
    static uint32_t logit_rows[BATCH_MAX];
    static struct kern_seq seqs[BATCH_MAX];
    struct err err = {0};
    const float *logits;
    CHECK(seq_count * rows_a_seq <= rig->rows_max);
    for (uint32_t s = 0; s < seq_count; s++) {
        seqs[s] = (struct kern_seq){.row_first = s * rows_a_seq,
                                    .row_count = rows_a_seq,
                                    .pos_first = pos_first,
                                    .pages = rig->pages + (size_t)s * rig->pages_a_seq,
                                    .page_count = rig->pages_a_seq};
        logit_rows[s] = (s + 1) * rows_a_seq - 1;
        for (uint32_t i = 0; i < rows_a_seq; i++) {
            rig->positions[s * rows_a_seq + i] = pos_first + i;
            rig->tokens[s * rows_a_seq + i] = (s * 7919 + i * 104729 + 13) % rig->facts.vocab_count;
        }
    }
    struct kern_batch batch = {.row_count = seq_count * rows_a_seq,
                               .tokens = rig->tokens,
                               .positions = rig->positions,
                               .seq_count = seq_count,
                               .seqs = seqs};
    if (model_forward(rig->model, &batch, logit_rows, seq_count, &logits, &err) < 0) stop(&err);
}

/* ---- what the machine gives meanwhile */

static _Atomic uint64_t read_sum; // keeps the loads alive

static void read_piece(void *arg, uint32_t piece)
{
    read_sum += machine_read((const uint8_t *)arg + (size_t)piece * KIB(READ_PIECE_KIB), KIB(READ_PIECE_KIB));
}

/* Bytes a second that the model's threads read now. */
static double read_pace(struct rig *rig)
{
    double start = now();
    model_parallel(rig->model, read_piece, rig->read_bytes, READ_MIB * 1024 / READ_PIECE_KIB);
    return (double)MIB(READ_MIB) / (now() - start);
}

static void peak_piece(void *arg, uint32_t piece)
{
    (void)piece;
    machine_piece(*(const enum machine_unit *)arg);
}

/* Multiply-adds a second that the model's threads do now with nothing else in their way; 0: no such instructions. */
static double peak_pace(struct rig *rig, enum machine_unit unit)
{
    double start = now();
    model_parallel(rig->model, peak_piece, &unit, PEAK_PIECES);
    return PEAK_PIECES * machine_piece_macs(unit) / (now() - start);
}

static void make_read_bytes(struct rig *rig)
{
    rig->read_bytes = aligned_alloc(MIB(2), MIB(READ_MIB));
    CHECK(rig->read_bytes != NULL);
    (void)madvise(rig->read_bytes, MIB(READ_MIB), MADV_HUGEPAGE); // as the weights
    memset(rig->read_bytes, 1, MIB(READ_MIB));
}

/* ---- cases */

static double typical(const struct rig *rig, double *rounds)
{
    double median = machine_median(rounds, rig->options.rounds); // sorts
    return rig->options.cpu ? rounds[0] : median;
}

/* What a step must do at least. */
static struct need step_need(const struct rig *rig, uint32_t seq_count, uint32_t rows_a_seq,
                             uint32_t pos_first)
{
    const double rows = (double)seq_count * rows_a_seq;
    const uint32_t reach = rows_a_seq > 1 ? rows_a_seq : rig->options.rounds;
    const double keys = pos_first + reach / 2.0; // of a row, on average
    const double keys_read = rows_a_seq > 1 ? pos_first : keys;
    return (struct need){.bytes = (double)model_weight_bytes(rig->model) *
                                      rig->options.ranks + // as good as equal shares
                                  (double)rig->kv_row_bytes * seq_count * keys_read,
                         .macs = (double)rig->macs * rows + (double)rig->macs_head * seq_count,
                         .key_macs = (double)rig->macs_key * keys * rows};
}

/* Seconds that it takes at these paces. */
static double need_seconds(const struct need *need, const struct paces *paces)
{
    double read = need->bytes / paces->read;
    double compute = paces->int8 > 0 ? need->macs / paces->int8 + need->key_macs / paces->f32 : 0;
    return read > compute ? read : compute;
}

static void print_case(const struct rig *rig, uint32_t seq_count, uint32_t rows_a_seq, uint32_t pos_first,
                       double time, double best)
{
    const struct need need = step_need(rig, seq_count, rows_a_seq, pos_first);
    const uint32_t rows = seq_count * rows_a_seq;
    const double bound = need_seconds(&need, &rig->peaks), peak = rig->peaks.int8;
    printf("%s,%u,%u,%u,%.3f,%.3f,%.1f,%.1f,%.3f,%.1f,%.3f,%.3f", rows_a_seq > 1 ? "prompt" : "decode",
           seq_count, rows, pos_first, time * 1e3, best * 1e3, rows / time, need.macs / time * 1e-9,
           peak > 0 ? need.macs / time / peak : 0.0, need.bytes / time * 1e-9, bound * 1e3, bound / time);
}

/* What the machine gave beside each round of a case. */
struct beside {
    double reads[ROUNDS_MAX], int8[ROUNDS_MAX], f32[ROUNDS_MAX]; // a second
    double shares[ROUNDS_MAX], of_bounds[ROUNDS_MAX];
};

static void beside_note(struct rig *rig, const struct need *need, double seconds, uint32_t round,
                        struct beside *beside)
{
    const struct paces paces = {
        .read = read_pace(rig), .int8 = peak_pace(rig, MACHINE_INT8), .f32 = peak_pace(rig, MACHINE_F32)};
    beside->reads[round] = paces.read;
    beside->int8[round] = paces.int8;
    beside->f32[round] = paces.f32;
    beside->shares[round] = paces.int8 > 0 ? need->macs / paces.int8 / seconds : 0;
    beside->of_bounds[round] = need_seconds(need, &paces) / seconds;
}

static void print_beside(struct beside *beside, uint32_t rounds)
{
    printf(",%.1f,%.1f,%.1f,%.3f,%.3f", machine_median(beside->reads, rounds) * 1e-9,
           machine_median(beside->int8, rounds) * 1e-9, machine_median(beside->f32, rounds) * 1e-9,
           machine_median(beside->shares, rounds), machine_median(beside->of_bounds, rounds));
}

/* Rounds of one case: a decode step moves on by one position each round, a prompt starts again. */
static void run_case(struct rig *rig, uint32_t seq_count, uint32_t rows_a_seq, uint32_t pos_first)
{
    static double seconds[ROUNDS_MAX], ops[OPS_COUNT][ROUNDS_MAX];
    static struct beside beside;
    const struct need need = step_need(rig, seq_count, rows_a_seq, pos_first);
    uint32_t rounds = rig->options.rounds;
    for (uint32_t i = 0; i < rounds; i++) {
        memset(op_seconds, 0, sizeof(op_seconds));
        turns_take(rig->turns, rig->side);
        double start = now();
        forward(rig, seq_count, rows_a_seq, rows_a_seq > 1 ? pos_first : pos_first + i);
        seconds[i] = now() - start;
        turns_note(rig->turns, rig->side, i, seconds[i]);
        turns_pass(rig->turns, rig->side);
        for (int op = 0; op < OPS_COUNT; op++) ops[op][i] = op_seconds[op];
        if (rig->options.beside) beside_note(rig, &need, seconds[i], i, &beside);
    }
    double time = typical(rig, seconds); // sorts
    if (rig->shard.rank > 0) return;
    turns_take(rig->turns, rig->side); // to print
    print_case(rig, seq_count, rows_a_seq, pos_first, time, seconds[0]);
    if (rig->turns) printf(",%u", rig->options.ranks);
    if (rig->turns && rig->side == TURNS_SECOND) printf(",%.3f", turns_median_ratio(rig->turns, rounds));
    if (rig->options.beside) print_beside(&beside, rounds);
    for (int op = 0; rig->options.profile && op < OPS_COUNT; op++)
        printf(",%.3f", typical(rig, ops[op]) * 1e3);
    printf("\n");
    (void)fflush(stdout); // progress
    turns_pass(rig->turns, rig->side);
}

/* Deals the pages out to as many sequences as get enough for this context, fills the first's with it and copies
 * them to the others, as if all had the same. */
static void lay_context(struct rig *rig, uint32_t context)
{
    rig->pages_a_seq = pages_for(rig, context);
    rig->seq_count = rig->cache.page_count / rig->pages_a_seq;
    if (rig->seq_count > list_max(&rig->options.batches)) rig->seq_count = list_max(&rig->options.batches);
    for (uint32_t s = 0; s < rig->seq_count; s++) {
        for (uint32_t i = 0; i < rig->pages_a_seq; i++)
            rig->pages[s * rig->pages_a_seq + i] = i * rig->seq_count + s;
    }
    for (uint32_t done = 0; done < context; done += CHUNK)
        forward(rig, 1, context - done < CHUNK ? context - done : CHUNK, done);
    uint8_t *base = rig->cache.base;
    uint64_t bytes = rig->cache.page_bytes;
    for (uint32_t i = 0; i < rig->pages_a_seq; i++) {
        uint8_t *first = base + (size_t)i * rig->seq_count * bytes;
        for (uint32_t s = 1; s < rig->seq_count; s++) memcpy(first + s * bytes, first, bytes);
    }
}

static void run_cases(struct rig *rig)
{
    const struct options *options = &rig->options;
    turns_take(rig->turns, rig->side);
    lay_context(rig, 0);
    forward(rig, 1, CHUNK, 0); // touches every weight once
    turns_pass(rig->turns, rig->side);
    for (uint32_t i = 0; i < options->prompts.count; i++) run_case(rig, 1, options->prompts.values[i], 0);
    for (uint32_t c = 0; c < options->contexts.count; c++) {
        uint32_t context = options->contexts.values[c];
        turns_take(rig->turns, rig->side);
        lay_context(rig, context);
        turns_pass(rig->turns, rig->side);
        for (uint32_t i = 0; i < options->batches.count; i++) {
            uint32_t batch = options->batches.values[i];
            if (batch <= rig->seq_count) run_case(rig, batch, 1, context);
            else if (rig->shard.rank == 0)
                printf("# %u sequences of %u tokens: more than --memory %u\n", batch, context,
                       options->memory_mib);
        }
        for (uint32_t i = 0; i < options->prompts.count; i++)
            run_case(rig, 1, options->prompts.values[i], context);
    }
}

/* ---- options */

static int usage(void)
{
    fprintf(stderr,
            "usage: model MODEL.gguf [--level NAME] [--threads N] [--pin] [--kv f16|bf16|q8|q4|f32]\n"
            "             [--rounds N] [--memory MIB] [--prompts LIST] [--batches LIST] [--contexts LIST]\n"
            "             [--quick] [--profile] [--cpu] [--shm] [--ranks N] [--versus] [--beside]\n");
    return 64;
}

/* "1,2,4": numbers in 1..max. */
static bool parse_list(const char *text, uint32_t max, struct list *ret_list)
{
    struct list list = {0};
    for (const char *at = text; list.count < LIST_MAX; at++) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || value == 0 || value > max) return false;
        list.values[list.count++] = (uint32_t)value;
        if (*end == '\0') {
            *ret_list = list;
            return true;
        }
        if (*end != ',') return false;
        at = end;
    }
    return false;
}

static bool parse_number(const char *text, uint32_t max, uint32_t *ret_number)
{
    struct list list;
    if (!parse_list(text, max, &list) || list.count != 1) return false;
    *ret_number = list.values[0];
    return true;
}

static bool parse_kv(const char *text, uint32_t *ret_type)
{
    static const struct {
        const char *name;
        enum kv_type type;
    } names[] = {{"f16", KV_F16}, {"bf16", KV_BF16}, {"q8", KV_Q8}, {"q4", KV_Q4}, {"f32", KV_F32}};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcasecmp(names[i].name, text) != 0) continue;
        *ret_type = names[i].type;
        return true;
    }
    return false;
}

static bool parse_value(const char *name, const char *value, struct options *o)
{
    if (strcmp(name, "--level") == 0) o->level = value;
    else if (strcmp(name, "--kv") == 0) return parse_kv(value, &o->kv_type);
    else if (strcmp(name, "--threads") == 0) return parse_number(value, 1024, &o->threads);
    else if (strcmp(name, "--ranks") == 0) return parse_number(value, RANKS_MAX, &o->ranks);
    else if (strcmp(name, "--rounds") == 0) return parse_number(value, ROUNDS_MAX, &o->rounds);
    else if (strcmp(name, "--memory") == 0) return parse_number(value, 1 << 20, &o->memory_mib);
    else if (strcmp(name, "--prompts") == 0) return parse_list(value, PLAN_TOKENS_MAX, &o->prompts);
    else if (strcmp(name, "--batches") == 0) return parse_list(value, BATCH_MAX, &o->batches);
    else if (strcmp(name, "--contexts") == 0 || strcmp(name, "--context") == 0)
        return parse_list(value, MODEL_CONTEXT_MAX / 2, &o->contexts);
    else return false;
    return true;
}

static bool parse(int argc, char **argv, struct options *ret)
{
    struct options o = {.threads = machine_cores(),
                        .ranks = 1,
                        .rounds = 9,
                        .memory_mib = 2048,
                        .kv_type = KV_F16,
                        .level = getenv("KVASIR_KERNELS"),
                        .prompts = {1, {512}},
                        .batches = {7, {1, 2, 4, 8, 16, 32, 64}},
                        .contexts = {1, {256}}};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--pin") == 0) o.pin = true;
        else if (strcmp(argv[i], "--profile") == 0) o.profile = true;
        else if (strcmp(argv[i], "--cpu") == 0) o.cpu = true;
        else if (strcmp(argv[i], "--shm") == 0) o.shm = true;
        else if (strcmp(argv[i], "--beside") == 0) o.beside = true;
        else if (strcmp(argv[i], "--versus") == 0) o.versus = true;
        else if (strcmp(argv[i], "--quick") == 0) o.batches = (struct list){3, {1, 8, 64}};
        else if (argv[i][0] != '-' && o.path == NULL) o.path = argv[i];
        else if (i + 1 >= argc || !parse_value(argv[i], argv[i + 1], &o)) return false;
        else i++;
    }
    *ret = o;
    return o.path != NULL && (!o.beside || o.ranks == 1) && (!o.versus || o.ranks > 1);
}

/* ---- one rank, or several */

static struct rig rig; // of this process

/* Threads of rank r on the r-th of the CPUs, not all ranks on the first. */
static void take_cpus(uint32_t rank)
{
    struct cpus cpus;
    cpu_set_t own;
    cpus_allowed(&cpus);
    CPU_ZERO(&own);
    for (uint32_t i = 0; i < rig.options.threads; i++)
        CPU_SET(cpus.ids[(rank * rig.options.threads + i) % cpus.count], &own);
    (void)sched_setaffinity(0, sizeof own, &own); // a wish
}

static int run_rank(struct ranks_rig *ranks, uint32_t rank)
{
    if (ranks) rig.dist = ranks_rig_dist(ranks, rank);
    else make_stores(&rig);
    if (rank > 0) rig.turns = NULL; // it goes with the first
    if (ranks && rig.options.pin) take_cpus(rank);
    open_rig(&rig);
    if (rig.options.beside) make_read_bytes(&rig);
    run_cases(&rig);
    model_close(rig.model);
    dist_close(rig.dist);
    if (!rig.options.shm) free(rig.cache.base);
    free(rig.read_bytes);
    free(rig.pages);
    free(rig.tokens);
    free(rig.positions);
    return 0;
}

/* As many processes, of which the first prints. -> how many failed. */
static int run_ranks(void)
{
    const struct model_facts *f = &rig.facts;
    const struct exchange_shape shape = {.rank_count = rig.options.ranks,
                                         .group_count = rig.options.ranks,
                                         .rows_max = rig.rows_max,
                                         .logits_max = list_max(&rig.options.batches),
                                         .embedding_dims = f->embedding_dims,
                                         .attention_dims = f->head_count * f->head_dims,
                                         .feed_forward_dims = f->feed_forward_dims,
                                         .vocab_count = f->vocab_count};
    struct ranks_rig ranks;
    ranks_rig_open(&shape, 0, &ranks);
    if (rig.options.shm) {
        (void)munmap(ranks.segment, ranks.segment_bytes); // ours; the daemon's has other pages
        ranks.segment = shared_memory("exchange", ranks.segment_bytes);
        exchange_init(ranks.segment, &shape, 1);
    }
    make_stores(&rig);
    ranks.threads = rig.options.threads;
    int failed = ranks_rig_run(&ranks, run_rank);
    ranks_rig_close(&ranks);
    return failed;
}

/* The ranks in a child, the one process here. -> how many failed. */
static int run_versus(void)
{
    rig.turns = turns_new();
    (void)fflush(NULL); // nothing of ours is printed twice
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        rig.side = TURNS_SECOND;
        _exit(run_ranks() == 0 ? 0 : 70);
    }
    rig.side = TURNS_FIRST;
    rig.turns->other = pid;
    rig.options.threads *= rig.options.ranks;
    rig.options.ranks = 1;
    int status = 0, failed = run_rank(NULL, 0);
    while (waitpid(pid, &status, 0) < 0) continue;
    return failed + (status != 0);
}

int main(int argc, char **argv)
{
    struct err err = {0};
    if (!parse(argc, argv, &rig.options)) return usage();
    if (rig.options.cpu) clock_used = CLOCK_PROCESS_CPUTIME_ID;
    const uint32_t threads = rig.options.threads * rig.options.ranks, chunk = list_max(&rig.options.prompts);
    rig.rows_max = chunk > CHUNK ? chunk : CHUNK;
    machine_print_header(stdout);
    const struct machine_peaks peaks = machine_peaks(threads, 0.2);
    const double read_gbs = machine_read_gbs(threads, MIB(256), 0.2);
    rig.peaks = (struct paces){read_gbs * 1e9, peaks.int8_dot * 1e9, peaks.f32_fma * 1e9};
    printf("# peaks: int8 dot %.1f GMAC/s (%s), f32 %.1f GMAC/s, memory %.1f GB/s\n", peaks.int8_dot,
           machine_int8_name(), peaks.f32_fma, read_gbs);
    printf("case,seqs,rows,context,ms,best_ms,tok_s,gmac_s,share,gbs,bound_ms,of_bound%s",
           rig.options.beside   ? ",read_gbs,int8_gmacs,f32_gmacs,share_now,of_now"
           : rig.options.versus ? ",ranks,of_one"
                                : "");
    for (int op = 0; rig.options.profile && op < OPS_COUNT; op++) printf(",%s_ms", op_names[op]);
    printf("\n");
    if (kern_select(rig.options.level, &rig.ops, &err) < 0) stop(&err);
    if (gguf_file_open(rig.options.path, &rig.file, &err) < 0) stop(&err);
    if (model_facts_read(rig.file.gguf, &rig.facts, &err) < 0) stop(&err);
    int failed = rig.options.versus ? run_versus() : rig.options.ranks > 1 ? run_ranks() : run_rank(NULL, 0);
    gguf_file_close(&rig.file);
    return failed == 0 ? 0 : 70;
}
