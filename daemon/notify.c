/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/notify.h"

#include "config.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>

#include "common/base/clock.h"

void notify_ready(const char *status)
{
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", status); // whoever started us may not listen
}

void notify_status(const char *status)
{
    (void)sd_notifyf(0, "STATUS=%s", status); // as above
}

void notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1"); // as above
}

void notify_watchdog(void)
{
    (void)sd_notify(0, "WATCHDOG=1"); // as above
}

uint64_t notify_watchdog_ns(void)
{
    uint64_t usec;
    return sd_watchdog_enabled(0, &usec) > 0 ? usec * NS_PER_US : 0;
}

int notify_listen_fds(int *ret_fd_first)
{
    int count = sd_listen_fds(1);
    *ret_fd_first = SD_LISTEN_FDS_START;
    return count > 0 ? count : 0;
}
#else
void notify_ready(const char *status)
{
    (void)status;
}

void notify_status(const char *status)
{
    (void)status;
}

void notify_stopping(void)
{
}

void notify_watchdog(void)
{
}

uint64_t notify_watchdog_ns(void)
{
    return 0;
}

int notify_listen_fds(int *ret_fd_first)
{
    *ret_fd_first = 3;
    return 0;
}
#endif
