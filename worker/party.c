/* SPDX-License-Identifier: Apache-2.0 */
/* See party.h. */
#include "worker/party.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/check.h"
#include "common/shm/segment.h"
#include "worker/dist_hosts.h"
#include "worker/mpi.h"

#define HOSTS_SPIN_NS \
    NS_PER_MS // ranks of other hosts are later than a wake-up, by the network and their own pace

struct party {
    struct segment exchange; // of this host, made by its daemon
    struct exchange_shape shape;
    void *alone; // owned; the exchange of a rank as if on a host of its own, else NULL
    uint64_t alone_bytes;
    struct dist_hosts hosts;
    struct dist *dist;
};

static struct exchange_shape shape_of(const struct party_conf *conf, uint32_t local_count)
{
    struct exchange_shape shape = exchange_shape_of(conf->limits, local_count);
    shape.embedding_dims = conf->facts->embedding_dims;
    shape.attention_dims = conf->facts->head_count * conf->facts->head_dims;
    shape.feed_forward_dims = conf->facts->feed_forward_dims;
    return shape;
}

/* "": ranks of a host share memory. */
static const char *word(void)
{
    const char *text = getenv("KVASIR_DIST");
    return text ? text : "";
}

int party_verify(struct err *err)
{
    if (word()[0] == '\0' || strcmp(word(), "mpi") == 0) return 0;
    return ERR(err, ERR_CONFIG, "KVASIR_DIST=%.20s: \"mpi\" or nothing", word());
}

/* The exchange of one rank, in memory of its own. */
static int alone_make(struct party *party, const struct party_conf *conf, struct err *err)
{
    party->alone_bytes = exchange_bytes(&party->shape);
    void *memory = mmap(NULL, party->alone_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return err_sys(err, errno, "exchange of one rank");
    party->alone = memory;
    exchange_init(memory, &party->shape, conf->epoch);
    return 0;
}

/* We speak for a host. */
static int lead(struct party *party, const struct party_conf *conf, uint32_t host_count,
                const uint32_t *host_first, struct err *err)
{
    struct dist_hosts_conf hosts = {
        .rank = conf->rank,
        .rank_count = conf->rank_count,
        .host_count = host_count,
        .host_first = host_first,
        .shape = party->shape,
        .spin_ns_max = conf->spin_ns_max,
    };
    int r = mpi_messages(&hosts.messages, err);
    return r < 0 ? r : dist_hosts_open(&hosts, &party->hosts, err);
}

/* Every rank leads a host of one. */
static int split(struct party *party, const struct party_conf *conf, struct dist_conf *dist, struct err *err)
{
    uint32_t host_first[RANKS_MAX + 1];
    for (uint32_t rank = 0; rank <= conf->rank_count; rank++) host_first[rank] = rank;
    party->shape = shape_of(conf, 1);
    int r = alone_make(party, conf, err);
    if (r == 0) r = lead(party, conf, conf->rank_count, host_first, err);
    if (r < 0) return r;
    dist->local_first = conf->rank;
    dist->segment = party->alone;
    dist->hosts = &party->hosts;
    // The daemon watches its own segment: a step that gets on must be seen there.
    dist->progress = &exchange_cells(party->exchange.base)[conf->rank - conf->host->rank_first].arrived;
    return 0;
}

int party_join(const struct party_conf *conf, struct party **ret_party, struct err *err)
{
    char part[32];
    const bool is_split = word()[0] != '\0';
    struct party *party = calloc(1, sizeof *party);
    if (!party) return err_sys(err, ENOMEM, "ranks");
    struct dist_conf dist = {
        .rank = conf->rank,
        .rank_count = conf->rank_count,
        .local_first = conf->host->rank_first,
        .hosts = host_is_spread(conf->host) ? &party->hosts : NULL, // of a rank that leads none, never called
        .spin_ns_max = conf->spin_ns_max,
    };
    party->shape = shape_of(conf, conf->host->rank_count);
    (void)snprintf(part, sizeof part, "exchange.%" PRIu32, conf->group); // fits
    int r = party_verify(err);
    if (r == 0) r = segment_open_write(conf->instance, part, &party->exchange, err);
    if (r == 0)
        r = exchange_verify(party->exchange.base, party->exchange.bytes, &party->shape, conf->epoch, err);
    dist.segment = party->exchange.base;
    if (r == 0 && is_split) r = split(party, conf, &dist, err);
    else if (r == 0 && host_is_spread(conf->host) && conf->rank == conf->host->rank_first)
        r = lead(party, conf, conf->host->hosts.count, conf->host->hosts.rank_first, err);
    dist.shape = party->shape;
    if (r == 0) r = dist_open(&dist, &party->dist, err);
    if (r < 0) {
        party_leave(party);
        return r;
    }
    *ret_party = party;
    return 0;
}

void party_leave(struct party *party)
{
    if (!party) return;
    dist_close(party->dist);
    dist_hosts_close(&party->hosts);
    if (party->alone) (void)munmap(party->alone, party->alone_bytes); // our own mapping
    segment_close(&party->exchange);
    free(party);
}

struct dist *party_dist(const struct party *party)
{
    return party ? party->dist : NULL;
}

const char *party_reason(const struct party *party)
{
    return party && party->hosts.arg ? dist_hosts_reason(&party->hosts) : "";
}
