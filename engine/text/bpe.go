package text

import "unicode/utf8"

// bpe is the model: byte pair encoding. A piece of text begins as symbols, one per character (or per byte, for vocabularies
// made of bytes); then, again and again, the pair of neighbours whose merge has the lowest rank, the leftmost of equals, is
// replaced by the merged token, until no pair of neighbours has a merge.
type bpe struct {
	unit        func(s string) int // bytes of the symbol that s begins with
	ascii       [256]int32         // token of each one-byte symbol, −1 for none
	symbols     map[string]int32   // token of each longer symbol
	merges      pairTable          // (left token, right token) → rank
	merged      []int32            // rank → token that the merge makes
	whole       map[string]int32   // ignore_merges: pieces that are tokens, taken without any merging; nil without
	fallback    [256]int32         // byte_fallback: the token <0xHH> of each byte, −1 for none
	unknown     int32              // token for symbols that have none, −1: such symbols are left out
	fuseUnknown bool               // runs of unknown symbols give one unknown token
	byteLevel   bool               // symbols are bytes
	joins       pairTable          // (last character, first character) of any merge's two sides, see cut
}

// longest piece whose tokens are remembered, in bytes; and how many pieces at most. Words are far shorter and far fewer;
// the limits keep a text of random bytes from filling the memory.
const (
	rememberBytes  = 64
	rememberPieces = 1 << 17
)

// An encoding turns pieces into ids. It remembers the pieces it has seen: in real texts nine of ten occur again. It is used
// by one goroutine at a time.
type encoding struct {
	model *bpe
	seen  map[string]run
	ids   []int32 // what the runs of seen point into

	// Buffers of merge: the symbols of a piece as a doubly linked list, and a heap.
	token      []int32
	prev, next []int32 // −1 at the ends
	heap       []uint64
}

type run struct{ start, end int32 }

func newEncoding(model *bpe) *encoding {
	return &encoding{model: model, seen: make(map[string]run)}
}

// appendAll appends the ids of parts to out.
func (e *encoding) appendAll(out []int32, parts []part) []int32 {
	for _, next := range parts {
		if next.text == "" {
			out = append(out, next.token)
		} else {
			out = e.append(out, next.text)
		}
	}
	return out
}

// append appends the ids of a piece to out.
func (e *encoding) append(out []int32, piece string) []int32 {
	if id, ok := e.model.whole[piece]; ok {
		return append(out, id)
	}
	if len(piece) == 1 {
		if id := e.model.ascii[piece[0]]; id >= 0 {
			return append(out, id)
		}
	}
	if known, ok := e.seen[piece]; ok {
		return append(out, e.ids[known.start:known.end]...)
	}
	before := len(out)
	out = e.merge(out, piece)
	if len(piece) <= rememberBytes && len(e.seen) < rememberPieces {
		start := len(e.ids)
		e.ids = append(e.ids, out[before:]...)
		e.seen[piece] = run{int32(start), int32(len(e.ids))}
	}
	return out
}

// cut returns the length of a first part of s, at least one symbol, that no merge can connect with what follows.
//
// A text without pre-tokenization is one piece, of megabytes. A merge joins the last character of its left side and the
// first of its right side; where two neighbours of the text are no such pair, no merge ever reaches across, and the parts
// on either side can be encoded on their own with the same result (exact). In vocabularies like Llama-2's, where ▁ only
// begins tokens, the parts come out as single words. Symbols without a token are never cut from their neighbours, because
// runs of them may be fused.
func (m *bpe) cut(s string) int {
	n := m.unit(s)
	id := m.symbol(s[:n])
	c, _ := utf8.DecodeRuneInString(s)
	for n < len(s) {
		width := m.unit(s[n:])
		nextID := m.symbol(s[n : n+width])
		next, _ := utf8.DecodeRuneInString(s[n:])
		if id >= 0 && nextID >= 0 {
			if _, joined := m.joins.get(pair(c, next)); !joined {
				return n
			}
		}
		c, id = next, nextID
		n += width
	}
	return n
}

func (m *bpe) symbol(s string) int32 {
	if len(s) == 1 {
		return m.ascii[s[0]]
	}
	if id, ok := m.symbols[s]; ok {
		return id
	}
	return -1
}

// begin fills e.token with the symbols of a piece.
func (e *encoding) begin(piece string) {
	m := e.model
	e.token = e.token[:0]
	pending := false // an unknown token not yet written, to be fused with the next
	for piece != "" {
		n := m.unit(piece)
		symbol := piece[:n]
		piece = piece[n:]
		if id := m.symbol(symbol); id >= 0 {
			if pending {
				e.token = append(e.token, m.unknown)
				pending = false
			}
			e.token = append(e.token, id)
			continue
		}
		if e.fallBack(symbol) || m.unknown < 0 {
			continue
		}
		if pending && !m.fuseUnknown {
			e.token = append(e.token, m.unknown)
		}
		pending = true
	}
	if pending {
		e.token = append(e.token, m.unknown)
	}
}

// fallBack writes a symbol without a token as its bytes, if each of them has a token.
func (e *encoding) fallBack(symbol string) bool {
	m := e.model
	written := len(e.token)
	bytes := symbol
	if m.byteLevel {
		bytes = byteNames[symbol[0]] // the bytes of the character that stands for the byte, as the library does it
	}
	for i := 0; i < len(bytes); i++ {
		id := m.fallback[bytes[i]]
		if id < 0 {
			e.token = e.token[:written]
			return false
		}
		e.token = append(e.token, id)
	}
	return true
}

// merge appends the ids of a piece to out, in O(n log n) for n symbols.
//
// The heap holds rank<<32 | position of the left symbol for each pair that has, or had, a merge. An entry whose left symbol
// is gone, or whose pair no longer merges to the same token, is stale and skipped. (Two merges can make the same token; the
// rule looks at the token, not at the rank, because that is what defines the ids people trained with.)
func (e *encoding) merge(out []int32, piece string) []int32 {
	e.begin(piece)
	m, n := e.model, len(e.token)
	if n < 2 {
		return append(out, e.token...)
	}
	token := e.token
	prev, next := resize(e.prev, n), resize(e.next, n)
	heap := e.heap[:0]
	for i := range n {
		prev[i], next[i] = int32(i-1), int32(i+1)
		if i+1 < n {
			if rank, ok := m.merges.get(pair(token[i], token[i+1])); ok {
				heap = append(heap, uint64(rank)<<32|uint64(i))
			}
		}
	}
	next[n-1] = -1
	for i := len(heap)/2 - 1; i >= 0; i-- {
		siftDown(heap, i)
	}
	const gone = -1
	for len(heap) > 0 {
		top := heap[0]
		heap[0] = heap[len(heap)-1]
		heap = heap[:len(heap)-1]
		siftDown(heap, 0)

		at := int32(uint32(top))
		if token[at] == gone || next[at] < 0 {
			continue
		}
		right := next[at]
		rank, ok := m.merges.get(pair(token[at], token[right]))
		made := m.merged[top>>32]
		if !ok || m.merged[rank] != made {
			continue
		}
		token[at], token[right] = made, gone
		next[at] = next[right]
		if after := next[at]; after >= 0 {
			prev[after] = at
			if rank, ok := m.merges.get(pair(made, token[after])); ok {
				heap = siftUp(append(heap, uint64(rank)<<32|uint64(at)))
			}
		}
		if before := prev[at]; before >= 0 {
			if rank, ok := m.merges.get(pair(token[before], made)); ok {
				heap = siftUp(append(heap, uint64(rank)<<32|uint64(before)))
			}
		}
	}
	for at := int32(0); at >= 0; at = next[at] {
		out = append(out, token[at])
	}
	e.prev, e.next, e.heap = prev, next, heap
	return out
}

func siftDown(heap []uint64, at int) {
	for {
		least := 2*at + 1
		if least >= len(heap) {
			return
		}
		if right := least + 1; right < len(heap) && heap[right] < heap[least] {
			least = right
		}
		if heap[at] <= heap[least] {
			return
		}
		heap[at], heap[least] = heap[least], heap[at]
		at = least
	}
}

// siftUp restores the order after an append.
func siftUp(heap []uint64) []uint64 {
	for at := len(heap) - 1; at > 0; {
		parent := (at - 1) / 2
		if heap[parent] <= heap[at] {
			break
		}
		heap[parent], heap[at] = heap[at], heap[parent]
		at = parent
	}
	return heap
}

func resize(s []int32, n int) []int32 {
	if cap(s) < n {
		return make([]int32, n, n+n/4)
	}
	return s[:n]
}
