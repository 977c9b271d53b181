package codec

import "fmt"

// fifo is CloudNet's cache: blocks in the order in which they were sent, the
// oldest overwritten by the newest. Both ends hold one and put the same blocks
// in, so a place in it means the same at both.
type fifo struct {
	block  int
	slots  uint64
	blocks arena
	count  uint64 // blocks that were ever put in
	// last is when the block at an address of the memory was last sent: its
	// count, and 1; 0: never. It is there for deltas only.
	last []uint32
}

func newFIFO(c Config) (fifo, error) {
	f := fifo{block: c.Block, slots: uint64(c.Cache / int64(c.Block))}
	var err error
	if f.blocks, err = newArena(int(f.slots) * c.Block); err != nil {
		return f, fmt.Errorf("cache of %d blocks: %w", f.slots, err)
	}
	f.blocks.ready(true)
	if c.Delta {
		f.last = make([]uint32, c.Pages*(PageSize/c.Block))
	}
	return f, nil
}

// put inserts a block and tells its slot.
func (f *fifo) put(block []byte) uint64 {
	slot := f.count % f.slots
	copy(f.slot(slot), block)
	f.count++
	return slot
}

func (f *fifo) slot(i uint64) []byte {
	return f.blocks.bytes[i*uint64(f.block) : (i+1)*uint64(f.block)]
}

// held says whether a slot holds a block.
func (f *fifo) held(slot uint64) bool { return slot < f.count && slot < f.slots }

// sent notes that the block at an address is now the one in slot.
func (f *fifo) sent(address int, slot uint64) {
	if f.last != nil {
		newest := f.count - 1
		f.last[address] = uint32(newest-(newest-slot)%f.slots) + 1
	}
}

// version is the block that was last sent for an address, if it is still held.
// Counts are kept modulo 2^32, at both ends: after so many blocks an old one may
// be taken for a new one, and then it is at both.
func (f *fifo) version(address int) []byte {
	if f.last == nil || f.last[address] == 0 {
		return nil
	}
	age := uint64(uint32(f.count) - f.last[address]) // 0: the newest
	if age >= f.slots || age >= f.count {
		return nil
	}
	return f.slot((f.count - 1 - age) % f.slots)
}

func (f *fifo) footprint() int64 { return int64(len(f.blocks.bytes)) + 4*int64(len(f.last)) }

// index finds blocks of a fifo by their hash. It is a table of chains, one entry
// a hash: of two blocks with the same hash it knows the newer.
type index struct {
	mask   uint64
	shift  int
	heads  []uint32 // by a part of the hash: slot and 1, or 0
	next   []uint32 // by slot, likewise
	prev   []uint32
	hashes []uint64
}

// longestWalk along a chain. A guest that makes blocks whose hashes share a
// chain finds nothing in it, and costs no more than that.
const longestWalk = 16

func newIndex(slots uint64, bits int) index {
	size, shift := uint64(256), 56
	for size < slots+slots/2 {
		size, shift = size*2, shift-1
	}
	return index{
		mask:   ^uint64(0) >> (64 - bits),
		shift:  shift,
		heads:  make([]uint32, size),
		next:   make([]uint32, slots),
		prev:   make([]uint32, slots),
		hashes: make([]uint64, slots),
	}
}

func (x *index) head(hash uint64) *uint32 {
	return &x.heads[hash*0x9e3779b97f4a7c15>>x.shift]
}

// find gives the slot of a block with that hash (already masked).
func (x *index) find(hash uint64) (uint64, bool) {
	at := *x.head(hash)
	for range longestWalk {
		if at == 0 {
			break
		}
		if x.hashes[at-1] == hash {
			return uint64(at - 1), true
		}
		at = x.next[at-1]
	}
	return 0, false
}

// set enters a slot under a hash; whatever the slot was under before is out.
func (x *index) set(slot, hash uint64, reused bool) {
	if reused {
		x.drop(slot)
	}
	if old, ok := x.find(hash); ok {
		x.drop(old)
	}
	head := x.head(hash)
	if *head != 0 {
		x.prev[*head-1] = uint32(slot) + 1
	}
	x.next[slot], x.prev[slot], x.hashes[slot] = *head, 0, hash
	*head = uint32(slot) + 1
}

// drop takes a slot out, if it is in.
func (x *index) drop(slot uint64) {
	next, prev := x.next[slot], x.prev[slot]
	switch head := x.head(x.hashes[slot]); {
	case prev != 0:
		x.next[prev-1] = next
	case *head == uint32(slot)+1:
		*head = next
	default:
		return // it is out
	}
	if next != 0 {
		x.prev[next-1] = prev
	}
	x.next[slot], x.prev[slot] = 0, 0
}

func (x *index) footprint() int64 {
	return 4*int64(len(x.heads)+len(x.next)+len(x.prev)) + 8*int64(len(x.hashes))
}
