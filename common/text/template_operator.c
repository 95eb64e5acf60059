/* SPDX-License-Identifier: Apache-2.0 */
/* template_operator - arithmetic, comparison operators and slices. Integers have 64 bits: what
 * Python would compute past them is an error here, never a wrong number. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_lex.h"
#include "common/text/template_run.h"
#include "common/text/template_unicode.h"

static int fail_operands(struct tmpl_run *run, int op, struct tmpl_value a, struct tmpl_value b)
{
    if (a.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, a);
    if (b.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, b);
    const char *spelling = tmpl_token_name((enum tmpl_token_kind)op);
    if (op == TOK_ADD && a.kind == VALUE_STRING)
        return tmpl_fail(run, "can only concatenate str (not \"%s\") to str", tmpl_type_name(b));
    return tmpl_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", spelling, tmpl_type_name(a),
                     tmpl_type_name(b));
}

static int fail_overflow(struct tmpl_run *run)
{
    return tmpl_fail(run, "integer result out of range");
}

/* base ** exponent for exponent >= 0, by squaring. */
static int power(struct tmpl_run *run, int64_t base, int64_t exponent, struct tmpl_value *ret_value)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) return fail_overflow(run);
        exponent >>= 1;
        if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return fail_overflow(run);
    }
    *ret_value = value_int(result);
    return 0;
}

static int binary_ints(struct tmpl_run *run, int op, int64_t a, int64_t b, struct tmpl_value *ret_value)
{
    int64_t result = 0;
    bool is_over = false;
    switch (op) {
    case TOK_ADD: is_over = __builtin_add_overflow(a, b, &result); break;
    case TOK_SUB: is_over = __builtin_sub_overflow(a, b, &result); break;
    case TOK_MUL: is_over = __builtin_mul_overflow(a, b, &result); break;
    case TOK_DIV:
        if (b == 0) return tmpl_fail(run, "division by zero");
        *ret_value = value_float((double)a / (double)b);
        return 0;
    case TOK_FLOORDIV:
    case TOK_MOD:
        if (b == 0) return tmpl_fail(run, "integer division or modulo by zero");
        if (b == -1) { // INT64_MIN / -1 traps
            is_over = op == TOK_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &result);
            break;
        }
        result = op == TOK_FLOORDIV ? a / b : a % b;
        if (a % b != 0 && (a < 0) != (b < 0)) result += op == TOK_FLOORDIV ? -1 : b; // towards minus infinity
        break;
    case TOK_POW:
        if (b >= 0) return power(run, a, b, ret_value);
        if (a == 0) return tmpl_fail(run, "0.0 cannot be raised to a negative power");
        *ret_value = value_float(pow((double)a, (double)b));
        return 0;
    default: CHECK(!"not an arithmetic operator");
    }
    if (is_over) return fail_overflow(run);
    *ret_value = value_int(result);
    return 0;
}

static int binary_reals(struct tmpl_run *run, int op, double a, double b, struct tmpl_value *ret_value)
{
    double result = 0;
    switch (op) {
    case TOK_ADD: result = a + b; break;
    case TOK_SUB: result = a - b; break;
    case TOK_MUL: result = a * b; break;
    case TOK_DIV:
    case TOK_FLOORDIV:
    case TOK_MOD:
        if (b == 0) return tmpl_fail(run, "float division by zero");
        if (op == TOK_DIV) result = a / b;
        else {
            double rest = fmod(a, b);
            if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
            if (rest == 0) rest = copysign(0, b);
            result = op == TOK_MOD ? rest : floor((a - rest) / b + 0.5);
        }
        break;
    case TOK_POW:
        if (a < 0 && b != floor(b)) return tmpl_fail(run, "complex numbers are not supported");
        if (a == 0 && b < 0) return tmpl_fail(run, "0.0 cannot be raised to a negative power");
        result = pow(a, b);
        if (isinf(result) && isfinite(a) && isfinite(b)) return tmpl_fail(run, "float result out of range");
        break;
    default: CHECK(!"not an arithmetic operator");
    }
    *ret_value = value_float(result);
    return 0;
}

/* sequence * count */
static int repeat(struct tmpl_run *run, struct tmpl_value sequence, int64_t count,
                  struct tmpl_value *ret_value)
{
    if (sequence.kind == VALUE_STRING) return tmpl_string_repeat(run, sequence.string, count, ret_value);
    size_t n = sequence.list->count, times = count > 0 ? (size_t)count : 0;
    if (n > 0 && times > run->limits.memory_bytes_max / sizeof(struct tmpl_value) / n)
        return tmpl_fail_limit(run, "repeated list needs more than %zu bytes", run->limits.memory_bytes_max);
    if (tmpl_charge(run, n * times / 4) < 0) return run->code;
    struct tmpl_list *list;
    if (tmpl_list_new(run, n * times, &list) < 0) return run->code;
    for (size_t i = 0; i < n * times; i++) list->items[i] = sequence.list->items[i % n];
    *ret_value = (struct tmpl_value){.kind = sequence.kind, .list = list};
    return 0;
}

static bool is_sequence(struct tmpl_value value)
{
    return value.kind == VALUE_STRING || value_is_list(value);
}

int tmpl_binary(struct tmpl_run *run, int op, struct tmpl_value a, struct tmpl_value b,
                struct tmpl_value *ret_value)
{
    int64_t x, y;
    double p, q;
    bool a_int = tmpl_as_int(a, &x), b_int = tmpl_as_int(b, &y);
    if (a_int && b_int) return binary_ints(run, op, x, y, ret_value);
    if (tmpl_as_real(a, &p) && tmpl_as_real(b, &q)) return binary_reals(run, op, p, q, ret_value);
    if (op == TOK_ADD && a.kind == b.kind) {
        if (a.kind == VALUE_STRING) return tmpl_string_concat(run, a, b, ret_value);
        if (value_is_list(a)) return tmpl_list_concat(run, a, b, ret_value);
    }
    if (op == TOK_MUL && is_sequence(a) && b_int) return repeat(run, a, y, ret_value);
    if (op == TOK_MUL && a_int && is_sequence(b)) return repeat(run, b, x, ret_value);
    if (op == TOK_MOD && a.kind == VALUE_STRING) return tmpl_format_percent(run, a.string, b, ret_value);
    return fail_operands(run, op, a, b);
}

int tmpl_negate(struct tmpl_run *run, struct tmpl_value value, struct tmpl_value *ret_value)
{
    int64_t integer;
    if (value.kind == VALUE_FLOAT) {
        *ret_value = value_float(-value.real);
        return 0;
    }
    if (tmpl_as_int(value, &integer)) return binary_ints(run, TOK_SUB, 0, integer, ret_value);
    if (value.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, value);
    return tmpl_fail(run, "bad operand type for unary -: '%s'", tmpl_type_name(value));
}

int tmpl_compare(struct tmpl_run *run, int op, struct tmpl_value a, struct tmpl_value b)
{
    int r, order;
    switch (op) {
    case COMPARE_IN: return tmpl_contains(run, b, a);
    case COMPARE_NOT_IN: r = tmpl_contains(run, b, a); return r < 0 ? r : !r;
    case TOK_EQ: return tmpl_equal(run, a, b);
    case TOK_NE: r = tmpl_equal(run, a, b); return r < 0 ? r : !r;
    default: break;
    }
    r = tmpl_order(run, a, b, tmpl_token_name((enum tmpl_token_kind)op), &order);
    if (r < 0) return r;
    if (order == 2) return 0; // a NaN is in no order
    switch (op) {
    case TOK_LT: return order < 0;
    case TOK_LE: return order <= 0;
    case TOK_GT: return order > 0;
    case TOK_GE: return order >= 0;
    default: CHECK(!"not a comparison");
    }
    return 0;
}

/* --- slices ------------------------------------------------------------------------------------- */

struct slice_range {
    int64_t start, step, count;
};

static int slice_bound(struct tmpl_run *run, struct tmpl_value bound, int64_t fallback, int64_t *ret_bound)
{
    *ret_bound = fallback;
    if (bound.kind == VALUE_NONE || tmpl_as_int(bound, ret_bound)) return 0;
    return tmpl_fail(run, "slice indices must be integers or None");
}

/* Python's rules: negative bounds count from the end, all are clamped. */
static int resolve_slice(struct tmpl_run *run, const struct tmpl_value bounds[3], size_t length,
                         struct slice_range *ret_range)
{
    int64_t n = (int64_t)length, start, stop, step;
    if (slice_bound(run, bounds[2], 1, &step) < 0) return run->code;
    if (step == 0) return tmpl_fail(run, "slice step cannot be zero");
    if (step < -INT64_MAX / 2) step = -INT64_MAX / 2; // more than any length, and can be negated
    if (slice_bound(run, bounds[0], step > 0 ? 0 : n - 1, &start) < 0) return run->code;
    if (slice_bound(run, bounds[1], step > 0 ? n : -1, &stop) < 0) return run->code;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    if (bounds[0].kind != VALUE_NONE) {
        if (start < 0) start = start < -n ? low : start + n;
        if (start > high) start = high;
    }
    if (bounds[1].kind != VALUE_NONE) {
        if (stop < 0) stop = stop < -n ? low : stop + n;
        if (stop > high) stop = high;
    }
    int64_t count = 0;
    if (step > 0 && start < stop) count = (stop - start - 1) / step + 1;
    if (step < 0 && stop < start) count = (start - stop - 1) / -step + 1;
    *ret_range = (struct slice_range){.start = start, .step = step, .count = count};
    return 0;
}

static int slice_list(struct tmpl_run *run, struct tmpl_value object, struct slice_range range,
                      struct tmpl_value *ret_value)
{
    struct tmpl_list *list;
    if (range.step == 1) { // a view of the same items
        list = tmpl_alloc(run, sizeof *list);
        if (!list) return run->code;
        *list = (struct tmpl_list){.items = object.list->items + range.start, .count = (size_t)range.count};
    } else {
        if (tmpl_charge(run, (size_t)range.count / 4) < 0) return run->code;
        if (tmpl_list_new(run, (size_t)range.count, &list) < 0) return run->code;
        for (int64_t i = 0; i < range.count; i++)
            list->items[i] = object.list->items[range.start + i * range.step];
    }
    *ret_value = (struct tmpl_value){.kind = object.kind, .list = list};
    return 0;
}

/* Steps other than 1 walk the characters; each keeps its mark. */
static int slice_chars(struct tmpl_run *run, struct tmpl_string *string, struct slice_range range,
                       struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, run);
    size_t offset = 0, count;
    if (tmpl_string_chars(run, string, &count) < 0) return run->code;
    bool is_ascii = count == string->len;
    size_t each = 1 + (is_ascii ? 0 : (size_t)(range.step < 0 ? -range.step : range.step) / 8);
    if (range.count > 0 && tmpl_string_offset(run, string, (size_t)range.start, &offset) < 0)
        return run->code;
    for (int64_t i = 0; i < range.count && tmpl_charge(run, each) >= 0; i++) {
        if (is_ascii) {
            tmpl_builder_add_range(&builder, string, (size_t)(range.start + i * range.step), 1);
            continue;
        }
        size_t n = tmpl_char_bytes(string->bytes + offset, string->len - offset);
        tmpl_builder_add_range(&builder, string, offset, n);
        for (int64_t k = range.step; k > 0 && offset < string->len; k--)
            offset += tmpl_char_bytes(string->bytes + offset, string->len - offset);
        for (int64_t k = range.step; k < 0 && offset > 0; k++)
            offset -= tmpl_last_char_bytes(string->bytes, offset);
    }
    return tmpl_builder_finish(&builder, ret_value);
}

static int slice_string(struct tmpl_run *run, struct tmpl_string *string, struct slice_range range,
                        struct tmpl_value *ret_value)
{
    if (range.step != 1) return slice_chars(run, string, range, ret_value);
    size_t first = 0, end = 0;
    if (range.count > 0 && (tmpl_string_offset(run, string, (size_t)range.start, &first) < 0 ||
                            tmpl_string_offset(run, string, (size_t)(range.start + range.count), &end) < 0))
        return run->code;
    return tmpl_string_range(run, string, first, end - first, ret_value);
}

int tmpl_slice(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_value bounds[3],
               struct tmpl_value *ret_value)
{
    size_t length;
    struct slice_range range = {0};
    if (object.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, object);
    if (!is_sequence(object) && object.kind != VALUE_RANGE)
        return tmpl_fail(run, "'%s' object cannot be sliced", tmpl_type_name(object));
    if (tmpl_length(run, object, &length) < 0 || resolve_slice(run, bounds, length, &range) < 0)
        return run->code;
    if (object.kind == VALUE_STRING) return slice_string(run, object.string, range, ret_value);
    if (value_is_list(object)) return slice_list(run, object, range, ret_value);
    struct tmpl_range *part = tmpl_alloc(run, sizeof *part);
    if (!part) return run->code;
    *part = (struct tmpl_range){.start = object.range->start + range.start * object.range->step,
                                .step = range.count > 1 ? object.range->step * range.step : 1,
                                .count = range.count};
    part->stop = part->start + part->step * part->count;
    *ret_value = (struct tmpl_value){.kind = VALUE_RANGE, .range = part};
    return 0;
}
