/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/engine_tier.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "daemon/tier_file.h"

/* What the bits in a page depend on besides the model: version, forced kernels, and the instruction sets by which the
 * worker chooses its kernels. Levels agree within tolerances, not in every bit, and a request's tokens must not depend
 * on where its prefix was computed. */
static struct hash128 producer_of_this_machine(void)
{
    const char *kernels = getenv("KVASIR_KERNELS");
    struct hash128 hash = hash128(PACKAGE_VERSION, sizeof PACKAGE_VERSION);
    if (kernels) hash = hash128_chain(hash, kernels, strlen(kernels));
    FILE *info = fopen("/proc/cpuinfo", "re");
    if (!info) return hash;
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    while ((len = getline(&line, &size, info)) >= 0) {
        if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0) continue;
        hash = hash128_chain(hash, line, (size_t)len);
        break; // of the first CPU; others have the same
    }
    free(line);
    (void)fclose(info); // only read
    return hash;
}

int engine_tier_open(const char *path, uint64_t bytes, const struct pool_geometry *geometry,
                     struct tier **ret_tier, char *ret_note, size_t note_bytes, struct err *err)
{
    const struct tier_file_conf conf = {
        .path = path, .bytes = bytes, .geometry = geometry, .producer = producer_of_this_machine()};
    return tier_file_open(&conf, ret_tier, ret_note, note_bytes, err);
}
