/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/engine_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/gguf/shard.h"
#include "common/shm/owner.h"
#include "common/shm/segment.h"
#include "daemon/tier_file.h"

/* ---- making and freeing ---- */

/* Pages for cache_bytes, or by default for a sixteenth of seqs_max full sequences within a quarter of memory;
 * always at least one full sequence. */
static int pages_decide(struct engine *engine, struct err *err)
{
    const struct sched_conf *sched = &engine->conf.sched;
    uint64_t page_bytes = pool_all_page_bytes(&engine->geometry),
             seq_pages = (sched->model_len_max + PAGE_TOKENS - 1) / PAGE_TOKENS;
    uint64_t bytes = engine->conf.cache_bytes;
    if (bytes == 0) {
        uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
        uint64_t share = (sched->seqs_max + 15) / 16;
        bytes = share * seq_pages * page_bytes;
        if (bytes > memory / 4) bytes = memory / 4;
    }
    uint64_t pages = bytes / page_bytes;
    if (pages > PAGES_MAX) pages = PAGES_MAX;
    if (pages < seq_pages)
        return ERR(err, ERR_CONFIG,
                   "the KV cache is too small: one sequence of --max-model-len %" PRIu32
                   " tokens needs %" PRIu64 " MiB, --kv-cache-memory-bytes gives %" PRIu64 " MiB",
                   sched->model_len_max, (seq_pages * page_bytes + MIB(1) - 1) >> 20, bytes >> 20);
    engine->geometry.page_count = (uint32_t)pages;
    return 0;
}

/* Ranks of this host. */
static uint32_t local_count(const struct engine_conf *conf)
{
    return conf->hosts ? conf->hosts->rank_first[1] : conf->rank_count;
}

static int pool_open(struct engine *engine, struct engine_found *found, struct err *err)
{
    const struct model_facts *facts = &engine->conf.facts;
    engine->geometry = (struct pool_geometry){
        .page_tokens = PAGE_TOKENS,
        .rank_count = engine->conf.rank_count,
        .remote_count = engine->conf.rank_count - local_count(&engine->conf),
        .kv_type = engine->conf.kv_type,
        .layer_count = facts->layer_count,
        .head_count_kv = facts->head_count_kv,
        .head_dims = facts->head_dims,
        .page_bytes = pool_page_bytes(engine->conf.kv_type, facts->layer_count, facts->head_count_kv,
                                      facts->head_dims),
        .model_digest = engine->conf.model_digest,
    };
    struct shard shard; // whether it can be split so
    int r = shard_make(facts, engine->conf.rank_count, 0, &shard, err);
    if (r == 0) r = pages_decide(engine, err);
    if (r < 0) return r;
    struct pool_owner owner = {.pid = getpid(), .epoch = clock_wall_ns()};
    r = owner_start(owner.pid, &owner.start);
    if (r < 0) return err_sys(err, -r, "/proc/self/stat");
    engine->conf.sched.epoch = owner.epoch;
    r = pool_home_open(engine->instance, &engine->geometry, &owner, &engine->home, found->text,
                       sizeof found->text, &found->is_loss, err);
    engine->pool = engine->home.pool;
    return r;
}

static void offload_fetched(void *owner, uint64_t seq_id)
{
    struct engine *engine = owner;
    sched_pause(engine->sched, seq_id, false);
    engine_dirty(engine);
}

static bool offload_is_waiting(void *owner, uint64_t seq_id)
{
    const struct engine *engine = owner;
    struct sched_seq_info info;
    sched_seq_info(engine->sched, seq_id, &info);
    return sched_has(engine->sched, seq_id) && !info.running;
}

static int offload_make(struct engine *engine, struct err *err)
{
    const struct engine_conf *conf = &engine->conf;
    struct offload_conf offload = {
        .loop = conf->loop,
        .pool = engine->pool,
        .prefix = engine->prefix,
        .payload = engine->home.kv[0].base,
        .on_fetched = offload_fetched,
        .is_waiting = offload_is_waiting,
        .owner = engine,
    };
    const struct tier_file_conf file = {
        .path = conf->cache_file, .bytes = conf->cache_file_bytes, .geometry = &engine->geometry};
    int r = tier_file_open(&file, &offload.tier, engine->tier_note, sizeof engine->tier_note, err);
    if (r < 0) return r;
    r = offload_new(&offload, &engine->offload);
    if (r == 0) return 0;
    offload.tier->ops->close(offload.tier);
    return ERR(err, r, "out of memory");
}

static int retention_bound(struct engine *engine)
{
    uint32_t tenants = retain_tenant_count(engine->conf.tenant_count);
    uint64_t pages = (uint64_t)engine->geometry.page_count * engine->conf.retention_percent / 100;
    return prefix_retain(engine->prefix, tenants, (uint32_t)(pages / (tenants ? tenants : 1)));
}

static int group_make(struct engine *engine, uint32_t idx, struct err *err)
{
    const struct engine_conf *conf = &engine->conf;
    struct engine_group *at = &engine->groups[idx];
    at->engine = engine;
    at->idx = idx;
    if (plan_writer_new(&engine->limits, &at->writer) < 0) return ERR(err, -ENOMEM, "out of memory");
    char hosts[HOSTS_TEXT_BYTES] = "";
    if (conf->hosts) hosts_print(conf->hosts, hosts);
    struct exchange_shape shape = exchange_shape_of(&engine->limits, local_count(conf));
    shape.embedding_dims = conf->facts.embedding_dims;
    shape.attention_dims = conf->facts.head_count * conf->facts.head_dims;
    shape.feed_forward_dims = conf->facts.feed_forward_dims;
    struct group_conf group = {
        .loop = conf->loop,
        .instance = engine->instance,
        .group_idx = idx,
        .worker_path = conf->worker_path,
        .model_path = conf->model_path,
        .rank_count = conf->rank_count,
        .local_count = local_count(conf),
        .hosts = hosts,
        .shape = shape,
        .threads = conf->threads,
        .pin_threads = conf->pin_threads,
        .cpus = conf->group_cpus ? conf->group_cpus[idx] : "",
        .private_weights = conf->private_weights,
        .epoch = conf->sched.epoch,
        .limits = engine->limits,
        .stall_ns_max = conf->stall_ns_max,
        .callbacks = &engine_group_callbacks,
        .owner = at,
    };
    return group_new(&group, &at->group, err);
}

static int parts_make(struct engine *engine, struct err *err)
{
    const struct engine_conf *conf = &engine->conf;
    int r = prefix_new(engine->pool, &engine->prefix);
    uint32_t share = (uint32_t)((uint64_t)engine->geometry.page_count * conf->tenant_share_percent / 100);
    if (r == 0 && share > 0) r = prefix_share(engine->prefix, conf->tenant_count, share);
    if (r == 0) r = retention_bound(engine);
    if (r == 0) pins_limit(prefix_pins(engine->prefix), engine_pin_limit(engine));
    if (r == 0) r = sched_new(&conf->sched, engine->pool, engine->prefix, &engine->sched);
    if (r < 0) return ERR(err, r, "out of memory");
    if (conf->cache_file[0]) r = offload_make(engine, err);
    if (r < 0) return r;
    sched_plan_limits(&conf->sched, &engine->geometry, conf->facts.vocab_count, &engine->limits);
    if (r == 0) r = plan_limits_verify(&engine->limits, err);
    if (r < 0) return r;
    engine->done_bytes_max = done_bytes_max(&engine->limits);
    engine->done_bytes = malloc(engine->done_bytes_max);
    engine->events = calloc(2 * (size_t)conf->sched.seqs_max, sizeof *engine->events);
    if (r == 0 && (!engine->done_bytes || !engine->events)) r = -ENOMEM;
    if (r < 0) return ERR(err, r, "out of memory");
    for (uint32_t i = 0; r == 0 && i < conf->group_count; i++) r = group_make(engine, i, err);
    return r;
}

int engine_new(const struct engine_conf *conf, struct engine **ret_engine, struct engine_found *ret_found,
               struct err *err)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return ERR(err, -ENOMEM, "out of memory");
    CHECK(conf->group_count > 0);
    engine->conf = *conf;
    engine->conf.sched.group_count = conf->group_count;
    engine->lock_fd = -1;
    engine->instance = strdup(conf->instance);
    engine->groups = calloc(conf->group_count, sizeof *engine->groups);
    int r = engine->instance && engine->groups ? 0 : ERR(err, -ENOMEM, "out of memory");
    if (r == 0) r = segment_lock(conf->instance, &engine->lock_fd, err);
    if (r < 0) goto fail;
    r = pool_open(engine, ret_found, err);
    if (r == 0) r = parts_make(engine, err);
    if (r < 0) goto fail;
    engine_step_init(engine);
    struct {
        struct hash128 digest;
        uint64_t kv_type;
    } root = {conf->model_digest, conf->kv_type};
    engine->root_key = hash128(&root, sizeof root);
    *ret_engine = engine;
    return 0;
fail:
    engine_free(engine, NULL);
    return r;
}

int engine_start(struct engine *engine, struct err *err)
{
    int r = group_start(engine->groups[0].group, err);
    if (r < 0) return r;
    for (uint32_t i = 1; i < engine->conf.group_count; i++) {
        struct err reason = {0};
        r = group_start(engine->groups[i].group, &reason);
        if (r == 0) continue;
        engine_group_failed(&engine->groups[i], err_exit_status(r), reason.text); // others run: later
        break;
    }
    return 0;
}

void engine_stop(struct engine *engine)
{
    if (engine->groups_left == 0) engine_groups_stop(engine); // else on_failed follows
}

/* Memory and names, once nothing of libuv refers to the engine. */
static void engine_release(struct engine *engine)
{
    void (*on_freed)(void *) = engine->on_freed;
    void *owner = engine->conf.owner;
    sched_free(engine->sched);
    prefix_free(engine->prefix);
    if (engine->lock_fd >= 0) {
        bool keep = engine->conf.cache_keep || (engine->home.adopted && !engine->ever_ready);
        if (keep) pool_home_keep(&engine->home, engine->instance);
        else pool_home_remove(&engine->home, engine->instance);
        segment_unlock(engine->instance, engine->lock_fd); // the last name
    }
    for (uint32_t i = 0; engine->groups && i < engine->conf.group_count; i++)
        plan_writer_free(engine->groups[i].writer);
    free(engine->groups);
    free(engine->done_bytes);
    free(engine->events);
    free(engine->instance);
    free(engine);
    if (on_freed) on_freed(owner);
}

static void handle_closed(uv_handle_t *handle)
{
    struct engine *engine = handle->data;
    if (--engine->handles_open == 0) engine_release(engine);
}

static void handles_close(struct engine *engine)
{
    uv_close((uv_handle_t *)&engine->prepare, handle_closed);
    uv_close((uv_handle_t *)&engine->deadline, handle_closed);
}

static void group_freed(void *owner)
{
    struct engine *engine = ((struct engine_group *)owner)->engine;
    if (--engine->groups_left > 0) return;
    if (engine->handles_open > 0) handles_close(engine);
    else engine_release(engine);
}

static void offload_freed(void *arg)
{
    struct engine *engine = arg;
    engine->offload = NULL;
    engine->groups_left = 1; // this function itself
    for (uint32_t i = 0; engine->groups && i < engine->conf.group_count; i++) {
        if (!engine->groups[i].group) continue;
        engine->groups_left++;
        group_free(engine->groups[i].group, group_freed);
    }
    if (--engine->groups_left > 0) return;
    if (engine->handles_open > 0) handles_close(engine);
    else engine_release(engine);
}

void engine_free(struct engine *engine, void (*on_freed)(void *owner))
{
    if (!engine) return;
    engine->on_freed = on_freed;
    if (engine->offload) offload_free(engine->offload, offload_freed, engine);
    else offload_freed(engine);
}

/* ---- pins ---- */

/* Whatever is pinned, a sequence of full length fits beside it: else it might wait for ever. */
uint32_t engine_pin_limit(const struct engine *engine)
{
    uint32_t pages = engine->geometry.page_count;
    uint32_t seq_pages = (engine->conf.sched.model_len_max + PAGE_TOKENS - 1) / PAGE_TOKENS;
    uint32_t share = (uint32_t)((uint64_t)pages * engine->conf.pin_percent / 100);
    return share < pages - seq_pages ? share : pages - seq_pages;
}

uint32_t engine_pinned_count(const struct engine *engine)
{
    return pins_page_count(prefix_pins(engine->prefix));
}

bool engine_pins_lost(struct engine *engine)
{
    return pins_lost(prefix_pins(engine->prefix));
}

int engine_pin(struct engine *engine, struct hash128 salt, const uint32_t *tokens, uint32_t token_count)
{
    struct hash128 key = hash128_chain(engine->root_key, &salt, sizeof salt);
    uint32_t page_idx = PAGE_NONE;
    for (uint32_t at = 0; at + PAGE_TOKENS <= token_count; at += PAGE_TOKENS) {
        key = prefix_key(key, tokens + at);
        page_idx = prefix_find(engine->prefix, key, page_idx, tokens + at);
        if (page_idx == PAGE_NONE) return -ENOENT;
    }
    return page_idx == PAGE_NONE ? ERR_INPUT
                                 : pins_add(prefix_pins(engine->prefix), page_idx, clock_mono_ns());
}

/* ---- requests ---- */

int engine_submit(struct engine *engine, struct sched_request *request, uint64_t *ret_seq_id)
{
    request->root_key = hash128_chain(engine->root_key, &request->root_key, sizeof request->root_key);
    int r = sched_submit(engine->sched, request, ret_seq_id);
    if (r < 0) return r;
    /* Until its pages are there it waits as a paused one: nobody waits behind it, and its deadline counts. */
    if (engine->offload && !request->score_prompt &&
        offload_fetch(engine->offload, *ret_seq_id, request->root_key, request->prompt,
                      request->prompt_count))
        sched_pause(engine->sched, *ret_seq_id, true);
    engine_deadline_arm(engine);
    engine_dirty(engine);
    return r;
}

void engine_remove(struct engine *engine, uint64_t seq_id)
{
    sched_remove(engine->sched, seq_id, clock_mono_ns());
    engine_dirty(engine); // pages came free
}

void engine_pause(struct engine *engine, uint64_t seq_id, bool paused)
{
    sched_pause(engine->sched, seq_id, paused);
    if (!paused) engine_dirty(engine);
}

uint32_t engine_cache_clear(struct engine *engine)
{
    return prefix_clear(engine->prefix);
}

bool engine_queue_full(const struct engine *engine)
{
    return sched_queue_full(engine->sched);
}

bool engine_ready(const struct engine *engine)
{
    uint32_t i = 0;
    while (i < engine->conf.group_count && !engine_can_compute(&engine->groups[i])) i++;
    return i < engine->conf.group_count;
}

void engine_seq_info(const struct engine *engine, uint64_t seq_id, struct sched_seq_info *ret_info)
{
    sched_seq_info(engine->sched, seq_id, ret_info);
}

void engine_stats(const struct engine *engine, struct engine_stats *ret_stats)
{
    *ret_stats = (struct engine_stats){
        .page_count = engine->geometry.page_count,
        .pages_free = pool_free_count(engine->pool),
        .pages_filling = pool_filling_count(engine->pool),
        .pages_sealed = pool_sealed_count(engine->pool),
        .pages_idle = prefix_idle_count(engine->prefix),
        .pages_pinned = engine_pinned_count(engine),
        .pages_retained = prefix_retained_count(engine->prefix),
        .page_bytes = pool_all_page_bytes(&engine->geometry),
        .evictions = prefix_evictions(engine->prefix),
        .group_count = engine->conf.group_count,
    };
    sched_stats(engine->sched, &ret_stats->sched);
    ret_stats->has_tier = engine->offload != NULL;
    if (engine->offload) offload_stats(engine->offload, &ret_stats->offload);
}

void engine_group_stats(const struct engine *engine, uint32_t group, struct engine_group_stats *ret_stats)
{
    const struct group *at = engine->groups[group].group;
    *ret_stats = (struct engine_group_stats){
        .is_ready = engine_can_compute(&engine->groups[group]),
        .worker_pid = group_pid(at),
        .running = sched_group_running(engine->sched, group),
        .steps = sched_group_steps(engine->sched, group),
        .restarts = group_restarts(at),
    };
}

void engine_worker_note(const struct engine *engine, uint32_t group, char *text, size_t text_bytes)
{
    group_note(engine->groups[group].group, text, text_bytes);
}

const char *engine_tier_note(const struct engine *engine)
{
    return engine->tier_note;
}
