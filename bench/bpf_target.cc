// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The target of bench/run_bpf: a program that allocates on command, so that one process lives on while tools come and
// go.
//
//     bench_bpf_target pairs FRAMES     malloc and free in a loop, FRAMES frames deep, from the caller of malloc to
//     _start bench_bpf_target program FRAMES   C++ code: virtual calls, templates and std::function, up to about FRAMES
//     frames
//                                       deep; it allocates from half that depth on
//
// Standard input: `run MS`. The answer is `BLOCKS NS`: the blocks allocated and freed, and the time. The end of the
// input ends the program. One block of each run stays allocated until the next, so that a report has a stack to show.
//
// CMake builds it twice: as distributions build, and with frame pointers.
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

namespace {

uint64_t now_ns() {
    timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Reads `run MS` without stdio, which would allocate. False: the end of the input. Exits at anything else.
bool next_run(uint64_t &run_ns) {
    std::array<char, 64> line{};
    size_t length = 0;
    while (length < line.size()) {
        const ssize_t got = ::read(STDIN_FILENO, line.data() + length, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0 && length == 0)
            return false;
        if (got <= 0 || line[length] == '\n')
            break;
        ++length;
    }
    constexpr std::string_view kCommand = "run ";
    const std::string_view text(line.data(), length);
    uint64_t ms = 0;
    const char *end = text.data() + text.size();
    if (!text.starts_with(kCommand) || std::from_chars(text.data() + kCommand.size(), end, ms).ptr != end || ms > 60000)
        std::exit(2);
    run_ns = ms * 1'000'000;
    return true;
}

void answer(uint64_t blocks, uint64_t ns) {
    std::array<char, 64> line{};
    const int length = std::snprintf(line.data(), line.size(), "%llu %llu\n", static_cast<unsigned long long>(blocks),
                                     static_cast<unsigned long long>(ns));
    if (length < 0 || ::write(STDOUT_FILENO, line.data(), static_cast<size_t>(length)) != length)
        std::exit(1);
}

// Hides from the compiler that nothing uses a block.
void *use(void *block) {
    asm volatile("" : : "r"(block) : "memory");
    return block;
}

// --- pairs ---

[[gnu::noinline]] void serve_pairs() {
    constexpr int kBatch = 64; // pairs between two readings of the clock
    std::unique_ptr<void, decltype(&std::free)> kept(nullptr, &std::free);
    uint64_t run_ns = 0;
    while (next_run(run_ns)) {
        const uint64_t begin = now_ns();
        uint64_t end = begin;
        uint64_t blocks = 0;
        while (end - begin < run_ns) {
            for (int i = 0; i < kBatch; ++i)
                std::free(use(std::malloc(static_cast<size_t>(24 + 32 * (i % 8)))));
            blocks += kBatch;
            end = now_ns();
        }
        kept.reset(use(std::malloc(40)));
        answer(blocks, end - begin);
    }
}

// One frame each, of four sizes in turn: 64 to 208 bytes, as in real programs.
template <unsigned kKind> [[gnu::noinline]] void descend(unsigned frames) {
    std::array<unsigned char, 40 + 48 * kKind> room;
    use(room.data());
    if (frames <= 1)
        serve_pairs();
    else
        descend<(kKind + 1) % 4>(frames - 1);
    use(room.data()); // behind the call, so that it is no tail call
}

// --- program ---

uint64_t blocks_allocated = 0;

struct Machine {
    uint64_t random = 1;
    std::map<std::string, std::string> names;
    std::vector<std::unique_ptr<std::vector<uint64_t>>> live = std::vector<std::unique_ptr<std::vector<uint64_t>>>(512);

    uint64_t next() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return random;
    }
};

class Expression {
  public:
    Expression(unsigned level, std::unique_ptr<Expression> inner) : level_(level), inner_(std::move(inner)) {}
    virtual ~Expression() = default;
    Expression(const Expression &) = delete;
    Expression &operator=(const Expression &) = delete;
    virtual uint64_t evaluate(Machine &machine) const = 0;

  protected:
    // Works if it is deep enough, then goes deeper.
    [[gnu::noinline]] uint64_t go_on(Machine &machine) const;

    unsigned level_;
    std::unique_ptr<Expression> inner_; // nullptr: the innermost
    bool works_ = false;

    friend std::unique_ptr<Expression> build(unsigned levels);
};

void build_text(Machine &machine) {
    std::string text;
    const uint64_t words = 1 + machine.next() % 12;
    for (uint64_t i = 0; i < words; ++i)
        text += std::to_string(machine.next() % 100'000) + ' ';
    machine.random += text.size();
}

void replace_live(Machine &machine) {
    auto fresh = std::make_unique<std::vector<uint64_t>>();
    const uint64_t count = 1 + machine.next() % 64;
    for (uint64_t i = 0; i < count; ++i)
        fresh->push_back(machine.next());
    machine.live[machine.next() % machine.live.size()] = std::move(fresh);
}

void rename_one(Machine &machine) {
    machine.names["the name of number " + std::to_string(machine.next() % 200)] = std::string(machine.next() % 90, 'x');
    if (machine.names.size() > 150)
        machine.names.erase(machine.names.begin());
}

uint64_t Expression::go_on(Machine &machine) const {
    if (works_) {
        switch (machine.next() % 3) {
        case 0:
            build_text(machine);
            break;
        case 1:
            replace_live(machine);
            break;
        default:
            rename_one(machine);
        }
    }
    const uint64_t result = inner_ ? inner_->evaluate(machine) : machine.next();
    return result + level_; // behind the call, so that it is no tail call
}

class Plain final : public Expression {
  public:
    using Expression::Expression;
    uint64_t evaluate(Machine &machine) const override { return go_on(machine) ^ level_; }
};

template <typename Policy> class Applied final : public Expression {
  public:
    using Expression::Expression;
    uint64_t evaluate(Machine &machine) const override { return apply(machine, Policy{}) * 3; }

  private:
    [[gnu::noinline]] uint64_t apply(Machine &machine, Policy policy) const { return policy(go_on(machine)); }
};
struct Rotate {
    uint64_t operator()(uint64_t value) const { return value << 7 | value >> 57; }
};

class Called final : public Expression {
  public:
    Called(unsigned level, std::unique_ptr<Expression> inner)
        : Expression(level, std::move(inner)), function_([this](Machine &machine) { return go_on(machine) + 1; }) {}
    uint64_t evaluate(Machine &machine) const override { return function_(machine) ^ 5; }

  private:
    std::function<uint64_t(Machine &)> function_;
};

// Two to three frames a level: go_on and evaluate, and every second one another.
std::unique_ptr<Expression> build(unsigned levels) {
    std::unique_ptr<Expression> all;
    for (unsigned level = levels; level > 0; --level) {
        switch (level % 3) {
        case 0:
            all = std::make_unique<Plain>(level, std::move(all));
            break;
        case 1:
            all = std::make_unique<Applied<Rotate>>(level, std::move(all));
            break;
        default:
            all = std::make_unique<Called>(level, std::move(all));
        }
        all->works_ = level > levels / 2;
    }
    return all;
}

void serve_program(unsigned frames) {
    // 8 of 3 levels, and 5 around them; the allocation's own (operator new, std::string's) come on top.
    const auto all = build((frames - 5) * 3 / 8);
    Machine machine;
    uint64_t run_ns = 0;
    while (next_run(run_ns)) {
        const uint64_t before = blocks_allocated;
        const uint64_t begin = now_ns();
        uint64_t end = begin;
        while (end - begin < run_ns) {
            machine.random += all->evaluate(machine) | 1;
            if (machine.random == 0)
                machine.random = 1;
            end = now_ns();
        }
        answer(blocks_allocated - before, end - begin);
    }
}

} // namespace

// As libstdc++'s own, with a count.
void *operator new(size_t size) {
    ++blocks_allocated;
    void *block = std::malloc(size);
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}
void operator delete(void *block) noexcept { std::free(block); }
void operator delete(void *block, size_t) noexcept { std::free(block); }

int main(int argc, char **argv) {
    unsigned frames = 0;
    if (argc != 3 || (frames = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10))) < 8 || frames > 400) {
        std::fputs("usage: bench_bpf_target pairs|program FRAMES (8 to 400)\n", stderr);
        return 2;
    }
    if (std::string_view(argv[1]) == "program")
        serve_program(frames);
    else
        descend<0>(frames - 5); // serve_pairs, main, and three of libc's and the start file's
    return 0;
}
