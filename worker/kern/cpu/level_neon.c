/* SPDX-License-Identifier: Apache-2.0 */
/* level_neon - the kernels for 64-bit ARM with dot products; called only where kern_select found them. */
#include "worker/kern/cpu/simd_neon.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_neon = CPU_LEVEL("neon");
