// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "compare.h"

#include <algorithm>

namespace dwunw::testing {
namespace {

// Whether the `count` innermost frames are the truth's.
bool matches(const Walked &walked, const std::vector<TrueFrame> &truth, size_t count) {
    if (count == 0 || count > truth.size())
        return false;
    for (size_t i = 0; i < count; ++i) {
        const dwunw_frame &frame = walked.frames[i];
        // What libgcc wrote over a return address may be seen to be none.
        const bool landing_pad = truth[i].pc != truth[i].call;
        const bool exact = (frame.flags & DWUNW_FRAME_FLAG_EXACT_PC) != 0 && !landing_pad;
        const bool signal = (frame.flags & DWUNW_FRAME_FLAG_SIGNAL) != 0;
        // Where the walk stopped it has not looked what kind of frame it is.
        const bool last = i + 1 == walked.frames.size() && walked.status != DWUNW_OK;
        if (frame.pc != truth[i].pc || frame.sp != truth[i].sp || exact != truth[i].exact ||
            (signal != truth[i].signal && !last))
            return false;
    }
    return true;
}

} // namespace

bool matches(const Walked &walked, const std::vector<TrueFrame> &truth) {
    return matches(walked, truth, walked.frames.size());
}

bool into_a_rewritten_frame(const Walked &walked, const std::vector<TrueFrame> &truth) {
    const auto rewritten = [](const TrueFrame &frame) { return frame.pc != frame.call; };
    const auto first = std::find_if(truth.begin(), truth.end(), rewritten);
    const auto count = static_cast<size_t>(first - truth.begin()) + 1;
    return first != truth.end() && walked.frames.size() >= count && matches(walked, truth, count);
}

// The frame that is jumped to may still be at its call, and its SP not yet the right one: libgcc rewrites its own
// return address before it knows the landing pad, and its own CFA stays what it was.
bool jumps_to(const Walked &walked, const std::vector<TrueFrame> &shadow, const std::vector<TrueFrame> &landed,
              dwunw_status end) {
    const auto &frames = walked.frames;
    if (walked.status != end || frames.size() <= landed.size())
        return false;
    const size_t inner = frames.size() - landed.size();
    for (size_t i = 0; i < frames.size(); ++i) {
        const TrueFrame &truth = i < inner ? shadow[i] : landed[i - inner];
        const auto at_its_call = [&](const TrueFrame &frame) {
            return frame.sp == truth.sp && frame.call == frames[i].pc;
        };
        if (i == inner ? frames[i].pc != truth.pc && std::none_of(shadow.begin(), shadow.end(), at_its_call)
                       : frames[i].pc != truth.pc || frames[i].sp != truth.sp)
            return false;
    }
    return true;
}

} // namespace dwunw::testing
