package engine

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"surgeon/engine/device/cpu"
	"surgeon/engine/journal"
	"surgeon/engine/report"
)

// held makes the first write of a shot's weights wait until release is called, and knows whether the shot is complete.
type held struct {
	shot     string
	failure  error // what the write ends with
	free     chan struct{}
	release  func()
	mu       sync.Mutex
	waited   bool
	complete bool
}

func hold(shot string) *held {
	h := &held{shot: shot, free: make(chan struct{})}
	h.release = sync.OnceFunc(func() { close(h.free) })
	return h
}

func (h *held) hooks() journal.Hooks {
	return journal.Hooks{Before: func(_ int, op, file string) error {
		switch {
		case file == h.shot+".safetensors" && op == "write":
			select {
			case <-h.free:
			case <-time.After(20 * time.Second):
				return errors.New("nothing went on while the shot was being written")
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			h.waited = true
			return h.failure
		case file == h.shot+".json" && op == "rename":
			h.mu.Lock()
			defer h.mu.Unlock()
			h.complete = true
		}
		return nil
	}}
}

func (h *held) isComplete() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.complete
}

// What would be caught: a run of a bfloat16 model that stands still while a shot is written, one that changes the weights
// while they are, and one that ends in other bits for it.
func TestSavingBesideTheNextShot(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	whole := tinyOptions(dir, text, filepath.Join(t.TempDir(), "whole"))
	whole.Precision = "bfloat16"
	if _, err := pruneTiny(t, context.Background(), whole, &silent{}); err != nil {
		t.Fatal(err)
	}
	h := hold("shot-001")
	o := whole
	o.Output, o.hooks = filepath.Join(t.TempDir(), "out"), h.hooks()
	early, updated := false, false
	w := &silent{onStage: func(name string) {
		switch name {
		case "journal of shot 1":
			t.Error("the stage has no shot before it")
		case "shot 2 of 4: journal of shot 1": // costs and threshold are made
			early = h.isComplete()
			h.release()
		case "shot 2 of 4: update":
			updated = true
			if !h.isComplete() {
				t.Error("shot 2 changes the weights of shot 1 before they are saved")
			}
		}
	}}
	if _, err := pruneTiny(t, context.Background(), o, w); err != nil {
		t.Fatal(err)
	}
	if early || !h.waited || !updated {
		t.Errorf("complete before it was written: %v; held: %v; updated: %v", early, h.waited, updated)
	}
	if !bytes.Equal(weightsOf(t, o.Output), weightsOf(t, whole.Output)) {
		t.Error("the run ends in other bits")
	}
}

// What would be caught: a run that ends, stopped or by a failure of the device, before the shot that it has told of is safe.
func TestStopWhileSaving(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	lost := errors.New("Gemm: error 719, the device is lost")
	for name, failure := range map[string]error{"stopped": context.Canceled, "device lost": lost} {
		t.Run(name, func(t *testing.T) {
			h := hold("shot-002")
			o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
			o.Precision, o.hooks = "bfloat16", h.hooks()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			d := &failing{Device: cpu.Open()}
			defer d.Close()
			w := &silent{onStage: func(name string) {
				switch name {
				case "shot 3 of 4: curvature":
					if failure == lost {
						d.failure = lost
					} else {
						cancel()
					}
				case "shot 3 of 4: journal of shot 2":
					h.release()
				}
			}}
			if _, err := Prune(ctx, d, o, w); !errors.Is(err, failure) {
				t.Fatalf("the run ends with %v", err)
			}
			if !h.isComplete() || len(w.warnings) > 0 {
				t.Errorf("shot 2 is complete: %v; warnings: %q", h.isComplete(), w.warnings)
			}
			o.hooks = journal.Hooks{}
			again := &silent{}
			if _, err := pruneTiny(t, context.Background(), o, again); err != nil || len(again.shots) != 2 || again.shots[0].Number != 3 {
				t.Errorf("gone on: %v, with %d shots", err, len(again.shots))
			}
		})
	}
}

// What would be caught: a shot that could not be saved, beside a run that ends for another reason, of which nobody hears.
func TestSavingFailsAsTheRunIsStopped(t *testing.T) {
	dir, text := tiny(t, "tiny-llama")
	h := hold("shot-002")
	h.failure = syscall.ENOSPC
	o := tinyOptions(dir, text, filepath.Join(t.TempDir(), "out"))
	o.Precision, o.hooks = "bfloat16", h.hooks()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &silent{onShot: func(s report.Shot) {
		if s.Number == 2 {
			cancel()
		}
	}, onStage: func(name string) {
		if strings.HasSuffix(name, "journal of shot 2") {
			h.release()
		}
	}}
	r, err := pruneTiny(t, ctx, o, w)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the run ends with %v", err)
	}
	if len(r.Shots) != 1 {
		t.Errorf("the report has %d shots, and one is saved", len(r.Shots))
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "saving shot 2: ") || !strings.Contains(w.warnings[0], "goes on after shot 1") {
		t.Errorf("warnings: %q", w.warnings)
	}
}
