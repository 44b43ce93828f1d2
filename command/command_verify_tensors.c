/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "command_verify.h"

double verify_gamma(double k)
{
    return k * VERIFY_UNIT_ROUNDOFF / (1 - k * VERIFY_UNIT_ROUNDOFF);
}

float *verify_allocate(size_t bytes)
{
    const size_t alignment = 64;
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

int64_t verify_layout_block(doconv_layout layout)
{
    return layout == DOCONV_NCHW8C ? 8 : layout == DOCONV_NCHW16C ? 16 : 1;
}

bool verify_visit_padding(float *tensor, doconv_layout layout, int64_t n, int64_t c, int64_t area,
                          bool fill)
{
    const int64_t block = verify_layout_block(layout), blocks = (c + block - 1) / block,
                  used = c - (blocks - 1) * block;
    for (int64_t image = 0; image < n; image++) {
        float *last = tensor + ((image + 1) * blocks - 1) * area * block;
        for (int64_t pixel = 0; pixel < area; pixel++) {
            for (int64_t channel = used; channel < block; channel++) {
                if (fill) {
                    last[pixel * block + channel] = NAN;
                } else if (last[pixel * block + channel] != 0) { /* true for NaN */
                    return false;
                }
            }
        }
    }
    return true;
}
