/* SPDX-License-Identifier: MIT */
/*
 * An application of the installed library. It calls into every part of it, so that a static link
 * needs everything, and has functions of its own whose names a library might use too. Each ISA's
 * convolution must equal that of portable C.
 */
#include <doconv/doconv.h>
#include <doconv/doconv_train.h>
#include <doconv/doconv_tune.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SIZE 24
#define CHANNELS 16
#define COUNT (CHANNELS * SIZE * SIZE)

int measure(void);
int measure(void)
{
    return 1;
}

int cache_create(void);
int cache_create(void)
{
    return 1;
}

static float src[COUNT], weight[CHANNELS * CHANNELS * 9];

/* Or the library was built without the tuner. */
static int tuned(doconv_status status)
{
    return status == DOCONV_OK || status == DOCONV_UNSUPPORTED;
}

/* Plans, tunes and runs one convolution under a cap; dst: COUNT floats. 0: it did. */
static int convolve(doconv_isa cap, float *dst)
{
    const doconv_context_options options = {
        .size = sizeof options, .max_isa = cap, .tune = DOCONV_TUNE_OFF};
    doconv_context *context = NULL;
    doconv_conv_desc desc;
    doconv_plan *plan = NULL;
    doconv_weights *weights = NULL;
    doconv_tune_report *report = NULL;
    doconv_training *training = NULL;
    const doconv_tune_options quick = {.size = sizeof quick, .force = 1, .budget_seconds = 1e-3};
    int failed = doconv_context_create(&options, &context) != DOCONV_OK ||
                 doconv_conv_desc_parse(context, "ic16ih24oc16kh3ph1", &desc) != DOCONV_OK ||
                 !tuned(doconv_tune(context, &desc, NULL, &quick, &report)) ||
                 doconv_training_create(context, &desc, NULL, &training) != DOCONV_OK ||
                 doconv_plan_create(context, &desc, NULL, &plan) != DOCONV_OK ||
                 doconv_weights_create(plan, weight, NULL, &weights) != DOCONV_OK;
    if (!failed) {
        const size_t size = doconv_plan_workspace_size(plan);
        void *workspace = malloc(size + 1);
        failed = workspace == NULL ||
                 doconv_execute(plan, weights, src, NULL, dst, workspace, size) != DOCONV_OK;
        free(workspace);
    }
    if (failed && context != NULL) {
        char text[256];
        doconv_context_last_error(context, text, sizeof text);
        puts(text);
    }
    void *folded = NULL;
    size_t folded_size;
    failed |= doconv_fold_checkpoint(context, "", 0, NULL, &folded, &folded_size) == DOCONV_OK;
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_training_destroy(training);
    doconv_tune_report_destroy(report);
    doconv_context_destroy(context);
    return failed;
}

int main(void)
{
    static float expected[COUNT], dst[COUNT];
    for (int i = 0; i < COUNT; i++) {
        src[i] = (float)(i * 7 % 11) / 11.0f - 0.5f;
    }
    for (size_t i = 0; i < sizeof weight / sizeof *weight; i++) {
        weight[i] = (float)(i * 5 % 13) / 13.0f - 0.5f;
    }
#if defined(__aarch64__)
    static const doconv_isa caps[] = {DOCONV_ISA_NEON};
#else
    static const doconv_isa caps[] = {DOCONV_ISA_AVX2, DOCONV_ISA_AVX512};
#endif
    if (convolve(DOCONV_ISA_NONE, expected) != 0) {
        return 1;
    }
    for (size_t c = 0; c < sizeof caps / sizeof *caps; c++) {
        if (convolve(caps[c], dst) != 0) {
            return 1;
        }
        for (int i = 0; i < COUNT; i++) {
            if (!(fabsf(dst[i] - expected[i]) <= 1e-4f)) {
                printf("%s: dst[%d] is %g, not %g\n", doconv_isa_string(caps[c]), i, dst[i],
                       expected[i]);
                return 1;
            }
        }
    }
    printf("doconv %s\n", doconv_version_string());
    return measure() + cache_create() == 2 ? 0 : 1;
}
