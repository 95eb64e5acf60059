/* SPDX-License-Identifier: Apache-2.0 */
/* template_ast - the compiled template: a tree in one arena, immutable after compilation. Children
 * are owned by the arena. Names of variables are symbols, dense numbers from 0, so that the
 * outermost scope of a rendering is an array. */
#ifndef KVASIR_TEXT_TEMPLATE_AST_H
#define KVASIR_TEXT_TEMPLATE_AST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/template_arena.h"
#include "common/text/template_value.h"

struct tmpl_builtin;

enum tmpl_node_kind {
    /* expressions */
    NODE_CONST,    // constant
    NODE_NAME,     // symbol
    NODE_LIST,     // list
    NODE_TUPLE,    // list
    NODE_DICT,     // list: key, value, key, value, ...
    NODE_GETATTR,  // attribute
    NODE_GETITEM,  // pair: object, key
    NODE_SLICE,    // slice
    NODE_CALL,     // call
    NODE_FILTER,   // call
    NODE_TEST,     // call
    NODE_NOT,      // unary
    NODE_NEGATE,   // unary
    NODE_POSITIVE, // unary
    NODE_BINARY,   // pair, op: an arithmetic token
    NODE_AND,      // pair
    NODE_OR,       // pair
    NODE_CONCAT,   // list
    NODE_COMPARE,  // compare
    NODE_COND,     // cond
    NODE_CAPTURED, // the text that a filter applies to in {% filter %} and {% set x | filter %}

    /* statements */
    NODE_DATA,         // constant
    NODE_PRINT,        // unary
    NODE_IF,           // branches
    NODE_FOR,          // loop
    NODE_SET,          // set
    NODE_SET_BLOCK,    // set
    NODE_MACRO,        // macro
    NODE_CALL_BLOCK,   // macro with call
    NODE_FILTER_BLOCK, // set without target
    NODE_WITH,         // with
    NODE_SCOPE,        // with without targets
    NODE_BREAK,
    NODE_CONTINUE,

    /* assignment targets; NODE_NAME and NODE_TUPLE too */
    NODE_NS_TARGET, // ns_target
};

struct tmpl_node_list {
    struct tmpl_node **nodes;
    size_t count;
};

struct tmpl_keyword {
    struct tmpl_string *name;
    struct tmpl_node *node;
};

struct tmpl_call_args {
    struct tmpl_node_list positional;
    struct tmpl_keyword *keywords;
    size_t keyword_count;
    struct tmpl_node *star, *star_star; // NULL when absent
};

struct tmpl_param {
    uint32_t symbol;
    struct tmpl_string *name;
    struct tmpl_node *fallback; // NULL when the parameter has no default
};

struct tmpl_branch {
    struct tmpl_node *test; // NULL in else
    struct tmpl_node_list body;
};

/* A compare operand's operator: a token kind, or one of these. */
enum { COMPARE_IN = -1, COMPARE_NOT_IN = -2 };

struct tmpl_node {
    uint8_t kind; // tmpl_node_kind
    uint32_t line;
    int32_t op;
    union {
        struct tmpl_value constant;
        uint32_t symbol;
        struct tmpl_node *unary;
        struct tmpl_node_list list;
        struct {
            struct tmpl_node *object;
            struct tmpl_string *name;
        } attribute;
        struct {
            struct tmpl_node *left, *right;
        } pair;
        struct {
            struct tmpl_node *object, *start, *stop, *step; // the last three may be NULL
        } slice;
        struct {
            struct tmpl_node *object;           // callee, or what the filter or test applies to
            struct tmpl_string *name;           // of the filter or test
            const struct tmpl_builtin *builtin; // NULL: unknown, fails when reached
            struct tmpl_call_args args;
        } call;
        struct {
            struct tmpl_node *first;
            int32_t *ops; // count of them
            struct tmpl_node_list rest;
        } compare;
        struct {
            struct tmpl_node *test, *yes, *no; // no may be NULL
        } cond;
        struct {
            struct tmpl_branch *branches;
            size_t count;
        } branches;
        struct {
            struct tmpl_node *target, *iterable, *test; // test may be NULL
            struct tmpl_node_list body, otherwise;
            bool is_recursive;
        } loop;
        struct {
            struct tmpl_node *target; // NULL in a filter block
            struct tmpl_node *value;  // the filters over NODE_CAPTURED for the block forms
            struct tmpl_node_list body;
        } set;
        struct {
            uint32_t symbol; // of its name; unused in a call block
            struct tmpl_string *name;
            struct tmpl_param *params;
            size_t param_count;
            struct tmpl_node_list body;
            struct tmpl_node *call; // call blocks
            bool uses_varargs, uses_kwargs, uses_caller;
        } macro;
        struct {
            struct tmpl_node_list targets, values;
            struct tmpl_node_list body;
        } with;
        struct {
            uint32_t symbol;
            struct tmpl_string *name, *attribute;
        } ns_target;
    };
};

/* Symbols with a meaning of their own have fixed numbers. */
enum tmpl_fixed_symbol { SYMBOL_LOOP, SYMBOL_CALLER, SYMBOL_VARARGS, SYMBOL_KWARGS, SYMBOL_FIXED_COUNT };

struct template
{
    struct tmpl_arena arena; // owns everything below
    struct tmpl_node_list body;
    struct tmpl_string **symbols; // (symbol_count), names
    uint32_t symbol_count, symbol_cap;
    uint32_t *symbol_index; // open addressing, symbol + 1 or 0; index_cap a power of two
    uint32_t index_cap;
};

#endif
