# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# The front door; CMake does the work in build/$(ARCH). `make help` lists what there is.

ARCH ?= $(shell uname -m)
# release, dev, asan, tsan or fuzz: see CMakePresets.json.
PRESET ?= release
CROSS_COMPILE ?=
CLANG ?=
BPFTOOL ?=
LIBBPF_CFLAGS ?=
LIBBPF_LDLIBS ?=
DWUNW_EXAMPLE_CFLAGS ?=
DWUNW_MEMLEAK_BCC ?= 1
DWUNW_STRIP ?= 1
DWUNW_WERROR ?= 0
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
STORM_SECONDS ?= 270
FUZZ_RUNS ?=
FUZZ_TARGETS ?=
JOBS ?= $(shell nproc)

BUILD = build/$(ARCH)$(if $(filter-out release,$(PRESET)),-$(PRESET))

# A tool that is not named is looked for again, so that naming one once does not stick.
CONFIGURE = cmake --preset $(PRESET) -B '$(BUILD)' -DARCH='$(ARCH)' -DCROSS_COMPILE='$(CROSS_COMPILE)' \
	$(if $(CLANG),-DCLANG='$(CLANG)',-UCLANG) $(if $(BPFTOOL),-DBPFTOOL='$(BPFTOOL)',-UBPFTOOL) \
	-DLIBBPF_CFLAGS='$(LIBBPF_CFLAGS)' -DLIBBPF_LDLIBS='$(LIBBPF_LDLIBS)' \
	-DDWUNW_EXAMPLE_CFLAGS='$(DWUNW_EXAMPLE_CFLAGS)' -DDWUNW_MEMLEAK_BCC='$(DWUNW_MEMLEAK_BCC)' \
	-DDWUNW_STRIP='$(DWUNW_STRIP)' $(if $(filter release,$(PRESET)),-DDWUNW_WERROR='$(DWUNW_WERROR)') --log-level=NOTICE
COMPILE = cmake --build '$(BUILD)' --parallel $(JOBS)

.PHONY: all examples test test-exhaustive test-storm bench bench-bpf demo install check asan tsan fuzz format setup clean help

all: ## build every product into build/$(ARCH) (the default)
	@$(CONFIGURE) >/dev/null
	@$(COMPILE)

examples: ## build the example programs only
	@$(CONFIGURE) >/dev/null
	@$(COMPILE) --target examples

bench: ## measure: real programs' stacks through dwunw, libunwind and libdwfl, tables, memory (bench/README.md)
	@scripts/setup build test bench
	@$(CONFIGURE) -DDWUNW_BENCH=ON >/dev/null
	@$(COMPILE)
	@bench/collect.py --dwunw '$(BUILD)/tools/dwunw/dwunw' --corpus '$(BUILD)/bench/corpus' $(COLLECT_ARGS)
	@bench/run '$(BUILD)' $(BENCH_ARGS)

bench-bpf: ## measure what memleak costs a program: kernel walk, user walk, as bcc's (root; bench/README.md)
	@scripts/setup build test bench
	@$(CONFIGURE) -DDWUNW_BENCH=ON >/dev/null
	@$(COMPILE)
	@bench/run_bpf '$(BUILD)' $(BENCH_ARGS)

demo: ## install what is missing, build, and find the leaks of a bundled program (root)
	@scripts/setup build
	@$(MAKE) --no-print-directory all
	@scripts/demo '$(BUILD)'

test: ## install what is missing, build, and run every test (root, for the BPF ones)
	@scripts/setup build test
	@$(CONFIGURE) -DDWUNW_TESTS=ON >/dev/null
	@$(COMPILE)
	@ctest --test-dir '$(BUILD)' --parallel $(JOBS) --output-on-failure --no-tests=error $(CTEST_ARGS)

# What takes minutes, over all that is installed; its output is the result, so it is shown.
test-exhaustive: ## compare the unwind table of every installed program and library with readelf's reading
	@scripts/setup build test
	@$(CONFIGURE) -DDWUNW_TESTS=ON >/dev/null
	@$(COMPILE)
	@ctest --test-dir '$(BUILD)' -C exhaustive -L exhaustive --verbose --no-tests=error $(CTEST_ARGS)

test-storm: ## memleak on programs that do everything at once, STORM_SECONDS=270 each (root)
	@scripts/setup build test
	@$(CONFIGURE) -DDWUNW_TESTS=ON >/dev/null
	@$(COMPILE)
	@STORM_SECONDS='$(STORM_SECONDS)' ctest --test-dir '$(BUILD)' -C storm -L storm --verbose --no-tests=error $(CTEST_ARGS)

asan: ## run the unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/setup build test
	@$(MAKE) --no-print-directory PRESET=asan .unit

# Only the unit tests, in any preset.
.PHONY: .unit
.unit:
	@$(CONFIGURE) -DDWUNW_TESTS=ON >/dev/null
	@$(COMPILE) --target tests/unit/all
	@ctest --test-dir '$(BUILD)/tests/unit' --parallel $(JOBS) --output-on-failure --no-tests=error $(CTEST_ARGS)

tsan: ## run the unit tests that have threads under ThreadSanitizer
	@scripts/setup build test
	@$(MAKE) --no-print-directory PRESET=tsan .tsan

# What `make check` runs of them, and the rest. Not those that count the threads of a child: ThreadSanitizer adds one.
TSAN_CHECKS = capi_threads_test unwind_rule_cache_test
TSAN_TESTS ?= $(TSAN_CHECKS) base_lazy_section_test capi_unwind_test process_compile_queue_test process_module_test \
	process_module_store_test process_process_test symbolize_symbolizer_test unwind_fde_search_test \
	unwind_module_cfi_test

.PHONY: .tsan
.tsan:
	@$(CONFIGURE) >/dev/null
	@$(COMPILE) --target $(TSAN_TESTS)
	@scripts/tsan '$(BUILD)' $(TSAN_TESTS)

fuzz: ## run the libFuzzer targets, FUZZ_SECONDS=60 each, or FUZZ_RUNS= inputs each; FUZZ_TARGETS= names some
	@scripts/setup build test check
	@$(MAKE) --no-print-directory PRESET=fuzz .fuzz

.PHONY: .fuzz
.fuzz:
	@$(CONFIGURE) >/dev/null
	@$(COMPILE) --target fuzz
	@FUZZ_SECONDS='$(FUZZ_SECONDS)' FUZZ_RUNS='$(FUZZ_RUNS)' scripts/fuzz '$(BUILD)' $(FUZZ_TARGETS)

check: ## format, clang-tidy, layers, shellcheck, licence lines and data races, without changing anything
	@scripts/setup build test check
	@$(CONFIGURE) -DDWUNW_TESTS=ON >/dev/null
	@$(COMPILE)
	@scripts/check '$(BUILD)'
	@$(MAKE) --no-print-directory PRESET=tsan TSAN_TESTS='$(TSAN_CHECKS)' .tsan

format: ## rewrite the sources in the project's format
	@scripts/check --format

install: all ## install headers, libraries, tools and pages; DESTDIR= and PREFIX= as usual
	@DESTDIR='$(DESTDIR)' cmake --install '$(BUILD)' --prefix '$(PREFIX)'

setup: ## install every Debian package the project uses (root)
	@scripts/setup build test check

clean: ## remove everything that was built
	rm -rf build

help: ## list these
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24
	@echo
	@echo 'Variables: ARCH CROSS_COMPILE CLANG BPFTOOL LIBBPF_CFLAGS LIBBPF_LDLIBS DWUNW_EXAMPLE_CFLAGS'
	@echo '           DWUNW_MEMLEAK_BCC=0|1 DWUNW_WERROR=0|1 DWUNW_STRIP=0|1 PRESET=release|dev|asan|tsan PREFIX DESTDIR'
	@echo '           JOBS CTEST_ARGS FUZZ_SECONDS FUZZ_RUNS FUZZ_TARGETS STORM_SECONDS'
