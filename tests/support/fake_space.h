// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A fake process for tests of the walk: modules and stack words that the test writes.
#pragma once

#include "cfi_bytes.h"
#include "unwind/address_space.h"
#include "unwind/module_cfi.h"
#include "unwind/registers.h"
#include "unwind/rule_cache.h"
#include "unwind/stack_memory.h"
#include "unwind/table_walk.h"

#include <gtest/gtest.h>

#include <elf.h>

#include <map>
#include <memory>
#include <vector>

namespace dwunw::testing {

class FakeSpace final : public unwind::AddressSpace {
  public:
    // A module mapped at [start, start + size), linked to 0; its rules are `section`'s.
    void add_module(uint64_t start, uint64_t size, const FrameSection &section, uint64_t entry = 0) {
        unwind::CfiInput input;
        input.eh_frame = SectionBytes{section.data(), LinkAddr(0x100000)};
        input.machine = EM_X86_64;
        add_module(start, size, std::move(input), entry);
    }
    void add_module(uint64_t start, uint64_t size, unwind::CfiInput input, uint64_t entry = 0) {
        auto cfi = unwind::ModuleCfi::build(std::move(input));
        ASSERT_TRUE(cfi);
        modules_.emplace_back(std::move(*cfi));
        add({.kind = unwind::CodeKind::kModule,
             .status = DWUNW_OK,
             .cfi = modules_.back(),
             .module = reinterpret_cast<const dwunw_module *>(modules_.back().get()),
             .bias = LoadBias{start},
             .entry = LinkAddr(entry),
             .start = RunAddr(start),
             .end = RunAddr(start + size)});
    }
    // A file without CFI, mapped at its start and linked to 0.
    void add_module_without_cfi(uint64_t start, uint64_t size, uint64_t entry) {
        static const int anything = 0;
        add({.kind = unwind::CodeKind::kModule,
             .status = DWUNW_ERR_NO_CFI,
             .module = reinterpret_cast<const dwunw_module *>(&anything),
             .bias = LoadBias{start},
             .entry = LinkAddr(entry),
             .start = RunAddr(start),
             .end = RunAddr(start + size)});
    }
    // The same module, mapped at another address.
    void add_module_again(uint64_t mapped, uint64_t start) {
        unwind::CodeLocation location = find(RunAddr(mapped));
        location.bias = LoadBias{location.bias.value + (start - location.start.value)};
        location.end = RunAddr(start + (location.end - location.start));
        location.start = RunAddr(start);
        add(location);
    }
    void add_other(unwind::CodeKind kind, uint64_t start, uint64_t size, dwunw_status status = DWUNW_ERR_NO_CFI) {
        add({.kind = kind, .status = status, .start = RunAddr(start), .end = RunAddr(start + size)});
    }
    // Code bytes; all others are 0xcc.
    void set_code(uint64_t address, std::initializer_list<uint8_t> code) {
        for (const uint8_t byte : code)
            code_[address++] = byte;
    }

    unwind::CodeLocation find(RunAddr address) override {
        ++finds;
        for (const unwind::CodeLocation &location : locations_)
            if (address >= location.start && address < location.end)
                return location;
        return {.start = address, .end = address + 1};
    }
    bool read_code(RunAddr address, std::span<uint8_t> buffer) override {
        for (size_t i = 0; i < buffer.size(); ++i) {
            if (find(address + i).kind == unwind::CodeKind::kUnmapped)
                return false;
            const auto found = code_.find(address.value + i);
            buffer[i] = found == code_.end() ? 0xcc : found->second;
        }
        return true;
    }

    Warm warm() override { return {rules.get(), generation, 0}; }
    std::optional<unwind::PlacedModule> place(uint32_t number, uint64_t of) override {
        if (of != generation || number >= locations_.size() || stale)
            return std::nullopt;
        return unwind::PlacedModule{locations_[number].module, locations_[number].bias};
    }
    bool is_warm_code(RunAddr address, uint64_t of) override {
        for (uint32_t i = 0; i < locations_.size(); ++i)
            if (address >= locations_[i].start && address < locations_[i].end)
                return locations_[i].place == i && place(i, of).has_value();
        return false;
    }
    void compile() {
        for (const auto &module : modules_)
            ASSERT_TRUE(module->compile());
    }

    size_t finds = 0;
    // A warm walk needs rules to remember.
    std::unique_ptr<unwind::RuleCache> rules;
    uint64_t generation = 1;
    bool stale = false; // every place must be checked again

  private:
    void add(unwind::CodeLocation location) {
        if (location.kind == unwind::CodeKind::kModule)
            location.place = static_cast<uint32_t>(locations_.size());
        locations_.push_back(location);
    }
    std::vector<std::shared_ptr<const unwind::ModuleCfi>> modules_;
    std::vector<unwind::CodeLocation> locations_;
    std::map<uint64_t, uint8_t> code_;
};

// What a signal handler may know of such a process: the modules whose tables are compiled.
class FakeTables final : public unwind::TableSpace {
  public:
    explicit FakeTables(FakeSpace &space) : space_(space) {}

    const unwind::TableCode *find(RunAddr address) const override {
        const unwind::CodeLocation found = space_.find(address);
        if (found.kind != unwind::CodeKind::kModule || found.cfi == nullptr || found.cfi->table() == nullptr)
            return nullptr;
        return &known_
                    .insert_or_assign(found.start.value, unwind::TableCode{found.start, found.end, found.module,
                                                                           found.bias, found.cfi->table()})
                    .first->second;
    }

  private:
    FakeSpace &space_;
    mutable std::map<uint64_t, unwind::TableCode> known_;
};

// Words of stack from an address on.
class FakeStack {
  public:
    FakeStack(uint64_t start, size_t words) : start_(start), words_(words) {}

    FakeStack &set(uint64_t address, uint64_t value) {
        words_.at((address - start_) / 8) = value;
        return *this;
    }
    unwind::StackMemory memory() const { return memory(words_.size() * 8); }
    // Only its first `size` bytes.
    unwind::StackMemory memory(size_t size) const {
        return {RunAddr(start_), std::span(reinterpret_cast<const uint8_t *>(words_.data()), size)};
    }
    size_t bytes() const { return words_.size() * 8; }

  private:
    uint64_t start_;
    std::vector<uint64_t> words_;
};

inline unwind::Registers registers(std::initializer_list<std::pair<Reg, uint64_t>> values) {
    unwind::Registers result;
    for (const auto &[reg, value] : values)
        result.set(reg, value);
    return result;
}

} // namespace dwunw::testing
