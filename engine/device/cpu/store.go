package cpu

import "unsafe"

// store hands out memory and keeps what comes back for the next request of exactly the same size: a run asks for the same
// shapes over and over, and fresh memory would have to be cleared and collected each time.
//
// What is kept never makes the process larger than its tensors alone once were: used + kept ≤ peak. Where a new size would
// break that, the pieces that waited longest are left to the garbage collector.
type store struct {
	used, kept, peak int             // bytes
	spare            map[int][]spare // by size in bytes; the last one came back last
	clock            int
}

type spare struct {
	data unsafe.Pointer
	time int
}

const alignment = 64 // bytes; a cache line, and the widest vector

func (s *store) get(size int) unsafe.Pointer {
	s.used += size
	s.peak = max(s.peak, s.used)
	if l := s.spare[size]; len(l) > 0 {
		s.kept -= size
		data := l[len(l)-1].data
		l[len(l)-1] = spare{} // what is not in the list must not be held by the array behind it
		s.spare[size] = l[:len(l)-1]
		return data
	}
	for s.used+s.kept > s.peak {
		s.dropOldest()
	}
	raw := make([]byte, size+2*alignment) // the first element lies within, even where there is none
	gap := -uintptr(unsafe.Pointer(&raw[0])) % alignment
	return unsafe.Pointer(&raw[gap])
}

func (s *store) put(data unsafe.Pointer, size int) {
	s.used -= size
	if size == 0 {
		return
	}
	s.kept += size
	s.clock++
	s.spare[size] = append(s.spare[size], spare{data, s.clock})
}

func (s *store) dropOldest() {
	oldest, size := s.clock+1, 0
	for n, l := range s.spare {
		if len(l) == 0 {
			delete(s.spare, n)
		} else if l[0].time < oldest {
			oldest, size = l[0].time, n
		}
	}
	s.kept -= size
	l := s.spare[size]
	l[0] = spare{}
	if s.spare[size] = l[1:]; len(l) == 1 {
		delete(s.spare, size)
	}
}
