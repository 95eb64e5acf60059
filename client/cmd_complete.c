/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_complete - continues a text, streaming. */
#include <stdbool.h>
#include <stdio.h>

#include "client/cmd.h"
#include "client/sampling.h"
#include "client/target.h"
#include "client/term.h"
#include "common/base/check.h"
#include "common/base/limits.h"

static int put_delta(void *user, const struct kvasir_delta *delta)
{
    bool *is_begun = user;
    *is_begun = *is_begun || delta->text_bytes > 0;
    int r = term_put(stdout, delta->text, delta->text_bytes);
    return r < 0 || fflush(stdout) != 0; // a closed pipe ends the call
}

static int complete(const struct target *target, struct kvasir_client *client,
                    const struct kvasir_request *request, bool is_json)
{
    struct kvasir_error error;
    struct kvasir_answer *answer = NULL;
    bool is_begun = false;
    int r = is_json ? kvasir_complete(client, request, &answer, &error)
                    : kvasir_complete_stream(client, request, put_delta, &is_begun, &answer, &error);
    if (is_begun) printf("\n");
    if (r == KVASIR_ERR_CANCELLED) {
        fprintf(stderr, "kvasir complete: stopped\n");
        return EXIT_FAILED;
    }
    if (r < 0) return target_complain(target, &error);
    if (is_json) printf("%s\n", kvasir_answer_json(answer));
    kvasir_answer_free(answer);
    return 0;
}

int cmd_complete(int argc, char **argv)
{
    struct target target = {0};
    struct sampling sampling = {0};
    bool is_json = false;
    const struct opt table[] = {
        {"json", OPT_FLAG, NULL, &is_json, "the server's whole answer instead of a stream", 0, 0},
        SAMPLING_OPTS(&sampling),
        TARGET_OPTS(&target),
    };
    const struct opts opts = {
        "complete [OPTION]... [TEXT]...",
        "Continues TEXT; \"-\" stands for stdin, which is also read when there is no TEXT.\n\n", table,
        COUNT_OF(table)};
    struct kvasir_client *client = NULL;
    struct kvasir_cancel *cancel = NULL;
    struct buf text;
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    buf_init(&text, MIB(64));
    r = term_gather_text("complete", count, argv, &text);
    if (r == 1) fprintf(stderr, "kvasir complete: no text (`kvasir complete TEXT`, or a pipe)\n");
    if (r != 0) {
        buf_done(&text);
        return EX_USAGE;
    }
    r = target_open(&target, &client);
    if (r == 0 && kvasir_cancel_new(&cancel) == 0) {
        struct kvasir_request request = sampling_request(&sampling);
        request.prompt = buf_text(&text);
        request.cancel = cancel;
        term_catch_interrupt(cancel);
        r = complete(&target, client, &request, is_json);
        term_catch_interrupt(NULL);
    } else if (r == 0) {
        r = EXIT_FAILED;
    }
    kvasir_cancel_free(cancel);
    kvasir_close(client);
    buf_done(&text);
    return r;
}
