/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/offload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"

enum { WRITE_BATCH = 8, LOOKS_MAX = 512, LOADS_MAX = 64, HELD_MAX = 4, RATE_ROWS_MIN = 32 };
#define WAIT_NS_MAX UINT64_C(2000000000)  // until a prompt's turn to be read
#define HOLD_NS_MAX UINT64_C(5000000000)  // for a sequence that is not admitted
#define FLUSH_NS_MAX UINT64_C(5000000000) // of offload_free

struct out { // one page on its way to the tier
    struct tier_page page;
    uint32_t page_idx, place;
    int r;
};

/* One prompt whose pages are wanted. QUEUED -> READING -> HELD -> gone. */
struct load {
    struct load *next;
    uint64_t seq_id;
    struct hash128 root_key;
    uint32_t *tokens; // owned, (page_max * PAGE_TOKENS)
    uint32_t page_max;
    uint32_t *pages;                  // owned, (page_max): held, then FILLING ones that are read
    struct tier_page *wants;          // owned, (page_max): of the pages that are read
    uint32_t *places;                 // owned, (page_max)
    uint32_t held_count;              // of pages[], by us
    uint32_t front_count, read_count; // of pages[]: in the pool already, then read
    bool is_abandoned;                // while READING: what it was to follow is no more
    uint32_t good_count;              // of those read, by the thread
    uint64_t read_ns;
    uint64_t since_ns; // QUEUED or HELD
};

struct loads {
    struct load *first, **last;
    uint32_t count;
};

struct offload {
    struct offload_conf conf;
    uint64_t page_bytes;

    uint32_t *queue; // owned, (page_count) ring of pages to write
    bool *is_queued; // owned, (page_count)
    uint32_t page_count, queue_first, queue_count;
    uint8_t *copy; // owned, (page_bytes): of the page in hand
    struct out outs[WRITE_BATCH];
    uint32_t out_count;
    bool is_writing; // work_out runs
    uv_work_t work_out;
    uint64_t producer; // of what the pool holds; 0: not known yet, nothing goes out or in

    struct loads queued, held;
    struct load *reading; // work_in runs
    uv_work_t work_in;
    uint64_t read_page_ns, compute_row_ns; // moving averages; 0: not known yet

    uint64_t pages_written, pages_read, pages_failed;
    bool closing;
    uint64_t flush_until_ns;
    void (*on_freed)(void *arg);
    void *on_freed_arg;
};

static void write_next(struct offload *offload);
static void read_next(struct offload *offload);

int offload_new(const struct offload_conf *conf, struct offload **ret_offload)
{
    struct offload *offload = calloc(1, sizeof *offload);
    if (!offload) return -ENOMEM;
    offload->conf = *conf;
    offload->page_bytes = pool_geometry(conf->pool)->page_bytes;
    offload->page_count = pool_geometry(conf->pool)->page_count;
    offload->queued.last = &offload->queued.first;
    offload->held.last = &offload->held.first;
    offload->queue = calloc(offload->page_count, sizeof *offload->queue);
    offload->is_queued = calloc(offload->page_count, sizeof *offload->is_queued);
    offload->copy = malloc(offload->page_bytes);
    if (!offload->queue || !offload->is_queued || !offload->copy) {
        free(offload->queue);
        free(offload->is_queued);
        free(offload->copy);
        free(offload);
        return -ENOMEM;
    }
    *ret_offload = offload;
    return 0;
}

static void loads_push(struct loads *loads, struct load *load)
{
    load->next = NULL;
    *loads->last = load;
    loads->last = &load->next;
    loads->count++;
}

static struct load *loads_pop(struct loads *loads)
{
    struct load *load = loads->first;
    if (!load) return NULL;
    loads->first = load->next;
    if (!loads->first) loads->last = &loads->first;
    loads->count--;
    return load;
}

static void average(uint64_t *value, uint64_t sample)
{
    *value = *value == 0 ? sample : *value - *value / 8 + sample / 8;
}

/* ---- out ---- */

/* On a thread. A page that was evicted and granted again since it was queued has other bytes now. */
static void write_work(uv_work_t *work)
{
    struct offload *offload = work->data;
    struct tier *tier = offload->conf.tier;
    for (uint32_t i = 0; i < offload->out_count; i++) {
        struct out *out = &offload->outs[i];
        memcpy(offload->copy, offload->conf.payload + out->page_idx * offload->page_bytes,
               offload->page_bytes);
        if (hash64(offload->copy, offload->page_bytes) != out->page.sum) out->r = -EAGAIN;
        else out->r = tier->ops->write(tier, out->place, &out->page, offload->copy);
    }
}

static void write_done(uv_work_t *work, int status)
{
    struct offload *offload = work->data;
    struct tier *tier = offload->conf.tier;
    (void)status; // never cancelled
    for (uint32_t i = 0; i < offload->out_count; i++) {
        struct out *out = &offload->outs[i];
        struct tier_page twin = out->page; // of a page that was sealed twice in a batch
        bool is_good = out->r == 0 && tier->ops->find(tier, &twin) == TIER_NONE;
        if (is_good) tier->ops->commit(tier, out->place, &out->page);
        else tier->ops->drop(tier, out->place, NULL);
        offload->pages_written += is_good;
    }
    offload->out_count = 0;
    offload->is_writing = false;
    write_next(offload);
}

static bool page_identify(const struct offload *offload, uint32_t page_idx, struct tier_page *ret_page)
{
    const struct page_desc *desc = pool_desc(offload->conf.pool, page_idx);
    if (desc->state != PAGE_SEALED) return false;
    *ret_page = (struct tier_page){
        .key = desc->key, .producer = offload->producer, .sum = pool_sums(offload->conf.pool, page_idx)[0]};
    if (desc->parent != PAGE_NONE) ret_page->parent_key = pool_desc(offload->conf.pool, desc->parent)->key;
    memcpy(ret_page->tokens, pool_tokens(offload->conf.pool, page_idx), sizeof ret_page->tokens);
    return true;
}

static void free_now(struct offload *offload);

/* After LOOKS_MAX pages that are there already the loop has its turn: the thread is asked for nothing. */
static void write_next(struct offload *offload)
{
    struct tier *tier = offload->conf.tier;
    if (offload->is_writing) return;
    bool gives_up = offload->closing && clock_mono_ns() > offload->flush_until_ns;
    for (uint32_t looks = 0;
         !gives_up && offload->queue_count > 0 && offload->out_count < WRITE_BATCH && looks < LOOKS_MAX;
         looks++) {
        struct out out = {.page_idx = offload->queue[offload->queue_first]};
        offload->queue_first = (offload->queue_first + 1) % offload->page_count;
        offload->queue_count--;
        offload->is_queued[out.page_idx] = false;
        if (!page_identify(offload, out.page_idx, &out.page)) continue;
        uint64_t sum = out.page.sum;
        bool is_there = tier->ops->find(tier, &out.page) != TIER_NONE;
        out.page.sum = sum;
        if (is_there || tier->ops->reserve(tier, &out.place) < 0) continue;
        offload->outs[offload->out_count++] = out;
    }
    if (offload->out_count > 0 || (offload->queue_count > 0 && !gives_up)) {
        offload->is_writing = true;
        offload->work_out.data = offload;
        int r = uv_queue_work(offload->conf.loop, &offload->work_out, write_work, write_done);
        CHECK(r == 0); // fails without a function only
    } else if (offload->closing) {
        free_now(offload);
    }
}

static void queue_push(struct offload *offload, uint32_t page_idx)
{
    if (offload->is_queued[page_idx]) return;
    uint32_t at = (offload->queue_first + offload->queue_count++) % offload->page_count;
    offload->queue[at] = page_idx;
    offload->is_queued[page_idx] = true;
}

void offload_sealed(struct offload *offload, uint32_t page_idx)
{
    CHECK(offload->producer != 0);
    queue_push(offload, page_idx);
    write_next(offload);
}

uint32_t offload_begin(struct offload *offload, uint64_t producer)
{
    struct tier_stats stats;
    CHECK(producer != 0);
    if (offload->producer == producer || offload->closing) return 0;
    offload->producer = producer;
    for (uint32_t i = 0; i < offload->page_count; i++)
        if (pool_desc(offload->conf.pool, i)->state == PAGE_SEALED) queue_push(offload, i);
    write_next(offload);
    offload->conf.tier->ops->stats(offload->conf.tier, &stats);
    return stats.page_count - offload->conf.tier->ops->count(offload->conf.tier, producer);
}

/* ---- in ---- */

static void load_free(struct load *load)
{
    if (!load) return;
    free(load->tokens);
    free(load->pages);
    free(load->wants);
    free(load->places);
    free(load);
}

static struct load *load_new(uint64_t seq_id, struct hash128 root_key, const uint32_t *tokens,
                             uint32_t page_max)
{
    struct load *load = calloc(1, sizeof *load);
    if (!load) return NULL;
    *load = (struct load){.seq_id = seq_id, .root_key = root_key, .page_max = page_max};
    load->tokens = malloc((size_t)page_max * PAGE_TOKENS * sizeof *load->tokens);
    load->pages = malloc(page_max * sizeof *load->pages);
    load->wants = malloc(page_max * sizeof *load->wants);
    load->places = malloc(page_max * sizeof *load->places);
    if (!load->tokens || !load->pages || !load->wants || !load->places) {
        load_free(load);
        return NULL;
    }
    memcpy(load->tokens, tokens, (size_t)page_max * PAGE_TOKENS * sizeof *load->tokens);
    return load;
}

/* The next page of a chain, by what it must be. */
static struct tier_page page_wanted(const struct offload *offload, struct hash128 parent_key,
                                    const uint32_t *tokens, bool is_first)
{
    struct tier_page page = {.key = prefix_key(parent_key, tokens), .producer = offload->producer};
    if (!is_first) page.parent_key = parent_key;
    memcpy(page.tokens, tokens, sizeof page.tokens);
    return page;
}

bool offload_fetch(struct offload *offload, uint64_t seq_id, struct hash128 root_key, const uint32_t *tokens,
                   uint32_t count)
{
    struct tier *tier = offload->conf.tier;
    struct hash128 key = root_key;
    uint32_t page_max = count / PAGE_TOKENS, page = 0, found = 0;
    if (offload->queued.count >= LOADS_MAX || offload->closing || offload->producer == 0) return false;
    for (uint32_t parent = PAGE_NONE; page < page_max; page++) {
        struct hash128 next = prefix_key(key, tokens + page * PAGE_TOKENS);
        parent = prefix_find(offload->conf.prefix, next, parent, tokens + page * PAGE_TOKENS);
        if (parent == PAGE_NONE) break;
        key = next;
    }
    for (; page < page_max; page++, found++) {
        struct tier_page want = page_wanted(offload, key, tokens + page * PAGE_TOKENS, page == 0);
        if (tier->ops->find(tier, &want) == TIER_NONE) break;
        key = want.key;
    }
    if (found == 0) return false;
    if (offload->compute_row_ns > 0 && offload->read_page_ns > offload->compute_row_ns * PAGE_TOKENS) {
        offload->read_page_ns -= offload->read_page_ns /
                                 16; // tried again some time: a disk may have been busy
        return false;
    }
    struct load *load = load_new(seq_id, root_key, tokens, page);
    if (!load) return false; // then it computes
    load->since_ns = clock_mono_ns();
    loads_push(&offload->queued, load);
    read_next(offload);
    return true;
}

/* A free page, if need be another's that nobody holds. */
static bool page_grant(struct offload *offload, uint32_t *ret_page_idx)
{
    while (pool_grant(offload->conf.pool, clock_mono_ns(), ret_page_idx) < 0)
        if (prefix_evict_for(offload->conf.prefix, 0) < 0) return false; // no page of a share
    return true;
}

/* Holds what the pool has of the prompt, and takes pages for what the tier has behind it. */
static void load_prepare(struct offload *offload, struct load *load)
{
    struct tier *tier = offload->conf.tier;
    struct hash128 key = load->root_key;
    uint32_t parent = PAGE_NONE, page = 0;
    uint64_t now_ns = clock_mono_ns();
    for (; page < load->page_max; page++) {
        const uint32_t *tokens = load->tokens + page * PAGE_TOKENS;
        struct hash128 next = prefix_key(key, tokens);
        uint32_t page_idx = prefix_find(offload->conf.prefix, next, parent, tokens);
        if (page_idx == PAGE_NONE) break;
        prefix_hold(offload->conf.prefix, page_idx, now_ns);
        load->pages[load->held_count++] = parent = page_idx;
        key = next;
    }
    load->front_count = page;
    for (; page < load->page_max; page++) {
        struct tier_page want = page_wanted(offload, key, load->tokens + page * PAGE_TOKENS, page == 0);
        uint32_t place = tier->ops->find(tier, &want);
        if (place == TIER_NONE || !page_grant(offload, &load->pages[page])) return;
        load->wants[load->read_count] = want;
        load->places[load->read_count++] = place;
        key = want.key;
    }
}

/* On a thread. A chain is good up to its first page that is not. */
static void read_work(uv_work_t *work)
{
    struct offload *offload = work->data;
    struct load *load = offload->reading;
    struct tier *tier = offload->conf.tier;
    uint64_t start_ns = clock_mono_ns();
    for (uint32_t i = 0; i < load->read_count; i++) {
        uint8_t *payload = offload->conf.payload + load->pages[load->front_count + i] * offload->page_bytes;
        if (tier->ops->read(tier, load->places[i], &load->wants[i], payload) < 0) break;
        load->good_count++;
    }
    load->read_ns = clock_mono_ns() - start_ns;
}

/* Seals a page that was read, or takes the equal one that somebody computed meanwhile. -> its index, held. */
static uint32_t page_enter(struct offload *offload, uint32_t page_idx, uint32_t parent,
                           const struct tier_page *page)
{
    uint32_t twin = prefix_find(offload->conf.prefix, page->key, parent, page->tokens);
    if (twin != PAGE_NONE) {
        prefix_hold(offload->conf.prefix, twin, clock_mono_ns());
        pool_drop(offload->conf.pool, page_idx);
        return twin;
    }
    pool_fill(offload->conf.pool, page_idx, page->tokens, PAGE_TOKENS);
    prefix_seal(offload->conf.prefix, page_idx, page->key, parent, &page->sum);
    return page_idx;
}

static void read_done(uv_work_t *work, int status)
{
    struct offload *offload = work->data;
    struct load *load = offload->reading;
    struct tier *tier = offload->conf.tier;
    uint32_t first = load->front_count, entered = load->is_abandoned ? 0 : load->good_count;
    (void)status; // never cancelled
    for (uint32_t i = 0; i < load->read_count; i++) {
        uint32_t *page_idx = &load->pages[first + i], parent = first + i ? page_idx[-1] : PAGE_NONE;
        if (i >= entered) {
            pool_drop(offload->conf.pool, *page_idx);
            continue;
        }
        *page_idx = page_enter(offload, *page_idx, parent, &load->wants[i]);
        load->held_count++;
    }
    if (load->good_count < load->read_count) {
        tier->ops->drop(tier, load->places[load->good_count], &load->wants[load->good_count]);
        offload->pages_failed++;
    }
    offload->pages_read += load->good_count;
    if (load->good_count > 0) average(&offload->read_page_ns, load->read_ns / load->good_count);
    load->since_ns = clock_mono_ns();
    offload->reading = NULL;
    loads_push(&offload->held, load);
    if (offload->closing) {
        write_next(offload);
        return;
    }
    offload->conf.on_fetched(offload->conf.owner, load->seq_id);
    read_next(offload);
}

/* Also for a prompt that finds nothing to read any more: on_fetched is never called inside offload_fetch. */
static void read_next(struct offload *offload)
{
    if (offload->reading || offload->held.count >= HELD_MAX) return;
    do {
        load_free(offload->reading); // gone meanwhile
        offload->reading = loads_pop(&offload->queued);
        if (!offload->reading) return;
    } while (!offload->conf.is_waiting(offload->conf.owner, offload->reading->seq_id));
    load_prepare(offload, offload->reading);
    offload->work_in.data = offload;
    int r = uv_queue_work(offload->conf.loop, &offload->work_in, read_work, read_done);
    CHECK(r == 0); // fails without a function only
}

/* Last first: a chain leaves the cache from its end. */
static void load_unhold(struct offload *offload, struct load *load)
{
    uint64_t now_ns = clock_mono_ns();
    while (load->held_count > 0)
        prefix_release(offload->conf.prefix, load->pages[--load->held_count], now_ns);
}

static void load_release(struct offload *offload, struct load *load)
{
    load_unhold(offload, load);
    load_free(load);
}

void offload_turn(struct offload *offload)
{
    uint64_t now_ns = clock_mono_ns();
    for (uint32_t i = offload->held.count; i > 0; i--) {
        struct load *load = loads_pop(&offload->held);
        bool is_wanted = offload->conf.is_waiting(offload->conf.owner, load->seq_id) &&
                         now_ns - load->since_ns < HOLD_NS_MAX;
        if (is_wanted) loads_push(&offload->held, load);
        else load_release(offload, load);
    }
    struct load *load;
    while ((load = offload->queued.first) != NULL && now_ns - load->since_ns > WAIT_NS_MAX) {
        (void)loads_pop(&offload->queued);
        offload->conf.on_fetched(offload->conf.owner, load->seq_id); // it computes
        load_free(load);
    }
    read_next(offload);
}

bool offload_yield(struct offload *offload)
{
    bool any = false;
    for (struct load *load; (load = loads_pop(&offload->held)) != NULL; any = true)
        load_release(offload, load);
    return any;
}

void offload_abandon(struct offload *offload)
{
    (void)offload_yield(offload);
    if (!offload->reading) return;
    load_unhold(offload, offload->reading);
    offload->reading->is_abandoned = true;
}

void offload_computed(struct offload *offload, uint32_t rows, uint64_t step_ns)
{
    if (rows >= RATE_ROWS_MIN) average(&offload->compute_row_ns, step_ns / rows);
}

void offload_stats(const struct offload *offload, struct offload_stats *ret_stats)
{
    *ret_stats = (struct offload_stats){
        .pages_written = offload->pages_written,
        .pages_read = offload->pages_read,
        .pages_failed = offload->pages_failed,
        .page_bytes = offload->page_bytes,
    };
    offload->conf.tier->ops->stats(offload->conf.tier, &ret_stats->tier);
}

/* ---- end ---- */

static void free_now(struct offload *offload)
{
    if (offload->reading || offload->is_writing) return; // its callback comes here again
    void (*on_freed)(void *) = offload->on_freed;
    void *arg = offload->on_freed_arg;
    (void)offload_yield(offload); // what was held stays cached
    for (struct load *load; (load = loads_pop(&offload->queued)) != NULL;) load_free(load);
    offload->conf.tier->ops->close(offload->conf.tier);
    free(offload->queue);
    free(offload->is_queued);
    free(offload->copy);
    free(offload);
    on_freed(arg);
}

void offload_free(struct offload *offload, void (*on_freed)(void *arg), void *arg)
{
    offload->closing = true;
    offload->flush_until_ns = clock_mono_ns() + FLUSH_NS_MAX;
    offload->on_freed = on_freed;
    offload->on_freed_arg = arg;
    write_next(offload);
}
