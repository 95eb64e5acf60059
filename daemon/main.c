/* SPDX-License-Identifier: Apache-2.0 */
/* kvasird - serves a language model over HTTP; see server.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/log.h"
#include "config.h"
#include "daemon/agent.h"
#include "daemon/conf.h"
#include "daemon/server.h"

extern char **environ;

/* Started without one of descriptors 0 to 2, the next file opened would become it: a segment or a socket that
 * a stray line of a library is then printed into. Lowest first, so that open(2) fills the gap it is for. */
static int descriptors_fill(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", O_RDWR) != fd) return -errno; // nowhere to say so, either
    }
    return 0;
}

int main(int argc, char **argv)
{
    int r = descriptors_fill();
    if (r < 0) return err_exit_status(r);
    struct conf conf = {0};
    struct err err = {0};
    log_init("kvasird", LOG_LEVEL_INFO);
    int action = conf_load(argc, argv, environ, &conf, &err);
    switch (action) {
    case CONF_HELP: conf_print_help(stdout); return 0;
    case CONF_EXAMPLE_CONFIG: conf_print_example(stdout); return 0;
    case CONF_VERSION: (void)puts("kvasird " PACKAGE_VERSION); return 0; // stdout closed: nothing to do
    case CONF_SERVE: break;
    default: log_error("%s", err.text); return err_exit_status(action);
    }
    log_init("kvasird", (enum log_level)conf.log_level);
    int status = conf.agent ? agent_run(&conf) : server_run(&conf);
    conf_done(&conf);
    return status;
}
