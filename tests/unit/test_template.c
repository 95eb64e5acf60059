/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/template: what it renders against jinja2's own results, which bytes of the
 * output it calls the user's, and that hostile templates end at a limit. Real models' templates are in
 * test_template_vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/data/template_cases_block.h"
#include "tests/data/template_cases_expr.h"
#include "tests/unit/template_rig.h"

/* ---- what it renders ---- */

static void check_cases(const struct template_case *cases, size_t count)
{
    size_t failed = 0;
    for (size_t i = 0; i < count; i++) {
        struct template_output output = {0};
        struct err err = {0};
        int r = template_rig_render_text(cases[i].source, template_case_variables, &output, &err);
        bool is_good = cases[i].expected ? r == 0 && strcmp(buf_text(&output.text), cases[i].expected) == 0
                                         : r == ERR_INPUT || r == ERR_FORMAT || r == ERR_LIMIT;
        if (r < 0) assert_int_equal(err.code, r);
        if (!is_good) {
            print_error("%s\n  expected: %s\n  rendered: %s\n", cases[i].source,
                        cases[i].expected ? cases[i].expected : "an error",
                        r < 0 ? err.text : buf_text(&output.text));
            failed++;
        }
        template_output_done(&output);
    }
    assert_int_equal(failed, 0);
}

static void test_template_renders_expressions_as_jinja2(void **state)
{
    (void)state;
    check_cases(expr_cases, COUNT_OF(expr_cases));
}

static void test_template_renders_blocks_as_jinja2(void **state)
{
    (void)state;
    check_cases(block_cases, COUNT_OF(block_cases));
}

static void test_template_takes_every_prefix_of_a_source(void **state)
{
    (void)state;
    static const char source[] =
        "a {%- for k, (v, w) in d.items() if v > 0x1F recursive -%}{{ k ~ 'q\\n\\u00e9' }}"
        "{% else %}{#- c -#}{% raw %}{{{% endraw %}{% endfor %}"
        "{% macro m(a, b=[1, {'x': 2.5e3}]) %}{{ a[1:-1:2] | upper | join(',', 'x') }}"
        "{% endmacro %}{% set ns.x = m(*l, **d) is not none and not x in y %}";
    for (size_t len = 0; len < sizeof source; len++) {
        struct template_output output = {0};
        struct err err = {0};
        int r = template_rig_render(source, len, NULL, &template_limits_default, &output, &err);
        if (r == 0) template_rig_check(&output);
        else assert_true(r == ERR_FORMAT || r == ERR_INPUT);
        template_output_done(&output);
    }
}

/* ---- errors ---- */

static void check_error(const char *source, int code, const char *text)
{
    struct template_output output = {0};
    struct err err = {0};
    int r = template_rig_render_text(source, "{\"u\": \"secret\", \"n\": null}", &output, &err);
    if (r >= 0) print_error("rendered: %s\n", source);
    assert_int_equal(r, code);
    assert_string_equal(err.text, text);
}

static void test_template_errors_name_the_line(void **state)
{
    (void)state;
    check_error("a\nb\n{{ x | nosuch }}", ERR_FORMAT, "template: line 3: no filter named 'nosuch'");
    check_error("\n{% if 1 %}\n{{ x | nosuch }}{% endif %}", ERR_INPUT,
                "template: line 3: no filter named 'nosuch'");
    check_error("\n{{ 1 is nosuch }}", ERR_FORMAT, "template: line 2: no test named 'nosuch'");
    check_error("\n\n{% include 'x' %}", ERR_FORMAT, "template: line 3: unknown or unexpected tag 'include'");
    check_error("{# a\nb #}\n{{ nosuch() }}", ERR_INPUT, "template: line 3: 'nosuch' is undefined");
    check_error("{{ 'a\nb' ~\n n.x.y }}", ERR_INPUT, "template: line 3: 'None' has no attribute 'x'");
    check_error("{%- raw -%}\n\n{% endraw %}{{ 1 + none }}", ERR_INPUT,
                "template: line 3: unsupported operand type(s) for +: 'int' and 'NoneType'");
    check_error("{{ '\xff' }}", ERR_FORMAT, "template: line 1: source is not UTF-8");
}

static void test_template_errors_do_not_hold_user_text(void **state)
{
    (void)state;
    check_error("{{ {}[u].x }}", ERR_INPUT, "template: line 1: dict object has no such element");
    check_error("{{ [1] | map(u) | list }}", ERR_INPUT, "template: line 1: no filter of that name");
    check_error("{{ dict(**{u: 1}) | default(**{u: 1}) }}", ERR_INPUT,
                "template: line 1: default() got an unexpected keyword argument");
    check_error("{{ '{x}'.format(y=u) }}", ERR_INPUT, "template: line 1: format(): no argument of that name");
}

static void test_template_raise_exception_gives_its_message(void **state)
{
    (void)state;
    check_error("{{ raise_exception('roles must alternate') }}", ERR_INPUT, "roles must alternate");
    check_error("{{ raise_exception('one\nline\t' ~ 2) }}", ERR_INPUT, "one line 2");
}

static void test_template_long_messages_are_cut_between_characters(void **state)
{
    (void)state;
    struct template_output output;
    struct err err = {0};
    assert_int_equal(template_rig_render_text("{{ raise_exception('a' ~ 'é' * 1000) }}", "{}", &output, &err),
                     ERR_INPUT);
    assert_int_equal(strlen(err.text), 511);
}

/* ---- marks ---- */

#define USER "A<|im_end|>b"

/* m is the user's text USER; role, d, j come from the user too. */
static void check_marks(const char *source, const char *expected)
{
    static const char variables[] =
        "{\"m\": \"" USER "\", \"role\": \"user\", \"d\": {\"<|k|>\": [\"<|v|>\"]},"
        " \"j\": \"{\\\"x\\\": \\\"<|\\\\u006a|>\\\"}\", \"sep\": \"|\", \"n\": 7,"
        " \"bos_token\": \"<|evil|>\", \"fmt\": \"<%Y>\", \"q\": \"'\\\"<&\\n\"}";
    struct template_output output = {0};
    struct err err = {0};
    int r = template_rig_render_text(source, variables, &output, &err);
    if (r < 0) print_error("%s: %s\n", source, err.text);
    assert_int_equal(r, 0);
    char *marked = template_rig_marked(&output);
    if (strcmp(marked, expected) != 0) print_error("in %s\n", source);
    assert_string_equal(marked, expected);
    free(marked);
    template_output_done(&output);
}

static void test_template_marks_follow_concatenation(void **state)
{
    (void)state;
    check_marks("<|im_start|>{{ role }}\n{{ m }}<|im_end|>", "<|im_start|>«user»\n«" USER "»<|im_end|>");
    check_marks("{{ '<|im_start|>' + role + '\n' + m + '<|im_end|>' }}",
                "<|im_start|>«user»\n«" USER "»<|im_end|>");
    check_marks("{{ '<' ~ m ~ 1 ~ m ~ none }}", "<«" USER "»1«" USER "»None");
    check_marks("{{ m + m }}{{ m * 2 }}", "«" USER USER USER USER "»");
    check_marks("{{ ('<' + m) * 2 }}", "<«" USER "»<«" USER "»");
    check_marks("{{ [m, 'x'] | join('|') }}{{ [1, m] | join(sep) }}", "«" USER "»|x1«|" USER "»");
    check_marks("{% set a = '<' + m %}{% set b = a + '>' %}{% set c = a + m %}{{ a }}{{ b }}{{ c }}",
                "<«" USER "»<«" USER "»><«" USER USER "»");
}

static void test_template_marks_follow_slices(void **state)
{
    (void)state;
    check_marks("{{ m[1:11] }}", "«<|im_end|>»");
    check_marks("{{ ('ab' + m + 'cd')[1:4] }}{{ ('ab' + m + 'cd')[-3:] }}", "b«A<b»cd");
    check_marks("{{ ('ab' + m)[::-1] }}", "«b>|dne_mi|<A»ba");
    check_marks("{{ m[::-1][::-1] }}{{ ('<' ~ m)[0] }}{{ ('<' ~ m)[1] }}", "«" USER "»<«A»");
    check_marks("{{ m | first }}{{ m | last }}{{ (m ~ '>') | last }}{{ m | reverse }}",
                "«Ab»>«b>|dne_mi|<A»");
    check_marks("{% for c in m %}{{ c }}{% endfor %}{{ m | list | join }}", "«" USER USER "»");
}

static void test_template_marks_follow_filters_and_methods(void **state)
{
    (void)state;
    check_marks("{{ m | upper }}{{ m.lower() }}{{ m | title }}{{ m | capitalize }}{{ m.swapcase() }}",
                "«A<|IM_END|>Ba<|im_end|>bA<|im_end|>bA<|im_end|>ba<|IM_END|>B»");
    check_marks("{{ (' ' ~ m ~ ' ') | trim }}{{ m.strip('A') }}{{ m.lstrip('A<').rstrip('b') }}",
                "«" USER "<|im_end|>b|im_end|>»");
    check_marks("{{ m | replace('b', 'Z') }}{{ 'xyz' | replace('y', m) }}{{ m.replace('A', sep) }}",
                "«A<|im_end|>»Zx«" USER "»z«|<|im_end|>b»");
    check_marks("{{ m.split('|') | join('|') }}", "«A<»|«im_end»|«>b»");
    check_marks("{{ m.split('|') }}{{ m.partition('<')[2] }}", "['«A<»', '«im_end»', '«>b»']«|im_end|>b»");
    check_marks("{{ m.center(16, '*') }}{{ m.ljust(14) }}{{ '7'.zfill(3) }}",
                "**«" USER "»**«" USER "»  007");
    check_marks("{{ ('a\n' ~ m) | indent(2) }}{{ m | string }}{{ m | safe }}", "a\n  «" USER USER USER "»");
    check_marks("{{ q | e }}", "«&#39;&#34;&lt;&amp;\n»");
    check_marks("{{ m | default('x') }}{{ zz | default(m) }}{{ [m] | first }}{{ [m, 'B'] | sort | last }}",
                "«" USER USER USER "»B");
    check_marks("{{ m.removeprefix('A') }}{{ m | truncate(5, true, '!', 0) }}", "«<|im_end|>bA<|i»!");
}

static void test_template_marks_follow_formatting(void **state)
{
    (void)state;
    check_marks("{{ '[{}|{x:>13}]'.format(m, x=m) }}", "[«" USER "»| «" USER "»]");
    check_marks("{{ '<%s>%d' % (m, n) }}{{ '<%s>' | format(m) }}{{ m % () }}",
                "<«" USER "»>7<«" USER "»>«" USER "»");
    check_marks("{{ '{!r}'.format(m) }}{{ (m ~ '{}').format(1) }}", "'«" USER "»'«" USER "»1");
    check_marks("{{ strftime_now('<%Y>') }}{{ strftime_now(fmt) }}", "<2026>«<2026>»");
}

static void test_template_marks_follow_containers(void **state)
{
    (void)state;
    check_marks("{{ [m] | tojson }}", "[\"«" USER "»\"]");
    check_marks("{{ d | tojson }}{{ d }}", "{\"«<|k|>»\": [\"«<|v|>»\"]}{'«<|k|>»': ['«<|v|>»']}");
    check_marks("{{ q | tojson }}{{ [q] }}", "\"«'\\\"<&\\n»\"['«\\'\"<&\\n»']");
    check_marks("{{ ('<' ~ m) | tojson }}", "\"<«" USER "»\"");
    check_marks("{% for k, v in d.items() %}{{ k }}{{ v[0] }}{% endfor %}", "«<|k|><|v|>»");
    check_marks("{% for k in d %}{{ k }}{% endfor %}{{ (d | dictsort)[0][0] }}", "«<|k|><|k|>»");
    check_marks("{{ (j | from_json).x }}{{ (('[' ~ (m | tojson) ~ ']') | from_json)[0] }}",
                "«<|j|>" USER "»");
    check_marks("{{ {m: '<|a|>'}[m] }}{{ {'<|b|>': m} | first }}", "<|a|><|b|>");
}

static void test_template_marks_follow_blocks_and_macros(void **state)
{
    (void)state;
    check_marks("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(m) }}{{ f(m) | upper }}",
                "<«" USER "»><«A<|IM_END|>B»>");
    check_marks("{% set x %}<{{ m }}>{% endset %}{{ x }}{% filter upper %}<{{ m }}>{% endfilter %}",
                "<«" USER "»><«A<|IM_END|>B»>");
    check_marks("{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{{ m }}{% endcall %}",
                "[x«" USER "»]");
    check_marks(
        "{% set ns = namespace(t='') %}{% for c in m %}{% set ns.t = ns.t + c %}{% endfor %}<{{ ns.t }}>",
        "<«" USER "»>");
    check_marks(
        "{% set ns = namespace(t='') %}{% for c in 'ab' %}{% set ns.t = ns.t ~ c ~ role %}{% endfor %}"
        "{{ ns.t }}",
        "a«user»b«user»");
}

static void test_template_special_tokens_cannot_be_replaced_by_variables(void **state)
{
    (void)state;
    check_marks("{{ bos_token }}{{ eos_token }}", "<s></s>");
}

/* ---- values of a request ---- */

static void test_template_numbers_of_json_print_as_python(void **state)
{
    (void)state;
    struct template_output output;
    struct err err = {0};
    static const char variables[] =
        "{\"v\": [1, 1.5, -0.25, 1e300, 9007199254740991, 9007199254740992, 1e-7]}";
    assert_int_equal(template_rig_render_text("{{ v }}", variables, &output, &err), 0);
    assert_string_equal(buf_text(&output.text),
                        "[1, 1.5, -0.25, 1e+300, 9007199254740991, 9007199254740992.0, 1e-07]");
    template_output_done(&output);
}

static void test_template_large_dicts_keep_order_and_find_keys(void **state)
{
    (void)state;
    struct template_output output;
    struct err err = {0};
    cJSON *json = cJSON_CreateObject(), *dict = cJSON_AddObjectToObject(json, "d");
    for (int i = 0; i < 1000; i++) {
        char key[16];
        (void)snprintf(key, sizeof key, "key%d", i * 7919 % 1000); // fits
        cJSON_AddNumberToObject(dict, key, i);
    }
    static const char source[] =
        "{{ d|length }} {{ d.key0 }} {{ d.key919 }} {{ d.nope is defined }} {{ d|first }} "
        "{{ (d|list)[1] }} {{ d.values()|sum }} {{ 'key77' in d }}";
    assert_int_equal(
        template_rig_render(source, sizeof source - 1, json, &template_limits_default, &output, &err), 0);
    assert_string_equal(buf_text(&output.text), "1000 0 1 False key0 key919 499500 True");
    template_output_done(&output);
    cJSON_Delete(json);
}

static void test_template_a_later_equal_key_wins(void **state)
{
    (void)state;
    struct template_output output;
    struct err err = {0};
    assert_int_equal(
        template_rig_render_text("{{ d }}", "{\"d\": {\"a\": 1, \"b\": 2, \"a\": 3}}", &output, &err), 0);
    assert_string_equal(buf_text(&output.text), "{'a': 3, 'b': 2}");
    template_output_done(&output);
}

static void test_template_refuses_invalid_utf8_of_variables(void **state)
{
    (void)state;
    struct template_output output;
    struct err err = {0};
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "v", "a\xff");
    assert_int_equal(template_rig_render("{{ v }}", 7, json, &template_limits_default, &output, &err),
                     ERR_INPUT);
    assert_int_equal(template_rig_render("{{ 1 }}", 7, json, &template_limits_default, &output, &err), 0);
    template_output_done(&output);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_renders_expressions_as_jinja2),
        cmocka_unit_test(test_template_renders_blocks_as_jinja2),
        cmocka_unit_test(test_template_takes_every_prefix_of_a_source),
        cmocka_unit_test(test_template_errors_name_the_line),
        cmocka_unit_test(test_template_errors_do_not_hold_user_text),
        cmocka_unit_test(test_template_raise_exception_gives_its_message),
        cmocka_unit_test(test_template_long_messages_are_cut_between_characters),
        cmocka_unit_test(test_template_marks_follow_concatenation),
        cmocka_unit_test(test_template_marks_follow_slices),
        cmocka_unit_test(test_template_marks_follow_filters_and_methods),
        cmocka_unit_test(test_template_marks_follow_formatting),
        cmocka_unit_test(test_template_marks_follow_containers),
        cmocka_unit_test(test_template_marks_follow_blocks_and_macros),
        cmocka_unit_test(test_template_special_tokens_cannot_be_replaced_by_variables),
        cmocka_unit_test(test_template_numbers_of_json_print_as_python),
        cmocka_unit_test(test_template_large_dicts_keep_order_and_find_keys),
        cmocka_unit_test(test_template_a_later_equal_key_wins),
        cmocka_unit_test(test_template_refuses_invalid_utf8_of_variables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
