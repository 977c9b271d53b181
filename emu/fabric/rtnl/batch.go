package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Batch is a list of messages, encoded as they are added. The zero value is
// ready; Reset keeps the memory for the next use (fresh pages are dear in a
// User Mode Linux).
type Batch struct {
	buf  []byte
	msgs []message
	cuts []int // messages before which a sendmsg had better end
}

// message is where one message starts in the buffer and what it is about.
type message struct {
	start int
	verb  string
	what  any // formatted only when it is refused
	opts  Option
}

// Option says which refusals of a message are not errors.
type Option uint8

const (
	// IgnoreExist: it is fine if the object is there already (EEXIST).
	IgnoreExist Option = 1 << iota
	// IgnoreMissing: it is fine if the object, or what it hangs on, is not
	// there (ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL).
	IgnoreMissing
)

func (o Option) forgives(errno unix.Errno) bool {
	switch errno {
	case unix.EEXIST:
		return o&IgnoreExist != 0
	case unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.EADDRNOTAVAIL:
		return o&IgnoreMissing != 0
	}
	return false
}

// Len is the number of messages.
func (b *Batch) Len() int { return len(b.msgs) }

// Reset empties the batch.
func (b *Batch) Reset() { b.buf, b.msgs, b.cuts = b.buf[:0], b.msgs[:0], b.cuts[:0] }

// Cut says that what was added since the last cut belongs together. A batch
// that is too long for one sendmsg is divided at a cut, where there is one: the
// kernel does nothing else between messages of one sendmsg.
func (b *Batch) Cut() { b.cuts = append(b.cuts, len(b.msgs)) }

// Add puts a message built with package nl into the batch. what names the
// object in errors.
func (b *Batch) Add(what string, req *nl.NetlinkRequest, opts ...Option) {
	b.msgs = append(b.msgs, message{start: len(b.buf), what: what, opts: union(opts)})
	b.buf = append(b.buf, req.Serialize()...)
	b.pad()
}

func union(opts []Option) (o Option) {
	for _, x := range opts {
		o |= x
	}
	return o
}

// begin starts a message; end closes it.
func (b *Batch) begin(verb string, what any, typ int, flags int, opts []Option) {
	b.msgs = append(b.msgs, message{start: len(b.buf), verb: verb, what: what, opts: union(opts)})
	var h [unix.SizeofNlMsghdr]byte
	binary.NativeEndian.PutUint16(h[4:], uint16(typ))
	binary.NativeEndian.PutUint16(h[6:], uint16(unix.NLM_F_REQUEST|flags))
	b.buf = append(b.buf, h[:]...)
}

func (b *Batch) end() {
	start := b.msgs[len(b.msgs)-1].start
	binary.NativeEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
	b.pad()
}

func (b *Batch) pad() {
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

// body appends a fixed header (ifinfomsg, rtmsg …) or other raw bytes.
func (b *Batch) body(raw []byte) {
	b.buf = append(b.buf, raw...)
	b.pad()
}

func (b *Batch) attr(typ int, data []byte) {
	n := unix.SizeofRtAttr + len(data)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(n))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(typ))
	b.buf = append(b.buf, data...)
	b.pad()
}

func (b *Batch) u8(typ int, v uint8) { b.attr(typ, []byte{v}) }

func (b *Batch) u32(typ int, v uint32) {
	b.attr(typ, binary.NativeEndian.AppendUint32(make([]byte, 0, 4), v))
}

func (b *Batch) u64(typ int, v uint64) {
	b.attr(typ, binary.NativeEndian.AppendUint64(make([]byte, 0, 8), v))
}

// str appends a zero-terminated string.
func (b *Batch) str(typ int, s string) { b.attr(typ, append([]byte(s), 0)) }

func (b *Batch) addr(typ int, a netip.Addr) { b.attr(typ, a.AsSlice()) }

// nest opens an attribute that holds attributes; close it with endNest.
func (b *Batch) nest(typ int) (at int) {
	at = len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16(b.buf[at+2:], uint16(typ))
	return at
}

func (b *Batch) endNest(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

// describe names the object of message i for an error.
func (m message) describe() string {
	if m.verb == "" {
		return fmt.Sprint(m.what)
	}
	return fmt.Sprintf("%s %v", m.verb, m.what)
}
