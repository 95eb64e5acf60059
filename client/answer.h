/* SPDX-License-Identifier: Apache-2.0 */
/* answer - gathers a chat or completion answer, from one body or from the events of a stream. Pure:
 * bytes in, struct kvasir_answer out. Everything read is a server's and is verified. */
#ifndef KVASIR_CLIENT_ANSWER_H
#define KVASIR_CLIENT_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/kvasir.h"
#include "common/base/buf.h"

struct cJSON;

struct answer_choice {
    struct buf text, reasoning;
    char finish_reason[32]; // "" until told; longer ones are cut
};

struct kvasir_answer {
    struct answer_choice *choices; // (choice_count); owned
    size_t choice_count;           // <= KVASIR_CHOICES_MAX; highest index seen + 1
    size_t text_bytes;             // of all texts and reasonings; <= text_bytes_max
    size_t text_bytes_max;
    char id[128], model[256]; // cut to fit
    bool has_usage;
    struct kvasir_usage usage;
    char *json;                      // the body of an answer that is not a stream; owned
    uint64_t start_ns;               // monotonic time of the call
    uint64_t first_ns, total_ns;     // after start_ns; first_ns is 0 until a text came
    kvasir_delta_callback *on_delta; // NULL: gather only
    void *user;
};

int answer_new(size_t text_bytes_max, struct kvasir_answer **ret_answer);

/* One JSON text: a whole answer or the data of one event. 0, or a negative code with *error set:
 * PROTOCOL, SERVER (an error object), LIMIT, MEMORY, or CANCELLED when on_delta said so. */
int answer_read(struct kvasir_answer *answer, const char *json_text, size_t json_bytes,
                struct kvasir_error *error);

/* Parses JSON of a server: PROTOCOL with the offset and reason in the text. cJSON_Delete *ret_json. */
int answer_parse(const char *text, size_t len, const char *what, struct cJSON **ret_json,
                 struct kvasir_error *error);

/* A whole number in [0, 2^53], else fallback. */
int64_t answer_count(const struct cJSON *number, int64_t fallback);

#endif
