// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// One interface for the compared unwinders. Each walks from a stack's slice alone, with the same files for rules, and
// may keep anything between walks of one process.
#pragma once

#include "corpus.h"

#include <memory>
#include <string>
#include <vector>

namespace dwunw_bench {

constexpr size_t kMaxFrames = 4096;

struct Chain {
    std::vector<uint64_t> pcs;
    bool complete = false; // the unwinder says that it reached the root
    std::string why;       // if not: the reason, if the unwinder gives one
};

// One process, opened by one unwinder. One thread at a time.
class Unwound {
  public:
    virtual ~Unwound() = default;
    // Walks one stack, and returns the number of frames. This is timed.
    virtual size_t walk(const Stack &stack) = 0;
    // The frames of the last walk.
    virtual Chain chain() const = 0;
    // The number of walks so far that needed dwunw's full interpreter.
    virtual size_t interpreted() const { return 0; }
};

class Unwinder {
  public:
    virtual ~Unwinder() = default;
    virtual std::string name() const = 0;
    virtual std::unique_ptr<Unwound> open(const Process &process) = 0;
    // Waits for background work, after everything was met once.
    virtual void settle() {}
};

// dwunw_capture on a process read from its core file, in one context for all.
class Dwunw : public Unwinder {
  public:
    Dwunw();
    ~Dwunw() override;
    std::string name() const override { return "dwunw"; }
    std::unique_ptr<Unwound> open(const Process &process) override;
    // A process that is only a map, in the format of /proc/PID/maps.
    std::unique_ptr<Unwound> open_maps(const std::string &maps);
    void settle() override { dwunw_wait_for_tables(context_); }
    dwunw_context *context() const { return context_; }

  private:
    dwunw_context *context_ = nullptr;
};

// libunwind's remote interface, its cache on (UNW_CACHE_GLOBAL).
std::unique_ptr<Unwinder> make_libunwind();
// elfutils' libdwfl, attached to the slices.
std::unique_ptr<Unwinder> make_libdwfl();

// In the order dwunw, libunwind, libdwfl.
std::vector<std::unique_ptr<Unwinder>> all_unwinders();

} // namespace dwunw_bench
