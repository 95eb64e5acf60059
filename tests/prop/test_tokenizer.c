/* SPDX-License-Identifier: Apache-2.0 */
/* Random tests of tokenizer, detok and pretokenizer against simple models of them:
 *   - BPE on random vocabularies against merging a list of strings the slow way;
 *   - the incremental detokenizer against decoding all ids at once;
 *   - pre-tokenizers, whose pieces must be the text, with and without the just-in-time compiler.
 * Prints its seed; KVASIR_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/base/utf8.h"
#include "common/text/detok.h"
#include "common/text/pretokenizer.h"
#include "tests/data/sample_vocab.h"

static struct rng rng;

/* ---- BPE ---- */

enum { LETTERS = 4, MERGES_MAX = 60, TOKEN_MAX = 12, TEXT_MAX = 300 };

struct model {
    char tokens[256 + MERGES_MAX][TOKEN_MAX + 1]; // 0..255 as the sample has them
    char merges[MERGES_MAX][2][TOKEN_MAX + 1];    // by rank
    int merge_count;
};

static int find_token(const struct model *model, const char *text)
{
    for (int id = 0; id < 256 + model->merge_count; id++)
        if (strcmp(model->tokens[id], text) == 0) return id;
    return -1;
}

/* Letters a.. and merges of earlier tokens, in shuffled rank: also ones that training would not give. */
static void make_model(struct model *model)
{
    *model = (struct model){0};
    for (int byte = 0; byte < 256; byte++)
        (void)snprintf(model->tokens[byte], sizeof model->tokens[byte], "%s", sample_vocab_texts()[byte]);
    int wanted = 1 + (int)rng_below(&rng, MERGES_MAX);
    for (int tries = 0; tries < 1000 && model->merge_count < wanted; tries++) {
        const char *sides[2];
        for (int i = 0; i < 2; i++) {
            uint64_t pick = rng_below(&rng, (uint64_t)(LETTERS + model->merge_count));
            sides[i] = model->tokens[pick < LETTERS ? 'a' + pick : 256 + pick - LETTERS];
        }
        if (strlen(sides[0]) + strlen(sides[1]) > TOKEN_MAX) continue;
        char *made = model->tokens[256 + model->merge_count];
        (void)strcat(strcpy(made, sides[0]), sides[1]);
        if (find_token(model, made) >= 0) continue;
        (void)strcpy(model->merges[model->merge_count][0], sides[0]);
        (void)strcpy(model->merges[model->merge_count][1], sides[1]);
        model->merge_count++;
    }
    for (int i = model->merge_count - 1; i > 0; i--) {
        size_t other = rng_below(&rng, (uint64_t)i + 1);
        char swap[2][TOKEN_MAX + 1];
        memcpy(swap, model->merges[i], sizeof swap);
        memcpy(model->merges[i], model->merges[other], sizeof swap);
        memcpy(model->merges[other], swap, sizeof swap);
    }
}

static struct tokenizer *open_model(const struct model *model)
{
    const char *tokens[256 + MERGES_MAX];
    char texts[MERGES_MAX][2 * TOKEN_MAX + 2];
    const char *merges[MERGES_MAX];
    struct tokenizer *tokenizer = NULL;
    struct err err = {0};
    struct gguf_writer *writer = malloc(sizeof *writer);
    assert_non_null(writer);
    for (int id = 0; id < 256 + model->merge_count; id++) tokens[id] = model->tokens[id];
    for (int rank = 0; rank < model->merge_count; rank++) {
        (void)snprintf(texts[rank], sizeof texts[rank], "%s %s", model->merges[rank][0],
                       model->merges[rank][1]);
        merges[rank] = texts[rank];
    }
    writer_init(writer);
    writer_set_string(writer, "tokenizer.ggml.model", "gpt2");
    writer_set_string(writer, "tokenizer.ggml.pre", "gpt-2");
    writer_set_strings(writer, "tokenizer.ggml.tokens", (size_t)(256 + model->merge_count), tokens);
    writer_set_strings(writer, "tokenizer.ggml.merges", (size_t)model->merge_count, merges);
    if (sample_vocab_open(writer, &tokenizer, &err) < 0) fail_msg("%s", err.text);
    writer_done(writer);
    free(writer);
    return tokenizer;
}

/* The definition: look at every pair, make the merge of lowest rank, leftmost, and look again. */
static int merge_slowly(const struct model *model, const char *text, char (*list)[TOKEN_MAX + 1])
{
    int count = 0;
    for (; text[count]; count++) (void)snprintf(list[count], sizeof list[count], "%c", text[count]);
    for (;;) {
        int best_rank = model->merge_count, best = -1;
        for (int i = 0; i + 1 < count; i++) {
            for (int rank = 0; rank < best_rank; rank++) {
                if (strcmp(model->merges[rank][0], list[i]) || strcmp(model->merges[rank][1], list[i + 1]))
                    continue;
                best_rank = rank;
                best = i;
            }
        }
        if (best < 0) return count;
        size_t left_len = strlen(list[best]), right_len = strlen(list[best + 1]);
        memmove(list[best] + left_len, list[best + 1], right_len + 1);
        memmove(list[best + 1], list[best + 2], (size_t)(count - best - 2) * sizeof *list);
        count--;
    }
}

static void test_bpe_merges_as_the_definition_says(void **state)
{
    (void)state;
    struct model *model = malloc(sizeof *model);
    char(*list)[TOKEN_MAX + 1] = calloc(TEXT_MAX + 1, sizeof *list);
    struct token_list ids = {0};
    assert_non_null(model);
    assert_non_null(list);
    for (int round = 0; round < 60; round++) {
        make_model(model);
        struct tokenizer *tokenizer = open_model(model);
        for (int i = 0; i < 20; i++) {
            char text[TEXT_MAX + 1] = {0};
            /* Mostly short pieces, and some of the length where the heap takes over. */
            size_t len = 1 + rng_below(&rng, i % 4 ? 24 : TEXT_MAX);
            uint64_t letters = 1 + rng_below(&rng, LETTERS);
            for (size_t j = 0; j < len; j++) text[j] = (char)('a' + rng_below(&rng, letters));
            int count = merge_slowly(model, text, list);
            ids.count = 0;
            assert_int_equal(tokenizer_encode(tokenizer, text, len, 0, SIZE_MAX, &ids, NULL), 0);
            assert_int_equal(ids.count, count);
            for (int j = 0; j < count; j++) assert_int_equal(ids.ids[j], find_token(model, list[j]));
        }
        tokenizer_close(tokenizer);
    }
    token_list_done(&ids);
    free(list);
    free(model);
}

/* ---- detok ---- */

/* Replaces each maximal subpart of an ill-formed sequence by U+FFFD: how many bytes of [p, p+len) are
 * taken at once, straight from table 3-7 of the Unicode Standard. */
static size_t take_subpart(const uint8_t *p, size_t len, bool *ret_good)
{
    static const struct {
        uint8_t first_low, first_high, second_low, second_high;
        size_t bytes;
    } rows[] = {{0x00, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
                {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
                {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    *ret_good = false;
    for (size_t row = 0; row < COUNT_OF(rows); row++) {
        if (p[0] < rows[row].first_low || p[0] > rows[row].first_high) continue;
        size_t n = 1;
        while (n < rows[row].bytes && n < len) {
            uint8_t low = n == 1 ? rows[row].second_low : 0x80, high = n == 1 ? rows[row].second_high : 0xBF;
            if (p[n] < low || p[n] > high) break;
            n++;
        }
        *ret_good = n == rows[row].bytes;
        return n;
    }
    return 1;
}

static void replace_malformed(const struct buf *in, struct buf *out)
{
    bool good;
    for (size_t i = 0, n; i < in->len; i += n) {
        n = take_subpart(in->bytes + i, in->len - i, &good);
        assert_int_equal(good ? buf_append(out, in->bytes + i, n) : buf_puts(out, "\uFFFD"), 0);
    }
}

static void test_detok_equals_decoding_at_once(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = sample_vocab_new();
    struct buf whole, want, got;
    buf_init(&whole, 1 << 16);
    buf_init(&want, 1 << 16);
    buf_init(&got, 1 << 16);
    for (int round = 0; round < 20000; round++) {
        uint32_t ids[24];
        size_t count = rng_below(&rng, COUNT_OF(ids) + 1);
        bool skip_special = rng_below(&rng, 2);
        /* High bytes more often than their share, else nothing is ever half a character. */
        for (size_t i = 0; i < count; i++)
            ids[i] = (uint32_t)(rng_below(&rng, 4) ? 0x80 + rng_below(&rng, 0x80)
                                                   : rng_below(&rng, SAMPLE_COUNT + 1));
        struct detok detok;
        detok_init(&detok, tokenizer, skip_special);
        buf_clear(&whole);
        buf_clear(&want);
        buf_clear(&got);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(detok_push(&detok, ids[i], &got), 0);
            assert_true(detok.held_count <= 3);
            assert_true(utf8_is_valid(got.bytes, got.len));
        }
        assert_int_equal(detok_flush(&detok, &got), 0);
        assert_int_equal(tokenizer_decode(tokenizer, ids, count, skip_special, &whole), 0);
        replace_malformed(&whole, &want);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(buf_text(&got), buf_text(&want), got.len);
    }
    buf_done(&whole);
    buf_done(&want);
    buf_done(&got);
    tokenizer_close(tokenizer);
}

/* ---- pretokenizer ---- */

static size_t random_text(uint8_t *text, size_t cap)
{
    static const char *const parts[] = {
        "a",      "B",        "'s",     "'LL",        "\u00E9", "\u01C5", "\u4E2D", "\uAC00", "\u0301",
        "1",      "22",       "\u0663", " ",          "  ",     "\n",     "\r\n",   "\t",     "\u00A0",
        "\u3000", "\xC2\x85", "\u180E", "\U0001F600", "!",      "$",      "`",      "<=",     "/",
        "\x01",   "\uFF01",   "\u2028", "\u017F",     "\u0130", "\u02B0", "\u2160", "\u00B2", "\u0600",
    };
    size_t len = 0;
    uint64_t runs = rng_below(&rng, 12);
    for (uint64_t run = 0; run < runs; run++) {
        const char *part = parts[rng_below(&rng, COUNT_OF(parts))];
        uint64_t repeat = 1 + (rng_below(&rng, 4) ? 0 : rng_below(&rng, 6));
        for (; repeat && len + strlen(part) < cap; repeat--) {
            memcpy(text + len, part, strlen(part));
            len += strlen(part);
        }
    }
    return len;
}

/* Marks where each piece ends. */
struct cuts {
    const uint8_t *text;
    size_t done;
    bool at[512];
};

static int mark_cut(void *context, const uint8_t *piece, size_t len)
{
    struct cuts *cuts = context;
    assert_ptr_equal(piece, cuts->text + cuts->done); // in order, nothing between
    assert_true(len > 0);
    cuts->done += len;
    cuts->at[cuts->done] = true;
    return 0;
}

static void test_pretokenizer_cuts_alike_with_and_without_jit(void **state)
{
    (void)state;
    struct pretokenizer_split *split = pretokenizer_split_new();
    assert_non_null(split);
    for (size_t i = 0; pretokenizer_name_at(i); i++) {
        const char *name = pretokenizer_name_at(i);
        struct pretokenizer *fast, *slow;
        assert_int_equal(pretokenizer_open(name, strlen(name), 0, &fast, NULL), 0);
        assert_int_equal(pretokenizer_open(name, strlen(name), PRETOKENIZER_NO_JIT, &slow, NULL), 0);
        for (int round = 0; round < 300; round++) {
            uint8_t text[512];
            size_t len = random_text(text, sizeof text);
            struct cuts fast_cuts = {.text = text}, slow_cuts = {.text = text};
            assert_int_equal(pretokenizer_run(fast, split, text, len, mark_cut, &fast_cuts), 0);
            assert_int_equal(pretokenizer_run(slow, split, text, len, mark_cut, &slow_cuts), 0);
            assert_int_equal(fast_cuts.done, len); // the pieces are the text
            assert_memory_equal(fast_cuts.at, slow_cuts.at, sizeof fast_cuts.at);
        }
        pretokenizer_close(fast);
        pretokenizer_close(slow);
    }
    pretokenizer_split_free(split);
}

int main(void)
{
    const char *seed = getenv("KVASIR_SEED");
    rng.state = seed ? strtoull(seed, NULL, 0) : clock_wall_ns();
    (void)printf("KVASIR_SEED=%llu\n", (unsigned long long)rng.state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bpe_merges_as_the_definition_says),
        cmocka_unit_test(test_detok_equals_decoding_at_once),
        cmocka_unit_test(test_pretokenizer_cuts_alike_with_and_without_jit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
