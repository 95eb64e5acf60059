/* SPDX-License-Identifier: Apache-2.0 */
/* hash - XXH3 (libxxhash) as keys and checksums. Not a MAC: a key can cost time when it collides,
 * never correctness, because token ids are compared on every hit. */
#ifndef KVASIR_BASE_HASH_H
#define KVASIR_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t low, high;
};

static inline int hash128_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

uint64_t hash64(const void *bytes, size_t len);
struct hash128 hash128(const void *bytes, size_t len);

/* hash(parent || bytes): the chain step of prefix keys. */
struct hash128 hash128_chain(struct hash128 parent, const void *bytes, size_t len);

#endif
