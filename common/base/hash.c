/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash64(const void *bytes, size_t len)
{
    return XXH3_64bits(bytes, len);
}

struct hash128 hash128(const void *bytes, size_t len)
{
    XXH128_hash_t h = XXH3_128bits(bytes, len);
    return (struct hash128){h.low64, h.high64};
}

struct hash128 hash128_chain(struct hash128 parent, const void *bytes, size_t len)
{
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    (void)XXH3_128bits_reset(&state); // cannot fail on a stack state
    (void)XXH3_128bits_update(&state, &parent, sizeof parent);
    (void)XXH3_128bits_update(&state, bytes, len);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    return (struct hash128){h.low64, h.high64};
}
