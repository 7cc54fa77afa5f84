package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"surgeon/engine"
	"surgeon/engine/report"
)

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

// tableRun is one run that a table asks for, and the places of its cells: at its target, and on the way.
type tableRun struct {
	table, row string
	asked      bool // --only does not leave it out
	options    engine.Options
	shots      int
	places     []report.Place // by their targets
}

// readTable reads the file; what it does not know is refused.
func readTable(path string) (tableFile, error) {
	var file tableFile
	data, err := readYAML(path, "tables")
	if err != nil {
		return file, refuse("%w", err)
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		return file, located(path, err)
	}
	if len(file.Tables) == 0 {
		return file, refuse("%s has no tables", path)
	}
	return file, nil
}

// runs are all that the file asks for.
func (c *tableCommand) runs(s *session, file tableFile) ([]tableRun, error) {
	var all []tableRun
	titles := map[string]bool{}
	for _, t := range file.Tables {
		if t.Title == "" || len(t.Targets) == 0 || len(t.Rows) == 0 {
			return nil, refuse("%s: a table needs title, targets and rows; one has the title %q, %d targets and %d rows", c.File, t.Title, len(t.Targets), len(t.Rows))
		}
		if titles[t.Title] {
			return nil, refuse("%s: two tables have the title %s; another one tells them apart", c.File, t.Title)
		}
		titles[t.Title] = true
		targets := slices.Sorted(slices.Values(t.Targets))
		if len(slices.Compact(slices.Clone(targets))) < len(targets) {
			return nil, refuse("%s: %s: a target stands twice in %v", c.File, t.Title, t.Targets)
		}
		names := map[string]bool{}
		for _, r := range t.Rows {
			if r.Name == "" {
				return nil, refuse("%s: %s: a row has no name", c.File, t.Title)
			}
			if names[r.Name] {
				return nil, refuse("%s: %s: two rows have the name %s; another one tells them apart", c.File, t.Title, r.Name)
			}
			names[r.Name] = true
			var groups [][]float64 // targets that are met in one run, the highest last
			if r.OneRun {
				groups = [][]float64{targets}
			} else {
				for _, target := range t.Targets {
					groups = append(groups, []float64{target})
				}
			}
			for _, targets := range groups {
				x := tableRun{table: t.Title, row: r.Name, asked: strings.Contains(t.Title+", "+r.Name, c.Only)}
				x, err := c.tableRun(s, x, targets, file.Options, merged(t.Options, r.Options))
				if err != nil {
					return nil, refuse("%s: %s, %s: %w", c.File, t.Title, r.Name, err)
				}
				all = append(all, x)
			}
		}
	}
	return all, nil
}

// eval are the options of the measurement, and its arguments without places.
func (c *tableCommand) eval(s *session, file tableFile, model string) (engine.EvalOptions, []string, error) {
	refused := func(format string, args ...any) (engine.EvalOptions, []string, error) {
		return engine.EvalOptions{}, nil, refuse("%s: eval: %w", c.File, fmt.Errorf(format, args...))
	}
	for _, name := range []string{"model", "tasks", "results"} {
		if file.Eval[name] != nil {
			return refused("%s is not an option of the measurement: a table is one of perplexities, of the model in options", name)
		}
	}
	values := merged(file.Eval)
	if c.Text != "" {
		values["text"] = []any{c.Text}
	}
	values["model"] = model
	eval := new(evalCommand)
	if _, err := s.parseAs("eval", values, eval); err != nil {
		return refused("%w", err)
	}
	if err := optionsOf[engine.EvalOptions](values, "the measurement"); err != nil {
		return refused("%w", err)
	}
	if err := eval.Check(); err != nil {
		return refused("%w", err)
	}
	if names, _ := eval.Names(); len(names) > 1 {
		return refused("the texts are %s; a table is one of perplexities on one", strings.Join(names, " and "))
	}
	delete(values, "model")
	delete(values, "text")
	return eval.EvalOptions, arguments(values), nil
}

// optionsOf refuses what the parser knows and the engine does not: how the program works is the same for all runs.
func optionsOf[T any](values map[string]any, of string) error {
	fields := configFields(reflect.TypeFor[T]())
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if _, known := fields[name]; !known {
			return fmt.Errorf("%s is not an option of %s; where surgeon table has it, it stands on the command line", name, of)
		}
	}
	return nil
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

// tableRun fills in the options of a run to the last of the targets, and its places. Options of all runs stand behind the row's.
func (c *tableCommand) tableRun(s *session, x tableRun, targets []float64, ofAll, ofRow map[string]any) (tableRun, error) {
	for _, name := range []string{"model", "text"} {
		if ofRow[name] != nil {
			return x, fmt.Errorf("%s is not an option of a row: a table is one of methods, on the model and the text that the file's own options name", name)
		}
	}
	values := merged(ofAll, ofRow)
	for _, name := range []string{"target", "output", "write-at", "work", "config"} {
		if values[name] != nil {
			return x, fmt.Errorf("%s is not an option of a row", name)
		}
	}
	if values["max-loss"] != nil {
		return x, fmt.Errorf("max-loss is not an option of a row: a run that it stops is not at the target that it would stand under")
	}
	named := merged(values)
	delete(named, "model")
	delete(named, "text")
	if c.Model != "" {
		values["model"] = c.Model
	}
	if c.Text != "" {
		values["text"] = []any{c.Text}
	}
	last := len(targets) - 1
	values["target"] = targets[last]
	values["output"] = c.path(x.directory(targets, arguments(named)))
	prune := new(pruneCommand)
	given, err := s.parseAs("prune", values, prune)
	if err != nil {
		return x, err
	}
	if err := optionsOf[engine.Options](values, "a row"); err != nil {
		return x, err
	}
	x.options = prune.Options
	for name := range ofAll {
		if ofRow[name] == nil {
			x.options.Shared = append(x.options.Shared, name)
		}
	}
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
		x.places = append(x.places, report.Place{Table: x.table, Row: x.row, Target: target, Arguments: arguments(named)})
	}
	return x, err
}

// directory is the name of the directory for a run's model: readable, and behind that a hash that tells it from those of
// other rows, also of names that look alike then, and of the same row with other options.
func (x tableRun) directory(targets []float64, arguments []string) string {
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(fmt.Sprintf("%s %s %v", x.table, x.row, targets[len(targets)-1])))
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %v %q", x.table, x.row, targets, arguments))
	return fmt.Sprintf("%s-%x", readable, sum[:4])
}

// output is the directory of the run's model at a target.
func (x tableRun) output(target float64) string {
	if target != x.options.Target {
		return x.options.OutputAt(target)
	}
	return x.options.Output
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
