package engine

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/lora"
	"surgeon/engine/model"
	"surgeon/engine/prune"
	"surgeon/engine/report"
)

// PlanPart is a part of memory. Parts of phase "" are there all the time, others only in their phase.
type PlanPart struct {
	Name  string `json:"name"`
	Phase string `json:"phase,omitempty"`
	Place string `json:"place"` // OnDevice or OnHost
	Bytes int64  `json:"bytes"`
}

// Where a part lies. On a device that lives in main memory (device.Memory.Host) both are one memory.
const (
	OnDevice = "device" // tensors
	OnHost   = "host"
)

// The phases of a run, by what is in memory.
const (
	measuring  = "curvature"
	pruning    = "costs and update"
	correcting = "lora"
	writing    = "writing" // and checking: the model and passes without curvature
)

// hostBytes is what the program itself takes: code, tokenizer, the runtime's own memory. It is a round allowance, not a
// measurement; TestSmolLM2Plan holds the sum it is part of against a real run.
const hostBytes = 100 << 20

// GCPercent is how much garbage may lie beside what is in use, in percent of it, before Go collects it; plans count with it
// and cmd sets it. What is in use are large matrices without pointers, and it costs next to nothing to look through them.
// Measured on SmolLM2-135M (OpenBLAS, 1 shot, 8 windows of 512 tokens): with Go's 100 the process takes 3.2 GB at most and
// 105 s of processor time, with 25 it takes 2.2 GB and 107 s.
const GCPercent = 25

// evalParts are the tensors of an evaluation: a model and forward passes over at most o.HeldOut windows.
func evalParts(cfg checkpoint.Config, o Options) []PlanPart {
	t := typeOf(o.Precision)
	var weights int64
	for _, shape := range cfg.Shapes() {
		weights += o.page.Tensor(1, elements(shape), t)
	}
	parts := []PlanPart{
		{"weights", "", OnDevice, weights},
		{"activations", "", OnDevice, model.WorkspaceBytes(o.page, cfg, t, o.Length, min(o.Batch, o.HeldOut), false)},
	}
	if o.deviceOwn > 0 {
		parts = append(parts, PlanPart{"libraries and lists of the device", "", OnDevice, o.deviceOwn})
	}
	return parts
}

// runParts are the tensors of a run.
func runParts(cfg checkpoint.Config, o Options) []PlanPart {
	t := typeOf(o.Precision)
	if len(o.Eval) > 0 { // its windows are many
		o.HeldOut = o.Batch
	}
	eval := evalParts(cfg, o)
	parts := append([]PlanPart{eval[0]}, eval[2:]...)
	add := func(name, phase string, bytes int64) { parts = append(parts, PlanPart{name, phase, OnDevice, bytes}) }
	c, layers := o.curvature(), linears(cfg)
	if o.Curvature != curvature.Identity {
		factors := curvature.Bytes(o.page, layers, t, c)
		add("factors", measuring, factors)
		activations, vectors := passParts(cfg, o)
		add("activations", measuring, activations)
		if vectors > 0 {
			add("vectors of one layer", measuring, vectors)
		}
		if sums := gramBytes(layers, o); sums > 0 {
			add("parts of Gram matrices", measuring, sums)
		}
		add("factors", pruning, factors)
		if warm := curvature.WarmBytes(o.page, layers, t, c); warm > 0 {
			add("factors that the next shot starts from", writing, warm)
		}
	}
	if numbers := weightCostBytes(layers, o); numbers > 0 {
		add("a number for each weight, for its cost", pruning, numbers)
	}
	var scratch int64
	if o.Structure == prune.Unit {
		scratch = unitScratch(cfg, o)
	} else {
		for _, l := range layers {
			scratch = max(scratch, layerScratch(l.Rows, l.Inputs(), o))
		}
	}
	add("one layer in float64", pruning, scratch) // or several, in no more than what the activations took: layerGroups
	if o.Lora {
		add("weights before, and corrections", correcting, lora.Bytes(o.page, layers, t, o.LoraRank, o.Length))
		add("activations", correcting, model.WorkspaceBytes(o.page, cfg, t, o.Length, 1, true))
		if warm := curvature.WarmBytes(o.page, layers, t, c); warm > 0 {
			add("factors that the next shot starts from", correcting, warm)
		}
	}
	add("activations of a check", writing, eval[1].Bytes)
	return parts
}

// passParts is what the passes of a measurement take: activations, and vectors of one layer.
func passParts(cfg checkpoint.Config, o Options) (activations, vectors int64) {
	t, batch := typeOf(o.Precision), min(o.Batch, o.Samples)
	return model.WorkspaceBytes(o.page, cfg, t, o.Length, batch, o.Curvature != curvature.Activations),
		curvature.ScratchBytes(o.page, linears(cfg), t, o.curvature(), o.Length*batch)
}

// gramBytes is what the device works in for the factors' sums, of a whole batch or of what is left for the last one.
func gramBytes(layers []*model.Linear, o Options) (bytes int64) {
	if o.gramScratch == nil {
		return 0
	}
	batch := min(o.Batch, o.Samples)
	for _, windows := range []int{batch, o.Samples % max(1, batch)} {
		if windows > 0 {
			bytes = max(bytes, o.page.Of(curvature.GramBytes(o.gramScratch, layers, typeOf(o.Precision), o.curvature(), o.Length*windows)))
		}
	}
	return bytes
}

// weightCostBytes is what is kept for the costs of single weights.
func weightCostBytes(layers []*model.Linear, o Options) (bytes int64) {
	if !o.Structure.SingleWeights() || !o.costMatrices() {
		return 0
	}
	for _, l := range layers {
		bytes += o.page.Tensor(l.Rows, l.Inputs(), device.F64)
	}
	return bytes
}

// layerGroups are the layers whose factors are worked on side by side, as the number of layers of each group: those of a block,
// where the device has memory of its own and they fit in what the activations took, so that no run takes more than one that goes
// layer by layer. Large matrices fill a device one by one; small ones do not. In main memory they go one by one too, and so do
// curvatures whose matrices nothing is gained for.
func layerGroups(cfg checkpoint.Config, o Options) (sizes []int) {
	layers := linears(cfg)
	var room int64
	if o.deviceApart && o.Curvature != curvature.Identity && o.Curvature != curvature.KronSum && o.Damping != jointDamping {
		activations, vectors := passParts(cfg, o)
		room = activations + vectors - weightCostBytes(layers, o)
	}
	for first := 0; first < len(layers); {
		n, bytes := 0, int64(0)
		for ; first+n < len(layers) && layers[first+n].Block == layers[first].Block; n++ {
			bytes += layerScratch(layers[first+n].Rows, layers[first+n].Inputs(), o)
		}
		if first += n; bytes <= room {
			sizes = append(sizes, n)
		} else {
			sizes = append(sizes, slices.Repeat([]int{1}, n)...)
		}
	}
	return sizes
}

// layerScratch is what the costs and the update of one R×C layer take at most, its float64 weights included. Vectors are not
// worth counting beside matrices.
func layerScratch(r, c int, o Options) int64 {
	if o.Curvature == curvature.KronSum || o.Damping == jointDamping {
		return sumScratch(r, c, o)
	}
	weights, squares := o.page.Tensor(r, c, device.F64), o.page.Tensor(r, r, device.F64)+o.page.Tensor(c, c, device.F64)
	most := max(weights+2*squares, // both factors on their way to the diagonal of their inverse; thresholds and updates of rows and columns take less
		predictionScratch(r, c, o))
	if !o.Structure.SingleWeights() {
		return most
	}
	return max(most, 14*weights+5*o.page.Tensor(r, r, device.F32)+3*o.page.Tensor(c, c, device.F32)+o.placesBytes(r, c)) // conjugate gradients, some in float32
}

// predictionScratch is what the predicted increase of a layer's update takes.
func predictionScratch(r, c int, o Options) int64 {
	return 3*o.page.Tensor(r, c, device.F64) + o.page.Tensor(r, r, device.F64) + o.page.Tensor(c, c, device.F64) + o.page.Tensor(2*prune.PredictionRows(r), c, device.F64)
}

// unitScratch is what the costs and the update of units take at most in any layer, its float64 weights included.
func unitScratch(cfg checkpoint.Config, o Options) (most int64) {
	layers := linears(cfg)
	for _, c := range prune.Couplings(cfg, cfg.Linears()) {
		for _, p := range c.Parts {
			l := layers[p.Layer]
			weights := o.page.Tensor(l.Rows, l.Inputs(), device.F64)
			if p.Side == prune.Row { // before and after, and what stays
				most = max(most, 3*weights)
				continue
			}
			most = max(most, predictionScratch(l.Rows, l.Inputs(), o))
			if p.Width > 1 && c.Units > 1 { // an inverse and what it is made of, blocks for the units
				inverse, blocks := o.page.Tensor(l.Inputs(), l.Inputs(), device.F64), o.page.Tensor(l.Cols, p.Width, device.F64)
				most = max(most, weights+inverse+max(inverse+blocks, 3*blocks))
			}
		}
	}
	return most
}

// placesBytes is the list of what goes from a layer, which a device of its own memory holds while it is re-fitted.
func (o *Options) placesBytes(r, c int) int64 {
	if !o.deviceApart {
		return 0
	}
	return o.page.Of(4 * int64(r) * int64(c))
}

// sumScratch is layerScratch for sums of products and for joint damping: bases of both sides and what leads to them for the
// costs, the vectors of conjugate gradients for the update.
func sumScratch(r, c int, o Options) int64 {
	weights, square := o.page.Tensor(r, c, device.F64), o.page.Tensor(max(r, c), max(r, c), device.F64)
	squares := o.page.Tensor(r, r, device.F64) + o.page.Tensor(c, c, device.F64)
	halves := o.page.Tensor(r, r, device.F32) + o.page.Tensor(c, c, device.F32) // of squares
	products := int64(1)
	if o.Curvature == curvature.KronSum {
		products = int64(o.Rank)
	}
	bases := 2 * squares // of both sides, and what takes back from them
	if products == 1 {
		bases = squares
	}
	update := 13*weights + bases + halves
	if !o.Structure.SingleWeights() || products > 2 { // for what stays: F' itself, and its inverse
		update = 15*weights + products*squares + bases
		if !o.Structure.SingleWeights() && products > 2 { // some in float32: three matrices like the weights and two to go into the basis, the factors, the basis
			update += 5*o.page.Tensor(r, c, device.F32) + products*halves + halves
		}
	}
	if o.Structure.SingleWeights() {
		update += o.placesBytes(r, c)
	}
	return max(5*weights+2*squares+3*square, update) // costs, update; the prediction takes less
}

// costMatrices says whether the costs of single weights are made of more than a number for each row and column.
func (o *Options) costMatrices() bool {
	return o.Curvature == curvature.KronSum || o.Curvature == curvature.Diagonal || o.Damping == jointDamping && o.Cost == prune.OBS
}

// readParts are what was read, in main memory.
func readParts(in *inputs) []PlanPart {
	program := int64(hostBytes)
	for _, t := range in.texts {
		program += int64(len(t.corpus.Text)) + 4*int64(len(t.ids))
	}
	return []PlanPart{
		{"program and text", "", OnHost, program},
		{"model files, mapped", "", OnHost, in.model.Bytes()},
	}
}

// hostParts are what lies in main memory beside the tensors.
func hostParts(in *inputs, o Options) []PlanPart {
	cfg := in.model.Config
	parts := append(readParts(in), masterParts(cfg, o)...)
	largest := 4 * int64(cfg.Vocab) * int64(cfg.Width)
	for _, l := range linears(cfg) {
		largest = max(largest, 4*int64(l.Rows)*int64(l.Inputs()))
	}
	if o.Lora {
		parts = append(parts, PlanPart{"corrections, and means of Adam", correcting, OnHost, lora.HostBytes(linears(cfg), o.LoraRank)})
	}
	return append(parts, PlanPart{"one tensor on the host", writing, OnHost, largest})
}

// masterParts are the masters of a bfloat16 model.
func masterParts(cfg checkpoint.Config, o Options) []PlanPart {
	if typeOf(o.Precision) != device.BF16 {
		return nil
	}
	_, prunable := counts(cfg)
	return []PlanPart{{"masters of the pruned weights, float32", "", OnHost, 4 * prunable}}
}

// PlanTurn is the memory that Turn takes for a model of this architecture, by part, and the most of the device's at one time.
// It settles o.Batch where that is left open, by o.Length and o.Samples, and refuses what the device has no room for.
func PlanTurn(d device.Device, cfg checkpoint.Config, o *Options) (parts []PlanPart, peakDeviceBytes int64, err error) {
	turnParts := func(cfg checkpoint.Config, o Options) []PlanPart {
		return slices.DeleteFunc(runParts(cfg, o), func(p PlanPart) bool { return p.Phase == writing || p.Phase == correcting })
	}
	if err := settleBatch(d, cfg, o, turnParts); err != nil {
		return nil, 0, err
	}
	parts = turnParts(cfg, *o)
	peakDeviceBytes, _ = peak(parts)
	return append(parts, masterParts(cfg, *o)...), peakDeviceBytes, nil
}

// planMemory adds up what the run allocates, on a device of memory m.
func (p *PlanReport) planMemory(in *inputs, o Options, m device.Memory) {
	p.addUp(in, hostParts(in, o), runParts(in.model.Config, o), m)
}

// addUp adds up what work allocates in main memory, and as tensors.
func (p *PlanReport) addUp(in *inputs, host, tensors []PlanPart, m device.Memory) {
	p.PeakDeviceBytes, _ = peak(tensors)
	p.Memory = slices.Concat(host, tensors)
	if m.Host {
		host = p.Memory
	}
	p.PeakHostBytes, _ = peak(host)
	garbage := (p.PeakHostBytes - hostBytes - in.model.Bytes()) * GCPercent / 100 // neither code nor maps are collected
	p.Memory = append(p.Memory, PlanPart{"garbage that waits for collection", "", OnHost, garbage})
	p.PeakHostBytes += garbage
}

// crowded is a warning where the run takes more main memory than a machine has, or "".
func (r *run) crowded(machine int64) string {
	var p PlanReport
	p.planMemory(r.inputs, r.options, r.dev.Memory())
	if warning := p.crowded(r.inputs, machine); warning != "" {
		return warning + "; surgeon plan tells what takes it"
	}
	return ""
}

// evalCrowded is crowded for an evaluation by such passes.
func (in *inputs) evalCrowded(passes []Options, m device.Memory, machine int64) (warning string) {
	for _, o := range passes { // one after the other
		var p PlanReport
		p.addUp(in, readParts(in), evalParts(in.model.Config, o), m)
		warning = cmp.Or(warning, p.crowded(in, machine))
	}
	return warning
}

// crowded is the warning for what was added up. A machine of 0 bytes does not tell. What is mapped of files does not count: the
// system takes that back when it needs it.
func (p *PlanReport) crowded(in *inputs, machine int64) string {
	if machine == 0 || p.PeakHostBytes-in.model.Bytes() <= machine {
		return ""
	}
	return fmt.Sprintf("this takes %s of main memory, and the machine has %s: the system may end it, or be slow for want of memory",
		report.Gibibytes(p.PeakHostBytes), report.Gibibytes(machine))
}

// peak is the most that parts of one memory take at one time, and the phase in which they do.
func peak(parts []PlanPart) (bytes int64, phase string) {
	sum := map[string]int64{}
	for _, p := range parts {
		sum[p.Phase] += p.Bytes
	}
	for _, p := range parts { // in their order: of phases that take the same it is the first
		if p.Phase != "" && (phase == "" || sum[p.Phase] > sum[phase]) {
			phase = p.Phase
		}
	}
	if phase == "" {
		return sum[""], ""
	}
	return sum[""] + sum[phase], phase
}

// batchTokens bounds a batch that nobody asked for: with so many rows the products of a pass are as fast as they get, and
// more would only take memory.
const batchTokens = 1 << 14

// headroom is the share of a device's memory that a batch nobody asked for leaves free, as a divisor: for the gaps between
// tensors and for what libraries allocate beside them.
const headroom = 16

// chooseBatch is the number of windows that go through the model at one time where the user leaves it open. In main memory
// it is 1: the cores are busy with one window, and more only take memory. A device with memory of its own gets as many of
// the windows as it has room for; bytes is what it must hold with a batch, and grows with it, but for a few MiB.
func chooseBatch(m device.Memory, length, windows int, bytes func(batch int) int64) int {
	if m.Host {
		return 1
	}
	most, limit := max(1, min(windows, batchTokens/length)), m.Total-m.Total/headroom
	if m.Total == 0 { // it does not say
		limit = math.MaxInt64
	}
	return 1 + sort.Search(most-1, func(i int) bool { return bytes(i+2) > limit })
}

// settleBatch chooses the batch where the user leaves it open, and refuses work that a device with memory of its own has no
// room for. What is too much for main memory is not refused, for the system may have swap space: crowded says so. parts are the
// tensors of the work, evalParts or runParts.
func settleBatch(d device.Device, cfg checkpoint.Config, o *Options, parts func(checkpoint.Config, Options) []PlanPart) error {
	o.settleMemory(d)
	if o.Batch == 0 {
		with := *o
		o.Batch = chooseBatch(d.Memory(), o.Length, o.Samples, func(batch int) int64 {
			with.Batch = batch
			bytes, _ := peak(parts(cfg, with))
			return bytes
		})
	}
	return checkRoom(d, parts(cfg, *o), *o)
}

// settleMemory takes note of how a device's memory counts.
func (o *Options) settleMemory(d device.Device) {
	m := d.Memory()
	o.deviceOwn, o.page, o.deviceApart, o.gramScratch = m.Own, m.Page, !m.Host, d.GramScratch
}

// checkRoom refuses parts that a device with memory of its own has no room for.
func checkRoom(d device.Device, parts []PlanPart, o Options) error {
	m := d.Memory()
	need, phase := peak(parts)
	if m.Host || m.Total == 0 || need <= m.Total {
		return nil
	}
	var list, ways []string
	for _, p := range parts {
		if p.Phase == "" || p.Phase == phase {
			list = append(list, p.Name+" "+binary(p.Bytes))
		}
	}
	if phase != pruning {
		if !o.lengthGiven {
			ways = append(ways, fmt.Sprintf("a shorter --length (it is %d)", o.Length))
		}
		if o.Batch > 1 && phase != correcting {
			ways = append(ways, fmt.Sprintf("a smaller --batch (it is %d)", o.Batch))
		}
	}
	if phase == correcting {
		ways = append(ways, "leaving --lora out")
	}
	if typeOf(o.Precision) != device.BF16 {
		ways = append(ways, "--precision bfloat16")
	}
	when := ""
	if phase != "" {
		when = " during " + phase
	}
	return refuse("%s has room for %s, and %s are needed%s: %s; what helps is %s", d.Name(), binary(m.Total), binary(need), when,
		strings.Join(list, ", "), strings.Join(append(ways, "a higher --gpu-memory where that is the limit"), ", or "))
}

// binary is a number of bytes for people.
func binary(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// counts are the numbers of all weights and of those of the pruned layers.
func counts(cfg checkpoint.Config) (all, prunable int64) {
	for _, shape := range cfg.Shapes() {
		all += int64(elements(shape))
	}
	for _, l := range linears(cfg) {
		prunable += int64(l.Rows) * int64(l.Inputs())
	}
	return all, prunable
}

func linears(cfg checkpoint.Config) []*model.Linear {
	var all []*model.Linear
	for _, l := range cfg.Linears() {
		all = append(all, &model.Linear{Linear: l})
	}
	return all
}
