// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/layout.h"

#include <gtest/gtest.h>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

const auto *const kA = reinterpret_cast<const dwunw_module *>(0x10);
const auto *const kB = reinterpret_cast<const dwunw_module *>(0x20);

Process::CodeMapping mapping(uint64_t start, uint64_t end, const dwunw_module *module, uint64_t bias = 0) {
    return {RunAddr(start), RunAddr(end),
            process::Binding{module != nullptr ? CodeKind::kModule : CodeKind::kAnonymous, DWUNW_OK, module,
                             LoadBias{bias}},
            nullptr};
}

bool extend(Layout &layout, std::initializer_list<Process::CodeMapping> mappings) {
    return layout.extend(std::vector(mappings));
}

const dwunw_module *at(const Layout &layout, uint64_t address) {
    const auto place = layout.find(RunAddr(address));
    return place ? place->module : nullptr;
}

TEST(Layout, RemembersUnmappedModules) {
    Layout layout(1);
    EXPECT_TRUE(extend(layout, {mapping(100, 200, kA), mapping(300, 400, kB)}));
    EXPECT_TRUE(extend(layout, {mapping(300, 400, kB)}));
    EXPECT_EQ(at(layout, 150), kA);
    EXPECT_EQ(at(layout, 199), kA);
    EXPECT_EQ(at(layout, 399), kB);
    EXPECT_FALSE(layout.find(RunAddr(200)));
    EXPECT_FALSE(layout.find(RunAddr(99)));
    EXPECT_TRUE(extend(layout, {mapping(100, 200, kA)})) << "the same again";
}

TEST(Layout, EndsWhereAnAddressComesToMeanSomethingElse) {
    Layout layout(1);
    ASSERT_TRUE(extend(layout, {mapping(100, 200, kA, 7)}));
    EXPECT_FALSE(extend(layout, {mapping(100, 200, kB, 7)}));
    EXPECT_FALSE(extend(layout, {mapping(100, 200, kA, 8)})) << "elsewhere in the file";
    EXPECT_FALSE(extend(layout, {mapping(199, 300, kB, 7)}));
    EXPECT_FALSE(extend(layout, {mapping(50, 101, kB, 7)}));
    EXPECT_FALSE(extend(layout, {mapping(150, 160, nullptr)}));
    EXPECT_FALSE(extend(layout, {mapping(0, 1000, kB)}));
    EXPECT_FALSE(extend(layout, {mapping(199, 201, kB), mapping(300, 400, kB)}));
    EXPECT_FALSE(layout.find(RunAddr(300))) << "taken in whole or not at all";
    EXPECT_TRUE(extend(layout, {mapping(200, 300, kB), mapping(50, 100, kB)}));
}

TEST(Layout, PartsOfOneMappingBecomeOne) {
    Layout layout(1);
    EXPECT_TRUE(extend(layout, {mapping(100, 150, kA), mapping(180, 200, kA)}));
    EXPECT_TRUE(extend(layout, {mapping(120, 190, kA)}));
    for (const uint64_t address : {100, 149, 150, 179, 180, 199})
        EXPECT_EQ(at(layout, address), kA) << address;
    EXPECT_FALSE(layout.find(RunAddr(200)));
}

} // namespace
} // namespace dwunw::bpf
