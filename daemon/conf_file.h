/* SPDX-License-Identifier: Apache-2.0 */
/* conf_file - the files that the configuration names. */
#ifndef KVASIR_DAEMON_CONF_FILE_H
#define KVASIR_DAEMON_CONF_FILE_H

#include "common/base/buf.h"
#include "daemon/conf.h"

/* Reads a whole text file of at most 1 MiB into out, initialized here; buf_done frees, also after an error. -> 0,
 * ERR_CONFIG, -errno. */
int conf_file_read(const char *path, struct buf *out, struct err *err);

/* Sets what the INI file says, as CONF_FROM_FILE. Unknown names, names in the wrong [section] and
 * settings made twice are refused. -> 0, ERR_CONFIG "PATH:LINE: why", -errno. */
int conf_file_read_ini(const char *path, struct conf *conf, struct err *err);

/* Appends the keys in the file, one a line; blank lines and lines that begin with # are skipped. A file
 * without a key is refused: whoever names one wants to be protected. -> 0, ERR_CONFIG, -errno. */
int conf_file_read_keys(const char *path, struct conf_list *keys, struct err *err);

#endif
