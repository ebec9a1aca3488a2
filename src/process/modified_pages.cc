// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/modified_pages.h"

#include "process/file_source.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <span>
#include <string>
#include <string_view>

namespace dwunw::process {
namespace {

using Range = ModifiedPages::Range;

constexpr uint64_t kPage = 4096;
constexpr size_t kChunk = 256 << 10;

void append(std::vector<Range> &ranges, Range range) {
    if (!ranges.empty() && ranges.back().end == range.start)
        ranges.back().end = range.end;
    else
        ranges.push_back(range);
}

// Parses "55d0c2a00000-55d0c2a21000 rw-p …".
std::optional<Range> mapping_of(std::string_view line) {
    Range range{};
    const char *const end = line.data() + line.size();
    const auto start = std::from_chars(line.data(), end, range.start, 16);
    if (start.ec != std::errc() || start.ptr == end || *start.ptr != '-')
        return std::nullopt;
    const auto stop = std::from_chars(start.ptr + 1, end, range.end, 16);
    if (stop.ec != std::errc() || stop.ptr == end || *stop.ptr != ' ')
        return std::nullopt;
    return range;
}

// Parses "Anonymous:            12 kB" and the like: whether the line counts pages that belong to a private mapping
// alone.
bool counts_own_pages(std::string_view line) {
    static constexpr std::array<std::string_view, 3> kFields = {"Anonymous:", "Swap:", "Private_Hugetlb:"};
    return std::ranges::any_of(kFields, [&](std::string_view field) {
        return line.starts_with(field) && line.find_first_of("123456789") != std::string_view::npos;
    });
}

} // namespace

ModifiedPages::ModifiedPages(const ProcDir &process, Method method) : process_(process), method_(method) {
    if (auto file = process.open_file("pagemap", O_RDONLY))
        pagemap_ = std::move(*file);
}

std::optional<std::vector<Range>> ModifiedPages::of(const Mapping &mapping) {
    if (!pagemap_)
        return std::nullopt;
    if (method_ == Method::kScan) {
        if (auto ranges = scan(mapping))
            return ranges;
        method_ = Method::kPageMap;
    }
    return read(mapping);
}

std::optional<std::vector<Range>> ModifiedPages::scan(const Mapping &mapping) const {
    // struct page_region and pm_scan_arg of Linux 6.7; Debian 12's headers are older.
    struct Region {
        uint64_t start, end, categories;
    };
    struct Scan {
        uint64_t size = sizeof(Scan);
        uint64_t flags = 0;
        uint64_t start = 0;
        uint64_t end = 0;
        uint64_t walk_end = 0;
        uint64_t regions = 0;
        uint64_t region_count = 0;
        uint64_t max_pages = 0;
        uint64_t inverted = 0;
        uint64_t all_of = 0;
        uint64_t any_of = 0;
        uint64_t returned = 0;
    };
    static_assert(sizeof(Scan) == 96);
    enum : uint64_t { kFile = 1 << 2, kPresent = 1 << 3, kSwapped = 1 << 4 };

    std::vector<Range> ranges;
    std::array<Region, 256> regions;
    for (uint64_t at = mapping.start.value; at < mapping.end.value;) {
        Scan scan;
        scan.start = at;
        scan.end = mapping.end.value;
        scan.regions = reinterpret_cast<uint64_t>(regions.data());
        scan.region_count = regions.size();
        scan.inverted = kFile;
        scan.all_of = kFile; // inverted: pages that are not the file's
        scan.any_of = kPresent | kSwapped;
        const int got = ::ioctl(pagemap_->get(), _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, sizeof(Scan)), &scan);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 || scan.walk_end <= at)
            return std::nullopt;
        for (const Region &region : std::span(regions).first(static_cast<size_t>(got)))
            append(ranges, {region.start, region.end});
        at = scan.walk_end;
    }
    return ranges;
}

// Bit 63: present; bit 62: swapped; bit 61: the file's own page.
std::optional<std::vector<Range>> ModifiedPages::read(const Mapping &mapping) {
    std::vector<Range> ranges;
    const uint64_t pages = (mapping.end - mapping.start) / kPage;
    if (pages > kReadAnyway - std::min(pages_read_, kReadAnyway) && !may_have_any(mapping))
        return ranges;
    std::vector<uint64_t> entries(std::min<uint64_t>(pages, kChunk / sizeof(uint64_t)));
    for (uint64_t first = 0; first < pages; first += entries.size()) {
        const auto count = static_cast<size_t>(std::min<uint64_t>(entries.size(), pages - first));
        const std::span bytes(reinterpret_cast<uint8_t *>(entries.data()), count * sizeof(uint64_t));
        const uint64_t at = mapping.start.value + first * kPage;
        if (read_at(pagemap_->get(), at / kPage * sizeof(uint64_t), bytes) != bytes.size())
            return std::nullopt;
        pages_read_ += count;
        for (size_t i = 0; i < count; ++i) {
            const bool there = (entries[i] >> 62) != 0;
            const bool files = ((entries[i] >> 61) & 1) != 0;
            if (there && !files)
                append(ranges, {at + i * kPage, at + (i + 1) * kPage});
        }
    }
    return ranges;
}

bool ModifiedPages::may_have_any(const Mapping &mapping) {
    if (!smaps_read_)
        with_pages_ = read_smaps();
    smaps_read_ = true;
    if (!with_pages_)
        return true;
    // The bounds of a mapping may have changed after the map was read, so every overlap counts.
    const auto first = std::ranges::upper_bound(*with_pages_, mapping.start.value, {}, &Range::end);
    return first != with_pages_->end() && first->start < mapping.end.value;
}

std::optional<std::vector<Range>> ModifiedPages::read_smaps() const {
    auto file = process_.open_file("smaps", O_RDONLY);
    if (!file)
        return std::nullopt;
    std::vector<Range> found;
    std::optional<Range> current;
    std::string text;
    std::vector<char> buffer(kChunk);
    while (true) {
        const ssize_t got = ::read(file->get(), buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return std::nullopt;
        if (got == 0)
            break;
        text.append(buffer.data(), static_cast<size_t>(got));
        size_t begin = 0;
        for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
            const std::string_view line = std::string_view(text).substr(begin, end - begin);
            if (const auto range = mapping_of(line))
                current = range;
            else if (current && counts_own_pages(line) && (found.empty() || found.back() != *current))
                found.push_back(*current);
        }
        text.erase(0, begin);
    }
    return found;
}

} // namespace dwunw::process
