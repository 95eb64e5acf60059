/* SPDX-License-Identifier: Apache-2.0 */
/* pinned - the prefixes that the operator has kept in the cache (--cache-pin), from their files to pinned pages.
 *
 * A file is a prompt: one that ends in .json is the body of a chat or completion request, of which what makes the
 * prompt counts (messages, prompt, chat_template_kwargs, add_generation_prompt, cache_salt); any other is text as
 * /v1/completions takes it. For a chat no generation prompt is added unless the file asks for one: a system message
 * alone is the front of every conversation that begins with it. Only whole pages are pinned. API keys never share
 * pages, so each has its own.
 *
 * What is not in the cache is computed, one prefix after another, as a request of the lowest priority that runs for one
 * token. Loop thread only. */
#ifndef KVASIR_DAEMON_PINNED_H
#define KVASIR_DAEMON_PINNED_H

#include "daemon/engine.h"
#include "daemon/prompt.h"

struct pinned;

struct pinned_conf {
    struct engine *engine;
    const struct prompt_source *source; // both borrowed until pinned_free
    char *const *keys;                  // (key_count), as api_conf's
    size_t key_count;
};

/* Reads path, a file or a folder of files. ERR_CONFIG names the file that is no prompt, or how much is too much. */
int pinned_open(const char *path, const struct pinned_conf *conf, struct pinned **ret_pinned,
                struct err *err);
/* NULL is fine. Ends what is being computed; what is pinned stays so in the engine. */
void pinned_free(struct pinned *pinned);

/* Pins what is not: at the start, and whenever something may have been lost. The worker must be there, or come. */
void pinned_refresh(struct pinned *pinned);

#endif
