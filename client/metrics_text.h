/* SPDX-License-Identifier: Apache-2.0 */
/* metrics_text - single values out of Prometheus text (exposition format 0.0.4). Pure. */
#ifndef KVASIR_CLIENT_METRICS_TEXT_H
#define KVASIR_CLIENT_METRICS_TEXT_H

#include <stddef.h>

/* Sum of all samples of that name, over all label sets. Returns how many there were. */
size_t metrics_text_sum(const char *text, const char *name, double *ret_sum);

/* Value of a label of the first sample of that name; cut to cap. Returns its bytes, 0 for none. */
size_t metrics_text_label(const char *text, const char *name, const char *label, char *out, size_t cap);

#endif
