/* SPDX-License-Identifier: Apache-2.0 */
/* capture - sends one of this process's streams to a file for a while and brings back what was written, as text.
 * Include after cmocka.h. */
#ifndef KVASIR_TESTS_CAPTURE_H
#define KVASIR_TESTS_CAPTURE_H

#include <stdio.h>
#include <unistd.h>

/* -> the descriptor to give back to capture_end. */
static inline int capture_begin(int fd, FILE *file)
{
    (void)fflush(NULL);
    int kept = dup(fd);
    assert_true(kept >= 0 && dup2(fileno(file), fd) == fd);
    return kept;
}

/* text: (text_bytes), terminated. Closes the file. */
static inline void capture_end(int fd, int kept, FILE *file, char *text, size_t text_bytes)
{
    (void)fflush(NULL);
    assert_int_equal(dup2(kept, fd), fd);
    close(kept);
    rewind(file);
    text[fread(text, 1, text_bytes - 1, file)] = '\0';
    (void)fclose(file);
}

#endif
