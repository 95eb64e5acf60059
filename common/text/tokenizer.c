/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "common/text/bpe.h"
#include "common/text/pretokenizer.h"
#include "common/text/special.h"
#include "common/text/vocab.h"

/* Texts that end a turn or a document in the models that have them as CONTROL tokens; files often
 * name only one of theirs by a key. */
static const char *const end_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|EOT|>",
    "<|end_of_text|>",
    "<eos>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|eom|>",
    "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>",
    "<\uFF5Cend\u2581of\u2581sentence\uFF5C>", // DeepSeek
};

static const char *const end_keys[] = {
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
};

enum { ENDS_MAX = COUNT_OF(end_texts) + COUNT_OF(end_keys) };

struct tokenizer {
    struct vocab vocab;
    struct special special;
    struct bpe bpe;
    struct pretokenizer *pretokenizer; // owned
    uint32_t bos, eos;                 // TOKEN_NONE when absent
    bool add_bos;
    uint32_t ends[ENDS_MAX]; // ascending, distinct
    uint32_t end_count;
};

/* ---- opening ---- */

/* An id that a key names; TOKEN_NONE when the key is absent. */
static int read_id(const struct tokenizer *tokenizer, const struct gguf *gguf, const char *key,
                   uint32_t *ret_id, struct err *err)
{
    uint32_t id;
    int r = gguf_get_u32(gguf, key, &id);
    if (r == -ENOENT) {
        *ret_id = TOKEN_NONE;
        return 0;
    }
    if (r < 0) return ERR(err, r, "%s: not a token id", key);
    if (id >= tokenizer->vocab.count)
        return ERR(err, ERR_FORMAT, "%s: %u, but the vocabulary has %u tokens", key, id,
                   tokenizer->vocab.count);
    *ret_id = id;
    return 0;
}

static uint32_t find_control(const struct tokenizer *tokenizer, const char *text)
{
    uint32_t id = special_find(&tokenizer->special, SPECIAL_ALL, (const uint8_t *)text, strlen(text));
    return id != TOKEN_NONE && tokenizer->vocab.kinds[id] == TOKEN_KIND_CONTROL ? id : TOKEN_NONE;
}

/* Inserts in order; a known id and TOKEN_NONE are left out. */
static void add_end(struct tokenizer *tokenizer, uint32_t id)
{
    uint32_t at = 0;
    if (id == TOKEN_NONE) return;
    while (at < tokenizer->end_count && tokenizer->ends[at] < id) at++;
    if (at < tokenizer->end_count && tokenizer->ends[at] == id) return;
    CHECK(tokenizer->end_count < ENDS_MAX);
    memmove(tokenizer->ends + at + 1, tokenizer->ends + at,
            (tokenizer->end_count - at) * sizeof *tokenizer->ends);
    tokenizer->ends[at] = id;
    tokenizer->end_count++;
}

static int read_ends(struct tokenizer *tokenizer, const struct gguf *gguf, struct err *err)
{
    /* In the harmony format (gpt-oss) <|end|> closes one message of several in a reply. */
    bool harmony = find_control(tokenizer, "<|return|>") != TOKEN_NONE &&
                   find_control(tokenizer, "<|call|>") != TOKEN_NONE;
    for (size_t i = 0; i < COUNT_OF(end_texts); i++) {
        if (harmony && strcmp(end_texts[i], "<|end|>") == 0) continue;
        add_end(tokenizer, find_control(tokenizer, end_texts[i]));
    }
    for (size_t i = 0; i < COUNT_OF(end_keys); i++) {
        uint32_t id;
        int r = read_id(tokenizer, gguf, end_keys[i], &id, err);
        if (r < 0) return r;
        add_end(tokenizer, id);
    }
    return 0;
}

static int read_bool(const struct gguf *gguf, const char *key, bool absent, bool *ret_value, struct err *err)
{
    bool value = absent;
    int r = gguf_get_bool(gguf, key, &value);
    if (r < 0 && r != -ENOENT) return ERR(err, r, "%s: not a boolean", key);
    *ret_value = value;
    return 0;
}

static int require_model(const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.model";
    struct gguf_string model;
    int r = gguf_get_string(gguf, key, &model);
    if (r == -ENOENT) return ERR(err, ERR_FORMAT, "%s: missing", key);
    if (r < 0) return ERR(err, r, "%s: not a string", key);
    if (model.len == 4 && memcmp(model.bytes, "gpt2", 4) == 0) return 0;
    return ERR(err, ERR_UNSUPPORTED, "tokenizer model \"%.*s\" is not supported by this build",
               model.len < 64 ? (int)model.len : 64, model.bytes);
}

static int open_pretokenizer(struct tokenizer *tokenizer, const struct gguf *gguf, struct err *err)
{
    const char *key = "tokenizer.ggml.pre";
    struct gguf_string name;
    int r = gguf_get_string(gguf, key, &name);
    /* Guessing would load and then tokenize wrongly: the file is too old to say. */
    if (r == -ENOENT) return ERR(err, ERR_UNSUPPORTED, "%s: missing, convert the model again", key);
    if (r < 0) return ERR(err, r, "%s: not a string", key);
    return pretokenizer_open(name.bytes, name.len, 0, &tokenizer->pretokenizer, err);
}

static int open_parts(struct tokenizer *tokenizer, const struct gguf *gguf, struct err *err)
{
    int r = require_model(gguf, err);
    if (r < 0) return r;
    r = open_pretokenizer(tokenizer, gguf, err);
    if (r < 0) return r;
    struct pretokenizer_facts facts = pretokenizer_facts(tokenizer->pretokenizer);
    r = vocab_open(&tokenizer->vocab, gguf, err);
    if (r < 0) return r;
    r = special_open(&tokenizer->special, &tokenizer->vocab, err);
    if (r < 0) return r;
    r = bpe_open(&tokenizer->bpe, &tokenizer->vocab, &tokenizer->special, gguf, err);
    if (r < 0) return r;
    tokenizer->bpe.ignore_merges = facts.ignore_merges;
    r = read_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", &tokenizer->bos, err);
    if (r < 0) return r;
    r = read_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", &tokenizer->eos, err);
    if (r < 0) return r;
    r = read_bool(gguf, "tokenizer.ggml.add_bos_token", facts.add_bos, &tokenizer->add_bos, err);
    if (r < 0) return r;
    return read_ends(tokenizer, gguf, err);
}

int tokenizer_open(const struct gguf *gguf, struct tokenizer **ret_tokenizer, struct err *err)
{
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) return ERR(err, -ENOMEM, "tokenizer: out of memory");
    int r = open_parts(tokenizer, gguf, err);
    if (r < 0) {
        tokenizer_close(tokenizer);
        return r;
    }
    *ret_tokenizer = tokenizer;
    return 0;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    pretokenizer_close(tokenizer->pretokenizer);
    bpe_close(&tokenizer->bpe);
    special_close(&tokenizer->special);
    vocab_close(&tokenizer->vocab);
    free(tokenizer);
}

/* ---- encoding ---- */

/* One call of tokenizer_encode. */
struct encode {
    const struct tokenizer *tokenizer;
    struct pretokenizer_split *split; // owned
    struct bpe_scratch scratch;       // owned
    struct token_list *list;
    size_t ids_max;
    const struct text_span *spans; // of the text
    size_t span_count;
    /* The run of like spans that the search for special tokens is in; only moves forward. */
    size_t span_idx; // its last span, or where it would be
    size_t run_end;  // offset in the text
    bool run_is_user;
};

static int encode_piece(void *context, const uint8_t *piece, size_t len)
{
    struct encode *encode = context;
    return bpe_encode(&encode->tokenizer->bpe, &encode->scratch, piece, len, encode->ids_max, encode->list);
}

static int encode_id(struct encode *encode, uint32_t id)
{
    if (encode->list->count >= encode->ids_max) return -EMSGSIZE;
    return token_list_push(encode->list, id);
}

/* Moves to the run that holds the byte at pos: adjacent spans of one kind. Bytes that no span covers
 * count as the user's. */
static void enter_run(struct encode *encode, size_t pos, size_t len)
{
    const struct text_span *spans = encode->spans;
    size_t i = encode->span_idx, count = encode->span_count;
    while (i < count && spans[i].first + spans[i].len <= pos) i++;
    bool covered = i < count && spans[i].first <= pos;
    encode->run_is_user = !covered || spans[i].is_user;
    encode->run_end = i < count ? (covered ? spans[i].first + spans[i].len : spans[i].first) : len;
    for (; covered && i + 1 < count && spans[i + 1].first <= encode->run_end; i++) {
        if (spans[i + 1].len == 0) continue;
        if (spans[i + 1].is_user != encode->run_is_user) break;
        encode->run_end = spans[i + 1].first + spans[i + 1].len;
    }
    if (encode->run_end > len) encode->run_end = len;
    encode->span_idx = i;
}

/* The next special token at or after `from` that may stand where it stands: a CONTROL or UNKNOWN one lies
 * in a run of the template, a USER_DEFINED one anywhere. Every byte is looked at once and the runs are
 * walked once, whatever the user writes. */
static bool next_special(struct encode *encode, const uint8_t *text, size_t len, size_t from,
                         struct special_match *ret_match)
{
    while (from < len) {
        if (from >= encode->run_end) enter_run(encode, from, len);
        struct special_window window = {
            .from = from, .until = encode->run_end, .trusted_end = encode->run_is_user ? 0 : encode->run_end};
        if (special_next(&encode->tokenizer->special, text, len, window, ret_match)) return true;
        from = encode->run_end;
    }
    return false;
}

/* Special tokens first, then the text between them. */
static int encode_text(struct encode *encode, const uint8_t *text, size_t len)
{
    struct special_match match;
    size_t done = 0;
    int r = 0;
    while (done < len) {
        bool found = next_special(encode, text, len, done, &match);
        size_t end = found ? match.offset : len;
        r = pretokenizer_run(encode->tokenizer->pretokenizer, encode->split, text + done, end - done,
                             encode_piece, encode);
        if (r < 0 || !found) return r;
        r = encode_id(encode, match.id);
        if (r < 0) return r;
        done = match.offset + match.len;
    }
    return r;
}

static int encode_error(int r, size_t ids_max, struct err *err)
{
    if (r == -EMSGSIZE) return ERR(err, r, "text has more than %zu tokens", ids_max);
    if (r == -ENOMEM) return ERR(err, r, "tokenizer: out of memory");
    return ERR(err, r, "tokenizer: a piece of the text took too many steps to match");
}

/* Encodes under the settings of `encode`, BOS first where asked for; the list is as before on an error. */
static int encode_run(struct encode *encode, const char *text, size_t len, bool bos_first, struct err *err)
{
    const struct tokenizer *tokenizer = encode->tokenizer;
    size_t count_before = encode->list->count;
    /* Refused unread when even the longest tokens could not fit. */
    if (len / tokenizer->vocab.longest_bytes > encode->ids_max)
        return encode_error(-EMSGSIZE, encode->ids_max, err);
    if (!utf8_is_valid((const uint8_t *)text, len)) return ERR(err, ERR_INPUT, "text is not valid UTF-8");

    encode->split = pretokenizer_split_new();
    int r = encode->split ? 0 : -ENOMEM;
    if (r == 0 && bos_first) r = encode_id(encode, tokenizer->bos);
    if (r == 0) r = encode_text(encode, (const uint8_t *)text, len);
    pretokenizer_split_free(encode->split);
    bpe_scratch_done(&encode->scratch);
    if (r < 0) {
        encode->list->count = count_before;
        return encode_error(r, encode->ids_max, err);
    }
    return 0;
}

static bool wants_bos(const struct tokenizer *tokenizer, unsigned flags)
{
    return flags & TOKENIZER_ADD_BOS && tokenizer->add_bos && tokenizer->bos != TOKEN_NONE;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     size_t ids_max, struct token_list *list, struct err *err)
{
    const struct text_span whole = {.len = len, .is_user = !(flags & TOKENIZER_PARSE_SPECIAL)};
    struct encode encode = {
        .tokenizer = tokenizer, .list = list, .ids_max = ids_max, .spans = &whole, .span_count = 1};
    return encode_run(&encode, text, len, wants_bos(tokenizer, flags), err);
}

/* The template may write the BOS token itself. */
static bool begins_with_bos(const struct encode *encode, const char *text, size_t len)
{
    struct encode probe = *encode; // so that the run stays where it is
    struct special_match match;
    if (len == 0) return false;
    enter_run(&probe, 0, len);
    struct special_window window = {.until = 1, .trusted_end = probe.run_is_user ? 0 : probe.run_end};
    return special_next(&encode->tokenizer->special, (const uint8_t *)text, len, window, &match) &&
           match.id == encode->tokenizer->bos;
}

int tokenizer_encode_spans(const struct tokenizer *tokenizer, const char *text, size_t len,
                           const struct text_span *spans, size_t span_count, unsigned flags, size_t ids_max,
                           struct token_list *list, struct err *err)
{
    struct encode encode = {
        .tokenizer = tokenizer, .list = list, .ids_max = ids_max, .spans = spans, .span_count = span_count};
    return encode_run(&encode, text, len, wants_bos(tokenizer, flags) && !begins_with_bos(&encode, text, len),
                      err);
}

/* ---- decoding and facts ---- */

const uint8_t *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, size_t *ret_len)
{
    if (id < tokenizer->vocab.count) return vocab_bytes(&tokenizer->vocab, id, ret_len);
    *ret_len = 0;
    return tokenizer->vocab.text; // never NULL
}

int tokenizer_decode(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, bool skip_special,
                     struct buf *out)
{
    for (size_t i = 0; i < count && out->error == 0; i++) {
        size_t len;
        if (skip_special && tokenizer_is_special(tokenizer, ids[i])) continue;
        const uint8_t *bytes = tokenizer_token_bytes(tokenizer, ids[i], &len);
        (void)buf_append(out, bytes, len); // the error is sticky
    }
    return out->error;
}

uint32_t tokenizer_vocab_count(const struct tokenizer *tokenizer)
{
    return tokenizer->vocab.count;
}

bool tokenizer_is_special(const struct tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->vocab.count && vocab_is_special(&tokenizer->vocab, id);
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id)
{
    for (uint32_t i = 0; i < tokenizer->end_count; i++)
        if (tokenizer->ends[i] == id) return true;
    return false;
}

const uint32_t *tokenizer_ends(const struct tokenizer *tokenizer, size_t *ret_count)
{
    *ret_count = tokenizer->end_count;
    return tokenizer->ends;
}

uint32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t len)
{
    const uint8_t *bytes = (const uint8_t *)text;
    if (len == 0) return TOKEN_NONE;
    uint32_t id = special_find(&tokenizer->special, SPECIAL_ALL, bytes, len);
    return id != TOKEN_NONE ? id : vocab_find_mergeable(&tokenizer->vocab, bytes, len);
}
