/* SPDX-License-Identifier: Apache-2.0 */
/* model_rig - see model_rig.h. */
#include "tests/unit/model_rig.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/limits.h"

/* Everything but the file; rig->gguf is set. */
static int start(struct model_rig *rig, const struct model_rig_conf *conf, struct err *err)
{
    int r = model_facts_read(rig->gguf, &rig->facts, err);
    if (r < 0) return r;
    struct shard shard;
    const uint32_t rank_count = dist_rank_count(conf->dist);
    r = shard_make(&rig->facts, rank_count, dist_rank(conf->dist), &shard, err);
    if (r < 0) return r;
    rig->rows_max = conf->rows_max;
    rig->logits_max = conf->logits_max;
    rig->cache = (struct kern_cache){.page_count = conf->page_count,
                                     .page_tokens = conf->page_tokens ? conf->page_tokens : PAGE_TOKENS,
                                     .layer_count = rig->facts.layer_count,
                                     .head_count_kv = shard.kv_count,
                                     .head_dims = rig->facts.head_dims,
                                     .kv_type = conf->kv_type};
    struct kern_cache *cache = &rig->cache;
    cache->page_bytes = cache->layer_count * shard_kv_heads_max(&rig->facts, rank_count) *
                        kern_kv_head_bytes(cache->kv_type, cache->head_dims, cache->page_tokens);
    size_t bytes = (cache->page_bytes * cache->page_count + 63) & ~(size_t)63;
    cache->base = aligned_alloc(64, bytes);
    rig->positions = calloc(conf->rows_max, sizeof(*rig->positions));
    if (!cache->base || !rig->positions) return err_sys(err, ENOMEM, "pages");
    memset(cache->base, 0xFF, bytes); // NaN: a key that nobody wrote must not be read

    const struct model_conf model_conf = {.ops = conf->ops,
                                          .threads = conf->threads,
                                          .rows_max = conf->rows_max,
                                          .logits_max = conf->logits_max,
                                          .position_max = conf->position_max,
                                          .cache = *cache,
                                          .dist = conf->dist,
                                          .store = conf->store};
    return model_open(rig->gguf, &rig->facts, &model_conf, &rig->model, err);
}

int model_rig_open(const char *path, const struct model_rig_conf *conf, struct model_rig *ret_rig,
                   struct err *err)
{
    struct model_rig rig = {0};
    int r = gguf_file_open(path, &rig.file, err);
    if (r < 0) return r;
    rig.gguf = rig.file.gguf;
    r = start(&rig, conf, err);
    if (r < 0) model_rig_close(&rig);
    else *ret_rig = rig;
    return r;
}

int model_rig_open_bytes(const uint8_t *bytes, size_t size, const struct model_rig_conf *conf,
                         struct model_rig *ret_rig, struct err *err)
{
    struct model_rig rig = {0};
    int r = gguf_parse(bytes, size, &rig.gguf, err);
    if (r < 0) return r;
    r = start(&rig, conf, err);
    if (r < 0) model_rig_close(&rig);
    else *ret_rig = rig;
    return r;
}

void model_rig_close(struct model_rig *rig)
{
    model_close(rig->model);
    free(rig->cache.base);
    free(rig->positions);
    if (rig->gguf != rig->file.gguf) gguf_free(rig->gguf);
    gguf_file_close(&rig->file);
    *rig = (struct model_rig){0};
}

int model_rig_step(struct model_rig *rig, const uint32_t *tokens, uint32_t count, uint32_t pos_first,
                   const uint32_t *pages, uint32_t page_count, uint32_t logit_count, const float **ret_logits,
                   struct err *err)
{
    CHECK(count <= rig->rows_max);
    CHECK(logit_count <= count && logit_count <= rig->logits_max);
    uint32_t *logit_rows = calloc(logit_count + 1, sizeof(*logit_rows));
    CHECK(logit_rows);
    for (uint32_t i = 0; i < logit_count; i++) logit_rows[i] = count - logit_count + i;
    for (uint32_t i = 0; i < count; i++) rig->positions[i] = pos_first + i;
    const struct kern_seq seq = {
        .row_first = 0, .row_count = count, .pos_first = pos_first, .pages = pages, .page_count = page_count};
    const struct kern_batch batch = {
        .row_count = count, .tokens = tokens, .positions = rig->positions, .seq_count = 1, .seqs = &seq};
    int r = model_forward(rig->model, &batch, logit_rows, logit_count, ret_logits, err);
    free(logit_rows);
    return r;
}

double model_rig_log_sum(const float *logits, uint32_t count)
{
    double best = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < count; i++) best = fmax(best, logits[i]);
    for (uint32_t i = 0; i < count; i++) sum += exp(logits[i] - best);
    return best + log(sum);
}

uint32_t model_rig_argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

double model_rig_divergence(const float *reference, const float *logits, uint32_t count)
{
    double sum = 0, reference_log_sum = model_rig_log_sum(reference, count);
    double log_sum = model_rig_log_sum(logits, count);
    for (uint32_t i = 0; i < count; i++) {
        double logprob = reference[i] - reference_log_sum;
        sum += exp(logprob) * (logprob - (logits[i] - log_sum));
    }
    return sum;
}

int model_rig_vector_path(const char *name, size_t out_bytes, char *out)
{
    const char *root = getenv("KVASIR_VECTORS");
    const char *source = getenv("srcdir");
    int len;
    if (root) {
        len = snprintf(out, out_bytes, "%s/%s", root, name);
    } else {
        len = snprintf(out, out_bytes, "%s/../shared/vectors/%s", source ? source : ".", name);
    }
    if (len < 0 || (size_t)len >= out_bytes) return -ENAMETOOLONG;
    return access(out, R_OK) == 0 ? 0 : -ENOENT;
}

char *model_rig_read_text(const char *path, size_t *ret_len)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    char *text = NULL;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0) text = malloc((size_t)size + 1);
    if (text) {
        size_t len = fread(text, 1, (size_t)size, file);
        text[len] = '\0';
        *ret_len = len;
    }
    fclose(file);
    return text;
}
