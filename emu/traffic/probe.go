package traffic

import (
	"encoding/binary"
	"errors"

	"github.com/vpclab/vpclab/emu/event"
)

// kind tells the three packets apart.
type kind uint8

const (
	kindProbe  kind = 1 // "who has this address?"; is answered
	kindAnswer kind = 2 // "I do"
	kindTrain  kind = 3 // one of a numbered train; is only counted
	kindCall   kind = 4 // a probe that wants no answer; is only counted
)

// probe is what each packet carries, 48 bytes of UDP payload in network order:
//
//	 0  magic "VPCP"
//	 4  kind
//	 8  nonce       of the Prober: what an earlier run left in a queue is told apart
//	16  sender      identity of the machine that asked (from 1)
//	20  target      identity of the machine it meant; for a train, the flow
//	24  answerer    identity of the machine that answers; 0 in a question
//	28  round       which asking of a matrix this is; for a train, which train
//	32  sequence    number within the flow, from 0
//	40  sent        CLOCK_MONOTONIC at the sender, ns
type probe struct {
	kind     kind
	nonce    uint64
	sender   uint32
	target   uint32
	answerer uint32
	round    uint32
	seq      uint64
	sent     event.Mono
}

const (
	probeLen   = 48
	probeMagic = "VPCP"
)

// put writes the probe into b, which holds probeLen bytes.
func (p *probe) put(b []byte) {
	_ = b[probeLen-1]
	copy(b, probeMagic)
	binary.BigEndian.PutUint32(b[4:], uint32(p.kind)<<24)
	binary.BigEndian.PutUint64(b[8:], p.nonce)
	binary.BigEndian.PutUint32(b[16:], p.sender)
	binary.BigEndian.PutUint32(b[20:], p.target)
	binary.BigEndian.PutUint32(b[24:], p.answerer)
	binary.BigEndian.PutUint32(b[28:], p.round)
	binary.BigEndian.PutUint64(b[32:], p.seq)
	binary.BigEndian.PutUint64(b[40:], uint64(p.sent))
}

var errNotProbe = errors.New("not a probe")

// get reads a probe from the bytes of a packet, which may come from anyone.
func (p *probe) get(b []byte) error {
	if len(b) != probeLen || string(b[:4]) != probeMagic {
		return errNotProbe
	}
	k := kind(b[4])
	if k < kindProbe || k > kindCall || b[5]|b[6]|b[7] != 0 {
		return errNotProbe
	}
	*p = probe{
		kind:     k,
		nonce:    binary.BigEndian.Uint64(b[8:]),
		sender:   binary.BigEndian.Uint32(b[16:]),
		target:   binary.BigEndian.Uint32(b[20:]),
		answerer: binary.BigEndian.Uint32(b[24:]),
		round:    binary.BigEndian.Uint32(b[28:]),
		seq:      binary.BigEndian.Uint64(b[32:]),
		sent:     event.Mono(binary.BigEndian.Uint64(b[40:])),
	}
	return nil
}
