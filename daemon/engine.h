/* SPDX-License-Identifier: Apache-2.0 */
/* engine - pool, prefix index, scheduler and worker groups as one thing that generates tokens.
 *
 * Submissions and completions only record; once per turn of the loop, before it sleeps, the engine plans
 * the next step of every group that has none in flight. When a worker dies its step is planned again, by another group
 * that lives or on its next worker, so requests go on with the same tokens. Everything happens on the loop thread. */
#ifndef KVASIR_DAEMON_ENGINE_H
#define KVASIR_DAEMON_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/cpus.h"
#include "common/base/err.h"
#include "common/base/hosts.h"
#include "common/gguf/facts.h"
#include "daemon/offload.h"
#include "daemon/sched.h"

struct engine; // opaque

struct engine_step { // of one answered step, for metrics
    uint32_t seq_count, token_count, sampled_count;
    uint32_t prefill_count; // rows of prompts
    uint64_t step_ns, forward_ns, sample_ns;
    uint64_t predicted_ns; // of step_ns; 0: nothing was measured before
    uint64_t turn_ns;      // from the completion's arrival to the next plan pushed; 0 when none followed
};

struct engine_callbacks {
    void (*on_event)(void *owner, const struct sched_event *event, const struct done_top *tops);
    void (*on_ready)(void *owner, uint32_t group);       // also after each restart
    void (*on_progress)(void *owner, uint32_t permille); // of the group that is furthest
    void (*on_lost)(void *owner, uint32_t group, const char *reason);
    /* bad_count cached pages were not what was sealed; with what hangs on them, dropped_count are gone. 0: all are
     * once the other groups' steps have ended. */
    void (*on_corrupt)(void *owner, uint32_t bad_count, uint32_t dropped_count);
    /* A worker's kernels give other bits than those which computed what is cached: pages of the pool were dropped, of
     * the tier are not found. */
    void (*on_foreign)(void *owner, uint32_t pool_count, uint32_t tier_count);
    void (*on_failed)(void *owner, int exit_status,
                      const char *reason); // a group cannot start; none runs any more
    void (*on_step)(void *owner, const struct engine_step *step);
    void (*on_turn)(void *owner); // after events, when the next plan is on its way or none is to be had
    void (*on_stopped)(void *owner);
};

struct engine_conf {
    uv_loop_t *loop;
    const char *instance;
    const char *worker_path, *model_path;
    uint32_t group_count;      // at least 1
    uint32_t rank_count;       // processes of each group, which the model is split over
    const struct hosts *hosts; // which ranks run where, borrowed until engine_free; NULL: all here
    uint32_t threads;          // of each group, all its processes together
    bool pin_threads;          // each to a core of its own
    const char (
        *group_cpus)[CPUS_TEXT_BYTES]; // (group_count), borrowed: a group's own, "": all. NULL: all for all
    bool private_weights;              // not shared with other workers, nor with this one's next life
    uint64_t
        cache_bytes; // of pages; 0: enough for seqs_max / 16 sequences of full length, at most a quarter of memory
    const char *cache_file;    // pages are also kept there; "": nowhere. Borrowed until engine_new returns
    uint64_t cache_file_bytes; // its size
    uint32_t tenant_count, tenant_share_percent; // each tenant's minimum of the pages; 0: none has
    uint32_t pin_percent;                        // of the pages that may be pinned
    uint32_t retention_percent; // of the pages that requests may retain by hints, all tenants together
    enum kv_type kv_type;
    struct sched_conf sched; // epoch is set here
    struct model_facts facts;
    struct hash128 model_digest;
    uint64_t stall_ns_max;
    bool cache_keep; // at the end the pool is left for the next daemon
    const struct engine_callbacks *callbacks;
    void *owner;
};

struct engine_found { // of an earlier daemon
    char text[1024];  // what became of its pool; "": there was none
    bool is_loss;     // it is not used
};

/* Takes the instance's lock, adopts the pool of an earlier daemon or makes one, and makes the link. ERR_BUSY:
 * another daemon holds the instance. */
int engine_new(const struct engine_conf *conf, struct engine **ret_engine, struct engine_found *ret_found,
               struct err *err);
int engine_start(struct engine *engine, struct err *err); // starts the workers; on_ready or on_failed follows
void engine_stop(struct engine *engine);                  // on_stopped follows
/* After on_stopped or on_failed, or if never started: frees, and removes every name. The pool stays when cache_keep is
 * set, or when it was adopted and no worker was ever ready: a start that fails leaves what it found. */
void engine_free(struct engine *engine, void (*on_freed)(void *owner));

/* See sched_submit. request->root_key holds the salt (zero: none) and becomes hash(model digest, KV type, salt). */
int engine_submit(struct engine *engine, struct sched_request *request, uint64_t *ret_seq_id);
void engine_remove(struct engine *engine, uint64_t seq_id);
void engine_pause(struct engine *engine, uint64_t seq_id, bool paused);
uint32_t
engine_cache_clear(struct engine *engine); // frees every cached page that no sequence holds. -> how many
/* Keeps the whole pages of these tokens in the cache; again and again is once. salt as in engine_submit. -ENOENT:
 * they are not all there; ERR_LIMIT: more than engine_pin_limit in all. */
int engine_pin(struct engine *engine, struct hash128 salt, const uint32_t *tokens, uint32_t token_count);
uint32_t engine_pin_limit(const struct engine *engine);    // pages that may be pinned
uint32_t engine_pinned_count(const struct engine *engine); // that are
bool engine_pins_lost(struct engine *engine); // whether pins were dropped with bad pages since this was asked
bool engine_queue_full(const struct engine *engine);
bool engine_ready(const struct engine *engine); // a group is
void engine_seq_info(const struct engine *engine, uint64_t seq_id, struct sched_seq_info *ret_info);

struct engine_stats {
    struct sched_stats sched;
    uint32_t page_count, pages_free, pages_filling, pages_sealed, pages_idle, pages_retained, pages_pinned;
    uint64_t page_bytes, evictions;
    uint32_t group_count;
    bool has_tier;
    struct offload_stats offload; // zero without a tier
};
void engine_stats(const struct engine *engine, struct engine_stats *ret_stats);
struct engine_group_stats {
    bool is_ready;
    int64_t worker_pid; // 0: none
    uint32_t running;   // sequences that are its
    uint64_t steps, restarts;
};
void engine_group_stats(const struct engine *engine, uint32_t group, struct engine_group_stats *ret_stats);
void engine_worker_note(const struct engine *engine, uint32_t group, char *text,
                        size_t text_bytes);                // its memory, once ready
const char *engine_tier_note(const struct engine *engine); // what was found in the cache file; "" without one

#endif
