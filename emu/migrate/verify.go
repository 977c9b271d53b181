package migrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"unsafe"

	"github.com/zeebo/xxh3"
)

// PageSize is the unit of memory that is moved, in bytes.
const PageSize = 4096

// digest is a SHA-256: half of today's servers have instructions for it, and a
// page is too short for BLAKE3 to be faster.
type digest [sha256.Size]byte

// proof is a tree of hashes over a memory: a leaf a page, a node over each 64
// leaves, a root over the nodes and the number of pages. Two memories with the
// same root are equal, whoever chose their contents.
type proof struct {
	leaves []digest
	nodes  []digest
	stale  bitmap // a bit a node: leaves of it have changed
}

func newProof(pages int) *proof {
	nodes := (pages + 63) / 64
	p := &proof{leaves: make([]digest, pages), nodes: make([]digest, nodes), stale: newBitmap(nodes)}
	p.stale.fill(nodes)
	return p
}

// zeroLeaf is the hash of a page of zeros, which is known without computing it.
var zeroLeaf = sha256.Sum256(make([]byte, PageSize))

// leaf hashes one page.
func leaf(page []byte) digest {
	if isZero(page) {
		return zeroLeaf
	}
	return sha256.Sum256(page)
}

// isZero tells whether a page holds nothing but zeros.
func isZero(page []byte) bool {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&page[0])), len(page)/8)
	for len(words) >= 8 {
		if words[0]|words[1]|words[2]|words[3]|words[4]|words[5]|words[6]|words[7] != 0 {
			return false
		}
		words = words[8:]
	}
	return true
}

// set notes what a page holds.
func (p *proof) set(page int, d digest) {
	p.leaves[page] = d
	p.stale.set(page >> 6)
}

// root computes what has changed since the last call, and no more.
func (p *proof) root() digest {
	for n := p.stale.next(0); n >= 0; n = p.stale.next(n + 1) {
		h := sha256.New()
		h.Write([]byte{1}) // a node is never taken for a leaf
		for _, d := range p.leaves[n*64 : min(n*64+64, len(p.leaves))] {
			h.Write(d[:])
		}
		h.Sum(p.nodes[n][:0])
		p.stale.unset(n)
	}
	h := sha256.New()
	head := binary.BigEndian.AppendUint64([]byte{2}, uint64(len(p.leaves)))
	h.Write(head)
	for _, d := range p.nodes {
		h.Write(d[:])
	}
	var root digest
	h.Sum(root[:0])
	return root
}

// over hashes a whole memory that does not change.
func (p *proof) over(memory []byte) {
	for i := range p.leaves {
		p.set(i, leaf(memory[i*PageSize:(i+1)*PageSize]))
	}
}

// fingerprint is a fast hash of 128 bits, by which both ends agree before the hand-over
// that what was placed is what was sent: SHA-256 would keep the processor from
// what the link waits for. Its seed is drawn for each migration, so that a guest
// cannot choose pages by it; but it is no proof, which comes after.
func fingerprint(page []byte, seed uint64) (d digest) {
	if isZero(page) {
		return zeroLeaf
	}
	h := xxh3.Hash128Seed(page, seed)
	binary.BigEndian.PutUint64(d[:], h.Hi)
	binary.BigEndian.PutUint64(d[8:], h.Lo)
	return d
}

// omit leaves pages out: their leaves count as zeros.
func (p *proof) omit(pages bitmap) {
	for page := pages.next(0); page >= 0 && page < len(p.leaves); page = pages.next(page + 1) {
		p.set(page, digest{})
	}
}

// bytes is the list of leaves, 32 bytes a page.
func (p *proof) bytes() []byte {
	b := make([]byte, 0, len(p.leaves)*sha256.Size)
	for _, d := range p.leaves {
		b = append(b, d[:]...)
	}
	return b
}

// differs names the pages whose leaves are not those of the list.
func (p *proof) differs(list []byte) ([]int, error) {
	if len(list) != len(p.leaves)*sha256.Size {
		return nil, fmt.Errorf("a list of hashes of %d bytes for %d pages", len(list), len(p.leaves))
	}
	var pages []int
	for i, d := range p.leaves {
		if !bytes.Equal(d[:], list[i*sha256.Size:(i+1)*sha256.Size]) {
			pages = append(pages, i)
		}
	}
	return pages, nil
}

func (d digest) String() string { return hex.EncodeToString(d[:]) }

// DiffersError says that both ends do not hold the same memory.
type DiffersError struct {
	Pages []int // that differ; none known: only the whole is
	What  string
}

func (e *DiffersError) Error() string {
	if len(e.Pages) == 0 {
		return e.What
	}
	var names []string
	for _, p := range e.Pages[:min(8, len(e.Pages))] {
		names = append(names, fmt.Sprint(p))
	}
	more := ""
	if n := len(e.Pages) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s: page %s%s", e.What, strings.Join(names, ", "), more)
}

// HashMemory is the 256-bit hash of a memory by which migrations are proven:
// the Hash of a Report.
func HashMemory(memory []byte) string {
	p := newProof(len(memory) / PageSize)
	p.over(memory)
	return p.root().String()
}
