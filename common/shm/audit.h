/* SPDX-License-Identifier: Apache-2.0 */
/* audit - reads a live or dead pool and says what is wrong with it. Maps everything read-only, takes no
 * lock, changes nothing; a live daemon does not notice.
 *
 * What is checked: header; of every page the state, refcount, fill, parent and generation; the key of every
 * sealed page with a parent against its parent's key (the key of a root page hangs on a root key that only
 * the daemon knows); the payload checksum of every sealed page of every rank; sizes of the payload segments;
 * whether the owner lives. On a live pool a page counts only when state and generation are the same before
 * and after it was read, others are counted as changed; child counts are checked on a dead pool only, and
 * one that is off by one is no fault there: a death between two stores leaves at most one such, and
 * adoption counts children anew. */
#ifndef KVASIR_SHM_AUDIT_H
#define KVASIR_SHM_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/shm/layout.h"

enum { AUDIT_FAULTS_MAX = 16, AUDIT_TEXT_BYTES = 160 };

enum audit_flags {
    AUDIT_PAYLOAD = 1, // also hash the payload of every sealed page
};

struct audit_report {
    bool owner_alive;
    int64_t daemon_pid;
    uint64_t daemon_start, epoch;
    struct pool_geometry geometry; // valid when header_valid
    bool header_valid;
    uint64_t meta_bytes, payload_bytes, link_bytes; // of the segments that are there
    uint32_t link_count;

    uint32_t free_count, filling_count, sealed_count;
    uint32_t pinned_count;  // sealed and held by a sequence
    uint32_t root_count;    // sealed, without a parent
    uint32_t changed_count; // pages that a live daemon changed meanwhile: not judged
    uint32_t chain_count;   // keys recomputed
    uint64_t sum_count;     // payload checksums recomputed

    uint32_t fault_count;                            // all of them
    char faults[AUDIT_FAULTS_MAX][AUDIT_TEXT_BYTES]; // the first ones, in words
};

/* What to look at, already mapped; payloads: (payload_count), entries may be NULL (not mapped). */
struct audit_input {
    const void *meta;
    size_t meta_bytes;
    const void *const *payloads;
    const size_t *payload_bytes;
    uint32_t payload_count; // ranks past it are not looked at
    bool live;              // the owner may be writing
};

/* Audits mapped memory and adds to *report (zeroed, or filled by the caller so far). Never fails: what is
 * unreadable is a fault. -ENOMEM. */
int audit_memory(const struct audit_input *input, unsigned flags, struct audit_report *report);

/* Audits the pool of an instance. 0 with the report, faults or none; -ENOENT when there is no such pool;
 * other codes when it cannot be opened. */
int audit_pool(const char *instance, unsigned flags, struct audit_report *ret_report, struct err *err);

/* What a dead daemon left behind. Ask it while holding segment_lock(): then whoever made these segments is
 * gone, and the caller may remove them and say so. */
struct pool_leftover {
    uint32_t segment_count; // 0: nothing was left
    bool readable;          // the header made sense, so the rest is valid
    int64_t daemon_pid;
    uint64_t epoch;
    uint32_t page_count, sealed_count;
};
int pool_leftover(const char *instance, struct pool_leftover *ret_leftover);

#endif
