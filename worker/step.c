/* SPDX-License-Identifier: Apache-2.0 */
/* step - see step.h. The order of a step:
 *
 *   1 verify the plan, then its pages against the descriptors; hash those that the plan wants checked, on all
 *     threads, and end here with their names if any is not what was sealed; copy pages where a cached prefix ends
 *     inside one. Ranks agree here: what one of them refuses is computed by none
 *   2 lay it out as a batch for the model, and list which rows need logits and what for (jobs)
 *   3 forward; then the jobs on all threads. When there are more logit rows than the model holds, 3 is
 *     repeated for the next ones: the model writes the same keys and values again, bit for bit
 *   4 checksums of the pages that are full now, on all threads
 *   5 write the completion
 *
 * Each rank of a group does 1 to 4 for its own pages; rank 0 alone does the jobs, and 5 for all. Checksums come to it
 * in the ranks' notes (worker/dist.h): those of checked pages too, so that it judges them for all, and only its host
 * needs to know what was sealed. */
#include "worker/step.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "worker/sample.h"

enum job_kind { JOB_SAMPLE, JOB_SCORE };

/* One use of one row of logits. */
struct job {
    enum job_kind kind;
    uint32_t seq_idx;
    uint32_t logit_idx; // which of the step's logit rows
    uint32_t target;    // JOB_SCORE
    int r;              // of sample_token or sample_score
    struct sample_output output;
};

struct step {
    struct plan_limits limits;
    uint64_t epoch;
    struct dist *dist; // NULL: alone
    uint32_t rank, rank_count;
    struct model *model;
    struct pages *pages;
    uint64_t page_bytes;
    uint32_t logits_max;
    struct done_writer *writer; // owned, as all below

    uint32_t *positions;   // (tokens_max)
    uint32_t *page_table;  // (pages_max) indices without generations
    struct kern_seq *seqs; // (seqs_max)
    uint32_t *logit_rows;  // (tokens_max), ascending
    uint32_t logit_count;
    struct job *jobs; // (tokens_max + seqs_max), by logit_idx
    uint32_t job_count;
    struct plan_page *seals; // (seals_max), pages that are full after this step
    uint32_t seal_count, seals_max;
    /* What each rank leaves for rank 0, as many as a step seals or checks: checksums, of the pages that the plan in
     * hand checks, then of those that are full after the step. In the exchange; own_note for a rank alone. */
    uint64_t *notes[RANKS_MAX];
    uint64_t *own_note; // owned

    struct sampler **samplers; // (sampler_count), one a thread
    uint32_t sampler_count;

    /* While jobs run. */
    struct plan_view plan;
    const float *logits;  // (rows in hand, vocab_count)
    uint32_t logit_first; // logit_idx of its first row
    uint32_t job_end;
    _Atomic uint32_t job_next;
};

uint32_t step_logits_max(const struct plan_limits *limits)
{
    return exchange_logits_max(limits);
}

/* Where the ranks' notes lie. -ENOMEM. */
static int notes_init(struct step *step)
{
    const uint32_t checks_max = plan_checks_max(&step->limits);
    step->own_note = calloc(step->seals_max > checks_max ? step->seals_max : checks_max,
                            sizeof *step->own_note);
    for (uint32_t rank = 0; rank < step->rank_count; rank++)
        step->notes[rank] = step->dist ? dist_note(step->dist, rank) : step->own_note;
    return step->own_note ? 0 : -ENOMEM;
}

static int samplers_new(struct step *step, uint32_t count)
{
    step->samplers = calloc(count, sizeof *step->samplers);
    if (!step->samplers) return -ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        int r = sampler_new(step->limits.vocab_count, &step->samplers[i]);
        if (r < 0) return r;
        step->sampler_count++;
    }
    return 0;
}

int step_new(const struct step_conf *conf, struct step **ret_step, struct err *err)
{
    const struct plan_limits *limits = conf->limits;
    CHECK(conf->logits_max > 0);
    CHECK(conf->threads > 0);
    struct step *step = calloc(1, sizeof *step);
    if (!step) return ERR(err, -ENOMEM, "no memory for a step");
    *step = (struct step){
        .limits = *limits,
        .epoch = conf->epoch,
        .dist = conf->dist,
        .rank = conf->rank,
        .rank_count = dist_rank_count(conf->dist),
        .model = conf->model,
        .pages = conf->pages,
        .page_bytes = pages_bytes(conf->pages),
        .logits_max = conf->logits_max,
        .seals_max = exchange_seals_max(limits),
    };
    step->positions = calloc(limits->tokens_max, sizeof *step->positions);
    step->page_table = calloc(limits->pages_max, sizeof *step->page_table);
    step->seqs = calloc(limits->seqs_max, sizeof *step->seqs);
    step->logit_rows = calloc(limits->tokens_max, sizeof *step->logit_rows);
    step->jobs = calloc(limits->tokens_max + limits->seqs_max, sizeof *step->jobs);
    step->seals = calloc(step->seals_max, sizeof *step->seals);
    bool complete = step->positions && step->page_table && step->seqs && step->logit_rows && step->jobs &&
                    step->seals;
    int r = complete ? notes_init(step) : -ENOMEM;
    if (r == 0) r = done_writer_new(limits, &step->writer);
    if (r == 0) r = samplers_new(step, conf->threads);
    if (r < 0) {
        step_free(step);
        return ERR(err, r, "no memory for the scratch of a step");
    }
    *ret_step = step;
    return 0;
}

void step_free(struct step *step)
{
    if (!step) return;
    for (uint32_t i = 0; i < step->sampler_count; i++) sampler_free(step->samplers[i]);
    free(step->samplers);
    done_writer_free(step->writer);
    free(step->positions);
    free(step->page_table);
    free(step->seqs);
    free(step->logit_rows);
    free(step->jobs);
    free(step->seals);
    free(step->own_note);
    free(step);
}

static uint64_t page_hash(const struct step *step, uint32_t page_idx)
{
    const uint8_t *payload = pages_payload(step->pages);
    return hash64(payload + page_idx * step->page_bytes, step->page_bytes);
}

static void run_check(void *arg, uint32_t piece)
{
    struct step *step = arg;
    uint32_t page_idx = step->plan.checks[piece].page_idx;
    step->notes[step->rank][piece] = page_hash(step, page_idx);
}

/* Rank 0, once all have hashed what is checked: the pages that are bad in at least one, into the completion.
 * -EBADMSG. */
static int judge_checks(struct step *step, struct err *err)
{
    const uint32_t count = step->plan.header->check_count;
    uint32_t bad_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct plan_page *check = &step->plan.checks[i];
        bool is_bad = false;
        for (uint32_t rank = 0; rank < step->rank_count; rank++)
            is_bad |= step->notes[rank][i] != pages_sum(step->pages, check->page_idx, rank);
        if (!is_bad) continue;
        CHECK(done_writer_bad(step->writer, *check) >= 0); // sized for all
        bad_count++;
    }
    if (bad_count == 0) return 0;
    return ERR(err, -EBADMSG, "%" PRIu32 " of %" PRIu32 " cached pages are not what was sealed", bad_count,
               count);
}

/* Step 1: ours, then that of all ranks. How many pages are checked is the plan's to say: every rank finds the same. */
static int verify(struct step *step, const void *bytes, size_t len, struct err *err)
{
    int own = plan_verify(bytes, len, &step->limits, &step->plan, err);
    const uint32_t check_count = own == 0 ? step->plan.header->check_count : 0;
    if (own == 0 && step->plan.header->epoch != step->epoch)
        own = ERR(err, ERR_PEER, "plan: of another epoch");
    if (own == 0) own = pages_check(step->pages, &step->plan, err);
    if (own == 0 && check_count > 0) model_parallel(step->model, run_check, step, check_count);
    int r = dist_agree(step->dist, own, check_count * (uint32_t)sizeof(uint64_t));
    if (r == 0 && check_count > 0) {
        own = step->rank == 0 ? judge_checks(step, err) : 0;
        r = dist_agree(step->dist, own, 0);
    }
    return r < 0 && own == 0 ? ERR(err, r, "another rank refuses the step: %s", err_name(r)) : r;
}

/* Step 2, the uses of one row of a sequence. */
static void add_row(struct step *step, uint32_t seq_idx, uint32_t row)
{
    const struct plan_seq *seq = &step->plan.seqs[seq_idx];
    bool is_last = row + 1 == seq->token_first + seq->token_count;
    uint32_t target = is_last ? seq->score_target : step->plan.tokens[row + 1];
    bool scored = (seq->flags & PLAN_SCORE) && target != PLAN_TOKEN_NONE;
    bool sampled = (seq->flags & PLAN_SAMPLE) && is_last;
    struct job job = {.seq_idx = seq_idx, .logit_idx = step->logit_count, .target = target};
    if (!scored && !sampled) return;
    job.kind = JOB_SCORE;
    if (scored) step->jobs[step->job_count++] = job;
    job.kind = JOB_SAMPLE;
    if (sampled) step->jobs[step->job_count++] = job;
    step->logit_rows[step->logit_count++] = row;
}

static void lay_out(struct step *step)
{
    const struct plan_view *plan = &step->plan;
    step->logit_count = step->job_count = step->seal_count = 0;
    for (uint32_t i = 0; i < plan->header->page_count; i++) step->page_table[i] = plan->pages[i].page_idx;
    for (uint32_t s = 0; s < plan->header->seq_count; s++) {
        const struct plan_seq *seq = &plan->seqs[s];
        step->seqs[s] = (struct kern_seq){
            .row_first = seq->token_first,
            .row_count = seq->token_count,
            .pos_first = seq->pos_first,
            .pages = step->page_table + seq->page_first,
            .page_count = seq->page_count,
        };
        for (uint32_t i = 0; i < seq->token_count; i++) {
            step->positions[seq->token_first + i] = seq->pos_first + i;
            if (seq->flags) add_row(step, s, seq->token_first + i);
        }
        uint32_t first, count = plan_seq_filled(seq, step->limits.page_tokens, &first);
        for (uint32_t i = 0; i < count; i++) {
            CHECK(step->seal_count < step->seals_max);
            step->seals[step->seal_count++] = plan->pages[seq->page_first + first + i];
        }
    }
    CHECK(step->logit_count <= step->limits.tokens_max);
}

static void run_job(struct step *step, struct sampler *sampler, struct job *job)
{
    const struct plan_seq *seq = &step->plan.seqs[job->seq_idx];
    const float *logits = step->logits +
                          (size_t)(job->logit_idx - step->logit_first) * step->limits.vocab_count;
    if (job->kind == JOB_SCORE) {
        job->r = sample_score(sampler, logits, step->limits.vocab_count, job->target, seq->logprobs,
                              &job->output);
        return;
    }
    const struct sample_input input = {
        .logits = logits,
        .vocab_count = step->limits.vocab_count,
        .seq = seq,
        .position = (uint64_t)seq->pos_first + seq->token_count,
        .history = step->plan.history + seq->history_first,
        .biases = step->plan.biases + seq->bias_first,
    };
    job->r = sample_token(sampler, &input, &job->output);
}

/* One thread's share: jobs one by one until none is left. piece: whose scratch. */
static void run_jobs(void *arg, uint32_t piece)
{
    struct step *step = arg;
    for (;;) {
        // Relaxed: a ticket; the jobs were written before the threads were woken.
        uint32_t job_idx = atomic_fetch_add_explicit(&step->job_next, 1, memory_order_relaxed);
        if (job_idx >= step->job_end) return;
        run_job(step, step->samplers[piece], &step->jobs[job_idx]);
    }
}

/* The jobs on logit rows [first, first + count), which lie in logits. */
static int sample_rows(struct step *step, const float *logits, uint32_t first, uint32_t count,
                       uint32_t *job_first, struct err *err)
{
    uint32_t end = *job_first;
    while (end < step->job_count && step->jobs[end].logit_idx < first + count) end++;
    step->logits = logits;
    step->logit_first = first;
    step->job_end = end;
    // Relaxed: the threads are woken after this.
    atomic_store_explicit(&step->job_next, *job_first, memory_order_relaxed);
    uint32_t jobs = end - *job_first;
    uint32_t pieces = jobs < step->sampler_count ? jobs : step->sampler_count;
    if (pieces > 0) model_parallel(step->model, run_jobs, step, pieces);
    for (uint32_t i = *job_first; i < end; i++)
        if (step->jobs[i].r < 0)
            return ERR(err, step->jobs[i].r,
                       "sequence %" PRIu32 " of the step: the model's logits are not numbers",
                       step->jobs[i].seq_idx);
    *job_first = end;
    return 0;
}

/* All of a page: what lies behind the tokens that count is never read before it is written. */
static void run_copy(void *arg, uint32_t piece)
{
    struct step *step = arg;
    const struct plan_copy *copy = &step->plan.copies[piece];
    const struct plan_seq *seq = &step->plan.seqs[copy->seq_idx];
    uint32_t to = step->plan.pages[seq->page_first + seq->pos_first / step->limits.page_tokens].page_idx;
    uint8_t *payload = pages_payload(step->pages);
    CHECK(to != copy->page_idx); // plan_verify
    memcpy(payload + to * step->page_bytes, payload + copy->page_idx * step->page_bytes, step->page_bytes);
}

static void run_seal(void *arg, uint32_t piece)
{
    struct step *step = arg;
    step->notes[step->rank][piece] = page_hash(step, step->seals[piece].page_idx);
}

static float logprob_of(float logprob)
{
    return fminf(logprob, 0.0f); // a rounding above 0 is no probability
}

/* Alternatives into the completion. -> index of the first. */
static uint32_t write_tops(struct step *step, struct sample_output *output)
{
    for (uint32_t i = 0; i < output->top_count; i++)
        output->tops[i].logprob = logprob_of(output->tops[i].logprob);
    int first = done_writer_tops(step->writer, output->tops, output->top_count);
    CHECK(first >= 0); // sized for every row with all alternatives
    return (uint32_t)first;
}

static void write_score(struct step *step, struct done_seq *seq, struct job *job)
{
    struct done_score score = {.token = PLAN_TOKEN_NONE}; // the row without a target
    if (job) {
        score.token = job->target;
        score.logprob = logprob_of(job->output.logprob);
        score.rank = job->output.rank;
        score.top_first = write_tops(step, &job->output);
        score.top_count = job->output.top_count;
    }
    int idx = done_writer_score(step->writer, &score);
    CHECK(idx >= 0); // at most one a row
    if (seq->score_count++ == 0) seq->score_first = (uint32_t)idx;
}

/* Step 5 for one sequence. jobs: its own. */
static void write_seq(struct step *step, uint32_t seq_idx, struct job *jobs, uint32_t job_count)
{
    const struct plan_seq *asked = &step->plan.seqs[seq_idx];
    struct done_seq seq = {.seq_id = asked->seq_id};
    for (uint32_t i = 0; i < job_count; i++) {
        struct job *job = &jobs[i];
        if (job->kind == JOB_SCORE) {
            write_score(step, &seq, job);
            continue;
        }
        seq.flags = DONE_SAMPLED;
        seq.token = job->output.token;
        seq.logprob = logprob_of(job->output.logprob);
        seq.rank = job->output.rank;
        seq.top_first = write_tops(step, &job->output);
        seq.top_count = job->output.top_count;
    }
    if ((asked->flags & PLAN_SCORE) && asked->score_target == PLAN_TOKEN_NONE) write_score(step, &seq, NULL);
    CHECK(done_writer_seq(step->writer, &seq) >= 0);
}

static void write_done(struct step *step)
{
    uint32_t job = 0;
    for (uint32_t s = 0; s < step->plan.header->seq_count; s++) {
        uint32_t first = job;
        while (job < step->job_count && step->jobs[job].seq_idx == s) job++;
        write_seq(step, s, step->jobs + first, job - first);
    }
    for (uint32_t i = 0; i < step->seal_count * step->rank_count; i++) {
        const uint32_t which = i / step->rank_count, rank = i % step->rank_count;
        struct done_seal seal = {
            .page_idx = step->seals[which].page_idx,
            .generation = step->seals[which].generation,
            .rank = rank,
            .checksum = step->notes[rank][which],
        };
        CHECK(done_writer_seal(step->writer, &seal) >= 0);
    }
}

struct step_times {
    uint64_t forward_ns, sample_ns;
};

/* Steps 2 to 4. A failure of the model is all ranks'; one in sampling is rank 0's alone, and told at the end. */
static int compute(struct step *step, struct step_times *times, struct err *err)
{
    const struct plan_header *header = step->plan.header;
    if (header->copy_count > 0) model_parallel(step->model, run_copy, step, header->copy_count);
    lay_out(step);
    const struct kern_batch batch = {
        .row_count = header->token_count,
        .tokens = step->plan.tokens,
        .positions = step->positions,
        .seq_count = header->seq_count,
        .seqs = step->seqs,
    };
    uint32_t first = 0, job_first = 0;
    int own = 0;
    do {
        uint32_t count = step->logit_count - first;
        if (count > step->logits_max) count = step->logits_max;
        const float *logits;
        uint64_t start_ns = clock_mono_ns();
        int r = model_forward(step->model, &batch, step->logit_rows + first, count, &logits, err);
        if (r < 0) return r;
        uint64_t middle_ns = clock_mono_ns();
        if (step->rank == 0 && own == 0) own = sample_rows(step, logits, first, count, &job_first, err);
        times->forward_ns += middle_ns - start_ns;
        times->sample_ns += clock_mono_ns() - middle_ns;
        first += count;
    } while (first < step->logit_count);
    if (step->seal_count > 0) model_parallel(step->model, run_seal, step, step->seal_count);
    int r = dist_agree(step->dist, own, step->seal_count * (uint32_t)sizeof(uint64_t));
    return r < 0 && own == 0 ? ERR(err, r, "rank 0 fails the step: %s", err_name(r)) : r;
}

int step_run(struct step *step, const void *plan, size_t len, void *slot, size_t slot_bytes,
             size_t *ret_bytes, struct err *err)
{
    uint64_t start_ns = clock_mono_ns();
    struct step_times times = {0};
    const struct plan_header *header = plan;
    bool has_header = len >= sizeof *header; // an answer to what is no plan cannot name its step
    done_writer_begin(step->writer, has_header ? header->step : 0, step->epoch);
    int r = verify(step, plan, len, err);
    if (r == 0) r = compute(step, &times, err);
    *ret_bytes = 0;
    if (step->rank != 0) return r;
    if (r == 0) write_done(step);
    *ret_bytes = done_writer_finish(step->writer, r, clock_mono_ns() - start_ns, times.forward_ns,
                                    times.sample_ns, slot, slot_bytes);
    return r;
}
