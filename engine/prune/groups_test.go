package prune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// What would be caught: a layer that is all zeros, or of which a row stays, that stops a run, or gets weights again.
func TestElementsOfDeadLayers(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	identity := func(n int) device.Sym {
		s := device.AllocSym(dev, n, device.F64)
		dev.Zero(s.Packed)
		full := make([]float64, device.PackedLen(n))
		for i := range n {
			full[device.PackedLen(i)+i] = 1
		}
		device.UploadSlice(dev, full, s.Packed)
		return s
	}
	for _, values := range [][]float64{make([]float64, 12), {0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0}} {
		l := Layer{Name: "layer", W: device.NewFrom(dev, values, 3, 4, device.F64), Term: Term{A: identity(4), G: identity(3)}}
		alive, err := aliveOne(dev, l)
		if err != nil {
			t.Fatal(err)
		}
		costs, _, err := costElementsOne(dev, l, alive, OBS, Damping{G: 0.1, A: 0.01})
		if err != nil {
			t.Fatal(err)
		}
		w := Weights{Structure: Element, Layers: []WeightsOf{{Name: "layer", Rows: 3, Cols: 4}},
			Costs: func(int) (device.Tensor, error) { return costs.Of(dev, l.W), nil }}
		s, err := SelectWeights(dev, w, InModel, 0.5)
		if err != nil {
			t.Fatal(err)
		}
		gone, err := s.Gone(dev, 0)
		if err != nil || count(gone) != 6 {
			t.Fatalf("%d of 12 weights go, %v", count(gone), err)
		}
		for _, sequential := range []bool{false, true} {
			r, err := ApplyElements(dev, l, alive, gone, Joint, Damping{G: 0.1, A: 0.01}, Grouping{Limit: 5, Sequential: sequential})
			if err != nil || r.Predicted != 0 {
				t.Fatalf("predicted %v, %v", r.Predicted, err)
			}
			zeros := 0
			for i, v := range device.DownloadSlice[float64](dev, r.W) {
				if v != values[i] {
					t.Errorf("weight %d was %v and is %v, though only zeros go", i, values[i], v)
				}
				if v == 0 {
					zeros++
				}
			}
			if r.Removed != zeros {
				t.Errorf("%d removed, %d are zero", r.Removed, zeros)
			}
		}
	}
}

// What would be caught: a limit that is passed, a row that is left out or cut in two, one too long that takes others along.
func TestGroups(t *testing.T) {
	cut := func(limit int, rows ...int) []group {
		r := removal{start: []int{0}}
		for _, n := range rows {
			r.start = append(r.start, r.start[len(r.start)-1]+n)
		}
		return r.groups(limit)
	}
	for _, test := range []struct {
		got, want []group
	}{
		{cut(5, 0, 2, 3, 1, 0, 4, 9, 1), []group{{1, 3}, {3, 6}, {6, 7}, {7, 8}}},
		{cut(1, 1, 1, 0), []group{{0, 1}, {1, 2}}},
		{cut(0, 0, 2, 3, 0, 4), []group{{1, 5}}},
		{cut(0, 0, 0), nil},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("got %v, want %v", test.got, test.want)
		}
	}
}

// What would be caught: a tolerance that costs more than it is said to, or that changes nothing; groups that are as good as all
// rows together, which would mean that rows do not know of one another.
func TestTolerance(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	for _, test := range []struct {
		name   string
		scales []float64
		joint  bool
	}{{"one product, factors damped", []float64{1}, false}, {"one product, joint damping", []float64{1}, true}, {"two products", []float64{1, 0.3}, false},
		{"three products", []float64{1, 0.3, 0.1}, false}} {
		rng := rand.New(rand.NewPCG(61, 0))
		p := layerWithSpectrum(dev, rng, 40, 48, test.scales...)
		gone := make([]bool, 40*48)
		for i := range gone {
			gone[i] = rng.IntN(2) == 0
		}
		apply := func(g Grouping) Result {
			t.Helper()
			r, err := ApplyElements(dev, p.layer, p.alive, gone, Joint, Damping{G: 0.1, A: 0.01, Joint: test.joint}, g)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		exact, near := apply(Grouping{}), apply(Grouping{Tolerance: 0.01})
		t.Logf("%s: predicted %.6g exactly in %d steps, %.6g within a hundredth in %d", test.name, exact.Predicted, exact.Iterations, near.Predicted, near.Iterations)
		if near.Iterations >= exact.Iterations || near.Predicted == exact.Predicted || near.Predicted > 1.03*exact.Predicted || near.Predicted < 0.99*exact.Predicted {
			t.Errorf("%s: a tolerance of 0.01 gives %v in %d steps, 0 gives %v in %d", test.name, near.Predicted, near.Iterations, exact.Predicted, exact.Iterations)
		}
		if len(test.scales) > 1 || test.joint {
			kept := Kept{Rows: ones(40), Cols: ones(48)}
			for i := range 10 {
				kept.Rows[4*i], kept.Cols[4*i+1] = false, false
			}
			var predicted [2]float64
			var steps [2]int
			for i, tolerance := range []float64{0, 0.01} {
				r, err := applyOne(dev, p.layer, p.alive, kept, Joint, Damping{G: 0.1, A: 0.01, Joint: test.joint}, tolerance)
				if err != nil {
					t.Fatal(err)
				}
				predicted[i], steps[i] = r.Predicted, r.Iterations
			}
			t.Logf("%s, rows and columns: predicted %.6g exactly in %d steps, %.6g within a hundredth in %d", test.name, predicted[0], steps[0], predicted[1], steps[1])
			if len(test.scales) < 3 && predicted[0] != predicted[1] || len(test.scales) == 3 && (steps[1] > steps[0]/2 || !(math.Abs(predicted[1]/predicted[0]-1) < 0.03)) {
				t.Errorf("%s, rows and columns: a tolerance of 0.01 gives %v in %d steps, 0 gives %v in %d", test.name, predicted[1], steps[1], predicted[0], steps[0])
			}
			continue
		}
		groups := apply(Grouping{Limit: 100})
		t.Logf("%s: predicted %.6g in groups", test.name, groups.Predicted)
		if groups.Predicted < 1.1*exact.Predicted {
			t.Errorf("groups give %v, all rows together %v", groups.Predicted, exact.Predicted)
		}
	}
}

// What would be caught: products in float32 that overflow, or lose what is small, where the loss has another scale.
func TestScaleOfTheLoss(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	for _, test := range []struct {
		products int
		joint    bool
	}{{1, false}, {1, true}, {2, false}, {3, false}} {
		var want [2][]float64
		for _, scale := range []float64{1, 0x1p-140, 0x1p140} { // of G, whose inverse has a float32 of 2^±140 times as much
			p := layerWithSpectrum(dev, rand.New(rand.NewPCG(62, 0)), 12, 16, []float64{scale, scale / 4, scale / 8}[:test.products]...)
			gone, kept := make([]bool, 12*16), Kept{Rows: ones(12), Cols: ones(16)}
			for i := range gone {
				gone[i] = i%3 == 0
			}
			kept.Rows[5], kept.Cols[7] = false, false
			damp := Damping{G: 0.1, A: 0.01, Joint: test.joint}
			single, err := ApplyElements(dev, p.layer, p.alive, gone, Joint, damp, Grouping{Tolerance: 0.01})
			if err != nil || len(single.Raised) > 0 {
				t.Fatal(err, single.Raised)
			}
			rows, err := applyOne(dev, p.layer, p.alive, kept, Joint, damp, 0.01)
			if err != nil || len(rows.Raised) > 0 {
				t.Fatal(err, rows.Raised)
			}
			for i, r := range []Result{single, rows} {
				got := device.DownloadSlice[float64](dev, r.W)
				if want[i] == nil {
					want[i] = got
				}
				golden.Near(t, fmt.Sprintf("update %d of %+v", i, test), got, want[i], 1e-12)
			}
		}
	}
}
