/* SPDX-License-Identifier: Apache-2.0 */
/* See fsck_weights.h. */
#include "client/fsck_weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"

static int add(void *arg, const struct weights_info *info)
{
    struct fsck_weights *weights = arg;
    if (weights->count == FSCK_WEIGHTS_MAX) return 1;
    uint32_t i = weights->count++;
    (void)snprintf(weights->entries[i].name, sizeof weights->entries[i].name, "%s", info->name); // fits
    weights->entries[i].info = *info;
    weights->entries[i].info.name = NULL;
    weights->entries[i].fault[0] = '\0';
    weights->bytes += info->file_bytes;
    return 0;
}

int fsck_weights_read(bool verify, struct fsck_weights *ret_weights)
{
    *ret_weights = (struct fsck_weights){.count = 0};
    int r = weights_each(add, ret_weights);
    if (r < 0) return r;
    for (uint32_t i = 0; verify && i < ret_weights->count; i++) {
        struct err err = {0};
        if (ret_weights->entries[i].info.state != WEIGHTS_READY) continue;
        if (weights_verify(ret_weights->entries[i].name, &err) != ERR_FORMAT)
            continue; // or removed meanwhile
        memcpy(ret_weights->entries[i].fault, err.text, sizeof err.text);
        ret_weights->fault_count++;
    }
    return 0;
}

static const char *state_name(enum weights_state state)
{
    static const char *const names[] = {[WEIGHTS_READY] = "ready",
                                        [WEIGHTS_BUILDING] = "building",
                                        [WEIGHTS_ABANDONED] = "abandoned",
                                        [WEIGHTS_FOREIGN] = "foreign"};
    return names[state];
}

void fsck_weights_print(const struct fsck_weights *weights)
{
    for (uint32_t i = 0; i < weights->count; i++) {
        const struct weights_info *info = &weights->entries[i].info;
        printf("weights  %s: %.1f MiB", weights->entries[i].name, (double)info->file_bytes / (double)MIB(1));
        switch (info->state) {
        case WEIGHTS_READY:
            printf(", %s, %s\n", info->level, info->in_use ? "in use" : "nobody uses them");
            break;
        case WEIGHTS_BUILDING: printf(", process %" PRId64 " packs them\n", info->builder_pid); break;
        case WEIGHTS_ABANDONED: printf(", half packed by a process that is gone\n"); break;
        case WEIGHTS_FOREIGN: printf(", of another version\n"); break;
        }
        if (weights->entries[i].fault[0]) printf("  %s\n", weights->entries[i].fault);
    }
}

void fsck_weights_json(const struct fsck_weights *weights, struct buf *out)
{
    (void)buf_putc(out, '['); // here and below: out->error is sticky
    for (uint32_t i = 0; i < weights->count; i++) {
        const struct weights_info *info = &weights->entries[i].info;
        (void)buf_printf(out, "%s{\"name\":\"%s\",\"bytes\":%" PRIu64 ",\"state\":\"%s\",\"in_use\":%s",
                         i > 0 ? "," : "", weights->entries[i].name, info->file_bytes,
                         state_name(info->state), info->in_use ? "true" : "false");
        (void)buf_printf(out,
                         ",\"kernels\":\"%s\",\"rank\":%" PRIu32 ",\"model_digest\":\"%016" PRIx64
                         "%016" PRIx64 "\"}",
                         info->level, info->rank, info->model_digest.high, info->model_digest.low);
    }
    (void)buf_putc(out, ']');
}
