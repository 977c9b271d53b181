package migrate

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/codec"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// Messages of the source; docs/migration-protocol.md has their contents.
const (
	msgBegin   wire.Type = 1  // JSON: begin
	msgPages   wire.Type = 2  // a batch of package codec
	msgRound   wire.Type = 3  // u32 number of the round that ends
	msgFinal   wire.Type = 4  // root[32], state: all pages are sent
	msgMissing wire.Type = 5  // root[32], u32 length, state, bitmap of missing pages
	msgRest    wire.Type = 6  // missing pages: see appendRest
	msgProof   wire.Type = 7  // root[32] of the memory that stayed
	msgOver    wire.Type = 8  // both ends are equal
	msgAbort   wire.Type = 9  // text: the source has the VM back
	msgAsk     wire.Type = 10 // the roots differ: send your leaves
)

// Messages of the target.
const (
	msgReady   wire.Type = 32 // nothing
	msgPlaced  wire.Type = 33 // u64 batches placed so far
	msgRunning wire.Type = 34 // i64 CLOCK_MONOTONIC of the VM's first step
	msgFailed  wire.Type = 35 // text
	msgProven  wire.Type = 36 // JSON: proven
	msgLeaves  wire.Type = 37 // hashes of pages, in order, 32 bytes each
	msgWant    wire.Type = 38 // u32 page that the VM stands at
	msgLacks   wire.Type = 39 // bitmap of pages that are missing
	msgAll     wire.Type = 40 // i64 CLOCK_MONOTONIC: none is missing any more
	msgHolds   wire.Type = 41 // of each page held already: u32 number, leaf
)

// begin is what both ends must have been told alike. The target does not take
// it from the wire: it compares it with what it was told itself.
type begin struct {
	Algorithm string
	Pages     int
	Codec     codec.Config
	Verify    string
	Reuse     bool
	Seed      uint64 // of the fingerprints: drawn by the source, and all that the target takes
}

// proven is the target's half of a Report.
type proven struct {
	Root     string
	Verify   Verification
	CPU      int64 // ns
	Encoders []codec.Use
	Faults   FaultUse
	Bytes    int64 // that it handed to TCP
	// Unproven are pages that the VM had written before this end, a successor,
	// could hash them: their leaves count as zero in Root. Words of a bitmap.
	Unproven []uint64
}

// leavesAtOnce bounds a message of leaves to 1 MiB.
const leavesAtOnce = 1 << 20 / len(digest{})

// holdsAtOnce bounds a message of pages that are held to 1 MiB.
const (
	holdSize    = 4 + len(digest{})
	holdsAtOnce = 1 << 20 / holdSize
)

func encodeJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("a message that cannot be written as JSON: %v", err)) // plain structs: cannot happen
	}
	return b
}

// finalMessage is root, state.
func finalMessage(root digest, state []byte) []byte {
	return append(append(make([]byte, 0, len(root)+len(state)), root[:]...), state...)
}

func parseFinal(b []byte) (root digest, state []byte, err error) {
	if len(b) < len(root) {
		return root, nil, fmt.Errorf("a final message of %d bytes", len(b))
	}
	copy(root[:], b)
	return root, append([]byte{}, b[len(root):]...), nil
}

func missingMessage(root digest, state []byte, missing bitmap) []byte {
	b := append(make([]byte, 0, len(root)+4+len(state)+8*len(missing)), root[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(state)))
	return appendBitmap(append(b, state...), missing)
}

func parseMissing(b []byte, pages int) (root digest, state []byte, missing bitmap, err error) {
	const head = len(root) + 4
	if len(b) < head || uint64(len(b)-head) < uint64(binary.BigEndian.Uint32(b[len(root):])) {
		return root, nil, nil, fmt.Errorf("a list of missing pages of %d bytes", len(b))
	}
	copy(root[:], b)
	n := head + int(binary.BigEndian.Uint32(b[len(root):]))
	missing, err = parseBitmap(b[n:], pages)
	return root, append([]byte{}, b[head:n]...), missing, err
}

func appendBitmap(dst []byte, m bitmap) []byte {
	for _, w := range m {
		dst = binary.BigEndian.AppendUint64(dst, w)
	}
	return dst
}

func parseBitmap(b []byte, pages int) (bitmap, error) {
	m := newBitmap(pages)
	if len(b) != 8*len(m) {
		return nil, fmt.Errorf("a bitmap of %d bytes for %d pages", len(b), pages)
	}
	for i := range m {
		m[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	if rest := pages & 63; rest != 0 && m[len(m)-1]>>rest != 0 {
		return nil, fmt.Errorf("a bitmap with bits after the last of %d pages", pages)
	}
	return m, nil
}

// A batch of missing pages is, for each page, u32 number with the top bit set
// for a page of zeros, and else the 4096 bytes after it. Nothing refers to
// what the other end has: the VM runs on it and changes it.
const restZero = 1 << 31

func appendRest(dst []byte, page int, data []byte) []byte {
	if isZero(data) {
		return binary.BigEndian.AppendUint32(dst, uint32(page)|restZero)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(page)), data...)
}

var zeroPage = make([]byte, PageSize)

// parseRest calls place for each page of a batch.
func parseRest(b []byte, pages int, place func(page int, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("%d bytes after the last page of a batch", len(b))
		}
		n := binary.BigEndian.Uint32(b)
		page, data := int(n&^restZero), zeroPage
		b = b[4:]
		if n&restZero == 0 {
			if len(b) < PageSize {
				return fmt.Errorf("page %d ends after %d bytes", page, len(b))
			}
			data, b = b[:PageSize], b[PageSize:]
		}
		if page >= pages {
			return fmt.Errorf("page %d of a memory of %d", page, pages)
		}
		if err := place(page, data); err != nil {
			return err
		}
	}
	return nil
}

func u32(v int) []byte    { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func parseU32(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("a number of %d bytes in place of 4", len(b))
	}
	return int(binary.BigEndian.Uint32(b)), nil
}

func parseU64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a number of %d bytes in place of 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func parseMono(b []byte) (event.Mono, error) {
	v, err := parseU64(b)
	return event.Mono(v), err
}

// messageName is for errors.
func messageName(t wire.Type) string {
	names := map[wire.Type]string{
		msgBegin: "begin", msgPages: "pages", msgRound: "round", msgFinal: "final", msgMissing: "missing",
		msgRest: "rest", msgProof: "proof", msgOver: "over", msgAbort: "abort", msgAsk: "ask",
		msgReady: "ready", msgPlaced: "placed", msgRunning: "running", msgFailed: "failed",
		msgProven: "proven", msgLeaves: "leaves", msgWant: "want", msgLacks: "lacks", msgAll: "all", msgHolds: "holds",
	}
	if n, ok := names[t]; ok {
		return n
	}
	return fmt.Sprintf("type %d", t)
}
