/* SPDX-License-Identifier: Apache-2.0 */
/* conf - the configuration of kvasird: built-in defaults, then the INI file, then the environment, then
 * flags; a later source replaces an earlier one. Settings stand in conf_options.h.
 *
 * Everything is verified in conf_load(): ranges, names, what this build does not have, and that no
 * address beyond loopback is bound without an API key. Nothing is opened but the INI file and the key
 * file. No text that comes out of here (errors, help) holds an API key. */
#ifndef KVASIR_DAEMON_CONF_H
#define KVASIR_DAEMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/limits.h"
#include "daemon/conf_options.h"

enum { CONF_ITL_TARGET_NONE = 60000 };                                                  // itl_target_ms
enum conf_weights { CONF_WEIGHTS_SHARED, CONF_WEIGHTS_PRIVATE };                        // weights
enum conf_kv_dtype { CONF_KV_AUTO, CONF_KV_F16, CONF_KV_BF16, CONF_KV_Q8, CONF_KV_Q4 }; // kv_cache_dtype

struct conf_list {
    char **texts; // owned, count of them
    size_t count;
};

enum conf_option_id {
#define X(kind, field, ...) CONF_##field,
    CONF_OPTIONS(X)
#undef X
        CONF_OPTION_COUNT,
};

enum conf_source { CONF_FROM_DEFAULT, CONF_FROM_FILE, CONF_FROM_ENVIRONMENT, CONF_FROM_FLAG };

#define CONF_TYPE_TEXT char * // owned, never NULL
#define CONF_TYPE_KEYS struct conf_list
#define CONF_TYPE_COUNT uint32_t
#define CONF_TYPE_NUMBER uint64_t
#define CONF_TYPE_SIZE uint64_t
#define CONF_TYPE_SWITCH bool
#define CONF_TYPE_CHOICE uint32_t

/* One field per row of conf_options.h: conf.host, conf.port, conf.max_num_seqs, ... log_level is an enum
 * log_level, kv_cache_dtype an enum conf_kv_dtype. */
struct conf {
#define X(kind, field, ...) CONF_TYPE_##kind field;
    CONF_OPTIONS(X)
#undef X
    uint8_t sources[CONF_OPTION_COUNT]; // enum conf_source of each field
};

/* What the command line asks for: the return of conf_load(). */
enum conf_action {
    CONF_SERVE,
    CONF_HELP,           // conf_print_help, exit 0; *ret_conf is not set
    CONF_VERSION,        // print the version, exit 0; *ret_conf is not set
    CONF_EXAMPLE_CONFIG, // conf_print_example, exit 0; *ret_conf is not set
};

/* Reads all sources. argv as in main(): argv[argc] is NULL; API keys in it are overwritten, so that ps(1)
 * does not show them for longer than this takes. environment as environ(7); variables without a value
 * count as absent, unknown ones are left alone. -> enum conf_action; ERR_USAGE (command line),
 * ERR_CONFIG (file, environment, or settings that do not go together), -errno, all with one line of
 * text that names the setting and where it was made. */
int conf_load(int argc, char **argv, char *const *environment, struct conf *ret_conf, struct err *err);
void conf_done(struct conf *conf); // wipes the keys; a zeroed struct is fine

void conf_print_help(FILE *out);
void conf_print_example(FILE *out); // systemd/kvasird.conf is this text

/* True for 127.0.0.0/8, ::1, their v4-in-v6 form, and "localhost". For the listener's own check of
 * addresses that it did not get from here. */
bool conf_host_is_loopback(const char *host);

/* The worker program: conf->worker_path, else kvasir-worker beside this program, else in LIBEXECDIR.
 * *ret_path is the caller's (free). ERR_CONFIG names all places where none was found. */
int conf_find_worker(const struct conf *conf, char **ret_path, struct err *err);

#endif
