/* SPDX-License-Identifier: Apache-2.0 */
/* ref - the reference machine, for the table of levels in kern.c. */
#ifndef KVASIR_KERN_REF_REF_H
#define KVASIR_KERN_REF_REF_H

#include "worker/kern/kern.h"

extern const struct kern_ops kern_ref_ops;

#endif
