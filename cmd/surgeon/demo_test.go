package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"surgeon/cmd/surgeon/demo"
)

// What would be caught: a built-in model that the program cannot prune, a written model that is not the one that was
// measured (the demo itself compares), a demo that does not show its table or leaves out what to try next.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("the demo takes some seconds")
	}
	dir := t.TempDir()
	if err := demo.Extract(dir); err != nil {
		t.Fatal(err)
	}
	o := demoOptions(dir)
	o.Samples, o.HeldOut, o.Shots, o.Target = 4, 2, 2, 0.1 // the rest is as in the demo
	var stdout, stderr bytes.Buffer
	s := &session{ctx: t.Context(), stdout: &stdout, stderr: &stderr}
	defer s.close()
	if err := (&demoCommand{common: common{Device: "cpu", LogFormat: "text"}}).show(s, dir, o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"   shot   target", "    2/2  10.00 %", "before\n", "pruned, written to a file and read again\n", "the same to the last bit", "surgeon prune SmolLM2-135M --text"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, &stdout)
		}
	}
	if strings.Contains(stdout.String(), "\x1b") {
		t.Errorf("escape codes where there is no terminal: %q", &stdout)
	}
	if _, err := os.Stat(o.Output + "/model.safetensors"); err != nil {
		t.Error(err)
	}
}

// What would be caught: a summary that keeps the perplexity of --eval, or what the perplexity is of, to itself.
func TestSummary(t *testing.T) {
	tiny(t)
	code, stdout, stderr := invoke(pruneArgs("--eval", "text.txt")...)
	if code != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{"out written: ", "Loss on 1 held-out window of 32 tokens: ", "dense model: Perplexity ", "pruned model: Perplexity ", " on text.txt, 125 windows of 32 tokens (loss "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}
