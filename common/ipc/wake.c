/* SPDX-License-Identifier: Apache-2.0 */
/* wake - see wake.h. The futexes are shared ones (no FUTEX_PRIVATE_FLAG): the word lies in a segment that
 * several processes map. */
#include "common/ipc/wake.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"

static_assert(sizeof(_Atomic uint32_t) == 4, "a futex word");

uint32_t wake_prepare(struct wake *wake)
{
    // Acquire: keeps the announcement below behind this load; partner is the increment in wake_notify.
    // With an older ticket we would only wake too early.
    uint32_t ticket = atomic_load_explicit(&wake->sequence, memory_order_acquire);
    atomic_store_explicit(&wake->sleeping, 1, memory_order_relaxed); // ordered by the fence
    // Partner is the fence in wake_notify: of two fences one comes first, so that either the caller's look
    // for work sees what was published before that one, or the notifier sees the line above.
    atomic_thread_fence(memory_order_seq_cst);
    return ticket;
}

int wake_sleep(struct wake *wake, uint32_t ticket, uint64_t timeout_ns)
{
    if (timeout_ns > UINT64_C(1) << 60) timeout_ns = UINT64_C(1) << 60; // 36 years: a valid timespec
    struct timespec timeout = {
        .tv_sec = (time_t)(timeout_ns / NS_PER_S),
        .tv_nsec = (long)(timeout_ns % NS_PER_S),
    };
    if (syscall(SYS_futex, &wake->sequence, FUTEX_WAIT, ticket, &timeout, NULL, 0) == 0) return 0;
    if (errno == EAGAIN || errno == EINTR) return 0; // sequence moved on, or a signal: look again
    return -errno;
}

void wake_finish(struct wake *wake)
{
    // Relaxed: a notifier that still sees 1 makes one needless syscall. No partner needed.
    atomic_store_explicit(&wake->sleeping, 0, memory_order_relaxed);
}

void wake_notify(struct wake *wake)
{
    atomic_thread_fence(memory_order_seq_cst); // partner: the fence in wake_prepare
    if (atomic_load_explicit(&wake->sleeping, memory_order_relaxed) == 0) return;
    // Release: partner is the acquire load in wake_prepare.
    (void)atomic_fetch_add_explicit(&wake->sequence, 1, memory_order_release); // the old value tells nothing
    long r = syscall(SYS_futex, &wake->sequence, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    CHECK(r >= 0); // a mapped, aligned word: nothing in it can make this fail
}
