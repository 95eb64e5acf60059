/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_fsck - `kvasir fsck`: audits the page pool of an instance, read-only, live or dead. */
#ifndef KVASIR_CLIENT_CMD_FSCK_H
#define KVASIR_CLIENT_CMD_FSCK_H

/* argv[0] is "fsck". Exit status: 0 clean, 1 faults found, 64 usage, 69 no such pool, else err_exit_status(). */
int cmd_fsck(int argc, char **argv);

#endif
