/* SPDX-License-Identifier: Apache-2.0 */
/* plan - one step's order (daemon -> worker) and one step's answer (worker -> daemon) as flat bytes.
 *
 *   plan  | header | seqs[] | tokens u32[] | pages {idx,generation}[] | history u32[] | biases {token,bias}[] |
 *         | copies[] | checks {idx,generation}[] |
 *   done  | header | seqs[] | scores[] | tops {token,logprob}[] | seals[] | bads {idx,generation}[] |
 *
 * Sections follow each other at 8-byte aligned offsets given by the counts in the header. The reader
 * copies a slot out of shared memory first and verifies the copy; plan_verify/done_verify check every
 * index, count and range against the limits both sides were started with, so that code behind them
 * may use the numbers. The worker keeps no state between plans: everything a step needs is in it,
 * which is why a request can be replayed on any worker.
 *
 * Checks name sealed pages that nobody has looked at since another process could write to them (a pool that was
 * adopted, a worker that died). The worker hashes each before the step reads any page. If one is not what was sealed
 * then nothing is computed: the completion is -EBADMSG and names the bad pages, and the daemon plans without
 * them.
 *
 * Room for what comes later, zero until then: token masks (mask_first/mask_words), draft tokens
 * (draft_count: the last draft_count rows of a sequence are guesses), adapters (adapter_id). */
#ifndef KVASIR_IPC_PLAN_H
#define KVASIR_IPC_PLAN_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/limits.h"

#define PLAN_MAGIC 0x4E4C5031u // "1PLN"
#define DONE_MAGIC 0x454E4431u // "1DNE"
#define PLAN_TOKEN_NONE UINT32_MAX

/* Bounds of one plan and one completion; fixed when a link is made, known to both sides. */
struct plan_limits {
    uint32_t seqs_max;
    uint32_t tokens_max;  // rows a step
    uint32_t pages_max;   // page table entries, all sequences together
    uint32_t history_max; // history tokens, all sequences together
    uint32_t biases_max;
    uint32_t pool_pages;  // page indices are below it
    uint32_t vocab_count; // token ids are below it
    uint32_t page_tokens;
    uint32_t rank_count; // ranks whose checksums a completion carries; 0 counts as 1
};

static inline uint32_t plan_rank_count(const struct plan_limits *limits)
{
    return limits->rank_count ? limits->rank_count : 1;
}

/* Checks of one plan, and bad pages of its completion: a page is named once, and only if a table or a copy
 * names it. */
static inline uint32_t plan_checks_max(const struct plan_limits *limits)
{
    uint32_t named = limits->pages_max + limits->seqs_max; // plan_limits_verify: far below 2^32
    return named < limits->pool_pages ? named : limits->pool_pages;
}

enum plan_seq_flags {
    PLAN_SAMPLE = 1, // sample the token after the last row
    PLAN_SCORE = 2,  // log-probability of the next token for every row (prompt_logprobs)
};

struct plan_header {
    uint32_t magic;
    uint32_t bytes; // of the whole plan
    uint64_t step;  // 1, 2, 3, ... within an epoch
    uint64_t epoch; // of the pool
    uint32_t seq_count, token_count, page_count, history_count, bias_count;
    uint32_t copy_count, check_count;
    uint32_t reserved[3];
};
static_assert(sizeof(struct plan_header) == 64, "plan v1");

struct plan_seq {
    uint64_t seq_id;
    uint64_t seed;  // of the sampler
    uint32_t flags; // enum plan_seq_flags
    uint32_t
        token_first; // rows [token_first, token_first + token_count); rows of sequences follow each other
    uint32_t token_count; // > 0
    uint32_t pos_first;   // position of the first row; keys [0, pos_first) are in the pages already
    uint32_t page_first;  // page table: covers positions [0, pos_first + token_count)
    uint32_t page_count;
    uint32_t history_first; // prompt then output tokens, when a penalty is on; else count 0
    uint32_t history_count;
    uint32_t history_prompt; // how many of them are prompt
    uint32_t bias_first, bias_count;
    uint32_t logprobs;        // alternatives wanted with each sampled or scored token, 0..LOGPROBS_MAX
    uint32_t score_target;    // PLAN_SCORE: the token after the last row, or PLAN_TOKEN_NONE
    int32_t top_k;            // 0: off
    float temperature;        // 0: greedy
    float top_p;              // 1: off
    float min_p;              // 0: off
    float repetition_penalty; // 1: off
    float presence_penalty;   // 0: off
    float frequency_penalty;  // 0: off
    uint32_t adapter_id, mask_first, mask_words, draft_count; // reserved, 0
};
static_assert(sizeof(struct plan_seq) == 112, "plan v1");

struct plan_page {
    uint32_t page_idx;
    uint32_t generation; // must equal the descriptor's
};

struct plan_bias {
    uint32_t token;
    float bias; // added to the logit before temperature; -INFINITY bans; neither NaN nor +INFINITY
};

/* A hit that ends inside a page: before the rows are computed the payload of a sealed page is copied into the page
 * of the sequence's pos_first, which is FILLING. Its first token_count positions hold what the sequence has there;
 * what is behind them is another's, never read, and written by the rows. At most one a sequence, by seq_idx. */
struct plan_copy {
    uint32_t seq_idx;     // in this plan, growing
    uint32_t token_count; // pos_first % page_tokens of the sequence, > 0
    uint32_t page_idx;    // from
    uint32_t generation;
};
static_assert(sizeof(struct plan_copy) == 16, "plan v2");

/* Verified view of a plan: pointers into the bytes. */
struct plan_view {
    const struct plan_header *header;
    const struct plan_seq *seqs;
    const uint32_t *tokens;
    const struct plan_page *pages;
    const uint32_t *history;
    const struct plan_bias *biases;
    const struct plan_copy *copies;
    const struct plan_page *checks; // the scheduler names each once
};

enum done_seq_flags {
    DONE_SAMPLED = 1, // token, logprob and rank are valid
};

struct done_header {
    uint32_t magic;
    uint32_t bytes;
    uint64_t step, epoch; // of the plan this answers
    int32_t status;       // 0, or negative: the step failed and nothing below counts, but for bads
    uint32_t seq_count, score_count, top_count, seal_count;
    uint32_t bad_count;  // > 0 exactly when status is -EBADMSG
    uint64_t step_ns;    // from plan taken to completion pushed
    uint64_t forward_ns; // of which the model
    uint64_t sample_ns;  // of which sampling
};
static_assert(sizeof(struct done_header) == 72, "done v1");

struct done_seq {
    uint64_t seq_id;
    uint32_t flags;
    uint32_t token;                // sampled
    float logprob;                 // of token, before temperature, penalties and bias (vLLM's raw_logprobs)
    uint32_t rank;                 // 1 = likeliest, by the same raw order
    uint32_t top_first, top_count; // likeliest first
    uint32_t score_first, score_count; // one per row when PLAN_SCORE, in row order
};
static_assert(sizeof(struct done_seq) == 40, "done v1");

struct done_score {
    uint32_t token; // the target: the next row's token, score_target for the last row. PLAN_TOKEN_NONE when
                    // that is: then logprob, rank and top_count are 0
    float logprob;  // <= 0; -INFINITY is possible
    uint32_t rank;
    uint32_t top_first, top_count;
    uint32_t reserved;
};

struct done_top {
    uint32_t token;
    float logprob;
};

/* A page that became full in this step: its last position is among the step's rows. A completion carries
 * exactly these: sequence by sequence, page by page, for each page rank by rank. */
struct done_seal {
    uint32_t page_idx;
    uint32_t generation;
    uint32_t rank; // 0 .. rank_count - 1
    uint32_t reserved;
    uint64_t checksum; // hash64 of the rank's payload of the page
};

struct done_view {
    const struct done_header *header;
    const struct done_seq *seqs;
    const struct done_score *scores;
    const struct done_top *tops;
    const struct done_seal *seals;
    const struct plan_page *bads; // of the plan's checks, in their order
};

/* Every limit in its range (limits.h; at least 1 sequence, row, page and word of vocabulary) and a slot below
 * 4 GiB. 0, or ERR_LIMIT naming the limit. The functions below take limits that passed. */
int plan_limits_verify(const struct plan_limits *limits, struct err *err);

/* Pages of a sequence that its rows fill to the last token: *ret_first is the index in its page table of the
 * first, the return their number. seq: verified. */
uint32_t plan_seq_filled(const struct plan_seq *seq, uint32_t page_tokens, uint32_t *ret_first);

/* Upper bounds in bytes for one slot, from the limits (scores and tops: tokens_max rows). */
size_t plan_bytes_max(const struct plan_limits *limits);
size_t done_bytes_max(const struct plan_limits *limits);

/* Verifies [bytes, bytes+len) (8-byte aligned) and fills the view. ERR_PEER with the reason.
 * plan_verify: also that rows follow each other without gaps, that page tables cover their positions exactly, that a
 * copy ends where its sequence's rows begin,
 * that padding and reserved fields are zero, and that sampling parameters are finite and in range.
 * done_verify: also that it answers exactly `plan`: step, epoch, the same sequences in the same order, a token
 * where one was asked for and nowhere else, the plan's score targets, and the seals that the plan implies.
 * A completion with a negative status has a header only, and the bad pages behind it when that is -EBADMSG. */
int plan_verify(const void *bytes, size_t len, const struct plan_limits *limits, struct plan_view *ret_view,
                struct err *err);
int done_verify(const void *bytes, size_t len, const struct plan_limits *limits, const struct plan_view *plan,
                struct done_view *ret_view, struct err *err);

/* Writers over a fixed slot. Each push returns the index of what was pushed, or -ENOSPC when the limit or
 * the slot is reached (nothing changes then). Sections may be pushed in any order; *_finish moves them
 * together into the slot and returns the bytes. A writer owns private memory of its own. */
struct plan_writer;
int plan_writer_new(const struct plan_limits *limits, struct plan_writer **ret_writer);
void plan_writer_free(struct plan_writer *writer);
void plan_writer_begin(struct plan_writer *writer, uint64_t step, uint64_t epoch);
int plan_writer_seq(struct plan_writer *writer,
                    const struct plan_seq *seq); // copies; first/count fields as given
int plan_writer_tokens(struct plan_writer *writer, const uint32_t *tokens, uint32_t count); // -> token_first
/* A table of one sequence, at most seqs_max of them; borrows the entries until plan_writer_finish. */
int plan_writer_pages(struct plan_writer *writer, const struct plan_page *pages, uint32_t count);
/* All three of one sequence at once. -> its place, with the token and page fields as pushed; the caller fills in every
 * other one. NULL: no room for one of them, and nothing changed. */
struct plan_seq *plan_writer_add(struct plan_writer *writer, const uint32_t *tokens, uint32_t count,
                                 const struct plan_page *pages, uint32_t page_count);
int plan_writer_history(struct plan_writer *writer, const uint32_t *tokens, uint32_t count);
int plan_writer_biases(struct plan_writer *writer, const struct plan_bias *biases, uint32_t count);
int plan_writer_copy(struct plan_writer *writer, const struct plan_copy *copy); // room where a sequence has
/* Room for each page that tables and copies can name, once. */
int plan_writer_check(struct plan_writer *writer, struct plan_page page);
uint32_t plan_writer_seq_count(const struct plan_writer *writer);
uint32_t plan_writer_token_count(const struct plan_writer *writer);
/* Room left: lets the scheduler check a whole sequence before it pushes any of it. */
void plan_writer_room(const struct plan_writer *writer, struct plan_limits *ret_room);
size_t plan_writer_finish(struct plan_writer *writer, void *slot, size_t slot_bytes); // slot: plan_bytes_max
/* The plan that was finished last, in the writer's memory, until the next begin: to verify the answer against, whatever
 * others do to the slot. Of `pages` only what rows fill (plan_seq_filled) is this plan's. */
void plan_writer_view(const struct plan_writer *writer, struct plan_view *ret_view);

struct done_writer;
int done_writer_new(const struct plan_limits *limits, struct done_writer **ret_writer);
void done_writer_free(struct done_writer *writer);
void done_writer_begin(struct done_writer *writer, uint64_t step, uint64_t epoch);
int done_writer_seq(struct done_writer *writer, const struct done_seq *seq);
int done_writer_score(struct done_writer *writer, const struct done_score *score);             // -> its index
int done_writer_tops(struct done_writer *writer, const struct done_top *tops, uint32_t count); // -> top_first
int done_writer_seal(struct done_writer *writer, const struct done_seal *seal);
int done_writer_bad(struct done_writer *writer, struct plan_page page); // status must be -EBADMSG then
/* slot: done_bytes_max. With a negative status nothing that was pushed is written but bad pages. */
size_t done_writer_finish(struct done_writer *writer, int32_t status, uint64_t step_ns, uint64_t forward_ns,
                          uint64_t sample_ns, void *slot, size_t slot_bytes);

#endif
