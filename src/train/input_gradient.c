/* SPDX-License-Identifier: MIT */
/*
 * The gradient of a convolution's input: tap by tap, or by one product, where each input is read
 * once, else by classes of inputs that meet the same taps; where these would be too many, by loops.
 */
#include "train/input_gradient.h"

#include "base/context.h"
#include "base/log.h"
#include "train/input_ways.h"

struct dc_input_gradient {
    doconv_context *ctx;
    struct dc_problem problem;        /* the forward one */
    struct dc_input_spread *spread;   /* or NULL */
    struct dc_input_product product;  /* plan NULL: not so */
    struct dc_input_classes *classes; /* or NULL */
};

doconv_conv_desc dc_input_convolution(const struct dc_problem *p)
{
    const doconv_conv_desc *forward = &p->desc;
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.n = forward->n;
    d.cin = forward->cout;
    d.cout = forward->cin;
    d.groups = forward->groups;
    d.src_layout = forward->dst_layout;
    d.dst_layout = forward->src_layout;
    d.accuracy = forward->accuracy;
    return d;
}

doconv_status dc_input_plan(doconv_context *ctx, const struct dc_problem *p,
                            const doconv_plan_options *options, const doconv_conv_desc *desc,
                            doconv_plan **plan)
{
    struct dc_problem problem;
    const doconv_status status = dc_plan_problem(ctx, desc, options, &problem);
    if (status != DOCONV_OK) {
        return status;
    }
    problem.threads = p->threads;
    problem.fresh_weights = true;
    return dc_plan_create(ctx, &problem, options, plan);
}

doconv_status dc_input_gradient_create(doconv_context *ctx, const struct dc_problem *problem,
                                       const doconv_plan_options *options,
                                       struct dc_input_gradient **gradient)
{
    *gradient = NULL;
    struct dc_input_gradient *g = dc_alloc(ctx, sizeof *g);
    if (g == NULL) {
        return dc_fail(ctx, DOCONV_OUT_OF_MEMORY, "training: out of memory");
    }
    *g = (struct dc_input_gradient){.ctx = ctx, .problem = *problem};
    const doconv_status status = dc_input_spread_suits(ctx, problem)
                                     ? dc_input_spread_create(ctx, problem, &g->spread)
                                 : dc_input_product_suits(problem)
                                     ? dc_input_product_create(ctx, problem, options, &g->product)
                                     : dc_input_classes_create(ctx, problem, options, &g->classes);
    if (status != DOCONV_OK) {
        dc_input_gradient_destroy(g);
        return status;
    }
    *gradient = g;
    return DOCONV_OK;
}

const doconv_plan *dc_input_gradient_plan(const struct dc_input_gradient *g, int index)
{
    return g->classes != NULL ? dc_input_classes_plan(g->classes, index)
           : index == 0       ? g->product.plan
                              : NULL;
}

void dc_input_gradient_destroy(struct dc_input_gradient *gradient)
{
    if (gradient != NULL) {
        dc_input_spread_destroy(gradient->spread);
        doconv_plan_destroy(gradient->product.plan);
        dc_input_classes_destroy(gradient->classes);
        dc_free(gradient->ctx, gradient);
    }
}

size_t dc_input_gradient_workspace_size(const struct dc_input_gradient *g)
{
    return g->spread != NULL         ? dc_input_spread_workspace_size(g->spread)
           : g->classes != NULL      ? dc_input_classes_workspace_size(g->classes)
           : g->product.plan != NULL ? dc_input_product_workspace_size(&g->product)
                                     : 0;
}

double dc_input_gradient_estimate(const struct dc_input_gradient *g)
{
    return g->classes != NULL        ? dc_input_classes_estimate(g->classes)
           : g->product.plan != NULL ? g->product.plan->candidate.estimated_seconds
                                     : g->problem.macs / 5e8; /* loops, as other portable ones */
}

void dc_input_gradient_run(const struct dc_input_gradient *g, const float *weight,
                           const float *grad_dst, float *grad_src, char *workspace)
{
    if (g->spread != NULL) {
        dc_input_spread_run(g->spread, weight, grad_dst, grad_src, workspace);
    } else if (g->product.plan != NULL) {
        dc_input_product_run(&g->product, weight, grad_dst, grad_src, workspace);
    } else if (g->classes != NULL) {
        dc_input_classes_run(g->classes, weight, grad_dst, grad_src, workspace);
    } else {
        dc_input_loops_run(g->ctx, &g->problem, weight, grad_dst, grad_src);
    }
}
