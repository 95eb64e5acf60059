/* SPDX-License-Identifier: Apache-2.0 */
/* template_filter_select - filters that apply a filter or a test, named by an argument, to each item:
 * map, select, reject, selectattr, rejectattr. Their result is consumed once, as in Python. */
#include "common/text/template_builtin.h"

enum { MESSAGE_NAME_BYTES = 64 };

static int find_named(struct tmpl_run *run, enum tmpl_table table, struct tmpl_value name,
                      const struct tmpl_builtin **ret_builtin)
{
    const char *what = table == TMPL_TESTS ? "test" : "filter";
    struct tmpl_string *text;
    if (tmpl_arg_string(run, name, what, &text) < 0) return run->code;
    *ret_builtin = tmpl_builtin_find(table, text->bytes, text->len);
    if (*ret_builtin) return 0;
    if (tmpl_string_has_user(text)) return tmpl_fail(run, "no %s of that name", what);
    return tmpl_fail(run, "no %s named '%.*s'", what,
                     text->len < MESSAGE_NAME_BYTES ? (int)text->len : MESSAGE_NAME_BYTES,
                     (const char *)text->bytes);
}

/* The arguments behind the first `skipped` positional ones. */
static struct tmpl_args args_behind(const struct tmpl_args *args, size_t skipped)
{
    struct tmpl_args rest = *args;
    if (skipped > 0) rest.positional += skipped; // not on NULL
    rest.count -= skipped;
    return rest;
}

static int map_attribute(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_args *args,
                         struct tmpl_value *ret_value)
{
    struct tmpl_value path = {0}, fallback = {0}, item;
    struct tmpl_list_builder builder = {0};
    struct tmpl_iter iter;
    int r;
    for (size_t i = 0; i < args->keyword_count; i++) {
        if (tmpl_string_is(args->keywords[i].name, "attribute")) path = args->keywords[i].value;
        else if (tmpl_string_is(args->keywords[i].name, "default")) fallback = args->keywords[i].value;
        else return tmpl_fail(run, "map() got an unexpected keyword argument");
    }
    if (path.kind == VALUE_MISSING) return tmpl_fail(run, "map() requires a filter argument");
    if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        if (tmpl_get_path(run, item, path, fallback, &item) < 0) return run->code;
        if (tmpl_list_push(run, &builder, item) < 0) return run->code;
    }
    return r < 0 ? r : tmpl_generator_finish(run, &builder, ret_value);
}

BUILTIN(filter_map)
{
    (void)argv;
    const struct tmpl_builtin *filter;
    struct tmpl_list_builder builder = {0};
    struct tmpl_iter iter;
    struct tmpl_value item;
    int r;
    if (tmpl_truth(run, self) == 0) return tmpl_generator_finish(run, &builder, ret_value);
    if (args->count == 0) return map_attribute(run, self, args, ret_value);
    struct tmpl_args rest = args_behind(args, 1);
    if (find_named(run, TMPL_FILTERS, args->positional[0], &filter) < 0 ||
        tmpl_iter_init(run, self, &iter) < 0)
        return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        if (tmpl_enter(run) < 0) return run->code; // map('map', ...) nests
        r = tmpl_builtin_call(run, filter, item, &rest, &item);
        run->depth--;
        if (r < 0 || tmpl_list_push(run, &builder, item) < 0) return run->code;
    }
    return r < 0 ? r : tmpl_generator_finish(run, &builder, ret_value);
}

/* Items for which the test (their truth when none is named) says `keeps`. */
static int select_items(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_args *args,
                        bool by_attribute, bool keeps, struct tmpl_value *ret_value)
{
    const struct tmpl_builtin *test = NULL;
    struct tmpl_list_builder builder = {0};
    struct tmpl_iter iter;
    struct tmpl_value item, tested;
    int r;
    if (tmpl_truth(run, self) == 0) return tmpl_generator_finish(run, &builder, ret_value);
    if (by_attribute && args->count == 0) return tmpl_fail(run, "missing parameter for attribute name");
    struct tmpl_args rest = args_behind(args, by_attribute);
    if (rest.count > 0) {
        if (find_named(run, TMPL_TESTS, rest.positional[0], &test) < 0) return run->code;
        rest = args_behind(&rest, 1);
    }
    if (tmpl_iter_init(run, self, &iter) < 0) return run->code;
    while ((r = tmpl_iter_next(run, &iter, &item)) == 1) {
        tested = item;
        if (by_attribute && tmpl_get_path(run, item, args->positional[0], value_none(), &tested) < 0)
            return run->code;
        if (test && tmpl_builtin_call(run, test, tested, &rest, &tested) < 0) return run->code;
        if ((tmpl_truth(run, tested) == 1) == keeps && tmpl_list_push(run, &builder, item) < 0)
            return run->code;
    }
    return r < 0 ? r : tmpl_generator_finish(run, &builder, ret_value);
}

BUILTIN(filter_select)
{
    (void)argv;
    return select_items(run, self, args, false, true, ret_value);
}

BUILTIN(filter_reject)
{
    (void)argv;
    return select_items(run, self, args, false, false, ret_value);
}

BUILTIN(filter_selectattr)
{
    (void)argv;
    return select_items(run, self, args, true, true, ret_value);
}

BUILTIN(filter_rejectattr)
{
    (void)argv;
    return select_items(run, self, args, true, false, ret_value);
}

const struct tmpl_builtin tmpl_select_filters[] = {
    {"map", filter_map, TMPL_ANY_ARGS, 0},
    {"select", filter_select, TMPL_ANY_ARGS, 0},
    {"reject", filter_reject, TMPL_ANY_ARGS, 0},
    {"selectattr", filter_selectattr, TMPL_ANY_ARGS, 0},
    {"rejectattr", filter_rejectattr, TMPL_ANY_ARGS, 0},
    {NULL, NULL, NULL, 0},
};
