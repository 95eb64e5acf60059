/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_serve - becomes `kvasird --progress ARGUMENT...`: same terminal, same signals, same exit status.
 * The daemon is looked for beside this program, in ../sbin of it, in the installed place, in PATH. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"

#ifndef SBINDIR
#define SBINDIR "/usr/local/sbin"
#endif

/* Replaces this process when path is a program; returns when it is none. */
static void try_exec(const char *path, char **argv)
{
    if (access(path, X_OK) == 0) execv(path, argv);
}

static void exec_daemon(char **argv)
{
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len > 0) {
        self[len] = '\0';
        char *slash = strrchr(self, '/');
        if (slash != NULL) *slash = '\0';
        (void)snprintf(path, sizeof(path), "%s/kvasird", self); // fits
        try_exec(path, argv);
        (void)snprintf(path, sizeof(path), "%s/../sbin/kvasird", self); // fits
        try_exec(path, argv);
    }
    try_exec(SBINDIR "/kvasird", argv);
    execvp("kvasird", argv);
}

int cmd_serve(int argc, char **argv)
{
    static char program[] = "kvasird", progress[] = "--progress";
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        printf("usage: kvasir serve [OPTION]... MODEL.gguf\n\n"
               "Runs kvasird in the foreground until Ctrl-C. Every option is kvasird's own:\n\n");
    if (fflush(stdout) != 0) return EXIT_FAILED; // before exec drops it
    char **arguments = calloc((size_t)argc + 2, sizeof(*arguments));
    if (arguments == NULL) {
        fprintf(stderr, "kvasir serve: out of memory\n");
        return EXIT_FAILED;
    }
    arguments[0] = program;
    arguments[1] = progress;
    for (int i = 1; i < argc; i++) arguments[i + 1] = argv[i];
    exec_daemon(arguments);
    free(arguments);
    fprintf(stderr, "kvasir serve: cannot run kvasird: %s (looked beside kvasir, in %s, and in PATH)\n",
            strerror(errno), SBINDIR);
    return EXIT_FAILED;
}
