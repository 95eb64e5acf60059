/* SPDX-License-Identifier: Apache-2.0 */
/* server - kvasird as a whole: loop, model, engine, listeners, signals, and the order in which they start and
 * end.
 *
 *   LOADING --worker ready--> SERVING --SIGTERM, SIGINT--> DRAINING --no connection left--> STOPPING --> end
 *      | worker cannot start                                  | limit, second signal: requests are ended
 *      +--> STOPPING, exit status of the reason
 */
#ifndef KVASIR_DAEMON_SERVER_H
#define KVASIR_DAEMON_SERVER_H

#include "common/base/err.h"
#include "daemon/conf.h"

/* Runs until told to stop. -> exit status; one line on stderr has said why when it is not 0. */
int server_run(const struct conf *conf);

#endif
