package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"surgeon/engine"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// quiet is a watcher that tells nobody, and notes stages and warnings.
type quiet struct{ stages, warnings []string }

func (q *quiet) Stage(name string, steps int) { q.stages = append(q.stages, name) }
func (*quiet) Step(int)                       {}
func (*quiet) Say(string)                     {}
func (q *quiet) Warn(sentence string)         { q.warnings = append(q.warnings, sentence) }
func (*quiet) Shot(report.Shot)               {}

// apart is a device with memory of its own, of so many bytes. It counts what its caller allocates, and none of what its
// operations do.
type apart struct {
	*cpu.Device
	total, used, peak int64
	sizes             map[any]int64
}

func openApart(d *cpu.Device, total int64) *apart {
	return &apart{Device: d, total: total, sizes: map[any]int64{}}
}

func (d *apart) Memory() device.Memory {
	return device.Memory{Total: d.total, Used: d.used, Peak: d.peak}
}

func (d *apart) Alloc(rows, cols int, t device.Type) device.Tensor {
	x := d.Device.Alloc(rows, cols, t)
	d.sizes[x.Handle] = int64(rows * cols * t.Size())
	d.used += d.sizes[x.Handle]
	d.peak = max(d.peak, d.used)
	return x
}

func (d *apart) Free(ts ...device.Tensor) {
	for _, x := range ts {
		if !x.IsZero() {
			d.used -= d.sizes[x.Handle]
			delete(d.sizes, x.Handle)
		}
	}
	d.Device.Free(ts...)
}

var tinyShape = Shape{"tiny", `{"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4,
	"num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 64, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}`}

// What would be caught: a shape with a wrong number in it, a name that leads to another.
func TestShapes(t *testing.T) {
	for name, want := range map[string]int{ // as the published models have them
		"smollm2-135m": 134_515_008, "opt-125m": 125_239_296, "opt-6.7b": 6_658_473_984, "llama-2-7b": 6_738_415_616, "llama-3-8b": 8_030_261_248,
	} {
		s, found := ShapeNamed(name)
		if !found || s.Name != name {
			t.Errorf("%s leads to %q", name, s.Name)
			continue
		}
		cfg, err := s.Parse()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := 0
		for _, shape := range cfg.Shapes() {
			n := 1
			for _, size := range shape {
				n *= size
			}
			got += n
		}
		if got != want {
			t.Errorf("%s has %d weights, want %d", name, got, want)
		}
	}
	if _, found := ShapeNamed("llama-2-70b"); found {
		t.Error("there is no llama-2-70b")
	}
}

// What would be caught: the shot of Llama-2-7B planned for more than one card of 80 GB, or with batches that leave it idle.
// 78 GiB are what a card of 80 GB has free, less what is left to the driver.
func TestShotsFitOneCard(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	for _, name := range []string{"llama-2-7b", "opt-6.7b", "llama-3-8b"} {
		s, _ := ShapeNamed(name)
		cfg, err := s.Parse()
		if err != nil {
			t.Fatal(err)
		}
		o := engine.Options{Samples: 128, Length: min(lengthDefault, cfg.MaxPositions), Precision: "bfloat16"}
		parts, peak, err := engine.PlanTurn(openApart(d, 80<<30), cfg, &o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if peak > 78<<30 || o.Batch < 1 {
			t.Errorf("%s: %d bytes, %d sequences at one time: %v", name, peak, o.Batch, parts)
		}
		t.Logf("%s: %.1f GiB, %d sequences of %d at one time: %v", name, float64(peak)/(1<<30), o.Batch, o.Length, parts)
	}
}

// What would be caught: a stage that is left out or told under another name, a model that overflows, matrices that lose
// nothing, memory beyond the plan, figures of another model than the one that was asked for.
func TestShot(t *testing.T) {
	for _, test := range []struct {
		typ       device.Type
		structure prune.Structure
		least     float64 // of the weights go
		most      float64
	}{
		{device.F32, prune.RowCol, 0.04, 0.0625},
		{device.BF16, prune.RowCol, 0.04, 0.0625},
		{device.F32, prune.Unit, 0.055, 0.0625},
		{device.BF16, prune.Unit, 0.055, 0.0625},
		{device.F32, prune.Element, 0.4999, 0.5},
		{device.BF16, prune.Structure{N: 2, M: 4}, 0.5, 0.5},
	} {
		t.Run(fmt.Sprint(test.typ, " ", test.structure), func(t *testing.T) {
			d := cpu.Open()
			defer d.Close()
			w := &quiet{}
			o := ShotOptions{Shape: tinyShape, Layers: 2, Sequences: 5, Length: 48, Batch: 2, Precision: test.typ, Structure: test.structure}
			single := test.structure.SingleWeights()
			ceilings := fixedCeilings(openApart(d, 4<<30))
			r, err := Shot(context.Background(), ceilings, o, w)
			if err != nil {
				t.Fatal(err)
			}
			want := "random weights, curvature, costs, update, ceilings"
			if single {
				want = "random weights, curvature, costs, threshold, update, ceilings"
			}
			if got := strings.Join(w.stages, ", "); got != want {
				t.Errorf("stages %s", got)
			}
			changed := r.LayersChanged == 14
			if test.structure == prune.Unit { // gate, up and down of both blocks, which have but two heads each
				changed = r.LayersChanged >= 6
			}
			if r.Layers != 2 || r.LayersAll != 3 || r.LayersPruned != 14 || !changed || r.Batch != 2 || r.Parameters != 2*256*64+64+2*(2*64+2*64*64+2*32*64+3*64*160) {
				t.Errorf("%+v", r)
			}
			if math.Abs(r.Loss-math.Log(256)) > 0.5 { // of a model that knows nothing
				t.Errorf("the loss is %v", r.Loss)
			}
			if !(r.Removed >= test.least && r.Removed <= test.most) || !(r.Predicted > 0) || (r.UpdateSteps != nil) != single || r.Structure != test.structure.String() {
				t.Errorf("%v of the weights are gone, predicted increase %v, steps %v, %s", r.Removed, r.Predicted, r.UpdateSteps, r.Structure)
			}
			if share := float64(r.PeakBytes) / float64(r.PlannedBytes); share < 0.95 || share > 1.001 { // the CPU inverts in place, another device may not; vectors are not counted
				t.Errorf("planned %d bytes, the peak was %d: %v", r.PlannedBytes, r.PeakBytes, r.Plan)
			}
			if r.CurvatureBytes > r.PeakBytes || r.CurvatureBytes == 0 || !(r.SecondsPerSequence > 0 && r.SecondsPerSequenceAfterFirst > 0) {
				t.Errorf("%+v", r)
			}
			var names []string
			for _, s := range r.Stages {
				names = append(names, s.Name)
				if !(s.Seconds > 0) || (s.FLOP > 0) != (s.Name != "threshold" && !(single && s.Name == "update")) || s.FLOP > 0 && math.Abs(s.OfGemm*s.Seconds-s.FLOP/1e9) > 1e-9 {
					t.Errorf("%+v", s)
				}
			}
			if strings.Join(names, " ") != "curvature costs threshold update" {
				t.Errorf("stages %v", names)
			}
			if used := d.Memory().Used; used != 0 {
				t.Errorf("%d bytes are still held", used)
			}
		})
	}
}

// fixedCeilings are a GFLOP/s each, so that nothing is measured.
func fixedCeilings(d device.Device) *Ceilings {
	c := NewCeilings(d)
	c.gemm = map[device.Type]float64{device.F32: 1e9, device.F64: 1e9, device.BF16: 1e9}
	c.copy = 1e9
	return c
}

// What would be caught: the batch that a device with memory of its own has room for is not used, or one that it has no room for.
func TestShotBatch(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	for total, want := range map[int64]int{4 << 30: 3, 1_300_000: 1} {
		r, err := Shot(context.Background(), fixedCeilings(openApart(d, total)), ShotOptions{Shape: tinyShape, Layers: 1, Sequences: 3, Length: 64, Precision: device.F32}, &quiet{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Batch != want {
			t.Errorf("%d bytes: %d sequences at one time, want %d: %v", total, r.Batch, want, r.Plan)
		}
	}
}

// What would be caught: a request that cannot be met and is not refused as a wrong one.
func TestShotRefusals(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	good := ShotOptions{Shape: tinyShape, Layers: 1, Sequences: 1, Length: 8, Precision: device.F32}
	for want, change := range map[string]func(o *ShotOptions){
		"--layers is 4; tiny has 3":                         func(o *ShotOptions) { o.Layers = 4 },
		"--layers is -1; tiny has 3":                        func(o *ShotOptions) { o.Layers = -1 },
		"--sequences is 0; at least 1 is needed":            func(o *ShotOptions) { o.Sequences = 0 },
		"--length is 1; a sequence needs at least 2 tokens": func(o *ShotOptions) { o.Length = 1 },
		"--length is 65 tokens; tiny has positions for 64":  func(o *ShotOptions) { o.Length = 65 },
		"--batch is -1; it cannot be negative":              func(o *ShotOptions) { o.Batch = -1 },
		"--structure 1:3: layer model.layers.0.self_attn.q": func(o *ShotOptions) { o.Structure = prune.Structure{N: 1, M: 3} },
	} {
		o := good
		change(&o)
		_, err := Shot(context.Background(), fixedCeilings(d), o, &quiet{})
		if _, ok := errors.AsType[*engine.RequestError](err); !ok || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	_, err := Shot(context.Background(), fixedCeilings(openApart(d, 1<<18)), good, &quiet{})
	if _, ok := errors.AsType[*engine.RequestError](err); !ok || !strings.Contains(err.Error(), "has room for 0.2 MiB") {
		t.Errorf("a device that is too small: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Shot(ctx, fixedCeilings(d), good, &quiet{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled shot: %v", err)
	}
}

// What would be caught: a pass of another cost than the model's own products and factors.
func TestPassFLOP(t *testing.T) {
	cfg, err := tinyShape.Parse()
	if err != nil {
		t.Fatal(err)
	}
	const n, d, kv, f, v, blocks = 10., 64., 32., 160., 256., 3.
	weights := 2*d*d + 2*kv*d + 3*f*d
	want := 4*n*v*d + blocks*4*n*weights - 2*n*(d*d+2*kv*d)  // block 0's q, k and v make no gradient at their input
	want += blocks * n * (3*d*d + f*f)                       // input factors: of q, k and v, of o, of gate and up, of down
	want += blocks * n * (d*d + 2*kv*kv + d*d + 2*f*f + d*d) // gradient factors: q, k, v, o, gate, up, down
	want += blocks * 7 * n * n * d                           // attention
	if got := passFLOP(cfg, n, prune.RowCol); math.Abs(got-want) > 1e-6*want {
		t.Errorf("%v FLOP, want %v", got, want)
	}
	want -= blocks * n * (2*d*d + d*d + 2*kv*kv + 2*f*f) // all factors but those of o and down
	if got := passFLOP(cfg, n, prune.Unit); math.Abs(got-want) > 1e-6*want {
		t.Errorf("%v FLOP where units go, want %v", got, want)
	}
}

// What would be caught: a figure that is not of the call it stands beside, a call left out in silence, or none at all.
func TestOps(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	o := OpsOptions{Type: device.F32, Filter: regexp.MustCompile(`^(Embed beta=0|RowDot|Gram ones=0 beta=0.5)/(512×576|576×1536|16384×11008)/`)}
	rows := map[string]Row{}
	if err := Ops(context.Background(), fixedCeilings(d), o, func(r Row) error { rows[r.Name()] = r; return nil }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Row{
		"Embed beta=0/512×576/float32":             {Ceiling: "copy", Bytes: 4 * (512 + 50) * 576},
		"RowDot/576×1536/float64":                  {Ceiling: "copy", Bytes: 8 * (2*576*1536 + 576), FLOP: 2 * 576 * 1536},
		"Gram ones=0 beta=0.5/512×576/float32":     {Ceiling: "gemm", Bytes: 4 * (512*576 + 576*577), FLOP: 512 * 576 * 576},
		"Gram ones=0 beta=0.5/16384×11008/float32": {LeftOut: "1985.3 GFLOP, and products run at 1.0 GFLOP/s here"},
	} {
		got, ok := rows[name]
		if !ok || got.LeftOut != want.LeftOut {
			t.Errorf("%s: %+v", name, got)
		}
		if want.LeftOut != "" || !ok {
			continue
		}
		if got.Ceiling != want.Ceiling || got.Bytes != want.Bytes || got.FLOP != want.FLOP {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if !(got.MinMs > 0 && got.MinMs <= got.MedianMs && got.Checksum > 0) || len(got.rounds) < samples || (got.OfLibrary > 0) != strings.HasPrefix(name, "Gram") {
			t.Errorf("%s: %+v", name, got)
		}
		made := 0
		for _, n := range got.calls {
			made += n
		}
		if got.Calls != made || made < samples || got.OfLibrary > 0 && math.Abs(got.OfLibrary*got.LibraryMs-got.MinMs) > 1e-9*got.MinMs {
			t.Errorf("%s: %+v", name, got)
		}
		if bound := max(got.FLOP, got.Bytes) / 1e9; math.Abs(got.OfCeiling*got.MinMs/1e3-bound) > 1e-9*bound { // of ceilings of 10⁹
			t.Errorf("%s: %v of the ceiling", name, got.OfCeiling)
		}
	}
	if len(rows) != 4 {
		t.Errorf("%d rows: %v", len(rows), rows)
	}

	small := map[string]Row{}
	o.Filter = regexp.MustCompile(`^(Axpy|RowDot)/`)
	if err := Ops(context.Background(), fixedCeilings(openApart(d, 40<<20)), o, func(r Row) error { small[r.Name()] = r; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := small["RowDot/11008×4096/float64"].LeftOut; got != "0.7 GiB of operands, and 0.0 GiB of memory are free" {
		t.Errorf("a device that is too small: %q", got)
	}
	if got := small["RowDot/576×1536/float64"]; got.LeftOut != "" || !(got.MinMs > 0) {
		t.Errorf("%+v", got)
	}

	late := 0
	o.Seconds = 1e-9
	if err := Ops(context.Background(), fixedCeilings(d), o, func(r Row) error {
		if r.LeftOut != "" {
			late++
		}
		return nil
	}); err != nil || late != 5 {
		t.Errorf("%v, and %d calls were left out when the time was over", err, late)
	}
	failing := errors.New("nobody reads this")
	if err := Ops(context.Background(), fixedCeilings(d), o, func(Row) error { return failing }); !errors.Is(err, failing) {
		t.Errorf("a row that cannot be shown: %v", err)
	}
}

// What would be caught: ceilings of less than they could be, since the call was too small, or of another call.
func TestCeilings(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	c := NewCeilings(openApart(d, 256<<20))
	copied, err := c.Copy()
	if err != nil || copied < 1e8 || copied > 1e12 {
		t.Errorf("copies at %v bytes per second, %v", copied, err)
	}
	if again, _ := c.Copy(); again != copied {
		t.Error("measured twice")
	}
	if d.Memory().Used != 0 {
		t.Errorf("%d bytes are still held", d.Memory().Used)
	}
}
