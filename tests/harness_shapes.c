/* SPDX-License-Identifier: MIT */
/* Random numbers and the problems that kernels are tried on. */
#include <stdlib.h>

#include "harness.h"
#include "oracle.h"

struct rng rng_from(uint64_t seed, const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; text != NULL && *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    }
    struct rng rng = {seed ^ hash};
    rng_next(&rng); /* seeds that differ in a bit are far apart after a step */
    return rng;
}

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

int64_t rng_range(struct rng *rng, int64_t low, int64_t high)
{
    return low + (int64_t)(rng_next(rng) % (uint64_t)(high - low + 1));
}

int64_t rng_pick(struct rng *rng, const int64_t *values, size_t count)
{
    return values[rng_next(rng) % count];
}

double rng_unit(struct rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1p-53;
}

uint64_t harness_seed(void)
{
    const char *text = getenv("DOCONV_TEST_SEED");
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : 20240229u;
}

int harness_scaled(int count, int least)
{
    const char *text = getenv("DOCONV_TEST_SCALE");
    const long percent = text != NULL && *text != '\0' ? strtol(text, NULL, 10) : 100;
    const long scaled = percent < 1 || percent > 100000 ? count : count * percent / 100;
    return scaled < least ? least : (int)scaled;
}

/* Kernel size, stride, dilation and the two paddings of an axis pair. */
struct form {
    int64_t kh, kw, sh, sw, pt, pl, pb, pr, dh, dw;
};

static const struct form forms[] = {
    {1, 1, 1, 1, 0, 0, 0, 0, 1, 1}, /* pointwise */
    {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, /* the common one */
    {1, 1, 2, 2, 0, 0, 0, 0, 1, 1}, /* stride > kernel */
    {3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
    {3, 3, 1, 1, 2, 2, 2, 2, 2, 2}, /* dilated */
    {3, 3, 2, 2, 0, 0, 1, 1, 1, 1}, /* asymmetric padding */
    {7, 7, 2, 2, 3, 3, 3, 3, 1, 1}, /* first layers */
    /* on small images the kernel is larger than the image */
    {5, 5, 1, 1, 4, 4, 4, 4, 1, 1},
    {2, 2, 3, 3, 0, 0, 0, 0, 1, 1}, /* stride > kernel, with one */
    {1, 7, 1, 1, 0, 3, 0, 3, 1, 1}, /* rows */
    {3, 1, 2, 1, 1, 0, 1, 0, 1, 1}, /* columns */
    /* most taps lie in the padding */
    {3, 3, 1, 1, 6, 6, 6, 6, 6, 6},
    /* outputs that see nothing but padding */
    {1, 1, 1, 1, 1, 2, 0, 1, 1, 1},
    /* nothing is the same on both axes */
    {2, 3, 3, 2, 2, 1, 0, 1, 2, 1},
    {4, 4, 1, 1, 1, 2, 2, 1, 1, 1}, /* an even kernel */
    {3, 3, 1, 1, 0, 0, 0, 0, 1, 1}, /* no padding */
    /* padding wider than the kernel on one side */
    {3, 3, 2, 1, 3, 0, 0, 5, 1, 2},
    {3, 3, 4, 5, 1, 1, 1, 1, 1, 1}, /* stride > kernel, padded */
};
#define FORMS ((int)(sizeof forms / sizeof forms[0]))

static struct form random_form(struct rng *rng)
{
    struct form f = {.kh = rng_range(rng, 1, 5),
                     .kw = rng_range(rng, 1, 5),
                     .sh = rng_range(rng, 1, 4),
                     .sw = rng_range(rng, 1, 4)};
    f.dh = rng_range(rng, 1, 3);
    f.dw = rng_range(rng, 1, 3);
    f.pt = rng_range(rng, 0, f.kh);
    f.pl = rng_range(rng, 0, f.kw);
    f.pb = rng_range(rng, 0, f.kh);
    f.pr = rng_range(rng, 0, f.kw);
    return f;
}

/* 1x1 without padding; strides in half of them. */
static struct form pointwise_form(struct rng *rng)
{
    struct form f = {.kh = 1, .kw = 1, .sh = 1, .sw = 1, .dh = 1, .dw = 1};
    if (rng_range(rng, 0, 1)) {
        f.sh = rng_range(rng, 1, 3);
        f.sw = rng_range(rng, 1, 3);
    }
    return f;
}

/*
 * The input size that gives about `out` outputs; *after grows where the image would have to be
 * smaller than one pixel.
 */
static int64_t input_size(int64_t out, int64_t kernel, int64_t stride, int64_t dilation,
                          int64_t before, int64_t *after, int64_t rest)
{
    const int64_t extent = (kernel - 1) * dilation + 1;
    const int64_t size = (out - 1) * stride + extent - before - *after + rest;
    if (size >= 1) {
        return size;
    }
    if (1 + before + *after < extent) {
        *after = extent - 1 - before;
    }
    return 1;
}

static void sample_channels(const struct dc_kernel *kernel, struct rng *rng, bool deep,
                            doconv_conv_desc *d)
{
    static const int64_t inputs[] = {1, 3, 15, 16, 17, 33, 4, 8, 32, 65, 80},
                         many[] = {65, 80, 96, 130, 160, 270};
    static const int64_t few[] = {1, 2, 3, 4, 8, 16, 17};
    const int64_t t = kernel->tile_channels, v = kernel->vector;
    const int64_t outputs[] = {
        1,  3, v > 1 ? v - 1 : 2, v, v + 1, t > 1 ? t - 1 : 5, t, t + 1, 2 * t, 2 * t + 1, 15, 16,
        17, 24};
    const size_t output_count = sizeof outputs / sizeof outputs[0],
                 few_count = sizeof few / sizeof few[0];
    const int64_t cout = rng_pick(rng, outputs, output_count);
    d->groups = 1;
    d->cin = deep ? rng_pick(rng, many, sizeof many / sizeof many[0])
                  : rng_pick(rng, inputs, sizeof inputs / sizeof inputs[0]);
    d->cout = cout;
    const int kind = kernel->family == DC_FAMILY_DEPTHWISE ? 2
                     : kernel->family == DC_FAMILY_GROUPED ? 4
                     : rng_range(rng, 0, 3) != 0           ? 0
                                                           : (int)rng_range(rng, 1, 3);
    switch (kind) {
    case 1: /* groups */
        d->groups = rng_range(rng, 2, 4);
        d->cin = d->groups * (deep ? rng_range(rng, 65, 80) : rng_pick(rng, few, few_count));
        d->cout = d->groups * (rng_range(rng, 0, 1) ? rng_pick(rng, few, few_count) : cout);
        break;
    case 2: /* depthwise */
        d->groups = d->cin = d->cout = cout;
        break;
    case 3: /* depthwise with multiplier 2 */
        d->groups = d->cin = cout;
        d->cout = 2 * cout;
        break;
    /*
     * narrow groups: so many outputs of a group that none ends inside a vector, and no more inputs
     */
    case 4: {
        const int64_t widths[] = {2, v > 4 ? 4 : 1, v > 8 ? 8 : 2, v, 2 * v};
        const int64_t width = rng_pick(rng, widths, sizeof widths / sizeof widths[0]);
        const int64_t seen =
            rng_range(rng, 0, 2) == 0 ? 1 : rng_range(rng, 1, width < v ? width : v);
        d->groups = rng_range(rng, 2, 9);
        d->cin = d->groups * seen;
        d->cout = d->groups * width;
        break;
    }
    default:
        break;
    }
}

static void sample_post(struct rng *rng, doconv_conv_desc *d)
{
    const int64_t bits = rng_range(rng, 0, 15);
    d->has_bias = (int)(bits & 1);
    d->residual = (int)(bits >> 1 & 1);
    d->relu = (int)(bits >> 2 & 1);
    d->clamp = (int)(bits >> 3 & 1);
    if (d->clamp) {
        /* Small integers: outputs of the exact property fall on both sides. */
        d->clamp_lo = (float)rng_range(rng, -40, 5);
        d->clamp_hi = d->clamp_lo + (float)rng_range(rng, 0, 60);
    }
    d->accuracy = (doconv_accuracy)rng_range(rng, 0, 2);
}

static double multiplications(const doconv_conv_desc *d)
{
    const int64_t hout =
        oracle_out_size(d->h, d->kh, d->stride_h, d->dilation_h, d->pad_top, d->pad_bottom);
    const int64_t wout =
        oracle_out_size(d->w, d->kw, d->stride_w, d->dilation_w, d->pad_left, d->pad_right);
    return (double)d->n * (double)hout * (double)wout * (double)d->cout *
           (double)(d->cin / d->groups) * (double)d->kh * (double)d->kw;
}

/* Channels of a group: a vector, a few more, no multiple of it, several tiles. */
static int64_t tile_channels(struct rng *rng, int vector)
{
    const int64_t counts[] = {vector,     vector, vector + 1, 2 * vector, 2 * vector + 3,
                              3 * vector, 16,     32,         40,         53};
    const int64_t count = rng_pick(rng, counts, sizeof counts / sizeof counts[0]);
    return count < vector ? vector : count;
}

static void exchange(int64_t *a, int64_t *b)
{
    const int64_t was = *a;
    *a = *b;
    *b = was;
}

static void exchange_axes(doconv_conv_desc *d)
{
    exchange(&d->h, &d->w);
    exchange(&d->kh, &d->kw);
    exchange(&d->pad_top, &d->pad_left);
    exchange(&d->pad_bottom, &d->pad_right);
}

/* For kernels that transform tiles: what they take, of sizes around a few tiles. */
static doconv_conv_desc sample_tiles(const struct dc_kernel *kernel, struct rng *rng)
{
    const struct dc_winograd_kernel *w = &kernel->winograd;
    static const int64_t groups[] = {1, 1, 1, 2, 3}, heights[] = {1, 2, 3, 3, 3, 5};
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = rng_range(rng, 1, 3);
    d.groups = rng_pick(rng, groups, sizeof groups / sizeof groups[0]);
    d.cin = d.groups * tile_channels(rng, kernel->vector);
    d.cout = d.groups * tile_channels(rng, kernel->vector);
    d.kw = w->taps;
    d.kh = w->axes == 2 ? w->taps : rng_pick(rng, heights, sizeof heights / sizeof heights[0]);
    d.pad_top = rng_range(rng, 0, 3);
    d.pad_left = rng_range(rng, 0, w->taps);
    d.pad_bottom = rng_range(rng, 0, 3);
    d.pad_right = rng_range(rng, 0, w->taps);
    const int64_t least_h = d.kh - d.pad_top - d.pad_bottom,
                  least_w = d.kw - d.pad_left - d.pad_right;
    d.h = rng_range(rng, 1, 2 * w->outputs + 3);
    d.w = rng_range(rng, 1, 3 * w->outputs + 3);
    d.h = d.h < least_h ? least_h : d.h;
    d.w = d.w < least_w ? least_w : d.w;
    if (w->axes == 1 && rng_range(rng, 0, 1) == 0) {
        exchange_axes(&d);
    }
    d.src_layout = (doconv_layout)rng_range(rng, 0, 3);
    d.dst_layout = (doconv_layout)rng_range(rng, 0, 3);
    sample_post(rng, &d);
    d.accuracy = DOCONV_ACCURACY_FAST;
    return d;
}

/* For kernels of a single pixel: few and many outputs, that end anywhere in a block. */
static doconv_conv_desc sample_pixel(const struct dc_kernel *kernel, struct rng *rng)
{
    const int64_t outputs[] = {1, kernel->vector, kernel->tile_channels, 2 * kernel->tile_channels,
                               5 * kernel->tile_channels};
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.cin = rng_range(rng, 1, 70);
    d.cout = rng_pick(rng, outputs, sizeof outputs / sizeof outputs[0]) +
             rng_range(rng, 0, 3) * kernel->vector + rng_range(rng, 0, 3);
    d.stride_h = rng_range(rng, 1, 3);
    d.src_layout = (doconv_layout)rng_range(rng, 0, 3);
    d.dst_layout = (doconv_layout)rng_range(rng, 0, 3);
    sample_post(rng, &d);
    return d;
}

void harness_sample(const struct dc_kernel *kernel, struct rng *rng, int index,
                    doconv_conv_desc *desc)
{
    const int64_t r = kernel->tile_pixels;
    const int64_t widths[] = {1, r > 1 ? r - 1 : 2, r, r + 1, 2 * r + 1, 3, 7},
                  heights[] = {1, 1, 2, 3, 5, r};
    /*
     * Inputs that no cache level takes whole are cut into blocks of rows and passes over channels:
     * every sixth shape.
     */
    const bool deep = rng_range(rng, 0, 5) == 0;
    doconv_conv_desc d;
    double most = deep ? 6e6 : 1.5e6;
    do {
        most *= 1.05; /* large kernels with large tiles may need a little more */
        if (kernel->family == DC_FAMILY_WINOGRAD && index % 8 != 0) {
            d = sample_tiles(kernel, rng);
            continue;
        }
        if (kernel->family == DC_FAMILY_PIXEL && index % 8 != 0) {
            d = sample_pixel(kernel, rng);
            continue;
        }
        doconv_conv_desc_init(&d);
        const int form = index % (FORMS + 2);
        /*
         * A kernel for planes refuses nearly all that the others take: most of its shapes are its
         * own.
         */
        const bool planes = kernel->family == DC_FAMILY_PLANES && index % 8 != 0;
        const struct form f = planes         ? pointwise_form(rng)
                              : form < FORMS ? forms[form]
                                             : random_form(rng);
        d.kh = f.kh;
        d.kw = f.kw;
        d.stride_h = f.sh;
        d.stride_w = f.sw;
        d.pad_top = f.pt;
        d.pad_left = f.pl;
        d.pad_bottom = f.pb;
        d.pad_right = f.pr;
        d.dilation_h = f.dh;
        d.dilation_w = f.dw;
        d.n = rng_range(rng, 0, 3) == 0 ? rng_range(rng, 2, 3) : 1;
        const int64_t hout = deep ? rng_range(rng, 7, 14)
                                  : rng_pick(rng, heights, sizeof heights / sizeof heights[0]);
        const int64_t wout =
            deep ? rng_range(rng, 9, 40) : rng_pick(rng, widths, sizeof widths / sizeof widths[0]);
        d.h = input_size(hout, f.kh, f.sh, f.dh, f.pt, &d.pad_bottom, rng_range(rng, 0, f.sh - 1));
        d.w = input_size(wout, f.kw, f.sw, f.dw, f.pl, &d.pad_right, rng_range(rng, 0, f.sw - 1));
        if (!deep && rng_range(rng, 0, 7) == 0) {
            d.h = 1; /* whatever the padding makes of it */
            if (1 + d.pad_top + d.pad_bottom < (f.kh - 1) * f.dh + 1) {
                d.pad_bottom = (f.kh - 1) * f.dh - d.pad_top;
            }
        }
        sample_channels(kernel, rng, deep, &d);
        sample_post(rng, &d);
        /*
         * 16 pairs of layouts against forms in turn: FORMS + 2 and 16 have few common factors, and
         * the second term breaks those.
         */
        const int layouts = (index + index / (FORMS + 2)) % 16;
        d.src_layout = planes ? DOCONV_NCHW : (doconv_layout)(layouts % 4);
        d.dst_layout = planes ? DOCONV_NCHW : (doconv_layout)(layouts / 4);
    } while (multiplications(&d) > most);
    *desc = d;
}
