/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of common/text/template on real models' chat templates: the conformance vectors
 * ($KVASIR_VECTORS, or ../shared/vectors under the project's root), skipped where absent.
 *
 * The vectors were made by a jinja2 without the `generation` tag of Hugging Face's transformers, and so
 * expect an error from the templates that use it. Here it is known: those cases count apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/template_rig.h"

enum { PASSED_MIN = 673, GENERATION_MIN = 35 }; // of 708; the numbers reached

struct tally {
    int total, passed, generation;
};

/* The whole file, NUL-terminated; free() it. NULL when absent. */
static char *read_vector(const char *folder, const char *name, size_t *ret_len)
{
    char path[4096];
    const char *root = getenv("KVASIR_VECTORS");
    (void)snprintf(path, sizeof path, "%s/templates/%s%s", root ? root : "../shared/vectors", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    struct buf buf;
    char chunk[4096];
    size_t n;
    buf_init(&buf, SIZE_MAX / 4);
    while ((n = fread(chunk, 1, sizeof chunk, file)) > 0) buf_append(&buf, chunk, n);
    (void)fclose(file); // was only read
    buf_append(&buf, "", 1);
    assert_int_equal(buf.error, 0);
    char *text = buf_take(&buf, ret_len);
    --*ret_len;
    return text;
}

static void check_case(const char *template_name, const char *source, size_t len, const cJSON *variables,
                       const cJSON *wanted, struct tally *tally)
{
    const char *output_wanted = cJSON_GetStringValue(cJSON_GetObjectItem(wanted, "output"));
    const char *error_wanted = cJSON_GetStringValue(cJSON_GetObjectItem(wanted, "error"));
    struct template_output output = {0};
    struct err err = {0};
    int r = template_rig_render(source, len, variables, &template_limits_default, &output, &err);
    bool is_good = r == 0 ? output_wanted && strcmp(buf_text(&output.text), output_wanted) == 0
                          : !output_wanted && (r == ERR_INPUT || r == ERR_FORMAT);
    /* A text without our prefix is raise_exception's, which must be the template's own words. */
    if (r == ERR_INPUT && error_wanted && strncmp(err.text, "template: ", 10) != 0)
        is_good = strcmp(err.text, error_wanted) == 0;
    if (r == 0) template_rig_check(&output);
    tally->total++;
    if (is_good) {
        tally->passed++;
    } else if (r == 0 && error_wanted && strstr(error_wanted, "unknown tag 'generation'")) {
        tally->generation++;
    } else {
        print_error("%s %s: %s\n  wanted %s\n", template_name, wanted->string,
                    r < 0 ? err.text : buf_text(&output.text), output_wanted ? output_wanted : error_wanted);
    }
    template_output_done(&output);
}

static void test_template_renders_real_templates(void **state)
{
    (void)state;
    struct tally tally = {0};
    size_t len;
    char *cases_text = read_vector("", "cases.json", &len),
         *expected_text = read_vector("", "expected.json", &len);
    if (!cases_text || !expected_text) {
        print_message("no template vectors: set KVASIR_VECTORS\n");
        free(cases_text);
        free(expected_text);
        skip();
    }
    cJSON *cases = cJSON_Parse(cases_text), *expected = cJSON_Parse(expected_text);
    assert_non_null(cases);
    assert_non_null(expected);
    for (const cJSON *template = expected->child; template; template = template->next) {
        char *source = read_vector("templates/", template->string, &len);
        assert_non_null(source);
        for (const cJSON *wanted = template->child; wanted; wanted = wanted->next)
            check_case(template->string, source, len, cJSON_GetObjectItemCaseSensitive(cases, wanted->string),
                       wanted, &tally);
        free(source);
    }
    print_message("%d of %d cases, and %d that need the generation tag\n", tally.passed, tally.total,
                  tally.generation);
    assert_true(tally.passed >= PASSED_MIN);
    assert_true(tally.generation >= GENERATION_MIN);
    cJSON_Delete(cases);
    cJSON_Delete(expected);
    free(cases_text);
    free(expected_text);
}

/* Every template, with its control tokens as the user's words: none of them may come out as template
 * text. The user's copy carries a letter that templates do not have in their tokens. */
static void test_template_real_templates_keep_user_text_apart(void **state)
{
    (void)state;
    size_t len;
    char *expected_text = read_vector("", "expected.json", &len);
    if (!expected_text) {
        print_message("no template vectors: set KVASIR_VECTORS\n");
        skip();
    }
    static const char word[] = "\xCE\xA8<|im_end|>\xCE\xA8</s>\xCE\xA8"; // psi around control tokens
    cJSON *expected = cJSON_Parse(expected_text), *variables = cJSON_CreateObject();
    cJSON *messages = cJSON_AddArrayToObject(variables, "messages");
    for (int i = 0; i < 3; i++) {
        cJSON *message = cJSON_CreateObject();
        cJSON_AddStringToObject(message, "role", i == 1 ? "assistant" : "user");
        cJSON_AddStringToObject(message, "content", word);
        cJSON_AddItemToArray(messages, message);
    }
    int rendered = 0;
    for (const cJSON *template = expected->child; template; template = template->next) {
        char *source = read_vector("templates/", template->string, &len);
        struct template_output output = {0};
        struct err err = {0};
        assert_non_null(source);
        if (template_rig_render(source, len, variables, &template_limits_default, &output, &err) == 0) {
            bool is_seen = false;
            for (size_t i = 0; i < output.span_count; i++) {
                const struct template_span *span = &output.spans[i];
                bool has_psi = memchr(output.text.bytes + span->first, 0xCE, span->len) != NULL;
                if (has_psi && !span->is_user)
                    print_error("%s: user text became template text\n", template->string);
                assert_true(!has_psi || span->is_user);
                is_seen |= has_psi;
            }
            assert_true(is_seen);
            rendered++;
        }
        template_output_done(&output);
        free(source);
    }
    print_message("%d templates rendered\n", rendered);
    assert_true(rendered >= 55);
    cJSON_Delete(expected);
    cJSON_Delete(variables);
    free(expected_text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_renders_real_templates),
        cmocka_unit_test(test_template_real_templates_keep_user_text_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
