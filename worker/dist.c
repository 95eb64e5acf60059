/* SPDX-License-Identifier: Apache-2.0 */
/* See dist.h. The barrier: each rank counts its own up (`arrived`) and waits until every other's has come as far. No
 * rank can be more than one barrier ahead of another, so a status is kept for two. Whoever comes last wakes those that
 * sleep:
 *
 *   R1  `arrived` is stored seq_cst and then all are loaded seq_cst, so that at least the last one sees all of them:
 *       it looks for sleepers. Acquire loads of it show what its rank wrote before (rule E2).
 *   R2  sleeping is wake.h's: announce, look again, sleep. */
#include "worker/dist.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "worker/relax.h"

enum {
    /* Of a wait within a step. Waits are what one core was behind the other, some ten microseconds to a millisecond,
     * and on a virtual machine waking a core that was given back costs as much again. */
    SPIN_NS = 1000000,
    SPIN_NS_MIN = 2000,
    SPIN_LOOKS = 32,   // looks between two readings of the clock
    OFFER_NS = 50000,  // from here on a look at the clock is also an offer of the core
    TAKEN_NS = 100000, // between two readings: somebody else had the core
};

struct dist {
    struct dist_conf conf;
    struct exchange_cell *cells; // in the segment, (local_count)
    uint32_t local, local_count; // which of the host's ranks we are
    uint32_t epoch;              // barriers that we came to
    uint32_t op;                 // ops that we began, from 1 on
    uint64_t spin_ns;            // our budget, up to conf.spin_ns_max: less while others want the core
    int failed;                  // negative: look said no, or the hosts
};

uint64_t dist_spin_ns(uint32_t local_count, uint32_t threads)
{
    struct cpus cpus;
    cpus_allowed(&cpus);
    const uint64_t wanted = (uint64_t)local_count * threads;
    return cpus.count >= wanted && cpus_quota_milli("") / 1000 >= wanted ? SPIN_NS : 0;
}

int dist_open(const struct dist_conf *conf, struct dist **ret_dist, struct err *err)
{
    CHECK(conf->rank < conf->rank_count && conf->rank_count <= RANKS_MAX);
    CHECK(conf->shape.group_count == conf->rank_count);
    CHECK(conf->rank >= conf->local_first && conf->rank - conf->local_first < conf->shape.rank_count);
    struct dist *dist = calloc(1, sizeof *dist);
    if (!dist) return err_sys(err, ENOMEM, "ranks");
    dist->conf = *conf;
    dist->cells = exchange_cells(conf->segment);
    dist->local = conf->rank - conf->local_first;
    dist->local_count = conf->shape.rank_count;
    dist->spin_ns = conf->spin_ns_max;
    *ret_dist = dist;
    return 0;
}

void dist_close(struct dist *dist)
{
    free(dist);
}

uint32_t dist_rank(const struct dist *dist)
{
    return dist ? dist->conf.rank : 0;
}

uint32_t dist_rank_count(const struct dist *dist)
{
    return dist ? dist->conf.rank_count : 1;
}

int dist_failed(const struct dist *dist)
{
    return dist ? dist->failed : 0;
}

uint32_t dist_local_first(const struct dist *dist)
{
    return dist->conf.local_first;
}

uint32_t dist_local_count(const struct dist *dist)
{
    return dist->local_count;
}

void *dist_area(const struct dist *dist, enum exchange_area area, uint64_t *ret_bytes)
{
    return exchange_area(dist->conf.segment, &dist->conf.shape, area, ret_bytes);
}

static bool all_arrived(const struct dist *dist)
{
    for (uint32_t i = 0; i < dist->local_count; i++) {
        uint32_t arrived = atomic_load_explicit(&dist->cells[i].arrived, memory_order_seq_cst); // R1
        if ((int32_t)(arrived - dist->epoch) < 0) return false;
    }
    return true;
}

/* In a wait that is not over at once the core is offered to others: the rank that we wait for may be queued behind us
 * on it. The budget doubles when it was enough, and halves when somebody had the core and we still wait: then others
 * need it, and the spin ends. That a wait was longer says nothing of the next one. */
static bool spin(struct dist *dist, uint64_t *budget_ns, uint64_t budget_ns_max)
{
    if (budget_ns_max == 0) return false;
    const uint64_t start = clock_mono_ns();
    for (uint64_t before = start, now = start; now - start < *budget_ns; before = now) {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (all_arrived(dist)) {
                *budget_ns = *budget_ns * 2 < budget_ns_max ? *budget_ns * 2 : budget_ns_max;
                return true;
            }
            relax();
        }
        if (before - start > OFFER_NS) (void)sched_yield(); // never fails
        now = clock_mono_ns();
        if (now - before < TAKEN_NS || all_arrived(dist)) continue;
        *budget_ns = *budget_ns / 2 > SPIN_NS_MIN ? *budget_ns / 2 : SPIN_NS_MIN;
        break;
    }
    return all_arrived(dist);
}

static int sleep_until_arrived(struct dist *dist)
{
    struct wake *wake = &dist->cells[dist->local].wake;
    int r = 0;
    for (;;) {
        uint32_t ticket = wake_prepare(wake); // R2
        if (all_arrived(dist)) break;
        // A broken wait is a shorter one: we look again either way.
        if (wake_sleep(wake, ticket, DIST_LOOK_NS) < 0 && dist->conf.look)
            r = dist->conf.look(dist->conf.look_arg);
        if (r < 0) break;
    }
    wake_finish(wake);
    return r;
}

/* All ranks of this host. */
static int meet(struct dist *dist, int status, uint64_t *spin_ns, uint64_t spin_ns_max)
{
    if (dist->failed < 0) return dist->failed;
    struct exchange_cell *own = &dist->cells[dist->local];
    dist->epoch++;
    // Relaxed: it is compared with itself a while later.
    if (dist->conf.progress) atomic_fetch_add_explicit(dist->conf.progress, 1, memory_order_relaxed);
    own->statuses[dist->epoch % 2] = status;
    atomic_store_explicit(&own->arrived, dist->epoch, memory_order_seq_cst); // R1
    if (all_arrived(dist)) {
        for (uint32_t i = 0; i < dist->local_count; i++) {
            struct wake *wake = &dist->cells[i].wake;
            // Spares wake_notify's fence: this load stands behind R1's store in the one order of seq_cst, and the fence
            // of wake_prepare behind or before it, so either we see the sleeper or it sees us.
            if (atomic_load_explicit(&wake->sleeping, memory_order_seq_cst)) wake_notify(wake); // R2
        }
        return 0;
    }
    if (spin(dist, spin_ns, spin_ns_max)) return 0;
    dist->failed = sleep_until_arrived(dist);
    return dist->failed;
}

static int meet_here(struct dist *dist, int status)
{
    return meet(dist, status, &dist->spin_ns, dist->conf.spin_ns_max);
}

/* The least status of this host's ranks at the barrier that we just left. */
static int32_t least_status(const struct dist *dist)
{
    int32_t least = 0;
    for (uint32_t i = 0; i < dist->local_count; i++) {
        int32_t status = dist->cells[i].statuses[dist->epoch % 2];
        if (status < least) least = status;
    }
    return least;
}

/* What the other hosts' leaders and ours did, for all ranks of this host. hosts_r: of our leader; the others, who
 * wait for it, bring 0; spinning spin_ns_max at most before they sleep. -> the least status that any brought. */
static int meet_hosts(struct dist *dist, int hosts_r, int32_t status, uint64_t *spin_ns, uint64_t spin_ns_max)
{
    struct exchange_cell *leader = &dist->cells[0];
    // Relaxed, and of one way only: the barrier orders it, and who still reads it behind the one before may learn of
    // the failure early.
    if (hosts_r < 0) atomic_store_explicit(&leader->hosts_failed, hosts_r, memory_order_relaxed); // rule E1
    int r = meet(dist, status, spin_ns, spin_ns_max);
    if (r == 0) r = dist->failed = atomic_load_explicit(&leader->hosts_failed, memory_order_relaxed);
    return r < 0 ? r : least_status(dist);
}

static int meet_hosts_soon(struct dist *dist, int hosts_r, int32_t status)
{
    return meet_hosts(dist, hosts_r, status, &dist->spin_ns, dist->conf.spin_ns_max);
}

int dist_barrier(struct dist *dist)
{
    if (!dist) return 0;
    if (dist->conf.hosts) return dist_agree(dist, 0, 0);
    return meet_here(dist, 0);
}

int dist_gather(struct dist *dist, const struct dist_plane *planes, uint32_t plane_count, uint32_t row_count,
                const uint32_t *bounds)
{
    if (!dist) return 0;
    int r = meet_here(dist, 0);
    const struct dist_hosts *hosts = dist->conf.hosts;
    if (r < 0 || !hosts) return r;
    if (dist->local == 0) r = hosts->gather(hosts->arg, planes, plane_count, row_count, bounds);
    return meet_hosts_soon(dist, r, 0);
}

int dist_gather_rows(struct dist *dist, const struct dist_plane *plane, uint32_t row_count,
                     const uint16_t *owners)
{
    if (!dist) return 0;
    int r = meet_here(dist, 0);
    const struct dist_hosts *hosts = dist->conf.hosts;
    if (r < 0 || !hosts) return r;
    if (dist->local == 0) r = hosts->gather_rows(hosts->arg, plane, row_count, owners);
    return meet_hosts_soon(dist, r, 0);
}

int dist_agree(struct dist *dist, int status, uint32_t note_bytes)
{
    if (!dist) return status;
    int r = meet_here(dist, status);
    if (r < 0) return r;
    const struct dist_hosts *hosts = dist->conf.hosts;
    CHECK(note_bytes <= dist->conf.shape.note_bytes);
    int32_t least = least_status(dist);
    if (!hosts) return least;
    uint64_t bytes;
    if (dist->local == 0)
        r = hosts->agree(hosts->arg, &least, dist_area(dist, EXCHANGE_NOTES, &bytes), note_bytes);
    return meet_hosts_soon(dist, r, least);
}

void *dist_note(struct dist *dist, uint32_t rank)
{
    uint64_t bytes;
    uint8_t *notes = dist_area(dist, EXCHANGE_NOTES, &bytes);
    CHECK(rank < dist->conf.shape.group_count);
    return notes + rank * exchange_note_stride(&dist->conf.shape);
}

void dist_op_begin(struct dist *dist)
{
    dist->op++;
}

/* Nobody is at another op than we: the next begins behind a barrier to which we come when this one has no piece left.
 * So a word of another op is one that nobody took from yet. All relaxed: what pieces read lies behind the barrier
 * before, what they wrote before the next one. */
bool dist_piece_take(struct dist *dist, uint32_t local, uint32_t lane, uint32_t piece_count,
                     uint32_t *ret_piece)
{
    _Atomic uint64_t *const word = &dist->cells[local].lanes[lane];
    const uint32_t first = (uint32_t)((uint64_t)piece_count * lane / DIST_LANES),
                   end = (uint32_t)((uint64_t)piece_count * (lane + 1) / DIST_LANES);
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    if (first == end) return false;
    while (seen >> 32 != dist->op) {
        if (!atomic_compare_exchange_weak_explicit(word, &seen, (uint64_t)dist->op << 32 | 1,
                                                   memory_order_relaxed, memory_order_relaxed))
            continue;
        *ret_piece = first;
        return true;
    }
    // Look before adding: at the end everybody comes by, and the count may not run far past it.
    if ((uint32_t)seen >= end - first) return false;
    seen = atomic_fetch_add_explicit(word, 1, memory_order_relaxed);
    *ret_piece = first + (uint32_t)seen;
    return (uint32_t)seen < end - first;
}

void dist_weights_tell(struct dist *dist, struct hash128 key)
{
    dist->cells[dist->local].weights = key;
}

struct hash128 dist_weights_of(const struct dist *dist, uint32_t local)
{
    CHECK(local < dist->local_count);
    return dist->cells[local].weights;
}

int dist_share(struct dist *dist, const void *bytes, size_t len)
{
    CHECK(dist->conf.rank == 0);
    CHECK(len <= dist->conf.shape.plan_bytes);
    uint64_t room;
    uint64_t *area = dist_area(dist, EXCHANGE_PLAN, &room);
    const struct dist_hosts *hosts = dist->conf.hosts;
    memcpy(area + 1, bytes, len);
    *area = len;
    int r = hosts ? hosts->share(hosts->arg, area + 1, dist->conf.shape.plan_bytes, area) : 0;
    return meet_hosts_soon(dist, r, 0);
}

int dist_receive(struct dist *dist, uint64_t spin_ns, void *out, size_t out_bytes, size_t *ret_len)
{
    CHECK(dist->conf.rank != 0);
    uint64_t room;
    uint64_t *area = dist_area(dist, EXCHANGE_PLAN, &room);
    const struct dist_hosts *hosts = dist->conf.hosts;
    int r = 0;
    if (hosts && dist->local == 0 && dist->conf.local_first > 0)
        r = hosts->share(hosts->arg, area + 1, dist->conf.shape.plan_bytes, area);
    uint64_t budget_ns = spin_ns;
    r = meet_hosts(dist, r, 0, &budget_ns, spin_ns);
    if (r < 0) return r;
    uint64_t len = *area; // rank 0's, a peer's: verified
    if (len > out_bytes || len > dist->conf.shape.plan_bytes) return -EMSGSIZE;
    memcpy(out, area + 1, len);
    *ret_len = len;
    return 0;
}
