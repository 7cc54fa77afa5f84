package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// parseModel reads the field model, which must be BPE, and returns it with its vocabulary as the file spells it. limit
// is one more than the largest id that makes sense: the length of the file, as each token takes several bytes of it.
func parseModel(raw json.RawMessage, byteLevel bool, limit int) (*bpe, map[string]int32, error) {
	var f struct {
		Type             *string         `json:"type"`
		Vocab            json.RawMessage `json:"vocab"`
		Merges           json.RawMessage `json:"merges"`
		Dropout          *float64        `json:"dropout"`
		UnkToken         *string         `json:"unk_token"`
		ContinuingPrefix string          `json:"continuing_subword_prefix"`
		EndOfWord        string          `json:"end_of_word_suffix"`
		FuseUnk          bool            `json:"fuse_unk"`
		ByteFallback     bool            `json:"byte_fallback"`
		IgnoreMerges     bool            `json:"ignore_merges"`
	}
	if len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return nil, nil, errors.New("the field model is missing")
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, nil, fmt.Errorf("model: %w", plain(err))
	}
	switch { // Files older than 2020 do not name the type; vocab and merges together are found in BPE alone.
	case f.Type != nil && *f.Type != "BPE":
		return nil, nil, fmt.Errorf("the model is of type %q, but this program knows BPE only", *f.Type)
	case f.Vocab == nil:
		return nil, nil, errors.New("model has no field vocab")
	case f.Merges == nil:
		return nil, nil, errors.New("model has no field merges")
	case f.Dropout != nil && *f.Dropout != 0:
		return nil, nil, fmt.Errorf("model has dropout %g, which makes ids random; set it to null", *f.Dropout)
	case f.ContinuingPrefix != "":
		return nil, nil, fmt.Errorf("model has continuing_subword_prefix %q, which this program does not know", f.ContinuingPrefix)
	case f.EndOfWord != "":
		return nil, nil, fmt.Errorf("model has end_of_word_suffix %q, which this program does not know", f.EndOfWord)
	}
	vocabulary, err := parseVocabulary(f.Vocab, limit)
	if err != nil {
		return nil, nil, err
	}
	merges, err := parseMerges(f.Merges)
	if err != nil {
		return nil, nil, err
	}
	m := &bpe{unknown: -1, fuseUnknown: f.FuseUnk, byteLevel: byteLevel}
	if f.UnkToken != nil && *f.UnkToken != "" {
		id, ok := vocabulary[*f.UnkToken]
		if !ok {
			return nil, nil, fmt.Errorf("model has unk_token %q, which is not in vocab", *f.UnkToken)
		}
		m.unknown = id
	}
	m.setSymbols(vocabulary, f.ByteFallback)
	if f.IgnoreMerges {
		m.setWhole(vocabulary)
	}
	if err := m.setMerges(merges, vocabulary); err != nil {
		return nil, nil, err
	}
	return m, vocabulary, nil
}

// setSymbols fills the tables for single symbols and for byte fallback.
func (m *bpe) setSymbols(vocabulary map[string]int32, byteFallback bool) {
	m.symbols = make(map[string]int32)
	for b := range m.ascii {
		m.ascii[b], m.fallback[b] = -1, -1
		if byteFallback {
			if id, ok := vocabulary[fmt.Sprintf("<0x%02X>", b)]; ok {
				m.fallback[b] = id
			}
		}
		if m.byteLevel {
			if id, ok := vocabulary[byteNames[b]]; ok {
				m.ascii[b] = id
			}
		}
	}
	if m.byteLevel {
		m.unit = func(string) int { return 1 }
		return
	}
	m.unit = func(s string) int {
		_, n := decode(s)
		return n
	}
	for token, id := range vocabulary {
		if token == "" || m.unit(token) != len(token) {
			continue
		}
		if len(token) == 1 {
			m.ascii[token[0]] = id
		} else {
			m.symbols[token] = id
		}
	}
}

// setWhole notes what pieces are tokens as they are.
func (m *bpe) setWhole(vocabulary map[string]int32) {
	m.whole = make(map[string]int32, len(vocabulary))
	for token, id := range vocabulary {
		if m.byteLevel {
			raw, ok := bytesOfToken(token)
			if !ok {
				continue
			}
			token = raw
		}
		m.whole[token] = id
	}
}

// setMerges fills the tables of merges. Of two merges of the same pair the later counts.
func (m *bpe) setMerges(merges [][2]string, vocabulary map[string]int32) error {
	m.merges = newPairTable(len(merges))
	m.joins = newPairTable(len(merges))
	m.merged = make([]int32, len(merges))
	for rank, sides := range merges {
		var id [2]int32
		for i, side := range sides {
			var ok bool
			if id[i], ok = vocabulary[side]; !ok {
				return fmt.Errorf("merge %d joins %q and %q, but %q is not in vocab", rank, sides[0], sides[1], side)
			}
		}
		made, ok := vocabulary[sides[0]+sides[1]]
		if !ok {
			return fmt.Errorf("merge %d joins %q and %q, but %q is not in vocab", rank, sides[0], sides[1], sides[0]+sides[1])
		}
		m.merges.put(pair(id[0], id[1]), uint32(rank))
		m.merged[rank] = made
		last, _ := utf8.DecodeLastRuneInString(sides[0])
		first, _ := utf8.DecodeRuneInString(sides[1])
		m.joins.put(pair(last, first), 0)
	}
	return nil
}

// parseVocabulary reads {"token": id, …}. It goes token by token, because a map would hide a token that stands there twice.
func parseVocabulary(raw json.RawMessage, limit int) (map[string]int32, error) {
	in := json.NewDecoder(bytes.NewReader(raw))
	if open, err := in.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("model: vocab %.40s… is not an object from token to id", raw)
	}
	vocabulary := make(map[string]int32)
	owner := make(map[int32]string)
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, fmt.Errorf("model: vocab: %w", err)
		}
		token := key.(string) // keys of an object are always strings
		var id float64
		value, err := in.Token()
		if err != nil {
			return nil, fmt.Errorf("model: vocab: %w", err)
		}
		if id, _ = value.(float64); value != id || id < 0 || id != float64(int64(id)) {
			return nil, fmt.Errorf("model: vocab gives %q the id %v, want a whole number from 0", token, value)
		}
		if id >= float64(limit) {
			return nil, fmt.Errorf("model: vocab gives %q the id %.0f, more than a file of %d bytes can name", token, id, limit)
		}
		if _, twice := vocabulary[token]; twice {
			return nil, fmt.Errorf("model: vocab has the token %q twice", token)
		}
		if other, taken := owner[int32(id)]; taken {
			return nil, fmt.Errorf("model: vocab gives the id %.0f to both %q and %q", id, other, token)
		}
		vocabulary[token], owner[int32(id)] = int32(id), token
	}
	if len(vocabulary) == 0 {
		return nil, errors.New("model: vocab is empty")
	}
	return vocabulary, nil
}

// parseMerges reads a list of "a b" or of ["a", "b"].
func parseMerges(raw json.RawMessage) ([][2]string, error) {
	in := json.NewDecoder(bytes.NewReader(raw))
	if open, err := in.Token(); err != nil || open != json.Delim('[') {
		return nil, fmt.Errorf("model: merges %.40s… is not a list", raw)
	}
	var merges [][2]string
	for in.More() {
		bad := func() error {
			return fmt.Errorf(`model: merge %d is neither "a b" with one space nor ["a", "b"]`, len(merges))
		}
		next, err := in.Token()
		if err != nil {
			return nil, fmt.Errorf("model: merges: %w", err)
		}
		var sides []string
		switch next := next.(type) {
		case string:
			if strings.HasPrefix(next, "#version") && !strings.Contains(strings.TrimPrefix(next, "#version: "), " ") {
				continue // the first line of a merges.txt
			}
			sides = strings.Split(next, " ")
		case json.Delim:
			if next != '[' {
				return nil, bad()
			}
			for in.More() {
				side, err := in.Token()
				if err != nil {
					return nil, fmt.Errorf("model: merges: %w", err)
				}
				word, ok := side.(string)
				if !ok || len(sides) == 2 {
					return nil, bad()
				}
				sides = append(sides, word)
			}
			if _, err := in.Token(); err != nil && err != io.EOF {
				return nil, fmt.Errorf("model: merges: %w", err)
			}
		}
		if len(sides) != 2 || sides[0] == "" || sides[1] == "" {
			return nil, bad()
		}
		merges = append(merges, [2]string{sides[0], sides[1]})
	}
	return merges, nil
}
