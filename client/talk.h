/* SPDX-License-Identifier: Apache-2.0 */
/* talk - the conversation of `kvasir chat`: the messages so far, and what their answers cost. Owns the
 * texts; no I/O. */
#ifndef KVASIR_CLIENT_TALK_H
#define KVASIR_CLIENT_TALK_H

#include <stddef.h>
#include <stdint.h>

#include "client/kvasir.h"

struct talk {
    struct kvasir_message *messages; // (count of cap); owned, contents too; a system message stands first
    size_t count, cap;
    uint64_t answers;                      // that came whole
    int64_t prompt_tokens, cached_tokens;  // summed over answers that told
    int64_t completion_tokens;             //
    uint64_t first_ns_last, total_ns_last; // of the last answer
    int64_t completion_tokens_last;        //
};

void talk_done(struct talk *talk);

/* Appends a copy; role is a string literal, borrowed for good. 0 or -ENOMEM. */
int talk_push(struct talk *talk, const char *role, const char *text);
void talk_pop(struct talk *talk); // drops the last message

/* Sets, replaces or (NULL or "") drops the system message. 0 or -ENOMEM. */
int talk_set_system(struct talk *talk, const char *text);
void talk_reset(struct talk *talk); // drops all but the system message
void talk_count(struct talk *talk, const struct kvasir_answer *answer);

#endif
