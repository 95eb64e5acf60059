/* SPDX-License-Identifier: Apache-2.0 */
/* template_filter_list - filters over sequences and mappings that neither order nor select. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_lex.h"
#include "common/text/template_unicode.h"

BUILTIN(filter_default)
{
    (void)args;
    bool is_absent = self.kind == VALUE_UNDEFINED ||
                     (tmpl_arg_flag(run, argv[1]) && tmpl_truth(run, self) == 0);
    if (!is_absent) *ret_value = self;
    else if (argv[0].kind != VALUE_MISSING) *ret_value = argv[0];
    else return tmpl_string_borrow(run, "", 0, false, ret_value);
    return 0;
}

BUILTIN(filter_length)
{
    IGNORE_ARGS;
    size_t count;
    if (tmpl_length(run, self, &count) < 0) return run->code;
    *ret_value = value_int((int64_t)count);
    return 0;
}

BUILTIN(filter_first)
{
    IGNORE_ARGS;
    struct tmpl_iter iter;
    if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
    int r = tmpl_iter_next(run, &iter, ret_value);
    if (r == 0) r = tmpl_undefined_hint(run, "no first item, sequence was empty", ret_value);
    return r < 0 ? r : 0;
}

static int fail_reversed(struct tmpl_run *run, struct tmpl_value value)
{
    if (value.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, value);
    return tmpl_fail(run, "'%s' object is not reversible", tmpl_type_name(value));
}

BUILTIN(filter_last)
{
    IGNORE_ARGS;
    struct tmpl_list *list;
    if (self.kind == VALUE_STRING) { // without making a list of its characters
        size_t n = self.string->len ? tmpl_last_char_bytes(self.string->bytes, self.string->len) : 0;
        if (n > 0) return tmpl_string_range(run, self.string, self.string->len - n, n, ret_value);
        return tmpl_undefined_hint(run, "no last item, sequence was empty", ret_value);
    }
    if (self.kind == VALUE_GENERATOR || !tmpl_is_iterable(self)) return fail_reversed(run, self);
    if (tmpl_list_from(run, self, &list) < 0) return run->code;
    if (list->count == 0) return tmpl_undefined_hint(run, "no last item, sequence was empty", ret_value);
    *ret_value = list->items[list->count - 1];
    return 0;
}

BUILTIN(filter_join)
{
    (void)args;
    struct tmpl_value separator = argv[0], items = self;
    if (separator.kind == VALUE_MISSING && tmpl_string_borrow(run, "", 0, false, &separator) < 0)
        return run->code;
    if (tmpl_str(run, separator, &separator) < 0) return run->code;
    if (argv[1].kind != VALUE_MISSING && argv[1].kind != VALUE_NONE) {
        struct tmpl_list_builder builder = {0};
        struct tmpl_iter iter;
        struct tmpl_value item;
        if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
        while (tmpl_iter_next(run, &iter, &item) == 1) {
            if (tmpl_get_path(run, item, argv[1], value_none(), &item) < 0) return run->code;
            tmpl_list_push(run, &builder, item);
        }
        if (run->code < 0 || tmpl_generator_finish(run, &builder, &items) < 0) return run->code;
    }
    return tmpl_text_join(run, separator.string, items, true, ret_value);
}

BUILTIN(filter_list)
{
    IGNORE_ARGS;
    struct tmpl_list *list;
    if (tmpl_list_from(run, self, &list) < 0) return run->code;
    *ret_value = (struct tmpl_value){.kind = VALUE_LIST, .list = list};
    return 0;
}

BUILTIN(filter_reverse)
{
    IGNORE_ARGS;
    struct tmpl_list *list;
    struct tmpl_list_builder builder = {0};
    if (self.kind == VALUE_STRING) {
        const struct tmpl_value bounds[3] = {value_none(), value_none(), value_int(-1)};
        return tmpl_slice(run, self, bounds, ret_value);
    }
    if (tmpl_list_from(run, self, &list) < 0 || tmpl_charge(run, list->count / 4) < 0) return run->code;
    for (size_t i = list->count; i-- > 0;) tmpl_list_push(run, &builder, list->items[i]);
    return tmpl_generator_finish(run, &builder, ret_value);
}

BUILTIN(filter_items)
{
    IGNORE_ARGS;
    struct tmpl_list_builder builder = {0};
    if (self.kind == VALUE_DICT) {
        for (size_t i = 0; i < self.dict->count && tmpl_charge(run, 1) >= 0; i++) {
            struct tmpl_value pair;
            if (tmpl_tuple_of_two(run, self.dict->entries[i].key, self.dict->entries[i].value, &pair) < 0)
                break;
            tmpl_list_push(run, &builder, pair);
        }
    } else if (self.kind != VALUE_UNDEFINED) {
        return tmpl_fail(run, "can only get item pairs from a mapping");
    }
    return run->code < 0 ? run->code : tmpl_generator_finish(run, &builder, ret_value);
}

/* Lists of `count` items each; the last is filled up with argv[1] when that was given. */
BUILTIN(filter_batch)
{
    (void)args;
    struct tmpl_list *list;
    struct tmpl_list_builder builder = {0};
    int64_t count;
    bool is_filled = argv[1].kind != VALUE_MISSING && argv[1].kind != VALUE_NONE;
    if (tmpl_list_from(run, self, &list) < 0 || tmpl_arg_int(run, argv[0], 0, "batch", &count) < 0)
        return run->code;
    if (count <= 0) return tmpl_fail(run, "batch() wants a positive count");
    for (size_t first = 0; first < list->count;) {
        size_t rest = list->count - first, used = rest < (uint64_t)count ? rest : (size_t)count;
        size_t size = is_filled ? (size_t)count : used;
        struct tmpl_list *part;
        if (tmpl_charge(run, 1 + size / 4) < 0 || tmpl_list_new(run, size, &part) < 0) return run->code;
        for (size_t i = 0; i < size; i++) part->items[i] = i < used ? list->items[first + i] : argv[1];
        tmpl_list_push(run, &builder, (struct tmpl_value){.kind = VALUE_LIST, .list = part});
        first += used;
    }
    return run->code < 0 ? run->code : tmpl_generator_finish(run, &builder, ret_value);
}

/* `count` lists of nearly equal size, the longer ones first. */
BUILTIN(filter_slice)
{
    (void)args;
    struct tmpl_list *list;
    struct tmpl_list_builder builder = {0};
    int64_t count;
    bool is_filled = argv[1].kind != VALUE_MISSING && argv[1].kind != VALUE_NONE;
    if (tmpl_list_from(run, self, &list) < 0 || tmpl_arg_int(run, argv[0], 0, "slice", &count) < 0)
        return run->code;
    if (count <= 0) return tmpl_fail(run, "slice() wants a positive count");
    size_t first = 0, each = list->count / (uint64_t)count, longer = list->count % (uint64_t)count;
    for (size_t k = 0; k < (uint64_t)count; k++) {
        size_t used = each + (k < longer), size = used + (is_filled && k >= longer);
        struct tmpl_list *part;
        if (tmpl_charge(run, 1 + size / 4) < 0 || tmpl_list_new(run, size, &part) < 0) return run->code;
        for (size_t i = 0; i < size; i++) part->items[i] = i < used ? list->items[first + i] : argv[1];
        tmpl_list_push(run, &builder, (struct tmpl_value){.kind = VALUE_LIST, .list = part});
        first += used;
    }
    return run->code < 0 ? run->code : tmpl_generator_finish(run, &builder, ret_value);
}

BUILTIN(filter_sum)
{
    (void)args;
    struct tmpl_iter iter;
    struct tmpl_value item, total = argv[1].kind == VALUE_MISSING ? value_int(0) : argv[1];
    bool has_path = argv[0].kind != VALUE_MISSING && argv[0].kind != VALUE_NONE;
    int r;
    if (total.kind == VALUE_STRING) return tmpl_fail(run, "sum() can't sum strings");
    if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        if (has_path && tmpl_get_path(run, item, argv[0], value_none(), &item) < 0) return run->code;
        if (tmpl_binary(run, TOK_ADD, total, item, &total) < 0) return run->code;
    }
    *ret_value = total;
    return r;
}

const struct tmpl_builtin tmpl_list_filters[] = {
    {"default", filter_default, "default_value boolean", 0},
    {"d", filter_default, "default_value boolean", 0},
    {"length", filter_length, "", 0},
    {"count", filter_length, "", 0},
    {"first", filter_first, "", 0},
    {"last", filter_last, "", 0},
    {"join", filter_join, "d attribute", 0},
    {"list", filter_list, "", 0},
    {"reverse", filter_reverse, "", 0},
    {"items", filter_items, "", 0},
    {"batch", filter_batch, "linecount fill_with", 1},
    {"slice", filter_slice, "slices fill_with", 1},
    {"sum", filter_sum, "attribute start", 0},
    {NULL, NULL, NULL, 0},
};
