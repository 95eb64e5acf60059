/* SPDX-License-Identifier: Apache-2.0 */
/* bind - tensors of a file to weights of a machine, by name, with every shape verified.
 *
 * A binder lives while a model is opened. It borrows the gguf; what it makes belongs to the kern. Names
 * are "blk.LAYER.STEM.weight", or "STEM.weight" for BIND_GLOBAL; biases end in ".bias". It remembers
 * what was taken: a tensor that no one asked for means arithmetic that this build would leave out, so
 * bind_finish refuses the file. ERR_FORMAT and ERR_UNSUPPORTED name the tensor. */
#ifndef KVASIR_WORKER_BIND_H
#define KVASIR_WORKER_BIND_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/gguf/gguf.h"
#include "worker/kern/kern.h"

#define BIND_GLOBAL UINT32_MAX // instead of a layer

struct bind;

struct bind_part { // one tensor of a weight or of a bias
    const char *stem;
    uint32_t rows;         // outputs of the tensor
    uint32_t first, count; // those that are taken: a rank's; count 0: all
};

int bind_new(const struct gguf *gguf, void (*progress)(void *arg, uint32_t permille), void *progress_arg,
             struct bind **ret_bind, struct err *err);
void bind_free(struct bind *bind); // NULL is fine
/* Where the rest of the binder puts what it reads; both borrowed. */
void bind_target(struct bind *bind, const struct kern_ops *ops, struct kern *kern);

/* Instead: what a mate binds (kern_ops.mate_weight); vectors of norms come out NULL. */
void bind_mate(struct bind *bind, const struct kern_ops *ops, struct kern *kern, uint32_t mate);

/* Instead: nothing is packed, every weight and vector comes out NULL; bind_measured then tells what weights
 * would take of a kern_store of these ops. */
void bind_measure(struct bind *bind, const struct kern_ops *ops);
/* ret_content: hash of which tensors, of which types and shapes, go into which weight in which order. */
void bind_measured(const struct bind *bind, uint64_t *ret_bytes, struct hash128 *ret_content);

bool bind_has(const struct bind *bind, uint32_t layer, const char *stem, const char *suffix);

/* Parts with a common input of `cols`, packed together. */
int bind_weight(struct bind *bind, uint32_t layer, const struct bind_part *parts, uint32_t part_count,
                uint32_t cols, enum kern_pack pack, struct kern_weight **ret_weight, struct err *err);
/* "STEM.weight" of count elements, all of them. */
int bind_vector(struct bind *bind, uint32_t layer, const char *stem, uint32_t count,
                struct kern_vector **ret_vector, struct err *err);
/* The biases of the parts one after the other; absent ones are zeros, NULL when all are absent. */
int bind_bias(struct bind *bind, uint32_t layer, const struct bind_part *parts, uint32_t part_count,
              struct kern_vector **ret_vector, struct err *err);
/* "STEM.weight" of count elements as floats; -ENOENT, err untouched, when absent. */
int bind_floats(struct bind *bind, uint32_t layer, const char *stem, uint32_t count, float *out,
                struct err *err);

/* ERR_UNSUPPORTED when the file holds a tensor that was not taken. */
int bind_finish(const struct bind *bind, struct err *err);

#endif
