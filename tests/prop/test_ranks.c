/* SPDX-License-Identifier: Apache-2.0 */
/* The logits of a group of ranks are, bit for bit, those of one rank: the same random schedule - chunks of three
 * sequences side by side, one of them behind pages of another - runs in one process alone and then in 2, 3 and 4
 * processes over one exchange, and on two and three hosts, and the logits of all rows are compared. All levels that
 * the machine has; types of weights and of pages; KV heads that divide evenly, that do not, and that are fewer than
 * the ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/rng.h"
#include "common/base/sanitizer.h"
#include "tests/data/random_model.h"
#include "tests/unit/kern_rig.h"
#include "tests/unit/mates_rig.h"
#include "tests/unit/model_rig.h"

enum {
    SEQS = 3,
    TOKENS = 50,
    PREFIX_PAGES = 2,
    SEQ_PAGES = 4,
    PAGES = SEQS * SEQ_PAGES,
    ROWS_MAX = 64,
    RANKS_TESTED = 4
};

static uint64_t seed;

/* The case in hand; set before the forks. */
static struct {
    const char *path;        // or
    const struct buf *bytes; // of a file
    struct model_facts facts;
    const struct kern_ops *ops;
    enum kern_kv kv_type;
    uint32_t threads;
} wanted;

struct schedule {
    struct rng rng;
    uint32_t tokens[SEQS][TOKENS];
    uint32_t pages[SEQS][SEQ_PAGES]; // of sequence 1 the first PREFIX_PAGES are those of sequence 0
    uint32_t done[SEQS];             // positions that are computed
};

/* One step of it. */
struct rows {
    struct kern_seq seqs[SEQS];
    uint32_t seq_count, row_count;
    uint32_t tokens[ROWS_MAX], positions[ROWS_MAX], numbers[ROWS_MAX];
};

static void schedule_init(struct schedule *schedule)
{
    *schedule = (struct schedule){.rng = {.state = seed}};
    for (uint32_t s = 0; s < SEQS; s++) {
        for (uint32_t i = 0; i < TOKENS; i++)
            schedule->tokens[s][i] = (uint32_t)rng_below(&schedule->rng, wanted.facts.vocab_count);
        for (uint32_t i = 0; i < SEQ_PAGES; i++) schedule->pages[s][i] = (s * SEQ_PAGES + i) * 5 % PAGES;
    }
    for (uint32_t i = 0; i < PREFIX_PAGES; i++) schedule->pages[1][i] = schedule->pages[0][i];
}

/* Rows of every sequence that may go on. -> whether there are any. */
static bool schedule_next(struct schedule *schedule, struct rows *ret_rows)
{
    struct rows *rows = ret_rows;
    *rows = (struct rows){.seq_count = 0};
    for (uint32_t s = 0; s < SEQS; s++) {
        const uint32_t prefix = PREFIX_PAGES * PAGE_TOKENS;
        if (s == 1 && schedule->done[1] == 0) { // behind the prefix that sequence 0 has computed
            if (schedule->done[0] < prefix) continue;
            schedule->done[1] = prefix;
        }
        uint32_t count = rng_below(&schedule->rng, 3) ? (uint32_t)rng_below(&schedule->rng, 21) : 1;
        const uint32_t done = schedule->done[s];
        if (count > TOKENS - done) count = TOKENS - done;
        if (count == 0) continue;
        rows->seqs[rows->seq_count++] = (struct kern_seq){.row_first = rows->row_count,
                                                          .row_count = count,
                                                          .pos_first = done,
                                                          .pages = schedule->pages[s],
                                                          .page_count = SEQ_PAGES};
        for (uint32_t i = 0; i < count; i++, rows->row_count++) {
            rows->numbers[rows->row_count] = rows->row_count;
            rows->tokens[rows->row_count] = schedule->tokens[s][done + i];
            rows->positions[rows->row_count] = done + i;
        }
        schedule->done[s] += count;
    }
    for (uint32_t s = 0; s < SEQS; s++)
        if (schedule->done[s] < TOKENS) return true; // also when none of them had luck
    return rows->row_count > 0;
}

enum { LOGIT_ROWS = SEQS * TOKENS - PREFIX_PAGES * PAGE_TOKENS };

/* Ends of a rank, for its parent. */
enum { SAME = 0, NOT_OPENED = 2, NOT_RUN = 3, DIFFERENT = 4, NOT_NUMBERS = 5 };

static struct mates_rig mates; // of the ranks that run

/* Between two steps: a rank takes part in what the others compute as soon as it finds their weights, one by one. */
static void meet_some(const struct dist *dist, struct model *model, struct rng *rng)
{
    for (uint32_t local = 0; dist && local < dist_local_count(dist); local++)
        if (rng_below(rng, 3) == 0) mates_rig_attach(&mates, dist, model, local);
}

/* Runs the schedule. The rank alone leaves its logits in memory, one of several compares its own with them. */
static int run_rank(struct ranks_rig *ranks, uint32_t rank)
{
    const bool is_alone = ranks->shape.rank_count == 1;
    struct dist *dist = is_alone ? NULL : ranks_rig_dist(ranks, rank);
    struct model_rig rig;
    struct err err = {0};
    const struct model_rig_conf conf = {.ops = wanted.ops,
                                        .threads = wanted.threads,
                                        .rows_max = ROWS_MAX,
                                        .logits_max = ROWS_MAX,
                                        .position_max = SEQ_PAGES * PAGE_TOKENS,
                                        .page_count = PAGES,
                                        .kv_type = wanted.kv_type,
                                        .store = mates.stores[rank],
                                        .dist = dist};
    int r = wanted.path ? model_rig_open(wanted.path, &conf, &rig, &err)
                        : model_rig_open_bytes(wanted.bytes->bytes, wanted.bytes->len, &conf, &rig, &err);
    if (r < 0) {
        printf("%s\n", err.text);
        return NOT_OPENED;
    }
    if (dist_barrier(dist) < 0) return NOT_RUN;
    struct rng meets = {.state = seed + rank};
    const size_t row_bytes = wanted.facts.vocab_count * sizeof(float);
    uint8_t *memory = ranks->memory;
    struct schedule schedule;
    struct rows rows;
    schedule_init(&schedule);
    while (schedule_next(&schedule, &rows)) {
        if (rows.row_count == 0) continue;
        meet_some(dist, rig.model, &meets);
        const struct kern_batch batch = {.row_count = rows.row_count,
                                         .tokens = rows.tokens,
                                         .positions = rows.positions,
                                         .seq_count = rows.seq_count,
                                         .seqs = rows.seqs};
        const float *logits;
        r = model_forward(rig.model, &batch, rows.numbers, rows.row_count, &logits, &err);
        if (r < 0) {
            printf("rank %u: %s\n", rank, err.text);
            return NOT_RUN;
        }
        const size_t bytes = rows.row_count * row_bytes;
        if (!isfinite(logits[0])) return NOT_NUMBERS;
        if (is_alone) memcpy(memory, logits, bytes);
        else if (memcmp(memory, logits, bytes) != 0) return DIFFERENT;
        memory += bytes;
    }
    CHECK(memory == (uint8_t *)ranks->memory + LOGIT_ROWS * row_bytes);
    model_rig_close(&rig);
    dist_close(dist);
    return SAME;
}

static struct exchange_shape shape_of(uint32_t rank_count)
{
    const struct model_facts *facts = &wanted.facts;
    return (struct exchange_shape){.rank_count = rank_count,
                                   .group_count = rank_count,
                                   .rows_max = ROWS_MAX,
                                   .logits_max = ROWS_MAX,
                                   .embedding_dims = facts->embedding_dims,
                                   .attention_dims = facts->head_count * facts->head_dims,
                                   .feed_forward_dims = facts->feed_forward_dims,
                                   .vocab_count = facts->vocab_count};
}

/* Runs the ranks. -> how many failed. */
static int run_ranks(struct ranks_rig *ranks)
{
    const uint32_t count = ranks->shape.rank_count;
    struct gguf_file file = {0};
    struct gguf *gguf = NULL;
    struct err err = {0};
    if (wanted.path) CHECK(gguf_file_open(wanted.path, &file, &err) == 0);
    else CHECK(gguf_parse(wanted.bytes->bytes, wanted.bytes->len, &gguf, &err) == 0);
    mates_rig_open(gguf ? gguf : file.gguf, &wanted.facts, wanted.ops, count, ranks_rig_memory, &mates);
    int failed = ranks_rig_run(ranks, run_rank);
    mates_rig_close(&mates);
    gguf_free(gguf);
    gguf_file_close(&file);
    return failed;
}

/* The same ranks on hosts that send each other messages; each call takes the next layout. */
static void check_hosts(const char *name, const struct ranks_rig *alone)
{
    static const struct layout {
        uint32_t host_count, host_first[HOSTS_RIG_MAX + 1];
    } layouts[] = {{2, {0, 2, 4}}, {2, {0, 1, 2}}, {3, {0, 1, 2, 4}}, {2, {0, 1, 3}}};
    static uint32_t turn;
    const struct layout *layout = &layouts[turn++ % COUNT_OF(layouts)];
    const uint32_t count = layout->host_first[layout->host_count];
    struct ranks_rig ranks;
    const struct exchange_shape shape = shape_of(count);
    if (count > wanted.facts.head_count) return;
    ranks_rig_open_hosts(&shape, layout->host_first, layout->host_count, 0, &ranks);
    ranks.memory = alone->memory;
    int failed = run_ranks(&ranks);
    ranks.memory = NULL;
    ranks_rig_close(&ranks);
    if (failed != 0)
        fail_msg("%s %s, page type %d: %d of %u ranks on %u hosts have other logits than one",
                 wanted.ops->name, name, (int)wanted.kv_type, failed, count, layout->host_count);
}

/* wanted but for facts is set. */
static void check_ranks(const char *name)
{
    struct ranks_rig alone, ranks;
    struct exchange_shape shape = shape_of(1);
    ranks_rig_open(&shape, LOGIT_ROWS * (size_t)wanted.facts.vocab_count * sizeof(float), &alone);
    if (run_ranks(&alone) != 0) fail_msg("%s %s: one rank alone fails", wanted.ops->name, name);
    for (uint32_t count = 2; count <= RANKS_TESTED && count <= wanted.facts.head_count; count++) {
        shape = shape_of(count);
        ranks_rig_open(&shape, 0, &ranks);
        ranks.memory = alone.memory;
        int failed = run_ranks(&ranks);
        ranks.memory = NULL;
        ranks_rig_close(&ranks);
        if (failed != 0)
            fail_msg("%s %s, page type %d: %d of %u ranks have other logits than one", wanted.ops->name, name,
                     (int)wanted.kv_type, failed, count);
    }
    check_hosts(name, &alone);
    ranks_rig_close(&alone);
}

/* Every level, with pages of f16. */
static void check_levels(const char *name)
{
    uint32_t level_count;
    const struct kern_ops *const *levels = kern_levels(&level_count);
    for (uint32_t level = 0; level < level_count; level++) {
        if (!kern_rig_wants(levels[level])) continue;
        wanted.ops = levels[level];
        check_ranks(name);
    }
}

static void set_random(const struct random_model_shape *shape, enum tensor_type type, struct buf *ret_bytes)
{
    struct gguf *gguf = NULL;
    struct err err = {0};
    if (shape) random_model_make_shaped(shape, type, seed, ret_bytes);
    else random_model_make(type, seed, ret_bytes);
    memset(&wanted, 0, sizeof wanted);
    wanted.bytes = ret_bytes;
    wanted.threads = 1;
    CHECK(gguf_parse(ret_bytes->bytes, ret_bytes->len, &gguf, &err) == 0);
    CHECK(model_facts_read(gguf, &wanted.facts, &err) == 0);
    gguf_free(gguf);
}

static void test_ranks_of_every_kind_of_weight_give_the_same_logits(void **state)
{
    (void)state;
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_Q4_K, TENSOR_Q6_K};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        struct buf bytes;
        set_random(NULL, types[i], &bytes);
        check_levels(tensor_type_info(types[i])->name);
        buf_done(&bytes);
    }
}

static void test_ranks_with_every_kind_of_page_give_the_same_logits(void **state)
{
    (void)state;
    struct buf bytes;
    uint32_t level_count;
    const struct kern_ops *const *levels = kern_levels(&level_count);
    set_random(NULL, TENSOR_Q4_0, &bytes);
    for (uint32_t level = 0; level < level_count; level++) {
        if (!kern_rig_wants(levels[level])) continue;
        wanted.ops = levels[level];
        const bool is_ref = strcmp(wanted.ops->name, "ref") == 0;
        for (wanted.kv_type = KERN_KV_BF16; wanted.kv_type <= (is_ref ? KERN_KV_F32 : KERN_KV_Q4);
             wanted.kv_type++)
            check_ranks("Q4_0");
    }
    buf_done(&bytes);
}

/* Heads that do not divide; blocks, columns and tokens that do not either. */
static void test_ranks_of_uneven_shapes_give_the_same_logits(void **state)
{
    (void)state;
    static const struct random_model_shape shapes[] = {
        {.layers = 2,
         .width = 192,
         .heads = 9,
         .heads_kv = 3,
         .head_dims = 64,
         .feed_forward = 480,
         .vocab = 101,
         .with_other_biases = true},
        {.layers = 1,
         .width = 96,
         .heads = 5,
         .heads_kv = 5,
         .head_dims = 32,
         .feed_forward = 96,
         .vocab = 35},
        {.layers = 2,
         .width = 160,
         .heads = 7,
         .heads_kv = 1,
         .head_dims = 16,
         .feed_forward = 64,
         .vocab = 67},
    };
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        static const enum tensor_type types[] = {TENSOR_Q4_0, TENSOR_F16};
        for (size_t t = 0; t < COUNT_OF(types); t++) {
            struct buf bytes;
            if (shapes[i].heads * shapes[i].head_dims % 32 != 0 && types[t] != TENSOR_F16) continue;
            set_random(&shapes[i], types[t], &bytes);
            check_levels("uneven");
            buf_done(&bytes);
        }
    }
}

static void test_ranks_of_two_threads_give_the_same_logits(void **state)
{
    (void)state;
    struct buf bytes;
    set_random(NULL, TENSOR_Q5_0, &bytes);
    wanted.threads = 2;
    check_levels("two threads");
    buf_done(&bytes);
}

/* -> whether the file is there. */
static bool set_file(const char *path)
{
    struct gguf_file file = {0};
    struct err err = {0};
    if (access(path, R_OK) != 0) return false;
    memset(&wanted, 0, sizeof wanted);
    wanted.path = path;
    wanted.threads = 1;
    if (gguf_file_open(path, &file, &err) < 0) fail_msg("%s", err.text);
    if (model_facts_read(file.gguf, &wanted.facts, &err) < 0) fail_msg("%s", err.text);
    gguf_file_close(&file);
    return true;
}

static void test_ranks_of_the_tiny_models_give_the_same_logits(void **state)
{
    (void)state;
    static const char *const names[] = {"llama_tied",   "llama_untied",     "llama_bias",
                                        "llama_linear", "llama3_ropefreqs", "mistral_headdim"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char name[64], path[512];
        (void)snprintf(name, sizeof name, "tiny/%s.gguf", names[i]); // fits
        if (model_rig_vector_path(name, sizeof path, path) < 0) skip();
        if (set_file(path)) check_levels(names[i]);
    }
}

static void test_ranks_of_smollm2_give_the_same_logits(void **state)
{
    (void)state;
    const char *home = getenv("HOME");
    char path[512];
    (void)snprintf(path, sizeof path, "%s/.cache/kvasir/SmolLM2-135M-Instruct.Q4_1.gguf", home ? home : ".");
    if (SANITIZES_ADDRESS || SANITIZES_THREAD || !set_file(path)) {
        printf("no SmolLM2 in ~/.cache/kvasir, or too slow here\n");
        skip();
    }
    if (kern_select(getenv("KVASIR_KERNELS"), &wanted.ops, NULL) < 0) skip();
    if (strcmp(wanted.ops->name, "ref") != 0) check_ranks("SmolLM2");
}

int main(void)
{
    const char *text = getenv("KVASIR_SEED");
    seed = text ? strtoull(text, NULL, 0) : 20250106;
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_of_every_kind_of_weight_give_the_same_logits),
        cmocka_unit_test(test_ranks_with_every_kind_of_page_give_the_same_logits),
        cmocka_unit_test(test_ranks_of_uneven_shapes_give_the_same_logits),
        cmocka_unit_test(test_ranks_of_two_threads_give_the_same_logits),
        cmocka_unit_test(test_ranks_of_the_tiny_models_give_the_same_logits),
        cmocka_unit_test(test_ranks_of_smollm2_give_the_same_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
