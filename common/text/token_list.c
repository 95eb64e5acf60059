/* SPDX-License-Identifier: Apache-2.0 */
/* token_list - the growable array of ids that tokenizer.h declares. */
#include <errno.h>
#include <stdlib.h>

#include "common/text/tokenizer.h"

int token_list_push(struct token_list *list, uint32_t id)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        uint32_t *ids = realloc(list->ids, cap * sizeof *ids);
        if (!ids) return -ENOMEM;
        list->ids = ids;
        list->cap = cap;
    }
    list->ids[list->count++] = id;
    return 0;
}

void token_list_done(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}
