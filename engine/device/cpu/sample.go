package cpu

import (
	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Sample is ids_i ← the smallest v with Σ_{u≤v} exp(logits_iu) > uniform_i · Σ_u exp(logits_iu).
func (d *Device) Sample(logits device.Tensor, uniform []float64, ids []int32) {
	device.CheckSample(logits, uniform, ids)
	switch logits.Type {
	case device.F32:
		sample(d, whole[float32](d, logits), uniform, ids)
	case device.F64:
		sample(d, whole[float64](d, logits), uniform, ids)
	default:
		w := d.widen()
		d.Sample(w.in(logits), uniform, ids)
		w.store()
	}
}

func sample[T float](d *Device, logits block[T], uniform []float64, ids []int32) {
	buf, free := scratch[T](d, parallel.Workers()*logits.cols)
	defer free()
	parallel.For(logits.rows, rowGrain(logits.cols), func(worker, i0, i1 int) {
		p := buf[worker*logits.cols:][:logits.cols]
		for i := i0; i < i1; i++ {
			row := logits.row(i)
			copy(p, row)
			ids[i] = int32(drawn(p, uniform[i]*expSum(p, largest(row))))
		}
	})
}

// drawn is the place where the sum of p passes below, the last one where it never does. The sum of all of p, added up in the
// same order, is above uniform times itself for every uniform < 1, also as rounded: only a NaN makes it never.
func drawn[T float](p []T, below float64) int {
	var sum float64
	for v, e := range p {
		if sum += float64(e); sum > below {
			return v
		}
	}
	return len(p) - 1
}
