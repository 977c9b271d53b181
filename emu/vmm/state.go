package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"

	"github.com/vpclab/vpclab/emu/guest"
)

// A state is what QEMU says of a machine's processor and devices, in a wrapping that
// tells whose it is before a QEMU is given it, because that is all a QEMU does
// with what it cannot read: it ends. Little endian:
//
//	 0  "vpcl-vm1"
//	 8  VM      a hash of what it is
//	16  stop    how often it has stood: which of its states this is
//	24  length  of QEMU's stream
//	32  QEMU's stream
//	    CRC-32C of all before
const (
	stateMagic = "vpcl-vm1"
	stateHead  = 32
	stateTail  = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// identity is the hash: two VMs that differ by it cannot go on from each other's
// states.
func identity(s guest.Spec) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %d %d %s %s %s", s.Name, s.Memory, s.Disk, s.Seed, s.Workload, s.Image, s.Kernel)
	return h.Sum64()
}

// wrap makes a state of what QEMU said.
func wrap(s guest.Spec, stop uint64, stream []byte) []byte {
	b := make([]byte, stateHead, stateHead+len(stream)+stateTail)
	copy(b, stateMagic)
	binary.LittleEndian.PutUint64(b[8:], identity(s))
	binary.LittleEndian.PutUint64(b[16:], stop)
	binary.LittleEndian.PutUint64(b[24:], uint64(len(stream)))
	b = append(b, stream...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unwrap gives QEMU's stream of a state of this VM, and which stop it is of.
func unwrap(s guest.Spec, b []byte) (stream []byte, stop uint64, err error) {
	if len(b) < stateHead+stateTail || string(b[:8]) != stateMagic {
		return nil, 0, fmt.Errorf("%d bytes are no state of a VM", len(b))
	}
	body := b[:len(b)-stateTail]
	switch {
	case crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(body):]):
		return nil, 0, errors.New("the state's checksum does not fit")
	case binary.LittleEndian.Uint64(b[24:]) != uint64(len(body)-stateHead):
		return nil, 0, fmt.Errorf("the state has %d bytes of QEMU's, and says %d", len(body)-stateHead, binary.LittleEndian.Uint64(b[24:]))
	case binary.LittleEndian.Uint64(b[8:]) != identity(s):
		return nil, 0, errors.New("the state is another VM's")
	}
	return body[stateHead:], binary.LittleEndian.Uint64(b[16:]), nil
}
