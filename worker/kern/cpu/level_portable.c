/* SPDX-License-Identifier: Apache-2.0 */
/* level_portable - the kernels for any machine. */
#include "worker/kern/cpu/simd_portable.h"
/* The vocabulary comes first, then the templates that use it. */
#include "worker/kern/cpu/level.h"

const struct cpu_level cpu_level_portable = CPU_LEVEL("portable");
