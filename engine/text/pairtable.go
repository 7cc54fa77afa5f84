package text

// pairTable maps pairs of 32-bit numbers to 32-bit numbers: a hash table with open addressing, at most half full. It is
// asked several times per character of the text, and Go's map is three times as slow here.
type pairTable struct {
	keys   []uint64 // the pair plus one; 0 is an empty place
	values []uint32
	shift  uint
}

func pair[T ~int32](a, b T) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// newPairTable makes a table for n entries.
func newPairTable(n int) pairTable {
	bits := uint(4)
	for 1<<bits < 2*n {
		bits++
	}
	return pairTable{keys: make([]uint64, 1<<bits), values: make([]uint32, 1<<bits), shift: 64 - bits}
}

func (t *pairTable) place(key uint64) int {
	mask := len(t.keys) - 1
	// Multiplication by 2^64/φ spreads neighbouring keys; the high bits are the well mixed ones.
	i := int((key * 0x9E3779B97F4A7C15) >> t.shift)
	for t.keys[i] != 0 && t.keys[i] != key+1 {
		i = (i + 1) & mask
	}
	return i
}

func (t *pairTable) get(key uint64) (uint32, bool) {
	i := t.place(key)
	return t.values[i], t.keys[i] != 0
}

// put sets the value of a key; an earlier one is replaced.
func (t *pairTable) put(key uint64, value uint32) {
	i := t.place(key)
	t.keys[i], t.values[i] = key+1, value
}
