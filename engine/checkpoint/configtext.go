package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"surgeon/engine/checkpoint/safetensors"
)

// dtypeNames spells types as config.json does.
var dtypeNames = map[safetensors.DType]string{
	safetensors.F64: "float64", safetensors.F32: "float32", safetensors.F16: "float16", safetensors.BF16: "bfloat16",
}

// setDType replaces the values of dtype and torch_dtype at the top level of a config.json and leaves every other byte as it
// is. Where the text has neither key it stays: then loaders go by the weights.
func setDType(text []byte, t safetensors.DType) ([]byte, error) {
	value, ok := dtypeNames[t]
	if !ok {
		return nil, fmt.Errorf("config.json has no name for type %s", t)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	type span struct{ from, to int }
	var spans []span
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("config.json: %w", err)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("config.json: %w", err)
		}
		if key == "dtype" || key == "torch_dtype" {
			end := int(dec.InputOffset())
			spans = append(spans, span{end - len(v), end})
		}
	}
	for _, s := range slices.Backward(spans) {
		text = slices.Concat(text[:s.from], []byte(`"`+value+`"`), text[s.to:])
	}
	return text, nil
}
