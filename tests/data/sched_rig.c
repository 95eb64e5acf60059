/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/data/sched_rig.h"

#include <errno.h>
#include <stdlib.h>

#include "common/base/check.h"
#include "tests/data/pool_rig.h"

enum { VOCAB = 1 << 15 };

int sched_rig_open(struct sched_rig *rig, uint32_t pages, const struct sched_conf *conf)
{
    *rig = (struct sched_rig){.conf = *conf, .now_ns = 1};
    int r = pool_rig_open(pages, &rig->meta, &rig->pool);
    if (r == 0) r = prefix_new(rig->pool, &rig->prefix);
    if (r == 0) r = sched_new(&rig->conf, rig->pool, rig->prefix, &rig->sched);
    if (r == 0) sched_plan_limits(&rig->conf, pool_geometry(rig->pool), VOCAB, &rig->limits);
    if (r == 0) r = plan_writer_new(&rig->limits, &rig->writer);
    if (r == 0) r = done_writer_new(&rig->limits, &rig->answer);
    if (r < 0) {
        sched_rig_close(rig);
        return r;
    }
    rig->plan_size = plan_bytes_max(&rig->limits);
    rig->done_size = done_bytes_max(&rig->limits);
    rig->plan_bytes = malloc(rig->plan_size);
    rig->done_bytes = malloc(rig->done_size);
    rig->events = calloc(2 * (size_t)conf->seqs_max, sizeof *rig->events);
    if (rig->plan_bytes && rig->done_bytes && rig->events) return 0;
    sched_rig_close(rig);
    return -ENOMEM;
}

void sched_rig_close(struct sched_rig *rig)
{
    plan_writer_free(rig->writer);
    done_writer_free(rig->answer);
    sched_free(rig->sched);
    prefix_free(rig->prefix);
    pool_free(rig->pool);
    free(rig->meta);
    free(rig->plan_bytes);
    free(rig->done_bytes);
    free(rig->events);
    *rig = (struct sched_rig){0};
}

int sched_rig_submit(struct sched_rig *rig, const struct sched_request *request, uint64_t *ret_seq_id)
{
    struct sched_request copy = *request;
    copy.arrival_ns = rig->now_ns;
    copy.params = (struct plan_seq){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    return sched_submit(rig->sched, &copy, ret_seq_id);
}

int sched_rig_plan(struct sched_rig *rig)
{
    int seqs = sched_plan(rig->sched, 0, rig->now_ns, rig->writer);
    if (seqs <= 0) return seqs;
    size_t bytes = plan_writer_finish(rig->writer, rig->plan_bytes, rig->plan_size);
    int r = plan_verify(rig->plan_bytes, bytes, &rig->limits, &rig->plan, NULL);
    CHECK(r == 0);
    return seqs;
}

static void seq_answer(struct sched_rig *rig, const struct plan_seq *seq)
{
    struct done_seq out = {.seq_id = seq->seq_id};
    uint32_t first, count = plan_seq_filled(seq, PAGE_TOKENS, &first);
    for (uint32_t i = 0; i < count; i++) {
        const struct plan_page *page = &rig->plan.pages[seq->page_first + first + i];
        struct done_seal seal = {.page_idx = page->page_idx, .generation = page->generation, .checksum = 1};
        int r = done_writer_seal(rig->answer, &seal);
        CHECK(r >= 0);
    }
    if (seq->flags & PLAN_SAMPLE) {
        uint64_t at[2] = {seq->seq_id, seq->pos_first + seq->token_count};
        out.flags = DONE_SAMPLED;
        out.token = (uint32_t)(hash64(at, sizeof at) % VOCAB);
        out.logprob = -1;
        out.rank = 1;
    }
    int r = done_writer_seq(rig->answer, &out);
    CHECK(r >= 0);
}

size_t sched_rig_answer_write(struct sched_rig *rig)
{
    const struct plan_header *header = rig->plan.header;
    done_writer_begin(rig->answer, header->step, header->epoch);
    for (uint32_t i = 0; i < header->seq_count; i++) seq_answer(rig, &rig->plan.seqs[i]);
    return done_writer_finish(rig->answer, 0, 1, 1, 1, rig->done_bytes, rig->done_size);
}

void sched_rig_answer(struct sched_rig *rig, struct done_view *ret_done)
{
    size_t bytes = sched_rig_answer_write(rig);
    int r = done_verify(rig->done_bytes, bytes, &rig->limits, &rig->plan, ret_done, NULL);
    CHECK(r == 0);
}

int sched_rig_complete(struct sched_rig *rig, const struct done_view *done)
{
    return sched_complete(rig->sched, 0, rig->now_ns, done, rig->events);
}
