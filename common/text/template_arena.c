/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/template_arena.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/sanitizer.h"

/* Under AddressSanitizer every allocation is its own block, so that an overrun is seen. */
#if SANITIZES_ADDRESS
#define ARENA_BIG_BYTES ((size_t)16)
#else
#define ARENA_BIG_BYTES ((size_t)4096) // from here on a block of its own, which realloc can grow
#endif

#define ARENA_CHUNK_BYTES ((size_t)32 << 10)
#define ARENA_ALIGN ((size_t)16)

struct tmpl_chunk {
    struct tmpl_chunk *next, *prev; // prev is NULL in the newest
    size_t bytes;                   // header included
    size_t pad;                     // keeps the payload 16-byte aligned
};
_Static_assert(sizeof(struct tmpl_chunk) % 16 == 0, "payload alignment");

void tmpl_arena_init(struct tmpl_arena *arena, size_t bytes_max)
{
    *arena = (struct tmpl_arena){.bytes_max = bytes_max};
}

void tmpl_arena_done(struct tmpl_arena *arena)
{
    struct tmpl_chunk *chunk = arena->chunks;
    while (chunk) {
        struct tmpl_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    tmpl_arena_init(arena, arena->bytes_max);
}

static void *chunk_new(struct tmpl_arena *arena, size_t payload_bytes)
{
    size_t bytes = sizeof(struct tmpl_chunk) + payload_bytes;
    if (bytes > arena->bytes_max - arena->used_bytes) return NULL;
    struct tmpl_chunk *chunk = malloc(bytes);
    if (!chunk) return NULL;
    *chunk = (struct tmpl_chunk){.next = arena->chunks, .bytes = bytes};
    if (chunk->next) chunk->next->prev = chunk;
    arena->chunks = chunk;
    arena->used_bytes += bytes;
    return chunk + 1;
}

void *tmpl_arena_alloc(struct tmpl_arena *arena, size_t bytes)
{
    if (bytes > arena->bytes_max) return NULL; // before rounding, which could wrap
    size_t rounded = (bytes + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
    if (rounded == 0) rounded = ARENA_ALIGN;
    if (rounded >= ARENA_BIG_BYTES) return chunk_new(arena, rounded);
    if (rounded > arena->left) {
        uint8_t *payload = chunk_new(arena, ARENA_CHUNK_BYTES);
        if (!payload) return NULL;
        arena->at = payload;
        arena->left = ARENA_CHUNK_BYTES;
    }
    void *result = arena->at;
    arena->at += rounded;
    arena->left -= rounded;
    return result;
}

void *tmpl_arena_grow(struct tmpl_arena *arena, void *old, size_t old_bytes, size_t new_bytes)
{
    CHECK(new_bytes >= old_bytes);
    if (new_bytes > arena->bytes_max) return NULL;
    size_t old_rounded = (old_bytes + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
    if (!old || old_rounded < ARENA_BIG_BYTES) {
        void *fresh = tmpl_arena_alloc(arena, new_bytes);
        if (fresh && old_bytes) memcpy(fresh, old, old_bytes);
        return fresh;
    }
    struct tmpl_chunk *chunk = (struct tmpl_chunk *)old - 1;
    size_t bytes = sizeof *chunk + ((new_bytes + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1));
    size_t more = bytes - chunk->bytes;
    if (more > arena->bytes_max - arena->used_bytes) return NULL;
    struct tmpl_chunk *moved = realloc(chunk, bytes);
    if (!moved) return NULL;
    moved->bytes = bytes;
    arena->used_bytes += more;
    if (moved->next) moved->next->prev = moved;
    if (moved->prev) moved->prev->next = moved;
    else arena->chunks = moved;
    return moved + 1;
}
