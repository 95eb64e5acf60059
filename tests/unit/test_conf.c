/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration of kvasird: precedence, strictness, every error's text, and that no API key shows. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "daemon/conf_option.h"

enum { ARGS_MAX = 16 };

static struct conf conf;
static struct err err;
static char *argv_copy[ARGS_MAX]; // of the last load(), as conf_load() left it
static char *const *environment;
static char ini_path[] = "test_conf.XXXXXX";

static void free_argv(void)
{
    for (int i = 0; i < ARGS_MAX; i++) {
        free(argv_copy[i]);
        argv_copy[i] = NULL;
    }
}

/* conf_load() with copies of the arguments, which end with NULL. */
static int load(const char *first, ...)
{
    int argc = 0;
    va_list args;
    free_argv();
    conf_done(&conf);
    err = (struct err){0};
    argv_copy[argc++] = strdup("kvasird");
    va_start(args, first);
    for (const char *arg = first; arg; arg = va_arg(args, const char *)) {
        assert_true(argc < ARGS_MAX - 1);
        argv_copy[argc++] = strdup(arg);
    }
    va_end(args);
    int r = conf_load(argc, argv_copy, environment, &conf, &err);
    if (r < 0) assert_int_equal(err.code, r);
    assert_null(strchr(err.text, '\n'));
    return r;
}

#define LOAD(...) load(__VA_ARGS__, (const char *)NULL)

static void assert_error(int r, int code, const char *part)
{
    if (r != code || !strstr(err.text, part)) fail_msg("%d '%s', expected %d '%s'", r, err.text, code, part);
}

static void write_ini(const char *text)
{
    FILE *file = fopen(ini_path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(strcpy(ini_path, "test_conf.XXXXXX"));
    environment = NULL;
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    free_argv();
    conf_done(&conf);
    return unlink(ini_path);
}

/* ---- values and sources ---- */

static void test_conf_defaults_are_the_documented_ones(void **state)
{
    (void)state;
    assert_int_equal(LOAD("m.gguf"), CONF_SERVE);
    assert_string_equal(conf.model, "m.gguf");
    assert_string_equal(conf.host, "127.0.0.1");
    assert_int_equal(conf.port, 8000);
    assert_string_equal(conf.uds, "");
    assert_int_equal(conf.api_keys.count, 0);
    assert_string_equal(conf.served_model_name, "");
    assert_int_equal(conf.max_model_len, 0);
    assert_int_equal(conf.max_num_seqs, 64);
    assert_int_equal(conf.max_num_batched_tokens, 512);
    assert_int_equal(conf.max_num_queued_reqs, 1024);
    assert_int_equal(conf.block_size, 16);
    assert_int_equal(conf.kv_cache_memory_bytes, 0);
    assert_int_equal(conf.kv_cache_dtype, CONF_KV_AUTO);
    assert_int_equal(conf.tensor_parallel_size, 1);
    assert_int_equal(conf.data_parallel_size, 1);
    assert_int_equal(conf.threads, 0);
    assert_string_equal(conf.instance, "default");
    assert_int_equal(conf.max_body_bytes, HTTP_BODY_BYTES_DEFAULT);
    assert_int_equal(conf.log_level, LOG_LEVEL_INFO);
    assert_false(conf.progress);
    assert_int_equal(conf.sources[CONF_port], CONF_FROM_DEFAULT);
}

static void test_conf_flags_win_over_environment_over_file(void **state)
{
    (void)state;
    char *variables[] = {"KVASIR_PORT=2", "KVASIR_MAX_NUM_SEQS=22", "KVASIR_LOG_LEVEL=", "OTHER=1", NULL};
    environment = variables;
    write_ini("[server]\nport = 1\n[scheduler]\nmax-num-seqs = "
              "11\nmax_num_queued_reqs=111\n[log]\nlog-level=debug\n");
    assert_int_equal(LOAD("--config", ini_path, "--port=3", "m.gguf"), CONF_SERVE);
    assert_int_equal(conf.port, 3);
    assert_int_equal(conf.max_num_seqs, 22);
    assert_int_equal(conf.max_num_queued_reqs, 111);
    assert_int_equal(conf.log_level, LOG_LEVEL_DEBUG); // an empty variable is no setting
    assert_int_equal(conf.sources[CONF_port], CONF_FROM_FLAG);
    assert_int_equal(conf.sources[CONF_max_num_seqs], CONF_FROM_ENVIRONMENT);
    assert_int_equal(conf.sources[CONF_max_num_queued_reqs], CONF_FROM_FILE);
}

static void test_conf_file_may_be_named_by_the_environment_and_hold_the_model(void **state)
{
    (void)state;
    char variable[64];
    (void)snprintf(variable, sizeof variable, "KVASIR_CONFIG=%s", ini_path);
    char *variables[] = {variable, NULL};
    environment = variables;
    write_ini("\xef\xbb\xbf# a comment\r\n[model]\r\nmodel = /models/a b.gguf ; inline comment\r\n");
    assert_int_equal(load(NULL), CONF_SERVE);
    assert_string_equal(conf.model, "/models/a b.gguf");
}

static void test_conf_flag_forms(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--max_num_seqs", "8", "--progress", "--", "--m.gguf"), CONF_SERVE);
    assert_int_equal(conf.max_num_seqs, 8);
    assert_true(conf.progress);
    assert_string_equal(conf.model, "--m.gguf");
    assert_int_equal(LOAD("--model", "m", "--progress=on", "--no-progress", "--port=1", "--port=2"),
                     CONF_SERVE);
    assert_false(conf.progress);
    assert_int_equal(conf.port, 2);
    assert_int_equal(LOAD("--help"), CONF_HELP);
    assert_int_equal(LOAD("-h"), CONF_HELP);
    assert_int_equal(LOAD("m", "--version"), CONF_VERSION);
    assert_int_equal(LOAD("--example-config"), CONF_EXAMPLE_CONFIG);
}

static void test_conf_sizes_take_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"1048576", 1 << 20},
        {"512K", 512 << 10},
        {"3m", 3 << 20},
        {"2G", UINT64_C(2) << 30},
        {"2GiB", UINT64_C(2) << 30},
        {"1T", UINT64_C(1) << 40},
        {"64T", UINT64_C(64) << 40},
        {"0", 0},
    };
    static const char *const wrong[] = {"",
                                        "K",
                                        "-1",
                                        "+1",
                                        " 1",
                                        "1 ",
                                        "1.5G",
                                        "2GB",
                                        "2Gi",
                                        "0x10",
                                        "65T",
                                        "1e9",
                                        "999999999999999999999",
                                        "16777217T"};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        assert_int_equal(LOAD("m", "--kv-cache-memory-bytes", sizes[i].text), CONF_SERVE);
        assert_true(conf.kv_cache_memory_bytes == sizes[i].bytes);
    }
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        int r = LOAD("m", "--kv-cache-memory-bytes", wrong[i]);
        assert_error(r, ERR_USAGE, "is not a size (such as 512M) from 0 to 64T");
    }
}

static void test_conf_numbers_are_strict(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "", "-1", "+1", " 1", "1 ", "65536", "4294967297", "0x1f", "1.0", "18446744073709551616", "one"};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        char expected[128];
        (void)snprintf(expected, sizeof expected, "--port: '%s' is not a whole number from 0 to 65535",
                       wrong[i]);
        assert_error(LOAD("m", "--port", wrong[i]), ERR_USAGE, expected);
    }
    assert_int_equal(LOAD("m", "--port", "0"), CONF_SERVE);
    assert_int_equal(LOAD("m", "--port", "65535"), CONF_SERVE);
    assert_int_equal(LOAD("m", "--seed", "9223372036854775807"), CONF_SERVE);
    assert_true(conf.seed == INT64_MAX);
    assert_error(LOAD("m", "--max-num-seqs", "0"), ERR_USAGE, "from 1 to 2048");
    assert_error(LOAD("m", "--max-num-seqs", "2049"), ERR_USAGE, "from 1 to 2048");
}

static void test_conf_choices_name_their_words(void **state)
{
    (void)state;
    assert_error(LOAD("m", "--log-level", "loud"), ERR_USAGE,
                 "--log-level: 'loud' is not one of error|warn|info|debug");
    assert_error(LOAD("m", "--log-level", ""), ERR_USAGE, "is not one of");
    assert_int_equal(LOAD("m", "--api-key=a,b,c", "--cache-tenant-share=33"), CONF_SERVE);
    assert_int_equal(conf.cache_tenant_share, 33);
    assert_error(LOAD("m", "--api-key=a,b,c", "--cache-tenant-share=34"), ERR_CONFIG,
                 "cache-tenant-share: 34 % for each of 3 API keys is more than there is");
    assert_int_equal(LOAD("m", "--log-level=error", "--kv-cache-dtype=f16"), CONF_SERVE);
    assert_int_equal(conf.log_level, LOG_LEVEL_ERROR);
    assert_int_equal(conf.kv_cache_dtype, CONF_KV_F16);
}

static void test_conf_page_types_have_the_names_of_others_too(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        uint32_t type;
    } words[] = {{"auto", CONF_KV_AUTO},     {"bf16", CONF_KV_BF16},  {"q8", CONF_KV_Q8},
                 {"q4", CONF_KV_Q4},         {"q8_0", CONF_KV_Q8},    {"q4_0", CONF_KV_Q4},
                 {"bfloat16", CONF_KV_BF16}, {"float16", CONF_KV_F16}};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        assert_int_equal(LOAD("m", "--kv-cache-dtype", words[i].word), CONF_SERVE);
        assert_int_equal(conf.kv_cache_dtype, words[i].type);
    }
    assert_error(LOAD("m", "--kv-cache-dtype", "fp8"), ERR_USAGE,
                 "--kv-cache-dtype: 'fp8' is not one of auto|f16|bf16|q8|q4");
    assert_error(LOAD("m", "--log-level", "q8_0"), ERR_USAGE, "is not one of");
}

/* ---- refusals ---- */

static void test_conf_unknown_flags_get_the_nearest_name(void **state)
{
    (void)state;
    assert_error(LOAD("m", "--max-num-seq", "1"), ERR_USAGE,
                 "unknown option --max-num-seq, did you mean --max-num-seqs?");
    assert_error(LOAD("m", "--prot=1"), ERR_USAGE, "unknown option --prot, did you mean --port?");
    assert_error(LOAD("m", "--trust-remote-code"), ERR_USAGE,
                 "unknown option --trust-remote-code (see --help)");
    assert_error(LOAD("m", "--no-port"), ERR_USAGE, "unknown option --no-port");
    assert_error(LOAD("m", "--port"), ERR_USAGE, "--port needs a value");
    assert_error(LOAD("m", "--host", "--port", "1"), ERR_USAGE, "--host needs a value");
    assert_error(LOAD("m", "n"), ERR_USAGE, "more than one model");
    assert_error(LOAD("m", "-p", "1"), ERR_USAGE, "options begin with --");
    assert_error(load(NULL), ERR_USAGE, "no model");
}

static void test_conf_what_is_not_built_is_refused(void **state)
{
    (void)state;
    assert_error(LOAD("m", "--block-size", "32"), ERR_CONFIG, "block-size: only 16 is built, not 32");
    // Without MPI the first of them alone is refused.
    assert_error(LOAD("m", "--tensor-parallel-size", "2", "--cache-file", "/f"), ERR_CONFIG,
                 "tensor-parallel-size");
}

static void test_conf_settings_must_go_together(void **state)
{
    (void)state;
    assert_error(LOAD("m", "--max-num-batched-tokens", "63"), ERR_CONFIG, "is below max-num-seqs 64");
    assert_int_equal(LOAD("m", "--max-num-batched-tokens", "63", "--max-num-seqs", "63"), CONF_SERVE);
    static const char *const instances[] = {"", "A", "a/b", "a b", "..", "123456789012345678901234567890123"};
    for (size_t i = 0; i < COUNT_OF(instances); i++) {
        assert_error(LOAD("m", "--instance", instances[i]), ERR_CONFIG, "instance: must be 1 to 32 of");
    }
    assert_int_equal(LOAD("m", "--instance", "a-z_09"), CONF_SERVE);
    char path[200];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_error(LOAD("m", "--uds", path), ERR_CONFIG, "uds: path longer than 107");
    assert_error(LOAD("m", "--served-model-name", "a\"b"), ERR_CONFIG, "served-model-name: only");
}

static void test_conf_addresses_beyond_loopback_need_a_key(void **state)
{
    (void)state;
    static const char *const near[] = {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"};
    static const char *const far[] = {"0.0.0.0",        "::",      "192.168.1.1",
                                      "::ffff:1.2.3.4", "fe80::1", "128.0.0.1"};
    static const char *const wrong[] = {"",      "example.org", "127.0.0.1:80",
                                        "[::1]", "127.1",       "localhost.evil"};
    for (size_t i = 0; i < COUNT_OF(near); i++) assert_int_equal(LOAD("m", "--host", near[i]), CONF_SERVE);
    for (size_t i = 0; i < COUNT_OF(far); i++) {
        assert_error(LOAD("m", "--host", far[i]), ERR_CONFIG, "can be reached from other machines");
        assert_int_equal(LOAD("m", "--host", far[i], "--api-key", "k"), CONF_SERVE);
    }
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        assert_error(LOAD("m", "--api-key=k", "--host", wrong[i]), ERR_CONFIG, "is neither an IP address");
    }
}

/* ---- the INI file ---- */

static void test_conf_file_errors_name_file_line_and_setting(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int line;
        const char *why;
    } cases[] = {
        {"[server]\n\nport = x\n", 3, ": port: 'x' is not a whole number from 0 to 65535"},
        {"[server]\nprot = 1\n", 2, ": unknown setting 'prot', did you mean port?"},
        {"[server]\nfrobnicate = 1\n", 2, ": unknown setting 'frobnicate'"},
        {"[log]\nport = 1\n", 2, ": port belongs into [server], not [log]"},
        {"port = 1\n", 1, ": port belongs into [server], not []"},
        {"[server]\nport = 1\nport = 2\n", 3, ": port is set twice"},
        {"[server]\nhost = ::1\n  port = 2\n", 3, ": host is set twice (an indented line"},
        {"[server]\nport\nprot = 1\n", 2, ": neither [section], name = value nor # comment"},
        {"[server]\nprot = 1\nport\n", 2, ": unknown setting"},
        {"# x\n[server\n", 2, ": neither [section]"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char expected[256];
        write_ini(cases[i].text);
        (void)snprintf(expected, sizeof expected, "%s:%d%s", ini_path, cases[i].line, cases[i].why);
        assert_error(LOAD("m", "--config", ini_path), ERR_CONFIG, expected);
    }
    assert_error(LOAD("m", "--config", "no/such.conf"), -ENOENT, "no/such.conf: ");
}

/* inih alone would read the end of a long line as a line of its own. */
static void test_conf_file_refuses_long_lines_and_other_files(void **state)
{
    (void)state;
    char text[600] = "[server]\n#";
    memset(text + strlen(text), '-', 198);
    (void)strcat(text, "port = 1\n");
    write_ini(text);
    assert_error(LOAD("m", "--config", ini_path), ERR_CONFIG, ":2: line longer than 198 bytes");

    FILE *file = fopen(ini_path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite("[server]\n\0port=1\n", 1, 17, file), 17);
    assert_int_equal(fclose(file), 0);
    assert_error(LOAD("m", "--config", ini_path), ERR_CONFIG, ": not a text file");
    assert_int_equal(truncate(ini_path, (1 << 20) + 1), 0);
    assert_error(LOAD("m", "--config", ini_path), ERR_CONFIG, ": larger than 1048576 bytes");
    assert_error(LOAD("m", "--config", "/"), -EISDIR, "/: read: ");
}

/* ---- keys ---- */

static void test_conf_keys_add_up_within_a_source_and_are_hidden(void **state)
{
    (void)state;
    char *variables[] = {"KVASIR_API_KEY=from-environment", NULL};
    environment = variables;
    assert_int_equal(LOAD("m"), CONF_SERVE);
    assert_int_equal(conf.api_keys.count, 1);
    assert_string_equal(conf.api_keys.texts[0], "from-environment");
    assert_int_equal(LOAD("m", "--api-key", "k-one", "--api-key=k-two, k-three"), CONF_SERVE);
    assert_int_equal(conf.api_keys.count, 3); // flags replace the environment
    assert_string_equal(conf.api_keys.texts[0], "k-one");
    assert_string_equal(conf.api_keys.texts[1], "k-two");
    assert_string_equal(conf.api_keys.texts[2], "k-three");
    assert_string_equal(argv_copy[2], "--api-key");
    assert_string_equal(argv_copy[3], "xxxxx");
    assert_string_equal(argv_copy[4], "--api-key=xxxxxxxxxxxxxx");
}

static void test_conf_key_file_adds_keys(void **state)
{
    (void)state;
    write_ini("# keys\n\n  k-file-1\t\r\nk-file-2");
    assert_int_equal(LOAD("m", "--api-key", "k-flag", "--api-key-file", ini_path, "--host", "0.0.0.0"),
                     CONF_SERVE);
    assert_int_equal(conf.api_keys.count, 3);
    assert_string_equal(conf.api_keys.texts[1], "k-file-1");
    assert_string_equal(conf.api_keys.texts[2], "k-file-2");
    write_ini("# none\n");
    assert_error(LOAD("m", "--api-key-file", ini_path), ERR_CONFIG, ": holds no key");
    write_ini("good\nnot good\n");
    assert_error(LOAD("m", "--api-key-file", ini_path), ERR_CONFIG, ":2: a key is 1 to 256 visible");
    assert_error(LOAD("m", "--api-key-file", "no/such"), -ENOENT, "no/such: ");
}

static void test_conf_errors_never_hold_a_key(void **state)
{
    (void)state;
    char long_key[300] = "s3cret";
    memset(long_key + 6, 'k', sizeof long_key - 7);
    const char *const wrong[] = {"", "s3cret key", "s3cret\n", "s3cret,,x", "s3cret\xc3\xa9", long_key};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        assert_error(LOAD("m", "--api-key", wrong[i]), ERR_USAGE, "--api-key: a key is");
        assert_null(strstr(err.text, "s3cret"));
    }
    assert_true(LOAD("m", "--api-key", "s3cret", "--port", "x") < 0);
    assert_null(strstr(err.text, "s3cret"));
    assert_string_equal(argv_copy[3], "xxxxxx");
    assert_true(LOAD("m", "--api-kye=s3cret") < 0);
    assert_null(strstr(err.text, "s3cret"));
    assert_true(LOAD("m", "--api-key", "a", "s3cret") < 0); // vLLM's list form
    assert_null(strstr(err.text, "s3cret"));
    write_ini("[auth]\napi-key = s3 s3cret\n");
    assert_true(LOAD("m", "--config", ini_path) < 0);
    assert_null(strstr(err.text, "s3cret"));
    write_ini("[auth]\ns3cret\n");
    assert_true(LOAD("m", "--config", ini_path) < 0);
    assert_null(strstr(err.text, "s3cret"));
}

/* ---- texts from the table ---- */

static void test_conf_table_is_sound(void **state)
{
    (void)state;
    struct conf scratch = {0};
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        const struct conf_option *option = &conf_options[i];
        char name[CONF_NAME_BYTES];
        assert_ptr_equal(conf_option_find(option->flag, strlen(option->flag)), option); // unique
        conf_option_variable(option, name);
        assert_int_equal(strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"), strlen(name));
        assert_true(strlen(option->help) > 10);
        assert_true(option->help[strlen(option->help) - 1] == '.');
        if (conf_option_set(&scratch, option, CONF_FROM_DEFAULT, option->default_text, ERR_CONFIG, "", &err) <
            0) {
            fail_msg("%s: default: %s", option->flag, err.text);
        }
    }
    conf_done(&scratch);
}

/* What print writes, as one string. */
static char *printed(void (*print)(FILE *out))
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    print(out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void test_conf_help_names_every_option(void **state)
{
    (void)state;
    char *help = printed(conf_print_help);
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        char flag[CONF_NAME_BYTES + 8];
        (void)snprintf(flag, sizeof flag, "\n  --%s", conf_options[i].flag);
        if (!strstr(help, flag)) fail_msg("--%s is not in --help", conf_options[i].flag);
    }
    for (const char *line = help; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 110);
    free(help);
}

static void test_conf_example_loads_and_says_the_defaults(void **state)
{
    (void)state;
    char *example = printed(conf_print_example);
    size_t settings = 0;
    write_ini(example);
    assert_int_equal(LOAD("m", "--config", ini_path), CONF_SERVE);
    for (char *line = example; *line; line += strcspn(line, "\n") + 1) {
        size_t len = strcspn(line, "\n");
        bool setting = line[0] == '#' && line[1] != ' ' && line[1] != '\n';
        if (!setting) continue;
        settings++;
        bool empty = line[len - 1] == '='; // cannot be set to nothing: "api-key ="
        if (!empty) line[0] = ' ';
        if (!empty) memmove(line, line + 1, strlen(line));
    }
    assert_int_equal(settings, CONF_OPTION_COUNT);
    write_ini(example); // now with every setting made
    if (LOAD("m", "--config", ini_path) < 0) fail_msg("%s", err.text);
    assert_int_equal(conf.sources[CONF_max_num_seqs], CONF_FROM_FILE);
    assert_int_equal(conf.max_num_seqs, 64);
    free(example);
}

/* systemd/kvasird.conf is what kvasird --example-config prints. */
static void test_conf_installed_example_is_current(void **state)
{
    (void)state;
    char path[4096];
    const char *root = getenv("srcdir"); // set by automake's test driver
    (void)snprintf(path, sizeof path, "%s/systemd/kvasird.conf", root ? root : ".");
    FILE *file = fopen(path, "r");
    if (!file) {
        print_message("no %s: skipped\n", path);
        skip();
    }
    char *example = printed(conf_print_example);
    char *installed = calloc(1, strlen(example) + 2);
    assert_non_null(installed);
    (void)!fread(installed, 1, strlen(example) + 1, file); // the comparison below judges it
    assert_int_equal(fclose(file), 0);
    assert_string_equal(installed, example);
    free(installed);
    free(example);
}

static void test_conf_finds_the_worker_it_is_given(void **state)
{
    (void)state;
    char *path = NULL;
    assert_int_equal(LOAD("m", "--worker-path", "/bin/sh"), CONF_SERVE);
    assert_int_equal(conf_find_worker(&conf, &path, &err), 0);
    assert_string_equal(path, "/bin/sh");
    free(path);
    assert_int_equal(LOAD("m", "--worker-path", "/no/worker"), CONF_SERVE);
    assert_error(conf_find_worker(&conf, &path, &err), ERR_CONFIG, "worker-path: /no/worker: ");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_conf_defaults_are_the_documented_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_flags_win_over_environment_over_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_file_may_be_named_by_the_environment_and_hold_the_model,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_flag_forms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_sizes_take_units, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_numbers_are_strict, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_choices_name_their_words, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_page_types_have_the_names_of_others_too, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_unknown_flags_get_the_nearest_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_what_is_not_built_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_settings_must_go_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_addresses_beyond_loopback_need_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_file_errors_name_file_line_and_setting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_file_refuses_long_lines_and_other_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_keys_add_up_within_a_source_and_are_hidden, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_conf_key_file_adds_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_errors_never_hold_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_table_is_sound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_help_names_every_option, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_example_loads_and_says_the_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_installed_example_is_current, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conf_finds_the_worker_it_is_given, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
