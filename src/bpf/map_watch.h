// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tells of every executable mapping that comes, in any process, with its file and its time, and of every exec, which
// ends all mappings before it: the kernel's mmap and comm records of perf_event_open(2), one buffer a processor.
// Complete, or it says that something was lost.
//
// Not thread-safe.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "bpf/map_history.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dwunw::bpf {

class MapWatch {
  public:
    // What is read of one buffer; `record` as perf_event_open(2) has it. nullptr: no mapping that came, or malformed.
    // `pid` becomes the process.
    static std::shared_ptr<Mapped> parse(std::span<const uint8_t> record, int32_t &pid);
    // When the process executed another program; nullopt: another kind of record, or malformed.
    static std::optional<uint64_t> parse_exec(std::span<const uint8_t> record, int32_t &pid);

    // DWUNW_ERR_BPF where the kernel refuses.
    Status open();
    bool is_open() const { return !buffers_.empty(); }

    // One thing that came.
    struct Came {
        int32_t pid;
        uint64_t time;
        std::shared_ptr<Mapped> mapped; // nullptr: an exec
    };
    // Everything that came before this call, in its order, as far as `wanted` says of its process. False: something may
    // be missing.
    bool drain(const std::function<bool(int32_t pid)> &wanted, const std::function<void(const Came &)> &take);
    // Up to when everything has been told.
    uint64_t drained() const { return drained_; }
    uint64_t seen() const { return seen_; }
    uint64_t losses() const { return losses_; }

  private:
    struct Unmapper {
        size_t data_size; // without the first page
        void operator()(void *memory) const;
    };
    struct Buffer {
        UniqueFd fd;
        std::unique_ptr<void, Unmapper> memory{nullptr, Unmapper{0}};
    };
    static Result<Buffer> open_processor(int number, size_t pages);
    // False: something was lost.
    bool read(Buffer &buffer, const std::function<bool(int32_t pid)> &wanted);
    void take_record(const std::function<bool(int32_t pid)> &wanted);
    std::string processors() const;

    UniqueFd online_;
    std::string opened_for_; // the processors that there were
    int64_t suspended_ = 0;  // how long the machine had been, then
    std::vector<Buffer> buffers_;
    std::vector<Came> came_;
    std::vector<uint8_t> record_;
    uint64_t drained_ = 0;
    uint64_t seen_ = 0;
    uint64_t losses_ = 0;
};

} // namespace dwunw::bpf
