/* SPDX-License-Identifier: Apache-2.0 */
/* template_builtin - filters, tests, methods and global functions: one signature, one table each.
 *
 * A row names its parameters; the binder matches positional and keyword arguments to them, so that
 * an implementation sees argv[i] in the order of the row, VALUE_MISSING where not given. Rows with
 * TMPL_ANY_ARGS get the arguments as they were written. */
#ifndef KVASIR_TEXT_TEMPLATE_BUILTIN_H
#define KVASIR_TEXT_TEMPLATE_BUILTIN_H

#include "common/text/template_run.h"
#include "common/text/template_value.h"

struct tmpl_keyword_value {
    struct tmpl_string *name;
    struct tmpl_value value;
};
struct tmpl_args {
    struct tmpl_value *positional;
    size_t count;
    struct tmpl_keyword_value *keywords;
    size_t keyword_count;
};

/* self: the piped value, the tested value, the method's object; VALUE_MISSING for functions. */
typedef int tmpl_builtin_fn(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv,
                            const struct tmpl_args *args, struct tmpl_value *ret_value);

#define BUILTIN(function_name) \
    static int function_name(struct tmpl_run *run, struct tmpl_value self, const struct tmpl_value *argv, \
                             const struct tmpl_args *args, struct tmpl_value *ret_value)
#define IGNORE_ARGS (void)argv, (void)args

enum { TMPL_PARAMS_MAX = 6 };
#define TMPL_ANY_ARGS "*"

struct tmpl_builtin {
    const char *name;
    tmpl_builtin_fn *call;
    const char *params; // names, separated by single blanks; or TMPL_ANY_ARGS
    unsigned required;  // how many of them must be given
};

enum tmpl_table {
    TMPL_FILTERS,
    TMPL_TESTS,
    TMPL_FUNCTIONS,
    TMPL_STR_METHODS,
    TMPL_LIST_METHODS, // of lists and tuples
    TMPL_DICT_METHODS,
    TMPL_LOOP_METHODS,
};

/* NULL when there is none. */
const struct tmpl_builtin *tmpl_builtin_find(enum tmpl_table table, const uint8_t *name, size_t len);

/* Binds args to the row's parameters and calls it. */
int tmpl_builtin_call(struct tmpl_run *run, const struct tmpl_builtin *builtin, struct tmpl_value self,
                      const struct tmpl_args *args, struct tmpl_value *ret_value);

/* The tables' parts, each ended by a row without name. */
extern const struct tmpl_builtin tmpl_string_filters[], tmpl_list_filters[], tmpl_sort_filters[],
    tmpl_select_filters[], tmpl_number_filters[], tmpl_json_filters[], tmpl_tests[], tmpl_functions[],
    tmpl_str_methods[], tmpl_str_split_methods[], tmpl_str_class_methods[], tmpl_list_methods[],
    tmpl_dict_methods[], tmpl_loop_methods[];

/* Arguments; `what` names the function in messages. MISSING gives the fallback. */
int tmpl_arg_int(struct tmpl_run *run, struct tmpl_value arg, int64_t fallback, const char *what,
                 int64_t *ret_integer);
bool tmpl_arg_flag(struct tmpl_run *run, struct tmpl_value arg); // its truth; MISSING is false
int tmpl_arg_string(struct tmpl_run *run, struct tmpl_value arg, const char *what,
                    struct tmpl_string **ret_string);

/* `%`-formatting of Python: values is a tuple, a dict or one value. */
int tmpl_format_percent(struct tmpl_run *run, const struct tmpl_string *format, struct tmpl_value values,
                        struct tmpl_value *ret_value);
tmpl_builtin_fn tmpl_str_format; // str.format
/* One value under a format specification, as both kinds of formatting end up with. */
struct tmpl_format_spec {
    struct tmpl_value fill; // one character, a string; MISSING: blank
    char align;             // '<' '>' '^' '=' or 0
    char sign;              // '+' ' ' or 0
    bool is_alternate, is_grouped, is_zero_padded;
    int64_t width, precision; // precision -1: not given
    char type;                // 0: by the value
};
int tmpl_format_value(struct tmpl_builder *builder, const struct tmpl_format_spec *spec,
                      struct tmpl_value value);

/* template_text.c: what string filters and string methods share. */
enum tmpl_case { CASE_UPPER, CASE_LOWER, CASE_SWAP, CASE_CAPITALIZE, CASE_TITLE, CASE_TITLE_FILTER };
int tmpl_text_case(struct tmpl_run *run, const struct tmpl_string *string, enum tmpl_case to,
                   struct tmpl_value *ret_value);
enum tmpl_sides { SIDE_LEFT = 1, SIDE_RIGHT = 2, SIDE_BOTH = 3 };
/* chars: MISSING or NONE for whitespace, or the set of characters. */
int tmpl_text_strip(struct tmpl_run *run, const struct tmpl_string *string, struct tmpl_value chars,
                    enum tmpl_sides sides, struct tmpl_value *ret_value);
int tmpl_text_replace(struct tmpl_run *run, const struct tmpl_string *string, const struct tmpl_string *from,
                      const struct tmpl_string *to, int64_t count_max, struct tmpl_value *ret_value);
/* Pads to `width` characters; sides says where the padding goes. */
int tmpl_text_pad(struct tmpl_run *run, struct tmpl_string *string, int64_t width,
                  const struct tmpl_string *fill, enum tmpl_sides sides, struct tmpl_value *ret_value);
bool tmpl_text_is_case(const struct tmpl_string *string, bool is_upper); // str.isupper, str.islower
/* sep.join: items by str() when `convert`, else all must be strings. */
int tmpl_text_join(struct tmpl_run *run, const struct tmpl_string *separator, struct tmpl_value items,
                   bool convert, struct tmpl_value *ret_value);
/* The string as a Python number: 1 when it is one. Base 10 takes underscores and blanks around. */
int tmpl_text_to_int(const struct tmpl_string *string, int base, int64_t *ret_integer);
int tmpl_text_to_real(const struct tmpl_string *string, double *ret_real);

#endif
