/* SPDX-License-Identifier: Apache-2.0 */
/* hosts - which ranks of a group run on which host: ranks of a host follow each other, rank 0 is on the first.
 *
 * Written "name[:count],name[:count]", as --hosts has it and mpirun's -H. Pure: names are compared, never looked up. */
#ifndef KVASIR_BASE_HOSTS_H
#define KVASIR_BASE_HOSTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"

enum {
    HOST_NAME_BYTES = 128,                                // with its NUL
    HOSTS_TEXT_BYTES = RANKS_MAX * (HOST_NAME_BYTES + 4), // of all of them, with counts
};

struct hosts {
    uint32_t count;                         // 0: nothing was named; ranks are then of this host
    uint32_t rank_first[RANKS_MAX + 1];     // (count + 1), rising; the last is the number of ranks
    char names[RANKS_MAX][HOST_NAME_BYTES]; // (count)
};

/* Counts stand at all hosts, and are rank_count together, or at none: then the ranks are shared out as even as can be,
 * the first hosts having the fewer. Each host has at least one. "" is no host. ERR_CONFIG. */
int hosts_parse(const char *text, uint32_t rank_count, struct hosts *ret_hosts, struct err *err);
/* Open MPI's hostfile, [text, text + len), into the form above: a host a line, "name [slots=N]", # begins a comment.
 * What else such a file may say (max_slots, names of users) is refused. out: (HOSTS_TEXT_BYTES). */
int hosts_file_parse(const char *text, size_t len, char *out, struct err *err);
/* The form above, with counts. out: (HOSTS_TEXT_BYTES) */
void hosts_print(const struct hosts *hosts, char *out);
uint32_t hosts_of_rank(const struct hosts *hosts, uint32_t rank); // -> which host; rank is one of them

#endif
