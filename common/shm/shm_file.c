/* SPDX-License-Identifier: Apache-2.0 */
/* See shm_file.h. */
#include "common/shm/shm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 // Linux 6.1
#endif

#define HUGE_PAGE_BYTES MIB(2)  // of x86-64 and of aarch64 with 4 KiB pages; elsewhere: no effect
#define HUGE_PART_BYTES MIB(64) // asked for at once
/* Small pages take some 40 ms: a kernel that works much longer has to search. Its own time counts, so that a
 * busy machine is not taken for a full one; the clock's only against waiting. */
static const uint64_t huge_part_cpu_ns_max[] = {
    [SHM_FILE_HUGE_IF_QUICK] = 100 * NS_PER_MS, [SHM_FILE_HUGE] = NS_PER_S};
#define HUGE_PART_NS_MAX (10 * NS_PER_S)
#define HUGE_FILE_BYTES_MIN (4 * HUGE_PAGE_BYTES) // below it is not worth the calls

int shm_file_owner_verify(int fd, bool writes, const char *name, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0) return err_sys(err, errno, "%s: cannot stat", name);
    bool may_look = !writes && geteuid() == 0;
    if (st.st_uid != geteuid() && !may_look)
        return ERR(err, -EPERM, "%s belongs to user %u, not to us", name, (unsigned)st.st_uid);
    if (st.st_mode & 0077)
        return ERR(err, -EPERM, "%s is open to other users (mode %04o)", name, (unsigned)st.st_mode & 07777u);
    return 0;
}

bool shm_file_has_name(int fd, const char *name)
{
    struct stat by_name, by_fd;
    char path[256];
    int len = snprintf(path, sizeof path, SHM_DIR "%s", name);
    CHECK(len > 0 && (size_t)len < sizeof path);
    if (lstat(path, &by_name) < 0 || fstat(fd, &by_fd) < 0) return false;
    return by_name.st_dev == by_fd.st_dev && by_name.st_ino == by_fd.st_ino;
}

/* Huge pages for [first, first + bytes), both multiples of one. MADV_COLLAPSE makes them whatever
 * /sys/kernel/mm/transparent_hugepage/shmem_enabled says; it wants one small page in each to be there, which
 * is reserved, not touched: touching is what a full /dev/shm answers with SIGBUS. */
static int huge_part(int fd, uint8_t *base, size_t first, size_t bytes)
{
    for (size_t at = first; at < first + bytes; at += HUGE_PAGE_BYTES)
        if (posix_fallocate(fd, (off_t)at, 1) != 0) return -ENOSPC;
    return madvise(base + first, bytes, MADV_COLLAPSE) < 0 ? -errno : 0;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* A wish: where it is not granted the file gets small pages afterwards. */
static void huge_pages_try(int fd, size_t bytes, enum shm_file_pages pages, const char *name)
{
    void *base;
    size_t end = bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if (bytes < HUGE_FILE_BYTES_MIN || ftruncate(fd, (off_t)bytes) < 0) return;
    if (shm_file_map(fd, bytes, PROT_READ | PROT_WRITE, name, &base, NULL) < 0) return;
    for (size_t at = 0; at < end; at += HUGE_PART_BYTES) {
        uint64_t start_ns = clock_mono_ns(), start_cpu_ns = thread_cpu_ns();
        size_t part = end - at < HUGE_PART_BYTES ? end - at : HUGE_PART_BYTES;
        if (huge_part(fd, base, at, part) < 0 ||
            thread_cpu_ns() - start_cpu_ns > huge_part_cpu_ns_max[pages] ||
            clock_mono_ns() - start_ns > HUGE_PART_NS_MAX)
            break;
    }
    CHECK(munmap(base, bytes) == 0);
}

/* Asks first, because a reservation that fails half-way has for a moment taken all there was. */
int shm_file_reserve(int fd, size_t bytes, enum shm_file_pages pages, const char *name, struct err *err)
{
    struct statvfs fs;
    if (bytes > (size_t)INT64_MAX) return ERR(err, ERR_LIMIT, "%s: %zu bytes", name, bytes);
    if (fstatvfs(fd, &fs) < 0) return err_sys(err, errno, "%s: cannot ask for free space", name);
    uint64_t have = (uint64_t)fs.f_bavail * fs.f_frsize;
    bool bounded = fs.f_blocks > 0; // a tmpfs mounted with size=0 reports no blocks
    int r = bounded && bytes > have ? ENOSPC : EINTR;
    if (r == EINTR) huge_pages_try(fd, bytes, pages, name);
    while (r == EINTR) r = posix_fallocate(fd, 0, (off_t)bytes);
    if (r == ENOSPC)
        return ERR(err, -ENOSPC, "%s: need %zu MiB, have %zu MiB in %s", name, bytes / MIB(1) + 1,
                   (size_t)(have / MIB(1)), SHM_DIR);
    if (r != 0) return err_sys(err, r, "%s: cannot reserve %zu bytes", name, bytes);
    return 0;
}

/* The kernel aligns mappings of shared memory only where it makes huge pages for it by itself: room for one
 * more is taken, and what is left over at both ends is given back. */
static void *aligned_room(size_t bytes)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), room = bytes + HUGE_PAGE_BYTES;
    uint8_t *base = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    uint8_t *at = (uint8_t *)(((uintptr_t)base + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
    uint8_t *end = at + (bytes + page_bytes - 1) / page_bytes * page_bytes;
    if (at > base) CHECK(munmap(base, (size_t)(at - base)) == 0);
    if (end < base + room) CHECK(munmap(end, (size_t)(base + room - end)) == 0);
    return at;
}

int shm_file_map(int fd, size_t bytes, int protection, const char *name, void **ret_base, struct err *err)
{
    void *room = bytes >= HUGE_PAGE_BYTES && bytes < SIZE_MAX / 2 ? aligned_room(bytes) : NULL;
    void *base = mmap(room, bytes, protection, MAP_SHARED | (room ? MAP_FIXED : 0), fd, 0);
    if (base == MAP_FAILED) {
        int code = errno;
        if (room) (void)munmap(room, bytes); // ours: cannot fail
        return err_sys(err, code, "%s: cannot map %zu bytes", name, bytes);
    }
    *ret_base = base;
    return 0;
}
