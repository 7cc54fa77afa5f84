package prune

import "math"

// sortable maps a float64 that is not NaN to an integer with the same order: the bits of a positive number are ordered as
// they stand, those of a negative number the other way round. −0 is taken as 0, so that it ties with it.
func sortable(v float64) uint64 {
	bits := math.Float64bits(v + 0)
	if bits>>63 == 1 {
		return ^bits
	}
	return bits | 1<<63
}

// unsortable is the inverse of sortable.
func unsortable(key uint64) float64 {
	if key>>63 == 1 {
		return math.Float64frombits(key &^ (1 << 63))
	}
	return math.Float64frombits(^key)
}

// radixSort sorts places by keys, in ascending order, keeping the order of places with equal keys. The slices are used as
// working space; the sorted ones are returned. Eleven bits a pass, so six passes over 12 bytes per item, all counted in one
// reading; a pass in which all keys agree is left out.
func radixSort(keys []uint64, places []uint32) ([]uint64, []uint32) {
	const bits, buckets, passes = 11, 1 << 11, 6
	var counts [passes][buckets]int
	for _, k := range keys {
		for p := range passes {
			counts[p][k>>(p*bits)&(buckets-1)]++
		}
	}
	keys2, places2 := make([]uint64, len(keys)), make([]uint32, len(places))
	for p := range passes {
		at, next := &counts[p], 0
		if len(keys) > 0 && at[keys[0]>>(p*bits)&(buckets-1)] == len(keys) {
			continue
		}
		for b, c := range at {
			at[b] = next
			next += c
		}
		for i, k := range keys {
			b := k >> (p * bits) & (buckets - 1)
			keys2[at[b]], places2[at[b]] = k, places[i]
			at[b]++
		}
		keys, keys2, places, places2 = keys2, keys, places2, places
	}
	return keys, places
}
