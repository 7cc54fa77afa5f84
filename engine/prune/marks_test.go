package prune

import (
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: of many equal costs others than the first ones, or another number of them, where cores share the work.
func TestCutOverPieces(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	rng := rand.New(rand.NewPCG(17, 0))
	values := make([]float64, 3*marksGrain+5)
	total := int64(0)
	for i := range values {
		values[i] = float64(rng.IntN(3))
		if values[i] == 1 {
			total++
		}
	}
	x := device.NewFrom(dev, values, 1, len(values), device.F64)
	defer dev.Free(x)
	for _, equal := range []int64{0, 1, total / 2, total - 1, total} {
		got, err := cut{limit: 1, equal: equal}.below(dev, x)
		if err != nil {
			t.Fatal(err)
		}
		left := equal
		for i, v := range values {
			want := v < 1 || v == 1 && left > 0
			if v == 1 {
				left--
			}
			if got[i] != want {
				t.Fatalf("%d of %d equal ones: place %d, a %v, is %v", equal, total, i, v, got[i])
			}
		}
	}
}

// What would be caught: places of another row or column than of what is marked and alive, where cores share the work.
func TestPlacesOverPieces(t *testing.T) {
	rng := rand.New(rand.NewPCG(18, 0))
	for _, size := range [][2]int{{700, 301}, {3, 2*marksGrain + 1}, {1, 1}, {5, 0}} {
		rows, cols := size[0], size[1]
		alive := Kept{make([]bool, rows), make([]bool, cols)}
		for i := range rows {
			alive.Rows[i] = rng.IntN(10) > 0 || rows < 10
		}
		for j := range cols {
			alive.Cols[j] = rng.IntN(10) > 0
		}
		gone := make([]bool, rows*cols)
		for i := range gone {
			gone[i] = rng.IntN(2) == 0
		}
		p := newPartition(alive, alive)
		got := placesOf(p, cols, gone)
		want := []int32{}
		for i, row := range p.rows {
			if got.start[i] != len(want) {
				t.Fatalf("%d×%d: row %d starts at %d, want %d", rows, cols, i, got.start[i], len(want))
			}
			for j, col := range p.cols {
				if gone[int(row)*cols+int(col)] {
					want = append(want, int32(i*len(p.cols)+j))
				}
			}
		}
		if !slices.Equal(got.at, want) || got.at == nil || got.start[len(p.rows)] != len(want) {
			t.Errorf("%d×%d: %d places, want %d, or others", rows, cols, len(got.at), len(want))
		}
	}
}
