package traffic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Station is a place where frames are sent and seen.
type Station struct {
	Node string
	// Ifname is the interface. Empty means the node itself: what is seen there
	// are the IP packets of Protocol that are delivered to the node's own
	// addresses, by whichever interface and VRF.
	Ifname string
	// Sent lets the station see what its node sends as well.
	Sent bool
}

func (s Station) String() string {
	if s.Ifname == "" {
		return s.Node
	}
	return s.Node + ":" + s.Ifname
}

// Frame is one frame at a station.
type Frame struct {
	Station int
	At      int64 // CLOCK_REALTIME of the kernel that saw it, ns
	Out     bool  // sent by the node, not received
	// Data begins with the Ethernet header; at a node itself with the IP
	// header. It is valid until the next frame.
	Data []byte
}

const (
	// EtherType of frames that carry nothing but a mark: local experimental
	// EtherType 1 of IEEE 802.
	EtherType = 0x88b5
	// Protocol of IP packets that carry nothing but a mark: for
	// experimentation (RFC 3692, section 2.1).
	Protocol = 253

	// MarkLen is the length of a mark in bytes.
	MarkLen   = 16
	markMagic = "VPCL"

	etherSnap    = 512 // bytes read of a frame: more than any probe in any wrapping
	etherEvents  = 256 // stations that one look at epoll names
	sendPatience = 5 * time.Second
)

// Ether holds sockets below IP at many stations, all read by one goroutine
// through one epoll descriptor: with a system call for 64 frames, and none for
// stations where nothing came, thousands of frames at hundreds of stations
// cost milliseconds. Its methods are not for use by several goroutines at a
// time.
//
// Frames are known by a mark that they carry: magic "VPCL", the nonce of the
// Ether and a number, 16 bytes in network order. A mark is found wherever it
// is in a frame, so what has been labelled, unwrapped or quoted in an error
// message on its way is known too.
type Ether struct {
	stations []Station
	fds      []int
	epoll    *os.File
	raw      syscall.RawConn
	byFD     map[int32]int
	mark     [12]byte
	last     uint32 // number given out

	in, out *mmsgs
	events  [etherEvents]unix.EpollEvent
}

// OpenEther opens a socket at every station, with one visit to each node.
func OpenEther(enter Enter, stations []Station) (*Ether, error) {
	e := &Ether{stations: stations, fds: make([]int, len(stations)), byFD: map[int32]int{},
		in: newMmsgs(etherSnap), out: newMmsgs(0)}
	copy(e.mark[:], markMagic)
	binary.BigEndian.PutUint64(e.mark[4:], rand.Uint64())
	byNode, order := map[string][]int{}, []string(nil)
	for i, s := range stations {
		e.fds[i] = -1
		if byNode[s.Node] == nil {
			order = append(order, s.Node)
		}
		byNode[s.Node] = append(byNode[s.Node], i)
	}
	err := e.openEpoll()
	for _, node := range order {
		if err != nil {
			break
		}
		err = enter(node, func() error { return e.openAt(byNode[node]) })
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// openEpoll makes the epoll descriptor a file, so that waiting for it is the
// business of Go's poller and holds no thread.
func (e *Ether) openEpoll() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	e.epoll = os.NewFile(uintptr(fd), "stations")
	e.raw, err = e.epoll.SyscallConn()
	return err
}

// openAt opens the sockets of some stations in the namespace of the thread.
func (e *Ether) openAt(which []int) error {
	for _, i := range which {
		s := e.stations[i]
		fd, err := openStation(s)
		if err != nil {
			return fmt.Errorf("station %s: %w", s, err)
		}
		e.fds[i] = fd
		e.byFD[int32(fd)] = i
		if err := unix.EpollCtl(epollFD(e.raw), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return fmt.Errorf("station %s: watch: %w", s, err)
		}
	}
	return nil
}

func epollFD(raw syscall.RawConn) (fd int) {
	_ = raw.Control(func(f uintptr) { fd = int(f) }) // fails on a closed file alone
	return fd
}

func openStation(s Station) (fd int, err error) {
	if s.Ifname == "" {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, Protocol)
	} else {
		// Bound before it is given a protocol, so that it never holds a frame
		// of another interface.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := setStation(fd, s); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setStation(fd int, s Station) error {
	for _, o := range []struct {
		opt, value int
		name       string
	}{
		{unix.SO_RCVBUFFORCE, sockBuf, "receive buffer"},
		{unix.SO_SNDBUFFORCE, sockBuf, "send buffer"},
		{unix.SO_TIMESTAMPNS, 1, "timestamps"},
	} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.opt, o.value); err != nil {
			return fmt.Errorf("socket %s: %w", o.name, err)
		}
	}
	if s.Ifname == "" {
		return nil
	}
	if !s.Sent {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return os.NewSyscallError("setsockopt PACKET_IGNORE_OUTGOING", err)
		}
	}
	ifr, err := unix.NewIfreq(s.Ifname)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return os.NewSyscallError("find interface", err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())}))
}

// Close closes all sockets.
func (e *Ether) Close() {
	for i, fd := range e.fds {
		if fd >= 0 {
			unix.Close(fd)
			e.fds[i] = -1
		}
	}
	if e.epoll != nil {
		_ = e.epoll.Close() // nothing was written
		e.epoll = nil
	}
}

// Numbers gives out n numbers for marks and returns the first; they begin at
// 1.
func (e *Ether) Numbers(n int) (first uint32) {
	first = e.last + 1
	e.last += uint32(n)
	return first
}

// AppendMark adds the mark of a number to a frame.
func (e *Ether) AppendMark(b []byte, number uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, e.mark[:]...), number)
}

// Marked finds the mark in a frame: its number and where it begins.
func (e *Ether) Marked(b []byte) (number uint32, at int, ok bool) {
	at = bytes.Index(b, e.mark[:])
	if at < 0 || len(b) < at+MarkLen {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[at+len(e.mark):]), at, true
}

// Send sends frames by a station's interface, up to 64 of them with a system
// call. Frames that the kernel refuses (a full queue, an interface that is
// down) are stepped over and counted; why is the last reason.
func (e *Ether) Send(station int, frames [][]byte) (refused int, why, err error) {
	for len(frames) > 0 {
		n := min(len(frames), batchLen)
		for i := range n {
			e.out.iovecs[i].Base = &frames[i][0]
			e.out.iovecs[i].SetLen(len(frames[i]))
		}
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(e.fds[station]), uintptr(unsafe.Pointer(&e.out.headers[0])), uintptr(n), 0, 0, 0)
		switch errno {
		case 0:
			frames = frames[sent:]
		case unix.EINTR:
		case unix.EAGAIN: // the send buffer is full of frames that a slow link holds
			if err := e.waitWritable(station); err != nil {
				return refused, why, err
			}
		case unix.EBADF, unix.EINVAL, unix.EMSGSIZE, unix.EFAULT:
			return refused, why, fmt.Errorf("station %s: send: %w", e.stations[station], errno)
		default:
			refused, why = refused+1, errno
			frames = frames[1:]
		}
	}
	return refused, why, nil
}

func (e *Ether) waitWritable(station int) error {
	fds := []unix.PollFd{{Fd: int32(e.fds[station]), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, int(sendPatience.Milliseconds()))
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("station %s: send: %w", e.stations[station], os.NewSyscallError("poll", err))
	case n == 0:
		return fmt.Errorf("station %s: send: the link took nothing for %v", e.stations[station], sendPatience)
	}
	return nil
}

// Read waits, at most so long, until a frame has come to some station, and
// hands every frame that is there to take. It returns how many there were.
func (e *Ether) Read(wait time.Duration, take func(*Frame)) (frames int, err error) {
	n, err := e.ready(wait)
	if err != nil {
		return 0, fmt.Errorf("stations: %w", err)
	}
	for _, ev := range e.events[:n] {
		i, ok := e.byFD[ev.Fd]
		if !ok {
			continue
		}
		got, err := e.drain(i, take)
		frames += got
		if err != nil {
			return frames, fmt.Errorf("station %s: receive: %w", e.stations[i], err)
		}
	}
	return frames, nil
}

// ready fills in the events of stations where frames wait.
func (e *Ether) ready(wait time.Duration) (n int, err error) {
	look := func(fd uintptr) bool {
		n, err = unix.EpollWait(int(fd), e.events[:], 0)
		if errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
		return n > 0 || err != nil
	}
	if cerr := e.raw.Control(func(fd uintptr) { look(fd) }); cerr != nil || err != nil || n > 0 || wait <= 0 {
		return max(n, 0), errors.Join(cerr, os.NewSyscallError("epoll_wait", err))
	}
	if err := e.epoll.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	rerr := e.raw.Read(look)
	if errors.Is(rerr, os.ErrDeadlineExceeded) {
		return 0, nil
	}
	return max(n, 0), errors.Join(rerr, os.NewSyscallError("epoll_wait", err))
}

// drain reads what waits at one station.
func (e *Ether) drain(i int, take func(*Frame)) (frames int, err error) {
	f := Frame{Station: i}
	for {
		e.in.reset()
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(e.fds[i]), uintptr(unsafe.Pointer(&e.in.headers[0])), batchLen, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return frames, nil
		case unix.EINTR, unix.ENETDOWN: // down: said once; it can come up again
			continue
		default:
			return frames, os.NewSyscallError("recvmmsg", errno)
		}
		frames += int(n)
		for k := range int(n) {
			f.At, f.Out, f.Data = e.in.frame(k)
			take(&f)
		}
		if n < batchLen {
			return frames, nil
		}
	}
}

// Drops counts frames that were lost at stations since the last call because
// they were not read in time.
func (e *Ether) Drops() (drops int, err error) {
	for i, s := range e.stations {
		if s.Ifname == "" {
			continue
		}
		st, err := unix.GetsockoptTpacketStats(e.fds[i], unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return drops, fmt.Errorf("station %s: read drops: %w", s, err)
		}
		drops += int(st.Drops)
	}
	return drops, nil
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// mmsgs is the storage of one batch. What it receives into is touched once and
// used again: a first touch of a page costs 50-200 us in User Mode Linux.
type mmsgs struct {
	headers [batchLen]mmsghdr
	iovecs  [batchLen]unix.Iovec
	names   [batchLen]unix.RawSockaddrLinklayer // a sockaddr_in of a raw IP socket fits
	control [batchLen][oobLen]byte
	data    []byte
	snap    int
}

// newMmsgs makes a batch for receiving frames of up to snap bytes, or with 0
// for sending.
func newMmsgs(snap int) *mmsgs {
	m := &mmsgs{snap: snap, data: make([]byte, snap*batchLen)}
	for i := range m.headers {
		h := &m.headers[i].hdr
		h.Iov = &m.iovecs[i]
		h.SetIovlen(1)
		if snap == 0 {
			continue
		}
		m.iovecs[i].Base = &m.data[i*snap]
		m.iovecs[i].SetLen(snap)
		h.Name = (*byte)(unsafe.Pointer(&m.names[i]))
		h.Control = &m.control[i][0]
	}
	return m
}

// reset gives the lengths back that the kernel has overwritten.
func (m *mmsgs) reset() {
	for i := range m.headers {
		h := &m.headers[i].hdr
		h.Namelen = uint32(unsafe.Sizeof(m.names[i]))
		h.SetControllen(oobLen)
	}
}

// frame is message k of what was received.
func (m *mmsgs) frame(k int) (at int64, out bool, data []byte) {
	h := &m.headers[k]
	out = m.names[k].Family == unix.AF_PACKET && m.names[k].Pkttype == unix.PACKET_OUTGOING
	return arrivalStamp(m.control[k][:h.hdr.Controllen]), out, m.data[k*m.snap : k*m.snap+min(int(h.len), m.snap)]
}
