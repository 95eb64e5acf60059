/* SPDX-License-Identifier: Apache-2.0 */
/* checks - which cached pages must be hashed before they are read again.
 *
 * A page is unknown when somebody other than a worker of this daemon that lives still could write to it after it was
 * sealed: all that an adopted pool holds, and all that were sealed when a worker died. The plan that first
 * reads an unknown page names it to be checked (plan.h); its answer makes it known, or tells that it is bad. Until then
 * plans of other groups that read it name it too.
 *
 * Private to the daemon; borrows the pool. An entry is the generation that is unknown, so that a page which is
 * granted anew needs nobody to tell us.
 *   I1: a page is asked for at most once in a group's plan in hand, and only while it is unknown. */
#ifndef KVASIR_DAEMON_CHECKS_H
#define KVASIR_DAEMON_CHECKS_H

#include <stdbool.h>

#include "common/shm/pool.h"

struct checks; // opaque

/* Every page SEALED now is unknown. */
int checks_new(const struct pool *pool, uint32_t group_count, struct checks **ret_checks);
void checks_free(struct checks *checks); // NULL is fine

/* Every page that is SEALED now is unknown. What plans in flight have asked for is not known by their answers:
 * checks_open is their end. */
void checks_distrust(struct checks *checks);

/* At least as many as are unknown; 0: none need be asked for. */
uint32_t checks_unknown_count(const struct checks *checks);
/* Whether the group's plan in hand must name the page: unknown, and not named yet. It counts as named then. */
bool checks_ask(struct checks *checks, uint32_t group, uint32_t page_idx);
/* The plan was answered: every page that it named is known. -> how many. */
uint32_t checks_passed(struct checks *checks, uint32_t group);
void checks_open(struct checks *checks,
                 uint32_t group); // it was not, or none was planned: they are unknown still

/* Changes whenever a page that needed no check, or was asked for, may need one again. */
uint64_t checks_era(const struct checks *checks);

/* Pages that passed so far. */
uint64_t checks_count(const struct checks *checks);

#endif
