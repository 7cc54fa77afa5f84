package prune

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// costsOf are layers of random costs with many equal ones, zeros among them.
func costsOf(rng *rand.Rand, shapes [][2]int) [][]float64 {
	var all [][]float64
	for _, s := range shapes {
		x := make([]float64, s[0]*s[1])
		for i := range x {
			switch rng.IntN(4) {
			case 0: // 0
			case 1:
				x[i] = float64(rng.IntN(3))
			default:
				x[i] = math.Exp(8 * rng.NormFloat64())
			}
		}
		all = append(all, x)
	}
	return all
}

func weightsOf(dev device.Device, s Structure, shapes [][2]int, costs [][]float64) Weights {
	w := Weights{Structure: s, Costs: func(i int) (device.Tensor, error) {
		return device.NewFrom(dev, costs[i], shapes[i][0], shapes[i][1], device.F64), nil
	}}
	for i, x := range shapes {
		w.Layers = append(w.Layers, WeightsOf{Name: "layer " + string(rune('a'+i)), Rows: x[0], Cols: x[1], Bias: x[1]%2 == 1})
	}
	return w
}

// cheapestOf marks the n cheapest of values, equal ones in their order, by sorting all of them.
func cheapestOf(values []float64, n int) []bool {
	order := make([]int, len(values))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	marks := make([]bool, len(values))
	for _, i := range order[:n] {
		marks[i] = true
	}
	return marks
}

// What would be caught: a count that is off by one, equal costs taken from the wrong places, a threshold that is not the
// largest cost taken, digits that are put together wrongly; blocks over the bias, or by another order than that of their sums.
// The reference sorts everything.
func TestSelectWeightsAgainstSorting(t *testing.T) {
	const seed = 31
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	shapes := [][2]int{{7, 12}, {1, 8}, {40, 33}, {5, 4}, {16, 21}}
	for trial := range 60 {
		costs := costsOf(rng, shapes)
		target := rng.Float64()
		if trial < 4 {
			target = []float64{1e-9, 0.25, 0.5, 0.999}[trial]
		}
		gone := func(s WeightSelection, layer int) []bool {
			marks, err := s.Gone(dev, layer)
			if err != nil {
				t.Fatal(err)
			}
			return marks
		}
		choose := func(structure Structure, scope Scope, target float64) WeightSelection {
			s, err := SelectWeights(dev, weightsOf(dev, structure, shapes, costs), scope, target)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		same := func(what string, layer int, got, want []bool) {
			if !slices.Equal(got, want) {
				t.Fatalf("trial %d, target %v, %s, layer %d: other weights go", trial, target, what, layer)
			}
		}

		s := choose(Element, InModel, target)
		all := slices.Concat(costs...)
		want := cheapestOf(all, int(target*float64(len(all))))
		largest, at := -1., 0
		for i, v := range all {
			if want[i] {
				largest = max(largest, v)
			}
		}
		if (s.Threshold == nil) != (largest < 0) || s.Threshold != nil && *s.Threshold != largest || s.Total != len(all) {
			t.Fatalf("trial %d: threshold %v among %d; want %v among %d", trial, s.Threshold, s.Total, largest, len(all))
		}
		for i, c := range costs {
			same("model", i, gone(s, i), want[at:at+len(c)])
			at += len(c)
		}

		s = choose(Element, InLayer, target)
		byRow := choose(Element, InRow, target)
		for i, c := range costs {
			same("layer", i, gone(s, i), cheapestOf(c, int(target*float64(len(c)))))
			var rows []bool
			for from := 0; from < len(c); from += shapes[i][1] {
				rows = append(rows, cheapestOf(c[from:from+shapes[i][1]], int(target*float64(shapes[i][1])))...)
			}
			same("row", i, gone(byRow, i), rows)
		}

		// Without biases: the last column of layers with an odd number.
		keep := weightsOf(dev, Element, shapes, costs)
		keep.KeepBiases = true
		without := func(i int) (inner []float64) { // of layer i
			for row := range shapes[i][0] {
				inner = append(inner, costs[i][row*shapes[i][1]:][:shapes[i][1]/2*2]...)
			}
			return inner
		}
		widened := func(i int, inner []bool) []bool {
			n, all := shapes[i][1]/2*2, make([]bool, len(costs[i]))
			for row := range shapes[i][0] {
				copy(all[row*shapes[i][1]:], inner[row*n:(row+1)*n])
			}
			return all
		}
		for _, scope := range []Scope{InModel, InLayer, InRow} {
			s, err := SelectWeights(dev, keep, scope, target)
			if err != nil {
				t.Fatal(err)
			}
			var whole []float64
			for i := range costs {
				whole = append(whole, without(i)...)
			}
			taken := cheapestOf(whole, int(target*float64(len(whole))))
			for i := range costs {
				c := without(i)
				want := taken[:len(c)]
				taken = taken[len(c):]
				if scope == InLayer {
					want = cheapestOf(c, int(target*float64(len(c))))
				}
				if scope == InRow {
					n := shapes[i][1] / 2 * 2
					want = nil
					for from := 0; from < len(c); from += n {
						want = append(want, cheapestOf(c[from:from+n], int(target*float64(n)))...)
					}
				}
				same("without biases, by "+scope.String(), i, gone(s, i), widened(i, want))
			}
		}

		// Blocks of 4: the last column of layers with an odd number is a bias.
		s = choose(Structure{2, 4}, InModel, target/2)
		var sums []float64
		var blocks [][]bool
		for i, c := range costs {
			for row := range shapes[i][0] {
				for from := 0; from+4 <= shapes[i][1]; from += 4 {
					block := c[row*shapes[i][1]+from:][:4]
					two := slices.Sorted(slices.Values(block))
					sums = append(sums, two[0]+two[1])
					blocks = append(blocks, cheapestOf(block, 2))
				}
			}
		}
		taken, k := cheapestOf(sums, int(target/2*2*float64(len(sums)))), 0
		for i := range costs {
			want := make([]bool, len(costs[i]))
			for row := range shapes[i][0] {
				for from := 0; from+4 <= shapes[i][1]; from += 4 {
					if taken[k] {
						copy(want[row*shapes[i][1]+from:], blocks[k])
					}
					k++
				}
			}
			same("2:4", i, gone(s, i), want)
		}
	}
}

// What would be caught: a block that stays because N/M times M/N is less than 1 in float64.
func TestTaken(t *testing.T) {
	for m := 2; m <= largestBlock; m++ {
		for n := 1; n < m; n++ {
			if s := (Structure{n, m}); s.Taken(float64(n)/float64(m), 1e9) != 1e9 {
				t.Fatalf("%v takes %d of 1e9 blocks at its highest", s, s.Taken(s.Share(), 1e9))
			}
		}
	}
	if n := Element.Taken(0.5, 7); n != 3 {
		t.Errorf("half of 7 weights is %d", n)
	}
	if n := (Structure{2, 4}).Taken(0.1, 26542080); n != 5308416 {
		t.Errorf("a tenth, 2 of every 4, is %d blocks", n)
	}
}

// What would be caught: a cost that is no cost and becomes one, or an error without the layer; targets and blocks that make
// no sense.
func TestSelectWeightsRefuses(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	shapes := [][2]int{{2, 4}, {3, 8}}
	for _, test := range []struct {
		value     float64
		structure Structure
		target    float64
		want      string
	}{
		{math.NaN(), Element, 0.5, "layer b: the cost of a weight is negative, infinite or NaN"},
		{math.Inf(1), Element, 0.5, "layer b: the cost"},
		{-1e-300, Element, 1e-9, "layer b: the cost"},
		{math.NaN(), Structure{1, 4}, 0.25, "layer b: the cost"},
		{math.Inf(1), Structure{2, 4}, 0.5, "layer b: the cost"},
		{1, Element, 1, "must lie between 0 and 1"},
		{1, Element, math.NaN(), "must lie between 0 and 1"},
		{1, Structure{1, 4}, 0.3, "1:4 takes away 0.25 at most"},
	} {
		costs := [][]float64{slices.Repeat([]float64{1}, 8), slices.Repeat([]float64{2}, 24)}
		costs[1][17] = test.value
		for _, scope := range []Scope{InModel, InLayer, InRow} {
			_, err := SelectWeights(dev, weightsOf(dev, test.structure, shapes, costs), scope, test.target)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v of %v in a %v: %v, want %q", test.structure, test.value, scope, err, test.want)
			}
		}
	}
	for _, text := range []string{"4:4", "5:4", "0:4", "2:1", "1:257", "2:x", "row", "2:4:8", ""} {
		var s Structure
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, s)
		}
	}
	for _, s := range []Structure{RowCol, Element, {2, 4}, {7, 8}} {
		var again Structure
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%v comes back as %v, %v", s, again, err)
		}
	}
}
