/* SPDX-License-Identifier: Apache-2.0 */
/* level_avxvnni - the kernels for AVX2 with AVX-VNNI; called only where kern_select found them. */
#include "worker/kern/cpu/simd_avxvnni.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_avxvnni = CPU_LEVEL("avxvnni");
