/* SPDX-License-Identifier: Apache-2.0 */
/* A pool left in every state that a death can leave it in: after each single store of each operation, which a
 * debugger's single step finds, and with every bit of the descriptors wrong. What is adopted holds by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/shm/audit.h"
#include "common/shm/pool.h"

enum { PAGES = 10, META_BYTES = 4096, FILLED = 5 };

static const struct pool_owner first = {.pid = 11, .start = 12, .epoch = 13}, second = {21, 22, 23};
static struct pool_geometry geometry = {.page_count = PAGES, .page_tokens = PAGE_TOKENS, .rank_count = 1};
static uint8_t *meta; // shared with the child that is stepped
static struct pool *pool;
static const struct hash128 root = {99, 98};

static const uint32_t *tokens_of(uint32_t number)
{
    static uint32_t tokens[PAGE_TOKENS];
    for (uint32_t i = 0; i < PAGE_TOKENS; i++) tokens[i] = number * 100 + i;
    return tokens;
}

static uint32_t add(uint32_t number, uint32_t parent)
{
    uint32_t page;
    uint64_t sum = 1000 + number;
    assert_int_equal(pool_grant(pool, 5, &page), 0);
    pool_fill(pool, page, tokens_of(number), PAGE_TOKENS);
    struct hash128 above = parent == PAGE_NONE ? root : pool_desc(pool, parent)->key;
    pool_seal(pool, page, hash128_chain(above, tokens_of(number), sizeof(uint32_t) * PAGE_TOKENS), parent,
              &sum);
    return page;
}

/* 0 - 1 - 2   a chain of three, of which the last is held by nobody
 *   \ 3       a branch
 * 4           another root;  5: filling, five tokens;  6: filling, full;  7: filling, empty */
static int setup(void **state)
{
    (void)state;
    struct err err;
    meta = mmap(NULL, META_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (meta == MAP_FAILED || pool_meta_bytes(&geometry) != META_BYTES) return -1;
    if (pool_format(meta, META_BYTES, &geometry, &first, &pool, &err) < 0) return -1;
    uint32_t page;
    (void)add(0, PAGE_NONE);
    (void)add(1, 0);
    (void)add(2, 1);
    (void)add(3, 0);
    (void)add(4, PAGE_NONE);
    for (uint32_t i = 5; i < 8; i++) assert_int_equal(pool_grant(pool, 6, &page), 0);
    pool_fill(pool, FILLED, tokens_of(FILLED), 5);
    pool_fill(pool, 6, tokens_of(6), PAGE_TOKENS);
    pool_unpin(pool, 2, 7);
    pool_unpin(pool, 4, 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pool_free(pool);
    return munmap(meta, META_BYTES);
}

/* Adopts a copy of bytes and audits what comes of it. -> bits of the pages that are kept, or a negative code. */
static int adopt_copy(const uint8_t *bytes, struct pool_adoption *adoption)
{
    static _Alignas(4096) uint8_t copy[META_BYTES];
    struct pool *adopted;
    struct err err = {0};
    memcpy(copy, bytes, META_BYTES);
    int r = pool_adopt(copy, META_BYTES, &geometry, &second, &adopted, adoption, &err);
    if (r < 0) return r;
    if (pool_check(adopted, &err) < 0) fail_msg("%s", err.text);
    struct audit_report report = {0};
    assert_int_equal(audit_memory(&(struct audit_input){.meta = copy, .meta_bytes = META_BYTES}, 0, &report),
                     0);
    if (report.fault_count > 0) fail_msg("%s", report.faults[0]);
    assert_int_equal(report.daemon_pid, second.pid);
    assert_int_equal(report.daemon_start, second.start);
    assert_int_equal(report.epoch, second.epoch);
    int kept = 0;
    for (uint32_t i = 0; i < PAGES; i++) {
        const struct page_desc *desc = pool_desc(adopted, i);
        assert_int_equal(desc->refcount, 0);
        assert_int_not_equal(desc->state, PAGE_FILLING);
        if (desc->state == PAGE_SEALED) kept |= 1 << i;
    }
    assert_int_equal(pool_sealed_count(adopted), __builtin_popcount((unsigned)kept));
    assert_int_equal(adoption->kept_count, pool_sealed_count(adopted));
    pool_free(adopted);
    return kept;
}

static int adopted_pages(void)
{
    struct pool_adoption adoption;
    return adopt_copy(meta, &adoption);
}

static void test_adopt_keeps_what_is_sealed_and_nothing_else(void **state)
{
    (void)state;
    struct pool_adoption adoption;
    assert_int_equal(adopt_copy(meta, &adoption), 0x1F);
    assert_int_equal(adoption.sealed_count, 5);
    assert_int_equal(adoption.filling_count, 3);
    assert_int_equal(adoption.daemon_pid, first.pid);
    assert_int_equal(adoption.epoch, first.epoch);
    struct pool *adopted;
    uint32_t page;
    assert_int_equal(pool_adopt(meta, META_BYTES, &geometry, &second, &adopted, &adoption, NULL), 0);
    assert_int_equal(pool_desc(adopted, 0)->child_count, 2);
    assert_memory_equal(pool_tokens(adopted, 3), tokens_of(3), PAGE_TOKENS * sizeof(uint32_t));
    assert_int_equal(*pool_sums(adopted, 3), 1003);
    assert_int_equal(pool_grant(adopted, 1, &page), 0);
    assert_int_equal(page, 5); // the lowest free one, in a life of its own
    assert_int_equal(pool_desc(adopted, page)->generation, 2);
    pool_close(adopted);
    pool_free(adopted);
    assert_int_equal(adopt_copy(meta, &adoption), 0x1F);
    assert_int_equal(adoption.daemon_pid, 0); // closed in order
    assert_int_equal(adoption.filling_count, 0);
}

static struct page_desc *desc_of(uint32_t page_idx)
{
    return (struct page_desc *)(uintptr_t)pool_desc(pool, page_idx);
}

static void test_adopt_drops_what_does_not_hold_with_its_descendants(void **state)
{
    (void)state;
    const struct {
        uint32_t page;
        struct page_desc bad; // fields that are not 0 replace
        int kept;
    } cases[] = {
        {0, {.state = 3}, 0x10},
        {0, {.filled = 15}, 0x10},
        {1, {.filled = 17}, 0x19},
        {1, {.parent = PAGES}, 0x19},
        {1, {.parent = 1}, 0x19},
        {1, {.parent = 2}, 0x19}, // a ring of 1 and 2
        {1, {.parent = PAGE_NONE - 1}, 0x19},
        {1, {.parent = 5}, 0x19}, // of a page that is filling
        {1, {.parent_generation = 2}, 0x19},
        {1, {.generation = 2}, 0x1B}, // its child's parent is gone
        {1, {.key = {1, 2}}, 0x19},
        {4, {.key = {1, 2}}, 0x1F}, // of a root: never found, so it only takes place
        {2, {.child_count = 77}, 0x1F},
        {2, {.refcount = 77}, 0x1F},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct page_desc *desc = desc_of(cases[i].page), was = *desc;
        const struct page_desc *bad = &cases[i].bad;
        if (bad->state) desc->state = bad->state;
        if (bad->filled) desc->filled = bad->filled;
        if (bad->parent) desc->parent = bad->parent;
        if (bad->parent_generation) desc->parent_generation = bad->parent_generation;
        if (bad->generation) desc->generation = bad->generation;
        if (bad->key.low) desc->key = bad->key;
        if (bad->child_count) desc->child_count = bad->child_count;
        if (bad->refcount) desc->refcount = bad->refcount;
        int kept = adopted_pages();
        if (kept != cases[i].kept) fail_msg("case %zu: kept %x, wanted %x", i, kept, cases[i].kept);
        *desc = was;
    }
    desc_of(0)->generation = 0;
    assert_int_equal(adopted_pages(), 0x10);
}

/* Every bit of every descriptor and token: adopted or not, it is a good pool, and no page is kept under a key that
 * does not follow from its tokens, but for roots. */
static void test_adopt_survives_every_flipped_bit(void **state)
{
    (void)state;
    const struct pool_header *header = (const struct pool_header *)meta;
    int changed = 0;
    for (size_t at = header->desc_offset; at < header->sum_offset; at++)
        for (int bit = 0; bit < 8; bit += at < header->token_offset ? 1 : 7) {
            meta[at] ^= (uint8_t)(1 << bit);
            int kept = adopted_pages();
            assert_true(kept >= 0);
            assert_int_equal(kept & ~0x1F, 0);
            changed += kept != 0x1F;
            meta[at] ^= (uint8_t)(1 << bit);
        }
    assert_true(changed > 100);
}

static void test_adopt_refuses_another_pool_untouched(void **state)
{
    (void)state;
    struct pool_adoption adoption;
    struct pool *adopted;
    struct err err;
    struct pool_geometry wanted = geometry, *g = &wanted;
    struct pool_header *header = (struct pool_header *)meta;
    uint8_t before[META_BYTES];
    memcpy(before, meta, META_BYTES);
    uint32_t *const fields[] = {&g->page_count, &g->kv_type, &g->layer_count, &g->head_count_kv,
                                &g->head_dims};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        wanted = geometry;
        (*fields[i])++;
        assert_int_equal(pool_adopt(meta, META_BYTES, &wanted, &second, &adopted, &adoption, &err),
                         ERR_UNSUPPORTED);
        assert_int_equal(pool_adoptable(meta, META_BYTES, &wanted, NULL), ERR_UNSUPPORTED);
        assert_non_null(strstr(err.text, "wanted"));
    }
    wanted = geometry;
    wanted.model_digest.low = 1;
    assert_int_equal(pool_adopt(meta, META_BYTES, &wanted, &second, &adopted, &adoption, &err),
                     ERR_UNSUPPORTED);
    assert_int_equal(pool_adopt(meta, META_BYTES - 64, &geometry, &second, &adopted, &adoption, &err),
                     ERR_FORMAT);
    assert_memory_equal(meta, before, META_BYTES);
    header->layout_version++;
    assert_int_equal(adopted_pages(), ERR_VERSION);
    header->layout_version--;
    header->layout_sum++;
    assert_int_equal(adopted_pages(), ERR_VERSION);
    header->layout_sum--;
    atomic_store_explicit(&header->magic, 0, memory_order_relaxed); // died while it was made
    assert_int_equal(adopted_pages(), -EAGAIN);
}

/* ---- a death after every single store ---- */

static void op_grant(void)
{
    uint32_t page;
    (void)pool_grant(pool, 9, &page);
}

static void op_fill(void)
{
    pool_fill(pool, FILLED, tokens_of(9), 11);
}

static void op_seal(void)
{
    uint64_t sum = 1006;
    pool_seal(pool, 6, hash128_chain(pool_desc(pool, 2)->key, tokens_of(6), sizeof(uint32_t) * PAGE_TOKENS),
              2, &sum);
}

static void op_pin(void)
{
    pool_pin(pool, 2, 9);
}

static void op_unpin(void)
{
    pool_unpin(pool, 3, 9);
}

static void op_drop(void)
{
    pool_drop(pool, FILLED);
}

static void op_evict(void)
{
    pool_evict(pool, 2);
}

static void op_evict_root(void)
{
    pool_evict(pool, 4);
}

static void op_close(void)
{
    pool_close(pool);
}

static void op_adopt(void)
{
    struct pool_adoption adoption;
    struct pool *adopted;
    if (pool_adopt(meta, META_BYTES, &geometry, &second, &adopted, &adoption, NULL) < 0) _exit(1);
}

static void op_adopt_broken(void)
{
    op_adopt();
}

/* Runs op in a child, one machine instruction at a time; after each one that changed meta, what would be adopted has
 * all pages of `always` and none but those and `maybe`. -> number of changes, or 0 when stepping is not allowed. */
static unsigned deaths_of(void (*op)(void), int always, int maybe)
{
    static uint8_t last[META_BYTES];
    unsigned changes = 0;
    int status;
    memcpy(last, meta, META_BYTES);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) _exit(77);
        (void)raise(SIGSTOP);
        op();
        (void)raise(SIGSTOP);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) return 0;
    for (;;) {
        assert_true(WIFSTOPPED(status));
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0) fail_msg("cannot step");
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSTOPPED(status) || WSTOPSIG(status) == SIGSTOP) break;
        if (memcmp(last, meta, META_BYTES) == 0) continue;
        memcpy(last, meta, META_BYTES);
        int kept = adopted_pages();
        if ((kept & always) != always || (kept & ~(always | maybe)) != 0)
            fail_msg("store %u: kept %x, wanted %x and at most %x more", changes, kept, always, maybe);
        changes++;
    }
    assert_true(WIFSTOPPED(status));
    (void)kill(pid, SIGKILL); // our own stopped child
    (void)waitpid(pid, &status, 0);
    return changes;
}

static void test_adopt_after_a_death_at_any_store(void **state)
{
    const struct {
        void (*op)(void);
        int always, maybe;
    } cases[] = {
        {op_grant, 0x1F, 0}, {op_fill, 0x1F, 0},  {op_seal, 0x1F, 0x40},      {op_pin, 0x1F, 0},
        {op_unpin, 0x1F, 0}, {op_drop, 0x1F, 0},  {op_evict, 0x1B, 0x04},     {op_evict_root, 0x0F, 0x10},
        {op_close, 0x1F, 0}, {op_adopt, 0x1F, 0}, {op_adopt_broken, 0x19, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].op == op_adopt_broken) desc_of(1)->filled = 1;
        unsigned changes = deaths_of(cases[i].op, cases[i].always, cases[i].maybe);
        if (changes == 0 && i == 0) skip(); // no debugging here
        print_message("operation %zu: %u states\n", i, changes);
        assert_true(changes > 1);
        assert_int_equal(teardown(state), 0);
        assert_int_equal(setup(state), 0);
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_adopt_keeps_what_is_sealed_and_nothing_else),
        CASE(test_adopt_drops_what_does_not_hold_with_its_descendants),
        CASE(test_adopt_survives_every_flipped_bit),
        CASE(test_adopt_refuses_another_pool_untouched),
        CASE(test_adopt_after_a_death_at_any_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
