package bench

import (
	"regexp"
	"strings"
	"testing"

	"surgeon/engine"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/report"
)

// goBenchmark is a line of the Go benchmark format: a name, the number of calls, and values with their units.
var goBenchmark = regexp.MustCompile(`^Benchmark[A-Z]\S*\t +\d+(\t +[-+0-9.e]+ [A-Za-z]\S*)+$`)

// checkGo looks at every line of a text in the Go benchmark format.
func checkGo(t *testing.T, text string) (benchmarks int) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "# "), regexp.MustCompile(`^[a-z][a-z-]*: \S`).MatchString(line):
		case goBenchmark.MatchString(line):
			benchmarks++
		default:
			t.Errorf("not in the Go benchmark format: %q", line)
		}
	}
	return benchmarks
}

// What would be caught: lines that benchstat does not read, rounds that are left out or counted twice, a header without what
// the figures belong to.
func TestGoText(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	h := NewHeader(d, &report.GPU{Driver: "580.95.05"}, report.Program{Version: "v1", Go: "go1.26", Modified: true}, device.BF16)
	h.Gemm, h.Copy = map[string]float64{"float32": 2e10, "float64": 1e10}, 9e9
	if checkGo(t, h.GoText()) != 3 {
		t.Errorf("three ceilings are expected in\n%s", h.GoText())
	}
	for _, want := range []string{"device: cpu (", "driver: 580.95.05\n", "commit: v1 with changes\n", "precision: bfloat16\n"} {
		if !strings.Contains(h.GoText(), want) {
			t.Errorf("no %q in\n%s", want, h.GoText())
		}
	}
	r := Row{Op: "Gram ones=0 beta=1", Shape: "512×576", Type: "float32", FLOP: 1e9, MinMs: 10, MedianMs: 11, Ceiling: "gemm", OfCeiling: 0.5, OfLibrary: 0.6}
	for i := range 13 {
		r.rounds, r.calls = append(r.rounds, 0.01+float64(i)/1000), append(r.calls, 2)
	}
	text := r.GoText()
	if n := checkGo(t, text); n != samples {
		t.Errorf("%d lines, want %d:\n%s", n, samples, text)
	}
	// The first line is of two rounds, of 10 and 11 ms: 10.5 ms, 1 GFLOP in that, and so the half and 0.6 by 10.5 as well.
	want := "BenchmarkOperation/Gram_ones=0_beta=1/512×576/float32\t       4\t    1.05e+07 ns/op\t     95.2381 GFLOP/s\t     0.47619 of-gemm\t        0.63 of-library\t           0 checksum\n"
	if first, _, _ := strings.Cut(text, "\n"); first+"\n" != want {
		t.Errorf("got  %q\nwant %q", first, want)
	}
	calls := 0
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		calls += int(line[strings.Index(line, "\t")+8] - '0')
	}
	if calls != 26 {
		t.Errorf("the lines are of %d calls, of 26 that were made", calls)
	}
	r.LeftOut = "too large"
	if checkGo(t, r.GoText()) != 0 {
		t.Errorf("a call that was left out has a figure: %s", r.GoText())
	}
}

// What would be caught: columns that do not stand below each other, also where a name has × in it.
func TestRowText(t *testing.T) {
	const width = 40
	title := []rune(OpsTitle(width))
	row := []rune(Row{Op: "RowDot", Shape: "576×1536", Type: "float64", Bytes: 1e9, MinMs: 1, MedianMs: 2, Ceiling: "copy", OfCeiling: 0.5, Checksum: 7}.Text(width))
	if len(title) != len(row) {
		t.Errorf("%d and %d columns:\n%s%s", len(title), len(row), string(title), string(row))
	}
	if !strings.Contains(string(row), " 1000.0 GB/s ") {
		t.Errorf("10⁹ bytes in a millisecond are 1000 GB/s: %s", string(row))
	}
	left := LeftOutText([]Row{{}, {LeftOut: "too large"}})
	if left != "\n1 of 2 calls were left out on this device.\n" || LeftOutText(make([]Row, 3)) != "" {
		t.Errorf("got %q", left)
	}
}

// What would be caught: a part of the plan under the wrong memory, a shot of some sequences told as one of 128.
func TestShotText(t *testing.T) {
	r := &ShotReport{Shape: "llama-2-7b", Layers: 2, LayersAll: 32, Precision: "bfloat16", Sequences: 8, Length: 4096, Batch: 2, PlannedBytes: 200 << 20, PeakBytes: 190 << 20,
		Plan:               []engine.PlanPart{{Name: "weights", Place: engine.OnDevice, Bytes: 100 << 20}, {Name: "masters", Place: engine.OnHost, Bytes: 50 << 20}},
		Stages:             []Stage{{Name: "curvature", Seconds: 4, FLOP: 8e12, Type: "bfloat16", OfGemm: 0.5}, {Name: "threshold", Seconds: 0.1}},
		SecondsPerSequence: 0.5, TokensPerSecond: 8192, LayersChanged: 14, LayersPruned: 14}
	text := strings.Join(strings.Fields(r.Text()), " ")
	for _, want := range []string{"2 of 32 blocks", "8 of 4096 random tokens, 2 at one time", "weights 100.0 masters (main memory) 50.0", "as planned 200.0", "as measured 190.0 0.950 of what was planned",
		"curvature of 8 sequences 4.000 2 0.50 in bfloat16", "threshold 0.100 Curvature: 0.5 s for a sequence, 8192.0 tokens per second. The loss"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, r.Text())
		}
	}
	if strings.Contains(text, "128") {
		t.Errorf("nothing was measured with 128 sequences:\n%s", r.Text())
	}
	if n := checkGo(t, r.GoText()); n != 2 {
		t.Errorf("%d lines for two stages", n)
	}
}
