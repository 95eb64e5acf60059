/* SPDX-License-Identifier: Apache-2.0 */
/* template_parse - the parser's helpers and the statements. */
#include "common/text/template_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/text/template_builtin.h"

/* One level of nesting in the source takes several of evaluation, and more stack in the parser. */
enum { SOURCE_DEPTH_DIVISOR = 4, MESSAGE_NAME_BYTES = 64 };

static int parse_body(struct tmpl_parser *parser, const char *const *ends, struct tmpl_node_list *ret_body);

/* --- helpers ------------------------------------------------------------------------------------ */

int tmpl_parser_fail(struct tmpl_parser *parser, uint32_t line, const char *format, ...)
{
    if (parser->code < 0) return parser->code;
    char why[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args); // a cut text is still a text
    va_end(args);
    return parser->code = ERR(parser->err, ERR_FORMAT, "template: line %u: %s", line, why);
}

void *tmpl_parser_alloc(struct tmpl_parser *parser, size_t bytes)
{
    void *result = parser->code < 0 ? NULL : tmpl_arena_alloc(&parser->template->arena, bytes);
    if (!result && parser->code >= 0)
        parser->code = ERR(parser->err, ERR_LIMIT, "template: line %u: source needs more than %zu bytes",
                           parser->token.line, parser->template->arena.bytes_max);
    return result;
}

int tmpl_parser_enter(struct tmpl_parser *parser)
{
    if (parser->code < 0) return parser->code;
    if (parser->depth >= parser->depth_max)
        return parser->code = ERR(parser->err, ERR_LIMIT, "template: line %u: source nested deeper than %u",
                                  parser->token.line, parser->depth_max);
    parser->depth++;
    return 0;
}

int tmpl_parser_next(struct tmpl_parser *parser)
{
    if (parser->code < 0) return parser->code;
    if (parser->has_ahead) {
        parser->token = parser->ahead;
        parser->has_ahead = false;
        return 0;
    }
    int r = tmpl_lexer_next(&parser->lexer, &parser->token);
    if (r < 0) parser->code = r;
    return r;
}

int tmpl_parser_look(struct tmpl_parser *parser)
{
    if (parser->code < 0 || parser->has_ahead) return parser->code;
    int r = tmpl_lexer_next(&parser->lexer, &parser->ahead);
    if (r < 0) parser->code = r;
    else parser->has_ahead = true;
    return r;
}

int tmpl_parser_expect(struct tmpl_parser *parser, enum tmpl_token_kind kind)
{
    if (parser->code < 0) return parser->code;
    if (parser->token.kind == kind) return tmpl_parser_next(parser);
    const struct tmpl_token *token = &parser->token;
    if (token->kind == TOK_NAME)
        return tmpl_parser_fail(parser, token->line, "expected '%s', got name '%.*s'", tmpl_token_name(kind),
                                (int)(token->len < MESSAGE_NAME_BYTES ? token->len : MESSAGE_NAME_BYTES),
                                token->text);
    return tmpl_parser_fail(parser, token->line, "expected '%s', got '%s'", tmpl_token_name(kind),
                            tmpl_token_name(token->kind));
}

bool tmpl_parser_skip(struct tmpl_parser *parser, enum tmpl_token_kind kind)
{
    return parser->code >= 0 && parser->token.kind == kind && tmpl_parser_next(parser) >= 0;
}

bool tmpl_parser_at_name(const struct tmpl_parser *parser, const char *name)
{
    return parser->code >= 0 && parser->token.kind == TOK_NAME && parser->token.len == strlen(name) &&
           memcmp(parser->token.text, name, parser->token.len) == 0;
}

bool tmpl_parser_skip_name(struct tmpl_parser *parser, const char *name)
{
    return tmpl_parser_at_name(parser, name) && tmpl_parser_next(parser) >= 0;
}

struct tmpl_node *tmpl_parser_node(struct tmpl_parser *parser, enum tmpl_node_kind kind, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_alloc(parser, sizeof *node);
    if (!node) return NULL;
    *node = (struct tmpl_node){.kind = (uint8_t)kind, .line = line};
    return node;
}

int tmpl_parser_push(struct tmpl_parser *parser, struct tmpl_node_list *list, struct tmpl_node *node)
{
    size_t n = list->count;
    if ((n & (n - 1)) == 0) { // powers of two are where the array is full
        struct tmpl_node **grown = tmpl_parser_alloc(parser, (n ? 2 * n : 1) * sizeof(struct tmpl_node *));
        if (!grown) return parser->code;
        if (n) memcpy(grown, list->nodes, n * sizeof(struct tmpl_node *));
        list->nodes = grown;
    }
    list->nodes[list->count++] = node;
    return 0;
}

struct tmpl_string *tmpl_parser_string(struct tmpl_parser *parser, const char *text, size_t len)
{
    struct tmpl_string *string = tmpl_parser_alloc(parser, sizeof *string);
    if (!string) return NULL;
    *string = (struct tmpl_string){.bytes = (const uint8_t *)text, .len = len};
    string->char_count = tmpl_count_chars(string->bytes, len); // now: the template is shared by threads
    return string;
}

static int grow_symbols(struct tmpl_parser *parser)
{
    struct template *template = parser->template;
    uint32_t cap = template->symbol_cap ? 2 * template->symbol_cap : 64;
    struct tmpl_string **symbols = tmpl_parser_alloc(parser, cap * sizeof(struct tmpl_string *));
    uint32_t *idx = tmpl_parser_alloc(parser, 2 * (size_t)cap * sizeof *idx);
    if (!symbols || !idx) return parser->code;
    if (template->symbol_count)
        memcpy(symbols, template->symbols, template->symbol_count * sizeof(struct tmpl_string *));
    memset(idx, 0, 2 * (size_t)cap * sizeof *idx);
    for (uint32_t i = 0; i < template->symbol_count; i++) {
        uint32_t slot = (uint32_t)hash64(symbols[i]->bytes, symbols[i]->len) & (2 * cap - 1);
        while (idx[slot]) slot = (slot + 1) & (2 * cap - 1);
        idx[slot] = i + 1;
    }
    template->symbols = symbols;
    template->symbol_cap = cap;
    template->symbol_index = idx;
    template->index_cap = 2 * cap;
    return 0;
}

int tmpl_parser_symbol(struct tmpl_parser *parser, const char *name, size_t len, uint32_t *ret_symbol)
{
    struct template *template = parser->template;
    if (template->symbol_count == template->symbol_cap && grow_symbols(parser) < 0) return parser->code;
    uint32_t slot = (uint32_t)hash64(name, len) & (template->index_cap - 1);
    for (; template->symbol_index[slot]; slot = (slot + 1) & (template->index_cap - 1)) {
        const struct tmpl_string *known = template->symbols[template->symbol_index[slot] - 1];
        if (known->len != len || memcmp(known->bytes, name, len) != 0) continue;
        *ret_symbol = template->symbol_index[slot] - 1;
        return 0;
    }
    struct tmpl_string *string = tmpl_parser_string(parser, name, len);
    if (!string) return parser->code;
    template->symbols[template->symbol_count] = string;
    template->symbol_index[slot] = ++template->symbol_count;
    *ret_symbol = template->symbol_count - 1;
    return 0;
}

/* --- targets and signatures --------------------------------------------------------------------- */

static bool is_constant_name(const struct tmpl_parser *parser)
{
    static const char *const names[] = {"true", "True", "false", "False", "none", "None"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (tmpl_parser_at_name(parser, names[i])) return true;
    return false;
}

/* name, or name.attribute where a namespace may be assigned to, or ( targets ). */
static struct tmpl_node *parse_target(struct tmpl_parser *parser, bool with_namespace);

static struct tmpl_node *parse_target_item(struct tmpl_parser *parser, bool with_namespace)
{
    struct tmpl_token token = parser->token;
    if (tmpl_parser_skip(parser, TOK_LPAREN)) {
        if (tmpl_parser_enter(parser) < 0) return NULL;
        struct tmpl_node *inner = parse_target(parser, with_namespace);
        parser->depth--;
        return !inner || tmpl_parser_expect(parser, TOK_RPAREN) < 0 ? NULL : inner;
    }
    if (token.kind != TOK_NAME || is_constant_name(parser)) {
        (void)tmpl_parser_fail(parser, token.line, "cannot assign to '%.*s'",
                               token.kind == TOK_NAME ? (int)token.len : 64,
                               token.kind == TOK_NAME ? token.text : tmpl_token_name(token.kind));
        return NULL;
    }
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_NAME, token.line);
    uint32_t symbol = 0;
    if (!node || tmpl_parser_next(parser) < 0 ||
        tmpl_parser_symbol(parser, token.text, token.len, &symbol) < 0)
        return NULL;
    if (!with_namespace || !tmpl_parser_skip(parser, TOK_DOT)) {
        node->symbol = symbol;
        return node;
    }
    struct tmpl_token attribute = parser->token;
    if (tmpl_parser_expect(parser, TOK_NAME) < 0) return NULL;
    node->kind = NODE_NS_TARGET;
    node->ns_target.symbol = symbol;
    node->ns_target.name = tmpl_parser_string(parser, token.text, token.len);
    node->ns_target.attribute = tmpl_parser_string(parser, attribute.text, attribute.len);
    return node->ns_target.name && node->ns_target.attribute ? node : NULL;
}

static struct tmpl_node *parse_target(struct tmpl_parser *parser, bool with_namespace)
{
    uint32_t line = parser->token.line;
    struct tmpl_node *first = parse_target_item(parser, with_namespace);
    if (!first || parser->token.kind != TOK_COMMA) return first;
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_TUPLE, line);
    if (!node) return NULL;
    node->list = (struct tmpl_node_list){0};
    if (tmpl_parser_push(parser, &node->list, first) < 0) return NULL;
    while (tmpl_parser_skip(parser, TOK_COMMA)) {
        if (parser->token.kind == TOK_BLOCK_END || parser->token.kind == TOK_RPAREN ||
            parser->token.kind == TOK_ASSIGN || tmpl_parser_at_name(parser, "in"))
            break; // a trailing comma
        struct tmpl_node *item = parse_target_item(parser, with_namespace);
        if (!item || tmpl_parser_push(parser, &node->list, item) < 0) return NULL;
    }
    return parser->code < 0 ? NULL : node;
}

/* ( a, b=1 ) of a macro or a call block */
static int parse_signature(struct tmpl_parser *parser, struct tmpl_node *macro)
{
    bool has_default = false;
    if (tmpl_parser_expect(parser, TOK_LPAREN) < 0) return parser->code;
    while (parser->token.kind != TOK_RPAREN) {
        size_t n = macro->macro.param_count;
        if (n > 0 && tmpl_parser_expect(parser, TOK_COMMA) < 0) return parser->code;
        struct tmpl_token token = parser->token;
        struct tmpl_param param = {0};
        if (tmpl_parser_expect(parser, TOK_NAME) < 0 ||
            tmpl_parser_symbol(parser, token.text, token.len, &param.symbol) < 0)
            return parser->code;
        param.name = parser->template->symbols[param.symbol];
        if (tmpl_parser_skip(parser, TOK_ASSIGN)) {
            has_default = true;
            param.fallback = tmpl_parse_expression(parser);
            if (!param.fallback) return parser->code;
        } else if (has_default) {
            return tmpl_parser_fail(parser, token.line, "non-default argument follows default argument");
        }
        if ((n & (n - 1)) == 0) {
            struct tmpl_param *grown = tmpl_parser_alloc(parser, (n ? 2 * n : 1) * sizeof *grown);
            if (!grown) return parser->code;
            if (n) memcpy(grown, macro->macro.params, n * sizeof *grown);
            macro->macro.params = grown;
        }
        macro->macro.params[macro->macro.param_count++] = param;
    }
    return tmpl_parser_expect(parser, TOK_RPAREN);
}

/* --- statements --------------------------------------------------------------------------------- */

/* The body of a tag and its end tag, whose name is moved over. */
static int parse_body_to(struct tmpl_parser *parser, const char *end, struct tmpl_node_list *ret_body)
{
    const char *const ends[] = {end, NULL};
    if (parse_body(parser, ends, ret_body) < 0) return parser->code;
    return tmpl_parser_next(parser);
}

static struct tmpl_node *parse_if(struct tmpl_parser *parser, uint32_t line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const ends_after_else[] = {"endif", NULL};
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_IF, line);
    if (!node) return NULL;
    node->branches.branches = NULL;
    node->branches.count = 0;
    bool is_else = false;
    parser->soft_depth++;
    for (;;) {
        struct tmpl_branch branch = {0};
        if (!is_else && !(branch.test = tmpl_parse_tuple(parser, TUPLE_WITHOUT_COND))) return NULL;
        if (parse_body(parser, is_else ? ends_after_else : ends, &branch.body) < 0) return NULL;
        size_t n = node->branches.count;
        if ((n & (n - 1)) == 0) {
            struct tmpl_branch *grown = tmpl_parser_alloc(parser, (n ? 2 * n : 1) * sizeof *grown);
            if (!grown) return NULL;
            if (n) memcpy(grown, node->branches.branches, n * sizeof *grown);
            node->branches.branches = grown;
        }
        node->branches.branches[node->branches.count++] = branch;
        bool is_end = tmpl_parser_at_name(parser, "endif");
        is_else = tmpl_parser_at_name(parser, "else");
        if (tmpl_parser_next(parser) < 0) return NULL;
        if (is_end) break;
    }
    parser->soft_depth--;
    return node;
}

static struct tmpl_node *parse_for(struct tmpl_parser *parser, uint32_t line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_FOR, line);
    if (!node || !(node->loop.target = parse_target(parser, false))) return NULL;
    if (!tmpl_parser_skip_name(parser, "in")) {
        (void)tmpl_parser_fail(parser, line, "expected 'in' in for");
        return NULL;
    }
    node->loop.iterable = tmpl_parse_tuple(parser, TUPLE_WITHOUT_COND | TUPLE_UP_TO_RECURSIVE);
    if (!node->loop.iterable) return NULL;
    node->loop.test = NULL;
    if (tmpl_parser_skip_name(parser, "if") && !(node->loop.test = tmpl_parse_expression(parser)))
        return NULL;
    node->loop.is_recursive = tmpl_parser_skip_name(parser, "recursive");
    node->loop.otherwise = (struct tmpl_node_list){0};
    parser->loop_depth++;
    int r = parse_body(parser, ends, &node->loop.body);
    parser->loop_depth--;
    if (r < 0) return NULL;
    bool has_else = tmpl_parser_at_name(parser, "else");
    if (tmpl_parser_next(parser) < 0) return NULL;
    if (has_else && parse_body_to(parser, "endfor", &node->loop.otherwise) < 0) return NULL;
    return node;
}

static struct tmpl_node *captured_node(struct tmpl_parser *parser, uint32_t line)
{
    return tmpl_parser_node(parser, NODE_CAPTURED, line);
}

static struct tmpl_node *parse_set(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_SET, line);
    if (!node || !(node->set.target = parse_target(parser, true))) return NULL;
    if (tmpl_parser_skip(parser, TOK_ASSIGN)) {
        node->set.value = tmpl_parse_tuple(parser, 0);
        return node->set.value ? node : NULL;
    }
    node->kind = NODE_SET_BLOCK;
    node->set.value = tmpl_parse_filters(parser, captured_node(parser, line));
    if (!node->set.value || parse_body_to(parser, "endset", &node->set.body) < 0) return NULL;
    return node;
}

static struct tmpl_node *parse_filter_block(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_FILTER_BLOCK, line);
    struct tmpl_node *captured = captured_node(parser, line);
    if (!node || !captured) return NULL;
    node->set.target = NULL;
    node->set.value = tmpl_parse_filter_name(parser, captured);
    if (node->set.value) node->set.value = tmpl_parse_filters(parser, node->set.value);
    if (!node->set.value || parse_body_to(parser, "endfilter", &node->set.body) < 0) return NULL;
    return node;
}

/* The body of a macro or call block: `break` does not reach out of it, and it notes which of the
 * special names it uses. */
static int parse_macro_body(struct tmpl_parser *parser, struct tmpl_node *node, const char *end)
{
    struct tmpl_macro_scope scope = {.outer = parser->macros};
    uint32_t loop_depth = parser->loop_depth;
    parser->macros = &scope;
    parser->loop_depth = 0;
    int r = parse_body_to(parser, end, &node->macro.body);
    parser->macros = scope.outer;
    parser->loop_depth = loop_depth;
    node->macro.uses_varargs = scope.uses_varargs;
    node->macro.uses_kwargs = scope.uses_kwargs;
    node->macro.uses_caller = scope.uses_caller;
    return r;
}

static struct tmpl_node *parse_macro(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_MACRO, line);
    struct tmpl_token token = parser->token;
    if (!node || tmpl_parser_expect(parser, TOK_NAME) < 0 ||
        tmpl_parser_symbol(parser, token.text, token.len, &node->macro.symbol) < 0)
        return NULL;
    node->macro.name = parser->template->symbols[node->macro.symbol];
    if (parse_signature(parser, node) < 0 || parse_macro_body(parser, node, "endmacro") < 0) return NULL;
    return node;
}

static struct tmpl_node *parse_call_block(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_CALL_BLOCK, line);
    if (!node || (parser->token.kind == TOK_LPAREN && parse_signature(parser, node) < 0)) return NULL;
    node->macro.name = tmpl_parser_string(parser, "caller", 6);
    node->macro.call = tmpl_parse_expression(parser);
    if (!node->macro.name || !node->macro.call) return NULL;
    if (node->macro.call->kind != NODE_CALL) {
        (void)tmpl_parser_fail(parser, line, "expected call");
        return NULL;
    }
    return parse_macro_body(parser, node, "endcall") < 0 ? NULL : node;
}

static struct tmpl_node *parse_with(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_WITH, line);
    if (!node) return NULL;
    while (parser->token.kind != TOK_BLOCK_END) {
        if (node->with.targets.count > 0 && tmpl_parser_expect(parser, TOK_COMMA) < 0) return NULL;
        struct tmpl_node *target = parse_target(parser, false);
        if (!target || tmpl_parser_expect(parser, TOK_ASSIGN) < 0) return NULL;
        struct tmpl_node *value = tmpl_parse_expression(parser);
        if (!value || tmpl_parser_push(parser, &node->with.targets, target) < 0 ||
            tmpl_parser_push(parser, &node->with.values, value) < 0)
            return NULL;
    }
    return parse_body_to(parser, "endwith", &node->with.body) < 0 ? NULL : node;
}

/* {% generation %} marks what a model wrote, for training; here it only opens a scope. */
static struct tmpl_node *parse_generation(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_SCOPE, line);
    return !node || parse_body_to(parser, "endgeneration", &node->with.body) < 0 ? NULL : node;
}

static struct tmpl_node *parse_jump(struct tmpl_parser *parser, uint32_t line, enum tmpl_node_kind kind)
{
    if (parser->loop_depth == 0) {
        (void)tmpl_parser_fail(parser, line, "'%s' outside of a loop",
                               kind == NODE_BREAK ? "break" : "continue");
        return NULL;
    }
    return tmpl_parser_node(parser, kind, line);
}

static struct tmpl_node *parse_break(struct tmpl_parser *parser, uint32_t line)
{
    return parse_jump(parser, line, NODE_BREAK);
}

static struct tmpl_node *parse_continue(struct tmpl_parser *parser, uint32_t line)
{
    return parse_jump(parser, line, NODE_CONTINUE);
}

static struct tmpl_node *parse_print(struct tmpl_parser *parser, uint32_t line)
{
    struct tmpl_node *node = tmpl_parser_node(parser, NODE_PRINT, line);
    if (!node || !(node->unary = tmpl_parse_expression(parser))) return NULL;
    return node;
}

static const struct {
    const char *name;
    struct tmpl_node *(*parse)(struct tmpl_parser *parser, uint32_t line);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"break", parse_break},
    {"continue", parse_continue},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"call", parse_call_block},
    {"print", parse_print},
    {"generation", parse_generation},
};

static struct tmpl_node *parse_statement(struct tmpl_parser *parser)
{
    struct tmpl_token token = parser->token;
    for (size_t i = 0; i < COUNT_OF(statements); i++) {
        if (!tmpl_parser_skip_name(parser, statements[i].name)) continue;
        if (tmpl_parser_enter(parser) < 0) return NULL;
        struct tmpl_node *node = statements[i].parse(parser, token.line);
        parser->depth--;
        return node;
    }
    if (token.kind == TOK_NAME)
        (void)tmpl_parser_fail(parser, token.line, "unknown or unexpected tag '%.*s'",
                               (int)(token.len < MESSAGE_NAME_BYTES ? token.len : MESSAGE_NAME_BYTES),
                               token.text);
    else
        (void)tmpl_parser_fail(parser, token.line, "tag name expected, got '%s'",
                               tmpl_token_name(token.kind));
    return NULL;
}

static int check_unknown(struct tmpl_parser *parser)
{
    const struct tmpl_node *node = parser->unknown;
    if (parser->code < 0 || !node || parser->soft_depth > 0) return parser->code;
    size_t len = node->call.name->len < MESSAGE_NAME_BYTES ? node->call.name->len : MESSAGE_NAME_BYTES;
    return tmpl_parser_fail(parser, node->line, "no %s named '%.*s'",
                            node->kind == NODE_TEST ? "test" : "filter", (int)len,
                            (const char *)node->call.name->bytes);
}

static bool at_end_tag(const struct tmpl_parser *parser, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (tmpl_parser_at_name(parser, *ends)) return true;
    return false;
}

/* Nodes up to one of the end tags (its name is then the current token), or to the end when ends is
 * NULL. */
static int parse_nodes(struct tmpl_parser *parser, const char *const *ends, struct tmpl_node_list *body)
{
    while (parser->code >= 0) {
        struct tmpl_node *node = NULL;
        uint32_t line = parser->token.line;
        switch (parser->token.kind) {
        case TOK_EOF:
            if (!ends) return 0;
            return tmpl_parser_fail(parser, line, "unexpected end of template, expected '%s'", ends[0]);
        case TOK_DATA:
            node = tmpl_parser_node(parser, NODE_DATA, line);
            if (!node) return parser->code;
            node->constant = value_string(tmpl_parser_string(parser, parser->token.text, parser->token.len));
            (void)tmpl_parser_next(parser); // sticky, seen by the loop
            break;
        case TOK_VARIABLE_BEGIN:
            node = tmpl_parser_next(parser) < 0 ? NULL : tmpl_parser_node(parser, NODE_PRINT, line);
            if (!node || !(node->unary = tmpl_parse_tuple(parser, 0))) return parser->code;
            (void)tmpl_parser_expect(parser, TOK_VARIABLE_END);
            break;
        case TOK_BLOCK_BEGIN:
            if (tmpl_parser_next(parser) < 0) return parser->code;
            if (at_end_tag(parser, ends)) return 0;
            node = parse_statement(parser);
            if (!node) return parser->code;
            (void)tmpl_parser_expect(parser, TOK_BLOCK_END);
            break;
        default:
            return tmpl_parser_fail(parser, line, "unexpected '%s'", tmpl_token_name(parser->token.kind));
        }
        if (parser->code < 0 || check_unknown(parser) < 0 || tmpl_parser_push(parser, body, node) < 0)
            return parser->code;
    }
    return parser->code;
}

static int parse_body(struct tmpl_parser *parser, const char *const *ends, struct tmpl_node_list *ret_body)
{
    struct tmpl_node_list body = {0};
    (void)tmpl_parser_skip(parser, TOK_COLON); // `{% if x: %}` is allowed
    if (tmpl_parser_expect(parser, TOK_BLOCK_END) < 0) return parser->code;
    int r = parse_nodes(parser, ends, &body);
    if (r >= 0) *ret_body = body;
    return r;
}

int tmpl_parse(struct template *template, const char *source, size_t len,
               const struct template_limits *limits, struct err *err)
{
    struct tmpl_parser parser = {
        .template = template, .depth_max = limits->depth_max / SOURCE_DEPTH_DIVISOR, .err = err};
    int r = tmpl_lexer_init(&parser.lexer, source, len, limits->depth_max, &template->arena, err);
    if (r < 0) return r;
    static const char *const fixed[SYMBOL_FIXED_COUNT] = {"loop", "caller", "varargs", "kwargs"};
    for (uint32_t i = 0; i < SYMBOL_FIXED_COUNT; i++) {
        uint32_t symbol;
        if (tmpl_parser_symbol(&parser, fixed[i], strlen(fixed[i]), &symbol) < 0) return parser.code;
        CHECK(symbol == i);
    }
    if (tmpl_parser_next(&parser) < 0) return parser.code;
    return parse_nodes(&parser, NULL, &template->body);
}
