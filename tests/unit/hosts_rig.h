/* SPDX-License-Identifier: Apache-2.0 */
/* hosts_rig - messages between the leaders of "hosts" that are processes of one test: struct dist_messages over socket
 * pairs. A message is its length, 8 bytes, and its bytes. A process that is not the rig's may write whatever it
 * likes. */
#ifndef KVASIR_TESTS_UNIT_HOSTS_RIG_H
#define KVASIR_TESTS_UNIT_HOSTS_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/check.h"
#include "worker/dist_hosts.h"

enum { HOSTS_RIG_MAX = 4 };

struct hosts_rig {
    uint32_t host_count;
    uint32_t host_first[HOSTS_RIG_MAX + 1];
    int fds[HOSTS_RIG_MAX][HOSTS_RIG_MAX]; // [a][b]: a's end of the pair with b
    /* Of one process. */
    uint32_t host;
    const struct dist_message *sends;
    struct dist_message *receives;
    uint32_t send_count, receive_count;
    size_t sent[HOSTS_RIG_MAX], got[HOSTS_RIG_MAX]; // bytes with the length's
    uint64_t lens[HOSTS_RIG_MAX];                   // that come
};

static inline void hosts_rig_open(const uint32_t *host_first, uint32_t host_count, struct hosts_rig *ret_rig)
{
    struct hosts_rig *rig = ret_rig;
    CHECK(host_count <= HOSTS_RIG_MAX);
    *rig = (struct hosts_rig){.host_count = host_count};
    memcpy(rig->host_first, host_first, (host_count + 1) * sizeof *host_first);
    for (uint32_t a = 0; a < host_count; a++) {
        for (uint32_t b = 0; b < a; b++) {
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0) abort();
            rig->fds[a][b] = pair[0];
            rig->fds[b][a] = pair[1];
        }
    }
}

static inline void hosts_rig_close(struct hosts_rig *rig)
{
    for (uint32_t a = 0; a < rig->host_count; a++)
        for (uint32_t b = 0; b < rig->host_count; b++)
            if (a != b) (void)close(rig->fds[a][b]); // nothing is to be told
}

static inline uint32_t hosts_rig_host_of(const struct hosts_rig *rig, uint32_t rank)
{
    uint32_t host = 0;
    while (rank >= rig->host_first[host + 1]) host++;
    return host;
}

static inline int hosts_rig_post(void *arg, const struct dist_message *sends, uint32_t send_count,
                                 struct dist_message *receives, uint32_t receive_count)
{
    struct hosts_rig *rig = arg;
    rig->sends = sends;
    rig->send_count = send_count;
    rig->receives = receives;
    rig->receive_count = receive_count;
    memset(rig->sent, 0, sizeof rig->sent);
    memset(rig->got, 0, sizeof rig->got);
    return 0;
}

/* -> whether message i is sent. */
static inline int hosts_rig_send(struct hosts_rig *rig, uint32_t i)
{
    const struct dist_message *message = &rig->sends[i];
    const uint64_t len = message->len;
    const int fd = rig->fds[rig->host][hosts_rig_host_of(rig, message->rank)];
    while (rig->sent[i] < sizeof len + len) {
        const bool is_body = rig->sent[i] >= sizeof len;
        const size_t at = is_body ? rig->sent[i] - sizeof len : rig->sent[i];
        const uint8_t *from = is_body ? message->bytes : (const uint8_t *)&len;
        ssize_t n = send(fd, from + at, (is_body ? len : sizeof len) - at, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -errno;
        rig->sent[i] += (size_t)n;
    }
    return 1;
}

static inline int hosts_rig_receive(struct hosts_rig *rig, uint32_t i)
{
    struct dist_message *message = &rig->receives[i];
    const int fd = rig->fds[rig->host][hosts_rig_host_of(rig, message->rank)];
    while (rig->got[i] < sizeof(uint64_t) || rig->got[i] < sizeof(uint64_t) + rig->lens[i]) {
        const bool is_body = rig->got[i] >= sizeof(uint64_t);
        const size_t at = is_body ? rig->got[i] - sizeof(uint64_t) : rig->got[i];
        uint8_t *to = is_body ? message->bytes : (uint8_t *)&rig->lens[i];
        ssize_t n = recv(fd, to + at, (is_body ? rig->lens[i] : sizeof(uint64_t)) - at, 0);
        if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : ERR_PEER_DEAD;
        rig->got[i] += (size_t)n;
        if (rig->got[i] == sizeof(uint64_t) && rig->lens[i] > message->len) return ERR_PEER;
    }
    return 1;
}

static inline int hosts_rig_poll(void *arg)
{
    struct hosts_rig *rig = arg;
    uint32_t done = 0;
    for (uint32_t i = 0; i < rig->send_count; i++) {
        int r = hosts_rig_send(rig, i);
        if (r < 0) return r;
        done += (uint32_t)r;
    }
    for (uint32_t i = 0; i < rig->receive_count; i++) {
        int r = hosts_rig_receive(rig, i);
        if (r < 0) return r;
        done += (uint32_t)r;
    }
    if (done < rig->send_count + rig->receive_count) return 0;
    for (uint32_t i = 0; i < rig->receive_count; i++) rig->receives[i].len = rig->lens[i];
    return 1;
}

/* The leader's of a host: from here on this process is that host. */
static inline struct dist_messages hosts_rig_messages(struct hosts_rig *rig, uint32_t host)
{
    rig->host = host;
    return (struct dist_messages){.arg = rig, .post = hosts_rig_post, .poll = hosts_rig_poll};
}

#endif
