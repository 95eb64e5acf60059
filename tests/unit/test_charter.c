/* SPDX-License-Identifier: Apache-2.0 */
/* What a leader brings to its host's agent: whole, verified, from the same user. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/ipc/charter.h"
#include "common/shm/pool.h"

static char instance[INSTANCE_BYTES_MAX + 1];

/* Rank 2 and 3 of 4, the first of three hosts having one. */
static struct charter sample(void)
{
    struct charter charter = {
        .build = charter_build(),
        .epoch = 7,
        .geometry = {.page_count = 64,
                     .page_tokens = PAGE_TOKENS,
                     .rank_count = 4,
                     .remote_count = 3,
                     .layer_count = 2,
                     .head_count_kv = 2,
                     .head_dims = 16,
                     .page_bytes = pool_page_bytes(KV_F16, 2, 2, 16)},
        .limits = {.seqs_max = 4,
                   .tokens_max = 32,
                   .pages_max = 64,
                   .pool_pages = 64,
                   .vocab_count = 300,
                   .page_tokens = PAGE_TOKENS,
                   .rank_count = 4},
        .rank_first = 2,
        .rank_count = 2,
        .head = "kva",
    };
    (void)snprintf(charter.instance, sizeof charter.instance, "%s", instance); // fits
    charter.shape = exchange_shape_of(&charter.limits, 2);
    charter.shape.embedding_dims = charter.shape.attention_dims = charter.shape.feed_forward_dims = 64;
    return charter;
}

static int make_instance(void **state)
{
    (void)state;
    (void)snprintf(instance, sizeof instance, "test-charter-%d", (int)getpid()); // fits
    return 0;
}

static void test_charter_verifies_every_part(void **state)
{
    (void)state;
    struct err err = {0};
    struct charter good = sample(), bad;
    if (charter_verify_host(&good, &err) < 0) fail_msg("%s", err.text);
#define REFUSED(code, change) \
    do { \
        bad = good; \
        change; \
        assert_int_equal(charter_verify_host(&bad, &err), code); \
    } while (0)
    REFUSED(ERR_VERSION, bad.build++);
    REFUSED(ERR_PEER, memset(bad.head, 'a', sizeof bad.head));
    REFUSED(ERR_PEER, memset(bad.instance, 'a', sizeof bad.instance));
    REFUSED(ERR_CONFIG, bad.instance[0] = '/');
    REFUSED(ERR_PEER, bad.group = GROUPS_MAX);
    REFUSED(ERR_LIMIT, bad.geometry.page_count = 0);
    REFUSED(ERR_LIMIT, bad.geometry.remote_count = 4);
    REFUSED(ERR_LIMIT, bad.geometry.page_bytes++);
    REFUSED(ERR_PEER, bad.geometry.page_bytes = 0);
    REFUSED(ERR_PEER, bad.geometry.page_count++);
    REFUSED(ERR_PEER, bad.limits.rank_count = 3);
    REFUSED(ERR_PEER, bad.rank_first = 0);
    REFUSED(ERR_PEER, bad.rank_first = 4);
    REFUSED(ERR_PEER, bad.rank_first = UINT32_MAX);
    REFUSED(ERR_PEER, bad.rank_count = 0);
    REFUSED(ERR_PEER, bad.rank_count = 3);
    REFUSED(ERR_PEER, bad.shape.embedding_dims = 0);
    REFUSED(ERR_PEER, bad.shape.feed_forward_dims = UINT32_MAX);
    REFUSED(ERR_PEER, bad.shape.rank_count = 1);
    REFUSED(ERR_PEER, bad.shape.note_bytes++);
#undef REFUSED
}

/* A leader in a process of its own. -> its pid; it ends with 0 where the charter was taken, else the code's exit
 * status. */
static pid_t leader(const struct charter *charter)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    struct err err = {0};
    int fd = -1, r = charter_bring(charter, &fd, &err);
    if (r == 0) (void)close(fd); // that is all that it wanted
    _exit(err_exit_status(r));
}

static int wait_status(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void wait_readable(int fd)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 10000), 1);
}

static int accept_one(int listen_fd, pid_t wanted)
{
    int fd;
    int64_t pid;
    wait_readable(listen_fd);
    assert_int_equal(charter_accept(listen_fd, &fd, &pid), 0);
    assert_int_equal(pid, wanted);
    wait_readable(fd);
    return fd;
}

static void test_charter_is_brought_and_answered(void **state)
{
    (void)state;
    struct charter good = sample(), got, other = good;
    struct err err = {0};
    int listen_fd, second, fd;
    assert_int_equal(wait_status(leader(&good)), err_exit_status(ERR_CONFIG)); // nobody is there
    assert_int_equal(charter_listen(instance, &listen_fd, &err), 0);
    assert_int_equal(charter_listen(instance, &second, &err), ERR_BUSY);
    assert_int_equal(charter_accept(listen_fd, &fd, &(int64_t){0}), -EAGAIN);
    pid_t pid = leader(&good);
    fd = accept_one(listen_fd, pid);
    assert_int_equal(charter_receive(fd, instance, &got, &err), 0);
    assert_memory_equal(&got, &good, sizeof got);
    assert_int_equal(charter_receive(fd, instance, &got, &err), -EAGAIN);
    charter_answer(fd, 0, "");
    assert_int_equal(wait_status(pid), 0);
    wait_readable(fd);
    assert_int_equal(charter_receive(fd, instance, &got, &err), ERR_PEER_DEAD); // it has gone
    assert_int_equal(close(fd), 0);
    other.rank_count = 3;
    pid = leader(&other);
    fd = accept_one(listen_fd, pid);
    assert_int_equal(charter_receive(fd, instance, &got, &err), ERR_PEER);
    charter_answer(fd, ERR_PEER, err.text);
    assert_int_equal(wait_status(pid), err_exit_status(ERR_PEER));
    assert_int_equal(close(fd), 0);
    pid = leader(&good);
    fd = accept_one(listen_fd, pid);
    assert_int_equal(charter_receive(fd, "another", &got, &err), ERR_PEER);
    assert_int_equal(close(fd), 0);
    assert_int_equal(wait_status(pid), err_exit_status(ERR_PEER)); // left without an answer
    assert_int_equal(close(listen_fd), 0);
}

static void test_charter_of_another_length_is_another_builds(void **state)
{
    (void)state;
    struct charter good = sample(), got;
    struct err err = {0};
    uint8_t bytes[sizeof good + 8] = {0};
    memcpy(bytes, &good, sizeof good);
    const size_t lens[] = {1, sizeof good - 1, sizeof good + 1, sizeof bytes};
    for (size_t i = 0; i < COUNT_OF(lens); i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        assert_int_equal(send(pair[0], bytes, lens[i], 0), lens[i]);
        assert_int_equal(charter_receive(pair[1], instance, &got, &err), ERR_VERSION);
        assert_int_equal(close(pair[0]) | close(pair[1]), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_charter_verifies_every_part),
        cmocka_unit_test(test_charter_is_brought_and_answered),
        cmocka_unit_test(test_charter_of_another_length_is_another_builds),
    };
    return cmocka_run_group_tests(tests, make_instance, NULL);
}
