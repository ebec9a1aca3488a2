// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/suppressions.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace dwunw_tool::memleak {
namespace {

class File {
  public:
    explicit File(const std::string &text) : path_(testing::TempDir() + "suppressions") {
        std::ofstream(path_) << text;
    }
    ~File() { std::filesystem::remove(path_); }
    const std::string &path() const { return path_; }

  private:
    std::string path_;
};

TEST(Suppressions, PatternsMatchAsLeakSanitizersDo) {
    EXPECT_TRUE(Suppressions::matches("alloc", "my_allocator"));
    EXPECT_FALSE(Suppressions::matches("^alloc", "my_allocator"));
    EXPECT_TRUE(Suppressions::matches("^my_", "my_allocator"));
    EXPECT_TRUE(Suppressions::matches("ator$", "my_allocator"));
    EXPECT_FALSE(Suppressions::matches("alloc$", "my_allocator"));
    EXPECT_TRUE(Suppressions::matches("^my*tor$", "my_allocator"));
    EXPECT_TRUE(Suppressions::matches("my*all*r", "my_allocator"));
    EXPECT_FALSE(Suppressions::matches("my*x*r", "my_allocator"));
    EXPECT_TRUE(Suppressions::matches("*", ""));
}

// A matcher that tried every way to place each star would not end.
TEST(Suppressions, ManyStarsTakeLittleTime) {
    std::string pattern;
    for (int i = 0; i < 50; ++i)
        pattern += "a*";
    EXPECT_FALSE(Suppressions::matches("^" + pattern + "b$", std::string(2'000, 'a')));
}

TEST(Suppressions, AFileHasCommentsAndBlankLines) {
    const File file("# mine\n\n  leak:^known$ \nleak:libfoo.so\r\n");
    Suppressions suppressions;
    ASSERT_EQ(suppressions.read(file.path()), "");
    ASSERT_NE(suppressions.find("known", "/bin/x"), nullptr);
    EXPECT_EQ(*suppressions.find("known", "/bin/x"), "^known$");
    EXPECT_EQ(suppressions.find("unknown", "/bin/x"), nullptr);
    EXPECT_NE(suppressions.find("unknown", "/lib/libfoo.so.1"), nullptr);
    EXPECT_EQ(suppressions.find("", "/bin/x"), nullptr);
}

TEST(Suppressions, OtherLinesAreErrorsWithTheirNumber) {
    const File file("leak:x\nrace:y\n");
    Suppressions suppressions;
    EXPECT_EQ(suppressions.read(file.path()), file.path() + ":2: not of the form leak:PATTERN");
    EXPECT_NE(suppressions.read("/nonexistent/file").find("No such file"), std::string::npos);
}

} // namespace
} // namespace dwunw_tool::memleak
