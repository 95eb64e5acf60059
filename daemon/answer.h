/* SPDX-License-Identifier: Apache-2.0 */
/* answer - the JSON of completion and chat answers, whole and streamed, in OpenAI's shape with vLLM's
 * additions. Pure: writes to a buf. */
#ifndef KVASIR_DAEMON_ANSWER_H
#define KVASIR_DAEMON_ANSWER_H

#include "common/base/buf.h"
#include "common/text/tokenizer.h"
#include "daemon/choice.h"
#include "daemon/params.h"

struct answer_context {
    const struct params *params;
    const struct tokenizer *tokenizer;
    const char *id;    // "chatcmpl-..." or "cmpl-..."
    const char *model; // the served name
    int64_t created_s;
    const struct token_list *prompts; // (prompt_count) ids
    uint32_t prompt_count;
};

struct answer_usage {
    uint64_t prompt_tokens, completion_tokens, cached_tokens;
};

/* The whole answer of a request that is not streamed. */
void answer_write(struct buf *out, const struct answer_context *context, const struct choice *choices,
                  uint32_t choice_count, const struct answer_usage *usage);

/* One event "data: {...}\n\n" for what `update` adds to choice (already recorded). usage may be NULL. */
void answer_write_chunk(struct buf *out, const struct answer_context *context, struct choice *choice,
                        const struct generation_update *update, const struct answer_usage *usage);
/* The last events: usage with empty choices where asked for, then [DONE]. usage NULL: only [DONE]. */
void answer_write_end(struct buf *out, const struct answer_context *context,
                      const struct answer_usage *usage);

/* {"error":{"message","type","param","code"}}; field may be NULL. type follows from the status. */
void answer_write_error(struct buf *out, int status, const char *field, const char *message);
/* The same as an event of a stream that has begun. */
void answer_write_error_event(struct buf *out, int status, const char *message);

#endif
