package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"surgeon/engine"
	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/report"
)

// tableCommand runs many methods on one model.
type tableCommand struct {
	File    string `arg:"" name:"file" help:"YAML file: which methods, at which targets."`
	Results string `help:"Directory for the results, results.json and results.md; runs that are in it already are not made again." required:"" placeholder:"DIR" group:"output"`
	Model   string `help:"Model, in place of the file's." placeholder:"MODEL" group:"data"`
	Text    string `help:"Text, in place of the file's, to calibrate and to measure on." placeholder:"FILE" group:"data"`
	Only    string `help:"Only the tables, and rows, whose names hold this." placeholder:"WORDS" group:"output"`
	Keep    bool   `help:"Keep the pruned models, in the directory of results." group:"output"`
	JSON    bool   `help:"Print the results as JSON." group:"general"`

	common `embed:""`
}

// Help stands below the summary in --help.
func (*tableCommand) Help() string {
	return `The file has the options of prune that all runs have, those of eval, and tables with rows and targets:

	options: {model: SmolLM2-135M, text: [wiki.txt], text-limit: 800000, samples: 48, length: 512}
	eval: {text: [wiki.txt], text-skip: 800000, length: 512}
	tables:
	  - title: Single weights
	    targets: [0.5]
	    options: {structure: element}
	    rows:
	      - {name: magnitude, options: {preset: magnitude}}
	      - {name: ours, options: {shots: 5}}

Every target is a run of its own, unless the row says one-run: true: then the row's shots are those to the highest target, and the others, which shots have to end at, are met on the way. Every run goes on where it was stopped, and so does the table. The model and the texts are the same for all rows; a directory with results of others is refused.`
}

func (c *tableCommand) Run(s *session) error {
	onward := "with what " + c.Results + " does not hold yet"
	s.onward.Store(onward)
	return s.goesOn(c.fill(s), onward)
}

// fill makes the runs whose figures are missing, and prints all that the file asks for. What can be refused before anything
// runs is refused first.
func (c *tableCommand) fill(s *session) error {
	file, err := readTable(c.File)
	if err != nil {
		return err
	}
	runs, err := c.runs(s, file)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(runs, func(x tableRun) bool { return x.asked }) {
		return refuse("--only %s: no table or row of %s is called so; the rows are %s", c.Only, c.File, strings.Join(rowNames(runs), "; "))
	}
	if _, err := os.Stat(c.path("config.json")); err == nil {
		return refuse("--results %s: a model lies there; results need a directory of their own", c.Results)
	}
	if err := checkpoint.MayWriteIn(c.Results); err != nil {
		return refuse("--results %s: %w", c.Results, err)
	}
	eval, arguments, err := c.eval(s, file, runs[0].options.Model)
	if err != nil {
		return err
	}
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	s.watcher.Stage("checksums of the model and the texts", 0)
	here, err := c.identity(s.ctx, runs[0].options, eval, arguments)
	if err != nil {
		return err
	}
	s.watcher.End()
	results, err := c.results(here)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Results, 0o777); err != nil {
		return refuse("the directory for the results: %w", err)
	}
	held, err := os.Open(c.Results)
	if err != nil {
		return refuse("the directory for the results: %w", err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return refuse("--results %s: another surgeon is adding to it: %w", c.Results, err)
	}
	if results, err = c.results(here); err != nil { // that one may have added to them since
		return err
	}
	var missing, finished []tableRun
	var places []report.Place
	for _, x := range runs {
		if err := c.clean(x, results); err != nil { // a process that was killed may have left them
			return err
		}
		if x.asked && slices.ContainsFunc(x.places, func(p report.Place) bool { return results.Find(p) == nil }) {
			missing = append(missing, x)
		} else if x.asked {
			finished = append(finished, x)
		}
		places = append(places, x.places...)
	}
	if names := unkept(finished); c.Keep && len(names) > 0 {
		s.watcher.Warn(fmt.Sprintf("--keep: what is finished is not run again, so no model is kept of %s; to have them, give another directory with --results", strings.Join(names, "; ")))
	}
	if results.Dense == nil {
		s.watcher.Say("dense model")
		e, err := engine.Evaluate(s.ctx, dev, eval, s.watcher)
		if err != nil {
			return err
		}
		results.Dense = placeless(e.Texts[0], "dense")
		if err := results.Write(c.path("results.json")); err != nil {
			return err
		}
	}
	for i, x := range missing {
		s.watcher.Say(fmt.Sprintf("run %d of %d: %s, %s, %v", i+1, len(missing), x.table, x.row, x.options.Target))
		if err := c.run(s, dev, x, eval, results, places); err != nil {
			return fmt.Errorf("%s, %s, %v: %w", x.table, x.row, x.options.Target, err)
		}
	}
	results = results.Select(places)
	if err := c.writeMarkdown(results); err != nil { // also without a run: the file may ask for other rows than before
		return err
	}
	if c.JSON {
		doc, err := results.JSON()
		if err != nil {
			return err
		}
		return s.print(string(doc))
	}
	return s.print(results.Markdown())
}

// identity is what all results are of, a comparison without any. It reads the model and the texts whole, which may take minutes.
func (c *tableCommand) identity(ctx context.Context, o engine.Options, eval engine.EvalOptions, arguments []string) (here *report.Comparison, err error) {
	here = &report.Comparison{EvaluationArguments: arguments}
	if here.Model, err = modelOf(ctx, o.Model); err != nil {
		return nil, err
	}
	if here.CalibrationText, err = engine.TextIdentity(ctx, "text", o.Text); err != nil {
		return nil, refuse("%s: %w", c.File, err)
	}
	if here.EvaluationText, err = engine.TextIdentity(ctx, "text", eval.Text); err != nil {
		return nil, refuse("%s: eval: %w", c.File, err)
	}
	return here, nil
}

// results are those in the directory. It is refused where they are of another model or other texts: figures of two cannot
// stand in one table.
func (c *tableCommand) results(here *report.Comparison) (*report.Comparison, error) {
	results, err := report.ReadComparison(c.path("results.json"))
	if err != nil {
		return nil, refuse("%w", err)
	}
	if differences := results.Differences(here); len(differences) > 0 {
		return nil, refuse("the results in %s are of something else (%s): give what they are of to go on with them, or another directory with --results", c.path("results.json"), strings.Join(differences, "; "))
	}
	if results.Model.SHA256 == "" {
		results.Model = here.Model
	}
	results.CalibrationText, results.EvaluationText, results.EvaluationArguments = here.CalibrationText, here.EvaluationText, here.EvaluationArguments
	return results, nil
}

// modelOf tells a model from others. How many parameters it has, the first run will say.
func modelOf(ctx context.Context, path string) (report.Model, error) {
	m, err := checkpoint.Open(path)
	if err != nil {
		return report.Model{}, refuse("%w", err)
	}
	defer m.Close()
	hash, err := m.Hash(ctx)
	if err != nil {
		return report.Model{}, refuse("%w", err)
	}
	return report.Model{Path: filepath.Base(path), Format: string(m.Format), Family: m.Config.Family, SHA256: hash}, nil
}

// rowNames are the rows of runs, as --only looks at them.
func rowNames(runs []tableRun) []string {
	var names []string
	for _, x := range runs {
		if name := x.table + ", " + x.row; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (c *tableCommand) path(name string) string { return filepath.Join(c.Results, name) }

// run prunes, measures what the run has written, adds that to the results, and removes the models unless they are to be kept.
func (c *tableCommand) run(s *session, dev device.Device, x tableRun, eval engine.EvalOptions, results *report.Comparison, places []report.Place) error {
	s.watcher.End()
	s.watcher = newWatcher(s.stderr, c.common, x.shots) // which foresees the end of so many shots
	s.atEnd(s.watcher.End)
	if _, err := engine.Prune(s.ctx, dev, x.options, s.watcher); err != nil {
		return err
	}
	for _, p := range x.places {
		if results.Find(p) != nil {
			continue
		}
		eval.Model = x.output(p.Target)
		r, err := report.Read(filepath.Join(eval.Model, "report.json"))
		if err != nil {
			return err
		}
		e, err := engine.Evaluate(s.ctx, dev, eval, s.watcher)
		if err != nil {
			return err
		}
		done := report.Cell{Place: p, OnWay: p.Target != x.options.Target, Evaluation: *placeless(e.Texts[0], x.row),
			Sparsity: r.Final.Sparsity, Reduction: r.Final.Reduction, PeakBytes: r.PeakResidentBytes, Program: r.Program, Device: r.Machine.Device}
		for _, shot := range r.Shots {
			done.Seconds += shot.TotalSeconds()
		}
		r.Model.Path = filepath.Base(r.Model.Path)
		results.Model, results.Cells = r.Model, append(results.Cells, done)
		name := filepath.Base(eval.Model)
		results.Kept = slices.DeleteFunc(results.Kept, func(kept string) bool { return kept == name })
		if c.Keep {
			results.Kept = append(results.Kept, name)
		}
		if err := results.Write(c.path("results.json")); err != nil {
			return err
		}
		if err := c.writeMarkdown(results.Select(places)); err != nil {
			return err
		}
		if err := c.clean(x, results); err != nil {
			return err
		}
	}
	return nil
}

// clean removes the models of a run whose figures are in the results, but for those that --keep has kept.
func (c *tableCommand) clean(x tableRun, results *report.Comparison) error {
	for _, p := range x.places {
		dir := x.output(p.Target)
		if c.Keep || results.Find(p) == nil || slices.Contains(results.Kept, filepath.Base(dir)) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing a model that has been measured: %w", err)
		}
	}
	return nil
}

// unkept are those places of finished runs of which there is no model.
func unkept(finished []tableRun) (names []string) {
	for _, x := range finished {
		for _, p := range x.places {
			if _, err := os.Stat(x.output(p.Target)); err != nil {
				names = append(names, fmt.Sprintf("%s, %s, %v", p.Table, p.Row, p.Target))
			}
		}
	}
	return names
}

// placeless names the model and the text without the places where they lay: results are for others to read.
func placeless(e report.Evaluation, of string) *report.Evaluation {
	e.Of, e.Text = of, filepath.Base(e.Text)
	return &e
}

// writeMarkdown writes results.md, which is replaced at once or not at all.
func (c *tableCommand) writeMarkdown(results *report.Comparison) error {
	if err := renameio.WriteFile(c.path("results.md"), []byte(results.Markdown()), 0o644); err != nil {
		return fmt.Errorf("writing the results as a table: %w", err)
	}
	return nil
}
