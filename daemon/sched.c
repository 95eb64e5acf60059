/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/sched.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"
#include "daemon/sched_state.h"

enum { PLAN_PAGES_MAX = 1 << 20, PLAN_HISTORY_MAX = 1 << 20, PLAN_BIASES_MAX = 1 << 14 };

static uint32_t min_u64(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

void sched_plan_limits(const struct sched_conf *conf, const struct pool_geometry *geometry,
                       uint32_t vocab_count, struct plan_limits *ret_limits)
{
    uint64_t seq_pages = sched_pages_for(conf->model_len_max);
    *ret_limits = (struct plan_limits){
        .seqs_max = conf->seqs_max,
        .tokens_max = conf->tokens_max,
        .pages_max = min_u64(conf->seqs_max * seq_pages,
                             seq_pages > PLAN_PAGES_MAX ? seq_pages : PLAN_PAGES_MAX),
        .history_max = min_u64((uint64_t)conf->seqs_max * conf->model_len_max,
                               conf->model_len_max > PLAN_HISTORY_MAX ? conf->model_len_max
                                                                      : PLAN_HISTORY_MAX),
        .biases_max = min_u64((uint64_t)conf->seqs_max * LOGIT_BIAS_MAX, PLAN_BIASES_MAX),
        .pool_pages = geometry->page_count,
        .vocab_count = vocab_count,
        .page_tokens = PAGE_TOKENS,
        .rank_count = geometry->rank_count,
    };
}

/* Pages of a table: of the longest sequence there can be, in an odd number of cache lines, so that the fronts of tables
 * are not all in the same few sets of a cache. */
static uint32_t table_pages(const struct sched *sched)
{
    enum { LINE = CACHELINE_BYTES / sizeof(struct plan_page) };
    uint32_t pages = sched_pages_for(sched->conf.model_len_max),
             pool_pages = pool_geometry(sched->pool)->page_count;
    if (pages > pool_pages) pages = pool_pages; // sched_submit
    return ((pages + LINE - 1) / LINE | 1) * LINE;
}

int sched_new(const struct sched_conf *conf, struct pool *pool, struct prefix *prefix,
              struct sched **ret_sched)
{
    CHECK(conf->seqs_max > 0 && conf->tokens_max >= conf->seqs_max && conf->model_len_max > 1);
    struct sched *sched = calloc(1, sizeof *sched);
    if (!sched) return -ENOMEM;
    sched->conf = *conf;
    if (sched->conf.ageing_ns == 0) sched->conf.ageing_ns = SCHED_AGEING_NS;
    sched->pool = pool;
    sched->prefix = prefix;
    /* Holders of a slot: running, waiting, and running ones that were preempted into a full queue. */
    sched->slot_count = 2 * conf->seqs_max + conf->queue_max;
    sched->waiting = sched->running = (struct seq_list){SEQ_NONE, SEQ_NONE, 0};
    sched->seqs = huge_calloc(sched->slot_count, sizeof *sched->seqs);
    sched->table_pages = table_pages(sched);
    sched->tables = huge_alloc(conf->seqs_max, sched->table_pages * sizeof *sched->tables);
    sched->tables_free = calloc(conf->seqs_max, sizeof *sched->tables_free);
    sched->found = calloc(sched->table_pages, sizeof *sched->found);
    sched->walk = calloc(conf->seqs_max, sizeof *sched->walk);
    sched->wanting = calloc(2 * (size_t)conf->seqs_max, sizeof *sched->wanting);
    sched->stirs = calloc(conf->seqs_max, sizeof *sched->stirs);
    sched->page_marks = calloc(pool_geometry(pool)->page_count, sizeof *sched->page_marks);
    sched->bads = calloc(pool_geometry(pool)->page_count, sizeof *sched->bads);
    sched->bad_marks = calloc(pool_geometry(pool)->page_count, sizeof *sched->bad_marks);
    int r = sched_groups_init(sched);
    if (r == 0) r = slot_heap_init(&sched->ready, sched->slot_count);
    if (r == 0) r = slot_heap_init(&sched->deadlines, sched->slot_count);
    if (r == 0) r = sched_share_init(sched);
    if (r == 0) r = checks_new(pool, sched->conf.group_count, &sched->checks);
    if (r < 0 || !sched->seqs || !sched->walk || !sched->page_marks || !sched->bads || !sched->bad_marks ||
        !sched->tables || !sched->tables_free || !sched->found || !sched->wanting || !sched->stirs) {
        sched_free(sched);
        return -ENOMEM;
    }
    for (uint32_t slot = 0; slot < sched->slot_count; slot++)
        sched->seqs[slot].next = slot + 1 < sched->slot_count ? slot + 1 : SEQ_NONE;
    for (uint32_t i = 0; i < conf->seqs_max; i++) sched->tables_free[i] = conf->seqs_max - 1 - i;
    *ret_sched = sched;
    return 0;
}

static void seq_free_memory(struct seq *seq)
{
    free(seq->tokens);
    free(seq->keys);
    free(seq->biases);
    free(seq->retains);
    seq->tokens = NULL;
    seq->keys = NULL;
    seq->biases = NULL;
    seq->retains = NULL;
}

void sched_free(struct sched *sched)
{
    if (!sched) return;
    for (uint32_t slot = 0; sched->seqs && slot < sched->slot_count; slot++)
        seq_free_memory(&sched->seqs[slot]);
    slot_heap_done(&sched->ready);
    slot_heap_done(&sched->deadlines);
    free(sched->promises);
    free(sched->page_marks);
    free(sched->bads);
    free(sched->bad_marks);
    free(sched->groups);
    checks_free(sched->checks);
    free(sched->tables);
    free(sched->tables_free);
    free(sched->found);
    free(sched->walk);
    free(sched->wanting);
    free(sched->stirs);
    free(sched->seqs);
    free(sched);
}

/* ---- lists and states ---- */

static struct seq_list *list_of(struct sched *sched, enum seq_state state)
{
    return state == SEQ_WAITING ? &sched->waiting : &sched->running;
}

static void list_remove(struct sched *sched, struct seq_list *list, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    *(seq->previous == SEQ_NONE ? &list->first : &sched->seqs[seq->previous].next) = seq->next;
    *(seq->next == SEQ_NONE ? &list->last : &sched->seqs[seq->next].previous) = seq->previous;
    list->count--;
}

/* After `previous`, or at the front when that is SEQ_NONE. */
static void list_insert(struct sched *sched, struct seq_list *list, uint32_t slot, uint32_t previous)
{
    struct seq *seq = &sched->seqs[slot];
    seq->previous = previous;
    seq->next = previous == SEQ_NONE ? list->first : sched->seqs[previous].next;
    *(seq->previous == SEQ_NONE ? &list->first : &sched->seqs[seq->previous].next) = slot;
    *(seq->next == SEQ_NONE ? &list->last : &sched->seqs[seq->next].previous) = slot;
    list->count++;
}

/* Whoever comes in is most often the least urgent of those that run: the search begins at the end. */
static void running_insert(struct sched *sched, uint32_t slot)
{
    uint32_t previous = sched->running.last;
    while (previous != SEQ_NONE && sched_seq_before(&sched->seqs[slot], &sched->seqs[previous]))
        previous = sched->seqs[previous].previous;
    list_insert(sched, &sched->running, slot, previous);
}

static bool edge_exists(enum seq_state from, enum seq_state to)
{
#define X(a, b, why) \
    if (from == SEQ_##a && to == SEQ_##b) return true;
    SEQ_EDGES(X)
#undef X
    return false;
}

void sched_table_take(struct sched *sched, struct seq *seq)
{
    CHECK(sched->running.count < sched->conf.seqs_max);
    CHECK(!seq->pages);
    uint32_t table = sched->tables_free[sched->running.count];
    seq->pages = sched->tables + (size_t)table * sched->table_pages;
}

static void table_give(struct sched *sched, struct seq *seq)
{
    sched->tables_free[sched->running.count] = (uint32_t)((size_t)(seq->pages - sched->tables) /
                                                          sched->table_pages);
    seq->pages = NULL;
}

static void seq_leave(struct sched *sched, uint32_t slot)
{
    struct seq *seq = &sched->seqs[slot];
    if (seq->state == SEQ_UNUSED) {
        sched->free_first = seq->next;
        return;
    }
    list_remove(sched, list_of(sched, seq->state), slot);
    if (seq->state == SEQ_WAITING) {
        slot_heap_remove(&sched->ready, slot);
        sched_share_leave(sched, slot);
    } else {
        sched_share_break(sched, slot);
        sched->running_paused -= seq->paused;
        sched->pages_owed -= seq->owed;
        sched->groups[seq->group].running_count--;
        seq->owed = 0;
        CHECK(seq->page_count == 0);
        table_give(sched, seq);
    }
}

void sched_seq_move(struct sched *sched, uint32_t slot, enum seq_state to)
{
    struct seq *seq = &sched->seqs[slot];
    CHECK(edge_exists(seq->state, to));
    seq_leave(sched, slot);
    seq->place_lost_count += seq->state == SEQ_RUNNING && to == SEQ_WAITING;
    seq->state = to;
    if (to == SEQ_WAITING) {
        list_insert(sched, &sched->waiting, slot, sched->waiting.last);
        if (!seq->paused) slot_heap_push(&sched->ready, slot, seq->due_ns, seq->order);
    } else if (to == SEQ_RUNNING) {
        CHECK(seq->pages); // sched_table_take
        running_insert(sched, slot);
        sched->groups[seq->group].running_count++;
        sched->running_paused += seq->paused;
        sched_seq_owe(sched, seq);
        sched_share_begin(sched, slot);
    } else {
        seq->next = sched->free_first;
        sched->free_first = slot;
    }
}

void sched_seq_pause(struct sched *sched, uint32_t slot, bool paused)
{
    struct seq *seq = &sched->seqs[slot];
    if (seq->paused == paused) return;
    seq->paused = paused;
    if (seq->state == SEQ_RUNNING) {
        sched->running_paused += paused ? 1 : UINT32_MAX; // - 1
        if (paused) sched_share_break(sched, slot);
        else sched_share_begin(sched, slot);
    } else if (paused) {
        sched_share_leave(sched, slot);
        slot_heap_remove(&sched->ready, slot);
    } else {
        slot_heap_push(&sched->ready, slot, seq->due_ns, seq->order);
    }
}

struct hash128 sched_seq_key(struct seq *seq, uint32_t page)
{
    CHECK((page + 1) * PAGE_TOKENS <= seq->token_count);
    for (uint32_t i = seq->key_count; i <= page; i++) {
        struct hash128 parent = i ? seq->keys[i - 1] : seq->root_key;
        seq->keys[i] = prefix_key(parent, sched_seq_page(seq, i));
        seq->key_count = i + 1;
    }
    return seq->keys[page];
}

/* ---- life of a sequence ---- */

bool sched_queue_full(const struct sched *sched)
{
    return sched->waiting.count >= sched->conf.queue_max || sched->free_first == SEQ_NONE;
}

static int32_t priority_clamp(int32_t priority)
{
    if (priority > SCHED_PRIORITY_MAX) return SCHED_PRIORITY_MAX;
    return priority < -SCHED_PRIORITY_MAX ? -SCHED_PRIORITY_MAX : priority;
}

static int seq_fill(struct seq *seq, const struct sched_request *request)
{
    uint32_t tokens_max = request->prompt_count + request->output_max;
    *seq = (struct seq){
        .state = seq->state,
        .generation = seq->generation == UINT32_MAX ? 1 : seq->generation + 1, // an id is never 0
        .next = seq->next,
        .owner = request->owner,
        .params = {SEQ_PARAMS_FROM(&request->params)},
        .bias_count = request->bias_count,
        .retain_count = request->retain_count,
        .min_output = request->min_output,
        .min_bias_count = request->min_bias_count,
        .use_history = request->use_history,
        .score_prompt = request->score_prompt,
        .token_count = request->prompt_count,
        .prompt_count = request->prompt_count,
        .token_cap = tokens_max,
        .last_token = request->prompt[request->prompt_count - 1],
        .page_cap = sched_pages_for(tokens_max),
        .root_key = request->root_key,
        .tenant = request->tenant,
        .priority = priority_clamp(request->priority),
        .deadline_ns = request->deadline_ns,
        .held_by = SEQ_NONE,
        .held_first = SEQ_NONE,
        .tail_page = PAGE_NONE,
    };
    seq->tokens = malloc(tokens_max * sizeof *seq->tokens);
    seq->keys = malloc(seq->page_cap * sizeof *seq->keys);
    seq->biases = malloc((request->bias_count + 1u) * sizeof *seq->biases);
    seq->retains = malloc((request->retain_count + 1u) * sizeof *seq->retains);
    if (!seq->tokens || !seq->keys || !seq->biases || !seq->retains) {
        seq_free_memory(seq);
        return -ENOMEM;
    }
    memcpy(seq->tokens, request->prompt, request->prompt_count * sizeof *seq->tokens);
    uint32_t tail = (request->prompt_count - 1) / TAIL_TOKENS * TAIL_TOKENS;
    memcpy(seq->tail, request->prompt + tail, (request->prompt_count - tail) * sizeof *seq->tail);
    if (request->bias_count) memcpy(seq->biases, request->biases, request->bias_count * sizeof *seq->biases);
    for (uint32_t i = 0; i < request->retain_count; i++) seq->retains[i] = request->retains[i];
    return 0;
}

int sched_submit(struct sched *sched, const struct sched_request *request, uint64_t *ret_seq_id)
{
    if (request->prompt_count == 0 || request->output_max == 0) return ERR_INPUT;
    uint64_t tokens_max = (uint64_t)request->prompt_count + request->output_max;
    if (tokens_max > sched->conf.model_len_max) return ERR_LIMIT;
    if (sched_pages_for((uint32_t)tokens_max) > pool_geometry(sched->pool)->page_count) return ERR_LIMIT;
    if (request->bias_count > LOGIT_BIAS_MAX || request->min_bias_count > request->bias_count)
        return ERR_LIMIT;
    if (request->retain_count > RETAIN_RANGES_MAX) return ERR_LIMIT;
    if (sched_queue_full(sched)) return ERR_FULL;
    uint32_t slot = sched->free_first;
    struct seq *seq = &sched->seqs[slot];
    int r = seq_fill(seq, request);
    if (r < 0) return r;
    seq->due_ns = (int64_t)request->arrival_ns + seq->priority * (int64_t)sched->conf.ageing_ns;
    seq->order = sched->submitted++;
    if (seq->deadline_ns) slot_heap_push(&sched->deadlines, slot, (int64_t)seq->deadline_ns, seq->order);
    sched_seq_move(sched, slot, SEQ_WAITING);
    *ret_seq_id = sched_seq_id(sched, slot);
    return 0;
}

void sched_seq_release_tail(struct sched *sched, struct seq *seq, uint64_t now_ns)
{
    if (seq->tail_page != PAGE_NONE) prefix_release(sched->prefix, seq->tail_page, now_ns);
    seq->tail_page = PAGE_NONE;
}

void sched_seq_release_pages(struct sched *sched, struct seq *seq, uint64_t now_ns)
{
    enum { AHEAD = 6 };
    CHECK(seq->rows_in_flight == 0); // a worker reads and writes them
    uint32_t sealed = seq->computed / PAGE_TOKENS;
    struct retain_hint hint = {.level = 0};
    sched_seq_release_tail(sched, seq, now_ns);
    /* Last first: a chain leaves the cache from its end, and what keeps a page keeps all above it. */
    for (uint32_t i = seq->page_count; i-- > 0;) {
        if (i >= 2 * AHEAD && i - 2 * AHEAD < sealed)
            __builtin_prefetch(pool_desc(sched->pool, seq->pages[i - 2 * AHEAD].page_idx), 1);
        if (i >= AHEAD && i - AHEAD < sealed)
            prefix_release_prefetch(sched->prefix, seq->pages[i - AHEAD].page_idx);
        if (i < sealed) {
            uint32_t at = i * PAGE_TOKENS;
            hint = retain_hint_join(hint,
                                    retain_hint_at(seq->retains, seq->retain_count, at, at + PAGE_TOKENS));
            prefix_release_as(sched->prefix, seq->pages[i].page_idx, now_ns, seq->tenant, hint);
        } else {
            pool_drop(sched->pool, seq->pages[i].page_idx);
        }
    }
    seq->page_count = 0;
    seq->computed = 0;
    seq->checked_count = 0;
}

void sched_seq_end(struct sched *sched, uint32_t slot, uint64_t now_ns)
{
    struct seq *seq = &sched->seqs[slot];
    sched_seq_release_pages(sched, seq, now_ns);
    slot_heap_remove(&sched->deadlines, slot);
    sched_seq_move(sched, slot, SEQ_UNUSED); // breaks promises, for which it needs the keys
    seq_free_memory(seq);
}

void sched_remove(struct sched *sched, uint64_t seq_id, uint64_t now_ns)
{
    struct seq *seq = sched_seq_find(sched, seq_id);
    if (!seq || seq->removed) return;
    if (seq->rows_in_flight) seq->removed = true; // the worker may be writing its pages
    else sched_seq_end(sched, (uint32_t)seq_id, now_ns);
}

void sched_pause(struct sched *sched, uint64_t seq_id, bool paused)
{
    const struct seq *seq = sched_seq_find(sched, seq_id);
    if (seq && !seq->expired) sched_seq_pause(sched, (uint32_t)seq_id, paused);
}

bool sched_has(const struct sched *sched, uint64_t seq_id)
{
    const struct seq *seq = sched_seq_find(sched, seq_id);
    return seq && !seq->removed;
}

void sched_seq_info(const struct sched *sched, uint64_t seq_id, struct sched_seq_info *ret_info)
{
    const struct seq *seq = sched_seq_find(sched, seq_id);
    *ret_info = (struct sched_seq_info){0};
    if (!seq) return;
    *ret_info = (struct sched_seq_info){
        .prompt_count = seq->prompt_count,
        .output_count = seq->token_count - seq->prompt_count,
        .cached_count = seq->cached_count,
        .running = seq->state == SEQ_RUNNING,
        .admitted = seq->admitted,
        .admitted_ns = seq->admitted_ns,
    };
}

void sched_stats(const struct sched *sched, struct sched_stats *ret_stats)
{
    *ret_stats = (struct sched_stats){
        .running_count = sched->running.count,
        .waiting_count = sched->waiting.count,
        .prefix_queries = sched->prefix_queries,
        .prefix_hits = sched->prefix_hits,
        .preemptions = sched->preemptions,
        .expired = sched->expired,
        .held_count = sched->held_count,
        .prompt_tokens_computed = sched->prompt_tokens_computed,
        .steps = sched->step,
        .pages_checked = checks_count(sched->checks) + sched->pages_corrupt,
        .pages_corrupt = sched->pages_corrupt,
        .moves = sched->moves,
    };
}
