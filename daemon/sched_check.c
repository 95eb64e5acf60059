/* SPDX-License-Identifier: Apache-2.0 */
/* sched_check - audit of the scheduler's invariants, for the simulation and the slow checks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sched_state.h"

/* What the sums over the running ones are made of. */
static int sums_check(const struct sched *sched, struct err *err)
{
    uint64_t owed = 0;
    uint32_t paused = 0, counts[GROUPS_MAX] = {0};
    const struct seq *before = NULL;
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        const struct seq *seq = &sched->seqs[slot];
        uint32_t pages = sched_pages_for(seq->token_count + 1);
        owed += pages > seq->page_count ? pages - seq->page_count : 0;
        paused += seq->paused;
        if (seq->group >= sched->conf.group_count ||
            (seq->rows_in_flight && !sched->groups[seq->group].in_flight))
            return ERR(err, ERR_FORMAT, "sched: seq %u is in a step that is not in flight", slot);
        counts[seq->group]++;
        if (before && !sched_seq_before(before, seq))
            return ERR(err, ERR_FORMAT, "sched: running seq %u is out of order", slot);
        before = seq;
    }
    for (uint32_t group = 0; group < sched->conf.group_count; group++)
        if (counts[group] != sched->groups[group].running_count)
            return ERR(err, ERR_FORMAT, "sched: group %u has %u sequences, counted %u", group, counts[group],
                       sched->groups[group].running_count);
    if (owed == sched->pages_owed && paused == sched->running_paused) return 0;
    return ERR(err, ERR_FORMAT, "sched: %llu pages owed and %u paused, counted %llu and %u",
               (unsigned long long)owed, paused, (unsigned long long)sched->pages_owed,
               sched->running_paused);
}

static int waiting_check(const struct sched *sched, struct err *err)
{
    uint32_t waiting = 0, ready = 0;
    for (uint32_t slot = sched->waiting.first; slot != SEQ_NONE; slot = sched->seqs[slot].next, waiting++) {
        const struct seq *seq = &sched->seqs[slot];
        if (seq->page_count || seq->computed || seq->rows_in_flight || seq->owed)
            return ERR(err, ERR_FORMAT, "sched: waiting seq %u holds pages", slot);
        bool is_ready = !seq->paused && seq->held_by == SEQ_NONE;
        if (slot_heap_has(&sched->ready, slot) != is_ready)
            return ERR(err, ERR_FORMAT, "sched: waiting seq %u and the order", slot);
        ready += is_ready;
    }
    if (!slot_heap_check(&sched->ready) || ready != sched->ready.count)
        return ERR(err, ERR_FORMAT, "sched: the order of %u waiting ones is broken", sched->ready.count);
    if (waiting != sched->waiting.count)
        return ERR(err, ERR_FORMAT, "sched: %u wait, counted %u", waiting, sched->waiting.count);
    return 0;
}

static int seq_check(const struct sched *sched, uint32_t slot, uint32_t *holders, struct err *err)
{
    const struct seq *seq = &sched->seqs[slot];
    uint32_t sealed = seq->computed / PAGE_TOKENS;
    if (seq->computed > seq->token_count || seq->token_count > seq->token_cap)
        return ERR(err, ERR_FORMAT, "sched: seq %u: computed %u of %u tokens, room %u", slot, seq->computed,
                   seq->token_count, seq->token_cap);
    if (seq->token_count % TAIL_TOKENS == 0 &&
        memcmp(seq->tail, seq->tokens + seq->token_count - TAIL_TOKENS, sizeof seq->tail) != 0)
        return ERR(err, ERR_FORMAT, "sched: seq %u: its last %d tokens", slot, TAIL_TOKENS);
    if (seq->last_token != seq->tail[(seq->token_count - 1) % TAIL_TOKENS])
        return ERR(err, ERR_FORMAT, "sched: seq %u: its last token", slot);
    if (!seq->has_ties && (seq->tail_page != PAGE_NONE || seq->promised_first < seq->promised_end ||
                           seq->held_first != SEQ_NONE))
        return ERR(err, ERR_FORMAT, "sched: seq %u has ties", slot);
    if (seq->page_count > seq->page_cap || seq->page_count < sched_pages_for(seq->computed))
        return ERR(err, ERR_FORMAT, "sched: seq %u: %u pages for %u tokens", slot, seq->page_count,
                   seq->computed);
    uint32_t parent = PAGE_NONE;
    struct hash128 key = seq->root_key;
    const uint32_t *tokens = sched_seq_tokens(seq);
    for (uint32_t i = 0; i < seq->page_count; i++) {
        uint32_t page_idx = seq->pages[i].page_idx;
        const struct page_desc *desc = pool_desc(sched->pool, page_idx);
        uint32_t state = i < sealed ? PAGE_SEALED : PAGE_FILLING;
        if (desc->state != state || desc->generation != seq->pages[i].generation ||
            (state == PAGE_FILLING && desc->filled != 0))
            return ERR(err, ERR_FORMAT, "sched: seq %u: page %u has state %u", slot, i, desc->state);
        holders[page_idx]++;
        if (i >= sealed) continue;
        key = prefix_key(key, tokens + i * PAGE_TOKENS);
        if (!hash128_equal(desc->key, key) || desc->parent != parent ||
            (i < seq->key_count && !hash128_equal(seq->keys[i], key)))
            return ERR(err, ERR_FORMAT, "sched: seq %u: page %u is not of its tokens", slot, i);
        parent = page_idx;
    }
    if (seq->tail_page == PAGE_NONE) return 0;
    uint32_t tail = seq->computed % PAGE_TOKENS;
    holders[seq->tail_page]++;
    if (tail == 0 || pool_desc(sched->pool, seq->tail_page)->parent != parent ||
        memcmp(pool_tokens(sched->pool, seq->tail_page), tokens + sealed * PAGE_TOKENS,
               tail * sizeof *tokens) != 0)
        return ERR(err, ERR_FORMAT, "sched: seq %u: page %u is not of its tail", slot, seq->tail_page);
    return 0;
}

int sched_check(const struct sched *sched, struct err *err)
{
    uint32_t page_count = pool_geometry(sched->pool)->page_count, running = 0;
    int r = pool_check(sched->pool, err);
    if (r == 0) r = prefix_check(sched->prefix, err);
    if (r < 0) return r;
    uint32_t *holders = calloc(page_count, sizeof *holders);
    if (!holders) return -ENOMEM;
    for (uint32_t slot = sched->running.first; r == 0 && slot != SEQ_NONE;
         slot = sched->seqs[slot].next, running++)
        r = seq_check(sched, slot, holders, err);
    if (r == 0) r = sums_check(sched, err);
    if (r == 0) r = waiting_check(sched, err);
    if (r == 0) r = sched_share_check(sched, err);
    if (r == 0 && !slot_heap_check(&sched->deadlines))
        r = ERR(err, ERR_FORMAT, "sched: the order of deadlines is broken");
    for (uint32_t page_idx = 0; r == 0 && page_idx < page_count; page_idx++) {
        holders[page_idx] += pins_of(prefix_pins(sched->prefix), page_idx);
        if (pool_desc(sched->pool, page_idx)->refcount != holders[page_idx])
            r = ERR(err, ERR_FORMAT, "sched: page %u: refcount %u, holders %u", page_idx,
                    pool_desc(sched->pool, page_idx)->refcount, holders[page_idx]);
    }
    if (r == 0 && sched->running.count > sched->conf.seqs_max)
        r = ERR(err, ERR_FORMAT, "sched: %u run at once", sched->running.count);
    if (r == 0 && running != sched->running.count)
        r = ERR(err, ERR_FORMAT, "sched: %u run, counted %u", running, sched->running.count);
    free(holders);
    return r;
}
