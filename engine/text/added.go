package text

import (
	"fmt"
	"unicode/utf8"
)

// An addedToken is found in the text before the model sees it, such as <s> or <|im_end|>. The fields are those of
// tokenizer.json.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // matches only where no word character touches it
	LStrip     bool   `json:"lstrip"`      // takes the white space on its left with it
	RStrip     bool   `json:"rstrip"`      // takes the white space on its right with it
	Normalized bool   `json:"normalized"`  // is looked for, normalised, in the normalised text
	Special    bool   `json:"special"`     // is left out when decoding without special tokens
}

// A matcher finds added tokens: at each position from the left the longest one.
type matcher struct {
	nodes []trieNode
	begin [256]bool // first bytes of the contents, to pass quickly over everything else
}

type trieNode struct {
	next  map[byte]int32
	token *addedToken
}

func newMatcher() *matcher { return &matcher{nodes: make([]trieNode, 1)} }

// add makes content, not empty, stand for the token. Of two with the same content the first counts.
func (m *matcher) add(content string, token *addedToken) {
	at := int32(0)
	for i := 0; i < len(content); i++ {
		next, ok := m.nodes[at].next[content[i]]
		if !ok {
			next = int32(len(m.nodes))
			m.nodes = append(m.nodes, trieNode{})
			if m.nodes[at].next == nil {
				m.nodes[at].next = make(map[byte]int32)
			}
			m.nodes[at].next[content[i]] = next
		}
		at = next
	}
	if m.nodes[at].token == nil {
		m.nodes[at].token = token
	}
	m.begin[content[0]] = true
}

// longest returns the longest token that s begins with and its length, or nil.
func (m *matcher) longest(s string) (found *addedToken, length int) {
	at := int32(0)
	for i := 0; i < len(s); i++ {
		next, ok := m.nodes[at].next[s[i]]
		if !ok {
			break
		}
		if at = next; m.nodes[at].token != nil {
			found, length = m.nodes[at].token, i+1
		}
	}
	return found, length
}

// split hands out the text between added tokens (token nil) and the added tokens, in order; start is where in s the text
// begins. A token that is no single word though it must be one stays part of the text.
func (m *matcher) split(s string, emit func(between string, start int, token *addedToken)) {
	if len(m.nodes) == 1 {
		if s != "" {
			emit(s, 0, nil)
		}
		return
	}
	done := 0
	for i := 0; i < len(s); {
		if !m.begin[s[i]] {
			i++
			continue
		}
		token, length := m.longest(s[i:])
		if token == nil {
			i++
			continue
		}
		start, stop := i, i+length
		i = stop
		if token.SingleWord && (endsInWord(s[:start]) || beginsWithWord(s[stop:])) {
			continue
		}
		if token.LStrip {
			start = max(start-trailingSpace(s[:start]), done)
		}
		if token.RStrip {
			stop += spanClass(s[stop:], classSpace)
		}
		if done < start {
			emit(s[done:start], done, nil)
		}
		emit("", start, token)
		done = stop
	}
	if done < len(s) {
		emit(s[done:], done, nil)
	}
}

func endsInWord(s string) bool {
	c, width := utf8.DecodeLastRuneInString(s)
	return width > 0 && isWord(c)
}

func beginsWithWord(s string) bool {
	c, width := utf8.DecodeRuneInString(s)
	return width > 0 && isWord(c)
}

func trailingSpace(s string) int {
	n := 0
	for n < len(s) {
		c, width := utf8.DecodeLastRuneInString(s[:len(s)-n])
		if !isSpace(c) {
			break
		}
		n += width
	}
	return n
}

// checkAddedTokens checks the list of tokenizer.json against the model's vocabulary. Ids there are a statement, not a wish:
// a token that the vocabulary has keeps its id, others are numbered on behind the vocabulary in the order of the list. A
// file that states other ids would mean different things to different programs, and is refused.
func checkAddedTokens(tokens []addedToken, vocabulary map[string]int32) error {
	size := int64(len(vocabulary))
	seen := make(map[string]bool, len(tokens))
	next := size
	for i, token := range tokens {
		if token.Content == "" {
			return fmt.Errorf("added_tokens: entry %d (id %d) has no content", i, token.ID)
		}
		if seen[token.Content] {
			return fmt.Errorf("added_tokens: entry %d (id %d) has the content %q for a second time; remove one of the two", i, token.ID, token.Content)
		}
		seen[token.Content] = true
		want := next
		if id, known := vocabulary[token.Content]; known {
			want = int64(id)
		}
		if token.ID != want {
			return fmt.Errorf("added_tokens: entry %d, %q, states id %d, but its place gives it id %d; correct the list", i, token.Content, token.ID, want)
		}
		next = max(next, want+1)
	}
	return nil
}
