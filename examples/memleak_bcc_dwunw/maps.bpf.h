/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Map helpers.
 */
#ifndef __MAPS_BPF_H
#define __MAPS_BPF_H

#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

/* The element of a key; added with the value `init` if it is absent. NULL: the map is full. */
static __always_inline void *bpf_map_lookup_or_try_init(void *map, const void *key, const void *init)
{
	void *value = bpf_map_lookup_elem(map, key);
	long err;

	if (value)
		return value;
	err = bpf_map_update_elem(map, key, init, BPF_NOEXIST);
	if (err && err != -EEXIST)
		return NULL;
	return bpf_map_lookup_elem(map, key);
}

#endif /* __MAPS_BPF_H */
