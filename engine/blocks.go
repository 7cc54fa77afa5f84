package engine

import (
	"context"
	"fmt"
	"sync/atomic"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
	"surgeon/engine/prune"
)

// checkBlocks looks at every block of the model as it will be written: with the target at its highest each one has lost its N
// weights, with a lower one so many blocks as were selected. Hardware that leaves zeros out relies on nothing less.
func (r *run) checkBlocks(ctx context.Context) error {
	s := r.options.Structure
	if !s.Blocks() || r.report.Final.StoppedEarly != "" {
		return nil
	}
	layers := r.model.Linears()
	r.watcher.Stage("check of the blocks", len(layers))
	all, sparse := 0, 0
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		w := l.Matrix(device.F64)
		marks := zeros(r.dev, w)
		r.dev.Free(w)
		if err := r.failed(nil, l); err != nil {
			return err
		}
		for row, n := range sparseBlocks(marks, l.Rows, l.Inputs(), s) {
			if n < l.Cols/s.M && r.options.Target == s.Share() {
				return fmt.Errorf("block %d, layer %s, row %d: %d of %d blocks have the zeros of %v; this is a bug", l.Block, l.Name, row, n, l.Cols/s.M, s)
			}
			all, sparse = all+l.Cols/s.M, sparse+n
		}
		r.watcher.Step(i + 1)
	}
	if want := s.Taken(r.options.Target, all); sparse < want {
		return fmt.Errorf("%d of %d blocks have the zeros of %v, and %d were selected; this is a bug", sparse, all, s, want)
	}
	return nil
}

// sparseBlocks is, for each row, how many of its blocks have their zeros; a column of biases is in none.
func sparseBlocks(marks []bool, rows, cols int, s prune.Structure) []int {
	sparse := make([]int, rows)
	parallel.For(rows, max(1, marksGrain/cols), func(_, from, to int) {
		for row := from; row < to; row++ {
			blocks := marks[row*cols : (row+1)*cols]
			for ; len(blocks) >= s.M; blocks = blocks[s.M:] {
				n := 0
				for _, zero := range blocks[:s.M] {
					if zero {
						n++
					}
				}
				if n >= s.N {
					sparse[row]++
				}
			}
		}
	})
	return sparse
}

// zeros marks the weights that are 0, in row-major order.
func zeros(d device.Device, w device.Tensor) []bool {
	marks := make([]bool, w.Len())
	markZeros(d, w, marks)
	return marks
}

// marksGrain is how many marks are worth a goroutine.
const marksGrain = 1 << 16

// markZeros marks the weights that are 0, beside those that are marked.
func markZeros(d device.Device, w device.Tensor, marks []bool) {
	order := make([]device.Order, w.Len())
	d.Compare(w, 0, order)
	parallel.For(len(order), marksGrain, func(_, from, to int) {
		for i, o := range order[from:to] {
			marks[from+i] = marks[from+i] || o == device.Equal
		}
	})
}

// count is how many are marked.
func count(marks []bool) int {
	var sum atomic.Int64
	parallel.For(len(marks), marksGrain, func(_, from, to int) {
		n := 0
		for _, m := range marks[from:to] {
			if m {
				n++
			}
		}
		sum.Add(int64(n))
	})
	return int(sum.Load())
}

// refuseOddBlocks refuses a structure that the layers' inputs cannot be cut into.
func (r *run) refuseOddBlocks() error {
	if err := singleWeights(r.options.Structure, linears(r.inputs.model.Config)).CheckBlocks(); err != nil {
		return refuse("--structure %v: %w", r.options.Structure, err)
	}
	return nil
}
