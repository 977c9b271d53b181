package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// A message is one UDP datagram, big endian:
//
//	0  'V' 'L'   mark
//	2  1         version
//	3  kind      Kind
//	4  from      Party
//	5  re        Kind that an answer answers, or 0
//	6  flags     holder (1 bit), in sync, plain, handed, ok
//	7  length    of the VM's name
//	8  instance  Config.Instance
//	16 boot
//	24 asked     ns
//	32 gen
//	40 left      µs
//	44 name
const headerSize = 44

// maxDatagram is the longest.
const maxDatagram = headerSize + MaxName

const (
	flagHolder = 1 << iota
	flagInSync
	flagPlain
	flagHanded
	flagOK
	flagsEnd
)

// packet is a message with whose it is.
type packet struct {
	vm       string
	instance uint64
	Message
}

func (p packet) append(b []byte) []byte {
	var flags byte
	for bit, set := range map[byte]bool{
		flagHolder: p.Record.Holder == HostB, flagInSync: p.Record.InSync,
		flagPlain: p.Plain, flagHanded: p.Handed, flagOK: p.OK,
	} {
		if set {
			flags |= bit
		}
	}
	b = append(b, 'V', 'L', 1, byte(p.Kind), byte(p.From), byte(p.Re), flags, byte(len(p.vm)))
	b = binary.BigEndian.AppendUint64(b, p.instance)
	b = binary.BigEndian.AppendUint64(b, p.Boot)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Asked))
	b = binary.BigEndian.AppendUint64(b, p.Record.Gen)
	// Rounded up: who asks again after that long must not be too early.
	b = binary.BigEndian.AppendUint32(b, uint32(min((p.Left+time.Microsecond-1)/time.Microsecond, 1<<32-1)))
	return append(b, p.vm...)
}

// answers is whether a message of kind k may be the answer to one of kind q; q is
// 0 in a question.
func (k Kind) answers(q Kind) bool {
	switch k {
	case Told:
		return q == Look || q == Beat || q == Handed
	case Promise:
		return q == Beat
	case Answer:
		return q == Look || q >= Renew && q <= Take
	}
	return q == 0
}

var errMalformed = errors.New("not a message of a lease")

// parse reads a datagram that arrived at the party to.
func parse(b []byte) (p packet, err error) {
	if len(b) < headerSize || len(b) > maxDatagram || b[0] != 'V' || b[1] != 'L' || b[2] != 1 || len(b) != headerSize+int(b[7]) || b[7] == 0 {
		return p, errMalformed
	}
	flags := b[6]
	p.Kind, p.From, p.Re = Kind(b[3]), Party(b[4]), Kind(b[5])
	if p.Kind < Look || p.Kind > Answer || p.From > Third || flags >= flagsEnd {
		return p, errMalformed
	}
	if !p.Kind.answers(p.Re) {
		return p, fmt.Errorf("%w: kind %d re %d", errMalformed, p.Kind, p.Re)
	}
	p.instance = binary.BigEndian.Uint64(b[8:])
	p.Boot = binary.BigEndian.Uint64(b[16:])
	p.Asked = event.Mono(binary.BigEndian.Uint64(b[24:]))
	p.Record.Gen = binary.BigEndian.Uint64(b[32:])
	p.Left = time.Duration(binary.BigEndian.Uint32(b[40:])) * time.Microsecond
	if flags&flagHolder != 0 {
		p.Record.Holder = HostB
	}
	p.Record.InSync, p.Plain = flags&flagInSync != 0, flags&flagPlain != 0
	p.Handed, p.OK = flags&flagHanded != 0, flags&flagOK != 0
	if p.Asked < 0 {
		return p, fmt.Errorf("%w: asked before any clock began", errMalformed)
	}
	p.vm = string(b[headerSize:])
	return p, nil
}
