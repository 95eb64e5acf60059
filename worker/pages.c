/* SPDX-License-Identifier: Apache-2.0 */
/* pages - see pages.h. The daemon is trusted to mean well, not to be without mistakes: a page table that
 * named a sealed page for writing would change tokens of other requests, so it is refused here. */
#include "worker/pages.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/check.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

struct pages {
    struct segment meta, payload;  // owned
    struct pool_header header;     // verified copy
    const struct page_desc *descs; // in meta, (page_count); the daemon writes it. NULL: not on this host
    const uint64_t *sums;          // in meta, (page_count, rank_count); likewise
    uint32_t rank;
    /* (page_count); how the plan in hand uses a page: mark_base + MARK_READ, + MARK_WRITTEN, or older. */
    uint32_t *marks;
    uint32_t mark_base; // grows by MARKS_A_PLAN
};

enum { MARK_READ = 0, MARK_WRITTEN = 1, MARKS_A_PLAN = 2 };

/* The lock before the header: a daemon that adopts the pool has written its own name there by the time that it lets us
 * in, and we find that we are nobody's. */
static int payload_open(const char *instance, uint32_t rank, struct pages **ret_pages, struct err *err)
{
    char part[POOL_PART_BYTES];
    pool_payload_part(rank, part);
    struct pages *pages = calloc(1, sizeof *pages);
    if (!pages) return ERR(err, -ENOMEM, "no memory for a view of the pool");
    pages->rank = rank;
    int r = segment_open_shared(instance, part, &pages->payload, err);
    if (r < 0) pages_close(pages);
    else *ret_pages = pages;
    return r;
}

/* Whether the payload is that of the header, which is verified. */
static int payload_verify(const struct pages *pages, struct err *err)
{
    const struct pool_geometry *geometry = &pages->header.geometry;
    const uint32_t rank = pages->rank;
    uint64_t page_bytes = rank < geometry->rank_count ? pool_rank_page_bytes(geometry, rank) : 0;
    uint64_t wanted = page_bytes * geometry->page_count; // verified: below 2^63
    if (page_bytes == 0 || pages->payload.bytes != wanted)
        return ERR(err, ERR_FORMAT, "%s: %zu bytes, rank %" PRIu32 " of %" PRIu32 " needs %" PRIu64,
                   pages->payload.name, pages->payload.bytes, rank, geometry->rank_count, wanted);
    // Fewer TLB misses where the system grants huge pages to shared memory; a wish, so no result.
    (void)madvise(pages->payload.base, pages->payload.bytes, MADV_HUGEPAGE);
    return 0;
}

int pages_open(const char *instance, uint32_t rank, struct pages **ret_pages, struct err *err)
{
    struct pages *pages;
    int r = payload_open(instance, rank, &pages, err);
    if (r < 0) return r;
    r = segment_open_read(instance, "meta", &pages->meta, err);
    if (r == 0) r = pool_header_copy(pages->meta.base, pages->meta.bytes, &pages->header, err);
    if (r == 0) r = payload_verify(pages, err);
    if (r < 0) goto fail;
    const struct pool_geometry *geometry = &pages->header.geometry;
    pages->descs = (const struct page_desc *)((const uint8_t *)pages->meta.base + pages->header.desc_offset);
    pages->sums = (const uint64_t *)((const uint8_t *)pages->meta.base + pages->header.sum_offset);
    pages->marks = calloc(geometry->page_count, sizeof *pages->marks);
    pages->mark_base = MARKS_A_PLAN; // 0 in marks: never used
    if (!pages->marks) {
        r = ERR(err, -ENOMEM, "no memory for %" PRIu32 " page marks", geometry->page_count);
        goto fail;
    }
    *ret_pages = pages;
    return 0;
fail:
    pages_close(pages);
    return r;
}

int pages_open_far(const char *instance, uint32_t rank, const struct pool_geometry *geometry, uint64_t epoch,
                   struct pages **ret_pages, struct err *err)
{
    struct pages *pages;
    int r = payload_open(instance, rank, &pages, err);
    if (r < 0) return r;
    pages->header = (struct pool_header){.epoch = epoch, .geometry = *geometry};
    r = payload_verify(pages, err);
    if (r < 0) pages_close(pages);
    else *ret_pages = pages;
    return r;
}

void pages_close(struct pages *pages)
{
    if (!pages) return;
    free(pages->marks);
    segment_close(&pages->payload);
    segment_close(&pages->meta);
    free(pages);
}

const struct pool_header *pages_header(const struct pages *pages)
{
    return &pages->header;
}

void *pages_payload(const struct pages *pages)
{
    return pages->payload.base;
}

uint64_t pages_bytes(const struct pages *pages)
{
    return pool_rank_page_bytes(&pages->header.geometry, pages->rank);
}

uint64_t pages_sum(const struct pages *pages, uint32_t page_idx, uint32_t rank)
{
    CHECK(pages->sums);
    CHECK(rank < pages->header.geometry.rank_count);
    CHECK(page_idx < pages->header.geometry.page_count); // plan_verify
    return pages->sums[(size_t)page_idx * pages->header.geometry.rank_count + rank];
}

static int page_refuse(const struct plan_page *page, uint32_t state, uint32_t generation, const char *use,
                       struct err *err)
{
    return ERR(err, ERR_PEER,
               "page %" PRIu32 " generation %" PRIu32 ": is in state %" PRIu32 " generation %" PRIu32
               ", to be %s",
               page->page_idx, page->generation, state, generation, use);
}

/* One entry of a page table, by what the step does with it. */
static int page_check(struct pages *pages, const struct plan_page *page, bool is_written, struct err *err)
{
    CHECK(page->page_idx < pages->header.geometry.page_count); // plan_verify
    const struct page_desc *desc = &pages->descs[page->page_idx];
    // Acquire: partner is the release store in pool.c's set_state(). The plan itself came behind the grant.
    uint32_t state = __atomic_load_n(&desc->state, __ATOMIC_ACQUIRE);
    uint32_t generation = __atomic_load_n(&desc->generation, __ATOMIC_RELAXED); // ordered by state's
    bool usable = state == PAGE_FILLING || (state == PAGE_SEALED && !is_written);
    if (!usable || generation != page->generation)
        return page_refuse(page, state, generation, is_written ? "written" : "read", err);
    uint32_t *mark = &pages->marks[page->page_idx];
    bool is_read = *mark == pages->mark_base + MARK_READ, is_taken = *mark == pages->mark_base + MARK_WRITTEN;
    if (is_taken || (is_written && is_read))
        return ERR(err, ERR_PEER, "page %" PRIu32 " is written and used twice in a step", page->page_idx);
    *mark = pages->mark_base + (is_written ? MARK_WRITTEN : MARK_READ);
    return 0;
}

/* A page that is checked or copied: SEALED, so that tokens, key and sums are there and it stays as it is. */
static int sealed_check(const struct pages *pages, uint32_t page_idx, uint32_t wanted, const char *use,
                        struct err *err)
{
    CHECK(page_idx < pages->header.geometry.page_count); // plan_verify
    const struct page_desc *desc = &pages->descs[page_idx];
    // Acquire: partner is the release store in pool.c's set_state(), behind which the sums are complete.
    uint32_t state = __atomic_load_n(&desc->state, __ATOMIC_ACQUIRE);
    uint32_t generation = __atomic_load_n(&desc->generation, __ATOMIC_RELAXED); // ordered by state's
    if (state == PAGE_SEALED && generation == wanted) return 0;
    return page_refuse(&(struct plan_page){page_idx, wanted}, state, generation, use, err);
}

int pages_check(struct pages *pages, const struct plan_view *plan, struct err *err)
{
    const struct pool_geometry *geometry = &pages->header.geometry;
    if (!pages->descs) return 0;
    if (pages->mark_base > UINT32_MAX - 2 * MARKS_A_PLAN) { // once in two thousand million steps
        memset(pages->marks, 0, geometry->page_count * sizeof *pages->marks);
        pages->mark_base = 0;
    }
    pages->mark_base += MARKS_A_PLAN;
    for (uint32_t i = 0; i < plan->header->check_count; i++) {
        int r = sealed_check(pages, plan->checks[i].page_idx, plan->checks[i].generation, "checked", err);
        if (r < 0) return r;
    }
    for (uint32_t s = 0; s < plan->header->seq_count; s++) {
        const struct plan_seq *seq = &plan->seqs[s];
        uint32_t written_first = seq->pos_first / geometry->page_tokens;
        for (uint32_t i = 0; i < seq->page_count; i++) {
            int r = page_check(pages, &plan->pages[seq->page_first + i], i >= written_first, err);
            if (r < 0) return r;
        }
    }
    for (uint32_t i = 0; i < plan->header->copy_count; i++) {
        int r = sealed_check(pages, plan->copies[i].page_idx, plan->copies[i].generation, "copied", err);
        if (r < 0) return r;
    }
    return 0;
}
