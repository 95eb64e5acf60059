/* SPDX-License-Identifier: Apache-2.0 */
/* template_access - x.name and x[key], with jinja2's order: a dot looks for an attribute (a method)
 * first and for an item then, brackets the other way round. What is not there is undefined. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"
#include "common/text/template_unicode.h"

int tmpl_undefined_named(struct tmpl_run *run, const char *owner, const struct tmpl_string *name,
                         struct tmpl_value *ret_value)
{
    struct tmpl_undefined *undefined = tmpl_alloc(run, sizeof *undefined);
    if (!undefined) return run->code;
    *undefined = (struct tmpl_undefined){.owner = owner, .name = name};
    *ret_value = (struct tmpl_value){.kind = VALUE_UNDEFINED, .undefined = undefined};
    return 0;
}

int tmpl_undefined_hint(struct tmpl_run *run, const char *hint, struct tmpl_value *ret_value)
{
    struct tmpl_undefined *undefined = tmpl_alloc(run, sizeof *undefined);
    if (!undefined) return run->code;
    *undefined = (struct tmpl_undefined){.hint = hint};
    *ret_value = (struct tmpl_value){.kind = VALUE_UNDEFINED, .undefined = undefined};
    return 0;
}

/* Methods that change a list or a dict. Templates run as in an immutable sandbox: they may name
 * them, using them fails. */
static bool is_mutator(struct tmpl_value object, const struct tmpl_string *name)
{
    static const char *const of_list[] = {"append", "clear", "pop",    "reverse",
                                          "insert", "sort",  "extend", "remove"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    const char *const *names = object.kind == VALUE_LIST ? of_list : of_dict;
    size_t count = object.kind == VALUE_LIST   ? COUNT_OF(of_list)
                   : object.kind == VALUE_DICT ? COUNT_OF(of_dict)
                                               : 0;
    for (size_t i = 0; i < count; i++)
        if (tmpl_string_is(name, names[i])) return true;
    return false;
}

static bool is_dunder(const struct tmpl_string *name)
{
    return name->len > 4 && memcmp(name->bytes, "__", 2) == 0 &&
           memcmp(name->bytes + name->len - 2, "__", 2) == 0;
}

static int find_method(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_string *name,
                       struct tmpl_value *ret_value)
{
    enum tmpl_table table;
    switch (object.kind) {
    case VALUE_STRING: table = TMPL_STR_METHODS; break;
    case VALUE_LIST:
    case VALUE_TUPLE: table = TMPL_LIST_METHODS; break;
    case VALUE_DICT: table = TMPL_DICT_METHODS; break;
    case VALUE_LOOP: table = TMPL_LOOP_METHODS; break;
    default: return 0;
    }
    const struct tmpl_builtin *builtin = tmpl_builtin_find(table, name->bytes, name->len);
    if (!builtin) return 0;
    struct tmpl_method *method = tmpl_alloc(run, sizeof *method);
    if (!method) return run->code;
    *method = (struct tmpl_method){.builtin = builtin, .self = object};
    *ret_value = (struct tmpl_value){.kind = VALUE_METHOD, .method = method};
    return 1;
}

/* Python's getattr, sandboxed: 1 when the object has it. */
static int find_attribute(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_string *name,
                          struct tmpl_value *ret_value)
{
    if (is_mutator(object, name) || is_dunder(name)) {
        struct tmpl_undefined *undefined = tmpl_alloc(run, sizeof *undefined);
        if (!undefined) return run->code;
        *undefined = (struct tmpl_undefined){
            .owner = tmpl_type_name(object), .name = name, .is_security = true};
        *ret_value = (struct tmpl_value){.kind = VALUE_UNDEFINED, .undefined = undefined};
        return 1;
    }
    if (object.kind == VALUE_NAMESPACE)
        return tmpl_dict_get(run, object.dict, value_string((struct tmpl_string *)name), ret_value);
    if (object.kind == VALUE_LOOP) {
        int r = tmpl_loop_attribute(run, object.loop, name, ret_value);
        if (r != 0) return r;
    }
    if (object.kind == VALUE_MACRO && tmpl_string_is(name, "name")) {
        *ret_value = value_string(object.macro->node->macro.name);
        return 1;
    }
    return find_method(run, object, name, ret_value);
}

/* An index into something of `count` items; false when it is outside. */
static bool resolve_index(int64_t idx, size_t count, size_t *ret_idx)
{
    if (idx < 0) idx += (int64_t)count;
    if (idx < 0 || (uint64_t)idx >= count) return false;
    *ret_idx = (size_t)idx;
    return true;
}

/* Python's obj[key]: 1 when there is such an item. A key of the wrong type finds nothing. */
static int find_item(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value key,
                     struct tmpl_value *ret_value)
{
    int64_t integer;
    size_t idx, count, offset;
    if (object.kind == VALUE_DICT) {
        if (key.kind == VALUE_LIST || key.kind == VALUE_DICT) return 0; // TypeError, which jinja2 forgives
        return tmpl_dict_get(run, object.dict, key, ret_value);
    }
    if (!tmpl_as_int(key, &integer)) return 0;
    switch (object.kind) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (!resolve_index(integer, object.list->count, &idx)) return 0;
        *ret_value = object.list->items[idx];
        return 1;
    case VALUE_RANGE:
        if (!resolve_index(integer, (size_t)object.range->count, &idx)) return 0;
        *ret_value = tmpl_range_item(object.range, (int64_t)idx);
        return 1;
    case VALUE_STRING:
        if (tmpl_string_chars(run, object.string, &count) < 0) return run->code;
        if (!resolve_index(integer, count, &idx)) return 0;
        if (tmpl_string_offset(run, object.string, idx, &offset) < 0) return run->code;
        size_t n = tmpl_char_bytes(object.string->bytes + offset, object.string->len - offset);
        return tmpl_string_range(run, object.string, offset, n, ret_value) < 0 ? run->code : 1;
    default: return 0;
    }
}

int tmpl_get_attribute(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_string *name,
                       struct tmpl_value *ret_value)
{
    if (object.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, object);
    int r = find_attribute(run, object, name, ret_value);
    if (r == 0) r = find_item(run, object, value_string((struct tmpl_string *)name), ret_value);
    if (r == 0) r = tmpl_undefined_named(run, tmpl_object_name(object), name, ret_value);
    return r < 0 ? r : 0;
}

int tmpl_get_item(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value key,
                  struct tmpl_value *ret_value)
{
    if (object.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, object);
    int r = find_item(run, object, key, ret_value);
    if (r == 0 && key.kind == VALUE_STRING) r = find_attribute(run, object, key.string, ret_value);
    if (r == 0)
        r = tmpl_undefined_named(run, tmpl_object_name(object), key.kind == VALUE_STRING ? key.string : NULL,
                                 ret_value);
    return r < 0 ? r : 0;
}

/* One part of a path; text of digits is an index. */
static int get_path_part(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value part,
                         struct tmpl_value fallback, struct tmpl_value *ret_value)
{
    const struct tmpl_string *name = part.kind == VALUE_STRING ? part.string : NULL;
    int64_t integer = 0;
    bool is_number = name && name->len > 0 && name->len <= 18;
    for (size_t i = 0; is_number && i < name->len; i++) {
        is_number = name->bytes[i] >= '0' && name->bytes[i] <= '9';
        integer = integer * 10 + (name->bytes[i] - '0');
    }
    if (tmpl_get_item(run, object, is_number ? value_int(integer) : part, ret_value) < 0) return run->code;
    bool has_fallback = fallback.kind != VALUE_MISSING && fallback.kind != VALUE_NONE;
    if (ret_value->kind == VALUE_UNDEFINED && has_fallback) *ret_value = fallback;
    return 0;
}

int tmpl_get_path(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value path,
                  struct tmpl_value fallback, struct tmpl_value *ret_value)
{
    if (path.kind != VALUE_STRING) return get_path_part(run, object, path, fallback, ret_value);
    const struct tmpl_string *text = path.string;
    for (size_t first = 0; first <= text->len;) {
        const uint8_t *dot = first < text->len ? memchr(text->bytes + first, '.', text->len - first) : NULL;
        size_t end = dot ? (size_t)(dot - text->bytes) : text->len;
        struct tmpl_value part;
        if (tmpl_charge(run, 1) < 0 || tmpl_string_range(run, text, first, end - first, &part) < 0 ||
            get_path_part(run, object, part, fallback, &object) < 0)
            return run->code;
        first = end + 1;
    }
    *ret_value = object;
    return 0;
}
