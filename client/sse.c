/* SPDX-License-Identifier: Apache-2.0 */
/* sse - see sse.h. Bytes go to `line` in runs up to the next CR or LF; a finished line is read at
 * once, so that each byte is copied twice at most whatever the chunks. */
#include "client/sse.h"

#include <errno.h>
#include <string.h>

#include "common/base/check.h"

static const char BYTE_ORDER_MARK[] = "\xEF\xBB\xBF";

void sse_init(struct sse *sse, size_t event_bytes_max, sse_callback *on_event, void *user)
{
    CHECK(on_event != NULL);
    *sse = (struct sse){.on_event = on_event, .user = user, .at_start = true};
    buf_init(&sse->line, event_bytes_max);
    buf_init(&sse->data, event_bytes_max);
}

void sse_done(struct sse *sse)
{
    buf_done(&sse->line);
    buf_done(&sse->data);
}

/* The blank line: hands the event on and starts the next. */
static int dispatch(struct sse *sse)
{
    int r = 0;
    if (sse->data.len > 0) {
        /* The standard drops the last LF only. The buffer keeps a NUL after it, so that cutting is
         * writing one byte. */
        sse->data.bytes[--sse->data.len] = '\0';
        const char *name = sse->name[0] != '\0' ? sse->name : "message";
        r = sse->on_event(sse->user, name, (const char *)sse->data.bytes, sse->data.len);
    }
    buf_clear(&sse->data);
    sse->name[0] = '\0';
    return r;
}

static void set_name(struct sse *sse, const char *value, size_t len)
{
    if (len > sizeof(sse->name) - 1) len = sizeof(sse->name) - 1;
    memcpy(sse->name, value, len);
    sse->name[len] = '\0';
}

/* One line without its end: a comment, a field, or blank. */
static int read_line(struct sse *sse, const char *line, size_t len)
{
    if (len == 0) return dispatch(sse);
    const char *colon = memchr(line, ':', len);
    size_t field_bytes = colon != NULL ? (size_t)(colon - line) : len;
    const char *value = line + len;
    if (colon != NULL) {
        value = colon + 1;
        if (value < line + len && *value == ' ') value++;
    }
    size_t value_bytes = (size_t)(line + len - value);

    if (field_bytes == 4 && memcmp(line, "data", 4) == 0) {
        (void)buf_append(&sse->data, value, value_bytes); // the error is sticky, read below
        return buf_putc(&sse->data, '\n');
    }
    if (field_bytes == 5 && memcmp(line, "event", 5) == 0) set_name(sse, value, value_bytes);
    return 0; // a comment (empty field name), id, retry, or unknown: read over
}

/* Drops a byte order mark at the very start, which may come in parts: `line` holds what was seen. */
static void drop_byte_order_mark(struct sse *sse)
{
    if (!sse->at_start) return;
    size_t seen = sse->line.len < 3 ? sse->line.len : 3;
    if (seen > 0 && memcmp(sse->line.bytes, BYTE_ORDER_MARK, seen) != 0) {
        sse->at_start = false;
    } else if (seen == 3) {
        buf_consume(&sse->line, 3);
        sse->at_start = false;
    }
}

static int feed(struct sse *sse, const char *bytes, size_t len)
{
    const char *p = bytes, *end = bytes + len;
    while (p < end) {
        if (sse->after_cr && *p == '\n') p++;
        sse->after_cr = false;
        const char *stop = p;
        while (stop < end && *stop != '\n' && *stop != '\r') stop++;
        int r = buf_append(&sse->line, p, (size_t)(stop - p));
        if (r < 0) return r;
        drop_byte_order_mark(sse);
        if (stop == end) return 0;

        sse->after_cr = *stop == '\r';
        sse->at_start = false;
        r = read_line(sse, buf_text(&sse->line), sse->line.len);
        buf_clear(&sse->line);
        if (r != 0) return r;
        p = stop + 1;
    }
    return 0;
}

int sse_feed(struct sse *sse, const void *bytes, size_t len)
{
    if (sse->stopped == 0) sse->stopped = feed(sse, bytes, len);
    return sse->stopped;
}
