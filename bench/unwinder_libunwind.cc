// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// libunwind, used as for another process with a copy of its stack: an address space with our accessors, the search
// tables of the files' .eh_frame_hdr, and libunwind's own cache of rules by pc.
#include "unwinder.h"

#include <libunwind.h>

#include <algorithm>
#include <cstring>

// Exported for callers of the remote interface, but declared in no header.
extern "C" int _Ux86_64_dwarf_search_unwind_table(unw_addr_space_t, unw_word_t ip, unw_dyn_info_t *, unw_proc_info_t *,
                                                  int need_unwind_info, void *arg);

namespace dwunw_bench {
namespace {

constexpr uint8_t kUdata4 = 0x03;
constexpr uint8_t kDatarelSdata4 = 0x3b;

class LibunwindProcess : public Unwound {
  public:
    explicit LibunwindProcess(const Process &process) : process_(process), pcs_(kMaxFrames) {
        space_ = unw_create_addr_space(&kAccessors, 0);
        if (space_ == nullptr || unw_set_caching_policy(space_, UNW_CACHE_GLOBAL) != 0)
            fail("unw_create_addr_space");
    }
    ~LibunwindProcess() override { unw_destroy_addr_space(space_); }

    size_t walk(const Stack &stack) override {
        stack_ = &stack;
        count_ = 0;
        unw_cursor_t cursor;
        result_ = unw_init_remote(&cursor, space_, this);
        while (result_ >= 0) {
            unw_word_t ip = 0;
            if (unw_get_reg(&cursor, UNW_REG_IP, &ip) != 0 || ip == 0)
                break;
            pcs_[count_++] = ip;
            if (count_ == pcs_.size())
                break;
            result_ = unw_step(&cursor);
            if (result_ == 0)
                break;
        }
        return count_;
    }

    Chain chain() const override {
        return {{pcs_.begin(), pcs_.begin() + static_cast<ptrdiff_t>(count_)},
                result_ >= 0,
                result_ < 0 ? unw_strerror(result_) : ""};
    }

  private:
    static LibunwindProcess &self(void *arg) { return *static_cast<LibunwindProcess *>(arg); }

    std::span<const uint8_t> memory_at(uint64_t address) const {
        if (const uint64_t offset = address - stack_->address; offset < stack_->bytes.size())
            return std::span(stack_->bytes).subspan(offset);
        const MappedModule *mapped = process_.find(address);
        return mapped != nullptr ? mapped->module->at(address - mapped->bias) : std::span<const uint8_t>{};
    }

    static int access_mem(unw_addr_space_t, unw_word_t address, unw_word_t *value, int write, void *arg) {
        const auto bytes = self(arg).memory_at(address);
        if (write != 0 || bytes.empty())
            return -UNW_EINVAL;
        // The last bytes of a segment are also read as a word.
        *value = 0;
        std::memcpy(value, bytes.data(), std::min(bytes.size(), sizeof(*value)));
        return 0;
    }

    static int access_reg(unw_addr_space_t, unw_regnum_t reg, unw_word_t *value, int write, void *arg) {
        const dwunw_regset &regs = self(arg).stack_->regs;
        if (write != 0 || reg < 0 || reg > UNW_X86_64_RIP || ((regs.valid >> reg) & 1) == 0)
            return -UNW_EBADREG;
        *value = regs.regs[reg]; // libunwind's numbers are DWARF's
        return 0;
    }

    static int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t *info, int need, void *arg) {
        const MappedModule *mapped = self(arg).process_.find(ip);
        if (mapped == nullptr || mapped->module->eh_frame_hdr() == 0)
            return -UNW_ENOINFO;
        const Module &module = *mapped->module;
        const auto header = module.at(module.eh_frame_hdr());
        // version, encodings of .eh_frame's address, the count and the table; the address; the count.
        if (header.size() < 12 || header[0] != 1 || header[2] != kUdata4 || header[3] != kDatarelSdata4)
            return -UNW_ENOINFO;
        uint32_t count = 0;
        std::memcpy(&count, header.data() + 8, sizeof(count));
        unw_dyn_info_t table{};
        table.format = UNW_INFO_FORMAT_REMOTE_TABLE;
        table.start_ip = mapped->start;
        table.end_ip = mapped->end;
        table.u.rti.segbase = module.eh_frame_hdr() + mapped->bias;
        table.u.rti.table_data = table.u.rti.segbase + 12;
        table.u.rti.table_len = uint64_t{count} * 8 / sizeof(unw_word_t);
        return _Ux86_64_dwarf_search_unwind_table(space, ip, &table, info, need, arg);
    }

    static void put_unwind_info(unw_addr_space_t, unw_proc_info_t *, void *) {}
    static int no_list(unw_addr_space_t, unw_word_t *, void *) { return -UNW_ENOINFO; }
    static int no_fpreg(unw_addr_space_t, unw_regnum_t, unw_fpreg_t *, int, void *) { return -UNW_EINVAL; }
    static int no_resume(unw_addr_space_t, unw_cursor_t *, void *) { return -UNW_EINVAL; }
    static int no_name(unw_addr_space_t, unw_word_t, char *, size_t, unw_word_t *, void *) { return -UNW_EINVAL; }

    static unw_accessors_t kAccessors;

    const Process &process_;
    unw_addr_space_t space_ = nullptr;
    const Stack *stack_ = nullptr;
    std::vector<uint64_t> pcs_;
    size_t count_ = 0;
    int result_ = 0;
};

unw_accessors_t LibunwindProcess::kAccessors = {
    .find_proc_info = find_proc_info,
    .put_unwind_info = put_unwind_info,
    .get_dyn_info_list_addr = no_list,
    .access_mem = access_mem,
    .access_reg = access_reg,
    .access_fpreg = no_fpreg,
    .resume = no_resume,
    .get_proc_name = no_name,
};

class Libunwind : public Unwinder {
  public:
    std::string name() const override { return "libunwind"; }
    std::unique_ptr<Unwound> open(const Process &process) override {
        return std::make_unique<LibunwindProcess>(process);
    }
};

} // namespace

std::unique_ptr<Unwinder> make_libunwind() { return std::make_unique<Libunwind>(); }

} // namespace dwunw_bench
