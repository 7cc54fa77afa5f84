package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"surgeon/engine/device"
)

// Sizes of the layers: M rows (tokens) × N columns (width).

func layers() []Op {
	ops := []Op{embed(0), embed(0.5), linear(0), linear(1), linear(0.5), rope(false), rope(true)}
	for _, centred := range []bool{false, true} {
		ops = append(ops, norm(centred, false), norm(centred, true))
		for _, beta := range []float64{0, 1, 0.5} {
			ops = append(ops, normBackward(centred, false, beta))
		}
		ops = append(ops, normBackward(centred, true, 0), normBackward(centred, true, 1))
	}
	for _, in := range []inPlace{apart, onFirst, onSecond} {
		ops = append(ops, swiGLU(in), reluBackward(in))
	}
	ops = append(ops, swiGLUBackward(false), swiGLUBackward(true), relu(false), relu(true))
	ops = append(ops, attention(true), attention(false), attentionBackward())
	return append(ops, crossEntropy(false), crossEntropy(true), sample())
}

// inPlace is which of its inputs an operation's output is.
type inPlace string

const (
	apart    inPlace = ""
	onFirst  inPlace = " in place"
	onSecond inPlace = " in place of the second"
)

// where is the name suffix of an operation that can be done in place on one input.
func where(same bool) inPlace {
	if same {
		return onFirst
	}
	return apart
}

// near is for gains: 1 and some noise.
func near(r *rand.Rand, exact bool, x []float64) {
	for i := range x {
		x[i] = 1 + 0.1*r.NormFloat64()
	}
}

// embed: M tokens of width N; a vocabulary of 50.
func embed(beta float64) Op {
	return Op{Name: fmt.Sprintf("Embed beta=%v", beta), Shapes: bands, Exact: true, Case: func(s Shape, r *rand.Rand) Case {
		ids := make([]int32, s.M)
		for i := range ids {
			ids[i] = int32(r.IntN(50))
		}
		return Case{
			Operands: []Operand{in("table", 50, s.N), sum(beta, "x", s.M, s.N)},
			Call:     func(d device.Device, x []device.Tensor) []float64 { d.Embed(x[0], ids, beta, x[1]); return nil },
			Loops: func(x [][]float64) []float64 {
				for i, id := range ids {
					for j := range s.N {
						x[1][i*s.N+j] = x[0][int(id)*s.N+j] + old(beta, x[1][i*s.N+j])
					}
				}
				return nil
			},
		}
	}}
}

// linear: M tokens, N rows and K columns of the weights.
func linear(beta float64) Op {
	return Op{
		Name: fmt.Sprintf("Linear beta=%v", beta), Exact: true,
		// The last are of widths for which a device may add b within the product: some differ in one size alone, so that what is kept
		// for one is not taken for another.
		Shapes: append(slices.Clone(edges), Shape{M: 0, N: 8, K: 16}, Shape{M: 1, N: 8, K: 8}, Shape{M: 9, N: 264, K: 24}, Shape{M: 2, N: 264, K: 24},
			Shape{M: 9, N: 16, K: 24}, Shape{M: 9, N: 264, K: 8}, Shape{M: 130, N: 136, K: 64}, roundedOnce),
		Case: func(s Shape, _ *rand.Rand) Case {
			return Case{
				Operands: []Operand{in("x", s.M, s.K), in("w", s.N, s.K), in("b", 1, s.N), sum(beta, "y", s.M, s.N)},
				FLOPs:    2 * float64(s.M) * float64(s.N) * float64(s.K), Terms: s.K + 2,
				Call: func(d device.Device, x []device.Tensor) []float64 { d.Linear(x[0], x[1], x[2], beta, x[3]); return nil },
				Loops: func(x [][]float64) []float64 {
					for i := range s.M {
						for j := range s.N {
							v := x[2][j]
							for k := range s.K {
								v += x[0][i*s.K+k] * x[1][j*s.K+k]
							}
							x[3][i*s.N+j] = v + old(beta, x[3][i*s.N+j])
						}
					}
					return nil
				},
			}
		},
	}
}

// rope: M sequences of Heads.Length, Query heads of Dim. The exact pass turns by multiples of 90° and more.
func rope(inverse bool) Op {
	heads := func(t, h, d int) device.Heads { return device.Heads{Length: t, Query: h, KeyValue: h, Dim: d} }
	return Op{
		Name: fmt.Sprintf("Rope inverse=%v", inverse), Exact: true,
		Shapes: []Shape{{M: 1, Heads: heads(1, 1, 2)}, {M: 3, Heads: heads(5, 3, 6)}, {M: 2, Heads: heads(33, 2, 64)}, {M: 1, Heads: heads(130, 5, 32)},
			{M: 2, Heads: heads(3, 40, 128)}, {M: 1, Heads: heads(5, 0, 6)}, {M: 1, Heads: heads(7, 2, 80)}, {M: 3, Heads: heads(2, 1, 96)}},
		Case: func(s Shape, _ *rand.Rand) Case {
			h := s.Heads
			n, half := h.Query*h.Dim, h.Dim/2
			return Case{
				Operands: []Operand{in("cos", h.Length, half).as(acc), in("sin", h.Length, half).as(acc), inOut("x", s.M*h.Length, n)},
				FLOPs:    3 * float64(s.M*h.Length*n),
				Call: func(d device.Device, x []device.Tensor) []float64 {
					d.Rope(x[0], x[1], inverse, x[2])
					return nil
				},
				Loops: func(x [][]float64) []float64 {
					for i := range s.M * h.Length {
						for head := range h.Query {
							for j := range half {
								c, s := x[0][i%h.Length*half+j], x[1][i%h.Length*half+j]
								if inverse {
									s = -s
								}
								a, b := &x[2][i*n+head*h.Dim+j], &x[2][i*n+head*h.Dim+j+half]
								*a, *b = *a*c-*b*s, *b*c+*a*s
							}
						}
					}
					return nil
				},
			}
		},
	}
}

const eps = 1e-2 // of the norms: large, so that leaving it out is seen

// normalised is z = (x−m)·s of a row, and s; m is 0 unless centred.
func normalised(x []float64, centred bool) (z []float64, s float64) {
	n, m, v := float64(len(x)), 0., 0.
	for i := range x {
		if centred {
			m += x[i] / n
		}
	}
	for i := range x {
		v += (x[i] - m) * (x[i] - m) / n
	}
	s = 1 / math.Sqrt(v+eps)
	for i := range x {
		z = append(z, (x[i]-m)*s)
	}
	return z, s
}

// normed are rows that are few enough for a warp, more than that, much more, and more than a block has registers for.
var normed = append(slices.Clone(plane), Shape{M: 5, N: 512}, Shape{M: 3, N: 1024}, Shape{M: 2, N: 2304}, Shape{M: 1, N: 8448})

// norm is RMSNorm, or LayerNorm where centred.
func norm(centred, same bool) Op {
	return Op{Name: map[bool]string{false: "RMSNorm", true: "LayerNorm"}[centred] + string(where(same)), Shapes: normed, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("x", s.M, s.N), in("gain", 1, s.N).filled(near), in("bias", 1, s.N), out("y", s.M, s.N)}, Terms: s.N}
		y := 3
		if same {
			c.Operands, y = c.Operands[:3], 0
			c.Operands[0].Role = InOut
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			if centred {
				d.LayerNorm(x[0], x[1], x[2], eps, x[y])
			} else {
				d.RMSNorm(x[0], x[1], eps, x[y])
			}
			return nil
		}
		c.Loops = func(x [][]float64) []float64 {
			for i := range s.M {
				z, _ := normalised(x[0][i*s.N:(i+1)*s.N], centred)
				for j := range z {
					if z[j] *= x[1][j]; centred {
						z[j] += x[2][j]
					}
				}
				copy(x[y][i*s.N:], z)
			}
			return nil
		}
		return c
	}}
}

// normBackward from the Jacobian, column by column: ∂y_k/∂x_j = g_k·s·(δ_kj − [centred]/n − z_k·z_j/n).
func normBackward(centred, same bool, beta float64) Op {
	name := fmt.Sprintf("%s beta=%v%s", map[bool]string{false: "RMSNormBackward", true: "LayerNormBackward"}[centred], beta, where(same))
	return Op{Name: name, Shapes: append([]Shape{{M: 3, N: 257}, {M: 5, N: 512}, {M: 1, N: 2304}}, plane[:5]...), Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("x", s.M, s.N), in("gain", 1, s.N).filled(near), in("dy", s.M, s.N), sum(beta, "dx", s.M, s.N)}, Terms: s.N}
		dx := 3
		if same {
			c.Operands, dx = c.Operands[:3], 2
			c.Operands[2].Role = InOut
		}
		if s.N == 1 {
			// Of one number dx is what is left of two that are nearly the same: of LayerNorm 0, where the numbers are such that
			// products are exact, of RMSNorm u·s·(1 − z²), z² = ½ for this x. Of others a device that rounds u once less, as
			// fused additions do, has another relative error without being wrong.
			of := map[bool][2]float64{false: {math.Sqrt(eps), 1}, true: {0, 1}}[centred]
			for i, v := range of {
				c.Operands[i].Fill = func(_ *rand.Rand, _ bool, x []float64) {
					for j := range x {
						x[j] = v
					}
				}
			}
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			if centred {
				d.LayerNormBackward(x[0], x[1], eps, x[2], beta, x[dx])
			} else {
				d.RMSNormBackward(x[0], x[1], eps, x[2], beta, x[dx])
			}
			return nil
		}
		c.Loops = func(x [][]float64) []float64 {
			n := float64(s.N)
			for i := range s.M {
				z, scale := normalised(x[0][i*s.N:(i+1)*s.N], centred)
				dy := append([]float64{}, x[2][i*s.N:(i+1)*s.N]...)
				for j := range s.N {
					v := 0.
					for k := range s.N {
						v += dy[k] * x[1][k] * scale * (truth(j == k) - truth(centred)/n - z[k]*z[j]/n)
					}
					x[dx][i*s.N+j] = v + old(beta, x[dx][i*s.N+j])
				}
			}
			return nil
		}
		return c
	}}
}

func silu(z float64) float64 { return z / (1 + math.Exp(-z)) }

// wide are numbers of which some are far from 0 on both sides, where exp overflows in float32.
func wide(r *rand.Rand, exact bool, x []float64) {
	Numbers(r, exact, x)
	for i := 0; i < len(x); i += 5 {
		x[i] *= 60
	}
}

func swiGLU(in_ inPlace) Op {
	return Op{Name: "SwiGLU" + string(in_), Shapes: bands, Case: func(s Shape, _ *rand.Rand) Case {
		ops, y := operands3(in_, in("gate", s.M, s.N).filled(wide), in("up", s.M, s.N), out("y", s.M, s.N))
		return Case{
			Operands: ops,
			Call:     func(d device.Device, x []device.Tensor) []float64 { d.SwiGLU(x[0], x[1], x[y]); return nil },
			Loops: func(x [][]float64) []float64 {
				for i := range x[0] {
					x[y][i] = silu(x[0][i]) * x[1][i]
				}
				return nil
			},
		}
	}}
}

// operands3 are two inputs and an output, which may stand in the place of one of them; y is where it stands.
func operands3(in inPlace, a, b, out Operand) (ops []Operand, y int) {
	switch in {
	case onFirst:
		a.Role = InOut
		return []Operand{a, b}, 0
	case onSecond:
		b.Role = InOut
		return []Operand{a, b}, 1
	}
	return []Operand{a, b, out}, 2
}

func swiGLUBackward(same bool) Op {
	return Op{Name: "SwiGLUBackward" + string(where(same)), Shapes: bands, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("gate", s.M, s.N).filled(wide), in("up", s.M, s.N), in("dy", s.M, s.N), out("dgate", s.M, s.N), out("dup", s.M, s.N)}}
		dgate, dup := 3, 4
		if same {
			c.Operands, dgate, dup = c.Operands[:3], 0, 1
			c.Operands[0].Role, c.Operands[1].Role = InOut, InOut
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			d.SwiGLUBackward(x[0], x[1], x[2], x[dgate], x[dup])
			return nil
		}
		c.Loops = func(x [][]float64) []float64 {
			for i := range x[0] {
				z, u, g := x[0][i], x[1][i], x[2][i]
				sigma := 1 / (1 + math.Exp(-z))
				x[dgate][i] = g * u * (sigma + z*sigma*(1-sigma))
				x[dup][i] = g * silu(z)
			}
			return nil
		}
		return c
	}}
}

func relu(same bool) Op {
	return Op{Name: "ReLU" + string(where(same)), Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("x", s.M, s.N), out("y", s.M, s.N)}}
		y := 1
		if same {
			c.Operands, y = c.Operands[:1], 0
			c.Operands[0].Role = InOut
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 { d.ReLU(x[0], x[y]); return nil }
		c.Loops = func(x [][]float64) []float64 {
			for i, v := range x[0] {
				x[y][i] = math.Max(v, 0)
			}
			return nil
		}
		return c
	}}
}

func reluBackward(in_ inPlace) Op {
	return Op{Name: "ReLUBackward" + string(in_), Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		ops, dx := operands3(in_, in("y", s.M, s.N), in("dy", s.M, s.N), out("dx", s.M, s.N))
		return Case{
			Operands: ops,
			Call:     func(d device.Device, x []device.Tensor) []float64 { d.ReLUBackward(x[0], x[1], x[dx]); return nil },
			Loops: func(x [][]float64) []float64 {
				for i, y := range x[0] {
					switch {
					case y != y:
						x[dx][i] = y
					case y > 0:
						x[dx][i] = x[1][i]
					default:
						x[dx][i] = 0
					}
				}
				return nil
			},
		}
	}}
}

// crossEntropy: M tokens, a vocabulary of N. The logits reach far enough for exp to overflow where the largest one is not
// taken off first; every third target is missing.
func crossEntropy(grad bool) Op {
	return Op{
		Name:   fmt.Sprintf("CrossEntropy grad=%v", grad),
		Shapes: []Shape{{M: 1, N: 1}, {M: 3, N: 33}, {M: 65, N: 130}, {M: 2, N: 3001}, {M: 4, N: 5000}, {M: 2, N: 9000}, {M: 0, N: 7}},
		Case: func(s Shape, r *rand.Rand) Case {
			targets := make([]int32, s.M)
			for i := range targets {
				if targets[i] = -1; i%3 != 2 {
					targets[i] = int32(r.IntN(s.N))
				}
			}
			c := Case{Operands: []Operand{in("logits", s.M, s.N).filled(wide), out("losses", 1, s.M).as(acc)}, Terms: s.N}
			if grad {
				c.Operands[0].Role = InOut
			}
			c.Call = func(d device.Device, x []device.Tensor) []float64 {
				d.CrossEntropy(x[0], targets, grad, x[1])
				return nil
			}
			c.Loops = func(x [][]float64) []float64 {
				for i, target := range targets {
					row := x[0][i*s.N : (i+1)*s.N]
					x[1][i] = 0
					if target < 0 {
						if grad {
							clear(row)
						}
						continue
					}
					sum := 0. // float64 holds e^700, so nothing need be taken off
					for _, v := range row {
						sum += math.Exp(v)
					}
					x[1][i] = math.Log(sum) - row[target]
					if grad {
						for j, v := range row {
							row[j] = math.Exp(v)/sum - truth(j == int(target))
						}
					}
				}
				return nil
			}
			return c
		},
	}
}

// sample: M rows of N logits. The numbers are not so near to 0 or 1 that what is drawn hangs on exps that float32 does not have.
func sample() Op {
	return Op{
		Name:   "Sample",
		Shapes: []Shape{{M: 1, N: 1}, {M: 40, N: 33}, {M: 65, N: 130}, {M: 20, N: 3001}, {M: 7, N: 5000}, {M: 2, N: 9000}, {M: 0, N: 7}},
		Case: func(s Shape, r *rand.Rand) Case {
			uniform := make([]float64, s.M)
			for i := range uniform {
				uniform[i] = 0.001 + 0.998*r.Float64()
			}
			c := Case{Operands: []Operand{in("logits", s.M, s.N)}, Terms: s.N}
			c.Call = func(d device.Device, x []device.Tensor) []float64 {
				ids := make([]int32, s.M)
				d.Sample(x[0], uniform, ids)
				drawn := make([]float64, s.M)
				for i, id := range ids {
					drawn[i] = float64(id)
				}
				return drawn
			}
			c.Loops = func(x [][]float64) []float64 {
				drawn := make([]float64, s.M)
				for i, u := range uniform {
					all, sum := 0., 0.
					for _, v := range x[0][i*s.N : (i+1)*s.N] {
						all += math.Exp(v)
					}
					drawn[i] = float64(s.N - 1)
					for j, v := range x[0][i*s.N : (i+1)*s.N] {
						if sum += math.Exp(v); sum > u*all {
							drawn[i] = float64(j)
							break
						}
					}
				}
				return drawn
			}
			return c
		},
	}
}
