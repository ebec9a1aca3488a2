// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "abi/guarded.h"
#include "abi/sized_structs.h"
#include "base/unique_fd.h"
#include "bpf/uprobe_link.h"
#include "probe/function_file.h"
#include "process/file_source.h"

#include <dwunw/bpf_attach.h>

#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <string>

struct dwunw_attachment {
    std::vector<dwunw::UniqueFd> multi;
    std::vector<dwunw::bpf::Link> single;
};

namespace {

using dwunw::bpf::MultiProbes;
using dwunw::bpf::MultiType;

constexpr size_t kMaxPoints = 1 << 20; // MAX_UPROBE_MULTI_CNT

dwunw_status status_of(int error) {
    switch (error) {
    case ENOENT:
        return DWUNW_ERR_NO_FILE;
    case ESRCH:
        return DWUNW_ERR_NO_PROCESS;
    case EPERM:
    case EACCES:
        return DWUNW_ERR_PERMISSION;
    case EMFILE:
    case ENFILE:
        return DWUNW_ERR_TOO_MANY_FILES;
    case ENOMEM:
        return DWUNW_ERR_OUT_OF_MEMORY;
    case EINVAL:
        return DWUNW_ERR_INVALID_ARGUMENT;
    default:
        return DWUNW_ERR_IO;
    }
}

// The reverse, for a file that could not be opened here.
int error_of(dwunw_status status) {
    switch (status) {
    case DWUNW_ERR_NO_FILE:
        return ENOENT;
    case DWUNW_ERR_PERMISSION:
        return EACCES;
    case DWUNW_ERR_TOO_MANY_FILES:
        return EMFILE;
    default:
        return EINVAL;
    }
}

std::string refusal(const char *what, int error) {
    const char *name = strerrorname_np(error);
    return std::string("no ") + what + " (" + (name != nullptr ? name : "?") + ")";
}

bool is_loaded(const bpf_program *program) { return program != nullptr && bpf_program__fd(program) >= 0; }

bool set_type(bpf_program *program, uint32_t type) {
    return program == nullptr ||
           bpf_program__set_expected_attach_type(program, static_cast<bpf_attach_type>(type)) == 0;
}

struct Choice {
    dwunw_attach_form form;
    std::string reason;
    bool possible;
};

// `no_session`: the returns are not seen in a session.
Choice choose(const dwunw_attach_programs &programs, bool no_session) {
    const auto wanted = static_cast<dwunw_attach_form>(programs.form);
    const std::string asked = wanted == DWUNW_ATTACH_AUTO ? "" : ", as requested";
    std::string why_not;
    if (wanted == DWUNW_ATTACH_SESSION || (wanted == DWUNW_ATTACH_AUTO && programs.session != nullptr && !no_session)) {
        const int error = dwunw::bpf::probe_multi(MultiType::kUprobeSession);
        if (error == 0)
            return {DWUNW_ATTACH_SESSION, "uprobe session: one program for entry and return" + asked, true};
        why_not = refusal("uprobe session", error);
    }
    if (wanted == DWUNW_ATTACH_MULTI || wanted == DWUNW_ATTACH_AUTO) {
        const int error = dwunw::bpf::probe_multi(MultiType::kUprobeMulti);
        if (error == 0) {
            return {DWUNW_ATTACH_MULTI,
                    "uprobe.multi: one link for all probes" + asked + (why_not.empty() ? "" : "; " + why_not), true};
        }
        why_not += (why_not.empty() ? "" : "; ") + refusal("uprobe.multi", error);
    }
    if (wanted == DWUNW_ATTACH_SINGLE || wanted == DWUNW_ATTACH_AUTO) {
        return {DWUNW_ATTACH_SINGLE, "a perf event for each probe" + asked + (why_not.empty() ? "" : "; " + why_not),
                true};
    }
    return {wanted, why_not, false};
}

dwunw_status prepare(const dwunw_attach_programs &programs, dwunw_attach_plan *out) {
    const bool wants_session = programs.form == DWUNW_ATTACH_SESSION;
    const bool by_instruction = programs.returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS;
    if ((wants_session && (programs.session == nullptr || by_instruction)) || is_loaded(programs.session) ||
        is_loaded(programs.entry) || is_loaded(programs.exit) ||
        (!wants_session && programs.form != DWUNW_ATTACH_AUTO && programs.entry == nullptr && programs.exit == nullptr))
        return DWUNW_ERR_INVALID_ARGUMENT;
    Choice choice = choose(programs, by_instruction);
    out->form = choice.form;
    out->returns = by_instruction || (programs.returns == DWUNW_ATTACH_RETURNS_AUTO &&
                                      choice.form != DWUNW_ATTACH_SESSION && programs.exit != nullptr)
                       ? DWUNW_ATTACH_RETURN_INSTRUCTIONS
                       : DWUNW_ATTACH_RETURN_PROBES;
    if (choice.possible && programs.exit != nullptr && choice.form != DWUNW_ATTACH_SESSION)
        choice.reason += out->returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS ? "; returns by return instructions"
                                                                          : "; returns by return probes";
    std::memset(out->reason, 0, sizeof(out->reason));
    std::memcpy(out->reason, choice.reason.data(), std::min(choice.reason.size(), sizeof(out->reason) - 1));
    if (!choice.possible)
        return DWUNW_ERR_NOT_FOUND;

    const uint32_t multi = static_cast<uint32_t>(MultiType::kUprobeMulti);
    const uint32_t type = choice.form == DWUNW_ATTACH_SINGLE ? 0 : multi;
    const bool in_session = choice.form == DWUNW_ATTACH_SESSION;
    const bool done = set_type(programs.entry, type) && set_type(programs.exit, type) &&
                      set_type(programs.session, static_cast<uint32_t>(MultiType::kUprobeSession)) &&
                      (programs.session == nullptr || bpf_program__set_autoload(programs.session, in_session) == 0);
    return done ? DWUNW_OK : DWUNW_ERR_INVALID_ARGUMENT;
}

class Attacher {
  public:
    // `error` receives the errno of the failure, because detaching the other probes changes errno.
    Attacher(const dwunw_attach_request &request, bool multi, int &error)
        : request_(request), multi_(multi), error_(error), attachment_(std::make_unique<dwunw_attachment>()) {}

    // Attaches `program` to the points that `wanted` accepts, at their entry or their return.
    template <typename Wanted>
    dwunw_status add(const bpf_program *program, MultiType type, bool at_return, Wanted wanted) {
        MultiProbes probes;
        probes.path = request_.path;
        probes.pid = request_.pid;
        probes.at_return = at_return;
        for (size_t i = 0; i < request_.count; ++i) {
            if (!wanted(request_.points[i].when))
                continue;
            probes.offsets.push_back(request_.points[i].file_offset);
            probes.cookies.push_back(request_.points[i].cookie);
        }
        if (probes.offsets.empty() || program == nullptr)
            return DWUNW_OK;
        if (!is_loaded(program))
            return DWUNW_ERR_INVALID_ARGUMENT;
        return multi_ ? add_multi(program, type, probes) : add_single(program, probes);
    }

    // Attaches `program` to the return instructions of the points that have a return.
    dwunw_status add_return_instructions(const bpf_program *program) {
        if (program == nullptr || std::none_of(request_.points, request_.points + request_.count, has_return))
            return DWUNW_OK;
        if (!is_loaded(program))
            return DWUNW_ERR_INVALID_ARGUMENT;
        auto source = dwunw::process::FileSource::open(request_.path);
        if (!source)
            return fail(source.error().status, error_of(source.error().status));
        const auto file =
            dwunw::probe::FunctionFile::open(std::make_unique<dwunw::process::FileSource>(std::move(*source)));
        if (!file)
            return fail(file.error().status, EINVAL);
        std::map<uint64_t, uint64_t> cookies; // by offset
        for (size_t i = 0; i < request_.count; ++i) {
            if (!has_return(request_.points[i]))
                continue;
            const auto found = (*file)->find_returns(dwunw::FileOffset(request_.points[i].file_offset));
            if (!found.unknown.empty())
                return fail(DWUNW_ERR_NOT_FOUND, ENOTSUP);
            for (const dwunw_probe_return &at : found.returns)
                cookies.emplace(at.file_offset,
                                request_.points[i].cookie |
                                    (at.result == DWUNW_PROBE_RESULT_IN_RDI ? DWUNW_ATTACH_COOKIE_RESULT_IN_RDI : 0));
        }
        MultiProbes probes;
        probes.path = request_.path;
        probes.pid = request_.pid;
        for (const auto &[offset, cookie] : cookies) {
            probes.offsets.push_back(offset);
            probes.cookies.push_back(cookie);
        }
        return multi_ ? add_multi(program, MultiType::kUprobeMulti, probes) : add_single(program, probes);
    }

    dwunw_attachment *release() { return attachment_.release(); }

  private:
    static bool has_return(const dwunw_attach_point &point) { return (point.when & DWUNW_ATTACH_AT_RETURN) != 0; }

    dwunw_status fail(dwunw_status status, int error) {
        error_ = error;
        return status;
    }

    dwunw_status add_multi(const bpf_program *program, MultiType type, const MultiProbes &probes) {
        dwunw::UniqueFd link = dwunw::bpf::create_multi_link(bpf_program__fd(program), type, probes);
        if (!link.valid())
            return status_of(error_ = errno);
        attachment_->multi.push_back(std::move(link));
        return DWUNW_OK;
    }

    dwunw_status add_single(const bpf_program *program, const MultiProbes &probes) {
        for (size_t i = 0; i < probes.offsets.size(); ++i) {
            LIBBPF_OPTS(bpf_uprobe_opts, options, .bpf_cookie = probes.cookies[i], .retprobe = probes.at_return);
            const int everyone = -1;
            bpf_link *link = bpf_program__attach_uprobe_opts(program, probes.pid == 0 ? everyone : probes.pid,
                                                             probes.path, probes.offsets[i], &options);
            if (link == nullptr)
                return status_of(error_ = errno);
            attachment_->single.emplace_back(link);
        }
        return DWUNW_OK;
    }

    const dwunw_attach_request &request_;
    bool multi_;
    int &error_;
    std::unique_ptr<dwunw_attachment> attachment_;
};

bool are_points(const dwunw_attach_request &request) {
    constexpr uint32_t kKnown = DWUNW_ATTACH_AT_ENTRY | DWUNW_ATTACH_AT_RETURN;
    if (request.points == nullptr || request.count == 0)
        return false;
    return std::all_of(request.points, request.points + request.count, [](const dwunw_attach_point &point) {
        return point.reserved == 0 && point.when != 0 && (point.when & ~kKnown) == 0;
    });
}

dwunw_status attach(const dwunw_attach_programs &programs, const dwunw_attach_plan &plan,
                    const dwunw_attach_request &request, int &error, dwunw_attachment **out) {
    constexpr uint32_t kBoth = DWUNW_ATTACH_AT_ENTRY | DWUNW_ATTACH_AT_RETURN;
    const bool in_session = plan.form == DWUNW_ATTACH_SESSION;
    Attacher attacher(request, plan.form != DWUNW_ATTACH_SINGLE, error);
    if (in_session) {
        const auto status = attacher.add(programs.session, MultiType::kUprobeSession, false,
                                         [](uint32_t when) { return when == kBoth; });
        if (status != DWUNW_OK)
            return status;
    }
    // Points of the session are not attached again. Returns come first: a return without its entry can be recognised,
    // an entry without its return cannot.
    const struct {
        const bpf_program *program;
        uint32_t when;
    } kinds[] = {{programs.exit, DWUNW_ATTACH_AT_RETURN}, {programs.entry, DWUNW_ATTACH_AT_ENTRY}};
    for (const auto &kind : kinds) {
        const bool by_instruction =
            kind.when == DWUNW_ATTACH_AT_RETURN && plan.returns == DWUNW_ATTACH_RETURN_INSTRUCTIONS;
        const auto status =
            by_instruction
                ? attacher.add_return_instructions(kind.program)
                : attacher.add(kind.program, MultiType::kUprobeMulti, kind.when == DWUNW_ATTACH_AT_RETURN,
                               [&](uint32_t when) { return in_session ? when == kind.when : (when & kind.when) != 0; });
        if (status != DWUNW_OK)
            return status;
    }
    *out = attacher.release();
    return DWUNW_OK;
}

} // namespace

extern "C" dwunw_status dwunw_attach_prepare(const struct dwunw_attach_programs *given_programs,
                                             struct dwunw_attach_plan *given_out) {
    const dwunw::Sized programs(given_programs);
    if (!programs)
        return programs.status();
    const dwunw::Sized out(given_out);
    if (!out)
        return out.status();
    if (programs->form > DWUNW_ATTACH_SINGLE || programs->returns > DWUNW_ATTACH_RETURN_INSTRUCTIONS ||
        programs->reserved != 0)
        return DWUNW_ERR_INVALID_ARGUMENT;
    return dwunw::guarded([&] { return prepare(*programs, &*out); });
}

extern "C" dwunw_status dwunw_attach(const struct dwunw_attach_programs *given_programs,
                                     const struct dwunw_attach_plan *given_plan,
                                     const struct dwunw_attach_request *given_request, struct dwunw_attachment **out) {
    const dwunw::Sized programs(given_programs);
    if (!programs)
        return programs.status();
    const dwunw::Sized plan(given_plan);
    if (!plan)
        return plan.status();
    const dwunw::Sized request(given_request);
    if (!request)
        return request.status();
    if (plan->form == DWUNW_ATTACH_AUTO || plan->form > DWUNW_ATTACH_SINGLE || request->pid < 0 ||
        request->path == nullptr || out == nullptr || !are_points(*request))
        return DWUNW_ERR_INVALID_ARGUMENT;
    if (request->count > kMaxPoints)
        return DWUNW_ERR_LIMIT;
    int error = EINVAL;
    const dwunw_status status = dwunw::guarded([&] { return attach(*programs, *plan, *request, error, out); });
    if (status != DWUNW_OK)
        errno = error;
    return status;
}

extern "C" size_t dwunw_attachment_links(const struct dwunw_attachment *attachment) {
    return attachment == nullptr ? 0 : attachment->multi.size() + attachment->single.size();
}

extern "C" void dwunw_detach(struct dwunw_attachment *attachment) { delete attachment; }
