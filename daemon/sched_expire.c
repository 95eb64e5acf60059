/* SPDX-License-Identifier: Apache-2.0 */
/* sched_expire - deadlines. Whoever misses its own is reported once and stands still until its owner removes it: a
 * waiting one is never computed, a running one leaves its sealed pages in the cache, so that trying again is cheap. */
#include "common/base/check.h"
#include "daemon/sched_state.h"

uint64_t sched_deadline_next(const struct sched *sched)
{
    return sched->deadlines.count ? (uint64_t)sched->deadlines.entries[0].key : UINT64_MAX;
}

int sched_expire(struct sched *sched, uint64_t now_ns, struct sched_event *events)
{
    uint32_t count = 0;
    while (count < 2 * sched->conf.seqs_max && sched_deadline_next(sched) <= now_ns) {
        uint32_t slot = slot_heap_first(&sched->deadlines);
        struct seq *seq = &sched->seqs[slot];
        slot_heap_remove(&sched->deadlines, slot);
        if (seq->removed) continue;
        seq->expired = true;
        sched_seq_pause(sched, slot, true);
        sched->expired++;
        events[count++] = (struct sched_event){
            .kind = SCHED_EXPIRED, .seq_id = sched_seq_id(sched, slot), .owner = seq->owner};
    }
    return (int)count;
}
