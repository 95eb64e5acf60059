/* SPDX-License-Identifier: Apache-2.0 */
/* template_filter_sort - filters that compare items: sort, dictsort, unique, min, max. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_builtin.h"

struct keyed {
    struct tmpl_value key, item;
};

/* Text compares without case unless asked otherwise. */
static int fold_case(struct tmpl_run *run, bool is_case_sensitive, struct tmpl_value *key)
{
    if (is_case_sensitive || key->kind != VALUE_STRING) return 0;
    return tmpl_text_case(run, key->string, CASE_LOWER, key);
}

/* The value of an `attribute` argument: one path, or several with commas between, as a list. */
static int sort_key(struct tmpl_run *run, struct tmpl_value item, struct tmpl_value attribute,
                    bool is_case_sensitive, struct tmpl_value *ret_key)
{
    if (attribute.kind == VALUE_MISSING || attribute.kind == VALUE_NONE) {
        *ret_key = item;
        return fold_case(run, is_case_sensitive, ret_key);
    }
    const struct tmpl_string *text = attribute.kind == VALUE_STRING ? attribute.string : NULL;
    if (!text || text->len == 0 || !memchr(text->bytes, ',', text->len)) {
        if (tmpl_get_path(run, item, attribute, value_none(), ret_key) < 0) return run->code;
        return fold_case(run, is_case_sensitive, ret_key);
    }
    struct tmpl_list_builder builder = {0};
    struct tmpl_list *list;
    for (size_t first = 0; first <= text->len;) {
        const uint8_t *comma = first < text->len ? memchr(text->bytes + first, ',', text->len - first) : NULL;
        size_t end = comma ? (size_t)(comma - text->bytes) : text->len;
        struct tmpl_value path, key;
        if (tmpl_string_range(run, text, first, end - first, &path) < 0 ||
            tmpl_get_path(run, item, path, value_none(), &key) < 0 ||
            fold_case(run, is_case_sensitive, &key) < 0 || tmpl_list_push(run, &builder, key) < 0)
            return run->code;
        first = end + 1;
    }
    if (tmpl_list_finish(run, &builder, &list) < 0) return run->code;
    *ret_key = (struct tmpl_value){.kind = VALUE_LIST, .list = list};
    return 0;
}

/* jinja2 sorts by lists of one key, and Python compares lists by their first items that are not equal: so
 * equal keys are in order even where nothing orders them, as dicts. */
static int order_keys(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b, int *ret_order)
{
    bool has_order = a.kind == VALUE_STRING || a.kind == VALUE_INT || a.kind == VALUE_FLOAT;
    int r = has_order && a.kind == b.kind ? 0 : tmpl_equal(run, a, b);
    if (r < 0) return r;
    *ret_order = 0;
    return r == 1 ? 0 : tmpl_order(run, a, b, "<", ret_order);
}

/* Stable merge sort, bottom up; `spare` is as long as `items`. Python's reverse keeps the order of
 * equal items too, so it turns the comparison round and not the result. */
static int merge_sort(struct tmpl_run *run, struct keyed *items, struct keyed *spare, size_t count,
                      bool is_reversed)
{
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count;
            size_t high = middle + width < count ? middle + width : count;
            size_t a = low, b = middle;
            for (size_t out = low; out < high; out++) {
                bool takes_b = a >= middle;
                if (!takes_b && b < high) {
                    int order;
                    if (order_keys(run, items[b].key, items[a].key, &order) < 0) return run->code;
                    takes_b = is_reversed ? order == 1 : order == -1;
                }
                spare[out] = takes_b ? items[b++] : items[a++];
            }
        }
        memcpy(items, spare, count * sizeof *items);
    }
    return 0;
}

static int sort_items(struct tmpl_run *run, struct keyed *items, size_t count, bool is_reversed,
                      struct tmpl_value *ret_value)
{
    struct keyed *spare = tmpl_alloc_array(run, count, sizeof *spare);
    struct tmpl_list *list;
    if (!spare || merge_sort(run, items, spare, count, is_reversed) < 0 ||
        tmpl_list_new(run, count, &list) < 0)
        return run->code;
    for (size_t i = 0; i < count; i++) list->items[i] = items[i].item;
    *ret_value = (struct tmpl_value){.kind = VALUE_LIST, .list = list};
    return 0;
}

BUILTIN(filter_sort) // reverse case_sensitive attribute
{
    (void)args;
    struct tmpl_list *list;
    if (tmpl_list_from(run, self, &list) < 0) return run->code;
    struct keyed *items = tmpl_alloc_array(run, list->count, sizeof *items);
    if (!items) return run->code;
    for (size_t i = 0; i < list->count; i++) {
        items[i].item = list->items[i];
        if (tmpl_charge(run, 1) < 0 ||
            sort_key(run, list->items[i], argv[2], tmpl_arg_flag(run, argv[1]), &items[i].key) < 0)
            return run->code;
    }
    return sort_items(run, items, list->count, tmpl_arg_flag(run, argv[0]), ret_value);
}

BUILTIN(filter_dictsort) // case_sensitive by reverse
{
    (void)args;
    bool by_value = argv[1].kind == VALUE_STRING && tmpl_string_is(argv[1].string, "value");
    if (!by_value && argv[1].kind != VALUE_MISSING &&
        !(argv[1].kind == VALUE_STRING && tmpl_string_is(argv[1].string, "key")))
        return tmpl_fail(run, "dictsort() sorts by 'key' or 'value' only");
    if (self.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, self);
    if (self.kind != VALUE_DICT)
        return tmpl_fail(run, "'%s' object has no attribute 'items'", tmpl_type_name(self));
    const struct tmpl_dict *dict = self.dict;
    struct keyed *items = tmpl_alloc_array(run, dict->count, sizeof *items);
    if (!items) return run->code;
    for (size_t i = 0; i < dict->count; i++) {
        items[i].key = by_value ? dict->entries[i].value : dict->entries[i].key;
        if (tmpl_charge(run, 1) < 0 || fold_case(run, tmpl_arg_flag(run, argv[0]), &items[i].key) < 0 ||
            tmpl_tuple_of_two(run, dict->entries[i].key, dict->entries[i].value, &items[i].item) < 0)
            return run->code;
    }
    return sort_items(run, items, dict->count, tmpl_arg_flag(run, argv[2]), ret_value);
}

BUILTIN(filter_unique) // case_sensitive attribute
{
    (void)args;
    struct tmpl_iter iter;
    struct tmpl_value item, key, ignored;
    struct tmpl_dict *seen;
    struct tmpl_list_builder builder = {0};
    int r;
    if (tmpl_iter_init(run, self, &iter) < 0 || tmpl_dict_new(run, 0, &seen) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        if (sort_key(run, item, argv[1], tmpl_arg_flag(run, argv[0]), &key) < 0) return run->code;
        r = tmpl_dict_get(run, seen, key, &ignored);
        if (r < 0) return r;
        if (r == 1) continue;
        if (tmpl_dict_set(run, seen, key, value_none()) < 0 || tmpl_list_push(run, &builder, item) < 0)
            return run->code;
    }
    return r < 0 ? r : tmpl_generator_finish(run, &builder, ret_value);
}

/* The first of the smallest (sign -1) or largest (sign 1) items. */
static int find_extreme(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv, int sign,
                        struct tmpl_value *ret_value)
{
    struct tmpl_iter iter;
    struct tmpl_value item, key, best_key = {0}, best = {0};
    int r, order;
    if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        if (sort_key(run, item, argv[1], tmpl_arg_flag(run, argv[0]), &key) < 0) return run->code;
        if (best.kind != VALUE_MISSING) {
            if (tmpl_order(run, key, best_key, sign < 0 ? "<" : ">", &order) < 0) return run->code;
            if (order == 2 || order * sign <= 0) continue;
        }
        best = item;
        best_key = key;
    }
    if (r < 0) return r;
    if (best.kind == VALUE_MISSING)
        return tmpl_undefined_hint(run, "no aggregated item, sequence was empty", ret_value);
    *ret_value = best;
    return 0;
}

BUILTIN(filter_min)
{
    (void)args;
    return find_extreme(run, self, argv, -1, ret_value);
}

BUILTIN(filter_max)
{
    (void)args;
    return find_extreme(run, self, argv, 1, ret_value);
}

const struct tmpl_builtin tmpl_sort_filters[] = {
    {"sort", filter_sort, "reverse case_sensitive attribute", 0},
    {"dictsort", filter_dictsort, "case_sensitive by reverse", 0},
    {"unique", filter_unique, "case_sensitive attribute", 0},
    {"min", filter_min, "case_sensitive attribute", 0},
    {"max", filter_max, "case_sensitive attribute", 0},
    {NULL, NULL, NULL, 0},
};
