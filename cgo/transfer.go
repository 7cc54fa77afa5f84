//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"surgeon/engine/device"
)

// transfers are the ways between host and device: two pinned buffers that take turns, so that the host fills one, or empties
// it, while the GPU copies the other; and a pair of arenas for index lists, which are small and many.
type transfers struct {
	slots [2]slot
	next  int

	listsHost   unsafe.Pointer // pinned
	listsDevice block
	listsUsed   int
	listsBytes  int

	long longList
}

// longList is an index list that is too long for the arenas and stays on the device until the next Sync, or another such list:
// the places of weights in a matrix, which iterations give again and again.
type longList struct {
	of    []int32 // holds on to it, so that no other list can have its address
	block block
}

// slot is a pinned buffer and the event after which it is free.
type slot struct {
	host unsafe.Pointer
	done cu.Event
}

const (
	slotBytes  = 16 << 20 // long enough that a copy takes a millisecond, against some microseconds to begin it
	arenaBytes = 4 << 20
)

func (d *Device) startTransfers() error {
	for i := range d.transfers.slots {
		s := &d.transfers.slots[i]
		s.host = d.pinned(slotBytes)
		d.do("MakeEvent", func() (err error) {
			s.done, err = cu.MakeEvent(cu.DisableTiming)
			return err
		})
	}
	d.growLists(arenaBytes)
	return d.err
}

func (d *Device) pinned(bytes int) (host unsafe.Pointer) {
	d.run("pinned memory", func() C.int { return C.surgeon_pinned_alloc(C.int64_t(bytes), &host) })
	return host
}

func (d *Device) freePinned(host unsafe.Pointer) {
	if host != nil {
		d.run("pinned memory", func() C.int { return C.surgeon_pinned_free(host) })
	}
}

func (d *Device) closeTransfers() {
	t := &d.transfers
	for i := range t.slots {
		if t.slots[i].host != nil {
			d.do("DestroyEvent", func() error { return cu.DestroyEvent(&t.slots[i].done) })
			d.freePinned(t.slots[i].host)
		}
	}
	d.dropLongList()
	d.freePinned(t.listsHost)
	if t.listsBytes > 0 {
		d.give(t.listsDevice)
	}
	d.transfers = transfers{}
}

// slotBytesOf sees a slot as Go bytes.
func slotBytesOf(s *slot, n int) []byte { return unsafe.Slice((*byte)(s.host), n) }

// copyBytes is dst ← src, by several cores where there is much of it: one alone is slower than the bus to the GPU.
func copyBytes(dst, src []byte) {
	const least, most = 1 << 20, 8 // bytes that are worth a core; cores
	cores := min(len(src)/least, runtime.GOMAXPROCS(0), most)
	if cores < 2 {
		copy(dst, src)
		return
	}
	var wait sync.WaitGroup
	for core := range cores {
		i, j := len(src)*core/cores, len(src)*(core+1)/cores
		wait.Go(func() { copy(dst[i:j], src[i:j]) })
	}
	wait.Wait()
}

// turn is the slot whose turn it is, once it is free.
func (d *Device) turn(op string) *slot {
	s := &d.transfers.slots[d.transfers.next]
	d.transfers.next = 1 - d.transfers.next
	d.do(op, s.done.Synchronize)
	return s
}

// toDevice queues a copy of src.
func (d *Device) toDevice(op string, src []byte, dst cu.DevicePtr) {
	for len(src) > 0 && d.err == nil {
		n := min(len(src), slotBytes)
		s := d.turn(op)
		copyBytes(slotBytesOf(s, n), src[:n])
		d.do(op, func() error {
			if err := cu.MemcpyHtoDAsync(dst, s.host, int64(n), d.stream); err != nil {
				return err
			}
			return s.done.Record(d.stream)
		})
		src, dst = src[n:], dst+cu.DevicePtr(n)
	}
}

// toHost copies to dst and waits. While the host empties a slot the GPU fills the other.
func (d *Device) toHost(op string, src cu.DevicePtr, dst []byte) {
	var waiting *slot
	var to []byte
	empty := func() {
		if waiting != nil {
			d.do(op, waiting.done.Synchronize)
			if d.err == nil {
				copyBytes(to, slotBytesOf(waiting, len(to)))
			}
		}
	}
	for len(dst) > 0 && d.err == nil {
		n := min(len(dst), slotBytes)
		s := d.turn(op)
		d.do(op, func() error {
			if err := cu.MemcpyDtoHAsync(s.host, src, int64(n), d.stream); err != nil {
				return err
			}
			return s.done.Record(d.stream)
		})
		empty()
		waiting, to = s, dst[:n]
		src, dst = src+cu.DevicePtr(n), dst[n:]
	}
	empty()
}

func pointer(p unsafe.Pointer) cu.DevicePtr { return cu.DevicePtr(uintptr(p)) }

// Upload is dst ← src.
func (d *Device) Upload(src []byte, as device.Type, dst device.Tensor) {
	device.CheckUpload(src, as, dst)
	to := d.at(dst)
	if as == dst.Type {
		d.toDevice("Upload", src, pointer(to))
		return
	}
	n := min(len(src), slotBytes)
	raw, free := d.scratch(int64(n))
	defer free()
	for len(src) > 0 && d.err == nil {
		n := min(len(src), slotBytes)
		d.toDevice("Upload", src[:n], pointer(raw))
		d.convert("Upload", as, dst.Type, n/as.Size(), raw, to)
		to = unsafe.Add(to, n/as.Size()*dst.Type.Size())
		src = src[n:]
	}
}

// Download is dst ← src.
func (d *Device) Download(src device.Tensor, as device.Type, dst []byte) {
	device.CheckDownload(src, as, dst)
	from := d.at(src)
	if as == src.Type {
		d.toHost("Download", pointer(from), dst)
		return
	}
	n := min(len(dst), slotBytes)
	raw, free := d.scratch(int64(n))
	defer free()
	for len(dst) > 0 && d.err == nil {
		n := min(len(dst), slotBytes)
		d.convert("Download", src.Type, as, n/as.Size(), from, raw)
		d.toHost("Download", pointer(raw), dst[:n])
		from = unsafe.Add(from, n/as.Size()*src.Type.Size())
		dst = dst[n:]
	}
}

func (d *Device) convert(op string, from, to device.Type, n int, x, y unsafe.Pointer) {
	d.run(op, func() C.int { return C.surgeon_convert(C.int(from), C.int(to), C.int64_t(n), x, y, d.queue()) })
}

// Copy is y ← x.
func (d *Device) Copy(x, y device.Tensor) {
	device.CheckCopy(x, y)
	from, to := d.at(x), d.at(y)
	if x.Type != y.Type {
		d.convert("Copy", x.Type, y.Type, x.Len(), from, to)
		return
	}
	if bytes := int64(x.Len() * x.Type.Size()); bytes > 0 {
		d.do("Copy", func() error { return cu.MemcpyDtoDAsync(pointer(to), pointer(from), bytes, d.stream) })
	}
}

// Zero is x ← 0.
func (d *Device) Zero(x device.Tensor) {
	device.CheckZero(x)
	d.clear("Zero", d.at(x), int64(x.Len()*x.Type.Size()))
}

// clear makes zeros of so many bytes.
func (d *Device) clear(op string, at unsafe.Pointer, bytes int64) {
	if bytes > 0 {
		d.do(op, func() error { return cu.MemsetD8Async(pointer(at), 0, bytes, d.stream) })
	}
}

// list brings an index list to the device, for the operations that are queued next. nil stays nil.
func (d *Device) list(op string, list []int32) unsafe.Pointer {
	at, _ := d.lists(op, list, nil)
	return at
}

// lists brings the two index lists of one operation to the device: room for both is found before either is copied, for
// making room takes it from the lists before.
func (d *Device) lists(op string, a, b []int32) (atA, atB unsafe.Pointer) {
	if a == nil && b == nil || d.err != nil {
		return nil, nil
	}
	if a == nil && len(b) > d.longestList {
		return nil, d.longList(op, b)
	}
	t := &d.transfers
	room := func(l []int32) int { return max(16, (4*len(l)+15)&^15) } // an empty list is not nil
	bytes := room(a) + room(b)
	if t.listsUsed+bytes > t.listsBytes {
		d.do(op, d.stream.Synchronize) // what reads the old lists has to be done
		t.listsUsed = 0
		if bytes > t.listsBytes {
			d.growLists(2 * bytes)
		}
	}
	put := func(l []int32) unsafe.Pointer {
		if l == nil || d.err != nil {
			return nil
		}
		host := unsafe.Add(t.listsHost, t.listsUsed)
		at := t.listsDevice.at + cu.DevicePtr(t.listsUsed)
		t.listsUsed += room(l)
		if len(l) > 0 {
			copy(unsafe.Slice((*int32)(host), len(l)), l)
			d.do(op, func() error { return cu.MemcpyHtoDAsync(at, host, int64(4*len(l)), d.stream) })
		}
		return address(at)
	}
	return put(a), put(b)
}

// longList brings a long list to the device, unless it is there.
func (d *Device) longList(op string, list []int32) unsafe.Pointer {
	l := &d.transfers.long
	if len(l.of) == len(list) && &l.of[0] == &list[0] {
		return address(l.block.at)
	}
	d.dropLongList()
	b, ok := d.take(int64(4 * len(list)))
	if !ok {
		return nil
	}
	*l = longList{of: list, block: b}
	d.toDevice(op, bytesOf(list), b.at)
	return address(b.at)
}

func (d *Device) dropLongList() {
	if l := &d.transfers.long; l.of != nil {
		d.give(l.block)
		*l = longList{}
	}
}

func bytesOf(list []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), 4*len(list))
}

// growLists makes the arenas for lists larger; nothing that reads them is queued.
func (d *Device) growLists(bytes int) {
	t := &d.transfers
	d.freePinned(t.listsHost)
	if t.listsBytes > 0 {
		d.give(t.listsDevice)
	}
	t.listsBytes = 0
	t.listsHost = d.pinned(bytes)
	if d.err != nil {
		return
	}
	var ok bool
	if t.listsDevice, ok = d.take(int64(bytes)); ok {
		t.listsBytes = bytes
	}
}
