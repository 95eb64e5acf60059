/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_fsck - see cmd_fsck.h. Report on stdout, errors on stderr. A repair is only ever of a dead pool, under the
 * instance's lock, and drops pages: a daemon that adopts the pool would do the same and compute them anew. */
#include "client/cmd_fsck.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "client/fsck_weights.h"
#include "common/base/buf.h"
#include "common/base/limits.h"
#include "common/shm/audit.h"
#include "common/shm/repair.h"
#include "common/shm/segment.h"

enum { EXIT_CLEAN = 0, EXIT_FAULTS = 1, EXIT_USAGE = 64, EXIT_NO_POOL = 69, EXIT_OS = 71 };

static const char usage[] =
    "usage: kvasir fsck [--instance NAME] [--json] [--no-payload] [--repair]\n"
    "Audits the page pool of an instance (default: default) and all packed weights,\n"
    "without touching them.\n"
    "  --repair      drop what is faulty from a pool that no daemon serves from, then\n"
    "                audit what is left\n"
    "  --json        one JSON object instead of a report\n"
    "  --no-payload  do not recompute checksums of pages and weights\n"
    "Exit status: 0 clean, 1 faults, 69 no such pool.\n";

struct fsck {
    const char *instance;
    unsigned flags; // enum audit_flags
    bool json, repair;
    struct fsck_weights weights;
};

static const char *kv_type_name(uint32_t kv_type)
{
    static const char *const names[] = {"f16", "bf16", "q8", "q4"};
    return kv_type < sizeof names / sizeof *names ? names[kv_type] : "?";
}

static void print_text(const struct fsck *fsck, const struct audit_report *report)
{
    const struct pool_geometry *g = &report->geometry;
    printf("pool     %s, %s", fsck->instance, report->header_valid ? "header valid" : "header unusable");
    if (report->header_valid && report->daemon_pid == 0) printf(", kept by a daemon that ended");
    else if (report->header_valid)
        printf(", owner process %" PRId64 " %s", report->daemon_pid, report->owner_alive ? "alive" : "dead");
    printf("\n");
    if (report->header_valid) {
        printf("shape    %u pages of %u tokens, %u layers x %u KV heads x %u dims, %s, %u rank%s\n",
               g->page_count, g->page_tokens, g->layer_count, g->head_count_kv, g->head_dims,
               kv_type_name(g->kv_type), g->rank_count, g->rank_count == 1 ? "" : "s");
        printf("model    %016" PRIx64 "%016" PRIx64 "\n", g->model_digest.high, g->model_digest.low);
    }
    printf("memory   meta %.1f MiB, payload %.1f MiB, %u links %.1f MiB, %u weights %.1f MiB\n",
           (double)report->meta_bytes / (double)MIB(1), (double)report->payload_bytes / (double)MIB(1),
           report->link_count, (double)report->link_bytes / (double)MIB(1), fsck->weights.count,
           (double)fsck->weights.bytes / (double)MIB(1));
    if (report->header_valid) {
        printf("pages    %u free, %u filling, %u sealed (%u in use, %u roots), %u changing\n",
               report->free_count, report->filling_count, report->sealed_count, report->pinned_count,
               report->root_count, report->changed_count);
        printf("checked  %u key chains, %" PRIu64 " payload checksums\n", report->chain_count,
               report->sum_count);
    }
    fsck_weights_print(&fsck->weights);
    printf("faults   %u\n", report->fault_count + fsck->weights.fault_count);
    for (uint32_t i = 0; i < report->fault_count && i < AUDIT_FAULTS_MAX; i++)
        printf("  %s\n", report->faults[i]);
    if (report->fault_count > AUDIT_FAULTS_MAX)
        printf("  ... and %u more\n", report->fault_count - AUDIT_FAULTS_MAX);
}

static int print_json(const struct fsck *fsck, const struct audit_report *report)
{
    const struct pool_geometry *g = &report->geometry;
    struct buf out;
    buf_init(&out, KIB(64));
    (void)buf_printf(&out, "{\"instance\":\"%s\",\"header_valid\":%s,\"owner_pid\":%" PRId64, fsck->instance,
                     report->header_valid ? "true" : "false", report->daemon_pid); // buf.error is sticky
    (void)buf_printf(&out, ",\"owner_alive\":%s,\"epoch\":%" PRIu64, report->owner_alive ? "true" : "false",
                     report->epoch);
    (void)buf_printf(&out,
                     ",\"pages\":%u,\"page_tokens\":%u,\"page_bytes\":%" PRIu64
                     ",\"layers\":%u,\"kv_heads\":%u,\"head_dims\":%u,\"kv_type\":\"%s\",\"ranks\":%u",
                     g->page_count, g->page_tokens, g->page_bytes, g->layer_count, g->head_count_kv,
                     g->head_dims, kv_type_name(g->kv_type), g->rank_count);
    (void)buf_printf(&out, ",\"model_digest\":\"%016" PRIx64 "%016" PRIx64 "\"", g->model_digest.high,
                     g->model_digest.low);
    (void)buf_printf(&out,
                     ",\"meta_bytes\":%" PRIu64 ",\"payload_bytes\":%" PRIu64
                     ",\"links\":%u,\"link_bytes\":%" PRIu64 ",\"weights\":%u,\"weight_bytes\":%" PRIu64,
                     report->meta_bytes, report->payload_bytes, report->link_count, report->link_bytes,
                     fsck->weights.count, fsck->weights.bytes);
    (void)buf_puts(&out, ",\"weight_segments\":");
    fsck_weights_json(&fsck->weights, &out);
    (void)buf_printf(&out,
                     ",\"free\":%u,\"filling\":%u,\"sealed\":%u,\"pinned\":%u,\"roots\":%u,\"changing\":%u",
                     report->free_count, report->filling_count, report->sealed_count, report->pinned_count,
                     report->root_count, report->changed_count);
    (void)buf_printf(&out,
                     ",\"chains_checked\":%u,\"sums_checked\":%" PRIu64 ",\"fault_count\":%u,\"faults\":[",
                     report->chain_count, report->sum_count, report->fault_count + fsck->weights.fault_count);
    uint32_t told = 0;
    for (uint32_t i = 0; i < report->fault_count && i < AUDIT_FAULTS_MAX; i++) {
        if (told++ > 0) (void)buf_putc(&out, ',');
        (void)buf_put_json_string(&out, report->faults[i], strlen(report->faults[i]));
    }
    for (uint32_t i = 0; i < fsck->weights.count; i++) {
        const char *fault = fsck->weights.entries[i].fault;
        if (fault[0] && told++ > 0) (void)buf_putc(&out, ',');
        if (fault[0]) (void)buf_put_json_string(&out, fault, strlen(fault));
    }
    (void)buf_puts(&out, "]}\n");
    int r = out.error;
    if (r == 0) (void)fputs(buf_text(&out), stdout); // the flush below tells
    buf_done(&out);
    return r;
}

/* 0 to go on, else 1 + exit status. */
static int parse_args(int argc, char **argv, struct fsck *fsck)
{
    static const struct option options[] = {
        {"instance", required_argument, NULL, 'i'}, {"json", no_argument, NULL, 'j'},
        {"no-payload", no_argument, NULL, 'n'},     {"repair", no_argument, NULL, 'r'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0},
    };
    *fsck = (struct fsck){.instance = "default", .flags = AUDIT_PAYLOAD};
    optind = 0; // a command of the kvasir program: start over
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'i': fsck->instance = optarg; break;
        case 'j': fsck->json = true; break;
        case 'n': fsck->flags &= ~(unsigned)AUDIT_PAYLOAD; break;
        case 'r': fsck->repair = true; break;
        case 'h': (void)fputs(usage, stdout); return 1 + EXIT_CLEAN;
        default: (void)fputs(usage, stderr); return 1 + EXIT_USAGE;
        }
    }
    if (optind < argc) {
        (void)fputs(usage, stderr);
        return 1 + EXIT_USAGE;
    }
    return 0;
}

/* Faults first, so that it is known why pages go. 0, or an exit status after a line on stderr. */
static int repair(const struct fsck *fsck)
{
    static struct audit_report report;
    struct pool_repair done = {0};
    struct err err = {0};
    int lock_fd;
    int r = segment_lock(fsck->instance, &lock_fd, &err);
    if (r == 0) {
        r = audit_pool(fsck->instance, AUDIT_PAYLOAD, &report, &err);
        for (uint32_t i = 0; r == 0 && i < report.fault_count && i < AUDIT_FAULTS_MAX; i++)
            fprintf(stderr, "kvasir fsck: %s\n", report.faults[i]);
        if (r == 0) r = pool_repair(fsck->instance, &done, &err);
        segment_unlock(fsck->instance, lock_fd);
    }
    if (r == -ENOENT) return 0; // the audit says so
    if (r < 0) {
        fprintf(stderr, "kvasir fsck: not repaired: %s\n", err.text);
        return err_exit_status(r);
    }
    fprintf(stderr,
            "kvasir fsck: %u of %u cached pages kept; dropped: %u with bad payload, %u that were faulty or "
            "hung on such, "
            "%u unfinished\n",
            done.kept_count, done.sealed_count, done.corrupt_count,
            done.sealed_count - done.kept_count - done.corrupt_count, done.filling_count);
    return 0;
}

int cmd_fsck(int argc, char **argv)
{
    static struct fsck fsck; // the list of weights is too long for a stack
    int r = parse_args(argc, argv, &fsck);
    if (r > 0) return r - 1;
    struct audit_report report;
    struct err err = {0};
    if (fsck.repair && (r = repair(&fsck)) != 0) return r;
    r = fsck_weights_read(fsck.flags & AUDIT_PAYLOAD, &fsck.weights);
    if (r < 0) fprintf(stderr, "kvasir fsck: cannot list the weights: %s\n", err_name(r));
    r = audit_pool(fsck.instance, fsck.flags, &report, &err);
    if (r == -ENOENT) {
        if (!fsck.json) fsck_weights_print(&fsck.weights);
        fprintf(stderr, "kvasir fsck: instance %s has no pool\n", fsck.instance);
        return fsck.weights.fault_count > 0 ? EXIT_FAULTS : EXIT_NO_POOL;
    }
    if (r < 0) {
        fprintf(stderr, "kvasir fsck: %s\n", err.text);
        return err_exit_status(r);
    }
    r = 0;
    if (fsck.json) r = print_json(&fsck, &report);
    else print_text(&fsck, &report);
    if (r < 0 || fflush(stdout) != 0) {
        fprintf(stderr, "kvasir fsck: cannot write the report\n");
        return EXIT_OS;
    }
    return report.fault_count + fsck.weights.fault_count > 0 ? EXIT_FAULTS : EXIT_CLEAN;
}
