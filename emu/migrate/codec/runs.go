package codec

import (
	"bytes"
	"encoding/binary"
)

// Pages of a batch are written as runs: pages one after the other in memory
// that are told in the same way. A run is two numbers: how many pages are left
// out since the last one, and its length with its kind.

const kindBits = 3

// runs writes the list of runs of a batch, page by page.
type runs struct {
	out  []byte
	next int // page after the last run
	from int // of the open run
	n    int
	kind int
}

func (r *runs) reset() { *r = runs{out: r.out[:0]} }

func (r *runs) add(page, kind int) {
	if r.n > 0 && page == r.from+r.n && kind == r.kind {
		r.n++
		return
	}
	r.end()
	r.from, r.n, r.kind = page, 1, kind
}

func (r *runs) end() {
	if r.n == 0 {
		return
	}
	r.out = binary.AppendUvarint(r.out, uint64(r.from-r.next))
	r.out = binary.AppendUvarint(r.out, uint64(r.n)<<kindBits|uint64(r.kind))
	r.next, r.n = r.from+r.n, 0
}

// run is one of them, read back.
type run struct{ page, n, kind int }

// readRuns reads the runs of exactly the wanted number of pages, all of them
// inside a memory of so many pages.
func readRuns(into []run, b *body, wanted, pages int) []run {
	next := 0
	for wanted > 0 && b.err == nil {
		page := next + b.uvarint("pages left out", pages-next)
		v := b.uvarint("length of a run", (wanted+1)<<kindBits)
		n := v >> kindBits
		if b.err == nil && (n == 0 || n > pages-page) {
			b.fail("%d pages from page %d of %d", n, page, pages)
			break
		}
		into = append(into, run{page, n, v & (1<<kindBits - 1)})
		next, wanted = page+n, wanted-n
	}
	return into
}

// allZero says whether a page holds nothing but zeros.
func allZero(page []byte) bool { return bytes.Equal(page, zeros[:]) }

// at is a page of a memory.
func at(memory []byte, page int) []byte {
	return memory[page*PageSize : (page+1)*PageSize : (page+1)*PageSize]
}
