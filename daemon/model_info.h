/* SPDX-License-Identifier: Apache-2.0 */
/* model_info - what the daemon keeps of a model file: facts, digest, tokenizer, chat template. Never weights. */
#ifndef KVASIR_DAEMON_MODEL_INFO_H
#define KVASIR_DAEMON_MODEL_INFO_H

#include "common/gguf/facts.h"
#include "common/text/template.h"
#include "common/text/tokenizer.h"

struct model_info {
    struct model_facts facts;
    struct hash128 digest;
    struct tokenizer *tokenizer;           // owned
    struct template *template;             // owned; NULL when the file has none
    char *bos_text, *eos_text;             // owned; "" when absent
    char template_problem[ERR_TEXT_BYTES]; // why a template that is there cannot be used, "" otherwise
};

/* Reads the header of the file at path. A chat template this build cannot compile is not an error: chat is then
 * refused per request, with the reason. */
int model_info_open(const char *path, struct model_info *ret_info, struct err *err);
void model_info_close(struct model_info *info); // a zeroed struct is fine

#endif
