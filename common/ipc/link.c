/* SPDX-License-Identifier: Apache-2.0 */
/* link - see link.h. The segment:
 *
 *   | header | stop | plan wake | done wake | cells[rank_count] | plan ring | done ring |
 *
 * The header is written once, before its magic. Of the rest every cache line has one writer, but for the
 * futex words of the wakes, which any notifier counts up. A worker maps all of it writable: that it keeps
 * to its lines is a promise, not a fence, so the daemon works from private copies and verifies what it
 * reads back. What a broken worker can do is confined to its own link. */
#include "common/ipc/link.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/base/utf8.h"
#include "common/ipc/ring.h"
#include "common/ipc/wake.h"
#include "common/shm/owner.h"
#include "common/shm/segment.h"

#define LINK_MAGIC UINT64_C(0x314B4E4C5056534B) // "KSVPLNK1", little-endian
/* 2: key of the weights in a rank's cell; 3: checks in plans, bad pages in completions, start time of a rank; 4:
 * producer of a rank. */
#define LINK_VERSION 4u

struct link_header {
    _Atomic uint64_t magic; // stored last (release), read first (acquire)
    uint32_t version;
    uint32_t group;
    uint64_t layout_sum;
    uint64_t bytes; // of the segment
    uint64_t epoch; // of the pool
    uint32_t rank_count;
    uint32_t slots;                             // of each ring
    uint32_t plan_bytes, done_bytes;            // of a slot's payload
    uint64_t cell_offset, plan_ring, done_ring; // byte offsets in the segment
    struct plan_limits limits;
};

/* One rank's word to the daemon; written by that rank only, or for one of another host by rank 0. */
struct rank_cell {
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t state; // enum rank_state; stored with release after the text
    _Atomic uint32_t progress;                        // permille
    _Atomic int64_t pid;
    _Atomic uint64_t heartbeat_ns; // monotonic
    _Atomic uint64_t steps;
    _Atomic uint32_t changes; // counted up with every change that the daemon's waiter should see
    uint32_t reserved;
    _Atomic uint64_t weights_low, weights_high; // key of the shared weights; before state READY
    _Atomic uint64_t start;    // field 22 of /proc/PID/stat: with pid, who it is; stored before pid
    _Atomic uint64_t producer; // what its kernels' bits are; before state READY
    _Alignas(CACHELINE_BYTES) char panic[LINK_PANIC_BYTES];
};
static_assert(sizeof(struct rank_cell) == 2 * CACHELINE_BYTES + LINK_PANIC_BYTES, "link layout v4");

struct link_shared {
    _Alignas(CACHELINE_BYTES) struct link_header header;
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t stop; // written by the daemon
    struct wake plan_wake;                           // rank 0 sleeps
    struct wake done_wake;                           // the daemon's waiter sleeps
};

struct link {
    struct segment segment; // owned
    struct link_shared *shared;
    struct rank_cell *cells;   // in the segment, (rank_count)
    struct link_header header; // private verified copy
    uint32_t rank;             // worker: which one we are
    struct ring_end plan, done;

    /* Daemon's loop thread. */
    uint32_t plans_out; // pushed, completion not popped; <= LINK_SLOTS
    bool broken;        // a ring broke I1

    /* Daemon's waiter thread. */
    uint64_t done_seen;
    uint32_t changes_seen, interrupts_seen;
    _Atomic uint32_t interrupts; // any thread of the daemon
};

static uint64_t link_layout_sum(void)
{
    const uint64_t facts[] = {
        LINK_VERSION,
        sizeof(struct link_shared),
        sizeof(struct link_header),
        sizeof(struct rank_cell),
        sizeof(struct ring),
        sizeof(struct wake),
        sizeof(struct plan_limits),
        sizeof(struct plan_header),
        sizeof(struct plan_seq),
        sizeof(struct plan_copy),
        sizeof(struct done_header),
        sizeof(struct done_seq),
        sizeof(struct done_score),
        sizeof(struct done_seal),
        offsetof(struct link_shared, stop),
        offsetof(struct link_shared, plan_wake),
        offsetof(struct link_shared, done_wake),
        offsetof(struct link_header, limits),
        offsetof(struct rank_cell, heartbeat_ns),
        offsetof(struct rank_cell, changes),
        offsetof(struct rank_cell, weights_low),
        offsetof(struct rank_cell, producer),
        offsetof(struct plan_seq, temperature),
        LINK_SLOTS,
    };
    return hash64(facts, sizeof facts);
}

static void part_name(uint32_t group, char part[static 32])
{
    (void)snprintf(part, 32, "link.%u", group); // fits
}

/* Everything in the header that follows from group, ranks, epoch and limits. */
static void header_fill(struct link_header *header, uint32_t group, uint32_t rank_count, uint64_t epoch,
                        const struct plan_limits *limits)
{
    *header = (struct link_header){
        .version = LINK_VERSION,
        .group = group,
        .layout_sum = link_layout_sum(),
        .epoch = epoch,
        .rank_count = rank_count,
        .slots = LINK_SLOTS,
        .limits = *limits,
    };
    header->limits.rank_count = rank_count;
    header->plan_bytes = (uint32_t)plan_bytes_max(&header->limits); // plan_limits_verify: below 4 GiB
    header->done_bytes = (uint32_t)done_bytes_max(&header->limits);
    header->cell_offset = sizeof(struct link_shared);
    header->plan_ring = header->cell_offset + rank_count * sizeof(struct rank_cell);
    header->done_ring = header->plan_ring + ring_bytes(LINK_SLOTS, header->plan_bytes);
    header->bytes = header->done_ring + ring_bytes(LINK_SLOTS, header->done_bytes);
}

/* Points into the segment by the private header. */
static void link_map(struct link *link)
{
    link->shared = link->segment.base;
    link->cells = (struct rank_cell *)((uint8_t *)link->segment.base + link->header.cell_offset);
}

static struct ring *ring_at(const struct link *link, uint64_t offset)
{
    return (struct ring *)((uint8_t *)link->segment.base + offset);
}

int link_create(const char *instance, uint32_t group, uint32_t rank_count, uint64_t epoch,
                const struct plan_limits *limits, struct link **ret_link, struct err *err)
{
    CHECK(group < GROUPS_MAX);
    CHECK(rank_count > 0 && rank_count <= RANKS_MAX);
    struct plan_limits full = *limits;
    full.rank_count = rank_count;
    int r = plan_limits_verify(&full, err);
    if (r < 0) return r;
    char part[32];
    part_name(group, part);
    struct link *link = calloc(1, sizeof *link);
    if (!link) return ERR(err, -ENOMEM, "link %u: no memory", group);
    header_fill(&link->header, group, rank_count, epoch, &full);
    r = segment_unlink(instance, part);
    if (r < 0) {
        err_sys(err, -r, "link %u: cannot remove the old segment", group);
        goto fail;
    }
    r = segment_create(instance, part, link->header.bytes, &link->segment, err);
    if (r < 0) goto fail;
    link_map(link);
    struct ring *plan = ring_at(link, link->header.plan_ring), *done = ring_at(link, link->header.done_ring);
    ring_format(plan, LINK_SLOTS, link->header.plan_bytes);
    ring_format(done, LINK_SLOTS, link->header.done_bytes);
    CHECK(ring_attach_producer(plan, LINK_SLOTS, link->header.plan_bytes, &link->plan) == 0);
    CHECK(ring_attach_consumer(done, LINK_SLOTS, link->header.done_bytes, &link->done) == 0);
    memcpy((void *)&link->shared->header, &link->header, sizeof link->header);
    // Release: partner is the acquire load in link_attach.
    atomic_store_explicit(&link->shared->header.magic, LINK_MAGIC, memory_order_release);
    *ret_link = link;
    return 0;
fail:
    link_close(link);
    return r;
}

int link_unlink(const char *instance, uint32_t group)
{
    char part[32];
    part_name(group, part);
    return segment_unlink(instance, part);
}

static int header_verify(const struct segment *segment, uint32_t group, struct link_header *ret_header,
                         struct err *err)
{
    struct link_shared *shared = segment->base;
    if (segment->bytes < sizeof *shared)
        return ERR(err, ERR_FORMAT, "link %u: %zu bytes hold no header", group, segment->bytes);
    // Acquire: partner is the release store in link_create.
    if (atomic_load_explicit(&shared->header.magic, memory_order_acquire) != LINK_MAGIC)
        return ERR(err, ERR_FORMAT, "link %u: wrong magic, or not ready", group);
    struct link_header header, wanted;
    memcpy((void *)&header, &shared->header, sizeof header);
    if (header.version != LINK_VERSION || header.layout_sum != link_layout_sum())
        return ERR(err, ERR_VERSION, "link %u: version %u or its layout is not this build's", group,
                   header.version);
    int r = plan_limits_verify(&header.limits, err);
    if (r < 0) return r;
    if (header.rank_count == 0 || header.rank_count > RANKS_MAX)
        return ERR(err, ERR_FORMAT, "link %u: %u ranks", group, header.rank_count);
    header_fill(&wanted, group, header.rank_count, header.epoch, &header.limits);
    if (header.group != group || header.slots != wanted.slots || header.bytes != wanted.bytes ||
        header.limits.rank_count != wanted.limits.rank_count || header.bytes != segment->bytes ||
        header.plan_bytes != wanted.plan_bytes || header.done_bytes != wanted.done_bytes ||
        header.cell_offset != wanted.cell_offset || header.plan_ring != wanted.plan_ring ||
        header.done_ring != wanted.done_ring)
        return ERR(err, ERR_FORMAT, "link %u: sizes do not follow from its limits", group);
    memcpy((void *)ret_header, &wanted, sizeof wanted);
    return 0;
}

static int rank_kill(struct rank_cell *cell)
{
    // Acquire: partner is the release store in link_attach.
    int64_t pid = atomic_load_explicit(&cell->pid, memory_order_acquire);
    return owner_kill(pid, atomic_load_explicit(&cell->start, memory_order_relaxed));
}

int link_kill_ranks(const char *instance, uint32_t group)
{
    char part[32];
    struct segment segment = {.base = NULL};
    struct link_header header;
    int count = 0;
    part_name(group, part);
    if (segment_open_read(instance, part, &segment, NULL) < 0) return 0;
    if (header_verify(&segment, group, &header, NULL) == 0) {
        struct rank_cell *cells = (struct rank_cell *)((uint8_t *)segment.base + header.cell_offset);
        for (uint32_t rank = 0; rank < header.rank_count; rank++) count += rank_kill(&cells[rank]);
    }
    segment_close(&segment);
    return count;
}

int link_attach(const char *instance, uint32_t group, uint32_t rank, struct link **ret_link, struct err *err)
{
    if (group >= GROUPS_MAX) return ERR(err, ERR_USAGE, "group %u, at most %d", group, GROUPS_MAX - 1);
    char part[32];
    part_name(group, part);
    struct link *link = calloc(1, sizeof *link);
    if (!link) return ERR(err, -ENOMEM, "link %u: no memory", group);
    int r = segment_open_write(instance, part, &link->segment, err);
    if (r < 0) goto fail;
    r = header_verify(&link->segment, group, &link->header, err);
    if (r < 0) goto fail;
    if (rank >= link->header.rank_count) {
        r = ERR(err, ERR_USAGE, "rank %u of a link with %u", rank, link->header.rank_count);
        goto fail;
    }
    link->rank = rank;
    link_map(link);
    if (rank == 0) {
        r = ring_attach_consumer(ring_at(link, link->header.plan_ring), LINK_SLOTS, link->header.plan_bytes,
                                 &link->plan);
        if (r == 0)
            r = ring_attach_producer(ring_at(link, link->header.done_ring), LINK_SLOTS,
                                     link->header.done_bytes, &link->done);
        if (r < 0) {
            r = ERR(err, r, "link %u: its rings are broken", group);
            goto fail;
        }
    }
    // Relaxed: the daemon only shows it.
    uint64_t start = 0; // unknown: then a next daemon can only wait for us to go
    (void)owner_start(getpid(), &start);
    atomic_store_explicit(&link->cells[rank].start, start, memory_order_relaxed);
    // Release: partner is the acquire load in rank_kill.
    atomic_store_explicit(&link->cells[rank].pid, getpid(), memory_order_release);
    *ret_link = link;
    return 0;
fail:
    link_close(link);
    return r;
}

void link_close(struct link *link)
{
    if (!link) return;
    segment_close(&link->segment);
    free(link);
}

const struct plan_limits *link_limits(const struct link *link)
{
    return &link->header.limits;
}

uint64_t link_epoch(const struct link *link)
{
    return link->header.epoch;
}

/* Relaxed throughout: no rank lives, and the next one is ordered behind this by its exec. */
void link_reset(struct link *link)
{
    ring_reset_producer(&link->plan);
    ring_reset_consumer(&link->done);
    link->plans_out = 0;
    link->broken = false;
    for (uint32_t rank = 0; rank < link->header.rank_count; rank++) {
        struct rank_cell *cell = &link->cells[rank];
        atomic_store_explicit(&cell->state, RANK_NONE, memory_order_relaxed);
        atomic_store_explicit(&cell->progress, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->pid, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->heartbeat_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->steps, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->weights_low, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->weights_high, 0, memory_order_relaxed);
        atomic_store_explicit(&cell->producer, 0, memory_order_relaxed);
        memset(cell->panic, 0, sizeof cell->panic);
    }
    atomic_store_explicit(&link->shared->stop, 0, memory_order_relaxed);
    wake_finish(&link->shared->plan_wake); // the sleeper may have died asleep
}

void *link_plan_slot(struct link *link, size_t *ret_bytes)
{
    void *slot;
    if (link->broken || link->plans_out == LINK_SLOTS) return NULL;
    int r = ring_next(&link->plan, &slot);
    if (r == ERR_PEER) link->broken = true;
    if (r < 0) return NULL;
    *ret_bytes = link->header.plan_bytes;
    return slot;
}

void link_plan_push(struct link *link, size_t bytes)
{
    CHECK(bytes <= link->header.plan_bytes);
    CHECK(link->plans_out < LINK_SLOTS);
    link->plans_out++;
    ring_publish(&link->plan, (uint32_t)bytes);
    wake_notify(&link->shared->plan_wake);
}

int link_done_pop(struct link *link, void *out, size_t out_bytes, size_t *ret_bytes)
{
    const void *slot;
    uint32_t bytes;
    if (link->broken) return ERR_PEER;
    int r = ring_peek(&link->done, &slot, &bytes);
    if (r == -EAGAIN) return r;
    if (r == 0 && (bytes > out_bytes || link->plans_out == 0)) r = ERR_PEER;
    if (r < 0) {
        link->broken = true;
        return r;
    }
    memcpy(out, slot, bytes);
    ring_release(&link->done);
    link->plans_out--;
    *ret_bytes = bytes;
    return 0;
}

/* Changes of all ranks together; differs after any of them counted up. */
static uint32_t changes_of(const struct link *link)
{
    uint32_t sum = 0;
    // Acquire: partner is the release increment in cell_changed.
    for (uint32_t rank = 0; rank < link->header.rank_count; rank++)
        sum += atomic_load_explicit(&link->cells[rank].changes, memory_order_acquire);
    return sum;
}

/* 1 when something new is there, and notes it as seen; -EINTR when interrupted; else 0. */
static int daemon_look(struct link *link)
{
    // Acquire: partner is the release increment in link_interrupt.
    uint32_t interrupts = atomic_load_explicit(&link->interrupts, memory_order_acquire);
    uint64_t done = ring_published(link->done.ring);
    uint32_t changes = changes_of(link);
    bool is_new = done != link->done_seen || changes != link->changes_seen;
    bool interrupted = interrupts != link->interrupts_seen;
    link->interrupts_seen = interrupts;
    link->done_seen = done;
    link->changes_seen = changes;
    if (is_new) return 1; // an interrupt beside it is answered as well: the caller looks at everything
    return interrupted ? -EINTR : 0;
}

/* Saturates, so that a timeout of UINT64_MAX is for ever. */
static uint64_t deadline(uint64_t now_ns, uint64_t timeout_ns)
{
    return timeout_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + timeout_ns;
}

int link_daemon_wait(struct link *link, uint64_t timeout_ns)
{
    struct wake *wake = &link->shared->done_wake;
    uint64_t end_ns = deadline(clock_mono_ns(), timeout_ns);
    for (;;) {
        int r = daemon_look(link);
        if (r != 0) return r < 0 ? r : 0;
        uint32_t ticket = wake_prepare(wake);
        r = daemon_look(link);
        uint64_t now_ns = clock_mono_ns();
        if (r == 0 && now_ns >= end_ns) r = -ETIMEDOUT;
        if (r == 0) (void)wake_sleep(wake, ticket, end_ns - now_ns); // whatever woke us: look again
        wake_finish(wake);
        if (r != 0) return r < 0 ? r : 0;
    }
}

void link_interrupt(struct link *link)
{
    // Release: partner is the acquire load in daemon_look.
    (void)atomic_fetch_add_explicit(&link->interrupts, 1,
                                    memory_order_release); // the old value tells nothing
    wake_notify(&link->shared->done_wake);
}

/* A peer's text: NUL-terminated, without control characters, UTF-8 or ASCII. */
static void text_copy(char out[static LINK_PANIC_BYTES], const char *shared)
{
    memcpy(out, shared, LINK_PANIC_BYTES);
    out[LINK_PANIC_BYTES - 1] = '\0';
    size_t len = strlen(out);
    bool ascii_only = !utf8_is_valid((const uint8_t *)out, len);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)out[i];
        if (c < 0x20 || c == 0x7f || (ascii_only && c >= 0x80)) out[i] = '?';
    }
}

void link_rank_status(const struct link *link, uint32_t rank, struct rank_status *ret_status)
{
    CHECK(rank < link->header.rank_count);
    struct rank_cell *cell = &link->cells[rank];
    // Acquire: partner is the release store in cell_set_state; a FAILED rank's text is complete.
    uint32_t state = atomic_load_explicit(&cell->state, memory_order_acquire);
    uint32_t progress = atomic_load_explicit(&cell->progress, memory_order_relaxed);
    text_copy(ret_status->panic, cell->panic);
    if (state > RANK_FAILED) {
        state = RANK_FAILED;
        (void)snprintf(ret_status->panic, sizeof ret_status->panic, "impossible state in its cell");
    }
    ret_status->state = (enum rank_state)state;
    ret_status->progress_permille = progress <= 1000 ? progress : 1000;
    // Relaxed: numbers to show and to compare with a clock; nothing else hangs on them.
    // Acquire: partner is the release store in link_attach, behind that of start.
    ret_status->pid = atomic_load_explicit(&cell->pid, memory_order_acquire);
    ret_status->start = atomic_load_explicit(&cell->start, memory_order_relaxed);
    ret_status->heartbeat_ns = atomic_load_explicit(&cell->heartbeat_ns, memory_order_relaxed);
    ret_status->steps = atomic_load_explicit(&cell->steps, memory_order_relaxed);
    ret_status->weights.low = atomic_load_explicit(&cell->weights_low, memory_order_relaxed); // by state's
    ret_status->weights.high = atomic_load_explicit(&cell->weights_high, memory_order_relaxed);
    ret_status->producer = atomic_load_explicit(&cell->producer, memory_order_relaxed);
}

/* 0 with the oldest plan copied to out; -EAGAIN when there is none, -ECANCELED when there will be none. */
static int plan_take(struct link *link, void *out, size_t out_bytes, size_t *ret_bytes)
{
    const void *slot;
    uint32_t bytes;
    // Acquire: partner is the release store in link_stop. Before the ring, so that plans pushed before a stop
    // are seen with it.
    bool stop = atomic_load_explicit(&link->shared->stop, memory_order_acquire) != 0;
    int r = ring_peek(&link->plan, &slot, &bytes);
    if (r == -EAGAIN && stop) return -ECANCELED;
    if (r == 0 && bytes > out_bytes) r = ERR_PEER;
    if (r < 0) return r;
    memcpy(out, slot, bytes);
    ring_release(&link->plan);
    *ret_bytes = bytes;
    return 0;
}

int link_plan_wait(struct link *link, void *out, size_t out_bytes, uint64_t spin_ns, uint64_t timeout_ns,
                   size_t *ret_bytes)
{
    CHECK(link->rank == 0);
    struct wake *wake = &link->shared->plan_wake;
    int r = plan_take(link, out, out_bytes, ret_bytes);
    if (r != -EAGAIN) return r;
    uint64_t now_ns = clock_mono_ns(), end_ns = deadline(now_ns, timeout_ns);
    uint64_t spin_end_ns = deadline(now_ns, spin_ns);
    while (now_ns < spin_end_ns && now_ns < end_ns) {
        r = plan_take(link, out, out_bytes, ret_bytes);
        if (r != -EAGAIN) return r;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
        now_ns = clock_mono_ns();
    }
    for (;;) {
        uint32_t ticket = wake_prepare(wake);
        r = plan_take(link, out, out_bytes, ret_bytes);
        now_ns = clock_mono_ns();
        if (r == -EAGAIN && now_ns >= end_ns) r = -ETIMEDOUT;
        if (r == -EAGAIN) (void)wake_sleep(wake, ticket, end_ns - now_ns); // whatever woke us: look again
        wake_finish(wake);
        if (r != -EAGAIN) return r;
    }
}

void *link_done_slot(struct link *link, size_t *ret_bytes)
{
    void *slot;
    if (ring_next(&link->done, &slot) < 0) return NULL;
    *ret_bytes = link->header.done_bytes;
    return slot;
}

void link_done_push(struct link *link, size_t bytes)
{
    struct rank_cell *cell = &link->cells[link->rank];
    CHECK(bytes <= link->header.done_bytes);
    // Relaxed: only this rank adds; a number to show.
    (void)atomic_fetch_add_explicit(&cell->steps, 1, memory_order_relaxed); // the old value tells nothing
    ring_publish(&link->done, (uint32_t)bytes);
    wake_notify(&link->shared->done_wake);
}

static void cell_changed(struct link *link, struct rank_cell *cell)
{
    // Release: partner is the acquire load in changes_of.
    (void)atomic_fetch_add_explicit(&cell->changes, 1, memory_order_release); // the old value tells nothing
    wake_notify(&link->shared->done_wake);
}

static void cell_set_state(struct link *link, enum rank_state state)
{
    struct rank_cell *cell = &link->cells[link->rank];
    // Release: partner is the acquire load in link_rank_status.
    atomic_store_explicit(&cell->state, (uint32_t)state, memory_order_release);
    cell_changed(link, cell);
}

void link_rank_set(struct link *link, enum rank_state state, uint32_t progress_permille)
{
    CHECK(progress_permille <= 1000);
    atomic_store_explicit(&link->cells[link->rank].progress, progress_permille, memory_order_relaxed);
    cell_set_state(link, state);
}

void link_rank_beat(struct link *link, uint64_t now_ns)
{
    // Relaxed: compared with a clock; nothing else hangs on it.
    atomic_store_explicit(&link->cells[link->rank].heartbeat_ns, now_ns, memory_order_relaxed);
}

/* The daemon may read it half-written; text_copy makes that harmless. */
static void text_set(struct rank_cell *cell, const char *text)
{
    (void)snprintf(cell->panic, sizeof cell->panic, "%s", text); // a cut text is still a text
}

void link_rank_relay(struct link *link, uint32_t rank)
{
    CHECK(link->rank == 0 && rank > 0 && rank < link->header.rank_count);
    struct rank_cell *cell = &link->cells[rank];
    atomic_store_explicit(&cell->progress, 1000, memory_order_relaxed);
    // Release: partner is the acquire load in link_rank_status.
    atomic_store_explicit(&cell->state, RANK_READY, memory_order_release);
    cell_changed(link, cell);
}

void link_rank_note(struct link *link, const char *text)
{
    text_set(&link->cells[link->rank], text);
    cell_changed(link, &link->cells[link->rank]);
}

void link_rank_weights(struct link *link, struct hash128 key)
{
    struct rank_cell *cell = &link->cells[link->rank];
    atomic_store_explicit(&cell->weights_low, key.low, memory_order_relaxed); // published by cell_set_state
    atomic_store_explicit(&cell->weights_high, key.high, memory_order_relaxed);
}

void link_rank_producer(struct link *link, uint64_t producer)
{
    // Relaxed: published by cell_set_state.
    atomic_store_explicit(&link->cells[link->rank].producer, producer, memory_order_relaxed);
}

void link_rank_panic(struct link *link, const char *text)
{
    text_set(&link->cells[link->rank], text);
    cell_set_state(link, RANK_FAILED);
}

void link_stop(struct link *link)
{
    // Release: partner is the acquire load in plan_take.
    atomic_store_explicit(&link->shared->stop, 1, memory_order_release);
    wake_notify(&link->shared->plan_wake);
}
