// Package compare sets the outputs of pruning runs side by side: the figures of their reports, and what of the model they
// removed and kept. It knows no device.
//
// # Overlap
//
// Two runs removed r₁ and r₂ of the n structures of a layer, x of them both. The overlap of what is removed is the
// intersection over the union, x / (r₁ + r₂ − x), that of what is kept (n − r₁ − r₂ + x) / (n − x). Over several layers each
// count is the sum over the layers. Two runs that remove much overlap much, whatever they remove, so beside each overlap
// stands the one of two runs that draw which structures go by lot, as many of each layer as these did: x is then expected to be
// r₁ r₂ / n, in each layer.
//
// A structure is a row or a column of a layer's matrix, by the kept_rows and kept_cols of report.json, or a single weight, by
// the zeros in the weight files. A bias is the last column.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"surgeon/engine/checkpoint"
	"surgeon/engine/report"
)

// reportName is the report's file in a directory that a run has written.
const reportName = "report.json"

// Run is the output of a run.
type Run struct {
	Dir    string
	Report *report.Report // nil where there is none
}

// Pair is what two runs have in common.
type Pair struct {
	A       string    `json:"a"` // directories
	B       string    `json:"b"`
	Rows    []Overlap `json:"rows"` // by role, and over all layers; nil where one of the runs has no report
	Cols    []Overlap `json:"cols"`
	Weights []Overlap `json:"weights"`
}

// Overlap is what two runs have in common of one kind of structure, in the layers of one role or in all. A figure that does
// not exist, because nothing was removed, or kept, is nil.
type Overlap struct {
	Role        string  `json:"role"` // "q", "k", "v", "o", "gate", "up", "down", or All
	Structures  int64   `json:"structures"`
	RemovedA    int64   `json:"removed_a"`
	RemovedB    int64   `json:"removed_b"`
	RemovedBoth int64   `json:"removed_both"`
	BothByLot   float64 `json:"removed_both_by_lot"` // Σ r₁ r₂ / n over the layers

	Removed      *float64 `json:"removed_overlap"`
	RemovedByLot *float64 `json:"removed_overlap_by_lot"`
	Kept         *float64 `json:"kept_overlap"`
	KeptByLot    *float64 `json:"kept_overlap_by_lot"`
}

// All is the Role of an Overlap over all layers.
const All = "all"

// Open reads the reports of runs. Unless reports are optional a directory without one is an error, as is a report that no
// run has written.
func Open(dirs []string, optional bool) ([]Run, error) {
	if len(dirs) < 2 {
		return nil, fmt.Errorf("comparing takes two or more runs; %d given", len(dirs))
	}
	var runs []Run
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			return nil, fmt.Errorf("opening a run: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("%s is a file; a directory that surgeon prune has written is expected", dir)
		}
		path := filepath.Join(dir, reportName)
		r, err := report.Read(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && optional:
			r = nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%s has no %s, so it was not written by surgeon prune; only its weights can be compared, with --masks", dir, reportName)
		case err != nil:
			return nil, err
		case r.Run == "" || r.Model.SHA256 == "":
			return nil, fmt.Errorf("%s is not a report of surgeon prune: it names no run and no model", path)
		}
		runs = append(runs, Run{Dir: dir, Report: r})
	}
	return runs, nil
}

// Masks compares what each two of the runs removed and kept. The runs must have layers of the same shapes. It goes through the
// weights layer by layer, by memory map, and keeps one bit for each weight of a layer.
func Masks(ctx context.Context, runs []Run) ([]Pair, error) {
	models := make([]*checkpoint.Checkpoint, len(runs))
	for i, r := range runs {
		m, err := checkpoint.Open(r.Dir)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		models[i] = m
	}
	layers := models[0].Config.Linears()
	for i := range runs {
		if err := sameLayers(models[0], models[i]); err != nil {
			return nil, err
		}
		if err := runs[i].checkLayers(layers); err != nil {
			return nil, err
		}
	}
	sums := newPairs(runs)
	for i, l := range layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		weights := make([]mask, len(runs))
		for k, m := range models {
			var err error
			if weights[k], err = zeros(m, l); err != nil {
				return nil, err
			}
		}
		rows, cols := make([]mask, len(runs)), make([]mask, len(runs))
		for k, r := range runs {
			if r.Report != nil {
				entry := r.Report.Layers[i]
				rows[k], cols[k] = absent(entry.KeptRows, entry.Rows), absent(entry.KeptCols, entry.Cols)
			}
		}
		for p := range sums {
			sums[p].add(l.Role, rows, cols, weights)
		}
	}
	var pairs []Pair
	for _, s := range sums {
		pairs = append(pairs, Pair{A: runs[s.a].Dir, B: runs[s.b].Dir, Rows: s.rows.overlaps(), Cols: s.cols.overlaps(), Weights: s.weights.overlaps()})
	}
	return pairs, nil
}

// sameLayers refuses models whose layers are not the same.
func sameLayers(a, b *checkpoint.Checkpoint) error {
	if a.Config.Family != b.Config.Family {
		return fmt.Errorf("%s is of the architecture %s and %s of %s; only models of one architecture have structures in common", a.Path, a.Config.Family, b.Path, b.Config.Family)
	}
	x, y := a.Config.Linears(), b.Config.Linears()
	if len(x) != len(y) {
		return fmt.Errorf("%s has %d linear layers in %d blocks and %s has %d in %d; only models of one architecture have structures in common",
			a.Path, len(x), a.Config.Blocks, b.Path, len(y), b.Config.Blocks)
	}
	for i := range x {
		if x[i] != y[i] {
			return fmt.Errorf("layer %s is %s in %s and %s in %s; only layers of one shape have structures in common", x[i].Name, shape(x[i]), a.Path, shape(y[i]), b.Path)
		}
	}
	return nil
}

func shape(l checkpoint.Linear) string {
	if l.Bias {
		return fmt.Sprintf("%d×%d with a bias", l.Rows, l.Cols)
	}
	return fmt.Sprintf("%d×%d", l.Rows, l.Cols)
}

// inputs are the columns of a layer with its bias, where it has one: the last.
func inputs(l checkpoint.Linear) int {
	if l.Bias {
		return l.Cols + 1
	}
	return l.Cols
}

// checkLayers refuses a report that is not of the model beside it.
func (r Run) checkLayers(layers []checkpoint.Linear) error {
	if r.Report == nil {
		return nil
	}
	path := filepath.Join(r.Dir, reportName)
	if len(r.Report.Layers) != len(layers) {
		return fmt.Errorf("%s lists %d layers, and the model beside it has %d; they do not belong together", path, len(r.Report.Layers), len(layers))
	}
	for i, l := range layers {
		x := r.Report.Layers[i]
		if x.Name != l.Name || x.Rows != l.Rows || x.Cols != inputs(l) {
			return fmt.Errorf("%s lists layer %s of %d×%d, and the model beside it has %s of %d×%d there; they do not belong together",
				path, x.Name, x.Rows, x.Cols, l.Name, l.Rows, inputs(l))
		}
		for _, kept := range []struct {
			field  string
			places []int
			n      int
		}{{"kept_rows", x.KeptRows, x.Rows}, {"kept_cols", x.KeptCols, x.Cols}} {
			for k, place := range kept.places {
				if place < 0 || place >= kept.n || k > 0 && place <= kept.places[k-1] {
					return fmt.Errorf("%s: %s of layer %s has %d as number %d; ascending numbers below %d are expected, the report is damaged", path, kept.field, x.Name, place, k, kept.n)
				}
			}
		}
	}
	return nil
}

// pairSums are the counts of two runs, by their places in the list of runs.
type pairSums struct {
	a, b                int
	rows, cols, weights counts
}

func newPairs(runs []Run) []pairSums {
	var all []pairSums
	for a := range runs {
		for b := a + 1; b < len(runs); b++ {
			all = append(all, pairSums{a: a, b: b})
		}
	}
	return all
}

// add counts a layer of that role.
func (p *pairSums) add(role checkpoint.Role, rows, cols, weights []mask) {
	p.rows.add(role, rows[p.a], rows[p.b])
	p.cols.add(role, cols[p.a], cols[p.b])
	p.weights.add(role, weights[p.a], weights[p.b])
}

// counts are sums over layers, by role in the order in which roles come first.
type counts []Overlap

// add counts the structures of one layer that either run removed; a mask that is not known counts nothing.
func (c *counts) add(role checkpoint.Role, a, b mask) {
	if a.bits == nil || b.bits == nil {
		return
	}
	i := slices.IndexFunc(*c, func(o Overlap) bool { return o.Role == role.String() })
	if i < 0 {
		i = len(*c)
		*c = append(*c, Overlap{Role: role.String()})
	}
	o := &(*c)[i]
	ra, rb := a.count(), b.count()
	o.Structures += int64(a.n)
	o.RemovedA += ra
	o.RemovedB += rb
	o.RemovedBoth += both(a, b)
	o.BothByLot += float64(ra) * float64(rb) / float64(a.n)
}

// overlaps are the figures by role and, last, over all layers.
func (c counts) overlaps() []Overlap {
	if c == nil {
		return nil
	}
	all := Overlap{Role: All}
	for _, o := range c {
		all.Structures += o.Structures
		all.RemovedA += o.RemovedA
		all.RemovedB += o.RemovedB
		all.RemovedBoth += o.RemovedBoth
		all.BothByLot += o.BothByLot
	}
	list := append(slices.Clone(c), all)
	for i := range list {
		list[i].divide()
	}
	return list
}

// divide fills in the overlaps from the counts.
func (o *Overlap) divide() {
	n, either := float64(o.Structures), float64(o.RemovedA)+float64(o.RemovedB)
	x, lot := float64(o.RemovedBoth), o.BothByLot
	o.Removed, o.RemovedByLot = ratio(x, either-x), ratio(lot, either-lot)
	o.Kept, o.KeptByLot = ratio(n-either+x, n-x), ratio(n-either+lot, n-lot)
}

func ratio(x, of float64) *float64 {
	if of == 0 {
		return nil
	}
	q := x / of
	return &q
}
