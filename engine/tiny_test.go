package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/report"
)

// tiny is golden.TinyRun.
func tiny(t testing.TB, name string) (model, text string) { return golden.TinyRun(t, name) }

// tinyOptions prune a tiny model to 40 % in four shots.
func tinyOptions(model, text, output string) Options {
	return Options{Model: model, Text: []string{text}, Samples: 12, Length: 32, HeldOut: 4, Seed: 100, Target: 0.4, Shots: 4,
		StepLimit: 0.2, Output: output, Batch: 2, Precision: "float32", Version: "test"}
}

// silent is a Watcher that keeps what it is told and can cancel the run.
type silent struct {
	shots    []report.Shot
	warnings []string
	said     []string
	onShot   func(report.Shot)
	onStage  func(name string)
	onStep   func(done int)
}

func (s *silent) Stage(name string, _ int) {
	if s.onStage != nil {
		s.onStage(name)
	}
}
func (s *silent) Step(done int) {
	if s.onStep != nil {
		s.onStep(done)
	}
}
func (s *silent) Say(sentence string)  { s.said = append(s.said, sentence) }
func (s *silent) Warn(sentence string) { s.warnings = append(s.warnings, sentence) }
func (s *silent) Shot(x report.Shot) {
	s.shots = append(s.shots, x)
	if s.onShot != nil {
		s.onShot(x)
	}
}

// pruneTiny runs to the end on a new CPU device.
func pruneTiny(t testing.TB, ctx context.Context, o Options, w Watcher) (*report.Report, error) {
	t.Helper()
	dev := cpu.Open()
	defer dev.Close()
	return Prune(ctx, dev, o, w)
}

// checkResumes makes the complete run o again, stopped after each of its first shots, and compares what they wrote.
func checkResumes(t *testing.T, o Options, shots int) {
	t.Helper()
	whole := o.Output
	o.Output = filepath.Join(t.TempDir(), "out")
	for range shots {
		ctx, cancel := context.WithCancel(context.Background())
		if _, err := pruneTiny(t, ctx, o, &silent{onShot: func(report.Shot) { cancel() }}); !errors.Is(err, context.Canceled) {
			t.Fatalf("a cancelled run ended with %v", err)
		}
	}
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole)) {
		t.Errorf("stopped after the first %d shots, one by one, the run ends in other bits", shots)
	}
}

// weightsOf are the bytes of a written model's weights.
func weightsOf(t testing.TB, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// begin is a run that is about to make its next shot.
func begin(dev device.Device, o Options) (*run, error) {
	r, err := prepare(context.Background(), dev, o, &silent{}, false)
	if err != nil {
		return nil, err
	}
	if err := r.start(context.Background()); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}
