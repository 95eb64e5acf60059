/* SPDX-License-Identifier: Apache-2.0 */
/* sched_check - audit of the scheduler's invariants, for the simulation and the slow checks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sched_state.h"

static int seq_check(const struct sched *sched, uint32_t slot, uint32_t *holders, struct err *err)
{
    const struct seq *seq = &sched->seqs[slot];
    uint32_t sealed = seq->computed / PAGE_TOKENS;
    if (seq->computed > seq->token_count || seq->token_count > seq->token_cap)
        return ERR(err, ERR_FORMAT, "sched: seq %u: computed %u of %u tokens, room %u", slot, seq->computed,
                   seq->token_count, seq->token_cap);
    if (seq->page_count > seq->page_cap || seq->page_count < sched_pages_for(seq->computed))
        return ERR(err, ERR_FORMAT, "sched: seq %u: %u pages for %u tokens", slot, seq->page_count,
                   seq->computed);
    uint32_t parent = PAGE_NONE;
    struct hash128 key = seq->root_key;
    for (uint32_t i = 0; i < seq->page_count; i++) {
        const struct page_desc *desc = pool_desc(sched->pool, seq->pages[i]);
        uint32_t state = i < sealed ? PAGE_SEALED : PAGE_FILLING;
        if (desc->state != state)
            return ERR(err, ERR_FORMAT, "sched: seq %u: page %u has state %u", slot, i, desc->state);
        holders[seq->pages[i]]++;
        if (i >= sealed) continue;
        key = prefix_key(key, seq->tokens + i * PAGE_TOKENS);
        if (!hash128_equal(desc->key, key) || desc->parent != parent)
            return ERR(err, ERR_FORMAT, "sched: seq %u: page %u is not of its tokens", slot, i);
        parent = seq->pages[i];
    }
    if (seq->tail_page == PAGE_NONE) return 0;
    uint32_t tail = seq->computed % PAGE_TOKENS;
    holders[seq->tail_page]++;
    if (tail == 0 || pool_desc(sched->pool, seq->tail_page)->parent != parent ||
        pool_desc(sched->pool, seq->pages[sealed])->filled != 0 ||
        memcmp(pool_tokens(sched->pool, seq->tail_page), seq->tokens + sealed * PAGE_TOKENS,
               tail * sizeof *seq->tokens) != 0)
        return ERR(err, ERR_FORMAT, "sched: seq %u: page %u is not of its tail", slot, seq->tail_page);
    return 0;
}

int sched_check(const struct sched *sched, struct err *err)
{
    uint32_t page_count = pool_geometry(sched->pool)->page_count, running = 0, waiting = 0;
    int r = pool_check(sched->pool, err);
    if (r == 0) r = prefix_check(sched->prefix, err);
    if (r < 0) return r;
    uint32_t *holders = calloc(page_count, sizeof *holders);
    if (!holders) return -ENOMEM;
    for (uint32_t slot = sched->running.first; r == 0 && slot != SEQ_NONE;
         slot = sched->seqs[slot].next, running++)
        r = seq_check(sched, slot, holders, err);
    bool is_new = false;
    for (uint32_t slot = sched->waiting.first; r == 0 && slot != SEQ_NONE;
         slot = sched->seqs[slot].next, waiting++) {
        const struct seq *seq = &sched->seqs[slot];
        if (seq->page_count || seq->computed || seq->rows_in_flight)
            r = ERR(err, ERR_FORMAT, "sched: waiting seq %u holds pages", slot);
        else if (seq->admitted && is_new)
            r = ERR(err, ERR_FORMAT, "sched: preempted seq %u waits behind a new one", slot);
        is_new = !seq->admitted;
    }
    for (uint32_t page_idx = 0; r == 0 && page_idx < page_count; page_idx++)
        if (pool_desc(sched->pool, page_idx)->refcount != holders[page_idx])
            r = ERR(err, ERR_FORMAT, "sched: page %u: refcount %u, holders %u", page_idx,
                    pool_desc(sched->pool, page_idx)->refcount, holders[page_idx]);
    if (r == 0 && sched->running.count > sched->conf.seqs_max)
        r = ERR(err, ERR_FORMAT, "sched: %u run at once", sched->running.count);
    if (r == 0 && (running != sched->running.count || waiting != sched->waiting.count))
        r = ERR(err, ERR_FORMAT, "sched: lists hold %u and %u, counted %u and %u", running, waiting,
                sched->running.count, sched->waiting.count);
    free(holders);
    return r;
}
