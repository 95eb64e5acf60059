/* SPDX-License-Identifier: Apache-2.0 */
/* See store.h. */
#include "worker/store.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/cpus.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/shm/weights.h"

struct store {
    struct weights *weights; // NULL: the model's own memory
    struct hash128 key;
    uint64_t bytes;
    bool mapped; // filled by another, or by a life before ours
    uint32_t swept_count;
    uint64_t swept_bytes;
    void (*progress)(void *arg, uint32_t permille);
    void *progress_arg;
};

/* Not only what a dishonest peer could not forge, but what an honest one could get wrong: another build with
 * the same kernels' name, a file that was written over with its old time, a user who may not read ours. */
static struct hash128 key_of(const struct store_conf *conf)
{
    const struct {
        struct hash128 digest, content;
        struct gguf_identity identity;
        uint64_t bytes;
        uint32_t layout_version, user, rank, rank_count;
        int64_t node; // workers that keep to different ones want their own copy near them
    } facts = {
        .digest = gguf_digest(conf->file->gguf),
        .content = conf->content,
        .identity = conf->file->identity,
        .bytes = conf->bytes,
        .layout_version = WEIGHTS_LAYOUT_VERSION,
        .user = geteuid(),
        .rank = conf->rank,
        .rank_count = conf->rank_count,
        .node = cpus_node(),
    };
    static_assert(sizeof facts == 120, "no padding in what is hashed");
    return hash128(&facts, sizeof facts);
}

static void count_swept(void *arg, const char *name, uint64_t bytes)
{
    struct store *store = arg;
    (void)name;
    store->swept_count++;
    store->swept_bytes += bytes;
}

static void others_progress(void *arg, int64_t builder_pid, uint32_t permille)
{
    const struct store *store = arg;
    (void)builder_pid;
    if (store->progress) store->progress(store->progress_arg, permille);
}

int store_open(const struct store_conf *conf, struct store **ret_store, struct err *err)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store) return ERR(err, -ENOMEM, "out of memory");
    store->bytes = conf->bytes;
    store->progress = conf->progress;
    store->progress_arg = conf->progress_arg;
    struct hash128 key = key_of(conf);
    (void)weights_sweep(key, count_swept, store); // what cannot be removed stays: room is asked for next
    *ret_store = store;
    if (conf->private || conf->bytes == 0) return 0;
    const struct weights_conf wanted = {
        .key = key,
        .rank = conf->rank,
        .bytes = conf->bytes,
        .model_digest = gguf_digest(conf->file->gguf),
        .level = conf->level,
        .waiting = others_progress,
        .waiting_arg = store,
    };
    struct err why = {0};
    if (weights_open(&wanted, &store->weights, &why) < 0) {
        log_warn("weights cannot be shared: %s; packing them into memory of our own", why.text);
        return 0;
    }
    store->key = key;
    store->mapped = weights_filled(store->weights);
    return 0;
}

struct kern_store store_memory(const struct store *store)
{
    if (!store->weights) return (struct kern_store){.base = NULL};
    return (struct kern_store){
        .base = weights_base(store->weights), .bytes = store->bytes, .filled = store->mapped};
}

void store_progress(struct store *store, uint32_t permille)
{
    if (store->weights && !weights_filled(store->weights)) weights_progress(store->weights, permille);
}

int store_publish(struct store *store, struct err *err)
{
    if (!store->weights || store->mapped) return 0;
    return weights_publish(store->weights, err);
}

void store_close(struct store *store)
{
    if (!store) return;
    weights_close(store->weights);
    free(store);
}

struct hash128 store_key(const struct store *store)
{
    return store->key;
}

void store_describe(const struct store *store, char *text, size_t text_bytes)
{
    char swept[64] = "";
    if (store->swept_count > 0)
        (void)snprintf(swept, sizeof swept, ", %" PRIu64 " MiB of others that nobody used removed",
                       store->swept_bytes >> 20); // fits
    if (store->weights)
        (void)snprintf(text, text_bytes, "weights %" PRIu64 " MiB %s %s%s", store->bytes >> 20,
                       store->mapped ? "mapped from" : "packed into", weights_name(store->weights),
                       swept);                                                      // may be cut
    else (void)snprintf(text, text_bytes, "weights in memory of its own%s", swept); // as above
}
