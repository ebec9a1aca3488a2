// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Reports every new executable mapping of every process, with its file and its time, and every exec, which ends all
// earlier mappings. The sources are the kernel's mmap and comm records (perf_event_open(2)), in one buffer for each
// processor. The report is complete, or says that something was lost.
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
    // Parses one record of a buffer, in the form of perf_event_open(2), and sets `pid`. nullptr: not a new mapping, or
    // malformed.
    static std::shared_ptr<Mapped> parse(std::span<const uint8_t> record, int32_t &pid);
    // The time at which the process executed another program; nullopt: another kind of record, or malformed.
    static std::optional<uint64_t> parse_exec(std::span<const uint8_t> record, int32_t &pid);

    // DWUNW_ERR_BPF: the kernel refuses.
    Status open();
    bool is_open() const { return !buffers_.empty(); }

    // One event.
    struct Came {
        int32_t pid;
        uint64_t time;
        std::shared_ptr<Mapped> mapped; // nullptr: an exec
    };
    // Reports every event before this call, in order, of the processes that `wanted` accepts. False: some may be
    // missing.
    bool drain(const std::function<bool(int32_t pid)> &wanted, const std::function<void(const Came &)> &take);
    // All events up to this time have been reported.
    uint64_t drained() const { return drained_; }
    uint64_t seen() const { return seen_; }
    uint64_t losses() const { return losses_; }

  private:
    struct Unmapper {
        size_t data_size; // without the control page
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
    std::string opened_for_; // the processors at that time
    int64_t suspended_ = 0;  // total time of suspension, at that time
    std::vector<Buffer> buffers_;
    std::vector<Came> came_;
    std::vector<uint8_t> record_;
    uint64_t drained_ = 0;
    uint64_t seen_ = 0;
    uint64_t losses_ = 0;
};

} // namespace dwunw::bpf
