package scenarios

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment content.
//
// What is there to be saved in a workload's memory, whoever migrates it: how
// much is zero, how much is there twice by the size of blocks and of the cache,
// how large the changes of a page are, and how often a hash takes two blocks
// for one. Nothing moves: the workload's memory and writes are made as a guest
// would make them, and the encoders of package codec are run over them.

const (
	contentBlock = 1024 // of figures that vary another thing: CloudNet's
	contentCache = 0.1  // of the memory, likewise
	deltaRounds  = 8    // iterations in which pages are sent again
)

// What the experiment goes through.
var (
	contentBlocks = []int{4096, 2048, 1024, 512, 256, 128, 64}
	contentCaches = []float64{1, 2.5, 5, 10, 25, 50, 100} // % of the memory
	deltaSizes    = []int{100, 200, 500, 1000, 2000, 3000, 3500, 3750, 4000, 4096}
	hashBits      = []int{8, 16, 20, 24, 28, 32, 40, 64}
)

// Ways to use a hash: values of the label "mode".
const (
	hashVerified   = "verified"   // what it finds is compared
	hashUnverified = "unverified" // it is believed
	hashKeyed      = "keyed"      // believed, and the guest does not know its key
)

// How a memory is cut into blocks: values of the label "chunking".
const (
	chunkFixed   = "fixed"
	chunkContent = "cdc" // content-defined: where the bytes say so
)

func contentKind() kind {
	var byBlock, byCache, bySize, byBits []labels
	for _, b := range contentBlocks {
		byBlock = append(byBlock, cross([]labels{{"block": strconv.Itoa(b)}}, "chunking", chunkFixed, chunkContent)...)
	}
	for _, c := range contentCaches {
		byCache = append(byCache, labels{"cache": shareText(c)})
	}
	for _, s := range deltaSizes {
		bySize = append(bySize, labels{"size": strconv.Itoa(s)})
	}
	for _, b := range hashBits {
		byBits = append(byBits, cross([]labels{{"bits": strconv.Itoa(b)}}, "mode", hashVerified, hashUnverified, hashKeyed)...)
	}
	return kind{
		resolution: counting,
		computes:   true,
		params: []param{
			word(paramWorkload, "a workload", workloads[:len(workloads)-1], func(*topo.Plan, topo.Experiment) string { return workloads[0] }),
			word(paramScale, "a scale", scaleNames(), func(*topo.Plan, topo.Experiment) string { return scales[0].name }),
		},
		metrics: []metric{
			{"redundancy.zero", "ratio", "of the memory: pages of zeros", nil},
			{"redundancy.duplicate", "ratio", "of the memory: blocks of 1 KiB that are in the cache, zeros apart", nil},
			{"redundancy.share", "ratio", "of the memory: zeros, and blocks that are in the cache", append(byBlock, byCache...)},
			{"delta.cdf", "ratio", "of pages that are sent again: those whose delta takes at most so many bytes", bySize},
			{"encoder.false", "count", "hits of the hash whose bytes are others", byBits},
			{"encoder.corrupt", "count", "blocks that arrive wrong", byBits},
			{"encoder.wanted", "count", "false hits that chance alone gives: of each lookup, 1 - (1 - 2^-bits)^blocks in the cache", byBits},
		},
		check: func(*topo.Plan, topo.Experiment) (msg, hint string) { return "", "" },
		open:  func(o opening) (session, error) { return &contents{seed: o.seed}, nil },
	}
}

func shareText(percent float64) string {
	return topo.Percent(percent).String()
}

// contents is a session of the experiment. It needs no lab.
type contents struct{ seed uint64 }

func (*contents) close()                        {}
func (*contents) recover(context.Context) error { return nil }

func (s *contents) trial(ctx context.Context, pt point, number int, t *metrics.Trial, _ *rand.Rand) error {
	dir, err := os.MkdirTemp("", "vpclab-content-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	scale := scaleOf(pt[paramScale])
	size := int(scale * (1 << 30))
	room, free, err := mapped(3 * (size + collisionRoom))
	if err != nil {
		return err
	}
	defer free()
	r, err := guest.NewReplay(guest.Spec{
		Name: "content", Memory: int64(size), Workload: pt[paramWorkload], Scale: scale, Seed: s.seed + uint64(number),
	}, dir)
	if err != nil {
		return err
	}
	defer r.Close()
	l := &look{t: t, memory: r.Memory(), key: s.seed ^ uint64(number), room: room}
	for _, part := range []func() error{l.redundancy, l.chunks, l.hashes, func() error { return l.deltas(r, scale) }} {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// look is one memory that is looked through.
type look struct {
	t      *metrics.Trial
	memory []byte
	key    uint64
	room   []byte // for copies of it
}

// take cuts n bytes off the room.
func (l *look) take(n int) []byte {
	b := l.room[:n:n]
	l.room = l.room[n:]
	return b
}

// mapped is memory whose pages are there: in User Mode Linux the first touch
// of one costs more than what is computed on it.
func mapped(n int) (room []byte, free func(), err error) {
	room, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, nil, fmt.Errorf("room for %d bytes: %w", n, err)
	}
	return room, func() { _ = unix.Munmap(room) }, nil // it was mapped: it can be unmapped
}

func (l *look) pages() int { return len(l.memory) / codec.PageSize }

// config is an encoder of content redundancy alone.
func (l *look) config(block int, cache float64) codec.Config {
	return codec.Config{Pages: l.pages(), Zero: true, CBR: true, Block: block, Cache: int64(cache * float64(len(l.memory)))}
}

// encode runs an encoder over the memory; decode, where it is not nil, gets
// each batch.
func (l *look) encode(c codec.Config, decode func(batch []byte) error) (map[string]codec.Use, error) {
	e, err := codec.NewEncoder(c)
	if err != nil {
		return nil, err
	}
	var batch []byte
	pages := make([]uint32, 0, codec.MaxBatch)
	for first := 0; first < l.pages(); first += codec.MaxBatch {
		pages = pages[:0]
		for p := first; p < min(first+codec.MaxBatch, l.pages()); p++ {
			pages = append(pages, uint32(p))
		}
		batch = e.Encode(batch[:0], pages, l.memory[first*codec.PageSize:(first+len(pages))*codec.PageSize])
		if decode != nil {
			if err := decode(batch); err != nil {
				return nil, err
			}
		}
	}
	uses := map[string]codec.Use{}
	for _, u := range e.Usage() {
		uses[u.Name] = u
	}
	return uses, nil
}

// redundancy looks by blocks of a fixed size.
func (l *look) redundancy() error {
	all := float64(len(l.memory))
	share := func(block int, cache float64, set labels) (map[string]codec.Use, error) {
		u, err := l.encode(l.config(block, cache), nil)
		if err == nil {
			l.t.Add("redundancy.share", "ratio", float64(u["zero"].In+u["cbr"].In)/all, set)
		}
		return u, err
	}
	for _, b := range contentBlocks {
		u, err := share(b, contentCache, labels{"block": strconv.Itoa(b), "chunking": chunkFixed})
		if err != nil {
			return err
		}
		if b == contentBlock {
			l.t.Add("redundancy.zero", "ratio", float64(u["zero"].In)/all, nil)
			l.t.Add("redundancy.duplicate", "ratio", float64(u["cbr"].In)/all, nil)
		}
	}
	for _, c := range contentCaches {
		if _, err := share(contentBlock, c/100, labels{"cache": shareText(c)}); err != nil {
			return err
		}
	}
	return nil
}

// chunks looks by blocks whose ends the content decides.
func (l *look) chunks() error {
	for _, size := range contentBlocks {
		found := 0
		held := newHeld(int(contentCache * float64(len(l.memory))))
		for page := range l.pages() {
			if b := l.memory[page*codec.PageSize:][:codec.PageSize]; allZeros(b) {
				found += len(b)
			}
		}
		cutChunks(l.memory, size, func(chunk []byte) {
			if !allZeros(chunk) && held.has(chunk) {
				found += len(chunk)
			}
		})
		l.t.Add("redundancy.share", "ratio", float64(found)/float64(len(l.memory)), labels{"block": strconv.Itoa(size), "chunking": chunkContent})
	}
	return nil
}

// hashes counts what hashes of few bits take for the same, and what that does
// to the target where nobody compares.
func (l *look) hashes() error {
	was := l.memory
	defer func() { l.memory = was }()
	with := l.take(len(was) + collisionRoom)
	l.memory = withCollisions(with[:copy(with, was)], contentBlock)
	target := l.take(len(l.memory))
	for _, bits := range hashBits {
		for _, mode := range []string{hashVerified, hashUnverified, hashKeyed} {
			c := l.config(contentBlock, contentCache)
			c.HashBits, c.Unverified = bits, mode != hashVerified
			if mode == hashKeyed {
				c.Key = l.key | 1
			}
			clear(target)
			d, err := codec.NewDecoder(c)
			if err != nil {
				return err
			}
			uses, err := l.encode(c, func(batch []byte) error { return d.Decode(target, batch, func(int) {}) })
			if err != nil {
				return fmt.Errorf("hash of %d bits, %s: %w", bits, mode, err)
			}
			wrong := 0
			for at := 0; at < len(target); at += contentBlock {
				if !bytes.Equal(target[at:at+contentBlock], l.memory[at:at+contentBlock]) {
					wrong++
				}
			}
			set := labels{"bits": strconv.Itoa(bits), "mode": mode}
			l.t.Add("encoder.false", "count", float64(uses["cbr"].False), set)
			l.t.Add("encoder.corrupt", "count", float64(wrong), set)
			lookups, held := float64(len(l.memory)-int(uses["zero"].In))/contentBlock, float64(c.Cache)/contentBlock
			l.t.Add("encoder.wanted", "count", -lookups*math.Expm1(held*math.Log1p(-math.Pow(2, -float64(bits)))), set)
		}
	}
	return nil
}

// deltas runs the workload on for some iterations, and measures the deltas of
// the pages that each would send again. An iteration is as long as the paper's:
// the first is that of the whole memory at 100 Mb/s.
func (l *look) deltas(r *guest.Replay, scale float64) error {
	sent := l.take(len(l.memory))
	copy(sent, l.memory)
	bitmap := make([]uint64, (l.pages()+63)/64)
	var scratch []byte
	var sizes []int
	for round := range deltaRounds {
		length := time.Duration(scale * float64(4*time.Second))
		if round == 0 {
			length = time.Duration(scale * float64(90*time.Second))
		}
		if err := r.Advance(length); err != nil {
			return err
		}
		r.Collect(bitmap)
		for p := range l.pages() {
			now, before := l.memory[p*codec.PageSize:][:codec.PageSize], sent[p*codec.PageSize:][:codec.PageSize]
			if bitmap[p/64]&(1<<(p%64)) == 0 || bytes.Equal(now, before) {
				continue
			}
			var size int
			size, scratch = codec.DeltaSize(scratch, before, now)
			sizes = append(sizes, size)
			copy(before, now)
		}
		clear(bitmap)
	}
	if len(sizes) == 0 {
		return nil // nothing is written: no curve
	}
	slices.Sort(sizes)
	for _, s := range deltaSizes {
		n, _ := slices.BinarySearch(sizes, s+1)
		l.t.Add("delta.cdf", "ratio", float64(n)/float64(len(sizes)), labels{"size": strconv.Itoa(s)})
	}
	return nil
}

// collisionRoom is how many bytes withCollisions adds at most.
const collisionRoom = 2 * 64 * contentBlock

// withCollisions is a memory with pages more, as a malicious guest would make
// them: pairs of blocks that a hash of 32 bits without a key cannot tell apart.
// It found them by trying. The memory has room for them behind it.
func withCollisions(memory []byte, block int) []byte {
	const tries, most = 1 << 18, 63
	out := memory
	seen := make(map[uint32]uint64, tries)
	b := make([]byte, block)
	add := func(n uint64) {
		binary.LittleEndian.PutUint64(b, n)
		out = append(out, b...)
	}
	pairs := 0
	for n := uint64(1); n <= tries && pairs < most; n++ {
		binary.LittleEndian.PutUint64(b, n)
		h := uint32(xxh3.Hash(b))
		if other, ok := seen[h]; ok {
			add(other)
			add(n)
			pairs++
			continue
		}
		seen[h] = n
	}
	for len(out)%codec.PageSize != 0 {
		out = append(out, 1)
	}
	return out
}
