package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"surgeon/engine"
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

Every target is a run of its own, unless the row says one-run: true: then the row's shots are those to the highest target, and the others, which shots have to end at, are met on the way. Every run goes on where it was stopped, and so does the table.`
}

// tableFile is the YAML file of a table.
type tableFile struct {
	Options map[string]any `yaml:"options"`
	Eval    map[string]any `yaml:"eval"`
	Tables  []struct {
		Title   string         `yaml:"title"`
		Targets []float64      `yaml:"targets"`
		Options map[string]any `yaml:"options"`
		Rows    []struct {
			Name    string         `yaml:"name"`
			OneRun  bool           `yaml:"one-run"`
			Options map[string]any `yaml:"options"`
		} `yaml:"rows"`
	} `yaml:"tables"`
}

// tableRun is one run that a table asks for, and the cells that come of it: its target's, and those on the way.
type tableRun struct {
	table, row string
	options    engine.Options
	shots      int
	cells      []tableCell // missing ones only, by their targets
}

type tableCell struct {
	target    float64
	arguments []string // of prune, for a run to this target, without places
}

func (c *tableCommand) Run(s *session) error {
	file, err := readTable(c.File)
	if err != nil {
		return err
	}
	results, err := report.ReadComparison(c.path("results.json"))
	if err != nil {
		return refuse("%w", err)
	}
	runs, err := c.runs(s, file, results)
	if err != nil {
		return err
	}
	eval, err := c.eval(s, file)
	if err != nil {
		return err
	}
	dev, err := s.open(c.common, 0)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Results, 0o777); err != nil {
		return fmt.Errorf("the directory for the results: %w", err)
	}
	if results.Dense == nil {
		s.watcher.Say("dense model")
		e, err := engine.Evaluate(s.ctx, dev, eval, s.watcher)
		if err != nil {
			return err
		}
		results.Dense = placeless(e.Texts[0], "dense")
		if err := c.write(results); err != nil {
			return err
		}
	}
	for i, x := range runs {
		s.watcher.Say(fmt.Sprintf("run %d of %d: %s, %s, %v", i+1, len(runs), x.table, x.row, x.options.Target))
		if err := c.run(s, dev, x, eval, results); err != nil {
			return fmt.Errorf("%s, %s, %v: %w", x.table, x.row, x.options.Target, err)
		}
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

func (c *tableCommand) path(name string) string { return filepath.Join(c.Results, name) }

// run prunes, measures what the run has written, adds that to the results, and removes the models unless they are to be kept.
func (c *tableCommand) run(s *session, dev device.Device, x tableRun, eval engine.EvalOptions, results *report.Comparison) error {
	s.watcher.End()
	s.watcher = newWatcher(s.stderr, c.common, x.shots) // which foresees the end of so many shots
	s.atEnd(s.watcher.End)
	if _, err := engine.Prune(s.ctx, dev, x.options, s.watcher); err != nil {
		return err
	}
	for _, cell := range x.cells {
		if eval.Model = x.options.Output; cell.target != x.options.Target {
			eval.Model = x.options.OutputAt(cell.target)
		}
		r, err := report.Read(filepath.Join(eval.Model, "report.json"))
		if err != nil {
			return err
		}
		e, err := engine.Evaluate(s.ctx, dev, eval, s.watcher)
		if err != nil {
			return err
		}
		done := report.Cell{Table: x.table, Row: x.row, Target: cell.target, OnWay: cell.target != x.options.Target, Arguments: cell.arguments, Evaluation: *placeless(e.Texts[0], x.row),
			Sparsity: r.Final.Sparsity, Reduction: r.Final.Reduction, PeakBytes: r.PeakResidentBytes, Program: r.Program, Device: r.Machine.Device}
		for _, shot := range r.Shots {
			done.Seconds += shotTime(shot).Seconds()
		}
		r.Model.Path = filepath.Base(r.Model.Path)
		results.Model, results.Cells = r.Model, append(results.Cells, done)
		if err := c.write(results); err != nil {
			return err
		}
		if !c.Keep {
			if err := os.RemoveAll(eval.Model); err != nil {
				return err
			}
		}
	}
	return nil
}

// placeless names the model and the text without the places where they lay: results are for others to read.
func placeless(e report.Evaluation, of string) *report.Evaluation {
	e.Of, e.Text = of, filepath.Base(e.Text)
	return &e
}

func (c *tableCommand) write(results *report.Comparison) error {
	if err := results.Write(c.path("results.json")); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("results.md"), []byte(results.Markdown()), 0o666); err != nil {
		return fmt.Errorf("the results: %w", err)
	}
	return nil
}

// readTable reads the file; what it does not know is refused.
func readTable(path string) (tableFile, error) {
	var file tableFile
	f, err := os.Open(path)
	if err != nil {
		return file, refuse("%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, configBytesMax+1))
	if err != nil || len(data) > configBytesMax {
		return file, refuse("%s: no YAML file of at most %d bytes: %v", path, configBytesMax, err)
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		return file, refuse("%s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if len(file.Tables) == 0 {
		return file, refuse("%s has no tables", path)
	}
	return file, nil
}

// runs are those that are asked for and have results that are missing. What can be refused before anything runs is refused here.
func (c *tableCommand) runs(s *session, file tableFile, results *report.Comparison) ([]tableRun, error) {
	var all []tableRun
	for _, t := range file.Tables {
		if t.Title == "" || len(t.Targets) == 0 || len(t.Rows) == 0 {
			return nil, refuse("%s: a table needs title, targets and rows; one has the title %q, %d targets and %d rows", c.File, t.Title, len(t.Targets), len(t.Rows))
		}
		for _, r := range t.Rows {
			if !strings.Contains(t.Title+", "+r.Name, c.Only) {
				continue
			}
			missing := func(x tableCell) bool { return results.Find(t.Title, r.Name, x.target, x.arguments) == nil }
			var groups [][]float64 // targets that are met in one run, the highest last
			if r.OneRun {
				groups = [][]float64{slices.Sorted(slices.Values(t.Targets))}
			} else {
				for _, target := range t.Targets {
					groups = append(groups, []float64{target})
				}
			}
			for _, targets := range groups {
				x, err := c.tableRun(s, tableRun{table: t.Title, row: r.Name}, targets, merged(file.Options, t.Options, r.Options))
				if err != nil {
					return nil, refuse("%s: %s, %s: %w", c.File, t.Title, r.Name, err)
				}
				if x.cells = slices.DeleteFunc(x.cells, func(y tableCell) bool { return !missing(y) }); len(x.cells) > 0 {
					all = append(all, x)
				}
			}
		}
	}
	return all, nil
}

// eval are the options of the measurement.
func (c *tableCommand) eval(s *session, file tableFile) (engine.EvalOptions, error) {
	values := merged(file.Eval)
	c.replace(values)
	if values["model"] == nil {
		values["model"] = file.Options["model"]
	}
	eval := new(evalCommand)
	if _, err := s.parseAs("eval", values, eval); err != nil {
		return engine.EvalOptions{}, refuse("%s: eval: %w", c.File, err)
	}
	if len(eval.Text) == 0 || len(eval.Tasks) > 0 {
		return engine.EvalOptions{}, refuse("%s: eval needs a text, and takes no tasks: a table is one of perplexities", c.File)
	}
	names, err := eval.Names()
	if err != nil {
		return engine.EvalOptions{}, refuse("%s: eval: %w", c.File, err)
	}
	if len(names) > 1 {
		return engine.EvalOptions{}, refuse("%s: eval has the texts %s; a table is one of perplexities on one", c.File, strings.Join(names, " and "))
	}
	return eval.EvalOptions, nil
}

// merged are options of which later ones take the place of earlier ones.
func merged(all ...map[string]any) map[string]any {
	m := map[string]any{}
	for _, options := range all {
		for name, value := range options {
			m[name] = value
		}
	}
	return m
}

// replace puts the model and the text of the command line in the place of the file's.
func (c *tableCommand) replace(values map[string]any) {
	if c.Model != "" {
		values["model"] = c.Model
	}
	if c.Text != "" {
		values["text"] = []any{c.Text}
	}
}

// tableRun fills in the options of a run to the last of the targets, and its cells.
func (c *tableCommand) tableRun(s *session, x tableRun, targets []float64, values map[string]any) (tableRun, error) {
	for _, name := range []string{"target", "output", "write-at", "work", "config", "device", "dry-run", "json"} {
		if values[name] != nil {
			return x, fmt.Errorf("%s is not an option of a row", name)
		}
	}
	named := merged(values)
	delete(named, "model")
	delete(named, "text")
	last := len(targets) - 1
	c.replace(values)
	values["target"] = targets[last]
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(fmt.Sprintf("%s %s %v", x.table, x.row, targets[last])))
	values["output"] = c.path(name)
	prune := new(pruneCommand)
	given, err := s.parseAs("prune", values, prune)
	if err != nil {
		return x, err
	}
	x.options = prune.Options
	x.options.Given, x.options.Version, x.options.Command = given, programVersion(), s.command()
	if last > 0 {
		x.options.WriteAt = targets[:last]
	}
	checked, err := x.options.Checked()
	x.shots = checked.Shots
	for _, target := range targets {
		if last > 0 {
			named["shots"] = int(math.Round(float64(x.shots) * target / targets[last])) // what a run to that target would have
		}
		x.cells = append(x.cells, tableCell{target, arguments(named)})
	}
	return x, err
}

// parseAs has the parser of the command line read options by their names, with its defaults and its checks, into a command.
func (s *session) parseAs(name string, values map[string]any, into any) (given []string, err error) {
	args := append([]string{name}, arguments(values)...)
	inner := &session{ctx: s.ctx, args: args, stdout: io.Discard, stderr: io.Discard}
	command, err := parse(inner, args)
	if err != nil {
		return nil, err
	}
	if command == nil {
		return nil, fmt.Errorf("%s are no options", strings.Join(args, " "))
	}
	switch into := into.(type) {
	case *pruneCommand:
		*into = *command.Selected().Target.Addr().Interface().(*pruneCommand)
	case *evalCommand:
		*into = *command.Selected().Target.Addr().Interface().(*evalCommand)
	}
	return inner.given, nil
}

// arguments writes options as the command line has them, in the order of their names.
func arguments(values map[string]any) []string {
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	var args []string
	for _, name := range names {
		switch v := values[name].(type) {
		case nil:
		case bool:
			args = append(args, fmt.Sprintf("--%s=%v", name, v))
		case []any:
			for _, x := range v {
				args = append(args, fmt.Sprintf("--%s=%v", name, x))
			}
		default:
			if name == "model" {
				args = append(args, fmt.Sprint(v))
			} else {
				args = append(args, fmt.Sprintf("--%s=%v", name, v))
			}
		}
	}
	return args
}
