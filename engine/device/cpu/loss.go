package cpu

import (
	"math"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// CrossEntropy is losses_i ← log Σ_v exp(logits_iv) − logits_i,target(i), and with grad logits ← its gradient.
func (d *Device) CrossEntropy(logits device.Tensor, targets []int32, grad bool, losses device.Tensor) {
	device.CheckCrossEntropy(logits, targets, losses)
	switch logits.Type {
	case device.F32:
		crossEntropy(d, whole[float32](d, logits), targets, grad, elements[float32](d, losses))
	case device.F64:
		crossEntropy(d, whole[float64](d, logits), targets, grad, elements[float64](d, losses))
	default:
		w := d.widen()
		if grad {
			d.CrossEntropy(w.inOut(logits), targets, grad, losses)
		} else {
			d.CrossEntropy(w.in(logits), targets, grad, losses)
		}
		w.store()
	}
}

func crossEntropy[T float](d *Device, logits block[T], targets []int32, grad bool, losses []T) {
	width := 0
	if !grad {
		width = logits.cols // a copy of the row, for the row itself must stay
	}
	buf, free := scratch[T](d, parallel.Workers()*width)
	defer free()
	parallel.For(logits.rows, rowGrain(logits.cols), func(worker, i0, i1 int) {
		for i := i0; i < i1; i++ {
			losses[i] = T(rowEntropy(logits.row(i), targets[i], grad, buf[worker*width:][:width]))
		}
	})
}

func rowEntropy[T float](row []T, target int32, grad bool, spare []T) (loss float64) {
	if target < 0 {
		if grad {
			clear(row)
		}
		return 0
	}
	p := row
	if !grad {
		p = spare
		copy(p, row)
	}
	top := largest(row)
	loss = float64(top) - float64(row[target])
	sum := expSum(p, top)
	if grad {
		inverse := T(1 / sum)
		for j := range p {
			p[j] *= inverse
		}
		p[target]--
	}
	return loss + math.Log(sum)
}

// largest is the largest element that is not NaN, or −Inf.
func largest[T float](x []T) T {
	m := T(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}
