// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Files as byte sources, opened without trust: a path that a target chooses may name a FIFO, which blocks its opener
// for ever, or a device that acts when it is opened.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "base/unique_fd.h"

#include <sys/stat.h>

#include <memory>

namespace dwunw::process {

// A file, and the version of its content. Two files with equal identities are the same file: device and inode identify
// it while someone holds it open; size and times change with its content, and its owner cannot set ctime.
struct FileIdentity {
    uint64_t device = 0;
    uint64_t inode = 0;
    uint64_t size = 0;
    struct Time {
        int64_t seconds = 0;
        int64_t nanoseconds = 0;
        bool operator==(const Time &) const = default;
    } mtime, ctime;

    static FileIdentity from(const struct stat &status);
    bool same_inode(const FileIdentity &other) const { return device == other.device && inode == other.inode; }
    bool operator==(const FileIdentity &) const = default;
};

// A regular file that was found and checked, but not opened for reading (O_PATH). Nothing has happened to it yet.
class LocatedFile {
  public:
    // `directory` and `path` as for openat. DWUNW_ERR_NO_FILE, DWUNW_ERR_PERMISSION, DWUNW_ERR_TOO_MANY_FILES;
    // DWUNW_ERR_NOT_ELF: not a regular file.
    static Result<LocatedFile> locate(int directory, const char *path);

    const FileIdentity &identity() const { return identity_; }
    // Opens it for reading.
    Result<UniqueFd> open() const;

  private:
    LocatedFile(UniqueFd fd, FileIdentity identity) : fd_(std::move(fd)), identity_(identity) {}
    UniqueFd fd_;
    FileIdentity identity_;
};

// A file's bytes, read with pread from a descriptor that it owns (or shares with other versions of the file). The size
// is that at opening: if the file grows, there are no more bytes; if it is truncated, reads are short.
class FileSource final : public ByteSource {
  public:
    FileSource(std::shared_ptr<const UniqueFd> fd, uint64_t size) : fd_(std::move(fd)), size_(size) {}
    // A regular file by path; errors as LocatedFile's.
    static Result<FileSource> open(const char *path);

    uint64_t size() const override { return size_; }
    size_t read(FileOffset offset, std::span<uint8_t> buffer) const override;
    int fd() const { return fd_->get(); }

  private:
    std::shared_ptr<const UniqueFd> fd_;
    uint64_t size_;
};

// Reads with pread until `buffer` is full, the file ends, or an error occurs. Returns the number of bytes read.
size_t read_at(int fd, uint64_t offset, std::span<uint8_t> buffer);

} // namespace dwunw::process
