/* SPDX-License-Identifier: Apache-2.0 */
/* machine - see machine.h. Register-only loops of independent instructions: eight chains hide any latency of
 * four cycles at two a cycle, and 64 instructions a turn hide the loop. */
#define _GNU_SOURCE
#include "bench/machine.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"

double machine_now(void)
{
    return (double)clock_mono_ns() * 1e-9;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double machine_median(double *values, uint32_t count)
{
    CHECK(count > 0);
    qsort(values, count, sizeof(*values), compare_doubles);
    return count % 2 != 0 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

uint32_t machine_cores(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
    return (uint32_t)CPU_COUNT(&allowed);
}

/* ---- loops: each does LOOP_OPS instructions `turns` times */

enum { LOOP_OPS = 60 };

struct loop {
    void (*run)(uint64_t turns);
    double macs; // multiply-adds of one instruction
};

#if defined(__x86_64__)
/* Twelve sums: two instructions a cycle that take up to 5 cycles never wait. */
#define TWELVE(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define SIXTY(op) TWELVE(op) TWELVE(op) TWELVE(op) TWELVE(op) TWELVE(op)
#define YMMS \
    "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", \
        "ymm12", "ymm13", "ymm14", "ymm15"
#define DEFINE_LOOP(name, isa, zero, op) \
    __attribute__((target(isa))) static void name(uint64_t turns) \
    { \
        __asm__ volatile(TWELVE(zero) zero(14) zero(15)::: YMMS); /* no denormals, no NaN */ \
        for (uint64_t i = 0; i < turns; i++) __asm__ volatile(SIXTY(op)::: YMMS); \
    }
#define YMM_ZERO(n) "vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n"
#define YMM_FMA(n) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #n "\n"
#define YMM_MULTIPLY(n) "vpmaddubsw %%ymm15, %%ymm14, %%ymm" #n "\n"
#define YMM_DOT(n) "vpmaddubsw %%ymm15, %%ymm14, %%ymm13\n vpaddw %%ymm13, %%ymm" #n ", %%ymm" #n "\n"
#define YMM_VNNI(n) "%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm" #n "\n"
#define ZMM_FMA(n) "vfmadd231ps %%zmm15, %%zmm14, %%zmm" #n "\n"
#define ZMM_DOT(n) "vpdpbusd %%zmm15, %%zmm14, %%zmm" #n "\n"
#define ZMM_BF16(n) "vdpbf16ps %%zmm15, %%zmm14, %%zmm" #n "\n"

DEFINE_LOOP(loop_ymm_fma, "avx2,fma", YMM_ZERO, YMM_FMA)
DEFINE_LOOP(loop_ymm_multiply, "avx2", YMM_ZERO, YMM_MULTIPLY)
DEFINE_LOOP(loop_ymm_dot, "avx2", YMM_ZERO, YMM_DOT)
DEFINE_LOOP(loop_ymm_vnni, "avx2", YMM_ZERO, YMM_VNNI)
DEFINE_LOOP(loop_zmm_fma, "avx512f", YMM_ZERO, ZMM_FMA)
DEFINE_LOOP(loop_zmm_dot, "avx512f,avx512vnni", YMM_ZERO, ZMM_DOT)
DEFINE_LOOP(loop_zmm_bf16, "avx512f,avx512bf16", YMM_ZERO, ZMM_BF16)

static bool has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
}

static bool has_avxvnni(void)
{
    return __builtin_cpu_supports("avx2") && cpus_have_avxvnni();
}

static struct loop loop_int8_dot(void)
{
    if (has_avx512()) return (struct loop){loop_zmm_dot, 64};
    if (has_avxvnni()) return (struct loop){loop_ymm_vnni, 32};
    if (__builtin_cpu_supports("avx2")) return (struct loop){loop_ymm_dot, 32};
    return (struct loop){0};
}

static struct loop loop_int8_multiply(void)
{
    if (has_avx512()) return (struct loop){loop_zmm_dot, 64};
    if (has_avxvnni()) return (struct loop){loop_ymm_vnni, 32};
    if (__builtin_cpu_supports("avx2")) return (struct loop){loop_ymm_multiply, 32};
    return (struct loop){0};
}

static struct loop loop_bf16_dot(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16") ? (struct loop){loop_zmm_bf16, 32}
                                                                : (struct loop){0};
}

static struct loop loop_f32_fma(void)
{
    if (has_avx512()) return (struct loop){loop_zmm_fma, 16};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct loop){loop_ymm_fma, 8};
    return (struct loop){0};
}

const char *machine_int8_name(void)
{
    if (has_avx512()) return "vpdpbusd zmm";
    if (has_avxvnni()) return "vpdpbusd ymm";
    return __builtin_cpu_supports("avx2") ? "vpmaddubsw + vpaddw ymm" : "none";
}
#else
static struct loop loop_int8_dot(void)
{
    return (struct loop){0};
}
static struct loop loop_int8_multiply(void)
{
    return (struct loop){0};
}
static struct loop loop_bf16_dot(void)
{
    return (struct loop){0};
}
static struct loop loop_f32_fma(void)
{
    return (struct loop){0};
}
const char *machine_int8_name(void)
{
    return "none";
}
#endif

/* ---- threads */

struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    uint32_t core;
    double seconds;
    struct loop loop;     // what to run, or
    const uint8_t *bytes; // what to read
    size_t size;
    double rate; // result: operations or bytes a second, best of the turns
};

static void pin_to(uint32_t index)
{
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || index-- > 0) continue;
        CPU_SET(cpu, &one);
        (void)sched_setaffinity(0, sizeof(one), &one); // unpinned figures are still figures
        return;
    }
}

/* A sum over all bytes that the compiler cannot drop, 128 bytes a step. */
#define DEFINE_READ(name, attribute) \
    attribute static uint64_t name(const uint8_t *bytes, size_t size) \
    { \
        typedef uint64_t lanes __attribute__((vector_size(32))); \
        lanes sums[4] = {{0}}; \
        for (size_t i = 0; i + 128 <= size; i += 128) { \
            for (size_t k = 0; k < 4; k++) sums[k] += *(const lanes *)(const void *)(bytes + i + k * 32); \
        } \
        lanes sum = (sums[0] + sums[1]) + (sums[2] + sums[3]); \
        return sum[0] + sum[1] + sum[2] + sum[3]; \
    }
DEFINE_READ(read_plain, )
#if defined(__x86_64__)
DEFINE_READ(read_avx2, __attribute__((target("avx2"))))
#endif

uint64_t machine_read(const uint8_t *bytes, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return read_avx2(bytes, size);
#endif
    return read_plain(bytes, size);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    volatile uint64_t sink = 0;
    pin_to(worker->core);
    pthread_barrier_wait(worker->barrier);
    double end = machine_now() + worker->seconds;
    while (machine_now() < end) {
        enum { TURNS = 20000 };
        double start = machine_now(), done;
        if (worker->bytes != NULL) {
            sink = sink + machine_read(worker->bytes, worker->size);
            done = (double)worker->size;
        } else {
            worker->loop.run(TURNS);
            done = (double)TURNS * LOOP_OPS * worker->loop.macs;
        }
        double rate = done / (machine_now() - start);
        if (rate > worker->rate) worker->rate = rate;
    }
    return NULL;
}

/* Sum of the threads' best rates, all running at once. */
static double run_workers(uint32_t threads, struct loop loop, size_t bytes, double seconds)
{
    if (loop.run == NULL && bytes == 0) return 0;
    struct worker *workers = calloc(threads, sizeof(*workers));
    pthread_barrier_t barrier;
    double sum = 0;
    CHECK(workers != NULL);
    CHECK(pthread_barrier_init(&barrier, NULL, threads) == 0);
    for (uint32_t i = 0; i < threads; i++) {
        struct worker *w = &workers[i];
        *w = (struct worker){.barrier = &barrier, .core = i, .seconds = seconds, .loop = loop, .size = bytes};
        if (bytes > 0) {
            void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(map != MAP_FAILED);
            (void)madvise(map, bytes, MADV_HUGEPAGE); // as the kernels' memory
            memset(map, 1, bytes);
            w->bytes = map;
        }
    }
    for (uint32_t i = 0; i < threads; i++)
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    for (uint32_t i = 0; i < threads; i++) {
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
        sum += workers[i].rate;
        if (workers[i].bytes != NULL) (void)munmap((void *)workers[i].bytes, bytes); // our own mapping
    }
    pthread_barrier_destroy(&barrier);
    free(workers);
    return sum;
}

struct machine_peaks machine_peaks(uint32_t threads, double seconds)
{
    return (struct machine_peaks){
        .int8_dot = run_workers(threads, loop_int8_dot(), 0, seconds) * 1e-9,
        .int8_multiply = run_workers(threads, loop_int8_multiply(), 0, seconds) * 1e-9,
        .bf16_dot = run_workers(threads, loop_bf16_dot(), 0, seconds) * 1e-9,
        .f32_fma = run_workers(threads, loop_f32_fma(), 0, seconds) * 1e-9,
    };
}

enum { PIECE_TURNS = 3000 };

static struct loop chosen[2]; // by machine_unit

static void loops_choose(void)
{
    chosen[MACHINE_INT8] = loop_int8_dot();
    chosen[MACHINE_F32] = loop_f32_fma();
}

/* Chosen once: asking for the processor's features may trap, for as long as a piece takes. */
static struct loop loop_of(enum machine_unit unit)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, loops_choose);
    return chosen[unit];
}

void machine_piece(enum machine_unit unit)
{
    struct loop loop = loop_of(unit);
    if (loop.run != NULL) loop.run(PIECE_TURNS);
}

double machine_piece_macs(enum machine_unit unit)
{
    return (double)PIECE_TURNS * LOOP_OPS * loop_of(unit).macs;
}

double machine_read_gbs(uint32_t threads, size_t bytes, double seconds)
{
    return run_workers(threads, (struct loop){0}, bytes, seconds) * 1e-9;
}

static void print_processor(FILE *out)
{
    char line[512];
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info != NULL && fgets(line, sizeof(line), info) != NULL) {
        if (strncmp(line, "model name", 10) != 0) continue;
        const char *name = strchr(line, ':');
        if (name != NULL) fprintf(out, "# processor: %s", name + 2);
        break;
    }
    if (info != NULL) (void)fclose(info); // read only
}

void machine_print_header(FILE *out)
{
    struct utsname system;
    print_processor(out);
    fprintf(out, "# cores: %u\n", machine_cores());
    if (uname(&system) == 0) fprintf(out, "# kernel: %s %s\n", system.sysname, system.release);
    fprintf(out, "# compiler: %s\n", __VERSION__);
}
