/* SPDX-License-Identifier: Apache-2.0 */
/* template_filter_number - int, float, abs, round. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/text/template_builtin.h"

/* Truncates; false when it does not fit. */
static bool real_to_int(double real, int64_t *ret_integer)
{
    if (!(real > -0x1p63 && real < 0x1p63)) return false; // also a NaN
    *ret_integer = (int64_t)real;
    return true;
}

BUILTIN(filter_int) // default base
{
    (void)args;
    int64_t integer, base;
    double real;
    if (self.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, self);
    if (tmpl_arg_int(run, argv[1], 10, "int", &base) < 0) return run->code;
    if (base != 0 && (base < 2 || base > 36))
        return tmpl_fail(run, "int() base must be >= 2 and <= 36, or 0");
    bool is_known = tmpl_as_int(self, &integer) ||
                    (self.kind == VALUE_FLOAT && real_to_int(self.real, &integer));
    if (self.kind == VALUE_STRING)
        is_known = tmpl_text_to_int(self.string, (int)base, &integer) ||
                   (tmpl_text_to_real(self.string, &real) && real_to_int(real, &integer));
    if (is_known) *ret_value = value_int(integer);
    else *ret_value = argv[0].kind == VALUE_MISSING ? value_int(0) : argv[0];
    return 0;
}

BUILTIN(filter_float) // default
{
    (void)args;
    double real;
    if (self.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, self);
    if (tmpl_as_real(self, &real) || (self.kind == VALUE_STRING && tmpl_text_to_real(self.string, &real)))
        *ret_value = value_float(real);
    else *ret_value = argv[0].kind == VALUE_MISSING ? value_float(0) : argv[0];
    return 0;
}

BUILTIN(filter_abs)
{
    IGNORE_ARGS;
    int64_t integer;
    if (self.kind == VALUE_FLOAT) {
        *ret_value = value_float(fabs(self.real));
        return 0;
    }
    if (self.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, self);
    if (!tmpl_as_int(self, &integer))
        return tmpl_fail(run, "bad operand type for abs(): '%s'", tmpl_type_name(self));
    if (integer < 0) return tmpl_negate(run, value_int(integer), ret_value);
    *ret_value = value_int(integer);
    return 0;
}

/* Python's round: half to even on the exact binary value, which is what printf does. */
static double round_real(double real, int64_t precision)
{
    char text[768]; // 309 digits before the point and as many after it
    if (!isfinite(real) || precision > 300) return real;
    if (precision >= 0) {
        (void)snprintf(text, sizeof text, "%.*f", (int)precision, real);
        return strtod(text, NULL);
    }
    if (precision < -308) return 0 * real;
    double scale = pow(10, (double)-precision);
    return nearbyint(real / scale) * scale;
}

/* Rounding an int to tens, hundreds, ...: half to even. */
static int round_int(struct tmpl_run *run, int64_t integer, int64_t precision, struct tmpl_value *ret_value)
{
    int64_t scale = 1;
    for (int64_t i = precision; i < 0 && scale != 0; i++)
        if (__builtin_mul_overflow(scale, (int64_t)10, &scale)) scale = 0;
    if (scale == 0) {
        *ret_value = value_int(0);
        return 0;
    }
    int64_t rest = integer % scale, half = scale / 2, base = integer - rest;
    int64_t up = rest < 0 ? -scale : scale, size = rest < 0 ? -rest : rest;
    if (scale > 1 && (size > half || (size == half && (base / scale) % 2 != 0)) &&
        __builtin_add_overflow(base, up, &base))
        return tmpl_fail(run, "integer result out of range");
    *ret_value = value_int(base);
    return 0;
}

BUILTIN(filter_round) // precision method
{
    (void)args;
    int64_t precision, integer;
    double real;
    const struct tmpl_string *method = argv[1].kind == VALUE_STRING ? argv[1].string : NULL;
    bool is_common = argv[1].kind == VALUE_MISSING || (method && tmpl_string_is(method, "common"));
    bool is_ceil = method && tmpl_string_is(method, "ceil");
    if (!is_common && !is_ceil && !(method && tmpl_string_is(method, "floor")))
        return tmpl_fail(run, "round() method must be common, ceil or floor");
    if (tmpl_arg_int(run, argv[0], 0, "round", &precision) < 0) return run->code;
    if (self.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, self);
    if (!tmpl_as_real(self, &real))
        return tmpl_fail(run, "round() wants a number, got '%s'", tmpl_type_name(self));
    if (is_common && tmpl_as_int(self, &integer)) return round_int(run, integer, precision, ret_value);
    if (is_common) {
        *ret_value = value_float(round_real(real, precision));
        return 0;
    }
    double scale = pow(10, (double)precision);
    *ret_value = value_float((is_ceil ? ceil(real * scale) : floor(real * scale)) / scale);
    return 0;
}

const struct tmpl_builtin tmpl_number_filters[] = {
    {"int", filter_int, "default base", 0},
    {"float", filter_float, "default", 0},
    {"abs", filter_abs, "", 0},
    {"round", filter_round, "precision method", 0},
    {NULL, NULL, NULL, 0},
};
