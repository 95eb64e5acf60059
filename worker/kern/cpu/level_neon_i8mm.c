/* SPDX-License-Identifier: Apache-2.0 */
/* level_neon_i8mm - the kernels for 64-bit ARM with integer matrix products; called only where kern_select found
 * them. */
#include "worker/kern/cpu/simd_neon_i8mm.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_neon_i8mm = CPU_LEVEL("neon-i8mm");
