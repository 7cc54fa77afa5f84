//go:build cuda

package cuda

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"gorgonia.org/cu"

	"surgeon/engine/device"
)

// pool hands out device memory and keeps what comes back: asking the driver takes up to a millisecond and waits for the GPU.
//
// There is one stream, so a block can be given out again as soon as it came back: what is queued before still sees the old
// owner, what is queued after the new one. used + kept ≤ limit; where a new block would break that, or the driver has no
// more, the blocks that waited longest go back to the driver.
type pool struct {
	limit            int64
	used, kept, peak int64   // bytes
	own              int64   // of used: what the device took before there were tensors
	spare            []block // by size, then by age
	clock            int
	granularity      int64
	page             device.Page
	keepsNone        bool  // what comes back goes to the driver
	slack            int64 // a block may be larger than what is asked for by a slack-th of it; 0: exactly as large
}

type block struct {
	at   cu.DevicePtr
	size int64
	time int
}

const (
	granularity = 512     // bytes; what the driver aligns to
	page        = 2 << 20 // bytes; blocks as large as that are whole pages of the driver
	// slack: matrices of what is alive change size from layer to layer and shot to shot. An eighth more lets most of them
	// have the block of another; what stays for the whole run is allocated first, when there is nothing to reuse.
	slack = 8
	// reserved is left free for the driver and NVIDIA's libraries, whose own memory is not counted here.
	reserved = 1 << 30
)

func (d *Device) startMemory(limit int64) error {
	free, _, err := cu.MemInfo()
	if err != nil {
		return err
	}
	m := &d.memory
	*m = pool{limit: free - reserved, granularity: granularity, page: page, slack: slack}
	if isEmulated() { // so that AddressSanitizer sees the end of every tensor
		m.limit, m.granularity, m.page, m.slack = free, 1, 0, 0
	}
	if os.Getenv("SURGEON_CUDA_EXACT") != "" { // so that compute-sanitizer does, and what is read after it was freed
		m.granularity, m.page, m.slack, m.keepsNone = 1, 0, 0, true
	}
	m.limit, err = limitOf(m.limit, limit)
	return err
}

// limitOf is how much of what is free may be used; asked is 0 for all.
func limitOf(free, asked int64) (int64, error) {
	switch {
	case free <= 0:
		return 0, &Unavailable{fmt.Sprintf("it has no memory left: other programs hold all but %s, which are for the driver; %s", gibibytes(free+reserved), waysToRoom)}
	case asked > free:
		return 0, &Unavailable{fmt.Sprintf("--gpu-memory asks for %s; %s are free", gibibytes(asked), gibibytes(free))}
	case asked > 0:
		return asked, nil
	}
	return free, nil
}

func (d *Device) closeMemory() {
	for len(d.memory.spare) > 0 {
		d.dropOldest()
	}
}

// rounded is what a block for so many bytes takes of the device: a limit that left out what pages hold beside it would be passed.
func (m *pool) rounded(bytes int64) int64 {
	if m.page > 0 && bytes >= int64(m.page) {
		return m.page.Of(bytes)
	}
	return max(1, (bytes+m.granularity-1)/m.granularity) * m.granularity
}

// take is a block of at least so many bytes, or false, and then the device has failed.
func (d *Device) take(bytes int64) (block, bool) {
	m := &d.memory
	size := m.rounded(bytes)
	i, _ := slices.BinarySearchFunc(m.spare, size, func(b block, size int64) int {
		if b.size < size {
			return -1
		}
		return 1
	})
	most := size
	if m.slack > 0 {
		most += size / m.slack
	}
	if i < len(m.spare) && m.spare[i].size <= most {
		b := m.spare[i]
		m.spare = slices.Delete(m.spare, i, i+1)
		m.kept -= b.size
		m.count(b.size)
		return b, true
	}
	for m.used+m.kept+size > m.limit && len(m.spare) > 0 {
		d.dropOldest()
	}
	if m.used+size > m.limit {
		d.outOfMemory(size, false)
		return block{}, false
	}
	b := block{size: size}
	for {
		var err error
		d.do("Alloc", func() error {
			if b.at, err = cu.MemAlloc(size); err == cu.OutOfMemory {
				return nil
			}
			return err
		})
		if d.err != nil {
			return block{}, false
		}
		if err == nil {
			m.count(size)
			return b, true
		}
		if len(m.spare) == 0 {
			d.outOfMemory(size, true)
			return block{}, false
		}
		d.dropOldest()
	}
}

func (m *pool) count(size int64) {
	m.used += size
	m.peak = max(m.peak, m.used)
}

// give takes a block back.
func (d *Device) give(b block) {
	m := &d.memory
	m.used -= b.size
	m.kept += b.size
	m.clock++
	b.time = m.clock
	i, _ := slices.BinarySearchFunc(m.spare, b, func(x, b block) int {
		if x.size < b.size || x.size == b.size && x.time < b.time {
			return -1
		}
		return 1
	})
	m.spare = slices.Insert(m.spare, i, b)
	if m.keepsNone {
		d.dropOldest()
	}
}

func (d *Device) dropOldest() {
	m := &d.memory
	oldest := 0
	for i, b := range m.spare {
		if b.time < m.spare[oldest].time {
			oldest = i
		}
	}
	b := m.spare[oldest]
	m.spare = slices.Delete(m.spare, oldest, oldest+1)
	m.kept -= b.size
	d.do("Free", func() error { return cu.MemFree(b.at) })
}

func (d *Device) outOfMemory(size int64, elsewhere bool) {
	if d.err == nil {
		d.err = &OutOfMemory{Device: d.id(), Asked: size, Used: d.memory.used, Limit: d.memory.limit, Elsewhere: elsewhere}
	}
}

// Memory tells how much tensors hold, with what their pages hold beside them, scratch memory of queued operations included.
func (d *Device) Memory() device.Memory {
	m := &d.memory
	return device.Memory{Total: m.limit, Used: m.used, Peak: m.peak, Own: m.own, Page: m.page}
}

// buffer is an allocation, the Handle of its tensors.
type buffer struct {
	owner *Device // nil once freed
	typ   device.Type
	len   int // in elements
	block block
}

// Alloc makes a rows×cols tensor.
func (d *Device) Alloc(rows, cols int, t device.Type) device.Tensor {
	device.CheckAlloc(rows, cols, t)
	device.CheckOpen(d.closed)
	x := device.Tensor{Rows: rows, Cols: cols, Type: t}
	if d.err != nil {
		return x
	}
	if b, ok := d.take(int64(rows) * int64(cols) * int64(t.Size())); ok {
		x.Handle = &buffer{owner: d, typ: t, len: rows * cols, block: b}
	}
	return x
}

// Free gives tensors back.
func (d *Device) Free(ts ...device.Tensor) {
	for _, t := range ts {
		if t.IsZero() || t.Handle == nil && d.err != nil {
			continue
		}
		b := d.buffer(t)
		d.give(b.block)
		b.owner = nil
	}
}

// buffer is the allocation behind t.
func (d *Device) buffer(t device.Tensor) *buffer {
	device.CheckOpen(d.closed)
	b, ok := t.Handle.(*buffer)
	a := device.Allocation{}
	if ok {
		a = device.Allocation{Made: b.owner == nil || b.owner == d, Freed: b.owner == nil, Type: b.typ, Len: b.len}
	}
	device.CheckTensor(t, a)
	return b
}

// at is the device address of the first element of t: nil for the zero Tensor, and on a device that has failed for a tensor
// without memory.
func (d *Device) at(t device.Tensor) unsafe.Pointer {
	if t.IsZero() || t.Handle == nil && d.err != nil {
		return nil
	}
	return address(d.buffer(t).block.at + cu.DevicePtr(t.Offset*t.Type.Size()))
}

// address is a device address as C has it. It is never followed here.
func address(p cu.DevicePtr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// scratch is device memory for the operations queued until it is given back by the returned function.
func (d *Device) scratch(bytes int64) (at unsafe.Pointer, free func()) {
	if d.err != nil {
		return nil, func() {}
	}
	b, ok := d.take(bytes)
	if !ok {
		return nil, func() {}
	}
	return address(b.at), func() { d.give(b) }
}
