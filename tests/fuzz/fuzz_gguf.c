/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target: any bytes through parse, every getter, digest and facts. Whatever parses must hold what
 * gguf.h promises: tensors inside the input, apart from each other, found by their names.
 * libFuzzer changes lengths rarely in the right places, so start it from the corpus that
 * `hostile_gguf DIRECTORY` writes. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/check.h"
#include "common/gguf/facts.h"
#include "common/gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_tensors(const struct gguf *gguf, const uint8_t *bytes, size_t size)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        CHECK(tensor->data > bytes);
        CHECK(tensor->data_bytes <= (size_t)(bytes + size - tensor->data));
        CHECK(tensor->dims[0] > 0 && tensor->dims[1] > 0 && tensor->dims[2] > 0 && tensor->dims[3] > 0);
        sum += tensor->data_bytes;
        char name[65];
        memcpy(name, tensor->name.bytes, tensor->name.len);
        name[tensor->name.len] = '\0';
        if (strlen(name) == tensor->name.len) CHECK(gguf_tensor_find(gguf, name) == tensor);
    }
    CHECK(sum < size || sum == 0); // they do not overlap
}

static void read_values(const struct gguf *gguf)
{
    static const char *const keys[] = {"general.name", "general.alignment", "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.token_type", "llama.rope.freq_base"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        uint64_t integer;
        float number;
        bool flag;
        struct gguf_string string;
        const struct gguf_string *strings;
        size_t count;
        const void *data;
        uint8_t sum = 0;
        (void)gguf_get_u64(gguf, keys[i], &integer); // any result is a good one
        (void)gguf_get_f32(gguf, keys[i], &number);
        (void)gguf_get_bool(gguf, keys[i], &flag);
        if (gguf_get_string(gguf, keys[i], &string) == 0) {
            for (size_t at = 0; at < string.len; at++) sum ^= (uint8_t)string.bytes[at];
        }
        if (gguf_get_array(gguf, keys[i], GGUF_I32, &count, &data) == 0) {
            for (size_t at = 0; at < count * 4; at++) sum ^= ((const uint8_t *)data)[at];
        }
        if (gguf_get_string_array(gguf, keys[i], &count, &strings) == 0) {
            for (size_t at = 0; at < count; at++) sum ^= strings[at].len ? (uint8_t)strings[at].bytes[0] : 0;
        }
        __asm__ volatile("" : : "r"(sum)); // keep the reads
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct gguf *gguf;
    struct err err = {0};
    int r = gguf_parse(bytes, size, &gguf, &err);
    if (r < 0) {
        CHECK(err.code == r);
        CHECK(strncmp(err.text, "gguf: ", 6) == 0);
        return 0;
    }
    check_tensors(gguf, bytes, size);
    read_values(gguf);
    (void)gguf_digest(gguf); // reads the edges of every tensor
    struct model_facts facts;
    r = model_facts_read(gguf, &facts, &err);
    if (r == 0) {
        CHECK(facts.head_count % facts.head_count_kv == 0);
        CHECK(facts.head_dims % 2 == 0 && facts.head_dims == facts.rope_dims);
        CHECK(facts.layer_count > 0 && facts.vocab_count > 0);
        CHECK(strlen(facts.name) < sizeof facts.name);
    }
    gguf_free(gguf);
    return 0;
}
