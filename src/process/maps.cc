// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/maps.h"

#include "process/os_error.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <numeric>
#include <tuple>

namespace dwunw::process {
namespace {

using namespace std::string_view_literals;

// Takes one field after another from a line. After a missing field, the line has failed.
class LineParser {
  public:
    explicit LineParser(std::string_view line) : rest_(line) {}

    bool ok() const { return ok_; }
    std::string_view rest() const { return rest_; }

    template <typename T> T number(int base) {
        T value = 0;
        const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
        if (error != std::errc())
            fail();
        else
            rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
        return value;
    }
    void expect(char c) {
        if (rest_.empty() || rest_.front() != c)
            fail();
        else
            rest_.remove_prefix(1);
    }
    bool flag(char set, char unset) {
        if (rest_.empty() || (rest_.front() != set && rest_.front() != unset)) {
            fail();
            return false;
        }
        const bool value = rest_.front() == set;
        rest_.remove_prefix(1);
        return value;
    }

  private:
    void fail() {
        ok_ = false;
        rest_ = {};
    }
    std::string_view rest_;
    bool ok_ = true;
};

// The kernel shows a newline in a path as \012 and escapes nothing else (seq_file_path). Unescapes in place: `path`
// lies in `text`.
std::string_view unescape(std::string_view path, std::vector<char> &text) {
    constexpr auto kNewline = "\\012"sv;
    if (path.find(kNewline) == std::string_view::npos)
        return path;
    char *const begin = text.data() + (path.data() - text.data());
    char *out = begin;
    for (size_t i = 0; i < path.size();) {
        const bool newline = path.substr(i, kNewline.size()) == kNewline;
        *out++ = newline ? '\n' : path[i];
        i += newline ? kNewline.size() : 1;
    }
    return {begin, static_cast<size_t>(out - begin)};
}

Mapping::Kind kind_of(const Mapping &mapping) {
    // Without an inode, a name in brackets is the kernel's own. No file's path begins with a bracket.
    if (mapping.inode == 0) {
        if (mapping.path == "[vdso]")
            return Mapping::Kind::kVdso;
        if (mapping.path == "[uprobes]" || mapping.path == "[uprobes-trampoline]")
            return Mapping::Kind::kUprobeTrampoline;
    }
    // A map that was written by hand may have paths and no inodes.
    if (mapping.inode != 0 || mapping.path.starts_with('/'))
        return Mapping::Kind::kFile;
    return Mapping::Kind::kAnonymous;
}

std::optional<Mapping> parse_line(std::string_view line, std::vector<char> &text) {
    LineParser parser(line);
    Mapping mapping;
    mapping.start = RunAddr(parser.number<uint64_t>(16));
    parser.expect('-');
    mapping.end = RunAddr(parser.number<uint64_t>(16));
    parser.expect(' ');
    mapping.readable = parser.flag('r', '-');
    mapping.writable = parser.flag('w', '-');
    mapping.executable = parser.flag('x', '-');
    mapping.shared = parser.flag('s', 'p');
    parser.expect(' ');
    mapping.offset = FileOffset(parser.number<uint64_t>(16));
    parser.expect(' ');
    mapping.device_major = parser.number<uint32_t>(16);
    parser.expect(':');
    mapping.device_minor = parser.number<uint32_t>(16);
    parser.expect(' ');
    mapping.inode = parser.number<uint64_t>(10);
    if (!parser.ok() || mapping.start >= mapping.end)
        return std::nullopt;
    std::string_view path = parser.rest();
    if (!path.empty()) {
        if (path.front() != ' ')
            return std::nullopt;
        path.remove_prefix(std::min(path.find_first_not_of(' '), path.size()));
    }
    mapping.path = unescape(path, text);
    mapping.deleted = mapping.path.ends_with(" (deleted)");
    mapping.kind = kind_of(mapping);
    // An offset that exceeds 2^64 cannot belong to a file.
    if (mapping.offset.value + (mapping.end - mapping.start) < mapping.offset.value)
        return std::nullopt;
    return mapping;
}

// Whether a name may be a file's, without saying where the file is. The kernel's own names are in brackets. The name of
// a mapped object without a directory has a colon, as in "anon_inode:[perf_event]". A file that its process cannot
// reach is "(unreachable)/…".
bool is_relative(std::string_view path) {
    return !path.empty() && path.front() != '/' && path.front() != '[' && path.find(":[") == std::string_view::npos &&
           !path.starts_with("(unreachable)");
}

} // namespace

bool Mapping::is_memory_file() const {
    static constexpr std::array kPrefixes = {"/memfd:"sv,        "/dev/shm/"sv, "/dev/zero"sv,   "/SYSV"sv,
                                             "/anon_hugepage"sv, "//anon"sv,    "anon_inode:"sv, "[anon_shmem:"sv};
    return std::ranges::any_of(kPrefixes, [&](std::string_view prefix) { return path.starts_with(prefix); });
}

Result<Maps> Maps::parse(std::vector<char> text, Order order) {
    if (text.size() > kMaxMapsBytes)
        return Error{DWUNW_ERR_LIMIT, text.size()};
    Maps maps;
    maps.text_ = std::move(text);
    const std::string_view all(maps.text_.data(), maps.text_.size());
    std::vector<Mapping> &mappings = maps.mappings_;
    mappings.reserve(static_cast<size_t>(std::ranges::count(all, '\n')) + 1);

    uint64_t line_number = 0;
    for (size_t begin = 0; begin < all.size();) {
        ++line_number;
        const size_t end = std::min(all.find('\n', begin), all.size());
        auto mapping = parse_line(all.substr(begin, end - begin), maps.text_);
        begin = end + 1;
        if (!mapping || (order == Order::kStrict && is_relative(mapping->path)))
            return Error{DWUNW_ERR_MAPS_MALFORMED, line_number};
        if (!mappings.empty() && mapping->start < mappings.back().end) {
            if (order == Order::kStrict)
                return Error{DWUNW_ERR_MAPS_MALFORMED, line_number};
            while (!mappings.empty() && mappings.back().start >= mapping->start)
                mappings.pop_back();
            if (!mappings.empty())
                mappings.back().end = std::min(mappings.back().end, mapping->start);
        }
        mappings.push_back(*mapping);
    }
    maps.index();
    return maps;
}

Maps Maps::assemble(std::vector<Mapping> mappings, std::vector<char> text) {
    Maps maps;
    maps.text_ = std::move(text);
    maps.mappings_ = std::move(mappings);
    maps.index();
    return maps;
}

void Maps::index() {
    starts_.reserve(mappings_.size());
    for (const Mapping &mapping : mappings_) {
        starts_.push_back(mapping.start.value);
        if (!mapping.executable)
            continue;
        if (!code_.empty() && code_.back().end == mapping.start.value)
            code_.back().end = mapping.end.value;
        else
            code_.push_back({mapping.start.value, mapping.end.value});
    }
}

std::span<const uint32_t> Maps::of_same_file(const Mapping &mapping) const {
    using File = std::tuple<uint64_t, uint32_t, uint32_t, std::string_view>;
    const auto file_of = [](const Mapping &m) { return File(m.inode, m.device_major, m.device_minor, m.path); };
    const auto file_at = [&](uint32_t number) { return file_of(mappings_[number]); };
    std::vector<uint32_t> &numbers = by_file_->numbers;
    if (const std::lock_guard lock(by_file_->mutex); numbers.size() != mappings_.size()) {
        numbers.resize(mappings_.size());
        std::iota(numbers.begin(), numbers.end(), uint32_t{0});
        std::ranges::stable_sort(numbers, {}, file_at);
    }
    // Clang 14 cannot make a span of equal_range's result.
    const auto first = std::ranges::lower_bound(numbers, file_of(mapping), {}, file_at);
    const auto last = std::ranges::upper_bound(first, numbers.end(), file_of(mapping), {}, file_at);
    return std::span(numbers).subspan(static_cast<size_t>(first - numbers.begin()), static_cast<size_t>(last - first));
}

Result<Maps> Maps::read(int maps_fd) {
    std::vector<char> text(64 << 10);
    size_t size = 0;
    while (true) {
        if (size == text.size()) {
            if (size >= kMaxMapsBytes)
                return Error{DWUNW_ERR_LIMIT, size};
            text.resize(std::min(size * 2, kMaxMapsBytes));
        }
        const ssize_t got = ::pread(maps_fd, text.data() + size, text.size() - size, static_cast<off_t>(size));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_from_errno(errno);
        if (got == 0)
            break;
        size += static_cast<size_t>(got);
    }
    text.resize(size);
    return parse(std::move(text), Order::kLive);
}

const Mapping *Maps::find(RunAddr address) const {
    const auto above = std::ranges::upper_bound(starts_, address.value);
    if (above == starts_.begin())
        return nullptr;
    const Mapping &mapping = mappings_[static_cast<size_t>(above - starts_.begin()) - 1];
    return address < mapping.end ? &mapping : nullptr;
}

MappingQuery query_mapping(int maps_fd, RunAddr address) {
    // struct procmap_query of Linux 6.11; Debian 12's headers are older.
    struct Query {
        uint64_t size = sizeof(Query);
        uint64_t flags = 0; // 0: the mapping that covers the address, of any kind
        uint64_t address = 0;
        uint64_t start = 0;
        uint64_t end = 0;
        uint64_t protection = 0;
        uint64_t page_size = 0;
        uint64_t offset = 0;
        uint64_t inode = 0;
        uint32_t device_major = 0;
        uint32_t device_minor = 0;
        uint32_t name_size = 0;
        uint32_t build_id_size = 0;
        uint64_t name = 0;
        uint64_t build_id = 0;
    };
    static_assert(sizeof(Query) == 104);
    enum : uint64_t { kReadable = 1, kWritable = 2, kExecutable = 4, kShared = 8 };

    Query query;
    query.address = address.value;
    MappingQuery result;
    int status;
    do
        status = ::ioctl(maps_fd, _IOC(_IOC_READ | _IOC_WRITE, 'f', 17, sizeof(Query)), &query);
    while (status < 0 && errno == EINTR);
    if (status < 0) {
        if (errno == ENOENT)
            result.outcome = MappingQuery::Outcome::kUnmapped;
        else if (errno == ESRCH)
            result.outcome = MappingQuery::Outcome::kGone;
        return result;
    }
    result.outcome = MappingQuery::Outcome::kFound;
    result.mapping.start = RunAddr(query.start);
    result.mapping.end = RunAddr(query.end);
    result.mapping.offset = FileOffset(query.offset);
    result.mapping.inode = query.inode;
    result.mapping.device_major = query.device_major;
    result.mapping.device_minor = query.device_minor;
    result.mapping.readable = (query.protection & kReadable) != 0;
    result.mapping.writable = (query.protection & kWritable) != 0;
    result.mapping.executable = (query.protection & kExecutable) != 0;
    result.mapping.shared = (query.protection & kShared) != 0;
    return result;
}

} // namespace dwunw::process
