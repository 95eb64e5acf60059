/* SPDX-License-Identifier: Apache-2.0 */
/* See file.h. The mapping is private and read-only, but it is still the file: a model that somebody
 * truncates while it is mapped raises SIGBUS in whoever touches the lost pages. Replace models by
 * rename(2), never in place; docs/OPERATING.md says so to operators. */
#include "common/gguf/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    PATH_SHOWN_BYTES = 256, // of a longer path the end is shown, so that the reason still fits
    TICK_NS_MAX = 20000000, // of file times: a tick is 1 to 10 ms
};

/* The part of path that goes into an error text. */
static const char *path_shown(const char *path)
{
    size_t len = strlen(path);
    return len > PATH_SHOWN_BYTES ? path + len - PATH_SHOWN_BYTES : path;
}

static struct gguf_identity identity_of(const struct stat *st)
{
    return (struct gguf_identity){
        .device = st->st_dev,
        .inode = st->st_ino,
        .size = (uint64_t)st->st_size,
        .mtime_s = st->st_mtim.tv_sec,
        .mtime_ns = st->st_mtim.tv_nsec,
        .ctime_s = st->st_ctim.tv_sec,
        .ctime_ns = st->st_ctim.tv_nsec,
    };
}

/* The kernel counts file times in ticks: of two writes within one tick the second leaves no trace. So a file
 * that was just written is looked at again when the tick is over; any later write then shows. */
static int stat_settled(int fd, struct stat *ret_st)
{
    struct timespec now;
    if (fstat(fd, ret_st) < 0) return -errno;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age_ns = (now.tv_sec - ret_st->st_ctim.tv_sec) * INT64_C(1000000000) + now.tv_nsec -
                     ret_st->st_ctim.tv_nsec;
    if (age_ns < 0 || age_ns > TICK_NS_MAX) return 0;
    (void)nanosleep(&(struct timespec){.tv_nsec = TICK_NS_MAX}, NULL); // we have no signal handlers
    return fstat(fd, ret_st) < 0 ? -errno : 0;
}

/* Opens and maps path into file. */
static int file_map(const char *path, struct gguf_file *file, struct err *err)
{
    /* O_NONBLOCK so that a FIFO named by mistake is refused below instead of blocking the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return err_sys(err, errno, "%s", path_shown(path));

    struct stat st;
    void *bytes;
    int r = stat_settled(fd, &st);
    if (r < 0) {
        err_sys(err, -r, "%s: fstat", path_shown(path));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        r = ERR(err, ERR_FORMAT, "%s: not a regular file", path_shown(path));
        goto out;
    }
    if (st.st_size == 0) {
        r = ERR(err, ERR_FORMAT, "%s: offset 0: the file is empty", path_shown(path));
        goto out;
    }
    bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        r = err_sys(err, errno, "%s: mmap", path_shown(path));
        goto out;
    }
    file->bytes = bytes;
    file->size = (size_t)st.st_size;
    file->fd = fd;
    file->identity = identity_of(&st);
    return 0;
out:
    (void)close(fd); // opened for reading: nothing to lose
    return r;
}

int gguf_file_open(const char *path, struct gguf_file *ret_file, struct err *err)
{
    static const char prefix[] = "gguf: ";
    struct gguf_file file = {.fd = -1};
    struct err parse_err = {0};
    int r = file_map(path, &file, err);
    if (r < 0) return r;
    r = gguf_parse(file.bytes, file.size, &file.gguf, &parse_err);
    if (r < 0) {
        const char *why = parse_err.text;
        if (strncmp(why, prefix, sizeof prefix - 1) == 0) why += sizeof prefix - 1;
        gguf_file_close(&file);
        return ERR(err, r, "%s: %s", path_shown(path), why);
    }
    *ret_file = file;
    return 0;
}

void gguf_file_close(struct gguf_file *file)
{
    gguf_free(file->gguf);
    if (file->bytes) {
        (void)munmap((void *)file->bytes, file->size); // cannot fail on our own mapping
        (void)close(file->fd);                         // opened for reading: nothing to lose
    }
    *file = (struct gguf_file){.fd = -1};
}

int gguf_file_unchanged(const struct gguf_file *file, const char *path, struct err *err)
{
    struct stat st;
    if (fstat(file->fd, &st) < 0) return err_sys(err, errno, "%s: fstat", path_shown(path));
    struct gguf_identity now = identity_of(&st), then = file->identity;
    if (now.size == then.size && now.mtime_s == then.mtime_s && now.mtime_ns == then.mtime_ns) return 0;
    return ERR(err, ERR_FORMAT, "%s: somebody wrote into it while it was read", path_shown(path));
}
