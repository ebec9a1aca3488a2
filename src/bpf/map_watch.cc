// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Proved by tests/unit/bpf_map_watch_test.
#include "bpf/map_watch.h"

#include "base/clock.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace dwunw::bpf {
namespace {

constexpr size_t kPage = 4096;
// For all processors together, approximately; some 25 records a page. With many processors, each has little room, which
// matters if polls are rare.
constexpr size_t kPagesOfAll = 4096;
constexpr size_t kFewestPages = 16;
constexpr size_t kMostPages = 512;
// If a buffer has less room than the longest record needs, a record may have been lost.
constexpr size_t kLongest = 2 * kPage;

int64_t time_suspended() { return static_cast<int64_t>(now_ns(CLOCK_BOOTTIME) - now_ns(CLOCK_MONOTONIC)); }

// Parses "0-3,8".
std::vector<int> parse_list(const std::string &text) {
    constexpr int kMost = 1 << 16;
    std::vector<int> numbers;
    const char *at = text.data();
    const char *const end = at + text.size();
    while (at < end) {
        int first = 0;
        auto got = std::from_chars(at, end, first);
        if (got.ec != std::errc())
            break;
        int last = first;
        if (got.ptr < end && *got.ptr == '-')
            got = std::from_chars(got.ptr + 1, end, last);
        for (int i = first; i <= last && i < kMost; ++i)
            numbers.push_back(i);
        at = got.ptr + 1;
    }
    return numbers;
}

} // namespace

void MapWatch::Unmapper::operator()(void *memory) const { ::munmap(memory, kPage + data_size); }

Result<MapWatch::Buffer> MapWatch::open_processor(int number, size_t pages) {
    perf_event_attr attributes{};
    attributes.size = sizeof(attributes);
    attributes.type = PERF_TYPE_SOFTWARE;
    attributes.config = PERF_COUNT_SW_DUMMY;
    attributes.mmap = 1;
    attributes.mmap2 = 1;
    attributes.comm = 1;
    attributes.comm_exec = 1;
    attributes.exclude_kernel = 1;
    attributes.sample_id_all = 1;
    attributes.sample_type = PERF_SAMPLE_TIME;
    attributes.use_clockid = 1;
    attributes.clockid = CLOCK_MONOTONIC;
    attributes.watermark = 1;
    attributes.wakeup_watermark = static_cast<uint32_t>(pages * kPage);
    Buffer buffer;
    buffer.fd =
        UniqueFd(static_cast<int>(::syscall(SYS_perf_event_open, &attributes, -1, number, -1, PERF_FLAG_FD_CLOEXEC)));
    if (!buffer.fd.valid())
        return Error{DWUNW_ERR_BPF, static_cast<uint64_t>(errno)};
    void *memory = ::mmap(nullptr, kPage + pages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, buffer.fd.get(), 0);
    if (memory == MAP_FAILED)
        return Error{DWUNW_ERR_BPF, static_cast<uint64_t>(errno)};
    buffer.memory = std::unique_ptr<void, Unmapper>(memory, Unmapper{pages * kPage});
    return buffer;
}

std::string MapWatch::processors() const {
    std::array<char, kPage> text{};
    const ssize_t got = ::pread(online_.get(), text.data(), text.size(), 0);
    return got > 0 ? std::string(text.data(), static_cast<size_t>(got)) : std::string();
}

Status MapWatch::open() {
    buffers_.clear();
    if (!online_.valid())
        online_ = UniqueFd(::open("/sys/devices/system/cpu/online", O_RDONLY | O_CLOEXEC));
    opened_for_ = processors();
    suspended_ = time_suspended();
    const std::vector<int> numbers = parse_list(opened_for_);
    const size_t pages =
        std::clamp(std::bit_floor(kPagesOfAll / std::max<size_t>(numbers.size(), 1) + 1), kFewestPages, kMostPages);
    for (const int number : numbers) {
        auto buffer = open_processor(number, pages);
        if (!buffer) {
            buffers_.clear();
            return buffer.error();
        }
        buffers_.push_back(std::move(*buffer));
    }
    drained_ = now_ns();
    return buffers_.empty() ? Status(Error{DWUNW_ERR_BPF}) : Status();
}

std::shared_ptr<Mapped> MapWatch::parse(std::span<const uint8_t> record, int32_t &pid) {
    struct Head {
        perf_event_header header;
        uint32_t pid, tid;
        uint64_t address, length, offset;
        uint32_t major, minor;
        uint64_t inode, inode_generation;
        uint32_t protection, flags;
    } head{};
    static_assert(sizeof(Head) == 72);
    uint64_t time = 0;
    if (record.size() < sizeof(head) + sizeof(time))
        return nullptr;
    std::memcpy(&head, record.data(), sizeof(head));
    if (head.header.type != PERF_RECORD_MMAP2 || (head.header.misc & PERF_RECORD_MISC_MMAP_BUILD_ID) != 0 ||
        (head.protection & PROT_EXEC) == 0 || head.length == 0 || head.address + head.length < head.address ||
        head.offset + head.length < head.offset)
        return nullptr;
    std::memcpy(&time, record.data() + record.size() - sizeof(time), sizeof(time));
    const auto name = record.subspan(sizeof(head), record.size() - sizeof(head) - sizeof(time));
    auto mapped = std::make_shared<Mapped>();
    mapped->time = time;
    mapped->path.assign(name.begin(), std::ranges::find(name, 0));
    process::Mapping &mapping = mapped->mapping;
    mapping.start = RunAddr(head.address);
    mapping.end = RunAddr(head.address + head.length);
    mapping.offset = FileOffset(head.offset);
    mapping.inode = head.inode;
    mapping.device_major = head.major;
    mapping.device_minor = head.minor;
    mapping.readable = (head.protection & PROT_READ) != 0;
    mapping.writable = (head.protection & PROT_WRITE) != 0;
    mapping.executable = true;
    mapping.shared = (head.flags & MAP_SHARED) != 0;
    mapping.kind = head.inode != 0 ? process::Mapping::Kind::kFile : process::Mapping::Kind::kAnonymous;
    mapping.path = mapped->path;
    pid = static_cast<int32_t>(head.pid);
    return mapped;
}

std::optional<uint64_t> MapWatch::parse_exec(std::span<const uint8_t> record, int32_t &pid) {
    struct Head {
        perf_event_header header;
        uint32_t pid, tid;
    } head{};
    static_assert(sizeof(Head) == 16);
    uint64_t time = 0;
    if (record.size() < sizeof(head) + sizeof(time))
        return std::nullopt;
    std::memcpy(&head, record.data(), sizeof(head));
    // Other comm records are only new names of threads.
    if (head.header.type != PERF_RECORD_COMM || (head.header.misc & PERF_RECORD_MISC_COMM_EXEC) == 0)
        return std::nullopt;
    std::memcpy(&time, record.data() + record.size() - sizeof(time), sizeof(time));
    pid = static_cast<int32_t>(head.pid);
    return time;
}

// Takes the record in `record_`.
void MapWatch::take_record(const std::function<bool(int32_t pid)> &wanted) {
    int32_t pid = 0;
    if (record_.size() < sizeof(perf_event_header) + sizeof(pid))
        return;
    std::memcpy(&pid, record_.data() + sizeof(perf_event_header), sizeof(pid));
    if (!wanted(pid))
        return;
    if (auto mapped = parse(record_, pid))
        came_.push_back({pid, mapped->time, mapped});
    else if (const auto time = parse_exec(record_, pid))
        came_.push_back({pid, *time, nullptr});
}

bool MapWatch::read(Buffer &buffer, const std::function<bool(int32_t pid)> &wanted) {
    const size_t size = buffer.memory.get_deleter().data_size;
    auto *const page = static_cast<perf_event_mmap_page *>(buffer.memory.get());
    const auto *const data = static_cast<const uint8_t *>(buffer.memory.get()) + kPage;
    const uint64_t head = __atomic_load_n(&page->data_head, __ATOMIC_ACQUIRE);
    uint64_t tail = page->data_tail;
    bool complete = head - tail <= size - kLongest;
    const auto copy = [&](uint64_t from, std::span<uint8_t> out) {
        for (size_t done = 0; done < out.size();) {
            const size_t at = (from + done) % size;
            const size_t part = std::min(out.size() - done, size - at);
            std::memcpy(out.data() + done, data + at, part);
            done += part;
        }
    };
    while (head - tail >= sizeof(perf_event_header)) {
        perf_event_header header{};
        copy(tail, {reinterpret_cast<uint8_t *>(&header), sizeof(header)});
        if (header.size < sizeof(header) || header.size > head - tail) {
            complete = false;
            break;
        }
        if (header.type == PERF_RECORD_LOST)
            complete = false;
        if (header.type == PERF_RECORD_MMAP2 || header.type == PERF_RECORD_COMM) {
            record_.resize(header.size);
            copy(tail, record_);
            take_record(wanted);
            seen_ += header.type == PERF_RECORD_MMAP2;
        }
        tail += header.size;
    }
    __atomic_store_n(&page->data_tail, head, __ATOMIC_RELEASE);
    return complete;
}

bool MapWatch::drain(const std::function<bool(int32_t pid)> &wanted, const std::function<void(const Came &)> &take) {
    // Before the reading: records that are written during it belong to a later time.
    const auto now = now_ns();
    bool complete = true;
    came_.clear();
    for (Buffer &buffer : buffers_)
        complete = read(buffer, wanted) && complete;
    std::ranges::stable_sort(came_, {}, &Came::time);
    for (const Came &came : came_)
        take(came);
    came_.clear();
    // A new processor has no buffer yet. After a suspend, processors that were offline have none any more.
    constexpr int64_t kClocksApart = 1'000'000;
    if (processors() != opened_for_ || time_suspended() - suspended_ > kClocksApart) {
        complete = false;
        (void)open(); // without it, there is no history
    }
    drained_ = now;
    losses_ += !complete;
    return complete;
}

} // namespace dwunw::bpf
