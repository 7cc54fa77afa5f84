package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
)

// fields are the keys of a JSON object. The first key that cannot be read is remembered in err, and the readers go on with
// the default, so that config() reads like the list it is; whoever uses the values looks at err first.
type fields struct {
	values map[string]json.RawMessage
	err    error
}

// readObject reads a JSON object. What is something else is told in the words of JSON, not of Go.
func readObject(text []byte, to any) error {
	err := json.Unmarshal(text, to)
	if bad, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at := "this"
		if bad.Field != "" {
			at = bad.Field
		}
		want := "an object"
		if bad.Type.Kind() == reflect.String {
			want = "a text"
		}
		return fmt.Errorf("%s is of the type %s; %s is expected", at, bad.Value, want)
	}
	return err
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// null tells whether the key is there and says null.
func (f *fields) null(key string) bool { return string(f.values[key]) == "null" }

// has tells whether the key is there with another value than null.
func (f *fields) has(key string) bool {
	_, ok := f.values[key]
	return ok && !f.null(key)
}

// decode reads a value that must not be null; false where it cannot.
func (f *fields) decode(key string, to any, what string) bool {
	raw := f.values[key]
	if f.null(key) || json.Unmarshal(raw, to) != nil {
		if len(raw) > 40 {
			raw = append(raw[:40:40], "…"...)
		}
		f.fail("%s is %s; %s is expected", key, raw, what)
		return false
	}
	return true
}

// whole reads an integer ≥ 0.
func (f *fields) whole(key string, absent int) int {
	if _, ok := f.values[key]; !ok {
		return absent
	}
	n := -1
	if f.decode(key, &n, "an integer") && (n < 0 || n > sizeMax) {
		f.fail("%s is %d; an integer from 0 to %d is expected", key, n, sizeMax)
	}
	return n
}

// size reads an integer ≥ 1.
func (f *fields) size(key string, absent int) int {
	n := f.whole(key, absent)
	if n < 1 {
		f.fail("%s is %d; at least 1 is expected", key, n)
	}
	return n
}

// sizeOrNull is 0 where the key says null.
func (f *fields) sizeOrNull(key string, absent int) int {
	if f.null(key) {
		return 0
	}
	if _, ok := f.values[key]; !ok {
		return absent
	}
	return f.size(key, absent)
}

func (f *fields) number(key string, absent float64) float64 {
	if _, ok := f.values[key]; !ok {
		return absent
	}
	x := math.NaN()
	f.decode(key, &x, "a number")
	return x
}

func (f *fields) text(key, absent string) string {
	s := absent
	if _, ok := f.values[key]; ok {
		f.decode(key, &s, "a text")
	}
	return s
}

func (f *fields) flag(key string, absent bool) bool {
	b := absent
	if _, ok := f.values[key]; ok {
		f.decode(key, &b, "true or false")
	}
	return b
}

func (f *fields) option(o option) bool {
	if o.key == "" {
		return o.value
	}
	return f.flag(o.key, o.value)
}

// rope reads the parameters of rotary positions in either spelling: rope_parameters (transformers 5), or rope_theta with
// rope_scaling, whose kind is called rope_type or, before 2024, type. Where both are there they must agree.
func (f *fields) rope() Rope {
	const baseDefault = 10000 // of all families with rotary positions
	r := Rope{Base: f.number("rope_theta", baseDefault)}
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if !f.has(key) {
			continue
		}
		p := fields{}
		if !f.decode(key, &p.values, "an object") {
			continue
		}
		next := p.ropeKind(r.Base)
		switch {
		case p.err != nil:
			f.fail("%s: %w", key, p.err)
		case p.has("rope_theta") && f.has("rope_theta") && next.Base != r.Base:
			f.fail("rope_theta is %v and in %s it is %v", r.Base, key, next.Base)
		case key == "rope_parameters" && f.has("rope_scaling") && next != r:
			f.fail("rope_scaling and rope_parameters disagree: %+v and %+v", r, next)
		}
		r = next
	}
	if f.err == nil && !(r.Base > 0 && r.Base <= math.MaxFloat32) {
		f.fail("rope_theta is %v; a number above 0 is expected", r.Base)
	}
	return r
}

// ropeKind reads the object rope_scaling or rope_parameters.
func (f *fields) ropeKind(base float64) Rope {
	r := Rope{Base: f.number("rope_theta", base)}
	if x := f.number("partial_rotary_factor", 1); x != 1 {
		f.fail("partial_rotary_factor %v is not supported; 1 is", x)
	}
	for key, value := range f.values {
		if value[0] == '{' {
			f.fail("%q has parameters of its own; one rule for all blocks is supported", key)
		}
	}
	kind := f.text("rope_type", f.text("type", "default"))
	if old := f.text("type", kind); old != kind {
		f.fail("rope_type is %q and type is %q", kind, old)
	}
	factor := func(key string) float64 {
		x := f.number(key, math.NaN())
		if f.err == nil && !(x > 0 && x <= math.MaxFloat32) {
			f.fail("rope_type %q needs %s as a number above 0", kind, key)
		}
		return x
	}
	switch kind {
	case "default":
	case "linear":
		r.Kind, r.Factor = RopeLinear, factor("factor")
	case "llama3":
		r.Kind, r.Factor = RopeLlama3, factor("factor")
		r.LowFreqFactor, r.HighFreqFactor = factor("low_freq_factor"), factor("high_freq_factor")
		r.OriginalMax = f.size("original_max_position_embeddings", 0)
		if f.err == nil && r.LowFreqFactor >= r.HighFreqFactor {
			f.fail("low_freq_factor %v is not below high_freq_factor %v", r.LowFreqFactor, r.HighFreqFactor)
		}
	default:
		f.fail("rope_type %q is not supported; default, linear and llama3 are", kind)
	}
	return r
}
