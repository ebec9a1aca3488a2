// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module_locator.h"

#include "process/live_target.h"
#include "process/memory_image.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace dwunw::process {
namespace {

bool same_inode(const Mapping &mapping, const FileIdentity &identity) { return mapping.inode == identity.inode; }

bool same_device(const Mapping &mapping, const FileIdentity &identity) {
    return makedev(mapping.device_major, mapping.device_minor) == identity.device;
}

// Failures of candidates by what they say about the mapping, the strongest first: there is a file, and it is another
// one; there may be a file; there is none.
int weight(dwunw_status status) {
    switch (status) {
    case DWUNW_ERR_TOO_MANY_FILES:
    case DWUNW_ERR_OUT_OF_MEMORY:
        return 5;
    case DWUNW_ERR_MODULE_CHANGED:
        return 4;
    case DWUNW_ERR_PERMISSION:
        return 3;
    case DWUNW_ERR_NO_FILE:
        return 1;
    default:
        return 2;
    }
}

class Opener {
  public:
    Opener(ModuleStore &store, const Maps &maps, const Mapping &mapping, const LiveTarget *target,
           const FilePlaces *places, OpenedFiles *copied)
        : store_(store), maps_(maps), mapping_(mapping), target_(target), places_(places), copied_(copied) {}

    Result<const dwunw_module *> open() {
        if (mapping_.kind == Mapping::Kind::kFile) {
            if (target_ != nullptr) {
                auto by_mapping = open_map_file();
                if (by_mapping || by_mapping.error().status == DWUNW_ERR_NOT_ELF || out_of_resources(by_mapping))
                    return by_mapping;
                note(by_mapping.error());
            }
            if (mapping_.path.starts_with('/')) {
                std::string path(mapping_.path);
                if (target_ == nullptr && placed())
                    path = is_program() && !places_->exe.empty() ? places_->exe : places_->sysroot + path;
                if (target_ != nullptr) {
                    auto in_root = open_path(target_->directory_fd(), "root" + path);
                    if (in_root || out_of_resources(in_root))
                        return in_root;
                    note(in_root.error());
                }
                auto by_path = open_path(AT_FDCWD, path);
                if (by_path || out_of_resources(by_path))
                    return by_path;
                note(by_path.error());
            }
        }
        if (target_ != nullptr) {
            const bool shared = copied_ != nullptr && mapping_.kind == Mapping::Kind::kFile;
            auto copied = shared ? copied_->get(maps_, mapping_, [this] { return copy_memory(); }) : copy_memory();
            if (copied || copied.error().status == DWUNW_ERR_NOT_ELF)
                return copied;
            note(copied.error());
        }
        return error_;
    }

  private:
    static bool out_of_resources(const Result<const dwunw_module *> &result) {
        return !result &&
               (result.error().status == DWUNW_ERR_TOO_MANY_FILES || result.error().status == DWUNW_ERR_OUT_OF_MEMORY);
    }
    bool placed() const { return places_ != nullptr && places_->given(); }
    // The kernel maps the program below everything else, and writes the map in ascending order.
    bool is_program() const {
        const auto first =
            std::ranges::find(maps_.mappings(), Mapping::Kind::kFile, [](const Mapping &m) { return m.kind; });
        return first != maps_.mappings().end() && first->path == mapping_.path;
    }
    void note(const Error &error) {
        if (weight(error.status) > weight(error_.status))
            error_ = error;
    }

    Result<const dwunw_module *> copy_memory() {
        auto image = MemoryImage::copy(maps_, mapping_, *target_);
        if (!image)
            return image.error();
        return store_.intern(std::move(*image), mapping_.path);
    }

    Result<const dwunw_module *> open_map_file() {
        std::array<char, 64> name;
        std::snprintf(name.data(), name.size(), "map_files/%llx-%llx",
                      static_cast<unsigned long long>(mapping_.start.value),
                      static_cast<unsigned long long>(mapping_.end.value));
        auto file = LocatedFile::locate(target_->directory_fd(), name.data());
        if (!file)
            return file.error();
        // This is the file that is mapped there now. If the inode is the map's, it is also the file that the map means.
        // If not, either the file system shows other inodes in the map, or the mapping was replaced after the map was
        // read.
        if (!same_inode(mapping_, file->identity()) && !target_->still_mapped(mapping_))
            return Error{DWUNW_ERR_MODULE_CHANGED, file->identity().inode};
        return store_.intern(*file, mapping_.path);
    }

    Result<const dwunw_module *> open_path(int directory, const std::string &path) {
        auto file = LocatedFile::locate(directory, path.c_str());
        if (!file)
            return file.error();
        if (!is_mapped_file(*file))
            return Error{DWUNW_ERR_MODULE_CHANGED, file->identity().inode};
        return store_.intern(*file, mapping_.path,
                             target_ != nullptr ? ModuleStore::Content::kElf : ModuleStore::Content::kAny);
    }

    bool is_mapped_file(const LocatedFile &file) const {
        if (same_inode(mapping_, file.identity()) && same_device(mapping_, file.identity()))
            return true;
        if (target_ != nullptr)
            return first_page_in_memory(file);
        if (placed())
            return true;
        // A map that was written by hand has no inodes; btrfs shows another device in maps.
        return mapping_.inode == 0 || same_inode(mapping_, file.identity());
    }

    // Whether the file's first page, with ELF header, program headers and build-id, is equal to the process's memory of
    // it.
    bool first_page_in_memory(const LocatedFile &file) const {
        const auto first = std::ranges::find_if(maps_.mappings(), [this](const Mapping &m) {
            return m.same_file(mapping_) && m.offset.value == 0 && m.readable && !m.writable;
        });
        if (first == maps_.mappings().end())
            return false;
        auto fd = file.open();
        if (!fd)
            return false;
        const FileSource source(std::make_shared<const UniqueFd>(std::move(*fd)), file.identity().size);
        auto image = elf::Image::parse(source);
        if (!image || image->build_id().empty())
            return false;
        std::array<uint8_t, 4096> in_file;
        std::array<uint8_t, 4096> in_memory;
        const size_t length = std::min<uint64_t>(source.read(FileOffset(0), in_file), first->end - first->start);
        if (target_->read(first->start, std::span(in_memory).first(length)) != length)
            return false;
        const auto page = std::span(in_file).first(length);
        return std::ranges::equal(page, std::span(in_memory).first(length)) &&
               std::search(page.begin(), page.end(), image->build_id().begin(), image->build_id().end()) != page.end();
    }

    ModuleStore &store_;
    const Maps &maps_;
    const Mapping &mapping_;
    const LiveTarget *target_;
    const FilePlaces *places_;
    OpenedFiles *copied_;
    Error error_{DWUNW_ERR_NO_FILE};
};

} // namespace

Result<const dwunw_module *> open_module(ModuleStore &store, const Maps &maps, const Mapping &mapping,
                                         const LiveTarget *target, const FilePlaces *places, OpenedFiles *copied) {
    return Opener(store, maps, mapping, target, places, copied).open();
}

} // namespace dwunw::process
