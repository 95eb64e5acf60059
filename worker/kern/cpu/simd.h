/* SPDX-License-Identifier: Apache-2.0 */
/* simd - how the templates are compiled: everything into its caller, loops over register tiles unrolled. */
#ifndef KVASIR_KERN_CPU_SIMD_H
#define KVASIR_KERN_CPU_SIMD_H

#define INLINE static inline __attribute__((always_inline))

/* clang-format off */
#if defined(KVASIR_NO_UNROLL) // emulated levels: to be checked, not to be fast
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
/* clang-format on */

#endif
