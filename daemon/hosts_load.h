/* SPDX-License-Identifier: Apache-2.0 */
/* hosts_load - --hosts or --hostfile, read. */
#ifndef KVASIR_DAEMON_HOSTS_LOAD_H
#define KVASIR_DAEMON_HOSTS_LOAD_H

#include "common/base/hosts.h"
#include "daemon/conf.h"

/* For conf->tensor_parallel_size ranks; count 0 where neither is set. ERR_CONFIG, -errno. */
int hosts_load(const struct conf *conf, struct hosts *ret_hosts, struct err *err);

#endif
