/* SPDX-License-Identifier: Apache-2.0 */
/* pace - how many rows of prompts a step takes, and who gets them.
 *
 * Rows. Where nobody decodes a step takes all it may, within PACE_STEP_NS_MAX: whoever comes, or is cancelled, waits
 * for the end of a step, and at long contexts all rows would take seconds, while PACE_STEP_ROWS_MIN are computed
 * nearly as fast each. Where somebody does, every row of a prompt makes its tokens come later. So a step takes as
 * many rows as keep its predicted time within a target: what the operator set, or a stretch of what the decodes alone
 * would take. The stretch is by shares of the machine for everybody who wants it: where w sequences wait for their
 * first token, which counts PACE_FIRST_WEIGHT times, and d for their next, it is (PACE_FIRST_WEIGHT * w + d) / d,
 * from PACE_STRETCH up to what PACE_STEP_NS_MAX allows. So one long prompt hardly slows eight streams, and thirty
 * requests that come at once are not held up by the first two of them that decode. Three bounds beside it:
 *   - prompts get on: as many rows as give them a share of their speed alone (PACE_SPEED_MIN, or less under a target set
 *     by hand), whatever that costs;
 *   - under the automatic target a prompt that is nearly done may be finished at once, if the step then takes no more
 *     than PACE_BURST_STRETCH times the decodes alone, one step in PACE_BURST_STEPS, and one more after a quiet time:
 *     fewer than one token in a hundred waits for it, so that the 99th percentile does not see it, and a short prompt is
 *     answered within two steps instead of ten;
 *   - before anything was measured a step takes all it may.
 *
 * Shares. A quarter of the rows goes to the first in the scheduler's order, so that no stream of short prompts holds it
 * up; a quarter to whoever waits longest for rows, so that each of n prompts gets some within n steps; the rest to
 * those with the least left, so that short prompts overtake long ones. At least a row each for the first two.
 *
 * Chunks never change a token's bits, so any division is allowed. Pure; no clock. */
#ifndef KVASIR_DAEMON_PACE_H
#define KVASIR_DAEMON_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/clock.h"
#include "daemon/step_cost.h"

#define PACE_STRETCH 1.5
#define PACE_FIRST_WEIGHT 3.0
#define PACE_SPEED_MIN 0.15      // of its speed alone, under the automatic target
#define PACE_SPEED_MIN_HAND 0.06 // under one set by hand
#define PACE_BURST_STRETCH 4.0
enum { PACE_BURST_STEPS = 128 };
#define PACE_TARGET_NONE UINT64_MAX
#define PACE_STEP_NS_MAX (NS_PER_S / 2)
enum { PACE_STEP_ROWS_MIN = 64 };

struct pace_prompt {
    uint32_t slot;        // the caller's
    uint32_t rows_wanted; // at least 1
    uint32_t pos_first;   // of its next row
    uint64_t served_step; // the last step that had rows of it
    uint32_t rows;        // answered by pace_share
};

struct pace {
    const struct step_cost *cost;
    struct step_load decodes; // what the step has already
    uint32_t waiting;         // sequences that could begin but for the time that it takes, beside the prompts
    uint64_t target_ns;       // 0: automatic; PACE_TARGET_NONE: none
    uint32_t rows_max;        // the step has room for so many more
    bool may_burst;
};

/* Sorts the prompts (the first of them is the first in the scheduler's order) and sets their rows. -> rows of all;
 * 0: none. *ret_burst: they are more than the target allows, to finish a prompt. */
uint32_t pace_share(const struct pace *pace, struct pace_prompt *prompts, uint32_t count, bool *ret_burst);

#endif
