/* SPDX-License-Identifier: Apache-2.0 */
/* template_test - the tests of `is`. */
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_lex.h"

#define KIND_TEST(function_name, condition) \
    BUILTIN(function_name) \
    { \
        (void)run, (void)self; \
        IGNORE_ARGS; \
        *ret_value = value_bool(condition); \
        return 0; \
    }

KIND_TEST(test_defined, self.kind != VALUE_UNDEFINED)
KIND_TEST(test_undefined, self.kind == VALUE_UNDEFINED)
KIND_TEST(test_none, self.kind == VALUE_NONE)
KIND_TEST(test_boolean, self.kind == VALUE_BOOL)
KIND_TEST(test_true, self.kind == VALUE_BOOL && self.boolean)
KIND_TEST(test_false, self.kind == VALUE_BOOL && !self.boolean)
KIND_TEST(test_integer, self.kind == VALUE_INT)
KIND_TEST(test_float, self.kind == VALUE_FLOAT)
KIND_TEST(test_number, self.kind == VALUE_INT || self.kind == VALUE_FLOAT || self.kind == VALUE_BOOL)
KIND_TEST(test_string, self.kind == VALUE_STRING)
KIND_TEST(test_mapping, self.kind == VALUE_DICT)
KIND_TEST(test_iterable, tmpl_is_iterable(self) || self.kind == VALUE_LOOP)
KIND_TEST(test_callable, tmpl_is_callable(self))
KIND_TEST(test_escaped, false) // nothing is: there is no automatic escaping
/* What has a length and items. An undefined value has both in jinja2. */
KIND_TEST(test_sequence, self.kind == VALUE_STRING || value_is_list(self) || self.kind == VALUE_DICT ||
                             self.kind == VALUE_RANGE || self.kind == VALUE_UNDEFINED)

static int remainder_is(struct tmpl_run *run, struct tmpl_value self, struct tmpl_value divisor, int64_t rest,
                        struct tmpl_value *ret_value)
{
    if (tmpl_binary(run, TOK_MOD, self, divisor, ret_value) < 0) return run->code;
    int r = tmpl_equal(run, *ret_value, value_int(rest));
    *ret_value = value_bool(r == 1);
    return r < 0 ? r : 0;
}

BUILTIN(test_odd)
{
    IGNORE_ARGS;
    return remainder_is(run, self, value_int(2), 1, ret_value);
}

BUILTIN(test_even)
{
    IGNORE_ARGS;
    return remainder_is(run, self, value_int(2), 0, ret_value);
}

BUILTIN(test_divisibleby)
{
    (void)args;
    return remainder_is(run, self, argv[0], 0, ret_value);
}

static int is_case(struct tmpl_run *run, struct tmpl_value self, bool is_upper, struct tmpl_value *ret_value)
{
    struct tmpl_value text;
    if (tmpl_str(run, self, &text) < 0 || tmpl_charge(run, text.string->len) < 0) return run->code;
    *ret_value = value_bool(tmpl_text_is_case(text.string, is_upper));
    return 0;
}

BUILTIN(test_lower)
{
    IGNORE_ARGS;
    return is_case(run, self, false, ret_value);
}

BUILTIN(test_upper)
{
    IGNORE_ARGS;
    return is_case(run, self, true, ret_value);
}

BUILTIN(test_sameas)
{
    (void)run, (void)args;
    *ret_value = value_bool(tmpl_identical(self, argv[0]) == 1);
    return 0;
}

static int is_known(enum tmpl_table table, struct tmpl_value self, struct tmpl_value *ret_value)
{
    *ret_value = value_bool(self.kind == VALUE_STRING &&
                            tmpl_builtin_find(table, self.string->bytes, self.string->len));
    return 0;
}

BUILTIN(test_filter)
{
    (void)run;
    IGNORE_ARGS;
    return is_known(TMPL_FILTERS, self, ret_value);
}

BUILTIN(test_test)
{
    (void)run;
    IGNORE_ARGS;
    return is_known(TMPL_TESTS, self, ret_value);
}

#define COMPARE_TEST(function_name, op) \
    BUILTIN(function_name) \
    { \
        (void)args; \
        int r = tmpl_compare(run, op, self, argv[0]); \
        *ret_value = value_bool(r == 1); \
        return r < 0 ? r : 0; \
    }

COMPARE_TEST(test_in, COMPARE_IN)
COMPARE_TEST(test_eq, TOK_EQ)
COMPARE_TEST(test_ne, TOK_NE)
COMPARE_TEST(test_lt, TOK_LT)
COMPARE_TEST(test_le, TOK_LE)
COMPARE_TEST(test_gt, TOK_GT)
COMPARE_TEST(test_ge, TOK_GE)

const struct tmpl_builtin tmpl_tests[] = {
    {"defined", test_defined, "", 0},    {"undefined", test_undefined, "", 0},
    {"none", test_none, "", 0},          {"boolean", test_boolean, "", 0},
    {"true", test_true, "", 0},          {"false", test_false, "", 0},
    {"integer", test_integer, "", 0},    {"float", test_float, "", 0},
    {"number", test_number, "", 0},      {"string", test_string, "", 0},
    {"mapping", test_mapping, "", 0},    {"iterable", test_iterable, "", 0},
    {"sequence", test_sequence, "", 0},  {"callable", test_callable, "", 0},
    {"escaped", test_escaped, "", 0},    {"odd", test_odd, "", 0},
    {"even", test_even, "", 0},          {"divisibleby", test_divisibleby, "num", 1},
    {"lower", test_lower, "", 0},        {"upper", test_upper, "", 0},
    {"sameas", test_sameas, "other", 1}, {"filter", test_filter, "", 0},
    {"test", test_test, "", 0},          {"in", test_in, "seq", 1},
    {"eq", test_eq, "other", 1},         {"equalto", test_eq, "other", 1},
    {"==", test_eq, "other", 1},         {"ne", test_ne, "other", 1},
    {"!=", test_ne, "other", 1},         {"lt", test_lt, "other", 1},
    {"lessthan", test_lt, "other", 1},   {"<", test_lt, "other", 1},
    {"le", test_le, "other", 1},         {"<=", test_le, "other", 1},
    {"gt", test_gt, "other", 1},         {"greaterthan", test_gt, "other", 1},
    {">", test_gt, "other", 1},          {"ge", test_ge, "other", 1},
    {">=", test_ge, "other", 1},         {NULL, NULL, NULL, 0},
};
