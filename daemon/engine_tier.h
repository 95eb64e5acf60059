/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tier - opens the tier that the configuration names, for one engine's pool. */
#ifndef KVASIR_DAEMON_ENGINE_TIER_H
#define KVASIR_DAEMON_ENGINE_TIER_H

#include <stddef.h>

#include "common/base/err.h"
#include "common/shm/layout.h"
#include "daemon/tier.h"

/* *ret_note: one line on what was found. See tier_file_open for errors. */
int engine_tier_open(const char *path, uint64_t bytes, const struct pool_geometry *geometry,
                     struct tier **ret_tier, char *ret_note, size_t note_bytes, struct err *err);

#endif
