package enginetest

import (
	"context"
	"math"
	"slices"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

var damping = prune.Damping{G: 0.01, A: 0.01}

type shot struct {
	Target, Tau, Removed, Predicted float64
	Layers                          map[string]struct{ Rows, Cols []int }
	Loss                            []float64
}

type shotDoc struct {
	Layers     []string
	Structured []shot
	Limited    []struct {
		Ranking       string
		DeadFree      bool `json:"dead_free"`
		Target, Share float64
		Weights       int
		Removed       map[string]struct{ Rows, Cols []int }
	}
}

// dense is a tiny model and the layers of golden, with golden's factors.
func dense(t *testing.T, dev device.Device, name string) (*model.Model, []prune.Layer, golden.Arrays, shotDoc) {
	t.Helper()
	c, err := checkpoint.Open(golden.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := model.Load(context.Background(), dev, c, device.F64)
	if err != nil {
		t.Fatal(err)
	}
	var d shotDoc
	arrays := golden.Open(t, name, "golden", &struct{}{})
	golden.Open(t, name, "float64", &d)
	var layers []prune.Layer
	for _, l := range m.Linears() {
		layers = append(layers, prune.Layer{Name: l.Name, W: l.Matrix(device.F64),
			Term: prune.Term{A: upload(dev, arrays.Get("dense/"+l.Name+"/A")), G: upload(dev, arrays.Get("dense/"+l.Name+"/G"))}})
	}
	return m, layers, arrays, d
}

// upload packs a row-major square.
func upload(dev device.Device, x []float64) device.Sym {
	n := int(math.Sqrt(float64(len(x))))
	s := device.AllocSym(dev, n, device.F64)
	packed := make([]float64, 0, device.PackedLen(n))
	for i := range n {
		packed = append(packed, x[i*n:i*n+i+1]...)
	}
	device.UploadSlice(dev, packed, s.Packed)
	return s
}

func marks(n int, set []int) []bool {
	x := make([]bool, n)
	for _, i := range set {
		x[i] = true
	}
	return x
}

// CostsAndUpdates compares one shot from golden's own factors, so to 1e-9. It would catch: any error in costs, damping, alive
// indices or updates.
func CostsAndUpdates(t *testing.T, open func(*testing.T) device.Device) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			defer dev.Close()
			_, layers, arrays, d := dense(t, dev, name)
			oracle := golden.Open(t, name, "float64", &struct{}{})
			alive, err := prune.Alive(dev, layers)
			if err != nil {
				t.Fatal(err)
			}
			costs, raised, err := prune.Costs(dev, layers, alive, prune.OBS, damping)
			if err != nil || len(raised) > 0 {
				t.Fatal(err, raised)
			}
			obd, _, err := prune.Costs(dev, layers, alive, prune.OBD, damping)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range layers {
				golden.Near(t, "row costs of "+l.Name, costs[i].Rows, arrays.Get("dense/"+l.Name+"/row_cost"), 1e-9)
				golden.Near(t, "column costs of "+l.Name, costs[i].Cols, arrays.Get("dense/"+l.Name+"/col_cost"), 1e-9)
				golden.Near(t, "OBD row costs of "+l.Name, obd[i].Rows, oracle.Get("obd/"+l.Name+"/row_cost"), 1e-5)
				golden.Near(t, "OBD column costs of "+l.Name, obd[i].Cols, oracle.Get("obd/"+l.Name+"/col_cost"), 1e-5)
			}
			s, err := prune.Select(costs, prune.Budget{Target: 0.2, StepLimit: 1})
			if err != nil {
				t.Fatal(err)
			}
			updates := map[prune.Update][]prune.Result{}
			for _, how := range []prune.Update{prune.Joint, prune.Sum, prune.None} {
				if updates[how], err = prune.Apply(dev, layers, alive, s.Kept, how, damping, 0); err != nil {
					t.Fatal(err)
				}
			}
			var predicted float64
			for i, l := range layers {
				want := d.Structured[0].Layers[l.Name]
				if !slices.Equal(s.Kept[i].Rows, marks(l.W.Rows, want.Rows)) || !slices.Equal(s.Kept[i].Cols, marks(l.W.Cols, want.Cols)) {
					t.Errorf("%s: kept sets differ", l.Name)
				}
				for how, name := range map[prune.Update]string{prune.Joint: "W", prune.Sum: "W_sum"} {
					golden.Near(t, name+" of "+l.Name, device.DownloadSlice[float64](dev, updates[how][i].W), arrays.Get("structured1/"+l.Name+"/"+name), 1e-9)
				}
				predicted += updates[prune.Joint][i].Predicted
				restricted := prune.Restrict(dev, l.W, s.Kept[i])
				golden.Near(t, "update none of "+l.Name, device.DownloadSlice[float64](dev, updates[prune.None][i].W), device.DownloadSlice[float64](dev, restricted), 0)
			}
			if want := d.Structured[0].Predicted; math.Abs(predicted-want) > 5e-6*want {
				t.Errorf("predicted increase %v, want %v", predicted, want)
			}
		})
	}
}

// TwoShots compares two shots with factors measured here; the oracle is float64 throughout. It would catch: an error in the
// whole chain, or one that shows only when something is dead already.
func TwoShots(t *testing.T, open func(*testing.T) device.Device) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			defer dev.Close()
			m, _, _, d := dense(t, dev, name)
			oracle := golden.Open(t, name, "float64", &struct{}{})
			tokens := golden.Tokens(t, name)
			for k, want := range d.Structured {
				f, _, err := curvature.Collect(context.Background(), m, tokens, 2, curvature.Options{}, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				var layers []prune.Layer
				for i, l := range m.Linears() {
					a, g := f.Of(i)
					layers = append(layers, prune.Layer{Name: l.Name, W: l.Matrix(device.F64), Term: prune.Term{A: a, G: g}})
				}
				alive, err := prune.Alive(dev, layers)
				if err != nil {
					t.Fatal(err)
				}
				costs, _, err := prune.Costs(dev, layers, alive, prune.OBS, damping)
				if err != nil {
					t.Fatal(err)
				}
				for i, l := range layers {
					prefix := []string{"structured1/", "structured2/"}[k] + l.Name
					golden.Near(t, "row costs "+prefix, costs[i].Rows, oracle.Get(prefix+"/row_cost"), 1e-9)
					golden.Near(t, "column costs "+prefix, costs[i].Cols, oracle.Get(prefix+"/col_cost"), 1e-9)
				}
				if k == 0 {
					testLimited(t, d, costs)
				}
				s, err := prune.Select(costs, prune.Budget{Target: want.Target, StepLimit: 1})
				if err != nil {
					t.Fatal(err)
				}
				if math.Abs(s.Threshold-want.Tau) > 1e-9*want.Tau {
					t.Errorf("shot %d: threshold %v, want %v", k+1, s.Threshold, want.Tau)
				}
				if got := float64(s.Removed) / float64(s.Total); math.Abs(got-want.Removed) > 1e-12 {
					t.Errorf("shot %d: removed %v, want %v", k+1, got, want.Removed)
				}
				results, err := prune.Apply(dev, layers, alive, s.Kept, prune.Joint, damping, 0)
				if err != nil {
					t.Fatal(err)
				}
				var predicted float64
				for i, l := range m.Linears() {
					if keep := want.Layers[l.Name]; !slices.Equal(s.Kept[i].Rows, marks(l.Rows, keep.Rows)) || !slices.Equal(s.Kept[i].Cols, marks(l.Inputs(), keep.Cols)) {
						t.Errorf("shot %d: %s: kept sets differ", k+1, l.Name)
					}
					r := results[i]
					predicted += r.Predicted
					prefix := []string{"structured1/", "structured2/"}[k] + l.Name
					golden.Near(t, "W "+prefix, device.DownloadSlice[float64](dev, r.W), oracle.Get(prefix+"/W"), 1e-9)
					l.SetMatrix(r.W)
				}
				if math.Abs(predicted-want.Predicted) > 1e-9*want.Predicted {
					t.Errorf("shot %d: predicted increase %v, want %v", k+1, predicted, want.Predicted)
				}
				losses, err := m.Losses(tokens)
				if err != nil {
					t.Fatal(err)
				}
				golden.Near(t, "losses after the shot", losses, want.Loss, 1e-9)
				f.Free()
			}
		})
	}
}

// testLimited compares selections with a step limit; dead structures count against no limit.
func testLimited(t *testing.T, d shotDoc, costs []prune.LayerCosts) {
	tried := 0
	for _, want := range d.Limited {
		ranking, ok := map[string]prune.Ranking{"cost": prune.ByCost, "cost_per_weight": prune.ByCostPerWeight}[want.Ranking]
		if !ok || !want.DeadFree {
			continue // another cost, or a rule that counts dead structures against the limit
		}
		tried++
		s, err := prune.Select(costs, prune.Budget{Target: want.Target, StepLimit: want.Share, Ranking: ranking})
		if err != nil {
			t.Fatal(err)
		}
		if s.Removed != want.Weights {
			t.Errorf("limited by %v, ranked by %s: %d weights gone, want %d", want.Share, want.Ranking, s.Removed, want.Weights)
		}
		for i, c := range costs {
			var rows, cols []int
			for j, k := range s.Kept[i].Rows {
				if !k {
					rows = append(rows, j)
				}
			}
			for j, k := range s.Kept[i].Cols {
				if !k {
					cols = append(cols, j)
				}
			}
			if w := want.Removed[c.Name]; !slices.Equal(rows, w.Rows) || !slices.Equal(cols, w.Cols) {
				t.Errorf("limited by %v, ranked by %s: %s loses %v %v, want %v %v", want.Share, want.Ranking, c.Name, rows, cols, w.Rows, w.Cols)
			}
		}
	}
	if tried < 2 {
		t.Errorf("only %d of the oracle's selections were compared", tried)
	}
}
