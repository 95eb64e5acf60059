/* SPDX-License-Identifier: Apache-2.0 */
/* machine - lifetime and memory of the CPU machine, and its ops tables, one per instruction set. */
#define _GNU_SOURCE
#include "worker/kern/cpu/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/check.h"
#include "common/base/limits.h"

enum {
    ARENA_BYTES = 8 << 20, // small allocations share one; a multiple of a huge page
    HUGE_PAGE_BYTES = 2 << 20,
    PACK_STRIPS = 8, // strips of one packing piece
};

struct arena {
    struct arena *next;
    uint8_t *bytes;
    size_t size, used;
};

static int arena_new(struct kern *kern, size_t size, struct err *err)
{
    size = (size + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    struct arena *arena = calloc(1, sizeof(*arena));
    if (arena == NULL) return err_sys(err, ENOMEM, "kernel memory");
    /* One huge page more than needed, so that the part in use can start at a huge page. */
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                        0);
    if (mapped == MAP_FAILED) {
        int code = errno;
        free(arena);
        return err_sys(err, code, "%zu MiB of kernel memory", size >> 20);
    }
    (void)madvise(mapped, size, MADV_HUGEPAGE); // without huge pages it is slower, not wrong
    *arena = (struct arena){.next = kern->arenas, .bytes = mapped, .size = size};
    kern->arenas = arena;
    return 0;
}

int machine_memory(struct kern *kern, size_t bytes, void **ret_memory, struct err *err)
{
    if (bytes > SIZE_MAX / 2) return ERR(err, -ENOMEM, "kernel memory of %zu bytes", bytes);
    bytes = (bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
    struct arena *arena = kern->arenas;
    if (arena == NULL || arena->size - arena->used < bytes) {
        int r = arena_new(kern, bytes > ARENA_BYTES ? bytes : ARENA_BYTES, err);
        if (r < 0) return r;
        arena = kern->arenas;
    }
    *ret_memory = arena->bytes + arena->used;
    arena->used += bytes;
    return 0;
}

static void machine_close(struct kern *kern)
{
    if (kern == NULL) return;
    team_free(kern->team);
    while (kern->arenas != NULL) {
        struct arena *arena = kern->arenas;
        kern->arenas = arena->next;
        (void)munmap(arena->bytes, arena->size); // our own mapping: cannot fail
        free(arena);
    }
    free(kern);
}

static int check_conf(const struct kern_conf *conf, struct err *err)
{
    const struct kern_cache *cache = &conf->cache;
    CHECK(conf->rows_max > 0);
    CHECK(conf->head_count_kv > 0 && conf->head_count % conf->head_count_kv == 0);
    CHECK(cache->head_count_kv == conf->head_count_kv && cache->head_dims == conf->head_dims);
    CHECK(conf->rope.dims % 2 == 0 && conf->rope.dims <= conf->head_dims);
    if (cache->kv_type > KERN_KV_Q4)
        return ERR(err, ERR_UNSUPPORTED, "CPU kernels keep keys and values as f16, bf16, q8 or q4 only");
    if (cache->page_tokens == 0 || cache->page_tokens % 16 != 0)
        return ERR(err, ERR_UNSUPPORTED, "CPU kernels need pages of a multiple of 16 tokens, not %u",
                   cache->page_tokens);
    if (conf->head_dims == 0 || conf->head_dims % 16 != 0 || conf->head_dims > HEAD_DIMS_MAX)
        return ERR(err, ERR_UNSUPPORTED,
                   "CPU kernels need heads of a multiple of 16 up to %d dimensions, not %u", HEAD_DIMS_MAX,
                   conf->head_dims);
    if (conf->head_count / conf->head_count_kv > QUERIES_MAX)
        return ERR(err, ERR_UNSUPPORTED, "CPU kernels share a KV head between at most %d heads, not %u",
                   QUERIES_MAX, conf->head_count / conf->head_count_kv);
    return 0;
}

static int machine_open(const struct cpu_level *level, const struct kern_conf *conf, struct kern **ret_kern,
                        struct err *err)
{
    int r = check_conf(conf, err);
    if (r < 0) return r;
    struct kern *kern = calloc(1, sizeof(*kern));
    if (kern == NULL) return err_sys(err, ENOMEM, "kernels");
    kern->level = level;
    kern->conf = *conf;
    const struct team_conf team_conf = {.threads = conf->threads, .pin = conf->pin_threads};
    r = team_new(&team_conf, &kern->team, err);
    if (r >= 0) r = machine_kv_init(kern, err);
    if (r >= 0) r = machine_attend_init(kern, err);
    if (r >= 0) r = machine_mates_init(kern, err);
    if (r < 0) {
        machine_close(kern);
        return r;
    }
    *ret_kern = kern;
    return 0;
}

/* Room for inputs of `block_count` blocks a row. The outgrown room stays until close: weights come in few
 * widths, and untouched pages cost nothing. */
static int input_widen(struct kern *kern, uint32_t block_count, struct err *err)
{
    if (block_count <= kern->input_blocks_max) return 0;
    size_t count = (size_t)kern->conf.rows_max * block_count;
    size_t outlier_count = (size_t)kern->conf.rows_max * cpu_outlier_count(block_count);
    void *blocks, *outliers, *values;
    int r = machine_memory(kern, count * sizeof(struct cpu_block), &blocks, err);
    if (r >= 0) r = machine_memory(kern, outlier_count * sizeof(struct cpu_outlier), &outliers, err);
    if (r >= 0) r = machine_memory(kern, count * BLOCK_COLS * sizeof(float), &values, err);
    if (r < 0) return r;
    kern->input_blocks = blocks;
    kern->input_outliers = outliers;
    kern->input_values = values;
    kern->input_blocks_max = block_count;
    return 0;
}

struct pack_job {
    const struct cpu_level *level;
    const struct kern_matrix *matrix;
    struct cpu_packed *packed;
};

static void pack_piece(void *arg, uint32_t piece)
{
    const struct pack_job *job = arg;
    uint32_t first = piece * PACK_STRIPS, left = job->packed->strip_count - first;
    cpu_pack(job->matrix, job->level, job->packed, first, left < PACK_STRIPS ? left : PACK_STRIPS);
}

static int weight_measure(const struct cpu_level *level, const struct kern_matrix *parts, uint32_t part_count,
                          uint64_t *ret_bytes, struct err *err)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < part_count; i++) {
        struct cpu_packed packed;
        int r = cpu_pack_plan(&parts[i], level, &packed, err);
        if (r < 0) return r;
        bytes += cpu_packed_bytes(&packed);
    }
    *ret_bytes = bytes;
    return 0;
}

/* Room for a packed matrix: in the store where there is one. */
static int packed_memory(struct kern *kern, size_t bytes, void **ret_memory, struct err *err)
{
    const struct kern_store *store = &kern->conf.store;
    if (!store->base) return machine_memory(kern, bytes, ret_memory, err);
    CHECK(bytes % CACHELINE_BYTES == 0);
    CHECK(bytes <= store->bytes - kern->store_used); // weight_measure
    *ret_memory = (uint8_t *)store->base + kern->store_used;
    kern->store_used += bytes;
    return 0;
}

int machine_weight_plan(struct kern *kern, const struct kern_matrix *parts, uint32_t part_count,
                        enum kern_pack pack, struct kern_weight **ret_weight, struct err *err)
{
    CHECK(part_count > 0 && part_count <= PARTS_MAX);
    if (pack == KERN_GATE_UP) CHECK(part_count == 2 && parts[0].rows == parts[1].rows);
    void *memory;
    int r = machine_memory(kern, sizeof(struct kern_weight), &memory, err);
    if (r < 0) return r;
    struct kern_weight *weight = memory;
    *weight = (struct kern_weight){.pack = pack, .part_count = part_count, .cols = parts[0].cols};
    for (uint32_t i = 0; i < part_count; i++) {
        struct cpu_packed *packed = &weight->parts[i];
        CHECK(parts[i].cols == weight->cols);
        r = cpu_pack_plan(&parts[i], kern->level, packed, err);
        if (r < 0) return r;
        bool is_float = packed->form == FORM_F32 || packed->form == FORM_F16 || packed->form == FORM_BF16;
        weight->reads_values |= is_float;
        weight->reads_blocks |= !is_float;
        weight->rows += packed->rows;
        if (pack == KERN_GATE_UP && i > 0) continue; // a group of both at once
        weight->group_count += (packed->rows + GROUP_ROWS - 1) / GROUP_ROWS;
    }
    *ret_weight = weight;
    return 0;
}

static int machine_weight_new(struct kern *kern, const struct kern_matrix *parts, uint32_t part_count,
                              enum kern_pack pack, struct kern_weight **ret_weight, struct err *err)
{
    struct kern_weight *weight;
    int r = machine_weight_plan(kern, parts, part_count, pack, &weight, err);
    if (r < 0) return r;
    for (uint32_t i = 0; i < part_count; i++) {
        struct cpu_packed *packed = &weight->parts[i];
        void *memory;
        r = packed_memory(kern, cpu_packed_bytes(packed), &memory, err);
        if (r >= 0) r = input_widen(kern, packed->block_count, err);
        if (r < 0) return r;
        packed->data = memory;
        kern->weight_bytes += cpu_packed_bytes(packed);
        if (kern->conf.store.filled) continue;
        struct pack_job job = {.level = kern->level, .matrix = &parts[i], .packed = packed};
        team_run(kern->team, pack_piece, &job, (packed->strip_count + PACK_STRIPS - 1) / PACK_STRIPS);
    }
    kern->has_float_weights |= weight->reads_values;
    *ret_weight = weight;
    return 0;
}

static int machine_vector_new(struct kern *kern, const float *values, uint32_t count,
                              struct kern_vector **ret_vector, struct err *err)
{
    void *memory, *copy;
    int r = machine_memory(kern, sizeof(struct kern_vector), &memory, err);
    if (r >= 0) r = machine_memory(kern, count * sizeof(float), &copy, err);
    if (r < 0) return r;
    memcpy(copy, values, count * sizeof(float));
    struct kern_vector *vector = memory;
    *vector = (struct kern_vector){.count = count, .values = copy};
    *ret_vector = vector;
    return 0;
}

static int machine_rows_new(struct kern *kern, uint32_t row_count, uint32_t cols, struct kern_rows **ret_rows,
                            struct err *err)
{
    uint32_t block_count = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    void *memory, *values, *blocks;
    int r = machine_memory(kern, sizeof(struct kern_rows), &memory, err);
    if (r >= 0) r = machine_memory(kern, (size_t)row_count * cols * sizeof(float), &values, err);
    if (r >= 0)
        r = machine_memory(kern, (size_t)row_count * block_count * sizeof(struct cpu_block), &blocks, err);
    if (r < 0) return r;
    struct kern_rows *rows = memory;
    *rows = (struct kern_rows){.row_count = row_count,
                               .cols = cols,
                               .block_count = block_count,
                               .col_count = cols,
                               .whole_blocks = cols % BLOCK_COLS == 0,
                               .values = values,
                               .blocks = blocks,
                               .has_values = true};
    *ret_rows = rows;
    return 0;
}

/* Floats, then blocks. Which of them ops fill depends on shapes and types alone, so all ranks fill the same. */
static int machine_rows_shared(struct kern *kern, uint32_t row_count, uint32_t cols,
                               const struct kern_share *share, struct kern_rows **ret_rows, struct err *err)
{
    const uint32_t block_count = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    size_t value_bytes = (size_t)row_count * cols * sizeof(float), block_bytes = 0;
    value_bytes = (value_bytes + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
    if (!share->values_only) block_bytes = (size_t)row_count * block_count * sizeof(struct cpu_block);
    CHECK(share->col_first <= cols && share->col_count <= cols - share->col_first);
    CHECK((uintptr_t)share->base % CACHELINE_BYTES == 0);
    if (value_bytes + block_bytes > share->bytes)
        return ERR(err, ERR_LIMIT, "shared rows of %zu bytes, have %" PRIu64, value_bytes + block_bytes,
                   share->bytes);
    void *memory;
    int r = machine_memory(kern, sizeof(struct kern_rows), &memory, err);
    if (r < 0) return r;
    struct kern_rows *rows = memory;
    *rows = (struct kern_rows){.row_count = row_count,
                               .cols = cols,
                               .block_count = block_count,
                               .col_first = share->col_first,
                               .col_count = share->col_count,
                               .whole_blocks = !share->values_only && cols % BLOCK_COLS == 0 &&
                                               share->unit % BLOCK_COLS == 0,
                               .values = share->base,
                               .blocks = (void *)((uint8_t *)share->base + value_bytes),
                               .has_values = true};
    *ret_rows = rows;
    return 0;
}

static uint32_t machine_planes(const struct kern_rows *rows, struct kern_plane ret_planes[KERN_PLANES_MAX])
{
    uint32_t count = 0;
    if (rows->has_values)
        ret_planes[count++] = (struct kern_plane){.base = rows->values,
                                                  .row_bytes = rows->cols * sizeof(float),
                                                  .unit_cols = 1,
                                                  .unit_bytes = sizeof(float)};
    if (rows->has_blocks)
        ret_planes[count++] = (struct kern_plane){.base = rows->blocks,
                                                  .row_bytes = rows->block_count * sizeof(struct cpu_block),
                                                  .unit_cols = BLOCK_COLS,
                                                  .unit_bytes = sizeof(struct cpu_block)};
    return count;
}

static int machine_sync(struct kern *kern, struct err *err)
{
    (void)kern; // ops are done when they return
    (void)err;
    return 0;
}

static const float *machine_fetch(struct kern *kern, const struct kern_rows *rows, uint32_t row_count)
{
    (void)kern;
    CHECK(row_count <= rows->row_count);
    if (rows->has_values) return rows->values;
    CHECK(rows->has_blocks && rows->cols % BLOCK_COLS == 0);
    for (size_t b = 0; b < (size_t)row_count * rows->block_count; b++) {
        const struct cpu_block *block = &rows->blocks[b];
        for (uint32_t k = 0; k < BLOCK_COLS; k++)
            rows->values[b * BLOCK_COLS + k] = block->scales.scale * (float)block->codes[k];
    }
    return rows->values;
}

static void machine_parallel(struct kern *kern, void (*fn)(void *arg, uint32_t piece), void *arg,
                             uint32_t piece_count)
{
    team_run(kern->team, fn, arg, piece_count);
}

static uint64_t machine_weight_bytes(const struct kern *kern)
{
    return kern->weight_bytes;
}

#define DEFINE_OPS(level, level_name) \
    static int measure_##level(const struct kern_matrix *parts, uint32_t part_count, uint64_t *ret_bytes, \
                               struct err *err) \
    { \
        return weight_measure(&cpu_level_##level, parts, part_count, ret_bytes, err); \
    } \
    static uint64_t layout_##level(void) \
    { \
        return cpu_pack_layout(&cpu_level_##level); \
    } \
    static int open_##level(const struct kern_conf *conf, struct kern **ret_kern, struct err *err) \
    { \
        return machine_open(&cpu_level_##level, conf, ret_kern, err); \
    } \
    const struct kern_ops kern_##level##_ops = { \
        .name = (level_name), \
        .open = open_##level, \
        .close = machine_close, \
        .weight_measure = measure_##level, \
        .weight_layout = layout_##level, \
        .weight_new = machine_weight_new, \
        .vector_new = machine_vector_new, \
        .rows_new = machine_rows_new, \
        .rows_shared = machine_rows_shared, \
        .planes = machine_planes, \
        .mate_weight = machine_mate_weight, \
        .mate_join = machine_mate_join, \
        .mate_bytes = machine_mate_bytes, \
        .mate_attach = machine_mate_attach, \
        .embed = machine_embed, \
        .norm_project = machine_norm_project, \
        .attend = machine_attend, \
        .project_add = machine_project_add, \
        .norm_gate_up = machine_norm_gate_up, \
        .norm_head = machine_norm_head, \
        .sync = machine_sync, \
        .fetch = machine_fetch, \
        .parallel = machine_parallel, \
        .weight_bytes = machine_weight_bytes, \
    };

CPU_LEVELS(DEFINE_OPS)
