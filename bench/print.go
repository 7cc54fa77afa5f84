package bench

import (
	"fmt"
	"runtime"
	"strings"
	"unicode/utf8"

	"surgeon/engine"
	"surgeon/engine/device"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// Header is what figures belong to.
type Header struct {
	Device    string             `json:"device"`
	Driver    string             `json:"driver,omitempty"` // of an NVIDIA GPU
	CPU       string             `json:"cpu"`
	Commit    string             `json:"commit"`
	Go        string             `json:"go_version"`
	Precision string             `json:"precision"`        // of the model
	Gemm      map[string]float64 `json:"gemm_flop_per_s"`  // the ceilings, by type
	Copy      float64            `json:"copy_bytes_per_s"` // read and written together
	OS        string             `json:"os"`               // "linux/amd64"
	Tags      string             `json:"build_tags,omitempty"`
}

// NewHeader describes a device and the program. gpu is what is known of it where it is a GPU, or nil.
func NewHeader(d device.Device, gpu *report.GPU, p report.Program, precision device.Type) Header {
	h := Header{Device: d.Name(), CPU: report.ThisMachine("").CPU, Commit: p.Commit, Go: p.Go, Tags: p.Tags, Precision: precision.String(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	if h.Commit == "" {
		h.Commit = p.Version
	}
	if p.Modified {
		h.Commit += " with changes"
	}
	if gpu != nil {
		h.Driver = gpu.Driver
	}
	return h
}

// Ceilings takes over the ceilings that were measured so far.
func (h *Header) Ceilings(c *Ceilings) {
	h.Gemm, h.Copy = map[string]float64{}, c.copy
	for t, rate := range c.gemm {
		h.Gemm[t.String()] = rate
	}
}

// types are all types, in the order in which ceilings are told.
var types = []device.Type{device.BF16, device.F32, device.F64}

// lines are the header as names and values, without the ceilings.
func (h Header) lines() [][2]string {
	var known [][2]string
	for _, l := range [][2]string{{"device", h.Device}, {"driver", h.Driver}, {"cpu", h.CPU}, {"commit", h.Commit}, {"go", h.Go}, {"tags", h.Tags}, {"precision", h.Precision}} {
		if l[1] != "" {
			known = append(known, l)
		}
	}
	return known
}

// ceilings are the ceilings by name.
func (h Header) ceilings() (names []string, values []metric) {
	for _, t := range types {
		if rate := h.Gemm[t.String()]; rate > 0 {
			names, values = append(names, "gemm/"+t.String()), append(values, metric{rate / 1e9, "GFLOP/s"})
		}
	}
	if h.Copy > 0 {
		names, values = append(names, "copy"), append(values, metric{h.Copy / 1e9, "GB/s"})
	}
	return names, values
}

// Text is the header for people.
func (h Header) Text() string {
	var b strings.Builder
	for _, l := range h.lines() {
		fmt.Fprintf(&b, "%-15s%s\n", l[0], l[1])
	}
	names, values := h.ceilings()
	for i, name := range names {
		fmt.Fprintf(&b, "%-15s%.1f %s\n", name, values[i].value, values[i].unit)
	}
	return b.String()
}

// GoText is the header in the Go benchmark format. The ceilings, which are never the same twice, are benchmarks in it:
// benchstat compares only what has equal headers, but for keys named with -ignore.
func (h Header) GoText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "goos: %s\ngoarch: %s\npkg: surgeon/bench\n", runtime.GOOS, runtime.GOARCH)
	for _, l := range h.lines() {
		fmt.Fprintf(&b, "%s: %s\n", l[0], l[1])
	}
	names, values := h.ceilings()
	for i, name := range names {
		goLine(&b, "BenchmarkCeiling/"+name, 1, values[i:i+1])
	}
	return b.String()
}

const rowFormat = "%s  %10s %10s %12s %-8s %11s %11s %13s\n"

// OpsTitle is the line above the rows of Ops, whose names are at most so wide.
func OpsTitle(width int) string {
	return fmt.Sprintf(rowFormat, pad("operation/shape/type", width), "least ms", "median ms", "rate", "", "of ceiling", "of library", "checksum")
}

// Text is the row for people.
func (r Row) Text(width int) string {
	if r.LeftOut != "" {
		return fmt.Sprintf("%s  left out: %s\n", pad(r.Name(), width), r.LeftOut)
	}
	rate, unit := r.Rate()
	library := ""
	if r.OfLibrary > 0 {
		library = fmt.Sprintf("%.2f", r.OfLibrary)
	}
	return fmt.Sprintf(rowFormat, pad(r.Name(), width), fmt.Sprintf("%.4f", r.MinMs), fmt.Sprintf("%.4f", r.MedianMs), fmt.Sprintf("%.1f", rate), unit,
		fmt.Sprintf("%.2f %s", r.OfCeiling, r.Ceiling), library, fmt.Sprintf("%.6g", r.Checksum))
}

// LeftOutText says how many of the rows were left out, "" where none was.
func LeftOutText(rows []Row) string {
	n := 0
	for _, r := range rows {
		if r.LeftOut != "" {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("\n%d of %d calls were left out on this device.\n", n, len(rows))
}

// pad fills up with blanks to a width in characters, not bytes.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

type metric struct {
	value float64
	unit  string
}

// metrics are the figures of a row under the names that Go benchmarks give them.
func (r Row) metrics() []metric {
	rate, unit := r.Rate()
	all := []metric{{r.MinMs * 1e6, "ns/op"}, {rate, unit}, {r.OfCeiling, "of-" + r.Ceiling}}
	if r.OfLibrary > 0 {
		all = append(all, metric{r.OfLibrary, "of-library"})
	}
	return append(all, metric{r.Checksum, "checksum"})
}

// samples is the most lines that a row has in the Go benchmark format: benchstat wants some, to tell noise from change.
const samples = 6

// GoText is the row in the Go benchmark format: up to six lines, each of some of the rounds.
func (r Row) GoText() string {
	name := "BenchmarkOperation/" + strings.ReplaceAll(r.Name(), " ", "_")
	if r.LeftOut != "" {
		return fmt.Sprintf("# %s left out: %s\n", name, r.LeftOut)
	}
	var b strings.Builder
	n := min(samples, len(r.rounds))
	for i := range n {
		from, to := i*len(r.rounds)/n, (i+1)*len(r.rounds)/n
		part := r
		part.MinMs, part.Calls = 0, 0
		for k := from; k < to; k++ {
			part.MinMs += 1e3 * r.rounds[k] * float64(r.calls[k])
			part.Calls += r.calls[k]
		}
		part.MinMs /= float64(part.Calls)
		part.OfCeiling *= r.MinMs / part.MinMs
		part.OfLibrary *= part.MinMs / r.MinMs
		goLine(&b, name, part.Calls, part.metrics())
	}
	return b.String()
}

func goLine(b *strings.Builder, name string, n int, metrics []metric) {
	fmt.Fprintf(b, "%s\t%8d", name, n)
	for _, m := range metrics {
		fmt.Fprintf(b, "\t%12.6g %s", m.value, m.unit)
	}
	b.WriteByte('\n')
}

// Text is the shot for people.
func (r *ShotReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "One shot at the shapes of %s, %d of %d blocks, with random weights: %.1f million, %.1f million of them in the layers that are pruned, in %s.\n",
		r.Shape, r.Layers, r.LayersAll, float64(r.Parameters)/1e6, float64(r.Prunable)/1e6, r.Precision)
	fmt.Fprintf(&b, "What goes: %s. Sequences: %d of %d random tokens, %d at one time.\n\n", r.Structure, r.Sequences, r.Length, r.Batch)

	line := func(name string, bytes int64, more string) {
		fmt.Fprintf(&b, "  %-50s%12.1f%s\n", name, float64(bytes)/(1<<20), more)
	}
	fmt.Fprintf(&b, "%-52s%12s\n", "memory", "MiB")
	for _, p := range r.Plan {
		line(r.partName(p), p.Bytes, "")
	}
	line("at most at one time, as planned", r.PlannedBytes, "")
	line("at most at one time, as measured", r.PeakBytes, fmt.Sprintf("   %.3f of what was planned", float64(r.PeakBytes)/float64(r.PlannedBytes)))
	line("during curvature, as measured", r.CurvatureBytes, "")
	if r.DeviceBytes > 0 {
		line("of", r.DeviceBytes, "")
	}
	if r.PeakHostBytes > 0 {
		line("the process in main memory, as measured", r.PeakHostBytes, "")
	}

	fmt.Fprintf(&b, "\n%-52s%12s%14s   %s\n", "time", "s", "TFLOP/s", "of a large product")
	fmt.Fprintf(&b, "  %-50s%12.3f\n", "making the weights", r.MakeSeconds)
	for _, s := range r.Stages {
		name := s.Name
		if name == "curvature" {
			name = fmt.Sprintf("curvature of %d sequences", r.Sequences)
			if r.Sequences == 1 {
				name = "curvature of 1 sequence"
			}
		}
		fmt.Fprintf(&b, "  %-50s%12.3f", name, s.Seconds)
		if s.FLOP > 0 {
			fmt.Fprintf(&b, "%14.4g   %.2f in %s", s.FLOP/s.Seconds/1e12, s.OfGemm, s.Type)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "\nCurvature: %.4g s for a sequence, %.1f tokens per second", r.SecondsPerSequence, r.TokensPerSecond)
	if r.SecondsPerSequenceAfterFirst > 0 {
		fmt.Fprintf(&b, "; %.4g s for a sequence without the first batch", r.SecondsPerSequenceAfterFirst)
	}
	fmt.Fprintf(&b, ".\nThe loss is %.4f nats, and %.2f %% of the weights went, from %d of %d linear layers; predicted increase %.4g", r.Loss, 100*r.Removed, r.LayersChanged, r.LayersPruned, r.Predicted)
	if r.UpdateSteps != nil {
		fmt.Fprintf(&b, "; conjugate gradients took %.1f steps in the mean, %d at most", r.UpdateSteps.Mean, r.UpdateSteps.Most)
	}
	if r.Raised > 0 {
		fmt.Fprintf(&b, "; the damping of %d factors had to be raised", r.Raised)
	}
	b.WriteString(".\n")
	return b.String()
}

// partName tells a part of the plan: what it is, when it is there, and where, if that is not on the device.
func (r *ShotReport) partName(p engine.PlanPart) string {
	name := p.Name
	if p.Phase != "" {
		name += ", during " + p.Phase
	}
	if p.Place == engine.OnHost && !r.DeviceIsHost {
		name += " (main memory)"
	}
	return name
}

// GoText is the shot in the Go benchmark format, a line for each stage.
func (r *ShotReport) GoText() string {
	var b strings.Builder
	for _, p := range r.Plan {
		fmt.Fprintf(&b, "# plan: %d bytes: %s\n", p.Bytes, r.partName(p))
	}
	what := ""
	if r.Structure != prune.RowCol.String() { // which has no word in the names of older results
		what = r.Structure + "/"
	}
	name := fmt.Sprintf("BenchmarkShot/%s/%sblocks=%d/sequences=%d/length=%d/batch=%d/%s/", r.Shape, what, r.Layers, r.Sequences, r.Length, r.Batch, r.Precision)
	for _, s := range r.Stages {
		m := []metric{{s.Seconds * 1e9, "ns/op"}}
		if s.FLOP > 0 {
			m = append(m, metric{s.FLOP / s.Seconds / 1e9, "GFLOP/s"}, metric{s.OfGemm, "of-gemm"})
		}
		if s.Name == "curvature" {
			m = append(m, metric{r.SecondsPerSequence, "s/sequence"}, metric{r.TokensPerSecond, "tokens/s"}, metric{float64(r.PeakBytes), "peak-B"},
				metric{float64(r.PlannedBytes), "planned-B"}, metric{r.Loss, "loss"})
			if r.SecondsPerSequenceAfterFirst > 0 {
				m = append(m, metric{r.SecondsPerSequenceAfterFirst, "s/sequence-after-first"})
			}
		}
		if s.Name == "update" {
			m = append(m, metric{r.Removed, "removed"}, metric{r.Predicted, "predicted"}, metric{float64(r.LayersChanged), "layers"})
			if r.UpdateSteps != nil {
				m = append(m, metric{r.UpdateSteps.Mean, "steps"})
			}
		}
		goLine(&b, name+s.Name, 1, m)
	}
	return b.String()
}
