/* SPDX-License-Identifier: Apache-2.0 */
/* See conf_option.h. Numbers are read strictly: digits alone, the whole text, within the range. */
#include "daemon/conf_option.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"

enum { KEY_BYTES_MAX = 256, KEYS_MAX = 4096, VALUE_SHOWN_BYTES = 64 };

const struct conf_option conf_options[CONF_OPTION_COUNT] = {
#define X(kind, field, flag, section, default_text, min, max, argument, help) \
    {CONF_KIND_##kind, offsetof(struct conf, field), flag, section, default_text, min, max, argument, help},
    CONF_OPTIONS(X)
#undef X
};

/* ---- names ---- */

/* Copies name with _ as -; false when it is too long to be any option's. */
static bool normalize(const char *name, size_t len, char out[CONF_NAME_BYTES])
{
    if (len >= CONF_NAME_BYTES) return false;
    for (size_t i = 0; i < len; i++) out[i] = name[i] == '_' ? '-' : name[i];
    out[len] = '\0';
    return true;
}

const struct conf_option *conf_option_find(const char *name, size_t len)
{
    char wanted[CONF_NAME_BYTES];
    if (!normalize(name, len, wanted)) return NULL;
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        if (strcmp(conf_options[i].flag, wanted) == 0) return &conf_options[i];
    }
    return NULL;
}

/* Edits (insert, drop, replace a letter) that turn a into b: Wagner and Fischer 1974, one row. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[CONF_NAME_BYTES], b_len = strlen(b);
    CHECK(b_len < COUNT_OF(row));
    for (size_t j = 0; j <= b_len; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            size_t best = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = replaced < best ? replaced : best;
        }
    }
    return row[b_len];
}

const char *conf_option_nearest(const char *name, size_t len)
{
    char wanted[CONF_NAME_BYTES];
    if (!normalize(name, len, wanted)) return NULL;
    const char *nearest = NULL;
    size_t least = len / 3 + 1; // further away it is another word, not a slip
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        size_t distance = edit_distance(wanted, conf_options[i].flag);
        if (distance > least || (distance == least && nearest)) continue;
        least = distance;
        nearest = conf_options[i].flag;
    }
    return nearest;
}

void conf_option_variable(const struct conf_option *option, char ret_name[CONF_NAME_BYTES])
{
    int len = snprintf(ret_name, CONF_NAME_BYTES, "KVASIR_%s", option->flag);
    CHECK(len > 0 && len < CONF_NAME_BYTES);
    for (char *c = ret_name; *c; c++) *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

/* ---- values ---- */

static const char size_units[] = "KMGT";

static void format_size(uint64_t bytes, size_t text_bytes, char *ret_text)
{
    int unit = -1;
    while (unit < 3 && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    (void)snprintf(ret_text, text_bytes, "%" PRIu64 "%.*s", bytes, unit >= 0,
                   unit >= 0 ? size_units + unit : "");
}

void conf_option_range(const struct conf_option *option, size_t text_bytes, char *ret_text)
{
    char min[32], max[32];
    ret_text[0] = '\0';
    switch (option->kind) {
    case CONF_KIND_COUNT:
    case CONF_KIND_NUMBER:
        (void)snprintf(ret_text, text_bytes, "%" PRIu64 " to %" PRIu64, option->min, option->max);
        break;
    case CONF_KIND_SIZE:
        format_size(option->min, sizeof min, min);
        format_size(option->max, sizeof max, max);
        (void)snprintf(ret_text, text_bytes, "%s to %s", min, max);
        break;
    case CONF_KIND_CHOICE: (void)snprintf(ret_text, text_bytes, "%s", option->argument); break;
    case CONF_KIND_SWITCH: (void)snprintf(ret_text, text_bytes, "true or false"); break;
    case CONF_KIND_TEXT:
    case CONF_KIND_KEYS: break;
    }
}

/* Digits at the start of text, by *ret_end. False when there are none or the value overflows. */
static bool parse_digits(const char *text, uint64_t *ret_value, const char **ret_end)
{
    uint64_t value = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (__builtin_mul_overflow(value, UINT64_C(10), &value)) return false;
        if (__builtin_add_overflow(value, (uint64_t)(*c - '0'), &value)) return false;
    }
    *ret_value = value;
    *ret_end = c;
    return c != text;
}

static bool parse_number(const struct conf_option *option, const char *text, uint64_t *ret_value)
{
    uint64_t value;
    const char *end;
    if (!parse_digits(text, &value, &end)) return false;
    if (option->kind == CONF_KIND_SIZE && *end) {
        const char *unit = strchr(size_units, toupper((unsigned char)*end));
        if (!unit) return false;
        int shift = 10 * (int)(unit - size_units + 1);
        if (value > UINT64_MAX >> shift) return false;
        value <<= shift;
        end++;
        if (strcmp(end, "iB") == 0) end += 2;
    }
    if (*end || value < option->min || value > option->max) return false;
    *ret_value = value;
    return true;
}

/* The index of text in "word|word|...". */
static bool parse_choice(const char *words, const char *text, uint32_t *ret_value)
{
    size_t len = strlen(text);
    for (uint32_t i = 0;; i++) {
        size_t word_len = strcspn(words, "|");
        if (word_len == len && memcmp(words, text, len) == 0) {
            *ret_value = i;
            return true;
        }
        if (!words[word_len]) return false;
        words += word_len + 1;
    }
}

/* Words that vLLM and llama.cpp use for what a choice here is called otherwise. */
static const char *other_spelling(const struct conf_option *option, const char *text)
{
    static const char *const words[][2] = {
        {"float16", "f16"}, {"bfloat16", "bf16"}, {"q8_0", "q8"}, {"q4_0", "q4"}, {"q4_1", "q4"}};
    if (strcmp(option->flag, "kv-cache-dtype") != 0) return text;
    for (size_t i = 0; i < COUNT_OF(words); i++)
        if (strcmp(words[i][0], text) == 0) return words[i][1];
    return text;
}

static bool parse_switch(const char *text, bool *ret_value)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < COUNT_OF(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0) return *ret_value = true, true;
        if (strcasecmp(text, no[i]) == 0) return *ret_value = false, true;
    }
    return false;
}

int conf_list_add_key(struct conf_list *list, const char *text, size_t len)
{
    if (len == 0 || len > KEY_BYTES_MAX || list->count >= KEYS_MAX) return ERR_CONFIG;
    for (size_t i = 0; i < len; i++) {
        if (text[i] <= ' ' || text[i] >= 0x7f || text[i] == ',') return ERR_CONFIG;
    }
    char **texts = realloc(list->texts, (list->count + 1) * sizeof *texts);
    if (!texts) return -ENOMEM;
    list->texts = texts;
    texts[list->count] = strndup(text, len);
    if (!texts[list->count]) return -ENOMEM;
    list->count++;
    return 0;
}

void conf_list_done(struct conf_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        explicit_bzero(list->texts[i], strlen(list->texts[i]));
        free(list->texts[i]);
    }
    free(list->texts);
    *list = (struct conf_list){0};
}

/* "key,key": spaces around a key are dropped, so that a list may be written legibly. */
static int add_keys(struct conf_list *list, const char *text)
{
    for (;;) {
        text += strspn(text, " \t");
        size_t len = strcspn(text, ",");
        size_t kept = len;
        while (kept > 0 && (text[kept - 1] == ' ' || text[kept - 1] == '\t')) kept--;
        int r = conf_list_add_key(list, text, kept);
        if (r < 0) return r;
        if (!text[len]) return 0;
        text += len + 1;
    }
}

/* A value made safe for one line of text. */
static void show_value(const char *text, char out[VALUE_SHOWN_BYTES + 4])
{
    size_t len = strlen(text), shown = len < VALUE_SHOWN_BYTES ? len : VALUE_SHOWN_BYTES;
    for (size_t i = 0; i < shown; i++)
        out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    memcpy(out + shown, len > shown ? "..." : "", len > shown ? 4 : 1);
}

static int refuse_value(const struct conf_option *option, const char *text, int code, const char *where,
                        struct err *err)
{
    static const char *const nouns[] = {
        [CONF_KIND_COUNT] = "a whole number from ",
        [CONF_KIND_NUMBER] = "a whole number from ",
        [CONF_KIND_SIZE] = "a size (such as 512M) from ",
        [CONF_KIND_SWITCH] = "",
        [CONF_KIND_CHOICE] = "one of ",
    };
    char value[VALUE_SHOWN_BYTES + 4], range[128];
    CHECK(option->kind != CONF_KIND_KEYS); // its text is a secret
    CHECK(option->kind != CONF_KIND_TEXT); // any text is one
    show_value(text, value);
    conf_option_range(option, sizeof range, range);
    return ERR(err, code, "%s: '%s' is not %s%s", where, value, nouns[option->kind], range);
}

int conf_option_set(struct conf *conf, const struct conf_option *option, enum conf_source source,
                    const char *text, int code, const char *where, struct err *err)
{
    void *field = (char *)conf + option->offset;
    uint8_t *stored = &conf->sources[option - conf_options];
    bool good = true;
    int r = 0;
    uint64_t number = 0;
    switch (option->kind) {
    case CONF_KIND_TEXT: {
        char *copy = strdup(text);
        if (!copy) return ERR(err, -ENOMEM, "out of memory");
        free(*(char **)field);
        *(char **)field = copy;
        break;
    }
    case CONF_KIND_KEYS:
        if (*stored != source) conf_list_done(field);
        if (source == CONF_FROM_DEFAULT) break; // none
        r = add_keys(field, text);
        if (r == -ENOMEM) return ERR(err, r, "out of memory");
        if (r < 0)
            return ERR(err, code, "%s: a key is 1 to %d visible ASCII characters, no comma", where,
                       KEY_BYTES_MAX);
        break;
    case CONF_KIND_COUNT:
        good = parse_number(option, text, &number);
        if (good) *(uint32_t *)field = (uint32_t)number;
        break;
    case CONF_KIND_NUMBER:
    case CONF_KIND_SIZE:
        good = parse_number(option, text, &number);
        if (good) *(uint64_t *)field = number;
        break;
    case CONF_KIND_SWITCH: good = parse_switch(text, field); break;
    case CONF_KIND_CHOICE: good = parse_choice(option->argument, other_spelling(option, text), field); break;
    }
    if (!good) return refuse_value(option, text, code, where, err);
    *stored = (uint8_t)source;
    return 0;
}
