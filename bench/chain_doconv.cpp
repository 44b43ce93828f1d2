/* SPDX-License-Identifier: MIT */
#include <stdexcept>

#include "chain_network.h"

namespace bench
{

namespace
{

size_t bytes_of(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    if (doconv_tensor_bytes(layout, n, c, h, w, &bytes) != DOCONV_OK) {
        throw std::bad_alloc();
    }
    return bytes;
}

size_t src_bytes(const doconv_conv_desc &d)
{
    return bytes_of(d.src_layout, d.n, d.cin, d.h, d.w);
}

size_t dst_bytes(const problem &p)
{
    return bytes_of(p.desc.dst_layout, p.desc.n, p.desc.cout, p.hout, p.wout);
}

class doconv_chain : public chain_runner
{
  public:
    doconv_chain(const doconv_engine &engine, const chain &net, doconv_layout chain_layout,
                 doconv_accuracy accuracy)
        : chain_runner(net)
    {
        size_t workspace = 0;
        std::vector<size_t> bytes;
        for (const chain_layer &layer : net.layers) {
            steps_.push_back(std::make_unique<step>());
            step &s = *steps_.back();
            s.p = place_layer(engine.context(), layer, chain_layout, accuracy);
            double seconds = 0;
            s.plan.reset(engine.plan(s.p, seconds));
            doconv_weights *weights = nullptr;
            if (doconv_weights_create(s.plan.get(), layer.weight.data(),
                                      s.p.desc.has_bias ? layer.bias.data() : nullptr,
                                      &weights) != DOCONV_OK) {
                throw std::runtime_error(layer.name + ": weights");
            }
            s.weights.reset(weights);
            workspace = std::max(workspace, doconv_plan_workspace_size(s.plan.get()));
            bytes.push_back(dst_bytes(s.p));
            labels.push_back(doconv_plan_variant(s.plan.get()));
            predicted.push_back(seconds);
        }
        if (std::any_of(predicted.begin(), predicted.end(), [](double s) { return s <= 0; })) {
            predicted.clear();
        }
        layout = doconv_layout_string(chain_layout);
        workspace_ = buffer(workspace, buffer::use::weights);
        connect(bytes);
    }

  protected:
    void run_layer(size_t i) override
    {
        const step &s = *steps_[i];
        const doconv_status status =
            doconv_execute(s.plan.get(), s.weights.get(), s.src, s.residual, s.dst,
                           workspace_.data(), workspace_.bytes());
        if (status != DOCONV_OK) {
            throw std::runtime_error(labels[i] + ": " + doconv_status_string(status));
        }
    }

    std::vector<float> read(size_t i) override
    {
        const problem &p = steps_[i]->p;
        std::vector<float> y(static_cast<size_t>(p.dst_count()));
        doconv_reorder(p.desc.dst_layout, DOCONV_NCHW, p.desc.n, p.desc.cout, p.hout, p.wout,
                       steps_[i]->dst, y.data());
        return y;
    }

    void write(size_t bridge, const std::vector<float> &from) override
    {
        const chain_bridge &b = net_.bridges[bridge];
        doconv_reorder(DOCONV_NCHW, bridge_layout(b), steps_[0]->p.desc.n, b.channels, b.h, b.w,
                       from.data(), bridges_[bridge].data());
    }

  private:
    struct step {
        problem p;
        std::unique_ptr<doconv_plan, void (*)(doconv_plan *)> plan{nullptr, doconv_plan_destroy};
        std::unique_ptr<doconv_weights, void (*)(doconv_weights *)> weights{nullptr,
                                                                            doconv_weights_destroy};
        const float *src = nullptr, *residual = nullptr;
        float *dst = nullptr;
    };

    doconv_layout bridge_layout(const chain_bridge &b) const
    {
        const doconv_conv_desc &first = steps_[0]->p.desc;
        return b.inputs[0] < 0 ? first.src_layout : first.dst_layout;
    }

    void connect(const std::vector<size_t> &bytes)
    {
        const chain_places at = place_outputs(net_, bytes);
        for (const size_t size : at.bytes) {
            places_.emplace_back(size, buffer::use::weights);
        }
        const doconv_conv_desc &first = steps_[0]->p.desc;
        input_ = buffer(src_bytes(first), buffer::use::weights);
        doconv_reorder(DOCONV_NCHW, first.src_layout, first.n, first.cin, first.h, first.w,
                       net_.input.data(), input_.data());
        for (const chain_bridge &b : net_.bridges) {
            bridges_.emplace_back(bytes_of(bridge_layout(b), first.n, b.channels, b.h, b.w),
                                  buffer::use::weights);
        }
        const auto data = [&](int layer, int bridge) {
            return bridge >= 0 ? bridges_[static_cast<size_t>(bridge)].data()
                   : layer < 0 ? input_.data()
                               : places_[at.place[static_cast<size_t>(layer)]].data();
        };
        for (size_t i = 0; i < steps_.size(); i++) {
            const chain_layer &layer = net_.layers[i];
            step &s = *steps_[i];
            s.src = data(layer.inputs[0], layer.src_bridge);
            s.residual =
                layer.residual >= 0 ? data(layer.residual, layer.residual_bridge) : nullptr;
            s.dst = data(static_cast<int>(i), -1);
        }
    }

    std::vector<std::unique_ptr<step>> steps_;
    std::vector<buffer> places_, bridges_;
    buffer input_, workspace_;
};

} // namespace

std::unique_ptr<chain_runner> make_doconv_chain(const doconv_engine &engine, const chain &net,
                                                doconv_layout layout, doconv_accuracy accuracy,
                                                std::string &why)
{
    try {
        return std::make_unique<doconv_chain>(engine, net, layout, accuracy);
    } catch (const std::runtime_error &error) {
        why = error.what();
        return nullptr;
    }
}

} // namespace bench
