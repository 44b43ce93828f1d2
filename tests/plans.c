/* SPDX-License-Identifier: MIT */
#include "plans.h"

#include "api_support.h"
#include "harness.h"

doconv_plan *plan_of(doconv_context *ctx, const struct dc_problem *problem, const char *variant)
{
    const doconv_plan_options options = {.size = sizeof options, .variant = variant};
    doconv_plan *plan = NULL;
    expect_ok(dc_plan_create(ctx, problem, &options, &plan));
    assert_non_null(plan);
    if (variant != NULL) {
        assert_string_equal(doconv_plan_variant(plan), variant);
    }
    return plan;
}

/* Of the candidates the first, number `begin`, and every step-th from there. */
static struct dc_candidate_list forcible_of(doconv_context *ctx, const struct dc_problem *problem,
                                            int begin, int step)
{
    struct dc_candidate_list all, list = {0};
    expect_ok(dc_enumerate(ctx, problem, NULL, &all));
    for (int i = 0; i < all.count; i += i == 0 && begin > 0 ? begin : step) {
        const doconv_plan_options options = {.size = sizeof options, .variant = all.items[i].text};
        struct dc_candidate_list forced;
        expect_ok(dc_enumerate(ctx, problem, &options, &forced));
        assert_int_equal(forced.count, all.count);
        if (forced.items[0].refused == NULL) {
            assert_string_equal(forced.items[0].text, all.items[i].text);
            assert_true(dc_candidate_append(ctx, &list, &forced.items[0]));
        } else {
            assert_non_null(all.items[i].refused);
        }
        dc_free(ctx, forced.items);
    }
    dc_free(ctx, all.items);
    assert_true(list.count > 0);
    return list;
}

struct dc_candidate_list forcible(doconv_context *ctx, const struct dc_problem *problem)
{
    return forcible_of(ctx, problem, 0, 1);
}

struct dc_candidate_list forcible_share(doconv_context *ctx, const struct dc_problem *problem)
{
    static int calls;
    const int percent = harness_scaled(100, 1), step = percent < 100 ? 100 / percent : 1;
    return forcible_of(ctx, problem, calls++ % step, step);
}

bool of_cap(const doconv_context *ctx, const struct dc_candidate *c)
{
    return (c->kernel != NULL ? c->kernel->isa : DC_ISA_NONE) == ctx->isa;
}
