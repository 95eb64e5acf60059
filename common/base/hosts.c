/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/hosts.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/base/check.h"

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* Digits of a count in [text, text + len); 0 where it is none. */
static uint32_t count_of(const char *text, size_t len)
{
    uint32_t count = 0;
    if (len == 0 || len > 4) return 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        count = count * 10 + (uint32_t)(text[i] - '0');
    }
    return count;
}

/* A name that goes into command lines of mpirun's and of a launch agent's shell: no more than a host's name needs. */
static int name_verify(const char *name, size_t len, struct err *err)
{
    if (len == 0) return ERR(err, ERR_CONFIG, "hosts: a name is empty");
    if (len >= HOST_NAME_BYTES) return ERR(err, ERR_CONFIG, "hosts: a name of %zu bytes", len);
    size_t odd = strspn(name, NAME_CHARS);
    if (odd < len || name[0] == '-' || name[0] == '.')
        return ERR(err, ERR_CONFIG,
                   "hosts: a name may have letters, digits, '.', '_' and '-', and begins with no '-' or '.'");
    return 0;
}

static int host_add(struct hosts *hosts, const char *name, size_t len, struct err *err)
{
    int r = name_verify(name, len, err);
    if (r < 0) return r;
    for (uint32_t i = 0; i < hosts->count; i++)
        if (strncmp(hosts->names[i], name, len) == 0 && hosts->names[i][len] == '\0')
            return ERR(err, ERR_CONFIG, "hosts: %s is named twice", hosts->names[i]);
    if (hosts->count == RANKS_MAX) return ERR(err, ERR_CONFIG, "hosts: more than %d", RANKS_MAX);
    memcpy(hosts->names[hosts->count], name, len);
    hosts->names[hosts->count++][len] = '\0';
    return 0;
}

static int share_out(struct hosts *hosts, uint32_t rank_count, struct err *err)
{
    if (hosts->count > rank_count)
        return ERR(err, ERR_CONFIG,
                   "hosts: %" PRIu32 " of them for %" PRIu32 " ranks (--tensor-parallel-size)", hosts->count,
                   rank_count);
    for (uint32_t i = 0; i <= hosts->count; i++)
        hosts->rank_first[i] = rank_count * i / hosts->count; // both small
    return 0;
}

int hosts_parse(const char *text, uint32_t rank_count, struct hosts *ret_hosts, struct err *err)
{
    struct hosts hosts = {.count = 0};
    uint32_t counted = 0, sum = 0;
    CHECK(rank_count > 0 && rank_count <= RANKS_MAX);
    for (const char *at = text; *text;) {
        size_t len = strcspn(at, ","), name_len = strcspn(at, ",:");
        int r = host_add(&hosts, at, name_len, err);
        if (r < 0) return r;
        if (name_len < len) {
            uint32_t count = count_of(at + name_len + 1, len - name_len - 1);
            if (count == 0 || count > RANKS_MAX)
                return ERR(err, ERR_CONFIG, "hosts: behind the ':' of %s stands its number of ranks, 1 to %d",
                           hosts.names[hosts.count - 1], RANKS_MAX);
            counted++;
            sum += count;
        }
        hosts.rank_first[hosts.count] = sum;
        if (at[len] == '\0') break;
        at += len + 1;
    }
    if (counted > 0 && counted < hosts.count)
        return ERR(err, ERR_CONFIG, "hosts: some have a number of ranks and some have none");
    if (counted > 0 && sum != rank_count)
        return ERR(err, ERR_CONFIG,
                   "hosts: they are for %" PRIu32 " ranks, --tensor-parallel-size says %" PRIu32, sum,
                   rank_count);
    int r = counted == 0 && hosts.count > 0 ? share_out(&hosts, rank_count, err) : 0;
    if (r == 0) *ret_hosts = hosts;
    return r;
}

/* One line without its comment: nothing, or a host into out + *used. */
static int line_parse(const char *line, size_t len, uint32_t line_no, char *out, size_t *used,
                      struct err *err)
{
    static const char blanks[] = " \t\r", slots[] = "slots=";
    while (len > 0 && strchr(blanks, line[len - 1])) len--;
    while (len > 0 && strchr(blanks, line[0])) line++, len--;
    if (len == 0) return 0;
    size_t name_len = 0;
    while (name_len < len && !strchr(blanks, line[name_len])) name_len++;
    int r = name_verify(line, name_len, err);
    if (r < 0) return r;
    const char *rest = line + name_len, *end = line + len;
    while (rest < end && strchr(blanks, rest[0])) rest++;
    uint32_t count = 0;
    if (rest < end) {
        bool is_slots = (size_t)(end - rest) > sizeof slots - 1 && memcmp(rest, slots, sizeof slots - 1) == 0;
        if (is_slots) count = count_of(rest + sizeof slots - 1, (size_t)(end - rest) - (sizeof slots - 1));
        if (count == 0 || count > RANKS_MAX)
            return ERR(err, ERR_CONFIG, "hostfile: line %" PRIu32 ": behind a name only slots=1 to slots=%d",
                       line_no, RANKS_MAX);
    }
    if (*used + name_len + 8 > HOSTS_TEXT_BYTES)
        return ERR(err, ERR_CONFIG, "hostfile: more hosts than ranks may be");
    *used += (size_t)snprintf(out + *used, HOSTS_TEXT_BYTES - *used, "%s%.*s", *used ? "," : "",
                              (int)name_len, line);
    if (count > 0) *used += (size_t)snprintf(out + *used, HOSTS_TEXT_BYTES - *used, ":%" PRIu32, count);
    return 0;
}

int hosts_file_parse(const char *text, size_t len, char *out, struct err *err)
{
    size_t used = 0;
    uint32_t line_no = 0;
    out[0] = '\0';
    if (memchr(text, '\0', len)) return ERR(err, ERR_CONFIG, "hostfile: it is no text");
    for (size_t at = 0; at < len;) {
        const char *line = text + at, *end = memchr(line, '\n', len - at);
        size_t line_len = end ? (size_t)(end - line) : len - at;
        const char *comment = memchr(line, '#', line_len);
        int r = line_parse(line, comment ? (size_t)(comment - line) : line_len, ++line_no, out, &used, err);
        if (r < 0) return r;
        at += line_len + 1;
    }
    return used > 0 ? 0 : ERR(err, ERR_CONFIG, "hostfile: it names no host");
}

void hosts_print(const struct hosts *hosts, char *out)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < hosts->count; i++)
        used += (size_t)snprintf(out + used, HOSTS_TEXT_BYTES - used, "%s%s:%" PRIu32, i ? "," : "",
                                 hosts->names[i],
                                 hosts->rank_first[i + 1] - hosts->rank_first[i]); // fits
}

uint32_t hosts_of_rank(const struct hosts *hosts, uint32_t rank)
{
    uint32_t host = 0;
    CHECK(hosts->count > 0);
    CHECK(rank < hosts->rank_first[hosts->count]);
    while (rank >= hosts->rank_first[host + 1]) host++;
    return host;
}
