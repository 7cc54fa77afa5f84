package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// record is the content of shot-NNN.json.
type record struct {
	Number        int             `json:"shot"`
	WeightsBytes  int64           `json:"weights_bytes"`
	WeightsSHA256 string          `json:"weights_sha256"`
	State         json.RawMessage `json:"state"`
	// SHA256 is that of this record's own encoding with an empty SHA256.
	SHA256 string `json:"sha256"`
}

// errRecord is what every damage of a record is.
var errRecord = errors.New("damaged record")

// newRecord makes a record without weights. A state that JSON cannot carry, such as one that holds a NaN, is an error.
func newRecord(number int, state any) (*record, error) {
	b, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("its state cannot be written as JSON: %w", err)
	}
	return &record{Number: number, State: b}, nil
}

// describe adds what the weights must be.
func (r *record) describe(weights digest) {
	r.WeightsBytes = weights.bytes
	r.WeightsSHA256 = hexadecimal(weights.sha256)
}

// encode is the file: one line of JSON with its own SHA-256 in it.
func (r *record) encode() []byte {
	unsigned := *r
	unsigned.SHA256 = ""
	r.SHA256 = hexadecimal(sha256.Sum256(unsigned.line()))
	return r.line()
}

func (r *record) line() []byte {
	b, err := json.Marshal(r)
	if err != nil { // State came from Marshal or was parsed
		panic(fmt.Sprintf("journal: a record that JSON cannot carry: %v", err))
	}
	return append(b, '\n')
}

// parseRecord reads a record. It must be, byte for byte, what encode would write for what it says: this catches whatever a
// JSON reader is lenient about (doubled or unknown fields, upper case, white space), so that no altered byte goes unseen.
func parseRecord(data []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("it is not JSON that can be read: %w", err)
	}
	if r.State == nil {
		return nil, errors.New("it has no state")
	}
	again := r
	if !bytes.Equal(again.encode(), data) {
		return nil, fmt.Errorf("its SHA-256 is %s, %q was written, or it was laid out by something else", again.SHA256, r.SHA256)
	}
	return &r, nil
}

// readRecord reads a record from a file: damage is errRecord with the file's name.
func readRecord(path string) (*record, error) {
	data, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s (%d bytes): %w", errRecord, path, len(data), err)
	}
	return r, nil
}

// decodeState reads the state strictly: a field that would be dropped is an error, as a run that forgot something does not
// go on bit for bit.
func (r *record) decodeState(state any) error {
	d := json.NewDecoder(bytes.NewReader(r.State))
	d.DisallowUnknownFields()
	if err := d.Decode(state); err != nil {
		return fmt.Errorf("its state does not fit: %w", err)
	}
	return nil
}

func hexadecimal(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:]) }
