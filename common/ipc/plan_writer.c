/* SPDX-License-Identifier: Apache-2.0 */
/* plan_writer - builds plans and completions section by section in private memory, sized once from the
 * limits, and moves them together into a slot. No allocation between begin and finish. What a plan is answered against
 * stays in the writer: the slot is the reader's from then on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"
#include "common/ipc/plan.h"
#include "common/ipc/plan_shape.h"

struct table {                     // a piece of the pages section
    const struct plan_page *pages; // borrowed until finish
    uint32_t first, count;         // its place in it
};

struct plan_writer {
    struct plan_limits limits;
    uint64_t step, epoch;
    struct plan_header header; // of the last plan that was finished
    struct plan_counts counts; // pushed so far, each within its limit
    struct plan_seq *seqs;     // owned, (seqs_max)
    uint32_t *tokens;          // owned, (tokens_max)
    struct table *tables;      // owned, (seqs_max); table_count of them, counts.pages entries in all
    uint32_t table_count;
    struct plan_page *filled; // owned, (pages_max): of the pages section what rows fill, see plan_writer_view
    uint32_t *history;        // owned, (history_max)
    struct plan_bias *biases; // owned, (biases_max)
    struct plan_copy *copies; // owned, (seqs_max)
    struct plan_page *checks; // owned, (plan_checks_max)
};

struct done_writer {
    struct done_counts max, counts; // counts within max
    uint64_t step, epoch;
    struct done_seq *seqs;     // owned, (max.seqs)
    struct done_score *scores; // owned, (max.scores)
    struct done_top *tops;     // owned, (max.tops)
    struct done_seal *seals;   // owned, (max.seals)
    struct plan_page *bads;    // owned, (max.bads)
};

/* Appends count elements to a section. -> index of the first, or -ENOSPC. */
static int push(void *section, uint32_t *used, uint32_t max, const void *elements, uint32_t count,
                size_t bytes)
{
    CHECK(*used <= max);
    if (count > max - *used) return -ENOSPC;
    uint32_t first = *used;
    if (count > 0) memcpy((uint8_t *)section + first * bytes, elements, count * bytes);
    *used += count;
    return (int)first; // limits keep every section below 2^31 elements
}

/* Copies a section to its place in the slot and zeroes what is left up to the next one. */
static void put(uint8_t *slot, size_t from, size_t to, const void *section, size_t bytes)
{
    CHECK(bytes <= to - from);
    if (bytes > 0) memcpy(slot + from, section, bytes);
    memset(slot + from + bytes, 0, to - from - bytes);
}

/* malloc(0) may be NULL without being a failure. */
static void *array_new(uint32_t count, size_t bytes)
{
    return malloc(count > 0 ? count * bytes : 1);
}

int plan_writer_new(const struct plan_limits *limits, struct plan_writer **ret_writer)
{
    int r = plan_limits_verify(limits, NULL);
    if (r < 0) return r;
    struct plan_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return -ENOMEM;
    writer->limits = *limits;
    writer->seqs = array_new(limits->seqs_max, sizeof *writer->seqs);
    writer->tokens = array_new(limits->tokens_max, sizeof *writer->tokens);
    writer->tables = array_new(limits->seqs_max, sizeof *writer->tables);
    writer->filled = huge_alloc(limits->pages_max, sizeof *writer->filled);
    writer->history = array_new(limits->history_max, sizeof *writer->history);
    writer->biases = array_new(limits->biases_max, sizeof *writer->biases);
    writer->copies = array_new(limits->seqs_max, sizeof *writer->copies);
    writer->checks = array_new(plan_checks_max(limits), sizeof *writer->checks);
    if (!writer->seqs || !writer->tokens || !writer->tables || !writer->filled || !writer->history ||
        !writer->biases || !writer->copies || !writer->checks) {
        plan_writer_free(writer);
        return -ENOMEM;
    }
    *ret_writer = writer;
    return 0;
}

void plan_writer_free(struct plan_writer *writer)
{
    if (!writer) return;
    free(writer->seqs);
    free(writer->tokens);
    free(writer->tables);
    free(writer->filled);
    free(writer->history);
    free(writer->biases);
    free(writer->copies);
    free(writer->checks);
    free(writer);
}

void plan_writer_begin(struct plan_writer *writer, uint64_t step, uint64_t epoch)
{
    writer->step = step;
    writer->epoch = epoch;
    writer->counts = (struct plan_counts){.seqs = 0};
    writer->table_count = 0;
}

int plan_writer_seq(struct plan_writer *writer, const struct plan_seq *seq)
{
    return push(writer->seqs, &writer->counts.seqs, writer->limits.seqs_max, seq, 1, sizeof *seq);
}

int plan_writer_tokens(struct plan_writer *writer, const uint32_t *tokens, uint32_t count)
{
    return push(writer->tokens, &writer->counts.tokens, writer->limits.tokens_max, tokens, count,
                sizeof *tokens);
}

int plan_writer_pages(struct plan_writer *writer, const struct plan_page *pages, uint32_t count)
{
    uint32_t first = writer->counts.pages;
    if (count > writer->limits.pages_max - first || writer->table_count == writer->limits.seqs_max)
        return -ENOSPC;
    writer->tables[writer->table_count++] = (struct table){pages, first, count};
    writer->counts.pages += count;
    return (int)first;
}

/* There may be thousands a step: everything is written where it stays, without a call. */
struct plan_seq *plan_writer_add(struct plan_writer *writer, const uint32_t *tokens, uint32_t count,
                                 const struct plan_page *pages, uint32_t page_count)
{
    struct plan_counts *at = &writer->counts;
    const struct plan_limits *limits = &writer->limits;
    if (at->seqs == limits->seqs_max || writer->table_count == limits->seqs_max ||
        count > limits->tokens_max - at->tokens || page_count > limits->pages_max - at->pages)
        return NULL;
    struct plan_seq *seq = &writer->seqs[at->seqs++];
    seq->token_first = at->tokens;
    seq->token_count = count;
    seq->page_first = at->pages;
    seq->page_count = page_count;
    writer->tables[writer->table_count++] = (struct table){pages, at->pages, page_count};
    if (count == 1) writer->tokens[at->tokens] = *tokens;
    else memcpy(writer->tokens + at->tokens, tokens, count * sizeof *tokens);
    at->tokens += count;
    at->pages += page_count;
    return seq;
}

int plan_writer_history(struct plan_writer *writer, const uint32_t *tokens, uint32_t count)
{
    return push(writer->history, &writer->counts.history, writer->limits.history_max, tokens, count,
                sizeof *tokens);
}

int plan_writer_biases(struct plan_writer *writer, const struct plan_bias *biases, uint32_t count)
{
    return push(writer->biases, &writer->counts.biases, writer->limits.biases_max, biases, count,
                sizeof *biases);
}

int plan_writer_copy(struct plan_writer *writer, const struct plan_copy *copy)
{
    return push(writer->copies, &writer->counts.copies, writer->limits.seqs_max, copy, 1, sizeof *copy);
}

int plan_writer_check(struct plan_writer *writer, struct plan_page page)
{
    return push(writer->checks, &writer->counts.checks, plan_checks_max(&writer->limits), &page, 1,
                sizeof page);
}

uint32_t plan_writer_seq_count(const struct plan_writer *writer)
{
    return writer->counts.seqs;
}

uint32_t plan_writer_token_count(const struct plan_writer *writer)
{
    return writer->counts.tokens;
}

void plan_writer_room(const struct plan_writer *writer, struct plan_limits *ret_room)
{
    *ret_room = writer->limits;
    ret_room->seqs_max -= writer->counts.seqs;
    ret_room->tokens_max -= writer->counts.tokens;
    ret_room->pages_max -= writer->counts.pages;
    ret_room->history_max -= writer->counts.history;
    ret_room->biases_max -= writer->counts.biases;
}

/* The page tables, one behind the other. */
static void put_tables(uint8_t *to, const struct table *tables, uint32_t count)
{
    enum { AHEAD = 4 }; // tables: each is somewhere else
    for (uint32_t i = 0; i < count; i++) {
        if (i + AHEAD < count) __builtin_prefetch(tables[i + AHEAD].pages);
        size_t bytes = tables[i].count * sizeof *tables[i].pages;
        if (bytes > 0) memcpy(to, tables[i].pages, bytes);
        to += bytes;
    }
}

/* Of a sequence: the table that its pages are in, which is nearly always the one of its number. */
static const struct table *table_of(const struct plan_writer *writer, uint32_t seq_idx)
{
    uint32_t first = writer->seqs[seq_idx].page_first;
    if (seq_idx < writer->table_count && writer->tables[seq_idx].first == first)
        return &writer->tables[seq_idx];
    for (uint32_t i = 0; i < writer->table_count; i++)
        if (writer->tables[i].first == first && writer->tables[i].count > 0) return &writer->tables[i];
    return NULL;
}

static void keep_filled(struct plan_writer *writer)
{
    for (uint32_t i = 0; i < writer->counts.seqs; i++) {
        const struct plan_seq *seq = &writer->seqs[i];
        uint32_t first, count = plan_filled(seq, writer->limits.page_tokens, &first);
        if (count == 0) continue;
        const struct table *table = table_of(writer, i);
        if (!table || (uint64_t)first + count > table->count) continue; // no plan that is verified has such
        memcpy(writer->filled + table->first + first, table->pages + first, count * sizeof *table->pages);
    }
}

size_t plan_writer_finish(struct plan_writer *writer, void *slot, size_t slot_bytes)
{
    const struct plan_counts *counts = &writer->counts;
    struct plan_shape at = plan_shape_of(counts);
    CHECK(at.end <= slot_bytes);
    writer->header = (struct plan_header){
        .magic = PLAN_MAGIC,
        .bytes = (uint32_t)at.end, // plan_limits_verify: below 4 GiB
        .step = writer->step,
        .epoch = writer->epoch,
        .seq_count = counts->seqs,
        .token_count = counts->tokens,
        .page_count = counts->pages,
        .history_count = counts->history,
        .bias_count = counts->biases,
        .copy_count = counts->copies,
        .check_count = counts->checks,
    };
    put(slot, 0, at.seqs, &writer->header, sizeof writer->header);
    put(slot, at.seqs, at.tokens, writer->seqs, counts->seqs * sizeof *writer->seqs);
    keep_filled(writer);
    put(slot, at.tokens, at.pages, writer->tokens, counts->tokens * sizeof *writer->tokens);
    put_tables((uint8_t *)slot + at.pages, writer->tables, writer->table_count); // no padding behind them
    put(slot, at.history, at.biases, writer->history, counts->history * sizeof *writer->history);
    put(slot, at.biases, at.copies, writer->biases, counts->biases * sizeof *writer->biases);
    put(slot, at.copies, at.checks, writer->copies, counts->copies * sizeof *writer->copies);
    put(slot, at.checks, at.end, writer->checks, counts->checks * sizeof *writer->checks);
    return at.end;
}

void plan_writer_view(const struct plan_writer *writer, struct plan_view *ret_view)
{
    *ret_view = (struct plan_view){
        .header = &writer->header,
        .seqs = writer->seqs,
        .tokens = writer->tokens,
        .pages = writer->filled,
        .history = writer->history,
        .biases = writer->biases,
        .copies = writer->copies,
        .checks = writer->checks,
    };
}

int done_writer_new(const struct plan_limits *limits, struct done_writer **ret_writer)
{
    int r = plan_limits_verify(limits, NULL);
    if (r < 0) return r;
    struct done_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return -ENOMEM;
    writer->max = done_counts_max(limits);
    writer->seqs = array_new(writer->max.seqs, sizeof *writer->seqs);
    writer->scores = array_new(writer->max.scores, sizeof *writer->scores);
    writer->tops = array_new(writer->max.tops, sizeof *writer->tops);
    writer->seals = array_new(writer->max.seals, sizeof *writer->seals);
    writer->bads = array_new(writer->max.bads, sizeof *writer->bads);
    if (!writer->seqs || !writer->scores || !writer->tops || !writer->seals || !writer->bads) {
        done_writer_free(writer);
        return -ENOMEM;
    }
    *ret_writer = writer;
    return 0;
}

void done_writer_free(struct done_writer *writer)
{
    if (!writer) return;
    free(writer->seqs);
    free(writer->scores);
    free(writer->tops);
    free(writer->seals);
    free(writer->bads);
    free(writer);
}

void done_writer_begin(struct done_writer *writer, uint64_t step, uint64_t epoch)
{
    writer->step = step;
    writer->epoch = epoch;
    writer->counts = (struct done_counts){.seqs = 0};
}

int done_writer_seq(struct done_writer *writer, const struct done_seq *seq)
{
    return push(writer->seqs, &writer->counts.seqs, writer->max.seqs, seq, 1, sizeof *seq);
}

int done_writer_score(struct done_writer *writer, const struct done_score *score)
{
    return push(writer->scores, &writer->counts.scores, writer->max.scores, score, 1, sizeof *score);
}

int done_writer_tops(struct done_writer *writer, const struct done_top *tops, uint32_t count)
{
    return push(writer->tops, &writer->counts.tops, writer->max.tops, tops, count, sizeof *tops);
}

int done_writer_seal(struct done_writer *writer, const struct done_seal *seal)
{
    return push(writer->seals, &writer->counts.seals, writer->max.seals, seal, 1, sizeof *seal);
}

int done_writer_bad(struct done_writer *writer, struct plan_page page)
{
    return push(writer->bads, &writer->counts.bads, writer->max.bads, &page, 1, sizeof page);
}

size_t done_writer_finish(struct done_writer *writer, int32_t status, uint64_t step_ns, uint64_t forward_ns,
                          uint64_t sample_ns, void *slot, size_t slot_bytes)
{
    CHECK(status <= 0);
    if (status < 0) writer->counts = (struct done_counts){.bads = writer->counts.bads};
    CHECK((writer->counts.bads > 0) == (status == -EBADMSG));
    const struct done_counts *counts = &writer->counts;
    struct done_shape at = done_shape_of(counts);
    CHECK(at.end <= slot_bytes);
    const struct done_header header = {
        .magic = DONE_MAGIC,
        .bytes = (uint32_t)at.end, // plan_limits_verify: below 4 GiB
        .step = writer->step,
        .epoch = writer->epoch,
        .status = status,
        .seq_count = counts->seqs,
        .score_count = counts->scores,
        .top_count = counts->tops,
        .seal_count = counts->seals,
        .bad_count = counts->bads,
        .step_ns = step_ns,
        .forward_ns = forward_ns,
        .sample_ns = sample_ns,
    };
    put(slot, 0, at.seqs, &header, sizeof header);
    put(slot, at.seqs, at.scores, writer->seqs, counts->seqs * sizeof *writer->seqs);
    put(slot, at.scores, at.tops, writer->scores, counts->scores * sizeof *writer->scores);
    put(slot, at.tops, at.seals, writer->tops, counts->tops * sizeof *writer->tops);
    put(slot, at.seals, at.bads, writer->seals, counts->seals * sizeof *writer->seals);
    put(slot, at.bads, at.end, writer->bads, counts->bads * sizeof *writer->bads);
    return at.end;
}
