/* SPDX-License-Identifier: Apache-2.0 */
/* generation against an engine of its own, defined here in place of daemon/engine.c: what is submitted, what text
 * comes out of which tokens, and why it ends. The last test compares with a search over the whole text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/rng.h"
#include "daemon/generation.h"
#include "tests/data/sample_vocab.h"

/* ---- the engine ---- */

enum { SEQ_ID = 77, BIASES_KEPT = LOGIT_BIAS_MAX };

struct engine {
    struct sched_request request; // as submitted; its arrays are copied below
    uint32_t prompt[8];
    struct plan_bias biases[BIASES_KEPT];
    int submit_result;
    uint32_t removed, paused, resumed;
    uint32_t cached_count;
};

int engine_submit(struct engine *engine, struct sched_request *request, uint64_t *ret_seq_id)
{
    engine->request = *request;
    memcpy(engine->prompt, request->prompt, request->prompt_count * sizeof(uint32_t));
    memcpy(engine->biases, request->biases, request->bias_count * sizeof(struct plan_bias));
    if (engine->submit_result < 0) return engine->submit_result;
    *ret_seq_id = SEQ_ID;
    return 0;
}

void engine_remove(struct engine *engine, uint64_t seq_id)
{
    assert_int_equal(seq_id, SEQ_ID);
    engine->removed++;
}

void engine_pause(struct engine *engine, uint64_t seq_id, bool paused)
{
    assert_int_equal(seq_id, SEQ_ID);
    if (paused) engine->paused++;
    else engine->resumed++;
}

void engine_seq_info(const struct engine *engine, uint64_t seq_id, struct sched_seq_info *ret_info)
{
    assert_int_equal(seq_id, SEQ_ID);
    *ret_info = (struct sched_seq_info){.cached_count = engine->cached_count};
}

/* ---- the owner ---- */

enum act { ACT_NONE, ACT_FREE, ACT_PAUSE };

struct owner {
    struct engine engine;
    struct generation *generation;
    struct buf text;
    enum act act; // inside the next update
    uint32_t updates, tokens;
    enum finish_reason finish;
    int32_t stop_idx;
    uint32_t stop_token;
    uint32_t score_position, score_count, top_count;
};

static struct tokenizer *tokenizer;

static void updated(void *user, const struct generation_update *update)
{
    struct owner *owner = user;
    assert_int_equal(owner->finish, FINISH_NONE); // nothing comes after the end
    owner->updates++;
    owner->tokens += update->token != NULL;
    buf_append(&owner->text, update->text, update->text_len);
    owner->finish = update->finish;
    owner->stop_idx = update->stop_idx;
    owner->stop_token = update->stop_token;
    owner->score_position = update->score_position;
    owner->score_count = update->score_count;
    owner->top_count = update->token ? update->token->top_count : 0;
    if (update->finish == FINISH_NONE) {
        assert_int_equal(update->stop_idx, -1);
        assert_int_equal(update->stop_token, TOKEN_NONE);
    }
    if (owner->act == ACT_FREE) {
        generation_free(owner->generation);
        owner->generation = NULL;
    }
    if (owner->act == ACT_PAUSE) generation_pause(owner->generation, true);
}

static const struct generation_params plain = {
    .prompt = (const uint32_t[]){1, 2, 3},
    .prompt_count = 3,
    .output_max = 1000,
    .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
    .skip_special = true,
};

static void owner_start(struct owner *owner, const struct generation_params *params)
{
    memset(owner, 0, sizeof *owner);
    owner->stop_idx = -1;
    owner->stop_token = TOKEN_NONE;
    buf_init(&owner->text, 1 << 20);
    assert_int_equal(generation_start(&owner->engine, tokenizer, params, updated, owner, &owner->generation),
                     0);
    assert_int_equal(owner->updates, 0);
}

static void owner_done(struct owner *owner)
{
    generation_free(owner->generation);
    buf_done(&owner->text);
}

static void give(struct owner *owner, uint32_t token)
{
    struct done_seq seq = {.seq_id = SEQ_ID, .flags = DONE_SAMPLED, .token = token, .logprob = -1, .rank = 1};
    struct sched_event event = {
        .kind = SCHED_TOKEN, .seq_id = SEQ_ID, .owner = owner->generation, .seq = &seq};
    generation_event(&event, NULL);
}

static void give_text(struct owner *owner, const char *text)
{
    for (; *text; text++) give(owner, (uint8_t)*text); // ids below 256 are bytes
}

static void expect(const struct owner *owner, const char *text, enum finish_reason finish, int32_t stop_idx)
{
    assert_string_equal(buf_text(&owner->text), text);
    assert_int_equal(owner->finish, finish);
    assert_int_equal(owner->stop_idx, stop_idx);
}

#define STOPS(...) \
    .stops = (const struct stop_string[]){__VA_ARGS__}, \
    .stop_count = sizeof((const struct stop_string[]){__VA_ARGS__}) / sizeof(struct stop_string)
#define STOP(text) \
    { \
        text, sizeof(text) - 1 \
    }

/* ---- what is submitted ---- */

static void test_generation_submits_what_it_was_given(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    struct plan_bias bias = {5, 2.0F};
    params.sampling.seed = 9;
    params.biases = &bias;
    params.bias_count = 1;
    params.score_prompt = true;
    params.salt = (struct hash128){3, 4};
    owner_start(&owner, &params);
    assert_int_equal(owner.engine.request.prompt_count, 3);
    assert_memory_equal(owner.engine.prompt, params.prompt, 12);
    assert_int_equal(owner.engine.request.output_max, 1000);
    assert_int_equal(owner.engine.request.params.seed, 9);
    assert_int_equal(owner.engine.request.bias_count, 1);
    assert_int_equal(owner.engine.biases[0].token, 5);
    assert_int_equal(owner.engine.request.min_bias_count, 0);
    assert_true(owner.engine.request.score_prompt);
    assert_false(owner.engine.request.use_history);
    assert_true(hash128_equal(owner.engine.request.root_key, params.salt));
    assert_true(generation_started_ns(owner.generation) > 0);
    assert_int_equal(generation_first_ns(owner.generation), 0);
    owner_done(&owner);
    assert_int_equal(owner.engine.removed, 1);
}

static void test_generation_asks_for_history_with_any_penalty(void **state)
{
    (void)state;
    for (int which = 0; which < 3; which++) {
        struct owner owner;
        struct generation_params params = plain;
        if (which == 0) params.sampling.repetition_penalty = 1.1F;
        if (which == 1) params.sampling.presence_penalty = -0.5F;
        if (which == 2) params.sampling.frequency_penalty = 0.5F;
        owner_start(&owner, &params);
        assert_true(owner.engine.request.use_history);
        owner_done(&owner);
    }
}

static void test_generation_bans_ends_until_min_tokens(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    struct plan_bias bias = {5, 2.0F};
    uint32_t stop_token = 'x';
    size_t ends;
    (void)tokenizer_ends(tokenizer, &ends);
    params.min_tokens = 7;
    params.biases = &bias;
    params.bias_count = 1;
    params.stop_tokens = &stop_token;
    params.stop_token_count = 1;
    owner_start(&owner, &params);
    assert_int_equal(owner.engine.request.min_output, 7);
    assert_int_equal(owner.engine.request.min_bias_count, ends + 1);
    assert_int_equal(owner.engine.request.bias_count, ends + 2);
    assert_int_equal(owner.engine.biases[0].token, 5); // the request's own come first: they stay
    bool has_end = false, has_stop = false;
    for (uint32_t i = 1; i < owner.engine.request.bias_count; i++) {
        assert_true(isinf(owner.engine.biases[i].bias) && owner.engine.biases[i].bias < 0);
        has_end |= owner.engine.biases[i].token == SAMPLE_IM_END;
        has_stop |= owner.engine.biases[i].token == 'x';
    }
    assert_true(has_end && has_stop);
    owner_done(&owner);
}

static void test_generation_refuses_more_bans_than_fit(void **state)
{
    (void)state;
    struct engine engine = {0};
    struct generation *generation = NULL;
    struct generation_params params = plain;
    struct plan_bias *biases = calloc(LOGIT_BIAS_MAX, sizeof *biases);
    params.biases = biases;
    params.bias_count = LOGIT_BIAS_MAX;
    params.min_tokens = 1;
    assert_int_equal(generation_start(&engine, tokenizer, &params, updated, NULL, &generation), ERR_LIMIT);
    assert_null(generation);
    free(biases);
}

static void test_generation_passes_refusals_on(void **state)
{
    (void)state;
    struct engine engine = {.submit_result = ERR_FULL};
    struct generation *generation = NULL;
    assert_int_equal(generation_start(&engine, tokenizer, &plain, updated, NULL, &generation), ERR_FULL);
    assert_null(generation);
    assert_int_equal(engine.removed, 0); // it never was in there
}

/* ---- ends ---- */

static void test_generation_ends_at_an_end_token(void **state)
{
    (void)state;
    struct owner owner;
    owner_start(&owner, &plain);
    give(&owner, SAMPLE_HELLO);
    expect(&owner, "hello", FINISH_NONE, -1);
    assert_int_equal(owner.engine.removed, 0);
    give(&owner, SAMPLE_IM_END);
    expect(&owner, "hello", FINISH_STOP, -1);
    assert_int_equal(owner.stop_token, TOKEN_NONE); // only those of the request are named
    assert_int_equal(owner.engine.removed, 1);
    assert_int_equal(generation_output_count(owner.generation), 2);
    assert_true(generation_first_ns(owner.generation) > 0);
    give(&owner, SAMPLE_HELLO); // of the same step: too late
    assert_int_equal(owner.updates, 2);
    owner_done(&owner);
    assert_int_equal(owner.engine.removed, 1);
}

static void test_generation_goes_on_past_ends_when_told(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    params.ignore_end = true;
    owner_start(&owner, &params);
    give(&owner, SAMPLE_IM_END);
    give(&owner, 'a');
    expect(&owner, "a", FINISH_NONE, -1);
    owner_done(&owner);
    params.skip_special = false;
    owner_start(&owner, &params);
    give(&owner, SAMPLE_IM_END);
    expect(&owner, "<|im_end|>", FINISH_NONE, -1);
    owner_done(&owner);
}

static void test_generation_ends_at_a_stop_token(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    uint32_t stops[] = {SAMPLE_THE, SAMPLE_IM_END};
    params.stop_tokens = stops;
    params.stop_token_count = 2;
    params.ignore_end = true; // speaks of the vocabulary's ends, not of the request's stop tokens
    owner_start(&owner, &params);
    give(&owner, 'a');
    give(&owner, SAMPLE_THE);
    expect(&owner, "a", FINISH_STOP, -1);
    assert_int_equal(owner.stop_token, SAMPLE_THE);
    owner_done(&owner);
    owner_start(&owner, &params);
    give(&owner, SAMPLE_IM_END);
    expect(&owner, "", FINISH_STOP, -1);
    assert_int_equal(owner.stop_token, SAMPLE_IM_END);
    owner_done(&owner);
    params.include_stop = true;
    owner_start(&owner, &params);
    give(&owner, SAMPLE_THE);
    expect(&owner, "the", FINISH_STOP, -1);
    owner_done(&owner);
}

static void test_generation_ends_at_its_length(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    params.output_max = 3;
    owner_start(&owner, &params);
    give_text(&owner, "abc");
    expect(&owner, "abc", FINISH_LENGTH, -1);
    assert_int_equal(owner.engine.removed, 1);
    owner_done(&owner);
    owner_start(&owner, &params);
    give_text(&owner, "ab");
    give(&owner, SAMPLE_IM_END); // the last one, and an end
    expect(&owner, "ab", FINISH_STOP, -1);
    owner_done(&owner);
}

static void test_generation_fails_when_the_worker_cannot_sample(void **state)
{
    (void)state;
    struct owner owner;
    owner_start(&owner, &plain);
    struct sched_event event = {.kind = SCHED_FAILED, .seq_id = SEQ_ID, .owner = owner.generation};
    generation_event(&event, NULL);
    expect(&owner, "", FINISH_ERROR, -1);
    assert_int_equal(owner.tokens, 0);
    assert_int_equal(owner.engine.removed, 1);
    owner_done(&owner);
}

/* ---- stop strings ---- */

static void test_generation_finds_stops_across_tokens(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    struct generation_params with = {STOPS(STOP("STOP"), STOP("\n\n"))};
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    owner_start(&owner, &params);
    give_text(&owner, "abST");
    expect(&owner, "ab", FINISH_NONE, -1); // held back
    give_text(&owner, "x");
    expect(&owner, "abSTx", FINISH_NONE, -1);
    give_text(&owner, "S\n");
    expect(&owner, "abSTxS", FINISH_NONE, -1);
    give_text(&owner, "STO");
    expect(&owner, "abSTxS\n", FINISH_NONE, -1);
    give_text(&owner, "P");
    expect(&owner, "abSTxS\n", FINISH_STOP, 0);
    assert_int_equal(owner.tokens, 11);
    owner_done(&owner);
}

static void test_generation_stops_inside_a_token(void **state)
{
    (void)state;
    struct owner owner;
    struct generation_params params = plain;
    struct generation_params with = {STOPS(STOP("xx"), STOP("ell"))};
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    owner_start(&owner, &params);
    give(&owner, SAMPLE_HELLO);
    expect(&owner, "h", FINISH_STOP, 1);
    owner_done(&owner);
    params.include_stop = true;
    owner_start(&owner, &params);
    give(&owner, SAMPLE_HELLO);
    expect(&owner, "hell", FINISH_STOP, 1);
    owner_done(&owner);
}

static void test_generation_takes_the_stop_that_is_complete_first(void **state)
{
    (void)state;
    struct generation_params with = {STOPS(STOP("hello"), STOP("ell"), STOP("hell"))};
    struct generation_params params = plain;
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    for (int as_one = 0; as_one < 2; as_one++) {
        struct owner owner;
        owner_start(&owner, &params);
        if (as_one) give(&owner, SAMPLE_HELLO);
        else give_text(&owner, "hell");
        expect(&owner, "", FINISH_STOP, 2); // "ell" ends there too, but is shorter
        owner_done(&owner);
    }
}

static void test_generation_gives_held_text_out_at_the_end(void **state)
{
    (void)state;
    struct generation_params with = {STOPS(STOP("abc"))};
    struct generation_params params = plain;
    struct owner owner;
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    owner_start(&owner, &params);
    give_text(&owner, "ab");
    expect(&owner, "", FINISH_NONE, -1);
    give(&owner, SAMPLE_IM_END);
    expect(&owner, "ab", FINISH_STOP, -1);
    owner_done(&owner);
    params.output_max = 2;
    owner_start(&owner, &params);
    give_text(&owner, "ab");
    expect(&owner, "ab", FINISH_LENGTH, -1);
    owner_done(&owner);
    params.output_max = 3; // the stop string and the last token at once: the stop string
    owner_start(&owner, &params);
    give_text(&owner, "abc");
    expect(&owner, "", FINISH_STOP, 0);
    owner_done(&owner);
}

static void test_generation_looks_for_stops_past_min_tokens(void **state)
{
    (void)state;
    struct generation_params with = {STOPS(STOP("ab"))};
    struct generation_params params = plain;
    struct owner owner;
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    params.min_tokens = 3;
    owner_start(&owner, &params);
    give_text(&owner, "aba");
    expect(&owner, "ab", FINISH_NONE, -1);
    give_text(&owner, "b"); // complete at the fourth token
    expect(&owner, "ab", FINISH_STOP, 0);
    owner_done(&owner);
}

/* ---- characters ---- */

static void test_generation_never_gives_half_a_character(void **state)
{
    (void)state;
    struct generation_params params = plain;
    struct owner owner;
    owner_start(&owner, &params);
    give_text(&owner, "a\xF0\x9F\x98");
    expect(&owner, "a", FINISH_NONE, -1);
    give_text(&owner, "\x80");
    expect(&owner, "a\U0001F600", FINISH_NONE, -1);
    owner_done(&owner);
    params.output_max = 3;
    owner_start(&owner, &params);
    give_text(&owner, "a\xF0\x9F"); // cut: what is there becomes U+FFFD
    expect(&owner, "a\uFFFD", FINISH_LENGTH, -1);
    owner_done(&owner);
    params.output_max = 100;
    owner_start(&owner, &params);
    give_text(&owner, "a\xF0\x9F");
    give(&owner, SAMPLE_IM_END);
    expect(&owner, "a\uFFFD", FINISH_STOP, -1);
    owner_done(&owner);
}

static void test_generation_finds_a_stop_made_of_bytes(void **state)
{
    (void)state;
    struct generation_params with = {STOPS(STOP("\U0001F600"), STOP("\uFFFD"))};
    struct generation_params params = plain;
    struct owner owner;
    params.stops = with.stops;
    params.stop_count = with.stop_count;
    owner_start(&owner, &params);
    give_text(&owner, "a\xF0\x9F\x98\x80");
    expect(&owner, "a", FINISH_STOP, 0);
    owner_done(&owner);
    params.output_max = 3;
    owner_start(&owner, &params);
    give_text(&owner, "a\xF0\x9F"); // only the flush at the end completes it
    expect(&owner, "a", FINISH_STOP, 1);
    owner_done(&owner);
}

/* ---- owners that act inside an update ---- */

static void test_generation_may_be_freed_inside_an_update(void **state)
{
    (void)state;
    struct owner owner;
    owner_start(&owner, &plain);
    owner.act = ACT_FREE;
    give(&owner, 'a');
    assert_null(owner.generation);
    assert_int_equal(owner.engine.removed, 1);
    owner_done(&owner);
    owner_start(&owner, &plain);
    owner.act = ACT_FREE;
    give(&owner, SAMPLE_IM_END); // at the end, as requests do
    assert_int_equal(owner.engine.removed, 1);
    owner_done(&owner);
}

static void test_generation_pauses_while_it_is_there(void **state)
{
    (void)state;
    struct owner owner;
    owner_start(&owner, &plain);
    owner.act = ACT_PAUSE;
    give(&owner, 'a');
    assert_int_equal(owner.engine.paused, 1);
    owner.act = ACT_NONE;
    generation_pause(owner.generation, false);
    assert_int_equal(owner.engine.resumed, 1);
    give(&owner, SAMPLE_IM_END);
    generation_pause(owner.generation, true); // ended: nothing to pause
    assert_int_equal(owner.engine.paused, 1);
    owner_done(&owner);
}

static void test_generation_passes_scores_and_counts_on(void **state)
{
    (void)state;
    struct owner owner;
    struct done_score scores[2] = {{.token = 2, .logprob = -1, .rank = 1}, {.token = 3, .rank = 2}};
    owner_start(&owner, &plain);
    owner.engine.cached_count = 2;
    struct sched_event event = {.kind = SCHED_SCORES,
                                .seq_id = SEQ_ID,
                                .owner = owner.generation,
                                .scores = scores,
                                .score_position = 5,
                                .score_count = 2};
    generation_event(&event, NULL);
    assert_int_equal(owner.score_position, 5);
    assert_int_equal(owner.score_count, 2);
    assert_int_equal(owner.tokens, 0);
    assert_int_equal(generation_cached_count(owner.generation), 2);
    assert_int_equal(generation_output_count(owner.generation), 0);
    struct done_top tops[3] = {{1, -1}, {2, -2}, {3, -3}};
    struct done_seq seq = {.seq_id = SEQ_ID, .token = 'a', .top_first = 1, .top_count = 2};
    event = (struct sched_event){
        .kind = SCHED_TOKEN, .seq_id = SEQ_ID, .owner = owner.generation, .seq = &seq};
    generation_event(&event, tops);
    assert_int_equal(owner.top_count, 2);
    assert_int_equal(owner.score_count, 0);
    owner_done(&owner);
}

/* ---- at random, against a search over the whole text ---- */

enum { MODEL_TOKENS = 40, MODEL_STOPS = 4 };

/* What must come out: everything before the stop string that ends first, the longest of those. */
static size_t model_cut(const char *text, const struct stop_string *stops, uint32_t count, int32_t *ret_stop)
{
    size_t len = strlen(text);
    *ret_stop = -1;
    for (size_t end = 1; end <= len; end++) {
        size_t best = 0;
        for (uint32_t i = 0; i < count; i++) {
            bool matches = stops[i].len <= end && stops[i].len > best &&
                           memcmp(text + end - stops[i].len, stops[i].text, stops[i].len) == 0;
            if (!matches) continue;
            best = stops[i].len;
            *ret_stop = (int32_t)i;
        }
        if (best) return end - best;
    }
    return len;
}

static void test_generation_agrees_with_a_search_over_the_text(void **state)
{
    (void)state;
    static const uint32_t words[] = {
        'a',       'a',       'h',         'e',          'l',          'o',         SAMPLE_AA,     ' ',
        SAMPLE_HE, SAMPLE_LL, SAMPLE_HELL, SAMPLE_HELLO, SAMPLE_SP_SP, SAMPLE_AAAA, SAMPLE_SP_THE, 't'};
    const char *seed_text = getenv("KVASIR_SEED");
    struct rng rng = {seed_text ? strtoull(seed_text, NULL, 0) : 1};
    print_message("seed %llu\n", (unsigned long long)rng.state);
    for (int round = 0; round < 3000; round++) {
        char stop_texts[MODEL_STOPS][8], text[MODEL_TOKENS * 8] = "";
        struct stop_string stops[MODEL_STOPS];
        uint32_t count = (uint32_t)rng_below(&rng, MODEL_STOPS + 1), ids[MODEL_TOKENS];
        for (uint32_t i = 0; i < count; i++) {
            size_t len = 1 + rng_below(&rng, 7);
            for (size_t k = 0; k < len; k++) stop_texts[i][k] = "aahello th"[rng_below(&rng, 10)];
            stops[i] = (struct stop_string){stop_texts[i], len};
        }
        struct generation_params params = plain;
        struct owner owner;
        params.stops = stops;
        params.stop_count = count;
        params.output_max = MODEL_TOKENS;
        for (int i = 0; i < MODEL_TOKENS; i++) {
            size_t len;
            ids[i] = words[rng_below(&rng, COUNT_OF(words))];
            const uint8_t *bytes = tokenizer_token_bytes(tokenizer, ids[i], &len);
            strncat(text, (const char *)bytes, len);
        }
        int32_t stop;
        size_t cut = model_cut(text, stops, count, &stop);
        owner_start(&owner, &params);
        for (int i = 0; i < MODEL_TOKENS && owner.finish == FINISH_NONE; i++) {
            give(&owner, ids[i]);
            assert_true(owner.text.len <= cut); // nothing that would have to be taken back
        }
        text[cut] = 0;
        expect(&owner, text, stop >= 0 ? FINISH_STOP : FINISH_LENGTH, stop);
        owner_done(&owner);
    }
}

static int tokenizer_make(void **state)
{
    (void)state;
    tokenizer = sample_vocab_new();
    return 0;
}

static int tokenizer_drop(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generation_submits_what_it_was_given),
        cmocka_unit_test(test_generation_asks_for_history_with_any_penalty),
        cmocka_unit_test(test_generation_bans_ends_until_min_tokens),
        cmocka_unit_test(test_generation_refuses_more_bans_than_fit),
        cmocka_unit_test(test_generation_passes_refusals_on),
        cmocka_unit_test(test_generation_ends_at_an_end_token),
        cmocka_unit_test(test_generation_goes_on_past_ends_when_told),
        cmocka_unit_test(test_generation_ends_at_a_stop_token),
        cmocka_unit_test(test_generation_ends_at_its_length),
        cmocka_unit_test(test_generation_fails_when_the_worker_cannot_sample),
        cmocka_unit_test(test_generation_finds_stops_across_tokens),
        cmocka_unit_test(test_generation_stops_inside_a_token),
        cmocka_unit_test(test_generation_takes_the_stop_that_is_complete_first),
        cmocka_unit_test(test_generation_gives_held_text_out_at_the_end),
        cmocka_unit_test(test_generation_looks_for_stops_past_min_tokens),
        cmocka_unit_test(test_generation_never_gives_half_a_character),
        cmocka_unit_test(test_generation_finds_a_stop_made_of_bytes),
        cmocka_unit_test(test_generation_may_be_freed_inside_an_update),
        cmocka_unit_test(test_generation_pauses_while_it_is_there),
        cmocka_unit_test(test_generation_passes_scores_and_counts_on),
        cmocka_unit_test(test_generation_agrees_with_a_search_over_the_text),
    };
    return cmocka_run_group_tests(tests, tokenizer_make, tokenizer_drop);
}
