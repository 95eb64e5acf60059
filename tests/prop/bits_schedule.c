/* SPDX-License-Identifier: Apache-2.0 */
/* bits_schedule - see bits_schedule.h. A sequence's tokens are fixed from the start (its logits do not choose
 * them), so what a page holds is told by whose it was first and how many of its positions are written: the tokens
 * of that sequence up to there. */
#include "tests/prop/bits_schedule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/shm/pool.h"
#include "worker/model.h"

enum {
    NOBODY = -1,
    LIVES_MAX = 3,
    THREADS_MAX = 4,
    DISTURBANCES_MAX = 100, // random preemptions and evictions: without hits a long sequence would never end
    STEPS_MAX = 100000,
};

struct sequence {
    uint32_t len;
    uint32_t *tokens; // owned; (len)
    float *expected;  // owned; (len, vocab_count), the yardstick
    uint32_t lives;   // times that it still is to be computed from its beginning
    bool running;
    uint32_t computed; // positions whose keys are in its pages
    uint32_t *pages;   // owned; (page_count of pages_a_seq)
    uint32_t page_count;
    uint32_t hit, copied; // positions it began with: of shared pages, of a copied one
};

struct page {
    uint32_t holders;
    int writer;       // sequence whose tokens it holds, or NOBODY: free
    uint32_t number;  // positions [number * PAGE_TOKENS, + written) of the writer
    uint32_t written; // positions
};

struct schedule {
    struct schedule_conf conf;
    struct rng rng;
    struct model *model;
    struct kern_cache cache; // base owned
    uint32_t threads, rows_max, pages_a_seq;
    bool is_poison_random;
    uint32_t seq_count;
    struct sequence seqs[SCHEDULE_SEQS_MAX];
    struct page *pages; // owned; (cache.page_count)
    /* The step in hand. */
    uint32_t *tokens, *positions, *logit_rows; // owned; (rows_max of the yardstick)
    uint32_t part_count;
    struct kern_seq parts[SCHEDULE_SEQS_MAX];
    uint32_t part_seqs[SCHEDULE_SEQS_MAX]; // whose
    struct schedule_result *result;
};

static uint32_t below(struct schedule *s, uint32_t bound)
{
    return (uint32_t)rng_below(&s->rng, bound);
}

/* Draws in any case, so that a feature left out changes as little as possible of the rest. */
static bool happens(struct schedule *s, uint32_t feature, uint32_t once_in)
{
    bool drawn = below(s, once_in) == 0;
    return drawn && (s->conf.features & feature) != 0;
}

/* ---- pages ---- */

static uint8_t *page_at(const struct schedule *s, uint32_t page)
{
    return (uint8_t *)s->cache.base + (size_t)page * s->cache.page_bytes;
}

/* What nobody wrote must not count: NaN in every float format, or any bytes at all. */
static void poison(struct schedule *s, uint32_t page)
{
    uint8_t *bytes = page_at(s, page);
    memset(bytes, 0xFF, s->cache.page_bytes);
    for (size_t i = 0; s->is_poison_random && i + 8 <= s->cache.page_bytes; i += 8) {
        uint64_t word = rng_next(&s->rng);
        memcpy(bytes + i, &word, sizeof word);
    }
}

static void free_page(struct schedule *s, uint32_t page)
{
    CHECK(s->pages[page].holders == 0);
    s->pages[page] = (struct page){.writer = NOBODY};
    poison(s, page);
}

/* Any page that is free, or (evict) cached and held by nobody; page_count when there is none. */
static uint32_t find_page(struct schedule *s, bool evict)
{
    uint32_t count = s->cache.page_count, start = below(s, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct page *page = &s->pages[(start + i) % count];
        if (page->holders == 0 && (page->writer != NOBODY) == evict) return (start + i) % count;
    }
    return count;
}

/* A page for the next positions of a sequence; false when all are held. */
static bool push_page(struct schedule *s, uint32_t seq_idx)
{
    struct sequence *seq = &s->seqs[seq_idx];
    uint32_t page = find_page(s, false);
    if (page == s->cache.page_count) {
        page = find_page(s, true);
        if (page == s->cache.page_count) return false;
        free_page(s, page);
        s->result->evictions++;
    }
    CHECK(seq->page_count < s->pages_a_seq);
    s->pages[page] = (struct page){.holders = 1, .writer = (int)seq_idx, .number = seq->page_count};
    seq->pages[seq->page_count++] = page;
    return true;
}

/* What it wrote stays cached. */
static void leave_pages(struct schedule *s, struct sequence *seq)
{
    for (uint32_t i = 0; i < seq->page_count; i++) {
        struct page *page = &s->pages[seq->pages[i]];
        CHECK(page->holders > 0);
        page->holders--;
        if (page->holders == 0 && page->written == 0) free_page(s, seq->pages[i]);
    }
    seq->page_count = 0;
    seq->running = false;
}

static uint32_t common_prefix(const struct sequence *a, const struct sequence *b)
{
    uint32_t i = 0;
    while (i < a->len && i < b->len && a->tokens[i] == b->tokens[i]) i++;
    return i;
}

/* Positions of page `page` that hold what seq needs as its page `number`. */
static uint32_t usable(const struct schedule *s, const struct sequence *seq, uint32_t page, uint32_t number)
{
    const struct page *p = &s->pages[page];
    if (p->writer == NOBODY || p->number != number) return 0;
    uint32_t common = common_prefix(&s->seqs[p->writer], seq), first = number * PAGE_TOKENS;
    if (common <= first) return 0;
    return common - first < p->written ? common - first : p->written;
}

/* The page with the most usable positions; page_count when none has any. */
static uint32_t find_usable(struct schedule *s, const struct sequence *seq, uint32_t number,
                            uint32_t *ret_count)
{
    uint32_t best = s->cache.page_count, start = below(s, s->cache.page_count);
    *ret_count = 0;
    for (uint32_t i = 0; i < s->cache.page_count; i++) {
        uint32_t page = (start + i) % s->cache.page_count, count = usable(s, seq, page, number);
        if (count > *ret_count) {
            *ret_count = count;
            best = page;
        }
    }
    return best;
}

/* A hit that ends inside a page: its positions so far are copied, the rest of the copy is another's. */
static void copy_tail(struct schedule *s, uint32_t seq_idx, uint32_t from, uint32_t count)
{
    struct sequence *seq = &s->seqs[seq_idx];
    s->pages[from].holders++; // not evicted for the copy
    if (push_page(s, seq_idx)) {
        uint32_t to = seq->pages[seq->page_count - 1];
        memcpy(page_at(s, to), page_at(s, from), s->cache.page_bytes);
        s->pages[to].written = count;
        seq->computed += count;
        seq->copied = count;
        s->result->tail_copies++;
    }
    s->pages[from].holders--;
}

/* Begins a sequence with what is cached of it; at least its last position is computed. */
static void admit(struct schedule *s, uint32_t seq_idx)
{
    struct sequence *seq = &s->seqs[seq_idx];
    uint32_t count, page;
    seq->running = true;
    seq->computed = seq->copied = 0;
    for (;;) {
        page = find_usable(s, seq, seq->page_count, &count);
        if (count < PAGE_TOKENS || seq->computed + PAGE_TOKENS >= seq->len) break;
        if (!happens(s, SCHEDULE_HITS, 1) || below(s, 12) == 0) break;
        s->pages[page].holders++;
        seq->pages[seq->page_count++] = page;
        seq->computed += PAGE_TOKENS;
        s->result->page_hits++;
    }
    seq->hit = seq->computed;
    if (seq->computed + count >= seq->len) count = seq->len - 1 - seq->computed;
    if (count > 1 && below(s, 2)) count = 1 + below(s, count);
    if (count > 0 && count < PAGE_TOKENS && happens(s, SCHEDULE_TAILS, 1)) copy_tail(s, seq_idx, page, count);
}

/* ---- a step ---- */

static bool is_in_step(const struct schedule *s, uint32_t seq_idx)
{
    for (uint32_t i = 0; i < s->part_count; i++)
        if (s->part_seqs[i] == seq_idx) return true;
    return false;
}

/* Of a higher number only, so that the lowest always gets on. */
static bool preempt_other(struct schedule *s, uint32_t seq_idx)
{
    for (uint32_t other = s->seq_count - 1; other > seq_idx; other--) {
        if (!s->seqs[other].running || is_in_step(s, other)) continue;
        leave_pages(s, &s->seqs[other]);
        s->result->preemptions++;
        return true;
    }
    return false;
}

/* Pages for `rows` more positions, or for fewer; returns for how many. */
static uint32_t grow(struct schedule *s, uint32_t seq_idx, uint32_t rows)
{
    struct sequence *seq = &s->seqs[seq_idx];
    while (seq->page_count * PAGE_TOKENS < seq->computed + rows) {
        if (!push_page(s, seq_idx) && !preempt_other(s, seq_idx)) break;
    }
    uint32_t room = seq->page_count * PAGE_TOKENS - seq->computed;
    return rows < room ? rows : room;
}

static uint32_t draw_rows(struct schedule *s, const struct sequence *seq, uint32_t room)
{
    uint32_t left = seq->len - seq->computed, kind = below(s, 4), drawn = 1 + below(s, left);
    if (kind == 0) drawn = 1;
    else if (kind == 1) drawn = 1 + below(s, PAGE_TOKENS);
    if (!(s->conf.features & SCHEDULE_CHUNKS)) drawn = left;
    if (drawn > left) drawn = left;
    return drawn < room ? drawn : room;
}

/* Rows of some of the running sequences, in any order. Returns their number. */
static uint32_t lay_out(struct schedule *s)
{
    uint32_t row_count = 0, start = below(s, s->seq_count), rows_max = 1 + below(s, s->rows_max);
    bool is_backwards = below(s, 2) != 0;
    if (below(s, 2)) rows_max = s->rows_max;
    s->part_count = 0;
    for (uint32_t i = 0; i < s->seq_count && row_count < rows_max; i++) {
        uint32_t seq_idx = (start + (is_backwards ? s->seq_count - i : i)) % s->seq_count;
        struct sequence *seq = &s->seqs[seq_idx];
        if (!seq->running || (s->part_count > 0 && !happens(s, SCHEDULE_COMPANY, 1))) continue;
        if (s->part_count > 0 && below(s, 5) == 0) continue;
        uint32_t rows = grow(s, seq_idx, draw_rows(s, seq, rows_max - row_count));
        if (rows == 0) continue;
        for (uint32_t k = 0; k < rows; k++) {
            s->tokens[row_count + k] = seq->tokens[seq->computed + k];
            s->positions[row_count + k] = seq->computed + k;
        }
        s->part_seqs[s->part_count] = seq_idx;
        s->parts[s->part_count++] = (struct kern_seq){.row_first = row_count,
                                                      .row_count = rows,
                                                      .pos_first = seq->computed,
                                                      .pages = seq->pages,
                                                      .page_count = seq->page_count};
        row_count += rows;
    }
    return row_count;
}

/* Which rows' logits are asked for: all, the last of each sequence, or any. */
static uint32_t choose_logits(struct schedule *s, uint32_t row_count)
{
    uint32_t kind = below(s, 3), count = 0, part = 0;
    for (uint32_t row = 0; row < row_count; row++) {
        while (row >= s->parts[part].row_first + s->parts[part].row_count) part++;
        bool is_last = row + 1 == s->parts[part].row_first + s->parts[part].row_count;
        if (kind == 0 || (kind == 1 && is_last) || (kind == 2 && below(s, 3) == 0))
            s->logit_rows[count++] = row;
    }
    return count;
}

static void describe(struct schedule *s, uint32_t part, uint32_t position, const float *got,
                     const float *expected)
{
    const struct sequence *seq = &s->seqs[s->part_seqs[part]];
    const struct kern_seq *last = &s->parts[s->part_count - 1];
    uint32_t i = 0;
    while (memcmp(&got[i], &expected[i], sizeof(float)) == 0) i++;
    s->result->differs = true;
    (void)snprintf(
        s->result->text, sizeof s->result->text,
        "step %u: position %u of sequence %u (%u tokens, %u from shared pages, %u from a copied one), "
        "computed with its rows [%u, %u) among %u rows of %u sequences on %u threads: logit %u is %.9g "
        "instead of %.9g",
        s->result->steps, position, s->part_seqs[part], seq->len, seq->hit, seq->copied,
        s->parts[part].pos_first, s->parts[part].pos_first + s->parts[part].row_count,
        last->row_first + last->row_count, s->part_count, s->threads, i, (double)got[i], (double)expected[i]);
}

static void compare(struct schedule *s, const float *logits, uint32_t logit_count)
{
    uint32_t vocab = s->conf.facts->vocab_count, part = 0;
    for (uint32_t i = 0; i < logit_count && !s->result->differs; i++) {
        uint32_t row = s->logit_rows[i];
        while (row >= s->parts[part].row_first + s->parts[part].row_count) part++;
        const struct sequence *seq = &s->seqs[s->part_seqs[part]];
        const float *got = logits + (size_t)i * vocab;
        const float *expected = seq->expected + (size_t)s->positions[row] * vocab;
        s->result->logit_rows++;
        if (memcmp(got, expected, vocab * sizeof(float)) != 0)
            describe(s, part, s->positions[row], got, expected);
    }
}

static void advance(struct schedule *s)
{
    for (uint32_t i = 0; i < s->part_count; i++) {
        struct sequence *seq = &s->seqs[s->part_seqs[i]];
        for (uint32_t k = 0; k < s->parts[i].row_count; k++) {
            struct page *page = &s->pages[seq->pages[(seq->computed + k) / PAGE_TOKENS]];
            CHECK(page->holders == 1 || page->written == PAGE_TOKENS);
            page->written = (seq->computed + k) % PAGE_TOKENS + 1;
        }
        seq->computed += s->parts[i].row_count;
        if (seq->computed < seq->len) continue;
        leave_pages(s, seq);
        seq->lives--;
    }
}

static int forward(struct schedule *s, uint32_t row_count, uint32_t logit_count, const float **ret_logits,
                   struct err *err)
{
    const struct kern_batch batch = {.row_count = row_count,
                                     .tokens = s->tokens,
                                     .positions = s->positions,
                                     .seq_count = s->part_count,
                                     .seqs = s->parts};
    return model_forward(s->model, &batch, s->logit_rows, logit_count, ret_logits, err);
}

static int open_model(struct schedule *s, uint32_t rows_max, struct err *err)
{
    const struct model_conf conf = {.ops = s->conf.ops,
                                    .threads = s->threads,
                                    .rows_max = rows_max,
                                    .logits_max = rows_max,
                                    .position_max = s->conf.positions_max,
                                    .cache = s->cache};
    model_close(s->model);
    s->model = NULL;
    return model_open(s->conf.gguf, s->conf.facts, &conf, &s->model, err);
}

/* What may happen between two steps. */
static int disturb(struct schedule *s, struct err *err)
{
    uint32_t any = below(s, s->seq_count), page = find_page(s, true);
    bool may = s->result->preemptions + s->result->evictions < DISTURBANCES_MAX;
    if (happens(s, SCHEDULE_PREEMPTIONS, 16) && may && s->seqs[any].running) {
        leave_pages(s, &s->seqs[any]);
        s->result->preemptions++;
    }
    if (happens(s, SCHEDULE_EVICTIONS, 6) && may && page < s->cache.page_count &&
        s->pages[page].holders == 0) {
        free_page(s, page);
        s->result->evictions++;
    }
    for (uint32_t i = 0; i < s->seq_count; i++) {
        if (!s->seqs[i].running && s->seqs[i].lives > 0 && below(s, 2) == 0) admit(s, i);
    }
    bool restarts = happens(s, SCHEDULE_RESTARTS, 40);
    uint32_t threads = 1 + below(s, THREADS_MAX);
    if (!restarts) return 0;
    if (s->conf.features & SCHEDULE_THREADS) s->threads = threads;
    s->result->restarts++;
    return open_model(s, s->rows_max, err);
}

static int step(struct schedule *s, struct err *err)
{
    const float *logits;
    int r = disturb(s, err);
    if (r < 0) return r;
    uint32_t row_count = lay_out(s);
    if (row_count == 0) return 0;
    uint32_t logit_count = choose_logits(s, row_count);
    r = forward(s, row_count, logit_count, &logits, err);
    if (r < 0) return r;
    compare(s, logits, logit_count);
    s->result->steps++;
    s->result->rows += row_count;
    if (happens(s, SCHEDULE_REPLAYS, 12)) s->result->replays++;
    else advance(s);
    return 0;
}

/* ---- a schedule ---- */

/* One sequence alone, in one chunk, its pages one after the other. */
static int measure(struct schedule *s, struct sequence *seq, struct err *err)
{
    const float *logits;
    for (uint32_t i = 0; i < s->pages_a_seq; i++) {
        seq->pages[i] = i;
        poison(s, i);
    }
    for (uint32_t i = 0; i < seq->len; i++) {
        s->tokens[i] = seq->tokens[i];
        s->positions[i] = s->logit_rows[i] = i;
    }
    s->part_count = 1;
    s->parts[0] = (struct kern_seq){.row_count = seq->len, .pages = seq->pages, .page_count = s->pages_a_seq};
    int r = forward(s, seq->len, seq->len, &logits, err);
    if (r < 0) return r;
    memcpy(seq->expected, logits, (size_t)seq->len * s->conf.facts->vocab_count * sizeof(float));
    return 0;
}

/* Many short ones, a few long ones. */
static uint32_t draw_len(struct schedule *s)
{
    uint32_t kind = below(s, 8), most = s->conf.positions_max;
    if (kind > 0) most = most < 160 ? most : 160;
    if (kind > 2) most = most < 70 ? most : 70;
    return 1 + below(s, most);
}

/* Tokens of sequence i: those of an earlier one up to some position, then its own. */
static int draw_seq(struct schedule *s, uint32_t i)
{
    struct sequence *seq = &s->seqs[i];
    uint32_t vocab = s->conf.facts->vocab_count, model = below(s, i + 1);
    seq->len = draw_len(s);
    seq->lives = 1 + below(s, LIVES_MAX);
    seq->tokens = calloc(seq->len, sizeof *seq->tokens);
    seq->expected = calloc((size_t)seq->len * vocab, sizeof *seq->expected);
    seq->pages = calloc(s->pages_a_seq, sizeof *seq->pages);
    if (!seq->tokens || !seq->expected || !seq->pages) return -ENOMEM;
    uint32_t common = model == i ? 0 : below(s, s->seqs[model].len + 1);
    for (uint32_t k = 0; k < seq->len; k++)
        seq->tokens[k] = k < common ? s->seqs[model].tokens[k] : below(s, vocab);
    return 0;
}

static int make_pool(struct schedule *s)
{
    const struct model_facts *facts = s->conf.facts;
    uint64_t page_bytes = pool_page_bytes((enum kv_type)s->conf.kv_type, facts->layer_count,
                                          facts->head_count_kv, facts->head_dims);
    uint32_t wanted = 0, scarce = s->pages_a_seq + 1 + below(s, 2 * s->pages_a_seq);
    for (uint32_t i = 0; i < s->seq_count; i++) wanted += s->seqs[i].len / PAGE_TOKENS + 2;
    if (wanted <= s->pages_a_seq || (s->conf.features & SCHEDULE_PREEMPTIONS && below(s, 2))) wanted = scarce;
    s->cache = (struct kern_cache){.page_bytes = page_bytes,
                                   .page_count = wanted,
                                   .page_tokens = PAGE_TOKENS,
                                   .layer_count = facts->layer_count,
                                   .head_count_kv = facts->head_count_kv,
                                   .head_dims = facts->head_dims,
                                   .kv_type = s->conf.kv_type};
    if (page_bytes == 0) return ERR_UNSUPPORTED;
    s->cache.base = aligned_alloc(64, (page_bytes * wanted + 63) & ~(uint64_t)63);
    s->pages = calloc(wanted, sizeof *s->pages);
    return s->cache.base && s->pages ? 0 : -ENOMEM;
}

static int prepare(struct schedule *s, struct err *err)
{
    uint32_t len_max = 0;
    int r = 0;
    s->is_poison_random = below(s, 2) != 0;
    s->pages_a_seq = (s->conf.positions_max + PAGE_TOKENS - 1) / PAGE_TOKENS;
    s->seq_count = 1 + below(s, s->conf.seqs_max);
    for (uint32_t i = 0; i < s->seq_count && r == 0; i++) {
        r = draw_seq(s, i);
        if (s->seqs[i].len > len_max) len_max = s->seqs[i].len;
    }
    s->pages_a_seq = (len_max + PAGE_TOKENS - 1) / PAGE_TOKENS;
    if (r == 0) r = make_pool(s);
    s->tokens = calloc(s->conf.positions_max, sizeof *s->tokens);
    s->positions = calloc(s->conf.positions_max, sizeof *s->positions);
    s->logit_rows = calloc(s->conf.positions_max, sizeof *s->logit_rows);
    if (r == 0 && !(s->tokens && s->positions && s->logit_rows)) r = -ENOMEM;
    if (r < 0) return ERR(err, r, "a schedule's memory or page layout");
    s->threads = 1;
    r = open_model(s, len_max, err);
    for (uint32_t i = 0; i < s->seq_count && r == 0; i++) r = measure(s, &s->seqs[i], err);
    if (r < 0) return r;
    for (uint32_t i = 0; i < s->cache.page_count; i++) free_page(s, i);
    uint32_t threads = 1 + below(s, THREADS_MAX), rows_max = 1 + below(s, s->conf.positions_max);
    if (below(s, 2)) rows_max = 1 + rows_max % 64;
    if (s->conf.features & SCHEDULE_THREADS) s->threads = threads;
    s->rows_max = s->conf.features & SCHEDULE_CHUNKS ? rows_max : s->conf.positions_max;
    return open_model(s, s->rows_max, err);
}

static void done(struct schedule *s)
{
    for (uint32_t i = 0; i < SCHEDULE_SEQS_MAX; i++) {
        free(s->seqs[i].tokens);
        free(s->seqs[i].expected);
        free(s->seqs[i].pages);
    }
    model_close(s->model);
    free(s->cache.base);
    free(s->pages);
    free(s->tokens);
    free(s->positions);
    free(s->logit_rows);
}

int schedule_run(const struct schedule_conf *conf, struct schedule_result *ret_result, struct err *err)
{
    CHECK(conf->seqs_max > 0 && conf->seqs_max <= SCHEDULE_SEQS_MAX);
    CHECK(conf->positions_max > 1);
    struct schedule_result result = {0};
    struct schedule s = {.conf = *conf, .rng = {.state = conf->seed}, .result = &result};
    int r = prepare(&s, err);
    uint32_t turns = 0, lives = 1;
    while (r == 0 && lives > 0 && !result.differs) {
        CHECK(turns++ < STEPS_MAX); // every sequence ends
        r = step(&s, err);
        lives = 0;
        for (uint32_t i = 0; i < s.seq_count; i++) lives += s.seqs[i].lives;
    }
    done(&s);
    if (r == 0) *ret_result = result;
    return r;
}
