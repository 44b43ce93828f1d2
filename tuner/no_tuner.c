/* SPDX-License-Identifier: MIT */
/*
 * The empty twin of the tuner, for a build without it: contexts get no advisor, and the functions
 * of doconv_tune.h refuse.
 */
#include <doconv/doconv_tune.h>

#include "base/context.h"
#include "library.h"
#include "base/log.h"

doconv_status dc_tuner_attach(doconv_context *ctx)
{
    ctx->advisor = (struct dc_advisor){0};
    return DOCONV_OK;
}

doconv_status doconv_tune(doconv_context *context, const doconv_conv_desc *desc,
                          const doconv_plan_options *plan_options,
                          const doconv_tune_options *options, doconv_tune_report **report)
{
    (void)desc;
    (void)plan_options;
    (void)options;
    if (report != NULL) {
        *report = NULL;
    }
    return dc_fail(context, DOCONV_UNSUPPORTED, "tune: this build has no tuner");
}

void doconv_tune_report_destroy(doconv_tune_report *report)
{
    (void)report;
}

doconv_status doconv_tune_report_summary(const doconv_tune_report *report,
                                         doconv_tune_summary *summary)
{
    (void)report;
    (void)summary;
    return DOCONV_UNSUPPORTED;
}

int doconv_tune_report_count(const doconv_tune_report *report)
{
    (void)report;
    return 0;
}

doconv_status doconv_tune_report_get(const doconv_tune_report *report, int index,
                                     doconv_tune_entry *entry)
{
    (void)report;
    (void)index;
    (void)entry;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_cache_clean(doconv_context *context, const doconv_cache_clean_options *options)
{
    (void)options;
    return dc_fail(context, DOCONV_UNSUPPORTED, "cache: this build has no tuner");
}

doconv_status doconv_entries_create(doconv_context *context, doconv_entries **entries)
{
    if (entries != NULL) {
        *entries = NULL;
    }
    return dc_fail(context, DOCONV_UNSUPPORTED, "entries: this build has no tuner");
}

void doconv_entries_destroy(doconv_entries *entries)
{
    (void)entries;
}

doconv_status doconv_entries_read(doconv_entries *entries)
{
    (void)entries;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_parse(doconv_entries *entries, const char *text, size_t size)
{
    (void)entries;
    (void)text;
    (void)size;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_keep(doconv_entries *entries, const char *environment,
                                  const char *pattern)
{
    (void)entries;
    (void)environment;
    (void)pattern;
    return DOCONV_UNSUPPORTED;
}

int doconv_entries_count(const doconv_entries *entries)
{
    (void)entries;
    return 0;
}

doconv_status doconv_entries_get(const doconv_entries *entries, int index, doconv_entry_info *info)
{
    (void)entries;
    (void)index;
    (void)info;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_get_measured(const doconv_entries *entries, int index, int candidate,
                                          doconv_tune_entry *measured)
{
    (void)entries;
    (void)index;
    (void)candidate;
    (void)measured;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_write(const doconv_entries *entries, doconv_write_fn write, void *user)
{
    (void)entries;
    (void)write;
    (void)user;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_write_table(const doconv_entries *entries, const char *name,
                                         doconv_write_fn write, void *user)
{
    (void)entries;
    (void)name;
    (void)write;
    (void)user;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_regret(const doconv_entries *entries, const char *from, const char *on,
                                    doconv_regret *regret)
{
    (void)entries;
    (void)from;
    (void)on;
    (void)regret;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_store(const doconv_entries *entries, int *stored)
{
    (void)entries;
    (void)stored;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_entries_forget(const doconv_entries *entries, int *removed)
{
    (void)entries;
    (void)removed;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_tune_network(doconv_context *context, const doconv_network_layer *layers,
                                  int count, const doconv_network_options *options,
                                  doconv_network_plan **plan)
{
    (void)layers;
    (void)count;
    (void)options;
    if (plan != NULL) {
        *plan = NULL;
    }
    return dc_fail(context, DOCONV_UNSUPPORTED, "network: this build has no tuner");
}

void doconv_network_plan_destroy(doconv_network_plan *plan)
{
    (void)plan;
}

int doconv_network_plan_count(const doconv_network_plan *plan)
{
    (void)plan;
    return 0;
}

doconv_status doconv_network_plan_get(const doconv_network_plan *plan, int index,
                                      doconv_network_choice *choice)
{
    (void)plan;
    (void)index;
    (void)choice;
    return DOCONV_UNSUPPORTED;
}

int doconv_network_plan_reorder_count(const doconv_network_plan *plan)
{
    (void)plan;
    return 0;
}

doconv_status doconv_network_plan_get_reorder(const doconv_network_plan *plan, int index,
                                              doconv_network_reorder *reorder)
{
    (void)plan;
    (void)index;
    (void)reorder;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_network_plan_total(const doconv_network_plan *plan,
                                        doconv_network_total *total)
{
    (void)plan;
    (void)total;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_network_plan_write(const doconv_network_plan *plan, doconv_write_fn write,
                                        void *user)
{
    (void)plan;
    (void)write;
    (void)user;
    return DOCONV_UNSUPPORTED;
}

doconv_status doconv_network_plan_parse(doconv_context *context, const char *text, size_t size,
                                        const doconv_network_parse_options *options,
                                        doconv_network_plan **plan)
{
    (void)text;
    (void)size;
    (void)options;
    if (plan != NULL) {
        *plan = NULL;
    }
    return dc_fail(context, DOCONV_UNSUPPORTED, "network: this build has no tuner");
}
