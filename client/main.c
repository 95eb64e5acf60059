/* SPDX-License-Identifier: Apache-2.0 */
/* main - the `kvasir` command: finds the subcommand and runs it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cmd.h"
#include "client/kvasir.h"
#include "common/base/check.h"

static int cmd_version(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    printf("kvasir %s\n", kvasir_version());
    return 0;
}

static int cmd_help(int argc, char **argv);

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} COMMANDS[] = {
    {"serve", cmd_serve, "run the server on a model in the foreground"},
    {"chat", cmd_chat, "talk with the model, or ask it one thing"},
    {"complete", cmd_complete, "continue a text"},
    {"status", cmd_status, "what the server is doing"},
    {"models", cmd_models, "what the server serves"},
    {"bench", cmd_bench, "measure a server under load"},
    {"perplexity", cmd_perplexity, "how well the served model predicts a text"},
    {"cache", cmd_cache, "what is cached in shared memory; drop what nobody serves"},
    {"fsck", cmd_fsck, "audit the page pool in shared memory; repair a dead one"},
    {"version", cmd_version, "print the version"},
    {"help", cmd_help, "print this, or the help of a command"},
};

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++)
        if (strcmp(COMMANDS[i].name, name) == 0) return &COMMANDS[i];
    return NULL;
}

static void print_help(FILE *out)
{
    fprintf(out, "usage: kvasir COMMAND [OPTION]... [ARGUMENT]...\n\n");
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++)
        fprintf(out, "  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].about);
    fprintf(out, "\n`kvasir COMMAND --help` tells more. A first try:\n"
                 "  kvasir serve MODEL.gguf        in one terminal\n"
                 "  kvasir chat \"Who was Kvasir?\"  in another\n");
}

static int complain_unknown(const char *name)
{
    fprintf(stderr, "kvasir: unknown command \"%s\" (`kvasir help` lists them)\n", name);
    return EX_USAGE;
}

static int cmd_help(int argc, char **argv)
{
    const struct command *command = argc > 1 ? find(argv[1]) : NULL;
    if (argc > 1 && command == NULL) return complain_unknown(argv[1]);
    if (command == NULL || command->run == cmd_help || command->run == cmd_version) {
        print_help(stdout);
        return 0;
    }
    char help[] = "--help";
    char *arguments[] = {argv[1], help, NULL};
    return command->run(2, arguments);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return EX_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
    if (strcmp(name, "--version") == 0) name = "version";
    const struct command *command = find(name);
    if (command == NULL) return complain_unknown(name);
    int status = command->run(argc - 1, argv + 1);
    /* A full disk or a closed pipe shows here at the latest. */
    if (fflush(stdout) != 0 && status == 0) {
        perror("kvasir: stdout");
        status = EXIT_FAILED;
    }
    return status;
}
