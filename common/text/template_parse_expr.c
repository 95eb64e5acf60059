/* SPDX-License-Identifier: Apache-2.0 */
/* template_parse_expr - expressions. From loosest to tightest: inline if, or, and, not, comparisons,
 * + -, ~, * / // %, **, unary signs, then postfix (attribute, item, call) and filters and tests.
 * Left-associative chains are loops, so that a long sum does not nest here. */
#include "common/text/template_parse.h"

#include <string.h>

#include "common/base/check.h"
#include "common/text/template_builtin.h"

static struct tmpl_node *parse_unary(struct tmpl_parser *parser, bool with_filters);
static struct tmpl_node *parse_or(struct tmpl_parser *parser);

static struct tmpl_node *unary_node(struct tmpl_parser *parser, enum tmpl_node_kind kind, uint32_t line,
                                    struct tmpl_node *operand)
{
    struct tmpl_node *node = operand ? tmpl_parser_node(parser, kind, line) : NULL;
    if (node) node->unary = operand;
    return node;
}

static struct tmpl_node *pair_node(struct tmpl_parser *parser, enum tmpl_node_kind kind, uint32_t line,
                                   int op, struct tmpl_node *left, struct tmpl_node *right)
{
    struct tmpl_node *node = left && right ? tmpl_parser_node(parser, kind, line) : NULL;
    if (!node) return NULL;
    node->op = op;
    node->pair.left = left;
    node->pair.right = right;
    return node;
}

static struct tmpl_node *const_node(struct tmpl_parser *parser, uint32_t line, struct tmpl_value value)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_CONST, line);
    if (node) node->constant = value;
    return node;
}

/* --- calls -------------------------------------------------------------------------------------- */

static int push_keyword(struct tmpl_parser *parser, struct tmpl_call_args *args)
{
    struct tmpl_keyword keyword = {.name = tmpl_parser_string(parser, parser->token.text, parser->token.len)};
    if (!keyword.name || tmpl_parser_next(parser) < 0 || tmpl_parser_next(parser) < 0) return parser->code;
    keyword.node = tmpl_parse_expression(parser);
    if (!keyword.node) return parser->code;
    size_t n = args->keyword_count;
    if ((n & (n - 1)) == 0) { // powers of two are where the array is full
        struct tmpl_keyword *grown = tmpl_parser_alloc(parser, (n ? 2 * n : 1) * sizeof *grown);
        if (!grown) return parser->code;
        if (n) memcpy(grown, args->keywords, n * sizeof *grown);
        args->keywords = grown;
    }
    args->keywords[args->keyword_count++] = keyword;
    return 0;
}

/* ( a, b, *rest, key=value, **more ) */
static int parse_call_args(struct tmpl_parser *parser, struct tmpl_call_args *args)
{
    *args = (struct tmpl_call_args){0};
    uint32_t line = parser->token.line;
    if (tmpl_parser_expect(parser, TOK_LPAREN) < 0) return parser->code;
    bool is_first = true;
    while (parser->token.kind != TOK_RPAREN) {
        if (!is_first) {
            if (tmpl_parser_expect(parser, TOK_COMMA) < 0) return parser->code;
            if (parser->token.kind == TOK_RPAREN) break; // a trailing comma
        }
        is_first = false;
        bool has_stars = args->star || args->star_star, is_ok;
        if (tmpl_parser_skip(parser, TOK_MUL)) {
            is_ok = !has_stars;
            args->star = tmpl_parse_expression(parser);
        } else if (tmpl_parser_skip(parser, TOK_POW)) {
            is_ok = !args->star_star;
            args->star_star = tmpl_parse_expression(parser);
        } else {
            if (tmpl_parser_look(parser) < 0) return parser->code;
            if (parser->token.kind == TOK_NAME && parser->ahead.kind == TOK_ASSIGN) {
                is_ok = !args->star_star;
                if (push_keyword(parser, args) < 0) return parser->code;
            } else {
                is_ok = !has_stars && args->keyword_count == 0;
                struct tmpl_node *node = tmpl_parse_expression(parser);
                if (!node || tmpl_parser_push(parser, &args->positional, node) < 0) return parser->code;
            }
        }
        if (parser->code < 0) return parser->code;
        if (!is_ok) return tmpl_parser_fail(parser, line, "invalid syntax for function call expression");
    }
    return tmpl_parser_expect(parser, TOK_RPAREN);
}

static struct tmpl_node *parse_call(struct tmpl_parser *parser, struct tmpl_node *callee)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_CALL, parser->token.line);
    if (!node || parse_call_args(parser, &node->call.args) < 0) return NULL;
    node->call.object = callee;
    return node;
}

/* A filter's or test's name with dots, as the name of the builtin. */
static struct tmpl_string *parse_dotted(struct tmpl_parser *parser)
{
    if (parser->token.kind != TOK_NAME) {
        (void)tmpl_parser_expect(parser, TOK_NAME); // fails and says what stood there
        return NULL;
    }
    struct tmpl_string *name = tmpl_parser_string(parser, parser->token.text, parser->token.len);
    if (!name || tmpl_parser_next(parser) < 0) return NULL;
    if (parser->token.kind == TOK_DOT) {
        (void)tmpl_parser_fail(parser, parser->token.line, "dotted filter and test names are not supported");
        return NULL;
    }
    return name;
}

static bool starts_argument(const struct tmpl_parser *parser)
{
    switch (parser->token.kind) {
    case TOK_STRING:
    case TOK_INTEGER:
    case TOK_FLOAT:
    case TOK_LPAREN:
    case TOK_LBRACKET:
    case TOK_LBRACE: return true;
    case TOK_NAME:
        return !tmpl_parser_at_name(parser, "else") && !tmpl_parser_at_name(parser, "or") &&
               !tmpl_parser_at_name(parser, "and");
    default: return false;
    }
}

/* Unknown names fail at compilation, but inside of conditions only when they are reached: templates
 * ask first whether they run under an engine that has the filter. Whether an inline if follows is
 * known later, so the first unknown one is noted here and judged where its statement ends. */
static void note_unknown(struct tmpl_parser *parser, const struct tmpl_node *node)
{
    if (!node->call.builtin && parser->soft_depth == 0 && !parser->unknown) parser->unknown = node;
}

struct tmpl_node *tmpl_parse_filter_name(struct tmpl_parser *parser, struct tmpl_node *object)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_FILTER, parser->token.line);
    if (!node) return NULL;
    node->call.object = object;
    node->call.args = (struct tmpl_call_args){0};
    node->call.name = parse_dotted(parser);
    if (!node->call.name) return NULL;
    node->call.builtin = tmpl_builtin_find(TMPL_FILTERS, node->call.name->bytes, node->call.name->len);
    if (parser->token.kind == TOK_LPAREN && parse_call_args(parser, &node->call.args) < 0) return NULL;
    note_unknown(parser, node);
    return node;
}

struct tmpl_node *tmpl_parse_filters(struct tmpl_parser *parser, struct tmpl_node *node)
{
    while (node && tmpl_parser_skip(parser, TOK_PIPE)) node = tmpl_parse_filter_name(parser, node);
    return parser->code < 0 ? NULL : node;
}

static struct tmpl_node *parse_test(struct tmpl_parser *parser, struct tmpl_node *object)
{
    uint32_t line = parser->token.line;
    if (tmpl_parser_next(parser) < 0) return NULL; // `is`
    bool is_negated = tmpl_parser_skip_name(parser, "not");
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_TEST, line);
    if (!node) return NULL;
    node->call.object = object;
    node->call.args = (struct tmpl_call_args){0};
    node->call.name = parse_dotted(parser);
    if (!node->call.name) return NULL;
    node->call.builtin = tmpl_builtin_find(TMPL_TESTS, node->call.name->bytes, node->call.name->len);
    if (parser->token.kind == TOK_LPAREN) {
        if (parse_call_args(parser, &node->call.args) < 0) return NULL;
    } else if (starts_argument(parser)) {
        if (tmpl_parser_at_name(parser, "is")) {
            (void)tmpl_parser_fail(parser, line, "tests cannot be chained with is");
            return NULL;
        }
        struct tmpl_node *argument = tmpl_parse_postfix(parser, tmpl_parse_primary(parser));
        if (!argument || tmpl_parser_push(parser, &node->call.args.positional, argument) < 0) return NULL;
    }
    note_unknown(parser, node);
    return is_negated ? unary_node(parser, NODE_NOT, line, node) : node;
}

/* --- postfix ------------------------------------------------------------------------------------ */

/* The content of [ ]: an expression or a slice. */
static struct tmpl_node *parse_subscript(struct tmpl_parser *parser, struct tmpl_node *object, uint32_t line)
{
    struct tmpl_node *start = NULL, *stop = NULL, *step = NULL;
    if (parser->token.kind != TOK_COLON) {
        start = tmpl_parse_expression(parser);
        if (!start) return NULL;
        if (parser->token.kind == TOK_COMMA) {
            (void)tmpl_parser_fail(parser, line, "subscripts with a comma are not supported");
            return NULL;
        }
        if (parser->token.kind != TOK_COLON) {
            if (tmpl_parser_expect(parser, TOK_RBRACKET) < 0) return NULL;
            return pair_node(parser, NODE_GETITEM, line, 0, object, start);
        }
    }
    if (tmpl_parser_next(parser) < 0) return NULL; // the first colon
    if (parser->token.kind != TOK_COLON && parser->token.kind != TOK_RBRACKET &&
        !(stop = tmpl_parse_expression(parser)))
        return NULL;
    if (tmpl_parser_skip(parser, TOK_COLON) && parser->token.kind != TOK_RBRACKET &&
        !(step = tmpl_parse_expression(parser)))
        return NULL;
    if (tmpl_parser_expect(parser, TOK_RBRACKET) < 0) return NULL;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_SLICE, line);
    if (!node) return NULL;
    node->slice.object = object;
    node->slice.start = start;
    node->slice.stop = stop;
    node->slice.step = step;
    return node;
}

static struct tmpl_node *parse_attribute(struct tmpl_parser *parser, struct tmpl_node *object, uint32_t line)
{
    struct tmpl_token token = parser->token;
    if (token.kind == TOK_INTEGER) { // x.0
        if (tmpl_parser_next(parser) < 0) return NULL;
        struct tmpl_node *key = const_node(parser, line, value_int(token.integer));
        return pair_node(parser, NODE_GETITEM, line, 0, object, key);
    }
    if (tmpl_parser_expect(parser, TOK_NAME) < 0) return NULL;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_GETATTR, line);
    if (!node) return NULL;
    node->attribute.object = object;
    node->attribute.name = tmpl_parser_string(parser, token.text, token.len);
    return node->attribute.name ? node : NULL;
}

struct tmpl_node *tmpl_parse_postfix(struct tmpl_parser *parser, struct tmpl_node *node)
{
    while (node && parser->code >= 0) {
        uint32_t line = parser->token.line;
        if (tmpl_parser_skip(parser, TOK_DOT)) node = parse_attribute(parser, node, line);
        else if (tmpl_parser_skip(parser, TOK_LBRACKET)) node = parse_subscript(parser, node, line);
        else if (parser->token.kind == TOK_LPAREN) node = parse_call(parser, node);
        else break;
    }
    return parser->code < 0 ? NULL : node;
}

static struct tmpl_node *parse_filter_chain(struct tmpl_parser *parser, struct tmpl_node *node)
{
    while (node && parser->code >= 0) {
        if (parser->token.kind == TOK_PIPE) node = tmpl_parse_filters(parser, node);
        else if (tmpl_parser_at_name(parser, "is")) node = parse_test(parser, node);
        else if (parser->token.kind == TOK_LPAREN) node = parse_call(parser, node);
        else break;
    }
    return parser->code < 0 ? NULL : node;
}

/* --- primaries ---------------------------------------------------------------------------------- */

static struct tmpl_node *parse_list(struct tmpl_parser *parser)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_LIST, parser->token.line);
    if (!node || tmpl_parser_next(parser) < 0) return NULL;
    node->list = (struct tmpl_node_list){0};
    while (parser->token.kind != TOK_RBRACKET) {
        if (node->list.count > 0 && tmpl_parser_expect(parser, TOK_COMMA) < 0) return NULL;
        if (parser->token.kind == TOK_RBRACKET) break;
        struct tmpl_node *item = tmpl_parse_expression(parser);
        if (!item || tmpl_parser_push(parser, &node->list, item) < 0) return NULL;
    }
    return tmpl_parser_expect(parser, TOK_RBRACKET) < 0 ? NULL : node;
}

static struct tmpl_node *parse_dict(struct tmpl_parser *parser)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_DICT, parser->token.line);
    if (!node || tmpl_parser_next(parser) < 0) return NULL;
    node->list = (struct tmpl_node_list){0};
    while (parser->token.kind != TOK_RBRACE) {
        if (node->list.count > 0 && tmpl_parser_expect(parser, TOK_COMMA) < 0) return NULL;
        if (parser->token.kind == TOK_RBRACE) break;
        struct tmpl_node *key = tmpl_parse_expression(parser);
        if (!key || tmpl_parser_expect(parser, TOK_COLON) < 0) return NULL;
        struct tmpl_node *value = tmpl_parse_expression(parser);
        if (!value || tmpl_parser_push(parser, &node->list, key) < 0 ||
            tmpl_parser_push(parser, &node->list, value) < 0)
            return NULL;
    }
    return tmpl_parser_expect(parser, TOK_RBRACE) < 0 ? NULL : node;
}

static struct tmpl_node *parse_name(struct tmpl_parser *parser)
{
    static const struct {
        const char *name;
        struct tmpl_value value;
    } constants[] = {
        {"true", {.kind = VALUE_BOOL, .boolean = true}},
        {"True", {.kind = VALUE_BOOL, .boolean = true}},
        {"false", {.kind = VALUE_BOOL, .boolean = false}},
        {"False", {.kind = VALUE_BOOL, .boolean = false}},
        {"none", {.kind = VALUE_NONE}},
        {"None", {.kind = VALUE_NONE}},
    };
    struct tmpl_token token = parser->token;
    for (size_t i = 0; i < COUNT_OF(constants); i++) {
        if (!tmpl_parser_skip_name(parser, constants[i].name)) continue;
        return const_node(parser, token.line, constants[i].value);
    }
    if (tmpl_parser_next(parser) < 0) return NULL;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_NAME, token.line);
    if (!node || tmpl_parser_symbol(parser, token.text, token.len, &node->symbol) < 0) return NULL;
    for (struct tmpl_macro_scope *macro = parser->macros; macro; macro = macro->outer) {
        macro->uses_varargs |= node->symbol == SYMBOL_VARARGS;
        macro->uses_kwargs |= node->symbol == SYMBOL_KWARGS;
        macro->uses_caller |= node->symbol == SYMBOL_CALLER;
    }
    return node;
}

/* Neighbouring string literals are one. */
static struct tmpl_node *parse_string(struct tmpl_parser *parser)
{
    struct tmpl_token token = parser->token;
    if (tmpl_parser_next(parser) < 0) return NULL;
    struct buf joined;
    buf_init(&joined, SIZE_MAX / 2);
    while (parser->code >= 0 && parser->token.kind == TOK_STRING) {
        if (joined.len == 0) buf_append(&joined, token.text, token.len);
        buf_append(&joined, parser->token.text, parser->token.len);
        if (tmpl_parser_next(parser) < 0) break;
    }
    if (joined.len > 0) {
        char *copy = parser->code < 0 || joined.error ? NULL : tmpl_parser_alloc(parser, joined.len);
        if (copy) memcpy(copy, joined.bytes, joined.len);
        else (void)tmpl_parser_fail(parser, token.line, "out of memory"); // keeps an earlier failure
        token.text = copy;
        token.len = joined.len;
    }
    buf_done(&joined);
    if (parser->code < 0) return NULL;
    struct tmpl_string *string = tmpl_parser_string(parser, token.text, token.len);
    return string ? const_node(parser, token.line, value_string(string)) : NULL;
}

struct tmpl_node *tmpl_parse_primary(struct tmpl_parser *parser)
{
    struct tmpl_token token = parser->token;
    struct tmpl_node *node;
    switch (token.kind) {
    case TOK_NAME: return parse_name(parser);
    case TOK_STRING: return parse_string(parser);
    case TOK_INTEGER:
        if (tmpl_parser_next(parser) < 0) return NULL;
        return const_node(parser, token.line, value_int(token.integer));
    case TOK_FLOAT:
        if (tmpl_parser_next(parser) < 0) return NULL;
        return const_node(parser, token.line, value_float(token.real));
    case TOK_LPAREN:
        if (tmpl_parser_next(parser) < 0) return NULL;
        node = tmpl_parse_tuple(parser, TUPLE_IN_PARENTHESES);
        return !node || tmpl_parser_expect(parser, TOK_RPAREN) < 0 ? NULL : node;
    case TOK_LBRACKET: return parse_list(parser);
    case TOK_LBRACE: return parse_dict(parser);
    default:
        (void)tmpl_parser_fail(parser, token.line, "unexpected '%s'", tmpl_token_name(token.kind));
        return NULL;
    }
}

/* --- operators ---------------------------------------------------------------------------------- */

static struct tmpl_node *parse_unary_inner(struct tmpl_parser *parser, bool with_filters)
{
    uint32_t line = parser->token.line;
    struct tmpl_node *node;
    if (tmpl_parser_skip(parser, TOK_SUB))
        node = unary_node(parser, NODE_NEGATE, line, parse_unary(parser, false));
    else if (tmpl_parser_skip(parser, TOK_ADD))
        node = unary_node(parser, NODE_POSITIVE, line, parse_unary(parser, false));
    else node = tmpl_parse_primary(parser);
    node = tmpl_parse_postfix(parser, node);
    return with_filters ? parse_filter_chain(parser, node) : node;
}

static struct tmpl_node *parse_unary(struct tmpl_parser *parser, bool with_filters)
{
    if (tmpl_parser_enter(parser) < 0) return NULL;
    struct tmpl_node *node = parse_unary_inner(parser, with_filters);
    parser->depth--;
    return node;
}

static struct tmpl_node *parse_power(struct tmpl_parser *parser)
{
    struct tmpl_node *left = parse_unary(parser, true);
    while (left && parser->token.kind == TOK_POW) {
        uint32_t line = parser->token.line;
        if (tmpl_parser_next(parser) < 0) return NULL;
        left = pair_node(parser, NODE_BINARY, line, TOK_POW, left, parse_unary(parser, true));
    }
    return left;
}

static struct tmpl_node *parse_product(struct tmpl_parser *parser)
{
    struct tmpl_node *left = parse_power(parser);
    while (left && (parser->token.kind == TOK_MUL || parser->token.kind == TOK_DIV ||
                    parser->token.kind == TOK_FLOORDIV || parser->token.kind == TOK_MOD)) {
        struct tmpl_token op = parser->token;
        if (tmpl_parser_next(parser) < 0) return NULL;
        left = pair_node(parser, NODE_BINARY, op.line, (int)op.kind, left, parse_power(parser));
    }
    return left;
}

static struct tmpl_node *parse_concat(struct tmpl_parser *parser)
{
    struct tmpl_node *first = parse_product(parser);
    if (!first || parser->token.kind != TOK_TILDE) return first;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_CONCAT, parser->token.line);
    if (!node) return NULL;
    node->list = (struct tmpl_node_list){0};
    if (tmpl_parser_push(parser, &node->list, first) < 0) return NULL;
    while (tmpl_parser_skip(parser, TOK_TILDE)) {
        struct tmpl_node *item = parse_product(parser);
        if (!item || tmpl_parser_push(parser, &node->list, item) < 0) return NULL;
    }
    return parser->code < 0 ? NULL : node;
}

static struct tmpl_node *parse_sum(struct tmpl_parser *parser)
{
    struct tmpl_node *left = parse_concat(parser);
    while (left && (parser->token.kind == TOK_ADD || parser->token.kind == TOK_SUB)) {
        struct tmpl_token op = parser->token;
        if (tmpl_parser_next(parser) < 0) return NULL;
        left = pair_node(parser, NODE_BINARY, op.line, (int)op.kind, left, parse_concat(parser));
    }
    return left;
}

/* The comparison operator at the current token, moved over; 0 when there is none. */
static int take_compare_op(struct tmpl_parser *parser)
{
    if (parser->token.kind >= TOK_EQ && parser->token.kind <= TOK_LE) {
        int op = (int)parser->token.kind;
        return tmpl_parser_next(parser) < 0 ? 0 : op;
    }
    if (tmpl_parser_skip_name(parser, "in")) return COMPARE_IN;
    if (!tmpl_parser_at_name(parser, "not") || tmpl_parser_look(parser) < 0) return 0;
    if (parser->ahead.kind != TOK_NAME || parser->ahead.len != 2 || memcmp(parser->ahead.text, "in", 2) != 0)
        return 0;
    if (tmpl_parser_next(parser) < 0 || tmpl_parser_next(parser) < 0) return 0;
    return COMPARE_NOT_IN;
}

static struct tmpl_node *parse_compare(struct tmpl_parser *parser)
{
    uint32_t line = parser->token.line;
    struct tmpl_node *first = parse_sum(parser);
    int op = first ? take_compare_op(parser) : 0;
    if (op == 0) return parser->code < 0 ? NULL : first;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_COMPARE, line);
    if (!node) return NULL;
    node->compare.first = first;
    node->compare.ops = NULL;
    node->compare.rest = (struct tmpl_node_list){0};
    for (; op != 0; op = take_compare_op(parser)) {
        size_t n = node->compare.rest.count;
        if ((n & (n - 1)) == 0) {
            int32_t *grown = tmpl_parser_alloc(parser, (n ? 2 * n : 1) * sizeof *grown);
            if (!grown) return NULL;
            if (n) memcpy(grown, node->compare.ops, n * sizeof *grown);
            node->compare.ops = grown;
        }
        node->compare.ops[n] = op;
        struct tmpl_node *operand = parse_sum(parser);
        if (!operand || tmpl_parser_push(parser, &node->compare.rest, operand) < 0) return NULL;
    }
    return parser->code < 0 ? NULL : node;
}

static struct tmpl_node *parse_not(struct tmpl_parser *parser)
{
    uint32_t line = parser->token.line;
    if (!tmpl_parser_skip_name(parser, "not")) return parser->code < 0 ? NULL : parse_compare(parser);
    if (tmpl_parser_enter(parser) < 0) return NULL;
    struct tmpl_node *node = unary_node(parser, NODE_NOT, line, parse_not(parser));
    parser->depth--;
    return node;
}

static struct tmpl_node *parse_and(struct tmpl_parser *parser)
{
    struct tmpl_node *left = parse_not(parser);
    while (left && tmpl_parser_at_name(parser, "and")) {
        uint32_t line = parser->token.line;
        if (tmpl_parser_next(parser) < 0) return NULL;
        left = pair_node(parser, NODE_AND, line, 0, left, parse_not(parser));
    }
    return left;
}

static struct tmpl_node *parse_or(struct tmpl_parser *parser)
{
    struct tmpl_node *left = parse_and(parser);
    while (left && tmpl_parser_at_name(parser, "or")) {
        uint32_t line = parser->token.line;
        if (tmpl_parser_next(parser) < 0) return NULL;
        left = pair_node(parser, NODE_OR, line, 0, left, parse_and(parser));
    }
    return left;
}

static struct tmpl_node *parse_cond(struct tmpl_parser *parser)
{
    const struct tmpl_node *unknown = parser->unknown;
    struct tmpl_node *node = parse_or(parser);
    while (node && tmpl_parser_at_name(parser, "if")) {
        struct tmpl_node *cond = tmpl_parser_node(parser, NODE_COND, parser->token.line);
        if (!cond || tmpl_parser_next(parser) < 0) return NULL;
        cond->cond.yes = node;
        cond->cond.no = NULL;
        cond->cond.test = parse_or(parser);
        if (!cond->cond.test) return NULL;
        if (tmpl_parser_skip_name(parser, "else")) {
            cond->cond.no = tmpl_parse_expression(parser);
            if (!cond->cond.no) return NULL;
        }
        node = cond;
        parser->unknown = unknown;
    }
    return parser->code < 0 ? NULL : node;
}

struct tmpl_node *tmpl_parse_expression(struct tmpl_parser *parser)
{
    if (tmpl_parser_enter(parser) < 0) return NULL;
    struct tmpl_node *node = parse_cond(parser);
    parser->depth--;
    return node;
}

struct tmpl_node *tmpl_parse_expression_without_cond(struct tmpl_parser *parser)
{
    return parse_or(parser);
}

struct tmpl_node *tmpl_parse_tuple(struct tmpl_parser *parser, unsigned flags)
{
    uint32_t line = parser->token.line;
    struct tmpl_node_list items = {0};
    bool is_tuple = false;
    for (;;) {
        if (items.count > 0 && tmpl_parser_expect(parser, TOK_COMMA) < 0) return NULL;
        enum tmpl_token_kind kind = parser->token.kind;
        if (kind == TOK_VARIABLE_END || kind == TOK_BLOCK_END || kind == TOK_RPAREN) break;
        if ((flags & TUPLE_UP_TO_RECURSIVE) && tmpl_parser_at_name(parser, "recursive")) break;
        struct tmpl_node *item = flags & TUPLE_WITHOUT_COND ? tmpl_parse_expression_without_cond(parser)
                                                            : tmpl_parse_expression(parser);
        if (!item || tmpl_parser_push(parser, &items, item) < 0) return NULL;
        if (parser->token.kind != TOK_COMMA) break;
        is_tuple = true;
    }
    if (!is_tuple && items.count == 1) return items.nodes[0];
    if (items.count == 0 && !(flags & TUPLE_IN_PARENTHESES)) {
        (void)tmpl_parser_fail(parser, line, "expected an expression, got '%s'",
                               tmpl_token_name(parser->token.kind));
        return NULL;
    }
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_TUPLE, line);
    if (node) node->list = items;
    return node;
}
