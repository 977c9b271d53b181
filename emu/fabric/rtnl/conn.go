package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// Limits of one sendmsg. A socket takes wmem_default (212992) bytes, and
// answers wait in a receive buffer of about the same size, where each refusal
// may take 1.3 kB: so many messages that all of them may be refused.
const (
	maxChunkBytes = 128 << 10
	maxChunkMsgs  = 128
)

// Conn is a route netlink socket. It stays in the namespace in which it was
// opened, whichever thread uses it. It is safe for concurrent use.
type Conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
}

// buffers are shared by all Conns: a lab has thousands of them, and each page
// that is touched for the first time is dear.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }} // a dump's datagrams are no larger

// Dial opens a Conn in the current namespace of this thread. A caller that
// cares which one that is has locked its thread.
func Dial() (*Conn, error) {
	fd, err := direct.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	if err := direct.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink socket: ask for extended acknowledgements: %w", err)
	}
	return &Conn{fd: fd}, nil
}

// DialNS opens a Conn in the namespace that nsfd refers to.
func DialNS(nsfd int) (conn *Conn, err error) {
	done := make(chan struct{})
	go func() { // on a thread of its own: it dies with the goroutine if it cannot come back
		defer close(done)
		runtime.LockOSThread()
		var here netns.NsHandle
		if here, err = netns.Get(); err != nil {
			err = fmt.Errorf("open the current network namespace: %w", err)
			runtime.UnlockOSThread()
			return
		}
		defer here.Close()
		if err = netns.Set(netns.NsHandle(nsfd)); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
			runtime.UnlockOSThread()
			return
		}
		conn, err = Dial()
		if netns.Set(here) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return conn, err
}

// Close closes the socket.
func (c *Conn) Close() error {
	fd := c.Release()
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// Release gives the socket's descriptor to the caller, to be closed together
// with others, and closes the Conn; -1: it was closed before.
func (c *Conn) Release() (fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, c.fd = c.fd, -1
	return fd
}

// Namespace opens the network namespace that the Conn is in.
func (c *Conn) Namespace() (fd int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fd, err = direct.NetworkOf(c.fd); err != nil {
		return -1, fmt.Errorf("namespace of a netlink socket: %w", err)
	}
	return fd, nil
}

// Do sends b and returns the refusals as one error. A refusal does not keep
// the messages after it from being carried out.
func (c *Conn) Do(b *Batch) error {
	refused, err := c.Run(b)
	if err != nil {
		return err
	}
	return join(refused)
}

// DoDirect is Do by direct system calls (package direct): for one Batch of
// many that only make what is new, and so wait for nobody.
func (c *Conn) DoDirect(b *Batch) error {
	refused, err := c.run(b, direct.Write)
	if err != nil {
		return err
	}
	return join(refused)
}

// Run sends b and returns what the kernel refused (and the messages did not
// forgive), in order. err says that the conversation itself failed; nothing is
// known then about the messages.
func (c *Conn) Run(b *Batch) (refused []*Error, err error) { return c.run(b, write) }

func (c *Conn) run(b *Batch, write writer) (refused []*Error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil, errors.New("netlink socket is closed")
	}
	for from := 0; from < len(b.msgs); {
		to := b.chunk(from)
		r, err := c.exchange(b, from, to, write)
		refused = append(refused, r...)
		if err != nil {
			return refused, err
		}
		from = to
	}
	return refused, nil
}

// offset is where message i starts; one past the last: the end.
func (b *Batch) offset(i int) int {
	if i == len(b.msgs) {
		return len(b.buf)
	}
	return b.msgs[i].start
}

// chunk returns the end of the part that begins with message from and fits
// into one sendmsg, at the last cut in it if there is one.
func (b *Batch) chunk(from int) int {
	to := from + 1
	for to < len(b.msgs) && to-from < maxChunkMsgs && b.offset(to+1)-b.offset(from) <= maxChunkBytes {
		to++
	}
	if to == len(b.msgs) {
		return to
	}
	at, _ := slices.BinarySearch(b.cuts, to+1) // the first cut behind to
	if at > 0 && b.cuts[at-1] > from {
		return b.cuts[at-1]
	}
	return to
}

// exchange sends the messages [from, to) with one system call and collects
// the answers. The kernel carries them out in order within the call and always
// reports a failure; success is asked for of the last one only, so that as a
// rule one answer has to be read.
func (c *Conn) exchange(b *Batch, from, to int, write writer) (refused []*Error, err error) {
	first := c.seq + 1
	for i := from; i < to; i++ {
		c.seq++
		h := b.buf[b.msgs[i].start:]
		flags := binary.NativeEndian.Uint16(h[6:]) &^ unix.NLM_F_ACK
		if i == to-1 {
			flags |= unix.NLM_F_ACK
		}
		binary.NativeEndian.PutUint16(h[6:], flags)
		binary.NativeEndian.PutUint32(h[8:], c.seq)
		binary.NativeEndian.PutUint32(h[12:], 0)
	}
	if _, err := write(c.fd, b.buf[b.offset(from):b.offset(to)]); err != nil {
		return nil, fmt.Errorf("send %d netlink messages (first: %s): %w", to-from, b.msgs[from].describe(), err)
	}
	for {
		last := false
		err := c.receive(func(seq uint32, typ, flags uint16, payload []byte) {
			i := from + int(seq-first)
			if typ != unix.NLMSG_ERROR || i < from || i >= to {
				return // a late answer to an earlier exchange, or a notification
			}
			last = last || i == to-1
			errno, text := parseAck(flags, payload)
			if errno == 0 || b.msgs[i].opts.forgives(errno) {
				return
			}
			refused = append(refused, &Error{Index: i, Object: b.msgs[i].describe(), Errno: errno, Text: text})
		})
		if err != nil {
			return refused, fmt.Errorf("read netlink answers: %w", err)
		}
		if last {
			return refused, nil
		}
	}
}

// writer is how messages are sent. A socket without an address sends to the
// kernel.
type writer func(fd int, p []byte) (int, error)

func write(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// receive reads one datagram and hands out its messages.
func (c *Conn) receive(each func(seq uint32, typ, flags uint16, payload []byte)) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := c.recv(*buf)
	if err != nil {
		return err
	}
	return messages((*buf)[:n], each)
}

// messages hands out the messages of a datagram.
func messages(p []byte, each func(seq uint32, typ, flags uint16, payload []byte)) error {
	for len(p) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(p))
		if size < unix.SizeofNlMsghdr || size > len(p) {
			return fmt.Errorf("netlink message of %d bytes in %d: %w", size, len(p), unix.EPROTO)
		}
		each(binary.NativeEndian.Uint32(p[8:]), binary.NativeEndian.Uint16(p[4:]), binary.NativeEndian.Uint16(p[6:]), p[unix.SizeofNlMsghdr:size])
		size = (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		p = p[min(size, len(p)):]
	}
	return nil
}

// recv reads one datagram. As a rule it is there: the kernel answers before a
// send returns.
func (c *Conn) recv(p []byte) (int, error) {
	n, err := direct.Receive(c.fd, p)
	for err == unix.EAGAIN || err == unix.EINTR {
		n, err = unix.Read(c.fd, p)
	}
	return n, err
}
