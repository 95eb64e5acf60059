/* SPDX-License-Identifier: Apache-2.0 */
/* template_cases_expr - expressions, filters, tests and methods: source and what jinja2 3.1.6
 * renders it to (NULL: an error), in an ImmutableSandboxedEnvironment with trim_blocks, lstrip_blocks, loop
 * controls and the names that chat templates are given, with the variables of template_cases.h. */
#ifndef KVASIR_TESTS_DATA_TEMPLATE_CASES_EXPR_H
#define KVASIR_TESTS_DATA_TEMPLATE_CASES_EXPR_H

#include "tests/data/template_cases.h"

static const struct template_case expr_cases[] = {
    {"{{ 1 }}{{ 1.0 }}{{ 1e16 }}{{ 1e15 }}{{ 1.5e-5 }}{{ 0.0001 }}{{ 123456.789 }}{{ 1e100 }}{{ 0.1+0.2 }}{{ "
     "-0.0 }}{{ 5e-324 }}{{ 1.7976931348623157e308 }}",
     "11.01e+161000000000000000.01.5e-050.0001123456.7891e+1000.30000000000000004-0.05e-3241."
     "7976931348623157e+308"},
    {"{{ 7//2 }} {{ -7//2 }} {{ 7%3 }} {{ -7%3 }} {{ 7%-3 }} {{ -7.5//2 }} {{ -7.5%2 }} {{ 7/2 }} {{ 6/2 }} "
     "{{ 2**10 }} {{ 2**-1 }} {{ 2**0.5 }} {{ -2**2 }} {{ 2**3**2 }}",
     "3 -4 1 2 -2 -4.0 0.5 3.5 3.0 1024 0.5 1.4142135623730951 4 64"},
    {"{{ 1 if n > 3 else 2 }}{{ 1 if n < 3 }}|{{ (1 if n<3) is defined }}", "1|False"},
    {"{{ [1,'a',None,True,1.5,(1,),(1,2),{'k':'v'}] }}",
     "[1, 'a', None, True, 1.5, (1,), (1, 2), {'k': 'v'}]"},
    {"{{ d }} {{ nested }} {{ l }} {{ messages }}",
     "{'b': 1, 'a': 2, 'C': 3, 'items': 'shadow'} {'x': {'y': [{'z': 1}]}} [3, 1, 2] [{'role': 'user', "
     "'content': 'Hi <b>'}, {'role': 'assistant', 'content': None, 'tool_calls': [{'function': {'name': 'f', "
     "'arguments': {'a': 1, 'b': [1.5, True, None, 'x\"y\\'']}}}]}, {'role': 'user', 'content': 'ünï 你好 "
     "🌍'}]"},
    {"{{ q }}{{ [q] }}{{ [qq] }}{{ [tabs] }}{{ [uni] }}{{ [nl] }}",
     "it's[\"it's\"]['it\\'s \"q\"']['a\\tb\\\\cd\\x7f\\u200b\\xa0']['Straße ΑΣ ﬁ é']['a\\nb\\n\\nc\\n']"},
    {"{{ undefinedthing }}|{{ undefinedthing is defined }}|{{ d.nope }}|{{ d.nope is undefined }}|{{ nul "
     "}}|{{ nul is none }}",
     "|False||True|None|True"},
    {"{{ undefinedthing.foo }}", NULL},
    {"{{ undefinedthing + 1 }}", NULL},
    {"{{ 'a' + 1 }}", NULL},
    {"{{ 'a' ~ 1 ~ none ~ true ~ [1] }}", "a1NoneTrue[1]"},
    {"{{ nul.foo }}|{{ nul.foo is defined }}", "|False"},
    {"{{ nul.foo.bar }}", NULL},
    {"{{ d.items() | list }}|{{ d['items'] }}|{{ d.keys() }}|{{ d.values() }}|{{ d.items() }}",
     "[('b', 1), ('a', 2), ('C', 3), ('items', 'shadow')]|shadow|dict_keys(['b', 'a', 'C', "
     "'items'])|dict_values([1, 2, 3, 'shadow'])|dict_items([('b', 1), ('a', 2), ('C', 3), ('items', "
     "'shadow')])"},
    {"{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 7) }}", "1 None 7"},
    {"{{ s[0] }}{{ s[-1] }}{{ s[1:4] }}{{ s[::-1] }}{{ s[::2] }}{{ s[-3:] }}{{ s[:-3] }}{{ s[10:2] }}{{ "
     "s[5:1:-2] }}{{ s[100] }}{{ s[100:] }}",
     "HdelldlroW ,olleHHlo olrldHello, Wo,l"},
    {"{{ uni[4] }}{{ uni[::-1] }}{{ uni[2:6] }}{{ uni|length }}{{ uni|upper }}{{ uni|lower }}{{ uni|title "
     "}}{{ uni|capitalize }}{{ uni.title() }}{{ uni.swapcase() }}{{ uni.capitalize() }}",
     "ßé ﬁ ΣΑ eßartSraße13STRASSE ΑΣ FI Éstraße ας ﬁ éStraße Ασ FI ÉStraße ας ﬁ éStraße Ας Fi ÉsTRASSE ας FI "
     "ÉStraße ας ﬁ é"},
    {"{{ l[1:] }}{{ l[::-1] }}{{ l[-1] }}{{ l[5] }}{{ l[:2] }}{{ l[0:3:2] }}{{ range(10)[2:8:3] }}{{ "
     "range(10)[-1] }}{{ range(5) }}{{ range(1,5,2) }}{{ range(5)|list }}",
     "[1, 2][2, 1, 3]2[3, 1][3, 2]range(2, 8, 3)9range(0, 5)range(1, 5, 2)[0, 1, 2, 3, 4]"},
    {"{{ range(10)[::-1]|list }}{{ range(3,0,-1)|list }}{{ range(0) | list }}",
     "[9, 8, 7, 6, 5, 4, 3, 2, 1, 0][3, 2, 1][]"},
    {"{{ d|dictsort(true) }}{{ d|dictsort(by='key', reverse=true) }}",
     "[('C', 3), ('a', 2), ('b', 1), ('items', 'shadow')][('items', 'shadow'), ('C', 3), ('b', 1), ('a', "
     "2)]"},
    {"{{ {'a':2,'b':1}|dictsort(by='value') }}", "[('b', 1), ('a', 2)]"},
    {"{{ l|sort }}{{ l|sort(reverse=true) }}{{ words|sort }}{{ words|sort(case_sensitive=true) }}{{ "
     "people|sort(attribute='age') }}{{ people|sort(attribute='age,name')|map(attribute='name')|list }}{{ "
     "people|sort(attribute='age', reverse=true)|map(attribute='name')|join }}",
     "[1, 2, 3][3, 2, 1]['apple', 'Banana', 'cherry']['Banana', 'apple', 'cherry'][{'name': 'al', 'age': 2}, "
     "{'name': 'Bo', 'age': 3}, {'name': 'Cy', 'age': 3}]['al', 'Bo', 'Cy']BoCyal"},
    {"{{ words|map('upper')|list }}{{ words|map('length')|list }}{{ people|map(attribute='name')|join(', ') "
     "}}{{ people|map(attribute='zz', default='D')|join(',') }}{{ words|map('replace','a','X')|list }}",
     "['APPLE', 'BANANA', 'CHERRY'][5, 6, 6]Bo, al, CyD,D,D['Xpple', 'BXnXnX', 'cherry']"},
    {"{{ people|selectattr('age','equalto',3)|map(attribute='name')|list }}{{ "
     "people|rejectattr('age','equalto',3)|list }}{{ [1,2,3,4]|select('odd')|list }}{{ "
     "[1,2,3,4]|reject('odd')|list }}{{ [0,1,'',none,'a']|select|list }}{{ "
     "people|selectattr('name')|list|length }}{{ people|selectattr('zz','defined')|list }}{{ "
     "people|selectattr('age','gt',2)|list|length }}{{ people|selectattr('age','in',[2])|list|length }}",
     "['Bo', 'Cy'][{'name': 'al', 'age': 2}][1, 3][2, 4][1, 'a']3[]21"},
    {"{{ [1,2,1,'a','A']|unique|list }}{{ l|min }}{{ l|max }}{{ l|sum }}{{ people|sum(attribute='age') }}{{ "
     "words|min }}{{ words|max }}{{ []|min }}{{ people|max(attribute='age') }}",
     "[1, 2, 'a']1368applecherry{'name': 'Bo', 'age': 3}"},
    {"{{ l|first }}{{ l|last }}{{ []|first }}{{ ''|last }}{{ s|first }}{{ s|last }}{{ d|first }}{{ d|last }}",
     "32Hdbitems"},
    {"{{ l|join }}{{ l|join(', ') }}{{ l|join('-')|upper }}{{ 'abc'|join('.') }}{{ [none,1.5,'x']|join(',') "
     "}}",
     "3123, 1, 23-1-2a.b.cNone,1.5,x"},
    {"{{ l|reverse|list }}{{ 'abc'|reverse }}{{ l|batch(2)|list }}{{ l|batch(2,'x')|list }}{{ "
     "range(7)|slice(3)|list }}{{ range(7)|slice(3,'x')|list }}",
     "[2, 1, 3]cba[[3, 1], [2]][[3, 1], [2, 'x']][[0, 1, 2], [3, 4], [5, 6]][[0, 1, 2], [3, 4, 'x'], [5, 6, "
     "'x']]"},
    {"{{ n|string + 'x' }}{{ '5'|int + 1 }}{{ '5.7'|int }}{{ 'x'|int }}{{ 'x'|int(3) }}{{ 'ff'|int(base=16) "
     "}}{{ '0x1f'|int(base=16) }}{{ 5.9|int }}{{ none|int }}{{ '1_000'|int }}{{ ' 42 '|int }}{{ '1e3'|int }}",
     "5x650325531501000421000"},
    {"{{ '5.5'|float }}{{ 'x'|float }}{{ 5|float }}{{ '1e3'|float }}{{ 'inf'|float }}{{ 'nan'|float }}",
     "5.50.05.01000.0infnan"},
    {"{{ 42.55|round(1) }}{{ 42.5|round }}{{ 43.5|round }}{{ 42.1|round(0,'ceil') }}{{ 42.9|round(0,'floor') "
     "}}{{ 5|round }}{{ 1234|round(-2) }}{{ 2.675|round(2) }}{{ 1250|round(-2) }}{{ 1350|round(-2) }}{{ "
     "-1250|round(-2) }}",
     "42.542.044.043.042.0512002.6712001400-1200"},
    {"{{ -5|abs }}{{ (-5)|abs }}{{ -5.5|abs }}{{ neg|abs }}", "555.57"},
    {"{{ s|trim }}|{{ '  a '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ none|trim }}|{{ 5|trim }}",
     "Hello, World|a|a|None|5"},
    {"{{ s|replace('l','L') }}{{ s|replace('l','L',1) }}{{ 'aaa'|replace('','-') }}{{ "
     "'aaa'.replace('a','b',2) }}{{ 'abc'.replace('','-',2) }}{{ 5|replace('5','6') }}",
     "HeLLo, WorLdHeLlo, World-a-a-a-bba-a-bc6"},
    {"{{ nl|indent }}|{{ nl|indent(2,true) }}|{{ nl|indent(2,true,true) }}|{{ nl|indent('>>') }}|{{ "
     "''|indent }}|{{ 'a'|indent(2,first=true) }}",
     "a\n    b\n\n    c\n|  a\n  b\n\n  c\n|  a\n  b\n  \n  c\n  |a\n>>b\n\n>>c\n||  a"},
    {"{{ 'a,b,,c'.split(',') }}{{ 'a b  c '.split() }}{{ 'a b  c '.split(' ') }}{{ ' a b c'.split(none,1) "
     "}}{{ 'a,b,c'.split(',',1) }}{{ 'a,b,c'.rsplit(',',1) }}{{ ' a b c '.rsplit(none,1) }}{{ ''.split() "
     "}}{{ ''.split(',') }}{{ nl.splitlines() }}{{ nl.splitlines(true) }}{{ 'a-b-c'.partition('-') }}{{ "
     "'a-b-c'.rpartition('-') }}{{ 'abc'.partition('-') }}{{ 'abc'.rpartition('-') }}",
     "['a', 'b', '', 'c']['a', 'b', 'c']['a', 'b', '', 'c', '']['a', 'b c']['a', 'b,c']['a,b', 'c'][' a b', "
     "'c'][]['']['a', 'b', '', 'c']['a\\n', 'b\\n', '\\n', 'c\\n']('a', '-', 'b-c')('a-b', '-', 'c')('abc', "
     "'', '')('', '', 'abc')"},
    {"{{ 'a'.split('') }}", NULL},
    {"{{ '  x '.strip() }}|{{ '  x '.lstrip() }}|{{ '  x '.rstrip() }}|{{ 'xyx'.strip('x') }}|{{ "
     "'üxü'.strip('ü') }}|{{ 'abc'.strip('ac') }}|{{ ' a'.strip(none) }}",
     "x|x |  x|y|x|b|a"},
    {"{{ s.startswith('Hel') }}{{ s.endswith('ld') }}{{ s.startswith(('x','H')) }}{{ s.startswith('W',7) "
     "}}{{ s.endswith('Hello',0,5) }}{{ s.startswith('') }}{{ s.startswith('', 50) }}",
     "TrueTrueTrueTrueTrueTrueFalse"},
    {"{{ s.startswith(['H']) }}", NULL},
    {"{{ s.find('o') }}{{ s.find('zz') }}{{ s.rfind('o') }}{{ s.index('o') }}{{ s.count('l') }}{{ "
     "s.count('') }}{{ s.find('o',5) }}{{ s.find('') }}{{ s.rfind('') }}{{ uni.find('ß') }}{{ uni.find('é') "
     "}}{{ s.count('l',4) }}{{ s.find('l',-3) }}",
     "4-1843138012412110"},
    {"{{ s.index('zz') }}", NULL},
    {"{{ 'a'.center(4) }}|{{ 'ab'.center(5,'*') }}|{{ 'a'.ljust(3,'.') }}|{{ 'a'.rjust(3) }}|{{ '5'.zfill(3) "
     "}}|{{ '-5'.zfill(4) }}|{{ 'a'|center(5) }}|{{ 'abc'.center(2) }}",
     " a  |**ab*|a..|  a|005|-005|  a  |abc"},
    {"{{ '-'.join(words) }}{{ ''.join([]) }}{{ ','.join('abc') }}{{ ','.join(d) }}",
     "apple-Banana-cherrya,b,cb,a,C,items"},
    {"{{ ','.join([1]) }}", NULL},
    {"{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ '1a'.isalnum() }}{{ ' '.isspace() }}{{ 'A'.isupper() }}{{ "
     "'a1'.islower() }}{{ ''.isalpha() }}{{ '½'.isnumeric() }}{{ 'a'.isascii() }}{{ ''.isascii() }}",
     "TrueTrueTrueTrueTrueTrueFalseTrueTrueTrue"},
    {"{{ 'abc'.upper().lower().title().swapcase() }}{{ \"they're bill's\".title() }}{{ \"they're bill's-x "
     "(foo\"|title }}{{ 'hELLO wORLD'|capitalize }}",
     "aBCThey'Re Bill'SThey're Bill's-X (FooHello world"},
    {"{{ '{} {}'.format(1,'a') }}{{ '{0}{1}{0}'.format('x','y') }}{{ '{a}-{b}'.format(a=1,b=[1]) }}{{ "
     "'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:+d}|{:x}|{:,}|{!r}'.format('a','b','c',42,3.14159,5,255,1234567,'q')"
     " }}{{ '{{}}'.format() }}{{ '{0[a]}{0[b]}'.format(d) }}{{ '{x.y}'.format(x={'y':4}) }}{{ "
     "'{:*^9}'.format('mid') }}{{ '{:%}'.format(0.5) }}{{ '{:e}'.format(12345.678) }}{{ "
     "'{:g}'.format(0.00001) }}{{ '{:b}'.format(10) }}{{ '{:#x}'.format(255) }}{{ '{:5}|{:5}'.format('a', 3) "
     "}}{{ '{}'.format(none) }}{{ '{:.3}'.format('abcdef') }}",
     "1 axyx1-[1]    a|b    |  c  "
     "|00042|3.14|+5|ff|1,234,567|'q'{}214***mid***50.000000%1.234568e+041e-0510100xffa    |    3Noneabc"},
    {"{{ '%s-%d-%.2f-%r-%%-%5s|%-5s|%05d|%x' % ('a', 5, 3.14159, 'q', 'r', 'l', 42, 255) }}{{ '%s' % 5 }}{{ "
     "'%s' % [1] }}{{ '%(a)s' % {'a': 1} }}{{ '%s %s'|format('a', 'b') }}{{ '%(x)s'|format(x=1) }}{{ '%+d % "
     "d' % (3, 4) }}{{ '%s' % ('x',) }}",
     "a-5-3.14-'q'-%-    r|l    |00042|ff5[1]1a b1+3  4x"},
    {"{{ '%s' % (1,2) }}", NULL},
    {"{{ '%s %s' % 1 }}", NULL},
    {"{{ '%d' % 'a' }}", NULL},
    {"{{ messages|tojson }}|{{ messages|tojson(indent=2) }}|{{ d|tojson(sort_keys=true) }}|{{ "
     "d|tojson(separators=(',',':')) }}|{{ tabs|tojson }}|{{ uni|tojson(ensure_ascii=true) }}|{{ "
     "'🌍'|tojson(ensure_ascii=true) }}|{{ []|tojson(indent=2) }}{{ {}|tojson(indent=2) }}|{{ (1,2)|tojson "
     "}}|{{ 1.0|tojson }}{{ 1e20|tojson }}{{ none|tojson }}{{ true|tojson }}|{{ {1:2, none:3, true:4, "
     "1.5:1}|tojson }}|{{ {'a':[1,{'b':2}]}|tojson(indent=4) }}|{{ l|tojson(indent=0) }}|{{ "
     "l|tojson(indent='--') }}",
     "[{\"role\": \"user\", \"content\": \"Hi <b>\"}, {\"role\": \"assistant\", \"content\": null, "
     "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": [1.5, true, null, "
     "\"x\\\"y'\"]}}}]}, {\"role\": \"user\", \"content\": \"ünï 你好 🌍\"}]|[\n  {\n    \"role\": "
     "\"user\",\n    \"content\": \"Hi <b>\"\n  },\n  {\n    \"role\": \"assistant\",\n    \"content\": "
     "null,\n    \"tool_calls\": [\n      {\n        \"function\": {\n          \"name\": \"f\",\n          "
     "\"arguments\": {\n            \"a\": 1,\n            \"b\": [\n              1.5,\n              "
     "true,\n              null,\n              \"x\\\"y'\"\n            ]\n          }\n        }\n      "
     "}\n    ]\n  },\n  {\n    \"role\": \"user\",\n    \"content\": \"ünï 你好 🌍\"\n  }\n]|{\"C\": 3, "
     "\"a\": 2, \"b\": 1, \"items\": "
     "\"shadow\"}|{\"b\":1,\"a\":2,\"C\":3,\"items\":\"shadow\"}|\"a\\tb\\\\cd\177\342\200\213\302\240\"|"
     "\"Stra\\u00dfe \\u0391\\u03a3 \\ufb01 \\u00e9\"|\"\\ud83c\\udf0d\"|[]{}|[1, "
     "2]|1.01e+20nulltrue|{\"1\": 4, \"null\": 3, \"1.5\": 1}|{\n    \"a\": [\n        1,\n        {\n       "
     "     \"b\": 2\n        }\n    ]\n}|[\n3,\n1,\n2\n]|[\n--3,\n--1,\n--2\n]"},
    {"{{ undefinedthing|tojson }}", NULL},
    {"{{ (words|map('upper'))|tojson }}", NULL},
    {"{{ d.items()|tojson }}", NULL},
    {"{{ n is number }}{{ n is integer }}{{ f is float }}{{ t is number }}{{ t is integer }}{{ t is boolean "
     "}}{{ s is string }}{{ l is sequence }}{{ l is iterable }}{{ d is mapping }}{{ d is iterable }}{{ d is "
     "sequence }}{{ s is iterable }}{{ s is sequence }}{{ n is iterable }}{{ nul is none }}{{ nul is not "
     "none }}{{ undefinedthing is iterable }}{{ undefinedthing is sequence }}{{ d.items() is sequence }}{{ "
     "d.items() is iterable }}{{ (words|map('upper')) is iterable }}{{ (words|map('upper')) is sequence }}",
     "TrueTrueTrueTrueFalseTrueTrueTrueTrueTrueTrueTrueTrueTrueFalseTrueFalseTrueTrueFalseTrueTrueFalse"},
    {"{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 'a' is in 'abc' }}{{ "
     "'a' is in ['b'] }}{{ 1 is eq 1 }}{{ 1 is ne 2 }}{{ 2 is gt 1 }}{{ 1 is lt 2 }}{{ 1 is ge 1 }}{{ 1 is "
     "le 0 }}{{ 'a' is equalto 'a' }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ true is true }}{{ false is "
     "false }}{{ 1 is true }}{{ none is sameas none }}{{ range is callable }}{{ 5 is callable }}{{ 'upper' "
     "is filter }}{{ 'zz' is filter }}{{ 'odd' is test }}{{ 'a' is escaped }}",
     "TrueTrueTrueFalseTrueFalseTrueTrueTrueTrueTrueFalseTrueTrueTrueTrueTrueFalseTrueTrueFalseTrueFalseTrueF"
     "alse"},
    {"{{ 1 in l }}{{ 9 in l }}{{ 9 not in l }}{{ 'b' in d }}{{ 'ell' in s }}{{ '' in s }}{{ 1 in range(3) "
     "}}{{ 1.0 in [1] }}{{ true in [1] }}{{ 'x' in undefinedthing }}{{ ('b',1) in d.items() }}{{ 'b' in "
     "d.keys() }}",
     "TrueFalseTrueTrueTrueTrueTrueTrueTrueFalseTrueTrue"},
    {"{{ 1 in 'abc' }}", NULL},
    {"{{ 'a' in none }}", NULL},
    {"{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ [1,2] < [1,3] }}{{ (1,) == (1,) }}{{ [1] "
     "== (1,) }}{{ {'a':1} == {'a':1.0} }}{{ none == none }}{{ 1 == '1' }}{{ true == 1 }}{{ undefinedthing "
     "== zzz }}{{ undefinedthing == none }}{{ 1 != 2 }}{{ 2 >= 2 }}{{ 'a' == 'a' != 'b' }}",
     "TrueFalseTrueTrueTrueTrueFalseTrueTrueFalseTrueTrueFalseTrueTrueTrue"},
    {"{{ 1 < 'a' }}", NULL},
    {"{{ none < 1 }}", NULL},
    {"{{ undefinedthing < 1 }}", NULL},
    {"{{ n and 0 }}{{ 0 or 'x' }}{{ not n }}{{ not '' }}{{ '' or none or [] }}{{ n and s }}{{ not not n }}",
     "0xFalseTrue[]Hello, WorldTrue"},
    {"{{ 'a' * 3 }}{{ 3 * 'a' }}{{ [1] * 2 }}{{ 'a' * 0 }}{{ 'a' * -1 }}{{ [1] + [2] }}{{ (1,) + (2,) }}{{ "
     "'a' 'b' }}",
     "aaaaaa[1, 1][1, 2](1, 2)ab"},
    {"{{ [1] + (2,) }}", NULL},
    {"{{ 1 / 0 }}", NULL},
    {"{{ 1 % 0 }}", NULL},
    {"{{ {'a': 1, 'a': 2, 1: 'x', true: 'y', 1.0: 'z'} }}{{ {'a':1}['a'] }}{{ {1:2}[1] }}{{ {}.a }}{{ "
     "{(1,2): 3}[(1,2)] }}",
     "{'a': 2, 1: 'z'}123"},
    {"{{ {[1]: 2} }}", NULL},
    {"{{ dict(a=1, b=2) }}{{ dict([('x', 1)]) }}{{ dict(d, z=1) }}{{ namespace(a=1).a }}{{ dict() }}",
     "{'a': 1, 'b': 2}{'x': 1}{'b': 1, 'a': 2, 'C': 3, 'items': 'shadow', 'z': 1}1{}"},
    {"{{- ' a ' -}}   b {{ 'c' }}\n{{ 'd' }}", " a b c\nd"},
    {"{{ loop }}", ""},
    {"{{ raise_exception('bad thing: ' ~ n) }}", NULL},
    {"{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%d %b %Y') }}{{ strftime_now('') }}|",
     "2026-01-0202 Jan 2026|"},
    {"{{ bos_token }}{{ eos_token }}", "<s></s>"},
    {"{{ foo() }}", NULL},
    {"{{ s.foo() }}", NULL},
    {"{{ n() }}", NULL},
    {"{{ l.append(1) }}", NULL},
    {"{{ l.append is defined }}", "False"},
    {"{{ d.update({}) }}", NULL},
    {"{{ l.index(1) }}{{ l.count(1) }}{{ (1,2).index(2) }}{{ l.copy() }}{{ d.copy() }}",
     "111[3, 1, 2]{'b': 1, 'a': 2, 'C': 3, 'items': 'shadow'}"},
    {"{{ x|nosuchfilter }}", NULL},
    {"{{ x is nosuchtest }}", NULL},
    {"{{ (x|nosuchfilter) if false else 'ok' }}", "ok"},
    {"{{ x", NULL},
    {"{{ 'abc }}", NULL},
    {"{{ (1 }}", NULL},
    {"{{ 1) }}", NULL},
    {"{{ }}", NULL},
    {"{{ a b }}", NULL},
    {"{{ x.1 }}{{ l.0 }}{{ l.1 }}{{ nested.x.y[0].z }}{{ nested['x']['y'][0]['z'] }}", NULL},
    {"{{ messages[0].content }}{{ messages[-1]['content'] }}{{ messages[1:]|length }}{{ "
     "messages[1].tool_calls[0].function.arguments.b }}",
     "Hi <b>ünï 你好 🌍2[1.5, True, None, 'x\"y\\'']"},
    {"{{ 'a\\nb\\t\\\\\\'\\\"\\x41\\u00e9\\U0001F30D\\101\\q\\\nc' }}", "a\nb\t\\'\"Aé🌍A\\qc"},
    {"{{ \"it's\" }}{{ 'say \"x\"' }}", "it'ssay \"x\""},
    {"{{ 0x1F }}{{ 0b101 }}{{ 0o17 }}{{ 1_000 }}{{ 1_0.5_0 }}{{ 00 }}", "31515100010.50"},
    {"{{ 012 }}", NULL},
    {"{{ 1.e5 }}", ""},
    {"{{ true }}{{ True }}{{ none }}{{ None }}{{ false }}{{ False }}", "TrueTrueNoneNoneFalseFalse"},
    {"{{ n|default(3) }}{{ zz|default(3) }}{{ zz|d('x') }}{{ ''|default('x', true) }}{{ nul|default('x') "
     "}}{{ nul|default('x', boolean=true) }}{{ zz|default }}{{ d.zz|default('q') }}",
     "53xxNonexq"},
    {"{{ s|length }}{{ l|count }}{{ d|length }}{{ zz|length }}{{ range(5)|length }}{{ d.items()|length }}",
     "1234054"},
    {"{{ n|length }}", NULL},
    {"{{ none|length }}", NULL},
    {"{{ (words|map('upper'))|length }}", NULL},
    {"{{ s|list }}{{ d|list }}{{ d.values()|list }}{{ zz|list }}{{ none|list is defined }}", NULL},
    {"{{ '<a href=\"x\">&\\'</a>'|escape }}{{ '<'|e }}{{ '<'|safe }}",
     "&lt;a href=&#34;x&#34;&gt;&amp;&#39;&lt;/a&gt;&lt;<"},
    {"{{ d|items|list }}{{ zz|items|list }}", "[('b', 1), ('a', 2), ('C', 3), ('items', 'shadow')][]"},
    {"{{ l|items|list }}", NULL},
    {"{{ 'hello world foo bar'|truncate(11) }}|{{ 'hello world foo bar'|truncate(11,true) }}|{{ 'hello world "
     "foo bar'|truncate(11,false,'!',0) }}|{{ 'short'|truncate(4) }}|{{ 'one two, three'|wordcount }}",
     "hello...|hello wo...|hello!|short|3"},
    {"{{ n if n is defined and n > 3 else 'no' }}{{ 'x' if nul else 'y' if n else 'z' }}", "5y"},
    {"{{ [1,2,][0] }}{{ (1,) }}{{ () }}{{ [] }}{{ {} }}{{ {'a':1,} }}{{ (1) }}", "1(1,)()[]{}{'a': 1}1"},
    {"{{ {'a': {'b': {}}} }}{{ {'a':{'b':1}}.a.b }}", "{'a': {'b': {}}}1"},
    {"{{ messages | selectattr('role', 'equalto', 'user') | list | last }}",
     "{'role': 'user', 'content': 'ünï 你好 🌍'}"},
    {"{{ '%s' % none }}{{ 'a' if none is none }}", "Nonea"},
    {"{{ -n }}{{ +n }}{{ -f }}{{ - -n }}{{ -(n) + 2 * 3 - 4 / 2 }}{{ not n == 5 }}{{ -n ** 2 }}{{ 2 ~ 3 + 4 "
     "}}{{ 1 + 2 ~ 3 }}",
     NULL},
    {"{{ -s }}", NULL},
    {"{{ 'a'.__class__ }}", ""},
    {"{{ 'a'.__class__ is defined }}", "False"},
    {"{{ 'a'.__class__.__mro__ }}", NULL},
    {"{{ d.__len__() }}", NULL},
    {"{{ range(100001)|length }}", NULL},
    {"{{ range(1,2,0) }}", NULL},
    {"{{ ['a','b']|string }}{{ none|string }}{{ 1.0|string }}{{ true|upper }}", "['a', 'b']None1.0TRUE"},
    {"{{ [uni,'\\u200b','\\xa0','\\x1b','🌍','\\u0301'] }}",
     "['Straße ΑΣ ﬁ é', '\\u200b', '\\xa0', '\\x1b', '🌍', '\314\201']"},
    {"{{ s | upper | lower | title }}{{ (s | upper).lower() }}{{ s.upper() | lower }}",
     "Hello, Worldhello, worldhello, world"},
    {"{{ n | string | length }}{{ (n | string) | length }}{{ n ~ '' | length }}", "1150"},
    {"{{ \"a\" if 1 else \"b\" }}{{ (\"a\", \"b\")[0] }}{{ \"abc\"[1] }}{{ [1,2][-1] }}{{ {\"a\": "
     "1}.get(\"b\", {}).get(\"c\") }}",
     "aab2None"},
    {"{{ \"abc\".foo }}|{{ l.foo }}|{{ n.foo }}|{{ l['x'] }}|{{ s['upper']() }}|{{ l['append'] is defined }}",
     "||||HELLO, WORLD|False"},
    {"{{ d['nope']['x'] }}", NULL},
    {"{{ l[0]['x'] }}{{ none['x'] is defined }}", "False"},
    {"{{ d[0:1] }}", NULL},
    {"{{ zz[0:1] }}", NULL},
    {"{{ s[1.5] }}|{{ l['0'] }}|{{ l[none] }}|{{ l[true] }}", "|||1"},
    {"{{ s['a':] }}", NULL},
    {"{{ s[::0] }}", NULL},
    {"{{ s | center(20) }}|{{ 'a'.join(['x', 'y']) }}|{{ 'x'.join({'a':1}) }}", "    Hello, World    |xay|a"},
    {"{{ 'ΑΣ ΣΑΣ Σ'.lower() }}{{ 'ŉǰ'.upper() }}{{ 'İ'.lower()|length }}{{ 'ǆ'.title() }}{{ 'ﬁx'.title() "
     "}}{{ 'ßa'.capitalize() }}",
     "ας σας σʼNJ̌2ǅFixSsa"},
    {"{{ 'a b'.split(' ')|first }}{{ 'a<|im_end|>b'.split('<|im_end|>')[-1] }}", "ab"},
    {"{{ '\\u2028a\\u2028b'.splitlines() }}{{ 'a\\x0bb\\x0cc\\x1cd\\x85e'.splitlines() }}{{ '\\u3000 "
     "x\\u2003'.strip() }}|",
     "['', 'a', 'b']['a', 'b', 'c', 'd', 'e']x|"},
    {"{{ [1, 2] | map('string') | join('+') }}{{ [[1,2],[3]] | map('length') | sum }}{{ [[1,2],[3]] | "
     "sum(start=[]) }}",
     "1+23[1, 2, 3]"},
    {"{{ ['b','a'] | sort | first }}{{ {'b':1,'a':2} | sort }}{{ 'cab' | sort }}",
     "a['a', 'b']['a', 'b', 'c']"},
    {"{{ [1,'a'] | sort }}", NULL},
    {"{{ [none, 1] | max }}", NULL},
    {"{{ 'x' * 2.0 }}", NULL},
    {"{{ [3,1]|sort is defined }}{{ 'a' is string and 'b' is string }}{{ not 'a' is string }}{{ 'a' is not "
     "string }}{{ n is not defined or n is number }}",
     "TrueTrueFalseFalseTrue"},
    {"{{ n is divisibleby 5 and true }}{{ 4 is in [4] }}{{ n is gt 3 }}{{ [1,2] is in [[1,2]] }}",
     "TrueTrueTrueTrue"},
    {"{{ 5 is odd is true }}", NULL},
    {"{{ ''.join(['<', 'think', '>']) }}{{ '</think>' in 'a</think>b' }}{{ "
     "'a</think>b'.split('</think>')[-1].lstrip('\\n') }}",
     "<think>Trueb"},
    {"{{ '1' + '2' * 3 }}{{ '%d items' % 3 }}{{ '%5.1f|' % 3.14159 }}", "12223 items  3.1|"},
    {"{{ 9007199254740993 }}{{ 9007199254740993 + 1 }}{{ big * 1000 }}{{ big / 3 }}{{ big // 7 }}{{ big % 7 "
     "}}",
     "9007199254740993900719925474099412345678901200041152263004.0176366841444"},
    {"{{ 1 if true else 2 if true else 3 }}{{ (1 if false else 2) + 1 }}{{ [1 if n else 2, 3] }}",
     "13[1, 3]"},
    {"{{ messages|map(attribute='role')|unique|join(',') }}{{ "
     "messages|map(attribute='content')|select('string')|list|length }}{{ "
     "messages|selectattr('tool_calls','defined')|list|length }}{{ "
     "messages|map(attribute='tool_calls.0.function.name', default='-')|join('|') }}",
     "user,assistant21-|f|-"},
};

#endif
