/* SPDX-License-Identifier: Apache-2.0 */
/* cmd - the subcommands of `kvasir`. argv[0] is the subcommand's name; the return is the exit status:
 * 0 done, EX_USAGE (64) wrong use, EX_UNAVAILABLE (69) no server or none that takes work now, 1 any
 * other failure. A failure has said why on stderr. */
#ifndef KVASIR_CLIENT_CMD_H
#define KVASIR_CLIENT_CMD_H

#include <sysexits.h>

#include "client/cmd_fsck.h"

enum { EXIT_FAILED = 1 };

int cmd_serve(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_complete(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_cache(int argc, char **argv);

#endif
