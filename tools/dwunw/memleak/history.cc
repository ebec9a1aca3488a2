// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/history.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace dwunw_tool::memleak {
namespace {

constexpr double kSecond = 1e9;

} // namespace

std::string in_units(double bytes) {
    static const char *const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    constexpr double kStep = 1024;
    size_t unit = 0;
    while (std::fabs(bytes) >= kStep && unit + 1 < std::size(kUnits)) {
        bytes /= kStep;
        ++unit;
    }
    char text[32];
    std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
    return text;
}

void History::add(uint64_t now_ns, const std::vector<Sighting> &rows) {
    now_ = now_ns;
    ++reports_;
    // A row that is not in a report has 0 bytes there.
    std::map<uint64_t, Sighting> present;
    for (const Sighting &row : rows)
        present[row.key] = row;
    for (const auto &[key, row] : present)
        if (!seen_.contains(key)) {
            Seen &seen = seen_[key];
            seen.oldest = row.oldest;
            // It has grown from nothing, if there was a report before.
            if (reports_ > 1)
                seen.points.push_back({now_ns, 0});
        }
    for (auto at = seen_.begin(); at != seen_.end();) {
        Seen &seen = at->second;
        const auto row = present.find(at->first);
        const uint64_t bytes = row == present.end() ? 0 : row->second.bytes;
        const uint64_t before = seen.points.empty() ? 0 : seen.points.back().bytes;
        if (reports_ > 1) {
            seen.reports++;
            seen.grew += bytes > before;
            seen.change = static_cast<int64_t>(bytes) - static_cast<int64_t>(before);
        }
        if (row == present.end() || row->second.oldest != seen.oldest) {
            seen.oldest_stays = false;
            seen.oldest = row == present.end() ? 0 : row->second.oldest;
        }
        seen.points.push_back({now_ns, bytes});
        if (seen.points.size() > kMaxPoints) {
            std::vector<Point> thinned;
            for (size_t i = 0; i < seen.points.size(); i += 2)
                thinned.push_back(seen.points[i]);
            if (seen.points.size() % 2 == 0)
                thinned.push_back(seen.points.back());
            seen.points = std::move(thinned);
        }
        // What was gone for as many reports as it was there has no history any more.
        const bool is_over = bytes == 0 && before == 0;
        at = is_over ? seen_.erase(at) : std::next(at);
    }
}

Trend History::trend(uint64_t key) const {
    Trend trend;
    const auto found = seen_.find(key);
    if (found == seen_.end())
        return trend;
    const Seen &seen = found->second;
    trend.reports = seen.reports;
    trend.grew = seen.grew;
    trend.change = seen.change;
    trend.oldest_stays = seen.oldest_stays && seen.reports > 0;
    trend.oldest_age_ns = now_ - std::min(now_, seen.oldest);
    const std::vector<Point> &points = seen.points;
    if (points.size() >= 2) {
        const Point &from = points[(points.size() - 1) / 2], &to = points.back();
        const double seconds = static_cast<double>(to.time - from.time) / kSecond;
        if (seconds > 0)
            trend.bytes_per_second = (static_cast<double>(to.bytes) - static_cast<double>(from.bytes)) / seconds;
    }
    if (trend.reports > 0)
        trend.score = std::max(0.0, trend.bytes_per_second) * trend.grew / trend.reports;
    return trend;
}

std::string History::words(const Trend &trend) {
    if (trend.reports == 0)
        return {};
    std::string text = "grew in " + std::to_string(trend.grew) + " of " + std::to_string(trend.reports) + " reports, ";
    text += in_units(trend.bytes_per_second) + "/s";
    if (trend.oldest_stays) {
        char age[96];
        std::snprintf(age, sizeof age, "; its oldest block, %.0f s old, was never freed",
                      static_cast<double>(trend.oldest_age_ns) / kSecond);
        text += age;
    }
    return text;
}

} // namespace dwunw_tool::memleak
