/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/model_info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/gguf/file.h"

static char *token_text(const struct tokenizer *tokenizer, uint32_t id)
{
    size_t len = 0;
    const uint8_t *bytes = id == TOKEN_NONE ? NULL : tokenizer_token_bytes(tokenizer, id, &len);
    return strndup(bytes ? (const char *)bytes : "", len);
}

static void template_read(const struct gguf *gguf, struct model_info *info)
{
    struct gguf_string source;
    struct err err = {0};
    if (gguf_get_string(gguf, "tokenizer.chat_template", &source) < 0) return;
    if (template_compile(source.bytes, source.len, &template_limits_default, &info->template, &err) == 0)
        return;
    memcpy(info->template_problem, err.text, sizeof info->template_problem);
}

int model_info_open(const char *path, struct model_info *ret_info, struct err *err)
{
    struct model_info info = {0};
    struct gguf_file file = {0};
    int r = gguf_file_open(path, &file, err);
    if (r < 0) return r;
    r = model_facts_read(file.gguf, &info.facts, err);
    if (r == 0) r = tokenizer_open(file.gguf, &info.tokenizer, err);
    if (r == 0) {
        info.digest = gguf_digest(file.gguf);
        template_read(file.gguf, &info);
        info.bos_text = token_text(info.tokenizer, tokenizer_bos(info.tokenizer));
        info.eos_text = token_text(info.tokenizer, tokenizer_eos(info.tokenizer));
        if (!info.bos_text || !info.eos_text) r = ERR(err, -ENOMEM, "out of memory");
    }
    gguf_file_close(&file);
    if (r == 0 && tokenizer_vocab_count(info.tokenizer) > info.facts.vocab_count)
        r = ERR(err, ERR_FORMAT, "the tokenizer has %u tokens, the embedding %u rows",
                tokenizer_vocab_count(info.tokenizer), info.facts.vocab_count);
    if (r < 0) {
        model_info_close(&info);
        return r;
    }
    *ret_info = info;
    return 0;
}

void model_info_close(struct model_info *info)
{
    tokenizer_close(info->tokenizer);
    template_free(info->template);
    free(info->bos_text);
    free(info->eos_text);
    *info = (struct model_info){0};
}
