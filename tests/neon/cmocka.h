/* SPDX-License-Identifier: Apache-2.0 */
/* cmocka - what the kernel tests use of cmocka, in one header, for machines that this one only emulates: Debian
 * has no cross-built cmocka beside the native one. A failed assertion ends its test and the run goes on;
 * main returns the number of failures. KVASIR_TEST names the only test to run. tools/neon-check uses it. */
#ifndef KVASIR_TESTS_NEON_CMOCKA_H
#define KVASIR_TESTS_NEON_CMOCKA_H

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(test) \
    { \
#test, test \
    }

enum { SHIM_FAILED = 1, SHIM_SKIPPED = 2 };
static jmp_buf shim_end __attribute__((unused));

#define print_message printf
#define skip() longjmp(shim_end, SHIM_SKIPPED)
#define fail_msg(...) \
    do { \
        printf("%s:%d: ", __FILE__, __LINE__); \
        printf(__VA_ARGS__); \
        printf("\n"); \
        longjmp(shim_end, SHIM_FAILED); \
    } while (0)
#define SHIM_EXPECT(condition) \
    do { \
        if (!(condition)) fail_msg("failed: %s", #condition); \
    } while (0)
#define assert_true(condition) SHIM_EXPECT(condition)
#define assert_non_null(pointer) SHIM_EXPECT((pointer) != NULL)
#define assert_null(pointer) SHIM_EXPECT((pointer) == NULL)
#define assert_ptr_equal(a, b) SHIM_EXPECT((const void *)(a) == (const void *)(b))
#define assert_int_equal(a, b) SHIM_EXPECT((unsigned long long)(a) == (unsigned long long)(b))
#define assert_in_range(value, least, most) SHIM_EXPECT((value) >= (least) && (value) <= (most))
#define assert_string_equal(a, b) SHIM_EXPECT(strcmp(a, b) == 0)
#define assert_memory_equal(a, b, len) SHIM_EXPECT(memcmp(a, b, len) == 0)

static inline int shim_run(const struct CMUnitTest *tests, size_t count)
{
    const char *only = getenv("KVASIR_TEST");
    volatile int failed = 0, passed = 0;
    for (volatile size_t i = 0; i < count; i++) {
        if (only != NULL && strcmp(only, tests[i].name) != 0) continue;
        int end = setjmp(shim_end);
        if (end == 0) tests[i].run(NULL);
        printf("%s %s\n",
               end == SHIM_FAILED    ? "not ok"
               : end == SHIM_SKIPPED ? "skipped"
                                     : "ok",
               tests[i].name);
        (void)fflush(stdout); // the output of a test that crashes next must be there
        if (end == SHIM_FAILED) failed++;
        if (end == 0) passed++;
    }
    return failed > 0 || passed == 0 ? 1 : 0;
}
#define cmocka_run_group_tests(tests, setup, teardown) shim_run(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
