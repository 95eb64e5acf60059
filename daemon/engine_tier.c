/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/engine_tier.h"

#include "daemon/tier_file.h"

int engine_tier_open(const char *path, uint64_t bytes, const struct pool_geometry *geometry,
                     struct tier **ret_tier, char *ret_note, size_t note_bytes, struct err *err)
{
    const struct tier_file_conf conf = {.path = path, .bytes = bytes, .geometry = geometry};
    return tier_file_open(&conf, ret_tier, ret_note, note_bytes, err);
}
