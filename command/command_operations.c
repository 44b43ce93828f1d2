/* SPDX-License-Identifier: MIT */
#include "command_operations.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <doconv/doconv_train.h>

#include "command_shared.h"

/* Whether a role is among those, separated by commas, that an operation has. */
static bool has_role(const struct command_operation *operation, const char *role)
{
    const size_t length = strlen(role);
    const char *at = operation->role;
    while (strncmp(at, role, length) != 0 || (at[length] != '\0' && at[length] != ',')) {
        at = strchr(at, ',');
        if (at == NULL) {
            return false;
        }
        at += 2; /* ", " */
    }
    return true;
}

static void add_role(struct command_operation *operation, const char *role)
{
    const size_t used = strlen(operation->role);
    if (role[0] != '\0' && !has_role(operation, role)) {
        snprintf(operation->role + used, sizeof operation->role - used, "%s%s",
                 used > 0 ? ", " : "", role);
    }
}

static bool is_same(const struct command_operation *a, const struct command_operation *b)
{
    return a->operation == b->operation && a->fresh_weights == b->fresh_weights &&
           strcmp(a->text, b->text) == 0;
}

/* Adds an operation whose text is not known yet. */
static doconv_status add(struct command_operations *list, doconv_context *context,
                         struct command_operation *operation)
{
    const doconv_status status =
        doconv_conv_desc_format(context, &operation->desc, operation->text, sizeof operation->text);
    if (status != DOCONV_OK) {
        return status;
    }
    for (int i = 0; i < list->count; i++) {
        if (is_same(&list->item[i], operation)) {
            add_role(&list->item[i], operation->role);
            return DOCONV_OK;
        }
    }
    if (list->count == list->capacity) {
        const int capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        struct command_operation *grown =
            realloc(list->item, (size_t)capacity * sizeof *list->item);
        if (grown == NULL) {
            return DOCONV_OUT_OF_MEMORY;
        }
        list->item = grown;
        list->capacity = capacity;
    }
    list->item[list->count++] = *operation;
    return DOCONV_OK;
}

doconv_status command_operations_add_plan(struct command_operations *list, doconv_context *context,
                                          const doconv_conv_desc *desc)
{
    struct command_operation operation = {.operation = DOCONV_OPERATION_CONVOLUTION, .desc = *desc};
    return add(list, context, &operation);
}

/*
 * Adds the first `most` operations of a layer, as doconv_training_operation_get() has them, with
 * the prefix before their roles.
 */
static doconv_status add_layer(struct command_operations *list, doconv_context *context,
                               const doconv_conv_desc *desc, const doconv_training_options *options,
                               int most, const char *prefix)
{
    doconv_training *training = NULL;
    doconv_status status = doconv_training_create(context, desc, options, &training);
    const int count = doconv_training_operation_count(training);
    for (int i = 0; i < count && i < most && status == DOCONV_OK; i++) {
        doconv_training_operation from = {.size = sizeof from};
        status = doconv_training_operation_get(training, i, &from);
        if (status != DOCONV_OK) {
            break;
        }
        struct command_operation operation = {
            .operation = from.operation, .fresh_weights = from.fresh_weights, .desc = *from.desc};
        snprintf(operation.role, sizeof operation.role, "%s%s", prefix, from.role);
        snprintf(operation.variant, sizeof operation.variant, "%s", from.variant);
        snprintf(operation.origin, sizeof operation.origin, "%s", from.origin);
        snprintf(operation.source, sizeof operation.source, "%s", from.source);
        status = add(list, context, &operation);
    }
    doconv_training_destroy(training);
    return status;
}

doconv_status command_operations_add_training(struct command_operations *list,
                                              doconv_context *context, const doconv_conv_desc *desc,
                                              doconv_rigor rigor)
{
    doconv_training_options options = {.size = sizeof options, .rigor = rigor};
    if (desc->composition != DOCONV_COMPOSITION_AUTO) {
        return add_layer(list, context, desc, &options, INT_MAX, "");
    }
    /* What the choice is between, then the choice for each purpose. */
    doconv_conv_desc settled = *desc;
    settled.composition = DOCONV_COMPOSITION_KERNEL;
    doconv_status status = add_layer(list, context, &settled, &options, INT_MAX, "kernel: ");
    if (status == DOCONV_OK) {
        settled.composition = DOCONV_COMPOSITION_FEATURE;
        status = add_layer(list, context, &settled, &options, INT_MAX, "feature: ");
        status = status == DOCONV_UNSUPPORTED ? DOCONV_OK : status; /* of another mapping */
    }
    if (status == DOCONV_OK) {
        options.purpose = DOCONV_PURPOSE_FORWARD;
        status = add_layer(list, context, desc, &options, 1, "forward: ");
    }
    if (status == DOCONV_OK) {
        options.purpose = DOCONV_PURPOSE_STEP;
        status = add_layer(list, context, desc, &options, 1, "step: ");
    }
    return status;
}

void command_operations_free(struct command_operations *list)
{
    free(list->item);
    *list = (struct command_operations){0};
}

doconv_plan_options command_operation_options(const struct command_operation *operation)
{
    return (doconv_plan_options){.size = sizeof(doconv_plan_options),
                                 .fresh_weights = operation->fresh_weights,
                                 .operation = operation->operation};
}

double command_operation_macs(const struct command_operation *operation)
{
    const doconv_conv_desc *d = &operation->desc;
    int64_t shape[4];
    if (doconv_conv_dst_shape(NULL, d, shape) != DOCONV_OK) {
        return 0;
    }
    const double pixels = (double)shape[0] * (double)shape[2] * (double)shape[3];
    const double taps = (double)d->kh * (double)d->kw, d_mul = (double)d->d_mul;
    const double filters =
        (double)d->cout * (double)(d->cin / d->groups); /* each of taps or D_mul */
    const double feature = pixels * d_mul * ((double)d->cin * taps + filters);
    switch (operation->operation) {
    case DOCONV_OPERATION_FOLD:
        return filters * taps * d_mul;
    case DOCONV_OPERATION_FOLD_GRADIENT:
        return 2 * filters * taps * d_mul;
    case DOCONV_OPERATION_FEATURE_FORWARD:
        return feature;
    case DOCONV_OPERATION_FEATURE_BACKWARD:
        return 2 * feature;
    case DOCONV_OPERATION_LAYER_FORWARD:
        return filters * taps * (pixels + d_mul);
    case DOCONV_OPERATION_LAYER_STEP:
        return 3 * filters * taps * (pixels + d_mul);
    case DOCONV_OPERATION_CONVOLUTION:
    case DOCONV_OPERATION_WEIGHT_GRADIENT:
        break;
    }
    return pixels * filters * taps;
}
