/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pace.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/check.h"

/* The prompts while a number of rows is looked for: [0] is the first in order, the others by rows wanted. */
struct prompts {
    struct pace_prompt *all;
    uint32_t count;
    uint32_t unserved; // who waits longest for rows; 0 if that is the first
    uint64_t wanted;
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static int by_rows_wanted(const void *a, const void *b)
{
    const struct pace_prompt *x = a, *y = b;
    if (x->rows_wanted != y->rows_wanted) return x->rows_wanted < y->rows_wanted ? -1 : 1;
    return (x->served_step > y->served_step) - (x->served_step < y->served_step);
}

static struct prompts prompts_sort(struct pace_prompt *all, uint32_t count)
{
    struct prompts prompts = {.all = all, .count = count, .wanted = all[0].rows_wanted};
    qsort(all + 1, count - 1, sizeof *all, by_rows_wanted);
    for (uint32_t i = 1; i < count; i++) {
        if (all[i].served_step < all[prompts.unserved].served_step) prompts.unserved = i;
        prompts.wanted += all[i].rows_wanted;
    }
    return prompts;
}

static uint32_t give(struct pace_prompt *prompt, uint32_t rows)
{
    uint32_t more = min_u32(rows, prompt->rows_wanted - prompt->rows);
    prompt->rows += more;
    return more;
}

/* Divides `rows`, at least `floor` of them each for the first and for the longest unserved, and returns what the step
 * then holds. */
static struct step_load share(const struct pace *pace, const struct prompts *prompts, uint32_t rows,
                              uint32_t floor)
{
    struct pace_prompt *all = prompts->all;
    struct step_load load = pace->decodes;
    uint32_t left = rows;
    for (uint32_t i = 0; i < prompts->count; i++) all[i].rows = 0;
    left -= give(&all[0], min_u32(floor, left));
    left -= give(&all[prompts->unserved], prompts->unserved > 0 ? min_u32(floor, left) : 0);
    bool first_done = false; // the first takes its place among the others by what it wants
    for (uint32_t i = 1; i < prompts->count && left > 0; i++) {
        if (!first_done && all[0].rows_wanted <= all[i].rows_wanted) {
            left -= give(&all[0], left);
            first_done = true;
        }
        left -= give(&all[i], left);
    }
    left -= give(&all[0], left);
    CHECK(left == 0 || rows > prompts->wanted);
    for (uint32_t i = 0; i < prompts->count; i++)
        if (all[i].rows > 0)
            step_load_add(&load, all[i].rows, all[i].pos_first, all[i].rows == all[i].rows_wanted);
    return load;
}

static uint32_t quarter(uint32_t rows)
{
    return max_u32(rows / 4, 1);
}

static double time_of(const struct pace *pace, const struct prompts *prompts, uint32_t rows)
{
    struct step_load load = share(pace, prompts, rows, quarter(rows));
    return step_cost_predict(pace->cost, &load);
}

/* The most rows in [0, rows_max] with a time of at most target_ns. */
static uint32_t rows_within(const struct pace *pace, const struct prompts *prompts, uint32_t rows_max,
                            double target_ns)
{
    uint32_t low = 0, high = rows_max;
    if (time_of(pace, prompts, rows_max) <= target_ns) return rows_max;
    while (low + 1 < high) {
        uint32_t middle = low + (high - low) / 2;
        if (time_of(pace, prompts, middle) <= target_ns) low = middle;
        else high = middle;
    }
    return low;
}

/* The fewest rows in [1, rows_max] that are computed at `speed` rows a ns; more rows are computed faster, as the
 * decodes are shared by more. */
static uint32_t rows_at_speed(const struct pace *pace, const struct prompts *prompts, uint32_t rows_max,
                              double speed)
{
    uint32_t low = 0, high = rows_max;
    while (low + 1 < high) {
        uint32_t middle = low + (high - low) / 2;
        if (middle >= speed * time_of(pace, prompts, middle)) high = middle;
        else low = middle;
    }
    return high;
}

/* Rows that finish the prompt that wants least, and one each for the two that always get some; 0: it takes too long. */
static uint32_t rows_burst(const struct pace *pace, const struct prompts *prompts, uint32_t rows_max,
                           double most_ns)
{
    uint32_t rows = prompts->all[0].rows_wanted;
    if (prompts->count > 1) rows = min_u32(rows, prompts->all[1].rows_wanted) + 2;
    if (rows > rows_max) return 0;
    struct step_load load = share(pace, prompts, rows, 1);
    return step_cost_predict(pace->cost, &load) <= most_ns ? rows : 0;
}

/* Of at most `most` rows those of a step in which nobody decodes. */
static uint32_t rows_alone(const struct pace *pace, const struct prompts *prompts, uint32_t most)
{
    uint32_t rows = rows_within(pace, prompts, most, PACE_STEP_NS_MAX);
    return max_u32(rows, min_u32(PACE_STEP_ROWS_MIN, most));
}

/* Of a step, by equal shares: see pace.h. */
static double target_auto(const struct pace *pace, uint32_t prompt_count, double alone_ns)
{
    double decodes = pace->decodes.rows, firsts = (double)prompt_count + pace->waiting;
    double stretch = (PACE_FIRST_WEIGHT * firsts + decodes) / decodes;
    double least_ns = PACE_STRETCH * alone_ns;
    return fmax(least_ns, fmin(stretch * alone_ns, PACE_STEP_NS_MAX));
}

static uint32_t rows_beside_decodes(const struct pace *pace, const struct prompts *prompts, uint32_t most,
                                    bool *ret_burst)
{
    bool is_auto = pace->target_ns == 0;
    double alone_ns = step_cost_predict(pace->cost, &pace->decodes);
    double target_ns = is_auto ? target_auto(pace, prompts->count, alone_ns) : (double)pace->target_ns;
    uint32_t rows = rows_within(pace, prompts, most, target_ns);
    /* Their speed if nobody decoded: of the most rows that one step takes. */
    struct pace idle = *pace;
    idle.decodes = (struct step_load){0};
    double speed = most / time_of(&idle, prompts, most);
    uint32_t fewest = rows_at_speed(pace, prompts, most,
                                    speed * (is_auto ? PACE_SPEED_MIN : PACE_SPEED_MIN_HAND));
    rows = max_u32(rows, max_u32(fewest, min_u32(prompts->count > 1 ? 2 : 1, most)));
    uint32_t burst = 0;
    if (is_auto && pace->may_burst) burst = rows_burst(pace, prompts, most, PACE_BURST_STRETCH * alone_ns);
    *ret_burst = burst > rows;
    return max_u32(rows, burst);
}

uint32_t pace_share(const struct pace *pace, struct pace_prompt *all, uint32_t count, bool *ret_burst)
{
    *ret_burst = false;
    if (count == 0 || pace->rows_max == 0) return 0;
    struct prompts prompts = prompts_sort(all, count);
    uint32_t most = prompts.wanted < pace->rows_max ? (uint32_t)prompts.wanted : pace->rows_max, rows = most;
    if (pace->cost->count > 0 && pace->target_ns != PACE_TARGET_NONE) {
        if (pace->decodes.rows == 0) rows = rows_alone(pace, &prompts, most);
        else rows = rows_beside_decodes(pace, &prompts, most, ret_burst);
    }
    (void)share(pace, &prompts, rows, *ret_burst ? 1 : quarter(rows));
    return rows;
}
