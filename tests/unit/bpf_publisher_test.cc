// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What the publisher writes for the kernel, read back from maps without a kernel: of a child that maps, unmaps and
// executes when it is told to. The kernel's counts of changes and execs are the test's.
#include "bpf/publisher.h"

#include "base/clock.h"
#include "bpf/table_encoding.h"
#include "process_testing.h"
#include "support/fake_bpf_maps.h"
#include "support/opened_process.h"

#include <algorithm>

namespace dwunw::bpf {
namespace {

using testing::Child;
using testing::FakeBpfMaps;
using testing::MappedCode;

constexpr uint64_t kSecond = 1'000'000'000;

enum Command : uint64_t { kMapA, kMapBInItsPlace, kUnmapIt, kMapAnonymous, kExecute };

// A child that does what it is told, and says when it is done.
void obey(const Child::Line &line) {
    std::optional<MappedCode> code;
    for (uint64_t command = 0; line.hear(&command); line.say()) {
        switch (command) {
        case kMapA:
            code.emplace(PLUGIN_A);
            break;
        case kMapBInItsPlace:
            MappedCode(PLUGIN_B, code->address());
            break;
        case kUnmapIt:
            code->unmap();
            break;
        case kMapAnonymous: { // pages apart from each other
            const size_t page = testing::page_size();
            auto *pages =
                static_cast<uint8_t *>(::mmap(nullptr, 16 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            for (size_t i = 0; i < 16; i += 2)
                ::mprotect(pages + i * page, page, PROT_READ | PROT_EXEC);
            break;
        }
        case kExecute: // cat sends back what it is sent
            ::dup2(line.in.get(), STDIN_FILENO);
            ::dup2(line.out.get(), STDOUT_FILENO);
            ::execl("/bin/cat", "cat", nullptr);
            ::_exit(1);
        default:
            ::_exit(1);
        }
    }
}

class PublisherTest : public ::testing::Test {
  protected:
    PublisherTest() { EXPECT_EQ(dwunw_init(nullptr, &context_), DWUNW_OK); }
    ~PublisherTest() override {
        publisher_.reset(); // closes its processes before their context ends
        dwunw_shutdown(context_);
    }
    void begin(const FakeBpfMaps::Sizes &sizes = {}, uint32_t first_generation = 1) {
        maps_ = std::make_unique<FakeBpfMaps>(sizes);
        publisher_ = std::make_unique<Publisher>(context_, *maps_, std::nullopt, first_generation);
    }
    static void tell(const Child &child, Command command) {
        child.say(command);
        child.hear();
    }
    dwunw_status publish(const Child &child) { return publisher_->publish(*publisher_->find(child.pid())); }
    dwunw_process_slot &slot(const Child &child) { return maps_->slot_of(child.pid()); }
    process::Process::CodeMappings code_of(const Child &child) {
        return publisher_->find(child.pid())->process->impl->code_mappings();
    }
    // Every executable mapping is there, in order, and each module's table is in the pool.
    void expect_published_whole(const Child &child) {
        const auto code = code_of(child);
        const auto published = maps_->mappings_of(child.pid());
        ASSERT_EQ(published.size(), code.mappings.size());
        size_t modules = 0;
        for (size_t i = 0; i < published.size(); ++i) {
            EXPECT_EQ(published[i].start, code.mappings[i].start.value);
            EXPECT_EQ(published[i].end, code.mappings[i].end.value);
            EXPECT_NE(slot(child).code_filter >> DWUNW_BPF_FILTER_BIT(published[i].start) & 1, 0u);
            if (code.mappings[i].cfi == nullptr) {
                EXPECT_NE(published[i].kind, uint32_t{DWUNW_MAPPING_MODULE});
                continue;
            }
            ++modules;
            ASSERT_EQ(published[i].kind, uint32_t{DWUNW_MAPPING_MODULE});
            const unwind::Table &table = **code.mappings[i].cfi->compile();
            EXPECT_EQ(published[i].origin, code.mappings[i].binding.bias.run(table.base()).value);
            const auto cells = table_cells(table);
            EXPECT_TRUE(std::ranges::equal(cells, maps_->pool().subspan(published[i].table, cells.size()))) << i;
        }
        EXPECT_GT(modules, 3u) << "the program, libc, the linker, the vDSO";
        EXPECT_EQ(slot(child).exec_pages, code.exec_pages);
        EXPECT_EQ(slot(child).lock % 2, 0u);
        EXPECT_EQ(slot(child).need_sent, 0u);
        EXPECT_EQ(slot(child).incomplete, 0u);
    }

    dwunw_context *context_ = nullptr;
    std::unique_ptr<FakeBpfMaps> maps_;
    std::unique_ptr<Publisher> publisher_;
};

TEST_F(PublisherTest, AnAddedProcessIsPublishedWhole) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_EQ(slot(child).tgid, static_cast<uint32_t>(child.pid()));
    expect_published_whole(child);
    EXPECT_NE(slot(child).generation, 0u);
    EXPECT_NE(slot(child).lasting_generation, 0u);
    EXPECT_NE(slot(child).lasting_generation, slot(child).generation);
    EXPECT_NE(slot(child).layout, 0u);
    EXPECT_NE(slot(child).lasting_layout, slot(child).layout);
    // What lasts is a part of it.
    const auto all = maps_->mappings_of(child.pid());
    const auto lasting = maps_->lasting_of(child.pid());
    EXPECT_GT(lasting.size(), 1u);
    for (const dwunw_mapping &mapping : lasting)
        EXPECT_TRUE(std::ranges::any_of(all, [&](const dwunw_mapping &one) {
            return one.start == mapping.start && one.end == mapping.end && one.table == mapping.table;
        }));
    EXPECT_EQ(publisher_->mappings_used(), all.size() + lasting.size());
}

TEST_F(PublisherTest, AnUnchangedMapKeepsWhatIsPublished) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const dwunw_process_slot before = slot(child);
    slot(child).changes = 2; // the linker said that it was at work
    ASSERT_EQ(publish(child), DWUNW_OK);
    const dwunw_process_slot after = slot(child);
    EXPECT_EQ(after.seen_changes, 2u);
    EXPECT_EQ(after.lock, before.lock + 2) << "a reader notices";
    EXPECT_EQ(after.generation, before.generation);
    EXPECT_EQ(after.layout, before.layout);
    EXPECT_EQ(after.first, before.first);
    EXPECT_EQ(after.lasting_generation, before.lasting_generation);
    EXPECT_EQ(after.lasting_first, before.lasting_first);
    EXPECT_EQ(publisher_->publications(), 2u);
    EXPECT_EQ(maps_->waits, 0);
}

TEST_F(PublisherTest, ANewModuleLeavesCachedRulesValid) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const dwunw_process_slot before = slot(child);
    tell(child, kMapA);
    ASSERT_EQ(publish(child), DWUNW_OK);
    expect_published_whole(child);
    EXPECT_EQ(slot(child).count, before.count + 1);
    EXPECT_NE(slot(child).first, before.first) << "a walk may be reading the old block";
    EXPECT_EQ(slot(child).generation, before.generation);
    EXPECT_EQ(slot(child).layout, before.layout);
    EXPECT_EQ(slot(child).lasting_generation, before.lasting_generation);
}

TEST_F(PublisherTest, AnUnmappedModuleTakesItsRulesWithIt) {
    const Child child(obey);
    begin();
    tell(child, kMapA);
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const dwunw_process_slot before = slot(child);
    tell(child, kUnmapIt);
    ASSERT_EQ(publish(child), DWUNW_OK);
    expect_published_whole(child);
    EXPECT_EQ(slot(child).count, before.count - 1);
    EXPECT_NE(slot(child).generation, before.generation);
    EXPECT_EQ(slot(child).layout, before.layout) << "old stacks mean what they did";
    EXPECT_EQ(slot(child).lasting_generation, before.lasting_generation);
}

TEST_F(PublisherTest, AnotherModuleInItsPlaceIsAnotherLayout) {
    const Child child(obey);
    begin();
    tell(child, kMapA);
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const dwunw_process_slot before = slot(child);
    tell(child, kMapBInItsPlace);
    ASSERT_EQ(publish(child), DWUNW_OK);
    expect_published_whole(child);
    EXPECT_NE(slot(child).generation, before.generation);
    EXPECT_NE(slot(child).layout, before.layout);
    EXPECT_NE(publisher_->layout(before.layout), nullptr) << "a record of its time may still come";
    EXPECT_NE(publisher_->layout(slot(child).layout), nullptr);
    EXPECT_EQ(publisher_->layout(12345), nullptr);
    EXPECT_EQ(slot(child).lasting_generation, before.lasting_generation);
}

TEST_F(PublisherTest, AnExecEndsTheLastingMappings) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const dwunw_process_slot before = slot(child);
    child.say(kExecute);
    child.say(1234);
    ASSERT_EQ(child.hear(), 1234u);
    slot(child).execs = 1;
    slot(child).changes = DWUNW_BPF_HIDING_CHANGES;
    ASSERT_EQ(publish(child), DWUNW_OK);
    expect_published_whole(child);
    EXPECT_EQ(slot(child).seen_execs, 1u);
    EXPECT_NE(slot(child).generation, before.generation);
    EXPECT_NE(slot(child).lasting_generation, before.lasting_generation);
    EXPECT_GT(slot(child).lasting_count, 1u);
}

TEST_F(PublisherTest, WithoutASlotNoProcessIsAdded) {
    const Child one(obey);
    const Child two(obey);
    begin({.processes = 1});
    ASSERT_EQ(publisher_->add(one.pid()), DWUNW_OK);
    EXPECT_EQ(publisher_->add(two.pid()), DWUNW_ERR_LIMIT);
    EXPECT_EQ(publisher_->find(two.pid()), nullptr);
    EXPECT_FALSE(maps_->slots.contains(two.pid()));
    publisher_->remove(one.pid());
    EXPECT_EQ(publisher_->add(two.pid()), DWUNW_OK);
    EXPECT_GT(maps_->waits, 0) << "a walk may have been reading the slot";
    expect_published_whole(two);
}

TEST_F(PublisherTest, AKernelWithoutRoomGetsNothing) {
    const Child child(obey);
    begin({.processes = 1});
    maps_->has_room = false;
    EXPECT_EQ(publisher_->add(child.pid()), DWUNW_ERR_BPF);
    EXPECT_EQ(publisher_->size(), 0u);
    EXPECT_EQ(publisher_->mappings_used(), 0u);
    maps_->has_room = true;
    EXPECT_EQ(publisher_->add(child.pid()), DWUNW_OK) << "the slot was given back";
}

TEST_F(PublisherTest, AProcessThatCannotBeReadIsNotKept) {
    begin();
    EXPECT_EQ(publisher_->add(0x7fffffff), DWUNW_ERR_NO_PROCESS);
    const Child child(obey);
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    child.kill_to_zombie();
    EXPECT_EQ(publish(child), DWUNW_ERR_NO_PROCESS);
    EXPECT_EQ(publisher_->size(), 1u) << "its stacks can still be named";
}

TEST_F(PublisherTest, ARemovedProcessLeavesNothing) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const uint32_t number = maps_->slots.at(child.pid());
    publisher_->remove(child.pid());
    EXPECT_TRUE(maps_->slots.empty());
    EXPECT_EQ(maps_->processes()[number].generation, 0u);
    EXPECT_EQ(maps_->processes()[number].count, 0u);
    EXPECT_EQ(maps_->processes()[number].lasting_generation, 0u);
    EXPECT_EQ(maps_->processes()[number].lock % 2, 0u);
    EXPECT_EQ(publisher_->find(child.pid()), nullptr);
    publisher_->remove(child.pid()); // as often as one likes
}

TEST_F(PublisherTest, TheRoomOfARemovedProcessIsTakenAgain) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    begin({.mappings = publisher_->mappings_used()});
    for (int round = 0; round < 3; ++round) {
        ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
        EXPECT_EQ(maps_->waits, round) << "a walk may be reading what it had before";
        expect_published_whole(child);
        EXPECT_NE(slot(child).lasting_generation, 0u);
        publisher_->remove(child.pid());
    }
}

// More mappings than there is room for: the kernel walks with the modules, and knows that others may be there.
TEST_F(PublisherTest, AMapWithoutRoomIsPublishedInPart) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const auto modules = static_cast<uint32_t>(slot(child).count);
    tell(child, kMapAnonymous);
    begin({.mappings = modules + 7});
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_EQ(code_of(child).mappings.size(), modules + 8u);
    EXPECT_EQ(slot(child).incomplete, 1u);
    EXPECT_EQ(slot(child).count, modules);
    EXPECT_NE(slot(child).generation, 0u);
    for (const dwunw_mapping &mapping : maps_->mappings_of(child.pid()))
        EXPECT_EQ(mapping.kind, uint32_t{DWUNW_MAPPING_MODULE});

    begin({.mappings = 2});
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_EQ(slot(child).incomplete, 1u);
    EXPECT_EQ(slot(child).count, 0u);
    EXPECT_NE(slot(child).generation, 0u) << "all of its stacks go to user space";
    EXPECT_EQ(slot(child).lasting_generation, 0u);
}

TEST_F(PublisherTest, TablesWithoutRoomAreMarkedAsSuch) {
    const Child child(obey);
    begin({.cells = 64});
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_GT(publisher_->pool().without_room(), 0u);
    EXPECT_TRUE(std::ranges::any_of(maps_->mappings_of(child.pid()),
                                    [](const dwunw_mapping &one) { return one.kind == DWUNW_BPF_NO_ROOM; }));
}

// The numbers of generations are few. No cached rule of an old one is left when they begin anew.
TEST_F(PublisherTest, WhenGenerationsWrapAroundTheCacheIsEmptied) {
    const Child one(obey);
    const Child two(obey);
    begin({}, DWUNW_BPF_MAX_GENERATION - 2);
    ASSERT_EQ(publisher_->add(one.pid()), DWUNW_OK);
    EXPECT_EQ(slot(one).generation, uint32_t{DWUNW_BPF_MAX_GENERATION - 2});
    EXPECT_EQ(slot(one).lasting_generation, uint32_t{DWUNW_BPF_MAX_GENERATION - 1});
    maps_->rules()[3] = {.key = 1, .rule = 2};
    maps_->can_wait = false;
    EXPECT_EQ(publisher_->add(two.pid()), DWUNW_ERR_BPF) << "walks with old rules may be running";
    EXPECT_EQ(maps_->rules()[3].key, 1u);
    maps_->can_wait = true;
    ASSERT_EQ(publisher_->add(two.pid()), DWUNW_OK);
    EXPECT_EQ(maps_->rules()[3].key, 0u);
    EXPECT_EQ(slot(two).generation, 1u);
    EXPECT_EQ(slot(one).generation, 0u) << "nothing of it is valid";
    EXPECT_EQ(slot(one).lasting_generation, 0u);
    publisher_->look_again(now_ns() + kSecond);
    EXPECT_GT(slot(one).generation, slot(two).generation);
    expect_published_whole(one);
}

// Found in use: the kernel counts pages that no map shows. Asked twice about one map, the difference is believed.
TEST_F(PublisherTest, PagesThatNoMapShowsAreLearned) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const uint64_t shown = slot(child).exec_pages;
    publisher_->asked(child.pid(), shown + 3);
    EXPECT_EQ(slot(child).exec_pages, shown) << "not before the map was read once more";
    publisher_->look_again(now_ns() + kSecond);
    EXPECT_EQ(slot(child).exec_pages, shown + 3);
    ASSERT_EQ(publish(child), DWUNW_OK);
    EXPECT_EQ(slot(child).exec_pages, shown + 3) << "from then on";
}

TEST_F(PublisherTest, AMapThatWasAskedForIsReadWhenItIsDue) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_EQ(publisher_->look_again(now_ns()), 0u) << "nothing is due";
    tell(child, kMapA);
    publisher_->asked(child.pid(), slot(child).exec_pages);
    publisher_->look_again(now_ns() + kSecond);
    expect_published_whole(child);
    EXPECT_EQ(publisher_->publications(), 2u);
    publisher_->asked(0x7fffffff, 1); // of a process that is gone meanwhile
    EXPECT_EQ(publisher_->look_again(now_ns() + kSecond), 0u);
    slot(child).need_sent = 1;
    publisher_->rearm(*publisher_->find(child.pid()));
    EXPECT_EQ(slot(child).need_sent, 0u) << "the kernel may ask again";
}

// The kernel has cleared the slot's tgid. Records of the process may be on their way for a second.
TEST_F(PublisherTest, AnExitThatNobodyToldIsSeenLater) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    slot(child).tgid = 0;
    const uint64_t now = now_ns();
    publisher_->look_again(now);
    publisher_->look_again(now + kSecond);
    EXPECT_NE(publisher_->find(child.pid()), nullptr);
    publisher_->look_again(now + kSecond + 1);
    EXPECT_EQ(publisher_->find(child.pid()), nullptr);
}

TEST_F(PublisherTest, ANumberThatIsTakenAgainIsAnotherProcess) {
    const Child child(obey);
    begin();
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    const uint64_t layout = slot(child).layout;
    slot(child).tgid = 0; // the process ended, and this one got its number
    ASSERT_EQ(publisher_->add(child.pid()), DWUNW_OK);
    EXPECT_EQ(publisher_->size(), 1u);
    EXPECT_EQ(slot(child).tgid, static_cast<uint32_t>(child.pid()));
    EXPECT_NE(slot(child).layout, layout);
    expect_published_whole(child);
}

} // namespace
} // namespace dwunw::bpf
