/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE // cpu_set_t
#endif
#include "common/base/cpus.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"

enum { PATH_BYTES = 1024, TEXT_BYTES = 4096, NODES_MAX = 64 };

/* The start of a small file as text without its newline; false when it cannot be read. */
static bool read_text(const char *root, const char *path, char text[static TEXT_BYTES])
{
    char full[PATH_BYTES];
    int len = snprintf(full, sizeof full, "%s%s", root, path);
    if (len < 0 || (size_t)len >= sizeof full) return false;
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t got = read(fd, text, TEXT_BYTES - 1);
    (void)close(fd); // opened for reading
    if (got < 0) return false;
    text[got] = '\0';
    if (got > 0 && text[got - 1] == '\n') text[got - 1] = '\0';
    return true;
}

/* "0-3,8" into a set; false when it is none, or names a CPU above CPUS_MAX. */
static bool parse_list(const char *text, cpu_set_t *ret_set)
{
    CPU_ZERO(ret_set);
    for (const char *at = text; *at != '\0';) {
        char *end;
        if (*at < '0' || *at > '9') return false;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (*end == '-') {
            at = end + 1;
            if (*at < '0' || *at > '9') return false;
            last = strtoul(at, &end, 10);
        }
        if (last < first || last >= CPUS_MAX) return false;
        for (unsigned long cpu = first; cpu <= last; cpu++) CPU_SET(cpu, ret_set);
        at = end;
        if (*at == ',' && at[1] != '\0') at++;
        else if (*at != '\0') return false;
    }
    return CPU_COUNT(ret_set) > 0;
}

/* How many CPUs of `set` that share a core with cpu come before it: 0 for the first of its core. */
static uint32_t sibling_rank(const char *root, const cpu_set_t *set, int cpu)
{
    char path[96], text[TEXT_BYTES];
    cpu_set_t siblings;
    uint32_t rank = 0;
    (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                   cpu); // fits
    if (!read_text(root, path, text) || !parse_list(text, &siblings)) return 0;
    for (int other = 0; other < cpu; other++) rank += CPU_ISSET(other, &siblings) && CPU_ISSET(other, set);
    return rank;
}

void cpus_order(const char *root, const cpu_set_t *set, struct cpus *ret_cpus)
{
    static _Thread_local uint16_t ranks[CPUS_MAX];
    uint32_t left = (uint32_t)CPU_COUNT(set);
    ret_cpus->count = ret_cpus->core_count = 0;
    for (int cpu = 0; cpu < CPUS_MAX; cpu++)
        if (CPU_ISSET(cpu, set)) ranks[cpu] = (uint16_t)sibling_rank(root, set, cpu);
    for (uint32_t rank = 0; ret_cpus->count < left; rank++) {
        for (int cpu = 0; cpu < CPUS_MAX; cpu++)
            if (CPU_ISSET(cpu, set) && ranks[cpu] == rank) ret_cpus->ids[ret_cpus->count++] = (uint16_t)cpu;
        if (rank == 0) ret_cpus->core_count = ret_cpus->count;
        CHECK(rank < CPUS_MAX);
    }
}

/* ---- quotas of control groups ---- */

static uint32_t milli_of(long long quota_us, long long period_us)
{
    if (quota_us <= 0 || period_us <= 0) return UINT32_MAX;
    long long milli = quota_us / period_us * 1000 + quota_us % period_us * 1000 / period_us;
    return milli < UINT32_MAX ? (uint32_t)(milli > 0 ? milli : 1) : UINT32_MAX;
}

/* Version 2: "200000 100000", or "max 100000". */
static uint32_t quota_v2(const char *root, const char *group)
{
    char path[PATH_BYTES], text[TEXT_BYTES];
    long long quota_us, period_us;
    int len = snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    if (len < 0 || (size_t)len >= sizeof path || !read_text(root, path, text)) return UINT32_MAX;
    return sscanf(text, "%lld %lld", &quota_us, &period_us) == 2 ? milli_of(quota_us, period_us) : UINT32_MAX;
}

/* Version 1: two files, quota -1 for none. */
static uint32_t quota_v1(const char *root, const char *group)
{
    char path[PATH_BYTES], quota[TEXT_BYTES], period[TEXT_BYTES];
    int len = snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", group);
    if (len < 0 || (size_t)len >= sizeof path || !read_text(root, path, quota)) return UINT32_MAX;
    (void)snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_period_us", group); // as long as above
    if (!read_text(root, path, period)) return UINT32_MAX;
    return milli_of(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

/* The smallest quota of a group and all above it. In a container the path may be the host's, of which nothing is
 * to be seen but the root. */
static uint32_t quota_upwards(const char *root, char *group,
                              uint32_t (*quota)(const char *root, const char *group))
{
    uint32_t least = UINT32_MAX;
    for (;;) {
        uint32_t milli = quota(root, strcmp(group, "/") == 0 ? "" : group);
        if (milli < least) least = milli;
        char *slash = strrchr(group, '/');
        if (!slash || strcmp(group, "/") == 0) return least;
        if (slash == group) slash++; // the root is next
        *slash = '\0';
    }
}

/* Whether "cpu" is one of the names between commas. */
static bool names_cpu(const char *controllers, const char *end)
{
    while (controllers < end) {
        const char *comma = memchr(controllers, ',', (size_t)(end - controllers));
        const char *stop = comma ? comma : end;
        if (stop - controllers == 3 && memcmp(controllers, "cpu", 3) == 0) return true;
        controllers = stop + 1;
    }
    return false;
}

uint32_t cpus_quota_milli(const char *root)
{
    char text[TEXT_BYTES];
    uint32_t least = UINT32_MAX;
    if (!read_text(root, "/proc/self/cgroup", text)) return least;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *controllers = strchr(line, ':'); // "ID:CONTROLLERS:PATH"
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        bool is_v2 = group == controllers + 1;
        if (!is_v2 && !names_cpu(controllers + 1, group)) continue;
        uint32_t milli = quota_upwards(root, group + 1, is_v2 ? quota_v2 : quota_v1);
        if (milli < least) least = milli;
    }
    return least;
}

/* ---- choosing ---- */

int cpus_parse(const char *root, const char *text, cpu_set_t *ret_set, struct err *err)
{
    static const char node_prefix[] = "node:";
    char path[96], list[TEXT_BYTES];
    if (strncmp(text, node_prefix, sizeof node_prefix - 1) != 0) {
        if (parse_list(text, ret_set)) return 0;
        return ERR(err, ERR_CONFIG, "'%.40s' is no list of CPUs like 0-3,8 and no node:N", text);
    }
    const char *node = text + sizeof node_prefix - 1;
    if (strlen(node) == 0 || strlen(node) > 4 || strspn(node, "0123456789") != strlen(node))
        return ERR(err, ERR_CONFIG, "'%.40s' is no list of CPUs like 0-3,8 and no node:N", text);
    (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%s/cpulist", node); // fits
    if (!read_text(root, path, list) || !parse_list(list, ret_set))
        return ERR(err, ERR_CONFIG, "NUMA node %s has no CPUs here", node);
    return 0;
}

int cpus_node_of(const char *root, const cpu_set_t *set)
{
    int found = -1, node_count = 0;
    for (int node = 0; node < NODES_MAX; node++) {
        char path[96], list[TEXT_BYTES];
        cpu_set_t cpus, common;
        (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node); // fits
        if (!read_text(root, path, list) || !parse_list(list, &cpus)) continue;
        node_count++;
        CPU_AND(&common, set, &cpus);
        if (CPU_EQUAL(&common, set)) found = node;
    }
    return node_count > 1 ? found : -1;
}

/* ---- dividing ---- */

/* Moves what is in both from `left` to ids, cores first to last, each with all its hardware threads: ends[i] is where
 * core i ends. -> cores so far */
static uint32_t cores_take(const char *root, const cpu_set_t *of, cpu_set_t *left, uint16_t *ids,
                           uint32_t *ends, uint32_t cores)
{
    for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
        char path[96], text[TEXT_BYTES];
        cpu_set_t siblings;
        if (!CPU_ISSET(cpu, of) || !CPU_ISSET(cpu, left)) continue;
        (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                       cpu); // fits
        if (!read_text(root, path, text) || !parse_list(text, &siblings)) CPU_ZERO(&siblings);
        CPU_SET(cpu, &siblings);
        uint32_t end = cores ? ends[cores - 1] : 0;
        for (int other = cpu; other < CPUS_MAX; other++) {
            if (!CPU_ISSET(other, &siblings) || !CPU_ISSET(other, left)) continue;
            CPU_CLR(other, left);
            ids[end++] = (uint16_t)other;
        }
        ends[cores++] = end;
    }
    return cores;
}

bool cpus_divide(const char *root, const cpu_set_t *set, uint32_t part, uint32_t parts, cpu_set_t *ret_set)
{
    static _Thread_local uint16_t ids[CPUS_MAX];
    static _Thread_local uint32_t ends[CPUS_MAX];
    CHECK(parts > 0 && part < parts);
    cpu_set_t left = *set;
    uint32_t cores = 0;
    for (int node = 0; node < NODES_MAX; node++) {
        char path[96], list[TEXT_BYTES];
        cpu_set_t cpus;
        (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node); // fits
        if (read_text(root, path, list) && parse_list(list, &cpus))
            cores = cores_take(root, &cpus, &left, ids, ends, cores);
    }
    cpu_set_t rest = left; // of no node
    cores = cores_take(root, &rest, &left, ids, ends, cores);
    *ret_set = *set;
    if (cores < parts) return false;
    uint32_t first = (uint32_t)((uint64_t)cores * part / parts),
             last = (uint32_t)((uint64_t)cores * (part + 1) / parts);
    CPU_ZERO(ret_set);
    for (uint32_t i = first ? ends[first - 1] : 0; i < ends[last - 1]; i++) CPU_SET(ids[i], ret_set);
    return true;
}

void cpus_format(const cpu_set_t *set, char *text, size_t text_bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
        char range[32];
        int last = cpu;
        if (!CPU_ISSET(cpu, set)) continue;
        while (last + 1 < CPUS_MAX && CPU_ISSET(last + 1, set)) last++;
        int len = snprintf(range, sizeof range, last > cpu ? "%s%d-%d" : "%s%d", used ? "," : "", cpu, last);
        if (used + (size_t)len >= text_bytes) return;
        memcpy(text + used, range, (size_t)len + 1);
        used += (size_t)len;
        cpu = last;
    }
}

static cpu_set_t allowed_set(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) < 0 || CPU_COUNT(&set) == 0) CPU_SET(0, &set); // there is one
    return set;
}

void cpus_allowed(struct cpus *ret_cpus)
{
    cpu_set_t set = allowed_set();
    cpus_order("", &set, ret_cpus);
}

int cpus_node(void)
{
    cpu_set_t set = allowed_set();
    return cpus_node_of("", &set);
}

int cpus_restrict(const char *text, struct err *err)
{
    cpu_set_t wanted, allowed;
    int r = cpus_parse("", text, &wanted, err);
    if (r < 0) return r;
    if (sched_getaffinity(0, sizeof allowed, &allowed) < 0) return err_sys(err, errno, "sched_getaffinity");
    CPU_AND(&wanted, &wanted, &allowed);
    if (CPU_COUNT(&wanted) == 0)
        return ERR(err, ERR_CONFIG, "this process may use none of the CPUs %.40s", text);
    if (sched_setaffinity(0, sizeof wanted, &wanted) < 0) return err_sys(err, errno, "sched_setaffinity");
    return 0;
}

void cpus_part(uint32_t part, uint32_t parts, char text[static CPUS_TEXT_BYTES])
{
    cpu_set_t set = allowed_set(), own;
    text[0] = '\0';
    if (cpus_divide("", &set, part, parts, &own)) cpus_format(&own, text, CPUS_TEXT_BYTES);
}

uint32_t cpus_threads(void)
{
    struct cpus cpus;
    cpus_allowed(&cpus);
    uint32_t quota = cpus_quota_milli("") / 1000; // whole ones: a thread that is stopped holds up all others
    uint32_t threads = cpus.core_count < quota ? cpus.core_count : quota;
    return threads > 0 ? threads : 1;
}

bool cpus_have_avxvnni(void)
{
#if defined(__x86_64__)
    unsigned subleaf_max, a, b, c, d;
    return __get_cpuid_count(7, 0, &subleaf_max, &b, &c, &d) && subleaf_max >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1U << 4) != 0;
#else
    return false;
#endif
}
