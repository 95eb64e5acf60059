/* SPDX-License-Identifier: Apache-2.0 */
#include "client/opts.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/kvasir.h"
#include "common/base/check.h"
#include "common/base/err.h"

enum { HELP_COLUMN = 26 };

static void print_help(const struct opts *opts)
{
    printf("usage: kvasir %s\n\n%s", opts->synopsis, opts->about);
    for (size_t i = 0; i < opts->count; i++) {
        const struct opt *opt = &opts->table[i];
        if (opt->name == NULL) {
            printf("\n%s\n", opt->help);
            continue;
        }
        int width = printf("  --%s%s%s", opt->name, opt->value_name != NULL ? " " : "",
                           opt->value_name != NULL ? opt->value_name : "");
        if (width >= HELP_COLUMN) {
            printf("\n");
            width = 0;
        }
        printf("%*s%s\n", HELP_COLUMN - width, "", opt->help);
    }
}

static const struct opt *find(const struct opts *opts, const char *name, size_t len)
{
    for (size_t i = 0; i < opts->count; i++) {
        const char *known = opts->table[i].name;
        if (known != NULL && strlen(known) == len && memcmp(known, name, len) == 0) return &opts->table[i];
    }
    return NULL;
}

static int refuse(const struct opts *opts, const char *what, const char *name, const char *why)
{
    int word = (int)strcspn(opts->synopsis, " ");
    fprintf(stderr, "kvasir %.*s: %s%s%s (`kvasir %.*s --help` lists the options)\n", word, opts->synopsis,
            what, name, why, word, opts->synopsis);
    return ERR_USAGE;
}

static int set_int(const struct opts *opts, const struct opt *opt, const char *text)
{
    char *end = NULL;
    errno = 0;
    intmax_t value = strtoimax(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < opt->min || value > opt->max) {
        char why[128];
        (void)snprintf(why, sizeof(why), ": wants a whole number in %" PRId64 "..%" PRId64, opt->min,
                       opt->max); // fits
        return refuse(opts, "--", opt->name, why);
    }
    *(struct kvasir_maybe_int *)opt->ret = (struct kvasir_maybe_int){1, value};
    return 0;
}

static int set_real(const struct opts *opts, const struct opt *opt, const char *text)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value))
        return refuse(opts, "--", opt->name, ": wants a number");
    *(struct kvasir_maybe_double *)opt->ret = (struct kvasir_maybe_double){1, value};
    return 0;
}

/* Sets one option; value is what stood after '=' or in the next argument, NULL for neither. */
static int set(const struct opts *opts, const struct opt *opt, const char *value)
{
    switch (opt->kind) {
    case OPT_FLAG: *(bool *)opt->ret = true; return 0;
    case OPT_TEXT: *(const char **)opt->ret = value; return 0;
    case OPT_INT: return set_int(opts, opt, value);
    case OPT_REAL: return set_real(opts, opt, value);
    }
    return ERR_USAGE;
}

int opts_parse(const struct opts *opts, int argc, char **argv, int *ret_count)
{
    int count = 0;
    bool is_over = false;
    CHECK(argc >= 1);
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (is_over || arg[0] != '-' || arg[1] == '\0') {
            argv[count++] = argv[i];
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            is_over = true;
            continue;
        }
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(opts);
            return OPTS_HELP;
        }
        const char *name = arg[1] == '-' ? arg + 2 : "";
        size_t len = strcspn(name, "=");
        const struct opt *opt = find(opts, name, len);
        if (opt == NULL) return refuse(opts, "unknown option ", arg, "");
        const char *value = name[len] == '=' ? name + len + 1 : NULL;
        if (opt->kind == OPT_FLAG && value != NULL) return refuse(opts, "--", opt->name, ": takes no value");
        if (opt->kind != OPT_FLAG && value == NULL) {
            if (i + 1 == argc) return refuse(opts, "--", opt->name, ": wants a value");
            value = argv[++i];
        }
        int r = set(opts, opt, value);
        if (r < 0) return r;
    }
    *ret_count = count;
    return 0;
}
