package model

import (
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Linear is one linear layer of a block, y = x·Wᵀ + b. The method sees it as the matrix [W b] of Rows rows and Inputs
// columns: a bias is the last column, and then the input has a constant 1 appended.
type Linear struct {
	checkpoint.Linear

	weight *weight // W, Rows×Cols
	bias   *weight // b, 1×Rows; nil where there is none
	dev    device.Device
	index  int // place in Model.Linears
}

// InputsPerBlock is the number of distinct inputs that the linear layers of a block have: q, k and v read one, gate and
// up read one.
const InputsPerBlock = 4

// Input is the index of the layer's input: layers with the same index read the same values and share one factor A.
func (l *Linear) Input() int {
	slot := 0
	switch l.Role {
	case checkpoint.O:
		slot = 1
	case checkpoint.Gate, checkpoint.Up:
		slot = 2
	case checkpoint.Down:
		slot = 3
	}
	return l.Block*InputsPerBlock + slot
}

// Inputs is the number of columns of [W b].
func (l *Linear) Inputs() int {
	if l.Bias {
		return l.Cols + 1
	}
	return l.Cols
}

// Matrix is a new Rows×Inputs tensor [W b] of type t; the caller frees it.
func (l *Linear) Matrix(t device.Type) device.Tensor {
	w := l.dev.Alloc(l.Rows, l.Inputs(), t)
	if !l.Bias {
		l.weight.copyTo(l.dev, w)
		return w
	}
	part := l.dev.Alloc(l.Rows, l.Cols, t)
	l.weight.copyTo(l.dev, part)
	l.dev.Scatter(part, nil, span(0, l.Cols), w)
	l.dev.Free(part)
	bias := l.dev.Alloc(l.Rows, 1, t)
	l.bias.copyTo(l.dev, bias.Reshape(1, l.Rows))
	l.dev.Scatter(bias, nil, span(l.Cols, l.Cols+1), w)
	l.dev.Free(bias)
	return w
}

// SetMatrix stores [W b], a Rows×Inputs tensor of any type, rounding it to the model's; in a bfloat16 model to float32 for
// the master, and that to bfloat16 for the passes.
func (l *Linear) SetMatrix(w device.Tensor) {
	if !l.Bias {
		l.weight.copyFrom(l.dev, w)
		return
	}
	part := l.dev.Alloc(l.Rows, l.Cols, w.Type)
	l.dev.Gather(w, nil, span(0, l.Cols), part)
	l.weight.copyFrom(l.dev, part)
	l.dev.Free(part)
	bias := l.dev.Alloc(l.Rows, 1, w.Type)
	l.dev.Gather(w, nil, span(l.Cols, l.Cols+1), bias)
	l.bias.copyFrom(l.dev, bias.Reshape(1, l.Rows))
	l.dev.Free(bias)
}

// span is the index list i, i+1, …, j−1.
func span(i, j int) []int32 {
	s := make([]int32, j-i)
	for k := range s {
		s[k] = int32(i + k)
	}
	return s
}

// forward is y ← x·Wᵀ + b + β·y.
func (l *Linear) forward(x device.Tensor, beta float64, y device.Tensor) {
	if l.Bias {
		l.dev.Linear(x, l.weight.tensor, l.bias.tensor, beta, y)
	} else {
		l.dev.Gemm(false, true, 1, x, l.weight.tensor, beta, y)
	}
}

// backward is dx ← dy·W + β·dx.
func (l *Linear) backward(dy device.Tensor, beta float64, dx device.Tensor) {
	l.dev.Gemm(false, false, 1, dy, l.weight.tensor, beta, dx)
}
