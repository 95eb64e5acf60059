/* SPDX-License-Identifier: Apache-2.0 */
/* fsck_weights - the packed weights in shared memory, for kvasir fsck: which there are, who uses them, whether
 * they are what was published. They are no instance's: all that this user may look at are listed. */
#ifndef KVASIR_CLIENT_FSCK_WEIGHTS_H
#define KVASIR_CLIENT_FSCK_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/shm/weights.h"

enum { FSCK_WEIGHTS_MAX = 64 };

struct fsck_weights {
    uint32_t count; // entries below
    uint64_t bytes; // of all their files
    uint32_t fault_count;
    struct {
        char name[WEIGHTS_NAME_BYTES];
        struct weights_info info;   // info.name is not valid
        char fault[ERR_TEXT_BYTES]; // "" when there is none
    } entries[FSCK_WEIGHTS_MAX];
};

/* verify: recompute the checksums. 0, or -errno. Further ones than FSCK_WEIGHTS_MAX are not looked at. */
int fsck_weights_read(bool verify, struct fsck_weights *ret_weights);
void fsck_weights_print(const struct fsck_weights *weights);                 // a line each, and each fault
void fsck_weights_json(const struct fsck_weights *weights, struct buf *out); // an array; out->error is sticky

#endif
