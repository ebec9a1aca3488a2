# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The walk inside the kernel beside the user-space walk, gdb, and what its targets know of themselves.
add_executable(bpf_walk_user bpf_walk_user.c)
target_link_libraries(bpf_walk_user PRIVATE dwunw::bpf dwunw::dwunw)
set_target_properties(bpf_walk_user PROPERTIES LINKER_LANGUAGE CXX)
dwunw_add_bpf_skeleton(bpf_walk_user bpf_walk.bpf.c NAME bpf_walk)
