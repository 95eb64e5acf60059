/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/reuse.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/huge.h"

enum {
    LOG_SPAN =
        16, // log entries for a page of the cache; chats come back after 5 to 10 turnovers of a small one
    LOG_MAX = 1 << 22,  // entries
    COUNTED = 4,        // one wait of so many is counted, and ages are in so many: a page costs a quarter
    AGES = 44,          // two for each power of two
    CLASSES = 8,        // 1, 2, ... 7 uses, more
    DOUBT = 32,         // counted waits until a class is believed as much as all together
    REFRESH_SHARE = 16, // an index is computed anew when its class has seen a 16th more
    NOT_LOGGED = -1,
};

/* One wait. It began at the last time whose low bits are the entry's place. Of the low half of the key, of which a
 * collision costs a wrong count, it has what the table has not, and the bits that tell where in the table it is. */
struct entry {
    uint64_t key : 55;
    uint64_t uses : 8;    // 0: never written
    uint64_t is_open : 1; // not wanted again yet
};
static_assert(sizeof(struct entry) == 8, "a cache line holds eight");

/* Of the table, whose places are as random as the keys: the log, of which each look is one more cache miss, is looked
 * at only where the upper half of the key is the same. */
struct logged {
    uint32_t key_high;
    int32_t at; // place in the log, or NOT_LOGGED
};
static_assert(2 * (uint64_t)LOG_MAX <= UINT64_C(1) << (55 - 32), "an entry tells its place in the table");

struct counts { // waits, and halves of earlier ones
    float reached[AGES], ended[AGES];
};

struct class {
    struct counts counts;
    float index[AGES];
    uint32_t events, events_due; // since the index was computed; when it will be again
};

struct reuse {
    struct entry *log; // (log_mask + 1)
    uint64_t clock;    // waits begun
    uint32_t log_mask, table_mask;
    struct logged *table;         // (table_mask + 1) by key; linear probing
    uint64_t age_first[AGES + 1]; // least age of each bucket, in COUNTED waits; some of small ages are empty
    uint32_t age_count;           // buckets that lie within the log whole
    struct counts all;
    struct class classes[CLASSES];
};

static uint32_t class_of(uint32_t uses)
{
    return uses < CLASSES ? uses - 1 : CLASSES - 1;
}

/* Of an age in waits: bucket 2k holds COUNTED times 2^k and more, bucket 2k + 1 COUNTED times 2^(k + 1/2). */
static uint32_t age_bucket(uint64_t waits)
{
    uint64_t age = (waits + COUNTED - 1) / COUNTED;
    if (age <= 1) return 0;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(age);
    if (octave >= AGES / 2) return AGES - 1;
    return 2 * octave + (age * age >> (2 * octave + 1) != 0);
}

static void ages_fill(struct reuse *reuse)
{
    for (uint32_t bucket = 0; bucket <= AGES; bucket++) {
        uint64_t age = UINT64_C(1) << bucket / 2;
        if (bucket & 1) { // the least that is not below 2^(k + 1/2)
            for (uint64_t add = age / 2; add > 0; add /= 2)
                if ((age + add) * (age + add) >> (bucket / 2 * 2 + 1) == 0) age += add;
            age++;
        }
        reuse->age_first[bucket] = age;
        if (bucket > 0 && COUNTED * age <= reuse->log_mask) reuse->age_count = bucket;
    }
}

/* ---- the index ---- */

static float blend(float ended, float reached, float prior, float doubt)
{
    float chance = (ended + doubt * prior) / (reached + doubt);
    return chance < 0.999f ? chance : 0.999f; // halving rounds: never more ended than reached
}

/* room[a] and gain[a]: of a wait that begins, the time it is expected to spend at age a, and the chance to end there.
 * The index at an age is the steepest line from there to any later age over the sums of both; what lies before the
 * age cancels out. */
static void index_refresh(const struct reuse *reuse, struct class *class)
{
    const struct counts *counts = &class->counts, *all = &reuse->all;
    float room[AGES], gain[AGES], left = 1, doubt = DOUBT;
    for (uint32_t a = 0; a < reuse->age_count; a++) {
        float width = (float)(reuse->age_first[a + 1] - reuse->age_first[a]);
        float chance = 0.3f * width / (float)reuse->age_first[a + 1]; // as one over the age
        chance = blend(all->ended[a], all->reached[a], chance, doubt);
        chance = blend(counts->ended[a], counts->reached[a], chance, doubt);
        gain[a] = left * chance;
        room[a] = left * (1 - chance / 2) * width;
        left *= 1 - chance;
    }
    for (uint32_t a = 0; a < reuse->age_count; a++) {
        float gains = 0, rooms = 0;
        class->index[a] = 0;
        for (uint32_t end = a; end < reuse->age_count; end++) {
            gains += gain[end];
            rooms += room[end];
            if (gains > class->index[a] * rooms) class->index[a] = gains / rooms;
        }
    }
    class->events = 0;
    class->events_due = 16 + (uint32_t)(counts->reached[0] / REFRESH_SHARE);
}

static void class_event(const struct reuse *reuse, struct class *class)
{
    if (++class->events >= class->events_due) index_refresh(reuse, class);
}

static void counts_halve(struct counts *counts)
{
    for (uint32_t a = 0; a < AGES; a++) {
        counts->reached[a] /= 2;
        counts->ended[a] /= 2;
    }
}

/* ---- making and freeing ---- */

int reuse_new(uint32_t page_count, struct reuse **ret_reuse)
{
    struct reuse *reuse = calloc(1, sizeof *reuse);
    if (!reuse) return -ENOMEM;
    uint32_t places = 64;
    while (places < (uint64_t)LOG_SPAN * page_count && places < LOG_MAX) places *= 2;
    reuse->log_mask = places - 1;
    reuse->table_mask = 2 * places - 1;
    reuse->log = huge_calloc(places, sizeof *reuse->log);
    reuse->table = huge_calloc(2 * (size_t)places, sizeof *reuse->table);
    if (!reuse->log || !reuse->table) {
        reuse_free(reuse);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i <= reuse->table_mask; i++) reuse->table[i].at = NOT_LOGGED;
    ages_fill(reuse);
    for (uint32_t i = 0; i < CLASSES; i++) index_refresh(reuse, &reuse->classes[i]);
    *ret_reuse = reuse;
    return 0;
}

void reuse_free(struct reuse *reuse)
{
    if (!reuse) return;
    free(reuse->log);
    free(reuse->table);
    free(reuse);
}

/* ---- table: linear probing, deletion by shifting back ---- */

/* Also of an entry's key. */
static uint32_t table_home(const struct reuse *reuse, uint64_t key)
{
    return (uint32_t)(key >> 32) & reuse->table_mask;
}

/* Where the key is, or would be. */
static uint32_t table_place(const struct reuse *reuse, uint64_t key)
{
    const struct entry wanted = {.key = key};
    for (uint32_t i = table_home(reuse, key);; i = (i + 1) & reuse->table_mask) {
        struct logged logged = reuse->table[i];
        if (logged.at == NOT_LOGGED) return i;
        if (logged.key_high == (uint32_t)(key >> 32) && reuse->log[logged.at].key == wanted.key) return i;
    }
}

static void table_remove(struct reuse *reuse, uint32_t hole)
{
    uint32_t mask = reuse->table_mask;
    for (uint32_t i = (hole + 1) & mask; reuse->table[i].at != NOT_LOGGED; i = (i + 1) & mask) {
        uint32_t home = reuse->table[i].key_high & mask;
        if (((i - home) & mask) < ((i - hole) & mask)) continue; // it may not move before its home
        reuse->table[hole] = reuse->table[i];
        hole = i;
    }
    reuse->table[hole].at = NOT_LOGGED;
}

/* What is at this place of the log falls out of it. */
static void log_forget(struct reuse *reuse, int32_t at)
{
    uint32_t i = table_home(reuse, reuse->log[at].key);
    while (reuse->table[i].at != NOT_LOGGED && reuse->table[i].at != at) i = (i + 1) & reuse->table_mask;
    if (reuse->table[i].at == at) table_remove(reuse, i); // else its key waited again since
}

/* ---- waits ---- */

void reuse_prefetch(const struct reuse *reuse, struct hash128 key)
{
    __builtin_prefetch(&reuse->table[table_home(reuse, key.low)], 1);
}

uint32_t reuse_wanted(struct reuse *reuse, struct hash128 key)
{
    int32_t at = reuse->table[table_place(reuse, key.low)].at;
    if (at == NOT_LOGGED) return 0;
    struct entry *entry = &reuse->log[at];
    uint32_t bucket = age_bucket((reuse->clock - (uint32_t)at) & reuse->log_mask);
    if (entry->is_open && bucket < reuse->age_count && at % COUNTED == 0) {
        struct class *class = &reuse->classes[class_of(entry->uses)];
        reuse->all.ended[bucket]++;
        class->counts.ended[bucket]++;
        class_event(reuse, class);
    }
    entry->is_open = false;
    return entry->uses;
}

/* The counted waits that now reach the next age, one for each age: those that began so long ago. */
static void waits_age(struct reuse *reuse, uint64_t now)
{
    if (now % COUNTED != 0) return;
    for (uint32_t bucket = 0; bucket < reuse->age_count; bucket++) {
        uint64_t age = COUNTED * (reuse->age_first[bucket] - 1);
        if (age > now) break;
        const struct entry *entry = &reuse->log[(uint32_t)(now - age) & reuse->log_mask];
        if (!entry->is_open) continue;
        reuse->all.reached[bucket]++;
        reuse->classes[class_of(entry->uses)].counts.reached[bucket]++;
    }
}

uint64_t reuse_let_go(struct reuse *reuse, struct hash128 key, uint32_t uses)
{
    enum { AHEAD = 8 };
    CHECK(uses > 0 && uses <= REUSE_USES_MAX);
    uint64_t now = reuse->clock++;
    int32_t at = (int32_t)(now & reuse->log_mask);
    struct entry *entry = &reuse->log[at];
    /* What the next ones will push out of the log. */
    __builtin_prefetch(&reuse->table[table_home(reuse, reuse->log[(now + AHEAD) & reuse->log_mask].key)], 1);
    if (entry->uses > 0) log_forget(reuse, at);
    struct logged *logged = &reuse->table[table_place(reuse, key.low)];
    if (logged->at != NOT_LOGGED) reuse->log[logged->at].is_open = false;
    *entry = (struct entry){.key = key.low, .uses = (uint8_t)uses, .is_open = true};
    *logged = (struct logged){.key_high = (uint32_t)(key.low >> 32), .at = at};
    waits_age(reuse, now);
    class_event(reuse, &reuse->classes[class_of(uses)]);
    if ((reuse->clock & reuse->log_mask) == 0) {
        counts_halve(&reuse->all);
        for (uint32_t i = 0; i < CLASSES; i++) counts_halve(&reuse->classes[i].counts);
    }
    return now;
}

float reuse_index(const struct reuse *reuse, uint32_t uses, uint64_t since)
{
    uint64_t age = reuse->clock - since;
    uint32_t bucket = age_bucket(age);
    return age <= reuse->log_mask && bucket < reuse->age_count ? reuse->classes[class_of(uses)].index[bucket]
                                                               : 0;
}

/* Whether the entry is its key's latest. */
static bool is_latest(const struct reuse *reuse, uint32_t at)
{
    uint32_t i = table_home(reuse, reuse->log[at].key);
    while (reuse->table[i].at != NOT_LOGGED && reuse->table[i].at != (int32_t)at)
        i = (i + 1) & reuse->table_mask;
    return reuse->table[i].at == (int32_t)at;
}

bool reuse_check(const struct reuse *reuse)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i <= reuse->table_mask; i++) {
        struct logged logged = reuse->table[i];
        if (logged.at == NOT_LOGGED) continue;
        used++;
        const struct entry *entry = &reuse->log[logged.at];
        uint64_t key = (uint64_t)logged.key_high << 32 | (uint32_t)entry->key;
        if (entry->uses == 0 || (struct entry){.key = key}.key != entry->key || table_place(reuse, key) != i)
            return false;
    }
    for (uint32_t at = 0; at <= reuse->log_mask; at++)
        if (reuse->log[at].is_open && !is_latest(reuse, at)) return false;
    return used <= reuse->log_mask + 1;
}
