// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The unwinders that are compared, behind one interface. Each walks from a stack's slice alone, with the same files for
// rules, and keeps whatever it keeps between walks of one process.
#pragma once

#include "corpus.h"

#include <memory>
#include <string>
#include <vector>

namespace dwunw_bench {

constexpr size_t kMaxFrames = 4096;

struct Chain {
    std::vector<uint64_t> pcs;
    bool complete = false; // by the unwinder's own account
    std::string why;       // not, where it says
};

// One process as one unwinder sees it. One thread at a time.
class Unwound {
  public:
    virtual ~Unwound() = default;
    // Walks one stack; how many frames. This is what is timed.
    virtual size_t walk(const Stack &stack) = 0;
    // What the last walk found.
    virtual Chain chain() const = 0;
    // Walks so far that needed dwunw's full interpreter.
    virtual size_t interpreted() const { return 0; }
};

class Unwinder {
  public:
    virtual ~Unwinder() = default;
    virtual std::string name() const = 0;
    virtual std::unique_ptr<Unwound> open(const Process &process) = 0;
    // After everything was met once: waits for what is prepared in the background.
    virtual void settle() {}
};

// dwunw_capture on a process read from its core file, in one context for all.
class Dwunw : public Unwinder {
  public:
    Dwunw();
    ~Dwunw() override;
    std::string name() const override { return "dwunw"; }
    std::unique_ptr<Unwound> open(const Process &process) override;
    // A process that is nothing but its map, in the format of /proc/PID/maps.
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
