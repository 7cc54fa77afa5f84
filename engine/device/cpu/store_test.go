package cpu

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"
)

// Would catch a store that keeps more than the tensors alone once needed, or gives one piece of memory to two tensors.
func TestStoreKeepsNoMoreThanThePeak(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s := store{spare: map[int][]spare{}}
	live := map[*byte]int{}
	used := 0
	for range 5000 {
		if r.IntN(2) == 0 {
			n := 8 * (1 + r.IntN(40))
			p := (*byte)(s.get(n))
			if live[p] != 0 {
				t.Fatal("memory that is in use was given out")
			}
			live[p], used = n, used+n
		} else {
			for p, n := range live {
				s.put(unsafe.Pointer(p), n)
				delete(live, p)
				used -= n
				break
			}
		}
		kept := 0
		for n, l := range s.spare {
			kept += n * len(l)
		}
		if s.used != used || s.kept != kept || s.used+s.kept > s.peak {
			t.Fatalf("used %d, kept %d, peak %d; want %d, %d and no more than the peak", s.used, s.kept, s.peak, used, kept)
		}
	}
}

// What would be caught: memory that was dropped, and stays reachable from the array behind a list.
func TestDroppedMemoryIsCollected(t *testing.T) {
	const size = 1 << 20
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	s := &store{spare: map[int][]spare{}}
	var all []unsafe.Pointer
	for range 31 {
		all = append(all, s.get(size))
	}
	for _, data := range all {
		s.put(data, size)
	}
	full := heap()
	clear(all)
	one := s.get(29 * size) // leaves room for two of them
	if freed := full + 29*size - heap(); freed < 28*size {
		t.Errorf("%d bytes were freed of the %d that were dropped", freed, 29*size)
	}
	s.put(one, 29*size)
	runtime.KeepAlive(s)
}
