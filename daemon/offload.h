/* SPDX-License-Identifier: Apache-2.0 */
/* offload - moves pages between the pool and a tier: sealed ones out, behind the steps that made them; those that a
 * waiting prompt begins with in, ahead of its prefill.
 *
 * Out: a page is queued when it is sealed and written by a thread of libuv's pool, a few at a time, from a private copy
 * whose checksum is the page's; so no page is held for it, and one that was evicted meanwhile is not written.
 * In: offload_fetch finds how far a prompt's chain goes on in the tier. Its pages are granted, read by the same kind of
 * thread straight into the payload (the exception to rule 2 of layout.h: a FILLING page that no plan names has no
 * other writer), their checksums compared, sealed under their keys and held until the sequence was admitted. One
 * prompt is read at a time, in order of arrival. Who comes when LOADS_MAX wait, or waits for long, computes, and so
 * does everybody where reading takes longer than computing, by the rates measured so far.
 *
 * libuv's pool and not io_uring: the loop and its pool are here already, a page is hundreds of KiB, so that calls are
 * few, and two threads keep a disk busy. Everything but the reading and writing itself is on the loop thread. */
#ifndef KVASIR_DAEMON_OFFLOAD_H
#define KVASIR_DAEMON_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "daemon/prefix.h"
#include "daemon/tier.h"

struct offload; // opaque

struct offload_conf {
    uv_loop_t *loop;
    struct tier *tier;     // taken
    struct pool *pool;     // borrowed, as the next two
    struct prefix *prefix; //
    uint8_t *payload;      // (page_count, page_bytes) of rank 0
    void (*on_fetched)(
        void *owner,
        uint64_t seq_id); // once for each offload_fetch that said true, unless it is gone; not inside it
    bool (*is_waiting)(void *owner,
                       uint64_t seq_id); // whether the pages held for it are still to be admitted
    void *owner;
};

struct offload_stats {
    struct tier_stats tier;
    uint64_t pages_written, pages_read, pages_failed; // failed: unreadable, or of another checksum
    uint64_t page_bytes;
};

int offload_new(const struct offload_conf *conf, struct offload **ret_offload);
/* Writes what is queued, for FLUSH_NS_MAX at most, gives back what it holds, closes the tier, then calls on_freed. */
void offload_free(struct offload *offload, void (*on_freed)(void *arg), void *arg);

/* Which bits are in the pool from now on: those of pages in the tier that may come in, and of what goes out. Queues
 * what is sealed already, as an adopted pool's is. Whoever changes it has emptied the pool, and abandoned what is
 * read. -> pages of other producers in the tier, which are not found. */
uint32_t offload_begin(struct offload *offload, uint64_t producer);
void offload_sealed(struct offload *offload, uint32_t page_idx); // queues it; after offload_begin
/* True: pages that this prompt begins with are being read; on_fetched follows, also when none could be. */
bool offload_fetch(struct offload *offload, uint64_t seq_id, struct hash128 root_key, const uint32_t *tokens,
                   uint32_t count);
void offload_turn(struct offload *offload);  // between steps: gives back what was admitted, or not for long
bool offload_yield(struct offload *offload); // nothing can be planned: gives back all; whether that was any
/* Pages may be dropped from the index now, whoever wanted them: gives back all, also what is being read. */
void offload_abandon(struct offload *offload);
/* What computing costs, from a step of `rows` rows: the other side of whether to read. */
void offload_computed(struct offload *offload, uint32_t rows, uint64_t step_ns);
void offload_stats(const struct offload *offload, struct offload_stats *ret_stats);

#endif
