package prune

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// applyOne, costsOne, aliveOne and costElementsOne are those of one layer.
func applyOne(d device.Device, l Layer, alive, kept Kept, how Update, damp Damping, tolerance float64) (Result, error) {
	r, err := Apply(d, []Layer{l}, []Kept{alive}, []Kept{kept}, how, damp, tolerance)
	return first(r), err
}

func costsOne(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (LayerCosts, []Raised, error) {
	c, raised, err := Costs(d, []Layer{l}, []Kept{alive}, kind, damp)
	return first(c), raised, err
}

func costElementsOne(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (ElementCosts, []Raised, error) {
	c, raised, err := CostElements(d, []Layer{l}, []Kept{alive}, kind, damp)
	return first(c), raised, err
}

func aliveOne(d device.Device, l Layer) (Kept, error) {
	k, err := Alive(d, []Layer{l})
	return first(k), err
}

func first[T any](list []T) (x T) {
	if len(list) > 0 {
		x = list[0]
	}
	return x
}

// What would be caught: layers of one call that are mixed up, a shared A that is taken where the alive columns, and so the
// matrix, are others, a damping that is raised for the wrong layer or for both.
func TestSideBySide(t *testing.T) {
	const seed = 31
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	const cols = 9
	a := definiteSym(dev, rng, cols)
	var layers []Layer
	var alive, kept []Kept
	for i, rows := range []int{4, 7, 5, 6, 3} {
		l := Layer{Name: string(rune('a' + i)), Term: Term{A: a, G: definiteSym(dev, rng, rows)}, W: device.NewFrom(dev, random(rng, rows*cols), rows, cols, device.F64)}
		live, stay := Kept{Rows: ones(rows), Cols: ones(cols)}, Kept{Rows: ones(rows), Cols: ones(cols)}
		switch i {
		case 1: // not what the first one has of A
			live.Cols[2] = false
		case 2: // singular: its damping has to be raised
			l.G = device.AllocSym(dev, rows, device.F64)
			device.UploadSlice(dev, indefinite(rows), l.G.Packed)
		case 3: // nothing goes
		case 4:
			live.Rows = make([]bool, rows)
		}
		for j := range rows {
			stay.Rows[j] = live.Rows[j] && (i == 3 || j%3 > 0)
		}
		for j := range cols {
			stay.Cols[j] = live.Cols[j] && (i == 3 || j%4 > 0)
		}
		layers, alive, kept = append(layers, l), append(alive, live), append(kept, stay)
	}
	damp := Damping{G: 0.01, A: 0.02}
	var wantRaised, wantElementsRaised []Raised
	var wantCosts []LayerCosts
	var wantElements []ElementCosts
	var want []Result
	for i, l := range layers {
		c, raised, err := costsOne(dev, l, alive[i], OBS, damp)
		e, more, err2 := costElementsOne(dev, l, alive[i], OBS, damp)
		r, err3 := applyOne(dev, l, alive[i], kept[i], Joint, damp, 0)
		if err != nil || err2 != nil || err3 != nil {
			t.Fatal(err, err2, err3)
		}
		wantCosts, wantElements, want = append(wantCosts, c), append(wantElements, e), append(want, r)
		wantRaised, wantElementsRaised = append(wantRaised, raised...), append(wantElementsRaised, more...)
	}
	if len(wantRaised) != 1 || wantRaised[0].Layer != "c" || len(want[2].Raised) != 1 {
		t.Fatalf("raised %v and %v: the test tests nothing", wantRaised, want[2].Raised)
	}
	costs, raised, err := Costs(dev, layers, alive, OBS, damp)
	if err != nil || !slices.Equal(raised, wantRaised) {
		t.Fatalf("raised %v, %v; one by one %v", raised, err, wantRaised)
	}
	elements, raised, err := CostElements(dev, layers, alive, OBS, damp)
	if err != nil || !slices.Equal(raised, wantElementsRaised) {
		t.Fatalf("raised %v, %v; one by one %v", raised, err, wantElementsRaised)
	}
	results, err := Apply(dev, layers, alive, kept, Joint, damp, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		if !slices.Equal(costs[i].Rows, wantCosts[i].Rows) || !slices.Equal(costs[i].Cols, wantCosts[i].Cols) {
			t.Errorf("layer %s: other costs than by itself", l.Name)
		}
		if !slices.Equal(elements[i].Rows, wantElements[i].Rows) || !slices.Equal(elements[i].Cols, wantElements[i].Cols) {
			t.Errorf("layer %s: other costs of single weights than by itself", l.Name)
		}
		if !slices.Equal(device.DownloadSlice[float64](dev, results[i].W), device.DownloadSlice[float64](dev, want[i].W)) ||
			results[i].Predicted != want[i].Predicted || !slices.Equal(results[i].Raised, want[i].Raised) {
			t.Errorf("layer %s: another update than by itself", l.Name)
		}
	}
	if math.IsNaN(results[0].Predicted) || results[0].Predicted <= 0 {
		t.Errorf("predicted %v", results[0].Predicted)
	}
}

func random(rng *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	return x
}

// definiteSym is the Gram matrix of twice as many vectors as it has rows.
func definiteSym(d device.Device, rng *rand.Rand, n int) device.Sym {
	s := device.AllocSym(d, n, device.F64)
	x := device.NewFrom(d, random(rng, 2*n*n), 2*n, n, device.F64)
	d.Gram(1/float64(2*n), []device.Tensor{x}, 0, []device.Sym{s})
	d.Free(x)
	return s
}

// indefinite is a packed triangle with a 1 for every element but two of the diagonal, which makes an eigenvalue below zero.
func indefinite(n int) []float64 {
	x := slices.Repeat([]float64{1}, device.PackedLen(n))
	x[device.PackedLen(2)-1] = 0.9
	return x
}
