/* SPDX-License-Identifier: MIT */
/* Where the floors meet: contexts of all kernels and all solvers, with the tuner as advisor. */
#include "library.h"

#include <stddef.h>

#include "base/context.h"
#include "base/registry.h"
#include "compose/feature.h"
#include "compose/fold.h"
#include "plan/solver.h"
#include "solvers/direct/direct.h"
#include "solvers/grouped.h"
#include "solvers/pixel.h"
#include "solvers/planes.h"
#include "solvers/reference.h"
#include "solvers/winograd/winograd.h"
#include "train/layer.h"
#include "train/weight_gradient.h"

const struct dc_solver *const dc_solvers[] = {
    &dc_solver_direct,
    &dc_solver_depthwise,
    &dc_solver_grouped,
    &dc_solver_planes,
    &dc_solver_pixel,
    &dc_solver_winograd,
    &dc_solver_reference,
    &dc_solver_fold,
    &dc_solver_fold_portable,
    &dc_solver_fold_gradient,
    &dc_solver_fold_gradient_portable,
    &dc_solver_feature_forward,
    &dc_solver_feature_forward_portable,
    &dc_solver_feature_backward,
    &dc_solver_feature_backward_portable,
    &dc_solver_weight_product,
    &dc_solver_weight_correlate,
    &dc_solver_weight_portable,
    &dc_solver_layer_forward_kernel,
    &dc_solver_layer_forward_feature,
    &dc_solver_layer_step_kernel,
    &dc_solver_layer_step_feature,
    NULL,
};

doconv_status doconv_context_create(const doconv_context_options *options, doconv_context **context)
{
    static const struct dc_parts parts = {
        .kernels = dc_builtin_kernels,
        .solvers = dc_solvers,
        .attach_advisor = dc_tuner_attach,
    };
    return dc_context_create(options, &parts, context);
}
