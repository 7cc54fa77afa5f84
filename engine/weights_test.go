package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

var weightRuns = []struct {
	name   string
	change func(*Options)
}{
	{"elements", func(o *Options) { o.Structure, o.Target, o.Group = prune.Element, 0.5, 2000 }},
	{"elements in small groups, one after the other", func(o *Options) { o.Structure, o.Group, o.Sequential = prune.Element, 50, true }},
	{"elements, the same share of every layer", func(o *Options) { o.Structure, o.Group, o.Scope = prune.Element, 100, prune.InLayer }},
	{"elements, the same share of every row", func(o *Options) { o.Structure, o.Group, o.Scope = prune.Element, 100, prune.InRow }},
	{"elements by OBD", func(o *Options) {
		o.Structure, o.Group, o.Cost, o.Update = prune.Element, 2000, prune.OBD, prune.None
	}},
	{"elements without biases", func(o *Options) { o.Structure, o.Target, o.KeepBiases, o.Tolerance = prune.Element, 0.5, true, 0.01 }},
	{"2:4", func(o *Options) { o.Structure, o.Target, o.Group = prune.Structure{N: 2, M: 4}, 0, 2000 }},
	{"6:8 of some blocks", func(o *Options) { o.Structure, o.Target, o.Group = prune.Structure{N: 6, M: 8}, 0.3, 2000 }},
}

// What would be caught: a run of single weights that misses its target, that writes other zeros than it reports, blocks
// without their zeros, a run that does not go on bit for bit after a stop.
func TestWeightRuns(t *testing.T) {
	for i, run := range weightRuns {
		for k, name := range []string{"tiny-llama", "tiny-opt"} {
			t.Run(run.name+" "+name, func(t *testing.T) {
				if testing.Short() && (i+k)%2 > 0 {
					t.Skip("-short: every other of these runs is left out")
				}
				dir, text := tiny(t, name)
				o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
				run.change(&o)
				r, err := pruneTiny(t, context.Background(), o, &silent{})
				if err != nil {
					t.Fatal(err)
				}
				o.fill()
				checkTarget(t, o, r)
				checkZeros(t, o, r)
				for _, s := range r.Shots {
					if (s.UpdateSteps != nil) != (o.Update != prune.None) || s.UpdateSteps != nil && !(s.UpdateSteps.Mean >= 1 && float64(s.UpdateSteps.Most) >= s.UpdateSteps.Mean) {
						t.Errorf("shot %d: steps %+v", s.Number, s.UpdateSteps)
					}
				}

				checkResumes(t, o, o.Shots)
			})
		}
	}
}

// checkTarget compares what is gone after every shot with the target. A layer, a row and the bias columns that no block has
// can each leave a rest.
func checkTarget(t *testing.T, o Options, r *report.Report) {
	t.Helper()
	slack := 0.
	var inBlocks, total float64
	layers := linearsOf(t, o.Model)
	for _, l := range layers {
		inBlocks += float64(l.Rows * l.Cols)
		total += float64(l.Rows * l.Inputs())
		switch o.Scope {
		case prune.InLayer:
			slack++
		case prune.InRow:
			slack += float64(l.Rows)
		}
	}
	for _, s := range r.Shots {
		want := s.Target
		if o.Structure.Blocks() || o.KeepBiases {
			want *= inBlocks / total
		}
		// Where something is dead, as a neuron of tiny-opt is, it goes with the rest of its row.
		if over := s.Reached - want; over > 130/total || over < -(slack+float64(o.Structure.M))/total {
			t.Errorf("shot %d: %v of the weights are gone, want %v", s.Number, s.Reached, want)
		}
		if (s.Threshold == nil) != (o.Scope != prune.InModel) || s.Threshold != nil && *s.Threshold < 0 {
			t.Errorf("shot %d: threshold %v with scope %v", s.Number, s.Threshold, o.Scope)
		}
	}
}

func linearsOf(t *testing.T, dir string) []*model.Linear {
	t.Helper()
	return linears(configOf(t, dir))
}

// checkZeros counts the zeros of the written weights, and those of every block.
func checkZeros(t *testing.T, o Options, r *report.Report) {
	t.Helper()
	c, err := checkpoint.Open(o.Output)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	zero, total, blocks, sparse := 0, 0, 0, 0
	for i, l := range c.Config.Linears() {
		here := 0
		w := make([]float32, l.Rows*l.Cols)
		if err := c.Read(l.WeightName(), w); err != nil {
			t.Fatal(err)
		}
		if l.Bias {
			b := make([]float32, l.Rows)
			if err := c.Read(l.BiasName(), b); err != nil {
				t.Fatal(err)
			}
			here, total = here+zerosOf(b), total+l.Rows
			if was, dead := biasZeros(t, o.Model, l), l.Rows-len(r.Layers[i].KeptRows); o.KeepBiases && here > was+dead {
				t.Errorf("%s: %d biases are 0, %d were, and %d rows are dead", l.Name, here, was, dead)
			}
		}
		here, total = here+zerosOf(w), total+len(w)
		if r.Layers[i].Removed != here {
			t.Errorf("%s has %d zeros, the report says %d", l.Name, here, r.Layers[i].Removed)
		}
		zero += here
		if m := o.Structure.M; o.Structure.Blocks() {
			for at := 0; at < len(w); at += m {
				blocks++
				if zerosOf(w[at:at+m]) >= o.Structure.N {
					sparse++
				}
			}
		}
	}
	if s := float64(zero) / float64(total); math.Abs(s-r.Final.Sparsity) > 1e-12 {
		t.Errorf("%v of the written weights are 0, the report says %v", s, r.Final.Sparsity)
	}
	if o.Structure.Blocks() {
		if want := int(o.Target / o.Structure.Share() * float64(blocks)); sparse < want || o.Target < o.Structure.Share() && sparse > want+blocks/20 {
			t.Errorf("%d of %d blocks are %v, want %d", sparse, blocks, o.Structure, want)
		}
	}
}

// biasZeros counts the zeros of a layer's bias.
func biasZeros(t *testing.T, dir string, l checkpoint.Linear) int {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]float32, l.Rows)
	if err := c.Read(l.BiasName(), b); err != nil {
		t.Fatal(err)
	}
	return zerosOf(b)
}

func zerosOf(w []float32) int {
	n := 0
	for _, v := range w {
		if v == 0 {
			n++
		}
	}
	return n
}

// What would be caught: blocks that are shifted by inputs that are dead, or refused because of them.
func TestBlocksOverDeadInputs(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	first := tinyOptions(dir, text, filepath.Join(t.TempDir(), "first"))
	first.Target = 0.25
	if _, err := pruneTiny(t, context.Background(), first, &silent{}); err != nil {
		t.Fatal(err)
	}
	o := tinyOptions(first.Output, text, filepath.Join(t.TempDir(), "second"))
	o.Structure, o.Target, o.Group, o.Shots = prune.Structure{N: 2, M: 4}, 0, 2000, 2
	r, err := pruneTiny(t, context.Background(), o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	o.fill()
	checkZeros(t, o, r)
}

// What would be caught: a model that comes back with weights that were zero in it, where those are not the cheapest of their row,
// or are in a block that needs fewer zeros; a report that counts zeros which the type of the file makes as weights.
func TestZerosStay(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	first := tinyOptions(dir, text, filepath.Join(t.TempDir(), "first"))
	first.Structure, first.Scope, first.Target, first.Update, first.DType = prune.Element, prune.InRow, 0.7, prune.None, "F32"
	before, err := pruneTiny(t, context.Background(), first, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Options){
		func(o *Options) { o.Structure = prune.Structure{N: 2, M: 4} },
		func(o *Options) { o.Structure, o.Scope = prune.Element, prune.InRow },
		func(o *Options) { o.Structure, o.DType = prune.Element, "F16" },
	} {
		o := tinyOptions(first.Output, text, filepath.Join(t.TempDir(), "second"))
		o.Target, o.Shots = 0.5, 1
		change(&o)
		dev := cpu.Open()
		defer dev.Close()
		r, err := begin(dev, o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		if err := r.shot(context.Background(), 1); err != nil {
			t.Fatal(err)
		}
		if l := r.model.Linears()[2]; o.DType == "F16" {
			w := l.Matrix(device.F64)
			small := device.NewFrom(dev, slices.Repeat([]float64{1e-9}, 5), 1, 5, device.F64) // which float16 has no room for
			dev.Scatter(small, []int32{3}, []int32{0, 1, 2, 3, 4}, w)
			l.SetMatrix(w)
		}
		if err := r.finish(context.Background()); err != nil {
			t.Fatal(err)
		}
		checkZeros(t, o, r.report)
		for i, l := range r.report.Layers {
			if (i != 2 || o.DType != "F16") && l.Removed < before.Layers[i].Removed {
				t.Errorf("%v: %s had %d zeros and has %d", o.Structure, l.Name, before.Layers[i].Removed, l.Removed)
			}
		}
	}
}

// What would be caught: requests about single weights that make no sense and are not refused.
func TestWeightRequests(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	for _, test := range []struct {
		name, want string
		change     func(*Options)
	}{
		{"sum of steps", "--update sum", func(o *Options) { o.Structure, o.Update = prune.Element, prune.Sum }},
		{"scope of rows and columns", "--scope row", func(o *Options) { o.Scope = prune.InRow }},
		{"scope of blocks", "--scope layer", func(o *Options) { o.Structure, o.Target, o.Scope = prune.Structure{N: 2, M: 4}, 0.5, prune.InLayer }},
		{"groups of less than nothing", "--group is -1", func(o *Options) { o.Structure, o.Group = prune.Element, -1 }},
		{"no tolerance", "--tolerance is 1; it must lie between 0 and 1", func(o *Options) { o.Structure, o.Tolerance = prune.Element, 1 }},
		{"more than a block has", "removes 0.5", func(o *Options) { o.Structure, o.Target = prune.Structure{N: 2, M: 4}, 0.6 }},
		{"blocks that do not fit", "model.layers.0.self_attn.q_proj has 32 inputs, which are no whole number of blocks of 5",
			func(o *Options) { o.Structure, o.Target = prune.Structure{N: 2, M: 5}, 0 }},
	} {
		o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
		o.Group = 2000
		test.change(&o)
		_, err := pruneTiny(t, context.Background(), o, &silent{})
		var request *RequestError
		if !errors.As(err, &request) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want a RequestError with %q", test.name, err, test.want)
		}
	}
}

// What would be caught: a block that kept a weight too many and is written all the same.
func TestCheckBlocks(t *testing.T) {
	dir, text := tiny(t, "tiny-opt") // with biases, which are in no block
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Structure, o.Target, o.Shots = prune.Structure{N: 2, M: 4}, 0.5, 1
	dev := cpu.Open()
	defer dev.Close()
	r, err := begin(dev, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.shot(context.Background(), 1); err != nil {
		t.Fatal(err)
	}
	if err := r.checkBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	l := r.model.Linears()[5]
	w := r.model.Values(l.WeightName())
	at := slices.Index(w[3*l.Cols:], 0) + 3*l.Cols // in row 3, unless that has no zero
	w[at] = 1
	r.model.SetValues(l.WeightName(), w)
	err = r.checkBlocks(context.Background())
	if want := fmt.Sprintf("layer %s, row %d: %d of %d blocks have the zeros of 2:4", l.Name, at/l.Cols, l.Cols/4-1, l.Cols/4); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	r.options.Target = 0.499 // not every block has to
	blocks := 0
	for _, l := range r.model.Linears() {
		blocks += l.Rows * l.Cols / 4
	}
	for i := range w {
		w[i] = 1
	}
	r.model.SetValues(l.WeightName(), w)
	if err := r.checkBlocks(context.Background()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d blocks have the zeros of 2:4", blocks-len(w)/4, blocks)) {
		t.Errorf("a whole layer without zeros: %v", err)
	}
}
