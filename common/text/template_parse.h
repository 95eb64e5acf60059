/* SPDX-License-Identifier: Apache-2.0 */
/* template_parse - recursive descent over the tokens, as Jinja2's grammar has it. Internal to the
 * two files of the parser; template.c calls tmpl_parse only. */
#ifndef KVASIR_TEXT_TEMPLATE_PARSE_H
#define KVASIR_TEXT_TEMPLATE_PARSE_H

#include "common/base/err.h"
#include "common/text/template.h"
#include "common/text/template_ast.h"
#include "common/text/template_lex.h"

struct tmpl_macro_scope { // one a macro or call block being parsed
    struct tmpl_macro_scope *outer;
    bool uses_varargs, uses_kwargs, uses_caller;
};

struct tmpl_parser {
    struct template *template;
    struct tmpl_lexer lexer;
    struct tmpl_token token; // current
    struct tmpl_token ahead; // the one after it, when has_ahead
    bool has_ahead;
    uint32_t depth, depth_max;
    uint32_t loop_depth;             // for loops around, within the innermost macro
    uint32_t soft_depth;             // conditions around: an unknown filter there fails only when reached
    const struct tmpl_node *unknown; // first unknown filter or test that no condition guards
    struct tmpl_macro_scope *macros;
    int code; // first failure; sticky
    struct err *err;
};

/* Parses the whole source into template->body. ERR_FORMAT, ERR_LIMIT. */
int tmpl_parse(struct template *template, const char *source, size_t len,
               const struct template_limits *limits, struct err *err);

/* Shared by the parser's files. Nodes are NULL after a failure, which is noted in the parser. */
int tmpl_parser_fail(struct tmpl_parser *parser, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int tmpl_parser_next(struct tmpl_parser *parser);
int tmpl_parser_look(struct tmpl_parser *parser);                              // fills parser->ahead
int tmpl_parser_expect(struct tmpl_parser *parser, enum tmpl_token_kind kind); // and moves on
bool tmpl_parser_skip(struct tmpl_parser *parser, enum tmpl_token_kind kind);  // true when it was there
bool tmpl_parser_at_name(const struct tmpl_parser *parser, const char *name);
bool tmpl_parser_skip_name(struct tmpl_parser *parser, const char *name);
int tmpl_parser_enter(struct tmpl_parser *parser); // one level deeper; leave with depth--
void *tmpl_parser_alloc(struct tmpl_parser *parser, size_t bytes);
struct tmpl_node *tmpl_parser_node(struct tmpl_parser *parser, enum tmpl_node_kind kind, uint32_t line);
int tmpl_parser_push(struct tmpl_parser *parser, struct tmpl_node_list *list, struct tmpl_node *node);
struct tmpl_string *tmpl_parser_string(struct tmpl_parser *parser, const char *text,
                                       size_t len); // borrows text
int tmpl_parser_symbol(struct tmpl_parser *parser, const char *name, size_t len, uint32_t *ret_symbol);

struct tmpl_node *tmpl_parse_expression(struct tmpl_parser *parser);
struct tmpl_node *tmpl_parse_expression_without_cond(struct tmpl_parser *parser);
struct tmpl_node *tmpl_parse_primary(struct tmpl_parser *parser);
struct tmpl_node *tmpl_parse_postfix(struct tmpl_parser *parser, struct tmpl_node *node);

enum tmpl_tuple_flags {
    TUPLE_WITHOUT_COND = 1,    // no inline if at the top
    TUPLE_IN_PARENTHESES = 2,  // () is a tuple
    TUPLE_UP_TO_RECURSIVE = 4, // the word `recursive` ends it
};
struct tmpl_node *tmpl_parse_tuple(struct tmpl_parser *parser, unsigned flags);
/* `| name(args)` chain over node; the filters from here to the end of the chain. */
struct tmpl_node *tmpl_parse_filters(struct tmpl_parser *parser, struct tmpl_node *node);
struct tmpl_node *tmpl_parse_filter_name(struct tmpl_parser *parser, struct tmpl_node *node);

#endif
