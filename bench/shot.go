package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"surgeon/engine"
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// ShotOptions say what Shot measures.
type ShotOptions struct {
	Shape     Shape
	Layers    int // blocks; 0 = all
	Sequences int
	Length    int         // tokens in a sequence; 0 = lengthDefault, or what the model allows
	Batch     int         // sequences at one time; 0 = one in main memory, as many as fit elsewhere
	Precision device.Type // of the model
	Structure prune.Structure
}

const lengthDefault = 4096

// ShotReport is one shot as it was measured.
type ShotReport struct {
	Shape      string `json:"shape"`
	Layers     int    `json:"layers"`
	LayersAll  int    `json:"layers_of_the_model"`
	Parameters int    `json:"parameters"` // of the model as it was made
	Prunable   int    `json:"prunable"`   // of the layers that are pruned
	Precision  string `json:"-"`          // the header has it
	Structure  string `json:"structure"`
	Sequences  int    `json:"sequences"`
	Length     int    `json:"length"`
	Batch      int    `json:"batch"`

	Plan           []engine.PlanPart `json:"plan"`
	PlannedBytes   int64             `json:"planned_peak_device_bytes"`
	PeakBytes      int64             `json:"peak_device_bytes"`
	CurvatureBytes int64             `json:"peak_device_bytes_of_curvature"`
	PeakHostBytes  int64             `json:"peak_resident_bytes"` // of the process
	DeviceBytes    int64             `json:"device_bytes"`        // that the device has, or may use
	DeviceIsHost   bool              `json:"device_in_main_memory"`

	MakeSeconds float64 `json:"make_seconds"` // for the random model
	Stages      []Stage `json:"stages"`

	SecondsPerSequence float64 `json:"seconds_per_sequence"` // of the curvature, all of it
	// The same without the first batch, which waits for memory and for kernels to be loaded; 0 where there is one batch only.
	SecondsPerSequenceAfterFirst float64 `json:"seconds_per_sequence_after_first_batch"`
	TokensPerSecond              float64 `json:"tokens_per_second"` // of the curvature

	Loss          float64 `json:"loss"` // mean over the sequences, nats; about log V for random weights
	Removed       float64 `json:"removed"`
	LayersChanged int     `json:"linear_layers_that_lose_something"`
	LayersPruned  int     `json:"linear_layers"`
	Predicted     float64 `json:"predicted_increase"`
	Raised        int     `json:"dampings_raised"`

	UpdateSteps *report.Steps `json:"update_steps,omitempty"` // of conjugate gradients, for single weights
}

// Stage is a stage of the shot.
type Stage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	FLOP    float64 `json:"flop,omitempty"`
	Type    string  `json:"type,omitempty"`    // of the products it consists of
	OfGemm  float64 `json:"of_gemm,omitempty"` // its rate as a fraction of a large product's of that type
}

// stepShare is the share of its rows, and of its columns, that a matrix may lose in the shot. The target is nearly what is
// gone when all matrices lose so much: random weights have no structure that a threshold would find, and matrices that lost
// nothing would make the update look faster than it is.
const stepShare = 1. / 32

// half of the single weights go, which is what most who remove them ask for.
const half = 0.5

// targetOf is what the shot removes; of blocks, what their zeros are.
func targetOf(s prune.Structure) float64 {
	switch s {
	case prune.RowCol:
		return 0.99 * (1 - (1-stepShare)*(1-stepShare))
	case prune.Unit:
		return 2 * stepShare
	case prune.Element:
		return half
	}
	return s.Share()
}

// Shot makes a model of exactly these shapes with random weights on the device, and runs one shot of the method on it, of
// sequences of random tokens: the stages of engine.Prune, by the same code.
func Shot(ctx context.Context, c *Ceilings, o ShotOptions, w engine.Watcher) (*ShotReport, error) {
	cfg, r, err := prepareShot(o)
	if err != nil {
		return nil, err
	}
	options := engine.Options{Samples: r.Sequences, Length: r.Length, Batch: o.Batch, Precision: r.Precision, Structure: o.Structure,
		Cost: prune.OBS, Update: prune.Joint, StepLimit: stepShare, Tolerance: tolerance}
	if r.Plan, r.PlannedBytes, err = engine.PlanTurn(c.d, cfg, &options); err != nil {
		return nil, err
	}
	r.Batch = options.Batch
	memory := c.d.Memory()
	r.DeviceBytes, r.DeviceIsHost = memory.Total, memory.Host

	w.Stage("random weights", 0)
	start := time.Now()
	m, err := model.Random(c.d, cfg, o.Precision, 1)
	if err != nil {
		return nil, err
	}
	defer m.Free()
	r.MakeSeconds, r.Parameters = time.Since(start).Seconds(), m.Parameters()

	watch := &shotWatch{Watcher: w, d: c.d}
	outcome, err := engine.Turn(ctx, m, randomSequences(cfg.Vocab, r), targetOf(o.Structure), options, watch)
	if err != nil {
		return nil, err
	}
	r.PeakBytes, r.PeakHostBytes, r.CurvatureBytes = c.d.Memory().Peak, report.PeakResident(), watch.peak
	r.fill(outcome, watch)
	m.Free() // the ceilings want memory, and are measured afterwards so that the peak is the shot's
	w.Stage("ceilings", 0)
	return r, r.rates(c, cfg, o, outcome)
}

// tolerance is what prune takes where none is asked for.
const tolerance = 0.01

// prepareShot is the architecture that is measured, and what is known of the report before anything runs.
func prepareShot(o ShotOptions) (checkpoint.Config, *ShotReport, error) {
	cfg, err := o.Shape.Parse()
	if err != nil {
		return cfg, nil, fmt.Errorf("shape %s: %w", o.Shape.Name, err)
	}
	r := &ShotReport{Shape: o.Shape.Name, Layers: o.Layers, LayersAll: cfg.Blocks, Structure: o.Structure.String(), Sequences: o.Sequences, Length: o.Length,
		Precision: o.Precision.String()}
	refuse := func(format string, args ...any) (checkpoint.Config, *ShotReport, error) {
		return cfg, nil, &engine.RequestError{Err: fmt.Errorf(format, args...)}
	}
	if r.Layers == 0 {
		r.Layers = cfg.Blocks
	}
	if r.Length == 0 {
		r.Length = min(lengthDefault, cfg.MaxPositions)
	}
	switch {
	case r.Layers < 1 || r.Layers > cfg.Blocks:
		return refuse("--layers is %d; %s has %d", r.Layers, r.Shape, cfg.Blocks)
	case r.Sequences < 1:
		return refuse("--sequences is %d; at least 1 is needed", r.Sequences)
	case r.Length < 2:
		return refuse("--length is %d; a sequence needs at least 2 tokens to have a next one", r.Length)
	case r.Length > cfg.MaxPositions:
		return refuse("--length is %d tokens; %s has positions for %d", r.Length, r.Shape, cfg.MaxPositions)
	case o.Batch < 0:
		return refuse("--batch is %d; it cannot be negative", o.Batch)
	}
	cfg.Blocks, cfg.Window = r.Layers, cfg.Window[:r.Layers]
	weights := prune.Weights{Structure: o.Structure}
	for _, l := range linears(cfg) {
		r.Prunable += l.Rows * l.Inputs()
		r.LayersPruned++
		weights.Layers = append(weights.Layers, prune.WeightsOf{Name: l.Name, Rows: l.Rows, Cols: l.Inputs(), Bias: l.Bias})
	}
	if err := weights.CheckBlocks(); err != nil {
		return refuse("--structure %v: %w", o.Structure, err)
	}
	return cfg, r, nil
}

func randomSequences(vocab int, r *ShotReport) [][]int32 {
	rng := rand.New(rand.NewPCG(4, 0))
	all := make([][]int32, r.Sequences)
	for i := range all {
		all[i] = make([]int32, r.Length)
		for j := range all[i] {
			all[i][j] = int32(rng.IntN(vocab))
		}
	}
	return all
}

// fill takes over what the shot was.
func (r *ShotReport) fill(o engine.Outcome, watch *shotWatch) {
	for _, l := range o.Losses {
		r.Loss += l / float64(len(o.Losses))
	}
	r.Removed = float64(o.Removed) / float64(o.Total)
	if o.Kept == nil { // single weights, which no layer keeps all of
		r.LayersChanged = r.LayersPruned
	}
	for _, k := range o.Kept {
		if k.Weights() < len(k.Rows)*len(k.Cols) {
			r.LayersChanged++
		}
	}
	if o.Predicted != nil {
		r.Predicted = *o.Predicted
	}
	r.Raised, r.UpdateSteps = len(o.Raised), o.Steps
	seconds := o.Seconds["curvature"]
	r.SecondsPerSequence = seconds / float64(r.Sequences)
	r.TokensPerSecond = float64(r.Sequences*r.Length) / seconds
	if b := watch.batches; len(b) > 1 {
		first, last := b[0], b[len(b)-1]
		r.SecondsPerSequenceAfterFirst = last.at.Sub(first.at).Seconds() / float64(last.done-first.done)
	}
}

// rates sets the stages beside large products.
func (r *ShotReport) rates(c *Ceilings, cfg checkpoint.Config, asked ShotOptions, o engine.Outcome) error {
	var costs, updates float64
	layers := linears(cfg)
	update := func(i int) {
		if l, k := layers[i], o.Kept[i]; k.Weights() < l.Rows*l.Inputs() {
			updates += prune.ApplyFLOP(l.Rows, l.Inputs(), k)
		}
	}
	if asked.Structure == prune.Unit {
		for _, c := range prune.Couplings(cfg, cfg.Linears()) {
			p := c.Consumer()
			if c.Units == 1 { // it never goes
				continue
			}
			costs += prune.CostUnitsFLOP(layers[p.Layer].Rows, layers[p.Layer].Inputs(), p.Width)
			update(p.Layer)
		}
	} else {
		for i, l := range layers {
			if asked.Structure.SingleWeights() {
				costs += prune.CostElementsFLOP(l.Rows, l.Inputs())
				continue
			}
			costs += prune.CostFLOP(l.Rows, l.Inputs())
			update(i)
		}
	}
	for _, s := range []struct {
		name string
		flop float64
		typ  device.Type
	}{
		{"curvature", float64(r.Sequences) * passFLOP(cfg, r.Length, asked.Structure), asked.Precision},
		{"costs", costs, device.F64},
		{"threshold", 0, 0},
		{"update", updates, device.F64},
	} {
		stage := Stage{Name: s.name, Seconds: o.Seconds[s.name], FLOP: s.flop}
		if s.flop > 0 {
			gemm, err := c.Gemm(s.typ)
			if err != nil {
				return err
			}
			stage.Type, stage.OfGemm = s.typ.String(), s.flop/stage.Seconds/gemm
		}
		r.Stages = append(r.Stages, stage)
	}
	return nil
}

// shotWatch notes when each batch of the curvature was done, and the device's peak when all were.
type shotWatch struct {
	engine.Watcher
	d       device.Device
	stage   string
	peak    int64
	batches []batchDone
}

type batchDone struct {
	done int // sequences
	at   time.Time
}

func (w *shotWatch) Stage(name string, steps int) {
	if w.stage == "curvature" {
		w.peak = w.d.Memory().Peak
	}
	w.stage = name
	w.Watcher.Stage(name, steps)
}

func (w *shotWatch) Step(done int) {
	if w.stage == "curvature" {
		w.batches = append(w.batches, batchDone{done, time.Now()})
	}
	w.Watcher.Step(done)
}
