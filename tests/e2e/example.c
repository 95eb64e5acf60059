/* SPDX-License-Identifier: Apache-2.0 */
/* example - asks a running kvasird and prints the answer as it comes.
 *     cc example.c $(pkg-config --cflags --libs kvasir) -o example && ./example "Why is the sky blue?" */
#include <kvasir.h>
#include <stdio.h>
#include <stdlib.h>

static int print_delta(void *user, const struct kvasir_delta *delta)
{
    (void)user;
    fwrite(delta->text, 1, delta->text_bytes, stdout);
    fflush(stdout);
    return 0; // anything else would cancel the answer
}

int main(int argc, char **argv)
{
    const struct kvasir_message messages[] = {
        {.role = "system", .content = "You answer in one short paragraph."},
        {.role = "user", .content = argc > 1 ? argv[1] : "Who was Kvasir?"},
    };
    struct kvasir_client *client = NULL;
    struct kvasir_answer *answer = NULL;
    struct kvasir_error error;

    int r = kvasir_open(KVASIR_OPTIONS(.url = getenv("KVASIR_URL")), &client, &error);
    if (r == 0)
        r = kvasir_chat_stream(client,
                               KVASIR_REQUEST(.messages = messages, .message_count = 2,
                                              .temperature = KVASIR_SOME(0.2),
                                              .max_tokens = KVASIR_SOME(200)),
                               print_delta, NULL, &answer, &error);
    if (r < 0) {
        fprintf(stderr, "%s\n", error.text);
    } else if (kvasir_answer_usage(answer) != NULL) {
        printf("\n(%lld tokens in %.1f s)\n", (long long)kvasir_answer_usage(answer)->completion_tokens,
               (double)kvasir_answer_total_ns(answer) / 1e9);
    }
    kvasir_answer_free(answer);
    kvasir_close(client);
    return r < 0;
}
