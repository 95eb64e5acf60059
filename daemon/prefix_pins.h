/* SPDX-License-Identifier: Apache-2.0 */
/* prefix_pins - chains of cached pages that stay because the operator says so.
 *
 * A pin holds every page from the first of a chain to its end, as a sequence would: none is evicted, all that hangs on
 * them may be. Pins that share pages hold them once each; their pages together are bounded.
 *   I1: a page's count is that of the pins whose end descends from it or is it. */
#ifndef KVASIR_DAEMON_PREFIX_PINS_H
#define KVASIR_DAEMON_PREFIX_PINS_H

#include <stdbool.h>

#include "common/shm/pool.h"

enum { PINS_MAX = 4096 };

struct prefix;
struct pins; // borrows prefix and pool

int pins_new(struct prefix *prefix, const struct pool *pool, struct pins **ret_pins); // bound: no page
void pins_free(struct pins *pins); // NULL is fine; lets go of nothing

void pins_limit(struct pins *pins, uint32_t page_count); // at most so many pages
/* Pins the chain that ends in a SEALED page; once, however often it is asked for. ERR_LIMIT: past the bound, or
 * PINS_MAX. */
int pins_add(struct pins *pins, uint32_t page_idx, uint64_t now_ns);
bool pins_has(const struct pins *pins, uint32_t page_idx);               // a pin ends there
void pins_remove(struct pins *pins, uint32_t page_idx, uint64_t now_ns); // nothing when no pin ends there
/* Removes the pins whose end is marked; marks: (page_count), 1 for them. -> how many. */
uint32_t pins_remove_marked(struct pins *pins, const uint8_t *marks, uint64_t now_ns);

bool pins_lost(struct pins *pins); // whether pins_remove_marked removed any since this was asked

uint32_t pins_page_count(const struct pins *pins);            // pinned pages
uint32_t pins_of(const struct pins *pins, uint32_t page_idx); // how many pins hold it

int pins_check(const struct pins *pins, struct err *err); // I1 and the bound; 0, ERR_FORMAT or -ENOMEM

#endif
