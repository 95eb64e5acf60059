/* SPDX-License-Identifier: Apache-2.0 */
/* template_string - strings that know which of their bytes came from the user.
 *
 *   bytes  |  <|im_start|>user\n  |  what the user wrote  |  <|im_end|>\n  |
 *   runs      end 16, template      end 36, user            end 48, template
 *
 * A string is immutable. `a + b` may extend a's storage in place when a ends where its storage's use
 * ends (as Go's append does); a still sees only its own len, and clamps its last run to it. So text
 * that is gathered in a loop costs linear time and memory. */
#ifndef KVASIR_TEXT_TEMPLATE_STRING_H
#define KVASIR_TEXT_TEMPLATE_STRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/template_value.h"

struct tmpl_run;

struct tmpl_mark {
    size_t end; // offset behind the run
    bool is_user;
};

#define TMPL_CHARS_UNKNOWN SIZE_MAX

struct tmpl_string {
    const uint8_t *bytes; // well-formed UTF-8; not NUL-terminated
    size_t len;
    const struct tmpl_mark *marks; // (mark_count); NULL: all bytes as is_user says
    uint32_t mark_count;
    bool is_user;
    size_t char_count;            // code points; TMPL_CHARS_UNKNOWN until asked
    struct tmpl_builder *backing; // NULL: not to be extended in place
};

/* Bytes being gathered. Appends do nothing once the run has failed. */
struct tmpl_builder {
    struct tmpl_run *run;
    uint8_t *bytes;
    size_t len, cap;
    size_t bytes_max; // bound on len
    struct tmpl_mark *marks;
    uint32_t mark_count, mark_cap;
    bool is_shared; // finished strings see its storage: it may be appended to but not moved
};

void tmpl_builder_init(struct tmpl_builder *builder, struct tmpl_run *run);
void tmpl_builder_add(struct tmpl_builder *builder, const void *bytes, size_t len, bool is_user);
void tmpl_builder_puts(struct tmpl_builder *builder, const char *text); // template text
void tmpl_builder_putc(struct tmpl_builder *builder, char c);           // template text
void tmpl_builder_fill(struct tmpl_builder *builder, const struct tmpl_string *fill, size_t count);
void tmpl_builder_add_string(struct tmpl_builder *builder, const struct tmpl_string *string);
void tmpl_builder_add_range(struct tmpl_builder *builder, const struct tmpl_string *string, size_t first,
                            size_t len);
int tmpl_builder_finish(struct tmpl_builder *builder, struct tmpl_value *ret_value);

/* One run of equal marks. */
struct tmpl_piece {
    size_t first, len;
    bool is_user;
};
bool tmpl_string_piece(const struct tmpl_string *string, uint32_t idx, struct tmpl_piece *ret_piece);
bool tmpl_string_is_user_at(const struct tmpl_string *string, size_t offset);
bool tmpl_string_has_user(const struct tmpl_string *string);

/* Template text; the bytes are borrowed for as long as the string lives, resp. copied. */
int tmpl_string_borrow(struct tmpl_run *run, const void *bytes, size_t len, bool is_user,
                       struct tmpl_value *ret_value);
int tmpl_string_copy(struct tmpl_run *run, const void *bytes, size_t len, bool is_user,
                     struct tmpl_value *ret_value);

int tmpl_string_range(struct tmpl_run *run, const struct tmpl_string *string, size_t first, size_t len,
                      struct tmpl_value *ret_value);
int tmpl_string_concat(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                       struct tmpl_value *ret_value);
int tmpl_string_repeat(struct tmpl_run *run, const struct tmpl_string *string, int64_t count,
                       struct tmpl_value *ret_value);

size_t tmpl_count_chars(const uint8_t *bytes, size_t len);
int tmpl_string_chars(struct tmpl_run *run, struct tmpl_string *string, size_t *ret_count);
/* Offset of the idx-th character, idx <= its characters. */
int tmpl_string_offset(struct tmpl_run *run, struct tmpl_string *string, size_t idx, size_t *ret_offset);
bool tmpl_string_equal(const struct tmpl_string *a, const struct tmpl_string *b);
bool tmpl_string_is(const struct tmpl_string *string, const char *text);
int tmpl_string_order(const struct tmpl_string *a, const struct tmpl_string *b);
/* First occurrence of needle at or after `from`; 1 when found. */
int tmpl_string_find(struct tmpl_run *run, const struct tmpl_string *string, const struct tmpl_string *needle,
                     size_t from, size_t *ret_offset);
/* Last occurrence within [first, end); 1 when found. */
int tmpl_string_rfind(struct tmpl_run *run, const struct tmpl_string *string,
                      const struct tmpl_string *needle, size_t first, size_t end, size_t *ret_offset);

/* template_format.c: Python's str() and repr(). str() of a string is itself. */
int tmpl_str(struct tmpl_run *run, struct tmpl_value value, struct tmpl_value *ret_text);
int tmpl_repr_to(struct tmpl_builder *builder, struct tmpl_value value);
int tmpl_str_to(struct tmpl_builder *builder, struct tmpl_value value);
enum { TMPL_FLOAT_TEXT_BYTES = 40 };
size_t tmpl_float_text(double real, char out[TMPL_FLOAT_TEXT_BYTES]); // repr(float)

#endif
