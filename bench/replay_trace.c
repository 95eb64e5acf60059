/* SPDX-License-Identifier: Apache-2.0 */
/* replay_trace - the trace of replay.h from its file. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/replay.h"

enum { ID_MAX = 1 << 26, BLOCKS_MAX = 1 << 28 };

static int room(void **array, uint32_t count, uint32_t more, size_t item_bytes)
{
    uint32_t cap = 64;
    while (cap < count) cap *= 2;
    if (count > 0 && count + more <= cap) return 0;
    while (cap < count + more) cap *= 2;
    void *grown = realloc(*array, cap * item_bytes);
    if (!grown) return -ENOMEM;
    *array = grown;
    return 0;
}

static double number_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e15 ? item->valuedouble
                                                                                      : -1;
}

static int line_add(struct trace *trace, const cJSON *object, struct err *err)
{
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(object, "hash_ids"), *id;
    double arrival_ms = number_of(object, "timestamp"), prompt = number_of(object, "input_length"),
           output = number_of(object, "output_length");
    if (!cJSON_IsArray(ids) || arrival_ms < 0 || prompt < 0 || output < 0 || prompt > UINT32_MAX ||
        output > UINT32_MAX)
        return ERR(err, ERR_FORMAT, "wanted timestamp, input_length, output_length and hash_ids");
    uint32_t count = (uint32_t)cJSON_GetArraySize(ids);
    if (count == 0 || count > BLOCKS_MAX - trace->block_count) return ERR(err, ERR_LIMIT, "%u blocks", count);
    if (room((void **)&trace->blocks, trace->block_count, count, sizeof *trace->blocks) < 0 ||
        room((void **)&trace->requests, trace->request_count, 1, sizeof *trace->requests) < 0)
        return ERR(err, -ENOMEM, "out of memory");
    trace->requests[trace->request_count] = (struct trace_request){
        .arrival_ns = (uint64_t)(arrival_ms * 1e6),
        .prompt_tokens = (uint32_t)prompt,
        .output_tokens = (uint32_t)output,
        .block_first = trace->block_count,
        .block_count = count,
    };
    uint32_t at = trace->block_count;
    cJSON_ArrayForEach(id, ids)
    {
        if (!cJSON_IsNumber(id) || id->valuedouble < 0 || id->valuedouble > ID_MAX)
            return ERR(err, ERR_LIMIT, "a block id that is not in 0 to %d", ID_MAX);
        trace->blocks[at] = (uint32_t)id->valuedouble;
        if (trace->blocks[at] >= trace->id_count) trace->id_count = trace->blocks[at] + 1;
        at++;
    }
    trace->block_count = at;
    trace->request_count++;
    return 0;
}

int trace_line(struct trace *trace, const char *line, struct err *err)
{
    cJSON *object = cJSON_Parse(line);
    int r = line_add(trace, object, err);
    cJSON_Delete(object);
    return r;
}

int trace_open(const char *path, struct trace *ret_trace, struct err *err)
{
    FILE *file = fopen(path, "re");
    if (!file) return err_sys(err, errno, "%s", path);
    struct trace trace = {0};
    char *line = NULL;
    size_t line_cap = 0;
    int r = 0;
    while (r == 0 && getline(&line, &line_cap, file) > 0) r = trace_line(&trace, line, err);
    if (r == 0 && trace.request_count == 0) r = ERR(err, ERR_FORMAT, "no request in %s", path);
    free(line);
    (void)fclose(file); // read only
    if (r == 0) *ret_trace = trace;
    else trace_free(&trace);
    return r;
}

void trace_free(struct trace *trace)
{
    free(trace->requests);
    free(trace->blocks);
    *trace = (struct trace){0};
}
