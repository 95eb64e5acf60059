/* SPDX-License-Identifier: Apache-2.0 */
/* prompt - from a verified request to token ids: chat template, tokenizer. Pure but for memory; runs on the
 * thread pool, reading params, tokenizer and template that outlive it. */
#ifndef KVASIR_DAEMON_PROMPT_H
#define KVASIR_DAEMON_PROMPT_H

#include "common/text/template.h"
#include "common/text/tokenizer.h"
#include "daemon/params.h"

struct prompt_source { // immutable, shared by all requests
    const struct tokenizer *tokenizer;
    const struct template *template; // NULL: the model file has none
    const char *bos_text, *eos_text; // literal text of those tokens, "" when absent
    uint32_t model_len_max;          // a prompt is shorter than this
};

struct prompt_result {
    struct token_list *prompts; // owned, (prompt_count)
    uint32_t prompt_count;
    struct params_error error; // when prompt_build failed
};

int prompt_build(const struct prompt_source *source, const struct params *params, int64_t now_s,
                 struct prompt_result *ret_result);
void prompt_result_done(struct prompt_result *result); // a zeroed struct is fine

#endif
