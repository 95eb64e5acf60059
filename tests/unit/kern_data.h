/* SPDX-License-Identifier: Apache-2.0 */
/* kern_data - random weights in every block type that fast kernels read, for the tests of kern. */
#ifndef KVASIR_TESTS_KERN_DATA_H
#define KVASIR_TESTS_KERN_DATA_H

#include "common/base/rng.h"
#include "worker/kern/kern.h"
#include "worker/kern/ref/dequant.h"

enum { KERN_DATA_TYPES = 16 };
extern const uint32_t kern_data_types[KERN_DATA_TYPES]; // ids of the file

/* A matrix of (rows, cols) with values of about `size`: random codes, random scales. free(data) when done. */
struct kern_matrix kern_data_matrix(struct rng *rng, uint32_t type, uint32_t rows, uint32_t cols, float size);
/* How far a packed value may lie from the file's, for values of about 1: scales of K types that are products in the
 * file are rounded to f16, 2^-11 of d * code and of the minimum; 0 for all others. */
float kern_data_pack_error(uint32_t type);
/* Uniform in [-size, size). */
float kern_data_float(struct rng *rng, float size);
/* count floats; free() them. With outliers: a few are 20 times larger, as activations of real models have. */
float *kern_data_floats(struct rng *rng, size_t count, float size);
float *kern_data_outliers(struct rng *rng, size_t count, float size);
/* Row of the matrix as floats; out: (cols) */
void kern_data_row(const struct kern_matrix *matrix, uint32_t row, float *out);

#endif
