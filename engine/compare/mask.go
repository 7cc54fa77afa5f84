package compare

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/parallel"
)

// mask marks what is removed among n structures, one bit each, the first in the lowest bit of the first word. Bits beyond n
// are 0.
type mask struct {
	n    int
	bits []uint64
}

func newMask(n int) mask { return mask{n, make([]uint64, (n+63)/64)} }

func (m mask) mark(i int) { m.bits[i/64] |= 1 << (i % 64) }

// count is how many are marked.
func (m mask) count() int64 {
	n := 0
	for _, w := range m.bits {
		n += bits.OnesCount64(w)
	}
	return int64(n)
}

// both is how many two masks of one length mark both.
func both(a, b mask) int64 {
	n := 0
	for i, w := range a.bits {
		n += bits.OnesCount64(w & b.bits[i])
	}
	return int64(n)
}

// absent marks those of n structures that are not kept.
func absent(kept []int, n int) mask {
	m := newMask(n)
	k := 0
	for i := range n {
		if k < len(kept) && kept[k] == i {
			k++
			continue
		}
		m.mark(i)
	}
	return m
}

// zeros marks the weights of a layer that are zero, of either sign: those of its matrix, row-major, and then those of its
// bias.
func zeros(c *checkpoint.Checkpoint, l checkpoint.Linear) (mask, error) {
	m := newMask(l.Rows * inputs(l))
	at := 0
	for _, name := range []string{l.WeightName(), l.BiasName()} {
		if name == "" {
			continue
		}
		ok, err := c.Raw(name, func(t safetensors.DType, data []byte) error {
			markZeros(m, at, t, data)
			at += len(data) / t.Size()
			return nil
		})
		if err != nil {
			return m, err
		}
		if !ok {
			return m, fmt.Errorf("%s: tensor %q is quantised; the directories that surgeon prune writes are not, and zeros mean something else here", c.Path, name)
		}
	}
	return m, nil
}

// markZeros marks the elements that are zero, the first one at a place of the mask. Only types that checkpoint reads as
// numbers come here. An element is zero where all bits but the highest, its sign, are 0; a NaN is not, and counts as kept.
func markZeros(m mask, at int, t safetensors.DType, data []byte) {
	var zero func(i int) bool
	switch t.Size() {
	case 8:
		zero = func(i int) bool { return binary.LittleEndian.Uint64(data[8*i:])<<1 == 0 }
	case 4:
		zero = func(i int) bool { return binary.LittleEndian.Uint32(data[4*i:])<<1 == 0 }
	default:
		zero = func(i int) bool { return binary.LittleEndian.Uint16(data[2*i:])<<1 == 0 }
	}
	// Each goroutine has words of the mask for itself: its share begins and ends at multiples of 64 places.
	end := at + len(data)/t.Size()
	const grain = 1 << 10 // words that are worth a goroutine
	first, last := at/64, (end+63)/64
	parallel.For(last-first, grain, func(_, from, to int) {
		for i := max(64*(first+from), at); i < min(64*(first+to), end); i++ {
			if zero(i - at) {
				m.mark(i)
			}
		}
	})
}
