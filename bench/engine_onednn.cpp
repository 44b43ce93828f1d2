/* SPDX-License-Identifier: MIT */
/*
 * oneDNN through its C API, at its best: primitives created and weights reordered beforehand, a
 * scratchpad of our own, and where it may choose, every layout and implementation that it offers.
 */
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include "bench_engine.h"

namespace bench
{

namespace
{

/*
 * Implementations tried for each choice of layouts. Reference ones aren't, unless there is no
 * other.
 */
constexpr size_t most_implementations = 6;

void check(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success) {
        throw std::runtime_error(std::string("oneDNN: ") + what + ": " + dnnl_status2str(status));
    }
}

template <class T> struct destroyer;
#define DESTROYER(type, function)                                                                  \
    template <> struct destroyer<type> {                                                           \
        void operator()(type *p) const                                                             \
        {                                                                                          \
            function(p);                                                                           \
        }                                                                                          \
    };
DESTROYER(dnnl_engine, dnnl_engine_destroy)
DESTROYER(dnnl_stream, dnnl_stream_destroy)
DESTROYER(dnnl_memory_desc, dnnl_memory_desc_destroy)
DESTROYER(dnnl_memory, dnnl_memory_destroy)
DESTROYER(dnnl_primitive_attr, dnnl_primitive_attr_destroy)
DESTROYER(dnnl_post_ops, dnnl_post_ops_destroy)
DESTROYER(dnnl_primitive_desc, dnnl_primitive_desc_destroy)
DESTROYER(dnnl_primitive, dnnl_primitive_destroy)
#undef DESTROYER
template <class T> using owned = std::unique_ptr<T, destroyer<T>>;
/* Runners share it: it must outlive their primitives. The stream goes before its engine. */
struct device {
    owned<dnnl_engine> engine;
    owned<dnnl_stream> stream;
};

owned<dnnl_memory_desc> describe(const std::vector<int64_t> &dims, dnnl_format_tag_t tag)
{
    dnnl_dims_t sizes = {};
    std::copy(dims.begin(), dims.end(), sizes);
    dnnl_memory_desc_t md = nullptr;
    check(
        dnnl_memory_desc_create_with_tag(&md, static_cast<int>(dims.size()), sizes, dnnl_f32, tag),
        "memory descriptor");
    return owned<dnnl_memory_desc>(md);
}

owned<dnnl_memory_desc> clone(const_dnnl_memory_desc_t md)
{
    dnnl_memory_desc_t copy = nullptr;
    check(dnnl_memory_desc_clone(&copy, md), "memory descriptor");
    return owned<dnnl_memory_desc>(copy);
}

/* Memory of a descriptor, in a buffer of ours. */
struct tensor {
    tensor() = default;
    tensor(const device &on, const_dnnl_memory_desc_t md, buffer::use what = buffer::use::any)
        : data(dnnl_memory_desc_get_size(md), what)
    {
        dnnl_memory_t m = nullptr;
        check(dnnl_memory_create(&m, md, on.engine.get(), data.data()), "memory");
        memory.reset(m);
    }
    buffer data;
    owned<dnnl_memory> memory;
};

void reorder(const device &on, const tensor &from, const tensor &to)
{
    const_dnnl_memory_desc_t from_md = nullptr, to_md = nullptr;
    check(dnnl_memory_get_memory_desc(from.memory.get(), &from_md), "reorder");
    check(dnnl_memory_get_memory_desc(to.memory.get(), &to_md), "reorder");
    dnnl_primitive_desc_t pd = nullptr;
    check(dnnl_reorder_primitive_desc_create(&pd, from_md, on.engine.get(), to_md, on.engine.get(),
                                             nullptr),
          "reorder");
    const owned<dnnl_primitive_desc> own_pd(pd);
    dnnl_primitive_t primitive = nullptr;
    check(dnnl_primitive_create(&primitive, pd), "reorder");
    const owned<dnnl_primitive> own_primitive(primitive);
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from.memory.get()},
                                         {DNNL_ARG_TO, to.memory.get()}};
    check(dnnl_primitive_execute(primitive, on.stream.get(), 2, arguments), "reorder");
    check(dnnl_stream_wait(on.stream.get()), "reorder");
}

dnnl_format_tag_t tag_of(doconv_layout layout)
{
    switch (layout) {
    case DOCONV_NHWC:
        return dnnl_nhwc;
    case DOCONV_NCHW8C:
        return dnnl_nChw8c;
    case DOCONV_NCHW16C:
        return dnnl_nChw16c;
    default:
        return dnnl_nchw;
    }
}

std::string layout_of(const_dnnl_memory_desc_t md, const std::vector<int64_t> &dims)
{
    const std::pair<dnnl_format_tag_t, const char *> known[] = {{dnnl_nhwc, "nhwc"},
                                                                {dnnl_nchw, "nchw"},
                                                                {dnnl_nChw16c, "nChw16c"},
                                                                {dnnl_nChw8c, "nChw8c"},
                                                                {dnnl_nChw4c, "nChw4c"}};
    for (const auto &[tag, name] : known) {
        if (dnnl_memory_desc_equal(md, describe(dims, tag).get())) {
            return name;
        }
    }
    return "other";
}

/* The shapes of a problem as oneDNN wants them. */
struct shapes {
    explicit shapes(const problem &p)
    {
        const doconv_conv_desc &d = p.desc;
        src = {d.n, d.cin, d.h, d.w};
        dst = {d.n, d.cout, p.hout, p.wout};
        weight = {d.cout / d.groups, d.cin / d.groups, d.kh, d.kw};
        if (d.groups > 1) {
            weight.insert(weight.begin(), d.groups);
        } else {
            weight[0] = d.cout;
        }
        weight_tag = d.groups > 1 ? dnnl_goihw : dnnl_oihw;
        bias = {d.cout};
        strides[0] = d.stride_h, strides[1] = d.stride_w;
        dilates[0] = d.dilation_h - 1, dilates[1] = d.dilation_w - 1;
        left[0] = d.pad_top, left[1] = d.pad_left;
        right[0] = d.pad_bottom, right[1] = d.pad_right;
    }
    std::vector<int64_t> src, dst, weight, bias;
    dnnl_format_tag_t weight_tag;
    dnnl_dims_t strides = {}, dilates = {}, left = {}, right = {};
};

class onednn_runner : public runner
{
  public:
    onednn_runner(std::shared_ptr<const device> on, const problem &p, const shapes &s,
                  const tensors &t, const_dnnl_primitive_desc_t pd)
        : on_(std::move(on)), p_(p)
    {
        dnnl_primitive_t primitive = nullptr;
        check(dnnl_primitive_create(&primitive, pd), "convolution");
        primitive_.reset(primitive);
        const_dnnl_memory_desc_t src_md = dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
        const_dnnl_memory_desc_t dst_md = dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
        src_ = tensor(*on_, src_md);
        weight_ = tensor(*on_, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0),
                         buffer::use::weights);
        dst_ = tensor(*on_, dst_md);
        scratchpad_ = tensor(*on_, dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
        plain_dst_ = tensor(*on_, describe(s.dst, dnnl_nchw).get());
        bring(t.src, s.src, dnnl_nchw, src_);
        bring(t.weight, s.weight, s.weight_tag, weight_);
        arguments_ = {{DNNL_ARG_SRC, src_.memory.get()},
                      {DNNL_ARG_WEIGHTS, weight_.memory.get()},
                      {DNNL_ARG_DST, dst_.memory.get()},
                      {DNNL_ARG_SCRATCHPAD, scratchpad_.memory.get()}};
        if (p.desc.has_bias) {
            bias_ = tensor(*on_, describe(s.bias, dnnl_a).get());
            std::copy(t.bias.begin(), t.bias.end(), bias_.data.data());
            arguments_.push_back({DNNL_ARG_BIAS, bias_.memory.get()});
        }
        if (p.desc.residual) {
            residual_ = t.residual;
        }
        const char *name = nullptr;
        check(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name),
              "implementation name");
        label = name;
        layout = layout_pair_name(layout_of(src_md, s.src), layout_of(dst_md, s.dst));
    }

    void run() override
    {
        if (!copies_.empty()) {
            next_ = next_ + 1 < copies_.size() ? next_ + 1 : 0;
            check(dnnl_memory_set_data_handle(weight_.memory.get(), copies_[next_].data()),
                  "weights");
        }
        check(dnnl_primitive_execute(primitive_.get(), on_->stream.get(),
                                     static_cast<int>(arguments_.size()), arguments_.data()),
              "execute");
        check(dnnl_stream_wait(on_->stream.get()), "wait");
    }

    /*
     * One memory object for all: only the weights themselves are cold, nothing that describes them.
     */
    void hold_copies(size_t bytes) override
    {
        const size_t count = copies_for(bytes, weight_.data.bytes());
        if (count == 1) {
            copies_.clear();
            check(dnnl_memory_set_data_handle(weight_.memory.get(), weight_.data.data()),
                  "weights");
            return;
        }
        while (copies_.size() > count) {
            copies_.pop_back();
        }
        copies_.reserve(count);
        while (copies_.size() < count) {
            copies_.emplace_back(weight_.data.bytes(), buffer::use::weights);
            std::copy_n(weight_.data.data(), weight_.data.bytes() / sizeof(float),
                        copies_.back().data());
        }
    }

    size_t copies() const override
    {
        return std::max<size_t>(copies_.size(), 1);
    }

    void arm() override
    {
        if (residual_.empty()) {
            dst_.data.fill(std::numeric_limits<float>::quiet_NaN());
        } else {
            std::copy(residual_.begin(), residual_.end(), plain_dst_.data.data());
            reorder(*on_, plain_dst_, dst_);
        }
    }

    std::vector<float> result() override
    {
        reorder(*on_, dst_, plain_dst_);
        return std::vector<float>(plain_dst_.data.data(), plain_dst_.data.data() + p_.dst_count());
    }

  private:
    void bring(const std::vector<float> &from, const std::vector<int64_t> &dims,
               dnnl_format_tag_t tag, const tensor &to)
    {
        tensor plain(*on_, describe(dims, tag).get());
        std::copy(from.begin(), from.end(), plain.data.data());
        reorder(*on_, plain, to);
    }

    std::shared_ptr<const device> on_;
    const problem &p_;
    owned<dnnl_primitive> primitive_;
    tensor src_, weight_, bias_, dst_, scratchpad_, plain_dst_;
    std::vector<float> residual_; /* NCHW: oneDNN adds to what dst holds */
    std::vector<dnnl_exec_arg_t> arguments_;
    std::vector<buffer> copies_; /* of the weights; none: warm */
    size_t next_ = 0;
};

class onednn_engine : public engine
{
  public:
    onednn_engine()
    {
        auto on = std::make_shared<device>();
        dnnl_engine_t cpu = nullptr;
        check(dnnl_engine_create(&cpu, dnnl_cpu, 0), "engine");
        on->engine.reset(cpu);
        dnnl_stream_t stream = nullptr;
        check(dnnl_stream_create(&stream, cpu, dnnl_stream_in_order), "stream");
        on->stream.reset(stream);
        on_ = on;
    }

    std::string description() const override
    {
        const dnnl_version_t *v = dnnl_version();
        return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
               std::to_string(v->patch);
    }

    std::vector<std::unique_ptr<runner>> prepare(const problem &p, const tensors &t,
                                                 std::string &why) override
    {
        std::vector<std::unique_ptr<runner>> runners;
        seen_.clear();
        for (const auto &[src, dst] : layouts_to_try(p)) {
            add(p, t, tag_of(src), tag_of(dst), runners);
        }
        if (p.free_layout) {
            add(p, t, dnnl_format_tag_any, dnnl_format_tag_any, runners);
        }
        /*
         * Reference implementations are there for completeness only: oneDNN itself takes them last.
         */
        const auto is_reference = [](const std::unique_ptr<runner> &r) {
            return r->label.find("ref") != std::string::npos;
        };
        if (!std::all_of(runners.begin(), runners.end(), is_reference)) {
            runners.erase(std::remove_if(runners.begin(), runners.end(), is_reference),
                          runners.end());
        }
        if (runners.empty()) {
            why = "oneDNN has no implementation";
        }
        return runners;
    }

  private:
    struct known {
        std::string name;
        owned<dnnl_memory_desc> src, weight, dst;
    };

    owned<dnnl_primitive_attr> attributes(const problem &p) const
    {
        dnnl_primitive_attr_t attr = nullptr;
        check(dnnl_primitive_attr_create(&attr), "attributes");
        owned<dnnl_primitive_attr> own(attr);
        check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
              "attributes");
        dnnl_post_ops_t ops = nullptr;
        check(dnnl_post_ops_create(&ops), "post-ops");
        const owned<dnnl_post_ops> own_ops(ops);
        if (p.desc.residual) {
            check(dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef), "post-ops");
        }
        if (p.desc.relu) {
            check(dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_relu, 0.0f, 0.0f), "post-ops");
        }
        if (p.desc.clamp) {
            check(dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_clip, p.desc.clamp_lo,
                                               p.desc.clamp_hi),
                  "post-ops");
        }
        check(dnnl_primitive_attr_set_post_ops(attr, ops), "post-ops");
        return own;
    }

    /* Adds a runner for every implementation of a choice of layouts that no earlier choice gave. */
    void add(const problem &p, const tensors &t, dnnl_format_tag_t src_tag,
             dnnl_format_tag_t dst_tag, std::vector<std::unique_ptr<runner>> &runners)
    {
        const shapes s(p);
        const auto src = describe(s.src, src_tag), dst = describe(s.dst, dst_tag),
                   weight = describe(s.weight, dnnl_format_tag_any);
        const auto bias = p.desc.has_bias ? describe(s.bias, dnnl_a) : nullptr;
        const auto attr = attributes(p);
        dnnl_primitive_desc_t pd = nullptr;
        const dnnl_status_t status = dnnl_convolution_forward_primitive_desc_create(
            &pd, on_->engine.get(), dnnl_forward_inference, dnnl_convolution_direct, src.get(),
            weight.get(), bias.get(), dst.get(), s.strides, s.dilates, s.left, s.right, attr.get());
        if (status == dnnl_unimplemented) {
            return;
        }
        check(status, "convolution");
        const owned<dnnl_primitive_desc> own(pd);
        size_t implementations = 0;
        do {
            const char *name = nullptr;
            check(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name),
                  "implementation name");
            const bool reference = std::string(name).find("ref") != std::string::npos;
            if (reference && !runners.empty()) {
                continue;
            }
            const_dnnl_memory_desc_t src_md =
                dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
            const_dnnl_memory_desc_t weight_md =
                dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
            const_dnnl_memory_desc_t dst_md =
                dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
            const bool seen = std::any_of(seen_.begin(), seen_.end(), [&](const known &k) {
                return k.name == name && dnnl_memory_desc_equal(k.src.get(), src_md) &&
                       dnnl_memory_desc_equal(k.weight.get(), weight_md) &&
                       dnnl_memory_desc_equal(k.dst.get(), dst_md);
            });
            if (seen) {
                continue;
            }
            seen_.push_back({name, clone(src_md), clone(weight_md), clone(dst_md)});
            runners.push_back(std::make_unique<onednn_runner>(on_, p, s, t, pd));
            implementations++;
        } while (implementations < most_implementations &&
                 dnnl_primitive_desc_next_impl(pd) == dnnl_success);
    }

    std::shared_ptr<const device> on_;
    std::vector<known> seen_;
};

} // namespace

bool onednn_built()
{
    return true;
}

std::unique_ptr<engine> create_onednn_engine(const options &o, doconv_isa isa)
{
    /*
     * Before any other call of oneDNN: it fixes its cap at the first. No cap where doconv uses the
     * CPU's best.
     */
    if (o.isa == DOCONV_ISA_AVX2 || o.isa == DOCONV_ISA_NONE) {
        const dnnl_status_t status =
            dnnl_set_max_cpu_isa(o.isa == DOCONV_ISA_AVX2 ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_sse41);
        if (status != dnnl_success && isa != DOCONV_ISA_NEON) {
            throw usage_error(std::string("--isa=") + doconv_isa_string(o.isa) +
                              ": this oneDNN can't be capped: " + dnnl_status2str(status));
        }
    }
    const unsigned runtime = dnnl_version()->cpu_runtime;
    if (runtime != DNNL_RUNTIME_OMP && o.threads > 1) {
        std::fprintf(stderr,
                     "doconv-bench: this oneDNN isn't built on OpenMP: its threads are its own "
                     "choice, not %d\n",
                     o.threads);
    }
    return std::make_unique<onednn_engine>();
}

} // namespace bench
