package text

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A decoder turns a list of tokens into another on the way to text; in the end the tokens are joined.
type decoder func(tokens []string) []string

// parseDecoder reads the field decoder; nil means that tokens are joined with spaces.
func parseDecoder(raw json.RawMessage) (decoder, error) {
	parts, err := flatten(raw, "decoder", "decoders")
	if err != nil {
		return nil, err
	}
	var chain []decoder
	for i, part := range parts {
		next, err := parseOneDecoder(part)
		if err != nil {
			return nil, fmt.Errorf("decoder %d (%s): %w", i, part.kind, err)
		}
		chain = append(chain, next)
	}
	if chain == nil {
		return nil, nil
	}
	return func(tokens []string) []string {
		for _, next := range chain {
			tokens = next(tokens)
		}
		return tokens
	}, nil
}

func parseOneDecoder(part component) (decoder, error) {
	switch part.kind {
	case "ByteLevel":
		return decodeByteLevel, nil
	case "ByteFallback":
		return decodeByteFallback, nil
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, nil
	case "Replace":
		replace, err := parseReplace(part.raw)
		return each(func(_ int, token string) string { return replace(token) }), err
	case "Strip":
		return parseStrip(part.raw)
	case "Metaspace":
		m, err := parseMetaspace(part.raw)
		return each(func(i int, token string) string {
			with := " "
			if i == 0 && m.scheme != "never" {
				with = ""
			}
			return strings.ReplaceAll(token, m.replacement, with)
		}), err
	}
	return nil, fmt.Errorf("this kind of decoder is not known; known are Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip and Metaspace")
}

// each is the decoder that changes every token on its own; i is its place.
func each(change func(i int, token string) string) decoder {
	return func(tokens []string) []string {
		out := make([]string, len(tokens))
		for i, token := range tokens {
			out[i] = change(i, token)
		}
		return out
	}
}

// decodeByteLevel joins the bytes of all tokens, and makes text of them only then, because characters may be spread over
// several tokens. A token with characters outside the alphabet, an added one, stands for itself.
func decodeByteLevel(tokens []string) []string {
	var out strings.Builder
	for _, token := range tokens {
		raw, ok := bytesOfToken(token)
		if !ok {
			raw = token
		}
		out.WriteString(raw)
	}
	return []string{validUTF8(out.String())}
}

// decodeByteFallback turns runs of tokens <0xHH> into the characters they spell, or, where they spell none, into as many
// U+FFFD as there are bytes.
func decodeByteFallback(tokens []string) []string {
	var out []string
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			for range run {
				out = append(out, string(utf8.RuneError))
			}
		}
		run = run[:0]
	}
	for _, token := range tokens {
		if len(token) == 6 && strings.HasPrefix(token, "<0x") && token[5] == '>' {
			if b, err := strconv.ParseUint(token[3:5], 16, 8); err == nil {
				run = append(run, byte(b))
				continue
			}
		}
		flush()
		out = append(out, token)
	}
	flush()
	return out
}

// parseStrip reads a Strip, which takes up to `start` times the character `content` from the beginning of each token and up
// to `stop` times from its end.
func parseStrip(raw json.RawMessage) (decoder, error) {
	var p struct {
		Content     string `json:"content"`
		Start, Stop int
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, plain(err)
	}
	if utf8.RuneCountInString(p.Content) != 1 || p.Start < 0 || p.Stop < 0 {
		return nil, fmt.Errorf("content %q must be one character, and start %d and stop %d not negative", p.Content, p.Start, p.Stop)
	}
	return each(func(_ int, token string) string {
		for i := 0; i < p.Start && strings.HasPrefix(token, p.Content); i++ {
			token = token[len(p.Content):]
		}
		for i := 0; i < p.Stop && strings.HasSuffix(token, p.Content); i++ {
			token = token[:len(token)-len(p.Content)]
		}
		return token
	}), nil
}
