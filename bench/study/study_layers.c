/* SPDX-License-Identifier: MIT */
#include "study.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_LAYERS 4096

/* Has the text the pattern in it, or does it match it as a shell's? */
static bool matches(const char *pattern, const char *network, const char *name)
{
    char full[NETWORK_NAME_SIZE + PROBLEM_NAME_SIZE + 1];
    snprintf(full, sizeof full, "%s/%s", network, name);
    return pattern == NULL || strstr(full, pattern) != NULL || fnmatch(pattern, full, 0) == 0 ||
           fnmatch(pattern, name, 0) == 0;
}

static bool same_layer(const doconv_conv_desc *a, const doconv_conv_desc *b)
{
    const int64_t differences[] = {a->cin - b->cin,
                                   a->h - b->h,
                                   a->w - b->w,
                                   a->cout - b->cout,
                                   a->kh - b->kh,
                                   a->kw - b->kw,
                                   a->stride_h - b->stride_h,
                                   a->stride_w - b->stride_w,
                                   a->pad_top - b->pad_top,
                                   a->pad_left - b->pad_left,
                                   a->pad_bottom - b->pad_bottom,
                                   a->pad_right - b->pad_right,
                                   a->dilation_h - b->dilation_h,
                                   a->dilation_w - b->dilation_w,
                                   a->groups - b->groups};
    for (size_t i = 0; i < sizeof differences / sizeof differences[0]; i++) {
        if (differences[i] != 0) {
            return false;
        }
    }
    return true;
}

/* The layers of a network that have a D and match, each shape once over all networks. */
static int add_network(const struct options *o, const char *name, struct study *study)
{
    struct network network;
    char error[600];
    if (network_load(name, &network, error, sizeof error) != 0) {
        fprintf(stderr, "doconv-study: %s\n", error);
        return -1;
    }
    int result = 0;
    for (int i = 0; i < network.layers && result == 0; i++) {
        struct layer layer = {.desc = network.layer[i].desc};
        problem_name(&layer.desc, layer.name);
        if ((layer.desc.kh == 1 && layer.desc.kw == 1) ||
            !matches(o->layers, network.name, layer.name)) {
            continue;
        }
        struct layer *known = NULL;
        for (int k = 0; k < study->layer_count && known == NULL; k++) {
            known = same_layer(&study->layers[k].desc, &layer.desc) ? &study->layers[k] : NULL;
        }
        if (known == NULL && study->layer_count == MOST_LAYERS) {
            fprintf(stderr, "doconv-study: more than %d layers\n", MOST_LAYERS);
            result = -1;
        } else if (known == NULL) {
            snprintf(layer.networks, sizeof layer.networks, "%s", network.name);
            study->layers[study->layer_count++] = layer;
        } else if (strstr(known->networks, network.name) == NULL &&
                   strlen(known->networks) + strlen(network.name) + 2 < sizeof known->networks) {
            strcat(strcat(known->networks, ","), network.name);
        }
    }
    network_free(&network);
    return result;
}

static int make_case(const struct layer *layer, const struct options *o, int batch, int d_mul,
                     struct study_case *c)
{
    *c = (struct study_case){.layer = layer, .desc = layer->desc};
    doconv_conv_desc *d = &c->desc;
    d->n = batch;
    d->src_layout = d->dst_layout = o->layout;
    d->accuracy = o->accuracy;
    c->d_mul = d_mul == D_MUL_TAPS ? d->kh * d->kw : d_mul;
    int64_t shape[4];
    doconv_status status = doconv_conv_dst_shape(NULL, d, shape);
    if (status == DOCONV_OK) {
        status = doconv_conv_desc_format(NULL, d, c->problem, sizeof c->problem);
    }
    if (status != DOCONV_OK) {
        fprintf(stderr, "doconv-study: %s at batch %d: %s\n", layer->name, batch,
                doconv_status_string(status));
        return -1;
    }
    c->hout = shape[2];
    c->wout = shape[3];
    c->pixels = shape[0] * shape[2] * shape[3];
    const double taps = (double)(d->kh * d->kw), cin = (double)d->cin, cout = (double)d->cout,
                 groups = (double)d->groups;
    const double mul = (double)c->d_mul, pixels = (double)c->pixels;
    c->macs[PLAIN] = cin / groups * cout * taps * pixels;
    c->macs[KERNEL] = cin / groups * cout * taps * (mul + pixels);
    c->macs[AUTO] = c->macs[KERNEL];
    c->macs[FEATURE] = cin * mul * pixels * (taps + cout / groups);
    const double inverse = groups / cout + 1 / taps - 1 / mul; /* of the crossover */
    c->crossover = inverse > 0 ? 1 / inverse : INFINITY;
    return 0;
}

int make_study(const struct options *o, struct study *study)
{
    *study = (struct study){.layers = malloc(MOST_LAYERS * sizeof(struct layer))};
    if (study->layers == NULL) {
        fprintf(stderr, "doconv-study: out of memory\n");
        return -1;
    }
    for (int i = 0; i < o->network_count; i++) {
        if (add_network(o, o->networks[i], study) != 0) {
            return -1;
        }
    }
    if (study->layer_count == 0) {
        fprintf(stderr, "doconv-study: no layer with a kernel larger than 1x1 matches%s%s\n",
                o->layers != NULL ? " --layers=" : "", o->layers != NULL ? o->layers : "");
        return -1;
    }
    study->cases = calloc((size_t)study->layer_count * (size_t)(o->batch_count * o->d_mul_count),
                          sizeof *study->cases);
    if (study->cases == NULL) {
        fprintf(stderr, "doconv-study: out of memory\n");
        return -1;
    }
    for (int l = 0; l < study->layer_count; l++) {
        for (int b = 0; b < o->batch_count; b++) {
            const int first = study->case_count;
            for (int m = 0; m < o->d_mul_count; m++) {
                struct study_case *c = &study->cases[study->case_count];
                if (make_case(&study->layers[l], o, o->batches[b], o->d_muls[m], c) != 0) {
                    return -1;
                }
                bool known = false; /* M*N may be one of the numbers */
                for (int k = first; k < study->case_count; k++) {
                    known = known || study->cases[k].d_mul == c->d_mul;
                }
                study->case_count += !known;
            }
        }
    }
    return 0;
}

void free_study(struct study *study)
{
    free(study->layers);
    free(study->cases);
    *study = (struct study){0};
}
