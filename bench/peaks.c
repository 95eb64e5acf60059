/* SPDX-License-Identifier: Apache-2.0 */
/* peaks - the limits of this machine: multiply-adds of registers and bytes read, for one thread and for all.
 *
 *   peaks [--json] [--seconds S]
 *
 * Every other benchmark prints its share of these. The best of many short turns counts, since a limit is
 * what the machine does undisturbed. */
#include <stdlib.h>
#include <string.h>

#include "bench/machine.h"
#include "common/base/check.h"

enum { READ_MIB = 256 }; // a thread; past any last-level cache

static void print_table(uint32_t cores, double seconds)
{
    machine_print_header(stdout);
    printf("%-8s %22s %14s %10s %10s %12s %12s\n", "threads", machine_int8_name(), "int8 multiply",
           "bf16 dot", "f32 fma", "1 MiB", "memory");
    printf("%-8s %22s %14s %10s %10s %12s %12s\n", "", "GMAC/s", "GMAC/s", "GMAC/s", "GMAC/s", "GB/s",
           "GB/s");
    for (uint32_t threads = 1; threads <= cores;
         threads = threads < cores && threads * 2 > cores ? cores : threads * 2) {
        struct machine_peaks peaks = machine_peaks(threads, seconds);
        printf("%-8u %22.1f %14.1f %10.1f %10.1f %12.1f %12.1f\n", threads, peaks.int8_dot,
               peaks.int8_multiply, peaks.bf16_dot, peaks.f32_fma,
               machine_read_gbs(threads, 1u << 20, seconds),
               machine_read_gbs(threads, (size_t)READ_MIB << 20, seconds));
    }
}

static void print_json(uint32_t cores, double seconds)
{
    printf("{\"int8\": \"%s\", \"rows\": [", machine_int8_name());
    for (uint32_t threads = 1; threads <= cores;
         threads = threads < cores && threads * 2 > cores ? cores : threads * 2) {
        struct machine_peaks peaks = machine_peaks(threads, seconds);
        printf("%s{\"threads\": %u, \"int8_dot_gmacs\": %.1f, \"int8_multiply_gmacs\": %.1f, "
               "\"bf16_dot_gmacs\": %.1f, "
               "\"f32_fma_gmacs\": %.1f, \"read_1mib_gbs\": %.1f, \"read_memory_gbs\": %.1f}",
               threads > 1 ? ", " : "", threads, peaks.int8_dot, peaks.int8_multiply, peaks.bf16_dot,
               peaks.f32_fma, machine_read_gbs(threads, 1u << 20, seconds),
               machine_read_gbs(threads, (size_t)READ_MIB << 20, seconds));
    }
    printf("]}\n");
}

int main(int argc, char **argv)
{
    bool json = false;
    double seconds = 0.3;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) seconds = atof(argv[++i]);
        else {
            fprintf(stderr, "usage: peaks [--json] [--seconds S]\n");
            return 64;
        }
    }
    if (json) print_json(machine_cores(), seconds);
    else print_table(machine_cores(), seconds);
    return 0;
}
