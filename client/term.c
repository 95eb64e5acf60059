/* SPDX-License-Identifier: Apache-2.0 */
#include "client/term.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "common/base/utf8.h"

/* A signal handler has no argument to take it from. Set while no handler is installed. */
static struct kvasir_cancel *volatile interrupt_cancel;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    struct kvasir_cancel *cancel = interrupt_cancel;
    if (cancel != NULL) kvasir_cancel_trigger(cancel); // async-signal-safe
}

void term_catch_interrupt(struct kvasir_cancel *cancel)
{
    struct sigaction action = {0};
    sigemptyset(&action.sa_mask);
    action.sa_handler = SIG_DFL;
    if (cancel == NULL) sigaction(SIGINT, &action, NULL);
    interrupt_cancel = cancel;
    if (cancel == NULL) return;
    action.sa_handler = on_interrupt; // without SA_RESTART: a read at the prompt must return
    sigaction(SIGINT, &action, NULL);
}

static int is_shown(const uint8_t *p, size_t sequence_bytes)
{
    if (sequence_bytes == 0) return 0;
    if (*p == '\n' || *p == '\t') return 1;
    if (*p < 0x20 || *p == 0x7F) return 0;
    return !(*p == 0xC2 && p[1] < 0xA0); // U+0080..U+009F
}

int term_put(FILE *out, const char *text, size_t len)
{
    if (!isatty(fileno(out))) return fwrite(text, 1, len, out) == len ? 0 : -errno;
    const uint8_t *p = (const uint8_t *)text;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence_bytes(p + i, len - i);
        if (is_shown(p + i, n) && fwrite(p + i, 1, n, out) != n) return -errno;
        i += n > 0 ? n : 1;
    }
    return 0;
}

int term_read_all(FILE *in, struct buf *ret_text)
{
    char chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), in)) > 0) {
        int r = buf_append(ret_text, chunk, n);
        if (r < 0) return r;
    }
    return ferror(in) ? -EIO : 0;
}

int term_gather_text(const char *command, int count, char **operands, struct buf *ret_text)
{
    int r = 0;
    if (count == 0) {
        if (isatty(STDIN_FILENO)) return 1;
        r = term_read_all(stdin, ret_text);
    }
    for (int i = 0; i < count && r == 0; i++) {
        if (i > 0) (void)buf_putc(ret_text, ' '); // the error is sticky
        r = strcmp(operands[i], "-") == 0 ? term_read_all(stdin, ret_text) : buf_puts(ret_text, operands[i]);
    }
    if (r < 0) {
        fprintf(stderr, "kvasir %s: cannot read the text: %s\n", command,
                r == -EMSGSIZE ? "it is too long" : strerror(-r));
        return EX_USAGE;
    }
    const uint8_t *text = (const uint8_t *)buf_text(ret_text);
    if (ret_text->len == 0) {
        fprintf(stderr, "kvasir %s: the text is empty\n", command);
        return EX_USAGE;
    }
    if (!utf8_is_valid(text, ret_text->len) || memchr(text, '\0', ret_text->len) != NULL) {
        fprintf(stderr, "kvasir %s: the text is not UTF-8\n", command);
        return EX_USAGE;
    }
    return 0;
}
