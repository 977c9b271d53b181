package migrate

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Messages of the source of a disk, on a session of its own;
// docs/migration-protocol.md has their contents.
const (
	diskBegin  wire.Type = 64 // JSON: diskPlan
	diskBlocks wire.Type = 65 // a batch: see appendBlocks
	diskAsk    wire.Type = 66 // bitmap of nodes whose leaves are wanted
	diskFinal  wire.Type = 67 // root[32]: all blocks are sent, the VM stands
	diskProof  wire.Type = 68 // root[32] of the image that stayed
	diskOver   wire.Type = 69 // both ends are equal
)

// Messages of the target of a disk.
const (
	diskReady   wire.Type = 96  // nothing; with Reuse, diskNodes come first
	diskNodes   wire.Type = 97  // hashes of groups of 64 blocks, in order, 32 bytes each
	diskLeaves  wire.Type = 98  // hashes of the blocks of the nodes asked for, in order
	diskPlaced  wire.Type = 99  // u64 batches written so far
	diskSettled wire.Type = 100 // root[32]: all that came is written, and is what was sent
	diskProven  wire.Type = 101 // JSON: diskProvenAnswer
	diskFailed  wire.Type = 102 // text
)

// diskPlan is what both ends must have been told alike.
type diskPlan struct {
	Blocks int
	Codec  codec.Config
	Reuse  bool
}

// diskProvenAnswer is the target's half of a DiskReport.
type diskProvenAnswer struct {
	Root     string
	Verify   Verification
	Encoders []codec.Use
}

const (
	// blocksAtOnce is how many blocks a batch has in the asynchronous phase, and
	// fewAtOnce how many when mirrored writes may be waiting behind it.
	blocksAtOnce = 256
	fewAtOnce    = 32
	// mostBlocks bounds a batch at the receiving end.
	mostBlocks = codec.MaxBatch
	// maxBlocks is 16 TiB.
	maxBlocks = 1 << 32
)

// plan checks the options and completes them. The codec knows the blocks of a
// batch by their places in it: so neither end holds more than its cache and a
// batch, however large the disk.
func (o *DiskOptions) plan(size int64) (diskPlan, error) {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > maxBlocks {
		return diskPlan{}, fmt.Errorf("a disk of %d bytes: expected a multiple of %d up to 16 TiB", size, BlockSize)
	}
	names := o.Encoders
	if len(names) == 0 {
		names = []string{"zero", "cbr", "zstd-1"}
	}
	c := codec.Config{Pages: mostBlocks, Block: o.Block, Cache: o.Cache}
	if c.Cache == 0 {
		c.Cache = size / 10
	}
	c, err := codec.Parse(c, names)
	if err != nil {
		return diskPlan{}, fmt.Errorf("disk: %w", err)
	}
	if c.Delta || c.Own {
		return diskPlan{}, fmt.Errorf("disk: encoders %v: delta and vpclab keep what each page was, as a disk's migration does not; expected zero, cbr and a compressor", names)
	}
	return diskPlan{Blocks: int(size / BlockSize), Codec: c, Reuse: o.Reuse}, nil
}

// step calls the hook of the options.
func (o *DiskOptions) step(name string) error {
	return (&Options{Step: o.Step}).step(name)
}

// A batch of blocks is one byte, 1: say when it is written; the number of runs
// of blocks; for each run how many blocks lie between the one before and it,
// and how many it has, all as unsigned varints (encoding/binary); and the batch
// of package codec with the blocks in this order, as pages 0, 1, 2 …. Without
// runs there is no batch of the codec.
func appendBlocks(dst []byte, ack bool, blocks []uint32) []byte {
	flag := byte(0)
	if ack {
		flag = 1
	}
	dst = append(dst, flag)
	count := 0
	for i := range blocks {
		if i == 0 || blocks[i] != blocks[i-1]+1 {
			count++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(count))
	end := uint32(0)
	for i := 0; i < len(blocks); {
		n := 1
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+uint32(n) {
			n++
		}
		dst = binary.AppendUvarint(dst, uint64(blocks[i]-end))
		dst = binary.AppendUvarint(dst, uint64(n))
		end = blocks[i] + uint32(n)
		i += n
	}
	return dst
}

// blockRun is a run of blocks of a batch.
type blockRun struct{ first, n int }

// parseBlocks reads the front of a batch and gives the rest, which is the codec's.
func parseBlocks(b []byte, blocks int, runs []blockRun) (ack bool, _ []blockRun, rest []byte, err error) {
	if len(b) < 2 || b[0] > 1 {
		return false, nil, nil, fmt.Errorf("a batch of blocks of %d bytes", len(b))
	}
	ack, b = b[0] == 1, b[1:]
	number := func(most int) int {
		v, n := binary.Uvarint(b)
		if err == nil && (n <= 0 || v > uint64(most)) {
			err = fmt.Errorf("a batch of blocks: a number is missing or larger than %d", most)
		}
		if err != nil {
			return 0
		}
		b = b[n:]
		return int(v)
	}
	total, end := 0, 0
	for count := number(mostBlocks); count > 0 && err == nil; count-- {
		first := end + number(blocks)
		n := number(mostBlocks)
		if err == nil && (n == 0 || first+n > blocks || total+n > mostBlocks) {
			err = fmt.Errorf("a batch of blocks: %d from %d on, of a disk of %d; %d are in the batch already", n, first, blocks, total)
		}
		runs = append(runs, blockRun{first, n})
		end, total = first+n, total+n
	}
	if err != nil {
		return false, nil, nil, err
	}
	if (total == 0) != (len(b) == 0) {
		return false, nil, nil, fmt.Errorf("a batch of %d blocks has %d bytes of them", total, len(b))
	}
	return ack, runs, b, nil
}

// hashIn is how long an end may take to hash its image: it is read at 50 MB/s
// at least.
func hashIn(blocks int) time.Duration {
	return answerIn + time.Duration(blocks)*BlockSize*time.Second/50e6
}

// diskMessageName is for errors.
func diskMessageName(t wire.Type) string {
	names := map[wire.Type]string{
		diskBegin: "disk begin", diskBlocks: "disk blocks", diskAsk: "disk ask", diskFinal: "disk final", diskProof: "disk proof", diskOver: "disk over",
		diskReady: "disk ready", diskNodes: "disk nodes", diskLeaves: "disk leaves", diskPlaced: "disk placed",
		diskSettled: "disk settled", diskProven: "disk proven", diskFailed: "disk failed",
	}
	if n, ok := names[t]; ok {
		return n
	}
	return fmt.Sprintf("type %d", t)
}

// groupSize is how many leaves a node of a proof is over.
const groupSize = 64

// appendLeaves appends those of the nodes that are set.
func (p *proof) appendLeaves(dst []byte, nodes bitmap) []byte {
	for n := nodes.next(0); n >= 0; n = nodes.next(n + 1) {
		for _, d := range p.leaves[n*groupSize : min((n+1)*groupSize, len(p.leaves))] {
			dst = append(dst, d[:]...)
		}
	}
	return dst
}
