package enginetest

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/device"
	"surgeon/engine/internal/golden"
)

// realRun is a pruning run of SmolLM2-135M as the CPU made it (testdata/smollm2-run.json).
type realRun struct {
	Device string
	Shots  []realShot
}

type realShot struct {
	LossBefore, LossAfter, Predicted float64
	// Zero holds, for each weight tensor, a bit for each row and then for each column: all of it is zero.
	Zero map[string]string
}

// RealRun prunes SmolLM2-135M to 6 % in two shots and compares with the run that the CPU made in float32. In float32 999 of
// 1000 of the structures removed must be the same after each shot (not all: which of two goes whose costs are nearly equal is a matter
// of rounding), in bfloat16 97 of 100; the loss within 0.5 %, in bfloat16 within 1 %. It would catch: errors that only real sizes show. With SURGEON_UPDATE=1 it writes the run instead.
func RealRun(t *testing.T, open func(*testing.T) device.Device, precision string) {
	model, text := os.Getenv("SURGEON_SMOLLM2"), os.Getenv("SURGEON_WIKITEXT")
	if model == "" || text == "" {
		t.Skip("SURGEON_SMOLLM2 and SURGEON_WIKITEXT do not name the real model and its text (make smollm2-model); the real model is not tested")
	}
	dir := t.TempDir()
	o := options(model, text, dir)
	o.TextLimit, o.Samples, o.Length, o.HeldOut, o.Target, o.Batch, o.Precision = 800_000, 8, 512, 2, 0.06, 1, precision
	r := run(t, open, o, 0)
	got := realRun{Device: r.Machine.Device}
	for i, s := range r.Shots {
		got.Shots = append(got.Shots, realShot{s.LossBefore, s.LossAfter, *s.PredictedIncrease, zeros(t, shotFile(o, i+1))})
	}
	path := filepath.Join(golden.Dir(""), "smollm2-run.json")
	if os.Getenv("SURGEON_UPDATE") == "1" {
		raw, err := json.MarshalIndent(got, "", " ")
		if err == nil {
			err = os.WriteFile(path, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var want realRun
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	leastSame, loss := 0.999, 0.005
	if precision == "bfloat16" {
		leastSame, loss = 0.97, 0.01
	}
	for i, w := range want.Shots {
		g := got.Shots[i]
		same, removed := 0, 0
		for name, bits := range w.Zero {
			a, b := decode(t, g.Zero[name]), decode(t, bits)
			if len(a) != len(b) {
				t.Fatalf("%s has another shape", name)
			}
			for j := range b {
				for bit := range 8 {
					x, y := a[j]>>bit&1, b[j]>>bit&1
					removed += int(x | y)
					same += int(x & y)
				}
			}
		}
		t.Logf("shot %d on %s: loss %.5f → %.5f, predicted %.5f; on %s %.5f → %.5f, %.5f; %d of %d removed structures are the same", i+1, got.Device,
			g.LossBefore, g.LossAfter, g.Predicted, want.Device, w.LossBefore, w.LossAfter, w.Predicted, same, removed)
		if float64(same) < leastSame*float64(removed) {
			t.Errorf("shot %d: %d of %d removed structures are the same, at least %v of them are asked for", i+1, same, removed, leastSame)
		}
		if math.Abs(g.LossAfter-w.LossAfter) > loss*w.LossAfter {
			t.Errorf("shot %d: loss %v, on the CPU %v", i+1, g.LossAfter, w.LossAfter)
		}
	}
}

func decode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// zeros are the Zero of a shot's file.
func zeros(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]string{}
	for _, x := range f.Tensors() {
		if len(x.Shape) != 2 {
			continue
		}
		rows, cols := x.Shape[0], x.Shape[1]
		alive := make([]bool, rows+cols)
		for i, b := 0, f.Bytes(x.Name); i < rows*cols; i++ {
			if b[4*i]|b[4*i+1]|b[4*i+2]|b[4*i+3]&0x7f != 0 {
				alive[i/cols], alive[rows+i%cols] = true, true
			}
		}
		bits := make([]byte, (rows+cols+7)/8)
		for i, a := range alive {
			if !a {
				bits[i/8] |= 1 << (i % 8)
			}
		}
		all[x.Name] = base64.StdEncoding.EncodeToString(bits)
	}
	return all
}
