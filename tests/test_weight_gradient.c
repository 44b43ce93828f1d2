/* SPDX-License-Identifier: MIT */
/*
 * The gradient of weight, by every candidate, and of bias against double-precision sums written
 * down from the definition: sampled and chosen shapes, layouts, ISA caps, threads, memory. Most
 * cases use small integers, whose results are exact in every order of additions, so any difference
 * is an error.
 */
#include <math.h>

#include "capped.h"
#include "base/registry.h"
#include "train/bias_gradient.h"
#include "harness.h"
#include "harness_buffer.h"
#include "oracle.h"
#include "plans.h"

/* ---- the oracle ---- */

struct expected {
    double *weight, *magnitude, *bias, *bias_magnitude;
    size_t weights;
};

static double *zeros(size_t count)
{
    double *memory = calloc(count, sizeof *memory);
    assert_non_null(memory);
    return memory;
}

/* A tensor in NCHW order. */
static float *planes_of(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w,
                        const float *data)
{
    float *planes = malloc((size_t)(n * c * h * w) * sizeof *planes);
    assert_non_null(planes);
    for (int64_t i = 0; i < n * c * h * w; i++) {
        planes[i] =
            data[oracle_index(layout, c, h, w, i / w / h / c, i / w / h % c, i / w % h, i % w)];
    }
    return planes;
}

static struct expected expect_gradient(const struct dc_problem *p, const float *src_data,
                                       const float *grad_data)
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw, cig = d->cin / d->groups, cog = d->cout / d->groups,
                  pixels = p->hout * p->wout;
    struct expected e = {.weights = (size_t)(d->cout * cig * taps)};
    e.weight = zeros(e.weights);
    e.magnitude = zeros(e.weights);
    e.bias = zeros((size_t)d->cout);
    e.bias_magnitude = zeros((size_t)d->cout);
    float *src = planes_of(d->src_layout, d->n, d->cin, d->h, d->w, src_data);
    float *grad_dst = planes_of(d->dst_layout, d->n, d->cout, p->hout, p->wout, grad_data);
    for (int64_t plane = 0; plane < d->n * d->cout; plane++) {
        const int64_t n = plane / d->cout, o = plane % d->cout;
        const float *grad = grad_dst + plane * pixels;
        for (int64_t at = 0; at < pixels; at++) {
            e.bias[o] += (double)grad[at];
            e.bias_magnitude[o] += fabs((double)grad[at]);
        }
        for (int64_t at = 0; at < cig * taps; at++) {
            const int64_t ky = at % taps / d->kw, kx = at % d->kw;
            const float *in = src + (n * d->cin + o / cog * cig + at / taps) * d->h * d->w;
            double sum = 0.0, magnitude = 0.0;
            for (int64_t y = 0; y < p->hout; y++) {
                const int64_t row = y * d->stride_h + ky * d->dilation_h - d->pad_top;
                for (int64_t x = 0; x < p->wout && row >= 0 && row < d->h; x++) {
                    const int64_t column = x * d->stride_w + kx * d->dilation_w - d->pad_left;
                    if (column >= 0 && column < d->w) {
                        const double product =
                            (double)grad[y * p->wout + x] * (double)in[row * d->w + column];
                        sum += product;
                        magnitude += fabs(product);
                    }
                }
            }
            e.weight[o * cig * taps + at] += sum;
            e.magnitude[o * cig * taps + at] += magnitude;
        }
    }
    free(src);
    free(grad_dst);
    return e;
}

static void free_expected(struct expected *e)
{
    free(e->weight);
    free(e->magnitude);
    free(e->bias);
    free(e->bias_magnitude);
}

/* ---- a call in guarded memory ---- */

struct call {
    const doconv_context *context;
    const struct dc_problem *layer; /* its convolution */
    const doconv_plan *plan;
    struct buffer src, grad_dst, grad_weight, grad_bias, workspace;
    bool weight, bias; /* wanted */
};

static void run_call(void *arg)
{
    struct call *c = arg;
    const struct dc_tensors tensors = {
        .src = c->src.data,
        .grad_dst = c->grad_dst.data,
        .grad_weight = c->grad_weight.data,
    };
    if (c->weight) {
        dc_plan_run(c->plan, &tensors, c->workspace.data);
    }
    if (c->bias) {
        dc_bias_gradient(c->context, c->layer, c->grad_dst.data, c->grad_bias.data);
    }
}

/*
 * Channels that a layout stores beside the tensor's stay NaN: nothing of them may reach a result.
 */
static void put(struct buffer *buffer, const struct buffer *from)
{
    memcpy(buffer->data, from->data, from->bytes);
}

static void fill(struct buffer *buffer, struct rng *rng, doconv_layout layout, int64_t n, int64_t c,
                 int64_t h, int64_t w, bool integers)
{
    buffer_create(buffer, oracle_floats(layout, n, c, h, w) * sizeof(float), BUFFER_CANARIES, 4);
    for (int64_t i = 0; i < n * c * h * w; i++) {
        ((float *)buffer->data)[oracle_index(layout, c, h, w, i / w / h / c, i / w / h % c,
                                             i / w % h, i % w)] =
            integers ? (float)rng_range(rng, -2, 2) : (float)(2.0 * rng_unit(rng) - 1.0);
    }
}

static void compare(const char *text, const char *where, const char *what, const float *seen,
                    const double *value, const double *magnitude, size_t count, double unit)
{
    for (size_t i = 0; i < count; i++) {
        if (!(fabs((double)seen[i] - value[i]) <= unit * magnitude[i])) {
            fail_msg("%s, %s: %s[%zu] is %.9g, must be %.9g", text, where, what, i, (double)seen[i],
                     value[i]);
        }
    }
}

/* A way to run: numbers and orders of threads, places in memory. */
static const struct way {
    int threads;
    enum buffer_place place;
    enum task_kind kind;
} ways[] = {{1, BUFFER_GUARD_AFTER, TASKS_FORWARD},
            {1, BUFFER_GUARD_BEFORE, TASKS_FORWARD},
            {2, BUFFER_CANARIES, TASKS_REVERSED},
            {3, BUFFER_GUARD_AFTER, TASKS_PTHREADS},
            {8, BUFFER_CANARIES, TASKS_SHUFFLED}};
enum { WAYS = sizeof ways / sizeof ways[0] };

/* A problem with its data. */
struct subject {
    const char *text;
    const doconv_conv_desc *desc;
    struct buffer src, grad_dst;
    struct expected expected;
    double unit; /* the bound of an error, of the sum of magnitudes */
};

/* A plan in a way, against the oracle. The caller destroys grad_weight and grad_bias. */
static void check_plan(const struct subject *s, doconv_context *context,
                       const struct dc_problem *layer, const doconv_plan *plan,
                       const struct way *way, struct buffer *grad_weight, struct buffer *grad_bias)
{
    char where[DC_VARIANT_SIZE + 96];
    snprintf(where, sizeof where, "%s, %d threads, place %d", plan->candidate.text, way->threads,
             (int)way->place);
    const size_t cout = (size_t)layer->desc.cout;
    /*
     * Guards: tensors end (or start) at a page; the workspace is 64-byte aligned by contract, so
     * its size is rounded to that.
     */
    struct call c = {
        .context = context, .layer = layer, .plan = plan, .weight = true, .bias = true};
    buffer_create(&c.src, s->src.bytes, way->place, 12);
    buffer_create(&c.grad_dst, s->grad_dst.bytes, way->place, 20);
    buffer_create(&c.grad_weight, s->expected.weights * sizeof(float), way->place, 4);
    buffer_create(&c.grad_bias, cout * sizeof(float), way->place, 36);
    buffer_create(&c.workspace, (plan->workspace_size + 63) / 64 * 64,
                  way->place == BUFFER_CANARIES ? BUFFER_GUARD_AFTER : way->place, 0);
    put(&c.src, &s->src);
    put(&c.grad_dst, &s->grad_dst);
    const void *address = NULL;
    if (!fault_catch(run_call, &c, &address)) {
        fail_msg("%s, %s: touches %p", s->text, where, address);
    }
    assert_true(c.src.place != BUFFER_CANARIES ||
                (buffer_intact(&c.src) && buffer_intact(&c.grad_dst) &&
                 buffer_intact(&c.grad_weight) && buffer_intact(&c.grad_bias)));
    assert_memory_equal(c.src.data, s->src.data, s->src.bytes);
    assert_memory_equal(c.grad_dst.data, s->grad_dst.data, s->grad_dst.bytes);
    const struct expected *e = &s->expected;
    compare(s->text, where, "weight", c.grad_weight.data, e->weight, e->magnitude, e->weights,
            s->unit);
    compare(s->text, where, "bias", c.grad_bias.data, e->bias, e->bias_magnitude, cout, s->unit);
    buffer_destroy(&c.src);
    buffer_destroy(&c.grad_dst);
    buffer_destroy(&c.workspace);
    *grad_weight = c.grad_weight;
    *grad_bias = c.grad_bias;
}

static void same_bits(const struct subject *s, const char *where, const struct buffer *a,
                      const struct buffer *b)
{
    if (memcmp(a->data, b->data, a->bytes) != 0) {
        fail_msg("%s, %s: other bits than with one thread or with another candidate of the same "
                 "order of sums",
                 s->text, where);
    }
}

/* The plan that a context chooses itself, in every way; all the same bits. */
static void check_choice(const struct subject *s, doconv_isa cap)
{
    struct buffer first_weight = {0}, first_bias = {0};
    for (int way = 0; way < WAYS; way++) {
        struct task_order order = {.kind = ways[way].kind};
        doconv_context *context = open_with(cap, ways[way].threads, &order);
        struct dc_problem layer;
        expect_ok(dc_problem_create(context, s->desc, &layer));
        const struct dc_problem p = dc_problem_for(&layer, DC_WEIGHT_GRADIENT);
        doconv_plan *plan = plan_of(context, &p, NULL);
        struct buffer weight, bias;
        check_plan(s, context, &layer, plan, &ways[way], &weight, &bias);
        if (way == 0) {
            first_weight = weight;
            first_bias = bias;
        } else {
            same_bits(s, plan->candidate.text, &first_weight, &weight);
            same_bits(s, "bias", &first_bias, &bias);
            buffer_destroy(&weight);
            buffer_destroy(&bias);
        }
        doconv_plan_destroy(plan);
        doconv_context_destroy(context);
    }
    buffer_destroy(&first_weight);
    buffer_destroy(&first_bias);
}

/* Most orders of sums that the candidates of a problem have. */
enum { MOST_ORDERS = 16 };

/* Every candidate of a cap, each in one of the ways; the same bits for one order of sums. */
static void check_candidates(const struct subject *s, doconv_isa cap)
{
    struct {
        int order_of_sums;
        struct buffer weight;
    } first[MOST_ORDERS];
    int orders = 0;
    for (int way = 0; way < WAYS; way++) {
        struct task_order order = {.kind = ways[way].kind};
        doconv_context *context = open_with(cap, ways[way].threads, &order);
        struct dc_problem layer;
        expect_ok(dc_problem_create(context, s->desc, &layer));
        const struct dc_problem p = dc_problem_for(&layer, DC_WEIGHT_GRADIENT);
        struct dc_candidate_list list = forcible_share(context, &p);
        for (int c = way; c < list.count; c += WAYS) {
            if (!of_cap(context, &list.items[c])) {
                continue;
            }
            doconv_plan *plan = plan_of(context, &p, list.items[c].text);
            struct buffer weight, bias;
            check_plan(s, context, &layer, plan, &ways[way], &weight, &bias);
            buffer_destroy(&bias);
            doconv_plan_destroy(plan);
            int known = 0;
            while (known < orders && first[known].order_of_sums != list.items[c].order_of_sums) {
                known++;
            }
            if (known < orders) {
                same_bits(s, list.items[c].text, &first[known].weight, &weight);
                buffer_destroy(&weight);
                continue;
            }
            assert_true(orders < MOST_ORDERS);
            first[orders].order_of_sums = list.items[c].order_of_sums;
            first[orders++].weight = weight;
        }
        dc_free(context, list.items);
        doconv_context_destroy(context);
    }
    while (orders > 0) {
        buffer_destroy(&first[--orders].weight);
    }
}

/* Every cap, numbers of threads, and places in memory; all the same bits under a cap. */
static void check_problem(const char *text, const doconv_conv_desc *desc, struct rng *rng,
                          bool integers)
{
    struct dc_problem p;
    expect_ok(dc_problem_create(NULL, desc, &p));
    const doconv_conv_desc *d = &p.desc;
    struct subject s = {.text = text, .desc = desc};
    fill(&s.src, rng, d->src_layout, d->n, d->cin, d->h, d->w, integers);
    fill(&s.grad_dst, rng, d->dst_layout, d->n, d->cout, p.hout, p.wout, integers);
    s.expected = expect_gradient(&p, s.src.data, s.grad_dst.data);
    /* Of a sum of so many products, whatever their order. */
    const double terms = (double)(d->n * p.hout * p.wout) + 3.0;
    s.unit = integers ? 0.0 : terms * ldexp(1.0, -24);
    for (int cap = 0; cap < CAPS; cap++) {
        check_choice(&s, caps[cap]);
        check_candidates(&s, caps[cap]);
    }
    free_expected(&s.expected);
    buffer_destroy(&s.src);
    buffer_destroy(&s.grad_dst);
}

/* Shapes where a way of computing, a chunk or a tile begins or ends. */
static const char *const shapes[] = {
    "mb1_ic64ih14oc64kh3ph1",
    "mb2_ic32ih7oc40kh3ph1",
    "mb9_ic48ih7oc15kh3ph1",
    "mb3_ic16ih20iw31oc29kh3kw3ph1pw1",
    "mb1_ic33ih30oc17kh3ph1",
    "mb2_ic80ih9oc16kh3ph1sh2",
    "mb2_ic50ih17iw17oc20kh3kw3ph1pw1sh2sw2dh1dw1",
    "mb1_ic32ih33iw33oc16kh3kw3ph12pw12dh11dw11",
    "mb1_ic20ih12oc20kh5ph2",
    "mb1_ic18ih16iw16oc14kh1kw7ph0pw3",
    "mb1_ic18ih16iw16oc14kh7kw1ph3pw0",
    "mb1_ic3ih40oc64kh7ph3sh2",
    "mb2_ic3ih33oc32kh3ph1",
    "mb1_ic1ih30oc48kh5ph2",
    "mb1_ic4ih21oc33kh3ph1sh3",
    "mb2_ic64ih24oc96kh1",
    "mb3_ic100ih25oc32kh1",
    "g2_mb2_ic200ih31oc64kh1sh2",
    "mb5_ic96ih7oc64kh1",
    "mb2_ic64ih15oc32kh1sh2",
    "mb1_ic40ih9oc24kh1ph1",
    "mb3_ic512ih1oc30kh1",
    "mb1_ic36ih300iw3oc20kh3kw3ph1pw1",
    "mb1_ic16ih3iw600oc18kh3kw3ph1pw1",
    "mb1_ic16ih2oc16kh3ph1",
    "mb40_ic16ih3oc16kh3ph1",
    "g2_mb2_ic64ih10oc48kh3ph1",
    "g4_mb1_ic128ih8oc64kh1",
    "g3_mb2_ic60ih8oc21kh3ph1sh2",
    "g2_mb1_ic6ih16oc64kh3ph1",
    "g32_mb2_ic32ih14oc32kh3ph1",
    "g40_mb1_ic40ih15oc40kh3ph1sh2",
    "g24_mb1_ic24ih9iw30oc24kh5kw5ph2pw2",
    "g20_mb1_ic20ih9iw9oc20kh3kw3ph2pw2dh1dw1",
    "g16_mb1_ic16ih12oc48kh3ph1",
    "g17_mb2_ic17ih6oc17kh7ph3",
    "g16_mb1_ic16ih20iw20oc16kh1kw13ph0pw6",
    "g8_mb2_ic32ih14oc32kh3ph1",
    "g8_mb1_ic64ih9oc64kh3ph1sh2",
    "g4_mb1_ic64ih9oc64kh3ph1",
    "g16_mb1_ic32ih10oc64kh3ph1",
    "g8_mb1_ic32ih7oc16kh3ph1",
    "g6_mb1_ic18ih8oc30kh3ph1",
    "g16_mb1_ic64ih8oc64kh5ph2sh2",
};

static void chosen_shapes(void **state)
{
    (void)state;
    static const char *const layouts[] = {"nchw", "nhwc", "nChw8c", "nChw16c"};
    struct rng rng = rng_from(harness_seed(), "weight gradient chosen");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (size_t l = 0; l < 4; l++) {
            if (l != i % 4 && harness_scaled(100, 1) < 100) {
                continue;
            }
            char text[160];
            /* Mostly the same layout on both sides; every pair comes up. */
            snprintf(text, sizeof text, "%s:src=%s,dst=%s", shapes[i], layouts[l],
                     layouts[i % 3 == 0 ? (l + i / 3) % 4 : l]);
            const doconv_conv_desc desc = problem(text);
            check_problem(text, &desc, &rng, true);
        }
    }
}

static void sampled_shapes(void **state)
{
    (void)state;
    struct rng rng = rng_from(harness_seed(), "weight gradient sampled");
    /* shapes are sampled around the tiles of these */
    const struct dc_kernel *kernels[3] = {NULL, NULL, NULL};
    for (int i = 0; dc_builtin_kernels[i] != NULL; i++) {
        const struct dc_kernel *k = dc_builtin_kernels[i];
        const int at = k->family == DC_FAMILY_DIRECT      ? 0
                       : k->family == DC_FAMILY_GROUPED   ? 1
                       : k->family == DC_FAMILY_DEPTHWISE ? 2
                                                          : -1;
        if (at >= 0 && kernels[at] == NULL) {
            kernels[at] = k;
        }
    }
    const int count = harness_scaled(240, 30);
    for (int index = 0; index < count; index++) {
        const struct dc_kernel *kernel = kernels[index % 3];
        if (kernel == NULL) {
            continue;
        }
        doconv_conv_desc desc;
        harness_sample(kernel, &rng, index / 3, &desc);
        char text[DOCONV_PROBLEM_TEXT_SIZE];
        expect_ok(doconv_conv_desc_format(NULL, &desc, text, sizeof text));
        check_problem(text, &desc, &rng, true);
    }
}

/* Values that round: within the bound of the sums. */
static void real_values(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mb2_ic32ih28oc48kh3ph1:src=nhwc,dst=nhwc", "g4_mb2_ic64ih30oc64kh3ph1:src=nchw,dst=nchw",
        "g32_mb2_ic32ih40oc32kh3ph1:src=nhwc,dst=nhwc", "mb1_ic3ih64oc24kh7ph3sh2"};
    struct rng rng = rng_from(harness_seed(), "weight gradient real");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const doconv_conv_desc desc = problem(texts[i]);
        check_problem(texts[i], &desc, &rng, false);
    }
}

/* A gradient that nobody wants is not written; the bias alone needs no workspace. */
static void wanted(void **state)
{
    (void)state;
    static const char *const texts[] = {"mb2_ic32ih9oc48kh3ph1:src=nhwc,dst=nhwc",
                                        "g32_mb2_ic32ih9oc32kh3ph1:src=nchw,dst=nchw"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        doconv_context *context = open_context();
        const doconv_conv_desc desc = problem(texts[i]);
        struct dc_problem p;
        expect_ok(dc_problem_create(context, &desc, &p));
        struct rng rng = rng_from(1, texts[i]);
        struct call c = {0};
        fill(&c.src, &rng, desc.src_layout, desc.n, desc.cin, desc.h, desc.w, true);
        fill(&c.grad_dst, &rng, desc.dst_layout, desc.n, desc.cout, p.hout, p.wout, true);
        const struct dc_problem operation = dc_problem_for(&p, DC_WEIGHT_GRADIENT);
        doconv_plan *plan = plan_of(context, &operation, NULL);
        c.context = context;
        c.layer = &p;
        c.plan = plan;
        struct expected e = expect_gradient(&p, c.src.data, c.grad_dst.data);
        for (int want = 0; want < 4; want++) {
            c.weight = (want & 1) != 0;
            c.bias = (want & 2) != 0;
            buffer_create(&c.grad_weight, e.weights * sizeof(float), BUFFER_CANARIES, 4);
            buffer_create(&c.grad_bias, (size_t)desc.cout * sizeof(float), BUFFER_CANARIES, 4);
            buffer_create(&c.workspace, c.weight ? (plan->workspace_size + 63) / 64 * 64 : 0,
                          BUFFER_GUARD_AFTER, 0);
            run_call(&c);
            if (c.weight) {
                compare(texts[i], "wanted", "weight", c.grad_weight.data, e.weight, e.magnitude,
                        e.weights, 0.0);
            }
            if (c.bias) {
                compare(texts[i], "wanted", "bias", c.grad_bias.data, e.bias, e.bias_magnitude,
                        (size_t)desc.cout, 0.0);
            }
            buffer_destroy(&c.grad_weight);
            buffer_destroy(&c.grad_bias);
            buffer_destroy(&c.workspace);
        }
        free_expected(&e);
        buffer_destroy(&c.src);
        buffer_destroy(&c.grad_dst);
        doconv_plan_destroy(plan);
        doconv_context_destroy(context);
    }
}

/* Every allocation that fails is told, and leaks nothing. */
struct failing {
    int left, live; /* allocations that succeed; blocks that are not freed */
};
static void *failing_allocate(void *user, size_t size, size_t alignment)
{
    struct failing *f = user;
    void *memory = NULL;
    if (f->left-- <= 0 ||
        posix_memalign(&memory, alignment < sizeof(void *) ? sizeof(void *) : alignment,
                       size != 0 ? size : 1) != 0) {
        return NULL;
    }
    f->live++;
    return memory;
}
static void failing_release(void *user, void *memory)
{
    struct failing *f = user;
    f->live -= memory != NULL;
    free(memory);
}

static void out_of_memory(void **state)
{
    (void)state;
    static const char *const texts[] = {"mb2_ic32ih9oc48kh3ph1", "g32_mb2_ic32ih9oc32kh3ph1",
                                        "mb1_ic3ih9oc32kh3ph1"};
    for (size_t i = 0; i < 2 * (sizeof texts / sizeof texts[0]); i++) {
        doconv_conv_desc desc = problem(texts[i / 2]);
        if (i % 2 != 0) {
            desc.d_mul = 9;
            desc.composition = DOCONV_COMPOSITION_KERNEL;
        }
        struct failing failing = {.left = 1000};
        const doconv_context_options options = {.size = sizeof options,
                                                .threads = 1,
                                                .tune = DOCONV_TUNE_OFF,
                                                .allocate = failing_allocate,
                                                .release = failing_release,
                                                .allocate_user = &failing};
        doconv_context *context = NULL;
        expect_ok(doconv_context_create(&options, &context));
        struct dc_problem p;
        expect_ok(dc_problem_create(context, &desc, &p));
        const struct dc_problem operation = dc_problem_for(&p, DC_WEIGHT_GRADIENT);
        const int live = failing.live;
        doconv_status status = DOCONV_OUT_OF_MEMORY;
        for (int left = 0; status != DOCONV_OK; left++) {
            assert_true(left < 20);
            failing.left = left;
            doconv_plan *plan = NULL;
            status = dc_plan_create(context, &operation, NULL, &plan);
            assert_true(status == DOCONV_OK || (status == DOCONV_OUT_OF_MEMORY && plan == NULL));
            doconv_plan_destroy(plan);
            /* The context remembers what was chosen: for the plan, and for that of its fold. */
            assert_in_range(failing.live, live, live + 3);
        }
        doconv_context_destroy(context);
        assert_int_equal(failing.live, 0);
    }
}

/* ---- the gradients of W and D, which the weight is folded from ---- */

/* The tensors of such a layer; what the whole weight's gradient hands back, and what parts do. */
struct handing {
    const struct dc_problem *problem;
    struct buffer src, grad_dst, w, d, grad_w[2], grad_d[2];
};

/* Runs a plan in a workspace that ends at a guarded page. */
static void run_guarded(const doconv_plan *plan, const struct dc_tensors *tensors)
{
    struct buffer workspace;
    buffer_create(&workspace, plan->workspace_size, BUFFER_GUARD_AFTER, 0);
    dc_plan_run(plan, tensors, workspace.data);
    buffer_destroy(&workspace);
}

static void hand_back(const struct handing *h, const doconv_plan *plan, float *grad_w,
                      float *grad_d)
{
    const struct dc_tensors tensors = {
        .src = h->src.data,
        .w = h->w.data,
        .d = h->d.data,
        .grad_dst = h->grad_dst.data,
        .grad_w = grad_w,
        .grad_d = grad_d,
    };
    run_guarded(plan, &tensors);
}

/*
 * The same in two steps: the gradient of the whole weight by the candidate `variant` of a plain
 * layer, and what the plan's fold hands back of it.
 */
static void hand_back_by_hand(const struct handing *h, const doconv_plan *plan, const char *variant,
                              float *grad_w, float *grad_d)
{
    doconv_conv_desc desc = h->problem->desc;
    desc.d_mul = desc.add_identity = 0;
    desc.composition = DOCONV_COMPOSITION_NONE;
    struct dc_problem layer;
    expect_ok(dc_problem_create(plan->ctx, &desc, &layer));
    const struct dc_problem p = dc_problem_for(&layer, DC_WEIGHT_GRADIENT);
    doconv_plan *plain = plan_of(plan->ctx, &p, variant);
    struct buffer whole;
    buffer_create(&whole, p.weight_bytes, BUFFER_GUARD_AFTER, 0);
    const struct dc_tensors first = {
        .src = h->src.data, .grad_dst = h->grad_dst.data, .grad_weight = whole.data};
    run_guarded(plain, &first);
    const struct dc_tensors second = {
        .w = h->w.data,
        .d = h->d.data,
        .grad_folded = whole.data,
        .grad_w = grad_w,
        .grad_d = grad_d,
    };
    run_guarded(plan->fold, &second);
    buffer_destroy(&whole);
    doconv_plan_destroy(plain);
}

static void expect_handed(const struct handing *h, const char *variant)
{
    if (memcmp(h->grad_w[0].data, h->grad_w[1].data, h->w.bytes) != 0 ||
        memcmp(h->grad_d[0].data, h->grad_d[1].data, h->d.bytes) != 0) {
        fail_msg("%s: other bits in parts than of the whole", variant);
    }
}

/* A candidate that hands back in parts against the one that does not. */
static void check_parts(const struct handing *h, doconv_context *context, const char *variant)
{
    char whole[DC_VARIANT_SIZE], plain[DC_VARIANT_SIZE];
    const int length = (int)(strstr(variant, ",fold=parts") - variant);
    snprintf(whole, sizeof whole, "%.*s,fold=whole", length, variant);
    snprintf(plain, sizeof plain, "%.*s", length, variant);
    doconv_plan *in_parts = plan_of(context, h->problem, variant),
                *of_whole = plan_of(context, h->problem, whole);
    assert_true(in_parts->folds_parts && !of_whole->folds_parts);
    hand_back(h, of_whole, h->grad_w[0].data, h->grad_d[0].data);
    hand_back_by_hand(h, of_whole, plain, h->grad_w[1].data, h->grad_d[1].data);
    expect_handed(h, whole);
    memset(h->grad_w[1].data, 0xff, h->w.bytes);
    memset(h->grad_d[1].data, 0xff, h->d.bytes);
    hand_back(h, in_parts, h->grad_w[1].data, h->grad_d[1].data);
    expect_handed(h, variant);
    /* One of them alone. */
    doconv_plan *const plans[] = {in_parts, of_whole};
    for (int i = 0; i < 2; i++) {
        memset(h->grad_w[0].data, 0xff, h->w.bytes);
        memset(h->grad_d[0].data, 0xff, h->d.bytes);
        hand_back(h, plans[i], h->grad_w[0].data, NULL);
        hand_back(h, plans[i], NULL, h->grad_d[0].data);
        expect_handed(h, plans[i]->candidate.text);
        doconv_plan_destroy(plans[i]);
    }
}

/* Every candidate that hands back in parts. How many there are. */
static int check_handing(doconv_context *context, const struct dc_problem *p, const char *text,
                         uint64_t seed)
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t taps = d->kh * d->kw;
    struct rng rng = rng_from(seed, text);
    struct handing h = {.problem = p};
    fill(&h.src, &rng, d->src_layout, d->n, d->cin, d->h, d->w, false);
    fill(&h.grad_dst, &rng, d->dst_layout, d->n, d->cout, p->hout, p->wout, false);
    fill(&h.w, &rng, DOCONV_NCHW, d->cout, d->cin, 1, d->d_mul, false);
    fill(&h.d, &rng, DOCONV_NCHW, d->cin, taps, 1, d->d_mul, false);
    for (int k = 0; k < 2; k++) {
        buffer_create(&h.grad_w[k], h.w.bytes, BUFFER_GUARD_AFTER, 0);
        buffer_create(&h.grad_d[k], h.d.bytes, BUFFER_GUARD_AFTER, 0);
    }
    struct dc_candidate_list list = forcible(context, p);
    int handed = 0;
    for (int c = 0; c < list.count; c++) {
        if (strstr(list.items[c].text, ",fold=parts") != NULL) {
            check_parts(&h, context, list.items[c].text);
            handed++;
        }
    }
    dc_free(context, list.items);
    struct buffer *const all[] = {&h.src,       &h.grad_dst,  &h.w,         &h.d,
                                  &h.grad_w[0], &h.grad_w[1], &h.grad_d[0], &h.grad_d[1]};
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++) {
        buffer_destroy(all[k]);
    }
    return handed;
}

/*
 * A folded weight's gradient handed back in parts is bitwise the same as the whole one handed back,
 * for any number of threads.
 */
static void handed_back(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "mb3_ic100ih6oc150kh3ph1:src=nhwc,dst=nhwc",
        "mb2_ic64ih9oc70kh3ph1sh2:src=nChw16c,dst=nChw16c",
        "ic33ih20iw17oc21kh3kw3ph1pw1:src=nchw,dst=nhwc",
        "ic20ih5oc130kh2:src=nhwc,dst=nchw",
        "mb2_ic40ih6oc40kh1:src=nhwc,dst=nhwc",
    };
    enum { TEXTS = sizeof texts / sizeof texts[0] };
    int handed = 0;
    for (size_t i = 0; i < (size_t)TEXTS * CAPS * 3; i++) {
        const char *text = texts[i % TEXTS];
        struct task_order order = {.kind = TASKS_SHUFFLED, .seed = i};
        doconv_context *context =
            open_with(caps[i / TEXTS % CAPS], 1 + (int)(i / TEXTS / CAPS), &order);
        doconv_conv_desc desc = problem(text);
        const int64_t taps = desc.kh * desc.kw;
        desc.d_mul = taps == 1 ? 3 : i % 2 == 0 ? taps : taps + 2;
        desc.composition = DOCONV_COMPOSITION_KERNEL;
        desc.add_identity = 1;
        struct dc_problem layer;
        expect_ok(dc_problem_create(context, &desc, &layer));
        const struct dc_problem p = dc_problem_for(&layer, DC_WEIGHT_GRADIENT);
        handed += check_handing(context, &p, text, i) > 0;
        doconv_context_destroy(context);
    }
    assert_true(CAPS == 1 || handed >= TEXTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_shapes), cmocka_unit_test(sampled_shapes),
        cmocka_unit_test(real_values),   cmocka_unit_test(wanted),
        cmocka_unit_test(handed_back),   cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
