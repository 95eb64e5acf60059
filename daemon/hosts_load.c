/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/hosts_load.h"

#include "daemon/conf_file.h"

int hosts_load(const struct conf *conf, struct hosts *ret_hosts, struct err *err)
{
    char text[HOSTS_TEXT_BYTES];
    struct buf file;
    if (!conf->hostfile[0]) return hosts_parse(conf->hosts, conf->tensor_parallel_size, ret_hosts, err);
    int r = conf_file_read(conf->hostfile, &file, err);
    if (r == 0) r = hosts_file_parse(buf_text(&file), file.len, text, err);
    buf_done(&file);
    return r < 0 ? r : hosts_parse(text, conf->tensor_parallel_size, ret_hosts, err);
}
