/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cancel.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/kvasir.h"

int kvasir_cancel_new(struct kvasir_cancel **ret_cancel)
{
    struct kvasir_cancel *cancel = calloc(1, sizeof(*cancel));
    if (cancel == NULL) return KVASIR_ERR_MEMORY;
    cancel->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (cancel->fd < 0) {
        free(cancel);
        return KVASIR_ERR_MEMORY;
    }
    atomic_init(&cancel->is_set, false);
    *ret_cancel = cancel;
    return KVASIR_OK;
}

void kvasir_cancel_free(struct kvasir_cancel *cancel)
{
    if (cancel == NULL) return;
    close(cancel->fd);
    free(cancel);
}

/* Async-signal-safe: a lock-free store and write(2), errno kept. */
void kvasir_cancel_trigger(struct kvasir_cancel *cancel)
{
    int errno_before = errno;
    uint64_t one = 1;
    atomic_store(&cancel->is_set, true); // before the write: who wakes must see it
    ssize_t n = write(cancel->fd, &one, sizeof(one));
    (void)n; // fails only when the counter is full, and then the descriptor is readable anyway
    errno = errno_before;
}

void kvasir_cancel_reset(struct kvasir_cancel *cancel)
{
    uint64_t count;
    ssize_t n = read(cancel->fd, &count, sizeof(count));
    (void)n; // EAGAIN: it was not triggered
    atomic_store(&cancel->is_set, false);
}

bool cancel_is_set(struct kvasir_cancel *cancel)
{
    return cancel != NULL && atomic_load(&cancel->is_set);
}
