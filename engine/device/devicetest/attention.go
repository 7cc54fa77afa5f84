package devicetest

import (
	"math"
	"math/rand/v2"
	"slices"

	"surgeon/engine/device"
)

// heads: lengths about the edges of blocks of query rows (32, 64, 128, 256), windows that begin and end in each, one or several
// query heads to a key/value head; widths that are whole pieces of 16 bytes and others. M is the number of sequences.
var heads = []Shape{
	{M: 1, Heads: device.Heads{Length: 1, Query: 1, KeyValue: 1, Dim: 1, Scale: 1}},
	{M: 3, Heads: device.Heads{Length: 2, Query: 2, KeyValue: 1, Dim: 3, Scale: 0.7}},
	{M: 2, Heads: device.Heads{Length: 33, Query: 4, KeyValue: 2, Dim: 8, Scale: 0.35}},
	{M: 2, Heads: device.Heads{Length: 33, Query: 3, KeyValue: 3, Dim: 8, Scale: 0.35, Window: 1}},
	{M: 1, Heads: device.Heads{Length: 65, Query: 3, KeyValue: 1, Dim: 16, Scale: 0.25, Window: 32}},
	{M: 1, Heads: device.Heads{Length: 127, Query: 1, KeyValue: 1, Dim: 64, Scale: 0.125, Window: 64}},
	{M: 2, Heads: device.Heads{Length: 129, Query: 2, KeyValue: 2, Dim: 5, Scale: 0.5}},
	{M: 1, Heads: device.Heads{Length: 300, Query: 2, KeyValue: 1, Dim: 6, Scale: 0.4, Window: 130}},
	{M: 1, Heads: device.Heads{Length: 260, Query: 1, KeyValue: 1, Dim: 4, Scale: 0.5, Window: 1000}},
	{M: 1, Heads: device.Heads{Length: 63, Query: 3, KeyValue: 1, Dim: 40, Scale: 0.16, Window: 20}},
	{M: 1, Heads: device.Heads{Length: 65, Query: 2, KeyValue: 1, Dim: 63, Scale: 0.12}},
}

// wideHeads have the widths that tensor cores take as bfloat16, and beyond these what more than one block makes. The first is small enough for the NaN passes.
var wideHeads = []Shape{
	{M: 2, Heads: device.Heads{Length: 22, Query: 1, KeyValue: 1, Dim: 64, Scale: 0.125}},
	{M: 2, Heads: device.Heads{Length: 130, Query: 4, KeyValue: 2, Dim: 64, Scale: 0.125, Window: 70}},
	{M: 1, Heads: device.Heads{Length: 200, Query: 2, KeyValue: 2, Dim: 80, Scale: 0.11}},
	{M: 1, Heads: device.Heads{Length: 161, Query: 2, KeyValue: 1, Dim: 96, Scale: 0.1, Window: 40}},
	{M: 1, Heads: device.Heads{Length: 70, Query: 1, KeyValue: 1, Dim: 80, Scale: -0.11}}, // the largest product is the smallest score
	{M: 1, Heads: device.Heads{Length: 70, Query: 1, KeyValue: 1, Dim: 64, Scale: -0.1, Window: 20}},
	{M: 1, Heads: device.Heads{Length: 128, Query: 2, KeyValue: 1, Dim: 128, Scale: 0.088}},
	{M: 1, Heads: device.Heads{Length: 257, Query: 1, KeyValue: 1, Dim: 128, Scale: 0.088, Window: 100}},
	{M: 2, Heads: device.Heads{Length: 200, Query: 2, KeyValue: 1, Dim: 128, Scale: 0.088, Window: 20}},
	{M: 1, Heads: device.Heads{Length: 127, Query: 2, KeyValue: 1, Dim: 136, Scale: 0.08, Window: 64}},
	{M: 1, Heads: device.Heads{Length: 70, Query: 1, KeyValue: 1, Dim: 200, Scale: 0.07}},
}

var benchHeads = []Shape{
	{M: 1, Heads: device.Heads{Length: 512, Query: 9, KeyValue: 3, Dim: 64, Scale: 0.125}},
	{M: 1, Heads: device.Heads{Length: 2048, Query: 12, KeyValue: 12, Dim: 64, Scale: 0.125}},
	{M: 1, Heads: device.Heads{Length: 4096, Query: 32, KeyValue: 32, Dim: 128, Scale: 0.088}},
}

// pairs is the number of query rows and keys that see each other, over all heads.
func pairs(s Shape) float64 {
	n := 0
	for i := range s.Heads.Length {
		n += i + 1 - firstKey(s.Heads, i)
	}
	return float64(n * s.M * s.Heads.Query)
}

func firstKey(h device.Heads, i int) int {
	if h.Window == 0 {
		return 0
	}
	return max(0, i-h.Window+1)
}

// attend calls f for every query row and head, with the keys that it sees and their probabilities, and the lse.
func attend(s Shape, q, k []float64, f func(row, head, first int, p []float64, lse float64)) {
	h := s.Heads
	for row := range s.M * h.Length {
		begin := row / h.Length * h.Length // of the sequence
		first := begin + firstKey(h, row-begin)
		for head := range h.Query {
			var p []float64
			sum := 0.
			for j := first; j <= row; j++ {
				p = append(p, math.Exp(h.Scale*inner(h, q, row, head, k, j)))
				sum += p[len(p)-1]
			}
			for j := range p {
				p[j] /= sum
			}
			f(row, head, first, p, math.Log(sum))
		}
	}
}

// inner is x_ih · y_jg.
func inner(h device.Heads, x []float64, i, head int, y []float64, j int) float64 {
	v := 0.
	for d := range h.Dim {
		v += x[(i*h.Query+head)*h.Dim+d] * y[(j*h.KeyValue+head*h.KeyValue/h.Query)*h.Dim+d]
	}
	return v
}

// attention with or without lse.
func attention(lse bool) Op {
	name, shapes := "Attention", slices.Concat(heads, wideHeads)
	if !lse {
		name, shapes = "Attention without lse", slices.Concat(heads, wideHeads[:2])
	}
	return Op{Name: name, Spreads: true, Shapes: shapes, Case: func(s Shape, _ *rand.Rand) Case {
		h := s.Heads
		n := s.M * h.Length
		c := Case{
			Operands: []Operand{in("q", n, h.Query*h.Dim), in("k", n, h.KeyValue*h.Dim), in("v", n, h.KeyValue*h.Dim), out("out", n, h.Query*h.Dim)},
			FLOPs:    4 * pairs(s) * float64(h.Dim), Terms: h.Length + h.Dim,
			Call: func(d device.Device, x []device.Tensor) []float64 {
				d.Attention(h, x[0], x[1], x[2], x[3], append(x, device.Tensor{})[4])
				return nil
			},
			Loops: func(x [][]float64) []float64 {
				clear(x[3])
				attend(s, x[0], x[1], func(i, head, first int, p []float64, sum float64) {
					g := head * h.KeyValue / h.Query
					for j, v := range p {
						for d := range h.Dim {
							x[3][(i*h.Query+head)*h.Dim+d] += v * x[2][((first+j)*h.KeyValue+g)*h.Dim+d]
						}
					}
					if lse {
						x[4][i*h.Query+head] = sum
					}
				})
				return nil
			},
		}
		if lse {
			c.Operands = append(c.Operands, out("lse", n, h.Query).as(acc))
		}
		return c
	}}
}

// attentionBackward is given the out and lse of numbers other than q, k and v: it must use them, and not make its own. As
// bfloat16 they could not be right in any case.
func attentionBackward() Op {
	return Op{Name: "AttentionBackward", Spreads: true, Shapes: slices.Concat(heads, wideHeads), Case: func(s Shape, _ *rand.Rand) Case {
		h := s.Heads
		n, wide, narrow := s.M*h.Length, h.Query*h.Dim, h.KeyValue*h.Dim
		positive := func(r *rand.Rand, _ bool, x []float64) { // so that p stays small
			for i := range x {
				x[i] = 4 + r.Float64()
			}
		}
		return Case{
			Operands: []Operand{in("q", n, wide), in("k", n, narrow), in("v", n, narrow), in("out", n, wide), in("lse", n, h.Query).as(acc).filled(positive),
				in("dout", n, wide), out("dq", n, wide), out("dk", n, narrow), out("dv", n, narrow)},
			FLOPs: 10 * pairs(s) * float64(h.Dim), Terms: 2 * (h.Length + h.Dim),
			Call: func(d device.Device, x []device.Tensor) []float64 {
				d.AttentionBackward(h, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8])
				return nil
			},
			Loops: func(x [][]float64) []float64 {
				q, k, v, out, lse, dout, dq, dk, dv := x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8]
				clear(dq)
				clear(dk)
				clear(dv)
				attend(s, q, k, func(i, head, first int, p []float64, _ float64) {
					g := head * h.KeyValue / h.Query
					mean := 0.
					for d := range h.Dim {
						mean += out[(i*h.Query+head)*h.Dim+d] * dout[(i*h.Query+head)*h.Dim+d]
					}
					for j := first; j < first+len(p); j++ {
						pj := math.Exp(h.Scale*inner(h, q, i, head, k, j) - lse[i*h.Query+head])
						ds := h.Scale * pj * (inner(h, dout, i, head, v, j) - mean)
						for d := range h.Dim {
							a, b := (i*h.Query+head)*h.Dim+d, (j*h.KeyValue+g)*h.Dim+d
							dq[a] += ds * k[b]
							dk[b] += ds * q[a]
							dv[b] += pj * dout[a]
						}
					}
				})
				return nil
			},
		}
	}}
}
