/* SPDX-License-Identifier: Apache-2.0 */
/* audit - see audit.h. Two halves: audit_memory() judges bytes, audit_pool() finds and maps them. Every
 * number in the segments is a stranger's: it is checked before it is used as an index. */
#include "common/shm/audit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

struct audit {
    const struct audit_input *input;
    struct audit_report *report;
    unsigned flags;
    const struct page_desc *descs; // in meta, may change under us
    const uint32_t *tokens;        // in meta
    const uint64_t *sums;          // in meta
    struct pool_geometry geometry; // verified copy
    uint32_t *children;            // owned, (page_count): sealed pages that name this one as parent
};

static void fault(struct audit_report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void fault(struct audit_report *report, const char *format, ...)
{
    if (report->fault_count < AUDIT_FAULTS_MAX) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(report->faults[report->fault_count], AUDIT_TEXT_BYTES, format, args); // cut is fine
        va_end(args);
    }
    report->fault_count++;
}

/* One page as it was at one instant. */
struct page_view {
    struct page_desc desc;
    uint32_t tokens[PAGE_TOKENS];
    uint64_t sums[RANKS_MAX]; // (rank_count)
};

/* Copies the descriptor. Acquire: partner is the release store of state in pool.c's set_state(). */
static struct page_desc desc_copy(const struct audit *audit, uint32_t page_idx)
{
    const struct page_desc *shared = &audit->descs[page_idx];
    uint32_t state = __atomic_load_n(&shared->state, __ATOMIC_ACQUIRE);
    struct page_desc desc;
    memcpy(&desc, shared, sizeof desc);
    desc.state = state;
    return desc;
}

/* Whether the page is still in the life and state that desc was copied from. The fence keeps what was read
 * before it; its partner is the release fence in set_state(). */
static bool still_is(const struct audit *audit, uint32_t page_idx, const struct page_desc *desc)
{
    const struct page_desc *shared = &audit->descs[page_idx];
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&shared->state, __ATOMIC_RELAXED) == desc->state &&
           __atomic_load_n(&shared->generation, __ATOMIC_RELAXED) == desc->generation;
}

static void page_copy(const struct audit *audit, uint32_t page_idx, struct page_view *ret_view)
{
    uint32_t ranks = audit->geometry.rank_count;
    ret_view->desc = desc_copy(audit, page_idx);
    memcpy(ret_view->tokens, audit->tokens + (size_t)page_idx * PAGE_TOKENS, sizeof ret_view->tokens);
    memcpy(ret_view->sums, audit->sums + (size_t)page_idx * ranks, ranks * sizeof *ret_view->sums);
}

/* Faults of a page that is not sealed. Counts of holders are stored before or after the state, so that a
 * daemon at work, or one that died between two stores, may show the one of the neighbouring state. */
static void judge_unsealed(struct audit *audit, uint32_t page_idx, const struct page_view *view)
{
    const struct page_desc *desc = &view->desc;
    if (desc->state > PAGE_SEALED)
        fault(audit->report, "page %u: state %u does not exist", page_idx, desc->state);
    if (desc->refcount > 1)
        fault(audit->report, "page %u: %s, but %u sequences hold it", page_idx,
              desc->state == PAGE_FREE ? "free" : "filling", desc->refcount);
    if (desc->filled > PAGE_TOKENS)
        fault(audit->report, "page %u: %u tokens in a page of %d", page_idx, desc->filled, PAGE_TOKENS);
    if (desc->state == PAGE_FILLING && desc->generation == 0)
        fault(audit->report, "page %u: filling, but never granted", page_idx);
}

/* I3, I4. True when the parent was still there after all of it was read. */
static bool judge_chain(struct audit *audit, uint32_t page_idx, const struct page_view *view)
{
    struct audit_report *report = audit->report;
    uint32_t parent = view->desc.parent;
    if (parent >= audit->geometry.page_count || parent == page_idx) {
        fault(report, "page %u: parent %u does not exist", page_idx, parent);
        return true;
    }
    struct page_desc up = desc_copy(audit, parent);
    if (!still_is(audit, parent, &up)) return false;
    if (up.state != PAGE_SEALED || up.generation != view->desc.parent_generation) {
        fault(report, "page %u: its parent %u generation %u is gone", page_idx, parent,
              view->desc.parent_generation);
        return true;
    }
    struct hash128 key = hash128_chain(up.key, view->tokens, sizeof view->tokens);
    if (!hash128_equal(key, view->desc.key))
        fault(report, "page %u: key %016" PRIx64 "%016" PRIx64 " does not follow from parent %u", page_idx,
              view->desc.key.high, view->desc.key.low, parent);
    report->chain_count++;
    audit->children[parent]++;
    return true;
}

static void judge_payload(struct audit *audit, uint32_t page_idx, const struct page_view *view)
{
    const struct audit_input *input = audit->input;
    if (!(audit->flags & AUDIT_PAYLOAD) || audit->geometry.page_bytes == 0) return;
    for (uint32_t rank = 0; rank < audit->geometry.rank_count && rank < input->payload_count; rank++) {
        uint64_t page_bytes = pool_rank_page_bytes(&audit->geometry, rank);
        if (!input->payloads[rank] || input->payload_bytes[rank] / page_bytes < audit->geometry.page_count)
            continue; // a missing or short segment is one fault, told once
        uint64_t sum = hash64((const uint8_t *)input->payloads[rank] + page_idx * page_bytes, page_bytes);
        if (!still_is(audit, page_idx, &view->desc)) return;
        audit->report->sum_count++;
        if (sum != view->sums[rank])
            fault(audit->report, "page %u: rank %u payload hashes to %016" PRIx64 ", sealed as %016" PRIx64,
                  page_idx, rank, sum, view->sums[rank]);
    }
}

static bool judge_sealed(struct audit *audit, uint32_t page_idx, const struct page_view *view)
{
    if (view->desc.generation == 0) fault(audit->report, "page %u: sealed, but never granted", page_idx);
    if (view->desc.filled != PAGE_TOKENS)
        fault(audit->report, "page %u: sealed with %u of %d tokens", page_idx, view->desc.filled,
              PAGE_TOKENS);
    if (view->desc.parent == PAGE_NONE) audit->report->root_count++;
    else if (!judge_chain(audit, page_idx, view)) return false;
    judge_payload(audit, page_idx, view);
    return true;
}

/* Judges one page. False when it changed meanwhile; nothing is kept of it then. */
static bool judge_page(struct audit *audit, uint32_t page_idx)
{
    struct audit_report before = *audit->report;
    struct page_view view;
    page_copy(audit, page_idx, &view);
    bool good = still_is(audit, page_idx, &view.desc);
    if (good && view.desc.state != PAGE_SEALED) judge_unsealed(audit, page_idx, &view);
    else if (good) good = judge_sealed(audit, page_idx, &view);
    if (good) good = !audit->input->live || still_is(audit, page_idx, &view.desc);
    if (!good) {
        *audit->report = before;
        return false;
    }
    struct audit_report *report = audit->report;
    if (view.desc.state == PAGE_FREE) report->free_count++;
    if (view.desc.state == PAGE_FILLING) report->filling_count++;
    if (view.desc.state == PAGE_SEALED) report->sealed_count++;
    if (view.desc.state == PAGE_SEALED && view.desc.refcount > 0) report->pinned_count++;
    return true;
}

static void judge_children(struct audit *audit)
{
    uint32_t off_count = 0, off_page = 0;
    bool far_off = false;
    for (uint32_t i = 0; i < audit->geometry.page_count; i++) {
        int64_t off = (int64_t)audit->descs[i].child_count - audit->children[i];
        if (off == 0) continue;
        if (off < -1 || off > 1) far_off = true;
        off_count++;
        off_page = i;
    }
    if (off_count > 1 || far_off)
        fault(audit->report, "%u pages count their children wrong, the last is page %u: %u, it has %u",
              off_count, off_page, audit->descs[off_page].child_count, audit->children[off_page]);
}

int audit_memory(const struct audit_input *input, unsigned flags, struct audit_report *report)
{
    enum { TRIES_MAX = 4 }; // looks at a page that a live daemon keeps changing
    struct pool_header header;
    struct err err;
    if (pool_header_copy(input->meta, input->meta_bytes, &header, &err) < 0) {
        fault(report, "%s", err.text);
        return 0;
    }
    report->header_valid = true;
    report->daemon_pid = header.daemon_pid;
    report->daemon_start = header.daemon_start;
    report->epoch = header.epoch;
    report->geometry = header.geometry;
    const uint8_t *meta = input->meta;
    struct audit audit = {
        .input = input,
        .report = report,
        .flags = flags,
        .descs = (const struct page_desc *)(meta + header.desc_offset),
        .tokens = (const uint32_t *)(meta + header.token_offset),
        .sums = (const uint64_t *)(meta + header.sum_offset),
        .geometry = header.geometry,
        .children = calloc(header.geometry.page_count, sizeof(uint32_t)),
    };
    if (!audit.children) return -ENOMEM;
    for (uint32_t i = 0; i < header.geometry.page_count; i++) {
        bool judged = false;
        for (int try = 0; try < TRIES_MAX && !judged; try++) judged = judge_page(&audit, i);
        if (!judged) report->changed_count++;
    }
    if (!input->live) judge_children(&audit);
    free(audit.children);
    return 0;
}

static int count_segment(void *arg, const char *part, size_t bytes)
{
    struct audit_report *report = arg;
    if (strncmp(part, "kv.", 3) == 0) report->payload_bytes += bytes;
    if (strncmp(part, "link.", 5) == 0) {
        report->link_count++;
        report->link_bytes += bytes;
    }
    return 0;
}

struct payloads {
    struct segment segments[RANKS_MAX];
    const void *bases[RANKS_MAX]; // NULL: not there
    size_t bytes[RANKS_MAX];
};

static void payloads_open(const char *instance, const struct pool_geometry *geometry,
                          struct payloads *payloads, struct audit_report *report)
{
    for (uint32_t rank = 0; rank < pool_local_count(geometry) && geometry->page_bytes > 0; rank++) {
        char part[POOL_PART_BYTES];
        struct err err;
        pool_payload_part(rank, part);
        if (segment_open_read(instance, part, &payloads->segments[rank], &err) < 0) {
            fault(report, "%s", err.text);
            continue;
        }
        payloads->bases[rank] = payloads->segments[rank].base;
        payloads->bytes[rank] = payloads->segments[rank].bytes;
        uint64_t page_bytes = pool_rank_page_bytes(geometry, rank);
        if (payloads->bytes[rank] / page_bytes < geometry->page_count)
            fault(report, "%s: %zu bytes, %u pages need %" PRIu64, payloads->segments[rank].name,
                  payloads->bytes[rank], geometry->page_count, geometry->page_count * page_bytes);
    }
}

int audit_pool(const char *instance, unsigned flags, struct audit_report *ret_report, struct err *err)
{
    struct segment meta = {.base = NULL};
    int r = segment_open_read(instance, "meta", &meta, err);
    if (r < 0) return r;
    struct audit_report report = {.meta_bytes = meta.bytes};
    struct payloads payloads = {.bytes = {0}};
    struct pool_header header;
    bool live = true;
    r = segment_each(instance, count_segment, &report);
    if (r < 0) {
        r = err_sys(err, -r, "cannot list the segments of %s", instance);
        goto out;
    }
    if (pool_header_copy(meta.base, meta.bytes, &header, NULL) == 0) {
        live = owner_is_alive(header.daemon_pid, header.daemon_start);
        payloads_open(instance, &header.geometry, &payloads, &report);
    }
    report.owner_alive = live;
    struct audit_input input = {
        .meta = meta.base,
        .meta_bytes = meta.bytes,
        .payloads = payloads.bases,
        .payload_bytes = payloads.bytes,
        .payload_count = RANKS_MAX,
        .live = live,
    };
    r = audit_memory(&input, flags, &report);
    if (r < 0) r = ERR(err, r, "no memory to audit %s", instance);
    if (!report.header_valid) report.owner_alive = false;
    if (r == 0) *ret_report = report;
out:
    for (uint32_t rank = 0; rank < RANKS_MAX; rank++) segment_close(&payloads.segments[rank]);
    segment_close(&meta);
    return r;
}

static int count_leftover(void *arg, const char *part, size_t bytes)
{
    struct pool_leftover *leftover = arg;
    (void)bytes;
    if (strcmp(part, "lock") != 0) leftover->segment_count++;
    return 0;
}

int pool_leftover(const char *instance, struct pool_leftover *ret_leftover)
{
    struct pool_leftover leftover = {0};
    struct segment meta = {.base = NULL};
    struct pool_header header;
    int r = segment_each(instance, count_leftover, &leftover);
    if (r < 0) return r;
    if (segment_open_read(instance, "meta", &meta, NULL) == 0) {
        if (pool_header_copy(meta.base, meta.bytes, &header, NULL) == 0) {
            const struct page_desc *descs = (const struct page_desc *)((const uint8_t *)meta.base +
                                                                       header.desc_offset);
            leftover.readable = true;
            leftover.daemon_pid = header.daemon_pid;
            leftover.epoch = header.epoch;
            leftover.page_count = header.geometry.page_count;
            for (uint32_t i = 0; i < header.geometry.page_count; i++)
                leftover.sealed_count += descs[i].state == PAGE_SEALED;
        }
        segment_close(&meta);
    }
    *ret_leftover = leftover;
    return 0;
}
