/* SPDX-License-Identifier: Apache-2.0 */
/* pack_layout - what this build's packing looks like, as a hash. Packed weights lie in shared memory that other
 * builds may find; a number to be raised by hand with every change of pack.c would be forgotten once, and then
 * a model would answer nonsense. So the hash is taken of what the code does: of small matrices of every type,
 * packed. */
#include <stdlib.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/rng.h"
#include "worker/kern/cpu/cpu.h"
#include "worker/kern/ref/dequant.h"

enum {
    TYPES_MAX = 64,   // ids of the file are below it
    PROBE_COLS = 512, // two blocks of the widest type
    ROW_BYTES_MAX = PROBE_COLS * 4,
    STRIP_ROWS_MAX = 32,
    PROBE_STRIPS = 2, // the second one partly filled
    PACKED_BYTES_MAX = PROBE_STRIPS * STRIP_ROWS_MAX * PROBE_COLS * 4,
};

struct probe {
    uint8_t rows[PROBE_STRIPS * STRIP_ROWS_MAX * ROW_BYTES_MAX];
    _Alignas(64) uint8_t packed[PACKED_BYTES_MAX];
};

static struct hash128 probe_type(struct probe *probe, uint32_t type, const struct cpu_level *level,
                                 struct hash128 hash)
{
    enum cpu_form form;
    if (!dequant_find(type) || cpu_form_of(type, &form, NULL) < 0) return hash;
    const uint32_t strip_rows = level->tile_rows * level->strip_tiles;
    const struct kern_matrix matrix = {
        .data = probe->rows, .type = type, .rows = strip_rows + 1, .cols = PROBE_COLS};
    struct cpu_packed packed;
    CHECK(strip_rows <= STRIP_ROWS_MAX);
    CHECK(cpu_pack_plan(&matrix, level, &packed, NULL) == 0);
    CHECK(cpu_packed_bytes(&packed) <= PACKED_BYTES_MAX);
    packed.data = probe->packed;
    cpu_pack(&matrix, level, &packed, 0, packed.strip_count);
    const uint64_t facts[] = {
        type, packed.form, packed.tile_rows, packed.strip_tiles, packed.strip_count, packed.strip_bytes};
    hash = hash128_chain(hash, facts, sizeof facts);
    return hash128_chain(hash, probe->packed, cpu_packed_bytes(&packed));
}

uint64_t cpu_pack_layout(const struct cpu_level *level)
{
    struct probe *probe = aligned_alloc(64, sizeof *probe);
    CHECK(probe); // a few hundred KiB at start
    struct rng rng = {1};
    for (size_t i = 0; i < sizeof probe->rows; i++) probe->rows[i] = (uint8_t)rng_below(&rng, 256);
    struct hash128 hash = {0};
    for (uint32_t type = 0; type < TYPES_MAX; type++) hash = probe_type(probe, type, level, hash);
    free(probe);
    return hash.low;
}
