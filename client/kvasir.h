/* SPDX-License-Identifier: Apache-2.0 */
/* kvasir.h - libkvasir: chat and completion over the OpenAI API of kvasird, or of any server that
 * speaks it, by TCP or a unix socket.
 *
 * Threads. A client may be used by any number of threads at once; each call takes a connection of
 * its own and gives it back for the next call. An answer or a list belongs to one thread at a time.
 * There is no state outside the objects, and no signal handler. (With https, OpenSSL may raise
 * SIGPIPE; a program that speaks https ignores it.)
 *
 * Results. Functions return 0 or a negative enum kvasir_code; `ret_x` is written only on success and
 * is the caller's to free. `error` may be NULL; where given it is filled on failure with a line for
 * people and the fields for programs. Strings in are UTF-8 and borrowed for the call.
 *
 * Growth. Structs that you fill begin with `size`: set it to sizeof (the KVASIR_OPTIONS and
 * KVASIR_REQUEST macros do); fields are only ever appended, and a zeroed field means "the default".
 * Structs that the library fills grow at their end only, and are seen through pointers.
 *
 * Bounds. Everything a server sends is bounded: headers, body, one stream line and event, a whole
 * stream, choices, JSON depth. Past a bound the call ends with KVASIR_ERR_LIMIT. */
#ifndef KVASIR_H
#define KVASIR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVASIR_VERSION_MAJOR 0
#define KVASIR_VERSION_MINOR 1
#define KVASIR_VERSION_PATCH 0

/* Version of the library at run time, e.g. "0.1.0". Static. */
const char *kvasir_version(void);

/* ---- errors ---------------------------------------------------------------------------------- */

enum kvasir_code {
    KVASIR_OK = 0,
    KVASIR_ERR_ARGUMENT = -2001,  /* a field you gave is wrong; nothing was sent */
    KVASIR_ERR_MEMORY = -2002,    /* out of memory or of descriptors */
    KVASIR_ERR_CONNECT = -2003,   /* nobody there: name, route, refused, no such socket */
    KVASIR_ERR_TIMEOUT = -2004,   /* connect, idle or total time is over */
    KVASIR_ERR_CANCELLED = -2005, /* by kvasir_cancel_trigger or by your callback */
    KVASIR_ERR_HTTP = -2006,      /* the server's status is not 2xx: see http_status */
    KVASIR_ERR_SERVER = -2007,    /* the server reported an error inside a running stream */
    KVASIR_ERR_LOST = -2008,      /* the connection ended before the answer did */
    KVASIR_ERR_PROTOCOL = -2009,  /* the answer is not what the API says: HTTP, JSON, types */
    KVASIR_ERR_LIMIT = -2010      /* the answer is larger than the bounds in the options */
};

/* One failure. Size and layout are fixed for good; strings are NUL-terminated UTF-8 without control
 * characters, cut to fit, "" where unknown. */
struct kvasir_error {
    int32_t code;              /* enum kvasir_code */
    int32_t http_status;       /* 0 before an answer */
    int32_t retry_after_s;     /* Retry-After header; -1 without */
    int32_t reserved0;         /* 0 */
    char text[512];            /* one line: what failed, and the server's own words */
    char server_message[1024]; /* error.message of the server */
    char server_type[64];      /* error.type, e.g. "invalid_request_error" */
    char server_param[64];     /* error.param, the field at fault */
    char reserved[368];        /* zero */
};

/* Static text of a code. Never NULL. */
const char *kvasir_code_text(int code);

/* ---- cancellation ---------------------------------------------------------------------------- */

/* A switch that ends running calls. Sticky: once triggered, every call that carries it ends with
 * KVASIR_ERR_CANCELLED until kvasir_cancel_reset. One may serve many calls. It must outlive them. */
struct kvasir_cancel;

int kvasir_cancel_new(struct kvasir_cancel **ret_cancel);
void kvasir_cancel_free(struct kvasir_cancel *cancel); /* NULL is fine */

/* From any thread, and from a signal handler. */
void kvasir_cancel_trigger(struct kvasir_cancel *cancel);
void kvasir_cancel_reset(struct kvasir_cancel *cancel);

/* ---- client ---------------------------------------------------------------------------------- */

struct kvasir_client;

/* Times are in milliseconds: 0 is the default, negative is no limit. */
struct kvasir_options {
    size_t size;            /* sizeof(struct kvasir_options) */
    const char *url;        /* "http://127.0.0.1:8000" by default; http or https; a "/v1" end is dropped */
    const char *uds;        /* path of a unix socket; then url only gives the Host header */
    const char *api_key;    /* sent as "Authorization: Bearer"; visible ASCII */
    const char *user_agent; /* "libkvasir/<version>" by default */
    int64_t connect_timeout_ms; /* until connected: 5,000 */
    int64_t idle_timeout_ms;    /* of silence, the wait for the first byte included: 600,000 */
    int64_t total_timeout_ms;   /* of one chat or completion: no limit */
    int64_t short_timeout_ms;   /* of one of the other calls: 10,000 */
    size_t body_bytes_max;      /* of an answer that is not a stream, and of all text of one: 64 MiB */
    size_t stream_bytes_max;    /* of a whole stream as sent: 1 GiB */
    size_t event_bytes_max;     /* of one line or event of a stream: 4 MiB */
};

/* Copies what it is given; makes no connection. options may be NULL. */
int kvasir_open(const struct kvasir_options *options, struct kvasir_client **ret_client,
                struct kvasir_error *error);

/* When no call runs on it any more. NULL is fine. */
void kvasir_close(struct kvasir_client *client);

/* ---- requests -------------------------------------------------------------------------------- */

struct kvasir_message {
    const char *role;    /* "system", "user", "assistant", ... */
    const char *content; /* UTF-8 */
};

/* A number that may be absent: { 1, value }, or zeroed for "let the server choose". */
struct kvasir_maybe_double {
    int is_set;
    double value;
};
struct kvasir_maybe_int {
    int is_set;
    int64_t value;
};
/* Braces for a designated initializer: .temperature = KVASIR_SOME(0.2) */
#define KVASIR_SOME(number) \
    { \
        1, (number) \
    }

/* One request. For kvasir_chat*: messages. For kvasir_complete*: prompt or prompt_tokens. */
struct kvasir_request {
    size_t size;       /* sizeof(struct kvasir_request) */
    const char *model; /* NULL: not sent; kvasird, vLLM and llama-server then take their own */
    const struct kvasir_message *messages;
    size_t message_count;
    const char *prompt;
    const int32_t *prompt_tokens; /* (prompt_token_count) token ids, >= 0 */
    size_t prompt_token_count;
    struct kvasir_maybe_int max_tokens;
    struct kvasir_maybe_double temperature;
    struct kvasir_maybe_double top_p;
    struct kvasir_maybe_int top_k;
    struct kvasir_maybe_double min_p;
    struct kvasir_maybe_int seed;
    struct kvasir_maybe_double frequency_penalty;
    struct kvasir_maybe_double presence_penalty;
    const char *const *stop; /* (stop_count) strings */
    size_t stop_count;
    int64_t choice_count;         /* `n`; 0 is the server's default of 1; at most KVASIR_CHOICES_MAX */
    int32_t ignore_eos;           /* not 0: run to max_tokens (vLLM's and llama.cpp's extension) */
    int32_t reserved0;            /* 0 */
    const char *extra_json;       /* a JSON object; its members replace or join those above. NULL: none */
    struct kvasir_cancel *cancel; /* borrowed for the call; NULL: none */
};

#define KVASIR_CHOICES_MAX 128

#ifndef __cplusplus
/* Pointers to filled structs that live as long as the enclosing block:
 *     kvasir_open(KVASIR_OPTIONS(.uds = "/run/kvasir/api.sock"), &client, &error);
 *     kvasir_chat(client, KVASIR_REQUEST(.messages = m, .message_count = 1), &answer, &error); */
#define KVASIR_OPTIONS(...) \
    (&(const struct kvasir_options){.size = sizeof(struct kvasir_options), __VA_ARGS__})
#define KVASIR_REQUEST(...) \
    (&(const struct kvasir_request){.size = sizeof(struct kvasir_request), __VA_ARGS__})
#endif

/* ---- answers --------------------------------------------------------------------------------- */

/* A whole answer: choices, reasons, counts. Owned by the caller; strings live as long as it does. */
struct kvasir_answer;

struct kvasir_usage {
    int64_t prompt_tokens;
    int64_t completion_tokens;
    int64_t total_tokens;
    int64_t cached_tokens; /* part of prompt_tokens found in the cache; -1 when not told */
};

void kvasir_answer_free(struct kvasir_answer *answer); /* NULL is fine */
size_t kvasir_answer_choice_count(const struct kvasir_answer *answer);

/* Text of a choice and its bytes (ret_bytes may be NULL). "" for a choice that is not there. */
const char *kvasir_answer_text(const struct kvasir_answer *answer, size_t choice_idx, size_t *ret_bytes);
const char *kvasir_answer_reasoning(const struct kvasir_answer *answer, size_t choice_idx, size_t *ret_bytes);

/* "stop", "length", "tool_calls", ...; NULL when not told. */
const char *kvasir_answer_finish_reason(const struct kvasir_answer *answer, size_t choice_idx);

const struct kvasir_usage *kvasir_answer_usage(const struct kvasir_answer *answer); /* NULL when not told */
const char *kvasir_answer_id(const struct kvasir_answer *answer);                   /* "" when not told */
const char *kvasir_answer_model(const struct kvasir_answer *answer);                /* "" when not told */
const char *kvasir_answer_json(const struct kvasir_answer *answer); /* the body as sent; NULL for a stream */

/* Nanoseconds from the call to the first text (of a stream; else to the body) and to the end. */
uint64_t kvasir_answer_first_ns(const struct kvasir_answer *answer);
uint64_t kvasir_answer_total_ns(const struct kvasir_answer *answer);

/* One event of one choice of a stream. Everything in it is borrowed until the callback returns. */
struct kvasir_delta {
    size_t choice_idx;         /* < KVASIR_CHOICES_MAX */
    const char *text;          /* never NULL; "" when the event carries none */
    size_t text_bytes;         /* of text */
    const char *reasoning;     /* never NULL; a thinking model's hidden part */
    size_t reasoning_bytes;    /* of reasoning */
    const char *finish_reason; /* NULL until the choice ends */
    const char *json;          /* the whole event as sent, for fields not listed here */
};

/* Returns 0 to go on; anything else cancels the call. May make calls on the same client. */
typedef int kvasir_delta_callback(void *user, const struct kvasir_delta *delta);

int kvasir_chat(struct kvasir_client *client, const struct kvasir_request *request,
                struct kvasir_answer **ret_answer, struct kvasir_error *error);
int kvasir_complete(struct kvasir_client *client, const struct kvasir_request *request,
                    struct kvasir_answer **ret_answer, struct kvasir_error *error);

/* The same, streamed: on_delta runs on the calling thread, in order, and ret_answer (may be NULL) gets
 * the gathered whole. When it fails midway, what the callback saw is what there is. */
int kvasir_chat_stream(struct kvasir_client *client, const struct kvasir_request *request,
                       kvasir_delta_callback *on_delta, void *user, struct kvasir_answer **ret_answer,
                       struct kvasir_error *error);
int kvasir_complete_stream(struct kvasir_client *client, const struct kvasir_request *request,
                           kvasir_delta_callback *on_delta, void *user, struct kvasir_answer **ret_answer,
                           struct kvasir_error *error);

/* ---- other calls ----------------------------------------------------------------------------- */

struct kvasir_models;

int kvasir_models_get(struct kvasir_client *client, struct kvasir_models **ret_models,
                      struct kvasir_error *error);
void kvasir_models_free(struct kvasir_models *models); /* NULL is fine */
size_t kvasir_models_count(const struct kvasir_models *models);
const char *kvasir_models_id(const struct kvasir_models *models, size_t model_idx); /* "" past the end */
int64_t kvasir_models_context_tokens(const struct kvasir_models *models, size_t model_idx); /* 0: not told */
const char *kvasir_models_json(const struct kvasir_models *models);                         /* body as sent */

/* POST /tokenize and /detokenize in vLLM's shape. model may be NULL. Free both with kvasir_memory_free. */
enum kvasir_tokenize_flags {
    KVASIR_TOKENIZE_NO_SPECIAL = 1 /* do not add what the model wants at the start and end of a text */
};
int kvasir_tokenize(struct kvasir_client *client, const char *model, const char *text, unsigned flags,
                    int32_t **ret_tokens, size_t *ret_token_count, struct kvasir_error *error);
int kvasir_detokenize(struct kvasir_client *client, const char *model, const int32_t *tokens,
                      size_t token_count, char **ret_text, struct kvasir_error *error);

/* GET /health: 0 when the process lives. GET /ready: 0 when it takes requests; a server without
 * /ready is asked for /health. */
int kvasir_health(struct kvasir_client *client, struct kvasir_error *error);
int kvasir_ready(struct kvasir_client *client, struct kvasir_error *error);

/* GET /metrics: Prometheus text. GET /version: the version string. Free with kvasir_memory_free. */
int kvasir_metrics(struct kvasir_client *client, char **ret_text, struct kvasir_error *error);
int kvasir_server_version(struct kvasir_client *client, char **ret_version, struct kvasir_error *error);

void kvasir_memory_free(void *memory); /* NULL is fine */

#ifdef __cplusplus
}
#endif

#endif
