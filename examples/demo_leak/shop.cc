// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// The work of demo_leak's shop: the desk takes an order, billing bills it, a courier delivers it. Nine places forget to
// free what they allocate, and record it:
//
//     auto *note = new std::array<int, 24>{ order };
//     abandoned.leaked(note, sizeof(*note), 1);      the block is lost, and `abandoned` has one more
#include "shop.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace shop
{

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

std::span<Site *const> sites()
{
	static Site *const kSites[] = { &customers, &products,	&histories, &sessions,	 &invoices,
					&payments,  &abandoned, &stops,	    &comparisons };
	return kSites;
}

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

STEP size_t serve_customer(int order)
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

STEP size_t bill_order(int order)
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

STEP size_t deliver_order(int order)
{
	const int first = plan_route(order);
	visit_stop(first, 3);
	return count_stock(order) + first;
}

} // namespace shop
