package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of a capture. The receive buffer holds what arrives while nobody
// reads; a batch is read with one system call.
const (
	captureBuffer = 8 << 20
	captureBatch  = 32
	// CaptureMax is the largest frame: a segmentation-offload super frame with
	// its headers.
	CaptureMax = 64<<10 + 1<<10
)

// Capture reads the frames of one interface, both directions. It stays with
// the interface that it was opened on; Read fails when that goes away.
type Capture struct {
	name string
	file *os.File
	raw  syscall.RawConn
	snap int

	// Storage of one batch, reused by each Read.
	data    []byte
	names   [captureBatch]unix.RawSockaddrLinklayer
	control [captureBatch][64]byte
	iovecs  [captureBatch]unix.Iovec
	headers [captureBatch]mmsghdr
	packets [captureBatch]Packet
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// Packet is one frame, beginning with its Ethernet header.
type Packet struct {
	Time time.Time // when the kernel saw it
	Out  bool      // sent by the node, not received
	Data []byte    // valid until the next Read
	Len  int       // on the wire; more than len(Data) if it was cut
}

// OpenCapture starts to catch the frames of a node's interface. snap is how
// many bytes of each to keep; 0: all. What passes from this call on is caught.
func (f *Fabric) OpenCapture(node, ifname string, snap int) (*Capture, error) {
	if snap <= 0 || snap > CaptureMax {
		snap = CaptureMax
	}
	c := &Capture{name: node + ":" + ifname, snap: snap}
	err := f.Do(node, func() (err error) {
		c.file, err = packetSocket(ifname)
		return err
	})
	if err == nil {
		c.raw, err = c.file.SyscallConn()
	}
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", c.name, err)
	}
	c.prepare()
	return c, nil
}

// packetSocket opens a packet(7) socket in the namespace of the thread. It is
// bound before it is given a protocol, so that it never holds a frame of
// another interface.
func packetSocket(ifname string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	set := func() error {
		ifr, err := unix.NewIfreq(ifname)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return os.NewSyscallError("find interface", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
			return os.NewSyscallError("setsockopt SO_RCVBUFFORCE", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_TIMESTAMPNS", err)
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())}))
	}
	if err := set(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "capture "+ifname), nil
}

// prepare points the headers of a batch at their storage.
func (c *Capture) prepare() {
	c.data = make([]byte, captureBatch*c.snap)
	for i := range c.headers {
		c.iovecs[i].Base = &c.data[i*c.snap]
		c.iovecs[i].SetLen(c.snap)
		h := &c.headers[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&c.names[i]))
		h.Iov = &c.iovecs[i]
		h.SetIovlen(1)
		h.Control = &c.control[i][0]
	}
}

// Read waits for frames and returns those that are there, at least one. After
// Close or at the read deadline it fails with os.ErrClosed or
// os.ErrDeadlineExceeded.
func (c *Capture) Read() ([]Packet, error) {
	for i := range c.headers {
		c.headers[i].hdr.Namelen = uint32(unsafe.Sizeof(c.names[i]))
		c.headers[i].hdr.SetControllen(len(c.control[i]))
	}
	n, errno := 0, syscall.Errno(0)
	err := c.raw.Read(func(fd uintptr) bool {
		for {
			// MSG_TRUNC: tell the true length of a frame that was cut.
			r, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&c.headers[0])), captureBatch, unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
			if e == unix.EINTR {
				continue
			}
			n, errno = int(r), e
			return e != unix.EAGAIN
		}
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("recvmmsg", errno)
	}
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", c.name, err)
	}
	for i := range n {
		c.packets[i] = c.packet(i)
	}
	return c.packets[:n], nil
}

func (c *Capture) packet(i int) Packet {
	m := &c.headers[i]
	kept := min(int(m.len), c.snap)
	return Packet{
		Time: timestamp(c.control[i][:m.hdr.Controllen]),
		Out:  c.names[i].Pkttype == unix.PACKET_OUTGOING,
		Data: c.data[i*c.snap : i*c.snap+kept],
		Len:  int(m.len),
	}
}

// timestamp finds the kernel's time among the control messages.
func timestamp(control []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// Drops is how many frames were lost since the last call because they were
// not read in time.
func (c *Capture) Drops() (uint32, error) {
	var st *unix.TpacketStats
	var err error
	if e := c.raw.Control(func(fd uintptr) {
		st, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); e != nil {
		err = e
	}
	if err != nil {
		return 0, fmt.Errorf("capture on %s: read drops: %w", c.name, err)
	}
	return st.Drops, nil
}

// SetReadDeadline bounds how long Read waits; the zero time: for ever.
func (c *Capture) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// Close ends the capture, and a Read that waits.
func (c *Capture) Close() error {
	err := c.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
