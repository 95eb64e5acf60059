/* SPDX-License-Identifier: Apache-2.0 */
/* template_list - lists, tuples, ranges, and iteration over everything that can be iterated. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_run.h"
#include "common/text/template_unicode.h"

enum { LIST_CAP_MIN = 8 };

int tmpl_list_new(struct tmpl_run *run, size_t count, struct tmpl_list **ret_list)
{
    struct tmpl_list *list = tmpl_alloc(run, sizeof *list);
    struct tmpl_value *items = tmpl_alloc_array(run, count, sizeof *items);
    if (!list || !items) return run->code;
    *list = (struct tmpl_list){.items = items, .count = count};
    *ret_list = list;
    return 0;
}

int tmpl_tuple_of_two(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                      struct tmpl_value *ret_value)
{
    struct tmpl_list *list = NULL;
    if (tmpl_list_new(run, 2, &list) < 0) return run->code;
    list->items[0] = a;
    list->items[1] = b;
    *ret_value = (struct tmpl_value){.kind = VALUE_TUPLE, .list = list};
    return 0;
}

/* Like tmpl_string_concat: extends a's storage when nothing else was appended to it yet. */
int tmpl_list_concat(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                     struct tmpl_value *ret_value)
{
    CHECK(value_is_list(a) && a.kind == b.kind);
    const struct tmpl_list *left = a.list, *right = b.list;
    size_t total = left->count + right->count;
    struct tmpl_list_backing *backing = left->backing;
    if (tmpl_charge(run, right->count / 4) < 0) return run->code;
    if (!backing || backing->count != left->count || backing->cap - backing->count < right->count) {
        if (tmpl_charge(run, left->count / 4) < 0) return run->code;
        backing = tmpl_alloc(run, sizeof *backing);
        if (!backing) return run->code;
        *backing = (struct tmpl_list_backing){.cap = left->backing ? 2 * total : total + LIST_CAP_MIN};
        backing->items = tmpl_alloc_array(run, backing->cap, sizeof *backing->items);
        if (!backing->items) return run->code;
        if (left->count) memcpy(backing->items, left->items, left->count * sizeof *backing->items);
        backing->count = left->count;
    }
    if (right->count)
        memcpy(backing->items + backing->count, right->items, right->count * sizeof *backing->items);
    backing->count = total;
    struct tmpl_list *list = tmpl_alloc(run, sizeof *list);
    if (!list) return run->code;
    *list = (struct tmpl_list){.items = backing->items, .count = total, .backing = backing};
    *ret_value = (struct tmpl_value){.kind = a.kind, .list = list};
    return 0;
}

int tmpl_list_push(struct tmpl_run *run, struct tmpl_list_builder *builder, struct tmpl_value item)
{
    if (run->code < 0) return run->code;
    if (builder->count == builder->cap) {
        size_t cap = builder->cap ? 2 * builder->cap : LIST_CAP_MIN;
        struct tmpl_value *items = tmpl_arena_grow(&run->arena, builder->items, builder->cap * sizeof *items,
                                                   cap * sizeof *items);
        if (!items)
            return tmpl_fail_limit(run, "more than %zu bytes of memory", run->limits.memory_bytes_max);
        builder->items = items;
        builder->cap = cap;
    }
    builder->items[builder->count++] = item;
    return 0;
}

/* Items of an empty list: no pointer of ours is NULL, so that arithmetic on it is defined. */
static struct tmpl_value *items_of(const struct tmpl_list_builder *builder)
{
    static struct tmpl_value none[1]; // never written
    return builder->items ? builder->items : none;
}

int tmpl_list_finish(struct tmpl_run *run, struct tmpl_list_builder *builder, struct tmpl_list **ret_list)
{
    struct tmpl_list *list = tmpl_alloc(run, sizeof *list);
    if (!list) return run->code;
    *list = (struct tmpl_list){.items = items_of(builder), .count = builder->count};
    *ret_list = list;
    return 0;
}

int tmpl_generator_finish(struct tmpl_run *run, struct tmpl_list_builder *builder,
                          struct tmpl_value *ret_value)
{
    struct tmpl_generator *generator = tmpl_alloc(run, sizeof *generator);
    if (!generator) return run->code;
    *generator = (struct tmpl_generator){.list = {.items = items_of(builder), .count = builder->count}};
    *ret_value = (struct tmpl_value){.kind = VALUE_GENERATOR, .generator = generator};
    return 0;
}

int tmpl_list_from(struct tmpl_run *run, struct tmpl_value iterable, struct tmpl_list **ret_list)
{
    if (value_is_list(iterable)) {
        *ret_list = iterable.list; // immutable, so it can be shared
        return 0;
    }
    struct tmpl_list_builder builder = {0};
    struct tmpl_iter iter = {0};
    struct tmpl_value item;
    if (tmpl_iter_init(run, iterable, &iter) < 0) return run->code;
    while (tmpl_iter_next(run, &iter, &item) == 1) tmpl_list_push(run, &builder, item);
    return run->code < 0 ? run->code : tmpl_list_finish(run, &builder, ret_list);
}

struct tmpl_value tmpl_range_item(const struct tmpl_range *range, int64_t idx)
{
    CHECK(idx >= 0 && idx < range->count);
    return value_int(range->start + range->step * idx);
}

bool tmpl_is_iterable(struct tmpl_value value)
{
    switch (value.kind) {
    case VALUE_UNDEFINED: // iterates as empty
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_RANGE:
    case VALUE_VIEW:
    case VALUE_GENERATOR: return true;
    default: return false;
    }
}

int tmpl_iter_init(struct tmpl_run *run, struct tmpl_value iterable, struct tmpl_iter *ret_iter)
{
    if (iterable.kind == VALUE_UNDEFINED && iterable.undefined->is_security)
        return tmpl_fail_undefined(run, iterable);
    if (!tmpl_is_iterable(iterable))
        return tmpl_fail(run, "'%s' object is not iterable", tmpl_type_name(iterable));
    *ret_iter = (struct tmpl_iter){.source = iterable};
    return 0;
}

static int next_char(struct tmpl_run *run, struct tmpl_iter *iter, struct tmpl_value *ret_item)
{
    const struct tmpl_string *string = iter->source.string;
    if (iter->next >= string->len) return 0;
    size_t n = tmpl_char_bytes(string->bytes + iter->next, string->len - iter->next);
    int r = tmpl_string_range(run, string, iter->next, n, ret_item);
    iter->next += n;
    return r < 0 ? r : 1;
}

static int next_of_dict(struct tmpl_run *run, struct tmpl_iter *iter, const struct tmpl_dict *dict,
                        enum tmpl_view_kind kind, struct tmpl_value *ret_item)
{
    if (iter->next >= dict->count) return 0;
    const struct tmpl_dict_entry *entry = &dict->entries[iter->next++];
    if (kind == VIEW_ITEMS) {
        int r = tmpl_tuple_of_two(run, entry->key, entry->value, ret_item);
        return r < 0 ? r : 1;
    }
    *ret_item = kind == VIEW_KEYS ? entry->key : entry->value;
    return 1;
}

int tmpl_iter_next(struct tmpl_run *run, struct tmpl_iter *iter, struct tmpl_value *ret_item)
{
    if (tmpl_charge(run, 1) < 0) return run->code;
    struct tmpl_value source = iter->source;
    switch (source.kind) {
    case VALUE_UNDEFINED: return 0;
    case VALUE_STRING: return next_char(run, iter, ret_item);
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (iter->next >= source.list->count) return 0;
        *ret_item = source.list->items[iter->next++];
        return 1;
    case VALUE_DICT: return next_of_dict(run, iter, source.dict, VIEW_KEYS, ret_item);
    case VALUE_VIEW: return next_of_dict(run, iter, source.view->dict, source.view->kind, ret_item);
    case VALUE_RANGE:
        if (iter->next >= (size_t)source.range->count) return 0;
        *ret_item = tmpl_range_item(source.range, (int64_t)iter->next++);
        return 1;
    case VALUE_GENERATOR:
        if (source.generator->next >= source.generator->list.count) return 0;
        *ret_item = source.generator->list.items[source.generator->next++];
        return 1;
    default: CHECK(!"iterator over what cannot be iterated");
    }
    return 0;
}
