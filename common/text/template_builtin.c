/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/template_builtin.h"

#include <string.h>

#include "common/base/check.h"

enum { PARTS_MAX = 7 };

static const struct tmpl_builtin *const parts[][PARTS_MAX] = {
    [TMPL_FILTERS] = {tmpl_string_filters, tmpl_list_filters, tmpl_sort_filters, tmpl_select_filters,
                      tmpl_number_filters, tmpl_json_filters},
    [TMPL_TESTS] = {tmpl_tests},
    [TMPL_FUNCTIONS] = {tmpl_functions},
    [TMPL_STR_METHODS] = {tmpl_str_methods, tmpl_str_split_methods, tmpl_str_class_methods},
    [TMPL_LIST_METHODS] = {tmpl_list_methods},
    [TMPL_DICT_METHODS] = {tmpl_dict_methods},
    [TMPL_LOOP_METHODS] = {tmpl_loop_methods},
};

const struct tmpl_builtin *tmpl_builtin_find(enum tmpl_table table, const uint8_t *name, size_t len)
{
    for (size_t k = 0; k < PARTS_MAX && parts[table][k]; k++)
        for (const struct tmpl_builtin *row = parts[table][k]; row->name; row++)
            if (strncmp(row->name, (const char *)name, len) == 0 && row->name[len] == 0) return row;
    return NULL;
}

int tmpl_arg_int(struct tmpl_run *run, struct tmpl_value arg, int64_t fallback, const char *what,
                 int64_t *ret_integer)
{
    *ret_integer = fallback;
    if (arg.kind == VALUE_MISSING || tmpl_as_int(arg, ret_integer)) return 0;
    if (arg.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, arg);
    return tmpl_fail(run, "%s() wants an int, got '%s'", what, tmpl_type_name(arg));
}

bool tmpl_arg_flag(struct tmpl_run *run, struct tmpl_value arg)
{
    return tmpl_truth(run, arg) == 1; // MISSING is false
}

int tmpl_arg_string(struct tmpl_run *run, struct tmpl_value arg, const char *what,
                    struct tmpl_string **ret_string)
{
    if (arg.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, arg);
    if (arg.kind != VALUE_STRING)
        return tmpl_fail(run, "%s() wants a str, got '%s'", what, tmpl_type_name(arg));
    *ret_string = arg.string;
    return 0;
}
