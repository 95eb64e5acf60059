/* SPDX-License-Identifier: Apache-2.0 */
/* kernels - the matrix products alone: every level of this machine x weight type x rows.
 *
 *   kernels [--level NAME] [--type NAME] [--rows N] [--threads N] [--outs N] [--cols N] [--quick] [--cpu]
 *
 * Prints lines of CSV below a header on the machine: multiply-adds a second and their share of the int8 peak
 * measured in the same run (of the float peak for float types), weight bytes a second and their share of
 * memory's. Measured is norm_project, input's norm and rounding included, on enough weights in turn that each
 * comes from memory, as in a model; best of several turns. --cpu counts CPU time instead of the clock: with one
 * thread, what the code costs on a machine that others use too. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "bench/machine.h"
#include "common/base/check.h"
#include "tests/unit/kern_data.h"

enum {
    ROWS_MAX = 512,
    WEIGHTS_MAX = 64,
    WEIGHTS_MIB = 64, // of all weights of a type: twice a large last-level cache
    HEAD_DIMS = 64,   // of the attention that is not run
};

struct options {
    const char *level, *type;
    uint32_t rows, threads, outs, cols; // rows: 0 for all
    bool quick, cpu;
};

/* One machine with the weights of one type. */
struct rig {
    const struct options *options;
    const struct kern_ops *ops;
    struct kern *kern;
    struct kern_weight *weights[WEIGHTS_MAX];
    uint32_t weight_count;
    struct kern_rows *x, *out;
    struct kern_vector *norm;
    double weight_bytes; // of one
};

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void need(int r, const struct err *err)
{
    if (r >= 0) return;
    fprintf(stderr, "kernels: %s\n", err->text);
    exit(err_exit_status(err->code));
}

/* Fills x by embedding an F32 table of random rows. */
static void fill_rows(struct rig *rig, struct rng *rng)
{
    static uint32_t tokens[ROWS_MAX];
    struct err err = {0};
    struct kern_weight *table;
    float *values = kern_data_outliers(rng, (size_t)ROWS_MAX * rig->options->cols, 1.0f);
    struct kern_matrix matrix = {.data = values, .rows = ROWS_MAX, .cols = rig->options->cols};
    need(rig->ops->weight_new(rig->kern, &matrix, 1, KERN_CONCAT, &table, &err), &err);
    for (uint32_t i = 0; i < ROWS_MAX; i++) tokens[i] = i;
    rig->ops->embed(rig->kern, table, &(struct kern_batch){.row_count = ROWS_MAX, .tokens = tokens}, rig->x);
    free(values);
}

static void rig_open(struct rig *rig, const struct options *options, const struct kern_ops *ops,
                     const struct dequant_type *type)
{
    static const float angles[HEAD_DIMS / 2];
    struct rng rng = {type->id + 1};
    struct err err = {0};
    struct kern_conf conf = {
        .threads = options->threads,
        .rows_max = ROWS_MAX,
        .cache = {.page_tokens = 16, .layer_count = 1, .head_count_kv = 1, .head_dims = HEAD_DIMS},
        .rope = {.dims = HEAD_DIMS, .angles = angles, .position_max = 1},
        .head_count = 1,
        .head_count_kv = 1,
        .head_dims = HEAD_DIMS,
        .attention_scale = 1,
        .rms_epsilon = 1e-5f};
    *rig = (struct rig){.options = options, .ops = ops};
    need(ops->open(&conf, &rig->kern, &err), &err);
    need(ops->rows_new(rig->kern, ROWS_MAX, options->cols, &rig->x, &err), &err);
    need(ops->rows_new(rig->kern, ROWS_MAX, options->outs, &rig->out, &err), &err);
    float *norm = kern_data_floats(&rng, options->cols, 1.0f);
    need(ops->vector_new(rig->kern, norm, options->cols, &rig->norm, &err), &err);
    fill_rows(rig, &rng);
    struct kern_matrix matrix = kern_data_matrix(&rng, type->id, options->outs, options->cols, 1.0f);
    do { // the same values: what counts is that each lies elsewhere
        uint64_t before = ops->weight_bytes(rig->kern);
        need(ops->weight_new(rig->kern, &matrix, 1, KERN_CONCAT, &rig->weights[rig->weight_count++], &err),
             &err);
        rig->weight_bytes = (double)(ops->weight_bytes(rig->kern) - before);
    } while (rig->weight_count < WEIGHTS_MAX &&
             rig->weight_bytes * rig->weight_count < (double)WEIGHTS_MIB * 1024 * 1024);
    free((void *)matrix.data);
    free(norm);
}

/* Seconds of one product, the best of several turns; turn: where the weights are taken up. */
static double measure(struct rig *rig, uint32_t rows, uint32_t *turn)
{
    const double budget = rig->options->quick ? 0.05 : 0.3;
    double best = 1e9, end = now() + budget;
    for (int i = 0; i < 3 || now() < end; i++) {
        double start = now();
        struct kern_weight *weight = rig->weights[(*turn)++ % rig->weight_count];
        rig->ops->norm_project(rig->kern, rig->x, rig->norm, weight, NULL, rows, rig->out);
        CHECK(rig->ops->sync(rig->kern, NULL) == 0);
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    return best;
}

static void run_type(const struct options *options, const struct kern_ops *ops,
                     const struct dequant_type *type, const struct machine_peaks *peaks, double memory_gbs)
{
    static const uint32_t all[] = {1, 2, 4, 8, 16, 32, 64, 128, 512}, few[] = {1, 8, 64};
    const uint32_t *rows = options->quick ? few : all;
    uint32_t count = options->quick ? COUNT_OF(few) : COUNT_OF(all), turn = 0;
    const double peak = type->block_elements == 1 ? peaks->f32_fma : peaks->int8_dot;
    struct rig rig;
    rig_open(&rig, options, ops, type);
    if (options->rows > 0) {
        rows = &options->rows;
        count = 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        double seconds = measure(&rig, rows[i], &turn);
        double gmacs = (double)options->outs * options->cols * rows[i] / seconds * 1e-9;
        double gbs = rig.weight_bytes / seconds * 1e-9;
        printf("%s,%s,%u,%.2f,%.1f,%.3f,%.2f,%.3f\n", ops->name, type->name, rows[i], seconds * 1e6, gmacs,
               peak > 0 ? gmacs / peak : 0.0, gbs, gbs / memory_gbs);
        (void)fflush(stdout); // progress
    }
    ops->close(rig.kern);
}

static void run_level(const struct options *options, const struct kern_ops *ops,
                      const struct machine_peaks *peaks, double memory_gbs)
{
    for (size_t t = 0; t < KERN_DATA_TYPES; t++) {
        const struct dequant_type *type = dequant_find(kern_data_types[t]);
        CHECK(type != NULL);
        if (options->type == NULL || strcasecmp(options->type, type->name) == 0)
            run_type(options, ops, type, peaks, memory_gbs);
    }
}

static int usage(void)
{
    fprintf(stderr,
            "usage: kernels [--level NAME] [--type NAME] [--rows N] [--threads N] [--outs N] [--cols N] "
            "[--quick] [--cpu]\n");
    return 64;
}

static bool parse(int argc, char **argv, struct options *ret)
{
    struct options o = {.threads = machine_cores(), .outs = 2048, .cols = 2048};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--quick") == 0) o.quick = true;
        else if (strcmp(argv[i], "--cpu") == 0) o.cpu = true;
        else if (strcmp(argv[i], "--level") == 0 && has_value) o.level = argv[++i];
        else if (strcmp(argv[i], "--type") == 0 && has_value) o.type = argv[++i];
        else if (strcmp(argv[i], "--rows") == 0 && has_value) o.rows = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--threads") == 0 && has_value) o.threads = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--outs") == 0 && has_value) o.outs = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--cols") == 0 && has_value) o.cols = (uint32_t)atoi(argv[++i]);
        else return false;
    }
    *ret = o;
    return o.threads > 0 && o.rows <= ROWS_MAX && o.outs > 0 && o.cols > 0 && o.cols % 256 == 0;
}

int main(int argc, char **argv)
{
    struct options options;
    struct err err = {0};
    uint32_t level_count;
    const struct kern_ops *const *levels = kern_levels(&level_count), *only = NULL;
    if (!parse(argc, argv, &options)) return usage();
    if (options.level != NULL) need(kern_select(options.level, &only, &err), &err);
    if (options.cpu) clock_used = CLOCK_PROCESS_CPUTIME_ID;
    machine_print_header(stdout);
    struct machine_peaks peaks = machine_peaks(options.threads, 0.2);
    double memory_gbs = machine_read_gbs(options.threads, (size_t)256 << 20, 0.2);
    printf("# threads: %u, weights %u x %u\n", options.threads, options.outs, options.cols);
    printf("# int8 dot peak: %.1f GMAC/s (%s), f32: %.1f GMAC/s, memory: %.1f GB/s\n", peaks.int8_dot,
           machine_int8_name(), peaks.f32_fma, memory_gbs);
    printf("level,type,rows,us,gmac_s,share,gbs,share_memory\n");
    if (only != NULL) run_level(&options, only, &peaks, memory_gbs);
    for (uint32_t l = 0; l < level_count && only == NULL; l++) {
        if (strcmp(levels[l]->name, "ref") != 0) run_level(&options, levels[l], &peaks, memory_gbs);
    }
    return 0;
}
