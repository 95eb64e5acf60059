/* SPDX-License-Identifier: Apache-2.0 */
/* params_fields - the tables that params.c walks: ranges of numbers, flags, and what is not built. */
#ifndef KVASIR_DAEMON_PARAMS_FIELDS_H
#define KVASIR_DAEMON_PARAMS_FIELDS_H

#include "common/base/limits.h"

/* X(field, member, lowest, highest): finite numbers in [lowest, highest]. Ranges: OpenAI's reference for
 * penalties, vLLM's SamplingParams for the rest; (0, ...] is written with the smallest useful number. */
#define PARAMS_FLOATS(X) \
    X("temperature", sampling.temperature, 0.0, 100.0) \
    X("top_p", sampling.top_p, 1e-9, 1.0) \
    X("min_p", sampling.min_p, 0.0, 1.0) \
    X("repetition_penalty", sampling.repetition_penalty, 1e-3, 100.0) \
    X("presence_penalty", sampling.presence_penalty, -2.0, 2.0) \
    X("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0) \
    X("timeout", timeout_s, 1e-3, 86400.0 * 365)

/* X(field, member, lowest, highest): integers. */
#define PARAMS_INTEGERS(X) \
    X("top_k", sampling.top_k, -1, INT32_MAX) \
    X("max_tokens", max_tokens, 1, INT32_MAX) \
    X("max_completion_tokens", max_tokens, 1, INT32_MAX) \
    X("min_tokens", min_tokens, 0, INT32_MAX) \
    X("n", n, 1, CHOICES_MAX) \
    X("priority", priority, INT32_MIN, INT32_MAX) \
    X("prompt_logprobs", prompt_logprobs, 0, LOGPROBS_MAX)

#define PARAMS_FLAGS(X) \
    X("stream", stream) \
    X("ignore_eos", ignore_eos) \
    X("include_stop_str_in_output", include_stop) \
    X("skip_special_tokens", skip_special) \
    X("add_special_tokens", add_special_tokens) \
    X("add_generation_prompt", add_generation_prompt) \
    X("continue_final_message", continue_final_message) \
    X("echo", echo) \
    X("return_token_ids", return_token_ids) \
    X("return_tokens_as_token_ids", tokens_as_ids) \
    X("return_token_strs", return_token_strings)

/* X(field, harmless value as JSON text or NULL): any other value is refused as not built yet. */
#define PARAMS_UNSUPPORTED(X) \
    X("allowed_token_ids", "[]") \
    X("audio", NULL) \
    X("bad_words", "[]") \
    X("best_of", "1") \
    X("chat_template", NULL) \
    X("documents", "[]") \
    X("ebnf", NULL) \
    X("function_call", "\"none\"") \
    X("functions", "[]") \
    X("guided_choice", NULL) \
    X("guided_grammar", NULL) \
    X("guided_json", NULL) \
    X("guided_regex", NULL) \
    X("grammar", NULL) \
    X("json_schema", NULL) \
    X("kv_transfer_params", NULL) \
    X("length_penalty", "1") \
    X("logits_processors", "[]") \
    X("logprob_token_ids", NULL) \
    X("lora_path", NULL) \
    X("mm_processor_kwargs", NULL) \
    X("modalities", "[\"text\"]") \
    X("prediction", NULL) \
    X("prompt_embeds", NULL) \
    X("reasoning_effort", "\"none\"") \
    X("regex", NULL) \
    X("repetition_detection", NULL) \
    X("response_format", "{\"type\":\"text\"}") \
    X("spaces_between_special_tokens", "true") \
    X("stop_regex", NULL) \
    X("structured_outputs", NULL) \
    X("suffix", "\"\"") \
    X("thinking_token_budget", NULL) \
    X("tool_choice", "\"none\"") \
    X("tools", "[]") \
    X("truncate_prompt_tokens", NULL) \
    X("use_beam_search", "false") \
    X("vllm_xargs", "{}") \
    X("web_search_options", NULL)

#endif
