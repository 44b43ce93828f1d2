/* SPDX-License-Identifier: MIT */
#include "fake_solver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plan/candidate.h"
#include "plan/plan.h"
#include "plan/solver.h"
#include "solvers/reference.h"
#include "tuner_fixture.h"

struct parameters {
    int32_t number;
};

static struct fake *current; /* the one installed last */

static int number_of(const struct dc_candidate *candidate)
{
    struct parameters p;
    dc_get_parameters(candidate, &p);
    return p.number;
}

static void execute(const doconv_plan *plan, const struct dc_tensors *tensors, char *workspace)
{
    const int number = number_of(&plan->candidate);
    struct fake_candidate *c = &current->candidates[number];
    current->problem = &plan->problem;
    if (current->called != NULL) {
        current->called(current->user);
    }
    if (!c->wrong) {
        dc_solver_reference.execute(plan, tensors, workspace);
    }
    const double seconds =
        current->seconds != NULL ? current->seconds(current, number, c->calls) : c->seconds;
    c->calls++;
    current->now += seconds;
    current->cpu += seconds;
}

static void pack(const doconv_plan *plan, const struct dc_weight_view *weight, const float *bias,
                 float *packed)
{
    dc_solver_reference.pack(plan, weight, bias, packed);
}

static void describe(const struct dc_candidate *candidate, char *text, size_t size)
{
    snprintf(text, size, ":number=%d", number_of(candidate));
}

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list);

static const struct dc_solver solver = {
    .name = "fake",
    .operation = DC_CONVOLUTION,
    .family = DC_FAMILY_DIRECT,
    .enumerate = enumerate,
    .describe = describe,
    .execute = execute,
    .pack = pack,
};
static const struct dc_solver *const solvers[] = {&solver, NULL};

static const char *enumerate(const doconv_context *ctx, const struct dc_problem *problem,
                             const struct dc_kernel *kernel, struct dc_candidate_list *list)
{
    const int row = (int)(kernel - current->rows);
    for (int i = row * current->count; i < (row + 1) * current->count; i++) {
        const double estimated = current->candidates[i].estimated;
        const struct parameters p = {i};
        struct dc_candidate c = {
            .solver = &solver,
            .kernel = kernel,
            .second = current->pairs ? &current->rows[current->kernels - 1] : NULL,
            .error_amplification = 1.0f,
            .estimated_seconds = estimated != 0.0 ? estimated : 1.0 + 1e-3 * i,
            .packed_size = problem->weight_bytes,
        };
        dc_set_parameters(&c, &p);
        dc_candidate_append(ctx, list, &c);
    }
    return NULL;
}

static double wall(void *user)
{
    return ((const struct fake *)user)->now;
}

static double thread(void *user)
{
    return ((const struct fake *)user)->cpu;
}

static long switches(void *user)
{
    return ((const struct fake *)user)->switches;
}

void fake_install(struct fake *fake, doconv_context *ctx)
{
    static const char *const names[FAKE_KERNELS] = {"fake_a@none", "fake_b@none", "fake_c@none"};
    assert_in_range(fake->kernels, 1, FAKE_KERNELS);
    assert_in_range(fake->count, 1, FAKE_MOST);
    fake->own_kernels = ctx->kernels;
    fake->own_solvers = ctx->solvers;
    const struct dc_kernel *reference = *fake->own_kernels;
    for (int i = 0; reference->family != DC_FAMILY_REFERENCE; i++) {
        reference = fake->own_kernels[i];
    }
    for (int i = 0; i < fake->kernels; i++) {
        /* What it runs is the reference, by the solver: no tile is ever called. */
        fake->rows[i] = *reference;
        fake->rows[i].name = names[i];
        fake->rows[i].family = DC_FAMILY_DIRECT;
        fake->rows[i].revision = (unsigned)(3 + i);
        fake->list[i] = &fake->rows[i];
    }
    fake->list[fake->kernels] = reference;
    fake->list[fake->kernels + 1] = NULL;
    fake->clock =
        (struct dc_clock){.wall = wall, .thread = thread, .switches = switches, .user = fake};
    current = fake;
    ctx->clock = &fake->clock;
    ctx->solvers = solvers;
    fixture_reattach(ctx, fake->list);
}

void fake_remove(struct fake *fake, doconv_context *ctx)
{
    ctx->clock = &dc_system_clock;
    ctx->solvers = fake->own_solvers;
    fixture_reattach(ctx, fake->own_kernels);
    current = NULL;
}

int fake_number(const char *variant)
{
    const char *number = strstr(variant, ":number=");
    assert_non_null(number);
    return atoi(number + strlen(":number="));
}
