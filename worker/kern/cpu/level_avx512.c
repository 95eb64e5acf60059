/* SPDX-License-Identifier: Apache-2.0 */
/* level_avx512 - the kernels for AVX-512 with VNNI; called only where kern_select found them. */
#include "worker/kern/cpu/simd_avx512.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_avx512 = CPU_LEVEL("avx512");
