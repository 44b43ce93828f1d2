/* SPDX-License-Identifier: MIT */
/*
 * Training: forward and backward of plain and DO-Conv layers against double-precision sums written
 * down from the definitions. Most cases use small integers, whose results are exact in every order
 * of additions, so any difference is an error.
 */
#include <math.h>

#include <doconv/doconv_train.h>

#include "capped.h"
#include "harness.h"
#include "harness_buffer.h"
#include "oracle.h"

/* ---- a layer with its tensors and what must come out, all in NCHW, OIHW and so on ---- */

struct layer {
    doconv_conv_desc desc;
    int64_t hout, wout, cig, taps;
    /* w: the trained weight, W or the plain one */
    size_t src_count, dst_count, weight_count, w_count, d_count;
    float *src, *grad_dst, *w, *d, *bias;
    double *dst, *grad_src, *grad_w, *grad_d, *grad_bias;
};

static int64_t oracle_channel(const struct layer *l, int64_t o, int64_t i)
{
    const int64_t cog = l->desc.cout / l->desc.groups;
    return l->desc.mapping == DOCONV_MAPPING_PAPER     ? o / cog * l->cig + i
           : l->desc.mapping == DOCONV_MAPPING_PYTORCH ? (o * l->cig + i) % l->desc.cin
                                                       : (i * l->desc.cout + o) / cog;
}

static double composed_d(const struct layer *l, int64_t channel, int64_t m, int64_t s)
{
    const double identity =
        l->desc.add_identity && s < l->desc.d_mul / l->taps * l->taps && s % l->taps == m ? 1.0
                                                                                          : 0.0;
    return (double)l->d[(channel * l->taps + m) * l->desc.d_mul + s] + identity;
}

/* Calls visit() for each product of the convolution: which output, input and weight meet. */
struct product {
    size_t dst, src, weight;
};
static void for_products(const struct layer *l,
                         void (*visit)(void *arg, const struct product *product), void *arg)
{
    const doconv_conv_desc *d = &l->desc;
    for (int64_t n = 0; n < d->n; n++) {
        for (int64_t o = 0; o < d->cout; o++) {
            for (int64_t p = 0; p < l->hout; p++) {
                for (int64_t q = 0; q < l->wout; q++) {
                    for (int64_t i = 0; i < l->cig; i++) {
                        for (int64_t m = 0; m < l->taps; m++) {
                            const int64_t y =
                                p * d->stride_h + m / d->kw * d->dilation_h - d->pad_top;
                            const int64_t x =
                                q * d->stride_w + m % d->kw * d->dilation_w - d->pad_left;
                            if (y < 0 || y >= d->h || x < 0 || x >= d->w) {
                                continue;
                            }
                            const int64_t channel = o / (d->cout / d->groups) * l->cig + i;
                            const struct product product = {
                                .dst = (size_t)(((n * d->cout + o) * l->hout + p) * l->wout + q),
                                .src = (size_t)(((n * d->cin + channel) * d->h + y) * d->w + x),
                                .weight = (size_t)((o * l->cig + i) * l->taps + m)};
                            visit(arg, &product);
                        }
                    }
                }
            }
        }
    }
}

struct sums {
    struct layer *l;
    const double *weight; /* the one that convolves */
    double *grad_weight;
};

static void add_product(void *arg, const struct product *at)
{
    const struct sums *s = arg;
    struct layer *l = s->l;
    l->dst[at->dst] += (double)l->src[at->src] * s->weight[at->weight];
    l->grad_src[at->src] += (double)l->grad_dst[at->dst] * s->weight[at->weight];
    s->grad_weight[at->weight] += (double)l->grad_dst[at->dst] * (double)l->src[at->src];
}

static void *zeros(size_t count, size_t size)
{
    void *memory = calloc(count != 0 ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

static void compute_expected(struct layer *l)
{
    const doconv_conv_desc *d = &l->desc;
    double *weight = zeros(l->weight_count, sizeof *weight),
           *grad_weight = zeros(l->weight_count, sizeof *grad_weight);
    for (size_t at = 0; at < l->weight_count; at++) {
        weight[at] = d->d_mul == 0 ? (double)l->w[at] : 0.0;
        const int64_t m = (int64_t)at % l->taps, i = (int64_t)at / l->taps % l->cig,
                      o = (int64_t)at / l->taps / l->cig;
        for (int64_t s = 0; s < d->d_mul; s++) {
            weight[at] += composed_d(l, oracle_channel(l, o, i), m, s) *
                          (double)l->w[(o * l->cig + i) * d->d_mul + s];
        }
    }
    struct sums sums = {l, weight, grad_weight};
    for_products(l, add_product, &sums);
    const int64_t pixels = l->hout * l->wout;
    for (int64_t at = 0; at < (int64_t)l->dst_count; at++) {
        const int64_t o = at / pixels % d->cout;
        l->grad_bias[o] += (double)l->grad_dst[at];
        l->dst[at] += d->has_bias ? (double)l->bias[o] : 0.0;
    }
    for (size_t at = 0; at < l->weight_count; at++) {
        if (d->d_mul == 0) {
            l->grad_w[at] = grad_weight[at];
            continue;
        }
        const int64_t m = (int64_t)at % l->taps, i = (int64_t)at / l->taps % l->cig,
                      o = (int64_t)at / l->taps / l->cig;
        const int64_t channel = oracle_channel(l, o, i);
        for (int64_t s = 0; s < d->d_mul; s++) {
            l->grad_w[(o * l->cig + i) * d->d_mul + s] +=
                composed_d(l, channel, m, s) * grad_weight[at];
            l->grad_d[(channel * l->taps + m) * d->d_mul + s] +=
                (double)l->w[(o * l->cig + i) * d->d_mul + s] * grad_weight[at];
        }
    }
    free(weight);
    free(grad_weight);
}

static float *values(struct rng *rng, size_t count, bool integers)
{
    float *result = zeros(count, sizeof *result);
    for (size_t i = 0; i < count; i++) {
        result[i] = integers ? (float)rng_range(rng, -2, 2) : (float)(2.0 * rng_unit(rng) - 1.0);
    }
    return result;
}

static struct layer make_layer(const char *text, int64_t d_mul, doconv_mapping mapping,
                               int add_identity, bool integers)
{
    struct layer l = {.desc = problem(text)};
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, &l.desc, shape));
    doconv_conv_desc *d = &l.desc;
    /* Where results must be exact, no algorithm whose arithmetic isn't. */
    d->accuracy = integers ? DOCONV_ACCURACY_STRICT : d->accuracy;
    d->d_mul = d_mul;
    d->composition = d_mul > 0 ? DOCONV_COMPOSITION_KERNEL : DOCONV_COMPOSITION_NONE;
    d->mapping = mapping;
    d->add_identity = d_mul > 0 && add_identity;
    l.hout = shape[2];
    l.wout = shape[3];
    l.cig = d->cin / d->groups;
    l.taps = d->kh * d->kw;
    l.src_count = (size_t)(d->n * d->cin * d->h * d->w);
    l.dst_count = (size_t)(d->n * d->cout * l.hout * l.wout);
    l.weight_count = (size_t)(d->cout * l.cig * l.taps);
    l.w_count = d_mul > 0 ? (size_t)(d->cout * l.cig * d_mul) : l.weight_count;
    l.d_count = (size_t)(d->cin * l.taps * d_mul);
    struct rng rng = rng_from(7, text);
    l.src = values(&rng, l.src_count, integers);
    l.grad_dst = values(&rng, l.dst_count, integers);
    l.w = values(&rng, l.w_count, integers);
    l.d = values(&rng, l.d_count, integers);
    l.bias = values(&rng, (size_t)d->cout, integers);
    l.dst = zeros(l.dst_count, sizeof(double));
    l.grad_src = zeros(l.src_count, sizeof(double));
    l.grad_w = zeros(l.w_count, sizeof(double));
    l.grad_d = zeros(l.d_count, sizeof(double));
    l.grad_bias = zeros((size_t)d->cout, sizeof(double));
    compute_expected(&l);
    return l;
}

static void free_layer(struct layer *l)
{
    void *const all[] = {l->src, l->grad_dst, l->w,      l->d,      l->bias,
                         l->dst, l->grad_src, l->grad_w, l->grad_d, l->grad_bias};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

/* ---- a step in guarded memory ---- */

struct step {
    struct buffer src, dst, grad_dst, w, d, bias, grad_src, grad_w, grad_d, grad_bias, saved,
        workspace;
};

/* Blocked layouts: unread padding channels of inputs are NaN. */
static void put(struct buffer *buffer, const float *from, doconv_layout layout, int64_t n,
                int64_t c, int64_t h, int64_t w, enum buffer_place place)
{
    buffer_create(buffer, oracle_floats(layout, n, c, h, w) * sizeof(float), place, 4);
    for (int64_t i = 0; from != NULL && i < n * c * h * w; i++) {
        ((float *)buffer->data)[oracle_index(layout, c, h, w, i / w / h / c, i / w / h % c,
                                             i / w % h, i % w)] = from[i];
    }
}

static void put_flat(struct buffer *buffer, const float *from, size_t count,
                     enum buffer_place place)
{
    buffer_create(buffer, count * sizeof(float), place, 20);
    if (from != NULL && count != 0) {
        memcpy(buffer->data, from, count * sizeof(float));
    }
}

static struct step make_step(const struct layer *l, const doconv_training *training,
                             enum buffer_place place)
{
    const doconv_conv_desc *d = &l->desc;
    struct step s;
    put(&s.src, l->src, d->src_layout, d->n, d->cin, d->h, d->w, place);
    put(&s.dst, NULL, d->dst_layout, d->n, d->cout, l->hout, l->wout, place);
    put(&s.grad_dst, l->grad_dst, d->dst_layout, d->n, d->cout, l->hout, l->wout, place);
    put(&s.grad_src, NULL, d->src_layout, d->n, d->cin, d->h, d->w, place);
    put_flat(&s.w, l->w, l->w_count, place);
    put_flat(&s.d, l->d, l->d_count, place);
    put_flat(&s.bias, l->bias, (size_t)d->cout, place);
    put_flat(&s.grad_w, NULL, l->w_count, place);
    put_flat(&s.grad_d, NULL, l->d_count, place);
    put_flat(&s.grad_bias, NULL, (size_t)d->cout, place);
    buffer_create(&s.saved, doconv_training_saved_size(training), place, 4);
    buffer_create(&s.workspace, doconv_training_workspace_size(training), place, 12);
    return s;
}

static void free_step(struct step *s)
{
    struct buffer *const all[] = {&s->src,    &s->dst,       &s->grad_dst, &s->w,
                                  &s->d,      &s->bias,      &s->grad_src, &s->grad_w,
                                  &s->grad_d, &s->grad_bias, &s->saved,    &s->workspace};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_true(all[i]->place != BUFFER_CANARIES || buffer_intact(all[i]));
        buffer_destroy(all[i]);
    }
}

static doconv_parameters parameters_of(const struct layer *l, const struct step *s)
{
    return (doconv_parameters){.size = sizeof(doconv_parameters),
                               .weight = s->w.data,
                               .d = l->desc.d_mul > 0 ? s->d.data : NULL,
                               .bias = l->desc.has_bias ? s->bias.data : NULL};
}

static void run_step(const struct layer *l, const doconv_training *training, struct step *s,
                     bool save)
{
    const doconv_parameters parameters = parameters_of(l, s);
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = s->grad_src.data,
                                        .weight = s->grad_w.data,
                                        .d = l->desc.d_mul > 0 ? s->grad_d.data : NULL,
                                        .bias = l->desc.has_bias ? s->grad_bias.data : NULL};
    void *saved = save ? s->saved.data : NULL;
    expect_ok(doconv_training_forward(training, &parameters, s->src.data, s->dst.data, saved,
                                      s->workspace.data, s->workspace.bytes));
    memset(s->workspace.data, 0xff, s->workspace.bytes);
    expect_ok(doconv_training_backward(training, &parameters, s->src.data, s->grad_dst.data, saved,
                                       &gradients, s->workspace.data, s->workspace.bytes));
}

/* ---- comparisons ---- */

struct comparison {
    const struct layer *layer;
    const char *text, *where;
    bool exact;
};

static void compare(const struct comparison *c, const char *what, double seen, double expected,
                    double scale, size_t at)
{
    const double error = fabs(seen - expected);
    if (!(c->exact ? error == 0.0 : error <= 2e-5 * scale)) {
        fail_msg("%s, d_mul %" PRId64 ", mapping %d, %s: %s[%zu] is %.9g, expected %.9g", c->text,
                 c->layer->desc.d_mul, (int)c->layer->desc.mapping, c->where, what, at, seen,
                 expected);
    }
}

static double largest(const double *v, size_t count)
{
    double most = 1.0;
    for (size_t i = 0; i < count; i++) {
        most = fmax(most, fabs(v[i]));
    }
    return most;
}

static void compare_flat(const struct comparison *c, const char *what, const struct buffer *seen,
                         const double *expected, size_t count)
{
    const double scale = largest(expected, count);
    for (size_t i = 0; i < count; i++) {
        compare(c, what, (double)((const float *)seen->data)[i], expected[i], scale, i);
    }
}

static void compare_tensor(const struct comparison *c, const char *what, const struct buffer *seen,
                           const double *expected, doconv_layout layout, int64_t channels,
                           int64_t h, int64_t w)
{
    const int64_t n = c->layer->desc.n, stored = oracle_stored_channels(layout, channels);
    const double scale = largest(expected, (size_t)(n * channels * h * w));
    for (int64_t i = 0; i < n * stored * h * w; i++) {
        const int64_t image = i / w / h / stored, channel = i / w / h % stored, pixel = i % (h * w);
        const float value = ((const float *)seen->data)[oracle_index(
            layout, channels, h, w, image, channel, pixel / w, pixel % w)];
        compare(c, what, (double)value,
                channel < channels ? expected[(image * channels + channel) * h * w + pixel] : 0.0,
                scale, (size_t)i);
    }
}

static void compare_step(const struct comparison *c, const struct step *s)
{
    const struct layer *l = c->layer;
    const doconv_conv_desc *d = &l->desc;
    compare_tensor(c, "dst", &s->dst, l->dst, d->dst_layout, d->cout, l->hout, l->wout);
    compare_tensor(c, "grad_src", &s->grad_src, l->grad_src, d->src_layout, d->cin, d->h, d->w);
    compare_flat(c, "grad_weight", &s->grad_w, l->grad_w, l->w_count);
    if (d->d_mul > 0) {
        compare_flat(c, "grad_d", &s->grad_d, l->grad_d, l->d_count);
    }
    if (d->has_bias) {
        compare_flat(c, "grad_bias", &s->grad_bias, l->grad_bias, (size_t)d->cout);
    }
}

/* A step with each way to save, at each cap; all the same bits for any number of threads. */
static void check_layer(const char *text, struct layer *l, bool exact)
{
    for (int cap = 0; cap < CAPS; cap++) {
        struct step first = {0};
        static const struct {
            int threads;
            bool save;
            enum buffer_place place;
        } ways[] = {{1, false, BUFFER_GUARD_AFTER},
                    {1, true, BUFFER_GUARD_BEFORE},
                    {3, false, BUFFER_CANARIES},
                    {7, true, BUFFER_GUARD_AFTER},
                    {64, false, BUFFER_CANARIES}};
        for (size_t way = 0; way < sizeof ways / sizeof ways[0]; way++) {
            struct task_order order = {.kind = TASKS_SHUFFLED};
            doconv_context *context =
                open_with(caps[cap], ways[way].threads, ways[way].threads > 1 ? &order : NULL);
            doconv_training *training = NULL;
            expect_ok(doconv_training_create(context, &l->desc, NULL, &training));
            struct step s = make_step(l, training, ways[way].place);
            run_step(l, training, &s, ways[way].save);
            char where[96];
            snprintf(where, sizeof where, "composition %d, cap %s, %d threads, %s",
                     (int)l->desc.composition, doconv_isa_string(caps[cap]), ways[way].threads,
                     ways[way].save ? "saved" : "not saved");
            compare_step(&(struct comparison){l, text, where, exact}, &s);
            doconv_training_destroy(training);
            doconv_context_destroy(context);
            if (way == 0) {
                first = s;
                continue;
            }
            const struct buffer *const one[] = {&first.dst, &first.grad_src, &first.grad_w,
                                                &first.grad_d, &first.grad_bias};
            const struct buffer *const other[] = {&s.dst, &s.grad_src, &s.grad_w, &s.grad_d,
                                                  &s.grad_bias};
            for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) {
                if (one[i]->bytes != 0 &&
                    memcmp(one[i]->data, other[i]->data, one[i]->bytes) != 0) {
                    fail_msg("%s, %s: tensor %zu has other bits than with one thread", text, where,
                             i);
                }
            }
            free_step(&s);
        }
        free_step(&first);
    }
}

static const char *const shapes[] = {
    "mb1_ic3ih9oc5kh3ph1:src=nchw,dst=nchw,bias",
    "mb2_ic16ih8iw5oc32kh3kw3ph1pw1:src=nhwc,dst=nhwc,bias",
    "mb2_ic20ih7oc33kh3ph1:src=nChw16c,dst=nChw8c",
    "mb1_ic17ih10iw13oc18kh3kw3ph1pw1sh2sw2:src=nhwc,dst=nchw,bias",
    "mb2_ic8ih11iw9oc16kh3kw3ph1pw1sh2sw2:src=nChw8c,dst=nChw8c",
    "mb1_ic3ih15iw17oc20kh7kw7ph3pw3sh2sw2:src=nchw,dst=nhwc,bias",
    "mb1_ic32ih6oc64kh1:src=nhwc,dst=nhwc",
    "mb3_ic24ih7oc16kh1sh2:src=nchw,dst=nChw16c,bias",
    "mb1_ic5ih12iw11oc7kh3kw2ph2pw1sh3sw2dh1dw2:src=nchw,dst=nchw",
    "mb1_ic4ih9oc6kh2ph0sh3:src=nhwc,dst=nhwc",
    "mb1_ic6ih5oc4kh1ph2:src=nhwc,dst=nchw",
    "mb1_ic6ih9oc4kh3ph4dh1sh2:src=nchw,dst=nhwc",
    "mb2_ic16ih1iw1oc16kh1kw1:src=nhwc,dst=nhwc,bias",
    "mb1_ic7ih4iw4oc9kh4kw4:src=nchw,dst=nchw",
    "g16_mb2_ic16ih9oc16kh3ph1:src=nhwc,dst=nhwc,bias",
    "g20_mb1_ic20ih9oc40kh3ph1sh2:src=nchw,dst=nChw8c",
    "g8_mb1_ic32ih7oc32kh3ph1:src=nhwc,dst=nhwc,bias",
    "g4_mb1_ic8ih6oc24kh3ph1sh2:src=nChw8c,dst=nchw",
    "g2_mb2_ic36ih5oc40kh3ph1:src=nhwc,dst=nchw,bias",
    "g3_mb1_ic6ih8iw8oc9kh5kw1ph2pw0:src=nchw,dst=nhwc",
    "mb2_ic36ih3oc50kh3ph1:src=nhwc,dst=nhwc,bias",
    "mb1_ic32ih4oc72kh3ph1:src=nChw16c,dst=nChw16c",
    "g2_mb1_ic42ih5oc80kh3ph1:src=nchw,dst=nchw,bias",
    /* Each input is read once: by a product of a few rows at a time where outputs are few; */
    "g12_mb1_ic12ih9oc24kh2sh2:src=nhwc,dst=nhwc",
    "mb2_ic5ih8oc16kh2sh2:src=nchw,dst=nChw8c",
    "mb2_ic3ih300iw130oc8kh2kw2sh2sw2:src=nhwc,dst=nChw8c",
    "mb1_ic20ih153iw152oc24kh3kw3sh3sw3ph1pw1:src=nchw,dst=nchw",
    "g2_mb1_ic40ih99iw100oc48kh3kw3sh4sw4ph2pw1:src=nChw8c,dst=nhwc",
    "mb1_ic32ih13iw17oc20kh2kw2sh3sw4dh0dw1ph1pw1:src=nChw16c,dst=nhwc",
    "mb2_ic6ih9iw14oc9kh2kw4sh2sw4ph1pw3:src=nhwc,dst=nchw",
    /* else of all: patches, whole ones and such that end in the padding, or leave inputs. */
    "mb2_ic3ih16oc40kh4sh4:src=nchw,dst=nchw,bias",
    "mb1_ic3ih17iw18oc36kh5kw5sh5sw5ph2pw2:src=nhwc,dst=nhwc,bias",
    "mb1_ic10ih9iw11oc36kh2kw2sh3sw3ph1pw1:src=nChw8c,dst=nChw16c",
    "mb2_ic18ih7iw12oc35kh2kw3sh4sw5dh1dw0:src=nChw16c,dst=nchw",
    "mb1_ic4ih14iw15oc8kh3kw3sh7sw7dh2dw2ph3pw3:src=nchw,dst=nhwc",
    "g2_mb1_ic8ih6iw9oc12kh3kw5sh3sw6:src=nchw,dst=nchw,bias",
    "g3_mb2_ic6ih9oc9kh1sh2:src=nChw8c,dst=nchw",
    "g2_mb1_ic8ih7oc70kh2sh2:src=nhwc,dst=nChw8c",
    /* By taps: depthwise layers, channels that end in a vector, and borders of every kind; */
    "g80_mb2_ic80ih8iw6oc80kh2kw2sh2sw2:src=nhwc,dst=nhwc,bias",
    "g72_mb1_ic72ih11iw13oc72kh3kw3sh3sw3ph1pw1:src=nchw,dst=nchw",
    "g21_mb2_ic21ih10iw9oc21kh2kw3sh4sw3ph1pw2:src=nchw,dst=nhwc",
    "g40_mb1_ic40ih13iw12oc40kh2kw2sh4sw5dh2dw3ph2pw3:src=nChw16c,dst=nChw16c",
    "g24_mb1_ic24ih9iw25oc24kh1kw12sh1sw12pw5:src=nChw8c,dst=nchw",
    "g18_mb1_ic18ih30iw3oc18kh1kw1sh2sw2:src=nhwc,dst=nChw8c,bias",
    "g16_mb1_ic16ih3iw4oc16kh2kw2sh3sw3ph4pw4:src=nhwc,dst=nhwc",
    /* groups of 2 to 16, of fewer inputs than outputs too; */
    "g16_mb2_ic64ih9iw12oc64kh2kw2sh2sw2:src=nhwc,dst=nhwc",
    "g10_mb1_ic20ih10iw8oc20kh3kw2sh3sw2ph1:src=nchw,dst=nchw,bias",
    "g8_mb1_ic64ih8iw7oc64kh2kw3sh2sw4ph1pw1:src=nChw16c,dst=nChw16c",
    "g5_mb1_ic20ih7oc20kh2sh3ph1:src=nChw8c,dst=nhwc",
    "g3_mb2_ic48ih9oc48kh2sh2:src=nhwc,dst=nChw8c",
    "g8_mb1_ic64ih7iw9oc32kh2kw2sh2sw2:src=nhwc,dst=nhwc",
    "mb1_ic3ih1iw20oc40kh1kw4sh1sw4:src=nhwc,dst=nchw",
    /* Outputs that read nothing but padding: by classes. */
    "mb1_ic3ih6oc40kh2sh3ph2:src=nchw,dst=nhwc",
    /* Every residue has other taps: by loops. */
    "mb1_ic5ih30iw31oc6kh8kw8sh7sw7dh4dw4ph10pw10:src=nchw,dst=nchw",
    "g2_mb2_ic12ih18oc6kh9sh7dh4ph14:src=nChw8c,dst=nhwc,bias",
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* How many convolutions the gradient of src is made of. */
static void test_input_gradients(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int plans;
    } layers[] = {
        {"ic16ih9oc32kh3ph1", 1},
        {"ic16ih9oc32kh3ph1sh2", 4},
        {"ic64ih14oc64kh1sh2", 1},
        /* Patches: one product, whatever the strides. */
        {"ic3ih224oc768kh16sh16", 1},
        {"ic3ih1024oc16kh512sh512", 1},
        {"ic3ih2000000000iw1oc1kh1kw1sh1000000000sw1000000000", 1},
        /* Kernels write to places: none. */
        {"g32ic32ih56oc32kh2sh2", 0},
        {"g8ic32ih56oc32kh3sh3ph1", 0},
        /* One tap or two, along each axis: classes of the same shape share a plan. */
        {"ic3ih225oc64kh17sh16", 4},
        {"ic3ih512oc8kh201sh200ph60", 9},
        /* More shapes than plans, or more classes: loops. */
        {"g2_mb2_ic12ih18oc6kh9sh7dh4ph14", 0},
        {"ic3ih1000oc8kh301sh300", 0},
    };
    doconv_context *context = open_context();
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        const doconv_conv_desc desc = problem(layers[i].text);
        doconv_training *training;
        expect_ok(doconv_training_create(context, &desc, NULL, &training));
        int plans = 0;
        for (int k = 0; k < doconv_training_operation_count(training); k++) {
            doconv_training_operation operation = {.size = sizeof operation};
            expect_ok(doconv_training_operation_get(training, k, &operation));
            plans += strcmp(operation.role, "gradient of src") == 0;
        }
        if (plans != layers[i].plans) {
            fail_msg("%s: %d convolutions, %d expected", layers[i].text, plans, layers[i].plans);
        }
        doconv_training_destroy(training);
    }
    doconv_context_destroy(context);
}

static void plain_layers(void **state)
{
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        struct layer l = make_layer(shapes[i], 0, DOCONV_MAPPING_PAPER, 0, true);
        check_layer(shapes[i], &l, true);
        free_layer(&l);
    }
}

/*
 * Every shape with a D, at three depth multipliers. Feature composition knows the paper's mapping
 * only.
 */
static void composed_layers(doconv_composition composition)
{
    for (int i = 0; i < SHAPES; i++) {
        const doconv_conv_desc d = problem(shapes[i]);
        const int64_t taps = d.kh * d.kw, d_muls[] = {taps, taps + 3, taps > 2 ? taps - 1 : 2};
        const doconv_mapping mapping = composition == DOCONV_COMPOSITION_FEATURE
                                           ? DOCONV_MAPPING_PAPER
                                           : (doconv_mapping)(i % (DOCONV_MAPPING_TENSORFLOW + 1));
        struct layer l = make_layer(shapes[i], d_muls[i % 3], mapping, i % 2, true);
        l.desc.composition = composition;
        check_layer(shapes[i], &l, true);
        free_layer(&l);
    }
}

static void kernel_composition(void **state)
{
    (void)state;
    composed_layers(DOCONV_COMPOSITION_KERNEL);
}

static void feature_composition(void **state)
{
    (void)state;
    composed_layers(DOCONV_COMPOSITION_FEATURE);
}

/* Either of them, with every mapping; the same bits for any number of threads all the same. */
static void open_composition(void **state)
{
    (void)state;
    composed_layers(DOCONV_COMPOSITION_AUTO);
}

/* Values that round: within the bound of the sums, all compositions. */
static void real_values(void **state)
{
    (void)state;
    /* Estimates for several threads prefer other families of kernels for the last ones. */
    static const char *const texts[] = {
        "mb2_ic32ih14oc48kh3ph1:src=nhwc,dst=nhwc,bias",
        "g4_mb1_ic64ih9oc64kh3ph1sh2:src=nchw,dst=nchw",
        "mb1_ic84ih1oc10kh1",
        "mb1_ic96ih1oc4kh1",
        "g32mb1_ic256ih9oc256kh3ph1",
        "g4mb1ic32ih28oc32kh3ph1:src=nhwc,dst=nhwc",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (int composition = 0; composition <= DOCONV_COMPOSITION_AUTO; composition++) {
            struct layer l =
                make_layer(texts[i], composition != 0 ? 9 : 0, DOCONV_MAPPING_PAPER, 1, false);
            l.desc.composition = (doconv_composition)composition;
            check_layer(texts[i], &l, false);
            free_layer(&l);
        }
    }
}

/* sum(dst * grad_dst), whose derivatives are the gradients. */
static double loss(const struct layer *l, const doconv_training *training, struct step *s)
{
    const doconv_parameters parameters = parameters_of(l, s);
    expect_ok(doconv_training_forward(training, &parameters, s->src.data, s->dst.data, NULL,
                                      s->workspace.data, s->workspace.bytes));
    double sum = 0.0;
    for (size_t i = 0; i < l->dst_count; i++) {
        sum +=
            (double)((const float *)s->dst.data)[i] * (double)((const float *)s->grad_dst.data)[i];
    }
    return sum;
}

/*
 * The library's gradients against differences of its own forward pass: dst is linear in each
 * tensor, so a step of any size is exact but for rounding.
 */
static void check_differences(const struct layer *l)
{
    doconv_context *context = open_context();
    doconv_training *training = NULL;
    expect_ok(doconv_training_create(context, &l->desc, NULL, &training));
    struct step s = make_step(l, training, BUFFER_CANARIES);
    run_step(l, training, &s, false);
    const struct {
        const char *name;
        struct buffer *value, *gradient;
    } tensors[] = {{"src", &s.src, &s.grad_src},
                   {"weight", &s.w, &s.grad_w},
                   {"d", &s.d, &s.grad_d},
                   {"bias", &s.bias, &s.grad_bias}};
    for (size_t t = 0; t < sizeof tensors / sizeof tensors[0]; t++) {
        float *value = tensors[t].value->data;
        const float *gradient = tensors[t].gradient->data;
        const size_t count = tensors[t].value->bytes / sizeof(float);
        for (size_t i = 0; i < count; i += 1 + count / 40) {
            const float kept = value[i];
            value[i] = kept + 0.5f;
            const double above = loss(l, training, &s);
            value[i] = kept - 0.5f;
            const double difference = above - loss(l, training, &s);
            value[i] = kept;
            if (!(fabs(difference - (double)gradient[i]) <= 1e-3 * fmax(1.0, fabs(difference)))) {
                fail_msg("%s[%zu]: the gradient is %.9g, the difference %.9g", tensors[t].name, i,
                         (double)gradient[i], difference);
            }
        }
    }
    free_step(&s);
    doconv_training_destroy(training);
    doconv_context_destroy(context);
}

static void finite_differences(void **state)
{
    (void)state;
    for (int composition = DOCONV_COMPOSITION_KERNEL; composition <= DOCONV_COMPOSITION_FEATURE;
         composition++) {
        struct layer l = make_layer("mb2_ic6ih7oc8kh3ph1sh2:src=nchw,dst=nchw,bias", 9,
                                    DOCONV_MAPPING_PAPER, 1, false);
        l.desc.composition = (doconv_composition)composition;
        check_differences(&l);
        free_layer(&l);
    }
}

/* A gradient that nobody wants is not computed, and changes no other. */
static void wanted_gradients(void **state)
{
    (void)state;
    for (int composition = 0; composition <= DOCONV_COMPOSITION_AUTO; composition++) {
        struct layer l =
            make_layer(shapes[1], composition != 0 ? 9 : 0, DOCONV_MAPPING_PAPER, 0, true);
        l.desc.composition = (doconv_composition)composition;
        doconv_context *context = open_context();
        doconv_training *training = NULL;
        expect_ok(doconv_training_create(context, &l.desc, NULL, &training));
        for (int wanted = 0; wanted < 16; wanted++) {
            struct step s = make_step(&l, training, BUFFER_CANARIES);
            const doconv_parameters parameters = parameters_of(&l, &s);
            const bool wants_d = (wanted & 4) != 0 && composition != 0;
            const doconv_gradients gradients = {.size = sizeof gradients,
                                                .src = wanted & 1 ? s.grad_src.data : NULL,
                                                .weight = wanted & 2 ? s.grad_w.data : NULL,
                                                .d = wants_d ? s.grad_d.data : NULL,
                                                .bias = wanted & 8 ? s.grad_bias.data : NULL};
            expect_ok(doconv_training_backward(training, &parameters, s.src.data, s.grad_dst.data,
                                               NULL, &gradients, s.workspace.data,
                                               s.workspace.bytes));
            const struct comparison c = {&l, shapes[1], "some gradients", true};
            if (wanted & 1) {
                compare_tensor(&c, "grad_src", &s.grad_src, l.grad_src, l.desc.src_layout,
                               l.desc.cin, l.desc.h, l.desc.w);
            }
            if (wanted & 2) {
                compare_flat(&c, "grad_weight", &s.grad_w, l.grad_w, l.w_count);
            }
            if (wants_d) {
                compare_flat(&c, "grad_d", &s.grad_d, l.grad_d, l.d_count);
            }
            if (wanted & 8) {
                compare_flat(&c, "grad_bias", &s.grad_bias, l.grad_bias, (size_t)l.desc.cout);
            }
            free_step(&s);
        }
        doconv_training_destroy(training);
        doconv_context_destroy(context);
        free_layer(&l);
    }
}

static void refused_layers(void **state)
{
    (void)state;
    doconv_context *context = open_context();
    doconv_training *training = NULL;
    doconv_training_options options = {.size = sizeof options};
    doconv_conv_desc d = problem("mb1_ic8ih6oc8kh3ph1");
    expect_status(doconv_training_create(NULL, &d, NULL, &training), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_training_create(context, NULL, NULL, &training), DOCONV_INVALID_ARGUMENT);
    expect_status(doconv_training_create(context, &d, NULL, NULL), DOCONV_INVALID_ARGUMENT);
    options.size = 1;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_MISMATCH);
    options.size = sizeof options;
    options.rigor = (doconv_rigor)77;
    expect_status(doconv_training_create(context, &d, &options, &training),
                  DOCONV_INVALID_ARGUMENT);
    options.rigor = DOCONV_RIGOR_DEFAULT;
    d.relu = 1;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_UNSUPPORTED);
    expect_error(context, "relu", NULL);
    d.relu = 0;
    d.d_mul = 9;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_INVALID_PROBLEM);
    expect_error(context, "composition", NULL);
    d.composition = DOCONV_COMPOSITION_FEATURE;
    d.groups = 4;
    d.mapping = DOCONV_MAPPING_TENSORFLOW;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_UNSUPPORTED);
    expect_error(context, "mapping", "tensorflow");
    d.mapping = (doconv_mapping)9;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_INVALID_PROBLEM);
    d.mapping = DOCONV_MAPPING_PYTORCH;
    d.groups = 8; /* depthwise: the mappings agree */
    expect_ok(doconv_training_create(context, &d, &options, &training));
    doconv_training_destroy(training);
    d.composition = DOCONV_COMPOSITION_KERNEL;
    d.d_mul = -1;
    expect_status(doconv_training_create(context, &d, &options, &training), DOCONV_INVALID_PROBLEM);
    for (int composition = DOCONV_COMPOSITION_KERNEL; composition <= DOCONV_COMPOSITION_AUTO;
         composition++) {
        d.composition = (doconv_composition)composition;
        for (int bits = 32; bits < 63; bits++) {
            d.d_mul = INT64_C(1) << bits;
            if (doconv_training_create(context, &d, &options, &training) == DOCONV_OK) {
                doconv_training_destroy(training); /* it may be asked for, if not run */
                training = NULL;
                assert_true(bits < 40);
            }
        }
    }
    assert_null(training);
    doconv_training_destroy(NULL);
    assert_int_equal(doconv_training_workspace_size(NULL), 0);
    assert_int_equal(doconv_training_saved_size(NULL), 0);
    doconv_context_destroy(context);
}

static void refused_calls(void **state)
{
    (void)state;
    struct layer l = make_layer(shapes[0], 9, DOCONV_MAPPING_PAPER, 0, true);
    doconv_context *context = open_context();
    doconv_training *training = NULL;
    expect_ok(doconv_training_create(context, &l.desc, NULL, &training));
    struct step s = make_step(&l, training, BUFFER_CANARIES);
    const doconv_parameters good = parameters_of(&l, &s);
    void *const space = s.workspace.data;
    const size_t size = s.workspace.bytes;
    doconv_parameters p = good;
#define FORWARD(parameters, src, dst, space, size)                                                 \
    doconv_training_forward(training, parameters, src, dst, NULL, space, size)
    expect_status(doconv_training_forward(NULL, &p, s.src.data, s.dst.data, NULL, space, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_status(FORWARD(NULL, s.src.data, s.dst.data, space, size), DOCONV_INVALID_ARGUMENT);
    expect_status(FORWARD(&p, NULL, s.dst.data, space, size), DOCONV_INVALID_ARGUMENT);
    expect_status(FORWARD(&p, s.src.data, NULL, space, size), DOCONV_INVALID_ARGUMENT);
    expect_status(FORWARD(&p, s.src.data, s.dst.data, NULL, size), DOCONV_WORKSPACE_TOO_SMALL);
    expect_status(FORWARD(&p, s.src.data, s.dst.data, space, size - 1), DOCONV_WORKSPACE_TOO_SMALL);
    p.d = NULL;
    expect_status(FORWARD(&p, s.src.data, s.dst.data, space, size), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "parameters.d", NULL);
    p = good;
    p.bias = NULL;
    expect_status(FORWARD(&p, s.src.data, s.dst.data, space, size), DOCONV_INVALID_ARGUMENT);
    expect_error(context, "bias", NULL);
    p = good;
    p.size = 0;
    expect_status(FORWARD(&p, s.src.data, s.dst.data, space, size), DOCONV_MISMATCH);
    const uint32_t *dst = s.dst.data;
    assert_int_equal(dst[0], BUFFER_UNWRITTEN);
#define BACKWARD(grad_dst, gradients)                                                              \
    doconv_training_backward(training, &good, s.src.data, grad_dst, NULL, gradients, space, size)
    doconv_gradients g = {.size = sizeof g};
    expect_ok(BACKWARD(s.grad_dst.data, &g));
    expect_status(BACKWARD(NULL, &g), DOCONV_INVALID_ARGUMENT);
    expect_status(BACKWARD(s.grad_dst.data, NULL), DOCONV_INVALID_ARGUMENT);
    g.size = 3;
    expect_status(BACKWARD(s.grad_dst.data, &g), DOCONV_MISMATCH);
    doconv_training_destroy(training);
    l.desc.d_mul = 0;
    l.desc.composition = DOCONV_COMPOSITION_NONE;
    l.desc.has_bias = 0;
    expect_ok(doconv_training_create(context, &l.desc, NULL, &training));
    const doconv_parameters plain = {.size = sizeof plain, .weight = s.w.data};
    g = (doconv_gradients){.size = sizeof g, .d = s.grad_d.data};
    expect_status(doconv_training_backward(training, &plain, s.src.data, s.grad_dst.data, NULL, &g,
                                           space, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "gradients.d", NULL);
    g = (doconv_gradients){.size = sizeof g, .bias = s.grad_bias.data};
    expect_status(doconv_training_backward(training, &plain, s.src.data, s.grad_dst.data, NULL, &g,
                                           space, size),
                  DOCONV_INVALID_ARGUMENT);
    expect_error(context, "gradients.bias", NULL);
    doconv_training_destroy(training);
    free_step(&s);
    doconv_context_destroy(context);
    free_layer(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_layers),        cmocka_unit_test(kernel_composition),
        cmocka_unit_test(feature_composition), cmocka_unit_test(open_composition),
        cmocka_unit_test(real_values),         cmocka_unit_test(finite_differences),
        cmocka_unit_test(wanted_gradients),    cmocka_unit_test(test_input_gradients),
        cmocka_unit_test(refused_layers),      cmocka_unit_test(refused_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
