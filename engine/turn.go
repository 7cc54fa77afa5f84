package engine

import (
	"context"
	"fmt"
	"time"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// turn is what the stages of one turn of the method's loop work with; engine.go has the stages.
type turn struct {
	options     Options
	dev         device.Device
	watcher     Watcher
	model       *model.Model
	calibration [][]int32
	warm        *curvature.Factors // what the next measurement starts from, or nil
	title       string             // before the names of stages: "shot 3 of 20: "
	clock       map[string]float64 // seconds per stage of what is going on
}

// Outcome is what one turn did to a model.
type Outcome struct {
	Losses    []float64    // of the calibration windows before it, in nats; nil without curvature
	Threshold *float64     // the largest cost that was removed; nil where nothing was, or where there is none for the whole model
	Removed   int          // weights that are gone now
	Total     int          // weights of all layers
	Kept      []prune.Kept // rows and columns, by layer; nil for single weights
	Predicted *float64     // increase of the loss in nats per token; nil without curvature
	Raised    []prune.Raised
	Steps     *report.Steps      // of the update
	FewTokens string             // a warning that nearest products rest on few tokens, or ""
	Seconds   map[string]float64 // by stage; of Turn only
}

// count takes note of the steps of conjugate gradients of one of so many layers.
func (o *Outcome) count(steps, layers int) {
	if steps == 0 {
		return
	}
	if o.Steps == nil {
		o.Steps = &report.Steps{}
	}
	o.Steps.Mean += float64(steps) / float64(layers)
	o.Steps.Most = max(o.Steps.Most, steps)
}

// Turn is one turn of the method's loop on a model that is on a device already, with the stages of Prune and nothing around
// them: no held-out loss, no journal, no file. It takes the options about pruning, and Batch; after it, at most the share
// target of the weights is gone.
func Turn(ctx context.Context, m *model.Model, calibration [][]int32, target float64, o Options, w Watcher) (Outcome, error) {
	o.fill()
	t := turn{options: o, dev: m.Device(), watcher: w, model: m, calibration: calibration, clock: map[string]float64{}}
	outcome, err := t.shrink(ctx, target)
	if t.warm != nil {
		t.warm.Free()
	}
	outcome.Seconds = t.clock
	return outcome, err
}

// layer is the i-th linear layer as the method sees it; the caller frees its W.
func (t *turn) layer(factors *curvature.Factors, i int) prune.Layer {
	linear := t.model.Linears()[i]
	l := prune.Layer{Name: linear.Name, W: linear.Matrix(device.F64)}
	if factors != nil {
		l.A, l.G = factors.Of(i)
		l.Diagonal = factors.Diagonal(i)
		for _, t := range factors.Rest(i) {
			l.Rest = append(l.Rest, prune.Term{A: t.A, G: t.G})
		}
	}
	return l
}

// eachLayer does the same to every layer, one after the other. The matrix that do is given is freed afterwards.
func (t *turn) eachLayer(ctx context.Context, stage string, factors *curvature.Factors, do func(i int, l prune.Layer) error) error {
	layers := t.model.Linears()
	t.stage(stage, len(layers))
	for i := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := t.layer(factors, i)
		err := do(i, l)
		t.dev.Free(l.W)
		if err := t.failed(layers[i], err); err != nil {
			return fmt.Errorf("%s: %w", stage, err)
		}
		t.watcher.Step(i + 1)
	}
	return nil
}

// failed is the device's failure in the work on a layer, with its place, or else err: what the method finds wrong with
// numbers of a device that has failed means nothing.
func (t *turn) failed(l *model.Linear, err error) error {
	if failure := t.dev.Sync(); failure != nil {
		return fmt.Errorf("block %d, layer %s: %w", l.Block, l.Name, failure)
	}
	return err
}

func (t *turn) damping() prune.Damping {
	return prune.Damping{G: *t.options.DampG, A: *t.options.DampA, Joint: t.options.Damping == jointDamping}
}

// stage tells the watcher that a stage begins.
func (t *turn) stage(name string, steps int) { t.watcher.Stage(t.title+name, steps) }

// time adds the seconds until the returned function is called to a stage.
func (t *turn) time(stage string) func() {
	start := time.Now()
	return func() { t.clock[stage] += time.Since(start).Seconds() }
}
