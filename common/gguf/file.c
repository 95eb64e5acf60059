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
#include <unistd.h>

enum { PATH_SHOWN_BYTES = 256 }; // of a longer path the end is shown, so that the reason still fits

/* The part of path that goes into an error text. */
static const char *path_shown(const char *path)
{
    size_t len = strlen(path);
    return len > PATH_SHOWN_BYTES ? path + len - PATH_SHOWN_BYTES : path;
}

/* Maps path. The file descriptor is closed again; the mapping holds the file. */
static int file_map(const char *path, const uint8_t **ret_bytes, size_t *ret_size, struct err *err)
{
    /* O_NONBLOCK so that a FIFO named by mistake is refused below instead of blocking the start. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) return err_sys(err, errno, "%s", path_shown(path));

    int r;
    struct stat st;
    void *bytes;
    if (fstat(fd, &st) < 0) {
        r = err_sys(err, errno, "%s: fstat", path_shown(path));
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
    *ret_bytes = bytes;
    *ret_size = (size_t)st.st_size;
    r = 0;
out:
    (void)close(fd); // opened for reading: nothing to lose
    return r;
}

int gguf_file_open(const char *path, struct gguf_file *ret_file, struct err *err)
{
    static const char prefix[] = "gguf: ";
    struct gguf_file file = {0};
    struct err parse_err = {0};
    int r = file_map(path, &file.bytes, &file.size, err);
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
    if (file->bytes) (void)munmap((void *)file->bytes, file->size); // cannot fail on our own mapping
    *file = (struct gguf_file){0};
}
