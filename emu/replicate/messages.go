package replicate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Messages of the primary; docs/replication.md has their contents.
const (
	msgBegin  wire.Type = 1 // JSON: begin
	msgStart  wire.Type = 2 // u8 how
	msgPages  wire.Type = 3 // list of pages, batch of package codec
	msgBlocks wire.Type = 4 // extents of the disk, compressed
	msgState  wire.Type = 5 // a part of the state of the epoch
	msgWhole  wire.Type = 6 // whole: the epoch is
	msgSums   wire.Type = 7 // of each of some blocks: u32 number, u64 hash
)

// Messages of the standby.
const (
	msgReady  wire.Type = 32 // JSON: ready
	msgHolds  wire.Type = 33 // u32 first unit, 32 bytes a unit; compressed. None: that was all
	msgAcked  wire.Type = 34 // u64 epoch that is held
	msgFailed wire.Type = 35 // text
	msgDiffer wire.Type = 36 // u32 numbers of blocks whose hashes are others
)

// Messages of both.
const msgBeat wire.Type = 64 // nothing: it lives

var messageNames = map[wire.Type]string{
	msgBegin: "begin", msgStart: "start", msgPages: "pages", msgBlocks: "blocks", msgState: "state", msgWhole: "whole", msgSums: "sums",
	msgReady: "ready", msgHolds: "holds", msgAcked: "acked", msgFailed: "failed", msgDiffer: "differ", msgBeat: "beat",
}

func messageName(t wire.Type) string {
	if n := messageNames[t]; n != "" {
		return n
	}
	return fmt.Sprintf("message of type %d", t)
}

// begin is what both ends must have been told alike. The standby compares it
// with what it was told itself, and takes Run and Seed.
type begin struct {
	Mode   string
	Pages  int
	Disk   int64
	Codec  codec.Config
	Verify int
	Run    [16]byte // of the primary: its epochs are counted in it
	Seed   uint64   // of the leaves of root hashes
}

// ready is what the standby holds.
type ready struct {
	Run    [16]byte
	Epoch  uint64
	Synced bool
}

// how the primary goes on.
const (
	howSync   = 1 // say what every page is; what differs comes
	howResume = 2 // what the standby does not hold comes with the next epoch
)

// whole ends an epoch.
type whole struct {
	epoch   uint64
	at      event.Mono
	final   bool
	compare bool
	root    root // where compare is set
}

const wholeSize = 8 + 8 + 1 + len(root{})

func (w *whole) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, wholeSize), w.epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(w.at))
	var flags byte
	if w.final {
		flags |= 1
	}
	if w.compare {
		flags |= 2
	}
	return append(append(b, flags), w.root[:]...)
}

func parseWhole(b []byte) (w whole, err error) {
	if len(b) != wholeSize || b[16] > 3 {
		return w, fmt.Errorf("the end of an epoch of %d bytes", len(b))
	}
	w.epoch, w.at = binary.BigEndian.Uint64(b), event.Mono(binary.BigEndian.Uint64(b[8:]))
	w.final, w.compare = b[16]&1 != 0, b[16]&2 != 0
	copy(w.root[:], b[17:])
	return w, nil
}

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("a message that cannot be written as JSON: %v", err)) // plain structs: cannot happen
	}
	return b
}

// appendList writes an ascending list of pages as runs: how many, and of each
// how many pages are between it and the one before, and its length.
func appendList(dst []byte, pages []uint32) []byte {
	count := 0
	for i := range pages {
		if i == 0 || pages[i] != pages[i-1]+1 {
			count++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(count))
	next := uint32(0)
	for i := 0; i < len(pages); {
		n := 1
		for i+n < len(pages) && pages[i+n] == pages[i]+uint32(n) {
			n++
		}
		dst = binary.AppendUvarint(dst, uint64(pages[i]-next))
		dst = binary.AppendUvarint(dst, uint64(n))
		next = pages[i] + uint32(n)
		i += n
	}
	return dst
}

var errList = errors.New("a list of pages that is none")

// parseList reads a list into pages, and gives what follows it.
func parseList(b []byte, pages []uint32, limit int) (list []uint32, rest []byte, err error) {
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err = errList
			return 0
		}
		b = b[n:]
		return v
	}
	at := uint64(0)
	for count := next(); count > 0 && err == nil; count-- {
		gap, n := next(), next()
		if err != nil || n == 0 || gap > uint64(limit) || n > uint64(limit) || at+gap+n > uint64(limit) || len(pages)+int(n) > codec.MaxBatch {
			return nil, nil, errList
		}
		for at += gap; n > 0; n-- {
			pages = append(pages, uint32(at))
			at++
		}
	}
	return pages, b, err
}

// An extent is written as its offset (8 bytes), its length (4) and its bytes.
const (
	extentHead = 12
	// longestExtent bounds the bytes of one; a longer write becomes several, of
	// the same epoch.
	longestExtent = 64 << 10
	// partSize is about how many bytes of extents, or of a state, are in a message.
	partSize = 256 << 10
)

var errExtents = errors.New("extents of a disk that are none")

func appendExtent(dst []byte, off int64, data []byte) []byte {
	for {
		n := min(len(data), longestExtent)
		dst = binary.BigEndian.AppendUint64(dst, uint64(off))
		dst = binary.BigEndian.AppendUint32(dst, uint32(n))
		dst = append(dst, data[:n]...)
		if off, data = off+int64(n), data[n:]; len(data) == 0 {
			return dst
		}
	}
}

// eachExtent goes through extents of a disk of so many bytes.
func eachExtent(b []byte, size int64, do func(off int64, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < extentHead {
			return errExtents
		}
		off, n := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
		if b = b[extentHead:]; uint64(n) > uint64(len(b)) || off > uint64(size) || off+uint64(n) > uint64(size) {
			return errExtents
		}
		if err := do(int64(off), b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// parts cuts extents into pieces of about partSize.
func parts(b []byte, do func(part []byte) error) error {
	for len(b) > 0 {
		n := 0
		for n < len(b) && n < partSize {
			n += extentHead + int(binary.BigEndian.Uint32(b[n+8:]))
		}
		if err := do(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func decodeJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("a message of the other end: %w", err)
	}
	return nil
}
