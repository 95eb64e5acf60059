/* SPDX-License-Identifier: Apache-2.0 */
/* tier - a place for pages behind the pool: slower, larger, and there after a restart.
 *
 * The same interface for every kind: a file (tier_file.h); later another machine, or host memory behind a device's
 * pool. A tier has places, numbered from 0. It keeps the index and its own order of eviction; who fills it and when
 * is offload.c's matter. Nothing in it is trusted: a page counts when its token ids, its parent's key, its producer
 * and the checksum of its payload are those asked for.
 *
 * find, reserve, commit, drop, count, stats and close are for the loop thread and quick. read and write take their
 * time, are for any thread, several at once on different places, and touch nothing that the others do: a place is
 * written between reserve and commit, and what is read from one that is being written fails its checksum. */
#ifndef KVASIR_DAEMON_TIER_H
#define KVASIR_DAEMON_TIER_H

#include <stdint.h>

#include "common/base/hash.h"
#include "common/base/limits.h"

#define TIER_NONE UINT32_MAX

struct tier_page { // who a page is; keys as in prefix.h, so that model, KV type and salt are in them
    struct hash128 key, parent_key; // parent_key: of the page before it; zero for a first page
    uint32_t tokens[PAGE_TOKENS];
    uint64_t producer; // of the payload's bits, as in layout.h: those of another are other pages
    uint64_t sum;      // hash64 of the payload; not looked at by find
};

struct tier_stats {
    uint32_t place_count, page_count;
    uint64_t evictions;
};

struct tier; // the first member of whatever implements one

struct tier_ops {
    /* The place of the page with this key, parent, token ids and producer, or TIER_NONE; fills page->sum. Counts as its
     * use. */
    uint32_t (*find)(struct tier *tier, struct tier_page *page);
    /* A place to write to; a page that was there is no longer found. -ENOSPC: every place is being written. */
    int (*reserve)(struct tier *tier, uint32_t *ret_place);
    /* Writes page and payload to a reserved place. 0 or -errno; then drop follows, else commit. */
    int (*write)(struct tier *tier, uint32_t place, const struct tier_page *page, const void *payload);
    void (*commit)(struct tier *tier, uint32_t place, const struct tier_page *page);
    /* Reads the payload of a page that was found there: 0, -errno, or ERR_FORMAT when its checksum is another. The
     * payload is undefined then. */
    int (*read)(struct tier *tier, uint32_t place, const struct tier_page *page, void *payload);
    /* The place holds nothing: its write failed (page NULL), or this page could not be read. */
    void (*drop)(struct tier *tier, uint32_t place, const struct tier_page *page);
    uint32_t (*count)(const struct tier *tier, uint64_t producer); // its pages; looks at every place
    void (*stats)(const struct tier *tier, struct tier_stats *ret_stats);
    void (*close)(struct tier *tier); // when no read or write runs
};

struct tier {
    const struct tier_ops *ops;
};

#endif
