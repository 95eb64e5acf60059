/* SPDX-License-Identifier: Apache-2.0 */
/* sched_corrupt - pages that are not to be read again: cached ones that are not what was sealed, or all of them, out of
 * the index and out of the sequences that hold them; part-filled ones, which have no checksum, to be filled anew.
 * Pages are dropped at a moment in which no step is in flight, since one of another group may be reading them. */
#include <string.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

static bool holds_marked(const struct seq *seq, const uint8_t *marks)
{
    for (uint32_t i = 0; i < seq->page_count; i++)
        if (marks[seq->pages[i].page_idx]) return true;
    return seq->tail_page != PAGE_NONE && marks[seq->tail_page];
}

/* Those found bad that were not evicted meanwhile, and what descends from them. */
static void bads_mark(struct sched *sched)
{
    uint32_t page_count = pool_geometry(sched->pool)->page_count;
    memset(sched->bad_marks, 0, page_count);
    for (uint32_t i = 0; i < page_count; i++) {
        const struct page_desc *desc = pool_desc(sched->pool, i);
        sched->bad_marks[i] = sched->bads[i] && desc->state == PAGE_SEALED &&
                              desc->generation == sched->bads[i];
        sched->bads[i] = 0;
    }
    prefix_mark_descendants(sched->prefix, sched->bad_marks);
}

uint32_t sched_bads_drop(struct sched *sched, uint64_t now_ns)
{
    if (!sched->has_bads || sched_flies_any(sched)) return 0;
    bads_mark(sched);
    sched->has_bads = false;
    for (uint32_t slot = sched->running.first, next; slot != SEQ_NONE; slot = next) {
        struct seq *seq = &sched->seqs[slot];
        next = seq->next;
        if (!holds_marked(seq, sched->bad_marks)) continue;
        sched_seq_release_pages(sched, seq, now_ns);
        sched_seq_move(sched, slot, SEQ_WAITING);
        seq->look_step = 0; // what it would find in the cache has changed
    }
    (void)pins_remove_marked(prefix_pins(sched->prefix), sched->bad_marks, now_ns); // their owner asks again
    return prefix_drop_marked(sched->prefix, sched->bad_marks);
}

void sched_refill(struct sched *sched)
{
    for (uint32_t slot = sched->running.first; slot != SEQ_NONE; slot = sched->seqs[slot].next) {
        struct seq *seq = &sched->seqs[slot];
        uint32_t part = seq->computed % PAGE_TOKENS;
        if (seq->rows_in_flight > 0) CHECK(sched->groups[seq->group].is_void); // nothing of it is booked
        if (part == 0 || seq->tail_page != PAGE_NONE) continue; // of a tail nothing was copied yet
        pool_empty(sched->pool, seq->pages[seq->computed / PAGE_TOKENS].page_idx);
        seq->computed -= part;
    }
}

uint32_t sched_forget(struct sched *sched, uint64_t now_ns)
{
    CHECK(!sched_flies_any(sched));
    for (uint32_t slot = sched->running.first, next; slot != SEQ_NONE; slot = next) {
        next = sched->seqs[slot].next;
        sched_seq_release_pages(sched, &sched->seqs[slot], now_ns);
        sched_seq_move(sched, slot, SEQ_WAITING);
    }
    for (uint32_t slot = sched->waiting.first; slot != SEQ_NONE; slot = sched->seqs[slot].next)
        sched->seqs[slot].look_step = 0; // what it found in the cache is gone
    memset(sched->bad_marks, 1, pool_geometry(sched->pool)->page_count);
    (void)pins_remove_marked(prefix_pins(sched->prefix), sched->bad_marks, now_ns); // their owner asks again
    return prefix_drop_marked(sched->prefix, sched->bad_marks);
}

int sched_corrupt(struct sched *sched, uint32_t group, uint64_t now_ns, const struct plan_page *pages,
                  uint32_t page_count)
{
    CHECK(sched->groups[group].in_flight);
    for (uint32_t i = 0; i < page_count; i++) {
        sched->pages_corrupt += sched->bads[pages[i].page_idx] != pages[i].generation;
        sched->bads[pages[i].page_idx] = pages[i].generation;
    }
    sched->has_bads = true;
    sched_groups_doubt(sched);
    return (int)sched_step_drop(sched, group, now_ns); // nothing of it was computed; PAGES_MAX fits
}

bool sched_is_barred(const struct sched *sched)
{
    return sched->has_bads;
}

void sched_distrust(struct sched *sched, uint32_t group)
{
    CHECK(!sched->groups[group].in_flight);
    sched->groups[group].is_up = false;
    sched_groups_doubt(sched);
    checks_distrust(sched->checks);
}
