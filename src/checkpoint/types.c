/* SPDX-License-Identifier: MIT */
#include "checkpoint/types.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {[DOCONV_FOLD_F32] = {"F32", 4},
             [DOCONV_FOLD_F16] = {"F16", 2},
             [DOCONV_FOLD_BF16] = {"BF16", 2},
             [DOCONV_FOLD_F64] = {"F64", 8}};

const char *dc_type_name(int type)
{
    return type > DOCONV_FOLD_KEEP && type <= DOCONV_FOLD_F64 ? types[type].name : NULL;
}

doconv_fold_type dc_type_of(const char *name)
{
    int type = DOCONV_FOLD_F64;
    while (type > DOCONV_FOLD_KEEP && strcmp(name, types[type].name) != 0) {
        type--;
    }
    return (doconv_fold_type)type;
}

size_t dc_type_bytes(doconv_fold_type type)
{
    return types[type].bytes;
}

/* ---- half precision: 1 bit of sign, 5 of exponent, 10 of fraction ---- */

static float from_half(uint16_t half)
{
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value;
    if (exponent == 31) {
        value = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        value = (float)fraction * 0x1p-24f;
    } else {
        value = ldexpf((float)(fraction + 1024), exponent - 25);
    }
    return half & 0x8000 ? -value : value;
}

static uint16_t to_half(float value)
{
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const float size = fabsf(value);
    if (isnan(value)) {
        return sign | 0x7e00;
    }
    if (size >= 65520) { /* half way to the power of two that is none of its numbers any more */
        return sign | 0x7c00;
    }
    int exponent = -14; /* that of the numbers below the normal ones too */
    if (size >= 0x1p-14f) {
        exponent = ilogbf(size);
    }
    /* 10 bits after the point; adding and taking away 2^23 rounds, ties to even */
    float scaled = ldexpf(size, 10 - exponent);
    scaled += 0x1p23f;
    const int fraction = (int)(scaled - 0x1p23f);
    /* a fraction of 1024 adds the hidden bit to the exponent, 2048 carries into it */
    return (uint16_t)(sign | (((exponent + 14) << 10) + fraction));
}

/* ---- the upper half of a float ---- */

static float from_bfloat(uint16_t upper)
{
    const uint32_t bits = (uint32_t)upper << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint16_t to_bfloat(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) {
        return (uint16_t)(bits >> 16 | 0x40); /* a bit that rounding would not keep */
    }
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- arrays ---- */

static double element(doconv_fold_type type, const unsigned char *at)
{
    uint16_t half;
    double wide;
    float value;
    switch (type) {
    case DOCONV_FOLD_F64:
        memcpy(&wide, at, sizeof wide);
        return wide;
    case DOCONV_FOLD_F32:
        memcpy(&value, at, sizeof value);
        return (double)value;
    default:
        memcpy(&half, at, sizeof half);
        return (double)(type == DOCONV_FOLD_F16 ? from_half(half) : from_bfloat(half));
    }
}

void dc_floats_from(doconv_fold_type type, const unsigned char *bytes, size_t count, float *floats)
{
    for (size_t i = 0; i < count; i++) {
        floats[i] = (float)element(type, bytes + i * types[type].bytes);
    }
}

bool dc_floats_hold(doconv_fold_type type, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count && type == DOCONV_FOLD_F64; i++) {
        const double value = element(type, bytes + i * types[type].bytes);
        if (isfinite(value) && !isfinite((float)value)) {
            return false;
        }
    }
    return true;
}

bool dc_floats_to(doconv_fold_type type, const float *floats, size_t count, unsigned char *bytes)
{
    bool holds = true;
    for (size_t i = 0; i < count; i++) {
        unsigned char *at = bytes + i * types[type].bytes;
        const double wide = (double)floats[i];
        const uint16_t half = type == DOCONV_FOLD_F16 ? to_half(floats[i]) : to_bfloat(floats[i]);
        if (type == DOCONV_FOLD_F64) {
            memcpy(at, &wide, sizeof wide);
        } else if (type == DOCONV_FOLD_F32) {
            memcpy(at, &floats[i], sizeof floats[i]);
        } else {
            memcpy(at, &half, sizeof half);
            holds = holds && (isfinite(element(type, at)) || !isfinite(floats[i]));
        }
    }
    return holds;
}
