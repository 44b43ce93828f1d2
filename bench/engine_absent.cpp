/* SPDX-License-Identifier: MIT */
/* In place of engine_onednn.cpp and chain_onednn.cpp in a build without oneDNN. */
#include "bench_engine.h"
#include "chain_network.h"

namespace bench
{

bool onednn_built()
{
    return false;
}

std::unique_ptr<engine> create_onednn_engine(const options &, doconv_isa)
{
    throw usage_error("--engines: \"onednn\" is not built: configure with oneDNN v3, found by "
                      "pkg-config or -Dcmake_prefix_path, and "
                      "-Donednn=enabled");
}

std::unique_ptr<chain_runner> make_onednn_chain(doconv_context *, const chain &, doconv_layout,
                                                std::string &why)
{
    why = "oneDNN is not built";
    return nullptr;
}

} // namespace bench
