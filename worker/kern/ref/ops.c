/* SPDX-License-Identifier: Apache-2.0 */
/* ops - see ops.h. */
#include "worker/kern/ref/ops.h"

#include <math.h>

#include "common/base/check.h"

/* Four floats that the compiler keeps in one register where the machine has them (GCC vector extension);
 * it only spells out sums that are independent anyway, so no fast-math is needed. */
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));

static vec4 load(const float *floats)
{
    return *(const vec4 *)floats;
}

/* Four dot products a[i] . b[i] side by side: the one place that knows the order of a sum (ops_project).
 * Inlined, so that rows which occur twice among the eight are loaded once. */
static inline __attribute__((always_inline)) void dot_4(const float *const a[4], const float *const b[4],
                                                        uint32_t count, float ret_dots[4])
{
    vec4 low[4] = {{0}}, high[4] = {{0}};
    uint32_t whole = count & ~7u;
    for (uint32_t k = 0; k < whole; k += 8) {
        low[0] += load(a[0] + k) * load(b[0] + k);
        low[1] += load(a[1] + k) * load(b[1] + k);
        low[2] += load(a[2] + k) * load(b[2] + k);
        low[3] += load(a[3] + k) * load(b[3] + k);
        high[0] += load(a[0] + k + 4) * load(b[0] + k + 4);
        high[1] += load(a[1] + k + 4) * load(b[1] + k + 4);
        high[2] += load(a[2] + k + 4) * load(b[2] + k + 4);
        high[3] += load(a[3] + k + 4) * load(b[3] + k + 4);
    }
    for (int i = 0; i < 4; i++) {
        vec4 sum = low[i] + high[i];
        float rest = 0;
        for (uint32_t k = whole; k < count; k++) rest += a[i][k] * b[i][k];
        ret_dots[i] = (sum[0] + sum[2]) + (sum[1] + sum[3]) + rest;
    }
}

/* Two rows of x with two rows of w, and one row of x with four of w. */
static void dot_2x2(const float *x0, const float *x1, const float *w0, const float *w1, uint32_t count,
                    float ret_dots[4])
{
    dot_4((const float *const[4]){x0, x0, x1, x1}, (const float *const[4]){w0, w1, w0, w1}, count, ret_dots);
}

static void dot_1x4(const float *x, const float *w, size_t w_stride, uint32_t count, float ret_dots[4])
{
    dot_4((const float *const[4]){x, x, x, x},
          (const float *const[4]){w, w + w_stride, w + 2 * w_stride, w + 3 * w_stride}, count, ret_dots);
}

static float dot(const float *a, const float *b, uint32_t count)
{
    float dots[4];
    dot_1x4(a, b, 0, count, dots);
    return dots[0];
}

static void store(const struct ops_product *product, size_t row, size_t output, float value)
{
    float *out = product->out + row * product->out_stride + output;
    if (product->bias) value += product->bias[output];
    *out = product->add ? *out + value : value;
}

/* All outputs of one row. */
static void project_row(const struct ops_product *product, size_t row)
{
    const float *x = product->x + row * product->x_stride;
    const size_t cols = product->cols;
    uint32_t o = 0;
    for (; o + 4 <= product->w_rows; o += 4) {
        float dots[4];
        dot_1x4(x, product->w + o * cols, cols, product->cols, dots);
        for (uint32_t i = 0; i < 4; i++) store(product, row, o + i, dots[i]);
    }
    for (; o < product->w_rows; o++) store(product, row, o, dot(x, product->w + o * cols, product->cols));
}

void ops_project(const struct ops_product *product)
{
    const size_t cols = product->cols;
    uint32_t row = 0;
    for (; row + 2 <= product->x_rows; row += 2) {
        const float *x = product->x + row * product->x_stride;
        for (uint32_t o = 0; o < product->w_rows; o += 2) {
            uint32_t second = o + 1 < product->w_rows ? 1 : 0; // of an odd last output the dots come twice
            const float *w = product->w + o * cols;
            float dots[4];
            dot_2x2(x, x + product->x_stride, w, w + second * cols, product->cols, dots);
            store(product, row, o, dots[0]);
            store(product, row + 1, o, dots[2]);
            if (second == 0) continue;
            store(product, row, o + 1, dots[1]);
            store(product, row + 1, o + 1, dots[3]);
        }
    }
    if (row < product->x_rows) project_row(product, row);
}

void ops_norm(const float *x, const float *norm, uint32_t count, float epsilon, float *out)
{
    float factor = 1.0f / sqrtf(dot(x, x, count) / (float)count + epsilon);
    for (uint32_t k = 0; k < count; k++) out[k] = x[k] * factor * norm[k];
}

void ops_rotation_at(const float *angles, uint32_t dims, bool adjacent, uint32_t position,
                     struct ops_rotation *ret_rotation)
{
    CHECK(dims % 2 == 0);
    CHECK(dims <= OPS_HEAD_DIMS_MAX);
    ret_rotation->dims = dims;
    ret_rotation->adjacent = adjacent;
    for (uint32_t i = 0; i < dims / 2; i++) {
        float angle = (float)position * angles[i];
        ret_rotation->cosines[i] = cosf(angle);
        ret_rotation->sines[i] = sinf(angle);
    }
}

void ops_rotate(const struct ops_rotation *rotation, float *head)
{
    uint32_t pairs = rotation->dims / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        float *a = rotation->adjacent ? head + 2 * i : head + i;
        float *b = rotation->adjacent ? a + 1 : a + pairs;
        float cosine = rotation->cosines[i], sine = rotation->sines[i];
        float turned_a = *a * cosine - *b * sine;
        float turned_b = *b * cosine + *a * sine;
        *a = turned_a;
        *b = turned_b;
    }
}

static void add_scaled(float *restrict out, const float *restrict x, float factor, uint32_t count)
{
    uint32_t k = 0;
    for (; k + 4 <= count; k += 4) *(vec4 *)(out + k) += load(x + k) * factor;
    for (; k < count; k++) out[k] += x[k] * factor;
}

/* Scores of keys [first, first + 4), fewer at the end; returns how many. */
static uint32_t score_keys(const struct ops_attention *attention, uint32_t first, float ret_scores[4])
{
    const size_t head_dims = attention->head_dims;
    const float *keys = attention->keys + first * head_dims;
    uint32_t left = attention->key_count - first;
    if (left >= 4) {
        dot_1x4(attention->query, keys, head_dims, attention->head_dims, ret_scores);
        left = 4;
    } else {
        for (uint32_t i = 0; i < left; i++) {
            ret_scores[i] = dot(attention->query, keys + i * head_dims, attention->head_dims);
        }
    }
    for (uint32_t i = 0; i < left; i++) ret_scores[i] *= attention->scale;
    const float cap = attention->softcap;
    for (uint32_t i = 0; cap > 0 && i < left; i++) ret_scores[i] = cap * tanhf(ret_scores[i] / cap);
    return left;
}

/* The maximum first, then weights and sums, so that no partial result is ever rescaled; scores are computed
 * twice instead of being kept, which needs no memory that grows with the context. */
void ops_attend(const struct ops_attention *attention)
{
    const uint32_t key_count = attention->key_count, head_dims = attention->head_dims;
    float *out = attention->out;
    float scores[4], best = -INFINITY, sum = 0;
    CHECK(key_count > 0);
    for (uint32_t first = 0; first < key_count; first += 4) {
        uint32_t count = score_keys(attention, first, scores);
        for (uint32_t i = 0; i < count; i++) best = scores[i] > best ? scores[i] : best;
    }
    if (attention->sink) {
        best = *attention->sink > best ? *attention->sink : best;
        sum = expf(*attention->sink - best);
    }
    for (uint32_t d = 0; d < head_dims; d++) out[d] = 0;
    for (uint32_t first = 0; first < key_count; first += 4) {
        uint32_t count = score_keys(attention, first, scores);
        for (uint32_t i = 0; i < count; i++) {
            float weight = expf(scores[i] - best);
            sum += weight;
            add_scaled(out, attention->values + (size_t)(first + i) * head_dims, weight, head_dims);
        }
    }
    for (uint32_t d = 0; d < head_dims; d++) out[d] /= sum;
}

void ops_silu_times(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t k = 0; k < count; k++) out[k] = gate[k] / (1.0f + expf(-gate[k])) * up[k];
}
