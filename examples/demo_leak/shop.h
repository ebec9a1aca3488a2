// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What demo_leak's shop does for one order, and the places where it leaks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

// Keeps a function from being inlined: it has its own frame and its own name.
#ifdef __clang__
#define STEP [[gnu::noinline]]
#else
#define STEP [[gnu::noipa]]
#endif
// At a function's end: prevents a tail call, which would replace this frame.
#define END_OF_STEP asm volatile("")

namespace shop
{

struct Site {
	const char *chain; // the leaking function and its callers, innermost first
	std::atomic<uint64_t> bytes = 0;
	std::atomic<uint64_t> blocks = 0;

	// `object` is out of reach from here on, and the compiler cannot tell.
	void leaked(const void *object, uint64_t leaked_bytes, uint64_t leaked_blocks)
	{
		asm volatile("" : : "r"(object) : "memory");
		bytes += leaked_bytes;
		blocks += leaked_blocks;
	}
};

// Every place that leaks.
std::span<Site *const> sites();

// A round of the desk, of billing and of a courier. Each returns a number that its work gave.
size_t serve_customer(int order);
size_t bill_order(int order);
size_t deliver_order(int order);

} // namespace shop
