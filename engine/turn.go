package engine

import (
	"context"
	"fmt"
	"slices"
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
	settle      func() error       // waits until the weights may change; nil where nothing reads them
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
	o.settleMemory(m.Device())
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

// eachGroup does the same to all layers, one after the other or, where sizes says so, several side by side. The matrices that
// do is given are freed afterwards; first is the place of the first of them.
func (t *turn) eachGroup(ctx context.Context, stage string, factors *curvature.Factors, sizes []int, do func(first int, group []prune.Layer) error) error {
	layers := t.model.Linears()
	t.stage(stage, len(layers))
	first := 0
	for _, n := range sizes {
		if err := ctx.Err(); err != nil {
			return err
		}
		var group []prune.Layer
		for i := range n {
			group = append(group, t.layer(factors, first+i))
		}
		err := do(first, group)
		for _, l := range group {
			t.dev.Free(l.W)
		}
		if err := t.failed(err, layers[first:first+n]...); err != nil {
			return fmt.Errorf("%s: %w", stage, err)
		}
		first += n
		t.watcher.Step(first)
	}
	return nil
}

// groups are the layers that are costed, and re-fitted, side by side.
func (t *turn) groups() []int { return layerGroups(t.model.Config, t.options) }

// oneByOne is for what is done layer by layer on every device.
func (t *turn) oneByOne() []int { return slices.Repeat([]int{1}, len(t.model.Linears())) }

// failed is the device's failure in the work on some layers of a block, with its place, or else err: what the method finds wrong
// with numbers of a device that has failed means nothing.
func (t *turn) failed(err error, layers ...*model.Linear) error {
	failure := t.dev.Sync()
	if failure == nil {
		return err
	}
	first, last := layers[0], layers[len(layers)-1]
	if len(layers) == 1 {
		return fmt.Errorf("block %d, layer %s: %w", first.Block, first.Name, failure)
	}
	return fmt.Errorf("block %d, layers %s to %s: %w", first.Block, first.Name, last.Name, failure)
}

func (t *turn) damping() prune.Damping {
	return prune.Damping{G: *t.options.DampG, A: *t.options.DampA, Joint: t.options.Damping == jointDamping}
}

// stage tells the watcher that a stage begins.
func (t *turn) stage(name string, steps int) { t.watcher.Stage(t.title+name, steps) }

// settled waits until the weights may change.
func (t *turn) settled() error {
	if t.settle == nil {
		return nil
	}
	return t.settle()
}

// time adds the seconds until the returned function is called to a stage.
func (t *turn) time(stage string) func() {
	start := time.Now()
	return func() { t.clock[stage] += time.Since(start).Seconds() }
}
