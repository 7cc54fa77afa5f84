package engine

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"time"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// PlanReport is what a run will need, told before anything runs.
type PlanReport struct {
	Device  string      `json:"device"`
	Windows int         `json:"windows"`
	HeldOut int         `json:"held_out"`
	Length  int         `json:"length"`
	Memory  []PlanPart  `json:"memory"`
	Stages  []PlanStage `json:"stages"`

	PeakBytes int64   `json:"peak_bytes"` // the largest of the phases, plus what is always there
	Seconds   float64 `json:"seconds"`    // of the whole run
}

// PlanPart is a part of memory. Parts of phase "" are there all the time, others only in their phase.
type PlanPart struct {
	Name  string `json:"name"`
	Phase string `json:"phase,omitempty"`
	Bytes int64  `json:"bytes"`
}

// PlanStage is a stage of the run: all its repetitions together.
type PlanStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// measureSeconds is about how long Plan measures.
const measureSeconds = 2

// hostBytes is what the program itself takes: code, tokenizer, the runtime's own memory. Measured on SmolLM2 as what is
// resident beyond tensors, files and text.
const hostBytes = 150 << 20

// Plan says what memory, by part, and what time, by stage, a run will take, from the shapes and a measurement of some two
// seconds on the device with random weights of those shapes. The model's weights are not loaded and nothing is written.
func Plan(ctx context.Context, dev device.Device, o Options, w Watcher) (*PlanReport, error) {
	r, err := prepare(dev, o, w)
	if err != nil {
		return nil, err
	}
	defer r.close()
	in, o := r.inputs, r.options
	p := &PlanReport{Device: dev.Name(), Windows: o.Samples, HeldOut: o.HeldOut, Length: o.Length}
	p.planMemory(in, o)
	w.Stage("measuring", 0)
	rates, err := measure(ctx, dev, in.model.Config, o)
	if err != nil {
		return nil, err
	}
	p.planTime(in.model.Config, o, rates)
	return p, nil
}

// planMemory adds up what the run allocates.
func (p *PlanReport) planMemory(in *inputs, o Options) {
	cfg, t := in.model.Config, o.precision()
	weights, _ := counts(cfg)
	add := func(name, phase string, bytes int64) {
		p.Memory = append(p.Memory, PlanPart{Name: name, Phase: phase, Bytes: bytes})
	}
	add("program and text", "", hostBytes+int64(len(in.corpus.Text))+4*int64(len(in.ids)))
	add("weights", "", weights*int64(t.Size()))
	const measuring, pruning, writing = "curvature", "costs and update", "writing"
	if o.Cost != prune.Magnitude {
		factors := curvature.Bytes(linears(cfg), t)
		add("factors", measuring, factors)
		add("factors", pruning, factors)
	}
	add("activations", measuring, model.WorkspaceBytes(cfg, t, o.Length, min(o.Batch, o.Samples), true))
	var scratch, largest int64
	for _, l := range linears(cfg) {
		r, c := int64(l.Rows), int64(l.Inputs())
		scratch = max(scratch, 8*(3*r*c+2*max(r, c)*max(r, c)), 8*(6*r*c+max(r, c)*max(r, c)))
		largest = max(largest, 4*r*c)
	}
	add("one layer in float64", pruning, scratch)
	add("activations of a check", writing, model.WorkspaceBytes(cfg, t, o.Length, min(o.Batch, o.HeldOut), false))
	add("one tensor on the host", writing, max(largest, 4*int64(cfg.Vocab)*int64(cfg.Width)))

	phases := map[string]int64{}
	var always int64
	for _, part := range p.Memory {
		if part.Phase == "" {
			always += part.Bytes
		} else {
			phases[part.Phase] += part.Bytes
		}
	}
	for _, bytes := range phases {
		p.PeakBytes = max(p.PeakBytes, always+bytes)
	}
}

// counts are the numbers of all weights and of those of the pruned layers.
func counts(cfg checkpoint.Config) (all, prunable int64) {
	for _, shape := range cfg.Shapes() {
		n := int64(1)
		for _, d := range shape {
			n *= int64(d)
		}
		all += n
	}
	for _, l := range linears(cfg) {
		prunable += int64(l.Rows) * int64(l.Inputs())
	}
	return all, prunable
}

func linears(cfg checkpoint.Config) []*model.Linear {
	var all []*model.Linear
	for _, l := range cfg.Linears() {
		all = append(all, &model.Linear{Linear: l})
	}
	return all
}

// rates are what was measured, each scaled to one unit of work of the run.
type rates struct {
	curvature float64 // seconds for one window: forward, backward, factors
	forward   float64 // seconds for one window forward
	costs     float64 // seconds per FLOP of costs
	update    float64 // seconds per FLOP of updates
	bytes     float64 // seconds per byte hashed; writing to disk is not measured, as nothing is written
	load      float64 // seconds for loading the model's weights to the device
}

// planTime multiplies the rates with the work.
func (p *PlanReport) planTime(cfg checkpoint.Config, o Options, r rates) {
	shots := float64(o.Shots)
	_, prunable := counts(cfg)
	var costs, updates float64
	for _, l := range linears(cfg) {
		costs += prune.CostFLOP(l.Rows, l.Inputs())
		updates += prune.ApplyFLOP(l.Rows, l.Inputs(), keptAfterShot(l.Rows, l.Inputs(), o.Target/shots/2))
	}
	add := func(name string, seconds float64) {
		p.Stages = append(p.Stages, PlanStage{name, seconds})
		p.Seconds += seconds
	}
	add("load", r.load)
	if o.Cost != prune.Magnitude {
		add("curvature", shots*float64(o.Samples)*r.curvature)
	}
	add("costs", shots*costs*r.costs)
	add("update", shots*updates*r.update)
	add("checks", (shots+2)*float64(o.HeldOut)*r.forward)
	add("journal and output", (shots*float64(prunable)*4+4*float64(prunable))*r.bytes)
}

// keptAfterShot marks what stays of a layer that loses this share of its rows and of its columns.
func keptAfterShot(rows, cols int, share float64) prune.Kept {
	mark := func(n int) []bool {
		x := make([]bool, n)
		for i := range x {
			x[i] = float64(i) >= share*float64(n)
		}
		return x
	}
	return prune.Kept{Rows: mark(rows), Cols: mark(cols)}
}

// measure times the passes on models of one and of two blocks – the difference is one more block – and costs and updates
// on one layer.
func measure(ctx context.Context, dev device.Device, cfg checkpoint.Config, o Options) (rates, error) {
	var r rates
	n := windowToMeasure(dev, cfg, o)
	var passes [2]passTimes
	for i := range passes {
		small := cfg
		small.Blocks, small.Window = i+1, cfg.Window[:min(i+1, len(cfg.Window))]
		if cfg.Blocks == 1 && i == 1 {
			passes[1] = passes[0]
			break
		}
		start := time.Now()
		m, err := model.Random(dev, small, o.precision(), 1)
		if err != nil {
			return r, err
		}
		if i == 1 {
			all, _ := counts(cfg)
			r.load = time.Since(start).Seconds() * float64(all) / float64(m.Parameters())
		}
		passes[i], err = timePasses(ctx, m, n)
		m.Free()
		if err != nil {
			return r, err
		}
	}
	scale := float64(o.Length) / float64(n)
	blocks := float64(cfg.Blocks - 1)
	r.curvature = scale * (passes[0].curvature + blocks*max(0, passes[1].curvature-passes[0].curvature))
	r.forward = scale * (passes[0].forward + blocks*max(0, passes[1].forward-passes[0].forward))
	if err := timePruning(dev, cfg, &r); err != nil {
		return r, err
	}
	block := make([]byte, 4<<20)
	start := time.Now()
	sha256.Sum256(block)
	r.bytes = time.Since(start).Seconds() / float64(len(block))
	return r, dev.Sync()
}

// windowToMeasure is the number of tokens whose passes through two blocks take about a third of the time there is.
func windowToMeasure(dev device.Device, cfg checkpoint.Config, o Options) int {
	const side = 384
	x := dev.Alloc(side, side, o.precision())
	y := dev.Alloc(side, side, o.precision())
	dev.Zero(x)
	dev.Gemm(false, false, 1, x, x, 0, y)
	start := time.Now()
	dev.Gemm(false, false, 1, x, x, 0, y)
	dev.Sync()
	rate := 2 * float64(side*side*side) / time.Since(start).Seconds()
	dev.Free(x, y)
	_, prunable := counts(cfg)
	perToken := 3*6*float64(prunable)/float64(cfg.Blocks) + 2*4*float64(cfg.Vocab)*float64(cfg.Width)
	n := 32
	for n*2 <= o.Length && float64(n*2)*perToken < rate*measureSeconds/3 {
		n *= 2
	}
	return min(n, o.Length)
}

type passTimes struct{ curvature, forward float64 }

// timePasses takes the faster of two tries of each pass.
func timePasses(ctx context.Context, m *model.Model, n int) (passTimes, error) {
	rng := rand.New(rand.NewPCG(2, 0))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(m.Config.Vocab))
	}
	batch := [][]int32{ids}
	best := passTimes{curvature: 1e9, forward: 1e9}
	for range 2 {
		start := time.Now()
		f, _, err := curvature.Collect(ctx, m, batch, 1, nil)
		if err != nil {
			return best, err
		}
		best.curvature = min(best.curvature, time.Since(start).Seconds())
		f.Free()
		start = time.Now()
		if _, err := m.Losses(batch); err != nil {
			return best, err
		}
		best.forward = min(best.forward, time.Since(start).Seconds())
	}
	return best, nil
}

// largestMeasured bounds the layer that costs and updates are timed on, so that the measurement stays short also where
// products run at a few GFLOP/s.
const largestMeasured = 640

// timePruning times costs and update on a random layer with the proportions of down.
func timePruning(dev device.Device, cfg checkpoint.Config, r *rates) error {
	rows, cols := min(cfg.Width, largestMeasured), min(cfg.Inner, largestMeasured)
	rng := rand.New(rand.NewPCG(3, 0))
	random := func(r, c int, t device.Type) device.Tensor {
		values := make([]float32, r*c)
		for i := range values {
			values[i] = rng.Float32() - 0.5
		}
		return device.NewFrom(dev, values, r, c, t)
	}
	factor := func(n int) device.Sym {
		x := random(n+32, n, device.F32)
		s := device.AllocSym(dev, n, device.F32)
		dev.Gram(1/float64(n), x, 0, s)
		dev.Free(x)
		return s
	}
	l := prune.Layer{Name: "measured", W: random(rows, cols, device.F64), A: factor(cols), G: factor(rows)}
	defer dev.Free(l.W, l.A.Packed, l.G.Packed)
	damp := prune.Damping{G: 0.1, A: 0.1}
	start := time.Now()
	alive, err := prune.Alive(dev, l)
	if err != nil {
		return err
	}
	if _, _, err := prune.Costs(dev, l, alive, prune.OBS, damp); err != nil {
		return err
	}
	r.costs = time.Since(start).Seconds() / prune.CostFLOP(rows, cols)
	kept := keptAfterShot(rows, cols, 1./16)
	start = time.Now()
	result, err := prune.Apply(dev, l, alive, kept, prune.Joint, damp)
	if err != nil {
		return err
	}
	dev.Free(result.W)
	r.update = time.Since(start).Seconds() / prune.ApplyFLOP(rows, cols, kept)
	return nil
}
