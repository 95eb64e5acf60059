/* SPDX-License-Identifier: Apache-2.0 */
/* store - where this rank's packed weights lie: in shared memory with every worker that needs the same bytes
 * (common/shm/weights.h), or in the model's own memory when that is asked for or nothing else is left.
 *
 * What is shared is decided by a hash of everything that the bytes depend on: the file's identity and digest,
 * how this build packs for these kernels, which tensors in which order, the rank. */
#ifndef KVASIR_WORKER_STORE_H
#define KVASIR_WORKER_STORE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"
#include "common/gguf/file.h"
#include "worker/kern/kern.h"

struct store; // owns its use of the segment

struct store_conf {
    const struct gguf_file *file; // borrowed until return
    const char *level;            // name of the kernels
    uint64_t bytes;               // both of model_measure; 0: these kernels keep weights elsewhere
    struct hash128 content;
    uint32_t rank, rank_count;
    bool private;                                   // not shared, by wish
    void (*progress)(void *arg, uint32_t permille); // of another worker that packs while we wait
    void *progress_arg;
};

/* Never fails for want of shared memory: then it says so in the log and the weights become the model's own.
 * Removes what dead workers left of other models. -ENOMEM. */
int store_open(const struct store_conf *conf, struct store **ret_store, struct err *err);
struct kern_store store_memory(const struct store *store); // for model_conf
void store_progress(struct store *store, uint32_t permille);
/* All weights are packed: other workers may map them. Nothing to do where they were mapped, or are our own. */
int store_publish(struct store *store, struct err *err);
void store_close(struct store *store); // after the model; NULL is fine

/* What the daemon keeps for us while no worker runs; zeros when the weights are our own. */
struct hash128 store_key(const struct store *store);
/* "weights 81 MiB mapped from NAME" and the like, for the log. */
void store_describe(const struct store *store, char *text, size_t text_bytes);

#endif
