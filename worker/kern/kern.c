/* SPDX-License-Identifier: Apache-2.0 */
/* kern - which kernels this build has, which this machine can run, and the choice between them. */
#include "worker/kern/kern.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif
#include <string.h>

#include "common/base/check.h"
#include "common/base/cpus.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/ref.h"

struct level {
    const struct kern_ops *ops;
    bool (*runs)(void); // on this machine
};

static bool runs_portable(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_f16c(void) // not among the names that clang's __builtin_cpu_supports knows
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}

/* __builtin_cpu_supports looks at XGETBV too: a kernel that does not save the registers counts as without. */
static bool runs_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && has_f16c();
}

#ifdef KVASIR_EMULATE // tests: built of AVX2
#define runs_avxvnni runs_avx2
#define runs_avx512 runs_avx2
#else
#ifdef KVASIR_HAVE_AVXVNNI
static bool runs_avxvnni(void)
{
    return runs_avx2() && cpus_have_avxvnni();
}
#endif

static bool runs_avx512(void)
{
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
#endif
#elif defined(__aarch64__)
/* HWCAP_ASIMDDP of the kernel's hwcap.h: older headers do not name it. */
static bool runs_neon(void)
{
    return (getauxval(AT_HWCAP) & 1UL << 20) != 0;
}

/* HWCAP2_I8MM, likewise. */
static bool runs_neon_i8mm(void)
{
    return runs_neon() && (getauxval(AT_HWCAP2) & 1UL << 13) != 0;
}
#endif

static const struct level levels[] = { // best first
#define X(level, level_name) {&kern_##level##_ops, runs_##level},
    CPU_LEVELS(X)
#undef X
        {&kern_ref_ops, runs_portable}};

const struct kern_ops *const *kern_levels(uint32_t *ret_count)
{
    static const struct kern_ops *found[COUNT_OF(levels)];
    uint32_t count = 0;
    for (size_t i = 0; i < COUNT_OF(levels); i++) {
        if (levels[i].runs()) found[count++] = levels[i].ops;
    }
    *ret_count = count;
    return found;
}

int kern_select(const char *name, const struct kern_ops **ret_ops, struct err *err)
{
    bool best = name == NULL || name[0] == '\0' || strcmp(name, "auto") == 0;
    for (size_t i = 0; i < COUNT_OF(levels); i++) {
        if (!best && strcmp(name, levels[i].ops->name) != 0) continue;
        if (levels[i].runs()) {
            *ret_ops = levels[i].ops;
            return 0;
        }
        if (!best) return ERR(err, ERR_CONFIG, "this machine cannot run the %s kernels", name);
    }
#define X(level, level_name) level_name ", "
    return ERR(err, ERR_CONFIG, "unknown kernels '%s': not " CPU_LEVELS(X) "ref or auto", name);
#undef X
}
