/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/gguf/file.h"
#include "common/shm/owner.h"
#include "tests/proc/worker_rig.h"

void rig_open(struct rig *rig, const char *instance, const char *worker_path, const char *model_path)
{
    *rig = (struct rig){.instance = instance, .worker_path = worker_path, .model_path = model_path};
    struct err err = {0};
    struct gguf_file file;
    if (gguf_file_open(model_path, &file, &err) < 0) fail_msg("%s", err.text);
    if (model_facts_read(file.gguf, &rig->facts, &err) < 0) fail_msg("%s", err.text);
    struct pool_geometry geometry = {
        .page_count = RIG_PAGES,
        .page_tokens = PAGE_TOKENS,
        .rank_count = 1,
        .kv_type = KV_F32, // conformance: no rounding of pages
        .layer_count = rig->facts.layer_count,
        .head_count_kv = rig->facts.head_count_kv,
        .head_dims = rig->facts.head_dims,
        .page_bytes = pool_page_bytes(KV_F32, rig->facts.layer_count, rig->facts.head_count_kv,
                                      rig->facts.head_dims),
        .model_digest = gguf_digest(file.gguf),
    };
    gguf_file_close(&file);
    struct pool_owner owner = {.pid = getpid(), .epoch = clock_wall_ns()};
    assert_int_equal(owner_start(getpid(), &owner.start), 0);
    struct plan_limits limits = {
        .seqs_max = RIG_SEQS,
        .tokens_max = 256,
        .pages_max = RIG_PAGES,
        .history_max = RIG_TOKENS,
        .biases_max = 16,
        .pool_pages = RIG_PAGES,
        .vocab_count = rig->facts.vocab_count,
        .page_tokens = PAGE_TOKENS,
        .rank_count = 1,
    };
    int r = segment_create(instance, "meta", pool_meta_bytes(&geometry), &rig->meta, &err);
    if (r == 0) r = pool_format(rig->meta.base, rig->meta.bytes, &geometry, &owner, &rig->pool, &err);
    if (r == 0) r = segment_create(instance, "kv.0", RIG_PAGES * geometry.page_bytes, &rig->payload, &err);
    if (r == 0) r = link_create(instance, 0, 1, owner.epoch, &limits, &rig->link, &err);
    if (r < 0) fail_msg("%s", err.text);
    assert_int_equal(plan_writer_new(&limits, &rig->writer), 0);
    rig->plan = malloc(plan_bytes_max(&limits));
    rig->done = malloc(done_bytes_max(&limits));
    assert_true(rig->plan && rig->done);
}

void rig_close(struct rig *rig)
{
    if (rig->pid) rig_kill(rig);
    link_close(rig->link);
    plan_writer_free(rig->writer);
    pool_free(rig->pool);
    segment_close(&rig->payload);
    segment_close(&rig->meta);
    free(rig->plan);
    free(rig->done);
    (void)segment_unlink_all(rig->instance); // the guard would do it too
    *rig = (struct rig){.link = NULL};
}

void rig_start(struct rig *rig, const char *model_path)
{
    char pid_text[32];
    (void)snprintf(pid_text, sizeof pid_text, "%d", (int)getpid());
    const char *argv[] = {rig->worker_path,
                          "--instance",
                          rig->instance,
                          "--group",
                          "0",
                          "--ranks",
                          "1",
                          "--model",
                          model_path ? model_path : rig->model_path,
                          "--threads",
                          "2",
                          "--daemon-pid",
                          pid_text,
                          NULL};
    assert_int_equal(rig->pid, 0);
    rig->pid = fork();
    assert_true(rig->pid >= 0);
    if (rig->pid > 0) return;
    (void)setenv("KVASIR_KERNELS", "ref", 1);
    execv(rig->worker_path, (char *const *)argv);
    _exit(127);
}

/* True when the worker is gone; reaps it. */
static bool ended(struct rig *rig)
{
    if (waitpid(rig->pid, &rig->exit_status, WNOHANG) != rig->pid) return false;
    rig->pid = 0;
    link_rank_status(rig->link, 0, &rig->status);
    return true;
}

/* A wait bounded in tries, not by a sleep: each try ends with a wake or after a tenth of a second. */
enum { WAIT_TRIES = 600 };

int rig_wait_ready(struct rig *rig)
{
    for (int i = 0; i < WAIT_TRIES; i++) {
        link_rank_status(rig->link, 0, &rig->status);
        if (rig->status.state == RANK_READY) return 0;
        if (ended(rig)) return -1;
        (void)link_daemon_wait(rig->link, NS_PER_S / 10); // whatever woke us: look again
    }
    fail_msg("the worker is not ready after a minute");
    return -1;
}

void rig_kill(struct rig *rig)
{
    assert_true(rig->pid > 0);
    assert_int_equal(kill(rig->pid, SIGKILL), 0);
    assert_int_equal(waitpid(rig->pid, &rig->exit_status, 0), rig->pid);
    rig->pid = 0;
    link_reset(rig->link);
}

void rig_add(struct rig *rig, const uint32_t *prompt, uint32_t count, uint32_t more)
{
    assert_true(rig->seq_count < RIG_SEQS);
    assert_true(count + more <= RIG_TOKENS);
    struct rig_seq *seq = &rig->seqs[rig->seq_count++];
    *seq = (struct rig_seq){.token_count = count, .target = count + more};
    memcpy(seq->tokens, prompt, count * sizeof *prompt);
}

static void plan_seq(struct rig *rig, uint32_t seq_idx, uint32_t rows)
{
    struct rig_seq *seq = &rig->seqs[seq_idx];
    while (seq->page_count * PAGE_TOKENS < seq->computed + rows) {
        assert_int_equal(pool_grant(rig->pool, clock_mono_ns(), &seq->pages[seq->page_count]), 0);
        seq->page_count++;
    }
    uint32_t page_count = (seq->computed + rows + PAGE_TOKENS - 1) / PAGE_TOKENS;
    for (uint32_t i = 0; i < page_count; i++)
        seq->table[i] = (struct plan_page){seq->pages[i], pool_desc(rig->pool, seq->pages[i])->generation};
    struct plan_seq plan = {
        .seq_id = seq_idx + 1,
        .flags = seq->computed + rows == seq->token_count ? PLAN_SAMPLE : 0,
        .token_first = (uint32_t)plan_writer_tokens(rig->writer, seq->tokens + seq->computed, rows),
        .token_count = rows,
        .pos_first = seq->computed,
        .page_first = (uint32_t)plan_writer_pages(rig->writer, seq->table, page_count),
        .page_count = page_count,
        .score_target = PLAN_TOKEN_NONE,
        .top_p = 1,
        .repetition_penalty = 1,
    };
    assert_true(plan_writer_seq(rig->writer, &plan) >= 0);
    seq->rows = rows;
}

uint32_t rig_plan(struct rig *rig, uint32_t chunk)
{
    plan_writer_begin(rig->writer, ++rig->step, link_epoch(rig->link));
    for (uint32_t i = 0; i < rig->seq_count; i++) {
        struct rig_seq *seq = &rig->seqs[i];
        uint32_t rows = seq->token_count - seq->computed;
        seq->rows = 0;
        if (seq->token_count < seq->target) plan_seq(rig, i, rows < chunk ? rows : chunk);
    }
    uint32_t count = plan_writer_seq_count(rig->writer);
    if (count == 0) return 0;
    rig->plan_bytes = plan_writer_finish(rig->writer, rig->plan, plan_bytes_max(link_limits(rig->link)));
    struct err err = {0};
    if (plan_verify(rig->plan, rig->plan_bytes, link_limits(rig->link), &rig->view, &err) < 0)
        fail_msg("%s", err.text);
    return count;
}

void rig_push(struct rig *rig)
{
    size_t slot_bytes;
    void *slot = link_plan_slot(rig->link, &slot_bytes);
    assert_non_null(slot);
    memcpy(slot, rig->plan, rig->plan_bytes);
    link_plan_push(rig->link, rig->plan_bytes);
}

int rig_take(struct rig *rig)
{
    size_t bytes, room = done_bytes_max(link_limits(rig->link));
    for (int i = 0; i < WAIT_TRIES; i++) {
        int r = link_done_pop(rig->link, rig->done, room, &bytes);
        if (r == 0) {
            struct err err = {0};
            r = done_verify(rig->done, bytes, link_limits(rig->link), &rig->view, &rig->answer, &err);
            if (r < 0) fail_msg("%s", err.text);
            return rig->answer.header->status;
        }
        assert_int_equal(r, -EAGAIN);
        if (ended(rig)) {
            errno = ECHILD;
            return -1;
        }
        (void)link_daemon_wait(rig->link, NS_PER_S / 10); // whatever woke us: look again
    }
    fail_msg("no completion after a minute");
    return -1;
}

static void apply_pages(struct rig *rig, struct rig_seq *seq, uint32_t *seal_next)
{
    uint32_t end = seq->computed + seq->rows;
    for (uint32_t at = seq->computed; at < end;) {
        uint32_t page = seq->pages[at / PAGE_TOKENS], room = PAGE_TOKENS - at % PAGE_TOKENS;
        uint32_t count = room < end - at ? room : end - at;
        pool_fill(rig->pool, page, seq->tokens + at, count);
        at += count;
        if (at % PAGE_TOKENS != 0) continue;
        const struct done_seal *seal = &rig->answer.seals[(*seal_next)++];
        assert_int_equal(seal->page_idx, page);
        uint32_t parent = seq->sealed_count > 0 ? seq->pages[seq->sealed_count - 1] : PAGE_NONE;
        struct hash128 key = {1, 2};
        if (parent != PAGE_NONE) key = pool_desc(rig->pool, parent)->key;
        key = hash128_chain(key, pool_tokens(rig->pool, page), PAGE_TOKENS * sizeof(uint32_t));
        pool_seal(rig->pool, page, key, parent, &seal->checksum);
        seq->sealed_count++;
    }
    seq->computed = end;
}

void rig_apply(struct rig *rig)
{
    uint32_t answered = 0, seal_next = 0;
    for (uint32_t i = 0; i < rig->seq_count; i++) {
        struct rig_seq *seq = &rig->seqs[i];
        if (seq->rows == 0) continue;
        const struct done_seq *done = &rig->answer.seqs[answered++];
        apply_pages(rig, seq, &seal_next);
        if (done->flags & DONE_SAMPLED) seq->tokens[seq->token_count++] = done->token;
        seq->rows = 0;
    }
    struct err err = {0};
    if (pool_check(rig->pool, &err) < 0) fail_msg("%s", err.text);
}
