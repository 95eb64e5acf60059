/* SPDX-License-Identifier: Apache-2.0 */
/* See conf.h. The command line is read first, because it names the file, and applied last, because it
 * wins. */
#include "daemon/conf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "config.h"

#include "common/base/check.h"
#include "daemon/conf_file.h"
#include "daemon/conf_option.h"
#include "daemon/leaves.h"

#ifndef LIBEXECDIR
#define LIBEXECDIR "/usr/local/libexec/kvasir"
#endif

enum { SERVED_NAME_BYTES_MAX = 256 };

/* ---- command line ---- */

/* A setting made by a flag; value points into argv, or at a literal. */
struct assignment {
    const struct conf_option *option;
    const char *value;
    char *hide; // the value's bytes in argv when it is a secret, else NULL
};

struct command_line {
    struct assignment *assignments; // owned
    size_t count;
    const char *config; // --config, or NULL
    bool has_model;
    enum conf_action action;
};

static int refuse_flag(const char *name, size_t len, struct err *err)
{
    const char *nearest = conf_option_nearest(name, len);
    return ERR(err, ERR_USAGE, "unknown option --%.*s%s%s%s", len > 64 ? 64 : (int)len, name,
               nearest ? ", did you mean --" : " (see --help)", nearest ? nearest : "", nearest ? "?" : "");
}

static int add_model(struct command_line *line, const char *path, struct err *err)
{
    if (line->has_model) return ERR(err, ERR_USAGE, "more than one model (or an option without --)");
    line->has_model = true;
    line->assignments[line->count++] = (struct assignment){&conf_options[CONF_model], path, NULL};
    return 0;
}

/* The value of the flag argv[*at]: after its =, or the next argument. */
static int take_value(int argc, char **argv, int *at, size_t name_len, char **ret_value, struct err *err)
{
    const char *name = argv[*at] + 2;
    if (name[name_len] == '=') {
        *ret_value = argv[*at] + 2 + name_len + 1;
        return 0;
    }
    if (*at + 1 >= argc) return ERR(err, ERR_USAGE, "--%.*s needs a value", (int)name_len, name);
    if (strncmp(argv[*at + 1], "--", 2) == 0) {
        return ERR(err, ERR_USAGE, "--%.*s needs a value (one that begins with -- is written --%.*s=VALUE)",
                   (int)name_len, name, (int)name_len, name);
    }
    *ret_value = argv[++*at];
    return 0;
}

/* argv[*at] begins with "--" and goes on. Moves *at to the last argument used. */
static int take_flag(struct command_line *line, int argc, char **argv, int *at, struct err *err)
{
    static const struct {
        const char *name;
        enum conf_action action;
    } actions[] = {{"help", CONF_HELP}, {"version", CONF_VERSION}, {"example-config", CONF_EXAMPLE_CONFIG}};
    const char *name = argv[*at] + 2;
    size_t len = strcspn(name, "=");
    char *value = NULL;
    for (size_t i = 0; i < COUNT_OF(actions); i++) {
        if (strcmp(name, actions[i].name) != 0) continue;
        if (line->action == CONF_SERVE) line->action = actions[i].action;
        return 0;
    }
    if (len == strlen("config") && memcmp(name, "config", len) == 0) {
        int r = take_value(argc, argv, at, len, &value, err);
        if (r < 0) return r;
        line->config = value;
        return 0;
    }

    struct assignment assignment = {.option = conf_option_find(name, len)};
    bool negated = !assignment.option && len > 3 && strncmp(name, "no-", 3) == 0 && name[len] == '\0';
    if (negated) assignment.option = conf_option_find(name + 3, len - 3);
    if (negated && assignment.option && assignment.option->kind != CONF_KIND_SWITCH) assignment.option = NULL;
    if (!assignment.option) return refuse_flag(name, len, err);
    if (assignment.option == &conf_options[CONF_model]) {
        int r = take_value(argc, argv, at, len, &value, err);
        return r < 0 ? r : add_model(line, value, err);
    }
    if (assignment.option->kind == CONF_KIND_SWITCH && name[len] != '=') {
        assignment.value = negated ? "false" : "true";
    } else {
        int r = take_value(argc, argv, at, len, &value, err);
        if (r < 0) return r;
        assignment.value = value;
        if (assignment.option->kind == CONF_KIND_KEYS) assignment.hide = value;
    }
    line->assignments[line->count++] = assignment;
    return 0;
}

static int parse_command_line(int argc, char **argv, struct command_line *line, struct err *err)
{
    bool flags_end = false;
    line->assignments = calloc((size_t)argc + 1,
                               sizeof *line->assignments); // each takes an argument at least
    if (!line->assignments) return ERR(err, -ENOMEM, "out of memory");
    for (int at = 1; at < argc; at++) {
        int r;
        if (flags_end || argv[at][0] != '-') {
            r = add_model(line, argv[at], err);
        } else if (strcmp(argv[at], "--") == 0) {
            flags_end = true;
            r = 0;
        } else if (strcmp(argv[at], "-h") == 0) {
            line->action = CONF_HELP;
            r = 0;
        } else if (argv[at][1] != '-') {
            r = ERR(err, ERR_USAGE, "options begin with -- (see --help)"); // the text may hold a secret
        } else {
            r = take_flag(line, argc, argv, &at, err);
        }
        if (r < 0) return r;
    }
    return 0;
}

static int apply_flags(const struct command_line *line, struct conf *conf, struct err *err)
{
    for (size_t i = 0; i < line->count; i++) {
        const struct assignment *assignment = &line->assignments[i];
        char where[CONF_NAME_BYTES + 2];
        (void)snprintf(where, sizeof where, "--%s", assignment->option->flag);
        int r = conf_option_set(conf, assignment->option, CONF_FROM_FLAG, assignment->value, ERR_USAGE, where,
                                err);
        if (r < 0) return r;
    }
    return 0;
}

/* Overwrites secrets in argv, whether or not anything went wrong before. */
static void hide_flags(const struct command_line *line)
{
    for (size_t i = 0; i < line->count; i++) {
        char *secret = line->assignments[i].hide;
        if (secret) memset(secret, 'x', strlen(secret));
    }
}

/* ---- environment ---- */

/* NULL when absent or empty. */
static const char *variable_value(char *const *environment, const char *name)
{
    size_t len = strlen(name);
    for (; environment && *environment; environment++) {
        if (strncmp(*environment, name, len) != 0 || (*environment)[len] != '=') continue;
        return (*environment)[len + 1] ? *environment + len + 1 : NULL;
    }
    return NULL;
}

static int apply_environment(char *const *environment, struct conf *conf, struct err *err)
{
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        char name[CONF_NAME_BYTES];
        conf_option_variable(&conf_options[i], name);
        const char *value = variable_value(environment, name);
        if (!value) continue;
        int r = conf_option_set(conf, &conf_options[i], CONF_FROM_ENVIRONMENT, value, ERR_CONFIG, name, err);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- verification ---- */

bool conf_host_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0) return true;
    if (inet_pton(AF_INET, host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) != 1) return false;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) return v6.s6_addr[12] == 127;
    return IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool host_is_address(const char *host)
{
    struct in6_addr any;
    return strcmp(host, "localhost") == 0 || inet_pton(AF_INET, host, &any) == 1 ||
           inet_pton(AF_INET6, host, &any) == 1;
}

static int verify_names(const struct conf *conf, struct err *err)
{
    if (!*conf->model && !conf->agent)
        return ERR(err, ERR_USAGE, "no model: kvasird [OPTION]... MODEL.gguf (see --help)");
    if (strlen(conf->served_model_name) > SERVED_NAME_BYTES_MAX) {
        return ERR(err, ERR_CONFIG, "served-model-name: longer than %d bytes", SERVED_NAME_BYTES_MAX);
    }
    for (const char *c = conf->served_model_name; *c; c++) {
        bool printable = *c > ' ' && *c < 0x7f && *c != '"' && *c != '\\';
        if (!printable)
            return ERR(err, ERR_CONFIG, "served-model-name: only visible ASCII without \" and \\");
    }
    size_t len = strlen(conf->instance);
    bool plain = strspn(conf->instance, "abcdefghijklmnopqrstuvwxyz0123456789_-") == len;
    if (len < 1 || len > INSTANCE_BYTES_MAX || !plain) {
        return ERR(err, ERR_CONFIG, "instance: must be 1 to %d of a-z 0-9 _ -", INSTANCE_BYTES_MAX);
    }
    if (strlen(conf->uds) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        return ERR(err, ERR_CONFIG, "uds: path longer than %zu bytes",
                   sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
    }
    if (!host_is_address(conf->host)) {
        return ERR(err, ERR_CONFIG, "host: '%.64s' is neither an IP address nor localhost", conf->host);
    }
    return 0;
}

/* What the table allows because it will be built, and is not built yet. */
static int refuse_unbuilt(const struct conf *conf, struct err *err)
{
    if (conf->block_size != PAGE_TOKENS) {
        return ERR(err, ERR_CONFIG, "block-size: only %d is built, not %u", PAGE_TOKENS, conf->block_size);
    }
#ifndef HAVE_MPI
    if (conf->tensor_parallel_size != 1) {
        return ERR(err, ERR_CONFIG,
                   "tensor-parallel-size: this build has no Open MPI (configure --with-mpi), so only 1");
    }
#endif
    if ((conf->hosts[0] || conf->hostfile[0]) && conf->data_parallel_size > 1) {
        return ERR(err, ERR_CONFIG, "hosts: not built for data-parallel-size %u, only for 1",
                   conf->data_parallel_size);
    }
    if (conf->tensor_parallel_size != 1 && conf->cache_file[0]) {
        return ERR(err, ERR_CONFIG, "cache-file: not built for tensor-parallel-size %u, only for 1",
                   conf->tensor_parallel_size);
    }
    return 0;
}

static int verify(const struct conf *conf, struct err *err)
{
    int r = verify_names(conf, err);
    if (r < 0) return r;
    r = refuse_unbuilt(conf, err);
    if (r < 0) return r;
    if (conf->hosts[0] && conf->hostfile[0])
        return ERR(err, ERR_CONFIG, "hosts: and a hostfile: either of them");
    if (conf->max_num_batched_tokens < conf->max_num_seqs) {
        return ERR(err, ERR_CONFIG,
                   "max-num-batched-tokens %u is below max-num-seqs %u: each needs a token a step",
                   conf->max_num_batched_tokens, conf->max_num_seqs);
    }
    if (conf->cache_tenant_share * (uint64_t)conf->api_keys.count > 100 ||
        (conf->cache_tenant_share > 0 && conf->api_keys.count > TENANTS_MAX)) {
        return ERR(err, ERR_CONFIG,
                   "cache-tenant-share: %u %% for each of %zu API keys is more than there is",
                   conf->cache_tenant_share, conf->api_keys.count);
    }
    if (!conf_host_is_loopback(conf->host) && conf->api_keys.count == 0) {
        return ERR(err, ERR_CONFIG,
                   "host: %s can be reached from other machines, so it needs an API key (--api-key-file)",
                   conf->host);
    }
    return 0;
}

/* ---- public ---- */

static int load(const struct command_line *line, char *const *environment, struct conf *conf, struct err *err)
{
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        const struct conf_option *option = &conf_options[i];
        int r = conf_option_set(conf, option, CONF_FROM_DEFAULT, option->default_text, ERR_CONFIG, "default",
                                err);
        if (r < 0) return r;
    }
    const char *config = line->config ? line->config : variable_value(environment, "KVASIR_CONFIG");
    int r = config ? conf_file_read_ini(config, conf, err) : 0;
    if (r < 0) return r;
    r = apply_environment(environment, conf, err);
    if (r < 0) return r;
    r = apply_flags(line, conf, err);
    if (r < 0) return r;
    if (*conf->api_key_file) {
        r = conf_file_read_keys(conf->api_key_file, &conf->api_keys, err);
        if (r < 0) return r;
    }
    return verify(conf, err);
}

int conf_load(int argc, char **argv, char *const *environment, struct conf *ret_conf, struct err *err)
{
    struct command_line line = {.action = CONF_SERVE};
    struct conf conf = {0};
    int r = parse_command_line(argc, argv, &line, err);
    if (r == 0 && line.action == CONF_SERVE) {
        r = load(&line, environment, &conf, err);
        if (r < 0) conf_done(&conf);
        if (r == 0) *ret_conf = conf;
    }
    hide_flags(&line);
    free(line.assignments);
    return r < 0 ? r : (int)line.action;
}

void conf_done(struct conf *conf)
{
    for (size_t i = 0; i < CONF_OPTION_COUNT; i++) {
        void *field = (char *)conf + conf_options[i].offset;
        if (conf_options[i].kind == CONF_KIND_TEXT) free(*(char **)field);
        if (conf_options[i].kind == CONF_KIND_KEYS) conf_list_done(field);
    }
    *conf = (struct conf){0};
}

static int join_path(const char *directory, size_t directory_len, const char *name, char **ret_path)
{
    size_t bytes = directory_len + 1 + strlen(name) + 1;
    char *path = malloc(bytes);
    if (!path) return -ENOMEM;
    (void)snprintf(path, bytes, "%.*s/%s", (int)directory_len, directory, name);
    *ret_path = path;
    return 0;
}

int conf_find_worker(const struct conf *conf, char **ret_path, struct err *err)
{
    static const char name[] = "kvasir-worker";
    if (*conf->worker_path) {
        if (access(conf->worker_path, X_OK) < 0) {
            return ERR(err, ERR_CONFIG, "worker-path: %.256s: %s", conf->worker_path, strerror(errno));
        }
        char *path = strdup(conf->worker_path);
        if (!path) return ERR(err, -ENOMEM, "out of memory");
        *ret_path = path;
        return 0;
    }
    char self[4096];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len < 0) len = 0; // no /proc: only the installed one is left
    self[len] = '\0';
    const char *slash = strrchr(self, '/');
    const char *const directories[] = {self, LIBEXECDIR};
    const size_t lens[] = {slash ? (size_t)(slash - self) : 0, strlen(LIBEXECDIR)};
    for (size_t i = 0; i < COUNT_OF(lens); i++) {
        char *path;
        if (i == 0 && !slash) continue;
        if (join_path(directories[i], lens[i], name, &path) < 0) return ERR(err, -ENOMEM, "out of memory");
        if (access(path, X_OK) == 0) {
            *ret_path = path;
            return 0;
        }
        free(path);
    }
    return ERR(err, ERR_CONFIG, "no %s in %.*s or %s (see --worker-path)", name, (int)lens[0], self,
               LIBEXECDIR);
}
