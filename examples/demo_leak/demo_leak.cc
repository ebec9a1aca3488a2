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
#include <getopt.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <list>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

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

static Site customers{ "remember_customer parse_order accept_order serve_customer run_desk main" };
static Site products{ "index_products accept_order serve_customer run_desk main" };
static Site histories{ "record_history serve_customer run_desk main" };
static Site sessions{ "open_session serve_customer run_desk main" };
static Site invoices{ "keep_invoice print_invoice bill_order run_billing billing_thread" };
static Site payments{ "link_payments bill_order run_billing billing_thread" };
static Site abandoned{ "note_abandoned ~OpenPayment check_payment bill_order run_billing billing_thread" };
static Site stops{ "note_stop visit_stop visit_stop visit_stop visit_stop deliver_order run_courier courier_thread" };
static Site comparisons{
	"note_comparison compare_stops sort_stops plan_route deliver_order run_courier courier_thread"
};
static Site *const sites[] = { &customers, &products,  &histories, &sessions,	&invoices,
			       &payments,  &abandoned, &stops,	   &comparisons };

// The bytes that a container asks its allocator for, with its nodes; measured, because only the library knows these.
static thread_local uint64_t measured_bytes;

template <typename T> struct MeasuringAllocator {
	using value_type = T;
	MeasuringAllocator() = default;
	template <typename U> MeasuringAllocator(const MeasuringAllocator<U> &)
	{
	}
	T *allocate(size_t count)
	{
		measured_bytes = count * sizeof(T);
		return std::allocator<T>().allocate(count);
	}
	void deallocate(T *memory, size_t count)
	{
		std::allocator<T>().deallocate(memory, count);
	}
	bool operator==(const MeasuringAllocator &) const = default;
};

// The size of a string's heap block; 0: the text fits into the object.
static uint64_t buffer_bytes(const std::string &text)
{
	return text.capacity() > std::string().capacity() ? text.capacity() + 1 : 0;
}

static void leak_string(Site &site, const std::string *text)
{
	const uint64_t buffer = buffer_bytes(*text);
	site.leaked(text, sizeof(*text) + buffer, buffer != 0 ? 2 : 1);
}

// ---- The desk, on the main thread.

STEP static void remember_customer(std::string_view name, std::string_view city)
{
	std::string text(name);
	text += ", living in the city of ";
	text += city;
	leak_string(customers, new std::string(std::move(text)));
	END_OF_STEP;
}

STEP static void index_products(int order)
{
	using Map = std::map<int, double>;
	static const uint64_t node_bytes = [] {
		std::map<int, double, std::less<>, MeasuringAllocator<std::pair<const int, double>>> probe;
		probe.emplace(1, 1.0);
		return measured_bytes;
	}();
	auto *index = new Map;
	for (int product = 0; product < 4; ++product)
		index->emplace(order + product, 9.99 * product);
	products.leaked(index, sizeof(*index) + index->size() * node_bytes, 1 + index->size());
	END_OF_STEP;
}

STEP static size_t parse_order(std::string_view line)
{
	const size_t comma = line.find(',');
	const std::string name(line.substr(0, comma));
	const std::string city(line.substr(comma + 1));
	remember_customer(name, city);
	return name.size() + city.size();
}

STEP static size_t accept_order(int order)
{
	const size_t length = parse_order("Ada Catherine Lovelace-Featherstone,Newcastle upon Tyne");
	index_products(order);
	return length;
}

struct Event {
	int order;
	int kind;
	double when;
};

STEP static void record_history(int order)
{
	auto *history = new std::vector<Event>;
	for (int kind = 0; kind < 5; ++kind)
		history->push_back({ order, kind, kind * 0.5 });
	histories.leaked(history, sizeof(*history) + history->capacity() * sizeof(Event), 2);
	END_OF_STEP;
}

struct Session {
	int customer;
	std::array<char, 40> cookie;
};

STEP static void open_session(int customer)
{
	auto session = std::make_unique<Session>(Session{ customer, {} });
	const Session *forgotten = session.release();
	sessions.leaked(forgotten, sizeof(*forgotten), 1);
	END_OF_STEP;
}

// All allocations here are freed again.
STEP static size_t count_stock(int round)
{
	std::vector<std::string> shelves;
	for (int shelf = 0; shelf < 12; ++shelf)
		shelves.push_back(std::string(20 + shelf, 'x'));
	std::list<std::string> checked(shelves.begin(), shelves.end());
	checked.sort();
	auto *counts = static_cast<size_t *>(std::calloc(16, sizeof(size_t)));
	if (counts != nullptr) {
		if (void *more = std::realloc(counts, (32 + round % 100) * sizeof(size_t)))
			counts = static_cast<size_t *>(more);
		counts[0] = checked.size();
	}
	const size_t result = counts != nullptr ? counts[0] : 0;
	std::free(counts);
	return result;
}

STEP static size_t serve_customer(int order)
{
	open_session(order);
	const size_t length = accept_order(order);
	record_history(order);
	return length + count_stock(order);
}

// ---- Billing, a thread.

STEP static void keep_invoice(const std::ostringstream &text)
{
	leak_string(invoices, new std::string(text.str()));
	END_OF_STEP;
}

STEP static void print_invoice(int order)
{
	std::ostringstream text;
	text << "Invoice for order number " << order << ", payable to the shop within " << 30 << " days";
	keep_invoice(text);
}

// Two objects that own each other are never freed.
struct Payment {
	std::shared_ptr<Payment> counterpart;
	double amount = 0;
};

STEP static void link_payments(double amount)
{
	static const uint64_t shared_bytes = [] {
		std::allocate_shared<Payment>(MeasuringAllocator<Payment>());
		return measured_bytes;
	}();
	auto debit = std::make_shared<Payment>();
	auto credit = std::make_shared<Payment>();
	debit->amount = -amount;
	credit->amount = amount;
	debit->counterpart = credit;
	credit->counterpart = debit;
	payments.leaked(debit.get(), 2 * shared_bytes, 2);
}

STEP static void note_abandoned(int order)
{
	auto *note = new std::array<int, 24>{ order };
	abandoned.leaked(note, sizeof(*note), 1);
	END_OF_STEP;
}

struct OpenPayment {
	int order;
	explicit OpenPayment(int number) : order(number)
	{
	}
	STEP ~OpenPayment()
	{
		note_abandoned(order);
		END_OF_STEP;
	}
	OpenPayment(const OpenPayment &) = delete;
	OpenPayment &operator=(const OpenPayment &) = delete;
};

STEP static void check_payment(int order)
{
	const OpenPayment payment(order);
	throw std::runtime_error("payment of order " + std::to_string(order) + " has not arrived");
}

STEP static size_t bill_order(int order)
{
	print_invoice(order);
	link_payments(order * 1.5);
	try {
		check_payment(order);
	} catch (const std::runtime_error &error) {
		return std::strlen(error.what());
	}
	return 0;
}

// ---- Couriers, two threads.

STEP static void note_stop(int stop)
{
	auto note = std::make_unique<char[]>(100 + stop);
	const char *forgotten = note.release();
	stops.leaked(forgotten, 100 + stop, 1);
	END_OF_STEP;
}

STEP static void visit_stop(int stop, int remaining)
{
	if (remaining == 0)
		note_stop(stop);
	else
		visit_stop(stop + 1, remaining - 1);
	END_OF_STEP;
}

STEP static void note_comparison(int left, int right)
{
	auto *note = new std::pair<int, int>(left, right);
	comparisons.leaked(note, sizeof(*note), 1);
	END_OF_STEP;
}

STEP static int compare_stops(const void *left, const void *right)
{
	const int a = *static_cast<const int *>(left);
	const int b = *static_cast<const int *>(right);
	if (a == 1 || b == 1) // not at each comparison
		note_comparison(a, b);
	return a - b;
}

STEP static int sort_stops(std::array<int, 6> &stop_numbers)
{
	std::qsort(stop_numbers.data(), stop_numbers.size(), sizeof(int), compare_stops);
	return stop_numbers[0];
}

STEP static int plan_route(int order)
{
	std::array<int, 6> stop_numbers = { order + 10, 1, order + 7, order + 9, order + 8, order + 5 };
	return sort_stops(stop_numbers) + 1;
}

STEP static size_t deliver_order(int order)
{
	const int first = plan_route(order);
	visit_stop(first, 3);
	return count_stock(order) + first;
}

// ---- The shop as a whole.

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
			for (const shop::Site *site : shop::sites)
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

	for (const shop::Site *site : shop::sites)
		std::printf("leaked %llu %llu %s\n", static_cast<unsigned long long>(site->bytes),
			    static_cast<unsigned long long>(site->blocks), site->chain);
	std::puts("done");
	std::fflush(stdout);
	if (hold)
		wait_for_line();
	return 0;
}
