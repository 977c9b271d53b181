package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Packet is a BFD control packet (RFC 5880 section 4.1), without
// authentication. Intervals are whole microseconds on the wire, at most 71
// minutes.
type Packet struct {
	Diag         Diag
	State        State
	Poll, Final  bool
	Independent  bool // C: forwarding goes on when the sender of this packet does not
	Demand       bool
	Multiplier   uint8  // of the sender: missed packets until it is taken for gone
	Mine, Yours  uint32 // discriminators: the sender's, and the receiver's if known
	DesiredMinTx time.Duration
	// RequiredMinRx is how often the sender can take packets; 0: it wants none.
	RequiredMinRx time.Duration
	RequiredEcho  time.Duration // 0: it has no echo
}

// State of a session; the numbers are those of packets.
type State uint8

// States (RFC 5880 section 4.1).
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string { return [4]string{"admin-down", "down", "init", "up"}[s&3] }

// Diag says why a session last changed its state.
type Diag uint8

// Diagnostics (RFC 5880 section 4.1).
const (
	NoDiag        Diag = 0
	Expired       Diag = 1 // no packet within the detection time
	NeighborDown  Diag = 3 // the neighbour said that its end is down
	AdminDownDiag Diag = 7
)

func (d Diag) String() string {
	names := [...]string{"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down"}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("diagnostic %d", d)
}

// Layout of a packet.
const (
	version    = 1
	packetSize = 24

	flagPoll        = 1 << 5
	flagFinal       = 1 << 4
	flagIndependent = 1 << 3
	flagAuth        = 1 << 2
	flagDemand      = 1 << 1
	flagMultipoint  = 1 << 0
)

// Append appends the packet as it is sent.
func (p Packet) Append(b []byte) []byte {
	flags := uint8(p.State) << 6
	for _, f := range []struct {
		on  bool
		bit uint8
	}{{p.Poll, flagPoll}, {p.Final, flagFinal}, {p.Independent, flagIndependent}, {p.Demand, flagDemand}} {
		if f.on {
			flags |= f.bit
		}
	}
	b = append(b, version<<5|uint8(p.Diag)&0x1f, flags, p.Multiplier, packetSize)
	b = binary.BigEndian.AppendUint32(b, p.Mine)
	b = binary.BigEndian.AppendUint32(b, p.Yours)
	for _, d := range [3]time.Duration{p.DesiredMinTx, p.RequiredMinRx, p.RequiredEcho} {
		b = binary.BigEndian.AppendUint32(b, uint32(d/time.Microsecond))
	}
	return b
}

// Why a packet is discarded, without a look at any session.
var (
	errShort      = errors.New("shorter than a control packet")
	errVersion    = errors.New("not version 1")
	errLength     = errors.New("its length field is wrong")
	errMultiplier = errors.New("its detection multiplier is 0")
	errMultipoint = errors.New("it is multipoint")
	errMine       = errors.New("its sender's discriminator is 0")
	errAuth       = errors.New("it is authenticated, and no session is")
	errYours      = errors.New("it names no session and says that one is there")
)

// Parse reads a packet and checks what RFC 5880 section 6.8.6 has checked
// before a session is looked for. Sessions have no authentication here.
func Parse(b []byte) (Packet, error) {
	if len(b) < packetSize {
		return Packet{}, errShort
	}
	flags, length := b[1], int(b[3])
	p := Packet{
		Diag: Diag(b[0] & 0x1f), State: State(flags >> 6),
		Poll: flags&flagPoll != 0, Final: flags&flagFinal != 0, Independent: flags&flagIndependent != 0, Demand: flags&flagDemand != 0,
		Multiplier: b[2], Mine: binary.BigEndian.Uint32(b[4:]), Yours: binary.BigEndian.Uint32(b[8:]),
		DesiredMinTx: micros(b[12:]), RequiredMinRx: micros(b[16:]), RequiredEcho: micros(b[20:]),
	}
	switch {
	case b[0]>>5 != version:
		return Packet{}, errVersion
	case length < packetSize || length > len(b):
		return Packet{}, errLength
	case p.Multiplier == 0:
		return Packet{}, errMultiplier
	case flags&flagMultipoint != 0:
		return Packet{}, errMultipoint
	case p.Mine == 0:
		return Packet{}, errMine
	case flags&flagAuth != 0:
		return Packet{}, errAuth
	case p.Yours == 0 && p.State != Down && p.State != AdminDown:
		return Packet{}, errYours
	}
	return p, nil
}

func micros(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
}
