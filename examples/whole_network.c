/* SPDX-License-Identifier: MIT */
/* A block of a residual network, planned whole, and run by its plan as an engine would. */
#include <doconv/doconv.h>
#include <doconv/doconv_tune.h>
#include <stdio.h>
#include <stdlib.h>

#define LAYERS 3
#define CHECK(call)                                                                                \
    if ((status = (call)) != DOCONV_OK)                                                            \
    return puts(doconv_status_string(status)), 1

static float *make_tensor(doconv_layout layout, const int64_t shape[4])
{
    size_t bytes;
    return doconv_tensor_bytes(layout, shape[0], shape[1], shape[2], shape[3], &bytes) == DOCONV_OK
               ? calloc(1, bytes)
               : NULL;
}

/* A plan's text is for a file beside the model; doconv_network_plan_parse() takes it back. */
static int print(void *user, const char *text, size_t length)
{
    return fwrite(text, 1, length, user) != length;
}

/* The tensor of a layer's edge (input -1: its residual), copied to another layout if need be. */
static const float *read_edge(const doconv_network_plan *network, int consumer, int input,
                              const float *tensor, float **copy)
{
    for (int i = 0; i < doconv_network_plan_reorder_count(network); i++) {
        doconv_network_reorder r = {.size = sizeof r};
        if (doconv_network_plan_get_reorder(network, i, &r) == DOCONV_OK &&
            r.consumer == consumer && r.input == input) {
            /* Where r.reused is set, an engine takes the copy that it has made before. */
            *copy = make_tensor(r.to, (const int64_t[4]){r.n, r.c, r.h, r.w});
            doconv_reorder(r.from, r.to, r.n, r.c, r.h, r.w, tensor, *copy);
            return *copy;
        }
    }
    return tensor;
}

/* Runs a layer by its choice, into a tensor that the caller frees. */
static int run_layer(doconv_context *context, const doconv_network_plan *network, int layer,
                     const float *weight, const float *bias, const float *src,
                     const float *residual, float **dst)
{
    doconv_status status;
    doconv_network_choice choice = {.size = sizeof choice};
    CHECK(doconv_network_plan_get(network, layer, &choice));
    const doconv_plan_options variant = {
        .size = sizeof variant, .variant = choice.variant, .cold_weights = 1};
    doconv_plan *plan;
    doconv_weights *weights;
    int64_t shape[4];
    float *copies[2] = {NULL, NULL};
    CHECK(doconv_conv_dst_shape(context, choice.desc, shape));
    CHECK(doconv_plan_create(context, choice.desc, &variant, &plan));
    CHECK(doconv_weights_create(plan, weight, bias, &weights));
    /* An engine has one workspace, of doconv_network_total.workspace_size bytes. */
    void *workspace = malloc(choice.workspace_size + 1);
    *dst = make_tensor(choice.desc->dst_layout, shape);
    src = read_edge(network, layer, 0, src, &copies[0]);
    residual = choice.desc->residual ? read_edge(network, layer, -1, residual, &copies[1]) : NULL;
    CHECK(doconv_execute(plan, weights, src, residual, *dst, workspace, choice.workspace_size));
    doconv_weights_destroy(weights);
    doconv_plan_destroy(plan);
    free(workspace);
    free(copies[0]);
    free(copies[1]);
    return 0;
}

int main(void)
{
    static const char *const texts[LAYERS] = {"ic16ih28oc16kh3ph1:bias,relu",
                                              "ic16ih28oc16kh3ph1:bias,relu",
                                              "ic16ih28oc16kh3ph1:bias,residual,relu"};
    static float weight[16 * 16 * 9], bias[16] = {1.0f}, input[16 * 28 * 28];
    const doconv_layout nchw = DOCONV_NCHW;
    doconv_status status;
    doconv_context *context;
    CHECK(doconv_context_create(NULL, &context));
    doconv_conv_desc descs[LAYERS];
    doconv_network_layer layers[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        CHECK(doconv_conv_desc_parse(context, texts[i], &descs[i]));
        /* Each reads the one before; the last one adds what the first wrote. */
        layers[i] = (doconv_network_layer){.size = sizeof layers[i], .desc = &descs[i]};
    }
    /* By the context's mode: the cache, else estimates. .mode = DOCONV_TUNE_TUNE measures. */
    const doconv_network_options options = {
        .size = sizeof options, .input_layout = &nchw, .output_layout = &nchw};
    doconv_network_plan *network;
    CHECK(doconv_tune_network(context, layers, LAYERS, &options, &network));
    CHECK(doconv_network_plan_write(network, print, stdout));
    float *dst[LAYERS] = {NULL};
    for (int i = 0; i < LAYERS; i++) {
        if (run_layer(context, network, i, weight, bias, i == 0 ? input : dst[i - 1], dst[0],
                      &dst[i]) != 0) {
            return 1;
        }
    }
    float *copy = NULL;
    const float *output = read_edge(network, LAYERS, 0, dst[LAYERS - 1], &copy);
    const int failed = output[0] != 2.0f; /* biases of the first and the last layer */
    free(copy);
    for (int i = 0; i < LAYERS; i++) {
        free(dst[i]);
    }
    doconv_network_plan_destroy(network);
    doconv_context_destroy(context);
    return failed;
}
