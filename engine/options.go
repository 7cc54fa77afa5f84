package engine

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/journal"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// Options are what a pruning run is asked to do. The tags give each option its one name, for flags, YAML files and the
// journal, with its default and its explanation.
type Options struct {
	Model string   `arg:"" optional:"" name:"model" yaml:"model" json:"model" help:"Hugging Face directory or GGUF file."`
	Text  []string `name:"text" yaml:"text" json:"text" help:"Calibration text: .txt, .jsonl (field text), .parquet (column text), also .gz or .zst; quoted globs; repeat the flag for several. NAME=FILE, for all of them, makes texts with names: windows are shared out equally, and the loss of each is measured after every shot." required:"" placeholder:"FILE" sep:"none" group:"data"`

	TextSkip  int64    `name:"text-skip" yaml:"text-skip" json:"text-skip" help:"Leave out the first N bytes of the text, of each where they have names." default:"0" placeholder:"BYTES" group:"data"`
	TextLimit int64    `name:"text-limit" yaml:"text-limit" json:"text-limit" help:"Use at most N bytes of the text, of each where they have names; 0 = all." default:"0" placeholder:"BYTES" group:"data"`
	Samples   int      `name:"samples" yaml:"samples" json:"samples" help:"Calibration windows." default:"128" group:"data"`
	Length    int      `name:"length" yaml:"length" json:"length" help:"Tokens in a window; 0 = 2048, or what the model allows." default:"0" placeholder:"TOKENS" group:"data"`
	HeldOut   int      `name:"held-out" yaml:"held-out" json:"held-out" help:"Further windows that are only measured on, to check every shot; 0 = an eighth of the samples." default:"0" placeholder:"WINDOWS" group:"data"`
	Seed      uint64   `name:"seed" yaml:"seed" json:"seed" help:"Seed of the draw of windows." default:"100" group:"data"`
	Eval      []string `name:"eval" yaml:"eval" json:"eval" help:"Other text, to measure the perplexity of the dense and the pruned model on, in windows of the same length; NAME=FILE, for all of them, measures each name." placeholder:"FILE" sep:"none" group:"data"`

	Structure  prune.Structure `name:"structure" yaml:"structure" json:"structure" help:"What is removed as one: rowcol (rows and columns), unit (attention heads and neurons of the MLP, with all that belongs to them), element (single weights), or N:M, as 2:4: N of every M consecutive inputs of a row." default:"rowcol" placeholder:"STRUCTURE" group:"pruning"`
	Preset     string          `name:"preset" yaml:"preset" json:"preset" help:"A method by its name: paper-structured, paper-unstructured, paper-2:4, magnitude, l-obd, k-obd, wanda, sparsegpt; it sets the options that make it what it is." enum:",paper-structured,paper-unstructured,paper-2:4,magnitude,l-obd,k-obd,wanda,sparsegpt" default:"" placeholder:"NAME" group:"pruning"`
	Target     float64         `name:"target" yaml:"target" json:"target" help:"Share of the weights in the blocks' linear layers to remove, between 0 and 1; for N:M, 0 = all blocks." default:"0" placeholder:"SHARE" group:"pruning"`
	Shots      int             `name:"shots" yaml:"shots" json:"shots" help:"Steps in which the target is reached." default:"20" group:"pruning"`
	StepLimit  float64         `name:"step-limit" yaml:"step-limit" json:"step-limit" help:"Largest share of its rows, or columns, that a matrix loses in one shot; 1 = the paper's rule." default:"0.2" placeholder:"SHARE" group:"pruning"`
	RankBy     prune.Ranking   `name:"rank-by" yaml:"rank-by" json:"rank-by" help:"What rows and columns are ranked by: cost, cost-per-weight." enum:"cost,cost-per-weight" default:"cost" group:"pruning"`
	Scope      prune.Scope     `name:"scope" yaml:"scope" json:"scope" help:"Among what single weights are compared: model, layer, row." enum:"model,layer,row" default:"model" group:"pruning"`
	Cost       prune.Cost      `name:"cost" yaml:"cost" json:"cost" help:"Cost of a structure: obs (the rest is re-fitted), obd (it is not)." enum:"obs,obd" default:"obs" group:"pruning"`
	Update     prune.Update    `name:"update" yaml:"update" json:"update" help:"How the weights that stay are re-fitted: joint, sum (rows and columns only), none." enum:"joint,sum,none" default:"joint" group:"pruning"`
	Group      int             `name:"group" yaml:"group" json:"group" help:"Most single weights that are re-fitted for together; whole rows, a longer row alone; 0 = all of a matrix." default:"0" placeholder:"WEIGHTS" group:"pruning"`
	Tolerance  float64         `name:"tolerance" yaml:"tolerance" json:"tolerance" help:"Residual at which the re-fit for single weights has converged, as a share of its right side's; with sums of three products and more, of every re-fit, by an estimate of what it costs above the least. 0 = what rounding allows." default:"0.01" placeholder:"SHARE" group:"pruning"`
	KeepBiases bool            `name:"keep-biases" yaml:"keep-biases" json:"keep-biases" help:"Biases are not among the single weights that can go; blocks of N:M never hold any." group:"pruning"`
	Sequential bool            `name:"sequential" yaml:"sequential" json:"sequential" help:"Each group of single weights sees the update of those before it." group:"pruning"`
	DampG      *float64        `name:"damp-g" yaml:"damp-g" json:"damp-g" help:"Damping of the gradient factors, as a share of their mean diagonal (default 0.01, for single weights and N:M 0.1)." placeholder:"SHARE" group:"pruning"`
	DampA      *float64        `name:"damp-a" yaml:"damp-a" json:"damp-a" help:"Damping of the input factors, as a share of their mean diagonal (default 0.01)." placeholder:"SHARE" group:"pruning"`
	Damping    string          `name:"damping" yaml:"damping" json:"damping" help:"What is damped: factored (each factor), joint (their product)." enum:"factored,joint" default:"factored" group:"pruning"`
	MaxLoss    float64         `name:"max-loss" yaml:"max-loss" json:"max-loss" help:"Stop before the shot after which the held-out loss would be above this, in nats; 0 = never." default:"0" placeholder:"NATS" group:"pruning"`

	Curvature     curvature.Kind   `name:"curvature" yaml:"curvature" json:"curvature" help:"Curvature of the loss: kfac, nearest (Kronecker product, by the power method), kron-sum (of several such products), activations, identity, diagonal (kfac with the Fisher's own diagonal, for single weights)." enum:"kfac,nearest,kron-sum,activations,identity,diagonal" default:"kfac" group:"curvature"`
	PowerSteps    int              `name:"power-steps" yaml:"power-steps" json:"power-steps" help:"Half steps of the power method, an even number; each is a pass over the calibration windows." default:"6" placeholder:"STEPS" group:"curvature"`
	Rank          int              `name:"rank" yaml:"rank" json:"rank" help:"Kronecker products that kron-sum adds up." default:"2" placeholder:"PRODUCTS" group:"curvature"`
	Fisher        curvature.Fisher `name:"fisher" yaml:"fisher" json:"fisher" help:"Whose gradients the curvature is made of: empirical (the true next tokens), sampled (tokens that the model draws)." enum:"empirical,sampled" default:"empirical" group:"curvature"`
	FisherSamples int              `name:"fisher-samples" yaml:"fisher-samples" json:"fisher-samples" help:"Tokens that are drawn for each one, a backward pass for each." default:"1" placeholder:"SAMPLES" group:"curvature"`
	FisherSeed    *uint64          `name:"fisher-seed" yaml:"fisher-seed" json:"fisher-seed" help:"Seed of the drawn tokens; that of the windows where none is given." placeholder:"SEED" group:"curvature"`

	Lora       bool    `name:"lora" yaml:"lora" json:"lora" help:"After every shot, correct the weights that stay by the gradient of the loss, through a change of low rank." group:"lora"`
	LoraRank   int     `name:"lora-rank" yaml:"lora-rank" json:"lora-rank" help:"Rank of a correction." default:"8" group:"lora"`
	LoraRate   float64 `name:"lora-rate" yaml:"lora-rate" json:"lora-rate" help:"Learning rate of Adam." default:"1e-4" placeholder:"RATE" group:"lora"`
	LoraShare  float64 `name:"lora-share" yaml:"lora-share" json:"lora-share" help:"Share of the calibration windows, one step each, that a shot is corrected on." default:"0.025" placeholder:"SHARE" group:"lora"`
	LoraEpochs int     `name:"lora-epochs" yaml:"lora-epochs" json:"lora-epochs" help:"Epochs of a last round on all calibration windows, after the last shot; 0 = none." default:"0" group:"lora"`

	Output    string    `name:"output" short:"o" yaml:"output" json:"output" help:"Directory for the pruned model." placeholder:"DIR" group:"output"`
	WriteAt   []float64 `name:"write-at" yaml:"write-at" json:"write-at" help:"Shares on the way to the target at which the model is written too, as OUTPUT-SHARE; a shot has to end there." placeholder:"SHARE" group:"output"`
	DType     string    `name:"dtype" yaml:"dtype" json:"dtype" help:"Type of the written weights: F32, F16, BF16; empty = that of the input (F32 for a quantised GGUF)." enum:",F32,F16,BF16" default:"" placeholder:"TYPE" group:"output"`
	Force     bool      `name:"force" yaml:"force" json:"force" help:"Replace an output directory that is there." group:"output"`
	Work      string    `name:"work" yaml:"work" json:"work" help:"Directory that makes a stopped run go on; one that is named stays, the default, OUTPUT.work, is removed when the run is complete." placeholder:"DIR" group:"output"`
	KeepShots bool      `name:"keep-shots" yaml:"keep-shots" json:"keep-shots" help:"Keep the work directory with the weights after every shot." group:"output"`

	Batch     int    `name:"batch" yaml:"batch" json:"batch" help:"Windows that go through the model at one time; 0 = 1 on the CPU, as many as fit on a GPU." default:"0" placeholder:"WINDOWS" group:"device"`
	Precision string `name:"precision" yaml:"precision" json:"precision" help:"Arithmetic of the model: float32, float64, or bfloat16, which is for GPUs and takes half the memory." enum:"float32,float64,bfloat16" default:"float32" placeholder:"TYPE" group:"device"`

	Given   []string `kong:"-" yaml:"-" json:"-"` // names of the options that were asked for, not left at their defaults
	Shared  []string `kong:"-" yaml:"-" json:"-"` // of these, those that were asked for several runs at once
	Version string   `kong:"-" yaml:"-" json:"-"` // of the program
	Command []string `kong:"-" yaml:"-" json:"-"` // the program and its arguments, those of a file spelled out, for the report

	// GPU, where it is not nil, is asked at the end what the GPU did meanwhile, for the report. It may return nil.
	GPU func() *report.GPU `kong:"-" yaml:"-" json:"-"`

	lengthGiven bool // sequences are as long as they are, and no --length makes them shorter

	deviceOwn   int64         // device.Memory.Own of the device that the work is for,
	page        device.Page   // its Page,
	deviceApart bool          // and whether it has memory of its own
	workNamed   bool          // the user named the work directory, so it stays
	hooks       journal.Hooks // tests

	gramScratch func(t device.Type, n int, cols []int, ones bool) int64 // the device's GramScratch
}

// RequestError is a wrong request: something the user can put right by asking differently. Nothing was written.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }
func (e *RequestError) Unwrap() error { return e.Err }

// refuse makes a RequestError.
func refuse(format string, args ...any) error { return &RequestError{fmt.Errorf(format, args...)} }

// KeepsWork says that the work directory stays when the run is done. It is known of Checked options.
func (o Options) KeepsWork() bool { return o.KeepShots || o.workNamed }

// mostShots is far more than anyone has the time for.
const mostShots = 10000

// defaultLength is the window length where none is asked for, in tokens: the paper's.
const defaultLength = 2048

// heldOutShare is one held-out window for so many calibration windows, where none are asked for.
const heldOutShare = 8

// Checked are the options with what depends on others filled in, a preset's too; it refuses what is wrong whatever the model
// and the text are.
func (o Options) Checked() (Options, error) {
	err := o.check()
	return o, err
}

// check refuses what is wrong whatever the model and the text are, and fills in what depends on other options.
func (o *Options) check() error {
	if err := o.applyPreset(); err != nil {
		return err
	}
	if err := o.checkCurvature(); err != nil {
		return err
	}
	if err := o.checkLora(); err != nil {
		return err
	}
	if err := o.checkIdle(); err != nil {
		return err
	}
	switch {
	case o.Model == "":
		return refuse("no model is named; give a Hugging Face directory or a GGUF file")
	case o.Target == 0 && !o.Structure.Blocks():
		return refuse("--target is 0, or not given; it is the share of weights to remove and must lie between 0 and 1, for example 0.3")
	case !(o.Target > 0 && o.Target < 1) && !o.Structure.Blocks() || !(o.Target >= 0):
		return refuse("--target is %v; it is the share of weights to remove and must lie between 0 and 1, for example 0.3", o.Target)
	case o.Structure.Blocks() && o.Target > o.Structure.Share():
		return refuse("--target is %v; --structure %v removes %v of the weights at most", o.Target, o.Structure, o.Structure.Share())
	case o.Shots < 1:
		return refuse("--shots is %d; at least 1 is needed", o.Shots)
	case o.Shots > mostShots:
		return refuse("--shots is %d; at most %d make sense, for each of them measures the curvature anew", o.Shots, mostShots)
	case !(o.StepLimit > 0 && o.StepLimit <= 1):
		return refuse("--step-limit is %v; it must lie above 0 and at most at 1", o.StepLimit)
	case o.Samples < 1:
		return refuse("--samples is %d; at least 1 is needed", o.Samples)
	case o.HeldOut < 0:
		return refuse("--held-out is %d; it cannot be negative", o.HeldOut)
	case o.Length != 0 && o.Length < 2:
		return refuse("--length is %d; a window needs at least 2 tokens to have a next one", o.Length)
	case o.DampG != nil && !(*o.DampG >= 0 && *o.DampG <= math.MaxFloat64):
		return refuse("--damp-g is %v; it must be a number, and not negative", *o.DampG)
	case o.DampA != nil && !(*o.DampA >= 0 && *o.DampA <= math.MaxFloat64):
		return refuse("--damp-a is %v; it must be a number, and not negative", *o.DampA)
	case o.Structure != prune.RowCol && o.Update == prune.Sum:
		return refuse("--update sum adds a step for rows and one for columns; with --structure %v it is joint or none", o.Structure)
	case o.Structure != prune.Element && o.Scope != prune.InModel:
		return refuse("--scope %v is about single weights; with --structure %v it is model", o.Scope, o.Structure)
	case o.Group < 0:
		return refuse("--group is %d; it is the number of weights that are re-fitted for together, and 0 leaves it open", o.Group)
	case !(o.Tolerance >= 0 && o.Tolerance < 1):
		return refuse("--tolerance is %v; it must lie between 0 and 1", o.Tolerance)
	case !(o.MaxLoss >= 0 && o.MaxLoss <= math.MaxFloat64):
		return refuse("--max-loss is %v; it must be a number, and not negative", o.MaxLoss)
	case o.Batch < 0:
		return refuse("--batch is %d; it cannot be negative", o.Batch)
	case o.TextSkip < 0 || o.TextLimit < 0:
		return refuse("--text-skip is %d and --text-limit is %d; neither can be negative", o.TextSkip, o.TextLimit)
	case o.Output == "":
		return refuse("no output directory is named; add -o DIR")
	case slices.Contains([]string{".", "..", "/"}, filepath.Clean(o.Output)):
		return refuse("-o %s is a directory that is there; name one that is not, beside it or in it", o.Output)
	}
	o.fill()
	if err := o.checkNames(); err != nil {
		return err
	}
	o.workNamed = o.Work != ""
	if o.Work == "" {
		o.Work = strings.TrimRight(o.Output, "/") + ".work"
	}
	for _, output := range o.Outputs() {
		if inside(o.Work, output) || inside(output, o.Work) {
			return refuse("--work %s and the output directory %s lie in one another; they must be apart", o.Work, output)
		}
	}
	return o.checkWriteAt()
}

// outOfReach is a warning where the target is more than shots can remove of a matrix when each takes as many rows and columns
// as the step limit lets it, or all units but one of each kind, or "". What is dead comes on top of that, and only a shot tells how
// much that is.
func (o *Options) outOfReach(c checkpoint.Config) string {
	if o.Structure == prune.Unit {
		if most := mostUnits(c); o.Target > most {
			return fmt.Sprintf("--target is %v; with --structure unit every block keeps a key/value head and a neuron, so that no more than %.3g can go of what is not dead already", o.Target, most)
		}
		return ""
	}
	most := 1 - math.Pow(1-o.StepLimit, 2*float64(o.Shots))
	if o.Structure != prune.RowCol || o.Target <= most+1e-9 {
		return ""
	}
	return fmt.Sprintf("--target is %v; with --step-limit %v and --shots %d no more than %.3g can go of what is not dead already: take more shots, or a higher limit", o.Target, o.StepLimit, o.Shots, most)
}

// checkCurvature refuses curvatures, and what goes with them, that make no sense together.
func (o *Options) checkCurvature() error {
	kind, joint := o.Curvature, o.Damping == jointDamping
	switch {
	case kind == curvature.Identity && o.Update != prune.None:
		return refuse("--curvature identity measures nothing, so --update %v has nothing to go by; add --update none", o.Update)
	case kind == curvature.Diagonal && !o.Structure.SingleWeights():
		return refuse("--curvature diagonal corrects the costs of single weights; with --structure %v it is kfac", o.Structure)
	case o.Structure == prune.Unit && (kind == curvature.Nearest || kind == curvature.KronSum):
		return refuse("--structure unit takes the curvature of the layers that read heads and neurons, by itself; with --curvature %v all are measured together: take kfac, activations or identity", kind)
	case o.Structure == prune.Unit && joint:
		return refuse("--structure unit inverts one factor, so that there is no product to damp: leave --damping factored")
	case kind == curvature.KronSum && o.Rank > 2 && o.Cost == prune.OBS:
		return refuse("--rank %d with --cost obs: a sum of more than 2 products has no inverse that could be computed; take --rank 2, or --cost obd", o.Rank)
	case kind == curvature.KronSum && joint:
		return refuse("--damping joint with --curvature kron-sum: in a sum the factors of the first product are damped; leave --damping factored")
	case joint && (kind == curvature.Identity || kind == curvature.Activations || kind == curvature.Diagonal):
		return refuse("--damping joint is for curvatures of two factors; with --curvature %v it is factored", kind)
	}
	if err := o.curvature().Check(); err != nil {
		return &RequestError{err}
	}
	return nil
}

// jointDamping is the word for damping the product, not the factors.
const jointDamping = "joint"

// curvature is what is measured.
func (o *Options) curvature() curvature.Options {
	c := curvature.Options{Kind: o.Curvature, Fisher: o.Fisher, Consumers: o.Structure == prune.Unit}
	if c.Warm() {
		c.PowerSteps = o.PowerSteps
	}
	if o.Curvature == curvature.KronSum {
		c.Rank = o.Rank
	}
	if o.Fisher == curvature.Sampled {
		c.Samples, c.Seed = o.FisherSamples, o.Seed
		if o.FisherSeed != nil {
			c.Seed = *o.FisherSeed
		}
	}
	return c
}

// predicts says whether the curvature is one of the loss, so that what it predicts is in nats.
func (o *Options) predicts() bool {
	return o.Curvature != curvature.Identity && o.Curvature != curvature.Activations
}

// The dampings where none is asked for (method.md section 2).
const (
	dampDefault        = 0.01
	dampWeightsDefault = 0.1 // of G, for single weights and blocks of them
)

// fill sets what is left open and depends on the structure.
func (o *Options) fill() {
	if o.Target == 0 {
		o.Target = o.Structure.Share()
	}
	if o.DampG == nil {
		d := dampDefault
		if o.Structure.SingleWeights() {
			d = dampWeightsDefault
		}
		o.DampG = &d
	}
	if o.DampA == nil {
		d := dampDefault
		o.DampA = &d
	}
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
