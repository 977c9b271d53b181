package tcp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// info is what of struct tcp_info (linux/tcp.h) is of use here.
type info struct {
	Info
	options    uint8
	send, recv uint8 // window scales
}

// Options in tcp_info.
const (
	infoTimestamps = 1 // TCPI_OPT_TIMESTAMPS
	infoSACK       = 2 // TCPI_OPT_SACK
	infoScale      = 4 // TCPI_OPT_WSCALE
)

// Where things are in it.
const (
	atState      = 0
	atOptions    = 5
	atScales     = 6 // the peer's in the lower half, ours in the upper
	atRecvThresh = 64
	atCongestion = 80
	atBytesAcked = 120
	atBytesRecv  = 128
	atNotSent    = 144
	atSendWindow = 228
	infoSize     = 232 // what of it is needed; Linux 5.4 and later have it
)

func parseInfo(b []byte) (i info, ok bool) {
	if len(b) < infoSize {
		return i, false
	}
	i.State = b[atState]
	i.options = b[atOptions]
	i.send, i.recv = b[atScales]&15, b[atScales]>>4
	i.RecvWindow = binary.NativeEndian.Uint32(b[atRecvThresh:])
	i.Congestion = binary.NativeEndian.Uint32(b[atCongestion:])
	i.Acked = binary.NativeEndian.Uint64(b[atBytesAcked:])
	i.Received = binary.NativeEndian.Uint64(b[atBytesRecv:])
	i.NotSent = binary.NativeEndian.Uint32(b[atNotSent:])
	i.SendWindow = binary.NativeEndian.Uint32(b[atSendWindow:])
	return i, true
}

// ask reads the tcp_info of one socket.
func ask(fd int) (info, error) {
	var b [256]byte
	n, err := get(fd, unix.IPPROTO_TCP, unix.TCP_INFO, b[:])
	if err != nil {
		return info{}, err
	}
	i, ok := parseInfo(b[:n])
	if !ok {
		return info{}, unix.ENOSYS
	}
	return i, nil
}

// Established is the state of a connection that both sides may send on
// (TCP_ESTABLISHED of the kernel's tcp_states.h).
const Established = 1
