/* SPDX-License-Identifier: Apache-2.0 */
/* cancel - the inside of struct kvasir_cancel: a flag, and an eventfd that wakes a poll. */
#ifndef KVASIR_CLIENT_CANCEL_H
#define KVASIR_CLIENT_CANCEL_H

#include <stdatomic.h>
#include <stdbool.h>

struct kvasir_cancel {
    int fd;             // eventfd, readable while triggered; owned
    atomic_bool is_set; // what counts; the descriptor only wakes
};

bool cancel_is_set(struct kvasir_cancel *cancel); // NULL: false

#endif
