package guest

import (
	"hash/maphash"
	"testing"
)

// start is a workload's memory as it is at the start.
func start(t testing.TB, s Spec) []byte {
	pl := newPlan(s, profiles[s.Workload])
	b := make([]byte, s.Memory)
	for q := range pl.pages {
		if pl.role[q] == roleApp {
			seal(b[q*PageSize:][:PageSize], s.Seed, q, 0)
		} else {
			pl.fill(b[q*PageSize:], q)
		}
	}
	return b
}

// fifo is CloudNet's cache: what is not found goes in, the oldest goes out.
type fifo struct {
	seed  maphash.Seed
	in    map[uint64]bool
	queue []uint64
	most  int
}

func newFIFO(blocks int) *fifo {
	return &fifo{seed: maphash.MakeSeed(), in: map[uint64]bool{}, most: max(1, blocks)}
}

func (c *fifo) has(block []byte) bool {
	h := maphash.Bytes(c.seed, block)
	if c.in[h] {
		return true
	}
	if len(c.queue) >= c.most {
		delete(c.in, c.queue[0])
		c.queue = c.queue[1:]
	}
	c.in[h] = true
	c.queue = append(c.queue, h)
	return false
}

// found is the share of memory in which blocks are found in a cache of so many
// bytes, in percent (Figs. 5, 13b, 19).
func found(memory []byte, block int, cache float64) float64 {
	c := newFIFO(int(cache) / block)
	n := 0
	for at := 0; at < len(memory); at += block {
		if c.has(memory[at : at+block]) {
			n++
		}
	}
	return 100 * float64(n*block) / float64(len(memory))
}
