package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"surgeon/cmd/surgeon/demo"
	"surgeon/engine"
	"surgeon/engine/device"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

type demoCommand struct {
	Keep string `help:"Directory to keep everything in, which must not be there yet; without it a temporary one is used and removed." placeholder:"DIR" group:"output"`

	common `embed:""`
}

// demoWindow is the length of all windows of the demo, in tokens: short, so that two cores need less than a minute.
const demoWindow = 128

// demoOptions is the run that the demo shows, in the directory that demo.Extract filled.
func demoOptions(dir string) engine.Options {
	return engine.Options{
		Model: filepath.Join(dir, demo.ModelDir), Text: []string{filepath.Join(dir, demo.CalibrationText)}, Eval: []string{filepath.Join(dir, demo.HeldoutText)},
		Samples: 64, HeldOut: 12, Length: demoWindow, Seed: 100,
		Target: 0.3, Shots: 8, StepLimit: 0.2, Cost: prune.OBS, Update: prune.Joint,
		Output: filepath.Join(dir, "pruned"), Batch: 1, Precision: "float32",
	}
}

// Run does the whole job: prune, write, read again, measure.
func (c *demoCommand) Run(s *session) error {
	dir, err := c.directory(s)
	if err != nil {
		return err
	}
	if err := demo.Extract(dir); err != nil {
		return err
	}
	return c.show(s, dir, demoOptions(dir))
}

// show runs with the given options, and tells what happens.
func (c *demoCommand) show(s *session, dir string, o engine.Options) error {
	start := time.Now()
	o.Version, o.Command = programVersion(), s.command()
	terminal := terminalWidth(s.stderr) > 0
	if !terminal && !c.Verbose {
		c.Quiet = true // the table on stdout tells enough
	}
	dev, err := s.open(c.common, o.Shots)
	if err != nil {
		return err
	}
	intro := "A small language model is built into this program. In %d shots, rows and columns\n" +
		"of its matrices are removed, until %.0f %% of the weights in its blocks are gone.\n" +
		"Losses are nats per token, on windows that nothing is fitted to.\n\n"
	if err := s.print(fmt.Sprintf(intro, o.Shots, 100*o.Target)); err != nil {
		return err
	}
	if !terminal {
		s.watcher = &tabled{watcher: s.watcher, out: s.stdout, shots: o.Shots}
	}
	o.GPU = s.telemetry()
	result, err := engine.Prune(s.ctx, dev, o, s.watcher)
	if err != nil {
		return err
	}
	text, err := readAgain(s, dev, o, result)
	if err != nil {
		return err
	}
	text += fmt.Sprintf("\nAll of it took %s on %s.\n", spell(time.Since(start)), dev.Name())
	if c.Keep != "" {
		text += fmt.Sprintf("Everything is in %s; %s tells what was done to the model.\n", dir, filepath.Join(o.Output, "README.md"))
	}
	return s.print(text + next)
}

// next is what to try after the demo.
const next = `
Next, a real model. Any Hugging Face directory or GGUF file of a supported kind
(see surgeon info) will do, for example SmolLM2-135M from
https://huggingface.co/HuggingFaceTB/SmolLM2-135M, with a text of the kind that
the model is for, and another one to measure on:

    surgeon plan SmolLM2-135M --text wiki.txt --target 0.3
    surgeon prune SmolLM2-135M --text wiki.txt --eval other.txt --target 0.3 -o SmolLM2-135M-30
`

// readAgain reads the written model again and tells what became of it.
func readAgain(s *session, dev device.Device, o engine.Options, result *report.Report) (string, error) {
	dense, pruned := result.Evaluations[0], result.Evaluations[len(result.Evaluations)-1]
	evaluated, err := engine.Evaluate(s.ctx, dev, engine.EvalOptions{Model: o.Output, Text: o.Eval, Length: o.Length, Batch: o.Batch, Precision: o.Precision}, s.watcher)
	if err != nil {
		return "", fmt.Errorf("reading the written model again: %w", err)
	}
	again := evaluated.Texts[0]
	if again.Loss != pruned.Loss {
		return "", fmt.Errorf("the model in %s has a loss of %v, and had %v in memory before it was written; they must be the same", o.Output, again.Loss, pruned.Loss)
	}
	var b strings.Builder
	f := result.Final
	fmt.Fprintf(&b, "\nRemoved: %s of the weights in the blocks, %s of the whole model.\n\n", report.Percent(f.Sparsity), report.Percent(f.Reduction))
	fmt.Fprintf(&b, "Perplexity on a text that was not used, %s of %d tokens:\n\n", report.Counted(dense.Windows, "window"), dense.Length)
	for _, row := range []struct {
		of string
		e  report.Evaluation
	}{{"before", dense}, {"pruned", pruned}, {"pruned, written to a file and read again", again}} {
		fmt.Fprintf(&b, "%12.4f  %s\n", row.e.Perplexity, row.of)
	}
	b.WriteString("\nThe last two are the same to the last bit: what was measured is what was written.\n")
	return b.String(), nil
}

// directory is where the demo works. It does not go into one that is there: that may be somebody's.
func (c *demoCommand) directory(s *session) (string, error) {
	if c.Keep == "" {
		dir, err := os.MkdirTemp("", "surgeon-demo-")
		if err != nil {
			return "", err
		}
		s.atEnd(func() { os.RemoveAll(dir) })
		return dir, nil
	}
	if err := os.Mkdir(c.Keep, 0o755); err != nil {
		return "", refuse("--keep: %w", err)
	}
	return c.Keep, nil
}
