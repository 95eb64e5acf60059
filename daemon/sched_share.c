/* SPDX-License-Identifier: Apache-2.0 */
/* sched_share - a waiting sequence whose prefix a running one is just computing waits for it.
 *
 * Whoever comes in promises the full pages of its tokens that are not in the cache: a table of chain keys, each with
 * the sequence that will seal it first. A candidate whose next page is promised is held: it leaves the order, so that
 * nobody behind it waits, and comes back when the last promised page that it wants is sealed, or as soon as the promise
 * is broken: the other one ended, was preempted, paused, or had no row for SHARE_STEPS steps. A sequence is held at
 * most SHARE_HOLDS times, never by one of lower priority, and those that hold others run: so holding ends.
 *
 * A wrong match of keys could only cost time: what is held is looked up again when it comes back. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/huge.h"
#include "daemon/sched_state.h"

enum {
    SHARE_STEPS = 64,
    SHARE_HOLDS = 8,
    PROMISES_MAX = 1 << 16, // more are not made
};

/* Open addressing with linear probing, at most half full; deletion shifts back. slot SEQ_NONE: free. */
struct promise {
    struct hash128 key;
    uint32_t slot;
};

int sched_share_init(struct sched *sched)
{
    uint32_t pages = pool_geometry(sched->pool)->page_count, places = 16;
    if (pages > PROMISES_MAX) pages = PROMISES_MAX;
    while (places < 2 * pages) places *= 2;
    sched->promises = huge_alloc(places, sizeof *sched->promises);
    if (!sched->promises) return -ENOMEM;
    for (uint32_t i = 0; i < places; i++) sched->promises[i].slot = SEQ_NONE;
    sched->promise_mask = places - 1;
    return 0;
}

static uint32_t place_of(const struct sched *sched, struct hash128 key)
{
    uint32_t i = (uint32_t)key.low & sched->promise_mask;
    while (sched->promises[i].slot != SEQ_NONE && !hash128_equal(sched->promises[i].key, key))
        i = (i + 1) & sched->promise_mask;
    return i;
}

/* The promises of pages follow one another, and each is anywhere. */
static void promise_prefetch(const struct sched *sched, const struct seq *seq, uint32_t page)
{
    enum { AHEAD = 8 };
    if (page + AHEAD >= seq->promised_end) return;
    __builtin_prefetch(&sched->promises[(uint32_t)seq->keys[page + AHEAD].low & sched->promise_mask], 1);
}

static void promise_add(struct sched *sched, struct hash128 key, uint32_t slot)
{
    struct promise *promise = &sched->promises[place_of(sched, key)];
    if (promise->slot != SEQ_NONE || sched->promise_count > sched->promise_mask / 2) return;
    *promise = (struct promise){key, slot};
    sched->promise_count++;
}

static void promise_remove(struct sched *sched, struct hash128 key, uint32_t slot)
{
    uint32_t mask = sched->promise_mask, hole = place_of(sched, key);
    struct promise *promises = sched->promises;
    if (promises[hole].slot != slot) return; // another's, or there was no room for it
    for (uint32_t i = (hole + 1) & mask; promises[i].slot != SEQ_NONE; i = (i + 1) & mask) {
        uint32_t home = (uint32_t)promises[i].key.low & mask;
        if (((i - home) & mask) < ((i - hole) & mask)) continue; // it may not move before its home
        promises[hole] = promises[i];
        hole = i;
    }
    promises[hole].slot = SEQ_NONE;
    sched->promise_count--;
}

/* ---- those that wait ---- */

void sched_share_leave(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    if (seq->held_by == SEQ_NONE) return;
    struct seq *holder = &sched->seqs[seq->held_by];
    *(seq->held_previous == SEQ_NONE ? &holder->held_first
                                     : &sched->seqs[seq->held_previous].held_next) = seq->held_next;
    if (seq->held_next != SEQ_NONE) sched->seqs[seq->held_next].held_previous = seq->held_previous;
    seq->held_by = SEQ_NONE;
    seq->look_step = 0;
    sched->held_count--;
}

/* Lets those go that want no page from number `sealed` on. */
static void holders_wake(struct sched *sched, struct seq *holder, uint32_t sealed)
{
    for (uint32_t slot = holder->held_first, next; slot != SEQ_NONE; slot = next) {
        struct seq *seq = &sched->seqs[slot];
        next = seq->held_next;
        if (seq->held_until > sealed) continue;
        sched_share_leave(sched, slot);
        slot_heap_push(&sched->ready, slot, seq->due_ns, seq->order);
    }
}

bool sched_share_hold(struct step *step, uint32_t slot)
{
    struct sched *sched = step->sched;
    struct seq *seq = &sched->seqs[slot];
    uint32_t page = seq->hits, by = SEQ_NONE;
    if (sched_is_scoring(seq) || seq->holds >= SHARE_HOLDS) return false;
    for (; (page + 1) * PAGE_TOKENS < seq->token_count; page++) {
        uint32_t promiser = sched->promises[place_of(sched, sched_seq_key(seq, page))].slot;
        if (promiser == SEQ_NONE || (by != SEQ_NONE && promiser != by)) break;
        by = promiser;
    }
    if (by == SEQ_NONE) return false;
    struct seq *holder = &sched->seqs[by];
    if (holder->paused || sched_is_suspect(holder) || holder->priority > seq->priority) return false;
    slot_heap_remove(&sched->ready, slot);
    seq->held_by = by;
    seq->held_until = page;
    seq->held_previous = SEQ_NONE;
    seq->held_next = holder->held_first;
    if (holder->held_first != SEQ_NONE) sched->seqs[holder->held_first].held_previous = slot;
    else holder->moved_step = sched->step;
    holder->held_first = slot;
    holder->has_ties = true;
    seq->holds++;
    sched->held_count++;
    return true;
}

/* ---- those that compute ---- */

void sched_share_begin(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    seq->promised_first = seq->computed / PAGE_TOKENS;
    seq->promised_end = seq->token_count / PAGE_TOKENS;
    seq->has_ties |= seq->promised_first < seq->promised_end;
    if (seq->promised_first < seq->promised_end)
        (void)sched_seq_key(seq, seq->promised_end - 1); // and all before it
    for (uint32_t page = seq->promised_first; page < seq->promised_end; page++) {
        promise_prefetch(sched, seq, page);
        promise_add(sched, seq->keys[page], slot);
    }
}

void sched_share_sealed(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    uint32_t sealed = seq->computed / PAGE_TOKENS;
    for (; seq->promised_first < seq->promised_end && seq->promised_first < sealed; seq->promised_first++) {
        promise_prefetch(sched, seq, seq->promised_first);
        promise_remove(sched, seq->keys[seq->promised_first], slot);
    }
    seq->moved_step = sched->step;
    if (seq->held_first != SEQ_NONE) holders_wake(sched, seq, sealed);
    seq->has_ties = seq->tail_page != PAGE_NONE || seq->promised_first < seq->promised_end ||
                    seq->held_first != SEQ_NONE;
}

void sched_share_break(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    for (; seq->promised_first < seq->promised_end; seq->promised_first++)
        promise_remove(sched, seq->keys[seq->promised_first], slot);
    holders_wake(sched, seq, UINT32_MAX);
}

void sched_share_stuck(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    if (seq->held_first == SEQ_NONE || sched->step - seq->moved_step <= SHARE_STEPS) return;
    for (uint32_t i = seq->held_first; i != SEQ_NONE; i = sched->seqs[i].held_next)
        sched->seqs[i].holds = SHARE_HOLDS;
    holders_wake(sched, seq, UINT32_MAX);
}

/* ---- audit ---- */

/* Every held one is in the list of one that runs and has promised the page that it waits for. */
int sched_share_check(const struct sched *sched, struct err *err)
{
    uint32_t held = 0, promised = 0;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        for (uint32_t i = seq->held_first; i != SEQ_NONE; i = sched->seqs[i].held_next, held++)
            if (sched->seqs[i].held_by != slot || seq->paused ||
                sched->seqs[i].held_until > seq->promised_end)
                return ERR(err, ERR_FORMAT, "sched: seq %u is held by %u, which promises nothing", i, slot);
    }
    for (uint32_t i = 0; i <= sched->promise_mask; i++) {
        uint32_t slot = sched->promises[i].slot;
        if (slot == SEQ_NONE) continue;
        promised++;
        if (sched->seqs[slot].state != SEQ_RUNNING || place_of(sched, sched->promises[i].key) != i)
            return ERR(err, ERR_FORMAT, "sched: seq %u promises a page and does not run", slot);
    }
    if (held == sched->held_count && promised == sched->promise_count) return 0;
    return ERR(err, ERR_FORMAT, "sched: %u held and %u pages promised, counted %u and %u", held, promised,
               sched->held_count, sched->promise_count);
}
