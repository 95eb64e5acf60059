/* SPDX-License-Identifier: Apache-2.0 */
/* See charter.h. One message each way on a SOCK_SEQPACKET: it comes whole or not at all. */
#include "common/ipc/charter.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "config.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/hash.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"

enum {
    ANSWER_MS_MAX = 120000, // to reserve the host's segments, and to wait for those that had them
    BACKLOG = 4,
    DIMS_MAX = 1 << 22, // of one row of activations
};

uint64_t charter_build(void)
{
    const uint64_t facts[] = {
        sizeof(struct charter),
        offsetof(struct charter, limits),
        offsetof(struct charter, shape),
        sizeof(struct exchange_cell),
        pool_layout_sum(),
        hash64(PACKAGE_VERSION, sizeof PACKAGE_VERSION),
    };
    return hash64(facts, sizeof facts);
}

static bool text_ends(const char *text, size_t bytes)
{
    return memchr(text, '\0', bytes) != NULL;
}

int charter_verify(const struct charter *charter, struct err *err)
{
    if (charter->build != charter_build()) return ERR(err, ERR_VERSION, "the charter is another build's");
    if (!text_ends(charter->instance, sizeof charter->instance) ||
        !text_ends(charter->head, sizeof charter->head))
        return ERR(err, ERR_PEER, "charter: a text without an end");
    int r = segment_instance_check(charter->instance, err);
    if (r == 0) r = pool_geometry_verify(&charter->geometry, err);
    if (r == 0) r = plan_limits_verify(&charter->limits, err);
    if (r < 0) return r;
    if (charter->group >= GROUPS_MAX || charter->geometry.page_bytes == 0 ||
        charter->limits.rank_count != charter->geometry.rank_count ||
        charter->limits.pool_pages != charter->geometry.page_count ||
        charter->limits.page_tokens != charter->geometry.page_tokens)
        return ERR(err, ERR_PEER, "charter: its parts do not go together");
    return 0;
}

int charter_verify_host(const struct charter *charter, struct err *err)
{
    int r = charter_verify(charter, err);
    if (r < 0) return r;
    const struct exchange_shape *shape = &charter->shape;
    uint32_t rank_count = charter->geometry.rank_count, near_count = pool_local_count(&charter->geometry);
    if (charter->rank_first < near_count || charter->rank_first >= rank_count || charter->rank_count == 0 ||
        charter->rank_count > rank_count - charter->rank_first)
        return ERR(err, ERR_PEER, "charter: ranks that are none of this host");
    struct exchange_shape wanted = exchange_shape_of(&charter->limits, charter->rank_count);
    wanted.embedding_dims = shape->embedding_dims;
    wanted.attention_dims = shape->attention_dims;
    wanted.feed_forward_dims = shape->feed_forward_dims;
    const uint32_t dims[] = {shape->embedding_dims, shape->attention_dims, shape->feed_forward_dims};
    for (size_t i = 0; i < COUNT_OF(dims); i++)
        if (dims[i] == 0 || dims[i] > DIMS_MAX)
            return ERR(err, ERR_PEER, "charter: rows of %" PRIu32, dims[i]);
    if (memcmp(shape, &wanted, sizeof wanted) != 0)
        return ERR(err, ERR_PEER, "charter: the exchange's shape does not follow from its limits");
    return 0;
}

/* "\0kvasir-agent-<uid>-<instance>": an abstract name, of this network namespace. */
static socklen_t address_of(const char *instance, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int len = snprintf(ret_address->sun_path + 1, sizeof ret_address->sun_path - 1, "kvasir-agent-%lu-%s",
                       (unsigned long)geteuid(), instance); // fits: INSTANCE_BYTES_MAX
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

/* -EPERM for another user's process. */
static int peer_of(int fd, int64_t *ret_pid)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) return -errno;
    if (peer.uid != geteuid()) return -EPERM;
    *ret_pid = peer.pid;
    return 0;
}

static int answer_receive(int fd, struct err *err)
{
    struct charter_answer answer;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    uint64_t end_ns = clock_mono_ns() + ANSWER_MS_MAX * NS_PER_MS;
    int r;
    do {
        uint64_t now_ns = clock_mono_ns();
        r = now_ns < end_ns ? poll(&wait, 1, (int)((end_ns - now_ns) / NS_PER_MS) + 1) : 0;
    } while (r < 0 && errno == EINTR);
    if (r == 0) return ERR(err, -ETIMEDOUT, "kvasird --agent does not answer");
    ssize_t len = recv(fd, &answer, sizeof answer, 0);
    if (len != (ssize_t)sizeof answer || !text_ends(answer.text, sizeof answer.text))
        return ERR(err, ERR_PEER, "kvasird --agent has gone, or is another build's");
    return answer.status < 0 ? ERR(err, answer.status, "kvasird --agent: %s", answer.text) : 0;
}

int charter_bring(const struct charter *charter, int *ret_fd, struct err *err)
{
    struct sockaddr_un address;
    int64_t pid;
    socklen_t len = address_of(charter->instance, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_sys(err, errno, "socket");
    int r = 0;
    if (connect(fd, (struct sockaddr *)&address, len) < 0)
        r = ERR(err, ERR_CONFIG, "no kvasird --agent of instance %s", charter->instance);
    if (r == 0 && (r = peer_of(fd, &pid)) < 0) err_sys(err, -r, "kvasird --agent");
    if (r == 0 && send(fd, charter, sizeof *charter, MSG_NOSIGNAL) != (ssize_t)sizeof *charter)
        r = ERR(err, ERR_PEER_DEAD, "kvasird --agent has gone");
    if (r == 0) r = answer_receive(fd, err);
    if (r < 0) (void)close(fd); // nothing is under way on it
    else *ret_fd = fd;
    return r;
}

int charter_listen(const char *instance, int *ret_fd, struct err *err)
{
    struct sockaddr_un address;
    socklen_t len = address_of(instance, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_sys(err, errno, "socket");
    int r = 0;
    if (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, BACKLOG) < 0)
        r = errno == EADDRINUSE ? ERR(err, ERR_BUSY, "another process is the agent of instance %s", instance)
                                : err_sys(err, errno, "the agent's socket");
    if (r < 0) (void)close(fd); // nobody has come
    else *ret_fd = fd;
    return r;
}

int charter_accept(int listen_fd, int *ret_fd, int64_t *ret_pid)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED ? -EAGAIN : -errno;
    int r = peer_of(fd, ret_pid);
    if (r < 0) (void)close(fd); // a stranger's
    else *ret_fd = fd;
    return r;
}

int charter_receive(int fd, const char *instance, struct charter *ret_charter, struct err *err)
{
    struct {
        struct charter charter;
        uint8_t more; // a longer message does not pass for a whole one
    } in;
    ssize_t len = recv(fd, &in, sizeof in, MSG_DONTWAIT);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) return -EAGAIN;
    if (len <= 0) return ERR(err, ERR_PEER_DEAD, "the leader has gone");
    if (len != (ssize_t)sizeof in.charter)
        return ERR(err, ERR_VERSION, "a charter of %zd bytes is another build's", len);
    int r = charter_verify_host(&in.charter, err);
    if (r == 0 && strcmp(in.charter.instance, instance) != 0)
        r = ERR(err, ERR_PEER, "a charter of instance %s", in.charter.instance);
    if (r == 0) *ret_charter = in.charter;
    return r;
}

void charter_answer(int fd, int status, const char *text)
{
    struct charter_answer answer = {.status = status};
    (void)snprintf(answer.text, sizeof answer.text, "%s", text);         // may be cut
    (void)send(fd, &answer, sizeof answer, MSG_NOSIGNAL | MSG_DONTWAIT); // whoever has gone hears nothing
}
