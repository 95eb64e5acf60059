/* SPDX-License-Identifier: Apache-2.0 */
/* Windows and sums of `kvasir perplexity`, against figures worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "client/perplexity.h"
#include "common/base/check.h"

static const int32_t window[] = {7, 8, 9, 8};

static const char good[] = "{\"choices\":[{\"text\":\"x\",\"prompt_logprobs\":[null,"
                           "{\"8\":{\"logprob\":-1.5,\"rank\":2},\"3\":{\"logprob\":-0.5,\"rank\":1}},"
                           "{\"9\":{\"logprob\":-0.25}},{\"8\":{\"logprob\":-2}}]}]}";

static void test_perplexity_counts_only_whole_windows(void **state)
{
    (void)state;
    const struct perplexity apart = {.context = 512, .stride = 512, .skip = 257};
    assert_int_equal(perplexity_windows(&apart, 0), 0);
    assert_int_equal(perplexity_windows(&apart, 511), 0);
    assert_int_equal(perplexity_windows(&apart, 512), 1);
    assert_int_equal(perplexity_windows(&apart, 1023), 1);
    assert_int_equal(perplexity_windows(&apart, 7658), 14);
    const struct perplexity lapped = {.context = 100, .stride = 30, .skip = 70};
    assert_int_equal(perplexity_windows(&lapped, 129), 1);
    assert_int_equal(perplexity_windows(&lapped, 130), 2);
}

static void test_perplexity_sums_what_is_not_skipped(void **state)
{
    (void)state;
    struct kvasir_error error;
    struct perplexity all = {.context = 4, .stride = 4, .skip = 1},
                      last = {.context = 4, .stride = 4, .skip = 2};
    assert_int_equal(perplexity_add(&all, window, good, &error), 0);
    assert_int_equal(all.scored, 3);
    assert_true(fabs(perplexity_mean(&all) - 1.25) < 1e-12);
    // Deviations 0.25, -1, 0.75: variance 1.625 / 3, over 3 - 1.
    assert_true(fabs(perplexity_mean_error(&all) - sqrt(1.625 / 3 / 2)) < 1e-12);
    assert_int_equal(perplexity_add(&last, window, good, &error), 0);
    assert_int_equal(perplexity_add(&last, window, good, &error), 0);
    assert_int_equal(last.scored, 4);
    assert_true(fabs(perplexity_mean(&last) - 1.125) < 1e-12);
}

static void test_perplexity_of_one_token_has_no_error(void **state)
{
    (void)state;
    struct kvasir_error error;
    struct perplexity one = {.context = 4, .stride = 4, .skip = 3};
    assert_int_equal(perplexity_add(&one, window, good, &error), 0);
    assert_true(perplexity_mean(&one) == 2);
    assert_true(perplexity_mean_error(&one) == 0);
}

static void test_perplexity_refuses_answers_about_other_tokens(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "[]",
        "{\"choices\":[]}",
        "{\"choices\":[{\"text\":\"x\"}]}",
        "{\"choices\":[{\"prompt_logprobs\":null}]}",
        "{\"choices\":[{\"prompt_logprobs\":[null,{\"8\":{\"logprob\":-1}},{\"9\":{\"logprob\":-1}}]}]}",
        "{\"choices\":[{\"prompt_logprobs\":[null,{\"8\":{\"logprob\":-1}},{\"7\":{}},{\"8\":{}}]}]}",
        "{\"choices\":[{\"prompt_logprobs\":[null,{\"8\":{\"logprob\":\"a\"}},null,null]}]}",
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct kvasir_error error;
        struct perplexity p = {.context = 4, .stride = 4, .skip = 1};
        assert_true(perplexity_add(&p, window, bad[i], &error) < 0);
        assert_int_equal(p.scored, 0);
        assert_true(strlen(error.text) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity_counts_only_whole_windows),
        cmocka_unit_test(test_perplexity_sums_what_is_not_skipped),
        cmocka_unit_test(test_perplexity_of_one_token_has_no_error),
        cmocka_unit_test(test_perplexity_refuses_answers_about_other_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
