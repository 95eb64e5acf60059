/* SPDX-License-Identifier: Apache-2.0 */
/* huge - private memory that is walked in no order: on huge pages where the kernel grants them, because on small
 * ones each access may cost a page walk beside the cache miss, in a virtual machine several. */
#ifndef KVASIR_BASE_HUGE_H
#define KVASIR_BASE_HUGE_H

#include <stddef.h>

/* (count) zeroed elements of `bytes` bytes each, on a cache line at least. For free(). NULL: no memory. */
void *huge_calloc(size_t count, size_t bytes);
/* The same, not zeroed: what is not touched takes no memory. */
void *huge_alloc(size_t count, size_t bytes);

#endif
