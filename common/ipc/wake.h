/* SPDX-License-Identifier: Apache-2.0 */
/* wake - lets one process sleep until another has something for it, by a futex in shared memory, without a
 * syscall on the notifying side while nobody sleeps.
 *
 *   sequence   the futex word; counted up by any notifier that found the sleeper announced
 *   sleeping   written by the sleeper only; 1 from wake_prepare until wake_finish
 *
 *   sleeper                                     notifier
 *   1 ticket = wake_prepare()                   a publishes (a ring's tail, a cell)
 *   2 looks for work; if there is: 4            b wake_notify()
 *   3 wake_sleep(ticket), then looks again
 *   4 wake_finish()
 * Either 2 sees what a published, or b sees 1 and counts sequence up, so that 3 returns. A wake means look
 * again, nothing more. A notifier that dies between a and b, or a peer that writes nonsense here, costs a
 * sleep up to its timeout, never more: callers give one, and a notifier that starts again notifies once. One
 * sleeper a wake. */
#ifndef KVASIR_IPC_WAKE_H
#define KVASIR_IPC_WAKE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#include "common/base/limits.h"

struct wake {
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t sequence;
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t sleeping;
};
static_assert(sizeof(struct wake) == 2 * CACHELINE_BYTES, "layout v1");

uint32_t wake_prepare(struct wake *wake); // -> ticket
/* 0: woken, interrupted by a signal, or late for the ticket: look again. -ETIMEDOUT; -errno. */
int wake_sleep(struct wake *wake, uint32_t ticket, uint64_t timeout_ns);
void wake_finish(struct wake *wake);
void wake_notify(struct wake *wake);

#endif
