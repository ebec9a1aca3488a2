// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Remembers what CodePaths has found in code.
//
// Example: node's builtins have no CFI. Each stack goes through some of them, and each of their frames takes thousands
// of decoded instructions to decide. The same few hundred addresses come again in every stack.
//
// An answer about a file belongs to a position in it. It never becomes old, because a file that changes becomes another
// module. Code without a file can change at any time: an answer about it is valid in one generation of the map, and for
// the time that a walk trusts a map without a check (kHolds).
//
// Thread-safe. Bounded: when there is no room, everything is forgotten and found again.
//
// Proved by tests/unit/unwind_code_answers_test.
#pragma once

#include "unwind/code_paths.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

namespace dwunw::unwind {

class CodeAnswers {
  public:
    static constexpr size_t kMost = 4096;          // of each kind
    static constexpr uint64_t kHolds = 10'000'000; // ns

    struct Question {
        const dwunw_module *module = nullptr; // nullptr: code without a file; addresses are those of the process
        uint64_t generation = 0;              // of the map; only for code without a file
        LinkAddr at;
        LinkAddr from; // start of the path to `at`
        bool is_return_address = false;
        bool operator==(const Question &) const = default;
    };

    // `now`: the time in ns, by the same clock in all calls. Addresses in the answer are link addresses.
    std::optional<CodeExits> exits(const Question &place, uint64_t now) const {
        const auto found = find(exits_, place, now);
        if (!found)
            return std::nullopt;
        CodeExits result;
        result.count = found->exits.size();
        result.complete = found->complete;
        std::ranges::copy(found->exits, result.exits.begin());
        return result;
    }
    void keep(const Question &place, uint64_t now, const CodeExits &exits) {
        insert(exits_, place, now,
               {{exits.exits.begin(), exits.exits.begin() + static_cast<ptrdiff_t>(exits.count)}, exits.complete});
    }
    std::optional<CodeReach> reach(const Question &place, uint64_t now) const { return find(reaches_, place, now); }
    void keep(const Question &place, uint64_t now, const CodeReach &reach) { insert(reaches_, place, now, reach); }
    // About the function at `at`.
    std::optional<bool> never_returns(const Question &place, uint64_t now) const {
        return find(never_return_, place, now);
    }
    void keep_never_returns(const Question &place, uint64_t now, bool never) {
        insert(never_return_, place, now, never);
    }
    // Whether a call can end at `at`. Only for code without a file: RuleCache has the answers for files.
    std::optional<bool> follows_call(const Question &place, uint64_t now) const { return find(calls_, place, now); }
    void keep_follows_call(const Question &place, uint64_t now, bool follows) { insert(calls_, place, now, follows); }
    // About the nearest beginning of a frame that reaches `at`; the inner nullopt: there is none.
    std::optional<std::optional<CodeReach>> prologue(const Question &place, uint64_t now) const {
        return find(prologues_, place, now);
    }
    void keep(const Question &place, uint64_t now, const std::optional<CodeReach> &prologue) {
        insert(prologues_, place, now, prologue);
    }

  private:
    struct Exits {
        std::vector<CodeExit> exits;
        bool complete = false;
    };
    struct Hash {
        size_t operator()(const Question &place) const {
            uint64_t hash = std::hash<const void *>()(place.module);
            for (const uint64_t word :
                 {place.generation, place.at.value, place.from.value, uint64_t{place.is_return_address}}) {
                hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
                hash ^= hash >> 32;
            }
            return hash;
        }
    };
    template <typename Value> struct Kept {
        Value value;
        uint64_t until;
    };
    template <typename Value> using Map = std::unordered_map<Question, Kept<Value>, Hash>;

    template <typename Value>
    std::optional<Value> find(const Map<Value> &map, const Question &place, uint64_t now) const {
        const std::lock_guard lock(mutex_);
        const auto found = map.find(place);
        return found == map.end() || found->second.until < now ? std::nullopt
                                                               : std::optional<Value>(found->second.value);
    }
    template <typename Value> void insert(Map<Value> &map, const Question &place, uint64_t now, Value value) {
        const std::lock_guard lock(mutex_);
        if (map.size() >= kMost)
            map.clear();
        map.insert_or_assign(place, Kept<Value>{std::move(value), place.module != nullptr ? UINT64_MAX : now + kHolds});
    }

    mutable std::mutex mutex_;
    Map<Exits> exits_;
    Map<CodeReach> reaches_;
    Map<bool> never_return_;
    Map<bool> calls_;
    Map<std::optional<CodeReach>> prologues_;
};

} // namespace dwunw::unwind
