package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// separate is a device with memory of its own, of limit bytes. It counts what the engine allocates, and none of what its
// operations do.
type separate struct {
	device.Device
	limit, used, peak int64
	page              device.Page
	sizes             map[any]int64
	scratch           int64 // of Gram, for each number of x
}

func openSeparate(t testing.TB, limit int64) *separate {
	d := &separate{Device: cpu.Open(), limit: limit, sizes: map[any]int64{}}
	t.Cleanup(func() { d.Device.Close() })
	return d
}

func (d *separate) Name() string { return "separate:0" }

func (d *separate) Memory() device.Memory {
	return device.Memory{Total: d.limit, Used: d.used, Peak: d.peak, Page: d.page}
}

func (d *separate) Alloc(rows, cols int, t device.Type) device.Tensor {
	x := d.Device.Alloc(rows, cols, t)
	d.sizes[x.Handle] = d.page.Tensor(rows, cols, t)
	d.used += d.sizes[x.Handle]
	d.peak = max(d.peak, d.used)
	return x
}

func (d *separate) GramScratch(_ device.Type, n int, cols []int, _ bool) int64 {
	sum := 0
	for _, c := range cols {
		sum += c
	}
	return d.scratch * int64(n) * int64(sum)
}

func (d *separate) Gram(alpha float64, xs []device.Tensor, beta float64, ss []device.Sym) {
	var cols []int
	for _, x := range xs {
		cols = append(cols, x.Cols)
	}
	bytes := d.page.Of(d.GramScratch(xs[0].Type, xs[0].Rows, cols, false))
	d.peak = max(d.peak, d.used+bytes)
	d.Device.Gram(alpha, xs, beta, ss)
}

func (d *separate) Free(ts ...device.Tensor) {
	for _, x := range ts {
		if !x.IsZero() {
			d.used -= d.sizes[x.Handle]
			delete(d.sizes, x.Handle)
		}
	}
	d.Device.Free(ts...)
}

// What would be caught: a plan of the device's memory that a run exceeds, in whichever phase it is largest, or that is far
// above it. Vectors, which the plan leaves out, are less than a fiftieth of the matrices even of these tiny models.
//
// Pages are as large beside some matrices as 2 MiB are beside the factors of SmolLM2-135M, of 4.5 MiB: a plan that leaves out
// what they hold beside them is too low by far more than that.
func TestPlannedDevicePeak(t *testing.T) {
	for _, test := range []struct {
		name, phase string
		page        device.Page
		change      func(*Options)
	}{
		{"long batches", measuring, 0, func(o *Options) { o.Batch, o.Samples = 8, 16 }},
		{"long batches in bfloat16", measuring, 0, func(o *Options) { o.Batch, o.Samples, o.Precision = 8, 16, "bfloat16" }},
		{"short windows", pruning, 0, func(o *Options) { o.Batch, o.Length = 1, 4 }},
		{"short windows, much goes at once", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Shots, o.Target, o.StepLimit = 1, 4, 1, 0.6, 1 }},
		{"only weights that stay", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Update = 1, 4, prune.None }},
		{"single weights", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Structure, o.Group = 1, 4, prune.Element, 200 }},
		{"single weights, large groups", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Structure, o.Group = 1, 4, prune.Element, 2000 }},
		{"single weights, whole matrices", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Structure, o.Tolerance = 1, 4, prune.Element, 0.01 }},
		{"2:4", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Structure, o.Group, o.Target = 1, 4, prune.Structure{N: 2, M: 4}, 500, 0.5
		}},
		{"nearest product", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Curvature, o.PowerSteps = 1, 4, curvature.Nearest, 2 }},
		{"nearest product, long batches", measuring, 0, func(o *Options) { o.Batch, o.Samples, o.Curvature, o.PowerSteps = 8, 16, curvature.Nearest, 2 }},
		{"sum of two", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Curvature, o.PowerSteps, o.Rank = 1, 4, curvature.KronSum, 4, 2
		}},
		{"single weights by a sum of two", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Structure, o.Group, o.Curvature, o.PowerSteps, o.Rank = 1, 4, prune.Element, 100, curvature.KronSum, 4, 2
		}},
		{"sum of three", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Curvature, o.PowerSteps, o.Rank, o.Cost, o.Tolerance = 1, 4, curvature.KronSum, 4, 3, prune.OBD, 0.01
		}},
		{"single weights by a sum of three", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Structure, o.Curvature, o.PowerSteps, o.Rank, o.Cost, o.Tolerance = 1, 4, prune.Element, curvature.KronSum, 4, 3, prune.OBD, 0.01
		}},
		{"joint damping", pruning, 0, func(o *Options) { o.Batch, o.Length, o.Damping = 1, 4, jointDamping }},
		{"single weights by the diagonal", pruning, 0, func(o *Options) {
			o.Batch, o.Length, o.Structure, o.Group, o.Curvature = 1, 4, prune.Element, 100, curvature.Diagonal
		}},
		{"activations, long batches", measuring, 0, func(o *Options) { o.Batch, o.Samples, o.Curvature = 16, 32, curvature.Activations }},
		{"no curvature, another text", writing, 0, func(o *Options) {
			o.Batch, o.Length, o.Curvature, o.Update, o.Eval = 32, 64, curvature.Identity, prune.None, o.Text
		}},
		{"long batches, pages", measuring, 3 << 10, func(o *Options) { o.Batch, o.Samples = 8, 16 }},
		{"long batches in bfloat16, pages", measuring, 3 << 10, func(o *Options) { o.Batch, o.Samples, o.Precision = 8, 16, "bfloat16" }},
		{"short windows, pages", pruning, 24 << 10, func(o *Options) { o.Batch, o.Length = 1, 4 }},
		{"single weights, pages", pruning, 24 << 10, func(o *Options) { o.Batch, o.Length, o.Structure, o.Group = 1, 4, prune.Element, 200 }},
		{"nearest product, pages", measuring, 3 << 10, func(o *Options) { o.Batch, o.Samples, o.Curvature, o.PowerSteps = 8, 16, curvature.Nearest, 2 }},
		{"sum of two, pages", pruning, 3 << 10, func(o *Options) {
			o.Batch, o.Length, o.Curvature, o.PowerSteps, o.Rank = 1, 4, curvature.KronSum, 4, 2
		}},
		{"no curvature, another text, pages", writing, 3 << 10, func(o *Options) {
			o.Batch, o.Length, o.Curvature, o.Update, o.Eval = 32, 64, curvature.Identity, prune.None, o.Text
		}},
	} {
		for _, model := range []string{"tiny-llama", "tiny-opt"} {
			t.Run(test.name+" "+model, func(t *testing.T) {
				if testing.Short() && model == "tiny-llama" {
					t.Skip("-short: one model is enough")
				}
				dir, text := tiny(t, model)
				o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
				test.change(&o)
				d := openSeparate(t, 1<<40)
				d.page, d.scratch = test.page, 2
				r, err := Prune(context.Background(), d, o, &silent{})
				if err != nil {
					t.Fatal(err)
				}
				planned := r.PlannedDeviceBytes
				_, phase := peak(runParts(configOf(t, dir), r.Options.(Options)))
				least := 0.98
				if phase == pruning { // how much goes from a layer is not known before
					least = 0.9
					if test.page > 0 {
						least = 0.85 // whole pages of it
					}
				}
				if o.Structure != prune.RowCol || o.Curvature == curvature.KronSum || o.Damping == jointDamping { // how large systems get is not known before
					least = 0.1
				}
				if ratio := float64(d.peak) / float64(planned); phase != test.phase || ratio > 1.02 || ratio < least {
					t.Errorf("planned %d bytes, during %s; taken %d, %.2f times as many", planned, phase, d.peak, ratio)
				}
				if r.PeakDeviceBytes != d.peak || d.used != 0 {
					t.Errorf("the report says %d bytes, the device %d, and %d are still held", r.PeakDeviceBytes, d.peak, d.used)
				}
			})
		}
	}
}

func configOf(t testing.TB, dir string) checkpoint.Config {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Config
}

// What would be caught: a batch that does not fit, that leaves room for another window, or that is not told.
func TestBatchFits(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Samples, o.Precision = 40, "bfloat16"
	need := func(batch int) int64 {
		with := o
		with.Batch = batch
		bytes, _ := peak(runParts(configOf(t, dir), with))
		return bytes
	}
	for _, test := range []struct {
		limit int64
		want  int
	}{
		{need(1), 1}, // less than the headroom is left, but it fits
		{need(7)*headroom/(headroom-1) - headroom, 6},
		{need(7)*headroom/(headroom-1) + headroom, 7},
		{1 << 40, 40}, // all of them
		{0, 40},       // a device that does not say
	} {
		with := o
		with.Batch, with.Output = 0, filepath.Join(t.TempDir(), "out")
		d := openSeparate(t, test.limit)
		r, err := Prune(context.Background(), d, with, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Options.(Options).Batch; got != test.want || r.Data.Batch != got {
			t.Errorf("with %d bytes batches of %d, the report says %d; want %d", test.limit, got, r.Data.Batch, test.want)
		}
		written, err := report.Read(filepath.Join(with.Output, reportName))
		if err != nil {
			t.Fatal(err)
		}
		if b := written.Options.(map[string]any)["batch"]; b != float64(test.want) {
			t.Errorf("report.json has the batch %v", b)
		}
	}
	windows := chooseBatch(device.Memory{Total: math.MaxInt64}, 2048, 1000, func(int) int64 { return 0 })
	if tokens := windows * 2048; tokens != batchTokens {
		t.Errorf("a batch of %d tokens, want %d", tokens, batchTokens)
	}
	if n := chooseBatch(device.Memory{Total: math.MaxInt64}, batchTokens+1, 1000, func(int) int64 { return 0 }); n != 1 {
		t.Errorf("%d windows that are each more than a batch should be", n)
	}
	if n := chooseBatch(device.Memory{Total: math.MaxInt64, Host: true}, 16, 1000, func(int) int64 { return 0 }); n != 1 {
		t.Errorf("%d windows in main memory", n)
	}
}

// What would be caught: a run or an evaluation that the device has no room for, and that begins; a refusal that writes, or
// does not say what is needed, what there is, and what helps; help that does not help in that phase.
func TestNoRoom(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	const gpu = "a higher --gpu-memory where that is the limit"
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   []string
		not    []string
	}{
		{"automatic", func(o *Options) { o.Batch = 0 }, []string{"during curvature", "weights 0.1 MiB", "factors 0.1 MiB", "activations ", "a shorter --length (it is 32)", "--precision bfloat16", gpu}, []string{"--batch"}},
		{"asked for", func(o *Options) { o.Batch = 4 }, []string{"during curvature", "a smaller --batch (it is 4)", gpu}, nil},
		{"bfloat16", func(o *Options) { o.Batch, o.Length, o.Precision = 0, 64, "bfloat16" }, []string{"--length", gpu}, []string{"--precision"}},
		{"one layer", func(o *Options) { o.Batch, o.Length = 0, 4 }, []string{"during costs and update", "one layer in float64", "--precision", gpu}, []string{"--length", "--batch"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			o := tinyOptions(dir, text, filepath.Join(parent, "out"))
			test.change(&o)
			with := o
			with.Batch = max(1, o.Batch)
			need, _ := peak(runParts(configOf(t, dir), with))
			d := openSeparate(t, need-1)
			for name, work := range map[string]func() error{
				"prune": func() error { _, err := Prune(context.Background(), d, o, &silent{}); return err },
				"plan":  func() error { _, err := Plan(context.Background(), d, o, &silent{}); return err },
			} {
				err := work()
				var request *RequestError
				if !errors.As(err, &request) {
					t.Fatalf("%s: error %v, want a RequestError", name, err)
				}
				for _, s := range append(test.want, "separate:0 has room for "+binary(need-1), binary(need)+" are needed") {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%s: %v does not say %q", name, err, s)
					}
				}
				for _, s := range test.not {
					if strings.Contains(err.Error(), s) {
						t.Errorf("%s: %v says %q", name, err, s)
					}
				}
			}
			if left, _ := os.ReadDir(parent); len(left) > 0 {
				t.Errorf("%s was left behind", left[0].Name())
			}
			if d.peak != 0 {
				t.Errorf("%d bytes were on the device", d.peak)
			}
		})
	}
	e := EvalOptions{Model: dir, Text: []string{text}, Length: 32, Precision: "float32"}
	passes := Options{Length: 32, HeldOut: 1, Batch: 1, Precision: e.Precision}
	least, _ := peak(evalParts(configOf(t, dir), passes))
	if _, err := Evaluate(context.Background(), openSeparate(t, least), e, &silent{}); err != nil {
		t.Error(err)
	}
	var request *RequestError
	if _, err := Evaluate(context.Background(), openSeparate(t, least-1), e, &silent{}); !errors.As(err, &request) || !strings.Contains(err.Error(), "needed: weights 0.1 MiB, activations") {
		t.Errorf("got %v", err)
	}
	// Tasks: as many choices at a time as there is room for, and never fewer than one.
	o := zeroShotOptions(zeroShotModel(t, "tiny-llama", "bos"), "float32", 0)
	passes = Options{Length: 64, HeldOut: 130, Batch: 1, Precision: o.Precision}
	least, _ = peak(evalParts(configOf(t, o.Model), passes))
	want, err := Evaluate(context.Background(), openSeparate(t, 100*least), o, &silent{})
	if err != nil {
		t.Error(err)
	}
	for _, room := range []int64{least, 3 * least} {
		if got, err := Evaluate(context.Background(), openSeparate(t, room), o, &silent{}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("with room for %d bytes: %+v, %v, want %+v", room, got, err, want)
		}
	}
	if _, err := Evaluate(context.Background(), openSeparate(t, least-1), o, &silent{}); !errors.As(err, &request) || strings.Contains(err.Error(), "--length") {
		t.Errorf("got %v", err)
	}
}

// What would be caught: a part in the wrong memory, or left out of a peak.
func TestPlanOfBothMemories(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	plan := func(d device.Device, precision string) (*PlanReport, map[string]PlanPart) {
		o.Precision = precision
		p, err := Plan(context.Background(), d, o, &silent{})
		if err != nil {
			t.Fatal(err)
		}
		parts := map[string]PlanPart{}
		for _, x := range p.Memory {
			parts[x.Name] = x
		}
		return p, parts
	}
	one := cpu.Open()
	defer one.Close()
	together, _ := plan(one, "float32")
	apart, parts := plan(openSeparate(t, 1<<40), "float32")
	half, masters := plan(openSeparate(t, 1<<40), "bfloat16")

	_, prunable := counts(configOf(t, dir))
	const name = "masters of the pruned weights, float32"
	if m := masters[name]; m.Place != OnHost || m.Bytes != 4*prunable || parts[name].Bytes != 0 {
		t.Errorf("masters are %+v, and %+v in float32; there are %d weights", m, parts[name], prunable)
	}
	if masters["weights"].Bytes*2 != parts["weights"].Bytes || masters["weights"].Place != OnDevice {
		t.Errorf("weights: %+v in bfloat16, %+v in float32", masters["weights"], parts["weights"])
	}
	if apart.PeakDeviceBytes != together.PeakDeviceBytes || half.PeakDeviceBytes >= apart.PeakDeviceBytes {
		t.Errorf("the tensors take %d bytes apart, %d together, %d in bfloat16", apart.PeakDeviceBytes, together.PeakDeviceBytes, half.PeakDeviceBytes)
	}
	for p, tensors := range map[*PlanReport]int64{together: together.PeakDeviceBytes, apart: 0, half: 0} {
		least := tensors // peaks of tensors and of the rest are in different phases, so this is not the sum
		for _, x := range p.Memory {
			if x.Place == OnHost && x.Phase == "" {
				least += x.Bytes
			}
		}
		one := p.Memory[slices.IndexFunc(p.Memory, func(x PlanPart) bool { return x.Phase == writing && x.Place == OnHost })].Bytes
		if p.PeakHostBytes < least || p.PeakHostBytes > least+one {
			t.Errorf("%s: main memory takes %d bytes, want between %d and %d more", p.Device, p.PeakHostBytes, least, one)
		}
	}
}

// What would be caught: a run that takes more than there is, and says nothing before the system ends it; a warning where there is
// enough, or where nobody knows.
func TestCrowded(t *testing.T) {
	dir, text := tiny(t, "tiny-opt")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	d := cpu.Open()
	defer d.Close()
	var w silent
	r, err := prepare(context.Background(), d, o, &w, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var p PlanReport
	p.planMemory(r.inputs, r.options, d.Memory())
	for machine, want := range map[int64]bool{0: false, p.PeakHostBytes - r.inputs.model.Bytes(): false, p.PeakHostBytes - r.inputs.model.Bytes() - 1: true} {
		if got := r.crowded(machine); (got != "") != want || want && !strings.Contains(got, "of main memory") {
			t.Errorf("%d bytes for %d: %q", machine, p.PeakHostBytes, got)
		}
	}

	machine := report.ThisMachine("").MemoryBytes
	if machine == 0 {
		return // it does not tell
	}
	o.Curvature, o.PowerSteps, o.Rank, o.Cost = curvature.KronSum, 4, int(machine>>16), prune.OBD // a product of all layers takes more than 64 KiB
	stopped, stop := context.WithCancel(context.Background())
	defer stop()
	w.onStage = func(name string) {
		if name == "load" {
			stop()
		}
	}
	if _, err := Prune(stopped, d, o, &w); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !slices.ContainsFunc(w.warnings, func(s string) bool { return strings.Contains(s, "of main memory, and the machine has") }) {
		t.Errorf("a rank of %d begins with the warnings %q", o.Rank, w.warnings)
	}
}

// What would be caught: an evaluation that takes more main memory than there is and says nothing, or a warning without need.
func TestEvalCrowded(t *testing.T) {
	const longest = 1 << 28 // positions, the most that a model may have; windows of so many tokens take 345 GiB
	if machine := report.ThisMachine("").MemoryBytes; machine == 0 || machine > 256<<30 {
		t.Skip("this machine has too much memory, or does not tell how much")
	}
	dir, text := tiny(t, "tiny-llama")
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	edited := regexp.MustCompile(`"max_position_embeddings": *\d+`).ReplaceAll(config, fmt.Appendf(nil, `"max_position_embeddings": %d`, longest))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), edited, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{32, longest} { // the text is not as long as that, which is found after the warning
		var w silent
		d := cpu.Open()
		_, err := Evaluate(context.Background(), d, EvalOptions{Model: dir, Text: []string{text}, Length: length, Windows: 1, Precision: "float32"}, &w)
		d.Close()
		crowded := slices.ContainsFunc(w.warnings, func(s string) bool { return strings.Contains(s, "of main memory, and the machine has") })
		if crowded != (length > 32) || (err == nil) != (length == 32) {
			t.Errorf("windows of %d tokens begin with the warnings %q, and end with %v", length, w.warnings, err)
		}
	}
}
