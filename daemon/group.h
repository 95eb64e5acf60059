/* SPDX-License-Identifier: Apache-2.0 */
/* group - one replica of the model: its link, its process, and its life.
 *
 *   STARTING --ready--> READY --death--> WAITING --back-off over--> STARTING ...
 *      |  death before the first READY                  any --group_stop--> STOPPING --exit--> STOPPED
 *      +--> FAILED
 *
 * Started, watched (pidfd) and restarted as a unit. One rank is exec'd directly; of several the child is mpirun (which
 * the worker program becomes: --launch), and whatever goes wrong with it or any of them ends all (ranks.h). Wakes of
 * the link arrive on a thread that does nothing but futex_wait and uv_async_send. Callbacks come on the loop. */
#ifndef KVASIR_DAEMON_GROUP_H
#define KVASIR_DAEMON_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/err.h"
#include "common/ipc/exchange.h"
#include "common/ipc/link.h"

struct group; // opaque

#define GROUP_EDGES(X) \
    X(STOPPED, STARTING, "group_start") \
    X(STARTING, READY, "every rank says ready") \
    X(STARTING, FAILED, "died before it was ever ready") \
    X(STARTING, WAITING, "died while restarting") \
    X(READY, WAITING, "died") \
    X(WAITING, STARTING, "back-off is over") \
    X(STARTING, STOPPING, "group_stop") \
    X(READY, STOPPING, "group_stop") \
    X(WAITING, STOPPED, "group_stop") \
    X(STOPPING, STOPPED, "the process is gone")

enum group_state { GROUP_STOPPED, GROUP_STARTING, GROUP_READY, GROUP_WAITING, GROUP_STOPPING, GROUP_FAILED };

struct group_callbacks {
    void (*on_ready)(void *owner);
    void (*on_progress)(void *owner, uint32_t permille); // of loading
    void (*on_done)(void *owner);                        // completions may lie in the link: pop until -EAGAIN
    /* The process died; whatever it had pushed is still in the link until this returns. */
    void (*on_lost)(void *owner, const char *reason);
    void (*on_failed)(void *owner, int exit_status, const char *reason); // it cannot start at all
    void (*on_stopped)(void *owner);
};

struct group_conf {
    uv_loop_t *loop;
    const char *instance;
    uint32_t group_idx;
    const char *worker_path, *model_path;
    uint32_t rank_count;
    uint32_t local_count;        // of which on this host
    const char *hosts;           // of several: hosts_print's; "": one. Borrowed until group_new returns
    struct exchange_shape shape; // of several ranks
    uint32_t threads;            // of all ranks
    bool pin_threads, private_weights;
    const char *cpus; // the worker uses no others; "": all. Borrowed until group_new returns
    uint64_t epoch;
    struct plan_limits limits;
    uint64_t stall_ns_max; // a step without a heartbeat for so long: the process is killed; 0: never
    const struct group_callbacks *callbacks;
    void *owner;
};

int group_new(const struct group_conf *conf, struct group **ret_group, struct err *err); // makes the link
int group_start(struct group *group, struct err *err);
void group_stop(struct group *group); // on_stopped follows, always later
/* The process wrote nonsense, and this is which: on_lost follows with it. */
void group_kill(struct group *group, const char *why);
/* The process is to make room for its next life: on_lost follows with why. */
void group_replace(struct group *group, const char *why);
void group_free(struct group *group,
                void (*on_freed)(void *owner)); // STOPPED or FAILED; removes the link's name

enum group_state group_state(const struct group *group);
struct link *group_link(struct group *group);
void group_note(const struct group *group, char *text, size_t text_bytes); // what the worker says of itself
int64_t group_pid(const struct group *group); // of the worker, or of mpirun; 0: none
/* In on_lost: it may have written anywhere before it died. Not where it was killed from outside. */
bool group_is_wild(const struct group *group);
uint64_t group_producer(const struct group *group); // what its kernels' bits are (link.h), once it is ready
uint64_t group_restarts(const struct group *group);
void group_step_begin(struct group *group); // a plan was pushed: the stall watch runs
void group_step_done(struct group *group); // its answer was good: if it dies now, it is started again at once
void group_step_end(struct group *group);  // its answer was not

#endif
