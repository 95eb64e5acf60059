/* SPDX-License-Identifier: Apache-2.0 */
/* dist_hosts - what hosts do for each other (struct dist_hosts of dist.h), by messages between the first ranks of the
 * hosts: their leaders.
 *
 * A gather is one message each way between each two leaders: the columns of all planes that the sender's host computed,
 * row by row, behind a header. Rank 0's plans go from it to every other leader. Nothing is summed, so that the bits are
 * those of one host; what comes is a peer's, and its kind, order and length are verified before a byte of it is used.
 *
 * A leader that waits asks again and again: for spin_ns_max without pause, then with naps of an eighth of what it
 * waited, so that a short wait ends at once and a long one costs no core. Every DIST_LOOK_NS it asks `look`; when that
 * says no, or a message is wrong, this call and every later one fail. Whoever is told so ends the process: messages
 * may still be under way then, and their memory stays.
 *
 * Who moves the messages is given (struct dist_messages): MPI (mpi.h), or a test. Called by one thread. */
#ifndef KVASIR_WORKER_DIST_HOSTS_H
#define KVASIR_WORKER_DIST_HOSTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "worker/dist.h"

struct dist_message {
    uint32_t rank; // of the group: to whom, from whom
    void *bytes;
    size_t len; // to receive: the room, and once it is done what came
};

/* One exchange at a time: all of it is posted, then polled until it is done. Messages between two ranks come in the
 * order in which they were sent. */
struct dist_messages {
    void *arg;
    /* Arrays and bytes are lent until poll says done. 0, or a negative code. */
    int (*post)(void *arg, const struct dist_message *sends, uint32_t send_count,
                struct dist_message *receives, uint32_t receive_count);
    /* 1: all are done, sent bytes may be overwritten. 0: not yet. Negative: never; ERR_PEER for one that is too long.
     */
    int (*poll)(void *arg);
};

struct dist_hosts_conf {
    uint32_t rank, rank_count;   // of the group; rank: the first of its host
    uint32_t host_count;         // > 1
    const uint32_t *host_first;  // (host_count + 1) first rank of each host, then rank_count; copied
    struct exchange_shape shape; // bounds of all messages
    uint64_t spin_ns_max;        // 0: no core is free for that
    struct dist_messages messages;
    /* Whether to wait on, as dist_conf's. May be NULL. */
    int (*look)(void *arg);
    void *look_arg;
};

/* ret_hosts: for dist_conf, with arg set. -ENOMEM. */
int dist_hosts_open(const struct dist_hosts_conf *conf, struct dist_hosts *ret_hosts, struct err *err);
void dist_hosts_close(struct dist_hosts *hosts); // zeroed is fine, and zeroed after

/* Why calls fail, "" while they do not. Until dist_hosts_close. */
const char *dist_hosts_reason(const struct dist_hosts *hosts);

#endif
