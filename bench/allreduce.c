/* SPDX-License-Identifier: Apache-2.0 */
/* allreduce - what ranks of a host pay to exchange: ours beside MPI's.
 *
 *   allreduce [--ranks N] [--rounds N]              # ours alone
 *   mpirun -n N bench/allreduce [--rounds N]        # and MPI's, where this was built with it
 *
 * For results of 256 bytes to 4 MiB, microseconds of rank 0, which waits for the others in each call: median and best
 * of the rounds, MPI's median over ours, and the share of the copy bandwidth that the sum has (it writes and reads
 * the result once for each rank):
 *
 *   gather      each rank writes its part into the segment, a barrier, each copies all of it out: what MPI_Allgather
 *               promises, not what the model does. Two copies of the segment in turn
 *   allgather   the same by MPI_Allgather
 *   use         what the model does (worker/dist.h): as gather, but what is there is read (summed) in place
 *   alluse      as a model over MPI would: a part is written, MPI_Allgather, the result is read
 *   reduce      a sum in the same way, which the model does not use: each rank puts its whole vector, a barrier, each
 *               adds all in rank order
 *   allreduce   the same by MPI_Allreduce
 *   copy        memcpy of the result by every rank: what moving it costs at least
 *
 * Results are checked. Each rank is pinned to a core; mpirun wants --bind-to none, else nobody spins. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

#ifdef HAVE_MPI
#include <mpi.h>
#endif

#include "bench/machine.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/base/limits.h"
#include "tests/unit/ranks_rig.h"

enum { BYTES_MIN = 256, BYTES_MAX = 4 << 20, ROUNDS_MAX = 2001, KINDS = 7, COLS_MAX = BYTES_MAX / 4 };
enum { GATHER, ALLGATHER, USE, ALLUSE, REDUCE, ALLREDUCE, COPY };

static uint32_t round_count = 301;

struct bench {
    struct dist *dist;
    uint32_t rank, rank_count;
    bool has_mpi;
    float *slots;            // (2, rank_count, COLS_MAX) in the segment
    float *own, *part, *sum; // (COLS_MAX) private
    float used;              // keeps reads alive
    uint32_t turn;
};

static float *slots_of(const struct bench *bench, uint32_t turn)
{
    return bench->slots + (size_t)(turn % 2) * bench->rank_count * COLS_MAX;
}

static float *next_slots(struct bench *bench)
{
    return slots_of(bench, bench->turn++);
}

static void gather(struct bench *bench, uint32_t cols)
{
    const uint32_t part = cols / bench->rank_count, first = bench->rank * part;
    float *result = next_slots(bench);
    memcpy(result + first, bench->own + first, part * sizeof(float));
    CHECK(dist_barrier(bench->dist) == 0);
    memcpy(bench->sum, result, cols * sizeof(float));
}

/* As the next op reads a result: the adds are fewer than its products. */
static float read_all(const float *x, uint32_t cols)
{
    enum { CHAINS = 32 };
    float sums[CHAINS] = {0}, sum = 0;
    for (uint32_t i = 0; i + CHAINS <= cols; i += CHAINS)
        for (uint32_t c = 0; c < CHAINS; c++) sums[c] += x[i + c];
    for (uint32_t c = 0; c < CHAINS; c++) sum += sums[c];
    return sum;
}

static void use(struct bench *bench, uint32_t cols)
{
    const uint32_t part = cols / bench->rank_count, first = bench->rank * part;
    float *result = next_slots(bench);
    memcpy(result + first, bench->own + first, part * sizeof(float));
    CHECK(dist_barrier(bench->dist) == 0);
    bench->used += read_all(result, cols);
}

static void add_to(float *restrict sum, const float *restrict x, uint32_t cols)
{
    for (uint32_t i = 0; i < cols; i++) sum[i] += x[i];
}

static void add_two(float *restrict sum, const float *restrict a, const float *restrict b, uint32_t cols)
{
    for (uint32_t i = 0; i < cols; i++) sum[i] = a[i] + b[i];
}

/* Lines that others have read are theirs too. Those of the next call, which all have left behind them, are asked for
 * while this one's are read. */
static void claim(const float *x, uint32_t cols)
{
    enum { CLAIMED = 1024 }; // beyond it stores do not wait
    for (uint32_t i = 0; i < cols && i < CLAIMED; i += CACHELINE_BYTES / sizeof(float))
        __builtin_prefetch(x + i, 1);
}

/* In the order of ranks: what a rank has itself is read where it was, not from its slot. */
static void reduce(struct bench *bench, uint32_t cols)
{
    enum { PIECE = 1024 }; // of the sum: stays in the first-level cache while all slots pass
    float *slots = next_slots(bench), *own = slots + (size_t)bench->rank * COLS_MAX;
    const float *parts[RANKS_MAX];
    for (uint32_t r = 0; r < bench->rank_count; r++)
        parts[r] = r == bench->rank ? bench->own : slots + (size_t)r * COLS_MAX;
    memcpy(own, bench->own, cols * sizeof(float));
    CHECK(dist_barrier(bench->dist) == 0);
    claim(slots_of(bench, bench->turn) + (size_t)bench->rank * COLS_MAX, cols);
    for (uint32_t first = 0; first < cols; first += PIECE) {
        const uint32_t count = cols - first < PIECE ? cols - first : PIECE;
        if (bench->rank_count == 1) memcpy(bench->sum + first, bench->own + first, count * sizeof(float));
        else add_two(bench->sum + first, parts[0] + first, parts[1] + first, count);
        for (uint32_t r = 2; r < bench->rank_count; r++) add_to(bench->sum + first, parts[r] + first, count);
    }
}

static void run_kind(struct bench *bench, int kind, uint32_t cols)
{
    switch (kind) {
    case GATHER: gather(bench, cols); break;
    case USE: use(bench, cols); break;
    case REDUCE: reduce(bench, cols); break;
    case COPY: memcpy(bench->sum, bench->own, cols * sizeof(float)); break;
#ifdef HAVE_MPI
    case ALLGATHER:
        MPI_Allgather(bench->own + bench->rank * (cols / bench->rank_count), (int)(cols / bench->rank_count),
                      MPI_FLOAT, bench->sum, (int)(cols / bench->rank_count), MPI_FLOAT, MPI_COMM_WORLD);
        break;
    case ALLUSE: {
        const uint32_t part = cols / bench->rank_count;
        memcpy(bench->part, bench->own + bench->rank * part, part * sizeof(float));
        MPI_Allgather(bench->part, (int)part, MPI_FLOAT, bench->sum, (int)part, MPI_FLOAT, MPI_COMM_WORLD);
        bench->used += read_all(bench->sum, cols);
        break;
    }
    case ALLREDUCE:
        MPI_Allreduce(bench->own, bench->sum, (int)cols, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
#endif
    default: break;
    }
}

/* Results are what they should be: the gathered columns, the sum of all ranks. */
static void check_kind(const struct bench *bench, int kind, uint32_t cols)
{
    if (kind == COPY || kind == USE) return;
    const float *got = bench->sum;
    for (uint32_t i = 0; i < cols; i++) {
        float wanted = (float)(i % 1000);
        uint32_t owner = i / (cols / bench->rank_count);
        if (kind == REDUCE || kind == ALLREDUCE)
            wanted = wanted * (float)bench->rank_count +
                     (float)(bench->rank_count * (bench->rank_count - 1) / 2);
        else if (owner < bench->rank_count) wanted += (float)owner;
        else break;
        CHECK(got[i] == wanted);
    }
}

/* Microseconds a call, over a run of calls; ranks wait for each other in each of them (but in COPY). */
static double measure(struct bench *bench, int kind, uint32_t cols, double *ret_best)
{
    static double rounds[ROUNDS_MAX];
    const uint32_t calls = cols <= 4096 ? 32 : 4;
    for (uint32_t i = 0; i < cols; i++) bench->own[i] = (float)(i % 1000) + (float)bench->rank;
    for (uint32_t round = 0; round < round_count; round++) {
        CHECK(dist_barrier(bench->dist) == 0);
        uint64_t start_ns = clock_mono_ns();
        for (uint32_t call = 0; call < calls; call++) {
            run_kind(bench, kind, cols);
            if (kind == COPY) __asm__ volatile("" : : "r"(bench->sum) : "memory");
        }
        rounds[round] = (double)(clock_mono_ns() - start_ns) * 1e-3 / calls;
    }
    check_kind(bench, kind, cols);
    double median = machine_median(rounds, round_count); // sorts
    *ret_best = rounds[0];
    return median;
}

static void run_sizes(struct bench *bench)
{
    static const char *const names[] = {"gather", "allgather", "use", "alluse",
                                        "reduce", "allreduce", "copy"};
    if (bench->rank == 0) {
        printf("# %u ranks, %u rounds: microseconds a call, median and best; mpi/ours by medians\nbytes",
               bench->rank_count, round_count);
        for (int kind = 0; kind < KINDS; kind++) printf(",%s,%s_best", names[kind], names[kind]);
        printf(",gather_times,use_times,reduce_times,of_copy\n");
    }
    for (uint32_t bytes = BYTES_MIN; bytes <= BYTES_MAX; bytes *= 4) {
        double median[KINDS] = {0}, best[KINDS] = {0};
        for (int kind = 0; kind < KINDS; kind++) {
            if (!bench->has_mpi && (kind == ALLGATHER || kind == ALLUSE || kind == ALLREDUCE)) continue;
            median[kind] = measure(bench, kind, bytes / 4, &best[kind]);
        }
        if (bench->rank > 0) continue;
        printf("%u", bytes);
        for (int kind = 0; kind < KINDS; kind++) printf(",%.2f,%.2f", median[kind], best[kind]);
        printf(",%.2f,%.2f,%.2f,%.2f\n", median[ALLGATHER] / median[GATHER], median[ALLUSE] / median[USE],
               median[ALLREDUCE] / median[REDUCE], median[COPY] * bench->rank_count / median[REDUCE]);
        (void)fflush(stdout); // progress
    }
}

/* A rank on a core of its own. */
static void pin(uint32_t rank)
{
    struct cpus cpus;
    cpu_set_t one;
    cpus_allowed(&cpus);
    CPU_ZERO(&one);
    CPU_SET(cpus.ids[rank % cpus.count], &one);
    (void)sched_setaffinity(0, sizeof one, &one); // a wish
}

static bool under_mpi;

static int run_rank(struct ranks_rig *rig, uint32_t rank)
{
    struct bench bench = {.rank = rank, .rank_count = rig->shape.rank_count, .has_mpi = under_mpi};
    uint64_t bytes;
    bench.dist = ranks_rig_dist(rig, rank);
    pin(rank);
    bench.slots = dist_area(bench.dist, EXCHANGE_LOGITS, &bytes);
    bench.own = calloc(COLS_MAX, sizeof(float));
    bench.part = calloc(COLS_MAX, sizeof(float));
    bench.sum = calloc(COLS_MAX, sizeof(float));
    if (!bench.own || !bench.part || !bench.sum) return 71;
    run_sizes(&bench);
    __asm__ volatile("" : : "m"(bench.used));
    free(bench.own);
    free(bench.part);
    free(bench.sum);
    dist_close(bench.dist);
    return 0;
}

static struct exchange_shape shape_of(uint32_t ranks)
{
    return (struct exchange_shape){.rank_count = ranks,
                                   .group_count = ranks,
                                   .rows_max = 1,
                                   .logits_max = 2 * ranks,
                                   .embedding_dims = 32,
                                   .attention_dims = 32,
                                   .feed_forward_dims = 32,
                                   .vocab_count = COLS_MAX};
}

#ifdef HAVE_MPI
/* Under mpirun: the segment is MPI's, the exchange in it ours. */
static int run_under_mpi(int argc, char **argv)
{
    int rank, ranks, unit;
    MPI_Win window;
    MPI_Aint window_bytes;
    struct ranks_rig rig;
    static _Atomic uint32_t stopped; // nobody looks
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    rig = (struct ranks_rig){.shape = shape_of((uint32_t)ranks), .stopped = &stopped};
    rig.segment_bytes = exchange_bytes(&rig.shape);
    MPI_Win_allocate_shared(rank == 0 ? (MPI_Aint)rig.segment_bytes + 4096 : 0, 1, MPI_INFO_NULL,
                            MPI_COMM_WORLD, &rig.segment, &window);
    MPI_Win_shared_query(window, 0, &window_bytes, &unit, &rig.segment);
    rig.segment = (void *)(((uintptr_t)rig.segment + 63) & ~(uintptr_t)63);
    if (rank == 0) exchange_init(rig.segment, &rig.shape, 1);
    MPI_Barrier(MPI_COMM_WORLD);
    under_mpi = true;
    if (rank == 0) machine_print_header(stdout);
    int r = run_rank(&rig, (uint32_t)rank);
    MPI_Win_free(&window);
    MPI_Finalize();
    return r;
}
#endif

static bool parse(int argc, char **argv, uint32_t *ret_ranks)
{
    for (int i = 1; i < argc; i += 2) {
        char *end = NULL;
        unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], &end, 10) : 0;
        if (!end || *end != '\0' || value == 0) return false;
        if (strcmp(argv[i], "--ranks") == 0 && value <= RANKS_MAX) *ret_ranks = (uint32_t)value;
        else if (strcmp(argv[i], "--rounds") == 0 && value <= ROUNDS_MAX) round_count = (uint32_t)value;
        else return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    uint32_t ranks = 2;
    if (!parse(argc, argv, &ranks)) {
        fprintf(stderr, "usage: [mpirun -n N] allreduce [--ranks N] [--rounds N]\n");
        return 64;
    }
#ifdef HAVE_MPI
    if (getenv("OMPI_COMM_WORLD_SIZE")) return run_under_mpi(argc, argv);
#endif
    const struct exchange_shape shape = shape_of(ranks);
    struct ranks_rig rig;
    machine_print_header(stdout);
    ranks_rig_open(&shape, 0, &rig);
    int failed = ranks_rig_run(&rig, run_rank);
    ranks_rig_close(&rig);
    return failed == 0 ? 0 : 70;
}
