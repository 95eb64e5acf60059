/* SPDX-License-Identifier: Apache-2.0 */
/* file - maps a GGUF file read-only and parses it; owns mapping and parse together. */
#ifndef KVASIR_GGUF_FILE_H
#define KVASIR_GGUF_FILE_H

#include "common/gguf/gguf.h"

/* Which bytes these are, by what the system keeps of a file: the kernel sets ctime at every write to the file
 * and nobody can set it back, so equal identities mean equal content. (A copy has another identity: that
 * costs time, never correctness.) All of it goes into a hash, so there is no padding. */
struct gguf_identity {
    uint64_t device, inode, size;
    int64_t mtime_s, mtime_ns, ctime_s, ctime_ns;
};

struct gguf_file {
    struct gguf *gguf; // owned; borrows the mapping
    const uint8_t *bytes;
    size_t size;
    int fd; // owned, open for gguf_file_unchanged; -1 in a closed one
    struct gguf_identity identity;
};

/* Opens, maps (MAP_PRIVATE, PROT_READ) and parses path. err: "PATH: offset N: why". */
int gguf_file_open(const char *path, struct gguf_file *ret_file, struct err *err);
void gguf_file_close(struct gguf_file *file); // a zeroed struct is fine
/* ERR_FORMAT when somebody wrote into the file since it was opened: what was read may be half of each. A file
 * that was replaced by rename(2) is unchanged: we read the old one. */
int gguf_file_unchanged(const struct gguf_file *file, const char *path, struct err *err);

#endif
