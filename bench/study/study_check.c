/* SPDX-License-Identifier: MIT */
#include "study_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

void check_plain(struct bench *b, const struct study_case *c, struct figure *forward,
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

void check_dst(struct bench *b, const struct study_case *c, struct figure *f)
{
    const struct shape out = dst_shape(c);
    note_error(f, "dst", difference(b->tensors.ref_dst, b->tensors.dst, shape_floats(&out)),
               tolerance(terms_dst(c)));
}

void check_composed(struct bench *b, const struct study_case *c, struct figure *step)
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

int check_pytorch(struct bench *b, const struct study_case *c, enum composition composition,
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
