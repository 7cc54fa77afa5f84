package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// failing is a device that fails when it is told to, and tells it at the next Sync and ever after.
type failing struct {
	device.Device
	failure error
}

func (d *failing) Sync() error { return d.failure }

// What would be caught: a failure of the device that is not heard, that is told without its place, that passes for a wrong
// request, or after which a model is written.
func TestDeviceFailure(t *testing.T) {
	lost := errors.New("Gemm: error 719, the device is lost")
	dir, text := tiny(t, "tiny-llama")
	for _, test := range []struct {
		stage string // the failure comes with its first step, or with its beginning where there are no steps
		want  string
	}{
		{"", "loading " + dir + ": "},
		{"dense model", "dense model: held-out windows 2 to 3: "},
		{"shot 2 of 4: curvature", "shot 2: curvature: calibration windows 2 to 3: "},
		{"shot 2 of 4: costs", "shot 2: costs: block 0, layer model.layers.0.self_attn.k_proj: "},
		{"shot 2 of 4: update", "shot 2: update: block 0, layer model.layers.0.self_attn.k_proj: "},
		{"shot 2 of 4: check", "shot 2: check: held-out windows 2 to 3: "},
		{"check of the model as written", "check of the model as written: held-out windows 2 to 3: "},
		{"perplexity", "perplexity of the dense model: windows 2 to 3: "},
		{"write", `tensor "model.layers.0.`},
	} {
		t.Run(test.stage, func(t *testing.T) {
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
			if test.stage == "perplexity" {
				o.Eval = []string{text}
			}
			d := &failing{Device: cpu.Open()}
			defer d.Close()
			if test.stage == "" {
				d.failure = lost
			}
			var stage string
			w := &silent{
				onStage: func(name string) {
					if stage = name; stage == test.stage && stage == "write" {
						d.failure = lost
					}
				},
				onStep: func(int) {
					if stage == test.stage {
						d.failure = lost
					}
				},
			}
			_, err := Prune(context.Background(), d, o, w)
			var request *RequestError
			if !errors.Is(err, lost) || errors.As(err, &request) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q and the failure", err, test.want)
			}
			if _, err := os.Stat(o.Output); !os.IsNotExist(err) {
				t.Error("there is an output")
			}
		})
	}
}

// What would be caught: a shot that is saved after the device has failed.
func TestFailureWhileSaving(t *testing.T) {
	lost := errors.New("the device is lost")
	dir, text := tiny(t, "tiny-llama")
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	d := &failing{Device: cpu.Open()}
	defer d.Close()
	var stage string
	w := &silent{onStage: func(name string) { stage = name }, onStep: func(done int) {
		if stage == "shot 2 of 4: check" && done == o.HeldOut {
			d.failure = lost
		}
	}}
	_, err := Prune(context.Background(), d, o, w)
	if !errors.Is(err, lost) || !strings.Contains(err.Error(), `shot 2: saving shot 2`) || !strings.Contains(err.Error(), `tensor "model.layers.0.`) || len(w.shots) != 1 {
		t.Errorf("after %d shots: %v", len(w.shots), err)
	}
	d.failure = nil
	again := &silent{}
	if _, err := Prune(context.Background(), d, o, again); err != nil || len(again.shots) != 3 {
		t.Errorf("the run does not go on after shot 1: %v, %d shots", err, len(again.shots))
	}
}
