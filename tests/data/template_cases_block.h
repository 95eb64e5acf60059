/* SPDX-License-Identifier: Apache-2.0 */
/* template_cases_block - statements, scoping, loops, macros and whitespace: source and what jinja2 3.1.6
 * renders it to (NULL: an error), in an ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, loop
 * controls and the names that chat templates are given, with the variables of template_cases.h. */
#ifndef KVASIR_TESTS_DATA_TEMPLATE_CASES_BLOCK_H
#define KVASIR_TESTS_DATA_TEMPLATE_CASES_BLOCK_H

#include "tests/data/template_cases.h"

static const struct template_case block_cases[] = {
    {"{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ "
     "loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
     "10TrueFalse3321;21FalseFalse32132;32FalseTrue3101;"},
    {"{% for x in [] %}a{% else %}empty{% endfor %}", "empty"},
    {"{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{{ loop.last }},{% else %}none{% "
     "endfor %}",
     "312False,222True,"},
    {"{% for x in l if x > 10 %}{{ x }}{% else %}none{% endfor %}", "none"},
    {"{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "1311121"},
    {"{% set ns = namespace(x=1) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns['x'] "
     "}}{{ ns.zz }}",
     "77"},
    {"{% set d.x = 1 %}", NULL},
    {"{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1,3) }}{{ m(a=5, c=1) "
     "}}{{ m() }}{{ m(1, c=q) }}",
     "[12z][13z][521][2z][12it's]"},
    {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,2) }}", NULL},
    {"{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1,b=2) }}", NULL},
    {"{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1,2,3,b=2) }}", "1(2, 3){'b': 2}"},
    {"{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "11"},
    {"{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}body{% endcall %}", "<body>"},
    {"{% macro m(x) %}<{{ caller(x, 2) }}>{% endmacro %}{% call(a, b) m(9) %}{{ a }}-{{ b }}{% endcall %}",
     "<9-2>"},
    {"{% macro m(x) %}{{ x }}{% endmacro %}{% call m(9) %}{% endcall %}", NULL},
    {"{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(5) }}", "54321"},
    {"{% macro f() %}{{ y }}{% endmacro %}{% set y = 3 %}{{ f() }}", "3"},
    {"{% for i in l %}{% macro g() %}{{ i }}{% endmacro %}{{ g() }}{% endfor %}{{ g }}", "312"},
    {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b), c = (3, 4), 5 %}{{ a }}{{ b }}{{ c }}", "12345"},
    {"{% set a, b = 1 %}", NULL},
    {"{% set a, b = [1] %}", NULL},
    {"{% set a, b = [1,2,3] %}", NULL},
    {"{% for a, b in d.items() %}{{ a }}={{ b }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}",
     "b=1;a=2;C=3;items=shadow;baCitems"},
    {"{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}", "a2b1C3itemsshadow"},
    {"{% set x %}hello {{ n }}{% endset %}{{ x|upper }}{% set y | upper | trim %} abc {% endset %}[{{ y }}]",
     "HELLO 5[ABC]"},
    {"{% set z = 1 %}{% set x %}{% set z = 2 %}{{ z }}{% endset %}{{ x }}{{ z }}", "21"},
    {"{% filter upper|replace('A','-') %}abc {{ s }}{% endfilter %}", "-BC HELLO, WORLD"},
    {"{% filter indent(2) %}a\nb{% endfilter %}", "a\n  b"},
    {"{% with a=1, b=a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "1"},
    {"{% with %}{% set q2 = 1 %}{{ q2 }}{% endwith %}{{ q2 }}", "1"},
    {"{% raw %}{{ x }} {% if %} {# c #}{% endraw %}|", "{{ x }} {% if %} {# c #}|"},
    {"  {% raw %}  a\n  {% endraw %}\nb", "  a\nb"},
    {"a {%- raw -%}  b  {%- endraw -%} c", "abc"},
    {"{# comment #}x{#- y -#}  z", "xz"},
    {"a  {#- strip -#}  b", "ab"},
    {"    {% if true %}\n  x\n    {% endif %}\ny", "  x\ny"},
    {"a {%- if true -%} b {%- endif -%} c", "abc"},
    {"a {%+ if true %} b {%+ endif +%}\nc", "a  b \nc"},
    {"  {%+ if true %}x{% endif %}", "  x"},
    {"{% if true %}\na\n{% elif x %}\nb\n{% else %}\nc\n{% endif %}\n\nend\n", "a\n\nend"},
    {"{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}|{% for i in "
     "range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% else %}E{% endfor %}|{% for i in range(5) "
     "%}{% break %}{% else %}E{% endfor %}|{% for i in range(2) %}{% continue %}{% else %}E{% endfor %}",
     "02|012|E|E"},
    {"{% for m in messages %}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}",
     "user,assistant,user"},
    {"{% for i in [1,2] %}{% for j in [3,4] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% "
     "endfor %}",
     "113 214 1123 224 2"},
    {"{% for i in [1,[2,[3]]] recursive %}{% if i is number %}{{ i }}@{{ loop.depth }}{% else %}({{ loop(i) "
     "}}){% endif %}{% endfor %}",
     "1@1(2@2(3@3))"},
    {"{% for i in l %}{{ loop.cycle('a','b') }}{{ loop.changed(i > 1) }}{% endfor %}", "aTruebTrueaTrue"},
    {"{% for c in 'aé你' %}{{ c }}.{% endfor %}", "a.é.你."},
    {"{% for i in none %}{% endfor %}", NULL},
    {"{% for i in 5 %}{% endfor %}", NULL},
    {"{% for i in undefinedthing %}x{% else %}u{% endfor %}", "u"},
    {"{% generation %}gen{{ n }}{% set w = 1 %}{% endgeneration %}{{ w }}", "gen5"},
    {"{% if false %}{{ x|nosuchfilter }}{% endif %}ok", "ok"},
    {"{% if true %}{{ x|nosuchfilter }}{% endif %}ok", NULL},
    {"{% nosuchtag %}", NULL},
    {"{% if x %}", NULL},
    {"{% endif %}", NULL},
    {"{% if %}{% endif %}", NULL},
    {"{% for x in %}{% endfor %}", NULL},
    {"{% set x = %}", NULL},
    {"{# unclosed", NULL},
    {"{% raw %} unclosed", NULL},
    {"{% set true = 1 %}", NULL},
    {"{% set 5 = 1 %}", NULL},
    {"{% set g = words|map('upper') %}{{ g|join }}{{ g|join }}|{{ g|list }}", "APPLEBANANACHERRY|[]"},
    {"{% set g = words|map('upper') %}{{ g|first }}{{ g|list }}", "APPLE['BANANA', 'CHERRY']"},
    {"{{ 1, 2 }}{% for x in 1, 2 %}{{ x }}{% endfor %}", "(1, 2)12"},
    {"{% if n == 5: %}x{% endif %}", "x"},
    {"{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123"},
    {"{% set l2 = l + [4] %}{% set l3 = l2 + [5] %}{% set l4 = l2 + [6] %}{{ l }}{{ l2 }}{{ l3 }}{{ l4 }}",
     "[3, 1, 2][3, 1, 2, 4][3, 1, 2, 4, 5][3, 1, 2, 4, 6]"},
    {"{% set a1 = 'x' + 'y' %}{% set a2 = a1 + 'z' %}{% set a3 = a1 + 'w' %}{{ a1 }}{{ a2 }}{{ a3 }}",
     "xyxyzxyw"},
    {"{% set ns = namespace(t='') %}{% for i in range(30) %}{% set ns.t = ns.t + i|string + ',' %}{% endfor "
     "%}{{ ns.t }}",
     "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,"},
    {"{% set x = 'a' %}{% if true %}{% set x = 'b' %}{% endif %}{{ x }}", "b"},
    {"{% print n %}{% print 'a' %}", "5a"},
    {"{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}o{% endmacro %}{{ outer() }}", "io"},
    {"{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m(x) }}{{ x }}", "65"},
    {"{% for x in l %}{% set outer2 = x %}{% endfor %}{{ outer2 is defined }}", "False"},
    {"{{ m is defined }}{% macro m() %}{% endmacro %}{{ m is defined }}{{ m }}{{ m.name }}",
     "FalseTrue<Macro 'm'>m"},
    {"{% set loop = 1 %}{{ loop }}", "1"},
    {"{% if n > 3 and (n < 10 or f) and not nul %}yes{% endif %}", "yes"},
    {"{%- for message in messages -%}\n    {%- if loop.first and message.role != 'system' -%}\n        {{- "
     "'<|im_start|>system\\nYou are<|im_end|>\\n' -}}\n    {%- endif -%}\n    {{- '<|im_start|>' + "
     "message.role + '\\n' + (message.content or '') + '<|im_end|>' + '\\n' -}}\n{%- endfor -%}\n{%- if "
     "add_generation_prompt -%}x{%- endif -%}\n",
     "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\nHi "
     "<b><|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nünï 你好 🌍<|im_end|>\n"},
};

#endif
