/* SPDX-License-Identifier: Apache-2.0 */
/* CPUs, cores and quotas, from trees of files as machines have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cpus.h"

static char root[64];

/* Makes root/path with its folders. */
static void put(const char *path, const char *text)
{
    char full[512];
    (void)snprintf(full, sizeof full, "%s%s", root, path); // fits
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(full, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int make_root(void **state)
{
    (void)state;
    (void)strcpy(root, "/tmp/kvasir-test-cpus-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void put_siblings(int cpu, const char *list)
{
    char path[96];
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(path, list);
}

static cpu_set_t set_of(const char *list)
{
    cpu_set_t set;
    assert_int_equal(cpus_parse(root, list, &set, NULL), 0);
    return set;
}

static void expect_order(const char *set_list, const uint16_t *ids, uint32_t count, uint32_t core_count)
{
    cpu_set_t set = set_of(set_list);
    struct cpus cpus;
    cpus_order(root, &set, &cpus);
    assert_int_equal(cpus.count, count);
    assert_int_equal(cpus.core_count, core_count);
    assert_memory_equal(cpus.ids, ids, count * sizeof *ids);
}

static void test_cpus_one_of_every_core_comes_first(void **state)
{
    (void)state;
    static const char *const far[] = {"0,4\n", "1,5\n", "2,6\n", "3,7\n"}, *const near[] = {"8-9\n",
                                                                                            "10-11\n"};
    for (int cpu = 0; cpu < 8; cpu++) put_siblings(cpu, far[cpu % 4]);
    for (int cpu = 8; cpu < 12; cpu++) put_siblings(cpu, near[cpu / 2 - 4]);
    expect_order("0-7", (const uint16_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8, 4);
    expect_order("8-11", (const uint16_t[]){8, 10, 9, 11}, 4, 2);
    expect_order("1,4-6", (const uint16_t[]){1, 4, 6, 5}, 4, 3); // 4 and 6 alone of their cores
    expect_order("20-21", (const uint16_t[]){20, 21}, 2, 2);     // nothing known of them
}

static void test_cpus_lists_and_nodes_are_parsed_or_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",    "a",     "1-",     "-1",      "3-1",        "1,",     ",1",   "1,,2",
        "1 2", "node:", "node:x", "node:-1", "node:12345", "node:7", "99999"};
    cpu_set_t set = set_of("0,2-4,9");
    assert_int_equal(CPU_COUNT(&set), 5);
    assert_true(CPU_ISSET(3, &set) && CPU_ISSET(9, &set) && !CPU_ISSET(1, &set));
    put("/sys/devices/system/node/node1/cpulist", "4-7,12-15\n");
    set = set_of("node:1");
    assert_int_equal(CPU_COUNT(&set), 8);
    assert_true(CPU_ISSET(4, &set) && CPU_ISSET(15, &set));
    put("/sys/devices/system/node/node2/cpulist", "\n"); // memory without CPUs
    struct err err = {0};
    assert_int_equal(cpus_parse(root, "node:2", &set, &err), ERR_CONFIG);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cpus_parse(root, bad[i], &set, &err), ERR_CONFIG);
}

static void test_cpus_of_one_node_among_several_name_it(void **state)
{
    (void)state;
    cpu_set_t set = set_of("4-5");
    assert_int_equal(cpus_node_of(root, &set), -1); // nothing known
    put("/sys/devices/system/node/node0/cpulist", "0-7\n");
    assert_int_equal(cpus_node_of(root, &set), -1);      // the only one
    put("/sys/devices/system/node/node2/cpulist", "\n"); // memory without CPUs
    assert_int_equal(cpus_node_of(root, &set), -1);
    put("/sys/devices/system/node/node3/cpulist", "8-15\n");
    assert_int_equal(cpus_node_of(root, &set), 0);
    set = set_of("8-15");
    assert_int_equal(cpus_node_of(root, &set), 3);
    set = set_of("7-8");
    assert_int_equal(cpus_node_of(root, &set), -1); // of two
}

/* One character for each CPU: the part that it is in, '-' for none. */
static void expect_parts(const char *set_list, uint32_t parts, bool wanted_divided, const char *wanted)
{
    cpu_set_t set = set_of(set_list), part;
    char got[32] = "", text[CPUS_TEXT_BYTES];
    size_t cpu_count = strlen(wanted);
    memset(got, '-', cpu_count);
    for (uint32_t i = 0; i < parts; i++) {
        assert_int_equal(cpus_divide(root, &set, i, parts, &part), wanted_divided);
        if (!wanted_divided) assert_true(CPU_EQUAL(&part, &set));
        for (size_t cpu = 0; cpu < cpu_count; cpu++) {
            if (!CPU_ISSET(cpu, &part)) continue;
            assert_true(!wanted_divided || got[cpu] == '-'); // parts never overlap
            got[cpu] = (char)('0' + i);
        }
        cpus_format(&part, text, sizeof text);
        set_of(text); // what a worker is told can be read
    }
    if (wanted_divided) assert_string_equal(got, wanted);
}

static void test_cpus_are_divided_by_cores_node_after_node(void **state)
{
    (void)state;
    expect_parts("0-3", 2, true, "0011"); // nothing known: each CPU is a core
    expect_parts("0-4", 2, true, "00111");
    expect_parts("0-3", 1, true, "0000");
    expect_parts("0-3", 4, true, "0123");
    expect_parts("0-3", 5, false, "----");
    for (int cpu = 0; cpu < 8; cpu++) { // hardware threads 4 apart
        char list[16];
        (void)snprintf(list, sizeof list, "%d,%d\n", cpu % 4, cpu % 4 + 4);
        put_siblings(cpu, list);
    }
    expect_parts("0-7", 2, true, "00110011");
    expect_parts("0-7", 4, true, "01230123");
    expect_parts("0-7", 5, false, "--------");      // cores count, not CPUs
    expect_parts("0,2-3,6-7", 3, true, "0-12--12"); // of those that it may use
    put("/sys/devices/system/node/node0/cpulist", "0,2,4,6\n");
    put("/sys/devices/system/node/node1/cpulist", "1,3,5,7\n");
    expect_parts("0-7", 2, true, "01010101");
    expect_parts("0-7", 4, true, "02130213");  // a node's side by side
    expect_parts("0-8", 5, true, "021302134"); // 8: of no node
}

static void test_cpus_are_written_as_they_are_read(void **state)
{
    (void)state;
    static const char *const lists[] = {"0", "0-1", "0-3,8", "1,3,5-7,1000-1023"};
    char text[CPUS_TEXT_BYTES];
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        cpu_set_t set = set_of(lists[i]);
        cpus_format(&set, text, sizeof text);
        assert_string_equal(text, lists[i]);
    }
    cpu_set_t set = set_of("1,3,5-7");
    cpus_format(&set, text, 5); // whole ranges, as many as fit
    assert_string_equal(text, "1,3");
    CPU_ZERO(&set);
    cpus_format(&set, text, sizeof text);
    assert_string_equal(text, "");
}

static void test_cpus_quota_is_the_least_on_the_way_up(void **state)
{
    (void)state;
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX); // no /proc
    put("/proc/self/cgroup", "0::/a/b/c\n");
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX); // no files
    put("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX);
    put("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    assert_int_equal(cpus_quota_milli(root), 2500);
    put("/sys/fs/cgroup/a/b/c/cpu.max", "400000 100000\n");
    assert_int_equal(cpus_quota_milli(root), 2500);
    put("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    assert_int_equal(cpus_quota_milli(root), 500);
    put("/proc/self/cgroup", "0::/\n"); // in a container
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX);
    put("/sys/fs/cgroup/cpu.max", "150000 50000\n");
    assert_int_equal(cpus_quota_milli(root), 3000);
}

static void test_cpus_quota_of_version_1_is_read_too(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "9:cpuset:/x\n4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/x\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX);
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "120000\n"); // the path of the host is not to be seen
    assert_int_equal(cpus_quota_milli(root), 1200);
    put("/proc/self/cgroup", "9:cpuset:/x\n3:cpuacct:/x\nnonsense\n::\n");
    assert_int_equal(cpus_quota_milli(root), UINT32_MAX);
}

static void test_cpus_of_this_machine_make_sense(void **state)
{
    (void)state;
    struct cpus cpus;
    struct err err = {0};
    char one[16];
    cpus_allowed(&cpus);
    assert_in_range(cpus.core_count, 1, cpus.count);
    assert_in_range(cpus_threads(), 1, cpus.core_count);
    assert_int_equal(cpus_restrict("node:9999", &err), ERR_CONFIG);
    (void)snprintf(one, sizeof one, "%u", cpus.ids[cpus.count - 1]); // fits
    assert_int_equal(cpus_restrict(one, &err), 0);
    cpus_allowed(&cpus);
    assert_int_equal(cpus.count, 1);
    assert_int_equal(cpus_threads(), 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)
    const struct CMUnitTest tests[] = {
        CASE(test_cpus_one_of_every_core_comes_first),
        CASE(test_cpus_lists_and_nodes_are_parsed_or_refused),
        CASE(test_cpus_of_one_node_among_several_name_it),
        CASE(test_cpus_are_divided_by_cores_node_after_node),
        CASE(test_cpus_are_written_as_they_are_read),
        CASE(test_cpus_quota_is_the_least_on_the_way_up),
        CASE(test_cpus_quota_of_version_1_is_read_too),
        CASE(test_cpus_of_this_machine_make_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
