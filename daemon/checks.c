/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/checks.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"

struct asked {      // pages named by a group's plan in hand
    bool *is_asked; // (page_count)
    uint32_t *list; // (page_count), count of them
    uint32_t count;
};

struct checks {
    const struct pool *pool; // borrowed
    uint32_t *unknown;       // (page_count) generation, 0: known
    struct asked *groups;    // (group_count)
    uint32_t group_count;
    uint32_t unknown_count; // entries of unknown that are not 0, those of pages that are gone among them
    uint64_t count, era;
};

int checks_new(const struct pool *pool, uint32_t group_count, struct checks **ret_checks)
{
    uint32_t page_count = pool_geometry(pool)->page_count;
    struct checks *checks = calloc(1, sizeof *checks);
    if (!checks) return -ENOMEM;
    checks->pool = pool;
    checks->unknown = calloc(page_count, sizeof *checks->unknown);
    checks->groups = calloc(group_count, sizeof *checks->groups);
    bool is_whole = checks->unknown && checks->groups;
    for (uint32_t i = 0; is_whole && i < group_count; i++, checks->group_count++) {
        struct asked *asked = &checks->groups[i];
        asked->is_asked = calloc(page_count, sizeof *asked->is_asked);
        asked->list = calloc(page_count, sizeof *asked->list);
        is_whole = asked->is_asked && asked->list;
    }
    if (!is_whole) {
        checks_free(checks);
        return -ENOMEM;
    }
    checks_distrust(checks);
    *ret_checks = checks;
    return 0;
}

void checks_free(struct checks *checks)
{
    if (!checks) return;
    for (uint32_t i = 0; i < checks->group_count; i++) {
        free(checks->groups[i].is_asked);
        free(checks->groups[i].list);
    }
    free(checks->groups);
    free(checks->unknown);
    free(checks);
}

void checks_distrust(struct checks *checks)
{
    checks->era++;
    checks->unknown_count = 0;
    for (uint32_t i = 0; i < pool_geometry(checks->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(checks->pool, i);
        checks->unknown[i] = desc->state == PAGE_SEALED ? desc->generation : 0;
        checks->unknown_count += checks->unknown[i] != 0;
    }
}

static void asked_clear(struct asked *asked)
{
    for (uint32_t i = 0; i < asked->count; i++) asked->is_asked[asked->list[i]] = false;
    asked->count = 0;
}

uint32_t checks_unknown_count(const struct checks *checks)
{
    return checks->unknown_count;
}

bool checks_ask(struct checks *checks, uint32_t group, uint32_t page_idx)
{
    struct asked *asked = &checks->groups[group];
    if (checks->unknown_count == 0) return false;
    if (checks->unknown[page_idx] == 0 || asked->is_asked[page_idx]) return false;
    const struct page_desc *desc = pool_desc(checks->pool, page_idx);
    if (desc->state != PAGE_SEALED || desc->generation != checks->unknown[page_idx]) return false;
    asked->is_asked[page_idx] = true;
    asked->list[asked->count++] = page_idx; // I1: at most page_count
    return true;
}

uint32_t checks_passed(struct checks *checks, uint32_t group)
{
    struct asked *asked = &checks->groups[group];
    uint32_t count = asked->count;
    for (uint32_t i = 0; i < count; i++) { // another group may have been quicker
        uint32_t *unknown = &checks->unknown[asked->list[i]];
        checks->unknown_count -= *unknown != 0;
        *unknown = 0;
    }
    checks->count += count;
    asked_clear(asked);
    return count;
}

void checks_open(struct checks *checks, uint32_t group)
{
    checks->era += checks->groups[group].count > 0;
    asked_clear(&checks->groups[group]);
}

uint64_t checks_era(const struct checks *checks)
{
    return checks->era;
}

uint64_t checks_count(const struct checks *checks)
{
    return checks->count;
}
