/* SPDX-License-Identifier: Apache-2.0 */
/* conf_file - the two files that the configuration reads. Used by conf.c only. */
#ifndef KVASIR_DAEMON_CONF_FILE_H
#define KVASIR_DAEMON_CONF_FILE_H

#include "daemon/conf.h"

/* Sets what the INI file says, as CONF_FROM_FILE. Unknown names, names in the wrong [section] and
 * settings made twice are refused. -> 0, ERR_CONFIG "PATH:LINE: why", -errno. */
int conf_file_read_ini(const char *path, struct conf *conf, struct err *err);

/* Appends the keys in the file, one a line; blank lines and lines that begin with # are skipped. A file
 * without a key is refused: whoever names one wants to be protected. -> 0, ERR_CONFIG, -errno. */
int conf_file_read_keys(const char *path, struct conf_list *keys, struct err *err);

#endif
