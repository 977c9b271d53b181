package replicate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// tree is a hash over all that a VM has, pages and then blocks: a leaf each, a node
// over 64 leaves, a root over the nodes. Only what changed is hashed for a new root.
//
// Leaves have 128 bits and a seed that the primary draws for each run, so
// that a guest cannot choose pages by them: they must not keep the processor from
// what clients wait for. Where a page is left out because the standby has one
// like it (sync.go), SHA-256 decides.
type tree struct {
	seed   uint64
	leaves []xxh3.Uint128
	nodes  [][sha256.Size]byte
	stale  bitmap
	list   []uint32
}

type root = [sha256.Size]byte

func newTree(units int, seed uint64) *tree {
	nodes := (units + 63) / 64
	t := &tree{seed: seed, leaves: make([]xxh3.Uint128, units), nodes: make([]root, nodes), stale: newBitmap(nodes)}
	t.stale.fill(nodes)
	return t
}

// set notes what a unit holds.
func (t *tree) set(unit int, page []byte) {
	t.leaves[unit] = xxh3.Hash128Seed(page, t.seed)
	t.stale.set(unit >> 6)
}

func (t *tree) root() root {
	t.list = t.stale.take(t.list[:0])
	var b []byte
	for _, n := range t.list {
		b = append(b[:0], 1) // a node is never taken for a root
		for _, l := range t.leaves[n*64 : min(int(n)*64+64, len(t.leaves))] {
			b = binary.BigEndian.AppendUint64(b, l.Hi)
			b = binary.BigEndian.AppendUint64(b, l.Lo)
		}
		t.nodes[n] = sha256.Sum256(b)
	}
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64([]byte{2}, uint64(len(t.leaves))))
	for _, d := range t.nodes {
		h.Write(d[:])
	}
	return root(h.Sum(nil))
}

// zeros is a page of them, and zeroLeaf its hash.
var (
	zeros    [pageSize]byte
	zeroLeaf = sha256.Sum256(zeros[:])
)

// leaf is the hash by which both ends agree that they hold the same page.
func leaf(page []byte) root {
	if bytes.Equal(page, zeros[:]) {
		return zeroLeaf
	}
	return sha256.Sum256(page)
}
