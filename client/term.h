/* SPDX-License-Identifier: Apache-2.0 */
/* term - what a command shares with its terminal: text of a model goes out without control characters
 * (an answer must not be able to drive a terminal), and Ctrl-C triggers a cancel switch. */
#ifndef KVASIR_CLIENT_TERM_H
#define KVASIR_CLIENT_TERM_H

#include <stddef.h>
#include <stdio.h>

#include "client/kvasir.h"
#include "common/base/buf.h"

/* Writes text as it is to a file or pipe. To a terminal: without C0 other than newline and tab, DEL,
 * C1, and malformed UTF-8. 0, or -errno of the write. */
int term_put(FILE *out, const char *text, size_t len);

/* From now on Ctrl-C triggers cancel, and interrupts a read of the terminal. NULL: as it was before.
 * One at a time in a process. */
void term_catch_interrupt(struct kvasir_cancel *cancel);

/* Everything up to the end of in. 0, -EMSGSIZE past the buf's bound, or -errno. */
int term_read_all(FILE *in, struct buf *ret_text);

/* Operands joined by spaces, "-" standing for stdin; or stdin alone when there are none and it is no
 * terminal. 0 with text, 1 when there is none to be had; EX_USAGE or EXIT_FAILED told as in cmd.h with a
 * line on stderr, both > 1. */
int term_gather_text(const char *command, int count, char **operands, struct buf *ret_text);

#endif
