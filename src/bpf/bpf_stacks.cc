// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The C ABI of stacks inside BPF: wraps Session, and stops exceptions.
#include <dwunw/bpf_stacks.h>

#include "abi/guarded.h"
#include "abi/sized_structs.h"
#include "base/clock.h"
#include "bpf/session.h"

#include <algorithm>
#include <cstring>
#include <map>

struct dwunw_bpf {
    // A process's count of changes, and the time at which that count was first seen.
    struct Unchanged {
        const dwunw_process *process;
        uint64_t changes;
        uint64_t since_ns;
    };

    dwunw::bpf::Session session;
    std::map<int32_t, Unchanged> unchanged{};
};

namespace {

static_assert(DWUNW_BPF_REASONS <= DWUNW_BPF_REASON_ROOM);

constexpr uint32_t kKnownFlags =
    DWUNW_BPF_ADD_UNKNOWN | DWUNW_BPF_NO_LOOP | DWUNW_BPF_NO_TASK_STORAGE | DWUNW_BPF_NO_LINKER_PROBE | DWUNW_BPF_OFF;

bool ready(const struct dwunw_bpf *bpf) { return bpf != nullptr && bpf->session.started(); }

} // namespace

extern "C" dwunw_status dwunw_bpf_open(struct dwunw_context *context, struct bpf_object *object,
                                       const struct dwunw_bpf_options *given, struct dwunw_bpf **out) {
    const dwunw::Sized options(given, dwunw::IfNull::kDefaults);
    if (!options)
        return options.status();
    if (context == nullptr || object == nullptr || out == nullptr || (options->flags & ~kKnownFlags) != 0 ||
        options->first_generation > DWUNW_BPF_MAX_GENERATION)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        std::unique_ptr<dwunw_bpf> bpf(new dwunw_bpf{dwunw::bpf::Session(context, object, *options)});
        if (const dwunw_status status = bpf->session.open(); status != DWUNW_OK)
            return status;
        *out = bpf.release();
        return DWUNW_OK;
    });
}

extern "C" dwunw_status dwunw_bpf_start(struct dwunw_bpf *bpf) {
    if (bpf == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return bpf->session.start(); });
}

extern "C" dwunw_status dwunw_bpf_add_process(struct dwunw_bpf *bpf, int32_t pid) {
    if (!ready(bpf) || pid <= 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return bpf->session.publisher().add(pid); });
}

extern "C" void dwunw_bpf_remove_process(struct dwunw_bpf *bpf, int32_t pid) {
    if (!ready(bpf))
        return;
    (void)dwunw::guarded([&] {
        bpf->session.publisher().remove(pid);
        return DWUNW_OK;
    });
}

extern "C" struct dwunw_process *dwunw_bpf_process(struct dwunw_bpf *bpf, int32_t pid) {
    if (!ready(bpf))
        return nullptr;
    const auto *known = bpf->session.publisher().find(pid);
    return known != nullptr ? known->process.get() : nullptr;
}

extern "C" dwunw_status dwunw_bpf_unchanged_since(struct dwunw_bpf *bpf, int32_t pid, uint64_t *since_ns) {
    if (!ready(bpf) || since_ns == nullptr)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&]() -> dwunw_status {
        auto &publisher = bpf->session.publisher();
        auto *known = publisher.find(pid);
        if (known == nullptr) {
            bpf->unchanged.erase(pid);
            return DWUNW_ERR_NOT_FOUND;
        }
        const uint64_t changes = publisher.changes(*known);
        const auto seen = bpf->unchanged.find(pid);
        if (seen != bpf->unchanged.end() && seen->second.changes == changes &&
            seen->second.process == known->process.get()) {
            *since_ns = seen->second.since_ns;
            return DWUNW_OK;
        }
        // The next call sees a change that comes while the map is read.
        if (const dwunw_status status = publisher.publish(*known); status != DWUNW_OK)
            return status;
        *since_ns = dwunw::now_ns();
        bpf->unchanged[pid] = {known->process.get(), changes, *since_ns};
        return DWUNW_OK;
    });
}

extern "C" dwunw_status dwunw_bpf_poll(struct dwunw_bpf *bpf, int timeout_ms, size_t *taken) {
    if (!ready(bpf))
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return bpf->session.poll(timeout_ms, taken); });
}

extern "C" int dwunw_bpf_epoll_fd(const struct dwunw_bpf *bpf) { return ready(bpf) ? bpf->session.epoll_fd() : -1; }

extern "C" dwunw_status dwunw_bpf_lookup(const struct dwunw_bpf *bpf, uint64_t id, struct dwunw_bpf_stack *given,
                                         struct dwunw_frame *frames, size_t max_frames) {
    const dwunw::Sized stack(given);
    if (!stack)
        return stack.status();
    if (bpf == nullptr || (frames == nullptr && max_frames != 0))
        return DWUNW_ERR_INVALID_ARGUMENT;
    return bpf->session.stack_store().lookup(id, *stack, {frames, max_frames});
}

extern "C" void dwunw_bpf_each_stack(const struct dwunw_bpf *bpf, void (*visit)(void *arg, uint64_t id), void *arg) {
    if (bpf != nullptr && visit != nullptr)
        bpf->session.stack_store().each([&](uint64_t id) { visit(arg, id); });
}

extern "C" dwunw_status dwunw_bpf_retain(struct dwunw_bpf *bpf, const uint64_t *ids, size_t count) {
    if (!ready(bpf) || (ids == nullptr && count != 0))
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return bpf->session.retain({ids, count}); });
}

extern "C" dwunw_status dwunw_bpf_get_counters(const struct dwunw_bpf *bpf, struct dwunw_bpf_counters *given) {
    const dwunw::Sized out(given);
    if (!out)
        return out.status();
    if (bpf == nullptr || out->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    out.clear();
    return dwunw::guarded([&] {
        bpf->session.read_counters(*out);
        return DWUNW_OK;
    });
}

extern "C" const char *dwunw_bpf_reason_string(uint32_t reason) {
    switch (reason) {
#define DWUNW_BPF_REASON_TEXT(name, value, text)                                                                       \
    case name:                                                                                                         \
        return text;
        DWUNW_BPF_REASON_LIST(DWUNW_BPF_REASON_TEXT)
#undef DWUNW_BPF_REASON_TEXT
    default:
        return "unknown reason";
    }
}

extern "C" size_t dwunw_bpf_describe(const struct dwunw_bpf *bpf, char *buffer, size_t size) {
    if (bpf == nullptr || (buffer == nullptr && size != 0))
        return 0;
    size_t length = 0;
    (void)dwunw::guarded([&] {
        const std::string text = bpf->session.describe();
        length = text.size();
        if (size != 0) {
            const size_t copied = std::min(length, size - 1);
            std::memcpy(buffer, text.data(), copied);
            buffer[copied] = '\0';
        }
        return DWUNW_OK;
    });
    return length;
}

extern "C" void dwunw_bpf_close(struct dwunw_bpf *bpf) { delete bpf; }
