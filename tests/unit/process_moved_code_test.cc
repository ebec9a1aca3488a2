// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Code that a program has moved to memory without a file: where it may lie, and that every byte is compared.
#include "process/moved_code.h"

#include "moved_code_testing.h"
#include "process/file_source.h"
#include "process/process.h"

namespace dwunw::process {
namespace {

using testing::change_nothing;
using testing::Child;
using testing::MovableCode;
using testing::soon;
using testing::take;
using unwind::CodeKind;

constexpr uint64_t kPage = 4096;

Maps maps_of(std::string_view text) { return take(Maps::parse({text.begin(), text.end()}, Maps::Order::kStrict)); }

const Mapping &anonymous_of(const Maps &maps) {
    for (const Mapping &mapping : maps.mappings())
        if (mapping.kind == Mapping::Kind::kAnonymous && mapping.executable)
            return mapping;
    std::abort();
}

TEST(MovedCode, TheFilesBesideAHoleMayBeItsFile) {
    const Maps maps = maps_of("1000-2000 r--p 00000000 08:01 7 /a\n"
                              "2000-3000 r-xp 00000000 00:00 0 \n"
                              "3000-4000 r--p 00002000 08:01 7 /a\n"
                              "4000-5000 rw-p 00003000 08:01 8 /b\n");
    const auto found = moved_code_neighbours(maps, anonymous_of(maps));
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0]->start, RunAddr(0x1000));
    EXPECT_EQ(found[1]->start, RunAddr(0x3000));
}

TEST(MovedCode, OtherMemoryMayLieBetween) {
    const Maps maps = maps_of("1000-2000 r--p 00000000 08:01 7 /a\n"
                              "2000-3000 rw-p 00000000 00:00 0 \n"
                              "3000-4000 rw-s 00000000 00:01 9 /memfd:jit (deleted)\n"
                              "4000-5000 r-xp 00000000 00:00 0 \n"
                              "6000-7000 rw-p 00000000 00:00 0 [heap]\n");
    const auto found = moved_code_neighbours(maps, anonymous_of(maps));
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0]->start, RunAddr(0x1000));
}

TEST(MovedCode, WritableMemoryIsNotMovedCode) {
    for (const char *how : {"rwxp", "--xp"}) {
        const Maps maps =
            maps_of("1000-2000 r--p 00000000 08:01 7 /a\n2000-3000 " + std::string(how) + " 00000000 00:00 0 \n");
        EXPECT_TRUE(moved_code_neighbours(maps, anonymous_of(maps)).empty()) << how;
    }
}

class PlacedCode : public ::testing::Test {
  protected:
    PlacedCode() : source_(take(FileSource::open(PLUGIN_MOVED))), image_(take(elf::Image::parse(source_))) {
        for (const elf::Segment &segment : image_.load_segments())
            if (segment.executable)
                text_ = segment;
        first_ = text_.address.value & ~(kPage - 1);
        last_ = (text_.address.value + text_.file_size + kPage - 1) & ~(kPage - 1);
    }
    std::optional<MovedCode> place(uint64_t link_start, uint64_t link_end) const {
        Mapping mapping;
        mapping.start = kBias.run(LinkAddr(link_start));
        mapping.end = kBias.run(LinkAddr(link_end));
        return place_moved_code(image_, kBias, mapping);
    }

    static constexpr LoadBias kBias{0x7f0000000000};
    FileSource source_;
    elf::Image image_;
    elf::Segment text_;
    uint64_t first_;
    uint64_t last_;
};

TEST_F(PlacedCode, LiesWithinAnExecutableSegment) {
    const auto all = place(first_, last_);
    ASSERT_TRUE(all);
    EXPECT_EQ(all->offset.value, text_.offset.value & ~(kPage - 1));
    EXPECT_EQ(all->length, text_.address.value + text_.file_size - first_) << "to the segment's end, not the page's";
    EXPECT_FALSE(place(first_ - kPage, last_));
    EXPECT_FALSE(place(first_, last_ + kPage));
    EXPECT_FALSE(place(last_, last_ + kPage));
    EXPECT_FALSE(place(0, kPage)) << "the headers are no code";
    EXPECT_FALSE(place(~uint64_t{0} - kPage + 1, 0x1000));
}

// A target that holds these bytes, and can read the first `readable` of them.
class HeldMemory final : public Target {
  public:
    HeldMemory(RunAddr start, const std::vector<uint8_t> &bytes, const uint64_t &readable)
        : start_(start), bytes_(bytes), readable_(readable) {}
    size_t read(RunAddr address, std::span<uint8_t> buffer) const override {
        const uint64_t at = address - start_;
        const size_t count = at < readable_ ? std::min<uint64_t>(buffer.size(), readable_ - at) : 0;
        std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(at), count, buffer.begin());
        return count;
    }
    Result<const dwunw_module *> open_module(ModuleStore &, const Maps &, const Mapping &,
                                             OpenedFiles *) const override {
        return Error{DWUNW_ERR_NO_FILE};
    }
    bool still_mapped(const Mapping &) const override { return true; }
    bool has_memory() const override { return true; }
    bool is_left_out(RunAddr) const override { return false; }

  private:
    RunAddr start_;
    const std::vector<uint8_t> &bytes_;
    const uint64_t &readable_;
};

TEST_F(PlacedCode, EveryByteIsCompared) {
    const auto code = place(first_, last_);
    ASSERT_TRUE(code);
    std::vector<uint8_t> memory(code->length);
    ASSERT_TRUE(source_.read_exactly(code->offset, memory));
    const RunAddr start = kBias.run(LinkAddr(first_));
    uint64_t readable = memory.size();
    const HeldMemory reader(start, memory, readable);
    EXPECT_TRUE(same_bytes(reader, start, source_, *code));
    for (const uint64_t at : {uint64_t{0}, memory.size() / 2, memory.size() - 1}) {
        memory[at] ^= 1;
        EXPECT_FALSE(same_bytes(reader, start, source_, *code)) << at;
        EXPECT_FALSE(same_page(reader, start, source_, *code, start + at)) << at;
        memory[at] ^= 1;
        EXPECT_TRUE(same_page(reader, start, source_, *code, start + at)) << at;
    }
    readable = memory.size() - 1;
    EXPECT_FALSE(same_bytes(reader, start, source_, *code)) << "a byte that cannot be read";
    // A file that has become shorter.
    readable = memory.size();
    const MemorySource cut{std::span(memory).first(memory.size() - 1)};
    EXPECT_FALSE(same_bytes(reader, start, cut, {FileOffset(0), memory.size()}));
}

// A child that loads a library of many pages and moves its code; `change` is done to the copy before it takes the
// code's place. `left`: how much stays a mapping of the file at both ends, as with large pages.
struct Moved {
    explicit Moved(const std::function<void(std::span<uint8_t> copy)> &change, int protection = PROT_READ | PROT_EXEC,
                   size_t left = 0)
        : child([&](const Child::Line &line) {
              MovableCode code;
              line.say(reinterpret_cast<uint64_t>(code.function));
              line.hear();
              code.move(change, protection, left);
              line.say();
              while (line.hear()) { // an instruction is overwritten
                  code.overwrite();
                  line.say();
              }
          }) {
        function = RunAddr(child.hear());
    }
    void move() const {
        child.say();
        child.hear();
    }
    Child child;
    RunAddr function;
};

std::unique_ptr<Process> open_process(ModuleStore &store, pid_t pid) {
    return take(Process::open(store, pid, std::nullopt));
}

// Found in use: node --use-largepages=on, ClickHouse.
TEST(MovedCodeOfAProcess, KeepsItsModule) {
    ModuleStore store;
    const Moved moved(change_nothing);
    const auto before = open_process(store, moved.child.pid())->find(moved.function);
    ASSERT_EQ(before.kind, CodeKind::kModule);
    moved.move();

    const auto process = open_process(store, moved.child.pid());
    const auto after = process->find(moved.function);
    ASSERT_EQ(after.kind, CodeKind::kModule);
    EXPECT_EQ(after.module, before.module);
    EXPECT_EQ(after.bias.value, before.bias.value);
    EXPECT_NE(after.cfi, nullptr);
    EXPECT_NE(after.place, unwind::CodeLocation::kNoPlace);
    std::array<uint8_t, 16> code{};
    std::array<uint8_t, 16> in_memory{};
    EXPECT_TRUE(process->read_code(moved.function, code));
    EXPECT_EQ(process->read_memory(moved.function, in_memory), in_memory.size());
    EXPECT_EQ(code, in_memory);
    const auto module = process->find_module(moved.function);
    ASSERT_TRUE(module);
    EXPECT_EQ(module->address, before.bias.link(moved.function));

    // What is published for the walk in the kernel, and what the kernel counts.
    const auto published = process->code_mappings();
    size_t found = 0;
    for (const auto &mapping : published.mappings)
        if (moved.function >= mapping.start && moved.function < mapping.end) {
            ++found;
            EXPECT_EQ(mapping.binding.module, before.module);
            EXPECT_NE(mapping.cfi, nullptr);
        }
    EXPECT_EQ(found, 1u);

    // A newer map takes it over without another look.
    const uint64_t compared = Pin(*process)->compared;
    EXPECT_NE(compared, 0u);
    ASSERT_TRUE(process->refresh());
    EXPECT_EQ(process->find(moved.function).module, before.module);
    EXPECT_EQ(Pin(*process)->compared, 0u);
}

// Large pages hold the middle of the code: a file's mapping, memory, and the file's again, by one bias.
TEST(MovedCodeOfAProcess, TheMiddleOfItsCode) {
    ModuleStore store;
    const Moved moved(change_nothing, PROT_READ | PROT_EXEC, kPage);
    const auto before = open_process(store, moved.child.pid())->find(moved.function);
    moved.move();
    const auto process = open_process(store, moved.child.pid());
    const auto after = process->find(moved.function);
    ASSERT_EQ(after.kind, CodeKind::kModule);
    EXPECT_EQ(after.start, before.start + kPage);
    EXPECT_EQ(after.end, before.end - kPage);
    for (const RunAddr address : {after.start - 1, after.start, after.end - 1, after.end}) {
        const auto here = process->find(address);
        EXPECT_EQ(here.module, before.module);
        EXPECT_EQ(here.bias.value, before.bias.value);
        uint8_t code = 0;
        uint8_t in_memory = 0;
        EXPECT_TRUE(process->read_code(address, {&code, 1}));
        EXPECT_EQ(process->read_memory(address, {&in_memory, 1}), 1u);
        EXPECT_EQ(code, in_memory);
    }
}

TEST(MovedCodeOfAProcess, OneByteThatDiffersIsOtherCode) {
    ModuleStore store;
    for (const bool in_the_first_page : {true, false}) {
        const Moved moved([&](std::span<uint8_t> copy) { copy[in_the_first_page ? 0 : copy.size() / 2] ^= 1; });
        moved.move();
        EXPECT_EQ(open_process(store, moved.child.pid())->find(moved.function).kind, CodeKind::kAnonymous);
    }
}

TEST(MovedCodeOfAProcess, WritableMemoryIsOtherCode) {
    ModuleStore store;
    const Moved moved(change_nothing, PROT_READ | PROT_WRITE | PROT_EXEC);
    moved.move();
    EXPECT_EQ(open_process(store, moved.child.pid())->find(moved.function).kind, CodeKind::kAnonymous);
}

TEST(MovedCodeOfAProcess, OverwrittenLaterItIsOtherCode) {
    ModuleStore store;
    const Moved moved(change_nothing);
    moved.move();
    const auto process = open_process(store, moved.child.pid());
    ASSERT_EQ(process->find(moved.function).kind, CodeKind::kModule);
    moved.child.say();
    moved.child.hear();
    EXPECT_TRUE(soon([&] {
        const auto now = process->find(moved.function);
        return now.kind == CodeKind::kAnonymous;
    }));
    // And back.
    moved.child.say();
    moved.child.hear();
    ASSERT_TRUE(process->refresh());
    EXPECT_EQ(process->find(moved.function).kind, CodeKind::kModule);
}

// A process that maps much to be compared must not keep us at it.
TEST(MovedCodeOfAProcess, SoMuchIsComparedAndNoMore) {
    ModuleStore store;
    const Moved moved(change_nothing);
    moved.move();
    const auto process = open_process(store, moved.child.pid());
    Pin(*process)->compared = Snapshot::kMaxCompared;
    EXPECT_EQ(process->find(moved.function).kind, CodeKind::kAnonymous);
    EXPECT_EQ(process->modules_failed(), 1u);
}

} // namespace
} // namespace dwunw::process
