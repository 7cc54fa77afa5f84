package text

import (
	"encoding/json"
	"fmt"
)

// A frame is what a post-processor puts around the ids of one text.
type frame struct{ before, after []int32 }

// parsePostProcessor reads the field post_processor. The post-processors of a Sequence work one after the other, each
// around what the one before it made. ByteLevel there moves offsets only, which this package does not compute.
func parsePostProcessor(raw json.RawMessage, vocabulary int) (frame, error) {
	parts, err := flatten(raw, "post_processor", "processors")
	if err != nil {
		return frame{}, err
	}
	var all frame
	for i, part := range parts {
		var one frame
		switch part.kind {
		case "ByteLevel":
		case "TemplateProcessing":
			one, err = parseTemplate(part.raw)
		case "RobertaProcessing", "BertProcessing":
			one, err = parseRoberta(part.raw)
		default:
			err = fmt.Errorf("this kind of post-processor is not known; known are Sequence, TemplateProcessing, ByteLevel, RobertaProcessing and BertProcessing")
		}
		if err != nil {
			return frame{}, fmt.Errorf("post_processor %d (%s): %w", i, part.kind, err)
		}
		for _, ids := range [][]int32{one.before, one.after} {
			if err := CheckVocab(ids, vocabulary); err != nil {
				return frame{}, fmt.Errorf("post_processor %d (%s): %w", i, part.kind, err)
			}
		}
		all.before = append(one.before, all.before...)
		all.after = append(all.after, one.after...)
	}
	return all, nil
}

// parseTemplate reads the template for a single text, such as "<s> $A </s>".
func parseTemplate(raw json.RawMessage) (frame, error) {
	type named struct {
		ID string `json:"id"`
	}
	var p struct {
		Single []struct {
			SpecialToken *named
			Sequence     *named
		} `json:"single"`
		SpecialTokens map[string]struct {
			IDs []int32 `json:"ids"`
		} `json:"special_tokens"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return frame{}, plain(err)
	}
	var f frame
	texts := 0
	for i, piece := range p.Single {
		switch {
		case piece.SpecialToken != nil && piece.Sequence == nil:
			special, ok := p.SpecialTokens[piece.SpecialToken.ID]
			if !ok {
				return frame{}, fmt.Errorf("the template names the token %q, which special_tokens does not explain", piece.SpecialToken.ID)
			}
			if texts == 0 {
				f.before = append(f.before, special.IDs...)
			} else {
				f.after = append(f.after, special.IDs...)
			}
		case piece.Sequence != nil && piece.SpecialToken == nil && piece.Sequence.ID == "A":
			texts++
		default:
			return frame{}, fmt.Errorf("entry %d of the template for single texts is neither a SpecialToken nor the Sequence A", i)
		}
	}
	if texts != 1 {
		return frame{}, fmt.Errorf("the template for single texts has the text %d times, want once", texts)
	}
	return f, nil
}

// parseRoberta reads {"cls": ["<s>", 0], "sep": ["</s>", 2]}: cls before the text, sep behind it.
func parseRoberta(raw json.RawMessage) (frame, error) {
	var p struct {
		Cls, Sep []json.RawMessage
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return frame{}, plain(err)
	}
	id := func(name string, entry []json.RawMessage) ([]int32, error) {
		if len(entry) != 2 {
			return nil, fmt.Errorf("%s must be a token and its id, but has %d entries", name, len(entry))
		}
		var id int32
		if err := json.Unmarshal(entry[1], &id); err != nil {
			return nil, fmt.Errorf("%s: %w", name, plain(err))
		}
		return []int32{id}, nil
	}
	var f frame
	var err error
	if f.before, err = id("cls", p.Cls); err != nil {
		return frame{}, err
	}
	f.after, err = id("sep", p.Sep)
	return f, err
}
