// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/lasting.h"

#include "process/module.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>

namespace dwunw::bpf {
namespace {

using process::Process;
using unwind::CodeKind;

class LastingTest : public ::testing::Test {
  protected:
    // A mapped file; each at a place of its own.
    size_t map(const std::string &path, const std::string &name, std::vector<std::string> needed = {}) {
        auto &module = modules_.emplace_back();
        module.path = path;
        names_[&module] = {name, std::move(needed), true};
        return map(module);
    }
    size_t map(const dwunw_module &module) {
        const uint64_t start = 0x10000 * (mappings_.size() + 1);
        mappings_.push_back({RunAddr(start), RunAddr(start + 0x1000),
                             process::Binding{CodeKind::kModule, DWUNW_OK, &module, LoadBias{start}}, nullptr});
        return mappings_.size() - 1;
    }
    RunAddr address(size_t number) const { return mappings_[number].start; }
    Lasting find(size_t program, size_t linker) {
        return find_lasting(mappings_, address(program) + 0x10, address(linker),
                            [&](const dwunw_module &module) -> const elf::Dynamic & { return names_.at(&module); });
    }

    std::deque<dwunw_module> modules_;
    std::map<const dwunw_module *, elf::Dynamic> names_;
    std::vector<Process::CodeMapping> mappings_;
};

TEST_F(LastingTest, TheProgramAndItsNeededLibraries) {
    const size_t program = map("/bin/program", "", {"libone.so.1", "libc.so.6"});
    const size_t plugin = map("/lib/plugin.so", "", {"libonly.so"});
    map("/lib/libonly.so", "libonly.so");
    const size_t one = map("/lib/libone.so.1.2.3", "libone.so.1", {"libtwo.so", "libc.so.6"});
    const size_t two = map("/opt/libtwo.so", "");
    const size_t libc = map("/lib/libc.so.6", "libc.so.6", {"ld.so"});
    const size_t linker = map("/lib/ld.so", "ld.so");
    const size_t vdso = map("[vdso]", "linux-vdso.so.1");
    const Lasting lasting = find(program, linker);
    EXPECT_EQ(lasting.mappings, (std::vector{program, one, two, libc, linker, vdso}));
    EXPECT_TRUE(lasting.whole);
    EXPECT_EQ(std::ranges::count(lasting.mappings, plugin), 0);
}

// A plugin of a library's name, or the library once more in a namespace of its own: one of the two may go.
TEST_F(LastingTest, OfTwoOfOneNameNeitherIsSaidToStay) {
    const size_t program = map("/bin/program", "", {"libone.so.1"});
    const size_t one = map("/lib/libone.so.1", "libone.so.1");
    const size_t linker = map("/lib/ld.so", "ld.so");
    EXPECT_EQ(find(program, linker).mappings, (std::vector{program, one, linker}));
    const size_t other = map("/plugins/libone.so.1", "");
    EXPECT_EQ(find(program, linker).mappings, (std::vector{program, linker}));
    EXPECT_FALSE(find(program, linker).whole);
    mappings_.erase(mappings_.begin() + static_cast<std::ptrdiff_t>(other));
    map(*mappings_[one].binding.module);
    EXPECT_EQ(find(program, linker).mappings, (std::vector{program, linker}));
}

// The true library may be the one without a readable name, and the one with its name a plugin.
TEST_F(LastingTest, ALibraryWithoutNamesMayBeAny) {
    const size_t program = map("/bin/program", "", {"libone.so.1"});
    map("/plugins/libone.so.1", "");
    const size_t linker = map("/lib/ld.so", "ld.so");
    const size_t unnamed = map("/lib/libstripped.so.1.2.3", "");
    names_[mappings_[unnamed].binding.module].whole = false;
    EXPECT_EQ(find(program, linker).mappings, (std::vector{program, linker}));
    EXPECT_FALSE(find(program, linker).whole);
}

TEST_F(LastingTest, AMissingLibraryIsReported) {
    const size_t program = map("/bin/program", "", {"libgone.so"});
    const size_t linker = map("/lib/ld.so", "ld.so");
    EXPECT_FALSE(find(program, linker).whole);
    EXPECT_EQ(find(program, linker).mappings, (std::vector{program, linker}));
    mappings_[program].binding.kind = CodeKind::kAnonymous;
    EXPECT_EQ(find(program, linker).mappings, (std::vector{linker}));
}

} // namespace
} // namespace dwunw::bpf
