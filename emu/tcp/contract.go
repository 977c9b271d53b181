// Package tcp takes TCP connections out of one kernel's hands and puts them into
// another's (TCP_REPAIR): sequence numbers, windows, options, and what is in the
// queues. A VM that fails over goes on with its clients' connections only if
// they are part of its checkpoint; in a lab the VM's kernel is a network
// namespace, so this is how they become that.
package tcp

import "net/netip"

// Connection is all that a kernel knows of one established connection.
type Connection struct {
	Local, Remote netip.AddrPort
	// The next byte of the stream that the program will read, and the next that
	// it will write, as sequence numbers.
	Read, Written uint32
	Unread        []byte // received and not read yet
	Unsent        []byte // written and not acknowledged yet; Written is the number after it
	MSS           uint16
	SendScale     uint8 // window scales (RFC 7323); NoScale: not negotiated
	RecvScale     uint8
	SACK          bool
	Timestamps    bool
	Timestamp     uint32 // the clock of the timestamp option at the checkpoint
	SendWindow    uint32
	MaxWindow     uint32
	RecvWindow    uint32
	SendWL1       uint32
	RecvWup       uint32
}

// NoScale is a window scale that was not negotiated.
const NoScale = 255
