/* SPDX-License-Identifier: MIT */
/* Composing rows of W with channels of D by a kernel: how the work is cut, and the calls. */
#include "compose/fold_cut.h"

#include <math.h>

#include "base/arithmetic.h"
#include "base/costs.h"
#include "base/cpu.h"
#include "base/overlap.h"
#include "kernel.h"

struct dc_row_series dc_fold_rows(const doconv_fold_desc *desc, int64_t channel)
{
    if (desc->groups == 1) {
        /* Whatever the mapping, and without its divisions. */
        return (struct dc_row_series){.first = channel, .step = desc->cin};
    }
    const int64_t group_cin = desc->cin / desc->groups, group_cout = desc->cout / desc->groups,
                  rows = group_cout * group_cin;
    switch (desc->mapping) {
    case DOCONV_MAPPING_PYTORCH:
        return (struct dc_row_series){.first = channel, .step = desc->cin};
    case DOCONV_MAPPING_TENSORFLOW:
        return (struct dc_row_series){
            .first = channel % desc->groups * rows + channel / desc->groups, .step = group_cin};
    default:
        return (struct dc_row_series){.first = channel / group_cin * rows + channel % group_cin,
                                      .step = group_cin};
    }
}

doconv_fold_desc dc_fold_turned(const doconv_fold_desc *desc)
{
    doconv_fold_desc other = *desc;
    other.kh = desc->d_mul;
    other.kw = 1;
    other.d_mul = desc->kh * desc->kw;
    return other;
}

/* ---- how the work is cut ---- */

/* Of W and of the weight. */
static double bytes_of_rows(const doconv_fold_desc *desc)
{
    return 4.0 * (double)(desc->cout * (desc->cin / desc->groups)) *
           (double)(desc->kh * desc->kw + desc->d_mul);
}

bool dc_fold_rows_are_far(const doconv_fold_desc *desc)
{
    return bytes_of_rows(desc) > 0.75 * (double)dc_cpu_probe()->l2_bytes;
}

bool dc_fold_rows_are_in_memory(const doconv_fold_desc *desc)
{
    /* Others use L3 as well, so that a part of its size may be too much already. */
    return dc_fold_rows_are_far(desc) &&
           bytes_of_rows(desc) > 0.25 * (double)dc_cpu_probe()->l3_bytes;
}

/* Taps whose rows of D are transposed at a time: a quarter of L2 holds a block's. */
static int64_t panel_taps(const doconv_fold_desc *desc, const struct dc_kernel *kernel)
{
    const int64_t tap_floats = desc->d_mul * kernel->vector;
    const int64_t fitting = dc_cpu_probe()->l2_bytes / 4 / (int64_t)sizeof(float) / tap_floats;
    return least(desc->kh * desc->kw, most(fitting, kernel->tile_pixels));
}

int dc_fold_blocks_fitting(const doconv_fold_desc *desc, const struct dc_kernel *kernel, bool far)
{
    const struct dc_cpu *cpu = dc_cpu_probe();
    const int64_t room = far ? cpu->l2_bytes / 3 : cpu->l1d_bytes * 2 / 3;
    const int64_t block_floats = panel_taps(desc, kernel) * desc->d_mul * kernel->vector;
    const int64_t fit = room / (int64_t)sizeof(float) / block_floats;
    return (int)most(1, least(least(fit, DC_COMPOSE_BLOCKS), divide_up(desc->cin, kernel->vector)));
}

struct dc_fold_cut dc_fold_cut(const doconv_fold_desc *desc, bool turned,
                               const struct dc_kernel *kernel, int threads, int blocks)
{
    const int64_t vector = kernel->vector, group_cout = desc->cout / desc->groups;
    struct dc_fold_cut cut = {
        .kernel = kernel,
        .desc = *desc,
        .turned = turned,
        .blocks = divide_up(desc->cin, vector),
        .blocks_a_call = blocks,
        .panel = panel_taps(desc, kernel),
        .in_memory = dc_fold_rows_are_in_memory(desc),
    };
    const int64_t rows = kernel->tile_channels / vector;
    cut.scratch_floats = (size_t)align_floats(
        vector * (cut.blocks_a_call * cut.panel * desc->d_mul + rows * (desc->d_mul + cut.panel)));
    /*
     * Parts of rows balance better where there are few blocks, but each transposes D again, which
     * costs about as much as eight rows.
     */
    double best = 0.0;
    for (int parts = 1; parts <= least(threads, cut.blocks); parts++) {
        const int64_t row_parts = least(threads / parts, group_cout);
        const double cost =
            (double)divide_up(cut.blocks, parts) * (double)(divide_up(group_cout, row_parts) + 8);
        if (parts == 1 || cost < best) {
            best = cost;
            cut.block_parts = parts;
            cut.tasks = (int)(parts * row_parts);
        }
    }
    return cut;
}

double dc_fold_estimate(const struct dc_problem *p, const struct dc_kernel *kernel, int tasks)
{
    const doconv_fold_desc *f = &p->fold;
    const double products =
        (double)(f->cout * (f->cin / f->groups)) * (double)(f->kh * f->kw) * (double)f->d_mul;
    if (kernel == NULL) {
        return products / 1e9 / tasks;
    }
    const double rate = kernel->vector == 16 ? dc_cpu_probe()->fma512_per_cycle : 2.0;
    const double rows = (double)kernel->tile_channels / kernel->vector, taps = kernel->tile_pixels;
    /* Of a tile's step: loads beside its FMAs; and some cycles that every tile loses. */
    const double fma = taps * rows / rate, loads = (taps + rows) / 2.0;
    const double cycles =
        products / (taps * rows * kernel->vector) * (1.2 * fmax(fma, loads) + 0.5);
    const double bytes_a_cycle = dc_fold_rows_are_in_memory(f) ? 6.0
                                 : dc_fold_rows_are_far(f)     ? 12.0
                                                               : 40.0;
    return (fmax(cycles, bytes_of_rows(f) / bytes_a_cycle) + 0.2 * cycles) / DC_NOMINAL_HERTZ /
           tasks;
}

doconv_status dc_fold_check_memory(doconv_context *ctx, const doconv_fold_desc *desc,
                                   const struct dc_tensors *tensors)
{
    const size_t rows = (size_t)(desc->cout * (desc->cin / desc->groups)) * sizeof(float),
                 taps = (size_t)(desc->kh * desc->kw), d_mul = (size_t)desc->d_mul,
                 d_bytes = (size_t)desc->cin * taps * d_mul * sizeof(float);
    const struct dc_range ranges[] = {
        {"w", tensors->w, rows * d_mul, false},
        {"d", tensors->d, d_bytes, false},
        {"grad_weight", tensors->grad_folded, rows * taps, false},
        {"weight", tensors->weight, rows * taps, true},
        {"grad_w", tensors->grad_w, rows * d_mul, true},
        {"grad_d", tensors->grad_d, d_bytes, true},
    };
    return dc_check_overlaps(ctx, ranges, sizeof ranges / sizeof ranges[0]);
}

/* ---- the calls ---- */

/*
 * Calls the kernel for `blocks` vectors of `channels` channels each, from the channel `first` on,
 * and rows [start, start + copies * steps) of each channel. Where channels are fewer than lanes,
 * `copies` rows of a channel lie side by side; lanes past these repeat the first.
 */
static void compose(const struct dc_compose_job *job, float *scratch, int64_t first, int64_t blocks,
                    int64_t channels, int64_t start, int64_t copies, int64_t steps)
{
    const struct dc_fold_cut *cut = job->cut;
    const doconv_fold_desc *desc = &cut->desc;
    const int64_t vector = cut->kernel->vector;
    ptrdiff_t rows[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK],
        results[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK], lanes[DC_COMPOSE_BLOCKS * DC_CHANNEL_BLOCK];
    for (int64_t i = 0; i < blocks * vector; i += vector) {
        int64_t channel = 0, copy = 0;
        for (int64_t lane = 0; lane < vector; lane++) {
            lanes[i + lane] = first + i + channel;
            const struct dc_row_series series = dc_fold_rows(desc, lanes[i + lane]);
            const int64_t row = start + copy;
            results[i + lane] = series.first + (row - job->first_result) * series.step;
            rows[i + lane] = job->inputs == 0
                                 ? series.first + row * series.step
                                 : (row - job->out) * job->inputs + lanes[i + lane] - job->in;
            if (++channel == channels) {
                channel = 0;
                copy = copy + 1 < copies ? copy + 1 : 0;
            }
        }
    }
    const int64_t step = dc_fold_rows(desc, first).step;
    const int64_t taps = desc->kh * desc->kw;
    const struct dc_compose_args args = {
        .w = job->w,
        .d = job->d,
        .weight = job->weight,
        .rows = rows,
        .results = results,
        .channels = lanes,
        .blocks = blocks,
        .row_step = copies * (job->inputs == 0 ? step : job->inputs),
        .result_step = copies * step,
        .steps = steps,
        .taps = taps,
        .d_mul = desc->d_mul,
        /* With D turned, the layer's taps are desc's D_mul. */
        .repeated = cut->turned && desc->add_identity ? taps / desc->d_mul * desc->d_mul
                    : cut->turned                     ? 0
                                                      : dc_fold_repeated(desc),
        .d_turned = cut->turned,
        .in_memory = cut->in_memory,
        .panel = cut->panel,
        .scratch = scratch,
    };
    cut->kernel->compose.run(&args);
}

void dc_compose_blocks(const struct dc_compose_job *job, float *scratch, int64_t block,
                       int64_t last, int64_t start, int64_t end)
{
    const struct dc_fold_cut *cut = job->cut;
    const int64_t vector = cut->kernel->vector, full = cut->desc.cin / vector;
    while (block < least(full, last)) {
        const int64_t blocks = least(cut->blocks_a_call, least(full, last) - block);
        compose(job, scratch, block * vector, blocks, vector, start, 1, end - start);
        block += blocks;
    }
    if (block < last) {
        const int64_t channels = cut->desc.cin % vector,
                      copies = least(vector / channels, end - start),
                      steps = (end - start) / copies;
        compose(job, scratch, block * vector, 1, channels, start, copies, steps);
        if (copies * steps < end - start) {
            compose(job, scratch, block * vector, 1, channels, start + copies * steps,
                    end - start - copies * steps, 1);
        }
    }
}

void dc_compose_task(void *arg, int index)
{
    const struct dc_compose_job *job = arg;
    const struct dc_fold_cut *cut = job->cut;
    const int64_t group_cout = cut->desc.cout / cut->desc.groups;
    const int row_parts = cut->tasks / cut->block_parts, block_part = index / row_parts,
              row_part = index % row_parts;
    dc_compose_blocks(job, job->scratch + (size_t)index * cut->scratch_floats,
                      cut->blocks * block_part / cut->block_parts,
                      cut->blocks * (block_part + 1) / cut->block_parts,
                      group_cout * row_part / row_parts, group_cout * (row_part + 1) / row_parts);
}
