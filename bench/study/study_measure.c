/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_SECONDS 2e-3    /* a sample is as many calls as this takes, or one */
#define LONG_CALL_SECONDS 0.02 /* a call this long warms the caches by itself */
#define PATIENCE_SECONDS 20.0  /* of a call: slower ones are skipped */
#define FEWEST_ROUNDS 3
#define MOST_ROUNDS 101
#define DISTURBED 0.03 /* share of time off the core from which a sample is taken again */
#define ATTEMPTS 3
#define MOST_DEATHS 3 /* of PyTorch's process */

/*
 * What the cases of a layer and batch share. ref_ is what plain convolution with the folded weight
 * gives, once it is checked.
 */
struct tensors {
    const struct layer *layer;
    int64_t n;
    float *src, *grad_dst, *dst, *grad_src, *ref_dst, *ref_grad_src;
};

struct parameters {
    float *w, *d, *weight; /* weight: W folded with D + I */
    float *grad_w, *grad_d;
    float *ref_grad_weight, *ref_grad_w, *ref_grad_d;
};

struct layer_engine {
    doconv_training *training;
    void *workspace, *saved;
    size_t workspace_size;
};

struct runner {
    enum engine engine;
    enum composition composition;
    enum pass pass;
    struct figure *figure;
    double guess, spent;
    double samples[MOST_ROUNDS];
    int count;
};

struct bench {
    doconv_context *context;
    const struct options *options;
    struct pytorch *pytorch;
    double memory;
    int deaths;
    char lost[WHY_SIZE];
    struct tensors tensors;
    struct layer_engine ours[COMPOSITIONS];
    struct parameters parameters;
    const struct layer *timed;                  /* the layer that rate is of */
    double rate[ENGINES][COMPOSITIONS][PASSES]; /* seconds a MAC; 0: unknown */
};

__attribute__((format(printf, 2, 3))) static int explain(char *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, WHY_SIZE, format, args);
    va_end(args);
    return -1;
}

static double gib(double bytes)
{
    return bytes / 1073741824.0;
}

struct bench *bench_create(doconv_context *context, const struct options *o,
                           struct pytorch *pytorch)
{
    struct bench *b = calloc(1, sizeof *b);
    if (b != NULL) {
        b->context = context;
        b->options = o;
        b->pytorch = pytorch;
        b->memory = o->memory > 0 ? o->memory : 0.6 * available_memory();
        b->memory = b->memory > 0 ? b->memory : INFINITY;
    }
    return b;
}

static void free_tensors(struct tensors *t)
{
    free(t->src);
    free(t->grad_dst);
    free(t->dst);
    free(t->grad_src);
    free(t->ref_dst);
    free(t->ref_grad_src);
    *t = (struct tensors){0};
}

static void free_case(struct bench *b)
{
    struct parameters *p = &b->parameters;
    free(p->w);
    free(p->d);
    free(p->weight);
    free(p->grad_w);
    free(p->grad_d);
    free(p->ref_grad_weight);
    free(p->ref_grad_w);
    free(p->ref_grad_d);
    *p = (struct parameters){0};
    for (int c = 0; c < COMPOSITIONS; c++) {
        doconv_training_destroy(b->ours[c].training);
        free(b->ours[c].workspace);
        free(b->ours[c].saved);
        b->ours[c] = (struct layer_engine){0};
    }
}

void bench_destroy(struct bench *b)
{
    if (b != NULL) {
        free_case(b);
        free_tensors(&b->tensors);
        pytorch_stop(b->pytorch);
        free(b);
    }
}

const char *bench_lost(const struct bench *b)
{
    return b->lost[0] != '\0' ? b->lost : NULL;
}

/* ---- data ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Bytes of the study's own tensors and parameters. */
static double own_bytes(const struct study_case *c)
{
    const struct shape in = src_shape(c), out = dst_shape(c);
    return sizeof(float) * (3.0 * (double)shape_floats(&in) + 3.0 * (double)shape_floats(&out) +
                            3.0 * (double)composed_floats(c) + 3.0 * (double)d_floats(c) +
                            2.0 * (double)weight_floats(c));
}

/*
 * About what PyTorch holds at its peak: src and dst in both memory formats with their gradients,
 * and the depthwise result of feature composition with its gradient, in the format that a caller
 * sees and in the one that a primitive wants.
 */
static double pytorch_bytes(const struct study_case *c, enum composition composition,
                            enum pass pass)
{
    const struct shape in = src_shape(c), out = dst_shape(c);
    const double base =
        sizeof(float) * 4.0 * ((double)shape_floats(&in) + (double)shape_floats(&out));
    const double depthwise =
        sizeof(float) * (double)c->desc.cin * (double)c->d_mul * (double)c->pixels;
    return base + (composition == FEATURE ? (pass == STEP ? 3.2 : 2.0) * depthwise : 0);
}

static int make_tensors(struct bench *b, const struct study_case *c, char *why)
{
    struct tensors *t = &b->tensors;
    if (t->layer == c->layer && t->n == c->desc.n) {
        return 0;
    }
    free_tensors(t);
    const struct shape in = src_shape(c), out = dst_shape(c);
    const size_t ins = shape_floats(&in), outs = shape_floats(&out);
    t->src = allocate_floats(ins);
    t->grad_src = allocate_floats(ins);
    t->ref_grad_src = allocate_floats(ins);
    t->dst = allocate_floats(outs);
    t->grad_dst = allocate_floats(outs);
    t->ref_dst = allocate_floats(outs);
    if (t->src == NULL || t->grad_src == NULL || t->ref_grad_src == NULL || t->dst == NULL ||
        t->grad_dst == NULL || t->ref_dst == NULL) {
        free_tensors(t);
        return explain(why, "out of memory");
    }
    fill(SRC, &in, t->src);
    fill(GRAD_DST, &out, t->grad_dst);
    t->layer = c->layer;
    t->n = c->desc.n;
    return 0;
}

static int make_parameters(struct bench *b, const struct study_case *c, char *why)
{
    struct parameters *p = &b->parameters;
    const size_t w = composed_floats(c), d = d_floats(c), weight = weight_floats(c);
    p->w = allocate_floats(w);
    p->d = allocate_floats(d);
    p->weight = allocate_floats(weight);
    p->grad_w = allocate_floats(larger(w, weight));
    p->grad_d = allocate_floats(d);
    p->ref_grad_weight = allocate_floats(weight);
    p->ref_grad_w = allocate_floats(w);
    p->ref_grad_d = allocate_floats(d);
    if (p->w == NULL || p->d == NULL || p->weight == NULL || p->grad_w == NULL ||
        p->grad_d == NULL || p->ref_grad_weight == NULL || p->ref_grad_w == NULL ||
        p->ref_grad_d == NULL) {
        return explain(why, "out of memory");
    }
    fill_flat(WEIGHT, w, p->w);
    fill_flat(D, d, p->d);
    fold_reference(c, p->w, p->d, p->weight);
    return 0;
}

/* ---- doconv ---- */

static int make_ours(struct bench *b, const struct study_case *c, enum composition composition,
                     char *why)
{
    struct layer_engine *e = &b->ours[composition];
    doconv_conv_desc desc = c->desc;
    desc.d_mul = composition == PLAIN ? 0 : c->d_mul;
    desc.composition = composition == PLAIN    ? DOCONV_COMPOSITION_NONE
                       : composition == KERNEL ? DOCONV_COMPOSITION_KERNEL
                                               : DOCONV_COMPOSITION_FEATURE;
    desc.add_identity = composition != PLAIN;
    const doconv_status status = doconv_training_create(b->context, &desc, NULL, &e->training);
    if (status != DOCONV_OK) {
        char detail[200];
        doconv_context_last_error(b->context, detail, sizeof detail);
        return explain(why, "%s: %s", doconv_status_string(status), detail);
    }
    e->workspace_size = doconv_training_workspace_size(e->training);
    const double bytes =
        own_bytes(c) + (double)e->workspace_size + (double)doconv_training_saved_size(e->training);
    if (bytes > b->memory) {
        return explain(why, "it would hold %.1f GiB; the limit is %.1f (--memory)", gib(bytes),
                       gib(b->memory));
    }
    e->workspace = allocate_floats(e->workspace_size / sizeof(float) + 1);
    e->saved = allocate_floats(doconv_training_saved_size(e->training) / sizeof(float) + 1);
    return e->workspace != NULL && e->saved != NULL ? 0 : explain(why, "out of memory");
}

static doconv_status run_ours(struct bench *b, enum composition composition, enum pass pass)
{
    const struct tensors *t = &b->tensors;
    const struct parameters *p = &b->parameters;
    const struct layer_engine *e = &b->ours[composition];
    const doconv_parameters parameters = {.size = sizeof parameters,
                                          .weight = composition == PLAIN ? p->weight : p->w,
                                          .d = composition == PLAIN ? NULL : p->d};
    void *const saved =
        pass == STEP && doconv_training_saved_size(e->training) > 0 ? e->saved : NULL;
    const doconv_status status = doconv_training_forward(e->training, &parameters, t->src, t->dst,
                                                         saved, e->workspace, e->workspace_size);
    if (status != DOCONV_OK || pass == FORWARD) {
        return status;
    }
    const doconv_gradients gradients = {.size = sizeof gradients,
                                        .src = t->grad_src,
                                        .weight = p->grad_w,
                                        .d = composition == PLAIN ? NULL : p->grad_d};
    return doconv_training_backward(e->training, &parameters, t->src, t->grad_dst, saved,
                                    &gradients, e->workspace, e->workspace_size);
}

/* ---- checks ---- */

static void note_error(struct figure *f, const char *what, double error, double allowed)
{
    const double share = error / allowed;
    if (!(share <= f->error)) {
        f->error = share;
    }
    if (!(share <= 1) && !f->wrong) {
        f->wrong = true;
        explain(f->why, "wrong result: %s is off by %.1e of its root mean square, %.1e are allowed",
                what, error, allowed);
    }
}

/*
 * How many terms an element of each result sums up; a gradient of W or D the more for those of the
 * weight's in it.
 */
static double terms_dst(const struct study_case *c)
{
    return (double)(c->desc.cin / c->desc.groups * c->desc.kh * c->desc.kw);
}

static double terms_grad_src(const struct study_case *c)
{
    return (double)(c->desc.cout / c->desc.groups * c->desc.kh * c->desc.kw);
}

static double terms_grad_weight(const struct study_case *c)
{
    return (double)c->pixels + (double)c->d_mul;
}

/*
 * The plain convolution against sums in double; then its results are the reference of the others,
 * its weight's gradient handed back to W and D in double.
 */
static void check_plain(struct bench *b, const struct study_case *c, struct figure *forward,
                        struct figure *step)
{
    const struct tensors *t = &b->tensors;
    const struct parameters *p = &b->parameters;
    const struct shape in = src_shape(c), out = dst_shape(c);
    note_error(forward, "dst", sample_dst(c, t->src, p->weight, t->dst), tolerance(terms_dst(c)));
    note_error(step, "dst", sample_dst(c, t->src, p->weight, t->dst), tolerance(terms_dst(c)));
    note_error(step, "src's gradient", sample_grad_src(c, t->grad_dst, p->weight, t->grad_src),
               tolerance(terms_grad_src(c)));
    note_error(step, "the weight's gradient", sample_grad_weight(c, t->src, t->grad_dst, p->grad_w),
               tolerance(terms_grad_weight(c)));
    memcpy(t->ref_dst, t->dst, shape_floats(&out) * sizeof(float));
    memcpy(t->ref_grad_src, t->grad_src, shape_floats(&in) * sizeof(float));
    memcpy(p->ref_grad_weight, p->grad_w, weight_floats(c) * sizeof(float));
    fold_gradient_reference(c, p->w, p->d, p->ref_grad_weight, p->ref_grad_w, p->ref_grad_d);
}

static void check_dst(struct bench *b, const struct study_case *c, struct figure *f)
{
    const struct shape out = dst_shape(c);
    note_error(f, "dst", difference(b->tensors.ref_dst, b->tensors.dst, shape_floats(&out)),
               tolerance(terms_dst(c)));
}

static void check_composed(struct bench *b, const struct study_case *c, struct figure *step)
{
    const struct tensors *t = &b->tensors;
    const struct parameters *p = &b->parameters;
    const struct shape in = src_shape(c);
    check_dst(b, c, step);
    note_error(step, "src's gradient", difference(t->ref_grad_src, t->grad_src, shape_floats(&in)),
               tolerance(terms_grad_src(c)));
    note_error(step, "W's gradient", difference(p->ref_grad_w, p->grad_w, composed_floats(c)),
               tolerance(terms_grad_weight(c)));
    note_error(step, "D's gradient", difference(p->ref_grad_d, p->grad_d, d_floats(c)),
               tolerance(terms_grad_weight(c) + (double)(c->desc.cout / c->desc.groups)));
}

/* One tensor of PyTorch's against the reference, by sums over chunks. */
static int check_sums(struct bench *b, const char *name, const char *what, const struct shape *s,
                      size_t elements, size_t floats, const float *right, double terms,
                      struct figure *f)
{
    const size_t chunks = chunk_count(elements);
    double *sums = malloc(2 * chunks * sizeof *sums);
    if (sums == NULL) {
        return explain(f->why, "out of memory");
    }
    int result = pytorch_sums(b->pytorch, name, sums, chunks, f->why);
    if (result == 0) {
        project(s, elements, right, sums + chunks);
        const double rms = root_mean_square(right, floats),
                     in_chunk = (double)(elements < CHUNK ? elements : CHUNK);
        double largest = 0;
        for (size_t i = 0; i < chunks; i++) {
            const double off = fabs(sums[i] - sums[chunks + i]);
            largest = off <= largest ? largest : off; /* not a number is the largest */
        }
        /*
         * Differences of the allowed size add up like random ones; the factor is for the largest of
         * many sums.
         */
        note_error(f, what, largest / rms, 4 * tolerance(terms) * sqrt(in_chunk));
    }
    free(sums);
    return result;
}

static int check_pytorch(struct bench *b, const struct study_case *c, enum composition composition,
                         enum pass pass, struct figure *f)
{
    const struct tensors *t = &b->tensors;
    const struct parameters *p = &b->parameters;
    const struct shape in = src_shape(c), out = dst_shape(c);
    const size_t ins = (size_t)(in.n * in.c * in.h * in.w),
                 outs = (size_t)(out.n * out.c * out.h * out.w);
    int result =
        check_sums(b, "dst", "dst", &out, outs, shape_floats(&out), t->ref_dst, terms_dst(c), f);
    if (pass == FORWARD || result != 0) {
        return result;
    }
    result = check_sums(b, "src", "src's gradient", &in, ins, shape_floats(&in), t->ref_grad_src,
                        terms_grad_src(c), f);
    const size_t w = composition == PLAIN ? weight_floats(c) : composed_floats(c), d = d_floats(c);
    if (result == 0) {
        result = check_sums(
            b, "weight", composition == PLAIN ? "the weight's gradient" : "W's gradient", NULL, w,
            w, composition == PLAIN ? p->ref_grad_weight : p->ref_grad_w, terms_grad_weight(c), f);
    }
    if (result == 0 && composition != PLAIN) {
        result = check_sums(b, "d", "D's gradient", NULL, d, d, p->ref_grad_d,
                            terms_grad_weight(c) + (double)(c->desc.cout / c->desc.groups), f);
    }
    return result;
}

/* ---- samples ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/*
 * Seconds of a call. With one thread, time off the core shows as wall time without CPU time; of
 * several attempts the least disturbed counts.
 */
static double time_ours(struct bench *b, const struct runner *r, int calls)
{
    if (r->guess < LONG_CALL_SECONDS) {
        /* another was here before: the caches hold its data */
        run_ours(b, r->composition, r->pass);
    }
    double best = 0, best_lost = INFINITY;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        const double cpu = cpu_seconds(), start = wall_seconds();
        for (int i = 0; i < calls; i++) {
            run_ours(b, r->composition, r->pass);
        }
        const double seconds = wall_seconds() - start, lost = seconds - (cpu_seconds() - cpu);
        if (lost < best_lost) {
            best = seconds;
            best_lost = lost;
        }
        if (b->options->threads > 1 || best_lost <= DISTURBED * best || seconds > 0.2) {
            break;
        }
    }
    return best / calls;
}

static int take_sample(struct bench *b, struct runner *r)
{
    const double wanted = ceil(SAMPLE_SECONDS / fmax(r->guess, 1e-7));
    const int calls = wanted > 1 ? (int)wanted : 1;
    double seconds;
    const double start = wall_seconds();
    if (r->engine == DOCONV) {
        seconds = time_ours(b, r, calls);
    } else if (pytorch_time(b->pytorch, r->composition, r->pass, r->figure->format, calls,
                            r->guess < LONG_CALL_SECONDS, &seconds, r->figure->why) != 0) {
        return -1;
    }
    r->samples[r->count++] = seconds;
    r->guess = seconds;
    r->spent += wall_seconds() - start;
    return 0;
}

/*
 * The runners take turns, another one first each time: what the one before leaves in the caches is
 * nobody's advantage. Very slow ones sit out once they have had their share.
 */
static void take_rounds(struct bench *b, struct runner *runners, int count)
{
    const double seconds = b->options->seconds, start = wall_seconds();
    for (int round = 0;
         round < MOST_ROUNDS &&
         (round < FEWEST_ROUNDS || wall_seconds() - start < seconds * (b->pytorch != NULL ? 2 : 1));
         round++) {
        for (int i = 0; i < count; i++) {
            struct runner *r = &runners[(i + round) % count];
            const bool share =
                r->count > 0 && r->spent + r->guess > 2 * seconds && r->guess > SAMPLE_SECONDS * 5;
            if (!share && r->figure->why[0] == '\0') {
                take_sample(b, r);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        struct runner *r = &runners[i];
        if (r->count > 0 && r->figure->why[0] == '\0') {
            r->figure->seconds = median(r->samples, r->count);
            r->figure->rounds = r->count;
        }
    }
}

/* ---- a case ---- */

/* Would a call take too long, by what this layer's last case took? */
static bool too_slow(const struct bench *b, const struct study_case *c, enum engine engine,
                     enum composition composition, enum pass pass, struct figure *f)
{
    const double seconds = b->rate[engine][composition][pass] * c->macs[composition];
    if (seconds > PATIENCE_SECONDS) {
        explain(f->why, "a call would take about %.0f s", seconds);
        return true;
    }
    return false;
}

/* Creates, checks and first times doconv's. */
static int prepare_ours(struct bench *b, const struct study_case *c, struct result *r,
                        double guesses[COMPOSITIONS][PASSES], char *why)
{
    for (int k = 0; k < COMPOSITIONS; k++) {
        const enum composition composition = (enum composition)k;
        struct figure *forward = &r->figure[FORWARD][DOCONV][k],
                      *step = &r->figure[STEP][DOCONV][k];
        if (too_slow(b, c, DOCONV, composition, FORWARD, forward)) {
            explain(step->why, "%s", forward->why);
            continue;
        }
        if (make_ours(b, c, composition, forward->why) != 0) {
            explain(step->why, "%s", forward->why);
            if (composition == PLAIN) {
                return explain(why, "%s", forward->why); /* the others would have no reference */
            }
            continue;
        }
        /* A tensor that a pass doesn't write must not look right. */
        const struct shape in = src_shape(c), out = dst_shape(c);
        memset(b->tensors.dst, 0xff, shape_floats(&out) * sizeof(float));
        memset(b->tensors.grad_src, 0xff, shape_floats(&in) * sizeof(float));
        memset(b->parameters.grad_w, 0xff,
               (composition == PLAIN ? weight_floats(c) : composed_floats(c)) * sizeof(float));
        memset(b->parameters.grad_d, 0xff, d_floats(c) * sizeof(float));
        if (run_ours(b, composition, FORWARD) == DOCONV_OK) {
            bind_team(b->options->threads);
        }
        double start = wall_seconds();
        doconv_status status = run_ours(b, composition, FORWARD);
        guesses[k][FORWARD] = wall_seconds() - start;
        if (status == DOCONV_OK && composition != PLAIN) {
            check_dst(b, c, forward);
        }
        start = wall_seconds();
        if (status == DOCONV_OK && !too_slow(b, c, DOCONV, composition, STEP, step)) {
            status = run_ours(b, composition, STEP);
            guesses[k][STEP] = wall_seconds() - start;
        }
        if (status != DOCONV_OK) {
            explain(step->why, "%s", doconv_status_string(status));
            explain(forward->why, "%s", doconv_status_string(status));
        } else if (composition == PLAIN) {
            check_plain(b, c, forward, step);
        } else if (step->why[0] == '\0') {
            check_composed(b, c, step);
        }
    }
    return 0;
}

/*
 * Tries PyTorch's memory formats, and checks the result of each. The last one first, so that both
 * are warm when it counts.
 */
static int prepare_pytorch(struct bench *b, const struct study_case *c,
                           enum composition composition, enum pass pass, struct figure *f,
                           double *guess)
{
    const double bytes = own_bytes(c) + (double)b->ours[composition].workspace_size +
                         pytorch_bytes(c, composition, pass);
    if (bytes > b->memory) {
        return explain(f->why, "it would hold about %.1f GiB; the limit is %.1f (--memory)",
                       gib(bytes), gib(b->memory));
    }
    if (too_slow(b, c, PYTORCH, composition, pass, f)) {
        return -1;
    }
    double best = INFINITY;
    for (enum format format = CONTIGUOUS; format <= CHANNELS_LAST; format++) {
        double seconds;
        if (pytorch_time(b->pytorch, composition, pass, format, 1, false, &seconds, f->why) != 0) {
            return -1;
        }
        if (seconds < 0.3) {
            const int calls = seconds < SAMPLE_SECONDS ? 5 : 1;
            double again[3];
            for (int i = 0; i < 3; i++) {
                if (pytorch_time(b->pytorch, composition, pass, format, calls, true, &again[i],
                                 f->why) != 0) {
                    return -1;
                }
            }
            seconds = median(again, 3);
        }
        if (check_pytorch(b, c, composition, pass, f) != 0 || f->wrong) {
            return -1;
        }
        if (seconds < best) {
            best = seconds;
            f->format = format;
        }
    }
    *guess = best;
    return 0;
}

/* Sees after a PyTorch that died: a new one for the next case, a few times. */
static void revive(struct bench *b)
{
    if (b->pytorch == NULL || pytorch_alive(b->pytorch)) {
        return;
    }
    pytorch_stop(b->pytorch);
    b->pytorch = NULL;
    char why[WHY_SIZE];
    if (++b->deaths >= MOST_DEATHS) {
        explain(b->lost, "PyTorch's process was lost %d times: given up", b->deaths);
    } else if ((b->pytorch = pytorch_start(b->options->pytorch, b->options->threads, why)) ==
               NULL) {
        explain(b->lost, "%.250s", why);
    } else {
        explain(b->lost, "PyTorch's process was lost, and started anew");
    }
}

static void time_pass(struct bench *b, const struct study_case *c, enum pass pass, struct result *r,
                      double guesses[COMPOSITIONS][PASSES])
{
    struct runner runners[ENGINES * COMPOSITIONS];
    int count = 0;
    for (int e = 0; e < ENGINES; e++) {
        for (int k = 0; k < COMPOSITIONS; k++) {
            struct figure *f = &r->figure[pass][e][k];
            double guess = guesses[k][pass];
            if (e == PYTORCH && f->why[0] == '\0') {
                prepare_pytorch(b, c, (enum composition)k, pass, f, &guess);
            }
            if (f->why[0] == '\0') {
                runners[count++] = (struct runner){.engine = (enum engine)e,
                                                   .composition = (enum composition)k,
                                                   .pass = pass,
                                                   .figure = f,
                                                   .guess = guess};
            }
        }
    }
    take_rounds(b, runners, count);
    for (int i = 0; i < count; i++) {
        const struct runner *done = &runners[i];
        if (done->figure->seconds > 0) {
            b->rate[done->engine][done->composition][pass] =
                done->figure->seconds / c->macs[done->composition];
        }
    }
}

int bench_case(struct bench *b, const struct study_case *c, struct result *r, char *why)
{
    *r = (struct result){0};
    if (b->timed != c->layer) {
        memset(b->rate, 0, sizeof b->rate);
        b->timed = c->layer;
    }
    if (own_bytes(c) > b->memory) {
        return explain(why, "it would hold %.1f GiB; the limit is %.1f (--memory)",
                       gib(own_bytes(c)), gib(b->memory));
    }
    revive(b);
    double guesses[COMPOSITIONS][PASSES] = {{0}};
    int result = make_tensors(b, c, why);
    result = result == 0 ? make_parameters(b, c, why) : result;
    result = result == 0 ? prepare_ours(b, c, r, guesses, why) : result;
    if (result == 0) {
        char no_pytorch[WHY_SIZE] = "";
        if (b->pytorch == NULL) {
            explain(no_pytorch, "%s", b->lost[0] != '\0' ? "PyTorch is gone" : "not asked for");
        } else {
            pytorch_case(b->pytorch, c, no_pytorch);
        }
        for (int p = 0; p < PASSES; p++) {
            for (int k = 0; k < COMPOSITIONS; k++) {
                explain(r->figure[p][PYTORCH][k].why, "%s", no_pytorch);
            }
            time_pass(b, c, (enum pass)p, r, guesses);
        }
        r->done = true;
    }
    free_case(b);
    return result;
}
