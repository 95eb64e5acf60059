/* SPDX-License-Identifier: Apache-2.0 */
/* template_method_coll - methods of lists, tuples, dicts and loops. Those that would change a list
 * or a dict are refused where attributes are looked up. */
#include "common/text/template_builtin.h"

/* --- lists and tuples --------------------------------------------------------------------------- */

BUILTIN(list_count)
{
    (void)args;
    int64_t count = 0;
    for (size_t i = 0; i < self.list->count; i++) {
        int r = tmpl_equal(run, self.list->items[i], argv[0]);
        if (r < 0) return r;
        count += r;
    }
    *ret_value = value_int(count);
    return 0;
}

BUILTIN(list_index)
{
    (void)args;
    for (size_t i = 0; i < self.list->count; i++) {
        int r = tmpl_equal(run, self.list->items[i], argv[0]);
        if (r < 0) return r;
        if (r == 0) continue;
        *ret_value = value_int((int64_t)i);
        return 0;
    }
    return tmpl_fail(run, "index(): the value is not in the %s", tmpl_type_name(self));
}

BUILTIN(same_value) // copy() of what cannot change
{
    IGNORE_ARGS;
    if (self.kind == VALUE_TUPLE) return tmpl_fail(run, "'tuple object' has no attribute 'copy'");
    *ret_value = self;
    return 0;
}

const struct tmpl_builtin tmpl_list_methods[] = {
    {"count", list_count, "value", 1},
    {"index", list_index, "value", 1},
    {"copy", same_value, "", 0},
    {NULL, NULL, NULL, 0},
};

/* --- dicts -------------------------------------------------------------------------------------- */

static int make_view(struct tmpl_run *run, struct tmpl_value self, enum tmpl_view_kind kind,
                     struct tmpl_value *ret_value)
{
    struct tmpl_view *view = tmpl_alloc(run, sizeof *view);
    if (!view) return run->code;
    *view = (struct tmpl_view){.dict = self.dict, .kind = kind};
    *ret_value = (struct tmpl_value){.kind = VALUE_VIEW, .view = view};
    return 0;
}

BUILTIN(dict_items)
{
    IGNORE_ARGS;
    return make_view(run, self, VIEW_ITEMS, ret_value);
}

BUILTIN(dict_keys)
{
    IGNORE_ARGS;
    return make_view(run, self, VIEW_KEYS, ret_value);
}

BUILTIN(dict_values)
{
    IGNORE_ARGS;
    return make_view(run, self, VIEW_VALUES, ret_value);
}

BUILTIN(dict_get)
{
    (void)args;
    int r = tmpl_dict_get(run, self.dict, argv[0], ret_value);
    if (r == 0) *ret_value = argv[1].kind == VALUE_MISSING ? value_none() : argv[1];
    return r < 0 ? r : 0;
}

const struct tmpl_builtin tmpl_dict_methods[] = {
    {"items", dict_items, "", 0},        {"keys", dict_keys, "", 0},  {"values", dict_values, "", 0},
    {"get", dict_get, "key default", 1}, {"copy", same_value, "", 0}, {NULL, NULL, NULL, 0},
};

/* --- loops -------------------------------------------------------------------------------------- */

BUILTIN(loop_cycle)
{
    (void)argv;
    if (args->count == 0) return tmpl_fail(run, "no items for cycling given");
    *ret_value = args->positional[tmpl_loop_index(self.loop) % args->count];
    return 0;
}

BUILTIN(loop_changed)
{
    (void)argv;
    struct tmpl_list *list;
    if (tmpl_list_new(run, args->count, &list) < 0) return run->code;
    for (size_t i = 0; i < args->count; i++) list->items[i] = args->positional[i];
    struct tmpl_value now = {.kind = VALUE_TUPLE, .list = list};
    *ret_value = value_bool(tmpl_loop_changed(run, self.loop, now));
    return run->code;
}

const struct tmpl_builtin tmpl_loop_methods[] = {
    {"cycle", loop_cycle, TMPL_ANY_ARGS, 0},
    {"changed", loop_changed, TMPL_ANY_ARGS, 0},
    {NULL, NULL, NULL, 0},
};
