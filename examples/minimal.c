/* One convolution, 64 -> 64 channels, 3x3 on 56x56, with bias and ReLU. */
#include <doconv/doconv.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(call) \
    if ((status = (call)) != DOCONV_OK) return puts(doconv_status_string(status)), 1

int main(void)
{
    doconv_status status;
    doconv_context *context;
    CHECK(doconv_context_create(NULL, &context)); /* all CPUs, best ISA, user's cache */
    doconv_conv_desc desc;
    const char *layer = "mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu";
    CHECK(doconv_conv_desc_parse(context, layer, &desc));
    doconv_plan *plan;
    CHECK(doconv_plan_create(context, &desc, NULL, &plan));
    float *src = calloc(56 * 56 * 64, sizeof(float)), *dst = calloc(56 * 56 * 64, sizeof(float));
    float *weight = calloc(64 * 64 * 3 * 3, sizeof(float)), *bias = calloc(64, sizeof(float));
    bias[0] = 1.0f;
    doconv_weights *weights;
    CHECK(doconv_weights_create(plan, weight, bias, &weights)); /* packed once, shared by threads */
    const size_t size = doconv_plan_workspace_size(plan);
    void *workspace = malloc(size);
    CHECK(doconv_execute(plan, weights, src, NULL, dst, workspace, size));
    printf("%s: dst[0] = %g\n", doconv_plan_variant(plan), dst[0]);
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    doconv_context_destroy(context);
    free(workspace), free(src), free(dst), free(weight), free(bias);
    return 0;
}
