/* SPDX-License-Identifier: Apache-2.0 */
/* template_exec - statements and loops. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"

/* A for loop being run. Items are pulled one by one, so that the test of `for .. if` sees what the
 * body did before; loop.last and loop.nextitem look one ahead, loop.length pulls all. */
struct tmpl_loop {
    const struct tmpl_node *node;
    struct tmpl_frame *frame; // around the loop
    struct tmpl_iter iter;
    struct tmpl_value previous, current, ahead; // ahead is valid when has_ahead
    bool has_ahead, is_drained;
    bool has_length;
    size_t index, length;      // from 0; length valid when has_length
    uint32_t depth;            // of recursion, from 0
    struct tmpl_value changed; // what loop.changed() saw last; MISSING at first
};

size_t tmpl_loop_index(const struct tmpl_loop *loop)
{
    return loop->index;
}

bool tmpl_loop_changed(struct tmpl_run *run, struct tmpl_loop *loop, struct tmpl_value now)
{
    bool is_same = loop->changed.kind != VALUE_MISSING && tmpl_equal(run, loop->changed, now) == 1;
    loop->changed = now;
    return !is_same;
}

/* --- assignment --------------------------------------------------------------------------------- */

static int assign_tuple(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node_list *targets,
                        struct tmpl_value value)
{
    struct tmpl_iter iter;
    struct tmpl_value item;
    if (tmpl_iter_init(run, value, &iter) < 0) return run->code;
    for (size_t i = 0; i < targets->count; i++) {
        int r = tmpl_iter_next(run, &iter, &item);
        if (r < 0) return r;
        if (r == 0)
            return tmpl_fail(run, "not enough values to unpack (expected %zu, got %zu)", targets->count, i);
        if (tmpl_assign(run, frame, targets->nodes[i], item) < 0) return run->code;
    }
    int r = tmpl_iter_next(run, &iter, &item);
    if (r == 1) return tmpl_fail(run, "too many values to unpack (expected %zu)", targets->count);
    return r;
}

int tmpl_assign(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *target,
                struct tmpl_value value)
{
    if (target->kind == NODE_NAME) return tmpl_frame_set(run, frame, target->symbol, value);
    if (target->kind == NODE_TUPLE) return assign_tuple(run, frame, &target->list, value);
    CHECK(target->kind == NODE_NS_TARGET);
    struct tmpl_value object = tmpl_frame_get(run, frame, target->ns_target.symbol);
    if (object.kind != VALUE_NAMESPACE)
        return tmpl_fail(run, "cannot assign attribute on non-namespace object");
    return tmpl_dict_set(run, object.dict, value_string(target->ns_target.attribute), value);
}

/* --- loops -------------------------------------------------------------------------------------- */

/* The next item that passes the test: 1, or 0 at the end. */
static int pull(struct tmpl_run *run, struct tmpl_loop *loop, struct tmpl_value *ret_item)
{
    const struct tmpl_node *test = loop->node->loop.test;
    struct tmpl_frame *frame = NULL;
    for (;;) {
        struct tmpl_value verdict;
        int r = tmpl_iter_next(run, &loop->iter, ret_item);
        if (r != 1 || !test || loop->is_drained) return r;
        if (!frame && !(frame = tmpl_frame_new(run, loop->frame))) return run->code;
        frame->count = 0;
        if (tmpl_assign(run, frame, loop->node->loop.target, *ret_item) < 0 ||
            tmpl_eval(run, frame, test, &verdict) < 0)
            return run->code;
        if (tmpl_truth(run, verdict) == 1) return 1;
    }
}

/* 1 when there is an item after the current one. */
static int look_ahead(struct tmpl_run *run, struct tmpl_loop *loop)
{
    if (loop->has_ahead) return 1;
    int r = pull(run, loop, &loop->ahead);
    loop->has_ahead = r == 1;
    return r;
}

static int loop_length(struct tmpl_run *run, struct tmpl_loop *loop, size_t *ret_length)
{
    bool is_sized = !loop->node->loop.test && loop->iter.source.kind != VALUE_GENERATOR;
    if (!loop->has_length && is_sized) {
        if (tmpl_length(run, loop->iter.source, &loop->length) < 0) return run->code;
        loop->has_length = true;
    }
    if (!loop->has_length) { // pull the rest into a list and go on from that
        struct tmpl_list_builder builder = {0};
        struct tmpl_value item;
        struct tmpl_list *list;
        int r;
        while ((r = pull(run, loop, &item)) == 1) tmpl_list_push(run, &builder, item);
        if (r < 0 || tmpl_list_finish(run, &builder, &list) < 0) return run->code;
        loop->length = list->count + loop->index + 1 + loop->has_ahead;
        loop->has_length = loop->is_drained = true;
        loop->iter = (struct tmpl_iter){.source = {.kind = VALUE_LIST, .list = list}};
    }
    *ret_length = loop->length;
    return 0;
}

static int neighbour(struct tmpl_run *run, struct tmpl_loop *loop, bool is_next, struct tmpl_value *ret_value)
{
    int r = is_next ? look_ahead(run, loop) : loop->index > 0;
    if (r == 1) *ret_value = is_next ? loop->ahead : loop->previous;
    else if (r == 0)
        r = tmpl_undefined_hint(run, is_next ? "there is no next item" : "there is no previous item",
                                ret_value);
    return r < 0 ? r : 1;
}

int tmpl_loop_attribute(struct tmpl_run *run, struct tmpl_loop *loop, const struct tmpl_string *name,
                        struct tmpl_value *ret_value)
{
    int64_t index = (int64_t)loop->index;
    size_t length = 0;
    if (tmpl_string_is(name, "index0")) *ret_value = value_int(index);
    else if (tmpl_string_is(name, "index")) *ret_value = value_int(index + 1);
    else if (tmpl_string_is(name, "first")) *ret_value = value_bool(index == 0);
    else if (tmpl_string_is(name, "depth0")) *ret_value = value_int(loop->depth);
    else if (tmpl_string_is(name, "depth")) *ret_value = value_int((int64_t)loop->depth + 1);
    else if (tmpl_string_is(name, "previtem")) return neighbour(run, loop, false, ret_value);
    else if (tmpl_string_is(name, "nextitem")) return neighbour(run, loop, true, ret_value);
    else if (tmpl_string_is(name, "last")) {
        int r = look_ahead(run, loop);
        if (r < 0) return r;
        *ret_value = value_bool(r == 0);
    } else if (tmpl_string_is(name, "length") || tmpl_string_is(name, "revindex") ||
               tmpl_string_is(name, "revindex0")) {
        if (loop_length(run, loop, &length) < 0) return run->code;
        int64_t from_end = (int64_t)length - index;
        *ret_value = value_int(name->len == 6 ? (int64_t)length : name->len == 8 ? from_end : from_end - 1);
    } else return 0;
    return 1;
}

static int next_round(struct tmpl_run *run, struct tmpl_loop *loop)
{
    loop->previous = loop->current;
    if (loop->has_ahead) {
        loop->has_ahead = false;
        loop->current = loop->ahead;
        return 1;
    }
    return pull(run, loop, &loop->current);
}

static int run_loop(struct tmpl_run *run, struct tmpl_loop *loop)
{
    const struct tmpl_node *node = loop->node;
    struct tmpl_value self = {.kind = VALUE_LOOP, .loop = loop};
    struct tmpl_frame *frame = NULL;
    bool is_completed = false; // some round ran to its end; that is what skips the else in jinja2
    int r;
    for (loop->index = 0; (r = next_round(run, loop)) == 1; loop->index++) {
        if (!frame || frame->is_captured) frame = tmpl_frame_new(run, loop->frame);
        if (!frame) return run->code;
        frame->count = 0;
        if (tmpl_frame_set(run, frame, SYMBOL_LOOP, self) < 0 ||
            tmpl_assign(run, frame, node->loop.target, loop->current) < 0)
            return run->code;
        r = tmpl_exec(run, frame, &node->loop.body);
        if (r < 0) return r;
        if (r == JUMP_NONE) is_completed = true;
        if (r == JUMP_BREAK) break;
    }
    if (r < 0) return r;
    if (is_completed || node->loop.otherwise.count == 0) return 0;
    frame = tmpl_frame_new(run, loop->frame);
    return frame ? tmpl_exec(run, frame, &node->loop.otherwise) : run->code;
}

static int loop_over(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                     struct tmpl_value iterable, uint32_t depth)
{
    struct tmpl_loop *loop = tmpl_alloc(run, sizeof *loop);
    if (!loop) return run->code;
    *loop = (struct tmpl_loop){.node = node, .frame = frame, .depth = depth};
    if (tmpl_iter_init(run, iterable, &loop->iter) < 0) return run->code;
    return run_loop(run, loop);
}

int tmpl_loop_call(struct tmpl_run *run, struct tmpl_loop *loop, struct tmpl_value iterable,
                   struct tmpl_value *ret_text)
{
    if (!loop->node->loop.is_recursive)
        return tmpl_fail(run, "the loop must have the 'recursive' marker to be called");
    struct tmpl_builder builder, *sink = run->sink;
    tmpl_builder_init(&builder, run);
    run->sink = &builder;
    int r = tmpl_enter(run);
    if (r >= 0) {
        r = loop_over(run, loop->frame, loop->node, iterable, loop->depth + 1);
        run->depth--;
    }
    run->sink = sink;
    return r < 0 ? r : tmpl_builder_finish(&builder, ret_text);
}

/* --- statements --------------------------------------------------------------------------------- */

int tmpl_exec_captured(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node_list *body,
                       struct tmpl_value *ret_text)
{
    struct tmpl_builder builder, *sink = run->sink;
    tmpl_builder_init(&builder, run);
    run->sink = &builder;
    int r = tmpl_exec(run, frame, body);
    run->sink = sink;
    if (r != 0) return r;
    return tmpl_builder_finish(&builder, ret_text);
}

static int exec_if(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    for (size_t i = 0; i < node->branches.count; i++) {
        const struct tmpl_branch *branch = &node->branches.branches[i];
        struct tmpl_value test;
        if (branch->test && tmpl_eval(run, frame, branch->test, &test) < 0) return run->code;
        if (!branch->test || tmpl_truth(run, test) == 1) return tmpl_exec(run, frame, &branch->body);
    }
    return 0;
}

static int exec_for(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_value iterable;
    if (tmpl_eval(run, frame, node->loop.iterable, &iterable) < 0) return run->code;
    run->line = node->line;
    return loop_over(run, frame, node, iterable, 0);
}

static int exec_set(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_value value;
    if (tmpl_eval(run, frame, node->set.value, &value) < 0) return run->code;
    run->line = node->line;
    return tmpl_assign(run, frame, node->set.target, value);
}

/* {% set x %} and {% filter %}: the body's text through the filters, then to the target or out. */
static int exec_block_text(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_frame *inner = tmpl_frame_new(run, frame);
    struct tmpl_value text;
    if (!inner) return run->code;
    int r = tmpl_exec_captured(run, inner, &node->set.body, &text);
    if (r != 0) return r;
    run->captured = text;
    if (tmpl_eval(run, frame, node->set.value, &text) < 0) return run->code;
    run->line = node->line;
    if (node->kind == NODE_SET_BLOCK) return tmpl_assign(run, frame, node->set.target, text);
    return tmpl_str_to(run->sink, text);
}

static int make_macro(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                      struct tmpl_value *ret_value)
{
    struct tmpl_macro *macro = tmpl_alloc(run, sizeof *macro);
    if (!macro) return run->code;
    *macro = (struct tmpl_macro){.node = node, .frame = frame};
    for (struct tmpl_frame *each = frame; each && !each->is_captured; each = each->parent)
        each->is_captured = true;
    *ret_value = (struct tmpl_value){.kind = VALUE_MACRO, .macro = macro};
    return 0;
}

static int exec_call_block(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_value caller, text;
    if (make_macro(run, frame, node, &caller) < 0 ||
        tmpl_call_node(run, frame, node->macro.call, caller, &text) < 0)
        return run->code;
    return tmpl_str_to(run->sink, text);
}

static int exec_with(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_frame *inner = tmpl_frame_new(run, frame);
    if (!inner) return run->code;
    for (size_t i = 0; i < node->with.targets.count; i++) {
        struct tmpl_value value; // values see the outer scope only
        if (tmpl_eval(run, frame, node->with.values.nodes[i], &value) < 0 ||
            tmpl_assign(run, inner, node->with.targets.nodes[i], value) < 0)
            return run->code;
    }
    return tmpl_exec(run, inner, &node->with.body);
}

static int exec_print(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_value value;
    if (tmpl_eval(run, frame, node->unary, &value) < 0) return run->code;
    run->line = node->line;
    return tmpl_str_to(run->sink, value);
}

static int exec_node(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node)
{
    struct tmpl_value value;
    switch ((enum tmpl_node_kind)node->kind) {
    case NODE_DATA: tmpl_builder_add_string(run->sink, node->constant.string); return run->code;
    case NODE_PRINT: return exec_print(run, frame, node);
    case NODE_IF: return exec_if(run, frame, node);
    case NODE_FOR: return exec_for(run, frame, node);
    case NODE_SET: return exec_set(run, frame, node);
    case NODE_SET_BLOCK:
    case NODE_FILTER_BLOCK: return exec_block_text(run, frame, node);
    case NODE_MACRO:
        if (make_macro(run, frame, node, &value) < 0) return run->code;
        return tmpl_frame_set(run, frame, node->macro.symbol, value);
    case NODE_CALL_BLOCK: return exec_call_block(run, frame, node);
    case NODE_WITH:
    case NODE_SCOPE: return exec_with(run, frame, node);
    case NODE_BREAK: return JUMP_BREAK;
    case NODE_CONTINUE: return JUMP_CONTINUE;
    default: CHECK(!"an expression where a statement belongs");
    }
    return 0;
}

int tmpl_exec(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node_list *body)
{
    if (tmpl_enter(run) < 0) return run->code;
    int r = 0;
    for (size_t i = 0; i < body->count && r == 0; i++) {
        run->line = body->nodes[i]->line;
        r = tmpl_charge(run, 1);
        if (r == 0) r = exec_node(run, frame, body->nodes[i]);
    }
    run->depth--;
    return r;
}
