// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/kernel.h"

#include "memleak/sampling.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <cstring>

#include "memleak.skel.h"

namespace dwunw_tool::memleak {

// The static analyzer takes libbpf's functions for ones that free nothing.
#ifdef __clang_analyzer__
memleak_kernel *open_skeleton();
#else
static memleak_kernel *open_skeleton() { return memleak_kernel::open(); }
#endif

namespace {

// libbpf's own warnings name what failed; its other levels are noise.
int print_warning(libbpf_print_level level, const char *format, va_list arguments) {
    if (level != LIBBPF_WARN)
        return 0;
    return std::vfprintf(stderr, format, arguments);
}

int print_nothing(libbpf_print_level, const char *, va_list) { return 0; }

} // namespace

void Kernel::SkeletonDeleter::operator()(memleak_kernel *skeleton) const { memleak_kernel::destroy(skeleton); }

Kernel::Kernel(dwunw_context *context, const Options &options, uint64_t cgroup, uint64_t max_memory) {
    ::libbpf_set_print(options.verbose ? print_warning : print_nothing);
    load(context, options, cgroup, max_memory);
}

Kernel::~Kernel() {
    if (linker_link_ != nullptr)
        ::bpf_link__destroy(linker_link_);
    if (events_ != nullptr)
        ::ring_buffer__free(events_);
}

void Kernel::fail(const std::string &what) {
    const int error = errno;
    error_ = what + ": " + std::strerror(error);
    if (error == EPERM || error == EACCES)
        error_ += "; run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE";
}

void Kernel::fail(const std::string &what, dwunw_status status) {
    error_ = what + ": " + dwunw_status_string(status);
    if (status == DWUNW_ERR_PERMISSION)
        error_ += "; run as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYS_ADMIN";
    if (status == DWUNW_ERR_BPF && errno != 0)
        error_ += std::string(" (") + std::strerror(errno) + ")";
}

void Kernel::load(dwunw_context *context, const Options &options, uint64_t cgroup, uint64_t max_memory) {
    skeleton_.reset(open_skeleton());
    if (!skeleton_) {
        fail("the BPF programs cannot be opened");
        return;
    }
    auto &settings = *skeleton_->rodata;
    settings.memleak_follow = options.follow;
    settings.memleak_cgroup = cgroup;
    std::strncpy(const_cast<char *>(settings.memleak_comm), options.comm.c_str(), sizeof settings.memleak_comm - 1);
    settings.memleak_min_size = options.min_size;
    settings.memleak_max_size = options.max_size;
    settings.memleak_sample_rate = static_cast<__u32>(options.sample_rate);
    settings.memleak_sample_bytes = options.sample_bytes;
    settings.memleak_sees_all = options.sample_rate <= 1 && options.sample_bytes == 0 && options.min_size == 0 &&
                                options.max_size == UINT64_MAX;
    fill_logarithms(settings.memleak_logarithms);

    dwunw_bpf_options stack_options{};
    stack_options.size = sizeof stack_options;
    stack_options.flags = DWUNW_BPF_ADD_UNKNOWN;
    dwunw_status status = dwunw_bpf_open(context, skeleton_->obj, &stack_options, Receive(stacks_));
    if (status != DWUNW_OK) {
        fail("stacks", status);
        return;
    }
    programs_.size = sizeof programs_;
    programs_.session = skeleton_->progs.memleak_session;
    programs_.entry = skeleton_->progs.memleak_entry;
    programs_.exit = skeleton_->progs.memleak_exit;
    plan_.size = sizeof plan_;
    status = dwunw_attach_prepare(&programs_, &plan_);
    if (status != DWUNW_OK) {
        fail(std::string("probes: ") + plan_.reason, status);
        return;
    }
    if (const int error = memleak_kernel::load(skeleton_.get()); error != 0) {
        errno = -error;
        fail("the kernel does not load the BPF programs");
        return;
    }
    if (status = dwunw_bpf_start(stacks_.get()); status != DWUNW_OK) {
        fail("stacks", status);
        return;
    }
    for (uint32_t number = 1; number <= MEMLEAK_PROCESSES; ++number)
        return_number(number);
    blocks_ = std::make_unique<Blocks>(
        Blocks::Kernel{::bpf_map__fd(skeleton_->maps.memleak_tables), skeleton_->bss->memleak_table_buckets,
                       &skeleton_->bss->memleak_table_count,
                       reinterpret_cast<uint64_t *>(&skeleton_->bss->memleak_report_began)},
        max_memory);
    if (!blocks_->grow()) {
        fail("no memory for the table of blocks");
        return;
    }
    const auto take = [](void *kernel, void *data, size_t size) {
        const auto *self = static_cast<const Kernel *>(kernel);
        memleak_event event{};
        if (size < sizeof event || self->take_ == nullptr)
            return 0;
        std::memcpy(&event, data, sizeof event);
        (*self->take_)(event);
        return 0;
    };
    events_ = ::ring_buffer__new(::bpf_map__fd(skeleton_->maps.memleak_events), take, this, nullptr);
    if (events_ == nullptr) {
        fail("the event ring");
        return;
    }
    skeleton_->links.memleak_on_fork = ::bpf_program__attach(skeleton_->progs.memleak_on_fork);
    skeleton_->links.memleak_on_exec = ::bpf_program__attach(skeleton_->progs.memleak_on_exec);
    skeleton_->links.memleak_on_exit = ::bpf_program__attach(skeleton_->progs.memleak_on_exit);
    if (!skeleton_->links.memleak_on_fork || !skeleton_->links.memleak_on_exec || !skeleton_->links.memleak_on_exit)
        fail("the tracepoints of fork, exec and exit");
}

std::string Kernel::describe() const {
    char choices[2048];
    dwunw_bpf_describe(stacks_.get(), choices, sizeof choices);
    return std::string("probes: ") + plan_.reason + "\n" + choices;
}

bool Kernel::want(int32_t pid, bool was_running) {
    const uint32_t key = static_cast<uint32_t>(pid), flags = was_running ? MEMLEAK_PROCESS_ATTACHED : 0;
    return ::bpf_map_update_elem(::bpf_map__fd(skeleton_->maps.memleak_wanted), &key, &flags, BPF_ANY) == 0;
}

void Kernel::return_number(uint32_t number) {
    ::bpf_map_update_elem(::bpf_map__fd(skeleton_->maps.memleak_numbers), nullptr, &number, BPF_ANY);
}

Attachment Kernel::attach(const std::string &path, int32_t pid, const std::vector<dwunw_attach_point> &points,
                          bool by_instruction, dwunw_status &status) {
    Attachment attachment;
    dwunw_attach_plan plan = plan_;
    if (by_instruction && plan.form == DWUNW_ATTACH_SESSION) {
        plan.form = DWUNW_ATTACH_MULTI;
        plan.returns = DWUNW_ATTACH_RETURN_INSTRUCTIONS;
    }
    dwunw_attach_request request{};
    request.size = sizeof request;
    request.pid = pid;
    request.path = path.c_str();
    request.points = points.data();
    request.count = points.size();
    status = dwunw_attach(&programs_, &plan, &request, Receive(attachment));
    return attachment;
}

void Kernel::stop_at_exec(int32_t pid) { skeleton_->bss->memleak_stop_at_exec = static_cast<__u32>(pid); }

bool Kernel::stop_at_libraries(int32_t pid, const std::string &linker, uint64_t file_offset) {
    bpf_link *link =
        ::bpf_program__attach_uprobe(skeleton_->progs.memleak_on_libraries, false, pid, linker.c_str(), file_offset);
    if (link == nullptr)
        return false;
    if (linker_link_ != nullptr)
        ::bpf_link__destroy(linker_link_);
    linker_link_ = link;
    skeleton_->bss->memleak_stop_at_libraries = static_cast<__u32>(pid);
    return true;
}

int Kernel::events_fd() const { return ::ring_buffer__epoll_fd(events_); }

void Kernel::take_events(const std::function<void(const memleak_event &)> &take) {
    take_ = &take;
    ::ring_buffer__consume(events_);
    take_ = nullptr;
}

std::array<uint64_t, MEMLEAK_COUNTERS> Kernel::counters() const {
    std::array<uint64_t, MEMLEAK_COUNTERS> sums{};
    std::vector<memleak_counts> counts(static_cast<size_t>(::libbpf_num_possible_cpus()));
    const uint32_t zero = 0;
    if (::bpf_map_lookup_elem(::bpf_map__fd(skeleton_->maps.memleak_counters), &zero, counts.data()) == 0)
        for (const memleak_counts &cpu : counts)
            for (size_t i = 0; i < sums.size(); ++i)
                sums[i] += cpu.n[i];
    return sums;
}

uint64_t Kernel::live_blocks() const {
    const auto sums = counters();
    return sums[MEMLEAK_STORED] - std::min(sums[MEMLEAK_STORED], sums[MEMLEAK_REMOVED]);
}

void Kernel::set_sampling_shift(unsigned shift) {
    __atomic_store_n(&skeleton_->bss->memleak_sampling_shift, shift, __ATOMIC_RELEASE);
}

void Kernel::make_room() {
    blocks_->make_room(live_blocks());
    if (growth_wanted_)
        blocks_->grow();
    growth_wanted_ = false;
}

} // namespace dwunw_tool::memleak
