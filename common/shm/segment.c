/* SPDX-License-Identifier: Apache-2.0 */
/* segment - named POSIX shared memory. Stateless: a struct segment is owned by who opened it. */
#include "common/shm/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/shm/owner.h"
#include "common/shm/shm_file.h"

static const char lock_part[] = "lock";
#define LOCK_NS_MAX (50 * NS_PER_MS)       // for a daemon that lives
#define LOCK_ENDING_NS_MAX (10 * NS_PER_S) // for one that is ending

int segment_instance_check(const char *instance, struct err *err)
{
    size_t len = strlen(instance);
    if (len == 0 || len > INSTANCE_BYTES_MAX)
        return ERR(err, ERR_CONFIG, "instance name: %zu bytes, wanted 1 to %d", len, INSTANCE_BYTES_MAX);
    if (strspn(instance, "abcdefghijklmnopqrstuvwxyz0123456789_-") != len)
        return ERR(err, ERR_CONFIG, "instance name: only a-z, 0-9, _ and - are allowed");
    return 0;
}

static bool part_is_valid(const char *part)
{
    size_t len = strlen(part);
    return len > 0 && strspn(part, "abcdefghijklmnopqrstuvwxyz0123456789.") == len;
}

static int make_name(const char *instance, const char *part, char name[static SEGMENT_NAME_BYTES],
                     struct err *err)
{
    int r = segment_instance_check(instance, err);
    if (r < 0) return r;
    CHECK(part_is_valid(part)); // parts are our own literals
    int n = snprintf(name, SEGMENT_NAME_BYTES, "/kvasir-%s-%s", instance, part);
    if (n >= SEGMENT_NAME_BYTES) return ERR(err, -ENAMETOOLONG, "segment name of part %s is too long", part);
    return 0;
}

int segment_create(const char *instance, const char *part, size_t bytes, struct segment *ret_segment,
                   struct err *err)
{
    CHECK(bytes > 0);
    struct segment segment = {.bytes = bytes};
    int r = make_name(instance, part, segment.name, err);
    if (r < 0) return r;
    int fd = shm_open(segment.name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return err_sys(err, errno, "%s: cannot create", segment.name);
    r = shm_file_reserve(fd, bytes, SHM_FILE_HUGE_IF_QUICK, segment.name, err);
    if (r == 0) r = shm_file_map(fd, bytes, PROT_READ | PROT_WRITE, segment.name, &segment.base, err);
    (void)close(fd); // the mapping holds the memory; a close of shared memory has nothing to flush
    if (r < 0) {
        (void)shm_unlink(segment.name); // ours a moment ago; the first error is the one to report
        return r;
    }
    *ret_segment = segment;
    return 0;
}

/* LOCK_SH or LOCK_EX of an open file, tried until wait_ns is over. */
static int lock_take(int fd, int operation, uint64_t wait_ns, const char *name, struct err *err)
{
    enum { TRY_NS = 500 * 1000 };
    uint64_t end_ns = clock_mono_ns() + wait_ns;
    while (flock(fd, operation | LOCK_NB) < 0) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) return err_sys(err, errno, "%s: cannot lock", name);
        if (clock_mono_ns() >= end_ns)
            return ERR(err, -EBUSY, "%s is still mapped for writing by another process", name);
        (void)nanosleep(&(struct timespec){.tv_nsec = TRY_NS}, NULL); // a lock that ends tells nobody
    }
    return 0;
}

struct how { // to open an existing segment
    bool writes;
    int lock; // LOCK_SH, LOCK_EX, or 0: none
    uint64_t wait_ns;
    int *ret_lock_fd; // NULL: the mapping alone keeps it
};

static int open_existing(const char *instance, const char *part, const struct how *how,
                         struct segment *ret_segment, struct err *err)
{
    struct segment segment = {.base = NULL};
    bool writes = how->writes;
    int r = make_name(instance, part, segment.name, err);
    if (r < 0) return r;
    int fd = shm_open(segment.name, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC, 0);
    if (fd < 0) return err_sys(err, errno, "%s: cannot open", segment.name);
    struct stat st;
    r = shm_file_owner_verify(fd, writes, segment.name, err);
    if (r == 0 && how->lock) r = lock_take(fd, how->lock, how->wait_ns, segment.name, err);
    if (r < 0) goto out;
    if (fstat(fd, &st) < 0) {
        r = err_sys(err, errno, "%s: cannot stat", segment.name);
        goto out;
    }
    if (st.st_size <= 0) {
        r = ERR(err, ERR_FORMAT, "%s is empty", segment.name);
        goto out;
    }
    segment.bytes = (size_t)st.st_size;
    r = shm_file_map(fd, segment.bytes, writes ? PROT_READ | PROT_WRITE : PROT_READ, segment.name,
                     &segment.base, err);
    if (r == 0) *ret_segment = segment;
out:
    if (r == 0 && how->ret_lock_fd) *how->ret_lock_fd = fd;
    else (void)close(fd); // the mapping, if any, holds the memory and the lock
    return r;
}

int segment_open_read(const char *instance, const char *part, struct segment *ret_segment, struct err *err)
{
    return open_existing(instance, part, &(struct how){.writes = false}, ret_segment, err);
}

int segment_open_write(const char *instance, const char *part, struct segment *ret_segment, struct err *err)
{
    return open_existing(instance, part, &(struct how){.writes = true}, ret_segment, err);
}

int segment_open_shared(const char *instance, const char *part, struct segment *ret_segment, struct err *err)
{
    return open_existing(instance, part, &(struct how){.writes = true, .lock = LOCK_SH}, ret_segment, err);
}

int segment_open_alone(const char *instance, const char *part, uint64_t wait_ns, struct segment *ret_segment,
                       int *ret_lock_fd, struct err *err)
{
    const struct how how = {.writes = true, .lock = LOCK_EX, .wait_ns = wait_ns, .ret_lock_fd = ret_lock_fd};
    return open_existing(instance, part, &how, ret_segment, err);
}

void segment_share(int lock_fd)
{
    CHECK(flock(lock_fd, LOCK_SH | LOCK_NB) == 0); // ours alone until now
    (void)close(lock_fd);                          // the mapping holds the lock
}

void segment_close(struct segment *segment)
{
    if (segment->base) CHECK(munmap(segment->base, segment->bytes) == 0);
    *segment = (struct segment){.base = NULL};
}

int segment_unlink(const char *instance, const char *part)
{
    char name[SEGMENT_NAME_BYTES];
    int r = make_name(instance, part, name, NULL);
    if (r < 0) return r;
    if (shm_unlink(name) < 0 && errno != ENOENT) return -errno;
    return 0;
}

bool segment_exists(const char *instance, const char *part)
{
    char name[SEGMENT_NAME_BYTES], path[sizeof SHM_DIR + SEGMENT_NAME_BYTES];
    if (make_name(instance, part, name, NULL) < 0) return false;
    (void)snprintf(path, sizeof path, "%s%s", SHM_DIR, name); // fits by the sizes above
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int segment_each(const char *instance, int (*fn)(void *arg, const char *part, size_t bytes), void *arg)
{
    int r = segment_instance_check(instance, NULL);
    if (r < 0) return r;
    char prefix[SEGMENT_NAME_BYTES];
    size_t prefix_len = (size_t)snprintf(prefix, sizeof prefix, "kvasir-%s-", instance);
    struct dirent **entries;
    int count = scandir(SHM_DIR, &entries, NULL, alphasort);
    if (count < 0) return -errno;
    for (int i = 0; i < count; i++) {
        const char *part = entries[i]->d_name + prefix_len;
        char path[sizeof SHM_DIR + 1 + sizeof entries[i]->d_name];
        struct stat st;
        if (r == 0 && strncmp(entries[i]->d_name, prefix, prefix_len) == 0 && part_is_valid(part)) {
            (void)snprintf(path, sizeof path, "%s/%s", SHM_DIR, entries[i]->d_name); // fits
            if (lstat(path, &st) == 0 && S_ISREG(st.st_mode)) r = fn(arg, part, (size_t)st.st_size);
        }
        free(entries[i]);
    }
    free(entries);
    return r;
}

struct unlink_all {
    const char *instance;
    int count;
};

static int unlink_one(void *arg, const char *part, size_t bytes)
{
    struct unlink_all *all = arg;
    (void)bytes;
    if (strcmp(part, lock_part) == 0) return 0; // see segment_unlock
    int r = segment_unlink(all->instance, part);
    if (r == 0) all->count++;
    return r;
}

int segment_unlink_all(const char *instance)
{
    struct unlink_all all = {.instance = instance};
    int r = segment_each(instance, unlink_one, &all);
    return r < 0 ? r : all.count;
}

static long lock_holder(int fd)
{
    char text[32] = "";
    ssize_t len = pread(fd, text, sizeof text - 1, 0);
    return len > 0 ? strtol(text, NULL, 10) : 0;
}

/* The lock of a daemon. A killed one gives back its memory before its lock, and has yet to notice that it was
 * killed: a short wait for everybody, a longer one for those that are ending. -> 0 or -errno. */
static int lock_wait(int fd)
{
    uint64_t start_ns = clock_mono_ns();
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int code = errno;
        uint64_t waited_ns = clock_mono_ns() - start_ns;
        bool is_ending = waited_ns < LOCK_ENDING_NS_MAX && owner_is_ending(lock_holder(fd));
        if (code != EINTR && (code != EWOULDBLOCK || (waited_ns > LOCK_NS_MAX && !is_ending))) return -code;
        (void)nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL); // a lock that ends tells nobody
    }
    return 0;
}

static int refuse_lock(int fd, const char *name, struct err *err)
{
    long pid = lock_holder(fd);
    if (pid <= 0) return ERR(err, ERR_BUSY, "%s is held by another process", name);
    return ERR(err, ERR_BUSY, "%s is held by process %ld", name, pid);
}

static int lock_open(const char *name, bool *ret_held, int *ret_fd, struct err *err)
{
    int fd = shm_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return err_sys(err, errno, "%s: cannot open", name);
    int r = shm_file_owner_verify(fd, true, name, err);
    if (r == 0 && (r = lock_wait(fd)) < 0)
        r = r == -EWOULDBLOCK ? refuse_lock(fd, name, err) : err_sys(err, -r, "%s: cannot lock", name);
    if (r < 0) {
        (void)close(fd); // nothing was written
        return r;
    }
    /* Its last holder may have removed the name between our open and our flock: then we hold a lock that
     * no one else can find. */
    *ret_held = shm_file_has_name(fd, name);
    *ret_fd = fd;
    return 0;
}

int segment_lock(const char *instance, int *ret_fd, struct err *err)
{
    enum { TRIES_MAX = 100 }; // each lost try is another daemon's whole life
    char name[SEGMENT_NAME_BYTES], text[32];
    int fd = -1, r = make_name(instance, lock_part, name, err);
    bool held = false;
    for (int i = 0; r == 0 && !held && i < TRIES_MAX; i++) {
        r = lock_open(name, &held, &fd, err);
        if (r == 0 && !held) (void)close(fd); // a lock on a file without a name
    }
    if (r < 0) return r;
    if (!held) return ERR(err, ERR_BUSY, "%s changes hands all the time", name);
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)len, 0) != len) {
        // The pid is for a message only; the lock holds without it.
    }
    *ret_fd = fd;
    return 0;
}

void segment_unlock(const char *instance, int fd)
{
    char name[SEGMENT_NAME_BYTES];
    if (make_name(instance, lock_part, name, NULL) == 0)
        (void)shm_unlink(name); // still held: whoever waits on this file will see that its name is gone
    (void)close(fd);
}
