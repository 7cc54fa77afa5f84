// Package report holds the figures of one run: what was asked for, on what, what came out, and what it cost. Report is
// written as report.json, from which a run can be judged and repeated, and as the model card of the pruned model.
//
// # Conventions
//
// Losses are means over next tokens in nats. Shares (sparsity, reduction, targets) lie between 0 and 1. Sparsity counts the
// removed weights of the pruned layers, reduction the same weights against all parameters of the model. Bytes are bytes,
// times are seconds. Rows and columns count from 0.
//
// A figure that cannot be had is null, never 0. A figure that is not finite is not written: JSON refuses the whole report
// and names the figure, because a report with a hole would pass for a complete one.
package report

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// Report is everything that one run has to say.
type Report struct {
	Program     Program           `json:"program"`
	Machine     Machine           `json:"machine"`
	Command     []string          `json:"command"` // the program and its arguments, those of a file spelled out
	Options     any               `json:"options"` // the run's options, defaults filled in
	Run         string            `json:"run"`     // SHA-256 of all that the bits of the result depend on
	Seeds       map[string]uint64 `json:"seeds"`   // by what they are for
	Started     time.Time         `json:"started"`
	Seconds     float64           `json:"seconds"`      // wall time of the process that finished the run
	ResumedFrom []int             `json:"resumed_from"` // the shots after which a stopped run was taken up again
	Warnings    []string          `json:"warnings"`

	Structure string `json:"structure"` // what was removed as one: "rowcol", "unit", "element", "2:4"

	Model  Model   `json:"model"`
	Data   Data    `json:"data"`
	Dense  Dense   `json:"dense"`
	Shots  []Shot  `json:"shots"`
	Final  Final   `json:"final"`
	Layers []Layer `json:"layers"`

	Evaluations []Evaluation `json:"evaluations"`

	PeakResidentBytes  int64 `json:"peak_resident_bytes"`  // of the process, PeakResident
	PeakDeviceBytes    int64 `json:"peak_device_bytes"`    // of the tensors on the device
	PlannedDeviceBytes int64 `json:"planned_device_bytes"` // what the plan says PeakDeviceBytes will be

	GPU *GPU `json:"gpu"` // nil on the CPU, and where the driver tells nothing
}

// Model is the model that was pruned, before.
type Model struct {
	Path       string `json:"path"`
	Format     string `json:"format"` // "Hugging Face directory", "GGUF file"
	Family     string `json:"family"` // "llama", "opt", …
	SHA256     string `json:"sha256"`
	Parameters int64  `json:"parameters"`       // all of them
	Prunable   int64  `json:"prunable_weights"` // those of the layers that are pruned
}

// Data is what the curvature was measured on.
type Data struct {
	Files   []File `json:"files"`
	Texts   []Text `json:"texts,omitempty"` // in the order given, where they have names
	Tokens  int64  `json:"tokens"`          // of all files together
	Windows int    `json:"windows"`         // for the curvature
	Length  int    `json:"length"`          // of a window, in tokens
	HeldOut int    `json:"held_out"`        // further windows, only measured on
	Batch   int    `json:"batch"`           // windows that went through the model at one time
}

// Text is what the files of one name amount to.
type Text struct {
	Name    string `json:"name"`
	Tokens  int64  `json:"tokens"`
	Windows int    `json:"windows"`
	HeldOut int    `json:"held_out"`
}

// TextLoss is the mean loss on the held-out windows of one named text.
type TextLoss struct {
	Text string  `json:"text"` // its name
	Loss float64 `json:"loss"`
}

// File is one file of text, as it lies on the disk.
type File struct {
	Text   string `json:"text,omitempty"` // the name of the text that it belongs to
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// Dense is the model before the first shot.
type Dense struct {
	HeldOutLoss   float64    `json:"held_out_loss"`
	HeldOutLosses []TextLoss `json:"held_out_losses,omitempty"` // by text, where they have names
}

// Shot is one step of the run.
type Shot struct {
	Number            int      `json:"number"` // from 1
	Target            float64  `json:"target"`
	Reached           float64  `json:"reached"` // sparsity of the pruned layers
	Reduction         float64  `json:"whole_model_reduction"`
	Threshold         *float64 `json:"threshold"` // the largest cost that was removed, by weight for units and --rank-by cost-per-weight; nil where there is none for the whole model
	LossBefore        float64  `json:"held_out_loss_before"`
	LossAfter         float64  `json:"held_out_loss_after"`
	PredictedIncrease *float64 `json:"predicted_increase"` // nil where no curvature predicts one
	Warning           string   `json:"warning,omitempty"`

	Lora *LoraRound `json:"lora,omitempty"` // nil where there were no corrections

	LossesAfter []TextLoss `json:"held_out_losses_after,omitempty"` // held-out losses after the shot by text, where they have names

	DampingsRaised []Damping          `json:"dampings_raised"`
	UpdateSteps    *Steps             `json:"update_steps,omitempty"` // of conjugate gradients; nil where there were none
	Seconds        map[string]float64 `json:"seconds"`                // by stage: curvature, costs, threshold, update, lora, check, journal
	PeakBytes      int64              `json:"peak_bytes"`             // resident, of the process up to here
}

// TotalSeconds is the time of all stages.
func (s Shot) TotalSeconds() float64 {
	sum := 0.0
	for _, stage := range slices.Sorted(maps.Keys(s.Seconds)) { // in one order, so that the sum has the same bits each time
		sum += s.Seconds[stage]
	}
	return sum
}

// LoraRound is a round of low-rank corrections.
type LoraRound struct {
	Windows    int      `json:"windows"` // of the calibration windows
	Epochs     int      `json:"epochs"`
	LossBefore float64  `json:"held_out_loss_before"`
	LossAfter  float64  `json:"held_out_loss_after"`
	LeftOut    []string `json:"layers_left_out,omitempty"` // that have no weight left
}

// Steps are how many steps of conjugate gradients the update of a layer took, by layers. Many are the sign of
// factors that are near singular.
type Steps struct {
	Mean float64 `json:"mean"`
	Most int     `json:"most"`
}

// Damping is a factor that is not positive definite with the damping that was asked for.
type Damping struct {
	Layer string  `json:"layer"`
	Side  string  `json:"side"`  // "A" or "G"
	Share float64 `json:"share"` // the damping it took, as a share of the mean diagonal
}

// Layer is a pruned layer at the end.
type Layer struct {
	Name     string `json:"name"`
	Rows     int    `json:"rows"`
	Cols     int    `json:"cols"` // with the bias, where there is one: the last column
	Removed  int    `json:"removed_weights"`
	KeptRows []int  `json:"kept_rows"`
	KeptCols []int  `json:"kept_cols"`
}

// Final is the model as it was written.
type Final struct {
	Sparsity      float64    `json:"sparsity"`
	Reduction     float64    `json:"whole_model_reduction"`
	HeldOutLoss   float64    `json:"held_out_loss"`
	HeldOutLosses []TextLoss `json:"held_out_losses,omitempty"` // by text, where they have names
	Lora          *LoraRound `json:"lora,omitempty"`            // the last round, on the model before it was rounded; nil where there was none
	StoppedEarly  string     `json:"stopped_early,omitempty"`   // why not all shots were made
}

// Evaluation is a perplexity with all that it depends on. NewEvaluation makes one.
type Evaluation struct {
	Of          string  `json:"of"`                    // the model
	Name        string  `json:"name,omitempty"`        // of the text, where it has one
	Text        string  `json:"text"`                  // its files
	TextSHA256  string  `json:"text_sha256,omitempty"` // of what was read from them and not left out; "" in reports made before it was told
	Calibration bool    `json:"calibration_text"`      // the calibration windows were drawn from this text, or from some of it, as far as reports tell
	Length      int     `json:"window_length"`         // tokens
	Windows     int     `json:"windows"`
	Loss        float64 `json:"loss"`
	Perplexity  float64 `json:"perplexity"`
	Bits        float64 `json:"bits"` // per token
}

// NewEvaluation is the perplexity exp(loss) of a model on a text, loss being the mean over windows of length tokens.
// calibration says that the model was pruned with this text or some of it, which flatters it.
func NewEvaluation(of, text string, calibration bool, length, windows int, loss float64) Evaluation {
	return Evaluation{Of: of, Text: text, Calibration: calibration, Length: length, Windows: windows,
		Loss: loss, Perplexity: math.Exp(loss), Bits: loss / math.Ln2}
}

// TaskScore is how well a model picks the right one of several choices: the accuracy by log-likelihood and by log-likelihood
// per character, as EleutherAI's lm-evaluation-harness names and defines them (package tasks). Standard errors are nil for a
// single item.
type TaskScore struct {
	Of                string   `json:"of"` // the model
	Task              string   `json:"task"`
	File              File     `json:"file"`
	Items             int      `json:"items"`
	Accuracy          float64  `json:"acc"`
	AccuracyError     *float64 `json:"acc_stderr"`
	AccuracyNorm      float64  `json:"acc_norm"`
	AccuracyNormError *float64 `json:"acc_norm_stderr"`
}

// Write writes JSON to path, which is replaced at once or not at all.
func (r *Report) Write(path string) error {
	b, err := r.JSON()
	if err == nil {
		err = renameio.WriteFile(path, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the report %s: %w", path, err)
	}
	return nil
}

// Read reads what Write has written. Options come back as JSON has them, a map.
func Read(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	r := new(Report)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("reading the report %s: %w", path, err)
	}
	return r, nil
}

// JSON is report.json: indented, with lists of numbers on one line. A figure that is NaN or infinite is an error that names
// it, as in "shots[2].held_out_loss_after is NaN".
func (r *Report) JSON() ([]byte, error) {
	if err := finite(r); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r.listed(), "", "  ")
	if err != nil {
		return nil, err
	}
	return append(joinNumbers(b), '\n'), nil
}

// listed is the report with an empty list for each one that is nil: nothing happened, rather than nothing is known.
func (r *Report) listed() Report {
	c := *r
	c.Command, c.ResumedFrom, c.Warnings = list(c.Command), list(c.ResumedFrom), list(c.Warnings)
	c.Data.Files, c.Evaluations = list(c.Data.Files), list(c.Evaluations)
	c.Shots, c.Layers = slices.Clone(list(c.Shots)), slices.Clone(list(c.Layers))
	for i := range c.Shots {
		c.Shots[i].DampingsRaised = list(c.Shots[i].DampingsRaised)
	}
	for i := range c.Layers {
		c.Layers[i].KeptRows, c.Layers[i].KeptCols = list(c.Layers[i].KeptRows), list(c.Layers[i].KeptCols)
	}
	return c
}

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
