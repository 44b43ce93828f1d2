/* SPDX-License-Identifier: MIT */
/* oneDNN's chains: weights reordered and primitives created beforehand, post-ops fused. */
#include "chain_network.h"
#include "onednn_support.h"

namespace bench
{

namespace
{

using namespace onednn;

class onednn_chain : public chain_runner
{
  public:
    onednn_chain(doconv_context *context, const chain &net, doconv_layout chain_layout)
        : chain_runner(net), on_(open_device())
    {
        size_t scratchpad = 0;
        for (size_t i = 0; i < net.layers.size(); i++) {
            const chain_layer &layer = net.layers[i];
            steps_.push_back(std::make_unique<step>(
                place_layer(context, layer, chain_layout, DOCONV_ACCURACY_DEFAULT)));
            make(layer, *steps_.back(), net.adds_in_place(i));
            scratchpad = std::max(scratchpad, dnnl_memory_desc_get_size(
                                                  query(*steps_.back(), dnnl_query_scratchpad_md)));
        }
        layout = doconv_layout_string(chain_layout);
        scratchpad_ = buffer(scratchpad, buffer::use::weights);
        connect();
    }

  protected:
    void run_layer(size_t i) override
    {
        const step &s = *steps_[i];
        check(dnnl_primitive_execute(s.primitive.get(), on_->stream.get(),
                                     static_cast<int>(s.arguments.size()), s.arguments.data()),
              "execute");
        check(dnnl_stream_wait(on_->stream.get()), "wait");
    }

    std::vector<float> read(size_t i) override
    {
        const step &s = *steps_[i];
        const tensor plain(*on_, describe(s.sizes.dst, dnnl_nchw).get());
        reorder(*on_, s.dst.get(), plain.memory.get());
        return std::vector<float>(plain.data.data(), plain.data.data() + s.p.dst_count());
    }

    void write(size_t bridge, const std::vector<float> &from) override
    {
        const chain_bridge &b = net_.bridges[bridge];
        bring(from, {steps_[0]->p.desc.n, b.channels, b.h, b.w}, dnnl_nchw,
              bridges_[bridge].memory.get());
    }

  private:
    struct step {
        explicit step(const problem &placed) : p(placed), sizes(p)
        {
        }
        problem p;
        shapes sizes;
        owned<dnnl_primitive_desc> pd;
        owned<dnnl_primitive> primitive;
        tensor weight, bias;
        owned<dnnl_memory> src, residual, dst, scratchpad;
        std::vector<dnnl_exec_arg_t> arguments;
    };

    static const_dnnl_memory_desc_t query(const step &s, dnnl_query_t what)
    {
        return dnnl_primitive_desc_query_md(s.pd.get(), what, 0);
    }

    void bring(const std::vector<float> &from, const std::vector<int64_t> &dims,
               dnnl_format_tag_t tag, dnnl_memory_t to)
    {
        const tensor plain(*on_, describe(dims, tag).get());
        std::copy(from.begin(), from.end(), plain.data.data());
        reorder(*on_, plain.memory.get(), to);
    }

    void make(const chain_layer &layer, step &s, bool in_place)
    {
        s.pd = convolution(*on_, s.p, s.sizes, tag_of(s.p.desc.src_layout),
                           tag_of(s.p.desc.dst_layout), in_place);
        if (s.pd == nullptr) {
            throw std::runtime_error(layer.name + ": oneDNN has no implementation");
        }
        dnnl_primitive_t primitive = nullptr;
        check(dnnl_primitive_create(&primitive, s.pd.get()), "convolution");
        s.primitive.reset(primitive);
        s.weight = tensor(*on_, query(s, dnnl_query_weights_md), buffer::use::weights);
        bring(layer.weight, s.sizes.weight, s.sizes.weight_tag, s.weight.memory.get());
        if (s.p.desc.has_bias) {
            s.bias = tensor(*on_, describe(s.sizes.bias, dnnl_a).get());
            std::copy(layer.bias.begin(), layer.bias.end(), s.bias.data.data());
        }
        const char *name = nullptr;
        check(dnnl_primitive_desc_query(s.pd.get(), dnnl_query_impl_info_str, 0, &name),
              "implementation name");
        labels.push_back(name);
    }

    owned<dnnl_memory> memory_at(const_dnnl_memory_desc_t md, float *data) const
    {
        dnnl_memory_t memory = nullptr;
        check(dnnl_memory_create(&memory, md, on_->engine.get(), data), "memory");
        return owned<dnnl_memory>(memory);
    }

    void connect()
    {
        std::vector<size_t> bytes;
        for (const auto &s : steps_) {
            bytes.push_back(dnnl_memory_desc_get_size(query(*s, dnnl_query_dst_md)));
        }
        const chain_places at = place_outputs(net_, bytes);
        for (const size_t size : at.bytes) {
            places_.emplace_back(size, buffer::use::weights);
        }
        step &first = *steps_[0];
        input_ = tensor(*on_, query(first, dnnl_query_src_md), buffer::use::weights);
        bring(net_.input, first.sizes.src, dnnl_nchw, input_.memory.get());
        for (const chain_bridge &b : net_.bridges) {
            const dnnl_format_tag_t tag =
                tag_of(b.inputs[0] < 0 ? first.p.desc.src_layout : first.p.desc.dst_layout);
            bridges_.emplace_back(*on_, describe({first.p.desc.n, b.channels, b.h, b.w}, tag).get(),
                                  buffer::use::weights);
        }
        const auto data = [&](int layer, int bridge) {
            return bridge >= 0 ? bridges_[static_cast<size_t>(bridge)].data.data()
                   : layer < 0 ? input_.data.data()
                               : places_[at.place[static_cast<size_t>(layer)]].data();
        };
        for (size_t i = 0; i < steps_.size(); i++) {
            step &s = *steps_[i];
            const chain_layer &layer = net_.layers[i];
            float *src = data(layer.inputs[0], layer.src_bridge);
            s.src = memory_at(query(s, dnnl_query_src_md), src);
            s.dst = memory_at(query(s, dnnl_query_dst_md), places_[at.place[i]].data());
            s.scratchpad = memory_at(query(s, dnnl_query_scratchpad_md), scratchpad_.data());
            s.arguments = {{DNNL_ARG_SRC, s.src.get()},
                           {DNNL_ARG_WEIGHTS, s.weight.memory.get()},
                           {DNNL_ARG_DST, s.dst.get()},
                           {DNNL_ARG_SCRATCHPAD, s.scratchpad.get()}};
            if (s.p.desc.has_bias) {
                s.arguments.push_back({DNNL_ARG_BIAS, s.bias.memory.get()});
            }
            if (layer.residual >= 0 && !net_.adds_in_place(i)) {
                s.residual = memory_at(query(s, dnnl_query_dst_md),
                                       data(layer.residual, layer.residual_bridge));
                s.arguments.push_back(
                    {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, s.residual.get()});
            }
        }
    }

    std::shared_ptr<const device> on_;
    std::vector<std::unique_ptr<step>> steps_;
    std::vector<buffer> places_;
    std::vector<tensor> bridges_;
    tensor input_;
    buffer scratchpad_;
};

} // namespace

std::unique_ptr<chain_runner> make_onednn_chain(doconv_context *context, const chain &net,
                                                doconv_layout layout, std::string &why)
{
    try {
        return std::make_unique<onednn_chain>(context, net, layout);
    } catch (const std::runtime_error &error) {
        why = error.what();
        return nullptr;
    }
}

} // namespace bench
