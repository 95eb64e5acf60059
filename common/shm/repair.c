/* SPDX-License-Identifier: Apache-2.0 */
#include "common/shm/repair.h"

#include <errno.h>
#include <stdbool.h>

#include "common/base/clock.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

#define WRITERS_GONE_NS_MAX (5 * NS_PER_S)

struct payload {
    struct segment segment;
    int lock_fd;
};

/* Sealed pages of a rank whose payload is wrong become FREE, which costs their descendants their parent. */
static uint32_t corrupt_free(void *meta, const struct pool_header *header, const struct payload *payload,
                             uint32_t rank)
{
    const struct pool_geometry *g = &header->geometry;
    struct page_desc *descs = (struct page_desc *)((uint8_t *)meta + header->desc_offset);
    const uint64_t *sums = (const uint64_t *)((const uint8_t *)meta + header->sum_offset);
    uint64_t page_bytes = pool_rank_page_bytes(g, rank);
    uint32_t count = 0;
    for (uint32_t i = 0; i < g->page_count; i++) {
        if (descs[i].state != PAGE_SEALED) continue;
        const uint8_t *page = (const uint8_t *)payload->segment.base + i * page_bytes;
        if (hash64(page, page_bytes) == sums[(size_t)i * g->rank_count + rank]) continue;
        descs[i].state = PAGE_FREE;
        count++;
    }
    return count;
}

static int rank_repair(const char *instance, void *meta, const struct pool_header *header, uint32_t rank,
                       struct pool_repair *repair, struct err *err)
{
    char part[POOL_PART_BYTES];
    struct payload payload = {.lock_fd = -1};
    const struct pool_geometry *g = &header->geometry;
    pool_payload_part(rank, part);
    int r = segment_open_alone(instance, part, WRITERS_GONE_NS_MAX, &payload.segment, &payload.lock_fd, err);
    if (r < 0) return r;
    if (payload.segment.bytes / pool_rank_page_bytes(g, rank) < g->page_count)
        r = ERR(err, ERR_FORMAT, "%s: %zu bytes are too few for %u pages", payload.segment.name,
                payload.segment.bytes, g->page_count);
    else repair->corrupt_count += corrupt_free(meta, header, &payload, rank);
    segment_share(payload.lock_fd);
    segment_close(&payload.segment);
    return r;
}

int pool_repair(const char *instance, struct pool_repair *ret_repair, struct err *err)
{
    struct segment meta = {.base = NULL};
    struct pool_header header;
    struct pool_adoption adoption;
    struct pool_repair repair = {0};
    struct pool *pool = NULL;
    int r = segment_open_write(instance, "meta", &meta, err);
    if (r < 0) return r;
    r = pool_header_copy(meta.base, meta.bytes, &header, err);
    const uint32_t local_count = r == 0 && header.geometry.page_bytes > 0 ? pool_local_count(&header.geometry)
                                                                          : 0;
    for (uint32_t rank = 0; r == 0 && rank < local_count; rank++)
        r = rank_repair(instance, meta.base, &header, rank, &repair, err);
    const struct pool_owner nobody = {.epoch = r == 0 ? header.epoch : 0};
    if (r == 0) r = pool_adopt(meta.base, meta.bytes, &header.geometry, &nobody, &pool, &adoption, err);
    if (r == 0) {
        repair.sealed_count = adoption.sealed_count + repair.corrupt_count;
        repair.kept_count = adoption.kept_count;
        repair.filling_count = adoption.filling_count;
        *ret_repair = repair;
    }
    pool_free(pool);
    segment_close(&meta);
    return r;
}
