package engine

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
	"surgeon/engine/report"
)

// smollm2 is the path of the real model, and of the text its golden case was computed on; a test that needs them is left
// out aloud where the environment does not name them.
func smollm2(t *testing.T) (model, text string) {
	t.Helper()
	model, text = os.Getenv("SURGEON_SMOLLM2"), os.Getenv("SURGEON_WIKITEXT")
	if model == "" {
		t.Skip("SURGEON_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf (make smollm2-model fetches it); the real model is not tested")
	}
	return model, text
}

// What would be caught: a real model read wrongly – dequantisation, un-permuted rows, tokenizer, RoPE base – or computed
// in float32 with too large an error.
func TestSmolLM2Losses(t *testing.T) {
	path, text := smollm2(t)
	if text == "" {
		t.Skip("SURGEON_WIKITEXT does not name the validation text of WikiText-2; golden losses are not compared")
	}
	var want struct {
		Tokens int
		Window int
		First  []int32
		Losses []float64
		Top    [][2]float64 `json:"last_logits_top5_of_first_64"`
	}
	raw, err := os.ReadFile(filepath.Join(golden.Dir(""), "smollm2.json"))
	if err == nil {
		err = json.Unmarshal(raw, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	in, err := openModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.readTexts(context.Background(), "text", []string{text}, 0, 0, want.Window); err != nil {
		t.Fatal(err)
	}
	if len(in.texts[0].ids) != want.Tokens {
		t.Errorf("%d tokens, want %d", len(in.texts[0].ids), want.Tokens)
	}
	dev := cpu.Open()
	defer dev.Close()
	start := time.Now()
	m, err := model.Load(context.Background(), dev, in.model, device.F32)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: loaded in %v", dev.Name(), time.Since(start))
	for i, loss := range want.Losses {
		start = time.Now()
		got, err := m.Losses([][]int32{in.texts[0].ids[i*want.Window : (i+1)*want.Window]})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("window %d: loss %.6f, golden %.6f, %v", i, got[0], loss, time.Since(start))
		if math.Abs(got[0]-loss) > 2e-4 {
			t.Errorf("window %d: loss %v, want %v", i, got[0], loss)
		}
	}
	m.Release()
	x := m.Logits([][]int32{in.texts[0].ids[:len(want.First)]})
	last := device.DownloadSlice[float64](dev, x.Slice(x.Rows-1, x.Rows))
	for _, top := range want.Top {
		if got := last[int(top[0])]; math.Abs(got-top[1]) > 2e-4*math.Abs(top[1]) {
			t.Errorf("logit of token %v: %v, want %v", top[0], got, top[1])
		}
	}
}

// What would be caught: a plan that promises what a run does not keep. Time and memory of a short run of the real model are
// within 30 % of the plan.
func TestSmolLM2Plan(t *testing.T) {
	path, text := smollm2(t)
	if text == "" {
		text = opticks(t)
	}
	o := Options{Model: path, Text: []string{text}, TextLimit: 800_000, Samples: 6, Length: 512, HeldOut: 2, Seed: 100, Target: 0.05, Shots: 1,
		StepLimit: 0.2, Output: filepath.Join(t.TempDir(), "out"), Batch: 1, Precision: "float32", Version: "test"}
	defer debug.SetGCPercent(debug.SetGCPercent(GCPercent)) // as the program does
	// Other work on the machine between plan and run makes either wrong, so there are some tries.
	const tries = 3
	for try := 1; ; try++ {
		o.Output = filepath.Join(t.TempDir(), "out")
		time, memory := planAndRun(t, o)
		if within(time) && within(memory) {
			return
		}
		if try == tries {
			t.Fatalf("in %d tries, at last the plan's time is %.2f times the real one, its memory %.2f times", tries, time, memory)
		}
	}
}

func within(ratio float64) bool { return ratio > 0.7 && ratio < 1.3 }

// planAndRun returns planned over real time, and planned over real resident memory.
func planAndRun(t *testing.T, o Options) (timeRatio, memoryRatio float64) {
	t.Helper()
	dev := cpu.Open()
	plan, err := Plan(context.Background(), dev, o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	dev = cpu.Open()
	defer dev.Close()
	start := time.Now()
	r, err := Prune(context.Background(), dev, o, &silent{})
	if err != nil {
		t.Fatal(err)
	}
	seconds := time.Since(start).Seconds()
	for _, s := range plan.Stages {
		t.Logf("planned %-20s %7.2f s", s.Name, s.Seconds)
	}
	for name, s := range r.Shots[0].Seconds {
		t.Logf("taken   %-20s %7.2f s", name, s)
	}
	peak := report.PeakResident()
	t.Logf("time: planned %.1f s, taken %.1f s; memory: planned %.2f GB, resident at most %.2f GB, tensors at most %.2f GB", plan.Seconds, seconds,
		float64(plan.PeakHostBytes)/1e9, float64(peak)/1e9, float64(dev.Memory().Peak)/1e9)
	return plan.Seconds / seconds, float64(plan.PeakHostBytes) / float64(peak)
}

// opticks is a text that every Go installation has.
func opticks(t *testing.T) string {
	t.Helper()
	path := filepath.Join(goroot(t), "src", "testdata", "Isaac.Newton-Opticks.txt")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no text to calibrate on: %v", err)
	}
	return path
}

func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("go env GOROOT: %v", err)
	}
	return strings.TrimSpace(string(out))
}
