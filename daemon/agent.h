/* SPDX-License-Identifier: Apache-2.0 */
/* agent - kvasird --agent: what a further host of a group of ranks has in the place of a daemon.
 *
 *   IDLE --charter--> LIVING --leader gone, trouble, next charter, SIGTERM--> ENDING --ranks gone--> IDLE
 *
 * The ranks of this host bring a charter (charter.h): their leader does, over a local socket, in every life of the
 * group. The agent ends whoever is left of the life before, makes the segments that they attach to - link and
 * exchange anew, kv.<rank> where there is none of that size - and watches them (ranks.h). So pages outlive ranks,
 * mpirun and the daemon here as well. Nothing of a page is believed for that: the daemon's host keeps the checksums,
 * and has every page checked before its first use after any end of its group.
 *
 * No port, no protocol of its own: all that hosts tell each other goes over MPI. The agent's own death ends nobody;
 * without one no life begins here. One agent an instance, host and user. */
#ifndef KVASIR_DAEMON_AGENT_H
#define KVASIR_DAEMON_AGENT_H

#include "daemon/conf.h"

/* Runs until SIGTERM or SIGINT. Keeps kv.<rank> at the end if conf->cache_keep, else removes every name. -> exit
 * status; one line on stderr has said why when it is not 0. */
int agent_run(const struct conf *conf);

#endif
