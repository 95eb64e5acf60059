/* SPDX-License-Identifier: Apache-2.0 */
/* segment - named POSIX shared memory: /kvasir-<instance>-<part>, mode 0600. */
#ifndef KVASIR_SHM_SEGMENT_H
#define KVASIR_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

struct segment {
    void *base; // mapped; NULL when closed
    size_t bytes;
    char name[80]; // with the leading '/'
};

/* Creates (O_EXCL), reserves every byte with posix_fallocate so that a full /dev/shm is one clear error
 * now ("need N MiB, have M MiB in /dev/shm") and never a SIGBUS later, and maps it read-write, zeroed. */
int segment_create(const char *instance, const char *part, size_t bytes, struct segment *ret_segment,
                   struct err *err);
/* Opens an existing one, read-only or read-write; its size comes from fstat. */
int segment_open_read(const char *instance, const char *part, struct segment *ret_segment, struct err *err);
int segment_open_write(const char *instance, const char *part, struct segment *ret_segment, struct err *err);
void segment_close(struct segment *segment);                // unmaps; a zeroed struct is fine
int segment_unlink(const char *instance, const char *part); // 0, also when there was none
bool segment_exists(const char *instance, const char *part);

/* Removes every /kvasir-<instance>-* name; returns how many. */
int segment_unlink_all(const char *instance);

/* One daemon per instance: an flock on /kvasir-<instance>-lock (a segment of 0 bytes) held for the life
 * of the process. ERR_BUSY names the holder's pid. The name stays. */
int segment_lock(const char *instance, int *ret_fd, struct err *err);

#endif
