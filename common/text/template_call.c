/* SPDX-License-Identifier: Apache-2.0 */
/* template_call - arguments, calls of builtins and macros. */
#include <string.h>

#include "common/base/check.h"
#include "common/text/template_ast.h"
#include "common/text/template_builtin.h"
#include "common/text/template_run.h"

enum { MESSAGE_NAME_BYTES = 64 };

static int shown(const struct tmpl_string *name) // bytes of a name in a message
{
    return name->len < MESSAGE_NAME_BYTES ? (int)name->len : MESSAGE_NAME_BYTES;
}

/* --- evaluation of arguments -------------------------------------------------------------------- */

static int eval_star(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *star,
                     struct tmpl_args *args)
{
    struct tmpl_value value;
    struct tmpl_list *more;
    if (tmpl_eval(run, frame, star, &value) < 0 || tmpl_list_from(run, value, &more) < 0) return run->code;
    struct tmpl_value *all = tmpl_alloc_array(run, args->count + more->count, sizeof *all);
    if (!all) return run->code;
    if (args->count) memcpy(all, args->positional, args->count * sizeof *all);
    if (more->count) memcpy(all + args->count, more->items, more->count * sizeof *all);
    args->positional = all;
    args->count += more->count;
    return 0;
}

static int eval_star_star(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *star_star,
                          struct tmpl_args *args)
{
    struct tmpl_value value;
    if (tmpl_eval(run, frame, star_star, &value) < 0) return run->code;
    if (value.kind != VALUE_DICT)
        return tmpl_fail(run, "argument after ** must be a mapping, not %s", tmpl_type_name(value));
    struct tmpl_keyword_value *all = tmpl_alloc_array(run, args->keyword_count + value.dict->count,
                                                      sizeof *all);
    if (!all) return run->code;
    if (args->keyword_count) memcpy(all, args->keywords, args->keyword_count * sizeof *all);
    for (size_t i = 0; i < value.dict->count; i++) {
        const struct tmpl_dict_entry *entry = &value.dict->entries[i];
        if (entry->key.kind != VALUE_STRING) return tmpl_fail(run, "keywords must be strings");
        all[args->keyword_count++] = (struct tmpl_keyword_value){.name = entry->key.string,
                                                                 .value = entry->value};
    }
    args->keywords = all;
    return 0;
}

/* extra: room for keywords that the caller adds itself. */
static int eval_args(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_call_args *nodes,
                     size_t extra, struct tmpl_args *ret_args)
{
    struct tmpl_args args = {.count = nodes->positional.count};
    if (args.count > 0 && !(args.positional = tmpl_alloc_array(run, args.count, sizeof *args.positional)))
        return run->code;
    for (size_t i = 0; i < args.count; i++)
        if (tmpl_eval(run, frame, nodes->positional.nodes[i], &args.positional[i]) < 0) return run->code;
    if (nodes->star && eval_star(run, frame, nodes->star, &args) < 0) return run->code;
    size_t keyword_max = nodes->keyword_count + extra;
    if (keyword_max > 0 && !(args.keywords = tmpl_alloc_array(run, keyword_max, sizeof *args.keywords)))
        return run->code;
    for (size_t i = 0; i < nodes->keyword_count; i++, args.keyword_count++) {
        args.keywords[i].name = nodes->keywords[i].name;
        if (tmpl_eval(run, frame, nodes->keywords[i].node, &args.keywords[i].value) < 0) return run->code;
    }
    CHECK(extra == 0 || !nodes->star_star); // the caller keeps them apart
    if (nodes->star_star && eval_star_star(run, frame, nodes->star_star, &args) < 0) return run->code;
    *ret_args = args;
    return 0;
}

/* --- builtins ----------------------------------------------------------------------------------- */

/* Index of the parameter `name` in "a b c", or -1. */
static int find_param(const char *params, const struct tmpl_string *name)
{
    int idx = 0;
    for (const char *p = params; *p; idx++) {
        size_t n = strcspn(p, " ");
        if (n == name->len && memcmp(p, name->bytes, n) == 0) return idx;
        p += n + (p[n] == ' ');
    }
    return -1;
}

static unsigned count_params(const char *params)
{
    unsigned count = *params != 0;
    for (; *params; params++) count += *params == ' ';
    return count;
}

int tmpl_builtin_call(struct tmpl_run *run, const struct tmpl_builtin *builtin, struct tmpl_value self,
                      const struct tmpl_args *args, struct tmpl_value *ret_value)
{
    struct tmpl_value argv[TMPL_PARAMS_MAX] = {0};
    if (strcmp(builtin->params, TMPL_ANY_ARGS) == 0) return builtin->call(run, self, argv, args, ret_value);
    unsigned count = count_params(builtin->params);
    CHECK(count <= TMPL_PARAMS_MAX);
    if (args->count > count)
        return tmpl_fail(run, "%s() takes at most %u argument(s), got %zu", builtin->name, count,
                         args->count);
    for (size_t i = 0; i < args->count; i++) argv[i] = args->positional[i];
    for (size_t i = 0; i < args->keyword_count; i++) {
        const struct tmpl_keyword_value *keyword = &args->keywords[i];
        int idx = find_param(builtin->params, keyword->name);
        if (idx < 0 && tmpl_string_has_user(keyword->name))
            return tmpl_fail(run, "%s() got an unexpected keyword argument", builtin->name);
        if (idx < 0)
            return tmpl_fail(run, "%s() got an unexpected keyword argument '%.*s'", builtin->name,
                             shown(keyword->name), (const char *)keyword->name->bytes);
        if (argv[idx].kind != VALUE_MISSING)
            return tmpl_fail(run, "%s() got two values for one argument", builtin->name);
        argv[idx] = keyword->value;
    }
    for (unsigned i = 0; i < builtin->required; i++)
        if (argv[i].kind == VALUE_MISSING)
            return tmpl_fail(run, "%s() needs at least %u argument(s)", builtin->name, builtin->required);
    return builtin->call(run, self, argv, args, ret_value);
}

int tmpl_call_builtin_node(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                           struct tmpl_value *ret_value)
{
    const char *what = node->kind == NODE_TEST ? "test" : "filter";
    struct tmpl_value self;
    struct tmpl_args args;
    if (!node->call.builtin)
        return tmpl_fail(run, "no %s named '%.*s'", what, shown(node->call.name),
                         (const char *)node->call.name->bytes);
    if (tmpl_eval(run, frame, node->call.object, &self) < 0) return run->code;
    if (eval_args(run, frame, &node->call.args, 0, &args) < 0) return run->code;
    run->line = node->line;
    return tmpl_builtin_call(run, node->call.builtin, self, &args, ret_value);
}

/* --- macros ------------------------------------------------------------------------------------- */

static bool has_param(const struct tmpl_node *macro, const struct tmpl_string *name)
{
    for (size_t i = 0; i < macro->macro.param_count; i++)
        if (tmpl_string_equal(macro->macro.params[i].name, name)) return true;
    return false;
}

static const struct tmpl_value *find_keyword(const struct tmpl_args *args, const struct tmpl_string *name)
{
    for (size_t i = 0; i < args->keyword_count; i++)
        if (tmpl_string_equal(args->keywords[i].name, name)) return &args->keywords[i].value;
    return NULL;
}

static int fail_keyword(struct tmpl_run *run, const struct tmpl_node *macro, const struct tmpl_string *name)
{
    bool is_told = !tmpl_string_has_user(name);
    return tmpl_fail(run, "macro '%.*s' takes no keyword argument '%.*s'", shown(macro->macro.name),
                     (const char *)macro->macro.name->bytes, is_told ? shown(name) : 0,
                     (const char *)name->bytes);
}

/* Parameters from positional arguments, keywords, then defaults, which may name earlier ones. */
static int bind_params(struct tmpl_run *run, const struct tmpl_node *macro, const struct tmpl_args *args,
                       struct tmpl_frame *frame)
{
    for (size_t i = 0; i < macro->macro.param_count; i++) {
        const struct tmpl_param *param = &macro->macro.params[i];
        const struct tmpl_value *given = find_keyword(args, param->name);
        struct tmpl_value value;
        if (tmpl_charge(run, 1 + args->keyword_count / 4) < 0) return run->code;
        if (i < args->count) {
            if (given) return fail_keyword(run, macro, param->name);
            value = args->positional[i];
        } else if (given) {
            value = *given;
        } else if (param->fallback) {
            if (tmpl_eval(run, frame, param->fallback, &value) < 0) return run->code;
        } else if (tmpl_undefined_named(run, NULL, param->name, &value) < 0) {
            return run->code;
        }
        if (tmpl_frame_set(run, frame, param->symbol, value) < 0) return run->code;
    }
    return 0;
}

/* varargs, kwargs and caller, for macros that name them; what nothing takes is an error. */
static int bind_rest(struct tmpl_run *run, const struct tmpl_node *macro, const struct tmpl_args *args,
                     struct tmpl_frame *frame)
{
    size_t taken = args->count < macro->macro.param_count ? args->count : macro->macro.param_count;
    struct tmpl_list *rest;
    struct tmpl_dict *more;
    struct tmpl_value caller = {0};
    if (tmpl_list_new(run, args->count - taken, &rest) < 0 || tmpl_dict_new(run, 0, &more) < 0)
        return run->code;
    for (size_t i = taken; i < args->count; i++) rest->items[i - taken] = args->positional[i];
    if (rest->count > 0 && !macro->macro.uses_varargs)
        return tmpl_fail(run, "macro '%.*s' takes not more than %zu argument(s)", shown(macro->macro.name),
                         (const char *)macro->macro.name->bytes, macro->macro.param_count);
    for (size_t i = 0; i < args->keyword_count; i++) {
        const struct tmpl_keyword_value *keyword = &args->keywords[i];
        if (tmpl_charge(run, 1 + macro->macro.param_count / 4) < 0) return run->code;
        if (has_param(macro, keyword->name)) continue;
        if (macro->macro.uses_caller && tmpl_string_is(keyword->name, "caller")) {
            caller = keyword->value;
            continue;
        }
        if (!macro->macro.uses_kwargs) return fail_keyword(run, macro, keyword->name);
        if (tmpl_dict_set(run, more, value_string(keyword->name), keyword->value) < 0) return run->code;
    }
    if (macro->macro.uses_varargs &&
        tmpl_frame_set(run, frame, SYMBOL_VARARGS, (struct tmpl_value){.kind = VALUE_TUPLE, .list = rest}) <
            0)
        return run->code;
    if (macro->macro.uses_kwargs && tmpl_frame_set(run, frame, SYMBOL_KWARGS, value_dict(more)) < 0)
        return run->code;
    if (!macro->macro.uses_caller || has_param(macro, run->template->symbols[SYMBOL_CALLER])) return 0;
    if (caller.kind == VALUE_MISSING && tmpl_undefined_hint(run, "no caller defined", &caller) < 0)
        return run->code;
    return tmpl_frame_set(run, frame, SYMBOL_CALLER, caller);
}

static int call_macro(struct tmpl_run *run, const struct tmpl_macro *macro, const struct tmpl_args *args,
                      struct tmpl_value *ret_value)
{
    struct tmpl_frame *frame = tmpl_frame_new(run, macro->frame);
    if (!frame || bind_params(run, macro->node, args, frame) < 0 ||
        bind_rest(run, macro->node, args, frame) < 0)
        return run->code;
    return tmpl_exec_captured(run, frame, &macro->node->macro.body, ret_value);
}

/* --- calls -------------------------------------------------------------------------------------- */

int tmpl_call(struct tmpl_run *run, struct tmpl_value callee, const struct tmpl_args *args,
              struct tmpl_value *ret_value)
{
    switch (callee.kind) {
    case VALUE_FUNCTION:
        return tmpl_builtin_call(run, callee.function, (struct tmpl_value){0}, args, ret_value);
    case VALUE_METHOD:
        return tmpl_builtin_call(run, callee.method->builtin, callee.method->self, args, ret_value);
    case VALUE_MACRO: return call_macro(run, callee.macro, args, ret_value);
    case VALUE_LOOP:
        if (args->count != 1 || args->keyword_count != 0) return tmpl_fail(run, "loop() takes one argument");
        return tmpl_loop_call(run, callee.loop, args->positional[0], ret_value);
    case VALUE_UNDEFINED: return tmpl_fail_undefined(run, callee);
    default: return tmpl_fail(run, "'%s' object is not callable", tmpl_type_name(callee));
    }
}

int tmpl_call_node(struct tmpl_run *run, struct tmpl_frame *frame, const struct tmpl_node *node,
                   struct tmpl_value extra_caller, struct tmpl_value *ret_value)
{
    struct tmpl_value callee;
    struct tmpl_args args;
    bool has_caller = extra_caller.kind != VALUE_MISSING;
    if (has_caller && node->call.args.star_star) return tmpl_fail(run, "call blocks do not support **");
    if (tmpl_eval(run, frame, node->call.object, &callee) < 0 ||
        eval_args(run, frame, &node->call.args, has_caller, &args) < 0)
        return run->code;
    if (has_caller)
        args.keywords[args.keyword_count++] = (struct tmpl_keyword_value){
            .name = run->template->symbols[SYMBOL_CALLER], .value = extra_caller};
    run->line = node->line;
    return tmpl_call(run, callee, &args, ret_value);
}
