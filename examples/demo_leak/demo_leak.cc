// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A program that leaks: a toy shop. Its desk takes orders, one thread bills them and two deliver them; nine places
// forget to free what they allocate, through std::string, std::vector, std::map, smart pointers, a callback from libc
// and a destructor that runs while an exception passes. It frees most of its other allocations.
//
// It records exactly what it leaked, and prints it at the end, so that a leak finder can be compared with it:
//
//     ready PID
//     leaked BYTES BLOCKS SITE CALLER CALLER…    one line a place: the function, and its callers up to the thread's
//     first done
//
// shop.cc has the work and the leaks; here are the threads and the command line.
#include "shop.h"

#include <getopt.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <thread>

namespace shop
{

struct Plan {
	int rounds;			// 0: until the deadline
	std::chrono::milliseconds pace; // between rounds
	std::chrono::seconds open_for;
};

class Shop
{
      public:
	static constexpr int kThreads = 3;

	explicit Shop(const Plan &plan) : plan_(plan)
	{
	}

	// Each thread calls this first. The allocation makes the allocator set the thread up before a tool watches.
	void wait_until_open()
	{
		std::free(std::malloc(64));
		present_.count_down();
		open_.wait();
	}
	void wait_for_threads()
	{
		present_.wait();
	}
	void open()
	{
		deadline_ = Clock::now() + plan_.open_for;
		open_.count_down();
	}

	// Waits for the next round; false: there is none. `round` counts from 0.
	bool still_open(int round) const
	{
		if (plan_.rounds > 0)
			return round < plan_.rounds;
		const auto next = deadline_ - plan_.open_for + round * plan_.pace;
		std::this_thread::sleep_until(std::min(next, deadline_));
		return next < deadline_;
	}

      private:
	using Clock = std::chrono::steady_clock;
	Plan plan_;
	Clock::time_point deadline_;
	std::latch present_{ kThreads };
	std::latch open_{ 1 };
};

STEP static size_t run_desk(const Shop &the_shop)
{
	size_t total = 0;
	for (int round = 0; the_shop.still_open(round); ++round)
		total += serve_customer(round);
	return total;
}

STEP static size_t run_billing(const Shop &the_shop)
{
	size_t total = 0;
	for (int round = 0; the_shop.still_open(round); ++round)
		total += bill_order(round);
	return total;
}

STEP static size_t run_courier(const Shop &the_shop)
{
	size_t total = 0;
	for (int round = 0; the_shop.still_open(round); ++round)
		total += deliver_order(round);
	return total;
}

static std::atomic<size_t> work_done;

STEP static void *billing_thread(void *argument)
{
	auto &the_shop = *static_cast<Shop *>(argument);
	the_shop.wait_until_open();
	work_done += run_billing(the_shop);
	return nullptr;
}

STEP static void *courier_thread(void *argument)
{
	auto &the_shop = *static_cast<Shop *>(argument);
	the_shop.wait_until_open();
	work_done += run_courier(the_shop);
	return nullptr;
}

} // namespace shop

// Waits for a line on standard input, or for its end.
static void wait_for_line()
{
	int c;
	do {
		c = std::getchar();
	} while (c != EOF && c != '\n');
}

static const char kUsage[] =
	"usage: demo_leak [--seconds N | --rounds N] [--hold] | --sites\n"
	"  --seconds N  work for N seconds, 100 rounds a second and thread (default: 30)\n"
	"  --rounds N   work for N rounds in each thread, as fast as it goes\n"
	"  --hold       wait for a line on standard input before the first round and before the exit\n"
	"  --sites      print the places that leak, each with its callers, and exit\n";

// A number from 1 to `limit`; ends the program otherwise.
static int parse_number(const char *text, int limit)
{
	char *end = nullptr;
	const long value = std::strtol(text, &end, 10);
	if (end == text || *end != '\0' || value < 1 || value > limit) {
		std::fprintf(stderr, "demo_leak: not a number from 1 to %d: %s\n", limit, text);
		std::exit(2);
	}
	return static_cast<int>(value);
}

int main(int argc, char **argv)
{
	static const option options[] = { { "seconds", required_argument, nullptr, 's' },
					  { "rounds", required_argument, nullptr, 'r' },
					  { "hold", no_argument, nullptr, 'h' },
					  { "sites", no_argument, nullptr, 'l' },
					  { nullptr, 0, nullptr, 0 } };
	shop::Plan plan{ 0, std::chrono::milliseconds(10), std::chrono::seconds(30) };
	bool hold = false;
	for (int option; (option = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
		switch (option) {
		case 's':
			plan.open_for = std::chrono::seconds(parse_number(optarg, 3600));
			break;
		case 'r':
			plan.rounds = parse_number(optarg, 100'000);
			break;
		case 'h':
			hold = true;
			break;
		case 'l':
			for (const shop::Site *site : shop::sites())
				std::puts(site->chain);
			return 0;
		default:
			std::fputs(kUsage, stderr);
			return 2;
		}
	}
	if (optind != argc) {
		std::fputs(kUsage, stderr);
		return 2;
	}

	shop::Shop the_shop(plan);
	std::array<void *(*)(void *), shop::Shop::kThreads> starts = { shop::billing_thread, shop::courier_thread,
								       shop::courier_thread };
	std::array<pthread_t, shop::Shop::kThreads> threads;
	for (size_t i = 0; i < threads.size(); ++i) {
		if (const int error = pthread_create(&threads[i], nullptr, starts[i], &the_shop)) {
			std::fprintf(stderr, "demo_leak: no thread: %s\n", std::strerror(error));
			return 1;
		}
	}
	the_shop.wait_for_threads();
	std::printf("ready %d\n", getpid());
	std::fflush(stdout);
	if (hold)
		wait_for_line();

	the_shop.open();
	shop::work_done += shop::run_desk(the_shop);
	for (pthread_t thread : threads)
		pthread_join(thread, nullptr);

	for (const shop::Site *site : shop::sites())
		std::printf("leaked %llu %llu %s\n", static_cast<unsigned long long>(site->bytes),
			    static_cast<unsigned long long>(site->blocks), site->chain);
	std::puts("done");
	std::fflush(stdout);
	if (hold)
		wait_for_line();
	return 0;
}
