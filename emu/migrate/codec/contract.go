package codec

import "time"

// PageSize is the unit that is encoded.
const PageSize = 4096

// Config chooses the encoders of a pair; both ends get the same one.
type Config struct {
	Pages int // of the memory
	// Zero: pages of zeros as ranges.
	Zero bool
	// CBR: content-based redundancy elimination as CloudNet does it: blocks of
	// Block bytes, a FIFO cache of Cache bytes at both ends, 32-bit hashes,
	// blocks compared at the sender, 4-byte references.
	CBR   bool
	Block int
	Cache int64
	// Delta: on a miss, XOR with the version of the page last sent, run-length
	// coded, where that is short.
	Delta bool
	// Compress what is left: "", "zip", "zstd-1", "zstd-3", "lz4".
	Compress string
	// Own chooses vpclab's own encoder in place of CBR, Delta and Compress: it
	// keeps a shadow of the target's memory, refers to blocks of it, codes
	// changes by block, and compresses what remains as hard as Pressure leaves
	// it time to.
	Own bool
	// Unverified leaves out the comparison, to show what collisions do to a
	// migration without it; HashBits (8..64; 0: all) narrows the hash. For
	// experiments on that alone.
	Unverified bool
	HashBits   int
	// Key seeds the hash: a guest that does not know it cannot build blocks
	// that collide.
	Key uint64
}

// Encoder is the sending half. It is for one goroutine.
type Encoder interface {
	// Encode appends to dst one batch of pages: data holds their contents one
	// after the other, pages their numbers, ascending and at most MaxBatch of
	// them. It keeps nothing of data. The state is that of both ends after the
	// batch, so all batches must be decoded, in order.
	Encode(dst []byte, pages []uint32, data []byte) []byte
	// Pressure tells the encoder how busy the link is: 1: data waits for the
	// link, so that time to compress is free; 0: the link waits for data.
	Pressure(p float64)
	// Usage accounts for what was done so far, by encoder.
	Usage() []Use
	// Footprint is the memory that the encoder holds, in bytes.
	Footprint() int64
	// Close gives it back; the encoder is of no use after.
	Close()
}

// Shadowing is what an [Encoder] does besides that refers to the target's memory:
// vpclab's own.
type Shadowing interface {
	// Assume tells that the target holds these bytes at these pages already,
	// from an earlier stay of the VM there, as a strong hash of them has shown.
	Assume(pages []uint32, data []byte)
	// Only says that from now on the target's other pages are not what was sent,
	// as the VM runs there and writes to them: nothing refers to them any more.
	// pages has a bit a page, 64 a word. The decoder is from then on given a
	// memory in which those pages are what was sent, whatever else it holds.
	Only(pages []uint64)
}

// Decoder is the receiving half. It is for one goroutine.
type Decoder interface {
	// Decode places a batch into memory and tells which pages it wrote.
	// Whatever the bytes, it neither panics nor takes more memory than its
	// configuration says; a batch that is not whole and true is an error, and
	// the decoder is of no use after one.
	Decode(memory, batch []byte, placed func(page int)) error
	Usage() []Use
	Footprint() int64
	Close()
}

// Use accounts for one encoder: what it took and what it gave.
type Use struct {
	Name  string
	Units int64 // pages or blocks
	In    int64 // bytes that came
	Out   int64 // bytes that stand for them
	CPU   time.Duration
	// Hits whose bytes turned out to differ: false matches of the hash.
	False int64
}
