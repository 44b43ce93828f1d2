/* SPDX-License-Identifier: MIT */
/*
 * What engine_onednn.cpp and chain_onednn.cpp, which alone include this, make of oneDNN's C API:
 * owners of its objects, memory in buffers of ours, convolutions of problems.
 */
#ifndef DOCONV_ONEDNN_SUPPORT_H
#define DOCONV_ONEDNN_SUPPORT_H

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include "bench_engine.h"

namespace bench::onednn
{

inline void check(dnnl_status_t status, const char *what)
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

inline owned<dnnl_memory_desc> describe(const std::vector<int64_t> &dims, dnnl_format_tag_t tag)
{
    dnnl_dims_t sizes = {};
    std::copy(dims.begin(), dims.end(), sizes);
    dnnl_memory_desc_t md = nullptr;
    check(
        dnnl_memory_desc_create_with_tag(&md, static_cast<int>(dims.size()), sizes, dnnl_f32, tag),
        "memory descriptor");
    return owned<dnnl_memory_desc>(md);
}

inline owned<dnnl_memory_desc> clone(const_dnnl_memory_desc_t md)
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

inline void reorder(const device &on, dnnl_memory_t from, dnnl_memory_t to)
{
    const_dnnl_memory_desc_t from_md = nullptr, to_md = nullptr;
    check(dnnl_memory_get_memory_desc(from, &from_md), "reorder");
    check(dnnl_memory_get_memory_desc(to, &to_md), "reorder");
    dnnl_primitive_desc_t pd = nullptr;
    check(dnnl_reorder_primitive_desc_create(&pd, from_md, on.engine.get(), to_md, on.engine.get(),
                                             nullptr),
          "reorder");
    const owned<dnnl_primitive_desc> own_pd(pd);
    dnnl_primitive_t primitive = nullptr;
    check(dnnl_primitive_create(&primitive, pd), "reorder");
    const owned<dnnl_primitive> own_primitive(primitive);
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    check(dnnl_primitive_execute(primitive, on.stream.get(), 2, arguments), "reorder");
    check(dnnl_stream_wait(on.stream.get()), "reorder");
}

inline dnnl_format_tag_t tag_of(doconv_layout layout)
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

inline std::string layout_of(const_dnnl_memory_desc_t md, const std::vector<int64_t> &dims)
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

/* An engine of the CPU and its stream. */
inline std::shared_ptr<const device> open_device()
{
    auto on = std::make_shared<device>();
    dnnl_engine_t cpu = nullptr;
    check(dnnl_engine_create(&cpu, dnnl_cpu, 0), "engine");
    on->engine.reset(cpu);
    dnnl_stream_t stream = nullptr;
    check(dnnl_stream_create(&stream, cpu, dnnl_stream_in_order), "stream");
    on->stream.reset(stream);
    return on;
}

/*
 * A scratchpad of the caller's, and the post-ops. A residual is what dst holds (in_place), or a
 * tensor like dst that the first of these reads.
 */
inline owned<dnnl_primitive_attr> attributes(const problem &p, bool in_place,
                                             const_dnnl_memory_desc_t dst)
{
    dnnl_primitive_attr_t attr = nullptr;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    owned<dnnl_primitive_attr> own(attr);
    check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "attributes");
    dnnl_post_ops_t ops = nullptr;
    check(dnnl_post_ops_create(&ops), "post-ops");
    const owned<dnnl_post_ops> own_ops(ops);
    if (p.desc.residual && in_place) {
        check(dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef), "post-ops");
    } else if (p.desc.residual) {
        check(dnnl_post_ops_append_binary(ops, dnnl_binary_add, dst), "post-ops");
    }
    if (p.desc.relu) {
        check(dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_relu, 0.0f, 0.0f), "post-ops");
    }
    if (p.desc.clamp) {
        check(
            dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_clip, p.desc.clamp_lo, p.desc.clamp_hi),
            "post-ops");
    }
    check(dnnl_primitive_attr_set_post_ops(attr, ops), "post-ops");
    return own;
}

/*
 * Its convolution, by the implementation that oneDNN prefers and any layout of weights; NULL if it
 * has none. in_place: a residual is what dst holds.
 */
inline owned<dnnl_primitive_desc> convolution(const device &on, const problem &p, const shapes &s,
                                              dnnl_format_tag_t src_tag, dnnl_format_tag_t dst_tag,
                                              bool in_place = true)
{
    const auto src = describe(s.src, src_tag), dst = describe(s.dst, dst_tag),
               weight = describe(s.weight, dnnl_format_tag_any);
    const auto bias = p.desc.has_bias ? describe(s.bias, dnnl_a) : nullptr;
    const auto attr = attributes(p, in_place, dst.get());
    dnnl_primitive_desc_t pd = nullptr;
    const dnnl_status_t status = dnnl_convolution_forward_primitive_desc_create(
        &pd, on.engine.get(), dnnl_forward_inference, dnnl_convolution_direct, src.get(),
        weight.get(), bias.get(), dst.get(), s.strides, s.dilates, s.left, s.right, attr.get());
    if (status == dnnl_unimplemented) {
        return nullptr;
    }
    check(status, "convolution");
    return owned<dnnl_primitive_desc>(pd);
}

} // namespace bench::onednn

#endif
