/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "worker/mpi.h"

/* What each rank tells all others. Fixed size; one build's (mpi_agree). */
struct word {
    int32_t status;
    uint32_t has_parent; // mpirun itself started it
    uint64_t producer;
    char host[HOST_NAME_BYTES]; // as it calls itself
    char text[ERR_TEXT_BYTES];  // why status is negative
};

static void own_name(char out[static HOST_NAME_BYTES])
{
    if (gethostname(out, HOST_NAME_BYTES) < 0) out[0] = '\0';
    out[HOST_NAME_BYTES - 1] = '\0';
}

/* Everybody's words, with our own in it. ret_words: (ranks of the group), the caller's (free). */
static int words_exchange(const struct host *host, const struct word *own, struct word **ret_words,
                          struct err *err)
{
    uint32_t count = host->hosts.rank_first[host->hosts.count];
    struct word *words = calloc(count, sizeof *words);
    if (!words) return ERR(err, -ENOMEM, "out of memory");
    int r = mpi_gather(own, sizeof *own, words, err);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        words[i].host[HOST_NAME_BYTES - 1] = words[i].text[ERR_TEXT_BYTES - 1] = '\0';
    if (r < 0) free(words);
    else *ret_words = words;
    return r;
}

/* The first rank's failure is everybody's. */
static int words_judge(struct host *host, const struct word *words, struct err *err)
{
    for (uint32_t i = 0; i < host->hosts.rank_first[host->hosts.count]; i++) {
        if (words[i].status >= 0) continue;
        bool is_near = i < host->hosts.rank_first[1];
        host->is_told = true;
        return ERR(err, words[i].status, "%s%s%s",
                   is_near ? "" : host->hosts.names[hosts_of_rank(&host->hosts, i)], is_near ? "" : ": ",
                   words[i].text);
    }
    return 0;
}

/* "node.example.org" is "node" as well; addresses are nobody's. */
static bool is_name_of(const char *named, const char *own)
{
    size_t len = strcspn(named, ".");
    bool is_address = strspn(named, "0123456789.") == strlen(named);
    return !is_address && len == strcspn(own, ".") && strncmp(named, own, len) == 0;
}

/* Ranks of one host share its name, and no others do; those of the daemon's host are mpirun's own children. mpirun
 * takes its own host first wherever it stands, and the others in the order given. */
static int places_verify(const struct host *host, const struct word *words, struct err *err)
{
    const struct hosts *hosts = &host->hosts;
    for (uint32_t h = 0; h < hosts->count; h++) {
        const struct word *first = &words[hosts->rank_first[h]];
        for (uint32_t i = hosts->rank_first[h]; i < hosts->rank_first[h + 1]; i++) {
            if (h == 0 && !words[i].has_parent)
                return ERR(err, ERR_CONFIG,
                           "rank %" PRIu32 " runs on %s: --hosts begins with the daemon's own host", i,
                           words[i].host);
            if (strcmp(words[i].host, first->host) != 0)
                return ERR(err, ERR_CONFIG, "rank %" PRIu32 " runs on %s, not with the others of %s", i,
                           words[i].host, hosts->names[h]);
        }
        for (uint32_t other = 0; other < hosts->count; other++)
            if (other != h && is_name_of(hosts->names[other], first->host))
                return ERR(err, ERR_CONFIG,
                           "the ranks of %s run on %s: --hosts begins with the daemon's own host",
                           hosts->names[h], first->host);
        for (uint32_t other = 0; other < h; other++)
            if (strcmp(words[hosts->rank_first[other]].host, first->host) == 0)
                return ERR(err, ERR_CONFIG, "hosts %s and %s are one: %s", hosts->names[other],
                           hosts->names[h], first->host);
    }
    return 0;
}

int host_place(const char *hosts_text, uint32_t rank, uint32_t rank_count, int64_t parent_pid,
               struct host *ret_host, struct err *err)
{
    struct host *host = ret_host;
    struct word *words;
    *host = (struct host){.rank = rank, .rank_count = rank_count, .agent_fd = -1};
    int r = hosts_parse(hosts_text, rank_count, &host->hosts, err);
    if (r < 0 || !host_is_spread(host)) return r;
    uint32_t idx = hosts_of_rank(&host->hosts, rank);
    host->rank_first = host->hosts.rank_first[idx];
    host->rank_count = host->hosts.rank_first[idx + 1] - host->rank_first;
    host->is_far = idx > 0;
    struct word own = {.has_parent = getppid() == parent_pid};
    own_name(own.host);
    r = words_exchange(host, &own, &words, err);
    if (r < 0) return r;
    r = places_verify(host, words, err);
    host->is_told = r < 0; // all have come to that
    free(words);
    return r;
}

/* What rank 0 hands out. */
struct handed {
    int32_t status;
    struct charter charter;
    char text[ERR_TEXT_BYTES];
};

/* A leader: the host's own fields, and to the agent with it. */
static int bring(struct host *host, struct err *err)
{
    struct charter *charter = &host->charter;
    charter->rank_first = host->rank_first;
    charter->rank_count = host->rank_count;
    charter->shape = exchange_shape_of(&charter->limits, host->rank_count);
    charter->shape.embedding_dims = host->dims.embedding_dims;
    charter->shape.attention_dims = host->dims.attention_dims;
    charter->shape.feed_forward_dims = host->dims.feed_forward_dims;
    charter->launcher_pid = getppid();
    charter->launcher_start = 0; // unknown: then the agent leaves it alone
    (void)owner_start(charter->launcher_pid, &charter->launcher_start);
    return charter_bring(charter, &host->agent_fd, err);
}

int host_charter(struct host *host, int status, const struct charter *charter, struct err *err)
{
    struct handed *handed = calloc(1, sizeof *handed);
    if (!handed) return ERR(err, -ENOMEM, "out of memory"); // the others find us gone
    if (host->rank == 0) {
        handed->status = status;
        if (status < 0) (void)snprintf(handed->text, sizeof handed->text, "%s", err ? err->text : "");
        else handed->charter = *charter;
        own_name(handed->charter.head);
    }
    int r = mpi_hand(handed, sizeof *handed, err);
    handed->text[ERR_TEXT_BYTES - 1] = '\0';
    if (r == 0 && handed->status < 0) {
        r = ERR(err, handed->status, "%s", handed->text);
        host->is_told = true;
    }
    host->charter = handed->charter;
    free(handed);
    if (r < 0) return r;
    r = charter_verify(&host->charter, err);
    if (r == 0 && host->rank > 0) r = status;
    if (r == 0 && host_is_leader(host)) r = bring(host, err);
    return host_meet(host, r, 0, NULL, err);
}

int host_meet(struct host *host, int status, uint64_t producer, uint64_t *ret_producer, struct err *err)
{
    struct word own = {.status = status, .producer = producer}, *words;
    if (status < 0) (void)snprintf(own.text, sizeof own.text, "%s", err ? err->text : ""); // may be cut
    own_name(own.host);
    int r = words_exchange(host, &own, &words, err);
    if (r < 0) return r;
    r = words_judge(host, words, err);
    /* Of one kind everywhere, as it should be, that kind; else one of this mixture, in this order. */
    uint32_t count = host->hosts.rank_first[host->hosts.count];
    uint64_t producers[RANKS_MAX];
    bool is_one = true;
    for (uint32_t i = 0; i < count; i++) {
        producers[i] = words[i].producer;
        is_one = is_one && producers[i] == producers[0];
    }
    if (r == 0 && ret_producer)
        *ret_producer = is_one ? producer : hash64(producers, count * sizeof *producers);
    free(words);
    return r;
}
