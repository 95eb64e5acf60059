/* SPDX-License-Identifier: Apache-2.0 */
/* template_value - truth, equality, order and membership, as Python has them. */
#include "common/text/template_value.h"

#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_run.h"

const char *tmpl_type_name(struct tmpl_value value)
{
    static const char *const view_names[] = {"dict_keys", "dict_values", "dict_items"};
    switch (value.kind) {
    case VALUE_MISSING: break;
    case VALUE_UNDEFINED: return "Undefined";
    case VALUE_NONE: return "NoneType";
    case VALUE_BOOL: return "bool";
    case VALUE_INT: return "int";
    case VALUE_FLOAT: return "float";
    case VALUE_STRING: return "str";
    case VALUE_LIST: return "list";
    case VALUE_TUPLE: return "tuple";
    case VALUE_DICT: return "dict";
    case VALUE_RANGE: return "range";
    case VALUE_VIEW: return view_names[value.view->kind];
    case VALUE_GENERATOR: return "generator";
    case VALUE_NAMESPACE: return "Namespace";
    case VALUE_FUNCTION: return "function";
    case VALUE_METHOD: return "builtin_function_or_method";
    case VALUE_MACRO: return "Macro";
    case VALUE_LOOP: return "LoopContext";
    }
    CHECK(!"a value of no kind");
    return "";
}

const char *tmpl_object_name(struct tmpl_value value)
{
    switch (value.kind) {
    case VALUE_NONE: return "None";
    case VALUE_BOOL: return "bool object";
    case VALUE_INT: return "int object";
    case VALUE_FLOAT: return "float object";
    case VALUE_STRING: return "str object";
    case VALUE_LIST: return "list object";
    case VALUE_TUPLE: return "tuple object";
    case VALUE_DICT: return "dict object";
    case VALUE_RANGE: return "range object";
    case VALUE_NAMESPACE: return "namespace object";
    case VALUE_MACRO: return "macro object";
    case VALUE_LOOP: return "loop object";
    default: return tmpl_type_name(value);
    }
}

bool tmpl_is_callable(struct tmpl_value value)
{
    return value.kind == VALUE_FUNCTION || value.kind == VALUE_METHOD || value.kind == VALUE_MACRO ||
           value.kind == VALUE_LOOP || value.kind == VALUE_UNDEFINED;
}

bool tmpl_as_int(struct tmpl_value value, int64_t *ret_integer)
{
    if (value.kind != VALUE_INT && value.kind != VALUE_BOOL) return false;
    *ret_integer = value.kind == VALUE_INT ? value.integer : value.boolean;
    return true;
}

bool tmpl_as_real(struct tmpl_value value, double *ret_real)
{
    int64_t integer;
    if (value.kind == VALUE_FLOAT) *ret_real = value.real;
    else if (tmpl_as_int(value, &integer)) *ret_real = (double)integer;
    else return false;
    return true;
}

int tmpl_truth(struct tmpl_run *run, struct tmpl_value value)
{
    switch (value.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE: return 0;
    case VALUE_BOOL: return value.boolean;
    case VALUE_INT: return value.integer != 0;
    case VALUE_FLOAT: return value.real != 0;
    case VALUE_STRING: return value.string->len > 0;
    case VALUE_LIST:
    case VALUE_TUPLE: return value.list->count > 0;
    case VALUE_DICT: return value.dict->count > 0;
    case VALUE_RANGE: return value.range->count > 0;
    case VALUE_VIEW: return value.view->dict->count > 0;
    default: break;
    }
    (void)run; // cannot fail today; the signature keeps callers honest
    return 1;
}

/* Exact comparison of an int with a float: no rounding of either. 2 for a NaN. */
static int order_int_real(int64_t integer, double real)
{
    if (isnan(real)) return 2;
    if (real >= 0x1p63) return -1;
    if (real < -0x1p63) return 1;
    double floor_real = floor(real);
    int64_t whole = (int64_t)floor_real;
    if (integer != whole) return integer < whole ? -1 : 1;
    return real > floor_real ? -1 : 0;
}

/* Order of two numbers; 2 when a NaN is in it. */
static int order_numbers(struct tmpl_value a, struct tmpl_value b)
{
    int64_t x, y;
    bool a_int = tmpl_as_int(a, &x), b_int = tmpl_as_int(b, &y);
    if (a_int && b_int) return (x > y) - (x < y);
    if (a_int) return order_int_real(x, b.real);
    if (b_int) {
        int order = order_int_real(y, a.real);
        return order == 2 ? 2 : -order;
    }
    if (isnan(a.real) || isnan(b.real)) return 2;
    return (a.real > b.real) - (a.real < b.real);
}

static bool is_number(struct tmpl_value value)
{
    return value.kind == VALUE_BOOL || value.kind == VALUE_INT || value.kind == VALUE_FLOAT;
}

static int equal_lists(struct tmpl_run *run, const struct tmpl_list *a, const struct tmpl_list *b)
{
    if (a->count != b->count) return 0;
    for (size_t i = 0; i < a->count; i++) {
        int r = tmpl_equal(run, a->items[i], b->items[i]);
        if (r != 1) return r;
    }
    return 1;
}

static int equal_dicts(struct tmpl_run *run, const struct tmpl_dict *a, const struct tmpl_dict *b)
{
    if (a->count != b->count) return 0;
    for (size_t i = 0; i < a->count; i++) {
        struct tmpl_value other;
        int r = tmpl_dict_get(run, b, a->entries[i].key, &other);
        if (r == 1) r = tmpl_equal(run, a->entries[i].value, other);
        if (r != 1) return r;
    }
    return 1;
}

int tmpl_identical(struct tmpl_value a, struct tmpl_value b)
{
    if (a.kind != b.kind) return 0;
    switch (a.kind) {
    case VALUE_NONE: return 1;
    case VALUE_BOOL: return a.boolean == b.boolean;
    case VALUE_INT: return a.integer == b.integer;
    case VALUE_FLOAT: return a.real == b.real;
    default: return a.list == b.list; // one pointer stands for all of them
    }
}

static int equal_inner(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b)
{
    if (is_number(a) && is_number(b)) return order_numbers(a, b) == 0;
    if (a.kind != b.kind) return 0;
    switch (a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE: return 1;
    case VALUE_STRING:
        if (a.string->len != b.string->len) return 0;
        if (tmpl_charge(run, a.string->len / TMPL_BYTES_PER_STEP) < 0) return run->code;
        return tmpl_string_equal(a.string, b.string);
    case VALUE_LIST:
    case VALUE_TUPLE: return equal_lists(run, a.list, b.list);
    case VALUE_DICT: return equal_dicts(run, a.dict, b.dict);
    case VALUE_RANGE:
        return a.range->count == b.range->count &&
               (a.range->count == 0 || (a.range->start == b.range->start &&
                                        (a.range->count == 1 || a.range->step == b.range->step)));
    case VALUE_FUNCTION: return a.function == b.function;
    default: return tmpl_identical(a, b);
    }
}

int tmpl_equal(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b)
{
    if (tmpl_enter(run) < 0) return run->code;
    int r = equal_inner(run, a, b);
    run->depth--;
    return r;
}

static int fail_order(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b, const char *op)
{
    if (a.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, a);
    if (b.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, b);
    return tmpl_fail(run, "'%s' not supported between instances of '%s' and '%s'", op, tmpl_type_name(a),
                     tmpl_type_name(b));
}

static int order_lists(struct tmpl_run *run, const struct tmpl_list *a, const struct tmpl_list *b,
                       const char *op, int *ret_order)
{
    size_t n = a->count < b->count ? a->count : b->count;
    for (size_t i = 0; i < n; i++) {
        int r = tmpl_equal(run, a->items[i], b->items[i]);
        if (r < 0) return r;
        if (r == 0) return tmpl_order(run, a->items[i], b->items[i], op, ret_order);
    }
    *ret_order = (a->count > b->count) - (a->count < b->count);
    return 0;
}

int tmpl_order(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b, const char *op, int *ret_order)
{
    if (is_number(a) && is_number(b)) {
        *ret_order = order_numbers(a, b);
        return tmpl_charge(run, 1);
    }
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        size_t n = a.string->len < b.string->len ? a.string->len : b.string->len;
        int order = tmpl_string_order(a.string, b.string);
        *ret_order = (order > 0) - (order < 0);
        return tmpl_charge(run, 1 + n / TMPL_BYTES_PER_STEP);
    }
    if (!value_is_list(a) || a.kind != b.kind) return fail_order(run, a, b, op);
    if (tmpl_enter(run) < 0) return run->code;
    int r = order_lists(run, a.list, b.list, op, ret_order);
    run->depth--;
    return r;
}

static int range_contains(const struct tmpl_range *range, struct tmpl_value item)
{
    int64_t integer;
    double real;
    if (!tmpl_as_int(item, &integer)) {
        if (!tmpl_as_real(item, &real) || real != floor(real) || fabs(real) > 0x1p53) return 0;
        integer = (int64_t)real;
    }
    if (range->count == 0) return 0;
    int64_t last = range->start + range->step * (range->count - 1);
    int64_t low = range->step > 0 ? range->start : last, high = range->step > 0 ? last : range->start;
    return integer >= low && integer <= high && (integer - range->start) % range->step == 0;
}

int tmpl_contains(struct tmpl_run *run, struct tmpl_value container, struct tmpl_value item)
{
    struct tmpl_value ignored;
    size_t offset;
    switch (container.kind) {
    case VALUE_STRING:
        if (item.kind != VALUE_STRING)
            return tmpl_fail(run, "'in <string>' requires string as left operand, not %s",
                             tmpl_type_name(item));
        return tmpl_string_find(run, container.string, item.string, 0, &offset);
    case VALUE_DICT: return tmpl_dict_get(run, container.dict, item, &ignored);
    case VALUE_RANGE: return range_contains(container.range, item);
    case VALUE_VIEW:
        if (container.view->kind == VIEW_KEYS)
            return tmpl_dict_get(run, container.view->dict, item, &ignored);
        break;
    default: break;
    }
    if (!tmpl_is_iterable(container))
        return tmpl_fail(run, "argument of type '%s' is not iterable", tmpl_type_name(container));
    struct tmpl_iter iter;
    struct tmpl_value each;
    if (tmpl_iter_init(run, container, &iter) < 0) return run->code;
    int r;
    while ((r = tmpl_iter_next(run, &iter, &each)) == 1) {
        r = tmpl_equal(run, each, item);
        if (r != 0) return r;
    }
    return r;
}

int tmpl_length(struct tmpl_run *run, struct tmpl_value value, size_t *ret_count)
{
    switch (value.kind) {
    case VALUE_UNDEFINED: *ret_count = 0; return 0;
    case VALUE_STRING: return tmpl_string_chars(run, value.string, ret_count);
    case VALUE_LIST:
    case VALUE_TUPLE: *ret_count = value.list->count; return 0;
    case VALUE_DICT: *ret_count = value.dict->count; return 0;
    case VALUE_RANGE: *ret_count = (size_t)value.range->count; return 0;
    case VALUE_VIEW: *ret_count = value.view->dict->count; return 0;
    default: return tmpl_fail(run, "object of type '%s' has no len()", tmpl_type_name(value));
    }
}
