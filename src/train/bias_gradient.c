/* SPDX-License-Identifier: MIT */
/*
 * Rows are summed in eight parts, in float, then in double: exact enough for any number of them.
 */
#include "train/bias_gradient.h"

#include <stdbool.h>
#include <string.h>

#include "base/arithmetic.h"
#include "base/context.h"
#include "base/layout.h"
#include "kernel.h"

/* Channels of a block, which a task has whole. */
#define WIDTH 16

struct job {
    const struct dc_problem *p;
    struct dc_tensor_map map;
    const float *grad_dst;
    float *grad_bias;
    int tasks;
};

/* A row of WIDTH channels that lie side by side. */
static void add_channels(const struct job *job, const float *row, int64_t first, double *total)
{
    const struct dc_tensor_map *map = &job->map;
    float sums[WIDTH] = {0.0f};
    for (int64_t half = 0; half < WIDTH; half += 8) {
        const float *at = row + channel_at(map, first + half);
        for (int64_t x = 0; x < job->p->wout; x++) {
            for (int i = 0; i < 8; i++) {
                sums[half + i] += at[x * map->pixel + i];
            }
        }
    }
    for (int i = 0; i < WIDTH; i++) {
        total[i] += (double)sums[i];
    }
}

/* A row of one channel, wherever its pixels lie. */
static double sum_pixels(const struct job *job, const float *at)
{
    const int64_t pixel = job->map.pixel, width = job->p->wout;
    float sums[8] = {0.0f};
    int64_t x = 0;
    for (; x + 8 <= width; x += 8) {
        for (int j = 0; j < 8; j++) {
            sums[j] += at[(x + j) * pixel];
        }
    }
    for (; x < width; x++) {
        sums[0] += at[x * pixel];
    }
    return (double)(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                    ((sums[4] + sums[5]) + (sums[6] + sums[7])));
}

static void run_block(const struct job *job, int64_t first)
{
    const struct dc_problem *p = job->p;
    const int64_t count = least(WIDTH, p->desc.cout - first);
    double total[WIDTH] = {0.0};
    for (int64_t line = 0; line < p->desc.n * p->hout; line++) {
        const float *row =
            job->grad_dst + line / p->hout * job->map.image + line % p->hout * job->map.row;
        if (job->map.channel == 1 && count == WIDTH) {
            add_channels(job, row, first, total);
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            total[i] += sum_pixels(job, row + channel_at(&job->map, first + i));
        }
    }
    for (int64_t i = 0; i < count; i++) {
        job->grad_bias[first + i] = (float)total[i];
    }
}

static void run_task(void *arg, int index)
{
    const struct job *job = arg;
    const int64_t blocks = divide_up(job->p->desc.cout, WIDTH);
    for (int64_t block = blocks * index / job->tasks; block < blocks * (index + 1) / job->tasks;
         block++) {
        run_block(job, block * WIDTH);
    }
}

void dc_bias_gradient(const doconv_context *ctx, const struct dc_problem *p, const float *grad_dst,
                      float *grad_bias)
{
    const doconv_conv_desc *d = &p->desc;
    struct job job = {
        .p = p,
        .map = dc_tensor_map(d->dst_layout, d->cout, p->hout, p->wout),
        .grad_dst = grad_dst,
        .grad_bias = grad_bias,
        .tasks = (int)least(p->threads, divide_up(d->cout, WIDTH)),
    };
    dc_parallel(ctx, job.tasks, run_task, &job);
}
