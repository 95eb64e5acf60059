/* SPDX-License-Identifier: Apache-2.0 */
/* See exchange.h. */
#include "common/ipc/exchange.h"

#include <string.h>

#include "common/base/check.h"

#define EXCHANGE_MAGIC UINT64_C(0x3147484358535648) // "HVSXCHG1", little-endian
enum {
    EXCHANGE_VERSION = 3,
    AREA_ALIGN = 4096,
    LOGITS_BYTES_MAX = 128 << 20, // of all logit rows, unless one a sequence takes more
};

struct exchange_header {
    _Atomic uint64_t magic; // stored last (release), read first (acquire)
    uint32_t version, cell_bytes;
    uint64_t epoch;
    struct exchange_shape shape;
};
static_assert(sizeof(struct exchange_header) <= 2 * CACHELINE_BYTES, "cells lie behind it");

uint32_t exchange_logits_max(const struct plan_limits *limits)
{
    uint32_t rows = (uint32_t)(LOGITS_BYTES_MAX / (limits->vocab_count * sizeof(float)));
    if (rows < limits->seqs_max) rows = limits->seqs_max;
    return rows < limits->tokens_max ? rows : limits->tokens_max;
}

struct exchange_shape exchange_shape_of(const struct plan_limits *limits, uint32_t local_count)
{
    const uint32_t seals = exchange_seals_max(limits), checks = plan_checks_max(limits);
    return (struct exchange_shape){
        .rank_count = local_count,
        .group_count = plan_rank_count(limits),
        .rows_max = limits->tokens_max,
        .logits_max = exchange_logits_max(limits),
        .vocab_count = limits->vocab_count,
        .plan_bytes = (uint32_t)plan_bytes_max(limits),
        .note_bytes = (seals > checks ? seals : checks) * (uint32_t)sizeof(uint64_t), // below 2^27
    };
}

static uint64_t cells_end(const struct exchange_shape *shape)
{
    return 2 * CACHELINE_BYTES + (uint64_t)shape->rank_count * sizeof(struct exchange_cell);
}

uint64_t exchange_note_stride(const struct exchange_shape *shape)
{
    return ((uint64_t)shape->note_bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
}

static uint64_t area_bytes(const struct exchange_shape *shape, enum exchange_area area)
{
    const uint64_t rows = shape->rows_max;
    uint64_t bytes = 0;
    switch (area) {
    case EXCHANGE_PLAN: bytes = sizeof(uint64_t) + shape->plan_bytes; break;
    case EXCHANGE_NOTES: bytes = shape->group_count * exchange_note_stride(shape); break;
    case EXCHANGE_X: bytes = rows * shape->embedding_dims * sizeof(float); break;
    case EXCHANGE_ATTENTION:
        bytes = rows * (((uint64_t)shape->attention_dims + 31) / 32) * EXCHANGE_BLOCK_BYTES;
        break;
    case EXCHANGE_FEED_FORWARD:
        bytes = rows * (((uint64_t)shape->feed_forward_dims + 31) / 32) * EXCHANGE_BLOCK_BYTES;
        break;
    case EXCHANGE_LOGITS: bytes = (uint64_t)shape->logits_max * shape->vocab_count * sizeof(float); break;
    case EXCHANGE_AREAS: break;
    }
    return (bytes + AREA_ALIGN - 1) / AREA_ALIGN * AREA_ALIGN;
}

/* Of area, or of the end for EXCHANGE_AREAS. */
static uint64_t area_offset(const struct exchange_shape *shape, enum exchange_area area)
{
    uint64_t offset = (cells_end(shape) + AREA_ALIGN - 1) / AREA_ALIGN * AREA_ALIGN;
    for (enum exchange_area before = EXCHANGE_PLAN; before < area; before++)
        offset += area_bytes(shape, before);
    return offset;
}

uint64_t exchange_bytes(const struct exchange_shape *shape)
{
    CHECK(shape->rank_count > 0 && shape->rank_count <= shape->group_count);
    CHECK(shape->group_count <= RANKS_MAX);
    CHECK(shape->rows_max > 0 && shape->rows_max <= PLAN_TOKENS_MAX && shape->logits_max > 0);
    return area_offset(shape, EXCHANGE_AREAS);
}

void exchange_init(void *base, const struct exchange_shape *shape, uint64_t epoch)
{
    struct exchange_header *header = base;
    memset(base, 0, cells_end(shape));
    header->version = EXCHANGE_VERSION;
    header->cell_bytes = sizeof(struct exchange_cell);
    header->epoch = epoch;
    header->shape = *shape;
    atomic_store_explicit(&header->magic, EXCHANGE_MAGIC, memory_order_release); // partner: exchange_verify
}

int exchange_verify(const void *base, size_t bytes, const struct exchange_shape *shape, uint64_t epoch,
                    struct err *err)
{
    const struct exchange_header *header = base;
    const char *why = NULL;
    if (bytes < sizeof *header || bytes != exchange_bytes(shape)) why = "its size";
    // Acquire: partner is the release store in exchange_init.
    else if (atomic_load_explicit(&header->magic, memory_order_acquire) != EXCHANGE_MAGIC) why = "no magic";
    else if (header->version != EXCHANGE_VERSION || header->cell_bytes != sizeof(struct exchange_cell))
        why = "another build's layout";
    else if (header->epoch != epoch) why = "another life's";
    else if (memcmp(&header->shape, shape, sizeof *shape) != 0) why = "its shape";
    return why ? ERR(err, ERR_FORMAT, "the exchange of the ranks is not ours: %s", why) : 0;
}

uint64_t exchange_progress(void *base, uint32_t rank_count)
{
    const struct exchange_cell *cells = exchange_cells(base);
    uint64_t sum = 0;
    // Relaxed: compared with itself a while later.
    for (uint32_t i = 0; i < rank_count; i++)
        sum += atomic_load_explicit(&cells[i].arrived, memory_order_relaxed);
    return sum;
}

struct exchange_cell *exchange_cells(void *base)
{
    return (struct exchange_cell *)(void *)((uint8_t *)base + 2 * CACHELINE_BYTES);
}

void *exchange_area(void *base, const struct exchange_shape *shape, enum exchange_area area,
                    uint64_t *ret_bytes)
{
    CHECK(area < EXCHANGE_AREAS);
    *ret_bytes = area_bytes(shape, area);
    return (uint8_t *)base + area_offset(shape, area);
}
