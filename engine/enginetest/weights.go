package enginetest

import (
	"math"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
	"surgeon/engine/prune"
)

// WeightCostsAndUpdates compares one shot of single weights, and one of 2:4, from golden's own factors, so to 1e-9. It would
// catch: any error in costs, in the selection, in groups or their updates, sequential ones included.
func WeightCostsAndUpdates(t *testing.T, open func(*testing.T) device.Device) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			defer dev.Close()
			m, layers, arrays, _ := dense(t, dev, name)
			var doc struct {
				Unstructured struct{ Target, Tau float64 }
			}
			golden.Open(t, name, "golden", &doc)
			alive, err := prune.Alive(dev, layers)
			if err != nil {
				t.Fatal(err)
			}
			costs, raised, err := prune.CostElements(dev, layers, alive, prune.OBS, damping)
			if err != nil || len(raised) > 0 {
				t.Fatal(err, raised)
			}
			for i, l := range layers {
				made := costs[i].Of(dev, l.W)
				golden.Near(t, "costs of "+l.Name, device.DownloadSlice[float64](dev, made), arrays.Get("dense/"+l.Name+"/element_cost"), 1e-9)
				dev.Free(made)
			}

			s, err := prune.SelectWeights(dev, weights(dev, prune.Element, m, layers, costs), prune.InModel, doc.Unstructured.Target)
			if err != nil {
				t.Fatal(err)
			}
			if want := doc.Unstructured.Tau; s.Threshold == nil || math.Abs(*s.Threshold-want) > 1e-9*want {
				t.Errorf("threshold %v, want %v", s.Threshold, want)
			}
			compared, removed := 0, 0
			for i, l := range layers {
				gone, err := s.Gone(dev, i)
				if err != nil {
					t.Fatal(err)
				}
				for _, g := range gone {
					if g {
						removed++
					}
				}
				for _, u := range []struct {
					name     string
					grouping prune.Grouping
				}{{"W_all", prune.Grouping{}}, {"W_64", prune.Grouping{Limit: 64}}, {"W_64_sequential", prune.Grouping{Limit: 64, Sequential: true}}} {
					if array := "unstructured/" + l.Name + "/" + u.name; arrays.Has(array) {
						compared++
						weightUpdate(t, dev, l, costs[i], s, i, u.grouping, arrays, "unstructured/"+l.Name, array)
					}
				}
			}
			if want := int(doc.Unstructured.Target * float64(s.Total)); removed != want {
				t.Errorf("%d weights gone, want %d", removed, want)
			}
			if compared < 2*len(layers) {
				t.Errorf("only %d updates were compared", compared)
			}

			s, err = prune.SelectWeights(dev, weights(dev, prune.Structure{N: 2, M: 4}, m, layers, costs), prune.InModel, 0.5)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range layers {
				weightUpdate(t, dev, l, costs[i], s, i, prune.Grouping{Limit: 64}, arrays, "2of4/"+l.Name, "2of4/"+l.Name+"/W_64")
			}
		})
	}
}

// weights are the layers of golden as a selection sees them.
func weights(dev device.Device, s prune.Structure, m *model.Model, layers []prune.Layer, costs []prune.ElementCosts) prune.Weights {
	w := prune.Weights{Structure: s, Costs: func(i int) (device.Tensor, error) { return costs[i].Of(dev, layers[i].W), nil }}
	for _, l := range m.Linears() {
		w.Layers = append(w.Layers, prune.WeightsOf{Name: l.Name, Rows: l.Rows, Cols: l.Inputs(), Bias: l.Bias})
	}
	return w
}

// weightUpdate compares what goes from a layer, and what it becomes.
func weightUpdate(t *testing.T, dev device.Device, l prune.Layer, costs prune.ElementCosts, s prune.WeightSelection, layer int, g prune.Grouping, arrays golden.Arrays, prefix, array string) {
	t.Helper()
	gone, err := s.Gone(dev, layer)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(gone, arrays.Marks(prefix+"/removed")) {
		t.Errorf("%s: other weights go", prefix)
	}
	r, err := prune.ApplyElements(dev, l, costs.Alive, gone, prune.Joint, damping, g)
	if err != nil || len(r.Raised) > 0 {
		t.Fatal(err, r.Raised)
	}
	golden.Near(t, array, device.DownloadSlice[float64](dev, r.W), arrays.Get(array), 1e-9)
	dev.Free(r.W)
}
