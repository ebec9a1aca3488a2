// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Compares a walk with the true frames of a ShadowStack.
#pragma once

#include "shadow_stack.h"
#include "walker.h"

#include <vector>

namespace dwunw::testing {

// Whether the frames are the truth's innermost.
bool matches(const Walked &walked, const std::vector<TrueFrame> &truth);

// Whether the frames are the truth's as far as to one that libgcc means to return to by force. It has then begun to
// write the registers of that frame over those that it saved itself; what CFI says of the frames outside is void.
bool into_a_rewritten_frame(const Walked &walked, const std::vector<TrueFrame> &truth);

// Whether a walk's frames, while the true ones were `shadow`, were those of the jumping function, and outside them
// those of the jump's target, `landed`. `end`: the status of a walk through all frames that there are.
bool jumps_to(const Walked &walked, const std::vector<TrueFrame> &shadow, const std::vector<TrueFrame> &landed,
              dwunw_status end);

} // namespace dwunw::testing
