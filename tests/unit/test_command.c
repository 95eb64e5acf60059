/* SPDX-License-Identifier: Apache-2.0 */
/* test_command - the parts of the `kvasir` command, and its subcommands against a scripted server:
 * options, metrics text, the conversation, the load generator's prompts and numbers, exit statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "client/bench.h"
#include "client/cmd.h"
#include "client/metrics_text.h"
#include "client/opts.h"
#include "client/talk.h"
#include "common/base/check.h"
#include "common/base/err.h"
#include "tests/unit/capture.h"
#include "tests/unit/fake_server.h"

/* ---- running a subcommand ---- */

enum { ARGUMENTS_MAX = 16, OUTPUT_BYTES = 16 << 10 };

struct outcome {
    int status;
    char out[OUTPUT_BYTES], err[OUTPUT_BYTES];
};

/* Runs it with stdin from `input` (NULL: empty) and both outputs caught. */
static void run(struct outcome *outcome, int (*command)(int, char **), const char *input, ...)
{
    char *argv[ARGUMENTS_MAX + 1] = {NULL};
    int argc = 0;
    va_list list;
    va_start(list, input);
    for (char *argument; (argument = va_arg(list, char *)) != NULL;) argv[argc++] = argument;
    va_end(list);
    FILE *in = tmpfile(), *out = tmpfile(), *err = tmpfile();
    assert_true(in != NULL && out != NULL && err != NULL);
    if (input != NULL) fputs(input, in);
    rewind(in);
    fflush(NULL);
    int kept_in = capture_begin(0, in), kept_out = capture_begin(1, out), kept_err = capture_begin(2, err);
    clearerr(stdin);
    outcome->status = command(argc, argv);
    capture_end(2, kept_err, err, outcome->err, OUTPUT_BYTES);
    capture_end(1, kept_out, out, outcome->out, OUTPUT_BYTES);
    dup2(kept_in, 0);
    close(kept_in);
    fclose(in);
}

#define RUN(outcome, command, input, ...) run((outcome), (command), (input), __VA_ARGS__, (char *)NULL)

static void expect_text(const char *text, const char *part)
{
    if (strstr(text, part) != NULL) return;
    fail_msg("no \"%s\" in: %s", part, text);
}

/* ---- options ---- */

struct parsed {
    bool flag;
    const char *text;
    struct kvasir_maybe_int number;
    struct kvasir_maybe_double real;
};

static int parse(struct parsed *parsed, int *ret_count, char **argv)
{
    int argc = 0;
    const struct opt table[] = {
        {"flag", OPT_FLAG, NULL, &parsed->flag, "", 0, 0},
        {"text", OPT_TEXT, "T", &parsed->text, "", 0, 0},
        {"number", OPT_INT, "N", &parsed->number, "", -5, 5},
        {"real", OPT_REAL, "R", &parsed->real, "", 0, 0},
    };
    const struct opts opts = {"try", "", table, COUNT_OF(table)};
    while (argv[argc] != NULL) argc++;
    FILE *err = tmpfile();
    char said[OUTPUT_BYTES];
    fflush(NULL);
    int kept = capture_begin(2, err);
    int r = opts_parse(&opts, argc, argv, ret_count);
    capture_end(2, kept, err, said, sizeof said);
    assert_true((r < 0) == (said[0] != '\0'));
    return r;
}

#define PARSE(parsed, count, ...) parse((parsed), (count), (char *[]){(char *)"try", __VA_ARGS__, NULL})

static void test_opts_takes_values_in_both_forms_and_mixed_operands(void **state)
{
    (void)state;
    struct parsed parsed = {0};
    int count = 0;
    char *argv[] = {"try",    "a",          "--number", "-3",     "--text=x=y", "-",
                    "--flag", "--real=1.5", "--",       "--flag", NULL};
    assert_int_equal(parse(&parsed, &count, argv), 0);
    assert_true(parsed.flag);
    assert_string_equal(parsed.text, "x=y");
    assert_int_equal(parsed.number.is_set, 1);
    assert_int_equal(parsed.number.value, -3);
    assert_true(parsed.real.value == 1.5);
    assert_int_equal(count, 3);
    assert_string_equal(argv[0], "a");
    assert_string_equal(argv[1], "-");
    assert_string_equal(argv[2], "--flag");
}

static void test_opts_refuses_what_is_wrong(void **state)
{
    (void)state;
    static char *const WRONG[] = {"--nope",
                                  "-x",
                                  "--number=6",
                                  "--number=-6",
                                  "--number=1x",
                                  "--number=",
                                  "--number=99999999999999999999",
                                  "--real=x",
                                  "--real=nan",
                                  "--real=inf",
                                  "--flag=1",
                                  "--text",
                                  "--flags",
                                  "--fla"};
    for (size_t i = 0; i < COUNT_OF(WRONG); i++) {
        struct parsed parsed = {0};
        int count = 0;
        assert_int_equal(PARSE(&parsed, &count, WRONG[i]), ERR_USAGE);
    }
}

/* ---- metrics ---- */

static const char METRICS[] = "# HELP a text\n# TYPE a gauge\n"
                              "a 3\n"
                              "a_b 100\n"
                              "c{x=\"1\",y=\"}\\\"{\"} 1.5\n"
                              "c{x=\"2\"} 2.5 1700000000\n"
                              "d{block_size=\"16\",num=\"2048\"} 1\n"
                              "broken\nbroken \nbroken{\nbroken{x=\"1 2\n"
                              "e 1e3";

static void test_metrics_text_sums_all_label_sets(void **state)
{
    (void)state;
    double sum = -1;
    assert_int_equal(metrics_text_sum(METRICS, "a", &sum), 1);
    assert_true(sum == 3);
    assert_int_equal(metrics_text_sum(METRICS, "c", &sum), 2);
    assert_true(sum == 4);
    assert_int_equal(metrics_text_sum(METRICS, "e", &sum), 1);
    assert_true(sum == 1000);
    sum = -1;
    assert_int_equal(metrics_text_sum(METRICS, "broken", &sum), 0);
    assert_int_equal(metrics_text_sum(METRICS, "b", &sum), 0);
    assert_int_equal(metrics_text_sum("", "a", &sum), 0);
    assert_true(sum == -1);
}

static void test_metrics_text_reads_labels(void **state)
{
    (void)state;
    char value[8];
    assert_int_equal(metrics_text_label(METRICS, "d", "num", value, sizeof(value)), 4);
    assert_string_equal(value, "2048");
    assert_int_equal(metrics_text_label(METRICS, "d", "block_size", value, sizeof(value)), 2);
    assert_string_equal(value, "16");
    assert_int_equal(metrics_text_label(METRICS, "c", "y", value, sizeof(value)), 3);
    assert_string_equal(value, "}\"{");
    assert_int_equal(metrics_text_label(METRICS, "d", "x", value, sizeof(value)), 0);
    assert_int_equal(metrics_text_label(METRICS, "a", "x", value, sizeof(value)), 0);
    assert_int_equal(metrics_text_label(METRICS, "broken", "x", value, sizeof(value)), 0);
    assert_int_equal(metrics_text_label("a{b=\"0123456789\"} 1", "a", "b", value, sizeof(value)), 7);
    assert_string_equal(value, "0123456");
}

static void test_metrics_text_bears_every_prefix_and_every_byte(void **state)
{
    (void)state;
    char value[8];
    for (size_t len = 0; len < strlen(METRICS); len++) {
        for (int byte = 0; byte < 6; byte++) {
            char *copy = strdup(METRICS); // its end is watched by the sanitizer
            double sum = 0;
            copy[len] = "\0\"\\{}\n"[byte];
            (void)metrics_text_sum(copy, "c", &sum); // must return, whatever it finds
            (void)metrics_text_label(copy, "c", "y", value, sizeof(value));
            (void)metrics_text_label(copy, "d", "num", value, sizeof(value));
            free(copy);
        }
    }
}

/* ---- the conversation ---- */

static void test_talk_keeps_the_system_message_first(void **state)
{
    (void)state;
    struct talk talk = {0};
    assert_int_equal(talk_set_system(&talk, NULL), 0);
    assert_int_equal(talk_push(&talk, "user", "a"), 0);
    assert_int_equal(talk_push(&talk, "assistant", "b"), 0);
    assert_int_equal(talk_set_system(&talk, "one"), 0);
    assert_int_equal(talk_set_system(&talk, "two"), 0);
    assert_int_equal(talk.count, 3);
    assert_string_equal(talk.messages[0].role, "system");
    assert_string_equal(talk.messages[0].content, "two");
    assert_string_equal(talk.messages[1].content, "a");
    assert_string_equal(talk.messages[2].content, "b");
    talk_pop(&talk);
    talk_reset(&talk);
    assert_int_equal(talk.count, 1);
    assert_int_equal(talk_set_system(&talk, ""), 0);
    assert_int_equal(talk.count, 0);
    talk_reset(&talk);
    for (int i = 0; i < 40; i++) assert_int_equal(talk_push(&talk, "user", "x"), 0);
    assert_int_equal(talk_set_system(&talk, "one"), 0);
    assert_int_equal(talk.count, 41);
    talk_done(&talk);
}

/* ---- the load generator ---- */

static void test_bench_percentile_is_the_nearest_rank(void **state)
{
    (void)state;
    struct bench_values values = {0};
    static const double FIVE[] = {50, 15, 40, 20, 35}; // the usual worked example of nearest rank
    for (size_t i = 0; i < COUNT_OF(FIVE); i++) assert_int_equal(bench_values_push(&values, FIVE[i]), 0);
    bench_values_sort(&values);
    assert_true(bench_values_percentile(&values, 5) == 15);
    assert_true(bench_values_percentile(&values, 30) == 20);
    assert_true(bench_values_percentile(&values, 40) == 20);
    assert_true(bench_values_percentile(&values, 50) == 35);
    assert_true(bench_values_percentile(&values, 100) == 50);
    assert_true(bench_values_mean(&values) == 32);
    free(values.values);
}

static cJSON *prompt_json(const struct bench_config *config, int64_t idx)
{
    char *body = NULL;
    struct kvasir_error error;
    assert_int_equal(bench_prompt(config, idx, &body, &error), 0);
    cJSON *json = cJSON_Parse(body);
    cJSON_free(body);
    assert_non_null(json);
    return json;
}

static void test_bench_prompts_share_exactly_their_start(void **state)
{
    (void)state;
    const struct bench_config config = {.prompt_tokens = 64,
                                        .shared_tokens = 48,
                                        .output_tokens = 3,
                                        .vocab = 5000,
                                        .seed = 7,
                                        .is_token_ids = true,
                                        .is_stream = true,
                                        .is_ignore_eos = true};
    cJSON *a = prompt_json(&config, 0), *b = prompt_json(&config, 1), *again = prompt_json(&config, 0);
    const cJSON *ids_a = cJSON_GetObjectItem(a, "prompt"), *ids_b = cJSON_GetObjectItem(b, "prompt");
    assert_int_equal(cJSON_GetArraySize(ids_a), 64);
    assert_true(cJSON_Compare(a, again, true));
    int differing = 0;
    for (int i = 0; i < 64; i++) {
        int x = cJSON_GetArrayItem(ids_a, i)->valueint, y = cJSON_GetArrayItem(ids_b, i)->valueint;
        assert_true(x >= 300 && x < 5000);
        if (i < 48) assert_int_equal(x, y);
        else differing += x != y;
    }
    assert_true(differing >= 14); // equal by chance: 16 draws of 1 in 4,700
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(a, "ignore_eos")));
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(a, "stream")));
    cJSON_Delete(a);
    cJSON_Delete(b);
    cJSON_Delete(again);
}

static void test_bench_prompts_of_words_have_that_many(void **state)
{
    (void)state;
    const struct bench_config config = {
        .prompt_tokens = 100, .output_tokens = 1, .vocab = 301, .is_chat = true};
    cJSON *json = prompt_json(&config, -3);
    const cJSON *message = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "messages"), 0);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(message, "content"));
    int spaces = 0;
    for (const char *p = text; *p != '\0'; p++) spaces += *p == ' ';
    assert_int_equal(spaces, 99);
    cJSON_Delete(json);
}

/* ---- subcommands ---- */

#define CHUNK(text) \
    "data: {\"choices\":[{\"index\":0,\"text\":\"" text "\",\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define USAGE_CHUNK \
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6," \
    "\"prompt_tokens_details\":{\"cached_tokens\":1}}}\n\n"
#define CHUNKS CHUNK("one") CHUNK(" two") USAGE_CHUNK "data: [DONE]\n\n"

static const struct fake_route ROUTES[] = {
    {"/health", FAKE_JSON "{}"},
    {"/ready", FAKE_JSON "{}"},
    {"/version", FAKE_JSON "{\"version\":\"9.9\"}"},
    {"/v1/models", FAKE_JSON "{\"data\":[{\"id\":\"tiny\",\"max_model_len\":512}]}"},
    {"/metrics",
     "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
     "vllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_waiting{engine=\"0\"} 1\n"
     "vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n"
     "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"2048\"} 1\n"
     "vllm:prompt_tokens_total 200\nvllm:prompt_tokens_cached_total 50\nvllm:generation_tokens_total 70\n"},
    {"/v1/completions", FAKE_STREAM CHUNKS},
    {"/v1/chat/completions", FAKE_STREAM CHUNKS},
    {NULL, NULL},
};
static const struct fake_step ROUTE_EACH[] = {
    {FAKE_READ, NULL, 0}, {FAKE_ROUTE, NULL, 0}, {FAKE_END, NULL, 0}};
static const struct fake_step REFUSE_ALL[] = {
    {FAKE_READ, NULL, 0},
    {FAKE_SEND,
     "HTTP/1.1 503 X\r\nConnection: close\r\nRetry-After: 2\r\n\r\n{\"error\":{\"message\":\"loading\"}}", 0},
    {FAKE_END, NULL, 0}};

static struct fake_server *server;

static int start(void **state)
{
    (void)state;
    server = fake_server_start(ROUTE_EACH, ROUTES);
    setenv("KVASIR_URL", fake_server_url(server), 1);
    unsetenv("KVASIR_UDS");
    unsetenv("KVASIR_API_KEY");
    return 0;
}

static int start_refusing(void **state)
{
    (void)state;
    server = fake_server_start(REFUSE_ALL, NULL);
    setenv("KVASIR_URL", fake_server_url(server), 1);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    fake_server_stop(server);
    return 0;
}

static void test_status_prints_a_table(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_status, NULL, "status");
    assert_int_equal(o.status, 0);
    expect_text(o.out,
                "version 9.9\nhealth     ok\nready      yes\nmodel      tiny, 512 tokens of context\n"
                "requests   3 running, 1 waiting\ncache      25.0 % in use of 2048 pages of 16 tokens\n"
                "prompts    200 tokens, 25.0 % of them from the cache\ngenerated  70 tokens\n");
    RUN(&o, cmd_status, NULL, "status", "--json");
    expect_text(o.out, "\"ready\":true");
    expect_text(o.out, "\"cache_pages\":2048");
}

static void test_status_fails_while_the_server_is_not_ready(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_status, NULL, "status");
    assert_int_equal(o.status, EXIT_FAILED);
    expect_text(o.out, "health     failing\nready      no: /ready answered with HTTP status 503: loading\n");
}

static void test_chat_tells_a_busy_server(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_chat, NULL, "chat", "hello");
    assert_int_equal(o.status, EX_UNAVAILABLE);
    expect_text(o.err, "loading");
    expect_text(o.err, "try again in 2 s");
}

static void test_chat_answers_an_argument_and_a_pipe(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_chat, NULL, "chat", "--system", "be brief", "hello", "there", "--temperature", "0",
        "--seed=5");
    assert_int_equal(o.status, 0);
    assert_string_equal(o.out, "one two\n");
    assert_true(fake_server_saw(
        server, "{\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\","
                "\"content\":\"hello there\"}],\"temperature\":0,\"seed\":5,"));
    RUN(&o, cmd_chat, "from a pipe", "chat");
    assert_string_equal(o.out, "one two\n");
    assert_true(fake_server_saw(server, "\"content\":\"from a pipe\""));
    RUN(&o, cmd_chat, "piped", "chat", "before", "-", "after");
    assert_true(fake_server_saw(server, "\"content\":\"before piped after\""));
}

static void test_chat_converses(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_chat,
        "first\nsecond \\\nline\n/stats\n/system pirate\n/nope\n\nthird\n/reset\nlast\n/quit\nnever\n",
        "chat", "--interactive");
    assert_int_equal(o.status, 0);
    assert_true(fake_server_saw(server, "{\"messages\":[{\"role\":\"system\",\"content\":\"pirate\"},"
                                        "{\"role\":\"user\",\"content\":\"last\"}],"));
    assert_int_equal(fake_server_requests(server), 5); // one to see that someone is there
    expect_text(o.out, "2 answers, 8 prompt tokens (2 from the cache), 4 generated\n");
    expect_text(o.out, "(no such command)");
}

static void test_complete_prints_the_stream(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_complete, NULL, "complete", "Once", "--max-tokens=4", "--model", "tiny");
    assert_int_equal(o.status, 0);
    assert_string_equal(o.out, "one two\n");
    assert_true(fake_server_saw(server, "{\"model\":\"tiny\",\"prompt\":\"Once\",\"max_tokens\":4,"));
}

static void test_models_lists_them(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_models, NULL, "models");
    assert_int_equal(o.status, 0);
    expect_text(o.out, "tiny ");
    expect_text(o.out, " 512 tokens of context\n");
}

static void test_bench_measures_streams(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_bench, NULL, "bench", "--requests=12", "--concurrency=3", "--warmup=2", "--prompt-tokens=4",
        "--json");
    assert_int_equal(o.status, 0);
    assert_int_equal(fake_server_requests(server), 15); // models, 2, 12
    cJSON *json = cJSON_Parse(o.out);
    assert_non_null(json);
    assert_int_equal(cJSON_GetObjectItem(json, "requests_ok")->valueint, 12);
    assert_int_equal(cJSON_GetObjectItem(json, "requests_failed")->valueint, 0);
    assert_int_equal(cJSON_GetObjectItem(json, "input_tokens")->valueint, 48);
    assert_int_equal(cJSON_GetObjectItem(json, "cached_tokens")->valueint, 12);
    assert_int_equal(cJSON_GetObjectItem(json, "output_tokens")->valueint, 24);
    double first = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "ttft_ms"), "max")->valuedouble;
    double whole = cJSON_GetObjectItem(cJSON_GetObjectItem(json, "e2e_ms"), "max")->valuedouble;
    assert_true(first > 0 && first <= whole);
    cJSON_Delete(json);
    RUN(&o, cmd_bench, NULL, "bench", "--requests=3", "--chat", "--no-stream", "--prompt-tokens=4");
    assert_int_equal(o.status, 0);
    expect_text(o.out, "3 good, 0 failed");
}

static void test_bench_counts_failures(void **state)
{
    (void)state;
    struct outcome o;
    RUN(&o, cmd_bench, NULL, "bench", "--requests=3", "--model=m");
    assert_int_equal(o.status, EX_UNAVAILABLE);
    expect_text(o.out, "0 good, 3 failed");
    expect_text(o.out, "loading");
}

static void test_bench_refuses_other_machines(void **state)
{
    (void)state;
    static char *const REMOTE[] = {"http://192.0.2.1", "http://127.example.com", "http://[::2]:80",
                                   "http://localhost.example.com", "http://127.0.0.1@192.0.2.1"};
    for (size_t i = 0; i < COUNT_OF(REMOTE); i++) {
        struct outcome o;
        RUN(&o, cmd_bench, NULL, "bench", "--url", REMOTE[i]);
        assert_int_equal(o.status, EX_USAGE);
        expect_text(o.err, "--allow-remote");
    }
}

static void test_commands_tell_that_nobody_is_there(void **state)
{
    (void)state;
    static int (*const COMMANDS[])(int, char **) = {cmd_status, cmd_models, cmd_bench, cmd_chat,
                                                    cmd_complete};
    setenv("KVASIR_URL", "http://127.0.0.1:1", 1);
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++) {
        struct outcome o;
        RUN(&o, COMMANDS[i], "text", "command");
        assert_int_equal(o.status, EX_UNAVAILABLE);
        expect_text(o.err, "no server at http://127.0.0.1:1: start one with `kvasir serve MODEL.gguf`");
        RUN(&o, COMMANDS[i], "text", "command", "--uds", P_tmpdir "/kvasir-no-such-folder/socket");
        assert_int_equal(o.status, EX_UNAVAILABLE);
        expect_text(o.err, "no server at " P_tmpdir "/kvasir-no-such-folder/socket");
    }
}

static void test_commands_refuse_wrong_use(void **state)
{
    (void)state;
    static int (*const COMMANDS[])(int, char **) = {cmd_status, cmd_models, cmd_bench, cmd_chat,
                                                    cmd_complete};
    for (size_t i = 0; i < COUNT_OF(COMMANDS); i++) {
        struct outcome o;
        RUN(&o, COMMANDS[i], "text", "command", "--nope");
        assert_int_equal(o.status, EX_USAGE);
        RUN(&o, COMMANDS[i], "text", "command", "--url", "ftp://x");
        assert_int_equal(o.status, EX_USAGE);
        RUN(&o, COMMANDS[i], NULL, "command", "--help");
        assert_int_equal(o.status, 0);
        expect_text(o.out, "usage: kvasir ");
    }
    struct outcome o;
    RUN(&o, cmd_chat, "", "chat");
    assert_int_equal(o.status, EX_USAGE);
    RUN(&o, cmd_complete, NULL, "complete", "\xFF");
    assert_int_equal(o.status, EX_USAGE);
    RUN(&o, cmd_chat, NULL, "chat", "--interactive", "--json");
    assert_int_equal(o.status, EX_USAGE);
    RUN(&o, cmd_bench, NULL, "bench", "--shared-tokens=9", "--prompt-tokens=8");
    assert_int_equal(o.status, EX_USAGE);
}

#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, start, stop)
#define WITH_REFUSING_SERVER(test) cmocka_unit_test_setup_teardown(test, start_refusing, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opts_takes_values_in_both_forms_and_mixed_operands),
        cmocka_unit_test(test_opts_refuses_what_is_wrong),
        cmocka_unit_test(test_metrics_text_sums_all_label_sets),
        cmocka_unit_test(test_metrics_text_reads_labels),
        cmocka_unit_test(test_metrics_text_bears_every_prefix_and_every_byte),
        cmocka_unit_test(test_talk_keeps_the_system_message_first),
        cmocka_unit_test(test_bench_percentile_is_the_nearest_rank),
        cmocka_unit_test(test_bench_prompts_share_exactly_their_start),
        cmocka_unit_test(test_bench_prompts_of_words_have_that_many),
        WITH_SERVER(test_status_prints_a_table),
        WITH_REFUSING_SERVER(test_status_fails_while_the_server_is_not_ready),
        WITH_REFUSING_SERVER(test_chat_tells_a_busy_server),
        WITH_SERVER(test_chat_answers_an_argument_and_a_pipe),
        WITH_SERVER(test_chat_converses),
        WITH_SERVER(test_complete_prints_the_stream),
        WITH_SERVER(test_models_lists_them),
        WITH_SERVER(test_bench_measures_streams),
        WITH_REFUSING_SERVER(test_bench_counts_failures),
        cmocka_unit_test(test_bench_refuses_other_machines),
        cmocka_unit_test(test_commands_tell_that_nobody_is_there),
        cmocka_unit_test(test_commands_refuse_wrong_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
