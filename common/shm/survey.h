/* SPDX-License-Identifier: Apache-2.0 */
/* survey - what a pool has cached: prefix trees, each a root page and all that hangs on it. Reads only; works on a
 * live pool too, whose numbers may then be of slightly different moments. */
#ifndef KVASIR_SHM_SURVEY_H
#define KVASIR_SHM_SURVEY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/shm/layout.h"

struct survey_tree {
    uint32_t root_idx;
    struct hash128 key;   // of the root page
    uint32_t page_count;  // all
    uint32_t leaf_count;  // ends of chains
    uint32_t depth;       // pages of its longest chain
    uint32_t held_count;  // pages that sequences hold
    uint64_t last_use_ns; // monotonic, of any page
};

struct survey {
    struct pool_geometry geometry;
    int64_t daemon_pid; // 0: ended in order
    bool owner_alive;
    uint32_t free_count, filling_count, sealed_count, held_count;
    uint32_t lost_count;       // sealed pages that hang on no root: being evicted, or faulty (fsck tells)
    struct survey_tree *trees; // owned, (tree_count), last used first
    uint32_t tree_count;
};

/* -ENOENT: no pool. Other codes when it cannot be read. */
int survey_read(const char *instance, struct survey *ret_survey, struct err *err);
void survey_done(struct survey *survey); // a zeroed one is fine

#endif
