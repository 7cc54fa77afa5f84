package bench

import (
	"context"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// length is the window that figures are given for, in tokens.
const length = 512

func random(dev device.Device, rows, cols int, t device.Type) device.Tensor {
	rng := rand.New(rand.NewPCG(uint64(rows), uint64(cols)))
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = rng.Float32() - 0.5
	}
	return device.NewFrom(dev, x, rows, cols, t)
}

// small are the shapes that a CPU is done with in seconds.
var small = []string{"smollm2-135m", "opt-125m"}

func each(b *testing.B, f func(b *testing.B, cfg checkpoint.Config, dev device.Device)) {
	for _, name := range small {
		b.Run(name, func(b *testing.B) {
			shape, _ := ShapeNamed(name)
			cfg, err := shape.Parse()
			if err != nil {
				b.Fatal(err)
			}
			dev := cpu.Open()
			defer dev.Close()
			f(b, cfg, dev)
		})
	}
}

func gemmRate(b *testing.B, dev device.Device, t device.Type) float64 {
	rate, err := NewCeilings(dev).Gemm(t)
	if err != nil {
		b.Fatal(err)
	}
	return rate
}

// BenchmarkWindow is forward, backward and factors of one window of 512 tokens. of-gemm is its rate as a fraction of a
// large product's.
func BenchmarkWindow(b *testing.B) {
	each(b, func(b *testing.B, cfg checkpoint.Config, dev device.Device) {
		m, err := model.Random(dev, cfg, device.F32, 1)
		if err != nil {
			b.Fatal(err)
		}
		ids := randomSequences(cfg.Vocab, &ShotReport{Sequences: 1, Length: length})
		pass := func() float64 {
			f, losses, err := curvature.Collect(context.Background(), m, ids, 1, curvature.Options{}, nil, nil)
			if err != nil {
				b.Fatal(err)
			}
			f.Free()
			return losses[0]
		}
		pass() // first allocation
		rate := gemmRate(b, dev, device.F32)
		var loss float64
		for b.Loop() {
			loss = pass()
		}
		reportRate(b, passFLOP(cfg, length, prune.RowCol), rate)
		b.ReportMetric(loss, "loss")
	})
}

// BenchmarkShot is all costs and all updates of one shot, without curvature.
func BenchmarkShot(b *testing.B) {
	each(b, func(b *testing.B, cfg checkpoint.Config, dev device.Device) {
		var layers []prune.Layer
		all := linears(cfg)
		for _, l := range all[:len(all)/cfg.Blocks] { // one block; the others have its shapes
			layers = append(layers, prune.Layer{Name: l.Name, W: random(dev, l.Rows, l.Inputs(), device.F64), Term: prune.Term{A: factor(dev, l.Inputs()), G: factor(dev, l.Rows)}})
		}
		rate := gemmRate(b, dev, device.F64)
		var flop, checksum float64
		for b.Loop() {
			flop = 0
			for range cfg.Blocks {
				for _, l := range layers {
					rise, f := shot(b, dev, l)
					checksum, flop = rise, flop+f
				}
			}
		}
		reportRate(b, flop, rate)
		b.ReportMetric(checksum, "predicted")
	})
}

// shot is costs and update of one layer, a twentieth of its rows and columns going, and its FLOP.
func shot(b *testing.B, dev device.Device, l prune.Layer) (predicted, flop float64) {
	damp := prune.Damping{G: 0.01, A: 0.01}
	layers := []prune.Layer{l}
	alive, err := prune.Alive(dev, layers)
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := prune.Costs(dev, layers, alive, prune.OBS, damp); err != nil {
		b.Fatal(err)
	}
	kept := prune.Kept{Rows: make([]bool, l.W.Rows), Cols: make([]bool, l.W.Cols)}
	for i := range kept.Rows {
		kept.Rows[i] = i%20 > 0
	}
	for i := range kept.Cols {
		kept.Cols[i] = i%20 > 0
	}
	r, err := prune.Apply(dev, layers, alive, []prune.Kept{kept}, prune.Joint, damp, 0)
	if err != nil {
		b.Fatal(err)
	}
	dev.Free(r[0].W)
	return r[0].Predicted, prune.CostFLOP(l.W.Rows, l.W.Cols) + prune.ApplyFLOP(l.W.Rows, l.W.Cols, kept)
}

// BenchmarkWeights is the update of one block when half of its single weights go, with the defaults of prune. seconds-a-shot is
// what all blocks take.
func BenchmarkWeights(b *testing.B) {
	each(b, func(b *testing.B, cfg checkpoint.Config, dev device.Device) {
		rng := rand.New(rand.NewPCG(6, 0))
		var layers []prune.Layer
		var gone [][]bool
		all := linears(cfg)
		for _, l := range all[:len(all)/cfg.Blocks] {
			layers = append(layers, prune.Layer{Name: l.Name, W: random(dev, l.Rows, l.Inputs(), device.F64), Term: prune.Term{A: factor(dev, l.Inputs()), G: factor(dev, l.Rows)}})
			marks := make([]bool, l.Rows*l.Inputs())
			for i := range marks {
				marks[i] = rng.IntN(2) == 0
			}
			gone = append(gone, marks)
		}
		rate := gemmRate(b, dev, device.F64)
		var flop, checksum float64
		var iterations int
		for b.Loop() {
			flop, checksum, iterations = 0, 0, 0
			alive, err := prune.Alive(dev, layers)
			if err != nil {
				b.Fatal(err)
			}
			for i, l := range layers {
				r, err := prune.ApplyElements(dev, l, alive[i], gone[i], prune.Joint, prune.Damping{G: 0.1, A: 0.01}, prune.Grouping{Tolerance: 0.01})
				if err != nil {
					b.Fatal(err)
				}
				dev.Free(r.W)
				checksum, iterations, flop = checksum+r.Predicted, max(iterations, r.Iterations), flop+prune.ApplyElementsFLOP(l.W.Rows, l.W.Cols, r.Iterations)
			}
		}
		reportRate(b, flop, rate)
		b.ReportMetric(float64(cfg.Blocks)*b.Elapsed().Seconds()/float64(b.N), "seconds-a-shot")
		b.ReportMetric(float64(iterations), "iterations")
		b.ReportMetric(checksum, "predicted")
	})
}

// factor is a random positive definite factor.
func factor(dev device.Device, n int) device.Sym {
	x := random(dev, n+64, n, device.F32)
	defer dev.Free(x)
	s := device.AllocSym(dev, n, device.F32)
	dev.Gram(1/float64(n), []device.Tensor{x}, 0, []device.Sym{s})
	return s
}

func reportRate(b *testing.B, flop, bound float64) {
	rate := flop * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate/1e9, "GFLOP/s")
	b.ReportMetric(rate/bound, "of-gemm")
}

// BenchmarkLoad opens a GGUF file and brings its weights to the device. of-copy compares the float32 bytes written with a
// copy of as many.
func BenchmarkLoad(b *testing.B) {
	path := os.Getenv("SURGEON_SMOLLM2")
	if path == "" {
		b.Skip("SURGEON_SMOLLM2 does not name a GGUF file")
	}
	var bytes int
	for b.Loop() {
		c, err := checkpoint.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		dev := cpu.Open()
		m, err := model.Load(context.Background(), dev, c, device.F32)
		if err != nil {
			b.Fatal(err)
		}
		bytes = 4 * m.Parameters()
		dev.Close()
		c.Close()
	}
	src, dst := make([]byte, 256<<20), make([]byte, 256<<20)
	copy(dst, src)
	start := time.Now()
	copy(dst, src)
	bound := float64(len(src)) / time.Since(start).Seconds()
	rate := float64(bytes) * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate/1e9, "GB/s")
	b.ReportMetric(rate/bound, "of-copy")
}
