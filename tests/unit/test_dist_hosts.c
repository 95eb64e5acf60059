/* SPDX-License-Identifier: Apache-2.0 */
/* What a leader makes of messages that are not what they should be and of waiting: the other leader is this
 * test, which writes bytes. That good messages bring the right columns is test_dist's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "common/base/clock.h"
#include "tests/unit/hosts_rig.h"

enum { COLS = 64, PLAN_BYTES = 100, NOTE_BYTES = 12 };
enum { GATHER = 1, ROWS, SHARE, AGREE }; // of headers

static const uint32_t host_first[] = {0, 1, 2};
static const uint32_t bounds[] = {0, 32, 64};

struct world {
    struct hosts_rig rig;
    uint32_t host; // who is tested
    struct dist_hosts hosts;
    float columns[COLS];
    int looks, looks_max; // look says no at the last; 0: never
};

static int look(void *arg)
{
    struct world *world = arg;
    return ++world->looks == world->looks_max ? -ECANCELED : 0;
}

static void world_open(struct world *world, uint32_t host)
{
    *world = (struct world){.host = host};
    hosts_rig_open(host_first, 2, &world->rig);
    const struct dist_hosts_conf conf = {.rank = host,
                                         .rank_count = 2,
                                         .host_count = 2,
                                         .host_first = host_first,
                                         .shape = {.rank_count = 1,
                                                   .group_count = 2,
                                                   .rows_max = 1,
                                                   .logits_max = 1,
                                                   .embedding_dims = COLS,
                                                   .attention_dims = COLS,
                                                   .feed_forward_dims = COLS,
                                                   .vocab_count = COLS,
                                                   .plan_bytes = PLAN_BYTES,
                                                   .note_bytes = NOTE_BYTES},
                                         .messages = hosts_rig_messages(&world->rig, host),
                                         .look = look,
                                         .look_arg = world};
    assert_int_equal(dist_hosts_open(&conf, &world->hosts, NULL), 0);
    assert_string_equal(dist_hosts_reason(&world->hosts), "");
}

static void world_close(struct world *world)
{
    dist_hosts_close(&world->hosts);
    hosts_rig_close(&world->rig);
}

/* As the other leader. */
static void say(struct world *world, uint32_t kind, uint32_t sequence, int32_t status, size_t payload_bytes)
{
    struct {
        uint64_t len;
        uint32_t kind, sequence;
        int32_t status;
        uint32_t reserved;
        uint8_t payload[2 * PLAN_BYTES + COLS * 4];
    } message = {.len = 16 + payload_bytes, .kind = kind, .sequence = sequence, .status = status};
    memset(message.payload, 7, sizeof message.payload);
    const int fd = world->rig.fds[1 - world->host][world->host];
    assert_int_equal(send(fd, &message, 24 + payload_bytes, 0), 24 + payload_bytes);
}

static int gather(struct world *world)
{
    const struct dist_plane plane = {
        .base = world->columns, .row_bytes = sizeof world->columns, .unit_cols = 1, .unit_bytes = 4};
    return world->hosts.gather(world->hosts.arg, &plane, 1, 1, bounds);
}

static void test_dist_hosts_a_message_that_is_not_the_call_s_ends_the_group(void **state)
{
    (void)state;
    static const struct {
        uint32_t kind, sequence;
        size_t bytes;
        int r;
    } cases[] = {{GATHER, 1, 128, 0},        {GATHER, 1, 127, ERR_PEER}, {GATHER, 1, 0, ERR_PEER},
                 {GATHER, 1, 129, ERR_PEER}, {GATHER, 2, 128, ERR_PEER}, {GATHER, 0, 128, ERR_PEER},
                 {ROWS, 1, 128, ERR_PEER},   {AGREE, 1, 0, ERR_PEER},    {0, 1, 128, ERR_PEER}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct world world;
        world_open(&world, 0);
        say(&world, cases[i].kind, cases[i].sequence, 0, cases[i].bytes);
        assert_int_equal(gather(&world), cases[i].r);
        const bool is_good = cases[i].r == 0;
        assert_int_equal(dist_hosts_reason(&world.hosts)[0] == '\0', is_good);
        float seven;
        memset(&seven, 7, sizeof seven);
        for (uint32_t col = 0; col < COLS; col++)
            assert_memory_equal(&world.columns[col], is_good && col >= 32 ? &seven : &(float){0}, 4);
        if (!is_good) { // for ever
            int32_t status = 0;
            uint64_t bytes = 0;
            assert_int_equal(gather(&world), ERR_PEER);
            assert_int_equal(world.hosts.agree(world.hosts.arg, &status, NULL, 0), ERR_PEER);
            assert_int_equal(world.hosts.share(world.hosts.arg, NULL, 0, &bytes), ERR_PEER);
        }
        world_close(&world);
    }
}

static void test_dist_hosts_a_header_alone_is_no_part_of_a_message(void **state)
{
    (void)state;
    struct world world;
    world_open(&world, 0);
    const struct {
        uint64_t len;
        uint8_t bytes[5];
    } message = {5, {1, 0, 0, 0, 1}};
    assert_int_equal(send(world.rig.fds[1][0], &message, 13, 0), 13);
    assert_int_equal(gather(&world), ERR_PEER);
    world_close(&world);
}

static void test_dist_hosts_notes_and_the_least_status_come_to_rank_0(void **state)
{
    (void)state;
    struct world world;
    uint8_t notes[2 * CACHELINE_BYTES] = {0}, seven[NOTE_BYTES];
    int32_t status = -5;
    world_open(&world, 0);
    memset(seven, 7, sizeof seven);
    say(&world, AGREE, 1, -9, NOTE_BYTES);
    assert_int_equal(world.hosts.agree(world.hosts.arg, &status, notes, NOTE_BYTES), 0);
    assert_int_equal(status, -9);
    assert_memory_equal(notes + CACHELINE_BYTES, seven, NOTE_BYTES);
    assert_int_equal(notes[0], 0);
    assert_int_equal(notes[CACHELINE_BYTES + NOTE_BYTES], 0);
    status = -5;
    say(&world, AGREE, 2, 0, NOTE_BYTES - 1);
    assert_int_equal(world.hosts.agree(world.hosts.arg, &status, notes, NOTE_BYTES), ERR_PEER);
    assert_int_equal(status, -5);
    world_close(&world);
}

static int receive(struct world *world, uint64_t room, uint64_t *ret_bytes)
{
    uint8_t plan[PLAN_BYTES];
    return world->hosts.share(world->hosts.arg, plan, room, ret_bytes);
}

static void test_dist_hosts_plans_are_bounded(void **state)
{
    (void)state;
    struct world world;
    uint64_t bytes = 0;
    world_open(&world, 1);
    say(&world, SHARE, 1, 0, PLAN_BYTES);
    assert_int_equal(receive(&world, PLAN_BYTES, &bytes), 0);
    assert_int_equal(bytes, PLAN_BYTES);
    say(&world, SHARE, 2, 0, 0);
    assert_int_equal(receive(&world, PLAN_BYTES, &bytes), 0);
    assert_int_equal(bytes, 0);
    say(&world, SHARE, 3, 0, PLAN_BYTES);
    assert_int_equal(receive(&world, PLAN_BYTES - 1, &bytes), ERR_PEER);
    world_close(&world);
    static const struct {
        uint32_t kind, sequence;
        size_t bytes;
    } bad[] = {{SHARE, 1, PLAN_BYTES + 1}, {SHARE, 2, 1}, {AGREE, 1, 0}, {GATHER, 1, 1}};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        world_open(&world, 1);
        say(&world, bad[i].kind, bad[i].sequence, 0, bad[i].bytes);
        assert_int_equal(receive(&world, PLAN_BYTES, &bytes), ERR_PEER);
        world_close(&world);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); // always there
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void test_dist_hosts_a_wait_ends_when_look_says_so_and_costs_little(void **state)
{
    (void)state;
    struct world world;
    uint64_t bytes = 0;
    world_open(&world, 1);
    world.looks_max = 5;
    const uint64_t start_ns = clock_mono_ns(), used_ns = cpu_ns();
    assert_int_equal(receive(&world, PLAN_BYTES, &bytes), -ECANCELED);
    const uint64_t took_ns = clock_mono_ns() - start_ns;
    assert_int_equal(world.looks, 5);
    assert_in_range(took_ns, 5 * DIST_LOOK_NS, UINT64_MAX);
    assert_in_range(cpu_ns() - used_ns, 0, took_ns / 10); // a thread that spins uses all
    assert_int_equal(receive(&world, PLAN_BYTES, &bytes), -ECANCELED);
    assert_int_equal(world.looks, 5);
    assert_non_null(strstr(dist_hosts_reason(&world.hosts), "nothing came for"));
    struct hosts_rig rig = world.rig;
    dist_hosts_close(&world.hosts); // memory of the message that is still under way stays
    hosts_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dist_hosts_a_message_that_is_not_the_call_s_ends_the_group),
        cmocka_unit_test(test_dist_hosts_a_header_alone_is_no_part_of_a_message),
        cmocka_unit_test(test_dist_hosts_notes_and_the_least_status_come_to_rank_0),
        cmocka_unit_test(test_dist_hosts_plans_are_bounded),
        cmocka_unit_test(test_dist_hosts_a_wait_ends_when_look_says_so_and_costs_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
