/* SPDX-License-Identifier: Apache-2.0 */
/* notify - what systemd hears of this process (sd_notify(3)) and gives to it (sd_listen_fds(3)). Does nothing
 * without libsystemd or when not started by systemd. */
#ifndef KVASIR_DAEMON_NOTIFY_H
#define KVASIR_DAEMON_NOTIFY_H

#include <stdint.h>

void notify_ready(const char *status);
void notify_status(const char *status);
void notify_stopping(void);
void notify_watchdog(void);               // called by the loop itself
uint64_t notify_watchdog_ns(void);        // 0: no watchdog asked for
int notify_listen_fds(int *ret_fd_first); // -> how many sockets were passed

#endif
