package engine

import (
	"fmt"
	"reflect"
	"slices"

	"surgeon/engine/curvature"
	"surgeon/engine/prune"
)

// purpose is when options do anything.
type purpose struct {
	names []string
	when  func(o *Options) bool
	needs string // in words
}

var purposes = []purpose{
	{[]string{"step-limit", "rank-by"}, func(o *Options) bool { return o.Structure == prune.RowCol }, "--structure rowcol"},
	{[]string{"damp-g"}, func(o *Options) bool { return o.Structure != prune.Unit }, "another --structure: units go with columns, whose cost and re-fit invert A alone"},
	{[]string{"group", "sequential"}, func(o *Options) bool { return o.Structure.SingleWeights() }, "--structure element, or N:M"},
	{[]string{"tolerance"}, func(o *Options) bool {
		return o.Structure.SingleWeights() || o.Curvature == curvature.KronSum && o.Rank > 2
	}, "--structure element, or N:M, or --rank 3 or more"},
	{[]string{"group", "tolerance", "sequential"}, func(o *Options) bool { return o.Update != prune.None }, "--update joint"},
	{[]string{"group", "sequential"}, func(o *Options) bool { return o.Curvature != curvature.Activations }, "a curvature of gradients: with activations rows know nothing of one another"},
	{[]string{"group", "sequential"}, func(o *Options) bool { return o.Damping != jointDamping }, "--damping factored: with joint all weights that go are one group"},
	{[]string{"group", "sequential"}, func(o *Options) bool { return o.Curvature != curvature.KronSum }, "another --curvature: with kron-sum all weights that go are one group"},
	{[]string{"keep-biases"}, func(o *Options) bool { return o.Structure == prune.Element }, "--structure element: rows go with their biases, and blocks of N:M hold none"},
	{[]string{"power-steps"}, func(o *Options) bool { return o.Curvature == curvature.Nearest || o.Curvature == curvature.KronSum }, "--curvature nearest or kron-sum"},
	{[]string{"rank"}, func(o *Options) bool { return o.Curvature == curvature.KronSum }, "--curvature kron-sum"},
	{[]string{"fisher-samples", "fisher-seed"}, func(o *Options) bool { return o.Fisher == curvature.Sampled }, "--fisher sampled"},
	{[]string{"damp-a", "damp-g"}, func(o *Options) bool { return o.Curvature != curvature.Identity }, "a curvature; identity has no factors"},
	{[]string{"damp-a", "damp-g", "damping"}, func(o *Options) bool { return o.Cost != prune.OBD || o.Update != prune.None }, "--cost obs or --update joint: with obd and none nothing is inverted"},
	{[]string{"cost"}, func(o *Options) bool { return o.Curvature != curvature.Identity }, "a curvature; with identity both costs are the square of the weights"},
	{[]string{"damp-g"}, func(o *Options) bool { return o.Curvature != curvature.Activations }, "a curvature of gradients; activations takes none"},
}

// checkIdle refuses options that were asked for and would do nothing beside the others: who gives one expects something of it.
// What asks for no more than the default may do nothing, and so may the options that several runs share.
func (o *Options) checkIdle() error {
	for _, p := range purposes {
		for _, name := range p.names {
			if slices.Contains(o.Given, name) && !slices.Contains(o.Shared, name) && !o.isDefault(name) && !p.when(o) {
				return refuse("--%s would do nothing: it needs %s", name, p.needs)
			}
		}
	}
	return nil
}

// isDefault says that an option has the value that it has when nobody asks for it.
func (o *Options) isDefault(name string) bool {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		if field.Tag.Get("name") != name {
			continue
		}
		value := reflect.ValueOf(*o).FieldByIndex(field.Index)
		without, stated := field.Tag.Lookup("default")
		if !stated {
			return value.IsZero()
		}
		return fmt.Sprint(value.Interface()) == without
	}
	panic("engine: there is no option " + name)
}
