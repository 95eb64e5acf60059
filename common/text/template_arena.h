/* SPDX-License-Identifier: Apache-2.0 */
/* template_arena - bump allocation with a bound on the bytes, for one compiled template or for one
 * rendering. Nothing is freed alone; tmpl_arena_done frees all. Every allocation is accounted before
 * it is made, so a template cannot make the process allocate past the bound. Names internal to the
 * template engine carry the prefix tmpl_. */
#ifndef KVASIR_TEXT_TEMPLATE_ARENA_H
#define KVASIR_TEXT_TEMPLATE_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct tmpl_chunk; // header of one malloc'ed block

struct tmpl_arena {
    struct tmpl_chunk *chunks; // owned, newest first
    uint8_t *at;               // next free byte of the current small chunk
    size_t left;               // bytes after `at`
    size_t used_bytes;         // accounted, headers included; <= bytes_max
    size_t bytes_max;
};

void tmpl_arena_init(struct tmpl_arena *arena, size_t bytes_max);
void tmpl_arena_done(struct tmpl_arena *arena);

/* 16-byte aligned, not zeroed. NULL past bytes_max or when malloc fails. */
void *tmpl_arena_alloc(struct tmpl_arena *arena, size_t bytes);

/* Like realloc for a pointer that tmpl_arena_alloc or _grow returned for old_bytes; old may be NULL.
 * The old pointer is dead afterwards. NULL leaves the old block as it was. */
void *tmpl_arena_grow(struct tmpl_arena *arena, void *old, size_t old_bytes, size_t new_bytes);

#endif
