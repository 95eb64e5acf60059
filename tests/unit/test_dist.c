/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of worker/dist and the exchange, on one host and on several that send messages: what a rank wrote before a
 * barrier is what every other reads behind it, with whatever delays; a rank that is killed leaves nobody waiting for
 * longer than a look; statuses, notes and plans. Ranks are processes. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/base/sanitizer.h"
#include "tests/unit/ranks_rig.h"

enum {
    ROUNDS = SANITIZES_ADDRESS || SANITIZES_THREAD ? 200 : 1000,
    ROUNDS_ON_HOSTS = 100, // there are more layouts, and waits nap
    COLS = 96,
    RANKS_TESTED = 4,
    VICTIM = 1,
    DEATH_ROUND = 20,
};

static const uint32_t bounds[RANKS_TESTED + 1][RANKS_TESTED + 1] = {
    {0}, {0, 96}, {0, 64, 96}, {0, 32, 64, 96}, {0, 32, 32, 64, 96}}; // of four, one has none

static struct exchange_shape shape_of(uint32_t ranks)
{
    return (struct exchange_shape){.rank_count = ranks,
                                   .group_count = ranks,
                                   .rows_max = 2,
                                   .logits_max = 20,
                                   .embedding_dims = COLS,
                                   .attention_dims = COLS,
                                   .feed_forward_dims = COLS,
                                   .vocab_count = COLS,
                                   .plan_bytes = 1000,
                                   .note_bytes = 100};
}

/* Sometimes nothing, sometimes the rest of the time slice, sometimes some time of computing. */
static void dawdle(struct rng *rng)
{
    uint64_t kind = rng_below(rng, 8);
    if (kind == 0) (void)sched_yield();
    if (kind != 1) return;
    uint64_t end = clock_mono_ns() + rng_below(rng, 100 * NS_PER_US);
    while (clock_mono_ns() < end) continue;
}

static uint32_t round_count = ROUNDS; // of the case in hand

/* Ranks on hosts, as first ranks of each. */
struct layout {
    uint32_t host_count;
    uint32_t host_first[HOSTS_RIG_MAX + 1];
};
static const struct layout layouts[] = {{2, {0, 1, 2}}, {2, {0, 1, 3}},    {3, {0, 1, 2, 3}},
                                        {2, {0, 2, 4}}, {3, {0, 2, 3, 4}}, {4, {0, 1, 2, 3, 4}}};

/* What rank `rank` writes in column `col` of a round. */
static float value_of(uint32_t round, uint32_t col)
{
    return (float)(round % 1000 * COLS + col);
}

static int run_rounds(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    struct rng rng = {.state = 1000 + rank};
    uint64_t bytes;
    float *x = dist_area(dist, EXCHANGE_X, &bytes);
    const uint32_t *bound = bounds[rig->shape.rank_count];
    const struct dist_plane plane = {
        .base = x, .row_bytes = COLS * sizeof(float), .unit_cols = 1, .unit_bytes = 4};
    for (uint32_t round = 0; round < round_count; round++) {
        dawdle(&rng);
        for (uint32_t col = bound[rank]; col < bound[rank + 1]; col++) x[col] = value_of(round, col);
        if (dist_gather(dist, &plane, 1, 1, bound) != 0) return 2;
        dawdle(&rng);
        for (uint32_t col = 0; col < COLS; col++)
            if (x[col] != value_of(round, col)) return 3;
        if (dist_barrier(dist) != 0) return 4; // rule E2
    }
    dist_close(dist);
    return 0;
}

static void run_with(const struct exchange_shape *shape, int (*fn)(struct ranks_rig *rig, uint32_t rank),
                     int wanted)
{
    struct ranks_rig rig;
    ranks_rig_open(shape, 4096, &rig);
    int failed = ranks_rig_run(&rig, fn);
    ranks_rig_close(&rig);
    assert_int_equal(failed, wanted);
}

static void run_on_hosts(int (*fn)(struct ranks_rig *rig, uint32_t rank), int wanted)
{
    round_count = ROUNDS_ON_HOSTS;
    for (size_t i = 0; i < COUNT_OF(layouts); i++) {
        const struct exchange_shape shape = shape_of(layouts[i].host_first[layouts[i].host_count]);
        struct ranks_rig rig;
        ranks_rig_open_hosts(&shape, layouts[i].host_first, layouts[i].host_count, 4096, &rig);
        int failed = ranks_rig_run(&rig, fn);
        ranks_rig_close(&rig);
        if (failed != wanted) fail_msg("layout %zu: %d ranks failed", i, failed);
    }
    round_count = ROUNDS;
}

static void test_dist_ranks_read_what_the_others_wrote(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_rounds, 0);
    }
    run_on_hosts(run_rounds, 0);
}

/* One reads the other's second plane while that one writes its third: what is read between two barriers stays. */
static int run_two_areas(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    struct rng rng = {.state = 2000 + rank};
    uint64_t bytes;
    float *areas[] = {dist_area(dist, EXCHANGE_ATTENTION, &bytes),
                      dist_area(dist, EXCHANGE_FEED_FORWARD, &bytes)};
    const uint32_t *bound = bounds[rig->shape.rank_count];
    for (uint32_t round = 0; round < round_count; round++) {
        float *area = areas[round % 2];
        for (uint32_t col = bound[rank]; col < bound[rank + 1]; col++) area[col] = value_of(round, col);
        if (dist_barrier(dist) != 0) return 2;
        dawdle(&rng);
        for (uint32_t col = 0; col < COLS; col++)
            if (area[col] != value_of(round, col)) return 3;
    }
    dist_close(dist);
    return 0;
}

static void test_dist_two_areas_need_one_barrier_a_round(void **state)
{
    (void)state;
    for (uint32_t ranks = 2; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_two_areas, 0);
    }
}

static int run_statuses(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    for (uint32_t round = 0; round < round_count; round++) {
        struct rng rng = {.state = round}; // the same in all ranks
        int least = 0, own = 0;
        for (uint32_t i = 0; i < rig->shape.rank_count; i++) {
            int status = rng_below(&rng, 3) ? 0 : -(int)rng_below(&rng, 1000);
            if (i == rank) own = status;
            if (status < least) least = status;
        }
        uint32_t *note = dist_note(dist, rank);
        *note = round * 10 + rank;
        if (dist_agree(dist, own, 100) != least) return 2;
        for (uint32_t i = 0; rank == 0 && i < rig->shape.rank_count; i++)
            if (*(const uint32_t *)dist_note(dist, i) != round * 10 + i) return 3;
        if (dist_barrier(dist) != 0) return 4;
    }
    dist_close(dist);
    return 0;
}

static void test_dist_all_ranks_agree_on_the_least_status(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_statuses, 0);
    }
    run_on_hosts(run_statuses, 0);
}

static int run_plans(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    for (uint32_t round = 0; round < round_count; round++) {
        struct rng rng = {.state = round}; // the same in all ranks
        uint8_t plan[1000], got[1000];
        size_t len = (size_t)rng_below(&rng, sizeof plan + 1), got_len = 0;
        for (size_t i = 0; i < len; i++) plan[i] = (uint8_t)rng_next(&rng);
        if (rank == 0 && dist_share(dist, plan, len) != 0) return 2;
        if (rank != 0 && dist_receive(dist, 0, got, sizeof got, &got_len) != 0) return 3;
        if (rank != 0 && (got_len != len || memcmp(plan, got, len) != 0)) return 4;
        if (dist_agree(dist, 0, 100) != 0) return 5;
    }
    dist_close(dist);
    return 0;
}

static void test_dist_a_plan_reaches_all_ranks(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_plans, 0);
    }
    run_on_hosts(run_plans, 0);
}

/* One is killed at some barrier. The others end with what look says, and for good. memory: when it died. */
enum { PIECES_MAX = 100, STOLEN_ROUNDS = 3 };

/* Pieces that rank `rank` has in a round: sometimes fewer than lanes, sometimes none. */
static uint32_t pieces_of(uint32_t round, uint32_t rank)
{
    return (round * 7 + rank * 31) % (PIECES_MAX + 1);
}

/* All of every rank's pieces, our own first; each is counted where all ranks count. */
static void take_pieces(struct dist *dist, _Atomic uint32_t (*counts)[PIECES_MAX], uint32_t round,
                        uint32_t rank, struct rng *rng)
{
    const uint32_t ranks = dist_local_count(dist);
    for (uint32_t i = 0; i < ranks; i++) {
        const uint32_t local = (rank + i) % ranks;
        for (uint32_t lane = 0; lane < DIST_LANES; lane++) {
            uint32_t piece;
            while (dist_piece_take(dist, local, lane, pieces_of(round, local), &piece)) {
                atomic_fetch_add(&counts[local][piece], 1);
                dawdle(rng);
            }
        }
    }
}

static int run_pieces(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    struct rng rng = {.state = 3000 + rank};
    _Atomic uint32_t(*counts)[PIECES_MAX] = rig->memory;
    for (uint32_t round = 0; round < round_count; round++) {
        dist_op_begin(dist);
        // A late one finds its work done: the others leave only when nothing of it is left.
        if (round < STOLEN_ROUNDS && rank == round % rig->shape.rank_count && rig->shape.rank_count > 1)
            while (atomic_load(&counts[rank][0]) < round + (pieces_of(round, rank) > 0)) (void)sched_yield();
        take_pieces(dist, counts, round, rank, &rng);
        if (dist_barrier(dist) != 0) return 2;
        for (uint32_t r = 0; r < rig->shape.rank_count; r++)
            for (uint32_t piece = 0; piece < pieces_of(round, r); piece++)
                if (atomic_exchange(&counts[r][piece], round + 1) != round + 1) return 3;
        if (dist_barrier(dist) != 0) return 4;
        for (uint32_t piece = 0; piece < PIECES_MAX; piece++) atomic_store(&counts[rank][piece], round + 1);
        if (dist_barrier(dist) != 0) return 5;
    }
    dist_close(dist);
    return 0;
}

static void test_dist_every_piece_of_an_op_is_taken_once_by_whoever_has_time(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_pieces, 0);
    }
}

static int run_death(struct ranks_rig *rig, uint32_t rank)
{
    struct dist *dist = ranks_rig_dist(rig, rank);
    _Atomic uint64_t *died_ns = rig->memory;
    for (uint32_t round = 0;; round++) {
        if (rank == VICTIM && round == DEATH_ROUND) {
            atomic_store(died_ns, clock_mono_ns());
            (void)kill(getpid(), SIGKILL);
        }
        int r = dist_barrier(dist);
        if (r == 0 && round < DEATH_ROUND) continue;
        uint64_t took_ns = clock_mono_ns() - atomic_load(died_ns);
        bool stays = dist_barrier(dist) == -ECANCELED && dist_agree(dist, 0, 0) == -ECANCELED;
        return r == -ECANCELED && round == DEATH_ROUND && stays && took_ns < 5 * NS_PER_S ? 0 : 2;
    }
}

static void test_dist_a_killed_rank_leaves_nobody_waiting(void **state)
{
    (void)state;
    for (uint32_t ranks = 2; ranks <= RANKS_TESTED; ranks++) {
        const struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_death, 1);
    }
    run_on_hosts(run_death, 1);
}

/* Two planes, blocks of columns, the last of which is not whole, of many rows; then rows of several owners. */
static int run_planes(struct ranks_rig *rig, uint32_t rank)
{
    enum { ROWS = 17, UNIT = 32, UNIT_BYTES = 20, WIDTH = 88, LINE = 3 * UNIT_BYTES + 4, VALUES = WIDTH * 4 };
    static const uint32_t borders[RANKS_TESTED + 1][RANKS_TESTED + 1] = {
        {0}, {0, 88}, {0, 64, 88}, {0, 32, 64, 88}, {0, 32, 32, 64, 88}};
    struct dist *dist = ranks_rig_dist(rig, rank);
    const uint32_t count = rig->shape.rank_count, *border = borders[count];
    uint64_t bytes;
    uint8_t *area = dist_area(dist, EXCHANGE_LOGITS, &bytes);
    const struct dist_plane planes[] = {
        {.base = area, .row_bytes = LINE, .unit_cols = UNIT, .unit_bytes = UNIT_BYTES},
        {.base = area + ROWS * LINE, .row_bytes = VALUES, .unit_cols = 1, .unit_bytes = 4}};
    CHECK(bytes >= ROWS * (LINE + VALUES));
    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t i = border[rank] / UNIT * UNIT_BYTES;
             i < (border[rank + 1] + UNIT - 1) / UNIT * UNIT_BYTES; i++)
            area[row * LINE + i] = (uint8_t)(row * 7 + i);
        for (uint32_t i = border[rank] * 4; i < border[rank + 1] * 4; i++)
            area[ROWS * LINE + row * VALUES + i] = (uint8_t)(row * 11 + i);
    }
    if (dist_gather(dist, planes, COUNT_OF(planes), ROWS, border) != 0) return 2;
    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t i = 0; i < 3 * UNIT_BYTES; i++)
            if (area[row * LINE + i] != (uint8_t)(row * 7 + i)) return 3;
        for (uint32_t i = 0; i < VALUES; i++)
            if (area[ROWS * LINE + row * VALUES + i] != (uint8_t)(row * 11 + i)) return 4;
        if (area[row * LINE + 3 * UNIT_BYTES] != 0) return 5; // behind the last column
    }
    if (dist_barrier(dist) != 0) return 6; // rule E2
    uint16_t owners[ROWS];
    for (uint32_t row = 0; row < ROWS; row++) {
        owners[row] = (uint16_t)(row * 5 % count);
        if (owners[row] == rank) memset(area + ROWS * LINE + row * VALUES, (int)(row + 100), VALUES);
    }
    if (dist_gather_rows(dist, &planes[1], ROWS, owners) != 0) return 7;
    for (uint32_t i = 0; i < ROWS * VALUES; i++)
        if (area[ROWS * LINE + i] != (uint8_t)(i / VALUES + 100)) return 8;
    if (dist_agree(dist, 0, 0) != 0) return 9;
    dist_close(dist);
    return 0;
}

static void test_dist_planes_and_rows_reach_all_ranks(void **state)
{
    (void)state;
    for (uint32_t ranks = 1; ranks <= RANKS_TESTED; ranks++) {
        struct exchange_shape shape = shape_of(ranks);
        run_with(&shape, run_planes, 0);
    }
    run_on_hosts(run_planes, 0);
}

static void test_dist_one_rank_alone_waits_for_nobody(void **state)
{
    (void)state;
    assert_int_equal(dist_barrier(NULL), 0);
    assert_int_equal(dist_gather(NULL, NULL, 0, 0, NULL), 0);
    assert_int_equal(dist_gather_rows(NULL, NULL, 0, NULL), 0);
    assert_int_equal(dist_agree(NULL, -5, 0), -5);
    assert_int_equal(dist_rank(NULL), 0);
    assert_int_equal(dist_rank_count(NULL), 1);
}

static void test_exchange_of_another_shape_or_life_is_refused(void **state)
{
    (void)state;
    struct exchange_shape shape = shape_of(2), other = shape;
    struct ranks_rig rig;
    struct err err = {0};
    ranks_rig_open(&shape, 0, &rig);
    assert_int_equal(exchange_verify(rig.segment, rig.segment_bytes, &shape, 1, &err), 0);
    assert_int_equal(exchange_verify(rig.segment, rig.segment_bytes, &shape, 2, &err), ERR_FORMAT);
    assert_int_equal(exchange_verify(rig.segment, rig.segment_bytes - 1, &shape, 1, &err), ERR_FORMAT);
    assert_int_equal(exchange_verify(rig.segment, 10, &shape, 1, &err), ERR_FORMAT);
    other.note_bytes--; // as large
    assert_int_equal(exchange_verify(rig.segment, rig.segment_bytes, &other, 1, &err), ERR_FORMAT);
    memset(rig.segment, 0, 8);
    assert_int_equal(exchange_verify(rig.segment, rig.segment_bytes, &shape, 1, &err), ERR_FORMAT);
    ranks_rig_close(&rig);
}

static void test_exchange_areas_do_not_overlap(void **state)
{
    (void)state;
    const struct exchange_shape shape = shape_of(3);
    struct ranks_rig rig;
    ranks_rig_open(&shape, 0, &rig);
    uint8_t *end = (uint8_t *)(exchange_cells(rig.segment) + shape.rank_count);
    for (enum exchange_area area = EXCHANGE_PLAN; area < EXCHANGE_AREAS; area++) {
        uint64_t bytes;
        uint8_t *base = exchange_area(rig.segment, &shape, area, &bytes);
        assert_true(base >= end);
        assert_int_equal((uintptr_t)base % 4096, 0);
        end = base + bytes;
    }
    assert_ptr_equal(end, (uint8_t *)rig.segment + rig.segment_bytes);
    ranks_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dist_ranks_read_what_the_others_wrote),
        cmocka_unit_test(test_dist_planes_and_rows_reach_all_ranks),
        cmocka_unit_test(test_dist_two_areas_need_one_barrier_a_round),
        cmocka_unit_test(test_dist_all_ranks_agree_on_the_least_status),
        cmocka_unit_test(test_dist_a_plan_reaches_all_ranks),
        cmocka_unit_test(test_dist_every_piece_of_an_op_is_taken_once_by_whoever_has_time),
        cmocka_unit_test(test_dist_a_killed_rank_leaves_nobody_waiting),
        cmocka_unit_test(test_dist_one_rank_alone_waits_for_nobody),
        cmocka_unit_test(test_exchange_of_another_shape_or_life_is_refused),
        cmocka_unit_test(test_exchange_areas_do_not_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
