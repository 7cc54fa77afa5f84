package cpu_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// Would catch a backward pass that is not the derivative of its forward pass, even where the loops it is checked against
// have the same mistake. The slope of Σ weight∘output along each input is taken from central differences in float64.
func TestGradients(t *testing.T) {
	const n, m, eps = 4, 6, 1e-3
	dense := device.Heads{Length: 5, Query: 4, KeyValue: 2, Dim: 3, Scale: 0.6}
	window := device.Heads{Length: 7, Query: 2, KeyValue: 2, Dim: 2, Scale: 0.6, Window: 3}
	blocks := device.Heads{Length: 140, Query: 2, KeyValue: 1, Dim: 2, Scale: 0.6, Window: 131}
	type call = func(d device.Device, x []device.Tensor, w, y device.Tensor) // w weights of the output, y output
	type row struct {
		name            string
		inputs          [][2]int // shapes; those of the first ones that have a gradient
		output          [2]int
		forward         call
		backward        func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor)
		inputsWithSlope int
	}
	attention := func(name string, h device.Heads) row {
		rows := 2 * h.Length
		q, kv := [2]int{rows, h.Query * h.Dim}, [2]int{rows, h.KeyValue * h.Dim}
		forward := func(d device.Device, x []device.Tensor, w, y device.Tensor) {
			d.Attention(h, x[0], x[1], x[2], y, x[3])
		}
		return row{name, [][2]int{q, kv, kv, {rows, h.Query}}, q, forward,
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				forward(d, x, w, y)
				d.AttentionBackward(h, x[0], x[1], x[2], y, x[3], w, dx[0], dx[1], dx[2])
			}, 3}
	}
	targets := []int32{2, -1, 0, 5}
	for _, c := range []row{
		{"RMSNorm", [][2]int{{n, m}, {1, m}}, [2]int{n, m},
			func(d device.Device, x []device.Tensor, w, y device.Tensor) { d.RMSNorm(x[0], x[1], eps, y) },
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				d.RMSNormBackward(x[0], x[1], eps, w, 0, dx[0])
			}, 1},
		{"LayerNorm", [][2]int{{n, m}, {1, m}, {1, m}}, [2]int{n, m},
			func(d device.Device, x []device.Tensor, w, y device.Tensor) { d.LayerNorm(x[0], x[1], x[2], eps, y) },
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				d.LayerNormBackward(x[0], x[1], eps, w, 0, dx[0])
			}, 1},
		{"Rope", [][2]int{{n, m}, {n, m}}, [2]int{n, m}, // the second input holds the angles, in its first column
			func(d device.Device, x []device.Tensor, w, y device.Tensor) {
				cos, sin := turns(d, x[1])
				d.Copy(x[0], y)
				d.Rope(cos, sin, false, y)
			},
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				cos, sin := turns(d, x[1])
				d.Copy(w, dx[0])
				d.Rope(cos, sin, true, dx[0])
			}, 1},
		{"SwiGLU", [][2]int{{n, m}, {n, m}}, [2]int{n, m},
			func(d device.Device, x []device.Tensor, w, y device.Tensor) { d.SwiGLU(x[0], x[1], y) },
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				d.SwiGLUBackward(x[0], x[1], w, dx[0], dx[1])
			}, 2},
		{"ReLU", [][2]int{{n, m}}, [2]int{n, m},
			func(d device.Device, x []device.Tensor, w, y device.Tensor) { d.ReLU(x[0], y) },
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				d.ReLU(x[0], y)
				d.ReLUBackward(y, w, dx[0])
			}, 1},
		{"CrossEntropy", [][2]int{{n, m}}, [2]int{1, n},
			func(d device.Device, x []device.Tensor, w, y device.Tensor) {
				d.CrossEntropy(x[0], targets, false, y)
				device.UploadSlice(d, []float64{1, 1, 1, 1}, w)
			},
			func(d device.Device, x []device.Tensor, w, y device.Tensor, dx []device.Tensor) {
				d.Copy(x[0], dx[0])
				d.CrossEntropy(dx[0], targets, true, y)
			}, 1},
		attention("Attention", dense), attention("Attention, window", window), attention("Attention, several blocks", blocks),
	} {
		t.Run(c.name, func(t *testing.T) {
			d, r := cpu.Open(), rand.New(rand.NewPCG(1, 1))
			random := func(shape [2]int) device.Tensor {
				x := make([]float64, shape[0]*shape[1])
				for i := range x {
					x[i] = r.NormFloat64()
				}
				return device.NewFrom(d, x, shape[0], shape[1], device.F64)
			}
			var x, dx []device.Tensor
			for _, s := range c.inputs {
				x, dx = append(x, random(s)), append(dx, random(s))
			}
			w, y := random(c.output), random(c.output)
			value := func() float64 {
				c.forward(d, x, w, y)
				sum, weights := 0., device.DownloadSlice[float64](d, w)
				for i, v := range device.DownloadSlice[float64](d, y) {
					sum += v * weights[i]
				}
				return sum
			}
			value() // sets w for CrossEntropy
			c.backward(d, x, w, y, dx)
			for input := range c.inputsWithSlope {
				got, at := device.DownloadSlice[float64](d, dx[input]), device.DownloadSlice[float64](d, x[input])
				for range 30 {
					i, v := r.IntN(len(at)), 0.
					const step = 1e-5
					for _, s := range []float64{1, -1} {
						old := at[i]
						at[i] += s * step
						device.UploadSlice(d, at, x[input])
						v += s * value() / (2 * step)
						at[i] = old
						device.UploadSlice(d, at, x[input])
					}
					if math.Abs(got[i]-v) > 1e-7*(1+math.Abs(v)) { // step² and ε/step are both about 1e-10
						t.Errorf("input %d element %d: gradient %.10g, slope %.10g", input, i, got[i], v)
					}
				}
			}
		})
	}
}

// turns are the cosines and sines of the angles in the first column of x, for heads of width 2.
func turns(d device.Device, x device.Tensor) (cos, sin device.Tensor) {
	var c, s []float64
	angles := device.DownloadSlice[float64](d, x)
	for i := range x.Rows {
		c, s = append(c, math.Cos(angles[i*x.Cols])), append(s, math.Sin(angles[i*x.Cols]))
	}
	return device.NewFrom(d, c, x.Rows, 1, x.Type), device.NewFrom(d, s, x.Rows, 1, x.Type)
}
