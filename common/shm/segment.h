/* SPDX-License-Identifier: Apache-2.0 */
/* segment - named POSIX shared memory: /kvasir-<instance>-<part>, mode 0600.
 *
 * instance: 1..INSTANCE_BYTES_MAX of [a-z0-9_-]. part: [a-z0-9.]+, no '-', so that the names of instance
 * "a" are never mistaken for those of "a-b". Parts: meta, kv.<rank>, link.<group>, lock. (Packed weights are
 * no instance's: weights.h.) A segment that another user owns, or that others may open, is refused
 * with -EPERM: /dev/shm is writable for everyone and a name can be squatted. */
#ifndef KVASIR_SHM_SEGMENT_H
#define KVASIR_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { SEGMENT_NAME_BYTES = 128 };

struct segment {
    void *base; // mapped; NULL when closed
    size_t bytes;
    char name[SEGMENT_NAME_BYTES]; // with the leading '/'
};

/* 0, or ERR_CONFIG with the reason. */
int segment_instance_check(const char *instance, struct err *err);

/* Creates (O_EXCL), reserves every byte with posix_fallocate so that a full /dev/shm is one clear error
 * now ("need N MiB, have M MiB in /dev/shm") and never a SIGBUS later, and maps it read-write, zeroed.
 * -EEXIST when the name is there. */
int segment_create(const char *instance, const char *part, size_t bytes, struct segment *ret_segment,
                   struct err *err);
/* Opens an existing one, read-only or read-write; its size comes from fstat. -ENOENT when there is none. */
int segment_open_read(const char *instance, const char *part, struct segment *ret_segment, struct err *err);
int segment_open_write(const char *instance, const char *part, struct segment *ret_segment, struct err *err);
/* Payload outlives its writers, so it must be known who they are: every process that maps it for writing holds a lock
 * of its file for exactly as long (an flock lies on the open file, which a mapping keeps open; it goes with the
 * process, after its memory). segment_open_shared: as segment_open_write, under a shared lock; -EBUSY
 * while somebody has it alone. segment_open_alone: waits until nobody else maps it so, at most wait_ns, else
 * -EBUSY. segment_share then lets others in; the caller's lock stays, shared, until the mapping goes. */
int segment_open_shared(const char *instance, const char *part, struct segment *ret_segment, struct err *err);
int segment_open_alone(const char *instance, const char *part, uint64_t wait_ns, struct segment *ret_segment,
                       int *ret_lock_fd, struct err *err);
void segment_share(int lock_fd);                            // closes it
void segment_close(struct segment *segment);                // unmaps; a zeroed struct is fine
int segment_unlink(const char *instance, const char *part); // 0, also when there was none
bool segment_exists(const char *instance, const char *part);

/* Calls fn with the part and size of every segment of the instance, in name order, until it returns
 * non-zero, and returns that; else 0, or -errno. */
int segment_each(const char *instance, int (*fn)(void *arg, const char *part, size_t bytes), void *arg);

/* Removes every /kvasir-<instance>-* name but the lock; returns how many, or -errno. */
int segment_unlink_all(const char *instance);

/* One daemon per instance: an flock on /kvasir-<instance>-lock, held for the life of the process and
 * released by the kernel however that ends. The file holds the pid of its holder as text, for the
 * message: ERR_BUSY names it, after a wait of 50 ms, longer while it is ending. The descriptor is close-on-exec, so
 * that a worker cannot inherit the lock. */
int segment_lock(const char *instance, int *ret_fd, struct err *err);
void segment_unlock(const char *instance, int fd); // removes the name and releases; at a clean end

#endif
