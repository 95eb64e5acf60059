/* SPDX-License-Identifier: Apache-2.0 */
/* conf_print - --help and the example file, out of the table of settings. See conf.h. */
#include <inttypes.h>
#include <string.h>

#include "common/base/check.h"
#include "daemon/conf_option.h"

enum { HELP_INDENT = 6, COLUMNS = 100 };

static const struct {
    const char *name;
    const char *title;
} sections[] = {
    {"model", "Model"}, {"server", "Server"},     {"auth", "Access"}, {"scheduler", "Scheduler"},
    {"cache", "Cache"}, {"process", "Processes"}, {"log", "Log"},
};

/* Writes words of text, breaking lines so that none is longer than COLUMNS; prefix begins each. */
static void print_wrapped(FILE *out, const char *prefix, const char *text)
{
    size_t column = 0;
    while (*text) {
        size_t len = strcspn(text, " ");
        if (column > 0 && column + 1 + len > COLUMNS) {
            fputc('\n', out);
            column = 0;
        }
        column += (size_t)fprintf(out, "%s%.*s", column ? " " : prefix, (int)len, text);
        text += len + strspn(text + len, " ");
    }
    fputc('\n', out);
}

static void print_option_help(FILE *out, const struct conf_option *option)
{
    char range[128], variable[CONF_NAME_BYTES];
    char prefix[HELP_INDENT + 1] = "      ";
    conf_option_range(option, sizeof range, range);
    conf_option_variable(option, variable);
    fprintf(out, "  --%s%s%s\n", option->flag, *option->argument ? " " : "", option->argument);
    print_wrapped(out, prefix, option->help);
    fprintf(out, "%s[", prefix);
    if (option->kind != CONF_KIND_CHOICE && *range) fprintf(out, "%s; ", range);
    if (*option->default_text) fprintf(out, "default %s; ", option->default_text);
    fprintf(out, "%s]\n", variable);
}

void conf_print_help(FILE *out)
{
    fputs("Usage: kvasird [--config FILE] [OPTION]... MODEL.gguf\n"
          "Serves a language model to OpenAI-compatible clients.\n"
          "\n"
          "  --config FILE\n"
          "      Read settings from this file. [KVASIR_CONFIG]\n"
          "  --example-config\n"
          "      Print such a file, with every setting explained, and exit.\n"
          "  --help, --version\n"
          "      Print this, or the version, and exit.\n"
          "\n"
          "Each setting below is also a line of the file (NAME = VALUE, under its [section]) and a variable\n"
          "of the environment. Flags win over the environment, the environment over the file.\n",
          out);
    for (size_t i = 0; i < COUNT_OF(sections); i++) {
        fprintf(out, "\n%s [%s]\n", sections[i].title, sections[i].name);
        for (size_t j = 0; j < CONF_OPTION_COUNT; j++) {
            if (strcmp(conf_options[j].section, sections[i].name) == 0)
                print_option_help(out, &conf_options[j]);
        }
    }
}

void conf_print_example(FILE *out)
{
    fputs(
        "# kvasird.conf - settings of kvasird, each with its default. Printed by kvasird --example-config.\n"
        "#\n"
        "# Lines are at most 190 characters long. Sizes take K, M, G or T (powers of 1024). A setting here\n"
        "# gives way to the environment (KVASIR_MAX_NUM_SEQS=64) and to flags (--max-num-seqs 64).\n",
        out);
    for (size_t i = 0; i < COUNT_OF(sections); i++) {
        fprintf(out, "\n[%s]\n", sections[i].name);
        for (size_t j = 0; j < CONF_OPTION_COUNT; j++) {
            const struct conf_option *option = &conf_options[j];
            char range[128];
            if (strcmp(option->section, sections[i].name) != 0) continue;
            conf_option_range(option, sizeof range, range);
            fputc('\n', out);
            print_wrapped(out, "# ", option->help);
            if (*range) fprintf(out, "# Range: %s.\n", range);
            fprintf(out, "#%s =%s%s\n", option->flag, *option->default_text ? " " : "", option->default_text);
        }
    }
}
