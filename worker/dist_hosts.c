/* SPDX-License-Identifier: Apache-2.0 */
/* See dist_hosts.h. A message:
 *
 *   | header | row 0: own bytes of plane 0, of plane 1 | row 1: .. |        GATHER
 *   | header | own rows, whole |                                            ROWS
 *   | header | plan |                                                       SHARE, from rank 0
 *   | header | to rank 0: notes of the host's ranks, note_bytes each |      AGREE; the status is the header's
 *
 * All leaders call the same in the same order, so each knows the length of what it is sent, but of plans. A sequence
 * number counts the calls: what is of another call is a fault of the group, and ends it. */
#include "worker/dist_hosts.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "worker/relax.h"

enum {
    NAP_SHARE = 8,   // a nap is this part of what was waited: so much later, at most, a wait ends
    IDLE_SHARE = 50, // ... and this part once naps are NAP_NS_MAX
    REASON_BYTES = 160,
};
#define NAP_NS_MIN (20 * NS_PER_US)
#define NAP_NS_MAX (2 * NS_PER_MS)
#define NAP_NS_IDLE (10 * NS_PER_MS) // a poll costs about 15 us with its wake-up: 0.2 % of a core
#define OFFER_NS (50 * NS_PER_US)    // from here on a spin offers the core to whoever wants it
#define NAP_SLACK_NS UINT64_C(1000)  // the kernel's own 50 us would double a short nap

enum kind { KIND_GATHER = 1, KIND_ROWS, KIND_SHARE, KIND_AGREE };

struct header {
    uint32_t kind, sequence;
    int32_t status;
    uint32_t reserved; // 0
};
static_assert(sizeof(struct header) == 16, "the wire's");

struct hosts {
    struct dist_hosts_conf conf;
    uint32_t host_first[RANKS_MAX + 1];
    uint32_t host;     // ours
    uint32_t sequence; // of the call under way
    uint8_t *out, *in; // owned, message_bytes each: one message to all, one of each peer behind each other
    size_t message_bytes;
    struct dist_message sends[RANKS_MAX], receives[RANKS_MAX]; // by peers, without ourselves
    uint32_t peers[RANKS_MAX];                                 // hosts, ascending
    uint32_t peer_count;
    bool under_way;     // messages are posted, and were not done
    struct hosts *next; // in abandoned
    int failed;
    char reason[REASON_BYTES];
};

static struct hosts
    *abandoned; // closed while messages were under way: who moves them may still touch the memory

__attribute__((format(printf, 3, 4))) static int fail(struct hosts *hosts, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(hosts->reason, sizeof hosts->reason, format, args); // may be cut
    va_end(args);
    hosts->failed = code;
    return code;
}

/* ---- waiting ---- */

static void nap(uint64_t waited_ns)
{
    uint64_t longest = waited_ns / IDLE_SHARE, ns = waited_ns / NAP_SHARE;
    if (longest < NAP_NS_MAX) longest = NAP_NS_MAX;
    if (longest > NAP_NS_IDLE) longest = NAP_NS_IDLE;
    if (ns > longest) ns = longest;
    if (ns < NAP_NS_MIN) ns = NAP_NS_MIN;
    const struct timespec t = {.tv_nsec = (long)ns};
    (void)nanosleep(&t, NULL); // a broken nap is a shorter one
}

/* Until all that is posted is done. */
static int wait_done(struct hosts *hosts)
{
    const struct dist_hosts_conf *conf = &hosts->conf;
    const uint64_t began_ns = clock_mono_ns();
    uint64_t looked_ns = began_ns;
    int r;
    for (;;) {
        r = conf->messages.poll(conf->messages.arg);
        if (r != 0) break;
        const uint64_t now_ns = clock_mono_ns(), waited_ns = now_ns - began_ns;
        if (now_ns - looked_ns >= DIST_LOOK_NS) {
            r = conf->look ? conf->look(conf->look_arg) : 0;
            if (r < 0) return fail(hosts, r, "nothing came for %.1f s", (double)waited_ns / 1e9);
            looked_ns = now_ns;
        }
        if (waited_ns >= conf->spin_ns_max) nap(waited_ns);
        else if (waited_ns >= OFFER_NS) (void)sched_yield(); // never fails
        else relax();
    }
    hosts->under_way = false;
    return r < 0 ? fail(hosts, r, "messages between hosts: %s", err_name(r)) : 0;
}

/* ---- an exchange ---- */

/* A header in out, for the call under way. -> where the payload goes. */
static uint8_t *put_header(struct hosts *hosts, enum kind kind, int32_t status)
{
    const struct header header = {.kind = kind, .sequence = hosts->sequence, .status = status};
    memcpy(hosts->out, &header, sizeof header);
    return hosts->out + sizeof header;
}

/* Posts, but does not wait. */
static int post(struct hosts *hosts, uint32_t send_count, uint32_t receive_count)
{
    const struct dist_messages *messages = &hosts->conf.messages;
    hosts->under_way = true;
    int r = messages->post(messages->arg, hosts->sends, send_count, hosts->receives, receive_count);
    return r < 0 ? fail(hosts, r, "messages between hosts: %s", err_name(r)) : 0;
}

static void put_send(struct hosts *hosts, uint32_t i, size_t len)
{
    CHECK(len <= hosts->message_bytes);
    hosts->sends[i] = (struct dist_message){
        .rank = hosts->host_first[hosts->peers[i]], .bytes = hosts->out, .len = len};
}

/* Room for the next message of peer i, behind that of those before it. *inout_used: of in. */
static void put_receive(struct hosts *hosts, uint32_t i, size_t len, size_t *inout_used)
{
    CHECK(*inout_used <= hosts->message_bytes && len <= hosts->message_bytes - *inout_used);
    hosts->receives[i] = (struct dist_message){
        .rank = hosts->host_first[hosts->peers[i]], .bytes = hosts->in + *inout_used, .len = len};
    *inout_used += (len + CACHELINE_BYTES - 1) / CACHELINE_BYTES * CACHELINE_BYTES;
}

/* A message that came is the one of this call. payload_bytes: what it must have behind its header, SIZE_MAX for any. */
static int verify(struct hosts *hosts, uint32_t i, enum kind kind, size_t payload_bytes,
                  struct header *ret_header)
{
    const struct dist_message *message = &hosts->receives[i];
    struct header header = {0};
    if (message->len >= sizeof header) memcpy(&header, message->bytes, sizeof header);
    if (header.kind != kind || header.sequence != hosts->sequence)
        return fail(hosts, ERR_PEER, "host %" PRIu32 ": a message of another call", hosts->peers[i]);
    if (payload_bytes != SIZE_MAX && message->len != sizeof header + payload_bytes)
        return fail(hosts, ERR_PEER, "host %" PRIu32 ": a message of %zu bytes, wanted %zu", hosts->peers[i],
                    message->len, sizeof header + payload_bytes);
    *ret_header = header;
    return 0;
}

/* One message each way between us and each other leader. out is filled; of its payload peer i gets own[i] bytes, and
 * sends bytes[i], which lie at payload_of then. Lowers *inout_status to that of any. */
static int swap(struct hosts *hosts, enum kind kind, const size_t *own, const size_t *bytes,
                int32_t *inout_status)
{
    size_t used = 0;
    for (uint32_t i = 0; i < hosts->peer_count; i++) {
        put_send(hosts, i, sizeof(struct header) + own[i]);
        put_receive(hosts, i, sizeof(struct header) + bytes[i], &used);
    }
    int r = post(hosts, hosts->peer_count, hosts->peer_count);
    if (r == 0) r = wait_done(hosts);
    for (uint32_t i = 0; r == 0 && i < hosts->peer_count; i++) {
        struct header header;
        r = verify(hosts, i, kind, bytes[i], &header);
        if (r == 0 && header.status < *inout_status) *inout_status = header.status;
    }
    return r;
}

static const uint8_t *payload_of(const struct hosts *hosts, uint32_t i)
{
    return (const uint8_t *)hosts->receives[i].bytes + sizeof(struct header);
}

/* ---- columns ---- */

/* Which bytes of a plane's rows are a host's. */
static uint64_t range_of(const struct hosts *hosts, const struct dist_plane *plane, const uint32_t *bounds,
                         uint32_t host, uint64_t *ret_first)
{
    const uint64_t unit = plane->unit_cols;
    const uint64_t first = bounds[hosts->host_first[host]] / unit * plane->unit_bytes;
    uint64_t end = (bounds[hosts->host_first[host + 1]] + unit - 1) / unit * plane->unit_bytes;
    if (end > plane->row_bytes) end = plane->row_bytes; // the last unit may not be whole
    *ret_first = first;
    return end > first ? end - first : 0;
}

static size_t columns_bytes(const struct hosts *hosts, const struct dist_plane *planes, uint32_t plane_count,
                            uint32_t row_count, const uint32_t *bounds, uint32_t host)
{
    uint64_t first, bytes = 0;
    for (uint32_t p = 0; p < plane_count; p++) bytes += range_of(hosts, &planes[p], bounds, host, &first);
    return bytes * row_count;
}

/* Columns of a host: from the planes to a message, or back. */
static void columns_copy(const struct hosts *hosts, const struct dist_plane *planes, uint32_t plane_count,
                         uint32_t row_count, const uint32_t *bounds, uint32_t host, uint8_t *to,
                         const uint8_t *from)
{
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t p = 0; p < plane_count; p++) {
            uint64_t first;
            const uint64_t bytes = range_of(hosts, &planes[p], bounds, host, &first);
            uint8_t *cols = (uint8_t *)planes[p].base + row * planes[p].row_bytes + first;
            if (to) memcpy(to, cols, bytes);
            else memcpy(cols, from, bytes);
            if (to) to += bytes;
            else from += bytes;
        }
    }
}

static int hosts_gather(void *arg, const struct dist_plane *planes, uint32_t plane_count, uint32_t row_count,
                        const uint32_t *bounds)
{
    struct hosts *hosts = arg;
    size_t own[RANKS_MAX], bytes[RANKS_MAX];
    int32_t status = 0;
    if (hosts->failed < 0) return hosts->failed;
    hosts->sequence++;
    for (uint32_t i = 0; i < hosts->peer_count; i++) {
        own[i] = columns_bytes(hosts, planes, plane_count, row_count, bounds, hosts->host);
        bytes[i] = columns_bytes(hosts, planes, plane_count, row_count, bounds, hosts->peers[i]);
        CHECK(own[i] <= hosts->message_bytes - sizeof(struct header));
    }
    columns_copy(hosts, planes, plane_count, row_count, bounds, hosts->host,
                 put_header(hosts, KIND_GATHER, 0), NULL);
    int r = swap(hosts, KIND_GATHER, own, bytes, &status);
    for (uint32_t i = 0; r == 0 && i < hosts->peer_count; i++)
        columns_copy(hosts, planes, plane_count, row_count, bounds, hosts->peers[i], NULL,
                     payload_of(hosts, i));
    return r;
}

/* ---- rows ---- */

static bool is_of(const struct hosts *hosts, uint32_t host, uint32_t rank)
{
    return rank >= hosts->host_first[host] && rank < hosts->host_first[host + 1];
}

/* As columns_copy. -> bytes; with neither: how many they are. */
static size_t rows_copy(const struct hosts *hosts, const struct dist_plane *plane, uint32_t row_count,
                        const uint16_t *owners, uint32_t host, uint8_t *to, const uint8_t *from)
{
    size_t bytes = 0;
    for (uint32_t row = 0; row < row_count; row++) {
        if (!is_of(hosts, host, owners[row])) continue;
        uint8_t *cols = (uint8_t *)plane->base + row * plane->row_bytes;
        if (to) memcpy(to + bytes, cols, plane->row_bytes);
        else if (from) memcpy(cols, from + bytes, plane->row_bytes);
        bytes += plane->row_bytes;
    }
    return bytes;
}

static int hosts_gather_rows(void *arg, const struct dist_plane *plane, uint32_t row_count,
                             const uint16_t *owners)
{
    struct hosts *hosts = arg;
    size_t own[RANKS_MAX], bytes[RANKS_MAX];
    int32_t status = 0;
    if (hosts->failed < 0) return hosts->failed;
    hosts->sequence++;
    for (uint32_t i = 0; i < hosts->peer_count; i++) {
        own[i] = rows_copy(hosts, plane, row_count, owners, hosts->host, NULL, NULL);
        bytes[i] = rows_copy(hosts, plane, row_count, owners, hosts->peers[i], NULL, NULL);
        CHECK(own[i] <= hosts->message_bytes - sizeof(struct header));
    }
    (void)rows_copy(hosts, plane, row_count, owners, hosts->host, put_header(hosts, KIND_ROWS, 0), NULL);
    int r = swap(hosts, KIND_ROWS, own, bytes, &status);
    for (uint32_t i = 0; r == 0 && i < hosts->peer_count; i++)
        (void)rows_copy(hosts, plane, row_count, owners, hosts->peers[i], NULL, payload_of(hosts, i));
    return r;
}

/* ---- plans ---- */

/* Rank 0's leader to all. */
static int send_plan(struct hosts *hosts, const void *bytes, size_t len)
{
    CHECK(len <= hosts->conf.shape.plan_bytes);
    uint8_t *to = put_header(hosts, KIND_SHARE, 0);
    if (len > 0) memcpy(to, bytes, len);
    for (uint32_t i = 0; i < hosts->peer_count; i++) put_send(hosts, i, sizeof(struct header) + len);
    int r = post(hosts, hosts->peer_count, 0);
    return r < 0 ? r : wait_done(hosts);
}

/* The first rank of host 0 is rank 0, and peer 0 of all others. */
static int receive_plan(struct hosts *hosts, void *bytes, uint64_t room, uint64_t *ret_bytes)
{
    size_t used = 0;
    struct header header;
    put_receive(hosts, 0, sizeof header + hosts->conf.shape.plan_bytes, &used);
    int r = post(hosts, 0, 1);
    if (r == 0) r = wait_done(hosts);
    if (r == 0) r = verify(hosts, 0, KIND_SHARE, SIZE_MAX, &header);
    if (r < 0) return r;
    const size_t len = hosts->receives[0].len - sizeof header;
    if (len > room) return fail(hosts, ERR_PEER, "host 0: a plan of %zu bytes", len);
    memcpy(bytes, payload_of(hosts, 0), len);
    *ret_bytes = len;
    return 0;
}

static int hosts_share(void *arg, void *bytes, uint64_t room, uint64_t *inout_bytes)
{
    struct hosts *hosts = arg;
    if (hosts->failed < 0) return hosts->failed;
    hosts->sequence++;
    return hosts->host == 0 ? send_plan(hosts, bytes, *inout_bytes)
                            : receive_plan(hosts, bytes, room, inout_bytes);
}

/* ---- statuses and notes ---- */

static int hosts_agree(void *arg, int32_t *inout_status, uint8_t *notes, uint32_t note_bytes)
{
    struct hosts *hosts = arg;
    if (hosts->failed < 0) return hosts->failed;
    hosts->sequence++;
    const uint64_t stride = exchange_note_stride(&hosts->conf.shape);
    const uint32_t *first = hosts->host_first;
    size_t own[RANKS_MAX] = {0}, bytes[RANKS_MAX] = {0};
    uint8_t *to = put_header(hosts, KIND_AGREE, *inout_status);
    CHECK(note_bytes <= stride);
    for (uint32_t rank = first[hosts->host]; hosts->host > 0 && notes && rank < first[hosts->host + 1];
         rank++) {
        memcpy(to + own[0], notes + rank * stride, note_bytes);
        own[0] += note_bytes; // peer 0 is host 0
    }
    for (uint32_t i = 0; hosts->host == 0 && notes && i < hosts->peer_count; i++)
        bytes[i] = (size_t)note_bytes * (first[hosts->peers[i] + 1] - first[hosts->peers[i]]);
    int r = swap(hosts, KIND_AGREE, own, bytes, inout_status);
    for (uint32_t i = 0; r == 0 && i < hosts->peer_count; i++)
        for (size_t at = 0, rank = first[hosts->peers[i]]; at < bytes[i]; at += note_bytes, rank++)
            memcpy(notes + rank * stride, payload_of(hosts, i) + at, note_bytes);
    return r;
}

/* ---- life ---- */

static void hosts_free(struct hosts *hosts)
{
    free(hosts->out);
    free(hosts->in);
    free(hosts);
}

static void hosts_init(struct hosts *hosts, const struct dist_hosts_conf *conf)
{
    hosts->conf = *conf;
    hosts->conf.host_first = NULL; // the caller's
    memcpy(hosts->host_first, conf->host_first, (conf->host_count + 1) * sizeof *conf->host_first);
    for (uint32_t host = 0; host < conf->host_count; host++) {
        CHECK(hosts->host_first[host] < hosts->host_first[host + 1]);
        if (hosts->host_first[host] == conf->rank) hosts->host = host;
        else hosts->peers[hosts->peer_count++] = host;
    }
    CHECK(hosts->peer_count + 1 == conf->host_count);
    // All columns of one area, or all notes, are less than the exchange; of both buffers only what is used is touched.
    hosts->message_bytes = exchange_bytes(&conf->shape) + RANKS_MAX * 2 * CACHELINE_BYTES;
}

int dist_hosts_open(const struct dist_hosts_conf *conf, struct dist_hosts *ret_hosts, struct err *err)
{
    CHECK(conf->host_count > 1 && conf->host_count <= conf->rank_count && conf->rank_count <= RANKS_MAX);
    CHECK(conf->host_first[0] == 0 && conf->host_first[conf->host_count] == conf->rank_count);
    CHECK(conf->shape.group_count == conf->rank_count);
    struct hosts *hosts = calloc(1, sizeof *hosts);
    if (!hosts) return err_sys(err, ENOMEM, "messages between hosts");
    hosts_init(hosts, conf);
    hosts->out = malloc(hosts->message_bytes);
    hosts->in = malloc(hosts->message_bytes);
    if (!hosts->out || !hosts->in) {
        hosts_free(hosts);
        return err_sys(err, ENOMEM, "messages between hosts");
    }
    (void)prctl(PR_SET_TIMERSLACK, NAP_SLACK_NS); // refused: naps are longer
    *ret_hosts = (struct dist_hosts){.arg = hosts,
                                     .gather = hosts_gather,
                                     .gather_rows = hosts_gather_rows,
                                     .share = hosts_share,
                                     .agree = hosts_agree};
    return 0;
}

void dist_hosts_close(struct dist_hosts *hosts)
{
    struct hosts *own = hosts->arg;
    if (own && own->under_way) {
        own->next = abandoned;
        abandoned = own;
    } else if (own) {
        hosts_free(own);
    }
    *hosts = (struct dist_hosts){0};
}

const char *dist_hosts_reason(const struct dist_hosts *dist_hosts)
{
    const struct hosts *hosts = dist_hosts->arg;
    return hosts->reason;
}
