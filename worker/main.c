/* SPDX-License-Identifier: Apache-2.0 */
/* kvasir-worker - one rank of one group: loads the model, then plans in, completions out, until the daemon stops
 * it or dies.
 *
 * Everything it needs is on its command line. It opens its segments by name, keeps no state that a successor
 * would miss, and may be killed at any moment. It does not outlive its daemon: the kernel kills it when the
 * parent dies. (Adoption of workers by a new daemon will want to change that: parent_guard().) Errors go to the
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

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/gguf/facts.h"
#include "common/gguf/file.h"
#include "common/ipc/link.h"
#include "common/shm/owner.h"
#include "common/shm/segment.h"
#include "worker/model.h"
#include "worker/pages.h"
#include "worker/step.h"
#include "worker/store.h"
#include "worker/team.h"

static const uint64_t wait_ns_max = 10 * NS_PER_S; // then a look whether the daemon still lives
static const uint64_t spin_ns = 50 * NS_PER_US;    // about what the daemon takes between two steps

enum { OOM_SCORE = 200 }; // of -1000 to 1000; 0 is what a process has by default

struct worker_conf {
    const char *instance, *model_path;
    uint32_t group, rank, threads;
    bool pin, private_weights;
    int64_t daemon_pid;
};

struct worker {
    struct worker_conf conf;
    struct link *link;
    struct pages *pages;
    struct gguf_file file; // closed again once the model is packed
    struct model_facts facts;
    struct store *store;
    struct model *model;
    struct step *step;
    void *plan; // owned, plan_bytes_max: the private copy
    size_t plan_bytes;
    uint64_t spin_ns; // for the next plan
};

static const char usage[] =
    "usage: kvasir-worker --instance NAME --group N --rank N --model PATH --threads N [--pin]\n"
    "                     [--private-weights] --daemon-pid PID\n"
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
    enum { INSTANCE, GROUP, RANK, MODEL, THREADS, PIN, PRIVATE_WEIGHTS, DAEMON_PID, OPTION_COUNT };
    static const struct option options[] = {
        [INSTANCE] = {"instance", required_argument, NULL, 0},
        [GROUP] = {"group", required_argument, NULL, 0},
        [RANK] = {"rank", required_argument, NULL, 0},
        [MODEL] = {"model", required_argument, NULL, 0},
        [THREADS] = {"threads", required_argument, NULL, 0},
        [PIN] = {"pin", no_argument, NULL, 0},
        [PRIVATE_WEIGHTS] = {"private-weights", no_argument, NULL, 0},
        [DAEMON_PID] = {"daemon-pid", required_argument, NULL, 0},
        [OPTION_COUNT] = {NULL, 0, NULL, 0},
    };
    static const uint64_t maxima[] = {[GROUP] = GROUPS_MAX - 1,
                                      [RANK] = RANKS_MAX - 1,
                                      [THREADS] = TEAM_THREADS_MAX,
                                      [DAEMON_PID] = INT32_MAX};
    uint64_t numbers[OPTION_COUNT] = {0};
    bool given[OPTION_COUNT] = {false};
    int at = 0, r = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, &at)) != -1;) {
        if (c != 0) return ERR(err, ERR_USAGE, "unknown option");
        given[at] = true;
        if (at == INSTANCE) conf->instance = optarg;
        else if (at == MODEL) conf->model_path = optarg;
        else if (options[at].has_arg)
            r = parse_number(options[at].name, optarg, maxima[at], &numbers[at], err);
        if (r < 0) return r;
    }
    for (int i = 0; i < OPTION_COUNT; i++)
        if (options[i].has_arg && !given[i]) return ERR(err, ERR_USAGE, "--%s is missing", options[i].name);
    if (optind < argc) return ERR(err, ERR_USAGE, "unknown argument");
    if (numbers[THREADS] == 0) return ERR(err, ERR_USAGE, "--threads: at least 1");
    conf->group = (uint32_t)numbers[GROUP];
    conf->rank = (uint32_t)numbers[RANK];
    conf->threads = (uint32_t)numbers[THREADS];
    conf->pin = given[PIN];
    conf->private_weights = given[PRIVATE_WEIGHTS];
    conf->daemon_pid = (int64_t)numbers[DAEMON_PID];
    return segment_instance_check(conf->instance, err);
}

/* No orphan: the kernel kills us when the parent's thread that started us ends. The parent may have died before
 * we asked for that, hence the look behind it. */
static int parent_guard(const struct worker_conf *conf, struct err *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return err_sys(err, errno, "prctl");
    if (getppid() != conf->daemon_pid)
        return ERR(err, ERR_PEER_DEAD, "our parent is not process %" PRId64, conf->daemon_pid);
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

static void signals_ignore(void)
{
    // A terminal sends ^C and its hangup to us too; they are meant for the daemon, which then stops us.
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN); // a closed stderr is no reason to die
}

/* Names lead to whatever lies there now: to the next daemon's segments, if ours died just now and the kernel has not
 * come to killing us. A word of ours in its link would be taken for its own worker's. */
static int life_verify(struct worker *worker, struct err *err)
{
    const struct pool_header *header = pages_header(worker->pages);
    if (header->epoch == link_epoch(worker->link) && header->daemon_pid == worker->conf.daemon_pid) return 0;
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
    if (geometry->rank_count != 1)
        return ERR(err, ERR_UNSUPPORTED, "%" PRIu32 " ranks: this build has no tensor parallelism",
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
        .rank_count = pages_header(worker->pages)->geometry.rank_count,
        .private = worker->conf.private_weights,
        .progress = loading,
        .progress_arg = worker,
    };
    int r = model_measure(worker->file.gguf, &worker->facts, NULL, ops, &conf.bytes, &conf.content, err);
    if (r < 0) return r;
    return store_open(&conf, &worker->store, err);
}

static int model_load(struct worker *worker, struct err *err)
{
    const struct pool_geometry *geometry = &pages_header(worker->pages)->geometry;
    const struct plan_limits *limits = link_limits(worker->link);
    int r = gguf_file_open(worker->conf.model_path, &worker->file, err);
    if (r == 0) r = model_facts_read(worker->file.gguf, &worker->facts, err);
    if (r == 0) r = geometry_verify(worker, err);
    if (r < 0) return r;
    struct model_conf conf = {
        .threads = worker->conf.threads,
        .pin_threads = worker->conf.pin,
        .rows_max = limits->tokens_max,
        .logits_max = step_logits_max(limits),
        .position_max = positions_of(worker),
        .cache =
            {
                .base = pages_payload(worker->pages),
                .page_bytes = pages_bytes(worker->pages),
                .page_count = geometry->page_count,
                .page_tokens = geometry->page_tokens,
                .layer_count = geometry->layer_count,
                .head_count_kv = geometry->head_count_kv,
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
    if (r == 0) gguf_file_close(&worker->file); // the weights are packed: the file's pages may go
    return r;
}

static int worker_open(struct worker *worker, struct err *err)
{
    int r = parent_guard(&worker->conf, err);
    if (r < 0) return r;
    r = link_attach(worker->conf.instance, worker->conf.group, worker->conf.rank, &worker->link, err);
    if (r < 0) return r;
    r = pages_open(worker->conf.instance, worker->conf.rank, &worker->pages, err);
    if (r == 0) r = life_verify(worker, err);
    if (r < 0) return r;
    loading(worker, 0); // the first word of ours in the link
    r = model_load(worker, err);
    if (r < 0) return r;
    struct step_conf conf = {
        .limits = link_limits(worker->link),
        .epoch = link_epoch(worker->link),
        .rank = worker->conf.rank,
        .threads = worker->conf.threads,
        .logits_max = step_logits_max(link_limits(worker->link)),
        .model = worker->model,
        .pages = worker->pages,
    };
    r = step_new(&conf, &worker->step, err);
    if (r < 0) return r;
    worker->plan_bytes = plan_bytes_max(conf.limits);
    worker->plan = malloc(worker->plan_bytes);
    if (!worker->plan) return ERR(err, -ENOMEM, "no memory for a plan of %zu bytes", worker->plan_bytes);
    return 0;
}

static void worker_close(struct worker *worker)
{
    free(worker->plan);
    step_free(worker->step);
    model_close(worker->model);
    store_close(worker->store);
    gguf_file_close(&worker->file);
    pages_close(worker->pages);
    link_close(worker->link);
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
    bool has_spare = cpus.count > conf->threads && cpus_quota_milli("") / 1000 > conf->threads;
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
    link_rank_note(worker->link, text);
}

static int serve(struct worker *worker, struct err *err)
{
    const struct pool_header *header = pages_header(worker->pages);
    ready_note(worker);
    link_rank_set(worker->link, RANK_READY, 1000);
    for (;;) {
        size_t len;
        int r = link_plan_wait(worker->link, worker->plan, worker->plan_bytes, worker->spin_ns, wait_ns_max,
                               &len);
        if (r == -ECANCELED) return 0;
        if (r == -ETIMEDOUT && owner_is_alive(header->daemon_pid, header->daemon_start)) continue;
        if (r == -ETIMEDOUT) return ERR(err, ERR_PEER_DEAD, "the daemon is gone");
        if (r < 0) return ERR(err, r, "the plan ring is broken");
        r = serve_one(worker, len, err);
        if (r < 0) return r;
    }
}

int main(int argc, char **argv)
{
    log_init("kvasir-worker", LOG_LEVEL_INFO);
    struct worker worker = {.link = NULL};
    struct err err = {0};
    opterr = 0;
    int r = parse_args(argc, argv, &worker.conf, &err);
    if (r < 0) {
        fprintf(stderr, "kvasir-worker: %s\n%s", err.text, usage);
        return err_exit_status(r);
    }
    signals_ignore();
    oom_score_raise();
    worker.spin_ns = spin_ns_of(&worker.conf); // before the team pins this thread
    r = worker_open(&worker, &err);
    if (r == 0) r = serve(&worker, &err);
    if (r < 0 && worker.link) link_rank_panic(worker.link, err.text);
    else if (r < 0) log_error("%s", err.text);
    worker_close(&worker);
    return err_exit_status(r);
}
