package tasks

import (
	"reflect"
	"strings"
	"testing"
)

// letters has the id of each byte, but "th", which is 1, and begins a text with ^.
type letters struct{ begin bool }

func (l letters) Encode(text string, special bool) []int32 {
	var ids []int32
	if l.begin && special {
		ids = append(ids, '^')
	}
	for _, b := range []byte(strings.ReplaceAll(text, "th", "\x01")) {
		ids = append(ids, int32(b))
	}
	return ids
}

// What would be caught: white space that stays with the context, or another that is moved; tokens of the whole instead of
// the halves; special tokens inside; a truncation that is one off; a target of the context, or one too few.
func TestRequests(t *testing.T) {
	const none = 0xff
	for _, c := range []struct {
		begin           bool
		length          int
		context, choice string
		inputs, targets string // \xff for −1
		err             string
	}{
		{false, 9, "ab", "cd", "abc", "\xffcd", ""},
		{true, 9, "ab", "cd", "^abc", "\xff\xffcd", ""},
		{false, 9, "ab \t", "cd", "ab \tc", "\xff \tcd", ""},
		{false, 9, "ab\x1c", "c", "ab\x1c", "\xff\x1cc", ""},
		{false, 9, "ab\u200b", "c", "ab\u200b", "\xff\xff\xff\xffc", ""}, // a space of no width is none in Python
		{false, 9, "at", "hhe", "ath", "\xffhe", ""},                     // a 1 h e without its first two
		{false, 9, "", "cd", "^c", "cd", ""},                             // the prefix
		{false, 9, "", "^d", "^", "d", ""},                               // is there already
		{true, 9, "^ab", "c", "^ab", "\xff\xffc", ""},                    // is not put before itself
		{true, 9, " ", "c", "^ ", " c", ""},                              // the special token is context enough
		{false, 4, "abc", "de", "abcd", "\xff\xffde", ""},                // just fits
		{false, 4, "abcd", "ef", "bcde", "\xff\xffef", ""},               // 6 tokens for 5
		{false, 4, "ab", "cdef", "bcde", "cdef", ""},                     // one token of context
		{false, 4, "ab", "cdefg", "", "", "line 3, choice 0: the choice has 5 tokens, and the model has positions for 4"},
		{false, 9, " \n", "c", "", "", "line 3, choice 0: the context is nothing but white space"},
		{false, 9, "", "^", "", "", "line 3, choice 0: no token is left for the choice"},
		{false, 9, "at", "h", "", "", "line 3, choice 0: no token is left for the choice"}, // a 1 is no longer than a t
	} {
		e := &Encoder{Tokenizer: letters{c.begin}, Prefix: '^', PrefixText: "^", MaxLength: c.length}
		got, err := e.Requests(Item{Line: 3, Context: c.context, Choices: []string{c.choice}})
		if c.err != "" || err != nil {
			if err == nil || c.err == "" || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%q and %q: error %v, want %q", c.context, c.choice, err, c.err)
			}
			continue
		}
		var want Request
		for _, b := range []byte(c.inputs) {
			want.Inputs = append(want.Inputs, int32(b))
		}
		for _, b := range []byte(c.targets) {
			if want.Targets = append(want.Targets, int32(b)); b == none {
				want.Targets[len(want.Targets)-1] = -1
			}
		}
		if !reflect.DeepEqual(got, []Request{want}) {
			t.Errorf("%q and %q:\n got %v\nwant %v", c.context, c.choice, got, want)
		}
	}
	bare := &Encoder{Tokenizer: letters{}, Prefix: -1, MaxLength: 9}
	if _, err := bare.Requests(Item{Line: 3, Choices: []string{"a"}}); err == nil || !strings.Contains(err.Error(), "names no token") {
		t.Errorf("an empty context without a prefix token: %v", err)
	}
	if got, err := bare.Requests(Item{Line: 3, Context: "a", Choices: []string{"b"}}); err != nil || len(got) != 1 {
		t.Errorf("without a prefix token: %v, %v", got, err)
	}
}
