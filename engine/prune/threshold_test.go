package prune

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"surgeon/engine/internal/golden"
)

// goldenDoc is what these tests read of a model's golden.json.
type goldenDoc struct {
	Layers     []string `json:"layers"`
	Structured []struct {
		Target, Tau, Removed float64
		Layers               map[string]struct{ Rows, Cols []int }
	}
	Limited struct {
		Target, Share float64
		Weights       int
		Removed       map[string]struct{ Rows, Cols []int }
	}
}

// goldenCosts are the dense model's costs as golden has them.
func goldenCosts(t *testing.T, model string) (goldenDoc, []LayerCosts) {
	var doc goldenDoc
	arrays := golden.Open(t, model, "golden", &doc)
	var costs []LayerCosts
	for _, n := range doc.Layers {
		r, c := arrays.Get("dense/"+n+"/row_cost"), arrays.Get("dense/"+n+"/col_cost")
		costs = append(costs, LayerCosts{Name: n, Rows: r, Cols: c, Alive: Kept{Rows: ones(len(r)), Cols: ones(len(c))}})
	}
	return doc, costs
}

func indices(marks []bool, want bool) []int {
	x := []int{}
	for i, m := range marks {
		if m == want {
			x = append(x, i)
		}
	}
	return x
}

// What would be caught: a threshold that is not the largest, an overlap counted twice, a tie split.
func TestSelectPaperRule(t *testing.T) {
	for _, model := range []string{"tiny-llama", "tiny-opt"} {
		doc, costs := goldenCosts(t, model)
		want := doc.Structured[0]
		got, err := Select(costs, Budget{Target: want.Target, StepLimit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got.Threshold-want.Tau) > 1e-12*want.Tau {
			t.Errorf("%s: threshold %v, want %v", model, got.Threshold, want.Tau)
		}
		if share := float64(got.Removed) / float64(got.Total); math.Abs(share-want.Removed) > 1e-12 {
			t.Errorf("%s: removed %v, want %v", model, share, want.Removed)
		}
		for i, n := range doc.Layers {
			if r := indices(got.Kept[i].Rows, true); !slices.Equal(r, want.Layers[n].Rows) {
				t.Errorf("%s %s: kept rows %v, want %v", model, n, r, want.Layers[n].Rows)
			}
			if c := indices(got.Kept[i].Cols, true); !slices.Equal(c, want.Layers[n].Cols) {
				t.Errorf("%s %s: kept columns %v, want %v", model, n, c, want.Layers[n].Cols)
			}
		}
	}
}

// What would be caught: a step limit that is off by one, or that ends the sweep instead of passing over.
func TestSelectStepLimit(t *testing.T) {
	for _, model := range []string{"tiny-llama", "tiny-opt"} {
		doc, costs := goldenCosts(t, model)
		want := doc.Limited
		got, err := Select(costs, Budget{Target: want.Target, StepLimit: want.Share})
		if err != nil {
			t.Fatal(err)
		}
		if got.Removed != want.Weights {
			t.Errorf("%s: %d weights gone, want %d", model, got.Removed, want.Weights)
		}
		for i, n := range doc.Layers {
			if r := indices(got.Kept[i].Rows, false); !slices.Equal(r, want.Removed[n].Rows) {
				t.Errorf("%s %s: removed rows %v, want %v", model, n, r, want.Removed[n].Rows)
			}
			if c := indices(got.Kept[i].Cols, false); !slices.Equal(c, want.Removed[n].Cols) {
				t.Errorf("%s %s: removed columns %v, want %v", model, n, c, want.Removed[n].Cols)
			}
		}
	}
}

// randomCosts are a few layers with many ties and some dead structures.
func randomCosts(r *rand.Rand, layers int) []LayerCosts {
	costs := make([]LayerCosts, layers)
	for i := range costs {
		side := func() ([]float64, []bool) {
			n := 1 + r.IntN(9)
			c, alive := make([]float64, n), ones(n)
			for j := range c {
				c[j] = float64(r.IntN(12)) / 4
				if r.IntN(6) == 0 {
					c[j], alive[j] = 0, false
				}
			}
			return c, alive
		}
		l := &costs[i]
		l.Rows, l.Alive.Rows = side()
		l.Cols, l.Alive.Cols = side()
	}
	return costs
}

// What would be caught: any difference between the sweep and the definition – the largest τ whose removal fits – found
// by trying every value.
func TestSelectAgainstDefinition(t *testing.T) {
	const seed = 5
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	gone := func(costs []LayerCosts, tau float64) int {
		n := 0
		for _, l := range costs {
			r, c := 0, 0
			for j, v := range l.Rows {
				if l.Alive.Rows[j] && v > tau {
					r++
				}
			}
			for j, v := range l.Cols {
				if l.Alive.Cols[j] && v > tau {
					c++
				}
			}
			n += len(l.Rows)*len(l.Cols) - r*c
		}
		return n
	}
	for range 500 {
		costs := randomCosts(r, 1+r.IntN(4))
		target := 0.05 + 0.9*r.Float64()
		got, err := Select(costs, Budget{Target: target, StepLimit: 1})
		if err != nil {
			t.Fatal(err)
		}
		best := -1.0
		for _, l := range costs {
			for side, values := range [2][]float64{l.Rows, l.Cols} {
				for j, v := range values {
					alive := [2][]bool{l.Alive.Rows, l.Alive.Cols}[side][j]
					if alive && v > best && gone(costs, v) <= int(target*float64(got.Total)) {
						best = v
					}
				}
			}
		}
		if got.Threshold != best || got.Removed != gone(costs, best) {
			t.Fatalf("threshold %v removing %d, want %v removing %d\ncosts %+v target %v", got.Threshold, got.Removed, best, gone(costs, best), costs, target)
		}
		weights := 0
		for i, k := range got.Kept {
			weights += len(costs[i].Rows)*len(costs[i].Cols) - k.Weights()
		}
		if weights != got.Removed {
			t.Fatalf("kept marks say %d weights are gone, the counter %d", weights, got.Removed)
		}
	}
}

// What would be caught: a limit not respected when structures are dead already, a target exceeded.
func TestSelectLimitProperties(t *testing.T) {
	const seed = 6
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		costs := randomCosts(r, 1+r.IntN(4))
		b := Budget{Target: 0.05 + 0.9*r.Float64(), StepLimit: 0.05 + 0.9*r.Float64(), Ranking: Ranking(r.IntN(2))}
		got, err := Select(costs, b)
		if err != nil {
			t.Fatal(err)
		}
		dead := 0
		for i, k := range got.Kept {
			ra, ca := costs[i].Alive.Count()
			rk, ck := k.Count()
			if ra-rk > int(b.StepLimit*float64(ra)) || ca-ck > int(b.StepLimit*float64(ca)) {
				t.Fatalf("layer %d: from %d×%d to %d×%d with limit %v", i, ra, ca, rk, ck, b.StepLimit)
			}
			dead += len(costs[i].Rows)*len(costs[i].Cols) - ra*ca
		}
		if got.Removed > max(dead, int(b.Target*float64(got.Total))) {
			t.Fatalf("%d of %d weights gone with target %v", got.Removed, got.Total, b.Target)
		}
	}
}

// What would be caught: a NaN cost that sorts somewhere, wrong targets that do something.
func TestSelectRefuses(t *testing.T) {
	costs := []LayerCosts{{Name: "layer", Rows: []float64{1, math.NaN()}, Cols: []float64{1}, Alive: Kept{Rows: ones(2), Cols: ones(1)}}}
	if _, err := Select(costs, Budget{Target: 0.5, StepLimit: 1}); err == nil || err.Error() != "layer: the cost of row 1 is NaN" {
		t.Errorf("NaN: %v", err)
	}
	for _, b := range []Budget{{Target: 0, StepLimit: 1}, {Target: 1, StepLimit: 1}, {Target: math.NaN(), StepLimit: 1}, {Target: 0.5}, {Target: 0.5, StepLimit: 1.5}} {
		if _, err := Select(costs[:0], b); err == nil {
			t.Errorf("%+v is accepted", b)
		}
	}
}

// What would be caught: an unstable sort, negative numbers in the wrong order.
func TestRadixSort(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, 0))
	values := make([]float64, 5000)
	for i := range values {
		values[i] = math.Round(r.NormFloat64()*20) * math.Pow(10, float64(r.IntN(9)-4))
	}
	values[3], values[9], values[17] = math.Copysign(0, -1), math.Inf(1), math.Inf(-1)
	keys, places := make([]uint64, len(values)), make([]uint32, len(values))
	want := make([]uint32, len(values))
	for i, v := range values {
		keys[i], places[i], want[i] = sortable(v), uint32(i), uint32(i)
	}
	slices.SortStableFunc(want, func(a, b uint32) int {
		switch x, y := values[a], values[b]; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	keys, places = radixSort(keys, places)
	if v := unsortable(keys[0]); !math.IsInf(v, -1) {
		t.Errorf("smallest value %v", v)
	}
	if !slices.Equal(places, want) {
		t.Error("order differs from a stable comparison sort")
	}
}

// BenchmarkSelect10M is the threshold over 10 million costs: 300 layers of 16,384 rows and 16,950 columns.
func BenchmarkSelect10M(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 0))
	costs := make([]LayerCosts, 300)
	n := 0
	for i := range costs {
		l := &costs[i]
		l.Rows, l.Cols = make([]float64, 16384), make([]float64, 16950)
		for j := range l.Rows {
			l.Rows[j] = math.Exp(3 * r.NormFloat64())
		}
		for j := range l.Cols {
			l.Cols[j] = math.Exp(3 * r.NormFloat64())
		}
		l.Alive = Kept{Rows: ones(len(l.Rows)), Cols: ones(len(l.Cols))}
		n += len(l.Rows) + len(l.Cols)
	}
	for b.Loop() {
		start := time.Now()
		s, err := Select(costs, Budget{Target: 0.3, StepLimit: 0.2})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/1e6/time.Since(start).Seconds(), "Mcosts/s")
		b.ReportMetric(s.Threshold, "threshold")
	}
}
