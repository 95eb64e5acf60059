/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_sse - the first byte seeds how the rest is cut; whole and cut must give the same events, and
 * every event goes on into the reader of answers, as in a real stream. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "client/answer.h"
#include "client/sse.h"
#include "common/base/buf.h"
#include "common/base/check.h"
#include "common/base/rng.h"

enum { EVENT_BYTES_MAX = 512 }; // small, so that the bound is met

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct seen {
    struct buf text;
    struct kvasir_answer *answer; // NULL: events are only gathered
};

static int on_event(void *user, const char *name, const char *data, size_t data_bytes)
{
    struct seen *seen = user;
    struct kvasir_error error = {0};
    CHECK(data[data_bytes] == '\0');
    CHECK(data_bytes < EVENT_BYTES_MAX);
    (void)buf_puts(&seen->text, name); // errors are sticky, checked below
    (void)buf_append(&seen->text, data, data_bytes + 1);
    if (seen->answer == NULL) return 0;
    int r = answer_read(seen->answer, data, data_bytes, &error);
    CHECK(r == error.code);
    return 0;
}

static int feed(struct seen *seen, const uint8_t *bytes, size_t len, struct rng *rng)
{
    struct sse sse;
    int r = 0;
    buf_init(&seen->text, SIZE_MAX / 2);
    sse_init(&sse, EVENT_BYTES_MAX, on_event, seen);
    for (size_t at = 0; at < len && r == 0;) {
        size_t n = rng != NULL ? 1 + rng_below(rng, len - at < 40 ? len - at : 40) : len;
        uint8_t *copy = malloc(n); // its end is watched by the sanitizer
        CHECK(copy != NULL);
        memcpy(copy, bytes + at, n);
        r = sse_feed(&sse, copy, n);
        free(copy);
        at += n;
    }
    sse_done(&sse);
    CHECK(seen->text.error == 0);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0) return 0;
    struct rng rng = {.state = bytes[0]};
    struct seen whole = {0}, cut = {0};
    CHECK(answer_new(1 << 12, &whole.answer) == 0);
    int r = feed(&whole, bytes + 1, len - 1, NULL);
    CHECK(r == feed(&cut, bytes + 1, len - 1, &rng));
    CHECK(whole.text.len == cut.text.len);
    CHECK(whole.text.len == 0 || memcmp(whole.text.bytes, cut.text.bytes, cut.text.len) == 0);
    kvasir_answer_free(whole.answer);
    buf_done(&whole.text);
    buf_done(&cut.text);
    return 0;
}
