/* SPDX-License-Identifier: Apache-2.0 */
/* Verifies bytes as a plan and as the completion of a good plan. What is accepted is then walked the way a
 * step walks it: every index that verification vouched for is used. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "tests/unit/plan_sample.h"

static volatile uint64_t sink; // keeps the walk

static void walk_plan(const struct plan_view *plan)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < plan->header->seq_count; s++) {
        const struct plan_seq *seq = &plan->seqs[s];
        for (uint32_t i = 0; i < seq->token_count; i++) sum += plan->tokens[seq->token_first + i];
        for (uint32_t i = 0; i < seq->page_count; i++) sum += plan->pages[seq->page_first + i].page_idx;
        for (uint32_t i = 0; i < seq->history_count; i++) sum += plan->history[seq->history_first + i];
        for (uint32_t i = 0; i < seq->bias_count; i++) sum += plan->biases[seq->bias_first + i].token;
        uint32_t first, count = plan_seq_filled(seq, sample_limits.page_tokens, &first);
        for (uint32_t i = 0; i < count; i++) sum += plan->pages[seq->page_first + first + i].generation;
        if (first + count > seq->page_count) abort();
    }
    for (uint32_t i = 0; i < plan->header->copy_count; i++) {
        const struct plan_copy *copy = &plan->copies[i];
        const struct plan_seq *seq = &plan->seqs[copy->seq_idx];
        uint32_t to = plan->pages[seq->page_first + seq->pos_first / sample_limits.page_tokens].page_idx;
        if (to == copy->page_idx || copy->page_idx >= sample_limits.pool_pages) abort();
    }
    for (uint32_t i = 0; i < plan->header->check_count; i++) {
        if (plan->checks[i].page_idx >= sample_limits.pool_pages) abort();
        sum += plan->checks[i].generation;
    }
    sink = sum;
}

static void walk_done(const struct done_view *done)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < done->header->seq_count; s++) {
        const struct done_seq *seq = &done->seqs[s];
        for (uint32_t i = 0; i < seq->top_count; i++) sum += done->tops[seq->top_first + i].token;
        for (uint32_t i = 0; i < seq->score_count; i++) {
            const struct done_score *score = &done->scores[seq->score_first + i];
            for (uint32_t k = 0; k < score->top_count; k++) sum += done->tops[score->top_first + k].token;
        }
    }
    for (uint32_t i = 0; i < done->header->seal_count; i++) {
        if (done->seals[i].page_idx >= sample_limits.pool_pages) abort();
        sum += done->seals[i].checksum;
    }
    for (uint32_t i = 0; i < done->header->bad_count; i++) {
        if (done->bads[i].page_idx >= sample_limits.pool_pages) abort();
        sum += done->bads[i].generation;
    }
    sink = sum;
}

/* First byte: mutate the good plan, the good completion, or take the rest as it is. Mutation: each 4 bytes of
 * input are (offset u16, value u8, how u8) applied to the good bytes, lengths as they were. */
static size_t mutate(uint8_t *bytes, size_t len, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 4 <= size; i += 4) {
        size_t at = (size_t)(data[i] | data[i + 1] << 8) % len;
        if (data[i + 3] & 1) bytes[at] ^= data[i + 2];
        else bytes[at] = data[i + 2];
    }
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t good_plan[SAMPLE_BYTES] __attribute__((aligned(8))),
        good_done[SAMPLE_BYTES] __attribute__((aligned(8)));
    static size_t plan_len, done_len;
    static struct plan_view plan;
    if (plan_len == 0) {
        struct plan_writer *plan_writer;
        struct done_writer *done_writer;
        if (plan_writer_new(&sample_limits, &plan_writer) < 0) abort();
        if (done_writer_new(&sample_limits, &done_writer) < 0) abort();
        plan_len = sample_plan(plan_writer, good_plan);
        if (plan_verify(good_plan, plan_len, &sample_limits, &plan, NULL) < 0) abort();
        done_len = sample_done(done_writer, &plan, good_done);
        plan_writer_free(plan_writer);
        done_writer_free(done_writer);
    }
    if (size < 1) return 0;
    unsigned how = data[0] % 4;
    bool is_plan = how % 2 == 0;
    data++;
    size--;
    size_t len = how >= 2 ? size : is_plan ? plan_len : done_len;
    uint8_t *bytes = malloc(len > 0 ? len : 1); // exactly as long, so that ASan sees one byte too many
    if (!bytes) abort();
    if (how >= 2) {
        memcpy(bytes, data, size);
    } else {
        memcpy(bytes, is_plan ? good_plan : good_done, len);
        (void)mutate(bytes, len, data, size); // the length stays
    }
    struct plan_view view;
    struct done_view done;
    struct err err;
    if (is_plan && plan_verify(bytes, len, &sample_limits, &view, &err) == 0) walk_plan(&view);
    if (!is_plan && done_verify(bytes, len, &sample_limits, &plan, &done, &err) == 0) walk_done(&done);
    free(bytes);
    return 0;
}
