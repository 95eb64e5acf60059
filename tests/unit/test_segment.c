/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/shm/audit.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "tests/unit/shm_guard.h"

static void test_segment_refuses_bad_instances(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(segment_instance_check("", &err), ERR_CONFIG);
    assert_int_equal(segment_instance_check("a/b", &err), ERR_CONFIG);
    assert_int_equal(segment_instance_check("..", &err), ERR_CONFIG);
    assert_int_equal(segment_instance_check("Upper", &err), ERR_CONFIG);
    assert_int_equal(segment_instance_check("123456789012345678901234567890123", &err), ERR_CONFIG);
    assert_int_equal(segment_instance_check("12345678901234567890123456789012", &err), 0);
    assert_int_equal(segment_instance_check("a-b_c9", &err), 0);
}

static void test_segment_is_created_zeroed_private_and_once(void **state)
{
    (void)state;
    struct segment made, again;
    struct err err = {0};
    assert_int_equal(segment_create(shm_instance, "kv.0", 10000, &made, &err), 0);
    assert_int_equal(made.bytes, 10000);
    for (size_t i = 0; i < made.bytes; i++) assert_int_equal(((uint8_t *)made.base)[i], 0);
    int fd = shm_open(made.name, O_RDONLY, 0);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true((size_t)st.st_blocks * 512 >= 10000); // reserved, not sparse
    close(fd);
    assert_int_equal(segment_create(shm_instance, "kv.0", 10000, &again, &err), -EEXIST);
    assert_true(segment_exists(shm_instance, "kv.0"));
    segment_close(&made);
    assert_int_equal(segment_unlink(shm_instance, "kv.0"), 0);
    assert_int_equal(segment_unlink(shm_instance, "kv.0"), 0);
    assert_false(segment_exists(shm_instance, "kv.0"));
    assert_int_equal(segment_open_read(shm_instance, "kv.0", &again, &err), -ENOENT);
}

static void test_segment_too_large_says_need_and_have(void **state)
{
    (void)state;
    struct segment segment;
    struct err err = {0};
    struct statvfs fs;
    assert_int_equal(statvfs("/dev/shm", &fs), 0);
    size_t too_large = (size_t)fs.f_blocks * fs.f_frsize + MIB(64);
    if (fs.f_blocks == 0) skip(); // unlimited
    assert_int_equal(segment_create(shm_instance, "kv.1", too_large, &segment, &err), -ENOSPC);
    assert_non_null(strstr(err.text, "need "));
    assert_non_null(strstr(err.text, "have "));
    assert_false(segment_exists(shm_instance, "kv.1"));
}

static void test_segment_read_only_mapping_cannot_be_written(void **state)
{
    (void)state;
    struct segment made, read;
    struct err err = {0};
    assert_int_equal(segment_create(shm_instance, "meta", 4096, &made, &err), 0);
    assert_int_equal(segment_open_read(shm_instance, "meta", &read, &err), 0);
    // Neither by a write nor by asking for the right: the descriptor behind it was opened read-only.
    assert_int_equal(mprotect(read.base, read.bytes, PROT_READ | PROT_WRITE), -1);
    assert_int_equal(errno, EACCES);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile uint8_t *)read.base = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(*(uint8_t *)made.base, 0);
    *(uint8_t *)made.base = 42; // while the owner's writes are seen
    assert_int_equal(*(volatile uint8_t *)read.base, 42);
    segment_close(&read);
    segment_close(&made);
    assert_int_equal(segment_unlink(shm_instance, "meta"), 0);
}

static void test_segment_open_to_others_is_refused(void **state)
{
    (void)state;
    struct segment made, opened;
    struct err err = {0};
    assert_int_equal(segment_create(shm_instance, "meta", 4096, &made, &err), 0);
    int fd = shm_open(made.name, O_RDWR, 0);
    assert_int_equal(fchmod(fd, 0644), 0);
    assert_int_equal(segment_open_read(shm_instance, "meta", &opened, &err), -EPERM);
    assert_int_equal(fchmod(fd, 0600), 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(segment_open_read(shm_instance, "meta", &opened, &err), ERR_FORMAT);
    close(fd);
    segment_close(&made);
    assert_int_equal(segment_unlink(shm_instance, "meta"), 0);
}

static void test_segment_unlink_all_keeps_to_its_instance(void **state)
{
    (void)state;
    char other[sizeof shm_instance + 2];
    (void)snprintf(other, sizeof other, "%s-x", shm_instance);
    struct segment segment;
    struct err err = {0};
    const char *const parts[] = {"meta", "kv.0", "kv.1", "link.0"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(segment_create(shm_instance, parts[i], 4096, &segment, &err), 0);
        segment_close(&segment);
    }
    assert_int_equal(segment_create(other, "meta", 4096, &segment, &err), 0);
    segment_close(&segment);
    assert_int_equal(segment_unlink_all(shm_instance), 4);
    assert_true(segment_exists(other, "meta"));
    assert_int_equal(segment_unlink_all(other), 1);
    assert_int_equal(segment_unlink_all(other), 0);
}

/* A child takes the lock and tells; then it is killed, and the lock is free again. */
static void test_segment_lock_is_exclusive_and_dies_with_its_holder(void **state)
{
    (void)state;
    int pipe_fds[2], fd;
    struct err err = {0};
    char byte, pid_text[32];
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        byte = segment_lock(shm_instance, &fd, NULL) == 0 ? 'y' : 'n';
        if (write(pipe_fds[1], &byte, 1) == 1) pause();
        _exit(1);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(segment_lock(shm_instance, &fd, &err), ERR_BUSY);
    (void)snprintf(pid_text, sizeof pid_text, "process %d", (int)pid);
    assert_non_null(strstr(err.text, pid_text));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(segment_lock(shm_instance, &fd, &err), 0);
    segment_unlock(shm_instance, fd);
    assert_false(segment_exists(shm_instance, "lock"));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void test_owner_tells_a_life_from_a_pid(void **state)
{
    (void)state;
    uint64_t start = 0;
    assert_int_equal(owner_start(getpid(), &start), 0);
    assert_true(start > 0);
    assert_true(owner_is_alive(getpid(), start));
    assert_false(owner_is_alive(getpid(), start + 1));
    assert_false(owner_is_alive(0, start));
    pid_t pid = fork();
    if (pid == 0) pause();
    assert_int_equal(owner_start(pid, &start), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0); // a zombie now
    assert_false(owner_is_alive(pid, start));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(owner_is_alive(pid, start));
}

static void make_pool(struct segment *ret_meta, struct pool **ret_pool, int64_t pid, uint64_t start)
{
    struct pool_geometry geometry = {.page_count = 8, .page_tokens = PAGE_TOKENS, .rank_count = 1};
    struct pool_owner owner = {.pid = pid, .start = start, .epoch = 5};
    struct err err = {0};
    assert_int_equal(segment_create(shm_instance, "meta", pool_meta_bytes(&geometry), ret_meta, &err), 0);
    assert_int_equal(pool_format(ret_meta->base, ret_meta->bytes, &geometry, &owner, ret_pool, &err), 0);
}

static void test_leftover_counts_what_a_dead_daemon_had(void **state)
{
    (void)state;
    struct pool_leftover leftover;
    struct audit_report report;
    struct err err = {0};
    assert_int_equal(pool_leftover(shm_instance, &leftover), 0);
    assert_int_equal(leftover.segment_count, 0);
    assert_false(leftover.readable);
    assert_int_equal(audit_pool(shm_instance, 0, &report, &err), -ENOENT);

    struct segment meta;
    struct pool *pool;
    uint32_t page, tokens[PAGE_TOKENS] = {0};
    uint64_t sum = 0;
    make_pool(&meta, &pool, 1 << 30, 1); // no such process
    assert_int_equal(pool_grant(pool, 0, &page), 0);
    pool_fill(pool, page, tokens, PAGE_TOKENS);
    pool_seal(pool, page, (struct hash128){1, 1}, PAGE_NONE, &sum);
    pool_free(pool);
    segment_close(&meta);
    assert_int_equal(pool_leftover(shm_instance, &leftover), 0);
    assert_int_equal(leftover.segment_count, 1);
    assert_true(leftover.readable);
    assert_int_equal(leftover.daemon_pid, 1 << 30);
    assert_int_equal(leftover.sealed_count, 1);
    assert_int_equal(audit_pool(shm_instance, AUDIT_PAYLOAD, &report, &err), 0);
    assert_false(report.owner_alive);
    assert_int_equal(report.fault_count, 0);
    assert_int_equal(segment_unlink_all(shm_instance), 1);
}

static void test_audit_pool_sees_a_live_owner_and_a_missing_payload(void **state)
{
    (void)state;
    uint64_t start;
    assert_int_equal(owner_start(getpid(), &start), 0);
    struct segment meta;
    struct pool *pool;
    struct audit_report report;
    struct err err = {0};
    make_pool(&meta, &pool, getpid(), start);
    assert_int_equal(audit_pool(shm_instance, AUDIT_PAYLOAD, &report, &err), 0);
    assert_true(report.owner_alive);
    assert_int_equal(report.fault_count, 0);
    struct pool_header *header = meta.base; // now with a shape, so that payload is due
    header->geometry.layer_count = header->geometry.head_count_kv = 1;
    header->geometry.head_dims = 4;
    header->geometry.page_bytes = pool_page_bytes(KV_F16, 1, 1, 4);
    assert_int_equal(audit_pool(shm_instance, AUDIT_PAYLOAD, &report, &err), 0);
    assert_int_equal(report.fault_count, 1);
    assert_non_null(strstr(report.faults[0], "kv.0"));
    atomic_store(&header->magic, 0);
    assert_int_equal(audit_pool(shm_instance, AUDIT_PAYLOAD, &report, &err), 0);
    assert_false(report.header_valid);
    assert_int_equal(report.fault_count, 1);
    pool_free(pool);
    segment_close(&meta);
    assert_int_equal(segment_unlink_all(shm_instance), 1);
}

/* The lock of payload lies on its mapping: closed descriptors do not end it, the end of its process does. */
static void test_segment_alone_waits_for_every_writer(void **state)
{
    (void)state;
    struct segment made, alone, other;
    struct err err = {0};
    int lock_fd, ready[2];
    char byte;
    assert_int_equal(segment_create(shm_instance, "kv.0", 10000, &made, &err), 0);
    segment_close(&made);
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) { // two mappings, one of which goes
        if (segment_open_shared(shm_instance, "kv.0", &made, &err) < 0) _exit(1);
        if (segment_open_shared(shm_instance, "kv.0", &other, &err) < 0) _exit(1);
        segment_close(&other);
        if (write(ready[1], "x", 1) != 1) _exit(1);
        for (;;) (void)pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(segment_open_alone(shm_instance, "kv.0", 2000000, &alone, &lock_fd, &err), -EBUSY);
    assert_non_null(strstr(err.text, "mapped"));
    assert_int_equal(kill(pid, SIGKILL), 0); // and nobody waits for it before we ask
    assert_int_equal(segment_open_alone(shm_instance, "kv.0", 10000000000, &alone, &lock_fd, &err), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(segment_open_shared(shm_instance, "kv.0", &other, &err), -EBUSY);
    segment_share(lock_fd);
    assert_int_equal(segment_open_shared(shm_instance, "kv.0", &other, &err), 0);
    segment_close(&alone); // a mapping less is one holder less
    int fd;
    assert_int_equal(segment_open_alone(shm_instance, "kv.0", 0, &alone, &fd, &err), -EBUSY);
    segment_close(&other);
    assert_int_equal(segment_open_alone(shm_instance, "kv.0", 0, &alone, &fd, &err), 0);
    close(fd);
    segment_close(&alone);
    assert_int_equal(segment_unlink(shm_instance, "kv.0"), 0);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segment_alone_waits_for_every_writer),
        cmocka_unit_test(test_segment_refuses_bad_instances),
        cmocka_unit_test(test_segment_is_created_zeroed_private_and_once),
        cmocka_unit_test(test_segment_too_large_says_need_and_have),
        cmocka_unit_test(test_segment_read_only_mapping_cannot_be_written),
        cmocka_unit_test(test_segment_open_to_others_is_refused),
        cmocka_unit_test(test_segment_unlink_all_keeps_to_its_instance),
        cmocka_unit_test(test_segment_lock_is_exclusive_and_dies_with_its_holder),
        cmocka_unit_test(test_owner_tells_a_life_from_a_pid),
        cmocka_unit_test(test_leftover_counts_what_a_dead_daemon_had),
        cmocka_unit_test(test_audit_pool_sees_a_live_owner_and_a_missing_payload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return shm_guard_run(run);
}
