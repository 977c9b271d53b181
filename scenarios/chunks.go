package scenarios

import (
	"math/bits"
	"math/rand/v2"
	"sync"

	"github.com/zeebo/xxh3"
)

// gear are random numbers by byte, for a hash of the last 64 bytes that rolls:
// it is shifted by one and a byte's number is added (Xia et al., Ddelta, 2014).
var gear = sync.OnceValue(func() (table [256]uint64) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range table {
		table[i] = rng.Uint64()
	}
	return table
})

// cutChunks cuts data where the content says so, every size bytes on average
// and never below a quarter or above four times that: what has moved by some
// bytes is then cut into the same chunks. size is a power of two.
func cutChunks(data []byte, size int, visit func(chunk []byte)) {
	table := gear()
	mask := uint64(size-1) << (64 - bits.Len(uint(size-1))) // the upper bits have seen most bytes
	least, most := size/4, 4*size
	for len(data) > 0 {
		var h uint64
		end := min(most, len(data))
		for i, c := range data[:end] {
			h = h<<1 + table[c]
			if i+1 >= least && h&mask == 0 {
				end = i + 1
				break
			}
		}
		visit(data[:end])
		data = data[end:]
	}
}

// held are the chunks that a cache of some bytes holds, oldest out first. It
// knows them by their 128-bit hashes: this is to count and not to send.
type held struct {
	room   int
	sizes  map[xxh3.Uint128]int
	oldest []xxh3.Uint128
}

func newHeld(room int) *held { return &held{room: room, sizes: map[xxh3.Uint128]int{}} }

// has tells whether a chunk is there, and puts it in if it is not.
func (h *held) has(chunk []byte) bool {
	hash := xxh3.Hash128(chunk)
	if _, ok := h.sizes[hash]; ok {
		return true
	}
	h.sizes[hash] = len(chunk)
	h.oldest = append(h.oldest, hash)
	for h.room -= len(chunk); h.room < 0 && len(h.oldest) > 1; h.oldest = h.oldest[1:] {
		h.room += h.sizes[h.oldest[0]]
		delete(h.sizes, h.oldest[0])
	}
	return false
}

func allZeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
