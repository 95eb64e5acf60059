/* SPDX-License-Identifier: Apache-2.0 */
/* survey - works on a copy of the descriptors, every number of which is a stranger's. Depths are found by walking up to
 * the next page whose depth is known; a walk is never longer than there are pages, whatever the parents say. */
#include "common/shm/survey.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

#define NO_ROOT UINT32_MAX

struct page {
    uint32_t root_idx; // NO_ROOT: none, or not known yet
    uint32_t depth;    // 1: a root; 0: not known yet
    bool has_child;
};

static bool is_sealed(const struct survey *survey, const struct page_desc *descs, uint32_t page_idx)
{
    return page_idx < survey->geometry.page_count && descs[page_idx].state == PAGE_SEALED;
}

/* The page's root and depth, and those of all above it. */
static void place(const struct survey *survey, const struct page_desc *descs, struct page *pages,
                  uint32_t page_idx)
{
    uint32_t at = page_idx, steps = 0, root_idx = NO_ROOT, depth = 0;
    for (; pages[at].depth == 0; at = descs[at].parent) {
        if (descs[at].parent == PAGE_NONE) {
            pages[at].root_idx = at;
            pages[at].depth = 1;
            break;
        }
        if (++steps > survey->geometry.page_count || !is_sealed(survey, descs, descs[at].parent)) return;
    }
    root_idx = pages[at].root_idx;
    depth = pages[at].depth + steps;
    for (at = page_idx; pages[at].depth == 0; at = descs[at].parent) {
        pages[at].root_idx = root_idx;
        pages[at].depth = depth--;
    }
}

static void tree_add(struct survey_tree *tree, const struct page_desc *desc, const struct page *page)
{
    tree->page_count++;
    tree->leaf_count += !page->has_child;
    tree->held_count += desc->refcount > 0;
    if (page->depth > tree->depth) tree->depth = page->depth;
    if (desc->last_use_ns > tree->last_use_ns) tree->last_use_ns = desc->last_use_ns;
}

static int tree_order(const void *a, const void *b)
{
    const struct survey_tree *x = a, *y = b;
    if (x->last_use_ns != y->last_use_ns) return x->last_use_ns > y->last_use_ns ? -1 : 1;
    return x->root_idx < y->root_idx ? -1 : x->root_idx > y->root_idx;
}

/* trees: (page_count), by root page; closed up at the end. */
static void grow(struct survey *survey, const struct page_desc *descs, struct page *pages)
{
    uint32_t page_count = survey->geometry.page_count;
    for (uint32_t i = 0; i < page_count; i++) {
        survey->free_count += descs[i].state == PAGE_FREE;
        survey->filling_count += descs[i].state == PAGE_FILLING;
        if (!is_sealed(survey, descs, i)) continue;
        survey->sealed_count++;
        survey->held_count += descs[i].refcount > 0;
        if (is_sealed(survey, descs, descs[i].parent)) pages[descs[i].parent].has_child = true;
        place(survey, descs, pages, i);
    }
    for (uint32_t i = 0; i < page_count; i++) {
        if (!is_sealed(survey, descs, i)) continue;
        if (pages[i].depth == 0) survey->lost_count++;
        else tree_add(&survey->trees[pages[i].root_idx], &descs[i], &pages[i]);
    }
    for (uint32_t i = 0; i < page_count; i++) {
        if (survey->trees[i].page_count == 0) continue;
        survey->trees[i].root_idx = i;
        survey->trees[i].key = descs[i].key;
        survey->trees[survey->tree_count++] = survey->trees[i];
    }
    qsort(survey->trees, survey->tree_count, sizeof *survey->trees, tree_order);
}

int survey_read(const char *instance, struct survey *ret_survey, struct err *err)
{
    struct segment meta = {.base = NULL};
    struct pool_header header;
    int r = segment_open_read(instance, "meta", &meta, err);
    if (r == 0) r = pool_header_copy(meta.base, meta.bytes, &header, err);
    if (r < 0) {
        segment_close(&meta);
        return r;
    }
    uint32_t page_count = header.geometry.page_count;
    struct survey survey = {.geometry = header.geometry,
                            .daemon_pid = header.daemon_pid,
                            .owner_alive = owner_is_alive(header.daemon_pid, header.daemon_start),
                            .trees = calloc(page_count, sizeof *survey.trees)};
    struct page_desc *descs = malloc(page_count * sizeof *descs);
    struct page *pages = calloc(page_count, sizeof *pages);
    if (survey.trees && descs && pages) {
        memcpy(descs, (const uint8_t *)meta.base + header.desc_offset, page_count * sizeof *descs);
        grow(&survey, descs, pages);
        *ret_survey = survey;
    } else {
        free(survey.trees);
        r = ERR(err, -ENOMEM, "no memory to survey %u pages", page_count);
    }
    free(descs);
    free(pages);
    segment_close(&meta);
    return r;
}

void survey_done(struct survey *survey)
{
    free(survey->trees);
    *survey = (struct survey){.trees = NULL};
}
