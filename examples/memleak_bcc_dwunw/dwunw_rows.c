// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* dwunw-added: begin the whole file: the rows of a report, one for each call chain */
#include "dwunw_rows.h"

#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 32;
}

static uint64_t place_of(const struct dwunw_frame *frame)
{
	return frame->module ? frame->module_offset : frame->pc;
}

static bool is_exact(const struct dwunw_frame *frame)
{
	return frame->flags & DWUNW_FRAME_FLAG_EXACT_PC;
}

static uint64_t hash_of(const struct dwunw_frame *frames, size_t count)
{
	uint64_t hash = count;

	for (size_t i = 0; i < count; i++)
		hash = mix(mix(hash, (uint64_t)(uintptr_t)frames[i].module + is_exact(&frames[i])), place_of(&frames[i]));
	return hash;
}

static bool are_equal(const struct dwunw_rows *rows, const struct dwunw_row *row, uint64_t hash,
		      const struct dwunw_frame *frames, size_t count)
{
	const struct dwunw_frame *known;

	if (row->hash != hash || rows->frames_of(rows->arg, row->id, &known) != count)
		return false;
	for (size_t i = 0; i < count; i++)
		if (known[i].module != frames[i].module || place_of(&known[i]) != place_of(&frames[i]) ||
		    is_exact(&known[i]) != is_exact(&frames[i]))
			return false;
	return true;
}

void dwunw_rows__clear(struct dwunw_rows *rows)
{
	rows->count = rows->id_count = 0;
	if (rows->ids)
		memset(rows->ids, 0, rows->id_capacity * sizeof(*rows->ids));
	if (rows->by_frames)
		memset(rows->by_frames, 0, rows->frame_capacity * sizeof(*rows->by_frames));
}

void dwunw_rows__free(struct dwunw_rows *rows)
{
	free(rows->rows);
	free(rows->ids);
	free(rows->by_frames);
	memset(rows, 0, sizeof(*rows));
}

/* The slot of an id, or the free one where it belongs. 0 means free, and no id is ~0, so ids are stored plus one. */
static struct dwunw_row_id *slot_of(struct dwunw_row_id *ids, size_t capacity, uint64_t id)
{
	size_t slot = mix(0, id) & (capacity - 1);

	while (ids[slot].id && ids[slot].id != id + 1)
		slot = (slot + 1) & (capacity - 1);
	return &ids[slot];
}

const struct dwunw_row_id *dwunw_rows__find(const struct dwunw_rows *rows, uint64_t id)
{
	const struct dwunw_row_id *found = rows->id_count ? slot_of(rows->ids, rows->id_capacity, id) : NULL;

	return found && found->id ? found : NULL;
}

/* The tables are at most half full. */
static bool make_room(struct dwunw_rows *rows)
{
	if (rows->count == rows->capacity) {
		const size_t capacity = rows->capacity ? rows->capacity * 2 : 1024;
		struct dwunw_row *grown = reallocarray(rows->rows, capacity, sizeof(*grown));

		if (!grown)
			return false;
		rows->rows = grown;
		rows->capacity = capacity;
	}
	if (rows->frame_capacity < 2 * rows->capacity) {
		const size_t capacity = 2 * rows->capacity;
		uint32_t *by_frames = calloc(capacity, sizeof(*by_frames));

		if (!by_frames)
			return false;
		for (size_t i = 0; i < rows->count; i++) {
			size_t slot = rows->rows[i].hash & (capacity - 1);

			while (by_frames[slot])
				slot = (slot + 1) & (capacity - 1);
			by_frames[slot] = (uint32_t)i + 1;
		}
		free(rows->by_frames);
		rows->by_frames = by_frames;
		rows->frame_capacity = capacity;
	}
	if (rows->id_capacity < 2 * (rows->id_count + 1)) {
		const size_t capacity = rows->id_capacity ? rows->id_capacity * 2 : 1024;
		struct dwunw_row_id *ids = calloc(capacity, sizeof(*ids));

		if (!ids)
			return false;
		for (size_t i = 0; i < rows->id_capacity; i++)
			if (rows->ids[i].id)
				*slot_of(ids, capacity, rows->ids[i].id - 1) = rows->ids[i];
		free(rows->ids);
		rows->ids = ids;
		rows->id_capacity = capacity;
	}
	return true;
}

const struct dwunw_row_id *dwunw_rows__add(struct dwunw_rows *rows, uint64_t id, uint32_t status,
					   const struct dwunw_frame *frames, size_t count)
{
	const uint64_t hash = hash_of(frames, count);
	struct dwunw_row_id *entry;
	size_t slot;

	if (!make_room(rows))
		return NULL;
	slot = hash & (rows->frame_capacity - 1);
	while (rows->by_frames[slot] && !are_equal(rows, &rows->rows[rows->by_frames[slot] - 1], hash, frames, count))
		slot = (slot + 1) & (rows->frame_capacity - 1);
	if (!rows->by_frames[slot]) {
		rows->rows[rows->count] = (struct dwunw_row){ .hash = hash, .id = id };
		rows->by_frames[slot] = (uint32_t)++rows->count;
	}
	entry = slot_of(rows->ids, rows->id_capacity, id);
	if (!entry->id)
		rows->id_count++;
	*entry = (struct dwunw_row_id){ .id = id + 1, .row = rows->by_frames[slot] - 1, .status = status };
	return entry;
}
/* dwunw-added: end */
