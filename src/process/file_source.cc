// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/file_source.h"

#include "process/os_error.h"

#include <fcntl.h>

#include <array>
#include <charconv>
#include <limits>
#include <string_view>

namespace dwunw::process {

FileIdentity FileIdentity::from(const struct stat &status) {
    return {
        .device = status.st_dev,
        .inode = status.st_ino,
        .size = static_cast<uint64_t>(status.st_size),
        .mtime = {status.st_mtim.tv_sec, status.st_mtim.tv_nsec},
        .ctime = {status.st_ctim.tv_sec, status.st_ctim.tv_nsec},
    };
}

Result<LocatedFile> LocatedFile::locate(int directory, const char *path) {
    UniqueFd fd(::openat(directory, path, O_PATH | O_CLOEXEC));
    if (!fd.valid())
        return error_from_errno(errno);
    struct stat status;
    if (::fstat(fd.get(), &status) != 0)
        return error_from_errno(errno);
    if (!S_ISREG(status.st_mode))
        return Error{DWUNW_ERR_NOT_ELF, status.st_mode};
    return LocatedFile(std::move(fd), FileIdentity::from(status));
}

Result<UniqueFd> LocatedFile::open() const {
    // The descriptor's link in /proc opens the file that was checked, even if the path now names another one.
    std::array<char, 32> link{"/proc/self/fd/"};
    char *const number = link.data() + std::string_view(link.data()).size();
    *std::to_chars(number, link.data() + link.size() - 1, fd_.get()).ptr = '\0';
    UniqueFd fd(::open(link.data(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid())
        return error_from_errno(errno);
    return fd;
}

Result<FileSource> FileSource::open(const char *path) {
    auto located = LocatedFile::locate(AT_FDCWD, path);
    if (!located)
        return located.error();
    auto fd = located->open();
    if (!fd)
        return fd.error();
    return FileSource(std::make_shared<const UniqueFd>(std::move(*fd)), located->identity().size);
}

size_t FileSource::read(FileOffset offset, std::span<uint8_t> buffer) const {
    if (offset.value >= size_)
        return 0;
    return read_at(fd_->get(), offset.value, buffer.first(std::min<uint64_t>(buffer.size(), size_ - offset.value)));
}

size_t read_at(int fd, uint64_t offset, std::span<uint8_t> buffer) {
    size_t done = 0;
    while (done < buffer.size()) {
        // Addresses above 2^63 (only the vsyscall page in user space) are not file positions.
        if (offset + done > static_cast<uint64_t>(std::numeric_limits<off_t>::max()))
            break;
        const ssize_t got = ::pread(fd, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        done += static_cast<size_t>(got);
    }
    return done;
}

} // namespace dwunw::process
