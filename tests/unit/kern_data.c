/* SPDX-License-Identifier: Apache-2.0 */
/* kern_data - see kern_data.h. */
#include "tests/unit/kern_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/check.h"
#include "worker/kern/ref/half.h"

const uint32_t kern_data_types[KERN_DATA_TYPES] = {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 30, 39};

float kern_data_pack_error(uint32_t type)
{
    return type >= 12 && type <= 14 ? 6.0f * 0x1.0p-11f : 0;
}

float kern_data_float(struct rng *rng, float size)
{
    return ((float)(rng_next(rng) >> 40) * 0x1.0p-23f - 1.0f) * size;
}

float *kern_data_floats(struct rng *rng, size_t count, float size)
{
    float *floats = malloc(count * sizeof(*floats));
    CHECK(floats != NULL);
    for (size_t i = 0; i < count; i++) floats[i] = kern_data_float(rng, size);
    return floats;
}

float *kern_data_outliers(struct rng *rng, size_t count, float size)
{
    float *floats = kern_data_floats(rng, count, size);
    for (size_t i = 0; i < count; i++) {
        if (rng_below(rng, 50) == 0) floats[i] *= 20;
    }
    return floats;
}

static void put_f16(uint8_t *at, float value)
{
    uint16_t half = half_f16_of_f32(value);
    memcpy(at, &half, sizeof(half));
}

/* Gives a block of random bytes scales that make its values about `size`. */
static void set_scales(struct rng *rng, uint32_t type, float size, uint8_t *block)
{
    float vary = 0.75f + kern_data_float(rng, 0.25f);
    switch (type) {
    case 2: put_f16(block, size * vary / 8); break; // Q4_0
    case 3:                                         // Q4_1: d * q + m
        put_f16(block, size * vary / 8);
        put_f16(block + 2, -size * vary);
        break;
    case 6: put_f16(block, size * vary / 16); break; // Q5_0
    case 7:                                          // Q5_1
        put_f16(block, size * vary / 16);
        put_f16(block + 2, -size * vary);
        break;
    case 8: put_f16(block, size * vary / 128); break; // Q8_0
    case 12:                                          // Q4_K, scales up to 63
        put_f16(block, size * vary / 8 / 32);
        put_f16(block + 2, size * vary / 32);
        break;
    case 13: // Q5_K
        put_f16(block, size * vary / 16 / 32);
        put_f16(block + 2, size * vary / 32);
        break;
    case 14: put_f16(block + 208, size * vary / 32 / 64); break; // Q6_K, scales i8
    case 10: // Q2_K: d * (0..15) * (0..3) - dmin * (0..15)
        put_f16(block + 80, size * vary / 16);
        put_f16(block + 82, size * vary / 12);
        break;
    case 11: put_f16(block + 108, size * vary / 64); break; // Q3_K, scales in [-32, 31]
    case 20: put_f16(block, size * vary / 64); break;       // IQ4_NL
    case 23: put_f16(block, size * vary / 64 / 16); break;  // IQ4_XS
    case 39:
        block[0] = (uint8_t)(125 + ilogbf(size) + (int)rng_below(rng, 3));
        break; // MXFP4: 12 * 2^(e - 128)
    default: CHECK(!"a type with scales");
    }
}

struct kern_matrix kern_data_matrix(struct rng *rng, uint32_t type, uint32_t rows, uint32_t cols, float size)
{
    const struct dequant_type *info = dequant_find(type);
    CHECK(info != NULL && cols % info->block_elements == 0);
    size_t blocks = (size_t)rows * (cols / info->block_elements);
    uint8_t *data = malloc(blocks * info->block_bytes);
    CHECK(data != NULL);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = data + b * info->block_bytes;
        float value = kern_data_float(rng, size);
        uint16_t half = type == 1 ? half_f16_of_f32(value) : half_bf16_of_f32(value);
        if (type == 0) memcpy(block, &value, sizeof(value));
        else if (type == 1 || type == 30) memcpy(block, &half, sizeof(half));
        else {
            for (uint32_t i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)rng_next(rng);
            set_scales(rng, type, size, block);
        }
    }
    return (struct kern_matrix){.data = data, .type = type, .rows = rows, .cols = cols};
}

void kern_data_row(const struct kern_matrix *matrix, uint32_t row, float *out)
{
    const struct dequant_type *type = dequant_find(matrix->type);
    CHECK(type != NULL);
    dequant_row(type, (const uint8_t *)matrix->data + row * dequant_row_bytes(type, matrix->cols),
                matrix->cols, out);
}
