/* SPDX-License-Identifier: Apache-2.0 */
/* Which ranks run on which host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hosts.h"

static void expect(const char *text, uint32_t rank_count, const char *wanted)
{
    struct hosts hosts;
    char out[HOSTS_TEXT_BYTES];
    assert_int_equal(hosts_parse(text, rank_count, &hosts, NULL), 0);
    hosts_print(&hosts, out);
    assert_string_equal(out, wanted);
}

static void expect_refused(const char *text, uint32_t rank_count, const char *why)
{
    struct hosts hosts;
    struct err err = {0};
    assert_int_equal(hosts_parse(text, rank_count, &hosts, &err), ERR_CONFIG);
    if (!strstr(err.text, why)) fail_msg("'%s': '%s' is not in '%s'", text, why, err.text);
    assert_null(strchr(err.text, '\n'));
}

static void test_hosts_are_shared_out_evenly_or_as_counts_say(void **state)
{
    (void)state;
    expect("", 4, "");
    expect("a", 4, "a:4");
    expect("a,b", 4, "a:2,b:2");
    expect("a,b", 5, "a:2,b:3");
    expect("a,b,c", 4, "a:1,b:1,c:2");
    expect("a:3,b:1", 4, "a:3,b:1");
    expect("node-1.example.org,10.0.0.2", 2, "node-1.example.org:1,10.0.0.2:1");
}

static void test_hosts_rank_finds_its_host(void **state)
{
    (void)state;
    struct hosts hosts;
    const uint32_t wanted[] = {0, 0, 1, 2, 2, 2};
    assert_int_equal(hosts_parse("a:2,b:1,c:3", 6, &hosts, NULL), 0);
    for (uint32_t rank = 0; rank < COUNT_OF(wanted); rank++)
        assert_int_equal(hosts_of_rank(&hosts, rank), wanted[rank]);
}

static void test_hosts_refuses_what_cannot_be(void **state)
{
    (void)state;
    expect_refused("a,b,c", 2, "3 of them for 2 ranks");
    expect_refused("a,b,a", 4, "a is named twice");
    expect_refused("a,", 4, "a name is empty");
    expect_refused(",a", 4, "a name is empty");
    expect_refused(":2,a", 4, "a name is empty");
    expect_refused("a,b:2", 4, "some have none");
    expect_refused("a:1,b:2", 4, "for 3 ranks");
    expect_refused("a:0,b:4", 4, "number of ranks");
    expect_refused("a:,b:4", 4, "number of ranks");
    expect_refused("a:2x,b:2", 4, "number of ranks");
    expect_refused("a:99999,b", 4, "number of ranks");
    expect_refused("a b", 4, "letters");
    expect_refused("a;reboot,b", 4, "letters");
    expect_refused("-oProxyCommand,b", 4, "letters");
    expect_refused("user@a,b", 4, "letters");
    char longest[2 * HOST_NAME_BYTES];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    expect_refused(longest, 4, "a name of 255 bytes");
}

static void expect_file(const char *text, const char *wanted)
{
    char out[HOSTS_TEXT_BYTES];
    assert_int_equal(hosts_file_parse(text, strlen(text), out, NULL), 0);
    assert_string_equal(out, wanted);
}

static void test_hosts_file_is_open_mpis(void **state)
{
    (void)state;
    char out[HOSTS_TEXT_BYTES];
    expect_file("a\nb\n", "a,b");
    expect_file("# two of them\n\n  a slots=1 # near\nb\tslots=3\r\n", "a:1,b:3");
    expect_file("a", "a");
    static const char *const bad[] = {"",      "# none\n", "a max_slots=2\n", "a slots=\n", "a slots=0\n",
                                      "a b\n", "u@a\n"};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_int_equal(hosts_file_parse(bad[i], strlen(bad[i]), out, NULL), ERR_CONFIG);
    assert_int_equal(hosts_file_parse("a\0b\n", 4, out, NULL), ERR_CONFIG);
    char many[RANKS_MAX * 2 * HOST_NAME_BYTES];
    memset(many, 'a', sizeof many);
    for (size_t i = 100; i < sizeof many; i += 100) many[i] = '\n';
    assert_int_equal(hosts_file_parse(many, sizeof many, out, NULL), ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hosts_are_shared_out_evenly_or_as_counts_say),
        cmocka_unit_test(test_hosts_rank_finds_its_host),
        cmocka_unit_test(test_hosts_refuses_what_cannot_be),
        cmocka_unit_test(test_hosts_file_is_open_mpis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
