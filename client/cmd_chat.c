/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_chat - one question from an argument or a pipe, or a conversation on a terminal. Ctrl-C ends the
 * running answer, never the program; what was said of it stays in the conversation. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cmd.h"
#include "client/sampling.h"
#include "client/talk.h"
#include "client/target.h"
#include "client/term.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"

struct session {
    struct target target;
    struct kvasir_client *client; // owned
    struct kvasir_cancel *cancel; // owned
    struct sampling sampling;
    struct talk talk;
    struct buf said;   // of the running answer
    bool is_json;      //
    bool is_reasoning; // the last thing printed was hidden thought
};

static int put_delta(void *user, const struct kvasir_delta *delta)
{
    struct session *session = user;
    bool is_terminal = isatty(STDOUT_FILENO);
    int r = buf_append(&session->said, delta->text, delta->text_bytes);
    /* Thought is shown on a terminal only, dimmed; a pipe gets the answer alone. */
    if (r == 0 && delta->reasoning_bytes > 0 && is_terminal) {
        if (!session->is_reasoning) fputs("\x1b[2m", stdout);
        session->is_reasoning = true;
        r = term_put(stdout, delta->reasoning, delta->reasoning_bytes);
    }
    if (r == 0 && delta->text_bytes > 0) {
        if (session->is_reasoning) fputs("\x1b[0m\n", stdout);
        session->is_reasoning = false;
        r = term_put(stdout, delta->text, delta->text_bytes);
    }
    return r < 0 || fflush(stdout) != 0; // a closed pipe ends the call
}

/* Sends the conversation and prints the answer. 0 or a negative code of the library. */
static int ask(struct session *session, struct kvasir_error *error)
{
    struct kvasir_answer *answer = NULL;
    struct kvasir_request request = sampling_request(&session->sampling);
    request.messages = session->talk.messages;
    request.message_count = session->talk.count;
    request.cancel = session->cancel;
    buf_clear(&session->said);
    session->is_reasoning = false;
    int r = session->is_json
                ? kvasir_chat(session->client, &request, &answer, error)
                : kvasir_chat_stream(session->client, &request, put_delta, session, &answer, error);
    if (session->is_reasoning) fputs("\x1b[0m", stdout);
    if (r == 0 && session->is_json) {
        printf("%s\n", kvasir_answer_json(answer));
    } else if (r == 0 || session->said.len > 0) {
        printf("\n");
    }
    if (r == 0) talk_count(&session->talk, answer);
    kvasir_answer_free(answer);
    return r;
}

static int ask_once(struct session *session, const char *text)
{
    struct kvasir_error error;
    if (talk_push(&session->talk, "user", text) < 0) return EXIT_FAILED;
    int r = ask(session, &error);
    if (r == KVASIR_ERR_CANCELLED) {
        fprintf(stderr, "kvasir chat: stopped\n");
        return EXIT_FAILED;
    }
    return r < 0 ? target_complain(&session->target, &error) : 0;
}

/* ---- conversation ---- */

static void print_stats(const struct talk *talk)
{
    printf("%llu answers, %lld prompt tokens (%lld from the cache), %lld generated\n",
           (unsigned long long)talk->answers, (long long)talk->prompt_tokens, (long long)talk->cached_tokens,
           (long long)talk->completion_tokens);
    if (talk->answers == 0) return;
    double first_s = (double)talk->first_ns_last / 1e9, total_s = (double)talk->total_ns_last / 1e9;
    printf("last: %lld tokens in %.2f s, the first after %.3f s", (long long)talk->completion_tokens_last,
           total_s, first_s);
    if (talk->completion_tokens_last > 1 && total_s > first_s)
        printf(", then %.1f tokens/s", (double)(talk->completion_tokens_last - 1) / (total_s - first_s));
    printf("\n");
}

/* A line that starts with a slash. Returns whether the conversation goes on. */
static bool obey(struct session *session, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/reset") == 0) {
        talk_reset(&session->talk);
        printf("(the conversation starts anew)\n");
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(&session->talk);
    } else if (strcmp(line, "/system") == 0 || strncmp(line, "/system ", 8) == 0) {
        const char *text = line[7] == ' ' ? line + 8 : "";
        if (talk_set_system(&session->talk, text) < 0)
            printf("(out of memory: the system message is as it was)\n");
        else printf("(the system message is %s)\n", text[0] != '\0' ? "set" : "gone");
    } else {
        printf("%s/reset  /system TEXT  /stats  /quit    A \\ at the end continues a line; Ctrl-C stops an "
               "answer.\n",
               strcmp(line, "/help") == 0 ? "" : "(no such command) ");
    }
    return true;
}

enum read_result { READ_LINE, READ_INTERRUPTED, READ_END };

/* One entry: a line, or several joined by "\" at their ends. */
static enum read_result read_entry(struct buf *entry)
{
    char *line = NULL;
    size_t cap = 0;
    enum read_result result = READ_LINE;
    buf_clear(entry);
    for (const char *prompt = "> "; prompt != NULL;) {
        fputs(prompt, stdout);
        fflush(stdout); // a prompt that does not show is no failure
        prompt = NULL;
        errno = 0;
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0) {
            result = errno == EINTR ? READ_INTERRUPTED : READ_END;
            break;
        }
        if (len > 0 && line[len - 1] == '\n') line[--len] = '\0';
        if (len > 0 && line[len - 1] == '\\') {
            line[len - 1] = '\n';
            prompt = "  ";
        }
        if (buf_append(entry, line, (size_t)len) < 0) result = READ_END; // past the bound of 1 MiB
    }
    free(line);
    if (result == READ_INTERRUPTED) {
        clearerr(stdin);
        printf("\n(/quit or Ctrl-D leaves)\n");
    }
    return result;
}

static void answer_entry(struct session *session, const char *text)
{
    struct kvasir_error error;
    if (talk_push(&session->talk, "user", text) < 0) return;
    kvasir_cancel_reset(session->cancel); // a Ctrl-C between two answers stops neither
    int r = ask(session, &error);
    if (r == KVASIR_ERR_CANCELLED) printf("(stopped)\n");
    else if (r < 0) (void)target_complain(&session->target, &error); // told; the conversation goes on
    /* What was said is kept, so that the next question can refer to it; a question without any answer
     * is taken back, so that the roles keep alternating. */
    if (session->said.len == 0 || talk_push(&session->talk, "assistant", buf_text(&session->said)) < 0)
        talk_pop(&session->talk);
}

static int converse(struct session *session)
{
    struct buf entry;
    buf_init(&entry, MIB(1));
    printf("Talking with %s. /help lists the commands, Ctrl-D leaves.\n", target_text(&session->target));
    for (bool is_on = true; is_on;) {
        enum read_result result = read_entry(&entry);
        const char *text = buf_text(&entry);
        if (result == READ_END) {
            printf("\n");
            is_on = false;
        } else if (result == READ_LINE && text[0] == '/') {
            is_on = obey(session, text);
        } else if (result == READ_LINE && !utf8_is_valid(entry.bytes, entry.len)) {
            printf("(not UTF-8: not sent)\n");
        } else if (result == READ_LINE && text[strspn(text, " \t\n")] != '\0') {
            answer_entry(session, text);
        }
    }
    buf_done(&entry);
    return 0;
}

/* Before the first question, so that nobody types into the void. */
static int check_server(struct session *session)
{
    struct kvasir_error error;
    int r = kvasir_health(session->client, &error);
    if (r < 0 && r != KVASIR_ERR_HTTP)
        return target_complain(&session->target, &error); // 404, 503: someone is there
    return 0;
}

static int run(struct session *session, bool is_interactive, int count, char **operands)
{
    struct buf text;
    buf_init(&text, MIB(64));
    int r = is_interactive && count == 0 ? 1 : term_gather_text("chat", count, operands, &text);
    if (r == 1 && session->is_json) {
        fprintf(stderr, "kvasir chat: --json is for one question, not for a conversation\n");
        r = EX_USAGE;
    } else if (r <= 1) {
        bool is_conversation = r == 1;
        r = target_open(&session->target, &session->client);
        if (r == 0 && is_conversation) r = check_server(session);
        if (r == 0) {
            term_catch_interrupt(session->cancel);
            r = is_conversation ? converse(session) : ask_once(session, buf_text(&text));
            term_catch_interrupt(NULL);
        }
    }
    buf_done(&text);
    return r;
}

int cmd_chat(int argc, char **argv)
{
    struct session session = {0};
    const char *system = NULL;
    bool is_interactive = false;
    const struct opt table[] = {
        {"system", OPT_TEXT, "TEXT", &system, "what the model is told first", 0, 0},
        {"interactive", OPT_FLAG, NULL, &is_interactive, "a conversation, also from a pipe", 0, 0},
        {"json", OPT_FLAG, NULL, &session.is_json, "the server's whole answer instead of a stream", 0, 0},
        SAMPLING_OPTS(&session.sampling),
        TARGET_OPTS(&session.target),
    };
    const struct opts opts = {
        "chat [OPTION]... [TEXT]...",
        "Asks TEXT and prints the answer; \"-\" stands for stdin. Without TEXT: a question from a\n"
        "pipe, or a conversation on a terminal (/help there lists its commands).\n\n",
        table, COUNT_OF(table)};
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    buf_init(&session.said, MIB(64));
    if (kvasir_cancel_new(&session.cancel) < 0 || talk_set_system(&session.talk, system) < 0) {
        fprintf(stderr, "kvasir chat: out of memory\n");
        r = EXIT_FAILED;
    } else {
        r = run(&session, is_interactive, count, argv);
    }
    kvasir_close(session.client);
    kvasir_cancel_free(session.cancel);
    talk_done(&session.talk);
    buf_done(&session.said);
    return r;
}
