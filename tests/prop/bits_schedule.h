/* SPDX-License-Identifier: Apache-2.0 */
/* bits_schedule - one random life of a few sequences in a pool of pages, every row of logits compared with the
 * yardstick: the same sequence alone, one chunk, one thread, nothing cached.
 *
 * What can happen to a sequence: chunks of any size beside rows of others in any order; whole pages taken from
 * another with the same beginning, and the beginning of one more copied where the hit ends inside a page; pages
 * that nobody holds evicted, so that a cached prefix has holes; preemption and recomputation; a step that is lost
 * and run again; a worker that starts anew with another number of threads. Pages come back poisoned.
 *
 * Everything follows from the seed, the features and the two bounds, so that a failing schedule can be run again
 * with less in it. */
#ifndef KVASIR_TESTS_PROP_BITS_SCHEDULE_H
#define KVASIR_TESTS_PROP_BITS_SCHEDULE_H

#include "common/gguf/facts.h"
#include "worker/kern/kern.h"

#define SCHEDULE_FEATURES(X) \
    X(SCHEDULE_COMPANY, 1, "rows of several sequences in a step") \
    X(SCHEDULE_CHUNKS, 2, "prompts in chunks") \
    X(SCHEDULE_HITS, 4, "whole pages shared") \
    X(SCHEDULE_TAILS, 8, "beginnings of pages copied") \
    X(SCHEDULE_EVICTIONS, 16, "cached pages evicted") \
    X(SCHEDULE_PREEMPTIONS, 32, "sequences preempted") \
    X(SCHEDULE_REPLAYS, 64, "steps lost and run again") \
    X(SCHEDULE_RESTARTS, 128, "workers started anew") \
    X(SCHEDULE_THREADS, 256, "one to four threads")

enum schedule_feature {
#define X(name, value, text) name = value,
    SCHEDULE_FEATURES(X)
#undef X
        SCHEDULE_ALL = 511,
};

enum { SCHEDULE_SEQS_MAX = 8, SCHEDULE_TEXT_BYTES = 512 };

struct schedule_conf {
    const struct kern_ops *ops;
    const struct gguf *gguf;         // borrowed, as facts
    const struct model_facts *facts; // of gguf
    uint32_t kv_type;                // enum kern_kv
    uint64_t seed;
    uint32_t features;      // of enum schedule_feature
    uint32_t seqs_max;      // 1..SCHEDULE_SEQS_MAX
    uint32_t positions_max; // of a sequence, > 1
};

struct schedule_result {
    uint32_t steps, rows, logit_rows; // rows computed in them; rows of logits compared
    uint32_t page_hits, tail_copies, evictions, preemptions, replays, restarts;
    bool differs;
    char text[SCHEDULE_TEXT_BYTES]; // the first difference
};

/* 0 when the schedule ran, whether or not a bit differed; ERR_UNSUPPORTED when the level has no such pages. */
int schedule_run(const struct schedule_conf *conf, struct schedule_result *ret_result, struct err *err);

#endif
