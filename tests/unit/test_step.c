/* SPDX-License-Identifier: Apache-2.0 */
/* A step with a model that is a formula and pages in plain memory: what is sampled, scored and sealed, in one
 * pass over the logits or in many. The functions below stand in for model.c and pages.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/hash.h"
#include "tests/unit/plan_sample.h"
#include "tests/unit/ranks_rig.h"
#include "worker/sample.h"
#include "worker/step.h"

enum { PAGE_BYTES = 512, VOCAB = 1000 };

static struct pool_header header;
static uint8_t payload[32 * PAGE_BYTES];
static float logits[64 * VOCAB];
static unsigned forward_count, rows_most;
static int forward_r, pages_r;
static uint64_t sums[2][32]; // as sealed, of each rank
static bool is_nan;

/* The model: the logit of token t after a row that holds token x. */
static float logit_of(uint32_t x, uint32_t t)
{
    return (float)((x * 7919u + t * 104729u) % 1009u) / 100.0f;
}

int model_forward(struct model *model, const struct kern_batch *batch, const uint32_t *logit_rows,
                  uint32_t logit_count, const float **ret_logits, struct err *err)
{
    (void)model;
    forward_count++;
    if (logit_count > rows_most) rows_most = logit_count;
    for (uint32_t i = 0; i < logit_count; i++)
        for (uint32_t t = 0; t < VOCAB; t++)
            logits[i * VOCAB + t] = logit_of(batch->tokens[logit_rows[i]], t);
    if (is_nan) logits[5] = NAN;
    for (uint32_t s = 0; s < batch->seq_count; s++) { // "keys and values": the tokens, at their positions
        const struct kern_seq *seq = &batch->seqs[s];
        for (uint32_t i = 0; i < seq->row_count; i++) {
            uint32_t at = seq->pos_first + i;
            assert_int_equal(batch->positions[seq->row_first + i], at);
            assert_true(at / 16 < seq->page_count);
            uint8_t *page = payload + seq->pages[at / 16] * PAGE_BYTES;
            memcpy(page + at % 16 * 4, &batch->tokens[seq->row_first + i], 4);
        }
    }
    *ret_logits = logits;
    return forward_r < 0 ? ERR(err, forward_r, "machine fault") : 0;
}

void model_parallel(struct model *model, void (*fn)(void *arg, uint32_t piece), void *arg,
                    uint32_t piece_count)
{
    (void)model;
    for (uint32_t i = piece_count; i-- > 0;) fn(arg, i); // any order will do
}

const struct pool_header *pages_header(const struct pages *pages)
{
    (void)pages;
    return &header;
}

void *pages_payload(const struct pages *pages)
{
    (void)pages;
    return payload;
}

uint64_t pages_bytes(const struct pages *pages)
{
    (void)pages;
    return header.geometry.page_bytes;
}

uint64_t pages_sum(const struct pages *pages, uint32_t page_idx, uint32_t rank)
{
    (void)pages;
    return sums[rank][page_idx];
}

int pages_check(struct pages *pages, const struct plan_view *plan, struct err *err)
{
    (void)pages;
    (void)plan;
    return pages_r < 0 ? ERR(err, pages_r, "pages") : 0;
}

static struct plan_limits limits;
static _Alignas(8) uint8_t plan[SAMPLE_BYTES];
static size_t plan_bytes;
static struct plan_view view;

static int setup(void **state)
{
    (void)state;
    struct plan_writer *writer;
    limits = sample_limits;
    limits.rank_count = 1;
    header.geometry.page_bytes = PAGE_BYTES;
    forward_count = rows_most = 0;
    forward_r = pages_r = 0;
    is_nan = false;
    for (uint32_t i = 0; i < 32; i++) sums[0][i] = hash64(payload + i * PAGE_BYTES, PAGE_BYTES);
    if (plan_writer_new(&limits, &writer) < 0) return -1;
    plan_bytes = sample_plan(writer, plan);
    plan_writer_free(writer);
    return plan_verify(plan, plan_bytes, &limits, &view, NULL);
}

/* Runs the sample plan. -> the status; the completion in done, verified. */
static int run_step(uint32_t logits_max, uint64_t epoch, uint8_t *done, size_t *ret_bytes,
                    struct done_view *ret_view)
{
    struct step_conf conf = {.limits = &limits, .epoch = epoch, .threads = 3, .logits_max = logits_max};
    struct step *step;
    struct err err = {0};
    assert_int_equal(step_new(&conf, &step, &err), 0);
    int r = step_run(step, plan, plan_bytes, done, done_bytes_max(&limits), ret_bytes, &err);
    step_free(step);
    if (done_verify(done, *ret_bytes, &limits, &view, ret_view, &err) < 0) fail_msg("%s", err.text);
    assert_int_equal(ret_view->header->status, r);
    return r;
}

static void *done_new(void)
{
    void *done = calloc(1, done_bytes_max(&limits));
    assert_non_null(done);
    return done;
}

static void test_step_samples_scores_and_seals(void **state)
{
    (void)state;
    uint8_t *done = done_new();
    size_t bytes;
    struct done_view out;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), 0);
    assert_int_equal(forward_count, 1);
    // The scores, against the definition: a log-softmax in double.
    const struct plan_seq *asked = &view.seqs[1];
    for (uint32_t i = 0; i < asked->token_count; i++) {
        uint32_t x = view.tokens[asked->token_first + i];
        uint32_t target = i + 1 < asked->token_count ? view.tokens[asked->token_first + i + 1] : 999;
        double sum = 0;
        uint32_t rank = 1;
        for (uint32_t t = 0; t < VOCAB; t++) {
            sum += exp(logit_of(x, t));
            rank += logit_of(x, t) > logit_of(x, target) ||
                    (logit_of(x, t) == logit_of(x, target) && t < target);
        }
        const struct done_score *score = &out.scores[out.seqs[1].score_first + i];
        assert_int_equal(score->token, target);
        assert_true(fabs(score->logprob - (logit_of(x, target) - log(sum))) < 1e-4);
        assert_true(score->rank <= rank); // equal logits may count as one rank
        assert_int_equal(score->top_count, 1);
    }
    // Greedy with a bias of 2.5 on token 8, in the sequence that scores as well.
    uint32_t x = view.tokens[view.seqs[2].token_first + 15], best = 0;
    for (uint32_t t = 0; t < VOCAB; t++) {
        float logit = logit_of(x, t) + (t == 8 ? 2.5f : t == 7 ? -1e30f : 0), most = logit_of(x, best);
        if (best == 8) most += 2.5f;
        if (logit > most) best = t;
    }
    assert_int_equal(out.seqs[2].token, best);
    assert_int_equal(out.seqs[2].score_count, 16);
    assert_int_equal(out.scores[out.seqs[2].score_first + 15].token, PLAN_TOKEN_NONE);
    assert_int_equal(out.seqs[0].top_count, 3);
    // Pages 2, 3 and 5 are full.
    const uint32_t full[] = {2, 3, 5};
    assert_int_equal(out.header->seal_count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(out.seals[i].page_idx, full[i]);
        assert_true(out.seals[i].checksum == hash64(payload + full[i] * PAGE_BYTES, PAGE_BYTES));
    }
    free(done);
}

/* The end of a cached prefix: the first ten positions of page 2 come from page 20, the others are computed. */
static void test_step_copies_before_it_computes(void **state)
{
    (void)state;
    uint8_t *done = done_new(), *from = payload + 20 * PAGE_BYTES, *to = payload + 2 * PAGE_BYTES;
    size_t bytes;
    struct done_view out;
    for (uint32_t i = 0; i < PAGE_BYTES; i++) from[i] = (uint8_t)(i * 7 + 1);
    memset(to, 0xFF, PAGE_BYTES);
    pages_r = ERR_PEER;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), ERR_PEER);
    for (uint32_t i = 0; i < PAGE_BYTES; i++)
        assert_int_equal(to[i], 0xFF); // what was refused writes nothing
    pages_r = 0;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), 0);
    assert_memory_equal(to, from, 10 * 4);
    assert_memory_equal(to + 10 * 4, &view.tokens[view.seqs[1].token_first], 6 * 4);
    assert_true(out.seals[0].checksum == hash64(to, PAGE_BYTES));
    free(done);
}

static void test_step_in_pieces_is_the_same_step(void **state)
{
    (void)state;
    uint8_t *whole = done_new(), *pieces = done_new();
    size_t whole_bytes, bytes;
    struct done_view out;
    assert_int_equal(run_step(64, 44, whole, &whole_bytes, &out), 0);
    for (uint32_t logits_max = 1; logits_max < 50; logits_max += 7) {
        forward_count = rows_most = 0;
        assert_int_equal(run_step(logits_max, 44, pieces, &bytes, &out), 0);
        uint32_t rows = 1 + 27 + 16; // of the plan that need logits: all but none
        assert_int_equal(forward_count, (rows + logits_max - 1) / logits_max);
        assert_true(rows_most <= logits_max);
        assert_int_equal(bytes, whole_bytes);
        assert_memory_equal(pieces + sizeof(struct done_header), whole + sizeof(struct done_header),
                            bytes - sizeof(struct done_header));
    }
    free(whole);
    free(pieces);
}

static void test_step_failures_are_answers(void **state)
{
    (void)state;
    uint8_t *done = done_new();
    size_t bytes;
    struct done_view out;
    forward_r = -EIO;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), -EIO);
    assert_int_equal(bytes, sizeof(struct done_header));
    forward_r = 0;
    is_nan = true;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), ERR_FORMAT);
    is_nan = false;
    pages_r = ERR_PEER;
    forward_count = 0;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), ERR_PEER);
    assert_int_equal(forward_count, 0); // nothing was written
    free(done);
}

/* One bit in any page that is to be checked, and nothing is computed. Others are not looked at. */
static void test_step_reads_no_page_that_fails_its_check(void **state)
{
    (void)state;
    uint8_t *done = done_new();
    size_t bytes;
    struct done_view out;
    for (uint32_t bit = 0; bit < 32 * PAGE_BYTES * 8; bit += 61) {
        uint32_t page_idx = bit / (PAGE_BYTES * 8);
        bool is_checked = page_idx == 0 || page_idx == 9 || page_idx == 4;
        if (!is_checked && bit % 7) continue; // the others compute the step: fewer of them
        uint8_t before[sizeof payload];
        memcpy(before, payload, sizeof before);
        payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
        forward_count = 0;
        assert_int_equal(run_step(64, 44, done, &bytes, &out), is_checked ? -EBADMSG : 0);
        assert_int_equal(forward_count, !is_checked);
        assert_int_equal(out.header->bad_count, is_checked);
        if (is_checked) assert_int_equal(out.bads[0].page_idx, page_idx);
        if (is_checked) assert_int_equal(out.bads[0].generation, page_idx + 1);
        memcpy(payload, before, sizeof before);
    }
    payload[0] ^= 1;
    payload[4 * PAGE_BYTES] ^= 1;
    assert_int_equal(run_step(64, 44, done, &bytes, &out), -EBADMSG);
    assert_int_equal(out.header->bad_count, 2);
    assert_int_equal(out.bads[1].page_idx, 4);
    free(done);
}

static void test_step_refuses_another_epoch_and_what_is_no_plan(void **state)
{
    (void)state;
    uint8_t *done = done_new();
    size_t bytes;
    struct err err = {0};
    struct step *step;
    struct step_conf conf = {.limits = &limits, .epoch = 45, .threads = 1, .logits_max = 4};
    assert_int_equal(step_new(&conf, &step, &err), 0);
    for (size_t len = 0; len <= plan_bytes; len += 4) { // whole, it is of epoch 44
        assert_int_equal(step_run(step, plan, len, done, done_bytes_max(&limits), &bytes, &err), ERR_PEER);
        assert_int_equal(bytes, sizeof(struct done_header));
    }
    assert_int_equal(forward_count, 0);
    step_free(step);
    free(done);
}

/* Two ranks with payload of their own and the same logits. The status that each comes to is in memory, then rank 0's
 * completion. */
struct ranks_result {
    int status[2];
    uint64_t sum[2]; // of page 2 as this rank has it
    size_t done_bytes;
    _Alignas(8) uint8_t done[1 << 20];
};

static uint32_t bad_rank, bad_page; // whose page bad_page is damaged; bad_page 32: nobody's
static int refused_r;               // of rank 1's pages_check
static bool sampling_fails;

static int run_as_rank(struct ranks_rig *rig, uint32_t rank)
{
    struct ranks_result *result = rig->memory;
    struct dist *dist = ranks_rig_dist(rig, rank);
    struct step_conf conf = {
        .limits = &limits, .epoch = 44, .rank = rank, .threads = 1, .logits_max = 4, .dist = dist};
    struct step *step;
    struct err err = {0};
    size_t bytes;
    for (size_t i = 0; i < sizeof payload; i++) payload[i] ^= 0x55;
    for (uint32_t i = 0; i < 32; i++) sums[1][i] = hash64(payload + i * PAGE_BYTES, PAGE_BYTES);
    for (size_t i = 0; rank == 0 && i < sizeof payload; i++) payload[i] ^= 0x55;
    if (bad_page < 32 && rank == bad_rank) payload[bad_page * PAGE_BYTES + 7] ^= 1;
    pages_r = rank == 1 ? refused_r : 0;
    is_nan = sampling_fails && rank == 0;
    if (step_new(&conf, &step, &err) < 0) return 2;
    result->status[rank] = step_run(step, plan, plan_bytes, rank == 0 ? result->done : NULL,
                                    rank == 0 ? done_bytes_max(&limits) : 0, &bytes, &err);
    if (rank == 0) result->done_bytes = bytes;
    else if (bytes != 0) return 3;
    result->sum[rank] = hash64(payload + 2 * PAGE_BYTES, PAGE_BYTES);
    step_free(step);
    dist_close(dist);
    return 0;
}

/* wanted: the status of both. -> the completion, verified, until the next call. */
static const struct ranks_result *run_ranks(int wanted, struct done_view *ret_view)
{
    static struct ranks_result result;
    struct ranks_rig rig;
    struct err err = {0};
    limits.rank_count = 2;
    assert_true(done_bytes_max(&limits) <= sizeof result.done);
    struct exchange_shape shape = exchange_shape_of(&limits, 2);
    shape.embedding_dims = shape.attention_dims = shape.feed_forward_dims = 32;
    ranks_rig_open(&shape, sizeof result, &rig);
    int failed = ranks_rig_run(&rig, run_as_rank);
    memcpy(&result, rig.memory, sizeof result);
    ranks_rig_close(&rig);
    assert_int_equal(failed, 0);
    assert_int_equal(result.status[0], wanted);
    assert_int_equal(result.status[1], wanted);
    if (done_verify(result.done, result.done_bytes, &limits, &view, ret_view, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(ret_view->header->status, wanted);
    return &result;
}

static void test_step_of_two_ranks_is_answered_with_the_sums_of_both(void **state)
{
    (void)state;
    struct done_view out;
    bad_page = 32;
    refused_r = 0;
    sampling_fails = false;
    const struct ranks_result *result = run_ranks(0, &out);
    assert_int_equal(out.header->seal_count, 6); // pages 2, 3 and 5, each of both
    assert_int_equal(out.seals[0].page_idx, 2);
    assert_true(out.seals[0].checksum == result->sum[0]);
    assert_true(out.seals[1].checksum == result->sum[1]);
    assert_true(result->sum[0] != result->sum[1]);
}

static void test_step_of_two_ranks_fails_in_both(void **state)
{
    (void)state;
    struct done_view out;
    refused_r = 0;
    sampling_fails = false;
    for (bad_rank = 0; bad_rank < 2; bad_rank++) {
        bad_page = 9;
        (void)run_ranks(-EBADMSG, &out);
        assert_int_equal(out.header->bad_count, 1);
        assert_int_equal(out.bads[0].page_idx, 9);
    }
    bad_page = 32;
    refused_r = ERR_PEER;
    (void)run_ranks(ERR_PEER, &out);
    refused_r = 0;
    sampling_fails = true;
    (void)run_ranks(ERR_FORMAT, &out);
}

static void test_step_logits_max_holds_a_row_of_every_sequence(void **state)
{
    (void)state;
    struct plan_limits some = {.seqs_max = 256, .tokens_max = 8192, .vocab_count = 49152};
    assert_int_equal(step_logits_max(&some), 682); // 128 MiB / (4 * 49152)
    some.vocab_count = MODEL_VOCAB_MAX;
    assert_int_equal(step_logits_max(&some), 256);
    some.tokens_max = 16;
    assert_int_equal(step_logits_max(&some), 16);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        CASE(test_step_samples_scores_and_seals),
        CASE(test_step_copies_before_it_computes),
        CASE(test_step_in_pieces_is_the_same_step),
        CASE(test_step_failures_are_answers),
        CASE(test_step_reads_no_page_that_fails_its_check),
        CASE(test_step_refuses_another_epoch_and_what_is_no_plan),
        CASE(test_step_of_two_ranks_is_answered_with_the_sums_of_both),
        CASE(test_step_of_two_ranks_fails_in_both),
        CASE(test_step_logits_max_holds_a_row_of_every_sequence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
