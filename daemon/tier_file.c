/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/tier_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"

#define FILE_MAGIC UINT64_C(0x315245495456534B)   // "KSVTIER1", little-endian
#define RECORD_MAGIC UINT64_C(0x314547415056534B) // "KSVPAGE1"
enum { FILE_VERSION = 2, BLOCK_BYTES = 4096 };

struct file_header { // at 0; the rest of its block is zero
    uint64_t magic;
    uint32_t version, place_count;
    struct pool_geometry geometry; // page_count 0
    uint64_t sum;                  // hash64 of what is before it
};

struct file_record {
    uint64_t magic;
    struct tier_page page;
    uint64_t sum; // hash64 of what is before it
};
static_assert(sizeof(struct file_record) == 128, "file v2");

enum place_state { PLACE_EMPTY, PLACE_WRITING, PLACE_FILLED };

struct place {
    struct tier_page page; // valid when FILLED
    uint32_t next;         // in its bucket, when FILLED
    uint8_t state;
    bool found; // since the hand came by
};

struct tier_file {
    struct tier tier; // first
    int fd;
    struct file_header header;
    uint64_t payload_first, payload_stride; // bytes
    struct place *places;                   // owned, (place_count)
    uint32_t *buckets;                      // owned, (bucket_mask + 1) first place or TIER_NONE
    uint32_t bucket_mask;
    uint32_t hand, filled_count;
    uint64_t evictions;
};

static struct tier_file *file_of(struct tier *tier)
{
    return (struct tier_file *)tier;
}

static uint64_t round_up(uint64_t bytes)
{
    return (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

/* ---- bytes ---- */

static int write_all(int fd, const void *bytes, size_t len, uint64_t at)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const uint8_t *)bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int read_all(int fd, void *bytes, size_t len, uint64_t at)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (uint8_t *)bytes + done, len - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? -errno : -EIO; // a file cut short
        done += (size_t)n;
    }
    return 0;
}

static uint64_t record_at(uint32_t place)
{
    return BLOCK_BYTES + (uint64_t)place * sizeof(struct file_record);
}

static uint64_t payload_at(const struct tier_file *file, uint32_t place)
{
    return file->payload_first + place * file->payload_stride;
}

/* ---- index ---- */

static uint32_t *bucket_of(const struct tier_file *file, struct hash128 key)
{
    return &file->buckets[(uint32_t)key.low & file->bucket_mask];
}

static void index_add(struct tier_file *file, uint32_t place)
{
    uint32_t *bucket = bucket_of(file, file->places[place].page.key);
    file->places[place].next = *bucket;
    *bucket = place;
    file->places[place].state = PLACE_FILLED;
    file->filled_count++;
}

static void index_remove(struct tier_file *file, uint32_t place)
{
    uint32_t *at = bucket_of(file, file->places[place].page.key);
    while (*at != place) {
        CHECK(*at != TIER_NONE);
        at = &file->places[*at].next;
    }
    *at = file->places[place].next;
    file->places[place].state = PLACE_EMPTY;
    file->filled_count--;
}

static uint32_t file_find(struct tier *tier, struct tier_page *page)
{
    struct tier_file *file = file_of(tier);
    for (uint32_t i = *bucket_of(file, page->key); i != TIER_NONE; i = file->places[i].next) {
        const struct tier_page *its = &file->places[i].page;
        if (!hash128_equal(its->key, page->key) || !hash128_equal(its->parent_key, page->parent_key) ||
            its->producer != page->producer)
            continue;
        if (memcmp(its->tokens, page->tokens, sizeof page->tokens) != 0) continue;
        page->sum = its->sum;
        file->places[i].found = true;
        return i;
    }
    return TIER_NONE;
}

static int file_reserve(struct tier *tier, uint32_t *ret_place)
{
    struct tier_file *file = file_of(tier);
    for (uint64_t i = 0; i < 2 * (uint64_t)file->header.place_count; i++) {
        uint32_t at = file->hand;
        struct place *place = &file->places[at];
        file->hand = at + 1 < file->header.place_count ? at + 1 : 0;
        bool spared = place->found;
        place->found = false;
        if (place->state == PLACE_WRITING || (place->state == PLACE_FILLED && spared)) continue;
        if (place->state == PLACE_FILLED) {
            index_remove(file, at);
            file->evictions++;
        }
        place->state = PLACE_WRITING;
        *ret_place = at;
        return 0;
    }
    return -ENOSPC;
}

static int file_write(struct tier *tier, uint32_t place, const struct tier_page *page, const void *payload)
{
    const struct tier_file *file = file_of(tier);
    const struct file_record empty = {0};
    struct file_record record = {.magic = RECORD_MAGIC, .page = *page};
    record.sum = hash64(&record, offsetof(struct file_record, sum));
    int r = write_all(file->fd, &empty, sizeof empty, record_at(place));
    if (r == 0) r = write_all(file->fd, payload, file->header.geometry.page_bytes, payload_at(file, place));
    if (r == 0) r = write_all(file->fd, &record, sizeof record, record_at(place));
    return r;
}

static void file_commit(struct tier *tier, uint32_t place, const struct tier_page *page)
{
    struct tier_file *file = file_of(tier);
    CHECK(file->places[place].state == PLACE_WRITING);
    file->places[place].page = *page;
    index_add(file, place);
}

static int file_read(struct tier *tier, uint32_t place, const struct tier_page *page, void *payload)
{
    const struct tier_file *file = file_of(tier);
    uint64_t bytes = file->header.geometry.page_bytes;
    int r = read_all(file->fd, payload, bytes, payload_at(file, place));
    if (r < 0) return r;
    return hash64(payload, bytes) == page->sum ? 0 : ERR_FORMAT;
}

static void file_drop(struct tier *tier, uint32_t place, const struct tier_page *page)
{
    struct tier_file *file = file_of(tier);
    struct place *at = &file->places[place];
    if (!page) {
        CHECK(at->state == PLACE_WRITING);
        at->state = PLACE_EMPTY;
    } else if (at->state == PLACE_FILLED && at->page.producer == page->producer &&
               hash128_equal(at->page.key, page->key)) {
        index_remove(file, place);
    }
}

static uint32_t file_count(const struct tier *tier, uint64_t producer)
{
    const struct tier_file *file = (const struct tier_file *)tier;
    uint32_t count = 0;
    for (uint32_t i = 0; i < file->header.place_count; i++)
        count += file->places[i].state == PLACE_FILLED && file->places[i].page.producer == producer;
    return count;
}

static void file_stats(const struct tier *tier, struct tier_stats *ret_stats)
{
    const struct tier_file *file = (const struct tier_file *)tier;
    *ret_stats = (struct tier_stats){
        .place_count = file->header.place_count,
        .page_count = file->filled_count,
        .evictions = file->evictions,
    };
}

static void file_close(struct tier *tier)
{
    if (!tier) return;
    struct tier_file *file = file_of(tier);
    if (file->fd >= 0) close(file->fd); // and with it the lock
    free(file->places);
    free(file->buckets);
    free(file);
}

static const struct tier_ops file_ops = {
    .find = file_find,
    .reserve = file_reserve,
    .write = file_write,
    .commit = file_commit,
    .read = file_read,
    .drop = file_drop,
    .count = file_count,
    .stats = file_stats,
    .close = file_close,
};

/* ---- open ---- */

static int path_open(const char *path, int *ret_fd, uint64_t *ret_bytes, struct err *err)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_sys(err, errno, "--cache-file %s", path);
    int r = fstat(fd, &st) < 0 ? err_sys(err, errno, "--cache-file %s", path) : 0;
    if (r == 0 && !S_ISREG(st.st_mode)) r = ERR(err, ERR_CONFIG, "--cache-file %s is no regular file", path);
    if (r == 0 && (st.st_uid != geteuid() || (st.st_mode & 077) != 0))
        r = ERR(err, ERR_CONFIG, "--cache-file %s belongs to another user, or others may open it", path);
    if (r == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = errno == EWOULDBLOCK ? ERR(err, ERR_BUSY, "--cache-file %s is in use by another daemon", path)
                                 : err_sys(err, errno, "--cache-file %s: lock", path);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

/* What the file's header says: 1 its pages are ours, 0 the file is empty or to be begun anew, or ERR_CONFIG. */
static int header_judge(const struct file_header *found, const struct file_header *wanted, const char *path,
                        struct err *err)
{
    bool is_ours = found->magic == FILE_MAGIC;
    if (is_ours && found->version != FILE_VERSION) return 0;
    if (!is_ours || found->sum != hash64(found, offsetof(struct file_header, sum)))
        return ERR(err, ERR_CONFIG, "--cache-file %s is no cache of kvasird: it is left as it is", path);
    if (memcmp(&found->geometry, &wanted->geometry, sizeof found->geometry) != 0)
        return ERR(err, ERR_CONFIG,
                   "--cache-file %s holds pages of another model or --kv-cache-dtype: name another file, or "
                   "remove it",
                   path);
    return found->place_count == wanted->place_count;
}

/* Header first, so that a file that has one is ours; the records behind it are zeros: empty. */
static int file_format(struct tier_file *file, uint64_t bytes, const char *path, struct err *err)
{
    uint8_t block[BLOCK_BYTES] = {0};
    memcpy(block, &file->header, sizeof file->header);
    if (ftruncate(file->fd, 0) < 0) return err_sys(err, errno, "--cache-file %s", path);
    int r = write_all(file->fd, block, sizeof block, 0);
    if (r < 0) return err_sys(err, -r, "--cache-file %s", path);
    // Room now rather than a failed write later; where the file system cannot reserve, the size alone.
    if (fallocate(file->fd, 0, 0, (off_t)bytes) < 0 && errno != EOPNOTSUPP)
        return err_sys(err, errno, "--cache-file %s: no room for %" PRIu64 " MiB", path, bytes >> 20);
    if (ftruncate(file->fd, (off_t)bytes) < 0) return err_sys(err, errno, "--cache-file %s", path);
    return 0;
}

static int records_read(struct tier_file *file)
{
    enum { BATCH = 512 };
    struct file_record *records = malloc(BATCH * sizeof *records);
    if (!records) return -ENOMEM;
    int r = 0;
    for (uint32_t first = 0; r == 0 && first < file->header.place_count; first += BATCH) {
        uint32_t left = file->header.place_count - first, count = left < BATCH ? left : BATCH;
        r = read_all(file->fd, records, count * sizeof *records, record_at(first));
        for (uint32_t i = 0; r == 0 && i < count; i++) {
            const struct file_record *record = &records[i];
            if (record->magic != RECORD_MAGIC) continue;
            if (record->sum != hash64(record, offsetof(struct file_record, sum))) continue; // torn
            struct tier_page twin = record->page; // of a write that was not committed
            if (file_find(&file->tier, &twin) != TIER_NONE) continue;
            file->places[first + i].page = record->page;
            index_add(file, first + i);
        }
    }
    free(records);
    return r;
}

static int memory_make(struct tier_file *file)
{
    uint32_t places = file->header.place_count, buckets = 16;
    while (buckets < places) buckets *= 2;
    file->bucket_mask = buckets - 1;
    file->places = calloc(places, sizeof *file->places);
    file->buckets = malloc(buckets * sizeof *file->buckets);
    if (!file->places || !file->buckets) return -ENOMEM;
    memset(file->buckets, 0xFF, buckets * sizeof *file->buckets);
    return 0;
}

/* Places for at most `bytes`: each takes a record and a payload. */
static int header_make(const struct tier_file_conf *conf, struct tier_file *file, struct err *err)
{
    uint64_t stride = round_up(conf->geometry->page_bytes),
             fixed = 2 * BLOCK_BYTES; // header; rounding of records
    uint64_t places = conf->bytes > fixed ? (conf->bytes - fixed) / (stride + sizeof(struct file_record)) : 0;
    CHECK(conf->geometry->rank_count == 1);
    if (places == 0)
        return ERR(err, ERR_CONFIG, "--cache-file-bytes is too small for one page of %" PRIu64 " KiB",
                   stride >> 10);
    if (places > PAGES_MAX) places = PAGES_MAX;
    memset(&file->header, 0, sizeof file->header); // padding as well: it is hashed and compared
    file->header.magic = FILE_MAGIC;
    file->header.version = FILE_VERSION;
    file->header.place_count = (uint32_t)places;
    memcpy(&file->header.geometry, conf->geometry, sizeof file->header.geometry);
    file->header.geometry.page_count = 0;
    file->header.sum = hash64(&file->header, offsetof(struct file_header, sum));
    file->payload_first = round_up(record_at(file->header.place_count));
    file->payload_stride = stride;
    return 0;
}

static int file_load(struct tier_file *file, const struct tier_file_conf *conf, uint64_t bytes_found,
                     char *ret_note, size_t note_bytes, struct err *err)
{
    struct file_header found = {0};
    uint64_t bytes = payload_at(file, file->header.place_count);
    int r = 0;
    if (bytes_found > 0) {
        if (bytes_found >= sizeof found) r = read_all(file->fd, &found, sizeof found, 0);
        if (r < 0) return err_sys(err, -r, "--cache-file %s", conf->path);
        r = header_judge(&found, &file->header, conf->path, err);
        if (r < 0) return r;
    }
    bool is_kept = r > 0;
    if (!is_kept) r = file_format(file, bytes, conf->path, err);
    else if (bytes_found < bytes && ftruncate(file->fd, (off_t)bytes) < 0) // its maker died early
        r = err_sys(err, errno, "--cache-file %s", conf->path);
    if (r < 0) return r;
    r = memory_make(file);
    if (r == 0 && is_kept) r = records_read(file);
    if (r < 0) return err_sys(err, -r, "--cache-file %s", conf->path);
    (void)snprintf(ret_note, note_bytes, "%s: %s%" PRIu32 " of %" PRIu32 " pages", conf->path,
                   is_kept || bytes_found == 0 ? "" : "begun anew, it was of another size or layout: ",
                   file->filled_count, file->header.place_count); // may be cut
    return 0;
}

int tier_file_open(const struct tier_file_conf *conf, struct tier **ret_tier, char *ret_note,
                   size_t note_bytes, struct err *err)
{
    uint64_t bytes_found = 0;
    struct tier_file *file = calloc(1, sizeof *file);
    if (!file) return ERR(err, -ENOMEM, "out of memory");
    file->tier.ops = &file_ops;
    file->fd = -1;
    int r = header_make(conf, file, err);
    if (r == 0) r = path_open(conf->path, &file->fd, &bytes_found, err);
    if (r == 0) r = file_load(file, conf, bytes_found, ret_note, note_bytes, err);
    if (r < 0) {
        file_close(&file->tier);
        return r;
    }
    *ret_tier = &file->tier;
    return 0;
}
