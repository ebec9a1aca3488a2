// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/target.h"

#include "elf/image.h"
#include "process/file_source.h"
#include "process/memory_image.h"
#include "process/module_store.h"

#include <elf.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <limits>

namespace dwunw::core {

using process::FileSource;
using process::LocatedFile;
using process::Mapping;
using process::Maps;
using process::MemoryImage;
using process::Module;
using process::ModuleStore;
using process::OpenedFiles;

namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kVdsoName = "[vdso]";
constexpr std::string_view kUprobesName = "[uprobes]";
// The bytes of a module's beginning that are compared if there is no build-id.
constexpr size_t kComparedBytes = 64 << 10;
// Compilers and linkers place program headers directly behind the ELF header.
constexpr size_t kHeaderPage = 4096;
constexpr size_t kMaxMappingsOfModule = 64; // between its first and its last

const CoreFile::MappedFile *file_at(const std::vector<CoreFile::MappedFile> &files, RunAddr address) {
    const auto above = std::ranges::upper_bound(files, address, {}, &CoreFile::MappedFile::start);
    if (above == files.begin() || address >= std::prev(above)->end)
        return nullptr;
    return &*std::prev(above);
}

// The kernel's page for uprobes. It is execute-only, and no core holds it.
bool is_uprobes_page(const CoreFile::Segment &segment) {
    return segment.executable && !segment.readable && !segment.writable && segment.file_size == 0 &&
           segment.memory_size == kHeaderPage;
}

// The bytes of a module's file that the core has.
class HeldBytes final : public ByteSource {
  public:
    HeldBytes(const CoreFile &core, const Maps &maps, const Mapping &mapping)
        : core_(core), parts_(image_mappings(maps, mapping)) {
        for (const Mapping *part : parts_)
            size_ = std::max(size_, part->offset.value + (part->end - part->start));
        beginning_size_ = read_core(FileOffset(0), beginning_);
    }

    uint64_t size() const override { return size_; }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override {
        if (offset.value <= beginning_size_ && buffer.size() <= beginning_size_ - offset.value) {
            std::copy_n(beginning_.begin() + static_cast<ptrdiff_t>(offset.value), buffer.size(), buffer.begin());
            return buffer.size();
        }
        return read_core(offset, buffer);
    }

    // Whether the core has every byte of these mappings.
    bool complete() const {
        return !parts_.empty() &&
               std::ranges::all_of(parts_, [&](const Mapping *part) { return core_.holds(part->start, part->end); });
    }

  private:
    size_t read_core(FileOffset offset, std::span<uint8_t> buffer) const {
        size_t done = 0;
        for (const Mapping *part : parts_) {
            const uint64_t at = offset.value + done;
            if (done == buffer.size() || part->offset.value > at)
                break;
            if (at - part->offset.value >= part->end - part->start)
                continue;
            const uint64_t within = at - part->offset.value;
            const uint64_t room = std::min<uint64_t>(buffer.size() - done, (part->end - part->start) - within);
            done += core_.read(part->start + within, buffer.subspan(done, room));
        }
        return done;
    }

    const CoreFile &core_;
    std::vector<const Mapping *> parts_;
    uint64_t size_ = 0;
    // The module's headers and build-id are here, and are read piece by piece.
    std::array<uint8_t, kHeaderPage> beginning_;
    size_t beginning_size_ = 0;
};

bool same_segments(const elf::Image &a, const elf::Image &b) {
    return std::ranges::equal(
        a.load_segments(), b.load_segments(), [](const elf::Segment &left, const elf::Segment &right) {
            return left.offset == right.offset && left.file_size == right.file_size && left.address == right.address &&
                   left.memory_size == right.memory_size && left.executable == right.executable;
        });
}

bool same_beginning(const ByteSource &held, const ByteSource &file) {
    std::vector<uint8_t> in_core(kComparedBytes);
    in_core.resize(held.read(FileOffset(0), in_core));
    std::vector<uint8_t> in_file(in_core.size());
    return in_core.size() >= sizeof(Elf64_Ehdr) && file.read_exactly(FileOffset(0), in_file) && in_core == in_file;
}

bool file_is_no_elf(const ByteSource &source) {
    std::array<uint8_t, SELFMAG> magic;
    return source.read_exactly(FileOffset(0), magic) && std::memcmp(magic.data(), ELFMAG, SELFMAG) != 0;
}

// Whether the file is the one that the process had.
Status check_identity(const ByteSource &held, const elf::Image &held_image, const ByteSource &file,
                      const Result<elf::Image> &image) {
    if (!image)
        return Error{DWUNW_ERR_MODULE_CHANGED};
    const bool same = held_image.build_id().empty()
                          ? same_beginning(held, file)
                          : image->build_id() == held_image.build_id() && same_segments(*image, held_image);
    return same ? Status() : Error{DWUNW_ERR_MODULE_CHANGED};
}

} // namespace

CoreTarget::CoreTarget(CoreFile core, std::string exe, std::string sysroot)
    : core_(std::move(core)), exe_(std::move(exe)), sysroot_(std::move(sysroot)) {
    const auto &files = core_.mapped_files();
    for (const uint64_t key : {AT_ENTRY, AT_PHDR}) {
        const auto address = core_.auxiliary(key);
        const CoreFile::MappedFile *file = address ? file_at(files, RunAddr(*address)) : nullptr;
        if (file != nullptr) {
            exe_path_ = file->path;
            return;
        }
    }
    // The kernel maps the program below everything else, and writes the map in ascending order.
    if (!files.empty())
        exe_path_ = files.front().path;
}

// For a mapping without a PT_LOAD: looks at the program headers in the core. If these do not tell, the mapping counts
// as code: then its file decides, and a file that cannot be identified ends the walk.
bool CoreTarget::is_executable(const CoreFile::MappedFile &piece) const {
    const auto &files = core_.mapped_files();
    auto at = std::ranges::upper_bound(files, piece.start, {}, &CoreFile::MappedFile::start);
    for (size_t steps = 0; steps < kMaxMappingsOfModule && at != files.begin(); ++steps)
        if ((--at)->path != piece.path || at->offset.value == 0)
            break;
    if (at == files.end() || at->path != piece.path || at->offset.value != 0)
        return true;
    std::array<uint8_t, kHeaderPage> page;
    const size_t got = core_.read(at->start, page);
    Elf64_Ehdr header;
    if (got < sizeof(header))
        return true;
    std::memcpy(&header, page.data(), sizeof(header));
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
        return true;
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phoff > got ||
        header.e_phnum > (got - header.e_phoff) / sizeof(Elf64_Phdr))
        return true;
    std::optional<uint64_t> bias;
    for (size_t i = 0; i < header.e_phnum; ++i) {
        Elf64_Phdr segment;
        std::memcpy(&segment, page.data() + header.e_phoff + i * sizeof(segment), sizeof(segment));
        if (segment.p_type != PT_LOAD)
            continue;
        if (!bias)
            bias = at->start.value - (segment.p_vaddr - segment.p_offset);
        const uint64_t link = piece.start.value - *bias;
        // Compares pages, not bytes: a segment that begins within a page has the whole page.
        if (link - (segment.p_vaddr & ~(kHeaderPage - 1)) < segment.p_memsz + segment.p_vaddr % kHeaderPage)
            return (segment.p_flags & PF_X) != 0;
    }
    return true;
}

Maps CoreTarget::maps() const {
    const auto &files = core_.mapped_files();
    const auto &segments = core_.segments();
    const auto vdso = core_.auxiliary(AT_SYSINFO_EHDR);

    size_t text_size = kVdsoName.size() + kUprobesName.size();
    for (const auto &file : files)
        text_size += file.path.size();
    std::vector<char> text;
    text.reserve(text_size); // the views must stay valid
    const auto keep = [&](std::string_view name) {
        const size_t at = text.size();
        text.insert(text.end(), name.begin(), name.end());
        return std::string_view(text.data() + at, name.size());
    };
    const std::string_view vdso_name = keep(kVdsoName);
    const std::string_view uprobes_name = keep(kUprobesName);

    std::vector<Mapping> mappings;
    const auto add = [&](RunAddr start, RunAddr end, const CoreFile::MappedFile *file, std::string_view path,
                         const CoreFile::Segment *segment) {
        Mapping mapping;
        mapping.start = start;
        mapping.end = end;
        if (segment != nullptr) {
            mapping.readable = segment->readable;
            mapping.writable = segment->writable;
            mapping.executable = segment->executable;
        }
        if (file != nullptr) {
            mapping.kind = Mapping::Kind::kFile;
            mapping.inode = 1; // a core has no inodes; a value other than 0 means that there is a file
            mapping.offset = file->offset + (start - file->start);
            mapping.path = path;
            mapping.deleted = path.ends_with(kDeleted);
            if (segment == nullptr) {
                mapping.readable = true;
                mapping.executable = is_executable({start, end, mapping.offset, file->path});
            }
        } else if (vdso && start.value == *vdso) {
            mapping.kind = Mapping::Kind::kVdso;
            mapping.path = vdso_name;
        } else if (is_uprobes_page(*segment) && start.value <= std::numeric_limits<int64_t>::max()) {
            mapping.kind = Mapping::Kind::kUprobeTrampoline;
            mapping.path = uprobes_name;
        }
        mappings.push_back(mapping);
    };

    // Both lists ascend; a piece ends where either list changes.
    auto file = files.begin();
    auto segment = segments.begin();
    std::string_view path = file != files.end() ? keep(file->path) : std::string_view();
    constexpr RunAddr kNone(std::numeric_limits<uint64_t>::max());
    RunAddr at;
    while (file != files.end() || segment != segments.end()) {
        const RunAddr file_start = file != files.end() ? std::max(at, file->start) : kNone;
        const RunAddr segment_start = segment != segments.end() ? std::max(at, segment->start) : kNone;
        const RunAddr start = std::min(file_start, segment_start);
        const bool in_file = file != files.end() && file_start == start;
        const bool in_segment = segment != segments.end() && segment_start == start;
        const RunAddr file_end = in_file ? file->end : file_start;
        const RunAddr segment_end = in_segment ? segment->end() : segment_start;
        at = std::min(file_end, segment_end);
        add(start, at, in_file ? &*file : nullptr, path, in_segment ? &*segment : nullptr);
        if (in_file && at == file->end)
            path = ++file != files.end() ? keep(file->path) : std::string_view();
        if (in_segment && at == segment->end())
            ++segment;
    }
    return Maps::assemble(std::move(mappings), std::move(text));
}

// What was not dumped of a segment, at its end or all of it, is no hole that the core was cut off at.
bool CoreTarget::is_left_out(RunAddr address) const {
    const CoreFile::Segment *segment = core_.segment_at(address);
    return segment == nullptr || address - segment->start >= segment->file_size;
}

Result<const dwunw_module *> CoreTarget::open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                                     OpenedFiles *opened) const {
    if (mapping.kind == Mapping::Kind::kFile) {
        const auto open = [&] { return open_file(store, maps, mapping); };
        return opened != nullptr ? opened->get(maps, mapping, open) : open();
    }
    auto image = MemoryImage::copy(maps, mapping, *this);
    if (!image)
        return image.error();
    return store.intern(std::move(*image), mapping.path);
}

Result<const dwunw_module *> CoreTarget::open_file(ModuleStore &store, const Maps &maps, const Mapping &mapping) const {
    const HeldBytes held(core_, maps, mapping);
    const auto held_image = elf::Image::parse(held);
    // The core has its first bytes, and they are not an ELF file's.
    std::array<uint8_t, SELFMAG> magic;
    if (!held_image && held_image.error().status == DWUNW_ERR_NOT_ELF && held.read_exactly(FileOffset(0), magic))
        return held_image.error();

    Error error{DWUNW_ERR_NO_FILE};
    const auto try_path = [&](const std::string &path) -> Result<const dwunw_module *> {
        auto file = LocatedFile::locate(AT_FDCWD, path.c_str());
        if (!file)
            return file.error();
        // Most files of most cores are known from another core, and need not be opened or read again.
        const Module *known = store.known(file->identity());
        Status status;
        if (known == nullptr) {
            auto fd = file->open();
            if (!fd)
                return fd.error();
            const FileSource source(std::make_shared<const UniqueFd>(std::move(*fd)), file->identity().size);
            // In every version, the file is not an ELF image. Its code is the bytes that the core has.
            if (!held_image && file_is_no_elf(source))
                return Error{DWUNW_ERR_NOT_ELF};
            if (!held_image)
                return Error{DWUNW_ERR_MODULE_CHANGED};
            status = check_identity(held, *held_image, source, elf::Image::parse(source));
        } else {
            if (!held_image)
                return Error{DWUNW_ERR_MODULE_CHANGED};
            status = check_identity(held, *held_image, known->source(), known->image());
        }
        if (!status)
            return status.error();
        return store.intern(*file, mapping.path);
    };

    std::vector<std::string> paths;
    if (!exe_.empty() && mapping.path == exe_path_) {
        paths.push_back(exe_);
    } else if (mapping.path.starts_with('/')) {
        paths.push_back(sysroot_ + std::string(mapping.path));
        // The name may lead to the same file again, if the file was installed anew or moved back.
        if (mapping.deleted)
            paths.push_back(paths.back().substr(0, paths.back().size() - kDeleted.size()));
    }
    for (const std::string &path : paths) {
        auto module = try_path(path);
        if (module || module.error().status == DWUNW_ERR_TOO_MANY_FILES)
            return module;
        // "There is another file" says more than "there is no file".
        if (error.status == DWUNW_ERR_NO_FILE)
            error = module.error();
    }
    if (held_image && held.complete()) {
        auto image = MemoryImage::copy(maps, mapping, *this);
        if (!image)
            return image.error();
        return store.intern(std::move(*image), mapping.path);
    }
    return error;
}

} // namespace dwunw::core
