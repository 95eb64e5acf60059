/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of the page types as the reference defines them (worker/kern/ref/kv.h): what comes back, from where, and
 * that pool and kernels agree on sizes. Errors are bounded by what the type's steps allow. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/check.h"
#include "common/shm/pool.h"
#include "tests/unit/kern_data.h"
#include "worker/kern/ref/kv.h"

static const uint32_t dims_tried[] = {16, 32, 64, 80, 96, 128, 256};

static struct kv_head head_new(enum kern_kv type, uint32_t dims)
{
    struct kv_head head = {.type = type, .dims = dims, .tokens = PAGE_TOKENS};
    size_t bytes = kern_kv_head_bytes(type, dims, PAGE_TOKENS);
    head.base = malloc(bytes); // exact: a byte too far faults under the address sanitizer
    assert_non_null(head.base);
    memset(head.base, 0xFF, bytes);
    return head;
}

static double length_of(const float *x, uint32_t dims)
{
    double squares = 0;
    for (uint32_t d = 0; d < dims; d++) squares += (double)x[d] * (double)x[d];
    return sqrt(squares);
}

/* The largest |x - got| that rounding to the type allows; for q4 of the whole vector, since its rotation spreads
 * the error of an element. A scale in f16 is off by 2^-11 of itself, at most 127 or 15 steps of it; q4 cuts its range
 * by 4 % = 0.6 steps at either end. */
static void check_error(enum kern_kv type, const float *x, const float *got, uint32_t dims)
{
    float error[256] = {0}, turned[256], most = 0, low = INFINITY, high = -INFINITY;
    memcpy(turned, x, dims * sizeof(*x));
    kv_hadamard(turned, dims);
    for (uint32_t d = 0; d < dims; d++) {
        error[d] = got[d] - x[d];
        most = fmaxf(most, fabsf(x[d]));
        low = fminf(low, turned[d]);
        high = fmaxf(high, turned[d]);
    }
    for (uint32_t d = 0; d < dims; d++) {
        float bound = type == KERN_KV_F32    ? 0
                      : type == KERN_KV_F16  ? fabsf(x[d]) * 0x1p-11f
                      : type == KERN_KV_BF16 ? fabsf(x[d]) * 0x1p-8f
                                             : most / 127 * (0.5f + 127 * 0x1p-11f);
        if (type != KERN_KV_Q4 && !(fabsf(error[d]) <= bound + 1e-7f))
            fail_msg("type %d, %u dims: %g came back as %g", (int)type, dims, (double)x[d], (double)got[d]);
    }
    double step = (double)(high - low) / 15 * (1 + 0x1p-9);
    if (type == KERN_KV_Q4) assert_true(length_of(error, dims) <= sqrt(dims) * step * 0.62 + 1e-6);
}

static void test_kv_comes_back_within_a_step(void **state)
{
    (void)state;
    struct rng rng = {50};
    for (enum kern_kv type = KERN_KV_F16; type <= KERN_KV_F32; type++) {
        for (size_t i = 0; i < COUNT_OF(dims_tried); i++) {
            uint32_t dims = dims_tried[i];
            struct kv_head head = head_new(type, dims);
            float *x = kern_data_outliers(&rng, (size_t)2 * PAGE_TOKENS * dims, 2.0f), got[256];
            for (uint32_t t = 0; t < PAGE_TOKENS; t++) { // from the last slot on, K and V in turn
                uint32_t slot = PAGE_TOKENS - 1 - t;
                kv_put(&head, KV_K, slot, x + (size_t)2 * slot * dims);
                kv_put(&head, KV_V, slot, x + (size_t)(2 * slot + 1) * dims);
            }
            for (uint32_t slot = 0; slot < PAGE_TOKENS; slot++) { // nobody wrote over another
                kv_get(&head, KV_K, slot, got);
                check_error(type, x + (size_t)2 * slot * dims, got, dims);
                kv_get(&head, KV_V, slot, got);
                check_error(type, x + (size_t)(2 * slot + 1) * dims, got, dims);
            }
            free(x);
            free(head.base);
        }
    }
}

static void test_kv_extremes_stay_finite(void **state)
{
    (void)state;
    static const float values[] = {0, 1e-30f, 1e30f, -1e30f, INFINITY};
    for (enum kern_kv type = KERN_KV_Q8; type <= KERN_KV_Q4; type++) {
        for (size_t i = 0; i < COUNT_OF(values); i++) {
            struct kv_head head = head_new(type, 64);
            float x[64] = {0}, got[64];
            x[5] = values[i];
            kv_put(&head, KV_K, 3, x);
            kv_get(&head, KV_K, 3, got);
            for (uint32_t d = 0; d < 64; d++) assert_true(isfinite(got[d]));
            if (values[i] == 0) assert_true(length_of(got, 64) == 0);
            free(head.base);
        }
    }
}

static void test_kv_hadamard_is_its_own_inverse(void **state)
{
    (void)state;
    struct rng rng = {51};
    for (size_t i = 0; i < COUNT_OF(dims_tried); i++) {
        uint32_t dims = dims_tried[i];
        float *x = kern_data_floats(&rng, dims, 1.0f), turned[256];
        memcpy(turned, x, dims * sizeof(*x));
        kv_hadamard(turned, dims);
        assert_true(fabs(length_of(turned, dims) - length_of(x, dims)) < 1e-5);
        kv_hadamard(turned, dims);
        for (uint32_t d = 0; d < dims; d++) assert_true(fabsf(turned[d] - x[d]) < 1e-5f);
        free(x);
    }
}

static void test_kv_pool_and_kernels_agree_on_bytes(void **state)
{
    (void)state;
    for (uint32_t type = 0; type <= KV_F32; type++) {
        for (size_t i = 0; i < COUNT_OF(dims_tried); i++)
            assert_int_equal(pool_page_bytes((enum kv_type)type, 3, 2, dims_tried[i]),
                             6 * kern_kv_head_bytes(type, dims_tried[i], PAGE_TOKENS));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kv_comes_back_within_a_step),
        cmocka_unit_test(test_kv_extremes_stay_finite),
        cmocka_unit_test(test_kv_hadamard_is_its_own_inverse),
        cmocka_unit_test(test_kv_pool_and_kernels_agree_on_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
