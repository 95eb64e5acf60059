/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/template_lex.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/template_unicode.h"

static const char *const token_names[] = {
    [TOK_EOF] = "end of template",
    [TOK_DATA] = "text",
    [TOK_VARIABLE_BEGIN] = "{{",
    [TOK_VARIABLE_END] = "}}",
    [TOK_BLOCK_BEGIN] = "{%",
    [TOK_BLOCK_END] = "%}",
    [TOK_NAME] = "name",
    [TOK_STRING] = "string",
    [TOK_INTEGER] = "integer",
    [TOK_FLOAT] = "float",
    [TOK_ADD] = "+",
    [TOK_SUB] = "-",
    [TOK_MUL] = "*",
    [TOK_DIV] = "/",
    [TOK_FLOORDIV] = "//",
    [TOK_MOD] = "%",
    [TOK_POW] = "**",
    [TOK_TILDE] = "~",
    [TOK_LBRACKET] = "[",
    [TOK_RBRACKET] = "]",
    [TOK_LPAREN] = "(",
    [TOK_RPAREN] = ")",
    [TOK_LBRACE] = "{",
    [TOK_RBRACE] = "}",
    [TOK_EQ] = "==",
    [TOK_NE] = "!=",
    [TOK_GT] = ">",
    [TOK_GE] = ">=",
    [TOK_LT] = "<",
    [TOK_LE] = "<=",
    [TOK_ASSIGN] = "=",
    [TOK_DOT] = ".",
    [TOK_COLON] = ":",
    [TOK_PIPE] = "|",
    [TOK_COMMA] = ",",
    [TOK_SEMICOLON] = ";",
};

const char *tmpl_token_name(enum tmpl_token_kind kind)
{
    return token_names[kind];
}

__attribute__((format(printf, 2, 3))) static int fail(struct tmpl_lexer *lexer, const char *format, ...)
{
    char why[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args); // a cut text is still a text
    va_end(args);
    return ERR(lexer->err, ERR_FORMAT, "template: line %u: %s", lexer->line, why);
}

static int fail_memory(struct tmpl_lexer *lexer)
{
    return ERR(lexer->err, ERR_LIMIT, "template: line %u: source needs more than %zu bytes", lexer->line,
               lexer->arena->bytes_max);
}

int tmpl_lexer_init(struct tmpl_lexer *lexer, const char *source, size_t len, uint32_t depth_max,
                    struct tmpl_arena *arena, struct err *err)
{
    *lexer = (struct tmpl_lexer){.line = 1, .bracket_max = depth_max, .arena = arena, .err = err};
    if (!utf8_is_valid((const uint8_t *)source, len)) return fail(lexer, "source is not UTF-8");
    char *src = tmpl_arena_alloc(arena, len + 1);
    lexer->brackets = tmpl_arena_alloc(arena, depth_max + 1);
    if (!src || !lexer->brackets) return fail_memory(lexer);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r') {
            src[n++] = '\n';
            if (i + 1 < len && source[i + 1] == '\n') i++;
        } else {
            src[n++] = source[i];
        }
    }
    if (n > 0 && src[n - 1] == '\n') n--; // keep_trailing_newline is off
    src[n] = 0;
    lexer->src = src;
    lexer->len = n;
    return 0;
}

static size_t skip_space(const struct tmpl_lexer *lexer, size_t pos)
{
    return pos + tmpl_space_prefix(lexer->src + pos, lexer->len - pos);
}

/* Moves to `pos`, counting the lines on the way. */
static void advance(struct tmpl_lexer *lexer, size_t pos)
{
    CHECK(pos >= lexer->pos && pos <= lexer->len);
    for (size_t i = lexer->pos; i < pos; i++) lexer->line += lexer->src[i] == '\n';
    lexer->pos = pos;
}

static bool starts(const struct tmpl_lexer *lexer, size_t pos, const char *text)
{
    size_t n = strlen(text);
    return lexer->len - pos >= n && memcmp(lexer->src + pos, text, n) == 0;
}

/* Position after the closer of a tag at `pos` ("%}" or "#}" with an optional sign before it), or 0
 * when there is none. With '-' the whitespace behind it goes too; trim takes one newline. */
static size_t close_at(const struct tmpl_lexer *lexer, size_t pos, const char *closer, bool trim)
{
    if (pos < lexer->len && lexer->src[pos] == '-' && starts(lexer, pos + 1, closer))
        return skip_space(lexer, pos + 3);
    if (trim && pos < lexer->len && lexer->src[pos] == '+' && starts(lexer, pos + 1, closer)) return pos + 3;
    if (!starts(lexer, pos, closer)) return 0;
    pos += 2;
    if (trim && pos < lexer->len && lexer->src[pos] == '\n') pos++;
    return pos;
}

/* Length of text[first, last) after the tag at its end has eaten from it: all trailing whitespace
 * for '-', the blanks of the tag's own line for block-like tags unless '+'. */
static size_t strip_end(const struct tmpl_lexer *lexer, size_t first, size_t last, char sign,
                        bool is_variable)
{
    const char *text = lexer->src + first;
    size_t len = last - first;
    if (sign == '-') return len - tmpl_space_suffix(text, len);
    if (sign == '+' || is_variable) return len;
    size_t line = len;
    while (line > 0 && text[line - 1] != '\n') line--;
    bool at_line_start = line > 0 || first == 0 || lexer->src[first - 1] == '\n';
    if (at_line_start && tmpl_space_prefix(text + line, len - line) == len - line) return line;
    return len;
}

/* If a raw block's opening tag stands at `tag`, its end; else 0. */
static size_t raw_open_end(const struct tmpl_lexer *lexer, size_t tag)
{
    size_t pos = tag + 2;
    if (pos < lexer->len && (lexer->src[pos] == '-' || lexer->src[pos] == '+')) pos++;
    pos = skip_space(lexer, pos);
    if (!starts(lexer, pos, "raw")) return 0;
    pos = skip_space(lexer, pos + 3);
    return close_at(lexer, pos, "%}", false);
}

/* Gives the content of a raw block whose opening tag ends at the current position. */
static int take_raw(struct tmpl_lexer *lexer, struct tmpl_token *ret_token)
{
    size_t first = lexer->pos;
    for (size_t tag = first; tag + 1 < lexer->len; tag++) {
        if (!starts(lexer, tag, "{%")) continue;
        size_t pos = tag + 2;
        char sign = 0;
        if (pos < lexer->len && (lexer->src[pos] == '-' || lexer->src[pos] == '+')) sign = lexer->src[pos++];
        pos = skip_space(lexer, pos);
        if (!starts(lexer, pos, "endraw")) continue;
        pos = close_at(lexer, skip_space(lexer, pos + 6), "%}", true);
        if (pos == 0) continue;
        *ret_token = (struct tmpl_token){.kind = TOK_DATA,
                                         .line = lexer->line,
                                         .text = lexer->src + first,
                                         .len = strip_end(lexer, first, tag, sign, false)};
        advance(lexer, pos);
        return 0;
    }
    return fail(lexer, "missing end of raw directive");
}

static int skip_comment(struct tmpl_lexer *lexer, size_t first)
{
    for (size_t q = first; q + 1 < lexer->len; q++) {
        if (!starts(lexer, q, "#}")) continue;
        size_t closer = q > first && (lexer->src[q - 1] == '-' || lexer->src[q - 1] == '+') ? q - 1 : q;
        advance(lexer, close_at(lexer, closer, "#}", true));
        return 0;
    }
    return fail(lexer, "missing end of comment tag");
}

/* Next tag opener at or after pos, or len. */
static size_t find_tag(const struct tmpl_lexer *lexer, size_t pos)
{
    while (pos < lexer->len) {
        const char *p = memchr(lexer->src + pos, '{', lexer->len - pos);
        if (!p) break;
        pos = (size_t)(p - lexer->src);
        char c = pos + 1 < lexer->len ? lexer->src[pos + 1] : 0;
        if (c == '{' || c == '%' || c == '#') return pos;
        pos++;
    }
    return lexer->len;
}

/* Outside of tags: text up to the next tag, then the tag's opener. May yield empty DATA. */
static int next_root(struct tmpl_lexer *lexer, struct tmpl_token *ret_token)
{
    size_t first = lexer->pos, tag = find_tag(lexer, first);
    *ret_token = (struct tmpl_token){.kind = TOK_DATA, .line = lexer->line, .text = lexer->src + first};
    if (tag == lexer->len) {
        ret_token->len = tag - first;
        if (ret_token->len == 0) ret_token->kind = TOK_EOF;
        advance(lexer, tag);
        return 0;
    }
    char opener = lexer->src[tag + 1];
    size_t pos = tag + 2;
    char sign = 0;
    if (pos < lexer->len && (lexer->src[pos] == '-' || lexer->src[pos] == '+')) sign = lexer->src[pos++];
    ret_token->len = strip_end(lexer, first, tag, sign, opener == '{');
    if (opener == '#') {
        advance(lexer, pos);
        return skip_comment(lexer, pos);
    }
    size_t raw = opener == '%' ? raw_open_end(lexer, tag) : 0;
    if (raw > 0) {
        if (ret_token->len > 0) { // the text first; the raw tag is found again, with no text before it
            advance(lexer, tag);
            return 0;
        }
        advance(lexer, raw);
        return take_raw(lexer, ret_token);
    }
    advance(lexer, pos);
    lexer->state = opener == '%' ? LEX_BLOCK : LEX_VARIABLE;
    lexer->pending = opener == '%' ? TOK_BLOCK_BEGIN : TOK_VARIABLE_BEGIN;
    return 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Bytes of digits with single underscores between them. */
static size_t digit_run(const struct tmpl_lexer *lexer, size_t pos)
{
    size_t first = pos;
    while (pos < lexer->len &&
           (is_digit(lexer->src[pos]) ||
            (lexer->src[pos] == '_' && pos > first && pos + 1 < lexer->len && is_digit(lexer->src[pos + 1]))))
        pos++;
    return pos - first;
}

static int take_radix(struct tmpl_lexer *lexer, int base, struct tmpl_token *token)
{
    size_t pos = lexer->pos + 2, digits = 0;
    uint64_t value = 0;
    for (; pos < lexer->len; pos++) {
        char c = lexer->src[pos];
        int digit = is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
        if (c == '_') continue;
        if (digit >= base) break;
        value = value * (uint64_t)base + (uint64_t)digit;
        digits++;
        if (value > INT64_MAX / 16) return fail(lexer, "integer literal too large");
    }
    if (digits == 0) return fail(lexer, "malformed integer literal");
    token->kind = TOK_INTEGER;
    token->integer = (int64_t)value;
    advance(lexer, pos);
    return 0;
}

static int take_number(struct tmpl_lexer *lexer, struct tmpl_token *token)
{
    const char *p = lexer->src + lexer->pos;
    char mark = p[0] == '0' && lexer->pos + 1 < lexer->len ? (char)(p[1] | 32) : 0;
    if (mark == 'x' || mark == 'b' || mark == 'o')
        return take_radix(lexer, mark == 'x' ? 16 : mark == 'b' ? 2 : 8, token);
    size_t first = lexer->pos, pos = first + digit_run(lexer, first);
    size_t integer_end = pos;
    bool is_real = false, after_dot = first > 0 && lexer->src[first - 1] == '.';
    if (!after_dot && pos + 1 < lexer->len && lexer->src[pos] == '.' && is_digit(lexer->src[pos + 1])) {
        is_real = true;
        pos += 1 + digit_run(lexer, pos + 1);
    }
    if (!after_dot && pos < lexer->len && (lexer->src[pos] | 32) == 'e') {
        size_t e = pos + 1;
        if (e < lexer->len && (lexer->src[e] == '+' || lexer->src[e] == '-')) e++;
        size_t n = digit_run(lexer, e);
        if (n > 0) {
            is_real = true;
            pos = e + n;
        }
    }
    if (!is_real) pos = integer_end;
    char text[64];
    size_t n = 0;
    for (size_t i = first; i < pos; i++) {
        if (lexer->src[i] == '_') continue;
        if (n + 1 >= sizeof text) return fail(lexer, "number literal too long");
        text[n++] = lexer->src[i];
    }
    text[n] = 0;
    if (is_real) {
        token->kind = TOK_FLOAT;
        token->real = strtod(text, NULL);
    } else {
        if (n > 1 && text[0] == '0' && strspn(text, "0") != n)
            return fail(lexer, "integer literal starts with 0");
        errno = 0;
        token->kind = TOK_INTEGER;
        token->integer = strtoll(text, NULL, 10);
        if (errno) return fail(lexer, "integer literal too large");
    }
    advance(lexer, pos);
    return 0;
}

/* One escape after the backslash at src[*pos - 1]; appends its UTF-8 to out. Python's rules. */
static int take_escape(struct tmpl_lexer *lexer, size_t *pos, size_t end, char *out, size_t *out_len)
{
    char c = lexer->src[(*pos)++];
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        out[(*out_len)++] = to[known - from];
        return 0;
    }
    if (c == '\n') return 0; // a continued line
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t codepoint = 0;
    if (c >= '0' && c <= '7') {
        codepoint = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && *pos < end && lexer->src[*pos] >= '0' && lexer->src[*pos] <= '7'; i++)
            codepoint = codepoint * 8 + (uint32_t)(lexer->src[(*pos)++] - '0');
    } else if (digits > 0) {
        for (size_t i = 0; i < digits; i++, (*pos)++) {
            int h = *pos < end ? tmpl_hex_digit(lexer->src[*pos]) : -1;
            if (h < 0 || codepoint > 0x10FFFF) return fail(lexer, "malformed \\%c escape in a string", c);
            codepoint = codepoint * 16 + (uint32_t)h;
        }
    } else if (c == 'N') {
        return fail(lexer, "\\N escapes are not supported");
    } else {
        out[(*out_len)++] = '\\'; // an unknown escape stays as it is
        out[(*out_len)++] = c;
        return 0;
    }
    if (codepoint > 0x10FFFF || (codepoint >= 0xD800 && codepoint < 0xE000))
        return fail(lexer, "escape in a string is not a character");
    *out_len += utf8_encode(codepoint, (uint8_t *)out + *out_len);
    return 0;
}

static int take_string(struct tmpl_lexer *lexer, struct tmpl_token *token)
{
    char quote = lexer->src[lexer->pos];
    size_t first = lexer->pos + 1, end = first;
    while (end < lexer->len && lexer->src[end] != quote) end += lexer->src[end] == '\\' ? 2 : 1;
    if (end >= lexer->len) return fail(lexer, "string literal without end");
    char *out = tmpl_arena_alloc(lexer->arena, end - first + 1); // an escape is never shorter than its result
    if (!out) return fail_memory(lexer);
    size_t len = 0, pos = first;
    while (pos < end) {
        if (lexer->src[pos] != '\\') {
            out[len++] = lexer->src[pos++];
            continue;
        }
        pos++;
        int r = take_escape(lexer, &pos, end, out, &len);
        if (r < 0) return r;
    }
    CHECK(len <= end - first);
    token->kind = TOK_STRING;
    token->text = out;
    token->len = len;
    advance(lexer, end + 1);
    return 0;
}

static int take_name(struct tmpl_lexer *lexer, struct tmpl_token *token)
{
    size_t first = lexer->pos, pos = first;
    while (pos < lexer->len) {
        uint32_t codepoint;
        size_t n = utf8_decode((const uint8_t *)lexer->src + pos, lexer->len - pos, &codepoint);
        if (n == 0 || !tmpl_is_word(codepoint)) break;
        pos += n;
    }
    if (pos == first) {
        unsigned char c = (unsigned char)lexer->src[first];
        if (c > 0x20 && c < 0x7F) return fail(lexer, "unexpected char '%c'", c);
        return fail(lexer, "unexpected byte 0x%02x", c);
    }
    token->kind = TOK_NAME;
    token->text = lexer->src + first;
    token->len = pos - first;
    advance(lexer, pos);
    return 0;
}

static int track_bracket(struct tmpl_lexer *lexer, enum tmpl_token_kind kind)
{
    static const char closers[] = ")]}";
    char opens = kind == TOK_LPAREN ? ')' : kind == TOK_LBRACKET ? ']' : kind == TOK_LBRACE ? '}' : 0;
    if (opens) {
        if (lexer->bracket_count >= lexer->bracket_max)
            return ERR(lexer->err, ERR_LIMIT, "template: line %u: brackets nested deeper than %u",
                       lexer->line, lexer->bracket_max);
        lexer->brackets[lexer->bracket_count++] = opens;
        return 0;
    }
    char c = tmpl_token_name(kind)[0];
    if (!strchr(closers, c)) return 0;
    if (lexer->bracket_count == 0) return fail(lexer, "unexpected '%c'", c);
    char expected = lexer->brackets[--lexer->bracket_count];
    if (c != expected) return fail(lexer, "unexpected '%c', expected '%c'", c, expected);
    return 0;
}

/* An operator: the longest spelling that fits. 1 when one was taken. */
static int take_operator(struct tmpl_lexer *lexer, struct tmpl_token *token)
{
    enum tmpl_token_kind best = TOK_EOF;
    size_t best_len = 0;
    for (int kind = TOK_ADD; kind <= TOK_SEMICOLON; kind++) {
        size_t n = strlen(token_names[kind]);
        if (n > best_len && starts(lexer, lexer->pos, token_names[kind])) {
            best = (enum tmpl_token_kind)kind;
            best_len = n;
        }
    }
    if (best_len == 0) return 0;
    int r = track_bracket(lexer, best);
    if (r < 0) return r;
    token->kind = best;
    token->text = token_names[best];
    token->len = best_len;
    advance(lexer, lexer->pos + best_len);
    return 1;
}

static int next_in_tag(struct tmpl_lexer *lexer, struct tmpl_token *ret_token)
{
    advance(lexer, skip_space(lexer, lexer->pos));
    *ret_token = (struct tmpl_token){.line = lexer->line};
    if (lexer->pos == lexer->len) {
        ret_token->kind = TOK_EOF;
        return 0;
    }
    if (lexer->bracket_count == 0) {
        bool is_block = lexer->state == LEX_BLOCK;
        size_t end = close_at(lexer, lexer->pos, is_block ? "%}" : "}}", is_block);
        if (end > 0) {
            ret_token->kind = is_block ? TOK_BLOCK_END : TOK_VARIABLE_END;
            lexer->state = LEX_ROOT;
            advance(lexer, end);
            return 0;
        }
    }
    char c = lexer->src[lexer->pos];
    if (is_digit(c)) return take_number(lexer, ret_token);
    if (c == '\'' || c == '"') return take_string(lexer, ret_token);
    int r = take_operator(lexer, ret_token);
    if (r != 0) return r < 0 ? r : 0;
    return take_name(lexer, ret_token);
}

int tmpl_lexer_next(struct tmpl_lexer *lexer, struct tmpl_token *ret_token)
{
    for (;;) {
        if (lexer->pending != TOK_EOF) {
            *ret_token = (struct tmpl_token){.kind = lexer->pending, .line = lexer->line};
            lexer->pending = TOK_EOF;
            return 0;
        }
        if (lexer->state != LEX_ROOT) return next_in_tag(lexer, ret_token);
        int r = next_root(lexer, ret_token);
        if (r < 0) return r;
        if (ret_token->kind != TOK_DATA || ret_token->len > 0) return 0;
    }
}
