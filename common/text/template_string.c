/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE // memmem
#include "common/text/template_string.h"

#include <string.h>

#include "common/base/check.h"
#include "common/text/template_run.h"
#include "common/text/template_unicode.h"

enum { BUILDER_CAP_MIN = 64, MARKS_CAP_MIN = 4 };

void tmpl_builder_init(struct tmpl_builder *builder, struct tmpl_run *run)
{
    size_t bytes_max = run->limits.memory_bytes_max;
    *builder = (struct tmpl_builder){.run = run,
                                     .bytes_max = bytes_max < SIZE_MAX / 4 ? bytes_max : SIZE_MAX / 4};
}

static int reserve_bytes(struct tmpl_builder *builder, size_t more)
{
    struct tmpl_run *run = builder->run;
    if (run->code < 0) return run->code;
    if (more > builder->bytes_max - builder->len)
        return tmpl_fail_limit(run, "text longer than %zu bytes", builder->bytes_max);
    if (builder->len + more <= builder->cap) return 0;
    CHECK(!builder->is_shared);
    size_t cap = builder->cap ? builder->cap : BUILDER_CAP_MIN;
    while (cap < builder->len + more) cap *= 2;
    uint8_t *bytes = tmpl_arena_grow(&run->arena, builder->bytes, builder->cap, cap);
    if (!bytes) return tmpl_fail_limit(run, "more than %zu bytes of memory", run->limits.memory_bytes_max);
    builder->bytes = bytes;
    builder->cap = cap;
    return 0;
}

/* Room for one more mark. Shared marks are copied, because finished strings point to the old ones. */
static int reserve_mark(struct tmpl_builder *builder)
{
    struct tmpl_run *run = builder->run;
    if (builder->mark_count < builder->mark_cap) return 0;
    uint32_t cap = builder->mark_cap ? 2 * builder->mark_cap : MARKS_CAP_MIN;
    struct tmpl_mark *marks = tmpl_alloc_array(run, cap, sizeof *marks);
    if (!marks) return run->code;
    if (builder->mark_count) memcpy(marks, builder->marks, builder->mark_count * sizeof *marks);
    builder->marks = marks;
    builder->mark_cap = cap;
    return 0;
}

void tmpl_builder_add(struct tmpl_builder *builder, const void *bytes, size_t len, bool is_user)
{
    struct tmpl_run *run = builder->run;
    uint32_t n = builder->mark_count;
    if (len == 0 || run->code < 0) return;
    if (len < TMPL_BYTES_PER_STEP && len <= builder->cap - builder->len &&
        len <= builder->bytes_max - builder->len && n > 0 &&
        builder->marks[n - 1].is_user == is_user) { // the common case of a few more bytes
        memcpy(builder->bytes + builder->len, bytes, len);
        builder->len += len;
        builder->marks[n - 1].end = builder->len;
        return;
    }
    if (tmpl_charge(run, len / TMPL_BYTES_PER_STEP) < 0 || reserve_bytes(builder, len) < 0) return;
    if (n == 0 || builder->marks[n - 1].is_user != is_user) {
        if (reserve_mark(builder) < 0) return;
        builder->marks[builder->mark_count++] = (struct tmpl_mark){.end = builder->len, .is_user = is_user};
    }
    memcpy(builder->bytes + builder->len, bytes, len);
    builder->len += len;
    builder->marks[builder->mark_count - 1].end = builder->len;
}

void tmpl_builder_puts(struct tmpl_builder *builder, const char *text)
{
    tmpl_builder_add(builder, text, strlen(text), false);
}

void tmpl_builder_putc(struct tmpl_builder *builder, char c)
{
    tmpl_builder_add(builder, &c, 1, false);
}

/* Count copies of a string of one mark, by doubling what is there. */
static void fill_uniform(struct tmpl_builder *builder, const struct tmpl_string *fill, size_t count)
{
    struct tmpl_run *run = builder->run;
    if (count > (builder->bytes_max - builder->len) / fill->len) {
        (void)tmpl_fail_limit(run, "text longer than %zu bytes", builder->bytes_max);
        return;
    }
    size_t total = count * fill->len, first = builder->len;
    if (tmpl_charge(run, total / TMPL_BYTES_PER_STEP) < 0 || reserve_bytes(builder, total) < 0) return;
    tmpl_builder_add(builder, fill->bytes, fill->len, fill->is_user); // sets the mark
    if (run->code < 0) return;
    for (size_t done = fill->len; done < total;) {
        size_t n = done < total - done ? done : total - done;
        memcpy(builder->bytes + first + done, builder->bytes + first, n);
        done += n;
    }
    builder->len = first + total;
    builder->marks[builder->mark_count - 1].end = builder->len;
}

void tmpl_builder_fill(struct tmpl_builder *builder, const struct tmpl_string *fill, size_t count)
{
    if (builder->run->code < 0 || count == 0 || fill->len == 0) return;
    if (!fill->marks) {
        fill_uniform(builder, fill, count);
        return;
    }
    for (size_t i = 0; i < count && tmpl_charge(builder->run, 1) >= 0; i++)
        tmpl_builder_add_string(builder, fill);
}

void tmpl_builder_add_string(struct tmpl_builder *builder, const struct tmpl_string *string)
{
    tmpl_builder_add_range(builder, string, 0, string->len);
}

/* Index of the first mark that ends behind `offset`. */
static uint32_t find_mark(const struct tmpl_string *string, size_t offset)
{
    uint32_t low = 0, high = string->mark_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (string->marks[middle].end <= offset) low = middle + 1;
        else high = middle;
    }
    return low;
}

void tmpl_builder_add_range(struct tmpl_builder *builder, const struct tmpl_string *string, size_t first,
                            size_t len)
{
    CHECK(first <= string->len && len <= string->len - first);
    if (!string->marks) {
        tmpl_builder_add(builder, string->bytes + first, len, string->is_user);
        return;
    }
    struct tmpl_piece piece;
    size_t end = first + len;
    for (uint32_t i = find_mark(string, first); first < end && tmpl_string_piece(string, i, &piece); i++) {
        size_t stop = piece.first + piece.len < end ? piece.first + piece.len : end;
        tmpl_builder_add(builder, string->bytes + first, stop - first, piece.is_user);
        first = stop;
    }
}

static int string_new(struct tmpl_run *run, struct tmpl_string fields, struct tmpl_value *ret_value)
{
    struct tmpl_string *string = tmpl_alloc(run, sizeof *string);
    if (!string) return run->code;
    *string = fields;
    *ret_value = value_string(string);
    return 0;
}

/* A string over all that the builder holds now. */
static int view_builder(struct tmpl_builder *builder, struct tmpl_builder *backing,
                        struct tmpl_value *ret_value)
{
    return string_new(builder->run,
                      (struct tmpl_string){.bytes = builder->bytes ? builder->bytes : (const uint8_t *)"",
                                           .len = builder->len,
                                           .marks = builder->mark_count > 1 ? builder->marks : NULL,
                                           .mark_count = builder->mark_count > 1 ? builder->mark_count : 0,
                                           .is_user = builder->mark_count > 0 && builder->marks[0].is_user,
                                           .char_count = TMPL_CHARS_UNKNOWN,
                                           .backing = backing},
                      ret_value);
}

int tmpl_builder_finish(struct tmpl_builder *builder, struct tmpl_value *ret_value)
{
    if (builder->run->code < 0) return builder->run->code;
    return view_builder(builder, NULL, ret_value);
}

bool tmpl_string_piece(const struct tmpl_string *string, uint32_t idx, struct tmpl_piece *ret_piece)
{
    if (!string->marks) {
        if (idx > 0 || string->len == 0) return false;
        *ret_piece = (struct tmpl_piece){.first = 0, .len = string->len, .is_user = string->is_user};
        return true;
    }
    if (idx >= string->mark_count) return false;
    size_t first = idx ? string->marks[idx - 1].end : 0;
    size_t end = string->marks[idx].end < string->len ? string->marks[idx].end : string->len;
    CHECK(first <= end);
    *ret_piece = (struct tmpl_piece){
        .first = first, .len = end - first, .is_user = string->marks[idx].is_user};
    return true;
}

bool tmpl_string_is_user_at(const struct tmpl_string *string, size_t offset)
{
    if (!string->marks) return string->is_user;
    uint32_t i = find_mark(string, offset);
    return i < string->mark_count && string->marks[i].is_user;
}

bool tmpl_string_has_user(const struct tmpl_string *string)
{
    return string->marks || string->is_user; // runs alternate, so more than one means both
}

int tmpl_string_borrow(struct tmpl_run *run, const void *bytes, size_t len, bool is_user,
                       struct tmpl_value *ret_value)
{
    struct tmpl_string fields = {
        .bytes = bytes, .len = len, .is_user = is_user, .char_count = TMPL_CHARS_UNKNOWN};
    return string_new(run, fields, ret_value);
}

int tmpl_string_copy(struct tmpl_run *run, const void *bytes, size_t len, bool is_user,
                     struct tmpl_value *ret_value)
{
    uint8_t *copy = tmpl_alloc(run, len);
    if (!copy) return run->code;
    if (len) memcpy(copy, bytes, len);
    return tmpl_string_borrow(run, copy, len, is_user, ret_value);
}

int tmpl_string_range(struct tmpl_run *run, const struct tmpl_string *string, size_t first, size_t len,
                      struct tmpl_value *ret_value)
{
    CHECK(first <= string->len && len <= string->len - first);
    struct tmpl_string fields = {.bytes = string->bytes + first,
                                 .len = len,
                                 .is_user = string->is_user,
                                 .char_count = string->char_count == string->len ? len : TMPL_CHARS_UNKNOWN};
    if (string->marks && len > 0) {
        uint32_t from = find_mark(string, first), to = find_mark(string, first + len - 1);
        fields.is_user = string->marks[from].is_user;
        if (from < to) {
            uint32_t count = to - from + 1;
            if (tmpl_charge(run, count / 4) < 0) return run->code;
            struct tmpl_mark *marks = tmpl_alloc_array(run, count, sizeof *marks);
            if (!marks) return run->code;
            for (uint32_t i = 0; i < count; i++) {
                marks[i] = string->marks[from + i];
                marks[i].end = marks[i].end - first < len ? marks[i].end - first : len;
            }
            fields.marks = marks;
            fields.mark_count = count;
        }
    }
    return string_new(run, fields, ret_value);
}

/* Storage for a, with room for more_bytes now and some more later. */
static int new_backing(struct tmpl_run *run, const struct tmpl_string *a, size_t more_bytes,
                       struct tmpl_builder **ret_builder)
{
    struct tmpl_builder *builder = tmpl_alloc(run, sizeof *builder);
    if (!builder) return run->code;
    tmpl_builder_init(builder, run);
    size_t total = a->len + more_bytes; // both are in memory, so this cannot wrap
    /* The first concatenation is often the last, so it gets little slack; the next ones double. */
    builder->cap = a->backing ? 2 * total : total + total / 8 + BUILDER_CAP_MIN;
    builder->bytes = tmpl_alloc(run, builder->cap);
    if (!builder->bytes) return run->code;
    tmpl_builder_add_string(builder, a);
    builder->is_shared = true;
    if (run->code < 0) return run->code;
    *ret_builder = builder;
    return 0;
}

int tmpl_string_concat(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                       struct tmpl_value *ret_value)
{
    CHECK(a.kind == VALUE_STRING && b.kind == VALUE_STRING);
    if (a.string->len == 0 || b.string->len == 0) {
        *ret_value = a.string->len == 0 ? b : a;
        return 0;
    }
    struct tmpl_builder *backing = a.string->backing;
    if (!backing || backing->len != a.string->len || backing->cap - backing->len < b.string->len) {
        if (new_backing(run, a.string, b.string->len, &backing) < 0) return run->code;
    }
    tmpl_builder_add_string(backing, b.string);
    if (run->code < 0) return run->code;
    return view_builder(backing, backing, ret_value);
}

int tmpl_string_repeat(struct tmpl_run *run, const struct tmpl_string *string, int64_t count,
                       struct tmpl_value *ret_value)
{
    struct tmpl_builder builder;
    tmpl_builder_init(&builder, run);
    if (count > 0 && string->len > 0) {
        if ((uint64_t)count > run->limits.memory_bytes_max / string->len)
            return tmpl_fail_limit(run, "repeated text longer than %zu bytes", run->limits.memory_bytes_max);
        tmpl_builder_fill(&builder, string, (size_t)count);
    }
    return tmpl_builder_finish(&builder, ret_value);
}

/* Characters that start within eight bytes: all but the bytes of the form 10xxxxxx. */
static size_t count_in_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    uint64_t continues = (word >> 7) & (~word >> 6) & UINT64_C(0x0101010101010101);
    return 8 - (size_t)__builtin_popcountll(continues);
}

size_t tmpl_count_chars(const uint8_t *bytes, size_t len)
{
    size_t count = 0, i = 0;
    for (; len - i >= 8; i += 8) count += count_in_word(bytes + i);
    for (; i < len; i++) count += (bytes[i] & 0xC0) != 0x80;
    return count;
}

int tmpl_string_chars(struct tmpl_run *run, struct tmpl_string *string, size_t *ret_count)
{
    if (string->char_count == TMPL_CHARS_UNKNOWN) {
        if (tmpl_charge(run, string->len / 32) < 0) return run->code;
        string->char_count = tmpl_count_chars(string->bytes, string->len);
    }
    *ret_count = string->char_count;
    return 0;
}

int tmpl_string_offset(struct tmpl_run *run, struct tmpl_string *string, size_t idx, size_t *ret_offset)
{
    size_t count = 0;
    if (tmpl_string_chars(run, string, &count) < 0) return run->code;
    CHECK(idx <= count);
    if (count == string->len || idx == count) {
        *ret_offset = count == string->len ? idx : string->len;
        return 0;
    }
    if (tmpl_charge(run, idx / 16) < 0) return run->code;
    size_t offset = 0, chars = 0; // chars starts lie before offset; stop at the one after idx of them
    while (string->len - offset >= 8) {
        size_t more = count_in_word(string->bytes + offset);
        if (chars + more > idx) break;
        chars += more;
        offset += 8;
    }
    while (offset < string->len && chars + ((string->bytes[offset] & 0xC0) != 0x80) <= idx) {
        chars += (string->bytes[offset] & 0xC0) != 0x80;
        offset++;
    }
    *ret_offset = offset;
    return 0;
}

bool tmpl_string_equal(const struct tmpl_string *a, const struct tmpl_string *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->bytes, b->bytes, a->len) == 0);
}

bool tmpl_string_is(const struct tmpl_string *string, const char *text)
{
    size_t n = strlen(text);
    return string->len == n && (n == 0 || memcmp(string->bytes, text, n) == 0);
}

int tmpl_string_order(const struct tmpl_string *a, const struct tmpl_string *b)
{
    size_t n = a->len < b->len ? a->len : b->len; // UTF-8 sorts as its code points do
    int order = n ? memcmp(a->bytes, b->bytes, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

int tmpl_string_find(struct tmpl_run *run, const struct tmpl_string *string, const struct tmpl_string *needle,
                     size_t from, size_t *ret_offset)
{
    CHECK(from <= string->len);
    if (needle->len > string->len - from) return 0;
    size_t offset = from;
    if (needle->len > 0) {
        const uint8_t *p = memmem(string->bytes + from, string->len - from, needle->bytes, needle->len);
        offset = p ? (size_t)(p - string->bytes) : string->len;
        if (tmpl_charge(run, (offset - from + needle->len) / TMPL_BYTES_PER_STEP) < 0) return run->code;
        if (!p) return 0;
    }
    *ret_offset = offset;
    return 1;
}

int tmpl_string_rfind(struct tmpl_run *run, const struct tmpl_string *string,
                      const struct tmpl_string *needle, size_t first, size_t end, size_t *ret_offset)
{
    CHECK(end <= string->len);
    if (first > end || needle->len > end - first) return 0;
    if (needle->len == 0) {
        *ret_offset = end;
        return 1;
    }
    size_t each = 1 + needle->len / TMPL_BYTES_PER_STEP; // steps of a candidate, at most
    for (size_t stop = end - needle->len + 1; stop > first;) {
        const uint8_t *p = memrchr(string->bytes + first, needle->bytes[0], stop - first);
        size_t at = p ? (size_t)(p - string->bytes) : first;
        if (tmpl_charge(run, each + (stop - at) / TMPL_BYTES_PER_STEP) < 0) return run->code;
        if (!p) return 0;
        if (memcmp(p, needle->bytes, needle->len) == 0) {
            *ret_offset = at;
            return 1;
        }
        stop = at;
    }
    return 0;
}
