/* SPDX-License-Identifier: Apache-2.0 */
/* sched_corrupt - cached pages that are not what was sealed: out of the index, out of the sequences that hold them. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

static bool holds_marked(const struct seq *seq, const uint8_t *marks)
{
    for (uint32_t i = 0; i < seq->page_count; i++)
        if (marks[seq->pages[i].page_idx]) return true;
    return seq->tail_page != PAGE_NONE && marks[seq->tail_page];
}

int sched_corrupt(struct sched *sched, uint64_t now_ns, const struct plan_page *pages, uint32_t page_count)
{
    CHECK(sched->in_flight);
    uint8_t *marks = calloc(pool_geometry(sched->pool)->page_count, sizeof *marks);
    if (!marks) return -ENOMEM;
    for (uint32_t i = 0; i < page_count; i++) marks[pages[i].page_idx] = 1;
    prefix_mark_descendants(sched->prefix, marks);
    sched->in_flight = false;
    checks_open(sched->checks);
    for (uint32_t slot = sched->running.first, next; slot != SEQ_NONE; slot = next) {
        struct seq *seq = &sched->seqs[slot];
        next = seq->next;
        seq->rows_in_flight = 0; // nothing of the step was computed
        if (seq->removed) {
            sched_seq_end(sched, slot, now_ns);
        } else if (holds_marked(seq, marks)) {
            sched_seq_release_pages(sched, seq, now_ns);
            sched_seq_move(sched, slot, SEQ_WAITING);
            seq->look_step = 0; // what it would find in the cache has changed
        }
    }
    sched->pages_corrupt += page_count;
    int dropped = (int)prefix_drop_marked(sched->prefix, marks); // PAGES_MAX fits
    free(marks);
    return dropped;
}

void sched_distrust(struct sched *sched)
{
    CHECK(!sched->in_flight);
    checks_distrust(sched->checks);
}
