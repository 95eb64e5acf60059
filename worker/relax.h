/* SPDX-License-Identifier: Apache-2.0 */
/* relax - what a loop that spins says to the core: the other hyperthread may go on, and the loop ends without a
 * flush. */
#ifndef KVASIR_WORKER_RELAX_H
#define KVASIR_WORKER_RELAX_H

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
