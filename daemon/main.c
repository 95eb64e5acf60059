/* SPDX-License-Identifier: Apache-2.0 */
/* kvasird - serves a language model over HTTP; see server.h. */
#include <stdio.h>

#include "common/base/log.h"
#include "config.h"
#include "daemon/conf.h"
#include "daemon/server.h"

extern char **environ;

int main(int argc, char **argv)
{
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
    int status = server_run(&conf);
    conf_done(&conf);
    return status;
}
