// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The implementation of struct dwunw_bpf: takes in the kernel's records, and answers questions about stacks.
//
// Not thread-safe.
#pragma once

#include "bpf/bpf_maps.h"
#include "bpf/kernel_features.h"
#include "bpf/poll_budget.h"
#include "bpf/publisher.h"
#include "bpf/stack_store.h"
#include "bpf/uprobe_link.h"

#include <dwunw/bpf_stacks.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

struct ring_buffer;

namespace dwunw::bpf {

struct RingDestroyer {
    void operator()(ring_buffer *ring) const;
};

// Targets do not know it.
uint64_t random_number();

class Session {
  public:
    Session(dwunw_context *context, bpf_object *object, const dwunw_bpf_options &options)
        : context_(context), object_(object), options_(options),
          stack_store_(options.kept_bytes != 0 ? options.kept_bytes : StackStore::kDefaultLimit, random_number()) {}

    dwunw_status open();
    dwunw_status start();
    // The part of start() that needs no kernel: from now on, `maps` are the session's.
    void begin(std::unique_ptr<BpfMaps> maps);
    // Takes in one record of the ring buffer.
    void take(const void *data, size_t size);
    dwunw_status poll(int timeout_ms, size_t *taken);
    int epoll_fd() const;

    bool started() const { return publisher_.has_value(); }
    Publisher &publisher() { return *publisher_; }
    const StackStore &stack_store() const { return stack_store_; }
    dwunw_status retain(std::span<const uint64_t> ids);
    void read_counters(dwunw_bpf_counters &out) const;
    std::string describe() const;

  private:
    static int on_record(void *session, void *data, size_t size);
    void take_stack(const void *data, size_t size);
    void take_walk(const void *data, size_t size);
    void take_process(const void *data, size_t size);
    // Whether a walk with the current map sees what the kernel saw.
    bool is_of_the_moment(const dwunw_walk_event &event, Publisher::TrackedProcess &tracked);
    // A walk's result; its frames are in frames_.
    struct Walked {
        dwunw_status status = DWUNW_ERR_MODULE_CHANGED;
        size_t count = 1;
    };
    struct Record;
    std::optional<Walked> walk_now(const Record &record, Publisher::TrackedProcess &tracked);
    std::optional<Walked> walk_then(const Record &record, Publisher::TrackedProcess &tracked);

    dwunw_context *context_;
    bpf_object *object_;
    dwunw_bpf_options options_;
    KernelFeatures features_;
    uint32_t pid_namespace_ = 0; // 0: the initial one
    std::unique_ptr<BpfMaps> maps_;
    std::vector<Link> links_;
    std::optional<LinkerProbe> linker_probe_;
    std::string refused_; // the program that start() refused
    std::optional<Publisher> publisher_;
    std::unique_ptr<ring_buffer, RingDestroyer> ring_;
    StackStore stack_store_;
    std::vector<dwunw_frame> frames_; // of the stack being walked
    PollBudget poll_budget_;          // of the current poll
    uint64_t user_walks_complete_ = 0;
    uint64_t user_walks_stale_ = 0;
    uint64_t user_walks_then_ = 0;
    uint64_t collisions_ = 0;
    uint64_t malformed_ = 0;
    uint64_t lost_to_memory_ = 0;
};

} // namespace dwunw::bpf
