/* SPDX-License-Identifier: Apache-2.0 */
/* kern_rig - a machine with one shape of attention and its pages, for the tests of kern. What goes wrong here is no
 * finding of a test: it ends the program. */
#ifndef KVASIR_TESTS_KERN_RIG_H
#define KVASIR_TESTS_KERN_RIG_H

#include "worker/kern/kern.h"

struct kern_rig {
    const struct kern_ops *ops;
    struct kern *kern;
    struct kern_conf conf;
    float angles[128];
};

struct kern_rig_shape {
    uint32_t heads, heads_kv, dims, rope_dims;
    bool adjacent;
    uint32_t page_tokens;
    enum kern_kv kv_type; // f16 where nothing is said
};

enum { KERN_RIG_PAGE = 16, KERN_RIG_SHAPES = 5, KERN_RIG_MACHINES_MAX = 5 };
extern const struct kern_rig_shape kern_rig_shapes[KERN_RIG_SHAPES];

/* Whether tests run this machine: all, or where $KVASIR_KERNELS names one that one only (under an emulator each takes
 * its time). */
bool kern_rig_wants(const struct kern_ops *ops);

/* The wanted machines that are not the reference. At least one. */
extern const struct kern_ops *kern_rig_machines[KERN_RIG_MACHINES_MAX];
extern size_t kern_rig_machine_count;
void kern_rig_find_machines(void);

/* Pages start as NaN: a kernel that lets a key past the end count would show it. The rig must not move until close. */
void kern_rig_open(struct kern_rig *rig, const struct kern_ops *ops, const struct kern_rig_shape *shape,
                   uint32_t threads, uint32_t rows_max, uint32_t page_count);
void kern_rig_close(struct kern_rig *rig);

/* All owned by the rig's kern. */
struct kern_rows *kern_rig_rows(struct kern_rig *rig, uint32_t count, uint32_t cols);
/* Rows of chosen floats, (row_count, cols): embed of an F32 table. */
struct kern_rows *kern_rig_rows_with(struct kern_rig *rig, const float *values, uint32_t row_count,
                                     uint32_t cols);
struct kern_vector *kern_rig_vector(struct kern_rig *rig, const float *values, uint32_t count);
struct kern_weight *kern_rig_weight(struct kern_rig *rig, const struct kern_matrix *parts, uint32_t count,
                                    enum kern_pack pack);

#endif
