// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/debug_file.h"

#include "process_testing.h"
#include "support/elf_builder.h"

namespace dwunw::process {
namespace {

using testing::TemporaryFolder;
using Vector = std::vector<uint8_t>;

const Vector kBuildId = {0xab, 0x01, 0xfe};

void write_debug_file(const std::string &root, const Vector &claimed) {
    std::filesystem::create_directories(root + "/.build-id/ab");
    testing::ElfBuilder builder;
    builder.add({".note", testing::note("GNU", NT_GNU_BUILD_ID, claimed), 0, 0, SHT_NOTE});
    const Vector file = builder.build();
    testing::write_file(root + "/.build-id/ab/01fe.debug", std::string(file.begin(), file.end()));
}

dwunw_status status_of(const std::string &root, const Vector &build_id) {
    const auto file = DebugFile::open(root, build_id);
    return file ? DWUNW_OK : file.error().status;
}

TEST(DebugFile, ByBuildId) {
    const TemporaryFolder folder;
    const std::string root = folder / "debug";
    EXPECT_EQ(status_of(root, kBuildId), DWUNW_ERR_NO_FILE);
    write_debug_file(root, kBuildId);
    EXPECT_EQ(status_of(root, kBuildId), DWUNW_OK);
    EXPECT_EQ(testing::take(DebugFile::open(root, kBuildId)).image.build_id(), kBuildId);
    for (const Vector &other : {Vector(), Vector{0xab}, Vector{0xab, 0x01}, Vector{0xab, 0x01, 0xff}})
        EXPECT_EQ(status_of(root, other), DWUNW_ERR_NO_FILE);
}

TEST(DebugFile, OneThatIsAnothers) {
    const TemporaryFolder folder;
    const std::string root = folder / "debug";
    write_debug_file(root, {0xab, 0x01, 0xff});
    EXPECT_EQ(status_of(root, kBuildId), DWUNW_ERR_MODULE_CHANGED);
    testing::write_file(root + "/.build-id/ab/01fe.debug", "no ELF file");
    EXPECT_EQ(status_of(root, kBuildId), DWUNW_ERR_NOT_ELF);
}

} // namespace
} // namespace dwunw::process
