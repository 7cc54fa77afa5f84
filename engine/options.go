package engine

import (
	"fmt"
	"path/filepath"
	"strings"

	"surgeon/engine/journal"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// Options are what a pruning run is asked to do. The tags give each option its one name, for flags, YAML files and the
// journal, with its default and its explanation.
type Options struct {
	Model string   `arg:"" optional:"" name:"model" yaml:"model" json:"model" help:"Hugging Face directory or GGUF file."`
	Text  []string `name:"text" yaml:"text" json:"text" help:"Calibration text: .txt, .jsonl (field text), .parquet (column text), also .gz or .zst; quoted globs; repeat the flag for several." required:"" placeholder:"FILE" sep:"none" group:"data"`

	TextSkip  int64    `name:"text-skip" yaml:"text-skip" json:"text-skip" help:"Leave out the first N bytes of the text." default:"0" placeholder:"BYTES" group:"data"`
	TextLimit int64    `name:"text-limit" yaml:"text-limit" json:"text-limit" help:"Use at most N bytes of the text; 0 = all." default:"0" placeholder:"BYTES" group:"data"`
	Samples   int      `name:"samples" yaml:"samples" json:"samples" help:"Calibration windows." default:"128" group:"data"`
	Length    int      `name:"length" yaml:"length" json:"length" help:"Tokens in a window; 0 = 2048, or what the model allows." default:"0" placeholder:"TOKENS" group:"data"`
	HeldOut   int      `name:"held-out" yaml:"held-out" json:"held-out" help:"Further windows that are only measured on, to check every shot; 0 = an eighth of the samples." default:"0" placeholder:"WINDOWS" group:"data"`
	Seed      uint64   `name:"seed" yaml:"seed" json:"seed" help:"Seed of the draw of windows." default:"100" group:"data"`
	Eval      []string `name:"eval" yaml:"eval" json:"eval" help:"Other text, to measure the perplexity of the dense and the pruned model on, in windows of the same length." placeholder:"FILE" sep:"none" group:"data"`

	Target    float64       `name:"target" yaml:"target" json:"target" help:"Share of the weights in the blocks' linear layers to remove, between 0 and 1." required:"" placeholder:"SHARE" group:"pruning"`
	Shots     int           `name:"shots" yaml:"shots" json:"shots" help:"Steps in which the target is reached." default:"20" group:"pruning"`
	StepLimit float64       `name:"step-limit" yaml:"step-limit" json:"step-limit" help:"Largest share of its rows, or columns, that a matrix loses in one shot; 1 = the paper's rule." default:"0.2" placeholder:"SHARE" group:"pruning"`
	Rank      prune.Ranking `name:"rank" yaml:"rank" json:"rank" help:"What rows and columns are ranked by: cost, cost-per-weight." enum:"cost,cost-per-weight" default:"cost" group:"pruning"`
	Cost      prune.Cost    `name:"cost" yaml:"cost" json:"cost" help:"Cost of a row or column: obs, obd, magnitude." enum:"obs,obd,magnitude" default:"obs" group:"pruning"`
	Update    prune.Update  `name:"update" yaml:"update" json:"update" help:"How the weights that stay are re-fitted: joint, sum, none." enum:"joint,sum,none" default:"joint" group:"pruning"`
	DampG     float64       `name:"damp-g" yaml:"damp-g" json:"damp-g" help:"Damping of the gradient factors, as a share of their mean diagonal." default:"0.01" placeholder:"SHARE" group:"pruning"`
	DampA     float64       `name:"damp-a" yaml:"damp-a" json:"damp-a" help:"Damping of the input factors, as a share of their mean diagonal." default:"0.01" placeholder:"SHARE" group:"pruning"`
	MaxLoss   float64       `name:"max-loss" yaml:"max-loss" json:"max-loss" help:"Stop before the shot after which the held-out loss would be above this, in nats; 0 = never." default:"0" placeholder:"NATS" group:"pruning"`

	Output    string `name:"output" short:"o" yaml:"output" json:"output" help:"Directory for the pruned model." placeholder:"DIR" group:"output"`
	DType     string `name:"dtype" yaml:"dtype" json:"dtype" help:"Type of the written weights: F32, F16, BF16; empty = that of the input (F32 for a quantised GGUF)." enum:",F32,F16,BF16" default:"" placeholder:"TYPE" group:"output"`
	Force     bool   `name:"force" yaml:"force" json:"force" help:"Replace an output directory that is there." group:"output"`
	Work      string `name:"work" yaml:"work" json:"work" help:"Directory that makes a stopped run go on; default OUTPUT.work, removed when the run is complete." placeholder:"DIR" group:"output"`
	KeepShots bool   `name:"keep-shots" yaml:"keep-shots" json:"keep-shots" help:"Keep the work directory with the weights after every shot." group:"output"`

	Batch     int    `name:"batch" yaml:"batch" json:"batch" help:"Windows that go through the model at one time; 0 = 1 on the CPU, as many as fit on a GPU." default:"0" placeholder:"WINDOWS" group:"device"`
	Precision string `name:"precision" yaml:"precision" json:"precision" help:"Arithmetic of the model: float32, float64, or bfloat16, which is for GPUs and takes half the memory." enum:"float32,float64,bfloat16" default:"float32" placeholder:"TYPE" group:"device"`

	Version string   `kong:"-" yaml:"-" json:"-"` // of the program
	Command []string `kong:"-" yaml:"-" json:"-"` // the program and its arguments, for the report

	// GPU, where it is not nil, is asked at the end what the GPU did meanwhile, for the report. It may return nil.
	GPU func() *report.GPU `kong:"-" yaml:"-" json:"-"`

	lengthGiven bool // sequences are as long as they are, and no --length makes them shorter

	deviceOwn int64         // device.Memory.Own of the device that the work is for
	workNamed bool          // the user named the work directory, so it stays
	hooks     journal.Hooks // tests
}

// RequestError is a wrong request: something the user can put right by asking differently. Nothing was written.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// refuse makes a RequestError.
func refuse(format string, args ...any) error { return &RequestError{fmt.Errorf(format, args...)} }

// defaultLength is the window length where none is asked for, in tokens: the paper's.
const defaultLength = 2048

// heldOutShare is one held-out window for so many calibration windows, where none are asked for.
const heldOutShare = 8

// check refuses what is wrong whatever the model and the text are, and fills in what depends on other options.
func (o *Options) check() error {
	switch {
	case o.Model == "":
		return refuse("no model is named; give a Hugging Face directory or a GGUF file")
	case !(o.Target > 0 && o.Target < 1):
		return refuse("--target is %v; it is the share of weights to remove and must lie between 0 and 1, for example 0.3", o.Target)
	case o.Shots < 1:
		return refuse("--shots is %d; at least 1 is needed", o.Shots)
	case !(o.StepLimit > 0 && o.StepLimit <= 1):
		return refuse("--step-limit is %v; it must lie above 0 and at most at 1", o.StepLimit)
	case o.Samples < 1:
		return refuse("--samples is %d; at least 1 is needed", o.Samples)
	case o.HeldOut < 0:
		return refuse("--held-out is %d; it cannot be negative", o.HeldOut)
	case o.Length != 0 && o.Length < 2:
		return refuse("--length is %d; a window needs at least 2 tokens to have a next one", o.Length)
	case !(o.DampG >= 0) || !(o.DampA >= 0):
		return refuse("--damp-g is %v and --damp-a is %v; neither can be negative", o.DampG, o.DampA)
	case !(o.MaxLoss >= 0):
		return refuse("--max-loss is %v; it cannot be negative", o.MaxLoss)
	case o.Batch < 0:
		return refuse("--batch is %d; it cannot be negative", o.Batch)
	case o.TextSkip < 0 || o.TextLimit < 0:
		return refuse("--text-skip is %d and --text-limit is %d; neither can be negative", o.TextSkip, o.TextLimit)
	case o.Output == "":
		return refuse("no output directory is named; add -o DIR")
	case o.Cost == prune.Magnitude && o.Update != prune.None:
		return refuse("--cost magnitude measures no curvature, so --update %v has nothing to go by; add --update none", o.Update)
	}
	if o.HeldOut == 0 {
		o.HeldOut = max(1, o.Samples/heldOutShare)
	}
	o.workNamed = o.Work != ""
	if o.Work == "" {
		o.Work = strings.TrimRight(o.Output, "/") + ".work"
	}
	if inside(o.Work, o.Output) || inside(o.Output, o.Work) {
		return refuse("--work %s and the output directory %s lie in one another; they must be apart", o.Work, o.Output)
	}
	return nil
}

// inside tells whether path is dir or lies in it, by their names.
func inside(path, dir string) bool {
	at, err := filepath.Abs(path)
	around, err2 := filepath.Abs(dir)
	if err != nil || err2 != nil {
		return false
	}
	relative, err := filepath.Rel(around, at)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, ".."+string(filepath.Separator))
}
