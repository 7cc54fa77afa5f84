package engine

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/curvature"
	"surgeon/engine/report"
)

// DiskPart is what a run still has to write to a place, at most at one time.
type DiskPart struct {
	Name  string `json:"name"`
	Path  string `json:"-"`
	Bytes int64  `json:"bytes"` // of tensors; names and reports are not worth counting beside them
}

// diskParts are the models that the run still has to write, each complete before one that it replaces is removed, and the shots in its
// work directory: there too a new one is complete before the one before it is removed.
func (r *run) diskParts() []DiskPart {
	o, model := r.options, r.inputs.model
	var parts []DiskPart
	for _, path := range o.Outputs() {
		if done, err := report.Read(filepath.Join(path, reportName)); err != nil || done.Run != r.report.Run { // else it is this run's, made on the way
			parts = append(parts, DiskPart{"model", path, model.WrittenBytes(checkpoint.WriteOptions{DType: safetensors.DType(o.DType)})})
		}
	}
	layers, t := linears(model.Config), typeOf(o.Precision)
	shot := curvature.WarmBytes(0, layers, t, o.curvature())
	for _, l := range layers {
		shot += int64(l.Rows) * int64(l.Inputs()) * int64(t.Acc().Size())
	}
	shots := min(o.Shots, 2)
	if o.KeepShots {
		shots = o.Shots
	}
	return append(parts, DiskPart{report.Counted(shots, "shot"), o.Work, max(0, int64(shots)*shot-filesIn(o.Work))})
}

// roomOnDisk refuses parts for which there is no room. disk tells which file system a place is on, and what is free there; where it
// cannot, nothing is refused.
func roomOnDisk(parts []DiskPart, disk func(path string) (id uint64, free int64, ok bool)) error {
	type need struct {
		id          uint64
		free, bytes int64
		list        []string
	}
	var needs []need
	for _, p := range parts {
		id, free, ok := disk(existing(p.Path))
		if !ok {
			continue
		}
		i := slices.IndexFunc(needs, func(n need) bool { return n.id == id })
		if i < 0 {
			i, needs = len(needs), append(needs, need{id: id, free: free})
		}
		needs[i].bytes += p.Bytes
		needs[i].list = append(needs[i].list, p.Name+" in "+p.Path+" "+binary(p.Bytes))
	}
	for _, n := range needs {
		if n.bytes > n.free {
			return refuse("the disk has %s free, and the run has to write more: %s; make room, or give another place with --output and --work",
				binary(n.free), strings.Join(n.list, ", "))
		}
	}
	return nil
}

// existing is the nearest directory to a place that is there.
func existing(path string) string {
	for {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return path
		}
		path = parent
	}
}

// filesIn is how many bytes the files in a directory have.
func filesIn(dir string) (bytes int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode()&fs.ModeType == 0 {
			bytes += info.Size()
		}
	}
	return bytes
}
