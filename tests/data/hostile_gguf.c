/* SPDX-License-Identifier: Apache-2.0 */
/* hostile_gguf DIRECTORY - writes every broken model of gguf_hostile.h into DIRECTORY as NAME.gguf, and
 * the sound one that they were made from as sound.gguf. Prints one name a line. Exits 0, or 1 with a
 * line on stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/data/gguf_hostile.h"
#include "tests/data/gguf_writer.h"

static int write_file(const char *directory, const char *name, const struct buf *bytes)
{
    char path[4096];
    int len = snprintf(path, sizeof path, "%s/%s.gguf", directory, name);
    if (len < 0 || (size_t)len >= sizeof path) return -1;
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        return -1;
    }
    bool good = fwrite(buf_text(bytes), 1, bytes->len, file) == bytes->len;
    if (fclose(file) != 0) good = false;
    if (!good) perror(path);
    if (good) puts(name);
    return good ? 0 : -1;
}

static int write_sound(const char *directory)
{
    struct gguf_writer *writer = malloc(sizeof *writer);
    struct buf bytes;
    if (!writer) abort();
    writer_init_llama(writer);
    writer_finish(writer, &bytes);
    int r = write_file(directory, "sound", &bytes);
    buf_done(&bytes);
    writer_done(writer);
    free(writer);
    return r;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: hostile_gguf DIRECTORY\n");
        return 1;
    }
    if (write_sound(argv[1]) < 0) return 1;
    for (size_t i = 0; i < hostile_count(); i++) {
        struct buf bytes;
        struct hostile hostile = hostile_build(i, &bytes);
        int r = write_file(argv[1], hostile.name, &bytes);
        buf_done(&bytes);
        if (r < 0) return 1;
    }
    return 0;
}
