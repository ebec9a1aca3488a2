// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a session makes of the kernel's records, without a kernel: the test makes the records, and its maps are memory.
// That open() and start() find and attach what they need is in tests/integration/bpf_walk_test.py.
#include "bpf/session.h"

#include "abi/handles.h"
#include "base/clock.h"
#include "process_testing.h"
#include "support/fake_bpf_maps.h"
#include "support/opened_process.h"

#include <dwunw/process.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>

namespace dwunw::bpf {
namespace {

using testing::Child;
using testing::FakeBpfMaps;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kId = uint64_t{1} << 40;

// struct pt_regs by DWARF number; 0xff: none.
constexpr std::array<uint8_t, DWUNW_BPF_PT_REGS> kPtRegs = {15, 14, 13, 12, 6,    3,  11,   10,   9, 8,   0,
                                                            2,  1,  4,  5,  0xff, 16, 0xff, 0xff, 7, 0xff};

[[gnu::noinline]] void wait_deep(const Child::Line &line, int depth) {
    if (depth > 0)
        wait_deep(line, depth - 1);
    else
        line.hear();
    asm volatile("");
}

class SessionTest : public ::testing::Test {
  protected:
    SessionTest()
        : child_([](const Child::Line &line) {
              line.say();
              wait_deep(line, 5);
          }) {
        child_.hear();
        EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK);
        begin(0);
    }
    ~SessionTest() override {
        session_.reset(); // closes its processes before their context ends
        dwunw_shutdown(context_);
    }
    void begin(uint32_t flags) {
        dwunw_bpf_options options{};
        options.size = sizeof(options);
        options.flags = flags;
        session_ = std::make_unique<Session>(context_, nullptr, options);
        EXPECT_FALSE(session_->started());
        auto maps = std::make_unique<FakeBpfMaps>(FakeBpfMaps::Sizes{});
        maps_ = maps.get();
        session_->begin(std::move(maps));
        EXPECT_TRUE(session_->started());
    }
    dwunw_process_slot &add_child() {
        EXPECT_EQ(session_->publisher().add(child_.pid()), DWUNW_OK);
        return maps_->slot_of(child_.pid());
    }
    dwunw_bpf_event head(dwunw_bpf_event_type type) const { return {type, static_cast<uint32_t>(child_.pid())}; }
    template <typename T> void take(const T &record, size_t size = sizeof(T)) { session_->take(&record, size); }
    void take_process(uint64_t exec_pages) {
        take(dwunw_process_event{.head = head(DWUNW_BPF_EVENT_PROCESS), .changes = 0, .exec_pages = exec_pages});
    }
    // A complete stack of the kernel's, at these addresses.
    void take_stack(uint64_t id, std::initializer_list<uint64_t> words, uint64_t layout) {
        dwunw_stack_event event{};
        event.head = head(DWUNW_BPF_EVENT_STACK);
        event.id = id;
        event.layout = layout;
        event.count = static_cast<uint32_t>(words.size());
        std::ranges::copy(words, event.frames);
        take(event, offsetof(dwunw_stack_event, frames) + words.size() * sizeof(uint64_t));
    }
    dwunw_status look_up(uint64_t id) {
        stack_ = {};
        stack_.size = sizeof(stack_);
        return session_->stack_store().lookup(id, stack_, frames_);
    }
    dwunw_bpf_counters counters() {
        dwunw_bpf_counters result{};
        session_->read_counters(result);
        return result;
    }

    Child child_;
    dwunw_context *context_ = nullptr;
    std::unique_ptr<Session> session_;
    FakeBpfMaps *maps_ = nullptr;
    dwunw_bpf_stack stack_{};
    std::array<dwunw_frame, 64> frames_{};
};

// A record for user space to walk: the child, stopped in its read().
class WalkRecordTest : public SessionTest {
  protected:
    WalkRecordTest() : bytes_(sizeof(dwunw_walk_event) + 16384) {
        dwunw_process_options options{};
        options.size = sizeof(options);
        options.pid = child_.pid();
        EXPECT_EQ(dwunw_process_open(context_, &options, &process_), DWUNW_OK);
        EXPECT_TRUE(testing::soon([&] { return fill(); }));
    }
    ~WalkRecordTest() override {
        dwunw_process_resume(stopped_);
        dwunw_process_close(process_);
    }
    // False: the child is not there yet.
    bool fill() {
        dwunw_process_resume(stopped_);
        stopped_ = nullptr;
        dwunw_thread thread{};
        thread.size = sizeof(thread);
        if (dwunw_process_stop(process_, &stopped_) != DWUNW_OK ||
            dwunw_stopped_thread(stopped_, 0, &thread) != DWUNW_OK)
            return false;
        dwunw_walk_event &event = record();
        event = {};
        event.head = head(DWUNW_BPF_EVENT_WALK);
        event.id = kId | DWUNW_BPF_ID_LEFT;
        for (size_t i = 0; i < kPtRegs.size(); ++i)
            event.pt_regs[i] = kPtRegs[i] != 0xff ? thread.regs.regs[kPtRegs[i]] : 0;
        event.pt_regs[17] = 0x33; // 64-bit code
        event.stack_addr = thread.regs.regs[7] - DWUNW_BPF_RED_ZONE;
        event.stack_len = static_cast<uint32_t>(
            dwunw_process_read_memory(process_, event.stack_addr, &event + 1, bytes_.size() - sizeof(event)));
        event.pages = ~0u;
        event.reason = DWUNW_BPF_FORCED;
        dwunw_unwind_request request{};
        request.size = sizeof(request);
        request.options = DWUNW_UNWIND_READ_PROCESS;
        request.process = process_;
        request.regs = &thread.regs;
        request.frames = truth_.data();
        request.max_frames = truth_.size();
        return dwunw_capture(context_, &request, &truth_count_) == DWUNW_OK && truth_count_ > 8;
    }
    dwunw_walk_event &record() { return *reinterpret_cast<dwunw_walk_event *>(bytes_.data()); }
    void take_record() { session_->take(bytes_.data(), sizeof(dwunw_walk_event) + record().stack_len); }
    void expect_the_truth() {
        ASSERT_EQ(look_up(record().id), DWUNW_OK);
        EXPECT_EQ(stack_.status, DWUNW_OK);
        EXPECT_EQ(stack_.pid, child_.pid());
        EXPECT_EQ(stack_.reason, uint32_t{DWUNW_BPF_FORCED});
        ASSERT_EQ(stack_.count, truth_count_);
        for (size_t i = 0; i < truth_count_; ++i) {
            EXPECT_EQ(frames_[i].pc, truth_[i].pc) << i;
            EXPECT_EQ(frames_[i].flags, truth_[i].flags) << i;
        }
    }
    void expect_only_the_first(dwunw_status why) {
        ASSERT_EQ(look_up(record().id), DWUNW_OK);
        EXPECT_EQ(stack_.status, why);
        ASSERT_EQ(stack_.count, 1u);
        EXPECT_EQ(frames_[0].pc, truth_[0].pc);
    }

    alignas(8) std::vector<uint8_t> bytes_;
    dwunw_process *process_ = nullptr;
    dwunw_stopped *stopped_ = nullptr;
    std::array<dwunw_frame, 64> truth_{};
    size_t truth_count_ = 0;
};

TEST_F(SessionTest, MalformedRecordsAreCountedAndDropped) {
    const uint64_t layout = add_child().layout;
    uint64_t expected = 0;
    const auto expect_dropped = [&](const auto &record, size_t size, const char *what) {
        SCOPED_TRACE(what);
        take(record, size);
        EXPECT_EQ(counters().records_malformed, ++expected);
    };
    auto other = head(DWUNW_BPF_EVENT_EXIT);
    expect_dropped(other, sizeof(other) - 1, "a cut head");
    other.type = 77;
    expect_dropped(other, sizeof(other), "an unknown type");

    dwunw_stack_event stack{};
    stack.head = head(DWUNW_BPF_EVENT_STACK);
    stack.id = kId;
    stack.layout = layout;
    stack.count = 2;
    constexpr size_t kHead = offsetof(dwunw_stack_event, frames);
    expect_dropped(stack, kHead - 1, "a cut stack");
    expect_dropped(stack, kHead + 15, "a cut frame");
    struct {
        dwunw_stack_event event;
        uint64_t one_more;
    } longer{stack, 0};
    longer.event.count = DWUNW_BPF_MAX_FRAMES + 1;
    expect_dropped(longer, sizeof(longer), "more frames than there may be");
    stack.layout = 12345;
    expect_dropped(stack, sizeof(stack), "a layout that nobody has");

    std::vector<uint8_t> bytes(sizeof(dwunw_walk_event) + 64);
    auto &walk = *reinterpret_cast<dwunw_walk_event *>(bytes.data());
    walk.head = head(DWUNW_BPF_EVENT_WALK);
    walk.id = kId;
    walk.stack_len = 64;
    expect_dropped(walk, sizeof(walk) - 1, "a cut walk");
    expect_dropped(walk, sizeof(walk) + 63, "a cut slice");
    walk.pending_count = DWUNW_BPF_PENDING_MAX + 1;
    expect_dropped(walk, bytes.size(), "more pending returns than there may be");

    const dwunw_process_event process{head(DWUNW_BPF_EVENT_PROCESS), 0, 0};
    expect_dropped(process, sizeof(process) - 1, "a cut request");

    EXPECT_EQ(look_up(kId), DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ(counters().stacks, 0u);
    EXPECT_NE(session_->publisher().find(child_.pid()), nullptr);
}

TEST_F(SessionTest, AStackOfTheKernelsGetsItsModules) {
    const uint64_t layout = add_child().layout;
    const uint64_t pc = testing::address_of(&wait_deep).value + 4;
    take_stack(kId, {pc | DWUNW_BPF_FRAME_EXACT, pc + 8}, layout);
    ASSERT_EQ(look_up(kId), DWUNW_OK);
    EXPECT_EQ(stack_.status, DWUNW_OK);
    EXPECT_EQ(stack_.pid, child_.pid());
    EXPECT_EQ(stack_.reason, 0u);
    ASSERT_EQ(stack_.count, 2u);
    EXPECT_EQ(frames_[0].pc, pc);
    EXPECT_EQ(frames_[0].flags, uint32_t{DWUNW_FRAME_FLAG_EXACT_PC});
    EXPECT_EQ(frames_[1].pc, pc + 8);
    EXPECT_EQ(frames_[1].flags, 0u);
    for (size_t i = 0; i < 2; ++i) {
        ASSERT_NE(frames_[i].module, nullptr);
        EXPECT_EQ(frames_[i].module->path, std::filesystem::read_symlink("/proc/self/exe").string());
    }
    take_stack(kId, {pc | DWUNW_BPF_FRAME_EXACT, pc + 8}, layout);
    EXPECT_EQ(counters().id_collisions, 0u) << "the kernel may send it twice";
    take_stack(kId, {pc | DWUNW_BPF_FRAME_EXACT, pc + 16}, layout);
    EXPECT_EQ(counters().id_collisions, 1u);
    EXPECT_EQ(counters().stacks, 1u);
}

TEST_F(WalkRecordTest, WithTheMapOfItsLayoutItIsWalkedWhole) {
    record().layout = add_child().layout;
    take_record();
    expect_the_truth();
    EXPECT_EQ(counters().user_walks_complete, 1u);
    EXPECT_EQ(counters().user_walks_stale, 0u);
}

TEST_F(WalkRecordTest, WithTheCountsOfTheMapItIsWalkedWhole) {
    record().exec_pages = add_child().exec_pages;
    take_record();
    expect_the_truth();
}

TEST_F(WalkRecordTest, WithAnotherLayoutItKeepsOnlyItsFirstAddress) {
    record().layout = add_child().layout + 100;
    take_record();
    expect_only_the_first(DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(counters().user_walks_complete, 0u);
    EXPECT_EQ(counters().user_walks_stale, 1u);
}

TEST_F(WalkRecordTest, WithOtherCountsItKeepsOnlyItsFirstAddress) {
    record().exec_pages = add_child().exec_pages;
    record().changes = 5; // a change that the map does not have
    take_record();
    expect_only_the_first(DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(counters().user_walks_stale, 1u);
}

TEST_F(WalkRecordTest, MissingPagesEndTheWalkWhereTheyBegin) {
    record().layout = add_child().layout;
    record().pages = 0;
    take_record();
    ASSERT_EQ(look_up(record().id), DWUNW_OK);
    EXPECT_EQ(stack_.status, DWUNW_ERR_MEMORY_UNREADABLE);
    EXPECT_LT(stack_.count, truth_count_);
}

TEST_F(WalkRecordTest, OfAnUnknownProcessItIsAddedOnRequest) {
    take_record();
    expect_only_the_first(DWUNW_ERR_NO_PROCESS);
    EXPECT_EQ(session_->publisher().size(), 0u);

    begin(DWUNW_BPF_ADD_UNKNOWN);
    take_record();
    EXPECT_EQ(session_->publisher().size(), 1u);
    ASSERT_EQ(look_up(record().id), DWUNW_OK);
    EXPECT_NE(stack_.status, DWUNW_ERR_NO_PROCESS);
}

TEST_F(SessionTest, ARequestForAnUnknownProcessAddsItOnRequest) {
    take_process(10);
    EXPECT_EQ(session_->publisher().size(), 0u);
    begin(DWUNW_BPF_ADD_UNKNOWN);
    take_process(10);
    ASSERT_EQ(session_->publisher().size(), 1u);
    EXPECT_NE(maps_->slot_of(child_.pid()).generation, 0u);
}

TEST_F(SessionTest, ARequestForAValidMapLetsTheKernelAskAgain) {
    dwunw_process_slot &slot = add_child();
    slot.need_sent = 1;
    take_process(slot.exec_pages);
    EXPECT_EQ(slot.need_sent, 0u);
    EXPECT_EQ(session_->publisher().publications(), 1u);
}

TEST_F(SessionTest, ARequestForAStaleMapReadsItAgain) {
    dwunw_process_slot &slot = add_child();
    slot.need_sent = 1;
    slot.changes = 2;
    take_process(slot.exec_pages);
    session_->publisher().look_again(now_ns() + kSecond); // if it was not due at once
    EXPECT_EQ(session_->publisher().publications(), 2u);
    EXPECT_EQ(slot.seen_changes, 2u);
    EXPECT_EQ(slot.need_sent, 0u);
}

TEST_F(SessionTest, AnExitRecordEndsTheProcess) {
    const uint64_t layout = add_child().layout;
    take(head(DWUNW_BPF_EVENT_EXIT));
    EXPECT_EQ(session_->publisher().find(child_.pid()), nullptr);
    const uint64_t pc = testing::address_of(&wait_deep).value + 4;
    take_stack(kId, {pc}, layout); // was overtaken
    EXPECT_EQ(look_up(kId), DWUNW_OK);
    take(head(DWUNW_BPF_EVENT_EXIT));
    EXPECT_EQ(counters().records_malformed, 0u);
}

TEST_F(SessionTest, WhatIsNotRetainedIsForgottenInTwoSteps) {
    const uint64_t layout = add_child().layout;
    const uint64_t pc = testing::address_of(&wait_deep).value + 4;
    take_stack(kId, {pc}, layout);
    take_stack(kId + 1, {pc + 4}, layout);
    const std::array needed = {kId + 7, kId};
    ASSERT_EQ(session_->retain(needed), DWUNW_OK);
    EXPECT_EQ(maps_->forgotten, std::vector{kId + 1});
    EXPECT_EQ(maps_->waits, 1);
    EXPECT_EQ(look_up(kId + 1), DWUNW_OK) << "a program may have got the id just now";
    ASSERT_EQ(session_->retain(needed), DWUNW_OK);
    EXPECT_EQ(look_up(kId + 1), DWUNW_ERR_NOT_FOUND);
    EXPECT_EQ(look_up(kId), DWUNW_OK);
    maps_->can_wait = false;
    EXPECT_EQ(session_->retain(needed), DWUNW_ERR_BPF);
}

TEST_F(SessionTest, TheKernelsCountersHaveTheirPlaces) {
    std::iota(maps_->counters.begin(), maps_->counters.end(), 1000);
    const dwunw_bpf_counters now = counters();
    for (uint64_t reason = 0; reason < DWUNW_BPF_REASONS; ++reason)
        EXPECT_EQ(now.reasons[reason], 1000 + reason);
    const auto expect = [](uint64_t value, dwunw_bpf_counter counter) { EXPECT_EQ(value, 1000u + counter); };
    expect(now.walks, DWUNW_BPF_WALKS);
    expect(now.frames, DWUNW_BPF_FRAMES);
    expect(now.cache_misses, DWUNW_BPF_CACHE_MISSES);
    expect(now.trampoline_frames, DWUNW_BPF_TRAMPOLINE_FRAMES);
    expect(now.new_stacks, DWUNW_BPF_NEW_STACKS);
    expect(now.user_walks, DWUNW_BPF_SENT_WALKS);
    expect(now.deduplicated, DWUNW_BPF_DEDUPLICATED);
    expect(now.failed_inserts, DWUNW_BPF_FAILED_INSERTS);
    expect(now.process_requests, DWUNW_BPF_NEED_PROCESS);
    expect(now.requests_dropped, DWUNW_BPF_NEED_DROPPED);
    expect(now.linker_events, DWUNW_BPF_LINKER_EVENTS);
    expect(now.lost_calls, DWUNW_BPF_LOST_CALLS);
    expect(now.other_stack_calls, DWUNW_BPF_OTHER_STACK_CALLS);
    expect(now.abandoned_calls, DWUNW_BPF_ABANDONED_CALLS);
}

TEST_F(SessionTest, ItDescribesHowItWatches) {
    EXPECT_NE(session_->describe().find("dynamic linker: watched in 0 of 0 processes\n"), std::string::npos);
    add_child();
    EXPECT_NE(session_->describe().find("dynamic linker: watched in 0 of 1 processes\n"), std::string::npos)
        << session_->describe();
    EXPECT_EQ(counters().publications, 1u);
    EXPECT_EQ(counters().memory_bytes, 12345u);
    EXPECT_GT(counters().modules, 3u);
    EXPECT_GT(counters().pool_bytes_used, 0u);
}

} // namespace
} // namespace dwunw::bpf
