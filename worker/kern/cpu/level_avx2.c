/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx2 - the kernels for AVX2, FMA and F16C; called only where kern_select found them. */
#include "worker/kern/cpu/simd_avx2.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_avx2 = CPU_LEVEL("avx2");
