/* SPDX-License-Identifier: MIT */
/*
 * What explain and tune choose variants for: the convolution of a plan, or each of the operations
 * that a layer in training consists of. For the verbs of the doconv command.
 */
#ifndef DOCONV_COMMAND_OPERATIONS_H
#define DOCONV_COMMAND_OPERATIONS_H

#include <doconv/doconv.h>

#define COMMAND_ROLE_SIZE 128

struct command_operation {
    /* what it does in a layer, or several with commas; "": it is the convolution of a plan */
    char role[COMMAND_ROLE_SIZE];
    doconv_operation operation;
    int fresh_weights;
    doconv_conv_desc desc;
    char text[DOCONV_PROBLEM_TEXT_SIZE]; /* of desc */
    /* what was chosen, and by whom; "": nothing yet */
    char variant[DOCONV_VARIANT_TEXT_SIZE], origin[16];
    char source[1024]; /* the key of another's entry that the choice is from, or "" */
};

/* No operation twice. Zeroed: an empty list. */
struct command_operations {
    struct command_operation *item;
    int count, capacity;
};

/* Adds the convolution of a plan. Errors: what validation says, OUT_OF_MEMORY. */
doconv_status command_operations_add_plan(struct command_operations *list, doconv_context *context,
                                          const doconv_conv_desc *desc);

/*
 * Adds the operations of a layer in training, each with its choice at this rigor. One that is there
 * already, as the gradient of src of many a layer is its forward convolution, gets a further role.
 * Of one whose composition is open those of each that it may have, then the choice itself, for
 * forward passes and for steps.
 * Errors: those of doconv_training_create().
 */
doconv_status command_operations_add_training(struct command_operations *list,
                                              doconv_context *context, const doconv_conv_desc *desc,
                                              doconv_rigor rigor);

/* Frees the items and empties the list. */
void command_operations_free(struct command_operations *list);

/* The options that ask the library for the operation: its variants, a measurement. */
doconv_plan_options command_operation_options(const struct command_operation *operation);

/*
 * Multiply-adds of a valid operation, those on padding included: D_mul of each weight for a fold;
 * of feature composition those by D and those with W; twice as many for the passes that compute two
 * gradients of such products; of a layer whose composition is open those of kernel composition.
 */
double command_operation_macs(const struct command_operation *operation);

#endif
