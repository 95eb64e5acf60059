/* SPDX-License-Identifier: Apache-2.0 */
/* weights - packed weights in shared memory: made once, read by every worker that needs the same bytes.
 *
 *   /kvasir-weights.<key>.<rank>   mode 0600. key: 32 hex digits, the hash of all that the bytes depend on
 *
 *   +----------------+------------------------+
 *   | header (4 KiB) | packed weights [bytes] |
 *   +----------------+------------------------+
 *
 * The name carries no instance: what the bytes depend on decides who shares them. Two locks on byte ranges
 * (F_OFD_SETLK), which the kernel releases however their holder ends:
 *   USERS  shared: whoever uses the segment or keeps it for others, for as long as he does. Exclusive: whoever
 *          removes its name; tried, never waited for. He who gets it knows that there is no user.
 *   BUILD  exclusive: whoever fills it.
 * Rule W1: a descriptor is good once USERS is held and the name still leads to it.
 * Rule W2: magic is stored last. A segment without it whose BUILD is free is a dead builder's; who gets BUILD
 *          empties and fills it anew. Only the holder of BUILD changes size or bytes, and only before magic.
 * Rule W3: after magic nothing changes. Everyone maps it read-only, its builder too.
 * Rule W4: who leaves releases USERS first and tries it exclusively then: the last one succeeds, and removes
 *          the name. Who is killed does not: his successor finds the segment, or weights_sweep does. */
#ifndef KVASIR_SHM_WEIGHTS_H
#define KVASIR_SHM_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/hash.h"

#define WEIGHTS_LAYOUT_VERSION 1u

enum { WEIGHTS_NAME_BYTES = 80, WEIGHTS_LEVEL_BYTES = 16 };

struct weights; // a use of one segment: owns descriptor, locks and mapping

struct weights_conf {
    struct hash128 key;
    uint32_t rank;
    uint64_t bytes; // of packed weights, > 0
    /* For those who look from outside; no part of the decision what to share. */
    struct hash128 model_digest;
    const char *level; // of the kernels
    /* While another process fills it: called again and again until it has, or died. May be NULL. */
    void (*waiting)(void *arg, int64_t builder_pid, uint32_t permille);
    void *waiting_arg;
};

/* Opens the segment of conf, or makes it. -> 0. When weights_filled() then says no, it is ours to fill: it is
 * zeroed, writable, and others wait for it until weights_publish or weights_close. -ENOSPC "need N MiB, have
 * M MiB"; -EPERM when the name is another user's; other -errno where shared memory or its locks are missing. */
int weights_open(const struct weights_conf *conf, struct weights **ret_weights, struct err *err);
/* Opens one that another published. -ENOENT; ERR_FORMAT when it is not of these bytes, or not published. */
int weights_find(struct hash128 key, uint32_t rank, uint64_t bytes, struct weights **ret_weights,
                 struct err *err);
bool weights_filled(const struct weights *weights);
void *weights_base(const struct weights *weights);       // (bytes), 4096-byte aligned; read-only once filled
const char *weights_name(const struct weights *weights); // with the leading '/'
void weights_progress(struct weights *weights, uint32_t permille); // of filling, for those who wait
/* All bytes are in place: from now on they are read-only and everybody's. -errno when they cannot be made so. */
int weights_publish(struct weights *weights, struct err *err);
void weights_close(struct weights *weights); // rule W4; NULL is fine

/* Keeps a published segment from being swept while none of our workers runs. -> 0 and a descriptor, or -ENOENT
 * when there is none. */
int weights_keep(struct hash128 key, uint32_t rank, int *ret_fd);
void weights_unkeep(struct hash128 key, uint32_t rank, int fd); // rule W4

/* What is kept of one worker from one of its lives to the next. */
struct weights_hold {
    struct hash128 key;
    uint32_t rank;
    int fd; // -1: nothing
};
/* In place of what it has; where there is no such segment, or key is zero (the worker's own memory), nothing. */
void weights_hold(struct weights_hold *hold, struct hash128 key, uint32_t rank);
void weights_release(struct weights_hold *hold); // nothing is fine

enum weights_state { WEIGHTS_READY, WEIGHTS_BUILDING, WEIGHTS_ABANDONED, WEIGHTS_FOREIGN };

struct weights_info {
    const char *name; // with the leading '/'; valid within the call
    uint64_t file_bytes, bytes;
    enum weights_state state; // FOREIGN: not of this build's layout, or damaged
    bool in_use;              // somebody holds USERS
    int64_t builder_pid;      // valid unless FOREIGN
    struct hash128 model_digest;
    char level[WEIGHTS_LEVEL_BYTES];
    uint32_t rank;
};

/* Calls fn for every segment of packed weights that this user may look at, in name order, until it returns
 * non-zero, and returns that; else 0, or -errno. Reads only. */
int weights_each(int (*fn)(void *arg, const struct weights_info *info), void *arg);
/* Recomputes the checksum of a READY one: 0, ERR_FORMAT when it differs, -errno when it cannot be read. */
int weights_verify(const char *name, struct err *err);

/* Removes every segment of this user's that nobody uses, but keep's; tells of each. -> how many, or -errno. */
int weights_sweep(struct hash128 keep, void (*removed)(void *arg, const char *name, uint64_t bytes),
                  void *arg);

/* For tests: from here on this process's segments are named /kvasir-PREFIX.<key>.<rank>, so that no worker's
 * sweep meets them. prefix: at most 15 characters. */
void weights_prefix_set(const char *prefix);

#endif
