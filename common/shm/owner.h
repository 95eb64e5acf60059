/* SPDX-License-Identifier: Apache-2.0 */
/* owner - who a process is beyond its pid: pids are re-used, (pid, start time) pairs are not. */
#ifndef KVASIR_SHM_OWNER_H
#define KVASIR_SHM_OWNER_H

#include <stdbool.h>
#include <stdint.h>

/* Start time of a process, clock ticks since boot (field 22 of /proc/PID/stat). -ENOENT when there is no
 * such process, -EIO when /proc is unreadable. A zombie counts as gone: it holds no memory any more. */
int owner_start(int64_t pid, uint64_t *ret_start);
bool owner_is_alive(int64_t pid, uint64_t start);
/* SIGKILL, for that process only: whoever has its pid now is not harmed. -> whether it was there. */
bool owner_kill(int64_t pid, uint64_t start);
/* It is gone, or on its way: killed, but not yet done with giving back what it had. */
bool owner_is_ending(int64_t pid);

#endif
