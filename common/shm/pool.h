/* SPDX-License-Identifier: Apache-2.0 */
/* pool - the daemon's view of the page pool: descriptors and the free list. Works on memory it is
 * given, so that a simulation runs it on plain memory; segment.h makes and maps the real one.
 *
 * Single-threaded; the only writer of the descriptors (rule 1). Does not know prefixes: prefix.c in
 * the daemon does. Conservation: free + filling + sealed == page_count, checked by pool_check(). */
#ifndef KVASIR_SHM_POOL_H
#define KVASIR_SHM_POOL_H

#include <stddef.h>

#include "common/base/err.h"
#include "common/shm/layout.h"

struct pool; // opaque; private memory of the daemon

struct pool_owner { // identity stored in the header
    int64_t pid;
    uint64_t start;
    uint64_t epoch;
};

/* Payload bytes of one page of so many heads; 0 for no type or when it overflows. What lies where in them is the
 * kernels' matter: worker/kern/kern.h. */
uint64_t pool_page_bytes(enum kv_type type, uint32_t layer_count, uint32_t head_count_kv, uint32_t head_dims);
/* KV heads that a rank keeps of head_count: [*ret_first, *ret_first + *ret_count), at least one. They follow each other
 * by rank, as even as can be; where there are fewer heads than ranks, neighbours keep the same one. */
void pool_rank_heads(uint32_t head_count, uint32_t rank_count, uint32_t rank, uint32_t *ret_first,
                     uint32_t *ret_count);
/* Of one page, of a verified geometry; 0 for a pool without payload. */
uint64_t pool_rank_page_bytes(const struct pool_geometry *geometry, uint32_t rank);
/* The part's name of a rank's payload: kv.<rank>. */
enum { POOL_PART_BYTES = 16 };
void pool_payload_part(uint32_t rank, char ret_part[static POOL_PART_BYTES]);
/* Ranks of this host, whose payload lies here: [0, that). */
static inline uint32_t pool_local_count(const struct pool_geometry *geometry)
{
    return geometry->rank_count - geometry->remote_count;
}
uint64_t pool_all_page_bytes(const struct pool_geometry *geometry); // of all ranks together
size_t pool_meta_bytes(const struct pool_geometry *geometry); // size of the meta segment; a verified geometry
/* Counts and sizes in range and page_bytes as pool_page_bytes says; page_bytes 0 is a pool without payload
 * (a simulation; the shape is then not looked at). 0, or ERR_LIMIT / ERR_UNSUPPORTED with the reason. */
int pool_geometry_verify(const struct pool_geometry *geometry, struct err *err);
uint64_t pool_layout_sum(void);

/* Formats meta (zeroed, meta_bytes long, page-aligned) and stores the magic last. Borrows meta until
 * pool_free, which leaves the content as it is. */
int pool_format(void *meta, size_t meta_bytes, const struct pool_geometry *geometry,
                const struct pool_owner *owner, struct pool **ret_pool, struct err *err);
void pool_free(struct pool *pool); // NULL is fine

/* Whether pool_adopt would take these bytes. */
int pool_adoptable(const void *meta, size_t meta_bytes, const struct pool_geometry *wanted, struct err *err);
struct pool_adoption {      // what was found
    int64_t daemon_pid;     // last owner; 0: it closed the pool in order
    uint64_t epoch;         // of its life
    uint32_t sealed_count;  // pages that said they were SEALED
    uint32_t kept_count;    // of which are kept
    uint32_t filling_count; // were being written, or in no state at all; dropped
};
/* Takes over what a dead daemon left, when the geometry is *wanted: nobody but us may map the payload for writing any
 * more. Every page is SEALED or FREE afterwards, without holders; what does not hold by itself is dropped with its
 * descendants (adopt.c). Whoever dies in here leaves an adoptable pool. Errors are pool_header_copy's, and
 * ERR_UNSUPPORTED with what differs; then nothing was written. Borrows meta like pool_format. */
int pool_adopt(void *meta, size_t meta_bytes, const struct pool_geometry *wanted,
               const struct pool_owner *owner, struct pool **ret_pool, struct pool_adoption *ret_adoption,
               struct err *err);
/* Leaves a pool in order, for the next daemon to adopt: nothing FILLING, no holders, no owner. Only pool_free may
 * follow. */
void pool_close(struct pool *pool);

/* Verifies a mapped meta segment's header (any process): magic, version, sum, sizes, offsets. */
int pool_header_verify(const void *meta, size_t meta_bytes, struct err *err);
/* The same over a private copy, for a reader that goes on to use its numbers. ERR_FORMAT, ERR_VERSION, or
 * -EAGAIN while the magic is not stored yet. */
int pool_header_copy(const void *meta, size_t meta_bytes, struct pool_header *ret_header, struct err *err);

const struct pool_geometry *pool_geometry(const struct pool *pool);
const struct page_desc *pool_desc(const struct pool *pool, uint32_t page_idx);
const uint32_t *pool_tokens(const struct pool *pool, uint32_t page_idx); // (page_tokens)
const uint64_t *pool_sums(const struct pool *pool, uint32_t page_idx);   // (rank_count), valid when SEALED

/* Of the payload's bits, see layout.h. Stamped when no page is SEALED that another one made. */
uint64_t pool_producer(const struct pool *pool);
void pool_stamp(struct pool *pool, uint64_t producer);

uint32_t pool_free_count(const struct pool *pool);
uint32_t pool_filling_count(const struct pool *pool);
uint32_t pool_sealed_count(const struct pool *pool);

/* FREE -> FILLING with refcount 1. -ENOSPC when no page is free (the caller evicts first). */
int pool_grant(struct pool *pool, uint64_t now_ns, uint32_t *ret_page_idx);
/* Records tokens [filled, filled + count) of a FILLING page after the step that computed them. */
void pool_fill(struct pool *pool, uint32_t page_idx, const uint32_t *tokens, uint32_t count);
/* What a FILLING page holds does not count any more. */
void pool_empty(struct pool *pool, uint32_t page_idx);
/* FILLING and full -> SEALED. sums: (rank_count) payload checksums. parent: PAGE_NONE or a SEALED page. */
void pool_seal(struct pool *pool, uint32_t page_idx, struct hash128 key, uint32_t parent,
               const uint64_t *sums);
/* Drops a FILLING page, refcount 1 -> FREE. */
void pool_drop(struct pool *pool, uint32_t page_idx);
void pool_pin(struct pool *pool, uint32_t page_idx, uint64_t now_ns);   // SEALED: refcount + 1
void pool_unpin(struct pool *pool, uint32_t page_idx, uint64_t now_ns); // SEALED: refcount - 1
/* SEALED, refcount 0, no children -> FREE. */
void pool_evict(struct pool *pool, uint32_t page_idx);

/* Full audit of descriptors and free list (I1..I4, conservation): 0 or ERR_FORMAT with the first fault. */
int pool_check(const struct pool *pool, struct err *err);

#endif
