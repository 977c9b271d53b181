package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// State is what the virtual CPUs and devices of a guest hold while it stands:
// all that a successor needs besides memory and disk. On the wire it is
//
//	magic, version, what follows in fixed order (numbers as uvarints), CRC-32C
//
// The reader takes nothing that is not whole.
type cpuState struct {
	seed     uint64 // of the guest's Spec: whose state it is
	pages    uint64
	workload string
	pauses   uint64   // how often it has stood: which of its states this is
	ran      uint64   // nanoseconds that it ran
	ticks    uint64   // of the workload done
	cursors  []uint64 // of the workload's sweeps
	rng      uint64   // of the workload: a digest of all that it drew
	steps    uint64
	acked    uint64
	ledger   uint64   // sequence number of the last record
	draws    uint64   // of the server's own random numbers
	app      []uint64 // versions of the pages that clients work on
	counts   []uint64 // of a ledger without a disk: client, count, client, count …
	clients  []carried
}

const (
	stateMagic   = "vpcl-cpu"
	stateVersion = 2
	maxCursors   = 1 << 10
	maxApp       = 1 << 20
	maxCounts    = 2 * maxClients
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *cpuState) encode() []byte {
	b := append([]byte(stateMagic), stateVersion)
	b = binary.AppendUvarint(b, uint64(len(s.workload)))
	b = append(b, s.workload...)
	for _, p := range s.numbers() {
		b = binary.AppendUvarint(b, *p)
	}
	for _, list := range [][]uint64{s.cursors, s.app, s.counts} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, v := range list {
			b = binary.AppendUvarint(b, v)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.clients)))
	for i := range s.clients {
		b = s.clients[i].appendTo(b)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// numbers are the single ones, in their order on the wire.
func (s *cpuState) numbers() []*uint64 {
	return []*uint64{&s.seed, &s.pages, &s.pauses, &s.ran, &s.ticks, &s.rng, &s.steps, &s.acked, &s.ledger, &s.draws}
}

func decodeState(b []byte) (*cpuState, error) {
	if len(b) < len(stateMagic)+1+4 || string(b[:len(stateMagic)]) != stateMagic {
		return nil, fmt.Errorf("guest state: %d bytes are none", len(b))
	}
	if v := b[len(stateMagic)]; v != stateVersion {
		return nil, fmt.Errorf("guest state: version %d: want %d", v, stateVersion)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("guest state: checksum does not fit")
	}
	r := uvarints{b: body[len(stateMagic)+1:]}
	s := &cpuState{}
	s.workload = string(r.bytes(64))
	for _, p := range s.numbers() {
		*p = r.next()
	}
	s.cursors = r.list(maxCursors)
	s.app = r.list(maxApp)
	s.counts = r.list(maxCounts)
	for range r.count(mostCarried) {
		s.clients = append(s.clients, r.carried())
	}
	if r.err == nil && len(s.counts)%2 != 0 {
		r.err = errors.New("a client of the ledger without a count")
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("guest state: %w", r.err)
	}
	return s, nil
}

// uvarints reads numbers off the front of b until one is not there.
type uvarints struct {
	b   []byte
	err error
}

func (r *uvarints) next() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		if r.err == nil {
			r.err = errors.New("it ends too early")
		}
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count is a number of things that follow, each of at least one byte.
func (r *uvarints) count(most int) int {
	n := r.next()
	if n > uint64(most) || n > uint64(len(r.b)) {
		if r.err == nil {
			r.err = fmt.Errorf("%d entries: want at most %d, and %d bytes are left", n, most, len(r.b))
		}
		r.b = nil
		return 0
	}
	return int(n)
}

func (r *uvarints) bytes(most int) []byte {
	n := r.count(most)
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *uvarints) list(most int) []uint64 {
	out := make([]uint64, r.count(most))
	for i := range out {
		out[i] = r.next()
	}
	return out
}
