package tasks

import (
	"fmt"
	"strings"
	"unicode"
)

// A Request is what a model is asked for one choice: Σ_t log p(Targets_t | Inputs_1 … Inputs_t) over targets that are not
// negative. Inputs and Targets have one length.
type Request struct {
	Inputs, Targets []int32
}

// An Encoder makes requests for one model.
type Encoder struct {
	// Tokenizer turns text into ids; with special set, with those that the model's tokenizer puts around every text.
	Tokenizer interface {
		Encode(text string, special bool) []int32
	}
	// Prefix is the token that stands for an empty context: that of the beginning of a text, or of its end where there is
	// none for the beginning; negative where there is neither. PrefixText is what it is decoded to.
	Prefix     int32
	PrefixText string
	// MaxLength is the most tokens that the model can be given.
	MaxLength int
}

// Requests are the requests of an item, one per choice.
func (e *Encoder) Requests(i Item) ([]Request, error) {
	requests := make([]Request, len(i.Choices))
	for k, choice := range i.Choices {
		context, continuation, err := e.encode(i.Context, choice)
		if err == nil {
			requests[k], err = e.request(context, continuation)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d, choice %d: %w", i.Line, k, err)
		}
	}
	return requests, nil
}

// encode turns a context and its continuation into ids, as the harness does.
//
// White space at the end of the context is moved to the front of the continuation. Then both together are tokenised, and the
// context alone, and what the first has beyond the length of the second are the tokens of the continuation. Where a token
// would reach over the boundary the two halves need not be what the whole is cut into; the model is asked for the halves.
//
// With an empty context the continuation is tokenised alone, without special tokens, behind the prefix token; if it begins
// with that token itself, this one is the context.
func (e *Encoder) encode(context, choice string) (before, behind []int32, err error) {
	if context == "" {
		if e.Prefix < 0 {
			return nil, nil, fmt.Errorf("the context is empty, and the model's tokenizer names no token for the beginning or the end of a text that could stand for it (bos_token or eos_token in tokenizer_config.json)")
		}
		behind = e.Tokenizer.Encode(choice, false)
		if len(behind) > 0 && behind[0] == e.Prefix {
			return behind[:1], behind[1:], nil
		}
		return []int32{e.Prefix}, behind, nil
	}
	stripped := strings.TrimRightFunc(context, isSpace)
	before = e.tokenise(stripped)
	whole := e.tokenise(context + choice)
	return before, whole[min(len(before), len(whole)):], nil
}

// tokenise adds the special tokens of the model's tokenizer, unless the text itself begins with the prefix token.
func (e *Encoder) tokenise(text string) []int32 {
	return e.Tokenizer.Encode(text, e.Prefix < 0 || !strings.HasPrefix(text, e.PrefixText))
}

// isSpace is white space as Python's str.rstrip takes it: Unicode's White_Space and the four separators U+001C to U+001F.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// request lays out a context and a continuation: the last MaxLength + 1 tokens of both, all but the last as inputs, all but
// the first as targets, of which those of the continuation count.
//
//	tokens   c c c|k k k       c context, k continuation
//	inputs   c c c k k
//	targets  − − k k k
func (e *Encoder) request(context, continuation []int32) (Request, error) {
	switch {
	case len(continuation) == 0:
		return Request{}, fmt.Errorf("no token is left for the choice once the context is tokenised")
	case len(context) == 0:
		return Request{}, fmt.Errorf("the context is nothing but white space, which leaves no token to begin with; make it empty, or put a token such as <s> in front")
	case len(continuation) > e.MaxLength:
		return Request{}, fmt.Errorf("the choice has %d tokens, and the model has positions for %d", len(continuation), e.MaxLength)
	}
	tokens := append(append([]int32{}, context...), continuation...)
	tokens = tokens[max(0, len(tokens)-e.MaxLength-1):]
	r := Request{Inputs: tokens[:len(tokens)-1], Targets: append([]int32{}, tokens[1:]...)}
	for at := range len(r.Targets) - len(continuation) {
		r.Targets[at] = -1
	}
	return r, nil
}
