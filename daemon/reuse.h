/* SPDX-License-Identifier: Apache-2.0 */
/* reuse - how soon a cached page is wanted again, learnt from which pages were.
 *
 * A page waits from the moment a request lets go of it until another wants it, whether it is in the cache then or not:
 * a log of keys, LOG_SPAN times as long as the cache, remembers what was evicted. Time is counted in waits begun, so
 * that it runs as fast as the cache turns over. Waits fall into classes by how many requests used the page; a class
 * counts, for ages that grow by half a power of two, the waits that reached the age and those that ended at it.
 *
 * From these follows a page's index: the hits to be had by keeping it from its present age on, divided by the room and
 * time that this takes, for the length of time that makes this the most (the index of Gittins, 1979; as the order of
 * a cache it is near to LHD: Beckmann, Chen, Cidon, NSDI 2018). The page with the lowest index leaves first.
 *
 * A class of which little is known is taken for all classes together, and these at first for pages whose chance falls
 * as one over the age: then the order is least recently used. What was counted counts half after each length of the
 * log. There is no randomness: the same calls give the same order. */
#ifndef KVASIR_DAEMON_REUSE_H
#define KVASIR_DAEMON_REUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/hash.h"

struct reuse; // owns log, table and counts

enum { REUSE_USES_MAX = 255 };

int reuse_new(uint32_t page_count, struct reuse **ret_reuse);
void reuse_free(struct reuse *reuse); // NULL is fine

/* Asks for the memory that reuse_wanted will touch first. */
void reuse_prefetch(const struct reuse *reuse, struct hash128 key);

/* Somebody wants the key: its wait, if it is in the log and open, ends. -> the requests that had used it by then, 0
 * when the log does not know it. */
uint32_t reuse_wanted(struct reuse *reuse, struct hash128 key);

/* A request lets go of the key, which `uses` requests used by now (1..REUSE_USES_MAX): a wait begins, and one
 * that was open ends without a result. -> the time of its beginning, for reuse_index. */
uint64_t reuse_let_go(struct reuse *reuse, struct hash128 key, uint32_t uses);

/* The index of a page that was used by `uses` requests and waits since then, >= 0: hits by page and unit of time. */
float reuse_index(const struct reuse *reuse, uint32_t uses, uint64_t since);

/* Audits log and table: every key of the log is found at its latest wait. */
bool reuse_check(const struct reuse *reuse);

#endif
