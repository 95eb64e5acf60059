/* SPDX-License-Identifier: Apache-2.0 */
/* progress - the start of the server in words for people, on stderr (--progress; `kvasir serve` sets it). On a
 * terminal one line is drawn over and over; elsewhere each tenth is a line. */
#ifndef KVASIR_DAEMON_PROGRESS_H
#define KVASIR_DAEMON_PROGRESS_H

#include <stdint.h>

void progress_loading(const char *model, uint32_t permille);
void progress_ready(const char *model, uint64_t cache_bytes, const char *address);
void progress_end(void); // leaves the line, so that an error stands on its own

#endif
