/* SPDX-License-Identifier: Apache-2.0 */
/* template_value - values of the template language with Python's semantics.
 *
 * All values are immutable but namespaces and the position of generators. They live in the arena of
 * one rendering (or, for constants, of the template) and die with it. Strings are well-formed UTF-8
 * with a mark per byte range: text of the template or text of the user. */
#ifndef KVASIR_TEXT_TEMPLATE_VALUE_H
#define KVASIR_TEXT_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tmpl_run;

enum tmpl_kind {
    VALUE_MISSING, // an argument that was not given; never seen by templates
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_RANGE,
    VALUE_VIEW,      // dict.items(), .keys(), .values()
    VALUE_GENERATOR, // result of map, select, ...; consumed once
    VALUE_NAMESPACE,
    VALUE_FUNCTION, // global function
    VALUE_METHOD,   // method bound to its object
    VALUE_MACRO,
    VALUE_LOOP,
};

struct tmpl_value {
    enum tmpl_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct tmpl_string *string;
        const struct tmpl_undefined *undefined;
        struct tmpl_list *list; // LIST and TUPLE
        struct tmpl_dict *dict; // DICT and NAMESPACE
        const struct tmpl_range *range;
        const struct tmpl_view *view;
        struct tmpl_generator *generator;
        const struct tmpl_builtin *function;
        const struct tmpl_method *method;
        const struct tmpl_macro *macro;
        struct tmpl_loop *loop;
    };
};

struct tmpl_undefined {
    const char *hint;               // the whole message, or NULL
    const char *owner;              // type name of the object that lacks it, or NULL: a variable
    const struct tmpl_string *name; // of the variable or attribute; NULL: no name is told
    bool is_security;               // an attribute that templates may not use
};

struct tmpl_list {
    struct tmpl_value *items;
    size_t count;
    struct tmpl_list_backing *backing; // NULL, or the growable array that items lie in
};
struct tmpl_list_backing {
    struct tmpl_value *items;
    size_t count, cap; // a list whose count equals the backing's can be appended to in place
};

struct tmpl_dict_entry {
    struct tmpl_value key, value;
};
struct tmpl_dict {
    struct tmpl_dict_entry *entries; // in order of insertion
    size_t count, cap;
    uint32_t *index; // NULL while small; open addressing, entry + 1 or 0
    size_t index_cap;
};

struct tmpl_range { // all within +-2^54, so that nothing computed from them wraps
    int64_t start, stop, step, count;
};

struct tmpl_view {
    const struct tmpl_dict *dict;
    enum tmpl_view_kind { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS } kind;
};

struct tmpl_generator {
    struct tmpl_list list;
    size_t next; // items before it were consumed
};

struct tmpl_method {
    const struct tmpl_builtin *builtin;
    struct tmpl_value self;
};

static inline struct tmpl_value value_none(void)
{
    return (struct tmpl_value){.kind = VALUE_NONE};
}
static inline struct tmpl_value value_bool(bool boolean)
{
    return (struct tmpl_value){.kind = VALUE_BOOL, .boolean = boolean};
}
static inline struct tmpl_value value_int(int64_t integer)
{
    return (struct tmpl_value){.kind = VALUE_INT, .integer = integer};
}
static inline struct tmpl_value value_float(double real)
{
    return (struct tmpl_value){.kind = VALUE_FLOAT, .real = real};
}
static inline struct tmpl_value value_string(struct tmpl_string *string)
{
    return (struct tmpl_value){.kind = VALUE_STRING, .string = string};
}
static inline struct tmpl_value value_dict(struct tmpl_dict *dict)
{
    return (struct tmpl_value){.kind = VALUE_DICT, .dict = dict};
}
static inline bool value_is_list(struct tmpl_value value) // list or tuple
{
    return value.kind == VALUE_LIST || value.kind == VALUE_TUPLE;
}

const char *tmpl_type_name(struct tmpl_value value);   // Python's: "str", "NoneType", ...
const char *tmpl_object_name(struct tmpl_value value); // as jinja2 names owners: "dict object", "None"
bool tmpl_is_callable(struct tmpl_value value);

/* A bool, int or integral part of the arithmetic: bools count as 0 and 1. */
bool tmpl_as_int(struct tmpl_value value, int64_t *ret_integer);
bool tmpl_as_real(struct tmpl_value value, double *ret_real); // of bool, int or float

/* All below: 0 or 1 as said, or a negative code that is also noted in the run. */

int tmpl_truth(struct tmpl_run *run, struct tmpl_value value);                  // 0 or 1
int tmpl_equal(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b); // 0 or 1
int tmpl_identical(struct tmpl_value a, struct tmpl_value b);                   // 0 or 1: `is`
/* Order as Python has it; TypeError when there is none. *ret_order -1, 0 or 1; with a NaN 2 (unordered). */
int tmpl_order(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b, const char *op,
               int *ret_order);
int tmpl_contains(struct tmpl_run *run, struct tmpl_value container, struct tmpl_value item); // 0 or 1
int tmpl_length(struct tmpl_run *run, struct tmpl_value value, size_t *ret_count);

/* Lists. */
int tmpl_list_new(struct tmpl_run *run, size_t count, struct tmpl_list **ret_list); // items unset
int tmpl_list_concat(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                     struct tmpl_value *ret_value);
int tmpl_list_from(struct tmpl_run *run, struct tmpl_value iterable, struct tmpl_list **ret_list);
int tmpl_tuple_of_two(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b,
                      struct tmpl_value *ret_value);
struct tmpl_value tmpl_range_item(const struct tmpl_range *range, int64_t idx);

/* A list that is being built, items appended one by one. */
struct tmpl_list_builder {
    struct tmpl_value *items;
    size_t count, cap;
};
int tmpl_list_push(struct tmpl_run *run, struct tmpl_list_builder *builder, struct tmpl_value item);
int tmpl_list_finish(struct tmpl_run *run, struct tmpl_list_builder *builder, struct tmpl_list **ret_list);
int tmpl_generator_finish(struct tmpl_run *run, struct tmpl_list_builder *builder,
                          struct tmpl_value *ret_value);

/* Dicts. Only their builder and namespaces set; a later equal key keeps the place of the first. */
int tmpl_dict_new(struct tmpl_run *run, size_t cap, struct tmpl_dict **ret_dict);
int tmpl_dict_set(struct tmpl_run *run, struct tmpl_dict *dict, struct tmpl_value key,
                  struct tmpl_value value);
/* 1 when found. An unhashable key is an error. */
int tmpl_dict_get(struct tmpl_run *run, const struct tmpl_dict *dict, struct tmpl_value key,
                  struct tmpl_value *ret_value);
/* The same for keys that are plain ASCII text. */
int tmpl_dict_get_text(struct tmpl_run *run, const struct tmpl_dict *dict, const char *key,
                       struct tmpl_value *ret_value);
int tmpl_dict_merge(struct tmpl_run *run, struct tmpl_dict *dict, struct tmpl_value mapping);

/* Iteration. The iterator holds no resource. */
struct tmpl_iter {
    struct tmpl_value source;
    size_t next; // index, or byte offset in a string
};
int tmpl_iter_init(struct tmpl_run *run, struct tmpl_value iterable, struct tmpl_iter *ret_iter);
int tmpl_iter_next(struct tmpl_run *run, struct tmpl_iter *iter,
                   struct tmpl_value *ret_item); // 1, 0 at the end
bool tmpl_is_iterable(struct tmpl_value value);

#endif
