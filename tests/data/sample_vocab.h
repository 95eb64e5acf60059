/* SPDX-License-Identifier: Apache-2.0 */
/* sample_vocab - a byte-level vocabulary small enough to tokenize by hand, for tests that must run
 * without any model file: one token for each byte, a few merges, and one of each special kind. */
#ifndef KVASIR_TESTS_DATA_SAMPLE_VOCAB_H
#define KVASIR_TESTS_DATA_SAMPLE_VOCAB_H

#include "common/text/tokenizer.h"
#include "tests/data/gguf_writer.h"

/* Ids below 256 are the token of that byte. */
enum sample_token {
    SAMPLE_TH = 256, // the merges, by rank
    SAMPLE_THE,      // th e
    SAMPLE_SP_THE,   // Ġ the
    SAMPLE_IN,       // i n
    SAMPLE_AA,       // a a
    SAMPLE_AAAA,     // aa aa
    SAMPLE_HE,       // h e
    SAMPLE_SP_SP,    // Ġ Ġ
    SAMPLE_LL,       // l l
    SAMPLE_HELL,     // he ll
    SAMPLE_HELLO,    // hell o
    SAMPLE_SY,       // s y
    SAMPLE_HEY,      // normal, but no merge makes it
    SAMPLE_HEY_TWIN, // the same text again
    SAMPLE_BOS,      // <|bos|>       CONTROL
    SAMPLE_IM_END,   // <|im_end|>    CONTROL, EOS
    SAMPLE_SYS,      // sys           CONTROL, and the merge "sy s" makes it
    SAMPLE_UNK,      // <unk>         UNKNOWN
    SAMPLE_TOOL,     // <tool>        USER_DEFINED
    SAMPLE_TOOLS,    // <tool><tool>  USER_DEFINED
    SAMPLE_ACCENT,   // é             USER_DEFINED, literal UTF-8
    SAMPLE_PAD,      // <pad>         UNUSED
    SAMPLE_COUNT,
};

/* Sets the tokenizer.* keys: model gpt2, pre gpt-2. A test may edit them before it opens. */
void sample_vocab_write(struct gguf_writer *writer);

/* Serializes, parses and opens what the writer holds. */
int sample_vocab_open(const struct gguf_writer *writer, struct tokenizer **ret_tokenizer, struct err *err);

/* The unedited vocabulary. */
struct tokenizer *sample_vocab_new(void);

/* Texts of all tokens as the file has them, and their types; SAMPLE_COUNT each. */
const char *const *sample_vocab_texts(void);
const int32_t *sample_vocab_types(void);

#endif
