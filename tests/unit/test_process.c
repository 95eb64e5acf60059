/* SPDX-License-Identifier: Apache-2.0 */
/* process - real children: how they end, and that nothing of ours reaches them but what was given. A child's output
 * goes to a file that stands in for our stdout while it is started. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"
#include "daemon/process.h"

struct child {
    struct process process;
    uv_loop_t loop;
    int status, signal, exits, closes;
};

static void child_exited(struct process *process, int status, int signal)
{
    struct child *child = process->owner;
    assert_false(process_running(process));
    child->status = status;
    child->signal = signal;
    child->exits++;
}

static void child_closed(struct process *process)
{
    struct child *child = process->owner;
    assert_int_equal(child->exits, 1);
    child->closes++;
}

static void child_open(struct child *child)
{
    memset(child, 0, sizeof *child);
    assert_int_equal(uv_loop_init(&child->loop), 0);
    child->process = (struct process){
        .pidfd = -1, .on_exit = child_exited, .on_closed = child_closed, .owner = child};
}

/* Runs the loop until nothing is left to wait for. */
static void child_end(struct child *child)
{
    assert_int_equal(uv_run(&child->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&child->loop), 0);
}

static char *const no_environment[] = {NULL};

static void start(struct child *child, const char *const argv[], char *const envp[])
{
    struct err err = {0};
    child_open(child);
    if (process_start(&child->loop, &child->process, argv, envp, &err) < 0) fail_msg("%s", err.text);
    assert_true(process_running(&child->process));
    assert_int_equal(child->exits, 0);
}

/* Runs argv to its end; its stdout comes back, NUL-terminated. -> bytes. */
static size_t output_of(const char *const argv[], char *const envp[], char *out, size_t out_bytes)
{
    struct child child;
    FILE *file = tmpfile();
    assert_non_null(file);
    (void)fflush(stdout); // what is buffered is ours
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
    start(&child, argv, envp);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    close(saved);
    child_end(&child);
    assert_int_equal(child.signal, 0);
    assert_int_equal(child.status, 0);
    rewind(file);
    size_t len = fread(out, 1, out_bytes - 1, file);
    out[len] = 0;
    (void)fclose(file); // only read
    return len;
}

#define RUN(out, ...) output_of((const char *const[]){__VA_ARGS__, NULL}, no_environment, (out), sizeof(out))

/* ---- ends ---- */

static void test_process_tells_the_exit_status(void **state)
{
    (void)state;
    static const int statuses[] = {0, 1, 65, 78, 255};
    for (size_t i = 0; i < COUNT_OF(statuses); i++) {
        struct child child;
        char script[32];
        (void)snprintf(script, sizeof script, "exit %d", statuses[i]);
        start(&child, (const char *const[]){"/bin/sh", "-c", script, NULL}, no_environment);
        child_end(&child);
        assert_int_equal(child.exits, 1);
        assert_int_equal(child.closes, 1);
        assert_int_equal(child.status, statuses[i]);
        assert_int_equal(child.signal, 0);
    }
}

static void test_process_tells_the_signal(void **state)
{
    (void)state;
    static const int signals[] = {SIGKILL, SIGTERM, SIGSEGV};
    for (size_t i = 0; i < COUNT_OF(signals); i++) {
        struct child child;
        char script[32];
        (void)snprintf(script, sizeof script, "kill -%d $$", signals[i]);
        start(&child, (const char *const[]){"/bin/sh", "-c", script, NULL}, no_environment);
        child_end(&child);
        assert_int_equal(child.exits, 1);
        assert_int_equal(child.signal, signals[i]);
        assert_int_equal(child.status, 0);
    }
}

static void test_process_signals_its_child(void **state)
{
    (void)state;
    struct child child;
    start(&child, (const char *const[]){"/bin/sleep", "1000", NULL}, no_environment);
    assert_int_equal(process_signal(&child.process, SIGKILL), 0);
    child_end(&child);
    assert_int_equal(child.signal, SIGKILL);
    assert_int_equal(process_signal(&child.process, SIGKILL), -ESRCH);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // reaped: no child is left
    assert_int_equal(errno, ECHILD);
}

/* One after the other in one struct, as a group restarts its worker. */
static void test_process_starts_again(void **state)
{
    (void)state;
    struct child child;
    child_open(&child);
    for (int i = 0; i < 3; i++) {
        const char *const argv[] = {"/bin/true", NULL};
        child.exits = child.closes = 0;
        assert_int_equal(process_start(&child.loop, &child.process, argv, no_environment, NULL), 0);
        assert_int_equal(uv_run(&child.loop, UV_RUN_DEFAULT), 0);
        assert_int_equal(child.exits, 1);
        assert_int_equal(child.closes, 1);
        assert_false(child.process.closing);
    }
    child_end(&child);
}

/* Somebody else reaped it: gone all the same. */
static void test_process_notices_a_child_reaped_elsewhere(void **state)
{
    (void)state;
    struct child child;
    start(&child, (const char *const[]){"/bin/true", NULL}, no_environment);
    assert_int_equal(waitpid(child.process.pid, NULL, 0), child.process.pid);
    child_end(&child);
    assert_int_equal(child.exits, 1);
    assert_int_equal(child.closes, 1);
}

static void test_process_fails_to_start(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int code;
    } paths[] = {{"/nonexistent/worker", -ENOENT}, {"/dev/null", -EACCES}, {"/", -EACCES}};
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        struct child child;
        struct err err = {0};
        const char *const argv[] = {paths[i].path, NULL};
        child_open(&child);
        assert_int_equal(process_start(&child.loop, &child.process, argv, no_environment, &err),
                         paths[i].code);
        assert_non_null(strstr(err.text, paths[i].path));
        assert_false(process_running(&child.process));
        child_end(&child); // nothing was left in the loop
        assert_int_equal(child.exits, 0);
        assert_int_equal(child.closes, 0);
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // nor a child that is not reaped
}

/* ---- what reaches the child ---- */

static void test_process_gives_exactly_the_environment(void **state)
{
    (void)state;
    char out[256];
    char *const envp[] = {(char *)"A=1", (char *)"KVASIR_KERNELS=ref", NULL};
    const char *const argv[] = {"/bin/cat", "/proc/self/environ", NULL};
    assert_int_equal(setenv("LEAKED", "1", 1), 0);
    size_t len = output_of(argv, envp, out, sizeof out);
    assert_int_equal(len, sizeof "A=1\0KVASIR_KERNELS=ref");
    assert_memory_equal(out, "A=1\0KVASIR_KERNELS=ref", len);
    assert_int_equal(RUN(out, "/bin/cat", "/proc/self/environ"), 0);
}

static void test_process_gives_the_arguments(void **state)
{
    (void)state;
    char out[256];
    size_t len = RUN(out, "/bin/cat", "/proc/self/cmdline", "/proc/self/environ", "/dev/null");
    const char want[] = "/bin/cat\0/proc/self/cmdline\0/proc/self/environ\0/dev/null";
    assert_int_equal(len, sizeof want);
    assert_memory_equal(out, want, len);
}

/* Ours are open without close-on-exec, as a library might leave them; the listing opens one of its own. */
static void test_process_gives_no_descriptor_above_2(void **state)
{
    (void)state;
    char out[256];
    int low = open("/dev/null", O_RDONLY), high = fcntl(low, F_DUPFD, 500);
    assert_true(low > 2 && high >= 500);
    (void)RUN(out, "/bin/ls", "/proc/self/fd");
    assert_string_equal(out, "0\n1\n2\n3\n");
    close(low);
    close(high);
}

static void test_process_gives_dev_null_as_stdin(void **state)
{
    (void)state;
    char out[256];
    (void)RUN(out, "/bin/readlink", "/proc/self/fd/0");
    assert_string_equal(out, "/dev/null\n");
}

/* Signals that we ignore or block are at their default and open in the child. */
static void test_process_gives_signals_at_their_default(void **state)
{
    (void)state;
    char out[256];
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGUSR1);
    assert_int_equal(sigprocmask(SIG_BLOCK, &blocked, &before), 0);
    void (*old)(int) = signal(SIGPIPE, SIG_IGN);
    (void)RUN(out, "/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status");
    unsigned long long mask = 0, ignored = 0;
    assert_int_equal(sscanf(out, "SigBlk: %llx SigIgn: %llx", &mask, &ignored), 2);
    assert_true(mask == 0);
    assert_true((ignored & ~(3ULL << 31)) ==
                0); // 32 and 33 are libc's own; whoever started us may ignore them
    assert_true(signal(SIGPIPE, old) != SIG_ERR);
    assert_int_equal(sigprocmask(SIG_SETMASK, &before, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process_tells_the_exit_status),
        cmocka_unit_test(test_process_tells_the_signal),
        cmocka_unit_test(test_process_signals_its_child),
        cmocka_unit_test(test_process_starts_again),
        cmocka_unit_test(test_process_notices_a_child_reaped_elsewhere),
        cmocka_unit_test(test_process_fails_to_start),
        cmocka_unit_test(test_process_gives_exactly_the_environment),
        cmocka_unit_test(test_process_gives_the_arguments),
        cmocka_unit_test(test_process_gives_no_descriptor_above_2),
        cmocka_unit_test(test_process_gives_dev_null_as_stdin),
        cmocka_unit_test(test_process_gives_signals_at_their_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
