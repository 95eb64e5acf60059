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

static float vec4_sum(vec4 low, vec4 high)
{
    vec4 sum = low + high;
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* Two rows of x times two rows of w: each load is used twice. All four sums take the same steps, which
 * makes a row's result independent of its place in the tile. */
static void dot_2x2(const float *const x[2], const float *const w[2], uint32_t count, float ret_dots[4])
{
    vec4 low00 = {0}, low01 = {0}, low10 = {0}, low11 = {0};
    vec4 high00 = {0}, high01 = {0}, high10 = {0}, high11 = {0};
    uint32_t whole = count & ~7u;
    for (uint32_t k = 0; k < whole; k += 8) {
        vec4 x0 = load(x[0] + k), x1 = load(x[1] + k), w0 = load(w[0] + k), w1 = load(w[1] + k);
        low00 += x0 * w0;
        low01 += x0 * w1;
        low10 += x1 * w0;
        low11 += x1 * w1;
        x0 = load(x[0] + k + 4), x1 = load(x[1] + k + 4), w0 = load(w[0] + k + 4), w1 = load(w[1] + k + 4);
        high00 += x0 * w0;
        high01 += x0 * w1;
        high10 += x1 * w0;
        high11 += x1 * w1;
    }
    ret_dots[0] = vec4_sum(low00, high00);
    ret_dots[1] = vec4_sum(low01, high01);
    ret_dots[2] = vec4_sum(low10, high10);
    ret_dots[3] = vec4_sum(low11, high11);
    if (whole == count) return;
    for (int i = 0; i < 4; i++) {
        float rest = 0;
        for (uint32_t k = whole; k < count; k++) rest += x[i / 2][k] * w[i % 2][k];
        ret_dots[i] += rest;
    }
}

void ops_project(const struct ops_product *product)
{
    const uint32_t cols = product->cols;
    for (uint32_t r = 0; r < product->x_rows; r += 2) {
        uint32_t r_count = product->x_rows - r < 2 ? 1 : 2; // a lone last row is computed twice, stored once
        const float *x0 = product->x + r * product->x_stride;
        const float *const x[2] = {x0, x0 + (r_count - 1) * product->x_stride};
        for (uint32_t o = 0; o < product->w_rows; o += 2) {
            uint32_t o_count = product->w_rows - o < 2 ? 1 : 2;
            const float *w0 = product->w + (size_t)o * cols;
            const float *const w[2] = {w0, w0 + (size_t)(o_count - 1) * cols};
            float dots[4];
            dot_2x2(x, w, cols, dots);
            for (uint32_t i = 0; i < r_count; i++) {
                float *out = product->out + (r + i) * product->out_stride + o;
                for (uint32_t j = 0; j < o_count; j++) {
                    float value = dots[2 * i + j];
                    if (product->bias) value += product->bias[o + j];
                    out[j] = product->add ? out[j] + value : value;
                }
            }
        }
    }
}

void ops_norm(const float *x, const float *norm, uint32_t count, float epsilon, float *out)
{
    const float *const rows[2] = {x, x};
    float squares[4];
    dot_2x2(rows, rows, count, squares);
    float factor = 1.0f / sqrtf(squares[0] / (float)count + epsilon);
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

static float dot(const float *a, const float *b, uint32_t count)
{
    vec4 low = {0}, high = {0};
    uint32_t k = 0;
    for (; k + 8 <= count; k += 8) {
        low += load(a + k) * load(b + k);
        high += load(a + k + 4) * load(b + k + 4);
    }
    float rest = 0;
    for (; k < count; k++) rest += a[k] * b[k];
    return vec4_sum(low, high) + rest;
}

static void add_scaled(float *restrict out, const float *restrict x, float factor, uint32_t count)
{
    uint32_t k = 0;
    for (; k + 4 <= count; k += 4) *(vec4 *)(out + k) += load(x + k) * factor;
    for (; k < count; k++) out[k] += x[k] * factor;
}

/* The maximum first, then weights and sums, so that no partial result is ever rescaled; scores are computed
 * twice instead of being kept, which needs no memory that grows with the context. */
void ops_attend(const float *query, const float *keys, const float *values, uint32_t key_count,
                uint32_t head_dims, float scale, float *out)
{
    CHECK(key_count > 0);
    float best = -INFINITY;
    for (uint32_t key = 0; key < key_count; key++) {
        best = fmaxf(best, dot(query, keys + (size_t)key * head_dims, head_dims) * scale);
    }
    float sum = 0;
    for (uint32_t d = 0; d < head_dims; d++) out[d] = 0;
    for (uint32_t key = 0; key < key_count; key++) {
        size_t offset = (size_t)key * head_dims;
        float weight = expf(dot(query, keys + offset, head_dims) * scale - best);
        sum += weight;
        add_scaled(out, values + offset, weight, head_dims);
    }
    for (uint32_t d = 0; d < head_dims; d++) out[d] /= sum;
}

void ops_silu_times(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t k = 0; k < count; k++) out[k] = gate[k] / (1.0f + expf(-gate[k])) * up[k];
}
