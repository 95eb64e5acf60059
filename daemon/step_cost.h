/* SPDX-License-Identifier: Apache-2.0 */
/* step_cost - how long a step will take, by what is in it; learnt from the steps that were answered.
 *
 * The time is taken as a sum of a fixed part (weights are read once a step), parts a row whose price depends on how
 * many rows there are (few share the weights' reading, many fill the machine), a part for each key that each row looks
 * at, one for each key that each sequence has read once, and one for each row of logits. All prices are >= 0, so that
 * more work never costs less. They start at a guess of their proportions, the first measurement gives the scale, and a
 * Kalman filter follows them: R. E. Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960. The
 * process noise is largest along the prices themselves, since a machine that others use too becomes slower in
 * everything at once. A measurement far from what was expected is taken as one a few deviations away
 * (P. J. Huber, "Robust Estimation of a Location Parameter", 1964), so that a single outlier moves little and a lasting
 * change is followed within some dozens of steps.
 *
 * No clock, no memory of its own, the same answers for the same history. */
#ifndef KVASIR_DAEMON_STEP_COST_H
#define KVASIR_DAEMON_STEP_COST_H

#include <stdint.h>

enum { STEP_COST_PRICES = 9 };

struct step_load { // what is in a step
    uint32_t rows, logit_rows;
    uint64_t row_keys; // sum over rows of the positions that the row looks at
    uint64_t seq_keys; // sum over sequences of the positions that its last row looks at
};

struct step_cost {
    uint64_t count;                  // measurements; 0: nothing is known
    double prices[STEP_COST_PRICES]; // ns a unit, >= 0
    double covariance[STEP_COST_PRICES][STEP_COST_PRICES];
    double deviation; // of measurements from predictions, relative
};

void step_cost_init(struct step_cost *cost);

/* Adds `rows` rows of one sequence, the first at position pos_first, to a load; logit_rows of them give logits. */
static inline void step_load_add(struct step_load *load, uint32_t rows, uint32_t pos_first,
                                 uint32_t logit_rows)
{
    uint64_t end = (uint64_t)pos_first + rows;
    load->rows += rows;
    load->logit_rows += logit_rows;
    load->row_keys += (uint64_t)rows * pos_first + (uint64_t)rows * (rows + 1ull) / 2;
    load->seq_keys += end;
}

/* ns; 0 before the first measurement. Never less for a load that is nowhere less. */
double step_cost_predict(const struct step_cost *cost, const struct step_load *load);

/* Takes a measurement. 0 ns is ignored. */
void step_cost_learn(struct step_cost *cost, const struct step_load *load, uint64_t step_ns);

#endif
