package text

import (
	"encoding/json"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// tiny is a valid tokenizer.json to break.
const tiny = `{"added_tokens":[{"id":0,"content":"<s>","special":true,"normalized":false},{"id":5,"content":"<x>","special":false,"normalized":true}],
"normalizer":{"type":"Replace","pattern":{"String":"q"},"content":"a"},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}},
"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","dropout":null,"unk_token":null,"vocab":{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4},"merges":["a b"]}}`

// TestParseTokenizerErrors catches a file that is taken though it contradicts itself or asks for something unknown, and
// refusals that do not name the culprit.
func TestParseTokenizerErrors(t *testing.T) {
	if _, err := ParseTokenizer([]byte(tiny)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to, want string }{
		{"no JSON", tiny, "{", "unexpected end"},
		{"empty", tiny, "", "unexpected end"},
		{"a list", tiny, "[]", "JSON array, want an object"},
		{"binary", `"a":1`, "\"\xff\":1", "UTF-8"},
		{"no model", `"model":`, `"modal":`, "model is missing"},
		{"unigram", `"BPE"`, `"Unigram"`, `"Unigram"`},
		{"type of another kind", `"BPE"`, `5`, `"type" holds a JSON number, want a string`},
		{"no vocab", `"vocab":`, `"vacob":`, "no field vocab"},
		{"no merges", `"merges":`, `"marges":`, "no field merges"},
		{"empty vocab", `{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4}`, `{}`, "vocab is empty"},
		{"vocab a list", `{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4}`, `[["a",0]]`, "not an object"},
		{"vocab null", `{"<s>":0,"a":1,"b":2,"ab":3,"Ġ":4}`, `null`, "vocab"},
		{"id twice", `"b":2`, `"b":1`, `the id 1 to both "a" and "b"`},
		{"token twice", `"b":2`, `"a":2`, `the token "a" twice`},
		{"id a string", `"b":2`, `"b":"2"`, `"b" the id 2`},
		{"id negative", `"b":2`, `"b":-2`, `"b" the id -2`},
		{"id broken", `"b":2`, `"b":2.5`, `"b" the id 2.5`},
		{"id huge", `"b":2`, `"b":2000000000`, "2000000000"},
		{"id an object", `"b":2`, `"b":{}`, `"b" the id`},
		{"merge side unknown", `"a b"`, `"a c"`, `"c" is not in vocab`},
		{"merge result unknown", `"a b"`, `"b a"`, `"ba" is not in vocab`},
		{"merge of three", `"a b"`, `"a b a"`, "merge 0"},
		{"merge of one", `"a b"`, `"ab"`, "merge 0"},
		{"merge pair of three", `"a b"`, `["a","b","a"]`, "merge 0"},
		{"merge of numbers", `"a b"`, `[1,2]`, "merge 0"},
		{"merge a number", `"a b"`, `7`, "merge 0"},
		{"merges an object", `["a b"]`, `{}`, "not a list"},
		{"dropout", `"dropout":null`, `"dropout":0.1`, "dropout 0.1"},
		{"unknown token unknown", `"unk_token":null`, `"unk_token":"?"`, `unk_token "?"`},
		{"prefix", `"dropout":null`, `"continuing_subword_prefix":"##"`, `continuing_subword_prefix "##"`},
		{"suffix", `"dropout":null`, `"end_of_word_suffix":"</w>"`, `end_of_word_suffix "</w>"`},
		{"added id wrong", `"id":5`, `"id":7`, `"<x>", states id 7, but its place gives it id 5`},
		{"added id huge", `"id":5`, `"id":4294967301`, `states id 4294967301`},
		{"added twice", `"content":"<x>"`, `"content":"<s>"`, `"<s>" for a second time`},
		{"added empty", `"content":"<x>"`, `"content":""`, "no content"},
		{"added a string", `"id":5`, `"id":"5"`, "want a number"},
		{"normalizer unknown", `"type":"Replace"`, `"type":"Precompiled"`, "Precompiled"},
		{"normalizer without type", `"type":"Replace",`, ``, "no field \"type\""},
		{"pattern unknown", `{"String":"q"}`, `{"Glob":"q"}`, "pattern"},
		{"pattern broken", `{"String":"q"}`, `{"Regex":"("}`, `regular expression "("`},
		{"replacement long", `"content":"a"}`, `"content":"` + strings.Repeat("a", 1000) + `"}`, "1000 bytes"},
		{"pre-tokenizer unknown", `{"type":"ByteLevel","add_prefix_space"`, `{"type":"UnicodeScripts","add_prefix_space"`, "UnicodeScripts"},
		{"byte level not last", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}`, "Digits stands behind ByteLevel"},
		{"sequence without members", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Sequence"}`, `"pretokenizers"`},
		{"sequence of null", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Sequence","pretokenizers":[null]}`, "entry 0 is null"},
		{"behavior unknown", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","pattern":{"String":"x"},"behavior":"Doubled"}`, `behavior "Doubled"`},
		{"scheme unknown", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Metaspace","replacement":"▁","prepend_scheme":"last"}`, `"last"`},
		{"replacement of two", `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Metaspace","replacement":"__"}`, `"__"`},
		{"post-processor unknown", `"TemplateProcessing"`, `"Other"`, "Other"},
		{"template token unknown", `{"<s>":{"id":"<s>","ids":[0],"tokens":["<s>"]}}`, `{}`, `"<s>", which special_tokens does not explain`},
		{"template id beyond", `"ids":[0]`, `"ids":[6]`, "id 6"},
		{"template without text", `{"Sequence":{"id":"A","type_id":0}}`, `{"SpecialToken":{"id":"<s>","type_id":0}}`, "text 0 times"},
		{"template of pairs", `{"Sequence":{"id":"A","type_id":0}}`, `{"Sequence":{"id":"B","type_id":0}}`, "entry 1"},
		{"decoder unknown", `"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"CTC"}`, "CTC"},
		{"strip negative", `"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Strip","content":" ","start":-1,"stop":0}`, "-1"},
	} {
		if !strings.Contains(tiny, c.from) {
			t.Fatalf("%s: the file does not contain %s", c.name, c.from)
		}
		_, err := ParseTokenizer([]byte(strings.Replace(tiny, c.from, c.to, 1)))
		if err == nil {
			t.Errorf("%s: no error, want one that says %q", c.name, c.want)
		} else if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "tokenizer.json: ") {
			t.Errorf("%s: error %q does not say %q", c.name, err, c.want)
		}
	}
}

// TestVocab catches an off-by-one in the number of rows an embedding needs: added tokens count, ids start at 0.
func TestVocab(t *testing.T) {
	tokenizer, err := ParseTokenizer([]byte(tiny))
	if err != nil {
		t.Fatal(err)
	}
	if got := tokenizer.Vocab(); got != 6 {
		t.Errorf("Vocab() = %d, want 6", got)
	}
	if got := tokenizer.Decode([]int32{-1, 6, 1 << 30, 3}, false); got != "ab" {
		t.Errorf("ids that no token has decode to %q, want them left out", got)
	}
}

// longText is a text of about n bytes that no cache and no cut makes easy: words of random letters, long runs, and characters
// that need byte fallback.
func longText(seed uint64, n int) string {
	random := rand.New(rand.NewPCG(seed, 1))
	var out strings.Builder
	for out.Len() < n {
		switch random.IntN(12) {
		case 0:
			out.WriteString(strings.Repeat("the ", random.IntN(40)))
		case 1:
			out.WriteString(randomText(random))
		case 2:
			out.WriteString("<s>")
		default:
			for range random.IntN(12) {
				out.WriteByte("etaoinshrdlu"[random.IntN(12)])
			}
			out.WriteByte(' ')
		}
	}
	return out.String()
}

// TestProcessors catches ids that depend on how many processors share the work, or on where batches and shares end.
func TestProcessors(t *testing.T) {
	const seed = 11
	t.Logf("seed %d", seed)
	for name, special := range map[string]string{"llama2": "<s>", "opt": "</s>", "llama3": "<|end_of_text|>"} {
		text := strings.ReplaceAll(longText(seed, 500_000), "<s>", special) // more than one batch
		tokenizer := readTokenizer(t, name)
		before := runtime.GOMAXPROCS(1)
		want := tokenizer.Encode(text, true)
		for _, processors := range []int{3} {
			runtime.GOMAXPROCS(processors)
			if got := tokenizer.Encode(text, true); !slices.Equal(got, want) {
				t.Errorf("%s: %d processors give other ids than one", name, processors)
			}
		}
		runtime.GOMAXPROCS(before)
		// Each part between two special tokens is a text of its own.
		var parts []int32
		for i, part := range strings.Split(text, special) {
			if i > 0 {
				parts = append(parts, tokenizer.Encode(special, false)...)
			}
			parts = append(parts, tokenizer.Encode(part, false)...)
		}
		if got := tokenizer.Encode(text, false); !slices.Equal(got, parts) {
			t.Errorf("%s: a text encoded part by part gives other ids than as a whole", name)
		}
	}
}

// TestCutIsExact catches a place to cut that a merge, or the fusing of unknown characters, reaches across: one piece in one heap
// is the definition.
func TestCutIsExact(t *testing.T) {
	const seed = 12
	t.Logf("seed %d", seed)
	tokenizers := map[string]*Tokenizer{"llama2": readTokenizer(t, "llama2")}
	for _, c := range readComponents(t, "testdata/components.json") {
		if strings.HasPrefix(c.Name, "llama2-") {
			tokenizer, err := ParseTokenizer(c.Tokenizer)
			if err != nil {
				t.Fatal(err)
			}
			tokenizers[c.Name] = tokenizer
		}
	}
	if len(tokenizers) != 5 {
		t.Fatalf("%d tokenizers, want 5", len(tokenizers))
	}
	for name, tokenizer := range tokenizers {
		e := newEncoding(tokenizer.model)
		cuts := 0
		for i := range uint64(5) {
			text := strings.ReplaceAll(longText(seed+i, 20_000), "<s>", "日日日本")
			piece := tokenizer.norm.apply(text)
			for rest := piece; rest != ""; cuts++ {
				rest = rest[tokenizer.model.cut(rest):]
			}
			if got, want := tokenizer.Encode(text, false), e.merge(nil, piece); !slices.Equal(got, want) {
				t.Fatalf("%s, text %d: cut in parts it has %d tokens, in one piece %d", name, i, len(got), len(want))
			}
		}
		if cuts < 1000 {
			t.Errorf("%s: only %d parts; the test would not see a wrong cut", name, cuts)
		}
	}
}

// mergeSlowly is the definition of BPE: the best pair of the whole piece, again and again.
func mergeSlowly(m *bpe, ids []int32) []int32 {
	for {
		best, at := uint32(1<<32-1), -1
		for i := 0; i+1 < len(ids); i++ {
			if rank, ok := m.merges.get(pair(ids[i], ids[i+1])); ok && rank < best {
				best, at = rank, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = m.merged[best]
		ids = slices.Delete(ids, at+1, at+2)
	}
}

// TestMerge catches a heap that merges in another order than by rank and from the left.
func TestMerge(t *testing.T) {
	for _, name := range []string{"llama2", "opt"} {
		model := readTokenizer(t, name).model
		e := newEncoding(model)
		rapid.Check(t, func(t *rapid.T) {
			piece := string(rapid.SliceOfN(rapid.SampledFrom([]rune("theanio ▁rsd")), 0, 40).Draw(t, "piece"))
			e.begin(piece)
			want := mergeSlowly(model, slices.Clone(e.token))
			if got := e.merge(nil, piece); !slices.Equal(got, want) {
				t.Fatalf("%q: %v, want %v", piece, got, want)
			}
		})
	}
}

// TestManySymbols catches a merge that takes quadratic time: a quarter of a megabyte would take minutes.
func TestManySymbols(t *testing.T) {
	tokenizer := readTokenizer(t, "llama2")
	for _, s := range []string{strings.Repeat("e", 1<<18), strings.Repeat("th", 1<<17), strings.Repeat("日", 1<<15), strings.Repeat(" ", 1<<18)} {
		ids := tokenizer.Encode(s, false)
		if back := tokenizer.Decode(ids, false); back != s {
			t.Errorf("%.8q… of %d bytes comes back as %.8q… of %d", s, len(s), back, len(back))
		}
	}
}

// FuzzParseTokenizer catches files that make the parser, or what it parsed, panic.
func FuzzParseTokenizer(f *testing.F) {
	f.Add([]byte(tiny)) // and those in testdata/fuzz
	f.Fuzz(func(t *testing.T, data []byte) {
		tokenizer, err := ParseTokenizer(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatal("a file that is no JSON is taken")
		}
		for _, s := range []string{"", "a", " Hello  wörld\n<s>12", "日本🙂\xff\x00"} {
			ids := tokenizer.Encode(s, true)
			if err := CheckVocab(ids, tokenizer.Vocab()); err != nil {
				t.Fatalf("Encode(%q): %v", s, err)
			}
			tokenizer.Decode(ids, true)
			tokenizer.Decode(ids, false)
		}
	})
}

// FuzzRoundTrip catches byte-level tokenizers that lose or change text: each text comes back as it was.
func FuzzRoundTrip(f *testing.F) {
	for _, seed := range []string{"", "Hello world", " don't \r\n\n 123,45 ", "日本🙂\u0301\x00", "<s> <|begin_of_text|> Ġ"} {
		f.Add(seed)
	}
	var tokenizers []*Tokenizer
	for _, name := range []string{"opt", "llama3"} {
		tokenizers = append(tokenizers, readTokenizer(f, name))
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, tokenizer := range tokenizers {
			ids := tokenizer.Encode(s, false)
			if err := CheckVocab(ids, tokenizer.Vocab()); err != nil {
				t.Fatal(err)
			}
			want := s
			if !utf8.ValidString(s) {
				want = validUTF8(s)
			}
			if got := tokenizer.Decode(ids, false); got != want {
				t.Fatalf("%q comes back as %q", s, got)
			}
		}
	})
}

// TestID catches a token that is found under another text, and one that is none.
func TestID(t *testing.T) {
	tokenizer, err := ParseTokenizer([]byte(tiny))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int32{"<s>": 0, "a": 1, "ab": 3, "Ġ": 4, "<x>": 5, "": -1, "ba": -1, " ": -1} {
		if id, known := tokenizer.ID(text); id != want || known != (want >= 0) {
			t.Errorf("%q has the id %d (%v), want %d", text, id, known, want)
		}
	}
}
