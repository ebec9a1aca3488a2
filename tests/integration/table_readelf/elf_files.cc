// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "elf_files.h"

#include <cerrno>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

namespace table_readelf {
namespace {

namespace fs = std::filesystem;

// "" for x86-64 programs and libraries, and no ELF file at all: a name for what is left out.
std::string kind_of(const Elf64_Ehdr &header) {
    // e_type and e_machine lie where they lie in both classes.
    if (header.e_ident[EI_DATA] != ELFDATA2LSB)
        return "big-endian";
    if (header.e_type == ET_REL)
        return header.e_machine == EM_X86_64 ? "relocatable" : "relocatable, of another machine";
    if (header.e_ident[EI_CLASS] != ELFCLASS64)
        return "32-bit";
    if (header.e_machine == EM_AARCH64)
        return "aarch64";
    if (header.e_machine != EM_X86_64)
        return "of machine " + std::to_string(header.e_machine);
    return header.e_type == ET_EXEC || header.e_type == ET_DYN ? "" : "of type " + std::to_string(header.e_type);
}

} // namespace

void ElfFiles::add(const std::string &path) {
    if (!fs::is_directory(path))
        return add_file(path);
    for (const fs::directory_entry &entry : fs::recursive_directory_iterator(path)) {
        std::error_code dangling;
        if (entry.is_regular_file(dangling))
            add_file(entry.path());
    }
}

void ElfFiles::add_file(const std::string &path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        throw fs::filesystem_error("open", path, std::error_code(errno, std::generic_category()));
    struct stat status {};
    Elf64_Ehdr header{};
    const bool is_elf = ::fstat(fd, &status) == 0 && ::pread(fd, &header, sizeof header, 0) == sizeof header &&
                        std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0;
    ::close(fd);
    if (!is_elf)
        return;
    if (!seen_.insert({status.st_dev, status.st_ino}).second) {
        ++links;
        return;
    }
    if (const std::string kind = kind_of(header); !kind.empty())
        ++other[kind];
    else
        comparable.push_back({path, static_cast<uint64_t>(status.st_size)});
}

} // namespace table_readelf
