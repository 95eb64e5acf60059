/* SPDX-License-Identifier: Apache-2.0 */
/* file - maps a GGUF file read-only and parses it; owns mapping and parse together. */
#ifndef KVASIR_GGUF_FILE_H
#define KVASIR_GGUF_FILE_H

#include "common/gguf/gguf.h"

struct gguf_file {
    struct gguf *gguf; // owned; borrows the mapping
    const uint8_t *bytes;
    size_t size;
};

/* Opens, maps (MAP_PRIVATE, PROT_READ) and parses path. err: "PATH: offset N: why". */
int gguf_file_open(const char *path, struct gguf_file *ret_file, struct err *err);
void gguf_file_close(struct gguf_file *file); // a zeroed struct is fine

#endif
