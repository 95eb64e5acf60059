/* SPDX-License-Identifier: Apache-2.0 */
/* tier_file - pages in one file of fixed size, which outlives the daemon and the machine's reboot.
 *
 *   | header, 4 KiB | records [place_count], 128 bytes each | payloads [place_count], each from a multiple of 4 KiB |
 *
 * A place is written in this order: record zeroed, payload, record. A record names key, parent, token ids and the
 * checksum of the payload, and has one of its own. So a process that dies leaves a place that is empty or whole; a
 * machine that dies may leave a record without its payload, which the checksum tells when it is read. Nothing is
 * ever synced: what is lost is a cached page. Places are given out in turn, those found since last time spared once
 * (CLOCK; Corbato 1968).
 *
 * The file is the user's alone (0600), locked while a daemon has it, and made for one model and KV type: a file of
 * another model is refused, never overwritten; of the same model but another size or layout it is begun anew, and the
 * note says so. Pages of several producers may lie in it: who goes back to the kernels of before finds theirs. */
#ifndef KVASIR_DAEMON_TIER_FILE_H
#define KVASIR_DAEMON_TIER_FILE_H

#include <stddef.h>

#include "common/base/err.h"
#include "common/shm/layout.h"
#include "daemon/tier.h"

struct tier_file_conf {
    const char *path;
    uint64_t bytes;                       // of the whole file, at most; room for one page at least
    const struct pool_geometry *geometry; // page_count does not matter; rank_count is 1
};

/* Opens or makes the file and reads its records. *ret_note: one line on what was found. ERR_BUSY: another daemon has
 * it. ERR_CONFIG: it is something else, or too small. -errno. */
int tier_file_open(const struct tier_file_conf *conf, struct tier **ret_tier, char *ret_note,
                   size_t note_bytes, struct err *err);

#endif
