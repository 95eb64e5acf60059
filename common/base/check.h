/* SPDX-License-Identifier: Apache-2.0 */
/* check - assertions for what cannot happen. Never for bytes from a socket, a file or a peer
 * process: those are verified and answered with a code. CHECK stays on in release builds;
 * CHECK_SLOW is for costly ones and is on with --enable-debug-checks and in the sanitizer builds. */
#ifndef KVASIR_BASE_CHECK_H
#define KVASIR_BASE_CHECK_H

_Noreturn void check_failed(const char *file, int line, const char *function, const char *text);

#define CHECK(condition) \
    do { \
        if (__builtin_expect(!(condition), 0)) check_failed(__FILE__, __LINE__, __func__, #condition); \
    } while (0)

#ifdef KVASIR_CHECK_SLOW
#define CHECK_SLOW(condition) CHECK(condition)
#else
#define CHECK_SLOW(condition) ((void)0)
#endif

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
