/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/engine.h"

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
#include "daemon/engine_tier.h"
#include "daemon/group.h"
#include "daemon/pool_home.h"

struct engine {
    struct engine_conf conf;
    char *instance; // owned
    int lock_fd;
    struct pool_home home;
    struct pool_geometry geometry;
    struct pool *pool; // home's
    bool ever_ready;
    struct prefix *prefix;
    struct sched *sched;
    struct plan_limits limits;
    struct plan_writer *writer;
    struct group *group;
    struct hash128 root_key;
    struct offload *offload; // NULL: no cache file, or closed
    char tier_note[256];

    void *plan_bytes;      // private copy of the plan in flight
    struct plan_view plan; // into plan_bytes
    void *done_bytes;      // private copy of a completion
    size_t done_bytes_max;
    struct sched_event *events; // (2 * seqs_max)

    uv_prepare_t prepare;    // active while dirty: plans before the loop sleeps
    uv_timer_t deadline;     // active until the next deadline of a sequence
    uint64_t deadline_ns;    // that one; UINT64_MAX: none
    uint32_t handles_open;   // of these two, while closing
    uint64_t done_ns;        // arrival of the completion whose successor is not planned yet; 0: none
    struct engine_step step; // of that completion
    void (*on_freed)(void *owner);
};

static void engine_dirty(struct engine *engine);

/* ---- one step ---- */

static void step_report(struct engine *engine, bool planned)
{
    if (engine->done_ns == 0) return;
    engine->step.turn_ns = planned ? clock_mono_ns() - engine->done_ns : 0;
    engine->done_ns = 0;
    engine->conf.callbacks->on_step(engine->conf.owner, &engine->step);
}

static void deadline_arm(struct engine *engine);

/* Tells the owners of those whose deadline has come. */
static void deadlines_expire(struct engine *engine)
{
    int count;
    while ((count = sched_expire(engine->sched, clock_mono_ns(), engine->events)) > 0) {
        for (int i = 0; i < count; i++) {
            if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
            engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], NULL);
        }
    }
    deadline_arm(engine);
}

static void deadline_came(uv_timer_t *timer)
{
    struct engine *engine = timer->data;
    engine->deadline_ns = UINT64_MAX;
    deadlines_expire(engine);
}

/* A timer that fires early finds nobody and is armed again. */
static void deadline_arm(struct engine *engine)
{
    uint64_t next_ns = sched_deadline_next(engine->sched), now_ns = clock_mono_ns();
    if (next_ns >= engine->deadline_ns) return;
    engine->deadline_ns = next_ns;
    uv_timer_start(&engine->deadline, deadline_came,
                   next_ns > now_ns ? (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS : 0, 0);
}

/* Plans the next step and pushes it; the plan is kept to verify the answer against. */
static void step_plan(struct engine *engine)
{
    deadlines_expire(engine); // never computed: also those whose timer is late
    if (group_state(engine->group) != GROUP_READY || sched_in_flight(engine->sched, 0)) return;
    size_t slot_bytes;
    void *slot = link_plan_slot(group_link(engine->group), &slot_bytes);
    if (!slot) { // one step in flight, LINK_SLOTS slots: only a broken ring has none
        group_kill(engine->group, "the plan ring is broken");
        return;
    }
    int seqs = sched_plan(engine->sched, 0, clock_mono_ns(), engine->writer);
    if (seqs == 0 && engine->offload && offload_yield(engine->offload)) // somebody may fit now
        seqs = sched_plan(engine->sched, 0, clock_mono_ns(), engine->writer);
    if (seqs > 0) {
        size_t bytes = plan_writer_finish(engine->writer, engine->plan_bytes, slot_bytes);
        int r = plan_verify(engine->plan_bytes, bytes, &engine->limits, &engine->plan, NULL);
        CHECK(r == 0); // our own writer
        memcpy(slot, engine->plan_bytes, bytes);
        link_plan_push(group_link(engine->group), bytes);
        group_step_begin(engine->group);
    }
    step_report(engine, seqs > 0);
    if (engine->offload) offload_turn(engine->offload);
}

static void before_sleep(uv_prepare_t *prepare)
{
    struct engine *engine = prepare->data;
    uv_prepare_stop(prepare);
    step_plan(engine);
    engine->conf.callbacks->on_turn(engine->conf.owner);
}

static void engine_dirty(struct engine *engine)
{
    if (!uv_is_active((uv_handle_t *)&engine->prepare)) uv_prepare_start(&engine->prepare, before_sleep);
}

/* Nothing of the step was computed: it is planned again without the bad pages. */
static void pages_drop(struct engine *engine, const struct done_view *done)
{
    uint32_t bad_count = done->header->bad_count;
    if (engine->offload) offload_abandon(engine->offload);
    int dropped = sched_corrupt(engine->sched, 0, clock_mono_ns(), done->bads, bad_count);
    engine->conf.callbacks->on_corrupt(engine->conf.owner, bad_count, (uint32_t)dropped);
}

/* Full pages go to the tier as well, and what a prompt's rows cost tells whether fetching pays. */
static void step_offload(struct engine *engine, const struct done_view *done, uint32_t prefill_rows)
{
    for (uint32_t i = 0; i < done->header->seal_count; i++)
        offload_sealed(engine->offload, done->seals[i].page_idx);
    if (prefill_rows > 0)
        offload_computed(engine->offload, engine->step.token_count, done->header->forward_ns);
}

static int completion_take(struct engine *engine, size_t bytes, struct err *err)
{
    struct done_view done;
    int r = done_verify(engine->done_bytes, bytes, &engine->limits, &engine->plan, &done, err);
    if (r < 0) return r;
    if (done.header->bad_count > 0) {
        pages_drop(engine, &done);
        return 0;
    }
    if (done.header->status < 0)
        return ERR(err, done.header->status, "its step failed: %s", err_name(done.header->status));
    engine->done_ns = clock_mono_ns();
    engine->step = (struct engine_step){
        .seq_count = done.header->seq_count,
        .token_count = engine->plan.header->token_count,
        .step_ns = done.header->step_ns,
        .forward_ns = done.header->forward_ns,
        .sample_ns = done.header->sample_ns,
    };
    struct sched_step planned;
    sched_last_step(engine->sched, 0, &planned);
    engine->step.prefill_count = planned.prefill_rows;
    engine->step.predicted_ns = planned.predicted_ns;
    int count = sched_complete(engine->sched, 0, engine->done_ns, &done, engine->events);
    if (count < 0) return ERR(err, count, "a page or sequence that was not asked for");
    if (engine->offload) step_offload(engine, &done, planned.prefill_rows);
    for (int i = 0; i < count; i++) {
        engine->step.sampled_count += engine->events[i].kind == SCHED_TOKEN;
        if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
        engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], done.tops);
    }
    return 0;
}

static void completions_pop(struct engine *engine)
{
    size_t bytes;
    for (;;) {
        struct err err = {0};
        int r = link_done_pop(group_link(engine->group), engine->done_bytes, engine->done_bytes_max, &bytes);
        if (r == -EAGAIN) return;
        if (r == 0 && !sched_in_flight(engine->sched, 0)) r = ERR_PEER; // an answer nobody asked for
        if (r == 0) r = completion_take(engine, bytes, &err);
        if (r < 0) {
            group_step_end(engine->group);
            group_kill(engine->group, err.text[0] ? err.text : err_name(r));
            return;
        }
        group_step_done(engine->group);
        engine_dirty(engine);
    }
}

/* ---- the group's callbacks ---- */

/* Nothing is planned before a worker is ready, so that no adopted page is read before this. A build may also be replaced
 * while we live: then sequences compute anew what the one before had computed. */
static void producer_take(struct engine *engine, uint64_t producer)
{
    uint32_t pool_count = 0, tier_count = 0;
    if (pool_producer(engine->pool) != producer) {
        if (engine->offload) offload_abandon(engine->offload);
        pool_count = sched_forget(engine->sched, clock_mono_ns());
        CHECK(pool_sealed_count(engine->pool) == 0);
        pool_stamp(engine->pool, producer);
    }
    if (engine->offload) tier_count = offload_begin(engine->offload, producer);
    if (pool_count + tier_count > 0)
        engine->conf.callbacks->on_foreign(engine->conf.owner, pool_count, tier_count);
}

static void group_ready(void *owner)
{
    struct engine *engine = owner;
    uint64_t producer = group_producer(engine->group);
    if (producer == 0) { // a worker of this layout of the link says it
        group_kill(engine->group, "no word on the bits of its kernels");
        return;
    }
    producer_take(engine, producer);
    engine->ever_ready = true;
    engine->conf.callbacks->on_ready(engine->conf.owner);
    engine_dirty(engine);
}

static void group_progress(void *owner, uint32_t permille)
{
    struct engine *engine = owner;
    engine->conf.callbacks->on_progress(engine->conf.owner, permille);
}

static void group_done(void *owner)
{
    completions_pop(owner);
}

static void step_lost(struct engine *engine)
{
    int count = sched_lost(engine->sched, 0, clock_mono_ns(), engine->events);
    for (int i = 0; i < count; i++) {
        if (!sched_has(engine->sched, engine->events[i].seq_id)) continue; // removed by an earlier event
        engine->conf.callbacks->on_event(engine->conf.owner, &engine->events[i], NULL);
    }
}

static void group_lost(void *owner, const char *reason)
{
    struct engine *engine = owner;
    completions_pop(engine); // what it finished before it died counts
    if (sched_in_flight(engine->sched, 0)) step_lost(engine);
    sched_distrust(engine->sched, 0);
    if (group_is_wild(engine->group)) {
        sched_refill(engine->sched);
        if (engine->offload) offload_abandon(engine->offload); // what is read was compared already
    }
    step_report(engine, false);
    engine->conf.callbacks->on_turn(engine->conf.owner);
    engine->conf.callbacks->on_lost(engine->conf.owner, reason);
}

static void group_failed(void *owner, int exit_status, const char *reason)
{
    struct engine *engine = owner;
    engine->conf.callbacks->on_failed(engine->conf.owner, exit_status, reason);
}

static void group_stopped(void *owner)
{
    struct engine *engine = owner;
    engine->conf.callbacks->on_stopped(engine->conf.owner);
}

static const struct group_callbacks group_callbacks = {
    .on_ready = group_ready,
    .on_progress = group_progress,
    .on_done = group_done,
    .on_lost = group_lost,
    .on_failed = group_failed,
    .on_stopped = group_stopped,
};

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

static int pool_open(struct engine *engine, struct engine_found *found, struct err *err)
{
    const struct model_facts *facts = &engine->conf.facts;
    engine->geometry = (struct pool_geometry){
        .page_tokens = PAGE_TOKENS,
        .rank_count = engine->conf.rank_count,
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
    int r = engine_tier_open(conf->cache_file, conf->cache_file_bytes, &engine->geometry, &offload.tier,
                             engine->tier_note, sizeof engine->tier_note, err);
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
    if (r == 0) r = plan_writer_new(&engine->limits, &engine->writer);
    engine->done_bytes_max = done_bytes_max(&engine->limits);
    engine->plan_bytes = malloc(plan_bytes_max(&engine->limits));
    engine->done_bytes = malloc(engine->done_bytes_max);
    engine->events = calloc(2 * (size_t)conf->sched.seqs_max, sizeof *engine->events);
    if (r == 0 && (!engine->plan_bytes || !engine->done_bytes || !engine->events)) r = -ENOMEM;
    if (r < 0) return ERR(err, r, "out of memory");
    struct exchange_shape shape = exchange_shape_of(&engine->limits, conf->rank_count);
    shape.embedding_dims = conf->facts.embedding_dims;
    shape.attention_dims = conf->facts.head_count * conf->facts.head_dims;
    shape.feed_forward_dims = conf->facts.feed_forward_dims;
    struct group_conf group = {
        .loop = conf->loop,
        .instance = engine->instance,
        .worker_path = conf->worker_path,
        .model_path = conf->model_path,
        .rank_count = conf->rank_count,
        .shape = shape,
        .threads = conf->threads,
        .pin_threads = conf->pin_threads,
        .private_weights = conf->private_weights,
        .epoch = conf->sched.epoch,
        .limits = engine->limits,
        .stall_ns_max = conf->stall_ns_max,
        .callbacks = &group_callbacks,
        .owner = engine,
    };
    return group_new(&group, &engine->group, err);
}

int engine_new(const struct engine_conf *conf, struct engine **ret_engine, struct engine_found *ret_found,
               struct err *err)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return ERR(err, -ENOMEM, "out of memory");
    engine->conf = *conf;
    engine->lock_fd = -1;
    engine->instance = strdup(conf->instance);
    int r = engine->instance ? 0 : ERR(err, -ENOMEM, "out of memory");
    if (r == 0) r = segment_lock(conf->instance, &engine->lock_fd, err);
    if (r < 0) goto fail;
    r = pool_open(engine, ret_found, err);
    if (r == 0) r = parts_make(engine, err);
    if (r < 0) goto fail;
    (void)uv_prepare_init(conf->loop, &engine->prepare); // neither can fail
    (void)uv_timer_init(conf->loop, &engine->deadline);
    engine->prepare.data = engine->deadline.data = engine;
    engine->deadline_ns = UINT64_MAX;
    engine->handles_open = 2;
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
    return group_start(engine->group, err);
}

void engine_stop(struct engine *engine)
{
    group_stop(engine->group);
}

/* Memory and names, once nothing of libuv refers to the engine. */
static void engine_release(struct engine *engine)
{
    void (*on_freed)(void *) = engine->on_freed;
    void *owner = engine->conf.owner;
    plan_writer_free(engine->writer);
    sched_free(engine->sched);
    prefix_free(engine->prefix);
    if (engine->lock_fd >= 0) {
        bool keep = engine->conf.cache_keep || (engine->home.adopted && !engine->ever_ready);
        if (keep) pool_home_keep(&engine->home, engine->instance);
        else pool_home_remove(&engine->home, engine->instance);
        segment_unlock(engine->instance, engine->lock_fd); // the last name
    }
    free(engine->plan_bytes);
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

static void group_freed(void *owner)
{
    struct engine *engine = owner;
    uv_close((uv_handle_t *)&engine->prepare, handle_closed);
    uv_close((uv_handle_t *)&engine->deadline, handle_closed);
}

static void offload_freed(void *arg)
{
    struct engine *engine = arg;
    engine->offload = NULL;
    if (engine->group) group_free(engine->group, group_freed);
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
    deadline_arm(engine);
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
    return group_state(engine->group) == GROUP_READY;
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
        .restarts = group_restarts(engine->group),
        .worker_pid = group_pid(engine->group),
    };
    sched_stats(engine->sched, &ret_stats->sched);
    ret_stats->has_tier = engine->offload != NULL;
    if (engine->offload) offload_stats(engine->offload, &ret_stats->offload);
}

void engine_worker_note(const struct engine *engine, char *text, size_t text_bytes)
{
    group_note(engine->group, text, text_bytes);
}

const char *engine_tier_note(const struct engine *engine)
{
    return engine->tier_note;
}
