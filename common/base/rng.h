/* SPDX-License-Identifier: Apache-2.0 */
/* rng - two generators. `rng_next` is SplitMix64 (Steele, Lea, Flood 2014), a stream for tests and
 * jitter. `rng_at` is counter-based: a pure function of (seed, counter), so sampling has no state
 * that a dying worker could lose; it is Philox4x32-10 (Salmon et al., SC'11). */
#ifndef KVASIR_BASE_RNG_H
#define KVASIR_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state; // any value is a valid seed
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t z = (rng->state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* Uniform in [0, bound), bound > 0; multiply-shift, its bias is below 2^-32 for bound < 2^32. */
static inline uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)rng_next(rng) * bound) >> 64);
}

/* Philox4x32-10 with key = seed and counter = (counter, lane, 0): 64 of its 128 output bits. */
static inline uint64_t rng_at(uint64_t seed, uint64_t counter, uint32_t lane)
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = lane, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c1 << 32 | c0;
}

/* Uniform in [0, 1) with 53 bits. */
static inline double rng_unit_at(uint64_t seed, uint64_t counter, uint32_t lane)
{
    return (double)(rng_at(seed, counter, lane) >> 11) * 0x1.0p-53;
}

#endif
