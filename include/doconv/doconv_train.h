/* SPDX-License-Identifier: MIT */
/**
 * @file doconv_train.h @brief Training a layer: the forward pass and the gradients of a plain
 * convolution or of a DO-Conv layer (arXiv 2006.12030).
 *
 *   doconv_training_create()    validates a descriptor, chooses the kernels of every pass
 *   doconv_training_forward()   dst from src and the parameters as they are now
 *   doconv_training_backward()  gradients of src, the parameters and the bias from that of dst
 *
 * Parameters change with each step, so they are passed raw and nothing of them is kept between
 * calls. The conventions are those of doconv.h. Results are bitwise the same for any number of
 * threads, but for the sign of zeros, as long as the values are finite (what is not may also reach,
 * as NaN, what meets it in the padding) and the composition is the same (see
 * doconv_training_create()).
 */
#ifndef DOCONV_DOCONV_TRAIN_H
#define DOCONV_DOCONV_TRAIN_H

#include <doconv/doconv.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct doconv_training doconv_training;

/** What a layer is for: which work composition AUTO is chosen by. */
typedef enum doconv_purpose {
    DOCONV_PURPOSE_STEP = 0,   /**< a forward and a backward pass, with all gradients */
    DOCONV_PURPOSE_FORWARD = 1 /**< forward passes alone; a backward pass works all the same */
} doconv_purpose;

/** Set size and zero the rest for the defaults. */
typedef struct doconv_training_options {
    size_t size;
    /** of choosing the kernels of the convolutions in it, as in doconv_plan_options */
    doconv_rigor rigor;
    /**
     * of a layer with composition AUTO: a full variant text of DOCONV_OPERATION_LAYER_FORWARD or
     * _STEP, "kernel", "kernel:fold=parts", "feature"; NULL: chosen
     */
    const char *variant;
    doconv_purpose purpose;
} doconv_training_options;

/**
 * A layer to train. desc: a plain convolution or, with d_mul > 0, a DO-Conv layer, composed as
 * desc->composition says: DOCONV_COMPOSITION_KERNEL folds W and D, then convolves;
 * DOCONV_COMPOSITION_FEATURE convolves src depthwise by D and contracts that with W (mapping PAPER,
 * or one that is the same for this layer); both compute the same up to rounding.
 * DOCONV_COMPOSITION_AUTO is the faster of the two for what options->purpose says, as a plan takes
 * the fastest variant: by the tuner's cache, by a measurement of the whole pass or step if the mode
 * says so, or by the estimate, which is that of one thread. Then the choice is a part of the
 * object: two objects may round differently if one knew a measurement that the other did not, as
 * with another number of threads; in a deterministic context it is the estimate's always. For
 * another mapping than PAPER it is KERNEL. A 1x1 layer with d_mul 1 and no D is a plain
 * convolution. src and its gradient have src_layout, dst and its
 * gradient dst_layout. Post-operations are other layers' business when training: desc with any is
 * refused. options may be NULL. The caller owns the result: doconv_training_destroy(). Immutable;
 * may be shared by threads. Errors: INVALID_*, OVERFLOW, UNSUPPORTED (post-operations, feature
 * composition with another mapping), NOT_FOUND (no such variant), OUT_OF_MEMORY, MISMATCH (size).
 */
DOCONV_API doconv_status doconv_training_create(doconv_context *context,
                                                const doconv_conv_desc *desc,
                                                const doconv_training_options *options,
                                                doconv_training **training);
DOCONV_API void doconv_training_destroy(doconv_training *training);

/**
 * DOCONV_COMPOSITION_KERNEL or _FEATURE, also where AUTO was asked for: the choice; its origin is
 * that of the operation with the role "composition". NONE for a plain layer and for NULL.
 */
DOCONV_API doconv_composition doconv_training_composition(const doconv_training *training);

/** Bytes of workspace that each of the calls below needs; it may be 0. */
DOCONV_API size_t doconv_training_workspace_size(const doconv_training *training);

/** Bytes that a forward pass may save for the backward pass of its step; it may be 0. */
DOCONV_API size_t doconv_training_saved_size(const doconv_training *training);

/** One of the operations that a layer's passes consist of. Strings live as long as the layer. */
typedef struct doconv_training_operation {
    size_t size;      /**< in: sizeof(doconv_training_operation) */
    const char *role; /**< "composition", "forward", "fold", "gradient of src", ... */
    doconv_operation
        operation; /**< with desc: what doconv_candidates_create(), doconv_tune() take */
    const doconv_conv_desc *desc; /**< lives as long as the layer */
    int fresh_weights;            /**< as in doconv_plan_options */
    const char *variant;          /**< what was chosen */
    const char *origin;           /**< by whom: as doconv_plan_origin() */
    const char *source;           /**< from whom: as doconv_plan_source() */
} doconv_training_operation;

/**
 * Number of operations of a layer: the choice of the composition, if it was open (its variant is
 * "kernel", "kernel:fold=parts", "kernel:fold=whole" or "feature"); the forward pass, the fold and
 * its gradient (kernel composition), the convolutions of the gradient of src (none of odd strides),
 * the weight's gradient; or both passes of feature composition. 0 for NULL.
 */
DOCONV_API int doconv_training_operation_count(const doconv_training *training);

/** The index-th of them. Errors: INVALID_ARGUMENT, MISMATCH (size). */
DOCONV_API doconv_status doconv_training_operation_get(const doconv_training *training, int index,
                                                       doconv_training_operation *operation);

/** The parameters of a layer, contiguous, read only. */
typedef struct doconv_parameters {
    size_t size; /**< sizeof(doconv_parameters) */
    /** plain: Cout x Cin/groups x KH x KW; DO-Conv: W, Cout x Cin/groups x D_mul */
    const float *weight;
    const float *d;    /**< DO-Conv: D, Cin x (KH*KW) x D_mul; plain: NULL */
    const float *bias; /**< Cout, if the descriptor has_bias; else NULL */
} doconv_parameters;

/**
 * Where gradients go; NULL: not wanted. Each is written whole, not added to; shapes and layouts are
 * those of what it is the gradient of.
 */
typedef struct doconv_gradients {
    size_t size; /**< sizeof(doconv_gradients) */
    float *src, *weight, *d, *bias;
} doconv_gradients;

/**
 * dst of src. saved: NULL, or doconv_training_saved_size() bytes aligned to 4 that are written for
 * the backward pass with the same parameters, which they spare work. workspace:
 * doconv_training_workspace_size() bytes of any alignment, used by one call at a time; NULL if that
 * is 0. For an empty batch nothing is done, and src and dst may be NULL. Re-entrant. Errors are
 * argument errors only: INVALID_ARGUMENT (also if dst, saved or the workspace overlaps anything),
 * WORKSPACE_TOO_SMALL, MISMATCH (size); dst is untouched then.
 */
DOCONV_API doconv_status doconv_training_forward(const doconv_training *training,
                                                 const doconv_parameters *parameters,
                                                 const float *src, float *dst, void *saved,
                                                 void *workspace, size_t workspace_size);

/**
 * The gradients of a loss from grad_dst, its gradient by dst. src, parameters: those of the forward
 * pass. saved: what that pass saved, or NULL. For an empty batch the gradients of the parameters
 * are zeros, and src and grad_dst may be NULL. Errors as for the forward pass; gradients->d or
 * ->bias of a layer without D or bias, and gradients that overlap each other or anything else, are
 * an INVALID_ARGUMENT.
 */
DOCONV_API doconv_status doconv_training_backward(const doconv_training *training,
                                                  const doconv_parameters *parameters,
                                                  const float *src, const float *grad_dst,
                                                  const void *saved,
                                                  const doconv_gradients *gradients,
                                                  void *workspace, size_t workspace_size);

#ifdef __cplusplus
}
#endif

#endif
