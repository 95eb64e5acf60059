/* SPDX-License-Identifier: Apache-2.0 */
/* replay_bound - the clairvoyant order of replay.h: a model of its own, that shares no code with the index. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bench/replay.h"

enum { NONE = UINT32_MAX };

struct node { // of a block id
    uint32_t parent, children;
    uint32_t next;  // request that wants it next; NONE: no other does
    uint32_t place; // in the heap, or NONE
    bool cached, held;
};

struct bound {
    struct node *nodes; // (id_count)
    uint32_t *heap;     // leaves nobody holds, the one wanted last on top
    uint32_t count, used;
};

static void heap_put(struct bound *bound, uint32_t place, uint32_t id)
{
    bound->heap[place] = id;
    bound->nodes[id].place = place;
}

static bool is_later(const struct bound *bound, uint32_t a, uint32_t b)
{
    return bound->nodes[a].next > bound->nodes[b].next;
}

static void heap_sift(struct bound *bound, uint32_t place)
{
    uint32_t id = bound->heap[place];
    for (; place > 0 && is_later(bound, id, bound->heap[(place - 1) / 2]); place = (place - 1) / 2)
        heap_put(bound, place, bound->heap[(place - 1) / 2]);
    for (uint32_t child; (child = 2 * place + 1) < bound->count; place = child) {
        if (child + 1 < bound->count && is_later(bound, bound->heap[child + 1], bound->heap[child])) child++;
        if (!is_later(bound, bound->heap[child], id)) break;
        heap_put(bound, place, bound->heap[child]);
    }
    heap_put(bound, place, id);
}

static void node_update(struct bound *bound, uint32_t id)
{
    struct node *node = &bound->nodes[id];
    bool is_leaf = node->cached && !node->held && node->children == 0;
    if (is_leaf == (node->place != NONE)) return;
    if (is_leaf) {
        bound->heap[bound->count++] = id;
        heap_sift(bound, bound->count - 1);
        return;
    }
    uint32_t place = node->place, last = bound->heap[--bound->count];
    node->place = NONE;
    if (place == bound->count) return;
    bound->heap[place] = last;
    heap_sift(bound, place);
}

static void node_evict(struct bound *bound, uint32_t id)
{
    struct node *node = &bound->nodes[id];
    node->cached = false;
    bound->used--;
    node_update(bound, id);
    if (node->parent == NONE) return;
    bound->nodes[node->parent].children--;
    node_update(bound, node->parent);
}

/* -> hits. next: (block_count) of the request. */
static uint32_t request_run(struct bound *bound, const uint32_t *blocks, const uint32_t *next, uint32_t count,
                            uint32_t page_count)
{
    uint32_t hits = 0, kept;
    while (hits < count && bound->nodes[blocks[hits]].cached) hits++;
    for (uint32_t i = 0; i < hits; i++) {
        bound->nodes[blocks[i]].held = true;
        node_update(bound, blocks[i]);
    }
    for (kept = hits; kept < count && next[kept] != NONE; kept++) {
        struct node *node = &bound->nodes[blocks[kept]];
        if (bound->used == page_count) {
            if (bound->count == 0 || bound->nodes[bound->heap[0]].next < next[kept]) break;
            node_evict(bound, bound->heap[0]);
        }
        node->cached = node->held = true;
        node->children = 0;
        node->parent = kept > 0 ? blocks[kept - 1] : NONE;
        if (kept > 0) bound->nodes[blocks[kept - 1]].children++;
        bound->used++;
    }
    for (uint32_t i = 0; i < kept; i++) {
        bound->nodes[blocks[i]].held = false;
        bound->nodes[blocks[i]].next = next[i];
        node_update(bound, blocks[i]);
    }
    return hits;
}

int replay_bound(const struct trace *trace, uint32_t page_count, uint64_t *ret_hits)
{
    struct bound bound = {.nodes = calloc(trace->id_count + 1, sizeof *bound.nodes),
                          .heap = calloc(trace->id_count + 1, sizeof *bound.heap)};
    uint32_t *next = calloc(trace->block_count + 1, sizeof *next);
    int r = bound.nodes && bound.heap && next ? 0 : -ENOMEM;
    if (r < 0) goto out;
    for (uint32_t id = 0; id < trace->id_count; id++) bound.nodes[id].place = bound.nodes[id].next = NONE;
    for (uint32_t i = trace->request_count; i-- > 0;) {
        const struct trace_request *request = &trace->requests[i];
        for (uint32_t b = request->block_first; b < request->block_first + request->block_count; b++) {
            next[b] = bound.nodes[trace->blocks[b]].next;
            bound.nodes[trace->blocks[b]].next = i;
        }
    }
    *ret_hits = 0;
    for (uint32_t i = 0; i < trace->request_count; i++) {
        const struct trace_request *request = &trace->requests[i];
        *ret_hits += request_run(&bound, trace->blocks + request->block_first, next + request->block_first,
                                 request->block_count, page_count);
    }
out:
    free(bound.nodes);
    free(bound.heap);
    free(next);
    return r;
}
