// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/held_tables.h"

#include "process/module_store.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

namespace dwunw::process {
namespace {

RunAddr address_of(const void *pointer) { return RunAddr(reinterpret_cast<uint64_t>(pointer)); }

class HeldTablesTest : public ::testing::Test {
  protected:
    void SetUp() override {
        auto opened = Process::open(store_, ::getpid(), std::nullopt);
        ASSERT_TRUE(opened);
        process_ = std::move(*opened);
    }
    std::unique_ptr<const HeldTables> tables() {
        auto made = HeldTables::of(*process_);
        EXPECT_TRUE(made);
        return made ? std::move(*made) : nullptr;
    }

    ModuleStore store_;
    std::unique_ptr<Process> process_;
};

TEST_F(HeldTablesTest, KnowEveryModulesCode) {
    const auto held = tables();
    ASSERT_NE(held, nullptr);
    for (const void *code : {reinterpret_cast<const void *>(&::qsort), reinterpret_cast<const void *>(&::dlopen),
                             reinterpret_cast<const void *>(&Process::binding)}) {
        const auto expected = process_->find_module(address_of(code));
        ASSERT_TRUE(expected);
        const unwind::TableCode *found = held->find(address_of(code));
        ASSERT_NE(found, nullptr);
        EXPECT_EQ(found->module, expected->module);
        EXPECT_EQ(found->bias.link(address_of(code)), expected->address);
        EXPECT_EQ(found->table->lookup(expected->address).status, DWUNW_OK);
        EXPECT_LE(found->start, address_of(code));
        EXPECT_GT(found->end, address_of(code));
    }
    int here = 0;
    EXPECT_EQ(held->find(address_of(&here)), nullptr) << "no code";
    EXPECT_EQ(held->find(RunAddr(16)), nullptr);
    EXPECT_EQ(held->find(RunAddr(~uint64_t{0})), nullptr);
}

// What is loaded later is not known; what is unloaded is not known any more, within the time that answers hold.
TEST_F(HeldTablesTest, AModuleThatComesAndGoes) {
    const auto before = tables();
    void *plugin = ::dlopen(PLUGIN_A, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(plugin, nullptr) << ::dlerror();
    const RunAddr code = address_of(::dlsym(plugin, "plugin_value"));
    EXPECT_EQ(before->find(code), nullptr);
    const auto after = tables();
    const unwind::TableCode *found = after->find(code);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->module->path, PLUGIN_A);
    ASSERT_EQ(::dlclose(plugin), 0);
    while (after->find(code) != nullptr) {
        // until the answer is verified
    }
    EXPECT_NE(before->find(address_of(reinterpret_cast<const void *>(&::qsort))), nullptr);
}

TEST_F(HeldTablesTest, OfAMapWithoutAProcess) {
    std::ifstream file("/proc/self/maps");
    const std::string map{std::istreambuf_iterator<char>(file), {}};
    auto opened = Process::open(store_, 0, map);
    ASSERT_TRUE(opened);
    auto made = HeldTables::of(**opened);
    ASSERT_TRUE(made);
    EXPECT_NE((*made)->find(address_of(reinterpret_cast<const void *>(&::qsort))), nullptr);
    EXPECT_EQ((*made)->find(RunAddr(16)), nullptr);
}

// The budget of tables drops others.
TEST(HeldTables, OutliveTheBudget) {
    ModuleStore store(1);
    auto opened = Process::open(store, ::getpid(), std::nullopt);
    ASSERT_TRUE(opened);
    auto made = HeldTables::of(**opened);
    ASSERT_TRUE(made);
    store.wait_for_tables();
    const RunAddr code = address_of(reinterpret_cast<const void *>(&::qsort));
    const unwind::TableCode *found = (*made)->find(code);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->table->lookup(found->bias.link(code)).status, DWUNW_OK);
}

} // namespace
} // namespace dwunw::process
