/* SPDX-License-Identifier: Apache-2.0 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pretokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <pcre2.h>

#include "common/base/check.h"

/* The expressions below are the published ones of the models' tokenizer files, written for PCRE2:
 *
 *  - White space is spelled out as W. PCRE2's \s under UCP also takes U+180E, which left Unicode's
 *    White_Space with version 6.3.
 *  - Contractions spell out both cases, where the originals say (?i:...): without case folding of
 *    non-ASCII letters, as other readers of GGUF files do.
 *  - No expression nests quantifiers, and a run that an alternative gives back is taken whole by a
 *    later alternative of the same attempt. So an attempt is linear in what it consumes and a split
 *    is linear in the text. DEEPSEEK_TAIL carries a lookbehind for this: plain `\s+$` retries at
 *    every space of a run that does not end the text, which is quadratic. */
#define W "\\p{Z}\\x09-\\x0d\\x{85}"
#define CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES "[" W "]*[\\r\\n]+|[" W "]+(?![^" W "])|[" W "]+"

/* The shape of Llama 3, Qwen 2 and their kin: they differ in what a letter and a number is. */
#define MODERN(letters, others, numbers) \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[" letters "]+|" numbers "| ?[^" W others "\\p{N}]+[\\r\\n]*" \
                "|" SPACES
/* The shape of o200k and Tekken: words break between cases. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix, numbers) \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix \
    "|" numbers "| ?[^" W "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" W "\\p{L}\\p{N}]+|[" W "]+(?![^" W "])"
#define PUNCTUATION "[\\p{P}$+<=>^~|]+"
#define PUNCTUATION_TICK "[\\p{P}$+<=>^~|`]+"
#define THREE_DIGITS "[0-9][0-9][0-9]"

/* CJK and Hangul as DeepSeek's first tokenizers list them. */
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define DEEPSEEK_TAIL "(?<![" W "])[" W "]+\\z"
/* Cased letters of most scripts, as DeepSeek LLM lists them. */
#define DEEPSEEK_LETTERS \
    "[" W "]?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}" \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}" \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}" \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}" \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}" \
    "\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}" \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}" \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}" \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}" \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}" \
    "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}" \
    "\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}" \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}" \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}" \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}" \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}]+"
#define DEEPSEEK_MARKS \
    "[" W "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+"
#define DEEPSEEK_V3_WORDS \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES

enum {
    STAGES_MAX = 6,
    MATCH_LIMIT = 100000000, // backtracks of one attempt: far above any linear one
    DEPTH_LIMIT = 1000,
    HEAP_LIMIT_KIB = 64 << 10,
};

struct recipe {
    struct pretokenizer_facts facts;
    const char *stages[STAGES_MAX]; // NULL after the last
};

static const struct recipe recipe_llama3 = {{.ignore_merges = true, .add_bos = true},
                                            {MODERN("\\p{L}", "\\p{L}", "\\p{N}{1,3}")}};
static const struct recipe recipe_llama3_merges = {{0}, {MODERN("\\p{L}", "\\p{L}", "\\p{N}{1,3}")}};
static const struct recipe recipe_qwen2 = {{0}, {MODERN("\\p{L}", "\\p{L}", "\\p{N}")}};
static const struct recipe recipe_qwen35 = {{0}, {MODERN("\\p{L}\\p{M}", "\\p{L}\\p{M}", "\\p{N}")}};
static const struct recipe recipe_gpt2 = {{0}, {GPT2}};
static const struct recipe recipe_digits = {{0}, {"\\p{N}", GPT2}};
static const struct recipe recipe_falcon = {{0}, {PUNCTUATION_TICK, GPT2, THREE_DIGITS}};
static const struct recipe recipe_default = {{0}, {PUNCTUATION, GPT2, "\\p{N}+", THREE_DIGITS}};
static const struct recipe recipe_deepseek_llm = {
    {0}, {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, DEEPSEEK_TAIL, DEEPSEEK_CJK, "\\p{N}+"}};
static const struct recipe recipe_deepseek_coder = {
    {0}, {"[\\r\\n]", "[" W "]?\\p{L}+", "[" W "]?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}};
static const struct recipe recipe_deepseek_v3 = {
    {0}, {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+", DEEPSEEK_V3_WORDS}};
static const struct recipe recipe_tekken = {{.ignore_merges = true, .add_bos = true}, {CASED("", "\\p{N}")}};
static const struct recipe recipe_gpt4o = {{0}, {CASED(CONTRACTION "?", "\\p{N}{1,3}")}};

static const struct {
    const char *name;
    const struct recipe *recipe;
} names[] = {
    {"smollm", &recipe_digits},
    {"starcoder", &recipe_digits},
    {"refact", &recipe_digits},
    {"command-r", &recipe_digits},
    {"codeshell", &recipe_digits},
    {"exaone", &recipe_digits},
    {"minerva-7b", &recipe_digits},
    {"mellum2", &recipe_digits},
    {"gpt-2", &recipe_gpt2},
    {"phi-2", &recipe_gpt2},
    {"mpt", &recipe_gpt2},
    {"olmo", &recipe_gpt2},
    {"exaone4", &recipe_gpt2},
    {"trillion", &recipe_gpt2},
    {"modern-bert", &recipe_gpt2},
    {"roberta-bpe", &recipe_gpt2},
    {"jina-es", &recipe_gpt2},
    {"jina-de", &recipe_gpt2},
    {"jina-v1-en", &recipe_gpt2},
    {"jina-v2-es", &recipe_gpt2},
    {"jina-v2-de", &recipe_gpt2},
    {"jina-v2-code", &recipe_gpt2},
    {"qwen2", &recipe_qwen2},
    {"deepseek-r1-qwen", &recipe_qwen2},
    {"megrez", &recipe_qwen2},
    {"stablelm2", &recipe_qwen2},
    {"hunyuan", &recipe_qwen2},
    {"grok-2", &recipe_qwen2},
    {"solar-open", &recipe_qwen2},
    {"qwen35", &recipe_qwen35},
    {"llama3", &recipe_llama3},
    {"llama-v3", &recipe_llama3},
    {"llama-bpe", &recipe_llama3},
    {"falcon3", &recipe_llama3},
    {"falcon-h1", &recipe_llama3},
    {"pixtral", &recipe_llama3},
    {"lfm2", &recipe_llama3},
    {"dbrx", &recipe_llama3_merges},
    {"smaug-bpe", &recipe_llama3_merges},
    {"glm4", &recipe_llama3_merges},
    {"chatglm-bpe", &recipe_llama3_merges},
    {"tekken", &recipe_tekken},
    {"gpt-4o", &recipe_gpt4o},
    {"llama4", &recipe_gpt4o},
    {"kanana2", &recipe_gpt4o},
    {"falcon", &recipe_falcon},
    {"deepseek-llm", &recipe_deepseek_llm},
    {"deepseek-coder", &recipe_deepseek_coder},
    {"deepseek-v3", &recipe_deepseek_v3},
    {"hunyuan-dense", &recipe_deepseek_v3},
    {"joyai-llm", &recipe_deepseek_v3},
    {"default", &recipe_default},
};

struct stage {
    pcre2_code *code; // owned
    bool jit;
};

struct pretokenizer {
    struct pretokenizer_facts facts;
    pcre2_match_context *limits; // owned; read-only once open
    uint32_t stage_count;
    struct stage stages[STAGES_MAX];
};

struct pretokenizer_split {
    pcre2_match_data *match; // owned; overwritten by every attempt
};

/* What one run hands down its stages. */
struct run {
    const struct pretokenizer *pretokenizer;
    pcre2_match_data *match;
    pretokenizer_piece_fn *piece;
    void *context;
};

static const struct recipe *find_recipe(const char *name, size_t len)
{
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strlen(names[i].name) == len && memcmp(names[i].name, name, len) == 0) return names[i].recipe;
    return NULL;
}

static int compile_stage(const char *pattern, unsigned flags, struct stage *ret_stage)
{
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                     &error, &offset, NULL);
    if (!code && error == PCRE2_ERROR_HEAP_FAILED) return -ENOMEM;
    CHECK(code); // the patterns are ours
    bool jit = !(flags & PRETOKENIZER_NO_JIT) && pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    *ret_stage = (struct stage){code, jit};
    return 0;
}

int pretokenizer_open(const char *name, size_t len, unsigned flags, struct pretokenizer **ret_pretokenizer,
                      struct err *err)
{
    const struct recipe *recipe = find_recipe(name, len);
    if (!recipe)
        return ERR(err, ERR_UNSUPPORTED, "pre-tokenizer \"%.*s\" is not supported by this build",
                   len < 64 ? (int)len : 64, name);
    struct pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    if (!pretokenizer) return ERR(err, -ENOMEM, "pre-tokenizer: out of memory");
    pretokenizer->facts = recipe->facts;
    pretokenizer->limits = pcre2_match_context_create(NULL);
    int r = pretokenizer->limits ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < STAGES_MAX && recipe->stages[i]; i++) {
        r = compile_stage(recipe->stages[i], flags, &pretokenizer->stages[i]);
        if (r == 0) pretokenizer->stage_count++;
    }
    if (r < 0) {
        pretokenizer_close(pretokenizer);
        return ERR(err, r, "pre-tokenizer: out of memory");
    }
    (void)pcre2_set_match_limit(pretokenizer->limits, MATCH_LIMIT); // these three always return 0
    (void)pcre2_set_depth_limit(pretokenizer->limits, DEPTH_LIMIT);
    (void)pcre2_set_heap_limit(pretokenizer->limits, HEAP_LIMIT_KIB);
    *ret_pretokenizer = pretokenizer;
    return 0;
}

void pretokenizer_close(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    for (size_t i = 0; i < STAGES_MAX; i++) pcre2_code_free(pretokenizer->stages[i].code);
    pcre2_match_context_free(pretokenizer->limits);
    free(pretokenizer);
}

struct pretokenizer_facts pretokenizer_facts(const struct pretokenizer *pretokenizer)
{
    return pretokenizer->facts;
}

const char *pretokenizer_name_at(size_t i)
{
    return i < COUNT_OF(names) ? names[i].name : NULL;
}

struct pretokenizer_split *pretokenizer_split_new(void)
{
    struct pretokenizer_split *split = calloc(1, sizeof *split);
    if (!split) return NULL;
    split->match = pcre2_match_data_create(1, NULL);
    if (split->match) return split;
    free(split);
    return NULL;
}

void pretokenizer_split_free(struct pretokenizer_split *split)
{
    if (!split) return;
    pcre2_match_data_free(split->match);
    free(split);
}

/* Next match of a stage at or after `from`: 1 and its range, 0 none, or an error. */
static int next_match(const struct run *run, const struct stage *stage, const uint8_t *text, size_t len,
                      size_t from, size_t *ret_start, size_t *ret_end)
{
    int r = stage->jit ? pcre2_jit_match(stage->code, text, len, from, PCRE2_NO_UTF_CHECK, run->match,
                                         run->pretokenizer->limits)
                       : pcre2_match(stage->code, text, len, from, PCRE2_NO_UTF_CHECK, run->match,
                                     run->pretokenizer->limits);
    if (r == PCRE2_ERROR_NOMATCH) return 0;
    if (r == PCRE2_ERROR_NOMEMORY) return -ENOMEM;
    if (r < 0) return ERR_LIMIT;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(run->match);
    CHECK(range[1] > range[0]); // no pattern matches nothing, so every step advances
    *ret_start = range[0];
    *ret_end = range[1];
    return 1;
}

/* Splits text by stages stage_idx and later. Recursion is as deep as the recipe is long. */
static int run_stages(const struct run *run, uint32_t stage_idx, const uint8_t *text, size_t len)
{
    if (len == 0) return 0;
    if (stage_idx == run->pretokenizer->stage_count) return run->piece(run->context, text, len);
    const struct stage *stage = &run->pretokenizer->stages[stage_idx];
    size_t done = 0;
    while (done < len) {
        size_t start = len, end = len; // none: the rest is one piece
        int r = next_match(run, stage, text, len, done, &start, &end);
        if (r < 0) return r;
        r = run_stages(run, stage_idx + 1, text + done, start - done);
        if (r < 0) return r;
        r = run_stages(run, stage_idx + 1, text + start, end - start);
        if (r < 0) return r;
        done = end;
    }
    return 0;
}

int pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_split *split,
                     const uint8_t *text, size_t len, pretokenizer_piece_fn *piece, void *context)
{
    struct run run = {pretokenizer, split->match, piece, context};
    return run_stages(&run, 0, text, len);
}
