/* SPDX-License-Identifier: Apache-2.0 */
/* template_dict - dicts that keep the order of insertion: an array of entries, searched in order
 * while small, with a hash index beside it from INDEX_FROM entries on. Probes are charged as steps,
 * so that chosen collisions run into the limit instead of taking the time. */
#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/text/template_run.h"

enum { INDEX_FROM = 9, DICT_CAP_MIN = 4, PROBES_PER_STEP = 4 };

static int hash_value(struct tmpl_run *run, struct tmpl_value key, uint64_t *ret_hash)
{
    double real;
    if (key.kind == VALUE_STRING) {
        *ret_hash = hash64(key.string->bytes, key.string->len);
        return tmpl_charge(run, key.string->len / TMPL_BYTES_PER_STEP);
    }
    if (tmpl_as_real(key, &real)) {  // 1, 1.0 and true are one key
        real = real == 0 ? 0 : real; // and so are 0.0 and -0.0
        *ret_hash = hash64(&real, sizeof real);
        return 0;
    }
    if (key.kind == VALUE_NONE || key.kind == VALUE_UNDEFINED) {
        *ret_hash = (uint64_t)key.kind;
        return 0;
    }
    if (key.kind != VALUE_TUPLE) return tmpl_fail(run, "unhashable type: '%s'", tmpl_type_name(key));
    uint64_t hash = key.list->count;
    if (tmpl_enter(run) < 0) return run->code;
    for (size_t i = 0; i < key.list->count; i++) {
        uint64_t pair[2] = {hash, 0};
        if (hash_value(run, key.list->items[i], &pair[1]) < 0) break;
        hash = hash64(pair, sizeof pair);
    }
    run->depth--;
    *ret_hash = hash;
    return run->code;
}

int tmpl_dict_new(struct tmpl_run *run, size_t cap, struct tmpl_dict **ret_dict)
{
    struct tmpl_dict *dict = tmpl_alloc(run, sizeof *dict);
    if (!dict) return run->code;
    *dict = (struct tmpl_dict){.cap = cap};
    if (cap > 0 && !(dict->entries = tmpl_alloc_array(run, cap, sizeof *dict->entries))) return run->code;
    *ret_dict = dict;
    return 0;
}

static int keys_equal(struct tmpl_run *run, struct tmpl_value a, struct tmpl_value b)
{
    if (a.kind != VALUE_STRING || b.kind != VALUE_STRING) return tmpl_equal(run, a, b);
    if (a.string->len != b.string->len) return 0;
    if (tmpl_charge(run, a.string->len / TMPL_BYTES_PER_STEP) < 0) return run->code;
    return tmpl_string_equal(a.string, b.string);
}

/* Entry of the key, or dict->count when absent; *ret_slot is where the index would name it. */
static int find_entry(struct tmpl_run *run, const struct tmpl_dict *dict, struct tmpl_value key,
                      size_t *ret_idx, size_t *ret_slot)
{
    uint64_t hash = 0;
    size_t probes = 0, i = dict->count;
    bool is_hashed = dict->index || key.kind != VALUE_STRING;
    if (is_hashed && hash_value(run, key, &hash) < 0) return run->code; // a key that cannot be one fails here
    if (!dict->index) {
        for (i = 0; i < dict->count; i++, probes++) {
            int r = keys_equal(run, dict->entries[i].key, key);
            if (r < 0) return r;
            if (r == 1) break;
        }
    } else {
        size_t slot = hash & (dict->index_cap - 1);
        for (; dict->index[slot]; slot = (slot + 1) & (dict->index_cap - 1), probes++) {
            int r = keys_equal(run, dict->entries[dict->index[slot] - 1].key, key);
            if (r < 0) return r;
            if (r == 0) continue;
            i = dict->index[slot] - 1;
            break;
        }
        *ret_slot = slot;
    }
    *ret_idx = i;
    return tmpl_charge(run, probes / PROBES_PER_STEP);
}

/* Builds the index anew for twice the entries' capacity. */
static int build_index(struct tmpl_run *run, struct tmpl_dict *dict)
{
    size_t cap = 16;
    while (cap < 2 * dict->cap) cap *= 2;
    if (dict->cap > UINT32_MAX / 4) return tmpl_fail_limit(run, "dict with too many keys");
    uint32_t *idx = tmpl_alloc_array(run, cap, sizeof *idx);
    if (!idx) return run->code;
    memset(idx, 0, cap * sizeof *idx);
    if (tmpl_charge(run, dict->count / PROBES_PER_STEP) < 0) return run->code;
    for (size_t i = 0; i < dict->count; i++) {
        uint64_t hash;
        if (hash_value(run, dict->entries[i].key, &hash) < 0) return run->code;
        size_t slot = hash & (cap - 1), probes = 0;
        for (; idx[slot]; slot = (slot + 1) & (cap - 1)) probes++;
        if (tmpl_charge(run, probes / PROBES_PER_STEP) < 0) return run->code;
        idx[slot] = (uint32_t)(i + 1);
    }
    dict->index = idx;
    dict->index_cap = cap;
    return 0;
}

int tmpl_dict_set(struct tmpl_run *run, struct tmpl_dict *dict, struct tmpl_value key,
                  struct tmpl_value value)
{
    size_t i = 0, slot = 0;
    if (find_entry(run, dict, key, &i, &slot) < 0) return run->code;
    if (i < dict->count) {
        dict->entries[i].value = value;
        return 0;
    }
    if (dict->count == dict->cap) {
        size_t cap = dict->cap ? 2 * dict->cap : DICT_CAP_MIN;
        struct tmpl_dict_entry *entries = tmpl_alloc_array(run, cap, sizeof *entries);
        if (!entries) return run->code;
        if (dict->count) memcpy(entries, dict->entries, dict->count * sizeof *entries);
        dict->entries = entries;
        dict->cap = cap;
        dict->index = NULL; // its size follows the capacity
    }
    dict->entries[dict->count++] = (struct tmpl_dict_entry){.key = key, .value = value};
    if (dict->index) dict->index[slot] = (uint32_t)dict->count;
    else if (dict->count >= INDEX_FROM) return build_index(run, dict);
    return 0;
}

int tmpl_dict_get(struct tmpl_run *run, const struct tmpl_dict *dict, struct tmpl_value key,
                  struct tmpl_value *ret_value)
{
    size_t i = 0, slot = 0;
    if (find_entry(run, dict, key, &i, &slot) < 0) return run->code;
    if (i == dict->count) return 0;
    *ret_value = dict->entries[i].value;
    return 1;
}

int tmpl_dict_get_text(struct tmpl_run *run, const struct tmpl_dict *dict, const char *key,
                       struct tmpl_value *ret_value)
{
    struct tmpl_string string = {
        .bytes = (const uint8_t *)key, .len = strlen(key), .char_count = strlen(key)};
    return tmpl_dict_get(run, dict, value_string(&string), ret_value);
}

int tmpl_dict_merge(struct tmpl_run *run, struct tmpl_dict *dict, struct tmpl_value mapping)
{
    CHECK(mapping.kind == VALUE_DICT);
    for (size_t i = 0; i < mapping.dict->count; i++)
        if (tmpl_dict_set(run, dict, mapping.dict->entries[i].key, mapping.dict->entries[i].value) < 0)
            return run->code;
    return 0;
}
