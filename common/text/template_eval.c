/* SPDX-License-Identifier: Apache-2.0 */
/* template_eval - expressions. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"

static int eval_list(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                     struct tmpl_value *ret_value)
{
    struct tmpl_list *list;
    if (tmpl_list_new(run, node->list.count, &list) < 0) return run->code;
    for (size_t i = 0; i < node->list.count; i++)
        if (tmpl_eval(run, frame, node->list.nodes[i], &list->items[i]) < 0) return run->code;
    *ret_value = (struct tmpl_value){.kind = node->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE,
                                     .list = list};
    return 0;
}

static int eval_dict(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                     struct tmpl_value *ret_value)
{
    struct tmpl_dict *dict;
    if (tmpl_dict_new(run, node->list.count / 2, &dict) < 0) return run->code;
    for (size_t i = 0; i + 1 < node->list.count; i += 2) {
        struct tmpl_value key, value;
        if (tmpl_eval(run, frame, node->list.nodes[i], &key) < 0 ||
            tmpl_eval(run, frame, node->list.nodes[i + 1], &value) < 0 ||
            tmpl_dict_set(run, dict, key, value) < 0)
            return run->code;
    }
    *ret_value = value_dict(dict);
    return 0;
}

static int eval_attribute(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                          struct tmpl_value *ret_value)
{
    struct tmpl_value object;
    if (tmpl_eval(run, frame, node->attribute.object, &object) < 0) return run->code;
    run->line = node->line;
    return tmpl_get_attribute(run, object, node->attribute.name, ret_value);
}

static int eval_item(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                     struct tmpl_value *ret_value)
{
    struct tmpl_value object, key;
    if (tmpl_eval(run, frame, node->pair.left, &object) < 0 ||
        tmpl_eval(run, frame, node->pair.right, &key) < 0)
        return run->code;
    run->line = node->line;
    return tmpl_get_item(run, object, key, ret_value);
}

static int eval_slice(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                      struct tmpl_value *ret_value)
{
    const struct tmpl_node *parts[3] = {node->slice.start, node->slice.stop, node->slice.step};
    struct tmpl_value object, bounds[3];
    if (tmpl_eval(run, frame, node->slice.object, &object) < 0) return run->code;
    for (int i = 0; i < 3; i++) {
        bounds[i] = value_none();
        if (parts[i] && tmpl_eval(run, frame, parts[i], &bounds[i]) < 0) return run->code;
    }
    run->line = node->line;
    return tmpl_slice(run, object, bounds, ret_value);
}

static int eval_binary(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                       struct tmpl_value *ret_value)
{
    struct tmpl_value left, right;
    if (tmpl_eval(run, frame, node->pair.left, &left) < 0 ||
        tmpl_eval(run, frame, node->pair.right, &right) < 0)
        return run->code;
    run->line = node->line;
    return tmpl_binary(run, node->op, left, right, ret_value);
}

/* and / or: the operand that decided. */
static int eval_logic(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                      struct tmpl_value *ret_value)
{
    struct tmpl_value left;
    if (tmpl_eval(run, frame, node->pair.left, &left) < 0) return run->code;
    bool is_true = tmpl_truth(run, left) == 1;
    if (is_true == (node->kind == NODE_OR)) {
        *ret_value = left;
        return 0;
    }
    return tmpl_eval(run, frame, node->pair.right, ret_value);
}

static int eval_unary(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                      struct tmpl_value *ret_value)
{
    struct tmpl_value operand;
    double real;
    if (tmpl_eval(run, frame, node->unary, &operand) < 0) return run->code;
    run->line = node->line;
    if (node->kind == NODE_NEGATE) return tmpl_negate(run, operand, ret_value);
    if (node->kind == NODE_NOT) {
        *ret_value = value_bool(!tmpl_truth(run, operand));
        return 0;
    }
    if (operand.kind == VALUE_UNDEFINED) return tmpl_fail_undefined(run, operand);
    if (!tmpl_as_real(operand, &real))
        return tmpl_fail(run, "bad operand type for unary +: '%s'", tmpl_type_name(operand));
    *ret_value = operand.kind == VALUE_BOOL ? value_int(operand.boolean) : operand;
    return 0;
}

static int eval_concat(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                       struct tmpl_value *ret_value)
{
    struct tmpl_value text = {0};
    for (size_t i = 0; i < node->list.count; i++) {
        struct tmpl_value item;
        if (tmpl_eval(run, frame, node->list.nodes[i], &item) < 0) return run->code;
        run->line = node->line;
        if (tmpl_str(run, item, &item) < 0) return run->code;
        if (i == 0) text = item;
        else if (tmpl_string_concat(run, text, item, &text) < 0) return run->code;
    }
    *ret_value = text;
    return 0;
}

static int eval_compare(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                        struct tmpl_value *ret_value)
{
    struct tmpl_value left, right;
    if (tmpl_eval(run, frame, node->compare.first, &left) < 0) return run->code;
    for (size_t i = 0; i < node->compare.rest.count; i++, left = right) {
        if (tmpl_eval(run, frame, node->compare.rest.nodes[i], &right) < 0) return run->code;
        run->line = node->line;
        int r = tmpl_compare(run, node->compare.ops[i], left, right);
        if (r < 0) return r;
        *ret_value = value_bool(r);
        if (r == 0) return 0;
    }
    return 0;
}

static int eval_cond(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                     struct tmpl_value *ret_value)
{
    struct tmpl_value test;
    if (tmpl_eval(run, frame, node->cond.test, &test) < 0) return run->code;
    const struct tmpl_node *chosen = tmpl_truth(run, test) == 1 ? node->cond.yes : node->cond.no;
    if (chosen) return tmpl_eval(run, frame, chosen, ret_value);
    return tmpl_undefined_hint(run, "the inline if evaluated to false and has no else", ret_value);
}

static int eval_inner(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                      struct tmpl_value *ret_value)
{
    switch ((enum tmpl_node_kind)node->kind) {
    case NODE_CONST: *ret_value = node->constant; return 0;
    case NODE_NAME: *ret_value = tmpl_frame_get(run, frame, node->symbol); return run->code;
    case NODE_CAPTURED: *ret_value = run->captured; return 0;
    case NODE_LIST:
    case NODE_TUPLE: return eval_list(run, frame, node, ret_value);
    case NODE_DICT: return eval_dict(run, frame, node, ret_value);
    case NODE_GETATTR: return eval_attribute(run, frame, node, ret_value);
    case NODE_GETITEM: return eval_item(run, frame, node, ret_value);
    case NODE_SLICE: return eval_slice(run, frame, node, ret_value);
    case NODE_CALL: return tmpl_call_node(run, frame, node, (struct tmpl_value){0}, ret_value);
    case NODE_FILTER:
    case NODE_TEST: return tmpl_call_builtin_node(run, frame, node, ret_value);
    case NODE_NOT:
    case NODE_NEGATE:
    case NODE_POSITIVE: return eval_unary(run, frame, node, ret_value);
    case NODE_BINARY: return eval_binary(run, frame, node, ret_value);
    case NODE_AND:
    case NODE_OR: return eval_logic(run, frame, node, ret_value);
    case NODE_CONCAT: return eval_concat(run, frame, node, ret_value);
    case NODE_COMPARE: return eval_compare(run, frame, node, ret_value);
    case NODE_COND: return eval_cond(run, frame, node, ret_value);
    default: CHECK(!"a statement where an expression belongs");
    }
    return 0;
}

int tmpl_eval(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
              struct tmpl_value *ret_value)
{
    if (tmpl_enter(run) < 0) return run->code;
    run->line = node->line;
    int r = eval_inner(run, frame, node, ret_value);
    run->depth--;
    CHECK(r <= 0);
    return r;
}
