/* SPDX-License-Identifier: MIT */
/* A context on the threads of a program that uses OpenMP, instead of threads of its own. */
#include <doconv/doconv.h>
#include <omp.h>
#include <stdio.h>

static void run_on_openmp(void *user, int count, void (*task)(void *arg, int index), void *arg)
{
    (void)user;
    /* No num_threads(count): runtimes end and start threads where the size of a team changes. */
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < count; i++) {
        task(arg, i);
    }
}

int main(void)
{
    const doconv_context_options options = {
        .size = sizeof options,
        .threads = omp_get_max_threads(), /* 0 would be one: the library can't know of others */
        .parallel_for = run_on_openmp,
    };
    doconv_context *context;
    const doconv_status status = doconv_context_create(&options, &context);
    if (status != DOCONV_OK) {
        puts(doconv_status_string(status));
        return 1;
    }
    /* Plans of this context run on OpenMP's threads: see minimal.c for the rest. */
    static float weight[64 * 64 * 9], bias[64], src[56 * 56 * 64], dst[56 * 56 * 64];
    static char workspace[1 << 24];
    doconv_conv_desc desc;
    doconv_plan *plan = NULL;
    doconv_weights *weights = NULL;
    bias[0] = 1.0f;
    const int failed =
        doconv_conv_desc_parse(context, "ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias", &desc) ||
        doconv_plan_create(context, &desc, NULL, &plan) ||
        doconv_weights_create(plan, weight, bias, &weights) ||
        doconv_execute(plan, weights, src, NULL, dst, workspace, sizeof workspace) ||
        dst[0] != 1.0f;
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
    return failed;
}
