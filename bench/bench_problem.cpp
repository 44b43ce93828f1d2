/* SPDX-License-Identifier: MIT */
#include "bench_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "network_list.h"
#include "problem_name.h"

namespace bench
{

namespace
{

std::string last_error(doconv_context *context, doconv_status status)
{
    char text[256] = "";
    doconv_context_last_error(context, text, sizeof text);
    return text[0] != '\0' ? text : doconv_status_string(status);
}

/* Adds problems once, however many layers have them. */
class collector
{
  public:
    collector(doconv_context *context, workload &w) : context_(context), w_(w)
    {
    }

    void add(const std::string &network, int64_t count, const doconv_conv_desc &desc,
             bool free_layout, const std::string &what)
    {
        const problem p = make_problem(context_, desc, free_layout, what);
        const auto known =
            index_.emplace(p.text + (free_layout ? " free" : ""), w_.problems.size());
        if (known.second) {
            w_.problems.push_back(p);
        }
        w_.layers.push_back({network, count, known.first->second});
    }

  private:
    doconv_context *context_;
    workload &w_;
    std::map<std::string, size_t> index_;
};

/* The first layer of a network: too few channels for a blocked source. */
bool few_channels(const doconv_conv_desc &desc)
{
    return desc.cin < 8;
}

void set_layout(doconv_conv_desc &desc, layout_choice choice, doconv_layout block)
{
    switch (choice) {
    case layout_choice::nchw:
    case layout_choice::best:
        desc.src_layout = desc.dst_layout = DOCONV_NCHW;
        break;
    case layout_choice::nhwc:
        desc.src_layout = desc.dst_layout = DOCONV_NHWC;
        break;
    case layout_choice::blocked:
        desc.src_layout = few_channels(desc) ? DOCONV_NCHW : block;
        desc.dst_layout = block;
        break;
    }
}

using owned_network = std::unique_ptr<network, void (*)(network *)>;

void add_network(collector &collect, const std::string &name, const options &o, doconv_layout block)
{
    network net = {};
    const owned_network own(&net, network_free);
    char error[256] = "";
    if (network_load(name.c_str(), &net, error, sizeof error) != 0) {
        throw usage_error("network \"" + name + "\": " + error);
    }
    for (int i = 0; i < net.layers; i++) {
        doconv_conv_desc desc = net.layer[i].desc;
        desc.n = o.batch;
        desc.accuracy = o.accuracy;
        set_layout(desc, o.layout, block);
        collect.add(net.name, net.layer[i].count, desc, o.layout == layout_choice::best,
                    "network \"" + name + "\", layer " + std::to_string(i + 1));
    }
}

/* What the text says itself stands against the options. */
void add_problem(doconv_context *context, collector &collect, const std::string &text,
                 const options &o, doconv_layout block)
{
    doconv_conv_desc desc;
    const doconv_status status = doconv_conv_desc_parse(context, text.c_str(), &desc);
    if (status != DOCONV_OK) {
        throw usage_error("problem \"" + text + "\": " + last_error(context, status));
    }
    const size_t attributes = text.find(':');
    const auto names = [&](const char *attribute) {
        return attributes != std::string::npos &&
               text.find(attribute, attributes) != std::string::npos;
    };
    const bool own_layout = names("src=") || names("dst=");
    if (!own_layout) {
        set_layout(desc, o.layout, block);
    }
    if (!names("accuracy=")) {
        desc.accuracy = o.accuracy;
    }
    collect.add("-", 1, desc, o.layout == layout_choice::best && !own_layout,
                "problem \"" + text + "\"");
}

} // namespace

problem make_problem(doconv_context *context, const doconv_conv_desc &desc, bool free_layout,
                     const std::string &what)
{
    problem p = {};
    p.desc = desc;
    p.free_layout = free_layout;
    char text[DOCONV_PROBLEM_TEXT_SIZE];
    int64_t shape[4];
    doconv_status status = doconv_conv_dst_shape(context, &desc, shape);
    if (status == DOCONV_OK) {
        status = doconv_conv_desc_format(context, &desc, text, sizeof text);
    }
    if (status != DOCONV_OK) {
        throw usage_error(what + ": " + last_error(context, status));
    }
    p.text = text;
    p.hout = shape[2];
    p.wout = shape[3];
    p.macs = static_cast<double>(desc.n) * static_cast<double>(desc.cout) *
             static_cast<double>(p.hout) * static_cast<double>(p.wout) *
             static_cast<double>(desc.cin / desc.groups) * static_cast<double>(desc.kh) *
             static_cast<double>(desc.kw);
    return p;
}

workload load_workload(doconv_context *context, const options &o, doconv_layout block)
{
    workload w;
    collector collect(context, w);
    for (const std::string &name : o.networks) {
        add_network(collect, name, o, block);
    }
    for (const std::string &text : o.problems) {
        add_problem(context, collect, text, o, block);
    }
    return w;
}

std::string short_name(const problem &p)
{
    char name[PROBLEM_NAME_SIZE];
    problem_name(&p.desc, name);
    return name;
}

std::vector<std::pair<doconv_layout, doconv_layout>> layouts_to_try(const problem &p)
{
    if (!p.free_layout) {
        return {{p.desc.src_layout, p.desc.dst_layout}};
    }
    if (few_channels(p.desc)) {
        return {{DOCONV_NCHW, DOCONV_NCHW},   {DOCONV_NHWC, DOCONV_NHWC},
                {DOCONV_NCHW, DOCONV_NCHW8C}, {DOCONV_NCHW, DOCONV_NCHW16C},
                {DOCONV_NHWC, DOCONV_NCHW8C}, {DOCONV_NHWC, DOCONV_NCHW16C}};
    }
    return {{DOCONV_NCHW, DOCONV_NCHW},
            {DOCONV_NHWC, DOCONV_NHWC},
            {DOCONV_NCHW8C, DOCONV_NCHW8C},
            {DOCONV_NCHW16C, DOCONV_NCHW16C}};
}

std::string layout_pair_name(const std::string &src, const std::string &dst)
{
    return src == dst ? src : src + ">" + dst;
}

tensors::tensors(const problem &p)
{
    std::minstd_rand random(20260u);
    const auto fill = [&](std::vector<float> &v, int64_t count) {
        v.resize(static_cast<size_t>(count));
        for (float &x : v) {
            x = static_cast<float>(static_cast<int>(random() >> 7 & 0xffffff) - 0x800000) /
                0x800000;
        }
    };
    const doconv_conv_desc &d = p.desc;
    fill(src, p.src_count());
    fill(weight, p.weight_count());
    if (d.has_bias) {
        fill(bias, d.cout);
    }
    if (d.residual) {
        fill(residual, p.dst_count());
    }
}

checker::checker(const problem &p, const tensors &t) : p_(p), t_(t)
{
    /* Fewer samples of sums that are very long: about 20 million products at most. */
    const double products = std::max(p.macs / static_cast<double>(p.dst_count()), 1.0);
    const int count = static_cast<int>(std::clamp(2e7 / products, 16.0, 256.0));
    std::minstd_rand random(7u);
    const int64_t total = p.dst_count();
    const auto sample = [&](int64_t output) {
        const double value = reference(output);
        samples_.emplace_back(output, value);
        largest_ = std::max(largest_, std::fabs(value));
    };
    /* The corners of the first and last image and channel, where padding and tails are. */
    const int64_t area = p.hout * p.wout;
    for (const int64_t plane : {int64_t{0}, total - area}) {
        for (const int64_t pixel : {int64_t{0}, p.wout - 1, area - p.wout, area - 1}) {
            sample(plane + pixel);
        }
    }
    for (int i = 0; i < count; i++) {
        const uint64_t high = random(), low = random();
        sample(static_cast<int64_t>((high << 31 ^ low) % static_cast<uint64_t>(total)));
    }
    random_samples_ = samples_.size();
    largest_ = std::max(largest_, static_cast<double>(std::numeric_limits<float>::min()));
}

double checker::reference(int64_t output) const
{
    const doconv_conv_desc &d = p_.desc;
    const int64_t q = output % p_.wout, r = output / p_.wout % p_.hout,
                  o = output / p_.wout / p_.hout % d.cout, n = output / p_.wout / p_.hout / d.cout;
    const int64_t group_cin = d.cin / d.groups, group = o / (d.cout / d.groups);
    double sum = d.has_bias ? static_cast<double>(t_.bias[static_cast<size_t>(o)]) : 0;
    for (int64_t i = 0; i < group_cin; i++) {
        for (int64_t y = 0; y < d.kh; y++) {
            const int64_t row = r * d.stride_h + y * d.dilation_h - d.pad_top;
            if (row < 0 || row >= d.h) {
                continue;
            }
            const float *src = &t_.src[static_cast<size_t>(
                ((n * d.cin + group * group_cin + i) * d.h + row) * d.w)];
            const float *weight =
                &t_.weight[static_cast<size_t>(((o * group_cin + i) * d.kh + y) * d.kw)];
            for (int64_t x = 0; x < d.kw; x++) {
                const int64_t column = q * d.stride_w + x * d.dilation_w - d.pad_left;
                if (column >= 0 && column < d.w) {
                    sum += static_cast<double>(src[column]) * static_cast<double>(weight[x]);
                }
            }
        }
    }
    if (d.residual) {
        sum += static_cast<double>(t_.residual[static_cast<size_t>(output)]);
    }
    if (d.relu) {
        sum = std::max(sum, 0.0);
    }
    if (d.clamp) {
        sum = std::min(std::max(sum, static_cast<double>(d.clamp_lo)),
                       static_cast<double>(d.clamp_hi));
    }
    return sum;
}

size_t checker::add(std::vector<float> y)
{
    if (!results_.empty()) {
        const std::vector<float> &first = results_[0];
        size_t farthest = 0;
        float distance = 0;
        for (size_t i = 0; i < y.size(); i++) {
            const float difference = std::fabs(y[i] - first[i]);
            if (difference > distance) {
                distance = difference;
                farthest = i;
            }
        }
        samples_.emplace_back(static_cast<int64_t>(farthest),
                              reference(static_cast<int64_t>(farthest)));
    }
    results_.push_back(std::move(y));
    return results_.size() - 1;
}

double checker::error(size_t result) const
{
    const std::vector<float> &y = results_[result];
    if (!std::all_of(y.begin(), y.end(), [](float v) { return std::isfinite(v); })) {
        return std::numeric_limits<double>::infinity();
    }
    double worst = 0;
    for (const auto &[output, value] : samples_) {
        worst =
            std::max(worst, std::fabs(static_cast<double>(y[static_cast<size_t>(output)]) - value));
    }
    return worst / largest_;
}

double checker::rms_error(size_t result) const
{
    const std::vector<float> &y = results_[result];
    double squares = 0;
    for (size_t i = 0; i < random_samples_; i++) {
        const auto &[output, value] = samples_[i];
        const double difference = static_cast<double>(y[static_cast<size_t>(output)]) - value;
        squares += difference * difference;
    }
    return std::sqrt(squares / static_cast<double>(random_samples_)) / largest_;
}

} // namespace bench
