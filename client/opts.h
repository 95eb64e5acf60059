/* SPDX-License-Identifier: Apache-2.0 */
/* opts - long options out of a table: "--name VALUE", "--name=VALUE", flags, and "--" to end them.
 * Options and operands may be mixed. The same table prints the help. */
#ifndef KVASIR_CLIENT_OPTS_H
#define KVASIR_CLIENT_OPTS_H

#include <stddef.h>
#include <stdint.h>

enum opt_kind {
    OPT_FLAG, // ret: bool *
    OPT_TEXT, // ret: const char **, borrowed from argv
    OPT_INT,  // ret: struct kvasir_maybe_int *, its value before is the default
    OPT_REAL, // ret: struct kvasir_maybe_double *, likewise
};

struct opt {
    const char *name; // without its dashes; NULL: a heading, whose text is `help`
    enum opt_kind kind;
    const char *value_name; // in the help; NULL for a flag
    void *ret;
    const char *help;
    int64_t min, max; // of an OPT_INT
};

struct opts {
    const char *synopsis; // "chat [OPTION]... [TEXT]..."
    const char *about;    // lines of prose, each ended by \n
    const struct opt *table;
    size_t count;
};

enum { OPTS_HELP = 1 };

/* Sets what is given and moves the operands to argv[0..*ret_count). 0; OPTS_HELP when --help was asked
 * for and printed on stdout; ERR_USAGE after a line on stderr. */
int opts_parse(const struct opts *opts, int argc, char **argv, int *ret_count);

#endif
