/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_hostile - a catalogue of broken model files, each a valid small model with one fault, modelled on
 * the published faults of GGUF loaders (CVE-2024-21802, -21825, -21836, -23496, CVE-2025-53630,
 * CVE-2026-27940, CVE-2026-7482 and their kin). Used by unit tests and by hostile_gguf, which writes
 * them to files for the end-to-end test. */
#ifndef KVASIR_TESTS_DATA_GGUF_HOSTILE_H
#define KVASIR_TESTS_DATA_GGUF_HOSTILE_H

#include "common/base/buf.h"

/* The first stage that must refuse the file; all before it must accept it. */
enum hostile_stage {
    HOSTILE_PARSE,     // gguf_parse
    HOSTILE_FACTS,     // model_facts_read
    HOSTILE_TOKENIZER, // tokenizer_open
    HOSTILE_BIND,      // the worker, when it looks for its tensors
};

struct hostile {
    char name[96]; // [a-z0-9_-]+, unique, begins with the stage: a file name
    enum hostile_stage stage;
    int code;        // parse and facts: the expected error, else 0
    const char *why; // parse and facts: a part of the expected text
};

size_t hostile_count(void);

/* Builds case hostile_idx into out (initialized here; buf_done frees). */
struct hostile hostile_build(size_t hostile_idx, struct buf *out);

#endif
