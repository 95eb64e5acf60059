/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/prefix_pins.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "daemon/prefix.h"

struct pins {
    struct prefix *prefix;
    const struct pool *pool;
    uint16_t *counts; // owned, (page_count): I1
    uint32_t ends[PINS_MAX];
    uint32_t end_count, page_count, limit; // page_count: those whose count is not 0
    bool lost;
};
static_assert(PINS_MAX < UINT16_MAX, "pins.counts");

int pins_new(struct prefix *prefix, const struct pool *pool, struct pins **ret_pins)
{
    struct pins *pins = calloc(1, sizeof *pins);
    if (!pins) return -ENOMEM;
    pins->prefix = prefix;
    pins->pool = pool;
    pins->counts = calloc(pool_geometry(pool)->page_count, sizeof *pins->counts);
    if (!pins->counts) {
        free(pins);
        return -ENOMEM;
    }
    *ret_pins = pins;
    return 0;
}

void pins_free(struct pins *pins)
{
    if (!pins) return;
    free(pins->counts);
    free(pins);
}

void pins_limit(struct pins *pins, uint32_t page_count)
{
    pins->limit = page_count;
}

bool pins_has(const struct pins *pins, uint32_t page_idx)
{
    for (uint32_t i = 0; i < pins->end_count; i++)
        if (pins->ends[i] == page_idx) return true;
    return false;
}

int pins_add(struct pins *pins, uint32_t page_idx, uint64_t now_ns)
{
    uint32_t fresh = 0;
    if (pins_has(pins, page_idx)) return 0;
    for (uint32_t at = page_idx; at != PAGE_NONE; at = pool_desc(pins->pool, at)->parent)
        fresh += pins->counts[at] == 0;
    if (pins->end_count == PINS_MAX || pins->page_count + fresh > pins->limit) return ERR_LIMIT;
    for (uint32_t at = page_idx; at != PAGE_NONE; at = pool_desc(pins->pool, at)->parent) {
        prefix_hold(pins->prefix, at, now_ns);
        pins->counts[at]++;
    }
    pins->page_count += fresh;
    pins->ends[pins->end_count++] = page_idx;
    return 0;
}

static void end_remove(struct pins *pins, uint32_t i, uint64_t now_ns)
{
    uint32_t at = pins->ends[i];
    pins->ends[i] = pins->ends[--pins->end_count];
    for (uint32_t parent; at != PAGE_NONE; at = parent) {
        parent = pool_desc(pins->pool, at)->parent;
        pins->page_count -= --pins->counts[at] == 0;
        prefix_release(pins->prefix, at, now_ns);
    }
}

void pins_remove(struct pins *pins, uint32_t page_idx, uint64_t now_ns)
{
    for (uint32_t i = 0; i < pins->end_count; i++) {
        if (pins->ends[i] != page_idx) continue;
        end_remove(pins, i, now_ns);
        return;
    }
}

uint32_t pins_remove_marked(struct pins *pins, const uint8_t *marks, uint64_t now_ns)
{
    uint32_t count = 0;
    for (uint32_t i = pins->end_count; i-- > 0;) { // what takes the place of one was looked at before
        if (!marks[pins->ends[i]]) continue;
        end_remove(pins, i, now_ns);
        count++;
    }
    if (count > 0) pins->lost = true;
    return count;
}

bool pins_lost(struct pins *pins)
{
    bool lost = pins->lost;
    pins->lost = false;
    return lost;
}

uint32_t pins_page_count(const struct pins *pins)
{
    return pins->page_count;
}

uint32_t pins_of(const struct pins *pins, uint32_t page_idx)
{
    return pins->counts[page_idx];
}

int pins_check(const struct pins *pins, struct err *err)
{
    uint32_t total = pool_geometry(pins->pool)->page_count, page_count = 0;
    uint16_t *counts = calloc(total, sizeof *counts);
    int r = 0;
    if (!counts) return -ENOMEM;
    for (uint32_t i = 0; i < pins->end_count; i++)
        for (uint32_t at = pins->ends[i]; at != PAGE_NONE; at = pool_desc(pins->pool, at)->parent)
            counts[at]++;
    for (uint32_t i = 0; r == 0 && i < total; i++) {
        page_count += counts[i] > 0;
        if (counts[i] != pins->counts[i] || pool_desc(pins->pool, i)->refcount < counts[i])
            r = ERR(err, ERR_FORMAT, "pins: page %u has %u, counted %u, of %u holders", i, counts[i],
                    pins->counts[i], pool_desc(pins->pool, i)->refcount);
    }
    if (r == 0 && (page_count != pins->page_count || page_count > pins->limit))
        r = ERR(err, ERR_FORMAT, "pins: %u pages, counted %u, at most %u", page_count, pins->page_count,
                pins->limit);
    free(counts);
    return r;
}
