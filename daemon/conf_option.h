/* SPDX-License-Identifier: Apache-2.0 */
/* conf_option - one row of conf_options.h as data, and how a text becomes its value. Used by the conf_*
 * files and their test only. */
#ifndef KVASIR_DAEMON_CONF_OPTION_H
#define KVASIR_DAEMON_CONF_OPTION_H

#include "daemon/conf.h"

enum conf_kind {
    CONF_KIND_TEXT,
    CONF_KIND_KEYS,
    CONF_KIND_COUNT,
    CONF_KIND_NUMBER,
    CONF_KIND_SIZE,
    CONF_KIND_SWITCH,
    CONF_KIND_CHOICE,
};

struct conf_option {
    enum conf_kind kind;
    size_t offset;    // of the field in struct conf
    const char *flag; // without --
    const char *section;
    const char *default_text;
    uint64_t min, max; // COUNT, NUMBER, SIZE
    const char *argument;
    const char *help;
};

enum { CONF_NAME_BYTES = 64 }; // longest flag or variable name, with its NUL

extern const struct conf_option conf_options[CONF_OPTION_COUNT];

/* By name; - and _ are the same. len bytes of name. NULL when unknown. */
const struct conf_option *conf_option_find(const char *name, size_t len);

/* The flag that differs least from name, or NULL when none is near. */
const char *conf_option_nearest(const char *name, size_t len);

/* "KVASIR_MAX_NUM_SEQS" */
void conf_option_variable(const struct conf_option *option, char ret_name[CONF_NAME_BYTES]);

/* Text of the allowed values, for people: "0 to 65535", "1K to 1G", "f16 or bf16"; "" when any. */
void conf_option_range(const struct conf_option *option, size_t text_bytes, char *ret_text);

/* Converts text and stores it in conf. A KEYS option is appended to when its source is the same as
 * before, else replaced. `where` begins the error text, e.g. "--port". -> 0, `code`, -ENOMEM. */
int conf_option_set(struct conf *conf, const struct conf_option *option, enum conf_source source,
                    const char *text, int code, const char *where, struct err *err);

/* Appends one key. -> 0, ERR_CONFIG when it is no token of 1 to 256 visible ASCII characters, -ENOMEM. */
int conf_list_add_key(struct conf_list *list, const char *text, size_t len);
void conf_list_done(struct conf_list *list); // overwrites the texts before freeing them

#endif
