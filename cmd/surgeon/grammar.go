package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// grammar is the command line. Each command is a struct of flags with a method Run.
type grammar struct {
	Prune      pruneCommand      `cmd:"" help:"Make a model smaller and write it."`
	Eval       evalCommand       `cmd:"" help:"Measure the perplexity of a model on a text, its accuracy on tasks, or both."`
	Table      tableCommand      `cmd:"" help:"Compare methods on one model: prune, measure, and make a table."`
	Plan       planCommand       `cmd:"" help:"Tell how much time and memory a pruning run takes, before anything runs."`
	Compare    compareCommand    `cmd:"" help:"Set the outputs of pruning runs side by side: their figures, or what they removed."`
	Demo       demoCommand       `cmd:"" help:"Show the whole job on a small built-in model; less than a minute on two cores."`
	Bench      benchCommand      `cmd:"" help:"Measure how fast the device is at what a run does."`
	Info       infoCommand       `cmd:"" help:"Tell about this program, this machine, its devices, and the models that can be read."`
	Completion completionCommand `cmd:"" help:"Print a completion script for a shell."`

	Version kong.VersionFlag `help:"Print the version."`
}

// common are the flags of every command that computes.
type common struct {
	Device    string `help:"Where the matrices lie: cpu, cuda:N, or auto, which says what it chose." default:"auto" placeholder:"DEVICE" group:"device" yaml:"device"`
	GPUMemory string `name:"gpu-memory" help:"Most of the GPU's memory to use, such as 40GB or 40GiB; empty = all." placeholder:"BYTES" group:"device" yaml:"gpu-memory"`
	Threads   int    `help:"Cores to use; 0 = all." default:"0" placeholder:"CORES" group:"device" yaml:"threads"`

	Quiet     bool   `short:"q" help:"Tell only warnings, errors and the result." xor:"loudness" group:"general"`
	Verbose   bool   `short:"v" help:"Tell more." xor:"loudness" group:"general"`
	LogFormat string `help:"Form of the log lines where standard error is no terminal: text or json." enum:"text,json" default:"text" placeholder:"FORMAT" group:"general"`

	CPUProfile string `name:"cpuprofile" help:"Write a profile of the processor's work, for go tool pprof." hidden:"" placeholder:"FILE" group:"general"`
}

// newParser makes the parser. exit is called instead of os.Exit, after --help and --version, and must not return.
func newParser(g *grammar, s *session, exit func(int)) (*kong.Kong, error) {
	return kong.New(g,
		kong.Name("surgeon"),
		kong.Description("Makes trained language models smaller after training: removes the rows and columns, or the single weights, of their matrices that matter least, measured with Kronecker-factored curvature, and re-fits the rest. Try \"surgeon demo\" first."),
		kong.Writers(s.stdout, s.stderr),
		kong.Bind(s),
		kong.Exit(exit),
		kong.Vars{"version": "surgeon " + versionText()},
		kong.ConfigureHelp(kong.HelpOptions{NoExpandSubcommands: true, Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(withDefault),
		kong.ExplicitGroups([]kong.Group{
			{Key: "data", Title: "Text:"},
			{Key: "tasks", Title: "Tasks:"},
			{Key: "pruning", Title: "Pruning:"},
			{Key: "curvature", Title: "Curvature:"},
			{Key: "lora", Title: "Low-rank corrections:"},
			{Key: "output", Title: "Output:"},
			{Key: "device", Title: "Device:"},
			{Key: "general", Title: "General:"},
		}),
	)
}

// withDefault is the help of a flag, with its default where the placeholder, which tells the unit, stands in its place.
func withDefault(v *kong.Value) string {
	if v.Flag == nil || v.Flag.PlaceHolder == "" || v.Default == "" || v.Default == "0" {
		return v.Help
	}
	return fmt.Sprintf("%s (default %s)", strings.TrimSuffix(v.Help, "."), v.Default)
}
