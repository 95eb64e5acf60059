/* SPDX-License-Identifier: Apache-2.0 */
/* cpus - which CPUs this process may use, which of them share a core, how much of them its control group grants,
 * and what compilers cannot tell of their instructions. From sched_getaffinity, /sys and /proc; what cannot be read
 * counts as not limited and not shared. */
#ifndef KVASIR_BASE_CPUS_H
#define KVASIR_BASE_CPUS_H

#include <sched.h> // cpu_set_t
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { CPUS_MAX = CPU_SETSIZE, CPUS_TEXT_BYTES = 1024 };

struct cpus {
    uint32_t count;         // of ids
    uint32_t core_count;    // of distinct cores among them
    uint16_t ids[CPUS_MAX]; // one CPU of every core, ascending, then their second hardware threads, and so on
};

/* root: "" for this machine; tests put a tree of files there. */
void cpus_order(const char *root, const cpu_set_t *set, struct cpus *ret_cpus);
/* Thousandths of a CPU that the control groups above this process grant it, UINT32_MAX when none limits it. */
uint32_t cpus_quota_milli(const char *root);
/* "0-3,8" or "node:1" (a NUMA node's). ERR_CONFIG says what is wrong. */
int cpus_parse(const char *root, const char *text, cpu_set_t *ret_set, struct err *err);

/* Part number `part` of a set divided into `parts`, whole cores with all their hardware threads, the cores of a NUMA
 * node side by side: as many parts as nodes are the nodes, where these are equal. Parts never overlap; a set with
 * fewer cores than parts is not divided, and each part is all of it. -> whether it was divided. */
bool cpus_divide(const char *root, const cpu_set_t *set, uint32_t part, uint32_t parts, cpu_set_t *ret_set);
/* As cpus_parse reads it, "0-3,8"; cut to whole ranges where text_bytes are too few. */
void cpus_format(const cpu_set_t *set, char *text, size_t text_bytes);

/* The NUMA node that all of the set belong to, -1 when they are of several or the machine has but one. */
int cpus_node_of(const char *root, const cpu_set_t *set);

void cpus_allowed(struct cpus *ret_cpus); // of this thread; at least one
int cpus_node(void);                      // cpus_node_of them
/* From here on this process and its children use only these, as far as they are allowed to. ERR_CONFIG when
 * that leaves none. */
int cpus_restrict(const char *text, struct err *err);
/* cpus_divide of those that this thread may use, as text; "" when they are too few to be divided. */
void cpus_part(uint32_t part, uint32_t parts, char text[static CPUS_TEXT_BYTES]);
/* Threads for work that keeps a core busy: one for each core that is allowed, within the quota; at least one. */
uint32_t cpus_threads(void);
/* AVX-VNNI, by CPUID leaf 7, subleaf 1: __builtin_cpu_supports of gcc 12 and clang 14 does not know it. Whether the
 * kernel saves the registers is for the caller to ask (avx2). */
bool cpus_have_avxvnni(void);

#endif
