package fidelity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/traffic"
)

// A tap's ring (packet(7), PACKET_RX_RING with TPACKET_V2): a slot has the
// kernel's header, the link layer address and the first bytes of the frame.
const (
	tapSlot  = 256
	tapBlock = 64 << 10
	perBlock = tapBlock / tapSlot
	tapSLL   = 32 // offset of the sockaddr_ll in a slot: after the aligned header
)

// tap sees what passes an interface, in both directions. The kernel writes
// frames into memory that is shared, with the time at which each came off the
// link, so that to watch takes no system call and wakes nobody.
type tap struct {
	name string
	fd   int
	ring []byte
	next int // slot to be read
}

// frame is one that a tap saw.
type frame struct {
	At   int64  // CLOCK_REALTIME, ns
	Out  bool   // sent by the node
	Len  int    // bytes without the frame check sequence
	Data []byte // its beginning; valid until the callback returns
}

// openTap starts to watch; room is how many frames can wait to be read.
func openTap(enter traffic.Enter, node, ifname string, room int) (*tap, error) {
	t := &tap{name: node + ":" + ifname, fd: -1}
	err := enter(node, func() error { return t.open(ifname, room) })
	if err != nil {
		t.close()
		return nil, fmt.Errorf("tap on %s: %w", t.name, err)
	}
	return t, nil
}

func (t *tap) open(ifname string, room int) (err error) {
	// Without a protocol it sees nothing until it is bound.
	if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	ifr, err := unix.NewIfreq(ifname)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(t.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return os.NewSyscallError("find interface", err)
	}
	if err := unix.SetsockoptInt(t.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return os.NewSyscallError("setsockopt PACKET_VERSION", err)
	}
	// With a socket that wants time stamps the kernel takes them where a frame
	// leaves the link, not where the ring is written a softirq later.
	if err := unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_TIMESTAMPNS", err)
	}
	blocks := (room + perBlock - 1) / perBlock
	req := unix.TpacketReq{Block_size: tapBlock, Block_nr: uint32(blocks), Frame_size: tapSlot, Frame_nr: uint32(blocks * perBlock)}
	if err := unix.SetsockoptTpacketReq(t.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return os.NewSyscallError("setsockopt PACKET_RX_RING", err)
	}
	if t.ring, err = unix.Mmap(t.fd, 0, blocks*tapBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	return os.NewSyscallError("bind", unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(ifr.Uint32())}))
}

func (t *tap) close() {
	if t.ring != nil {
		_ = unix.Munmap(t.ring) // it was mapped
		t.ring = nil
	}
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
		t.fd = -1
	}
}

// closeTaps closes all of them.
func closeTaps(taps []*tap) {
	for _, t := range taps {
		t.close()
	}
}

// read hands every frame that has come to see.
func (t *tap) read(see func(f *frame)) {
	var f frame
	for {
		slot := t.ring[t.next*tapSlot:][:tapSlot]
		h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
		if atomic.LoadUint32(&h.Status)&unix.TP_STATUS_USER == 0 {
			return
		}
		end := min(int(h.Mac)+int(h.Snaplen), tapSlot)
		f = frame{
			At:   int64(h.Sec)*int64(time.Second) + int64(h.Nsec),
			Out:  slot[tapSLL+10] == unix.PACKET_OUTGOING,
			Len:  int(h.Len),
			Data: slot[min(int(h.Mac), end):end],
		}
		see(&f)
		atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
		if t.next++; t.next*tapSlot == len(t.ring) {
			t.next = 0
		}
	}
}

// forget drops what has come so far.
func (t *tap) forget() { t.read(func(*frame) {}) }

// drops is how many frames found no room since the last call.
func (t *tap) drops() (int, error) {
	st, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("tap on %s: read drops: %w", t.name, err)
	}
	return int(st.Drops), nil
}

// errLate is the cause of a wait that had not seen enough.
var errLate = errors.New("not all came")

// await reads taps until done says that all has been seen, or until nothing
// more can come. It looks now and then: to be woken for each frame would be a
// load that the frames would be measured under.
func await(ctx context.Context, long time.Duration, taps []*tap, see func(i int, f *frame), done func() bool) error {
	until := time.Now().Add(long)
	look := min(max(long/50, time.Millisecond), 50*time.Millisecond)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		late := !time.Now().Before(until) // looked at before the rings
		for i, t := range taps {
			t.read(func(f *frame) { see(i, f) })
		}
		switch {
		case done():
			return nil
		case late:
			return fmt.Errorf("waited %v: %w", long, errLate)
		}
		timer.Reset(look)
	}
}
