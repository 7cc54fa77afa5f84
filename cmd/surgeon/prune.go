package main

import (
	"fmt"
	"math"
	"strings"

	"surgeon/engine"
	"surgeon/engine/report"
)

// runFlags are the flags of a pruning run, and of its plan.
type runFlags struct {
	engine.Options `embed:""`

	Config configFile `help:"YAML file with values for these options, by the same names; what the command line says goes first." placeholder:"FILE" group:"general"`
	JSON   bool       `help:"Print the report, or the error, as JSON on standard output." group:"general"`

	common `embed:""`
}

type pruneCommand struct {
	runFlags `embed:""`

	DryRun bool `help:"Open and check everything and tell what would be done; write nothing." group:"general"`
}

// Help stands below the summary in --help.
func (*pruneCommand) Help() string {
	return `The model is pruned in shots. A shot measures the curvature of the loss on the calibration text, removes what costs least, and re-fits the weights that stay. Nothing of the input is changed. A run that was stopped goes on when the same command is given again.

For example:

	surgeon prune SmolLM2-135M --text wiki.txt --target 0.3 -o SmolLM2-135M-30`
}

func (c *pruneCommand) Run(s *session) error {
	o := c.options(s)
	if c.DryRun {
		return plan(s, c.runFlags, o, true)
	}
	s.onward.Store("after the last complete shot")
	checked, err := o.Checked() // for the shots, which a preset may set
	if err != nil {
		return err
	}
	dev, err := s.open(c.common, checked.Shots)
	if err != nil {
		return err
	}
	o.GPU = s.telemetry()
	result, err := engine.Prune(s.ctx, dev, o, s.watcher)
	if err != nil {
		return s.goesOn(err, lastShot(result))
	}
	if c.JSON {
		doc, err := result.JSON()
		if err != nil {
			return fmt.Errorf("the report: %w", err)
		}
		return s.print(string(doc))
	}
	return s.print(summary(result, o.Output))
}

// options are the options of the run: those of the flags, and the model from the YAML file where the command line names
// none.
func (c *runFlags) options(s *session) engine.Options {
	o := c.Options
	o.Version, o.Command, o.Given = programVersion(), s.spelledOut(), s.given
	if model, ok := s.config["model"].(string); ok && o.Model == "" {
		o.Model = model
		o.Command = append(o.Command, model)
	}
	return o
}

// lastShot is where a run goes on that was stopped with such a report, nil where it had not looked what shots there are.
func lastShot(r *report.Report) string {
	if r == nil {
		return "after its last complete shot, or from the beginning where there is none"
	}
	if len(r.Shots) == 0 {
		return "from the beginning, because no shot was complete"
	}
	return fmt.Sprintf("after shot %d", r.Shots[len(r.Shots)-1].Number)
}

// summary is what came out of a run.
func summary(r *report.Report, output string) string {
	var b strings.Builder
	f := r.Final
	fmt.Fprintf(&b, "%s written: %s of the weights in the blocks' linear layers removed (zeros in place), %s of the whole model.\n", output, report.Percent(f.Sparsity), report.Percent(f.Reduction))
	if f.StoppedEarly != "" {
		fmt.Fprintf(&b, "Stopped early: %s.\n", f.StoppedEarly)
	}
	fmt.Fprintf(&b, "Loss on %s of %d tokens: %.4f before, %.4f after, in nats per token; perplexity there %.2f and %.2f.\n",
		report.Counted(r.Data.HeldOut, "held-out window"), r.Data.Length, r.Dense.HeldOutLoss, f.HeldOutLoss, math.Exp(r.Dense.HeldOutLoss), math.Exp(f.HeldOutLoss))
	for i, t := range r.Data.Texts {
		before, after := r.Dense.HeldOutLosses[i].Loss, f.HeldOutLosses[i].Loss
		fmt.Fprintf(&b, "  %s, %s of them: %.4f before, %.4f after; perplexity %.2f and %.2f.\n", t.Name, report.Counted(t.HeldOut, "window"), before, after, math.Exp(before), math.Exp(after))
	}
	for _, e := range r.Evaluations {
		of := e.Of + " model"
		if e.Name != "" {
			of += ", " + e.Name
		}
		fmt.Fprintf(&b, "%s: %s\n", of, perplexityText(e))
	}
	if len(r.Evaluations) == 0 {
		fmt.Fprintf(&b, "These windows are of the calibration text; measure on another with: surgeon eval %s --text FILE\n", report.ShellWords([]string{output}))
	}
	return b.String()
}
