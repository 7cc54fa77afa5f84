package compare

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/golden"
	"surgeon/engine/report"
)

// model copies a tiny model into a new directory. set changes one of its weights, which are F32.
func model(t testing.TB, name string) (dir string, set func(tensor string, at int, value float32)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(golden.Dir(name))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return dir, func(tensor string, at int, value float32) {
		binary.LittleEndian.PutUint32(f.Bytes(tensor)[4*at:], math.Float32bits(value))
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// write puts a report beside a model: everything is kept, but for what removed says by the name of a layer, 'R' or 'C' and
// its numbers.
func write(t testing.TB, dir string, removed map[string][]int, change func(*report.Report)) {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := &report.Report{Run: "run", Model: report.Model{Path: "dense", SHA256: "m"}, Options: map[string]any{"target": 0.25}}
	for _, l := range c.Config.Linears() {
		keep := func(side string, n int) []int {
			kept := []int{}
		next:
			for i := range n {
				for _, gone := range removed[l.Name+" "+side] {
					if i == gone {
						continue next
					}
				}
				kept = append(kept, i)
			}
			return kept
		}
		r.Layers = append(r.Layers, report.Layer{Name: l.Name, Rows: l.Rows, Cols: inputs(l), KeptRows: keep("R", l.Rows), KeptCols: keep("C", inputs(l))})
	}
	if change != nil {
		change(r)
	}
	if err := r.Write(filepath.Join(dir, reportName)); err != nil {
		t.Fatal(err)
	}
}

func masks(t testing.TB, dirs ...string) []Pair {
	t.Helper()
	runs, err := Open(dirs, true)
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := Masks(context.Background(), runs)
	if err != nil {
		t.Fatal(err)
	}
	return pairs
}

func find(t testing.TB, list []Overlap, role string) Overlap {
	t.Helper()
	for _, o := range list {
		if o.Role == role {
			return o
		}
	}
	t.Fatalf("no role %s in %v", role, list)
	return Overlap{}
}

func at(x float64) *float64 { return &x }

// same compares counts exactly and figures to rounding.
func same(t *testing.T, what string, got, want Overlap) {
	t.Helper()
	near := func(a, b *float64) bool {
		return a == nil && b == nil || a != nil && b != nil && math.Abs(*a-*b) < 1e-14
	}
	if got.Structures != want.Structures || got.RemovedA != want.RemovedA || got.RemovedB != want.RemovedB || got.RemovedBoth != want.RemovedBoth ||
		math.Abs(got.BothByLot-want.BothByLot) > 1e-12 || !near(got.Removed, want.Removed) || !near(got.RemovedByLot, want.RemovedByLot) ||
		!near(got.Kept, want.Kept) || !near(got.KeptByLot, want.KeptByLot) {
		show := func(o Overlap) []any {
			x := []any{o.Structures, o.RemovedA, o.RemovedB, o.RemovedBoth, o.BothByLot}
			for _, p := range []*float64{o.Removed, o.RemovedByLot, o.Kept, o.KeptByLot} {
				if p != nil {
					x = append(x, *p)
				} else {
					x = append(x, nil)
				}
			}
			return x
		}
		t.Errorf("%s: %v, want %v", what, show(got), show(want))
	}
}

// What would be caught: structures counted in the wrong role, a chance over all layers together instead of layer by layer,
// an intersection taken for a union, kept for removed, a negative zero that is a weight, a bias that is forgotten, 0/0.
func TestOverlapsByHand(t *testing.T) {
	const q0, q1, k0 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
	a, setA := model(t, "tiny-llama")
	b, setB := model(t, "tiny-llama")
	for i := range 4 * 32 { // rows 0 to 3, and 2 to 5
		setA(q0+".weight", i, 0)
		setB(q0+".weight", 2*32+i, 0)
	}
	for i := range 64 {
		setB(q1+".weight", i, 0)
	}
	for _, i := range []int{0, 63, 64, 511} {
		setA(k0+".weight", i, 0)
	}
	for _, i := range []int{63, 65, 511} {
		setB(k0+".weight", i, float32(math.Copysign(0, -1)))
	}
	const down0, down1 = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
	write(t, a, map[string][]int{q0 + " R": {0, 1, 2, 3}, down0 + " C": {0, 47}, down1 + " C": {5}}, nil)
	write(t, b, map[string][]int{q0 + " R": {2, 3, 4, 5}, down0 + " C": {47}, down1 + " C": {5, 6}}, nil)
	p := masks(t, a, b)[0]
	if p.A != a || p.B != b {
		t.Errorf("the pair is of %s and %s", p.A, p.B)
	}

	// 2·32² weights; 128 gone in A, 128 + 64 in B, two rows of 32 in both; by lot 128²/1024 of the first block and 0 of the second.
	same(t, "weights of q", find(t, p.Weights, "q"), Overlap{Structures: 2048, RemovedA: 128, RemovedB: 192, RemovedBoth: 64, BothByLot: 16,
		Removed: at(64. / 256), RemovedByLot: at(16. / 304), Kept: at(1792. / 1984), KeptByLot: at(1744. / 2032)})
	same(t, "weights of k", find(t, p.Weights, "k"), Overlap{Structures: 1024, RemovedA: 4, RemovedB: 3, RemovedBoth: 2, BothByLot: 12. / 512,
		Removed: at(2. / 5), RemovedByLot: at((12. / 512) / (7 - 12./512)), Kept: at(1019. / 1022), KeptByLot: at((1017 + 12./512) / (1024 - 12./512))})
	same(t, "weights of v", find(t, p.Weights, "v"), Overlap{Structures: 1024, Kept: at(1), KeptByLot: at(1)})
	same(t, "weights of all", p.Weights[len(p.Weights)-1], Overlap{Structures: 15360, RemovedA: 132, RemovedB: 195, RemovedBoth: 66, BothByLot: 16 + 12./512,
		Removed: at(66. / 261), RemovedByLot: at((16 + 12./512) / (327 - 16 - 12./512)), Kept: at(15099. / 15294),
		KeptByLot: at((15033 + 16 + 12./512) / (15360 - 16 - 12./512))})
	same(t, "rows of q", find(t, p.Rows, "q"), Overlap{Structures: 64, RemovedA: 4, RemovedB: 4, RemovedBoth: 2, BothByLot: 0.5,
		Removed: at(1. / 3), RemovedByLot: at(1. / 15), Kept: at(29. / 31), KeptByLot: at(113. / 127)})
	same(t, "columns of down", find(t, p.Cols, "down"), Overlap{Structures: 96, RemovedA: 3, RemovedB: 3, RemovedBoth: 2, BothByLot: 1. / 12,
		Removed: at(0.5), RemovedByLot: at((1. / 12) / (6 - 1./12)), Kept: at(92. / 94), KeptByLot: at((90 + 1./12) / (96 - 1./12))})
	same(t, "rows of all", find(t, p.Rows, All), Overlap{Structures: 448, RemovedA: 4, RemovedB: 4, RemovedBoth: 2, BothByLot: 0.5,
		Removed: at(1. / 3), RemovedByLot: at(1. / 15), Kept: at(442. / 446), KeptByLot: at(440.5 / 447.5)})
	var roles []string
	for _, o := range p.Cols {
		roles = append(roles, o.Role)
	}
	if got := strings.Join(roles, " "); got != "q k v o gate up down all" {
		t.Errorf("the roles are %s", got)
	}

	// In OPT the bias is the last column: 32·33 and one of 32 in each of two blocks.
	c, setC := model(t, "tiny-opt")
	d, setD := model(t, "tiny-opt")
	for _, set := range []func(string, int, float32){setC, setD} {
		for i := range 32 {
			set("model.decoder.layers.0.self_attn.out_proj.bias", i, 1)
			set("model.decoder.layers.1.self_attn.out_proj.bias", i, 1)
		}
	}
	setC("model.decoder.layers.0.self_attn.out_proj.bias", 3, 0)
	setC("model.decoder.layers.0.self_attn.out_proj.bias", 31, 0)
	setD("model.decoder.layers.0.self_attn.out_proj.bias", 31, 0)
	o := find(t, masks(t, c, d)[0].Weights, "o")
	same(t, "weights of o, with biases", o, Overlap{Structures: 2 * 32 * 33, RemovedA: 2, RemovedB: 1, RemovedBoth: 1, BothByLot: 2. / (32 * 33),
		Removed: at(0.5), RemovedByLot: at((2. / 1056) / (3 - 2./1056)), Kept: at(2110. / 2111), KeptByLot: at((2109 + 2./1056) / (2112 - 2./1056))})
}

// What would be caught: pairs in another order, rows of a run that has no report, a pair that takes its neighbour's masks.
func TestThreeRuns(t *testing.T) {
	const q0 = "model.layers.0.self_attn.q_proj"
	var dirs []string
	for i := range 3 {
		dir, set := model(t, "tiny-llama")
		for k := range 10 * (i + 1) {
			set(q0+".weight", k, 0)
		}
		if i != 1 {
			write(t, dir, map[string][]int{q0 + " C": {i}}, nil)
		}
		dirs = append(dirs, dir)
	}
	pairs := masks(t, dirs...)
	want := [][2]int{{0, 1}, {0, 2}, {1, 2}}
	for i, p := range pairs {
		a, b := want[i][0], want[i][1]
		if p.A != dirs[a] || p.B != dirs[b] {
			t.Errorf("pair %d is %s and %s", i, p.A, p.B)
		}
		if o := find(t, p.Weights, "q"); o.RemovedA != int64(10*(a+1)) || o.RemovedB != int64(10*(b+1)) || o.RemovedBoth != int64(10*(a+1)) {
			t.Errorf("pair %d: %+v", i, o)
		}
		if known := i == 1; (p.Rows != nil) != known || (p.Cols != nil) != known {
			t.Errorf("pair %d has rows %v and columns %v", i, p.Rows, p.Cols)
		}
	}
	if o := find(t, pairs[1].Cols, "q"); o.RemovedA != 1 || o.RemovedB != 1 || o.RemovedBoth != 0 || *o.Removed != 0 {
		t.Errorf("columns: %+v", o)
	}
}

// What would be caught: a type whose zeros are looked for at the wrong width, a subnormal or a NaN that passes for zero, marks
// that get lost or fall beside their place where the share of one core ends.
func TestMarkZeros(t *testing.T) {
	const n, from = 1000, 37
	patterns := map[safetensors.DType][]uint64{ // 0, −0, the smallest number, NaN, 1, and a number whose lower half is 0
		safetensors.F64:  {0, 1 << 63, 1, 0x7ff8000000000000, 0x3ff0000000000000, 0x4000000000000000},
		safetensors.F32:  {0, 1 << 31, 1, 0x7fc00000, 0x3f800000, 0x40000000},
		safetensors.F16:  {0, 1 << 15, 1, 0x7e00, 0x3c00, 0x4000},
		safetensors.BF16: {0, 1 << 15, 1, 0x7fc0, 0x3f80, 0x4000},
	}
	for dtype, p := range patterns {
		var data []byte
		for i := range n {
			data = append(data, binary.LittleEndian.AppendUint64(nil, p[i*i%len(p)])[:dtype.Size()]...)
		}
		m := newMask(from + n)
		markZeros(m, from, dtype, data)
		for i := range from + n {
			marked := m.bits[i/64]>>(i%64)&1 == 1
			if want := i >= from && (i-from)*(i-from)%len(p) < 2; marked != want {
				t.Fatalf("%s: place %d is marked: %v, want %v", dtype, i, marked, want)
			}
		}
	}
}

// What would be caught: a directory that is no output, or outputs that have nothing in common, compared all the same, or
// refused without saying what disagrees.
func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	good, _ := model(t, "tiny-llama")
	write(t, good, nil, nil)
	bare, _ := model(t, "tiny-llama")
	opt, _ := model(t, "tiny-opt")
	write(t, opt, nil, nil)
	altered := func(change func(*report.Report)) string {
		d, _ := model(t, "tiny-llama")
		write(t, d, nil, change)
		return d
	}
	with := func(name, content string) string {
		d := filepath.Join(dir, name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, reportName), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return d
	}
	narrow := filepath.Join(dir, "narrow")
	writeModel(t, narrow, strings.Replace(read(t, filepath.Join(good, "config.json")), `"intermediate_size": 48`, `"intermediate_size": 40`, 1))
	short := filepath.Join(dir, "short")
	writeModel(t, short, strings.Replace(read(t, filepath.Join(good, "config.json")), `"num_hidden_layers": 2`, `"num_hidden_layers": 1`, 1))

	for _, c := range []struct {
		other string
		masks bool
		want  string
	}{
		{filepath.Join(dir, "nowhere"), false, "opening a run: stat"},
		{filepath.Join(good, "config.json"), true, "config.json is a file; a directory that surgeon prune has written is expected"},
		{bare, false, "has no report.json, so it was not written by surgeon prune; only its weights can be compared, with --masks"},
		{with("foreign", `{"title": "sales"}`), false, "is not a report of surgeon prune"},
		{with("foreign", `{"title": "sales"}`), true, "is not a report of surgeon prune"},
		{with("broken", `{"run": `), true, "reading the report"},
		{with("empty", `{"run": "x", "model": {"sha256": "y"}}`), true, "a model directory has a config.json"},
		{t.TempDir(), true, "a model directory has a config.json"},
		{opt, true, good + " is of the architecture llama and " + opt + " of opt;"},
		{narrow, true, "layer model.layers.0.mlp.gate_proj is 48×32 in " + good + " and 40×32 in " + narrow},
		{short, true, good + " has 14 linear layers in 2 blocks and " + short + " has 7 in 1"},
		{altered(func(r *report.Report) { r.Layers = r.Layers[1:] }), true, "lists 13 layers, and the model beside it has 14"},
		{altered(func(r *report.Report) { r.Layers[3].Cols = 31 }), true, "lists layer model.layers.0.self_attn.o_proj of 32×31, and the model beside it has model.layers.0.self_attn.o_proj of 32×32"},
		{altered(func(r *report.Report) { r.Layers[0].KeptRows = []int{0, 2, 2} }), true, "kept_rows of layer model.layers.0.self_attn.q_proj has 2 as number 2"},
		{altered(func(r *report.Report) { r.Layers[0].KeptCols = []int{0, 32} }), true, "kept_cols of layer model.layers.0.self_attn.q_proj has 32 as number 1"},
	} {
		runs, err := Open([]string{good, c.other}, c.masks)
		if err == nil && c.masks {
			_, err = Masks(context.Background(), runs)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.other, err, c.want)
		}
	}
	if _, err := Open([]string{good}, true); err == nil || !strings.Contains(err.Error(), "comparing takes two or more runs") {
		t.Errorf("one run gives %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	runs, _ := Open([]string{good, good}, true)
	if _, err := Masks(ctx, runs); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it ends with %v", err)
	}
}

// writeModel writes a model of that configuration, of zeros.
func writeModel(t *testing.T, dir, config string) {
	t.Helper()
	c, err := checkpoint.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	var entries []safetensors.Entry
	for name, shape := range c.Shapes() {
		n := 4
		for _, d := range shape {
			n *= d
		}
		entries = append(entries, safetensors.Entry{Name: name, DType: safetensors.F32, Shape: shape, Write: func(w io.Writer) error {
			_, err := w.Write(make([]byte, n))
			return err
		}})
	}
	var weights bytes.Buffer
	if err := safetensors.Write(&weights, entries, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": []byte(config), "model.safetensors": weights.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What would be caught: a figure of one run in another's column, a perplexity beside one of other windows, a missing figure
// that is 0, another model, text or windows of which nothing is said.
func TestFigures(t *testing.T) {
	made := func(model, file string, windows int, evaluated ...report.Evaluation) *report.Report {
		return &report.Report{Run: "run", Model: report.Model{Path: "dense", SHA256: model}, Options: map[string]any{"target": 0.25},
			Data:  report.Data{Files: []report.File{{SHA256: file}}, Windows: windows, HeldOut: 4, Length: 32},
			Final: report.Final{Sparsity: 0.3, HeldOutLoss: 2}, Evaluations: evaluated}
	}
	a := made("m", "f", 12, report.Evaluation{Of: "dense", Text: "x.txt", Windows: 5, Length: 32, Perplexity: 7})
	b := made("m", "f", 12, report.Evaluation{Of: "dense", Text: "x.txt", Windows: 6, Length: 32, Perplexity: 8}, report.Evaluation{Of: "dense", Text: "x.txt", Windows: 5, Length: 32, Perplexity: 9})
	b.Dense.HeldOutLosses = []report.TextLoss{{Text: "en", Loss: 3}}
	runs := []Run{{"a", a}, {"b", b}}
	got := map[string][]any{}
	for _, f := range Figures(runs) {
		for _, v := range f.Values {
			if v == nil {
				got[f.Name] = append(got[f.Name], nil)
			} else {
				got[f.Name] = append(got[f.Name], *v)
			}
		}
	}
	want := map[string][]any{
		"target": {0.25, 0.25}, "reached": {0.3, 0.3}, "of the whole model": {0., 0.}, "shots": {0., 0.}, "time": {0., 0.},
		"held-out loss, dense": {0., 0.}, "held-out loss, pruned": {2., 2.}, "held-out loss of en, dense": {nil, 3.},
		"perplexity on x.txt, 5 windows of 32, dense": {7., 9.}, "perplexity on x.txt, 6 windows of 32, dense": {nil, 8.},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("figures are\n%v, want\n%v", got, want)
	}
	for _, c := range []struct {
		other *report.Report
		want  string
	}{
		{made("m", "f", 12), ""},
		{made("n", "f", 12), "b was made from another model than a: dense and dense, of other weights."},
		{made("m", "g", 12), "b was calibrated on another text than a; the held-out losses are of other windows."},
		{made("m", "f", 13), "b has other windows of the same text than a (13 and 4 held out, of 32 tokens, seed 0 and 12 and 4 held out, of 32 tokens, seed 0); the held-out losses are of other windows."},
	} {
		if got := strings.Join(Differences([]Run{{"bare", nil}, {"a", a}, {"b", c.other}}), "\n"); got != c.want {
			t.Errorf("differences are %q, want %q", got, c.want)
		}
	}
}

// What would be caught: perplexities on two texts of one name in one row, on one text of two names in two, or one on a text of
// which a report tells the name alone beside those on a text that it may not be.
func TestFiguresGoByContent(t *testing.T) {
	const x, y = "1111111111", "2222222222"
	run := func(perplexity float64, path, hash string) Run {
		return Run{Dir: path, Report: &report.Report{Evaluations: []report.Evaluation{{Of: "pruned", Text: path, TextSHA256: hash, Windows: 5, Length: 32, Perplexity: perplexity}}}}
	}
	row := func(of string) string { return "perplexity on " + of + ", 5 windows of 32, pruned" }
	for _, c := range []struct {
		name string
		runs []Run
		want map[string][]float64 // 0 is none
	}{
		{"one content, two paths", []Run{run(7, "a.txt", x), run(8, "b.txt", x)}, map[string][]float64{row("a.txt"): {7, 8}}},
		{"one path, two contents", []Run{run(7, "a.txt", x), run(8, "a.txt", y), run(9, "a.txt", x)},
			map[string][]float64{row("a.txt") + ", text 11111111": {7, 0, 9}, row("a.txt") + ", text 22222222": {0, 8, 0}}},
		{"old reports", []Run{run(7, "a.txt", ""), run(8, "a.txt", ""), run(9, "b.txt", "")}, map[string][]float64{row("a.txt"): {7, 8, 0}, row("b.txt"): {0, 0, 9}}},
		{"an old report and new ones", []Run{run(7, "a.txt", ""), run(8, "a.txt", x), run(9, "a.txt", y)},
			map[string][]float64{row("a.txt"): {7, 0, 0}, row("a.txt") + ", text 11111111": {0, 8, 0}, row("a.txt") + ", text 22222222": {0, 0, 9}}},
	} {
		got := map[string][]float64{}
		for _, f := range Figures(c.runs) {
			if f.Kind != Perplexity {
				continue
			}
			for _, v := range f.Values {
				value := 0.
				if v != nil {
					value = *v
				}
				got[f.Name] = append(got[f.Name], value)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// What would be caught: the time of a run that was stopped which is that of its last process only, or counts a shot twice.
func TestTimeOfAResumedRun(t *testing.T) {
	shot := func(number int, seconds float64) report.Shot {
		return report.Shot{Number: number, Seconds: map[string]float64{"curvature": seconds - 1, "check": 1}}
	}
	shots := []report.Shot{shot(1, 10), shot(2, 20), shot(3, 30)}
	for _, c := range []struct {
		resumed []int
		want    float64
	}{{nil, 100}, {[]int{1}, 110}, {[]int{1, 2}, 130}, {[]int{3}, 160}} {
		if got := seconds(&report.Report{Seconds: 100, Shots: shots, ResumedFrom: c.resumed}); got != c.want {
			t.Errorf("taken up after %v: %v s, want %v", c.resumed, got, c.want)
		}
	}
}
