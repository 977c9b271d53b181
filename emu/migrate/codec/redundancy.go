package codec

import (
	"bytes"
	"math/bits"
	"sort"

	"github.com/zeebo/xxh3"
)

// What there is to find in a memory, apart from any encoder: for figures of
// redundancy against block size and cache (CloudNet, Figs. 5, 13 and 19) and of
// delta sizes (Fig. 6).

// Share is how much of a memory a cache of what came before would have had.
type Share struct {
	Blocks int64 // that were looked for
	Bytes  int64 // of them: all of the memory
	Zero   int64 // bytes of blocks that are zeros, and found
	Copies int64 // bytes of other blocks that were found
}

// Found is the share of bytes that need not be sent.
func (s Share) Found() float64 { return float64(s.Zero+s.Copies) / float64(s.Bytes) }

// Redundancy looks for each aligned block of a memory, from its beginning to its
// end, in a first-in-first-out cache of the blocks that were not found; cache is
// its size in bytes, 0 without limit. block divides the memory's size.
func Redundancy(memory []byte, block int, cache int64) Share {
	h := newHaystack(memory, len(memory)/block, cache)
	for at := 0; at+block <= len(memory); at += block {
		h.look(at, block)
	}
	return h.share
}

// ContentRedundancy does it with chunks whose ends content chooses, of average
// bytes (a power of two), a quarter of that at least and four times that at most,
// so that content is found wherever it lies. The ends are where a gear hash has
// a certain form (FastCDC, USENIX ATC 2016, without its second mask).
func ContentRedundancy(memory []byte, average int, cache int64) Share {
	h := newHaystack(memory, 4*len(memory)/average+1, cache)
	least, most := average/4, average*4
	// Chunks end in average once in that many bytes after the least.
	form := ^uint64(0) << (64 - bits.Len(uint(average-least-1)))
	for at := 0; at < len(memory); {
		end := min(at+most, len(memory))
		var g uint64
		for i := max(at, min(at+least, len(memory))-64); i < end; i++ {
			g = g<<1 + gear[memory[i]]
			if g&form == 0 && i >= at+least {
				end = i + 1
			}
		}
		h.look(at, end-at)
		at = end
	}
	return h.share
}

// haystack is a cache of parts of one memory: it holds where they are, and so no
// bytes.
type haystack struct {
	memory []byte
	limit  int64 // bytes
	put    int64 // bytes that were ever put in
	slots  []uint32
	shift  int
	parts  []part // by the order in which they were put in
	share  Share
}

type part struct {
	at, n  int
	before int64 // bytes that were put in before it
}

func newHaystack(memory []byte, parts int, cache int64) *haystack {
	log := bits.Len(uint(parts + parts/2 + 16))
	return &haystack{memory: memory, limit: cache, slots: make([]uint32, 1<<log), shift: 64 - log}
}

// look looks for a part of the memory, and puts it in if it is not there.
func (h *haystack) look(at, n int) {
	b := h.memory[at : at+n]
	h.share.Blocks++
	h.share.Bytes += int64(n)
	slot := h.slot(b)
	if k := h.slots[slot]; k != 0 && h.holds(h.parts[k-1]) {
		if isZero(b) {
			h.share.Zero += int64(n)
		} else {
			h.share.Copies += int64(n)
		}
		return
	}
	h.parts = append(h.parts, part{at, n, h.put})
	h.put += int64(n)
	h.slots[slot] = uint32(len(h.parts))
}

// slot is where those bytes are, or belong. Parts that the cache has dropped are
// there still, and give way to the same bytes only: the table is large enough.
func (h *haystack) slot(b []byte) uint64 {
	i := xxh3.Hash(b) >> h.shift
	for ; h.slots[i] != 0; i = (i + 1) % uint64(len(h.slots)) {
		p := h.parts[h.slots[i]-1]
		if p.n == len(b) && bytes.Equal(h.memory[p.at:p.at+p.n], b) {
			break
		}
	}
	return i
}

// holds says whether a part has not been dropped.
func (h *haystack) holds(p part) bool {
	return h.limit == 0 || h.put-p.before <= h.limit
}

func isZero(b []byte) bool {
	for len(b) > PageSize {
		if !allZero(b[:PageSize]) {
			return false
		}
		b = b[PageSize:]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// DeltaSizes are the sizes of the deltas of all pages that differ between two
// versions of a memory, as the encoder "delta" makes them, ascending; a page
// whose delta would be no shorter counts as PageSize.
func DeltaSizes(old, new []byte) []int {
	var sizes []int
	var room [2 * PageSize]byte
	for i := range len(new) / PageSize {
		if was, is := at(old, i), at(new, i); !bytes.Equal(was, is) {
			size := PageSize
			if d, ok := appendDelta(room[:0], was, is, PageSize); ok {
				size = min(size, len(d))
			}
			sizes = append(sizes, size)
		}
	}
	sort.Ints(sizes)
	return sizes
}

// Below is the share of ascending sizes that are at most so large: the value of
// their distribution function.
func Below(sizes []int, size int) float64 {
	if len(sizes) == 0 {
		return 0
	}
	return float64(sort.SearchInts(sizes, size+1)) / float64(len(sizes))
}
