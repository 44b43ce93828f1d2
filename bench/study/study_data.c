/* SPDX-License-Identifier: MIT */
/*
 * The same numbers on both sides of a pipe: a table of a prime length, of which each tensor is a
 * run, in the order N, C, H, W.
 */
#include "study.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD 1000003
#define START 7919 /* of a tensor in the table: as many numbers after the one before */
#define MOST_SAMPLES 600
#define SAMPLED_TERMS 2e7 /* of sums in double: fewer samples where one is long */

static float *numbers;

float *allocate_floats(size_t count)
{
    void *memory = NULL;
    const size_t bytes = (count == 0 ? 1 : count) * sizeof(float);
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

int make_numbers(void)
{
    numbers = allocate_floats(PERIOD);
    if (numbers == NULL) {
        return -1;
    }
    uint32_t state = 1;
    for (int i = 0; i < PERIOD; i++) {
        state = state * 1664525u + 1013904223u;
        numbers[i] = (float)((int32_t)(state >> 8) - 8388608) / 8388608.0f;
    }
    return 0;
}

void free_numbers(void)
{
    free(numbers);
    numbers = NULL;
}

/* ---- tensors ---- */

struct shape src_shape(const struct study_case *c)
{
    return (struct shape){c->desc.src_layout, c->desc.n, c->desc.cin, c->desc.h, c->desc.w};
}

struct shape dst_shape(const struct study_case *c)
{
    return (struct shape){c->desc.dst_layout, c->desc.n, c->desc.cout, c->hout, c->wout};
}

static int64_t block(doconv_layout layout)
{
    return layout == DOCONV_NCHW8C ? 8 : layout == DOCONV_NCHW16C ? 16 : 1;
}

size_t shape_floats(const struct shape *s)
{
    const int64_t b = block(s->layout);
    return (size_t)(s->n * ((s->c + b - 1) / b * b) * s->h * s->w);
}

/*
 * Where the rows of channel c of image n begin, and how far its pixels and rows are from each
 * other.
 */
static size_t plane(const struct shape *s, int64_t n, int64_t c, int64_t *step)
{
    const int64_t area = s->h * s->w;
    if (s->layout == DOCONV_NHWC) {
        *step = s->c;
        return (size_t)(n * area * s->c + c);
    }
    const int64_t b = block(s->layout), blocks = (s->c + b - 1) / b;
    *step = b;
    return (size_t)(((n * blocks + c / b) * area) * b + c % b);
}

static float at(const struct shape *s, const float *tensor, int64_t n, int64_t c, int64_t y,
                int64_t x)
{
    int64_t step;
    const size_t start = plane(s, n, c, &step);
    return tensor[start + (size_t)((y * s->w + x) * step)];
}

void fill(enum tensor which, const struct shape *s, float *to)
{
    memset(to, 0, shape_floats(s) * sizeof *to);
    size_t from = (size_t)which * START;
    for (int64_t n = 0; n < s->n; n++) {
        for (int64_t c = 0; c < s->c; c++) {
            int64_t step;
            float *const start = to + plane(s, n, c, &step);
            for (int64_t i = 0; i < s->h * s->w; i++) {
                start[i * step] = numbers[from];
                from = from + 1 == PERIOD ? 0 : from + 1;
            }
        }
    }
}

void fill_flat(enum tensor which, size_t count, float *to)
{
    const struct shape s = {DOCONV_NCHW, 1, 1, 1, (int64_t)count};
    fill(which, &s, to);
}

/* ---- the parameters ---- */

static int64_t taps(const struct study_case *c)
{
    return c->desc.kh * c->desc.kw;
}

size_t composed_floats(const struct study_case *c)
{
    return (size_t)(c->desc.cout * (c->desc.cin / c->desc.groups) * c->d_mul);
}

size_t d_floats(const struct study_case *c)
{
    return (size_t)(c->desc.cin * taps(c) * c->d_mul);
}

size_t weight_floats(const struct study_case *c)
{
    return (size_t)(c->desc.cout * (c->desc.cin / c->desc.groups) * taps(c));
}

/* D + I: I is the identity of M*N, repeated along D_mul as often as it fits whole. */
static double with_identity(const struct study_case *c, const float *d, int64_t channel, int64_t m,
                            int64_t s)
{
    const bool in_identity = s < c->d_mul / taps(c) * taps(c) && s % taps(c) == m;
    return (double)d[(channel * taps(c) + m) * c->d_mul + s] + (in_identity ? 1 : 0);
}

/* What the o-th filter's i-th input channel meets, as the paper has it. */
static int64_t channel_of(const struct study_case *c, int64_t o, int64_t i)
{
    return o / (c->desc.cout / c->desc.groups) * (c->desc.cin / c->desc.groups) + i;
}

void fold_reference(const struct study_case *c, const float *w, const float *d, float *weight)
{
    const int64_t inputs = c->desc.cin / c->desc.groups;
    for (int64_t o = 0; o < c->desc.cout; o++) {
        for (int64_t i = 0; i < inputs; i++) {
            const float *row = w + (o * inputs + i) * c->d_mul;
            for (int64_t m = 0; m < taps(c); m++) {
                double sum = 0;
                for (int64_t s = 0; s < c->d_mul; s++) {
                    sum += with_identity(c, d, channel_of(c, o, i), m, s) * (double)row[s];
                }
                weight[(o * inputs + i) * taps(c) + m] = (float)sum;
            }
        }
    }
}

void fold_gradient_reference(const struct study_case *c, const float *w, const float *d,
                             const float *grad_weight, float *grad_w, float *grad_d)
{
    const int64_t inputs = c->desc.cin / c->desc.groups, outputs = c->desc.cout / c->desc.groups;
    for (int64_t o = 0; o < c->desc.cout; o++) {
        for (int64_t i = 0; i < inputs; i++) {
            for (int64_t s = 0; s < c->d_mul; s++) {
                double sum = 0;
                for (int64_t m = 0; m < taps(c); m++) {
                    sum += with_identity(c, d, channel_of(c, o, i), m, s) *
                           (double)grad_weight[(o * inputs + i) * taps(c) + m];
                }
                grad_w[(o * inputs + i) * c->d_mul + s] = (float)sum;
            }
        }
    }
    for (int64_t channel = 0; channel < c->desc.cin; channel++) {
        const int64_t first = channel / inputs * outputs, i = channel % inputs;
        for (int64_t m = 0; m < taps(c); m++) {
            for (int64_t s = 0; s < c->d_mul; s++) {
                double sum = 0;
                for (int64_t o = first; o < first + outputs; o++) {
                    sum += (double)w[(o * inputs + i) * c->d_mul + s] *
                           (double)grad_weight[(o * inputs + i) * taps(c) + m];
                }
                grad_d[(channel * taps(c) + m) * c->d_mul + s] = (float)sum;
            }
        }
    }
}

/* ---- sums in double ---- */

/*
 * Which elements are looked at: the first and the last, and some between, not in step with any
 * extent.
 */
static int64_t sample_at(int sample, int64_t elements)
{
    return sample == 0   ? 0
           : sample == 1 ? elements - 1
                         : (int64_t)((uint64_t)sample * 0x9E3779B97F4A7C15u % (uint64_t)elements);
}

static int sample_count(int64_t elements, double terms)
{
    const double most = fmin(fmin(MOST_SAMPLES, (double)elements), SAMPLED_TERMS / terms);
    return most < 8 ? 8 : (int)most;
}

struct error {
    double largest, squares;
    int count;
};

static void add_error(struct error *e, double right, double got)
{
    const double off = fabs(right - got);
    e->largest = off <= e->largest ? e->largest : off; /* not a number is the largest */
    e->squares += right * right;
    e->count++;
}

static double relative(const struct error *e)
{
    const double rms = sqrt(e->squares / e->count);
    return e->largest / (rms > 0 ? rms : 1);
}

double sample_dst(const struct study_case *c, const float *src, const float *weight,
                  const float *dst)
{
    const doconv_conv_desc *d = &c->desc;
    const struct shape in = src_shape(c), out = dst_shape(c);
    const int64_t inputs = d->cin / d->groups, outputs = d->cout / d->groups,
                  elements = out.n * out.c * out.h * out.w;
    const int samples = sample_count(elements, (double)(inputs * taps(c)));
    struct error error = {0};
    for (int k = 0; k < samples; k++) {
        int64_t e = sample_at(k, elements);
        const int64_t q = e % out.w, p = (e /= out.w) % out.h, o = (e /= out.h) % out.c,
                      n = e / out.c;
        double sum = 0;
        for (int64_t i = 0; i < inputs; i++) {
            for (int64_t m = 0; m < taps(c); m++) {
                const int64_t y = p * d->stride_h + m / d->kw * d->dilation_h - d->pad_top,
                              x = q * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
                if (y >= 0 && y < d->h && x >= 0 && x < d->w) {
                    sum += (double)at(&in, src, n, o / outputs * inputs + i, y, x) *
                           (double)weight[(o * inputs + i) * taps(c) + m];
                }
            }
        }
        add_error(&error, sum, (double)at(&out, dst, n, o, p, q));
    }
    return relative(&error);
}

double sample_grad_src(const struct study_case *c, const float *grad_dst, const float *weight,
                       const float *grad_src)
{
    const doconv_conv_desc *d = &c->desc;
    const struct shape in = src_shape(c), out = dst_shape(c);
    const int64_t inputs = d->cin / d->groups, outputs = d->cout / d->groups,
                  elements = in.n * in.c * in.h * in.w;
    const int samples = sample_count(elements, (double)(outputs * taps(c)));
    struct error error = {0};
    for (int k = 0; k < samples; k++) {
        int64_t e = sample_at(k, elements);
        const int64_t x = e % in.w, y = (e /= in.w) % in.h, i = (e /= in.h) % in.c, n = e / in.c;
        double sum = 0;
        for (int64_t m = 0; m < taps(c); m++) {
            const int64_t from_y = y + d->pad_top - m / d->kw * d->dilation_h,
                          from_x = x + d->pad_left - m % d->kw * d->dilation_w;
            const int64_t p = from_y / d->stride_h, q = from_x / d->stride_w;
            if (from_y < 0 || from_x < 0 || from_y % d->stride_h != 0 ||
                from_x % d->stride_w != 0 || p >= out.h || q >= out.w) {
                continue;
            }
            for (int64_t o = i / inputs * outputs; o < (i / inputs + 1) * outputs; o++) {
                sum += (double)at(&out, grad_dst, n, o, p, q) *
                       (double)weight[(o * inputs + i % inputs) * taps(c) + m];
            }
        }
        add_error(&error, sum, (double)at(&in, grad_src, n, i, y, x));
    }
    return relative(&error);
}

double sample_grad_weight(const struct study_case *c, const float *src, const float *grad_dst,
                          const float *grad_weight)
{
    const doconv_conv_desc *d = &c->desc;
    const struct shape in = src_shape(c), out = dst_shape(c);
    const int64_t inputs = d->cin / d->groups, outputs = d->cout / d->groups,
                  elements = d->cout * inputs * taps(c);
    const int samples = sample_count(elements, (double)c->pixels);
    struct error error = {0};
    for (int k = 0; k < samples; k++) {
        const int64_t e = sample_at(k, elements);
        const int64_t m = e % taps(c), i = e / taps(c) % inputs, o = e / taps(c) / inputs;
        double sum = 0;
        for (int64_t n = 0; n < out.n; n++) {
            for (int64_t p = 0; p < out.h; p++) {
                const int64_t y = p * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
                for (int64_t q = 0; q < out.w && y >= 0 && y < d->h; q++) {
                    const int64_t x = q * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
                    if (x >= 0 && x < d->w) {
                        sum += (double)at(&out, grad_dst, n, o, p, q) *
                               (double)at(&in, src, n, o / outputs * inputs + i, y, x);
                    }
                }
            }
        }
        add_error(&error, sum, (double)grad_weight[e]);
    }
    return relative(&error);
}

/* ---- whole tensors ---- */

double root_mean_square(const float *right, size_t count)
{
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        squares += (double)right[i] * (double)right[i];
    }
    const double rms = sqrt(squares / (double)count);
    return rms > 0 ? rms : 1;
}

double difference(const float *right, const float *got, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = fabs((double)right[i] - (double)got[i]);
        largest = off <= largest ? largest : off; /* not a number is the largest */
    }
    return largest / root_mean_square(right, count);
}

/*
 * Rounding grows with the root of the terms where signs are mixed; some algorithms and partial sums
 * are a few times as far off.
 */
double tolerance(double terms)
{
    return 2e-5 + 2e-6 * sqrt(terms);
}

size_t chunk_count(size_t elements)
{
    return (elements + CHUNK - 1) / CHUNK;
}

void project(const struct shape *s, size_t elements, const float *tensor, double *sums)
{
    const struct shape flat = {DOCONV_NCHW, 1, 1, 1, (int64_t)elements};
    if (s == NULL) {
        s = &flat;
    }
    memset(sums, 0, chunk_count(elements) * sizeof *sums);
    size_t element = 0;
    for (int64_t n = 0; n < s->n; n++) {
        for (int64_t c = 0; c < s->c; c++) {
            int64_t step;
            const float *const start = tensor + plane(s, n, c, &step);
            for (int64_t i = 0; i < s->h * s->w; i++, element++) {
                sums[element / CHUNK] += (double)start[i * step] * (double)numbers[element % CHUNK];
            }
        }
    }
}
