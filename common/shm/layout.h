/* SPDX-License-Identifier: Apache-2.0 */
/* layout - what lies in the `meta` segment: header, page descriptors, token ids, checksums.
 *
 *   meta   +--------+------------------+---------------------------+--------------------------+
 *          | header | descriptors      | tokens                    | sums                     |
 *          |        | [page_count]     | [page_count][page_tokens] | [page_count][rank_count] |
 *          +--------+------------------+---------------------------+--------------------------+
 *   kv.<r> | payload [page_count][pool_rank_page_bytes] of rank r                              |
 *
 * Rule 1: the daemon is the only writer of meta; workers and auditors map it read-only.
 * Rule 2: kv.<r> is written by rank r only, only into pages granted to it (FILLING) by the plan in hand.
 *         Exception: the daemon writes what it read from a tier into FILLING pages that no plan names (offload.c).
 * Rule 3: magic is stored last (release) when a pool is ready, and read first (acquire).
 * Rule 4: offsets and indices, never pointers; whoever reads a peer's number checks it first.
 * Rule 5: a SEALED page's payload, tokens, key and sums never change until it is FREE again, and then
 *         its generation has grown.
 * Any change here bumps SHM_LAYOUT_VERSION and gets a line in common/shm/README. */
#ifndef KVASIR_SHM_LAYOUT_H
#define KVASIR_SHM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#include "common/base/hash.h"
#include "common/base/limits.h"

#define SHM_LAYOUT_VERSION 2u
#define POOL_MAGIC UINT64_C(0x314C4F4F5056534B) // "KSVPOOL1", little-endian
#define PAGE_NONE UINT32_MAX

/* KV_F32 is for conformance runs of the reference kernels. */
enum kv_type { KV_F16 = 0, KV_BF16 = 1, KV_Q8 = 2, KV_Q4 = 3, KV_F32 = 4 };

/* States and edges of a page; pool.c holds the one function that changes a state. */
#define PAGE_EDGES(X) \
    X(FREE, FILLING, "granted to a sequence") \
    X(FILLING, SEALED, "full, checksum known; never changes now") \
    X(FILLING, FREE, "dropped: cancelled, or its step was lost") \
    X(SEALED, FREE, "evicted")

enum page_state { PAGE_FREE = 0, PAGE_FILLING = 1, PAGE_SEALED = 2 };

/* What a pool is for; two pools with equal geometry and digest hold interchangeable pages. */
struct pool_geometry {
    uint32_t page_count;
    uint32_t page_tokens; // PAGE_TOKENS
    uint32_t rank_count;  // payload segments, of all hosts together
    uint32_t kv_type;     // enum kv_type
    uint32_t layer_count;
    uint32_t head_count_kv; // of the model; of one rank: pool_rank_heads
    uint32_t head_dims;
    uint32_t remote_count; // the last so many ranks have theirs on other hosts (pool_local_count)
    uint64_t page_bytes;   // of all heads: pool_page_bytes; of one rank: pool_rank_page_bytes
    struct hash128 model_digest;
};

struct pool_header {
    _Atomic uint64_t magic; // rule 3
    uint32_t layout_version;
    uint32_t header_bytes;
    uint64_t layout_sum;   // pool_layout_sum(): sizeof and offsetof of all shared structs
    uint64_t meta_bytes;   // of the whole segment
    uint64_t epoch;        // wall clock ns at creation; names the daemon's life
    int64_t daemon_pid;    // owner; with the start time it tells a dead one from a re-used pid
    uint64_t daemon_start; // field 22 of /proc/PID/stat, clock ticks since boot
    uint64_t desc_offset, token_offset, sum_offset;
    struct pool_geometry geometry;
    /* Which bits are in the payload, as the workers say of their kernels (kern_producer): a page is read only by
     * kernels of the same. 0: no worker has said so yet, and nothing is SEALED. */
    uint64_t producer;
    _Alignas(CACHELINE_BYTES) uint8_t pad[CACHELINE_BYTES];
};

/* One page. I1: FREE <=> refcount 0 and on the free list. I2: FILLING => refcount 1.
 * I3: SEALED => filled == page_tokens and key == chain(parent's key, tokens). I4: parent is PAGE_NONE or a
 * SEALED page whose generation is parent_generation. */
struct page_desc {
    uint32_t state;      // enum page_state; stored with release, last of a change to SEALED (pool.c)
    uint32_t generation; // grows with every FREE -> FILLING, before the state changes; 0: never granted
    uint32_t refcount;   // sequences that hold it; 0 and SEALED: cached, evictable
    uint32_t filled;     // tokens recorded, 0..page_tokens; the scheduler records them when it seals
    struct hash128 key;  // valid when SEALED
    uint32_t parent, parent_generation;
    uint32_t child_count; // SEALED pages whose parent this is; leaves (0) are evicted first
    uint32_t priority;    // reserved for retention hints; 0
    uint64_t last_use_ns; // monotonic, of the last pin or unpin
    uint64_t reserved;
};
static_assert(sizeof(struct page_desc) == 64, "layout v1");

#endif
