/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/template's limits: whatever a template or its variables ask for ends with a
 * code, and what is within the limits stays cheap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/template_rig.h"

/* A hundredth of the default: sanitizers are slow, and the limits do not depend on their size. */
static const struct template_limits small = {
    .steps_max = 200000, .depth_max = 1000, .output_bytes_max = 1 << 18, .memory_bytes_max = 4 << 20};

static void check_source(const char *source, size_t len, const char *name)
{
    struct template_output output = {0};
    struct err err = {0};
    int r = template_rig_render(source, len, NULL, &small, &output, &err);
    if (r != ERR_LIMIT) print_error("%s: %d %s\n", name, r, err.text);
    assert_int_equal(r, ERR_LIMIT);
    assert_int_equal(err.code, r);
}

static void check_limit(const char *source)
{
    check_source(source, strlen(source), source);
}

static void test_template_limits_sizes(void **state)
{
    (void)state;
    check_limit("{% for i in range(1000000000) %}x{% endfor %}");
    check_limit("{{ range(0, 9000000000000000000, 1) }}");
    check_limit("{{ 'a' * 1000000000 }}");
    check_limit("{{ [0] * 1000000000 }}");
    check_limit("{{ 'abc' * 900000000000000000 }}");
    check_limit("{{ 'a'.center(1000000000) }}");
    check_limit("{{ '1'.zfill(1000000000) }}");
    check_limit("{{ 'a\nb' | indent(1000000000) }}");
    check_limit("{{ '{:1000000000}'.format(1) }}");
    check_limit("{{ '{:.1000000000f}'.format(1.5) }}");
    check_limit("{{ '%1000000000d' % 1 }}");
    check_limit("{{ '%*d' % (-1000000000, 1) }}");
    check_limit("{{ [1] | tojson(indent=1000000000) }}");
    check_limit("{{ range(5) | slice(1000000000) | list }}");
    check_limit("{{ range(5) | batch(1000000000, 1) | list }}");
}

static void test_template_limits_growth(void **state)
{
    (void)state;
#define LOOP "{% set ns = namespace(x='aa', l=[1], a=[]) %}{% for i in range(100000) %}"
    check_limit(LOOP "{% set ns.x = ns.x + ns.x %}{% endfor %}");
    check_limit(LOOP "{% set ns.x = ns.x ~ ns.x %}{% endfor %}");
    check_limit(LOOP "{% set ns.l = ns.l + ns.l %}{% endfor %}");
    check_limit(LOOP "{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}");
    check_limit(LOOP "{% set ns.x = ([ns.x] * 3) | join(ns.x) %}{% endfor %}");
    check_limit(LOOP "{% set ns.a = [ns.a, ns.a] %}{% if i > 40 %}{{ ns.a }}{% endif %}{% endfor %}");
    check_limit(LOOP
                "{% set ns.a = [ns.a, ns.a] %}{% if i > 40 %}{{ ns.a | tojson }}{% endif %}{% endfor %}");
    check_limit(LOOP "{% set ns.a = [ns.a, ns.a] %}{% if i > 40 %}{{ ns.a == [ns.a[0], ns.a[1]] }}{% endif %}"
                     "{% endfor %}");
    check_limit("{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}");
    check_limit("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}");
    check_limit(
        "{% for i in range(100000) if false %}{% endfor %}{% for j in range(100000) if false %}{% endfor %}");
}

static void test_template_limits_depth_of_values(void **state)
{
    (void)state;
#define NEST \
    "{% set ns = namespace(a=(), b=()) %}{% for i in range(2000) %}{% set ns.a = (ns.a,) %}" \
    "{% set ns.b = (ns.b,) %}{% endfor %}"
    check_limit(NEST "{{ ns.a }}");
    check_limit(NEST "{{ ns.a | tojson }}");
    check_limit(NEST "{{ ns.a == ns.b }}");
    check_limit(NEST "{{ ns.a < ns.b }}");
    check_limit(NEST "{{ {ns.a: 1} }}");
    check_limit(NEST "{{ ns.a in [ns.b] }}");
    check_limit(NEST "{{ [ns.a, ns.b] | unique | list }}");
    check_limit("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}");
    check_limit("{{ ('[' * 5000) | from_json }}");
    check_limit("{{ ('{\"a\":' * 5000) | from_json }}");
}

static void test_template_limits_recursion(void **state)
{
    (void)state;
    check_limit("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}");
    check_limit("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}");
    check_limit("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}");
    check_limit("{% macro f(x=f()) %}{% endmacro %}{{ f() }}");
    check_limit("{% macro f() %}{% call f() %}{% endcall %}{{ caller }}{% endmacro %}{{ f() }}");
    check_limit("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}");
}

/* head, then `unit` again and again, then tail: 100000 times what nests or chains. */
static void check_repeated(const char *head, const char *unit, const char *tail, int code)
{
    struct template_output output = {0};
    struct err err = {0};
    struct buf source;
    buf_init(&source, SIZE_MAX / 4);
    buf_puts(&source, head);
    for (int i = 0; i < 100000; i++) buf_puts(&source, unit);
    buf_puts(&source, tail);
    struct template_limits limits = small;
    limits.memory_bytes_max = 64 << 20; // the source itself is large
    limits.steps_max = 1000000;
    int r = template_rig_render(buf_text(&source), source.len, NULL, &limits, &output, &err);
    if (r != code) print_error("%s%s...: %d %s\n", head, unit, r, err.text);
    assert_int_equal(r, code);
    template_output_done(&output);
    buf_done(&source);
}

static void test_template_limits_nesting_of_the_source(void **state)
{
    (void)state;
    static const char *const open[] = {"(",     "[",    "{1:",   "not ",  "-",
                                       "+",     "x[",   "f(",    "f(a=",  "1 if 0 else ",
                                       "[1, (", "x[1:", "1 + (", "1 ~ [", "x is f ("};
    for (size_t i = 0; i < COUNT_OF(open); i++) check_repeated("{{ ", open[i], "", ERR_LIMIT);
    static const char *const tags[] = {"{% if 1 %}",     "{% for x in y %}",  "{% macro m() %}",
                                       "{% set x %}",    "{% filter trim %}", "{% with %}",
                                       "{% call f() %}", "{% generation %}"};
    for (size_t i = 0; i < COUNT_OF(tags); i++) check_repeated("", tags[i], "", ERR_LIMIT);
    check_repeated("{% set ", "(", "", ERR_LIMIT);
    check_repeated("{% for ", "(", "", ERR_LIMIT);
}

static void test_template_limits_long_chains(void **state)
{
    (void)state;
    static const char *const links[] = {".a",    "[0]",    "()",    "|string", " + 1",
                                        " ** 1", " and 1", " or 0", "[0:]",    " is defined or 1"};
    for (size_t i = 0; i < COUNT_OF(links); i++) {
        check_repeated("{{ 1", links[i], " }}", ERR_LIMIT);
    }
    check_repeated("{{ 1", " ~ 1", " }}", 0);
    check_repeated("{{ 1", " == 1", " }}", 0);
    check_repeated("{% if 0 %}", "{% elif 0 %}", "{% endif %}", 0);
    check_repeated("{{ ", "'' ", " }}", 0);
    check_repeated("", "{% set x = 1 %}", "", 0);
    check_repeated("{#", "{#", "", ERR_FORMAT);
    check_repeated("{% raw %}", "{% ", "", ERR_FORMAT);
    check_repeated("{{", " ", "", ERR_FORMAT);
}

/* Work within one builtin is charged too: a million characters a call, and no end of calls. */
static void test_template_limits_work_of_builtins(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "s.rfind('b')",   "s.find('b')",     "s.rfind(t)",
        "s.find(t)",      "s.strip(t)",      "s.upper()",
        "s.split()",      "s.split('b')",    "s.rsplit('b')",
        "s.count('')",    "s.count('b')",    "s is upper",
        "s == u",         "s < u",           "d[u]",
        "s in l",         "s.startswith(u)", "s.endswith(u)",
        "s[::99]",        "s[::-1]",         "w[50000]",
        "w|length + i",   "s|wordcount",     "s.isalpha()",
        "s.splitlines()", "s|title",         "s|e|length",
        "[s]|string",     "s|tojson",        "s|replace('a', 'b')",
        "s|trim('b')",    "s.partition(t)",  "l|sort|length",
        "l|max",          "l|unique|list",   "l|sum",
        "-1 in l",        "l.count(1)",      "l[::2]",
        "l|reverse|list", "l == m",          "m|map('string')|list",
        "s % ()",         "s.format()",      "l|tojson",
        "l|join",         "s|list|length",   "w.find('z')",
    };
    for (size_t i = 0; i < COUNT_OF(bodies); i++) {
        char source[1024];
        int n = snprintf(
            source, sizeof source,
            "{%% set s = 'a' * 100000 %%}{%% set u = 'a' * 100000 %%}{%% set t = 'a' * 50000 + 'b' %%}"
            "{%% set w = 'é' * 100000 %%}{%% set d = {s: 1} %%}{%% set l = range(10000)|list %%}"
            "{%% set m = range(10000)|list %%}"
            "{%% for i in range(100000) %%}{%% for j in range(100000) %%}{%% set x = %s %%}{%% endfor %%}"
            "{%% endfor %%}",
            bodies[i]);
        assert_true(n > 0 && (size_t)n < sizeof source);
        check_source(source, (size_t)n, bodies[i]);
    }
}

static void test_template_limits_deep_variables(void **state)
{
    (void)state;
    cJSON *json = cJSON_CreateObject(), *inner = json;
    for (int i = 0; i < 1500; i++) inner = cJSON_AddObjectToObject(inner, "v");
    struct template_output output = {0};
    struct err err = {0};
    assert_int_equal(template_rig_render("{{ v }}", 7, json, &small, &output, &err), ERR_LIMIT);
    assert_int_equal(template_rig_render("{{ 1 }}", 7, json, &small, &output, &err),
                     0); // not read, not charged
    template_output_done(&output);
    cJSON_Delete(json);
}

static void test_template_limits_are_the_callers(void **state)
{
    (void)state;
    struct template_limits limits = small;
    struct template_output output = {0};
    struct err err = {0};
    limits.output_bytes_max = 3;
    assert_int_equal(template_rig_render("abc", 3, NULL, &limits, &output, &err), 0);
    template_output_done(&output);
    assert_int_equal(template_rig_render("abcd", 4, NULL, &limits, &output, &err), ERR_LIMIT);
    assert_string_equal(err.text, "template: line 1: text longer than 3 bytes");
    limits = small;
    limits.steps_max = 2;
    assert_int_equal(template_rig_render("abc", 3, NULL, &limits, &output, &err), 0);
    template_output_done(&output);
    assert_int_equal(template_rig_render("abc{{ 1 }}", 10, NULL, &limits, &output, &err), ERR_LIMIT);
    limits = small;
    limits.memory_bytes_max = 64;
    assert_int_equal(template_rig_render("abc", 3, NULL, &limits, &output, &err), ERR_LIMIT);
}

/* Text and lists gathered one by one cost linear memory, not quadratic. */
static void test_template_limits_let_gathering_pass(void **state)
{
    (void)state;
    static const char source[] = "{% set ns = namespace(l=[], x='') %}{% for i in range(9000) %}"
                                 "{% set ns.l = ns.l + [i] %}{% set ns.x = ns.x ~ 'abc' %}{% endfor %}"
                                 "{{ ns.l | length }} {{ ns.x | length }} {{ ns.l[8999] }} {{ ns.x[-4:] }}";
    struct template_output output = {0};
    struct err err = {0};
    struct template_limits limits = small;
    limits.memory_bytes_max = 16 << 20;
    int r = template_rig_render(source, sizeof source - 1, NULL, &limits, &output, &err);
    if (r < 0) print_error("%s\n", err.text);
    assert_int_equal(r, 0);
    assert_string_equal(buf_text(&output.text), "9000 27000 8999 cabc");
    template_output_done(&output);
}

/* ---- threads ---- */

static void *render_often(void *argument)
{
    for (int i = 0; i < 200; i++) {
        struct template_inputs inputs = {.bos_token = "<s>", .eos_token = "</s>", .now_s = i};
        struct template_output output = {0};
        CHECK(template_render(argument, &inputs, &small, &output, NULL) == 0);
        CHECK(strcmp(buf_text(&output.text), "<s>éa [1, 2] 3") == 0);
        template_output_done(&output);
    }
    return NULL;
}

static void test_template_one_template_serves_several_threads(void **state)
{
    (void)state;
    static const char source[] = "{{ bos_token }}{{ 'éa'[0:] }} {{ [1] + [2] }} {{ 'éab' | length }}";
    struct template *template;
    pthread_t threads[4];
    assert_int_equal(template_compile(source, sizeof source - 1, &small, &template, NULL), 0);
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, template), 0);
    for (size_t i = 0; i < COUNT_OF(threads); i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    template_free(template);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_limits_sizes),
        cmocka_unit_test(test_template_limits_growth),
        cmocka_unit_test(test_template_limits_depth_of_values),
        cmocka_unit_test(test_template_limits_recursion),
        cmocka_unit_test(test_template_limits_nesting_of_the_source),
        cmocka_unit_test(test_template_limits_long_chains),
        cmocka_unit_test(test_template_limits_work_of_builtins),
        cmocka_unit_test(test_template_limits_deep_variables),
        cmocka_unit_test(test_template_limits_are_the_callers),
        cmocka_unit_test(test_template_limits_let_gathering_pass),
        cmocka_unit_test(test_template_one_template_serves_several_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
