// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The BPF programs of `dwunw memleak`, loaded: their settings, maps, events and counters, and the stacks.
#pragma once

#include "memleak/blocks.h"
#include "memleak/options.h"

#include <dwunw/bpf_attach.h>
#include <dwunw/bpf_stacks.h>

#include <array>
#include <functional>
#include <memory>
#include <string>

struct memleak_kernel; // the skeleton
struct bpf_link;       // libbpf's, as is
struct ring_buffer;

namespace dwunw_tool::memleak {

using Attachment = Handle<dwunw_attachment, dwunw_detach>;

class Kernel {
  public:
    // Loads and starts the programs. On failure the result has no error() only if it may be used.
    Kernel(dwunw_context *context, const Options &options, uint64_t cgroup, uint64_t max_memory);
    ~Kernel();
    Kernel(const Kernel &) = delete;
    Kernel &operator=(const Kernel &) = delete;

    // Why loading failed; empty: it did not.
    const std::string &error() const { return error_; }
    // How probes and stacks are made, in words, for -v.
    std::string describe() const;

    dwunw_bpf *stacks() { return stacks_.get(); }
    Blocks &blocks() { return *blocks_; }

    // Watches a process from its next allocation on. `was_running`: it has blocks from before.
    bool want(int32_t pid, bool was_running);
    // Gives a number back, whose blocks are gone.
    void return_number(uint32_t number);

    // Whether returns are always seen at return instructions.
    bool all_by_instruction() const { return plan_.returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS; }
    // Attaches to points of a file whose returns are seen at return instructions, or by return probes. `pid` 0: in
    // every process. Null: errno tells why, `status` the library's reason.
    Attachment attach(const std::string &path, int32_t pid, const std::vector<dwunw_attach_point> &points,
                      bool by_instruction, dwunw_status &status);

    // The command's process stops itself when it executes its program; and when its libraries are loaded, which the
    // function at this offset of the dynamic linker's file tells.
    void stop_at_exec(int32_t pid);
    bool stop_at_libraries(int32_t pid, const std::string &linker, uint64_t file_offset);

    int events_fd() const;
    // Hands all events that have come to `take`. Does not wait.
    void take_events(const std::function<void(const memleak_event &)> &take);

    std::array<uint64_t, MEMLEAK_COUNTERS> counters() const;
    uint64_t live_blocks() const;
    // Records one in 1 << shift of the allocations that would be recorded.
    void set_sampling_shift(unsigned shift);
    // The blocks' tables: the kernel half asked for more room.
    void note_growth() { growth_wanted_ = true; }
    void make_room();

  private:
    struct SkeletonDeleter {
        void operator()(memleak_kernel *skeleton) const;
    };
    using Stacks = Handle<dwunw_bpf, dwunw_bpf_close>;
    void load(dwunw_context *context, const Options &options, uint64_t cgroup, uint64_t max_memory);
    void fail(const std::string &what);
    void fail(const std::string &what, dwunw_status status);

    std::string error_;
    std::unique_ptr<memleak_kernel, SkeletonDeleter> skeleton_;
    Stacks stacks_;
    dwunw_attach_programs programs_{};
    dwunw_attach_plan plan_{};
    std::unique_ptr<Blocks> blocks_;
    ring_buffer *events_ = nullptr;
    const std::function<void(const memleak_event &)> *take_ = nullptr;
    bpf_link *linker_link_ = nullptr;
    bool growth_wanted_ = false;
};

} // namespace dwunw_tool::memleak
