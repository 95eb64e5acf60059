/* SPDX-License-Identifier: Apache-2.0 */
/* shm_file - one descriptor of POSIX shared memory: whose it is, its room, its mappings. Stateless; what
 * segment.c (named parts of an instance) and weights.c (packed weights of all instances) stand on. */
#ifndef KVASIR_SHM_SHM_FILE_H
#define KVASIR_SHM_SHM_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

#define SHM_DIR "/dev/shm" // where glibc keeps the names of shm_open(3)

/* What huge pages may cost where the kernel has to make room for them: nothing to speak of, for memory that is
 * taken at every start; about what it costs to fill it, for memory that is filled once and read at every step. */
enum shm_file_pages { SHM_FILE_HUGE_IF_QUICK, SHM_FILE_HUGE };

/* A name that someone else could have made is not ours to trust: -EPERM. Root may look, not write. */
int shm_file_owner_verify(int fd, bool writes, const char *name, struct err *err);

/* True when name (with the leading '/') still leads to the file behind fd: it may have been removed, and made
 * again, between our open and our lock. */
bool shm_file_has_name(int fd, const char *name);

/* Makes fd `bytes` long and reserves them all, so that a full /dev/shm is one clear error now ("need N MiB,
 * have M MiB") and never a SIGBUS later. In huge pages as far as the kernel gives them. */
int shm_file_reserve(int fd, size_t bytes, enum shm_file_pages pages, const char *name, struct err *err);

/* Maps the first `bytes`, at an address that huge pages fit to. Unmap with munmap(base, bytes). */
int shm_file_map(int fd, size_t bytes, int protection, const char *name, void **ret_base, struct err *err);

#endif
