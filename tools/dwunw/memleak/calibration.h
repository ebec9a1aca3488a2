// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Measures the cost of a probed call, on a child of this program.
#pragma once

#include "memleak/kernel.h"
#include "memleak/overhead.h"

#include <optional>

namespace dwunw_tool::memleak {

// nullopt: it could not be measured; `problem` says why. Takes some 50 ms.
std::optional<CallCost> calibrate(Kernel &kernel, const std::function<void()> &take_events, std::string &problem);

} // namespace dwunw_tool::memleak
