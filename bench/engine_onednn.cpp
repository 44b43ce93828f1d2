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

#include "onednn_support.h"

namespace bench
{

namespace
{

using namespace onednn;

/*
 * Implementations tried for each choice of layouts. Reference ones aren't, unless there is no
 * other.
 */
constexpr size_t most_implementations = 6;

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
            reorder(*on_, plain_dst_.memory.get(), dst_.memory.get());
        }
    }

    std::vector<float> result() override
    {
        reorder(*on_, dst_.memory.get(), plain_dst_.memory.get());
        return std::vector<float>(plain_dst_.data.data(), plain_dst_.data.data() + p_.dst_count());
    }

  private:
    void bring(const std::vector<float> &from, const std::vector<int64_t> &dims,
               dnnl_format_tag_t tag, const tensor &to)
    {
        tensor plain(*on_, describe(dims, tag).get());
        std::copy(from.begin(), from.end(), plain.data.data());
        reorder(*on_, plain.memory.get(), to.memory.get());
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
        on_ = open_device();
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

    /* Adds a runner for every implementation of a choice of layouts that no earlier choice gave. */
    void add(const problem &p, const tensors &t, dnnl_format_tag_t src_tag,
             dnnl_format_tag_t dst_tag, std::vector<std::unique_ptr<runner>> &runners)
    {
        const shapes s(p);
        const owned<dnnl_primitive_desc> own = convolution(*on_, p, s, src_tag, dst_tag);
        if (own == nullptr) {
            return;
        }
        dnnl_primitive_desc_t pd = own.get();
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
