//go:build cuda

package cuda

import (
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
)

// What would be caught: a long list that is taken for another one, that is brought to the device for every operation, or that
// stays there.
func TestLongLists(t *testing.T) {
	d := gpu(t, Options{})
	d.longestList = 7
	const n = 100
	values, places := make([]float64, n), make([]int32, n)
	for i, p := range rand.New(rand.NewPCG(8, 1)).Perm(n) {
		values[i], places[i] = float64(i), int32(p)
	}
	x, y, z := device.NewFrom(d, values, 1, n, device.F64), d.Alloc(1, n, device.F64), d.Alloc(1, n, device.F64)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	before := d.Memory().Used
	d.Scatter(x, nil, places, y)
	at := d.transfers.long.block.at
	d.Gather(y, nil, places, z)
	if d.transfers.long.block.at != at || len(d.transfers.long.of) != n {
		t.Error("the list was brought to the device again")
	}
	for i, v := range device.DownloadSlice[float64](d, y) {
		if places[int(v)] != int32(i) {
			t.Fatalf("place %d has number %v", i, v)
		}
	}
	if got := device.DownloadSlice[float64](d, z); !slices.Equal(got, values) {
		t.Errorf("what was put away comes back as %v", got)
	}
	backwards := slices.Clone(places)
	slices.Reverse(backwards)
	for _, list := range [][]int32{backwards, places, places[:n-1], backwards[1:]} {
		part := d.Alloc(1, len(list), device.F64)
		d.Gather(y, nil, list, part)
		for i, v := range device.DownloadSlice[float64](d, part) {
			if places[int(v)] != list[i] {
				t.Fatalf("element %d of %d is %v", i, len(list), v)
			}
		}
		d.Free(part)
	}
	if err := d.Sync(); err != nil || d.Memory().Used != before {
		t.Errorf("%d bytes stay on the device: %v", d.Memory().Used-before, err)
	}
	if d.transfers.listsBytes != arenaBytes {
		t.Errorf("the arena has grown to %d bytes", d.transfers.listsBytes)
	}
}
