/* SPDX-License-Identifier: Apache-2.0 */
/* limits - every fixed bound of the house in one place. A number that two modules must agree on
 * stands here and nowhere else. */
#ifndef KVASIR_BASE_LIMITS_H
#define KVASIR_BASE_LIMITS_H

#define CACHELINE_BYTES 64
#define KIB(n) ((size_t)(n) << 10)
#define MIB(n) ((size_t)(n) << 20)
#define GIB(n) ((size_t)(n) << 30)

enum {
    /* model */
    MODEL_LAYERS_MAX = 512,
    MODEL_VOCAB_MAX = 1 << 20,
    MODEL_CONTEXT_MAX = 1 << 20, // tokens
    RANKS_MAX = 64,
    GROUPS_MAX = 64,
    INSTANCE_BYTES_MAX = 32, // [a-z0-9_-]+, part of shm names

    /* pool */
    PAGE_TOKENS = 16,
    PAGES_MAX = 1 << 24,

    /* plan */
    PLAN_SEQS_MAX = 2048,
    PLAN_TOKENS_MAX = 8192,   // rows of one step
    PLAN_SCORE_ROWS_MAX = 64, // rows of one step scored for prompt_logprobs
    LOGPROBS_MAX = 20,        // alternatives a token, as OpenAI and vLLM allow
    LOGIT_BIAS_MAX = 1024,    // entries a request
    STOP_MAX = 16,            // stop strings a request
    STOP_BYTES_MAX = 256,     // bytes of one stop string
    CHOICES_MAX = 128,        // `n`

    /* HTTP */
    HTTP_URL_BYTES_MAX = 8 << 10,
    HTTP_HEADER_BYTES_MAX = 16 << 10, // whole header block
    HTTP_HEADERS_MAX = 100,
    HTTP_BODY_BYTES_DEFAULT = 8 << 20,
    HTTP_CHUNK_EXT_BYTES_MAX = 256,
    HTTP_OUT_BYTES_MAX = 256 << 10, // unsent bytes a connection before its sequences pause
    JSON_DEPTH_MAX = 64,
    JSON_TOP_KEYS_MAX = 1024,                // of a body: each known field is looked for among them
    JSON_VALUES_MAX = (1 << 20) + (1 << 16), // of a body: MODEL_CONTEXT_MAX ids, and what is beside them
};

#endif
