/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>

#include "tests/unit/guard.h"
#include "tests/unit/plan_sample.h"

struct fixture {
    _Alignas(8) uint8_t plan[SAMPLE_BYTES];
    _Alignas(8) uint8_t done[SAMPLE_BYTES];
    size_t plan_bytes, done_bytes;
    struct plan_view plan_view;
    struct done_view done_view;
    struct plan_writer *plan_writer;
    struct done_writer *done_writer;
    struct guard guard;
    struct err err;
};

static int setup(void **state)
{
    static struct fixture f;
    f = (struct fixture){.plan_bytes = 0};
    if (plan_writer_new(&sample_limits, &f.plan_writer) < 0) return -1;
    if (done_writer_new(&sample_limits, &f.done_writer) < 0) return -1;
    f.plan_bytes = sample_plan(f.plan_writer, f.plan);
    if (plan_verify(f.plan, f.plan_bytes, &sample_limits, &f.plan_view, &f.err) < 0) return -1;
    f.done_bytes = sample_done(f.done_writer, &f.plan_view, f.done);
    if (done_verify(f.done, f.done_bytes, &sample_limits, &f.plan_view, &f.done_view, &f.err) < 0) return -1;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    plan_writer_free(f->plan_writer);
    done_writer_free(f->done_writer);
    guard_done(&f->guard);
    return 0;
}

/* Verifies a copy whose end is the end of memory. Lengths that are no multiple of 8 are cut below alignment. */
static int verify_plan(struct fixture *f, size_t len)
{
    struct plan_view view;
    const uint8_t *copy = guard_copy(&f->guard, f->plan, len);
    if ((uintptr_t)copy % 8 != 0) return plan_verify(f->plan, len, &sample_limits, &view, &f->err);
    return plan_verify(copy, len, &sample_limits, &view, &f->err);
}

static int verify_done(struct fixture *f, size_t len)
{
    struct done_view view;
    const uint8_t *copy = guard_copy(&f->guard, f->done, len);
    if ((uintptr_t)copy % 8 != 0)
        return done_verify(f->done, len, &sample_limits, &f->plan_view, &view, &f->err);
    return done_verify(copy, len, &sample_limits, &f->plan_view, &view, &f->err);
}

static void test_plan_carries_what_was_written(void **state)
{
    struct fixture *f = *state;
    const struct plan_view *view = &f->plan_view;
    assert_int_equal(view->header->seq_count, 3);
    assert_int_equal(view->header->token_count, 1 + 27 + 16);
    assert_int_equal(view->header->step, 3);
    assert_int_equal(view->header->epoch, 44);
    assert_int_equal(view->seqs[1].seq_id, 12);
    assert_int_equal(view->tokens[view->seqs[1].token_first], 101);
    assert_int_equal(view->pages[view->seqs[2].page_first].page_idx, 5);
    assert_int_equal(view->history[4], 104);
    assert_true(view->biases[1].bias == 2.5f);
    assert_int_equal(view->header->copy_count, 1);
    assert_int_equal(view->copies[0].page_idx, 20);
    uint32_t first;
    assert_int_equal(plan_seq_filled(&view->seqs[0], 16, &first), 0);
    assert_int_equal(plan_seq_filled(&view->seqs[1], 16, &first), 2);
    assert_int_equal(first, 0);
    assert_int_equal(f->done_view.header->seal_count, (2 + 1) * 2);
    assert_int_equal(f->done_view.header->score_count, 27 + 16);
    assert_int_equal(f->done_view.seals[5].page_idx, 5);
}

static void test_plan_every_prefix_is_refused(void **state)
{
    struct fixture *f = *state;
    for (size_t len = 0; len < f->plan_bytes; len++) assert_int_equal(verify_plan(f, len), ERR_PEER);
    for (size_t len = 0; len < f->done_bytes; len++) assert_int_equal(verify_done(f, len), ERR_PEER);
    assert_int_equal(verify_plan(f, f->plan_bytes), 0);
    assert_int_equal(verify_done(f, f->done_bytes), 0);
    assert_int_equal(verify_plan(f, f->plan_bytes + 8), ERR_PEER); // and what is too long
    assert_int_equal(verify_done(f, f->done_bytes + 8), ERR_PEER);
}

/* Every byte changed in turn, the buffer ending at the end of memory: refused or not, but no fault; and what
 * is accepted keeps the promises that code behind relies on. */
static void test_plan_every_changed_byte_is_safe(void **state)
{
    struct fixture *f = *state;
    unsigned refused = 0;
    for (size_t i = 0; i < f->plan_bytes; i++) {
        uint8_t was = f->plan[i];
        for (int bit = 0; bit < 8; bit++) {
            f->plan[i] = (uint8_t)(was ^ 1 << bit);
            refused += verify_plan(f, f->plan_bytes) < 0;
        }
        f->plan[i] = was;
    }
    assert_true(refused > 0);
    for (size_t i = 0; i < f->done_bytes; i++) {
        uint8_t was = f->done[i];
        for (int bit = 0; bit < 8; bit++) {
            f->done[i] = (uint8_t)(was ^ 1 << bit);
            (void)verify_done(f, f->done_bytes);
        }
        f->done[i] = was;
    }
    assert_int_equal(verify_plan(f, f->plan_bytes), 0);
    assert_int_equal(verify_done(f, f->done_bytes), 0);
}

static void refuse_u32(struct fixture *f, const uint32_t *field, uint32_t value)
{
    uint32_t *at = (uint32_t *)field, was = *at;
    bool in_plan = (uint8_t *)at >= f->plan && (uint8_t *)at < f->plan + sizeof f->plan;
    *at = value;
    if (in_plan) assert_int_equal(verify_plan(f, f->plan_bytes), ERR_PEER);
    else assert_int_equal(verify_done(f, f->done_bytes), ERR_PEER);
    *at = was;
}

static void refuse_f32(struct fixture *f, const float *field, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    refuse_u32(f, (const uint32_t *)field, bits);
}

static void test_plan_refuses_numbers_out_of_range(void **state)
{
    struct fixture *f = *state;
    const struct plan_header *header = f->plan_view.header;
    const struct plan_seq *seqs = f->plan_view.seqs;
    const uint32_t *counts[] = {&header->seq_count,     &header->token_count, &header->page_count,
                                &header->history_count, &header->bias_count,  &header->copy_count,
                                &header->check_count};
    const uint32_t values[] = {0, 1000, UINT32_MAX, UINT32_MAX / 112 + 1, UINT32_MAX / 2};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) refuse_u32(f, counts[i], values[v]);
    refuse_u32(f, &header->magic, DONE_MAGIC);
    refuse_u32(f, &header->bytes, (uint32_t)f->plan_bytes - 1);
    refuse_u32(f, (const uint32_t *)&header->step, 0);
    refuse_u32(f, &header->reserved[2], 1);
    refuse_u32(f, &f->plan_view.checks[2].page_idx, 32);
    refuse_u32(f, &f->plan_view.checks[0].generation, 0);
    refuse_u32(f, &f->plan_view.tokens[43], 1000);
    refuse_u32(f, &f->plan_view.history[4], UINT32_MAX);
    refuse_u32(f, &f->plan_view.history[5], 1); // padding
    refuse_u32(f, &f->plan_view.pages[5].page_idx, 32);
    refuse_u32(f, &f->plan_view.pages[0].generation, 0);
    refuse_u32(f, &f->plan_view.biases[1].token, 1000);
    refuse_f32(f, &f->plan_view.biases[1].bias, NAN);
    refuse_f32(f, &f->plan_view.biases[1].bias, INFINITY);
    refuse_u32(f, &seqs[0].flags, 4);
    refuse_u32(f, &seqs[0].token_first, 1);  // a gap
    refuse_u32(f, &seqs[1].token_first, 0);  // an overlap
    refuse_u32(f, &seqs[1].token_count, 26); // a gap behind it
    refuse_u32(f, &seqs[2].token_count, 15); // a row of nobody
    refuse_u32(f, &seqs[2].token_count, 17); // a row past the end
    refuse_u32(f, &seqs[2].token_count, UINT32_MAX);
    refuse_u32(f, &seqs[2].token_count, 0);
    refuse_u32(f, &seqs[0].pos_first, 32); // three pages
    refuse_u32(f, &seqs[0].pos_first, 15); // one page
    refuse_u32(f, &seqs[0].pos_first, UINT32_MAX);
    refuse_u32(f, &seqs[0].pos_first, MODEL_CONTEXT_MAX);
    refuse_u32(f, &seqs[2].page_first, 6);
    refuse_u32(f, &seqs[2].page_first, UINT32_MAX);
    refuse_u32(f, &seqs[2].page_count, 2);
    refuse_u32(f, &seqs[0].history_first, 1);
    refuse_u32(f, &seqs[0].history_first, UINT32_MAX);
    refuse_u32(f, &seqs[0].history_count, UINT32_MAX);
    refuse_u32(f, &seqs[0].history_prompt, 6);
    refuse_u32(f, &seqs[2].bias_first, 1);
    refuse_u32(f, &seqs[2].bias_count, UINT32_MAX);
    refuse_u32(f, &seqs[0].logprobs, LOGPROBS_MAX + 1);
    refuse_u32(f, &seqs[0].score_target, 1000);
    refuse_u32(f, (const uint32_t *)&seqs[0].top_k, (uint32_t)-1);
    refuse_u32(f, &seqs[0].adapter_id, 1);
    refuse_u32(f, &seqs[0].mask_first, 1);
    refuse_u32(f, &seqs[0].mask_words, 1);
    refuse_u32(f, &seqs[0].draft_count, 1);
    const float *finite[] = {&seqs[0].temperature,
                             &seqs[0].top_p,
                             &seqs[0].min_p,
                             &seqs[0].repetition_penalty,
                             &seqs[0].presence_penalty,
                             &seqs[0].frequency_penalty};
    for (size_t i = 0; i < sizeof finite / sizeof *finite; i++) {
        refuse_f32(f, finite[i], NAN);
        refuse_f32(f, finite[i], INFINITY);
        refuse_f32(f, finite[i], -INFINITY);
    }
    refuse_f32(f, &seqs[0].temperature, -0.01f);
    refuse_f32(f, &seqs[0].top_p, 0);
    refuse_f32(f, &seqs[0].top_p, 1.01f);
    refuse_f32(f, &seqs[0].min_p, -0.01f);
    refuse_f32(f, &seqs[0].min_p, 1.01f);
    refuse_f32(f, &seqs[0].repetition_penalty, 0);
}

static void test_plan_refuses_copies_that_do_not_fit(void **state)
{
    struct fixture *f = *state;
    const struct plan_copy *copy = f->plan_view.copies;
    refuse_u32(f, &copy->seq_idx, 0); // its rows begin elsewhere
    refuse_u32(f, &copy->seq_idx, 3);
    refuse_u32(f, &copy->token_count, 0);
    refuse_u32(f, &copy->token_count, 9);
    refuse_u32(f, &copy->token_count, 26);
    refuse_u32(f, &copy->page_idx, 32);
    refuse_u32(f, &copy->page_idx, 2); // to itself
    refuse_u32(f, &copy->generation, 0);
}

static void test_done_refuses_what_the_plan_did_not_ask(void **state)
{
    struct fixture *f = *state;
    const struct done_view *done = &f->done_view;
    const struct done_header *header = done->header;
    const uint32_t *counts[] = {&header->seq_count, &header->score_count, &header->top_count,
                                &header->seal_count};
    const uint32_t values[] = {0, 1, 100000, UINT32_MAX, UINT32_MAX / 40 + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) refuse_u32(f, counts[i], values[v]);
    refuse_u32(f, &header->magic, PLAN_MAGIC);
    refuse_u32(f, &header->bytes, 1);
    refuse_u32(f, (const uint32_t *)&header->step, 4);
    refuse_u32(f, (const uint32_t *)&header->epoch, 45);
    refuse_u32(f, (const uint32_t *)&header->status, 1);
    refuse_u32(f, (const uint32_t *)&header->status, (uint32_t)-5);       // failed, yet with content
    refuse_u32(f, (const uint32_t *)&header->status, (uint32_t)-EBADMSG); // with content, without a bad page
    refuse_u32(f, &header->bad_count, 1);
    refuse_u32(f, (const uint32_t *)&done->seqs[1].seq_id, 11);
    refuse_u32(f, &done->seqs[0].flags, 0);
    refuse_u32(f, &done->seqs[1].flags, DONE_SAMPLED);
    refuse_u32(f, &done->seqs[0].flags, DONE_SAMPLED | 2);
    refuse_u32(f, &done->seqs[0].token, 1000);
    refuse_f32(f, &done->seqs[0].logprob, 0.001f);
    refuse_f32(f, &done->seqs[0].logprob, NAN);
    refuse_u32(f, &done->seqs[0].rank, 0);
    refuse_u32(f, &done->seqs[0].rank, 1001);
    refuse_u32(f, &done->seqs[0].top_count, 4);
    refuse_u32(f, &done->seqs[0].top_first, UINT32_MAX);
    refuse_u32(f, &done->seqs[1].top_count, 1); // not sampled
    refuse_u32(f, &done->seqs[1].score_count, 26);
    refuse_u32(f, &done->seqs[1].score_first, 1);
    refuse_u32(f, &done->seqs[1].score_first, UINT32_MAX);
    refuse_u32(f, &done->seqs[0].score_count, 1);
    refuse_u32(f, &done->scores[3].token, 1);
    refuse_u32(f, &done->scores[26].token, 998);
    refuse_f32(f, &done->scores[3].logprob, NAN);
    refuse_u32(f, &done->scores[3].rank, 0);
    refuse_u32(f, &done->scores[3].reserved, 1);
    refuse_u32(f, &done->scores[42].rank, 1); // the row without a target
    refuse_u32(f, &done->tops[0].token, 1000);
    refuse_f32(f, &done->tops[0].logprob, NAN);
    refuse_f32(f, &done->tops[1].logprob, -0.1f); // likelier than the one before
    refuse_u32(f, &done->seals[0].page_idx, 9);
    refuse_u32(f, &done->seals[0].generation, 9);
    refuse_u32(f, &done->seals[1].rank, 0);
    refuse_u32(f, &done->seals[1].reserved, 1);
}

static void test_done_failed_step_is_a_header(void **state)
{
    struct fixture *f = *state;
    struct done_seq seq = {.seq_id = 11};
    done_writer_begin(f->done_writer, 3, 44);
    assert_int_equal(done_writer_seq(f->done_writer, &seq), 0);
    f->done_bytes = done_writer_finish(f->done_writer, ERR_FORMAT, 1, 1, 1, f->done, sizeof f->done);
    assert_int_equal(f->done_bytes, sizeof(struct done_header));
    assert_int_equal(verify_done(f, f->done_bytes), 0);
}

static size_t corrupt_done(struct fixture *f, const struct plan_page *bads, uint32_t count)
{
    done_writer_begin(f->done_writer, 3, 44);
    for (uint32_t i = 0; i < count; i++) assert_int_equal(done_writer_bad(f->done_writer, bads[i]), i);
    f->done_bytes = done_writer_finish(f->done_writer, -EBADMSG, 1, 1, 1, f->done, sizeof f->done);
    return f->done_bytes;
}

/* Pages 0, 9 and 4 were to be checked, in this order. */
static void test_done_names_bad_pages_that_were_to_be_checked(void **state)
{
    struct fixture *f = *state;
    const struct plan_page all[] = {{0, 1}, {9, 10}, {4, 5}}, turned[] = {{4, 5}, {0, 1}}, other[] = {{5, 6}},
                           older[] = {{9, 9}}, twice[] = {{9, 10}, {9, 10}};
    for (uint32_t first = 0; first < 3; first++)
        for (uint32_t count = 1; first + count <= 3; count++) {
            size_t bytes = corrupt_done(f, all + first, count);
            assert_int_equal(bytes, sizeof(struct done_header) + count * sizeof(struct plan_page));
            assert_int_equal(verify_done(f, bytes), 0);
            assert_int_equal(verify_done(f, bytes - 8), ERR_PEER);
        }
    assert_int_equal(verify_done(f, corrupt_done(f, turned, 2)), ERR_PEER);
    assert_int_equal(verify_done(f, corrupt_done(f, other, 1)), ERR_PEER);
    assert_int_equal(verify_done(f, corrupt_done(f, older, 1)), ERR_PEER);
    assert_int_equal(verify_done(f, corrupt_done(f, twice, 2)), ERR_PEER);
}

static void test_plan_writer_stops_at_its_limits(void **state)
{
    struct fixture *f = *state;
    struct plan_writer *writer = f->plan_writer;
    uint32_t tokens[65] = {0};
    struct plan_page pages[16] = {{0, 1}};
    struct plan_seq seq = sample_seq(1);
    struct plan_limits room;
    plan_writer_begin(writer, 1, 1);
    assert_int_equal(plan_writer_tokens(writer, tokens, 65), -ENOSPC);
    assert_int_equal(plan_writer_tokens(writer, tokens, 60), 0);
    assert_int_equal(plan_writer_tokens(writer, tokens, 5), -ENOSPC);
    assert_int_equal(plan_writer_tokens(writer, tokens, 4), 60);
    assert_int_equal(plan_writer_pages(writer, pages, 10), 0);
    assert_int_equal(plan_writer_tokens(writer, tokens, 0), 64);
    for (int i = 0; i < 4; i++) assert_int_equal(plan_writer_seq(writer, &seq), i);
    struct plan_copy copy = {.seq_idx = 0};
    for (int i = 0; i < 4; i++) assert_int_equal(plan_writer_copy(writer, &copy), i);
    assert_int_equal(plan_writer_copy(writer, &copy), -ENOSPC);
    assert_int_equal(plan_writer_seq(writer, &seq), -ENOSPC);
    for (int i = 0; i < 16 + 4; i++) assert_int_equal(plan_writer_check(writer, pages[0]), i);
    assert_int_equal(plan_writer_check(writer, pages[0]), -ENOSPC);
    plan_writer_room(writer, &room);
    assert_int_equal(room.seqs_max, 0);
    assert_int_equal(room.tokens_max, 0);
    assert_int_equal(room.pages_max, 6);
    assert_int_equal(room.history_max, 16);
    assert_int_equal(room.vocab_count, 1000);
    assert_int_equal(plan_writer_seq_count(writer), 4);
    assert_int_equal(plan_writer_token_count(writer), 64);
    plan_writer_begin(writer, 2, 1);
    assert_int_equal(plan_writer_token_count(writer), 0);
}

static void test_plan_limits_are_bounded(void **state)
{
    (void)state;
    struct plan_limits limits = sample_limits;
    assert_int_equal(plan_limits_verify(&limits, NULL), 0);
    uint32_t *fields[] = {&limits.seqs_max,    &limits.tokens_max,  &limits.pages_max,
                          &limits.history_max, &limits.biases_max,  &limits.pool_pages,
                          &limits.vocab_count, &limits.page_tokens, &limits.rank_count};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        uint32_t was = *fields[i];
        *fields[i] = UINT32_MAX;
        assert_int_equal(plan_limits_verify(&limits, NULL), ERR_LIMIT);
        *fields[i] = was;
    }
    limits.page_tokens = 0;
    assert_int_equal(plan_limits_verify(&limits, NULL), ERR_LIMIT);
    limits = (struct plan_limits){
        .seqs_max = PLAN_SEQS_MAX,
        .tokens_max = PLAN_TOKENS_MAX,
        .pages_max = 1 << 16,
        .history_max = 1 << 20,
        .biases_max = 1 << 16,
        .pool_pages = PAGES_MAX,
        .vocab_count = MODEL_VOCAB_MAX,
        .page_tokens = PAGE_TOKENS,
    };
    assert_int_equal(plan_limits_verify(&limits, NULL), 0);
}

/* The worker can write to the slot from the moment that it sees it. */
static void test_plan_writer_view_does_not_need_the_slot(void **state)
{
    struct fixture *f = *state;
    struct plan_view kept;
    plan_writer_view(f->plan_writer, &kept);
    for (uint32_t i = 0; i < kept.header->seq_count; i++) {
        const struct plan_seq *seq = &kept.seqs[i];
        uint32_t first, count = plan_seq_filled(seq, sample_limits.page_tokens, &first);
        assert_memory_equal(seq, &f->plan_view.seqs[i], sizeof *seq);
        assert_memory_equal(kept.pages + seq->page_first + first,
                            f->plan_view.pages + seq->page_first + first, count * sizeof *kept.pages);
    }
    assert_memory_equal(kept.tokens, f->plan_view.tokens, kept.header->token_count * sizeof *kept.tokens);
    memset(f->plan, 0xFF, sizeof f->plan);
    assert_int_equal(done_verify(f->done, f->done_bytes, &sample_limits, &kept, &f->done_view, &f->err), 0);
}

static void test_plan_writer_adds_a_sequence_whole_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    struct plan_writer *writer = f->plan_writer;
    uint32_t tokens[65] = {0};
    const struct plan_page pages[40] = {{1, 1}};
    plan_writer_begin(writer, 1, 1);
    assert_null(plan_writer_add(writer, tokens, 65, pages, 5));
    assert_null(plan_writer_add(writer, tokens, 1, pages, sample_limits.pages_max + 1));
    assert_int_equal(plan_writer_seq_count(writer), 0);
    assert_int_equal(plan_writer_token_count(writer), 0);
    for (uint32_t i = 0; i < 4; i++) {
        const struct plan_seq *seq = plan_writer_add(writer, tokens, 1 + i, pages, 2);
        assert_non_null(seq);
        assert_int_equal(seq->token_first, i * (i + 1) / 2);
        assert_int_equal(seq->token_count, 1 + i);
        assert_int_equal(seq->page_first, 2 * i);
        assert_int_equal(seq->page_count, 2);
    }
    assert_null(plan_writer_add(writer, tokens, 1, pages, 0));
    assert_int_equal(plan_writer_seq_count(writer), 4);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_plan_carries_what_was_written),
        CASE(test_plan_every_prefix_is_refused),
        CASE(test_plan_every_changed_byte_is_safe),
        CASE(test_plan_refuses_numbers_out_of_range),
        CASE(test_done_refuses_what_the_plan_did_not_ask),
        CASE(test_done_failed_step_is_a_header),
        CASE(test_done_names_bad_pages_that_were_to_be_checked),
        CASE(test_plan_writer_stops_at_its_limits),
        CASE(test_plan_limits_are_bounded),
        CASE(test_plan_refuses_copies_that_do_not_fit),
        CASE(test_plan_writer_view_does_not_need_the_slot),
        CASE(test_plan_writer_adds_a_sequence_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
