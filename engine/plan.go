package engine

import (
	"context"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// PlanReport is what a run will need, told before anything runs.
type PlanReport struct {
	Device  string        `json:"device"`
	Windows int           `json:"windows"`
	HeldOut int           `json:"held_out"`
	Texts   []report.Text `json:"texts,omitempty"` // by name, where they have names
	Length  int           `json:"length"`
	Batch   int           `json:"batch"` // windows at one time
	Memory  []PlanPart    `json:"memory"`
	Disk    []DiskPart    `json:"disk"`
	Stages  []PlanStage   `json:"stages"`

	// The largest of the phases, plus what is always there. Where the device lives in main memory, PeakHostBytes is all of
	// it, tensors included, and PeakDeviceBytes the tensors alone.
	PeakDeviceBytes int64 `json:"peak_device_bytes"`
	PeakHostBytes   int64 `json:"peak_host_bytes"`

	Seconds float64 `json:"seconds"` // of the whole run
}

// CheckDisk refuses a run whose files do not fit where they would go.
func (p *PlanReport) CheckDisk() error { return roomOnDisk(p.Disk, diskOf) }

// PlanStage is a stage of the run: all its repetitions together.
type PlanStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Plan says what memory, by part, and what time, by stage, a run will take, from the shapes and a measurement of some
// seconds on the device with random weights of those shapes. It refuses what Prune would refuse before it begins, weights
// that are not finite included, which takes one look at all of them, and a second one, for their checksum, where there is something in
// the way that may be of the same run. Nothing is written.
func Plan(ctx context.Context, dev device.Device, o Options, w Watcher) (*PlanReport, error) {
	r, err := prepare(ctx, dev, o, w, true)
	if err != nil {
		return nil, err
	}
	defer r.close()
	in, o := r.inputs, r.options
	w.Stage("check of the weights", 0)
	if err := in.model.CheckFinite(ctx); err != nil {
		return nil, unusable(err)
	}
	p := &PlanReport{Device: dev.Name(), Windows: o.Samples, HeldOut: o.HeldOut, Texts: in.reportTexts(), Length: o.Length, Batch: o.Batch}
	p.Disk = r.diskParts()
	p.planMemory(in, o, dev.Memory())
	w.Stage("measuring", 0)
	rates, err := measure(ctx, dev, in, o)
	if err != nil {
		return nil, err
	}
	evaluated := 0
	if r.evaluation != nil {
		for _, t := range r.evaluation.texts {
			evaluated += len(t.ids) / o.Length
		}
	}
	p.planTime(in.model.Config, o, rates, evaluated)
	return p, nil
}

// costWork is what the time that a layer's costs take grows with: FLOP, or numbers where little is computed of each.
func (o *Options) costWork(rows, cols int) float64 {
	r, c := float64(rows), float64(cols)
	switch {
	case o.Curvature == curvature.Identity:
		return r * c
	case o.Cost == prune.OBD && !o.Structure.SingleWeights():
		return o.products() * 2 * r * c * (r + c)
	case o.Cost == prune.OBD:
		return o.products() * r * c
	case o.Structure == prune.RowCol:
		return prune.CostFLOP(rows, cols)
	}
	return prune.CostElementsFLOP(rows, cols)
}

// products is the number of Kronecker products of the curvature.
func (o *Options) products() float64 {
	if o.Curvature == curvature.KronSum {
		return float64(o.Rank)
	}
	return 1
}

// updateWork is what the time of a layer's update grows with, likewise, where a shot brings what is gone from before to after, and
// conjugate gradients, where there are any, take so many steps.
func (o *Options) updateWork(rows, cols int, before, after float64, steps int) float64 {
	r, c := float64(rows), float64(cols)
	switch {
	case o.Update == prune.None: // what it costs is predicted all the same
		return o.products() * 2 * r * c * (r + c)
	case o.Curvature == curvature.KronSum || o.Damping == jointDamping: // bases, and for each step an inverse, and F' itself
		pairs := 2.
		if o.products() > 2 {
			pairs += o.products()
		} else if !o.Structure.SingleWeights() {
			steps = 1
		}
		return 10*(r*r*r+c*c*c) + float64(steps)*pairs*2*r*c*(r+c)
	case o.Structure == prune.RowCol:
		return prune.ApplyFLOP(rows, cols, keptAfterShot(rows, cols, (after-before)/2, (after-before)/2))
	case o.Structure == prune.Unit:
		return prune.ApplyFLOP(rows, cols, keptAfterShot(rows, cols, 0, after-before))
	}
	return prune.ApplyElementsFLOP(rows, cols, steps)
}

// projectWork is Σn³ over the factors of the further products of a sum.
func (o *Options) projectWork(cfg checkpoint.Config) (work float64) {
	if o.Curvature != curvature.KronSum {
		return 0
	}
	for _, l := range linears(cfg) {
		r, c := float64(l.Rows), float64(l.Inputs())
		work += float64(o.Rank-1) * (r*r*r + c*c*c)
	}
	return work
}

// pruningWork is the costWork of one shot, and the updateWork of all.
func (o *Options) pruningWork(cfg checkpoint.Config) (costs, updates float64) {
	layers := linears(cfg)
	update := func(l *model.Linear) {
		for shot := range o.Shots {
			updates += o.updateWork(l.Rows, l.Inputs(), o.scheduled(shot), o.scheduled(shot+1), prune.StepsExpected)
		}
	}
	if o.Structure == prune.Unit { // consumers alone
		for _, c := range prune.Couplings(cfg, cfg.Linears()) {
			l := layers[c.Consumer().Layer]
			if c.Units == 1 { // it never goes
				continue
			}
			if o.Curvature == curvature.Identity || o.Cost == prune.OBD {
				costs += o.costWork(l.Rows, l.Inputs())
			} else {
				costs += prune.CostUnitsFLOP(l.Rows, l.Inputs(), c.Consumer().Width)
			}
			update(l)
		}
		return costs, updates
	}
	for _, l := range layers {
		costs += o.costWork(l.Rows, l.Inputs())
		update(l)
	}
	return costs, updates
}

// planTime multiplies the rates with the work; so many windows of other text are evaluated.
func (p *PlanReport) planTime(cfg checkpoint.Config, o Options, r rates, evaluated int) {
	shots, onWay := float64(o.Shots), float64(len(o.WriteAt)) // after a model on the way all is loaded again
	_, prunable := counts(cfg)
	costs, updates := o.pruningWork(cfg)
	add := func(name string, seconds float64) {
		p.Stages = append(p.Stages, PlanStage{name, seconds})
		p.Seconds += seconds
	}
	add("load", (1+onWay)*r.load)
	if o.Curvature != curvature.Identity {
		add("curvature", shots*(float64(o.Samples)*r.curvature+r.factors+o.projectWork(cfg)*r.project))
	}
	add("costs", shots*costs*r.costs)
	if o.Structure.SingleWeights() {
		add("threshold", shots*float64(prunable)*r.threshold)
	}
	add("update", updates*r.update)
	if o.Lora {
		add("lora", float64(o.loraSteps())*r.lora)
	}
	add("checks", (shots+2+onWay+float64(o.loraChecks()))*float64(o.HeldOut)*r.forward)
	if evaluated > 0 {
		add("perplexity", (2+onWay)*float64(evaluated)*r.forward)
	}
	each := 4 * float64(prunable) * r.bytes // for a shot, and for the output about as long
	waiting := shots * each
	if o.besides() { // while the next shot is measured, but for the last, and those that are written out
		var measured float64
		for _, s := range p.Stages {
			if s.Name == "curvature" || s.Name == "costs" || s.Name == "threshold" {
				measured += s.Seconds / shots
			}
		}
		waiting -= (shots - 1 - onWay) * min(each, measured)
	}
	add("journal and output", waiting+(1+onWay)*each)
}

// keptAfterShot marks what stays of a layer that loses these shares of its rows and of its columns.
func keptAfterShot(rows, cols int, ofRows, ofCols float64) prune.Kept {
	mark := func(n int, share float64) []bool {
		x := make([]bool, n)
		for i := range x {
			x[i] = float64(i) >= share*float64(n)
		}
		return x
	}
	return prune.Kept{Rows: mark(rows, ofRows), Cols: mark(cols, ofCols)}
}
