package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// headerMax bounds the header. The format's reference implementation refuses larger ones; a header of this size already
// describes about a million arrays.
const headerMax = 100_000_000

// dimensionsMax bounds the rank, so that a header cannot ask for a long chain of multiplications by 1.
const dimensionsMax = 64

// metadataKey is the one key of the header that is not an array.
const metadataKey = "__metadata__"

// parse checks everything the package comment promises. name stands for the file in errors.
func parse(name string, data []byte) (*File, error) {
	if len(data) < 8 {
		return nil, fmt.Errorf("%s: %d bytes are too few for a safetensors file, which starts with an 8-byte header length; the file is truncated", name, len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if rest := uint64(len(data) - 8); n > rest {
		return nil, fmt.Errorf("%s: the header is said to have %d bytes and the file has %d after its length; the file is truncated or not safetensors", name, n, rest)
	}
	if n > headerMax {
		return nil, fmt.Errorf("%s: a header of %d bytes is above the limit of %d", name, n, headerMax)
	}
	f := &File{name: name, body: data[8+n:], index: map[string]int{}}
	if err := f.readHeader(data[8 : 8+n]); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := f.checkLayout(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// readHeader fills tensors, index and metadata from the JSON text. encoding/json's Unmarshal lets the last of two equal
// keys win; a file with such a header means different things to different readers, so tokens are read one by one here.
func (f *File) readHeader(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("the header is not UTF-8")
	}
	if len(text) == 0 || text[0] != '{' {
		return errors.New("the header does not begin with '{'; the file is not safetensors")
	}
	h := header{dec: json.NewDecoder(bytes.NewReader(text))}
	h.dec.UseNumber()
	seen := map[string]bool{}
	err := h.object("the header", func(key string) error {
		if seen[key] {
			return fmt.Errorf("the header names %q twice", key)
		}
		seen[key] = true
		if key == metadataKey {
			f.metadata = map[string]string{}
			return h.object(metadataKey, func(k string) error {
				if _, ok := f.metadata[k]; ok {
					return fmt.Errorf("%s names %q twice", metadataKey, k)
				}
				v, err := h.text()
				if err != nil {
					return fmt.Errorf("%s %q: %w", metadataKey, k, err)
				}
				f.metadata[k] = v
				return nil
			})
		}
		t, err := h.tensor(key)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		f.tensors = append(f.tensors, t)
		return nil
	})
	if err != nil {
		return err
	}
	if rest := bytes.TrimLeft(text[h.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return fmt.Errorf("the header goes on for %d bytes after its JSON object", len(rest))
	}
	return nil
}

// checkLayout sorts the arrays by offset and makes sure that they cover the data part exactly once.
func (f *File) checkLayout() error {
	slices.SortStableFunc(f.tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	at, before := 0, "the header"
	for i, t := range f.tensors {
		if t.begin < at {
			return fmt.Errorf("tensor %q begins at byte %d, inside %q, which ends at %d", t.Name, t.begin, before, at)
		}
		if t.begin > at {
			return fmt.Errorf("tensor %q begins at byte %d, but %q before it ends at %d: bytes that belong to no tensor", t.Name, t.begin, before, at)
		}
		if t.end > len(f.body) {
			return fmt.Errorf("tensor %q ends at byte %d of the data and the file has %d; the file is truncated", t.Name, t.end, len(f.body))
		}
		at, before = t.end, t.Name
		f.index[t.Name] = i
	}
	if at != len(f.body) {
		return fmt.Errorf("the tensors end at byte %d of the data and the file has %d; %d bytes belong to no tensor", at, len(f.body), len(f.body)-at)
	}
	return nil
}

// header reads the JSON text token by token.
type header struct{ dec *json.Decoder }

// tensor reads one {"dtype", "shape", "data_offsets"} object and checks that the three agree.
func (h header) tensor(name string) (Tensor, error) {
	t := Tensor{Name: name, Shape: nil}
	var offsets []int
	var hasType, hasShape, hasOffsets bool
	err := h.object("its entry", func(key string) error {
		var err error
		var again bool
		switch key {
		case "dtype":
			again, hasType = hasType, true
			var s string
			s, err = h.text()
			t.DType = DType(s)
		case "shape":
			again, hasShape = hasShape, true
			t.Shape, err = h.integers(dimensionsMax)
		case "data_offsets":
			again, hasOffsets = hasOffsets, true
			offsets, err = h.integers(2)
		default:
			return fmt.Errorf("unknown key %q; dtype, shape and data_offsets are known", key)
		}
		if again {
			return fmt.Errorf("%s is given twice", key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return t, err
	case !hasType || !hasShape || !hasOffsets:
		return t, errors.New("dtype, shape and data_offsets must all be given")
	case t.DType.Size() == 0:
		return t, fmt.Errorf("unknown dtype %q", t.DType)
	case len(offsets) != 2:
		return t, fmt.Errorf("data_offsets holds %d numbers instead of 2", len(offsets))
	}
	t.begin, t.end = offsets[0], offsets[1]
	if t.begin > t.end {
		return t, fmt.Errorf("data_offsets begin at %d and end before, at %d", t.begin, t.end)
	}
	want, ok := byteLength(t.DType, t.Shape)
	if !ok {
		return t, fmt.Errorf("shape %v of %s has more bytes than can be counted", t.Shape, t.DType)
	}
	if have := t.end - t.begin; have != want {
		return t, fmt.Errorf("shape %v of %s takes %d bytes and data_offsets [%d, %d] hold %d", t.Shape, t.DType, want, t.begin, t.end, have)
	}
	return t, nil
}

// object reads an object, calling each after every key; each reads the value.
func (h header) object(what string, each func(key string) error) error {
	if err := h.delim('{'); err != nil {
		return fmt.Errorf("%s is not a JSON object: %w", what, err)
	}
	for h.dec.More() {
		key, err := h.text()
		if err != nil {
			return err
		}
		if err := each(key); err != nil {
			return err
		}
	}
	return h.delim('}')
}

func (h header) text() (string, error) {
	tok, err := h.token()
	if err != nil {
		return "", err
	}
	s, ok := tok.(string)
	if !ok {
		return "", fmt.Errorf("found %v where a text is expected", tok)
	}
	return s, nil
}

// integers reads an array of at most limit integers ≥ 0.
func (h header) integers(limit int) ([]int, error) {
	if err := h.delim('['); err != nil {
		return nil, err
	}
	list := []int{}
	for h.dec.More() {
		tok, err := h.token()
		if err != nil {
			return nil, err
		}
		num, ok := tok.(json.Number)
		if !ok {
			return nil, fmt.Errorf("found %v where an integer is expected", tok)
		}
		v, err := strconv.ParseInt(num.String(), 10, strconv.IntSize)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("found %s where an integer from 0 to 2^63-1 is expected", num)
		}
		if len(list) == limit {
			return nil, fmt.Errorf("more than %d numbers", limit)
		}
		list = append(list, int(v))
	}
	return list, h.delim(']')
}

func (h header) delim(want json.Delim) error {
	tok, err := h.token()
	if err != nil {
		return err
	}
	if tok != want {
		return fmt.Errorf("found %v where %q is expected", tok, want.String())
	}
	return nil
}

func (h header) token() (json.Token, error) {
	tok, err := h.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("reading the JSON of the header near byte %d: %w", h.dec.InputOffset(), err)
	}
	return tok, nil
}
