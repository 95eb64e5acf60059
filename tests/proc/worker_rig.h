/* SPDX-License-Identifier: Apache-2.0 */
/* worker_rig - a daemon small enough for a test: a real pool, a real link, a real kvasir-worker process, and
 * sequences that go through them greedily. No scheduler: every sequence is in every plan. */
#ifndef KVASIR_TESTS_PROC_WORKER_RIG_H
#define KVASIR_TESTS_PROC_WORKER_RIG_H

#include <sys/types.h>

#include "common/gguf/facts.h"
#include "common/ipc/link.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

enum { RIG_SEQS = 4, RIG_TOKENS = 256, RIG_PAGES = 128 };

struct rig_seq {
    uint32_t tokens[RIG_TOKENS]; // prompt, then what came out
    uint32_t token_count;
    uint32_t computed; // positions whose keys and values are in pages
    uint32_t pages[RIG_TOKENS / PAGE_TOKENS];
    struct plan_page table[RIG_TOKENS / PAGE_TOKENS]; // of pages, as the plan in hand names them
    uint32_t page_count, sealed_count;
    uint32_t rows;   // in the plan in hand
    uint32_t target; // token_count at which it is done
};

struct rig {
    const char *instance, *worker_path, *model_path;
    struct model_facts facts;
    struct segment meta, payload;
    struct pool *pool;
    struct link *link;
    struct plan_writer *writer;
    uint8_t *plan, *done; // owned: plan_bytes_max, done_bytes_max
    size_t plan_bytes;
    struct plan_view view;   // of plan
    struct done_view answer; // of done, after rig_take
    uint64_t step;
    pid_t pid;                 // of the worker, 0: none
    int exit_status;           // of the last one, as waitpid gave it
    struct rank_status status; // of the last one, before the link was reset
    struct rig_seq seqs[RIG_SEQS];
    uint32_t seq_count;
};

/* All of these abort the test (fail_msg) on what is not expected. */
void rig_open(struct rig *rig, const char *instance, const char *worker_path, const char *model_path);
void rig_close(struct rig *rig);                         // kills a worker, removes the names
void rig_start(struct rig *rig, const char *model_path); // the worker's --model; NULL: the rig's
int rig_wait_ready(struct rig *rig); // 0, or -1 when it ended instead (exit_status, status)
void rig_kill(struct rig *rig);      // SIGKILL, reap, reset the link

void rig_add(struct rig *rig, const uint32_t *prompt, uint32_t count, uint32_t more); // one more sequence
uint32_t rig_plan(struct rig *rig, uint32_t chunk); // next plan of all that are not done; -> sequences in it
void rig_push(struct rig *rig);
/* Waits for the completion and verifies it. -> its status; -1 with errno ECHILD when the worker died first. */
int rig_take(struct rig *rig);
void rig_apply(struct rig *rig); // tokens, fills, seals

#endif
