/* SPDX-License-Identifier: Apache-2.0 */
/* kv - see kv.h. */
#include "worker/kern/ref/kv.h"

#include <math.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/ref/half.h"

#define KV_Q4_RANGE 0.92f // of the range of a vector is covered by codes

static const float half_max = 65504.0f;

void kv_hadamard(float *x, uint32_t dims)
{
    uint32_t run = 1;
    while (dims % (2 * run) == 0) run *= 2;
    for (uint32_t first = 0; first < dims; first += run) {
        for (uint32_t half = 1; half < run; half *= 2) {
            for (uint32_t i = 0; i < run; i++) {
                if (i & half) continue;
                float *a = x + first + i, *b = a + half;
                float sum = *a + *b, difference = *a - *b;
                *a = sum;
                *b = difference;
            }
        }
    }
    float factor = 1.0f / sqrtf((float)run);
    for (uint32_t i = 0; i < dims; i++) x[i] *= factor;
}

/* The byte of element d of a token, and the bit in it where the element starts. */
static uint8_t *element_at(const struct kv_head *head, enum kv_plane plane, uint32_t slot, uint32_t d,
                           uint32_t *ret_shift)
{
    const size_t dims = head->dims, tokens = head->tokens;
    *ret_shift = 0;
    if (head->type == KERN_KV_Q4) {
        uint8_t *values = head->base + dims / 2 * tokens;
        *ret_shift = plane == KV_K ? d % 2 * 4 : d / 16 % 2 * 4;
        if (plane == KV_K) return head->base + (size_t)(d / 2) * tokens + slot;
        return values + slot * ((dims + 31) / 32 * 16) + d / 32 * 16 + d % 16;
    }
    size_t size = head->type == KERN_KV_F32 ? 4 : head->type == KERN_KV_Q8 ? 1 : 2;
    if (plane == KV_K) return head->base + (d * tokens + slot) * size;
    return head->base + (dims * tokens + slot * dims + d) * size;
}

/* Scale (part 0) or minimum (part 1) of a token. */
static uint8_t *factor_at(const struct kv_head *head, enum kv_plane plane, uint32_t slot, uint32_t part)
{
    const size_t parts = head->type == KERN_KV_Q4 ? 2 : 1, tokens = head->tokens;
    uint8_t *factors = head->base + kern_kv_head_bytes(head->type, head->dims, head->tokens) -
                       parts * 2 * tokens * sizeof(uint16_t);
    return factors + ((part * 2 + (plane == KV_V)) * tokens + slot) * sizeof(uint16_t);
}

static float factor_put(const struct kv_head *head, enum kv_plane plane, uint32_t slot, uint32_t part,
                        float value)
{
    uint16_t half = half_f16_of_f32(fmaxf(-half_max, fminf(half_max, value)));
    memcpy(factor_at(head, plane, slot, part), &half, sizeof(half));
    return half_f32_of_f16(half);
}

static float factor_get(const struct kv_head *head, enum kv_plane plane, uint32_t slot, uint32_t part)
{
    uint16_t half;
    memcpy(&half, factor_at(head, plane, slot, part), sizeof(half));
    return half_f32_of_f16(half);
}

/* The whole number nearest to x, in [low, high]; low for what is no number. */
static int code_of(float x, int low, int high)
{
    return (int)fminf((float)high, fmaxf((float)low, rintf(x)));
}

static void put_q8(const struct kv_head *head, enum kv_plane plane, uint32_t slot, const float *x)
{
    float most = 0;
    uint32_t shift;
    for (uint32_t d = 0; d < head->dims; d++) most = fmaxf(most, fabsf(x[d]));
    float scale = factor_put(head, plane, slot, 0, most / 127);
    float inverse = scale > 0 ? 1 / scale : 0;
    for (uint32_t d = 0; d < head->dims; d++)
        *element_at(head, plane, slot, d, &shift) = (uint8_t)(int8_t)code_of(x[d] * inverse, -127, 127);
}

/* Scale and minimum of q4: the ends of the range are cut by a little, which costs few elements and gives all others
 * finer steps. */
static void fit_q4(const float *x, uint32_t dims, float *ret_scale, float *ret_minimum)
{
    float low = x[0], high = x[0];
    for (uint32_t d = 1; d < dims; d++) {
        low = fminf(low, x[d]);
        high = fmaxf(high, x[d]);
    }
    *ret_scale = (high - low) * KV_Q4_RANGE / 15;
    *ret_minimum = 0.5f * (low + high) - 7.5f * *ret_scale;
}

static void put_q4(const struct kv_head *head, enum kv_plane plane, uint32_t slot, const float *x)
{
    float turned[KV_DIMS_MAX], scale, minimum;
    memcpy(turned, x, head->dims * sizeof(*turned));
    kv_hadamard(turned, head->dims);
    fit_q4(turned, head->dims, &scale, &minimum);
    minimum = factor_put(head, plane, slot, 1, minimum);
    scale = factor_put(head, plane, slot, 0, scale);
    float inverse = scale > 0 ? 1 / scale : 0;
    for (uint32_t d = 0; d < head->dims; d++) {
        uint32_t shift;
        uint8_t *byte = element_at(head, plane, slot, d, &shift);
        int code = code_of((turned[d] - minimum) * inverse, 0, 15);
        *byte = (uint8_t)((*byte & 0xF0u >> shift) | (uint32_t)code << shift);
    }
}

void kv_put(const struct kv_head *head, enum kv_plane plane, uint32_t slot, const float *x)
{
    CHECK(head->dims <= KV_DIMS_MAX);
    CHECK(slot < head->tokens);
    if (head->type == KERN_KV_Q8) put_q8(head, plane, slot, x);
    if (head->type == KERN_KV_Q4) put_q4(head, plane, slot, x);
    if (head->type == KERN_KV_Q8 || head->type == KERN_KV_Q4) return;
    for (uint32_t d = 0; d < head->dims; d++) {
        uint32_t shift;
        uint8_t *at = element_at(head, plane, slot, d, &shift);
        uint16_t half = head->type == KERN_KV_BF16 ? half_bf16_of_f32(x[d]) : half_f16_of_f32(x[d]);
        if (head->type == KERN_KV_F32) memcpy(at, &x[d], sizeof(x[d]));
        else memcpy(at, &half, sizeof(half));
    }
}

static float element_get(const struct kv_head *head, enum kv_plane plane, uint32_t slot, uint32_t d)
{
    uint32_t shift;
    const uint8_t *at = element_at(head, plane, slot, d, &shift);
    float value;
    uint16_t half;
    switch (head->type) {
    case KERN_KV_F32: memcpy(&value, at, sizeof(value)); return value;
    case KERN_KV_Q8: return (float)(int8_t)*at;
    case KERN_KV_Q4: return (float)(*at >> shift & 15);
    default: memcpy(&half, at, sizeof(half));
    }
    return head->type == KERN_KV_BF16 ? half_f32_of_bf16(half) : half_f32_of_f16(half);
}

void kv_get(const struct kv_head *head, enum kv_plane plane, uint32_t slot, float *ret_x)
{
    const bool is_q4 = head->type == KERN_KV_Q4, has_scale = is_q4 || head->type == KERN_KV_Q8;
    float scale = has_scale ? factor_get(head, plane, slot, 0) : 1;
    float minimum = is_q4 ? factor_get(head, plane, slot, 1) : 0;
    CHECK(slot < head->tokens);
    for (uint32_t d = 0; d < head->dims; d++) ret_x[d] = minimum + scale * element_get(head, plane, slot, d);
    if (is_q4) kv_hadamard(ret_x, head->dims);
}
