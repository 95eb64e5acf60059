/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/step_cost.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/base/check.h"

/* Prices by their place. PRICE_ROWS + i is for each row in (row_knots[i], row_knots[i + 1]]. */
enum { PRICE_STEP, PRICE_ROWS, PRICE_ROW_KEYS = 6, PRICE_SEQ_KEYS, PRICE_LOGITS };
enum { ROW_PRICES = PRICE_ROW_KEYS - PRICE_ROWS };
static const uint32_t row_knots[ROW_PRICES + 1] = {1, 4, 16, 64, 256, UINT32_MAX};

/* Proportions before anything was measured, in steps of one row: between a machine that computes as slowly as it
 * reads and one that computes hundreds of rows while it reads the weights. Uncertain by their own size. */
static const double guess[STEP_COST_PRICES] = {1, 0.1, 0.1, 0.1, 0.1, 0.1, 1e-4, 1e-4, 0.02};
static const double guess_spread[STEP_COST_PRICES] = {0.3, 0.15, 0.15, 0.15, 0.15, 0.15, 2e-4, 3e-4, 0.05};

static const double row_price_likeness = 0.7; // correlation of neighbours among the prices of rows
static const double scale_drift = 0.02;       // of all prices together, a step, relative
static const double price_drift = 0.004;      // of each price, a step, by its size
static const double outlier = 2.5;            // deviations beyond which a measurement counts as this far away
static const double deviation_first = 0.1, deviation_min = 0.03, deviation_max = 0.5;
static const double step_ns_min = 1;       // so that nothing is divided by 0
static const double deviation_rate = 0.02; // share of the newest measurement in the deviation

void step_cost_init(struct step_cost *cost)
{
    *cost = (struct step_cost){.deviation = deviation_first};
}

/* How many units of each price are in a load. */
static void units_of(const struct step_load *load, double *units)
{
    units[PRICE_STEP] = 1;
    for (int i = 0; i < ROW_PRICES; i++) {
        uint32_t low = row_knots[i], high = row_knots[i + 1];
        uint32_t rows = load->rows < high ? load->rows : high;
        units[PRICE_ROWS + i] = rows > low ? rows - low : 0;
    }
    units[PRICE_ROW_KEYS] = (double)load->row_keys;
    units[PRICE_SEQ_KEYS] = (double)load->seq_keys;
    units[PRICE_LOGITS] = load->logit_rows;
}

static double dot(const double *a, const double *b)
{
    double sum = 0;
    for (int i = 0; i < STEP_COST_PRICES; i++) sum += a[i] * b[i];
    return sum;
}

double step_cost_predict(const struct step_cost *cost, const struct step_load *load)
{
    double units[STEP_COST_PRICES];
    units_of(load, units);
    return dot(units, cost->prices);
}

static double likeness(int a, int b)
{
    if (a == b) return 1;
    bool both_rows = a >= PRICE_ROWS && a < PRICE_ROW_KEYS && b >= PRICE_ROWS && b < PRICE_ROW_KEYS;
    return both_rows ? pow(row_price_likeness, abs(a - b)) : 0;
}

/* The first measurement: what a unit of the guess is worth. */
static void scale_guess(struct step_cost *cost, const double *units, double ns)
{
    double scale = ns / dot(units, guess);
    for (int i = 0; i < STEP_COST_PRICES; i++) {
        cost->prices[i] = scale * guess[i];
        for (int k = 0; k < STEP_COST_PRICES; k++)
            cost->covariance[i][k] = scale * scale * guess_spread[i] * guess_spread[k] * likeness(i, k);
    }
}

/* Time passes: everything may have become slower together, and each price may have changed a little. A price that no
 * step has shown for long becomes no less certain than it was at first: the bound follows the scale. */
static void drift(struct step_cost *cost)
{
    const double *prices = cost->prices;
    double scale = 0;
    for (int i = PRICE_STEP; i < PRICE_ROW_KEYS; i++) scale += prices[i] / guess[i] / PRICE_ROW_KEYS;
    for (int i = 0; i < STEP_COST_PRICES; i++)
        for (int k = 0; k < STEP_COST_PRICES; k++)
            cost->covariance[i][k] += scale_drift * scale_drift * prices[i] * prices[k];
    for (int i = 0; i < STEP_COST_PRICES; i++) {
        double size = fmax(prices[i], scale * guess_spread[i]), most = 4 * size * size;
        cost->covariance[i][i] += price_drift * price_drift * size * size;
        if (cost->covariance[i][i] <= most) continue;
        double shrink = sqrt(most / cost->covariance[i][i]);
        for (int k = 0; k < STEP_COST_PRICES; k++) {
            cost->covariance[i][k] *= shrink;
            cost->covariance[k][i] *= shrink;
        }
    }
}

void step_cost_learn(struct step_cost *cost, const struct step_load *load, uint64_t step_ns)
{
    double units[STEP_COST_PRICES], reach[STEP_COST_PRICES];
    if (step_ns == 0) return;
    units_of(load, units);
    if (cost->count++ == 0) {
        scale_guess(cost, units, (double)step_ns);
        return;
    }
    drift(cost);
    double predicted = dot(units, cost->prices), error = (double)step_ns - predicted;
    double noise = cost->deviation * predicted;
    for (int i = 0; i < STEP_COST_PRICES; i++) reach[i] = dot(cost->covariance[i], units);
    double spread = noise * noise + fmax(dot(units, reach), 0); // rounding may bring it below
    CHECK(spread > 0);
    double error_max = outlier * sqrt(spread);
    double taken = fmin(fmax(error, -error_max), error_max);
    for (int i = 0; i < STEP_COST_PRICES; i++)
        cost->prices[i] = fmax(cost->prices[i] + reach[i] / spread * taken, 0);
    cost->prices[PRICE_STEP] = fmax(cost->prices[PRICE_STEP], step_ns_min);
    for (int i = 0; i < STEP_COST_PRICES; i++)
        for (int k = 0; k < STEP_COST_PRICES; k++) cost->covariance[i][k] -= reach[i] * reach[k] / spread;
    /* The mean absolute error, bounded, as of a normal distribution. */
    double relative = fmin(1.25 * fabs(error) / predicted, deviation_max);
    cost->deviation += deviation_rate * (relative - cost->deviation);
    cost->deviation = fmax(cost->deviation, deviation_min);
}
