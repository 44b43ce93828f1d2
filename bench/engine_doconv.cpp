/* SPDX-License-Identifier: MIT */
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include <doconv/doconv_tune.h>

#include "bench_engine.h"
#include "bench_progress.h"
#include "bench_threads.h"

namespace bench
{

namespace
{

std::string detail(doconv_context *context, doconv_status status)
{
    char text[256] = "";
    doconv_context_last_error(context, text, sizeof text);
    return text[0] != '\0' ? text : doconv_status_string(status);
}

void check(doconv_context *context, doconv_status status, const std::string &what)
{
    if (status != DOCONV_OK) {
        throw std::runtime_error(what + ": " + detail(context, status));
    }
}

size_t bytes_of(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    if (doconv_tensor_bytes(layout, n, c, h, w, &bytes) != DOCONV_OK) {
        throw std::bad_alloc();
    }
    return bytes;
}

class doconv_runner : public runner
{
  public:
    /* Owns the plan, also if it throws. */
    doconv_runner(doconv_context *context, const problem &p, const doconv_conv_desc &desc,
                  const tensors &t, doconv_plan *plan)
        : context_(context), plan_(plan, doconv_plan_destroy), p_(p), t_(t),
          dst_layout_(desc.dst_layout),
          src_(bytes_of(desc.src_layout, p.desc.n, p.desc.cin, p.desc.h, p.desc.w)),
          residual_(p.desc.residual ? bytes_of(dst_layout_, p.desc.n, p.desc.cout, p.hout, p.wout)
                                    : 0),
          dst_(bytes_of(dst_layout_, p.desc.n, p.desc.cout, p.hout, p.wout))
    {
        const doconv_conv_desc &d = p.desc;
        workspace_ = buffer(doconv_plan_workspace_size(plan));
        doconv_runner::hold_copies(0);
        doconv_reorder(DOCONV_NCHW, desc.src_layout, d.n, d.cin, d.h, d.w, t.src.data(),
                       src_.data());
        if (d.residual) {
            doconv_reorder(DOCONV_NCHW, dst_layout_, d.n, d.cout, p.hout, p.wout, t.residual.data(),
                           residual_.data());
        }
        label = doconv_plan_variant(plan);
        layout = layout_pair_name(doconv_layout_string(desc.src_layout),
                                  doconv_layout_string(dst_layout_));
    }

    void run() override
    {
        next_ = next_ + 1 < weights_.size() ? next_ + 1 : 0;
        const doconv_status status =
            doconv_execute(plan_.get(), weights_[next_].get(), src_.data(), residual_.data(),
                           dst_.data(), workspace_.data(), workspace_.bytes());
        if (status != DOCONV_OK) {
            throw std::runtime_error(label + ": " + doconv_status_string(status));
        }
    }

    void hold_copies(size_t bytes) override
    {
        const size_t count = copies_for(bytes, doconv_plan_packed_size(plan_.get()));
        while (weights_.size() > count) {
            weights_.pop_back();
        }
        weights_.reserve(count);
        while (weights_.size() < count) {
            doconv_weights *weights = nullptr;
            check(context_,
                  doconv_weights_create(plan_.get(), t_.weight.data(),
                                        p_.desc.has_bias ? t_.bias.data() : nullptr, &weights),
                  p_.text);
            weights_.emplace_back(weights, doconv_weights_destroy);
        }
    }

    size_t copies() const override
    {
        return weights_.size();
    }

    void arm() override
    {
        dst_.fill(std::numeric_limits<float>::quiet_NaN());
    }

    std::vector<float> result() override
    {
        std::vector<float> y(static_cast<size_t>(p_.dst_count()));
        doconv_reorder(dst_layout_, DOCONV_NCHW, p_.desc.n, p_.desc.cout, p_.hout, p_.wout,
                       dst_.data(), y.data());
        return y;
    }

  private:
    doconv_context *context_;
    std::unique_ptr<doconv_plan, void (*)(doconv_plan *)> plan_;
    std::vector<std::unique_ptr<doconv_weights, void (*)(doconv_weights *)>> weights_;
    size_t next_ = 0;
    const problem &p_;
    const tensors &t_;
    doconv_layout dst_layout_;
    buffer src_, residual_, dst_, workspace_;
};

} // namespace

doconv_context *create_context(const options &o, const char *cache)
{
    doconv_context_options context_options = {};
    context_options.size = sizeof context_options;
    context_options.threads = o.threads;
    context_options.parallel_for = o.threads > 1 ? shared_threads() : nullptr;
    context_options.max_isa = o.isa;
    context_options.cache_directory = cache;
    /* But for an audit, the engine tunes by itself, ahead of all timing. */
    context_options.tune = cache != nullptr            ? DOCONV_TUNE_TUNE
                           : o.tune == DOCONV_TUNE_OFF ? DOCONV_TUNE_OFF
                                                       : DOCONV_TUNE_READ;
    doconv_context *context = nullptr;
    const doconv_status status = doconv_context_create(&context_options, &context);
    if (status != DOCONV_OK) {
        /* Of what a context may refuse only this is left: the threads are in range. */
        throw usage_error(std::string("--isa=") + doconv_isa_string(o.isa) + ": " +
                          (status == DOCONV_INVALID_ARGUMENT ? "not of this architecture"
                                                             : doconv_status_string(status)));
    }
    return context;
}

doconv_engine::doconv_engine(const options &o, unsigned roles)
    : context_(create_context(o)), tune_(o.tune), cold_(o.cold), packed_(o.packed),
      packed_as_direct_(o.packed_as_direct), roles_(roles)
{
    const doconv_context_info found = info();
    if (o.isa != DOCONV_ISA_DEFAULT && found.isa != o.isa) {
        const std::string best = doconv_isa_string(found.cpu_isa);
        doconv_context_destroy(context_);
        throw usage_error(std::string("--isa=") + doconv_isa_string(o.isa) +
                          ": not on this CPU, whose best is " + best);
    }
}

doconv_engine::~doconv_engine()
{
    doconv_context_destroy(context_);
}

doconv_context_info doconv_engine::info() const
{
    doconv_context_info found = {};
    found.size = sizeof found;
    check(context_, doconv_context_get_info(context_, &found), "context");
    return found;
}

std::string doconv_engine::description() const
{
    return std::string("doconv ") + doconv_version_string();
}

doconv_engine::placed doconv_engine::place(const problem &p, doconv_layout src,
                                           doconv_layout dst) const
{
    placed in = {p.desc, ""};
    in.desc.src_layout = src;
    in.desc.dst_layout = dst;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    check(context_, doconv_conv_desc_format(context_, &in.desc, text, sizeof text), p.text);
    in.text = text;
    return in;
}

doconv_engine::placed doconv_engine::strictly(const placed &in) const
{
    placed strict = in;
    strict.desc.accuracy = DOCONV_ACCURACY_STRICT;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    check(context_, doconv_conv_desc_format(context_, &strict.desc, text, sizeof text), in.text);
    strict.text = text;
    return strict;
}

doconv_plan_options doconv_engine::open_options(const placed &in) const
{
    doconv_plan_options o = {};
    o.size = sizeof o;
    o.cold_weights = cold_;
    o.packed_limit = packed_;
    if (packed_as_direct_) {
        /* What sums products one by one packs weights as they are: the best of these. */
        const placed strict = strictly(in);
        doconv_candidates *list = nullptr;
        check(context_, doconv_candidates_create(context_, &strict.desc, nullptr, &list), in.text);
        doconv_candidate_info best = {};
        best.size = sizeof best;
        if (doconv_candidates_get(list, 0, &best) == DOCONV_OK) {
            o.packed_limit = best.packed_size;
        }
        doconv_candidates_destroy(list);
    }
    return o;
}

/* Where tuning found a variant, it; it lives in choices_. */
doconv_plan_options doconv_engine::plan_options(const placed &in) const
{
    doconv_plan_options o = open_options(in);
    o.rigor = tune_ == DOCONV_TUNE_OFF ? DOCONV_RIGOR_ESTIMATE : DOCONV_RIGOR_READ;
    const auto known = choices_.find(in.text);
    o.variant = known != choices_.end() ? known->second.variant.c_str() : nullptr;
    return o;
}

bool doconv_engine::is_direct(const placed &in, const char *variant) const
{
    const placed strict = strictly(in);
    doconv_plan_options o = plan_options(strict);
    o.variant = variant;
    doconv_plan *plan = nullptr;
    const doconv_status status = doconv_plan_create(context_, &strict.desc, &o, &plan);
    doconv_plan_destroy(plan);
    return status == DOCONV_OK;
}

/* The part of a problem's progress that one tuning is. */
struct doconv_engine::share {
    progress *show;
    double start, width;
};

const std::string *doconv_engine::tune_one(const placed &in, tuning_totals &totals, share &part)
{
    const doconv_plan_options plan_options = open_options(in);
    doconv_tune_options tune_options = {};
    tune_options.size = sizeof tune_options;
    tune_options.force = tune_ == DOCONV_TUNE_FORCE;
    tune_options.progress = [](void *user, int done, int total) {
        const share &s = *static_cast<const share *>(user);
        s.show->within(s.start + s.width * done / std::max(total, 1));
    };
    tune_options.progress_user = &part;
    doconv_tune_report *report = nullptr;
    const doconv_status status =
        doconv_tune(context_, &in.desc, &plan_options, &tune_options, &report);
    if (status == DOCONV_UNSUPPORTED) {
        return nullptr;
    }
    check(context_, status, in.text);
    doconv_tune_summary summary = {};
    summary.size = sizeof summary;
    check(context_, doconv_tune_report_summary(report, &summary), in.text);
    totals.measured += summary.measured;
    totals.problems++;
    totals.cached += summary.from_cache;
    totals.unstored += !summary.from_cache && !summary.stored;
    const tuned &found = choices_[in.text] = {summary.variant, summary.seconds};
    doconv_tune_report_destroy(report);
    return &found.variant;
}

void doconv_engine::tune(const problem &p, tuning_totals &totals, progress &show)
{
    const auto pairs = layouts_to_try(p);
    /* Where the choice is a direct variant, it is the best of these too. */
    const double steps = static_cast<double>(pairs.size()) * 2;
    for (size_t i = 0; i < pairs.size(); i++) {
        const placed in = place(p, pairs[i].first, pairs[i].second), strict = strictly(in);
        const double step = static_cast<double>(i) * 2;
        share choice = {&show, step / steps, 1 / steps},
              direct = {&show, (step + 1) / steps, 1 / steps};
        const std::string *variant = roles_ & role_choice ? tune_one(in, totals, choice) : nullptr;
        if (roles_ & role_direct && (variant == nullptr || !is_direct(in, variant->c_str()))) {
            tune_one(strict, totals, direct);
        }
    }
}

void doconv_engine::add(const problem &p, const placed &in, unsigned roles, const tensors &t,
                        std::vector<std::unique_ptr<runner>> &runners, std::string &why) const
{
    const doconv_plan_options o = plan_options(in);
    doconv_plan *plan = nullptr;
    const doconv_status status = doconv_plan_create(context_, &in.desc, &o, &plan);
    if (status == DOCONV_UNSUPPORTED) {
        why = detail(context_, status);
        return;
    }
    check(context_, status, in.text);
    runners.push_back(std::make_unique<doconv_runner>(context_, p, in.desc, t, plan));
    runners.back()->roles = roles;
}

doconv_plan *doconv_engine::plan(const problem &p, double &seconds) const
{
    const placed in = {p.desc, p.text};
    const auto known = choices_.find(in.text);
    seconds = known != choices_.end() ? known->second.seconds : 0;
    const doconv_plan_options o = plan_options(in);
    doconv_plan *made = nullptr;
    check(context_, doconv_plan_create(context_, &in.desc, &o, &made), in.text);
    return made;
}

std::vector<std::unique_ptr<runner>> doconv_engine::prepare(const problem &p, const tensors &t,
                                                            std::string &why)
{
    std::vector<std::unique_ptr<runner>> runners;
    for (const auto &pair : layouts_to_try(p)) {
        const placed in = place(p, pair.first, pair.second);
        const size_t before = runners.size();
        if (roles_ & role_choice) {
            add(p, in, role_choice, t, runners, why);
        }
        if ((roles_ & role_direct) == 0) {
            continue;
        }
        if (runners.size() > before && is_direct(in, runners.back()->label.c_str())) {
            runners.back()->roles |= role_direct;
        } else {
            add(p, strictly(in), role_direct, t, runners, why);
        }
    }
    return runners;
}

} // namespace bench
