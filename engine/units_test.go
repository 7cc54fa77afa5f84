package engine

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// families has a model of each.
var families = []string{"tiny-llama", "tiny-llama3", "tiny-mistral", "tiny-opt", "tiny-opt-post", "tiny-qwen2", "tiny-qwen3"}

// What would be caught: a unit of other rows or columns than belong to it. Without its columns the loss is the same, to the last
// bit, as without its rows, and as without both; units leave no row of a producer, and no column but a bias, to none.
func TestCouplings(t *testing.T) {
	rng := rand.New(rand.NewPCG(35, 0))
	for _, name := range families {
		dev := cpu.Open()
		c, err := checkpoint.Open(golden.Dir(name))
		if err != nil {
			t.Fatal(err)
		}
		m, err := model.Load(t.Context(), dev, c, device.F64)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		tokens := golden.Tokens(t, name)
		losses := func() []float64 {
			l, err := m.Losses(tokens)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		dense := losses()
		for _, c := range prune.Couplings(m.Config, m.Config.Linears()) {
			for _, p := range c.Parts {
				l := m.Linears()[p.Layer]
				if all := map[prune.Side]int{prune.Row: l.Rows, prune.Col: l.Cols}[p.Side]; c.Units*p.Width != all {
					t.Errorf("%s, %s: %d units take %d of each of %d %vs of %s", name, c.Name, c.Units, p.Width, all, p.Side, l.Name)
				}
			}
			u := rng.IntN(c.Units)
			without := func(parts []prune.Part) []float64 {
				var saved []device.Tensor
				for _, p := range parts {
					l := m.Linears()[p.Layer]
					w := l.Matrix(device.F64)
					kept := keptAfterShot(l.Rows, l.Inputs(), 0, 0)
					marks := kept.Rows
					if p.Side == prune.Col {
						marks = kept.Cols
					}
					for i := range p.Width {
						marks[u*p.Width+i] = false
					}
					part := prune.Restrict(dev, w, kept)
					l.SetMatrix(part)
					dev.Free(part)
					saved = append(saved, w)
				}
				x := losses()
				for i, p := range parts {
					m.Linears()[p.Layer].SetMatrix(saved[i])
					dev.Free(saved[i])
				}
				return x
			}
			last := len(c.Parts) - 1
			all, columns, rows := without(c.Parts), without(c.Parts[last:]), without(c.Parts[:last])
			if !slices.Equal(all, columns) || !slices.Equal(all, rows) {
				t.Errorf("%s, unit %d of %s: the losses are %v without it, %v without its columns, %v without its rows", name, u, c.Name, all, columns, rows)
			}
			if slices.Equal(all, dense) {
				t.Errorf("%s, unit %d of %s does nothing", name, u, c.Name)
			}
		}
		m.Free()
		dev.Close()
	}
}

var unitRuns = []struct {
	name   string
	change func(*Options)
}{
	{"kfac", func(o *Options) {}},
	{"activations", func(o *Options) { o.Curvature = curvature.Activations }},
	{"magnitude", func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None }},
	{"obd", func(o *Options) { o.Cost, o.Update = prune.OBD, prune.None }},
	{"sampled, with corrections", func(o *Options) {
		o.Fisher, o.FisherSamples, o.Lora, o.LoraRank, o.LoraRate, o.LoraShare = curvature.Sampled, 1, true, 2, 3e-4, 0.5
	}},
}

// What would be caught: a run of units that misses its target by more than a unit, a unit of which a part stays, a block without a
// head or a neuron, zeros that are not the report's, a run that does not go on bit for bit after a stop.
func TestUnitRuns(t *testing.T) {
	for i, run := range unitRuns {
		for k, name := range []string{"tiny-llama3", "tiny-opt", "tiny-qwen3"} {
			t.Run(run.name+" "+name, func(t *testing.T) {
				if i > 0 && (i+k)%3 > 0 {
					t.Skip("one model for each kind of run but the first")
				}
				dir, text := tiny(t, name)
				o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
				o.Structure = prune.Unit
				run.change(&o)
				r, err := pruneTiny(t, context.Background(), o, &silent{})
				if err != nil {
					t.Fatal(err)
				}
				checkUnits(t, o, r)
				checkZeros(t, o, r)
				for _, s := range r.Shots {
					if (s.PredictedIncrease != nil) != o.predicts() || s.PredictedIncrease != nil && !(*s.PredictedIncrease > 0) {
						t.Errorf("shot %d: an increase of %v is predicted", s.Number, s.PredictedIncrease)
					}
					if s.Threshold == nil || !(*s.Threshold >= 0) {
						t.Errorf("shot %d: threshold %v", s.Number, s.Threshold)
					}
				}

				checkResumes(t, o, o.Shots)
			})
		}
	}
}

// What would be caught: a damping that had to be raised for the costs of units, where update factors less, and is not told.
func TestUnitDampingsRaised(t *testing.T) {
	dir, text := tiny(t, "tiny-llama3")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	none := 0.0
	o.Structure, o.DampA, o.Samples, o.Length, o.Target, o.Shots = prune.Unit, &none, 1, 8, 0.05, 1 // A of rank 8 at most
	r, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range linearsOf(t, dir) {
		raised := slices.ContainsFunc(r.Shots[0].DampingsRaised, func(d report.Damping) bool { return d.Layer == l.Name && d.Side == "A" && d.Share > 0 })
		if raised != l.Consumer() {
			t.Errorf("%s: raised is %v", l.Name, raised)
		}
	}
}

// checkUnits looks at what the report says of the layers, and at the targets.
func checkUnits(t *testing.T, o Options, r *report.Report) {
	t.Helper()
	cfg := configOf(t, o.Model)
	layers := linears(cfg)
	largest, total := 0, 0
	for _, l := range layers {
		total += l.Rows * l.Inputs()
	}
	for _, c := range prune.Couplings(cfg, cfg.Linears()) {
		stay, weights := 0, 0
		for _, p := range c.Parts {
			if l := layers[p.Layer]; p.Side == prune.Row {
				weights += p.Width * l.Inputs()
			} else {
				weights += p.Width * l.Rows
			}
		}
		largest = max(largest, weights)
		for u := range c.Units {
			kept, all := 0, 0
			for _, p := range c.Parts {
				list := r.Layers[p.Layer].KeptRows
				if p.Side == prune.Col {
					list = r.Layers[p.Layer].KeptCols
				}
				for i := u * p.Width; i < (u+1)*p.Width; i++ {
					if all++; slices.Contains(list, i) {
						kept++
					}
				}
			}
			if kept > 0 && kept < all {
				t.Errorf("unit %d of %s: %d of its %d rows and columns stay", u, c.Name, kept, all)
			}
			if kept > 0 {
				stay++
			}
		}
		if stay == 0 {
			t.Errorf("%s: none stays", c.Name)
		}
	}
	for i, s := range r.Shots {
		if removed := s.Reached * float64(total); removed > s.Target*float64(total)+1e-6 || removed < s.Target*float64(total)-float64(largest) {
			t.Errorf("shot %d: %v of the weights are gone, want %v and no more than a unit less", i+1, s.Reached, s.Target)
		}
	}
	if last := r.Shots[len(r.Shots)-1].Reached; r.Final.Sparsity != last {
		t.Errorf("%v is gone at the end, %v was after the last shot: something of a unit was left for the end", r.Final.Sparsity, last)
	}
}

// What would be caught: a target that no units can reach, in silence; one within reach that is warned of; what units cannot be
// costed by, taken.
func TestUnitLimits(t *testing.T) {
	dir, text := tiny(t, "tiny-llama3")
	most := mostUnits(configOf(t, dir))
	for _, test := range []struct {
		target float64
		warned bool
	}{{most - 0.01, false}, {most + 0.01, true}} {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Structure, o.Target, o.Shots = prune.Unit, test.target, 1
		w := &silent{}
		r, err := pruneTiny(t, context.Background(), o, w)
		if err != nil {
			t.Fatal(err)
		}
		if warned := slices.ContainsFunc(w.warnings, func(s string) bool { return strings.Contains(s, "keeps a key/value head and a neuron") }); warned != test.warned {
			t.Errorf("target %v of at most %v: warnings %q", test.target, most, w.warnings)
		}
		if test.warned && r.Shots[0].Reached != most {
			t.Errorf("%v is gone; no more than %v can go", r.Shots[0].Reached, most)
		}
	}
	suspect := report.Shot{LossAfter: 1, PredictedIncrease: new(float64)}
	for structure, refused := range map[prune.Structure][]string{prune.RowCol: nil, prune.Unit: {"--step-limit", "--damp-g"}, prune.Element: {"--step-limit"}} {
		o := Options{Structure: structure}
		for _, way := range []string{"--shots", "--step-limit", "--damp-g", "--damp-a", "--samples"} {
			if told := strings.Contains(o.suspicious(suspect), way); told == slices.Contains(refused, way) {
				t.Errorf("--structure %v: %s", structure, o.suspicious(suspect))
			}
		}
	}
	for _, test := range []struct {
		change func(*Options)
		said   string
	}{
		{func(o *Options) { o.Curvature, o.PowerSteps, o.Rank = curvature.KronSum, 4, 2 }, "with --curvature kron-sum all are measured together"},
		{func(o *Options) { o.Curvature, o.PowerSteps = curvature.Nearest, 2 }, "with --curvature nearest all are measured together"},
		{func(o *Options) { o.Damping = jointDamping }, "there is no product to damp"},
		{func(o *Options) { o.Curvature = curvature.Diagonal }, "with --structure unit it is kfac"},
		{func(o *Options) { o.Update = prune.Sum }, "with --structure unit it is joint or none"},
		{func(o *Options) { o.Scope = prune.InRow }, "with --structure unit it is model"},
	} {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Structure = prune.Unit
		test.change(&o)
		if _, err := o.Checked(); err == nil || !strings.Contains(err.Error(), test.said) {
			t.Errorf("%v, want %q", err, test.said)
		}
	}
}
