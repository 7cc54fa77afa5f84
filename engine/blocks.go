package engine

import (
	"fmt"

	"surgeon/engine/device"
)

// checkBlocks looks at every block of the model as it will be written: with the target at its highest each one has lost its N
// weights, with a lower one so many blocks as were selected. Hardware that leaves zeros out relies on nothing less.
func (r *run) checkBlocks() error {
	s := r.options.Structure
	if !s.Blocks() || r.report.Final.StoppedEarly != "" {
		return nil
	}
	all, sparse := 0, 0
	for _, l := range r.model.Linears() {
		w := l.Matrix(device.F64)
		marks := zeros(r.dev, w)
		r.dev.Free(w)
		if err := r.failed(nil, l); err != nil {
			return err
		}
		for row := range l.Rows {
			for from := 0; from < l.Cols; from += s.M {
				at := row*l.Inputs() + from
				all++
				if count(marks[at:at+s.M]) >= s.N {
					sparse++
				} else if r.options.Target == s.Share() {
					return fmt.Errorf("block %d, layer %s, row %d: the %d inputs from %d on have %d zeros, and %v needs %d; this is a bug",
						l.Block, l.Name, row, s.M, from, count(marks[at:at+s.M]), s, s.N)
				}
			}
		}
	}
	if want := s.Taken(r.options.Target, all); sparse < want {
		return fmt.Errorf("%d of %d blocks have the zeros of %v, and %d were selected; this is a bug", sparse, all, s, want)
	}
	return nil
}

// zeros marks the weights that are 0, in row-major order.
func zeros(d device.Device, w device.Tensor) []bool {
	order := make([]device.Order, w.Len())
	d.Compare(w, 0, order)
	marks := make([]bool, len(order))
	for i, o := range order {
		marks[i] = o == device.Equal
	}
	return marks
}

func count(marks []bool) int {
	n := 0
	for _, m := range marks {
		if m {
			n++
		}
	}
	return n
}

// refuseOddBlocks refuses a structure that the layers' inputs cannot be cut into.
func (r *run) refuseOddBlocks() error {
	if err := singleWeights(r.options.Structure, linears(r.inputs.model.Config)).CheckBlocks(); err != nil {
		return refuse("--structure %v: %w", r.options.Structure, err)
	}
	return nil
}
