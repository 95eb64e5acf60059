/* SPDX-License-Identifier: Apache-2.0 */
/* A real kvasir-worker over a real pool and link, with a tiny model whose greedy tokens another implementation
 * computed. $KVASIR_WORKER names the program (default ./kvasir-worker); skips without it or without the vectors.
 * A failure reruns with KVASIR_SEED=<printed seed>. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // syscall()
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cJSON.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/shm/audit.h"
#include "tests/proc/worker_rig.h"
#include "tests/unit/model_rig.h"
#include "tests/unit/shm_guard.h"

enum { PROMPTS = 4, GREEDY = 16, PROMPT_MAX = 160 };

struct vector {
    uint32_t ids[PROMPT_MAX], greedy[GREEDY];
    uint32_t count;
};

static char worker_path[4096], model_path[4096];
static struct vector vectors[PROMPTS];

static uint32_t read_ids(const cJSON *array, uint32_t *ids, uint32_t max)
{
    uint32_t count = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, array)
    {
        assert_true(count < max);
        ids[count++] = (uint32_t)id->valuedouble;
    }
    return count;
}

/* 0, or -1 when something is not there: then the tests skip. */
static int find_files(void)
{
    char path[4096];
    const char *worker = getenv("KVASIR_WORKER");
    if (!worker) worker = "./kvasir-worker";
    if (!realpath(worker, worker_path) || access(worker_path, X_OK) < 0) {
        printf("no worker program at %s (KVASIR_WORKER)\n", worker);
        return -1;
    }
    if (model_rig_vector_path("tiny/llama_tied.gguf", sizeof model_path, model_path) < 0 ||
        model_rig_vector_path("tiny/llama_tied.json", sizeof path, path) < 0) {
        printf("no conformance vectors (KVASIR_VECTORS)\n");
        return -1;
    }
    size_t len;
    char *text = model_rig_read_text(path, &len);
    cJSON *json = cJSON_ParseWithLength(text, len);
    uint32_t i = 0;
    const cJSON *prompt;
    cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(json, "prompts"))
    {
        if (i == PROMPTS) break;
        vectors[i].count = read_ids(cJSON_GetObjectItem(prompt, "ids"), vectors[i].ids, PROMPT_MAX);
        (void)read_ids(cJSON_GetObjectItem(prompt, "greedy"), vectors[i].greedy, GREEDY);
        i++;
    }
    cJSON_Delete(json);
    free(text);
    return i == PROMPTS ? 0 : -1;
}

static bool files_found;

static struct rig *rig_in_use; // for what a failed case leaves

static int teardown(void **state)
{
    (void)state;
    if (rig_in_use && rig_in_use->link) rig_close(rig_in_use);
    rig_in_use = NULL;
    return 0;
}

static void open_rig(struct rig *rig)
{
    if (!files_found) skip();
    rig_in_use = rig;
    rig_open(rig, shm_instance, worker_path, model_path);
    for (int i = 0; i < PROMPTS; i++) rig_add(rig, vectors[i].ids, vectors[i].count, GREEDY);
}

static void start_ready(struct rig *rig)
{
    rig_start(rig, NULL);
    if (rig_wait_ready(rig) < 0) fail_msg("the worker ended: %s", rig->status.panic);
}

static void check_tokens(const struct rig *rig)
{
    for (int i = 0; i < PROMPTS; i++) {
        const struct rig_seq *seq = &rig->seqs[i];
        assert_int_equal(seq->token_count, vectors[i].count + GREEDY);
        assert_memory_equal(seq->tokens + vectors[i].count, vectors[i].greedy, GREEDY * sizeof(uint32_t));
    }
}

/* Every checksum that the worker reported is that of the payload as it lies there now. */
static void check_payload(const struct rig *rig)
{
    struct audit_report report;
    struct err err = {0};
    assert_int_equal(audit_pool(rig->instance, AUDIT_PAYLOAD, &report, &err), 0);
    if (report.fault_count > 0) fail_msg("%s", report.faults[0]);
    assert_true(report.sum_count > 0);
    assert_int_equal(report.sum_count, pool_sealed_count(rig->pool));
    assert_true(report.owner_alive);
}

static void test_worker_greedy_tokens_are_the_references(void **state)
{
    (void)state;
    static struct rig rig;
    open_rig(&rig);
    start_ready(&rig);
    while (rig_plan(&rig, 21) > 0) {
        rig_push(&rig);
        assert_int_equal(rig_take(&rig), 0);
        rig_apply(&rig);
    }
    check_tokens(&rig);
    check_payload(&rig);
    link_rank_status(rig.link, 0, &rig.status);
    assert_int_equal(rig.status.steps, rig.step - 1); // the last plan had nobody in it
    assert_true(rig.status.heartbeat_ns > 0);
    link_stop(rig.link);
    assert_int_equal(waitpid(rig.pid, &rig.exit_status, 0), rig.pid);
    rig.pid = 0;
    assert_true(WIFEXITED(rig.exit_status));
    assert_int_equal(WEXITSTATUS(rig.exit_status), 0);
    rig_close(&rig);
}

static void test_worker_killed_at_any_moment_changes_no_token(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    struct rng rng = {text ? strtoull(text, NULL, 0) : clock_wall_ns()};
    printf("KVASIR_SEED=%llu\n", (unsigned long long)rng.state);
    static struct rig rig;
    unsigned kills = 0, lost_steps = 0;
    open_rig(&rig);
    start_ready(&rig);
    while (rig_plan(&rig, 21) > 0) {
        rig_push(&rig);
        while (rng_below(&rng, 3) == 0) { // now and then: kill it somewhere in this step, perhaps again
            uint64_t until = clock_mono_ns() + rng_below(&rng, 3 * NS_PER_MS);
            while (clock_mono_ns() < until) continue;
            size_t bytes;
            assert_int_equal(kill(rig.pid, SIGKILL), 0);
            assert_int_equal(waitpid(rig.pid, NULL, 0), rig.pid);
            rig.pid = 0;
            kills++;
            // Whether it answered or not: its plan is given to the next one as it was.
            lost_steps += link_done_pop(rig.link, rig.done, done_bytes_max(link_limits(rig.link)), &bytes) <
                          0;
            link_reset(rig.link);
            start_ready(&rig);
            rig_push(&rig);
        }
        assert_int_equal(rig_take(&rig), 0);
        rig_apply(&rig);
    }
    printf("%u kills, %u of them lost a step\n", kills, lost_steps);
    check_tokens(&rig);
    check_payload(&rig);
    rig_close(&rig);
}

static void test_worker_refuses_a_wrong_plan_and_goes_on(void **state)
{
    (void)state;
    const char *text = getenv("KVASIR_SEED");
    struct rng rng = {text ? strtoull(text, NULL, 0) : clock_wall_ns()};
    static struct rig rig;
    unsigned refused = 0;
    open_rig(&rig);
    start_ready(&rig);
    while (rig_plan(&rig, 64) > 0) {
        uint8_t good[16384];
        size_t len = rig.plan_bytes,
               at = 32 + rng_below(&rng, len - 32); // step and epoch stay: they are answered
        assert_true(len <= sizeof good);
        memcpy(good, rig.plan, len);
        rig.plan[at] ^= (uint8_t)(1 + rng_below(&rng, 255));
        struct plan_view view;
        bool valid = plan_verify(rig.plan, len, link_limits(rig.link), &view, NULL) == 0;
        if (!valid) { // a valid one may overwrite what the good one relies on; these may do nothing at all
            rig_push(&rig);
            memcpy(rig.plan, good, len);
            assert_int_equal(rig_take(&rig), ERR_PEER);
            link_rank_status(rig.link, 0, &rig.status);
            assert_true(rig.status.panic[0] != '\0');
            assert_int_equal(rig.status.state, RANK_READY);
            refused++;
        }
        memcpy(rig.plan, good, len);
        rig_push(&rig);
        assert_int_equal(rig_take(&rig), 0);
        rig_apply(&rig);
    }
    assert_true(refused > 0);
    check_tokens(&rig);
    check_payload(&rig);
    rig_close(&rig);
}

static void test_worker_refuses_pages_that_are_not_granted(void **state)
{
    (void)state;
    static struct rig rig;
    open_rig(&rig);
    start_ready(&rig);
    assert_true(rig_plan(&rig, 64) > 0); // prompts of 1, 7, 33 and 64 rows: pages 0; 1; 2, 3, 4; 5 to 8
    struct plan_page *pages = (struct plan_page *)rig.view.pages;
    struct plan_page good;
    const struct plan_page wrong[] = {
        {pages[0].page_idx, pages[0].generation + 1}, // another life
        {RIG_PAGES - 1, 1},                           // free
        pages[1],                                     // another sequence's: written twice
    };
    good = pages[0];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pages[0] = wrong[i];
        rig_push(&rig);
        pages[0] = good;
        assert_int_equal(rig_take(&rig), ERR_PEER);
    }
    rig_push(&rig);
    assert_int_equal(rig_take(&rig), 0);
    rig_apply(&rig);
    assert_true(rig_plan(&rig, 64) > 0);
    pages = (struct plan_page *)rig.view.pages;
    good = pages[0];
    uint32_t sealed = rig.seqs[3].pages[0];
    pages[0] = (struct plan_page){sealed, pool_desc(rig.pool, sealed)->generation}; // to be written
    rig_push(&rig);
    pages[0] = good;
    assert_int_equal(rig_take(&rig), ERR_PEER);
    rig_close(&rig);
}

/* Starts a worker with a file of the first len bytes of the model, and 8 zero bytes. */
static void start_with_bad_file(struct rig *rig, size_t len, int status, const char *reason)
{
    char path[] = "/tmp/kvasir-test-XXXXXX";
    size_t size;
    char *bytes = model_rig_read_text(model_path, &size);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_true(len <= size);
    assert_int_equal(write(fd, bytes, len), len);
    assert_int_equal(write(fd, "\0\0\0\0\0\0\0\0", 8), 8);
    close(fd);
    free(bytes);
    rig_start(rig, path);
    assert_int_equal(rig_wait_ready(rig), -1);
    assert_int_equal(unlink(path), 0);
    assert_true(WIFEXITED(rig->exit_status));
    assert_int_equal(WEXITSTATUS(rig->exit_status), status);
    assert_int_equal(rig->status.state, RANK_FAILED);
    if (!strstr(rig->status.panic, reason)) fail_msg("reason: %s", rig->status.panic);
    assert_null(strchr(rig->status.panic, '\n'));
    link_reset(rig->link);
}

static void test_worker_bad_model_is_exit_65_with_the_reason(void **state)
{
    (void)state;
    static struct rig rig;
    size_t size;
    open_rig(&rig);
    free(model_rig_read_text(model_path, &size));
    start_with_bad_file(&rig, 0, 65, "not a GGUF file"); // no GGUF at all
    start_with_bad_file(&rig, 1000, 65, "offset");       // ends in its header
    start_with_bad_file(&rig, size / 2, 65, "");         // ends in its tensors
    start_with_bad_file(&rig, size, 65, "not the file"); // loads, but is not what the daemon read
    rig_start(&rig, "/nonexistent/model.gguf");
    assert_int_equal(rig_wait_ready(&rig), -1);
    assert_int_equal(WEXITSTATUS(rig.exit_status), 71);
    link_reset(rig.link);
    start_ready(&rig); // and a good one after all that
    rig_close(&rig);
}

static int run_worker(const char *const argv[])
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr); // its complaints are expected
        execv(worker_path, (char *const *)argv);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_worker_bad_arguments_are_exit_64(void **state)
{
    (void)state;
    if (!files_found) skip();
#define COMMON "w", "--instance", "test-none", "--group", "0", "--ranks", "1", "--model", model_path
    const char *const bad[][16] = {
        {"w", NULL},
        {COMMON, "--threads", "1", NULL},
        {COMMON, "--threads", "0", "--daemon-pid", "1", NULL},
        {COMMON, "--threads", "-1", "--daemon-pid", "1", NULL},
        {COMMON, "--threads", "1x", "--daemon-pid", "1", NULL},
        {COMMON, "--threads", "1", "--daemon-pid", "1", "more", NULL},
        {COMMON, "--threads", "1", "--daemon-pid", "1", "--what", NULL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(run_worker(bad[i]), 64);
    const char *const orphan[] = {COMMON, "--threads", "1", "--daemon-pid", "1", NULL};
    assert_int_equal(run_worker(orphan), 70); // its parent is not process 1
}

/* Its own daemon died, and by their names it opens the next one's pool and link (tests/model/ring.pml, mutation 28):
 * it leaves without a word in them. */
static void test_worker_keeps_off_the_next_daemons_link(void **state)
{
    (void)state;
    static struct rig rig;
    struct rank_status status;
    open_rig(&rig);
    struct pool_header *header = rig.meta.base;
    int64_t pid = header->daemon_pid;
    header->daemon_pid = pid + 1;
    rig_start(&rig, NULL);
    assert_int_equal(rig_wait_ready(&rig), -1);
    assert_true(WIFEXITED(rig.exit_status));
    assert_int_equal(WEXITSTATUS(rig.exit_status), 70);
    assert_int_equal(link_daemon_wait(rig.link, 0), -ETIMEDOUT); // no change was told
    link_rank_status(rig.link, 0, &status);
    assert_int_equal(status.state, RANK_NONE);
    assert_int_equal(status.panic[0], 0);
    header->daemon_pid = pid;
    start_ready(&rig);
    rig_close(&rig);
}

static void test_worker_does_not_outlive_its_daemon(void **state)
{
    (void)state;
    if (!files_found) skip();
    int fds[2];
    pid_t worker;
    assert_int_equal(pipe(fds), 0);
    pid_t daemon = fork();
    assert_true(daemon >= 0);
    if (daemon == 0) {
        static struct rig rig;
        (void)alarm(60); // should this process fail a check, and so not reach pause()
        open_rig(&rig);
        start_ready(&rig);
        if (write(fds[1], &rig.pid, sizeof rig.pid) == sizeof rig.pid) pause();
        _exit(1);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &worker, sizeof worker), sizeof worker);
    int worker_fd = (int)syscall(SYS_pidfd_open, worker, 0);
    assert_true(worker_fd >= 0);
    struct pollfd poll_fd = {.fd = worker_fd, .events = POLLIN};
    assert_int_equal(kill(worker, SIGINT), 0); // a terminal's ^C is not for it
    assert_int_equal(kill(worker, SIGHUP), 0);
    assert_int_equal(poll(&poll_fd, 1, 50), 0);
    assert_int_equal(kill(daemon, SIGKILL), 0);
    assert_int_equal(waitpid(daemon, NULL, 0), daemon);
    assert_int_equal(poll(&poll_fd, 1, 10000), 1); // the worker has ended
    close(worker_fd);
    close(fds[0]);
    (void)segment_unlink_all(shm_instance); // what the killed daemon left
}

static int run(void)
{
    files_found = find_files() == 0;
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_worker_greedy_tokens_are_the_references),
        CASE(test_worker_killed_at_any_moment_changes_no_token),
        CASE(test_worker_refuses_a_wrong_plan_and_goes_on),
        CASE(test_worker_refuses_pages_that_are_not_granted),
        CASE(test_worker_bad_model_is_exit_65_with_the_reason),
        CASE(test_worker_bad_arguments_are_exit_64),
        CASE(test_worker_keeps_off_the_next_daemons_link),
        CASE(test_worker_does_not_outlive_its_daemon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return shm_guard_run(run);
}
