/* SPDX-License-Identifier: Apache-2.0 */
/* Seeded random test of common/text/template's marks: random expressions over user text and template
 * text. The user's words are made of digits that templates here never write, so the output itself
 * tells where each byte came from: a user's digit must lie in a user span, and a letter of the template
 * must not. Rerun with KVASIR_SEED. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "tests/unit/template_rig.h"

enum { ROUNDS = 20000, DEPTH_MAX = 5 };

static const char user_letters[] = "qQwWzZ"; // in no template text below, whatever the case
static const char variables[] =
    "{\"a\": \"qw\", \"b\": \" QwéZ\\n\", \"c\": \"<|q|>Z<|w|>\", \"l\": [\"wq\", \"z\"],"
    " \"d\": {\"q\": \"w\", \"Z\": [\"qq\"]}}";

static const char *pick(struct rng *rng, const char *const *choices, size_t count)
{
    return choices[rng_below(rng, count)];
}
#define PICK(rng, array) pick((rng), (array), COUNT_OF(array))

static void write_text(struct rng *rng, struct buf *out, int depth);

/* An expression whose value is a list of texts. */
static void write_list(struct rng *rng, struct buf *out, int depth)
{
    static const char *const lists[] = {"l", "d", "d.Z", "[a, 'T']", "['t', b, c]"};
    static const char *const maps[] = {
        "|map('upper')|list", "|reverse|list", "|sort", "[::-1]",         "[1:]",
        "|unique|list",       "|select|list",  "*2",    "|batch(2)|first"};
    static const char *const splits[] = {".split()",      ".split('|')", ".rsplit('<', 1)",
                                         ".splitlines()", "|list",       ".partition('|')|list",
                                         ".split(a)"};
    if (depth >= DEPTH_MAX || rng_below(rng, 3) == 0) {
        buf_puts(out, PICK(rng, lists));
        return;
    }
    buf_puts(out, "(");
    if (rng_below(rng, 2) == 0) {
        buf_puts(out, "(");
        write_list(rng, out, depth + 1);
        buf_puts(out, "|list)");
        buf_puts(out, PICK(rng, maps));
    } else {
        buf_puts(out, "(");
        write_text(rng, out, depth + 1);
        buf_puts(out, ")");
        buf_puts(out, PICK(rng, splits));
    }
    buf_puts(out, ")");
}

static void write_binary(struct rng *rng, struct buf *out, int depth, const char *head, const char *middle,
                         const char *tail)
{
    buf_puts(out, head);
    write_text(rng, out, depth + 1);
    buf_puts(out, middle);
    write_text(rng, out, depth + 1);
    buf_puts(out, tail);
}

/* An expression whose value is a text. */
static void write_text(struct rng *rng, struct buf *out, int depth)
{
    static const char *const leaves[] = {"a",   "b",      "c",       "d.q", "l[0]",
                                         "'T'", "'t|Tx'", "' <t> '", "''",  "'é\\n'"};
    static const char *const suffixes[] = {"|upper",
                                           "|lower",
                                           "|title",
                                           "|capitalize",
                                           "|trim",
                                           "|tojson",
                                           "|string",
                                           "|indent(2, true)",
                                           "|replace('t', 'x')",
                                           "|replace('', 'T')",
                                           "[1:]",
                                           "[:-1]",
                                           "[::-1]",
                                           "[::2]",
                                           "[-3:]",
                                           "*3",
                                           ".strip('<')",
                                           ".lstrip()",
                                           ".title()",
                                           ".swapcase()",
                                           ".center(9, '*')",
                                           ".zfill(5)",
                                           "|reverse",
                                           "|first|default('T')",
                                           "|truncate(5, false, 't', 0)",
                                           "|tojson(ensure_ascii=true)",
                                           "|list|string",

                                           ".removeprefix('T')",
                                           "|default('T', true)"};
    uint64_t kind = depth >= DEPTH_MAX ? 0 : rng_below(rng, 10);
    if (kind == 0) {
        buf_puts(out, PICK(rng, leaves));
    } else if (kind <= 4) {
        buf_puts(out, "(");
        write_text(rng, out, depth + 1);
        buf_puts(out, ")");
        buf_puts(out, PICK(rng, suffixes));
    } else if (kind == 5) {
        write_binary(rng, out, depth, "(", rng_below(rng, 2) ? " + " : " ~ ", ")");
    } else if (kind == 6) {
        write_binary(rng, out, depth, "('[{}-{:>7}]'.format(", ", ", "))");
    } else if (kind == 7) {
        write_binary(rng, out, depth, "('%s/%-6s' % (", ", ", "))");
    } else if (kind == 8) {
        write_binary(rng, out, depth, "((", ")|replace('w', ", "))");
    } else {
        buf_puts(out, "((");
        write_list(rng, out, depth + 1);
        buf_puts(out, rng_below(rng, 2) ? ")|join('x'))" : ")|string)");
    }
}

static void write_template(struct rng *rng, struct buf *out)
{
    switch (rng_below(rng, 4)) {
    case 0:
        buf_puts(out, "T{{ ");
        write_text(rng, out, 0);
        buf_puts(out, " }}t");
        break;
    case 1:
        buf_puts(out, "{% set ns = namespace(t='') %}{% for i in ");
        write_list(rng, out, 0);
        buf_puts(out, " %}{% set ns.t = ns.t ~ i ~ 'T' %}{% endfor %}{{ ns.t }}");
        break;
    case 2:
        buf_puts(out, "{% macro f(x, y='t') %}T{{ x }}{{ y | upper }}{% endmacro %}{{ f(");
        write_text(rng, out, 0);
        buf_puts(out, ") }}{{ f(y=a) }}");
        break;
    default:
        buf_puts(out, "{% set x %}t{{ ");
        write_text(rng, out, 0);
        buf_puts(out, " }}{% endset %}{% filter upper %}{{ x }}{% endfilter %}{{ x[2:] }}");
        break;
    }
}

static void check_letters(const struct template_output *output, const char *source)
{
    template_rig_check(output);
    for (size_t i = 0; i < output->span_count; i++) {
        const struct template_span *span = &output->spans[i];
        for (size_t at = span->first; at < span->first + span->len; at++) {
            char c = (char)output->text.bytes[at];
            bool is_users = c && strchr(user_letters, c), is_templates = c == 'T' || c == 't';
            if ((!is_users || span->is_user) && (!is_templates || !span->is_user)) continue;
            print_error("byte %zu '%c' is marked %s in %s\n  of %s\n", at, c,
                        span->is_user ? "user" : "template", buf_text(&output->text), source);
            fail();
        }
    }
}

static void test_template_random_expressions_keep_marks(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : clock_wall_ns();
    struct rng rng = {.state = seed};
    struct template_limits limits = template_limits_default;
    int rendered = 0;
    print_message("KVASIR_SEED=%llu\n", (unsigned long long)seed);
    limits.output_bytes_max = 1 << 16;
    limits.memory_bytes_max = 8 << 20;
    cJSON *json = cJSON_Parse(variables);
    assert_non_null(json);
    for (int round = 0; round < ROUNDS; round++) {
        struct template_output output = {0};
        struct err err = {0};
        struct buf source;
        buf_init(&source, 1 << 20);
        write_template(&rng, &source);
        int r = template_rig_render(buf_text(&source), source.len, json, &limits, &output, &err);
        if (r == 0) check_letters(&output, buf_text(&source));
        else if (r != ERR_INPUT && r != ERR_LIMIT) print_error("%s: %s\n", buf_text(&source), err.text);
        if (r < 0) assert_true(r == ERR_INPUT || r == ERR_LIMIT);
        rendered += r == 0;
        template_output_done(&output);
        buf_done(&source);
    }
    print_message("%d of %d rendered\n", rendered, ROUNDS);
    assert_true(rendered > ROUNDS / 2);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_template_random_expressions_keep_marks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
