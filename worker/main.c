/* SPDX-License-Identifier: Apache-2.0 */
/* kvasir-worker - one rank of one group: loads the model, then plans in, completions out, until the daemon stops
 * it or dies. Of several ranks rank 0 has the link's rings and hands the plans on; the others compute their shares and
 * answer to it alone. Started with --launch it becomes the mpirun that starts the ranks.
 *
 * Everything it needs is on its command line. It opens its segments by name, keeps no state that a successor
 * would miss, and may be killed at any moment. It does not outlive its daemon: the kernel kills it when the
 * parent dies, be it the daemon, or mpirun, which dies with the daemon in the same way. Errors go to the
 * daemon through the link, which logs them; to stderr only while there is no link. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "config.h"

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/gguf/facts.h"
#include "common/gguf/file.h"
#include "common/gguf/shard.h"
#include "common/ipc/exchange.h"
#include "common/ipc/link.h"
#include "common/shm/owner.h"
#include "common/shm/pool.h"
#include "common/shm/segment.h"
#include "worker/dist.h"
#include "worker/host.h"
#include "worker/mates.h"
#include "worker/model.h"
#include "worker/mpi.h"
#include "worker/pages.h"
#include "worker/party.h"
#include "worker/step.h"
#include "worker/store.h"
#include "worker/team.h"

static const uint64_t wait_ns_max = 10 * NS_PER_S; // then a look whether the daemon still lives
static const uint64_t spin_ns = 50 * NS_PER_US;    // about what the daemon takes between two steps

enum { OOM_SCORE = 200 }; // of -1000 to 1000; 0 is what a process has by default

struct worker_conf {
    const char *cpus; // NULL: all that it may use
    const char *instance, *model_path;
    uint32_t group, rank, rank_count;
    uint32_t threads; // of all ranks, until they are shared out
    bool pin, private_weights, launch;
    const char *session_dir; // of MPI
    const char *hosts;       // "": one
    int64_t daemon_pid, parent_pid;
};

struct worker {
    struct worker_conf conf;
    struct host host;
    struct link *link;
    struct pages *pages;
    struct gguf_file file; // closed again once the model is packed
    struct model_facts facts;
    struct party *party; // NULL: one rank
    struct dist *dist;   // of party
    struct mates *mates; // of dist, once there was a plan
    struct store *store;
    struct model *model;
    struct step *step;
    void *plan; // owned, plan_bytes_max: the private copy
    size_t plan_bytes;
    uint64_t producer;     // of all ranks' bits
    uint64_t spin_ns;      // for the next plan
    uint64_t dist_spin_ns; // for the other ranks
};

static const char usage[] =
    "usage: kvasir-worker --instance NAME --group N --ranks N --model PATH --threads N [--cpus LIST]\n"
    "                     [--pin] [--private-weights] [--launch --session-dir PATH] [--hosts LIST]\n"
    "                     [--parent-pid PID]\n"
    "                     --daemon-pid PID\n"
    "Started by kvasird; not meant to be started by hand.\n";

static int parse_number(const char *name, const char *text, uint64_t max, uint64_t *ret_value,
                        struct err *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > max)
        return ERR(err, ERR_USAGE, "--%s: wanted a number up to %" PRIu64, name, max);
    *ret_value = value;
    return 0;
}

static int parse_args(int argc, char **argv, struct worker_conf *conf, struct err *err)
{
    enum {
        INSTANCE,
        GROUP,
        RANKS,
        MODEL,
        THREADS,
        DAEMON_PID,
        NEEDED_COUNT,
        SESSION_DIR = NEEDED_COUNT,
        PARENT_PID,
        HOSTS,
        CPUS,
        PIN,
        PRIVATE_WEIGHTS,
        LAUNCH,
        OPTION_COUNT
    };
    static const struct option options[] = {
        [INSTANCE] = {"instance", required_argument, NULL, 0},
        [GROUP] = {"group", required_argument, NULL, 0},
        [RANKS] = {"ranks", required_argument, NULL, 0},
        [MODEL] = {"model", required_argument, NULL, 0},
        [THREADS] = {"threads", required_argument, NULL, 0},
        [CPUS] = {"cpus", required_argument, NULL, 0},
        [PIN] = {"pin", no_argument, NULL, 0},
        [PRIVATE_WEIGHTS] = {"private-weights", no_argument, NULL, 0},
        [DAEMON_PID] = {"daemon-pid", required_argument, NULL, 0},
        [SESSION_DIR] = {"session-dir", required_argument, NULL, 0},
        [HOSTS] = {"hosts", required_argument, NULL, 0},
        [PARENT_PID] = {"parent-pid", required_argument, NULL, 0},
        [LAUNCH] = {"launch", no_argument, NULL, 0},
        [OPTION_COUNT] = {NULL, 0, NULL, 0},
    };
    static const uint64_t maxima[] = {[GROUP] = GROUPS_MAX - 1,
                                      [RANKS] = RANKS_MAX,
                                      [THREADS] = TEAM_THREADS_MAX,
                                      [DAEMON_PID] = INT32_MAX,
                                      [PARENT_PID] = INT32_MAX};
    uint64_t numbers[OPTION_COUNT] = {0};
    bool given[OPTION_COUNT] = {false};
    int at = 0, r = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, &at)) != -1;) {
        if (c != 0) return ERR(err, ERR_USAGE, "unknown option");
        given[at] = true;
        if (at == INSTANCE) conf->instance = optarg;
        else if (at == MODEL) conf->model_path = optarg;
        else if (at == SESSION_DIR) conf->session_dir = optarg;
        else if (at == CPUS) conf->cpus = optarg;
        else if (at == HOSTS) conf->hosts = optarg;
        else if (options[at].has_arg)
            r = parse_number(options[at].name, optarg, maxima[at], &numbers[at], err);
        if (r < 0) return r;
    }
    for (int i = 0; i < NEEDED_COUNT; i++)
        if (!given[i]) return ERR(err, ERR_USAGE, "--%s is missing", options[i].name);
    if (optind < argc) return ERR(err, ERR_USAGE, "unknown argument");
    if (numbers[THREADS] == 0) return ERR(err, ERR_USAGE, "--threads: at least 1");
    conf->group = (uint32_t)numbers[GROUP];
    if (numbers[RANKS] == 0) return ERR(err, ERR_USAGE, "--ranks: at least 1");
    if (given[LAUNCH] && !given[SESSION_DIR]) return ERR(err, ERR_USAGE, "--session-dir is missing");
    conf->rank_count = (uint32_t)numbers[RANKS];
    conf->rank = conf->rank_count == 1 ? 0 : RANKS_MAX; // of several: unknown yet
    conf->launch = given[LAUNCH];
    conf->threads = (uint32_t)numbers[THREADS];
    conf->pin = given[PIN];
    conf->private_weights = given[PRIVATE_WEIGHTS];
    conf->daemon_pid = (int64_t)numbers[DAEMON_PID];
    conf->parent_pid = given[PARENT_PID] ? (int64_t)numbers[PARENT_PID] : conf->daemon_pid;
    return segment_instance_check(conf->instance, err);
}

/* No orphan: the kernel kills us when the parent's thread that started us ends. The parent may have died before
 * we asked for that, hence the look behind it. */
static int parent_guard(const struct worker_conf *conf, struct err *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return err_sys(err, errno, "prctl");
    if (!conf->launch && conf->hosts[0]) return 0; // on another host MPI's daemon is: host_place knows
    if (getppid() != conf->parent_pid)
        return ERR(err, ERR_PEER_DEAD, "our parent is not process %" PRId64, conf->parent_pid);
    return 0;
}

/* When memory runs out the kernel is to take us before our daemon, whose score we inherited: it holds every
 * request, we hold nothing that a successor would miss. Raising needs no right; a higher score stays. */
static void oom_score_raise(void)
{
    char text[16] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (fd < 0) return; // no /proc: killed in whatever order
    ssize_t len = read(fd, text, sizeof text - 1);
    if (len > 0 && strtol(text, NULL, 10) < OOM_SCORE) {
        len = snprintf(text, sizeof text, "%d", OOM_SCORE);
        if (pwrite(fd, text, (size_t)len, 0) < 0) log_warn("oom_score_adj stays: %s", strerror(errno));
    }
    (void)close(fd); // the write has told
}

static void signals_ignore(const struct worker_conf *conf)
{
    // A terminal sends ^C and its hangup to us too, a batch system SIGTERM; they are meant for the daemon, which then stops us.
    (void)signal(SIGINT, SIG_IGN);
    if (conf->rank_count == 1) (void)signal(SIGTERM, SIG_IGN); // mpirun's ranks end by it
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN); // a closed stderr is no reason to die
}

/* Names lead to whatever lies there now: to the next daemon's segments, if ours died just now and the kernel has not
 * come to killing us. A word of ours in its link would be taken for its own worker's. */
static int life_verify(struct worker *worker, struct err *err)
{
    const struct pool_header *header = pages_header(worker->pages);
    bool is_ours = worker->host.is_far || header->daemon_pid == worker->conf.daemon_pid;
    if (header->epoch == link_epoch(worker->link) && is_ours) return 0;
    link_close(worker->link);
    worker->link = NULL; // what we have to say goes to stderr
    return ERR(err, ERR_PEER_DEAD, "pool and link are not of the life of process %" PRId64,
               worker->conf.daemon_pid);
}

/* What the pool was made for against what the file says. */
static int geometry_verify(const struct worker *worker, struct err *err)
{
    const struct pool_header *header = pages_header(worker->pages);
    const struct pool_geometry *geometry = &header->geometry;
    const struct plan_limits *limits = link_limits(worker->link);
    const struct model_facts *facts = &worker->facts;
    if (geometry->rank_count != worker->conf.rank_count)
        return ERR(err, ERR_PEER, "%" PRIu32 " ranks, a pool of %" PRIu32, worker->conf.rank_count,
                   geometry->rank_count);
    if (!hash128_equal(gguf_digest(worker->file.gguf), geometry->model_digest))
        return ERR(err, ERR_FORMAT, "%s is not the file that the daemon read", worker->conf.model_path);
    if (geometry->layer_count != facts->layer_count || geometry->head_count_kv != facts->head_count_kv ||
        geometry->head_dims != facts->head_dims || limits->vocab_count != facts->vocab_count)
        return ERR(err, ERR_FORMAT, "the pool's pages are of another shape than the model's");
    if (limits->pool_pages != geometry->page_count || limits->page_tokens != geometry->page_tokens)
        return ERR(err, ERR_PEER, "the link's limits are not the pool's");
    return 0;
}

static void loading(void *arg, uint32_t permille)
{
    struct worker *worker = arg;
    link_rank_beat(worker->link, clock_mono_ns());
    link_rank_set(worker->link, RANK_LOADING, permille <= 1000 ? permille : 1000);
    if (worker->store) store_progress(worker->store, permille);
}

/* Positions that a sequence can reach: what the model was trained for, what the pool holds. */
static uint32_t positions_of(const struct worker *worker)
{
    const struct pool_geometry *geometry = &pages_header(worker->pages)->geometry;
    uint64_t positions = (uint64_t)geometry->page_count * geometry->page_tokens;
    if (positions > worker->facts.context_length) positions = worker->facts.context_length;
    return positions < MODEL_CONTEXT_MAX ? (uint32_t)positions : MODEL_CONTEXT_MAX;
}

/* Memory for the packed weights, filled already where another worker packed the same. */
static int store_make(struct worker *worker, const struct kern_ops *ops, struct err *err)
{
    struct store_conf conf = {
        .file = &worker->file,
        .level = ops->name,
        .rank = worker->conf.rank,
        .rank_count = worker->conf.rank_count,
        .private = worker->conf.private_weights,
        .progress = loading,
        .progress_arg = worker,
    };
    struct shard shard;
    int r = shard_make(&worker->facts, worker->conf.rank_count, worker->conf.rank, &shard, err);
    if (r == 0)
        r = model_measure(worker->file.gguf, &worker->facts, &shard, ops, &conf.bytes, &conf.content, err);
    if (r < 0) return r;
    return store_open(&conf, &worker->store, err);
}

/* All ranks are of one build, and on one host have one model. Before anything of another rank is believed. */
static int kind_agree(uint64_t model, struct err *err)
{
    const uint64_t kind[] = {charter_build(), model};
    return mpi_agree(hash64(kind, sizeof kind), err);
}

/* Where the ranks compute together: nothing for one rank. The model's facts are known. */
static int dist_attach(struct worker *worker, struct err *err)
{
    const struct worker_conf *conf = &worker->conf;
    if (conf->rank_count == 1) return 0;
    int r = host_is_spread(&worker->host) ? 0 : kind_agree(gguf_digest(worker->file.gguf).low, err);
    if (r < 0) return r;
    const struct party_conf party = {
        .host = &worker->host,
        .instance = conf->instance,
        .group = conf->group,
        .rank = conf->rank,
        .rank_count = conf->rank_count,
        .epoch = link_epoch(worker->link),
        .limits = link_limits(worker->link),
        .facts = &worker->facts,
        .spin_ns_max = worker->dist_spin_ns,
    };
    r = party_join(&party, &worker->party, err);
    worker->dist = party_dist(worker->party);
    return r;
}

static int model_read(struct worker *worker, struct err *err)
{
    int r = gguf_file_open(worker->conf.model_path, &worker->file, err);
    return r == 0 ? model_facts_read(worker->file.gguf, &worker->facts, err) : r;
}

static int model_load(struct worker *worker, struct err *err)
{
    const struct pool_geometry *geometry = &pages_header(worker->pages)->geometry;
    const struct plan_limits *limits = link_limits(worker->link);
    uint32_t head_first, head_count;
    int r = geometry_verify(worker, err);
    if (r == 0) r = dist_attach(worker, err);
    if (r < 0) return r;
    pool_rank_heads(geometry->head_count_kv, geometry->rank_count, worker->conf.rank, &head_first,
                    &head_count);
    struct model_conf conf = {
        .threads = worker->conf.threads,
        .pin_threads = worker->conf.pin,
        .rows_max = limits->tokens_max,
        .logits_max = exchange_logits_max(limits),
        .dist = worker->dist,
        .position_max = positions_of(worker),
        .cache =
            {
                .base = pages_payload(worker->pages),
                .page_bytes = pages_bytes(worker->pages),
                .page_count = geometry->page_count,
                .page_tokens = geometry->page_tokens,
                .layer_count = geometry->layer_count,
                .head_count_kv = head_count,
                .head_dims = geometry->head_dims,
                .kv_type = geometry->kv_type,
            },
        .progress = loading,
        .progress_arg = worker,
    };
    r = kern_select(getenv("KVASIR_KERNELS"), &conf.ops, err);
    if (r == 0) r = store_make(worker, conf.ops, err);
    if (r < 0) return r;
    conf.store = store_memory(worker->store);
    r = model_open(worker->file.gguf, &worker->facts, &conf, &worker->model, err);
    if (r == 0) r = gguf_file_unchanged(&worker->file, worker->conf.model_path, err);
    if (r == 0) r = store_publish(worker->store, err);
    if (r == 0 && worker->dist) dist_weights_tell(worker->dist, store_key(worker->store));
    if (r == 0) gguf_file_close(&worker->file); // the weights are packed: the file's pages may go
    return r;
}

/* Which rank we are, and our share of threads and, if they are pinned, of CPUs: the ranks of a host share out what one
 * worker would have, in the order of its CPUs, so that neighbours are near. */
static int rank_join(struct worker *worker, struct err *err)
{
    struct worker_conf *conf = &worker->conf;
    int r = mpi_join(conf->rank_count, &conf->rank, err);
    if (r == 0 && conf->hosts[0]) r = kind_agree(0, err);
    if (r == 0)
        r = host_place(conf->hosts, conf->rank, conf->rank_count, conf->parent_pid, &worker->host, err);
    if (r < 0) return r;
    const uint32_t all = conf->threads, count = worker->host.rank_count,
                   local = conf->rank - worker->host.rank_first;
    uint32_t first = all * local / count, next = all * (local + 1) / count; // both small
    conf->threads = next > first ? next - first : 1;
    worker->dist_spin_ns = dist_spin_ns(1, all > count ? all : count);
    struct cpus cpus;
    cpus_allowed(&cpus);
    if (!conf->pin || cpus.count < count) return 0;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t i = cpus.count * local / count; i < cpus.count * (local + 1) / count; i++)
        CPU_SET(cpus.ids[i], &set);
    return sched_setaffinity(0, sizeof set, &set) < 0 ? err_sys(err, errno, "sched_setaffinity") : 0;
}

/* What the daemon, or the agent of a further host, made for this life. */
static int home_open(struct worker *worker, struct err *err)
{
    const struct worker_conf *conf = &worker->conf;
    const struct charter *charter = &worker->host.charter;
    int r = link_attach(conf->instance, conf->group, conf->rank, &worker->link, err);
    if (r < 0) return r;
    if (worker->host.is_far)
        r = pages_open_far(conf->instance, conf->rank, &charter->geometry, charter->epoch, &worker->pages,
                           err);
    else r = pages_open(conf->instance, conf->rank, &worker->pages, err);
    return r == 0 ? life_verify(worker, err) : r;
}

static int home_attach(struct worker *worker, struct err *err)
{
    int r = home_open(worker, err);
    if (r == 0) loading(worker, 0); // the first word of ours in the link
    return r;
}

/* With several hosts: what rank 0 found at home goes to all, and by leaders to the agents, before others attach. */
static int hosts_meet(struct worker *worker, int r, struct err *err)
{
    struct charter charter = {.build = charter_build(), .group = worker->conf.group};
    (void)snprintf(charter.instance, sizeof charter.instance, "%s", worker->conf.instance); // verified: fits
    if (r == 0 && worker->conf.rank == 0) {
        charter.epoch = link_epoch(worker->link);
        charter.geometry = pages_header(worker->pages)->geometry;
        charter.limits = *link_limits(worker->link);
    }
    worker->host.dims.embedding_dims = worker->facts.embedding_dims;
    worker->host.dims.attention_dims = worker->facts.head_count * worker->facts.head_dims;
    worker->host.dims.feed_forward_dims = worker->facts.feed_forward_dims;
    return host_charter(&worker->host, r, &charter, err);
}

static int step_make(struct worker *worker, struct err *err)
{
    struct step_conf conf = {
        .limits = link_limits(worker->link),
        .epoch = link_epoch(worker->link),
        .rank = worker->conf.rank,
        .threads = worker->conf.threads,
        .logits_max = exchange_logits_max(link_limits(worker->link)),
        .model = worker->model,
        .pages = worker->pages,
        .dist = worker->dist,
    };
    int r = step_new(&conf, &worker->step, err);
    if (r < 0) return r;
    worker->plan_bytes = plan_bytes_max(conf.limits);
    worker->plan = malloc(worker->plan_bytes);
    if (!worker->plan) return ERR(err, -ENOMEM, "no memory for a plan of %zu bytes", worker->plan_bytes);
    return 0;
}

static int worker_open(struct worker *worker, struct err *err)
{
    const bool is_spread = worker->conf.hosts[0] != '\0';
    worker->host = (struct host){.rank_count = 1, .agent_fd = -1};
    int r = parent_guard(&worker->conf, err);
    if (r == 0 && worker->conf.rank_count > 1) r = rank_join(worker, err);
    if (r < 0) return r;
    r = model_read(worker, err);
    if (r == 0 && !worker->host.is_far) r = home_attach(worker, err);
    if (is_spread) r = hosts_meet(worker, r, err);
    if (r == 0 && worker->host.is_far) r = home_attach(worker, err);
    if (r < 0 && (!is_spread || worker->host.is_told)) return r;
    if (r == 0) r = model_load(worker, err);
    if (r == 0) r = step_make(worker, err);
    worker->producer = r == 0 ? model_producer(worker->model) : 0;
    return is_spread ? host_meet(&worker->host, r, worker->producer, &worker->producer, err) : r;
}

static void worker_close(struct worker *worker)
{
    free(worker->plan);
    step_free(worker->step);
    model_close(worker->model);
    mates_detach(worker->mates);
    party_leave(worker->party);
    store_close(worker->store);
    gguf_file_close(&worker->file);
    pages_close(worker->pages);
    link_close(worker->link);
}

/* The ranks can no longer meet. What they were at is not refused: it is the next life's. */
static int party_broken(const struct worker *worker, struct err *err)
{
    const char *reason = party_reason(worker->party);
    return ERR(err, dist_failed(worker->dist), "the ranks of the group do not meet%s%s",
               reason[0] ? ": " : "", reason);
}

/* Before the first plan is run: it came behind a barrier of all ranks. */
static int mates_meet(struct worker *worker, struct err *err)
{
    if (!worker->dist || worker->mates) return 0;
    return mates_attach(worker->dist, worker->model, &worker->mates, err);
}

/* One plan. A refused one is answered and noted; what to do about it is the daemon's to decide. */
static int serve_one(struct worker *worker, size_t len, struct err *err)
{
    size_t slot_bytes, bytes;
    void *slot = link_done_slot(worker->link, &slot_bytes);
    if (!slot) return ERR(err, ERR_PEER, "the completion ring is broken");
    struct err reason = {0};
    link_rank_beat(worker->link, clock_mono_ns());
    if (step_run(worker->step, worker->plan, len, slot, slot_bytes, &bytes, &reason) < 0) {
        if (dist_failed(worker->dist) < 0) return party_broken(worker, err);
        log_warn("step refused: %s", reason.text);
        link_rank_note(worker->link, reason.text);
    }
    link_rank_beat(worker->link, clock_mono_ns());
    link_done_push(worker->link, bytes);
    return 0;
}

/* Spinning for the next plan pays where a core is left for the daemon meanwhile. */
static uint64_t spin_ns_of(const struct worker_conf *conf)
{
    struct cpus cpus;
    cpus_allowed(&cpus);
    uint32_t busy = conf->threads > conf->rank_count ? conf->threads : conf->rank_count;
    bool has_spare = cpus.count > busy && cpus_quota_milli("") / 1000 > busy;
    return has_spare ? spin_ns : 0;
}

/* "Name:   1234 kB" of /proc/self/status in MiB; 0 where there is none. */
static uint64_t status_mib(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) >> 10 : 0;
}

/* Where the weights are and what we take besides, for the daemon's log. */
static void ready_note(struct worker *worker)
{
    char text[512], status[4096] = "";
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, status, sizeof status - 1) < 0) status[0] = '\0'; // then it says 0 MiB
        (void)close(fd);                                               // opened for reading
    }
    store_describe(worker->store, text, sizeof text);
    size_t len = strlen(text);
    (void)snprintf(text + len, sizeof text - len,
                   "; %" PRIu64 " MiB private, %" PRIu64 " MiB shared resident",
                   status_mib(status, "RssAnon:"), status_mib(status, "RssShmem:")); // may be cut
    link_rank_weights(worker->link, store_key(worker->store));
    link_rank_producer(worker->link, worker->producer);
    link_rank_note(worker->link, text);
}

/* A rank that is not 0. A plan without a byte is the end. */
static int follow(struct worker *worker, struct err *err)
{
    for (;;) {
        size_t len, bytes;
        struct err reason = {0};
        int r = dist_receive(worker->dist, worker->spin_ns, worker->plan, worker->plan_bytes, &len);
        if (dist_failed(worker->dist) < 0) return party_broken(worker, err);
        if (r < 0) return ERR(err, r, "no plan from rank 0");
        if (len == 0) return 0;
        r = mates_meet(worker, err);
        if (r < 0) return r;
        link_rank_beat(worker->link, clock_mono_ns());
        if (step_run(worker->step, worker->plan, len, NULL, 0, &bytes, &reason) < 0)
            link_rank_note(worker->link, reason.text); // rank 0 answers, and warns
        link_rank_beat(worker->link, clock_mono_ns());
    }
}

static int serve(struct worker *worker, struct err *err)
{
    const struct pool_header *header = pages_header(worker->pages);
    ready_note(worker);
    for (uint32_t i = worker->host.rank_count; worker->conf.rank == 0 && i < worker->conf.rank_count; i++)
        link_rank_relay(worker->link, i); // those of other hosts
    link_rank_set(worker->link, RANK_READY, 1000);
    if (worker->conf.rank > 0) return follow(worker, err);
    for (;;) {
        size_t len;
        int r = link_plan_wait(worker->link, worker->plan, worker->plan_bytes, worker->spin_ns, wait_ns_max,
                               &len);
        if (r == -ECANCELED) return worker->dist ? dist_share(worker->dist, NULL, 0) : 0;
        if (r == -ETIMEDOUT && owner_is_alive(header->daemon_pid, header->daemon_start)) continue;
        if (r == -ETIMEDOUT) return ERR(err, ERR_PEER_DEAD, "the daemon is gone");
        if (r < 0) return ERR(err, r, "the plan ring is broken");
        if (worker->dist) r = dist_share(worker->dist, worker->plan, len);
        if (r < 0) return party_broken(worker, err);
        r = mates_meet(worker, err);
        if (r == 0) r = serve_one(worker, len, err);
        if (r < 0) return r;
    }
}

/* Returns only if it fails: says why as rank 0 would. */
static int launch(struct worker *worker, char **argv)
{
    const struct worker_conf *conf = &worker->conf;
    struct err err = {0};
    int r = parent_guard(conf, &err);
    uint32_t kept = 0;
    for (uint32_t i = 0; argv[i]; i++)
        if (strcmp(argv[i], "--launch") != 0) argv[kept++] = argv[i];
    argv[kept] = NULL;
    if (r == 0) r = party_verify(&err);
    if (r == 0) r = mpi_launch(conf->rank_count, conf->hosts, conf->session_dir, argv, &err);
    if (link_attach(conf->instance, conf->group, 0, &worker->link, NULL) == 0)
        link_rank_panic(worker->link, err.text);
    else log_error("%s", err.text);
    link_close(worker->link);
    return r;
}

/* To the daemon through the link, or the agent through its own; of what all ranks know rank 0 speaks. Who failed before
 * there was a link opens it now; who left one that is another life's has the pages still, and keeps off. */
static void failure_tell(struct worker *worker, int r, const struct err *err)
{
    const struct worker_conf *conf = &worker->conf;
    if (r < 0 && !worker->link && !worker->pages && conf->rank == 0)
        (void)home_open(worker, NULL); // else there is the log
    if (r < 0 && worker->link) link_rank_panic(worker->link, err->text);
    else if (r < 0 && !worker->host.is_told) log_error("%s", err->text);
}

int main(int argc, char **argv)
{
    log_init("kvasir-worker", LOG_LEVEL_INFO);
    struct worker worker = {.conf = {.hosts = ""}};
    struct err err = {0};
    opterr = 0;
    int r = parse_args(argc, argv, &worker.conf, &err);
    if (r < 0) {
        fprintf(stderr, "kvasir-worker: %s\n%s", err.text, usage);
        return err_exit_status(r);
    }
    signals_ignore(&worker.conf);
    oom_score_raise();
    if (worker.conf.cpus) r = cpus_restrict(worker.conf.cpus, &err); // first: memory comes from their node
    worker.spin_ns = spin_ns_of(&worker.conf);                       // before the team pins this thread
    if (r == 0 && worker.conf.launch) return err_exit_status(launch(&worker, argv));
    if (r == 0) r = worker_open(&worker, &err);
    if (r == 0) r = serve(&worker, &err);
    failure_tell(&worker, r, &err);
    worker_close(&worker);
    if (r == 0 || worker.host.is_told) mpi_leave(); // all ranks do
    return err_exit_status(r);
}
