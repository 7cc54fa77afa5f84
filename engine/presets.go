package engine

import (
	"math"
	"reflect"
	"slices"
	"strings"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// Preset is a method by the name that papers have for it: the same code, with options that belong together.
type Preset struct {
	Name string
	Help string

	means    func(o *Options) // what makes it this method; asking for something else contradicts it
	suggests func(o *Options) // what it was published with; an option that is given goes first
}

// Presets are all there are.
//
// L-OBD and K-OBD are the baselines of The LLM Surgeon (section 4): costs without correlations, from the activations or from
// both factors, and no re-fitting. Wanda (arXiv 2306.11695) compares |w|·‖a‖ within each row, which is the order of L-OBD's
// ½ w² A_cc. SparseGPT (arXiv 2301.00774) re-fits each row by the activations, whose costs are w²/[A'⁻¹]_cc, and takes the same
// share of every layer; here all of a row's weights are chosen before it is re-fitted, where the published code chooses them
// 128 columns at a time. Neither removes a bias.
var Presets = []Preset{
	{"paper-structured", "The LLM Surgeon, rows and columns: no step limit, 40 shots",
		func(o *Options) {
			o.Structure, o.Curvature, o.Cost, o.StepLimit = prune.RowCol, curvature.KFAC, prune.OBS, 1
		},
		func(o *Options) { o.Shots = 40 }},
	{"paper-unstructured", "The LLM Surgeon, single weights: groups of 2000, 5 shots",
		func(o *Options) { o.Structure, o.Curvature, o.Cost = prune.Element, curvature.KFAC, prune.OBS },
		func(o *Options) { o.Shots, o.Group = 5, 2000 }},
	{"paper-2:4", "The LLM Surgeon, 2 of every 4 weights: groups of 2000, 5 shots",
		func(o *Options) {
			o.Structure, o.Curvature, o.Cost = prune.Structure{N: 2, M: 4}, curvature.KFAC, prune.OBS
		},
		func(o *Options) { o.Shots, o.Group = 5, 2000 }},
	{"magnitude", "the smallest weights, of any structure",
		func(o *Options) { o.Curvature, o.Update = curvature.Identity, prune.None },
		func(o *Options) { o.Shots = 1 }},
	{"l-obd", "costs from the activations, nothing re-fitted; any structure",
		func(o *Options) { o.Curvature, o.Cost, o.Update = curvature.Activations, prune.OBD, prune.None },
		func(o *Options) { o.Shots = shotsOf(o.Structure, 24) }},
	{"k-obd", "costs from both factors, nothing re-fitted; any structure",
		func(o *Options) { o.Curvature, o.Cost, o.Update = curvature.KFAC, prune.OBD, prune.None },
		func(o *Options) { o.Shots = shotsOf(o.Structure, 40) }},
	{"wanda", "weight times the norm of its input, compared within rows; single weights or N:M",
		func(o *Options) {
			o.Curvature, o.Cost, o.Update = curvature.Activations, prune.OBD, prune.None
			if !o.Structure.SingleWeights() {
				o.Structure = prune.Element
			}
			if o.Structure == prune.Element {
				o.Scope, o.KeepBiases = prune.InRow, true
			}
		},
		func(o *Options) { o.Shots = 1 }},
	{"sparsegpt", "rows re-fitted by the activations, the same share of every layer; single weights or N:M",
		func(o *Options) {
			o.Curvature, o.Cost, o.Update = curvature.Activations, prune.OBS, prune.Joint
			if !o.Structure.SingleWeights() {
				o.Structure = prune.Element
			}
			if o.Structure == prune.Element {
				o.Scope, o.KeepBiases = prune.InLayer, true
			}
		},
		func(o *Options) { o.Shots = 1 }},
}

// shotsOf is 1 for single weights and blocks of them, as published.
func shotsOf(s prune.Structure, rowcol int) int {
	if s.SingleWeights() {
		return 1
	}
	return rowcol
}

// applyPreset sets the options that o.Preset stands for. An option in o.Given that says something else is refused.
func (o *Options) applyPreset() error {
	if o.Preset == "" {
		return nil
	}
	at := slices.IndexFunc(Presets, func(p Preset) bool { return p.Name == o.Preset })
	if at < 0 {
		var names []string
		for _, p := range Presets {
			names = append(names, p.Name)
		}
		return refuse("--preset %s is none of %s", o.Preset, strings.Join(names, ", "))
	}
	asked := *o
	Presets[at].means(o)
	with := *o
	Presets[at].suggests(&with)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		name := field.Tag.Get("name")
		value := func(x *Options) reflect.Value { return reflect.ValueOf(x).Elem().FieldByIndex(field.Index) }
		if !slices.Contains(o.Given, name) {
			if field.IsExported() {
				value(o).Set(value(&with))
			}
			continue
		}
		want, got := value(o).Interface(), value(&asked).Interface()
		if f, ok := got.(float64); ok && math.IsNaN(f) { // which differs from itself, and is refused later
			continue
		}
		if !reflect.DeepEqual(want, got) {
			return refuse("--preset %s stands for --%s %v; --%s %v contradicts it", o.Preset, name, want, name, got)
		}
	}
	return nil
}
