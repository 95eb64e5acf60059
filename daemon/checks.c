/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/checks.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"

struct checks {
    const struct pool *pool; // borrowed
    uint32_t *unknown;       // (page_count) generation, 0: known
    bool *is_asked;          // (page_count)
    uint32_t *asked;         // (page_count), asked_count of them: pages named by the plan in hand
    uint32_t asked_count;
    uint32_t unknown_count; // entries of unknown that are not 0, those of pages that are gone among them
    uint64_t count, era;
};

int checks_new(const struct pool *pool, struct checks **ret_checks)
{
    uint32_t page_count = pool_geometry(pool)->page_count;
    struct checks *checks = calloc(1, sizeof *checks);
    if (!checks) return -ENOMEM;
    checks->pool = pool;
    checks->unknown = calloc(page_count, sizeof *checks->unknown);
    checks->is_asked = calloc(page_count, sizeof *checks->is_asked);
    checks->asked = calloc(page_count, sizeof *checks->asked);
    if (!checks->unknown || !checks->is_asked || !checks->asked) {
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
    free(checks->unknown);
    free(checks->is_asked);
    free(checks->asked);
    free(checks);
}

void checks_distrust(struct checks *checks)
{
    CHECK(checks->asked_count == 0);
    checks->era++;
    checks->unknown_count = 0;
    for (uint32_t i = 0; i < pool_geometry(checks->pool)->page_count; i++) {
        const struct page_desc *desc = pool_desc(checks->pool, i);
        checks->unknown[i] = desc->state == PAGE_SEALED ? desc->generation : 0;
        checks->unknown_count += checks->unknown[i] != 0;
    }
}

static void asked_clear(struct checks *checks)
{
    for (uint32_t i = 0; i < checks->asked_count; i++) checks->is_asked[checks->asked[i]] = false;
    checks->asked_count = 0;
}

bool checks_ask(struct checks *checks, uint32_t page_idx)
{
    if (checks->unknown_count == 0) return false;
    if (checks->unknown[page_idx] == 0 || checks->is_asked[page_idx]) return false;
    const struct page_desc *desc = pool_desc(checks->pool, page_idx);
    if (desc->state != PAGE_SEALED || desc->generation != checks->unknown[page_idx]) return false;
    checks->is_asked[page_idx] = true;
    checks->asked[checks->asked_count++] = page_idx; // I1: at most page_count
    return true;
}

uint32_t checks_passed(struct checks *checks)
{
    uint32_t count = checks->asked_count;
    for (uint32_t i = 0; i < checks->asked_count; i++) checks->unknown[checks->asked[i]] = 0;
    checks->unknown_count -= count;
    checks->count += count;
    asked_clear(checks);
    return count;
}

void checks_open(struct checks *checks)
{
    checks->era += checks->asked_count > 0;
    asked_clear(checks);
}

uint64_t checks_era(const struct checks *checks)
{
    return checks->era;
}

uint64_t checks_count(const struct checks *checks)
{
    return checks->count;
}
