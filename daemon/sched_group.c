/* SPDX-License-Identifier: Apache-2.0 */
/* sched_group - in whose steps a sequence is.
 *
 * Workers keep nothing between plans, so any group computes any sequence and the answer is the same. Whoever comes in
 * becomes the group's that has the fewest of those whose next step can begin now. Before each plan the groups are
 * evened out, the last in the order first: from those whose worker is gone, and from those that have two more than
 * another. A sequence in flight stays; so does a suspect, whose rows may be what kills workers: one group that dies
 * of it is enough. */
#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/sched_state.h"

int sched_groups_init(struct sched *sched)
{
    if (sched->conf.group_count == 0) sched->conf.group_count = 1;
    CHECK(sched->conf.group_count <= GROUPS_MAX);
    sched->groups = calloc(sched->conf.group_count, sizeof *sched->groups);
    if (!sched->groups) return -ENOMEM;
    for (uint32_t i = 0; i < sched->conf.group_count; i++) step_cost_init(&sched->groups[i].cost);
    return 0;
}

bool sched_in_flight(const struct sched *sched, uint32_t group)
{
    return sched->groups[group].in_flight;
}

void sched_last_step(const struct sched *sched, uint32_t group, struct sched_step *ret_step)
{
    *ret_step = sched->groups[group].last_step;
}

uint32_t sched_group_running(const struct sched *sched, uint32_t group)
{
    return sched->groups[group].running_count;
}

uint64_t sched_group_steps(const struct sched *sched, uint32_t group)
{
    return sched->groups[group].step_count;
}

bool sched_flies_any(const struct sched *sched)
{
    uint32_t i = 0;
    while (i < sched->conf.group_count && !sched->groups[i].in_flight) i++;
    return i < sched->conf.group_count;
}

uint32_t sched_groups_up(const struct sched *sched)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sched->conf.group_count; i++) count += sched->groups[i].is_up;
    return count;
}

uint32_t sched_group_pick(const struct sched *sched, uint32_t group)
{
    for (uint32_t i = 0; i < sched->conf.group_count; i++) {
        const struct sched_group *other = &sched->groups[i];
        if (other->is_up && !other->in_flight && other->running_count < sched->groups[group].running_count)
            group = i;
    }
    return group;
}

/* Of those that compute the one with the fewest. There is one: the one that is planned. */
static uint32_t group_least(const struct sched *sched)
{
    uint32_t least = GROUPS_MAX;
    for (uint32_t i = 0; i < sched->conf.group_count; i++) {
        const struct sched_group *group = &sched->groups[i];
        if (!group->is_up) continue;
        if (least == GROUPS_MAX || group->running_count < sched->groups[least].running_count) least = i;
    }
    CHECK(least < GROUPS_MAX);
    return least;
}

static bool has_too_many(const struct sched *sched, const struct sched_group *group, uint32_t least)
{
    return group->is_up ? group->running_count > sched->groups[least].running_count + 1
                        : group->running_count > 0;
}

void sched_groups_balance(struct sched *sched)
{
    uint32_t least = group_least(sched), i = 0;
    while (i < sched->conf.group_count && !has_too_many(sched, &sched->groups[i], least)) i++;
    if (i == sched->conf.group_count) return;
    for (uint32_t slot = sched->running.last; slot != SEQ_NONE; slot = sched->seqs[slot].previous) {
        struct seq *seq = &sched->seqs[slot];
        struct sched_group *from = &sched->groups[seq->group];
        if (seq->rows_in_flight > 0 || sched_is_suspect(seq) || !has_too_many(sched, from, least)) continue;
        from->running_count--;
        seq->group = (uint8_t)least;
        sched->groups[least].running_count++;
        sched->moves++;
        least = group_least(sched);
    }
}

void sched_groups_doubt(struct sched *sched)
{
    for (uint32_t i = 0; i < sched->conf.group_count; i++)
        if (sched->groups[i].in_flight) sched->groups[i].is_void = true;
}

uint32_t sched_step_drop(struct sched *sched, uint32_t group, uint64_t now_ns)
{
    sched->groups[group].in_flight = sched->groups[group].is_void = false;
    checks_open(sched->checks, group);
    for (uint32_t slot = sched->running.first, next; slot != SEQ_NONE; slot = next) {
        struct seq *seq = &sched->seqs[slot];
        next = seq->next;
        if (seq->group != group || seq->rows_in_flight == 0) continue;
        seq->rows_in_flight = 0;
        if (seq->removed) sched_seq_end(sched, slot, now_ns);
    }
    return sched_bads_drop(sched, now_ns);
}
