/* SPDX-License-Identifier: Apache-2.0 */
/* model_mates - the ranks of one host as mates (kern_steal): what each adds to rows that all read whole - attention's
 * output, gate and up, down, the head - any of them may compute. Queries, keys, values and attention stay with the rank
 * whose heads and pages they are. */
#include "common/base/check.h"
#include "worker/model_arch.h"

static void steal_begin(void *arg)
{
    dist_op_begin(arg);
}

static bool steal_take(void *arg, uint32_t mate, uint32_t lane, uint32_t piece_count, uint32_t *ret_piece)
{
    return dist_piece_take(arg, mate, lane, piece_count, ret_piece);
}

const struct kern_steal *model_steal(struct model *model)
{
    _Static_assert((int)KERN_LANES == (int)DIST_LANES, "one number of lanes");
    if (!model->dist || dist_local_count(model->dist) == 1 || !model->ops->mate_weight) return NULL;
    model->steal = (struct kern_steal){.arg = model->dist,
                                       .mate = dist_rank(model->dist) - dist_local_first(model->dist),
                                       .mate_count = dist_local_count(model->dist),
                                       .begin = steal_begin,
                                       .take = steal_take};
    return &model->steal;
}

/* A weight of ours and the same of a mate, as a model of its own. */
struct pair {
    struct kern_weight *own;
    const struct kern_weight *others;
    const struct kern_vector *bias, *up_bias; // of the others
    const struct shard_cut *cut;              // of its outputs over ranks
};

static int join(struct model *model, uint32_t mate, const struct pair *pair, struct err *err)
{
    const uint32_t rank = dist_local_first(model->dist) + mate;
    const struct kern_outputs outputs = {.weight = pair->others,
                                         .bias = pair->bias,
                                         .up_bias = pair->up_bias,
                                         .col_first = shard_first(pair->cut, rank)};
    return model->ops->mate_join(model->kern, pair->own, mate, &outputs, err);
}

static int join_layer(struct model *model, uint32_t mate, const struct model *other, uint32_t il,
                      struct err *err)
{
    const struct model_layer *own = &model->layers[il], *its = &other->layers[il];
    const struct shard *shard = &model->shard;
    const struct pair pairs[] = {
        {own->attention_out, its->attention_out, its->attention_out_bias, NULL, &shard->stream},
        {own->gate_up, its->gate_up, its->gate_bias, its->up_bias, &shard->feed_forward},
        {own->down, its->down, its->down_bias, NULL, &shard->stream},
    };
    int r = 0;
    for (uint32_t i = 0; i < COUNT_OF(pairs) && r == 0; i++) r = join(model, mate, &pairs[i], err);
    return r;
}

/* Binds a mate's weights as it does itself, by a model that has no kern of its own. */
static int join_mate(struct model *model, uint32_t mate, const struct gguf *gguf, struct err *err)
{
    struct shard shard;
    struct model *other;
    struct bind *bind = NULL;
    const uint32_t rank = dist_local_first(model->dist) + mate;
    int r = shard_make(&model->facts, model->shard.rank_count, rank, &shard, err);
    if (r == 0) r = model_new(&model->facts, &shard, model->ops, &other, err);
    if (r < 0) return r;
    r = bind_new(gguf, NULL, NULL, &bind, err);
    if (r == 0) {
        bind_mate(bind, model->ops, model->kern, mate);
        r = model->arch->bind(bind, other, err);
    }
    const struct pair head = {model->head, other->head, NULL, NULL, &model->shard.vocab};
    if (r == 0) r = join(model, mate, &head, err);
    for (uint32_t il = 0; il < model->facts.layer_count && r == 0; il++)
        r = join_layer(model, mate, other, il, err);
    bind_free(bind);
    model_close(other); // the weights are the kern's
    return r;
}

int model_join_mates(struct model *model, const struct gguf *gguf, struct err *err)
{
    const struct kern_steal *steal = &model->steal;
    int r = 0;
    for (uint32_t mate = 0; mate < steal->mate_count && r == 0; mate++)
        if (mate != steal->mate) r = join_mate(model, mate, gguf, err);
    return r;
}

uint64_t model_mate_bytes(const struct model *model, uint32_t local)
{
    return model->steal.mate_count > 0 ? model->ops->mate_bytes(model->kern, local) : 0;
}

void model_mate_attach(struct model *model, uint32_t local, const void *base)
{
    CHECK(model->steal.mate_count > 0);
    model->ops->mate_attach(model->kern, local, base);
}
