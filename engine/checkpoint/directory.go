package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"surgeon/engine/checkpoint/safetensors"
)

const (
	configName = "config.json"
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
)

// index is model.safetensors.index.json: which file holds which tensor.
type index struct {
	Metadata  map[string]any    `json:"metadata"`
	WeightMap map[string]string `json:"weight_map"`
}

func (c *Checkpoint) openDirectory() error {
	c.Format = HuggingFace
	text, err := os.ReadFile(filepath.Join(c.Path, configName))
	if err != nil {
		return fmt.Errorf("a model directory has a config.json: %w", err)
	}
	if c.Config, err = ParseConfig(text); err != nil {
		return err
	}
	c.configText = text
	weightMap, err := c.findFiles()
	if err != nil {
		return err
	}
	found := map[string]stored{}
	for _, path := range c.files {
		f, err := safetensors.Open(path)
		if err != nil {
			return err
		}
		c.open = append(c.open, f)
		for _, t := range f.Tensors() {
			base := filepath.Base(path)
			if _, ok := found[t.Name]; ok {
				return fmt.Errorf("tensor %q stands in %s and in a file before it", t.Name, base)
			}
			if want := weightMap[t.Name]; weightMap != nil && want != base {
				return fmt.Errorf("tensor %q stands in %s, but %s places it in %q", t.Name, base, indexName, want)
			}
			found[t.Name] = stored{name: t.Name, shape: t.Shape, dtype: t.DType, data: f.Bytes(t.Name), guard: f.Guard}
			c.order = append(c.order, t.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weightMap)) {
		if _, ok := found[name]; !ok {
			return fmt.Errorf("%s places tensor %q in %s, where it is not", indexName, name, weightMap[name])
		}
	}
	return c.agree(c.addPrefix(found))
}

// findFiles sets files to the weight files and returns the index, nil for a single file.
func (c *Checkpoint) findFiles() (map[string]string, error) {
	single := filepath.Join(c.Path, singleName)
	if _, err := os.Stat(single); err == nil {
		c.files = []string{single}
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(c.Path, indexName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the directory has neither %s nor %s; weights in other formats (*.bin, *.pth) are not read, save them again with transformers' save_pretrained", singleName, indexName)
	}
	if err != nil {
		return nil, err
	}
	var x index
	if err := readObject(text, &x); err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	if len(x.WeightMap) == 0 {
		return nil, fmt.Errorf("%s has no weight_map", indexName)
	}
	files := map[string]bool{}
	for tensor, name := range x.WeightMap {
		if name != filepath.Base(name) || !strings.HasSuffix(name, ".safetensors") {
			return nil, fmt.Errorf("%s places tensor %q in %q; the name of a .safetensors file in the same directory is expected", indexName, tensor, name)
		}
		files[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		c.files = append(c.files, filepath.Join(c.Path, name))
	}
	return x.WeightMap, nil
}

// addPrefix translates names in files that were saved from the bare model, without its head ("decoder.layers.0…"), to the
// names of the whole one ("model.decoder.layers.0…"). Write keeps the names of the file.
func (c *Checkpoint) addPrefix(found map[string]stored) map[string]stored {
	const prefix = "model."
	embedding := c.Config.Names.Embedding + ".weight"
	_, whole := found[embedding]
	_, bare := found[strings.TrimPrefix(embedding, prefix)]
	if whole || !bare {
		return found
	}
	renamed := make(map[string]stored, len(found))
	for i, name := range c.order {
		if name != c.Config.Names.Head+".weight" {
			c.order[i] = prefix + name
		}
		renamed[c.order[i]] = found[name]
	}
	return renamed
}
