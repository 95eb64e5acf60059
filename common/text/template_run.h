/* SPDX-License-Identifier: Apache-2.0 */
/* template_run - the state of one rendering, and what its parts share: limits, failure, strings.
 *
 * Failure is sticky: the first one is noted in run->code, and everything after it fails fast. Every
 * function that takes a run returns run->code when it fails. */
#ifndef KVASIR_TEXT_TEMPLATE_RUN_H
#define KVASIR_TEXT_TEMPLATE_RUN_H

#include "common/base/err.h"
#include "common/text/template.h"
#include "common/text/template_arena.h"
#include "common/text/template_string.h"
#include "common/text/template_value.h"

struct tmpl_node;
struct tmpl_args;

struct tmpl_variable {
    uint32_t symbol;
    struct tmpl_value value;
};

/* A scope: parameters and assignments of a macro, a loop's round, a with. The outermost one has no
 * parent; its variables are run->globals. */
struct tmpl_frame {
    struct tmpl_frame *parent;
    struct tmpl_variable *variables;
    uint32_t count, cap;
    bool is_captured; // a macro was made in it, so it outlives its block
};

struct tmpl_macro {
    const struct tmpl_node *node;
    struct tmpl_frame *frame; // where it was made
};

struct tmpl_run {
    const struct template *template;
    const struct template_inputs *inputs;
    struct template_limits limits;
    struct tmpl_arena arena;
    uint64_t steps;
    uint32_t depth;
    uint32_t line;              // of the node being evaluated, for messages
    struct tmpl_value *globals; // (symbol_count)
    struct tmpl_builder *sink;  // where output goes
    struct tmpl_value captured; // what NODE_CAPTURED stands for
    int code;                   // first failure
    struct err *err;
};

/* Notes a failure "template: line L: ..." (ERR_INPUT mostly) and returns its code. Messages hold
 * names that the template wrote, never text of the user. */
int tmpl_fail(struct tmpl_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tmpl_fail_limit(struct tmpl_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
int tmpl_fail_undefined(struct tmpl_run *run, struct tmpl_value undefined);

/* Counts work done; fails past limits.steps_max. One unit is about 20 ns. */
int tmpl_charge(struct tmpl_run *run, size_t units);
enum { TMPL_BYTES_PER_STEP = 64 }; // of copying, searching, comparing

int tmpl_enter(struct tmpl_run *run); // one level of nesting and one step; leave with run->depth--
void *tmpl_alloc(struct tmpl_run *run, size_t bytes);
void *tmpl_alloc_array(struct tmpl_run *run, size_t count, size_t item_bytes);

/* template_eval.c */
int tmpl_eval(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
              struct tmpl_value *ret_value);
/* template_operator.c */
int tmpl_binary(struct tmpl_run *run, int op, struct tmpl_value a, struct tmpl_value b,
                struct tmpl_value *ret_value);
int tmpl_compare(struct tmpl_run *run, int op, struct tmpl_value a, struct tmpl_value b); // 0 or 1
int tmpl_negate(struct tmpl_run *run, struct tmpl_value value, struct tmpl_value *ret_value);
int tmpl_slice(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_value bounds[3],
               struct tmpl_value *ret_value); // start, stop, step; NONE when left out
/* template_access.c */
int tmpl_get_attribute(struct tmpl_run *run, struct tmpl_value object, const struct tmpl_string *name,
                       struct tmpl_value *ret_value);
int tmpl_get_item(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value key,
                  struct tmpl_value *ret_value);
/* A dotted path as the filters' `attribute` argument has it; an int is an index. The fallback (MISSING
 * or NONE: none) stands for every part that is undefined. */
int tmpl_get_path(struct tmpl_run *run, struct tmpl_value object, struct tmpl_value path,
                  struct tmpl_value fallback, struct tmpl_value *ret_value);
int tmpl_undefined_named(struct tmpl_run *run, const char *owner, const struct tmpl_string *name,
                         struct tmpl_value *ret_value);
int tmpl_undefined_hint(struct tmpl_run *run, const char *hint, struct tmpl_value *ret_value); // hint: static
/* template_call.c */
int tmpl_call(struct tmpl_run *run, struct tmpl_value callee, const struct tmpl_args *args,
              struct tmpl_value *ret_value);
int tmpl_call_builtin_node(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                           struct tmpl_value *ret_value);
int tmpl_call_node(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                   struct tmpl_value extra_caller, struct tmpl_value *ret_value);
/* template_exec.c: 0, a negative code, or one of the jumps */
enum tmpl_jump { JUMP_NONE, JUMP_BREAK, JUMP_CONTINUE };
struct tmpl_node_list;
int tmpl_exec(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node_list *body);
/* Runs body with its output going to a string. */
int tmpl_exec_captured(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node_list *body,
                       struct tmpl_value *ret_text);
int tmpl_assign(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *target,
                struct tmpl_value value);
int tmpl_loop_attribute(struct tmpl_run *run, struct tmpl_loop *loop, const struct tmpl_string *name,
                        struct tmpl_value *ret_value); // 1 when there is such an attribute
int tmpl_loop_call(struct tmpl_run *run, struct tmpl_loop *loop, struct tmpl_value iterable,
                   struct tmpl_value *ret_text);      // a recursive loop's loop(...)
size_t tmpl_loop_index(const struct tmpl_loop *loop); // from 0
bool tmpl_loop_changed(struct tmpl_run *run, struct tmpl_loop *loop,
                       struct tmpl_value now); // against the last call
/* template_scope.c */
struct tmpl_frame *tmpl_frame_new(struct tmpl_run *run, struct tmpl_frame *parent);
struct tmpl_value tmpl_frame_get(struct tmpl_run *run, const struct tmpl_frame *frame, uint32_t symbol);
int tmpl_frame_set(struct tmpl_run *run, struct tmpl_frame *frame, uint32_t symbol, struct tmpl_value value);
int tmpl_globals_init(struct tmpl_run *run);
/* template_json.c */
struct cJSON;
int tmpl_from_cjson(struct tmpl_run *run, const struct cJSON *json,
                    struct tmpl_value *ret_value); // borrows strings

#endif
