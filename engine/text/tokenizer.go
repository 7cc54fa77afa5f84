// Package text turns text into the windows of token ids that calibration and evaluation run on: it reads corpora, tokenises
// them exactly as the Hugging Face tokenizers library does, and cuts and shuffles windows. It knows no device and no model.
//
//	corpus, err := text.ReadCorpus(ctx, []string{"train-*.parquet"})
//	tokenizer, err := text.ParseTokenizer(json)             // the model's tokenizer.json, or VocabularyJSON of its GGUF file
//	ids := tokenizer.Encode(corpus.Text, true)
//	calibration, heldOut, err := text.CalibrationWindows(ids, 2048, 128, 16, seed)
//
// A text is tokenised once, as a whole, and only then cut (method, section 8).
//
// One string goes through these steps, each in a file of its own:
//
//	added.go                  special and other added tokens are found and taken out; the rest goes on, part by part
//	normalize.go              Unicode normal forms, spaces to ▁
//	pretokenize.go, scan.go   cut into pieces: words, numbers, punctuation, white space
//	bpe.go                    each piece to ids by merging pairs
//	post.go                   beginning- and end-of-text tokens around the whole
//
// and decode.go leads back. The ids decide what a perplexity means, so a component that is not known here is an error that
// names it; nothing is skipped.
package text

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// A Tokenizer turns text into token ids and back. It does not change after ParseTokenizer and may be used by several
// goroutines.
type Tokenizer struct {
	tokens  []token  // by id
	added   *matcher // added tokens looked for in the text as given
	within  *matcher // added tokens looked for in the normalised text
	norm    normalizers
	pre     preTokenizer
	model   *bpe
	special frame
	decode  decoder
}

type token struct {
	text    string
	known   bool
	special bool
}

// ParseTokenizer reads a tokenizer.json whose model is BPE: byte-level (GPT-2, OPT, SmolLM2, Llama-3, Qwen2) or in the style
// of SentencePiece with byte fallback (Llama-2, Mistral). It refuses, by name, kinds of models and components that it does
// not know, and files that contradict themselves. The fields truncation and padding concern batches and are not applied.
func ParseTokenizer(data []byte) (*Tokenizer, error) {
	t, err := parseTokenizer(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

func parseTokenizer(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not valid UTF-8; it is damaged or no JSON")
	}
	var f struct {
		AddedTokens   []addedToken    `json:"added_tokens"`
		Normalizer    json.RawMessage `json:"normalizer"`
		PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
		PostProcessor json.RawMessage `json:"post_processor"`
		Decoder       json.RawMessage `json:"decoder"`
		Model         json.RawMessage `json:"model"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, plain(err)
	}
	t := &Tokenizer{added: newMatcher(), within: newMatcher()}
	var byteLevel bool
	var err error
	if t.norm, err = parseNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if t.pre, byteLevel, err = parsePreTokenizer(f.PreTokenizer); err != nil {
		return nil, err
	}
	if t.decode, err = parseDecoder(f.Decoder); err != nil {
		return nil, err
	}
	var vocabulary map[string]int32
	if t.model, vocabulary, err = parseModel(f.Model, byteLevel, len(data)); err != nil {
		return nil, err
	}
	if err := checkAddedTokens(f.AddedTokens, vocabulary); err != nil {
		return nil, err
	}
	for text, id := range vocabulary {
		t.setToken(id, token{text: text, known: true})
	}
	for i := range f.AddedTokens {
		if err := t.add(&f.AddedTokens[i]); err != nil {
			return nil, err
		}
	}
	if t.special, err = parsePostProcessor(f.PostProcessor, len(t.tokens)); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Tokenizer) add(a *addedToken) error {
	id := int32(a.ID)
	if int(id) < len(t.tokens) && t.tokens[id].known && t.tokens[id].text != a.Content {
		return fmt.Errorf("added_tokens: %q has the id %d, which vocab gives to %q", a.Content, id, t.tokens[id].text)
	}
	content := a.Content
	if a.Normalized {
		var ok bool
		if content, ok = t.norm.applyToToken(content); !ok {
			return fmt.Errorf("added_tokens: %.40q (id %d) has %d bytes or more when normalised, more than %d", a.Content, a.ID, len(content), longestAddedToken)
		}
	}
	if content == "" {
		return fmt.Errorf("added_tokens: %q (id %d) is normalised to nothing and could never be found", a.Content, a.ID)
	}
	if a.Normalized {
		t.within.add(content, a)
	} else {
		t.added.add(content, a)
	}
	// Decoders undo what normalizers did, so they are given the normalised form.
	t.setToken(id, token{text: content, known: true, special: a.Special})
	return nil
}

func (t *Tokenizer) setToken(id int32, to token) {
	if n := int(id) + 1; n > len(t.tokens) {
		t.tokens = append(t.tokens, make([]token, n-len(t.tokens))...)
	}
	t.tokens[id] = to
}

// Vocab returns the largest id + 1, the rows an embedding needs.
func (t *Tokenizer) Vocab() int { return len(t.tokens) }

// ID is the id of the token with that text, as the vocabulary spells it.
func (t *Tokenizer) ID(text string) (id int32, known bool) {
	i := slices.IndexFunc(t.tokens, func(one token) bool { return one.known && one.text == text })
	return int32(i), i >= 0
}

// Encode returns the ids of a text; with special set, those that the tokenizer puts before and behind every text (such as <s>)
// are among them. Special tokens written out in the text become their ids either way. Text should be valid UTF-8; bytes that
// are not are encoded as bytes where the vocabulary allows it.
//
// Large texts are encoded on all processors; the result does not depend on how many there are.
func (t *Tokenizer) Encode(text string, special bool) []int32 {
	ids, _ := t.EncodeContext(context.Background(), text, special) // which is never done
	return ids
}

// EncodeContext is Encode of a text so long that it may have to be stopped; the error is that of ctx.
func (t *Tokenizer) EncodeContext(ctx context.Context, text string, special bool) (ids []int32, err error) {
	e := encoder{ctx: ctx, tokenizer: t}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(stopped); !ok {
				panic(p)
			}
			ids, err = nil, ctx.Err()
		}
	}()
	if special {
		e.ids = append(e.ids, t.special.before...)
	}
	t.added.split(text, func(between string, start int, found *addedToken) {
		if found != nil {
			e.token(found)
			return
		}
		t.within.split(t.norm.apply(between), func(part string, at int, found *addedToken) {
			if found != nil {
				e.token(found)
				return
			}
			t.pre.split(part, start == 0 && at == 0, e.piece)
		})
	})
	e.flush()
	if special {
		e.ids = append(e.ids, t.special.after...)
	}
	return e.ids, nil
}

// stopped is what flush panics with when the context is done: what cuts the text hands on pieces, and takes no answer.
type stopped struct{}

// An encoder collects parts and encodes them batch by batch, a batch on several processors. A piece's ids depend on the piece
// alone, so batches and shares of them can be cut anywhere.
type encoder struct {
	ctx       context.Context
	tokenizer *Tokenizer
	ids       []int32
	parts     []part
	bytes     int
	workers   []*encoding
	shares    [][]int32
}

// A part is a piece of text, or, where text is empty, an added token.
type part struct {
	text  string
	token int32
}

// A batch is large enough that starting goroutines costs nothing beside it, and small beside the texts.
const (
	batchPieces = 1 << 16
	batchBytes  = 1 << 22
	sharePieces = 1 << 10 // a processor's share is at least this, else the calling goroutine does the work
)

func (e *encoder) token(found *addedToken) { e.collect(part{token: int32(found.ID)}) }

func (e *encoder) piece(piece string, _ bool) {
	m := e.tokenizer.model
	if m.byteLevel || m.whole != nil || len(piece) <= rememberBytes {
		e.collect(part{text: piece})
		return
	}
	for piece != "" {
		n := m.cut(piece)
		e.collect(part{text: piece[:n]})
		piece = piece[n:]
	}
}

func (e *encoder) collect(next part) {
	e.parts = append(e.parts, next)
	e.bytes += len(next.text)
	if len(e.parts) >= batchPieces || e.bytes >= batchBytes {
		e.flush()
	}
}

// flush appends the ids of the parts collected.
func (e *encoder) flush() {
	if e.ctx.Err() != nil {
		panic(stopped{})
	}
	workers := max(1, min(runtime.GOMAXPROCS(0), len(e.parts)/sharePieces))
	for len(e.workers) < workers {
		e.workers = append(e.workers, newEncoding(e.tokenizer.model))
		e.shares = append(e.shares, nil)
	}
	if workers == 1 {
		e.ids = e.workers[0].appendAll(e.ids, e.parts)
	} else {
		var group sync.WaitGroup
		for w := range workers {
			share := e.parts[len(e.parts)*w/workers : len(e.parts)*(w+1)/workers]
			group.Go(func() {
				e.shares[w] = e.workers[w].appendAll(e.shares[w][:0], share)
			})
		}
		group.Wait()
		for w := range workers {
			e.ids = append(e.ids, e.shares[w]...)
		}
	}
	e.parts, e.bytes = e.parts[:0], 0
}

// Decode returns the text of ids; with skipSpecial set, special tokens such as <s> are left out. Ids that no token has are
// left out too. Bytes that make no character become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		if id < 0 || int(id) >= len(t.tokens) {
			continue
		}
		if one := t.tokens[id]; one.known && !(skipSpecial && one.special) {
			tokens = append(tokens, one.text)
		}
	}
	if t.decode == nil {
		return strings.Join(tokens, " ")
	}
	return strings.Join(t.decode(tokens), "")
}
