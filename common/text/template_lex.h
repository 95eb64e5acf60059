/* SPDX-License-Identifier: Apache-2.0 */
/* template_lex - template source to tokens, with Jinja2's rules for whitespace: trim_blocks and
 * lstrip_blocks on, keep_trailing_newline off (as chat templates are rendered), `-` and `+` inside
 * the delimiters. One token at a time; nothing is kept but the position. */
#ifndef KVASIR_TEXT_TEMPLATE_LEX_H
#define KVASIR_TEXT_TEMPLATE_LEX_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/text/template_arena.h"

enum tmpl_token_kind {
    TOK_EOF,
    TOK_DATA,           // text outside of tags
    TOK_VARIABLE_BEGIN, // {{
    TOK_VARIABLE_END,   // }}
    TOK_BLOCK_BEGIN,    // {%
    TOK_BLOCK_END,      // %}
    TOK_NAME,
    TOK_STRING, // text: after escapes
    TOK_INTEGER,
    TOK_FLOAT,
    TOK_ADD,
    TOK_SUB,
    TOK_MUL,
    TOK_DIV,
    TOK_FLOORDIV,
    TOK_MOD,
    TOK_POW,
    TOK_TILDE,
    TOK_LBRACKET,
    TOK_RBRACKET,
    TOK_LPAREN,
    TOK_RPAREN,
    TOK_LBRACE,
    TOK_RBRACE,
    TOK_EQ,
    TOK_NE,
    TOK_GT,
    TOK_GE,
    TOK_LT,
    TOK_LE,
    TOK_ASSIGN,
    TOK_DOT,
    TOK_COLON,
    TOK_PIPE,
    TOK_COMMA,
    TOK_SEMICOLON,
};

struct tmpl_token {
    enum tmpl_token_kind kind;
    uint32_t line;    // 1-based
    const char *text; // DATA, NAME, STRING: borrowed from the arena; operators: their spelling
    size_t len;
    int64_t integer; // INTEGER
    double real;     // FLOAT
};

enum tmpl_lex_state { LEX_ROOT, LEX_BLOCK, LEX_VARIABLE };

struct tmpl_lexer {
    const char *src; // newlines normalized to \n; in the arena
    size_t len, pos;
    uint32_t line;
    enum tmpl_lex_state state;
    enum tmpl_token_kind pending; // BEGIN token that follows the DATA just given, or EOF
    char *brackets;               // the closers that are awaited, innermost last
    uint32_t bracket_count, bracket_max;
    struct tmpl_arena *arena; // borrowed
    struct err *err;          // borrowed
};

/* source is borrowed for the call only. ERR_FORMAT for invalid UTF-8, ERR_LIMIT past the arena. */
int tmpl_lexer_init(struct tmpl_lexer *lexer, const char *source, size_t len, uint32_t depth_max,
                    struct tmpl_arena *arena, struct err *err);

/* 0, ERR_FORMAT "template: line L: why", or ERR_LIMIT. After EOF: EOF again. */
int tmpl_lexer_next(struct tmpl_lexer *lexer, struct tmpl_token *ret_token);

const char *tmpl_token_name(enum tmpl_token_kind kind); // for messages

#endif
