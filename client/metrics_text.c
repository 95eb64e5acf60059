/* SPDX-License-Identifier: Apache-2.0 */
#include "client/metrics_text.h"

#include <stdlib.h>
#include <string.h>

/* The rest of the line after its metric name when that is `name`, else NULL. */
static const char *after_name(const char *line, const char *name)
{
    size_t len = strlen(name);
    if (strncmp(line, name, len) != 0) return NULL;
    return line[len] == ' ' || line[len] == '\t' || line[len] == '{' ? line + len : NULL;
}

static const char *next_line(const char *line)
{
    const char *end = strchr(line, '\n');
    return end != NULL ? end + 1 : line + strlen(line);
}

/* From '{' to behind its '}'. Quoted values may hold braces and escaped quotes. NULL when unclosed. */
static const char *skip_labels(const char *p)
{
    int is_quoted = 0;
    for (; *p != '\0' && *p != '\n'; p++) {
        if (is_quoted && *p == '\\' && p[1] != '\0') {
            p++;
        } else if (*p == '"') {
            is_quoted = !is_quoted;
        } else if (!is_quoted && *p == '}') {
            return p + 1;
        }
    }
    return NULL;
}

size_t metrics_text_sum(const char *text, const char *name, double *ret_sum)
{
    size_t count = 0;
    double sum = 0;
    for (const char *line = text; *line != '\0'; line = next_line(line)) {
        const char *p = after_name(line, name);
        if (p != NULL && *p == '{') p = skip_labels(p);
        if (p == NULL) continue;
        p += strspn(p, " \t");
        char *end = NULL;
        double value = strtod(p, &end); // skips white space itself, newlines too: hence the test
        if (*p == '\n' || end == p) continue;
        sum += value;
        count++;
    }
    if (count > 0) *ret_sum = sum;
    return count;
}

size_t metrics_text_label(const char *text, const char *name, const char *label, char *out, size_t cap)
{
    size_t label_bytes = strlen(label);
    for (const char *line = text; *line != '\0'; line = next_line(line)) {
        const char *p = after_name(line, name);
        if (p == NULL || *p != '{' || skip_labels(p) == NULL) continue;
        p++;
        while (*p != '}') { // ends, because the labels are closed
            p += strspn(p, ", \t");
            const char *key = p;
            p += strcspn(p, "=\"}\n");
            size_t key_bytes = (size_t)(p - key);
            if (*p != '=' || p[1] != '"') break;
            size_t len = 0;
            for (p += 2; *p != '"'; p++) {
                if (*p == '\\') p++;
                if (len + 1 < cap) out[len++] = *p;
            }
            p++;
            if (key_bytes != label_bytes || memcmp(key, label, key_bytes) != 0) continue;
            out[len] = '\0';
            return len;
        }
        return 0;
    }
    return 0;
}
