// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>

namespace dwunw::process {

namespace {

// One version of a file's content.
class VersionOfFile final : public ByteSource {
  public:
    VersionOfFile(std::shared_ptr<const ByteSource> source, int fd, const FileIdentity &identity)
        : source_(std::move(source)), fd_(fd), identity_(identity) {}

    uint64_t size() const override { return source_->size(); }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override { return source_->read(offset, buffer); }
    bool unchanged() const override {
        struct stat status;
        return ::fstat(fd_, &status) == 0 && FileIdentity::from(status) == identity_;
    }

  private:
    std::shared_ptr<const ByteSource> source_; // holds fd_ open
    int fd_;
    FileIdentity identity_;
};

// Reads the bytes of executable segments, by address. Reads nothing if the file has changed.
unwind::ReadCode code_reader(const elf::Image &image, std::shared_ptr<const ByteSource> source) {
    std::vector<elf::Segment> segments;
    std::ranges::copy_if(image.load_segments(), std::back_inserter(segments), &elf::Segment::executable);
    return [segments = std::move(segments), source = std::move(source)](LinkAddr address, std::span<uint8_t> buffer) {
        for (const elf::Segment &segment : segments) {
            const uint64_t skip = address - segment.address;
            if (address < segment.address || skip >= segment.file_size)
                continue;
            const size_t length = std::min<uint64_t>(buffer.size(), segment.file_size - skip);
            const size_t got = source->read(segment.offset + skip, buffer.first(length));
            return source->unchanged() ? got : 0;
        }
        return size_t{0};
    };
}

} // namespace

Module::Module(std::shared_ptr<const ByteSource> source, int fd, std::optional<FileIdentity> identity,
               std::shared_ptr<ModuleBudget> budget, const char *debug_root)
    : source_(identity ? std::make_shared<const VersionOfFile>(std::move(source), fd, *identity) : std::move(source)),
      fd_(fd), identity_(identity), budget_(std::move(budget)), debug_root_(debug_root) {}

const Result<elf::Image> &Module::image() const {
    std::call_once(image_once_, [this] {
        auto image = elf::Image::parse(*source_);
        if (!unchanged())
            image = Error{DWUNW_ERR_MODULE_CHANGED};
        if (image && budget_ != nullptr) {
            if (auto share = budget_->images.take(image->memory_bytes()))
                image_share_ = std::move(*share);
            else
                image = Error{DWUNW_ERR_LIMIT, image->memory_bytes()};
        }
        image_.emplace(std::move(image));
    });
    return *image_;
}

Result<std::shared_ptr<const unwind::ModuleCfi>> Module::cfi() const {
    const std::lock_guard lock(cfi_mutex_);
    if (cfi_)
        return *cfi_;
    lacked_room_.store(0, std::memory_order_relaxed);
    auto built = build_cfi(Read::kAsAsked);
    if (lacked_room() == 0)
        cfi_.emplace(built);
    return built;
}

Result<Budget::Share> Module::take_room(const elf::Image &image, const DebugFrame &debug_frame) const {
    // A section that cannot be read takes no memory.
    const auto size_of = [](const elf::Image &of, const ByteSource &source, const char *name) {
        const auto size = of.section_size(source, name);
        return size ? *size : 0;
    };
    uint64_t bytes = size_of(debug_frame.image, debug_frame.source, ".debug_frame");
    if (image.is_compressed(".eh_frame"))
        bytes += size_of(image, *source_, ".eh_frame");
    auto share = budget_->sections.take(bytes);
    if (share)
        return std::move(*share);
    lacked_room_.store(bytes, std::memory_order_relaxed);
    return Error{DWUNW_ERR_LIMIT, bytes};
}

size_t Module::drop_cfi() const {
    std::shared_ptr<const unwind::ModuleCfi> dropped;
    const std::lock_guard lock(cfi_mutex_);
    if (!cfi_ || !*cfi_ || (*cfi_)->use_count() != 1)
        return 0;
    dropped = std::move(**cfi_);
    cfi_.reset();
    return dropped->memory_bytes();
}

bool Module::holds_share() const {
    const std::lock_guard lock(cfi_mutex_);
    return cfi_ && *cfi_ && (**cfi_)->share_bytes() != 0;
}

size_t Module::cfi_bytes() const {
    const std::lock_guard lock(cfi_mutex_);
    return cfi_ && *cfi_ ? (**cfi_)->memory_bytes() : 0;
}

Result<std::shared_ptr<const unwind::ModuleCfi>> Module::build_cfi(Read read) const {
    const Result<elf::Image> &image = this->image();
    if (!image)
        return image.error();
    std::optional<DebugFile> debug_file;
    if (const auto own = image->section_size(*source_, ".debug_frame"); read == Read::kAsAsked && own && *own == 0)
        if (auto opened = DebugFile::open(debug_root_, image->build_id()))
            debug_file = std::move(*opened);
    const DebugFrame where =
        debug_file ? DebugFrame{debug_file->image, *debug_file->source} : DebugFrame{*image, *source_};

    unwind::CfiInput input;
    if (read == Read::kAsAsked && budget_ != nullptr) {
        auto share = take_room(*image, where);
        if (!share)
            return share.error();
        input.share = std::move(*share);
    }
    Result<std::optional<LazySection>> eh_frame = std::optional<LazySection>();
    if (read == Read::kAsAsked)
        eh_frame = image->open_eh_frame(source_);
    else if (auto bytes = image->read_eh_frame(*source_); !bytes)
        eh_frame = bytes.error();
    else if (*bytes)
        eh_frame = std::optional<LazySection>(std::move(**bytes));
    auto debug_frame = where.image.read_section(where.source, ".debug_frame");
    if (!unchanged())
        return Error{DWUNW_ERR_MODULE_CHANGED};
    // If one section cannot be read, the other one's rules are still valid.
    if (eh_frame)
        input.eh_frame = std::move(*eh_frame);
    if (debug_frame)
        input.debug_frame = std::move(*debug_frame);
    if (!input.eh_frame && !input.debug_frame) {
        if (!eh_frame)
            return eh_frame.error();
        if (!debug_frame)
            return debug_frame.error();
    }
    if (read == Read::kAsAsked)
        input.read_code = code_reader(*image, source_);
    if (input.eh_frame)
        input.eh_frame_hdr = image->open_eh_frame_hdr(source_);
    input.text_base = image->text_base();
    input.data_base = image->data_base();
    input.machine = image->machine();
    auto built = unwind::ModuleCfi::build(std::move(input));
    if (!built)
        return built.error();
    return std::shared_ptr<const unwind::ModuleCfi>(std::move(*built));
}

std::optional<LoadBias> load_bias(const elf::Image &image, const Mapping &mapping) {
    static const uint64_t page_size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const elf::Segment *best = nullptr;
    for (const elf::Segment &segment : image.load_segments()) {
        const uint64_t first = segment.offset.value & ~(page_size - 1);
        if (segment.file_size == 0 || mapping.offset.value < first ||
            mapping.offset.value - first >= segment.file_size + (segment.offset.value - first))
            continue;
        if (mapping.executable && !segment.executable)
            continue;
        if (best == nullptr || (segment.executable == mapping.executable && best->executable != mapping.executable))
            best = &segment;
    }
    if (best == nullptr)
        return std::nullopt;
    // run = mapping.start + (file offset − mapping.offset), link = segment.address + (file offset − segment.offset)
    return LoadBias{mapping.start.value - mapping.offset.value + best->offset.value - best->address.value};
}

} // namespace dwunw::process
