package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/device"
	"surgeon/engine/report"
)

// A shot of a model of 7 billion weights is 26 GB in the work directory, and a GPU has nothing to do while a disk takes them.
// But the masters of a bfloat16 model lie in main memory, and no pass touches them. So they are written beside the next shot, up
// to where that changes them (turn.settle): what is written is the shot as it was. All else lies on the device, which takes
// one call at a time, and is written at once.

// saving is a shot on its way to the work directory.
type saving struct {
	number int
	done   chan struct{}
	err    error // once done is closed
}

// state is what a shot's record holds beside the weights: all of the run so far.
type state struct {
	Report      *report.Report `json:"report"`
	HeldOutLoss float64        `json:"held_out_loss"`
}

// save makes the shot the one a stopped run goes on from, now or, of a model with masters, beside what follows.
func (r *run) save(s report.Shot) error {
	s.PeakBytes = report.PeakResident()
	r.report.Shots = append(r.report.Shots, s)
	r.heldOutLoss = s.LossAfter
	now, err := json.Marshal(state{r.report, r.heldOutLoss}) // the report goes on while this is written
	if err != nil {
		return fmt.Errorf("saving shot %d: %w", s.Number, err)
	}
	if r.options.besides() {
		w := &saving{number: s.Number, done: make(chan struct{})}
		r.saving = w
		tensors := r.weights()
		go func() {
			defer close(w.done)
			w.err = r.journal.SaveShot(w.number, json.RawMessage(now), tensors)
		}()
	} else {
		done := r.time("journal")
		r.stage("journal", 0)
		err := r.journal.SaveShot(s.Number, json.RawMessage(now), append(r.weights(), r.warmth()...))
		done()
		if err != nil {
			r.forget()
			return err
		}
	}
	r.watcher.Shot(r.report.Shots[len(r.report.Shots)-1])
	return nil
}

// besides says whether shots can be written while the device works: all that is written lies in main memory.
func (o *Options) besides() bool { return typeOf(o.Precision) == device.BF16 && !o.curvature().Warm() }

// saved waits for the shot that is being saved, if there is one, and returns what went wrong. Nobody but SaveShot may use the
// journal before, nor change weights.
func (r *run) saved() error {
	w := r.saving
	if w == nil {
		return nil
	}
	defer r.time("journal")()
	select {
	case <-w.done:
	default:
		r.stage(fmt.Sprintf("journal of shot %d", w.number), 0)
		<-w.done
	}
	r.saving = nil
	if w.err != nil {
		r.forget()
	}
	return w.err
}

// forget leaves the report with the shots that are in the work directory, after one was not to be saved.
func (r *run) forget() {
	last, _ := r.journal.Last()
	r.report.Shots = slices.DeleteFunc(r.report.Shots, func(s report.Shot) bool { return s.Number > last.Number })
}

// weights are the tensors that a run changes, as entries of a safetensors file.
func (r *run) weights() []safetensors.Entry {
	var all []safetensors.Entry
	add := func(name string, shape ...int) {
		all = append(all, safetensors.Entry{Name: name, DType: r.accDType(), Shape: shape, Write: r.writer(name, elements(shape))})
	}
	for _, l := range r.model.Linears() {
		add(l.WeightName(), l.Rows, l.Cols)
		if l.Bias {
			add(l.BiasName(), l.Rows)
		}
	}
	return all
}

// warmth are the matrices that the next measurement starts from.
func (r *run) warmth() []safetensors.Entry {
	if r.warm == nil {
		return nil
	}
	var all []safetensors.Entry
	for _, w := range r.warm.Warmth() {
		all = append(all, safetensors.Entry{Name: warmPrefix + w.Name, DType: r.accDType(), Shape: []int{w.Packed.Cols}, Write: func(to io.Writer) error {
			data := make([]byte, w.Packed.Len()*w.Packed.Type.Size())
			r.dev.Download(w.Packed, w.Packed.Type, data)
			return r.written(to, data)
		}})
	}
	return all
}

// warmPrefix keeps the names of such matrices apart from those of weights.
const warmPrefix = "warm start: "

// accDType is the type in which sums are kept, as files have it.
func (r *run) accDType() safetensors.DType {
	if r.model.Type == device.F64 {
		return safetensors.F64
	}
	return safetensors.F32
}

// written writes what was asked of the device, when it is there.
func (r *run) written(w io.Writer, data []byte) error {
	if err := r.dev.Sync(); err != nil {
		return fmt.Errorf("getting it from the device: %w", err)
	}
	_, err := w.Write(data)
	return err
}

// writer writes the values of a tensor of so many elements, as the model's Type.Acc.
func (r *run) writer(name string, elements int) func(io.Writer) error {
	return func(w io.Writer) error {
		if master := r.model.Master(name); master != nil {
			_, err := w.Write(master)
			return err
		}
		as := r.model.Type.Acc()
		data := make([]byte, elements*as.Size())
		r.model.Download(name, as, data)
		return r.written(w, data)
	}
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
