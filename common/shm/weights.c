/* SPDX-License-Identifier: Apache-2.0 */
/* See weights.h. */
#include "common/shm/weights.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/shm/shm_file.h"

#define WEIGHTS_MAGIC UINT64_C(0x315448475756534B) // "KSVWGHT1", little-endian

static char name_prefix[32] = "kvasir-weights."; // weights_prefix_set

enum {
    HEADER_BYTES = 4096,
    TRIES_MAX = 100,           // each lost try is another process's removal of the name
    WAIT_NS = 2 * NS_PER_MS,   // between looks at another's building
    SUM_PART_BYTES = 64 << 20, // hashed at once
};

enum weights_lock { LOCK_USERS = 0, LOCK_BUILD = 1 }; // byte of the file that stands for it

struct weights_header {
    _Atomic uint64_t magic; // rule W2
    uint32_t layout_version;
    uint32_t header_bytes;
    uint64_t layout_sum;
    uint64_t bytes; // of packed weights, from header_bytes on
    struct hash128 key, model_digest;
    uint64_t sum; // of the packed weights
    int64_t builder_pid;
    uint32_t rank;
    char level[WEIGHTS_LEVEL_BYTES];                     // NUL-terminated
    _Alignas(CACHELINE_BYTES) _Atomic uint32_t permille; // of filling
    uint8_t pad[CACHELINE_BYTES - sizeof(uint32_t)];
};
static_assert(sizeof(struct weights_header) == 3 * CACHELINE_BYTES, "weights layout v1");

struct weights {
    char name[WEIGHTS_NAME_BYTES];
    int fd; // holds USERS, and BUILD while we fill
    struct weights_header *header;
    size_t bytes; // mapped
    bool filled;
};

static uint64_t layout_sum(void)
{
    const uint64_t facts[] = {
        WEIGHTS_LAYOUT_VERSION,
        HEADER_BYTES,
        sizeof(struct weights_header),
        offsetof(struct weights_header, bytes),
        offsetof(struct weights_header, key),
        offsetof(struct weights_header, sum),
        offsetof(struct weights_header, rank),
        offsetof(struct weights_header, permille),
    };
    return hash64(facts, sizeof facts);
}

static void make_name(struct hash128 key, uint32_t rank, char name[static WEIGHTS_NAME_BYTES])
{
    int len = snprintf(name, WEIGHTS_NAME_BYTES, "/%s%016" PRIx64 "%016" PRIx64 ".%" PRIu32, name_prefix,
                       key.high, key.low, rank);
    CHECK(len > 0 && len < WEIGHTS_NAME_BYTES);
}

/* ---- locks ---- */

static struct flock lock_of(enum weights_lock lock, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = lock, .l_len = 1};
}

/* type: F_RDLCK, F_WRLCK or F_UNLCK. 0; -EAGAIN when another holds what excludes it; -errno. */
static int lock_try(int fd, enum weights_lock lock, short type)
{
    struct flock flock = lock_of(lock, type);
    if (fcntl(fd, F_OFD_SETLK, &flock) == 0) return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

static int lock_wait(int fd, enum weights_lock lock, short type)
{
    struct flock flock = lock_of(lock, type);
    int r;
    while ((r = fcntl(fd, F_OFD_SETLKW, &flock)) < 0 && errno == EINTR) continue;
    return r < 0 ? -errno : 0;
}

/* Whether somebody else holds it in any way. */
static bool lock_is_held(int fd, enum weights_lock lock)
{
    struct flock flock = lock_of(lock, F_WRLCK);
    return fcntl(fd, F_OFD_GETLK, &flock) == 0 && flock.l_type != F_UNLCK;
}

/* ---- a descriptor by rule W1 ---- */

static int open_once(const char *name, int flags, bool *ret_good, int *ret_fd, struct err *err)
{
    int fd = shm_open(name, flags | O_CLOEXEC, 0600);
    if (fd < 0) return err_sys(err, errno, "%s: cannot open", name);
    int r = shm_file_owner_verify(fd, true, name, err);
    if (r == 0 && (r = lock_wait(fd, LOCK_USERS, F_RDLCK)) < 0) // who removes it does so in a moment
        err_sys(err, -r, "%s: cannot lock", name);
    if (r < 0) {
        (void)close(fd); // nothing was written
        return r;
    }
    *ret_good = shm_file_has_name(fd, name);
    *ret_fd = fd;
    return 0;
}

/* flags: O_RDWR, or with O_CREAT. */
static int open_used(const char *name, int flags, int *ret_fd, struct err *err)
{
    bool good = false;
    int fd = -1;
    for (int i = 0; i < TRIES_MAX; i++) {
        int r = open_once(name, flags, &good, &fd, err);
        if (r < 0) return r;
        if (good) {
            *ret_fd = fd;
            return 0;
        }
        (void)close(fd); // a file without a name
    }
    return ERR(err, ERR_BUSY, "%s changes hands all the time", name);
}

/* Rule W4. */
static void leave(int fd, const char *name)
{
    (void)lock_try(fd, LOCK_USERS, F_UNLCK); // ours: cannot fail
    if (lock_try(fd, LOCK_USERS, F_WRLCK) == 0 && shm_file_has_name(fd, name)) (void)shm_unlink(name);
    (void)close(fd); // releases all locks; a close of shared memory has nothing to flush
}

/* ---- the header of another process ---- */

/* A copy by read(2): a half-made segment may have no pages to map. False when there is no whole header. */
static bool header_read(int fd, struct weights_header *ret_header)
{
    return pread(fd, ret_header, sizeof *ret_header, 0) == (ssize_t)sizeof *ret_header;
}

static uint64_t magic_of(const struct weights_header *copy)
{
    return atomic_load_explicit(&copy->magic, memory_order_relaxed); // a private copy
}

/* Whether a copy with magic is of our layout and of the file it lies in. */
static bool header_fits(const struct weights_header *copy, int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && copy->layout_version == WEIGHTS_LAYOUT_VERSION &&
           copy->header_bytes == HEADER_BYTES && copy->layout_sum == layout_sum() &&
           copy->bytes <= (uint64_t)INT64_MAX - HEADER_BYTES &&
           (uint64_t)st.st_size == copy->bytes + HEADER_BYTES && copy->rank < RANKS_MAX &&
           memchr(copy->level, '\0', sizeof copy->level) != NULL;
}

static bool is_wanted(const struct weights_header *copy, int fd, const struct weights_conf *conf)
{
    return header_fits(copy, fd) && copy->bytes == conf->bytes && copy->rank == conf->rank &&
           hash128_equal(copy->key, conf->key);
}

static uint64_t sum_of(const uint8_t *bytes, uint64_t count)
{
    uint64_t sums[2] = {0};
    for (uint64_t at = 0; at < count; at += SUM_PART_BYTES) {
        uint64_t part = count - at < SUM_PART_BYTES ? count - at : SUM_PART_BYTES;
        sums[1] = hash64(bytes + at, part);
        sums[0] = hash64(sums, sizeof sums);
    }
    return sums[0];
}

/* ---- opening ---- */

/* Maps a published segment from a descriptor that cannot write, so that no mistake can make the mapping
 * writable later. */
static int adopt(struct weights *weights, const struct weights_conf *conf, struct err *err)
{
    size_t bytes = HEADER_BYTES + conf->bytes;
    void *base;
    int fd = shm_open(weights->name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return err_sys(err, errno, "%s: cannot open", weights->name);
    struct stat ours, again;
    bool same = fstat(weights->fd, &ours) == 0 && fstat(fd, &again) == 0 && ours.st_ino == again.st_ino &&
                ours.st_dev == again.st_dev;
    int r = same ? shm_file_map(fd, bytes, PROT_READ, weights->name, &base, err)
                 : ERR(err, ERR_BUSY, "%s was removed by hand", weights->name);
    (void)close(fd); // the mapping holds the memory
    if (r < 0) return r;
    weights->header = base;
    weights->bytes = bytes;
    // Acquire: partner is the release store in weights_publish. The copy was read before; now it counts.
    uint64_t magic = atomic_load_explicit(&weights->header->magic, memory_order_acquire);
    CHECK(magic == WEIGHTS_MAGIC); // rule W3
    weights->filled = true;
    return 0;
}

/* We hold BUILD, and there is no magic: rule W2. */
static int build_begin(struct weights *weights, const struct weights_conf *conf, struct err *err)
{
    void *base;
    size_t bytes = HEADER_BYTES + conf->bytes;
    if (ftruncate(weights->fd, 0) < 0) return err_sys(err, errno, "%s: cannot empty", weights->name);
    int r = shm_file_reserve(weights->fd, bytes, SHM_FILE_HUGE, weights->name, err);
    if (r == 0) r = shm_file_map(weights->fd, bytes, PROT_READ | PROT_WRITE, weights->name, &base, err);
    if (r < 0) {
        (void)ftruncate(weights->fd, 0); // gives back what was reserved; weights_close removes the name
        return r;
    }
    weights->header = base;
    weights->bytes = bytes;
    struct weights_header header = {
        .layout_version = WEIGHTS_LAYOUT_VERSION,
        .header_bytes = HEADER_BYTES,
        .layout_sum = layout_sum(),
        .bytes = conf->bytes,
        .key = conf->key,
        .model_digest = conf->model_digest,
        .builder_pid = getpid(),
        .rank = conf->rank,
    };
    (void)snprintf(header.level, sizeof header.level, "%s", conf->level); // may be cut
    memcpy((void *)weights->header, &header, sizeof header);
    return 0;
}

static void wait_a_little(int fd, const struct weights_conf *conf)
{
    struct weights_header header;
    const struct timespec wait = {.tv_nsec = WAIT_NS};
    if (conf->waiting && header_read(fd, &header))
        conf->waiting(conf->waiting_arg, header.builder_pid,
                      atomic_load_explicit(&header.permille, memory_order_relaxed)); // a private copy
    (void)nanosleep(&wait, NULL);                                                    // shorter is fine too
}

/* Either maps what is published, or ends with BUILD held and the segment ours to fill. A published one that is
 * not what its name says is removed: 1, to be opened again. */
static int adopt_or_build(struct weights *weights, const struct weights_conf *conf, struct err *err)
{
    for (;;) {
        struct weights_header header;
        bool has_header = header_read(weights->fd, &header);
        if (has_header && magic_of(&header) == WEIGHTS_MAGIC) {
            if (is_wanted(&header, weights->fd, conf)) return adopt(weights, conf, err);
            (void)shm_unlink(weights->name); // whoever uses it keeps it; no one else will find it
            return 1;
        }
        int r = lock_try(weights->fd, LOCK_BUILD, F_WRLCK);
        if (r == -EAGAIN) {
            wait_a_little(weights->fd, conf);
            continue;
        }
        if (r < 0) return err_sys(err, -r, "%s: cannot lock", weights->name);
        /* Its builder may have published between our look and our lock. */
        has_header = header_read(weights->fd, &header);
        if (!has_header || magic_of(&header) != WEIGHTS_MAGIC) return build_begin(weights, conf, err);
        (void)lock_try(weights->fd, LOCK_BUILD, F_UNLCK); // ours: cannot fail
    }
}

int weights_open(const struct weights_conf *conf, struct weights **ret_weights, struct err *err)
{
    CHECK(conf->bytes > 0 && conf->rank < RANKS_MAX);
    if (conf->bytes > (uint64_t)INT64_MAX / 2)
        return ERR(err, ERR_LIMIT, "weights of %" PRIu64 " bytes", conf->bytes);
    struct weights *weights = calloc(1, sizeof *weights);
    if (!weights) return ERR(err, -ENOMEM, "out of memory");
    weights->fd = -1;
    make_name(conf->key, conf->rank, weights->name);
    int r = 1;
    for (int i = 0; i < TRIES_MAX && r == 1; i++) {
        if (weights->fd >= 0) leave(weights->fd, weights->name);
        weights->fd = -1;
        r = open_used(weights->name, O_RDWR | O_CREAT, &weights->fd, err);
        if (r == 0) r = adopt_or_build(weights, conf, err);
    }
    if (r == 1) r = ERR(err, ERR_BUSY, "%s is made wrong again and again", weights->name);
    if (r < 0) {
        weights_close(weights);
        return r;
    }
    *ret_weights = weights;
    return 0;
}

int weights_find(struct hash128 key, uint32_t rank, uint64_t bytes, struct weights **ret_weights,
                 struct err *err)
{
    const struct weights_conf conf = {.key = key, .rank = rank, .bytes = bytes};
    struct weights_header header;
    struct weights *weights = calloc(1, sizeof *weights);
    if (!weights) return ERR(err, -ENOMEM, "out of memory");
    weights->fd = -1;
    make_name(key, rank, weights->name);
    int r = open_used(weights->name, O_RDWR, &weights->fd, err);
    if (r == 0 && (!header_read(weights->fd, &header) || magic_of(&header) != WEIGHTS_MAGIC ||
                   !is_wanted(&header, weights->fd, &conf)))
        r = ERR(err, ERR_FORMAT, "%s is not what its name says, or not yet", weights->name);
    if (r == 0) r = adopt(weights, &conf, err);
    if (r < 0) {
        weights_close(weights);
        return r;
    }
    *ret_weights = weights;
    return 0;
}

bool weights_filled(const struct weights *weights)
{
    return weights->filled;
}

void *weights_base(const struct weights *weights)
{
    return (uint8_t *)weights->header + HEADER_BYTES;
}

const char *weights_name(const struct weights *weights)
{
    return weights->name;
}

void weights_progress(struct weights *weights, uint32_t permille)
{
    CHECK(!weights->filled);
    atomic_store_explicit(&weights->header->permille, permille, memory_order_relaxed); // a hint
}

int weights_publish(struct weights *weights, struct err *err)
{
    CHECK(!weights->filled);
    struct weights_header *header = weights->header;
    header->sum = sum_of(weights_base(weights), weights->bytes - HEADER_BYTES);
    // Release: partner is the acquire load in adopt.
    atomic_store_explicit(&header->magic, WEIGHTS_MAGIC, memory_order_release);
    weights->filled = true;
    if (mprotect(header, weights->bytes, PROT_READ) < 0) // rule W3
        return err_sys(err, errno, "%s: cannot make it read-only", weights->name);
    (void)lock_try(weights->fd, LOCK_BUILD, F_UNLCK); // ours: cannot fail
    return 0;
}

void weights_close(struct weights *weights)
{
    if (!weights) return;
    if (weights->header) CHECK(munmap(weights->header, weights->bytes) == 0);
    if (weights->fd >= 0) leave(weights->fd, weights->name);
    free(weights);
}

int weights_keep(struct hash128 key, uint32_t rank, int *ret_fd)
{
    char name[WEIGHTS_NAME_BYTES];
    make_name(key, rank, name);
    return open_used(name, O_RDWR, ret_fd, NULL);
}

void weights_unkeep(struct hash128 key, uint32_t rank, int fd)
{
    char name[WEIGHTS_NAME_BYTES];
    make_name(key, rank, name);
    leave(fd, name);
}

void weights_release(struct weights_hold *hold)
{
    if (hold->fd >= 0) weights_unkeep(hold->key, hold->rank, hold->fd);
    hold->fd = -1;
}

void weights_hold(struct weights_hold *hold, struct hash128 key, uint32_t rank)
{
    if (hold->fd >= 0 && hold->rank == rank && hash128_equal(hold->key, key)) return;
    weights_release(hold);
    hold->key = key;
    hold->rank = rank;
    if (hash128_equal(key, (struct hash128){0})) return;
    if (weights_keep(key, rank, &hold->fd) < 0) hold->fd = -1; // the next life may pack again
}

/* ---- all of them ---- */

/* Calls fn with every name of ours in SHM_DIR, '/' in front, until it returns non-zero. */
static int each_name(int (*fn)(void *arg, const char *name), void *arg)
{
    struct dirent **entries;
    int r = 0, count = scandir(SHM_DIR, &entries, NULL, alphasort);
    if (count < 0) return -errno;
    for (int i = 0; i < count; i++) {
        char name[WEIGHTS_NAME_BYTES];
        const char *entry = entries[i]->d_name;
        bool ours = strncmp(entry, name_prefix, strlen(name_prefix)) == 0 && strlen(entry) + 2 <= sizeof name;
        if (r == 0 && ours) {
            (void)snprintf(name, sizeof name, "/%.*s", WEIGHTS_NAME_BYTES - 2, entry); // fits
            r = fn(arg, name);
        }
        free(entries[i]);
    }
    free(entries);
    return r;
}

struct each {
    int (*fn)(void *arg, const struct weights_info *info);
    void *arg;
};

static int each_info(void *arg, const char *name)
{
    const struct each *each = arg;
    struct weights_header header;
    struct stat st;
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0; // removed meanwhile, or another user's
    if (shm_file_owner_verify(fd, false, name, NULL) < 0 || fstat(fd, &st) < 0) {
        (void)close(fd); // opened for reading
        return 0;
    }
    struct weights_info info = {.name = name, .file_bytes = (uint64_t)st.st_size, .state = WEIGHTS_FOREIGN};
    bool has_header = header_read(fd, &header), has_magic = has_header && magic_of(&header) == WEIGHTS_MAGIC;
    info.in_use = lock_is_held(fd, LOCK_USERS);
    if (!has_magic) info.state = lock_is_held(fd, LOCK_BUILD) ? WEIGHTS_BUILDING : WEIGHTS_ABANDONED;
    else if (header_fits(&header, fd)) info.state = WEIGHTS_READY;
    if (has_header && info.state != WEIGHTS_FOREIGN) {
        info.bytes = header.bytes;
        info.builder_pid = header.builder_pid;
        info.model_digest = header.model_digest;
        info.rank = header.rank;
        (void)snprintf(info.level, sizeof info.level, "%.*s", (int)sizeof header.level - 1, header.level);
    }
    (void)close(fd); // opened for reading
    return each->fn(each->arg, &info);
}

int weights_each(int (*fn)(void *arg, const struct weights_info *info), void *arg)
{
    struct each each = {.fn = fn, .arg = arg};
    return each_name(each_info, &each);
}

int weights_verify(const char *name, struct err *err)
{
    struct weights_header header;
    void *base;
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return err_sys(err, errno, "%s: cannot open", name);
    int r = shm_file_owner_verify(fd, false, name, err);
    if (r < 0) goto out;
    if (!header_read(fd, &header) || magic_of(&header) != WEIGHTS_MAGIC || !header_fits(&header, fd)) {
        r = ERR(err, ERR_FORMAT, "%s: no header of this layout", name);
        goto out;
    }
    size_t bytes = HEADER_BYTES + header.bytes;
    r = shm_file_map(fd, bytes, PROT_READ, name, &base, err);
    if (r < 0) goto out;
    uint64_t sum = sum_of((const uint8_t *)base + HEADER_BYTES, header.bytes);
    CHECK(munmap(base, bytes) == 0);
    if (sum != header.sum)
        r = ERR(err, ERR_FORMAT, "%s: the weights hash to %016" PRIx64 ", published as %016" PRIx64, name,
                sum, header.sum);
out:
    (void)close(fd); // opened for reading
    return r;
}

struct sweep {
    char keep[WEIGHTS_NAME_BYTES - 4]; // without the rank
    void (*removed)(void *arg, const char *name, uint64_t bytes);
    void *arg;
    int count;
};

static int sweep_one(void *arg, const char *name)
{
    struct sweep *sweep = arg;
    struct stat st;
    if (strncmp(name, sweep->keep, strlen(sweep->keep)) == 0) return 0;
    int fd = shm_open(name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return 0; // removed meanwhile, or another user's
    bool unused = shm_file_owner_verify(fd, true, name, NULL) == 0 && fstat(fd, &st) == 0 &&
                  lock_try(fd, LOCK_USERS, F_WRLCK) == 0;
    if (unused && shm_file_has_name(fd, name) && shm_unlink(name) == 0) {
        sweep->count++;
        if (sweep->removed) sweep->removed(sweep->arg, name, (uint64_t)st.st_size);
    }
    (void)close(fd); // with its lock
    return 0;
}

int weights_sweep(struct hash128 keep, void (*removed)(void *arg, const char *name, uint64_t bytes),
                  void *arg)
{
    struct sweep sweep = {.removed = removed, .arg = arg};
    (void)snprintf(sweep.keep, sizeof sweep.keep, "/%s%016" PRIx64 "%016" PRIx64 ".", name_prefix, keep.high,
                   keep.low); // fits
    int r = each_name(sweep_one, &sweep);
    return r < 0 ? r : sweep.count;
}

void weights_prefix_set(const char *prefix)
{
    int len = snprintf(name_prefix, sizeof name_prefix, "kvasir-%s.", prefix);
    CHECK(len > 0 && (size_t)len < sizeof name_prefix);
}
